"""The timestamping authority's records."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence

from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.ports import Event, TokenRecord
from chancery.postgres.journal import insert_events_async
from chancery.postgres.rows import columns, storable
from chancery.postgres.session import AsyncPgConnection, AsyncPool

# Serials are up to 160 bits: they travel as text.
_INSERT_TOKENS = """
INSERT INTO chancery.tsa_token (serial, gen_time, hash_oid, imprint, policy, client, unit, ordering)
SELECT serial::numeric, gen_time, hash_oid, imprint, policy, client, unit, ordering
FROM unnest(%b::text[], %b::timestamptz[], %b::text[], %b::bytea[], %b::text[], %b::text[], %b::text[],
    %b::boolean[])
    AS t (serial, gen_time, hash_oid, imprint, policy, client, unit, ordering)"""
_LOCK_UNIT = "SELECT last_gen_time FROM chancery.tsa_unit WHERE unit = %s AND ordering FOR UPDATE"
_MOVE_UNIT = "UPDATE chancery.tsa_unit SET last_gen_time = %s WHERE unit = %s"
_ADD_UNIT = "INSERT INTO chancery.tsa_unit (unit, ordering, added_at) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
_ADD_KEY = """
INSERT INTO chancery.tsa_key (spki_sha256, unit, added_at) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"""
_REGISTERED = """
SELECT u.ordering, k.unit FROM chancery.tsa_unit AS u, chancery.tsa_key AS k
WHERE u.unit = %s AND k.spki_sha256 = %s"""
Assign = Callable[[datetime.datetime | None], tuple[Sequence[TokenRecord], Sequence[Event]]]


class PgTimestampStore:
    """`ports.TimestampStore` as the role `chancery_tsa`, inside one event loop."""

    def __init__(self, pool: AsyncPool) -> None:
        self._pool = pool

    async def record(self, tokens: Sequence[TokenRecord], events: Sequence[Event]) -> None:
        """
        Store all of them in one transaction and one round trip; durable on return.

        Raises PKIError: SYSTEM_FAILURE for a repeated serial, SYSTEM_UNAVAIL when the database is away.
        """
        async with self._pool.transaction(pipeline=True) as connection:
            await _insert(connection, tokens, events)

    async def record_in_order(self, unit: str, assign: Assign) -> None:
        """Hold the unit's row while its tokens get their times. Two round trips; errors as the port's."""
        async with self._pool.transaction(pipeline=True) as connection:
            row = await (await connection.execute(_LOCK_UNIT, (unit,))).fetchone()
            if row is None:
                raise PKIError(ErrorType.SYSTEM_FAILURE, "the timestamping unit is not registered as ordered")
            tokens, events = assign(row[0])
            if tokens:
                await connection.execute(_MOVE_UNIT, (max(token.gen_time for token in tokens), unit))
            await _insert(connection, tokens, events)

    async def register(self, unit: str, spki_sha256: bytes, *, ordering: bool, event: Event) -> None:
        """Note a unit and its key, with the event when either is new. Errors as the port's."""
        async with self._pool.transaction() as connection:
            added = await connection.execute(_ADD_UNIT, (unit, ordering, event.at))
            key = await connection.execute(_ADD_KEY, (spki_sha256, unit, event.at))
            row = await (await connection.execute(_REGISTERED, (unit, spki_sha256))).fetchone()
            if row is None:
                raise PKIError(ErrorType.SYSTEM_FAILURE, "the timestamping unit cannot be registered")
            if row[1] != unit:
                raise OperatorError(
                    f"the key of the timestamping unit {unit} is the key of {row[1]} already",
                    "give each unit a key of its own (`key_label`)",
                )
            if row[0] != ordering:
                raise OperatorError(
                    f"the timestamping unit {unit} was first started with ordering = {str(row[0]).lower()}",
                    "that never changes, as its tokens rely on it: give the unit another name, and another key",
                )
            if added.rowcount or key.rowcount:
                await insert_events_async(connection, [event])

    async def keys(self, unit: str) -> dict[bytes, datetime.datetime]:
        """Return the keys that a unit signed with (SHA-256 of their SubjectPublicKeyInfo), and since when."""
        rows = await self._pool.fetch(
            "SELECT spki_sha256, added_at FROM chancery.tsa_key WHERE unit = %s", (unit,)
        )
        return {row[0]: row[1] for row in rows}


async def _insert(connection: AsyncPgConnection, tokens: Sequence[TokenRecord], events: Sequence[Event]) -> None:
    rows = [
        (str(t.serial), t.gen_time, t.hash_oid, t.imprint, t.policy, storable(t.client), t.unit, t.ordering)
        for t in tokens
    ]
    if rows:
        await connection.execute(_INSERT_TOKENS, columns(rows, 8))
    await insert_events_async(connection, events)
