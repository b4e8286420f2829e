"""
Making a CRL (RFC 5280 section 5): numbered before it is signed, checked before it is published.

Complete, of one shard, or the delta of either. Its entries are never here as a whole when there are many: they are
hashed, signed and linted in pieces, as the database has them.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from collections.abc import Iterable, Iterator

from chancery.asn1 import crl as template
from chancery.ca.issuer import Issuer
from chancery.errors import ErrorType, PKIError
from chancery.pkix.crl_view import EntryScan
from chancery.pkix.lint import MAX_CRL_VALIDITY, Finding, blocking, lint_crl, lint_crl_parts
from chancery.ports import (
    COMPLETE,
    Clock,
    CRLDraft,
    CRLRecord,
    CRLScope,
    CRLSelection,
    CRLStore,
    Event,
    EventKind,
)

_YEAR = datetime.timedelta(days=366)
DAY = datetime.timedelta(hours=24)


@dataclasses.dataclass(frozen=True, slots=True)
class Timing:
    """
    How CRLs of one kind follow each other: each is valid for `lifetime`, and the next is made `overlap` before its
    end, or `period` after it, whichever is first. None: a day or half the lifetime; no period.
    """

    lifetime: datetime.timedelta
    overlap: datetime.timedelta | None = None
    period: datetime.timedelta | None = None

    def __post_init__(self) -> None:
        if self.lifetime < datetime.timedelta(minutes=1):
            raise ValueError("a CRL is valid for at least a minute")
        if self.overlap is not None and not datetime.timedelta(0) < self.overlap < self.lifetime:
            raise ValueError("CRLs overlap for a part of their lifetime")
        if self.period is not None and not datetime.timedelta(0) < self.period < self.lifetime:
            raise ValueError("CRLs are made more often than they end")

    @property
    def margin(self) -> datetime.timedelta:
        """How long before its nextUpdate a CRL has a successor (R14)."""
        return min(DAY, self.lifetime / 2) if self.overlap is None else self.overlap


@dataclasses.dataclass(frozen=True, slots=True)
class CRLSettings:
    """
    `lifetime` from thisUpdate to nextUpdate, `overlap` and `period` as in `Timing`, of CRLs that are no deltas.

    R15 allows 10 days. Of a root, whose CRLs only a ceremony makes, `longest` may say up to a year (BR 4.9.7).
    `delta`: there are delta CRLs, made at once on a revocation; then, and of the complete CRL beside shards, the
    period is at most a day (R14).
    """

    lifetime: datetime.timedelta = datetime.timedelta(days=7)
    longest: datetime.timedelta = MAX_CRL_VALIDITY
    overlap: datetime.timedelta | None = None
    period: datetime.timedelta | None = None
    delta: Timing | None = None

    def __post_init__(self) -> None:
        if not datetime.timedelta(minutes=1) <= self.lifetime <= self.longest <= _YEAR:
            raise ValueError("a CRL is valid for a minute to 10 days (R15), a root's to a year")
        if self.delta is not None and self.delta.lifetime > self.lifetime:
            raise ValueError("a delta CRL is not valid for longer than its base")
        _ = self.complete  # its own checks

    @property
    def complete(self) -> Timing:
        """How CRLs that are no deltas follow each other."""
        return Timing(self.lifetime, self.overlap, self.period)


def distribution_point(url: str | None) -> bytes:
    """Return the issuingDistributionPoint (DER) of a shard's CRLs by its URL; the complete CRL's has none."""
    return b"" if url is None else template.issuing_distribution_point(url)


@dataclasses.dataclass(frozen=True, slots=True)
class CRLMaking:
    """Everything that making a CRL takes as given; `url` is the shard's, None for the complete CRL."""

    issuer: Issuer
    store: CRLStore
    clock: Clock
    actor: str
    settings: CRLSettings
    scope: CRLScope = COMPLETE
    url: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class MemoryDraft:
    """A `ports.CRLDraft` whose entries (DER) are all here."""

    lines: tuple[bytes, ...]
    gone: int = 0

    @property
    def entries(self) -> int:
        return len(self.lines)

    @property
    def size(self) -> int:
        return sum(map(len, self.lines))

    @property
    def large(self) -> bool:
        return False

    def chunks(self) -> tuple[bytes, ...]:
        """Give every entry."""
        return self.lines


def make_crl(making: CRLMaking) -> CRLRecord:
    """
    Reserve a number, build, sign, verify, lint and publish a CRL; return it.

    Raises PKIError: SYSTEM_UNAVAIL when token or store are away, SYSTEM_FAILURE when the result does not verify,
    does not lint, or has lost what the one before it had. Then the number is spent, its intent stands in the
    journal, and the CRL before stays published.
    """
    issuer, store, clock, scope = making.issuer, making.store, making.clock, making.scope
    covers = clock.now()
    issuer_id, subject = issuer.record.issuer_id, f"crl:{issuer.record.name}"
    detail: dict[str, str | int] = {"issuer": issuer.record.name, "scope": str(scope)}
    previous = store.latest_crl(issuer_id, CRLScope(scope.shard))
    if scope.delta and previous is None:
        raise PKIError(ErrorType.SYSTEM_FAILURE, "a delta CRL without a base (RFC 5280 5.2.4)")
    intent = Event(EventKind.CRL_INTENT, clock.now(), making.actor, subject, detail)
    number = store.reserve_crl_number(issuer_id, [intent])
    this_update = covers.replace(microsecond=0)
    # R16: an entry stays until one CRL after its certificate expired has carried it. A CRL made while the clock
    # was ahead must not take the entries of the one after it away.
    since = min(previous.this_update, this_update) if previous else this_update
    timing = making.settings.delta if scope.delta else making.settings.complete
    assert timing is not None, "a delta is asked of an issuer that has none"
    record = CRLRecord(
        issuer_id=issuer_id,
        number=number,
        this_update=this_update,
        next_update=this_update + timing.lifetime,
        covers=covers,
        der=b"",
        scope=scope,
        base=previous.number if scope.delta and previous else None,
        expired_since=since,
        idp=distribution_point(making.url),
    )
    base, before = (previous, None) if scope.delta else (None, previous)
    selection = CRLSelection(issuer_id, scope, since, base=base, previous=before, number=number)
    with store.open_crl(selection) as draft:
        if not scope.delta and previous is not None and previous.entries is not None:
            _nothing_lost(previous.entries, draft)
        record, sha256 = (_large if draft.large else _small)(making, record, draft)
        published = {**detail, "number": number, "sha256": sha256, "entries": record.entries or 0}
        if record.base is not None:
            published["base"] = record.base
        event = Event(EventKind.CRL_PUBLISHED, clock.now(), making.actor, subject, published)
        store.publish_crl(record, [event])
    return record


def _nothing_lost(before: int, draft: CRLDraft) -> None:
    """Refuse a CRL with fewer entries than can have been released or have expired since the one before it."""
    if draft.entries < before - draft.gone:
        lost = before - draft.gone - draft.entries
        detail = f"the CRL is not published: {lost} entries of the one before it are gone without a reason"
        raise PKIError(ErrorType.SYSTEM_FAILURE, detail)


def _ends(making: CRLMaking, record: CRLRecord, size: int) -> tuple[bytes, bytes]:
    issuer, settings = making.issuer, making.settings
    place = making.url if record.scope.shard else issuer.urls.crl
    with_deltas = settings.delta is not None and not record.scope.delta
    extensions = template.crl_extensions(
        record.number,
        issuer.key_identifier,
        record.idp,
        base=record.base,
        # RFC 5280 5.2.6: not in a delta CRL.
        freshest=issuer.urls.freshest(place) if with_deltas else None,
    )
    names = (issuer.algorithm.identifier, issuer.subject)
    return template.tbs_ends(names, (record.this_update, record.next_update), size, extensions)


def _small(making: CRLMaking, record: CRLRecord, draft: CRLDraft) -> tuple[CRLRecord, str]:
    """Build, sign and check a CRL in one piece; return it and the SHA-256 (hex) of its DER."""
    issuer = making.issuer
    entries = b"".join(draft.chunks())
    head, tail = _ends(making, record, len(entries))
    signed = issuer.sign(head + entries + tail)
    _refuse(lint_crl(signed, issuer=issuer.certificate, longest=making.settings.longest))
    made = dataclasses.replace(record, der=signed, entries=draft.entries, size=len(signed))
    return made, hashlib.sha256(signed).hexdigest()


def _large(making: CRLMaking, record: CRLRecord, draft: CRLDraft) -> tuple[CRLRecord, str]:
    """As `_small`, piece by piece: what it takes does not grow with the number of entries."""
    issuer, scan = making.issuer, EntryScan()
    head, tail = _ends(making, record, draft.size)

    def pieces() -> Iterator[bytes]:
        yield head
        for chunk in draft.chunks():
            scan.feed(chunk)
            yield chunk
        yield tail

    signature = issuer.sign_parts(pieces())
    if (scan.count, scan.size) != (draft.entries, draft.size):
        raise PKIError(ErrorType.SYSTEM_FAILURE, "the entries of the CRL changed while it was made")
    head, tail = template.signed_ends(head, tail, draft.size, issuer.algorithm.identifier, signature)
    _refuse(lint_crl_parts(head, scan, tail, issuer=issuer.certificate, longest=making.settings.longest))
    whole = hashlib.sha256(head)
    for chunk in draft.chunks():
        whole.update(chunk)
    whole.update(tail)
    size = len(head) + draft.size + len(tail)
    made = dataclasses.replace(record, der=head, tail=tail, entries=draft.entries, size=size)
    return made, whole.hexdigest()


def _refuse(findings: Iterable[Finding]) -> None:
    if found := blocking(findings):
        raise PKIError(ErrorType.SYSTEM_FAILURE, "the CRL is not published: " + "; ".join(map(str, found)))
