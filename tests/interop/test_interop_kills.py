"""kill -9 of any process, or of everything, loses nothing; a second start goes on with the same state."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

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


def test_many_requests_outlive_their_asker_the_web_process_and_the_worker(mortal):
    """Killed in the middle, the same command goes on; in the end each request has one certificate."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(4)]
    path = mortal.work / "many.jsonl"
    with path.open("w") as file:
        for number in range(600):
            host = f"many-{number}.example.org"
            name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
            csr = (
                x509.CertificateSigningRequestBuilder().subject_name(name).sign(keys[number % 4], hashes.SHA256())
            )
            asked = {"csr": csr.public_bytes(Encoding.PEM).decode(), "names": [f"dns:{host}"]}
            file.write(json.dumps(asked) + "\n")
    results = path.with_name("many.jsonl.results.jsonl")
    env = {**os.environ, "CHANCERY_CLIENT": str(mortal.place.client)}
    words = [CHANCERY, "request", "--profile", "tls-server", "--bulk", str(path)]

    def settled() -> int:
        return results.read_bytes().count(b"\n") - 1 if results.exists() else 0

    for victim in ("asker", "ca", "worker"):
        before = settled()
        asker = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_until(lambda before=before, asker=asker: settled() > before or asker.poll() is not None)
        os.kill(asker.pid if victim == "asker" else mortal.processes()[victim], signal.SIGKILL)
        if victim == "asker":
            asker.communicate()
            continue
        told = asker.communicate(timeout=120)
        assert 0 == asker.returncode, told
    found = [json.loads(line) for line in results.read_text().splitlines()[1:]]
    assert {str(number) for number in range(1, 601)} == {one["source"] for one in found if one["state"] == "done"}
    wait_until(lambda: well(mortal))
    listed = json.loads(mortal.chancery("list", "--subject", "CN=many-", "--limit", "2000", "--json").stdout)
    assert 600 == len(listed) == len({one["serial"] for one in found})
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
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert "worker" in {one.get("name") for one in lines if one["event"] == "process-started"}
    assert "worker" in {one.get("process") for one in lines}
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
            "UPDATE chancery.journal_event SET body = replace(body, 'installation', 'installatiom')"
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
