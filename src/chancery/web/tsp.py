"""
Timestamps over HTTP (RFC 3161 3.4), and the life of a timestamping authority: its clock, certificate and records.

POST /tsa is answered with a TimeStampResp whatever happens; /healthz and /readyz say how the authority is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from chancery.asn1 import tsp
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.ports import Clock, Entropy, Event, EventDetail, EventKind, TimestampStore
from chancery.tsa.issuance import TokenService, refusal
from chancery.tsa.recording import Recorder
from chancery.tsa.timekeeping import ClockGuard, TimeSource, TimeState
from chancery.tsa.unit import Report, Unit, UnitPlan
from chancery.web import tsppage
from chancery.web.hot import BUSY_SECONDS, Answer, Limits, Reply, Request, text, to_wire
from chancery.web.metrics import Labels, Metric, single
from chancery.web.tspaccess import Access, AccessSettings, RefusedError

PATH, AUTHENTICODE = b"/tsa", b"/authenticode"
QUERY, REPLY = b"application/timestamp-query", "application/timestamp-reply"
LIMITS = Limits(max_body=tsp.MAX_REQUEST)
_RETRY = ("Retry-After", "1")


class TSAService:
    """
    A timestamping authority for `web.hot`: `serve(service.handler, …, limits=LIMITS, on_error=service.on_error)`.

    `units` are asked at /tsa/NAME; /tsa is for the first one, and for whoever wants a policy that another one
    serves. They promise the same accuracy. The clock is measured against `source` every `measure_s` seconds; a
    measurement holds for `lifetime_s`. `report(event, detail)` gets what an operator should read; `exc_info` in it
    is an exception. `access` says who may ask (None: anybody); its clients are read every `access_s` seconds.
    `page`: there is a page for browsers, too.
    """

    def __init__(
        self,
        *,
        store: TimestampStore,
        units: Sequence[UnitPlan],
        clock: Clock,
        source: TimeSource,
        entropy: Entropy,
        report: Report,
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
        self._settings = settings = units[0].settings
        _check(units)
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._report = report
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
            resolution=max(one.settings.resolution for one in units),
            lifetime_s=lifetime_s,
            actor=actor,
        )
        self.units = tuple(Unit(one, self.guard, clock, report=report, actor=actor) for one in units)
        self._countersigner = next((one.settings.unit for one in units if one.authenticode), None)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="tsa-sign")
        # Apart from the signers: a time source that hangs must not hold up a signature.
        self._measurer = ThreadPoolExecutor(1, thread_name_prefix="tsa-clock")
        self._tokens: dict[str, TokenService] = {}
        self._events: list[Event] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """
        Find the certificates, measure the clock, and begin to watch both.

        Raises OperatorError when a unit has no certificate that may sign timestamps now, PKIError(SYSTEM_UNAVAIL)
        when it cannot be asked for. A clock that is not fit does not stop the start: it is answered.
        """
        await self._access.refresh()
        max_batch, max_pending = self._limits
        for unit in self.units:
            self._tokens[unit.name] = TokenService(
                await unit.start(self._store),
                Recorder(unit.settings, self._store, self.guard, self._entropy, self._actor),
                self.guard,
                executor=self._executor,
                threads=self._threads,
                report=lambda error: self._report("tsa.request_failed", {"exc_info": error}),
                max_batch=max_batch,
                max_pending=max_pending,
            )
            self._note(EventKind.PROCESS_STARTED, unit.configuration())
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
        if self._tokens:
            for tokens in self._tokens.values():
                await tokens.close()
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
        """Follow the certificates of the units' keys."""
        for unit in self.units:
            await unit.refresh()

    def _note(self, kind: EventKind, detail: EventDetail) -> None:
        self._events.append(Event(kind, self._clock.now(), self._actor, "tsa", detail))

    async def _journal(self) -> None:
        """Write what happened to the journal; what could not be written is kept for the next time."""
        for unit in self.units:
            self._events += unit.events
            unit.events.clear()
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
        if request.target == PATH or request.target.startswith(PATH + b"/"):
            name = request.target[len(PATH) + 1 :].decode("latin-1")
            if name and name not in self._tokens:
                return text(404, "there is no such timestamping unit")
            if request.method != b"POST":
                return text(405, "send a TimeStampReq with POST", ("Allow", "POST"))
            if (request.content_type or b"").split(b";", 1)[0].strip().lower() != QUERY:
                return text(415, f"send a TimeStampReq as {QUERY.decode()}")
            if self._is_full(name):
                self._access.refused["busy"] += 1
                return _refuse_late()
            return self._stamp(request, name)
        if request.target == AUTHENTICODE and self._countersigner is not None and request.method == b"POST":
            if self._is_full(self._countersigner):
                return text(503, "too many are waiting", _RETRY)
            return self._stamp(request, self._countersigner, countersign=True)
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

    def _is_full(self, unit: str) -> bool:
        asked = [self._tokens[unit]] if unit else self._tokens.values()
        return bool(asked) and all(tokens.full for tokens in asked)

    async def _stamp(self, request: Request, unit: str, *, countersign: bool = False) -> Reply:
        if not self._tokens:
            return _unavailable(refusal(ErrorType.SYSTEM_UNAVAIL, "the authority has not started").der)
        try:
            entry = self._access.enter(request)
        except RefusedError as error:
            return _kept_out(error)
        # Whoever goes away before the answer may have been recorded by then, and counts.
        granted = True
        try:
            await entry.take()
            tokens = self._tokens[unit or self._unit_of(request.body, entry.policies)]
            answer = await tokens.respond(request.body, entry.recorded_as, entry.policies, countersign=countersign)
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
        if countersign:
            return _countersigned(answer.der, answer.error)
        if answer.error is ErrorType.SYSTEM_UNAVAIL:
            return _unavailable(answer.der)
        return b"".join((_GRANTED, b"%d\r\n\r\n" % len(answer.der), answer.der))

    def _unit_of(self, body: bytes, policies: Sequence[str] | None) -> str:
        """Return the name of the first unit that serves the policy asked for, or the client's; or of the first."""
        if len(self.units) > 1:
            wanted = policies[0] if policies else None
            with contextlib.suppress(PKIError):
                wanted = tsp.decode_request(body).req_policy or wanted
            for unit in self.units:
                if any(one.oid == wanted for one in unit.settings.policies):
                    return unit.name
        return self.units[0].name

    @staticmethod
    def on_error(request: Request) -> Answer:
        """Answer a request whose handler failed (`web.hot.OnError`): no detail."""
        if request.target.startswith(PATH):
            return Answer(200, REPLY, refusal(ErrorType.SYSTEM_FAILURE, "the request could not be handled").der)
        return text(500, "internal error")

    def health(self) -> dict[str, object]:
        """Say whether every unit would grant a token now (`ready`), and how the clock and the certificates are."""
        fit = self._clock_is_fit()
        status = self.guard.status
        return {
            "ready": fit and bool(self._tokens) and all(unit.is_valid() for unit in self.units),
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
            "units": {unit.name: unit.health() for unit in self.units},
        }

    def ready(self) -> bool:
        """Tell whether a token would be granted now."""
        return bool(self.health()["ready"])

    def metrics(self) -> list[Metric]:
        """Return what Prometheus is told; the certificate's end is in seconds since 1970."""
        answered = sum((tokens.answered for tokens in self._tokens.values()), Counter[str]())
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
        ends: dict[Labels, float] = {
            (unit.name,): unit.credential.not_after.timestamp()
            for unit in self.units
            if unit.credential is not None
        }
        if ends:
            found.append(
                Metric("chancery_tsa_certificate_end_seconds", "End of the certificate.", ends, ("unit",))
            )
        return found

    def _clock_is_fit(self) -> bool:
        try:
            self.guard.now()
        except PKIError:
            return False
        return True


_GRANTED = to_wire(Answer(200, REPLY, b""))[: -len(b"0\r\n\r\n")]


def _check(units: Sequence[UnitPlan]) -> None:
    """Raise OperatorError unless the units of one process go together."""
    if len({one.settings.unit for one in units}) < len(units):
        raise OperatorError("two timestamping units have one name", "give each a name of its own")
    if len({(one.settings.lane, one.settings.instance) for one in units}) < len(units):
        raise OperatorError("two timestamping units have one lane", "give each a lane of its own")
    if len({one.settings.accuracy for one in units}) > 1:
        raise OperatorError("the units of one process promise different accuracies", "start one process for each")


def _unavailable(der: bytes) -> Answer:
    """Too much to do, or no records: the refusal for a timestamping client, 503 for what stands between."""
    return Answer(503, REPLY, der, (_RETRY,))


_BUSY = to_wire(
    _unavailable(refusal(ErrorType.SYSTEM_UNAVAIL, "too many requests are waiting; try again later").der)
)


async def _refuse_late() -> bytes:
    """
    Say that too many wait, with nothing decoded or encoded, and not at once.

    Whoever asks again as soon as it is refused would take the time that the requests before it are answered in.
    """
    await asyncio.sleep(BUSY_SECONDS)
    return _BUSY


def _kept_out(error: RefusedError) -> Answer:
    """RFC 3161 has no word for who is asking: HTTP's (RFC 9110), and badRequest inside for who reads only that."""
    fields: list[tuple[str, str]] = []
    if error.status == 401:
        fields.append(("WWW-Authenticate", 'Bearer realm="timestamps", Basic realm="timestamps"'))
    if error.after is not None:
        fields.append(("Retry-After", str(error.after)))
    return Answer(error.status, REPLY, refusal(ErrorType.NOT_AUTHORIZED, error.words).der, tuple(fields))


def _countersigned(data: bytes, error: ErrorType | None) -> Answer:
    """Authenticode has no word for a refusal but HTTP's."""
    if error is None:
        return Answer(200, "application/octet-stream", data)
    if error in {ErrorType.SYSTEM_UNAVAIL, ErrorType.SYSTEM_FAILURE, ErrorType.TIME_NOT_AVAILABLE}:
        return text(503, tsp.decode_response(data).words(), _RETRY)
    return text(400, tsp.decode_response(data).words())


def _as_json(status: int, value: Mapping[str, object]) -> Answer:
    fields = (("Cache-Control", "no-store"),)
    return Answer(status, "application/json", json.dumps(value).encode() + b"\n", fields)
