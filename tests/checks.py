"""
The independent checker: accounts for every signature, serial, certificate, status, key and CRL.

It knows the ports' values and RFC 5280, and nothing of how the CA works. `account` may come from the memory
store or be read from a database.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
from collections.abc import Collection, Container, Mapping, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID

from chancery.asn1 import x509 as template
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
from crlchecks import crl_problems, purposes, said, serves_tls


@dataclasses.dataclass(frozen=True)
class Account:
    """
    Everything that remains, `crls` in the order of their publication, `history` of status changes in theirs.

    `names` are the issuers' by id; `read` says by (issuer, number) which changes of the history the entries of a
    CRL were read after.
    """

    intents: Sequence[Intent]
    certificates: Sequence[CertificateRecord]
    statuses: Sequence[CertificateStatus]
    history: Sequence[CertificateStatus]
    requests: Mapping[int, RequestState]
    crls: Sequence[CRLRecord]
    crl_numbers: Mapping[int, int]
    events: Sequence[Event]
    names: Mapping[int, str]
    read: Mapping[tuple[int, int], Container[int]]
    blocked: Collection[bytes]


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
        names=store.issuers,
        read={key: range(length) for key, (_, length) in store.read.items()},
        blocked=store.blocked_keys,
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
        *_blocked(account),
        *crl_problems(account, issuers),
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
        serials = collections.Counter(said(tbs).serial_number for tbs in set(certificates) & intents)
        yield from (
            f"issuer {issuer_id}: {n} signatures under {one:x} (R1)" for one, n in serials.items() if n > 1
        )
        crls = len(signatures) - len(certificates)
        if crls > account.crl_numbers.get(issuer_id, 0):
            yield f"issuer {issuer_id}: {crls} CRLs signed, more than numbers reserved"


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
        if since.get(key) not in {None, statuses[key]}:
            yield f"{key}: the status is not what its last change made it"
        if HELD in way and serves_tls(intent.tbs):
            yield f"{key}: a certificate that may serve TLS was suspended (R15)"
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


_OFF = {EventKind.CA_DEACTIVATED, EventKind.PROFILE_DEACTIVATED}
_ON = {EventKind.CA_ACTIVATED, EventKind.PROFILE_ACTIVATED}


def _deactivated(account: Account):
    """
    By the order of events, nothing is intended of an issuer or a profile while it is deactivated.

    An issuer's own OCSP delegates go on: somebody has to answer for what it issued.
    """
    off: set[str] = set()
    intents = {_subject(one): one for one in account.intents}
    for event in account.events:
        if event.kind in _OFF:
            off.add(event.subject)
        elif event.kind in _ON:
            off.discard(event.subject)
        elif (
            event.kind is EventKind.INTENT_RECORDED and off and (intent := intents.get(event.subject)) is not None
        ):
            about = {f"profile:{intent.profile}"}
            if ExtendedKeyUsageOID.OCSP_SIGNING not in purposes(intent.tbs):
                about.add(f"issuer:{account.names[intent.issuer_id]}")
            for gone in sorted(off & about):
                yield f"{_key(intent)}: an intent of {gone} after its deactivation"


def _blocked(account: Account):
    """R5: the key of whatever was revoked as compromised is blocked, with one event, and certified no more."""
    keys = {_key(one): hashlib.sha256(template.subject_fields_of(one.tbs)[1]).digest() for one in account.intents}
    told = _named(account, EventKind.KEY_BLOCKED)
    for status in account.statuses:
        if (
            status.reason is not None
            and status.reason.compromised
            and keys.get(_key(status)) not in account.blocked
        ):
            yield f"{_key(status)}: compromised, and its key is not blocked (R5)"
    if told != collections.Counter(f"key:{one.hex()}" for one in account.blocked):
        yield f"{len(account.blocked)} keys are blocked, {told.total()} events say so"
    subjects = {_subject(one): f"key:{keys[_key(one)].hex()}" for one in account.intents}
    gone: set[str] = set()
    for event in account.events:
        if event.kind is EventKind.KEY_BLOCKED:
            gone.add(event.subject)
        elif event.kind is EventKind.INTENT_RECORDED and subjects.get(event.subject) in gone:
            yield f"{event.subject}: an intent for a key that was blocked before (R5)"


def _requests(account: Account):
    """A request that is done has one certificate, any other none; a refused one has its event."""
    made = collections.Counter(record.request_id for record in account.certificates)
    refused = _named(account, EventKind.REQUEST_REFUSED)
    for request_id, state in account.requests.items():
        if made[request_id] != (state is RequestState.DONE):
            yield f"request {request_id}: {state.value} with {made[request_id]} certificates"
        if refused[f"request:{request_id}"] != (state is RequestState.REFUSED):
            yield f"request {request_id}: {state.value} with {refused[f'request:{request_id}']} refusals"
