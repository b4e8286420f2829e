"""
Whose word counts for a key that cannot sign (RFC 9883): the subject's, by another certified key of its own.

The request's signature under that key was verified with the request (`pkix.key.Proven`); here the certificate is.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable

from cryptography import x509

from chancery.asn1 import der
from chancery.asn1.cms import issuer_and_serial
from chancery.asn1.x509 import read_name, subject_fields
from chancery.ca.issuer import Issuer
from chancery.errors import ErrorType, PKIError
from chancery.pkix.granting import Requested
from chancery.pkix.name import canonical_names, names_of
from chancery.ports import IssuanceStore


def check_statement(
    store: IssuanceStore, issuers: Iterable[Issuer], asked: Requested, at: datetime.datetime
) -> None:
    """
    Refuse a statement of possession whose signer is not the subject itself, by a certificate of ours that is good.

    Nothing is asked of the store where there is no statement. Raises PKIError(BAD_POP) saying what is wrong, and
    SYSTEM_UNAVAIL when the store is away.
    """
    if asked.signer is None:
        return
    name, serial = issuer_and_serial(asked.signer)
    ids = [issuer.record.issuer_id for issuer in issuers if issuer.subject == name]
    # The same octets as were issued here: what they say was linted, and their signature is the issuer's.
    if not ids or not store.holds_good(ids, der.Reader(serial).take(der.INTEGER), asked.signer):
        raise _refuse("is not one that was issued here and is good")
    certificate = x509.load_der_x509_certificate(asked.signer)
    if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
        raise _refuse("is not valid now")
    if not _signs(certificate):
        raise _refuse("is not for signatures (keyUsage digitalSignature)")
    if read_name(subject_fields(asked.signer)[0]) != asked.subject:
        raise _refuse("has another subject than the request (RFC 9883 4)")
    if beyond := sorted({*asked.csr_names, *asked.names} - set(_names(certificate))):
        raise _refuse(f"does not have the name {beyond[0]} that the request asks for (RFC 9883 4)")


def _refuse(what: str) -> PKIError:
    return PKIError(ErrorType.BAD_POP, f"the certificate that states possession of the key {what}")


def _signs(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    except x509.ExtensionNotFound:
        return True


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return canonical_names(names_of(names))
