"""
A private key that was made elsewhere, written into a token (C_CreateObject), if the token takes such a thing.

Inside it is as one that the token made: sensitive, not extractable, for signatures alone. Nothing can prove any
more that no copy is left outside (R7).
"""

from __future__ import annotations

import ctypes

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from chancery.asn1 import der
from chancery.asn1.signature import PrivateKey
from chancery.errors import OperatorError
from chancery.pkcs11 import api, objects
from chancery.pkcs11.api import Attribute, Functions, KeyType
from chancery.pkcs11.objects import Values


def create(functions: Functions, session: int, label: str, key: PrivateKey) -> None:
    """
    Write a key pair into the token.

    Raises OperatorError for a type of key that is not imported, CryptokiError when the token refuses.
    """
    private, public = _parts(key)
    both = objects.common(label)
    handle = _create(functions, session, both | objects.PRIVATE | {Attribute.CLASS: api.CKO_PRIVATE_KEY} | private)
    try:
        _create(functions, session, both | objects.PUBLIC | {Attribute.CLASS: api.CKO_PUBLIC_KEY} | public)
    except BaseException:
        objects.destroy(functions, session, handle)
        raise


def _create(functions: Functions, session: int, values: Values) -> int:
    template = api.template(values)
    handle = ctypes.c_ulong()
    try:
        functions.call("CreateObject", session, template, len(template), ctypes.byref(handle))
    finally:
        for buffer in template.buffers:
            ctypes.memset(buffer, 0, ctypes.sizeof(buffer))
    return handle.value


def _parts(key: PrivateKey) -> tuple[Values, Values]:
    """Return what the private and the public object say of the key itself."""
    if isinstance(key, rsa.RSAPrivateKey):
        return _rsa(key)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        kind = objects.kind_of(key.public_key())
        size = (key.curve.key_size + 7) // 8
        point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        value = key.private_numbers().private_value.to_bytes(size)
        return _elliptic(KeyType.EC, kind, point, value)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        point = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        value = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        return _elliptic(KeyType.EC_EDWARDS, "ed25519", point, value)
    raise OperatorError("a key of this type is not imported", "import an RSA, ECDSA or Ed25519 key")


def _elliptic(type_: KeyType, kind: str, point: bytes, value: bytes) -> tuple[Values, Values]:
    objects.check_kind(kind)
    common: Values = {Attribute.KEY_TYPE: int(type_), **objects.KINDS[kind][1]}
    return common | {Attribute.VALUE: value}, common | {Attribute.EC_POINT: der.octet_string(point)}


def _rsa(key: rsa.RSAPrivateKey) -> tuple[Values, Values]:
    numbers = key.private_numbers()
    public = {
        Attribute.MODULUS: numbers.public_numbers.n,
        Attribute.PUBLIC_EXPONENT: numbers.public_numbers.e,
    }
    private = {
        Attribute.PRIVATE_EXPONENT: numbers.d,
        Attribute.PRIME_1: numbers.p,
        Attribute.PRIME_2: numbers.q,
        Attribute.EXPONENT_1: numbers.dmp1,
        Attribute.EXPONENT_2: numbers.dmq1,
        Attribute.COEFFICIENT: numbers.iqmp,
    }
    kind: Values = {Attribute.KEY_TYPE: int(KeyType.RSA)}
    return kind | _octets(public | private), kind | _octets(public)


def _octets(numbers: dict[Attribute, int]) -> Values:
    return {name: value.to_bytes((value.bit_length() + 7) // 8) for name, value in numbers.items()}
