"""The embedded server: started, adopted, killed, refused; as root under an account of its own."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest
from pgdata import WORKER, Office, certificate, error_of, event, intent

from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.postgres.embedded import EmbeddedPostgres, own_directory, short_socket_directory
from chancery.postgres.session import Session, connect
from pg import AT, FAST, temporary_directory, temporary_postgres


def ask(server: EmbeddedPostgres, query: str, **changes):
    with connect(dataclasses.replace(server.superuser, **changes)) as superuser:
        return superuser.execute(query).fetchone()


def owner_of(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


def test_it_is_started_once_adopted_and_stopped_by_whoever_comes(own_server):
    server = own_server.embedded
    pid = server.pid()
    server.start()
    other = EmbeddedPostgres(server.directory, FAST)
    other.start()  # as after a kill -9 of the one that started it
    assert pid == other.pid() == server.pid()
    other.stop()
    assert not server.ready()
    other.stop()
    server.start()
    assert pid != server.pid()
    assert server.ready()


def test_it_outlives_a_killed_supervisor(own_server):
    server = own_server.embedded
    server.stop()
    program = (
        "import sys, time; from pathlib import Path; sys.path[:0] = sys.argv[2:]\n"
        "from chancery.postgres.embedded import EmbeddedPostgres; from pg import FAST\n"
        "EmbeddedPostgres(Path(sys.argv[1]), FAST).start(); print('up', flush=True); time.sleep(600)"
    )
    words = [sys.executable, "-c", program, str(server.directory), *sys.path]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as supervisor:
        assert b"up\n" == supervisor.stdout.readline()
        supervisor.kill()
    pid = server.pid()
    server.start()
    assert (pid, (1,)) == (server.pid(), ask(server, "SELECT 1"))


def test_its_settings_are_safe(own_server):
    server = own_server.embedded
    shown = {
        name: ask(server, f"SHOW {name}")[0]
        for name in ("listen_addresses", "data_checksums", "synchronous_commit", "password_encryption")
    }
    assert {
        "listen_addresses": "",
        "data_checksums": "on",
        "synchronous_commit": "on",
        "password_encryption": "scram-sha-256",
    } == shown
    rules = "SELECT array_agg(DISTINCT type || ' ' || auth_method) FROM pg_hba_file_rules"
    assert ["local scram-sha-256"] == ask(server, rules)[0]
    with temporary_postgres(settings={}) as durable:
        assert [("on",), ("on",)] == [
            ask(durable.embedded, f"SHOW {name}") for name in ("fsync", "full_page_writes")
        ]


def test_nobody_else_reads_its_files_and_it_is_not_root(own_server):
    server = own_server.embedded
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in (server.directory, server.data_dir, server.socket_dir, server.log_file, server.password_file)
    }
    assert {"pg": 0o711, "data": 0o700, "run": 0o711, "postgres.log": 0o600, "superuser-password": 0o600} == modes
    account = server.account
    assert owner_of(server.pid()) == (account.uid if account else os.geteuid())
    assert owner_of(server.pid()) != 0
    assert os.geteuid() == server.password_file.stat().st_uid
    environment = (
        Path(f"/proc/{server.pid()}/environ").read_bytes() + Path(f"/proc/{server.pid()}/cmdline").read_bytes()
    )
    assert server.password_file.read_bytes().strip() not in environment


def test_the_superuser_proves_a_password(own_server):
    for wrong in (None, lambda: b"wrong"):
        with pytest.raises(psycopg.OperationalError):
            ask(own_server.embedded, "SELECT 1", password=wrong)


def test_killed_it_recovers_everything_that_was_committed(own_server, own_database):
    """Writers count what was confirmed to them; the server is killed under them, again and again."""
    office, server = Office(own_database), own_server.embedded
    confirmed: list[str] = []
    stop = threading.Event()

    def writer(name: int) -> None:
        session, n = Session(own_database.role("worker")), 0
        while not stop.is_set():
            try:
                with session.transaction() as connection:
                    connection.execute(
                        "INSERT INTO chancery.profile VALUES (%s, 1, %s, '', %s)", (f"{name} {n}", bytes(32), AT)
                    )
                confirmed.append(f"{name} {n}")
            except PKIError as error:
                assert ErrorType.SYSTEM_UNAVAIL == error.type  # noqa: PT017 - on a thread
                time.sleep(0.01)
            n += 1
        session.close()

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        running = [pool.submit(writer, name) for name in range(3)]
        try:
            # Once the server alone, whose children live on for a moment; then all of it.
            for kill in (lambda: os.kill(server.pid(), signal.SIGKILL), own_server.kill, own_server.kill):
                seen = len(confirmed)
                while len(confirmed) < seen + 20:
                    time.sleep(0.01)
                kill()
                server.start()
        finally:
            stop.set()
        for one in running:
            one.result()
    stored = {name for (name,) in office.sql("SELECT name FROM chancery.profile")}
    assert set() == set(confirmed) - stored
    assert len(confirmed) >= 60


def test_a_store_works_again_after_a_kill(own_server, own_database):
    office = Office(own_database)
    first, second = office.submit("t1", "t2")
    office.store.take(WORKER, 2, AT)
    office.store.record_intents(WORKER, [intent(first, 1)], [], [event("intent")])
    own_server.kill()
    record = lambda: office.store.record_certificates([certificate(first, 1)], [], [])
    assert ErrorType.SYSTEM_UNAVAIL == error_of(record)
    own_server.embedded.start()
    assert [intent(first, 1)] == office.store.unconfirmed(WORKER)
    record()
    office.store.record_intents(WORKER, [intent(second, 2)], [], [])
    # A restart that nobody noticed costs no call.
    own_server.embedded.stop()
    own_server.embedded.start()
    office.store.record_certificates([certificate(second, 2)], [], [])
    assert 2 == office.count("certificate")


def test_one_backend_killed_is_an_outage_and_then_over(own_server, own_database):
    office = Office(own_database)

    def killed() -> None:
        with office.store._session.transaction() as connection:
            os.kill(connection.info.backend_pid, signal.SIGKILL)
            connection.execute("SELECT pg_sleep(60)")

    assert ErrorType.SYSTEM_UNAVAIL == error_of(killed)
    # The server answers a ping until it has noticed; then it ends every connection and recovers.
    deadline = time.monotonic() + 60
    while error_of(lambda: office.store.take(WORKER, 1, AT)) is ErrorType.SYSTEM_UNAVAIL:
        assert time.monotonic() < deadline, "the server did not come back"
        time.sleep(0.02)
    assert [] == office.store.take(WORKER, 1, AT)


def test_a_stale_lock_file_that_names_another_program_is_removed(own_server):
    server = own_server.embedded
    os.kill(server.pid(), signal.SIGKILL)
    lock = server.data_dir / "postmaster.pid"
    with subprocess.Popen(["sleep", "600"]) as other:
        lines = lock.read_text().split("\n")
        lock.write_text("\n".join([str(other.pid), *lines[1:]]))
        server.start()
        assert server.pid() != other.pid
        other.kill()


def test_an_interrupted_beginning_begins_again():
    with temporary_directory() as path:
        (path / "pg" / "data.unfinished").mkdir(parents=True)
        (path / "pg" / "data.unfinished" / "PG_VERSION").write_text("18\n")
        server = EmbeddedPostgres(path / "pg", FAST)
        server.prepare()
        assert (server.data_dir / "PG_VERSION").exists()
        assert not (path / "pg" / "data.unfinished").exists()


def test_what_is_not_its_own_is_refused():
    with temporary_directory() as path:
        server = EmbeddedPostgres(path / "pg", FAST)
        server.data_dir.mkdir(parents=True)
        (server.data_dir / "diary").touch()
        with pytest.raises(OperatorError, match="neither empty nor a PostgreSQL cluster"):
            server.prepare()
        (server.data_dir / "PG_VERSION").write_text("9\n")
        with pytest.raises(OperatorError, match="was made by PostgreSQL 9"):
            server.prepare()


def test_its_account_leads_nobody_elsewhere_by_links():
    with temporary_directory() as path:
        server, secret = EmbeddedPostgres(path / "pg", FAST), path / "secret"
        secret.write_text("of whoever starts the server\n")
        server.prepare()
        (server.data_dir / ".pg_hba.conf.new").symlink_to(secret)
        server.prepare()
        assert "of whoever starts the server\n" == secret.read_text()
        (server.data_dir / "PG_VERSION").unlink()
        (server.data_dir / "PG_VERSION").symlink_to(secret)
        with pytest.raises(OperatorError, match="was made by PostgreSQL of another kind"):
            server.prepare()


def test_a_start_that_fails_says_where_to_look():
    with temporary_directory() as path:
        server = EmbeddedPostgres(path / "pg", {**FAST, "shared_buffers": "nonsense"})
        with pytest.raises(OperatorError, match=r"ended at its start.*postgres\.log"):
            server.start()


def test_a_long_path_gets_a_short_socket(tmp_path):
    short, long = Path("/tmp/x/run"), tmp_path / ("d" * 90) / "run"
    assert short == short_socket_directory(short)
    found = short_socket_directory(long)
    assert found == short_socket_directory(long)
    assert found != short_socket_directory(long / "other")
    assert len(str(found / ".s.PGSQL.5432.lock")) < 100


@pytest.mark.parametrize("character", [",", "'", '"', "\\"])
def test_a_path_that_would_need_quoting_gets_a_plain_socket(character):
    wanted = Path(f"/tmp/a{character}b/run")
    assert set() == set(str(short_socket_directory(wanted))) & set(",'\"\\")
    assert Path("/tmp/a b/run") == short_socket_directory(Path("/tmp/a b/run"))


def test_a_socket_directory_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(OperatorError, match="belongs to somebody else"):
        own_directory(tmp_path / "link", 0o711, None)
    if os.geteuid() == 0:
        (tmp_path / "foreign").mkdir()
        os.chown(tmp_path / "foreign", 65534, 65534)
        with pytest.raises(OperatorError, match="belongs to somebody else"):
            own_directory(tmp_path / "foreign", 0o711, None)
