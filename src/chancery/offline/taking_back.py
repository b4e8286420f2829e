"""
The primary's side of continuity: making a kit, and judging what comes back.

Nothing of a hand-back is used before all of it was verified: the signature by the key that the kit pins, every
line of the journal by replay through the same state as the standby's, and each certificate, revocation and CRL
against the kit.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from chancery.asn1 import der
from chancery.asn1.signature import PublicKey, Signer, algorithm_from_identifier
from chancery.asn1.x509 import split_signed
from chancery.ca.crl import CRLSettings
from chancery.ca.issuance import serial_prefix
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.offline import records
from chancery.offline.bundle import sha256, spki
from chancery.offline.journal import START, read_line
from chancery.offline.kit import (
    FIRST_INSTANCE,
    ISSUE,
    KIT_FORMAT,
    LAST_INSTANCE,
    MAX_CRL,
    REVOKE,
    Kit,
    KitOperator,
    KitProfile,
    SignedHandBack,
    SignedKit,
    check_operator,
    decode_hand_back,
    encode_kit,
    kit_status,
    profiles_of,
    statuses_of,
)
from chancery.offline.standby import PROTOCOL, actor, received_event
from chancery.offline.state import State
from chancery.pkix.granting import grant, requested
from chancery.pkix.key import key_of, spki_der, tbs_key_sha256
from chancery.pkix.lint import Finding, blocking, lint, lint_crl
from chancery.pkix.name import name_text, names_of
from chancery.pkix.path import limits
from chancery.pkix.profile import Profile
from chancery.pkix.usage import kept_until
from chancery.ports import (
    STANDBY_GAP,
    BlockedKey,
    CertificateRecord,
    CertificateStatus,
    CRLRecord,
    EnrolmentRequest,
    Event,
    EventKind,
    Intent,
    NewRequest,
    Prepared,
    Refusal,
    RequestState,
    RevocationRequest,
    Settled,
    StatusState,
    TakenBack,
)

_KINDS = frozenset(
    {
        EventKind.REQUEST_RECEIVED,
        EventKind.REQUEST_REFUSED,
        EventKind.INTENT_RECORDED,
        EventKind.INTENT_UNCONFIRMED,
        EventKind.CERTIFICATE_ISSUED,
        EventKind.REVOCATION_REQUESTED,
        EventKind.REVOCATION_REFUSED,
        EventKind.CERTIFICATE_REVOKED,
        EventKind.KEY_BLOCKED,
        EventKind.CRL_INTENT,
        EventKind.CRL_PUBLISHED,
    }
)
_STANDBY_LINES = (
    records.Opened
    | records.KitAdopted
    | records.RequestsReceived
    | records.RequestsTaken
    | records.IntentsRecorded
    | records.CertificatesRecorded
    | records.IntentsUnconfirmed
    | records.RevocationReceived
    | records.RevocationSettled
    | records.CRLNumbered
    | records.CRLPublished
)


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """
    What a kit is to say beside what the database tells; `standby_key` is SubjectPublicKeyInfo (DER).

    `service_keys` are SHA-256 (hex) as in the worker's configuration, `profiles` those of the worker.
    """

    instance: int
    not_before: datetime.datetime
    not_after: datetime.datetime
    standby_key: PublicKey
    service_keys: tuple[str, ...]
    profiles: Mapping[str, Profile]
    urls: tuple[str | None, str | None, str | None]


def make_kit(signer: Signer, prepared: Prepared, terms: Terms, at: datetime.datetime) -> SignedKit:
    """
    Make and sign a kit; PKIError(BAD_REQUEST) for an instance octet that no standby has.

    Ceremony profiles and those that are switched off stay out of it, and so do auditors.
    """
    if not FIRST_INSTANCE <= terms.instance <= LAST_INSTANCE:
        detail = f"the instance octet of a standby is {FIRST_INSTANCE} to {LAST_INSTANCE}"
        raise PKIError(ErrorType.BAD_REQUEST, detail)
    crl = prepared.crl
    small = crl is not None and crl.tail is None and len(crl.der) <= MAX_CRL
    kit = Kit(
        blocked=tuple(one.hex() for one in prepared.blocked),
        chain=prepared.chain,
        created_at=_second(at),
        crl=crl.der if crl is not None and small else None,
        # Of a key that is here, too, CRLs are made until the very moment of the outage.
        crl_number=prepared.crl_number + (STANDBY_GAP if prepared.issuer.key_label else 0),
        epoch=prepared.epoch,
        format=KIT_FORMAT,
        installation_key=spki(signer.public_key),
        instance=terms.instance,
        issuer=prepared.issuer.name,
        issuer_id=prepared.issuer.issuer_id,
        not_after=_second(terms.not_after),
        not_before=_second(terms.not_before),
        operators=tuple(_operators(prepared)),
        previous=None if prepared.previous is None else prepared.previous.hex(),
        profiles=tuple(
            KitProfile(name=name, sha256=one.sha256.hex(), source=one.source)
            for name, one in sorted(terms.profiles.items())
            if not one.ceremony and not one.extensions.ca and name not in prepared.inactive_profiles
        ),
        service_keys=terms.service_keys,
        standby_key=spki(terms.standby_key),
        statuses=tuple(map(kit_status, prepared.statuses)),
        urls=terms.urls,
    )
    data = encode_kit(signer, kit)
    return SignedKit(kit, data, sha256(data), terms.standby_key)


def _operators(prepared: Prepared) -> Iterator[KitOperator]:
    for one in prepared.operators:
        roles = tuple(sorted(role.value for role in one.roles if role.value != "auditor"))
        if roles:
            profiles = None if one.profiles is None else tuple(sorted(one.profiles))
            yield KitOperator(name=one.name, profiles=profiles, roles=roles)  # type: ignore[arg-type]  # checked by `encode_kit`


def verify_hand_back(data: bytes, kit: SignedKit, at: datetime.datetime) -> TakenBack:
    """
    Verify a hand-back against its kit, all of it; return what is to be stored.

    Raises PKIError: BAD_DATA_FORMAT for what cannot be read or does not hang together, NOT_AUTHORIZED for another
    signer, BAD_REQUEST for anything that the kit does not allow.
    """
    signed = decode_hand_back(data, kit.standby_key)
    back = signed.hand_back
    if (back.kit, back.epoch) != (kit.sha256, kit.kit.epoch):
        raise _refuse("it was made by another kit than the one of that epoch here")
    state, lines, head = _replay(signed, kit)
    judge = _Judge(kit, state, at)
    return judge.taken(signed, lines, head)


def _replay(signed: SignedHandBack, kit: SignedKit) -> tuple[State, list[records.Record], str]:
    state, head, found = State(kit), START, list[records.Record]()
    for number, line in enumerate(signed.hand_back.lines, 1):
        text = line.encode()
        record = read_line(text, number, head)
        if not isinstance(record, _STANDBY_LINES):
            raise _refuse(f"line {number} is none that a standby writes")
        try:
            state.check(record)
            state.apply(record)
        except PKIError as error:
            raise _refuse(f"line {number}: {error.detail}") from None
        except (KeyError, AssertionError, TypeError):
            # Among them a time without a zone, which is compared with others.
            raise _refuse(f"line {number} speaks of what is not there, or of no time") from None
        head = sha256(text)
        found.append(record)
    if state.adopted is None or state.opened is None or state.opened.instance != kit.kit.instance:
        raise _refuse("its journal does not begin with this kit")
    return state, found, head


class _Judge:
    """One hand-back against its kit."""

    def __init__(self, kit: SignedKit, state: State, at: datetime.datetime) -> None:
        self.kit: Kit = kit.kit
        self.state = state
        self.at = at
        self.issuer = x509.load_der_x509_certificate(self.kit.chain[0])
        self.path = tuple(map(x509.load_der_x509_certificate, self.kit.chain))
        self.profiles = _profiles(self.kit)
        self.operators = {one.name for one in self.kit.operators}
        self.before = {one.serial: one for one in statuses_of(self.kit)}
        self.blocked = frozenset(self.kit.blocked)

    def taken(self, signed: SignedHandBack, lines: Sequence[records.Record], head: str) -> TakenBack:
        """Judge everything and put it together."""
        requests = [self._request(one.request) for one in self.state.requests.values()]
        # A certificate is judged by its intent.
        intents = [self._intent(one.intent) for one in self.state.intents.values()]
        certificates = [self._certificate(one) for one in self.state.certificates.values()]
        open_ = [one for one in self.state.intents.values() if not one.settled]
        if open_:
            raise _refuse("an intent has neither certificate nor mark: let the standby hand back")
        unconfirmed = [i for i in intents if (i.issuer_id, i.serial) not in self.state.certificates]
        revocations = [self._revocation(a, b) for a, b in _revocations(lines)]
        numbers = [one.number for one in lines if isinstance(one, records.CRLNumbered)]
        crls = [self._crl(one.crl) for one in lines if isinstance(one, records.CRLPublished)]
        if self.state.revocations:
            raise _refuse("a revocation is not settled: let the standby hand back")
        refusals, waiting = self._refusals()
        events = [*self._events(lines), *waiting]
        return TakenBack(
            epoch=self.kit.epoch,
            issuer_id=self.kit.issuer_id,
            head=bytes.fromhex(head),
            length=len(lines),
            sha256=bytes.fromhex(signed.sha256),
            worker=actor(self.kit.issuer),
            requests=tuple(requests),
            refusals=tuple(refusals),
            intents=tuple(intents),
            unconfirmed=tuple(unconfirmed),
            certificates=tuple(certificates),
            revocations=tuple(revocations),
            numbers=tuple(numbers),
            crls=tuple(crls),
            blocked=tuple(self._blocks(events)),
            events=tuple(events),
        )

    def _request(self, request: EnrolmentRequest) -> EnrolmentRequest:
        what = f"the request {request.transaction_id}"
        if (request.protocol, request.issuer, request.wish) != (PROTOCOL, self.kit.issuer, None):
            raise _refuse(f"{what} is none of a standby of {self.kit.issuer}")
        if not request.transaction_id.startswith(f"standby-{self.kit.epoch}-"):
            raise _refuse(f"{what} is not named as this epoch's are")
        self._entitled(request.requestor, ISSUE, request.profile, what)
        self._inside(request.received_at, what)
        return request

    def _entitled(self, operator: str, roles: frozenset[str], profile: str | None, what: str) -> None:
        try:
            check_operator(self.kit, operator, roles, profile)
        except PKIError as error:
            raise _refuse(f"{what} is of {operator}: {error.detail}") from None

    def _inside(self, at: datetime.datetime, what: str) -> None:
        if at.tzinfo is None or not self.kit.not_before <= at <= self.kit.not_after:
            raise _refuse(f"{what} is of {at:%Y-%m-%d %H:%M} UTC, outside the kit's window")

    def _intent(self, intent: Intent) -> Intent:
        what = f"the serial {intent.serial.hex()}"
        if intent.issuer_id != self.kit.issuer_id or intent.shard:
            raise _refuse(f"{what} is of another issuer")
        if intent.serial[:3] != serial_prefix(intent.not_after, self.kit.instance) or len(intent.serial) != 19:
            raise _refuse(f"{what} does not have the day and the octet {self.kit.instance} of this standby")
        profile = self.profiles.get(intent.profile)
        if profile is None or (profile.sha256, profile.version) != (intent.profile_sha256, intent.profile_version):
            raise _refuse(f"{what} is under another text of the profile {intent.profile} than the kit's")
        self._inside(intent.recorded_at, what)
        return intent

    def _certificate(self, record: CertificateRecord) -> CertificateRecord:
        """Read it with other eyes than the code that made it, and derive again what it may be."""
        what = f"the certificate {record.serial.hex()}"
        intent = self.state.intents[record.issuer_id, record.serial].intent
        request = self.state.requests[record.request_id].request
        der.check(record.der)
        try:
            certificate = x509.load_der_x509_certificate(record.der)
            certificate.verify_directly_issued_by(self.issuer)
        except (ValueError, TypeError, InvalidSignature):
            raise _refuse(f"{what} is not signed by {self.kit.issuer}") from None
        self._lints(lint(certificate, issuer=self.issuer), what)
        if certificate.tbs_certificate_bytes != intent.tbs:
            raise _refuse(f"{what} is not what was intended")
        asked = requested(request.csr, request.names, request.wish)
        algorithm = algorithm_from_identifier(split_signed(record.der)[1]).name
        by = dataclasses.replace(limits(self.path), algorithm=algorithm)
        granted = grant(self.profiles[intent.profile], asked, by, intent.recorded_at)
        said = _columns(certificate)
        if said != (granted.subject_text, granted.names, granted.spki, granted.not_before, granted.not_after):
            raise _refuse(f"{what} is not what its profile grants")
        subject, names, key, not_before, not_after = said
        columns = (record.subject, record.names, record.spki_sha256, record.not_before, record.not_after)
        if columns != (subject, names, hashlib.sha256(key).digest(), not_before, not_after):
            raise _refuse(f"{what} is not what stands beside it")
        if hashlib.sha256(key).hexdigest() in self.blocked:
            raise _refuse(f"{what} is for a key that is blocked (R5)")
        if der.integer_octets(certificate.serial_number) != record.serial or record.profile != request.profile:
            raise _refuse(f"{what} has another serial number or profile than it was asked for under")
        self._inside(record.issued_at, what)
        return record

    def _revocation(self, received: records.RevocationReceived, settled: records.RevocationSettled) -> Settled:
        request, events = received.request, list(map(read_event, settled.events))
        what = f"the revocation of {request.serial.hex()}"
        self._entitled(request.requestor, REVOKE, None, what)
        self._inside(request.received_at, what)
        if request.issuer_id != self.kit.issuer_id or not request.reason.final or not events:
            raise _refuse(f"{what} is none of this issuer, or without an event")
        if request.invalidity_date is not None:
            raise _refuse(f"{what} has an invalidity date, which a standby is not asked for")
        # It may be settled after the kit's end: to revoke late is better than not to.
        at = max(one.at for one in events)
        if at < request.received_at:
            raise _refuse(f"{what} is settled before it was asked for")
        status, before = settled.status, self.before.get(request.serial)
        since = before.revoked_at if before is not None and before.held else at.replace(microsecond=0)
        if status is not None and status.revoked_at != since:
            raise _refuse(f"{what} is of another moment than its event")
        if status is not None and status != self._revoked(request, since):
            raise _refuse(f"{what} makes of its status what it is not (R16)")
        return Settled(request, status, settled.refusal, at)

    def _revoked(self, request: RevocationRequest, since: datetime.datetime | None) -> CertificateStatus:
        """Return the status that a revocation makes; how long it is listed, kit or intent say (R16)."""
        key = (request.issuer_id, request.serial)
        if (stored := self.state.intents.get(key)) is not None:
            until, kept = stored.intent.not_after, kept_until(stored.intent.tbs, stored.intent.not_after)
        else:
            until, kept = self.before[request.serial].not_after, self.before[request.serial].kept_until
        return CertificateStatus(*key, StatusState.REVOKED, until, since, request.reason, kept_until=kept)

    def _crl(self, record: CRLRecord) -> CRLRecord:
        """A CRL is this issuer's, lints, and lists nothing but what is revoked at the end."""
        what, longest = f"CRL {record.number}", CRLSettings().longest
        try:
            crl = x509.load_der_x509_crl(record.der)
            number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
            tbs, identifier, signature = split_signed(record.der)
            key = self.issuer.public_key()
            assert isinstance(key, PublicKey)
            algorithm_from_identifier(identifier).verify(key, signature, tbs)
        except (ValueError, AssertionError, x509.ExtensionNotFound, InvalidSignature):
            raise _refuse(f"{what} cannot be read, or is not signed by {self.kit.issuer}") from None
        said = (number, crl.last_update_utc, crl.next_update_utc, record.issuer_id)
        told = (record.number, record.this_update, record.next_update, self.kit.issuer_id)
        if said != told or crl.issuer != self.issuer.subject or record.tail is not None:
            raise _refuse(f"{what} says something else than what stands beside it")
        self._lints(lint_crl(record.der, issuer=self.issuer, longest=longest), what)
        self._inside(record.covers, what)
        for entry in crl:
            status = self.state.statuses.get((self.kit.issuer_id, der.integer_octets(entry.serial_number)))
            if status is None or status.state is not StatusState.REVOKED:
                raise _refuse(f"{what} lists {entry.serial_number:x}, which is not revoked")
        return record

    def _lints(self, findings: Sequence[Finding] | Iterator[Finding], what: str) -> None:
        if found := blocking(findings):
            raise _refuse(f"{what}: " + "; ".join(map(str, found)))

    def _refusals(self) -> tuple[list[Refusal], list[Event]]:
        """Refuse what the standby left waiting: nobody here is to issue it under another's name."""
        refusals, events = list[Refusal](), list[Event]()
        for number, one in self.state.requests.items():
            if one.refusal is not None:
                refusals.append(one.refusal)
            elif one.state is not RequestState.DONE:
                why = "the standby handed back before it was issued: ask again"
                error = ErrorType.SYSTEM_UNAVAIL
                refusals.append(Refusal(number, error, why))
                detail = {"request": number, "error": error.value, "detail": why}
                about = f"request:{number}"
                events.append(Event(EventKind.REQUEST_REFUSED, self.at, actor(self.kit.issuer), about, detail))
        return refusals, events

    def _events(self, lines: Sequence[records.Record]) -> Iterator[Event]:
        """Give every event of every line: of a kind that a standby may write, about its own."""
        names = {actor(self.kit.issuer), *self.operators}
        for line in lines:
            for body in line.events:
                event = read_event(body)
                if event.kind not in _KINDS or event.actor not in names:
                    raise _refuse(f"a standby writes no {event.kind.value} event of {event.actor}")
                yield event
            if isinstance(line, records.RequestsReceived):
                self._receipts(line)

    def _blocks(self, events: Sequence[Event]) -> Iterator[BlockedKey]:
        """R5: a standby blocks the keys of what it signed and revoked as compromised, and no others."""
        compromised = {
            tbs_key_sha256(one.intent.tbs)
            for key, one in self.state.intents.items()
            if (reason := self.state.statuses[key].reason) is not None and reason.compromised
        }
        for event in events:
            if event.kind is EventKind.KEY_BLOCKED:
                try:
                    key = bytes.fromhex(event.subject.removeprefix("key:"))
                    block = BlockedKey(key, str(event.detail["reason"]), event.at, str(event.detail["requestor"]))
                except (ValueError, KeyError):
                    raise _refuse("an event blocks no key") from None
                if key not in compromised:
                    raise _refuse(f"the key {key.hex()} is blocked, and is of nothing that was compromised (R5)")
                yield block

    def _receipts(self, line: records.RequestsReceived) -> None:
        told = [received_event(_new(one)).body() for one in line.requests]
        if list(line.events) != told or line.bundle is not None:
            raise _refuse("a request is not received as it is journalled")


def read_event(body: str) -> Event:
    """Return the event whose `body()` this is; PKIError(BAD_DATA_FORMAT) for another text."""
    try:
        value = json.loads(body)
        at = datetime.datetime.fromisoformat(value["at"])
        event = Event(EventKind(value["kind"]), at, value["actor"], value["subject"], value["detail"])
        same = event.body() == body
    except (ValueError, TypeError, KeyError, RecursionError, AttributeError):
        same = False
    if not same:
        raise PKIError(ErrorType.BAD_DATA_FORMAT, "an event that cannot be read")
    return event


def _new(one: EnrolmentRequest) -> NewRequest:
    what = (one.transaction_id, one.protocol, one.requestor, one.profile, one.issuer, one.csr, one.names)
    return NewRequest(*what, one.received_at, one.wish)


def _revocations(
    lines: Sequence[records.Record],
) -> Iterator[tuple[records.RevocationReceived, records.RevocationSettled]]:
    waiting = dict[int, records.RevocationReceived]()
    for line in lines:
        if isinstance(line, records.RevocationReceived):
            waiting[line.request.revocation_id] = line
        elif isinstance(line, records.RevocationSettled):
            yield waiting.pop(line.revocation_id), line


def _columns(
    certificate: x509.Certificate,
) -> tuple[str, tuple[str, ...], bytes, datetime.datetime, datetime.datetime]:
    try:
        names = names_of(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        names = ()
    key = spki_der(key_of(certificate))
    validity = (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    return name_text(certificate.subject), names, key, *validity


def _profiles(kit: Kit) -> dict[str, Profile]:
    try:
        return profiles_of(kit)
    except OperatorError as error:
        raise _refuse(f"a profile of the kit: {error.what}") from None


def _second(at: datetime.datetime) -> datetime.datetime:
    return at.astimezone(datetime.UTC).replace(microsecond=0)


def _refuse(detail: str) -> PKIError:
    return PKIError(ErrorType.BAD_REQUEST, detail)
