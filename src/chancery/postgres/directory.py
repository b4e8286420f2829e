"""What the management interface reads and keeps: operators, issuers, certificates, CRLs, counts."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from chancery.batching import Batcher
from chancery.errors import ErrorType, PKIError
from chancery.ports import (
    COMPLETE,
    COUNTED,
    BlockedKey,
    CertificateQuery,
    Clock,
    CRLRecord,
    CRLScope,
    Event,
    HierarchyNode,
    IssuerRecord,
    KeyPlace,
    Operator,
    Place,
    ProfileRecord,
    ProfileSwitch,
    Role,
    StoredCertificate,
)
from chancery.postgres import blocklist, rows
from chancery.postgres.journal import INSERT_EVENTS, event_body, insert_events_async
from chancery.postgres.session import AsyncPgConnection, AsyncPool
from chancery.postgres.status import whole_crl

MAX_RESULTS = 1000

# An operator who can log in: not removed, and with a certificate of this CA that is good at this time.
_USABLE = """
FROM chancery.operator AS o
JOIN chancery.certificate AS c ON sha256(c.der) = o.fingerprint
JOIN chancery.certificate_status AS s USING (issuer_id, serial)
WHERE o.removed_at IS NULL AND s.state = 'good' AND c.not_before <= %(at)s AND c.not_after >= %(at)s"""
_OPERATOR = f"SELECT o.fingerprint, o.name, o.roles, o.profiles {_USABLE} AND o.fingerprint = %(fingerprint)s"
_OTHER_ADMINISTRATOR = f"SELECT {_USABLE} AND 'administrator' = ANY (o.roles) AND o.name <> %(name)s LIMIT 1"
_OPERATORS = """
SELECT fingerprint, name, roles, profiles FROM chancery.operator WHERE removed_at IS NULL ORDER BY name"""
_ADD_OPERATOR = """
INSERT INTO chancery.operator (fingerprint, name, roles, profiles, added_at) VALUES (%s, %s, %s, %s, %s)"""
_REMOVE_OPERATOR = """
UPDATE chancery.operator SET removed_at = %s WHERE name = %s AND removed_at IS NULL RETURNING roles"""
# So that two administrators cannot remove each other at the same moment.
_LOCK_OPERATORS = """
SELECT FROM chancery.operator
WHERE removed_at IS NULL AND 'administrator' = ANY (roles) ORDER BY name FOR UPDATE"""

STORED = """c.certificate_id, i.name, c.serial, c.der, c.subject, c.names, c.not_before, c.not_after, c.profile,
    r.requestor, c.issued_at, c.issuer_id, s.state, s.not_after, s.revoked_at, s.reason, s.invalidity_date,
    s.released_at"""
"""The columns of `stored`."""
_SEARCH = f"""
SELECT {STORED}
FROM chancery.certificate AS c
JOIN chancery.certificate_status AS s USING (issuer_id, serial)
JOIN chancery.request AS r USING (request_id)
JOIN chancery.issuer AS i USING (issuer_id)
WHERE true{{conditions}} ORDER BY c.certificate_id DESC LIMIT %(limit)s"""  # noqa: S608 - put together from constants
_CONDITIONS = {
    "subject": "c.subject LIKE %(subject)s",
    "name": "c.names @> ARRAY[%(name)s]::text[]",
    "serial": "c.serial = %(serial)s",
    "spki_sha256": "c.spki_sha256 = %(spki_sha256)s",
    "profile": "c.profile = %(profile)s",
    "issuer": "i.name = %(issuer)s",
    "state": "s.state = %(state)s",
    "requestor": "r.requestor = %(requestor)s",
    "before": "c.certificate_id < %(before)s",
}

# Up to `COUNTED` rows are counted. What is more is estimated, from what the server knows of its tables: no
# statement here reads more when there are more.
_FEW = f"(SELECT count(*) FROM (SELECT FROM chancery.{{}} LIMIT {COUNTED + 1}) AS few)"  # noqa: S608 - put together from constants
_ABOVE = f"CASE WHEN {{0}} <= {COUNTED} THEN {{0}} ELSE greatest({COUNTED} + 1, coalesce({{1}}, 0)::bigint) END"
_COUNTS = f"""
SELECT (SELECT count(*) FROM chancery.request WHERE state = 'waiting'),
    (SELECT count(*) FROM chancery.request WHERE state = 'taken' AND worker IS NOT NULL),
    {_ABOVE.format("c.few", "c.many")}, {_ABOVE.format("r.few", "r.many")},
    (SELECT count(*) FROM chancery.certificate_status WHERE state = 'unconfirmed')
FROM (SELECT {_FEW.format("certificate")} AS few, (
        SELECT sum(greatest(reltuples, 0)) FROM pg_catalog.pg_class JOIN pg_catalog.pg_inherits ON oid = inhrelid
        WHERE inhparent = 'chancery.certificate'::regclass) AS many) AS c,
    (SELECT {_FEW.format("certificate_status WHERE state = 'revoked'")} AS few, (
        SELECT reltuples FROM pg_catalog.pg_class
        WHERE oid = 'chancery.certificate_status_entries'::regclass) AS many) AS r"""  # noqa: S608 - put together from constants

_BRIEF = rows.CRL_COLUMNS.replace(" der,", " ''::bytea,").replace(", tail", ", NULL::bytea")
"""A CRL without its DER, which of a large one is megabytes."""
_DELEGATE = "c.profile = ANY (%(delegates)s::text[]) AND c.not_before <= %(at)s AND c.not_after > %(at)s"
# Serials begin with the day of expiry: the highest are of those that end last. `shares` are of the statistics.
_HIERARCHY = f"""
WITH issuer AS ({rows.ISSUERS}),
recent AS MATERIALIZED (
    SELECT issuer_id, bool_or({_DELEGATE}) AS delegate FROM (
        SELECT * FROM chancery.certificate ORDER BY certificate_id DESC LIMIT {COUNTED}) AS c GROUP BY issuer_id),
shares AS (
    SELECT u.id, u.share * greatest(t.reltuples, 0) AS many FROM pg_catalog.pg_class AS t
    JOIN pg_catalog.pg_stats AS s
        ON (s.schemaname, s.tablename, s.attname) = ('chancery', t.relname, 'issuer_id'),
    unnest(s.most_common_vals::text::integer[], s.most_common_freqs) AS u (id, share)
    WHERE t.oid = 'chancery.certificate_status'::regclass)
SELECT i.*, k.place, k.module, k.device, k.software, k.imported,
    CASE WHEN v.seen <= {COUNTED} THEN v.many ELSE greatest({COUNTED} + 1, coalesce(h.many, 0)::bigint) END,
    {_ABOVE.format("r.few", "c.entries")}, v.until,
    CASE WHEN coalesce(v.delegate, false) OR coalesce(n.delegate, false) THEN true
        WHEN v.seen <= {COUNTED} THEN false END, c.*
FROM issuer AS i
LEFT JOIN chancery.issuer_key AS k USING (issuer_id)
LEFT JOIN recent AS n USING (issuer_id)
LEFT JOIN shares AS h ON h.id = i.issuer_id
CROSS JOIN LATERAL (
    SELECT count(*) AS seen, count(c.serial) AS many, max(c.not_after) AS until, bool_or({_DELEGATE}) AS delegate
    FROM (SELECT serial FROM chancery.certificate_status AS s WHERE s.issuer_id = i.issuer_id
        ORDER BY serial DESC LIMIT {COUNTED + 1}) AS s
    LEFT JOIN chancery.certificate AS c ON (c.serial, c.issuer_id) = (s.serial, i.issuer_id)) AS v
CROSS JOIN LATERAL (SELECT {
    _FEW.format("certificate_status AS s WHERE s.issuer_id = i.issuer_id AND s.state = 'revoked'")
} AS few) AS r
LEFT JOIN LATERAL (SELECT {_BRIEF} FROM chancery.crl AS l WHERE l.issuer_id = i.issuer_id
    AND l.shard = 0 AND l.base_number IS NULL ORDER BY l.number DESC LIMIT 1) AS c ON true
ORDER BY i.issuer_id"""  # noqa: S608 - put together from constants
_ISSUER_ID = "SELECT issuer_id FROM chancery.issuer WHERE name = %s"
# One look at an index for each, however many there were before it.
_OF_SCOPE = f"""SELECT {_BRIEF}
    FROM chancery.crl AS l WHERE l.issuer_id = s.issuer_id AND l.shard = s.shard AND l.base_number IS {{}} NULL
    ORDER BY l.number DESC LIMIT 1"""  # noqa: S608 - put together from constants
_CRLS = f"""
SELECT c.* FROM (SELECT issuer_id, 0::smallint AS shard FROM chancery.issuer
    UNION ALL SELECT issuer_id, shard FROM chancery.crl_shard) AS s
CROSS JOIN LATERAL (({_OF_SCOPE.format("")}) UNION ALL ({_OF_SCOPE.format("NOT")})) AS c
ORDER BY c.issuer_id, c.shard, c.base_number IS NULL DESC"""  # noqa: S608 - put together from constants


_PROFILES = """
SELECT name, version, sha256, source, added_at FROM chancery.profile ORDER BY name, added_at DESC, version DESC
LIMIT %s"""
_SWITCHES = """
SELECT DISTINCT ON (name) name, active, reason, operator, at FROM chancery.profile_switch
ORDER BY name, switch_id DESC"""
_SWITCH = "SELECT chancery.switch_profile(%s, %s, %s, %s, %s, %s)"
SWITCHES_SECONDS = 1.0
"""How old an answer about switched profiles may be; the worker looks each time."""


class PgDirectory:
    """`ports.Directory` as the role `chancery_ra`, inside one event loop."""

    def __init__(self, pool: AsyncPool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._events: Batcher[Sequence[Event], None] = Batcher(self._record)
        self._switches: tuple[float, Mapping[str, ProfileSwitch]] | None = None

    async def operator(self, fingerprint: bytes) -> Operator | None:
        """Return the operator with this certificate, unless removed, revoked, unconfirmed or expired."""
        found = await self._pool.fetch(_OPERATOR, {"fingerprint": fingerprint, "at": self._clock.now()})
        return _operator(found[0]) if found else None

    async def operators(self) -> list[Operator]:
        """Return every operator that is not removed, by name."""
        return [_operator(row) for row in await self._pool.fetch(_OPERATORS)]

    async def add_operator(self, operator: Operator, at: datetime.datetime, events: Sequence[Event]) -> None:
        """PKIError(BAD_REQUEST) when the name or the certificate is taken, now or before, or cannot be."""
        if not rows.is_storable("".join((operator.name, *(operator.profiles or ())))):
            raise PKIError(ErrorType.BAD_REQUEST, "NUL or an unpaired surrogate in a name")
        values = (
            operator.fingerprint,
            operator.name,
            sorted(role.value for role in operator.roles),
            None if operator.profiles is None else sorted(operator.profiles),
            at,
        )
        async with self._pool.transaction() as connection:
            try:
                await connection.execute(_ADD_OPERATOR, values)
            except psycopg.errors.UniqueViolation as error:
                raise PKIError(
                    ErrorType.BAD_REQUEST, "that name or certificate is an operator's already"
                ) from error
            except psycopg.errors.CheckViolation as error:
                raise PKIError(
                    ErrorType.BAD_REQUEST, "an operator has a name and roles, and an auditor no other role"
                ) from error
            await insert_events_async(connection, events)

    async def remove_operator(self, name: str, at: datetime.datetime, events: Sequence[Event]) -> None:
        """PKIError: BAD_CERT_ID when there is none; BAD_REQUEST when nobody could administer afterwards."""
        async with self._pool.transaction() as connection:
            await connection.execute(_LOCK_OPERATORS)
            row = await (await connection.execute(_REMOVE_OPERATOR, (at, rows.storable(name)))).fetchone()
            if row is None:
                raise PKIError(ErrorType.BAD_CERT_ID, "there is no operator of that name")
            if Role.ADMINISTRATOR.value in row[0] and not await _other_administrator(connection, name, at):
                raise PKIError(ErrorType.BAD_REQUEST, "nobody else could administer this installation")
            await insert_events_async(connection, events)

    async def issuers(self) -> list[IssuerRecord]:
        """Return every issuer, in the order in which they were added."""
        return [rows.issuer_record(row) for row in await self._pool.fetch(rows.ISSUERS)]

    async def search(self, query: CertificateQuery) -> list[StoredCertificate]:
        """Return matching certificates, newest first; at most `query.limit`, and at most `MAX_RESULTS`."""
        values: dict[str, Any] = {key: value for key in _CONDITIONS if (value := getattr(query, key)) is not None}
        if not all(rows.is_storable(value) for value in values.values() if isinstance(value, str)):
            return []
        conditions = "".join(f" AND {_CONDITIONS[key]}" for key in values)
        if query.subject is not None:
            values["subject"] = starting_with(query.subject)
        if query.state is not None:
            values["state"] = query.state.value
        values["limit"] = max(0, min(query.limit, MAX_RESULTS))
        return [stored(row) for row in await self._pool.fetch(_SEARCH.format(conditions=conditions), values)]

    async def latest_crl(self, issuer: str, scope: CRLScope = COMPLETE) -> CRLRecord | None:
        """Return the current CRL of this scope of the issuer of this name, its DER as a whole."""
        found = await self._pool.fetch(_ISSUER_ID, (rows.storable(issuer),))
        return await whole_crl(self._pool, found[0][0], scope) if found else None

    async def crls(self) -> list[CRLRecord]:
        """Return the current CRL of each scope of each issuer, without its DER: shard by shard, a delta last."""
        return [rows.crl_record(row) for row in await self._pool.fetch(_CRLS)]

    async def block_key(self, key: BlockedKey, events: Sequence[Event]) -> bool:
        """Block a key for good and tell whether that is new; if it is not, nothing is stored."""
        async with self._pool.transaction() as connection:
            cursor = await connection.execute(blocklist.BLOCK.encode(), blocklist.values(key))
            if await cursor.fetchone() is None:
                return False
            await insert_events_async(connection, events)
        return True

    async def blocked_key(self, spki_sha256: bytes) -> BlockedKey | None:
        """Return what is known of a blocked key, None when it is not blocked."""
        found = await self._pool.fetch(blocklist.ONE, (spki_sha256,))
        return blocklist.blocked_key(found[0]) if found else None

    async def blocked_keys(self, after: bytes, limit: int) -> list[BlockedKey]:
        """Return blocked keys in the order of their SHA-256, above `after`; at most `MAX_RESULTS`."""
        found = await self._pool.fetch(blocklist.PAGE, (after, max(0, min(limit, MAX_RESULTS))))
        return [blocklist.blocked_key(row) for row in found]

    async def profile_records(self) -> list[ProfileRecord]:
        """Return every profile text that was ever loaded, by name, the latest first; at most `MAX_RESULTS`."""
        return [ProfileRecord(*row) for row in await self._pool.fetch(_PROFILES, (MAX_RESULTS,))]

    async def profile_switches(self) -> Mapping[str, ProfileSwitch]:
        """Return the latest switch of each profile that has one, by name; at most `SWITCHES_SECONDS` old."""
        now = self._clock.monotonic()
        if self._switches is None or now - self._switches[0] > SWITCHES_SECONDS:
            found = [ProfileSwitch(*row) for row in await self._pool.fetch(_SWITCHES)]
            self._switches = now, {one.name: one for one in found}
        return self._switches[1]

    async def switch_profile(self, switch: ProfileSwitch, event: Event) -> bool:
        """Switch a profile off or on, with its event, and tell whether that is new; else nothing is stored."""
        values = (switch.name, switch.active, rows.storable(switch.reason), switch.operator, switch.at)
        found = await self._pool.fetch(_SWITCH, (*values, event_body(event)))
        self._switches = None
        return bool(found[0][0])

    async def hierarchy(self, delegates: Sequence[str]) -> list[HierarchyNode]:
        """Return every issuer with its key's place, counts and CRL; `delegates` are OCSP delegates' profiles."""
        values = {"delegates": list(delegates), "at": self._clock.now()}
        return [_node(row) for row in await self._pool.fetch(_HIERARCHY, values)]

    async def counts(self) -> Mapping[str, int]:
        """Return requests waiting, requests taken, certificates, revoked, unconfirmed; above `COUNTED`, about."""
        found = await self._pool.fetch(_COUNTS)
        names = ("waiting", "taken", "certificates", "revoked", "unconfirmed")
        return dict(zip(names, found[0], strict=True))

    async def record(self, events: Sequence[Event]) -> None:
        """Journal events that have no other effect; durable on return. Concurrent calls share a commit."""
        if events:
            await self._events.submit(events)

    async def _record(self, batch: list[Sequence[Event]]) -> list[None]:
        await self._pool.fetch(INSERT_EVENTS, ([event_body(event) for events in batch for event in events],))
        return [None] * len(batch)


async def _other_administrator(connection: AsyncPgConnection, name: str, at: datetime.datetime) -> bool:
    cursor = await connection.execute(_OTHER_ADMINISTRATOR.encode(), {"at": at, "name": name})
    return await cursor.fetchone() is not None


def _node(row: Sequence[Any]) -> HierarchyNode:
    """Make the value of one row of `_HIERARCHY`."""
    issuer, key, (certificates, revoked, last_expiry, delegate), crl = row[:11], row[11:16], row[16:20], row[20:]
    return HierarchyNode(
        record=rows.issuer_record(issuer),
        key=None if key[0] is None else KeyPlace(Place(key[0]), *key[1:]),
        certificates=certificates,
        revoked=revoked,
        last_expiry=last_expiry,
        delegate=delegate,
        crl=None if crl[0] is None else rows.crl_record(crl),
    )


def _operator(row: Sequence[Any]) -> Operator:
    fingerprint, name, roles, profiles = row
    return Operator(
        fingerprint, name, frozenset(map(Role, roles)), None if profiles is None else frozenset(profiles)
    )


def starting_with(text: str) -> str:
    """Return the LIKE pattern of everything that begins with this text."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"


def stored(row: Sequence[Any]) -> StoredCertificate:
    """Make the value of one row of `STORED`."""
    return StoredCertificate(
        certificate_id=row[0],
        issuer=row[1],
        serial=row[2],
        der=row[3],
        subject=row[4],
        names=tuple(row[5]),
        not_before=row[6],
        not_after=row[7],
        profile=row[8],
        requestor=row[9],
        issued_at=row[10],
        status=rows.status((row[11], row[2], *row[12:])),
    )
