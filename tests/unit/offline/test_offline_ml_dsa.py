"""A root with an ML-DSA key (RFC 9881): no PKCS#11 module at hand has it, so the software token carries it."""

from __future__ import annotations

import dataclasses

import pytest
from cryptography import x509

from chancery.errors import InsecureWarning, OperatorError
from chancery.offline.bundle import decode_response, fingerprint
from chancery.offline.ceremony import Ceremony, OfflineCA, export
from chancery.offline.importing import verify_response
from chancery.pkcs11 import TokenSettings, open_token
from chancery.pkcs11 import softtoken as softtoken_file
from chancery.pkix.profile import shipped_profiles
from fakes import START, FakeClock, FakeEntropy
from unit.offline import ceremonies


@pytest.fixture
def token(tmp_path, monkeypatch):
    monkeypatch.setattr(softtoken_file, "_COST", 2**10)
    settings = TokenSettings(
        module=None, label="offline", pin=lambda: b"pin", soft_directory=str(tmp_path / "token")
    )
    with pytest.warns(InsecureWarning, match="never in production"):
        return open_token(settings)


@pytest.mark.parametrize("kind", ["ml-dsa-44", "ml-dsa-87"])
def test_an_ml_dsa_root_signs_a_sub_ca_and_its_crl(token, tmp_path, kind):
    settings = dataclasses.replace(ceremonies.SETTINGS, key_kind=kind)
    ceremony = Ceremony(token, settings, shipped_profiles(), FakeClock(), FakeEntropy(5))
    data = ceremonies.request()
    with OfflineCA.init(tmp_path / "offline", ceremony) as ca:
        response = ca.sign(data, fingerprint(data))
        exported = export(ca.store)
    verified = verify_response(data, response, decode_response(response).signer_key, shipped_profiles(), START)
    root = x509.load_der_x509_certificate(exported.root)
    root.verify_directly_issued_by(root)
    assert root == verified.root
    for certificate in verified.certificates.values():
        certificate.verify_directly_issued_by(root)
    assert x509.load_der_x509_crl(exported.crl).is_signature_valid(root.public_key())


def test_a_signature_that_is_no_choice_is_said_before_anything_is_made(token, tmp_path):
    settings = dataclasses.replace(ceremonies.SETTINGS, key_kind="ml-dsa-44", signature="rsassaPss-sha256")
    ceremony = Ceremony(token, settings, shipped_profiles(), FakeClock(), FakeEntropy(5))
    with pytest.raises(OperatorError, match="does not sign rsassaPss-sha256"):
        OfflineCA.init(tmp_path / "offline", ceremony).close()
    assert [] == token.keys()
