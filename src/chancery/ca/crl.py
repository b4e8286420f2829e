"""Making a full CRL (RFC 5280 section 5): numbered before it is signed, linted before it is published."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from collections.abc import Mapping

from chancery.asn1 import crl as template
from chancery.ca.issuer import Issuer
from chancery.errors import ErrorType, PKIError
from chancery.pkix.lint import MAX_CRL_VALIDITY, blocking, lint_crl
from chancery.ports import Clock, CRLRecord, Event, EventKind, RevocationStore

_YEAR = datetime.timedelta(days=366)


@dataclasses.dataclass(frozen=True, slots=True)
class CRLSettings:
    """
    `lifetime` from thisUpdate to nextUpdate; the store says when the next is due, before that (R14).

    R15 allows 10 days. Of a root, whose CRLs only a ceremony makes, `longest` may say up to a year (BR 4.9.7).
    """

    lifetime: datetime.timedelta = datetime.timedelta(days=7)
    longest: datetime.timedelta = MAX_CRL_VALIDITY

    def __post_init__(self) -> None:
        if not datetime.timedelta(minutes=1) <= self.lifetime <= self.longest <= _YEAR:
            raise ValueError("a CRL is valid for a minute to 10 days (R15), a root's to a year")


def make_crl(issuer: Issuer, store: RevocationStore, clock: Clock, actor: str, settings: CRLSettings) -> CRLRecord:
    """
    Reserve a number, build, sign, verify, lint and publish the issuer's full CRL; return it.

    Raises PKIError: SYSTEM_UNAVAIL when token or store are away, SYSTEM_FAILURE when the result does not verify
    or lint. Then the number is spent, its intent stands in the journal, and the CRL before stays published.
    """
    covers = clock.now()
    issuer_id, subject = issuer.record.issuer_id, f"crl:{issuer.record.name}"
    previous = store.latest_crl(issuer_id)
    this_update = covers.replace(microsecond=0)
    next_update = this_update + settings.lifetime
    # R16: an entry stays until one CRL after its certificate expired has carried it. A CRL made while the clock
    # was ahead must not take the entries of the one after it away.
    since = min(previous.this_update, this_update) if previous else this_update
    entries = [
        template.entry(entry.serial, entry.revoked_at, int(entry.reason), entry.invalidity_date)
        for entry in store.revoked_entries(issuer_id, since)
    ]
    detail: dict[str, str | int] = {"issuer": issuer.record.name, "entries": len(entries)}
    number = store.reserve_crl_number(
        issuer_id, [Event(EventKind.CRL_INTENT, clock.now(), actor, subject, detail)]
    )
    tbs = template.tbs_cert_list(
        algorithm=issuer.algorithm.identifier,
        issuer=issuer.subject,
        this_update=this_update,
        next_update=next_update,
        entries=entries,
        extensions=template.crl_extensions(number, issuer.key_identifier),
    )
    signed = issuer.sign(tbs)
    if found := blocking(lint_crl(signed, issuer=issuer.certificate, longest=settings.longest)):
        raise PKIError(ErrorType.SYSTEM_FAILURE, "the CRL is not published: " + "; ".join(map(str, found)))
    record = CRLRecord(issuer_id, number, this_update, next_update, covers, signed)
    published = {**detail, "number": number, "sha256": hashlib.sha256(signed).hexdigest()}
    store.publish_crl(record, [Event(EventKind.CRL_PUBLISHED, clock.now(), actor, subject, published)])
    return record


def publish_due(
    issuers: Mapping[int, Issuer], store: RevocationStore, clock: Clock, actor: str, settings: CRLSettings
) -> int:
    """Make the CRL of each of these issuers (by issuer_id) that needs one; return how many were made (R14)."""
    due = [issuer_id for issuer_id in store.crl_due(clock.now()) if issuer_id in issuers]
    for issuer_id in due:
        make_crl(issuers[issuer_id], store, clock, actor, settings)
    return len(due)
