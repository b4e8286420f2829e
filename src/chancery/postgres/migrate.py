"""Numbered migrations: forward only, each in one transaction, never edited."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from chancery.errors import OperatorError
from chancery.postgres.session import Connection, PgConnection, connect, translated

_FOLDER = Path(__file__).parent
_LOCK = 0x43485700
_UNUSED = frozenset({10, 11, 12})
"""Numbers that were reserved and never given: any other that is missing is a file that got lost."""

_TABLE = b"""
CREATE TABLE IF NOT EXISTS public.chancery_migration (
    number      integer PRIMARY KEY,
    name        text NOT NULL,
    sha256      bytea NOT NULL CHECK (octet_length(sha256) = 32),
    applied_at  timestamptz NOT NULL
)"""


@dataclasses.dataclass(frozen=True, slots=True)
class Migration:
    """One file `NNNN_name.sql`."""

    number: int
    name: str
    text: bytes

    @property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.text).digest()

    def __str__(self) -> str:
        return f"{self.number:04d}_{self.name}"


def migrations(folder: Path = _FOLDER / "migrations") -> list[Migration]:
    """Return the migrations of a folder by number. OperatorError when a name or the order is wrong."""
    found: list[Migration] = []
    for path in sorted(folder.glob("*.sql")):
        match = re.fullmatch(r"(\d{4})_([a-z0-9_]+)\.sql", path.name)
        expected = found[-1].number + 1 if found else 1
        number = 0 if match is None else int(match[1])
        while expected in _UNUSED and expected < number:
            expected += 1
        if match is None or number != expected:
            raise OperatorError(f"{path} is not the next migration", "reinstall the package")
        found.append(Migration(number, match[2], path.read_bytes()))
    return found


def migrate(
    connection: Connection, *, at: datetime.datetime, found: Sequence[Migration] | None = None
) -> list[str]:
    """
    Bring the schema up to date as `chancery_owner`, then set every grant; return the names newly applied.

    Idempotent; one at a time. Raises OperatorError when an applied migration is unknown here or its file
    has changed, and PKIError(SYSTEM_UNAVAIL) when the database is away or a lock or a statement takes
    too long; then nothing of that migration happened.
    """
    found = migrations() if found is None else found
    # A table's rewrite may take minutes; a lock that is not had in seconds would stop the running processes.
    settings = dataclasses.replace(connection, application_name="chancery migrate", statement_timeout=900.0)
    with translated(), connect(settings) as owner:
        owner.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        owner.execute(_TABLE)
        new = _new(owner, found)
        for migration in new:
            with owner.transaction():
                owner.execute(migration.text)
                owner.execute(
                    "INSERT INTO public.chancery_migration (number, name, sha256, applied_at)"
                    " VALUES (%s, %s, %s, %s)",
                    (migration.number, migration.name, migration.sha256, at),
                )
        with owner.transaction():
            owner.execute((_FOLDER / "roles.sql").read_bytes())
    return [str(one) for one in new]


def pending(connection: Connection) -> list[str]:
    """Return the names of the migrations that `migrate` would apply. Errors as `migrate`."""
    found = migrations()
    with translated(), connect(connection) as owner:
        row = owner.execute("SELECT to_regclass('public.chancery_migration')").fetchone()
        return [str(one) for one in (found if row is None or row[0] is None else _new(owner, found))]


def _new(owner: PgConnection, found: Sequence[Migration]) -> list[Migration]:
    """Return what is not applied yet, having checked that what is applied is what stands here."""
    rows = owner.execute("SELECT number, sha256 FROM public.chancery_migration ORDER BY number").fetchall()
    applied = {int(number): bytes(digest) for number, digest in rows}
    if unknown := applied.keys() - {one.number for one in found}:
        raise OperatorError(
            f"the database has migration {min(unknown):04d}, which this release does not know",
            "install the release that applied it",
        )
    if changed := [one for one in found if applied.get(one.number, one.sha256) != one.sha256]:
        raise OperatorError(
            f"migration {changed[0]} is not the one that was applied",
            "install the release whose migrations this database has",
        )
    return [one for one in found if one.number not in applied]
