"""The certificate lints about extensions that few certificates have: one function, one clause."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cryptography import x509

from chancery.asn1 import der, oids
from chancery.errors import PKIError
from chancery.pkix.finding import Finding, Severity
from chancery.pkix.name import absolute_uri, smtp_utf8_mailbox
from chancery.pkix.view import OTHER_NAME, CertificateView

_CA_ONLY = {
    oids.NAME_CONSTRAINTS: ("name_constraints_without_ca", "4.2.1.10"),
    oids.POLICY_MAPPINGS: ("policy_mappings_without_ca", "4.2.1.5"),
    oids.POLICY_CONSTRAINTS: ("policy_constraints_without_ca", "4.2.1.11"),
    oids.INHIBIT_ANY_POLICY: ("inhibit_any_policy_without_ca", "4.2.1.14"),
}
_UTF8_NAMES = frozenset({oids.SMTP_UTF8_MAILBOX, oids.UPN})
MAX_NOTICE = 200
"""RFC 5280 4.2.1.4: characters of an explicitText."""


def _error(code: str, detail: str, clause: str) -> Finding:
    return Finding(Severity.ERROR, f"pkix.{code}", detail, clause)


def _warning(code: str, detail: str, clause: str) -> Finding:
    return Finding(Severity.WARNING, f"pkix.{code}", detail, clause)


def of_cas_alone(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.5, .10, .11, .14: what constrains a path stands in CA certificates."""
    if cert.is_ca or not cert.readable:
        return
    for oid, _ in cert.heads:
        if oid in _CA_ONLY:
            code, clause = _CA_ONLY[oid]
            yield _error(code, f"{oid} in what is no CA", f"RFC 5280 {clause}")


def name_constraints(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.10: nameConstraints is not an empty sequence."""
    raw = cert.raw(oids.NAME_CONSTRAINTS)
    if raw is not None and raw.value == b"\x30\x00":
        yield _error("name_constraints_empty", "nameConstraints without a subtree", "RFC 5280 4.2.1.10")


def policy_constraints(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.11: policyConstraints is not an empty sequence."""
    raw = cert.raw(oids.POLICY_CONSTRAINTS)
    if raw is not None and raw.value == b"\x30\x00":
        yield _error("policy_constraints_empty", "policyConstraints that constrain nothing", "RFC 5280 4.2.1.11")


def policy_mappings(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.5: critical; no mapping to or from anyPolicy; what is mapped is asserted, too."""
    raw = cert.raw(oids.POLICY_MAPPINGS)
    if raw is None:
        return
    try:
        mappings = _mappings(raw.value)
    except PKIError as error:
        yield _error("policy_mappings_malformed", error.detail, "RFC 5280 4.2.1.5")
        return
    if not raw.critical:
        yield _warning("policy_mappings_not_critical", "policyMappings is not critical", "RFC 5280 4.2.1.5")
    if any(oids.ANY_POLICY in pair for pair in mappings):
        yield _error("policy_mapping_any", "a mapping to or from anyPolicy", "RFC 5280 4.2.1.5")
    policies = cert.value(x509.CertificatePolicies)
    asserted = {one.policy_identifier.dotted_string for one in policies or ()}
    for policy, _ in mappings:
        if policy not in asserted:
            yield _warning("policy_mapping_unasserted", f"{policy} is mapped and not asserted", "RFC 5280 4.2.1.5")


def _mappings(value: bytes) -> list[tuple[str, str]]:
    outer = der.Reader(value)
    pairs, found = outer.enter(), []
    outer.done()
    while pairs:
        pair = pairs.enter()
        found.append((pair.oid(), pair.oid()))
        pair.done()
    if not found:
        raise der.malformed("policyMappings without a mapping")
    return found


def policy_notice(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.4: an explicitText has at most 200 characters, and a CPS pointer is a URI."""
    for policy in cert.value(x509.CertificatePolicies) or ():
        for one in policy.policy_qualifiers or ():
            if isinstance(one, str):
                if not _is_uri(one):
                    yield _error("cps_not_uri", f"the CPS pointer {one[:80]!r} is no URI", "RFC 5280 4.2.1.4")
            elif one.explicit_text is not None and (length := len(one.explicit_text)) > MAX_NOTICE:
                yield _error("notice_too_long", f"an explicitText of {length} characters", "RFC 5280 4.2.1.4")


def _is_uri(text: str) -> bool:
    try:
        return absolute_uri(text) == text
    except PKIError:
        return False


def freshest_crl(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.15: a freshestCRL names where delta CRLs are, beside where the complete ones are."""
    if cert.raw(oids.FRESHEST_CRL) is not None and cert.raw(oids.CRL_DISTRIBUTION_POINTS) is None:
        yield _warning("freshest_without_cdp", "freshestCRL without cRLDistributionPoints", "RFC 5280 4.2.1.15")


def extended_key_usage_once(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.12: at least one purpose; each stands once."""
    usages = cert.value(x509.ExtendedKeyUsage)
    if usages is not None and len(set(usages)) != len(usages):
        yield _warning("usage_repeated", "an extended key usage stands twice", "RFC 5280 4.2.1.12")


def key_identifier_length(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.2: a keyIdentifier identifies something; those of hashes have at most 64 octets."""
    raw = cert.raw(oids.SUBJECT_KEY_IDENTIFIER)
    if raw is not None and cert.readable and not 1 <= (size := len(der.content(raw.value))) <= 64:
        yield _error("ski_length", f"a keyIdentifier of {size} octets", "RFC 5280 4.2.1.2")


def tls_feature(cert: CertificateView) -> Iterator[Finding]:
    """RFC 7633 4: not critical; who must staple has an OCSP responder to ask."""
    raw, feature = cert.raw(oids.TLS_FEATURE), cert.value(x509.TLSFeature)
    if raw is None:
        return
    if raw.critical:
        yield _warning("tls_feature_critical", "the TLS feature extension is critical", "RFC 7633 4")
    if feature is not None and not any(_ocsp_pointers(cert)) and not cert.is_ca:
        yield _error("must_staple_without_ocsp", "must-staple, and no OCSP responder is named", "RFC 7633 4")


def _ocsp_pointers(cert: CertificateView) -> Iterator[bool]:
    for one in cert.value(x509.AuthorityInformationAccess) or ():
        yield one.access_method.dotted_string == oids.AD_OCSP


def certificate_transparency(cert: CertificateView) -> Iterator[Finding]:
    """RFC 6962 3.1, 3.3: a precertificate is poisoned, critically, and holds no SCTs yet."""
    poison, scts = cert.raw(oids.PRECERT_POISON), cert.raw(oids.SCT_LIST)
    if poison is None:
        return
    if not poison.critical or poison.value != b"\x05\x00":
        yield _error("poison_form", "the poison extension is critical, and NULL", "RFC 6962 3.1")
    if scts is not None:
        yield _error("poison_with_scts", "a precertificate with timestamps of logs", "RFC 6962 3.1")


def qualified_statements(cert: CertificateView) -> Iterator[Finding]:
    """EN 319 412-5 4.1, 4.2, 4.3.4: statements are not critical, each once, with what belongs to it."""
    raw = cert.raw(oids.QC_STATEMENTS)
    if raw is None:
        return
    try:
        statements = _statements(raw.value)
    except PKIError as error:
        yield _error("qc_statements_malformed", error.detail, "RFC 3739 3.2.6")
        return
    if raw.critical:
        yield _error("qc_statements_critical", "qcStatements is critical", "EN 319 412-5 4.1")
    if len(set(statements)) != len(statements):
        yield _error("qc_statement_repeated", "a statement stands twice", "EN 319 412-5 4.1")
    if oids.QC_COMPLIANCE in statements and oids.QC_PDS not in statements:
        yield _error("qc_pds_missing", "QcCompliance without the PKI disclosure statement", "EN 319 412-5 4.3.4")
    if oids.QC_TYPE in statements and oids.QC_COMPLIANCE not in statements:
        yield _warning("qc_type_unqualified", "QcType of what is not qualified", "EN 319 412-5 4.2.3")


def _statements(value: bytes) -> list[str]:
    outer = der.Reader(value)
    all_of_them, found = outer.enter(), []
    outer.done()
    while all_of_them:
        found.append(all_of_them.enter().oid())
    if not found:
        raise der.malformed("qcStatements without a statement")
    return found


def other_names(cert: CertificateView) -> Iterator[Finding]:
    """RFC 9598 3: an SmtpUTF8Mailbox is for what ASCII cannot write; it is a UTF8String, as is a UPN."""
    for one in cert.names or ():
        if one.tag != OTHER_NAME or (oid := (other := der.Reader(one.value)).oid()) not in _UTF8_NAMES:
            continue
        try:
            text = _utf8(other.take(0xA0))
        except (PKIError, UnicodeDecodeError):
            yield _error("other_name_not_utf8", f"{oid} is no UTF8String", "RFC 9598 3")
            continue
        if oid == oids.SMTP_UTF8_MAILBOX and text.partition("@")[0].isascii():
            yield _error("mailbox_ascii", "an ASCII local part belongs into an rfc822Name", "RFC 9598 3")
        elif oid == oids.SMTP_UTF8_MAILBOX and not _is_mailbox(text):
            yield _error("mailbox_form", f"{text[:80]!r}: NFC, and a domain in small A-labels", "RFC 9598 3")


def _is_mailbox(text: str) -> bool:
    try:
        return smtp_utf8_mailbox(text) == text
    except PKIError:
        return False


def _utf8(value: bytes) -> str:
    reader = der.Reader(value)
    text = reader.take(der.UTF8_STRING)
    reader.done()
    return text.decode()


LINTS: tuple[Callable[[CertificateView], Iterator[Finding]], ...] = (
    of_cas_alone,
    name_constraints,
    policy_constraints,
    policy_mappings,
    policy_notice,
    freshest_crl,
    extended_key_usage_once,
    key_identifier_length,
    tls_feature,
    certificate_transparency,
    qualified_statements,
    other_names,
)
