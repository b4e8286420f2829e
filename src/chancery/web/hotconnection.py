"""
One HTTP/1.1 connection of the hot server: an `asyncio.Protocol` over httptools, with every bound that keeps a
process alive.

A handler that answers at once costs no task; one that returns an awaitable gets one, and answers leave in the
order in which the requests came (RFC 9112 9.3.2).
"""

from __future__ import annotations

import asyncio
import collections
import math
from collections.abc import Awaitable
from typing import Protocol, cast

import httptools
import structlog

from chancery.web.hotmessage import PHRASES, Limits, Reply, Request, text, to_wire

log = structlog.get_logger(__name__)

_METHODS = frozenset({b"GET", b"HEAD", b"POST"})
RETRY = ("Retry-After", "1")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# After a refusal the rest of what the peer is sending is read and dropped for a while: closing at once would
# reset the connection and take the answer with it (RFC 9112 9.6).
LINGER_BYTES = 1024 * 1024
LINGER_SECONDS = 2.0
_WRITE_BUFFER = 256 * 1024
# Answers above this are sent from where they lie: many slow readers of one CRL hold it once.
_LARGE = 64 * 1024
# A peer that takes its answer slower than this per `body_timeout` is given up.
_SLOWEST_READ = 16 * 1024


class Host(Protocol):
    """The server as its connections see it."""

    now: float
    closing: bool
    limits: Limits

    def admit(self, connection: Connection) -> bool:
        """Take a new connection in; False when there are too many."""

    def overrun(self) -> bool:
        """Tell whether even refusing connections takes too many of them."""

    def forget(self, connection: Connection) -> None: ...

    def answer(self, request: Request) -> bytes | Awaitable[Reply]:
        """Ask the handler; whatever it raises becomes its error answer."""

    def settle(self, request: Request, task: asyncio.Future[Reply]) -> bytes:
        """Return what a finished handler answered, or its error answer."""

    def date(self) -> bytes:
        """Return the Date field (RFC 9110 6.6.1), or nothing without a clock."""


class _RefusedError(Exception):
    """Raised inside a parser callback to stop parsing; the connection holds the status."""


class _Slot:
    """The place of one answer in the order of a connection."""

    __slots__ = ("head", "last", "wire")

    def __init__(self, *, head: bool, last: bool) -> None:
        self.head = head
        self.last = last
        self.wire: bytes | None = None


class Connection(asyncio.Protocol):
    """One connection; the parser calls its `on_*` methods."""

    __slots__ = (
        "_authorization",
        "_backlog",
        "_body",
        "_body_size",
        "_certificate",
        "_content_type",
        "_corked",
        "_discarded",
        "_eof",
        "_expects",
        "_fields",
        "_framing",
        "_half_close",
        "_header_bytes",
        "_hosts",
        "_if_modified_since",
        "_if_none_match",
        "_in_headers",
        "_last_admitted",
        "_lingering",
        "_out",
        "_out_answers",
        "_out_large",
        "_parser",
        "_peer",
        "_progressed",
        "_reading",
        "_replaying",
        "_resume",
        "_server",
        "_slots",
        "_status",
        "_target",
        "_tasks",
        "_transport",
        "_undelimited",
        "_unsent",
        "_write_paused",
        "busy",
        "read_deadline",
        "write_deadline",
    )

    def __init__(self, server: Host) -> None:
        self._server = server
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._peer = ""
        self._certificate: bytes | None = None
        self._half_close = True
        self._slots: collections.deque[_Slot] = collections.deque()
        self._backlog: collections.deque[tuple[Request | bytes, bool]] = collections.deque()
        self._tasks: set[asyncio.Future[Reply]] = set()
        self._out: list[bytes | memoryview] = []
        self._out_large = False
        self._out_answers = 0
        self._corked = False
        self._reading = True
        self._write_paused = False
        self._lingering = False
        self._eof = False
        self._last_admitted = False
        self._discarded = 0
        self._status = 400
        self._in_headers = False
        self._progressed = False
        self._undelimited = 0
        self._unsent = 0
        self._resume = b""
        self._replaying = False
        self.busy = False
        self.read_deadline = server.now + server.limits.header_timeout
        self.write_deadline = math.inf
        self._reset()

    def _reset(self) -> None:
        self._target = b""
        self._hosts = 0
        self._content_type: bytes | None = None
        self._if_none_match: bytes | None = None
        self._if_modified_since: bytes | None = None
        self._authorization: bytes | None = None
        self._body: list[bytes] = []
        self._body_size = 0
        self._header_bytes = 0
        self._fields = 0
        self._framing = b""
        self._expects = False

    # -- the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if isinstance(peer, tuple) else ""
        if (tls := transport.get_extra_info("ssl_object")) is not None:
            self._certificate = tls.getpeercert(binary_form=True)
            # asyncio ends both directions of TLS at once.
            self._half_close = False
        if not self._server.admit(self):
            self._parser = None
            self._turn_away()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - how it ended changes nothing
        self._server.forget(self)
        self._transport = self._parser = None
        for task in self._tasks:
            task.cancel()
        self._slots.clear()
        self._backlog.clear()

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            self._discarded += len(data)
            if self._discarded > LINGER_BYTES:
                self.abort()
            return
        self._corked, self._progressed = True, False
        self._feed(data)
        if self._partial():
            # A part-read name or value, of a trailer too, sits in the parser unseen; what was read bounds it.
            self._undelimited = 0 if self._progressed else self._undelimited + len(data)
            if self._undelimited > self._server.limits.max_header_bytes:
                self._refuse(431)
        self._uncork()

    def _feed(self, data: bytes) -> None:
        while data and (parser := self._parser) is not None:
            try:
                parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                # An offer to upgrade (h2c) may be ignored (RFC 9110 7.8): answer, and read on in HTTP/1.1.
                data = self._resume + data[upgrade.args[0] :]
                self._replaying, self._resume = bool(self._resume), b""
                if self._parser is not None:
                    self._parser = httptools.HttpRequestParser(self)
            except httptools.HttpParserCallbackError as error:
                if not isinstance(error.__context__, _RefusedError):
                    log.exception("http.parser_callback")
                    self._status = 500
                self._refuse(self._status)
            except httptools.HttpParserError:
                if not self._last_admitted:
                    self._refuse(400)
                self._parser = None
            else:
                return

    def eof_received(self) -> bool:
        """Serve what a half-closed peer has asked for; a request cut short is a bad one."""
        if self._lingering:
            return False
        self._eof = True
        if self._partial():
            self._refuse(400)
            return self._half_close
        self._parser = None
        if self._slots or self._backlog:
            self._last_admitted = True
            self.read_deadline = math.inf
            return self._half_close
        return False

    def _partial(self) -> bool:
        """Tell whether a request has begun to arrive and has not ended."""
        return self._parser is not None and (self._in_headers or bool(self._target))

    def pause_writing(self) -> None:
        self._write_paused = True
        self._unsent = self._transport.get_write_buffer_size() if self._transport is not None else 0
        self.write_deadline = self._server.now + self._server.limits.body_timeout
        self._hold()

    def resume_writing(self) -> None:
        self._write_paused = False
        self.write_deadline = math.inf
        self._pump()

    # -- the parser calls

    def on_message_begin(self) -> None:
        if self._replaying:
            return
        if self._last_admitted:
            raise _RefusedError
        self._in_headers = True
        self.read_deadline = self._server.now + self._server.limits.header_timeout

    def on_url(self, url: bytes) -> None:
        if self._replaying:
            return
        self._target = self._target + url if self._target else url
        if len(self._target) > self._server.limits.max_target:
            self._stop(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._replaying:
            return
        self._fields += 1
        self._header_bytes += len(name) + len(value) + 4
        limits = self._server.limits
        if self._fields > limits.max_headers or self._header_bytes + len(self._target) > limits.max_header_bytes:
            self._stop(431)
        if not self._in_headers:
            # A trailer is no header field (RFC 9110 6.5.1): what stands between may have passed it on unread.
            return
        name = name.lower()
        if name == b"host":
            self._hosts += 1
        elif name == b"content-type":
            self._content_type = value
        elif name == b"if-none-match":
            # RFC 9110 5.3: several fields of a list are one list.
            before = self._if_none_match
            self._if_none_match = value if before is None else before + b", " + value
        elif name == b"if-modified-since":
            self._if_modified_since = value
        elif name == b"authorization":
            # Twice is none that anybody gave out.
            self._authorization = value if self._authorization is None else b""
        elif name == b"content-length":
            # llhttp has refused what is not a number; one that is too long to convert is too large as well.
            if len(value) > 18 or int(value) > limits.max_body:
                self._stop(413)
            self._framing += b"Content-Length: %b\r\n" % value
        elif name == b"transfer-encoding":
            self._framing += b"Transfer-Encoding: %b\r\n" % value
        elif name == b"expect":
            if value.lower() != b"100-continue":
                self._stop(417)
            self._expects = True

    def on_headers_complete(self) -> None:
        parser = self._parser
        if parser is None:
            raise _RefusedError
        if self._replaying:
            self._replaying = False
            return
        if parser.get_method() not in _METHODS:
            self._stop(405)
        # RFC 9112 3.2: exactly one Host in HTTP/1.1.
        if self._hosts > 1 or (not self._hosts and parser.get_http_version() == "1.1"):
            self._stop(400)
        self._in_headers = False
        self._undelimited = 0
        self.read_deadline = self._server.now + self._server.limits.body_timeout
        if self._expects and parser.get_http_version() == "1.1":
            self._continue()
        if self._framing and parser.should_upgrade():
            # httptools ends such a message here, and would take its body for the next request. Another parser
            # reads the body, after a head that says no more than how long it is.
            close = b"" if parser.should_keep_alive() else b"Connection: close\r\n"
            version = parser.get_http_version().encode()
            self._resume = b"%b / HTTP/%b\r\n%b%b\r\n" % (parser.get_method(), version, close, self._framing)

    def _continue(self) -> None:
        if self._slots or self._backlog:
            self._admit(_CONTINUE, last=False)
        else:
            self._out.append(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        self._progressed = True
        self._body_size += len(body)
        if self._body_size > self._server.limits.max_body:
            self._stop(413)
        self._body.append(body)

    def on_message_complete(self) -> None:
        parser = self._parser
        if parser is None:
            raise _RefusedError
        if self._resume:
            return
        self._progressed = True
        body = self._body
        request = Request(
            parser.get_method(),
            self._target if self._target.startswith(b"/") else _origin_form(self._target),
            b"" if not body else body[0] if len(body) == 1 else b"".join(body),
            self._peer,
            self._content_type,
            self._if_none_match,
            self._if_modified_since,
            self._authorization,
            self._certificate,
        )
        # An HTTP/1.0 peer is answered once: it does not promise to understand persistence.
        last = not parser.should_keep_alive() or parser.get_http_version() == "1.0" or self._server.closing
        self._last_admitted = last
        self._reset()
        self.read_deadline = math.inf if last else self._server.now + self._server.limits.idle_timeout
        self._admit(request, last=last)

    def _admit(self, request: Request | bytes, *, last: bool) -> None:
        if self._backlog or self._full():
            self._backlog.append((request, last))
            self._hold()
        else:
            self._dispatch(request, last=last)

    def _stop(self, status: int) -> None:
        self._status = status
        raise _RefusedError

    # -- answers

    def _full(self) -> bool:
        bound = self._server.limits.max_pipelined
        return self._write_paused or len(self._slots) >= bound or self._out_answers >= bound

    def _dispatch(self, request: Request | bytes, *, last: bool) -> None:
        """Have a request answered; `bytes` are an answer of the connection itself, in its turn."""
        self.busy = True
        if isinstance(request, bytes):
            self._order(request, head=False, last=last)
            return
        head, answer = request.method == b"HEAD", self._server.answer(request)
        if isinstance(answer, bytes) and not head and not last and not self._slots:
            self._emit(answer)
        elif isinstance(answer, bytes):
            self._order(answer, head=head, last=last)
        else:
            slot = _Slot(head=head, last=last)
            self._slots.append(slot)
            task = asyncio.ensure_future(answer)
            self._tasks.add(task)
            self.read_deadline = math.inf
            task.add_done_callback(lambda done: self._settle(slot, request, done))

    def _order(self, wire: bytes, *, head: bool, last: bool) -> None:
        """Put an answer that is there into its turn."""
        slot = _Slot(head=head, last=last)
        slot.wire = wire
        self._slots.append(slot)
        self._flush_slots()

    def _settle(self, slot: _Slot, request: Request, task: asyncio.Future[Reply]) -> None:
        self._tasks.discard(task)
        slot.wire = self._server.settle(request, task)
        if self._transport is not None:
            self._corked = True
            self._flush_slots()
            self._uncork()
            self._pump()

    def _flush_slots(self) -> None:
        slots = self._slots
        while slots and (wire := slots[0].wire) is not None:
            slot = slots.popleft()
            if slot.head:
                wire = wire[: wire.index(b"\r\n\r\n") + 4]
            self._emit(wire, last=slot.last)

    def _emit(self, wire: bytes, *, last: bool = False) -> None:
        """Queue an answer for writing, with the fields that are this connection's after its status line."""
        self._out_answers += 1
        fields = self._server.date() if wire is not _CONTINUE else b""
        if last:
            fields += b"Connection: close\r\n"
        if not fields:
            self._out.append(wire)
            return
        at = wire.index(b"\n") + 1
        if len(wire) > _LARGE:
            self._out_large = True
            self._out += (wire[:at], fields, memoryview(wire)[at:])
        else:
            self._out += (wire[:at], fields, wire[at:])

    def _uncork(self) -> None:
        """Write everything answered in this tick with one call, and go on with what had to wait."""
        self._corked = False
        transport = self._transport
        if transport is None:
            return
        if self._out:
            out, self._out, self._out_answers = self._out, [], 0
            if self._out_large:
                self._out_large = False
                for part in out:
                    transport.write(part)
            else:
                transport.write(out[0] if len(out) == 1 else b"".join(out))
        if self._slots or self._backlog:
            if self._backlog and not self._full():
                asyncio.get_running_loop().call_soon(self._pump)
            return
        self.busy = self._partial()
        if self._last_admitted:
            self._finish()
        elif not self.busy and self._server.closing:
            self._leave()
        elif self.read_deadline == math.inf:
            self.read_deadline = self._server.now + self._server.limits.idle_timeout

    def _pump(self) -> None:
        if self._transport is None:
            return
        self._corked = True
        while self._backlog and not self._full():
            request, last = self._backlog.popleft()
            self._dispatch(request, last=last)
        self._uncork()
        if not self._backlog and not self._full() and not self._reading and self._transport is not None:
            self._reading = True
            if self._partial():
                self.read_deadline = self._server.now + self._server.limits.body_timeout
            self._transport.resume_reading()

    def _hold(self) -> None:
        if self._reading and self._transport is not None and self._parser is not None:
            self._reading = False
            self._transport.pause_reading()

    # -- endings

    def _refuse(self, status: int) -> None:
        """Answer after everything asked before, and hear no more from this peer."""
        self._parser = None
        if self._lingering or self._last_admitted:
            return
        self._in_headers = False
        words = {405: "the methods here are GET, HEAD and POST", 417: "only 100-continue is understood"}
        phrase = PHRASES[status].decode()
        fields = (("Allow", "GET, HEAD, POST"),) if status == 405 else ()
        self._last_admitted = True
        self._reset()
        self.read_deadline = math.inf
        self._admit(to_wire(text(status, words.get(status, phrase), *fields)), last=True)
        if not self._corked:
            self._uncork()

    def _turn_away(self) -> None:
        """One connection too many: say so and hang up; far too many: hang up."""
        self._last_admitted = True
        if self._server.overrun():
            self.abort()
        elif self._transport is not None:
            self._emit(to_wire(text(503, "too many connections; try again later", RETRY)), last=True)
            self._uncork()

    def _finish(self) -> None:
        """Everything is answered: send FIN, and drain what the peer still sends for a moment."""
        transport = self._transport
        if transport is None or self._lingering:
            return
        self._lingering = True
        self._parser = None
        self.busy = False
        if self._eof or self._server.closing:
            self._leave()
            return
        self._unsent = transport.get_write_buffer_size()
        limits = self._server.limits
        self.read_deadline = self._server.now + (limits.body_timeout if self._unsent else LINGER_SECONDS)
        if transport.can_write_eof():
            transport.write_eof()
        if not self._reading:
            self._reading = True
            transport.resume_reading()

    def expire(self) -> None:
        """The server's timer found a deadline passed."""
        server, transport = self._server, self._transport
        if transport is None:
            return
        if self.write_deadline <= server.now:
            if not self._reads(_SLOWEST_READ):
                transport.abort()
                return
            self.write_deadline = server.now + server.limits.body_timeout
        if self.read_deadline > server.now:
            return
        if self._lingering:
            if not self._reads(1):
                transport.abort()
            self.read_deadline = server.now + server.limits.body_timeout
        elif self._slots or self._backlog or not self._reading:
            self.read_deadline = math.inf
        elif self._partial():
            self._refuse(408)
        else:
            self._leave()

    def _leave(self) -> None:
        """Close, and let nobody hold the connection open by not reading its last answer."""
        if self._transport is not None:
            self._lingering, self._parser = True, None
            self._unsent = self._transport.get_write_buffer_size()
            self.read_deadline = self._server.now + self._server.limits.body_timeout
            self._transport.close()

    def _reads(self, least: int) -> bool:
        """Tell whether the peer took at least so many octets of its answers since this was last asked."""
        before = self._unsent
        self._unsent = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return before - self._unsent >= least

    def close_if_idle(self) -> None:
        if not self.busy:
            self._leave()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _origin_form(target: bytes) -> bytes:
    """Return what follows the authority of an absolute-form target (RFC 9112 3.2.2); others as they are."""
    if target[:7].lower() != b"http://":
        return target
    slash = target.find(b"/", 7)
    return target[slash:] if slash >= 0 else b"/"
