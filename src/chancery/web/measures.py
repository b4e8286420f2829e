"""What the management interface tells Prometheus: its own requests, and what the database says of the whole CA."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from cryptography import x509

from chancery.errors import PKIError
from chancery.ports import CRLRecord
from chancery.ra.enrolment import RegistrationAuthority
from chancery.web.metrics import Histogram, Labels, Metric, single

REFRESH_SECONDS: Final = 15.0
BOUNDS: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)
"""Seconds that requests are told apart by."""
_WORDS: Final = {
    "waiting": ("chancery_requests_waiting", "Requests for certificates that no worker has taken yet."),
    "taken": ("chancery_requests_taken", "Requests that a worker has taken."),
    "certificates": ("chancery_certificates", "Certificates stored; above 1000 an estimate."),
    "revoked": ("chancery_certificates_revoked", "Certificates revoked; above 1000 an estimate."),
    "unconfirmed": ("chancery_certificates_unconfirmed", "Serials whose signing was never confirmed."),
    "open": ("chancery_reports_open", "Problem reports that are not decided."),
    "overdue": ("chancery_reports_overdue", "Problem reports past one of their times (R13)."),
}


@dataclasses.dataclass(frozen=True, slots=True)
class _Seen:
    """The database as it was when it was last asked."""

    counts: Mapping[str, int]
    issuers: Mapping[int, tuple[str, float]]
    crls: tuple[CRLRecord, ...]


class Measures:
    """Numbers of one web process; `certificate` is the file of its TLS server certificate (PEM)."""

    def __init__(self, ra: RegistrationAuthority, certificate: Path) -> None:
        self._ra, self._certificate = ra, certificate
        self._statuses: Counter[int] = Counter()
        self._buckets = [0] * (len(BOUNDS) + 1)
        self._seconds = 0.0
        self._seen: _Seen | None = None
        self._up = False

    def observe(self, status: int, seconds: float) -> None:
        """Count one answered request."""
        self._statuses[status] += 1
        self._seconds += seconds
        self._buckets[next((at for at, bound in enumerate(BOUNDS) if seconds <= bound), len(BOUNDS))] += 1

    async def watch(self, complain: Callable[[str], None]) -> None:
        """Ask the database again and again; what it cannot tell is complained of."""
        while True:
            try:
                await self.refresh()
            except PKIError as error:
                self._up = False
                complain(error.detail)
            await asyncio.sleep(REFRESH_SECONDS)

    async def refresh(self) -> None:
        """Ask the database once. PKIError as the directory raises."""
        directory = self._ra.directory
        counts, records, crls, (opened, overdue) = await asyncio.gather(
            directory.counts(),
            directory.issuers(),
            directory.crls(),
            self._ra.reports.counts(self._ra.clock.now()),
        )
        issuers = {one.issuer_id: (one.name, _end(one.certificate)) for one in records}
        self._seen = _Seen({**counts, "open": opened, "overdue": overdue}, issuers, tuple(crls))
        self._up = True

    def ready(self) -> bool:
        """Tell whether the database answered when it was last asked."""
        return self._up

    def metrics(self) -> list[Metric | Histogram]:
        """Return what Prometheus is told; times are in seconds since 1970."""
        statuses: dict[Labels, float] = {(str(status),): count for status, count in sorted(self._statuses.items())}
        found: list[Metric | Histogram] = [
            Metric("chancery_ca_answers", "Answers by HTTP status.", statuses, ("status",), "counter"),
            Histogram(
                "chancery_ca_request_seconds",
                "Time from a request to its answer.",
                BOUNDS,
                self._buckets,
                self._seconds,
            ),
            single("chancery_ca_database_up", "1 when the database answered last time.", self._up),
        ]
        if (end := self._tls_end()) is not None:
            found.append(single("chancery_ca_tls_end_seconds", "End of the TLS server certificate.", end))
        return found if self._seen is None else [*found, *self._of_database(self._seen)]

    @staticmethod
    def _of_database(seen: _Seen) -> list[Metric | Histogram]:
        ends: dict[Labels, float] = {(name,): end for name, end in seen.issuers.values()}
        updates: dict[str, dict[Labels, float]] = {"this": {}, "next": {}}
        for crl in seen.crls:
            labels = (seen.issuers[crl.issuer_id][0], str(crl.scope))
            updates["this"][labels] = crl.this_update.timestamp()
            updates["next"][labels] = crl.next_update.timestamp()
        scoped = ("issuer", "scope")
        return [
            *(single(*_WORDS[key], value) for key, value in seen.counts.items()),
            Metric("chancery_issuer_end_seconds", "End of the issuer's certificate.", ends, ("issuer",)),
            Metric("chancery_crl_this_update_seconds", "thisUpdate of the newest CRL.", updates["this"], scoped),
            Metric("chancery_crl_next_update_seconds", "nextUpdate of the newest CRL.", updates["next"], scoped),
        ]

    def _tls_end(self) -> float | None:
        try:
            return x509.load_pem_x509_certificate(self._certificate.read_bytes()).not_valid_after_utc.timestamp()
        except (OSError, ValueError):
            return None


def _end(certificate: bytes) -> float:
    return x509.load_der_x509_certificate(certificate).not_valid_after_utc.timestamp()
