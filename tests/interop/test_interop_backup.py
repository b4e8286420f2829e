"""A restore drill: an installation is backed up, goes on, is lost, and comes back from the file."""

from __future__ import annotations

import json
import shutil

import pytest

from suite import bring_up, take_down


@pytest.fixture(scope="module")
def drilled():
    suite = bring_up()
    try:
        yield suite
    finally:
        take_down(suite)


def crl_number(suite) -> int:
    found = json.loads(suite.chancery("crl", "show", "issuing", "--json").stdout)
    return int(found["number"])


def test_a_lost_installation_comes_back_and_nothing_repeats_r15_r30(drilled):
    suite, key, file = drilled, drilled.work / "backup.key", drilled.work / "one.age"
    before = suite.issue("before")
    recipient = suite.chancery("backup", "identity", "--out", key).stdout.decode().strip()
    words = ("backup", "make", "--state", suite.state, "--out", file, "--recipient", recipient, "--json")
    made = json.loads(suite.chancery(*words).stdout)
    assert b"PRIVATE" not in file.read_bytes()
    # What is not in the back-up: a certificate, a CRL, and a checkpoint that an auditor remembers.
    after, auditor = suite.issue("after"), suite.place.config("auditor")
    suite.chancery("revoke", suite.serial(before), "--reason", "superseded", "--yes")
    suite.chancery("crl", "publish", "issuing")
    lost_number = crl_number(suite)
    remembered = suite.work / "remembered"
    suite.chancery("audit", "verify", "--config", auditor, "--remember", remembered)
    auditors = suite.work / "auditor.toml"
    shutil.copy(auditor, auditors)
    words = ("backup", "verify", file, "--identity", key, "--config", auditor, "--json")
    judged = json.loads(suite.chancery(*words, "--sha256", made["sha256"]).stdout)
    assert judged["good"]
    assert 1 == suite.chancery(*words, "--sha256", "00" * 32, check=False).returncode

    suite.down()
    shutil.rmtree(suite.state)
    suite.chancery("restore", file, "--identity", key, "--state", suite.state)
    again = suite.chancery("restore", file, "--identity", key, "--state", suite.state, check=False)
    assert b"nothing is written over" in again.stderr
    suite.up()

    rolled = suite.chancery("audit", "verify", "--config", auditor, "--remember", remembered, check=False)
    assert 3 == rolled.returncode
    assert b"next" in rolled.stdout
    suite.chancery("audit", "verify", "--config", auditor)
    suite.chancery("auditor", "run", "--config", auditor)
    assert f"{before}: good" in suite.ocsp(before)
    assert f"{after}: good" not in suite.ocsp(after)
    fresh = suite.issue("fresh")
    assert f"{fresh}: good" in suite.ocsp(fresh)
    assert 3 == len({suite.serial(one) for one in (before, after, fresh)})
    suite.chancery("revoke", suite.serial(before), "--reason", "superseded", "--yes")
    assert f"{before}: revoked" in suite.ocsp(before)
    suite.chancery("crl", "publish", "issuing")
    assert crl_number(suite) > lost_number
    kinds = suite.chancery("audit", "list", "--config", auditor, "--kind", "backup.").stdout
    assert b"backup.restored" in kinds
