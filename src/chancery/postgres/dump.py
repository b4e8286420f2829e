"""
A database as one stream, by PostgreSQL's own programs: written from one snapshot, read back as the schema's owner.

The dump is read back as `chancery_owner`, never as a superuser: what stands in it is run. Rows carry ids of
transactions (what is sequenced, and what a CRL covers, goes by them), so a cluster that takes a dump in has to be
ahead of the one that it came from.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from psycopg import conninfo, sql

from chancery.errors import OperatorError
from chancery.ports import CRL_LEAP, Event, EventKind
from chancery.postgres.embedded import EmbeddedPostgres, binaries
from chancery.postgres.journal import insert_events
from chancery.postgres.session import Connection, PgConnection, connect, translated

PIECE = 8 * 1024 * 1024
EPOCH = 1 << 32
_TABLES = """
SELECT n.nspname, c.relname
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname IN ('chancery', 'public') AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1, 2"""
_STATE = "SELECT pg_current_snapshot()::text, current_setting('server_version')"
_CHECKPOINT = "SELECT note FROM chancery.journal_checkpoint ORDER BY tree_size DESC LIMIT 1"
_NEWEST = """
SELECT i.issuer_id, i.name, max(n.number) FROM chancery.issuer AS i JOIN chancery.crl_number AS n USING (issuer_id)
WHERE i.key_label IS NOT NULL GROUP BY 1, 2 ORDER BY 1"""


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """
    What a dump is made of: the snapshot's name for `dump`, and what is true in it.

    `tables` has the rows of each table, `xid` is the next transaction id of the cluster (xid8), `checkpoint` the
    newest of the journal.
    """

    name: str
    tables: Mapping[str, int]
    xid: int
    server: str
    checkpoint: str | None


@contextlib.contextmanager
def snapshot(connection: Connection) -> Iterator[Snapshot]:
    """Hold one snapshot of the database open, as its owner; errors as `session.translated`."""
    # However long the dump takes, the snapshot has to stay.
    settings = dataclasses.replace(connection, statement_timeout=0, idle_in_transaction_timeout=0)
    with translated(), connect(settings) as owner, owner.transaction():
        owner.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        [(name,)] = owner.execute("SELECT pg_export_snapshot()").fetchall()
        [(seen, server)] = owner.execute(_STATE).fetchall()
        checkpoint = owner.execute(_CHECKPOINT).fetchone()
        yield Snapshot(
            str(name),
            count(owner),
            int(str(seen).split(":")[1]),
            str(server),
            None if checkpoint is None else str(checkpoint[0]),
        )


def count(owner: PgConnection) -> dict[str, int]:
    """Return the number of rows of each table, partitions within their table."""
    found = {}
    for schema, table in owner.execute(_TABLES).fetchall():
        query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, table))
        [(rows,)] = owner.execute(query).fetchall()
        found[f"{schema}.{table}"] = int(rows)
    return found


def rows_of(connection: Connection) -> dict[str, int]:
    """Return the number of rows of each table of a database; errors as `session.translated`."""
    with translated(), connect(dataclasses.replace(connection, statement_timeout=0)) as owner:
        return count(owner)


def dump(connection: Connection, of: Snapshot, programs: Path | None = None) -> Iterator[bytes]:
    """
    Yield the dump (pg_dump's custom format) in pieces of at most `PIECE` octets.

    `programs` is the directory of PostgreSQL's programs, if not that of the embedded one's. OperatorError in
    pg_dump's words when it fails.
    """
    words = ["--format=custom", "--no-owner", "--no-privileges", "--no-large-objects", f"--snapshot={of.name}"]
    with _running("pg_dump", connection, words, programs, reads=False) as stream:
        while piece := stream.read(PIECE):
            yield piece


def restore(connection: Connection, source: Path, programs: Path | None = None) -> None:
    """
    Read a dump into an empty database as its owner, whole or not at all; the caller migrates it next.

    OperatorError in pg_restore's words when it fails.
    """
    words = ["--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error"]
    with (
        source.open("rb") as file,
        _running("pg_restore", connection, words, programs, reads=True) as stream,
        contextlib.suppress(BrokenPipeError),
    ):
        shutil.copyfileobj(file, stream, PIECE)


@contextlib.contextmanager
def _running(
    program: str, connection: Connection, words: list[str], programs: Path | None, *, reads: bool
) -> Iterator[IO[bytes]]:
    """Run a program with a database and give its standard input or output; OperatorError when it ends badly."""
    values = connection.arguments()
    password = values.pop("password", None)
    values.pop("options", None)
    with tempfile.TemporaryDirectory(prefix="chancery-") as folder:
        environment = {"LC_ALL": "C", "PATH": os.environ.get("PATH", "/usr/bin:/bin")}
        if password is not None:
            # Neither among the words nor in the environment, which others can see.
            secret = Path(folder) / "pgpass"
            secret.touch(0o600)
            secret.write_text("*:*:*:*:" + str(password).replace("\\", "\\\\").replace(":", "\\:") + "\n")
            environment["PGPASSFILE"] = str(secret)
        with (Path(folder) / "stderr").open("w+b") as errors:
            process = subprocess.Popen(  # noqa: S603 - our own words
                [
                    str((programs or binaries()) / program),
                    *words,
                    f"--dbname={conninfo.make_conninfo('', **values)}",
                ],
                stdin=subprocess.PIPE if reads else subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if reads else subprocess.PIPE,
                stderr=errors,
                cwd="/",
                env=environment,
            )
            stream = process.stdin if reads else process.stdout
            assert stream is not None
            try:
                yield stream
            except BaseException:
                process.kill()
                raise
            finally:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
                process.wait()
            errors.seek(0)
            said = errors.read(4096).decode(errors="replace").strip()
    if process.returncode:
        raise OperatorError(
            f"{program} failed: {said[-500:]}",
            "with another version of PostgreSQL, give --programs; else see its log",
        )


def check_empty(connection: Connection, xid: int) -> None:
    """
    Raise OperatorError unless this database is empty and its cluster's transaction ids are beyond `xid`.

    Errors else as `session.translated`.
    """
    with translated(), connect(connection) as owner:
        [(taken, now)] = owner.execute(
            "SELECT to_regnamespace('chancery') IS NOT NULL, pg_current_xact_id()::text::bigint"
        ).fetchall()
    if taken:
        raise OperatorError(
            f"the database {connection.database} is not empty",
            "restore into a new cluster, or a new database of it",
        )
    if now <= xid:
        raise OperatorError(
            "this cluster's transaction ids are behind those in the back-up: CRLs and journal go by them",
            f"stop it, run `pg_resetwal --epoch={epoch_above(xid)} DATA` as its account, start it, restore again",
        )


def epoch_above(xid: int) -> int:
    """Return the transaction id epoch with which every id is above this xid8."""
    return xid // EPOCH + 1


def move_ahead(server: EmbeddedPostgres, xid: int) -> None:
    """
    Put a new, stopped cluster's transaction ids above `xid`: an epoch stands nowhere but in its control file.

    OperatorError when the program fails.
    """
    server.prepare()
    account = server.account
    done = subprocess.run(  # noqa: S603 - our own words
        [str(binaries() / "pg_resetwal"), f"--epoch={epoch_above(xid)}", str(server.data_dir)],
        capture_output=True,
        check=False,
        cwd="/",
        env={"LC_ALL": "C"},
        user=None if account is None else account.uid,
        group=None if account is None else account.gid,
        extra_groups=None if account is None else [],
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise OperatorError(f"pg_resetwal failed: {said[-500:]}", "choose another directory")


def go_on(connection: Connection, event: Event) -> list[str]:
    """
    Record a restore as the owner, and move every CRLNumber of our own issuers on; return the issuers' names.

    R15: numbers that were published since the back-up, and are not in it, must not come again.
    """
    moved = []
    with translated(), connect(connection) as owner, owner.transaction():
        for issuer_id, name, newest in owner.execute(_NEWEST).fetchall():
            owner.execute(
                "INSERT INTO chancery.crl_number (issuer_id, number) VALUES (%s, %s)",
                (issuer_id, newest + CRL_LEAP),
            )
            detail = {"issuer": name, "number": newest + CRL_LEAP, "restored": True}
            insert_events(owner, [Event(EventKind.CRL_INTENT, event.at, event.actor, f"crl:{name}", detail)])
            moved.append(str(name))
        insert_events(owner, [event])
    return moved


def record(connection: Connection, event: Event) -> None:
    """Journal an event as the owner; errors as `session.translated`."""
    with translated(), connect(connection) as owner, owner.transaction():
        insert_events(owner, [event])
