"""Clients of the timestamping authority: who may ask, for which policies, how much; and how much was asked."""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Sequence
from typing import Protocol

from chancery.ports.hierarchy import IssuerRecord
from chancery.ports.values import Event, TokenRecord


class ClientKind(enum.Enum):
    """By what a client is known: a secret key, the certificate of its TLS connection, or its address."""

    API_KEY = "api-key"
    CERTIFICATE = "certificate"
    NETWORK = "network"


class Span(enum.Enum):
    """What a quota is counted over, in UTC."""

    DAY = "day"
    MONTH = "month"

    def began(self, at: datetime.datetime) -> datetime.date:
        """Return the first day of the span that `at` lies in."""
        day = at.astimezone(datetime.UTC).date()
        return day if self is Span.DAY else day.replace(day=1)

    def ends(self, began: datetime.date) -> datetime.datetime:
        """Return when the span that began on this day is over."""
        following = began + datetime.timedelta(days=1 if self is Span.DAY else 32)
        if self is Span.MONTH:
            following = following.replace(day=1)
        return datetime.datetime.combine(following, datetime.time(), datetime.UTC)


@dataclasses.dataclass(frozen=True, slots=True)
class TimestampClient:
    """
    One client, as it was added; its name is never given again.

    `credential` is SHA-256 of the API key or of the certificate (DER), None for a network. `networks` (CIDR) are
    what a network client is known by, and where the others may come from (none: anywhere). `policies` are the TSA
    policy OIDs it may ask for, its default first; None: all. `per_second` with `burst` is a rate for each process
    of the authority, `per_day` and `per_month` are quotas over all of them; None: no bound.
    """

    name: str
    kind: ClientKind
    credential: bytes | None
    networks: tuple[str, ...]
    policies: tuple[str, ...] | None
    per_second: float | None
    burst: int
    per_day: int | None
    per_month: int | None
    added_at: datetime.datetime
    added_by: str
    revoked_at: datetime.datetime | None = None

    def quotas(self) -> dict[Span, int]:
        """Return its quotas."""
        both = {Span.DAY: self.per_day, Span.MONTH: self.per_month}
        return {span: limit for span, limit in both.items() if limit is not None}


class TimestampClients(Protocol):
    """The registration side's: clients come and go with their events, in one transaction each. Coroutines."""

    async def add(self, client: TimestampClient, events: Sequence[Event]) -> None:
        """Store a client. PKIError(BAD_REQUEST) when its name or credential was ever given."""

    async def revoke(self, name: str, at: datetime.datetime, events: Sequence[Event]) -> None:
        """Revoke a client for good. PKIError(BAD_CERT_ID) when there is none that is not revoked."""

    async def clients(self) -> list[TimestampClient]:
        """Return every client there ever was, by name."""


class TimestampUsage(Protocol):
    """The authority's side: who may ask now, and quotas that hold over all processes and restarts. Coroutines."""

    async def clients(self) -> list[TimestampClient]:
        """
        Return the clients that are not revoked.

        Without those known by a certificate of this installation that is revoked. PKIError(SYSTEM_UNAVAIL).
        """

    async def reserve(self, client: str, span: Span, began: datetime.date, wanted: int, limit: int) -> int:
        """
        Count up to `wanted` tokens against a quota of `limit`; return how many, 0 when it is used up.

        Durable on return: what a process reserved and did not use when it died counts as used.
        """

    async def give_back(self, client: str, span: Span, began: datetime.date, unused: int) -> None:
        """Take tokens that were reserved and not granted off the count again."""


@dataclasses.dataclass(frozen=True, slots=True)
class TokenQuery:
    """Which recorded tokens: those that fit all that is given, the newest first, at most `limit`."""

    serial: int | None = None
    imprint: bytes | None = None
    client: str | None = None
    since: datetime.datetime | None = None
    before: datetime.datetime | None = None
    limit: int = 100


@dataclasses.dataclass(frozen=True, slots=True)
class BatchEvent:
    """The event that covers a batch: its body, and its leaf in the journal's tree (None: not yet)."""

    body: str
    leaf_index: int | None


class TokenReader(Protocol):
    """What an auditor reads of the timestamping authority's records. PKIError(SYSTEM_UNAVAIL) when it cannot."""

    def find(self, query: TokenQuery) -> list[TokenRecord]: ...

    def batches(self, lowest: str, highest: str, limit: int) -> list[BatchEvent]:
        """Return the events of batches with a subject in this range, from the highest down."""

    def rows(self, first: int, last: int, since: datetime.datetime, until: datetime.datetime) -> list[TokenRecord]:
        """Return the tokens with serials and genTimes in these ranges, by serial."""

    def certificates(self, serial: bytes) -> list[bytes]:
        """Return the certificates (DER) of any issuer with this serial number."""

    def issuers(self) -> list[IssuerRecord]: ...

    def crls(self, issuer_id: int, at: datetime.datetime) -> list[bytes]:
        """Return the complete CRLs (DER), of each shard, that were the newest at this time, and are now."""
