"""
Names: distinguished names as RFC 4514 text, and subjectAltName entries as `dns:…`, `ip:…`, `email:…` and the like.

Text names are canonical: DNS names in lower case and A-labels, addresses in their shortest form.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import unicodedata
import urllib.parse
from collections.abc import Callable, Iterable, Sequence

import idna
from cryptography import x509

from chancery.asn1 import der, oids
from chancery.asn1 import x509 as template
from chancery.asn1.general_name import other_name_value
from chancery.asn1.oids import ATTRIBUTES
from chancery.errors import ErrorType, PKIError

KINDS = ("dns", "ip", "email", "smtputf8", "uri", "upn", "rid", "dirname", "othername")
MAX_DNS = 253
MAX_EMAIL = 254
MAX_LOCAL_PART = 64
MAX_URI = 2048
MAX_UPN = 256
MAX_OTHER_NAME = 1024
"""Octets of the value of an otherName."""
MAX_DIRECTORY_NAME = 1024

# Upper bounds of RFC 5280 appendix A.1 (ub-…), of X.520 where that has none.
UPPER_BOUNDS = {
    "CN": 64,
    "SN": 64,
    "serialNumber": 64,
    "C": 2,
    "L": 128,
    "ST": 128,
    "street": 128,
    "O": 64,
    "OU": 64,
    "title": 64,
    "GN": 64,
    "organizationIdentifier": 256,
    "emailAddress": 255,
    "DC": 63,
    "UID": 256,
}
_SHORT = {oid: short for short, oid in ATTRIBUTES.items()}

# RFC 4514 3 writes what it has no short name for as a dotted number; people write the names openssl knows.
_TO_TEXT = {x509.ObjectIdentifier(oid): short for short, oid in ATTRIBUTES.items()}
_FROM_TEXT = {short: x509.ObjectIdentifier(oid) for short, oid in ATTRIBUTES.items()}

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
# Domains of Windows have underscores in them.
_COMPONENT = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
# RFC 5321 4.1.2: Dot-string. Quoted local parts are refused: nobody has one, and readers disagree about them.
_LOCAL_PART = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
# RFC 3986 2 and 3.1: a scheme, then reserved, unreserved and percent-encoded characters.
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")


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


def prepared(text: str) -> str:
    """
    Return what two values of an attribute have in common when they are the same name (RFC 5280 7.1, RFC 4518 2).

    Also of a whole name as text: those with one prepared text may be one name, those with others never are.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def text_of(attributes: Iterable[tuple[str, str]]) -> str:
    """RFC 4514 text of (dotted attribute type, value) pairs that stand most significant first."""
    return ",".join(reversed([_attribute_text(oid, value) for oid, value in attributes]))


@functools.lru_cache(maxsize=4096)
def _attribute_text(oid: str, value: str) -> str:
    return x509.NameAttribute(x509.ObjectIdentifier(oid), value).rfc4514_string(_TO_TEXT)


@functools.lru_cache(maxsize=1024)
def _a_label(label: str) -> str:
    """
    Return the A-label of a U-label, or of an A-label that one has (IDNA2008: RFC 5890 2.3.2.1, RFC 5891 4, RFC
    5892).

    A U-label is brought to small letters and NFC first, which RFC 5895 2 leaves to whoever takes the text.
    """
    try:
        if label.isascii():
            return idna.alabel(idna.ulabel(label)).decode("ascii")
        return idna.alabel(unicodedata.normalize("NFC", label.lower())).decode("ascii")
    except (UnicodeError, ValueError) as error:
        raise _bad(f"{label[:63]!r} is not a label (IDNA2008, RFC 5890 2.3.2.1): {error}"[:300]) from None


@functools.lru_cache(maxsize=4096)
def dns_name(text: str) -> str:
    """
    Check a DNS name, perhaps with `*` for its first label, and return it in lower case.

    LDH labels (RFC 1034 3.5) and A-labels, which U-labels become: no underscore, no trailing dot, no all-numeric
    last label, which would read as an address. Raises PKIError(BAD_CERT_TEMPLATE).
    """
    name = text.lower() if text.isascii() else _to_ascii(text)
    if not 1 <= len(name) <= MAX_DNS:
        raise _bad(f"{text[:80]!r} is not a DNS name of 1 to {MAX_DNS} characters in ASCII")
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
            if _a_label(label) != label:
                raise _bad(f"{label!r} is not an A-label (RFC 5890 2.3.2.1)")
    if labels[-1].isdigit():
        raise _bad(f"{text!r} ends in a number; an address is written ip:…")
    return name


def _to_ascii(text: str) -> str:
    if len(text) > MAX_DNS:
        raise _bad(f"{text[:80]!r} is not a DNS name of 1 to {MAX_DNS} characters in ASCII")
    return ".".join(one.lower() if one.isascii() else _a_label(one) for one in text.split("."))


def ip_address(text: str) -> str:
    """Check an IPv4 or IPv6 address of one host, and return its shortest form (RFC 5952)."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise _bad(f"{text[:80]!r} is not an IP address") from None
    if "%" in text or address.is_unspecified or address.is_multicast:
        raise _bad(f"{text!r} is not the address of one host")
    return str(address)


# Of the IANA special-purpose registries, what the standard library takes for global or learned of late: RFC 4291
# 2.5.5.1 (IPv4-compatible), 6052 (NAT64), 8215, 3056 (6to4), 3879 (site-local), 9637, 9602, 7526.
_SPECIAL = tuple(
    map(
        ipaddress.ip_network,
        [
            "::/96",
            "64:ff9b::/96",
            "64:ff9b:1::/48",
            "2002::/16",
            "fec0::/10",
            "3fff::/20",
            "5f00::/16",
            "192.88.99.0/24",
        ],
    )
)


def is_public(address: str) -> bool:
    """Tell whether an address, or the first of a network, is global (IANA special-purpose registries)."""
    network = ipaddress.ip_network(address)
    return network.is_global and not any(network.network_address in one for one in _SPECIAL)


def email_address(text: str) -> str:
    """Check an ASCII mailbox (RFC 5321 4.1.2; RFC 5280 4.2.1.6) and return it with its domain in lower case."""
    local, at, domain = text.rpartition("@")
    if not at or len(text) > MAX_EMAIL or len(local) > MAX_LOCAL_PART or not _LOCAL_PART.fullmatch(local):
        raise _bad(f"{text[:80]!r} is not a mailbox (RFC 5321 4.1.2)")
    if domain.startswith("*"):
        raise _bad(f"{text!r}: a mailbox has no wildcard")
    return f"{local}@{dns_name(domain)}"


def smtp_utf8_mailbox(text: str) -> str:
    """
    Check a mailbox whose local part is not ASCII, and return it with its domain in A-labels (RFC 9598 3).

    The local part is in NFC (RFC 6532 3.1), a Dot-string of at most 64 octets; one in ASCII is an `email:`.
    """
    local, at, domain = text.rpartition("@")
    dotted = local.split(".")
    plain = "".join(one for one in local if one.isascii() and one != ".")
    if (
        not at
        or local.isascii()
        or len(local.encode()) > MAX_LOCAL_PART
        or not all(dotted)
        or not local.isprintable()
        or local != unicodedata.normalize("NFC", local)
        or (plain and not _LOCAL_PART.fullmatch(plain))
    ):
        raise _bad(f"{text[:80]!r} is not a mailbox with a local part beyond ASCII (RFC 9598 3)")
    if domain.startswith("*"):
        raise _bad(f"{text!r}: a mailbox has no wildcard")
    found = f"{local}@{dns_name(domain)}"
    if len(found.encode()) > MAX_EMAIL:
        raise _bad(f"{text[:80]!r}: a mailbox has at most {MAX_EMAIL} octets (RFC 5321 4.5.3.1.3)")
    return found


def user_principal_name(text: str) -> str:
    """Check a user principal name, user@realm, as Microsoft writes it; the realm becomes a DNS name."""
    user, at, realm = text.rpartition("@")
    good = user.isprintable() and user == user.strip() and not set(user) & set('"/\\[]:;|=,+*?<>@ ')
    if not at or not user or not good or len(text) > MAX_UPN or realm.startswith("*"):
        raise _bad(f"{text[:80]!r} is not a user principal name, user@realm, of at most {MAX_UPN} characters")
    return f"{user}@{dns_name(realm)}"


def registered_id(text: str) -> str:
    """Check an object identifier as a name (RFC 5280 4.2.1.6)."""
    try:
        encoded = der.oid(text)
    except ValueError:
        encoded = b""
    if not 3 <= len(encoded) <= der.MAX_OID or der.decode_oid(encoded[2:]) != text:
        raise _bad(f"{text[:80]!r} is not a registered object identifier")
    return text


def directory_name(text: str) -> str:
    """
    Check a distinguished name of known attributes (RFC 4514) and return its one text, most significant last.

    Its values are what a subject's may be: in the string type and within the upper bounds of RFC 5280 appendix A.
    """
    if len(text) > MAX_DIRECTORY_NAME:
        raise _bad(f"a directory name of more than {MAX_DIRECTORY_NAME} characters")
    try:
        attributes = attributes_of(parse_name(text))
    except PKIError as error:
        raise _bad(f"{text[:80]!r}: {error.detail}") from None
    for oid, value in attributes:
        if oid not in ATTRIBUTES.values() or not value or not value.isprintable() or value != value.strip():
            raise _bad(f"{text[:80]!r}: a directory name is of {', '.join(ATTRIBUTES)}")
        check_form(short := _SHORT[oid], value)
        try:
            fits = len(value) <= UPPER_BOUNDS[short] and template.rdn(oid, value)
        except ValueError:
            fits = False
        if not fits:
            raise _bad(f"{text[:80]!r}: {short} is longer, or has other characters, than it may (RFC 5280 A.1)")
    return text_of(attributes)


def check_form(short: str, value: str) -> None:
    """Check the form of an attribute that has one: C, emailAddress and DC (RFC 4519 2.4). BAD_CERT_TEMPLATE."""
    if short == "C" and not (value.isascii() and value.isalpha() and value.isupper() and len(value) == 2):
        raise _bad("the attribute C is two capital letters (ISO 3166-1)")
    if short == "emailAddress":
        email_address(value)
    if short == "DC" and not _COMPONENT.fullmatch(value):
        raise _bad("the attribute DC is one label of a domain (RFC 4519 2.4)")


def other_name(text: str) -> str:
    """
    Check an otherName, `OID;utf8:TEXT` or `OID;der:HEX`, and return the first form where it says the same.

    The types that have names of their own here are refused: each is named one way.
    """
    type_, _, value = text.partition(";")
    kind, _, content = value.partition(":")
    if registered_id(type_) in {oids.UPN, oids.SMTP_UTF8_MAILBOX}:
        raise _bad(f"{type_} is written upn:… or smtputf8:…")
    try:
        encoded = {"utf8": der.utf8_string, "der": bytes.fromhex}[kind if content else ""](content)
        der.check(encoded, max_size=MAX_OTHER_NAME)
    except (KeyError, ValueError, PKIError):
        raise _bad(
            f"{text[:80]!r} is not an otherName: OID;utf8:TEXT or OID;der:HEX, of at most {MAX_OTHER_NAME} octets"
        ) from None
    return other_name_text(type_, encoded)


def other_name_text(type_: str, value: bytes) -> str:
    """Return how an otherName of this type and value (DER) is written, without its kind."""
    if value[:1] == bytes((der.UTF8_STRING,)):
        try:
            content = der.Reader(value).take(der.UTF8_STRING).decode()
        except UnicodeDecodeError:
            content = ""
        if content and content.isprintable():
            return f"{type_};utf8:{content}"
    return f"{type_};der:{value.hex()}"


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
    "smtputf8": smtp_utf8_mailbox,
    "uri": absolute_uri,
    "upn": user_principal_name,
    "rid": registered_id,
    "dirname": directory_name,
    "othername": other_name,
}


def canonical(name: str) -> str:
    """Return the canonical text of one `kind:value` name; PKIError(BAD_CERT_TEMPLATE) when it is not one."""
    kind, colon, value = name.partition(":")
    if kind == "email" and not value.rpartition("@")[0].isascii():
        kind = "smtputf8"
    check = _CHECKS.get(kind)
    if not colon or check is None:
        raise _bad(f"{name[:80]!r}: a name starts with " + ", ".join(f"{one}:" for one in KINDS))
    return f"{kind}:{check(value)}"


def canonical_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return canonical names in the order given, each once."""
    return tuple(dict.fromkeys(canonical(name) for name in names))


def general_names(names: Sequence[str]) -> list[x509.GeneralName]:
    """Return pyca's values for text names; PKIError(BAD_CERT_TEMPLATE) for anything else or malformed."""
    return [_general_name(*name.split(":", 1)) for name in canonical_names(names)]


def _general_name(kind: str, value: str) -> x509.GeneralName:
    if kind == "ip":
        return x509.IPAddress(ipaddress.ip_address(value))
    if kind == "rid":
        return x509.RegisteredID(x509.ObjectIdentifier(value))
    if kind == "dirname":
        return x509.DirectoryName(parse_name(value))
    if kind in {"upn", "smtputf8", "othername"}:
        type_, content = other_name_value(kind, value)
        return x509.OtherName(x509.ObjectIdentifier(type_), content)
    if kind == "dns":
        return x509.DNSName(value)
    return x509.RFC822Name(value) if kind == "email" else x509.UniformResourceIdentifier(value)


def other_name_of(type_: str, value: bytes) -> str:
    """Return the text name of an otherName; PKIError(BAD_CERT_TEMPLATE) for a UPN or mailbox that is not UTF-8."""
    kinds = {oids.UPN: "upn", oids.SMTP_UTF8_MAILBOX: "smtputf8"}
    if type_ not in kinds:
        return f"othername:{other_name_text(type_, value)}"
    text = other_name_text(type_, value)
    form, _, content = text.partition(";")[2].partition(":")
    if form != "utf8":
        raise _bad(f"an otherName {type_} that is no text")
    return f"{kinds[type_]}:{content}"


def names_of(certificate_or_csr_san: x509.SubjectAlternativeName) -> tuple[str, ...]:
    """
    Return the text names of a subjectAltName, as they stand in it.

    Raises PKIError(BAD_CERT_TEMPLATE) for a type that has no text (x400Address, ediPartyName).
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
        elif isinstance(name, x509.RegisteredID):
            found.append(f"rid:{name.value.dotted_string}")
        elif isinstance(name, x509.DirectoryName):
            found.append(f"dirname:{text_of(attributes_of(name.value))}")
        elif isinstance(name, x509.OtherName):
            found.append(other_name_of(name.type_id.dotted_string, name.value))
        else:
            raise _bad(f"a subjectAltName of type {type(name).__name__} is not granted")
    return tuple(found)
