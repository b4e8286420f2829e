"""Foreign CAs and what their CRLs say: brought in by one program, read by the responders."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import psycopg
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chancery.errors import ErrorType, PKIError
from chancery.ports import (
    CertificateStatus,
    Event,
    ForeignCRL,
    ForeignIssuer,
    ForeignPoint,
    IssuerRecord,
    RevocationReason,
    RevokedEntry,
    StatusState,
)
from chancery.postgres.journal import insert_events
from chancery.postgres.session import Connection, PgConnection, Session, session

ISSUERS = """
SELECT f.foreign_id, f.name, f.certificate,
    coalesce((SELECT array_agg(d.certificate ORDER BY d.delegate_id DESC)
        FROM chancery.foreign_delegate AS d WHERE d.foreign_id = f.foreign_id), '{}')
FROM chancery.foreign_issuer AS f WHERE f.ended_at IS NULL ORDER BY f.foreign_id"""

_POINTS = """
SELECT f.foreign_id, f.name, s.point_id, s.url, s.number::text, s.this_update, s.next_update, s.freshest,
    (SELECT count(*) FROM chancery.foreign_revoked AS r WHERE r.crl_id = s.full_id), s.sha256,
    s.delta_number::text, s.delta_this_update, s.delta_next_update, s.delta_sha256
FROM chancery.foreign_issuer AS f JOIN chancery.foreign_standing AS s USING (foreign_id)
WHERE f.ended_at IS NULL ORDER BY f.name, s.point_id"""

# One statement: which CRLs count, and what they say, as of one moment. A delta's word is newer than its base's.
STATUSES = """
WITH standing AS MATERIALIZED (
    SELECT foreign_id, full_id, this_update, next_update, delta_id, delta_this_update, delta_next_update
    FROM chancery.foreign_standing
    WHERE foreign_id = ANY (%(issuers)b::integer[])
)
SELECT k.foreign_id, k.serial, s.this_update, s.next_update, s.delta_this_update, s.delta_next_update,
    coalesce(d.revoked_at, f.revoked_at), coalesce(d.reason, f.reason),
    CASE WHEN d.crl_id IS NULL THEN f.invalidity_date ELSE d.invalidity_date END
FROM unnest(%(ids)b::integer[], %(serials)b::bytea[]) AS k (foreign_id, serial)
JOIN standing AS s USING (foreign_id)
LEFT JOIN chancery.foreign_revoked AS f ON (f.crl_id, f.serial) = (s.full_id, k.serial)
LEFT JOIN chancery.foreign_revoked AS d ON (d.crl_id, d.serial) = (s.delta_id, k.serial)"""

_NEVER = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_FOR_EVER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)

_ADD = """
INSERT INTO chancery.foreign_issuer (name, certificate, spki_sha256, added_at) VALUES (%s, %s, %s, %s)
RETURNING foreign_id"""
_ADD_POINT = "INSERT INTO chancery.foreign_point (foreign_id, url) VALUES (%s, %s)"
_END = "UPDATE chancery.foreign_issuer SET ended_at = %s WHERE name = %s AND ended_at IS NULL RETURNING foreign_id"
_ADD_DELEGATE = """
INSERT INTO chancery.foreign_delegate (foreign_id, certificate, spki_sha256, added_at)
SELECT foreign_id, %s, %s, %s FROM chancery.foreign_issuer WHERE name = %s AND ended_at IS NULL
ON CONFLICT DO NOTHING RETURNING delegate_id"""
_ADD_CRL = """
INSERT INTO chancery.foreign_crl
    (point_id, number, base_number, this_update, next_update, sha256, freshest, imported_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s) RETURNING crl_id"""
_COPY = """
COPY chancery.foreign_revoked (crl_id, serial, revoked_at, reason, invalidity_date) FROM STDIN (FORMAT binary)"""
_FORGET = "SELECT chancery.forget_foreign_entries(%s)"


def issuer(row: Sequence[Any]) -> ForeignIssuer:
    """Make the value of one row of `ISSUERS`."""
    foreign_id, name, certificate, delegates = row
    record = IssuerRecord(-foreign_id, name, bytes(certificate), None, None, None)
    return ForeignIssuer(record, tuple(map(bytes, delegates)))


def statuses(found: Iterable[Sequence[Any]], at: datetime.datetime) -> dict[tuple[int, bytes], CertificateStatus]:
    """
    Put together what every distribution point says of each serial: the rows of `STATUSES`, as of `at`.

    Revoked is what one of them lists; good is what all of them do not list, for as long as all of them count.
    """
    known: dict[tuple[int, bytes], CertificateStatus] = {}
    for foreign_id, serial, this, until, delta_this, delta_until, revoked_at, reason, invalidity in found:
        key = (-foreign_id, bytes(serial))
        if this is None:
            window = _NEVER, _NEVER
        else:
            # Once its delta has ended, the complete CRL still says until when there will be news.
            current = delta_until if delta_until is not None and delta_until > at else until
            window = delta_this or this, current
        revoked = reason is not None and reason != RevocationReason.REMOVE_FROM_CRL
        one = CertificateStatus(
            key[0],
            key[1],
            StatusState.REVOKED if revoked else StatusState.GOOD,
            _FOR_EVER,
            revoked_at if revoked else None,
            RevocationReason(reason) if revoked else None,
            invalidity if revoked else None,
            window=window,
        )
        known[key] = _joined(known[key], one) if key in known else one
    return known


def _joined(one: CertificateStatus, other: CertificateStatus) -> CertificateStatus:
    if (one.state is StatusState.REVOKED) != (other.state is StatusState.REVOKED):
        return one if one.state is StatusState.REVOKED else other
    assert one.window is not None
    assert other.window is not None
    window = min(one.window[0], other.window[0]), min(one.window[1], other.window[1])
    earlier = min((one, other), key=lambda found: found.revoked_at or _NEVER)
    return CertificateStatus(
        earlier.issuer_id,
        earlier.serial,
        earlier.state,
        earlier.not_after,
        earlier.revoked_at,
        earlier.reason,
        earlier.invalidity_date,
        window=window,
    )


class PgForeignStore:
    """`ports.ForeignStore` as the role `chancery_foreign`."""

    def __init__(self, source: Connection | Session) -> None:
        self._session = session(source)

    def add(self, name: str, certificate: bytes, urls: Iterable[str], at: datetime.datetime, event: Event) -> None:
        """Pin a CA's certificate with its distribution points."""
        with self._session.transaction() as connection:
            try:
                row = connection.execute(_ADD, (name, certificate, _spki_sha256(certificate), at)).fetchone()
                assert row is not None
                for url in dict.fromkeys(urls):
                    connection.execute(_ADD_POINT, (row[0], url))
            except psycopg.errors.UniqueViolation as error:
                raise PKIError(
                    ErrorType.BAD_REQUEST, f"there is an issuer {name}, or one with this key, already"
                ) from error
            except psycopg.errors.CheckViolation as error:
                raise PKIError(
                    ErrorType.BAD_REQUEST,
                    "a name has small letters, digits and hyphens, at most 63; a CRL URL at most 1,000 characters",
                ) from error
            insert_events(connection, [event])

    def end(self, name: str, at: datetime.datetime, event: Event) -> None:
        """Answer for it no more."""
        with self._session.transaction() as connection:
            if connection.execute(_END, (at, name)).fetchone() is None:
                raise _nobody(name)
            insert_events(connection, [event])

    def add_delegate(self, name: str, certificate: bytes, at: datetime.datetime, event: Event) -> None:
        """Keep a delegate certificate; the same again is no change."""
        with self._session.transaction() as connection:
            known = "SELECT FROM chancery.foreign_issuer WHERE name = %s AND ended_at IS NULL"
            if connection.execute(known, (name,)).fetchone() is None:
                raise _nobody(name)
            values = (certificate, _spki_sha256(certificate), at, name)
            if connection.execute(_ADD_DELEGATE, values).fetchone() is not None:
                insert_events(connection, [event])

    def issuers(self) -> list[ForeignIssuer]:
        """Return every foreign CA, in the order in which they were added."""
        return [issuer(row) for row in self._session.fetch(ISSUERS)]

    def points(self) -> list[ForeignPoint]:
        """Return every distribution point with how it stands."""
        return [_point(row) for row in self._session.fetch(_POINTS)]

    def add_crl(
        self,
        point_id: int,
        crl: ForeignCRL,
        entries: Iterable[RevokedEntry],
        at: datetime.datetime,
        event: Callable[[int], Event],
    ) -> int:
        """Store a CRL with its entries, in one transaction; they stream through."""
        with self._session.transaction() as connection:
            count = _store(connection, point_id, crl, entries, at)
            connection.execute(_FORGET, (point_id,))
            insert_events(connection, [event(count)])
        return count

    def refused(self, event: Event) -> None:
        """Record that a CRL was not taken."""
        with self._session.transaction() as connection:
            insert_events(connection, [event])


def _store(
    connection: PgConnection,
    point_id: int,
    crl: ForeignCRL,
    entries: Iterable[RevokedEntry],
    at: datetime.datetime,
) -> int:
    values = (point_id, crl.number, crl.base, crl.this_update, crl.next_update, crl.sha256, crl.freshest, at)
    try:
        row = connection.execute(_ADD_CRL, values).fetchone()
        assert row is not None
        count = 0
        with connection.cursor().copy(_COPY) as copy:
            copy.set_types(["int4", "bytea", "timestamptz", "int2", "timestamptz"])
            for one in entries:
                copy.write_row((row[0], one.serial, one.revoked_at, int(one.reason), one.invalidity_date))
                count += 1
    except psycopg.errors.RestrictViolation as error:
        raise PKIError(ErrorType.BAD_REQUEST, str(error.diag.message_primary)) from error
    except psycopg.errors.UniqueViolation as error:
        raise PKIError(ErrorType.BAD_REQUEST, "a serial stands twice in this CRL") from error
    return count


def _point(row: Sequence[Any]) -> ForeignPoint:
    foreign_id, name, point_id, url, number, this, until, freshest, entries, sha256, delta, *rest = row
    return ForeignPoint(
        foreign_id,
        name,
        point_id,
        url,
        None if number is None else int(number),
        this,
        until,
        freshest,
        entries,
        sha256,
        None if delta is None else int(delta),
        *rest,
    )


def _spki_sha256(certificate: bytes) -> bytes:
    key = x509.load_der_x509_certificate(certificate).public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _nobody(name: str) -> PKIError:
    return PKIError(ErrorType.BAD_CERT_ID, f"there is no foreign CA {name}")
