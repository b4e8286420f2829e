"""
Signature algorithms: one AlgorithmIdentifier per row, beside the clause that fixes its bytes.

A `Signer` here is anything that signs bytes under one algorithm; `KeySigner` makes one from any
private key with pyca's interface, whether it lives in memory or in a token.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa, utils

from chancery.asn1 import der, oids
from chancery.errors import ErrorType, PKIError

MLDSAPublicKey = mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey
MLDSAPrivateKey = mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | MLDSAPublicKey
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | MLDSAPrivateKey
HashAlgorithm = hashes.SHA256 | hashes.SHA384 | hashes.SHA512
_ECDSA = {hash_.name: ec.ECDSA(hash_) for hash_ in (hashes.SHA256(), hashes.SHA384(), hashes.SHA512())}


class Scheme(enum.Enum):
    RSA_PKCS1 = "RSASSA-PKCS1-v1_5"
    RSA_PSS = "RSASSA-PSS"
    ECDSA = "ECDSA"
    ED25519 = "Ed25519"
    ML_DSA = "ML-DSA"


def _pss_identifier(hash_oid: str, salt: int, parameters_of_hash: bytes = b"\x05\x00") -> bytes:
    """AlgorithmIdentifier of RSASSA-PSS with MGF1 over the same hash (RFC 4055 3.1)."""
    hash_identifier = der.sequence(der.oid(hash_oid), parameters_of_hash)
    mgf = der.sequence(der.oid("1.2.840.113549.1.1.8"), hash_identifier)
    parameters = der.sequence(
        der.explicit(0, hash_identifier), der.explicit(1, mgf), der.explicit(2, der.integer(salt))
    )
    return der.sequence(der.oid("1.2.840.113549.1.1.10"), parameters)


@dataclasses.dataclass(frozen=True, slots=True)
class SignatureAlgorithm:
    """A signature algorithm: its name, its DER AlgorithmIdentifier, and how pyca spells it."""

    name: str
    identifier: bytes
    scheme: Scheme
    hash: HashAlgorithm | None

    def verify(self, public_key: PublicKey, signature: bytes, data: bytes) -> None:
        """Raise InvalidSignature unless `signature` is this key's over `data`."""
        if self.scheme is Scheme.ECDSA and isinstance(public_key, ec.EllipticCurvePublicKey) and self.hash:
            public_key.verify(signature, data, _ECDSA[self.hash.name])
        elif (self.scheme is Scheme.ED25519 and isinstance(public_key, ed25519.Ed25519PublicKey)) or (
            self.scheme is Scheme.ML_DSA and isinstance(public_key, MLDSAPublicKey) and self.fits(public_key)
        ):
            public_key.verify(signature, data)
        elif isinstance(public_key, rsa.RSAPublicKey) and self.hash and self.scheme is Scheme.RSA_PKCS1:
            public_key.verify(signature, data, padding.PKCS1v15(), self.hash)
        elif isinstance(public_key, rsa.RSAPublicKey) and self.hash and self.scheme is Scheme.RSA_PSS:
            public_key.verify(signature, data, pss_padding(self.hash), self.hash)
        else:
            raise InvalidSignature(f"{self.name} does not fit the key")

    def verify_digest(self, public_key: PublicKey, signature: bytes, digest: bytes) -> None:
        """`verify` over the digest of the data by this algorithm's hash, which must have one."""
        if self.hash is None:
            raise InvalidSignature(f"{self.name} signs what is not hashed")
        hashed = utils.Prehashed(self.hash)
        if isinstance(public_key, ec.EllipticCurvePublicKey) and self.scheme is Scheme.ECDSA:
            public_key.verify(signature, digest, ec.ECDSA(hashed))
        elif isinstance(public_key, rsa.RSAPublicKey) and self.scheme in {Scheme.RSA_PKCS1, Scheme.RSA_PSS}:
            public_key.verify(signature, digest, _rsa_padding(self), hashed)
        else:
            raise InvalidSignature(f"{self.name} does not fit the key")

    def fits(self, key: object) -> bool:
        """Tell whether a public or private key, of a type that this suite signs with, signs by this algorithm."""
        if self.scheme is Scheme.ECDSA:
            return isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey)
        if self.scheme is Scheme.ED25519:
            return isinstance(key, ed25519.Ed25519PublicKey | ed25519.Ed25519PrivateKey)
        if self.scheme is Scheme.ML_DSA:
            return self.name.lower() == ml_dsa_kind(key)
        return isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey)


def pss_padding(hash_: HashAlgorithm) -> padding.PSS:
    """PSS as RFC 4055 recommends: MGF1 over the same hash, salt as long as the digest."""
    return padding.PSS(padding.MGF1(hash_), hash_.digest_size)


@dataclasses.dataclass(frozen=True, slots=True)
class MLDSASet:
    """pyca's types for the keys of one ML-DSA parameter set (FIPS 204, table 1)."""

    public: type[MLDSAPublicKey]
    private: type[MLDSAPrivateKey]


ML_DSA_SETS = {
    "ml-dsa-44": MLDSASet(mldsa.MLDSA44PublicKey, mldsa.MLDSA44PrivateKey),
    "ml-dsa-65": MLDSASet(mldsa.MLDSA65PublicKey, mldsa.MLDSA65PrivateKey),
    "ml-dsa-87": MLDSASet(mldsa.MLDSA87PublicKey, mldsa.MLDSA87PrivateKey),
}


def ml_dsa_kind(key: object) -> str | None:
    """Return the kind of an ML-DSA public or private key, as in `ML_DSA_SETS`; None for another key."""
    return next((kind for kind, of in ML_DSA_SETS.items() if isinstance(key, (of.public, of.private))), None)


def _rsa(arc: int, null: bytes = b"\x05\x00") -> bytes:
    return der.sequence(der.oid(f"1.2.840.113549.1.1.{arc}"), null)


def _ecdsa(arc: int) -> bytes:
    return der.sequence(der.oid(f"1.2.840.10045.4.3.{arc}"))


_SHA = "2.16.840.1.101.3.4.2"
ALGORITHMS = {
    algorithm.name: algorithm
    for algorithm in (
        # RFC 4055 5: parameters NULL.
        SignatureAlgorithm("sha256WithRSAEncryption", _rsa(11), Scheme.RSA_PKCS1, hashes.SHA256()),
        SignatureAlgorithm("sha384WithRSAEncryption", _rsa(12), Scheme.RSA_PKCS1, hashes.SHA384()),
        SignatureAlgorithm("sha512WithRSAEncryption", _rsa(13), Scheme.RSA_PKCS1, hashes.SHA512()),
        SignatureAlgorithm("rsassaPss-sha256", _pss_identifier(f"{_SHA}.1", 32), Scheme.RSA_PSS, hashes.SHA256()),
        SignatureAlgorithm("rsassaPss-sha384", _pss_identifier(f"{_SHA}.2", 48), Scheme.RSA_PSS, hashes.SHA384()),
        SignatureAlgorithm("rsassaPss-sha512", _pss_identifier(f"{_SHA}.3", 64), Scheme.RSA_PSS, hashes.SHA512()),
        # RFC 5758 3.2: parameters absent.
        SignatureAlgorithm("ecdsa-with-SHA256", _ecdsa(2), Scheme.ECDSA, hashes.SHA256()),
        SignatureAlgorithm("ecdsa-with-SHA384", _ecdsa(3), Scheme.ECDSA, hashes.SHA384()),
        SignatureAlgorithm("ecdsa-with-SHA512", _ecdsa(4), Scheme.ECDSA, hashes.SHA512()),
        # RFC 8410 3: parameters absent.
        SignatureAlgorithm("Ed25519", der.sequence(der.oid("1.3.101.112")), Scheme.ED25519, None),
        # RFC 9881 2: pure ML-DSA with an empty context; parameters absent.
        *(
            SignatureAlgorithm(kind.upper(), der.sequence(der.oid(oid)), Scheme.ML_DSA, None)
            for kind, oid in oids.ML_DSA.items()
        ),
    )
}
BY_IDENTIFIER = {algorithm.identifier: algorithm for algorithm in ALGORITHMS.values()}


# RFC 4055 2.1: parameters of a hash that are absent are accepted like NULL, and never written.
_READ_TOO = {
    _pss_identifier(f"{_SHA}.{arc}", salt, b""): ALGORITHMS[name]
    for arc, salt, name in ((1, 32, "rsassaPss-sha256"), (2, 48, "rsassaPss-sha384"), (3, 64, "rsassaPss-sha512"))
}


def algorithm_for(public_key: object, name: str | None = None) -> SignatureAlgorithm:
    """
    Choose the algorithm a key signs with: the digest is as strong as the key. `name` chooses for RSA keys, which
    have several.

    Raises PKIError(BAD_ALG) for a key type that this suite does not sign with, or another key's `name`.
    """
    if name is not None:
        algorithm = algorithm_for(public_key)
        if isinstance(public_key, rsa.RSAPublicKey) and ALGORITHMS[name].fits(public_key):
            algorithm = ALGORITHMS[name]
        if algorithm.name != name:
            raise PKIError(ErrorType.BAD_ALG, f"{name} does not fit the key")
        return algorithm
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        hashes_by_curve = {"secp256r1": "256", "secp384r1": "384", "secp521r1": "512"}
        if (digest := hashes_by_curve.get(public_key.curve.name)) is not None:
            return ALGORITHMS[f"ecdsa-with-SHA{digest}"]
    elif isinstance(public_key, rsa.RSAPublicKey):
        return ALGORITHMS["sha256WithRSAEncryption"]
    elif isinstance(public_key, ed25519.Ed25519PublicKey):
        return ALGORITHMS["Ed25519"]
    elif (kind := ml_dsa_kind(public_key)) is not None:
        return ALGORITHMS[kind.upper()]
    raise PKIError(ErrorType.BAD_ALG, "a key of a type that is not supported for signing")


def algorithm_from_identifier(identifier: bytes) -> SignatureAlgorithm:
    """Return the algorithm of a DER AlgorithmIdentifier; PKIError(BAD_ALG) when unknown."""
    try:
        return BY_IDENTIFIER.get(identifier) or _READ_TOO[identifier]
    except KeyError:
        raise PKIError(ErrorType.BAD_ALG, "a signature algorithm that is not supported") from None


class Signer(Protocol):
    """
    A private key bound to one signature algorithm.

    `sign` returns the signature octets as they stand in the BIT STRING or OCTET STRING (ECDSA as
    Ecdsa-Sig-Value DER). It may block on a token, is safe to call from many threads, and raises
    PKIError(SYSTEM_UNAVAIL) when the token does not answer. It is never retried blindly.
    """

    @property
    def algorithm(self) -> SignatureAlgorithm: ...

    @property
    def public_key(self) -> PublicKey: ...

    def sign(self, data: bytes) -> bytes: ...

    def sign_digest(self, digest: bytes) -> bytes:
        """`sign` over data whose digest, by the hash of `algorithm`, is this; BAD_ALG where that has none."""


class KeySigner:
    """A `Signer` over any private key with pyca's interface."""

    def __init__(self, key: PrivateKey, algorithm: SignatureAlgorithm | None = None) -> None:
        self.key = key
        self.public_key: PublicKey = key.public_key()
        self.algorithm = algorithm or algorithm_for(self.public_key)
        # Made once: after a token has had the processor's caches, each small object costs microseconds.
        self._arguments = _pyca_arguments(key, self.algorithm)

    def sign(self, data: bytes) -> bytes:
        """Sign `data` (not yet hashed) and return the signature octets."""
        if self._arguments is None:
            raise PKIError(ErrorType.BAD_ALG, f"{self.algorithm.name} does not fit the key")
        signature: bytes = self.key.sign(data, *self._arguments)
        return signature

    def sign_digest(self, digest: bytes) -> bytes:
        """Sign data of any size by its digest; PKIError(BAD_ALG) for an algorithm without a hash of its own."""
        if not self._arguments or self.algorithm.hash is None:
            raise PKIError(ErrorType.BAD_ALG, f"{self.algorithm.name} signs what is not hashed")
        hashed = utils.Prehashed(self.algorithm.hash)
        ecdsa = self.algorithm.scheme is Scheme.ECDSA
        arguments = (ec.ECDSA(hashed),) if ecdsa else (self._arguments[0], hashed)
        signature: bytes = self.key.sign(digest, *arguments)  # type: ignore[call-arg,arg-type,unused-ignore]  # the algorithm fits the key
        return signature


def digest_of(algorithm: SignatureAlgorithm, parts: Iterable[bytes]) -> bytes | None:
    """Return the digest that this algorithm signs of the joined parts, or None for one without a hash."""
    if algorithm.hash is None:
        return None
    running = hashes.Hash(algorithm.hash)
    for part in parts:
        running.update(part)
    return running.finalize()


def _rsa_padding(algorithm: SignatureAlgorithm) -> padding.PSS | padding.PKCS1v15:
    assert algorithm.hash is not None
    return pss_padding(algorithm.hash) if algorithm.scheme is Scheme.RSA_PSS else padding.PKCS1v15()


def _pyca_arguments(key: PrivateKey, algorithm: SignatureAlgorithm) -> tuple[Any, ...] | None:
    """What pyca's `sign` wants after the data, or None when the algorithm does not fit the key."""
    if not algorithm.fits(key):
        return None
    if algorithm.hash is None:
        return ()
    if algorithm.scheme is Scheme.ECDSA:
        return (ec.ECDSA(algorithm.hash),)
    return (_rsa_padding(algorithm), algorithm.hash)
