"""pkilint on everything that the running suite produced in this run: no finding above notice goes unexplained."""

from __future__ import annotations

import pytest

from suite import run

pytestmark = [pytest.mark.suite]


def test_pkilint_has_nothing_to_say_of_any_certificate(running, produced):
    for profile, options in {
        "tls-server": {"names": "DNS:lint-tls-server.example.org,IP:192.0.2.1"},
        "tls-client": {"names": ""},
        "smime": {"names": "email:lint@example.org"},
        "code-signing": {"names": "", "key": "p384"},
    }.items():
        running.issue(f"lint-{profile}.example.org", profile, **options)
    found = produced.of("certificate")
    assert 8 < len(found)  # the four, the installation's own, root and issuing CA
    assert [] == produced.unexplained("certificate", found)


def test_pkilint_has_nothing_to_say_of_any_crl(running, produced):
    pem = running.issue("lint-revoked.example.org")
    running.chancery("revoke", running.serial(pem), "--reason", "keyCompromise", "--yes")
    running.chancery("crl", "publish", "issuing")
    found = produced.of("crl")
    assert 2 < len(found)
    assert [] == produced.unexplained("crl", found)


@pytest.mark.parametrize("nonce", ["-nonce", "-no_nonce"])
def test_pkilint_has_nothing_to_say_of_ocsp_responses(running, produced, nonce):
    name = nonce.replace("_", "").strip("-")
    good = running.issue(f"lint-ocsp-{name}.example.org")
    revoked = running.issue(f"lint-ocsp-revoked-{name}.example.org")
    running.chancery("revoke", running.serial(revoked), "--reason", "superseded", "--yes")
    answers = []
    for number, words in enumerate((["-cert", good], ["-cert", revoked], ["-serial", "0x1234"])):
        out = running.work / f"lint-{number}.ocsp"
        run("openssl", "ocsp", "-issuer", running.pki / "issuing.pem", *words, nonce, "-respout", out,
            "-url", f"{running.suite.ocsp_url}/ocsp", "-CAfile", running.pki / "chain.pem")  # fmt: skip
        answers.append(out.read_bytes())
    assert [] == produced.unexplained("ocsp", answers)
