"""
Retention: partitions that hold only what may go, dropped whole, by the owner of the schema and nobody else (R28).

A year of certificates goes with its intents, statuses and requests. A year of the journal goes when nothing that
is stored rests on it; its leaves and checkpoints stay, so that `chancery audit verify` still computes the whole
tree. Of a large CRL that was followed by others the entries go; its row, its number and its SHA-256 in the journal
stay.
"""

from __future__ import annotations

import dataclasses
import datetime

from psycopg import sql

from chancery.errors import OperatorError
from chancery.pkix.usage import CODE_SIGNING, KEPT
from chancery.ports import Event, EventDetail, EventKind
from chancery.postgres.journal import insert_events
from chancery.postgres.rows import EVENT_TIME
from chancery.postgres.session import Connection, PgConnection, connect, translated

MIN_YEARS = 2
"""R28: at least two years after the last certificate."""
CERTIFICATES, EVENTS, TOKENS, CRLS = "certificate", "journal_event", "tsa_token", "crl_part"
# What later years rest on, and the auditor asks for: how issuers, profiles and operators came in.
_STANDING = ("ca.%", "profile.%", "operator.%")
_LOCK = 0x43485705

_PARTITIONS = """
SELECT c.relname, substring(pg_get_expr(c.relpartbound, c.oid) FROM $x$FROM \\((.*)\\) TO$x$),
    substring(pg_get_expr(c.relpartbound, c.oid) FROM $x$TO \\((.*)\\)$x$),
    pg_total_relation_size(c.oid)
FROM pg_catalog.pg_inherits AS h JOIN pg_catalog.pg_class AS c ON c.oid = h.inhrelid
WHERE h.inhparent = %s::regclass ORDER BY c.relname"""
_SIZE = "SELECT pg_total_relation_size(%s::regclass)"
_NEWEST = {
    # As `pkix.usage.kept_until`: of what may sign code, revoked or yet to be.
    CERTIFICATES: """
        SELECT count(*), max(not_after), max(not_after) FILTER (
            WHERE position(%(code_signing)s::bytea IN tbs) > 0) + %(kept)s::interval FROM {intents}""",
    TOKENS: "SELECT count(*), max(gen_time), NULL::timestamptz FROM {partition}",
    EVENTS: f"SELECT count(*), max({EVENT_TIME}), NULL::timestamptz FROM {{partition}}",  # noqa: S608 - put together from constants
}
_RULE = {"code_signing": CODE_SIGNING, "kept": KEPT}
# R16: an entry appears once more after its end, so the newest CRL has to be later than that.
_ON_A_CRL = """
SELECT EXISTS (
    SELECT FROM {intents} AS i JOIN chancery.certificate_status AS s USING (issuer_id, serial)
    WHERE s.state = 'revoked' AND coalesce(s.kept_until, s.not_after) >= coalesce(
        (SELECT max(c.this_update) FROM chancery.crl AS c WHERE c.issuer_id = s.issuer_id), '-infinity'))"""
_LEANS = """
SELECT CASE
    WHEN EXISTS (SELECT FROM {partition} WHERE kind LIKE ANY (%(standing)s))
        THEN 'issuers, profiles or operators came in then'
    WHEN EXISTS (SELECT FROM chancery.intent WHERE recorded_at <= %(newest)s)
        THEN 'certificates of that time are stored'
    WHEN EXISTS (SELECT FROM chancery.tsa_token WHERE gen_time <= %(newest)s)
        THEN 'timestamps of that time are stored'
    WHEN EXISTS (SELECT FROM {partition} AS e WHERE NOT EXISTS (
            SELECT FROM chancery.journal_leaf AS l WHERE l.event_id = e.event_id))
        THEN 'events without a leaf'
    WHEN pg_sequence_last_value(pg_get_serial_sequence('chancery.journal_event', 'event_id')::regclass)
        < %(below)s::bigint THEN 'events are still added'
END"""
_DROP_CERTIFICATES = (
    "CREATE TEMPORARY TABLE going ON COMMIT DROP AS SELECT issuer_id, serial, request_id FROM {intents}",
    "ALTER TABLE chancery.certificate_status DISABLE TRIGGER USER",
    "ALTER TABLE chancery.request DISABLE TRIGGER USER",
    """DELETE FROM chancery.certificate_status AS s USING pg_temp.going AS g
        WHERE (s.issuer_id, s.serial) = (g.issuer_id, g.serial)""",
    "DROP TABLE {partition}, {intents}",
    """DELETE FROM chancery.request AS r USING pg_temp.going AS g WHERE r.request_id = g.request_id
        AND NOT EXISTS (SELECT FROM chancery.intent AS i WHERE i.request_id = r.request_id)""",
    "ALTER TABLE chancery.certificate_status ENABLE TRIGGER USER",
    "ALTER TABLE chancery.request ENABLE TRIGGER USER",
)
# What says what was dropped is never dropped itself.
_CARRY_ON = """
INSERT INTO chancery.journal_event (body) SELECT body FROM {partition}
WHERE kind = 'retention.dropped' AND writer = 'chancery_owner' ORDER BY event_id"""
# Up to the first that was still valid then, or has no successor. Deltas are small.
_OLD_CRLS = """
SELECT i.name, c.issuer_id, c.shard, c.number, c.next_update, p.parts, p.size
FROM chancery.crl AS c JOIN chancery.issuer AS i USING (issuer_id)
CROSS JOIN LATERAL (SELECT count(*) AS parts, sum(octet_length(data))::bigint AS size
    FROM chancery.crl_part AS p WHERE (p.issuer_id, p.number) = (c.issuer_id, c.number)) AS p
WHERE c.tail IS NOT NULL AND c.next_update < %(since)s AND p.parts > 0 AND c.number < (
    SELECT n.number FROM chancery.crl AS n
    WHERE n.issuer_id = c.issuer_id AND n.shard = c.shard AND n.base_number IS NULL AND (n.next_update >= %(since)s
        OR n.number = (SELECT max(m.number) FROM chancery.crl AS m
            WHERE m.issuer_id = n.issuer_id AND m.shard = n.shard AND m.base_number IS NULL))
    ORDER BY n.number LIMIT 1)
ORDER BY c.issuer_id, c.shard, c.number"""
_DROP_PARTS = (
    "ALTER TABLE chancery.crl_part DISABLE TRIGGER USER",
    "DELETE FROM chancery.crl_part WHERE issuer_id = {issuer} AND number = {number}",
    "ALTER TABLE chancery.crl_part ENABLE TRIGGER USER",
)
_RETIRE = """
INSERT INTO chancery.retired (partition, source, at_least, below, rows, newest, retired_at)
VALUES (%s, %s, %s, %s, %s, %s, %s)"""


@dataclasses.dataclass(frozen=True, slots=True)
class OldCRL:
    """A large CRL whose entries may go: its place in `chancery.crl`, its nextUpdate, pieces and their octets."""

    issuer: str
    issuer_id: int
    shard: int
    number: int
    next_update: datetime.datetime
    parts: int
    size: int


@dataclasses.dataclass(frozen=True, slots=True)
class Partition:
    """
    One partition with rows. `size` is in octets with its indexes, `newest` its last expiry, event or token.

    `at_least` and `below` are the bounds of its key (a serial in hex, an event_id, a time), None: open. `stays`
    says why it may not go, None when it may.
    """

    name: str
    source: str
    at_least: str | None
    below: str | None
    rows: int
    size: int
    newest: datetime.datetime
    stays: str | None


def partitions(connection: Connection, at: datetime.datetime, years: int = MIN_YEARS) -> list[Partition]:
    """
    Return every partition that has rows, and whether it may go when all is kept for `years` years.

    OperatorError for fewer years than R28 allows; PKIError as `session.translated`.
    """
    with _owner(connection, years) as owner, translated():
        return _partitions(owner, at, years)


def old_crls(connection: Connection, at: datetime.datetime, years: int = MIN_YEARS) -> list[OldCRL]:
    """Return the large CRLs whose entries may go, by issuer, shard and number. Errors as `partitions`."""
    with _owner(connection, years) as owner, translated():
        return _old_crls(owner, at, years)


def drop_crls(connection: Connection, at: datetime.datetime, actor: str, years: int = MIN_YEARS) -> list[OldCRL]:
    """
    Drop the entries of every CRL that `old_crls` names, each with its event in one transaction; return them.

    One at a time, so that a worker that publishes meanwhile waits for no more than one. Errors as `partitions`.
    """
    with _owner(connection, years) as owner, translated():
        owner.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        found = _old_crls(owner, at, years)
        for one in found:
            with owner.transaction():
                for statement in _DROP_PARTS:
                    values = {"issuer": sql.Literal(one.issuer_id), "number": sql.Literal(one.number)}
                    owner.execute(sql.SQL(statement).format(**values))
                detail: EventDetail = {"source": CRLS, "number": one.number, "rows": one.parts, "years": years}
                about = f"crl:{one.issuer}"
                insert_events(owner, [Event(EventKind.RETENTION_DROPPED, at, actor, about, detail)])
    return found


def _old_crls(owner: PgConnection, at: datetime.datetime, years: int) -> list[OldCRL]:
    rows = owner.execute(_OLD_CRLS, {"since": _since(at, years)}).fetchall()
    return [OldCRL(*row) for row in rows]


def drop(connection: Connection, at: datetime.datetime, actor: str, years: int = MIN_YEARS) -> list[Partition]:
    """
    Drop every partition that may go, each with its event in one transaction; return them. Errors as `partitions`.

    Run again after a failure, it goes on with what is left.
    """
    dropped = []
    with _owner(connection, years) as owner, translated():
        owner.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        for found in _partitions(owner, at, years):
            if found.stays is None:
                with owner.transaction():
                    _drop(owner, found)
                    _record(owner, found, at, actor, years)
                dropped.append(found)
    return dropped


def _owner(connection: Connection, years: int) -> PgConnection:
    if years < MIN_YEARS:
        raise OperatorError(
            f"certificates and journal are kept for at least {MIN_YEARS} years after their end (R28)",
            f"give {MIN_YEARS} years or more",
        )
    settings = dataclasses.replace(connection, application_name="chancery retention", statement_timeout=3600.0)
    with translated():
        return connect(settings)


def _since(at: datetime.datetime, years: int) -> datetime.datetime:
    # A 29th of February has its anniversary on the 28th.
    day = 28 if (at.month, at.day) == (2, 29) else at.day
    return at.replace(year=at.year - years, day=day)


def _partitions(owner: PgConnection, at: datetime.datetime, years: int) -> list[Partition]:
    found = []
    for source in (CERTIFICATES, TOKENS, EVENTS):
        for name, lower, upper, size in owner.execute(_PARTITIONS, (f"chancery.{source}",)).fetchall():
            one = _judge(owner, source, (name, _bound(lower), _bound(upper), int(size)), at, years)
            if one is not None:
                found.append(one)
    return found


def _judge(
    owner: PgConnection,
    source: str,
    row: tuple[str, str | None, str | None, int],
    at: datetime.datetime,
    years: int,
) -> Partition | None:
    name, at_least, below, size = row
    names = _names(name)
    rows, newest, kept = owner.execute(sql.SQL(_NEWEST[source]).format(**names), _RULE).fetchall()[0]
    if not rows:
        return None
    if source == CERTIFICATES:
        (more,) = owner.execute(_SIZE, (f"chancery.{_intents(name)}",)).fetchall()
        size += int(more[0])
    stays = None
    if below is None or newest >= _since(at, years):
        stays = f"its newest is of {newest:%Y-%m-%d}"
    elif kept is not None and kept >= at:
        stays = f"code-signing certificates of it stay on CRLs until {kept:%Y-%m-%d} (R16)"
    elif source == CERTIFICATES and owner.execute(sql.SQL(_ON_A_CRL).format(**names)).fetchall()[0][0]:
        stays = "a CRL has yet to list one that is revoked (R16)"
    elif source == EVENTS:
        wanted = {"standing": list(_STANDING), "newest": newest, "below": below}
        stays = owner.execute(sql.SQL(_LEANS).format(**names), wanted).fetchall()[0][0]
    return Partition(name, source, at_least, below, int(rows), size, newest, stays)


def _drop(owner: PgConnection, found: Partition) -> None:
    statements = _DROP_CERTIFICATES if found.source == CERTIFICATES else ("DROP TABLE {partition}",)
    if found.source == EVENTS:
        statements = (_CARRY_ON, *statements)
    for statement in statements:
        owner.execute(sql.SQL(statement).format(**_names(found.name)))


def _record(owner: PgConnection, found: Partition, at: datetime.datetime, actor: str, years: int) -> None:
    owner.execute(
        _RETIRE,
        (found.name, found.source, found.at_least, found.below, found.rows, found.newest, at),
    )
    detail = {
        "source": found.source,
        "at_least": found.at_least,
        "below": found.below,
        "rows": found.rows,
        "newest": found.newest.isoformat(),
        "years": years,
    }
    insert_events(owner, [Event(EventKind.RETENTION_DROPPED, at, actor, f"partition:{found.name}", detail)])


def _intents(partition: str) -> str:
    return partition.replace(CERTIFICATES, "intent", 1)


def _names(partition: str) -> dict[str, sql.Identifier]:
    return {
        "partition": sql.Identifier("chancery", partition),
        "intents": sql.Identifier("chancery", _intents(partition)),
    }


def _bound(text: str) -> str | None:
    """Return a partition's bound as it is recorded: without quotes, octets in hex."""
    if text in {"MINVALUE", "MAXVALUE"}:
        return None
    return text.strip("'").removeprefix("\\x")
