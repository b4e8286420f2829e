"""Reading what a client sent: bounded while it streams, strict JSON, strict query parameters."""

from __future__ import annotations

import asyncio
import functools
import urllib.parse
from typing import Final, TypeVar, cast

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from chancery.errors import ErrorType, PKIError

MAX_BODY: Final = 256 * 1024
MAX_DRAINED: Final = 768 * 1024
BODY_SECONDS: Final = 15.0
T = TypeVar("T", bound=msgspec.Struct)


async def read_body(request: Request) -> bytes:
    """
    Return the body, of at most MAX_BODY octets.

    Raises HTTPException: 413 when it is longer, 408 when it does not arrive, 400 when it breaks off.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 9 or int(declared) > MAX_DRAINED):
        raise _too_large()
    body, received = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                received += len(chunk)
                # What is a little too long is read to its end and dropped: closing the connection while the client
                # still writes would reset it, and take the answer with it (RFC 9112 9.6).
                if received > MAX_DRAINED:
                    raise _too_large()
                if received <= MAX_BODY:
                    body += chunk
    except TimeoutError:
        raise HTTPException(408, "the body did not arrive", {"connection": "close"}) from None
    except ClientDisconnect:
        raise HTTPException(400, "the body broke off", {"connection": "close"}) from None
    if received > MAX_BODY:
        raise _too_large()
    return bytes(body)


def _too_large() -> HTTPException:
    return HTTPException(413, f"a body of more than {MAX_BODY} octets", {"connection": "close"})


def media_type(request: Request) -> str:
    """Return the body's media type in lower case, without parameters; HTTPException 415 when it is encoded."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, "the body is expected without a content-encoding")
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


async def read_json(request: Request, type_: type[T]) -> T:
    """
    Return the body decoded as this type.

    Depth is bounded by the type, because an unknown field is refused before its value is read. Raises
    PKIError(BAD_DATA_FORMAT) naming the field, and HTTPException 415, 413, 408.
    """
    if media_type(request) != "application/json":
        raise HTTPException(415, "the body is expected as application/json")
    body = await read_body(request)
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PKIError(ErrorType.BAD_DATA_FORMAT, reason(error)) from None


def read_query(request: Request, type_: type[T]) -> T:
    """
    Return the query parameters as this type; a field that is a list takes a parameter given several times.

    Raises PKIError(BAD_REQUEST) for one that is unknown, wrong, or repeated without being a list.
    """
    lists = _lists(type_)
    values: dict[str, str | list[str]] = {}
    # As starlette reads it, without the two dictionaries that it makes of it.
    text = request.scope["query_string"].decode("latin-1")
    for name, value in _pairs(text):
        if name in lists:
            cast("list[str]", values.setdefault(name, [])).append(value)
        elif name in values:
            raise PKIError(ErrorType.BAD_REQUEST, "a query parameter is given twice")
        else:
            values[name] = value
    try:
        return msgspec.convert(values, type_, strict=False)
    except msgspec.ValidationError as error:
        raise PKIError(ErrorType.BAD_REQUEST, f"query: {reason(error)}") from None


def _pairs(text: str) -> list[tuple[str, str]]:
    if "%" in text or "+" in text:
        return urllib.parse.parse_qsl(text, keep_blank_values=True)
    # Nothing to decode: the same at a fraction of the cost.
    parts = (one.partition("=") for one in text.split("&") if one)
    return [(name, value) for name, _, value in parts]


@functools.cache
def _lists(type_: type[msgspec.Struct]) -> frozenset[str]:
    """Names of the fields that are lists."""
    fields = msgspec.structs.fields(type_)
    return frozenset(field.encode_name for field in fields if field.default_factory is list)


def reason(error: Exception) -> str:
    """What msgspec says is wrong, short enough for any client's log."""
    text = str(error) if isinstance(error, msgspec.MsgspecError) else "not JSON in UTF-8"
    return text[:300]
