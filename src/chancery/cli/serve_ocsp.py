"""The OCSP responder and repository, put together from its configuration."""

from __future__ import annotations

import datetime
import sys
from typing import Any

from cryptography import x509

from chancery.asn1.signature import Signer
from chancery.cli import build
from chancery.cli.clock import SystemClock
from chancery.cli.serve_hot import fitting, measured, report, serve, stopping
from chancery.config import OCSPConfig, PolicySection, PresignSection, SignedSection
from chancery.errors import OperatorError
from chancery.ocsp.answering import AnswererLimits
from chancery.ocsp.responder import NeverIssued, Nonces, Policies, ResponderSettings, Stale
from chancery.ocsp.signed import RequestSigners
from chancery.pkcs11 import Token
from chancery.pkcs11.softtoken import SoftToken
from chancery.ports import CRLScope
from chancery.postgres.listen import CRLS, FOREIGN, ISSUERS, STATUSES, AsyncListener
from chancery.postgres.session import AsyncPool
from chancery.postgres.status import PgStatusReader
from chancery.web import ocsp as ocsp_face
from chancery.web.hot import SWITCH_SECONDS


def keys(config: OCSPConfig, token: Token | SoftToken) -> tuple[dict[str, list[Signer]], Signer | None]:
    """Return the delegate keys by issuer, and the one that answers for all others; OperatorError without one."""
    signers: dict[str, list[Signer]] = {}
    for one in config.delegates:
        signers.setdefault(one.issuer, []).append(build.signer(token, one.key_label, one.signature))
    if config.delegate_key is None:
        return signers, None
    return signers, build.signer(token, config.delegate_key, config.delegate_signature)


def _presign(section: PresignSection | None) -> ocsp_face.Presign | None:
    if section is None:
        return None
    return ocsp_face.Presign(section.per_second, frozenset(section.hours))


def policies(config: OCSPConfig) -> Policies:
    """Return the settings of each issuer. OperatorError when a CA's certificate cannot be read."""
    every = {name: _settings(config, section) for name, section in config.policies.items()}
    return Policies(_settings(config, PolicySection()), every)


def _settings(config: OCSPConfig, own: PolicySection) -> ResponderSettings:
    def of(key: str) -> Any:
        found = getattr(own, key)
        return getattr(config, key) if found is None else found

    days, signed = of("archive_days"), of("require_signed")
    return ResponderSettings(
        validity=datetime.timedelta(hours=of("validity_hours")),
        never_issued=NeverIssued(of("never_issued")),
        by_name=of("responder_id") == "name",
        nonces=Nonces(of("nonce")),
        archive=datetime.timedelta(days=days) if days else None,
        crl_url=of("crl_reference"),
        signers=None if signed is None else _signers(signed),
        stale=Stale(of("stale_crl")),
    )


def _signers(section: SignedSection) -> RequestSigners:
    authorities: list[x509.Certificate] = []
    for path in section.authorities:
        try:
            authorities += x509.load_pem_x509_certificates(path.read_bytes())
        except (OSError, ValueError) as error:
            raise OperatorError(
                f"the certificates in {path} cannot be read: {error}", "check require_signed.authorities"
            ) from None
    return RequestSigners(tuple(authorities), frozenset(map(bytes.fromhex, section.certificates)))


async def run(config: OCSPConfig) -> None:
    """Serve OCSP and the repository until told to stop."""
    sys.setswitchinterval(SWITCH_SECONDS)
    clock = SystemClock()
    token = build.token(config.token)
    signers, every = keys(config, token)
    settings = ocsp_face.OCSPSettings(
        policies=policies(config),
        limits=AnswererLimits(signing_threads=config.signing_threads),
        cache_bytes=config.cache_mebibytes * 1024 * 1024,
        presign=_presign(config.presign),
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
            elif channel == FOREIGN:
                service.foreign_changed(int(issuer))
            else:
                shard, _, kind = serial.partition(":")
                scope = CRLScope(int(shard), delta=kind == "delta") if shard else None
                service.crl_changed(int(issuer), scope)

        listener = AsyncListener(
            database, (STATUSES, CRLS, ISSUERS, FOREIGN), notified, service.listening, service.not_listening
        )
        listener.start()
        await service.start()
        try:
            async with measured(service, config.metrics):
                await serve(service.handler, config.listen, fitting(ocsp_face.LIMITS), ocsp_face.on_error, stop)
        finally:
            await listener.close()
            await service.close()
    token.close()
