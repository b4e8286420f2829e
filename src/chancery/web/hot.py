"""
The hot HTTP/1.1 server: OCSP, the repository and timestamping answer through it.

One `asyncio.Protocol` per connection (`hotconnection`), one timer per server that watches every connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import ssl
from collections.abc import Awaitable

import structlog

from chancery.ports import Clock
from chancery.web.hotconnection import LINGER_SECONDS, RETRY, Connection
from chancery.web.hotmessage import TEXT, Answer, Handler, Limits, OnError, Reply, Request, text, to_wire

__all__ = [
    "BUSY_SECONDS",
    "SWITCH_SECONDS",
    "TEXT",
    "Answer",
    "Handler",
    "HotServer",
    "Limits",
    "OnError",
    "Reply",
    "Request",
    "serve",
    "text",
    "to_wire",
]

BUSY_SECONDS = 0.5
"""How long a refusal for want of time waits: whoever asks again as soon as it is refused would take the time that
the requests before it are answered in."""
SWITCH_SECONDS = 0.0005
"""`sys.setswitchinterval` of a process that signs in threads: one that comes back from the token waits so long for
a busy event loop. With Python's 5 ms a flood of refusals would leave 200 signatures a second."""

log = structlog.get_logger(__name__)


class HotServer:
    """
    Serves `handler` on TCP within `limits`; `serve` makes one and starts it.

    `on_error` is the answer to a request whose handler raised: the exception itself is logged, never sent. With
    a `clock`, answers carry Date.
    """

    def __init__(
        self, handler: Handler, limits: Limits, *, on_error: OnError | None = None, clock: Clock | None = None
    ) -> None:
        self.limits = limits
        self.now = 0.0
        self.port = 0
        self.closing = False
        self._handler = handler
        self._on_error = on_error or (lambda _: text(500, "internal error"))
        self._clock = clock
        self._date = b""
        self._connections: set[Connection] = set()
        self._inflight = 0
        self._emptied = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        shortest = min(limits.header_timeout, limits.body_timeout, limits.idle_timeout, LINGER_SECONDS)
        self._period = min(1.0, shortest / 2)

    async def listen(
        self, host: str, port: int, *, reuse_port: bool = False, tls: ssl.SSLContext | None = None
    ) -> None:
        """Listen; `self.port` then says where, when 0 was asked for. OSError when the address is taken."""
        loop = asyncio.get_running_loop()
        self._tick(loop)
        self._server = await loop.create_server(
            lambda: Connection(self),
            host,
            port,
            backlog=1024,
            reuse_port=reuse_port or None,
            ssl=tls,
            # Until a handshake is done nothing here counts the connection: it must not take long.
            ssl_handshake_timeout=self.limits.header_timeout if tls else None,
            ssl_shutdown_timeout=LINGER_SECONDS if tls else None,
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self, grace: float = 5.0) -> None:
        """Stop listening, let answers in flight finish for `grace` seconds, then end every connection."""
        self.closing = True
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.close_if_idle()
        self._emptied.clear()
        if self._connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), grace)
        for connection in list(self._connections):
            connection.abort()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    @property
    def connections(self) -> int:
        return len(self._connections)

    @property
    def inflight(self) -> int:
        return self._inflight

    def admit(self, connection: Connection) -> bool:
        """Take a new connection in; False when there are too many."""
        full = len(self._connections) >= self.limits.max_connections
        self._connections.add(connection)
        return not full

    def overrun(self) -> bool:
        """Tell whether even refusing connections takes too many of them."""
        return len(self._connections) > 2 * self.limits.max_connections

    def forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._emptied.set()

    def answer(self, request: Request) -> bytes | Awaitable[Reply]:
        """Ask the handler; whatever it raises becomes its error answer."""
        try:
            answer = self._handler(request)
            if isinstance(answer, bytes):
                return answer
            if isinstance(answer, Answer):
                return to_wire(answer)
        except Exception as error:  # noqa: BLE001 - one bad request must not end the process
            return self._failed(request, error)
        if self._inflight >= self.limits.max_inflight:
            if asyncio.iscoroutine(answer):
                answer.close()
            return to_wire(text(503, "too many requests in flight; try again later", RETRY))
        self._inflight += 1
        return answer

    def settle(self, request: Request, task: asyncio.Future[Reply]) -> bytes:
        """Return what a finished handler answered, or its error answer."""
        self._inflight -= 1
        try:
            answer = task.result()
            return answer if isinstance(answer, bytes) else to_wire(answer)
        except asyncio.CancelledError:
            return to_wire(text(503, "the server is stopping", RETRY))
        except Exception as error:  # noqa: BLE001 - one bad request must not end the process
            return self._failed(request, error)

    def _failed(self, request: Request, error: Exception) -> bytes:
        log.error("http.handler_failed", exc_info=error)
        return to_wire(self._on_error(request))

    def date(self) -> bytes:
        """Return the Date field (RFC 9110 6.6.1), or nothing without a clock."""
        return self._date

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self.now = now = loop.time()
        if self._clock is not None:
            self._date = b"Date: %b\r\n" % email.utils.format_datetime(self._clock.now(), usegmt=True).encode()
        for connection in [c for c in self._connections if c.read_deadline <= now or c.write_deadline <= now]:
            connection.expire()
        self._timer = loop.call_later(self._period, self._tick, loop)


async def serve(
    handler: Handler,
    host: str,
    port: int,
    *,
    limits: Limits | None = None,
    on_error: OnError | None = None,
    clock: Clock | None = None,
    reuse_port: bool = False,
    tls: ssl.SSLContext | None = None,
) -> HotServer:
    """
    Start a server on the running loop and return it; port 0 takes a free one (`HotServer.port`).

    `reuse_port` lets several processes listen on one port (SO_REUSEPORT); with `tls` it speaks HTTPS. OSError when
    the address is taken.
    """
    server = HotServer(handler, limits or Limits(), on_error=on_error, clock=clock)
    await server.listen(host, port, reuse_port=reuse_port, tls=tls)
    return server
