"""Continuity in the database: what a kit is made of, and what a standby hands back, in one transaction."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence

import psycopg

from chancery.errors import ErrorType, PKIError
from chancery.pkix.path import is_self_signed, read_certificate
from chancery.pkix.usage import kept_until
from chancery.ports import (
    COMPLETE,
    MAX_STATUSES,
    CertificateStatus,
    Event,
    EventDetail,
    EventKind,
    IssuerRecord,
    KitRecord,
    NewRequest,
    Operator,
    Prepared,
    Role,
    Settled,
    StatusState,
    TakenBack,
)
from chancery.postgres import blocklist, rows
from chancery.postgres.crl import LISTED_UNTIL, LOCK_NUMBERS, insert_crl
from chancery.postgres.journal import insert_events
from chancery.postgres.requests import request_fingerprint
from chancery.postgres.revocation import set_statuses
from chancery.postgres.session import Connection, PgConnection, Session, session

_PAGE = 2000
_STATUSES = f"""
SELECT s.issuer_id, s.serial, s.state, s.not_after, s.revoked_at, s.reason, s.invalidity_date, s.released_at,
    s.shard, i.tbs
FROM chancery.certificate_status AS s LEFT JOIN chancery.intent AS i USING (issuer_id, serial)
WHERE s.issuer_id = %s AND s.serial > %s AND {LISTED_UNTIL.replace("not_after", "s.not_after")} >= %s
ORDER BY s.serial LIMIT {_PAGE}"""  # noqa: S608 - put together from constants
_OPERATORS = (
    "SELECT fingerprint, name, roles, profiles FROM chancery.operator WHERE removed_at IS NULL ORDER BY name"
)
_INACTIVE = """
SELECT name FROM (SELECT DISTINCT ON (name) name, active FROM chancery.profile_switch
    ORDER BY name, switch_id DESC) AS newest WHERE NOT active"""
_NUMBER = "SELECT coalesce(max(number), 0) FROM chancery.crl_number WHERE issuer_id = %s"
_EPOCH = "SELECT coalesce(max(epoch), 0) + 1 FROM chancery.standby_kit"
_PREVIOUS = """
SELECT h.head FROM chancery.standby_hand_back AS h JOIN chancery.standby_kit AS k USING (epoch)
WHERE k.issuer_id = %s ORDER BY epoch DESC LIMIT 1"""
_KIT = "SELECT epoch, issuer_id, instance, kit, made_at FROM chancery.standby_kit WHERE epoch = %s"
_ADD_KIT = """
INSERT INTO chancery.standby_kit (epoch, issuer_id, instance, kit, made_at) VALUES (%s, %s, %s, %s, %s)
ON CONFLICT DO NOTHING RETURNING epoch"""
_HANDED = "SELECT head, length FROM chancery.standby_hand_back WHERE epoch = %s"
_CLOSE = """
INSERT INTO chancery.standby_hand_back (epoch, sha256, head, length, taken_at) VALUES (%s, %s, %s, %s, %s)"""

_REQUEST = """
INSERT INTO chancery.request (transaction_id, protocol, requestor, profile, issuer, csr, names, fingerprint,
    received_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (requestor, transaction_id) DO NOTHING RETURNING request_id"""
_TAKE = (
    "UPDATE chancery.request SET state = 'taken', worker = %s, taken_at = received_at WHERE request_id = ANY (%s)"
)
_INTENT = """
INSERT INTO chancery.intent (worker, request_id, issuer_id, serial, tbs, not_after, profile, profile_version,
    profile_sha256, recorded_at, shard)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"""
_DONE = """
UPDATE chancery.request SET state = 'done', certificate_issuer_id = %s, certificate_serial = %s, detail = %s
WHERE request_id = %s"""
_REFUSED = "UPDATE chancery.request SET state = 'refused', error = %s, detail = %s WHERE request_id = %s"
_CERTIFICATE = """
INSERT INTO chancery.certificate (request_id, issuer_id, serial, der, subject, names, spki_sha256, not_before,
    not_after, profile, issued_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"""
_STATUS = """
INSERT INTO chancery.certificate_status (issuer_id, serial, state, not_after, changed_at, shard)
VALUES (%s, %s, %s, %s, %s, %s)"""
_REVOCATION = """
INSERT INTO chancery.revocation_request (issuer_id, serial, reason, invalidity_date, requestor, received_at)
VALUES (%s, %s, %s, %s, %s, %s) RETURNING revocation_id"""
_END = "UPDATE chancery.revocation_request SET state = %s, detail = %s WHERE revocation_id = %s"
_INSERT_NUMBER = "INSERT INTO chancery.crl_number (issuer_id, number) VALUES (%s, %s)"
_KNOWN = """
SELECT issuer_id, serial, state, not_after, revoked_at, reason, invalidity_date, released_at
FROM chancery.certificate_status WHERE issuer_id = %s AND serial = ANY (%s) ORDER BY serial FOR UPDATE"""


class PgContinuityStore:
    """`ports.ContinuityStore` as the role `chancery_worker`."""

    def __init__(self, source: Connection | Session) -> None:
        self._session = session(source)

    def gather(self, issuer: str, at: datetime.datetime) -> Prepared:
        """
        Read what a kit for this issuer is made of, as of one moment.

        PKIError(BAD_REQUEST) for an issuer that is not here, whose CRLs are cut into shards, or that has too much.
        """
        with self._session.transaction() as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            records = {
                row.issuer_id: row for row in map(rows.issuer_record, connection.execute(rows.ISSUERS.encode()))
            }
            record = next((one for one in records.values() if one.name == issuer), None)
            if record is None:
                raise _refuse(f"there is no issuer {issuer}")
            if is_self_signed(read_certificate(record.certificate)):
                raise _refuse(f"{issuer} is a root: it signs in ceremonies only (R8)")
            key = (record.issuer_id,)
            if connection.execute("SELECT FROM chancery.crl_shard WHERE issuer_id = %s", key).fetchone():
                raise _refuse(f"the CRLs of {issuer} are in shards: give the standby an issuer of its own")
            latest = connection.execute(rows.latest_crl(COMPLETE).encode(), (record.issuer_id, 0)).fetchone()
            previous = connection.execute(_PREVIOUS, key).fetchone()
            return Prepared(
                issuer=record,
                chain=tuple(_chain(record, records)),
                epoch=_one(connection, _EPOCH, ()),
                crl=None if latest is None else rows.crl_record(latest),
                crl_number=_one(connection, _NUMBER, key),
                statuses=tuple(_statuses(connection, record.issuer_id, at)),
                operators=tuple(
                    Operator(
                        bytes(f), name, frozenset(map(Role, roles)), None if some is None else frozenset(some)
                    )
                    for f, name, roles, some in connection.execute(_OPERATORS)
                ),
                inactive_profiles=frozenset(row[0] for row in connection.execute(_INACTIVE)),
                blocked=tuple(_blocked(connection)),
                previous=None if previous is None else bytes(previous[0]),
            )

    def add_kit(self, kit: KitRecord, events: Sequence[Event]) -> None:
        """Keep a kit; PKIError(BAD_REQUEST) when another one has its epoch."""
        values = (kit.epoch, kit.issuer_id, kit.instance, kit.kit, kit.made_at)
        with self._session.transaction() as connection:
            if connection.execute(_ADD_KIT, values).fetchone() is None:
                raise _refuse(f"another kit has the epoch {kit.epoch}: prepare it again")
            insert_events(connection, events)

    def kit(self, epoch: int) -> KitRecord | None:
        """Return the kit of an epoch."""
        found = self._session.fetch(_KIT, (epoch,))
        return KitRecord(*found[0]) if found else None

    def take_back(
        self, taken: TakenBack, at: datetime.datetime, events: Sequence[Event], *, dry_run: bool
    ) -> bool:
        """
        Store everything in one transaction, or with `dry_run` undo it at its end; False: it was in already.

        PKIError(BAD_REQUEST) for a fork: another hand-back closed the epoch, or a number was passed; or when the
        database is older than the kit.
        """
        with self._session.transaction() as connection:
            handed = connection.execute(_HANDED, (taken.epoch,)).fetchone()
            if handed is not None:
                if (bytes(handed[0]), handed[1]) == (taken.head, taken.length):
                    return False
                raise _refuse(
                    f"another hand-back closed epoch {taken.epoch}: a fork, two standbys worked by one kit"
                )
            try:
                with connection.transaction():
                    _store(connection, taken, at, events)
                    if dry_run:
                        raise psycopg.Rollback
            except psycopg.errors.RestrictViolation as error:
                raise _refuse(error.diag.message_primary or "it is not what can follow here") from error
            except psycopg.errors.UniqueViolation as error:
                raise _refuse("a serial number or transaction id of it is here already: a fork") from error
        return True


def _store(connection: PgConnection, taken: TakenBack, at: datetime.datetime, events: Sequence[Event]) -> None:
    connection.execute(LOCK_NUMBERS, (taken.issuer_id,))
    close = (taken.epoch, taken.sha256, taken.head, taken.length, at)
    connection.execute(_CLOSE, close)
    requests = _requests(connection, taken)
    for key in taken.blocked:
        # Before the statuses, whose trigger would block it in other words.
        blocklist.insert(connection, key)
    settled = _settled(connection, taken)
    revocations = {one.request.revocation_id: _revocation(connection, one) for one in settled}
    set_statuses(connection, [(one.status, one.at) for one in settled if one.status is not None])
    highest = _one(connection, _NUMBER, (taken.issuer_id,))
    if taken.numbers and min(taken.numbers) <= highest:
        raise _refuse(f"CRL number {min(taken.numbers)} is not above {highest}: a fork")
    with connection.cursor() as cursor:
        cursor.executemany(_INSERT_NUMBER, [(taken.issuer_id, number) for number in taken.numbers])
    for crl in taken.crls:
        insert_crl(connection, crl, None)
    refused = {one.request.revocation_id: one.refusal for one in settled if one.refusal is not None}
    told = _renumbered(_as_stored(taken.events, refused), requests, revocations)
    insert_events(connection, [*told, *events])


def _requests(connection: PgConnection, taken: TakenBack) -> dict[int, int]:
    """Store requests, intents, certificates and their statuses; return the id of each request by the standby's."""
    ids = dict[int, int]()
    for one in taken.requests:
        new = NewRequest(
            one.transaction_id, one.protocol, one.requestor, one.profile, one.issuer, one.csr, one.names,
            one.received_at,
        )  # fmt: skip
        what = (one.transaction_id, one.protocol, one.requestor, one.profile, one.issuer, one.csr, list(one.names))
        row = connection.execute(_REQUEST, (*what, request_fingerprint(new), one.received_at)).fetchone()
        if row is None:
            raise _refuse(f"the transaction {one.transaction_id} of {one.requestor} is here already")
        ids[one.request_id] = int(row[0])
    connection.execute(_TAKE, (taken.worker, list(ids.values())))
    with connection.cursor() as cursor:
        intents = [
            (
                taken.worker, ids[i.request_id], i.issuer_id, i.serial, i.tbs, i.not_after, i.profile,
                i.profile_version, i.profile_sha256, i.recorded_at, i.shard,
            )
            for i in taken.intents
        ]  # fmt: skip
        cursor.executemany(_INTENT, intents)
        done = [
            (c.issuer_id, c.serial, c.dropped and rows.storable(c.dropped), ids[c.request_id])
            for c in taken.certificates
        ]
        cursor.executemany(_DONE, done)
        refused = [(r.error.value, rows.storable(r.detail), ids[r.request_id]) for r in taken.refusals]
        cursor.executemany(_REFUSED, refused)
        certificates = [
            (
                ids[c.request_id], c.issuer_id, c.serial, c.der, rows.storable(c.subject),
                [rows.storable(name) for name in c.names], c.spki_sha256, c.not_before, c.not_after, c.profile,
                c.issued_at,
            )
            for c in taken.certificates
        ]  # fmt: skip
        cursor.executemany(_CERTIFICATE, certificates)
        good = [(c.issuer_id, c.serial, "good", c.not_after, c.issued_at, c.shard) for c in taken.certificates]
        unconfirmed = StatusState.UNCONFIRMED.value
        marked = [
            (i.issuer_id, i.serial, unconfirmed, i.not_after, i.recorded_at, i.shard) for i in taken.unconfirmed
        ]
        cursor.executemany(_STATUS, [*good, *marked])
    return ids


def _settled(connection: PgConnection, taken: TakenBack) -> list[Settled]:
    """Return the revocations as they are to be stored, by what is known here of their serials."""
    serials = [one.request.serial for one in taken.revocations if one.status is not None]
    found = connection.execute(_KNOWN, (taken.issuer_id, serials))
    known = {status.serial: status for status in map(rows.status, found)}
    return [_after(one, known.get(one.request.serial)) for one in taken.revocations]


def _after(one: Settled, here: CertificateStatus | None) -> Settled:
    """
    Return a revocation as it follows the status here.

    What was revoked here since the kit stays as it is, and the standby's request ends as refused.
    """
    if one.status is None:
        return one
    if here is None:
        serial = one.request.serial.hex()
        raise _refuse(f"{serial} is not known here: restore a back-up that is not older than the kit")
    if here.state is StatusState.REVOKED and not here.held:
        assert here.revoked_at is not None
        reason = "" if here.reason is None else f" for {here.reason.name.lower()}"
        why = f"already revoked here at {here.revoked_at:%Y-%m-%d %H:%M:%S} UTC{reason}; by the standby, too"
        return dataclasses.replace(one, status=None, refusal=why)
    # The day of a suspension stays (X.509 9.5.3.2), and so does what is known of the last one's end.
    since = here.revoked_at if here.held else one.at.replace(microsecond=0)
    status = dataclasses.replace(one.status, revoked_at=since, released_at=here.released_at)
    return dataclasses.replace(one, status=status)


def _as_stored(events: Sequence[Event], refused: Mapping[int, str]) -> Iterator[Event]:
    """Give the standby's events, the revocations that are not taken over as refused."""
    for event in events:
        number = event.detail.get("revocation")
        if event.kind is EventKind.CERTIFICATE_REVOKED and isinstance(number, int) and number in refused:
            detail: EventDetail = {**event.detail, "why": refused[number]}
            yield dataclasses.replace(event, kind=EventKind.REVOCATION_REFUSED, detail=detail)
        else:
            yield event


def _revocation(connection: PgConnection, one: Settled) -> int:
    request = one.request
    what = (request.issuer_id, request.serial, int(request.reason), request.invalidity_date)
    revocation = _one(connection, _REVOCATION, (*what, request.requestor, request.received_at))
    detail = None if one.refusal is None else rows.storable(one.refusal)
    connection.execute(_END, ("refused" if one.status is None else "done", detail, revocation))
    return revocation


def _renumbered(
    events: Iterable[Event], requests: Mapping[int, int], revocations: Mapping[int, int]
) -> Iterator[Event]:
    """Give the standby's events with the ids that requests and revocations have here."""
    for event in events:
        detail: dict[str, str | int | bool | Sequence[str] | None] = dict(event.detail)
        subject = event.subject
        for key, ids in (("request", requests), ("revocation", revocations)):
            if isinstance(number := detail.get(key), int) and number in ids:
                detail[key] = ids[number]
                if event.kind is EventKind.REQUEST_REFUSED:
                    subject = f"request:{ids[number]}"
        told: EventDetail = detail
        yield dataclasses.replace(event, subject=subject, detail=told)


def _chain(record: IssuerRecord, records: Mapping[int, IssuerRecord]) -> Iterator[bytes]:
    one: IssuerRecord | None = record
    while one is not None:
        yield one.certificate
        one = None if one.parent_id is None else records[one.parent_id]


def _statuses(connection: PgConnection, issuer_id: int, at: datetime.datetime) -> Iterator[CertificateStatus]:
    count, last = 0, b""
    while page := connection.execute(_STATUSES.encode(), (issuer_id, last, at), binary=True).fetchall():
        count += len(page)
        if count > MAX_STATUSES:
            raise _refuse(f"more than {MAX_STATUSES} certificates: give the standby an issuer of its own")
        for row in page:
            tbs = None if row[9] is None else bytes(row[9])
            status = rows.status(row[:9])
            yield dataclasses.replace(
                status, kept_until=None if tbs is None else kept_until(tbs, status.not_after)
            )
        last = bytes(page[-1][1])


def _blocked(connection: PgConnection) -> Iterator[bytes]:
    found = connection.execute(
        "SELECT spki_sha256 FROM chancery.blocked_key ORDER BY spki_sha256 LIMIT %s", (MAX_STATUSES + 1,)
    ).fetchall()
    if len(found) > MAX_STATUSES:
        raise _refuse(f"more than {MAX_STATUSES} blocked keys: they do not fit into a kit")
    yield from (bytes(row[0]) for row in found)


def _one(connection: PgConnection, query: str, values: Sequence[object]) -> int:
    row = connection.execute(query.encode(), values).fetchone()
    assert row is not None
    return int(row[0])


def _refuse(detail: str) -> PKIError:
    return PKIError(ErrorType.BAD_REQUEST, detail)
