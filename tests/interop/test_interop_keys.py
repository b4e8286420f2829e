"""R5 through the running suite: a compromised key is refused by every channel, whoever asks, for ever."""

from __future__ import annotations

import json

import pytest

from suite import run, wait_until

pytestmark = [pytest.mark.suite]
JSON = ("-H", "content-type: application/json")


def curl(running, method, path, *words):
    done = run(
        "curl", "-sS", "--cacert", running.pki / "root.pem", "-w", "\n%{http_code}",
        "--cert", running.place.admin / "admin.pem", "--key", running.place.admin / "admin.key",
        "-X", method, f"{running.suite.ca_url}/api/v1{path}", *words,
    )  # fmt: skip
    body, status = done.stdout.decode().rsplit("\n", 1)
    return int(status), json.loads(body)


def spki_sha256(running, name: str) -> str:
    """The hash as openssl and sha256sum make it."""
    der = run("openssl", "pkey", "-in", running.work / f"{name}.key", "-pubout", "-outform", "DER").stdout
    return run("sha256sum", stdin=der).stdout.decode().split()[0]


def other_csr(running, name: str, label: str):
    """Another request with the key of `name`, made by openssl."""
    out = running.work / f"{label}.csr"
    run("openssl", "req", "-new", "-key", running.work / f"{name}.key", "-subj", f"/CN={label}", "-out", out,
        "-addext", f"subjectAltName=DNS:{label}")  # fmt: skip
    return out


def refused(running, csr, profile="tls-server"):
    """By the command line and by REST in two forms, in the same words."""
    done = running.chancery("request", "--profile", profile, "--csr", csr, check=False)
    assert (1, True) == (done.returncode, b"reported compromised" in done.stderr), done.stderr
    body = json.dumps({"profile": profile, "csr": csr.read_text()})
    raw = run("openssl", "req", "-in", csr, "-outform", "DER").stdout
    (running.work / "raw.der").write_bytes(raw)
    for status, problem in (
        curl(running, "POST", "/certificates", *JSON, "-d", body),
        curl(running, "POST", f"/certificates?profile={profile}", "-H", "content-type: application/pkcs10",
             "--data-binary", f"@{running.work / 'raw.der'}"),
    ):  # fmt: skip
        assert (422, "urn:chancery:error:badCertTemplate") == (status, problem["type"])
        assert "reported compromised" in problem["detail"]


def revoked(running, pem):
    text = running.ocsp(pem)
    return text if f"{pem.name}: revoked" in text else None


def test_r5_a_revocation_as_key_compromise_blocks_the_key_for_every_channel(running):
    pem = running.issue("lost.example.org")
    running.chancery("revoke", running.serial(pem), "--reason", "keyCompromise", "--yes")
    refused(running, running.work / "lost.example.org.csr")
    refused(running, other_csr(running, "lost.example.org", "again.example.org"))
    refused(running, other_csr(running, "lost.example.org", "client.example.org"), "tls-client")
    key = spki_sha256(running, "lost.example.org")
    status, listed = curl(running, "GET", f"/blocked-keys?key={key}")
    assert (200, [key]) == (status, [one["spki_sha256"] for one in listed["keys"]])
    assert running.serial(pem).lower() in listed["keys"][0]["reason"]
    assert key in running.chancery("key", "blocked", "--spki", key).stdout.decode()
    # The journal names it, under the process that wrote it.
    found = wait_until(
        lambda: (
            running.chancery(
                "audit", "list", "--config", running.place.config("auditor"), "--subject", f"key:{key}"
            ).stdout
        )
    )
    assert b"key.blocked" in found


def test_r5_a_found_private_key_is_blocked_and_its_certificates_revoked(running):
    first = running.issue("found.example.org")
    second = running.work / "found2.pem"
    csr = other_csr(running, "found.example.org", "second.example.org")
    running.chancery("request", "--profile", "tls-server", "--csr", csr, "--out", second)
    private = running.work / "found.example.org.key"
    words = ("key", "block", private, "--revoke", "--reason", "found on a web server")
    # Nobody there to ask: both certificates are shown, and nothing is done.
    asked = running.chancery(*words, check=False)
    assert 2 == asked.returncode
    shown = asked.stdout.decode()
    assert all(running.serial(pem) in shown for pem in (first, second))
    assert f"{first.name}: good" in running.ocsp(first)
    done = running.chancery(*words, "--yes").stdout.decode()
    assert spki_sha256(running, "found.example.org") in done
    assert "revoking  2" in done
    for pem in (first, second):
        text = wait_until(lambda pem=pem: revoked(running, pem))
        assert "keyCompromise" in text
    refused(running, csr)


def test_r5_a_key_that_was_never_seen_here_is_blocked_by_its_hash(running):
    csr = running.csr("never.example.org", key="rsa")
    key = spki_sha256(running, "never.example.org")
    status, answer = curl(
        running, "POST", "/blocked-keys", *JSON, "-d", json.dumps({"spki_sha256": key, "reason": "reported"})
    )
    assert (201, True, None) == (status, answer["blocked"], answer.get("certificates"))
    refused(running, csr)
    running.issue("other.example.org", key="rsa")
