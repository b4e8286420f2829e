"""pkilint on everything that the running suite produced in this run: no finding above notice goes unexplained."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

import pkilintkit
from chancery.cli import build
from chancery.config import load
from suite import run

pytestmark = [pytest.mark.suite]
EXPLAINED = pkilintkit.explained(Path(__file__).with_name("explained_findings.csv"))


def stored(running, query: str) -> list[bytes]:
    connection = build.connection(load(running.place.config("auditor")).database)
    with psycopg.connect(**connection.arguments()) as database:
        return [bytes(row[0]) for row in database.execute(query)]


def test_pkilint_has_nothing_to_say_of_any_certificate(running):
    for profile, options in {
        "tls-server": {"names": "DNS:lint-tls-server.example.org,IP:192.0.2.1"},
        "tls-client": {"names": ""},
        "smime": {"names": "email:lint@example.org"},
        "code-signing": {"names": "", "key": "p384"},
    }.items():
        running.issue(f"lint-{profile}.example.org", profile, **options)
    found = stored(running, "SELECT der FROM chancery.certificate UNION SELECT certificate FROM chancery.issuer")
    assert 8 < len(found)  # the four, the installation's own, root and issuing CA
    assert [] == [
        one for der in found for one in pkilintkit.findings("certificate", der) - EXPLAINED["certificate"]
    ]


def test_pkilint_has_nothing_to_say_of_any_crl(running):
    pem = running.issue("lint-revoked.example.org")
    running.chancery("revoke", running.serial(pem), "--reason", "keyCompromise", "--yes")
    running.chancery("crl", "publish", "issuing")
    found = stored(running, "SELECT der FROM chancery.crl")
    assert 2 < len(found)
    assert [] == [one for der in found for one in pkilintkit.findings("crl", der) - EXPLAINED["crl"]]


@pytest.mark.parametrize("nonce", ["-nonce", "-no_nonce"])
def test_pkilint_has_nothing_to_say_of_ocsp_responses(running, nonce):
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
    assert [] == [one for der in answers for one in pkilintkit.findings("ocsp", der) - EXPLAINED["ocsp"]]
