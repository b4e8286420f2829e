"""
Many requests in one call: lines of JSON in, lines of JSON out as they are settled.

Each line is a request of its own, with its own transaction id and its own refusal; the same call again resumes.
What is held in memory is bounded: no more is read while `LINES_IN_FLIGHT` lines or `OCTETS_IN_FLIGHT` octets have
not been answered, and nothing is answered faster than the client reads.
"""

from __future__ import annotations

import asyncio
import binascii
import collections
import dataclasses
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from chancery.errors import ErrorType, PKIError
from chancery.ports import Operator, RequestOutcome, RequestState, Submission
from chancery.ra.bulk import check_many, settle_many
from chancery.ra.enrolment import Application
from chancery.ra.requestor import Operation, authorise
from chancery.web.bodies import MAX_BODY, media_type, read_query, reason
from chancery.web.certificates import wish_of
from chancery.web.forms import serial_of
from chancery.web.service import NDJSON, Call
from chancery.web.views import BulkAnswer, BulkChoice, BulkEnd, BulkLine, pem

PROTOCOL: Final = "rest"
MAX_LINE: Final = MAX_BODY
MAX_LINES: Final = 100_000
MAX_OCTETS: Final = 256 * 1024 * 1024
LINES_IN_FLIGHT: Final = 1024
OCTETS_IN_FLIGHT: Final = 2 * 1024 * 1024
LINES_AT_ONCE: Final = 128
CALLS_AT_ONCE: Final = 8
CALLS_OF_ONE: Final = 4
"""Calls at once of one operator: the others are left half of them, however slowly it sends."""
STALLED_SECONDS: Final = 90.0
"""A call in which for so long nothing arrives and nothing is settled has ended."""
_log = structlog.get_logger("chancery.web.bulk")
_line = msgspec.json.Decoder(BulkLine)


class Lines:
    """Cuts what arrives into lines of at most `limit` octets; of a longer one remains only that it was there."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._rest = b""
        self._too_long = False

    def feed(self, data: bytes) -> list[bytes | None]:
        """Return the lines that are complete now, without their ends; None in place of one that is too long."""
        first, *more = data.split(b"\n")
        if not more:
            self._keep(self._rest + first)
            return []
        *whole, rest = more
        found = [self._bounded(self._rest + first), *map(self._bounded, whole)]
        if self._too_long:
            found[0] = None
        self._too_long = False
        self._keep(rest)
        return found

    def end(self) -> list[bytes | None]:
        """Return a last line that has no end of its own."""
        return [None] if self._too_long else [self._rest] if self._rest else []

    def _keep(self, rest: bytes) -> None:
        self._too_long = self._too_long or len(rest) > self._limit
        self._rest = b"" if self._too_long else rest

    def _bounded(self, line: bytes) -> bytes | None:
        return line if len(line) <= self._limit else None


async def request_certificates(call: Call) -> Response:
    """Take many requests; each is answered as soon as it is settled. HTTPException 415, PKIError."""
    choice = read_query(call.request, BulkChoice)
    if media_type(call.request) != NDJSON:
        raise HTTPException(415, f"the body is expected as {NDJSON}")
    if call.service.bulk.taken >= CALLS_AT_ONCE or call.service.bulk.by[call.operator.name] >= CALLS_OF_ONE:
        raise PKIError(ErrorType.SYSTEM_UNAVAIL, "too many bulk requests at once")
    return _Conversation(call, choice.wait)


class _HungUpError(Exception):
    """The client is gone: what is stored will be issued, and nobody waits for it."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Asked:
    """Lines that are taken together: number and size of each, and what it asks for."""

    numbers: list[int]
    sizes: list[int]
    applications: list[Application]


class _Conversation(Response):
    """One call: reads and checks lines while there is room, and has each group settled by a task of its own."""

    def __init__(self, call: Call, wait: float) -> None:
        super().__init__()
        self._call = call
        self._wait = wait
        self._counts: collections.Counter[RequestState] = collections.Counter()
        self._number = 0
        self._open_lines = self._open_octets = 0
        self._room = asyncio.Event()
        self._refusal: PKIError | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state, bulk = scope["state"], self._call.service.bulk
        state["peer"].message_limit = 2 * MAX_OCTETS
        self._timeout: asyncio.Timeout = state["timeout"]
        self._send = send
        bulk.taken += 1
        bulk.by[self._call.operator.name] += 1
        try:
            await self._begin()
            async with asyncio.TaskGroup() as tasks:
                async for asked in self._groups(receive):
                    try:
                        operator = await self._operator()
                        checked = await check_many(self._call.ra, operator, asked.applications)
                    except PKIError as error:
                        self._refusal = error
                        break
                    tasks.create_task(self._settle(operator, asked, checked))
            await self._finish()
        except* _HungUpError:
            pass
        finally:
            bulk.taken -= 1
            bulk.by -= collections.Counter({self._call.operator.name: 1})

    async def _begin(self) -> None:
        headers = [(b"content-type", NDJSON.encode())]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _finish(self) -> None:
        counts, refusal = self._counts, self._refusal
        end = BulkEnd(
            lines=counts.total(),
            done=counts[RequestState.DONE],
            refused=counts[RequestState.REFUSED],
            waiting=counts[RequestState.WAITING],
            error=refusal.type.value if refusal else None,
            detail=refusal.detail if refusal else None,
        )
        body = msgspec.json.encode(end) + b"\n"
        await self._send({"type": "http.response.body", "body": body})

    async def _operator(self) -> Operator:
        """Who asks, as of now: somebody removed in the middle asks for nothing more. Raises PKIError."""
        request = self._call.request
        address = request.client.host if request.client else "unknown"
        operator = await self._call.service.gate.admit(request.scope["state"]["peer"], address)
        authorise(operator, Operation.SUBMIT)
        return operator

    async def _groups(self, receive: Receive) -> AsyncIterator[_Asked]:
        """Give what arrives, a few lines at a time, when there is room for it; broken lines are answered here."""
        splitter, octets, more = Lines(), 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _HungUpError
            body, more = message.get("body", b""), message.get("more_body", False)
            octets += len(body)
            lines = splitter.feed(body)
            if not more:
                lines += splitter.end()
            self._moved()
            for at in range(0, len(lines), LINES_AT_ONCE):
                asked = await self._read(lines[at : at + LINES_AT_ONCE])
                while self._open_lines >= LINES_IN_FLIGHT or self._open_octets >= OCTETS_IN_FLIGHT:
                    self._room.clear()
                    await self._room.wait()
                if asked.applications:
                    self._open_lines += len(asked.sizes)
                    self._open_octets += sum(asked.sizes)
                    yield asked
            if self._number > MAX_LINES or octets > MAX_OCTETS:
                self._refusal = PKIError(
                    ErrorType.BAD_REQUEST,
                    f"a call takes {MAX_LINES} lines and {MAX_OCTETS} octets: ask again for more",
                )
                return

    async def _read(self, lines: Sequence[bytes | None]) -> _Asked:
        asked, broken = _Asked([], [], []), []
        for line in lines:
            self._number += 1
            if line is not None and not line.strip():
                continue
            if self._number > MAX_LINES:
                break
            try:
                asked.applications.append(_application(line))
            except PKIError as error:
                broken.append(self._answer(self._number, None, error))
            else:
                asked.numbers.append(self._number)
                asked.sizes.append(len(line or b""))
        await self._write(broken)
        return asked

    async def _settle(self, operator: Operator, asked: _Asked, checked: Sequence[Submission | PKIError]) -> None:
        left = set(range(len(asked.numbers)))

        async def answer(settled: Iterable[tuple[int, RequestOutcome | PKIError]]) -> None:
            answers = []
            for position, result in settled:
                left.discard(position)
                self._open_lines -= 1
                self._open_octets -= asked.sizes[position]
                transaction_id = asked.applications[position].transaction_id
                answers.append(self._answer(asked.numbers[position], transaction_id, result))
            await self._write(answers)
            self._room.set()

        failure = PKIError(ErrorType.SYSTEM_FAILURE, "the system failed")
        try:
            async for settled in settle_many(self._call.ra, operator, PROTOCOL, checked, self._wait):
                await answer(settled)
        except PKIError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - rule 5 of the house: these lines fail without a detail, no others
            _log.error("unexpected", exc_info=error)
        await answer([(position, failure) for position in sorted(left)])

    def _answer(self, number: int, transaction_id: str | None, result: RequestOutcome | PKIError) -> BulkAnswer:
        answer = _answer(number, transaction_id, result)
        self._counts[answer.state] += 1
        return answer

    async def _write(self, answers: Sequence[BulkAnswer]) -> None:
        if not answers:
            return
        self._moved()
        body = b"".join([msgspec.json.encode(one) + b"\n" for one in answers])
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    def _moved(self) -> None:
        self._timeout.reschedule(asyncio.get_running_loop().time() + STALLED_SECONDS)


def _application(line: bytes | None) -> Application:
    if line is None:
        raise PKIError(ErrorType.BAD_DATA_FORMAT, f"a line of more than {MAX_LINE} octets")
    try:
        asked = _line.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PKIError(ErrorType.BAD_DATA_FORMAT, reason(error)) from None
    csr = asked.csr.encode()
    if not csr.lstrip().startswith(b"-----"):
        try:
            csr = binascii.a2b_base64(csr, strict_mode=True)
        except binascii.Error:
            raise PKIError(ErrorType.BAD_DATA_FORMAT, "the csr is neither PEM nor base64 - at `$.csr`") from None
    names, wish = tuple(asked.names), wish_of(asked)
    return Application(PROTOCOL, asked.profile, csr, names, asked.issuer, asked.transaction_id, wish)


_AGAIN = frozenset({ErrorType.SYSTEM_UNAVAIL, ErrorType.SYSTEM_FAILURE})
"""What says nothing of the request: it may be stored, and its line is to be asked again."""


def _answer(number: int, transaction_id: str | None, result: RequestOutcome | PKIError) -> BulkAnswer:
    if isinstance(result, PKIError):
        state = RequestState.WAITING if result.type in _AGAIN else RequestState.REFUSED
        return BulkAnswer(
            line=number, state=state, transaction_id=transaction_id, error=result.type.value, detail=result.detail
        )
    certificate = result.certificate
    return BulkAnswer(
        line=number,
        state=RequestState.WAITING if result.state is RequestState.TAKEN else result.state,
        transaction_id=transaction_id,
        request_id=result.request_id,
        issuer=result.issuer,
        serial=None if certificate is None else serial_of(certificate),
        certificate=None if certificate is None else pem(certificate),
        error=None if result.error is None else result.error.value,
        detail=result.detail,
    )
