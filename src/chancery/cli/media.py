"""Files that people carry between machines: certification requests and the keys that sign bundles."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key

from chancery.asn1.signature import PublicKey
from chancery.errors import OperatorError
from chancery.offline.media import read_file

MAX_PEM = 128 * 1024


def csr_der(path: Path) -> bytes:
    """Return the PKCS#10 request (DER) of a PEM or DER file; OperatorError when it is none."""
    data = read_file(path, MAX_PEM)
    if not data.startswith(b"-----"):
        return data
    try:
        return x509.load_pem_x509_csr(data).public_bytes(Encoding.DER)
    except ValueError as error:
        raise OperatorError(f"{path} is not a certification request", "give a PKCS#10 request") from error


def public_key(path: Path) -> PublicKey:
    """Return the public key of a PEM file; OperatorError for a file without one that signs bundles."""
    try:
        key = load_pem_public_key(read_file(path, MAX_PEM))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise OperatorError(
            f"{path} is not a public key (PEM)", "give the offline CA's exported bundle key"
        ) from error
    if not isinstance(key, PublicKey):
        raise OperatorError(
            f"{path} holds a key that signs no bundles", "give the offline CA's exported bundle key"
        )
    return key
