"""What each profile yields, judged by other people's programs: OpenSSL and pkilint."""

from __future__ import annotations

import functools
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

import pkilintkit
from cakit import CA, PROFILES, issuing_certificate, issuing_issuer, key, make_csr, root_certificate, root_issuer
from chancery.ca.crl import CRLMaking, CRLSettings, make_crl
from chancery.ca.issuance import make_serial
from chancery.pkix.profile import grant, requested
from chancery.ports import RevocationReason
from fakes import START, FakeEntropy

SUBJECTS = {
    "tls-server": ("CN=www.example.org,O=Example,C=XX", ("dns:www.example.org", "dns:a.example", "ip:10.0.0.1")),
    "tls-client": ("CN=Alice,O=Example", ("email:alice@example.org", "uri:https://example.org/alice")),
    "code-signing": ("CN=Release signing,O=Example,C=XX", ()),
    "smime": ("CN=Alice", ("email:alice@example.org",)),
    "timestamping": ("CN=TSU 1,O=Example,C=XX", ()),
    "ocsp-signing": ("CN=OCSP 1,O=Example", ()),
}
PURPOSES = {
    "tls-server": "sslserver",
    "tls-client": "sslclient",
    "smime": "smimesign",
    "timestamping": "timestampsign",
    "ocsp-signing": "ocsphelper",
    "code-signing": "any",
}
KINDS = ("ec-p256", "ec-p384", "rsa-3072", "ed25519")
CASES = [(name, kind) for name in SUBJECTS for kind in KINDS if kind in PROFILES[name].keys]


@functools.cache
def _issued(profile: str, kind: str) -> bytes:
    issuer = issuing_issuer()
    subject, names = SUBJECTS[profile]
    csr = make_csr(subject, names, key("produced", kind))
    granted = grant(PROFILES[profile], requested(csr), issuer.limits, START)
    return issuer.issue(issuer.prepare(granted, make_serial(1, FakeEntropy())))


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def _openssl(*arguments: str) -> str:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("profile", "kind"), CASES)
def test_openssl_verifies_what_a_profile_yields(profile, kind, tmp_path):
    files = {"root": root_certificate(), "issuing": issuing_certificate(), "leaf": _issued(profile, kind)}
    for name, der in files.items():
        (tmp_path / name).write_bytes(_pem(der))
    at = str(int(START.timestamp()) + 60)
    _openssl(
        "verify", "-x509_strict", "-attime", at, "-purpose", PURPOSES[profile], "-CAfile", f"{tmp_path}/root",
        "-untrusted", f"{tmp_path}/issuing", f"{tmp_path}/leaf",
    )  # fmt: skip
    assert "X509v3 Basic Constraints: critical" in _openssl("x509", "-in", f"{tmp_path}/leaf", "-noout", "-text")


@pytest.mark.parametrize(("profile", "kind"), CASES)
def test_pkilint_has_nothing_above_notice_to_say(profile, kind):
    assert set() == pkilintkit.findings("certificate", _issued(profile, kind))


@pytest.mark.parametrize("make", [root_certificate, issuing_certificate])
def test_pkilint_has_nothing_above_notice_to_say_of_a_ca(make):
    assert set() == pkilintkit.findings("certificate", make())


def test_pkilint_has_nothing_above_notice_to_say_of_crls():
    ca = CA()
    for _ in range(3):
        ca.ask()
    ca.work()
    for (_, serial), reason in zip(ca.store.certificates, RevocationReason, strict=False):
        ca.ask_revocation(serial, reason, START)
    ca.work()
    assert 2 == len(ca.store.crls)
    assert [set(), set()] == [pkilintkit.findings("crl", record.der) for record in ca.store.crls]


def test_pkilint_would_say_what_is_wrong():
    changed = _issued("tls-server", "ec-p256").replace(b"a.example", b"a_exampl.")
    assert {"pkix.invalid_domain_name_syntax"} == pkilintkit.findings("certificate", changed)


def test_openssl_reads_the_crls_and_rejects_what_they_list(tmp_path):
    ca = CA()
    ca.ask()
    ca.work()
    [(_, serial)] = ca.store.certificates
    ca.ask_revocation(serial, RevocationReason.KEY_COMPROMISE)
    ca.work()
    root = root_issuer()
    ca.store.issuers[1] = "root"
    root_crl = make_crl(CRLMaking(root, ca.store, ca.clock, "ceremony", CRLSettings()))
    for name, der in (("root", root_certificate()), ("issuing", issuing_certificate())):
        (tmp_path / name).write_bytes(_pem(der))
    (tmp_path / "leaf").write_bytes(ca.certificate(1).public_bytes(Encoding.PEM))
    crls = [x509.load_der_x509_crl(one.der).public_bytes(Encoding.PEM) for one in (root_crl, ca.store.crls[-2])]
    (tmp_path / "crls").write_bytes(b"".join(crls))
    text = _openssl("crl", "-in", f"{tmp_path}/crls", "-noout", "-text", "-CAfile", f"{tmp_path}/root")
    assert "Certificate Revocation List" in text
    done = subprocess.run(
        [
            "openssl", "verify", "-crl_check_all", "-attime", str(int(START.timestamp()) + 60), "-CAfile",
            f"{tmp_path}/root", "-untrusted", f"{tmp_path}/issuing", "-CRLfile", f"{tmp_path}/crls",
            f"{tmp_path}/leaf",
        ],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert "certificate revoked" in done.stderr + done.stdout
