"""`chancery key statement`: a request for an ML-KEM key, made from files."""

from __future__ import annotations

import pytest
import typer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import mlkem
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from typer.testing import CliRunner

from cakit import key
from chancery.cli import commands_key
from chancery.errors import OperatorError
from chancery.pkix.kem import load_kem
from chancery.pkix.key import proof_of_possession
from chancery.ra.enrolment import csr_der
from kemkit import signature_certificate

APP = typer.Typer(pretty_exceptions_enable=False)
APP.callback()(lambda: None)
commands_key.register(APP)


@pytest.fixture
def files(tmp_path):
    public = mlkem.MLKEM768PrivateKey.generate().public_key()
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    made = {
        "kem.pem": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "cert.pem": x509.load_der_x509_certificate(signature_certificate()).public_bytes(Encoding.PEM),
        "key.pem": key("kem signer").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "other.pem": key("stranger").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "ec.pem": key("stranger").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    }
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path, spki


def _run(place, **changed):
    wanted = {"key": "kem.pem", "signer": "cert.pem", "signer-key": "key.pem", **changed}
    options = [part for name, file in wanted.items() for part in (f"--{name}", str(place / file))]
    return CliRunner().invoke(APP, ["key", "statement", *options, "--name", "email:alice@example.org"])


def test_a_statement_is_made_from_files(files):
    place, spki = files
    proven = proof_of_possession(csr_der(_run(place).output.encode()))
    assert (load_kem(spki), signature_certificate()) == (proven.public_key, proven.signer)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"signer-key": "other.pem"}, "is not the key of"),
        ({"key": "ec.pem"}, "is no ML-KEM key"),
        ({"signer": "kem.pem"}, "cannot be read"),
        ({"signer-key": "cert.pem"}, "cannot be read"),
    ],
)
def test_what_does_not_belong_together_is_said(files, changed, words):
    refused = _run(files[0], **changed).exception
    assert isinstance(refused, OperatorError)
    assert words in refused.what
