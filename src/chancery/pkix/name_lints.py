"""The certificate lints about names and addresses: one function, one clause."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from cryptography import x509

from chancery.asn1 import der, oids
from chancery.asn1.oids import ATTRIBUTES
from chancery.asn1.x509 import string_tag
from chancery.errors import PKIError
from chancery.pkix.finding import Finding, Severity
from chancery.pkix.name import UPPER_BOUNDS, absolute_uri, check_form, dns_name, email_address
from chancery.pkix.view import (
    DIRECTORY_NAME,
    DNS_NAME,
    IP_NAME,
    MAIL_NAME,
    URI_NAME,
    CertificateView,
    EncodedAttribute,
    name_text,
    read_attributes,
)

_SHORT = {oid: short for short, oid in ATTRIBUTES.items()}
_SYNTAX: dict[int, Callable[[str], str]] = {MAIL_NAME: email_address, DNS_NAME: dns_name, URI_NAME: absolute_uri}
_ENCODINGS = {der.UTF8_STRING: "utf-8", der.PRINTABLE_STRING: "ascii", der.IA5_STRING: "ascii"}


def _error(code: str, detail: str, clause: str) -> Finding:
    return Finding(Severity.ERROR, f"pkix.{code}", detail, clause)


@dataclasses.dataclass(frozen=True, slots=True)
class _Name:
    """A directoryName, as the lints of a subject look at it."""

    subject: tuple[EncodedAttribute, ...]


def _subject(cert: CertificateView | _Name) -> Iterator[tuple[str, EncodedAttribute]]:
    for attribute in cert.subject:
        yield _SHORT.get(attribute.type, attribute.type), attribute


def attribute_string_type(cert: CertificateView | _Name) -> Iterator[Finding]:
    """RFC 5280 4.1.2.4: DirectoryString is UTF8String or PrintableString; some attributes have one type only."""
    for short, attribute in _subject(cert):
        if short == attribute.type:
            # Of an attribute that has no name here the type is not known; a string it has to be.
            right = attribute.tag in _ENCODINGS
        elif (wanted := string_tag(attribute.type)) != der.UTF8_STRING:
            right = attribute.tag == wanted
        else:
            right = attribute.tag in {der.UTF8_STRING, der.PRINTABLE_STRING}
        if not right:
            yield _error("attribute_string_type", f"{short} has the tag {attribute.tag}", "RFC 5280 4.1.2.4")


def attribute_text(cert: CertificateView | _Name) -> Iterator[Finding]:
    """
    RFC 5280 4.1.2.4, X.690 8.23: the octets of a string are text in its type's encoding.

    RFC 5280 7.1, RFC 4518 2.2, 2.3: what a comparison leaves out or refuses, as what is not seen, makes two names
    of one.
    """
    for short, attribute in _subject(cert):
        try:
            text = attribute.value.decode(_ENCODINGS.get(attribute.tag, "latin-1"))
        except UnicodeDecodeError:
            yield _error("attribute_not_text", f"{short} is not text in its string type", "RFC 5280 4.1.2.4")
            continue
        if attribute.tag in _ENCODINGS and (not text.isprintable() or text != text.strip()):
            detail = f"{short} has white space at an end, or characters that are not seen"
            yield Finding(Severity.WARNING, "pkix.attribute_invisible", detail, "RFC 4518 2")


def attribute_form(cert: CertificateView | _Name) -> Iterator[Finding]:
    """RFC 2985 5.2.1, RFC 4519 2.4: an emailAddress is a mailbox, a DC one label of a domain."""
    for short, attribute in _subject(cert):
        if short not in {"emailAddress", "DC"}:
            continue
        try:
            check_form(short, attribute.value.decode("ascii"))
        except (UnicodeDecodeError, PKIError):
            yield _error("attribute_form", f"{short} is {attribute.value[:80]!r}", "RFC 2985 5.2.1, RFC 4519 2.4")


def attribute_length(cert: CertificateView | _Name) -> Iterator[Finding]:
    """RFC 5280 appendix A.1: upper bounds of attribute values; none is empty."""
    for short, attribute in _subject(cert):
        text = attribute.value.decode(_ENCODINGS.get(attribute.tag, "latin-1"), "replace")
        if not text:
            yield _error("attribute_empty", f"{short} is empty", "RFC 5280 appendix A.1")
        elif len(text) > (bound := UPPER_BOUNDS.get(short, len(text))):
            yield _error(
                "attribute_too_long", f"{short} has more than {bound} characters", "RFC 5280 appendix A.1"
            )


def country(cert: CertificateView | _Name) -> Iterator[Finding]:
    """X.520 6.3.1: countryName is the two capital letters of ISO 3166-1."""
    for short, attribute in _subject(cert):
        value = attribute.value
        if short == "C" and not (len(value) == 2 and value.isalpha() and value.isupper() and value.isascii()):
            yield _error("country_code", f"C is {value.decode('latin-1')!r}", "X.520 6.3.1")


def one_attribute_each(cert: CertificateView) -> Iterator[Finding]:
    """BR 7.1.4: one CN, and one attribute in each RDN, because readers order several differently."""
    found = [short for short, _ in _subject(cert)]
    if found.count("CN") > 1:
        yield _error("common_name_repeated", "more than one CN", "BR 7.1.4.3")
    rdns = der.Reader(cert.subject_name).enter()
    while rdns:
        rdn = rdns.enter(der.SET)
        rdn.raw()
        if rdn:
            yield _error("multi_valued_rdn", "an RDN of several attributes", "BR 7.1.4.1")


def subject_alt_names(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.6: not empty; DNS names in preferred syntax, mailboxes, absolute URIs."""
    names = cert.names
    if names is None:
        return
    if not names:
        yield _error("san_empty", "a subjectAltName without a name", "RFC 5280 4.2.1.6")
    for one in names:
        if one.tag == IP_NAME and len(one.value) not in {4, 16}:
            yield _error("san_network", f"{name_text(one)} is a network", "RFC 5280 4.2.1.6")
        if one.tag == DIRECTORY_NAME:
            yield from _directory_name(one.value)
        if (check := _SYNTAX.get(one.tag)) is None:
            continue
        try:
            check(one.value.decode("ascii"))
        except UnicodeDecodeError:
            yield _error("san_syntax", "a name that is not ASCII", "RFC 5280 4.2.1.6")
        except PKIError as error:
            yield _error("san_syntax", error.detail, "RFC 5280 4.2.1.6")
    if len(set(names)) != len(names):
        yield Finding(Severity.WARNING, "pkix.san_repeated", "a name stands twice", "RFC 5280 4.2.1.6")


def _directory_name(value: bytes) -> Iterator[Finding]:
    name = _Name(read_attributes(value))
    if not name.subject:
        yield _error("san_nameless", "a directoryName without an attribute", "RFC 5280 4.2.1.6")
    for rule in (attribute_string_type, attribute_text, attribute_form, attribute_length, country):
        yield from rule(name)


def alternative_criticality(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.6: beside a subject the subjectAltName should not be critical."""
    if cert.critical(oids.SUBJECT_ALT_NAME) and cert.subject_name != b"\x30\x00":
        detail = "subjectAltName is critical beside a subject"
        yield Finding(Severity.NOTICE, "pkix.san_critical", detail, "RFC 5280 4.2.1.6")


def information_access(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.2.1: an access location that can be fetched: http, or ldap for certificates."""
    access = cert.value(x509.AuthorityInformationAccess)
    if access is None:
        return
    for one in access:
        location = one.access_location
        if not isinstance(location, x509.UniformResourceIdentifier):
            yield _error("aia_location", "an access location that is no URI", "RFC 5280 4.2.2.1")
        elif not location.value.startswith("http://"):
            yield Finding(
                Severity.WARNING,
                "pkix.aia_scheme",
                f"{location.value[:80]} is not http: fetching it may need what it proves",
                "RFC 5280 8",
            )


def distribution_points(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.13: a distribution point's name should be an http or ldap URI."""
    points = cert.value(x509.CRLDistributionPoints)
    if points is None:
        return
    for point in points:
        for one in point.full_name or ():
            if not isinstance(one, x509.UniformResourceIdentifier) or not one.value.startswith(
                ("http://", "ldap://")
            ):
                yield Finding(Severity.WARNING, "pkix.cdp_scheme", "not an http or ldap URI", "RFC 5280 4.2.1.13")


LINTS: tuple[Callable[[CertificateView], Iterator[Finding]], ...] = (
    attribute_string_type,
    attribute_text,
    attribute_form,
    attribute_length,
    country,
    one_attribute_each,
    subject_alt_names,
    alternative_criticality,
    information_access,
    distribution_points,
)
