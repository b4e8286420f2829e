"""REST: CRLs by issuer and scope: how they stand, their bytes, having one published."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import Annotated

from msgspec import Meta
from starlette.responses import Response

from chancery.errors import ErrorType, PKIError
from chancery.ports import CRLRecord, CRLScope
from chancery.ra import enrolment
from chancery.web.bodies import read_query
from chancery.web.service import API, Call, download, json
from chancery.web.views import Asked, CRLAsked, CRLView, NoQuery, View

PKIX_CRL = "application/pkix-crl"
_DAY = datetime.timedelta(days=1)
_Shard = Annotated[int, Meta(ge=0, le=9999)]


class CRLWanted(Asked, frozen=True, kw_only=True):
    """Which CRL: `shard` 0 is the complete one, and without it every shard is asked for; `delta` of it."""

    shard: _Shard | None = None
    delta: bool = False


class CRLChoice(Asked, frozen=True, kw_only=True):
    """Which CRL: `shard` 0 is the complete one; `delta` of it."""

    shard: _Shard = 0
    delta: bool = False


class ScopedCRL(CRLView, frozen=True, kw_only=True):
    """
    The current CRL of a scope (RFC 5280 5.2.4, 5.2.5); shard 0 is the complete one, `base` a delta's.

    `entries` and `size` (octets) left out: of an earlier release. `warning`: what is wrong with its age.
    """

    issuer: str
    shard: int
    delta: bool
    base: int | None = None
    entries: int | None = None
    size: int | None = None
    warning: str | None = None


class CRLList(View, frozen=True, kw_only=True):
    """The current CRL of each scope of each issuer, shard by shard, a delta last."""

    crls: list[ScopedCRL]


async def list_crls(call: Call) -> Response:
    """The current CRL of each scope of each issuer."""
    read_query(call.request, NoQuery)
    names = {record.issuer_id: record.name for record in await call.ra.directory.issuers()}
    now = call.ra.clock.now()
    return json(CRLList(crls=[_view(one, names, now) for one in await call.ra.directory.crls()]))


async def fetch_crl(call: Call) -> Response:
    """A current CRL of the issuer in DER (RFC 5280 5)."""
    choice = read_query(call.request, CRLChoice)
    record = await enrolment.find_issuer(call.ra, call.path("name"))
    scope = CRLScope(choice.shard, delta=choice.delta)
    crl = await call.ra.directory.latest_crl(record.name, scope)
    if crl is None:
        raise PKIError(ErrorType.BAD_CERT_ID, f"the issuer {record.name} has no CRL yet: {scope}")
    return download(crl.der, PKIX_CRL, f"{record.name}.crl")


async def publish_crl(call: Call) -> Response:
    """Ask the worker for fresh CRLs; they show as higher numbers of the issuer's CRLs."""
    wanted = read_query(call.request, CRLWanted)
    name = call.path("name")
    asked_at = await enrolment.ask_crl(call.ra, call.operator, name, shard=wanted.shard, delta=wanted.delta)
    return json(CRLAsked(issuer=name, asked_at=asked_at), 202, {"location": f"{API}/issuers/{name}"})


def age_warnings(crls: Iterable[CRLRecord], names: Mapping[int, str], at: datetime.datetime) -> list[str]:
    """Return what is wrong with the age of these CRLs, a line each (R14); `names` by issuer_id."""
    found = [(one, _late(one, at)) for one in crls]
    return [f"CRL {one.number} of {names[one.issuer_id]} ({one.scope}) {late}" for one, late in found if late]


def _late(crl: CRLRecord, at: datetime.datetime) -> str | None:
    """Say what is wrong with a CRL's age. The worker makes the next one a day, or half the lifetime, before."""
    until = f"{crl.next_update:%Y-%m-%d %H:%M} UTC"
    if crl.next_update < at:
        return f"is out of date since {until}"
    if crl.next_update - at < min(_DAY, (crl.next_update - crl.this_update) / 2) / 4:
        return f"ends at {until}, and the next one is late"
    return None


def _view(crl: CRLRecord, names: Mapping[int, str], at: datetime.datetime) -> ScopedCRL:
    return ScopedCRL(
        issuer=names[crl.issuer_id],
        shard=crl.scope.shard,
        delta=crl.scope.delta,
        number=crl.number,
        base=crl.base,
        this_update=crl.this_update,
        next_update=crl.next_update,
        overdue=crl.next_update < at,
        entries=crl.entries,
        size=crl.size,
        warning=_late(crl, at),
    )
