"""Making a full CRL (RFC 5280 section 5): numbered before it is signed, verified before it is published."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib

from chancery.asn1.x509 import crl_extensions, revoked_entry, tbs_cert_list
from chancery.ca.issuance import LocalIssuer
from chancery.errors import ErrorType, PKIError
from chancery.pkix.lint import lint_crl
from chancery.ports import Clock, CRLRecord, Event, EventKind, RevocationStore


@dataclasses.dataclass(frozen=True, slots=True)
class CRLSettings:
    """`validity` from thisUpdate to nextUpdate: R15 allows 10 days, R14 wants a new one within 7."""

    validity: datetime.timedelta = datetime.timedelta(days=7)

    def __post_init__(self) -> None:
        if not datetime.timedelta(hours=1) <= self.validity <= datetime.timedelta(days=10):
            raise ValueError("a CRL is valid for 1 hour to 10 days (R15)")


def publish_crl(
    local: LocalIssuer, store: RevocationStore, clock: Clock, settings: CRLSettings, worker: str
) -> CRLRecord:
    """
    Build, sign, verify, lint and publish the issuer's full CRL; return it.

    Raises PKIError(SYSTEM_FAILURE) when the result does not verify or lint: then the number is spent,
    its intent stands in the journal, and the published CRL stays the one before.
    """
    covers = clock.now()
    this_update = covers.replace(microsecond=0)
    next_update = this_update + settings.validity
    previous = store.latest_crl(local.issuer_id)
    # R16: an entry stays until one CRL after its certificate expired has carried it.
    since = previous.this_update if previous else this_update
    entries = [
        revoked_entry(entry.serial, entry.revoked_at, int(entry.reason), entry.invalidity_date)
        for entry in store.revoked_entries(local.issuer_id, since)
    ]
    subject = f"crl:{local.name}"
    number = store.reserve_crl_number(
        local.issuer_id,
        [Event(EventKind.CRL_INTENT, clock.now(), worker, subject, {"entries": len(entries)})],
    )
    tbs = tbs_cert_list(
        algorithm=local.issuer.algorithm,
        issuer=local.issuer.name,
        this_update=this_update,
        next_update=next_update,
        entries=entries,
        extensions=crl_extensions(number, local.context.key_identifier),
    )
    der = local.issuer.sign(tbs)
    if blocking := [finding for finding in lint_crl(der) if finding.blocks]:
        raise PKIError(ErrorType.SYSTEM_FAILURE, "CRL not published: " + "; ".join(map(str, blocking)))
    record = CRLRecord(local.issuer_id, number, this_update, next_update, covers, der)
    detail = {"number": number, "entries": len(entries), "sha256": hashlib.sha256(der).hexdigest()}
    store.publish_crl(record, [Event(EventKind.CRL_PUBLISHED, clock.now(), worker, subject, detail)])
    return record
