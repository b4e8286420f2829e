"""Whether each published CRL is its issuer's, and the newest lists what is revoked (R14-R16)."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
from collections.abc import Iterator, Mapping, Sequence

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from chancery.asn1 import der
from chancery.audit import trail
from chancery.audit.certificates import Ground
from chancery.audit.findings import Finding, Findings, Kind
from chancery.audit.trail import Act
from chancery.pkix.lint import MAX_CRL_VALIDITY, blocking, lint_crl
from chancery.ports import EventKind, RevocationReason
from chancery.ports.auditing import AuditedCRL, AuditedIssuer, AuditedRevoked, AuditReader

KINDS = (EventKind.CRL_INTENT, EventKind.CRL_PUBLISHED, EventKind.RETENTION_DROPPED)
KEPT = datetime.timedelta(days=730)
"""R28: two years at least after its nextUpdate a CRL is there as a whole."""
LONGEST = datetime.timedelta(days=366)
"""BR 4.9.7: of a CA whose CRLs are made in a ceremony."""
_REMOVED = 8
"""removeFromCRL (RFC 5280 5.3.1): of delta CRLs alone."""
LATE = datetime.timedelta(hours=24)
"""R14: within 24 h of a revocation."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Retention:
    """Up to which time it took events out of the journal (None: none), and when the entries of which CRL."""

    events: datetime.datetime | None
    entries: Mapping[int, datetime.datetime]


@dataclasses.dataclass(frozen=True, slots=True)
class Issuing:
    """An issuer whose CRLs are judged; `here` tells whether this installation makes them."""

    row: AuditedIssuer
    ground: Ground
    acts: Sequence[Act]
    at: datetime.datetime

    @property
    def here(self) -> bool:
        return self.row.record.key_label is not None

    @property
    def about(self) -> str:
        return f"crl:{self.row.record.name}"

    def retention(self) -> _Retention:
        """Return what the owner's events of retention say."""
        dropped = trail.of(self.acts, EventKind.RETENTION_DROPPED)
        mine = [act for act in dropped if act.subject == self.about]
        return _Retention(
            max(filter(None, map(_newest_dropped, dropped)), default=None),
            {number: act.at for act in mine if isinstance(number := act.detail.get("number"), int)},
        )

    def finding(self, kind: Kind, crl: AuditedCRL | None, what: str) -> Finding:
        return Finding(kind, f"{self.about} {crl.record.number}" if crl else self.about, what)


def judge(reader: AuditReader, issuing: Issuing, since: datetime.datetime | None, found: Findings) -> int:
    """Add what is wrong with each CRL of this issuer, and then with all of them; return how many there are."""
    published, gone = trail.of(issuing.acts, EventKind.CRL_PUBLISHED, issuing.about), issuing.retention()
    shards = reader.crl_shards(issuing.row.record.issuer_id)
    newest: dict[int, AuditedCRL] = {}
    latest: dict[int, datetime.datetime] = {}
    seen: set[int] = set()
    count = 0
    for crl in reader.crls(issuing.row.record.issuer_id, since):
        count += 1
        shard = crl.record.scope.shard
        told = [act for act in published if act.detail.get("number") == crl.record.number]
        seen.update(act.event_id for act in told)
        about = f"{issuing.about} {crl.record.number}"
        found.extend(_told(issuing, crl, gone, told), about)
        if crl.record.tail is None:
            found.extend(_one(reader, issuing, crl, shards.get(shard)), about)
        if latest.get(shard, crl.record.this_update) > crl.record.this_update + trail.SKEW:
            found.extend([issuing.finding(Kind.WRONG_ORDER, crl, "it is older than the CRL before it (R15)")])
        latest[shard] = crl.record.this_update
        if not crl.record.scope.delta:
            newest[shard] = dataclasses.replace(crl, record=dataclasses.replace(crl.record, der=b""))
    wanted = {0: newest.get(0)} | {shard: newest.get(shard) for shard in shards}
    found.extend(_numbers(reader, issuing, gone), issuing.about)
    found.extend(_all(issuing, wanted, whole=since is None), issuing.about)
    for act in published if since is None else ():
        if act.event_id not in seen:
            what = f"event {act.event_id} published CRL {act.detail.get('number')}, which is not stored"
            found.extend([issuing.finding(Kind.STRAY, None, what)])
    return count


def _told(issuing: Issuing, crl: AuditedCRL, gone: _Retention, told: Sequence[Act]) -> Iterator[Finding]:
    """A CRL is what the journal says of it: by its hash, or, where retention took its entries, by their number."""
    record, about = crl.record, f"{issuing.about} {crl.record.number}"
    if told or gone.events is None or record.this_update > gone.events:
        yield from trail.once(told, EventKind.CRL_PUBLISHED, about)
    whole = record.tail is None
    expected = {"sha256": hashlib.sha256(record.der).hexdigest()} if whole else {"entries": record.entries}
    for act in told[:1]:
        yield from trail.says(act, about, expected)
    dropped = gone.entries.get(record.number)
    if not whole and (crl.newest or dropped is None or dropped < record.next_update + KEPT):
        yield issuing.finding(
            Kind.BAD_CRL, crl, "its entries are not stored, and no retention may have taken them"
        )


def _one(reader: AuditReader, issuing: Issuing, crl: AuditedCRL, url: str | None) -> Iterator[Finding]:
    record = crl.record
    try:
        parsed = x509.load_der_x509_crl(record.der)
        number = parsed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        signed = parsed.is_signature_valid(issuing.ground.certificate.public_key())  # type: ignore[arg-type]  # any other type of key is the TypeError below
    except (ValueError, TypeError, x509.ExtensionNotFound, UnsupportedAlgorithm) as error:
        yield issuing.finding(Kind.BAD_CRL, crl, f"it cannot be read: {error}")
        return
    if not signed or parsed.issuer != issuing.ground.certificate.subject:
        yield issuing.finding(Kind.BAD_CRL, crl, f"not signed by {issuing.ground.name}")
    said = (number, parsed.last_update_utc, parsed.next_update_utc)
    if said != (record.number, record.this_update, record.next_update):
        yield issuing.finding(Kind.WRONG_COLUMN, crl, "it says another number or other times than its row")
    yield from _scope(issuing, crl, parsed, url)
    longest = MAX_CRL_VALIDITY if issuing.here else LONGEST
    for one in blocking(lint_crl(record.der, issuer=issuing.ground.certificate, longest=longest)):
        yield issuing.finding(Kind.LINT, crl, str(one))
    if crl.newest and issuing.here:
        yield from _newest(reader, issuing, crl, parsed)


def _newest_dropped(act: Act) -> datetime.datetime | None:
    if act.detail.get("source") != "journal_event":
        return None
    with contextlib.suppress(ValueError):
        return datetime.datetime.fromisoformat(str(act.detail.get("newest")))
    return None


def _scope(
    issuing: Issuing, crl: AuditedCRL, parsed: x509.CertificateRevocationList, url: str | None
) -> Iterator[Finding]:
    """R15: a shard's CRL says its URL, a delta its base, and no other says either."""
    found = {type(one.value): one.value for one in parsed.extensions}
    point, base = found.get(x509.IssuingDistributionPoint), found.get(x509.DeltaCRLIndicator)
    names = point.full_name or [] if isinstance(point, x509.IssuingDistributionPoint) else []
    if crl.record.scope.shard and [one.value for one in names] != [url]:
        yield issuing.finding(Kind.WRONG_CRL, crl, "its issuingDistributionPoint is not its shard's URL (R15)")
    if (base.crl_number if isinstance(base, x509.DeltaCRLIndicator) else None) != crl.record.base:
        yield issuing.finding(Kind.WRONG_COLUMN, crl, "it names another base than its row")


def _numbers(reader: AuditReader, issuing: Issuing, gone: _Retention) -> Iterator[Finding]:
    numbers = reader.crl_numbers().get(issuing.row.record.issuer_id, 0)
    intents = len(trail.of(issuing.acts, EventKind.CRL_INTENT, issuing.about))
    # The intents of a year that retention took are gone; a number without one is not seen from then on.
    if issuing.here and (numbers < intents or (numbers > intents and gone.events is None)):
        yield issuing.finding(Kind.NOT_JOURNALLED, None, f"{numbers} numbers were reserved, {intents} journalled")


def _all(issuing: Issuing, newest: Mapping[int, AuditedCRL | None], *, whole: bool) -> Iterator[Finding]:
    for shard, crl in newest.items():
        if crl is None:
            if issuing.here and whole and issuing.row.added_at < issuing.at - LATE and not shard:
                yield issuing.finding(Kind.LATE_CRL, None, "no CRL was published yet (R14)")
        elif crl.record.next_update < issuing.at:
            when = crl.record.next_update.isoformat(timespec="seconds")
            yield issuing.finding(Kind.LATE_CRL, crl, f"the next one was due by {when} (R14)")


def _newest(
    reader: AuditReader, issuing: Issuing, crl: AuditedCRL, parsed: x509.CertificateRevocationList
) -> Iterator[Finding]:
    """
    Compare entries and statuses, both by serial, side by side: neither is held as a whole.

    Of a CA that signs elsewhere the statuses are elsewhere, too.
    """
    # R16: an entry may go once a CRL after its end has carried it: its certificate's, or ten years later.
    since = min(crl.before or crl.record.this_update, crl.record.this_update)
    entries, revoked = _entries(parsed), reader.revoked(crl.record)
    entry, status = next(entries, None), next(revoked, None)
    while entry is not None or status is not None:
        if status is None or (entry is not None and entry[0] < status.serial):
            assert entry is not None
            yield issuing.finding(Kind.WRONG_CRL, crl, f"it lists {entry[0].hex()}, which is not revoked")
            following = next(entries, None)
        elif entry is None or status.serial < entry[0]:
            yield from _unlisted(issuing, crl, status, since)
            status = next(revoked, None)
            continue
        else:
            if what := _differs(entry, status, crl, since):
                yield issuing.finding(Kind.WRONG_CRL, crl, f"it lists {entry[0].hex()}{what}")
            following, status = next(entries, None), next(revoked, None)
        if following is not None and following[0] <= entry[0]:
            yield issuing.finding(
                Kind.BAD_CRL, crl, "its entries are not in the order of their serials, each once"
            )
            return
        entry = following


def _differs(entry: Line, status: AuditedRevoked, crl: AuditedCRL, since: datetime.datetime) -> str | None:
    """Say what is wrong with an entry of a serial that is, or was, revoked; None when nothing is, or may be."""
    if not status.covered:
        return None  # it changed since: a suspension ended, or became a revocation
    removed = crl.record.scope.delta and entry[2] == _REMOVED
    if status.status.state != "revoked":
        return None if removed else ", which was reinstated"
    if removed:
        return None if status.status.listed_until < since else " as removed, which is revoked"
    return None if entry[1:] == _line(status) else " with another time or reason than its status has"


Line = tuple[bytes, datetime.datetime, int, datetime.datetime | None]


def _entries(crl: x509.CertificateRevocationList) -> Iterator[Line]:
    for entry in crl:
        reason, invalidity = 0, None
        for one in entry.extensions:
            if isinstance(one.value, x509.CertificateIssuer):
                return  # from here on an indirect CRL is about others
            if isinstance(one.value, x509.CRLReason):
                reason = _code(one.value.reason)
            elif isinstance(one.value, x509.InvalidityDate):
                invalidity = one.value.invalidity_date_utc
        yield der.integer_octets(entry.serial_number), entry.revocation_date_utc, reason, invalidity


def _code(reason: x509.ReasonFlags) -> int:
    return _REMOVED if reason is x509.ReasonFlags.remove_from_crl else int(RevocationReason[reason.name.upper()])


def _line(revoked: AuditedRevoked) -> tuple[datetime.datetime | None, int | None, datetime.datetime | None]:
    status = revoked.status
    invalidity = status.invalidity_date
    return status.revoked_at, status.reason, None if invalidity is None else invalidity.replace(microsecond=0)


def _unlisted(
    issuing: Issuing, crl: AuditedCRL, revoked: AuditedRevoked, since: datetime.datetime
) -> Iterator[Finding]:
    if revoked.status.listed_until < since or revoked.status.state != "revoked" or revoked.based:
        return
    if revoked.covered:
        yield issuing.finding(Kind.WRONG_CRL, crl, f"it does not list {revoked.serial.hex()}, which is revoked")
    elif revoked.status.changed_at < issuing.at - LATE:
        when = revoked.status.changed_at.isoformat(timespec="seconds")
        what = f"{revoked.serial.hex()} was revoked at {when} and is on no CRL yet (R14)"
        yield issuing.finding(Kind.LATE_CRL, crl, what)
