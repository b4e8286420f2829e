"""The certificate lints: one function, one clause. Each takes a `CertificateView` and yields what is wrong."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from chancery.asn1 import der, oids
from chancery.asn1.signature import BY_IDENTIFIER
from chancery.asn1.x509 import read_name
from chancery.errors import PKIError
from chancery.pkix import br_lints, extension_lints, form_lints, general_name, name_lints, purpose_lints
from chancery.pkix.constraints import check_names
from chancery.pkix.finding import Finding, Severity
from chancery.pkix.key import KINDS, check_key
from chancery.pkix.view import CertificateView, der_problem

CertificateLint = Callable[[CertificateView], Iterator[Finding]]

MAX_TLS_SERVER = datetime.timedelta(days=825)
"""What TLS clients take of a private CA (Apple HT210176)."""
MAX_PUBLIC_TLS_SERVER = datetime.timedelta(days=200)
"""BR 6.3.2 since March 2026."""

# Extensions that this suite's lints understand when critical; another critical one would be unknown to others too.
_KNOWN = frozenset(
    {
        oids.SUBJECT_KEY_IDENTIFIER,
        oids.KEY_USAGE,
        oids.PRIVATE_KEY_USAGE_PERIOD,
        oids.SUBJECT_ALT_NAME,
        oids.BASIC_CONSTRAINTS,
        oids.NAME_CONSTRAINTS,
        oids.CRL_DISTRIBUTION_POINTS,
        oids.CERTIFICATE_POLICIES,
        oids.POLICY_CONSTRAINTS,
        oids.INHIBIT_ANY_POLICY,
        oids.AUTHORITY_KEY_IDENTIFIER,
        oids.EXTENDED_KEY_USAGE,
        oids.AUTHORITY_INFO_ACCESS,
        oids.OCSP_NOCHECK,
        oids.POLICY_MAPPINGS,
        oids.PRECERT_POISON,
        oids.FRESHEST_CRL,
        oids.TLS_FEATURE,
        oids.QC_STATEMENTS,
    }
)
_NEVER_CRITICAL = {
    oids.SUBJECT_KEY_IDENTIFIER: "RFC 5280 4.2.1.2",
    oids.AUTHORITY_KEY_IDENTIFIER: "RFC 5280 4.2.1.1",
    oids.AUTHORITY_INFO_ACCESS: "RFC 5280 4.2.2.1",
    oids.SUBJECT_DIRECTORY_ATTRIBUTES: "RFC 5280 4.2.1.8",
    oids.FRESHEST_CRL: "RFC 5280 4.2.1.15",
    oids.SUBJECT_INFO_ACCESS: "RFC 5280 4.2.2.2",
    oids.PRIVATE_KEY_USAGE_PERIOD: "RFC 3280 4.2.1.4",
}
_RSA = "1.2.840.113549.1.1.1"
_ALWAYS_CRITICAL = {
    oids.NAME_CONSTRAINTS: "4.2.1.10",
    oids.POLICY_CONSTRAINTS: "4.2.1.11",
    oids.INHIBIT_ANY_POLICY: "4.2.1.14",
}


def _error(code: str, detail: str, clause: str) -> Finding:
    return Finding(Severity.ERROR, f"pkix.{code}", detail, clause)


def _warning(code: str, detail: str, clause: str) -> Finding:
    return Finding(Severity.WARNING, f"pkix.{code}", detail, clause)


def version(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.1.2.1: version is 3 when extensions are used."""
    if cert.version != 2:
        yield _error("version_not_3", f"version is {cert.version + 1}", "RFC 5280 4.1.2.1")


def serial_form(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.1.2.2: a positive integer of at most 20 octets (R1)."""
    if int.from_bytes(cert.serial, "big", signed=True) <= 0:
        yield _error("serial_not_positive", "the serial number is not positive", "RFC 5280 4.1.2.2")
    if len(cert.serial) > 20:
        yield _error("serial_too_long", f"the serial number has {len(cert.serial)} octets", "RFC 5280 4.1.2.2")


def serial_entropy(cert: CertificateView) -> Iterator[Finding]:
    """R1: 64 bits of CSPRNG output after sign handling do not fit into fewer than 8 octets."""
    if len(cert.serial) < 8:
        yield _error("serial_too_short", f"a serial of {len(cert.serial)} octets holds no 64 random bits", "R1")


def signature_algorithms_match(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.1.1.2: signatureAlgorithm is the same as signature in the TBSCertificate."""
    if cert.inner_algorithm != cert.outer_algorithm:
        yield _error("signature_algorithm_mismatch", "the two algorithm identifiers differ", "RFC 5280 4.1.1.2")


def signature_algorithm_known(cert: CertificateView) -> Iterator[Finding]:
    """RFC 4055, 5758, 8410: a current algorithm, its parameters as the clause of its key says."""
    if cert.inner_algorithm not in BY_IDENTIFIER:
        yield _error("signature_algorithm_not_accepted", "not a current signature algorithm", "RFC 5280 4.1.2.3")


def validity_encoding(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.1.2.5: UTCTime through 2049, GeneralizedTime from 2050, with seconds, in Zulu time."""
    for field, time in (("notBefore", cert.not_before), ("notAfter", cert.not_after)):
        if time.at is None:
            yield _error("validity_encoding", f"{field} is {time.text!r}, tag {time.tag}", "RFC 5280 4.1.2.5")


def validity_order(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.1.2.5: notBefore comes before notAfter."""
    if cert.not_before.at and cert.not_after.at and cert.not_after.at <= cert.not_before.at:
        yield _error("validity_order", "notAfter is not after notBefore", "RFC 5280 4.1.2.5")


def validity_of_servers(cert: CertificateView) -> Iterator[Finding]:
    """R12, BR 6.3.2: both ends are inside the validity, so a period is one second longer than it looks."""
    if oids.EXTENDED_KEY_USAGES["serverAuth"] not in cert.usages or cert.is_ca:
        return
    if cert.not_before.at and cert.not_after.at:
        period = cert.not_after.at - cert.not_before.at + datetime.timedelta(seconds=1)
        if period > MAX_TLS_SERVER:
            yield _error("server_validity_too_long", f"valid for {period}; clients take 825 days", "R12")
        elif period > MAX_PUBLIC_TLS_SERVER:
            yield _warning("server_validity_long", f"valid for {period}; public CAs stop at 200 days", "BR 6.3.2")


def issuer_name_present(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.1.2.4: issuer is a non-empty distinguished name."""
    if cert.issuer_name == b"\x30\x00":
        yield _error("issuer_empty", "the issuer has no name", "RFC 5280 4.1.2.4")


def subject_named(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.1.2.6: a CA has a subject name; with an empty one subjectAltName is critical (4.2.1.6)."""
    if cert.subject_name != b"\x30\x00":
        return
    if cert.is_ca:
        yield _error("ca_subject_empty", "a CA has no subject name", "RFC 5280 4.1.2.6")
    critical = cert.critical(oids.SUBJECT_ALT_NAME)
    if critical is None:
        yield _error("nameless", "neither a subject nor a subjectAltName", "RFC 5280 4.1.2.6")
    elif not critical:
        yield _error("san_not_critical", "the only name is not critical", "RFC 5280 4.1.2.6")


def self_issued(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 3.2: self-issued certificates are CA certificates."""
    if cert.self_issued and not cert.is_ca and cert.readable:
        yield _error("self_issued", "the subject of what is no CA is its issuer's name", "RFC 5280 3.2")


def unique_identifiers(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.1.2.8: CAs do not generate certificates with unique identifiers."""
    if cert.unique_identifiers:
        yield _error("unique_identifier", "a unique identifier is present", "RFC 5280 4.1.2.8")


def duplicate_extensions(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2: no extension stands twice."""
    found = [oid for oid, _ in cert.heads]
    for oid in dict.fromkeys(one for one in found if found.count(one) > 1):
        yield _error("duplicate_extension", f"the extension {oid} stands twice", "RFC 5280 4.2")


def extensions_readable(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2: each extension's value is the DER of its type."""
    found = {one.oid for one in cert.raw_extensions}
    if not cert.readable and len(found) == len(cert.raw_extensions):
        yield Finding(Severity.FATAL, "pkix.extension_malformed", "an extension cannot be read", "RFC 5280 4.2")
    for one in cert.raw_extensions:
        if (problem := der_problem(one.value)) is not None:
            yield _error("extension_not_der", f"{one.oid}: {problem}", "RFC 5280 4.2")


def unknown_critical(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2: a critical extension that relying parties do not know makes them reject."""
    for oid, critical in cert.heads:
        if critical and oid not in _KNOWN:
            yield _error("critical_extension_unknown", f"{oid} is critical", "RFC 5280 4.2")


def criticality(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.1, .2, .8, .10, .11, .14, .15, 4.2.2: what must and must not be critical."""
    for oid, critical in cert.heads:
        if critical and oid in _NEVER_CRITICAL:
            yield _error("extension_critical", f"{oid} is critical", _NEVER_CRITICAL[oid])
        if not critical and oid in _ALWAYS_CRITICAL:
            yield _error("extension_not_critical", f"{oid} is not critical", f"RFC 5280 {_ALWAYS_CRITICAL[oid]}")


def basic_constraints(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.9: critical in a CA. (A pathLenConstraint without cA cannot be read at all.)"""
    basic, raw = cert.value(x509.BasicConstraints), cert.raw(oids.BASIC_CONSTRAINTS)
    if basic is None or raw is None:
        return
    if basic.ca and not raw.critical:
        yield _error("basic_constraints_not_critical", "a CA's basicConstraints", "RFC 5280 4.2.1.9")


def certificate_signing(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.3 and .9: keyCertSign if and only if cA."""
    usage = cert.value(x509.KeyUsage)
    if not cert.readable:
        return
    if cert.is_ca and (usage is None or not usage.key_cert_sign):
        yield _error("ca_without_key_cert_sign", "a CA that may not sign certificates", "RFC 5280 4.2.1.3")
    if usage is not None and usage.key_cert_sign and not cert.is_ca:
        yield _error("key_cert_sign_without_ca", "keyCertSign in what is no CA", "RFC 5280 4.2.1.9")


def key_usage(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.3: at least one bit is set, and the extension should be critical."""
    raw = cert.raw(oids.KEY_USAGE)
    if raw is None:
        return
    if not raw.critical:
        yield _warning("key_usage_not_critical", "keyUsage is not critical", "RFC 5280 4.2.1.3")
    if cert.readable and not any(raw.value[3:]):
        yield _error("key_usage_empty", "no bit of keyUsage is set", "RFC 5280 4.2.1.3")


def key_usage_form(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.3, X.690 11.2.2: nine named bits, those of zero at the end left out."""
    raw = cert.raw(oids.KEY_USAGE)
    if raw is None or not cert.readable or not (bits := raw.value[3:]):
        return
    if not bits[-1] >> raw.value[2] & 1:
        yield _error("key_usage_encoding", "keyUsage ends in bits that are zero", "X.690 11.2.2")
    if int.from_bytes(bits[:4].ljust(4, b"\0")) & ~(0x1FF << 23) or len(bits) > 2:
        yield _error("key_usage_unknown_bit", "keyUsage has a bit that means nothing", "RFC 5280 4.2.1.3")


def crl_signing(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 6.3.3 (f), BR 7.1.2.7.11: who may sign CRLs and is no CA could sign those of a CA of its name."""
    usage = cert.value(x509.KeyUsage)
    if usage is not None and usage.crl_sign and not cert.is_ca:
        yield _warning("crl_sign_without_ca", "cRLSign in what is no CA", "BR 7.1.2.7.11")


def key_parameters(cert: CertificateView) -> Iterator[Finding]:
    """RFC 3279 2.3.1: the parameters of an RSA key are NULL."""
    if cert.key_algorithm == _RSA and cert.key_identifier != der.sequence(der.oid(_RSA), der.null()):
        yield _error("key_parameters", "the parameters of the RSA key are not NULL", "RFC 3279 2.3.1")


def _only_enciphers_keys(usage: x509.KeyUsage) -> bool:
    others = (usage.digital_signature, usage.content_commitment, usage.data_encipherment, usage.key_agreement)
    return usage.key_encipherment and not any((*others, usage.key_cert_sign, usage.crl_sign))


def key_usage_of_key(cert: CertificateView) -> Iterator[Finding]:
    """RFC 3279 2.3.1, 8813 3, 8410 5, 9881 3, 9935 5: a key is not said to do what its algorithm cannot."""
    usage = cert.value(x509.KeyUsage)
    if usage is None:
        return
    algorithm = cert.key_algorithm
    enciphers = usage.key_encipherment or usage.data_encipherment
    if algorithm == "1.2.840.10045.2.1" and enciphers:
        yield _error("key_usage_of_ec_key", "an EC key does not encipher", "RFC 8813 3")
    if algorithm == "1.3.101.112" and (enciphers or usage.key_agreement):
        yield _error("key_usage_of_ed25519_key", "an Ed25519 key only signs", "RFC 8410 5")
    if algorithm in oids.ML_DSA.values() and (enciphers or usage.key_agreement):
        yield _error("key_usage_of_ml_dsa_key", "an ML-DSA key only signs", "RFC 9881 3")
    if algorithm in oids.ML_KEM.values() and not _only_enciphers_keys(usage):
        yield _error("key_usage_of_ml_kem_key", "an ML-KEM key only enciphers keys", "RFC 9935 5")
    if algorithm == _RSA and usage.key_agreement:
        yield _error("key_usage_of_rsa_key", "an RSA key does not agree on keys", "RFC 3279 2.3.1")


def subject_key_identifier(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.2: present in a CA; in others it should be."""
    if cert.critical(oids.SUBJECT_KEY_IDENTIFIER) is None:
        if cert.is_ca:
            yield _error("ski_missing", "a CA without subjectKeyIdentifier", "RFC 5280 4.2.1.2")
        else:
            yield Finding(
                Severity.NOTICE, "pkix.ski_missing_end_entity", "no subjectKeyIdentifier", "RFC 5280 4.2.1.2"
            )


def authority_key_identifier(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.1: present with a keyIdentifier unless self-signed, and it is the issuer's SKI."""
    found = cert.value(x509.AuthorityKeyIdentifier)
    if not cert.readable:
        return
    if found is None or found.key_identifier is None:
        if not cert.self_issued:
            yield _error("aki_missing", "no authorityKeyIdentifier with a keyIdentifier", "RFC 5280 4.2.1.1")
        return
    if cert.issuer is not None and cert.issuer.key_identifier != found.key_identifier:
        yield _error("aki_mismatch", "the keyIdentifier is not the issuer's", "RFC 5280 4.2.1.1")


def under_its_issuer(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.9, 6.1.3: the issuer's name, validity and path length hold for what it signs."""
    if cert.issuer is None or (cert.is_ca and cert.self_issued):
        return
    if cert.issuer_name != cert.issuer.subject:
        yield _error("issuer_name_mismatch", "the issuer's name is not the CA's subject", "RFC 5280 4.1.2.4")
    if cert.not_after.at and cert.not_after.at > cert.issuer.not_after:
        yield _error("outlives_issuer", "notAfter lies after the CA certificate's", "RFC 5280 6.1.3")
    if cert.not_before.at and cert.not_before.at < cert.issuer.not_before:
        yield _warning("precedes_issuer", "notBefore lies before the CA certificate's", "RFC 5280 6.1.3")
    if not cert.issuer.ca:
        yield _error("issuer_no_ca", "the issuer is no CA", "RFC 5280 6.1.4")
    if cert.is_ca and cert.issuer.path_length == 0:
        yield _error("path_length_exceeded", "the issuer allows no CA below it", "RFC 5280 4.2.1.9")


def under_name_constraints(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.10: no name is outside the name constraints of the issuer."""
    if cert.issuer is None or cert.issuer.constraints is None or (cert.is_ca and cert.self_issued):
        return
    names = cert.raw(oids.SUBJECT_ALT_NAME)
    try:
        found = () if names is None else general_name.read(names.value)
        check_names([cert.issuer.constraints], read_name(cert.subject_name), found)
    except PKIError as error:
        yield _error("name_constraints", error.detail, "RFC 5280 4.2.1.10")


def public_key(cert: CertificateView) -> Iterator[Finding]:
    """R3, R4, R5: a sound key of an accepted type and size."""
    try:
        check_key(cert.public_key(), KINDS)
    except (ValueError, UnsupportedAlgorithm):
        yield _error("public_key_unsupported", "the public key cannot be used", "R3")
    except PKIError as error:
        yield _error("public_key_unsound", error.detail, "R3, R4, R5")


def certificate_policies(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.4: a policy stands once."""
    found = cert.value(x509.CertificatePolicies)
    policies = [] if found is None else [one.policy_identifier for one in found]
    if len(set(policies)) != len(policies):
        yield _error("policy_repeated", "a certificate policy stands twice", "RFC 5280 4.2.1.4")


def private_key_usage_period(cert: CertificateView) -> Iterator[Finding]:
    """R25: the key is used within the validity of its certificate. (A period without ends cannot be read.)"""
    period = cert.value(x509.PrivateKeyUsagePeriod)
    if period is None:
        return
    begin, end = (
        None if one is None else one.replace(tzinfo=datetime.UTC) for one in (period.not_before, period.not_after)
    )
    if (begin and cert.not_before.at and begin < cert.not_before.at) or (
        end and cert.not_after.at and end > cert.not_after.at
    ):
        yield _error("key_usage_period_outside", "the key is used outside the validity", "R25")


LINTS: tuple[CertificateLint, ...] = (
    version,
    serial_form,
    serial_entropy,
    signature_algorithms_match,
    signature_algorithm_known,
    validity_encoding,
    validity_order,
    validity_of_servers,
    issuer_name_present,
    subject_named,
    self_issued,
    unique_identifiers,
    duplicate_extensions,
    extensions_readable,
    unknown_critical,
    criticality,
    basic_constraints,
    certificate_signing,
    key_usage,
    key_usage_form,
    crl_signing,
    key_usage_of_key,
    subject_key_identifier,
    authority_key_identifier,
    under_its_issuer,
    under_name_constraints,
    public_key,
    key_parameters,
    certificate_policies,
    private_key_usage_period,
    *name_lints.LINTS,
    *purpose_lints.LINTS,
    *extension_lints.LINTS,
    *form_lints.LINTS,
    *br_lints.LINTS,
)
