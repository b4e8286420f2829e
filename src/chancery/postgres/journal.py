"""The journal's rows: events as the stores write them, and the Merkle log's own storage."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from chancery.errors import ErrorType, PKIError
from chancery.ports import Checkpoint, Event, EventDetail, Leaf
from chancery.postgres.session import AsyncConnection, Connection, Session

_INSERT = """
INSERT INTO chancery.journal_event (body)
SELECT body FROM unnest(%s::text[]) WITH ORDINALITY AS event (body, n) ORDER BY n"""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable(text: str) -> str:
    """Replace what PostgreSQL text cannot hold (NUL, lone surrogates) by U+FFFD."""
    return _UNSTORABLE.sub("�", text)


def event_body(event: Event) -> str:
    """Return the body that is stored and hashed: `Event.body()` with every string storable."""
    body = event.body()
    if "\\u0000" not in body and not _UNSTORABLE.search(body):
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


def insert_events(connection: Connection, events: Sequence[Event]) -> None:
    """Write events in the caller's transaction, in their order."""
    if events:
        connection.execute(_INSERT, ([event_body(event) for event in events],))


async def insert_events_async(connection: AsyncConnection, events: Sequence[Event]) -> None:
    """Write events in the caller's transaction, in their order."""
    if events:
        await connection.execute(_INSERT, ([event_body(event) for event in events],))


# Every transaction with an xid below the snapshot's xmin has ended, so nothing can still appear there.
_UNSEQUENCED = """
SELECT event.event_id, event.body, pg_snapshot_xmin(pg_current_snapshot())::text
FROM (SELECT) AS always
LEFT JOIN LATERAL (
    SELECT event_id, body FROM chancery.journal_event AS e
    WHERE e.xid >= %s::xid8
      AND NOT EXISTS (SELECT FROM chancery.journal_leaf AS l WHERE l.event_id = e.event_id)
    ORDER BY event_id LIMIT %s
) AS event ON true"""


class PgJournalStore:
    """
    `JournalStore` over one session.

    For the sequencer, the session is opened with `sequencer_lock`; an auditor's has no lock.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        # Every event of a transaction below this xid has a leaf.
        self._settled_xid = "0"

    def unsequenced(self, limit: int) -> list[tuple[int, str]]:
        """Return committed events without a leaf, by id; at most `limit`."""
        with self._session.transaction() as connection:
            rows = connection.execute(_UNSEQUENCED, (self._settled_xid, limit)).fetchall()
        found = [(event_id, body) for event_id, body, _ in rows if event_id is not None]
        if not found:
            self._settled_xid = rows[0][2]
        return found

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
            return [
                (event_id, body)
                for event_id, body in connection.execute(
                    "SELECT event_id, body FROM chancery.journal_event AS e WHERE NOT EXISTS"
                    " (SELECT FROM chancery.journal_leaf AS l WHERE l.event_id = e.event_id) ORDER BY event_id"
                )
            ]


def _tree_size(connection: Connection) -> int:
    row = connection.execute("SELECT coalesce(max(leaf_index) + 1, 0) FROM chancery.journal_leaf").fetchone()
    assert row is not None
    return int(row[0])
