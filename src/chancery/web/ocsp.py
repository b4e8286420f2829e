"""
OCSP over HTTP (RFC 6960 A.1, RFC 5019 5 and 6), and everything else of the responder's process.

A request seen before costs one look into a dictionary: answers are kept under the octets of the request, as
POST brings them and as GET spells them, without being parsed again.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import dataclasses
import datetime
import json
import urllib.parse
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence

from chancery.asn1 import ocsp
from chancery.asn1.signature import Signer
from chancery.errors import ErrorType, PKIError
from chancery.ocsp.ahead import START, Ahead
from chancery.ocsp.answering import Answered, Answerer, AnswererLimits
from chancery.ocsp.cache import Cache, Changes
from chancery.ocsp.delegates import Delegates, Report
from chancery.ocsp.responder import Asked, Policies, Subject
from chancery.ports import Clock, CRLScope, StatusReader
from chancery.web import caching, failures
from chancery.web.hot import BUSY_SECONDS, Answer, Limits, Reply, Request, text, to_wire
from chancery.web.metrics import Labels, Metric, single
from chancery.web.repository import Repository

_REQUEST_TYPE = ocsp.CONTENT_TYPE_REQUEST.encode()
_POST_PATHS = frozenset({b"/ocsp", b"/ocsp/", b"/"})
_GET_PATH = b"/ocsp/"
# Those who wait to hear tryLater are among the requests in flight.
LIMITS = Limits(max_body=ocsp.MAX_REQUEST, max_inflight=16_384)
_STATUS_BY_WORD = {
    "malformedRequest": ocsp.ResponseStatus.MALFORMED_REQUEST,
    "internalError": ocsp.ResponseStatus.INTERNAL_ERROR,
    "tryLater": ocsp.ResponseStatus.TRY_LATER,
    "sigRequired": ocsp.ResponseStatus.SIG_REQUIRED,
    "unauthorized": ocsp.ResponseStatus.UNAUTHORIZED,
}


def _refusal(status: ocsp.ResponseStatus) -> Answer:
    return Answer(200, ocsp.CONTENT_TYPE_RESPONSE, ocsp.error_response(status), caching.NO_STORE)


_REFUSALS = {word: to_wire(_refusal(status)) for word, status in _STATUS_BY_WORD.items()}
_MALFORMED = _REFUSALS["malformedRequest"]
# Nothing is answered from the cache in the last minute before its nextUpdate.
_MARGIN_SECONDS = 60.0
# How much of the cache answers ahead of time may fill.
_ROOM = 0.9


def refused(type_: ErrorType) -> bytes:
    """Return the answer (on the wire) for an error: HTTP 200 with the OCSP status of `failures.OCSP`."""
    return _REFUSALS[failures.OCSP[type_]]


def on_error(_: Request) -> Answer:
    """Return what a client hears when a handler broke."""
    return _refusal(ocsp.ResponseStatus.INTERNAL_ERROR)


@dataclasses.dataclass(frozen=True, slots=True)
class Presign:
    """Answers are made ahead of time: at most `per_second`, in these `hours` of the day (0 to 23, UTC)."""

    per_second: int
    hours: frozenset[int]


@dataclasses.dataclass(frozen=True, slots=True)
class OCSPSettings:
    """
    What one responder process does. `max_age` is what HTTP caches on the way are told, at most half of an
    answer's validity. `refresh` is how often issuers and delegate certificates are looked for again.
    """

    policies: Policies = dataclasses.field(default_factory=Policies)
    limits: AnswererLimits = dataclasses.field(default_factory=AnswererLimits)
    cache_entries: int = 200_000
    cache_bytes: int = 256 * 1024 * 1024
    max_age: datetime.timedelta = datetime.timedelta(hours=1)
    refresh: datetime.timedelta = datetime.timedelta(seconds=60)
    refresh_in_need: datetime.timedelta = datetime.timedelta(seconds=1)
    presign: Presign | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class _Kept:
    """
    An answer ready to be sent. `refresh` is half of its life, in monotonic seconds: then a new one is made, and
    this one only stands in, until `until`, while that is not possible.
    """

    tag: str
    full: bytes
    not_modified: bytes
    refresh: float
    until: float
    subjects: tuple[Subject, ...]
    read_at: int

    def to(self, request: Request) -> bytes:
        asked = request.if_none_match
        if asked is not None and request.method != b"POST" and caching.matches(asked, self.tag):
            return self.not_modified
        return self.full

    def late(self) -> bytes:
        """Return it as it is sent past half of its life: true, and not to be kept by anybody."""
        body = self.full[self.full.index(b"\r\n\r\n") + 4 :]
        return _unkept(body)


# `to_wire` of a 200 with no-store; its length is filled in.
_UNKEPT = to_wire(Answer(200, ocsp.CONTENT_TYPE_RESPONSE, b"", caching.NO_STORE)).replace(b": 0", b": %d") + b"%b"


def _unkept(response: bytes) -> bytes:
    return _UNKEPT % (len(response), response)


class OCSPService:
    """
    The whole responder behind one HTTP handler: OCSP, CRLs and CA certificates, health.

    `signers` are the delegate keys by the name of the issuer they answer for, the usual one first; `every` answers
    for the others of this installation. `report` takes the name and details of what an operator should know. Call
    `invalidate`, `crl_changed` and `issuers_changed` from the same event loop when the database says so, and
    `listening` and `not_listening` when it can be heard from now on, or no more.
    """

    def __init__(
        self,
        reader: StatusReader,
        signers: Mapping[str, Sequence[Signer]],
        clock: Clock,
        settings: OCSPSettings,
        report: Report,
        *,
        every: Signer | None = None,
    ) -> None:
        settings.policies.check()
        self._clock = clock
        self._settings = settings
        self._report = report
        self._reader = reader
        self._changes = Changes()
        self._delegates = Delegates(reader, signers, clock, report, policies=settings.policies, every=every)
        self._answerer = Answerer(
            reader,
            self._delegates,
            clock=clock,
            changes=self._changes,
            policies=settings.policies,
            limits=settings.limits,
        )
        self._cache: Cache[bytes, _Kept] = Cache(
            self._changes, max_entries=settings.cache_entries, max_bytes=settings.cache_bytes
        )
        self._repository = Repository(reader, clock)
        self._database: str | None = "not asked yet"
        self._deaf = False
        self._wake = asyncio.Event()
        self._refreshing: asyncio.Task[None] | None = None
        self._ahead = Ahead(reader, self._delegates, self._answerer, settings.policies)
        self._ahead_at = START
        self._presigning: asyncio.Task[None] | None = None
        self._hits = self._made = self._presigned = 0
        self._refused: Counter[ErrorType] = Counter()

    # -- the process

    async def start(self) -> None:
        """Look for issuers and delegate certificates, now and from now on. A database away does not stop it."""
        await self.refresh()
        self._refreshing = asyncio.create_task(self._keep_refreshing())
        if self._settings.presign is not None:
            self._presigning = asyncio.create_task(self._keep_presigning(self._settings.presign))

    async def close(self) -> None:
        """Finish what was accepted and stop."""
        for task in (self._refreshing, self._presigning):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        await self._answerer.close()

    async def refresh(self) -> None:
        """Read issuers and delegate certificates again; what cannot be read stays as it was, and is reported."""
        try:
            changed = await self._delegates.refresh()
            self._repository.load(await self._reader.issuers())
        except PKIError as error:
            self._say_database(str(error))
            return
        self._say_database(None)
        if self._deaf:
            # Nobody tells what changes: what was known before the database answered is not known any more.
            self.invalidate_all()
        elif changed:
            # Another certificate signs from now on; one that was revoked must not live on in answers.
            self._note_all()

    async def _keep_refreshing(self) -> None:
        while True:
            delegates = self._delegates
            well = not (self._database or self._deaf or delegates.problems or delegates.waiting)
            pause = self._settings.refresh if well else self._settings.refresh_in_need
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause.total_seconds())
            self._wake.clear()
            try:
                await self.refresh()
            except Exception as error:  # noqa: BLE001 - the loop must outlive one bad turn
                self._report("ocsp.refresh_failed", {"error": repr(error)})

    # -- ahead of time

    async def _keep_presigning(self, presign: Presign) -> None:
        while True:
            try:
                if self._may_presign(presign):
                    await self.presign(presign)
            except PKIError as error:
                self._report("ocsp.presigning", {"problem": str(error)})
            except Exception as error:  # noqa: BLE001 - the loop must outlive one bad turn
                self._report("ocsp.presigning", {"problem": repr(error)})
            await asyncio.sleep(self._settings.refresh.total_seconds())

    def _may_presign(self, presign: Presign) -> bool:
        """In its hours, while changes are heard of, and as long as the cache has room."""
        full = len(self._cache) >= self._settings.cache_entries * _ROOM
        full = full or self._cache.bytes >= self._settings.cache_bytes * _ROOM
        return self._clock.now().hour in presign.hours and not (full or self._deaf or self._database)

    async def presign(self, presign: Presign) -> None:
        """
        Keep an answer for every certificate alive that has none, from where the last time ended.

        Raises PKIError when something is away; the next call goes on there.
        """
        async for last, page in self._ahead.pages(self._ahead_at, self._not_kept):
            for _, plain, answered in page:
                self._presigned += answered.lasting and self._keep(plain, self._kept(answered))
            self._ahead_at = last
            await asyncio.sleep(len(page) / presign.per_second)
            if not self._may_presign(presign):
                return
        self._ahead_at = START

    def _not_kept(self, plain: bytes) -> bool:
        now = self._clock.monotonic()
        return (kept := self._cache.get(plain, now)) is None or now >= kept.refresh

    def _say_database(self, problem: str | None) -> None:
        if (problem is None) != (self._database is None):
            self._report("ocsp.database", {"problem": problem or "none"})
        self._database = problem

    # -- what the database says

    def invalidate(self, issuer_id: int, serial: bytes) -> None:
        """Forget what is known of one certificate: its status changed (channel chancery_status)."""
        subject = (issuer_id, serial)
        self._changes.note(subject)
        self._cache.drop(subject)
        self._answerer.drop(subject)

    def foreign_changed(self, foreign_id: int) -> None:
        """Forget what a foreign CA's CRL said: another one counts now (channel chancery_foreign)."""
        self._changes.note_issuer(-foreign_id)
        self._cache.drop_issuer(-foreign_id)
        self._answerer.drop_issuer(-foreign_id)

    def issuers_changed(self) -> None:
        """Look for issuers and delegates now (channel chancery_issuer)."""
        self._wake.set()

    def listening(self) -> None:
        """Notifications arrive from now on; some may have been missed before."""
        if self._deaf:
            self._deaf = False
            self._report("ocsp.notifications", {"problem": "none"})
        self.invalidate_all()

    def not_listening(self) -> None:
        """
        No notifications arrive. Until `listening`, answers are kept from one look at the database to the next.

        The looks are `refresh_in_need` apart. While the database cannot be asked either, answers are kept as ever.
        """
        if not self._deaf:
            self._deaf = True
            self._wake.set()
            self._report("ocsp.notifications", {"problem": "not heard"})

    def invalidate_all(self) -> None:
        """Forget everything: notifications may have been missed."""
        self._note_all()
        self._repository.all_changed()

    def _note_all(self) -> None:
        self._changes.note_all()
        self._cache.clear()
        self._answerer.clear()

    def crl_changed(self, issuer_id: int, scope: CRLScope | None = None) -> None:
        """Forget an issuer's CRL: there is another one (channel chancery_crl)."""
        self._repository.crl_changed(issuer_id, scope)

    # -- HTTP

    def handler(self, request: Request) -> Reply | Awaitable[Reply]:
        """Answer one HTTP request."""
        target = request.target
        if request.method == b"POST":
            if target not in _POST_PATHS:
                return text(404, "not found", *caching.NO_STORE)
            return self._post(request)
        if target.startswith(_GET_PATH):
            return self._get(request)
        if target in {b"/healthz", b"/readyz", b"/health"}:
            return self._health_answer(ready=target != b"/healthz")
        if target == b"/ocsp":
            return _MALFORMED
        return self._repository.answer(request)

    def _post(self, request: Request) -> Reply | Awaitable[Reply]:
        content_type = request.content_type or b""
        if content_type != _REQUEST_TYPE and content_type.partition(b";")[0].strip().lower() != _REQUEST_TYPE:
            return text(415, f"Content-Type must be {ocsp.CONTENT_TYPE_REQUEST}", *caching.NO_STORE)
        now = self._clock.monotonic()
        kept = self._cache.get(request.body, now)
        if kept is not None and now < kept.refresh:
            self._hits += 1
            return kept.full
        return self._decoded(request, request.body, now, kept)

    def _get(self, request: Request) -> Reply | Awaitable[Reply]:
        now = self._clock.monotonic()
        kept = self._cache.get(request.target, now)
        if kept is not None and now < kept.refresh:
            self._hits += 1
            return kept.to(request)
        try:
            body = from_path(request.target[len(_GET_PATH) :])
        except PKIError as error:
            return self._refuse(error.type)
        return self._decoded(request, body, now, kept)

    def _decoded(self, request: Request, body: bytes, now: float, kept: _Kept | None) -> Reply | Awaitable[Reply]:
        """
        Read a request whose answer is not fresh under its own octets; perhaps it is, in another spelling.

        `kept` is the answer past half of its life, but true until nextUpdate: better than none when no more fit.
        """
        if self._answerer.full:
            return self._refuse_late() if kept is None else kept.late()
        try:
            asked = self._answerer.admit(ocsp.decode_request(body))
        except PKIError as error:
            return self._refuse(error.type)
        if asked.request.nonce is not None or asked.signer is not None or len(asked.request.cert_ids) > 1:
            return self._fresh(request, asked)
        # Nothing can follow a request: with a variant, no client's octets are this key.
        plain = ocsp.encode_request(asked.request) + self._answerer.variant(asked)
        kept = self._cache.get(plain, now)
        if kept is None or now >= kept.refresh:
            return self._lasting(request, asked, plain)
        self._hits += 1
        self._keep_alias(request, plain, kept)
        return kept.to(request)

    async def _fresh(self, request: Request, asked: Asked) -> Reply:
        """Answer what is not kept: a nonce, a signed request, or several CertIDs."""
        try:
            answered = await self._answerer.answer(asked)
        except PKIError as error:
            return self._refuse(error.type)
        self._made += 1
        if answered.lasting:
            return self._kept(answered).to(request)
        return _unkept(answered.response)

    async def _lasting(self, request: Request, asked: Asked, plain: bytes) -> Reply:
        """Answer what may be kept, and keep it."""
        try:
            answered = await self._answerer.answer(asked)
        except PKIError as error:
            # Past half of its life, but true until nextUpdate: better than nothing while something is away.
            kept = self._cache.get(plain, self._clock.monotonic())
            if kept is not None and error.type is ErrorType.SYSTEM_UNAVAIL:
                return kept.late()
            return self._refuse(error.type)
        self._made += 1
        if not answered.lasting:
            return _unkept(answered.response)
        kept = self._kept(answered)
        if self._keep(plain, kept):
            self._keep_alias(request, plain, kept)
        return kept.to(request)

    def _kept(self, answered: Answered) -> _Kept:
        # From now on: a foreign CA's CRL, and with it thisUpdate, may be half as old as it gets.
        left = (answered.next_update - self._clock.now()).total_seconds()
        max_age = int(min(self._settings.max_age.total_seconds(), left / 2))
        tag = caching.etag(answered.response)
        headers = caching.fields(tag, answered.this_update, answered.next_update, max_age)
        now = self._clock.monotonic()
        return _Kept(
            tag,
            to_wire(Answer(200, ocsp.CONTENT_TYPE_RESPONSE, answered.response, headers)),
            to_wire(caching.not_modified(headers)),
            now + left / 2,
            now + left - _MARGIN_SECONDS,
            answered.subjects,
            answered.read_at,
        )

    def _keep(self, key: bytes, kept: _Kept) -> bool:
        return self._cache.put(
            key,
            kept,
            size=len(key) + len(kept.full) + len(kept.not_modified),
            until=kept.until,
            subjects=kept.subjects,
            read_at=kept.read_at,
        )

    def _keep_alias(self, request: Request, plain: bytes, kept: _Kept) -> None:
        """
        Keep an answer under GET's spelling too, if it is one that honest clients use.

        Every octet of a path can be percent-encoded or not: without this, one client could fill the cache
        with spellings of one request.
        """
        if request.method != b"POST" and request.target[len(_GET_PATH) :] in spellings(plain):
            self._keep(request.target, kept)

    # -- health

    def health(self) -> dict[str, object]:
        """Return what a monitor wants to know; `ok` is false when some answers would be tryLater."""
        problems = dict(self._delegates.problems)
        return {
            "ok": self._database is None and not self._deaf and not problems,
            "database": self._database or "ok",
            "notifications": "not heard" if self._deaf else "ok",
            "delegates": problems or "ok",
            "waiting": dict(self._delegates.waiting),
            "ending": self._delegates.ending(),
            "cached": len(self._cache),
            "cached_bytes": self._cache.bytes,
            "hits": self._hits,
            "signed": self._made,
            "refused": self._refused.total(),
        }

    async def _refuse_late(self) -> bytes:
        """
        Say tryLater because too many wait: not at once, and with nothing decoded.

        What it costs to say no is taken from those who are let in.
        """
        await asyncio.sleep(BUSY_SECONDS)
        return self._refuse(ErrorType.SYSTEM_UNAVAIL)

    def _refuse(self, type_: ErrorType) -> bytes:
        self._refused[type_] += 1
        return refused(type_)

    def ready(self) -> bool:
        """Tell whether requests can be answered: database, notifications and delegates are there."""
        return bool(self.health()["ok"])

    def metrics(self) -> list[Metric]:
        """Return what Prometheus is told; a delegate's end is in seconds since 1970."""
        refusals: Counter[Labels] = Counter()
        for type_, count in self._refused.items():
            refusals[failures.OCSP[type_],] += count
        answers: dict[Labels, float] = {("kept",): float(self._hits), ("signed",): float(self._made)}
        ends: dict[Labels, float] = {(name,): until.timestamp() for name, until in self._delegates.ends().items()}
        problems, ending = self._delegates.problems, self._delegates.ending()
        missing: dict[Labels, float] = {(name,): name in problems for name in {*problems, *self._delegates.ends()}}
        return [
            Metric("chancery_ocsp_answers", "Answers given, kept or signed anew.", answers, ("made",), "counter"),
            Metric("chancery_ocsp_refusals", "Error responses by status.", refusals, ("status",), "counter"),
            single("chancery_ocsp_presigned", "Answers made ahead of time.", self._presigned, "counter"),
            single("chancery_ocsp_cached_answers", "Answers kept in memory.", len(self._cache)),
            single("chancery_ocsp_cached_bytes", "Memory that kept answers take.", self._cache.bytes),
            single("chancery_ocsp_database_up", "1 when the database answered last time.", self._database is None),
            single("chancery_ocsp_notifications_up", "1 when changes are heard of.", not self._deaf),
            Metric("chancery_ocsp_delegate_end_seconds", "End of the delegate certificate.", ends, ("issuer",)),
            Metric(
                "chancery_ocsp_delegate_ending",
                "1 when less than a quarter of the delegate certificate's life is left.",
                {(name,): float(name in ending) for name in self._delegates.ends()},
                ("issuer",),
            ),
            Metric(
                "chancery_ocsp_delegate_missing",
                "1 when no certificate may sign for the issuer now.",
                missing,
                ("issuer",),
            ),
        ]

    def _health_answer(self, *, ready: bool) -> Answer:
        """Liveness is that this is answered at all; readiness is that requests can be."""
        health = self.health()
        status = 200 if health["ok"] or not ready else 503
        return Answer(status, "application/json", json.dumps(health).encode() + b"\n", caching.NO_STORE)


def from_path(path: bytes) -> bytes:
    """
    Return the OCSPRequest (DER) that the path of a GET holds: base64, url-encoded (RFC 6960 A.1.1).

    Taken in every spelling seen in the field: percent-encoded wholly, partly or not at all, with or without
    padding, `+` turned into a space, further slashes in front. PKIError(BAD_DATA_FORMAT) for anything else.
    """
    # No request begins with a slash: base64 of a SEQUENCE begins with M.
    text_ = urllib.parse.unquote_to_bytes(path).lstrip(b"/").replace(b" ", b"+").rstrip(b"=")
    try:
        return binascii.a2b_base64(text_ + b"=" * (-len(text_) % 4), strict_mode=True)
    except binascii.Error:
        raise PKIError(ErrorType.BAD_DATA_FORMAT, "a path that is not base64") from None


def spellings(body: bytes) -> frozenset[bytes]:
    """Return how clients write this request in a path: encoded fully, but for slashes, or plain; padded or not."""
    padded = base64.b64encode(body).decode()
    return frozenset(
        urllib.parse.quote(one, safe=safe).encode()
        for one in (padded, padded.rstrip("="))
        for safe in ("", "/", "+/=", "+=", "=")
    )
