"""Whether a serial's status is what the journal says became of it, with or without a certificate."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterator, Mapping, Sequence

from chancery.audit import trail
from chancery.audit.findings import Finding, Kind
from chancery.audit.trail import Act
from chancery.pkix.usage import kept_until
from chancery.ports import EventKind
from chancery.ports.auditing import AuditedRevocation, AuditedSerial, AuditedStatus

GRACE = datetime.timedelta(minutes=10)
"""How long an intent may stand without a certificate and without a mark: its worker is starting again."""
_REASONS = {
    0: "unspecified",
    1: "key_compromise",
    2: "ca_compromise",
    3: "affiliation_changed",
    4: "superseded",
    5: "cessation_of_operation",
    6: "certificate_hold",
    8: "remove_from_crl",
    9: "privilege_withdrawn",
    10: "aa_compromise",
}


def _about(row: AuditedSerial) -> str:
    return f"{row.issuer_id}:{row.serial.hex()}"


def asked(row: AuditedSerial) -> dict[str, object]:
    """Return what every event about a serial says of its request."""
    if row.request is None:
        return {}
    request = row.request.request
    return {
        "request": request.request_id,
        "requestor": request.requestor,
        "protocol": request.protocol,
        "transaction": request.transaction_id,
    }


def intent_agrees(row: AuditedSerial, act: Act, expected: Mapping[str, object]) -> Iterator[Finding]:
    """Compare the stored intent with its event; `expected` is what the event says besides."""
    if row.intent is None:
        return
    told = {
        "profile": row.intent.profile,
        "profile_version": row.intent.profile_version,
        "profile_sha256": row.intent.profile_sha256.hex(),
        "tbs_sha256": hashlib.sha256(row.intent.tbs).hexdigest(),
    }
    yield from trail.says(act, _about(row), {**expected, **told})
    yield from trail.dated(act, _about(row), row.intent.recorded_at, "recorded_at")


def judge(row: AuditedSerial, acts: Sequence[Act]) -> Iterator[Finding]:
    """Give every finding about the status of a serial that has a certificate."""
    about, status = _about(row), row.status
    marked = trail.of(acts, EventKind.INTENT_UNCONFIRMED, about)
    if marked:
        yield Finding(Kind.WRONG_STATUS, about, "it was journalled as unconfirmed, and has a certificate")
    if status is None:
        yield Finding(Kind.WRONG_STATUS, about, "it has no status")
        return
    if row.certificate is not None and status.not_after != row.certificate.not_after:
        yield Finding(Kind.WRONG_COLUMN, about, "not_after of its status is not the certificate's")
    if row.intent is not None and status.shard != row.intent.shard:
        yield Finding(Kind.WRONG_COLUMN, about, "its status is of another shard than its intent (R15)")
    if status.state not in {"good", "revoked"}:
        yield Finding(Kind.WRONG_STATUS, about, f"it has a certificate and is {status.state}")
        return
    yield from _revocation(row, status, acts)


def unfinished(row: AuditedSerial, at: datetime.datetime) -> Iterator[Finding]:
    """Give every finding about an intent that has no certificate, as of the time `at`."""
    assert row.intent is not None
    acts, about, status = trail.read(row.entries), _about(row), row.status
    intended = trail.of(acts, EventKind.INTENT_RECORDED, about)
    yield from trail.once(intended, EventKind.INTENT_RECORDED, about)
    for act in intended[:1]:
        yield from intent_agrees(row, act, asked(row))
    if issued := trail.of(acts, EventKind.CERTIFICATE_ISSUED, about):
        sha256 = issued[0].detail.get("certificate_sha256")
        what = f"event {issued[0].event_id} says that it was issued, and it is not stored; its SHA-256 is {sha256}"
        yield Finding(Kind.MISSING, about, what)
        return
    marked = trail.of(acts, EventKind.INTENT_UNCONFIRMED, about)
    if status is None:
        if row.intent.recorded_at < at - GRACE or marked:
            when = row.intent.recorded_at.isoformat(timespec="seconds")
            what = f"the intent of {when} by {row.worker} has neither certificate nor mark"
            yield Finding(Kind.UNFINISHED, about, what)
        return
    if status.shard != row.intent.shard:
        yield Finding(Kind.WRONG_COLUMN, about, "its status is of another shard than its intent (R15)")
    if status.not_after != row.intent.not_after:
        yield Finding(Kind.WRONG_COLUMN, about, "not_after of its status is not the intent's")
    if status.state not in {"unconfirmed", "revoked"}:
        yield Finding(Kind.WRONG_STATUS, about, f"no certificate is stored, and it is {status.state}")
        return
    if marked or status.state == "unconfirmed":
        yield from trail.once(marked, EventKind.INTENT_UNCONFIRMED, about)
        yield from trail.ordered(about, *intended[:1], *marked[:1])
    yield from _revocation(row, status, acts)


_STEPS = (
    EventKind.CERTIFICATE_SUSPENDED,
    EventKind.CERTIFICATE_REINSTATED,
    EventKind.CERTIFICATE_REVOKED,
)
_FROM = {
    EventKind.CERTIFICATE_SUSPENDED.value: {"good"},
    EventKind.CERTIFICATE_REINSTATED.value: {"held"},
    EventKind.CERTIFICATE_REVOKED.value: {"good", "held"},
}
_TO = dict(zip((kind.value for kind in _STEPS), ("held", "good", "revoked"), strict=True))


def _revocation(row: AuditedSerial, status: AuditedStatus, acts: Sequence[Act]) -> Iterator[Finding]:
    """A status is revoked, suspended or good again when, and as, the journal and the settled requests say."""
    about = _about(row)
    kept = None if row.intent is None else kept_until(row.intent.tbs, status.not_after)
    if row.intent is not None and status.kept_until != kept and (status.state == "revoked" or status.kept_until):
        yield Finding(
            Kind.WRONG_COLUMN, about, "kept_until of its status is not what its TBSCertificate makes it (R16)"
        )
    steps = sorted((act for kind in _STEPS for act in trail.of(acts, kind, about)), key=lambda act: act.event_id)
    revoked = trail.of(acts, EventKind.CERTIFICATE_REVOKED, about)
    last = steps[-1] if steps else None
    if status.state != "revoked":
        if revoked or (last is not None and last.kind != EventKind.CERTIFICATE_REINSTATED.value):
            act = revoked[0] if revoked else steps[-1]
            word = "revoked" if revoked else "suspended"
            what = f"event {act.event_id} says that it was {word}, and it is {status.state}"
            yield Finding(Kind.WRONG_STATUS, about, what)
            return
        if status.released_at != (last and last.at):
            yield Finding(Kind.WRONG_STATUS, about, "the end of its last suspension is not what the journal says")
    elif status.reason == 6:
        if last is None or last.kind != EventKind.CERTIFICATE_SUSPENDED.value:
            yield from trail.once([], EventKind.CERTIFICATE_SUSPENDED, about)
    else:
        yield from trail.once(revoked, EventKind.CERTIFICATE_REVOKED, about)
    yield from _walk(row, status, acts, steps)


def _walk(
    row: AuditedSerial, status: AuditedStatus, acts: Sequence[Act], steps: Sequence[Act]
) -> Iterator[Finding]:
    """Go from step to step: each follows from the one before, and has its request; the last one is the status."""
    about, state, held_at = _about(row), "good", None
    intended = trail.of(acts, EventKind.INTENT_RECORDED, about)
    for act in steps:
        if state not in _FROM[act.kind]:
            if state != "revoked" or act.kind != EventKind.CERTIFICATE_REVOKED.value:
                what = f"event {act.event_id} ({act.kind}) does not follow: it was {state}"
                yield Finding(Kind.WRONG_STATUS, about, what)
            continue
        yield from trail.ordered(about, *intended[:1], act)
        since = held_at if state == "held" else act.at
        state, held_at = _TO[act.kind], act.at
        if act is steps[-1] and status.state == "revoked":
            yield from _is(status, act, since or act.at, about)
        request = next((one for one in row.revocations if one.revocation_id == act.detail.get("revocation")), None)
        wishes = trail.of(acts, EventKind.REVOCATION_REQUESTED, about)
        yield from _request(row, status if act is steps[-1] else None, act, request, wishes)


def _is(status: AuditedStatus, act: Act, since: datetime.datetime, about: str) -> Iterator[Finding]:
    reason = {"reason": _REASONS.get(-1 if status.reason is None else status.reason)}
    yield from trail.says(act, about, reason)
    # What was suspended is revoked since then (X.509 9.5.3.2).
    if status.revoked_at != since.replace(microsecond=0) or status.changed_at != act.at:
        what = f"its status is of another moment than event {act.event_id} ({act.kind})"
        yield Finding(Kind.JOURNAL_DIFFERS, about, what)


def _request(
    row: AuditedSerial,
    status: AuditedStatus | None,
    act: Act,
    request: AuditedRevocation | None,
    wishes: Sequence[Act],
) -> Iterator[Finding]:
    about = _about(row)
    if request is None:
        number = act.detail.get("revocation")
        yield Finding(Kind.WRONG_STATUS, about, f"revocation request {number}, which revoked it, is gone")
        return
    same = (request.issuer_id, request.serial) == (row.issuer_id, row.serial) and request.state == "done"
    ended = status is None or status.state != "revoked"
    said = (act.detail.get("reason"), request.invalidity_date)
    if not ended and status is not None:
        said = (_REASONS.get(-1 if status.reason is None else status.reason), status.invalidity_date)
    if not same or (_REASONS.get(request.reason), request.invalidity_date) != said:
        what = f"revocation request {request.revocation_id}, which revoked it, says something else"
        yield Finding(Kind.WRONG_STATUS, about, what)
    wish = {"reason": _REASONS.get(request.reason)}
    before = [one for one in wishes if one.actor == request.requestor and one.event_id < act.event_id]
    if not before:
        what = (
            f"no {EventKind.REVOCATION_REQUESTED.value} event of {request.requestor} stands before its revocation"
        )
        yield Finding(Kind.NOT_JOURNALLED, about, what)
    elif not any(not list(trail.says(one, about, wish)) for one in before):
        yield from trail.says(before[-1], about, wish)
