"""Whether a timestamp stands in the light of CRLs (RFC 3161 4, RFC 5280 6.3)."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
from collections.abc import Sequence
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from chancery.asn1 import der, oids
from chancery.errors import ErrorType, PKIError

T = TypeVar("T", bound=x509.ExtensionType)

_EXPIRED_CERTS_ON_CRL = x509.ObjectIdentifier(oids.EXPIRED_CERTS_ON_CRL)
# RFC 3161 4: with one of these reasons the tokens of before stay valid; with another, or none, no token does.
_BEFORE_STANDS = frozenset(
    {
        x509.ReasonFlags.unspecified,
        x509.ReasonFlags.affiliation_changed,
        x509.ReasonFlags.superseded,
        x509.ReasonFlags.cessation_of_operation,
    }
)


@dataclasses.dataclass(frozen=True, slots=True)
class Checked:
    """A certificate (its subject) and the CRL that speaks for it, by thisUpdate."""

    subject: str
    this_update: datetime.datetime


def check_revocation(path: Sequence[bytes], crls: Sequence[bytes], at: datetime.datetime) -> list[Checked]:
    """
    Check every certificate (DER) of a path below its anchor against CRLs (DER) for a token of genTime `at`.

    A CRL counts when the issuer signed it, its scope takes the certificate in, and it was in force at genTime or
    was made later. One from after the certificate's end need not list it any more (RFC 5280 3.3): it counts for
    what it lists. Raises PKIError: CERT_REVOKED when a revocation takes the token down, ADD_INFO_NOT_AVAILABLE
    when no CRL tells, BAD_DATA_FORMAT for bytes that are no CRL.
    """
    lists = [_load(one) for one in crls]
    certificates = [x509.load_der_x509_certificate(one) for one in path]
    return [_check(certificate, issuer, lists, at) for certificate, issuer in itertools.pairwise(certificates)]


def _load(data: bytes) -> x509.CertificateRevocationList:
    try:
        found = x509.load_der_x509_crl(data)
        # Read now, as it may be nonsense.
        _ = found.extensions
    except (ValueError, x509.InvalidVersion, x509.DuplicateExtension):
        raise PKIError(ErrorType.BAD_DATA_FORMAT, "a CRL that cannot be read") from None
    return found


def _check(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    crls: Sequence[x509.CertificateRevocationList],
    at: datetime.datetime,
) -> Checked:
    subject = certificate.subject.rfc4514_string()
    fitting = [one for one in crls if _speaks_for(one, certificate, at) and _signed_by(one, issuer)]
    for crl in fitting:
        entry = _entry(crl, certificate.serial_number)
        if entry is not None and not _stands(entry, at):
            raise PKIError(
                ErrorType.CERT_REVOKED,
                f"the certificate of {subject} was revoked at {entry.revocation_date_utc.isoformat()}"
                f" ({_reason_words(entry)}), which takes the timestamp down",
            )
    telling = [one.last_update_utc for one in fitting if _still_lists(one, certificate)]
    if not telling:
        late = "; one from after its end need not list it any more" if fitting else ""
        raise PKIError(
            ErrorType.ADD_INFO_NOT_AVAILABLE,
            f"no CRL tells whether the certificate of {subject} was revoked at {at.isoformat()}{late}",
        )
    return Checked(subject, max(telling))


def _entry(crl: x509.CertificateRevocationList, serial: int) -> x509.RevokedCertificate | None:
    found = crl.get_revoked_certificate_by_serial_number(serial)
    try:
        # RFC 5280 5.3: what is critical and not understood may say anything, also whose serial it is.
        if found is not None and any(one.critical and _is_strange(one.value) for one in found.extensions):
            raise PKIError(ErrorType.BAD_DATA_FORMAT, "a CRL with a critical extension that is not understood")
    except (ValueError, x509.DuplicateExtension):
        raise PKIError(ErrorType.BAD_DATA_FORMAT, "a CRL that cannot be read") from None
    return found


def _is_strange(value: x509.ExtensionType) -> bool:
    return isinstance(value, x509.UnrecognizedExtension | x509.CertificateIssuer)


def _still_lists(crl: x509.CertificateRevocationList, certificate: x509.Certificate) -> bool:
    """Tell whether this CRL would list the certificate if it was ever revoked (RFC 5280 3.3, X.509 9.5.2.7)."""
    ends = certificate.not_valid_after_utc
    if crl.last_update_utc <= ends:
        return True
    kept = next((one.value for one in crl.extensions if one.oid == _EXPIRED_CERTS_ON_CRL), None)
    if not isinstance(kept, x509.UnrecognizedExtension):
        return False
    try:
        text = der.Reader(kept.value).take(der.GENERALIZED_TIME).decode("ascii")
        return datetime.datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=datetime.UTC) <= ends
    except (PKIError, ValueError):
        return False


def _stands(entry: x509.RevokedCertificate, at: datetime.datetime) -> bool:
    """Tell whether a token of then stands although its certificate is revoked now."""
    invalid = _extension(entry.extensions, x509.InvalidityDate)
    since = (
        entry.revocation_date_utc
        if invalid is None
        else min(invalid.invalidity_date_utc, entry.revocation_date_utc)
    )
    return _reason(entry) in _BEFORE_STANDS and at < since


def _reason(entry: x509.RevokedCertificate) -> x509.ReasonFlags | None:
    found = _extension(entry.extensions, x509.CRLReason)
    return None if found is None else found.reason


def _reason_words(entry: x509.RevokedCertificate) -> str:
    reason = _reason(entry)
    return "no reason given" if reason is None else str(reason.value)


def _speaks_for(crl: x509.CertificateRevocationList, certificate: x509.Certificate, at: datetime.datetime) -> bool:
    if crl.issuer != certificate.issuer or any(_bars(one) for one in crl.extensions):
        return False
    ends = crl.next_update_utc
    if crl.last_update_utc <= at and (ends is None or ends < at):
        return False
    point = _extension(crl.extensions, x509.IssuingDistributionPoint)
    if point is None:
        return True
    constraints = _extension(certificate.extensions, x509.BasicConstraints)
    is_ca = constraints is not None and constraints.ca
    if point.indirect_crl or point.only_some_reasons or point.only_contains_attribute_certs:
        return False
    if (point.only_contains_user_certs and is_ca) or (point.only_contains_ca_certs and not is_ca):
        return False
    # RFC 5280 6.3.3 (b)(2)(i): one name in common; one that is relative to an issuer's is not compared.
    if point.relative_name is not None:
        return False
    return point.full_name is None or not _points(certificate).isdisjoint(point.full_name)


def _bars(extension: x509.Extension[x509.ExtensionType]) -> bool:
    """A delta says less than all, and what is critical and not understood may say anything (RFC 5280 5.2)."""
    delta = extension.oid == x509.DeltaCRLIndicator.oid
    return delta or (extension.critical and isinstance(extension.value, x509.UnrecognizedExtension))


def _points(certificate: x509.Certificate) -> set[x509.GeneralName]:
    found = _extension(certificate.extensions, x509.CRLDistributionPoints)
    return {name for point in found or () for name in point.full_name or ()}


def _signed_by(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]  # - any other key is a TypeError
    except (TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False


def _extension(extensions: x509.Extensions, type_: type[T]) -> T | None:
    try:
        return extensions.get_extension_for_class(type_).value
    except x509.ExtensionNotFound:
        return None
