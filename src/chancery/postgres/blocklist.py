"""Keys that are never certified again (R5): one table, asked by its primary key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chancery.ports import BlockedKey
from chancery.postgres.rows import storable
from chancery.postgres.session import PgConnection, Session

BLOCKED = "SELECT spki_sha256 FROM chancery.blocked_key WHERE spki_sha256 = ANY (%b::bytea[])"
"""Which of these keys are blocked."""
BLOCK = """
INSERT INTO chancery.blocked_key (spki_sha256, reason, blocked_at, blocked_by) VALUES (%s, %s, %s, %s)
ON CONFLICT DO NOTHING RETURNING spki_sha256"""
PAGE = """
SELECT spki_sha256, reason, blocked_at, blocked_by FROM chancery.blocked_key
WHERE spki_sha256 > %s ORDER BY spki_sha256 LIMIT %s"""
ONE = """
SELECT spki_sha256, reason, blocked_at, blocked_by FROM chancery.blocked_key WHERE spki_sha256 = %s"""


def blocked(session: Session, spki_sha256s: Sequence[bytes]) -> set[bytes]:
    """Return which of these keys are blocked, in one statement."""
    return {bytes(row[0]) for row in session.fetch(BLOCKED, (list(spki_sha256s),))} if spki_sha256s else set()


def values(key: BlockedKey) -> tuple[object, ...]:
    """Return the parameters of `BLOCK`."""
    return key.spki_sha256, storable(key.reason), key.blocked_at, storable(key.blocked_by)


def insert(connection: PgConnection, key: BlockedKey) -> None:
    """Block a key in the caller's transaction; one that is blocked already stays as it is."""
    connection.execute(BLOCK, values(key))


def blocked_key(row: Sequence[Any]) -> BlockedKey:
    """Make the value of one row of `PAGE` or `ONE`."""
    return BlockedKey(bytes(row[0]), *row[1:])
