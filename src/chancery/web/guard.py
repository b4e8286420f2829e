"""Around every request: a limit on how many and how long, security headers, one log line, no traceback out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any, Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chancery.errors import ErrorType, PKIError
from chancery.ports import Clock
from chancery.web.failures import PROBLEM_JSON, Failure, of_error

REQUEST_SECONDS: Final = 90.0
MAX_REQUESTS: Final = 2048
SECURITY_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
# RFC 6797 6.1. Not for localhost: it would bind every other service of the user's machine, whatever its port.
HSTS: Final = (b"strict-transport-security", b"max-age=31536000")
_LOCAL = frozenset({b"localhost", b"127.0.0.1", b"[::1]"})
Observe = Callable[[int, float], None]
_log = structlog.get_logger("chancery.web.access")
_error_log = structlog.get_logger("chancery.web.error")


class Guard:
    """
    ASGI middleware. The log line has no body, no query and no header: they may hold names.

    `observe` is told status and seconds of each request.

    `state["operator"]` in the scope, set where the operator is admitted, is the name that is logged;
    `state["timeout"]` is the limit on the request's time, for what may take longer as long as it moves.
    """

    def __init__(
        self,
        app: ASGIApp,
        clock: Clock,
        max_requests: int = MAX_REQUESTS,
        seconds: float = REQUEST_SECONDS,
        observe: Observe | None = None,
    ) -> None:
        self._app = app
        self._clock = clock
        self._max_requests = max_requests
        self._seconds = seconds
        self._observe = observe
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = self._clock.monotonic(), 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *SECURITY_HEADERS, *_hsts(scope)]
            await send(message)

        self._running += 1
        try:
            failure = await self._run(scope, receive, send_on)
            if failure is not None and status == 0:
                await send_failure(failure, send_on)
        finally:
            self._running -= 1
            took = self._clock.monotonic() - began
            if self._observe is not None:
                self._observe(status, took)
            _write_line(scope, status, took)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> Failure | None:
        if self._running > self._max_requests:
            return of_error(PKIError(ErrorType.SYSTEM_UNAVAIL, "too many requests at once"))
        try:
            async with asyncio.timeout(self._seconds) as timeout:
                scope.setdefault("state", {})["timeout"] = timeout
                await self._app(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - the one handler: rule 5 of the house
            if isinstance(error, TimeoutError) and timeout.expired():
                return of_error(PKIError(ErrorType.SYSTEM_UNAVAIL, "the request took too long"))
            _error_log.error("unexpected", exc_info=error, path=scope["path"][:200])
            return of_error(error)
        return None


def _hsts(scope: Scope) -> tuple[tuple[bytes, bytes], ...]:
    host = next((value for name, value in scope["headers"] if name == b"host"), b"")
    name = host if host.endswith(b"]") else host.rpartition(b":")[0] or host
    return () if name.lower() in _LOCAL else (HSTS,)


def _write_line(scope: Scope, status: int, seconds: float) -> None:
    state: MutableMapping[str, Any] = scope.get("state") or {}
    client = scope.get("client")
    _log.info(
        "request",
        method=scope["method"],
        path=scope["path"][:200],
        status=status,
        milliseconds=round(seconds * 1000, 1),
        operator=state.get("operator"),
        address=client[0] if client else None,
    )


async def send_failure(failure: Failure, send: Send) -> None:
    """Send a problem as the whole answer."""
    headers = [(b"content-type", PROBLEM_JSON.encode()), (b"content-length", b"%d" % len(failure.body))]
    headers += [(name.encode(), value.encode()) for name, value in failure.headers]
    await send({"type": "http.response.start", "status": failure.status, "headers": headers})
    await send({"type": "http.response.body", "body": failure.body})
