"""
Certificates by DER templates (RFC 5280 4.1, 4.2): each function returns the bytes of one structure.

    TBSCertificate ::= SEQUENCE {
        version [0] EXPLICIT Version, serialNumber CertificateSerialNumber, signature AlgorithmIdentifier,
        issuer Name, validity Validity, subject Name, subjectPublicKeyInfo SubjectPublicKeyInfo,
        extensions [3] EXPLICIT Extensions }
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import re
from collections.abc import Iterable, Sequence

from chancery.asn1 import der, oids
from chancery.asn1.general_name import general_name

_V3 = b"\xa0\x03\x02\x01\x02"
_TRUE = b"\x01\x01\xff"
# X.520: countryName and serialNumber are PrintableString; RFC 4519 and PKCS #9: DC and emailAddress IA5String.
_PRINTABLE = frozenset({oids.ATTRIBUTES["C"], oids.ATTRIBUTES["serialNumber"]})
_IA5 = frozenset({oids.ATTRIBUTES["DC"], oids.ATTRIBUTES["emailAddress"]})
PRINTABLE_TEXT = re.compile(r"[A-Za-z0-9 '()+,./:=?-]*")
_STRINGS = {
    der.UTF8_STRING: "utf-8",
    der.PRINTABLE_STRING: "ascii",
    der.IA5_STRING: "ascii",
    der.BMP_STRING: "utf-16-be",
}


def string_tag(attribute: str) -> int:
    """Tag of the string type that this attribute type (dotted) is written in (RFC 5280 4.1.2.4)."""
    if attribute in _PRINTABLE:
        return der.PRINTABLE_STRING
    return der.IA5_STRING if attribute in _IA5 else der.UTF8_STRING


@functools.lru_cache(maxsize=4096)
def rdn(attribute: str, value: str, tag: int | None = None) -> bytes:
    """
    RelativeDistinguishedName of one attribute (dotted type), in the string type of `tag` or its usual one.

    ValueError when the text does not fit the attribute's string type.
    """
    tag = tag or string_tag(attribute)
    if tag == der.PRINTABLE_STRING and not PRINTABLE_TEXT.fullmatch(value):
        raise ValueError(f"{value!r} is not a PrintableString")
    return der.tlv(der.SET, der.sequence(der.oid(attribute), der.tlv(tag, value.encode(_STRINGS[tag]))))


def name(attributes: Iterable[tuple[str, str]]) -> bytes:
    """Name of (dotted type, value) pairs, most significant first, one attribute in each RDN."""
    return der.sequence(*(rdn(attribute, value) for attribute, value in attributes))


def read_rdns(data: bytes) -> tuple[tuple[tuple[str, str], ...], ...]:
    """
    Return the (dotted type, value) pairs of each RDN of a DER Name.

    Raises PKIError(BAD_DATA_FORMAT) for a string type other than UTF8String, PrintableString, IA5String and
    BMPString: what is not read exactly is not repeated in a certificate.
    """
    found = []
    rdns = der.Reader(data).enter()
    while rdns:
        attributes = rdns.enter(der.SET)
        pairs: list[tuple[str, str]] = []
        while attributes or not pairs:
            attribute = attributes.enter()
            type_ = attribute.oid()
            encoding = _STRINGS.get(tag := attribute.peek() or 0)
            if encoding is None:
                raise der.malformed("a name attribute in a string type that is not accepted")
            try:
                pairs.append((type_, attribute.take(tag).decode(encoding)))
            except UnicodeDecodeError:
                raise der.malformed("a name attribute that is not valid in its string type") from None
            attribute.done()
        found.append(tuple(pairs))
    return tuple(found)


def read_name(data: bytes) -> tuple[tuple[str, str], ...]:
    """Return the pairs of a DER Name; as `read_rdns`, and PKIError(BAD_DATA_FORMAT) for several in one RDN."""
    found = read_rdns(data)
    if any(len(pairs) > 1 for pairs in found):
        raise der.malformed("a relative distinguished name of several attributes")
    return tuple(pairs[0] for pairs in found)


def extension(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    """Extension around the DER of its value; `critical` DEFAULT FALSE is absent."""
    if critical:
        return der.sequence(der.oid(oid), _TRUE, der.octet_string(value))
    return der.sequence(der.oid(oid), der.octet_string(value))


@functools.lru_cache(maxsize=256)
def basic_constraints(*, ca: bool, path_length: int | None) -> bytes:
    """BasicConstraints, critical; cA DEFAULT FALSE is absent (RFC 5280 4.2.1.9)."""
    fields = [_TRUE] if ca else []
    if path_length is not None:
        fields.append(der.integer(path_length))
    return extension(oids.BASIC_CONSTRAINTS, der.sequence(*fields), critical=True)


@functools.lru_cache(maxsize=256)
def key_usage(bits: tuple[int, ...]) -> bytes:
    """KeyUsage, critical, from bit numbers (RFC 5280 4.2.1.3)."""
    return extension(oids.KEY_USAGE, der.named_bits(bits), critical=True)


@functools.lru_cache(maxsize=256)
def extended_key_usage(usages: tuple[str, ...], *, critical: bool) -> bytes:
    """ExtendedKeyUsage from dotted KeyPurposeIds (RFC 5280 4.2.1.12)."""
    return extension(oids.EXTENDED_KEY_USAGE, der.sequence(*map(der.oid, usages)), critical=critical)


def key_identifier(spki: bytes) -> bytes:
    """Leftmost 160 bits of SHA-256 over the subjectPublicKey (RFC 7093 2, method 1)."""
    fields = der.elements(spki)
    if [tag for tag, _ in fields] != [der.SEQUENCE, der.BIT_STRING]:
        raise der.malformed("not a SubjectPublicKeyInfo")
    return hashlib.sha256(der.content(fields[1][1])[1:]).digest()[:20]


def subject_key_identifier(identifier: bytes) -> bytes:
    """SubjectKeyIdentifier, never critical (RFC 5280 4.2.1.2)."""
    return extension(oids.SUBJECT_KEY_IDENTIFIER, der.octet_string(identifier))


@functools.lru_cache(maxsize=256)
def authority_key_identifier(identifier: bytes) -> bytes:
    """AuthorityKeyIdentifier with its keyIdentifier alone, never critical (RFC 5280 4.2.1.1)."""
    return extension(oids.AUTHORITY_KEY_IDENTIFIER, der.sequence(der.implicit(0, identifier)))


def subject_alt_name(names: Sequence[str], *, critical: bool) -> bytes:
    """SubjectAltName of text names; critical when the subject is empty (RFC 5280 4.2.1.6)."""
    return extension(oids.SUBJECT_ALT_NAME, der.sequence(*map(general_name, names)), critical=critical)


@functools.lru_cache(maxsize=256)
def authority_info_access(ocsp: str | None, ca_issuers: str | None) -> bytes:
    """AuthorityInfoAccessSyntax with these URLs, never critical (RFC 5280 4.2.2.1)."""
    pairs = ((oids.AD_OCSP, ocsp), (oids.AD_CA_ISSUERS, ca_issuers))
    descriptions = [der.sequence(der.oid(method), general_name(f"uri:{url}")) for method, url in pairs if url]
    return extension(oids.AUTHORITY_INFO_ACCESS, der.sequence(*descriptions))


def _distribution_points(url: str) -> bytes:
    full_name = der.tlv(0xA0, general_name(f"uri:{url}"))
    return der.sequence(der.sequence(der.tlv(0xA0, full_name)))


@functools.lru_cache(maxsize=256)
def crl_distribution_points(url: str) -> bytes:
    """CRLDistributionPoints with one fullName URL (RFC 5280 4.2.1.13)."""
    return extension(oids.CRL_DISTRIBUTION_POINTS, _distribution_points(url))


@functools.lru_cache(maxsize=256)
def freshest_crl(url: str) -> bytes:
    """FreshestCRL with one fullName URL, in certificates and complete CRLs, not critical (RFC 5280 4.2.1.15)."""
    return extension(oids.FRESHEST_CRL, _distribution_points(url))


def ocsp_nocheck() -> bytes:
    """id-pkix-ocsp-nocheck, whose value is NULL (RFC 6960 4.2.2.2.1)."""
    return extension(oids.OCSP_NOCHECK, der.null())


def private_key_usage_period(not_before: datetime.datetime, not_after: datetime.datetime) -> bytes:
    """PrivateKeyUsagePeriod with both ends (RFC 3280 4.2.1.4; RFC 5280 appendix A.2)."""
    ends = [
        der.implicit(number, der.generalized_time(moment)[2:])
        for number, moment in ((0, not_before), (1, not_after))
    ]
    return extension(oids.PRIVATE_KEY_USAGE_PERIOD, der.sequence(*ends))


def tbs_certificate(
    *,
    serial: bytes,
    algorithm: bytes,
    issuer: bytes,
    not_before: datetime.datetime,
    not_after: datetime.datetime,
    subject: bytes,
    spki: bytes,
    extensions: Sequence[bytes],
) -> bytes:
    """
    TBSCertificate, version 3.

    `serial` is the content of the INTEGER, `algorithm` the DER AlgorithmIdentifier, both names, the SPKI
    and each extension are DER. Times are written in whole seconds.
    """
    return der.sequence(
        _V3,
        der.tlv(der.INTEGER, serial),
        algorithm,
        issuer,
        _validity(not_before, not_after),
        subject,
        spki,
        der.explicit(3, der.sequence(*extensions)),
    )


@functools.lru_cache(maxsize=256)
def _validity(not_before: datetime.datetime, not_after: datetime.datetime) -> bytes:
    """Validity; those of one batch are mostly the same."""
    return der.sequence(der.time(not_before), der.time(not_after))


def signed(tbs: bytes, algorithm: bytes, signature: bytes) -> bytes:
    """Certificate or CertificateList: SEQUENCE { tbs, AlgorithmIdentifier (DER), BIT STRING }."""
    return der.sequence(tbs, algorithm, der.bit_string(signature))


def split_signed(data: bytes) -> tuple[bytes, bytes, bytes]:
    """
    Return (tbs, AlgorithmIdentifier, signature octets) of a Certificate, CertificateList or the like.

    Raises PKIError(BAD_DATA_FORMAT) when the outer form is another, or anything follows.
    """
    fields = der.elements(data)
    if [tag for tag, _ in fields] != [der.SEQUENCE, der.SEQUENCE, der.BIT_STRING]:
        raise der.malformed("not a signed structure (RFC 5280 4.1.1)")
    (_, tbs), (_, algorithm), (_, signature) = fields
    bits = der.content(signature)
    if bits[:1] != b"\x00":
        raise der.malformed("a signature that is not whole octets")
    return tbs, algorithm, bits[1:]


def subject_fields(certificate: bytes) -> tuple[bytes, bytes]:
    """Return the raw subject Name and SubjectPublicKeyInfo of a DER Certificate."""
    return subject_fields_of(split_signed(certificate)[0])


def subject_fields_of(tbs_certificate: bytes) -> tuple[bytes, bytes]:
    """Return the raw subject Name and SubjectPublicKeyInfo of a DER TBSCertificate."""
    tbs = der.Reader(tbs_certificate).enter()
    if tbs.peek() == 0xA0:
        tbs.raw()
    tbs.take(der.INTEGER)
    for _ in range(3):
        tbs.raw(der.SEQUENCE)
    return tbs.raw(der.SEQUENCE), tbs.raw(der.SEQUENCE)
