"""Mass revocation: what is chosen and shown, the job that is confirmed, and the two stores that keep it."""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Sequence
from typing import Protocol

from chancery.ports.values import (
    CertificateStatus,
    Event,
    RevocationReason,
    RevocationRequest,
    StoredCertificate,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """
    Which certificates: every given field must match; those that are good or suspended, and not expired.

    `subject` is a prefix (RFC 4514 text), `name` one whole subjectAltName. Only certificates up to `up_to`
    (certificate_id) that had not expired `at` that time are meant, so what is issued later is not, and without
    both nothing is.
    """

    at: datetime.datetime | None = None
    up_to: int = 0
    spki_sha256: bytes | None = None
    profile: str | None = None
    issuer: str | None = None
    subject: str | None = None
    name: str | None = None
    requestor: str | None = None
    issued_since: datetime.datetime | None = None
    issued_before: datetime.datetime | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Chosen:
    """
    What a selection finds: how many, how many of each (issuer, profile), and the oldest of them as a sample.

    `digest` is SHA-256 over the sorted list of issuers and serials: another list has another one. `expired`: how
    many match, are good or suspended, and are left out because they have expired.
    """

    selection: Selection
    size: int
    digest: bytes
    parts: tuple[tuple[str, str, int], ...]
    sample: tuple[StoredCertificate, ...]
    expired: int = 0


class JobState(enum.Enum):
    """WAITING: for the worker; UNAPPROVED: for a second person; DONE: also a rehearsal, whose detail says what."""

    WAITING = "waiting"
    UNAPPROVED = "unapproved"
    RUNNING = "running"
    DONE = "done"
    REFUSED = "refused"


@dataclasses.dataclass(frozen=True, slots=True)
class NewJob:
    """A list that was confirmed; `selection` in words for people."""

    requestor: str
    reason: RevocationReason
    invalidity_date: datetime.datetime | None
    selection: str
    size: int
    digest: bytes
    received_at: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """A mass revocation as stored, with how many of its requests wait, are done and were refused."""

    job_id: int
    requestor: str
    reason: RevocationReason
    selection: str
    size: int
    digest: bytes
    received_at: datetime.datetime
    rehearsal: bool
    state: JobState
    detail: str | None
    waiting: int
    done: int
    refused: int


@dataclasses.dataclass(frozen=True, slots=True)
class Approval:
    """
    Somebody's word on a job.

    `may`: an officer or administrator, now, with another key and another subject than who asked: a renewed
    certificate makes a second operator of one person.
    """

    approval_id: int
    operator: str
    digest: bytes
    may: bool


@dataclasses.dataclass(frozen=True, slots=True)
class JobStanding:
    """
    What a job is judged by: its list as it is stored, and who stands behind it.

    `unapproved_before`: how many certificates the same person's jobs of the day before it were about, those that
    were started without anybody else's word.
    """

    job: Job
    size: int
    digest: bytes
    requestor_may: bool
    approvals: tuple[Approval, ...]
    unapproved_before: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class CRLStanding:
    """The size of an issuer's CRL now, and how long the latest took from its intent to its publication."""

    issuer: str
    entries: int
    octets: int
    seconds: float


class MassRevocations(Protocol):
    """The registration side. Coroutines, for one event loop; PKIError(SYSTEM_UNAVAIL) without a database."""

    async def newest(self) -> int:
        """Return the highest certificate_id, 0 without one."""

    async def choose(self, selection: Selection, sample: int) -> Chosen:
        """Find what the selection means now."""

    async def confirm(self, job: NewJob, selection: Selection, own: bytes, events: Sequence[Event]) -> int:
        """
        Store a job with a request for each certificate of the selection, in one transaction; return its id.

        With an event about each request (`events[0]`) and one about the job (`events[1]`), subjects filled in.
        The certificate whose DER has the SHA-256 `own` comes last, so that its holder's word counts to the end.
        PKIError(BAD_REQUEST) and nothing stored when the selection is not of this size and digest any more.
        """

    async def rehearse(self, job: NewJob, selection: Selection, sample: int) -> int:
        """Ask the worker to measure what this job would cost, on a sample; return its id."""

    async def job(self, job_id: int) -> Job | None: ...

    async def jobs(self, limit: int) -> list[Job]:
        """Newest first."""

    async def approve(
        self, job_id: int, operator: str, digest: bytes, at: datetime.datetime, events: Sequence[Event]
    ) -> None:
        """Store somebody's word on a job; the worker judges it."""


class JobStore(Protocol):
    """The worker's side; transactions as in `IssuanceStore`."""

    def due(self) -> list[int]:
        """
        Jobs that need a decision: new ones, newly approved ones, and those whose last request is settled.

        Rehearsals come last.
        """

    def standing(self, job_id: int) -> JobStanding: ...

    def sample(self, job_id: int) -> list[RevocationRequest]:
        """Return the sample of a rehearsal, as if each were a request."""

    def rehearse(self, statuses: Sequence[CertificateStatus], events: Sequence[Event]) -> None:
        """Set these statuses and record these events, and take all of it back."""

    def crls(self, issuer_ids: Sequence[int]) -> dict[int, CRLStanding]:
        """Return how each issuer's CRL stands."""

    def move(self, job: JobStanding, state: JobState, detail: str | None, events: Sequence[Event]) -> None:
        """
        Move a job on; its approvals are judged. REFUSED: what waits of it is refused, too.

        A job that was moved meanwhile is left as it is, and nothing is recorded.
        """
