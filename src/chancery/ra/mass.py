"""Revoking many: choose by key or by query, look, rehearse, and confirm exactly what was shown."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re

from chancery.errors import ErrorType, PKIError
from chancery.ports import EventDetail, EventKind, Operator, RevocationReason
from chancery.ports.mass import Chosen, Job, NewJob, Selection
from chancery.ra.enrolment import RegistrationAuthority
from chancery.ra.requestor import Operation, authorise

SHOWN = 20
SAMPLE = 256
MAX_JOBS = 100
_CONFIRMATION = re.compile(r"([0-9]{1,19})\.([0-9]{1,19})\.([0-9]{1,9})\.([0-9a-f]{64})")


@dataclasses.dataclass(frozen=True, slots=True)
class MassWish:
    """What to revoke, and why. `chosen` has the fields of `Selection` that are given, but for `at` and `up_to`."""

    chosen: Selection
    reason: RevocationReason
    invalidity_date: datetime.datetime | None = None


def confirmation(chosen: Chosen) -> str:
    """Return the text that confirms exactly this: up to which certificate, as of when, how many, which ones."""
    selection = chosen.selection
    assert selection.at is not None
    return f"{selection.up_to}.{int(selection.at.timestamp())}.{chosen.size}.{chosen.digest.hex()}"


def _confirmed(text: str) -> tuple[int, datetime.datetime, int, bytes]:
    match = _CONFIRMATION.fullmatch(text)
    try:
        if match is not None:
            at = datetime.datetime.fromtimestamp(int(match[2]), datetime.UTC)
            return int(match[1]), at, int(match[3]), bytes.fromhex(match[4])
    except (ValueError, OverflowError, OSError):
        pass
    raise PKIError(ErrorType.BAD_REQUEST, "this is not the confirmation that was shown with the list")


async def look(ra: RegistrationAuthority, operator: Operator, wish: MassWish) -> Chosen:
    """Return what would be revoked; nothing is stored. PKIError: NOT_AUTHORIZED, BAD_REQUEST."""
    authorise(operator, Operation.REVOKE_MANY)
    _check(ra, wish)
    selection = dataclasses.replace(
        wish.chosen, at=ra.clock.now().replace(microsecond=0), up_to=await ra.mass.newest()
    )
    return await ra.mass.choose(selection, SHOWN)


def _check(ra: RegistrationAuthority, wish: MassWish) -> None:
    if wish.chosen == Selection():
        raise PKIError(ErrorType.BAD_REQUEST, "say which certificates: a key, a profile, an issuer, …")
    if not wish.reason.final:
        raise PKIError(ErrorType.BAD_REQUEST, "certificates are suspended and reinstated one by one")
    if wish.invalidity_date is not None and wish.invalidity_date > ra.clock.now():
        raise PKIError(ErrorType.BAD_REQUEST, "the invalidity date lies in the future")


async def revoke_many(ra: RegistrationAuthority, operator: Operator, wish: MassWish, confirmed: str) -> Job:
    """
    Store the job that revokes what was shown with this confirmation, and return it.

    The worker starts it, or waits for a second person. Raises PKIError: NOT_AUTHORIZED; BAD_REQUEST when the
    confirmation is none, or what is chosen has changed since.
    """
    authorise(operator, Operation.REVOKE_MANY)
    _check(ra, wish)
    up_to, at, size, digest = _confirmed(confirmed)
    if size == 0:
        raise PKIError(ErrorType.BAD_REQUEST, "nothing is chosen")
    selection = dataclasses.replace(wish.chosen, at=at, up_to=up_to)
    job = _new_job(ra, operator, wish, size, digest)
    reason = wish.reason.name.lower()
    told: EventDetail = {
        "reason": reason,
        "size": size,
        "digest": digest.hex(),
        "selection": job.selection,
    }
    events = [
        ra.event(EventKind.REVOCATION_REQUESTED, operator.name, "", {"reason": reason, "mass": True}),
        ra.event(EventKind.JOB_REQUESTED, operator.name, "", told),
    ]
    job_id = await ra.mass.confirm(job, selection, operator.fingerprint, events)
    return await _stored(ra, job_id)


async def rehearse(ra: RegistrationAuthority, operator: Operator, wish: MassWish) -> Job:
    """Have the worker measure on a sample what revoking the chosen ones would cost (R22); nothing is revoked."""
    chosen = await look(ra, operator, wish)
    if chosen.size == 0:
        raise PKIError(ErrorType.BAD_REQUEST, "nothing is chosen")
    job = _new_job(ra, operator, wish, chosen.size, chosen.digest)
    return await _stored(ra, await ra.mass.rehearse(job, chosen.selection, SAMPLE))


def _new_job(ra: RegistrationAuthority, operator: Operator, wish: MassWish, size: int, digest: bytes) -> NewJob:
    return NewJob(
        operator.name, wish.reason, wish.invalidity_date, _words(wish.chosen), size, digest, ra.clock.now()
    )


def _words(selection: Selection) -> str:
    """Return what was chosen as JSON."""
    given = dataclasses.asdict(selection)
    del given["at"], given["up_to"]
    return json.dumps(
        {
            key: value.hex() if isinstance(value, bytes) else value
            for key, value in given.items()
            if value is not None
        },
        default=str,
    )


async def _stored(ra: RegistrationAuthority, job_id: int) -> Job:
    job = await ra.mass.job(job_id) if 0 < job_id < 2**63 else None
    if job is None:
        raise PKIError(ErrorType.BAD_CERT_ID, f"no mass revocation {job_id}")
    return job


async def find_job(ra: RegistrationAuthority, operator: Operator, job_id: int) -> Job:
    """Return a job and its progress. Raises PKIError: NOT_AUTHORIZED; BAD_CERT_ID when there is none."""
    authorise(operator, Operation.SEE_REVOCATIONS)
    return await _stored(ra, job_id)


async def list_jobs(ra: RegistrationAuthority, operator: Operator) -> list[Job]:
    """Return the newest jobs, newest first. Raises PKIError(NOT_AUTHORIZED)."""
    authorise(operator, Operation.SEE_REVOCATIONS)
    return await ra.mass.jobs(MAX_JOBS)


async def approve(ra: RegistrationAuthority, operator: Operator, job_id: int, digest: bytes) -> Job:
    """
    Give the second person's word for the list with this digest; the worker judges it and starts the job.

    Raises PKIError: NOT_AUTHORIZED, also for one's own job; BAD_CERT_ID; BAD_REQUEST for another digest.
    """
    authorise(operator, Operation.APPROVE_REVOCATION)
    job = await _stored(ra, job_id)
    if job.requestor == operator.name:
        raise PKIError(ErrorType.NOT_AUTHORIZED, f"{operator.name} asked for it: somebody else has to approve it")
    if job.digest != digest:
        raise PKIError(ErrorType.BAD_REQUEST, "the digest is not that of this list")
    event = ra.event(EventKind.JOB_APPROVED, operator.name, f"revocation-job:{job_id}", {"digest": digest.hex()})
    await ra.mass.approve(job_id, operator.name, digest, event.at, [event])
    return await _stored(ra, job_id)
