"""CRLs with their numbers: how they stand, what goes into them, and how a large one lies in pieces (R14-R16)."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Iterator, Sequence
from typing import Any

from chancery.errors import ErrorType, PKIError
from chancery.ports import (
    COMPLETE,
    CRLRecord,
    CRLScope,
    CRLSelection,
    CRLStanding,
    CRLState,
    Event,
)
from chancery.postgres import rows
from chancery.postgres.journal import insert_events
from chancery.postgres.session import Connection, PgConnection, Session, session

PART = 8192
"""Entries in a piece of a large CRL: some 300 KB. A CRL with no more than that is in one piece, in its row."""

# A snapshot from beyond the present belongs to another cluster (the database was restored), and one may be unknown
# (the CRL came from elsewhere): then the times decide what it does not cover.
_STANDING = """
    SELECT number, this_update, next_update, base_number, scope_idp, covers,
        CASE WHEN pg_snapshot_xmax(snapshot) <= pg_snapshot_xmax(pg_current_snapshot()) THEN snapshot END AS seen
    FROM chancery.crl WHERE issuer_id = s.issuer_id AND shard = s.shard AND base_number IS {} NULL
    ORDER BY number DESC LIMIT 1"""

# A change is not covered when the snapshot that a CRL was read from could not see it. The newest change is looked
# at first, and by its index: almost always it is covered, and then nothing else is looked at.
_CHANGED = """
    coalesce((SELECT t.changed_xid FROM chancery.certificate_status AS t
        WHERE t.issuer_id = s.issuer_id AND {0} ORDER BY t.changed_xid DESC LIMIT 1)
        >= pg_snapshot_xmin(n.seen), false)
    AND EXISTS (SELECT FROM chancery.certificate_status AS t
        WHERE t.issuer_id = s.issuer_id AND {0} AND t.shard = s.shard AND t.changed_xid >= pg_snapshot_xmin(n.seen)
          AND NOT pg_visible_in_snapshot(t.changed_xid, n.seen))"""
_WANTED = """EXISTS (SELECT FROM chancery.crl_wish AS w
    WHERE w.issuer_id = s.issuer_id AND w.delta = {1} AND coalesce(w.shard, s.shard) = s.shard
      AND CASE WHEN {0}.seen IS NULL THEN w.asked_at > {0}.covers
          ELSE w.xid >= pg_snapshot_xmin({0}.seen) AND NOT pg_visible_in_snapshot(w.xid, {0}.seen) END)"""
_RELEASED = "t.state = 'good' AND t.released_at IS NOT NULL"
_STATES = f"""
SELECT s.issuer_id, s.shard, s.url,
    f.number, f.this_update, f.next_update, f.base_number, f.scope_idp, f.seen IS NOT NULL,
    d.number, d.this_update, d.next_update, d.base_number, d.scope_idp, d.seen IS NOT NULL,
    CASE WHEN f.number IS NULL THEN true WHEN n.seen IS NULL THEN EXISTS (
        SELECT FROM chancery.certificate_status AS t WHERE t.issuer_id = s.issuer_id AND t.shard = s.shard
          AND t.changed_at > n.covers AND (t.state = 'revoked' OR {_RELEASED}))
    ELSE {_CHANGED.format("t.state = 'revoked' AND t.shard = s.shard")} OR {_CHANGED.format(_RELEASED)} END,
    {_WANTED.format("f", "false")}, {_WANTED.format("n", "true")}
FROM (SELECT issuer_id, 0::smallint AS shard, NULL::text AS url FROM chancery.issuer
      UNION ALL SELECT issuer_id, shard, url FROM chancery.crl_shard) AS s
LEFT JOIN LATERAL ({_STANDING.format("")}) AS f ON true
LEFT JOIN LATERAL ({_STANDING.format("NOT")}) AS d ON true
CROSS JOIN LATERAL (SELECT CASE WHEN d.number > f.number THEN d.seen ELSE f.seen END AS seen,
    CASE WHEN d.number > f.number THEN d.covers ELSE f.covers END AS covers) AS n
ORDER BY s.issuer_id, s.shard"""  # noqa: S608 - put together from constants

# R16: the end that an entry outlives, as `CertificateStatus.listed_until`; one index is by it.
LISTED_UNTIL = "coalesce(kept_until, not_after)"
_OF_SCOPE = f"issuer_id = %(issuer)s AND state = 'revoked' AND {LISTED_UNTIL} >= %(since)s"
_IN_SHARD = " AND shard = %(shard)s AND shard > 0"
# One statement is one snapshot, whatever commits meanwhile.
_SMALL = """
SELECT pg_current_snapshot()::text, count(*), string_agg(entry, ''::bytea ORDER BY serial) FROM (
    SELECT serial, entry FROM chancery.certificate_status WHERE {} ORDER BY serial LIMIT %(limit)s) AS found"""
# Each part begins after the last serial of the one before: the index is read once, and nothing is sorted.
_NEXT = """
    SELECT count(*)::integer, (array_agg(serial ORDER BY serial DESC))[1],
        string_agg(entry, ''::bytea ORDER BY serial)
    FROM (SELECT serial, entry FROM chancery.certificate_status
          WHERE {} ORDER BY serial LIMIT %(part)s) AS found"""
_LARGE = """
WITH RECURSIVE parts (part, entries, last, data) AS (
    SELECT 0, first.* FROM ({first}) AS first
    UNION ALL
    SELECT p.part + 1, following.* FROM parts AS p CROSS JOIN LATERAL ({next}) AS following
    WHERE p.entries = %(part)s)
INSERT INTO chancery.crl_part (issuer_id, number, part, entries, data)
SELECT %(issuer)s, %(number)s, part, entries, data FROM parts WHERE entries > 0
RETURNING pg_current_snapshot()::text, part, entries, octet_length(data)"""
_PARTS = "SELECT data FROM chancery.crl_part WHERE issuer_id = %s AND number = %s AND part = %s"
_BASE = """
SELECT snapshot::text, pg_snapshot_xmin(snapshot)::text FROM chancery.crl WHERE issuer_id = %s AND number = %s"""
# RFC 5280 5.2.4: what was revoked since, with its entry; what was released since, and what will not be on the next
# complete CRL because its time is over, as removeFromCRL (8).
_SINCE = """issuer_id = %(issuer)s AND changed_xid >= %(xmin)s::xid8
      AND NOT pg_visible_in_snapshot(changed_xid, %(seen)s::pg_snapshot)"""
_EXPIRED = f"""issuer_id = %(issuer)s AND state = 'revoked'
      AND {LISTED_UNTIL} >= %(before)s AND {LISTED_UNTIL} < %(since)s"""
_DELTA = """
SELECT pg_current_snapshot()::text, count(*), string_agg(entry, ''::bytea ORDER BY serial) FROM (
    SELECT serial, entry FROM chancery.certificate_status
    WHERE {since} AND state = 'revoked' AND {listed} >= %(since)s {shard}
    UNION ALL
    SELECT serial, chancery.crl_entry(serial, released_at, 8, NULL) FROM chancery.certificate_status
    WHERE {since} AND state = 'good' AND released_at IS NOT NULL AND {listed} >= %(since)s {shard}
    UNION ALL
    SELECT serial, chancery.crl_entry(serial, revoked_at, 8, NULL) FROM chancery.certificate_status
    WHERE {expired} {shard}
) AS found"""
_GONE = """
SELECT (SELECT count(*) FROM chancery.certificate_status
        WHERE {expired} {shard})
    + (SELECT count(*) FROM chancery.certificate_status WHERE issuer_id = %(issuer)s AND state = 'good'
        AND released_at IS NOT NULL AND changed_at >= %(released)s {shard})"""

# The same lock as the triggers', so that two writers draw different numbers.
LOCK_NUMBERS = "SELECT pg_advisory_xact_lock(1128814339, %s)"
_RESERVE = """
INSERT INTO chancery.crl_number (issuer_id, number)
SELECT %(issuer)s, coalesce(max(number), 0) + 1 FROM chancery.crl_number WHERE issuer_id = %(issuer)s
RETURNING number"""
_PUBLISH = """
INSERT INTO chancery.crl (issuer_id, number, this_update, next_update, covers, snapshot, der, shard, base_number,
    entries, size, expired_since, scope_idp, tail)
VALUES (%s, %s, %s, %s, %s, %s::pg_snapshot, %s, %s, %s, %s, %s, %s, %s, %s)"""


@dataclasses.dataclass(frozen=True, slots=True)
class _Draft:
    """`ports.CRLDraft` in an open transaction: `whole` in memory, or `parts` of this number."""

    connection: PgConnection
    issuer_id: int
    number: int | None
    snapshot: str
    entries: int
    size: int
    gone: int
    whole: bytes = b""
    parts: int = 0

    @property
    def large(self) -> bool:
        return self.parts > 0

    def chunks(self) -> Iterator[bytes]:
        """Give the entries, a part at a time."""
        if self.whole:
            yield self.whole
        for part in range(self.parts):
            row = self.connection.execute(_PARTS, (self.issuer_id, self.number, part), binary=True).fetchone()
            assert row is not None
            yield row[0]


class PgCRLStore:
    """The CRL part of `ports.RevocationStore` as the role `chancery_worker`."""

    def __init__(self, source: Connection | Session) -> None:
        self._session = session(source)
        self._drafts: dict[int, _Draft] = {}

    def crl_states(self) -> list[CRLState]:
        """How every CRL of every issuer stands, by issuer and shard."""
        return [
            CRLState(row[0], row[1], row[2], _standing(row[3:9]), _standing(row[9:15]), *row[15:])
            for row in self._session.fetch(_STATES)
        ]

    @contextlib.contextmanager
    def open_crl(self, selection: CRLSelection) -> Iterator[_Draft]:
        """Read the entries of a CRL as of one moment; `publish_crl` inside the block makes them part of it."""
        with self._session.transaction() as connection:
            draft = _draft(connection, selection)
            if selection.number is None:
                yield draft
                return
            self._drafts[selection.issuer_id] = draft
            try:
                yield draft
            finally:
                del self._drafts[selection.issuer_id]

    def latest_crl(self, issuer_id: int, scope: CRLScope = COMPLETE) -> CRLRecord | None:
        """Return the newest CRL of this scope."""
        found = self._session.fetch(rows.latest_crl(scope), (issuer_id, scope.shard))
        return rows.crl_record(found[0]) if found else None

    def reserve_crl_number(self, issuer_id: int, events: Sequence[Event]) -> int:
        """Return the next CRLNumber, strictly greater than any returned before (R15), and record the intent."""
        with self._session.transaction() as connection:
            connection.execute(LOCK_NUMBERS, (issuer_id,))
            row = connection.execute(_RESERVE, {"issuer": issuer_id}).fetchone()
            assert row is not None
            insert_events(connection, events)
        return int(row[0])

    def publish_crl(self, crl: CRLRecord, events: Sequence[Event]) -> None:
        """
        Make this the current CRL of its scope, with the entries of the draft that is open.

        PKIError(SYSTEM_FAILURE) for a number not above the current one, or not reserved.
        """
        draft = self._drafts.get(crl.issuer_id)
        with self._session.transaction() as connection:
            insert_crl(connection, crl, draft.snapshot if draft else None)
            insert_events(connection, events)


def insert_crl(connection: PgConnection, crl: CRLRecord, snapshot: str | None) -> None:
    """Write a CRL in the caller's transaction; `snapshot` is what its entries were read from, if known."""
    connection.execute(
        _PUBLISH,
        (
            crl.issuer_id,
            crl.number,
            crl.this_update,
            crl.next_update,
            crl.covers,
            snapshot,
            crl.der,
            crl.scope.shard,
            crl.base,
            crl.entries,
            crl.size or len(crl.der),
            crl.expired_since,
            crl.idp,
            crl.tail,
        ),
    )


def _standing(row: Sequence[Any]) -> CRLStanding | None:
    return None if row[0] is None else CRLStanding(*row)


def _draft(connection: PgConnection, selection: CRLSelection) -> _Draft:
    values = {
        "issuer": selection.issuer_id,
        "shard": selection.scope.shard,
        "since": selection.expired_since,
        "number": selection.number,
        "part": PART,
        # What nobody asked to be stored is wanted as a whole.
        "limit": None if selection.number is None else PART + 1,
    }
    shard = _IN_SHARD if selection.scope.shard else ""
    if selection.base is not None:
        return _delta(connection, selection, values, shard)
    snapshot, entries, whole = _one(connection, _SMALL.format(_OF_SCOPE + shard), values)
    gone = _gone(connection, selection, values, shard)
    if selection.number is None or entries <= PART:
        data = whole or b""
        return _Draft(connection, selection.issuer_id, selection.number, snapshot, entries, len(data), gone, data)
    where = _OF_SCOPE + shard
    statement = _LARGE.format(first=_NEXT.format(where), next=_NEXT.format(where + " AND serial > p.last"))
    parts = connection.execute(statement.encode(), values, binary=True).fetchall()
    return _Draft(
        connection,
        selection.issuer_id,
        selection.number,
        parts[0][0],
        sum(part[2] for part in parts),
        sum(part[3] for part in parts),
        gone,
        parts=len(parts),
    )


def _delta(connection: PgConnection, selection: CRLSelection, values: dict[str, Any], shard: str) -> _Draft:
    base = selection.base
    assert base is not None
    seen, xmin = _one(connection, _BASE, (selection.issuer_id, base.number))
    if seen is None:
        raise PKIError(ErrorType.SYSTEM_FAILURE, "nobody knows what changed since the base of this delta CRL")
    values |= {"seen": seen, "xmin": xmin, "before": base.expired_since or selection.expired_since}
    statement = _DELTA.format(since=_SINCE, expired=_EXPIRED, listed=LISTED_UNTIL, shard=shard)
    snapshot, entries, whole = _one(connection, statement, values)
    data = whole or b""
    return _Draft(connection, selection.issuer_id, selection.number, snapshot, entries, len(data), 0, data)


def _gone(connection: PgConnection, selection: CRLSelection, values: dict[str, Any], shard: str) -> int:
    previous = selection.previous
    if previous is None or previous.expired_since is None:
        return 0
    values = values | {"before": previous.expired_since, "released": previous.covers - datetime.timedelta(days=1)}
    return int(_one(connection, _GONE.format(expired=_EXPIRED, shard=shard), values)[0])


def _one(connection: PgConnection, statement: str, values: Any) -> Sequence[Any]:
    row = connection.execute(statement.encode(), values, binary=True).fetchone()
    assert row is not None
    return row
