"""One connection on which bulk requests go out and their answers come in at the same time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final, Self

import httptools
import httpx

from chancery.cli.api_client import Client
from chancery.web.bulk import Lines
from chancery.web.service import NDJSON

MAX_ANSWER: Final = 1024 * 1024
"""Octets of one line of the answer: a certificate in PEM, and words."""
CONNECT_SECONDS: Final = 10.0
SILENT_SECONDS: Final = 120.0
_CHUNK: Final = 64 * 1024


class BrokenOffError(Exception):
    """The conversation ended before its last line; what was asked can be asked again."""


class _Answer:
    """What httptools calls back: status, whether it is whole, and the body as lines."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.body = bytearray()
        self.begun = self.whole = False

    def on_headers_complete(self) -> None:
        self.begun = True

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.whole = True


class Stream:
    """
    One call of the bulk endpoint: `send` lines and `finish`, while `answers` gives the lines that come back.

    Use as an asynchronous context. Raises OSError (TLS's errors are such) and BrokenOffError; whatever the server
    answers in place of 200 is raised by `answers` as httpx.HTTPStatusError.
    """

    def __init__(self, client: Client, wait: float) -> None:
        """`wait`: seconds after which the server is to answer a line that is not settled."""
        self._client = client
        self._wait = wait
        self._answer = _Answer()

    async def __aenter__(self) -> Self:
        base = self._client.base
        port = base.port or 443
        async with asyncio.timeout(CONNECT_SECONDS):
            self._reader, self._writer = await asyncio.open_connection(
                base.host, port, ssl=self._client.context, server_hostname=base.host
            )
        path = f"{base.path}/certificates/bulk?wait={self._wait:g}"
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {base.netloc.decode()}\r\nuser-agent: chancery\r\n"
            f"content-type: {NDJSON}\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
        )
        self._writer.write(head.encode())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                await self._writer.wait_closed()

    async def send(self, data: bytes) -> None:
        """Send some lines, each with its end; waits while the server does not read."""
        self._writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self._writer.drain()

    async def finish(self) -> None:
        """Say that there are no more."""
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    async def answers(self) -> AsyncIterator[list[bytes]]:
        """Give the lines of the answer as they come, those that come together at once, until it is whole."""
        lines, answer = Lines(MAX_ANSWER), self._answer
        while not answer.whole:
            data = await self._read()
            try:
                answer.parser.feed_data(data)
            except httptools.HttpParserError as error:
                raise BrokenOffError(str(error)) from None
            if answer.begun and answer.parser.get_status_code() != httpx.codes.OK:
                if answer.whole or len(answer.body) > MAX_ANSWER:
                    self._refused()
                continue
            found = [line for line in lines.feed(bytes(answer.body)) if line is not None]
            answer.body.clear()
            if found:
                yield found

    async def _read(self) -> bytes:
        try:
            async with asyncio.timeout(SILENT_SECONDS):
                data = await self._reader.read(_CHUNK)
        except TimeoutError:
            raise BrokenOffError("no answer for too long") from None
        if not data:
            raise BrokenOffError("the connection was closed")
        return data

    def _refused(self) -> None:
        request = httpx.Request("POST", self._client.base)
        answer = httpx.Response(
            self._answer.parser.get_status_code(), content=bytes(self._answer.body), request=request
        )
        answer.raise_for_status()
