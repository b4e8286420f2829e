"""The web process: enrolment and management over HTTPS, put together from its configuration."""

from __future__ import annotations

import gc

import structlog

from chancery.cli import build
from chancery.cli.clock import SystemClock, SystemEntropy
from chancery.config import CAConfig
from chancery.ports import Event, EventKind
from chancery.postgres.directory import PgDirectory
from chancery.postgres.mass import PgMassRevocations
from chancery.postgres.requests import PgRequestQueue
from chancery.postgres.session import AsyncPool
from chancery.ra.enrolment import RegistrationAuthority
from chancery.web.app import create_app
from chancery.web.server import TLSFiles, serve_api

log = structlog.get_logger()


async def run(config: CAConfig) -> None:
    """Serve the management interface until told to stop."""
    clock = SystemClock()
    profiles = build.profiles(config.profiles)
    async with AsyncPool(build.connection(config.database, "ca"), size=8) as pool:
        queue, directory = PgRequestQueue(pool), PgDirectory(pool, clock)
        ra = RegistrationAuthority(queue, directory, clock, SystemEntropy(), profiles, PgMassRevocations(pool))
        _settle_collector()
        await directory.record([Event(EventKind.PROCESS_STARTED, clock.now(), "ca", "ca", {})])
        try:
            await serve_api(
                create_app(ra),
                config.listen.host,
                config.listen.port,
                TLSFiles(config.tls.certificate, config.tls.key, config.tls.client_ca),
                listening=lambda port: log.info("listening", host=config.listen.host, port=port),
            )
        finally:
            await directory.record([Event(EventKind.PROCESS_STOPPED, clock.now(), "ca", "ca", {})])
            await queue.close()


def _settle_collector() -> None:
    """What is there at the start stays: spare the collector looking through it again and again under load."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
