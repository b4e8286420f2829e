"""
The independent checker: accounts for every signature, serial, certificate, status and CRL.

It knows the ports' values and RFC 5280, and nothing of how the CA works. `account` may come from the memory
store or be read from a database.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import hashlib
import itertools
from collections.abc import Mapping, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from chancery.ports import (
    CertificateRecord,
    CertificateStatus,
    CRLRecord,
    Event,
    EventKind,
    Intent,
    RequestState,
    StatusState,
)


@dataclasses.dataclass(frozen=True)
class Account:
    """Everything that remains, `crls` in the order of their publication, `history` of status changes in theirs."""

    intents: Sequence[Intent]
    certificates: Sequence[CertificateRecord]
    statuses: Sequence[CertificateStatus]
    history: Sequence[CertificateStatus]
    requests: Mapping[int, RequestState]
    crls: Sequence[CRLRecord]
    crl_numbers: Mapping[int, int]
    events: Sequence[Event]


def account_of(store) -> Account:
    """Account of a `fakes.MemoryStore`."""
    return Account(
        intents=[intent for _, intent in store.intents.values()],
        certificates=list(store.certificates.values()),
        statuses=list(store.statuses.values()),
        history=store.history,
        requests=store.states,
        crls=store.crls,
        crl_numbers=store.crl_numbers,
        events=store.events,
    )


def problems(
    account: Account, signed: Mapping[int, Sequence[bytes]], issuers: Mapping[int, x509.Certificate]
) -> list[str]:
    """Name everything that is unaccounted for. `signed`: what each issuer's token was made to sign, in order."""
    return [
        *_signatures(account, signed),
        *_serials(account),
        *_certificates(account, issuers),
        *_statuses(account),
        *_deactivated(account),
        *_requests(account),
        *_crls(account, issuers),
    ]


def _key(value) -> tuple[int, str]:
    return value.issuer_id, value.serial.hex()


def _named(account: Account, kind: EventKind) -> collections.Counter[str]:
    return collections.Counter(event.subject for event in account.events if event.kind is kind)


def _subject(value) -> str:
    return f"{value.issuer_id}:{value.serial.hex()}"


def _is_crl(tbs: bytes) -> bool:
    # A TBSCertificate starts with its [0] version, a TBSCertList with an INTEGER.
    start = 2 if tbs[1] < 0x80 else 2 + (tbs[1] & 0x7F)
    return tbs[start] == 0x02


def _signatures(account: Account, signed: Mapping[int, Sequence[bytes]]):
    """Every signature that the token made is named by an intent, and nothing was signed twice."""
    for issuer_id, signatures in signed.items():
        intents = {one.tbs for one in account.intents if one.issuer_id == issuer_id}
        certificates = [tbs for tbs in signatures if not _is_crl(tbs)]
        if len(set(certificates)) != len(certificates):
            yield f"issuer {issuer_id}: a TBSCertificate was signed twice"
        if set(certificates) - intents:
            yield f"issuer {issuer_id}: a signature that no intent names"
        crls = len(signatures) - len(certificates)
        if crls > account.crl_numbers.get(issuer_id, 0):
            yield f"issuer {issuer_id}: {crls} CRLs signed, more than numbers reserved"
    if sum(account.crl_numbers.values()) != sum(_named(account, EventKind.CRL_INTENT).values()):
        yield "CRL numbers and CRL intents differ"


def _serials(account: Account):
    """R1, R2: every serial once, positive, at most 20 octets, inside its TBSCertificate."""
    for key, count in collections.Counter(_key(one) for one in account.intents).items():
        if count > 1:
            yield f"{key}: a serial was used {count} times"
    for intent in account.intents:
        if not (9 <= len(intent.serial) <= 20 and 1 <= intent.serial[0] <= 127):
            yield f"{_key(intent)}: not a serial (R1)"
        if b"\x02" + bytes((len(intent.serial),)) + intent.serial not in intent.tbs[:40]:
            yield f"{_key(intent)}: the intent's TBSCertificate has another serial"
    recorded = _named(account, EventKind.INTENT_RECORDED)
    for intent in account.intents:
        if recorded[_subject(intent)] != 1:
            yield f"{_key(intent)}: an intent with {recorded[_subject(intent)]} events"


def _certificates(account: Account, issuers: Mapping[int, x509.Certificate]):
    """Every certificate has its intent, its bytes, its signature and its one event."""
    intents = {_key(one): one for one in account.intents}
    events = collections.defaultdict(list)
    for event in account.events:
        if event.kind is EventKind.CERTIFICATE_ISSUED:
            events[event.subject].append(event.detail["certificate_sha256"])
    for record in account.certificates:
        certificate = x509.load_der_x509_certificate(record.der)
        intent = intents.get(_key(record))
        if intent is None or certificate.tbs_certificate_bytes != intent.tbs:
            yield f"{_key(record)}: a certificate that is not its intent's"
        if certificate.serial_number != int.from_bytes(record.serial, "big"):
            yield f"{_key(record)}: a certificate stored under another serial"
        try:
            certificate.verify_directly_issued_by(issuers[record.issuer_id])
        except (ValueError, InvalidSignature):
            yield f"{_key(record)}: not signed by its issuer"
        if events[_subject(record)] != [hashlib.sha256(record.der).hexdigest()]:
            yield f"{_key(record)}: {len(events[_subject(record)])} events name this certificate"
    extra = set(events) - {_subject(record) for record in account.certificates}
    yield from (f"{one}: an event without its certificate" for one in extra)


HELD = 6
_FORWARDS = {
    StatusState.GOOD: {StatusState.REVOKED, HELD},
    StatusState.UNCONFIRMED: {StatusState.REVOKED},
    StatusState.REVOKED: set(),
    HELD: {StatusState.GOOD, StatusState.REVOKED},
}


def _place(status: CertificateStatus):
    return HELD if status.state is StatusState.REVOKED and status.reason == HELD else status.state


def _statuses(account: Account):
    """Every intent has one status; each went forwards only, but for holds; each change has its event, once."""
    statuses = {_key(one): one for one in account.statuses}
    certificates = {_key(one) for one in account.certificates}
    revoked, suspended, reinstated, unconfirmed = (
        _named(account, kind)
        for kind in (
            EventKind.CERTIFICATE_REVOKED,
            EventKind.CERTIFICATE_SUSPENDED,
            EventKind.CERTIFICATE_REINSTATED,
            EventKind.INTENT_UNCONFIRMED,
        )
    )
    ways = collections.defaultdict(list)
    since: dict[tuple[int, str], CertificateStatus] = {}
    for status in account.history:
        key, before = _key(status), since.get(_key(status))
        ways[key].append(_place(status))
        # X.509 9.5.3.2: what was suspended is revoked since then.
        ended = before is not None and _place(before) == HELD and _place(status) is StatusState.REVOKED
        if ended and status.revoked_at != before.revoked_at:
            yield f"{key}: revoked for good since {status.revoked_at}, suspended since {before.revoked_at}"
        since[key] = status
    for intent in account.intents:
        key, first = _key(intent), StatusState.GOOD if _key(intent) in certificates else StatusState.UNCONFIRMED
        if key not in statuses:
            yield f"{key}: an intent without a status"
            continue
        way = ways[key]
        legal = way[:1] == [first] and all(to in _FORWARDS[at] for at, to in itertools.pairwise(way))
        if not legal or way[-1] != _place(statuses[key]):
            yield f"{key}: the status went {way}"
        if revoked[_subject(intent)] != way.count(StatusState.REVOKED):
            yield f"{key}: {revoked[_subject(intent)]} revocation events"
        if suspended[_subject(intent)] != way.count(HELD):
            yield f"{key}: {suspended[_subject(intent)]} suspension events"
        if reinstated[_subject(intent)] != way[1:].count(StatusState.GOOD):
            yield f"{key}: {reinstated[_subject(intent)]} reinstatement events"
        if unconfirmed[_subject(intent)] != (first is StatusState.UNCONFIRMED):
            yield f"{key}: {unconfirmed[_subject(intent)]} events of an unconfirmed intent"
    yield from (
        f"{key}: a status without an intent" for key in statuses.keys() - {_key(i) for i in account.intents}
    )


def _deactivated(account: Account):
    """By the order of events, nothing is intended of an issuer (`detail.issuer_id`) or profile while it is off."""
    off: set[str] = set()
    intents = {_subject(one): one for one in account.intents}
    for event in account.events:
        if event.kind in {EventKind.CA_DEACTIVATED, EventKind.PROFILE_DEACTIVATED}:
            off.add(_switched(event))
        elif event.kind in {EventKind.CA_ACTIVATED, EventKind.PROFILE_ACTIVATED}:
            off.discard(_switched(event))
        elif event.kind is EventKind.INTENT_RECORDED and (intent := intents.get(event.subject)) is not None:
            for gone in sorted(off & {f"issuer:{intent.issuer_id}", f"profile:{intent.profile}"}):
                yield f"{_key(intent)}: an intent of {gone} after its deactivation"


def _switched(event: Event) -> str:
    return f"issuer:{event.detail['issuer_id']}" if "issuer_id" in event.detail else event.subject


def _requests(account: Account):
    """A request that is done has one certificate, any other none; a refused one has its event."""
    made = collections.Counter(record.request_id for record in account.certificates)
    refused = _named(account, EventKind.REQUEST_REFUSED)
    for request_id, state in account.requests.items():
        if made[request_id] != (state is RequestState.DONE):
            yield f"request {request_id}: {state.value} with {made[request_id]} certificates"
        if refused[f"request:{request_id}"] != (state is RequestState.REFUSED):
            yield f"request {request_id}: {state.value} with {refused[f'request:{request_id}']} refusals"


def _crls(account: Account, issuers: Mapping[int, x509.Certificate]):
    """R14-R16: numbers rise, each CRL is its CA's, the latest lists exactly what is revoked."""
    published = _named(account, EventKind.CRL_PUBLISHED)
    if sum(published.values()) != len(account.crls):
        yield f"{len(account.crls)} CRLs and {sum(published.values())} events"
    by_issuer: dict[int, list[CRLRecord]] = collections.defaultdict(list)
    for record in account.crls:
        by_issuer[record.issuer_id].append(record)
    for issuer_id, records in by_issuer.items():
        numbers = [one.number for one in records]
        if numbers != sorted(set(numbers)) or numbers[-1] > account.crl_numbers[issuer_id]:
            yield f"issuer {issuer_id}: CRL numbers {numbers}"
        for record in records:
            yield from _one_crl(record, issuers[issuer_id])
        yield from _latest_crl(account, records)


def _one_crl(record: CRLRecord, issuer: x509.Certificate):
    crl = x509.load_der_x509_crl(record.der)
    if not crl.is_signature_valid(issuer.public_key()) or crl.issuer != issuer.subject:
        yield f"CRL {record.number}: not signed by its issuer"
    if crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number != record.number:
        yield f"CRL {record.number}: numbered otherwise inside"
    if (crl.last_update_utc, crl.next_update_utc) != (record.this_update, record.next_update):
        yield f"CRL {record.number}: other times inside"


def _latest_crl(account: Account, records: Sequence[CRLRecord]):
    latest = records[-1]
    before = records[-2].this_update if len(records) > 1 else datetime.datetime.min.replace(tzinfo=datetime.UTC)
    listed = {one.serial_number: one for one in x509.load_der_x509_crl(latest.der)}
    revoked = {
        int.from_bytes(one.serial, "big"): one
        for one in account.statuses
        if one.issuer_id == latest.issuer_id and one.state is StatusState.REVOKED
    }
    for serial in listed.keys() - revoked.keys():
        yield f"CRL {latest.number} lists {serial:x}, which is not revoked"
    for serial, status in revoked.items():
        if serial not in listed:
            if status.listed_until >= before:
                yield f"CRL {latest.number} does not list {serial:x}"
            continue
        entry = listed[serial]
        if entry.revocation_date_utc != status.revoked_at:
            yield f"CRL {latest.number}: {serial:x} was revoked at another time"
