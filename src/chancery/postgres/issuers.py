"""Issuers, profiles and foreign CRLs, as they come into an installation."""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Callable, Sequence

import psycopg
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.ports import (
    CRLRecord,
    CRLShard,
    Event,
    EventDetail,
    EventKind,
    ForeignRevocation,
    IssuerAct,
    IssuerRecord,
    KeyPlace,
    NewCertificate,
    NewIssuer,
    Place,
    RevokedEntry,
    Takeover,
)
from chancery.postgres import blocklist, rows
from chancery.postgres.crl import LOCK_NUMBERS, insert_crl
from chancery.postgres.journal import insert_events
from chancery.postgres.session import Connection, PgConnection, Session, session

_ACTS = 1128814341
"""The lock of `issuer_act_fits`."""
NAME = "[a-z0-9][a-z0-9-]{0,62}"
"""As the schema says; the name stands in URLs."""

_INSERT_ISSUER = """
INSERT INTO chancery.issuer (name, subject, certificate, spki_sha256, not_before, not_after, parent_id,
    token_label, key_label, added_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING issuer_id"""
_OTHER_TEXT = "SELECT FROM chancery.profile WHERE name = %s AND version = %s AND sha256 <> %s"
_INSERT_PROFILE = """
INSERT INTO chancery.profile (name, version, sha256, source, added_at)
VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING name"""
_INSERT_CERTIFICATE = """
INSERT INTO chancery.issuer_certificate (issuer_id, kind, subject, certificate, spki_sha256, not_before, not_after,
    parent_id, added_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"""
_INSERT_KEY = """
INSERT INTO chancery.issuer_key (issuer_id, place, module, device, software, imported)
VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"""
_INSERT_ACT = "INSERT INTO chancery.issuer_act (issuer_id, act, at, actor, reason) VALUES (%s, %s, %s, %s, %s)"
# Of a certificate that was never issued here nobody knows when it ends: its entry stays as long as the CA lasts.
_TAKE_OVER = """
INSERT INTO chancery.imported_revocation (issuer_id, serial, revoked_at, reason, invalidity_date, crl_sha256)
SELECT %(issuer)s, serial, revoked_at, reason, invalidity_date, %(sha256)s
FROM unnest(%(serials)s::bytea[], %(times)s::timestamptz[], %(reasons)s::smallint[], %(invalidity)s::timestamptz[])
    AS e (serial, revoked_at, reason, invalidity_date)"""
_REVOKED_BEFORE = """
INSERT INTO chancery.certificate_status
    (issuer_id, serial, state, not_after, revoked_at, reason, invalidity_date, changed_at, kept_until)
SELECT issuer_id, serial, 'revoked', %(not_after)s, revoked_at, reason, invalidity_date, %(at)s, %(kept)s
FROM chancery.imported_revocation WHERE issuer_id = %(issuer)s AND serial = ANY (%(serials)s::bytea[])"""
_INTENDED = "SELECT FROM chancery.intent WHERE issuer_id = %s AND serial = %s"
_SHARDS = "SELECT shard, url FROM chancery.crl_shard WHERE issuer_id = %s ORDER BY shard"
_OPEN_SHARD = "INSERT INTO chancery.crl_shard (issuer_id, shard, url, opened_at) VALUES (%s, %s, %s, %s)"
_INSERT_NUMBER = "INSERT INTO chancery.crl_number (issuer_id, number) VALUES (%s, %s) ON CONFLICT DO NOTHING"


class PgIssuerStore:
    """`ports.IssuerStore` as the role `chancery_worker`."""

    def __init__(self, source: Connection | Session) -> None:
        self._session = session(source)

    def issuers(self) -> list[IssuerRecord]:
        """Return every issuer, in the order in which they were added."""
        return [rows.issuer_record(row) for row in self._session.fetch(rows.ISSUERS)]

    def add_issuer(
        self,
        issuer: NewIssuer,
        at: datetime.datetime,
        events: Sequence[Event],
        acts: Sequence[IssuerAct] = (),
        takeover: Takeover | None = None,
    ) -> int:
        """
        Store an issuer, and in the same transaction what goes with it; return its id.

        The same (name, certificate) again returns the id and stores nothing. Raises PKIError: BAD_REQUEST when
        name or certificate are taken by another, the name is not one (`[a-z0-9-]`), the parent is unknown or an
        act does not fit; BAD_DATA_FORMAT for what is no certificate.
        """
        certificate = _certificate(issuer.certificate)
        if re.fullmatch(NAME, issuer.name) is None:
            raise PKIError(ErrorType.BAD_REQUEST, f"an issuer's name is {NAME}")
        with self._session.transaction() as connection:
            if (known := _known(connection, issuer)) is not None:
                return known
            try:
                cursor = connection.execute(
                    _INSERT_ISSUER,
                    (
                        issuer.name,
                        rows.storable(certificate.subject.rfc4514_string()),
                        issuer.certificate,
                        _spki_sha256(certificate),
                        certificate.not_valid_before_utc,
                        certificate.not_valid_after_utc,
                        None if issuer.parent is None else _issuer_id(connection, issuer.parent),
                        issuer.token_label,
                        issuer.key_label,
                        at,
                    ),
                )
            except psycopg.errors.ExclusionViolation as error:
                raise PKIError(
                    ErrorType.BAD_REQUEST,
                    f"{issuer.name}, or its key, is a foreign CA's: `chancery ocsp foreign end` comes first",
                ) from error
            # None: another transaction was faster by a moment.
            row = cursor.fetchone()
            if row is None and (known := _known(connection, issuer)) is not None:
                return known
            assert row is not None
            issuer_id = int(row[0])
            if issuer.key is not None:
                _insert_key(connection, issuer_id, issuer.key)
            if takeover is not None:
                _take_over(connection, issuer_id, takeover, certificate.not_valid_after_utc, at)
            _act(connection, acts)
            insert_events(connection, events)
            return issuer_id

    def revoke_foreign(self, one: ForeignRevocation, at: datetime.datetime, events: Sequence[Event]) -> None:
        """
        Revoke a certificate that this issuer signed elsewhere, before it was taken over.

        Raises PKIError(BAD_REQUEST) when it was issued here, or is revoked already.
        """
        # No CRL told of it: the certificate itself stands in for one, and no number was used.
        told = Takeover(0, hashlib.sha256(one.certificate).digest(), (one.entry,))
        with self._session.transaction() as connection:
            if connection.execute(_INTENDED, (one.issuer_id, one.entry.serial)).fetchone() is not None:
                raise PKIError(ErrorType.BAD_REQUEST, "it was issued here: use `chancery revoke`")
            try:
                _take_over(connection, one.issuer_id, told, one.not_after, at, kept=one.kept_until)
            except psycopg.errors.UniqueViolation as error:
                raise PKIError(ErrorType.BAD_REQUEST, "it is revoked already") from error
            if one.block is not None:
                blocklist.insert(connection, one.block)
            insert_events(connection, events)

    def add_certificate(self, certificate: NewCertificate, at: datetime.datetime, events: Sequence[Event]) -> None:
        """
        Store a further certificate of an issuer; the same again stores nothing.

        Raises PKIError: BAD_REQUEST when issuer or parent are unknown, or name or key are not the issuer's;
        BAD_DATA_FORMAT for what is no certificate.
        """
        parsed = _certificate(certificate.certificate)
        with self._session.transaction() as connection:
            issuer_id = _issuer_id(connection, certificate.issuer)
            connection.execute("SELECT pg_advisory_xact_lock(%s, 0)", (_ACTS,))
            if _is_certificate_of(connection, issuer_id, certificate.certificate):
                return
            values = (rows.storable(parsed.subject.rfc4514_string()), _spki_sha256(parsed))
            same = "SELECT FROM chancery.issuer WHERE issuer_id = %s AND subject = %s AND spki_sha256 = %s"
            if connection.execute(same, (issuer_id, *values)).fetchone() is None:
                raise PKIError(
                    ErrorType.BAD_REQUEST,
                    f"the certificate is for another name or key than {certificate.issuer}'s",
                )
            connection.execute(
                _INSERT_CERTIFICATE,
                (
                    issuer_id,
                    certificate.kind.value,
                    values[0],
                    certificate.certificate,
                    values[1],
                    parsed.not_valid_before_utc,
                    parsed.not_valid_after_utc,
                    None if certificate.parent is None else _issuer_id(connection, certificate.parent),
                    at,
                ),
            )
            insert_events(connection, events)

    def keys(self) -> dict[int, KeyPlace]:
        """Return where the key of each issuer is, by id, as far as it was told."""
        found = self._session.fetch(
            "SELECT issuer_id, place, module, device, software, imported FROM chancery.issuer_key"
        )
        return {row[0]: KeyPlace(Place(row[1]), *row[2:]) for row in found}

    def tell_key(self, issuer_id: int, key: KeyPlace) -> None:
        """Store where an issuer's key is; what was told before stays."""
        with self._session.transaction() as connection:
            _insert_key(connection, issuer_id, key)

    def act(self, acts: Sequence[IssuerAct], events: Sequence[Event]) -> None:
        """Activate, deactivate or make the default, all at once; PKIError(BAD_REQUEST) says what does not fit."""
        with self._session.transaction() as connection:
            _act(connection, acts)
            insert_events(connection, events)

    def open_shards(
        self, issuer: IssuerRecord, urls: Callable[[int], str], count: int, at: datetime.datetime
    ) -> list[CRLShard]:
        """Return the first `count` shards whose URL is `urls(number)`, opened for good where there are too few."""
        actor = self._session.settings.user
        with self._session.transaction() as connection:
            connection.execute(LOCK_NUMBERS, (issuer.issuer_id,))
            known = [CRLShard(*row) for row in connection.execute(_SHARDS, (issuer.issuer_id,))]
            found = [shard for shard in known if shard.url == urls(shard.number)][:count]
            following = max((shard.number for shard in known), default=0) + 1
            new = [CRLShard(following + n, urls(following + n)) for n in range(count - len(found))]
            for one in new:
                connection.execute(_OPEN_SHARD, (issuer.issuer_id, one.number, one.url, at))
                detail: EventDetail = {"shard": one.number, "url": one.url}
                about = f"crl:{issuer.name}"
                insert_events(connection, [Event(EventKind.CRL_SHARD_OPENED, at, actor, about, detail)])
        return [*found, *new]

    def import_crl(self, crl: CRLRecord, events: Sequence[Event]) -> None:
        """
        Reserve this number and publish a CRL that was signed elsewhere (the offline root's).

        The same CRL again is no change; PKIError(BAD_REQUEST) for a number not above the current one.
        """
        with self._session.transaction() as connection:
            connection.execute(LOCK_NUMBERS, (crl.issuer_id,))
            row = connection.execute(rows.latest_crl(crl.scope).encode(), (crl.issuer_id, 0)).fetchone()
            if row is not None and rows.crl_record(row).der == crl.der:
                return
            highest = connection.execute(
                "SELECT coalesce(max(number), 0) FROM chancery.crl_number WHERE issuer_id = %s", (crl.issuer_id,)
            ).fetchone()
            assert highest is not None
            if crl.number <= highest[0]:
                raise PKIError(ErrorType.BAD_REQUEST, f"CRL number {crl.number} is not above {highest[0]}")
            connection.execute(_INSERT_NUMBER, (crl.issuer_id, crl.number))
            insert_crl(connection, crl, None)
            insert_events(connection, events)

    def add_profile(self, name: str, version: int, sha256: bytes, source: str, at: datetime.datetime) -> None:
        """
        Record a profile's text under its hash, once, with a PROFILE_LOADED event when it is new.

        Raises OperatorError when this version of the profile is recorded with another text.
        """
        with self._session.transaction() as connection:
            if connection.execute(_OTHER_TEXT, (name, version, sha256)).fetchone() is not None:
                raise OperatorError(
                    f"version {version} of the profile {name} is recorded with another text",
                    f"give the changed profile the version {version + 1} or above, or bring its old text back",
                )
            if connection.execute(_INSERT_PROFILE, (name, version, sha256, source, at)).fetchone() is not None:
                detail: EventDetail = {"version": version, "sha256": sha256.hex()}
                actor = self._session.settings.user
                insert_events(connection, [Event(EventKind.PROFILE_LOADED, at, actor, f"profile:{name}", detail)])


def _known(connection: PgConnection, issuer: NewIssuer) -> int | None:
    """Return the id of the same issuer, None when neither name nor certificate is known; BAD_REQUEST else."""
    found = connection.execute(
        "SELECT issuer_id, name, certificate FROM chancery.issuer WHERE name = %s OR certificate = %s",
        (issuer.name, issuer.certificate),
    ).fetchall()
    if not found:
        return None
    issuer_id, name, certificate = found[0]
    if len(found) > 1 or name != issuer.name or bytes(certificate) != issuer.certificate:
        raise PKIError(ErrorType.BAD_REQUEST, f"issuer {name} has that name or that certificate already")
    return int(issuer_id)


def _issuer_id(connection: PgConnection, name: str) -> int:
    row = connection.execute("SELECT issuer_id FROM chancery.issuer WHERE name = %s", (name,)).fetchone()
    if row is None:
        raise PKIError(ErrorType.BAD_REQUEST, f"no issuer named {name!r}")
    return int(row[0])


def _is_certificate_of(connection: PgConnection, issuer_id: int, certificate: bytes) -> bool:
    """Tell whether it is stored already; BAD_REQUEST when it is, as another issuer's."""
    known = connection.execute(
        """SELECT issuer_id FROM chancery.issuer WHERE certificate = %(der)s
        UNION ALL SELECT issuer_id FROM chancery.issuer_certificate WHERE certificate = %(der)s""",
        {"der": certificate},
    ).fetchall()
    if any(row[0] != issuer_id for row in known):
        raise PKIError(ErrorType.BAD_REQUEST, "that certificate is another issuer's already")
    return bool(known)


def _insert_key(connection: PgConnection, issuer_id: int, key: KeyPlace) -> None:
    connection.execute(
        _INSERT_KEY, (issuer_id, key.place.value, key.module, key.device, key.software, key.imported)
    )


def _act(connection: PgConnection, acts: Sequence[IssuerAct]) -> None:
    """Write acts one after the other; the trigger refuses what does not fit, in words for operators."""
    for one in acts:
        issuer_id = _issuer_id(connection, one.issuer)
        values = (issuer_id, one.act.value, one.at, rows.storable(one.actor), rows.storable(one.reason))
        try:
            connection.execute(_INSERT_ACT, values)
        except psycopg.errors.RestrictViolation as error:
            said = (error.diag.message_primary or "").replace(f"issuer {issuer_id} ", f"issuer {one.issuer} ")
            raise PKIError(ErrorType.BAD_REQUEST, said) from error


def _take_over(
    connection: PgConnection,
    issuer_id: int,
    takeover: Takeover,
    not_after: datetime.datetime,
    at: datetime.datetime,
    *,
    kept: datetime.datetime | None = None,
) -> None:
    entries: Sequence[RevokedEntry] = takeover.revoked
    values = {
        "issuer": issuer_id,
        "sha256": takeover.crl_sha256,
        "serials": [one.serial for one in entries],
        "times": [one.revoked_at for one in entries],
        "reasons": [int(one.reason) for one in entries],
        "invalidity": [one.invalidity_date for one in entries],
        "not_after": not_after,
        "at": at,
        "kept": kept,
    }
    connection.execute(_TAKE_OVER, values)
    connection.execute(_REVOKED_BEFORE, values)
    if takeover.crl_number > 0:
        connection.execute(_INSERT_NUMBER, (issuer_id, takeover.crl_number))


def _certificate(der: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError as error:
        raise PKIError(ErrorType.BAD_DATA_FORMAT, "not a certificate") from error


def _spki_sha256(certificate: x509.Certificate) -> bytes:
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()
