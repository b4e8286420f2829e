"""A link to PostgreSQL that breaks once, at a chosen statement: before it arrives, or after its commit."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from pathlib import Path

from chancery.postgres.embedded import PORT

# PostgreSQL protocol, message formats: Parse with the name of a `postgres.statement.Statement`, sent alone;
# ReadyForQuery when no transaction is open.
_PREPARED = re.compile(rb"P.{4}(s[0-9a-f]{16}\0)", re.DOTALL)
_IDLE = b"Z\0\0\0\x05I"


class Link:
    """
    Listens in `directory` as the server's socket would, and passes everything on to the server in `host`.

    When `statement` comes by, the connection is cut: with `losing="statement"` before the server gets it, with
    "reply" after the server has said that it is committed, which the client never hears. Once; then all passes.
    """

    def __init__(self, directory: Path, host: str, statement: bytes, losing: str) -> None:
        self.host = str(directory)
        self.cut = False
        self._server = f"{host}/.s.PGSQL.{PORT}"
        self._statement, self._losing = statement, losing
        self._names: set[bytes] = set()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{directory}/.s.PGSQL.{PORT}")
        self._listener.listen(8)
        self._ends: list[socket.socket] = []
        self._pumps: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def close(self) -> None:
        """For after the client has ended."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        for thread in self._pumps:
            thread.join()
        for end in (self._listener, *self._ends):
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                self._ends += (client, server)
                server.connect(self._server)
                seen = threading.Event()
                for way in ((client, server, seen, True), (server, client, seen, False)):
                    self._pumps.append(threading.Thread(target=self._pump, args=way))
                    self._pumps[-1].start()

    def _pump(self, source: socket.socket, target: socket.socket, seen: threading.Event, upwards: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not self.cut and self._breaks(data, seen, upwards):
                    self.cut = True
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _breaks(self, data: bytes, seen: threading.Event, upwards: bool) -> bool:
        if upwards:
            if self._statement not in data:
                # A statement that was prepared before runs by its name alone.
                if any(name in data for name in self._names):
                    seen.set()
            elif prepared := _PREPARED.search(data):
                self._names.add(prepared[1])
            else:
                seen.set()
            return seen.is_set() and self._losing == "statement"
        return seen.is_set() and self._losing == "reply" and _IDLE in data
