"""
The order of issuance, in one place (docs/issuance.md): reserve, prepare, record intent, sign, check, record.

A batch pays each of the two commits once. Between them every signature that may exist is named by an
intent; nothing is answered before the second.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import datetime
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor

from chancery.ca.issuer import Issuer, LintedCertificate
from chancery.ca.possession import check_statement
from chancery.errors import ErrorType, PKIError
from chancery.pkix.granting import Granted, Requested
from chancery.pkix.key import spki_der
from chancery.pkix.name import prepared
from chancery.pkix.path import is_self_signed
from chancery.pkix.profile import Profile, grant, requested
from chancery.pkix.weak import KEY_COMPROMISED, KnownKeys
from chancery.ports import (
    CertificateRecord,
    Clock,
    EnrolmentRequest,
    Entropy,
    Event,
    EventDetail,
    EventKind,
    Intent,
    IssuanceStore,
    Refusal,
    SecondOpinion,
)

RANDOM_OCTETS = 16
"""R1: 128 CSPRNG bits after the instance octet."""
MAX_DROPPED = 2000
"""Characters of the words about what was asked for and not granted."""


@dataclasses.dataclass(frozen=True, slots=True)
class Issuing:
    """
    Everything that issuance takes as given. `instance` is an octet of every serial, 1..127.

    `ceremony` is True at the offline CA alone: elsewhere a ceremony profile is refused (R8). `signers`, where
    given, is a pool of threads that help to sign a batch, so that `signing_threads` sign at once; `weak_keys` are
    lists of keys that are known to all (R5). `service_keys` are SHA-256 of the SubjectPublicKeyInfos that may have
    certificates of the authority's own services (`Profile.service`), whoever asks; None leaves that to the
    requestor's rights.
    `second_opinions` are linters of others, by the names that profiles know them by.
    `ca_keys` are the same for CA certificates, without any none is made outside a ceremony.
    `inactive` are issuers by name that issue no more: their own OCSP delegates alone go on.
    """

    store: IssuanceStore
    issuers: Mapping[str, Issuer]
    default_issuer: str
    profiles: Mapping[str, Profile]
    clock: Clock
    entropy: Entropy
    instance: int
    worker: str
    ceremony: bool = False
    signers: Executor | None = None
    signing_threads: int = 4
    weak_keys: KnownKeys | None = None
    service_keys: frozenset[bytes] | None = None
    second_opinions: Mapping[str, SecondOpinion] = dataclasses.field(default_factory=dict)
    ca_keys: frozenset[bytes] = frozenset()
    inactive: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        _check_instance(self.instance)


@dataclasses.dataclass(frozen=True, slots=True)
class BatchResult:
    """
    What became of a batch; `unconfirmed` intents are marked, their requests wait again or are refused.

    `unsigned_by` are the names of the issuers that those intents are of.
    """

    issued: int
    refused: int
    unconfirmed: int
    unsigned_by: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class _Prepared:
    """What is ready to be signed; `key` is SHA-256 of the subject's SubjectPublicKeyInfo."""

    request: EnrolmentRequest
    issuer: Issuer
    granted: Granted
    intent: Intent
    linted: LintedCertificate
    key: bytes
    stated: Requested | None
    """What was asked for, where possession of the key is stated and not proven."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Signed:
    prepared: _Prepared
    certificate: bytes
    error: PKIError | None


def _check_instance(instance: int) -> None:
    if not 1 <= instance <= 127:
        raise ValueError("the instance octet of a serial is 1..127, or the serial is not positive")


def serial_prefix(not_after: datetime.datetime, instance: int) -> bytes:
    """
    Return what a serial begins with: the day of expiry (days since 1970, two octets) and the instance octet.

    The day is how the database knows the partition of a serial. From 2059-09-19 on it stays the last one that
    leaves the serial positive.
    """
    _check_instance(instance)
    days = (not_after.astimezone(datetime.UTC).date() - datetime.date(1970, 1, 1)).days
    return min(max(days, 0x0100), 0x7FFF).to_bytes(2, "big") + bytes((instance,))


def make_serial(instance: int, entropy: Entropy, not_after: datetime.datetime | None = None) -> bytes:
    """
    One instance octet (1..127) and 128 random bits: positive, unguessable (R1, RFC 5280 4.1.2.2).

    Returns the content octets of the INTEGER: 17, or 19 that begin as `serial_prefix`, for what a database keeps.
    The instance octet keeps workers and the offline CA from ever drawing the same one.
    """
    _check_instance(instance)
    prefix = bytes((instance,)) if not_after is None else serial_prefix(not_after, instance)
    return prefix + entropy.draw(RANDOM_OCTETS)


def issue_batch(issuing: Issuing, requests: Sequence[EnrolmentRequest]) -> BatchResult:
    """
    Turn taken requests into certificates, or into refusals in words, in the order that is safe.

    What the store refuses to record is refused alone; the rest goes on. Raises PKIError when the store fails:
    then `recover` must run before the next batch.
    """
    now = issuing.clock.now()
    prepared: list[_Prepared] = []
    refused: list[tuple[EnrolmentRequest, PKIError]] = []
    for request in requests:
        try:
            prepared.append(_prepare(issuing, request, now))
        except PKIError as error:
            refused.append((request, error))
        except Exception:  # noqa: BLE001 - one request that nobody foresaw must not hold up the others
            refused.append((request, PKIError(ErrorType.SYSTEM_FAILURE, "the request could not be processed")))
    prepared = _rightly_stated(issuing, prepared, refused, now)
    # Step 3, the first commit: after it, and only after it, may the token be asked.
    prepared, refused = _record_intents(issuing, prepared, refused, now)
    if not prepared:
        return BatchResult(0, len(refused), 0)
    return _record(issuing, _sign_all(issuing, prepared), len(refused))


def recover(issuing: Issuing) -> int:
    """
    Account for what an earlier life of this worker left behind; return how many intents it was.

    Every intent without a certificate gets the status UNCONFIRMED and an event; its request waits again and
    will get a new serial. Idempotent; runs before the first batch and after every failure of the store.
    """
    intents = issuing.store.unconfirmed(issuing.worker)
    _mark(issuing, [(intent, "the worker stopped between intent and certificate") for intent in intents])
    return len(intents)


def intent_of(
    request: EnrolmentRequest,
    issuer_id: int,
    serial: bytes,
    linted: LintedCertificate,
    *,
    profile: Profile,
    at: datetime.datetime,
) -> Intent:
    """Return the record that `linted` is about to be signed under this serial, for this request."""
    return Intent(
        request_id=request.request_id,
        issuer_id=issuer_id,
        serial=serial,
        tbs=linted.der,
        not_after=linted.not_after,
        profile=profile.name,
        profile_version=profile.version,
        profile_sha256=profile.sha256,
        recorded_at=at,
        shard=linted.shard,
    )


def _prepare(issuing: Issuing, request: EnrolmentRequest, now: datetime.datetime) -> _Prepared:
    """Steps 1 and 2: nothing from the RA is trusted, so key and proof of possession are checked again."""
    if request.requestor_removed:
        raise PKIError(ErrorType.NOT_AUTHORIZED, f"{request.requestor} is no operator any more")
    profile = issuing.profiles.get(request.profile)
    if profile is None:
        raise PKIError(ErrorType.BAD_CERT_TEMPLATE, f"no profile named {request.profile!r}")
    if profile.ceremony and not issuing.ceremony:
        raise PKIError(ErrorType.NOT_AUTHORIZED, f"{profile.name} is signed in a ceremony of the offline CA (R8)")
    if not request.profile_active:
        raise PKIError(ErrorType.NOT_AUTHORIZED, f"the profile {profile.name} is deactivated")
    issuer = _issuer(issuing, request, profile)
    asked = requested(request.csr, request.names, request.wish)
    if issuing.weak_keys is not None:
        issuing.weak_keys.check(asked.public_key)
    _check_service(issuing, profile, asked)
    _check_ca(issuing, profile, issuer, asked)
    granted = grant(profile, asked, issuer.limits, now)
    serial = make_serial(issuing.instance, issuing.entropy, granted.not_after)
    _check_name(issuing, profile, granted)
    linted = issuer.prepare(granted, serial)
    _ask_others(issuing, profile, issuer, linted)
    intent = intent_of(request, issuer.record.issuer_id, serial, linted, profile=profile, at=now)
    key, stated = hashlib.sha256(granted.spki).digest(), asked if asked.signer else None
    return _Prepared(request, issuer, granted, intent, linted, key, stated)


def _issuer(issuing: Issuing, request: EnrolmentRequest, profile: Profile) -> Issuer:
    """Return who issues this; BAD_CERT_TEMPLATE when the one asked for is not here, or issues no more."""
    name = request.issuer or profile.default_issuer or issuing.default_issuer
    issuer = issuing.issuers.get(name)
    if issuer is None:
        raise PKIError(ErrorType.BAD_CERT_TEMPLATE, f"no issuer named {name!r} issues here")
    if name in issuing.inactive and not profile.ocsp:
        detail = f"the issuer {name} is deactivated and issues no more certificates"
        if issuing.default_issuer not in {name, *issuing.inactive}:
            detail += f"; {issuing.default_issuer} does"
        raise PKIError(ErrorType.BAD_CERT_TEMPLATE, detail)
    return issuer


def _check_name(issuing: Issuing, profile: Profile, granted: Granted) -> None:
    """Refuse the name of a CA that issues here to what is no CA: it would be believed to sign that one's CRLs."""
    name = prepared(granted.subject_text)
    if not profile.extensions.ca and any(name in one.names for one in issuing.issuers.values()):
        detail = "the subject is the name of a CA (RFC 5280 6.3.3 f)"
        raise PKIError(ErrorType.BAD_CERT_TEMPLATE, detail)


def _check_service(issuing: Issuing, profile: Profile, asked: Requested) -> None:
    """
    Refuse a certificate of the authority's own services to a key that the worker was not told of.

    The web process can write any request: it must not be able to make itself a responder or a clock.
    """
    if not profile.service or issuing.service_keys is None:
        return
    if hashlib.sha256(spki_der(asked.public_key)).digest() not in issuing.service_keys:
        raise PKIError(
            ErrorType.NOT_AUTHORIZED,
            f"{profile.name} is for the keys in the worker's configuration (service_keys), not for this one",
        )


def _check_ca(issuing: Issuing, profile: Profile, issuer: Issuer, asked: Requested) -> None:
    """Refuse a CA certificate outside a ceremony by a root (R8), or for a key that the worker was not told of."""
    if not profile.extensions.ca or issuing.ceremony:
        return
    if is_self_signed(issuer.certificate):
        raise PKIError(ErrorType.NOT_AUTHORIZED, f"{issuer.record.name} is a root and signs in a ceremony (R8)")
    if hashlib.sha256(spki_der(asked.public_key)).digest() not in issuing.ca_keys:
        raise PKIError(
            ErrorType.NOT_AUTHORIZED,
            f"{profile.name} is for the keys in the worker's configuration (ca_keys), not for this one",
        )


def _ask_others(issuing: Issuing, profile: Profile, issuer: Issuer, linted: LintedCertificate) -> None:
    """R9: what a linter that the profile names has against it blocks; so does one that gives no answer."""
    for name in profile.second_opinions.before_signing:
        opinion = issuing.second_opinions.get(name)
        if opinion is None:
            raise PKIError(
                ErrorType.SYSTEM_FAILURE, f"{profile.name} wants the linter {name!r}, which is not here"
            )
        if (said := opinion(issuer.lint_copy(linted))) is not None:
            raise PKIError(ErrorType.BAD_CERT_TEMPLATE, said)


def _record_intents(
    issuing: Issuing,
    prepared: list[_Prepared],
    refused: list[tuple[EnrolmentRequest, PKIError]],
    at: datetime.datetime,
) -> tuple[list[_Prepared], list[tuple[EnrolmentRequest, PKIError]]]:
    """
    Commit intents and refusals, one by one when the store refuses the batch; return them as they then stand.

    R5: what is for a key that was ever reported compromised, through whatever channel, is refused.
    """

    def record(some: Sequence[_Prepared], others: Sequence[tuple[EnrolmentRequest, PKIError]]) -> set[bytes]:
        return issuing.store.record_intents(
            issuing.worker,
            [one.intent for one in some],
            [_refusal(request, error) for request, error in others],
            [_intent_event(issuing, one, at) for one in some] + _refusal_events(issuing, others, at),
            [one.key for one in some],
        )

    refused = list(refused)
    compromised = PKIError(ErrorType.BAD_CERT_TEMPLATE, KEY_COMPROMISED)
    try:
        while blocked := record(prepared, refused):
            refused += [(one.request, compromised) for one in prepared if one.key in blocked]
            prepared = [one for one in prepared if one.key not in blocked]
    except PKIError as error:
        _only_refused(error)
    else:
        return prepared, refused
    recorded = []
    for one in prepared:
        try:
            if record([one], []):
                refused.append((one.request, compromised))
            else:
                recorded.append(one)
        except PKIError as error:
            refused.append((one.request, _only_refused(error)))
    for other in refused:
        record([], [other])
    return recorded, refused


def _only_refused(error: PKIError) -> PKIError:
    """Return the refusal for what the store refused; raise again when it did not answer."""
    if error.type is not ErrorType.SYSTEM_FAILURE:
        raise error
    return PKIError(ErrorType.SYSTEM_FAILURE, "the database refused to record it")


def _sign_all(issuing: Issuing, prepared: Sequence[_Prepared]) -> list[_Signed]:
    """
    Sign each, in whatever order. This thread signs, too, and a lone certificate alone.

    Every thread takes the next when it is through with one: to hand over each by itself would cost more than a
    signature in software.
    """
    waiting = collections.deque(prepared)
    signed: list[_Signed] = []

    def sign() -> None:
        while True:
            try:
                one = waiting.popleft()
            except IndexError:
                return
            signed.append(_sign(one))

    more = min(issuing.signing_threads, len(prepared)) - 1
    helpers = [] if issuing.signers is None else [issuing.signers.submit(sign) for _ in range(more)]
    try:
        sign()
    finally:
        # Whatever happened here, nobody signs on behind the caller's back.
        waiting.clear()
        concurrent.futures.wait(helpers)
    for helper in helpers:
        helper.result()
    return signed


def _rightly_stated(
    issuing: Issuing,
    prepared: list[_Prepared],
    refused: list[tuple[EnrolmentRequest, PKIError]],
    now: datetime.datetime,
) -> list[_Prepared]:
    """Take out what states possession of a key without the right to; a store that is away is nobody's refusal."""
    if all(one.stated is None for one in prepared):
        return prepared
    found = []
    for one in prepared:
        try:
            if one.stated is not None:
                check_statement(issuing.store, issuing.issuers.values(), one.stated, now)
        except PKIError as error:
            if error.type is ErrorType.SYSTEM_UNAVAIL:
                raise
            refused.append((one.request, error))
        else:
            found.append(one)
    return found


def _sign(prepared: _Prepared) -> _Signed:
    """Steps 4 and 5, perhaps on a thread of the pool. Any failure leaves the intent to be accounted for."""
    try:
        return _Signed(prepared, prepared.issuer.issue(prepared.linted), None)
    except PKIError as error:
        return _Signed(prepared, b"", error)
    except Exception as error:  # noqa: BLE001 - whatever a token throws, a signature may exist
        detail = f"the token failed: {type(error).__name__}"
        return _Signed(prepared, b"", PKIError(ErrorType.SYSTEM_FAILURE, detail))


def _record(issuing: Issuing, signed: Sequence[_Signed], refused: int) -> BatchResult:
    """Step 6, the second commit; then the intents that got no certificate are marked."""
    now = issuing.clock.now()
    done = [one for one in signed if one.error is None]
    failed = [(one.prepared, one.error) for one in signed if one.error is not None]
    # A token that answers wrongly would answer wrongly again: the requestor is told. One that does not
    # answer at all only delays: the request goes back to waiting.
    wrong = [(one.request, error) for one, error in failed if error.type is not ErrorType.SYSTEM_UNAVAIL]
    if done or wrong:
        unstored = _record_certificates(issuing, done, wrong, now)
        failed += unstored
        wrong += [(one.request, error) for one, error in unstored]
    if failed:
        _mark(issuing, [(one.intent, error.detail) for one, error in failed])
    unsigned_by = tuple(sorted({one.issuer.record.name for one, _ in failed}))
    return BatchResult(len(signed) - len(failed), refused + len(wrong), len(failed), unsigned_by)


def _record_certificates(
    issuing: Issuing,
    done: Sequence[_Signed],
    wrong: Sequence[tuple[EnrolmentRequest, PKIError]],
    at: datetime.datetime,
) -> list[tuple[_Prepared, PKIError]]:
    """
    Commit certificates and refusals; return what the store refused, refused in its turn.

    Asked for again, it would be signed and refused again, and hold up its batch for ever.
    """

    def record(some: Sequence[_Signed], others: Sequence[tuple[EnrolmentRequest, PKIError]]) -> None:
        issuing.store.record_certificates(
            [_certificate_record(one, at) for one in some],
            [_refusal(request, error) for request, error in others],
            [_issued_event(issuing, one, at) for one in some] + _refusal_events(issuing, others, at),
        )

    try:
        record(done, wrong)
    except PKIError as error:
        _only_refused(error)
    else:
        return []
    unstored = []
    for one in done:
        try:
            record([one], [])
        except PKIError as error:
            unstored.append((one.prepared, _only_refused(error)))
    for other in [*wrong, *((one.request, error) for one, error in unstored)]:
        record([], [other])
    return unstored


def _mark(issuing: Issuing, intents: Sequence[tuple[Intent, str]]) -> None:
    now = issuing.clock.now()
    events = [
        Event(
            EventKind.INTENT_UNCONFIRMED,
            now,
            issuing.worker,
            _subject(intent),
            {"request": intent.request_id, "tbs_sha256": _sha256(intent.tbs), "why": why},
        )
        for intent, why in intents
    ]
    issuing.store.mark_unconfirmed(issuing.worker, [intent for intent, _ in intents], events)


def _certificate_record(signed: _Signed, now: datetime.datetime) -> CertificateRecord:
    prepared, granted = signed.prepared, signed.prepared.granted
    return CertificateRecord(
        request_id=prepared.request.request_id,
        issuer_id=prepared.intent.issuer_id,
        serial=prepared.intent.serial,
        der=signed.certificate,
        subject=granted.subject_text,
        names=granted.names,
        spki_sha256=prepared.key,
        not_before=granted.not_before,
        not_after=granted.not_after,
        profile=prepared.intent.profile,
        issued_at=now,
        shard=prepared.intent.shard,
        dropped=_dropped(granted),
    )


def _dropped(granted: Granted) -> str | None:
    """In words for the requestor, of a bounded length."""
    return f"not granted: {'; '.join(granted.dropped)}"[:MAX_DROPPED] if granted.dropped else None


def _subject(intent: Intent) -> str:
    return f"{intent.issuer_id}:{intent.serial.hex()}"


def _refusal(request: EnrolmentRequest, error: PKIError) -> Refusal:
    return Refusal(request.request_id, error.type, error.detail)


def _asked(request: EnrolmentRequest) -> dict[str, str | int]:
    """What every event about a request says of it."""
    return {
        "request": request.request_id,
        "requestor": request.requestor,
        "protocol": request.protocol,
        "transaction": request.transaction_id,
    }


def _refusal_events(
    issuing: Issuing, refused: Iterable[tuple[EnrolmentRequest, PKIError]], now: datetime.datetime
) -> list[Event]:
    return [
        Event(
            EventKind.REQUEST_REFUSED,
            now,
            issuing.worker,
            f"request:{request.request_id}",
            {**_asked(request), "profile": request.profile, "error": error.type.value, "detail": error.detail},
        )
        for request, error in refused
    ]


def _intent_event(issuing: Issuing, prepared: _Prepared, now: datetime.datetime) -> Event:
    intent = prepared.intent
    detail: EventDetail = {
        **_asked(prepared.request),
        "issuer": prepared.issuer.record.name,
        "profile": intent.profile,
        "profile_version": intent.profile_version,
        "profile_sha256": intent.profile_sha256.hex(),
        "tbs_sha256": _sha256(intent.tbs),
    }
    if prepared.granted.dropped:
        detail = {**detail, "dropped": prepared.granted.dropped}
    if prepared.stated is not None and prepared.stated.signer is not None:
        # No proof: who is known to be the subject has said so (RFC 9883).
        detail = {**detail, "possession_stated_by_sha256": _sha256(prepared.stated.signer)}
    return Event(EventKind.INTENT_RECORDED, now, issuing.worker, _subject(intent), detail)


def _issued_event(issuing: Issuing, signed: _Signed, now: datetime.datetime) -> Event:
    prepared = signed.prepared
    detail: EventDetail = {
        **_asked(prepared.request),
        "issuer": prepared.issuer.record.name,
        "subject": prepared.granted.subject_text,
        "names": prepared.granted.names,
        "certificate_sha256": _sha256(signed.certificate),
    }
    return Event(EventKind.CERTIFICATE_ISSUED, now, issuing.worker, _subject(prepared.intent), detail)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
