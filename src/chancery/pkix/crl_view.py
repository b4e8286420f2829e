"""What the CRL lints look at. A CRL of a million entries is read a piece at a time, by patterns."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import itertools
import operator
import re

from cryptography import x509

from chancery.asn1 import der, oids
from chancery.pkix.view import (
    EncodedExtension,
    EncodedTime,
    IssuerView,
    encoded_time,
    read_extensions,
    view_issuer,
)

WINDOW = 1 << 20
"""Octets of entries that are looked at together: what the reading of a CRL takes is bounded by it."""

# An entry as it nearly always is: a Time of 2000 to 2049, a reasonCode that is one, an invalidityDate in its form,
# and lengths that are those of its parts. Nothing that the lints look for can be in what matches.
_REASON = rb"\x30\x0a" + der.oid(oids.CRL_REASON) + rb"\x04\x03\x0a\x01[\x01-\x06\x09\x0a]"
_INVALIDITY = rb"\x30\x18" + der.oid(oids.INVALIDITY_DATE) + rb"\x04\x11\x18\x0f\d{14}Z"
_EXTENSIONS = ((12, _REASON), (26, _INVALIDITY), (38, _REASON + _INVALIDITY))
_LONGEST = 20
"""Octets of a serial number (RFC 5280 4.1.2.2)."""
_ISSUER = der.oid(oids.CERTIFICATE_ISSUER)


@dataclasses.dataclass(frozen=True, slots=True)
class CRLView:
    """
    A CRL's fields as encoded (RFC 5280 5.1). `next_update` None: absent.

    `tails` are the distinct encodings after the serial in its entries, but of the usual ones, in which nothing can
    be wrong, no more than the latest time; `repeated` says that a serial stands twice, `odd_serials` that one is
    not positive or too long. `empty_list` says that revokedCertificates is present without an element.
    """

    version: int | None
    inner_algorithm: bytes
    outer_algorithm: bytes
    issuer_name: bytes
    this_update: EncodedTime
    next_update: EncodedTime | None
    entries: int
    repeated: bool
    odd_serials: bool
    empty_list: bool
    tails: frozenset[bytes]
    raw_extensions: tuple[EncodedExtension, ...]
    issuer: IssuerView | None
    longest: datetime.timedelta

    def raw(self, oid: str) -> EncodedExtension | None:
        return next((one for one in self.raw_extensions if one.oid == oid), None)


class EntryScan:
    """
    Reads the content of revokedCertificates, whole entries in each `feed`, and keeps what the lints need of it.

    Nothing that it keeps grows with their number while the serials ascend (`ascending`), as this suite writes
    them; only with `keep` are repeated ones found in any order.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self.size = 0
        self.count = 0
        self.repeated = False
        self.odd = False
        self.ascending = True
        self.tails: set[bytes] = set()
        self._days: set[bytes] = set()
        self._issuer = b""
        self._last = b""
        self._seen: set[tuple[bytes, bytes]] | None = set() if keep else None

    def feed(self, entries: bytes) -> None:
        """Take these entries (DER, none cut); PKIError(BAD_DATA_FORMAT) for what is no series of entries."""
        at, end = 0, len(entries)
        while at < end:
            size = entries[at + 3] if end - at > 3 else 0
            run = _usual(size).match(entries, at, min(at + WINDOW, end)) if 1 < size <= _LONGEST else None
            if run is None or run.end() == at or not self._many(size, run[0]):
                at = self._one(entries, at)
            else:
                at = run.end()
        self.size += end

    def _many(self, size: int, run: bytes) -> bool:
        """Take a run of usual entries; False, and nothing taken, when one of their days is in no calendar."""
        serials, times = _serial(size).findall(run), _time(size).findall(run)
        days = {one[:6] for one in times} - self._days
        if not all(encoded_time(der.Reader(b"\x17\x0d%b000000Z" % day)).at for day in days):
            return False
        self._days |= days
        # The latest says for all whether it is before thisUpdate.
        self.tails.add(b"\x17\x0d" + max(times))
        self._serials(serials)
        return True

    def _one(self, data: bytes, at: int) -> int:
        """Take one entry, whatever extensions it has, and return where the next begins."""
        tag, start, following = der.header(data, at, len(data))
        inner, begin, stop = der.header(data, start, following)
        if (tag, inner) != (der.SEQUENCE, der.INTEGER):
            raise der.malformed("an entry of a CRL is another value")
        # Its usual form is one of positive serials.
        der.check(data[start:stop])
        self.odd = (
            self.odd or not 0 < stop - begin <= _LONGEST or int.from_bytes(data[begin:stop], signed=True) <= 0
        )
        tail = data[stop:following]
        if _ISSUER in tail:
            # RFC 5280 5.3.3: from here on the serials are another issuer's.
            self._issuer, self._last = tail, b""
        if tail not in self.tails:
            der.check(der.sequence(tail))
            self.tails.add(tail)
        self._serials([data[begin:stop]])
        return following

    def _serials(self, serials: list[bytes]) -> None:
        self.count += len(serials)
        self.ascending = (
            self.ascending
            and self._last < serials[0]
            and all(map(operator.lt, serials, itertools.islice(serials, 1, None)))
        )
        self._last = serials[-1]
        if self._seen is not None:
            for serial in serials:
                self.repeated = self.repeated or (self._issuer, serial) in self._seen
                self._seen.add((self._issuer, serial))


@functools.cache
def _usual(size: int) -> re.Pattern[bytes]:
    """Match as many usual entries as there are whose serials have this many octets, every length as it must be."""
    time = rb"\x17\x0d[0-4]\d{5}(?:[01]\d|2[0-3])[0-5]\d[0-5]\dZ"
    # Positive, and in its fewest octets.
    serial = rb"(?:[\x01-\x7f].|\x00[\x80-\xff]).{%d}" % (size - 2)
    start = rb"\x%02x\x02\x%02x" + serial + time
    ways = [start % (2 + size + 15, size)]
    ways += [start % (4 + size + 15 + more, size) + rb"\x30\x%02x" % more + form for more, form in _EXTENSIONS]
    return re.compile(rb"(?:\x30(?:" + b"|".join(ways) + rb"))*", re.DOTALL)


def _part(size: int, serial: bytes, time: bytes) -> re.Pattern[bytes]:
    rest = rb"(?:\x30\x0c.{12}|\x30\x1a.{26}|\x30\x26.{38})?"
    return re.compile(rb"\x30.\x02." + serial % size + rb"\x17\x0d" + time + rest, re.DOTALL)


@functools.cache
def _serial(size: int) -> re.Pattern[bytes]:
    return _part(size, rb"(.{%d})", rb".{13}")


@functools.cache
def _time(size: int) -> re.Pattern[bytes]:
    return _part(size, rb".{%d}", rb"(.{13})")


def view_crl(data: bytes, issuer: x509.Certificate | None, longest: datetime.timedelta) -> CRLView:
    """
    Take a CRL (DER) apart; PKIError(BAD_DATA_FORMAT) when it has another form than RFC 5280 5.1.

    Everything passes the gate, the entries by their distinct tails: of many, few differ by more than the serial.
    """
    layout = _layout(data, len(data))
    entries = data[layout.start : layout.stop]
    scan = EntryScan()
    scan.feed(entries)
    if not scan.ascending:
        scan = EntryScan(keep=True)
        scan.feed(entries)
    return _view(layout, (data[: layout.start], data[layout.stop :]), scan, issuer, longest)


def view_crl_parts(
    head: bytes, scan: EntryScan, tail: bytes, issuer: x509.Certificate | None, longest: datetime.timedelta
) -> CRLView:
    """`view_crl` of a CRL in pieces: the octets before its entries and after, and what a scan saw of those."""
    if not scan.ascending:
        raise der.malformed("the entries are not in the order of their serials, each once")
    layout = _layout(head, len(head) + scan.size + len(tail))
    if (layout.start, layout.stop) != (len(head), len(head) + scan.size):
        raise der.malformed("the entries are longer or shorter than their length says")
    return _view(layout, (head, tail), scan, issuer, longest)


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """
    Offsets in a CertificateList: the TBSCertList, its first field, revokedCertificates, its content, the
    TBSCertList's end.
    """

    tbs: int
    fields: int
    revoked: int
    start: int
    stop: int
    end: int


def view_ends(data: memoryview) -> tuple[CRLView, Layout]:
    """
    Look at a CRL (DER) of any size but for its entries, and say where they are; errors as of `view_crl`.

    The view has none of them: `entries`, `repeated` and `tails` say nothing.
    """
    layout = _layout(data, len(data))
    ends = bytes(data[: layout.start]), bytes(data[layout.stop :])
    scan = EntryScan()
    scan.size = layout.stop - layout.start
    return _view(layout, ends, scan, None, datetime.timedelta.max), layout


def _layout(data: bytes | memoryview, total: int) -> Layout:
    """
    Find where everything is in a CRL of `total` octets; `data` may be no more than those before its entries.

    Where revokedCertificates is absent its offsets are all the same.
    """
    _, tbs, whole = der.header(data, 0, total)
    tag, fields, end = der.header(data, tbs, whole)
    if whole != total:
        raise der.malformed("bytes follow the value")
    if data[:1] != b"\x30" or tag != der.SEQUENCE:
        raise der.malformed("not a CertificateList")
    at = fields

    def tag_at(place: int) -> int | None:
        return data[place] if place < min(end, len(data)) else None

    if tag_at(at) == der.INTEGER:
        at = der.header(data, at, end)[2]
    for _ in range(3):
        at = der.header(data, at, end)[2]
    if tag_at(at) in {der.UTC_TIME, der.GENERALIZED_TIME}:
        at = der.header(data, at, end)[2]
    if tag_at(at) == der.SEQUENCE:
        _, start, stop = der.header(data, at, end)
        return Layout(tbs, fields, at, start, stop, end)
    return Layout(tbs, fields, at, at, at, end)


def _view(
    layout: Layout,
    ends: tuple[bytes, bytes],
    scan: EntryScan,
    issuer: x509.Certificate | None,
    longest: datetime.timedelta,
) -> CRLView:
    head, tail = ends
    fields = der.Reader(head[layout.fields : layout.revoked])
    version = fields.integer() if fields.peek() == der.INTEGER else None
    inner_algorithm, issuer_name = fields.raw(der.SEQUENCE), fields.raw(der.SEQUENCE)
    this_update = encoded_time(fields)
    next_update = encoded_time(fields) if fields else None
    fields.done()
    inside = layout.end - layout.stop
    extensions, after = der.Reader(tail[:inside]), der.Reader(tail[inside:])
    raw_extensions: tuple[EncodedExtension, ...] = ()
    if extensions:
        encoded = extensions.raw(0xA0)
        der.check(encoded)
        raw_extensions = read_extensions(der.Reader(encoded).enter(0xA0).enter())
    extensions.done()
    outer_algorithm, bits = after.raw(der.SEQUENCE), after.take(der.BIT_STRING)
    after.done()
    if bits[:1] != b"\x00":
        raise der.malformed("a signature that is not whole octets")
    for piece in (inner_algorithm, outer_algorithm, issuer_name):
        der.check(piece)
    return CRLView(
        version=version,
        inner_algorithm=inner_algorithm,
        outer_algorithm=outer_algorithm,
        issuer_name=issuer_name,
        this_update=this_update,
        next_update=next_update,
        entries=scan.count,
        repeated=scan.repeated,
        odd_serials=scan.odd,
        empty_list=layout.revoked < layout.start and not scan.size,
        tails=frozenset(scan.tails),
        raw_extensions=raw_extensions,
        issuer=None if issuer is None else view_issuer(issuer),
        longest=longest,
    )
