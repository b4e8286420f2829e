"""
Keys in a token that look like pyca's, so that pyca's builders and `KeySigner` sign with them.

The digest is computed here and the token signs it (CKM_ECDSA, CKM_RSA_PKCS over a DigestInfo, raw PSS): less goes
over the wire, and every token can do it. A token that offers only the combined mechanism gets the whole message.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric import utils as asymmetric_utils
from cryptography.utils import Buffer

from chancery.asn1 import der
from chancery.asn1.signature import ml_dsa_kind
from chancery.errors import ErrorType, PKIError
from chancery.pkcs11 import api
from chancery.pkcs11.api import CryptokiError, Mechanism
from chancery.pkcs11.objects import KeyReference


class SigningToken(Protocol):
    """What a key needs of its token."""

    mechanisms: frozenset[int]

    def sign(self, reference: KeyReference, mechanism: Any, data: bytes) -> bytes: ...


@dataclasses.dataclass(frozen=True, slots=True)
class _Hash:
    """A digest: its DigestInfo up to the digest (RFC 8017 9.2, note 1) and its names in PKCS#11."""

    name: str
    size: int
    digest: Callable[[bytes], Any]
    prefix: bytes
    mechanism: Mechanism
    mgf: int
    pkcs1: Mechanism
    pss: Mechanism
    ecdsa: Mechanism


def _hash(bits: int, arc: int, mgf: int) -> _Hash:
    size = bits // 8
    algorithm = der.sequence(der.oid(f"2.16.840.1.101.3.4.2.{arc}"), der.null())
    return _Hash(
        name=f"sha{bits}",
        size=size,
        digest=getattr(hashlib, f"sha{bits}"),
        prefix=der.sequence(algorithm, der.octet_string(bytes(size)))[:-size],
        mechanism=Mechanism[f"SHA{bits}"],
        mgf=mgf,
        pkcs1=Mechanism[f"SHA{bits}_RSA_PKCS"],
        pss=Mechanism[f"SHA{bits}_RSA_PKCS_PSS"],
        ecdsa=Mechanism[f"ECDSA_SHA{bits}"],
    )


_HASHES = {hash_.name: hash_ for hash_ in (_hash(256, 1, 2), _hash(384, 2, 3), _hash(512, 3, 4))}  # CKG_MGF1_SHAn


@dataclasses.dataclass(frozen=True, slots=True)
class _Way:
    """One way to make a signature: the mechanism by reference, and what is signed: the message or its digest."""

    mechanism: Any
    prefix: bytes | None  # before the digest; None: the token hashes the message itself
    hash: _Hash | None = None

    def input(self, data: bytes) -> bytes:
        if self.prefix is None or self.hash is None:
            return data
        digest: bytes = self.hash.digest(data).digest()
        return self.prefix + digest


def _way(
    mechanism: Mechanism, prefix: bytes | None, hash_: _Hash, parameter: ctypes.Structure | None = None
) -> _Way:
    return _Way(ctypes.byref(api.mechanism(mechanism, parameter)), prefix, hash_)


class _TokenKey:
    """What the three kinds of key share: where the key is, and the ways it can sign."""

    def __init__(self, token: SigningToken, reference: KeyReference) -> None:
        self._token = token
        self._reference = reference
        self._ways: dict[object, list[_Way]] = {}
        self._last: tuple[object, _Way | None] = (None, None)

    @property
    def label(self) -> str:
        """The key's label in its token."""
        return self._reference.label

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._reference.label!r}>"

    def __copy__(self: Any) -> Any:
        return self

    def __deepcopy__(self: Any, memo: Any) -> Any:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key in a token cannot be pickled; open the token and find the key by its label")

    def private_bytes(self, *_: object, **__: object) -> NoReturn:
        """Raise UnsupportedAlgorithm: the key does not leave its token."""
        raise UnsupportedAlgorithm("the private key does not leave its token")

    private_numbers = private_bytes_raw = private_bytes

    def decrypt(self, *_: object, **__: object) -> NoReturn:
        """Raise UnsupportedAlgorithm: these keys sign only."""
        raise UnsupportedAlgorithm("the key signs only")

    exchange = decrypt

    def _sign(self, name: object, ways: list[_Way], data: bytes, *, digest: bool = False) -> bytes:
        """Sign in the first way the token does not refuse before it begins, and remember which it was."""
        for way in list(ways):
            if digest and way.prefix is None:
                continue
            octets = (way.prefix or b"") + data if digest else way.input(data)
            try:
                return self._token.sign(self._reference, way.mechanism, octets)
            except CryptokiError:
                self._ways[name] = ways = [other for other in ways if other is not way]
        self._ways.pop(name, None)  # look afresh next time
        raise PKIError(ErrorType.SYSTEM_FAILURE, f"the token has no mechanism for {name} with this key")


def _digest_of(algorithm: object) -> tuple[_Hash, bool]:
    """Return the hash and whether the caller hashed already; UnsupportedAlgorithm for other hashes."""
    prehashed = isinstance(algorithm, asymmetric_utils.Prehashed)
    inner = algorithm._algorithm if isinstance(algorithm, asymmetric_utils.Prehashed) else algorithm  # noqa: SLF001 - pyca shows it nowhere else
    if isinstance(inner, hashes.HashAlgorithm) and (found := _HASHES.get(inner.name)) is not None:
        return found, prehashed
    raise UnsupportedAlgorithm("keys in a token sign with SHA-256, SHA-384 and SHA-512")


class TokenRSAKey(_TokenKey, rsa.RSAPrivateKey):
    """An RSA key in a token: PKCS#1 v1.5 and PSS."""

    def public_key(self) -> rsa.RSAPublicKey:
        public_key = self._reference.public_key
        assert isinstance(public_key, rsa.RSAPublicKey)
        return public_key

    @property
    def key_size(self) -> int:
        return self.public_key().key_size

    def sign(
        self,
        data: Buffer,
        padding: padding.AsymmetricPadding,
        algorithm: asymmetric_utils.Prehashed | hashes.HashAlgorithm | asymmetric_utils.NoDigestInfo,
    ) -> bytes:
        """Return an RSASSA-PKCS1-v1_5 or RSASSA-PSS signature (RFC 8017); errors as `Signer.sign`."""
        hash_, digest = _digest_of(algorithm)
        salt = _salt_length(padding, hash_, self.key_size)
        name = ("RSA", hash_.name, salt)
        ways = self._ways.get(name)
        if ways is None:
            ways = self._ways[name] = self._choose(hash_, salt)
        return self._sign(name, ways, bytes(data), digest=digest)

    def _choose(self, hash_: _Hash, salt: int | None) -> list[_Way]:
        offered = self._token.mechanisms
        if salt is None:
            raw = [_way(Mechanism.RSA_PKCS, hash_.prefix, hash_)] if Mechanism.RSA_PKCS in offered else []
            return raw + ([_way(hash_.pkcs1, None, hash_)] if hash_.pkcs1 in offered else [])
        parameters = api.PSSParameters(hash_.mechanism, hash_.mgf, salt)
        return [
            _way(mechanism, prefix, hash_, parameters)
            for mechanism, prefix in ((Mechanism.RSA_PKCS_PSS, b""), (hash_.pss, None))
            if mechanism in offered
        ]


def _salt_length(scheme: padding.AsymmetricPadding, hash_: _Hash, key_size: int) -> int | None:
    """Return the salt length of PSS, or None for PKCS#1 v1.5; UnsupportedAlgorithm for other schemes."""
    if isinstance(scheme, padding.PKCS1v15):
        return None
    if isinstance(scheme, padding.PSS) and isinstance(scheme.mgf, padding.MGF1):
        mgf_hash, salt = scheme.mgf._algorithm, scheme._salt_length  # noqa: SLF001 - pyca shows them nowhere else
        if mgf_hash.name == hash_.name and salt is padding.PSS.MAX_LENGTH:
            return (key_size + 6) // 8 - hash_.size - 2  # RFC 8017 9.1.1: emLen - hLen - 2
        if mgf_hash.name == hash_.name and salt is padding.PSS.DIGEST_LENGTH:
            return hash_.size
        if mgf_hash.name == hash_.name and isinstance(salt, int):
            return salt
    raise UnsupportedAlgorithm("RSA keys in a token sign with PKCS#1 v1.5, or PSS with MGF1 over the same hash")


class TokenECKey(_TokenKey, ec.EllipticCurvePrivateKey):
    """A P-256, P-384 or P-521 key in a token."""

    def public_key(self) -> ec.EllipticCurvePublicKey:
        public_key = self._reference.public_key
        assert isinstance(public_key, ec.EllipticCurvePublicKey)
        return public_key

    @property
    def curve(self) -> ec.EllipticCurve:
        return self.public_key().curve

    @property
    def key_size(self) -> int:
        return self.public_key().key_size

    def sign(self, data: Buffer, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Return an Ecdsa-Sig-Value (RFC 3279 2.2.3); errors as `Signer.sign`."""
        last, way = self._last
        if last is signature_algorithm and way is not None:  # as `KeySigner` calls it, again and again
            try:
                return ecdsa_sig_value(self._token.sign(self._reference, way.mechanism, way.input(bytes(data))))
            except CryptokiError:  # refused before it began; look for another way below
                self._last = (None, None)
        if not isinstance(signature_algorithm, ec.ECDSA):
            raise UnsupportedAlgorithm("elliptic curve keys in a token sign ECDSA only")
        hash_, digest = _digest_of(signature_algorithm.algorithm)
        name = ("ECDSA", hash_.name)
        ways = self._ways.get(name)
        if ways is None:
            offered = self._token.mechanisms
            choice = ((Mechanism.ECDSA, b""), (hash_.ecdsa, None))
            ways = [_way(mechanism, prefix, hash_) for mechanism, prefix in choice if mechanism in offered]
            self._ways[name] = ways
        signature = ecdsa_sig_value(self._sign(name, ways, bytes(data), digest=digest))
        if not digest:
            self._last = (signature_algorithm, self._ways[name][0])
        return signature


def ecdsa_sig_value(raw: bytes) -> bytes:
    """
    Turn r || s, as PKCS#11 gives it, into its DER.

    Ecdsa-Sig-Value ::= SEQUENCE { r INTEGER, s INTEGER }   -- RFC 3279 2.2.3
    """
    half = len(raw) // 2
    r, s = raw[:half].lstrip(b"\0"), raw[half:].lstrip(b"\0")
    if not r or r[0] & 0x80:
        r = b"\0" + r
    if not s or s[0] & 0x80:
        s = b"\0" + s
    size = len(r) + len(s) + 4
    head = (0x30, size) if size < 0x80 else (0x30, 0x81, size)
    return b"%b\x02%c%b\x02%c%b" % (bytes(head), len(r), r, len(s), s)


class TokenEd25519Key(_TokenKey, ed25519.Ed25519PrivateKey):
    """An Ed25519 key in a token (RFC 8032; CKM_EDDSA without parameters is pure Ed25519)."""

    def public_key(self) -> ed25519.Ed25519PublicKey:
        public_key = self._reference.public_key
        assert isinstance(public_key, ed25519.Ed25519PublicKey)
        return public_key

    def sign(self, data: Buffer) -> bytes:
        """Return the 64 octets of an Ed25519 signature; errors as `Signer.sign`."""
        ways = self._ways.get("Ed25519")
        if ways is None:
            offered = Mechanism.EDDSA in self._token.mechanisms
            ways = [_Way(ctypes.byref(api.mechanism(Mechanism.EDDSA)), None)] if offered else []
            self._ways["Ed25519"] = ways
        return self._sign("Ed25519", ways, bytes(data))


class _TokenMLDSAKey(_TokenKey):
    """What ML-DSA keys in a token share: CKM_ML_DSA (PKCS#11 3.2); no parameter means an empty context."""

    def public_key(self) -> Any:
        return self._reference.public_key

    def sign(self, data: Buffer, context: Buffer | None = None) -> bytes:
        """Return an ML-DSA signature (FIPS 204 5.2), its context empty (RFC 9881 2); errors as `Signer.sign`."""
        if context:
            raise UnsupportedAlgorithm("keys in a token sign with an empty context (RFC 9881 2)")
        ways = self._ways.get("ML-DSA")
        if ways is None:
            offered = Mechanism.ML_DSA in self._token.mechanisms
            ways = [_Way(ctypes.byref(api.mechanism(Mechanism.ML_DSA)), None)] if offered else []
            self._ways["ML-DSA"] = ways
        return self._sign("ML-DSA", ways, bytes(data))

    sign_mu = _TokenKey.decrypt


class TokenMLDSA44Key(_TokenMLDSAKey, mldsa.MLDSA44PrivateKey):
    """An ML-DSA-44 key in a token."""


class TokenMLDSA65Key(_TokenMLDSAKey, mldsa.MLDSA65PrivateKey):
    """An ML-DSA-65 key in a token."""


class TokenMLDSA87Key(_TokenMLDSAKey, mldsa.MLDSA87PrivateKey):
    """An ML-DSA-87 key in a token."""


_ML_DSA: dict[str, type[TokenMLDSA44Key | TokenMLDSA65Key | TokenMLDSA87Key]] = {
    "ml-dsa-44": TokenMLDSA44Key,
    "ml-dsa-65": TokenMLDSA65Key,
    "ml-dsa-87": TokenMLDSA87Key,
}
Key = TokenRSAKey | TokenECKey | TokenEd25519Key | TokenMLDSA44Key | TokenMLDSA65Key | TokenMLDSA87Key


def token_key(token: SigningToken, reference: KeyReference) -> Key:
    """Return the key object for a key of this token."""
    if isinstance(reference.public_key, rsa.RSAPublicKey):
        return TokenRSAKey(token, reference)
    if isinstance(reference.public_key, ec.EllipticCurvePublicKey):
        return TokenECKey(token, reference)
    if (kind := ml_dsa_kind(reference.public_key)) is not None:
        return _ML_DSA[kind](token, reference)
    return TokenEd25519Key(token, reference)
