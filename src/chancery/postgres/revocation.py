"""Revocations as the worker settles them, and CRLs with their numbers."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from chancery.ports import (
    CertificateStatus,
    CRLRecord,
    Event,
    RevocationReason,
    RevocationRequest,
    RevokedEntry,
    Settlement,
    Standing,
)
from chancery.postgres import blocklist, rows
from chancery.postgres.journal import insert_events
from chancery.postgres.session import Connection, PgConnection, Session, session

REFRESH = datetime.timedelta(hours=24)
"""R14, R15: a CRL is made anew this long before its nextUpdate, or at half its life when that is shorter."""

_REQUEST = "revocation_id, issuer_id, serial, reason, invalidity_date, requestor, received_at"
# Single requests first, then those of the jobs that run.
_TAKE = f"""
(SELECT {_REQUEST} FROM chancery.revocation_request
WHERE state = 'waiting' AND job_id IS NULL ORDER BY revocation_id LIMIT %(limit)s)
UNION ALL
(SELECT q.* FROM chancery.revocation_job AS j, LATERAL (
    SELECT {_REQUEST} FROM chancery.revocation_request
    WHERE state = 'waiting' AND job_id = j.job_id ORDER BY revocation_id LIMIT %(limit)s) AS q
WHERE j.state = 'running' ORDER BY j.job_id, q.revocation_id LIMIT %(limit)s)
LIMIT %(limit)s"""  # noqa: S608 - put together from constants

# An operator is one now: not removed, and with a certificate that is good. Officers and administrators revoke
# anything, requestors what they asked for; an intent without a certificate counts.
_STANDINGS = """
WITH who AS (
    SELECT o.name, o.roles && ARRAY['officer', 'administrator'] AS anything, 'requestor' = ANY (o.roles) AS own
    FROM chancery.operator AS o
    JOIN chancery.certificate AS c ON sha256(c.der) = o.fingerprint
    JOIN chancery.certificate_status AS s USING (issuer_id, serial)
    WHERE o.name = ANY (%b::text[]) AND o.removed_at IS NULL AND s.state = 'good')
SELECT coalesce(w.anything, false), coalesce(w.own AND r.requestor = w.name, false), issuer_id, serial, s.state,
    i.not_after, s.revoked_at, s.reason, s.invalidity_date, s.released_at,
    i.shard, i.tbs, c.der
FROM unnest(%b::integer[], %b::integer[], %b::bytea[], %b::text[]) AS k (n, issuer_id, serial, requestor)
LEFT JOIN who AS w ON w.name = k.requestor
LEFT JOIN chancery.intent AS i USING (issuer_id, serial)
LEFT JOIN chancery.request AS r USING (request_id)
LEFT JOIN chancery.certificate_status AS s USING (issuer_id, serial)
LEFT JOIN chancery.certificate AS c USING (issuer_id, serial)
ORDER BY n"""

# In the order of their ids, so that two workers wait for each other and not in a circle.
_SETTLE = """
WITH held AS (
    SELECT revocation_id FROM chancery.revocation_request
    WHERE revocation_id = ANY (%b::bigint[]) AND state = 'waiting' ORDER BY revocation_id FOR NO KEY UPDATE)
UPDATE chancery.revocation_request AS q SET state = a.state, detail = a.detail
FROM unnest(%b::bigint[], %b::text[], %b::text[]) AS a (revocation_id, state, detail)
    JOIN held USING (revocation_id)
WHERE q.revocation_id = a.revocation_id RETURNING q.revocation_id"""

# Inserted when only the intent is known. What is not forwards is refused by status_forwards.
_SET = """
INSERT INTO chancery.certificate_status AS s
    (issuer_id, serial, state, not_after, revoked_at, reason, invalidity_date, released_at, changed_at, shard)
SELECT * FROM unnest(%b::integer[], %b::bytea[], %b::text[], %b::timestamptz[], %b::timestamptz[], %b::smallint[],
    %b::timestamptz[], %b::timestamptz[], %b::timestamptz[], %b::smallint[]) AS a (issuer_id, serial)
ORDER BY issuer_id, serial
ON CONFLICT (issuer_id, serial) DO UPDATE SET state = excluded.state, revoked_at = excluded.revoked_at,
    reason = excluded.reason, invalidity_date = excluded.invalidity_date, released_at = excluded.released_at,
    changed_at = excluded.changed_at"""

_ENTRIES = """
SELECT serial, revoked_at, reason, invalidity_date FROM chancery.certificate_status
WHERE issuer_id = %s AND state = 'revoked' AND not_after >= %s ORDER BY serial"""

# A change is not covered when the snapshot that the latest CRL was read from could not see it. A snapshot from
# beyond the present belongs to another cluster (the database was restored), and one may be unknown (the CRL came
# from elsewhere): then the times decide.
_DUE = """
SELECT i.issuer_id
FROM chancery.issuer AS i
LEFT JOIN LATERAL (
    SELECT covers, this_update, next_update,
        CASE WHEN pg_snapshot_xmax(snapshot) <= pg_snapshot_xmax(pg_current_snapshot()) THEN snapshot END AS seen
    FROM chancery.crl WHERE issuer_id = i.issuer_id ORDER BY number DESC LIMIT 1) AS c ON true
WHERE c.covers IS NULL
   -- The clock was ahead when it was made: nobody accepts it yet.
   OR c.this_update > %(at)s
   OR %(at)s >= c.next_update - least(%(refresh)s, (c.next_update - c.this_update) / 2)
   OR CASE WHEN c.seen IS NULL THEN
        EXISTS (SELECT FROM chancery.certificate_status AS s
            WHERE s.issuer_id = i.issuer_id AND s.state = 'revoked' AND s.changed_at > c.covers)
        OR EXISTS (SELECT FROM chancery.certificate_status AS s WHERE s.issuer_id = i.issuer_id
            AND s.state = 'good' AND s.released_at IS NOT NULL AND s.changed_at > c.covers)
        OR EXISTS (SELECT FROM chancery.crl_wish AS w WHERE w.issuer_id = i.issuer_id AND w.asked_at > c.covers)
      ELSE
        EXISTS (SELECT FROM chancery.certificate_status AS s
            WHERE s.issuer_id = i.issuer_id AND s.state = 'revoked' AND s.changed_xid >= pg_snapshot_xmin(c.seen)
              AND NOT pg_visible_in_snapshot(s.changed_xid, c.seen))
        OR EXISTS (SELECT FROM chancery.certificate_status AS s WHERE s.issuer_id = i.issuer_id
            AND s.state = 'good' AND s.released_at IS NOT NULL AND s.changed_xid >= pg_snapshot_xmin(c.seen)
            AND NOT pg_visible_in_snapshot(s.changed_xid, c.seen))
        OR EXISTS (SELECT FROM chancery.crl_wish AS w
            WHERE w.issuer_id = i.issuer_id AND w.xid >= pg_snapshot_xmin(c.seen)
              AND NOT pg_visible_in_snapshot(w.xid, c.seen))
      END
ORDER BY i.issuer_id"""

# The same lock as the triggers', so that two writers draw different numbers.
_LOCK_NUMBERS = "SELECT pg_advisory_xact_lock(1128814339, %s)"
_RESERVE = """
INSERT INTO chancery.crl_number (issuer_id, number)
SELECT %(issuer)s, coalesce(max(number), 0) + 1 FROM chancery.crl_number WHERE issuer_id = %(issuer)s
RETURNING number"""
_PUBLISH = """
INSERT INTO chancery.crl (issuer_id, number, this_update, next_update, covers, snapshot, der)
VALUES (%s, %s, %s, %s, %s, %s::pg_snapshot, %s)"""


class PgRevocationStore:
    """`ports.RevocationStore` as the role `chancery_worker`."""

    def __init__(self, source: Connection | Session) -> None:
        self._session = session(source)
        # What the entries of the CRL in the making were read from, per issuer.
        self._read_from: dict[int, str] = {}

    def take_revocations(self, limit: int) -> list[RevocationRequest]:
        """Return waiting revocation requests, oldest first. They stay waiting until `settle` ends them."""
        return [
            RevocationRequest(row[0], row[1], bytes(row[2]), RevocationReason(row[3]), *row[4:])
            for row in self._session.fetch(_TAKE, {"limit": limit})
        ]

    def standings(self, requests: Sequence[RevocationRequest]) -> list[Standing]:
        """Return what each request is to be judged by; an intent alone is UNCONFIRMED."""
        asked = [(n, one.issuer_id, one.serial, one.requestor) for n, one in enumerate(requests)]
        names = sorted({one.requestor for one in requests})
        return [_standing(row) for row in self._session.fetch(_STANDINGS, (names, *rows.columns(asked, 4)))]

    def blocked(self, spki_sha256s: Sequence[bytes]) -> set[bytes]:
        """Return which of these keys were reported compromised (R5)."""
        return blocklist.blocked(self._session, spki_sha256s)

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """
        End these requests, each about another serial: statuses, blocked keys and events in one transaction.

        A request that another worker settled meanwhile is left as it is, and nothing of it is recorded.
        """
        ends = [
            (one.request.revocation_id, "refused" if one.status is None else "done", _detail(one))
            for one in settlements
        ]
        with self._session.transaction() as connection:
            # First, for its locks: whoever comes second sees that they are settled.
            ids = [row[0] for row in ends]
            found = {row[0] for row in connection.execute(_SETTLE, (ids, *rows.columns(ends, 3)))}
            mine = [one for one in settlements if one.request.revocation_id in found]
            for one in mine:
                if one.block is not None:
                    # Before the status, whose trigger would block it in other words.
                    blocklist.insert(connection, one.block)
            # The event has the exact moment; revoked_at is in whole seconds and may lie before what a CRL covers.
            set_statuses(
                connection,
                [(one.status, max(event.at for event in one.events)) for one in mine if one.status is not None],
            )
            insert_events(connection, [event for one in mine for event in one.events])

    def revoked_entries(self, issuer_id: int, expired_since: datetime.datetime) -> list[RevokedEntry]:
        """Every revoked serial whose certificate had not expired at `expired_since`, in serial order (R16)."""
        with self._session.transaction() as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            row = connection.execute("SELECT pg_current_snapshot()::text").fetchone()
            assert row is not None
            cursor = connection.execute(_ENTRIES, (issuer_id, expired_since), binary=True)
            entries = [RevokedEntry(bytes(r[0]), r[1], RevocationReason(r[2]), r[3]) for r in cursor]
        self._read_from[issuer_id] = row[0]
        return entries

    def crl_due(self, at: datetime.datetime) -> list[int]:
        """Issuers that need a CRL: none yet, something after what the latest covers, or it is near its end."""
        return [row[0] for row in self._session.fetch(_DUE, {"at": at, "refresh": REFRESH})]

    def latest_crl(self, issuer_id: int) -> CRLRecord | None:
        """Return the issuer's current CRL."""
        found = self._session.fetch(rows.LATEST_CRL, (issuer_id,))
        return rows.crl_record(found[0]) if found else None

    def reserve_crl_number(self, issuer_id: int, events: Sequence[Event]) -> int:
        """Return the next CRLNumber, strictly greater than any returned before (R15), and record the intent."""
        with self._session.transaction() as connection:
            connection.execute(_LOCK_NUMBERS, (issuer_id,))
            row = connection.execute(_RESERVE, {"issuer": issuer_id}).fetchone()
            assert row is not None
            insert_events(connection, events)
        return int(row[0])

    def publish_crl(self, crl: CRLRecord, events: Sequence[Event]) -> None:
        """
        Make this the issuer's current CRL.

        PKIError(SYSTEM_FAILURE) for a number not above the current one, or not reserved.
        """
        with self._session.transaction(pipeline=True) as connection:
            insert_crl(connection, crl, self._read_from.get(crl.issuer_id))
            insert_events(connection, events)
        self._read_from.pop(crl.issuer_id, None)


def insert_crl(connection: PgConnection, crl: CRLRecord, snapshot: str | None) -> None:
    """Write a CRL in the caller's transaction; `snapshot` is what its entries were read from, if known."""
    connection.execute(
        _PUBLISH,
        (crl.issuer_id, crl.number, crl.this_update, crl.next_update, crl.covers, snapshot, crl.der),
    )


def _standing(row: Sequence[Any]) -> Standing:
    anything, own, *status, tbs, certificate = row
    # Without an intent there is no end of validity either: the serial was never used.
    known = None if status[3] is None else rows.status(status)
    return Standing(anything or own, anything, known, tbs, certificate)


def _detail(settlement: Settlement) -> str | None:
    return None if settlement.status is not None else rows.storable(settlement.refusal or "")


def set_statuses(
    connection: PgConnection, statuses: Sequence[tuple[CertificateStatus, datetime.datetime]]
) -> None:
    """Set statuses, each with the moment of its change, in the caller's transaction."""
    if statuses:
        connection.execute(_SET, rows.columns([_change(*one) for one in statuses], 10))


def _change(status: CertificateStatus, changed_at: datetime.datetime) -> tuple[object, ...]:
    reason = None if status.reason is None else int(status.reason)
    whose, times = (status.issuer_id, status.serial), (status.invalidity_date, status.released_at)
    what = (status.state.value, status.not_after, status.revoked_at, reason)
    return (*whose, *what, *times, changed_at, status.shard)
