"""What a raw HTTP handler takes and gives: requests, responses and the limits of a server."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping

PHRASES = {
    200: b"OK",
    304: b"Not Modified",
    400: b"Bad Request",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    414: b"URI Too Long",
    415: b"Unsupported Media Type",
    417: b"Expectation Failed",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    503: b"Service Unavailable",
}
_BODILESS = frozenset({304})


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """
    Bounds of one server. Times are seconds, sizes octets.

    `header_timeout` runs from the connection or from the first octet of a request to the end of its headers;
    `body_timeout` from there to the end of the body, and for a peer that does not read its answer;
    `idle_timeout` between requests. `max_pipelined` answers are outstanding on one connection, `max_inflight`
    unfinished handlers in the server; more are answered 503.
    """

    max_body: int = 64 * 1024
    max_header_bytes: int = 16 * 1024
    max_headers: int = 64
    header_timeout: float = 10.0
    body_timeout: float = 20.0
    idle_timeout: float = 60.0
    max_connections: int = 10_000
    max_pipelined: int = 32
    max_inflight: int = 4096


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """
    One request.

    `target` is the raw request target with its query; `headers` holds only the fields the server was told to
    keep, names in lower case; `peer` is the address the connection came from.
    """

    method: str
    target: bytes
    headers: Mapping[bytes, bytes]
    body: bytes
    peer: str


@dataclasses.dataclass(frozen=True, slots=True)
class Response:
    """One response; the server adds Date, Content-Length and, where needed, Connection."""

    status: int
    body: bytes
    content_type: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


# `bytes` is a complete response on the wire without Date and Connection.
Answer = Response | bytes
Handler = Callable[[Request], Answer | Awaitable[Answer]]


def to_wire(response: Response) -> bytes:
    """Encode a response without Date and Connection: what a handler may keep and return as `bytes`."""
    phrase = PHRASES.get(response.status, b"Status")
    parts = [b"HTTP/1.1 %d %b\r\n" % (response.status, phrase)]
    if response.status not in _BODILESS:
        parts.append(b"Content-Type: %b\r\nContent-Length: %d\r\n" % (response.content_type, len(response.body)))
    parts += [b"%b: %b\r\n" % field for field in response.headers]
    parts.append(b"\r\n")
    if response.status not in _BODILESS:
        parts.append(response.body)
    return b"".join(parts)


def text(status: int, words: str, *headers: tuple[bytes, bytes]) -> Response:
    """Return a plain-text response of one line."""
    return Response(status, words.encode() + b"\n", b"text/plain; charset=utf-8", headers)
