"""CRLs and CA certificates over HTTP (RFC 4387 names, RFC 5280 4.2.1.13 and 4.2.2.1 content), from memory."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import datetime
import re
import textwrap
from collections.abc import Awaitable, Mapping, Sequence

from cryptography import x509

from chancery.asn1 import cms
from chancery.errors import ErrorType, PKIError
from chancery.ports import COMPLETE, Clock, CRLRecord, CRLScope, IssuerRecord, StatusReader
from chancery.web import caching
from chancery.web.hot import Answer, Reply, Request, text, to_wire

CERTIFICATE, PEM, CERTS_ONLY = "application/pkix-cert", "application/x-pem-file", "application/pkcs7-mime"
CRL = "application/pkix-crl"
MAX_AGE = datetime.timedelta(hours=1)
# How long an answer's header fields, which count down to nextUpdate, are given again unchanged.
_FRESH_SECONDS = 60.0
_RETRY = ("Retry-After", "5")
_Key = tuple[int, CRLScope]
# As `ca.issuer.shard_url` and `delta_url` say it. A number of a shard has at most four digits.
_PATH = re.compile(rb"/crl/([a-z0-9-]+)(?:/([1-9][0-9]{0,3}))?(/delta)?\.crl")


@dataclasses.dataclass(frozen=True, slots=True)
class _Page:
    """An answer ready to be sent, as 200 and as 304."""

    tag: str
    full: bytes
    not_modified: bytes

    def to(self, request: Request) -> bytes:
        asked = request.if_none_match
        return self.not_modified if asked and caching.matches(asked, self.tag) else self.full


def _page(content_type: str, body: bytes, headers: tuple[tuple[str, str], ...], tag: str) -> _Page:
    full = to_wire(Answer(200, content_type, body, headers))
    return _Page(tag, full, to_wire(caching.not_modified(headers)))


@dataclasses.dataclass(frozen=True, slots=True)
class _Kept:
    record: CRLRecord
    page: _Page
    until: float


class Repository:
    """
    Answers `/crl/<issuer>.crl`, of a shard `/crl/<issuer>/<number>.crl`, of either's delta `…/delta.crl`; and
    `/ca/<issuer>.cer`, `.pem`, `.p7c` (its chains without their roots: the current one first, then those of its
    other certificates, so that whoever trusts another CA finds a path, too).

    `load` gives it the issuers. A CRL is read from the database once, until `crl_changed` says that there is
    another one; the database away, the last one is served for as long as it is valid.
    """

    def __init__(self, reader: StatusReader, clock: Clock) -> None:
        self._reader = reader
        self._clock = clock
        self._ids: dict[bytes, int] = {}
        self._static: dict[bytes, _Page] = {}
        self._crls: dict[_Key, _Kept] = {}
        self._changed: dict[int | _Key, int] = {}
        self._changes = 0
        self._flights: dict[_Key, asyncio.Task[_Kept | None]] = {}
        self._flown: dict[_Key, int] = {}

    def load(self, records: Sequence[IssuerRecord]) -> None:
        """Take these issuers in place of the earlier ones."""
        by_id = {record.issuer_id: record for record in records}
        self._ids = {record.name.encode(): record.issuer_id for record in records}
        self._static = {}
        for record in records:
            self._static |= _static_pages(record, by_id)

    def crl_changed(self, issuer_id: int, scope: CRLScope | None = None) -> None:
        """Forget this CRL of an issuer, or all; one that is being read at this moment will not be kept either."""
        self._changes += 1
        self._changed[issuer_id if scope is None else (issuer_id, scope)] = self._changes
        for key in [(issuer_id, scope)] if scope else [key for key in self._crls if key[0] == issuer_id]:
            self._crls.pop(key, None)

    def _changed_at(self, key: _Key) -> int:
        return max(self._changed.get(key, 0), self._changed.get(key[0], 0))

    def all_changed(self) -> None:
        """Forget every CRL, because changes may have been missed."""
        for issuer_id in self._ids.values():
            self.crl_changed(issuer_id)

    def answer(self, request: Request) -> Reply | Awaitable[Reply]:
        """Answer a GET or HEAD; 404 for what is not here."""
        path = request.target.partition(b"?")[0]
        if (page := self._static.get(path)) is not None:
            return page.to(request)
        if (key := self._key(path)) is None:
            return text(404, "not found", *caching.NO_STORE)
        kept = self._crls.get(key)
        if kept is not None and self._clock.monotonic() < kept.until:
            return kept.page.to(request)
        return self._crl(key, request)

    def _key(self, path: bytes) -> _Key | None:
        """Return the CRL at this path, if one may be there."""
        found = _PATH.fullmatch(path)
        if found is None or (issuer_id := self._ids.get(found[1])) is None:
            return None
        return issuer_id, CRLScope(int(found[2] or 0), delta=found[3] is not None)

    async def _crl(self, key: _Key, request: Request) -> Reply:
        kept: _Kept | None = self._crls.get(key)
        if kept is not None:
            kept = self._crls[key] = self._make(kept.record)
            return kept.page.to(request)
        try:
            kept = await self._read(key)
        except PKIError as error:
            if error.type is not ErrorType.SYSTEM_UNAVAIL:
                raise
            return text(503, "try again later", _RETRY, *caching.NO_STORE)
        if kept is None:
            return text(404, "no CRL has been published yet", *caching.NO_STORE)
        return kept.page.to(request)

    async def _read(self, key: _Key) -> _Kept | None:
        """
        Read the current CRL. All who ask meanwhile share one reading, unless the CRL changed since it began.

        Everybody fetches a new CRL at once, and each reading of a large one costs its size several times over.
        """
        flight = self._flights.get(key)
        if flight is None or flight.done() or self._changed_at(key) > self._flown.get(key, 0):
            self._flown[key] = self._changes
            flight = self._flights[key] = asyncio.create_task(self._load(key, self._changes))
            # Looked at, so that an error whose waiters have all gone is not reported as never retrieved.
            flight.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(flight)

    async def _load(self, key: _Key, before: int) -> _Kept | None:
        record = await self._reader.latest_crl(*key)
        if record is None:
            if key[1] != COMPLETE:
                # Anybody can ask for any number: what is not there leaves nothing behind.
                self._flights.pop(key, None)
                self._flown.pop(key, None)
            return None
        made = self._make(record)
        if self._changed_at(key) <= before:
            self._crls[key] = made
        return made

    def _make(self, record: CRLRecord) -> _Kept:
        left = (record.next_update - self._clock.now()).total_seconds()
        max_age = max(0, int(min(MAX_AGE.total_seconds(), left - _FRESH_SECONDS)))
        tag = caching.etag(record.der)
        headers = caching.fields(tag, record.this_update, record.next_update, max_age)
        page = _page(CRL, record.der, headers, tag)
        return _Kept(record, page, self._clock.monotonic() + _FRESH_SECONDS)


def _static_pages(record: IssuerRecord, by_id: Mapping[int, IssuerRecord]) -> dict[bytes, _Page]:
    certificate = x509.load_der_x509_certificate(record.certificate)
    bodies = {
        "cer": (CERTIFICATE, record.certificate),
        "pem": (PEM, _pem(record.certificate)),
        "p7c": (CERTS_ONLY, cms.certs_only(_chain(record, by_id))),
    }
    pages = {}
    for suffix, (content_type, body) in bodies.items():
        tag = caching.etag(body)
        headers = caching.fields(
            tag,
            certificate.not_valid_before_utc,
            certificate.not_valid_after_utc,
            int(MAX_AGE.total_seconds()),
        )
        pages[f"/ca/{record.name}.{suffix}".encode()] = _page(content_type, body, headers, tag)
    return pages


def _chain(record: IssuerRecord, by_id: Mapping[int, IssuerRecord]) -> list[bytes]:
    """Certificates from this issuer up by every path, without the roots unless that is what was asked for."""
    found: dict[bytes, None] = {record.certificate: None}
    waiting = [record]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop(0)
        if one.issuer_id in seen:
            continue
        seen.add(one.issuer_id)
        for certificate, parent_id in _certificates(one):
            if parent_id is not None:
                found[certificate] = None
                waiting.append(by_id[parent_id])
    return list(found)


def _certificates(record: IssuerRecord) -> list[tuple[bytes, int | None]]:
    further = [(one.certificate, one.parent_id) for one in record.further]
    return [(record.certificate, record.parent_id), *further]


def _pem(certificate: bytes) -> bytes:
    body = "\n".join(textwrap.wrap(base64.b64encode(certificate).decode(), 64))
    return f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n".encode()
