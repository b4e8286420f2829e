"""R29, R30: after all the other tests, everything that the running suite stored has a right to exist."""

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.suite]


def auditor(running, *words):
    return running.chancery("auditor", "run", "--config", running.place.config("auditor"), *words, check=False)


def test_everything_that_was_issued_has_a_right_to_exist(running):
    pem = running.issue("audited.example.org")
    running.chancery("revoke", running.serial(pem), "--reason", "superseded", "--yes")
    done = auditor(running, "--json")
    report = json.loads(done.stdout)
    assert (0, [], {}) == (done.returncode, report["findings"], report["counts"])
    # The administrator's, OCSP, timestamping and TLS certificates, and the one above, at least.
    assert 4 < report["certificates"]
    assert (2, 1) <= (report["issuers"], report["operators"])


def test_the_journal_under_it_is_the_one_that_was_signed(running):
    running.chancery("audit", "verify", "--config", running.place.config("auditor"))


def test_openssl_reads_every_certificate_as_a_second_opinion(running):
    done = auditor(running, "--second-opinion", "openssl x509 -noout -checkend 0 -inform DER -in")
    assert (3, True) == (done.returncode, b"Certificate will not expire" in done.stdout), done.stdout
    done = auditor(running, "--second-opinion", "openssl x509 -noout -inform DER -in")
    assert 0 == done.returncode, done.stdout
