"""The web process: enrolment and management over HTTPS, put together from its configuration."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
from collections.abc import AsyncIterator

import structlog

from chancery.cli import build
from chancery.cli.clock import SystemClock, SystemEntropy
from chancery.cli.serve_hot import measured
from chancery.config import CAConfig, Listen
from chancery.errors import PKIError
from chancery.ports import Event, EventKind
from chancery.postgres.directory import PgDirectory
from chancery.postgres.mass import PgMassRevocations
from chancery.postgres.reports import PgReports
from chancery.postgres.requests import PgRequestQueue
from chancery.postgres.session import AsyncPool
from chancery.postgres.timestampclients import PgTimestampClients
from chancery.ra.enrolment import RegistrationAuthority
from chancery.web.app import create_app
from chancery.web.measures import Measures
from chancery.web.server import TLSFiles, serve_api

REPORTS_SECONDS = 600.0
log = structlog.get_logger()


async def run(config: CAConfig) -> None:
    """Serve the management interface until told to stop."""
    clock = SystemClock()
    profiles = build.profiles(config.profiles)
    database = build.connection(config.database, "ca")
    keyed = dataclasses.replace(database, keyed=True)
    async with AsyncPool(database, size=8) as pool, AsyncPool(keyed, size=4) as requests:
        queue, directory = PgRequestQueue(requests), PgDirectory(pool, clock)
        reports = PgReports(pool)
        ra = RegistrationAuthority(
            queue,
            directory,
            clock,
            SystemEntropy(),
            profiles,
            PgMassRevocations(pool),
            reports,
            PgTimestampClients(pool),
        )
        watch = asyncio.create_task(_watch(reports, clock))
        measures = Measures(ra, config.tls.certificate)
        _settle_collector()
        await directory.record([Event(EventKind.PROCESS_STARTED, clock.now(), "ca", "ca", {})])
        try:
            async with _measured(measures, config.metrics):
                await serve_api(
                    create_app(ra, measures.observe),
                    config.listen.host,
                    config.listen.port,
                    TLSFiles(config.tls.certificate, config.tls.key, config.tls.client_ca),
                    listening=lambda port: log.info("listening", host=config.listen.host, port=port),
                )
        finally:
            watch.cancel()
            await directory.record([Event(EventKind.PROCESS_STOPPED, clock.now(), "ca", "ca", {})])
            await queue.close()


@contextlib.asynccontextmanager
async def _measured(measures: Measures, listen: Listen | None) -> AsyncIterator[None]:
    """Serve the metrics meanwhile, where the configuration says so; the database is asked for them only then."""
    if listen is None:
        yield
        return
    refresh = asyncio.create_task(measures.watch(lambda why: log.info("metrics cannot be read", error=why)))
    try:
        async with measured(measures, listen):
            yield
    finally:
        refresh.cancel()


async def _watch(reports: PgReports, clock: SystemClock) -> None:
    """Say in the log, again and again, that problem reports are overdue (R13)."""
    while True:
        try:
            opened, overdue = await reports.counts(clock.now())
            if overdue:
                log.warning("problem reports are overdue", overdue=overdue, open=opened)
        except PKIError as error:
            log.info("problem reports cannot be read", error=error.detail)
        await asyncio.sleep(REPORTS_SECONDS)


def _settle_collector() -> None:
    """What is there at the start stays: spare the collector looking through it again and again under load."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
