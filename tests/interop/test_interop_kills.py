"""kill -9 of any process, or of everything, loses nothing; a second start goes on with the same state."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from suite import CHANCERY, bring_up, take_down, wait_until

pytestmark = [pytest.mark.suite]


@pytest.fixture(scope="module")
def mortal():
    suite = bring_up("--organization", "Mortal, Inc.")
    try:
        yield suite
    finally:
        take_down(suite)


def well(suite) -> bool:
    return suite.chancery("status", "--state", suite.state, check=False).returncode == 0


def audit(suite):
    """The journal is as it was signed, and everything stored is what it tells."""
    for command in (("audit", "verify"), ("auditor", "run")):
        suite.chancery(*command, "--config", suite.place.config("auditor"))


@pytest.mark.parametrize("process", ["worker", "ca", "ocsp", "tsa", "postgres"])
def test_a_killed_process_comes_back_and_the_suite_goes_on(mortal, process):
    before = mortal.issue(f"before-{process}.example.org")
    pid = mortal.processes()[process]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: mortal.processes().get(process, pid) != pid)
    wait_until(lambda: well(mortal))
    assert ": good" in mortal.ocsp(before)
    after = mortal.issue(f"after-{process}.example.org")
    assert ": good" in mortal.ocsp(after)
    mortal.chancery("revoke", mortal.serial(before), "--reason", "superseded", "--yes")
    assert ": revoked" in mortal.ocsp(before)
    audit(mortal)


def test_kill_9_of_everything_loses_nothing(mortal):
    root = (mortal.pki / "root.pem").read_bytes()
    kept = [mortal.issue(f"kept-{number}.example.org") for number in range(2)]
    mortal.chancery("revoke", mortal.serial(kept[0]), "--reason", "cessationOfOperation", "--yes")
    pids = [mortal.supervisor_pid(), *mortal.processes().values()]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids))
    mortal.up()
    assert root == (mortal.pki / "root.pem").read_bytes()
    assert ": revoked" in mortal.ocsp(kept[0])
    assert ": good" in mortal.ocsp(kept[1])
    listed = mortal.chancery("list", "--json").stdout.decode()
    for pem in kept:
        assert mortal.serial(pem).lower() in listed.lower()
    audit(mortal)


def test_a_dead_supervisor_takes_its_processes_along(mortal):
    pids = list(mortal.processes().values())
    os.kill(mortal.supervisor_pid(), signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    mortal.up()
    assert well(mortal)


def test_up_on_a_running_suite_changes_nothing_and_down_stops_all(mortal):
    before = mortal.processes()
    assert b"every process is healthy" in mortal.up().stdout
    assert before == mortal.processes()
    certificates = mortal.chancery("list", "--json").stdout
    mortal.down()
    assert not any(Path(f"/proc/{pid}").exists() for pid in before.values())
    assert b"nothing runs" in mortal.down().stdout
    mortal.up()
    assert certificates == mortal.chancery("list", "--json").stdout
    audit(mortal)


def test_in_the_foreground_it_stays_logs_and_ends_on_an_interrupt(mortal):
    mortal.down()
    words = [CHANCERY, "up", "--state", str(mortal.state), "--foreground"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        wait_until(lambda: well(mortal))
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[0]
    assert 0 == process.returncode, said
    assert '"event": "process-started"' in said
    assert '"process": "worker"' in said
    assert b"nothing runs" in mortal.down().stdout
    mortal.up()


def test_an_option_that_certificates_carry_does_not_change_later(mortal):
    done = mortal.chancery("up", "--state", mortal.state, "--organization", "Other", check=False)
    assert 1 == done.returncode
    assert b"cannot change after the first start" in done.stderr


def test_edited_history_is_found_by_the_audit(mortal):
    import psycopg

    server = mortal.place.database
    superuser = {
        "host": str(next(Path(path).parent for path in _sockets(server))),
        "user": "postgres",
        "password": (server / "superuser-password").read_text().strip(),
        "dbname": "chancery",
    }
    with psycopg.connect(**superuser, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(
            "UPDATE chancery.journal_event SET body = replace(body, 'request.received', 'request.deceived')"
            " WHERE event_id = (SELECT min(event_id) FROM chancery.journal_event WHERE kind = 'request.received')"
        )
    done = mortal.chancery("audit", "verify", "--config", mortal.place.config("auditor"), check=False)
    assert 3 == done.returncode, done.stdout  # R30
    assert b"edited" in done.stdout


def _sockets(server: Path):
    """The embedded server's socket, wherever its path was short enough."""
    text = (server / "data" / "postgresql.conf").read_text()
    directory = next(line for line in text.splitlines() if line.startswith("unix_socket_directories"))
    return [directory.split("'")[1] + "/.s.PGSQL.5432"]


def test_up_says_what_is_wrong_with_a_port_that_is_taken(mortal):
    import socket

    mortal.down()
    with socket.create_server(("127.0.0.1", mortal.suite.tsa_port)):
        done = mortal.chancery("up", "--state", mortal.state, check=False)
        assert 1 == done.returncode
        assert b"(tsa_port) cannot be had: Address already in use" in done.stderr
    mortal.up()
    assert well(mortal)


def test_a_wrong_pin_is_tried_once_and_not_at_every_restart(mortal):
    """A token counts refused PINs: a supervisor that started the process again and again would lock it."""
    wait_until(lambda: well(mortal))
    pin = mortal.place.token("tsa") / "pin"
    right = pin.read_bytes()
    pin.write_bytes(b"0" * 48 + b"\n")
    began = mortal.place.log.stat().st_size
    os.kill(mortal.processes()["tsa"], signal.SIGKILL)

    def given_up():
        state = json.loads((mortal.place.run / "supervisor.json").read_bytes())["processes"]["tsa"]
        return state if state["hopeless"] else None

    assert 2 == wait_until(given_up)["failures"]  # the kill, and the one start that met the wrong PIN
    said = mortal.place.log.read_bytes()[began:]
    assert 1 == said.count(b"the PIN of token `chancery-tsa`")
    again = mortal.chancery("up", "--state", mortal.state, check=False)
    assert b"tsa cannot run: the PIN of token `chancery-tsa`" in again.stderr
    pin.write_bytes(right)
    mortal.down()
    mortal.up()
    assert well(mortal)
