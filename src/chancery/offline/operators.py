"""
The operators of an offline CA: each has an Ed25519 key of their own, and signs what they confirm.

A signature, and not a passphrase that the machine knows a hash of: whoever takes the journal away has nothing to
guess, nobody who can write to the machine can confirm in another's name, and what the journal says of who
confirmed what can be verified by anybody, years later and without this machine. The key is a file on a medium that
its owner keeps, encrypted under a passphrase by scrypt.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from typing import Final, Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import load_der_public_key

from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.offline.bundle import canonical, spki
from chancery.offline.script import OperatorsAct, PersonName, Script, people_keys
from chancery.ports import Entropy

KEY_FORMAT: Final = "chancery-operator/1"
MIN_PASSPHRASE = 12
_COST = 2**16
"""scrypt N with r = 8, p = 1: 64 MiB and a fifth of a second for each guess."""


class Operators(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who may confirm (SubjectPublicKeyInfo, DER, by name), and how many of them it takes."""

    required: int
    keys: dict[PersonName, bytes]


class Confirmation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One operator's signature over `statement`."""

    operator: PersonName
    at: datetime.datetime
    signature: bytes


class _KeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    format: Literal["chancery-operator/1"]
    name: PersonName
    public: bytes
    private: bytes
    salt: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class OperatorKey:
    """An operator's key, unlocked."""

    name: str
    key: ed25519.Ed25519PrivateKey

    def confirm(self, ca: str, script: str, at: datetime.datetime) -> Confirmation:
        """Sign that this operator wants the ceremony with this script (SHA-256) held at this CA."""
        signature = self.key.sign(statement(ca, script, self.name, at))
        return Confirmation(operator=self.name, at=at, signature=signature)


def statement(ca: str, script: str, operator: str, at: datetime.datetime) -> bytes:
    """Return the octets that an operator signs to confirm a ceremony."""
    return canonical(
        {"at": at, "ca": ca, "format": "chancery-confirmation/1", "operator": operator, "script": script}
    )


def make_key(name: str, passphrase: str, entropy: Entropy) -> bytes:
    """
    Make an operator's key; returns the octets of its file.

    OperatorError for a passphrase of fewer than `MIN_PASSPHRASE` characters.
    """
    if len(passphrase) < MIN_PASSPHRASE:
        raise OperatorError("the passphrase is too short", f"take {MIN_PASSPHRASE} characters or more")
    key, salt = ed25519.Ed25519PrivateKey.generate(), entropy.draw(16)
    locked = key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(_derive(passphrase, salt)),
    )
    return canonical(
        _KeyFile(format=KEY_FORMAT, name=name, public=spki(key.public_key()), private=locked, salt=salt)
    )


def public_key(data: bytes) -> tuple[str, bytes]:
    """Return whose key file this is, and its public key (PEM), for a script. Needs no passphrase."""
    file = _read(data)
    key = load_der_public_key(file.public)
    return file.name, key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def open_key(data: bytes, passphrase: str) -> OperatorKey:
    """Unlock an operator's key file. OperatorError for another file, or a passphrase that does not open it."""
    file = _read(data)
    try:
        key = serialization.load_der_private_key(file.private, _derive(passphrase, file.salt))
    except ValueError:
        raise OperatorError(f"the passphrase does not open the key of {file.name}", "try again") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey) or spki(key.public_key()) != file.public:
        raise OperatorError(f"the key file of {file.name} holds another key", "give the file as it was made")
    return OperatorKey(file.name, key)


def entitled(script: Script, enrolled: Operators | None) -> tuple[int, dict[str, bytes], set[str]]:
    """
    Return how many have to confirm a ceremony, who counts (keys by name), and who has to be among them.

    Where operators are enrolled they count, and they alone. Everybody whom a script enrols anew has to confirm it
    as well: it proves that they have their key. The first time these are all. OperatorError when nobody is
    enrolled, and the script enrols nobody, or names somebody unknown.
    """
    act = next((act for act in script.acts if isinstance(act, OperatorsAct)), None)
    new = people_keys(act) if act is not None else {}
    if enrolled is None and act is None:
        raise OperatorError(
            "nobody is enrolled who could confirm a ceremony",
            'enrol operators in the first one (kind = "operators")',
        )
    known = dict(enrolled.keys) if enrolled is not None else {}
    joining = {name for name, key in new.items() if known.get(name) != key}
    if enrolled is not None and (taken := joining & known.keys()):
        raise OperatorError(
            f"{', '.join(sorted(taken))} is enrolled with another key", "give a person's new key a new name"
        )
    counting = known if enrolled is not None else new
    if unknown := set(script.operators) - counting.keys() - joining:
        raise OperatorError(f"{', '.join(sorted(unknown))} is not enrolled", "correct `operators` in the script")
    required = max(script.required, enrolled.required if enrolled is not None else len(new))
    if required > len(counting):
        raise OperatorError(
            f"{required} operators are required, and {len(counting)} enrolled", "correct `required`"
        )
    return required, counting | {name: new[name] for name in joining}, {*script.operators, *joining}


def check_confirmations(
    ca: str, script: Script, digest: str, enrolled: Operators | None, given: Sequence[Confirmation]
) -> None:
    """
    Raise PKIError(NOT_AUTHORIZED) unless enough distinct operators confirmed the script with this SHA-256.

    Counted are the enrolled ones; `entitled` says who else has to. OperatorError as it does.
    """
    required, keys, among = entitled(script, enrolled)
    names = [one.operator for one in given]
    if len(set(names)) != len(names):
        raise _refused("the same person confirmed twice")
    for one in given:
        if one.operator not in keys:
            raise _refused(f"{one.operator} is not enrolled")
        key = load_der_public_key(keys[one.operator])
        assert isinstance(key, ed25519.Ed25519PublicKey)
        try:
            key.verify(one.signature, statement(ca, digest, one.operator, one.at))
        except InvalidSignature:
            raise _refused(
                f"the confirmation of {one.operator} is not for this script by that person's key"
            ) from None
    if missing := among - set(names):
        raise _refused(f"{', '.join(sorted(missing))} did not confirm")
    counted = [name for name in names if enrolled is None or name in enrolled.keys]
    if len(counted) < required:
        raise _refused(f"{len(counted)} operators confirmed, and {required} have to")


def enrolled_by(act: OperatorsAct) -> Operators:
    """Return the operators that an act enrols."""
    return Operators(required=act.required, keys=people_keys(act))


def _read(data: bytes) -> _KeyFile:
    try:
        return msgspec.json.decode(data, type=_KeyFile)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise OperatorError("this is no operator's key file", "make one: chancery offline ceremony key") from None


def _derive(passphrase: str, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=_COST, r=8, p=1).derive(passphrase.encode()).hex().encode()


def _refused(detail: str) -> PKIError:
    return PKIError(ErrorType.NOT_AUTHORIZED, detail)
