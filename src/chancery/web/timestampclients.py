"""REST: clients of the timestamping authority."""

from __future__ import annotations

import datetime
import hashlib
from typing import Annotated

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Meta
from starlette.responses import Response

from chancery.errors import ErrorType, PKIError
from chancery.ports.timestamps import ClientKind, TimestampClient
from chancery.ra import timestampclients
from chancery.web.bodies import read_json, read_query
from chancery.web.service import API, Call, json
from chancery.web.views import Asked, KeyText, NoQuery, View

OIDText = Annotated[str, Meta(max_length=200)]
Quota = Annotated[int, Meta(ge=1, le=(1 << 62) - 1)]


class ClientAsked(Asked, frozen=True, kw_only=True):
    """
    A client of the timestamping authority: by `key_sha256` (of its API key), `certificate` (PEM), or `networks`.

    With a key or a certificate, `networks` (CIDR) limit where it may come from. `policies` left out means all; the
    first is its default. `per_second` with `burst` is a rate, `per_day` and `per_month` are quotas in UTC.
    """

    name: Annotated[str, Meta(min_length=1, max_length=63)]
    key_sha256: KeyText | None = None
    certificate: Annotated[str, Meta(max_length=131072)] | None = None
    networks: Annotated[tuple[Annotated[str, Meta(max_length=50)], ...], Meta(max_length=64)] = ()
    policies: Annotated[list[OIDText], Meta(min_length=1, max_length=64)] | None = None
    per_second: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    burst: Annotated[int, Meta(ge=1, le=100_000)] = 20
    per_day: Quota | None = None
    per_month: Quota | None = None


class ClientView(View, frozen=True, kw_only=True):
    """A client of the timestamping authority; a bound that is left out is none."""

    name: str
    kind: ClientKind
    credential_sha256: str | None = None
    networks: tuple[str, ...] = ()
    policies: list[str] | None = None
    per_second: float | None = None
    burst: int
    per_day: int | None = None
    per_month: int | None = None
    added_at: datetime.datetime
    added_by: str
    revoked_at: datetime.datetime | None = None


class ClientList(View, frozen=True, kw_only=True):
    """Every client there ever was, by name."""

    clients: list[ClientView]


async def list_clients(call: Call) -> Response:
    """Every client, revoked ones included."""
    read_query(call.request, NoQuery)
    return json(ClientList(clients=[_view(one) for one in await call.ra.timestamp_clients.clients()]))


async def add_client(call: Call) -> Response:
    """Add a client; the authority knows it within seconds."""
    read_query(call.request, NoQuery)
    asked = await read_json(call.request, ClientAsked)
    kind, credential = _credential(asked)
    wish = timestampclients.ClientWish(
        asked.name,
        kind,
        credential,
        asked.networks,
        None if asked.policies is None else tuple(asked.policies),
        asked.per_second,
        asked.burst,
        asked.per_day,
        asked.per_month,
    )
    added = await timestampclients.add_client(call.ra, call.operator, wish)
    return json(_view(added), 201, {"location": f"{API}/timestamp-clients"})


async def revoke_client(call: Call) -> Response:
    """Revoke a client for good; the authority knows within seconds."""
    read_query(call.request, NoQuery)
    await timestampclients.revoke_client(call.ra, call.operator, call.path("name")[:200])
    return Response(status_code=204)


def _credential(asked: ClientAsked) -> tuple[ClientKind, bytes | None]:
    if asked.key_sha256 is not None and asked.certificate is not None:
        raise PKIError(ErrorType.BAD_REQUEST, "give key_sha256 or certificate, not both")
    if asked.key_sha256 is not None:
        return ClientKind.API_KEY, bytes.fromhex(asked.key_sha256)
    if asked.certificate is None:
        return ClientKind.NETWORK, None
    try:
        certificate = x509.load_pem_x509_certificate(asked.certificate.encode())
    except ValueError:
        raise PKIError(ErrorType.BAD_DATA_FORMAT, "not one certificate in PEM") from None
    return ClientKind.CERTIFICATE, hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()


def _view(client: TimestampClient) -> ClientView:
    return ClientView(
        name=client.name,
        kind=client.kind,
        credential_sha256=None if client.credential is None else client.credential.hex(),
        networks=client.networks,
        policies=None if client.policies is None else list(client.policies),
        per_second=client.per_second,
        burst=client.burst,
        per_day=client.per_day,
        per_month=client.per_month,
        added_at=client.added_at,
        added_by=client.added_by,
        revoked_at=client.revoked_at,
    )
