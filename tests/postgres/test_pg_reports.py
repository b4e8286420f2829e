"""Problem reports on a real server: history, one decision, deadlines that the database counts itself (R13)."""

from __future__ import annotations

import asyncio
import datetime
import hashlib

import psycopg
import pytest
from pgdata import DAY, SECOND, Office, error_of, event, serial

from chancery.errors import ErrorType
from chancery.ports.reports import Acted, Ground, NewReport, ReportAct
from chancery.postgres.auditing import PgAuditReader
from chancery.postgres.reports import PgReports
from chancery.postgres.session import AsyncPool, connect
from pg import AT


@pytest.fixture
def office(database):
    return Office(database)


def ask(office, act):
    async def run():
        async with AsyncPool(office.database.role("ra")) as pool:
            return await act(PgReports(pool))

    return asyncio.run(run())


def report(ground: Ground = Ground.MISUSE, at: datetime.datetime = AT, **changes) -> NewReport:
    fields = {"issuer": "issuing", "serial": serial(1), "spki_sha256": None, **changes}
    told = {"evidence": "see \x00 there", "reporter": "eve", "proven": False, "recorded_by": "olga"}
    return NewReport(ground=ground, received_at=at, **fields, **told)


def add(office, *reports: NewReport) -> list[int]:
    async def act(book):
        return [await book.add(one, [event("x")]) for one in reports]

    return ask(office, act)


def done(office, number: int, kind: ReportAct = ReportAct.REJECTED) -> None:
    ask(office, lambda book: book.act(number, Acted(kind, "words", "olga", AT + DAY), [event(f"act {number}")]))


def test_the_auditor_reads_the_evidence_by_its_hash(office):
    add(office, report())
    with PgAuditReader(office.database.role("auditor")) as reader:
        [found] = reader.reports()
    digest = hashlib.sha256("see \ufffd there".encode()).digest()
    assert (digest, AT, AT + DAY) == (found.evidence_sha256, found.received_at, found.answer_by)


def test_the_most_urgent_is_first_and_closed_ones_are_left_out(office):
    slow, quick, key = add(
        office, report(), report(Ground.KEY_COMPROMISE), report(issuer=None, serial=None, spki_sha256=bytes(32))
    )
    assert [quick, slow, key] == [
        one.report_id for one in ask(office, lambda book: book.reports(everything=False, limit=9))
    ]
    done(office, quick)
    done(office, slow, ReportAct.ANSWERED)
    assert [slow, key] == [
        one.report_id for one in ask(office, lambda book: book.reports(everything=False, limit=9))
    ]
    found = ask(office, lambda book: book.report(quick))
    assert (True, "see � there", (ReportAct.REJECTED,)) == (
        found.closed,
        found.new.evidence,
        tuple(one.kind for one in found.acts),
    )
    assert ask(office, lambda book: book.report(99)) is None
    assert [f"problem-report:{n}" for n in (slow, quick, key)] == office.events()[-5:-2]


@pytest.mark.parametrize(("after", "overdue"), [(DAY, 0), (DAY + SECOND, 1), (5 * DAY, 1), (5 * DAY + SECOND, 2)])
def test_r13_the_database_counts_as_the_value_does(office, after, overdue):
    _, second = add(office, report(), report())
    done(office, second, ReportAct.ANSWERED)
    assert (2, overdue) == ask(office, lambda book: book.counts(AT + after))
    reports = ask(office, lambda book: book.reports(everything=True, limit=9))
    assert overdue == sum(one.overdue(AT + after) for one in reports)


def test_a_report_is_decided_once_and_is_history(office):
    [number] = add(office, report())
    done(office, number)
    assert ErrorType.BAD_REQUEST is error_of(lambda: done(office, number, ReportAct.REVOKED))
    assert ErrorType.BAD_CERT_ID is error_of(lambda: done(office, 99))
    assert 1 == office.count("problem_report_act")
    with connect(office.database.superuser) as superuser:
        for change in (
            "UPDATE chancery.problem_report SET ground = 'x'",
            "DELETE FROM chancery.problem_report_act",
        ):
            with pytest.raises(psycopg.errors.RestrictViolation):
                superuser.execute(change)


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": None},
        {"spki_sha256": bytes(32)},
        {"issuer": None, "serial": None},
        {"issuer": None, "serial": None, "spki_sha256": b"short"},
    ],
)
def test_a_report_is_about_a_certificate_or_a_key(office, change):
    assert ErrorType.SYSTEM_FAILURE is error_of(lambda: add(office, report(**change)))
