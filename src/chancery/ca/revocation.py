"""Revoking: one request at a time becomes a status, or a refusal in words. Status goes forwards only."""

from __future__ import annotations

import datetime

from chancery.errors import ErrorType, PKIError
from chancery.pkix.key import tbs_key_sha256
from chancery.ports import (
    BlockedKey,
    CertificateStatus,
    Clock,
    Event,
    EventKind,
    RevocationRequest,
    RevocationStore,
    StatusState,
)


def settle_revocations(store: RevocationStore, clock: Clock, worker: str, limit: int = 100) -> int:
    """
    Settle the waiting revocation requests, oldest first, and return how many there were.

    Each is one transaction: the status, its event and the request's end. Nothing is taken away: killed
    in the middle, the rest is still waiting. Re-issue never revokes by itself; the reason recorded is
    the reason given. One that says that the key is compromised blocks the key in the same transaction (R5).
    """
    waiting = store.take_revocations(limit)
    for request in waiting:
        try:
            _settle(store, clock, worker, request)
        except PKIError as error:
            if error.type is not ErrorType.SYSTEM_FAILURE:
                raise
            # One that the store does not take must not hold up the others for ever.
            _refuse(store, clock, worker, request, "the database refused to record it")
    return len(waiting)


def _settle(store: RevocationStore, clock: Clock, worker: str, request: RevocationRequest) -> None:
    status = store.status(request.issuer_id, request.serial)
    refusal = _refusal(store, request, status)
    if refusal is None and status is not None:
        _revoke(store, clock, worker, request, status)
    else:
        _refuse(store, clock, worker, request, refusal or "")


def _refusal(store: RevocationStore, request: RevocationRequest, status: CertificateStatus | None) -> str | None:
    """Say why not, or None. The RA is not trusted: the requestor's right is looked up again."""
    if not store.requestor_may_revoke(request.requestor, request.issuer_id, request.serial):
        return f"{request.requestor} may not revoke this certificate"
    if status is None:
        return "this issuer never used that serial number"
    if status.state is StatusState.REVOKED:
        return f"already revoked at {status.revoked_at:%Y-%m-%d %H:%M:%S} UTC"
    return None


def _revoke(
    store: RevocationStore, clock: Clock, worker: str, request: RevocationRequest, status: CertificateStatus
) -> None:
    now = clock.now()
    revoked = CertificateStatus(
        issuer_id=status.issuer_id,
        serial=status.serial,
        state=StatusState.REVOKED,
        not_after=status.not_after,
        # Whole seconds, as CRL and OCSP will say it (RFC 5280 5.3).
        revoked_at=now.replace(microsecond=0),
        reason=request.reason,
        invalidity_date=request.invalidity_date,
        shard=status.shard,
    )
    event = Event(
        EventKind.CERTIFICATE_REVOKED,
        now,
        worker,
        f"{request.issuer_id}:{request.serial.hex()}",
        {
            "reason": request.reason.name.lower(),
            "requestor": request.requestor,
            "revocation": request.revocation_id,
        },
    )
    block = _block(store, request, now) if request.reason.compromised else None
    events = [event] if block is None else [event, _blocked_event(block, now, worker, event.subject)]
    store.revoke(revoked, request, None, events, block)


def _block(store: RevocationStore, request: RevocationRequest, now: datetime.datetime) -> BlockedKey | None:
    """R5: the key of a serial that is revoked as compromised, unless it is blocked; an intent alone will do."""
    tbs = store.tbs(request.issuer_id, request.serial)
    key = None if tbs is None else tbs_key_sha256(tbs)
    # What nobody can read was never signed; its revocation goes on.
    if key is None or store.blocked([key]):
        return None
    reason = f"{request.reason.name.lower()} of certificate {request.issuer_id}:{request.serial.hex()}"
    return BlockedKey(key, reason, now, request.requestor)


def _blocked_event(key: BlockedKey, now: datetime.datetime, worker: str, certificate: str) -> Event:
    detail = {"certificate": certificate, "reason": key.reason, "requestor": key.blocked_by}
    return Event(EventKind.KEY_BLOCKED, now, worker, f"key:{key.spki_sha256.hex()}", detail)


def _refuse(store: RevocationStore, clock: Clock, worker: str, request: RevocationRequest, refusal: str) -> None:
    event = Event(
        EventKind.REVOCATION_REFUSED,
        clock.now(),
        worker,
        f"{request.issuer_id}:{request.serial.hex()}",
        {"requestor": request.requestor, "revocation": request.revocation_id, "why": refusal},
    )
    store.revoke(None, request, refusal, [event])
