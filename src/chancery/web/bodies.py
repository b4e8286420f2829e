"""Reading what a client sent: bounded while it streams, strict JSON, strict query parameters."""

from __future__ import annotations

import asyncio
from typing import Final, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from chancery.errors import ErrorType, PKIError

MAX_BODY: Final = 256 * 1024
BODY_SECONDS: Final = 15.0
T = TypeVar("T", bound=msgspec.Struct)


async def read_body(request: Request) -> bytes:
    """
    Return the body, of at most MAX_BODY octets.

    Raises HTTPException: 413 as soon as it is longer, 408 when it does not arrive, 400 when it breaks off.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 9 or int(declared) > MAX_BODY):
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    raise _too_large()
    except TimeoutError:
        raise HTTPException(408, "the body did not arrive", {"connection": "close"}) from None
    except ClientDisconnect:
        raise HTTPException(400, "the body broke off", {"connection": "close"}) from None
    return bytes(body)


def _too_large() -> HTTPException:
    return HTTPException(413, f"a body of more than {MAX_BODY} octets", {"connection": "close"})


async def read_json(request: Request, type_: type[T]) -> T:
    """
    Return the body decoded as this type.

    Depth is bounded by the type, because an unknown field is refused before its value is read. Raises
    PKIError(BAD_DATA_FORMAT) naming the field, and HTTPException 415, 413, 408.
    """
    media = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media != "application/json":
        raise HTTPException(415, "the body is expected as application/json")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, "the body is expected without a content-encoding")
    body = await read_body(request)
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PKIError(ErrorType.BAD_DATA_FORMAT, _reason(error)) from None


def read_query(request: Request, type_: type[T]) -> T:
    """Return the query parameters as this type; PKIError(BAD_REQUEST) for an unknown, repeated or wrong one."""
    given = request.query_params.multi_items()
    values = dict(given)
    if len(values) != len(given):
        raise PKIError(ErrorType.BAD_REQUEST, "a query parameter is given twice")
    try:
        return msgspec.convert(values, type_, strict=False)
    except msgspec.ValidationError as error:
        raise PKIError(ErrorType.BAD_REQUEST, f"query: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """What msgspec says is wrong, short enough for any client's log."""
    text = str(error) if isinstance(error, msgspec.MsgspecError) else "not JSON in UTF-8"
    return text[:300]
