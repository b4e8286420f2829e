"""Suspended and reinstated, as `openssl` sees it: OCSP and CRL at once, both ways (RFC 5280 5.3.1, R15)."""

from __future__ import annotations

import json

import pytest

from suite import run, wait_until

pytestmark = [pytest.mark.suite]


def crl_text(running) -> str:
    out = running.work / "suspension.crl"
    run("curl", "-sS", "-f", "-o", out, f"{running.suite.ocsp_url}/crl/issuing.crl")
    return run("openssl", "crl", "-in", out, "-inform", "DER", "-noout", "-text").stdout.decode()


def test_a_suspended_certificate_is_revoked_until_it_is_reinstated(running):
    pem = running.issue("on-leave.example.org", "tls-client", names="")
    serial = running.serial(pem)
    assert f"{pem.name}: good" in running.ocsp(pem)
    assert b"certificateHold" in running.chancery("suspend", serial, "--yes").stdout
    wait_until(lambda: "certificateHold" in running.ocsp(pem))
    wait_until(lambda: serial in crl_text(running))
    assert "Certificate Hold" in crl_text(running).split(serial)[1].split("Serial Number")[0]
    running.chancery("reinstate", serial, "--yes")
    wait_until(lambda: f"{pem.name}: good" in running.ocsp(pem))
    wait_until(lambda: serial not in crl_text(running))
    assert b"released at" in running.chancery("show", serial).stdout


def test_r15_a_tls_server_is_not_suspended(running):
    pem = running.issue("never-held.example.org")
    refused = running.chancery("suspend", running.serial(pem), "--yes", check=False)
    assert b"never suspended (R15)" in refused.stderr
    assert f"{pem.name}: good" in running.ocsp(pem)


def test_r22_a_key_s_certificates_are_shown_rehearsed_and_revoked_as_confirmed(running):
    pem, other = running.issue("many.example.org"), running.issue("spared.example.org")
    words = ("revoke", "--reason", "keyCompromise", "--key-of", pem, "--json")
    shown = json.loads(running.chancery(*words).stdout)
    assert (1, running.serial(pem)) == (shown["count"], shown["sample"][0]["serial"])
    simulated = json.loads(running.chancery(*words, "--simulate").stdout)
    assert ("done", 1) == (simulated["state"], simulated["result"]["revocable"])
    assert f"{pem.name}: good" in running.ocsp(pem)
    job = json.loads(running.chancery(*words, "--confirm", shown["confirmation"]).stdout)
    assert ("done", 1, 0) == (job["state"], job["done"], job.get("refused", 0))
    wait_until(lambda: f"{pem.name}: revoked" in running.ocsp(pem))
    assert "keyCompromise" in running.ocsp(pem)
    assert f"{other.name}: good" in running.ocsp(other)


def test_r13_a_problem_report_is_decided_by_revoking(running):
    pem = running.issue("reported.example.org")
    evidence = running.work / "evidence.txt"
    evidence.write_text("it serves malware")
    words = ("--ground", "misissued", "--evidence", evidence, "--reporter", "eve@example.org", "--json")
    about = ("--issuer", "issuing", "--serial", running.serial(pem))
    report = str(json.loads(running.chancery("report", "add", *words, *about).stdout)["report_id"])
    assert b"reports_open" in running.chancery("status", "--state", running.state).stdout
    running.chancery("report", "decide", report, "revoke")
    wait_until(lambda: f"{pem.name}: revoked" in running.ocsp(pem))
    assert "superseded" in running.ocsp(pem)
