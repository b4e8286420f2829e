"""
The issuing worker's two loops: certificates, and revocations with their CRLs.

Each loop owns its own stores, so that a large CRL never holds up a certificate. A store or token that
is away makes a loop pause and recover; anything unexpected ends the process, which is started again
and recovers in the same way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from chancery.ca.crl import CRLSettings, publish_crl
from chancery.ca.issuance import LocalIssuer, Workshop, issue_batch, recover
from chancery.ca.revocation import settle_revocations
from chancery.errors import ErrorType, PKIError
from chancery.ports import Clock, RevocationStore

Wait = Callable[[float], object]
"""Blocks for at most this many seconds, less when there is work."""
Report = Callable[[str, Mapping[str, object]], None]
"""Takes an event name and its values for the log."""

PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Loop:
    """
    Calls `step` until stopped, pausing longer and longer while it fails with SYSTEM_UNAVAIL.

    `step` returns how much it did; 0 means wait for work. `restart` runs before the first step and
    after every failure.
    """

    def __init__(
        self, name: str, step: Callable[[], int], restart: Callable[[], object], wait: Wait, report: Report
    ) -> None:
        self.name = name
        self._step = step
        self._restart = restart
        self._wait = wait
        self._report = report

    def run(self, stop: threading.Event, idle: float = 1.0) -> None:
        """Run until `stop` is set; `idle` is the longest wait in seconds without a wake-up."""
        failures, started = 0, False
        while not stop.is_set():
            try:
                if not started:
                    self._restart()
                    started = True
                done = self._step()
                failures = 0
                if not done and not stop.is_set():
                    self._wait(idle)
            except PKIError as error:
                if error.type is not ErrorType.SYSTEM_UNAVAIL:
                    raise
                pause = PAUSES[min(failures, len(PAUSES) - 1)]
                failures, started = failures + 1, False
                self._report("paused", {"loop": self.name, "error": error.detail, "seconds": pause})
                stop.wait(pause)


def issuance_loop(shop: Workshop, wait: Wait, report: Report, batch: int = 128) -> Loop:
    """Make the loop that turns waiting requests into certificates, at most `batch` at a time."""

    def step() -> int:
        requests = shop.store.take(shop.worker, batch, shop.clock.now())
        if not requests:
            return 0
        result = issue_batch(shop, requests)
        report("batch", {"issued": result.issued, "refused": result.refused, "unconfirmed": result.unconfirmed})
        if result.unconfirmed:
            # The intents are accounted for and the requests wait again; give the token time.
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the token did not sign every certificate")
        return len(requests)

    def restart() -> None:
        if found := recover(shop):
            report("recovered", {"unconfirmed": found})

    return Loop("issuance", step, restart, wait, report)


def revocation_loop(
    locals_: Mapping[int, LocalIssuer],
    *,
    store: RevocationStore,
    clock: Clock,
    settings: CRLSettings,
    worker: str,
    wait: Wait,
    report: Report,
) -> Loop:
    """Make the loop that settles revocations and publishes each CRL that is due."""

    def step() -> int:
        settled = settle_revocations(store, clock, worker)
        due = [locals_[issuer_id] for issuer_id in store.crl_due(clock.now()) if issuer_id in locals_]
        for local in due:
            crl = publish_crl(local, store, clock, settings, worker)
            report("crl", {"issuer": local.name, "number": crl.number, "octets": len(crl.der)})
        return settled + len(due)

    return Loop("revocation", step, lambda: None, wait, report)
