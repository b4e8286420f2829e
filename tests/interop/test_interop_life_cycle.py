"""A certificate's whole life, driven by openssl and curl against the running suite."""

from __future__ import annotations

import json
import re
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from suite import CHANCERY, ROOT, run

pytestmark = [pytest.mark.suite]


def curl(running, method, path, *words, check=True):
    return run(
        "curl", "-sS", "--fail-with-body", "--cacert", running.pki / "root.pem",
        "--cert", running.place.admin / "admin.pem", "--key", running.place.admin / "admin.key",
        "-X", method, f"{running.suite.ca_url}/api/v1{path}", *words, check=check,
    )  # fmt: skip


def test_request_verify_ocsp_revoke_crl_with_openssl_and_curl_alone(running):
    work, pki = running.work, running.pki
    csr = running.csr("life.example.org")
    body = json.dumps({"profile": "tls-server", "csr": csr.read_text()})
    answer = json.loads(
        curl(running, "POST", "/certificates", "-H", "content-type: application/json", "-d", body).stdout
    )
    pem = work / "life.pem"
    pem.write_text(answer["certificate"])
    verified = run(
        "openssl", "verify", "-x509_strict", "-CAfile", pki / "root.pem", "-untrusted", pki / "issuing.pem", pem
    )
    assert b": OK" in verified.stdout
    # R19: authoritative at once.
    assert "life.pem: good" in running.ocsp(pem)

    serial = running.serial(pem)
    started = time.monotonic()
    curl(running, "POST", f"/certificates/{serial}/revocation", "-H", "content-type: application/json",
         "-d", json.dumps({"reason": "keyCompromise"}))  # fmt: skip
    while "life.pem: revoked" not in (text := running.ocsp(pem)):
        # The promise to relying parties: two seconds.
        assert time.monotonic() - started < 2, text
    assert "keyCompromise" in text

    crl = work / "issuing.crl"

    def listed():
        run("curl", "-sS", "-f", "-o", crl, f"{running.suite.ocsp_url}/crl/issuing.crl")
        text = run("openssl", "crl", "-in", crl, "-inform", "DER", "-noout", "-text", "-CAfile", pki / "chain.pem")
        assert b"verify OK" in text.stderr
        return f"Serial Number: {serial}" in text.stdout.decode()

    from suite import wait_until

    wait_until(listed)
    crl_pem = work / "issuing.crl.pem"
    run("openssl", "crl", "-in", crl, "-inform", "DER", "-out", crl_pem)
    refused = run(
        "openssl", "verify", "-crl_check", "-CAfile", pki / "root.pem", "-untrusted", pki / "issuing.pem",
        "-CRLfile", crl_pem, pem, check=False,
    )  # fmt: skip
    assert b"certificate revoked" in refused.stderr


def test_a_file_is_timestamped_with_openssl_and_curl(running):
    work, pki = running.work, running.pki
    data = work / "document"
    data.write_text("what was agreed")
    query, reply = work / "d.tsq", work / "d.tsr"
    run("openssl", "ts", "-query", "-data", data, "-sha256", "-cert", "-out", query)
    run("curl", "-sS", "-f", "-H", "Content-Type: application/timestamp-query", "--data-binary", f"@{query}",
        "-o", reply, running.suite.tsa_url)  # fmt: skip
    words = ("-in", reply, "-CAfile", pki / "root.pem", "-untrusted", pki / "issuing.pem")
    assert b"Verification: OK" in run("openssl", "ts", "-verify", "-queryfile", query, *words).stdout
    data.write_text("something else")
    changed = run("openssl", "ts", "-verify", "-data", data, *words, check=False)
    assert b"Verification: FAILED" in changed.stdout + changed.stderr
    text = run("openssl", "ts", "-reply", "-in", reply, "-text").stdout.decode()
    assert "Policy OID: 1.3.6.1.4.1.99999.1.1" in text
    assert "Accuracy: 0x01 seconds" in text  # R23


PROFILES = [
    ("tls-server", {"key": "rsa"}, "sslserver"),
    ("tls-server", {"key": "p384"}, "sslserver"),
    ("tls-client", {"names": ""}, "sslclient"),
    ("smime", {"names": "email:someone@example.org"}, "smimesign"),
    ("code-signing", {"names": "", "key": "rsa3072"}, "any"),
]


@pytest.mark.parametrize(("profile", "options", "purpose"), PROFILES)
def test_each_profile_serves_its_purpose_in_openssl_s_eyes(running, profile, options, purpose):
    name = f"{profile}-{options.get('key', 'ec')}.example.org"
    pem = running.issue(name, profile, **options)
    verified = run(
        "openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", running.pki / "root.pem",
        "-untrusted", running.pki / "issuing.pem", pem,
    )  # fmt: skip
    assert b": OK" in verified.stdout
    assert f"{pem.name}: good" in running.ocsp(pem)


def test_the_root_s_crl_lets_openssl_check_the_whole_chain(running):
    pem = running.issue("whole.example.org")
    files = []
    for issuer in ("root", "issuing"):
        out = running.work / f"{issuer}-chain.crl"
        run("curl", "-sS", "-f", "-o", out, f"{running.suite.ocsp_url}/crl/{issuer}.crl")
        run("openssl", "crl", "-in", out, "-inform", "DER", "-out", out.with_suffix(".pem"))
        files += ["-CRLfile", out.with_suffix(".pem")]
    run("openssl", "verify", "-x509_strict", "-crl_check_all", "-CAfile", running.pki / "root.pem",
        "-untrusted", running.pki / "issuing.pem", *files, pem)  # fmt: skip


def test_the_addresses_in_a_certificate_answer(running):
    pem = running.issue("addresses.example.org")
    text = run("openssl", "x509", "-in", pem, "-noout", "-text").stdout.decode()
    urls = dict(re.findall(r"(OCSP|CA Issuers|Full Name)[^U]*URI:(\S+)", text.replace("\n", " ")))
    assert {"OCSP", "CA Issuers", "Full Name"} == set(urls)
    issuer = running.work / "aia.cer"
    run("curl", "-sS", "-f", "-o", issuer, urls["CA Issuers"])
    assert (
        x509.load_der_x509_certificate(issuer.read_bytes()).subject
        == x509.load_pem_x509_certificate(pem.read_bytes()).issuer
    )
    run("curl", "-sS", "-f", "-o", running.work / "cdp.crl", urls["Full Name"])


def test_the_printed_commands_work_as_printed(running):
    from chancery.cli.guide import commands

    for line in commands(running.place, running.suite):
        done = run("bash", "-ec", line)
        if " ocsp " in line:
            assert b"Response verify OK" in done.stderr
    assert b"revoked" in done.stdout or "audit verify" in line


def test_the_same_transaction_id_is_the_same_certificate(running):
    csr = running.csr("once.example.org")
    words = ("request", "--profile", "tls-server", "--csr", csr, "--transaction-id", "once-1")
    first, again = running.chancery(*words).stdout, running.chancery(*words).stdout
    assert first == again
    other_csr = running.csr("twice.example.org")
    words = ("request", "--profile", "tls-server", "--csr", other_csr, "--transaction-id", "once-1")
    other = running.chancery(*words, check=False)
    assert other.returncode != 0
    assert b"transaction" in other.stderr.lower()


def test_a_directory_of_openssl_s_requests_and_the_same_lines_by_curl(running):
    place = running.work / "many"
    place.mkdir()
    for key in ("ec", "rsa", "ed25519"):
        running.csr(f"{key}.many.example.org", key=key).rename(place / f"{key}.csr")
    done = running.chancery("request", "--profile", "tls-server", "--bulk", place)
    assert b"done     3" in done.stdout
    for key in ("ec", "rsa", "ed25519"):
        run("openssl", "verify", "-x509_strict", "-CAfile", running.pki / "chain.pem", place / f"{key}.crt")
    again = running.chancery("request", "--profile", "tls-server", "--bulk", place)
    assert b"already there  3" in again.stdout
    lines = [
        {"profile": "tls-server", "csr": one.read_text(), "transaction_id": f"curl-{one.name}"}
        for one in sorted(place.glob("*.csr"))
    ]
    (place / "asked.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines) + "broken\n")
    admin = running.place.admin
    answer = run(
        "curl", "-sS", "-X", "POST", "-T", place / "asked.jsonl", "-H", "content-type: application/x-ndjson",
        "--cacert", running.pki / "root.pem", "--cert", admin / "admin.pem", "--key", admin / "admin.key",
        f"{running.suite.ca_url}/api/v1/certificates/bulk",
    )  # fmt: skip
    *answers, end = map(json.loads, answer.stdout.splitlines())
    assert {1: "done", 2: "done", 3: "done", 4: "refused"} == {one["line"]: one["state"] for one in answers}
    assert (3, 1) == (end["done"], end["refused"])


def test_the_command_line_tells_what_there_is(running):
    pem = running.issue("shown.example.org")
    serial = running.serial(pem)
    assert serial.lower() in running.chancery("list", "--json").stdout.decode().lower()
    assert "shown.example.org" in running.chancery("show", serial).stdout.decode()
    assert "issuing" in running.chancery("ca", "list").stdout.decode()
    assert "tls-server" in running.chancery("profile", "list").stdout.decode()
    running.chancery("crl", "publish", "issuing")
    assert "healthy" in running.chancery("status", "--state", running.state).stdout.decode()


def test_hsm_check_passes_for_each_process_s_token(running):
    for process in ("worker", "ocsp", "tsa"):
        done = run(CHANCERY, "hsm", "check", "--config", running.place.config(process))
        assert b"SoftHSM" in done.stdout


def test_the_first_administrator_s_pkcs12_holds_key_certificate_and_issuing_ca(running):
    admin = running.place.admin
    words = ("openssl", "pkcs12", "-in", admin / "admin.p12", "-passin", f"file:{admin / 'admin.p12.password'}")
    held = x509.load_pem_x509_certificates(run(*words, "-nokeys").stdout)
    assert x509.load_pem_x509_certificates((admin / "admin.pem").read_bytes()) == held
    key = load_pem_private_key(run(*words, "-nocerts", "-nodes").stdout, None)
    assert held[0].public_key() == key.public_key()
    refused = run(*words[:-1], "pass:wrong", "-nokeys", check=False)
    assert b"invalid password" in refused.stderr


def test_everything_in_the_state_directory_is_explained(running):
    operations = (ROOT / "docs" / "operations.md").read_text()
    made = [path.name + "/" * path.is_dir() for path in running.state.iterdir()]
    assert [] == [name for name in made if f"| `{name}" not in operations]
