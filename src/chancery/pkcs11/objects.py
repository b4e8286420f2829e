"""
Key objects in a token: how they are made, found and read. Every function takes the library and an open session,
and raises CryptokiError when the token refuses.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from chancery.asn1 import der
from chancery.asn1.signature import ML_DSA_SETS, PublicKey, ml_dsa_kind
from chancery.errors import OperatorError
from chancery.pkcs11 import api
from chancery.pkcs11.api import Attribute, CryptokiError, Functions, KeyType, Mechanism, Return

# RFC 5480 2.1.1.1 and RFC 8410 3: CKA_EC_PARAMS is the DER of the curve's OID.
_CURVES: Mapping[str, type[ec.EllipticCurve]] = {
    "1.2.840.10045.3.1.7": ec.SECP256R1,
    "1.3.132.0.34": ec.SECP384R1,
    "1.3.132.0.35": ec.SECP521R1,
}
_ED25519 = der.oid("1.3.101.112")
_ED25519_NAME = der.printable_string("edwards25519")  # PKCS#11 3.0 allows this spelling as well
_EXPONENT = (65537).to_bytes(3, "big")


def _rsa(bits: int) -> tuple[Mechanism, dict[Attribute, bytes | int | bool]]:
    return Mechanism.RSA_PKCS_KEY_PAIR_GEN, {
        Attribute.MODULUS_BITS: bits,
        Attribute.PUBLIC_EXPONENT: _EXPONENT,
    }


KINDS: Mapping[str, tuple[Mechanism, dict[Attribute, bytes | int | bool]]] = {
    "rsa-2048": _rsa(2048),
    "rsa-3072": _rsa(3072),
    "rsa-4096": _rsa(4096),
    "ec-p256": (Mechanism.EC_KEY_PAIR_GEN, {Attribute.EC_PARAMS: der.oid("1.2.840.10045.3.1.7")}),
    "ec-p384": (Mechanism.EC_KEY_PAIR_GEN, {Attribute.EC_PARAMS: der.oid("1.3.132.0.34")}),
    "ec-p521": (Mechanism.EC_KEY_PAIR_GEN, {Attribute.EC_PARAMS: der.oid("1.3.132.0.35")}),
    "ed25519": (Mechanism.EC_EDWARDS_KEY_PAIR_GEN, {Attribute.EC_PARAMS: _ED25519}),
    **{
        kind: (Mechanism.ML_DSA_KEY_PAIR_GEN, {Attribute.PARAMETER_SET: number})
        for kind, number in api.ML_DSA_PARAMETER_SETS.items()
    },
}


@dataclasses.dataclass(frozen=True, slots=True)
class KeyInfo:
    """A private key as a token lists it; `kind` is as in `KINDS`, or says what else it is."""

    label: str
    kind: str
    id: bytes
    extractable: bool


@dataclasses.dataclass(slots=True)
class KeyReference:
    """Which key (label and public key), and `place`: the generation of logins for which its handle is good."""

    label: str
    public_key: PublicKey
    place: tuple[int, int]


def kind_of(public_key: object) -> str:
    """Name a public key as `KINDS` does, or as type and size."""
    if isinstance(public_key, rsa.RSAPublicKey):
        return f"rsa-{public_key.key_size}"
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        name = public_key.curve.name
        return f"ec-p{name[4:7]}" if name in {"secp256r1", "secp384r1", "secp521r1"} else f"ec-{name}"
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return "ed25519"
    return ml_dsa_kind(public_key) or "unsupported"


def check_kind(kind: str) -> None:
    """Raise OperatorError for a kind of key that cannot be generated."""
    if kind not in KINDS:
        raise OperatorError(f"`{kind}` is no kind of key", f"choose one of {', '.join(KINDS)}")


def find(functions: Functions, session: int, wanted: dict[Attribute, bytes | int | bool]) -> list[int]:
    """Return the handles of all objects with these attributes."""
    array = api.template(wanted)
    functions.call("FindObjectsInit", session, array, len(array))
    found: list[int] = []
    try:
        chunk, count = (ctypes.c_ulong * 64)(), ctypes.c_ulong()
        while True:
            functions.call("FindObjects", session, chunk, len(chunk), ctypes.byref(count))
            if not count.value:
                return found
            found.extend(chunk[: count.value])
    finally:
        functions.call("FindObjectsFinal", session)


def private_keys(functions: Functions, session: int, label: str | None = None) -> list[int]:
    """Return the handles of the private keys, or of those with this label."""
    wanted: dict[Attribute, bytes | int | bool] = {Attribute.CLASS: api.CKO_PRIVATE_KEY}
    return find(functions, session, wanted if label is None else wanted | {Attribute.LABEL: label.encode()})


def attribute(functions: Functions, session: int, handle: int, kind: Attribute) -> bytes:
    """Read one attribute; CryptokiError(ATTRIBUTE_SENSITIVE) for what never leaves the token."""
    entry = api.AttributeValue(kind, None, 0)
    functions.call("GetAttributeValue", session, handle, ctypes.byref(entry), 1)
    buffer = ctypes.create_string_buffer(max(entry.length, 1))
    entry.value = ctypes.addressof(buffer)
    functions.call("GetAttributeValue", session, handle, ctypes.byref(entry), 1)
    return buffer.raw[: entry.length]


def number(functions: Functions, session: int, handle: int, kind: Attribute) -> int:
    """Read an attribute that is a CK_ULONG or a CK_BBOOL."""
    return int.from_bytes(attribute(functions, session, handle, kind), "little" if _LITTLE else "big")


_LITTLE = bytes(ctypes.c_ulong(1))[0] == 1


def describe(functions: Functions, session: int, handle: int) -> KeyInfo:
    """Describe one private key."""
    try:
        kind = kind_of(public_key(functions, session, handle))
    except OperatorError:
        kind = "without a public key"
    return KeyInfo(
        label=attribute(functions, session, handle, Attribute.LABEL).decode("utf-8", "replace"),
        kind=kind,
        id=attribute(functions, session, handle, Attribute.ID),
        extractable=_extractable(functions, session, handle),
    )


def _extractable(functions: Functions, session: int, handle: int) -> bool:
    extractable = number(functions, session, handle, Attribute.EXTRACTABLE) != 0
    return extractable or number(functions, session, handle, Attribute.SENSITIVE) == 0


def public_key(functions: Functions, session: int, handle: int) -> PublicKey:
    """
    Return the public key of a private key object.

    Raises OperatorError when the token keeps no public half, or the key is of an unknown type.
    """
    kind = number(functions, session, handle, Attribute.KEY_TYPE)
    if kind == KeyType.RSA:
        return _rsa_public_key(functions, session, handle)
    if kind == KeyType.ML_DSA:
        return _ml_dsa_public_key(functions, session, handle)
    parameters = attribute(functions, session, handle, Attribute.EC_PARAMS)
    octets = attribute(functions, session, _public_half(functions, session, handle), Attribute.EC_POINT)
    try:
        if parameters in {_ED25519, _ED25519_NAME}:
            return ed25519.Ed25519PublicKey.from_public_bytes(_point(octets, 32))
        for oid, curve in _CURVES.items():
            if parameters == der.oid(oid):
                size = 1 + 2 * ((curve().key_size + 7) // 8)
                return ec.EllipticCurvePublicKey.from_encoded_point(curve(), _point(octets, size))
    except ValueError:
        what = "the token gives a public key that is no point of its curve"
    else:
        what = f"a key in the token is of a type that is not supported (CKA_KEY_TYPE {kind:#x})"
    raise OperatorError(what, f"generate a key of one of {', '.join(KINDS)}")


def _rsa_public_key(functions: Functions, session: int, handle: int) -> rsa.RSAPublicKey:
    modulus = int.from_bytes(attribute(functions, session, handle, Attribute.MODULUS), "big")
    try:
        exponent = attribute(functions, session, handle, Attribute.PUBLIC_EXPONENT)
    except CryptokiError as error:
        if error.code != Return.ATTRIBUTE_TYPE_INVALID:
            raise
        exponent = b""
    if not exponent:  # optional on a private key object (PKCS#11 2.40 mechanisms, 2.1.3)
        half = _public_half(functions, session, handle)
        exponent = attribute(functions, session, half, Attribute.PUBLIC_EXPONENT)
    return rsa.RSAPublicNumbers(int.from_bytes(exponent, "big"), modulus).public_key()


def _ml_dsa_public_key(functions: Functions, session: int, handle: int) -> PublicKey:
    """PKCS#11 3.2: the parameter set stands on both halves, the key's octets (FIPS 204) on the public one."""
    found = number(functions, session, handle, Attribute.PARAMETER_SET)
    octets = attribute(functions, session, _public_half(functions, session, handle), Attribute.VALUE)
    for kind, parameter_set in api.ML_DSA_PARAMETER_SETS.items():
        if found == parameter_set:
            try:
                return ML_DSA_SETS[kind].public.from_public_bytes(octets)
            except ValueError:
                break
    raise OperatorError(
        f"an ML-DSA key in the token cannot be read (CKA_PARAMETER_SET {found})",
        f"generate a key of one of {', '.join(api.ML_DSA_PARAMETER_SETS)}",
    )


def _point(octets: bytes, size: int) -> bytes:
    """CKA_EC_POINT is a DER OCTET STRING around the point; some tokens give the bare point (2.20 was unclear)."""
    return octets if len(octets) == size else octets[len(der.octet_string(bytes(size))) - size :]


def _public_half(functions: Functions, session: int, handle: int) -> int:
    for kind in (Attribute.ID, Attribute.LABEL):
        value = attribute(functions, session, handle, kind)
        found = find(functions, session, {Attribute.CLASS: api.CKO_PUBLIC_KEY, kind: value}) if value else []
        if len(found) == 1:
            return found[0]
    label = attribute(functions, session, handle, Attribute.LABEL).decode("utf-8", "replace")
    raise OperatorError(
        f"the token holds no public key object for `{label}`",
        "write it beside the private key, with the same CKA_ID (pkcs11-tool --write-object … --type pubkey)",
    )


Values = dict[Attribute, bytes | int | bool]
PRIVATE: Values = {
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.SIGN: True,
    Attribute.DECRYPT: False,
    Attribute.UNWRAP: False,
    Attribute.DERIVE: False,
}
"""What a private key of this suite is: it stays in the token, and signs only."""
PUBLIC: Values = {Attribute.PRIVATE: False, Attribute.VERIFY: True}


def common(label: str) -> Values:
    """What both halves of a key pair have: they are kept (CKA_TOKEN), by a label and an identifier."""
    return {Attribute.TOKEN: True, Attribute.LABEL: label.encode(), Attribute.ID: os.urandom(16)}


def generate(functions: Functions, session: int, label: str, kind: str) -> int:
    """
    Generate a key pair and return the private key's handle.

    The private key stays in the token (CKA_TOKEN), is sensitive, cannot be extracted, and signs only.
    """
    algorithm, parameters = KINDS[kind]
    both = common(label)
    public = api.template(both | parameters | PUBLIC)
    private = api.template(both | PRIVATE)
    handles = (ctypes.c_ulong * 2)()
    functions.call(
        "GenerateKeyPair",
        session,
        ctypes.byref(api.mechanism(algorithm)),
        *(public, len(public), private, len(private)),
        *(ctypes.byref(handles), ctypes.byref(handles, ctypes.sizeof(ctypes.c_ulong))),
    )
    if _extractable(functions, session, handles[1]):
        destroy(functions, session, handles[1])
        raise OperatorError(
            f"the token made `{label}` extractable although it was told not to; the key was destroyed",
            "use a token that keeps CKA_EXTRACTABLE=false",
        )
    return handles[1]


def destroy(functions: Functions, session: int, handle: int) -> None:
    """Destroy a private key and its public half."""
    try:
        half: int | None = _public_half(functions, session, handle)
    except OperatorError:
        half = None
    functions.call("DestroyObject", session, handle)
    if half is not None:
        functions.call("DestroyObject", session, half)
