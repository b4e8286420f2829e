"""
Revoking, suspending and reinstating: waiting requests become statuses, or refusals in words.

Status goes forwards only, but for certificateHold (RFC 5280 5.3.1), which may be taken back by those who may.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence

from chancery.errors import ErrorType, PKIError
from chancery.pkix.key import tbs_key_sha256
from chancery.pkix.usage import kept_until, may_serve_tls, not_before
from chancery.ports import (
    BlockedKey,
    CertificateStatus,
    Clock,
    Event,
    EventDetail,
    EventKind,
    RevocationReason,
    RevocationRequest,
    RevocationStore,
    Settlement,
    Standing,
    StatusState,
)

BATCH = 256
"""Most revocations of one transaction. Between two of them the worker issues: mass revocation delays nobody."""
_REINSTATE = RevocationReason.REMOVE_FROM_CRL
_KINDS = {
    RevocationReason.CERTIFICATE_HOLD: EventKind.CERTIFICATE_SUSPENDED,
    _REINSTATE: EventKind.CERTIFICATE_REINSTATED,
}


def settle_revocations(store: RevocationStore, clock: Clock, worker: str, limit: int = BATCH) -> int:
    """
    Settle waiting revocation requests, oldest first, in one transaction, and return how many they were.

    Their statuses, events and ends are durable together. Nothing is taken away: killed in the middle, they are
    still waiting. The second request about a serial waits for the first. Re-issue never revokes by itself; the
    reason recorded is the reason given. One that says that the key is compromised blocks the key (R5).
    """
    waiting: dict[tuple[int, bytes], RevocationRequest] = {}
    for request in store.take_revocations(limit):
        if (request.issuer_id, request.serial) in waiting:
            break
        waiting[request.issuer_id, request.serial] = request
    if waiting:
        _settle(store, clock, worker, list(waiting.values()))
    return len(waiting)


def _settle(store: RevocationStore, clock: Clock, worker: str, requests: Sequence[RevocationRequest]) -> None:
    now = clock.now()
    try:
        store.settle(settlements_of(store, requests, now, worker))
    except PKIError as error:
        if error.type is not ErrorType.SYSTEM_FAILURE:
            raise
        if len(requests) > 1:
            # One that the store does not take must not hold up the others for ever.
            for request in requests:
                _settle(store, clock, worker, [request])
        else:
            store.settle([_refused(requests[0], "the database refused to record it", now, worker)])


def settlements_of(
    store: RevocationStore, requests: Sequence[RevocationRequest], now: datetime.datetime, worker: str
) -> list[Settlement]:
    """Judge these requests, each about another serial, as things stand; nothing is stored."""
    settlements = [
        _settlement(request, standing, now, worker)
        for request, standing in zip(requests, store.standings(requests), strict=True)
    ]
    return _blocking(store, settlements, worker)


def _settlement(request: RevocationRequest, standing: Standing, now: datetime.datetime, worker: str) -> Settlement:
    refusal = _refusal(request, standing, now)
    if refusal is not None or standing.status is None:
        return _refused(request, refusal or "", now, worker)
    kept = None if standing.tbs is None else kept_until(standing.tbs, standing.status.not_after)
    before, detail = dataclasses.replace(standing.status, kept_until=kept), _told(request)
    if request.reason is _REINSTATE:
        assert before.revoked_at is not None
        detail["held_since"] = before.revoked_at.isoformat()
        # The clock may have been set back since.
        after = _status(before, StatusState.GOOD, released_at=max(now, before.revoked_at))
    else:
        if before.held:
            assert before.revoked_at is not None
            detail["held_since"] = before.revoked_at.isoformat()
        after = _status(
            before,
            StatusState.REVOKED,
            # Whole seconds, as CRL and OCSP will say it (RFC 5280 5.3). The day of a hold stays (X.509 9.5.3.2).
            revoked_at=before.revoked_at or now.replace(microsecond=0),
            reason=request.reason,
            invalidity_date=request.invalidity_date,
            released_at=before.released_at,
        )
    kind = _KINDS.get(request.reason, EventKind.CERTIFICATE_REVOKED)
    event = Event(kind, now, worker, _subject(request), detail)
    return Settlement(request, after, None, (event,), _block(request, standing, now))


def _status(
    before: CertificateStatus,
    state: StatusState,
    *,
    released_at: datetime.datetime | None,
    revoked_at: datetime.datetime | None = None,
    reason: RevocationReason | None = None,
    invalidity_date: datetime.datetime | None = None,
) -> CertificateStatus:
    whose = (before.issuer_id, before.serial, state, before.not_after)
    times = (invalidity_date, released_at)
    return CertificateStatus(*whose, revoked_at, reason, *times, before.shard, before.kept_until)


def _refusal(request: RevocationRequest, standing: Standing, now: datetime.datetime) -> str | None:
    """Say why not, or None. The RA is not trusted: right and bounds are looked at again."""
    reinstate = request.reason is _REINSTATE
    if not (standing.may_reinstate if reinstate else standing.may_revoke):
        return f"{request.requestor} may not {'reinstate' if reinstate else 'revoke'} this certificate"
    status = standing.status
    if status is None:
        return "this issuer never used that serial number"
    if reinstate:
        return None if status.held else f"{_state(status)}: only a suspended certificate can be reinstated"
    if status.state is StatusState.REVOKED and (not status.held or not request.reason.final):
        return _state(status)
    if request.reason is RevocationReason.CERTIFICATE_HOLD and (why := _no_hold(standing)):
        return why
    return _impossible_date(request, standing, now)


def _state(status: CertificateStatus) -> str:
    if status.revoked_at is None:
        return f"it is {status.state.value}"
    return f"already {'suspended' if status.held else 'revoked'} at {status.revoked_at:%Y-%m-%d %H:%M:%S} UTC"


def _no_hold(standing: Standing) -> str | None:
    if standing.certificate is None:
        return "no certificate is stored for this serial number: revoke it instead"
    if may_serve_tls(standing.certificate):
        return "a certificate that may serve TLS is never suspended (R15): revoke it instead"
    return None


def _impossible_date(request: RevocationRequest, standing: Standing, now: datetime.datetime) -> str | None:
    """RFC 5280 5.3.2: the date on which it is known or suspected that the key was compromised."""
    if request.invalidity_date is None:
        return None
    if request.invalidity_date > now:
        return "the invalidity date lies in the future"
    if standing.certificate is None:
        return None
    begins = not_before(standing.certificate)
    if begins is not None and request.invalidity_date < begins:
        return f"the invalidity date lies before the certificate's notBefore, {begins:%Y-%m-%d %H:%M:%S} UTC"
    return None


def _block(request: RevocationRequest, standing: Standing, now: datetime.datetime) -> BlockedKey | None:
    """R5: the key of a serial that is revoked as compromised; an intent alone will do."""
    key = tbs_key_sha256(standing.tbs) if request.reason.compromised and standing.tbs is not None else None
    # What nobody can read was never signed; its revocation goes on.
    if key is None:
        return None
    return BlockedKey(
        key, f"{request.reason.name.lower()} of certificate {_subject(request)}", now, request.requestor
    )


def _blocking(store: RevocationStore, settlements: Sequence[Settlement], worker: str) -> list[Settlement]:
    """Keep a key to block, and add its event, where it is not blocked yet, nor by one before it."""
    keys = [one.block.spki_sha256 for one in settlements if one.block is not None]
    blocked = store.blocked(keys) if keys else set()
    found: list[Settlement] = []
    for one in settlements:
        block, events = one.block, one.events
        if block is not None and block.spki_sha256 in blocked:
            block = None
        elif block is not None:
            blocked |= {block.spki_sha256}
            events = (*events, _blocked_event(block, worker, events[0].subject))
        found.append(Settlement(one.request, one.status, one.refusal, events, block))
    return found


def _blocked_event(key: BlockedKey, worker: str, certificate: str) -> Event:
    detail = {"certificate": certificate, "reason": key.reason, "requestor": key.blocked_by}
    return Event(EventKind.KEY_BLOCKED, key.blocked_at, worker, f"key:{key.spki_sha256.hex()}", detail)


def _refused(request: RevocationRequest, refusal: str, now: datetime.datetime, worker: str) -> Settlement:
    detail: EventDetail = {**_told(request), "why": refusal}
    event = Event(EventKind.REVOCATION_REFUSED, now, worker, _subject(request), detail)
    return Settlement(request, None, refusal, (event,))


def _told(request: RevocationRequest) -> dict[str, str | int]:
    return {
        "reason": request.reason.name.lower(),
        "requestor": request.requestor,
        "revocation": request.revocation_id,
    }


def _subject(request: RevocationRequest) -> str:
    return f"{request.issuer_id}:{request.serial.hex()}"
