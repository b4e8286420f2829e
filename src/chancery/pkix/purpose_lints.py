"""The certificate lints about what a certificate is for: one function, one clause."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cryptography import x509

from chancery.asn1 import der, oids
from chancery.asn1.oids import EXTENDED_KEY_USAGES
from chancery.pkix.finding import Finding, Severity
from chancery.pkix.view import DNS_NAME, IP_NAME, MAIL_NAME, OTHER_NAME, CertificateView, name_text

_ANY = "2.5.29.37.0"
_SHORT = {oid: short for short, oid in EXTENDED_KEY_USAGES.items()}
# RFC 5280 4.2.1.12: the keyUsage bits that are consistent with each purpose.
_CONSISTENT = {
    "serverAuth": ("digital_signature", "key_encipherment", "key_agreement"),
    "clientAuth": ("digital_signature", "key_agreement"),
    "codeSigning": ("digital_signature",),
    "emailProtection": ("digital_signature", "content_commitment", "key_encipherment", "key_agreement"),
    "timeStamping": ("digital_signature", "content_commitment"),
    "OCSPSigning": ("digital_signature", "content_commitment"),
}


def _error(code: str, detail: str, clause: str) -> Finding:
    return Finding(Severity.ERROR, f"pkix.{code}", detail, clause)


def extended_key_usage_consistent(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.12: the certificate is used for a purpose that both usages allow."""
    usage = cert.value(x509.KeyUsage)
    if usage is None or cert.is_ca:
        return
    for oid in sorted(cert.usages):
        short = _SHORT.get(oid, "")
        bits = _CONSISTENT.get(short)
        if bits and not any(getattr(usage, bit) for bit in bits):
            yield _error("usages_inconsistent", f"no bit of keyUsage serves {short}", "RFC 5280 4.2.1.12")


def any_extended_key_usage(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.2.1.12: with anyExtendedKeyUsage the extension should not be critical."""
    raw = cert.raw(oids.EXTENDED_KEY_USAGE)
    if raw is not None and raw.critical and _ANY in cert.usages:
        yield Finding(
            Severity.WARNING, "pkix.any_usage_critical", "anyExtendedKeyUsage, critical", "RFC 5280 4.2.1.12"
        )


def time_stamping(cert: CertificateView) -> Iterator[Finding]:
    """R25, RFC 3161 2.3: timeStamping is the only purpose, and critical."""
    raw = cert.raw(oids.EXTENDED_KEY_USAGE)
    usages = cert.usages
    if raw is None or cert.is_ca or EXTENDED_KEY_USAGES["timeStamping"] not in usages:
        return
    if not raw.critical:
        yield _error("time_stamping_not_critical", "the timeStamping purpose is not critical", "RFC 3161 2.3")
    if len(usages) > 1:
        yield _error("time_stamping_not_alone", "timeStamping beside another purpose", "RFC 3161 2.3")


def ocsp_signing(cert: CertificateView) -> Iterator[Finding]:
    """R20, RFC 6960 4.2.2.2.1: an OCSP delegate says that it need not be checked; nobody else does."""
    delegate = EXTENDED_KEY_USAGES["OCSPSigning"] in cert.usages
    nocheck = cert.raw(oids.OCSP_NOCHECK) is not None
    if not cert.readable:
        return
    if delegate and not nocheck and not cert.is_ca:
        yield _error("ocsp_nocheck_missing", "an OCSP delegate without ocsp-nocheck", "RFC 6960 4.2.2.2.1")
    if nocheck and (not delegate or cert.is_ca):
        yield _error("ocsp_nocheck_misplaced", "ocsp-nocheck in what is no OCSP delegate", "RFC 6960 4.2.2.2.1")


def ocsp_signing_alone(cert: CertificateView) -> Iterator[Finding]:
    """BR 7.1.2.8.5: an OCSP delegate's certificate has no other purpose."""
    usages = cert.usages
    if not cert.is_ca and len(usages) > 1 and EXTENDED_KEY_USAGES["OCSPSigning"] in usages:
        yield _error("ocsp_signing_not_alone", "OCSPSigning beside another purpose", "BR 7.1.2.8.5")


def server_names(cert: CertificateView) -> Iterator[Finding]:
    """RFC 9525 2: a server is identified by subjectAltName, never by its CN; a CN repeats one (BR 7.1.4.3)."""
    if cert.is_ca or not cert.readable or EXTENDED_KEY_USAGES["serverAuth"] not in cert.usages:
        return
    if cert.names is None:
        yield _error("server_nameless", "a TLS server without subjectAltName", "RFC 9525 2")
        return
    names = {name_text(one).lower() for one in cert.names if one.tag in {DNS_NAME, IP_NAME}}
    for attribute in cert.subject:
        if (
            attribute.type == oids.ATTRIBUTES["CN"]
            # The small letters of ASCII alone: those of others may be ASCII (KELVIN SIGN, k).
            and attribute.value.lower().decode("utf-8", "replace") not in names
        ):
            yield _error("common_name_not_in_san", "the CN is not one of the subjectAltNames", "BR 7.1.4.3")


def mail_names(cert: CertificateView) -> Iterator[Finding]:
    """RFC 8550 3, RFC 9598 4: a mail certificate's address stands in subjectAltName, perhaps beyond ASCII."""
    if cert.is_ca or not cert.readable or EXTENDED_KEY_USAGES["emailProtection"] not in cert.usages:
        return
    beyond = der.oid(oids.SMTP_UTF8_MAILBOX)
    if not any(
        one.tag == MAIL_NAME or (one.tag == OTHER_NAME and one.value.startswith(beyond))
        for one in cert.names or ()
    ):
        yield _error("mail_nameless", "emailProtection without an rfc822Name", "RFC 8550 3")


def mail_attributes(cert: CertificateView) -> Iterator[Finding]:
    """RFC 5280 4.1.2.6: a mailbox in the subject stands in subjectAltName, too (of old CAs often not)."""
    for attribute in cert.subject:
        if attribute.type != oids.ATTRIBUTES["emailAddress"]:
            continue
        mailbox = attribute.value.lower()
        if not any(one.tag == MAIL_NAME and one.value.lower() == mailbox for one in cert.names or ()):
            severity = Severity.WARNING if cert.is_ca else Severity.ERROR
            detail = "an emailAddress in the subject is not one of the subjectAltNames"
            yield Finding(severity, "pkix.mail_attribute_not_in_san", detail, "RFC 5280 4.1.2.6")


LINTS: tuple[Callable[[CertificateView], Iterator[Finding]], ...] = (
    extended_key_usage_consistent,
    any_extended_key_usage,
    time_stamping,
    ocsp_signing,
    ocsp_signing_alone,
    server_names,
    mail_names,
    mail_attributes,
)
