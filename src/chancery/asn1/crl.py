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
from typing import Literal

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


def certificate_issuer(name: bytes) -> bytes:
    """CertificateIssuer, critical, with the Name (DER) whose serials follow (RFC 5280 5.3.3)."""
    return extension(oids.CERTIFICATE_ISSUER, der.sequence(der.explicit(4, name)), critical=True)


def issued_by(entries: bytes, name: bytes) -> bytes:
    """Return these CRL entries with certificateIssuer in the first: that of the rest follows from it."""
    rest = der.Reader(entries)
    fields = rest.enter()
    serial, time = fields.raw(der.INTEGER), fields.raw()
    others = [fields.take(der.SEQUENCE)] if fields else []
    first = der.sequence(serial, time, der.sequence(*others, certificate_issuer(name)))
    return first + entries[der.header(entries, 0, len(entries))[2] :]


def issuing_distribution_point(
    url: str | None, *, only: Literal["user", "ca"] | None = None, indirect: bool = False
) -> bytes:
    """
    IssuingDistributionPoint, critical (RFC 5280 5.2.5); its URL is the CDP, byte for byte (R15).

    Empty for a CRL about every certificate of its issuer, found anywhere: the extension is then absent.
    """
    fields = [] if url is None else [der.tlv(0xA0, der.tlv(0xA0, general_name(f"uri:{url}")))]
    if only is not None:
        fields.append(der.implicit(1 if only == "user" else 2, b"\xff"))
    if indirect:
        fields.append(der.implicit(4, b"\xff"))
    return extension(oids.ISSUING_DISTRIBUTION_POINT, der.sequence(*fields), critical=True) if fields else b""


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
    head, tail = tbs_ends((algorithm, issuer), (this_update, next_update), len(revoked), extensions)
    return head + revoked + tail


def tbs_ends(
    names: tuple[bytes, bytes],
    times: tuple[datetime.datetime, datetime.datetime],
    size: int,
    extensions: Sequence[bytes],
) -> tuple[bytes, bytes]:
    """
    Return what stands before and after `size` octets of entries in a TBSCertList; see `tbs_cert_list`.

    `names` are algorithm and issuer (DER), `times` thisUpdate and nextUpdate.
    """
    fields = b"".join((_V2, *names, *map(der.time, times), der.header_of(der.SEQUENCE, size) if size else b""))
    tail = der.explicit(0, der.sequence(*extensions))
    return der.header_of(der.SEQUENCE, len(fields) + size + len(tail)) + fields, tail


def signed_ends(head: bytes, tail: bytes, size: int, algorithm: bytes, signature: bytes) -> tuple[bytes, bytes]:
    """Return what stands before and after `size` octets of entries in a CertificateList, given `tbs_ends`."""
    tail += algorithm + der.bit_string(signature)
    return der.header_of(der.SEQUENCE, len(head) + size + len(tail)) + head, tail
