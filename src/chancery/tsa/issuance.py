"""From request bytes to response bytes: batches are recorded, then signed, while the next batch is recorded."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TypeVar

from chancery.asn1 import tsp
from chancery.batching import Batcher
from chancery.errors import ErrorType, PKIError
from chancery.tsa.authority import Accepted, Authority, Recorded, Signed
from chancery.tsa.recording import Recorder
from chancery.tsa.timekeeping import ClockGuard

Report = Callable[[BaseException], None]
T = TypeVar("T")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """A TimeStampResp (DER); `error` is None when it grants a token."""

    der: bytes
    error: ErrorType | None


def refusal(type_: ErrorType, detail: str) -> Answer:
    """Return the TimeStampResp that says no, with RFC 3161's word for this kind of error."""
    return Answer(tsp.rejection(tsp.FAIL_INFO[type_], detail), type_)


class TokenService:
    """
    Answers timestamp requests; whatever happens, with a well-formed TimeStampResp.

    At most `max_pending` requests wait or are being answered; the next is refused with SYSTEM_UNAVAIL. Two batches
    are under way at a time: one is recorded while the other is signed. `executor` runs the signatures of a batch
    on `threads` threads. `report` gets every exception that is not a `PKIError`, for the log.
    """

    def __init__(
        self,
        authority: Authority,
        recorder: Recorder,
        guard: ClockGuard,
        *,
        executor: Executor,
        threads: int,
        report: Report,
        max_batch: int = 256,
        max_pending: int = 2048,
    ) -> None:
        self._authority = authority
        self._guard = guard
        self._executor = executor
        self._threads = threads
        self._report = report
        self._recorder = recorder
        self.answered: Counter[str] = Counter()
        self._batches: Batcher[Accepted, Answer] = Batcher(self._answer, max_batch, max_pending, concurrency=2)

    @property
    def full(self) -> bool:
        """Tell whether the next request would be refused because too many wait."""
        return self._batches.full

    async def respond(
        self, request: bytes, client: str, policies: Sequence[str] | None = None, *, countersign: bool = False
    ) -> Answer:
        """
        Answer one TimeStampReq from `client` (a name, for the record), who may have these policies (None: all).

        `countersign`: it is a request of Authenticode, and so is the answer, unless it refuses. `answered` counts
        the answers by RFC 3161's word for the refusal, or `granted`.
        """
        judge = self._authority.accept_countersignature if countersign else self._authority.accept
        answer = await self._respond(functools.partial(judge, request, client, policies))
        self.answered["granted" if answer.error is None else tsp.FAIL_INFO[answer.error].name.lower()] += 1
        return answer

    async def _respond(self, judge: Callable[[], Accepted]) -> Answer:
        try:
            return await self._batches.submit(judge())
        except PKIError as error:
            return refusal(error.type, error.detail)
        except Exception as error:  # noqa: BLE001 - the one handler: anything else is an internal error without detail
            self._report(error)
            return refusal(ErrorType.SYSTEM_FAILURE, "the request could not be handled")

    async def close(self) -> None:
        """Wait until everything that was accepted has been answered."""
        await self._batches.close()

    async def _answer(self, batch: Sequence[Accepted]) -> list[Answer]:
        """Record a batch, then sign it in equal parts on the threads, if the clock is still fit to sign by."""
        outcomes = await self._recorder.record(batch)
        self._guard.now()
        recorded = [one for one in outcomes if isinstance(one, Recorded)]
        loop = asyncio.get_running_loop()
        size = max(1, -(-len(recorded) // self._threads))
        parts = [recorded[start : start + size] for start in range(0, len(recorded), size)]
        done = await asyncio.gather(*(loop.run_in_executor(self._executor, self._issue, part) for part in parts))
        issued = iter([answer for part in done for answer in part])
        return [next(issued) if isinstance(one, Recorded) else refusal(one.type, one.detail) for one in outcomes]

    def _issue(self, part: Sequence[Recorded]) -> list[Answer]:
        """
        Sign all of a part, then check all of it; a failure is its own request's alone.

        In turns, the token's curve arithmetic and ours would push each other's tables out of the cache, which
        costs an eighth of both.
        """
        signed = [self._attempt(self._authority.sign, recorded) for recorded in part]
        return [one if isinstance(one, Answer) else self._attempt(self._grant, one) for one in signed]

    def _grant(self, signed: Signed) -> Answer:
        return Answer(self._authority.grant(signed), None)

    def _attempt(self, act: Callable[[T], R], argument: T) -> R | Answer:
        """Do it, or say why not."""
        try:
            return act(argument)
        except PKIError as error:
            return refusal(error.type, error.detail)
        except Exception as error:  # noqa: BLE001 - as in `respond`
            self._report(error)
            return refusal(ErrorType.SYSTEM_FAILURE, "the request could not be handled")
