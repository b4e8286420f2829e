"""R30 on the real database: what a superuser does to the journal is found by the auditor's role and command."""

from __future__ import annotations

import json

import psycopg
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from typer.testing import CliRunner

import pg
from chancery.audit.log import Sequencer
from chancery.audit.memory import CheckpointFile
from chancery.audit.verify import Kind, verify
from chancery.cli import audit as commands
from chancery.errors import OperatorError, PKIError
from chancery.postgres.issuers import PgIssuerStore
from chancery.postgres.journal import PgJournalStore
from chancery.postgres.session import Session, connect
from fakes import FakeClock
from unit.audit.journals import ED25519, ORIGIN, OTHER, SOON

pytestmark = pytest.mark.postgres
REFUSED = (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction)
REHASH = """
UPDATE chancery.journal_leaf SET hash = sha256('\\x00' || convert_to(body, 'UTF8'))
FROM chancery.journal_event e WHERE leaf_index = 7 AND e.event_id = 8"""


class History:
    """A journal as worker and sequencer write it, and a superuser who changes it."""

    def __init__(self, database):
        self.database = database
        self.session = Session(database.role("worker"))
        self.store = PgIssuerStore(self.session)
        self.sequencer = Sequencer(PgJournalStore(self.session), ED25519, ORIGIN, FakeClock())
        self.count = 0

    def write(self, events):
        for _ in range(events):
            self.count += 1
            self.store.add_profile(f"profile-{self.count}", 1, bytes(31) + bytes((self.count,)), "x", pg.AT)
        return self.sequencer.run_once()

    def tamper(self, *statements):
        with connect(self.database.superuser) as superuser:
            superuser.execute("SET session_replication_role = replica")
            for statement in statements:
                superuser.execute(statement)

    def audit(self, *remembered):
        session = Session(self.database.role("auditor"))
        try:
            return verify(PgJournalStore(session), ORIGIN, ED25519.public_key, SOON, remembered=remembered)
        finally:
            session.close()


@pytest.fixture
def history(database):
    made = History(database)
    assert [3, 1, 4] == [made.write(events) for events in (3, 1, 4)]
    yield made
    made.session.close()


def kinds(audit):
    return [finding.kind for finding in audit.findings]


def test_an_honest_journal_is_found_whole_by_the_auditor_s_role(history):
    found = history.audit()
    assert ((), 8, 3) == (found.findings, found.head.size, found.checkpoints)


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        (["UPDATE chancery.journal_event SET body = replace(body, 'profile-2', 'profile-9')"], [Kind.EDITED]),
        (["DELETE FROM chancery.journal_event WHERE event_id = 5"], [Kind.DELETED]),
        (["DELETE FROM chancery.journal_leaf WHERE leaf_index = 2"], [Kind.GAP]),
        (["DELETE FROM chancery.journal_leaf WHERE leaf_index >= 6"], [Kind.TRUNCATED]),
        (["TRUNCATE chancery.journal_checkpoint"], [Kind.NOT_SIGNED]),
        (["UPDATE chancery.journal_checkpoint SET note = 'x' WHERE tree_size = 3"], [Kind.BAD_CHECKPOINT]),
        (["UPDATE chancery.journal_checkpoint SET root = sha256('x') WHERE tree_size = 3"], [Kind.BAD_CHECKPOINT]),
        (
            ["UPDATE chancery.journal_leaf SET hash = sha256('x') WHERE leaf_index = 4"],
            [Kind.EDITED, Kind.REPLACED],
        ),
        (
            [
                "UPDATE chancery.journal_event SET body = replace(body, 'actor', 'Actor') WHERE event_id = 8",
                REHASH,
            ],
            [Kind.REPLACED],
        ),
        (
            [
                "UPDATE chancery.journal_leaf SET leaf_index = leaf_index + 100 WHERE leaf_index IN (1, 2)",
                "UPDATE chancery.journal_leaf SET leaf_index = 103 - leaf_index WHERE leaf_index > 100",
            ],
            [Kind.REPLACED],
        ),
    ],
)
def test_what_a_superuser_changed_is_found(history, statements, expected):
    history.tamper(*statements)
    assert expected == kinds(history.audit())


def test_what_a_superuser_cut_off_is_found_by_the_remembered_checkpoint(history):
    remembered = history.audit().head
    history.tamper(
        "DELETE FROM chancery.journal_event WHERE event_id > 4",
        "DELETE FROM chancery.journal_leaf WHERE leaf_index >= 4",
        "DELETE FROM chancery.journal_checkpoint WHERE tree_size > 4",
    )
    assert [] == kinds(history.audit())
    assert [Kind.ROLLED_BACK] == kinds(history.audit(remembered))


def test_no_process_can_change_the_journal_itself(history):
    for role in ("ra", "worker", "ocsp", "tsa", "auditor"):
        with connect(history.database.role(role)) as connection:
            for statement in (
                "UPDATE chancery.journal_event SET body = '{}'",
                "DELETE FROM chancery.journal_leaf",
                "TRUNCATE chancery.journal_checkpoint",
            ):
                with pytest.raises(REFUSED):
                    connection.execute(statement)


def test_a_second_sequencer_does_not_break_the_log(history):
    other = Session(history.database.role("worker"))
    try:
        second = Sequencer(PgJournalStore(other), ED25519, ORIGIN, FakeClock())
        assert 0 == second.run_once()
        history.store.add_profile("more", 1, bytes(32), "x", pg.AT)
        assert 1 == second.run_once()
    finally:
        other.close()
    history.store.add_profile("even-more", 1, bytes(32), "x", pg.AT)
    with pytest.raises(PKIError, match="sequenced the journal meanwhile"):
        history.sequencer.run_once()
    assert 1 == history.sequencer.run_once()
    assert ((), 10) == (history.audit().findings, history.audit().head.size)


@pytest.fixture
def config(history, tmp_path):
    """The auditor's configuration file, and a function that runs `chancery audit …` with it."""
    role = history.database.role("auditor")
    (tmp_path / "password").write_bytes(pg.password(role.user))
    (tmp_path / "password").chmod(0o600)
    key = ED25519.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "journal.pem").write_bytes(key)
    (tmp_path / "auditor.toml").write_text(
        f"""
process = "auditor"
origin = "{ORIGIN}"
journal_key = "{tmp_path}/journal.pem"
checkpoint_file = "{tmp_path}/checkpoint"
[database]
host = "{role.host}"
port = {role.port}
dbname = "{role.database}"
user = "{role.user}"
password_file = "{tmp_path}/password"
"""
    )
    return tmp_path / "auditor.toml"


def run(command, config, *words):
    result = CliRunner().invoke(commands.app, [command, "--config", str(config), *words])
    assert isinstance(result.exception, SystemExit | OperatorError | None), result.exception
    return result


def test_the_command_says_that_all_is_well_and_remembers(history, config, tmp_path):
    result = run("verify", config, "--remember", str(tmp_path / "witness"))
    assert (0, True) == (result.exit_code, "as it was signed" in result.stdout)
    assert 8 == CheckpointFile(tmp_path / "witness").read(ORIGIN, ED25519.public_key).size
    result = run("verify", config, "--remember", str(tmp_path / "witness"), "--json")
    assert {"good": True, "tree_size": 8, "remembered": 1}.items() <= json.loads(result.stdout).items()


def test_the_command_names_every_finding_and_its_next_step(history, config, tmp_path):
    run("verify", config, "--remember", str(tmp_path / "witness"))
    history.tamper("DELETE FROM chancery.journal_event WHERE event_id = 5")
    result = run("verify", config)
    assert 3 == result.exit_code
    assert "deleted: event 5 (leaf 4) is gone" in result.stdout
    assert "backup" in result.stdout
    assert "events " not in result.stdout.split("finding")[0]
    history.tamper(
        "DELETE FROM chancery.journal_event WHERE event_id > 4",
        "DELETE FROM chancery.journal_leaf WHERE leaf_index >= 4",
        "DELETE FROM chancery.journal_checkpoint WHERE tree_size > 4",
    )
    assert 0 == run("verify", config).exit_code
    result = run("verify", config, "--remember", str(tmp_path / "witness"))
    assert (3, True) == (result.exit_code, "rolled-back" in result.stdout)
    # What was remembered is not replaced by what was cut down.
    assert 8 == CheckpointFile(tmp_path / "witness").read(ORIGIN, ED25519.public_key).size


def test_the_worker_s_own_memory_is_compared_without_being_asked(history, config, tmp_path):
    history.sequencer = Sequencer(
        PgJournalStore(history.session),
        ED25519,
        ORIGIN,
        FakeClock(),
        remember=CheckpointFile(tmp_path / "checkpoint"),
    )
    history.write(1)
    assert 0 == run("verify", config).exit_code
    history.tamper(
        "DELETE FROM chancery.journal_event WHERE event_id > 4",
        "DELETE FROM chancery.journal_leaf WHERE leaf_index >= 4",
        "DELETE FROM chancery.journal_checkpoint WHERE tree_size > 4",
    )
    assert 3 == run("verify", config).exit_code


def test_another_key_file_is_named(history, config, tmp_path):
    key = OTHER.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "journal.pem").write_bytes(key)
    assert 3 == run("verify", config).exit_code
    (tmp_path / "journal.pem").write_bytes(b"nothing")
    result = run("verify", config)
    assert "not a public key" in str(result.exception)


def test_events_are_listed(history, config):
    result = run("list", config, "--subject", "profile:profile-5")
    assert 1 == len(result.stdout.splitlines())
    assert "profile.loaded" in result.stdout
    listed = json.loads(run("list", config, "--limit", "3", "--json").stdout)
    assert [7, 6, 5] == [entry["index"] for entry in listed]
    assert "" == run("list", config, "--kind", "login").stdout
