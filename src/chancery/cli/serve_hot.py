"""What the OCSP responder's and the timestamping authority's processes share: a port, signals, the log."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Mapping

import structlog

from chancery.cli.clock import SystemClock
from chancery.config import Listen
from chancery.errors import OperatorError
from chancery.web import hot

log = structlog.get_logger()


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


async def serve(
    handler: hot.Handler, listen: Listen, limits: hot.Limits, on_error: hot.OnError, stop: asyncio.Event
) -> None:
    """Serve until `stop`, then finish what is under way. OperatorError when the port cannot be used."""
    try:
        server = await hot.serve(
            handler, listen.host, listen.port, limits=limits, on_error=on_error, clock=SystemClock()
        )
    except OSError as error:
        raise OperatorError(
            f"{listen.host} port {listen.port} cannot be used: {error.strerror}",
            "stop what listens there, or choose another port in the configuration",
        ) from None
    log.info("listening", host=listen.host, port=server.port)
    await stop.wait()
    log.info("stopping")
    await server.close()
