"""REST: revoking many at once, in jobs that are shown, rehearsed, confirmed and approved."""

from __future__ import annotations

import datetime
import json as encoder
import re
from typing import Annotated, Any

from msgspec import Meta
from starlette.responses import Response

from chancery.errors import ErrorType, PKIError
from chancery.pkix.name import canonical
from chancery.ports.mass import Job, JobState, Selection
from chancery.ra import mass
from chancery.web.bodies import read_json, read_query
from chancery.web.keys import key_sha256
from chancery.web.service import API, Call, json
from chancery.web.views import (
    Asked,
    CertificateView,
    KeyText,
    Moment,
    NoQuery,
    Reason,
    ShortName,
    View,
    certificate_view,
)

_Long = Annotated[str, Meta(max_length=131072)]


class MassAsked(Asked, frozen=True, kw_only=True):
    """
    Which certificates (every given field must match), why, and what to do.

    A key is given as `spki_sha256`, or by a `certificate`, `csr` or `public_key` (PEM) that has it. Without
    `confirmation` it is only shown what there is; with the one that was shown, exactly that is revoked.
    `simulate`: a rehearsal that says what it would cost.
    """

    spki_sha256: KeyText | None = None
    certificate: _Long | None = None
    csr: _Long | None = None
    public_key: _Long | None = None
    profile: ShortName | None = None
    issuer: ShortName | None = None
    subject: Annotated[str, Meta(min_length=1, max_length=1000)] | None = None
    name: Annotated[str, Meta(max_length=1000)] | None = None
    requestor: Annotated[str, Meta(max_length=200)] | None = None
    issued_since: Moment | None = None
    issued_before: Moment | None = None
    reason: Reason
    invalidity_date: Moment | None = None
    confirmation: Annotated[str, Meta(max_length=200)] | None = None
    simulate: bool = False


class ApprovalAsked(Asked, frozen=True, kw_only=True):
    """`digest` of the list that is approved, as its job shows it."""

    digest: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class PartView(View, frozen=True, kw_only=True):
    """How many of one issuer and profile."""

    issuer: str
    profile: str
    count: int


class ChosenView(View, frozen=True, kw_only=True):
    """
    What would be revoked; sent again with `confirmation`, exactly this is. `sample`: the oldest of them.

    `expired` others match and stay as they are, because they have expired.
    """

    count: int
    expired: int = 0
    parts: list[PartView]
    sample: list[CertificateView]
    confirmation: str


class JobView(View, frozen=True, kw_only=True):
    """
    A mass revocation: `unapproved` waits for a second person, `running` for the worker; with its progress.

    A rehearsal ends as `done` with `result`.
    """

    job_id: int
    state: JobState
    requestor: str
    reason: Reason
    selection: dict[str, str]
    size: int
    digest: str
    asked_at: datetime.datetime
    rehearsal: bool = False
    waiting: int = 0
    done: int = 0
    refused: int = 0
    detail: str | None = None
    result: dict[str, Any] | None = None


class JobList(View, frozen=True, kw_only=True):
    """The newest mass revocations."""

    jobs: list[JobView]


def _job_view(job: Job) -> JobView:
    result = None
    if job.rehearsal and job.state is JobState.DONE and job.detail is not None:
        result = encoder.loads(job.detail)
    return JobView(
        job_id=job.job_id,
        state=job.state,
        requestor=job.requestor,
        reason=Reason[job.reason.name],
        selection=encoder.loads(job.selection),
        size=job.size,
        digest=job.digest.hex(),
        asked_at=job.received_at,
        rehearsal=job.rehearsal,
        waiting=job.waiting,
        done=job.done,
        refused=job.refused,
        detail=None if result is not None else job.detail,
        result=result,
    )


async def revoke_many(call: Call) -> Response:
    """Show what would be revoked (200), or have it rehearsed or revoked (202)."""
    read_query(call.request, NoQuery)
    asked = await read_json(call.request, MassAsked)
    wish = mass.MassWish(_selection(asked), asked.reason.code(), asked.invalidity_date)
    if asked.simulate:
        return _accepted(await mass.rehearse(call.ra, call.operator, wish))
    if asked.confirmation is not None:
        job = await mass.revoke_many(call.ra, call.operator, wish, asked.confirmation)
        # Some of them may be operators'.
        call.service.gate.forget()
        return _accepted(job)
    chosen = await mass.look(call.ra, call.operator, wish)
    return json(
        ChosenView(
            count=chosen.size,
            expired=chosen.expired,
            parts=[PartView(issuer=issuer, profile=name, count=count) for issuer, name, count in chosen.parts],
            sample=[certificate_view(one, whole=False) for one in chosen.sample],
            confirmation=mass.confirmation(chosen),
        )
    )


def _selection(asked: MassAsked) -> Selection:
    keys = (asked.spki_sha256, asked.certificate, asked.csr, asked.public_key)
    return Selection(
        spki_sha256=None if not any(keys) else key_sha256(*keys),
        profile=asked.profile,
        issuer=asked.issuer,
        subject=asked.subject,
        name=None if asked.name is None else canonical(asked.name),
        requestor=asked.requestor,
        issued_since=asked.issued_since,
        issued_before=asked.issued_before,
    )


def _accepted(job: Job) -> Response:
    return json(_job_view(job), 202, {"location": f"{API}/revocations/{job.job_id}", "retry-after": "1"})


def _number(call: Call) -> int:
    text = call.path("job_id")
    if not re.fullmatch("[0-9]{1,19}", text):
        raise PKIError(ErrorType.BAD_CERT_ID, "a mass revocation has a number")
    return int(text)


async def list_jobs(call: Call) -> Response:
    """The newest mass revocations and rehearsals."""
    read_query(call.request, NoQuery)
    return json(JobList(jobs=[_job_view(one) for one in await mass.list_jobs(call.ra, call.operator)]))


async def see_job(call: Call) -> Response:
    """One mass revocation with its progress."""
    read_query(call.request, NoQuery)
    return json(_job_view(await mass.find_job(call.ra, call.operator, _number(call))))


async def approve_job(call: Call) -> Response:
    """Give the second person's word."""
    read_query(call.request, NoQuery)
    asked = await read_json(call.request, ApprovalAsked)
    job = await mass.approve(call.ra, call.operator, _number(call), bytes.fromhex(asked.digest))
    return _accepted(job)
