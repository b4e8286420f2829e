"""
Names: distinguished names as RFC 4514 text, and subjectAltName entries as `dns:…`, `ip:…`, `email:…`, `uri:…`.

Text names are canonical: DNS names in lower case, addresses in their shortest form.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import unicodedata
import urllib.parse
from collections.abc import Callable, Iterable, Sequence

from cryptography import x509

from chancery.asn1.oids import ATTRIBUTES
from chancery.errors import ErrorType, PKIError

KINDS = ("dns", "ip", "email", "uri")
MAX_DNS = 253
MAX_EMAIL = 254
MAX_LOCAL_PART = 64
MAX_URI = 2048

# RFC 4514 3 writes what it has no short name for as a dotted number; people write the names openssl knows.
_TO_TEXT = {x509.ObjectIdentifier(oid): short for short, oid in ATTRIBUTES.items()}
_FROM_TEXT = {short: x509.ObjectIdentifier(oid) for short, oid in ATTRIBUTES.items()}

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
# RFC 5321 4.1.2: Dot-string. Quoted local parts are refused: nobody has one, and readers disagree about them.
_LOCAL_PART = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
# RFC 3986 2 and 3.1: a scheme, then reserved, unreserved and percent-encoded characters.
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")

# RFC 5892 A: what is no letter, mark or digit, and allowed between some.
_CONTEXT = "-\u00b7\u0375\u05f3\u05f4\u200c\u200d\u30fb"


def _bad(detail: str) -> PKIError:
    return PKIError(ErrorType.BAD_CERT_TEMPLATE, detail)


def parse_name(text: str) -> x509.Name:
    """
    Return the Name that RFC 4514 text gives, its most significant part last ("CN=Root,O=Org").

    Raises PKIError(BAD_DATA_FORMAT) for anything else, an empty name included.
    """
    try:
        name = x509.Name.from_rfc4514_string(text, _FROM_TEXT)
    except ValueError as error:
        raise PKIError(ErrorType.BAD_DATA_FORMAT, f"not a distinguished name (RFC 4514): {error}") from None
    if not name.rdns:
        raise PKIError(ErrorType.BAD_DATA_FORMAT, "an empty distinguished name")
    return name


def name_text(name: x509.Name) -> str:
    """RFC 4514 text, most significant part last."""
    return name.rfc4514_string(_TO_TEXT)


def attributes_of(name: x509.Name) -> tuple[tuple[str, str], ...]:
    """
    Return (dotted attribute type, value) of each RDN, most significant first.

    Raises PKIError(BAD_DATA_FORMAT) for an RDN of several attributes, which this suite never writes.
    """
    found = []
    for rdn in name.rdns:
        if len(rdn) != 1:
            raise PKIError(ErrorType.BAD_DATA_FORMAT, "a relative distinguished name of several attributes")
        [attribute] = rdn
        if not isinstance(attribute.value, str):
            raise PKIError(ErrorType.BAD_DATA_FORMAT, "a name attribute that is not text")
        found.append((attribute.oid.dotted_string, attribute.value))
    return tuple(found)


def text_of(attributes: Iterable[tuple[str, str]]) -> str:
    """RFC 4514 text of (dotted attribute type, value) pairs that stand most significant first."""
    return ",".join(reversed([_attribute_text(oid, value) for oid, value in attributes]))


@functools.lru_cache(maxsize=4096)
def _attribute_text(oid: str, value: str) -> str:
    return x509.NameAttribute(x509.ObjectIdentifier(oid), value).rfc4514_string(_TO_TEXT)


def _punycode_label(label: str) -> None:
    """An A-label is canonical: it decodes to letters, marks and digits in lower-case NFC that encode to it."""
    try:
        decoded = label[4:].encode("ascii").decode("punycode")
        again = decoded.encode("punycode").decode("ascii")
    except (UnicodeError, ValueError):
        raise _bad(f"{label!r} is not an A-label (RFC 5890 2.3.2.1)") from None
    odd = [one for one in decoded if unicodedata.category(one)[0] not in "LMN" and one not in _CONTEXT]
    plain = decoded.isascii() or decoded != unicodedata.normalize("NFC", decoded) or decoded != decoded.lower()
    if plain or odd or again != label[4:]:
        raise _bad(f"{label!r} is not an A-label (RFC 5890 2.3.2.1)")


@functools.lru_cache(maxsize=4096)
def dns_name(text: str) -> str:
    """
    Check a DNS name, perhaps with `*` for its first label, and return it in lower case.

    LDH labels (RFC 1034 3.5) and A-labels only: no underscore, no trailing dot, no all-numeric last label,
    which would read as an address. Raises PKIError(BAD_CERT_TEMPLATE).
    """
    name = text.lower()
    if not text.isascii() or not 1 <= len(name) <= MAX_DNS:
        raise _bad(f"{text[:80]!r} is not a DNS name of 1 to {MAX_DNS} ASCII characters")
    labels = name.split(".")
    if labels[0] == "*":
        labels = labels[1:]
        if len(labels) < 2:
            raise _bad(f"{text!r}: a wildcard stands before at least two labels")
    for label in labels:
        if not _LABEL.fullmatch(label):
            raise _bad(f"{text!r} is not a DNS name: letters, digits and inner hyphens (RFC 1034 3.5)")
        if label[2:4] == "--":
            if not label.startswith("xn--"):
                raise _bad(f"{text!r}: a label with hyphens in places 3 and 4 is reserved (RFC 5890 2.3.1)")
            _punycode_label(label)
    if labels[-1].isdigit():
        raise _bad(f"{text!r} ends in a number; an address is written ip:…")
    return name


def ip_address(text: str) -> str:
    """Check an IPv4 or IPv6 address of one host, and return its shortest form (RFC 5952)."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise _bad(f"{text[:80]!r} is not an IP address") from None
    if "%" in text or address.is_unspecified or address.is_multicast:
        raise _bad(f"{text!r} is not the address of one host")
    return str(address)


def email_address(text: str) -> str:
    """Check an ASCII mailbox (RFC 5321 4.1.2; RFC 5280 4.2.1.6) and return it with its domain in lower case."""
    local, at, domain = text.rpartition("@")
    if not at or len(text) > MAX_EMAIL or len(local) > MAX_LOCAL_PART or not _LOCAL_PART.fullmatch(local):
        raise _bad(f"{text[:80]!r} is not a mailbox (RFC 5321 4.1.2)")
    if domain.startswith("*"):
        raise _bad(f"{text!r}: a mailbox has no wildcard")
    return f"{local}@{dns_name(domain)}"


def absolute_uri(text: str) -> str:
    """Check an absolute URI; an authority's host is a DNS name or an address (RFC 5280 4.2.1.6)."""
    if len(text) > MAX_URI or not _URI.fullmatch(text):
        raise _bad(f"{text[:80]!r} is not an absolute URI of at most {MAX_URI} characters (RFC 3986)")
    try:
        parts = urllib.parse.urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise _bad(f"{text[:80]!r} is not an absolute URI: {error}") from None
    if text[len(parts.scheme) + 1 :].startswith("//"):
        if not host:
            raise _bad(f"{text[:80]!r}: the URI has an empty host")
        if ":" in host or host.replace(".", "").isdigit():
            ip_address(host)
        elif host.startswith("*"):
            raise _bad(f"{text[:80]!r}: the URI's host has a wildcard")
        else:
            dns_name(host)
    return text


_CHECKS: dict[str, Callable[[str], str]] = {
    "dns": dns_name,
    "ip": ip_address,
    "email": email_address,
    "uri": absolute_uri,
}


def canonical(name: str) -> str:
    """Return the canonical text of one `kind:value` name; PKIError(BAD_CERT_TEMPLATE) when it is not one."""
    kind, colon, value = name.partition(":")
    check = _CHECKS.get(kind)
    if not colon or check is None:
        raise _bad(f"{name[:80]!r}: a name starts with " + ", ".join(f"{one}:" for one in KINDS))
    return f"{kind}:{check(value)}"


def canonical_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return canonical names in the order given, each once."""
    return tuple(dict.fromkeys(canonical(name) for name in names))


def general_names(names: Sequence[str]) -> list[x509.GeneralName]:
    """Return pyca's values for text names; PKIError(BAD_CERT_TEMPLATE) for anything else or malformed."""
    made: list[x509.GeneralName] = []
    for name in canonical_names(names):
        kind, _, value = name.partition(":")
        if kind == "dns":
            made.append(x509.DNSName(value))
        elif kind == "ip":
            made.append(x509.IPAddress(ipaddress.ip_address(value)))
        elif kind == "email":
            made.append(x509.RFC822Name(value))
        else:
            made.append(x509.UniformResourceIdentifier(value))
    return made


def names_of(certificate_or_csr_san: x509.SubjectAlternativeName) -> tuple[str, ...]:
    """
    Return the text names of a subjectAltName, as they stand in it.

    Raises PKIError(BAD_CERT_TEMPLATE) for a type that has no text (directoryName, otherName, …).
    """
    found = []
    for name in certificate_or_csr_san:
        if isinstance(name, x509.DNSName):
            found.append(f"dns:{name.value}")
        elif isinstance(name, x509.RFC822Name):
            found.append(f"email:{name.value}")
        elif isinstance(name, x509.UniformResourceIdentifier):
            found.append(f"uri:{name.value}")
        elif isinstance(name, x509.IPAddress):
            found.append(f"ip:{name.value}")
        else:
            raise _bad(f"a subjectAltName of type {type(name).__name__} is not granted")
    return tuple(found)
