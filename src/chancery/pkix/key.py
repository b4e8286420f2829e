"""Subject keys: which are acceptable (R3, R4, R5), and the proof that the requestor holds the private one."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import hashlib
import math
import re
from typing import cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from chancery.asn1 import der, oids
from chancery.asn1.csr import statement_signer
from chancery.asn1.signature import PublicKey, algorithm_from_identifier, ml_dsa_kind
from chancery.asn1.x509 import split_signed, subject_fields, subject_fields_of
from chancery.errors import ErrorType, PKIError
from chancery.pkix import weak
from chancery.pkix.kem import MLKEMPublicKey, load_kem

KINDS = frozenset(
    {"rsa-2048", "rsa-3072", "rsa-4096", "ec-p256", "ec-p384", "ec-p521", "ed25519", *oids.ML_DSA, *oids.ML_KEM}
)
"""What a profile may allow."""

_RSASSA_PSS = der.oid("1.2.840.113549.1.1.10")
_PUBLIC_KEY_PEM = re.compile(rb"\s*-----BEGIN PUBLIC KEY-----\s([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----\s*")
MIN_RSA_BITS = 2048
MAX_RSA_BITS = 16384
MAX_EXPONENT = 1 << 256
SMALLEST_FACTOR = 752
_CURVES = {"secp256r1": "ec-p256", "secp384r1": "ec-p384", "secp521r1": "ec-p521"}


def _primes(limit: int) -> list[int]:
    return [n for n in range(2, limit) if all(n % d for d in range(2, math.isqrt(n) + 1))]


_SMALL_PRIMES = _primes(SMALLEST_FACTOR)
_PRIMORIAL = math.prod(_SMALL_PRIMES)


def key_kind(public_key: object) -> str:
    """
    Name a key's kind, as in `KINDS`; an RSA key of another size is `rsa-` and its bits.

    Raises PKIError(BAD_ALG) for another type of key or another curve.
    """
    family = _family(public_key)
    if family is ec.EllipticCurvePublicKey:
        curve = cast("ec.EllipticCurvePublicKey", public_key).curve.name
        if (kind := _CURVES.get(curve)) is not None:
            return kind
        raise PKIError(ErrorType.BAD_ALG, f"the curve {curve} is not accepted (R3)")
    if family is rsa.RSAPublicKey:
        return f"rsa-{cast('rsa.RSAPublicKey', public_key).key_size}"
    if family is ed25519.Ed25519PublicKey:
        return "ed25519"
    if (other := ml_dsa_kind(public_key)) is not None:
        return other
    if isinstance(public_key, MLKEMPublicKey):
        return public_key.kind
    raise PKIError(ErrorType.BAD_ALG, "a type of public key that is not supported")


def key_family(public_key: object) -> str:
    """Name a key's kind without its size: rsa, ec, ed25519, ml-dsa, ml-kem. Raises as `key_kind`."""
    kind = key_kind(public_key)
    return kind.rpartition("-")[0] or kind


_ABSTRACT = (ec.EllipticCurvePublicKey, rsa.RSAPublicKey, ed25519.Ed25519PublicKey)
_families: dict[type, type | None] = {}


def _family(public_key: object) -> type | None:
    """Return which of pyca's abstract types the key is of: looked up by its own type, as `isinstance` is slow."""
    type_ = type(public_key)
    if type_ not in _families:
        _families[type_] = next((one for one in _ABSTRACT if issubclass(type_, one)), None)
    return _families[type_]


def check_key(public_key: object, allowed: frozenset[str]) -> None:
    """
    Accept a sound key of an allowed kind (R3, R4), none that its generator betrays (R5; see `pkix.weak`).

    Raises PKIError: BAD_ALG for a type or size that is never accepted, BAD_CERT_TEMPLATE for a key that
    is unsound or that this profile does not allow. An EC point is on its curve, and the curve a named one,
    or it would not have become a value.
    """
    kind = key_kind(public_key)
    is_rsa = kind.startswith("rsa-")
    if is_rsa:
        size = cast("rsa.RSAPublicKey", public_key).key_size
        if size < MIN_RSA_BITS or size % 8 or size > MAX_RSA_BITS:
            raise PKIError(
                ErrorType.BAD_ALG,
                f"an RSA key of {size} bits: at least {MIN_RSA_BITS} and a multiple of 8 (R3)",
            )
    if kind not in allowed:
        raise PKIError(
            ErrorType.BAD_CERT_TEMPLATE, f"the profile takes {', '.join(sorted(allowed))}; the key is {kind}"
        )
    if is_rsa:
        numbers = cast("rsa.RSAPublicKey", public_key).public_numbers()
        _check_rsa(numbers.n, numbers.e)
    elif kind == "ed25519":
        _check_ed25519(cast("ed25519.Ed25519PublicKey", public_key).public_bytes_raw())


@functools.lru_cache(maxsize=256)
def _check_rsa(modulus: int, exponent: int) -> None:
    """R4, after SP 800-89 5.3.3, and of R5 what can be told by looking at the modulus."""
    if exponent < 3 or exponent % 2 == 0 or exponent >= MAX_EXPONENT:
        raise PKIError(ErrorType.BAD_CERT_TEMPLATE, "an RSA exponent that is not odd, 3 or more, below 2^256 (R4)")
    if math.gcd(modulus, _PRIMORIAL) != 1:
        raise PKIError(
            ErrorType.BAD_CERT_TEMPLATE,
            f"an RSA modulus that is even or has a factor below {SMALLEST_FACTOR} (R4)",
        )
    if is_power(modulus):
        raise PKIError(ErrorType.BAD_CERT_TEMPLATE, "an RSA modulus that is a power of one number (R4)")
    weak.check_modulus(modulus)


_P25519 = 2**255 - 19
# The y of the eight points of small order of edwards25519: 1, -1, 0 (order 4), and plus or minus one y (order 8).
# Under such a key anybody signs: what the message is multiplied with vanishes, for at least every eighth message.
_ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER = frozenset({0, 1, _P25519 - 1, _ORDER_8, _P25519 - _ORDER_8})


def _check_ed25519(raw: bytes) -> None:
    """RFC 8032 5.1.3: y is below p; RFC 8032 5.1.7, 8.9: and the point not one of small order."""
    y = int.from_bytes(raw, "little") & (1 << 255) - 1
    if y >= _P25519 or y in _SMALL_ORDER:
        raise PKIError(
            ErrorType.BAD_CERT_TEMPLATE, "an Ed25519 key of small order, or not in its one encoding (RFC 8032)"
        )


@functools.lru_cache(maxsize=1)
def _residue_tests() -> tuple[tuple[int, tuple[int, ...]], ...]:
    """For each prime k, three primes q with k dividing q - 1: a k-th power is one modulo each of them."""
    tests = []
    # A factor is at least 752 > 2^9, so a power of up to 16384 bits has an exponent below 16384 / 9.
    for k in _primes(MAX_RSA_BITS // 9)[1:]:
        found: list[int] = []
        q = 2 * k + 1
        while len(found) < 3:
            if all(q % d for d in range(3, math.isqrt(q) + 1, 2)):
                found.append(q)
            q += 2 * k
        tests.append((k, tuple(found)))
    return tuple(tests)


def is_power(n: int) -> bool:
    """Tell whether the odd number `n`, which has no factor below 752, is a power (2nd or higher) of a number."""
    if math.isqrt(n) ** 2 == n:
        return True
    for k, moduli in _residue_tests():
        if 9 * k > n.bit_length():
            return False
        # The residues rule out nearly every n at the cost of a few small powers; what is left is computed.
        if all(pow(n % q, (q - 1) // k, q) <= 1 for q in moduli) and _root(n, k) ** k == n:
            return True
    return False


def _root(n: int, k: int) -> int:
    """Integer part of the k-th root, by Newton's method from above."""
    x = 1 << -(-n.bit_length() // k)
    while (y := ((k - 1) * x + n // x ** (k - 1)) // k) < x:
        x = y
    return x


def spki_der(public_key: object) -> bytes:
    """SubjectPublicKeyInfo (RFC 5280 4.1.2.7) of a supported public key, in its one DER form."""
    key_kind(public_key)
    if isinstance(public_key, MLKEMPublicKey):
        return public_key.spki()
    assert isinstance(public_key, PublicKey)
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def public_key_of(data: bytes) -> object:
    """
    Return the public key that a certificate, a certification request or a public key holds, in PEM or DER.

    Of several certificates in PEM the first counts. Raises PKIError(BAD_DATA_FORMAT) for anything else.
    """
    holders = (
        x509.load_pem_x509_certificate,
        x509.load_pem_x509_csr,
        x509.load_der_x509_certificate,
        x509.load_der_x509_csr,
    )
    for load in holders:
        with contextlib.suppress(ValueError, UnsupportedAlgorithm):
            return key_of(load(data))
    with contextlib.suppress(ValueError):
        if (kem := load_kem(_public_key_der(data))) is not None:
            return kem
    for load_key in (load_pem_public_key, load_der_public_key):
        with contextlib.suppress(ValueError, UnsupportedAlgorithm):
            return load_key(data)
    raise der.malformed("no certificate, certification request or public key that can be read")


def _public_key_der(data: bytes) -> bytes:
    """Return DER, or what one PEM block of a PUBLIC KEY (RFC 7468 13) holds; ValueError for a broken block."""
    match = _PUBLIC_KEY_PEM.fullmatch(data)
    return data if match is None else base64.b64decode(re.sub(rb"\s+", b"", match[1]), validate=True)


def key_of(source: x509.Certificate | x509.CertificateSigningRequest) -> object:
    """Return the subject's key; ValueError, UnsupportedAlgorithm or PKIError(BAD_DATA_FORMAT) when it is none."""
    if isinstance(source, x509.Certificate):
        return load_spki(subject_fields_of(source.tbs_certificate_bytes)[1])
    info = der.Reader(source.tbs_certrequest_bytes).enter()
    info.take(der.INTEGER)
    info.raw(der.SEQUENCE)
    return load_spki(info.raw(der.SEQUENCE))


def tbs_key_sha256(tbs: bytes) -> bytes | None:
    """Return SHA-256 of the SubjectPublicKeyInfo in a TBSCertificate (DER), None when nobody can read that."""
    try:
        return hashlib.sha256(subject_fields_of(tbs)[1]).digest()
    except PKIError:
        return None


@dataclasses.dataclass(frozen=True, slots=True)
class Proven:
    """
    A PKCS#10 request whose signature verifies under its own key: both as values, and as they are encoded.

    `subject`, `spki` and `attributes` are DER: the Name, the SubjectPublicKeyInfo in its one usual encoding, and
    the attributes with their tag [0], empty where there are none. For a key that cannot sign, the signature
    verifies under the key of `signer`, a certificate (DER) that states its possession (RFC 9883) and that nothing
    has been asked of yet.
    """

    csr: x509.CertificateSigningRequest
    public_key: object
    subject: bytes
    spki: bytes
    attributes: bytes = b""
    signer: bytes | None = None


@functools.lru_cache(maxsize=1024)
def load_spki(spki: bytes) -> object:
    """
    Return the public key of a SubjectPublicKeyInfo (DER); kept, as proof, profile and lints each look at it.

    Raises ValueError or UnsupportedAlgorithm as pyca does.
    """
    return load_kem(spki) or load_der_public_key(spki)


# SubjectPublicKeyInfo of a fixed length up to the point or key: what follows has one encoding then.
_USUAL = {
    91: bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004"),
    120: bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004"),
    158: bytes.fromhex("30819b301006072a8648ce3d020106052b810400230381860004"),
    44: bytes.fromhex("302a300506032b6570032100"),
}


def usual_point(spki: bytes) -> bool:
    """Tell whether it is the one encoding of a point on a NIST curve, or of an Ed25519 key (RFC 5480, 8410)."""
    start = _USUAL.get(len(spki))
    return start is not None and spki.startswith(start)


def proof_of_possession(csr: bytes) -> Proven:
    """
    Pass a PKCS#10 request (DER, RFC 2986) through the gate and verify its signature.

    Raises PKIError: BAD_DATA_FORMAT for bytes that are not one canonical CertificationRequest; BAD_ALG for a
    key or signature algorithm that is not supported, or a key in another than its usual encoding (explicit
    curve parameters, compressed points, RSASSA-PSS keys); BAD_POP when the signature does not verify, or the
    key cannot sign and there is no statement of its possession (RFC 9883).
    """
    der.check(csr)
    info_der, identifier, signature = split_signed(csr)
    algorithm = algorithm_from_identifier(identifier)
    fields = der.elements(info_der)
    if [tag for tag, _ in fields[:3]] != [der.INTEGER, der.SEQUENCE, der.SEQUENCE]:
        raise der.malformed("not a PKCS#10 certification request (RFC 2986)")
    (_, subject), (_, spki) = fields[1:3]
    attributes = next((raw for tag, raw in fields[3:] if tag == 0xA0), b"")
    try:
        request = x509.load_der_x509_csr(csr)
    except (ValueError, x509.InvalidVersion):
        raise PKIError(ErrorType.BAD_DATA_FORMAT, "not a PKCS#10 certification request (RFC 2986)") from None
    try:
        public_key = load_spki(spki)
        usual = usual_point(spki) or spki_der(public_key) == spki
    except (ValueError, UnsupportedAlgorithm):
        raise PKIError(ErrorType.BAD_ALG, "the request's public key cannot be used") from None
    if not usual and _RSASSA_PSS in spki[:32]:
        raise PKIError(
            ErrorType.BAD_ALG, "a key for RSASSA-PSS alone (RFC 4055 1.2) is not certified: ask with rsaEncryption"
        )
    if not usual:
        raise PKIError(ErrorType.BAD_ALG, "the public key is not in its usual encoding (RFC 3279, 5480, 8410)")
    signer, verifying, whose = None, public_key, "its own key"
    if isinstance(public_key, MLKEMPublicKey):
        signer, verifying = _signer(attributes)
        whose = "the key of the certificate that states its possession"
    try:
        # Its one usual encoding was that of a key of a kind that is known here.
        algorithm.verify(cast("PublicKey", verifying), signature, info_der)
    except InvalidSignature:
        raise PKIError(ErrorType.BAD_POP, f"the request's signature does not verify under {whose}") from None
    return Proven(request, public_key, subject, spki, attributes, signer)


def _signer(attributes: bytes) -> tuple[bytes, object]:
    """Return the certificate (DER) that states possession of a key that cannot sign, and its own key."""
    certificate = statement_signer(der.Reader(attributes)) if attributes else None
    if certificate is None:
        raise PKIError(
            ErrorType.BAD_POP, "a key that cannot sign is certified on a statement of its possession (RFC 9883)"
        )
    try:
        key = load_spki(subject_fields(certificate)[1])
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, PublicKey):
        raise PKIError(ErrorType.BAD_POP, "the certificate that states possession is not of a key that signs")
    return certificate, key
