"""
Files on carried media: read with a limit, and only where they are plain files; written whole or not at all.

Nothing that a bundle says ever becomes part of a path.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from chancery.errors import OperatorError
from chancery.offline.bundle import MAX_SIZE


def read_file(path: Path, limit: int = MAX_SIZE) -> bytes:
    """
    Return the octets of a plain file of at most `limit` octets.

    OperatorError for a link, a device, a pipe, a directory, or what is larger.
    """
    try:
        # Without O_NONBLOCK a pipe on the medium would hold the ceremony up for ever.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise OperatorError(f"{path} cannot be opened: {error.strerror}", "give a plain file") from error
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OperatorError(f"{path} is not a plain file", "give the file itself")
        with os.fdopen(file, "rb", closefd=False) as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise OperatorError(f"{path} cannot be read: {error.strerror}", "try another medium") from error
    finally:
        os.close(file)
    if len(data) > limit:
        raise OperatorError(f"{path} is larger than {limit} octets", "give a bundle, not something else")
    return data


def write_file(path: Path, data: bytes) -> None:
    """
    Write a file that all may read, in place of the one before; durable on return.

    OperatorError when the disk refuses, or the path is a link or no plain file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise OperatorError(f"{path} is a link, or no plain file", "give another name")
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(file, "wb") as stream:
            # Public by nature: certificates, CRLs, signed bundles.
            os.fchmod(file, 0o644)
            stream.write(data)
            stream.flush()
            os.fsync(file)
        temporary.replace(path)
    except OSError as error:
        raise OperatorError(
            f"{path} cannot be written: {error.strerror}", "give a file that may be written"
        ) from error
