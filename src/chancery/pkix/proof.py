"""Proof that a key is compromised: somebody who has it signs that it is."""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from chancery.errors import ErrorType, PKIError
from chancery.pkix.key import spki_der


def statement(spki_sha256: bytes) -> bytes:
    """Return what has to be signed; it names the key, so that it says nothing of another."""
    return f"The private key of the public key {spki_sha256.hex()} (SHA-256 of its SPKI) is compromised.".encode()


def check_compromise(public_key: object, signature: bytes) -> bytes:
    """
    Return the key's SHA-256 (SPKI) when it signed its own `statement`.

    RSA by PKCS #1 v1.5 and ECDSA with SHA-256, Ed25519. Raises PKIError: BAD_POP when it did not, BAD_ALG for
    other keys.
    """
    key = hashlib.sha256(spki_der(public_key)).digest()
    said = statement(key)
    try:
        if isinstance(public_key, rsa.RSAPublicKey):
            public_key.verify(signature, said, padding.PKCS1v15(), hashes.SHA256())
        elif isinstance(public_key, ec.EllipticCurvePublicKey):
            public_key.verify(signature, said, ec.ECDSA(hashes.SHA256()))
        elif isinstance(public_key, ed25519.Ed25519PublicKey):
            public_key.verify(signature, said)
        else:
            raise PKIError(ErrorType.BAD_ALG, "a key of this kind proves nothing here")
    except InvalidSignature:
        raise PKIError(ErrorType.BAD_POP, f"this is no signature by the key over: {said.decode()}") from None
    return key
