"""RSASSA-PSS (RFC 4055) by a key in a real SoftHSM2: certificates and CRLs that OpenSSL verifies."""

from __future__ import annotations

import dataclasses
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cakit import PROFILES, issuing_issuer, issuing_record, make_csr, root_certificate, root_issuer
from chancery.asn1.signature import ALGORITHMS, algorithm_from_identifier
from chancery.asn1.x509 import split_signed
from chancery.ca.crl import CRLMaking, CRLSettings, make_crl
from chancery.ca.issuance import make_serial
from chancery.ca.issuer import Issuer
from chancery.cli import build
from chancery.pkcs11.check import check_token
from chancery.pkix.key import proof_of_possession
from chancery.pkix.profile import grant, requested
from chancery.ra.enrolment import csr_der
from fakes import START, FakeClock, FakeEntropy, MemoryStore

pytestmark = pytest.mark.softhsm
AT = str(int(START.timestamp()) + 60)


def openssl(*arguments: str) -> str:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("bits", ["256", "384", "512"])
def test_openssl_verifies_what_an_issuer_in_a_token_signs(token, tmp_path, bits):
    signer = build.signer(token, "rsa-2048", f"rsassaPss-sha{bits}")
    root = root_issuer()
    granted = grant(PROFILES["sub-ca"], requested(make_csr("CN=PSS", (), signer.key)), root.limits, START)
    certificate = root.issue(root.prepare(granted, make_serial(1, FakeEntropy(2))))
    record = dataclasses.replace(issuing_record(), certificate=certificate)
    issuer = Issuer(record, signer, issuing_issuer().urls)
    granted = grant(
        PROFILES["tls-client"],
        requested(make_csr("CN=Alice,O=Example", ("email:a@example.org",))),
        issuer.limits,
        START,
    )
    leaf = issuer.issue(issuer.prepare(granted, make_serial(1, FakeEntropy(3))))
    assert ALGORITHMS[f"rsassaPss-sha{bits}"] == algorithm_from_identifier(split_signed(leaf)[1])
    crl = make_crl(CRLMaking(issuer, MemoryStore(), FakeClock(), "test", CRLSettings())).der
    chain = (("root", root_certificate()), ("issuing", certificate), ("leaf", leaf))
    for name, data in chain:
        (tmp_path / name).write_bytes(x509.load_der_x509_certificate(data).public_bytes(Encoding.PEM))
    (tmp_path / "crl").write_bytes(x509.load_der_x509_crl(crl).public_bytes(Encoding.PEM))
    openssl(
        "verify", "-x509_strict", "-attime", AT, "-crl_check", "-CRLfile", f"{tmp_path}/crl",
        "-CAfile", f"{tmp_path}/root", "-untrusted", f"{tmp_path}/issuing", f"{tmp_path}/leaf",
    )  # fmt: skip
    text = openssl("x509", "-in", f"{tmp_path}/leaf", "-noout", "-text")
    assert f"Salt Length: 0x{int(bits) // 8:02X}" in text


def test_hsm_check_tries_pss_too(shared):
    report = check_token(shared.settings())
    signs = {one.label: one.signs for one in report.keys}
    assert ("sha256WithRSAEncryption", "rsassaPss-sha256") == signs["rsa-2048"]
    assert "ML-DSA" not in report.signs, "SoftHSM2 2.6 has none"


def test_a_request_that_openssl_signs_with_pss_is_proof(tmp_path):
    private = tmp_path / "key"
    openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", str(private))
    pss = ("-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest", "-sha384")
    pem = openssl("req", "-new", "-key", str(private), "-subj", "/CN=a", *pss)
    assert proof_of_possession(csr_der(pem.encode())).public_key.key_size == 2048
