"""
Paths of CA certificates (RFC 5280 6.1), as far as a CA has to know its own: who signed whom, how long, how deep.

Nothing is looked up: the certificates are given, the last one is the trust anchor.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from chancery.asn1 import der
from chancery.asn1.signature import PublicKey, algorithm_from_identifier
from chancery.asn1.x509 import split_signed
from chancery.errors import ErrorType, PKIError
from chancery.pkix.constraints import NameConstraints, check_names, name_constraints
from chancery.pkix.granting import IssuerLimits
from chancery.pkix.key import spki_der
from chancery.pkix.name import attributes_of, name_text, names_of
from chancery.pkix.usage import UNREADABLE

MAX_PATH = 10


def _refuse(detail: str) -> PKIError:
    return PKIError(ErrorType.BAD_REQUEST, detail)


def read_certificate(data: bytes) -> x509.Certificate:
    """Return a certificate (DER) that passes the gate; BAD_DATA_FORMAT for anything else."""
    der.check(data)
    try:
        certificate = x509.load_der_x509_certificate(data)
        certificate.public_key()
        list(certificate.extensions)
        # pyca reads a name when it is asked for.
        for name in (certificate.subject, certificate.issuer):
            name_text(name)
    except (*UNREADABLE, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise der.malformed(f"a certificate that cannot be read: {error}") from None
    return certificate


def is_self_signed(certificate: x509.Certificate) -> bool:
    """Whether it names itself as its issuer; `check_signed` tells whether its key signed it, too."""
    return certificate.issuer == certificate.subject


def check_signed(data: bytes, by: x509.Certificate, what: str) -> None:
    """Refuse (BAD_REQUEST) a Certificate or CertificateList (DER) that this CA's key did not sign."""
    key = by.public_key()
    if not isinstance(key, PublicKey):
        raise PKIError(ErrorType.BAD_ALG, f"{name_text(by.subject)} has a type of key that is not supported")
    try:
        tbs, identifier, signature = split_signed(data)
        algorithm_from_identifier(identifier).verify(key, signature, tbs)
    except (InvalidSignature, ValueError):
        raise _refuse(f"{what} is not signed by {name_text(by.subject)}") from None


def same_key(one: x509.Certificate, other: x509.Certificate) -> bool:
    """Whether both are for the same name and the same key: a CA certificate made anew, or a cross-certificate."""
    return one.subject.public_bytes() == other.subject.public_bytes() and spki_der(one.public_key()) == spki_der(
        other.public_key()
    )


def check_ca(certificate: x509.Certificate, at: datetime.datetime, what: str) -> None:
    """Refuse (BAD_REQUEST) what is not a CA's that may sign certificates and CRLs, or is not valid now."""
    if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
        raise _refuse(
            f"{what} is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M:%S} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC, not now"
        )
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        raise _refuse(f"{what} is not a CA's: {error}") from None
    if not basic.ca:
        raise _refuse(f"{what} is not a CA's: basicConstraints says CA:FALSE (RFC 5280 4.2.1.9)")
    if not (usage.key_cert_sign and usage.crl_sign):
        raise _refuse(f"{what} may not sign certificates and CRLs (RFC 5280 4.2.1.3)")


def order(certificate: x509.Certificate, others: Iterable[x509.Certificate]) -> list[x509.Certificate]:
    """
    Return the path from this certificate to a self-signed one, made of `others` in whatever order they come.

    BAD_REQUEST when a step is missing. Signatures decide between certificates of one name.
    """
    # Of a CA that is cross-certified, the path to itself.
    path, rest = [certificate], sorted(others, key=lambda one: not is_self_signed(one))
    while not is_self_signed(path[-1]):
        above = next((one for one in rest if one.subject == path[-1].issuer and _signed(path[-1], one)), None)
        if above is None or len(path) >= MAX_PATH:
            raise _refuse(
                f"the chain ends at {name_text(path[-1].subject)}: no certificate of "
                f"{name_text(path[-1].issuer)} that signed it was given"
            )
        rest.remove(above)
        path.append(above)
    return path


def _signed(certificate: x509.Certificate, by: x509.Certificate) -> bool:
    try:
        check_signed(certificate.public_bytes(Encoding.DER), by, "")
    except PKIError:
        return False
    return True


def check_path(path: Sequence[x509.Certificate], at: datetime.datetime) -> None:
    """
    Check a path of CA certificates, the anchor last: signatures, names, validity, lengths, name constraints.

    Raises PKIError: BAD_REQUEST or BAD_CERT_TEMPLATE with the certificate and the clause that it breaks.
    """
    for number, certificate in enumerate(path):
        what = f"the certificate of {name_text(certificate.subject)}"
        above = path[min(number + 1, len(path) - 1)]
        if certificate.issuer != above.subject:
            raise _refuse(f"{what} names another issuer than {name_text(above.subject)}")
        check_signed(certificate.public_bytes(Encoding.DER), above, what)
        check_ca(certificate, at, what)
        # RFC 5280 6.1.4 (l): a self-issued certificate is not counted.
        below = sum(not is_self_signed(one) for one in path[:number])
        if (length := _path_length(certificate)) is not None and length < below:
            raise _refuse(f"{what} allows {length} CA certificates below it (RFC 5280 4.2.1.9); there are {below}")
        constraints = [found for one in path[number + 1 :] if (found := name_constraints(one)) is not None]
        if not is_self_signed(certificate) or number == 0:
            check_names(constraints, attributes_of(certificate.subject), _alternative_names(certificate), what)


def _alternative_names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        return names_of(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return ()


def _path_length(certificate: x509.Certificate) -> int | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
    except x509.ExtensionNotFound:
        return None


def limits(path: Sequence[x509.Certificate]) -> IssuerLimits:
    """
    Return what an issuer may grant: its own certificate first, then those above it, as far as they are known.

    Each CA certificate above leaves one less of its path length, and its name constraints hold, too.
    """
    lengths = [length - n for n, one in enumerate(path) if (length := _path_length(one)) is not None]
    found: list[NameConstraints] = [one for c in path if (one := name_constraints(c)) is not None]
    return IssuerLimits(
        path[0].not_valid_after_utc,
        max(0, min(lengths)) if lengths else None,
        constraints=tuple(found),
        not_before=path[0].not_valid_before_utc,
    )
