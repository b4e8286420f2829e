"""
What the independent checker (`checks`) says of CRLs: each lists exactly what was revoked when it was read.

It knows RFC 5280 5 and R14-R16. Which CRL lists a certificate is told by the cRLDistributionPoints of the
certificate itself, never by what a store says of its shard.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import functools
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from chancery.asn1 import x509 as template
from chancery.ports import CertificateStatus, CRLRecord, EventKind, RevocationReason, StatusState

REMOVED = 8
LONGEST = datetime.timedelta(days=10)
TEN_YEARS = datetime.timedelta(days=3653)
_ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
_POINT = x509.IssuingDistributionPoint.oid
_NEVER = datetime.datetime.min.replace(tzinfo=datetime.UTC)


class Line(NamedTuple):
    """One entry, but for its serial: revocationDate, reasonCode (0: absent), invalidityDate."""

    at: datetime.datetime | None
    reason: int
    invalidity: datetime.datetime | None


@functools.lru_cache(maxsize=4096)
def said(tbs: bytes) -> x509.Certificate:
    """Read a TBSCertificate: only its form matters here, and any signature makes a certificate of it."""
    return x509.load_der_x509_certificate(template.signed(tbs, _ECDSA_SHA256, b"\x30\x06\x02\x01\x01\x02\x01\x01"))


@functools.lru_cache(maxsize=4096)
def place(tbs: bytes) -> str | None:
    """Return the URL of the CRL that a certificate names."""
    try:
        points = said(tbs).extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except x509.ExtensionNotFound:
        return None
    return points[0].full_name[0].value


@functools.lru_cache(maxsize=4096)
def purposes(tbs: bytes) -> frozenset[x509.ObjectIdentifier]:
    try:
        return frozenset(said(tbs).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return frozenset()


def serves_tls(tbs: bytes) -> bool:
    return bool(purposes(tbs) & {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE})


@functools.lru_cache(maxsize=4096)
def _parsed(der: bytes) -> tuple[x509.CertificateRevocationList, dict[int, Line], list[str]]:
    """A CRL, its lines by serial, and what is wrong with its entries alone."""
    crl = x509.load_der_x509_crl(der)
    lines: dict[int, Line] = {}
    wrong = []
    for entry in crl:
        reason, invalidity = 0, None
        for one in entry.extensions:
            if isinstance(one.value, x509.CRLReason):
                reason = _code(one.value.reason)
                if not reason:
                    wrong.append(f"{entry.serial_number:x} has a reasonCode of 0 (R15)")
            elif isinstance(one.value, x509.InvalidityDate):
                invalidity = one.value.invalidity_date_utc
        if entry.serial_number in lines:
            wrong.append(f"{entry.serial_number:x} stands in it twice")
        lines[entry.serial_number] = Line(entry.revocation_date_utc, reason, invalidity)
    return crl, lines, wrong


def lines_of(record: CRLRecord) -> dict[int, Line]:
    """Return the entries of a CRL by serial."""
    return _parsed(record.der)[1]


def _code(reason: x509.ReasonFlags) -> int:
    return REMOVED if reason is x509.ReasonFlags.remove_from_crl else int(RevocationReason[reason.name.upper()])


def _line(status: CertificateStatus) -> Line:
    invalidity = status.invalidity_date
    return Line(status.revoked_at, int(status.reason or 0), invalidity and invalidity.replace(microsecond=0))


def crl_problems(account, issuers: Mapping[int, x509.Certificate]) -> Iterator[str]:
    """Name what is wrong with the CRLs of a `checks.Account`."""
    told = collections.Counter(
        (event.subject, event.detail["number"], event.detail["sha256"])
        for event in account.events
        if event.kind is EventKind.CRL_PUBLISHED
    )
    stored = collections.Counter(
        (f"crl:{account.names[one.issuer_id]}", one.number, hashlib.sha256(one.der).hexdigest())
        for one in account.crls
    )
    for subject, number, _ in (told - stored) + (stored - told):
        yield f"{subject} {number}: not stored and journalled once each"
    intended = collections.Counter(one.subject for one in account.events if one.kind is EventKind.CRL_INTENT)
    for issuer_id in issuers:
        reserved = account.crl_numbers.get(issuer_id, 0)
        if reserved != intended[f"crl:{account.names[issuer_id]}"]:
            yield f"issuer {issuer_id}: CRL numbers and CRL intents differ"
        yield from _Issuer(account, issuer_id).problems(issuers[issuer_id], reserved)


class _Issuer:
    """The CRLs of one issuer, in the order of their publication."""

    def __init__(self, account, issuer_id: int) -> None:
        self.id = issuer_id
        self.records: Sequence[CRLRecord] = [one for one in account.crls if one.issuer_id == issuer_id]
        self.read = account.read
        self.tbs = {one.serial: one.tbs for one in account.intents if one.issuer_id == issuer_id}
        self.history = [
            (n, self._listed(one)) for n, one in enumerate(account.history) if one.issuer_id == issuer_id
        ]
        self.full: dict[str | None, CRLRecord] = {}
        self.by_number = {one.number: one for one in self.records}

    def _listed(self, status: CertificateStatus) -> CertificateStatus:
        """R16: as if a code-signing certificate ended ten years later; of the others the entry ends with them."""
        signs = ExtendedKeyUsageOID.CODE_SIGNING in purposes(self.tbs[status.serial])
        return dataclasses.replace(status, not_after=status.not_after + TEN_YEARS) if signs else status

    def problems(self, issuer: x509.Certificate, reserved: int) -> Iterator[str]:
        numbers = [one.number for one in self.records]
        if len(set(numbers)) != len(numbers) or max(numbers, default=0) > reserved:
            yield f"issuer {self.id}: CRL numbers {numbers} of {reserved}"
        by_shard = collections.defaultdict(list)
        for record in self.records:
            by_shard[record.scope.shard].append(record)
            yield from (f"CRL {record.number}: {what}" for what in self._one(record, issuer))
        for records in by_shard.values():
            for before, after in itertools.pairwise(records):
                if after.number <= before.number or after.this_update < before.this_update:
                    yield f"CRL {after.number}: published after CRL {before.number}, which is newer (R15)"
        yield from self._together()

    def _one(self, record: CRLRecord, issuer: x509.Certificate) -> Iterator[str]:
        crl, lines, wrong = _parsed(record.der)
        yield from wrong
        if not crl.is_signature_valid(issuer.public_key()) or crl.issuer != issuer.subject:
            yield "not signed by its issuer"
        if crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number != record.number:
            yield "numbered otherwise inside"
        if (crl.last_update_utc, crl.next_update_utc) != (record.this_update, record.next_update):
            yield "other times inside"
        if record.next_update - record.this_update > LONGEST:
            yield "valid for more than 10 days (R15)"
        url, base = yield from self._scope(record, crl)
        statuses = self._statuses(record, url)
        if not record.scope.delta:
            before = self.full.get(url)
            self.full[url] = record
            # R16: an entry stays until one CRL after its certificate expired has carried it.
            yield from _compare(lines, statuses, before.this_update if before else _NEVER)
        elif base is not None:
            yield from (f"with its base, {what}" for what in self._delta(record, base, statuses))

    def _delta(
        self, record: CRLRecord, base: CRLRecord, statuses: Mapping[int, CertificateStatus]
    ) -> Iterator[str]:
        """RFC 5280 5.2.4: a base and its delta say what a complete CRL would say at the time of the delta."""
        lines = lines_of(record)
        combined = dict(lines_of(base))
        for serial, line in lines.items():
            if line.reason == REMOVED:
                combined.pop(serial, None)
                yield from _removal(serial, statuses, base.this_update)
            else:
                combined[serial] = line
        yield from _compare(combined, statuses, base.this_update)
        yield from self._unremoved(record, lines, statuses)

    def _scope(self, record: CRLRecord, crl: x509.CertificateRevocationList):
        """Look at what it says of its scope; return (URL of the shard or None, base or None)."""
        found = {type(one.value): one for one in crl.extensions}
        point, delta = found.get(x509.IssuingDistributionPoint), found.get(x509.DeltaCRLIndicator)
        url = None
        if point is not None:
            url = point.value.full_name[0].value
            if not point.critical or len(point.value.full_name) != 1:
                yield "its issuingDistributionPoint is not critical, or names several places (R15)"
        if (url is None) != (record.scope.shard == 0):
            yield "a shard without a place, or the complete one with one (R15)"
        number = delta.value.crl_number if delta is not None else None
        if number != record.base or (number is None) == record.scope.delta or (delta and not delta.critical):
            yield "its deltaCRLIndicator is not critical and of its base (RFC 5280 5.2.4)"
        if number is None:
            return url, None
        base = self.by_number.get(number)
        if base is None or base is not self.full.get(url) or base.number >= record.number:
            yield f"its base, CRL {number}, is not the newest of its scope"
            return url, base
        if _parsed(base.der)[0].issuer != crl.issuer:
            yield "its base is another issuer's"
        return url, base

    def _statuses(self, record: CRLRecord, url: str | None) -> dict[int, CertificateStatus]:
        """Return the statuses in its scope as they were when its entries were read, by serial."""
        seen = self.read[record.issuer_id, record.number]
        found = {}
        for n, status in self.history:
            if n in seen and (url is None or place(self.tbs[status.serial]) == url):
                found[int.from_bytes(status.serial, "big")] = status
        return found

    def _unremoved(
        self, record: CRLRecord, lines: Mapping[int, Line], statuses: Mapping[int, CertificateStatus]
    ) -> Iterator[str]:
        """RFC 5280 5.2.4: what a delta of the same base listed, and is released now, is removed in this one."""
        for earlier in self.records:
            if (earlier.base, earlier.scope) == (record.base, record.scope) and earlier.number < record.number:
                for serial, line in lines_of(earlier).items():
                    status = statuses.get(serial)
                    released = status is not None and status.state is StatusState.GOOD
                    if line.reason != REMOVED and released and serial not in lines:
                        yield f"it does not remove {serial:x}, which CRL {earlier.number} listed"

    def _together(self) -> Iterator[str]:
        """R15: where all of them were read of the same statuses, the shards together are the complete CRL."""
        complete = self.full.get(None)
        shards = {url: one for url, one in self.full.items() if url is not None}
        if complete is None or not shards:
            return
        mine = {n for n, _ in self.history}
        if len({frozenset(mine & set(self.read[self.id, one.number])) for one in self.full.values()}) > 1:
            return
        union: dict[int, Line] = {}
        for one in shards.values():
            lines = lines_of(one)
            if union.keys() & lines.keys():
                yield f"CRL {one.number} lists what another shard lists"
            union |= lines
        whole = {
            serial: line
            for serial, line in lines_of(complete).items()
            if place(self.tbs[serial.to_bytes((serial.bit_length() + 8) // 8, "big")]) in shards
        }
        # What is expired may have left the one before the others (R16).
        last = max(one.this_update for one in self.full.values())
        expired = {int.from_bytes(one.serial, "big") for _, one in self.history if one.not_after < last}
        for serial in union.keys() ^ whole.keys():
            if serial not in expired:
                yield f"CRL {complete.number} and the shards differ about {serial:x} (R15)"


def _compare(
    lines: Mapping[int, Line], statuses: Mapping[int, CertificateStatus], since: datetime.datetime
) -> Iterator[str]:
    revoked = {serial: one for serial, one in statuses.items() if one.state is StatusState.REVOKED}
    for serial in lines.keys() - revoked.keys():
        yield f"it lists {serial:x}, which is not revoked"
    for serial, status in revoked.items():
        if serial not in lines:
            if status.not_after >= since:
                yield f"it does not list {serial:x}"
        elif lines[serial] != _line(status):
            yield f"{serial:x} was revoked at another time or for another reason"


def _removal(serial: int, statuses: Mapping[int, CertificateStatus], since: datetime.datetime) -> Iterator[str]:
    status = statuses.get(serial)
    if status is None:
        yield f"it removes {serial:x}, of which it knows nothing"
    elif status.state is StatusState.REVOKED:
        if status.not_after >= since:
            yield f"it removes {serial:x}, which is revoked"
    elif status.released_at is None:
        yield f"it removes {serial:x}, which was never suspended"


def late(account) -> Iterator[str]:
    """R14: name what no CRL tells yet, once the worker is at rest: revocations, and the ends of suspensions."""
    for issuer_id in account.names:
        mine = _Issuer(account, issuer_id)
        newest: dict[str | None, CRLRecord] = {}
        for record in mine.records:
            point = [one for one in _parsed(record.der)[0].extensions if one.oid == _POINT]
            newest[point[0].value.full_name[0].value if point else None] = record
        last = {status.serial: n for n, status in mine.history if status.revoked_at or status.released_at}
        for serial, n in last.items():
            url = place(mine.tbs[serial])
            record = newest.get(url, newest.get(None))
            if record is None or n not in mine.read[issuer_id, record.number]:
                yield f"{issuer_id}:{serial.hex()}: no CRL tells of its last change (R14)"
