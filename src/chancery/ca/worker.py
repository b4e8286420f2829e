"""
The issuing worker: settles revocations, issues what waits, publishes CRLs that are due; then again.

A store that is away, or the last token, makes it report, pause and recover. Of several tokens, one that is away
holds up its own issuers alone: their requests go on waiting. Anything unexpected ends the process, which is
started again and recovers in the same way.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Collection, Mapping, Sequence

from chancery.ca.crl import CRLSettings
from chancery.ca.crl_schedule import CRLPublishing, Due
from chancery.ca.hierarchy import Hierarchy
from chancery.ca.issuance import BatchResult, Issuing, issue_batch, recover
from chancery.ca.issuer import TokenAwayError
from chancery.ca.mass import MassSettings, decide_jobs
from chancery.ca.revocation import settle_revocations
from chancery.ca.tokens import PAUSES, Reach, TokenWatch
from chancery.errors import ErrorType, PKIError
from chancery.ports import EnrolmentRequest, PublishingStore
from chancery.ports.mass import JobStore

Look = Callable[[], Hierarchy | None]
"""Reads the issuers as they stand now; None when they are as they were. PKIError when the database is away."""
Report = Callable[[str, Mapping[str, object]], None]
"""Takes an event name and its values for the log."""

Wait = Callable[[float], Collection[str] | None]
"""
Blocks until there is work, at most so many seconds, and returns what work was heard of, by the names of `Work`.

Nothing when the time is over. None, or a name that is not known, is anything: all has to be looked at.
"""


class Work(enum.StrEnum):
    """What a worker looks for, named as the tables that it comes in."""

    REQUESTS = "request"
    REVOCATIONS = "revocation_request"
    CRLS = "crl_wish"
    JOBS = "revocation_job"


ALL = frozenset(Work)
JOB_SECONDS = 0.5
"""Mass revocations are decided about this often; a certificate does not wait for a look at them."""
CRL_SHARE = 10
"""What CRLs took t seconds for is followed by no other for this many times t: certificates come first."""
CRL_SECONDS = 0.05
"""When CRLs have taken this long in one round, the rest of those that are due waits for the next."""


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerSettings:
    """
    `batch`: most requests in one batch. `idle`: longest wait in seconds without a wake-up, and longest time
    without looking at everything. `look`: seconds from one look at the issuers to the next. `crls`: how often CRLs
    are made of issuers, by name, for which `crl` does not hold.
    """

    batch: int = 128
    idle: float = 1.0
    look: float = 1.0
    crl: CRLSettings = dataclasses.field(default_factory=CRLSettings)
    crls: Mapping[str, CRLSettings] = dataclasses.field(default_factory=dict)
    mass: MassSettings = dataclasses.field(default_factory=MassSettings)

    def __post_init__(self) -> None:
        if self.batch < 1 or self.idle <= 0:
            raise ValueError("a batch has at least one request, and the worker waits for some time")


class Worker:
    """
    Runs issuance, revocation and CRLs over their stores; `report` is told what was done.

    `reach` tells of a token that failed whether it answers again (`ca.tokens.Reach`). `look`, where given, brings
    new, changed and deactivated issuers in between two batches.
    """

    def __init__(
        self,
        issuing: Issuing,
        revocations: PublishingStore,
        settings: WorkerSettings,
        report: Report,
        reach: Reach | None = None,
        *,
        look: Look | None = None,
        jobs: JobStore | None = None,
    ) -> None:
        """Without `jobs` there are no mass revocations."""
        self._issuing = issuing
        self._revocations = revocations
        self._settings = settings
        self._report = report
        self._tokens = TokenWatch(issuing, reach)
        self._groups = self._tokens.groups()
        self._crls = self._publishing()
        self._recovered = False
        self._jobs = jobs
        self._crl_not_before = 0.0
        self._jobs_not_before = 0.0
        self._crl_look_after = 0.0
        self._look = look
        self._look_at = float("-inf")
        self._told: frozenset[str] = ALL
        self._all_at = float("-inf")
        self._more = False

    @property
    def tokens_away(self) -> list[str]:
        """Labels of the tokens that failed and have not signed since."""
        return self._tokens.away

    def _publishing(self) -> CRLPublishing:
        issuing, settings = self._issuing, self._settings
        by_id = {issuer.record.issuer_id: issuer for issuer in issuing.issuers.values()}
        return CRLPublishing(by_id, self._revocations, issuing.clock, issuing.worker, settings.crl, settings.crls)

    def run_once(self) -> bool:
        """
        Do one round over everything, or what `run` has heard of, and tell whether there was anything to do.

        Raises PKIError when the store fails, or the last token; the next round recovers first. Tokens that left
        certificates unsigned are reported as SYSTEM_UNAVAIL after everything else is settled, when none is left.
        """
        try:
            return self._round()
        except BaseException:
            # Whatever happened, nothing is known about what this life of the worker left behind.
            self._recovered = False
            raise
        finally:
            self._told = ALL

    def _refresh(self) -> None:
        """Take the issuers as they stand now, if it is time to look: one statement a second at most."""
        now = self._issuing.clock.monotonic()
        if self._look is None or now < self._look_at:
            return
        if (found := self._look()) is not None:
            self._issuing = dataclasses.replace(
                self._issuing, issuers=found.issuers, default_issuer=found.default, inactive=found.inactive
            )
            self._tokens.change(self._issuing)
            self._groups = self._tokens.groups()
            self._crls = self._publishing()
            names = {"inactive": sorted(found.inactive), "default": found.default}
            self._report("issuers", {"issuers": sorted(found.issuers), **names})
        self._look_at = now + self._settings.look

    def _round(self) -> bool:
        self._refresh()
        issuing = self._issuing
        if not self._recovered:
            if found := recover(issuing):
                self._report("recovered", {"unconfirmed": found})
            self._recovered = True
        todo = self._todo()
        settled = 0
        if Work.REVOCATIONS in todo:
            settled = settle_revocations(self._revocations, issuing.clock, issuing.worker)
        if settled:
            self._report("revocations", {"settled": settled})
        crls = self._due() if settled or Work.CRLS in todo else []
        # Before ordinary work: nobody can do without a CRL that is about to end. A failure stops no other.
        made, failure = self._publish([one for one in crls if one.urgent], bounded=False)
        taken, unsigned = self._issue_waiting() if Work.REQUESTS in todo else (0, 0)
        more, later = self._publish([one for one in crls if not one.urgent], bounded=True)
        made += more
        decided = self._decide() if Work.JOBS in todo else 0
        # A batch that was not full left nothing behind, and what came since will be heard of.
        self._more = bool(settled or made or decided or taken >= self._settings.batch)
        if unsigned and self._tokens.all_away:
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, f"the token left {unsigned} certificates unsigned")
        if (error := failure or later) is not None:
            raise error
        return bool(settled or taken or made or decided)

    def _todo(self) -> frozenset[str]:
        """What to look at: what was heard of, and everything once in a while."""
        now = self._issuing.clock.monotonic()
        todo = ALL if now >= self._all_at else self._told
        if todo == ALL:
            self._all_at = now + self._settings.idle
        return todo

    def _issue_waiting(self) -> tuple[int, int]:
        """Issue what waits, then try tokens that failed; return how many were taken, and how many not signed."""
        issuing, tokens = self._issuing, self._tokens
        due = tokens.due() if tokens.away else []
        taken = unsigned = 0
        if not tokens.all_away:
            requests = issuing.store.take(
                issuing.worker, self._settings.batch, issuing.clock.now(), tokens.healthy()
            )
            if requests:
                taken, unsigned = len(requests), self._issue(requests).unconfirmed
        for label in due:
            # With one request: each attempt spends the serials of its whole batch.
            requests = issuing.store.take(issuing.worker, 1, issuing.clock.now(), tokens.only(label))
            result = self._issue(requests) if requests else None
            if (result is None and tokens.believes) or (result and result.issued and not result.unconfirmed):
                tokens.back(label)
                self._report("token back", {"token": label})
            taken += len(requests)
            unsigned += result.unconfirmed if result else 0
        return taken, unsigned

    def _issue(self, requests: Sequence[EnrolmentRequest]) -> BatchResult:
        result = issue_batch(self._issuing, requests)
        counts = {"issued": result.issued, "refused": result.refused, "unconfirmed": result.unconfirmed}
        self._report("batch", counts)
        for label in self._tokens.failed(result.unsigned_by):
            self._report("token away", {"token": label})
        return result

    def _decide(self) -> int:
        clock = self._issuing.clock
        now = clock.monotonic()
        if self._jobs is None or now < self._jobs_not_before:
            return 0
        self._jobs_not_before = now + JOB_SECONDS
        worker = self._issuing.worker
        decided = decide_jobs(self._jobs, self._revocations, clock, worker, self._settings.mass)
        if decided:
            self._report("revocation jobs", {"decided": decided})
        return decided

    def _due(self) -> list[Due]:
        """What is due, urgent or not; the others have to wait for their share of the time."""
        began = self._issuing.clock.monotonic()
        if began < self._crl_look_after:
            return []
        found = self._crls.due()
        # The look itself keeps to the share: with many shards it takes a millisecond.
        now = self._issuing.clock.monotonic()
        self._crl_look_after = now + CRL_SHARE * (now - began)
        return [one for one in found if one.urgent or began >= self._crl_not_before]

    def _publish(self, crls: Sequence[Due], *, bounded: bool) -> tuple[int, PKIError | None]:
        """Make these CRLs; return how many were made, and the first failure: each issuer's ends its own alone."""
        clock = self._issuing.clock
        began, made = clock.monotonic(), 0
        failures: dict[int, PKIError] = {}
        for one in crls:
            if bounded and clock.monotonic() - began > CRL_SECONDS:
                break
            if one.issuer_id in failures or self._tokens.waits(self._label(one)):
                continue
            try:
                self._crls.make(one)
                made += 1
            except TokenAwayError as error:
                self._tokens.failed_token(self._label(one))
                # Issuers of other tokens go on; with no other left, the worker itself waits.
                if self._tokens.all_away:
                    failures[one.issuer_id] = error
            except PKIError as error:
                failures[one.issuer_id] = error
        if made:
            took = clock.monotonic() - began
            self._crl_not_before = began + took + CRL_SHARE * took
            self._report("crl", {"published": made, "seconds": round(took, 3)})
        return made, next(iter(failures.values()), None)

    def _label(self, one: Due) -> str:
        return self._crls.issuers[one.issuer_id].record.token_label or ""

    def run(self, wait: Wait, stopping: Callable[[], bool]) -> None:
        """
        Do rounds until `stopping`: over everything while there is more than fits into one, else what is heard of.

        Failures of token and store are reported, and followed by a pause that grows with each in a row.
        """
        failures = 0
        while not stopping():
            try:
                self.run_once()
                if not self._more and not stopping():
                    heard = wait(self._settings.idle)
                    self._told = frozenset(heard) if heard and ALL.issuperset(heard) else ALL
                failures = 0
            except PKIError as error:
                pause = PAUSES[min(failures, len(PAUSES) - 1)]
                failures += 1
                self._report("paused", {"error": error.type.value, "detail": error.detail, "seconds": pause})
                self._pause(pause, wait, stopping)

    def _pause(self, seconds: float, wait: Wait, stopping: Callable[[], bool]) -> None:
        # A wake-up does not cut a pause short: what failed needs the time.
        end = self._issuing.clock.monotonic() + seconds
        while not stopping() and (rest := end - self._issuing.clock.monotonic()) > 0:
            wait(rest)
