"""Enrolling and removing operators: the people and programs whose certificates open the management interface."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import unicodedata

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from chancery.asn1 import der
from chancery.errors import ErrorType, PKIError
from chancery.ports import (
    CertificateQuery,
    EventKind,
    Operator,
    Role,
    StatusState,
    StoredCertificate,
)
from chancery.ra.enrolment import RegistrationAuthority
from chancery.ra.requestor import Operation, authorise

# Neither `.` nor `..`: as the last step of a path they are taken away before they are sent (RFC 3986 5.2.4).
_NAME = re.compile(r"(?!\.\.?$)[^/]{1,200}")
MAX_PEM = 128 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class OperatorWish:
    """
    Somebody to enrol. The certificate is given as `certificate` (PEM) or as `serial` and `issuer`.

    It must be one that this CA issued and stored, because only then can a revocation stop it.
    """

    name: str
    roles: frozenset[Role]
    profiles: frozenset[str] | None = None
    certificate: bytes | None = None
    serial: bytes | None = None
    issuer: str | None = None


async def add_operator(ra: RegistrationAuthority, actor: Operator, wish: OperatorWish) -> Operator:
    """
    Enrol an operator and return it.

    Raises PKIError: NOT_AUTHORIZED; BAD_REQUEST for roles, names or profiles that cannot be, or when name or
    certificate is taken; BAD_CERT_ID for a certificate not issued here; CERT_REVOKED; SYSTEM_UNAVAIL.
    """
    authorise(actor, Operation.ADD_OPERATOR)
    _check(ra, wish)
    if like := [one.name for one in await ra.directory.operators() if _looks(one.name) == _looks(wish.name)]:
        raise PKIError(ErrorType.BAD_REQUEST, f"{like[0]!r} is an operator, and the name reads the same")
    stored = await _certificate(ra, wish)
    now = ra.clock.now()
    if stored.status.state is not StatusState.GOOD:
        raise PKIError(ErrorType.CERT_REVOKED, "the certificate is revoked")
    if stored.not_after < now:
        raise PKIError(ErrorType.BAD_REQUEST, "the certificate has expired")
    operator = Operator(hashlib.sha256(stored.der).digest(), wish.name, wish.roles, wish.profiles)
    event = ra.event(
        EventKind.OPERATOR_ENROLLED,
        actor.name,
        f"operator:{operator.name}",
        {
            "roles": sorted(role.value for role in operator.roles),
            "profiles": None if operator.profiles is None else sorted(operator.profiles),
            "certificate_sha256": operator.fingerprint.hex(),
        },
    )
    await ra.directory.add_operator(operator, now, [event])
    return operator


def _looks(name: str) -> str:
    """Return what another case, composition or width of letters leaves of a name (UAX #15)."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


async def remove_operator(ra: RegistrationAuthority, actor: Operator, name: str) -> None:
    """
    Remove an operator.

    Raises PKIError: NOT_AUTHORIZED, BAD_CERT_ID when there is none, BAD_REQUEST for the last administrator.
    """
    authorise(actor, Operation.REMOVE_OPERATOR)
    event = ra.event(EventKind.OPERATOR_REMOVED, actor.name, f"operator:{name}", {})
    await ra.directory.remove_operator(name, event.at, [event])


def _check(ra: RegistrationAuthority, wish: OperatorWish) -> None:
    written = wish.name.isprintable() and unicodedata.is_normalized("NFC", wish.name)
    if not _NAME.fullmatch(wish.name) or not written or wish.name != wish.name.strip():
        raise PKIError(
            ErrorType.BAD_REQUEST, "an operator's name is 1 to 200 printable characters (NFC) other than /"
        )
    if not wish.roles:
        raise PKIError(ErrorType.BAD_REQUEST, "an operator has at least one role")
    if Role.AUDITOR in wish.roles and len(wish.roles) > 1:
        raise PKIError(ErrorType.BAD_REQUEST, "an auditor is nothing else")
    if unknown := sorted((wish.profiles or frozenset()) - set(ra.profiles)):
        raise PKIError(ErrorType.BAD_REQUEST, f"no profile named {', '.join(unknown)}")
    if (wish.certificate is None) == (wish.serial is None):
        raise PKIError(ErrorType.BAD_REQUEST, "give either the certificate or its serial")


async def _certificate(ra: RegistrationAuthority, wish: OperatorWish) -> StoredCertificate:
    serial, given = wish.serial, None
    if wish.certificate is not None:
        given = _parse(wish.certificate)
        serial = der.integer_octets(given.serial_number)
    found = await ra.directory.search(CertificateQuery(serial=serial, issuer=wish.issuer, limit=10))
    if given is not None:
        presented = given.fingerprint(hashes.SHA256())
        found = [one for one in found if hashlib.sha256(one.der).digest() == presented]
    if not found:
        raise PKIError(ErrorType.BAD_CERT_ID, "no such certificate was issued here")
    if len(found) > 1:
        raise PKIError(ErrorType.BAD_REQUEST, "several issuers used this serial number: name the issuer")
    return found[0]


def _parse(data: bytes) -> x509.Certificate:
    if len(data) > MAX_PEM:
        raise der.malformed("the certificate is too long")
    try:
        return x509.load_pem_x509_certificate(data)
    except ValueError:
        raise der.malformed("not one certificate in PEM") from None
