"""R24: tokens of every kind of key, verified by others: openssl ts, openssl cms, and pyca over asn1crypto."""

from __future__ import annotations

import hashlib
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from chancery.asn1 import cms, tsp
from chancery.asn1.signature import ALGORITHMS, KeySigner
from chancery.tsa import verification
from chancery.tsa.policy import Policy
from fakes import START
from unit.tsa.kit import POLICY, TSA, TimeStampResp, as_der, digests_of, key, request

BY_OPENSSL_TS = ["rsa-2048", "rsa-3072", "rsa-4096", "p256", "p384", "p521"]
DIGESTS = {
    "rsa-2048": "sha256", "rsa-3072": "sha256", "rsa-4096": "sha256",
    "p256": "sha256", "p384": "sha384", "p521": "sha512", "ed25519": "sha512",
    "ml-dsa-44": "sha512", "ml-dsa-65": "sha512", "ml-dsa-87": "sha512",
}  # fmt: skip


def openssl(folder, *arguments) -> str:
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    return (done.stdout + done.stderr).decode(errors="replace")


def stamped(tsa: TSA, folder) -> bytes:
    """Have b"document" stamped; write root, response and token; return the token."""
    answer = tsa.respond(request())
    assert answer.error is None
    token = tsp.decode_response(answer.der).time_stamp_token
    for name, content in {
        "root.pem": tsa.root.public_bytes(serialization.Encoding.PEM),
        "document": b"document",
        "tsr": answer.der,
        "token": token,
    }.items():
        (folder / name).write_bytes(content)
    return token


@pytest.mark.parametrize("kind", DIGESTS)
def test_r24_each_kind_of_key_has_its_digest_and_verifies(kind, tmp_path):
    tsa = TSA(kind)
    token = stamped(tsa, tmp_path)
    if isinstance(tsa.signer.public_key, rsa.RSAPublicKey):
        assert int(kind.removeprefix("rsa-")) == tsa.signer.public_key.key_size
    assert DIGESTS[kind] == cms.decode(token).digest
    found = verification.verify(token, digests=digests_of(b"document"))
    assert as_der(tsa.certificate) == found.path[0]
    attime = ["-CAfile", "root.pem", "-attime", str(int(START.timestamp()))]
    if kind in BY_OPENSSL_TS:
        words = openssl(tmp_path, "ts", "-verify", "-data", "document", "-in", "tsr", *attime)
        assert "Verification: OK" in words
    else:
        response = TimeStampResp.load((tmp_path / "tsr").read_bytes())
        signer = response["time_stamp_token"]["content"]["signer_infos"][0]
        # were signed, as asn1crypto has them, under pyca's key.
        signer = TimeStampResp.load((tmp_path / "tsr").read_bytes())["time_stamp_token"]["content"][
            "signer_infos"
        ][0]
        signed = signer["signed_attrs"].untag().dump()
        public = key(kind).public_key()
        public.verify(signer["signature"].native, signed)
        digest = {one["type"].native: one["values"][0].native for one in signer["signed_attrs"]}["message_digest"]
        assert hashlib.sha512(cms.decode(token).content).digest() == digest


@pytest.mark.parametrize("name", ["rsassaPss-sha256", "rsassaPss-sha384", "rsassaPss-sha512"])
def test_r24_pss_is_verified_by_openssl_cms(name, tmp_path):
    tsa = TSA("rsa-3072", signer=KeySigner(key("rsa-3072"), ALGORITHMS[name]))
    stamped(tsa, tmp_path)
    words = [
        "cms",
        "-verify",
        "-in",
        "token",
        "-inform",
        "DER",
        "-purpose",
        "timestampsign",
        "-CAfile",
        "root.pem",
    ]
    assert "successful" in openssl(tmp_path, *words, "-attime", str(int(START.timestamp())), "-out", "content")


def test_an_ordered_qualified_token_with_a_name_is_read_and_verified_by_openssl(tmp_path):
    tsa = TSA(
        "p256",
        policies=(Policy(POLICY, qualified=True),),
        ordering=True,
        gen_time_digits=6,
        include_tsa_name=True,
        include_signing_time=True,
    )
    stamped(tsa, tmp_path)
    words = openssl(tmp_path, "ts", "-reply", "-in", "tsr", "-text")
    assert "Ordering: yes" in words
    assert "TSA: DirName:/CN=Test TSA" in words
    assert "Extensions:" in words
    assert "qcStatements" in words
    verify = ["ts", "-verify", "-data", "document", "-in", "tsr", "-CAfile", "root.pem"]
    assert "Verification: OK" in openssl(tmp_path, *verify, "-attime", str(int(START.timestamp())))
