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
from collections.abc import Sequence

from chancery.asn1 import der, oids
from chancery.asn1.general_name import general_name
from chancery.asn1.x509 import authority_key_identifier, extension, freshest_crl

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


def delta_crl_indicator(base: int) -> bytes:
    """DeltaCRLIndicator with the number of the complete CRL that the delta is relative to (RFC 5280 5.2.4)."""
    return extension(oids.DELTA_CRL_INDICATOR, der.integer(base), critical=True)


def issuing_distribution_point(url: str) -> bytes:
    """IssuingDistributionPoint, critical (RFC 5280 5.2.5); its URL is the CDP, byte for byte (R15)."""
    point = der.tlv(0xA0, der.tlv(0xA0, general_name(f"uri:{url}")))
    return extension(oids.ISSUING_DISTRIBUTION_POINT, der.sequence(point), critical=True)


def crl_extensions(
    number: int,
    authority_key: bytes,
    distribution_point: bytes = b"",
    *,
    base: int | None = None,
    freshest: str | None = None,
) -> tuple[bytes, ...]:
    """Return a CRL's extensions, each in DER, of which the last three stand only where they say something."""
    found = (
        authority_key_identifier(authority_key),
        crl_number(number),
        b"" if base is None else delta_crl_indicator(base),
        distribution_point,
        b"" if freshest is None else freshest_crl(freshest),
    )
    return tuple(filter(None, found))


def tbs_ends(
    names: tuple[bytes, bytes],
    times: tuple[datetime.datetime, datetime.datetime],
    size: int,
    extensions: Sequence[bytes],
) -> tuple[bytes, bytes]:
    """
    Return what stands before and after `size` octets of entries in a TBSCertList, version 2.

    `names` are algorithm and issuer (DER), `times` thisUpdate and nextUpdate (whole seconds); extensions are
    DER. Without entries revokedCertificates is absent (RFC 5280 5.1.2.6).
    """
    fields = b"".join((_V2, *names, *map(der.time, times), der.header_of(der.SEQUENCE, size) if size else b""))
    tail = der.explicit(0, der.sequence(*extensions))
    return der.header_of(der.SEQUENCE, len(fields) + size + len(tail)) + fields, tail


def signed_ends(head: bytes, tail: bytes, size: int, algorithm: bytes, signature: bytes) -> tuple[bytes, bytes]:
    """Return what stands before and after `size` octets of entries in a CertificateList, given `tbs_ends`."""
    tail += algorithm + der.bit_string(signature)
    return der.header_of(der.SEQUENCE, len(head) + size + len(tail)) + head, tail
