"""
The registration core: every enrolment protocol ends in these few coroutines.

What arrives is decoded at the gate, its proof of possession checked, the requestor's right looked up, and
the wish stored with its journal event; the issuing worker does the rest and trusts none of it.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime
import hashlib
import re
from collections.abc import Mapping

from chancery.asn1 import der
from chancery.errors import ErrorType, PKIError
from chancery.pkix.key import check_key, proof_of_possession
from chancery.pkix.name import general_names
from chancery.pkix.profile import Profile
from chancery.pkix.wish import Wish, wish_text
from chancery.ports import (
    CertificateQuery,
    Clock,
    CRLScope,
    Directory,
    Entropy,
    Event,
    EventDetail,
    EventKind,
    IssuerRecord,
    NewRequest,
    NewRevocation,
    Operator,
    ProfileSwitch,
    RequestOutcome,
    RequestQueue,
    RequestState,
    RevocationOutcome,
    RevocationReason,
    StatusState,
    StoredCertificate,
    Submission,
)
from chancery.ports.mass import MassRevocations
from chancery.ports.reports import ReportBook
from chancery.ports.timestamps import TimestampClients
from chancery.ra.requestor import Operation, authorise, authorise_profile, may_request, own_name

MAX_NAMES = 100
MAX_ISSUER = 200
# RFC 5280 4.1.2.5: its times begin in 1950. A database knows earlier ones that nobody here could read again.
_FIRST_MOMENT = datetime.datetime(1950, 1, 1, tzinfo=datetime.UTC)
_TRANSACTION_ID = re.compile(r"[A-Za-z0-9._~:+/=@-]{1,200}")
# RFC 7468 7: CERTIFICATE REQUEST, and the older NEW CERTIFICATE REQUEST.
_CSR_PEM = re.compile(
    rb"\s*-----BEGIN (NEW )?CERTIFICATE REQUEST-----"
    rb"\s([A-Za-z0-9+/=\s]+)"
    rb"-----END (?(1)NEW )CERTIFICATE REQUEST-----\s*"
)
NO_REFUSAL = frozenset({ErrorType.SYSTEM_UNAVAIL, ErrorType.SYSTEM_FAILURE, ErrorType.TRANSACTION_ID_IN_USE})
"""What is not journalled as a refusal at the gate: the request was not judged, or is there already."""
FINAL = (RequestState.DONE, RequestState.REFUSED)


@dataclasses.dataclass(frozen=True, slots=True)
class RegistrationAuthority:
    """
    What registration takes as given: the queue to the CA, the directory, time, entropy, profiles by name, mass
    revocation, problem reports, the timestamping authority's clients.
    """

    queue: RequestQueue
    directory: Directory
    clock: Clock
    entropy: Entropy
    profiles: Mapping[str, Profile]
    mass: MassRevocations
    reports: ReportBook
    timestamp_clients: TimestampClients

    def event(self, kind: EventKind, actor: str, subject: str, detail: EventDetail) -> Event:
        """Build an event that happens now."""
        return Event(kind, self.clock.now(), actor, subject, detail)


@dataclasses.dataclass(frozen=True, slots=True)
class Application:
    """
    What a requestor asks for: `csr` is PKCS#10 in DER or PEM, `names` as in `ports.EnrolmentRequest`.

    `transaction_id` None: the answer cannot be asked for again by a retry, so one is drawn.
    """

    protocol: str
    profile: str
    csr: bytes
    names: tuple[str, ...] = ()
    issuer: str | None = None
    transaction_id: str | None = None
    wish: Wish | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class RevocationWish:
    """
    A certificate to revoke; `issuer` None when the serial alone names it.

    The reason CERTIFICATE_HOLD suspends it, REMOVE_FROM_CRL reinstates it.
    """

    serial: bytes
    reason: RevocationReason
    issuer: str | None = None
    invalidity_date: datetime.datetime | None = None


def csr_der(data: bytes) -> bytes:
    """
    Return the DER of a CertificationRequest given as DER or as one PEM block (RFC 7468 7).

    Raises PKIError(BAD_DATA_FORMAT) for anything else.
    """
    if data[:1] == bytes((der.SEQUENCE,)):
        return data
    if len(data) > 2 * der.MAX_SIZE:
        raise der.malformed(f"a certification request of more than {der.MAX_SIZE} octets")
    match = _CSR_PEM.fullmatch(data)
    if match is None:
        raise der.malformed("neither DER nor one PEM block of a CERTIFICATE REQUEST")
    try:
        return base64.b64decode(re.sub(rb"\s+", b"", match[2]), validate=True)
    except binascii.Error:
        raise der.malformed("the PEM block is not base64") from None


def serial_octets(text: str) -> bytes:
    """
    Return the content octets of the serial number that `text` gives in hexadecimal.

    Raises PKIError(BAD_CERT_ID) when it is not one of 1 to 20 octets (RFC 5280 4.1.2.2).
    """
    if not re.fullmatch(r"[0-9A-Fa-f]{1,42}", text) or len(octets := der.integer_octets(int(text, 16))) > 20:
        raise PKIError(ErrorType.BAD_CERT_ID, "a serial number is 1 to 20 octets in hexadecimal")
    return octets


def serial_text(serial: bytes) -> str:
    """Upper-case hexadecimal, as OpenSSL prints it."""
    return serial.hex().upper()


async def enrol(
    ra: RegistrationAuthority, operator: Operator, application: Application, wait_seconds: float
) -> RequestOutcome:
    """
    Check a request at the gate, store it, and wait at most `wait_seconds` for its end.

    Raises PKIError: what the gate says of the CSR; NOT_AUTHORIZED; TRANSACTION_ID_IN_USE; SYSTEM_UNAVAIL.
    Refusals at the gate are journalled. The outcome may be final or not; a refusal by the CA is returned.
    """
    try:
        submission = check(ra, operator, application)
        check_active(await ra.directory.profile_switches(), application.profile)
        outcome = await ra.queue.submit(submission.request, submission.events, submission.spki_sha256)
    except PKIError as error:
        if error.type not in NO_REFUSAL:
            await ra.directory.record([refused_at_gate(ra, operator, application.protocol, error)])
        raise
    if outcome.state in FINAL or wait_seconds <= 0:
        return outcome
    return await ra.queue.wait(outcome.request_id, wait_seconds)


def check_active(switches: Mapping[str, ProfileSwitch], profile: str) -> None:
    """PKIError(NOT_AUTHORIZED) for a deactivated one. The worker asks again; here it is told at once, and why."""
    switch = switches.get(profile)
    if switch is not None and not switch.active:
        when = f"{switch.at:%Y-%m-%d %H:%M:%S} UTC"
        raise PKIError(
            ErrorType.NOT_AUTHORIZED, f"the profile {profile} is deactivated since {when}: {switch.reason}"
        )


def refused_at_gate(ra: RegistrationAuthority, operator: Operator, protocol: str, error: PKIError) -> Event:
    """Return the event of a refusal that leaves no request behind."""
    detail = {"error": error.type.value, "detail": error.detail, "protocol": protocol}
    return ra.event(EventKind.REQUEST_REFUSED, operator.name, "request:refused-at-gate", detail)


def _allowed_profile(ra: RegistrationAuthority, operator: Operator, name: str) -> Profile:
    """Return the profile of this name, if this operator may request under it. Raises PKIError."""
    authorise(operator, Operation.SUBMIT)
    authorise_profile(operator, name)
    profile = ra.profiles.get(name)
    if profile is None:
        raise PKIError(ErrorType.BAD_CERT_TEMPLATE, f"no profile named {name!r}")
    if profile.ceremony:
        # R8: a root signs only in a ceremony; what can sign certificates is never asked for over a network.
        raise PKIError(
            ErrorType.NOT_AUTHORIZED, f"{profile.name} is signed in a ceremony on the offline CA, not here (R8)"
        )
    if not may_request(operator, profile):
        raise PKIError(
            ErrorType.NOT_AUTHORIZED,
            f"{operator.name} may not request {profile.name}, a profile of the authority's own services: an "
            "administrator has to enrol an operator for it by name",
        )
    return profile


def check(ra: RegistrationAuthority, operator: Operator, application: Application) -> Submission:
    """
    Return what is to be stored of an application, with the event of its receipt.

    Raises PKIError: NOT_AUTHORIZED, BAD_CERT_TEMPLATE, BAD_REQUEST, and what the gate says of the CSR. That the
    key is not blocked (R5) is left to the queue; the worker asks again.
    """
    profile = _allowed_profile(ra, operator, application.profile)
    if len(application.issuer or "") > MAX_ISSUER:
        raise PKIError(ErrorType.BAD_CERT_TEMPLATE, "no issuer has a name as long as that")
    if len(application.names) > MAX_NAMES:
        raise PKIError(ErrorType.BAD_CERT_TEMPLATE, f"more than {MAX_NAMES} names")
    general_names(application.names)
    transaction_id = application.transaction_id
    if transaction_id is None:
        transaction_id = ra.entropy.draw(16).hex()
    elif not _TRANSACTION_ID.fullmatch(transaction_id):
        raise PKIError(
            ErrorType.BAD_REQUEST, "a transaction id is 1 to 200 letters, digits or characters of ._~:+/=@-"
        )
    csr = csr_der(application.csr)
    # The signature over the request is the proof of possession (RFC 2986 3); this verifies it.
    proven = proof_of_possession(csr)
    check_key(proven.public_key, profile.keys)
    request = NewRequest(
        transaction_id=transaction_id,
        protocol=application.protocol,
        requestor=operator.name,
        profile=application.profile,
        issuer=application.issuer,
        csr=csr,
        names=application.names,
        received_at=ra.clock.now(),
        wish=wish_text(application.wish),
    )
    received: EventDetail = {
        "protocol": request.protocol,
        "profile": request.profile,
        "issuer": request.issuer,
        "names": list(request.names),
        "csr_sha256": hashlib.sha256(csr).hexdigest(),
    }
    if proven.signer is not None:
        received = {**received, "possession_stated_by_sha256": hashlib.sha256(proven.signer).hexdigest()}
    if request.wish is not None:
        received = {**received, "wish": request.wish}
    subject = f"transaction:{transaction_id}"
    event = Event(EventKind.REQUEST_RECEIVED, request.received_at, operator.name, subject, received)
    return Submission(request, (event,), hashlib.sha256(proven.spki).digest())


async def find_request(ra: RegistrationAuthority, operator: Operator, request_id: int) -> RequestOutcome:
    """
    Return where a request stands.

    Raises PKIError(BAD_CERT_ID) when there is none, or none of the operator's own.
    """
    own = own_name(operator, authorise(operator, Operation.SEE_REQUEST))
    outcome = await ra.queue.outcome(request_id) if 0 < request_id < 2**63 else None
    if outcome is None or (own is not None and outcome.requestor != own):
        raise PKIError(ErrorType.BAD_CERT_ID, f"no request {request_id} that {operator.name} may see")
    return outcome


async def find_certificate(
    ra: RegistrationAuthority,
    operator: Operator,
    serial: bytes,
    issuer: str | None,
    operation: Operation = Operation.SHOW,
) -> StoredCertificate:
    """
    Return the one certificate with this serial that the operator may reach.

    Raises PKIError(BAD_CERT_ID) when there is none, BAD_REQUEST when several issuers used the serial.
    """
    own = own_name(operator, authorise(operator, operation))
    found = await ra.directory.search(CertificateQuery(serial=serial, issuer=issuer, requestor=own, limit=2))
    if len(found) > 1:
        raise PKIError(ErrorType.BAD_REQUEST, "several issuers used this serial number: name the issuer")
    if not found:
        where = f" of the issuer {issuer}" if issuer else ""
        whose = "" if own is None else f" that {operator.name} asked for"
        raise PKIError(ErrorType.BAD_CERT_ID, f"no certificate {serial_text(serial)}{where}{whose}")
    return found[0]


async def find_issuer(ra: RegistrationAuthority, name: str) -> IssuerRecord:
    """Return the issuer of this name; PKIError(BAD_CERT_ID) when there is none."""
    for issuer in await ra.directory.issuers():
        if issuer.name == name:
            return issuer
    raise PKIError(ErrorType.BAD_CERT_ID, f"no issuer named {name[:64]!r}")


async def revoke(
    ra: RegistrationAuthority, operator: Operator, wish: RevocationWish, wait_seconds: float
) -> tuple[NewRevocation, RevocationOutcome]:
    """
    Store a wish to revoke and wait at most `wait_seconds` until the worker has settled it.

    Raises PKIError: BAD_CERT_ID for what does not exist or is another's, CERT_REVOKED when it is revoked
    already, BAD_REQUEST for an impossible invalidity date or any other refusal, NOT_AUTHORIZED, SYSTEM_UNAVAIL.
    """
    now = ra.clock.now()
    if wish.invalidity_date is not None and wish.invalidity_date > now:
        # RFC 5280 5.3.2: the date on which it is known or suspected that the key was compromised.
        raise PKIError(ErrorType.BAD_REQUEST, "the invalidity date lies in the future")
    if wish.invalidity_date is not None and wish.invalidity_date < _FIRST_MOMENT:
        raise PKIError(ErrorType.BAD_REQUEST, "the invalidity date lies before 1950")
    issuer, issuer_id = await _revocable(ra, operator, wish)
    revocation = NewRevocation(issuer, wish.serial, wish.reason, wish.invalidity_date, operator.name, now)
    detail = {"reason": wish.reason.name.lower(), "issuer": issuer}
    subject = f"{issuer_id}:{wish.serial.hex()}"
    event = ra.event(EventKind.REVOCATION_REQUESTED, operator.name, subject, detail)
    outcome = await ra.queue.submit_revocation(revocation, [event])
    if outcome.state not in FINAL and wait_seconds > 0:
        outcome = await ra.queue.wait_revocation(outcome.revocation_id, wait_seconds)
    if outcome.state is RequestState.REFUSED:
        raise await _refused_revocation(ra, revocation, outcome)
    return revocation, outcome


async def _revocable(ra: RegistrationAuthority, operator: Operator, wish: RevocationWish) -> tuple[str, int]:
    """Name and id of the issuer of what is to be revoked: a certificate, or an officer's unconfirmed serial."""
    reinstate = wish.reason is RevocationReason.REMOVE_FROM_CRL
    operation = Operation.REINSTATE if reinstate else Operation.REVOKE
    try:
        found = await find_certificate(ra, operator, wish.serial, wish.issuer, operation)
    except PKIError as error:
        reach = own_name(operator, authorise(operator, operation))
        if error.type is not ErrorType.BAD_CERT_ID or reach is not None:
            raise
        # An unconfirmed serial has no stored certificate (docs/issuance.md); the worker knows it.
        if wish.issuer is not None:
            issuer = await find_issuer(ra, wish.issuer)
        else:
            local = [one for one in await ra.directory.issuers() if one.key_label is not None]
            if len(local) != 1:
                raise
            issuer = local[0]
        return issuer.name, issuer.issuer_id
    status = found.status
    if status.state is StatusState.REVOKED and not (status.held and (reinstate or wish.reason.final)):
        when = f"{status.revoked_at:%Y-%m-%d %H:%M:%S} UTC"
        raise PKIError(ErrorType.CERT_REVOKED, f"already {'suspended' if status.held else 'revoked'} at {when}")
    return found.issuer, found.status.issuer_id


async def _refused_revocation(
    ra: RegistrationAuthority, revocation: NewRevocation, outcome: RevocationOutcome
) -> PKIError:
    query = CertificateQuery(serial=revocation.serial, issuer=revocation.issuer, limit=1)
    found = await ra.directory.search(query)
    if not found:
        kind = ErrorType.BAD_CERT_ID
    elif found[0].status.state is StatusState.REVOKED:
        kind = ErrorType.CERT_REVOKED
    else:
        kind = ErrorType.BAD_REQUEST
    return PKIError(kind, outcome.detail or "the revocation was refused")


async def ask_crl(
    ra: RegistrationAuthority, operator: Operator, name: str, *, shard: int | None = None, delta: bool = False
) -> datetime.datetime:
    """
    Ask for fresh CRLs of this issuer, of every shard or of one (0: the complete CRL); return when it was asked.

    Raises PKIError(BAD_CERT_ID): no such issuer or shard.
    """
    authorise(operator, Operation.PUBLISH_CRL)
    issuer = await find_issuer(ra, name)
    detail: EventDetail = {} if shard is None else {"scope": str(CRLScope(shard, delta=delta))}
    if delta and shard is None:
        detail = {"scope": "every delta"}
    event = ra.event(EventKind.CRL_REQUESTED, operator.name, f"issuer:{issuer.name}", detail)
    await ra.queue.ask_crl(issuer.name, operator.name, event.at, [event], shard=shard, delta=delta)
    return event.at
