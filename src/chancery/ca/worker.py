"""
The issuing worker: settles revocations, issues what waits, publishes CRLs that are due; then again.

A token or store that is away makes it report, pause and recover. Anything unexpected ends the process, which
is started again and recovers in the same way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from chancery.ca.crl import CRLSettings, publish_due
from chancery.ca.issuance import Issuing, issue_batch, recover
from chancery.ca.revocation import settle_revocations
from chancery.errors import ErrorType, PKIError
from chancery.ports import RevocationStore

Report = Callable[[str, Mapping[str, object]], None]
"""Takes an event name and its values for the log."""

PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds before the next attempt after one failure, two, …"""
CRL_SHARE = 10
"""A CRL that took t seconds is followed by no other for this many times t: certificates come first."""


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerSettings:
    """`batch`: most requests in one batch. `idle`: longest wait in seconds without a wake-up."""

    batch: int = 128
    idle: float = 1.0
    crl: CRLSettings = dataclasses.field(default_factory=CRLSettings)

    def __post_init__(self) -> None:
        if self.batch < 1 or self.idle <= 0:
            raise ValueError("a batch has at least one request, and the worker waits for some time")


class Worker:
    """Runs issuance, revocation and CRLs over their stores; `report` is told what was done."""

    def __init__(
        self, issuing: Issuing, revocations: RevocationStore, settings: WorkerSettings, report: Report
    ) -> None:
        self._issuing = issuing
        self._revocations = revocations
        self._settings = settings
        self._report = report
        self._by_id = {issuer.record.issuer_id: issuer for issuer in issuing.issuers.values()}
        self._recovered = False
        self._crl_not_before = 0.0
        self._token_failed = False

    def run_once(self) -> bool:
        """
        Do one round and tell whether there was anything to do.

        Raises PKIError when token or store fail; the next round recovers first. A token that left
        certificates unsigned is reported as SYSTEM_UNAVAIL after everything else is settled.
        """
        try:
            return self._round()
        except BaseException:
            # Whatever happened, nothing is known about what this life of the worker left behind.
            self._recovered = False
            raise

    def _round(self) -> bool:
        issuing = self._issuing
        if not self._recovered:
            if found := recover(issuing):
                self._report("recovered", {"unconfirmed": found})
            self._recovered = True
        settled = settle_revocations(self._revocations, issuing.clock, issuing.worker)
        if settled:
            self._report("revocations", {"settled": settled})
        # A token that failed is tried with one request: each attempt spends the serials of its whole batch.
        limit = 1 if self._token_failed else self._settings.batch
        requests = issuing.store.take(issuing.worker, limit, issuing.clock.now())
        unsigned = 0
        if requests:
            result = issue_batch(issuing, requests)
            self._report("batch", dataclasses.asdict(result))
            unsigned = result.unconfirmed
            if unsigned or result.issued:
                self._token_failed = bool(unsigned)
        made = self._publish()
        if unsigned:
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, f"the token left {unsigned} certificates unsigned")
        return bool(settled or requests or made)

    def _publish(self) -> int:
        clock = self._issuing.clock
        began = clock.monotonic()
        if began < self._crl_not_before:
            return 0
        made = publish_due(self._by_id, self._revocations, clock, self._issuing.worker, self._settings.crl)
        if made:
            took = clock.monotonic() - began
            self._crl_not_before = began + took + CRL_SHARE * took
            self._report("crl", {"published": made, "seconds": round(took, 3)})
        return made

    def run(self, wait: Callable[[float], None], stopping: Callable[[], bool]) -> None:
        """
        Do rounds until `stopping`. `wait(seconds)` blocks until there is work or the time is over.

        Failures of token and store are reported, and followed by a pause that grows with each in a row.
        """
        failures = 0
        while not stopping():
            try:
                if not self.run_once() and not stopping():
                    wait(self._settings.idle)
                failures = 0
            except PKIError as error:
                pause = PAUSES[min(failures, len(PAUSES) - 1)]
                failures += 1
                self._report("paused", {"error": error.type.value, "detail": error.detail, "seconds": pause})
                self._pause(pause, wait, stopping)

    def _pause(self, seconds: float, wait: Callable[[float], None], stopping: Callable[[], bool]) -> None:
        # A wake-up does not cut a pause short: what failed needs the time.
        end = self._issuing.clock.monotonic() + seconds
        while not stopping() and (rest := end - self._issuing.clock.monotonic()) > 0:
            wait(rest)
