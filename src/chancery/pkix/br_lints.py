"""
What the Baseline Requirements add for TLS servers and CAs, as notices: one function, one clause.

A private CA may do otherwise; whoever wants to be trusted by browsers reads these.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator

from cryptography import x509

from chancery.asn1 import oids
from chancery.asn1.oids import ATTRIBUTES, EXTENDED_KEY_USAGES
from chancery.pkix.finding import Finding, Severity
from chancery.pkix.name import is_public
from chancery.pkix.view import DNS_NAME, IP_NAME, CertificateView, name_text

SHORT_LIVED = datetime.timedelta(days=7)
"""BR 1.6.1: valid for less needs no pointer to its status, since March 2026."""
_SERVER, _CLIENT = EXTENDED_KEY_USAGES["serverAuth"], EXTENDED_KEY_USAGES["clientAuth"]
_PUBLIC_TYPES = frozenset({"1.2.840.10045.2.1", "1.2.840.113549.1.1.1"})


def _notice(code: str, detail: str, clause: str) -> Finding:
    return Finding(Severity.NOTICE, f"br.{code}", detail, clause)


def _server(cert: CertificateView) -> bool:
    return _SERVER in cert.usages and not cert.is_ca


def internal_names(cert: CertificateView) -> Iterator[Finding]:
    """BR 4.2.2, 7.1.4.2: no public CA certifies internal names and reserved addresses."""
    if not _server(cert):
        return
    for one in cert.names or ():
        if one.tag == DNS_NAME and b"." not in one.value:
            yield _notice("internal_name", f"{name_text(one)} is no name of the public DNS", "BR 4.2.2")
        if one.tag == IP_NAME and not is_public(text := name_text(one)):
            yield _notice("reserved_address", f"{text} is a reserved address", "BR 4.2.2")


def server_policy(cert: CertificateView) -> Iterator[Finding]:
    """BR 7.1.2.7.9: a server's certificate names the policy under which it was issued."""
    if _server(cert) and cert.raw(oids.CERTIFICATE_POLICIES) is None:
        yield _notice("policy_missing", "no certificatePolicies", "BR 7.1.2.7.9")


def server_status(cert: CertificateView) -> Iterator[Finding]:
    """BR 7.1.2.7.7, 7.1.2.11.2: where its status can be asked, unless it is short-lived."""
    pointers = (oids.AUTHORITY_INFO_ACCESS, oids.CRL_DISTRIBUTION_POINTS)
    if not _server(cert) or any(cert.raw(oid) is not None for oid in pointers):
        return
    begin, end = cert.not_before.at, cert.not_after.at
    if begin and end and end - begin >= SHORT_LIVED:
        yield _notice("status_nowhere", "neither a CRL nor a responder is named", "BR 7.1.2.11.2")


def server_purposes(cert: CertificateView) -> Iterator[Finding]:
    """BR 7.1.2.7.10: serverAuth, perhaps clientAuth, and nothing else."""
    if not _server(cert):
        return
    for one in sorted(cert.usages - {_SERVER, _CLIENT}):
        yield _notice("purpose", f"the purpose {one} beside serverAuth", "BR 7.1.2.7.10")


def server_key(cert: CertificateView) -> Iterator[Finding]:
    """BR 6.1.5, 7.1.3.1: RSA, or ECDSA on a NIST curve."""
    if _server(cert) and cert.key_algorithm not in _PUBLIC_TYPES:
        yield _notice("key_type", "a key of another type than RSA or ECDSA", "BR 7.1.3.1")


def server_subject(cert: CertificateView) -> Iterator[Finding]:
    """BR 7.1.2.7.2, 7.1.4.1: a server has no OU, and no attribute stands twice with one value."""
    if not _server(cert):
        return
    found = [one[::2] for one in cert.subject]
    if len(set(found)) != len(found):
        yield _notice("attribute_repeated", "an attribute stands twice with one value", "BR 7.1.4.1")
    if any(one.type == ATTRIBUTES["OU"] for one in cert.subject):
        yield _notice("organizational_unit", "a server with an OU in its name", "BR 7.1.2.7.2")


def ca_key_usage(cert: CertificateView) -> Iterator[Finding]:
    """BR 7.1.2.10.7: a CA signs certificates and CRLs, perhaps OCSP responses, and nothing else."""
    usage = cert.value(x509.KeyUsage) if cert.is_ca else None
    if usage is None:
        return
    if not usage.crl_sign:
        yield _notice("ca_without_crl_sign", "a CA that may not sign CRLs", "BR 7.1.2.10.7")
    others = (usage.content_commitment, usage.key_encipherment, usage.data_encipherment, usage.key_agreement)
    if any(others):
        yield _notice("ca_key_usage", "a CA's key with another usage", "BR 7.1.2.10.7")


def ca_subject(cert: CertificateView) -> Iterator[Finding]:
    """BR 7.1.2.10.2: a CA is named by its country, its organisation and a common name."""
    found = {one.type for one in cert.subject} if cert.is_ca else frozenset(ATTRIBUTES.values())
    if missing := [short for short in ("C", "O", "CN") if ATTRIBUTES[short] not in found]:
        yield _notice("ca_subject", f"a CA without {', '.join(missing)} in its name", "BR 7.1.2.10.2")


LINTS: tuple[Callable[[CertificateView], Iterator[Finding]], ...] = (
    internal_names,
    server_policy,
    server_status,
    server_purposes,
    server_key,
    server_subject,
    ca_key_usage,
    ca_subject,
)
