"""What every handler works with, and what an endpoint is."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
from collections.abc import Awaitable, Callable, Mapping

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from chancery.errors import PKIError
from chancery.ports import IssuerRecord, Operator
from chancery.ra.enrolment import RegistrationAuthority
from chancery.ra.requestor import Operation, Reach
from chancery.web.access import Gate

REMEMBER_ISSUERS_SECONDS = 5.0
REMEMBER_HEALTH_SECONDS = 2.0
API = "/api/v1"
JSON = "application/json"
NDJSON = "application/x-ndjson"


class Issuers:
    """The issuers, asked for at most every five seconds: they are needed for each chain and hardly ever change."""

    def __init__(self, ra: RegistrationAuthority) -> None:
        self._ra = ra
        self._records: Mapping[str, IssuerRecord] = {}
        self._until = float("-inf")
        self._asking = asyncio.Lock()

    async def by_name(self) -> Mapping[str, IssuerRecord]:
        if self._ra.clock.monotonic() >= self._until:
            # However many come when it is time: one asks, the others wait for what it is told.
            async with self._asking:
                await self._ask()
        return self._records

    async def _ask(self) -> None:
        now = self._ra.clock.monotonic()
        if now >= self._until:
            self._records = {record.name: record for record in await self._ra.directory.issuers()}
            self._until = now + REMEMBER_ISSUERS_SECONDS

    async def chain(self, name: str) -> list[bytes]:
        """
        Certificates (DER) from this issuer upwards, without the trust anchor.

        An issuer that is its own anchor, or that is not known, gives an empty chain.
        """
        return (await self.whole_chain(name))[:-1]

    async def whole_chain(self, name: str) -> list[bytes]:
        """Certificates (DER) from this issuer upwards, the last one known included; empty when it is not known."""
        records = await self.by_name()
        by_id = {record.issuer_id: record for record in records.values()}
        found: list[bytes] = []
        record = records.get(name)
        while record is not None and len(found) < len(by_id):
            found.append(record.certificate)
            record = None if record.parent_id is None else by_id.get(record.parent_id)
        return found


class Health:
    """Whether the directory answers, asked at most every two seconds however many ask: strangers may."""

    def __init__(self, ra: RegistrationAuthority) -> None:
        self._ra = ra
        self._lock = asyncio.Lock()
        self._until = float("-inf")
        self._failure: PKIError | None = None

    async def check(self) -> None:
        """Raise PKIError as the directory did when it was last asked."""
        async with self._lock:
            if self._ra.clock.monotonic() >= self._until:
                try:
                    await self._ra.directory.issuers()
                    self._failure = None
                except PKIError as error:
                    self._failure = error
                self._until = self._ra.clock.monotonic() + REMEMBER_HEALTH_SECONDS
        if self._failure is not None:
            raise PKIError(self._failure.type, self._failure.detail)


@dataclasses.dataclass(slots=True)
class Counter:
    """How many of something are under way, in all and by operator."""

    taken: int = 0
    by: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


@dataclasses.dataclass(frozen=True, slots=True)
class Service:
    """The registration core and what is kept beside it in this process; `description` is the OpenAPI document."""

    ra: RegistrationAuthority
    gate: Gate
    issuers: Issuers
    health: Health
    version: str
    description: bytes
    bulk: Counter = dataclasses.field(default_factory=Counter)


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One authenticated and authorised request."""

    service: Service
    operator: Operator
    reach: Reach
    request: Request

    @property
    def ra(self) -> RegistrationAuthority:
        return self.service.ra

    def path(self, name: str) -> str:
        """Return a path parameter."""
        return str(self.request.path_params[name])


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """
    One answer that an endpoint may give besides a problem: a structure as JSON, or bytes of a media type.

    Several structures: lines of JSON, each one of them. `also`: media types in which the same is given on request.
    """

    status: int
    description: str
    body: type[msgspec.Struct] | tuple[type[msgspec.Struct], ...] | str | None
    also: tuple[str, ...] = ()


Handler = Callable[[Call], Awaitable[Response]]
PublicHandler = Callable[[Service], Awaitable[Response]]


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """
    One method of one path. `operation` None: every operator may.

    `public` endpoints need no certificate; they have another kind of handler. `raw_body` is a media type that is
    taken in place of `body` as JSON. `lines`: the body is such structures, a line of JSON each.
    """

    method: str
    path: str
    summary: str
    answers: tuple[Answer, ...]
    operation: Operation | None = None
    handler: Handler | None = None
    public: PublicHandler | None = None
    body: type[msgspec.Struct] | None = None
    raw_body: str | None = None
    lines: bool = False
    query: type[msgspec.Struct] | None = None
    headers: tuple[tuple[str, str], ...] = ()


def json(value: msgspec.Struct, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a structure as JSON."""
    return Response(msgspec.json.encode(value), status, headers, media_type=JSON)


def download(
    content: bytes, media_type: str, name: str, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a file."""
    disposition = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(content, status, {**disposition, **(headers or {})}, media_type=media_type)
