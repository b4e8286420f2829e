"""The timestamping authority's records in PostgreSQL (table `tsa_token`)."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from chancery.errors import ErrorType, PKIError
from chancery.ports import Event, TokenRecord

_INSERT_TOKENS = """
INSERT INTO chancery.tsa_token (serial, gen_time, hash_oid, imprint, policy, client)
SELECT serial::numeric, gen_time, hash_oid, imprint, policy, client
FROM unnest(%s::text[], %s::timestamptz[], %s::text[], %s::bytea[], %s::text[], %s::text[])
    AS t (serial, gen_time, hash_oid, imprint, policy, client)
"""
_INSERT_EVENTS = "INSERT INTO chancery.journal_event (body) SELECT unnest(%s::text[])"


class PgTimestampStore:
    """`ports.TimestampStore` over a pool of connections of the role `chancery_tsa`."""

    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool

    async def record(self, tokens: Sequence[TokenRecord], events: Sequence[Event]) -> None:
        """Store all of them in one transaction; see `ports.TimestampStore.record`."""
        columns = (
            [str(token.serial) for token in tokens],
            [token.gen_time for token in tokens],
            [token.hash_oid for token in tokens],
            [token.imprint for token in tokens],
            [token.policy for token in tokens],
            [token.client for token in tokens],
        )
        try:
            # The pipeline sends both statements and the commit in one go.
            async with self._pool.connection() as connection, connection.pipeline(), connection.transaction():
                if tokens:
                    await connection.execute(_INSERT_TOKENS, columns)
                if events:
                    await connection.execute(_INSERT_EVENTS, ([event.body() for event in events],))
        except psycopg.errors.UniqueViolation as error:
            raise PKIError(ErrorType.SYSTEM_FAILURE, "the token could not be recorded") from error
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as error:
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the records cannot be reached") from error
