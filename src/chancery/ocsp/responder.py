"""
What an OCSP answer says (RFC 6960, R18-R21): functions of their arguments, no input or output.

`subjects` finds whom a request is about, `response_data` turns statuses into what gets signed.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import hashlib
from collections.abc import Iterable, Mapping

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from chancery.asn1 import ocsp, oids
from chancery.asn1.signature import Signer
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.ocsp.signed import RequestSigners
from chancery.ports import CertificateStatus, IssuerRecord, StatusState

Subject = tuple[int, bytes]
"""(issuer_id, serial): which certificate, whatever CertID named it."""

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_HOLD = 6  # certificateHold (RFC 5280 5.3.1)
# R18
MIN_VALIDITY, MAX_VALIDITY = datetime.timedelta(hours=8), datetime.timedelta(days=10)


class NeverIssued(enum.Enum):
    """What is said of a serial that nobody was given: never `good` (RFC 6960 2.2, R19)."""

    UNKNOWN = "unknown"
    EXTENDED_REVOKED = "extended-revoked"


class Nonces(enum.Enum):
    """
    What is done with a request's nonce (RFC 9654): it comes back, it is passed over, or there must be one.

    A nonce that is passed over is not answered (RFC 9654 2.1 leaves that to the server): the answer may be kept.
    """

    ACCEPT = "accept"
    IGNORE = "ignore"
    REQUIRE = "require"


class Stale(enum.Enum):
    """What is said of a foreign CA's certificates while its CRL is out of date."""

    TRY_LATER = "try-later"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True, slots=True)
class ResponderSettings:
    """
    How answers about the certificates of one issuer are made.

    `validity` is from thisUpdate to nextUpdate, 8 hours to 10 days (R18). `by_name` names the responder by its
    subject rather than by its key's hash. `archive` is how long after their end certificates are answered for:
    then answers say so (archive cutoff, RFC 6960 4.4.4). `crl_url` stands in the answers about revoked
    certificates (4.4.2). With `signers`, requests must be signed by one of them. `stale` is about foreign CAs.
    """

    validity: datetime.timedelta = datetime.timedelta(hours=24)
    never_issued: NeverIssued = NeverIssued.UNKNOWN
    by_name: bool = False
    nonces: Nonces = Nonces.ACCEPT
    archive: datetime.timedelta | None = None
    crl_url: str | None = None
    signers: RequestSigners | None = None
    stale: Stale = Stale.TRY_LATER

    def check(self) -> None:
        """Raise OperatorError when the validity is not what R18 allows."""
        if not MIN_VALIDITY <= self.validity <= MAX_VALIDITY:
            raise OperatorError(
                f"OCSP answers valid for {self.validity} are not allowed",
                "choose a validity between 8 hours and 10 days",
            )
        if self.validity.microseconds:
            raise OperatorError("OCSP times are in whole seconds", "choose a validity in whole seconds")


@dataclasses.dataclass(frozen=True, slots=True)
class Policies:
    """The settings of each issuer by name, and of all others. `{issuer}` in a URL stands for the issuer's name."""

    default: ResponderSettings = dataclasses.field(default_factory=ResponderSettings)
    issuers: Mapping[str, ResponderSettings] = dataclasses.field(default_factory=dict)

    def of(self, issuer: str) -> ResponderSettings:
        """Return an issuer's settings."""
        found = self.issuers.get(issuer, self.default)
        if found.crl_url is not None and "{issuer}" in found.crl_url:
            return dataclasses.replace(found, crl_url=found.crl_url.replace("{issuer}", issuer))
        return found

    def check(self) -> None:
        """Raise OperatorError when one of the settings is not allowed."""
        for one in (self.default, *self.issuers.values()):
            one.check()


class IssuerTable:
    """Finds issuers by the hashes of a CertID, in every digest that `asn1.ocsp.HASHES` knows."""

    def __init__(self, records: Iterable[IssuerRecord]) -> None:
        self.certificates: dict[int, x509.Certificate] = {}
        self.names: dict[int, str] = {}
        self._sha1: dict[int, tuple[str, bytes, bytes]] = {}
        self._ids: dict[tuple[str, bytes, bytes], tuple[int, ...]] = {}
        for record in records:
            certificate = x509.load_der_x509_certificate(record.certificate)
            self.certificates[record.issuer_id] = certificate
            self.names[record.issuer_id] = record.name
            name, key = certificate.subject.public_bytes(), key_bits(certificate)
            for hash_oid, algorithm in ocsp.HASHES.items():
                found = (hash_oid, hashlib.new(algorithm, name).digest(), hashlib.new(algorithm, key).digest())
                # A CertID cannot tell issuers apart that share name and key (a CA certificate made anew).
                self._ids[found] = (*self._ids.get(found, ()), record.issuer_id)
                if hash_oid == oids.SHA1:
                    self._sha1[record.issuer_id] = found

    def find(self, cert_id: ocsp.CertID) -> tuple[int, ...]:
        """Return the issuer_ids; PKIError(NOT_AUTHORIZED) when no issuer here has these hashes."""
        key = (cert_id.hash_oid, cert_id.issuer_name_hash, cert_id.issuer_key_hash)
        if (issuer_ids := self._ids.get(key)) is None:
            raise PKIError(ErrorType.NOT_AUTHORIZED, "an issuer that is not answered for here")
        return issuer_ids

    def cert_id(self, issuer_id: int, serial: bytes) -> ocsp.CertID:
        """Return the CertID that most clients name a certificate by: with SHA-1 hashes (RFC 5019 2.1.1)."""
        _, name, key = self._sha1[issuer_id]
        return ocsp.cert_id(oids.SHA1, name, key, serial)


def key_bits(certificate: x509.Certificate) -> bytes:
    """Return the bits of the certificate's subjectPublicKey."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return ocsp.key_bits(spki)


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """
    A request whose issuer is known: one issuer for all its CertIDs, under each of its `issuer_ids`.

    `signer` is the certificate that the request was found to be signed under, where it had to be.
    """

    request: ocsp.OCSPRequest
    issuer_ids: tuple[int, ...]
    settings: ResponderSettings
    signer: x509.Certificate | None = None

    def subjects(self) -> list[Subject]:
        """Every (issuer_id, serial) whose status decides the answer."""
        return [(issuer_id, one.serial) for one in self.request.cert_ids for issuer_id in self.issuer_ids]


def ask(request: ocsp.OCSPRequest, table: IssuerTable, policies: Policies, at: datetime.datetime) -> Asked:
    """
    Find whom the request is about, and whether its issuer's settings let it be answered.

    Raises PKIError(NOT_AUTHORIZED) for an issuer that is not known here, and for several issuers in one request:
    one response has one signature, and a delegate speaks for the one CA that made it (RFC 6960 4.2.2.2). It, too,
    where a nonce is required and missing; and what `RequestSigners.signer` raises.
    """
    found = {table.find(one) for one in request.cert_ids}
    if len(found) > 1:
        raise PKIError(ErrorType.NOT_AUTHORIZED, "certificates of several issuers in one request")
    issuer_ids = found.pop()
    settings = policies.of(table.names[issuer_ids[0]])
    signer = None if settings.signers is None else settings.signers.signer(request.signature, at)
    if settings.nonces is Nonces.REQUIRE and request.nonce is None:
        raise PKIError(ErrorType.NOT_AUTHORIZED, "requests are to have a nonce here")
    if settings.nonces is Nonces.IGNORE and request.nonce is not None:
        request = dataclasses.replace(request, nonce=None)
    return Asked(request, issuer_ids, settings, signer)


@dataclasses.dataclass(frozen=True, slots=True)
class Delegate:
    """A delegate certificate with its key, checked: what signs for one issuer."""

    certificate: bytes
    signer: Signer
    responder: ocsp.ResponderID
    template: ocsp.ResponseTemplate
    not_before: datetime.datetime
    not_after: datetime.datetime

    def fits(self, at: datetime.datetime) -> bool:
        return self.not_before <= at < self.not_after


def delegate(certificate: bytes, issuer: x509.Certificate, signer: Signer, *, by_name: bool = False) -> Delegate:
    """
    Check a delegate certificate (DER) and bind it to its key. Whether it is valid now is `Delegate.fits`.

    R20: from the same CA, id-kp-OCSPSigning, id-pkix-ocsp-nocheck. Raises OperatorError saying what is missing.
    """
    found = x509.load_der_x509_certificate(certificate)
    if problem := _delegate_problem(found, issuer, signer):
        raise OperatorError(
            f"the certificate {found.subject.rfc4514_string()} cannot sign OCSP answers: {problem}",
            "issue one for the responder's key from the profile ocsp-signing",
        )
    name, key = found.subject.public_bytes(), key_bits(found)
    # RFC 6960 4.2.1: KeyHash is SHA-1, as a name for the key and not for its security.
    key_hash = hashlib.sha1(key, usedforsecurity=False).digest()
    return Delegate(
        certificate,
        signer,
        ocsp.ResponderID.by_name(name) if by_name else ocsp.ResponderID.by_key(key_hash),
        ocsp.ResponseTemplate(signer.algorithm, [certificate]),
        found.not_valid_before_utc,
        found.not_valid_after_utc,
    )


def _delegate_problem(found: x509.Certificate, issuer: x509.Certificate, signer: Signer) -> str | None:
    if found.public_key() != signer.public_key:
        return "it is for another key"
    try:
        found.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return "it is not signed by the issuer whose certificates are asked about"
    extensions = found.extensions
    try:
        usages = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        extensions.get_extension_for_class(x509.OCSPNoCheck)
    except x509.ExtensionNotFound as error:
        return f"it has no extension {error.oid.dotted_string}"
    if ExtendedKeyUsageOID.OCSP_SIGNING not in usages:
        return "its extended key usage is not OCSPSigning"
    return None


@dataclasses.dataclass(frozen=True, slots=True)
class Unsigned:
    """
    A ResponseData that waits for its signature. `lasting` says that it may be kept until a NOTIFY drops it.

    What is said of a never-issued serial does not last: the serial may be given to a certificate, and then the
    answer is another one at once (R19).
    """

    response_data: bytes
    this_update: datetime.datetime
    next_update: datetime.datetime
    lasting: bool


def respond(
    asked: Asked,
    statuses: Mapping[Subject, CertificateStatus],
    *,
    known_at: datetime.datetime,
    at: datetime.datetime,
    by: Delegate,
) -> Unsigned:
    """
    Return what to sign: one SingleResponse per CertID, in the order asked.

    `statuses` lacks the serials that were never used; they were read at `known_at`, which becomes thisUpdate,
    and `at` becomes producedAt. nextUpdate is no later than the end of the delegate's certificate.

    What a foreign CA's CRL says is known from its thisUpdate to its nextUpdate (RFC 6960 2.4). After that only
    what is revoked for good is known to be so still: PKIError(SYSTEM_UNAVAIL) or `unknown`, by `stale`.
    """
    settings, produced_at = asked.settings, at.replace(microsecond=0)
    read_at = known_at.replace(microsecond=0)
    times: list[tuple[datetime.datetime, datetime.datetime]] = []
    responses, lasting, extended = [], True, False
    for one in asked.request.cert_ids:
        status = next(
            (found for issuer_id in asked.issuer_ids if (found := statuses.get((issuer_id, one.serial)))), None
        )
        this_update, next_update = read_at, min(read_at + settings.validity, by.not_after)
        window = None if status is None else status.window
        if window is not None and _counts(window, at):
            this_update, next_update = min(this_update, window[0]), min(next_update, window[1])
        elif window is not None and status is not None and not _for_good(status):
            if settings.stale is Stale.TRY_LATER:
                raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the CRL of this CA is out of date")
            status = None
        times.append((this_update, next_update))
        encoded = _known(status)
        if encoded is None:
            lasting = False
            extended = settings.never_issued is NeverIssued.EXTENDED_REVOKED and window is None
            # RFC 6960 2.2: revoked since 1970, on hold.
            encoded = ocsp.CertStatus.revoked(EPOCH, _HOLD) if extended else ocsp.CertStatus.UNKNOWN
        extensions = _extensions(status, settings, produced_at)
        responses.append(ocsp.SingleResponse(one, encoded, this_update, next_update, extensions))
    data = ocsp.encode_response_data(
        by.responder,
        produced_at,
        responses,
        nonce=asked.request.nonce,
        extended_revoke=extended,
    )
    return Unsigned(data, min(this for this, _ in times), min(until for _, until in times), lasting)


def _counts(window: tuple[datetime.datetime, datetime.datetime], at: datetime.datetime) -> bool:
    """Tell whether a CRL still says something of this moment; a second is left for the answer's life."""
    return at < window[1] - datetime.timedelta(seconds=1)


def _for_good(status: CertificateStatus) -> bool:
    """Tell whether this can never change again: revoked, and not on hold."""
    return status.state is StatusState.REVOKED and not status.held


def _known(status: CertificateStatus | None) -> bytes | None:
    """CertStatus of a certificate that was issued; None when none was, or nobody can say (unconfirmed)."""
    if status is None or status.state is StatusState.UNCONFIRMED:
        return None
    if status.state is StatusState.REVOKED and status.revoked_at is not None:
        return ocsp.CertStatus.revoked(status.revoked_at, status.reason)
    return ocsp.CertStatus.GOOD if status.state is StatusState.GOOD else None


def _extensions(
    status: CertificateStatus | None, settings: ResponderSettings, produced_at: datetime.datetime
) -> bytes:
    """Return the singleExtensions (DER) of a certificate that was issued; those of others are empty."""
    if status is None or status.state is StatusState.UNCONFIRMED:
        return b""
    revoked = status.state is StatusState.REVOKED
    return ocsp.single_extensions(
        archive_cutoff=None if settings.archive is None else produced_at - settings.archive,
        crl_url=settings.crl_url if revoked else None,
        invalidity_date=status.invalidity_date if revoked else None,
    )
