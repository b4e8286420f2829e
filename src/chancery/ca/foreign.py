"""Revoking what a CA signed before it was taken over: no intent stands behind it, but the certificate itself."""

from __future__ import annotations

import hashlib

from cryptography import x509

from chancery.asn1 import der
from chancery.asn1.x509 import split_signed
from chancery.ca.installing import Who
from chancery.errors import ErrorType, PKIError
from chancery.pkix.key import tbs_key_sha256
from chancery.pkix.path import check_signed, read_certificate
from chancery.pkix.usage import kept_until
from chancery.ports import (
    BlockedKey,
    Event,
    EventDetail,
    EventKind,
    ForeignRevocation,
    IssuerRecord,
    RevocationReason,
    RevokedEntry,
)


def foreign(
    record: IssuerRecord, certificate: bytes, reason: RevocationReason, who: Who
) -> tuple[ForeignRevocation, list[Event]]:
    """
    Judge a certificate (DER) that is to be revoked; return its revocation from now on, and the events of it.

    Raises PKIError(BAD_REQUEST) when this issuer did not sign it, or signs elsewhere, or for a reason that is not
    for good; BAD_DATA_FORMAT for what is no certificate.
    """
    issuer, parsed = x509.load_der_x509_certificate(record.certificate), read_certificate(certificate)
    if record.key_label is None:
        raise PKIError(ErrorType.BAD_REQUEST, f"{record.name} signs elsewhere, and its CRLs are made there")
    if parsed.issuer != issuer.subject:
        raise PKIError(ErrorType.BAD_REQUEST, f"the certificate names another issuer than {record.name}")
    check_signed(certificate, issuer, "the certificate")
    if not reason.final:
        raise PKIError(ErrorType.BAD_REQUEST, "only what was issued here is suspended and reinstated")
    tbs, _, _ = split_signed(certificate)
    key, serial, not_after = (
        tbs_key_sha256(tbs),
        der.integer_octets(parsed.serial_number),
        parsed.not_valid_after_utc,
    )
    detail: EventDetail = {
        "serial": serial.hex(),
        "reason": reason.name.lower(),
        "certificate_sha256": hashlib.sha256(certificate).hexdigest(),
        "why": who.reason,
    }
    events = [Event(EventKind.CA_FOREIGN_REVOKED, who.at, who.actor, f"issuer:{record.name}", detail)]
    block = None
    if reason.compromised and key is not None:
        words = f"{reason.name.lower()} of certificate {record.issuer_id}:{serial.hex()}"
        block = BlockedKey(key, words, who.at, who.actor)
        events.append(Event(EventKind.KEY_BLOCKED, who.at, who.actor, f"key:{key.hex()}", {"reason": words}))
    entry = RevokedEntry(serial, who.at.replace(microsecond=0), reason, None)
    return ForeignRevocation(
        record.issuer_id, certificate, entry, not_after, kept_until(tbs, not_after), block
    ), events
