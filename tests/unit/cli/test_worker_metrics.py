"""The worker's numbers in a file."""

from __future__ import annotations

from chancery.cli.worker_metrics import WRITE_SECONDS, WorkerMetrics
from fakes import FakeClock


def test_what_is_reported_is_counted_passed_on_and_written_now_and_then(tmp_path):
    clock, path, passed = FakeClock(), tmp_path / "worker.prom", []
    metrics = WorkerMetrics(path, clock)
    report = metrics.reporting(lambda event, detail: passed.append(event))
    report("batch", {"issued": 3, "refused": 1, "unconfirmed": 0})
    report("batch", {"issued": 2, "refused": 0, "unconfirmed": 0})
    report("crl", {"published": 2, "seconds": 0.5})
    report("revocations", {"settled": 7})
    report("token away", {"token": "one"})
    report("paused", {"error": "systemUnavail", "detail": "", "seconds": 1})
    metrics.journal(standby=True)
    metrics.round()
    assert ["batch", "batch", "crl", "revocations", "token away", "paused"] == passed
    lines = path.read_text().splitlines()
    now = clock.now().timestamp()
    for line in (
        'chancery_worker_requests_total{result="issued"} 5.0',
        'chancery_worker_requests_total{result="refused"} 1.0',
        "chancery_worker_batches_total 2.0",
        "chancery_worker_crls_total 2.0",
        "chancery_worker_crl_seconds_total 0.5",
        "chancery_worker_revocations_total 7.0",
        'chancery_worker_token_away{token="one"} 1.0',
        "chancery_worker_token_failures_total 1.0",
        'chancery_worker_failures_total{error="systemUnavail"} 1.0',
        "chancery_worker_journal_standby 1.0",
    ):
        assert line in lines
    assert now == next(
        float(one.split()[1]) for one in lines if one.startswith("chancery_worker_round_time_seconds")
    )
    report("token back", {"token": "one"})
    metrics.round()
    assert 'chancery_worker_token_away{token="one"} 1.0' in path.read_text()
    clock.advance(WRITE_SECONDS)
    metrics.round()
    assert 'chancery_worker_token_away{token="one"} 0.0' in path.read_text()


def test_without_a_file_or_with_a_full_disk_the_worker_goes_on(tmp_path):
    WorkerMetrics(None, FakeClock()).round()
    metrics = WorkerMetrics(tmp_path / "missing" / "worker.prom", FakeClock())
    metrics.round()
    assert 0 == len(list(tmp_path.iterdir()))
