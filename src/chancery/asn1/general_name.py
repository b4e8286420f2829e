"""GeneralName (RFC 5280 4.2.1.6) of the text names that the suite uses."""

from __future__ import annotations

import ipaddress

from cryptography import x509

from chancery.asn1 import der, oids

_STRINGS = {"dns": 2, "email": 1, "uri": 6}
_ATTRIBUTES = {short: x509.ObjectIdentifier(oid) for short, oid in oids.ATTRIBUTES.items()}


def general_name(text: str) -> bytes:
    """
    GeneralName of a canonical text name; ValueError for another.

    `dns:`, `email:`, `uri:` and `ip:`; `rid:` an object identifier, `dirname:` RFC 4514 text; and otherNames:
    `upn:`, `smtputf8:`, `othername:OID;utf8:TEXT` or `othername:OID;der:HEX`.
    """
    kind, _, value = text.partition(":")
    if (number := _STRINGS.get(kind)) is not None:
        return der.implicit(number, value.encode("ascii"))
    if kind == "ip":
        return der.implicit(7, ipaddress.ip_address(value).packed)
    if kind == "rid":
        return der.implicit(8, der.oid(value)[2:])
    if kind == "dirname":
        # pyca writes the string types that `asn1.x509.string_tag` says.
        return der.explicit(4, x509.Name.from_rfc4514_string(value, _ATTRIBUTES).public_bytes())
    if kind in {"upn", "smtputf8", "othername"}:
        type_, content = other_name_value(kind, value)
        return der.implicit(0, der.oid(type_) + der.explicit(0, content), constructed=True)
    raise ValueError(f"{text!r} is not a general name")


def other_name_value(kind: str, value: str) -> tuple[str, bytes]:
    """Return type (dotted) and value (DER) of a canonical `upn`, `smtputf8` (RFC 9598 3) or `othername`."""
    if kind != "othername":
        return {"upn": oids.UPN, "smtputf8": oids.SMTP_UTF8_MAILBOX}[kind], der.utf8_string(value)
    type_, _, rest = value.partition(";")
    form, _, content = rest.partition(":")
    return type_, der.utf8_string(content) if form == "utf8" else bytes.fromhex(content)
