"""The timestamping authority, put together from its configuration."""

from __future__ import annotations

import datetime

from chancery.cli import build
from chancery.cli.clock import SystemClock, SystemEntropy, time_source
from chancery.cli.serve_hot import measured, report, serve, stopping
from chancery.config import TSAConfig
from chancery.postgres.session import AsyncPool
from chancery.postgres.status import PgStatusReader
from chancery.postgres.timestamps import PgTimestampStore
from chancery.tsa.authority import AuthoritySettings
from chancery.tsa.renewal import CertificateFinder
from chancery.web import tsp as tsp_face


async def run(config: TSAConfig) -> None:
    """Serve timestamps until told to stop."""
    clock = SystemClock()
    token = build.token(config.token)
    async with AsyncPool(build.connection(config.database, "tsa"), size=4) as pool, stopping() as stop:
        reader = PgStatusReader(pool, clock)
        service = tsp_face.TSAService(
            store=PgTimestampStore(pool),
            signer=build.signer(token, config.key_label, config.signature),
            clock=clock,
            source=time_source(
                config.time_source, config.ntp_servers, production=config.deployment == "production"
            ),
            entropy=SystemEntropy(),
            settings=AuthoritySettings(
                instance=config.instance,
                policies=(config.policy, *config.policies),
                accuracy=datetime.timedelta(milliseconds=config.accuracy_ms),
            ),
            report=report,
            finder=CertificateFinder(reader.certificates_of_key, reader.issuers),
            threads=config.signing_threads,
            # The kernel is asked for nothing; a server on the network is asked as seldom as one may.
            measure_s=config.ntp_poll_s if config.time_source == "ntp" else 5.0,
            lifetime_s=3.5 * config.ntp_poll_s if config.time_source == "ntp" else 30.0,
        )
        await service.start()
        try:
            async with measured(service, config.metrics):
                await serve(service.handler, config.listen, tsp_face.LIMITS, service.on_error, stop)
        finally:
            await service.close()
    token.close()
