"""Clients of the timestamping authority, added and revoked by operators."""

from __future__ import annotations

import dataclasses
import ipaddress
import re

from chancery.errors import ErrorType, PKIError
from chancery.ports import EventKind, Operator
from chancery.ports.timestamps import ClientKind, TimestampClient
from chancery.ra.enrolment import RegistrationAuthority
from chancery.ra.requestor import Operation, authorise

MAX_NETWORKS = 64
MAX_POLICIES = 64
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_OID = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")


@dataclasses.dataclass(frozen=True, slots=True)
class ClientWish:
    """A client to add; the fields are those of `ports.timestamps.TimestampClient`."""

    name: str
    kind: ClientKind
    credential: bytes | None = None
    networks: tuple[str, ...] = ()
    policies: tuple[str, ...] | None = None
    per_second: float | None = None
    burst: int = 20
    per_day: int | None = None
    per_month: int | None = None


async def add_client(ra: RegistrationAuthority, actor: Operator, wish: ClientWish) -> TimestampClient:
    """
    Add a client and return it. Of a key only its SHA-256 gets here.

    Raises PKIError: NOT_AUTHORIZED; BAD_REQUEST for what cannot be, or a name or credential that was given before.
    """
    authorise(actor, Operation.ADD_TIMESTAMP_CLIENT)
    _check(wish)
    values = {field.name: getattr(wish, field.name) for field in dataclasses.fields(wish)}
    client = TimestampClient(
        **(values | {"networks": _networks(wish.networks)}), added_at=ra.clock.now(), added_by=actor.name
    )
    event = ra.event(
        EventKind.TSA_CLIENT_ADDED,
        actor.name,
        f"tsa-client:{client.name}",
        {
            "kind": client.kind.value,
            "credential_sha256": None if client.credential is None else client.credential.hex(),
            "networks": list(client.networks),
            "policies": None if client.policies is None else list(client.policies),
            "per_second": None if client.per_second is None else f"{client.per_second:g}",
            "burst": client.burst,
            "per_day": client.per_day,
            "per_month": client.per_month,
        },
    )
    await ra.timestamp_clients.add(client, [event])
    return client


async def revoke_client(ra: RegistrationAuthority, actor: Operator, name: str) -> None:
    """Revoke a client for good. Raises PKIError: NOT_AUTHORIZED, BAD_CERT_ID when there is none to revoke."""
    authorise(actor, Operation.REVOKE_TIMESTAMP_CLIENT)
    event = ra.event(EventKind.TSA_CLIENT_REVOKED, actor.name, f"tsa-client:{name}", {})
    await ra.timestamp_clients.revoke(name, event.at, [event])


def _check(wish: ClientWish) -> None:
    if not _NAME.fullmatch(wish.name):
        raise _bad("a timestamp client's name is 1 to 63 of a-z, 0-9 and -, and does not begin with -")
    if (wish.kind is ClientKind.NETWORK) != (wish.credential is None):
        raise _bad("an API key or a certificate has a credential (SHA-256), a network none")
    if wish.credential is not None and len(wish.credential) != 32:
        raise _bad("the credential is SHA-256 of the key or the certificate")
    if wish.kind is ClientKind.NETWORK and not wish.networks:
        raise _bad("a network client is known by at least one network")
    if wish.policies is not None and not (
        0 < len(wish.policies) <= MAX_POLICIES and all(_OID.fullmatch(one) for one in wish.policies)
    ):
        raise _bad(f"policies are 1 to {MAX_POLICIES} OIDs, or all")
    if wish.per_second is not None and not 0 < wish.per_second <= 1e6:
        raise _bad("a rate is more than 0 and at most a million a second")
    if not 1 <= wish.burst <= 100_000:
        raise _bad("a burst is 1 to 100000")
    if any(one is not None and not 0 < one < 1 << 62 for one in (wish.per_day, wish.per_month)):
        raise _bad("a quota is at least 1")


def _networks(given: tuple[str, ...]) -> tuple[str, ...]:
    if len(given) > MAX_NETWORKS:
        raise _bad(f"at most {MAX_NETWORKS} networks")
    try:
        return tuple(str(ipaddress.ip_network(one)) for one in given)
    except ValueError as error:
        raise _bad(f"not a network in CIDR: {error}") from None


def _bad(detail: str) -> PKIError:
    return PKIError(ErrorType.BAD_REQUEST, detail)
