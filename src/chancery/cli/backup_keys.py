"""Who can open a back-up: recipients and identities of the age format (X25519); its encryption, by `pyrage`."""

from __future__ import annotations

import contextlib
import importlib
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from chancery.errors import OperatorError
from chancery.offline.media import read_file

MAX_IDENTITIES = 64 * 1024


class Readable(Protocol):
    """A binary file to read from."""

    def read(self, size: int = -1, /) -> bytes: ...


class Writable(Protocol):
    """A binary file to write to."""

    def write(self, data: bytes, /) -> int: ...

    def flush(self) -> None: ...


def _age() -> Any:
    """Load the library when a back-up is at hand: no other command of the program needs it."""
    try:
        return importlib.import_module("pyrage")
    except ImportError as error:
        raise OperatorError(
            f"back-ups need pyrage: {error}", "install the packages of requirements.lock"
        ) from error


def recipients(texts: Sequence[str], files: Sequence[Path]) -> list[Any]:
    """Return the recipients (`age1…`), given or one a line in files. OperatorError for anything else."""
    lines = [*texts, *(line for path in files for line in path.read_text().splitlines())]
    wanted = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not wanted:
        raise OperatorError(
            "nobody could read this back-up", "give --recipient, made by `chancery backup identity`"
        )
    age = _age()
    try:
        return [age.x25519.Recipient.from_str(one) for one in dict.fromkeys(wanted)]
    except age.RecipientError as error:
        raise OperatorError(
            f"a recipient cannot be read: {error}", "give the line that begins with age1"
        ) from None


def identities(path: Path) -> list[Any]:
    """Return the identities in a file (a line each, `AGE-SECRET-KEY-1…`). OperatorError when it holds none."""
    text = read_file(path, MAX_IDENTITIES).decode(errors="replace")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise OperatorError(f"{path} can be read by others than its owner", f"run `chmod 600 {path}`")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    age = _age()
    try:
        found = [age.x25519.Identity.from_str(line) for line in lines]
    except age.IdentityError:
        found = []
    if not found:
        raise OperatorError(f"{path} holds no identity", "give the file that `chancery backup identity` made")
    return found


def new() -> tuple[str, str]:
    """Return a new (identity, recipient), as text."""
    made = _age().x25519.Identity.generate()
    return str(made), str(made.to_public())


class _Keeping:
    """A binary file that keeps what using it raised: of that the library tells a text alone, if anything."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.raised: BaseException | None = None

    def read(self, size: int = -1, /) -> bytes:
        return bytes(self._keep(self._file.read, size))

    def write(self, data: bytes, /) -> int:
        return int(self._keep(self._file.write, data))

    def flush(self) -> None:
        self._keep(self._file.flush)

    def _keep(self, call: Callable[..., Any], *given: Any) -> Any:
        try:
            return call(*given)
        except BaseException as error:
            self.raised = error
            raise


@contextlib.contextmanager
def _kept(source: Readable, target: Writable) -> Iterator[tuple[_Keeping, _Keeping]]:
    """Give the two files to the library; what using them raised is raised again in place of its words for it."""
    files = _Keeping(source), _Keeping(target)
    try:
        yield files
    except BaseException:
        for one in files:
            if one.raised is not None:
                raise one.raised from None
        raise


def encrypt(source: Readable, target: Writable, to: Sequence[Any]) -> None:
    """Encrypt `source` to its end for recipients; what `source` and `target` raise passes through."""
    with _kept(source, target) as files:
        _age().encrypt_io(*files, list(to))


def decrypt(source: Readable, target: Writable, keys: Sequence[Any]) -> None:
    """
    Decrypt `source` to its end; what `source` and `target` raise passes through.

    OperatorError when none of the identities opens it, or it was cut off or changed; `target` may have its
    beginning then.
    """
    age = _age()
    with _kept(source, target) as files:
        try:
            age.decrypt_io(*files, list(keys))
        except (age.DecryptError, OSError) as error:
            raise OperatorError(
                f"it cannot be opened: {error}", "give the identity of one of its recipients, or another copy"
            ) from error
