"""
Name constraints of CA certificates (RFC 5280 4.2.1.10), as the names of a new certificate have to fit them.

Several constraints hold together: those of every CA certificate of a path. A form of name that a constraint speaks
of in a way that is not understood here is refused rather than let through.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cryptography import x509

from chancery.asn1.oids import ATTRIBUTES, SMTP_UTF8_MAILBOX
from chancery.errors import ErrorType, PKIError
from chancery.pkix.name import attributes_of, parse_name, prepared
from chancery.pkix.usage import UNREADABLE

Attributes = tuple[tuple[str, str], ...]
"""(Dotted attribute type, value), most significant first."""


def _dns(base: Any, name: str) -> bool:
    zone = str(base).lower()
    return not zone or name == zone or name.endswith("." + zone.removeprefix("."))


def _ip(base: Any, name: str) -> bool:
    address = ipaddress.ip_address(name)
    return bool(address.version == base.version and address in base)


def _host(base: str, host: str) -> bool:
    base, host = base.lower(), host.lower()
    return host.endswith(base) if base.startswith(".") else host == base


def _email(base: Any, name: str) -> bool:
    local, _, host = name.rpartition("@")
    if "@" in base:
        wanted, _, domain = base.rpartition("@")
        return bool(local == wanted and host.lower() == domain.lower())
    return _host(base, host)


def _uri(base: Any, name: str) -> bool:
    return _host(base, urllib.parse.urlsplit(name).hostname or "")


def _has_domain(uri: str) -> bool:
    """Whether a URI has a host that is a domain."""
    host = urllib.parse.urlsplit(uri).hostname or ""
    return bool(host) and ":" not in host and not host.replace(".", "").isdigit()


def _directory(base: Any, name: Any) -> bool:
    start = [(oid, prepared(value)) for oid, value in attributes_of(base)]
    return start == [(oid, prepared(value)) for oid, value in name[: len(start)]]


_FORMS: Mapping[str, tuple[type[x509.GeneralName], Callable[[Any, Any], bool]]] = {
    "dns": (x509.DNSName, _dns),
    "ip": (x509.IPAddress, _ip),
    "email": (x509.RFC822Name, _email),
    # RFC 9598 6: what is said of mailboxes holds for those beyond ASCII.
    "smtputf8": (x509.RFC822Name, _email),
    "uri": (x509.UniformResourceIdentifier, _uri),
    "directory": (x509.DirectoryName, _directory),
}


@dataclasses.dataclass(frozen=True, slots=True)
class NameConstraints:
    """The permitted (None: all) and the excluded subtrees of one CA certificate."""

    permitted: tuple[x509.GeneralName, ...]
    excluded: tuple[x509.GeneralName, ...]

    def problem(self, kind: str, name: Any) -> str | None:
        """Say why a name of this kind is outside, or None. `name` is text, or a subject's attributes."""
        permitted, excluded = _of(kind, self.permitted), _of(kind, self.excluded)
        if kind == "smtputf8" and any(map(_is_of_mailboxes, (*self.permitted, *self.excluded))):
            return "the issuer's name constraints are about SmtpUTF8Mailbox, which RFC 9598 6 does not define"
        if not permitted and not excluded:
            return None
        if kind not in _FORMS:
            return f"the issuer's name constraints are about names of type {kind}, which are not understood"
        inside = _FORMS[kind][1]
        shown = name if isinstance(name, str) else "the subject"
        if kind == "uri" and not _has_domain(name):
            return f"{shown} has no domain for its host, and the issuer's name constraints are about URIs"
        if permitted and not any(inside(one, name) for one in permitted):
            return f"{shown} is not among the names that the issuer may certify"
        if any(inside(one, name) or _covers(kind, name, one) for one in excluded):
            return f"{shown} is among the names that the issuer may not certify"
        return None


def _of(kind: str, trees: Iterable[x509.GeneralName]) -> list[Any]:
    if kind in _FORMS:
        return [one.value for one in trees if isinstance(one, _FORMS[kind][0])]
    known = tuple(form for form, _ in _FORMS.values())
    return [one for one in trees if not isinstance(one, known)]


def _is_of_mailboxes(tree: x509.GeneralName) -> bool:
    return isinstance(tree, x509.OtherName) and tree.type_id.dotted_string == SMTP_UTF8_MAILBOX


def _covers(kind: str, name: Any, base: Any) -> bool:
    """
    Whether an excluded subtree takes in what it would not permit.

    An empty host is all of them; a domain is below itself with a dot before it; and a wildcard could stand for
    something below.
    """
    if kind != "dns":
        return not base
    zone = base.lower().removeprefix(".")
    return bool(name == zone or (name.startswith("*.") and zone.endswith(name[1:])))


def name_constraints(certificate: x509.Certificate) -> NameConstraints | None:
    """Return a CA certificate's constraints, None without any; BAD_REQUEST when they cannot be read."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return None
    except UNREADABLE as error:
        raise PKIError(ErrorType.BAD_REQUEST, f"the name constraints cannot be read: {error}") from None
    return NameConstraints(tuple(found.permitted_subtrees or ()), tuple(found.excluded_subtrees or ()))


def check_names(
    constraints: Sequence[NameConstraints],
    subject: Attributes,
    names: Iterable[str],
    what: str = "the certificate",
) -> None:
    """
    Refuse a subject and canonical text names (`dns:…`) that are outside the constraints, with BAD_CERT_TEMPLATE.

    RFC 5280 4.2.1.10: an empty subject is not constrained; a mailbox in the subject is, as one in subjectAltName.
    """
    told: list[tuple[str, Any]] = [("directory", subject)] if subject else []
    told += [("email", value) for oid, value in subject if oid == ATTRIBUTES["emailAddress"]]
    for one in names:
        kind, _, value = one.partition(":")
        told.append(("directory", attributes_of(parse_name(value))) if kind == "dirname" else (kind, value))
    for constraint in constraints:
        for kind, name in told:
            if problem := constraint.problem(kind, name):
                raise PKIError(ErrorType.BAD_CERT_TEMPLATE, f"{what}: {problem} (RFC 5280 4.2.1.10)")
