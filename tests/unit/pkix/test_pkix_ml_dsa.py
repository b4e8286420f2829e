"""ML-DSA (RFC 9881) on the path of a request: sizes, encodings, and what its keys may be used for."""

from __future__ import annotations

import base64

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from cakit import issuing_issuer, key, make_csr
from chancery.asn1 import der
from chancery.asn1.signature import ALGORITHMS, ML_DSA_SETS, KeySigner
from chancery.errors import ErrorType, PKIError
from chancery.pkix.key import KINDS, check_key, key_kind, proof_of_possession, spki_der

# FIPS 204, table 2: octets of public key and signature.
SIZES = {"ml-dsa-44": (1312, 2420), "ml-dsa-65": (1952, 3309), "ml-dsa-87": (2592, 4627)}


@pytest.mark.parametrize("kind", ML_DSA_SETS)
def test_keys_signatures_and_requests_have_the_sizes_of_fips_204(kind):
    signer = KeySigner(key("subject", kind))
    public = spki_der(signer.public_key)
    assert kind.upper() == signer.algorithm.name
    assert SIZES[kind] == (len(signer.public_key.public_bytes_raw()), len(signer.sign(b"m")))
    assert public.startswith(der.sequence(bytes(SIZES[kind][0] + 18))[:4] + signer.algorithm.identifier)
    request = proof_of_possession(make_csr("CN=a", ("dns:a.example",), signer.key))
    assert kind == key_kind(request.public_key)
    check_key(request.public_key, KINDS)


def test_the_known_key_of_a_known_seed():
    """RFC 9881 C.2: the key of the seed 00 … 1f, as circl made it for the example's certificate."""
    public = ML_DSA_SETS["ml-dsa-44"].private.from_seed_bytes(bytes(range(32))).public_key()
    assert base64.b64decode("17K0clSq4NtF55MNSpjSyX2PE5fReJ2v") == public.public_bytes_raw()[:24]


def test_a_signature_of_one_set_is_none_of_another():
    signers = [KeySigner(key("subject", kind)) for kind in ML_DSA_SETS]
    for signer in signers:
        signature = signer.sign(b"m")
        for other in signers:
            if other is not signer:
                with pytest.raises(InvalidSignature):
                    signer.algorithm.verify(other.public_key, signature, b"m")
                with pytest.raises(PKIError) as refused:
                    KeySigner(other.key, signer.algorithm).sign(b"m")
                assert ErrorType.BAD_ALG is refused.value.type
    with pytest.raises(InvalidSignature):
        ALGORITHMS["ML-DSA-44"].verify(signers[0].public_key, signers[0].key.sign(b"m", b"context"), b"m")


def test_parameters_that_are_not_absent_are_not_this_algorithm():
    data = make_csr("CN=a", (), key("subject", "ml-dsa-44"))
    identifier = ALGORITHMS["ML-DSA-44"].identifier
    padded = der.sequence(identifier[2:], der.null())
    body = der.Reader(data).enter()
    info, _, bits = body.raw(), body.raw(), body.raw()
    with pytest.raises(PKIError) as refused:
        proof_of_possession(der.sequence(info, padded, bits))
    assert ErrorType.BAD_ALG is refused.value.type


def test_a_damaged_signature_proves_nothing():
    data = bytearray(make_csr("CN=a", (), key("subject", "ml-dsa-65")))
    data[-100] ^= 1
    with pytest.raises(PKIError) as refused:
        proof_of_possession(bytes(data))
    assert ErrorType.BAD_POP is refused.value.type


def test_pyca_verifies_what_an_ml_dsa_issuer_signs():
    issuer = issuing_issuer("ml-dsa-87")
    crl = x509.load_der_x509_crl(
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(issuer.certificate.not_valid_before_utc)
        .next_update(issuer.certificate.not_valid_after_utc)
        .sign(key("issuing", "ml-dsa-87"), None)
        .public_bytes(Encoding.DER)
    )
    signed = issuer.sign(crl.tbs_certlist_bytes)
    assert x509.load_der_x509_crl(signed).is_signature_valid(issuer.certificate.public_key())
