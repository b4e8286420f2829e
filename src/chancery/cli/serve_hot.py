"""What the OCSP responder's and the timestamping authority's processes share: a port, signals, the log."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import resource
import signal
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Protocol

import structlog

from chancery.cli.clock import SystemClock
from chancery.config import HTTPSSection, Listen
from chancery.errors import OperatorError
from chancery.web import hot, metrics
from chancery.web.server import RELOAD_SECONDS, CertificateReload, TLSFiles, server_context

OTHER_FILES = 128
"""Open files that are no connections of clients: database, log, libraries, the metrics' own port."""

log = structlog.get_logger()


class Measured(Protocol):
    """A service with something to tell Prometheus."""

    def metrics(self) -> Iterable[metrics.Metric | metrics.Histogram]: ...

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


@contextlib.asynccontextmanager
async def secured(
    handler: hot.Handler, section: HTTPSSection | None, limits: hot.Limits, on_error: hot.OnError
) -> AsyncIterator[None]:
    """Serve with TLS meanwhile, where the configuration says so; new files are taken over. OperatorError."""
    if section is None:
        yield
        return
    files = TLSFiles(section.tls.certificate, section.tls.key, section.tls.client_ca)
    context = server_context(files, lambda why: log.info("client certificate refused", why=why))
    server = await _listen(handler, section.listen, limits, on_error, context)
    reloader = asyncio.create_task(CertificateReload(context, files).watch(RELOAD_SECONDS))
    log.info("listening with TLS", host=section.listen.host, port=server.port)
    try:
        yield
    finally:
        reloader.cancel()
        await server.close()


async def serve(
    handler: hot.Handler, listen: Listen, limits: hot.Limits, on_error: hot.OnError, stop: asyncio.Event
) -> None:
    """Serve until `stop`, then finish what is under way. OperatorError when the port cannot be used."""
    server = await _listen(handler, listen, limits, on_error)
    log.info("listening", host=listen.host, port=server.port)
    await stop.wait()
    log.info("stopping")
    await server.close()


def fitting(limits: hot.Limits, servers: int = 1) -> hot.Limits:
    """
    Raise this process's bound of open files as far as it may, and return limits whose connections fit into it.

    They are for each of so many `servers` in this process.

    Beyond that bound nobody could be let in or turned away: whoever holds many connections would shut others out.
    Connections that are turned away are as many again (`hot.HotServer.overrun`).
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most = limits.max_connections
    if hard != resource.RLIM_INFINITY:
        most = min(most, max(1, (hard - OTHER_FILES) // (2 * servers)))
    return dataclasses.replace(limits, max_connections=most)


async def _listen(
    handler: hot.Handler,
    listen: Listen,
    limits: hot.Limits,
    on_error: hot.OnError | None,
    tls: ssl.SSLContext | None = None,
) -> hot.HotServer:
    try:
        return await hot.serve(
            handler, listen.host, listen.port, limits=limits, on_error=on_error, clock=SystemClock(), tls=tls
        )
    except OSError as error:
        raise OperatorError(
            f"{listen.host} port {listen.port} cannot be used: {error.strerror}",
            "stop what listens there, or choose another port in the configuration",
        ) from None
