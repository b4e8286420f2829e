"""Signed notes and checkpoints (C2SP signed-note and tlog-checkpoint): text, a blank line, signature lines."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chancery.asn1.signature import PublicKey, Signer, algorithm_for
from chancery.errors import ErrorType, PKIError

MAX_SIZE = 64 * 1024
MAX_SIGNATURES = 64
"""signed-note: at least 16 must be accepted."""
MAX_TREE_SIZE = 2**63 - 1
ED25519_TYPE = b"\x01"


@dataclasses.dataclass(frozen=True, slots=True)
class TreeHead:
    """What a checkpoint says: this log (`origin`) had `size` leaves under `root` (RFC 6962 2.1)."""

    origin: str
    size: int
    root: bytes


def key_id(name: str, key: PublicKey) -> bytes:
    """
    Return the four octets by which a signature line names its key.

    Ed25519 as signed-note defines it; for ECDSA P-256 (type 0x02) the start of SHA-256 of the
    SubjectPublicKeyInfo. Raises PKIError(BAD_ALG) for any other key.
    """
    if isinstance(key, ed25519.Ed25519PublicKey):
        raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        return hashlib.sha256(name.encode() + b"\n" + ED25519_TYPE + raw).digest()[:4]
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()[:4]
    raise PKIError(ErrorType.BAD_ALG, "checkpoints are signed with Ed25519 or ECDSA P-256")


def check_name(name: str) -> None:
    """Raise PKIError(BAD_REQUEST) unless this can be a key name: not empty, printable, no space, no plus."""
    if not name or "+" in name or " " in name or not name.isprintable() or len(name) > 200:
        raise PKIError(
            ErrorType.BAD_REQUEST, "the name of a log is 1 to 200 printable characters without space and plus"
        )


def sign(text: str, name: str, signer: Signer) -> str:
    """
    Sign `text`, which ends in a newline, under this key name; returns the note.

    The signature is verified before it is returned. Raises PKIError: BAD_REQUEST for a text or name that
    no note may have, BAD_ALG for another kind of key, SYSTEM_FAILURE when the token signed wrongly.
    """
    check_name(name)
    if not text.endswith("\n") or any(character < " " and character != "\n" for character in text):
        raise PKIError(ErrorType.BAD_REQUEST, "a note is text that ends in a newline, without control characters")
    identifier = key_id(name, signer.public_key)
    signature = signer.sign(text.encode())
    try:
        algorithm_for(signer.public_key).verify(signer.public_key, signature, text.encode())
    except InvalidSignature as error:
        raise PKIError(ErrorType.SYSTEM_FAILURE, "the token returned a bad signature") from error
    return f"{text}\n\u2014 {name} {base64.b64encode(identifier + signature).decode()}\n"


def open_note(note: str, name: str, key: PublicKey) -> str:
    """
    Return the text of a note that this key signed under this name.

    Lines of other keys are ignored. Raises PKIError: BAD_DATA_FORMAT for what is not a note,
    NOT_AUTHORIZED when the key's line is missing or any of its lines does not verify.
    """
    text, lines = _split(note)
    identifier, found = key_id(name, key), False
    for line_name, blob in lines:
        if (line_name, blob[:4]) != (name, identifier):
            continue
        found = True
        try:
            algorithm_for(key).verify(key, blob[4:], text.encode())
        except InvalidSignature:
            raise PKIError(ErrorType.NOT_AUTHORIZED, f"the signature of {name} does not verify") from None
    if not found:
        raise PKIError(ErrorType.NOT_AUTHORIZED, f"no signature of {name} under the expected key")
    return text


def sign_checkpoint(head: TreeHead, signer: Signer) -> str:
    """Sign a checkpoint; the log's key name is its origin. Raises as `sign` does."""
    text = f"{head.origin}\n{head.size}\n{base64.b64encode(head.root).decode()}\n"
    return sign(text, head.origin, signer)


def open_checkpoint(note: str, origin: str, key: PublicKey) -> TreeHead:
    """
    Return what a checkpoint of this log says, once its signature verifies.

    Raises as `open_note` does; BAD_DATA_FORMAT also for text that is no checkpoint, NOT_AUTHORIZED for
    another log's.
    """
    lines = open_note(note, origin, key).split("\n")[:-1]
    if len(lines) < 3 or not all(lines):
        raise _malformed("a checkpoint has an origin, a size and a root")
    if lines[0] != origin:
        raise PKIError(ErrorType.NOT_AUTHORIZED, f"a checkpoint of {lines[0]}, not of {origin}")
    size, root = lines[1], _base64(lines[2])
    if not (size.isascii() and size.isdigit() and len(size) <= 19) or str(int(size)) != size:
        raise _malformed("a tree size that is not a decimal number")
    if len(root) != hashlib.sha256().digest_size or int(size) > MAX_TREE_SIZE:
        raise _malformed("a root that is not a SHA-256 hash, or an absurd size")
    return TreeHead(origin, int(size), root)


def _split(note: str) -> tuple[str, list[tuple[str, bytes]]]:
    if len(note) > MAX_SIZE or any(character < " " and character != "\n" for character in note):
        raise _malformed("a note that is too long, or holds control characters")
    text, separator, rest = note.rpartition("\n\n")
    lines = rest.split("\n")
    if not separator or lines.pop() or not 1 <= len(lines) <= MAX_SIGNATURES:
        raise _malformed("a note is text, a blank line and signature lines")
    return f"{text}\n", [_signature_line(line) for line in lines]


def _signature_line(line: str) -> tuple[str, bytes]:
    words = line.split(" ")
    if len(words) != 3 or words[0] != "\u2014" or not words[1] or "+" in words[1]:
        raise _malformed("a signature line is a dash, a key name and a signature")
    blob = _base64(words[2])
    if len(blob) < 5:
        raise _malformed("a signature line without a signature")
    return words[1], blob


def _base64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _malformed("not base64") from None
    if base64.b64encode(data).decode() != text:
        raise _malformed("base64 that is not canonical")
    return data


def _malformed(detail: str) -> PKIError:
    return PKIError(ErrorType.BAD_DATA_FORMAT, f"not a checkpoint: {detail}")
