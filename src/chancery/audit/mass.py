"""Whether jobs of mass revocation and problem reports are what the journal says of them (R13, R22, R27)."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterator, Sequence

from chancery.audit import trail
from chancery.audit.findings import Finding, Kind
from chancery.audit.trail import Act
from chancery.ports import EventKind, RevocationReason
from chancery.ports.auditing import AuditedJob, AuditedReport

_JOB_KINDS = (
    EventKind.JOB_REQUESTED,
    EventKind.JOB_APPROVED,
    EventKind.JOB_UNAPPROVED,
    EventKind.JOB_STARTED,
    EventKind.JOB_REFUSED,
    EventKind.JOB_FINISHED,
    EventKind.JOB_REHEARSED,
)
_REPORT_KINDS = (EventKind.REPORT_RECEIVED, EventKind.REPORT_ANSWERED, EventKind.REPORT_DECIDED)
KINDS = (*_JOB_KINDS, *_REPORT_KINDS)
# What has happened to a job in each state, once; approvals and the wait for them come any number of times.
_REACHED = {
    "waiting": (),
    "unapproved": (),
    "running": (EventKind.JOB_STARTED,),
    "refused": (EventKind.JOB_REFUSED,),
    "done": (EventKind.JOB_STARTED, EventKind.JOB_FINISHED),
}


def judge_jobs(jobs: Sequence[AuditedJob], acts: Sequence[Act]) -> Iterator[Finding]:
    """Each job has its events, its list is the confirmed one, and what is done is revoked."""
    for job in jobs:
        about = f"revocation-job:{job.job_id}"
        mine = [act for act in acts if act.subject == about]
        if not job.retired:
            yield from _journalled(job, mine, about)
            yield from _approvals(job, mine, about)
        if not job.rehearsal:
            yield from _list(job, about)
    yield from _gone(acts, _JOB_KINDS, {f"revocation-job:{job.job_id}" for job in jobs})


def _journalled(job: AuditedJob, acts: Sequence[Act], about: str) -> Iterator[Finding]:
    steps = () if job.rehearsal else (EventKind.JOB_REQUESTED, *_REACHED.get(job.state, ()))
    if job.rehearsal and job.state == "done":
        steps = (EventKind.JOB_REHEARSED,)
    for kind in steps:
        yield from trail.once(trail.of(acts, kind), kind, about)
    for kind in (EventKind.JOB_STARTED, EventKind.JOB_REFUSED, EventKind.JOB_FINISHED, EventKind.JOB_REHEARSED):
        if kind not in steps and (told := trail.of(acts, kind)):
            what = f"event {told[0].event_id} ({kind.value}) is about it, and it is {job.state}"
            yield Finding(Kind.WRONG_JOB, about, what)
    if job.state == "unapproved" and not trail.of(acts, EventKind.JOB_UNAPPROVED):
        yield from trail.once([], EventKind.JOB_UNAPPROVED, about)
    yield from trail.ordered(about, *(act for kind in steps for act in trail.of(acts, kind)[:1]))
    for act in trail.of(acts, EventKind.JOB_REQUESTED):
        reason = RevocationReason(job.reason).name.lower()
        said = {"reason": reason, "size": job.size, "digest": job.digest.hex(), "selection": job.selection}
        yield from trail.says(act, about, said)
        if act.actor != job.requestor:
            yield Finding(
                Kind.JOURNAL_DIFFERS, about, f"event {act.event_id} is {act.actor}'s, not {job.requestor}'s"
            )
    for act in trail.of(acts, EventKind.JOB_FINISHED):
        yield from trail.says(act, about, {"done": job.done, "refused": job.refused})


def _approvals(job: AuditedJob, acts: Sequence[Act], about: str) -> Iterator[Finding]:
    """A second person's word, about this very list, and journalled."""
    told = trail.of(acts, EventKind.JOB_APPROVED)
    stored = Counter((operator, digest.hex(), at) for operator, digest, at in job.approvals)
    said = Counter((act.actor, str(act.detail.get("digest")), act.at) for act in told)
    for operator, _, at in stored - said:
        what = f"no event is like the approval of {at.isoformat()} by {operator}"
        yield Finding(Kind.NOT_JOURNALLED, about, what)
    for operator, _, at in said - stored:
        yield Finding(Kind.STRAY, about, f"the approval of {at.isoformat()} by {operator} has no row")
    for operator, _, _ in job.approvals:
        if operator == job.requestor:
            yield Finding(Kind.WRONG_JOB, about, f"{operator} asked for it and approved it")
    waited = trail.of(acts, EventKind.JOB_UNAPPROVED)
    for act in trail.of(acts, EventKind.JOB_STARTED):
        who = act.detail.get("approved_by")
        if who is None and not waited:
            continue
        before = [one for one in told if one.event_id < act.event_id and one.actor == who != job.requestor]
        if not any(one.detail.get("digest") == job.digest.hex() for one in before):
            what = f"event {act.event_id} started it without a second person's word on this list"
            yield Finding(Kind.WRONG_JOB, about, what)


def _list(job: AuditedJob, about: str) -> Iterator[Finding]:
    """A job that the worker refused may have had another list: that is why."""
    if job.state != "refused" and (job.listed, job.listed_digest) != (job.size, job.digest):
        what = f"its list is not the one that was confirmed: {job.listed} are listed, {job.size} were"
        yield Finding(Kind.WRONG_JOB, about, what)
    if job.state == "done" and job.waiting:
        yield Finding(Kind.WRONG_JOB, about, f"it is done, and {job.waiting} of its list wait")
    if job.done and job.state not in {"running", "done"}:
        yield Finding(Kind.WRONG_JOB, about, f"it is {job.state}, and {job.done} of its list are done")
    if job.unrevoked:
        yield Finding(Kind.WRONG_JOB, about, f"{job.unrevoked} of its list are done, and not revoked")


def judge_reports(reports: Sequence[AuditedReport], acts: Sequence[Act]) -> Iterator[Finding]:
    """Each report was received as it stands, and each act about it, a decision above all, is journalled (R13)."""
    for report in reports:
        about = f"problem-report:{report.report_id}"
        if report.retired:
            continue
        mine = [act for act in acts if act.subject == about]
        received = trail.of(mine, EventKind.REPORT_RECEIVED)
        yield from trail.once(received, EventKind.REPORT_RECEIVED, about)
        for act in received[:1]:
            yield from _received(report, act, about)
        stored = Counter(report.acts)
        said = Counter(
            (str(act.detail.get("act")), str(act.detail.get("words")), act.actor, act.at)
            for kind in (EventKind.REPORT_ANSWERED, EventKind.REPORT_DECIDED)
            for act in trail.of(mine, kind)
        )
        for kind, _, operator, at in stored - said:
            what = f"no event is like its row `{kind}` of {at.isoformat()} by {operator}"
            yield Finding(Kind.NOT_JOURNALLED, about, what)
        for kind, _, operator, at in said - stored:
            what = f"the journal has `{kind}` of {at.isoformat()} by {operator}, and no row is like it"
            yield Finding(Kind.WRONG_REPORT, about, what)
    yield from _gone(acts, _REPORT_KINDS, {f"problem-report:{one.report_id}" for one in reports})


def _received(report: AuditedReport, act: Act, about: str) -> Iterator[Finding]:
    said = {
        "ground": report.ground,
        "issuer": report.issuer,
        "serial": None if report.serial is None else report.serial.hex(),
        "key": None if report.spki_sha256 is None else report.spki_sha256.hex(),
        "reporter": report.reporter,
        "proven": report.proven,
        "revoke_by": _utc(report.revoke_by),
    }
    more = {
        "evidence_sha256": report.evidence_sha256.hex(),
        "received_at": _utc(report.received_at),
        "answer_by": _utc(report.answer_by),
    }
    # Events of earlier releases have none of these.
    said |= more if more.keys() & act.detail.keys() else {}
    yield from trail.says(act, about, said)
    if act.actor != report.recorded_by:
        what = f"event {act.event_id} is {act.actor}'s, and the row says that {report.recorded_by} recorded it"
        yield Finding(Kind.JOURNAL_DIFFERS, about, what)


def _utc(at: datetime.datetime) -> str:
    return at.astimezone(datetime.UTC).isoformat()


def _gone(acts: Sequence[Act], kinds: Sequence[EventKind], subjects: set[str]) -> Iterator[Finding]:
    """Every event has its row."""
    for kind in kinds:
        for act in trail.of(acts, kind):
            if act.subject not in subjects:
                yield Finding(Kind.STRAY, act.subject, f"event {act.event_id} ({act.kind}) has no row")
