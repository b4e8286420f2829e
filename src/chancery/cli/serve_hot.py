"""What the OCSP responder's and the timestamping authority's processes share: a port, signals, the log."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Protocol

import structlog

from chancery.cli.clock import SystemClock
from chancery.config import Listen
from chancery.errors import OperatorError
from chancery.web import hot, metrics

log = structlog.get_logger()


class Measured(Protocol):
    """A service with something to tell Prometheus."""

    def metrics(self) -> Iterable[metrics.Metric]: ...

    def ready(self) -> bool: ...


def report(event: str, detail: Mapping[str, object]) -> None:
    """Write what a service has to say into the log."""
    log.info(event, **detail)


@contextlib.asynccontextmanager
async def stopping() -> AsyncIterator[asyncio.Event]:
    """Give an event that SIGTERM and SIGINT set."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    yield stop


@contextlib.asynccontextmanager
async def measured(service: Measured, listen: Listen | None) -> AsyncIterator[None]:
    """Serve a service's metrics meanwhile, where the configuration says so; OperatorError as `serve`."""
    if listen is None:
        yield
        return
    server = await _listen(metrics.handler(service.metrics, service.ready), listen, metrics.LIMITS, None)
    log.info("metrics", host=listen.host, port=server.port)
    try:
        yield
    finally:
        await server.close(0.0)


async def serve(
    handler: hot.Handler, listen: Listen, limits: hot.Limits, on_error: hot.OnError, stop: asyncio.Event
) -> None:
    """Serve until `stop`, then finish what is under way. OperatorError when the port cannot be used."""
    server = await _listen(handler, listen, limits, on_error)
    log.info("listening", host=listen.host, port=server.port)
    await stop.wait()
    log.info("stopping")
    await server.close()


async def _listen(
    handler: hot.Handler, listen: Listen, limits: hot.Limits, on_error: hot.OnError | None
) -> hot.HotServer:
    try:
        return await hot.serve(
            handler, listen.host, listen.port, limits=limits, on_error=on_error, clock=SystemClock()
        )
    except OSError as error:
        raise OperatorError(
            f"{listen.host} port {listen.port} cannot be used: {error.strerror}",
            "stop what listens there, or choose another port in the configuration",
        ) from None
