"""
Statements of known types: prepared once on a connection, then sent with their values as they are.

What psycopg does for any statement (it looks at the values, finds types, makes cursors) costs more processor time
than a lone certificate's own work; here the types are in the text. Nothing but libpq is between.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import re
import struct
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg.adapt import Transformer
from psycopg.pq import ConnStatus, ExecStatus, Format
from psycopg.pq.abc import PGconn, PGresult
from psycopg.rows import TupleRow

from chancery.postgres.rows import columns

_EPOCH = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_DAY, _SECOND = 86_400_000_000, 1_000_000
_GOOD = frozenset({ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK})
_LENGTH = struct.Struct("!i")
_NULL = _LENGTH.pack(-1)
_ARRAY = struct.Struct("!5i")
_EMPTY = struct.Struct("!3i")
_PARAMETER = re.compile(r"\{([a-z]+)(\[\])?\}")
_ROWS = re.compile(r"<([a-z]+(?:, [a-z]+)*)>")
_VALUES = re.compile(rf"{_PARAMETER.pattern}|{_ROWS.pattern}")


_BIGINT = struct.Struct("!q").pack


def _microseconds(at: datetime.datetime) -> bytes:
    since = at - _EPOCH
    return _BIGINT(since.days * _DAY + since.seconds * _SECOND + since.microseconds)


def _boolean(value: bool) -> bytes:  # noqa: FBT001 - a value of a row
    return b"\x01" if value else b"\x00"


_TYPES: dict[str, tuple[int, int, Callable[[Any], bytes]]] = {
    "boolean": (16, 1000, _boolean),
    "bytea": (17, 1001, bytes),
    "bigint": (20, 1016, _BIGINT),
    "smallint": (21, 1005, struct.Struct("!h").pack),
    "integer": (23, 1007, _LENGTH.pack),
    "text": (25, 1009, str.encode),
    "timestamptz": (1184, 1185, _microseconds),
}
"""The number of each type and of its array, and how a value is written (PostgreSQL's binary format)."""


def _array(element: int, encode: Callable[[Any], bytes]) -> Callable[[Sequence[Any]], bytes]:
    def write(values: Sequence[Any]) -> bytes:
        if not values:
            return _EMPTY.pack(0, 0, element)
        found = [_ARRAY.pack(1, int(None in values), element, len(values), 1)]
        for value in values:
            if value is None:
                found.append(_NULL)
            else:
                octets = encode(value)
                found.append(_LENGTH.pack(len(octets)))
                found.append(octets)
        return b"".join(found)

    return write


class Statement:
    """
    One SQL statement. Each `{type}` or `{type[]}` in `text` is a parameter, in the order of the values.

    Types: bigint, integer, smallint, boolean, text, bytea, timestamptz (aware). A value or an element may be None.
    """

    def __init__(self, text: str) -> None:
        oids: list[int] = []
        encoders: list[Callable[[Any], bytes]] = []

        def number(match: re.Match[str]) -> str:
            plain, array, encode = _TYPES[match[1]]
            oids.append(array if match[2] else plain)
            encoders.append(_array(plain, encode) if match[2] else encode)
            return f"${len(oids)}"

        self.sql = _PARAMETER.sub(number, text).encode()
        self.name = b"s" + hashlib.sha256(self.sql).hexdigest()[:16].encode()
        self._oids = oids
        self._encoders = encoders
        self._formats = [Format.BINARY] * len(oids)

    def prepare(self, wire: PGconn) -> None:
        """Prepare it on a connection. Raises psycopg's errors."""
        _check(wire, wire.prepare(self.name, self.sql, self._oids))

    def run(self, connection: psycopg.Connection[Any], values: Sequence[object]) -> list[TupleRow]:
        """Run it where it is prepared, and return its rows. Blocks; raises psycopg's errors."""
        wire = connection.pgconn
        found = wire.exec_prepared(self.name, self._written(values), self._formats, Format.BINARY)
        return _rows(connection, _check(wire, found))

    async def run_async(
        self, connection: psycopg.AsyncConnection[Any], values: Sequence[object]
    ) -> list[TupleRow]:
        """As `run`, for an event loop; prepares it first where it is not yet."""
        wire, known = connection.pgconn, _prepared.setdefault(connection, set())
        if self.name not in known:
            await self._prepare_async(wire)
            known.add(self.name)
        wire.send_query_prepared(self.name, self._written(values), self._formats, Format.BINARY)
        answer = await _answer(wire)
        try:
            return _rows(connection, _check(wire, answer))
        except psycopg.errors.InvalidSqlStatementName:
            # psycopg says DEALLOCATE ALL some time after a ROLLBACK, and means ours, too. Nothing was done.
            await self._prepare_async(wire)
            wire.send_query_prepared(self.name, self._written(values), self._formats, Format.BINARY)
            return _rows(connection, _check(wire, await _answer(wire)))

    async def _prepare_async(self, wire: PGconn) -> None:
        wire.send_prepare(self.name, self.sql, self._oids)
        _check(wire, await _answer(wire))

    def _written(self, values: Sequence[object]) -> list[Any]:
        # Octets, or None for NULL, which the type of `exec_prepared` does not know of.
        pairs = zip(self._encoders, values, strict=True)
        try:
            return [None if value is None else encode(value) for encode, value in pairs]
        except struct.error as error:
            raise psycopg.DataError(f"a value that its type does not hold: {error}") from error


class Rows:
    """
    A statement about any number of rows: each `<type, type>` in `text` is a set of rows with these columns.

    A single row goes as it is (VALUES), which the server is quicker to begin with; more go as columns (unnest).
    """

    def __init__(self, text: str) -> None:
        self._one = Statement(_ROWS.sub(lambda m: f"(VALUES ({_types(m, '{%s}')}))", text))
        self._many = Statement(_ROWS.sub(lambda m: f"unnest({_types(m, '{%s[]}')})", text))
        self._sets = [match[0].startswith("<") for match in _VALUES.finditer(text)]
        self._widths = [match[1].count(",") + 1 for match in _ROWS.finditer(text)]

    def of(self, *values: Any) -> tuple[Statement, list[object]]:
        """Return the statement and its values: of a set, the rows; of any other parameter, what it is."""
        sets = [rows for rows, is_set in zip(values, self._sets, strict=True) if is_set]
        widths = iter(self._widths)
        found: list[object] = []
        one = all(len(rows) == 1 for rows in sets)
        for value, is_set in zip(values, self._sets, strict=True):
            if not is_set:
                found.append(value)
            elif one:
                found += value[0]
            else:
                found += columns(value, next(widths))
        return (self._one if one else self._many), found


def _types(match: re.Match[str], form: str) -> str:
    return ", ".join(form % name for name in match[1].split(", "))


_prepared: weakref.WeakKeyDictionary[psycopg.AsyncConnection[Any], set[bytes]] = weakref.WeakKeyDictionary()


def _check(wire: PGconn, found: PGresult) -> PGresult:
    if found.status in _GOOD:
        return found
    if wire.status == ConnStatus.BAD:
        raise psycopg.OperationalError("the connection is lost")
    raise psycopg.errors.error_from_result(found)


def _rows(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], found: PGresult) -> list[TupleRow]:
    if not found.ntuples:
        return []
    reader = Transformer(connection)
    reader.set_pgresult(found)
    return reader.load_rows(0, found.ntuples, tuple)


async def _answer(wire: PGconn) -> PGresult:
    """Return the result of what was just sent. A caller that is cancelled leaves the connection in the middle."""
    while wire.flush():
        await _ready(wire.socket, writing=True)
        # A server that has much to say reads on when it was heard.
        wire.consume_input()
    while wire.is_busy():
        await _ready(wire.socket)
        wire.consume_input()
    found = wire.get_result()
    assert found is not None
    # Nothing follows the one result but the word that there is no more.
    while wire.is_busy():
        await _ready(wire.socket)
        wire.consume_input()
    assert wire.get_result() is None
    return found


async def _ready(socket: int, *, writing: bool = False) -> None:
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    loop.add_reader(socket, wake)
    if writing:
        loop.add_writer(socket, wake)
    try:
        await future
    finally:
        loop.remove_reader(socket)
        if writing:
            loop.remove_writer(socket)
