"""
Connections: settings without secrets, one synchronous session per store, one small pool per event loop.

The pool is our own forty lines rather than psycopg_pool: that one tries again in the background while an
outage lasts, so a caller waits for its timeout; this one refuses at once and works again at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import select
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from chancery.errors import ErrorType, OperatorError, PKIError, StandbyError
from chancery.postgres.statement import Statement

PgConnection = psycopg.Connection[TupleRow]
AsyncPgConnection = psycopg.AsyncConnection[TupleRow]
Parameters = Sequence[object] | Mapping[str, object]
OnConnect = Callable[[PgConnection], None]

_LOCK_WORKER, _LOCK_SEQUENCER = 0x43485701, 0x43485702
"""First halves of the two-part advisory lock keys of this suite; the second half is the instance."""
_LIMIT_EXCEEDED = "54"
"""SQLSTATE class 54, such as a value too long for its index: tried again, it is too long again."""

_KEYED = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Connection:
    """
    How to reach PostgreSQL as one role. `host` is a name, an address, or the directory of a socket.

    `password` is asked at each connection and its answer held nowhere. Timeouts in seconds; 0 is none.
    `keyed` is for a process that looks everything up by a key: its statements are planned once, and never as a
    reading of a whole table, however small the table is when they are planned.
    """

    host: str
    port: int
    database: str
    user: str
    password: Callable[[], bytes] | None = None
    sslmode: str | None = None
    sslrootcert: str | None = None
    sslcert: str | None = None
    sslkey: str | None = None
    application_name: str = "chancery"
    connect_timeout: int = 5
    statement_timeout: float = 30.0
    lock_timeout: float = 5.0
    idle_in_transaction_timeout: float = 30.0
    keyed: bool = False

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of psycopg.connect, password included: not for printing."""
        options = {
            "statement_timeout": int(self.statement_timeout * 1000),
            "lock_timeout": int(self.lock_timeout * 1000),
            "idle_in_transaction_session_timeout": int(self.idle_in_transaction_timeout * 1000),
            "timezone": "UTC",
            # The server, too, notices within half a minute that a host vanished, and frees the locks it held.
            "tcp_keepalives_idle": 10,
            "tcp_keepalives_interval": 5,
            "tcp_keepalives_count": 3,
            # Everything is named with its schema; nothing can be slipped in before it.
            "search_path": "pg_catalog",
            "client_min_messages": "warning",
        }
        if self.keyed:
            options |= _KEYED
        values: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "dbname": self.database,
            "user": self.user,
            "application_name": self.application_name,
            "connect_timeout": self.connect_timeout,
            "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
            "client_encoding": "UTF8",
            # A host that vanished without a word is noticed within half a minute.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
        }
        if not self.host.startswith("/"):
            # The server must not be able to ask for the password in the clear, nor for its MD5.
            values["require_auth"] = "scram-sha-256" if self.password is not None else "none"
        for name in ("sslmode", "sslrootcert", "sslcert", "sslkey"):
            if (value := getattr(self, name)) is not None:
                values[name] = value
        if self.password is not None:
            values["password"] = self.password().decode()
        return values


def password_file(path: Path) -> Callable[[], bytes]:
    """
    Make a `Connection.password` that reads the one line of a file, anew at each connection.

    It raises OperatorError when the file is missing, empty, or open to others than its owner.
    """

    def read() -> bytes:
        try:
            open_to_others = stat.S_IMODE(path.stat().st_mode) & 0o077
            found = path.read_bytes().strip()
        except OSError as error:
            raise OperatorError(
                f"the password file {path} cannot be read: {error.strerror}", "check `password_file`"
            ) from error
        if open_to_others:
            raise OperatorError(f"{path} can be used by others than its owner", f"run `chmod 600 {path}`")
        if not found:
            raise OperatorError(f"the password file {path} is empty", "write the role's password into it")
        return found

    return read


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
        if (error.sqlstate or "").startswith(_LIMIT_EXCEEDED):
            raise PKIError(ErrorType.SYSTEM_FAILURE, "the database cannot hold that") from error
        raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the database is not available") from error
    except psycopg.Error as error:
        raise PKIError(ErrorType.SYSTEM_FAILURE, "the database refused the change") from error


def connect(connection: Connection) -> PgConnection:
    """Open one connection in autocommit mode. Raises psycopg's errors."""
    return psycopg.connect(**connection.arguments(), autocommit=True)


async def connect_async(connection: Connection) -> AsyncPgConnection:
    """Open one connection in autocommit mode. Raises psycopg's errors."""
    return await psycopg.AsyncConnection.connect(**connection.arguments(), autocommit=True)


def has_ended(connection: PgConnection | AsyncPgConnection) -> bool:
    """Tell, without a round trip, whether an idle connection was closed: by us, or by the server."""
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN | select.POLLHUP)
    # An idle server sends nothing but its farewell.
    return bool(poll.poll(0))


def worker_lock(instance: int) -> OnConnect:
    """
    Make the hook that holds the lock of one serial instance octet for as long as the connection lives.

    OperatorError when another process holds it: two workers must not share an instance octet.
    """

    def hold(connection: PgConnection) -> None:
        try:
            # Waits up to lock_timeout: the server may still be ending a killed worker's connection.
            connection.execute("SELECT pg_advisory_lock(%s, %s)", (_LOCK_WORKER, instance))
        except psycopg.errors.LockNotAvailable as error:
            raise OperatorError(
                f"another worker with instance {instance} is running", "stop it, or give this one another instance"
            ) from error

    return hold


def sequencer_lock(connection: PgConnection) -> None:
    """Hold the sequencer's lock while the connection lives; StandbyError while another process does."""
    row = connection.execute("SELECT pg_try_advisory_lock(%s, 0)", (_LOCK_SEQUENCER,)).fetchone()
    if row is None or not row[0]:
        raise StandbyError("another process sequences the journal")


class Session:
    """
    One connection for one store, opened at first use and again after it was lost.

    Calls from several threads take turns. `on_connect` hooks run on each new connection before anything
    else, so that a lock they take is held by whatever is written.
    """

    def __init__(self, connection: Connection, on_connect: Sequence[OnConnect] = ()) -> None:
        self._connection: PgConnection | None = None
        self.settings = dataclasses.replace(connection, keyed=True)
        self._on_connect = tuple(on_connect)
        self._lock = threading.RLock()
        self._prepared: set[bytes] = set()

    def open(self) -> None:
        """Connect now, so that a wrong setting or a held lock shows at the start."""
        with self._lock, translated():
            self._connected()

    @contextlib.contextmanager
    def transaction(self, *, pipeline: bool = False) -> Iterator[PgConnection]:
        """
        Run the block in one transaction, committed at its end. Errors as in `translated`.

        In a pipeline all statements and the commit go out together: one round trip, and the block must not
        look at a result.
        """
        with self._lock, translated():
            connection = self._connected()
            try:
                with connection.pipeline() if pipeline else contextlib.nullcontext(), connection.transaction():
                    yield connection
            except BaseException:
                self._settle(connection)
                raise

    def fetch(self, query: str, parameters: Parameters = ()) -> list[TupleRow]:
        """Run one statement, its own transaction, and return its rows. Errors as in `translated`."""
        with self._lock, translated():
            connection = self._connected()
            try:
                return connection.execute(query.encode(), parameters, binary=True).fetchall()
            except BaseException:
                self._settle(connection)
                raise

    def run(self, statement: Statement, values: Sequence[object] = ()) -> list[TupleRow]:
        """As `fetch`, for a statement of known types: one round trip and little else."""
        with self._lock, translated():
            connection = self._connected()
            try:
                try:
                    return self._run(connection, statement, values)
                except psycopg.errors.InvalidSqlStatementName:
                    # psycopg says DEALLOCATE ALL after a ROLLBACK, and means ours, too: nothing was done.
                    self._prepared.discard(statement.name)
                    return self._run(connection, statement, values)
            except BaseException:
                self._settle(connection)
                raise

    def _run(self, connection: PgConnection, statement: Statement, values: Sequence[object]) -> list[TupleRow]:
        if statement.name not in self._prepared:
            statement.prepare(connection.pgconn)
            self._prepared.add(statement.name)
        return statement.run(connection, values)

    def _settle(self, connection: PgConnection) -> None:
        """Give up what a failed transaction left open; a connection that cannot do it goes with it."""
        if not connection.closed and connection.info.transaction_status is TransactionStatus.INERROR:
            with contextlib.suppress(psycopg.Error):
                connection.rollback()
        if connection.closed or connection.info.transaction_status is not TransactionStatus.IDLE:
            self._drop()

    def _connected(self) -> PgConnection:
        if self._connection is not None and has_ended(self._connection):
            self._drop()
        if self._connection is None:
            connection = connect(self.settings)
            try:
                for hook in self._on_connect:
                    hook(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
            self._prepared = set()
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Close the connection and with it every lock it holds; the next use opens another."""
        with self._lock:
            self._drop()

    def __del__(self) -> None:
        # A store that was given settings owns its session, and nobody else knows of it.
        self._drop()


def session(source: Connection | Session) -> Session:
    """Return a store's session: the one given, or a new one over these settings."""
    return source if isinstance(source, Session) else Session(source)


class AsyncPool:
    """
    At most `size` connections for one event loop, opened when first needed and again after they were lost.

    A caller waits at most `timeout` seconds for its turn; then PKIError(SYSTEM_UNAVAIL).
    """

    def __init__(self, connection: Connection, size: int = 4, timeout: float = 5.0) -> None:
        self.settings = connection
        self._turns = asyncio.Semaphore(size)
        self._timeout = timeout
        self._idle: list[AsyncPgConnection] = []
        self._closed = False

    async def open(self) -> None:
        """Connect once, so that a wrong setting shows at the start. Errors as in `translated`."""
        async with self._connection():
            pass

    async def close(self) -> None:
        """Close every idle connection; those in use are closed when they come back."""
        self._closed = True
        while self._idle:
            await self._idle.pop().close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @contextlib.asynccontextmanager
    async def transaction(self, *, pipeline: bool = False) -> AsyncIterator[AsyncPgConnection]:
        """Run the block in one transaction, committed at its end; `pipeline` as in `Session.transaction`."""
        async with self._connection() as connection:
            context = connection.pipeline() if pipeline else contextlib.nullcontext()
            async with context, connection.transaction():
                yield connection

    async def fetch(self, query: str, parameters: Parameters = ()) -> list[TupleRow]:
        """Run one statement, its own transaction, and return its rows. Errors as in `translated`."""
        async with self._connection() as connection:
            cursor = await connection.execute(query.encode(), parameters, binary=True)
            return await cursor.fetchall() if cursor.description is not None else []

    async def run(self, statement: Statement, values: Sequence[object] = ()) -> list[TupleRow]:
        """As `fetch`, for a statement of known types: one round trip and little else."""
        async with self._connection() as connection:
            return await statement.run_async(connection, values)

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncPgConnection]:
        if self._closed:
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the database pool is closed")
        await self._turn()
        try:
            with translated():
                connection = await self._take()
                try:
                    yield connection
                finally:
                    await self._give_back(connection)
        finally:
            self._turns.release()

    async def _turn(self) -> None:
        if not self._turns.locked():
            # Taken without waiting; a timeout would cost more than this.
            await self._turns.acquire()
            return
        try:
            async with asyncio.timeout(self._timeout):
                await self._turns.acquire()
        except TimeoutError as error:
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the database is too busy") from error

    async def _take(self) -> AsyncPgConnection:
        while self._idle:
            connection = self._idle.pop()
            if not has_ended(connection):
                return connection
            await connection.close()
        return await connect_async(self.settings)

    async def _give_back(self, connection: AsyncPgConnection) -> None:
        if not connection.closed and connection.info.transaction_status is TransactionStatus.INERROR:
            with contextlib.suppress(psycopg.Error):
                await connection.rollback()
        if self._closed or connection.closed or connection.info.transaction_status is not TransactionStatus.IDLE:
            await connection.close()
        else:
            self._idle.append(connection)
