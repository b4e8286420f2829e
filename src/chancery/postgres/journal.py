"""The journal's rows: events as the stores write them, and the Merkle log's own storage."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from chancery.errors import ErrorType, PKIError
from chancery.ports import Checkpoint, Event, EventDetail, Leaf
from chancery.postgres.rows import is_storable, storable
from chancery.postgres.session import AsyncPgConnection, Connection, PgConnection, Session, session

INSERT_EVENTS = """
INSERT INTO chancery.journal_event (body)
SELECT body FROM unnest(%b::text[]) WITH ORDINALITY AS event (body, n) ORDER BY n"""

_LOCK = 0x43485703


def event_body(event: Event) -> str:
    """Return the body that is stored and hashed: `Event.body()` with every string storable."""
    body = event.body()
    if "\\u0000" not in body and is_storable(body):
        return body
    detail: EventDetail = {storable(key): _storable_value(value) for key, value in event.detail.items()}
    return dataclasses.replace(
        event, actor=storable(event.actor), subject=storable(event.subject), detail=detail
    ).body()


def _storable_value(value: str | int | bool | Sequence[str] | None) -> str | int | bool | Sequence[str] | None:  # noqa: FBT001 - an event's value
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, Sequence):
        return [storable(one) for one in value]
    return value


def insert_events(connection: PgConnection, events: Sequence[Event]) -> None:
    """Write events in the caller's transaction, in their order."""
    if events:
        connection.execute(INSERT_EVENTS, ([event_body(event) for event in events],))


async def insert_events_async(connection: AsyncPgConnection, events: Sequence[Event]) -> None:
    """Write events in the caller's transaction, in their order."""
    if events:
        await connection.execute(INSERT_EVENTS, ([event_body(event) for event in events],))


# By xid and not by id: ids are drawn before they commit, so a lower one may appear after a higher one. Every
# transaction below the snapshot's xmin has ended, so nothing can still appear there.
_UNSEQUENCED = """
WITH waiting AS (
    SELECT e.event_id, e.body, e.xid
    FROM chancery.journal_event AS e
    WHERE e.xid >= %s::text::xid8
      AND NOT EXISTS (SELECT FROM chancery.journal_leaf AS l WHERE l.event_id = e.event_id OFFSET 0)
    ORDER BY e.xid, e.event_id LIMIT %s
), measured AS (
    SELECT *, sum(octet_length(body)) OVER (ORDER BY xid, event_id) - octet_length(body) AS before,
        count(*) OVER () AS found
    FROM waiting
)
SELECT event_id, body, xid::text::bigint, found FROM measured WHERE before < %s ORDER BY xid, event_id"""
MAX_PAGE = 8 * 1024 * 1024
"""Octets of bodies after which a page of unsequenced events ends: a writer decides how long an event is."""
_XMIN = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"


class PgJournalStore:
    """
    `ports.JournalStore` over one connection.

    A sequencer opens its session with `session.sequencer_lock`; `append` keeps the log whole without it too.
    """

    def __init__(self, source: Connection | Session) -> None:
        self._session = session(source)
        # Every event of a transaction below this xid has a leaf: where the search begins, and nothing more.
        self._settled = 0
        self._found: tuple[frozenset[int], int] = (frozenset(), 0)

    def unsequenced(self, limit: int) -> list[tuple[int, str]]:
        """
        Return committed events without a leaf, by id; at most `limit`, those of the oldest transactions.

        Fewer where their bodies would be more than `MAX_PAGE` octets, but at least one.
        """
        with self._session.transaction() as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            row = connection.execute(_XMIN).fetchone()
            assert row is not None
            rows = connection.execute(_UNSEQUENCED, (str(self._settled), limit, MAX_PAGE)).fetchall()
        whole = not rows or len(rows) == rows[0][3] < limit
        horizon = int(row[0]) if whole else min(int(row[0]), int(rows[-1][2]))
        self._found = (frozenset(row[0] for row in rows), horizon)
        self._advance(frozenset())
        return sorted((event_id, body) for event_id, body, _, _ in rows)

    def _advance(self, appended: frozenset[int]) -> None:
        """Begin the next search at the horizon of the last one, once all that it found has leaves."""
        found, horizon = self._found
        if found <= appended:
            self._settled = max(self._settled, horizon)

    def tree_size(self) -> int:
        """Return the number of leaves, counted as the highest index and one."""
        with self._session.transaction() as connection:
            return _tree_size(connection)

    def leaf_hashes(self, start: int, limit: int) -> list[bytes]:
        """Return leaf hashes from index `start`; fewer than `limit` at the end or before a gap."""
        with self._session.transaction() as connection:
            rows = connection.execute(
                "SELECT leaf_index, hash FROM chancery.journal_leaf WHERE leaf_index >= %s AND leaf_index < %s"
                " ORDER BY leaf_index",
                (start, start + limit),
                binary=True,
            ).fetchall()
        return [hash_ for offset, (index, hash_) in enumerate(rows) if index == start + offset]

    def append(self, leaves: Sequence[tuple[int, int, bytes]], checkpoint: Checkpoint) -> None:
        """
        Store leaves and the checkpoint over all, in one transaction.

        Raises PKIError(SYSTEM_UNAVAIL) and stores nothing when another sequencer has gone ahead.
        """
        with self._session.transaction() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            start = leaves[0][0] if leaves else checkpoint.tree_size
            if _tree_size(connection) != start:
                raise PKIError(ErrorType.SYSTEM_UNAVAIL, "another process sequenced the journal meanwhile")
            with connection.pipeline():
                connection.execute(
                    "INSERT INTO chancery.journal_leaf (leaf_index, event_id, hash)"
                    " SELECT * FROM unnest(%b::bigint[], %b::bigint[], %b::bytea[])",
                    ([one[0] for one in leaves], [one[1] for one in leaves], [one[2] for one in leaves]),
                )
                connection.execute(
                    "INSERT INTO chancery.journal_checkpoint (tree_size, root, note, at) VALUES (%s, %s, %s, %s)",
                    (checkpoint.tree_size, checkpoint.root, checkpoint.note, checkpoint.at),
                )
        self._advance(frozenset(event_id for _, event_id, _ in leaves))

    def checkpoints(self, after: int = 0, limit: int | None = None) -> list[Checkpoint]:
        """Return the checkpoints of trees larger than `after`, by tree size; at most `limit`."""
        with self._session.transaction() as connection:
            rows = connection.execute(
                "SELECT tree_size, root, note, at FROM chancery.journal_checkpoint WHERE tree_size > %s"
                " ORDER BY tree_size LIMIT %s",
                (after, limit),
            ).fetchall()
        return [Checkpoint(*row) for row in rows]

    def latest_checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint of the largest tree."""
        with self._session.transaction() as connection:
            row = connection.execute(
                "SELECT tree_size, root, note, at FROM chancery.journal_checkpoint ORDER BY tree_size DESC LIMIT 1"
            ).fetchone()
        return Checkpoint(*row) if row else None

    def leaves(self, start: int, limit: int) -> list[Leaf]:
        """Return at most `limit` leaves with an index from `start`, by index, each with its event's body now."""
        with self._session.transaction() as connection:
            rows = connection.execute(
                "SELECT l.leaf_index, l.event_id, e.body, l.hash FROM chancery.journal_leaf AS l"
                " LEFT JOIN chancery.journal_event AS e USING (event_id)"
                " WHERE l.leaf_index >= %s ORDER BY l.leaf_index LIMIT %s",
                (start, limit),
            ).fetchall()
        return [Leaf(*row) for row in rows]

    def events_without_leaf(self) -> list[tuple[int, str]]:
        """Return events that no leaf names, whenever they were written, by id."""
        with self._session.transaction() as connection:
            # Both tables are read whole.
            connection.execute("SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on")
            return [
                (event_id, body)
                for event_id, body in connection.execute(
                    "SELECT event_id, body FROM chancery.journal_event AS e WHERE NOT EXISTS"
                    " (SELECT FROM chancery.journal_leaf AS l WHERE l.event_id = e.event_id) ORDER BY event_id"
                )
            ]

    def retirements(self) -> list[str]:
        """Return the bodies of the events by which retention says which events it dropped."""
        with self._session.transaction() as connection:
            rows = connection.execute(
                "SELECT body FROM chancery.journal_event WHERE subject LIKE 'partition:journal\\_event\\_%'"
                " AND kind = 'retention.dropped' AND writer = 'chancery_owner' ORDER BY event_id"
            ).fetchall()
        return [row[0] for row in rows]

    def begin_year(self) -> None:
        """Let this year's events be numbered from the year on, which is how they come to lie in its partition."""
        self._session.fetch("SELECT chancery.begin_year()")


def _tree_size(connection: PgConnection) -> int:
    row = connection.execute("SELECT coalesce(max(leaf_index) + 1, 0) FROM chancery.journal_leaf").fetchone()
    assert row is not None
    return int(row[0])
