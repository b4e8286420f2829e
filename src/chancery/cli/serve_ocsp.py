"""The OCSP responder and repository, put together from its configuration."""

from __future__ import annotations

import datetime

from chancery.asn1.signature import Signer
from chancery.cli import build
from chancery.cli.clock import SystemClock
from chancery.cli.serve_hot import measured, report, serve, stopping
from chancery.config import OCSPConfig
from chancery.ocsp.answering import AnswererLimits
from chancery.ocsp.responder import NeverIssued, ResponderSettings
from chancery.ports import CRLScope
from chancery.postgres.listen import CRLS, ISSUERS, STATUSES, AsyncListener
from chancery.postgres.session import AsyncPool
from chancery.postgres.status import PgStatusReader
from chancery.web import ocsp as ocsp_face


async def run(config: OCSPConfig) -> None:
    """Serve OCSP and the repository until told to stop."""
    clock = SystemClock()
    token = build.token(config.token)
    signers: dict[str, Signer] = {
        one.issuer: build.signer(token, one.key_label, one.signature) for one in config.delegates
    }
    every = None
    if config.delegate_key is not None:
        every = build.signer(token, config.delegate_key, config.delegate_signature)
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
    async with AsyncPool(database, size=4) as pool, stopping() as stop:
        service = ocsp_face.OCSPService(PgStatusReader(pool, clock), signers, clock, settings, report, every=every)

        def notified(channel: str, payload: str) -> None:
            issuer, _, serial = payload.partition(":")
            if channel == ISSUERS:
                service.issuers_changed()
            elif channel == STATUSES:
                service.invalidate(int(issuer), bytes.fromhex(serial))
            else:
                shard, _, kind = serial.partition(":")
                scope = CRLScope(int(shard), delta=kind == "delta") if shard else None
                service.crl_changed(int(issuer), scope)

        listener = AsyncListener(
            database, (STATUSES, CRLS, ISSUERS), notified, service.listening, service.not_listening
        )
        listener.start()
        await service.start()
        try:
            async with measured(service, config.metrics):
                await serve(service.handler, config.listen, ocsp_face.LIMITS, ocsp_face.on_error, stop)
        finally:
            await listener.close()
            await service.close()
    token.close()
