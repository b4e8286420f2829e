"""Signed requests (RFC 6960 4.1.2): who signed one, and whether that one may ask."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from chancery.asn1 import ocsp
from chancery.asn1.signature import algorithm_from_identifier
from chancery.errors import ErrorType, PKIError


@dataclasses.dataclass(frozen=True, slots=True)
class RequestSigners:
    """
    Who may sign requests: those with a certificate of one of `authorities`, and the `certificates` themselves.

    A certificate is named by the SHA-256 of its DER.
    """

    authorities: tuple[x509.Certificate, ...] = ()
    certificates: frozenset[bytes] = frozenset()

    def signer(self, signature: ocsp.RequestSignature | None, at: datetime.datetime) -> x509.Certificate:
        """
        Return the certificate that a request is signed under: the first of those that came with it.

        Raises PKIError: BAD_POP without a signature (sigRequired), NOT_AUTHORIZED for a wrong one, and for one
        under a certificate that is not valid now or not among these; BAD_DATA_FORMAT for what is no certificate.
        Whether it was revoked is not asked here.
        """
        if signature is None:
            raise PKIError(ErrorType.BAD_POP, "requests are to be signed here")
        if not signature.certificates:
            raise _unauthorized("a signed request without its certificate")
        try:
            found = x509.load_der_x509_certificate(signature.certificates[0])
            _verify(signature, found)
            trusted = hashlib.sha256(found.public_bytes(Encoding.DER)).digest() in self.certificates
            if not trusted and not any(_issued(found, one, at) for one in self.authorities):
                raise _unauthorized("a request signed by somebody who is not known here")
        except ValueError:
            raise PKIError(ErrorType.BAD_DATA_FORMAT, "a certificate that cannot be read") from None
        if not _valid(found, at):
            raise _unauthorized("a request signed under a certificate that is not valid now")
        return found


def _unauthorized(detail: str) -> PKIError:
    return PKIError(ErrorType.NOT_AUTHORIZED, detail)


def _valid(certificate: x509.Certificate, at: datetime.datetime) -> bool:
    return certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc


def _verify(signature: ocsp.RequestSignature, certificate: x509.Certificate) -> None:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        usage = None
    if usage is not None and not (usage.digital_signature or usage.content_commitment):
        raise _unauthorized("a request signed by a key that is for something else")
    try:
        key = certificate.public_key()
        algorithm = algorithm_from_identifier(signature.algorithm)
        algorithm.verify(key, signature.signature, signature.tbs)  # type: ignore[arg-type]  # other kinds: no fit
    except (InvalidSignature, PKIError):
        raise _unauthorized("a request whose signature is wrong") from None


def _issued(certificate: x509.Certificate, by: x509.Certificate, at: datetime.datetime) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return _valid(by, at)
