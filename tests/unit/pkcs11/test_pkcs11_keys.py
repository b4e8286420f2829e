"""How a key finds a mechanism its token offers, and how key objects of different tokens are read."""

from __future__ import annotations

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from fakehsm import ED25519, P256, RSA, FakeHSM, fake_token
from hypothesis import given
from hypothesis import strategies as st

from chancery.asn1.signature import ALGORITHMS, ML_DSA_SETS, KeySigner
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.pkcs11.api import FUNCTIONS, CryptokiError, Mechanism, Return
from chancery.pkcs11.signer import ecdsa_sig_value

RAW = {Mechanism.ECDSA, Mechanism.RSA_PKCS, Mechanism.RSA_PKCS_PSS}
COMBINED = {kind for kind in Mechanism if "SHA" in kind.name and kind not in {0x250, 0x260, 0x270}}
ML_DSA = {kind.upper(): of.private.from_seed_bytes(bytes(32)) for kind, of in ML_DSA_SETS.items()}
KEYS = {"ecdsa": P256, "rsa": RSA, "Ed25519": ED25519, **ML_DSA}
WHOLE = {Mechanism.EDDSA, Mechanism.ML_DSA}
NAMES = [name for name in ALGORITHMS if not name.startswith("ecdsa") or name.endswith("256")]


def key_for(name):
    return next(key for prefix, key in KEYS.items() if name.startswith(prefix) or prefix in name.lower())


def signer_for(hsm, tmp_path, name):
    key = key_for(name)
    hsm.add("key", key)
    return KeySigner(fake_token(hsm, tmp_path / "library").find_key("key"), ALGORITHMS[name])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("offered", [RAW, COMBINED, RAW | COMBINED], ids=["raw", "combined", "both"])
def test_each_algorithm_signs_with_what_the_token_offers(tmp_path, name, offered):
    hsm = FakeHSM(offered | WHOLE)
    signer = signer_for(hsm, tmp_path, name)
    for message in (b"", b"message" * 1000):
        ALGORITHMS[name].verify(signer.public_key, signer.sign(message), message)
    assert set(hsm.signed) <= offered | WHOLE
    if offered > RAW and name != "Ed25519" and name not in ML_DSA:
        assert set(hsm.signed) <= RAW, "a digest goes over the wire rather than a message"


@pytest.mark.parametrize("name", NAMES)
def test_a_mechanism_offered_but_refused_gives_way_to_the_other(tmp_path, name):
    """Tokens in FIPS mode list CKM_RSA_PKCS and refuse it."""
    hsm = FakeHSM()
    hsm.refused_mechanisms = RAW
    signer = signer_for(hsm, tmp_path, name)
    for _ in range(3):
        ALGORITHMS[name].verify(signer.public_key, signer.sign(b"m"), b"m")
    assert hsm.calls["SignInit"] <= 4, "it is asked once, and remembered"
    assert 1 == hsm.calls["Initialize"], "a refused mechanism is no reason to restart"


@pytest.mark.parametrize("name", NAMES)
def test_without_any_mechanism_the_error_says_so(tmp_path, name):
    signer = signer_for(FakeHSM(set()), tmp_path, name)
    with pytest.raises(PKIError, match="no mechanism for") as failed:
        signer.sign(b"m")
    assert ErrorType.SYSTEM_FAILURE == failed.value.type


def test_a_mechanism_that_stops_working_later_gives_way_too(tmp_path):
    hsm = FakeHSM()
    signer = signer_for(hsm, tmp_path, "ecdsa-with-SHA256")
    signer.sign(b"m")
    signer.sign(b"m")
    hsm.refused_mechanisms = {Mechanism.ECDSA}
    signer.algorithm.verify(signer.public_key, signer.sign(b"m"), b"m")
    assert [Mechanism.ECDSA, Mechanism.ECDSA, Mechanism.ECDSA_SHA256] == hsm.signed


def test_a_digest_cannot_be_signed_by_a_combined_mechanism(tmp_path):
    hsm = FakeHSM(COMBINED)
    key = signer_for(hsm, tmp_path, "ecdsa-with-SHA256").key
    with pytest.raises(PKIError, match="no mechanism"):
        key.sign(bytes(32), ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    with pytest.raises(UnsupportedAlgorithm):
        key.sign(b"m", ec.ECDSA(hashes.SHA1()))


@pytest.mark.parametrize("key", [P256, ED25519], ids=["ec", "ed25519"])
def test_a_bare_point_is_read_like_a_wrapped_one(tmp_path, key):
    hsm = FakeHSM()
    hsm.add("bare", key, bare_point=True)
    hsm.add("wrapped", key)
    token = fake_token(hsm, tmp_path / "library")
    assert key.public_key() == token.find_key("bare").public_key() == token.find_key("wrapped").public_key()


def test_a_bare_point_that_looks_like_der_is_a_point(tmp_path):
    """04 3F …: an uncompressed P-256 point whose X begins with 3F reads as a whole OCTET STRING of 63 octets."""
    key = next(
        key
        for key in (ec.derive_private_key(number, ec.SECP256R1()) for number in range(1, 100_000))
        if key.public_key().public_numbers().x >> 248 == 0x3F
    )
    hsm = FakeHSM()
    hsm.add("key", key, bare_point=True)
    assert key.public_key() == fake_token(hsm, tmp_path / "library").find_key("key").public_key()


def test_an_rsa_exponent_may_stand_on_the_public_half_only(tmp_path):
    hsm = FakeHSM()
    hsm.add("key", RSA, exponent_on_private=False)
    assert RSA.public_key() == fake_token(hsm, tmp_path / "library").find_key("key").public_key()


def test_a_key_without_a_public_half_is_explained_and_listed(tmp_path):
    hsm = FakeHSM()
    hsm.add("key", P256, public_half=False)
    token = fake_token(hsm, tmp_path / "library")
    with pytest.raises(OperatorError, match="no public key object for `key`") as refused:
        token.find_key("key")
    assert "CKA_ID" in refused.value.next_step
    listed = token.keys()
    assert ["without a public key"] == [info.kind for info in listed]


def test_a_key_on_an_unknown_curve_and_a_point_off_the_curve_are_explained(tmp_path):
    hsm = FakeHSM()
    hsm.add("odd", P256, EC_PARAMS=b"\x06\x05\x2b\x81\x04\x00\x0a")
    hsm.add("off", P256, public_half=False)
    hsm.objects[99] = (None, {0: b"\2\0\0\0\0\0\0\0", 0x102: b"off", 0x181: b"\x04\x41\x04" + bytes(64)})
    token = fake_token(hsm, tmp_path / "library")
    with pytest.raises(OperatorError, match="not supported"):
        token.find_key("odd")
    with pytest.raises(OperatorError, match="no point of its curve"):
        token.find_key("off")


@pytest.mark.parametrize("kind", ML_DSA_SETS)
def test_ml_dsa_keys_of_a_module_that_has_them_are_found_by_their_parameter_set(tmp_path, kind):
    """PKCS#11 3.2. No such module was at hand; the fake does what the standard says."""
    hsm = FakeHSM()
    hsm.add("key", ML_DSA[kind.upper()])
    hsm.add("odd", ML_DSA["ML-DSA-44"], PARAMETER_SET=b"\x04" + bytes(7))
    token = fake_token(hsm, tmp_path / "library")
    key = token.find_key("key")
    assert isinstance(key, ML_DSA_SETS[kind].private)
    assert ML_DSA[kind.upper()].public_key() == key.public_key()
    listed = token.keys()
    assert [("key", kind), ("odd", "without a public key")] == [(info.label, info.kind) for info in listed]
    for forbidden in (lambda: key.sign(b"m", b"context"), lambda: key.sign_mu(bytes(64)), key.private_bytes_raw):
        with pytest.raises(UnsupportedAlgorithm):
            forbidden()


def test_two_keys_of_one_label_are_refused(tmp_path):
    hsm = FakeHSM()
    hsm.add("key", P256)
    hsm.add("key", RSA)
    with pytest.raises(OperatorError, match="holds 2 keys labelled `key`"):
        fake_token(hsm, tmp_path / "library").find_key("key")


def test_a_token_that_generates_no_such_keys_says_so(tmp_path):
    token = fake_token(FakeHSM(RAW), tmp_path / "library")
    with pytest.raises(OperatorError, match="cannot generate ed25519"):
        token.generate_key("key", "ed25519")


def test_a_refused_mechanism_reaches_nobody_as_a_foreign_error(tmp_path):
    """CryptokiError stays inside: a signer raises PKIError only."""
    hsm = FakeHSM()
    signer = signer_for(hsm, tmp_path, "ecdsa-with-SHA256")
    signer.sign(b"m")
    hsm.fail(
        "SignInit", Return.KEY_FUNCTION_NOT_PERMITTED, Return.KEY_FUNCTION_NOT_PERMITTED, Return.MECHANISM_INVALID
    )
    with pytest.raises(PKIError):
        signer.sign(b"m")
    assert not issubclass(CryptokiError, PKIError)


@given(st.sampled_from([32, 48, 66]), st.data())
def test_a_raw_ecdsa_signature_becomes_the_der_pyca_makes(size, data):
    r, s = (data.draw(st.integers(1, 2 ** (8 * size - (7 if size == 66 else 0)) - 1)) for _ in range(2))
    raw = r.to_bytes(size, "big") + s.to_bytes(size, "big")
    assert utils.encode_dss_signature(r, s) == ecdsa_sig_value(raw)


def test_the_function_list_is_in_the_standards_order():
    """PKCS#11 2.40: C_Sign is the 44th function, C_WaitForSlotEvent the 68th and last."""
    places = {name: FUNCTIONS.index(name) for name in ("Initialize", "OpenSession", "Sign", "WaitForSlotEvent")}
    assert {"Initialize": 0, "OpenSession": 12, "Sign": 43, "WaitForSlotEvent": 67} == places
