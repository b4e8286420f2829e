"""Timestamps of Authenticode from before RFC 3161: asked for and verified by osslsigncode, read by asn1crypto."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import subprocess

import pytest
from asn1crypto import cms as other_cms
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from hypothesis import given
from hypothesis import strategies as st

from chancery.asn1 import authenticode, cms, der
from chancery.cli.clock import SystemClock
from chancery.errors import PKIError
from chancery.web.hot import Request
from fakes import START, FakeClock
from unit.tsa.kit import (
    POLICY,
    SHA256,
    YEAR,
    FakeSource,
    as_der,
    certificate,
    key,
    name,
    plan,
    root,
    service,
    serving,
)

SPC = "1.3.6.1.4.1.311.3.2.1"


def ask(signature: bytes = b"a signature", *, oid=SPC, content=cms.ID_DATA, extra=b"") -> bytes:
    data = der.sequence(der.oid(content), der.explicit(0, der.octet_string(signature)))
    return base64.encodebytes(der.sequence(der.oid(oid), extra, data))


def unit(kind="p256", **changes):
    return dataclasses.replace(plan(kind, **changes), authenticode=True)


def run(body: bytes, *, units=None, source=None):
    made = service(units=units or [unit()], source=source or FakeSource())

    async def act():
        await made.start()
        try:
            answer = made.handler(Request(b"POST", b"/authenticode", body, "c", b"application/octet-stream"))
            return await answer if asyncio.iscoroutine(answer) else answer
        finally:
            await made.close()

    return asyncio.run(act()), made


@pytest.mark.parametrize("kind", ["p256", "rsa"])
def test_a_signature_is_countersigned_and_recorded(kind):
    units = [plan("p384", unit="other"), unit(kind, lane=1)]
    answer, made = run(ask(), units=units)
    assert (200, "application/octet-stream") == (answer.status, answer.content_type)
    signed = cms.decode(base64.b64decode(answer.body))
    assert (cms.ID_DATA, b"a signature") == (signed.content_type, signed.content)
    cms.verify_signer(signed, units[1].certificates[0], key(kind).public_key())
    info = other_cms.ContentInfo.load(base64.b64decode(answer.body), strict=True)
    assert "v1" == info["content"]["version"].native
    attributes = {
        one["type"].native: one["values"][0].native for one in info["content"]["signer_infos"][0]["signed_attrs"]
    }
    assert (START, "data") == (attributes["signing_time"], attributes["content_type"])
    assert hashlib.sha256(b"a signature").digest() == attributes["message_digest"]
    [record] = made._store.tokens.values()
    assert (SHA256, hashlib.sha256(b"a signature").digest(), POLICY, START) == (
        record.hash_oid, record.imprint, record.policy, record.gen_time,
    )  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"%%%",
        base64.b64decode(ask()),
        ask(oid="1.2.3"),
        ask(content="1.2.840.113549.1.7.2"),
        ask(b""),
        ask(bytes(authenticode.MAX_SIGNATURE + 1)),
        ask(extra=der.tlv(der.SET, b"")),
        ask()[:-8],
    ],
)
def test_what_is_no_request_is_refused(body):
    answer, made = run(body)
    assert 400 == answer.status
    assert b"badDataFormat" in answer.body
    assert {} == made._store.tokens


def test_r23_no_time_no_countersignature():
    source = FakeSource()
    source.synchronised = False
    answer, _ = run(ask(), source=source)
    assert 503 == answer.status
    assert b"timeNotAvailable" in answer.body


def test_it_is_off_unless_it_is_switched_on():
    answer, made = run(ask(), units=[plan()])
    assert 404 == answer.status
    assert {} == made._store.tokens


@given(st.binary(max_size=200))
def test_any_octets_are_a_request_or_refused(data):
    for body in (data, base64.b64encode(data)):
        try:
            assert authenticode.decode_request(body)
        except PKIError:
            continue


def test_osslsigncode_signs_a_script_with_the_time_of_the_unit(tmp_path):
    now = SystemClock().now()
    signer = key("rsa/signing")
    code = (
        x509.CertificateBuilder(
            name("Test Root"), name("Publisher"), signer.public_key(), 5, now - YEAR, now + YEAR
        )
        .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        .sign(key("rsa/root"), hashes.SHA256())
    )
    stamping = as_der(certificate("rsa", start=now - YEAR, end=now + YEAR))
    for file, content in {
        "code.pem": code.public_bytes(serialization.Encoding.PEM),
        "root.pem": root("rsa").public_bytes(serialization.Encoding.PEM),
        "code.key": signer.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        "script.ps1": b"Write-Host 'hello'\r\n",
    }.items():
        (tmp_path / file).write_bytes(content)
    tsa = service(units=[unit("rsa", certificates=[stamping])], clock=FakeClock(now.replace(microsecond=0)))
    with serving(tsa) as port:
        words = ["sign", "-certs", "code.pem", "-key", "code.key", "-h", "sha256"]
        words += ["-t", f"http://127.0.0.1:{port}/authenticode", "-in", "script.ps1", "-out", "signed.ps1"]
        done = subprocess.run(["osslsigncode", *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    verify = ["verify", "-CAfile", "root.pem", "-TSA-CAfile", "root.pem", "-in", "signed.ps1"]
    done = subprocess.run(["osslsigncode", *verify], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "Countersignatures:" in done.stdout
    assert f"{now:%b} {now.day:2} {now:%H:%M:%S %Y} GMT" in done.stdout
    assert 1 == len(tsa._store.tokens)
