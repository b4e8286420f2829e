"""The timestamping authority's records."""

from __future__ import annotations

from collections.abc import Sequence

from chancery.ports import Event, TokenRecord
from chancery.postgres.journal import insert_events_async
from chancery.postgres.rows import columns, storable
from chancery.postgres.session import AsyncPool

# Serials are up to 160 bits: they travel as text.
_INSERT_TOKENS = """
INSERT INTO chancery.tsa_token (serial, gen_time, hash_oid, imprint, policy, client)
SELECT serial::numeric, gen_time, hash_oid, imprint, policy, client
FROM unnest(%b::text[], %b::timestamptz[], %b::text[], %b::bytea[], %b::text[], %b::text[])
    AS t (serial, gen_time, hash_oid, imprint, policy, client)"""


class PgTimestampStore:
    """`ports.TimestampStore` as the role `chancery_tsa`, inside one event loop."""

    def __init__(self, pool: AsyncPool) -> None:
        self._pool = pool

    async def record(self, tokens: Sequence[TokenRecord], events: Sequence[Event]) -> None:
        """
        Store all of them in one transaction and one round trip; durable on return.

        Raises PKIError: SYSTEM_FAILURE for a repeated serial, SYSTEM_UNAVAIL when the database is away.
        """
        rows = [(str(t.serial), t.gen_time, t.hash_oid, t.imprint, t.policy, storable(t.client)) for t in tokens]
        async with self._pool.transaction(pipeline=True) as connection:
            if rows:
                await connection.execute(_INSERT_TOKENS, columns(rows, 6))
            await insert_events_async(connection, events)
