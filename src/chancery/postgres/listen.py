"""
Hearing NOTIFY, through outages.

A notification sent while nobody listened is lost, so both listeners say when that may have happened: the
synchronous one wakes its worker at once on every new connection, the asynchronous one calls `on_gap`.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import time
from collections.abc import Callable, Sequence

import psycopg
from psycopg import sql

from chancery.postgres.session import AsyncPgConnection, Connection, PgConnection, connect, connect_async

REQUESTS = "chancery_request"
"""Work for the worker: the payload is the table it is in."""
OUTCOMES = "chancery_outcome"
"""Ids of settled requests, by comma; `r` and its id for a settled revocation."""
STATUSES = "chancery_status"
"""`issuer_id:serial in hex` of a status that is not good any more."""
ISSUERS = "chancery_issuer"
"""An issuer was added, got another certificate, was activated or deactivated; no payload."""
FOREIGN = "chancery_foreign"
"""The id of a foreign CA of which another CRL counts now."""
CRLS = "chancery_crl"
"""`issuer_id:shard` of a published CRL."""

_RETRY = 0.2
_HEARTBEAT = 10.0
"""Seconds; a connection that is silently dead is noticed by the statement that is sent this often."""


class Listener:
    """
    Lets a worker sleep until there is work: `wait(seconds)` is the worker's `wait`.

    For one thread. An outage makes it sleep its time out, never raise. It asks libpq itself, because a lone
    request waits for it.
    """

    def __init__(self, connection: Connection, channels: Sequence[str] = (REQUESTS,)) -> None:
        self._settings = connection
        self._channels = tuple(channels)
        self._connection: PgConnection | None = None
        self._poll = select.poll()

    def wait(self, seconds: float) -> frozenset[str]:
        """
        Block until notifications arrive, at most `seconds`, and return their payloads; none when the time is over.

        An empty one at once after (re)connecting: any may have been lost.
        """
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                if self._connection is None:
                    self._connect()
                    return frozenset({""})
                # Some may have arrived with the answer to a statement.
                if heard := self._heard(self._connection):
                    return heard
                if self._poll.poll(left * 1000):
                    self._connection.pgconn.consume_input()
            except psycopg.Error:
                self.close()
                time.sleep(max(0.0, min(_RETRY, until - time.monotonic())))
        return frozenset()

    @staticmethod
    def _heard(connection: PgConnection) -> frozenset[str]:
        found = set()
        while (notification := connection.pgconn.notifies()) is not None:
            found.add(notification.extra.decode())
        return frozenset(found)

    def _connect(self) -> None:
        connection = connect(self._settings)
        try:
            for channel in self._channels:
                connection.execute(_listen(channel))
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        # Anew: the server may have closed the one before, whose descriptor then stays in the old poll for ever.
        self._poll = select.poll()
        self._poll.register(connection.fileno(), select.POLLIN)

    def close(self) -> None:
        """Close the connection; the next `wait` opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class AsyncListener:
    """
    Calls `on_notify(channel, payload)` for every notification, from one task of the running event loop.

    `on_gap()` is called each time that listening begins, after it took effect: whatever was known before
    may have changed unheard. `on_lost()` is called when it has ended, and for every attempt to begin again that
    failed. None of them may block; what one raises goes to the loop's exception handler.
    """

    def __init__(
        self,
        connection: Connection,
        channels: Sequence[str],
        on_notify: Callable[[str, str], None],
        on_gap: Callable[[], None] = lambda: None,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = connection
        self._channels = tuple(channels)
        self._on_notify = on_notify
        self._on_gap = on_gap
        self._on_lost = on_lost
        self._task: asyncio.Task[None] | None = None
        self._connected = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether notifications arrive at this moment, as far as is known."""
        return self._connected.is_set()

    def start(self) -> None:
        """Begin to listen, and again after every outage until `close`. Idempotent."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def ready(self) -> None:
        """Return once notifications arrive."""
        await self._connected.wait()

    async def close(self) -> None:
        """Stop listening."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(psycopg.Error, TimeoutError):
                connection = await connect_async(self._settings)
                try:
                    await self._listen(connection)
                finally:
                    self._connected.clear()
                    await connection.close()
            self._tell(self._on_lost)
            await asyncio.sleep(_RETRY)

    async def _listen(self, connection: AsyncPgConnection) -> None:
        for channel in self._channels:
            await connection.execute(_listen(channel))
        self._connected.set()
        self._tell(self._on_gap)
        loop, wire = asyncio.get_running_loop(), connection.pgconn
        # What comes with the answer to a statement; all else is read here, without a task to wake.
        connection.add_notify_handler(lambda one: self._tell(self._on_notify, one.channel, one.payload))
        lost: asyncio.Future[None] = loop.create_future()

        def read() -> None:
            try:
                wire.consume_input()
                while (one := wire.notifies()) is not None:
                    self._tell(self._on_notify, one.relname.decode(), one.extra.decode())
            except psycopg.Error as error:
                if not lost.done():
                    lost.set_exception(error)

        while True:
            socket = wire.socket
            loop.add_reader(socket, read)
            try:
                await asyncio.wait([lost], timeout=_HEARTBEAT)
            finally:
                loop.remove_reader(socket)
            if lost.done():
                lost.result()
            await asyncio.wait_for(connection.execute("SELECT 1"), _HEARTBEAT)

    def _tell(self, callback: Callable[..., None], *arguments: str) -> None:
        """Call back; a mistake of the one who listens must not end the listening."""
        try:
            callback(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever it was, it is reported
            context = {"message": "a notification could not be handled", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)


def _listen(channel: str) -> sql.Composed:
    return sql.SQL("LISTEN {}").format(sql.Identifier(channel))
