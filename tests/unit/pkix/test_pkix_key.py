"""Key rules (R3, R4) and proof of possession."""

from __future__ import annotations

import contextlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from cakit import key, make_csr
from chancery.asn1 import der
from chancery.asn1.signature import ALGORITHMS, BY_IDENTIFIER, algorithm_from_identifier
from chancery.errors import ErrorType, PKIError
from chancery.pkix.granting import requested
from chancery.pkix.key import KINDS, check_key, is_power, key_kind, proof_of_possession, spki_der
from chancery.pkix.trial import sample_key

E = 65537


def _modulus(kind: str = "rsa-2048") -> int:
    return sample_key(kind).public_numbers().n


class _FakeRSA(rsa.RSAPublicKey):
    """Numbers that OpenSSL itself would refuse."""

    def __init__(self, modulus: int, exponent: int = E) -> None:
        self.numbers = (modulus, exponent)

    key_size = property(lambda self: self.numbers[0].bit_length())

    def public_numbers(self):
        class Numbers:
            n, e = self.numbers

        return Numbers


for _name in list(_FakeRSA.__abstractmethods__):
    setattr(_FakeRSA, _name, lambda self, *rest: None)
_FakeRSA.__abstractmethods__ = frozenset()


def _refused(public_key, type_: ErrorType, allowed=KINDS) -> str:
    with pytest.raises(PKIError) as caught:
        check_key(public_key, allowed)
    assert type_ is caught.value.type
    return caught.value.detail


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_is_named_and_accepted_where_it_is_allowed(kind):
    public_key = sample_key(kind)
    assert kind == key_kind(public_key)
    check_key(public_key, frozenset({kind}))
    assert "the profile takes" in _refused(public_key, ErrorType.BAD_CERT_TEMPLATE, KINDS - {kind})


@pytest.mark.parametrize(
    "public_key",
    [
        ec.derive_private_key(3, ec.SECP256K1()).public_key(),
        ec.derive_private_key(3, ec.SECP224R1()).public_key(),
        ec.derive_private_key(3, ec.BrainpoolP256R1()).public_key(),
        ed448.Ed448PrivateKey.generate().public_key(),
        x25519.X25519PrivateKey.generate().public_key(),
        dsa.generate_private_key(2048).public_key(),
        "no key",
    ],
    ids=["secp256k1", "p224", "brainpool", "ed448", "x25519", "dsa", "text"],
)
def test_r3_other_types_and_curves_are_refused(public_key):
    _refused(public_key, ErrorType.BAD_ALG)


def test_r3_rsa_below_2048_bits_is_refused():
    assert "(R3)" in _refused(rsa.RSAPublicNumbers(E, (1 << 1023) + 3).public_key(), ErrorType.BAD_ALG)


def test_r3_rsa_whose_size_is_no_multiple_of_8_is_refused():
    assert "(R3)" in _refused(_FakeRSA((1 << 2050) + 1), ErrorType.BAD_ALG)


def test_r3_a_sound_size_that_no_profile_names_is_refused():
    _refused(_FakeRSA((1 << 2055) + 1), ErrorType.BAD_CERT_TEMPLATE)


@pytest.mark.parametrize("exponent", [1, 2, 4, 65536, (1 << 256) + 1, -3])
def test_r4_an_exponent_that_is_even_small_or_absurd_is_refused(exponent):
    assert "exponent" in _refused(_FakeRSA(_modulus(), exponent), ErrorType.BAD_CERT_TEMPLATE)


@pytest.mark.parametrize("exponent", [3, 17, 65537, (1 << 256) - 1])
def test_r4_odd_exponents_from_3_are_accepted(exponent):
    check_key(_FakeRSA(_modulus(), exponent), KINDS)


@pytest.mark.parametrize("factor", [2, 3, 5, 7, 751])
def test_r4_a_modulus_with_a_small_factor_is_refused(factor):
    n = (1 << 2047) // factor * factor + factor
    assert "751" in str(factor) or n % factor == 0
    assert "factor below 752" in _refused(_FakeRSA(n), ErrorType.BAD_CERT_TEMPLATE)


@pytest.mark.parametrize(("prime", "power"), [((1 << 1279) - 1, 2), ((1 << 521) - 1, 5), ((1 << 89) - 1, 23)])
def test_r4_powers_of_primes_are_found(prime, power):
    assert is_power(prime**power)
    assert not is_power(prime**power * ((1 << 127) - 1))


def test_r4_a_2048_bit_square_is_refused():
    n = next(p for p in range((1 << 1024) - 3, 0, -2) if all(p % q for q in range(3, 752, 2))) ** 2
    assert 2048 == n.bit_length()
    assert "power" in _refused(_FakeRSA(n), ErrorType.BAD_CERT_TEMPLATE)


@given(st.integers(377, 1 << 300), st.sampled_from([2, 3, 5, 7, 11, 13]))
def test_every_odd_power_is_found_and_its_neighbour_is_not(half, power):
    base = 2 * half + 1
    if all(base % q for q in range(3, 752, 2)):
        assert is_power(base**power)
        assert not is_power(base**power * 757 if not is_power(757 * base) else 757)


@pytest.mark.parametrize("kind", ["ec-p256", "ec-p384", "ec-p521", "ed25519", "rsa-2048"])
def test_a_request_signed_with_its_own_key_is_accepted(kind):
    proven = proof_of_possession(make_csr(signer=key("pop", kind)))
    assert spki_der(key("pop", kind).public_key()) == proven.spki == spki_der(proven.public_key)


def _resigned(csr: bytes, signature: bytes | None = None, algorithm: bytes | None = None) -> bytes:
    reader = der.Reader(csr).enter()
    info, identifier, bits = reader.raw(), reader.raw(), reader.raw()
    return der.sequence(info, algorithm or identifier, der.bit_string(signature) if signature else bits)


def _pop_error(csr: bytes) -> ErrorType:
    with pytest.raises(PKIError) as caught:
        proof_of_possession(csr)
    return caught.value.type


def test_a_signature_of_another_key_is_no_proof():
    csr = make_csr()
    reader = der.Reader(csr).enter()
    other = key("other").sign(reader.raw(), ec.ECDSA(hashes.SHA256()))
    assert ErrorType.BAD_POP is _pop_error(_resigned(csr, other))
    assert ErrorType.BAD_POP is _pop_error(_resigned(csr, b"\x00"))


@pytest.mark.parametrize("data", [b"", b"\x30\x00", b"\x30\x03\x02\x01\x00", b"\x30\x80\x00\x00", b"PEM"])
def test_bytes_that_are_no_request_are_refused_at_the_gate(data):
    assert ErrorType.BAD_DATA_FORMAT is _pop_error(data)


def test_every_truncation_is_refused():
    csr = make_csr()
    for size in range(0, len(csr), 7):
        assert ErrorType.BAD_DATA_FORMAT is _pop_error(csr[:size])
    assert ErrorType.BAD_DATA_FORMAT is _pop_error(csr + b"\x00")
    assert ErrorType.BAD_DATA_FORMAT is _pop_error(csr + bytes(der.MAX_SIZE))


CSR = make_csr("CN=a", ("dns:a.example",), key("damaged", "ed25519"))


@given(st.data())
def test_any_damage_is_refused_in_one_way(data):
    csr = bytearray(CSR)
    for _ in range(data.draw(st.integers(1, 3))):
        csr[data.draw(st.integers(0, len(csr) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(PKIError):
        requested(bytes(csr))


def test_another_version_is_refused():
    assert b"\x02\x01\x00" in CSR[:10]
    assert ErrorType.BAD_DATA_FORMAT is _pop_error(CSR.replace(b"\x02\x01\x00", b"\x02\x01\x01", 1))


def test_sha1_and_unknown_signature_algorithms_are_refused():
    sha1 = der.sequence(der.oid("1.2.840.113549.1.1.5"), der.null())
    assert ErrorType.BAD_ALG is _pop_error(_resigned(make_csr(signer=key("pop", "rsa-2048")), algorithm=sha1))
    wrong = ALGORITHMS["sha256WithRSAEncryption"].identifier
    assert ErrorType.BAD_ALG is not ErrorType.BAD_POP
    assert _pop_error(_resigned(make_csr(), algorithm=wrong)) in {ErrorType.BAD_POP, ErrorType.BAD_ALG}


def test_a_pss_signature_is_accepted():
    signer = key("pop", "rsa-2048")
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    csr = builder.sign(signer, hashes.SHA256(), rsa_padding=pss).public_bytes(Encoding.DER)
    proof_of_possession(csr)


def test_a_compressed_point_is_refused():
    signer = key()
    compressed = signer.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    csr = make_csr()
    spki = spki_der(signer.public_key())
    algorithm = der.Reader(spki).enter().raw()
    reader = der.Reader(csr).enter()
    info = reader.enter()
    version, subject = info.raw(), info.raw()
    info.raw()
    changed = der.sequence(version, subject, der.sequence(algorithm, der.bit_string(compressed)), info.raw())
    signature = signer.sign(changed, ec.ECDSA(hashes.SHA256()))
    assert ErrorType.BAD_ALG is _pop_error(der.sequence(changed, reader.raw(), der.bit_string(signature)))


def test_a_key_that_cannot_be_used_is_refused():
    signer = ed25519.Ed25519PrivateKey.generate()
    csr = make_csr(signer=signer)
    spki = spki_der(signer.public_key())
    # The same octets under the OID of X448: a key of 32 octets that no algorithm takes.
    broken = csr.replace(spki, spki.replace(b"\x2b\x65\x70", b"\x2b\x65\x6f"))
    assert ErrorType.BAD_ALG is _pop_error(broken)


# Every encoding of a point of small order, canonical or not, with either sign (Chalkias et al., "Taming the many
# EdDSAs", table 1). A signature of R = identity and S = 0 verifies under them for every message, or every eighth.
SMALL_ORDER = [
    *("0100000000000000000000000000000000000000000000000000000000000000", "00" * 32, "00" * 31 + "80"),
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


@pytest.mark.parametrize("raw", SMALL_ORDER)
def test_a_key_under_which_anybody_signs_is_refused(raw):
    weak = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(raw))
    with pytest.raises(PKIError, match="small order"):
        check_key(weak, KINDS)


def test_a_proof_of_possession_that_nobody_needs_a_key_for_is_none():
    """A request that verifies under the identity, made without any private key, gets no certificate."""
    spki = der.sequence(der.sequence(der.oid("1.3.101.112")), der.bit_string(bytes.fromhex(SMALL_ORDER[0])))
    info = der.sequence(der.integer(0), der.sequence(), spki, b"\xa0\x00")
    forged = der.sequence(info, der.sequence(der.oid("1.3.101.112")), der.bit_string(b"\x01" + bytes(63)))
    proven = proof_of_possession(forged)
    with pytest.raises(PKIError, match="small order"):
        check_key(proven.public_key, KINDS)


@pytest.mark.parametrize("bits", [256, 384, 512])
def test_absent_parameters_of_a_pss_hash_are_read_like_null_and_never_written(bits):
    """RFC 4055 2.1; every other parameter, a longer salt among them, is another algorithm."""
    name = f"rsassaPss-sha{bits}"
    written = ALGORITHMS[name].identifier
    arc = {256: 1, 384: 2, 512: 3}[bits]
    hash_ = der.sequence(der.oid(f"2.16.840.1.101.3.4.2.{arc}"))
    mgf = der.sequence(der.oid("1.2.840.113549.1.1.8"), hash_)
    parts = der.explicit(0, hash_), der.explicit(1, mgf)
    for salt, accepted in ((bits // 8, True), (bits // 8 - 1, False), (222, False)):
        parameters = der.sequence(*parts, der.explicit(2, der.integer(salt)))
        absent = der.sequence(der.oid("1.2.840.113549.1.1.10"), parameters)
        assert absent not in BY_IDENTIFIER
        if accepted:
            assert ALGORITHMS[name] == algorithm_from_identifier(absent) == algorithm_from_identifier(written)
        else:
            with pytest.raises(PKIError):
                algorithm_from_identifier(absent)
