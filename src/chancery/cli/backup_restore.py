"""
Reading a back-up: unpacked into a new directory, compared with its manifest, and only then put to use.

Whoever knows a recipient can write a file that opens, so a back-up is no more to be trusted than the place it
comes from: its SHA-256, printed and journalled when it was made, says whether it is the one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import os
import pwd
import secrets  # noqa: TID251 - passwords of a scratch cluster, in the composition root
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from chancery.audit.note import open_checkpoint
from chancery.audit.verify import Audit, verify
from chancery.cli import audit as journal
from chancery.cli import backup_archive as archive
from chancery.cli import backup_keys
from chancery.cli.backup_archive import Manifest
from chancery.config import AuditorConfig
from chancery.errors import OperatorError
from chancery.postgres import dump
from chancery.postgres.embedded import EmbeddedPostgres
from chancery.postgres.journal import PgJournalStore
from chancery.postgres.migrate import migrate
from chancery.postgres.roles import DATABASE, ROLES, create_roles
from chancery.postgres.session import Connection, Session

SCRATCH = {"fsync": "off", "full_page_writes": "off", "max_connections": "20", "shared_buffers": "64MB"}
"""Settings of a cluster that is thrown away."""


@dataclasses.dataclass(frozen=True, slots=True)
class Unpacked:
    """A back-up in `folder`: its files below `state/` and `files/`, and the dump of its database."""

    folder: Path
    manifest: Manifest

    @property
    def dump(self) -> Path:
        return self.folder / "database.dump"


@contextlib.contextmanager
def unpacked(file: Path, keys: Sequence[Any], below: Path, limit: int, sha256: str | None) -> Iterator[Unpacked]:
    """
    Unpack a back-up into a new directory `below`, which is gone afterwards.

    `limit` is in octets; `sha256` (hex) what the file has to be. Raises OperatorError for anything else than a
    whole back-up for one of `keys`, as its manifest says it is.
    """
    with tempfile.TemporaryDirectory(prefix=".chancery-", dir=below) as name:
        taking = _Taking(Path(name))
        _compare(file, sha256)
        unpacker = archive.Unpacker(taking.take, limit)
        with file.open("rb") as source:
            backup_keys.decrypt(source, unpacker, keys)
        unpacker.close()
        yield Unpacked(Path(name), taking.finish())


def _compare(file: Path, sha256: str | None) -> None:
    if sha256 is None:
        return
    with file.open("rb") as source:
        found = hashlib.file_digest(source, "sha256").hexdigest()
    if found != sha256.lower():
        raise OperatorError(f"{file} has the SHA-256 {found}", "find the file that was written, or who changed it")


class _Taking:
    """Puts members where they belong, in a directory that was empty: nothing leads out of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._found: dict[str, tuple[int, str]] = {}
        self._dump = hashlib.sha256()
        self._size = 0
        self._manifest: Manifest | None = None

    def take(self, name: str, data: bytes) -> None:
        """Write one member. OperatorError for one that has no place, OSError when the disk is full."""
        with archive.naming(self._folder.parent):
            self._take(name, data)

    def _take(self, name: str, data: bytes) -> None:
        if self._manifest is not None:
            raise OperatorError("something follows the manifest of this back-up", "take another one")
        if name == archive.MANIFEST:
            self._manifest = archive.decode_manifest(data)
        elif name.startswith(archive.DUMP):
            with (self._folder / "database.dump").open("ab") as file:
                file.write(data)
            self._dump.update(data)
            self._size += len(data)
        elif name.startswith((archive.FILES, archive.STATE)):
            path = self._folder / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_new(path, data)
            self._found[name] = (len(data), hashlib.sha256(data).hexdigest())
        else:
            raise OperatorError(f"{name} in this back-up belongs to nothing", "take another one")

    def finish(self) -> Manifest:
        """Return the manifest; OperatorError unless everything is as it says."""
        if self._manifest is None:
            raise OperatorError("this back-up has no manifest", "take another one: this one is cut off")
        archive.check(self._manifest, self._found, (self._size, self._dump.hexdigest()))
        return self._manifest


def write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there yet, for this account alone; durable on return."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def settle(found: Unpacked) -> list[str]:
    """
    Give the unpacked files and directories their permissions and owners; return whose accounts are not here.

    Only accounts of this suite, and our own, are given anything. Deepest first: a directory is closed last.
    """
    missing = set()
    for one in sorted(found.manifest.entries, key=lambda one: one.path, reverse=True):
        path = found.folder / one.path
        path.mkdir(mode=0o700, parents=True, exist_ok=True) if one.kind == "directory" else None
        path.chmod(one.mode)
        if os.geteuid() != 0 or not one.owner.startswith("chancery-"):
            continue
        try:
            account = pwd.getpwnam(one.owner)
        except KeyError:
            missing.add(one.owner)
            continue
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
    return sorted(missing)


def restore_database(
    found: Unpacked, owner: Connection, at: datetime.datetime, programs: Path | None
) -> list[str]:
    """
    Read the dump into an empty database as its owner and bring its schema up to date; return migrations applied.

    Raises OperatorError when the database or the dump is not fit, or a table has other rows than it had.
    """
    database = found.manifest.database
    if database is None:
        raise OperatorError("this back-up holds no database", "give one that does")
    dump.check_empty(owner, database.xid)
    dump.restore(owner, found.dump, programs)
    if (rows := dump.rows_of(owner)) != database.tables:
        names = sorted(name for name in {*rows, *database.tables} if rows.get(name) != database.tables.get(name))
        name = names[0]
        raise OperatorError(
            f"{name} has {rows.get(name)} rows and had {database.tables.get(name)}", "restore another back-up"
        )
    return migrate(owner, at=at)


def judge(found: Unpacked, auditor: Connection, config: AuditorConfig) -> Audit:
    """Verify the restored journal, under a key and an origin that do not come from the back-up."""
    key = journal.public_key(config.journal_key)
    note = found.manifest.checkpoint
    heads = [open_checkpoint(note, config.origin, key)] if note is not None else []
    session = Session(auditor)
    try:
        at = datetime.datetime.fromisoformat(found.manifest.made_at)
        return verify(PgJournalStore(session), config.origin, key, at, remembered=heads)
    finally:
        session.close()


@contextlib.contextmanager
def scratch(xid: int) -> Iterator[EmbeddedPostgres]:
    """Run a PostgreSQL of its own while the block lasts, with the suite's roles and passwords of the moment."""
    with tempfile.TemporaryDirectory(prefix="chancery-scratch-") as name:
        Path(name).chmod(0o711)
        server = EmbeddedPostgres(Path(name) / "db", SCRATCH)
        dump.move_ahead(server, xid)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def verify_backup(found: Unpacked, config: AuditorConfig, programs: Path | None) -> Audit:
    """Restore into a scratch cluster and verify the journal there; OperatorError as `restore_database`."""
    database = found.manifest.database
    if database is None:
        raise OperatorError("this back-up holds no database to verify", "give one that does")
    passwords = {role: secrets.token_hex(24).encode() for role in ROLES}
    with scratch(database.xid) as server:
        create_roles(server.superuser, passwords)

        def role(name: str) -> Connection:
            return Connection(server.host, server.port, DATABASE, name, password=lambda: passwords[name])

        restore_database(
            found, role("chancery_owner"), datetime.datetime.fromisoformat(found.manifest.made_at), programs
        )
        return judge(found, role("chancery_auditor"), config)
