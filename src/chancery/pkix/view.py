"""What the lints look at: the fields of a certificate or CRL as they are encoded, beside pyca's values."""

from __future__ import annotations

import dataclasses
import datetime
import functools
from collections.abc import Mapping
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from chancery.asn1 import der
from chancery.asn1.x509 import split_signed, subject_fields
from chancery.errors import PKIError

V = TypeVar("V", bound=x509.ExtensionType)


@dataclasses.dataclass(frozen=True, slots=True)
class EncodedTime:
    """A Time as encoded: its tag and its text, the moment it means (None: not in RFC 5280's form)."""

    tag: int
    text: str
    at: datetime.datetime | None


@dataclasses.dataclass(frozen=True, slots=True)
class EncodedAttribute:
    """One attribute of a Name: dotted type, string tag, content octets."""

    type: str
    tag: int
    value: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class EncodedExtension:
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
    )


@dataclasses.dataclass(frozen=True, slots=True)
class CertificateView:
    """
    A certificate's fields as encoded (RFC 5280 4.1). `values` None: the extensions could not be read.

    `usages` are the dotted extended key usages. `issuer` is of the CA certificate that signs it, where known.
    """

    certificate: x509.Certificate
    version: int
    serial: bytes
    inner_algorithm: bytes
    outer_algorithm: bytes
    issuer_name: bytes
    not_before: EncodedTime
    not_after: EncodedTime
    subject_name: bytes
    unique_identifiers: bool
    subject: tuple[EncodedAttribute, ...]
    raw_extensions: tuple[EncodedExtension, ...]
    values: Mapping[type[x509.ExtensionType], x509.ExtensionType] | None
    usages: frozenset[str]
    issuer: IssuerView | None

    def value(self, type_: type[V]) -> V | None:
        """Return the value of this extension, or None when it is absent or none could be read."""
        found = None if self.values is None else self.values.get(type_)
        return found if isinstance(found, type_) else None

    def raw(self, oid: str) -> EncodedExtension | None:
        return next((one for one in self.raw_extensions if one.oid == oid), None)

    @property
    def is_ca(self) -> bool:
        basic = self.value(x509.BasicConstraints)
        return basic is not None and basic.ca

    @property
    def self_issued(self) -> bool:
        return self.issuer_name == self.subject_name


def view(certificate: x509.Certificate, issuer: x509.Certificate | None = None) -> CertificateView:
    """
    Pass a certificate through the gate and take it apart.

    Raises PKIError(BAD_DATA_FORMAT) when it is not canonical DER, or has another form than RFC 5280 4.1.
    """
    tbs_bytes, outer_algorithm, _ = split_signed(certificate.public_bytes(Encoding.DER))
    tbs = der.Reader(tbs_bytes).enter()
    version = tbs.enter(0xA0).integer() if tbs.peek() == 0xA0 else 0
    serial = tbs.take(der.INTEGER)
    inner_algorithm, issuer_name = tbs.raw(der.SEQUENCE), tbs.raw(der.SEQUENCE)
    validity = tbs.enter()
    not_before, not_after = encoded_time(validity), encoded_time(validity)
    subject_name, spki = tbs.raw(der.SEQUENCE), tbs.raw(der.SEQUENCE)
    for piece in (der.tlv(der.INTEGER, serial), subject_name, spki):
        der.check(piece, max_size=len(piece))
    for piece in (inner_algorithm, outer_algorithm, issuer_name):
        _check_again(piece)
    unique = False
    while tbs.peek() in {0x81, 0x82}:
        unique = True
        tbs.raw()
    raw_extensions = read_extensions(tbs.enter(0xA3).enter()) if tbs.peek() == 0xA3 else ()
    tbs.done()
    try:
        values = {type(one.value): one.value for one in certificate.extensions}
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        values = None
    purposes = (values or {}).get(x509.ExtendedKeyUsage)
    return CertificateView(
        certificate=certificate,
        version=version,
        serial=serial,
        inner_algorithm=inner_algorithm,
        outer_algorithm=outer_algorithm,
        issuer_name=issuer_name,
        not_before=not_before,
        not_after=not_after,
        subject_name=subject_name,
        unique_identifiers=unique,
        subject=read_attributes(subject_name),
        raw_extensions=raw_extensions,
        values=values,
        usages=frozenset(
            one.dotted_string for one in (purposes if isinstance(purposes, x509.ExtendedKeyUsage) else ())
        ),
        issuer=None if issuer is None else view_issuer(issuer),
    )


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
    one = der.Reader(encoded).enter()
    oid = one.oid()
    critical = one.peek() == der.BOOLEAN
    if critical and one.take(der.BOOLEAN) != b"\xff":
        raise der.malformed("an extension whose critical is written and not TRUE")
    value = one.take(der.OCTET_STRING)
    one.done()
    return EncodedExtension(oid, critical, value)


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


@dataclasses.dataclass(frozen=True, slots=True)
class CRLView:
    """
    A CRL's fields as encoded (RFC 5280 5.1). `next_update` None: absent.

    `tails` are the distinct encodings after the serial in its entries; `repeated` says that a serial stands
    twice. `empty_list` says that revokedCertificates is present without an element.
    """

    version: int | None
    inner_algorithm: bytes
    outer_algorithm: bytes
    issuer_name: bytes
    this_update: EncodedTime
    next_update: EncodedTime | None
    entries: int
    repeated: bool
    empty_list: bool
    tails: frozenset[bytes]
    raw_extensions: tuple[EncodedExtension, ...]
    issuer: IssuerView | None
    longest: datetime.timedelta

    def raw(self, oid: str) -> EncodedExtension | None:
        return next((one for one in self.raw_extensions if one.oid == oid), None)


def view_crl(data: bytes, issuer: x509.Certificate | None, longest: datetime.timedelta) -> CRLView:
    """
    Take a CRL (DER) apart; PKIError(BAD_DATA_FORMAT) when it has another form than RFC 5280 5.1.

    Everything passes the gate, the entries by their distinct tails: of many, few differ by more than the serial.
    """
    tbs_bytes, outer_algorithm, _ = split_signed(data)
    tbs = der.Reader(tbs_bytes).enter()
    version = tbs.integer() if tbs.peek() == der.INTEGER else None
    inner_algorithm, issuer_name = tbs.raw(der.SEQUENCE), tbs.raw(der.SEQUENCE)
    this_update = encoded_time(tbs)
    next_update = encoded_time(tbs) if tbs.peek() in {der.UTC_TIME, der.GENERALIZED_TIME} else None
    serials: list[bytes] = []
    tails: set[bytes] = set()
    present = tbs.peek() == der.SEQUENCE
    if present:
        revoked = tbs.take(der.SEQUENCE)
        at, end = 0, len(revoked)
        while at < end:
            # By offsets and not by readers: there may be a million of these.
            _, start, at = der.header(revoked, at, end)
            _, begin, stop = der.header(revoked, start, at)
            serials.append(revoked[begin:stop])
            tails.add(revoked[stop:at])
    raw_extensions: tuple[EncodedExtension, ...] = ()
    if tbs.peek() == 0xA0:
        encoded = tbs.raw(0xA0)
        der.check(encoded)
        raw_extensions = read_extensions(der.Reader(encoded).enter(0xA0).enter())
    tbs.done()
    for piece in (inner_algorithm, outer_algorithm, issuer_name, *(der.sequence(tail) for tail in tails)):
        der.check(piece)
    return CRLView(
        version=version,
        inner_algorithm=inner_algorithm,
        outer_algorithm=outer_algorithm,
        issuer_name=issuer_name,
        this_update=this_update,
        next_update=next_update,
        entries=len(serials),
        repeated=len(set(serials)) != len(serials),
        empty_list=present and not serials,
        tails=frozenset(tails),
        raw_extensions=raw_extensions,
        issuer=None if issuer is None else view_issuer(issuer),
        longest=longest,
    )
