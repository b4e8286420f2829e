"""Jobs over a fake with a failing mode: what the worker decides, and that an outage decides nothing (R22)."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest

from cakit import CA, make_csr
from chancery.ca.mass import MassSettings, decide_jobs
from chancery.ca.worker import Worker, WorkerSettings
from chancery.errors import ErrorType, PKIError
from chancery.ports import RevocationReason, RevocationRequest
from chancery.ports.mass import Approval, CRLStanding, Job, JobStanding, JobState
from fakes import START, Faults

DIGEST = bytes(32)
JOB = Job(1, "olga", RevocationReason.SUPERSEDED, "{}", 3, DIGEST, START, False, JobState.WAITING, None, 3, 0, 0)
STANDING = JobStanding(JOB, 3, DIGEST, True, ())
ADAM = Approval(1, "adam", DIGEST, True)


class MemoryJobs:
    """One job that is due until it was moved."""

    def __init__(self, standing: JobStanding, faults: Faults | None = None) -> None:
        self.now = standing
        self.faults = faults or Faults()
        self.events = []
        self.measured = []
        self.samples: list[RevocationRequest] = []
        self._due = True

    def due(self) -> list[int]:
        return self.faults.around(lambda: [1] if self._due else [])

    def standing(self, job_id: int) -> JobStanding:
        return self.faults.around(lambda: self.now)

    def sample(self, job_id: int) -> list[RevocationRequest]:
        return self.faults.around(lambda: self.samples)

    def rehearse(self, statuses, events) -> None:
        self.faults.around(lambda: self.measured.extend(statuses))

    def crls(self, issuer_ids):
        return self.faults.around(lambda: {number: CRLStanding("issuing", 10, 1000, 0.5) for number in issuer_ids})

    def move(self, job, state, detail, events) -> None:
        def act() -> None:
            moved = dataclasses.replace(self.now.job, state=state, detail=detail)
            self.now = dataclasses.replace(self.now, job=moved)
            self.events.extend(events)
            self._due = False

        self.faults.around(act)


def _decided(standing: JobStanding, above: int = 100) -> MemoryJobs:
    ca, jobs = CA(), MemoryJobs(standing)
    assert 1 == decide_jobs(jobs, ca.store, ca.clock, "worker-1", MassSettings(above))
    assert [f"revocation-job:{1}"] == [one.subject for one in jobs.events]
    return jobs


@pytest.mark.parametrize(
    ("changes", "above", "state"),
    [
        ({}, 3, JobState.RUNNING),
        ({}, 2, JobState.UNAPPROVED),
        ({"approvals": (ADAM,)}, 2, JobState.RUNNING),
        ({"approvals": (dataclasses.replace(ADAM, operator="olga"),)}, 2, JobState.UNAPPROVED),
        ({"approvals": (dataclasses.replace(ADAM, may=False),)}, 2, JobState.UNAPPROVED),
        ({"approvals": (dataclasses.replace(ADAM, digest=b"x" * 32),)}, 2, JobState.UNAPPROVED),
        ({"unapproved_before": 2}, 5, JobState.RUNNING),
        ({"unapproved_before": 3}, 5, JobState.UNAPPROVED),
        ({"size": 4}, 3, JobState.REFUSED),
        ({"digest": b"x" * 32}, 3, JobState.REFUSED),
        ({"requestor_may": False}, 3, JobState.REFUSED),
        ({"requestor_may": False, "approvals": (ADAM,)}, 2, JobState.REFUSED),
        ({"job": dataclasses.replace(JOB, state=JobState.RUNNING, waiting=0, done=3)}, 2, JobState.DONE),
    ],
)
def test_a_job_goes_where_its_list_and_its_people_let_it(changes, above, state):
    assert state is _decided(dataclasses.replace(STANDING, **changes), above).now.job.state


@pytest.mark.parametrize("mode", ["fail-before", "fail-after"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_outage_decides_nothing_twice(at, mode):
    ca, jobs = CA(), MemoryJobs(STANDING, Faults(at, mode))
    with pytest.raises(PKIError):
        decide_jobs(jobs, ca.store, ca.clock, "worker-1", MassSettings())
    decide_jobs(jobs, ca.store, ca.clock, "worker-1", MassSettings())
    assert (JobState.RUNNING, 1) == (jobs.now.job.state, len(jobs.events))


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (TypeError("nobody foresaw it"), JobState.REFUSED),
        (PKIError(ErrorType.SYSTEM_FAILURE, "the database refused"), JobState.REFUSED),
        (PKIError(ErrorType.SYSTEM_UNAVAIL, "the database is away"), JobState.WAITING),
    ],
)
def test_a_job_that_cannot_be_decided_holds_up_nothing(error, state):
    class Poisoned(MemoryJobs):
        def sample(self, job_id: int) -> list[RevocationRequest]:
            raise error

    ca, jobs = CA(), Poisoned(dataclasses.replace(STANDING, job=dataclasses.replace(JOB, rehearsal=True)))
    with pytest.raises(PKIError) if state is JobState.WAITING else contextlib.nullcontext():
        decide_jobs(jobs, ca.store, ca.clock, "worker-1", MassSettings())
    assert state is jobs.now.job.state


def test_r22_a_rehearsal_predicts_the_crl_and_revokes_nothing():
    ca = CA()
    for _ in range(2):
        ca.ask(make_csr("CN=Alice,O=Example,C=XX", ("email:alice@example.org",)), "tls-client")
    ca.work()
    job = dataclasses.replace(JOB, rehearsal=True, size=1000, waiting=0)
    jobs = MemoryJobs(dataclasses.replace(STANDING, job=job))
    reason = RevocationReason.SUPERSEDED
    jobs.samples = [
        RevocationRequest(0, issuer_id, serial, reason, None, "olga", START)
        for issuer_id, serial in ca.store.certificates
    ]
    before = dict(ca.store.statuses)
    decide_jobs(jobs, ca.store, ca.clock, "worker-1", MassSettings())
    assert (JobState.DONE, 2, before) == (jobs.now.job.state, len(jobs.measured), ca.store.statuses)
    assert '"entries_after": 1010' in (jobs.now.job.detail or "")
    assert '"transactions": 4' in (jobs.now.job.detail or "")


def test_the_worker_looks_at_jobs_now_and_then_and_not_each_round():
    ca = CA()
    jobs = MemoryJobs(STANDING)
    worker = Worker(ca.issuing, ca.store, WorkerSettings(), lambda *_: None, jobs=jobs)
    while worker.run_once():
        pass
    assert JobState.RUNNING is jobs.now.job.state
    asked = jobs.faults.calls
    worker.run_once()
    assert asked == jobs.faults.calls
    ca.clock.advance(1)
    worker.run_once()
    assert asked + 1 == jobs.faults.calls


def test_a_number_of_persons_is_not_negative():
    with pytest.raises(ValueError, match="not negative"):
        MassSettings(-1)
