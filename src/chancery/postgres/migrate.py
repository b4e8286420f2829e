"""Roles, the database, and its numbered migrations: forward only, each in one transaction, never edited."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import psycopg
from psycopg import sql

from chancery.errors import OperatorError
from chancery.postgres.session import Connection, Database, connect, translated

ROLES = ("owner", "ra", "worker", "ocsp", "tsa", "auditor")
DATABASE = "chancery"
_FOLDER = Path(__file__).parent
_LOCK = 0x43485700

_TABLE = b"""
CREATE TABLE IF NOT EXISTS chancery_migration (
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


def role_name(role: str) -> str:
    """Return the PostgreSQL name of one of `ROLES`."""
    return f"chancery_{role}"


def migrations(folder: Path = _FOLDER / "migrations") -> list[Migration]:
    """Return the migrations of a folder by number. OperatorError when a name or a sequence is wrong."""
    found: list[Migration] = []
    for path in sorted(folder.glob("*.sql")):
        match = re.fullmatch(r"(\d{4})_([a-z0-9_]+)\.sql", path.name)
        if match is None or int(match[1]) != len(found) + 1:
            raise OperatorError(f"{path} is not the next migration", "reinstall the package")
        found.append(Migration(int(match[1]), match[2], path.read_bytes()))
    return found


def migrate(owner: Database, at: datetime.datetime, found: list[Migration] | None = None) -> list[str]:
    """
    Bring the schema up to date as `chancery_owner`, then set every grant; return the names newly applied.

    Idempotent; one at a time. Raises OperatorError when an applied migration's file has changed, and
    PKIError(SYSTEM_UNAVAIL) when the database is away or a lock is not free within the lock timeout.
    """
    found = migrations() if found is None else found
    with translated(), connect(dataclasses.replace(owner, statement_timeout=0)) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        connection.execute(b"SET client_min_messages = warning")
        connection.execute(_TABLE)
        rows = connection.execute("SELECT number, sha256 FROM chancery_migration").fetchall()
        applied = {int(number): bytes(digest) for number, digest in rows}
        changed = [one for one in found if applied.get(one.number, one.sha256) != one.sha256]
        if changed:
            raise OperatorError(
                f"migration {changed[0].number:04d}_{changed[0].name} is not the one that was applied",
                "install the release whose migrations this database has",
            )
        new = [one for one in found if one.number not in applied]
        for migration in new:
            _apply(connection, migration, at)
        with connection.transaction():
            connection.execute((_FOLDER / "roles.sql").read_bytes())
    return [f"{one.number:04d}_{one.name}" for one in new]


def _apply(connection: Connection, migration: Migration, at: datetime.datetime) -> None:
    with connection.transaction():
        connection.execute(migration.text)
        connection.execute(
            "INSERT INTO chancery_migration (number, name, sha256, applied_at) VALUES (%s, %s, %s, %s)",
            (migration.number, migration.name, migration.sha256, at),
        )


def pending(owner: Database) -> list[str]:
    """Return the names of the migrations that `migrate` would apply."""
    with translated(), connect(owner) as connection:
        row = connection.execute("SELECT to_regclass('chancery_migration')").fetchone()
        if row is None or row[0] is None:
            return [f"{one.number:04d}_{one.name}" for one in migrations()]
        applied = {row[0] for row in connection.execute("SELECT number FROM chancery_migration")}
    return [f"{one.number:04d}_{one.name}" for one in migrations() if one.number not in applied]


def create_roles(superuser: Connection, passwords: Mapping[str, str], database: str = DATABASE) -> None:
    """
    Make the login roles and the database they may enter, as a role that may (a superuser).

    `passwords` holds one per name of `ROLES`. The SCRAM verifiers are computed here, so that no password
    goes to the server. Idempotent: run again, it sets passwords and grants again. `superuser` is in
    autocommit mode.
    """
    for role in ROLES:
        name = sql.Identifier(role_name(role))
        verifier = _scram_verifier(superuser, passwords[role], role_name(role))
        exists = superuser.execute("SELECT FROM pg_roles WHERE rolname = %s", (role_name(role),)).fetchone()
        superuser.execute(
            sql.SQL(
                "{verb} ROLE {name} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
                " PASSWORD {verifier}"
            ).format(
                verb=sql.SQL("CREATE" if exists is None else "ALTER"), name=name, verifier=sql.Literal(verifier)
            )
        )
    create_database(superuser, database)


def create_database(superuser: Connection, database: str, template: str = "template0") -> None:
    """Make a database of `chancery_owner` that only this suite's roles may enter; idempotent."""
    name, owner = sql.Identifier(database), sql.Identifier(role_name("owner"))
    if superuser.execute("SELECT FROM pg_database WHERE datname = %s", (database,)).fetchone() is None:
        superuser.execute(
            sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {} ENCODING 'UTF8'").format(
                name, owner, sql.Identifier(template)
            )
        )
    roles = sql.SQL(", ").join(sql.Identifier(role_name(role)) for role in ROLES)
    superuser.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))
    superuser.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(name, roles))
    for other in ("postgres", "template1"):
        superuser.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(other)))


def _scram_verifier(connection: Connection, password: str, role: str) -> str:
    try:
        verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
    except psycopg.Error as error:
        raise OperatorError(f"no verifier can be made for {role}", "install psycopg with libpq 10 or newer") from error
    return verifier.decode()
