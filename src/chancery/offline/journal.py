"""
The offline CA's journal: a file of hash-linked lines, appended and never changed.

Each line is canonical JSON `{"number", "previous", "record"}` and one transaction: `previous` is the
SHA-256 of the line before, sixty-four zeros in the first. A crash in the middle of an append leaves a
torn last line, which was never in effect: it is set aside. Anything else that is wrong stops everything.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

import msgspec

from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.offline.bundle import SHA256Hex, canonical, sha256
from chancery.offline.records import Record

FILE = "journal.jsonl"
START = "0" * 64
_ADVICE = "keep the directory as it is, and restore the last copy whose head the installation's bundles name"


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    number: Annotated[int, msgspec.Meta(ge=1)]
    previous: SHA256Hex
    record: Record


class Journal:
    """
    The open journal of one directory, locked against every other process.

    `records` holds what was read at opening; `head` and `length` say where the journal stands;
    `set_aside` names the file that holds a torn last line, if there was one.
    """

    def __init__(self, directory: Path, *, create: bool = False) -> None:
        """
        Open the journal in `directory` (made, with mode 0700, when `create`), lock and read it.

        Raises OperatorError when it is missing, already there, locked, or not what was written.
        """
        self.path = directory / FILE
        self.head = START
        self.length = 0
        self.set_aside: Path | None = None
        self._broken = False
        self._file = _create(directory, self.path) if create else _open(self.path)
        try:
            _lock(self._file, self.path)
            self.records: tuple[Record, ...] = tuple(self._read())
            # A line that was read is in effect from now on, so it must be durable from now on.
            os.fsync(self._file)
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and with it the lock; nothing is pending, for every append was synced. Idempotent."""
        self._broken = True
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def append(self, record: Record) -> None:
        """
        Add one line; when this returns it is durable.

        Raises PKIError(SYSTEM_UNAVAIL) when the disk failed: then nobody knows whether the line is there,
        and the journal takes no other until it is opened again.
        """
        if self._broken:
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the offline journal has to be opened again")
        line = canonical(_Line(number=self.length + 1, previous=self.head, record=record))
        self._broken = True
        try:
            _write_all(self._file, line + b"\n")
            os.fsync(self._file)
        except OSError as error:
            raise PKIError(
                ErrorType.SYSTEM_UNAVAIL, f"the offline journal cannot be written: {error.strerror}"
            ) from error
        self._broken = False
        self.head, self.length = sha256(line), self.length + 1

    def _read(self) -> Iterator[Record]:
        *lines, rest = self.path.read_bytes().split(b"\n")
        # A line of several pages may reach the disk with its end but without its middle, as zeros.
        torn = rest or (lines.pop() if lines and b"\0" in lines[-1] else b"")
        if torn:
            self._put_aside(torn, sum(len(line) + 1 for line in lines))
        for line in lines:
            yield self._check(line)
            self.head, self.length = sha256(line), self.length + 1

    def lines(self) -> tuple[bytes, ...]:
        """Return every line as it is on the disk, each without its end."""
        return tuple(self.path.read_bytes().splitlines())

    def _check(self, line: bytes) -> Record:
        try:
            return read_line(line, self.length + 1, self.head)
        except PKIError as error:
            raise OperatorError(f"{self.path}, {error.detail}", _ADVICE) from None

    def _put_aside(self, torn: bytes, keep: int) -> None:
        """Copy the torn line beside the journal, durably, before cutting it off."""
        number = 1
        while (aside := self.path.with_suffix(f".torn-{number}")).exists():
            number += 1
        file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _write_all(file, torn)
            os.fsync(file)
        finally:
            os.close(file)
        _sync_directory(self.path.parent)
        os.ftruncate(self._file, keep)
        os.fsync(self._file)
        self.set_aside = aside


def heads(lines: Sequence[Record]) -> list[str]:
    """Return the journal's head after each of its lines, from the first on."""
    found: list[str] = []
    for number, record in enumerate(lines, 1):
        previous = found[-1] if found else START
        found.append(sha256(canonical(_Line(number=number, previous=previous, record=record))))
    return found


def read_line(line: bytes, number: int, previous: str) -> Record:
    """
    Return the record of a line that is number `number` and follows the one with the SHA-256 `previous`.

    Raises PKIError(BAD_DATA_FORMAT) for any other line.
    """
    try:
        decoded = msgspec.json.decode(line, type=_Line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PKIError(ErrorType.BAD_DATA_FORMAT, f"line {number} cannot be read: {error}") from None
    if canonical(decoded) != line:
        raise PKIError(ErrorType.BAD_DATA_FORMAT, f"line {number} is not as it was written")
    if (decoded.number, decoded.previous) != (number, previous):
        raise PKIError(ErrorType.BAD_DATA_FORMAT, f"line {number} does not continue the line before it")
    return decoded.record


def _create(directory: Path, path: Path) -> int:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise OperatorError(f"{path} exists already", "give a directory without an offline CA") from error
    except OSError as error:
        raise OperatorError(
            f"{path} cannot be made: {error.strerror}", "give a directory you may write"
        ) from error
    _sync_directory(directory)
    _sync_directory(directory.parent)
    return file


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise OperatorError(
            f"{path} does not exist", "run `chancery offline init` once for this directory"
        ) from error
    except OSError as error:
        raise OperatorError(
            f"{path} cannot be opened: {error.strerror}", "run as the owner of the directory"
        ) from error


def _lock(file: int, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise OperatorError(f"another process works in {path.parent}", "wait until it has finished") from error


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _sync_directory(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
