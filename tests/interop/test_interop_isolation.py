"""Separate accounts, tokens, PINs and database roles: each process can reach its own and nothing else."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from pathlib import Path

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from chancery.cli import build
from chancery.config import load
from suite import CHANCERY, run, wait_until

pytestmark = [pytest.mark.suite]

ACCOUNTS = {"worker": "issuing", "ocsp": "ocsp", "tsa": "tsa"}


def as_account(name: str, *words: object):
    entry = pwd.getpwnam(f"chancery-{name}")
    return subprocess.run(
        [str(word) for word in words], user=entry.pw_uid, group=entry.pw_gid, extra_groups=[], cwd="/",
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip


def test_each_process_runs_as_an_account_of_its_own(running):
    assert 0 == os.geteuid(), "the accounts are made by root"
    owners = {
        name: pwd.getpwuid(Path(f"/proc/{pid}").stat().st_uid).pw_name
        if name == "postgres"
        else pwd.getpwuid(int(re.search(r"Uid:\t(\d+)", Path(f"/proc/{pid}/status").read_text())[1])).pw_name
        for name, pid in running.processes().items()
    }
    assert {
        "postgres": "chancery-db",
        "worker": "chancery-worker",
        "ca": "chancery-ca",
        "ocsp": "chancery-ocsp",
        "tsa": "chancery-tsa",
    } == owners


@pytest.mark.parametrize("account", ["worker", "ca", "ocsp", "tsa", "db"])
def test_no_serving_account_reads_another_s_secrets(running, account):
    own = {ACCOUNTS.get(account, "none")}
    places = [running.place.token(role) for role in ("offline", "issuing", "ocsp", "tsa") if role not in own]
    for place in places:
        assert place.is_dir()
        assert 0 != as_account(account, "ls", place).returncode
        assert 0 != as_account(account, "cat", place / "pin").returncode
    others = {"db-owner", "db-auditor", "db-ra", "db-worker", "db-ocsp", "db-tsa"}
    mine = {"worker": "db-worker", "ca": "db-ra", "ocsp": "db-ocsp", "tsa": "db-tsa"}.get(account)
    for name in others - {mine}:
        path = running.state / "secrets" / f"{name}.password"
        assert path.is_file()
        assert 0 != as_account(account, "cat", path).returncode
    for role in ("offline", "issuing", "ocsp", "tsa"):
        assert 0 != as_account(account, "cat", running.state / "secrets" / f"so-{role}.pin").returncode
    assert 0 != as_account(account, "cat", running.place.admin / "admin.key").returncode


@pytest.mark.parametrize("account", ["ca", "ocsp", "tsa"])
def test_no_account_opens_the_issuing_or_the_offline_token(running, account):
    for process in ("worker", "offline"):
        done = as_account(account, CHANCERY, "hsm", "check", "--config", running.place.config(process))
        assert 0 != done.returncode


def test_the_worker_listens_on_nothing(running):
    pid = running.processes()["worker"]
    inodes = {
        str(link.readlink())[8:-1]
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if link.is_symlink() and str(link.readlink()).startswith("socket:")
    }
    listening = {
        fields[9]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        if (fields := line.split())[3] == "0A"
    }
    assert inodes
    assert set() == inodes & listening


def test_no_secret_is_on_a_command_line_in_an_environment_or_in_the_log(running):
    secrets = [
        path.read_text().strip()
        for path in [*running.state.glob("tokens/*/pin"), *(running.state / "secrets").iterdir()]
    ]
    secrets += [(running.place.admin / "admin.p12.password").read_text().strip()]
    assert 10 < len(secrets)
    pids = [*running.processes().values(), running.supervisor_pid()]
    texts = [
        Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
        for pid in pids
        for name in ("cmdline", "environ")
    ]
    texts += [path.read_text(errors="replace") for path in (running.state / "log").iterdir()]
    texts += [path.read_text() for path in (running.state / "conf").iterdir()]
    for secret in secrets:
        assert not any(secret in text for text in texts)


def test_secret_files_are_for_their_owner_alone(running):
    files = [
        *running.state.glob("tokens/*/pin"),
        *(running.state / "secrets").iterdir(),
        running.place.tls / "server.key",
        *running.place.admin.iterdir(),
    ]
    assert 15 < len(files)
    assert [] == [str(path) for path in files if path.stat().st_mode & 0o077]


def test_keys_do_not_leave_their_tokens(running):
    for role in ("issuing", "ocsp", "tsa", "offline"):
        pin = (running.place.token(role) / "pin").read_text().strip()
        env = {**os.environ, "SOFTHSM2_CONF": str(running.place.token(role) / "softhsm2.conf"), "PIN": pin}
        # pkcs11-tool asks for the PIN by the name of an environment variable.
        done = run("pkcs11-tool", "--module", running.suite.module, "--token-label", f"chancery-{role}",
                   "--login", "--pin", "env:PIN", "--list-objects", "--type", "privkey", env=env)  # fmt: skip
        text = done.stdout.decode()
        assert "Private Key Object" in text
        assert text.count("never extractable") == text.count("Private Key Object")


def test_every_configuration_passes_its_own_check(running):
    files = sorted((running.state / "conf").iterdir())
    assert 8 == len(files)
    for file in files:
        assert b"good" in run(CHANCERY, "check-config", file).stdout


def test_a_web_process_that_was_taken_over_gets_no_service_certificate(running):
    """What the database role of the web process may write is not enough to become a responder or a clock."""
    csr = x509.load_pem_x509_csr(running.csr("forged.example.org", names="").read_bytes()).public_bytes(
        Encoding.DER
    )
    connection = build.connection(load(running.place.config("ca")).database)
    with psycopg.connect(**connection.arguments(), autocommit=True) as database:
        ids = [
            database.execute(
                "INSERT INTO chancery.request (transaction_id, protocol, requestor, profile, issuer, csr, names,"
                " fingerprint, received_at) VALUES (%s, 'installation', 'installation', %s, 'issuing', %s, '{}',"
                " sha256('x'), now()) RETURNING request_id",
                (f"forged-{profile}", profile, csr),
            ).fetchone()[0]
            for profile in ("ocsp-signing", "timestamping")
        ]

        def settled():
            query = "SELECT state, error FROM chancery.request WHERE request_id = ANY (%s)"
            rows = database.execute(query, (ids,)).fetchall()
            return rows if all(state not in {"waiting", "taken"} for state, _ in rows) else None

        assert [("refused", "notAuthorized")] * 2 == wait_until(settled)
