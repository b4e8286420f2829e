"""
The archive inside a back-up: POSIX ustar (IEEE Std 1003.1, pax, "ustar Interchange Format") in one spelling.

Members are plain files with nothing in their heads but name and size; a head is taken only when it is, octet for
octet, the one that is written here for that name and size. So there are no links, devices, long names or options
to be tricked by, and any `tar` reads it. The last member, `manifest.json`, says what the others are.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from chancery.errors import OperatorError

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)
MANIFEST: Final = "manifest.json"
DUMP: Final = "database/"
FILES: Final = "files/"
STATE: Final = "state/"
MAX_MEMBER: Final = 64 * 1024 * 1024
"""Octets of one member: a file, or a piece of the database dump."""
MAX_MEMBERS: Final = 200_000
_COMPONENT: Final = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9 ._@+:,=~#-]{1,255}\Z")
_WHAT: Final = "take the back-up from where it was written, or another one"


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file or directory: its path in the archive, permissions, its owner's name, and of a file its octets."""

    path: str
    kind: Literal["file", "directory"]
    mode: Annotated[int, msgspec.Meta(ge=0, le=0o777)]
    owner: str
    size: Annotated[int, msgspec.Meta(ge=0)] = 0
    sha256: str = ""


class Database(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The dump: rows of each table in the same snapshot, and where its cluster's transaction ids were."""

    tables: dict[str, int]
    xid: Annotated[int, msgspec.Meta(ge=0)]
    server: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a back-up holds; `checkpoint` is the journal's newest in the dump, `suite` tells of a whole state."""

    made_at: str
    version: str
    suite: bool
    database: Database | None
    checkpoint: str | None
    entries: tuple[Entry, ...]
    format: Literal[1] = 1


def head(name: str, size: int) -> bytes:
    """Return the one block that begins a member. OperatorError when the name does not fit or could do harm."""
    parts = name.split("/")
    if not all(_COMPONENT.match(part) for part in parts):
        raise OperatorError(f"{name!r} has a name that a back-up does not hold", "rename it, or leave it out")
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    try:
        return info.tobuf(tarfile.USTAR_FORMAT)
    except ValueError as error:
        raise OperatorError(f"{name}: {error}", "give it a shorter path") from None


def member(name: str, data: bytes) -> Iterator[bytes]:
    """Yield the octets of a member: head, data, and what fills the last block."""
    if len(data) > MAX_MEMBER:
        raise OperatorError(f"{name} is larger than {MAX_MEMBER} octets", "leave it out of the back-up")
    yield head(name, len(data))
    yield data
    yield bytes(-len(data) % BLOCK)


class Packer:
    """Makes the members of one archive: of each name one, and no more than are read again."""

    def __init__(self, limit: int = MAX_MEMBERS) -> None:
        self._limit = limit
        self._names: set[str] = set()

    def member(self, name: str, data: bytes) -> Iterator[bytes]:
        """Yield the octets of a member. OperatorError for a name twice, one too many, and as `member`."""
        if name in self._names:
            raise OperatorError(f"{name} would stand in the back-up twice", "give each path once")
        if len(self._names) >= self._limit:
            raise OperatorError(f"there are more than {self._limit} files", "make several back-ups of them")
        self._names.add(name)
        yield from member(name, data)


class Pull:
    """A binary file to read from, made of pieces that are there when they are asked for."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` octets; none at the end."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = memoryview(piece)
        taken = self._rest if size < 0 else self._rest[:size]
        self._rest = self._rest[len(taken) :]
        return bytes(taken)


class Unpacker:
    """
    A binary file to write an archive to: hands each member over whole, in order, to `take(name, data)`.

    Raises OperatorError for anything but an archive as it is written here, of at most `limit` octets.
    """

    def __init__(self, take: Callable[[str, bytes], None], limit: int) -> None:
        self._take = take
        self._left = limit
        self._held = bytearray()
        self._wants: tuple[str, int] | None = None
        self._names: set[str] = set()
        self._ended = False

    def write(self, data: bytes) -> int:
        """Take what comes next."""
        self._left -= len(data)
        if self._left < 0:
            raise OperatorError("the back-up is larger than the limit", "raise it with --max-gib")
        self._held += data
        while self._step():
            pass
        return len(data)

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Raise OperatorError unless the archive came to its end."""
        if not self._ended or self._held:
            raise _strange("it does not end where it should")

    def _step(self) -> bool:
        """Take one head or one member off what is held; tell whether there was one."""
        if self._ended:
            if self._held:
                raise _strange("something follows its end")
            return False
        if self._wants is None:
            if self._held[:BLOCK] == END[:BLOCK]:
                return self._end()
            if len(self._held) < BLOCK:
                return False
            self._wants = self._head(bytes(self._held[:BLOCK]))
            del self._held[:BLOCK]
        name, size = self._wants
        whole = size + -size % BLOCK
        if len(self._held) < whole:
            return False
        if any(self._held[size:whole]):
            raise _strange(f"{name} is not filled with zeros")
        self._take(name, bytes(self._held[:size]))
        del self._held[:whole]
        self._wants = None
        return True

    def _end(self) -> bool:
        if len(self._held) < len(END):
            return False
        self._ended = self._held[: len(END)] == END
        if not self._ended:
            raise _strange("an empty head")
        del self._held[: len(END)]
        return True

    def _head(self, block: bytes) -> tuple[str, int]:
        try:
            info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
            as_written = head(info.name, info.size) == block
        except (tarfile.HeaderError, UnicodeError):
            raise _strange("a head that cannot be read") from None
        if not as_written or info.size > MAX_MEMBER:
            raise _strange(f"{info.name!r} is not a plain file of a back-up")
        if info.name in self._names or len(self._names) >= MAX_MEMBERS:
            raise _strange(f"{info.name!r} stands in it twice, or is one too many")
        self._names.add(info.name)
        return info.name, info.size


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an OSError of writing to an open file, such as a full disk's, the path that it is about."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def check(manifest: Manifest, found: dict[str, tuple[int, str]], dump: tuple[int, str]) -> None:
    """
    Compare what was unpacked, size and SHA-256 (hex) by path, with the manifest. OperatorError when it differs.

    `dump` is that of the database's pieces together.
    """
    told = {one.path: (one.size, one.sha256) for one in manifest.entries if one.kind == "file"}
    if told != found:
        names = sorted(name for name in {*told, *found} if told.get(name) != found.get(name))
        raise _strange(f"{names[0]} is not as the manifest says")
    for one in manifest.entries:
        head(one.path, 0)
        if not one.path.startswith((FILES, STATE)):
            raise _strange(f"{one.path} belongs to nothing")
    of_database = manifest.database
    expected = (of_database.size, of_database.sha256) if of_database else (0, hashlib.sha256().hexdigest())
    if dump != expected:
        raise _strange("the database is not as the manifest says")


def decode_manifest(data: bytes) -> Manifest:
    """Return the manifest of its JSON text; OperatorError for anything else."""
    try:
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise _strange(f"its manifest: {error}") from None


def _strange(what: str) -> OperatorError:
    return OperatorError(f"this is no back-up of this suite: {what}", _WHAT)
