"""One connection: uvicorn's protocol with the peer's certificate in the scope, and limits on what it may send."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from chancery.web.access import Peer
from chancery.web.failures import PROBLEM_JSON, of_status

MAX_HEAD: Final = 32 * 1024
MAX_HEADERS: Final = 100
# A whole message, trailers included; bodies are limited closer in `bodies` and `bulk`.
MAX_MESSAGE: Final = 1024 * 1024
HEAD_SECONDS: Final = 10.0


class Cork:
    """
    A transport that holds the head of an answer back until its body is there: one TLS record, one system call.

    What is held is written by the next `write`, by `flush` at the end of the answer, and by `close`.
    """

    __slots__ = ("_held", "_transport", "abort", "get_extra_info", "is_closing")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._held = b""
        self.abort, self.is_closing = transport.abort, transport.is_closing
        self.get_extra_info = transport.get_extra_info

    def write(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        # Only a head ends like this: uvicorn writes 1xx, status lines and headers as one piece, the body apart.
        elif data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n") and data[9:10] != b"1":
            self._held = data
            return
        self._transport.write(data)

    def flush(self) -> None:
        if self._held:
            data, self._held = self._held, b""
            self._transport.write(data)

    def close(self) -> None:
        self.flush()
        self._transport.close()


class PeerProtocol(HttpToolsProtocol):
    """
    Puts a `Peer` into `scope["state"]["peer"]`; closes what is above `max_connections`, and peers without a
    certificate above half of that.

    The head of a request has HEAD_SECONDS to arrive, from the connection or from its first octet.
    """

    max_connections: ClassVar[int]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._peer = Peer(None)
        self._received = 0
        self._head_open = True
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # - as uvicorn does
        super().connection_made(transport)
        self.transport = cast("asyncio.Transport", Cork(transport))
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self._peer = Peer(tls.getpeercert(binary_form=True))
        # Strangers never take the last half: an operator gets in however many of them there are.
        bound = self.max_connections if self._peer.certificate else self.max_connections // 2
        if len(self.connections) > bound:
            # Not `close`: a peer that does not answer TLS's farewell would be counted for seconds more.
            transport.abort()
            return
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.parser is None or self.transport.is_closing():
            return
        self._received += len(data)
        super().data_received(data)
        if self._head_open and self._received > MAX_HEAD:
            self._refuse(431, "Request Header Fields Too Large")
        elif self._received > (self._peer.message_limit or MAX_MESSAGE):
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["peer"] = self._peer
        self._received, self._head_open = 0, True
        self._peer.message_limit = None
        self._watch_head()

    def on_headers_complete(self) -> None:
        self._unwatch_head()
        self._head_open = False
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > MAX_HEAD or len(self.headers) > MAX_HEADERS:
            self._refuse(431, "Request Header Fields Too Large")
            return
        hosts = sum(name == b"host" for name, _ in self.headers)
        # RFC 9112 3.2: exactly one Host in HTTP/1.1. After an offer to upgrade the parser reads neither the body
        # nor anything else.
        if hosts > 1 or (not hosts and self.parser.get_http_version() == "1.1") or self.parser.should_upgrade():
            self._refuse(400, "Bad Request")
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        # Between messages nothing is expected within seconds; uvicorn's keep-alive timer watches.
        self._head_open = False
        if not self.transport.is_closing():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        cast("Cork", self.transport).flush()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's own words are not sent
        self._refuse(400, "Bad Request")

    def _watch_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._refuse, 408, "Request Timeout")

    def _unwatch_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int, title: str) -> None:
        self._unwatch_head()
        if self.transport.is_closing():
            return
        # While an earlier request of this connection is being answered, nothing may come in between.
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_raw_answer(status, title))
        self.transport.close()


def protocol_class(connections: int) -> type[PeerProtocol]:
    """Return the protocol for a server of at most this many connections."""
    return type("LimitedPeerProtocol", (PeerProtocol,), {"max_connections": connections})


def _raw_answer(status: int, title: str) -> bytes:
    body = of_status(status, title).body
    head = f"HTTP/1.1 {status} {title}\r\ncontent-type: {PROBLEM_JSON}\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"connection: close\r\n\r\n" + body
