"""ML-KEM keys (RFC 9935) and the statement of their possession (RFC 9883): what passes the gate, what does not."""

from __future__ import annotations

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import mlkem
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from cakit import issuing_issuer, key, make_csr
from chancery.asn1 import der, oids
from chancery.asn1.csr import statement_request
from chancery.asn1.signature import KeySigner
from chancery.asn1.x509 import name
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.pkix.kem import MLKEMPublicKey, load_kem, sample_kem
from chancery.pkix.key import KINDS, check_key, key_family, key_kind, proof_of_possession, public_key_of, spki_der
from chancery.pkix.profile import parse_profile
from kemkit import PROFILE, SUBJECT, ask, signature_certificate

# FIPS 203, table 3: octets of the encapsulation key.
SIZES = {"ml-kem-512": 800, "ml-kem-768": 1184, "ml-kem-1024": 1568}


@pytest.mark.parametrize("kind", SIZES)
def test_keys_have_the_sizes_of_fips_203(kind):
    public = sample_kem(kind)
    assert SIZES[kind] == len(public.raw)
    assert public == load_kem(spki_der(public))
    assert (kind, "ml-kem") == (key_kind(public), key_family(public))
    check_key(public, KINDS)
    for octets in (public.raw[:-1], public.raw + b"\0"):
        with pytest.raises(ValueError, match="another length"):
            MLKEMPublicKey(kind, octets)


@pytest.mark.parametrize("of", [mlkem.MLKEM768PrivateKey, mlkem.MLKEM1024PrivateKey])
def test_openssl_writes_these_keys_in_the_same_way(of):
    public = of.generate().public_key()
    for encoding in (Encoding.DER, Encoding.PEM):
        found = public_key_of(public.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo))
        assert isinstance(found, MLKEMPublicKey)
        assert public.public_bytes_raw() == found.raw
        assert public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == spki_der(found)


@settings(max_examples=50)
@given(st.integers(0, 511), st.integers(0, 4095))
def test_a_coefficient_is_below_q(place, value):
    """FIPS 203 7.2, the modulus check: ByteEncode(ByteDecode(ek)) gives ek back."""
    raw = bytearray(sample_kem("ml-kem-512").raw)
    at, bits = place // 2 * 3, value << 12 * (place % 2)
    raw[at : at + 3] = bits.to_bytes(3, "little")
    if value < 3329:
        assert bytes(raw) == MLKEMPublicKey("ml-kem-512", bytes(raw)).raw
    else:
        with pytest.raises(ValueError, match="3329"):
            MLKEMPublicKey("ml-kem-512", bytes(raw))


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("by", ["ec-p256", "rsa-2048", "ml-dsa-87"])
def test_a_request_is_signed_by_the_key_that_states_possession(kind, by):
    signer = signature_certificate(by)
    proven = proof_of_possession(ask(kind, by))
    assert (sample_kem(kind), signer) == (proven.public_key, proven.signer)
    assert sample_kem(kind).spki() == proven.spki
    assert x509.load_der_x509_csr(ask(kind, by)).extensions.get_extension_for_class(x509.SubjectAlternativeName)


def _refused(data: bytes, type_: ErrorType = ErrorType.BAD_POP) -> str:
    with pytest.raises(PKIError) as caught:
        proof_of_possession(data)
    assert type_ is caught.value.type
    return caught.value.detail


def test_without_a_statement_there_is_no_proof():
    by = KeySigner(key("kem signer"))
    info = der.sequence(der.integer(0), name(SUBJECT), sample_kem("ml-kem-768").spki(), der.tlv(0xA0))
    bare = der.sequence(info, by.algorithm.identifier, der.bit_string(by.sign(info)))
    assert "statement" in _refused(bare)


def test_a_signature_by_somebody_else_is_none():
    stranger = KeySigner(key("stranger"))
    assert "does not verify under the key of the certificate" in _refused(ask(sign=stranger.sign))


def test_a_key_that_cannot_sign_states_nothing():
    issuer = issuing_issuer()
    kem = x509.load_der_x509_certificate(signature_certificate())
    builder = x509.CertificateBuilder(subject_name=kem.subject, issuer_name=kem.issuer)
    odd = (
        builder.public_key(mlkem.MLKEM768PrivateKey.generate().public_key())
        .serial_number(5)
        .not_valid_before(kem.not_valid_before_utc)
        .not_valid_after(kem.not_valid_after_utc)
        .sign(key("issuing"), issuer.algorithm.hash)
        .public_bytes(Encoding.DER)
    )
    assert "not of a key that signs" in _refused(ask(certificate=odd))


def _changed(change) -> bytes:
    """A request whose statement's SEQUENCE is another."""
    signer = signature_certificate()
    issuer, serial = change(x509.load_der_x509_certificate(signer))
    by = KeySigner(key("kem signer"))
    statement = der.sequence(der.sequence(issuer, serial), *([signer] if serial else []))
    attribute = der.sequence(der.oid(oids.STATEMENT_OF_POSSESSION), der.tlv(der.SET, statement))
    info = der.sequence(der.integer(0), name(SUBJECT), sample_kem("ml-kem-768").spki(), der.tlv(0xA0, attribute))
    return der.sequence(info, by.algorithm.identifier, der.bit_string(by.sign(info)))


def test_a_statement_holds_the_certificate_it_names():
    other = _changed(lambda one: (one.issuer.public_bytes(), der.integer(77)))
    assert "another certificate than it names" in _refused(other, ErrorType.BAD_DATA_FORMAT)
    assert _refused(_changed(lambda one: (one.issuer.public_bytes(), b"")), ErrorType.BAD_DATA_FORMAT)


def test_a_statement_without_its_certificate_or_twice_is_refused():
    signer, by = x509.load_der_x509_certificate(signature_certificate()), KeySigner(key("kem signer"))
    named = der.sequence(signer.issuer.public_bytes(), der.integer(signer.serial_number))
    for value, words in ((der.sequence(named), "without the certificate"), (None, "more than one")):
        whole = value or der.sequence(named, signature_certificate())
        attribute = der.sequence(der.oid(oids.STATEMENT_OF_POSSESSION), der.tlv(der.SET, whole))
        attributes = der.tlv(0xA0, *([attribute] if value else [attribute, attribute]))
        info = der.sequence(der.integer(0), name(SUBJECT), sample_kem("ml-kem-512").spki(), attributes)
        data = der.sequence(info, by.algorithm.identifier, der.bit_string(by.sign(info)))
        assert words in _refused(data, ErrorType.BAD_DATA_FORMAT)


def test_a_key_that_signs_proves_its_possession_itself():
    """RFC 9883 4: the statement is not used to obtain a certificate for signatures."""
    by = KeySigner(key("kem signer"))
    data = statement_request(
        subject=name(SUBJECT),
        spki=spki_der(key("victim").public_key()),
        names=(),
        certificate=signature_certificate(),
        algorithm=by.algorithm.identifier,
        sign=by.sign,
    )
    assert "its own key" in _refused(data)


def test_a_key_for_pss_alone_is_refused_in_words():
    """RFC 4055 1.2."""
    signer = key("pss", "rsa-2048")
    data = make_csr("CN=a", (), signer)
    usual = spki_der(signer.public_key())
    bits = der.Reader(usual).enter()
    bits.raw()
    restricted = der.sequence(der.sequence(der.oid("1.2.840.113549.1.1.10")), bits.raw())
    body = der.Reader(data).enter()
    info = der.Reader(body.raw()).enter()
    version, subject, _, attributes = info.raw(), info.raw(), info.raw(), info.raw()
    changed = der.sequence(version, subject, restricted, attributes)
    identifier = body.raw()
    assert "RSASSA-PSS alone" in _refused(
        der.sequence(changed, identifier, der.bit_string(KeySigner(signer).sign(changed))), ErrorType.BAD_ALG
    )


def test_a_profile_says_that_it_takes_a_statement():
    assert "statement" == msgspec.toml.decode(PROFILE)["proof"]
    assert "ml-kem-768" in parse_profile(PROFILE).keys
    for change, words in (
        (('proof = "statement"\n', ""), "cannot sign a request"),
        (('proof = "statement"', 'proof = "hope"'), "proof"),
    ):
        with pytest.raises(OperatorError, match=words):
            parse_profile(PROFILE.replace(*change))
