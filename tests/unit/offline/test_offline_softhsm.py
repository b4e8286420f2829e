"""R7, R8: the root's keys in a real PKCS#11 token; every kind of root key signs a root, a CRL and a sub-CA."""

from __future__ import annotations

import dataclasses
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from chancery.offline.bundle import decode_response, fingerprint
from chancery.offline.ceremony import Ceremony, OfflineCA, export
from chancery.offline.conducting import check, hold, rehearse
from chancery.offline.importing import verify_response
from chancery.pkcs11 import TokenSettings, open_token, prepare_softhsm
from chancery.pkcs11.softtoken import generate_software_key
from chancery.pkix.profile import shipped_profiles
from fakes import START, FakeClock, FakeEntropy
from softhsm.softhsmkit import LIBRARY, PIN, SO_PIN
from unit.offline import ceremonies, scripts

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


def test_a_ceremony_in_a_real_token_and_openssl_believes_what_it_signed(settings, tmp_path):
    # R8
    root_settings = dataclasses.replace(ceremonies.SETTINGS, name="held")
    data, people, place = ceremonies.request(), ("anna", "bela"), tmp_path / "offline"
    acts = (scripts.enrolment(*people), scripts.ROOT, scripts.answer(data), scripts.RENEWAL, scripts.CRL)
    plan = scripts.plan("all", *acts, bundles={"a.request": data}, ca="held")
    profiles = shipped_profiles()
    assert [] == check(plan, place, root_settings, profiles, START)
    with open_token(settings) as token:
        machine = Ceremony(token, root_settings, profiles, FakeClock(), FakeEntropy(6))
        rehearse(plan, place, machine, generate_software_key)
        # Neither key nor journal of it is there.
        held = token.keys()
        assert "held" not in {key.label for key in held}
        assert not place.exists()
        with OfflineCA.begin(place, machine) as ca:
            ca.holding.confirm(plan.data, scripts.confirmations(plan, START, *people))
            done = hold(ca, plan)
    files = {name: der for one in done for name, der in one.files.items()}
    [issued] = [name for name in files if name.endswith(".cer") and name != "held.cer"]
    [crl] = [name for name in files if name.endswith(".crl")]
    (tmp_path / crl).write_bytes(files[crl])
    for name in ("held.cer", issued):
        pem = x509.load_der_x509_certificate(files[name]).public_bytes(Encoding.PEM)
        (tmp_path / name).write_bytes(pem)
    words = ["openssl", "verify", "-attime", f"{START.timestamp():.0f}", "-crl_check", "-CRLfile", crl]
    shown = subprocess.run(
        [*words, "-CAfile", "held.cer", issued],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (0, f"{issued}: OK") == (shown.returncode, shown.stdout.strip()), shown.stderr
