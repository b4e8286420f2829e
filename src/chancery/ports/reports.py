"""Certificate problem reports (BR 4.9.3) and their clocks (R13)."""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Sequence
from typing import Protocol

from chancery.ports.values import Event, RevocationReason

ANSWER = datetime.timedelta(hours=24)
"""BR 4.9.5: a preliminary report to subscriber and reporter within 24 hours."""
_DAY = datetime.timedelta(days=1)


class Ground(enum.Enum):
    """What is reported: its name, the time until revocation, and the CRLReason that goes with it (BR 4.9.1.1)."""

    KEY_COMPROMISE = ("key-compromise", _DAY, RevocationReason.KEY_COMPROMISE)
    WEAK_KEY = ("weak-key", _DAY, RevocationReason.KEY_COMPROMISE)
    SUBSCRIBER_REQUEST = ("subscriber-request", _DAY, RevocationReason.UNSPECIFIED)
    NOT_AUTHORISED = ("request-not-authorised", _DAY, RevocationReason.PRIVILEGE_WITHDRAWN)
    VALIDATION = ("validation-unreliable", _DAY, RevocationReason.SUPERSEDED)
    MISUSE = ("misuse", 5 * _DAY, RevocationReason.PRIVILEGE_WITHDRAWN)
    AGREEMENT = ("agreement-violated", 5 * _DAY, RevocationReason.PRIVILEGE_WITHDRAWN)
    NAME = ("name-not-permitted", 5 * _DAY, RevocationReason.CESSATION_OF_OPERATION)
    CHANGED = ("information-changed", 5 * _DAY, RevocationReason.AFFILIATION_CHANGED)
    WRONG = ("information-wrong", 5 * _DAY, RevocationReason.PRIVILEGE_WITHDRAWN)
    MISISSUED = ("misissued", 5 * _DAY, RevocationReason.SUPERSEDED)
    SUBORDINATE_CA = ("subordinate-ca", 7 * _DAY, RevocationReason.UNSPECIFIED)

    @property
    def label(self) -> str:
        return self.value[0]

    @property
    def time(self) -> datetime.timedelta:
        return self.value[1]

    @property
    def reason(self) -> RevocationReason:
        return self.value[2]


class ReportAct(enum.Enum):
    """ANSWERED: the preliminary report; the others close it."""

    ANSWERED = "answered"
    REVOKED = "revoked"
    REJECTED = "rejected"


@dataclasses.dataclass(frozen=True, slots=True)
class NewReport:
    """
    Something reported about a certificate (`issuer` and `serial`) or about a key (`spki_sha256`).

    `proven`: the key itself signed that it is compromised. `reporter` is how to reach whoever reported it.
    """

    ground: Ground
    issuer: str | None
    serial: bytes | None
    spki_sha256: bytes | None
    evidence: str
    reporter: str
    proven: bool
    recorded_by: str
    received_at: datetime.datetime

    @property
    def answer_by(self) -> datetime.datetime:
        return self.received_at + ANSWER

    @property
    def revoke_by(self) -> datetime.datetime:
        return self.received_at + self.ground.time


@dataclasses.dataclass(frozen=True, slots=True)
class Acted:
    """What was done about a report, in words."""

    kind: ReportAct
    words: str
    operator: str
    at: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """A report as stored, with everything that was done about it, in order."""

    report_id: int
    new: NewReport
    acts: tuple[Acted, ...]

    @property
    def closed(self) -> bool:
        return any(one.kind is not ReportAct.ANSWERED for one in self.acts)

    def overdue(self, at: datetime.datetime) -> bool:
        """Tell whether it is open past a deadline: unanswered (24 h), or undecided (24 h, 5 d, 7 d)."""
        return not self.closed and (at > self.new.revoke_by or (not self.acts and at > self.new.answer_by))


class ReportBook(Protocol):
    """Where reports are kept. Coroutines, for one event loop; PKIError(SYSTEM_UNAVAIL) when it is away."""

    async def add(self, report: NewReport, events: Sequence[Event]) -> int:
        """Store a report with its events, whose subjects are filled in; return its id."""

    async def act(self, report_id: int, act: Acted, events: Sequence[Event]) -> None:
        """Store what was done. PKIError(BAD_REQUEST) when it is decided already, BAD_CERT_ID without a report."""

    async def report(self, report_id: int) -> Report | None: ...

    async def reports(self, *, everything: bool, limit: int) -> list[Report]:
        """Return open reports (or all of them), the most urgent first."""

    async def counts(self, at: datetime.datetime) -> tuple[int, int]:
        """Return how many are open, and how many of those are overdue."""
