"""R29, R30 on the real database: what a superuser edits is found by the auditor's role and its command."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import hashlib
import json
import re

import psycopg
import pytest
from typer.testing import CliRunner

import cakit
import pg
from chancery.audit.auditor import audit
from chancery.audit.findings import Kind
from chancery.ca.crl import CRLSettings
from chancery.ca.issuance import Issuing, issue_batch
from chancery.ca.worker import Worker, WorkerSettings
from chancery.cli import auditor as command
from chancery.cli.clock import SystemClock
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.ports import Event, EventKind, NewIssuer, NewRequest, NewRevocation, Operator, RevocationReason, Role
from chancery.ports.auditing import Scope
from chancery.postgres.auditing import PgAuditReader, _AnyTime
from chancery.postgres.directory import PgDirectory
from chancery.postgres.issuance import PgIssuanceStore
from chancery.postgres.issuers import PgIssuerStore
from chancery.postgres.requests import PgRequestQueue
from chancery.postgres.revocation import PgRevocationStore
from chancery.postgres.session import AsyncPool, Session, connect
from fakes import FakeClock, FakeEntropy
from unit.audit.auditworld import Token

pytestmark = pytest.mark.postgres
# The command's clock is the machine's: by it no CRL may be late.
START = SystemClock().now()
SECOND = datetime.timedelta(seconds=1)


@pytest.fixture(scope="module")
def server():
    with pg.temporary_postgres() as running:
        yield running


class Inside(PgAuditReader):
    """A reader of a transaction that is open already."""

    def __init__(self, connection):
        super().__init__(pg.Connection("", 0, "", ""))
        connection.adapters.register_loader("timestamptz", _AnyTime)
        self._connection = connection


class Installation:
    """Worker and registration side over one database, and a superuser who edits it."""

    def __init__(self, database, clock, seed):
        self.database = database
        self.clock = clock
        self.token = Token()
        self.session = Session(database.role("worker"))
        self.issuing = Issuing(
            store=PgIssuanceStore(self.session),
            issuers={"issuing": cakit.issuing_issuer(signer=self.token)},
            default_issuer="issuing",
            profiles=cakit.PROFILES,
            clock=self.clock,
            entropy=FakeEntropy(seed),
            instance=1,
            worker=cakit.WORKER,
        )

    def found(self):
        store = PgIssuerStore(self.session)
        for name, certificate, parent in (
            ("root", cakit.root_certificate(), None),
            ("issuing", cakit.issuing_certificate(), "root"),
        ):
            detail = {"certificate_sha256": hashlib.sha256(certificate).hexdigest(), "parent": parent}
            key = "issuing" if parent else None
            store.add_issuer(
                NewIssuer(name, certificate, parent, key and "ca", key),
                START,
                [Event(EventKind.CA_IMPORTED, START, "ceremony", f"issuer:{name}", detail)],
            )
        for profile in cakit.PROFILES.values():
            store.add_profile(profile.name, profile.version, profile.sha256, profile.source, START)

    def ra(self, act):
        """Run `await act(queue, directory)` as the registration side does."""

        async def run():
            async with AsyncPool(self.database.role("ra")) as pool:
                queue = PgRequestQueue(pool)
                try:
                    return await act(queue, PgDirectory(pool, self.clock))
                finally:
                    await queue.close()

        return asyncio.run(run())

    def ask(self, *csrs, profile="tls-server", names=()):
        async def act(queue, _):
            for csr in csrs:
                now, number = self.clock.now(), hashlib.sha256(csr).hexdigest()[:12]
                asked = NewRequest(number, "rest", "alice", profile, None, csr, names, now)
                detail = {
                    "protocol": "rest",
                    "profile": profile,
                    "issuer": None,
                    "names": list(names),
                    "csr_sha256": hashlib.sha256(csr).hexdigest(),
                }
                event = Event(EventKind.REQUEST_RECEIVED, now, "alice", f"transaction:{number}", detail)
                await queue.submit(asked, [event])

        self.ra(act)

    def work(self):
        revocations, settings = PgRevocationStore(self.session), WorkerSettings(crl=CRLSettings())
        worker = Worker(self.issuing, revocations, settings, lambda *_: None)
        while worker.run_once():
            pass

    def fail_once(self):
        """Take what waits and get no signature from the token."""
        self.token.away = True
        issue_batch(self.issuing, self.issuing.store.take(cakit.WORKER, 10, self.clock.now()))
        self.token.away = False

    def enrol_operator(self, number):
        [(der,)] = self.sql("SELECT der FROM chancery.certificate WHERE certificate_id = %s", number)
        fingerprint, now = hashlib.sha256(der).digest(), self.clock.now()
        detail = {"roles": ["officer"], "profiles": None, "certificate_sha256": fingerprint.hex()}
        event = Event(EventKind.OPERATOR_ENROLLED, now, "installation", "operator:alice", detail)
        operator = Operator(fingerprint, "alice", frozenset({Role.OFFICER}))
        self.ra(lambda _, directory: directory.add_operator(operator, now, [event]))

    def revoke(self, number, reason=RevocationReason.SUPERSEDED):
        [(serial,)] = self.sql("SELECT serial FROM chancery.certificate WHERE certificate_id = %s", number)
        now = self.clock.now()
        detail = {"reason": reason.name.lower(), "issuer": "issuing"}
        event = Event(EventKind.REVOCATION_REQUESTED, now, "alice", f"2:{serial.hex()}", detail)
        wish = NewRevocation("issuing", serial, reason, None, "alice", now)
        self.ra(lambda queue, _: queue.submit_revocation(wish, [event]))

    def sql(self, query, *parameters):
        with connect(self.database.superuser) as superuser:
            cursor = superuser.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

    def tamper(self, *statements):
        with connect(self.database.superuser) as superuser:
            superuser.execute("SET session_replication_role = replica")
            for statement in statements:
                superuser.execute(statement)

    def audit_after(self, statement):
        """Audit what an edit leaves, inside the transaction that made it; nothing stays."""
        with connect(self.database.superuser) as superuser, superuser.transaction(force_rollback=True):
            superuser.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            superuser.execute("SET LOCAL session_replication_role = replica")
            superuser.execute(statement)
            superuser.execute("SET LOCAL ROLE chancery_auditor")
            return audit(Inside(superuser), self.clock.now() + SECOND)

    def audit(self, scope=None, **options):
        with PgAuditReader(self.database.role("auditor")) as reader:
            return audit(reader, self.clock.now() + SECOND, scope, **options)


def csr(name):
    return cakit.make_csr("", (f"dns:{name}.example.org",))


@pytest.fixture(scope="module")
def history(server):
    """A database with a small history: each test edits a copy of it. The clock stands where it ended."""
    with server.database() as database:
        made = Installation(database, FakeClock(START), 1)
        made.found()
        made.ask(cakit.make_csr("CN=alice"), profile="tls-client")
        made.work()
        made.enrol_operator(1)
        made.ask(*(csr(f"www{number}") for number in range(3)))
        made.fail_once()
        made.clock.advance(60)
        made.work()
        made.revoke(2)
        made.ask(cakit.make_csr("", ("dns:known.example.org",), cakit.key("known")))
        made.work()
        made.revoke(5, RevocationReason.KEY_COMPROMISE)
        made.clock.advance(1.5)
        made.work()
        made.clock.advance(1)
        made.session.close()
        yield made


@pytest.fixture
def installation(server, history):
    with server.database(history.database.name) as database:
        made = Installation(database, FakeClock(history.clock.now()), 2)
        yield made
        made.session.close()


def test_what_the_suite_wrote_has_a_right_to_exist(history):
    report = history.audit()
    assert () == report.findings, list(map(str, report.findings))
    assert (5, 3, 2, len(cakit.PROFILES), 1) == (
        report.certificates,
        report.unfinished,
        report.issuers,
        report.profiles,
        report.operators,
    )
    assert report.crls == history.sql("SELECT count(*) FROM chancery.crl")[0][0] > 1


THIRD = "(SELECT issuer_id, serial FROM chancery.certificate WHERE certificate_id = 3)"
THIS = f"(issuer_id, serial) = {THIRD}"
ASKED = "request_id = (SELECT request_id FROM chancery.certificate WHERE certificate_id = 3)"
OTHER = "(SELECT der FROM chancery.certificate WHERE certificate_id = 4)"
REVOKED = "UPDATE chancery.certificate_status SET state = 'revoked', reason = 5, revoked_at = changed_at"
GOOD = "UPDATE chancery.certificate_status SET state = 'good', reason = NULL, revoked_at = NULL"
DONE = """
INSERT INTO chancery.request (transaction_id, protocol, requestor, profile, csr, names, fingerprint, received_at,
    state, worker)
VALUES ('x', 'rest', 'alice', 'tls-server', '', '{}', '', now(), 'done', 'w')"""
WISHED = """
INSERT INTO chancery.revocation_request (issuer_id, serial, reason, requestor, received_at, state)
VALUES (2, '\\x01', 1, 'alice', now(), 'done')"""
UNSAID = """
DELETE FROM chancery.journal_event
WHERE event_id = (SELECT max(event_id) FROM chancery.journal_event WHERE kind = 'certificate.issued')"""
SAID = """
INSERT INTO chancery.journal_event (body)
SELECT replace(body, '"2:', '"2:ff') FROM chancery.journal_event WHERE kind = 'certificate.revoked' LIMIT 1"""
RECEIVED = """
INSERT INTO chancery.journal_event (body)
SELECT replace(body, 'transaction:', 'transaction:ff') FROM chancery.journal_event
WHERE kind = 'request.received' LIMIT 1"""
CERTIFICATES = {
    f"SET der = {OTHER}": [
        Kind.NOT_INTENDED,
        Kind.WRONG_COLUMN,
        Kind.WRONG_COLUMN,
        Kind.WRONG_REQUEST,
        Kind.JOURNAL_DIFFERS,
    ],
    "SET der = '\\x3000'": [Kind.UNREADABLE],
    "SET names = '{dns:mallory.example.org}'": [Kind.WRONG_COLUMN, Kind.JOURNAL_DIFFERS],
    "SET not_after = 'infinity'": [Kind.WRONG_COLUMN, Kind.WRONG_COLUMN, Kind.WRONG_COLUMN],
    "SET issued_at = issued_at + '1 s'": [Kind.JOURNAL_DIFFERS],
}
EDITS = {
    **{
        f"UPDATE chancery.certificate {edit} WHERE certificate_id = 3": kinds
        for edit, kinds in CERTIFICATES.items()
    },
    "DELETE FROM chancery.certificate WHERE certificate_id = 3": [Kind.MISSING],
    f"DELETE FROM chancery.intent WHERE {THIS}": [Kind.NO_INTENT, *[Kind.STRAY] * 3],
    f"UPDATE chancery.intent SET tbs = '\\x3000' WHERE {THIS}": [Kind.NOT_INTENDED, Kind.JOURNAL_DIFFERS],
    f"DELETE FROM chancery.request WHERE {ASKED}": [Kind.WRONG_REQUEST, Kind.STRAY],
    f"UPDATE chancery.request SET csr = '\\x3000' WHERE {ASKED}": [Kind.WRONG_REQUEST, Kind.JOURNAL_DIFFERS],
    DONE: [Kind.STRAY],
    f"{REVOKED} WHERE {THIS}": [Kind.NOT_JOURNALLED, Kind.WRONG_CRL],
    f"{GOOD} WHERE reason = 4": [Kind.WRONG_STATUS, Kind.WRONG_CRL],
    f"{REVOKED} WHERE reason = 4": [
        Kind.JOURNAL_DIFFERS,
        Kind.JOURNAL_DIFFERS,
        Kind.WRONG_STATUS,
        Kind.WRONG_CRL,
    ],
    f"DELETE FROM chancery.certificate_status WHERE {THIS}": [Kind.WRONG_STATUS],
    "DELETE FROM chancery.certificate_status WHERE state = 'unconfirmed'": [Kind.UNFINISHED] * 3,
    "DELETE FROM chancery.revocation_request WHERE reason = 4": [Kind.WRONG_STATUS],
    WISHED: [Kind.STRAY],
    UNSAID: [Kind.NOT_JOURNALLED],
    SAID: [Kind.STRAY],
    RECEIVED: [Kind.STRAY],
    "DELETE FROM chancery.blocked_key": [Kind.BLOCKED_KEY, Kind.STRAY],
    "UPDATE chancery.blocked_key SET blocked_at = blocked_at - '1 h'::interval": [Kind.BLOCKED_KEY],
    "UPDATE chancery.profile SET source = source || '#' WHERE name = 'tls-client'": [Kind.WRONG_PROFILE] * 2,
    "UPDATE chancery.issuer SET certificate = '\\x3000' WHERE name = 'root'": [Kind.WRONG_ISSUER] * 2,
    "UPDATE chancery.crl SET der = '\\x3000' WHERE number = 1": [Kind.JOURNAL_DIFFERS, Kind.BAD_CRL],
    "DELETE FROM chancery.crl WHERE number = 1": [Kind.STRAY],
    "DELETE FROM chancery.crl_number WHERE number = 1": [Kind.NOT_JOURNALLED],
    "UPDATE chancery.operator SET roles = '{administrator}'": [Kind.JOURNAL_DIFFERS],
    "UPDATE chancery.operator SET fingerprint = sha256('x')": [Kind.WRONG_OPERATOR, Kind.JOURNAL_DIFFERS],
    "DELETE FROM chancery.operator": [Kind.STRAY],
}


# A job and a report as roles may write them, without a word in the journal.
JOB = """
WITH job AS (
    INSERT INTO chancery.revocation_job (requestor, reason, selection, size, digest, received_at, state)
    VALUES ('alice', 4, '{}', 1, sha256('another list'), now(), 'done') RETURNING job_id),
approved AS (
    INSERT INTO chancery.revocation_approval (job_id, operator, digest, approved_at)
    SELECT job_id, 'alice', sha256('another list'), now() FROM job)
UPDATE chancery.revocation_request SET job_id = (SELECT job_id FROM job) WHERE reason = 4"""
REPORT = """
WITH report AS (
    INSERT INTO chancery.problem_report (ground, spki_sha256, evidence, reporter, proven, recorded_by, received_at,
        answer_by, revoke_by)
    VALUES ('key-compromise', sha256('key'), 'e', 'eve', false, 'alice', now(), now(), now()) RETURNING report_id)
INSERT INTO chancery.problem_report_act (report_id, kind, words, operator, at)
SELECT report_id, 'rejected', 'no', 'alice', now() FROM report"""
EDITS |= {
    JOB: [*[Kind.NOT_JOURNALLED] * 4, Kind.WRONG_JOB, Kind.WRONG_JOB],
    REPORT: [Kind.NOT_JOURNALLED, Kind.NOT_JOURNALLED],
    f"{JOB}; {GOOD} WHERE reason = 4": [
        Kind.WRONG_STATUS,
        Kind.WRONG_CRL,
        *[Kind.NOT_JOURNALLED] * 4,
        *[Kind.WRONG_JOB] * 3,
    ],
}


@pytest.mark.parametrize(("statement", "expected"), EDITS.items())
def test_what_a_superuser_edits_is_found(history, statement, expected):
    report = history.audit_after(statement)
    assert expected == [one.kind for one in report.findings], list(map(str, report.findings))


def test_the_reader_is_read_only_and_sees_one_moment(installation):
    with PgAuditReader(installation.database.role("auditor")) as reader:
        before = reader.count(Scope())
        installation.ask(csr("later"))
        installation.work()
        assert before == reader.count(Scope()) == sum(map(len, reader.certificates(Scope())))
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            reader._connection.execute("DELETE FROM chancery.certificate")
    assert before + 1 == installation.audit().certificates


def test_what_is_younger_and_another_issuer_s_is_left_out(history):
    assert 4 == history.audit(Scope(since=START + 30 * SECOND)).certificates
    root = history.audit(Scope(issuer_id=1))
    assert (0, 0, 0) == (root.certificates, root.unfinished, root.crls)
    assert () == root.findings == history.audit(Scope(since=START + 30 * SECOND)).findings


def test_a_database_that_is_away_says_so(history):
    role = dataclasses.replace(history.database.role("auditor"), port=1)
    with pytest.raises(PKIError) as refused, PgAuditReader(role):
        pass
    assert ErrorType.SYSTEM_UNAVAIL is refused.value.type


@pytest.fixture
def config(history, tmp_path):
    """The auditor's configuration file."""
    role = history.database.role("auditor")
    (tmp_path / "password").write_bytes(pg.password(role.user))
    (tmp_path / "password").chmod(0o600)
    (tmp_path / "journal.pem").write_bytes(b"")
    file = tmp_path / "auditor.toml"
    file.write_text(
        f"""
process = "auditor"
origin = "example.org/journal"
journal_key = "{tmp_path}/journal.pem"
[database]
host = "{role.host}"
port = {role.port}
dbname = "{role.database}"
user = "{role.user}"
password_file = "{tmp_path}/password"
"""
    )
    return file


def run(config, *words):
    result = CliRunner().invoke(command.app, ["run", "--config", str(config), *words])
    assert isinstance(result.exception, SystemExit | OperatorError | None), result.exception
    return result


def test_the_command_says_that_all_is_well(config):
    result = run(config)
    assert (0, True) == (result.exit_code, "all has a right to exist" in result.stdout)
    result = run(config, "--json", "--issuer", "issuing", "--since", "2026-11-01")
    assert {"good": True, "certificates": 5, "findings": []}.items() <= json.loads(result.stdout).items()


def test_the_command_names_each_finding_and_its_next_step(installation, config):
    config.write_text(re.sub("(?<=dbname = ).*", f'"{installation.database.name}"', config.read_text()))
    installation.tamper("UPDATE chancery.certificate SET spki_sha256 = sha256('x') WHERE certificate_id = 3")
    result = run(config)
    assert (3, True) == (result.exit_code, "wrong-column: 2:" in result.stdout)
    assert "backup" in result.stdout
    said = json.loads(run(config, "--json").stdout)
    assert (False, {"wrong-column": 1}) == (said["good"], said["counts"])


def test_another_linter_is_asked_and_its_words_are_a_finding(config, tmp_path):
    linter = tmp_path / "linter"
    linter.write_text('#!/bin/sh\ntest -s "$2" || echo empty\n')
    linter.chmod(0o755)
    assert 0 == run(config, "--second-opinion", f"{linter} 'two words'").exit_code
    linter.write_text("#!/bin/sh\necho too\necho short\n")
    result = run(config, "--second-opinion", str(linter), "--since", f"{START + 30 * SECOND:%Y-%m-%dT%H:%M:%S}")
    assert (3, 4) == (result.exit_code, result.stdout.count("too short"))
    linter.write_text("#!/bin/sh\nexit 5\n")
    assert "exit code 5" in run(config, "--second-opinion", str(linter)).stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--issuer", "nobody"], "no issuer nobody"),
        (["--second-opinion", "/no/such/program"], "cannot be run"),
        (["--second-opinion", "'"], "quotation"),
        (["--second-opinion", " "], "names no program"),
    ],
)
def test_what_cannot_be_run_is_said(config, words, said):
    result = run(config, *words)
    assert (1, True) == (result.exit_code, said in str(result.exception))
