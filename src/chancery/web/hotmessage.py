"""What a handler of the hot HTTP server takes and gives: requests, answers and the limits of a server."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable

PHRASES = {
    200: b"OK",
    304: b"Not Modified",
    400: b"Bad Request",
    401: b"Unauthorized",
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
TEXT = "text/plain; charset=utf-8"
# RFC 9110 15.4.5: a 304 has no content, and none of its fields may say otherwise.
_BODILESS = frozenset({304})


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """
    Bounds of one server. Times are seconds, sizes octets.

    `header_timeout` runs from the connection or from the first octet of a request to the end of its headers;
    `body_timeout` from there to the end of the body, and for a peer that does not read its answer;
    `idle_timeout` between requests. `max_pipelined` answers are outstanding on one connection, `max_inflight`
    unfinished handlers in the server; more are answered 503. `max_header_bytes` counts the target too.
    """

    max_body: int = 64 * 1024
    max_target: int = 8 * 1024
    max_header_bytes: int = 16 * 1024
    max_headers: int = 64
    header_timeout: float = 10.0
    body_timeout: float = 20.0
    idle_timeout: float = 60.0
    max_connections: int = 10_000
    max_pipelined: int = 32
    max_inflight: int = 4096


@dataclasses.dataclass(slots=True)
class Request:
    """
    One request, made for one handler call and not changed by it.

    `target` is the origin-form target with its query, as it came; `client` the address of the peer; `certificate`
    (DER) that of its TLS connection.
    """

    method: bytes
    target: bytes
    body: bytes
    client: str
    content_type: bytes | None = None
    if_none_match: bytes | None = None
    if_modified_since: bytes | None = None
    authorization: bytes | None = None
    certificate: bytes | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """One answer; the server adds Date, Content-Length and, where needed, Connection."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


# `bytes` is a complete answer as `to_wire` makes it, which a handler may keep and give again.
Reply = Answer | bytes
Handler = Callable[[Request], Reply | Awaitable[Reply]]
OnError = Callable[[Request], Answer]


def to_wire(answer: Answer) -> bytes:
    """Encode an answer without Date and Connection. ValueError when a header field would break the message."""
    fields = list(answer.headers)
    if answer.status not in _BODILESS:
        fields[:0] = [("Content-Type", answer.content_type), ("Content-Length", str(len(answer.body)))]
    head = "".join(f"{name}: {value}\r\n" for name, value in fields)
    if head.count("\n") != len(fields) or head.count("\r") != len(fields):
        raise ValueError("a line break in a header field")
    phrase = PHRASES.get(answer.status, b"Status")
    body = b"" if answer.status in _BODILESS else answer.body
    return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (answer.status, phrase, head.encode("latin-1"), body)


def text(status: int, words: str, *headers: tuple[str, str]) -> Answer:
    """Return a plain-text answer of one line."""
    return Answer(status, TEXT, words.encode() + b"\n", headers)
