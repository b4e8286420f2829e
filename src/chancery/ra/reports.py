"""The queue of problem reports (R13): recorded with their deadlines, answered, decided; every step journalled."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib

from chancery.errors import ErrorType, PKIError
from chancery.pkix.proof import check_compromise
from chancery.ports import BlockedKey, EventDetail, EventKind, Operator, RevocationReason
from chancery.ports.reports import Acted, Ground, NewReport, Report, ReportAct
from chancery.ra.enrolment import RegistrationAuthority, RevocationWish, find_issuer, revoke, serial_text
from chancery.ra.keys import BlockWish, block_key
from chancery.ra.requestor import PERMISSIONS, Operation, authorise

MAX_LISTED = 500


@dataclasses.dataclass(frozen=True, slots=True)
class ReportWish:
    """
    What is reported. About a certificate (`issuer`, `serial`) or a key (`spki_sha256`).

    `proof`: a public key and its signature over `pkix.proof.statement`; then the report is about that key.
    `received_at`: when it reached the authority, from when the clocks run; None for now.
    """

    ground: Ground
    evidence: str
    reporter: str
    issuer: str | None = None
    serial: bytes | None = None
    spki_sha256: bytes | None = None
    proof: tuple[object, bytes] | None = None
    received_at: datetime.datetime | None = None


async def add_report(ra: RegistrationAuthority, operator: Operator, wish: ReportWish) -> Report:
    """
    Record a report and start its clocks. A proof that holds blocks the key at once, and revokes if they may.

    Raises PKIError: NOT_AUTHORIZED; BAD_REQUEST for neither or both of certificate and key, or a time that cannot
    be; BAD_CERT_ID for an unknown issuer; BAD_POP and BAD_ALG for a proof that is none.
    """
    authorise(operator, Operation.REPORT)
    now = ra.clock.now()
    received = wish.received_at or now
    if not now - datetime.timedelta(days=365) <= received <= now:
        raise PKIError(ErrorType.BAD_REQUEST, "a report was received within the last year, not later")
    # Only now: not every time of another zone has one in UTC.
    received = received.astimezone(datetime.UTC)
    key, ground = wish.spki_sha256, wish.ground
    if wish.proof is not None:
        key, ground = check_compromise(*wish.proof), Ground.KEY_COMPROMISE
        if wish.spki_sha256 not in {None, key}:
            raise PKIError(ErrorType.BAD_REQUEST, "the proof is of another key")
    if (wish.serial is None) == (key is None) or (wish.serial is None) != (wish.issuer is None):
        raise PKIError(ErrorType.BAD_REQUEST, "a report is about a certificate (issuer, serial) or about a key")
    if wish.issuer is not None:
        await find_issuer(ra, wish.issuer)
    report = NewReport(
        ground=ground,
        issuer=wish.issuer,
        serial=wish.serial,
        spki_sha256=key,
        # As the database will hold it: the journal has its hash.
        evidence=wish.evidence.replace("\0", "\ufffd"),
        reporter=wish.reporter.replace("\0", "\ufffd"),
        proven=wish.proof is not None,
        recorded_by=operator.name,
        received_at=received,
    )
    detail: EventDetail = {
        "ground": ground.label,
        "issuer": wish.issuer,
        "serial": None if wish.serial is None else wish.serial.hex(),
        "key": None if key is None else key.hex(),
        "reporter": report.reporter,
        "evidence_sha256": hashlib.sha256(report.evidence.encode()).hexdigest(),
        "proven": report.proven,
        "received_at": report.received_at.isoformat(),
        "answer_by": report.answer_by.isoformat(),
        "revoke_by": report.revoke_by.isoformat(),
    }
    report_id = await ra.reports.add(report, [ra.event(EventKind.REPORT_RECEIVED, operator.name, "", detail)])
    if report.proven and key is not None:
        await _at_once(ra, operator, report_id, key)
    return await _stored(ra, report_id)


async def _at_once(ra: RegistrationAuthority, operator: Operator, report_id: int, key: bytes) -> None:
    """A key that signed that it is compromised is: nobody's judgement is needed to block it."""
    reason = f"problem report {report_id}: the key signed that it is compromised"
    if PERMISSIONS[Operation.REVOKE_MANY].keys() & operator.roles:
        await _revoke_key(ra, operator, report_id, key, reason)
        return
    event = ra.event(EventKind.KEY_BLOCKED, operator.name, f"key:{key.hex()}", {"reason": reason})
    await ra.directory.block_key(BlockedKey(key, reason, event.at, operator.name), [event])


async def _revoke_key(
    ra: RegistrationAuthority, operator: Operator, report_id: int, key: bytes, reason: str
) -> None:
    account = await block_key(ra, operator, BlockWish(key, reason, revoke=True))
    words = f"the key is blocked; {account.revoking} certificates are being revoked"
    await _act(ra, operator, report_id, ReportAct.REVOKED, words)


async def _act(ra: RegistrationAuthority, operator: Operator, report_id: int, kind: ReportAct, words: str) -> None:
    told = EventKind.REPORT_ANSWERED if kind is ReportAct.ANSWERED else EventKind.REPORT_DECIDED
    event = ra.event(told, operator.name, f"problem-report:{report_id}", {"act": kind.value, "words": words})
    await ra.reports.act(report_id, Acted(kind, words, operator.name, event.at), [event])


async def _stored(ra: RegistrationAuthority, report_id: int) -> Report:
    report = await ra.reports.report(report_id) if 0 < report_id < 2**63 else None
    if report is None:
        raise PKIError(ErrorType.BAD_CERT_ID, f"no problem report {report_id}")
    return report


async def find_report(ra: RegistrationAuthority, operator: Operator, report_id: int) -> Report:
    """Return a report. Raises PKIError: NOT_AUTHORIZED; BAD_CERT_ID when there is none."""
    authorise(operator, Operation.SEE_REPORTS)
    return await _stored(ra, report_id)


async def list_reports(ra: RegistrationAuthority, operator: Operator, *, everything: bool) -> list[Report]:
    """Return open reports (or all), the most urgent first, at most MAX_LISTED. PKIError(NOT_AUTHORIZED)."""
    authorise(operator, Operation.SEE_REPORTS)
    return await ra.reports.reports(everything=everything, limit=MAX_LISTED)


async def answer_report(ra: RegistrationAuthority, operator: Operator, report_id: int, words: str) -> Report:
    """Record that the preliminary report went to subscriber and reporter (BR 4.9.5), and what it said."""
    authorise(operator, Operation.DECIDE_REPORT)
    if (await _stored(ra, report_id)).closed:
        raise PKIError(ErrorType.BAD_REQUEST, f"report {report_id} is decided already")
    await _act(ra, operator, report_id, ReportAct.ANSWERED, words)
    return await _stored(ra, report_id)


async def reject_report(ra: RegistrationAuthority, operator: Operator, report_id: int, words: str) -> Report:
    """Close a report without revoking, for this reason in words. Raises PKIError as `find_report`."""
    authorise(operator, Operation.DECIDE_REPORT)
    await _stored(ra, report_id)
    await _act(ra, operator, report_id, ReportAct.REJECTED, words)
    return await _stored(ra, report_id)


async def revoke_reported(
    ra: RegistrationAuthority,
    operator: Operator,
    report_id: int,
    reason: RevocationReason | None,
    wait_seconds: float,
) -> Report:
    """
    Close a report by revoking: its certificate, or every certificate with its key, which is blocked.

    By the ordinary path, with its rights and its second person. Without a reason it is that of the ground.
    """
    authorise(operator, Operation.DECIDE_REPORT)
    report = await _stored(ra, report_id)
    if report.closed:
        raise PKIError(ErrorType.BAD_REQUEST, f"report {report_id} is decided already")
    new = report.new
    if new.spki_sha256 is not None:
        await _revoke_key(
            ra, operator, report_id, new.spki_sha256, f"problem report {report_id}: {new.ground.label}"
        )
        return await _stored(ra, report_id)
    assert new.serial is not None
    wish = RevocationWish(new.serial, reason or new.ground.reason, new.issuer)
    try:
        revocation, _ = await revoke(ra, operator, wish, wait_seconds)
        words = f"revoked as {revocation.reason.name.lower()}: {new.issuer} {serial_text(new.serial)}"
    except PKIError as error:
        # Revoked before, perhaps by this very decision, whose end was lost.
        if error.type is not ErrorType.CERT_REVOKED:
            raise
        words = error.detail
    await _act(ra, operator, report_id, ReportAct.REVOKED, words)
    return await _stored(ra, report_id)
