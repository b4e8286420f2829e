"""What the auditor reads, as one read-only snapshot: rows stream through cursors of the server, in batches."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import psycopg
from psycopg.abc import Buffer
from psycopg.rows import TupleRow
from psycopg.types.datetime import TimestamptzBinaryLoader

from chancery.ports import (
    CertificateRecord,
    CRLRecord,
    EnrolmentRequest,
    EventKind,
    Intent,
    IssuerRecord,
    ProfileRecord,
    ProfileSwitch,
)
from chancery.ports.auditing import (
    AuditedCRL,
    AuditedFurther,
    AuditedIssuer,
    AuditedJob,
    AuditedOperator,
    AuditedReport,
    AuditedRequest,
    AuditedRevocation,
    AuditedRevoked,
    AuditedSerial,
    AuditedStatus,
    JournalEntry,
    Scope,
    Stray,
    StrayKind,
)
from chancery.postgres import rows
from chancery.postgres.mass import LIST_DIGEST
from chancery.postgres.session import Connection, Parameters, PgConnection, connect, translated

BATCH = 500
_NO_TIME = datetime.datetime.max.replace(tzinfo=datetime.UTC)

_SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"

_ISSUERS = """
SELECT issuer_id, name, certificate, parent_id, token_label, key_label, subject, spki_sha256, not_before,
    not_after, added_at
FROM chancery.issuer ORDER BY issuer_id"""
_FURTHER = """
SELECT issuer_id, kind, certificate, parent_id, added_at
FROM chancery.issuer_certificate ORDER BY certificate_id"""
_ACTS = "SELECT issuer_id, act, at, actor FROM chancery.issuer_act ORDER BY act_id"
_TAKEN_OVER = "SELECT issuer_id, count(*) FROM chancery.imported_revocation GROUP BY issuer_id"
_PROFILES = "SELECT name, version, sha256, source, added_at FROM chancery.profile ORDER BY name, version, sha256"
_SWITCHES = "SELECT name, active, reason, operator, at FROM chancery.profile_switch ORDER BY switch_id"
_OPERATORS = """
SELECT fingerprint, name, roles, profiles, added_at, removed_at,
    EXISTS (SELECT FROM chancery.certificate AS c WHERE sha256(c.der) = o.fingerprint)
FROM chancery.operator AS o ORDER BY name"""
_RETIRED = """
EXISTS (SELECT FROM chancery.retired AS t WHERE t.source = 'journal_event' AND t.newest >= {0}.received_at)"""
_JOBS = f"""
SELECT j.job_id, j.requestor, j.reason, j.selection, j.size, j.digest, j.sample_serials IS NOT NULL, j.state,
    {_RETIRED.format("j")}, n.*, l.*
FROM chancery.revocation_job AS j, LATERAL (
    SELECT count(*) FILTER (WHERE q.state = 'waiting'), count(*) FILTER (WHERE q.state = 'done'),
        count(*) FILTER (WHERE q.state = 'refused'),
        count(*) FILTER (WHERE q.state = 'done' AND NOT (s.state = 'revoked' AND s.reason IS DISTINCT FROM 6))
    FROM chancery.revocation_request AS q
    LEFT JOIN chancery.certificate_status AS s USING (issuer_id, serial) WHERE q.job_id = j.job_id) AS n,
LATERAL (SELECT {LIST_DIGEST} FROM chancery.revocation_request WHERE job_id = j.job_id) AS l
ORDER BY j.job_id"""  # noqa: S608 - put together from constants
_APPROVALS = """
SELECT job_id, operator, digest, approved_at FROM chancery.revocation_approval ORDER BY approval_id"""
_REPORTS = f"""
SELECT report_id, ground, issuer, serial, spki_sha256, reporter, proven, recorded_by, revoke_by,
    {_RETIRED.format("r")}, sha256(convert_to(evidence, 'UTF8')), received_at, answer_by
FROM chancery.problem_report AS r ORDER BY report_id"""  # noqa: S608 - put together from constants
_REPORT_ACTS = "SELECT report_id, kind, words, operator, at FROM chancery.problem_report_act ORDER BY act_id"

_STATUS = """s.state, s.not_after, s.revoked_at, s.reason, s.invalidity_date, s.changed_at, s.released_at, s.shard,
    s.kept_until"""
_REQUEST = """r.request_id, r.transaction_id, r.protocol, r.requestor, r.profile, r.issuer, r.csr, r.names,
    r.received_at, r.wish, r.state"""
_INTENT = """i.request_id, i.issuer_id, i.serial, i.tbs, i.not_after, i.profile, i.profile_version,
    i.profile_sha256, i.recorded_at, i.shard, i.worker"""
_CERTIFICATE = """c.certificate_id, c.request_id, c.issuer_id, c.serial, c.der, c.subject, c.names, c.spki_sha256,
    c.not_before, c.not_after, c.profile, c.issued_at"""
_CERTIFICATES_IN = """
(%(since)s::timestamptz IS NULL OR c.issued_at >= %(since)s)
AND (%(issuer)s::integer IS NULL OR c.issuer_id = %(issuer)s)"""

_COUNT = f"SELECT count(*) FROM chancery.certificate AS c WHERE {_CERTIFICATES_IN}"  # noqa: S608 - put together from constants
_CERTIFICATES = f"""
SELECT {_CERTIFICATE}, {_INTENT}, {_REQUEST}, {_STATUS}, b.blocked_at
FROM chancery.certificate AS c
LEFT JOIN chancery.intent AS i ON (i.issuer_id, i.serial) = (c.issuer_id, c.serial)
LEFT JOIN chancery.request AS r ON r.request_id = c.request_id
LEFT JOIN chancery.certificate_status AS s ON (s.issuer_id, s.serial) = (c.issuer_id, c.serial)
LEFT JOIN chancery.blocked_key AS b ON b.spki_sha256 = c.spki_sha256
WHERE {_CERTIFICATES_IN} ORDER BY c.certificate_id"""  # noqa: S608 - put together from constants
_UNFINISHED = f"""
SELECT {_INTENT}, {_REQUEST}, {_STATUS}
FROM chancery.intent AS i
LEFT JOIN chancery.request AS r ON r.request_id = i.request_id
LEFT JOIN chancery.certificate_status AS s ON (s.issuer_id, s.serial) = (i.issuer_id, i.serial)
WHERE NOT EXISTS (SELECT FROM chancery.certificate AS c WHERE (c.issuer_id, c.serial) = (i.issuer_id, i.serial))
AND (%(since)s::timestamptz IS NULL OR i.recorded_at >= %(since)s)
AND (%(issuer)s::integer IS NULL OR i.issuer_id = %(issuer)s)
ORDER BY i.issuer_id, i.serial"""  # noqa: S608 - put together from constants

_EVENTS_ABOUT = """
SELECT event_id, body, subject FROM chancery.journal_event WHERE subject = ANY (%s::text[]) ORDER BY event_id"""
# What excuses that something is missing counts from the owner alone.
_EVENTS_OF = """
SELECT event_id, body FROM chancery.journal_event
WHERE kind = ANY (%s::text[]) AND (kind <> 'retention.dropped' OR writer = 'chancery_owner') ORDER BY event_id"""
_REVOCATIONS = """
SELECT revocation_id, issuer_id, serial, reason, invalidity_date, requestor, state
FROM chancery.revocation_request WHERE revocation_id = ANY (%s::bigint[]) ORDER BY revocation_id"""

# R16 counts from the complete CRL of the same shard before this one; a delta's base is that one, too.
_CRLS = f"""
SELECT {rows.CRL_COLUMNS},
    (SELECT b.this_update FROM chancery.crl AS b WHERE b.issuer_id = c.issuer_id AND b.shard = c.shard
        AND b.base_number IS NULL AND b.number < c.number ORDER BY b.number DESC LIMIT 1),
    NOT EXISTS (SELECT FROM chancery.crl AS n WHERE n.issuer_id = c.issuer_id AND n.shard = c.shard
        AND n.number > c.number AND (n.base_number IS NULL OR c.base_number IS NOT NULL))
FROM chancery.crl AS c
WHERE c.issuer_id = %(issuer)s AND (%(since)s::timestamptz IS NULL OR c.this_update >= %(since)s)
ORDER BY c.number"""  # noqa: S608 - put together from constants
_CRL_NUMBERS = "SELECT issuer_id, count(*) FROM chancery.crl_number GROUP BY issuer_id"
_CRL_SHARDS = "SELECT shard, url FROM chancery.crl_shard WHERE issuer_id = %s"
# As `crl_states`: by the snapshot that a CRL was read from, by its time when that one is not known here.
_COVERED = "coalesce(pg_visible_in_snapshot(s.changed_xid, {0}.seen), s.changed_at <= {0}.covers, false)"
_SEEN = """
LEFT JOIN (
    SELECT covers,
        CASE WHEN pg_snapshot_xmax(snapshot) <= pg_snapshot_xmax(pg_current_snapshot()) THEN snapshot END AS seen
    FROM chancery.crl WHERE issuer_id = %(issuer)s AND number = %({0})s) AS {0} ON true"""
_REVOKED = f"""
SELECT s.serial, {_STATUS}, {_COVERED.format("number")}, {_COVERED.format("base")}
FROM chancery.certificate_status AS s {_SEEN.format("number")} {_SEEN.format("base")}
WHERE s.issuer_id = %(issuer)s AND (s.state = 'revoked' OR s.state = 'good' AND s.released_at IS NOT NULL)
  AND (%(shard)s = 0 OR s.shard = %(shard)s) ORDER BY s.serial"""  # noqa: S608 - put together from constants

_STRAYS = f"""
SELECT 'event', e.subject, e.kind FROM chancery.journal_event AS e
WHERE e.kind IN ('certificate.intent', 'certificate.issued', 'certificate.unconfirmed', 'certificate.revoked',
    'certificate.suspended', 'certificate.reinstated')
AND NOT EXISTS (SELECT FROM chancery.intent AS i WHERE i.issuer_id || ':' || encode(i.serial, 'hex') = e.subject)
AND NOT EXISTS (SELECT FROM chancery.retired AS t WHERE t.source = 'certificate'
    AND split_part(e.subject, ':', 2) COLLATE "C" >= coalesce(t.at_least, '') COLLATE "C"
    AND split_part(e.subject, ':', 2) COLLATE "C" < t.below COLLATE "C")
UNION ALL
SELECT 'received', e.subject, (e.body::json) ->> 'actor' FROM chancery.journal_event AS e
WHERE e.kind = 'request.received' AND NOT EXISTS (
    SELECT FROM chancery.request AS r
    WHERE 'transaction:' || r.transaction_id = e.subject AND r.requestor = (e.body::json) ->> 'actor')
AND NOT EXISTS (SELECT FROM chancery.retired AS t
    WHERE t.source = 'certificate' AND t.newest >= {rows.EVENT_TIME})
UNION ALL
SELECT 'status', issuer_id || ':' || encode(serial, 'hex'), '' FROM chancery.certificate_status AS s
WHERE NOT EXISTS (SELECT FROM chancery.intent AS i WHERE (i.issuer_id, i.serial) = (s.issuer_id, s.serial))
-- What a CA had revoked before it was taken over: as its last CRL said.
AND NOT EXISTS (SELECT FROM chancery.imported_revocation AS m
    WHERE (m.issuer_id, m.serial, m.revoked_at, m.reason) = (s.issuer_id, s.serial, s.revoked_at, s.reason))
UNION ALL
SELECT 'request', 'request:' || request_id, '' FROM chancery.request AS r
WHERE r.state = 'done' AND NOT EXISTS (SELECT FROM chancery.intent AS i WHERE i.request_id = r.request_id)
AND NOT EXISTS (SELECT FROM chancery.certificate AS c WHERE c.request_id = r.request_id)
UNION ALL
SELECT 'revocation', 'revocation:' || revocation_id, '' FROM chancery.revocation_request AS v
WHERE v.state = 'done' AND NOT EXISTS (
    SELECT FROM chancery.journal_event AS e
    WHERE e.kind IN ('certificate.revoked', 'certificate.suspended', 'certificate.reinstated')
    AND e.subject = v.issuer_id || ':' || encode(v.serial, 'hex'))
AND NOT EXISTS (SELECT FROM chancery.retired AS t WHERE t.source = 'journal_event' AND t.newest >= v.received_at)
UNION ALL
SELECT 'blocked', e.subject, '' FROM chancery.journal_event AS e
WHERE e.kind = 'key.blocked' AND NOT EXISTS (
    SELECT FROM chancery.blocked_key AS b WHERE 'key:' || encode(b.spki_sha256, 'hex') = e.subject)"""  # noqa: S608 - put together from constants
_STRAYS_IN = f"""
SELECT * FROM ({_STRAYS}) AS stray (kind, subject, detail)
WHERE %(issuer)s::integer IS NULL OR kind IN ('received', 'request', 'revocation', 'blocked')
   OR starts_with(subject, %(issuer)s::integer || ':')
ORDER BY kind, subject, detail"""  # noqa: S608 - put together from constants


class _AnyTime(TimestamptzBinaryLoader):
    """A time that no calendar here has (infinity, after 9999) must not end the audit of the other rows."""

    def load(self, data: Buffer) -> datetime.datetime:
        try:
            return super().load(data)
        except psycopg.DataError:
            return _NO_TIME


class PgAuditReader:
    """
    `ports.auditing.AuditReader` as the role `chancery_auditor`: a context manager over one transaction.

    All of it is one snapshot (REPEATABLE READ, READ ONLY), and no statement has a time limit. While it is open
    the server keeps the row versions of its moment.
    """

    def __init__(self, connection: Connection) -> None:
        self._settings = dataclasses.replace(connection, statement_timeout=0, idle_in_transaction_timeout=0)
        self._stack = contextlib.ExitStack()
        self._connection: PgConnection | None = None
        self._cursors = 0

    def __enter__(self) -> Self:
        """Raises PKIError(SYSTEM_UNAVAIL) when the database is away."""
        with translated(), contextlib.ExitStack() as stack:
            connection = connect(self._settings)
            stack.callback(connection.close)
            connection.adapters.register_loader("timestamptz", _AnyTime)
            stack.enter_context(connection.transaction(force_rollback=True))
            connection.execute(_SNAPSHOT)
            self._connection, self._stack = connection, stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(psycopg.Error):
            self._stack.close()

    def issuers(self) -> list[AuditedIssuer]:
        """Return every issuer, by id."""
        further: dict[int, list[AuditedFurther]] = collections.defaultdict(list)
        for issuer_id, *row in self._fetch(_FURTHER):
            further[issuer_id].append(AuditedFurther(*row))
        acts: dict[int, list[tuple[str, datetime.datetime, str]]] = collections.defaultdict(list)
        for issuer_id, act, at, actor in self._fetch(_ACTS):
            acts[issuer_id].append((act, at, actor))
        taken = {row[0]: int(row[1]) for row in self._fetch(_TAKEN_OVER)}
        return [
            AuditedIssuer(
                IssuerRecord(*row[:6]),
                subject=row[6],
                spki_sha256=row[7],
                not_before=row[8],
                not_after=row[9],
                added_at=row[10],
                further=tuple(further[row[0]]),
                acts=tuple(acts[row[0]]),
                taken_over=taken.get(row[0], 0),
            )
            for row in self._fetch(_ISSUERS)
        ]

    def profiles(self) -> list[ProfileRecord]:
        """Return every profile's text, by name and version."""
        return [ProfileRecord(*row) for row in self._fetch(_PROFILES)]

    def profile_switches(self) -> list[ProfileSwitch]:
        """Return every switch of a profile, in the order in which they were made."""
        return [ProfileSwitch(*row) for row in self._fetch(_SWITCHES)]

    def operators(self) -> list[AuditedOperator]:
        """Return every operator, removed or not, by name."""
        return [
            AuditedOperator(row[0], row[1], tuple(row[2]), None if row[3] is None else tuple(row[3]), *row[4:])
            for row in self._fetch(_OPERATORS)
        ]

    def jobs(self) -> list[AuditedJob]:
        """Return every job of mass revocation with its approvals, by id."""
        words = self._grouped(_APPROVALS)
        return [
            dataclasses.replace(AuditedJob(*row), approvals=tuple(words[row[0]])) for row in self._fetch(_JOBS)
        ]

    def reports(self) -> list[AuditedReport]:
        """Return every problem report with what was done about it, by id."""
        acts = self._grouped(_REPORT_ACTS)
        return [
            dataclasses.replace(AuditedReport(*row), acts=tuple(acts[row[0]])) for row in self._fetch(_REPORTS)
        ]

    def _grouped(self, query: str) -> dict[int, list[tuple[Any, ...]]]:
        """Return rows by their first column, without it."""
        found: dict[int, list[tuple[Any, ...]]] = collections.defaultdict(list)
        for key, *row in self._fetch(query):
            found[key].append(tuple(row))
        return found

    def count(self, scope: Scope) -> int:
        """Return how many certificates `certificates` will give."""
        return int(self._fetch(_COUNT, _in(scope))[0][0])

    def certificates(self, scope: Scope) -> Iterator[Sequence[AuditedSerial]]:
        """Give every stored certificate, by certificate_id, in batches."""
        for found in self._stream(_CERTIFICATES, _in(scope)):
            yield self._complete([_serial(row[:12], row[12:23], row[23:34], row[34:43], row[43]) for row in found])

    def unfinished(self, scope: Scope) -> Iterator[Sequence[AuditedSerial]]:
        """Give every intent without a certificate, by issuer and serial, in batches."""
        for found in self._stream(_UNFINISHED, _in(scope)):
            yield self._complete([_serial(None, row[:11], row[11:22], row[22:]) for row in found])

    def strays(self, scope: Scope) -> Iterator[Stray]:
        """Give what stands without what it belongs to, by kind and subject."""
        for found in self._stream(_STRAYS_IN, _in(scope)):
            yield from (Stray(StrayKind(kind), subject, detail) for kind, subject, detail in found)

    def entries(self, kinds: Sequence[EventKind]) -> list[JournalEntry]:
        """Return all events of these kinds, by id."""
        return [JournalEntry(*row) for row in self._fetch(_EVENTS_OF, ([kind.value for kind in kinds],))]

    def crls(self, issuer_id: int, since: datetime.datetime | None) -> Iterator[AuditedCRL]:
        """Give the issuer's CRLs, by number, one at a time."""
        for found in self._stream(_CRLS, {"issuer": issuer_id, "since": since}, 1):
            yield from (AuditedCRL(self._whole(rows.crl_record(row[:-2])), *row[-2:]) for row in found)

    def _whole(self, record: CRLRecord) -> CRLRecord:
        if record.tail is None:
            return record
        parts = self._fetch(rows.CRL_PARTS, (record.issuer_id, record.number))
        return rows.joined(record, (part[0] for part in parts)) if parts else record

    def crl_numbers(self) -> Mapping[int, int]:
        """Return how many CRLNumbers each issuer has reserved."""
        return dict(self._fetch(_CRL_NUMBERS))

    def crl_shards(self, issuer_id: int) -> Mapping[int, str]:
        """Return the URL of each shard of this issuer."""
        return dict(self._fetch(_CRL_SHARDS, (issuer_id,)))

    def revoked(self, crl: CRLRecord) -> Iterator[AuditedRevoked]:
        """Give every serial of this CRL's shard that is revoked, or was released, by serial."""
        values = {"issuer": crl.issuer_id, "number": crl.number, "base": crl.base, "shard": crl.scope.shard}
        for found in self._stream(_REVOKED, values, 10 * BATCH):
            yield from (AuditedRevoked(row[0], AuditedStatus(*row[1:10]), row[10], row[11]) for row in found)

    def _complete(self, serials: list[AuditedSerial]) -> list[AuditedSerial]:
        """Add the events about these serials and their requests, and the revocation requests that those name."""
        about = {key for one in serials for key in _subjects(one)}
        events: dict[str, list[JournalEntry]] = {}
        for event_id, body, subject in self._fetch(_EVENTS_ABOUT, (sorted(about),)):
            events.setdefault(subject, []).append(JournalEntry(event_id, body))
        found = [dataclasses.replace(one, entries=_entries(one, events)) for one in serials]
        named = {one: _revocation_ids(one) for one in found if one.status}
        ids = sorted({number for numbers in named.values() for number in numbers})
        asked = self._fetch(_REVOCATIONS, (ids,)) if ids else []
        requests = {row[0]: AuditedRevocation(*row) for row in asked}
        return [
            dataclasses.replace(one, revocations=tuple(requests[n] for n in named.get(one, ()) if n in requests))
            for one in found
        ]

    def _fetch(self, query: str, parameters: Parameters = ()) -> list[TupleRow]:
        assert self._connection is not None
        with translated():
            return self._connection.execute(query.encode(), parameters, binary=True).fetchall()

    def _stream(self, query: str, parameters: Parameters, size: int = BATCH) -> Iterator[list[TupleRow]]:
        assert self._connection is not None
        self._cursors += 1
        with translated():
            cursor = self._connection.cursor(f"audit_{self._cursors}", binary=True)
            # A stream may be left before its end.
            self._stack.callback(cursor.close)
            cursor.execute(query.encode(), parameters)
        while True:
            # Not around the yield: what the reader's user raises is not the database's.
            with translated():
                rows = cursor.fetchmany(size)
            if not rows:
                break
            yield rows
        cursor.close()


def _in(scope: Scope) -> dict[str, object]:
    return {"since": scope.since, "issuer": scope.issuer_id}


def _serial(
    certificate: Sequence[Any] | None,
    intent: Sequence[Any],
    request: Sequence[Any],
    status: Sequence[Any],
    blocked_at: datetime.datetime | None = None,
) -> AuditedSerial:
    record, certificate_id = None, None
    if certificate is not None:
        certificate_id, fields = certificate[0], list(certificate[1:])
        fields[5] = tuple(fields[5])
        record = CertificateRecord(*fields)
    recorded = None if intent[1] is None else Intent(*intent[:10])
    key = record or recorded
    assert key is not None
    asked = None
    if request[0] is not None:
        fields = list(request[:10])
        fields[7] = tuple(fields[7])
        asked = AuditedRequest(EnrolmentRequest(*fields), request[10])
    return AuditedSerial(
        issuer_id=key.issuer_id,
        serial=key.serial,
        certificate_id=certificate_id,
        certificate=record,
        request=asked,
        intent=recorded,
        worker=intent[10],
        status=None if status[0] is None else AuditedStatus(*status),
        entries=(),
        revocations=(),
        blocked_at=blocked_at,
    )


def _subjects(one: AuditedSerial) -> tuple[str, ...]:
    about = f"{one.issuer_id}:{one.serial.hex()}"
    if one.request is None:
        return (about,)
    return about, f"transaction:{one.request.request.transaction_id}"


def _entries(one: AuditedSerial, events: Mapping[str, Sequence[JournalEntry]]) -> tuple[JournalEntry, ...]:
    found = [entry for subject in _subjects(one) for entry in events.get(subject, ())]
    return tuple(sorted(found, key=lambda entry: entry.event_id))


_REVOKING = {
    kind.value
    for kind in (
        EventKind.CERTIFICATE_REVOKED,
        EventKind.CERTIFICATE_SUSPENDED,
        EventKind.CERTIFICATE_REINSTATED,
    )
}


def _revocation_ids(one: AuditedSerial) -> list[int]:
    found = []
    for entry in one.entries:
        try:
            event = json.loads(entry.body)
        except (ValueError, RecursionError):
            continue
        detail = event.get("detail")
        number = detail.get("revocation") if isinstance(detail, dict) else None
        if event.get("kind") in _REVOKING and isinstance(number, int) and 0 < number < 2**63:
            found.append(number)
    return found
