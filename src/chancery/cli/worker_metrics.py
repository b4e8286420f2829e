"""
The worker's numbers for Prometheus, in a file: it listens on no socket.

The file is in the text format, for the textfile collector of node_exporter, and is replaced as a whole.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from chancery.cli.layout import write_public
from chancery.ports import Clock
from chancery.web.metrics import Labels, Metric, rendered, single

WRITE_SECONDS = 10.0
Report = Callable[[str, Mapping[str, object]], None]


class WorkerMetrics:
    """Counts what a worker reports, from any thread; `path` None: nothing is written."""

    def __init__(self, path: Path | None, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self._lock = threading.Lock()
        self._written = float("-inf")
        self._counts: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._tokens: dict[str, bool] = {}
        self._crl_seconds = 0.0
        self._journal: tuple[float, bool] = (0.0, False)
        self._round = 0.0

    def reporting(self, onward: Report) -> Report:
        """Return a report that counts and passes on."""

        def report(event: str, detail: Mapping[str, object]) -> None:
            with self._lock:
                self._count(event, detail)
            onward(event, detail)

        return report

    def _count(self, event: str, detail: Mapping[str, object]) -> None:
        if event == "batch":
            self._counts["batches"] += 1
        if event == "paused":
            self._failures[str(detail["error"])] += 1
        if event in {"token away", "token back"}:
            self._tokens[str(detail["token"])] = event == "token away"
            self._counts["token failures"] += event == "token away"
        if event == "crl" and isinstance(seconds := detail["seconds"], int | float):
            self._crl_seconds += seconds
        for key in ("issued", "refused", "unconfirmed", "settled", "published"):
            if isinstance(many := detail.get(key), int):
                self._counts[key] += many

    def journal(self, *, standby: bool) -> None:
        """Note that the journal was sequenced just now, or that another worker does it."""
        with self._lock:
            self._journal = (self._clock.now().timestamp(), standby)

    def round(self) -> None:
        """Note that a round went well, and write the file if it is time."""
        now = self._clock.monotonic()
        with self._lock:
            self._round = self._clock.now().timestamp()
            due = self._path is not None and now - self._written >= WRITE_SECONDS
            if due:
                self._written = now
        if due and self._path is not None:
            # A full disk stops no issuance: that the file grows old is seen by who reads it.
            with contextlib.suppress(OSError):
                write_public(self._path, rendered(self.metrics()))

    def metrics(self) -> list[Metric]:
        """Return what is counted; times are in seconds since 1970."""
        with self._lock:
            counts, (sequenced, standby) = self._counts.copy(), self._journal
            tokens: dict[Labels, float] = {(label,): away for label, away in sorted(self._tokens.items())}
            failures: dict[Labels, float] = {(error,): n for error, n in sorted(self._failures.items())}
            took, turned = self._crl_seconds, self._round
        requests: dict[Labels, float] = {(r,): counts[r] for r in ("issued", "refused", "unconfirmed")}
        return [
            Metric(
                "chancery_worker_requests", "Requests by what became of them.", requests, ("result",), "counter"
            ),
            single("chancery_worker_batches", "Batches of requests.", counts["batches"], "counter"),
            single("chancery_worker_revocations", "Revocations settled.", counts["settled"], "counter"),
            single("chancery_worker_crls", "CRLs published.", counts["published"], "counter"),
            single("chancery_worker_crl_seconds", "Time spent making CRLs.", took, "counter"),
            Metric("chancery_worker_failures", "Rounds that failed, by error.", failures, ("error",), "counter"),
            single(
                "chancery_worker_token_failures", "Times a token went away.", counts["token failures"], "counter"
            ),
            Metric("chancery_worker_token_away", "1 while a token does not sign.", tokens, ("token",)),
            single("chancery_worker_round_time_seconds", "When a round last went well.", turned),
            single("chancery_worker_journal_time_seconds", "When the journal was last known in order.", sequenced),
            single("chancery_worker_journal_standby", "1 while another worker sequences the journal.", standby),
        ]
