"""The timestamping authority, put together from its configuration."""

from __future__ import annotations

import datetime
import functools
import sys

from chancery.asn1.tsp import DIGEST_OIDS
from chancery.cli import build, tsakeys
from chancery.cli.clock import SystemClock, SystemEntropy, time_source
from chancery.cli.serve_hot import fitting, measured, report, secured, serve, stopping
from chancery.config import AccessSection, TSAConfig, TSAPolicySection
from chancery.postgres.session import AsyncPool
from chancery.postgres.status import PgStatusReader
from chancery.postgres.timestampclients import PgTimestampUsage
from chancery.postgres.timestamps import PgTimestampStore
from chancery.tsa.policy import AuthoritySettings, Policy
from chancery.tsa.renewal import CertificateFinder
from chancery.tsa.unit import UnitPlan
from chancery.web import tsp as tsp_face
from chancery.web.hot import SWITCH_SECONDS
from chancery.web.tspaccess import Access, AccessSettings


def _access(section: AccessSection) -> AccessSettings:
    return AccessSettings(
        open=section.open,
        policies=section.policies or None,
        per_second=section.per_second,
        burst=section.burst,
        waiting=section.waiting,
    )


async def run(config: TSAConfig) -> None:
    """Serve timestamps until told to stop."""
    sys.setswitchinterval(SWITCH_SECONDS)
    clock = SystemClock()
    token = build.token(config.token)
    limits = fitting(tsp_face.LIMITS, 1 if config.https is None else 2)
    async with AsyncPool(build.connection(config.database, "tsa"), size=4) as pool, stopping() as stop:
        reader = PgStatusReader(pool, clock)
        service = tsp_face.TSAService(
            store=PgTimestampStore(pool),
            units=[
                UnitPlan(
                    settings(config, lane),
                    functools.partial(tsakeys.signers, token, unit),
                    finder=CertificateFinder(reader.certificates_of_key, reader.issuers),
                    authenticode=unit.authenticode,
                )
                for lane, unit in enumerate(config.units)
            ],
            clock=clock,
            source=time_source(
                config.time_source,
                config.ntp_servers,
                config.chrony,
                production=config.deployment == "production",
            ),
            entropy=SystemEntropy(),
            report=report,
            threads=config.signing_threads,
            # The kernel is asked for nothing; a server on the network is asked as seldom as one may.
            measure_s=config.ntp_poll_s if config.time_source == "ntp" else 5.0,
            lifetime_s=3.5 * config.ntp_poll_s if config.time_source == "ntp" else 30.0,
            access=Access(_access(config.access), PgTimestampUsage(pool), clock),
            page=config.page,
        )
        await service.start()
        try:
            async with (
                measured(service, config.metrics),
                secured(service.handler, config.https, limits, service.on_error),
            ):
                await serve(service.handler, config.listen, limits, service.on_error, stop)
        finally:
            await service.close()
    token.close()


def settings(config: TSAConfig, lane: int) -> AuthoritySettings:
    """Return what the unit at place `lane` of the configuration promises."""
    unit = config.units[lane]
    return AuthoritySettings(
        instance=config.instance,
        policies=tuple(_policy(one) for one in unit.policies),
        accuracy=datetime.timedelta(microseconds=config.accuracy_us),
        gen_time_digits=config.gen_time_digits,
        include_tsa_name=unit.tsa_name,
        unit=unit.name,
        lane=lane,
        ordering=unit.ordering,
    )


def _policy(section: str | TSAPolicySection) -> Policy:
    if isinstance(section, str):
        return Policy(section)
    return Policy(section.oid, frozenset(DIGEST_OIDS[name] for name in section.hashes), section.qualified)
