"""
The last checkpoint seen, kept in a file outside the database; and beside it, now and then, the tree that it is of.

Whoever can rewrite the database can cut its newest rows off, checkpoints included, and everything that is
left is consistent. It no longer continues the checkpoint in this file (R30).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from chancery.asn1.signature import PublicKey
from chancery.audit.merkle import CompactRange
from chancery.audit.note import MAX_SIZE, TreeHead, open_checkpoint
from chancery.errors import OperatorError, PKIError


class CheckpointFile:
    """
    One signed checkpoint in a file, replaced as a whole and durable; for one writer.

    In a second file, `.tree` after the name of the first, stand the roots of a tree's perfect subtrees and a
    checkpoint of that tree: they prove each other, so the file needs no more trust than the key.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree_path = path.with_name(f"{path.name}.tree")

    def read(self, origin: str, key: PublicKey) -> TreeHead | None:
        """
        Return what the remembered checkpoint says, or None when nothing was remembered yet.

        Raises OperatorError when the file cannot be read or holds anything but a checkpoint of this log.
        """
        try:
            with self.path.open("rb") as file:
                note = file.read(MAX_SIZE + 1).decode()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise OperatorError(
                f"{self.path} cannot be read: {error}", "give the file that was remembered"
            ) from error
        try:
            return open_checkpoint(note, origin, key)
        except PKIError as error:
            raise OperatorError(
                f"{self.path} is not a checkpoint of {origin} under the given key: {error.detail}",
                "give the file and the public key of the same journal",
            ) from error

    def read_tree(self, origin: str, key: PublicKey) -> CompactRange | None:
        """Return the tree that was kept; None when there is none, or none of this log."""
        with contextlib.suppress(OSError, ValueError, PKIError):
            with self.tree_path.open("rb") as file:
                peaks, _, note = file.read(MAX_SIZE + 1).decode().partition("\n\n")
            head = open_checkpoint(note, origin, key)
            tree = CompactRange(head.size, map(bytes.fromhex, peaks.split()))
            if tree.root() == head.root:
                return tree
        return None

    def write_tree(self, tree: CompactRange, note: str) -> None:
        """Keep a tree with a checkpoint of it. Raises OperatorError when the disk refuses."""
        _replace(self.tree_path, "\n".join(peak.hex() for peak in tree.peaks) + "\n\n" + note)

    def write(self, note: str) -> None:
        """Remember this checkpoint in place of the one before. Raises OperatorError when the disk refuses."""
        _replace(self.path, note)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(file, "wb") as stream:
            # Nothing in it is secret, and an auditor who is somebody else reads it.
            os.fchmod(file, 0o644)
            stream.write(text.encode())
            stream.flush()
            os.fsync(file)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise OperatorError(
            f"{path} cannot be written: {error.strerror}", "give a file in a directory you may write"
        ) from error


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
