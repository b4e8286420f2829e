"""What a process that was taken over writes neither stops the others nor passes for their word (R27, R29)."""

from __future__ import annotations

import hashlib
import json

import psycopg
import pytest
from pgdata import DAY, Office, event, serial

from chancery.audit import auditor, listing
from chancery.ca.mass import MassSettings, decide_jobs
from chancery.ports import EventKind, Role
from chancery.ports.auditing import Scope
from chancery.ports.mass import JobState
from chancery.postgres import retention
from chancery.postgres.auditing import PgAuditReader
from chancery.postgres.journal import PgJournalStore
from chancery.postgres.mass import PgJobStore
from chancery.postgres.session import connect
from pg import AT

WRITES = {
    "ra": {
        EventKind.REQUEST_RECEIVED,
        EventKind.REQUEST_REFUSED,
        EventKind.REVOCATION_REQUESTED,
        EventKind.JOB_REQUESTED,
        EventKind.JOB_APPROVED,
        EventKind.REPORT_RECEIVED,
        EventKind.REPORT_ANSWERED,
        EventKind.REPORT_DECIDED,
        EventKind.CRL_REQUESTED,
        EventKind.KEY_BLOCKED,
        EventKind.OPERATOR_ENROLLED,
        EventKind.OPERATOR_REMOVED,
        EventKind.LOGIN,
        EventKind.LOGIN_REFUSED,
        EventKind.PROCESS_STARTED,
        EventKind.PROCESS_STOPPED,
        EventKind.TSA_CLIENT_ADDED,
        EventKind.TSA_CLIENT_REVOKED,
    },
    "tsa": {
        EventKind.LOGIN,
        EventKind.LOGIN_REFUSED,
        EventKind.REQUEST_REFUSED,
        EventKind.PROCESS_STARTED,
        EventKind.PROCESS_STOPPED,
        *(
            kind
            for kind in EventKind
            if kind.value.startswith("tsa.") and not kind.value.startswith("tsa.client-")
        ),
    },
}
"""Kinds of event that a role may write."""
INSERT = "INSERT INTO chancery.journal_event (body) VALUES (%s)"
JOB = """
INSERT INTO chancery.revocation_job (requestor, reason, selection, size, digest, received_at, sample_issuers,
    sample_serials) VALUES ('olga', 4, '{}', 1, %s, %s, %s::integer[], %s::bytea[])"""
REQUEST = """
INSERT INTO chancery.revocation_request (issuer_id, serial, reason, requestor, received_at, job_id)
SELECT 1, %s, %s, %s, %s, max(job_id) FROM chancery.revocation_job"""


def _office(database) -> Office:
    found = Office(database)
    found.operator(90, "olga", Role.OFFICER)
    found.issue(1)
    return found


@pytest.fixture(scope="module")
def still(server):
    """For tests after which nothing is stored."""
    with server.database() as database:
        yield _office(database)


@pytest.fixture
def office(database):
    return _office(database)


def refused(connection, statement: str, *values) -> bool:
    """Whether the database refuses it; nothing stays."""
    try:
        with connection.transaction():
            connection.execute(statement, values)
            raise psycopg.Rollback
    except psycopg.errors.IntegrityError:
        return True
    return False


def body(**changes) -> str:
    values = json.loads(event().body()) | changes
    return json.dumps({key: value for key, value in values.items() if value is not None})


@pytest.mark.parametrize("role", WRITES)
def test_a_role_writes_events_of_its_own_acts_alone(still, role):
    with connect(still.database.role(role)) as connection:
        written = {kind for kind in EventKind if not refused(connection, INSERT, body(kind=kind.value))}
        assert WRITES[role] == written
        assert refused(connection, INSERT, body(kind="something"))


@pytest.mark.parametrize(
    "changes",
    [
        {"at": "garbage"},
        {"at": "infinity"},
        {"at": "now"},
        {"at": "2026-02-29T12:00:00.000000+00:00"},
        {"at": "2100-02-29T12:00:00.000000+00:00"},
        {"at": "2026-04-31T12:00:00.000000+00:00"},
        {"at": "2026-11-24T24:00:00.000000+00:00"},
        {"at": "9999-12-31T23:59:59.000000-14:00"},
        {"at": "2026-11-24T12:00:00.000000"},
        {"at": 20261124},
        {"at": None},
        {"actor": None},
        {"detail": None},
        {"detail": []},
    ],
)
def test_an_event_that_nobody_could_read_is_refused(still, changes):
    with connect(still.database.role("ra")) as ra:
        assert refused(ra, INSERT, body(**changes))
        assert not refused(ra, INSERT, body(at="2028-02-29T23:59:59.999999+00:00"))


@pytest.mark.parametrize(
    "detail",
    [
        '{"revocation":%s}' % ("1" * 5000),
        '{"revocation":%s}' % (10**30),
        '{"revocation":%s}' % ("[" * 3000 + "]" * 3000),
        '{"revocation":{}}',
    ],
)
def test_the_auditor_goes_on_past_an_event_that_it_cannot_read(office, detail):
    told = '{"actor":"x","at":"2026-13-99","detail":%s,"kind":"%s","subject":"1:%s"}'
    for kind in ("certificate.revoked", "request.received"):
        office.sql(INSERT, told % (detail, kind, serial(1).hex()))
    office.sql("INSERT INTO chancery.retired VALUES ('p', 'certificate', '00', '01', 0, %s, %s)", AT - 9 * DAY, AT)
    with PgAuditReader(office.database.role("auditor")) as reader:
        report = auditor.audit(reader, AT, Scope())
    assert (2, True) == (report.certificates, bool(report.findings))
    entries = listing.newest(PgJournalStore(office.database.role("auditor")), subject=None, kind=None, limit=99)
    assert "issued" in {entry.subject for entry in entries}
    assert retention.partitions(office.database.role("owner"), AT)


@pytest.mark.parametrize(
    ("issuers", "serials"),
    [("{NULL}", "{NULL}"), ("{1}", "{NULL}"), ("{{1},{1}}", '{{"\\\\x01"},{"\\\\x02"}}'), ("{1}", None)],
)
def test_a_sample_with_holes_is_refused(still, issuers, serials):
    values = (bytes(32), AT, issuers, serials)
    with connect(still.database.role("ra")) as ra:
        assert refused(ra, JOB, *values)


def test_a_sample_of_an_earlier_release_with_holes_does_not_stop_the_worker(fresh_database):
    office = Office(fresh_database)
    office.operator(90, "olga", Role.OFFICER)
    office.sql("ALTER TABLE chancery.revocation_job DROP CONSTRAINT revocation_job_sample")
    office.sql(JOB, bytes(32), AT, "{NULL,7}", "{NULL,NULL}")
    jobs = PgJobStore(office.database.role("worker"))
    assert 1 == decide_jobs(jobs, office.revocations, office.clock, "worker-1", MassSettings())
    assert [] == jobs.due()


def test_a_job_s_requests_are_what_the_second_person_reads(office):
    digest = hashlib.sha256((1).to_bytes(4, "big") + (17).to_bytes(2, "big") + serial(1)).digest()

    def store(ra, *request) -> None:
        with ra.transaction():
            ra.execute(JOB, (digest, AT, None, None))
            ra.execute(REQUEST, (serial(1), *request))

    with connect(office.database.role("ra")) as ra:
        for request in ((1, "olga", AT), (8, "olga", AT), (4, "adam", AT), (4, "olga", AT + DAY)):
            with pytest.raises(psycopg.errors.RestrictViolation):
                store(ra, *request)
        store(ra, 4, "olga", AT)
    jobs = PgJobStore(office.database.role("worker"))
    decide_jobs(jobs, office.revocations, office.clock, "worker-1", MassSettings())
    (job_id,) = (row[0] for row in office.sql("SELECT job_id FROM chancery.revocation_job"))
    assert JobState.RUNNING is jobs.standing(job_id).job.state


OPERATOR = """
INSERT INTO chancery.operator (fingerprint, name, roles, profiles, added_at)
VALUES (sha256('x'), 'x', '{}', '{}', '{}')"""
APPROVAL = """
INSERT INTO chancery.revocation_approval (job_id, operator, digest, approved_at)
VALUES (1, 'x', sha256('x'), 'infinity')"""
ACT = """
INSERT INTO chancery.problem_report_act (report_id, kind, words, operator, at)
VALUES (1, 'answered', 'x', 'x', '-infinity')"""
CLIENT = """
INSERT INTO chancery.tsa_client (name, kind, credential, networks, policies, added_at, per_second, burst, added_by)
VALUES ('x', 'api-key', sha256('x'), '{}', {}, '{}', {}, 1, 'x')"""
TOKEN = "INSERT INTO chancery.tsa_token VALUES (1, '{}', 'o', 'i', 'p', {})"


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("ra", "UPDATE chancery.operator SET removed_at = 'infinity'"),
        ("ra", "UPDATE chancery.operator SET removed_at = '0044-03-15 BC'"),
        ("ra", OPERATOR.format("{{administrator},{officer}}", "{}", "now")),
        ("ra", OPERATOR.format("{officer,officer,officer,officer,officer}", "{}", "now")),
        ("ra", OPERATOR.format("{officer}", "{NULL}", "now")),
        ("ra", OPERATOR.format("{officer}", "{{a},{b}}", "now")),
        ("ra", OPERATOR.format("{officer}", "{}", "infinity")),
        ("ra", APPROVAL),
        ("ra", ACT),
        ("ra", CLIENT.format("{}", "NULL", "infinity", "1")),
        ("ra", CLIENT.format("{NULL}", "NULL", "now", "1")),
        ("ra", CLIENT.format("{{a},{b}}", "NULL", "now", "1")),
        ("ra", CLIENT.format("{}", "'{NULL}'", "now", "1")),
        ("ra", CLIENT.format("{}", "NULL", "now", "'NaN'")),
        ("tsa", TOKEN.format("infinity", "'c'")),
        ("tsa", TOKEN.format("-infinity", "'c'")),
        ("tsa", TOKEN.format("0044-03-15 BC", "'c'")),
        ("tsa", TOKEN.format("294000-01-01", "'c'")),
        ("tsa", TOKEN.format("now", "repeat('c', 100000)")),
    ],
)
def test_what_the_other_side_could_not_read_is_refused(still, role, statement):
    with connect(still.database.role(role)) as connection, pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(statement)


@pytest.mark.parametrize("changes", [{"at": "2020-01-01T00:00:00.000000+00:00"}, {"detail": {"reason": "other"}}])
def test_a_switch_and_its_event_say_the_same(still, changes):
    told = {"kind": "profile.deactivated", "subject": "profile:p", "actor": "olga", "detail": {"reason": "why"}}
    switch = "SELECT chancery.switch_profile('p', false, 'why', 'olga', %s, %s)"
    with connect(still.database.role("ra")) as ra:
        assert refused(ra, switch, AT, body(**(told | changes)))
        assert not refused(ra, switch, AT, body(**told))
        # Not by itself either.
        assert refused(ra, INSERT, body(**told))
