"""R13, R22, R27: jobs of mass revocation and problem reports that are not what was journalled."""

from __future__ import annotations

import dataclasses
import datetime

import pytest

from chancery.audit.findings import Kind
from chancery.audit.mass import judge_jobs, judge_reports
from chancery.audit.trail import Act
from chancery.ports.auditing import AuditedJob, AuditedReport

AT = datetime.datetime(2026, 11, 24, tzinfo=datetime.UTC)
SECOND = datetime.timedelta(seconds=1)
DIGEST = b"d" * 32
JOB = AuditedJob(
    7, "alice", 4, "{}", 2, DIGEST, False, "done", False, 0, 2, 0, 0, 2, DIGEST, (("bob", DIGEST, AT),)
)
ABOUT = "revocation-job:7"
ASKED = Act(
    1,
    AT,
    "revocation-job.requested",
    "alice",
    ABOUT,
    {"reason": "superseded", "size": 2, "digest": DIGEST.hex(), "selection": "{}"},
)
UNAPPROVED = Act(2, AT, "revocation-job.unapproved", "worker", ABOUT, {})
APPROVED = Act(3, AT, "revocation-job.approved", "bob", ABOUT, {"digest": DIGEST.hex()})
STARTED = Act(4, AT, "revocation-job.started", "worker", ABOUT, {"approved_by": "bob"})
FINISHED = Act(5, AT, "revocation-job.finished", "worker", ABOUT, {"done": 2, "refused": 0})
REFUSED = Act(6, AT, "revocation-job.refused", "worker", ABOUT, {})
REHEARSED = Act(7, AT, "revocation-job.rehearsed", "worker", ABOUT, {})
ALL = (ASKED, UNAPPROVED, APPROVED, STARTED, FINISHED)
EMPTY = {"done": 0, "waiting": 2, "approvals": ()}
REHEARSAL = {"rehearsal": True, "done": 0, "listed": 0, "approvals": ()}
OWN = dataclasses.replace(APPROVED, actor="alice")


def kinds(found):
    return [one.kind for one in found]


@pytest.mark.parametrize(
    ("changes", "acts"),
    [
        ({}, ALL),
        ({"approvals": ()}, (ASKED, dataclasses.replace(STARTED, detail={}), FINISHED)),
        ({**EMPTY, "state": "waiting"}, (ASKED,)),
        ({**EMPTY, "state": "unapproved"}, (ASKED, UNAPPROVED, dataclasses.replace(UNAPPROVED, event_id=3))),
        ({**EMPTY, "state": "refused", "listed": 3}, (ASKED, REFUSED)),
        ({**REHEARSAL, "state": "waiting"}, ()),
        (REHEARSAL, (REHEARSED,)),
        ({"retired": True}, ()),
    ],
)
def test_a_job_as_the_suite_leaves_it(changes, acts):
    assert [] == list(judge_jobs([dataclasses.replace(JOB, **changes)], acts))


@pytest.mark.parametrize(
    ("changes", "acts", "expected"),
    [
        ({}, (), [Kind.NOT_JOURNALLED] * 4),
        ({"approvals": ()}, ALL, [Kind.STRAY]),
        ({}, (ASKED, UNAPPROVED, STARTED, FINISHED), [Kind.NOT_JOURNALLED, Kind.WRONG_JOB]),
        ({}, (*ALL, dataclasses.replace(FINISHED, event_id=9)), [Kind.JOURNALLED_TWICE]),
        ({}, (*ALL, REFUSED), [Kind.WRONG_JOB]),
        ({"state": "running"}, ALL, [Kind.WRONG_JOB]),
        ({**EMPTY, "state": "unapproved"}, (ASKED,), [Kind.NOT_JOURNALLED]),
        ({"unrevoked": 1}, ALL, [Kind.WRONG_JOB]),
        ({"waiting": 1}, ALL, [Kind.WRONG_JOB]),
        ({"listed_digest": b"x" * 32}, ALL, [Kind.WRONG_JOB]),
        ({"done": 1, "refused": 1}, ALL, [Kind.JOURNAL_DIFFERS]),
        ({"requestor": "mallory"}, ALL, [Kind.JOURNAL_DIFFERS]),
        ({"reason": 1}, ALL, [Kind.JOURNAL_DIFFERS]),
        ({"state": "waiting", "approvals": ()}, (ASKED,), [Kind.WRONG_JOB]),
        (
            {"approvals": (("alice", DIGEST, AT),)},
            (ASKED, UNAPPROVED, OWN, dataclasses.replace(STARTED, detail={"approved_by": "alice"}), FINISHED),
            [Kind.WRONG_JOB, Kind.WRONG_JOB],
        ),
        ({}, (dataclasses.replace(ASKED, event_id=8), *ALL[1:]), [Kind.WRONG_ORDER]),
    ],
)
def test_what_a_job_is_found_with(changes, acts, expected):
    assert expected == kinds(judge_jobs([dataclasses.replace(JOB, **changes)], acts))


def test_events_without_a_job():
    assert [Kind.STRAY] * 5 == kinds(judge_jobs([], ALL))


REPORT = AuditedReport(
    3,
    "key-compromise",
    None,
    None,
    b"k" * 32,
    "eve",
    True,
    "alice",
    AT,
    False,
    b"e" * 32,
    AT,
    AT,
    (("rejected", "no", "bob", AT),),
)
ON = "problem-report:3"
RECEIVED = Act(
    1,
    AT,
    "report.received",
    "alice",
    ON,
    {
        "ground": "key-compromise",
        "issuer": None,
        "serial": None,
        "key": (b"k" * 32).hex(),
        "reporter": "eve",
        "evidence_sha256": (b"e" * 32).hex(),
        "proven": True,
        "received_at": AT.isoformat(),
        "answer_by": AT.isoformat(),
        "revoke_by": AT.isoformat(),
    },
)
_NEW = {"evidence_sha256", "received_at", "answer_by"}
EARLIER = dataclasses.replace(RECEIVED, detail={k: v for k, v in RECEIVED.detail.items() if k not in _NEW})
DECIDED = Act(2, AT, "report.decided", "bob", ON, {"act": "rejected", "words": "no"})


@pytest.mark.parametrize(
    ("changes", "acts", "expected"),
    [
        ({}, (RECEIVED, DECIDED), []),
        ({"retired": True}, (), []),
        ({}, (RECEIVED,), [Kind.NOT_JOURNALLED]),
        ({"acts": ()}, (RECEIVED, DECIDED), [Kind.WRONG_REPORT]),
        (
            {"acts": (("revoked", "no", "bob", AT),)},
            (RECEIVED, DECIDED),
            [Kind.NOT_JOURNALLED, Kind.WRONG_REPORT],
        ),
        ({}, (DECIDED,), [Kind.NOT_JOURNALLED]),
        ({"reporter": "nobody"}, (RECEIVED, DECIDED), [Kind.JOURNAL_DIFFERS]),
        ({"recorded_by": "mallory"}, (RECEIVED, DECIDED), [Kind.JOURNAL_DIFFERS]),
        ({"evidence_sha256": bytes(32)}, (RECEIVED, DECIDED), [Kind.JOURNAL_DIFFERS]),
        ({"received_at": AT + SECOND}, (RECEIVED, DECIDED), [Kind.JOURNAL_DIFFERS]),
        ({"answer_by": AT + SECOND}, (RECEIVED, DECIDED), [Kind.JOURNAL_DIFFERS]),
        # What an earlier release journalled has no hash.
        ({"evidence_sha256": bytes(32)}, (EARLIER, DECIDED), []),
        ({"reporter": "nobody"}, (EARLIER, DECIDED), [Kind.JOURNAL_DIFFERS]),
    ],
)
def test_what_a_report_is_found_with(changes, acts, expected):
    assert expected == kinds(judge_reports([dataclasses.replace(REPORT, **changes)], acts))


def test_events_without_a_report():
    assert [Kind.STRAY] * 2 == kinds(judge_reports([], (RECEIVED, DECIDED)))
