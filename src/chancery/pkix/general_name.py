"""GeneralNames (RFC 5280 4.2.1.6) of CSRs as text, and the subtrees of nameConstraints."""

from __future__ import annotations

import ipaddress

from chancery.asn1 import der
from chancery.asn1 import x509 as template
from chancery.asn1.general_name import general_name
from chancery.errors import ErrorType, PKIError
from chancery.pkix import name as names_

_TAGS = {"dns": 2, "email": 1, "uri": 6}
_KINDS = {number | 0x80: kind for kind, number in _TAGS.items()}


def read(value: bytes) -> tuple[str, ...]:
    """
    Return the canonical text names of a subjectAltName's value (DER), in its order, each once.

    Raises PKIError: BAD_DATA_FORMAT for anything else, BAD_CERT_TEMPLATE for a name that is malformed or of a type
    that has no text (x400Address, ediPartyName).
    """
    der.check(value)
    reader, found = der.Reader(value).enter(), []
    while reader:
        found.append(_read_one(reader))
    return names_.canonical_names(found)


def _read_one(reader: der.Reader) -> str:
    tag = reader.peek() or 0
    try:
        if (kind := _KINDS.get(tag)) is not None:
            return f"{kind}:{reader.take(tag).decode('ascii')}"
        if tag == 0x87:
            return f"ip:{ipaddress.ip_address(reader.take(tag))}"
    except (UnicodeDecodeError, ValueError):
        raise der.malformed("a subjectAltName that is not valid in its type (RFC 5280 4.2.1.6)") from None
    if tag == 0x88:
        return f"rid:{der.decode_oid(reader.take(tag))}"
    if tag == 0xA4:
        inner = reader.enter(tag)
        name = template.read_name(inner.raw(der.SEQUENCE))
        inner.done()
        return f"dirname:{names_.text_of(name)}"
    if tag != 0xA0:
        kinds = {0xA3: "X400Address", 0xA5: "EdiPartyName"}
        raise PKIError(
            ErrorType.BAD_CERT_TEMPLATE, f"a subjectAltName of type {kinds.get(tag, hex(tag))} is not granted"
        )
    other = reader.enter(tag)
    type_, explicit = other.oid(), other.enter(0xA0)
    content = explicit.raw()
    explicit.done()
    other.done()
    return names_.other_name_of(type_, content)


def subtree(text: str) -> bytes:
    """
    Return the base (DER GeneralName) of a subtree of nameConstraints (RFC 5280 4.2.1.10).

    `dns:example.org`; `email:` and `uri:` a host, or with a leading dot what is below it, `email:` a mailbox, too;
    `ip:` a network in CIDR form; `dirname:` the beginning of a distinguished name. ValueError for anything else.
    """
    kind, _, value = text.partition(":")
    try:
        if kind == "ip":
            network = ipaddress.ip_network(value)
            return der.implicit(7, network.network_address.packed + network.netmask.packed)
        if kind == "dirname":
            return general_name(f"dirname:{names_.directory_name(value)}")
        if kind == "email" and "@" in value:
            return general_name(f"email:{names_.email_address(value)}")
        if kind in _TAGS and "*" not in value:
            dot = "." if value.startswith(".") and kind != "dns" else ""
            return der.implicit(_TAGS[kind], f"{dot}{names_.dns_name(value.removeprefix(dot))}".encode("ascii"))
    except PKIError as error:
        raise ValueError(error.detail) from None
    raise ValueError(f"{text!r} is no subtree: dns:…, email:…, uri:…, ip:NETWORK or dirname:…")
