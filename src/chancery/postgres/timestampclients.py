"""The timestamping authority's clients and what they used of their quotas."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import psycopg

from chancery.errors import ErrorType, PKIError
from chancery.ports import Event
from chancery.ports.timestamps import ClientKind, Span, TimestampClient
from chancery.postgres.journal import insert_events_async
from chancery.postgres.session import AsyncPool

_COLUMNS = """c.name, c.kind, c.credential, c.networks, c.policies, c.per_second, c.burst, c.per_day, c.per_month,
    c.added_at, c.added_by, c.revoked_at"""
_EVERY = f"SELECT {_COLUMNS} FROM chancery.tsa_client AS c ORDER BY c.name"  # noqa: S608 - a constant
_ACTIVE = f"""
SELECT {_COLUMNS} FROM chancery.tsa_client AS c
WHERE c.revoked_at IS NULL AND (c.kind <> 'certificate' OR NOT EXISTS (
    SELECT FROM chancery.certificate AS x JOIN chancery.certificate_status AS s USING (issuer_id, serial)
    WHERE sha256(x.der) = c.credential AND s.state <> 'good'))
ORDER BY c.name"""  # noqa: S608 - put together from constants
_ADD = """
INSERT INTO chancery.tsa_client (name, kind, credential, networks, policies, per_second, burst, per_day, per_month,
    added_at, added_by) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"""
_REVOKE = """
UPDATE chancery.tsa_client SET revoked_at = %s WHERE name = %s AND revoked_at IS NULL RETURNING name"""
_BEGIN = """
INSERT INTO chancery.tsa_usage (client, span, began, used) VALUES (%(client)s, %(span)s, %(began)s, 0)
ON CONFLICT DO NOTHING"""
_RESERVE = """
UPDATE chancery.tsa_usage AS u SET used = u.used + free.many
FROM (SELECT LEAST(%(wanted)s::bigint, %(limit)s::bigint - used) AS many FROM chancery.tsa_usage WHERE
    (client, span, began) = (%(client)s, %(span)s, %(began)s) AND used < %(limit)s::bigint FOR UPDATE) AS free
WHERE (u.client, u.span, u.began) = (%(client)s, %(span)s, %(began)s)
RETURNING free.many"""
_GIVE_BACK = """
UPDATE chancery.tsa_usage SET used = used - %(unused)s
WHERE (client, span, began) = (%(client)s, %(span)s, %(began)s)"""


class PgTimestampClients:
    """`ports.timestamps.TimestampClients` as the role `chancery_ra`, inside one event loop."""

    def __init__(self, pool: AsyncPool) -> None:
        self._pool = pool

    async def add(self, client: TimestampClient, events: Sequence[Event]) -> None:
        """Store a client with its events. PKIError(BAD_REQUEST) when its name or credential was ever given."""
        values = (
            client.name,
            client.kind.value,
            client.credential,
            list(client.networks),
            None if client.policies is None else list(client.policies),
            client.per_second,
            client.burst,
            client.per_day,
            client.per_month,
            client.added_at,
            client.added_by,
        )
        async with self._pool.transaction() as connection:
            try:
                await connection.execute(_ADD, values)
            except psycopg.errors.UniqueViolation as error:
                raise PKIError(
                    ErrorType.BAD_REQUEST, "that name or credential is or was a timestamp client's already"
                ) from error
            await insert_events_async(connection, events)

    async def revoke(self, name: str, at: datetime.datetime, events: Sequence[Event]) -> None:
        """Revoke a client for good, with its events. PKIError(BAD_CERT_ID) when there is none to revoke."""
        async with self._pool.transaction() as connection:
            if await (await connection.execute(_REVOKE, (at, name))).fetchone() is None:
                raise PKIError(ErrorType.BAD_CERT_ID, "no timestamp client of that name that is not revoked")
            await insert_events_async(connection, events)

    async def clients(self) -> list[TimestampClient]:
        """Return every client there ever was, by name."""
        return [_client(row) for row in await self._pool.fetch(_EVERY)]


class PgTimestampUsage:
    """`ports.timestamps.TimestampUsage` as the role `chancery_tsa`, inside one event loop."""

    def __init__(self, pool: AsyncPool) -> None:
        self._pool = pool

    async def clients(self) -> list[TimestampClient]:
        """Return the clients that may ask now."""
        return [_client(row) for row in await self._pool.fetch(_ACTIVE)]

    async def reserve(self, client: str, span: Span, began: datetime.date, wanted: int, limit: int) -> int:
        """Count up to `wanted` tokens against a quota; return how many. Durable on return."""
        values = {"client": client, "span": span.value, "began": began, "wanted": wanted, "limit": limit}
        async with self._pool.transaction() as connection:
            await connection.execute(_BEGIN, values)
            row = await (await connection.execute(_RESERVE, values)).fetchone()
        return 0 if row is None else int(row[0])

    async def give_back(self, client: str, span: Span, began: datetime.date, unused: int) -> None:
        """Take tokens that were reserved and not granted off the count again."""
        values = {"client": client, "span": span.value, "began": began, "unused": unused}
        async with self._pool.transaction() as connection:
            await connection.execute(_GIVE_BACK, values)


def _client(row: Sequence[Any]) -> TimestampClient:
    name, kind, credential, networks, policies, *rest = row
    return TimestampClient(
        name,
        ClientKind(kind),
        None if credential is None else bytes(credential),
        tuple(networks),
        None if policies is None else tuple(policies),
        *rest,
    )
