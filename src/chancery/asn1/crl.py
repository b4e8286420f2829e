"""
Certificate revocation lists by DER templates (RFC 5280 section 5).

    TBSCertList ::= SEQUENCE {
        version Version OPTIONAL, signature AlgorithmIdentifier, issuer Name, thisUpdate Time, nextUpdate Time,
        revokedCertificates SEQUENCE OF SEQUENCE {
            userCertificate CertificateSerialNumber, revocationDate Time, crlEntryExtensions Extensions } OPTIONAL,
        crlExtensions [0] EXPLICIT Extensions }
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterable, Sequence

from chancery.asn1 import der, oids
from chancery.asn1.general_name import general_name
from chancery.asn1.x509 import authority_key_identifier, extension

_V2 = b"\x02\x01\x01"


@functools.lru_cache(maxsize=4096)
def entry_tail(
    revoked_at: datetime.datetime, reason: int | None, invalidity_date: datetime.datetime | None
) -> bytes:
    """
    What follows the serial in a CRL entry: revocationDate and, if there are any, crlEntryExtensions.

    A reason of 0 or None is absent (RFC 5280 5.3.1); invalidityDate is GeneralizedTime (5.3.2).
    """
    extensions = []
    if reason:
        extensions.append(extension(oids.CRL_REASON, der.enumerated(reason)))
    if invalidity_date is not None:
        extensions.append(extension(oids.INVALIDITY_DATE, der.generalized_time(invalidity_date)))
    return der.time(revoked_at) + (der.sequence(*extensions) if extensions else b"")


def entry(
    serial: bytes,
    revoked_at: datetime.datetime,
    reason: int | None = None,
    invalidity_date: datetime.datetime | None = None,
) -> bytes:
    """
    One element of revokedCertificates. `serial` is the content of the INTEGER.

    Many certificates are revoked in the same second for the same reason: only the serial is encoded anew.
    """
    tail = entry_tail(revoked_at, reason, invalidity_date)
    size = len(serial)
    if (whole := 2 + size + len(tail)) < 0x80:
        # The usual case in one piece: there may be a million of them.
        return bytes((der.SEQUENCE, whole, der.INTEGER, size)) + serial + tail
    return der.sequence(der.tlv(der.INTEGER, serial), tail)


def crl_number(number: int) -> bytes:
    """CRLNumber, not critical (RFC 5280 5.2.3)."""
    return extension(oids.CRL_NUMBER, der.integer(number))


def issuing_distribution_point(
    url: str, *, only_user_certificates: bool = False, only_ca_certificates: bool = False
) -> bytes:
    """IssuingDistributionPoint, critical (RFC 5280 5.2.5); its URL is the CDP, byte for byte (R15)."""
    fields = [der.tlv(0xA0, der.tlv(0xA0, general_name(f"uri:{url}")))]
    if only_user_certificates:
        fields.append(der.implicit(1, b"\xff"))
    if only_ca_certificates:
        fields.append(der.implicit(2, b"\xff"))
    return extension(oids.ISSUING_DISTRIBUTION_POINT, der.sequence(*fields), critical=True)


def crl_extensions(
    number: int, authority_key: bytes, distribution_point: bytes | None = None
) -> tuple[bytes, ...]:
    """Return AKI, CRLNumber and, for a CRL that does not cover everything, the issuingDistributionPoint."""
    found = (authority_key_identifier(authority_key), crl_number(number))
    return found if distribution_point is None else (*found, distribution_point)


def tbs_cert_list(
    *,
    algorithm: bytes,
    issuer: bytes,
    this_update: datetime.datetime,
    next_update: datetime.datetime,
    entries: Iterable[bytes],
    extensions: Sequence[bytes],
) -> bytes:
    """
    TBSCertList, version 2. `algorithm`, `issuer`, entries and extensions are DER; times in whole seconds.

    Without entries revokedCertificates is absent (RFC 5280 5.1.2.6).
    """
    revoked = b"".join(entries)
    return der.sequence(
        _V2,
        algorithm,
        issuer,
        der.time(this_update),
        der.time(next_update),
        der.tlv(der.SEQUENCE, revoked) if revoked else b"",
        der.explicit(0, der.sequence(*extensions)),
    )
