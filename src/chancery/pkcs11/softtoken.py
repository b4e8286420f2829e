"""
The encrypted software token: private keys in files, where there is no PKCS#11 library at all.

It keeps the interface of `Token` and none of its protection: the process can read the keys. Every file is
PKCS#8, encrypted under a passphrase that scrypt derives from the PIN.
"""

from __future__ import annotations

import hmac
import os
import re
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from chancery.asn1.signature import ML_DSA_SETS, PrivateKey
from chancery.errors import InsecureWarning, OperatorError
from chancery.pkcs11.module import locked
from chancery.pkcs11.objects import KeyInfo, check_kind, kind_of

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}\Z")
_COST = 2**15  # scrypt N with r = 8, p = 1: 32 MiB, about 0.1 s, once per start


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """token.json: whose token it is, and enough to tell a wrong PIN."""

    label: str
    salt: bytes
    verifier: bytes


class SoftToken:
    """
    A token in a directory. Same methods as `Token`; the keys are pyca's own and safe to use from many threads.

    A directory without a token becomes one with this label and PIN. Raises OperatorError when the directory
    holds another token, the PIN is wrong, or the files cannot be read. Warns InsecureWarning every time.
    """

    def __init__(self, directory: Path, label: str, pin: Callable[[], bytes]) -> None:
        warnings.warn(
            f"token `{label}` is software in {directory}: no hardware guards its keys; never in production",
            InsecureWarning,
            stacklevel=2,
        )
        self.label = label
        self._directory = directory.absolute()
        self._lock = threading.RLock()
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory.chmod(0o700)
            with locked(self._directory):
                self._passphrase = self._open(pin())
        except OSError as error:
            raise OperatorError(
                f"the software token in {directory} cannot be opened: {error}",
                "give its user access to the directory",
            ) from error

    def _open(self, pin: bytes) -> bytes:
        path = self._directory / "token.json"
        if not path.exists():
            salt = os.urandom(16)
            passphrase, verifier = _derive(pin, salt)
            _write(path, msgspec.json.encode(_Header(self.label, salt, verifier)))
            return passphrase
        try:
            header = msgspec.json.decode(path.read_bytes(), type=_Header)
        except msgspec.DecodeError:
            raise OperatorError(
                f"{path} is damaged", "restore it from the backup; the keys need its salt"
            ) from None
        if header.label != self.label:
            raise OperatorError(
                f"the software token in {self._directory} is labelled `{header.label}`, not `{self.label}`",
                "correct the label or the directory",
            )
        passphrase, verifier = _derive(pin, header.salt)
        if not hmac.compare_digest(verifier, header.verifier):
            raise OperatorError(
                f"the PIN of software token `{self.label}` is wrong",
                "put the right PIN where the configuration says",
            )
        return passphrase

    def generate_key(self, label: str, kind: str) -> PrivateKey:
        """Generate a key and store it before returning it; OperatorError when the label is taken or unusable."""
        check_kind(kind)
        return self.import_key(label, lambda: generate_software_key(kind))

    def import_key(self, label: str, key: PrivateKey | Callable[[], PrivateKey]) -> PrivateKey:
        """Store a key that was made elsewhere (or is made now), as `generate_key` does."""
        with self._lock, locked(self._directory):
            path = self._path(label)
            if path.exists():
                raise OperatorError(
                    f"token `{self.label}` already has a key labelled `{label}`",
                    "use that key or choose another label",
                )
            made = key() if callable(key) else key
            check_kind(kind_of(made.public_key()))
            _write(
                path,
                made.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.BestAvailableEncryption(self._passphrase),
                ),
            )
        return made

    def find_key(self, label: str) -> PrivateKey:
        """Return the key with this label; OperatorError naming the labels that exist when it is absent."""
        with self._lock:
            try:
                octets = self._path(label).read_bytes()
            except FileNotFoundError:
                labels = ", ".join(self._labels()) or "none"
                raise OperatorError(
                    f"token `{self.label}` holds no key labelled `{label}`; it holds {labels}",
                    "correct the label, or generate the key",
                ) from None
        try:
            key = serialization.load_pem_private_key(octets, self._passphrase)
        except ValueError:
            raise OperatorError(f"the file of key `{label}` is damaged", "restore it from the backup") from None
        assert isinstance(key, PrivateKey)
        return key

    def keys(self) -> list[KeyInfo]:
        """Return every key, by label; all of them can be extracted."""
        return [
            KeyInfo(label, kind_of(self.find_key(label).public_key()), label.encode(), extractable=True)
            for label in self._labels()
        ]

    def destroy_key(self, label: str) -> None:
        """Delete a key for ever; OperatorError when there is none with this label."""
        with self._lock, locked(self._directory):
            self.find_key(label)
            self._path(label).unlink()

    def close(self) -> None:
        """Forget the passphrase; nothing can be found any more."""
        self._passphrase = b""

    def _labels(self) -> list[str]:
        return sorted(path.stem for path in self._directory.glob("*.key"))

    def _path(self, label: str) -> Path:
        if _LABEL.match(label) is None:
            raise OperatorError(
                f"`{label}` cannot be the label of a software key", "use letters, digits, dots, dashes and spaces"
            )
        return self._directory / f"{label}.key"


def _derive(pin: bytes, salt: bytes) -> tuple[bytes, bytes]:
    """Passphrase of the key files, and the verifier that tells a wrong PIN."""
    octets = Scrypt(salt=salt, length=64, n=_COST, r=8, p=1).derive(pin)
    return octets[:32].hex().encode(), octets[32:]


def generate_software_key(kind: str) -> PrivateKey:
    """Make a key of this kind in memory. Raises OperatorError for a kind that is not known."""
    check_kind(kind)
    if kind.startswith("rsa-"):
        return rsa.generate_private_key(public_exponent=65537, key_size=int(kind[4:]))
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind in ML_DSA_SETS:
        return ML_DSA_SETS[kind].private.generate()
    curves = {"ec-p256": ec.SECP256R1(), "ec-p384": ec.SECP384R1(), "ec-p521": ec.SECP521R1()}
    return ec.generate_private_key(curves[kind])


def _write(path: Path, octets: bytes) -> None:
    """Write a 0600 file that is whole or absent."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - of a descriptor
        file.write(octets)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
