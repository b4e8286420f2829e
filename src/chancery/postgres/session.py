"""Connections: settings without secrets, one synchronous connection per store, one pool per event loop."""

from __future__ import annotations

import contextlib
import dataclasses
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import psycopg_pool
from psycopg.rows import TupleRow

from chancery.errors import ErrorType, OperatorError, PKIError

Connection = psycopg.Connection[TupleRow]
AsyncConnection = psycopg.AsyncConnection[TupleRow]
OnConnect = Callable[[Connection], None]

_LOCK_WORKER, _LOCK_SEQUENCER = 0x43485701, 0x43485702
"""First halves of the two-part advisory lock keys of this suite; the second half is the instance."""


@dataclasses.dataclass(frozen=True, slots=True)
class Database:
    """
    How to reach PostgreSQL as one role. `host` is a name, an address, or the directory of a socket.

    The password is read from `password_file` at each connection and held nowhere. Timeouts in seconds.
    """

    host: str
    port: int
    dbname: str
    user: str
    password_file: Path | None = None
    sslmode: str = "prefer"
    sslcert: Path | None = None
    sslkey: Path | None = None
    sslrootcert: Path | None = None
    application_name: str = "chancery"
    statement_timeout: float = 30.0
    lock_timeout: float = 5.0
    connect_timeout: int = 5

    def kwargs(self) -> dict[str, Any]:
        """
        Return the arguments of psycopg.connect, password included: not for printing.

        Raises OperatorError when the password file is missing, or others than its owner can use it.
        """
        options = (
            f"-c statement_timeout={int(self.statement_timeout * 1000)}"
            f" -c lock_timeout={int(self.lock_timeout * 1000)} -c timezone=UTC"
        )
        values: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "dbname": self.dbname,
            "user": self.user,
            "sslmode": self.sslmode,
            "application_name": self.application_name,
            "connect_timeout": self.connect_timeout,
            "options": options,
            "client_encoding": "UTF8",
            "keepalives_idle": 30,
        }
        for name in ("sslcert", "sslkey", "sslrootcert"):
            if (path := getattr(self, name)) is not None:
                values[name] = str(path)
        if self.password_file is not None:
            values["password"] = read_password(self.password_file)
        return values


def read_password(path: Path) -> str:
    """Return the one line of a password file. OperatorError when it is missing, empty, or open to others."""
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise OperatorError(f"{path} can be used by others than its owner", f"run `chmod 600 {path}`")
        password = path.read_text().strip()
    except OSError as error:
        raise OperatorError(f"the password file {path} cannot be read: {error.strerror}", "check `password_file`") from error
    if not password:
        raise OperatorError(f"the password file {path} is empty", "write the role's password into it")
    return password


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """
    Turn what psycopg raises into PKIError, at a store's boundary.

    SYSTEM_UNAVAIL: the database is away, stopping, or a timeout passed; whether a commit took effect is
    not known. SYSTEM_FAILURE: it refused; nothing of the transaction happened.
    """
    try:
        yield
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the database is not available") from error
    except psycopg.Error as error:
        raise PKIError(ErrorType.SYSTEM_FAILURE, "the database refused the change") from error


def connect(database: Database) -> Connection:
    """Open one connection in autocommit mode. Raises psycopg's errors and OperatorError."""
    return psycopg.connect(**database.kwargs(), autocommit=True)


def worker_lock(instance: int) -> OnConnect:
    """
    Make the hook that holds the lock of one serial instance octet for as long as the connection lives.

    OperatorError when another process holds it: two workers must not share an instance octet.
    """

    def hold(connection: Connection) -> None:
        try:
            # Waits up to lock_timeout: the server may still be ending a killed worker's connection.
            connection.execute("SELECT pg_advisory_lock(%s, %s)", (_LOCK_WORKER, instance))
        except psycopg.errors.LockNotAvailable as error:
            raise OperatorError(
                f"another worker with instance {instance} is running", "stop it, or give this one another instance"
            ) from error

    return hold


def sequencer_lock(connection: Connection) -> None:
    """Hold the journal's sequencer lock while the connection lives; PKIError(SYSTEM_UNAVAIL) while another does."""
    row = connection.execute("SELECT pg_try_advisory_lock(%s, 0)", (_LOCK_SEQUENCER,)).fetchone()
    if row is None or not row[0]:
        raise PKIError(ErrorType.SYSTEM_UNAVAIL, "another process sequences the journal")


class Session:
    """
    One connection for one store, opened at first use and again after it was lost.

    Every `transaction` is one; calls from several threads take turns. `on_connect` hooks run on each new
    connection before anything else, so that a lock they take is held by whatever is written.
    """

    def __init__(self, database: Database, on_connect: Sequence[OnConnect] = ()) -> None:
        self.database = database
        self._on_connect = tuple(on_connect)
        self._connection: Connection | None = None
        self._lock = threading.RLock()

    def open(self) -> None:
        """Connect now, so that a wrong setting or a held lock shows at the start."""
        with self._lock, translated():
            self._connected()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Run the block in one transaction, committed at its end. Errors as in `translated`."""
        with self._lock, translated():
            connection = self._connected()
            try:
                with connection.transaction():
                    yield connection
            except BaseException:
                # Whatever state a failed pipeline or an interrupted call left behind goes with it.
                if connection.closed or connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                    self._drop()
                raise

    def _connected(self) -> Connection:
        if self._connection is not None and self._connection.closed:
            self._drop()
        if self._connection is None:
            connection = connect(self.database)
            try:
                for hook in self._on_connect:
                    hook(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Close the connection and with it every lock it holds."""
        with self._lock:
            self._drop()


class AsyncPool:
    """Connections for one event loop; opened and closed inside it."""

    def __init__(self, database: Database, size: int = 4) -> None:
        self.database = database
        self._size = size
        self._pool: psycopg_pool.AsyncConnectionPool[AsyncConnection] | None = None

    async def open(self) -> None:
        """
        Connect once, so that a wrong setting shows, and keep up to `size` connections.

        Raises PKIError(SYSTEM_UNAVAIL) when the database is away, OperatorError for a bad password file.
        """
        with translated():
            probe = await psycopg.AsyncConnection.connect(**self.database.kwargs(), autocommit=True)
            await probe.close()
        self._pool = psycopg_pool.AsyncConnectionPool(
            kwargs={**self.database.kwargs(), "autocommit": True},
            min_size=1,
            max_size=self._size,
            open=False,
            timeout=self.database.connect_timeout,
            # Short, so that the first caller after an outage makes a new attempt.
            reconnect_timeout=2.0,
            check=psycopg_pool.AsyncConnectionPool.check_connection,
            name=self.database.application_name,
        )
        await self._pool.open()

    async def close(self) -> None:
        """Close every connection."""
        if self._pool is not None:
            await self._pool.close()
            self._pool = None

    async def __aenter__(self) -> AsyncPool:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Run the block in one transaction, committed at its end. Errors as in `translated`."""
        if self._pool is None:
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the database pool is closed")
        with translated():
            async with self._pool.connection() as connection, connection.transaction():
                yield connection

    async def fetch(self, query: str, parameters: Sequence[object] = ()) -> list[TupleRow]:
        """Run one statement outside a transaction block and return its rows."""
        if self._pool is None:
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the database pool is closed")
        with translated():
            async with self._pool.connection() as connection:
                cursor = await connection.execute(query.encode(), parameters)
                return await cursor.fetchall()

