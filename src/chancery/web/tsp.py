"""
Timestamps over HTTP (RFC 3161 3.4), and the life of a timestamping authority: its clock, certificate and records.

POST /tsa is answered with a TimeStampResp whatever happens; /healthz and /readyz say how the authority is.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from chancery.asn1 import tsp
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.ports import Clock, Entropy, Event, EventDetail, EventKind, Signer, TimestampStore
from chancery.tsa.authority import Authority, AuthoritySettings, Recorder
from chancery.tsa.issuance import TokenService, refusal
from chancery.tsa.renewal import CertificateFinder
from chancery.tsa.timekeeping import ClockGuard, TimeSource, TimeState
from chancery.web import tsppage
from chancery.web.hot import Answer, Limits, Reply, Request, text, to_wire
from chancery.web.metrics import Metric, single
from chancery.web.tspaccess import Access, AccessSettings, RefusedError

PATH = b"/tsa"
QUERY, REPLY = b"application/timestamp-query", "application/timestamp-reply"
LIMITS = Limits(max_body=tsp.MAX_REQUEST)
_RETRY = ("Retry-After", "1")
Report = Callable[[str, Mapping[str, object]], None]


class TSAService:
    """
    A timestamping authority for `web.hot`: `serve(service.handler, …, limits=LIMITS, on_error=service.on_error)`.

    `certificates` is the chain (DER), the authority's own first; when it is empty, or whenever `finder` knows a
    newer one, the certificate is found by its key, and one that is no longer good is not signed under. The clock
    is measured against `source` every `measure_s` seconds, and a measurement holds for `lifetime_s`.
    `report(event, detail)` gets what an operator should read; `exc_info` in the detail is an exception. `access`
    says who may ask (None: anybody); its clients are read again every `access_s` seconds.
    `page`: there is a page for browsers, too.
    """

    def __init__(
        self,
        *,
        store: TimestampStore,
        signer: Signer,
        certificates: Sequence[bytes] = (),
        clock: Clock,
        source: TimeSource,
        entropy: Entropy,
        settings: AuthoritySettings,
        report: Report,
        finder: CertificateFinder | None = None,
        threads: int = 4,
        max_batch: int = 256,
        max_pending: int = 2048,
        measure_s: float = 5.0,
        lifetime_s: float = 30.0,
        refresh_s: float = 60.0,
        access: Access | None = None,
        access_s: float = 2.0,
        page: bool = True,
        actor: str = "tsa",
    ) -> None:
        settings.check()
        self._store = store
        self._signer = signer
        self._certificates = tuple(certificates)
        self._clock = clock
        self._entropy = entropy
        self._settings = settings
        self._report = report
        self._finder = finder
        self._threads = threads
        self._limits = (max_batch, max_pending)
        self._measure_s, self._refresh_s = measure_s, refresh_s
        self._access = access or Access(AccessSettings(), None, clock)
        self._access_s = access_s
        self._page = tsppage.load() if page else {}
        self._actor = actor
        self.guard = ClockGuard(
            clock,
            source,
            accuracy=settings.accuracy,
            resolution=settings.resolution,
            lifetime_s=lifetime_s,
            actor=actor,
        )
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="tsa-sign")
        # Apart from the signers: a time source that hangs must not hold up a signature.
        self._measurer = ThreadPoolExecutor(1, thread_name_prefix="tsa-clock")
        self._authority: Authority | None = None
        self._tokens: TokenService | None = None
        self._events: list[Event] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """
        Find the certificate, measure the clock, and begin to watch both.

        Raises OperatorError when there is no certificate that may sign timestamps now, PKIError(SYSTEM_UNAVAIL)
        when it cannot be asked for. A clock that is not fit does not stop the start: it is answered.
        """
        self._authority = self._first_fit([self._certificates] if self._certificates else await self._chains())
        await self._access.refresh()
        max_batch, max_pending = self._limits
        self._tokens = TokenService(
            self._authority,
            Recorder(self._store, self._actor),
            self.guard,
            executor=self._executor,
            threads=self._threads,
            report=lambda error: self._report("tsa.request_failed", {"exc_info": error}),
            max_batch=max_batch,
            max_pending=max_pending,
        )
        self._note(EventKind.PROCESS_STARTED, self._configuration())
        await self.measure()
        self._tasks = [
            asyncio.create_task(self._every(self._measure_s, self.measure)),
            asyncio.create_task(self._every(self._refresh_s, self.refresh)),
            asyncio.create_task(self._every(self._access_s, self._access.refresh)),
        ]

    async def close(self) -> None:
        """Stop watching, note the end in the journal if it can be reached, and let signatures in progress end."""
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tasks = []
        if self._tokens is not None:
            await self._tokens.close()
            await self._access.close()
            self._note(EventKind.PROCESS_STOPPED, {})
            await self._journal()
        self._executor.shutdown()
        self._measurer.shutdown(wait=False)

    # -- what it watches

    async def _every(self, seconds: float, act: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await act()
            except Exception as error:  # noqa: BLE001 - a watcher that dies is worse: it is reported, and goes on
                self._report("tsa.watch_failed", {"exc_info": error})

    async def measure(self) -> None:
        """Measure the clock once, and journal what came of it (R23, R26)."""
        before = self.guard.status
        loop = asyncio.get_running_loop()
        status = self.guard.observe(*await loop.run_in_executor(self._measurer, self.guard.measure))
        if status.state is not before.state or (status.state is not TimeState.FIT and status != before):
            detail = {"state": status.state.value, "source": status.source, "reason": status.reason}
            self._report("tsa.clock", detail)
        await self._journal()

    async def refresh(self) -> None:
        """Follow the certificate of the key: take over a newer one, stop signing when none is good any more."""
        finder, authority = self._finder, self._authority
        if finder is None or authority is None:
            return
        try:
            chains = await finder.chains(self._signer.public_key)
        except PKIError as error:
            self._report("tsa.certificate_unknown", {"error": str(error)})
            return
        current = authority.credential.certificates[0] if authority.credential else None
        for chain in chains:
            if chain[0] == current:
                return
            try:
                authority.renew(chain, self._clock.now())
            except OperatorError as error:
                self._report("tsa.certificate_refused", {"error": str(error)})
                continue
            self._certificate_changed(chain[0])
            return
        if current is not None:
            authority.withdraw()
            self._certificate_changed(None)

    async def _chains(self) -> list[tuple[bytes, ...]]:
        return [] if self._finder is None else await self._finder.chains(self._signer.public_key)

    def _first_fit(self, chains: Sequence[tuple[bytes, ...]]) -> Authority:
        """Make the authority under the first chain that may sign; OperatorError says why the last may not."""
        refused = OperatorError(
            "there is no certificate for the key of the timestamping authority",
            "issue one from the timestamping profile",
        )
        for chain in chains:
            try:
                return Authority(
                    self._settings,
                    signer=self._signer,
                    certificates=chain,
                    guard=self.guard,
                    entropy=self._entropy,
                    at=self._clock.now(),
                )
            except OperatorError as error:
                refused = error
        raise refused

    def _certificate_changed(self, certificate: bytes | None) -> None:
        fingerprint = hashlib.sha256(certificate).hexdigest() if certificate else None
        self._report("tsa.certificate", {"sha256": fingerprint})
        self._note(EventKind.TSA_CERTIFICATE, {"sha256": fingerprint})

    def _configuration(self) -> EventDetail:
        """What R26 wants to find in the journal for every run."""
        settings = self._settings
        credential = self._authority.credential if self._authority else None
        return {
            "accuracy_us": round(settings.accuracy.total_seconds() * 1e6),
            "algorithm": self._signer.algorithm.name,
            "certificate_sha256": hashlib.sha256(credential.certificates[0]).hexdigest() if credential else None,
            "instance": settings.instance,
            "policies": list(settings.policies),
        }

    def _note(self, kind: EventKind, detail: EventDetail) -> None:
        self._events.append(Event(kind, self._clock.now(), self._actor, "tsa", detail))

    async def _journal(self) -> None:
        """Write what happened to the journal; what could not be written is kept for the next time."""
        own, clock = tuple(self._events), self.guard.pending_events()
        if not own and not clock:
            return
        try:
            await self._store.record((), (*own, *clock))
        except PKIError as error:
            self._report("tsa.journal_waits", {"error": str(error), "events": len(own) + len(clock)})
        else:
            del self._events[: len(own)]
            self.guard.forget(clock)

    # -- what it answers

    def handler(self, request: Request) -> Reply | Awaitable[Reply]:
        """Answer one HTTP request (`web.hot.Handler`)."""
        if request.target == PATH:
            if request.method != b"POST":
                return text(405, "send a TimeStampReq with POST", ("Allow", "POST"))
            if (request.content_type or b"").split(b";", 1)[0].strip().lower() != QUERY:
                return text(415, f"send a TimeStampReq as {QUERY.decode()}")
            return self._stamp(request)
        if request.method == b"POST":
            return text(404, "timestamps are made at /tsa")
        if (page := self._page.get(request.target)) is not None:
            return page
        if request.target == b"/healthz":
            return _as_json(200, self.health())
        if request.target == b"/readyz":
            health = self.health()
            return _as_json(200 if health["ready"] else 503, health)
        return text(404, "there is nothing here; timestamps are made at /tsa")

    async def _stamp(self, request: Request) -> Reply:
        tokens = self._tokens
        if tokens is None:
            return _unavailable(refusal(ErrorType.SYSTEM_UNAVAIL, "the authority has not started").der)
        try:
            entry = self._access.enter(request)
        except RefusedError as error:
            return _kept_out(error)
        # Whoever goes away before the answer may have been recorded by then, and counts.
        granted = True
        try:
            await entry.take()
            answer = await tokens.respond(request.body, entry.recorded_as, entry.policies)
            granted = answer.error is None
        except RefusedError as error:
            granted = False
            self._access.refused[error.why] += 1
            return _kept_out(error)
        except PKIError as error:
            granted = False
            return _unavailable(refusal(error.type, error.detail).der)
        finally:
            entry.leave(granted=granted)
        if answer.error is ErrorType.SYSTEM_UNAVAIL:
            return _unavailable(answer.der)
        return b"".join((_GRANTED, b"%d\r\n\r\n" % len(answer.der), answer.der))

    @staticmethod
    def on_error(request: Request) -> Answer:
        """Answer a request whose handler failed (`web.hot.OnError`): no detail."""
        if request.target == PATH:
            return Answer(200, REPLY, refusal(ErrorType.SYSTEM_FAILURE, "the request could not be handled").der)
        return text(500, "internal error")

    def health(self) -> dict[str, object]:
        """Say whether a token would be granted now (`ready`), and how the clock and the certificate are."""
        credential = self._authority.credential if self._authority else None
        now = self._clock.now()
        valid = credential is not None and credential.not_before <= now <= credential.not_after
        fit = self._clock_is_fit()
        status = self.guard.status
        return {
            "ready": fit and valid,
            "clock": {
                "fit": fit,
                "state": status.state.value,
                "source": status.source,
                "reason": status.reason,
                "offset_s": status.offset_s,
                "uncertainty_s": status.uncertainty_s,
                "accuracy_s": self._settings.accuracy.total_seconds(),
                "expires_in_s": max(0.0, round(status.expires_at_monotonic - self._clock.monotonic(), 3)),
            },
            "certificate": {
                "valid": valid,
                "sha256": hashlib.sha256(credential.certificates[0]).hexdigest() if credential else None,
                "not_after": credential.not_after.isoformat() if credential else None,
            },
            "policies": list(self._settings.policies),
        }

    def ready(self) -> bool:
        """Tell whether a token would be granted now."""
        return bool(self.health()["ready"])

    def metrics(self) -> list[Metric]:
        """Return what Prometheus is told; the certificate's end is in seconds since 1970."""
        credential = self._authority.credential if self._authority else None
        answered = self._tokens.answered if self._tokens else {}
        status = self.guard.status
        found = [
            Metric(
                "chancery_tsa_answers",
                "Answers by what was said: granted, or the PKIFailureInfo.",
                {(word,): float(count) for word, count in answered.items()},
                ("said",),
                "counter",
            ),
            Metric(
                "chancery_tsa_kept_out",
                "Requests that were not looked at, by why.",
                {(word,): float(count) for word, count in self._access.refused.items()},
                ("why",),
                "counter",
            ),
            Metric(
                "chancery_tsa_client_requests",
                "Requests that were looked at, by client; those of no client under none.",
                {(name,): float(count) for name, count in self._access.entered.items()},
                ("client",),
                "counter",
            ),
            single("chancery_tsa_clock_fit", "1 when the clock may be signed by.", self._clock_is_fit()),
            single("chancery_tsa_accuracy_seconds", "Declared accuracy.", self._settings.accuracy.total_seconds()),
        ]
        measured = (("offset", status.offset_s), ("uncertainty", status.uncertainty_s))
        found += [
            single(f"chancery_tsa_clock_{name}_seconds", f"Last measured {name} of the clock.", value)
            for name, value in measured
            if value is not None
        ]
        if credential is not None:
            end = credential.not_after.timestamp()
            found.append(single("chancery_tsa_certificate_end_seconds", "End of the certificate.", end))
        return found

    def _clock_is_fit(self) -> bool:
        try:
            self.guard.now()
        except PKIError:
            return False
        return True


_GRANTED = to_wire(Answer(200, REPLY, b""))[: -len(b"0\r\n\r\n")]


def _unavailable(der: bytes) -> Answer:
    """Too much to do, or no records: the refusal for a timestamping client, 503 for what stands between."""
    return Answer(503, REPLY, der, (_RETRY,))


def _kept_out(error: RefusedError) -> Answer:
    """RFC 3161 has no word for who is asking: HTTP's (RFC 9110), and badRequest inside for who reads only that."""
    fields: list[tuple[str, str]] = []
    if error.status == 401:
        fields.append(("WWW-Authenticate", 'Bearer realm="timestamps", Basic realm="timestamps"'))
    if error.after is not None:
        fields.append(("Retry-After", str(error.after)))
    return Answer(error.status, REPLY, refusal(ErrorType.NOT_AUTHORIZED, error.words).der, tuple(fields))


def _as_json(status: int, value: Mapping[str, object]) -> Answer:
    fields = (("Cache-Control", "no-store"),)
    return Answer(status, "application/json", json.dumps(value).encode() + b"\n", fields)
