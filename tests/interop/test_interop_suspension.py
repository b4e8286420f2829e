"""Suspended and reinstated, as `openssl` sees it: OCSP and CRL at once, both ways (RFC 5280 5.3.1, R15)."""

from __future__ import annotations

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
