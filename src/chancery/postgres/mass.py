"""Mass revocation: selections and jobs for the registration side, decisions for the worker."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import AsyncIterator, Sequence
from typing import Any

import psycopg

from chancery.errors import ErrorType, PKIError
from chancery.ports import CertificateStatus, Event, RevocationReason, RevocationRequest
from chancery.ports.mass import Approval, Chosen, CRLStanding, Job, JobStanding, JobState, NewJob, Selection
from chancery.postgres import rows
from chancery.postgres.directory import STORED, starting_with, stored
from chancery.postgres.journal import event_body, insert_events, insert_events_async
from chancery.postgres.revocation import set_statuses
from chancery.postgres.session import AsyncPgConnection, AsyncPool, Connection, PgConnection, Session, session

_SLOW = "SET LOCAL statement_timeout = '600s'"
"""A list of a million takes a while; nothing else waits for it."""

_ALIVE, _EXPIRED = "c.not_after >= %(at)s", "c.not_after < %(at)s"
_FROM = f"""
FROM chancery.certificate AS c
JOIN chancery.certificate_status AS s USING (issuer_id, serial)
JOIN chancery.request AS r USING (request_id)
JOIN chancery.issuer AS i USING (issuer_id)
WHERE c.certificate_id <= %(up_to)s AND {_ALIVE} AND (s.state = 'good' OR s.reason = 6)"""
_CONDITIONS = {
    "spki_sha256": "c.spki_sha256 = %(spki_sha256)s",
    "profile": "c.profile = %(profile)s",
    "issuer": "i.name = %(issuer)s",
    "subject": "c.subject LIKE %(subject)s",
    "name": "c.names @> ARRAY[%(name)s]::text[]",
    "requestor": "r.requestor = %(requestor)s",
    "issued_since": "c.issued_at >= %(issued_since)s",
    "issued_before": "c.issued_at < %(issued_before)s",
}
_NEWEST = "SELECT coalesce(max(certificate_id), 0) FROM chancery.certificate"
# Each serial with its length before it, so that two lists never read the same.
LIST_DIGEST = """
count(*), sha256(coalesce(string_agg(int4send(issuer_id) || int2send(octet_length(serial)::smallint) || serial,
    '' ORDER BY issuer_id, serial), ''))"""
_LIST = f"SELECT {LIST_DIGEST} FROM (SELECT issuer_id, serial"  # noqa: S608 - put together from constants
_PARTS = "SELECT i.name, c.profile, count(*)"
_JOB = """
INSERT INTO chancery.revocation_job (requestor, reason, selection, size, digest, received_at, sample_issuers,
    sample_serials) VALUES (%s, %s, %s, %s, %s, %s, %s, %s) RETURNING job_id"""
_REQUESTS = """
INSERT INTO chancery.revocation_request
    (issuer_id, serial, reason, invalidity_date, requestor, received_at, job_id)
SELECT issuer_id, serial, %(reason)s, %(invalidity)s::timestamptz, %(who)s, %(received)s::timestamptz, %(job)s"""
# One event about each: as the worker and the auditor know them from single requests.
_EVENTS = """
INSERT INTO chancery.journal_event (body)
SELECT replace(%(body)s, %(subject)s, issuer_id || ':' || encode(serial, 'hex'))
FROM chancery.revocation_request WHERE job_id = %(job)s ORDER BY revocation_id"""
_OF_JOB = f"SELECT {LIST_DIGEST} FROM chancery.revocation_request WHERE job_id = %s"  # noqa: S608 - put together from constants
_PLACEHOLDER = "certificate:of-this-job"

_JOBS = """
SELECT j.job_id, j.requestor, j.reason, j.selection, j.size, j.digest, j.received_at, j.sample_serials IS NOT NULL,
    j.state, j.detail, n.waiting, n.done, n.refused
FROM chancery.revocation_job AS j, LATERAL (
    SELECT count(*) FILTER (WHERE state = 'waiting') AS waiting, count(*) FILTER (WHERE state = 'done') AS done,
        count(*) FILTER (WHERE state = 'refused') AS refused
    FROM chancery.revocation_request WHERE job_id = j.job_id) AS n """
_ONE_JOB = f"{_JOBS} WHERE j.job_id = %s"
_LAST_JOBS = f"{_JOBS} ORDER BY j.job_id DESC LIMIT %s"
_APPROVE = """
INSERT INTO chancery.revocation_approval (job_id, operator, digest, approved_at) VALUES (%s, %s, %s, %s)"""

_DUE = """
SELECT job_id FROM chancery.revocation_job AS j
WHERE state = 'waiting'
   OR state = 'unapproved' AND EXISTS (
        SELECT FROM chancery.revocation_approval AS a WHERE a.job_id = j.job_id AND a.approval_id > j.seen)
   OR state = 'running' AND NOT EXISTS (
        SELECT FROM chancery.revocation_request AS q WHERE q.job_id = j.job_id AND q.state = 'waiting')
ORDER BY sample_serials IS NOT NULL, job_id LIMIT 100"""
_MAY = """
SELECT o.name, c.spki_sha256, c.subject FROM chancery.operator AS o
JOIN chancery.certificate AS c ON sha256(c.der) = o.fingerprint
JOIN chancery.certificate_status AS s USING (issuer_id, serial)
WHERE o.name = ANY (%s::text[]) AND o.removed_at IS NULL AND s.state = 'good'
  AND o.roles && ARRAY['officer', 'administrator']"""
_APPROVALS = """
SELECT approval_id, operator, digest FROM chancery.revocation_approval
WHERE job_id = %s AND approval_id > (SELECT seen FROM chancery.revocation_job WHERE job_id = %s)
ORDER BY approval_id LIMIT 100"""
_BEFORE = """
SELECT coalesce(sum(o.size), 0)::bigint FROM chancery.revocation_job AS j JOIN chancery.revocation_job AS o
    ON o.requestor = j.requestor AND o.job_id <> j.job_id AND o.state IN ('running', 'done')
    AND o.sample_serials IS NULL AND o.received_at > j.received_at - interval '1 day'
WHERE j.job_id = %s AND NOT EXISTS (SELECT FROM chancery.revocation_approval AS a WHERE a.job_id = o.job_id)"""
_SAMPLE = """
SELECT i.issuer_id, i.serial, j.reason, j.requestor, j.received_at
FROM chancery.revocation_job AS j, unnest(j.sample_issuers, j.sample_serials) AS i (issuer_id, serial)
WHERE j.job_id = %s AND i.issuer_id IS NOT NULL AND i.serial IS NOT NULL"""
_MOVE = """
UPDATE chancery.revocation_job SET state = %s, detail = %s, seen = greatest(seen, %s)
WHERE job_id = %s AND state = %s RETURNING job_id"""
_REFUSE_ALL = """
UPDATE chancery.revocation_request SET state = 'refused', detail = %s WHERE job_id = %s AND state = 'waiting'"""
_CRLS = """
SELECT i.issuer_id, i.name,
    (SELECT count(*) FROM chancery.certificate_status AS s
        WHERE s.issuer_id = i.issuer_id AND s.state = 'revoked'),
    coalesce(octet_length(c.der), 0), coalesce(extract(epoch FROM p.at - b.at), 0)::float8
FROM chancery.issuer AS i
LEFT JOIN LATERAL (
    SELECT der FROM chancery.crl WHERE issuer_id = i.issuer_id ORDER BY number DESC LIMIT 1) AS c ON true
LEFT JOIN LATERAL (
    SELECT event_id, ((body::json) ->> 'at')::timestamptz AS at FROM chancery.journal_event
    WHERE subject = 'crl:' || i.name AND kind = 'crl.published' AND writer = current_user
    ORDER BY event_id DESC LIMIT 1) AS p ON true
LEFT JOIN LATERAL (
    SELECT ((body::json) ->> 'at')::timestamptz AS at FROM chancery.journal_event
    WHERE subject = 'crl:' || i.name AND kind = 'crl.intent' AND writer = current_user AND event_id < p.event_id
    ORDER BY event_id DESC LIMIT 1) AS b ON true
WHERE i.issuer_id = ANY (%s::integer[])"""


def _selected(selection: Selection) -> tuple[str, dict[str, Any]]:
    """Return FROM … WHERE … of a selection, and its parameters. PKIError(BAD_REQUEST) for impossible text."""
    values: dict[str, Any] = {key: value for key in _CONDITIONS if (value := getattr(selection, key)) is not None}
    if not all(rows.is_storable(value) for value in values.values() if isinstance(value, str)):
        raise PKIError(ErrorType.BAD_REQUEST, "NUL or an unpaired surrogate in a text")
    conditions = "".join(f" AND {_CONDITIONS[key]}" for key in values)
    if selection.subject is not None:
        values["subject"] = starting_with(selection.subject)
    return _FROM + conditions, {**values, "at": selection.at, "up_to": selection.up_to}


class PgMassRevocations:
    """`ports.mass.MassRevocations` as the role `chancery_ra`, inside one event loop."""

    def __init__(self, pool: AsyncPool) -> None:
        self._pool = pool

    async def newest(self) -> int:
        """Return the highest certificate_id, 0 without one."""
        return int((await self._pool.fetch(_NEWEST))[0][0])

    async def choose(self, selection: Selection, sample: int) -> Chosen:
        """Find what the selection means now; the oldest `sample` of it are shown."""
        where, values = _selected(selection)
        async with self._pool.transaction() as connection:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            await connection.execute(_SLOW)
            size, digest = (await _fetch(connection, f"{_LIST} {where}) AS list", values))[0]
            parts = await _fetch(connection, f"{_PARTS} {where} GROUP BY 1, 2 ORDER BY 1, 2", values)
            shown = await _fetch(
                connection,
                f"SELECT {STORED} {where} ORDER BY c.certificate_id LIMIT %(limit)s",
                {**values, "limit": sample},
            )
            late = where.replace(_ALIVE, _EXPIRED)
            ((expired,),) = await _fetch(connection, f"SELECT count(*) {late}", values)
        found = tuple((str(issuer), str(profile), int(count)) for issuer, profile, count in parts)
        return Chosen(selection, size, digest, found, tuple(map(stored, shown)), expired)

    async def confirm(self, job: NewJob, selection: Selection, own: bytes, events: Sequence[Event]) -> int:
        """Store a job with its requests and their events, all or nothing; see the port."""
        where, values = _selected(selection)
        about_each, about_job = events
        async with self._pool.transaction() as connection, _fitting():
            await connection.execute(_SLOW)
            job_id = await _insert_job(connection, job, None)
            asked = {
                "reason": int(job.reason),
                "invalidity": job.invalidity_date,
                "who": job.requestor,
                "received": job.received_at,
                "job": job_id,
            }
            order = "ORDER BY sha256(c.der) = %(own)s, c.certificate_id"
            await connection.execute(f"{_REQUESTS} {where} {order}".encode(), {**values, **asked, "own": own})
            [(size, digest)] = await _fetch(connection, _OF_JOB, (job_id,))
            if (size, digest) != (job.size, job.digest):
                raise PKIError(
                    ErrorType.BAD_REQUEST,
                    f"what is chosen has changed since it was shown ({job.size} then, {size} now): look again",
                )
            body = event_body(_about(about_each, _PLACEHOLDER))
            await connection.execute(_EVENTS, {"body": body, "subject": _PLACEHOLDER, "job": job_id})
            await insert_events_async(connection, [_about(about_job, f"revocation-job:{job_id}")])
        return job_id

    async def rehearse(self, job: NewJob, selection: Selection, sample: int) -> int:
        """Ask the worker to measure this job on a sample."""
        where, values = _selected(selection)
        async with self._pool.transaction() as connection, _fitting():
            chosen = await _fetch(
                connection, f"SELECT issuer_id, serial {where} LIMIT %(limit)s", {**values, "limit": sample}
            )
            if not chosen:
                raise PKIError(ErrorType.BAD_REQUEST, "nothing is chosen")
            return await _insert_job(connection, job, rows.columns(chosen, 2))

    async def job(self, job_id: int) -> Job | None:
        """Return a job with its progress."""
        found = await self._pool.fetch(_ONE_JOB, (job_id,))
        return _job(found[0]) if found else None

    async def jobs(self, limit: int) -> list[Job]:
        """Return jobs, newest first."""
        return [_job(row) for row in await self._pool.fetch(_LAST_JOBS, (limit,))]

    async def approve(
        self, job_id: int, operator: str, digest: bytes, at: datetime.datetime, events: Sequence[Event]
    ) -> None:
        """Store somebody's word on a job."""
        async with self._pool.transaction() as connection:
            await connection.execute(_APPROVE, (job_id, operator, digest, at))
            await insert_events_async(connection, events)


@contextlib.asynccontextmanager
async def _fitting() -> AsyncIterator[None]:
    """Say of a job that no row can hold that it was asked wrongly."""
    try:
        yield
    except psycopg.errors.CheckViolation as error:
        raise PKIError(
            ErrorType.BAD_REQUEST, "the selection is too long, or a number or a date cannot be"
        ) from error


async def _fetch(connection: AsyncPgConnection, query: str, values: Any) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(query.encode(), values, binary=True)
    return await cursor.fetchall()


async def _insert_job(connection: AsyncPgConnection, job: NewJob, sample: Sequence[Any] | None) -> int:
    told = (job.requestor, int(job.reason), rows.storable(job.selection), job.size, job.digest, job.received_at)
    issuers, serials = (None, None) if sample is None else sample
    [(job_id,)] = await _fetch(connection, _JOB, (*told, issuers, serials))
    return int(job_id)


def _about(event: Event, subject: str) -> Event:
    return Event(event.kind, event.at, event.actor, subject, event.detail)


def _job(row: Sequence[Any]) -> Job:
    job_id, requestor, reason, selection, size, digest, received_at, rehearsal, state, *rest = row
    told = (job_id, requestor, RevocationReason(reason), selection, size, bytes(digest), received_at)
    return Job(*told, rehearsal, JobState(state), *rest)


class PgJobStore:
    """`ports.mass.JobStore` as the role `chancery_worker`."""

    def __init__(self, source: Connection | Session) -> None:
        self._session = session(source)

    def due(self) -> list[int]:
        """Return jobs that need a decision, at most a hundred."""
        return [row[0] for row in self._session.fetch(_DUE)]

    def standing(self, job_id: int) -> JobStanding:
        """Return what a job is judged by, its list counted and hashed as it is stored."""
        with self._session.transaction() as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            connection.execute(_SLOW)
            [row] = _read(connection, _ONE_JOB, (job_id,))
            [(size, digest)] = _read(connection, _OF_JOB, (job_id,))
            words = _read(connection, _APPROVALS, (job_id, job_id))
            names = sorted({row[1], *(word[1] for word in words)})
            may = {name: (bytes(key), subject) for name, key, subject in _read(connection, _MAY, (names,))}
            [(before,)] = _read(connection, _BEFORE, (job_id,))
        first = may.get(row[1])
        approvals = tuple(
            Approval(number, who, bytes(seen), who in may and not _same_person(may[who], first))
            for number, who, seen in words
        )
        return JobStanding(_job(row), size, bytes(digest), first is not None, approvals, before)

    def sample(self, job_id: int) -> list[RevocationRequest]:
        """Return the sample of a rehearsal, as if each were a request."""
        return [
            RevocationRequest(0, issuer_id, bytes(serial), RevocationReason(reason), None, requestor, received_at)
            for issuer_id, serial, reason, requestor, received_at in self._session.fetch(_SAMPLE, (job_id,))
        ]

    def rehearse(self, statuses: Sequence[CertificateStatus], events: Sequence[Event]) -> None:
        """Set these statuses and record these events, and take all of it back."""
        with self._session.transaction() as connection:
            set_statuses(connection, [(status, events[0].at) for status in statuses])
            insert_events(connection, events)
            raise psycopg.Rollback

    def crls(self, issuer_ids: Sequence[int]) -> dict[int, CRLStanding]:
        """Return how each issuer's CRL stands."""
        return {row[0]: CRLStanding(*row[1:]) for row in self._session.fetch(_CRLS, (list(issuer_ids),))}

    def move(self, job: JobStanding, state: JobState, detail: str | None, events: Sequence[Event]) -> None:
        """Move a job on, with its events; one that another worker moved is left as it is."""
        judged = max((one.approval_id for one in job.approvals), default=0)
        values = (state.value, detail, judged, job.job.job_id, job.job.state.value)
        with self._session.transaction() as connection:
            connection.execute(_SLOW)
            if not connection.execute(_MOVE, values).fetchall():
                return
            if state is JobState.REFUSED:
                connection.execute(_REFUSE_ALL, (detail, job.job.job_id))
            insert_events(connection, events)


def _same_person(one: tuple[bytes, str], other: tuple[bytes, str] | None) -> bool:
    """Tell by (key, subject) of two operators' certificates; an empty subject says nothing."""
    if other is None:
        return False
    return one[0] == other[0] or (one[1] != "" and one[1].casefold() == other[1].casefold())


def _read(connection: PgConnection, query: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
    return connection.execute(query.encode(), values, binary=True).fetchall()
