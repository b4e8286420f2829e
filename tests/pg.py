"""
A real PostgreSQL for tests and benchmarks: the embedded server, a migrated template, a fresh database each.

    with temporary_postgres() as server:
        with server.database() as database:
            PgIssuanceStore(database.role("worker"))
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import itertools
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from psycopg import sql

from chancery.ca.crl import CRLSettings
from chancery.ca.crl_schedule import due
from chancery.postgres.embedded import EmbeddedPostgres
from chancery.postgres.migrate import migrate
from chancery.postgres.revocation import PgRevocationStore
from chancery.postgres.roles import ROLES, create_database, create_roles
from chancery.postgres.session import Connection, connect

AT = datetime.datetime(2026, 11, 24, 12, 0, tzinfo=datetime.UTC)


def tsa_serial(at: datetime.datetime = AT, number: int = 0) -> int:
    """The serial of a token of that genTime, as `tsa.recording.Serials` would make it, of instance 7."""
    tick = (at - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(microseconds=1)
    return 0x0107 << 120 | tick << 64 | number


TEMPLATE = "chancery_template"
# A kill -9 of the server loses nothing without it; only a crash of the machine would.
FAST = {"fsync": "off", "shared_buffers": "64MB", "max_wal_size": "256MB"}


def crls_due(store: PgRevocationStore, at: datetime.datetime, settings: CRLSettings | None = None) -> list[int]:
    """Issuers with a CRL that is due by the schedule, whatever it is."""
    found = []
    for issuer_id, some in itertools.groupby(store.crl_states(), lambda state: state.issuer_id):
        states = list(some)
        idps = {state.shard: state.full.idp if state.full else b"" for state in states}
        if due(states, settings or CRLSettings(), at, idps):
            found.append(issuer_id)
    return found


@dataclasses.dataclass(frozen=True)
class Database:
    """One database of a server, as seen by any role."""

    server: EmbeddedPostgres
    name: str

    def role(self, role: str) -> Connection:
        """Settings of one role, named without its prefix."""
        name = f"chancery_{role}"
        return Connection(self.server.host, self.server.port, self.name, name, password=lambda: password(name))

    @property
    def superuser(self) -> Connection:
        return dataclasses.replace(self.server.superuser, database=self.name)

    def empty(self) -> None:
        """Forget every row, as only the server's superuser can; ids begin at 1 again."""
        with connect(self.superuser) as superuser:
            superuser.execute("SET session_replication_role = replica")
            tables = superuser.execute("SELECT schemaname, tablename FROM pg_tables WHERE schemaname = 'chancery'")
            names = sql.SQL(", ").join(sql.Identifier(*row) for row in tables)
            superuser.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY").format(names))


class Server:
    """A running server with the suite's roles and a migrated template."""

    def __init__(self, embedded: EmbeddedPostgres) -> None:
        self.embedded = embedded
        self.superuser = embedded.superuser
        self._numbers = itertools.count(1)

    def kill(self) -> None:
        """kill -9 of the server with all its processes, at once; `embedded.start()` brings it back."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (entry / "cwd").readlink() == self.embedded.data_dir.resolve():
                    found.append(int(entry.name))
        for pid in sorted(found, key=lambda pid: pid != self.embedded.pid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @contextlib.contextmanager
    def database(self, template: str = TEMPLATE) -> Iterator[Database]:
        """A fresh database with the current schema, or a copy of another that nobody uses; dropped afterwards."""
        found = Database(self.embedded, f"chancery_test_{next(self._numbers)}")
        with connect(self.superuser) as superuser:
            create_database(superuser, found.name, template)
        try:
            yield found
        finally:
            with connect(self.superuser) as superuser:
                superuser.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(found.name)))


def password(role: str) -> bytes:
    """The password of a role in tests."""
    return f"password of {role}".encode()


@contextlib.contextmanager
def temporary_directory() -> Iterator[Path]:
    """
    A directory that another account can pass through.

    Not pytest's tmp_path: each pytest of root closes the folder above it, under the feet of a server that
    runs as an account of its own.
    """
    with tempfile.TemporaryDirectory(prefix="chancery-pg-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@contextlib.contextmanager
def temporary_postgres(path: Path | None = None, settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """
    Run a server while the block lasts, under `path` or in a directory of its own.

    Without `settings` it does not wait for the disk; pass {} for the product's own settings.
    """
    if path is None:
        with temporary_directory() as own, temporary_postgres(own / "pg", settings) as server:
            yield server
        return
    embedded = EmbeddedPostgres(path, FAST if settings is None else settings)
    embedded.start()
    try:
        create_roles(embedded.superuser, {role: password(role) for role in ROLES}, TEMPLATE)
        migrate(Database(embedded, TEMPLATE).role("owner"), at=AT)
        yield Server(embedded)
    finally:
        embedded.stop()
