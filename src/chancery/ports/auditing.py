"""What the auditor of certificates reads: rows as they stand, whoever wrote them, and the port that gives them."""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from chancery.ports.crls import CRLRecord
from chancery.ports.hierarchy import IssuerRecord
from chancery.ports.values import (
    CertificateRecord,
    EnrolmentRequest,
    EventKind,
    Intent,
    ProfileRecord,
    ProfileSwitch,
)

# States, reasons and roles are kept as stored: a row that was edited may hold any.


@dataclasses.dataclass(frozen=True, slots=True)
class Scope:
    """What to look at: what was recorded since then, and of this issuer; None: everything."""

    since: datetime.datetime | None = None
    issuer_id: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class JournalEntry:
    """An event as stored. Ids are drawn in order: of two acts of which one saw the other, it has the higher."""

    event_id: int
    body: str


@dataclasses.dataclass(frozen=True, slots=True)
class AuditedRequest:
    request: EnrolmentRequest
    state: str


@dataclasses.dataclass(frozen=True, slots=True)
class AuditedStatus:
    state: str
    not_after: datetime.datetime
    revoked_at: datetime.datetime | None
    reason: int | None
    invalidity_date: datetime.datetime | None
    changed_at: datetime.datetime
    released_at: datetime.datetime | None = None
    shard: int = 0
    kept_until: datetime.datetime | None = None

    @property
    def listed_until(self) -> datetime.datetime:
        """As `CertificateStatus.listed_until`."""
        return self.kept_until or self.not_after


@dataclasses.dataclass(frozen=True, slots=True)
class AuditedRevocation:
    revocation_id: int
    issuer_id: int
    serial: bytes
    reason: int
    invalidity_date: datetime.datetime | None
    requestor: str
    state: str


@dataclasses.dataclass(frozen=True, slots=True)
class AuditedSerial:
    """
    All that is stored about one serial number; None where there is no row.

    `worker` is the intent's. `entries` are the events about the serial and about its request's transaction,
    by id; `revocations` the requests that its events of revocation name; `blocked_at` is when the
    certificate's key was blocked (R5), None while it is not.
    """

    issuer_id: int
    serial: bytes
    certificate_id: int | None
    certificate: CertificateRecord | None
    request: AuditedRequest | None
    intent: Intent | None
    worker: str | None
    status: AuditedStatus | None
    entries: tuple[JournalEntry, ...]
    revocations: tuple[AuditedRevocation, ...]
    blocked_at: datetime.datetime | None


@dataclasses.dataclass(frozen=True, slots=True)
class AuditedFurther:
    """A further certificate of an issuer: `kind` is renewal or cross."""

    kind: str
    certificate: bytes
    parent_id: int | None
    added_at: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class AuditedIssuer:
    """
    An issuer with its first certificate, its further ones and the acts upon it (act, at, actor), oldest first.

    `taken_over` counts what it had revoked elsewhere before.
    """

    record: IssuerRecord
    subject: str
    spki_sha256: bytes
    not_before: datetime.datetime
    not_after: datetime.datetime
    added_at: datetime.datetime
    further: tuple[AuditedFurther, ...] = ()
    acts: tuple[tuple[str, datetime.datetime, str], ...] = ()
    taken_over: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class AuditedOperator:
    """`certificate` tells whether a certificate with this fingerprint is stored."""

    fingerprint: bytes
    name: str
    roles: tuple[str, ...]
    profiles: tuple[str, ...] | None
    added_at: datetime.datetime
    removed_at: datetime.datetime | None
    certificate: bool


@dataclasses.dataclass(frozen=True, slots=True)
class AuditedCRL:
    """
    `before` is the thisUpdate of the complete CRL of its shard before it, None for the first.

    `newest` of its scope; a delta only while its base is the newest, too. A record with a `tail` is of a large CRL
    whose entries are not stored.
    """

    record: CRLRecord
    before: datetime.datetime | None
    newest: bool


@dataclasses.dataclass(frozen=True, slots=True)
class AuditedRevoked:
    """
    A serial whose status is revoked, or good again after a suspension.

    `covered` tells whether the CRL in question was made from that status, `based` whether its base was.
    """

    serial: bytes
    status: AuditedStatus
    covered: bool
    based: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class AuditedJob:
    """
    A job of mass revocation with its approvals (operator, digest, when), and its list as it is stored now.

    `listed` and `listed_digest` are counted and hashed again; `unrevoked` are settled as done, and not revoked.
    `retired`: its time's events may have been taken out of the database.
    """

    job_id: int
    requestor: str
    reason: int
    selection: str
    size: int
    digest: bytes
    rehearsal: bool
    state: str
    retired: bool
    waiting: int
    done: int
    refused: int
    unrevoked: int
    listed: int
    listed_digest: bytes
    approvals: tuple[tuple[str, bytes, datetime.datetime], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class AuditedReport:
    """
    A problem report with what was done about it (act, words, operator, when), oldest first.

    `evidence_sha256` is over its evidence in UTF-8.
    """

    report_id: int
    ground: str
    issuer: str | None
    serial: bytes | None
    spki_sha256: bytes | None
    reporter: str
    proven: bool
    recorded_by: str
    revoke_by: datetime.datetime
    retired: bool
    evidence_sha256: bytes
    received_at: datetime.datetime
    answer_by: datetime.datetime
    acts: tuple[tuple[str, str, str, datetime.datetime], ...] = ()


class StrayKind(enum.Enum):
    """A row or event that stands without the one it belongs to."""

    EVENT = "event"
    RECEIVED = "received"
    STATUS = "status"
    REQUEST = "request"
    REVOCATION = "revocation"
    BLOCKED = "blocked"


@dataclasses.dataclass(frozen=True, slots=True)
class Stray:
    """
    EVENT: certificate.* (`detail`) about a serial without an intent. RECEIVED: request.received without a
    request. STATUS: without an intent.
    REQUEST: done without an intent. REVOCATION: done without its event (certificate.revoked, …).
    BLOCKED: key.blocked without the key being blocked.
    """

    kind: StrayKind
    subject: str
    detail: str


class AuditReader(Protocol):
    """
    Everything an installation stores, as of one moment. Streams are read as they are consumed, in batches.

    Raises PKIError(SYSTEM_UNAVAIL) when the database is away.
    """

    def issuers(self) -> list[AuditedIssuer]: ...

    def profiles(self) -> list[ProfileRecord]: ...

    def profile_switches(self) -> list[ProfileSwitch]:
        """Return every switch of a profile, in the order in which they were made."""

    def operators(self) -> list[AuditedOperator]: ...

    def jobs(self) -> list[AuditedJob]:
        """Return every job of mass revocation, by id."""

    def reports(self) -> list[AuditedReport]:
        """Return every problem report, by id."""

    def count(self, scope: Scope) -> int:
        """Return how many certificates `certificates` will give."""

    def certificates(self, scope: Scope) -> Iterator[Sequence[AuditedSerial]]:
        """Give every stored certificate, by certificate_id, in batches."""

    def unfinished(self, scope: Scope) -> Iterator[Sequence[AuditedSerial]]:
        """Give every intent without a certificate, by issuer and serial, in batches."""

    def strays(self, scope: Scope) -> Iterator[Stray]:
        """Give what stands without what it belongs to, by kind and subject; `since` leaves nothing out."""

    def entries(self, kinds: Sequence[EventKind]) -> list[JournalEntry]:
        """Return all events of these kinds, by id; of kinds that are few."""

    def crls(self, issuer_id: int, since: datetime.datetime | None) -> Iterator[AuditedCRL]:
        """Give the issuer's CRLs, by number, one at a time."""

    def crl_numbers(self) -> Mapping[int, int]:
        """Return how many CRLNumbers each issuer has reserved."""

    def crl_shards(self, issuer_id: int) -> Mapping[int, str]:
        """Return the URL of each shard of this issuer."""

    def revoked(self, crl: CRLRecord) -> Iterator[AuditedRevoked]:
        """Give every serial of this CRL's shard that is revoked, or was released, by serial."""
