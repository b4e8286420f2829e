"""
The order of issuance, in one place (docs/issuance.md): reserve, prepare, record intent, sign, check, record.

A batch pays each of the two commits once. Between them every signature that may exist is named by an
intent; nothing is answered before the second.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor

from chancery.asn1 import der
from chancery.ca.issuer import Issuer, LintedCertificate
from chancery.errors import ErrorType, PKIError
from chancery.pkix.profile import Granted, IssuerContext, Profile, grant, requested
from chancery.ports import (
    CertificateRecord,
    Clock,
    EnrolmentRequest,
    Entropy,
    Event,
    EventKind,
    Intent,
    IssuanceStore,
    Refusal,
)

RANDOM_OCTETS = 16
"""R1: 128 CSPRNG bits after the instance octet."""


@dataclasses.dataclass(frozen=True, slots=True)
class LocalIssuer:
    """An issuer whose key this process holds: its stored identity, what profiles need of it, its signer."""

    issuer_id: int
    name: str
    context: IssuerContext
    issuer: Issuer


@dataclasses.dataclass(frozen=True, slots=True)
class Workshop:
    """Everything that issuance takes as given. `instance` is the first octet of every serial, 1..127."""

    worker: str
    instance: int
    issuers: Mapping[str, LocalIssuer]
    default_issuer: str
    profiles: Mapping[str, Profile]
    store: IssuanceStore
    clock: Clock
    entropy: Entropy
    signers: Executor

    def __post_init__(self) -> None:
        if not 1 <= self.instance <= 127:
            raise ValueError("the instance octet of a serial is 1..127, or the serial is not positive")


@dataclasses.dataclass(frozen=True, slots=True)
class _Prepared:
    request: EnrolmentRequest
    local: LocalIssuer
    granted: Granted
    intent: Intent
    linted: LintedCertificate


@dataclasses.dataclass(frozen=True, slots=True)
class _Signed:
    prepared: _Prepared
    certificate: bytes | None
    error: PKIError | None


@dataclasses.dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of a batch; `unconfirmed` intents have been marked and their requests wait again."""

    issued: int
    refused: int
    unconfirmed: int


def issue_batch(shop: Workshop, requests: Sequence[EnrolmentRequest]) -> BatchResult:
    """
    Turn taken requests into certificates, or into refusals in words, in the order that is safe.

    Raises PKIError(SYSTEM_UNAVAIL) when the store is away: then `recover` must run before the next batch.
    """
    now = shop.clock.now()
    prepared: list[_Prepared] = []
    refusals: list[tuple[EnrolmentRequest, PKIError]] = []
    for request in requests:
        try:
            prepared.append(_prepare(shop, request, now))
        except PKIError as error:
            refusals.append((request, error))
    # Step 3, the first commit: after it, and only after it, may the token be asked.
    shop.store.record_intents(
        shop.worker,
        [one.intent for one in prepared],
        [_refusal(request, error) for request, error in refusals],
        [_intent_event(shop, one, now) for one in prepared] + _refusal_events(shop, refusals, now),
    )
    signed = list(shop.signers.map(_sign, prepared)) if prepared else []
    return _record(shop, signed, len(refusals))


def recover(shop: Workshop) -> int:
    """
    Account for what an earlier life of this worker left behind.

    Every intent without a certificate gets the status UNCONFIRMED and an event; its request waits again
    and will get a new serial. Returns how many there were. Idempotent; runs before the first batch and
    after every store failure.
    """
    intents = shop.store.unconfirmed(shop.worker)
    _mark(shop, intents, "the worker stopped between intent and certificate")
    return len(intents)


def _prepare(shop: Workshop, request: EnrolmentRequest, now: datetime.datetime) -> _Prepared:
    """Steps 1 and 2: nothing from the RA is trusted, so key and proof of possession are checked again."""
    profile = shop.profiles.get(request.profile)
    if profile is None:
        raise PKIError(ErrorType.BAD_CERT_TEMPLATE, f"no profile named {request.profile!r}")
    name = request.issuer or profile.default_issuer or shop.default_issuer
    local = shop.issuers.get(name)
    if local is None:
        raise PKIError(ErrorType.BAD_CERT_TEMPLATE, f"no issuer named {name!r} issues here")
    granted = grant(profile, requested(request.csr, request.names), local.context, now)
    serial = new_serial(shop.instance, shop.entropy)
    linted = local.issuer.prepare(granted, serial)
    intent = Intent(
        request_id=request.request_id,
        issuer_id=local.issuer_id,
        serial=serial,
        tbs=linted.tbs,
        not_after=granted.not_after,
        profile=profile.name,
        profile_version=profile.version,
        profile_sha256=profile.sha256,
        recorded_at=now,
    )
    return _Prepared(request, local, granted, intent, linted)


def new_serial(instance: int, entropy: Entropy) -> bytes:
    """One instance octet and 128 random bits: positive, 17 octets, unguessable (R1, RFC 5280 4.1.2.2)."""
    return der.integer_octets(int.from_bytes(bytes((instance,)) + entropy.draw(RANDOM_OCTETS), "big"))


def _sign(prepared: _Prepared) -> _Signed:
    """Steps 4 and 5, on a thread of the signing pool. Any failure leaves the intent to be accounted for."""
    try:
        return _Signed(prepared, prepared.local.issuer.issue(prepared.linted), None)
    except PKIError as error:
        return _Signed(prepared, None, error)


def _record(shop: Workshop, signed: Sequence[_Signed], refused: int) -> BatchResult:
    """Step 6, the second commit; then the intents that got no certificate are marked."""
    now = shop.clock.now()
    done = [one for one in signed if one.certificate is not None]
    # A token that answers wrongly would answer wrongly again: the requestor is told. One that does not
    # answer at all only delays: the request goes back to waiting.
    wrong = [
        (one.prepared.request, one.error)
        for one in signed
        if one.error is not None and one.error.type is not ErrorType.SYSTEM_UNAVAIL
    ]
    shop.store.record_certificates(
        [_certificate_record(one, now) for one in done],
        [_refusal(request, error) for request, error in wrong],
        [_issued_event(shop, one, now) for one in done] + _refusal_events(shop, wrong, now),
    )
    failed = [one for one in signed if one.error is not None]
    if failed:
        _mark(shop, [one.prepared.intent for one in failed], "; ".join(sorted({str(one.error) for one in failed})))
    return BatchResult(len(done), refused + len(wrong), len(failed))


def _mark(shop: Workshop, intents: Sequence[Intent], why: str) -> None:
    now = shop.clock.now()
    events = [
        Event(
            EventKind.INTENT_UNCONFIRMED,
            now,
            shop.worker,
            _subject(intent.issuer_id, intent.serial),
            {"request": intent.request_id, "why": why},
        )
        for intent in intents
    ]
    shop.store.mark_unconfirmed(shop.worker, intents, events)


def _certificate_record(signed: _Signed, now: datetime.datetime) -> CertificateRecord:
    prepared, granted = signed.prepared, signed.prepared.granted
    assert signed.certificate is not None
    return CertificateRecord(
        request_id=prepared.request.request_id,
        issuer_id=prepared.local.issuer_id,
        serial=prepared.intent.serial,
        der=signed.certificate,
        subject=granted.subject_text,
        names=granted.names,
        spki_sha256=granted.spki_sha256,
        not_before=granted.not_before,
        not_after=granted.not_after,
        profile=prepared.intent.profile,
        issued_at=now,
    )


def _subject(issuer_id: int, serial: bytes) -> str:
    return f"{issuer_id}:{serial.hex()}"


def _refusal(request: EnrolmentRequest, error: PKIError) -> Refusal:
    return Refusal(request.request_id, error.type, error.detail)


def _refusal_events(
    shop: Workshop, refused: Iterable[tuple[EnrolmentRequest, PKIError]], now: datetime.datetime
) -> list[Event]:
    return [
        Event(
            EventKind.REQUEST_REFUSED,
            now,
            shop.worker,
            f"request:{request.request_id}",
            {"error": error.type.value, "detail": error.detail, "requestor": request.requestor},
        )
        for request, error in refused
    ]


def _intent_event(shop: Workshop, prepared: _Prepared, now: datetime.datetime) -> Event:
    intent = prepared.intent
    return Event(
        EventKind.INTENT_RECORDED,
        now,
        shop.worker,
        _subject(intent.issuer_id, intent.serial),
        {
            "request": intent.request_id,
            "tbs_sha256": _sha256(intent.tbs),
            "profile": f"{intent.profile} v{intent.profile_version} {intent.profile_sha256.hex()}",
        },
    )


def _issued_event(shop: Workshop, signed: _Signed, now: datetime.datetime) -> Event:
    prepared = signed.prepared
    assert signed.certificate is not None
    return Event(
        EventKind.CERTIFICATE_ISSUED,
        now,
        shop.worker,
        _subject(prepared.intent.issuer_id, prepared.intent.serial),
        {
            "request": prepared.request.request_id,
            "requestor": prepared.request.requestor,
            "protocol": prepared.request.protocol,
            "certificate_sha256": _sha256(signed.certificate),
        },
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
