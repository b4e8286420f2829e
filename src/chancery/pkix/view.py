"""What the lints look at: the fields of a certificate or CRL as they are encoded, beside pyca's values."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import ipaddress
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from chancery.asn1 import der, oids
from chancery.asn1.x509 import split_signed, subject_fields
from chancery.errors import PKIError
from chancery.pkix.constraints import NameConstraints, name_constraints
from chancery.pkix.key import load_spki, usual_point
from chancery.pkix.usage import UNREADABLE

V = TypeVar("V", bound=x509.ExtensionType)


@dataclasses.dataclass(frozen=True, slots=True)
class EncodedTime:
    """A Time as encoded: its tag and its text, the moment it means (None: not in RFC 5280's form)."""

    tag: int
    text: str
    at: datetime.datetime | None


class EncodedAttribute(NamedTuple):
    """One attribute of a Name: dotted type, string tag, content octets."""

    type: str
    tag: int
    value: bytes


class EncodedExtension(NamedTuple):
    """An Extension: dotted type, and the octets inside its OCTET STRING."""

    oid: str
    critical: bool
    value: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class IssuerView:
    """What a certificate or CRL is compared with in the CA certificate above it."""

    subject: bytes
    key_identifier: bytes | None
    ca: bool
    path_length: int | None
    not_after: datetime.datetime
    not_before: datetime.datetime
    constraints: NameConstraints | None


@functools.lru_cache(maxsize=64)
def view_issuer(certificate: x509.Certificate) -> IssuerView:
    """Take from a CA certificate what `IssuerView` holds."""
    found = {type(one.value): one.value for one in certificate.extensions}
    basic, ski = found.get(x509.BasicConstraints), found.get(x509.SubjectKeyIdentifier)
    return IssuerView(
        subject=subject_fields(certificate.public_bytes(Encoding.DER))[0],
        key_identifier=ski.digest if isinstance(ski, x509.SubjectKeyIdentifier) else None,
        ca=isinstance(basic, x509.BasicConstraints) and basic.ca,
        path_length=basic.path_length if isinstance(basic, x509.BasicConstraints) else None,
        not_after=certificate.not_valid_after_utc,
        not_before=certificate.not_valid_before_utc,
        constraints=name_constraints(certificate),
    )


Values = Mapping[type[x509.ExtensionType], x509.ExtensionType]

VARYING = {
    x509.SubjectAlternativeName: oids.SUBJECT_ALT_NAME,
    x509.SubjectKeyIdentifier: oids.SUBJECT_KEY_IDENTIFIER,
}
"""The extensions whose values are another in every certificate of one profile under one issuer."""
_VARYING_OIDS = frozenset(VARYING.values())


class EncodedName(NamedTuple):
    """A GeneralName: its tag and content octets."""

    tag: int
    value: bytes


_UNREAD = (EncodedName(0, b""),)
"""Stands for the names that nobody has asked for yet."""


class CertificateView:
    """
    A certificate's fields as encoded (RFC 5280 4.1), and what pyca makes of them, decoded when asked for.

    `frame` stands for all that the certificates of one profile under one issuer have in common: two with equal
    frames differ in serial, validity, subject, subjectPublicKey and the values of `VARYING` alone, those of
    the extensions in their ordinary forms. It is None for a certificate that is to be looked at by itself.
    """

    __slots__ = (
        "_certificate",
        "_decoded",
        "_names",
        "_shared",
        "_subject",
        "der",
        "frame",
        "inner_algorithm",
        "issuer",
        "issuer_name",
        "not_after",
        "not_before",
        "outer_algorithm",
        "raw_extensions",
        "serial",
        "spki",
        "subject_name",
        "unique_identifiers",
        "validity",
        "version",
    )

    version: int
    serial: bytes
    inner_algorithm: bytes
    outer_algorithm: bytes
    issuer_name: bytes
    validity: bytes
    not_before: EncodedTime
    not_after: EncodedTime
    subject_name: bytes
    spki: bytes
    unique_identifiers: bool
    raw_extensions: tuple[EncodedExtension, ...]
    frame: Hashable | None

    def __init__(self, data: bytes, issuer: IssuerView | None, certificate: x509.Certificate | None) -> None:
        self.der = data
        self.issuer = issuer
        self._certificate = certificate
        self._decoded: _Decoded | None = None
        self._shared: _Decoded | None = None
        self._names: tuple[EncodedName, ...] | None = _UNREAD
        self._subject: tuple[EncodedAttribute, ...] | None = None

    @property
    def certificate(self) -> x509.Certificate:
        """What pyca reads in the same bytes; ValueError when it does not."""
        if self._certificate is None:
            self._certificate = x509.load_der_x509_certificate(self.der)
        return self._certificate

    def public_key(self) -> object:
        """Return the subject's key; ValueError or UnsupportedAlgorithm when it cannot be used."""
        return load_spki(self.spki)

    @property
    def key_algorithm(self) -> str:
        """Dotted algorithm of the subject's key."""
        return der.Reader(self.key_identifier).enter().oid()

    @property
    def key_identifier(self) -> bytes:
        """AlgorithmIdentifier (DER) of the subject's key."""
        return der.Reader(self.spki).enter().raw(der.SEQUENCE)

    @property
    def subject(self) -> tuple[EncodedAttribute, ...]:
        if self._subject is None:
            self._subject = read_attributes(self.subject_name)
        return self._subject

    @property
    def readable(self) -> bool:
        """Whether every extension could be read, and none stands twice."""
        return self._frame_decoded().values is not None

    @property
    def usages(self) -> frozenset[str]:
        """The dotted extended key usages."""
        return self._frame_decoded().usages

    @property
    def is_ca(self) -> bool:
        return self._frame_decoded().is_ca

    @property
    def self_issued(self) -> bool:
        return self.issuer_name == self.subject_name

    @property
    def names(self) -> tuple[EncodedName, ...] | None:
        """The subjectAltNames; None when there is no such extension, or the extensions could not be read."""
        if self._names is _UNREAD:
            raw = self.raw(oids.SUBJECT_ALT_NAME)
            self._names = read_names(raw.value) if raw is not None and self.readable else None
        return self._names

    @property
    def heads(self) -> tuple[tuple[str, bool], ...]:
        """(Dotted type, whether it is critical) of each extension, in their order."""
        return tuple((one.oid, one.critical) for one in self.raw_extensions)

    def critical(self, oid: str) -> bool | None:
        """Tell whether the extension of this (dotted) type is critical; None when there is none."""
        found = self.raw(oid)
        return None if found is None else found.critical

    def value(self, type_: type[V]) -> V | None:
        """Return the value of this extension, or None when it is absent or none could be read."""
        decoded = self._own_decoded() if type_ in VARYING else self._frame_decoded()
        found = None if decoded.values is None else decoded.values.get(type_)
        return found if isinstance(found, type_) else None

    def raw(self, oid: str) -> EncodedExtension | None:
        """Return the extension of this (dotted) type as encoded, or None; the first counts."""
        for one in self.raw_extensions:
            if one.oid == oid:
                return one
        return None

    def _own_decoded(self) -> _Decoded:
        if self._decoded is None:
            try:
                self._decoded = _decode(self.certificate)
            except (ValueError, x509.InvalidVersion):
                self._decoded = _UNREADABLE
        return self._decoded

    def _frame_decoded(self) -> _Decoded:
        return self._shared or self._own_decoded()

    def share(self, other: CertificateView) -> None:
        """Take over what was decoded of the frame's extensions in another certificate with the same frame."""
        self._shared = other._frame_decoded()


@dataclasses.dataclass(frozen=True, slots=True)
class _Decoded:
    """What pyca reads in the extensions; `values` is None when it cannot read them all."""

    values: Values | None
    usages: frozenset[str]
    is_ca: bool


_UNREADABLE = _Decoded(None, frozenset(), is_ca=False)


def _decode(certificate: x509.Certificate) -> _Decoded:
    try:
        values: Values = {type(one.value): one.value for one in certificate.extensions}
    except UNREADABLE:
        return _UNREADABLE
    purposes, basic = values.get(x509.ExtendedKeyUsage), values.get(x509.BasicConstraints)
    usages = purposes if isinstance(purposes, x509.ExtendedKeyUsage) else ()
    return _Decoded(
        values,
        frozenset(one.dotted_string for one in usages),
        is_ca=isinstance(basic, x509.BasicConstraints) and basic.ca,
    )


def view(
    data: bytes, issuer: IssuerView | None = None, certificate: x509.Certificate | None = None
) -> CertificateView:
    """
    Pass a certificate (DER) through the gate and take it apart; `certificate` is what pyca read in it, if it did.

    Raises PKIError(BAD_DATA_FORMAT) when it is not canonical DER, or has another form than RFC 5280 4.1.
    """
    tbs, outer_algorithm, _ = split_signed(data)
    fields = der.elements(tbs)
    at = 1 if fields and fields[0][0] == 0xA0 else 0
    if [tag for tag, _ in fields[at : at + 6]] != _FIELDS:
        raise der.malformed("not the fields of a TBSCertificate")
    seen = CertificateView(data, issuer, certificate)
    seen.version = _version(fields[0][1]) if at else 0
    serial, seen.inner_algorithm, seen.issuer_name, seen.validity, seen.subject_name, seen.spki = [
        value for _, value in fields[at : at + 6]
    ]
    seen.serial, seen.outer_algorithm = der.content(serial), outer_algorithm
    seen.not_before, seen.not_after = _times(seen.validity)
    der.check(serial)
    der.check(seen.subject_name)
    if not usual_point(seen.spki):
        der.check(seen.spki)
    for piece in (seen.inner_algorithm, outer_algorithm, seen.issuer_name):
        _check_again(piece)
    rest = fields[at + 6 :]
    extensions: list[bytes] = []
    if rest and rest[-1][0] == 0xA3:
        extensions = _elements(rest.pop()[1])
    seen.unique_identifiers = bool(rest)
    if not {tag for tag, _ in rest} <= {0x81, 0x82}:
        raise der.malformed("not the fields of a TBSCertificate")
    seen.raw_extensions = tuple(map(_extension, extensions))
    seen.frame = _frame(seen, extensions)
    return seen


def _version(encoded: bytes) -> int:
    return 2 if encoded == b"\xa0\x03\x02\x01\x02" else der.Reader(encoded).enter(0xA0).integer()


_FIELDS = [der.INTEGER, *[der.SEQUENCE] * 5]
"""serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo (RFC 5280 4.1)."""


def _elements(extensions: bytes) -> list[bytes]:
    """Each Extension in the [3] of a TBSCertificate."""
    found = der.elements(der.content(extensions))
    if any(tag != der.SEQUENCE for tag, _ in found):
        raise der.malformed("an extension that is no SEQUENCE")
    return [value for _, value in found]


def _frame(seen: CertificateView, extensions: Sequence[bytes]) -> Hashable | None:
    """
    Make `CertificateView.frame`: everything that varies left out, everything else as it is encoded.

    It holds the key's algorithm too, but not the key.
    """
    common: list[object] = []
    for one, encoded in zip(seen.raw_extensions, extensions, strict=True):
        if one.oid not in _VARYING_OIDS:
            common.append(encoded)
        elif _ordinary(one):
            common.append((one.oid, one.critical))
        else:
            return None
    return (
        seen.version,
        seen.inner_algorithm,
        seen.outer_algorithm,
        seen.issuer_name,
        seen.unique_identifiers,
        tuple(der.elements(seen.spki)[:1]),
        seen.issuer,
        *common,
    )


def _ordinary(one: EncodedExtension) -> bool:
    """Whether a varying extension has a form that pyca reads, whatever it says: ASCII names, hosts' addresses."""
    try:
        if one.oid == oids.SUBJECT_KEY_IDENTIFIER:
            return one.value[:1] == b"\x04" and der.content(one.value) is not None
        return all(
            name.value.isascii() if name.tag in _TEXT_NAMES else name.tag == IP_NAME and len(name.value) in _HOST
            for name in read_names(one.value)
        )
    except PKIError:
        return False


OTHER_NAME, MAIL_NAME, DNS_NAME, DIRECTORY_NAME, URI_NAME, IP_NAME = 0xA0, 0x81, 0x82, 0xA4, 0x86, 0x87
"""Tags of a GeneralName (RFC 5280 4.2.1.6)."""
_TEXT_NAMES, _HOST, _NETWORK = frozenset({MAIL_NAME, DNS_NAME, URI_NAME}), (4, 16), (8, 32)


@functools.lru_cache(maxsize=1024)
def read_names(san: bytes) -> tuple[EncodedName, ...]:
    """Return the names in the DER of a SubjectAltName; PKIError(BAD_DATA_FORMAT) when it is no SEQUENCE."""
    return tuple([EncodedName(tag, der.content(encoded)) for tag, encoded in der.elements(san)])


def name_text(name: EncodedName) -> str:
    """Text of a GeneralName: an address or a network as people write it, the octets of another as characters."""
    if name.tag == IP_NAME and len(name.value) in _HOST:
        return str(ipaddress.ip_address(name.value))
    if name.tag == IP_NAME and len(name.value) in _NETWORK:
        half = len(name.value) // 2
        prefix = int.from_bytes(name.value[half:], "big").bit_count()
        return f"{ipaddress.ip_address(name.value[:half])}/{prefix}"
    return name.value.decode("latin-1")


@functools.lru_cache(maxsize=1024)
def _times(validity: bytes) -> tuple[EncodedTime, EncodedTime]:
    """Both ends of a Validity; those of one batch are mostly the same."""
    reader = der.Reader(validity).enter()
    return encoded_time(reader), encoded_time(reader)


@functools.lru_cache(maxsize=1024)
def _check_again(piece: bytes) -> None:
    """`der.check` of what stands in many certificates: looked at once."""
    der.check(piece, max_size=len(piece))


@functools.lru_cache(maxsize=1024)
def der_problem(value: bytes) -> str | None:
    """Say what keeps these octets from being one canonical DER value, or None; remembered, as many repeat."""
    try:
        der.check(value, max_size=len(value))
    except PKIError as error:
        return error.detail
    return None


def encoded_time(reader: der.Reader) -> EncodedTime:
    """
    Take the next Time. UTCTime is YYMMDDHHMMSSZ through 2049, GeneralizedTime YYYYMMDDHHMMSSZ from 2050
    (RFC 5280 4.1.2.5): `at` is None for any other form.
    """
    tag = reader.peek() or 0
    return _time(tag, reader.take(tag))


@functools.lru_cache(maxsize=1024)
def _time(tag: int, content: bytes) -> EncodedTime:
    text = content.decode("ascii", "replace")
    digits = text[:-1]
    if tag == der.UTC_TIME and len(digits) == 12:
        digits = ("19" if digits[:2] >= "50" else "20") + digits
    if len(digits) != 14 or not text.endswith("Z") or not digits.isdigit():
        return EncodedTime(tag, text, None)
    try:
        year, rest = int(digits[:4]), [int(digits[at : at + 2]) for at in range(4, 14, 2)]
        at = datetime.datetime(year, rest[0], rest[1], rest[2], rest[3], rest[4], tzinfo=datetime.UTC)
    except ValueError:
        return EncodedTime(tag, text, None)
    right = der.UTC_TIME if 1950 <= at.year < 2050 else der.GENERALIZED_TIME
    return EncodedTime(tag, text, at if tag == right else None)


def read_extensions(reader: der.Reader) -> tuple[EncodedExtension, ...]:
    """Read the elements of an Extensions value; `critical` DEFAULT FALSE is absent or TRUE (X.690 11.1, 11.5)."""
    found = []
    while reader:
        found.append(_extension(reader.raw(der.SEQUENCE)))
    return tuple(found)


@functools.lru_cache(maxsize=1024)
def _extension(encoded: bytes) -> EncodedExtension:
    """Read one Extension; remembered, because those of one profile under one issuer are mostly the same."""
    fields = der.elements(encoded)
    critical = len(fields) == 3 and fields[1][0] == der.BOOLEAN
    if critical and fields.pop(1)[1] != b"\x01\x01\xff":
        raise der.malformed("an extension whose critical is written and not TRUE")
    if [tag for tag, _ in fields] != [der.OID, der.OCTET_STRING]:
        raise der.malformed("not the fields of an Extension")
    (_, oid), (_, value) = fields
    return EncodedExtension(der.decode_oid(der.content(oid)), critical, der.content(value))


def read_attributes(name: bytes) -> tuple[EncodedAttribute, ...]:
    """Return every attribute of a DER Name, whatever its string type."""
    found = []
    rdns = der.Reader(name).enter()
    while rdns:
        rdn = rdns.enter(der.SET)
        while rdn:
            attribute = rdn.enter()
            type_ = attribute.oid()
            tag = attribute.peek() or 0
            found.append(EncodedAttribute(type_, tag, attribute.take(tag)))
    return tuple(found)
