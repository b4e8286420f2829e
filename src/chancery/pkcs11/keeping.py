"""
SoftHSM's tokens kept whole: a copy of each `token.object` for as long as a login may rewrite it.

SoftHSM 2.6 rewrites that file at every login, and truncates it first. A process that is killed in between leaves
it empty, and every key of the token is lost with it: it holds what the keys are encrypted under.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_OBJECT, _COPY, _UNFINISHED = "token.object", "token.object.kept", "token.object.kept.new"


@contextlib.contextmanager
def kept_whole(conf: Path) -> Iterator[None]:
    """
    Mend what an earlier holder of the login lock left behind, and keep copies while the block lasts.

    The caller holds the lock of `conf`, a softhsm2.conf(5). Raises OSError when a copy cannot be made: on a full
    disk the login would cost the token. A token that is not there is none of this function's business.
    """
    found = list(_tokens(conf))
    for token in found:
        with contextlib.suppress(FileNotFoundError):
            _settle(token)
        with contextlib.suppress(FileNotFoundError):
            _copy(token)
    try:
        yield
    finally:
        for token in found:
            with contextlib.suppress(FileNotFoundError):
                _settle(token)


def _tokens(conf: Path) -> Iterator[Path]:
    """The directory of each token, as the configuration says."""
    for line in conf.read_text(errors="replace").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "directories.tokendir":
            yield from (path.parent for path in Path(value.strip()).glob(f"*/{_OBJECT}"))


def _copy(token: Path) -> None:
    status, content = (token / _OBJECT).stat(), (token / _OBJECT).read_bytes()
    if not any(content):
        return
    unfinished = token / _UNFINISHED
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        if os.geteuid() == 0:  # the owner must be able to mend its token
            os.fchown(descriptor, status.st_uid, status.st_gid)
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    unfinished.replace(token / _COPY)
    _sync(token)


def _settle(token: Path) -> None:
    """Put the copy in the place of a file that was cut off; else make the file durable and drop the copy."""
    copy, current = token / _COPY, token / _OBJECT
    kept, content = copy.read_bytes(), current.read_bytes()
    # A login changes flags, a new PIN its own octets: the length stays.
    if len(content) < len(kept) or not any(content):
        copy.replace(current)
    else:
        _sync(current)
        copy.unlink()
    _sync(token)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
