"""Keys of every kind in a real SoftHSM2: they sign through pyca, and they do not come out."""

from __future__ import annotations

import copy
import datetime
import pickle
import re
import subprocess

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.x509.oid import NameOID
from softhsmkit import KINDS_TRIED, LIBRARY, PIN

from chancery.asn1.signature import ALGORITHMS, KeySigner
from chancery.errors import OperatorError
from chancery.pkcs11 import objects, open_token
from chancery.pkcs11.api import Attribute, CryptokiError, Return
from chancery.pkcs11.objects import kind_of

pytestmark = pytest.mark.softhsm
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Token")])
DAY = datetime.datetime(2026, 11, 24, tzinfo=datetime.UTC)


def digest_for(key):
    return None if kind_of(key.public_key()) == "ed25519" else hashes.SHA256()


@pytest.mark.parametrize("kind", KINDS_TRIED)
def test_a_key_of_each_kind_signs_what_its_public_key_verifies(token, kind):
    signer = KeySigner(token.find_key(kind))
    for message in (b"", b"a", bytes(100_000)):
        signer.algorithm.verify(signer.public_key, signer.sign(message), message)
    assert kind == kind_of(signer.public_key)


@pytest.mark.parametrize("kind", [kind for kind in KINDS_TRIED if kind.startswith("rsa")])
@pytest.mark.parametrize("name", [name for name in ALGORITHMS if "rsa" in name.lower()])
def test_an_rsa_key_signs_pkcs1_and_pss_with_each_hash(token, kind, name):
    signer = KeySigner(token.find_key(kind), ALGORITHMS[name])
    ALGORITHMS[name].verify(signer.public_key, signer.sign(b"message"), b"message")


@pytest.mark.parametrize("hash_", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_an_ec_key_signs_with_each_hash_and_over_a_digest(token, hash_):
    key = token.find_key("ec-p384")
    digest = hashes.Hash(hash_)
    digest.update(b"message")
    prehashed = key.sign(digest.finalize(), ec.ECDSA(Prehashed(hash_)))
    for signature in (key.sign(b"message", ec.ECDSA(hash_)), prehashed):
        key.public_key().verify(signature, b"message", ec.ECDSA(hash_))


def test_an_rsa_key_signs_pss_with_the_longest_salt(token):
    key = token.find_key("rsa-2048")
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH)
    key.public_key().verify(key.sign(b"m", scheme, hashes.SHA256()), b"m", scheme, hashes.SHA256())


def test_what_the_token_does_not_do_is_refused(token):
    key, curve = token.find_key("rsa-2048"), token.find_key("ec-p256")
    with pytest.raises(UnsupportedAlgorithm):
        key.sign(b"m", padding.PKCS1v15(), hashes.SHA1())
    with pytest.raises(UnsupportedAlgorithm):
        key.sign(b"m", padding.PSS(padding.MGF1(hashes.SHA512()), 32), hashes.SHA256())
    with pytest.raises(UnsupportedAlgorithm):
        key.decrypt(bytes(256), padding.PKCS1v15())
    with pytest.raises(UnsupportedAlgorithm):
        curve.exchange(ec.ECDH(), curve.public_key())


@pytest.mark.parametrize("kind", ["rsa-2048", "ec-p256", "ec-p521", "ed25519"])
def test_pycas_builders_sign_certificates_requests_and_crls(token, kind):
    key = token.find_key(kind)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(DAY)
        .not_valid_after(DAY + datetime.timedelta(days=1))
        .sign(key, digest_for(key))
    )
    certificate.verify_directly_issued_by(certificate)
    request = x509.CertificateSigningRequestBuilder().subject_name(NAME).sign(key, digest_for(key))
    assert request.is_signature_valid
    crl = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(NAME)
        .last_update(DAY)
        .next_update(DAY + datetime.timedelta(days=1))
        .sign(key, digest_for(key))
    )
    assert crl.is_signature_valid(key.public_key())


def test_a_certificate_is_signed_with_pss(token):
    key = token.find_key("rsa-2048")
    builder = x509.CertificateSigningRequestBuilder().subject_name(NAME)
    request = builder.sign(
        key, hashes.SHA256(), rsa_padding=padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    )
    assert request.is_signature_valid


@pytest.mark.parametrize(
    ("kind", "secret"),
    [("rsa-2048", Attribute.PRIVATE_EXPONENT), ("ec-p256", Attribute.VALUE), ("ed25519", Attribute.VALUE)],
)
def test_the_private_part_is_not_extractable(token, kind, secret):
    """R7."""
    functions, session = token.module.functions, token._anchor
    (handle,) = objects.private_keys(functions, session, kind)
    with pytest.raises(CryptokiError) as refused:
        objects.attribute(functions, session, handle, secret)
    assert Return.ATTRIBUTE_SENSITIVE == refused.value.code
    switches = {
        name: objects.number(functions, session, handle, Attribute[name])
        for name in ("TOKEN", "PRIVATE", "SENSITIVE", "EXTRACTABLE", "SIGN", "DECRYPT", "UNWRAP")
    }
    assert {
        "TOKEN": 1, "PRIVATE": 1, "SENSITIVE": 1, "EXTRACTABLE": 0, "SIGN": 1, "DECRYPT": 0, "UNWRAP": 0
    } == switches  # fmt: skip


def test_pycas_ways_out_are_closed(token):
    key = token.find_key("ec-p256")
    with pytest.raises(UnsupportedAlgorithm):
        key.private_numbers()
    with pytest.raises(UnsupportedAlgorithm):
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    with pytest.raises(UnsupportedAlgorithm):
        token.find_key("ed25519").private_bytes_raw()
    with pytest.raises(TypeError):
        pickle.dumps(key)
    assert key is copy.copy(key)
    assert key is copy.deepcopy(key)


def test_a_label_is_taken_once(token):
    with pytest.raises(OperatorError, match="already has a key labelled `ec-p256`"):
        token.generate_key("ec-p256", "ec-p256")
    listed = token.keys()
    assert sorted(KINDS_TRIED) == [info.label for info in listed]


def test_an_unknown_label_names_those_that_exist(token):
    with pytest.raises(OperatorError, match=r"no key labelled `nobody`; it holds ec-p256, .*rsa-4096"):
        token.find_key("nobody")


def test_an_unknown_kind_names_those_that_exist(token):
    with pytest.raises(OperatorError) as refused:
        token.generate_key("x", "dsa-1024")
    assert "ec-p256" in refused.value.next_step


def test_the_keys_are_listed(token):
    listed = token.keys()
    assert [(kind, kind, False) for kind in sorted(KINDS_TRIED)] == [
        (info.label, info.kind, info.extractable) for info in listed
    ]


def test_a_destroyed_key_is_gone_with_its_public_half(scratch):
    with open_token(scratch.settings()) as token:
        token.generate_key("one", "ec-p256")
        kept = token.generate_key("two", "ec-p256")
        token.destroy_key("one")
        left = token.keys()
        assert ["two"] == [info.label for info in left]
        assert 1 == len(objects.find(token.module.functions, token._anchor, {Attribute.CLASS: 2}))
        with pytest.raises(OperatorError, match="no key labelled `one`"):
            token.destroy_key("one")
        token.generate_key("one", "ed25519")
        kept.public_key().verify(kept.sign(b"m", ec.ECDSA(hashes.SHA256())), b"m", ec.ECDSA(hashes.SHA256()))


def test_another_program_sees_the_key_and_its_restrictions(shared):
    """pkcs11-tool of OpenSC; a test PIN may stand in arguments."""
    done = subprocess.run(
        ["pkcs11-tool", "--module", LIBRARY, "--token-label", "shared", "--login", "--pin", PIN.decode(), "-O"],
        env={"SOFTHSM2_CONF": str(shared.conf), "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    objects_shown = re.split(r"\n(?=Private|Public)", done.stdout)
    private = [shown for shown in objects_shown if shown.startswith("Private") and "label:      ec-p256" in shown]
    assert 1 == len(private)
    assert "Usage:      sign\n" in private[0]
    assert "sensitive, always sensitive, never extractable, local" in private[0]


def test_a_public_key_object_is_what_pyca_says(token):
    assert isinstance(token.find_key("rsa-3072").public_key(), rsa.RSAPublicKey)
    assert 3072 == token.find_key("rsa-3072").key_size
    assert "secp521r1" == token.find_key("ec-p521").curve.name
    assert 521 == token.find_key("ec-p521").key_size
    assert "ed25519" == token.find_key("ed25519").label
