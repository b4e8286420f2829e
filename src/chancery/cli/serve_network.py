"""The three processes that the network reaches, put together from their configuration."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import signal
from collections.abc import AsyncIterator, Mapping

import structlog

from chancery.asn1.signature import Signer
from chancery.cli import build
from chancery.cli.clock import SystemClock, SystemEntropy, time_source
from chancery.config import CAConfig, Listen, OCSPConfig, TSAConfig
from chancery.errors import OperatorError
from chancery.ocsp.answering import AnswererLimits
from chancery.ocsp.responder import NeverIssued, ResponderSettings
from chancery.ports import Event, EventKind
from chancery.postgres.directory import PgDirectory
from chancery.postgres.listen import CRLS, STATUSES, AsyncListener
from chancery.postgres.requests import PgRequestQueue
from chancery.postgres.session import AsyncPool
from chancery.postgres.status import PgStatusReader
from chancery.postgres.timestamps import PgTimestampStore
from chancery.ra.enrolment import RegistrationAuthority
from chancery.tsa.authority import AuthoritySettings
from chancery.tsa.renewal import CertificateFinder
from chancery.web import hot
from chancery.web import ocsp as ocsp_face
from chancery.web import tsp as tsp_face
from chancery.web.app import create_app
from chancery.web.server import TLSFiles, serve_api

log = structlog.get_logger()


def report(event: str, detail: Mapping[str, object]) -> None:
    """Write what a service has to say into the log."""
    log.info(event, **detail)


@contextlib.asynccontextmanager
async def _stopping() -> AsyncIterator[asyncio.Event]:
    """Give an event that SIGTERM and SIGINT set."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    yield stop


def _cannot_listen(listen: Listen, error: OSError) -> OperatorError:
    return OperatorError(
        f"{listen.host} port {listen.port} cannot be used: {error.strerror}",
        "stop what listens there, or choose another port in the configuration",
    )


async def ca(config: CAConfig) -> None:
    """Serve the management interface until told to stop."""
    clock = SystemClock()
    profiles = build.profiles(config.profiles)
    async with AsyncPool(build.connection(config.database, "ca"), size=8) as pool:
        queue, directory = PgRequestQueue(pool), PgDirectory(pool, clock)
        ra = RegistrationAuthority(queue, directory, clock, SystemEntropy(), profiles)
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


async def ocsp(config: OCSPConfig) -> None:
    """Serve OCSP and the repository until told to stop."""
    clock = SystemClock()
    token = build.token(config.token)
    signers: dict[str, Signer] = {one.issuer: build.signer(token, one.key_label) for one in config.delegates}
    settings = ocsp_face.OCSPSettings(
        responder=ResponderSettings(
            validity=datetime.timedelta(hours=config.validity_hours),
            never_issued=NeverIssued(config.never_issued),
            by_name=config.responder_id == "name",
        ),
        limits=AnswererLimits(signing_threads=config.signing_threads),
        cache_bytes=config.cache_mebibytes * 1024 * 1024,
    )
    database = build.connection(config.database, "ocsp")
    async with AsyncPool(database, size=4) as pool, _stopping() as stop:
        service = ocsp_face.OCSPService(PgStatusReader(pool, clock), signers, clock, settings, report)

        def notified(channel: str, payload: str) -> None:
            issuer, _, serial = payload.partition(":")
            if channel == STATUSES:
                service.invalidate(int(issuer), bytes.fromhex(serial))
            else:
                service.crl_changed(int(issuer))

        listener = AsyncListener(database, (STATUSES, CRLS), notified, service.invalidate_all)
        listener.start()
        await service.start()
        try:
            await _serve(service.handler, config.listen, ocsp_face.LIMITS, ocsp_face.on_error, stop)
        finally:
            await listener.close()
            await service.close()
    token.close()


async def tsa(config: TSAConfig) -> None:
    """Serve timestamps until told to stop."""
    clock = SystemClock()
    token = build.token(config.token)
    async with AsyncPool(build.connection(config.database, "tsa"), size=4) as pool, _stopping() as stop:
        reader = PgStatusReader(pool, clock)
        service = tsp_face.TSAService(
            store=PgTimestampStore(pool),
            signer=build.signer(token, config.key_label),
            clock=clock,
            source=time_source(config.time_source, production=config.deployment == "production"),
            entropy=SystemEntropy(),
            settings=AuthoritySettings(
                instance=config.instance,
                policies=(config.policy, *config.policies),
                accuracy=datetime.timedelta(milliseconds=config.accuracy_ms),
            ),
            report=report,
            finder=CertificateFinder(reader.certificates_of_key, reader.issuers),
            threads=config.signing_threads,
        )
        await service.start()
        try:
            await _serve(service.handler, config.listen, tsp_face.LIMITS, service.on_error, stop)
        finally:
            await service.close()
    token.close()


async def _serve(
    handler: hot.Handler, listen: Listen, limits: hot.Limits, on_error: hot.OnError, stop: asyncio.Event
) -> None:
    try:
        server = await hot.serve(
            handler, listen.host, listen.port, limits=limits, on_error=on_error, clock=SystemClock()
        )
    except OSError as error:
        raise _cannot_listen(listen, error) from None
    log.info("listening", host=listen.host, port=server.port)
    await stop.wait()
    log.info("stopping")
    await server.close()
