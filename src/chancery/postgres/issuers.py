"""Issuers, profiles and foreign CRLs, as they come into an installation."""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.ports import CRLRecord, Event, EventDetail, EventKind, IssuerRecord, NewIssuer
from chancery.postgres import rows
from chancery.postgres.journal import insert_events
from chancery.postgres.revocation import insert_crl
from chancery.postgres.session import Connection, PgConnection, Session, session

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
_INSERT_NUMBER = "INSERT INTO chancery.crl_number (issuer_id, number) VALUES (%s, %s) ON CONFLICT DO NOTHING"


class PgIssuerStore:
    """`ports.IssuerStore` as the role `chancery_worker`."""

    def __init__(self, source: Connection | Session) -> None:
        self._session = session(source)

    def issuers(self) -> list[IssuerRecord]:
        """Return every issuer, in the order in which they were added."""
        return [rows.issuer_record(row) for row in self._session.fetch(rows.ISSUERS)]

    def add_issuer(self, issuer: NewIssuer, at: datetime.datetime, events: Sequence[Event]) -> int:
        """
        Store an issuer and return its id; the same (name, certificate) again returns the id and stores nothing.

        Raises PKIError: BAD_REQUEST when name or certificate are taken by another, the name is not one
        (`[a-z0-9-]`), or the parent is unknown; BAD_DATA_FORMAT for what is no certificate.
        """
        certificate = _certificate(issuer.certificate)
        if re.fullmatch(NAME, issuer.name) is None:
            raise PKIError(ErrorType.BAD_REQUEST, f"an issuer's name is {NAME}")
        with self._session.transaction() as connection:
            if (known := _known(connection, issuer)) is not None:
                return known
            cursor = connection.execute(
                _INSERT_ISSUER,
                (
                    issuer.name,
                    rows.storable(certificate.subject.rfc4514_string()),
                    issuer.certificate,
                    _spki_sha256(certificate),
                    certificate.not_valid_before_utc,
                    certificate.not_valid_after_utc,
                    _parent_id(connection, issuer),
                    issuer.token_label,
                    issuer.key_label,
                    at,
                ),
            )
            # None: another transaction was faster by a moment.
            row = cursor.fetchone()
            if row is None and (known := _known(connection, issuer)) is not None:
                return known
            assert row is not None
            insert_events(connection, events)
            return int(row[0])

    def import_crl(self, crl: CRLRecord, events: Sequence[Event]) -> None:
        """
        Reserve this number and publish a CRL that was signed elsewhere (the offline root's).

        The same CRL again is no change; PKIError(BAD_REQUEST) for a number not above the current one.
        """
        with self._session.transaction() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(1128814339, %s)", (crl.issuer_id,))
            row = connection.execute(rows.LATEST_CRL, (crl.issuer_id,)).fetchone()
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


def _parent_id(connection: PgConnection, issuer: NewIssuer) -> int | None:
    if issuer.parent is None:
        return None
    row = connection.execute("SELECT issuer_id FROM chancery.issuer WHERE name = %s", (issuer.parent,)).fetchone()
    if row is None:
        raise PKIError(ErrorType.BAD_REQUEST, f"no issuer named {issuer.parent!r}")
    return int(row[0])


def _certificate(der: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError as error:
        raise PKIError(ErrorType.BAD_DATA_FORMAT, "not a certificate") from error


def _spki_sha256(certificate: x509.Certificate) -> bytes:
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()
