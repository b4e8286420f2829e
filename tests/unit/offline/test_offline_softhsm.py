"""R7, R8: the root's keys in a real PKCS#11 token; every kind of root key signs a root, a CRL and a sub-CA."""

from __future__ import annotations

import dataclasses

import pytest
from cryptography import x509

from chancery.offline.bundle import decode_response, fingerprint
from chancery.offline.ceremony import Ceremony, OfflineCA, export
from chancery.offline.importing import verify_response
from chancery.pkcs11 import TokenSettings, open_token, prepare_softhsm
from chancery.pkix.profile import shipped_profiles
from fakes import START, FakeClock, FakeEntropy
from softhsm.softhsmkit import LIBRARY, PIN, SO_PIN
from unit.offline import ceremonies

pytestmark = pytest.mark.softhsm


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    directory = tmp_path_factory.mktemp("offline")
    conf = prepare_softhsm(directory, "offline", SO_PIN, PIN, library=LIBRARY)
    return TokenSettings(module=LIBRARY, label="offline", pin=lambda: PIN, softhsm_conf=str(conf))


@pytest.mark.parametrize(
    ("kind", "signature"),
    [
        ("ec-p256", None),
        ("ec-p384", None),
        ("rsa-3072", None),
        ("rsa-3072", "rsassaPss-sha384"),
        ("ed25519", None),
    ],
)
def test_a_root_in_a_real_token(settings, tmp_path, kind, signature):
    name = f"root-{kind}-{'pss' if signature else 'usual'}"
    root_settings = dataclasses.replace(ceremonies.SETTINGS, name=name, key_kind=kind, signature=signature)
    data = ceremonies.request()
    for _ in range(2):
        # The second time with the token opened anew: nothing is made again.
        with open_token(settings) as token:
            ceremony = Ceremony(token, root_settings, shipped_profiles(), FakeClock(), FakeEntropy(5))
            with OfflineCA.init(tmp_path / "offline", ceremony) as ca:
                length = ca.store.journal.length
                response = ca.sign(data, fingerprint(data))
                exported = export(ca.store)
            held = token.keys()
        assert {name, f"{name}-bundles"} <= {key.label for key in held}
    assert length == len((tmp_path / "offline" / "journal.jsonl").read_bytes().splitlines())
    key = decode_response(response).signer_key
    verified = verify_response(data, response, key, shipped_profiles(), START)
    root = x509.load_der_x509_certificate(exported.root)
    assert root == verified.root
    assert ["issuing-1"] == list(verified.certificates)
