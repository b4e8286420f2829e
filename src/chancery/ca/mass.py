"""
Mass revocation: a confirmed list is started, approved by a second person, refused, or rehearsed.

The requests of a list are settled like any other, in groups between batches of issuance (`ca.revocation`).
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Callable, Sequence

from chancery.asn1 import crl as template
from chancery.ca.revocation import BATCH, settlements_of
from chancery.errors import ErrorType, PKIError
from chancery.ports import Clock, Event, EventDetail, EventKind, RevocationRequest, RevocationStore
from chancery.ports.mass import Approval, JobStanding, JobState, JobStore


@dataclasses.dataclass(frozen=True, slots=True)
class MassSettings:
    """
    More than `two_persons_above` certificates need the word of a second officer or administrator.

    They are counted over all lists that one person confirmed within a day.
    """

    two_persons_above: int = 100

    def __post_init__(self) -> None:
        if self.two_persons_above < 0:
            raise ValueError("the number above which two persons are needed is not negative")


def decide_jobs(jobs: JobStore, store: RevocationStore, clock: Clock, worker: str, settings: MassSettings) -> int:
    """
    Decide about every job that is due, and return how many there were; of rehearsals, which take time, about one.

    The registration side is not trusted: the list is counted and hashed again, and who asked for it and who
    approved it are looked up. A job that cannot be decided is refused, and holds up nothing.
    PKIError(SYSTEM_UNAVAIL) when the database is away.
    """
    decided, rehearsed = 0, False
    for job_id in jobs.due():
        standing = jobs.standing(job_id)
        rehearsal = standing.job.state is JobState.WAITING and standing.job.rehearsal
        if rehearsal and rehearsed:
            break
        decided, rehearsed = decided + 1, rehearsed or rehearsal
        try:
            if rehearsal:
                _rehearse(jobs, store, clock, worker, standing)
            else:
                _decide(jobs, clock, worker, standing, settings)
        except Exception as error:
            if standing.job.state is JobState.RUNNING or _passes(error):
                raise
            why = "it could not be decided"
            _mover(jobs, standing, clock, worker)(JobState.REFUSED, EventKind.JOB_REFUSED, why, why=why)
    return decided


def _passes(error: Exception) -> bool:
    """Tell of a failure that is none of the job's: the database is away."""
    return isinstance(error, PKIError) and error.type is ErrorType.SYSTEM_UNAVAIL


def _mover(jobs: JobStore, standing: JobStanding, clock: Clock, worker: str) -> Callable[..., None]:
    """Return what moves this job on, with its event."""
    job = standing.job

    def move(state: JobState, kind: EventKind, detail: str | None, **told: str | int) -> None:
        said: EventDetail = {"size": job.size, "digest": job.digest.hex(), "requestor": job.requestor, **told}
        event = Event(kind, clock.now(), worker, f"revocation-job:{job.job_id}", said)
        jobs.move(standing, state, detail, [event])

    return move


def _decide(jobs: JobStore, clock: Clock, worker: str, standing: JobStanding, settings: MassSettings) -> None:
    job = standing.job
    move = _mover(jobs, standing, clock, worker)

    if job.state is JobState.RUNNING:
        move(JobState.DONE, EventKind.JOB_FINISHED, None, done=job.done, refused=job.refused)
    elif (why := _refusal(standing)) is not None:
        move(JobState.REFUSED, EventKind.JOB_REFUSED, why, why=why)
    elif job.size + standing.unapproved_before <= settings.two_persons_above:
        move(JobState.RUNNING, EventKind.JOB_STARTED, None)
    elif (approval := _approval(standing)) is not None:
        move(
            JobState.RUNNING,
            EventKind.JOB_STARTED,
            f"approved by {approval.operator}",
            approved_by=approval.operator,
        )
    else:
        # Whoever approved it may not, or saw something else.
        who = ", ".join(one.operator for one in standing.approvals)
        why = (
            f"more than {settings.two_persons_above} in a day: a second officer or administrator has to approve it"
        )
        move(JobState.UNAPPROVED, EventKind.JOB_UNAPPROVED, why, why=why, not_counted=who)


def _refusal(standing: JobStanding) -> str | None:
    if (standing.size, standing.digest) != (standing.job.size, standing.job.digest):
        return "its list is not the one that was confirmed"
    if not standing.requestor_may:
        return f"{standing.job.requestor} may not revoke what others asked for"
    return None


def _approval(standing: JobStanding) -> Approval | None:
    for one in standing.approvals:
        if one.may and one.operator != standing.job.requestor and one.digest == standing.job.digest:
            return one
    return None


def _rehearse(jobs: JobStore, store: RevocationStore, clock: Clock, worker: str, standing: JobStanding) -> None:
    """R22: revoke a sample in a transaction that is rolled back, and say what all of them would take."""
    job, now = standing.job, clock.now()
    sample = jobs.sample(job.job_id)
    before = clock.monotonic()
    settled = settlements_of(store, sample, now, worker)
    statuses = [one.status for one in settled if one.status is not None]
    jobs.rehearse(statuses, [event for one in settled for event in one.events])
    seconds = clock.monotonic() - before
    result = {
        "sample": len(sample),
        "revocable": len(statuses),
        "seconds_of_sample": round(seconds, 4),
        "transactions": -(-job.size // BATCH),
        "revoked_after_seconds": round(seconds / max(1, len(sample)) * job.size, 1),
        "journal_events": 2 * job.size + 3,
        "notifications": job.size,
        "ocsp_answers_to_sign": job.size,
        "crls": _crls(jobs, sample, job.size, now),
    }
    event = Event(EventKind.JOB_REHEARSED, now, worker, f"revocation-job:{job.job_id}", {"size": job.size})
    jobs.move(standing, JobState.DONE, json.dumps(result), [event])


def _crls(
    jobs: JobStore, sample: Sequence[RevocationRequest], size: int, now: datetime.datetime
) -> list[dict[str, str | int | float]]:
    """Predict each CRL: as many octets an entry as the sample's, as many seconds an entry as the last one took."""
    found: list[dict[str, str | int | float]] = []
    at = now.replace(microsecond=0)
    for issuer_id, crl in sorted(jobs.crls(sorted({one.issuer_id for one in sample})).items()):
        mine = [one for one in sample if one.issuer_id == issuer_id]
        entries = [template.entry(one.serial, at, int(one.reason), one.invalidity_date) for one in mine]
        more = round(size * len(mine) / len(sample))
        after = crl.octets + more * sum(map(len, entries)) // len(entries)
        found.append(
            {
                "issuer": crl.issuer,
                "entries": crl.entries,
                "entries_after": crl.entries + more,
                "octets": crl.octets,
                "octets_after": after,
                "seconds": round(crl.seconds, 3),
                # At most: what does not depend on the size of the CRL is counted with it.
                "seconds_after_at_most": round(crl.seconds * max(1, after) / max(1, crl.octets), 3),
            }
        )
    return found
