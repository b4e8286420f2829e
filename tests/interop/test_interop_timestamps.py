"""Timestamps in the running suite: clients, records, and evidence that openssl alone believes."""

from __future__ import annotations

import json
import zipfile

import pytest

from chancery.cli.timestamp_record import pack, unpack
from suite import run, wait_until

pytestmark = [pytest.mark.suite]


@pytest.fixture(scope="module")
def stamped(running):
    """A file, its response, and the words of every command about it."""
    file = running.work / "contract.pdf"
    file.write_bytes(b"what was agreed, once more")
    running.chancery("timestamp", file, "--url", running.suite.tsa_url, "--ca", running.pki / "root.pem")
    return file, running.work / "contract.pdf.tsr"


@pytest.fixture(scope="module")
def records(running):
    config = running.place.config("auditor")

    def ask(command, *words, check=True):
        return running.chancery("timestamp-record", command, "--config", config, *words, check=check)

    return ask


@pytest.fixture(scope="module")
def evidence(running, stamped, records):
    archive = running.work / "evidence.zip"

    def exported():
        return not records("export", stamped[1], "--out", archive, check=False).returncode

    # Its event is under a checkpoint within seconds.
    wait_until(exported)
    return archive


def test_a_recorded_timestamp_is_found_by_file_hash_client_and_serial(running, stamped, records):
    [found] = json.loads(records("find", stamped[0], "--json").stdout)
    assert ("sha256", "127.0.0.1") == (found["hash"], found["client"])
    for words in (("--imprint", found["imprint"]), ("--client", "127.0.0.1"), ("--since", "2020-01-01")):
        assert found in json.loads(records("find", *words, "--json").stdout)
    assert [] == json.loads(records("find", "--before", "2020-01-01", "--json").stdout)
    assert found == json.loads(records("show", found["serial"], "--json").stdout)
    assert b"no timestamp with this serial" in records("show", "0123", check=False).stderr


def test_evidence_is_proved_by_chancery_and_by_openssl_alone(running, stamped, evidence):
    file, _ = stamped
    key = running.pki / "journal.pem"
    words = ("--file", file, "--ca", running.pki / "root.pem", "--journal-key", key)
    shown = json.loads(running.chancery("timestamp-record", "verify", evidence, *words, "--json").stdout)
    assert (True, "127.0.0.1") == (shown["good"], shown["asked by"])
    folder = running.work / "evidence"
    with zipfile.ZipFile(evidence) as archive:
        archive.extractall(folder)
    assert key.read_bytes() == (folder / "journal-key.pem").read_bytes()
    assert "all is right" == run("sh", folder / "verify.sh", file).stdout.decode().splitlines()[-1]
    other = running.work / "other.pdf"
    other.write_bytes(b"what was never agreed")
    assert run("sh", folder / "verify.sh", other, check=False).returncode
    refused = running.chancery("timestamp-record", "verify", evidence, "--file", other, *words[2:], check=False)
    assert (3, True) == (refused.returncode, b"another document" in refused.stdout)


@pytest.mark.parametrize("name", ["row.txt", "rows.bin", "event.json", "event.tlog-proof", "token.tsr"])
def test_evidence_that_was_changed_proves_nothing(running, stamped, evidence, name):
    files = unpack(evidence.read_bytes())
    middle = len(files[name]) // 2
    files[name] = files[name][:middle] + bytes([files[name][middle] ^ 1]) + files[name][middle + 1 :]
    changed = running.work / "changed.zip"
    changed.write_bytes(pack(files))
    words = ("--file", stamped[0], "--ca", running.pki / "root.pem", "--journal-key", running.pki / "journal.pem")
    assert 3 == running.chancery("timestamp-record", "verify", changed, *words, check=False).returncode


def test_a_client_is_known_within_seconds_and_stops_at_its_quota(running, records):
    key = running.work / "robot.key"
    running.chancery("timestamp-client", "add", "robot", "--key-out", key, "--per-day", "2")
    file = running.work / "robot.txt"
    file.write_bytes(b"beep")
    words = ("timestamp", file, "--url", running.suite.tsa_url, "--key-file", key)
    wait_until(lambda: not running.chancery(*words, check=False).returncode)
    running.chancery(*words)
    refused = running.chancery(*words, check=False)
    assert b"quota of 2 timestamps for each day is used up" in refused.stderr
    assert 2 == len(json.loads(records("find", "--client", "robot", "--json").stdout))
    running.chancery("timestamp-client", "revoke", "robot")
    wait_until(lambda: b"no longer, valid" in running.chancery(*words, check=False).stderr)
    assert b"robot" in running.chancery("timestamp-client", "list", "--all").stdout


def test_a_timestamp_is_checked_with_the_crls_that_its_certificates_name(running, stamped):
    words = ("verify-timestamp", stamped[0], "--ca", running.pki / "root.pem")
    assert b"existed at" in running.chancery(*words).stdout
    found = running.chancery(*words, "--fetch-crls")
    assert b"not revoked, by CRLs of" in found.stdout
