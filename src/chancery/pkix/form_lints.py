"""The certificate lints about how extensions are written, where pyca does not look: one function, one clause."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator

from chancery.asn1 import der, oids
from chancery.errors import PKIError
from chancery.pkix.finding import Finding, Severity
from chancery.pkix.name import absolute_uri, dns_name, email_address
from chancery.pkix.view import CertificateView

_NOT_EMPTY = {
    oids.ISSUER_ALT_NAME: "4.2.1.7",
    oids.CERTIFICATE_POLICIES: "4.2.1.4",
    oids.SUBJECT_DIRECTORY_ATTRIBUTES: "4.2.1.8",
    oids.CRL_DISTRIBUTION_POINTS: "4.2.1.13",
    oids.FRESHEST_CRL: "4.2.1.15",
    oids.AUTHORITY_INFO_ACCESS: "4.2.2.1",
    oids.SUBJECT_INFO_ACCESS: "4.2.2.2",
}
_URI = 0x86
_MAIL, _DNS, _REGISTERED = 0x81, 0x82, 0x88


def _error(code: str, detail: str, clause: str) -> Finding:
    return Finding(Severity.ERROR, f"pkix.{code}", detail, clause)


def _warning(code: str, detail: str, clause: str) -> Finding:
    return Finding(Severity.WARNING, f"pkix.{code}", detail, clause)


def not_empty(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1, 4.2.2: what is a sequence of at least one has one."""
    for oid, clause in _NOT_EMPTY.items():
        raw = cert.raw(oid)
        if raw is not None and raw.value == b"\x30\x00":
            yield _error("extension_empty", f"{oid} is an empty sequence", f"RFC 5280 {clause}")


def name_constraint_forms(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.10: subtrees without minimum and maximum, whose bases are written as the clause says."""
    raw = cert.raw(oids.NAME_CONSTRAINTS)
    if raw is None or not cert.readable:
        return
    trees = der.Reader(raw.value).enter()
    while trees:
        inner = trees.enter(trees.peek() or 0)
        while inner:
            subtree = inner.enter()
            tag = subtree.peek() or 0
            base = subtree.take(tag)
            if subtree:
                detail = "a subtree with a minimum or maximum"
                yield _error("name_constraints_distance", detail, "RFC 5280 4.2.1.10")
            if tag == _REGISTERED:
                detail = "a constraint of registered identifiers, which nobody defines"
                yield _warning("name_constraints_form", detail, "RFC 5280 4.2.1.10")
            elif tag == _DNS and base.startswith(b".") and _is_base(tag, base[1:]):
                detail = f"a DNS constraint {base[:80].decode()!r} with a dot before it: readers differ about it"
                yield _warning("name_constraints_form", detail, "RFC 5280 4.2.1.10")
            elif not _is_base(tag, base):
                detail = f"{base[:80]!r} is no base of a subtree"
                yield _error("name_constraints_base", detail, "RFC 5280 4.2.1.10")


def _is_base(tag: int, base: bytes) -> bool:
    """Whether it is a domain (of a mailbox or URI perhaps with a dot before it), a mailbox or nothing."""
    if tag not in {_MAIL, _DNS, _URI} or not base:
        return True
    try:
        text = base.decode("ascii")
        if tag == _MAIL and "@" in text:
            email_address(text)
        elif "*" in text:
            return False
        else:
            dns_name(text if tag == _DNS else text.removeprefix("."))
    except (UnicodeDecodeError, PKIError):
        return False
    return True


def distribution_point_forms(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.13: not critical, one point for all reasons, no names relative to the CRL's issuer."""
    for oid in (oids.CRL_DISTRIBUTION_POINTS, oids.FRESHEST_CRL):
        raw = cert.raw(oid)
        if raw is None or not cert.readable:
            continue
        if raw.critical and oid == oids.CRL_DISTRIBUTION_POINTS:
            yield _warning("cdp_critical", "cRLDistributionPoints is critical", "RFC 5280 4.2.1.13")
        points = der.Reader(raw.value).enter()
        partial = bool(points)
        while points:
            point = points.enter()
            if point.peek() == 0xA0 and point.enter(0xA0).peek() == 0xA1:
                yield _warning("cdp_relative", "a name relative to the CRL's issuer", "RFC 5280 4.2.1.13")
            partial = partial and point.peek() == 0x81
            if point.peek() == 0xA2:
                yield _warning("cdp_indirect", "a CRL that another CA signs", "RFC 5280 4.2.1.13")
        if partial:
            yield _error("cdp_reasons", "no distribution point is for all reasons", "RFC 5280 4.2.1.13")


def locations(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.13, 4.2.2: locations are absolute URIs; an LDAP one may leave out its host."""
    for oid in (
        oids.CRL_DISTRIBUTION_POINTS, oids.FRESHEST_CRL, oids.AUTHORITY_INFO_ACCESS, oids.SUBJECT_INFO_ACCESS
    ):  # fmt: skip
        raw = cert.raw(oid)
        for uri in _uris(der.Reader(raw.value)) if raw is not None and cert.readable else ():
            try:
                if not uri.startswith(b"ldap:///"):
                    absolute_uri(uri.decode("ascii"))
            except (UnicodeDecodeError, PKIError):
                yield _error("location_syntax", f"{uri[:80]!r} is no absolute URI", "RFC 5280 4.2.1.6")


def _uris(reader: der.Reader) -> Iterator[bytes]:
    """Give every uniformResourceIdentifier in these values, however deep."""
    while reader:
        tag = reader.peek() or 0
        if tag & 0x20:
            yield from _uris(reader.enter(tag))
        elif tag == _URI:
            yield reader.take(tag)
        else:
            reader.raw()


def policy_forms(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.4, RFC 6818 3: qualifiers are left out or present; a notice is a text, in UTF-8 and NFC."""
    raw = cert.raw(oids.CERTIFICATE_POLICIES)
    if raw is None or not cert.readable:
        return
    policies = der.Reader(raw.value).enter()
    while policies:
        policy = policies.enter()
        policy.oid()
        if not policy:
            continue
        if not (qualifiers := policy.enter()):
            yield _error("qualifiers_empty", "policyQualifiers without a qualifier", "RFC 5280 4.2.1.4")
        while qualifiers:
            qualifier = qualifiers.enter()
            if qualifier.oid() == oids.QT_NOTICE:
                yield from _notice(qualifier.enter())


def _notice(notice: der.Reader) -> Iterator[Finding]:
    if notice.peek() == der.SEQUENCE:
        notice.raw()
        yield _warning("notice_reference", "a user notice with a noticeRef", "RFC 5280 4.2.1.4")
    if (tag := notice.peek()) is None:
        return
    text = notice.take(tag)
    if tag == der.IA5_STRING:
        yield _error("notice_string_type", "an explicitText as IA5String", "RFC 6818 3")
    elif tag != der.UTF8_STRING:
        yield _warning("notice_not_utf8", f"an explicitText with the tag {tag}", "RFC 6818 3")
    elif not (said := text.decode()).isprintable() or said != unicodedata.normalize("NFC", said):
        yield _warning("notice_text", "an explicitText with control characters, or not in NFC", "RFC 6818 3")


def directory_attributes(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.8: subjectDirectoryAttributes are attributes, each with a value at least."""
    raw = cert.raw(oids.SUBJECT_DIRECTORY_ATTRIBUTES)
    if raw is None:
        return
    try:
        outer = der.Reader(raw.value)
        attributes = outer.enter()
        outer.done()
        while attributes:
            attribute = attributes.enter()
            attribute.oid()
            attribute.enter(der.SET).raw()
            attribute.done()
    except PKIError as error:
        yield _error("directory_attributes_malformed", error.detail, "RFC 5280 4.2.1.8")


def ocsp_nocheck(cert: CertificateView) -> Iterator[Finding]:
    """RFC 6960 4.2.2.2.1: ocsp-nocheck should not be critical."""
    if cert.critical(oids.OCSP_NOCHECK):
        yield _warning("ocsp_nocheck_critical", "ocsp-nocheck is critical", "RFC 6960 4.2.2.2.1")


LINTS: tuple[Callable[[CertificateView], Iterator[Finding]], ...] = (
    not_empty,
    name_constraint_forms,
    distribution_point_forms,
    locations,
    policy_forms,
    directory_attributes,
    ocsp_nocheck,
)
