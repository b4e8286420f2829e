"""
What the offline journal says, as values: one function that admits a record and one that applies it.

Reading the journal back and writing a new line go through the same two, so that what a restart finds is
what was in effect before it.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from typing import Any, TypeVar

from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.offline import records
from chancery.offline.bundle import Bundle, RequestPayload, decode_request, sha256
from chancery.offline.kit import SignedKit, issuer_of, last_crl, statuses_of
from chancery.offline.operators import Confirmation, Operators, check_confirmations, enrolled_by
from chancery.offline.records import Record
from chancery.offline.script import OperatorsAct, Script, parse_script
from chancery.ports import (
    CertificateRecord,
    CertificateStatus,
    CRLRecord,
    EnrolmentRequest,
    Intent,
    IssuerRecord,
    Refusal,
    RequestState,
    RevocationRequest,
    StatusState,
)

SerialKey = tuple[int, bytes]
R = TypeVar("R", bound=Record)


@dataclasses.dataclass(slots=True)
class StoredRequest:
    """A request and where it stands."""

    request: EnrolmentRequest
    state: RequestState = RequestState.WAITING
    worker: str | None = None
    refusal: Refusal | None = None
    certificate: CertificateRecord | None = None


@dataclasses.dataclass(slots=True)
class StoredIntent:
    """An intent, whose it is, and whether a certificate or an unconfirmed mark has settled it."""

    intent: Intent
    worker: str
    settled: bool = False


@dataclasses.dataclass(slots=True)
class Chain:
    """The bundles exchanged with one installation key: the last request and, once given, its response."""

    request: Bundle[RequestPayload]
    response: bytes | None = None


@dataclasses.dataclass(slots=True)
class Held:
    """
    A ceremony that was confirmed: its script, as octets and SHA-256 too, and whether it has ended.

    `void` is one that had not ended when the operators changed: those who confirmed it are in charge no more.
    """

    script: Script
    data: bytes
    sha256: str
    confirmations: tuple[Confirmation, ...]
    ended: bool = False
    void: bool = False

    @property
    def open(self) -> bool:
        """Whether it is neither ended nor void."""
        return not self.ended and not self.void


class State:
    """Everything the journal says so far. Changed by `apply` alone."""

    def __init__(self, kit: SignedKit | None = None) -> None:
        """Begin before the first line; `kit` is that of a standby's journal."""
        self.kit = kit
        self.adopted: records.KitAdopted | None = None
        self.handed_back: records.HandedBack | None = None
        self.opened: records.Opened | None = None
        self.planned_keys: dict[str, str] = {}
        self.keys: dict[str, bytes] = {}
        self.issuers: dict[int, IssuerRecord] = {}
        self.requests: dict[int, StoredRequest] = {}
        self.transactions: dict[tuple[str, str], int] = {}
        self.intents: dict[SerialKey, StoredIntent] = {}
        self.certificates: dict[SerialKey, CertificateRecord] = {}
        self.statuses: dict[SerialKey, CertificateStatus] = {}
        self.revocations: dict[int, RevocationRequest] = {}
        self.last_revocation = 0
        self.refused: dict[int, str] = {}
        """Why, of the revocations that were refused, by their numbers."""
        self.crl_numbers: dict[int, int] = {}
        self.crls: dict[int, CRLRecord] = {}
        self.chains: dict[str, Chain] = {}
        self.responses: dict[str, bytes] = {}
        self.given: list[tuple[str, bytes]] = []
        """(Requestor's key, response) of every answered bundle, in order."""
        self.operators: Operators | None = None
        self.ceremonies: dict[str, Held] = {}
        """By the ceremony's name, which is used once."""
        self.latest: datetime.datetime | None = None
        """The newest time that any line speaks of as its own."""

    def check(self, record: Record) -> None:
        """Raise PKIError(SYSTEM_FAILURE) when this record cannot follow what is there; changes nothing."""
        first = isinstance(record, records.Opened)
        if first != (self.opened is None):
            raise _contradiction("the journal begins with its opening, once")
        if self.handed_back is not None:
            raise _contradiction("it was handed back, and is closed for good")
        if (check := _CHECKS.get(type(record))) is not None:
            check(self, record)

    def apply(self, record: Record) -> None:
        """Take over a record that `check` admitted."""
        _APPLY[type(record)](self, record)
        for time in _times(record):
            self.latest = time if self.latest is None else max(self.latest, time)

    def open_ceremony(self, digest: str) -> Held | None:
        """Return the ceremony whose script has this SHA-256, confirmed, neither ended nor void."""
        return next((one for one in self.ceremonies.values() if one.sha256 == digest and one.open), None)

    def unfinished_ceremony(self) -> str | None:
        """Return the name of a ceremony that is confirmed, neither ended nor void."""
        return next((name for name, one in self.ceremonies.items() if one.open), None)


def _times(record: Record) -> list[datetime.datetime]:
    if isinstance(record, records.RequestsReceived):
        return [request.received_at for request in record.requests]
    if isinstance(record, records.RequestsTaken):
        return [record.at]
    if isinstance(record, records.IntentsRecorded):
        return [intent.recorded_at for intent in record.intents]
    if isinstance(record, records.CRLPublished):
        return [record.crl.covers]
    if isinstance(record, records.CeremonyConfirmed):
        return [confirmation.at for confirmation in record.confirmations]
    if isinstance(record, records.CeremonyEnded | records.KitAdopted | records.HandedBack):
        return [record.at]
    return []


def _opened(state: State, record: records.Opened) -> None:
    state.opened = record


def _kit_adopted(state: State, record: records.KitAdopted) -> None:
    assert state.kit is not None
    state.adopted = record
    issuer = issuer_of(state.kit.kit)
    state.issuers[issuer.issuer_id] = issuer
    state.statuses.update({(one.issuer_id, one.serial): one for one in statuses_of(state.kit.kit)})
    state.crl_numbers[issuer.issuer_id] = state.kit.kit.crl_number
    if (crl := last_crl(state.kit.kit)) is not None:
        state.crls[issuer.issuer_id] = crl


def _check_kit_adopted(state: State, record: records.KitAdopted) -> None:
    kit = state.kit
    if kit is None or state.adopted is not None or state.issuers:
        raise _contradiction("a kit is adopted where there is none, or another CA")
    if (record.kit, record.epoch) != (kit.sha256, kit.kit.epoch):
        raise _contradiction("another kit was adopted")


def _handed_back(state: State, record: records.HandedBack) -> None:
    state.handed_back = record


def _check_handed_back(state: State, _: records.HandedBack) -> None:
    if state.adopted is None:
        raise _contradiction("what has no kit is not handed back")


def _key_planned(state: State, record: records.KeyPlanned) -> None:
    state.planned_keys[record.label] = record.key_kind


def _check_key_planned(state: State, record: records.KeyPlanned) -> None:
    if record.label in state.planned_keys:
        raise _contradiction(f"the key {record.label} was planned before")


def _key_generated(state: State, record: records.KeyGenerated) -> None:
    state.keys[record.label] = record.spki


def _check_key_generated(state: State, record: records.KeyGenerated) -> None:
    if record.label not in state.planned_keys or record.label in state.keys:
        raise _contradiction(f"the key {record.label} was not planned, or was made before")


def _issuer_added(state: State, record: records.IssuerAdded) -> None:
    state.issuers[record.issuer.issuer_id] = record.issuer


def _check_issuer_added(state: State, record: records.IssuerAdded) -> None:
    if record.issuer.issuer_id in state.issuers:
        raise _contradiction("an issuer is added twice")


def _requests_received(state: State, record: records.RequestsReceived) -> None:
    for request in record.requests:
        state.requests[request.request_id] = StoredRequest(request)
        state.transactions[request.requestor, request.transaction_id] = request.request_id
    if record.bundle is not None:
        bundle = decode_request(record.bundle)
        state.chains[bundle.header.signer] = Chain(bundle)


def _check_requests_received(state: State, record: records.RequestsReceived) -> None:
    for request in record.requests:
        if request.request_id in state.requests:
            raise _contradiction("a request number is used twice")
        if (request.requestor, request.transaction_id) in state.transactions:
            raise _contradiction("a transaction id is used twice")
    if record.bundle is not None:
        bundle = decode_request(record.bundle)
        check_next(state.chains.get(bundle.header.signer), bundle)


def check_next(chain: Chain | None, bundle: Bundle[RequestPayload]) -> None:
    """Raise PKIError(BAD_REQUEST) unless this bundle follows the last answered one of its chain."""
    header = bundle.header
    if chain is None:
        if header.number != 1:
            raise PKIError(ErrorType.BAD_REQUEST, f"bundle {header.number} comes before bundle 1 of its key")
        return
    last = chain.request.header.number
    if header.number <= last:
        raise PKIError(ErrorType.BAD_REQUEST, f"another bundle {header.number} of this key came before: a fork")
    if chain.response is None or header.number != last + 1:
        raise PKIError(ErrorType.BAD_REQUEST, f"bundle {header.number} comes before bundle {last} was answered")
    if (header.previous, header.answers) != (chain.request.sha256, sha256(chain.response)):
        raise PKIError(ErrorType.BAD_REQUEST, f"bundle {header.number} does not follow the bundles signed here")


def _requests_taken(state: State, record: records.RequestsTaken) -> None:
    for request_id in record.request_ids:
        stored = state.requests[request_id]
        stored.state, stored.worker = RequestState.TAKEN, record.worker


def _check_requests_taken(state: State, record: records.RequestsTaken) -> None:
    for request_id in record.request_ids:
        if request_id not in state.requests or state.requests[request_id].state is not RequestState.WAITING:
            raise _contradiction("a request is taken that does not wait")


def _intents_recorded(state: State, record: records.IntentsRecorded) -> None:
    for intent in record.intents:
        state.intents[intent.issuer_id, intent.serial] = StoredIntent(intent, record.worker)
    _refuse(state, record.refusals)


def _check_intents_recorded(state: State, record: records.IntentsRecorded) -> None:
    keys = [(intent.issuer_id, intent.serial) for intent in record.intents]
    # R2: unique per issuer, for ever.
    if len(set(keys)) != len(keys) or any(key in state.intents for key in keys):
        raise _contradiction("a serial number was used before")
    for request_id in (*(intent.request_id for intent in record.intents), *_ids(record.refusals)):
        _check_unfinished(state, request_id)


def _certificates_recorded(state: State, record: records.CertificatesRecorded) -> None:
    for certificate in record.certificates:
        key = (certificate.issuer_id, certificate.serial)
        state.intents[key].settled = True
        state.certificates[key] = certificate
        state.statuses[key] = CertificateStatus(*key, StatusState.GOOD, certificate.not_after)
        stored = state.requests[certificate.request_id]
        stored.state, stored.certificate = RequestState.DONE, certificate
    _refuse(state, record.refusals)


def _check_certificates_recorded(state: State, record: records.CertificatesRecorded) -> None:
    for certificate in record.certificates:
        found = state.intents.get((certificate.issuer_id, certificate.serial))
        if found is None or found.settled or found.intent.request_id != certificate.request_id:
            raise _contradiction("a certificate has no open intent")
        _check_unfinished(state, certificate.request_id)
    for request_id in _ids(record.refusals):
        _check_unfinished(state, request_id)


def _intents_unconfirmed(state: State, record: records.IntentsUnconfirmed) -> None:
    for key in record.serials:
        found = state.intents[key]
        found.settled = True
        state.statuses[key] = CertificateStatus(*key, StatusState.UNCONFIRMED, found.intent.not_after)
    for stored in state.requests.values():
        if stored.state is RequestState.TAKEN and stored.worker == record.worker:
            stored.state, stored.worker = RequestState.WAITING, None


def _check_intents_unconfirmed(state: State, record: records.IntentsUnconfirmed) -> None:
    for key in record.serials:
        if key not in state.intents or state.intents[key].settled:
            raise _contradiction("an intent is marked that is not open")


def _revocation_received(state: State, record: records.RevocationReceived) -> None:
    state.revocations[record.request.revocation_id] = record.request
    state.last_revocation = record.request.revocation_id


def _check_revocation_received(state: State, record: records.RevocationReceived) -> None:
    if record.request.revocation_id != state.last_revocation + 1:
        raise _contradiction("revocation requests are numbered one by one")


def _revocation_settled(state: State, record: records.RevocationSettled) -> None:
    del state.revocations[record.revocation_id]
    if record.refusal is not None:
        state.refused[record.revocation_id] = record.refusal
    if record.status is not None:
        state.statuses[record.status.issuer_id, record.status.serial] = record.status


def _check_revocation_settled(state: State, record: records.RevocationSettled) -> None:
    request, status = state.revocations.get(record.revocation_id), record.status
    if request is None or (status is None) != (record.refusal is not None):
        raise _contradiction("a revocation is settled that does not wait")
    if status is None:
        return
    before = state.statuses.get((status.issuer_id, status.serial))
    # What is suspended may be revoked for good, as `ca.revocation` does.
    forwards = before is not None and (
        before.state is not StatusState.REVOKED or (before.held and request.reason.final)
    )
    if (
        not forwards
        or status.state is not StatusState.REVOKED
        or (status.issuer_id, status.serial, status.reason) != (request.issuer_id, request.serial, request.reason)
    ):
        raise _contradiction("certificate status goes forwards only, with the reason that was given")


def _crl_numbered(state: State, record: records.CRLNumbered) -> None:
    state.crl_numbers[record.issuer_id] = record.number


def _check_crl_numbered(state: State, record: records.CRLNumbered) -> None:
    if record.number <= state.crl_numbers.get(record.issuer_id, 0):
        raise _contradiction("a CRLNumber is not above the one before (R15)")


def _crl_published(state: State, record: records.CRLPublished) -> None:
    state.crls[record.crl.issuer_id] = record.crl


def _check_crl_published(state: State, record: records.CRLPublished) -> None:
    current = state.crls.get(record.crl.issuer_id)
    reserved = state.crl_numbers.get(record.crl.issuer_id, 0)
    if record.crl.number > reserved or (current is not None and record.crl.number <= current.number):
        raise _contradiction("a CRL is not above the published one (R15)")


def _bundle_answered(state: State, record: records.BundleAnswered) -> None:
    state.responses[record.request] = record.response
    for requestor, chain in state.chains.items():
        if chain.request.sha256 == record.request:
            chain.response = record.response
            state.given.append((requestor, record.response))


def _check_bundle_answered(state: State, record: records.BundleAnswered) -> None:
    if record.request in state.responses:
        raise _contradiction("a bundle is answered twice")
    if all(chain.request.sha256 != record.request for chain in state.chains.values()):
        raise _contradiction("a bundle is answered that is not here")


def _ceremony_confirmed(state: State, record: records.CeremonyConfirmed) -> None:
    script = parse_script(record.script)
    state.ceremonies[script.name] = Held(script, record.script, sha256(record.script), record.confirmations)


def _check_ceremony_confirmed(state: State, record: records.CeremonyConfirmed) -> None:
    """R8: M of N, each by a signature; replay verifies them again."""
    opened = state.opened
    assert opened is not None
    try:
        script = parse_script(record.script)
        if script.ca != opened.name or script.name in state.ceremonies:
            raise _contradiction("a ceremony of another CA, or of a name that was used before")
        if any(not script.not_before <= one.at <= script.not_after for one in record.confirmations):
            raise PKIError(ErrorType.NOT_AUTHORIZED, "a confirmation is from outside the ceremony's time")
        check_confirmations(opened.name, script, sha256(record.script), state.operators, record.confirmations)
    except OperatorError as error:
        raise _contradiction(error.what) from None


def _operators_enrolled(state: State, record: records.OperatorsEnrolled) -> None:
    state.operators = record.operators
    for held in state.ceremonies.values():
        held.void = held.void or (held.sha256 != record.ceremony and not held.ended)


def _check_operators_enrolled(state: State, record: records.OperatorsEnrolled) -> None:
    held = state.open_ceremony(record.ceremony)
    acts = held.script.acts if held is not None else ()
    if not any(isinstance(act, OperatorsAct) and enrolled_by(act) == record.operators for act in acts):
        raise _contradiction("operators are enrolled whom no confirmed ceremony names")


def _root_renewed(state: State, record: records.RootRenewed) -> None:
    state.issuers[record.issuer.issuer_id] = record.issuer


def _check_root_renewed(state: State, record: records.RootRenewed) -> None:
    before = state.issuers.get(record.issuer.issuer_id)
    if before is None or dataclasses.replace(before, certificate=b"") != dataclasses.replace(
        record.issuer, certificate=b""
    ):
        raise _contradiction("an issuer is renewed that is not here")
    if all(record.issuer.certificate != one.der for one in state.certificates.values()):
        raise _contradiction("an issuer is renewed with a certificate that was not made here")


def _ceremony_ended(state: State, record: records.CeremonyEnded) -> None:
    held = state.open_ceremony(record.ceremony)
    assert held is not None
    held.ended = True


def _check_ceremony_ended(state: State, record: records.CeremonyEnded) -> None:
    if state.open_ceremony(record.ceremony) is None:
        raise _contradiction("a ceremony ends that was not confirmed, or has ended before")


def _refuse(state: State, refusals: tuple[Refusal, ...]) -> None:
    for refusal in refusals:
        stored = state.requests[refusal.request_id]
        stored.state, stored.refusal = RequestState.REFUSED, refusal


def _ids(refusals: tuple[Refusal, ...]) -> list[int]:
    return [refusal.request_id for refusal in refusals]


def _check_unfinished(state: State, request_id: int) -> None:
    stored = state.requests.get(request_id)
    if stored is None or stored.state is not RequestState.TAKEN:
        raise _contradiction("a request is finished that was not taken, or was finished before")


def _contradiction(detail: str) -> PKIError:
    return PKIError(ErrorType.SYSTEM_FAILURE, f"offline journal: {detail}")


# Each function takes the record type it stands beside; a dictionary cannot say so.
_APPLY: dict[type[Record], Callable[[State, Any], None]] = {
    records.Opened: _opened,
    records.KitAdopted: _kit_adopted,
    records.HandedBack: _handed_back,
    records.KeyPlanned: _key_planned,
    records.KeyGenerated: _key_generated,
    records.IssuerAdded: _issuer_added,
    records.RequestsReceived: _requests_received,
    records.RequestsTaken: _requests_taken,
    records.IntentsRecorded: _intents_recorded,
    records.CertificatesRecorded: _certificates_recorded,
    records.IntentsUnconfirmed: _intents_unconfirmed,
    records.RevocationReceived: _revocation_received,
    records.RevocationSettled: _revocation_settled,
    records.CRLNumbered: _crl_numbered,
    records.CRLPublished: _crl_published,
    records.BundleAnswered: _bundle_answered,
    records.CeremonyConfirmed: _ceremony_confirmed,
    records.OperatorsEnrolled: _operators_enrolled,
    records.RootRenewed: _root_renewed,
    records.CeremonyEnded: _ceremony_ended,
}
_CHECKS: dict[type[Record], Callable[[State, Any], None]] = {
    records.KitAdopted: _check_kit_adopted,
    records.HandedBack: _check_handed_back,
    records.KeyPlanned: _check_key_planned,
    records.KeyGenerated: _check_key_generated,
    records.IssuerAdded: _check_issuer_added,
    records.RequestsReceived: _check_requests_received,
    records.RequestsTaken: _check_requests_taken,
    records.IntentsRecorded: _check_intents_recorded,
    records.CertificatesRecorded: _check_certificates_recorded,
    records.IntentsUnconfirmed: _check_intents_unconfirmed,
    records.RevocationReceived: _check_revocation_received,
    records.RevocationSettled: _check_revocation_settled,
    records.CRLNumbered: _check_crl_numbered,
    records.CRLPublished: _check_crl_published,
    records.BundleAnswered: _check_bundle_answered,
    records.CeremonyConfirmed: _check_ceremony_confirmed,
    records.OperatorsEnrolled: _check_operators_enrolled,
    records.RootRenewed: _check_root_renewed,
    records.CeremonyEnded: _check_ceremony_ended,
}
