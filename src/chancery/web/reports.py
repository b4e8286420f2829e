"""REST: the queue of problem reports (R13)."""

from __future__ import annotations

import base64
import binascii
import datetime
import enum
import re
from typing import Annotated

from msgspec import Meta
from starlette.responses import Response

from chancery.errors import ErrorType, PKIError
from chancery.pkix.key import public_key_of
from chancery.ports import RevocationReason
from chancery.ports.reports import Ground, Report
from chancery.ra import reports
from chancery.ra.enrolment import serial_octets, serial_text
from chancery.web.bodies import read_json, read_query
from chancery.web.service import API, Call, json
from chancery.web.views import Asked, KeyText, Moment, NoQuery, Reason, SerialText, ShortName, View, Wait

_GROUNDS = {ground.label: ground for ground in Ground}
GroundName = enum.Enum("GroundName", {ground.name: ground.label for ground in Ground})  # type: ignore[misc]  # - made of the grounds
Words = Annotated[str, Meta(min_length=1, max_length=4000)]


class ReportAsked(Asked, frozen=True, kw_only=True):
    """
    What somebody reports: about a certificate (`issuer` and `serial`) or a key (`spki_sha256`), on this `ground`.

    Proof of compromise: `public_key` (PEM) and `proof`, its signature (base64) over the sentence that names the
    key. `received_at`: when the report reached the authority.
    """

    ground: GroundName
    evidence: Annotated[str, Meta(min_length=1, max_length=20000)]
    reporter: Annotated[str, Meta(min_length=1, max_length=500)]
    issuer: ShortName | None = None
    serial: SerialText | None = None
    spki_sha256: KeyText | None = None
    public_key: Annotated[str, Meta(max_length=131072)] | None = None
    proof: Annotated[str, Meta(max_length=4096)] | None = None
    received_at: Moment | None = None


class Decision(enum.Enum):
    """ANSWER records the preliminary report; the others close the report."""

    ANSWER = "answer"
    REVOKE = "revoke"
    REJECT = "reject"


class DecisionAsked(Asked, frozen=True, kw_only=True):
    """What to do about a report; `words` for answer and reject, `reason` for revoke (else that of the ground)."""

    decision: Decision
    words: Words | None = None
    reason: Reason | None = None


class ReportSearch(Asked, frozen=True, kw_only=True):
    """`all`: closed reports, too."""

    all: bool = False


class DecisionChoice(Asked, frozen=True, kw_only=True):
    """How long to wait for a revocation, in seconds."""

    wait: Wait = 10.0


class ActView(View, frozen=True, kw_only=True):
    """What was done about a report."""

    kind: str
    words: str
    operator: str
    at: datetime.datetime


class ReportView(View, frozen=True, kw_only=True):
    """A problem report with its clocks; `overdue`: open, and past one of them."""

    report_id: int
    ground: str
    issuer: str | None = None
    serial: str | None = None
    spki_sha256: str | None = None
    evidence: str
    reporter: str
    proven: bool
    recorded_by: str
    received_at: datetime.datetime
    answer_by: datetime.datetime
    revoke_by: datetime.datetime
    closed: bool
    overdue: bool
    acts: list[ActView]


class ReportList(View, frozen=True, kw_only=True):
    """Reports, the most urgent first."""

    reports: list[ReportView]


def _view(report: Report, at: datetime.datetime) -> ReportView:
    new = report.new
    return ReportView(
        report_id=report.report_id,
        ground=new.ground.label,
        issuer=new.issuer,
        serial=None if new.serial is None else serial_text(new.serial),
        spki_sha256=None if new.spki_sha256 is None else new.spki_sha256.hex(),
        evidence=new.evidence,
        reporter=new.reporter,
        proven=new.proven,
        recorded_by=new.recorded_by,
        received_at=new.received_at,
        answer_by=new.answer_by,
        revoke_by=new.revoke_by,
        closed=report.closed,
        overdue=report.overdue(at),
        acts=[
            ActView(kind=one.kind.value, words=one.words, operator=one.operator, at=one.at) for one in report.acts
        ],
    )


async def add_report(call: Call) -> Response:
    """Record a report; 201."""
    read_query(call.request, NoQuery)
    asked = await read_json(call.request, ReportAsked)
    wish = reports.ReportWish(
        ground=_GROUNDS[asked.ground.value],
        evidence=asked.evidence,
        reporter=asked.reporter,
        issuer=asked.issuer,
        serial=None if asked.serial is None else serial_octets(asked.serial),
        spki_sha256=None if asked.spki_sha256 is None else bytes.fromhex(asked.spki_sha256),
        proof=_proof(asked),
        received_at=asked.received_at,
    )
    report = await reports.add_report(call.ra, call.operator, wish)
    place = {"location": f"{API}/reports/{report.report_id}"}
    return json(_view(report, call.ra.clock.now()), 201, place)


def _proof(asked: ReportAsked) -> tuple[object, bytes] | None:
    if asked.proof is None and asked.public_key is None:
        return None
    if asked.proof is None or asked.public_key is None:
        raise PKIError(ErrorType.BAD_REQUEST, "a proof is a public key and its signature")
    try:
        signature = base64.b64decode(asked.proof, validate=True)
    except (binascii.Error, ValueError):
        raise PKIError(ErrorType.BAD_DATA_FORMAT, "the proof is not base64") from None
    return public_key_of(asked.public_key.encode()), signature


def _number(call: Call) -> int:
    text = call.path("report_id")
    if not re.fullmatch("[0-9]{1,19}", text):
        raise PKIError(ErrorType.BAD_CERT_ID, "a problem report has a number")
    return int(text)


async def list_reports(call: Call) -> Response:
    """Open reports, or all."""
    asked = read_query(call.request, ReportSearch)
    found = await reports.list_reports(call.ra, call.operator, everything=asked.all)
    now = call.ra.clock.now()
    return json(ReportList(reports=[_view(one, now) for one in found]))


async def see_report(call: Call) -> Response:
    """One report with everything that was done about it."""
    read_query(call.request, NoQuery)
    return json(_view(await reports.find_report(call.ra, call.operator, _number(call)), call.ra.clock.now()))


async def decide_report(call: Call) -> Response:
    """Answer, revoke or reject."""
    choice = read_query(call.request, DecisionChoice)
    asked = await read_json(call.request, DecisionAsked)
    number = _number(call)
    if asked.decision is Decision.REVOKE:
        code: RevocationReason | None = None if asked.reason is None else asked.reason.code()
        report = await reports.revoke_reported(call.ra, call.operator, number, code, choice.wait)
        # The certificate may be an operator's.
        call.service.gate.forget()
    elif asked.words is None:
        raise PKIError(ErrorType.BAD_REQUEST, "say it in words")
    elif asked.decision is Decision.ANSWER:
        report = await reports.answer_report(call.ra, call.operator, number, asked.words)
    else:
        report = await reports.reject_report(call.ra, call.operator, number, asked.words)
    return json(_view(report, call.ra.clock.now()))
