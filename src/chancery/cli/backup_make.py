"""
Making a back-up: files read where no link leads elsewhere, the database from one snapshot, all of it encrypted.

Nothing of it is written in the clear on the way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import os
import pwd
import stat
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec

from chancery.cli import backup_archive as archive
from chancery.cli import backup_keys
from chancery.cli.layout import Layout
from chancery.errors import OperatorError
from chancery.postgres import dump
from chancery.postgres.session import Connection

_OF_STATE = ("suite.toml", "conf", "tokens", "secrets", "pki", "offline", "admin", "tls")
_OF_WORKER = ("checkpoint", "checkpoint.tree")
_WENT = "it went away meanwhile"


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """What goes into a back-up: a database (None: none), whole installation or not, and further paths."""

    database: Connection | None
    place: Layout | None
    include: tuple[Path, ...]
    programs: Path | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    """A written back-up: octets and SHA-256 (hex) of the file, what it holds, what was left out and why."""

    size: int
    sha256: str
    manifest: archive.Manifest
    left_out: tuple[str, ...]


def make(wanted: Wanted, out: Path, to: Sequence[Any], at: datetime.datetime, version: str) -> Made:
    """
    Write a back-up to `out`, whole or not at all, for the recipients alone; durable on return.

    Raises OperatorError when something cannot be read or written, and as `dump`.
    """
    if out.exists():
        raise OperatorError(f"{out} exists", "give another name: a back-up is never written over")
    temporary = out.with_name(f".{out.name}.{os.urandom(8).hex()}")
    writing = Writing(wanted, at, version)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            hashed = _Hashed(file, out)
            with contextlib.closing(writing.pieces()) as pieces:
                backup_keys.encrypt(archive.Pull(pieces), hashed, to)
            hashed.flush()
            os.fsync(descriptor)
        # Not `replace`: what is there meanwhile is somebody's back-up.
        os.link(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    assert writing.manifest is not None
    return Made(hashed.size, hashed.hash.hexdigest(), writing.manifest, tuple(writing.left_out))


class _Hashed:
    """A binary file to write to that knows size and hash of what went through."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path = file, path
        self.hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self.size += len(data)
        with archive.naming(self._path):
            return self._file.write(data)

    def flush(self) -> None:
        with archive.naming(self._path):
            self._file.flush()


class Writing:
    """The members of one archive, in order; `manifest` and `left_out` are known when they are through."""

    def __init__(self, wanted: Wanted, at: datetime.datetime, version: str) -> None:
        self._wanted, self._at, self._version = wanted, at, version
        self.manifest: archive.Manifest | None = None
        self.left_out: list[str] = []
        self._entries: list[archive.Entry] = []
        self._packer = archive.Packer()

    def pieces(self) -> Generator[bytes]:
        """Yield the archive. The files come first: a checkpoint among them is never newer than the database."""
        for path, name in self._roots():
            yield from self._walk(path, name)
        database, checkpoint = None, None
        if self._wanted.database is not None:
            with dump.snapshot(self._wanted.database) as snapshot:
                checkpoint = snapshot.checkpoint
                size, sha256 = yield from self._dumped(snapshot)
            database = archive.Database(dict(snapshot.tables), snapshot.xid, snapshot.server, size, sha256)
        self.manifest = archive.Manifest(
            made_at=self._at.isoformat(),
            version=self._version,
            suite=self._wanted.place is not None,
            database=database,
            checkpoint=checkpoint,
            entries=tuple(self._entries),
        )
        text = msgspec.json.format(msgspec.json.encode(self.manifest, order="sorted"), indent=1)
        yield from self._packer.member(archive.MANIFEST, text)
        yield archive.END

    def _roots(self) -> Iterator[tuple[Path, str]]:
        if (place := self._wanted.place) is not None:
            of_run = [f"run/worker/{name}" for name in _OF_WORKER]
            for name in (*_OF_STATE, *of_run, f"run/{place.imported.name}"):
                if _is_there(place.state / name):
                    yield place.state / name, archive.STATE + name
        for path in self._wanted.include:
            if not path.exists():
                raise OperatorError(f"{path} does not exist", "correct --include")
            yield path, archive.FILES + str(path.absolute()).lstrip("/")

    def _dumped(self, snapshot: dump.Snapshot) -> Generator[bytes, None, tuple[int, str]]:
        assert self._wanted.database is not None
        digest, size = hashlib.sha256(), 0
        for number, piece in enumerate(dump.dump(self._wanted.database, snapshot, self._wanted.programs)):
            digest.update(piece)
            size += len(piece)
            yield from self._packer.member(f"{archive.DUMP}{number:06}", piece)
        return size, digest.hexdigest()

    def _walk(self, path: Path, name: str) -> Iterator[bytes]:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield from self._any(parent, path.name, name)
        finally:
            os.close(parent)

    def _any(self, parent: int, own: str, name: str) -> Iterator[bytes]:
        """Yield what stands at a name in a directory; what is left out, such as links and devices, is said."""
        descriptor = self._opened(parent, own, name)
        if descriptor is None:
            return
        try:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                self._entries.append(_entry(name, status, None))
                for inner in self._inner(descriptor, name):
                    yield from self._any(descriptor, inner, f"{name}/{inner}")
            elif stat.S_ISREG(status.st_mode):
                with os.fdopen(descriptor, "rb", closefd=False) as file:
                    data = file.read(archive.MAX_MEMBER + 1)
                self._entries.append(_entry(name, status, data))
                yield from self._packer.member(name, data)
            else:
                self.left_out.append(f"{name}: no plain file")
        finally:
            os.close(descriptor)

    def _opened(self, parent: int, own: str, name: str) -> int | None:
        """Return a descriptor of one plain file or directory; None when it is neither, or went away meanwhile."""
        try:
            found = os.stat(own, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
                # The directory may be another account's, which could put a link there now.
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                return os.open(own, flags, dir_fd=parent)
            self.left_out.append(f"{name}: no plain file")
        except FileNotFoundError:
            self.left_out.append(f"{name}: {_WENT}")
        return None

    def _inner(self, descriptor: int, name: str) -> list[str]:
        try:
            return sorted(os.listdir(descriptor))
        except FileNotFoundError:
            self.left_out.append(f"{name}: {_WENT}")
            return []


def _is_there(path: Path) -> bool:
    """Tell whether something stands there; OSError when that cannot be told (`exists` would say no)."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _entry(name: str, status: os.stat_result, data: bytes | None) -> archive.Entry:
    """Return the manifest's line of a file, or of a directory (`data` None)."""
    archive.head(name, 0)
    mode, owner = stat.S_IMODE(status.st_mode) & 0o777, _owner(status.st_uid)
    if data is None:
        return archive.Entry(name, "directory", mode, owner)
    return archive.Entry(name, "file", mode, owner, len(data), hashlib.sha256(data).hexdigest())


def _owner(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
