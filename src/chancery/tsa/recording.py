"""
What is written down of a token before it is signed: its genTime, its serial number, and the event that covers it.

No genTime of a unit is earlier than the one before it in this process. With `ordering` each is later than every
one of the unit, in whichever process: the store keeps the last one, and gives it to one batch at a time.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from chancery.errors import ErrorType, PKIError
from chancery.ports import Entropy, Event, TimestampStore, TokenRecord
from chancery.tsa.authority import Accepted, Recorded
from chancery.tsa.policy import AuthoritySettings
from chancery.tsa.rows import tokens_event
from chancery.tsa.timekeeping import ClockGuard

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)
MAX_AHEAD = datetime.timedelta(milliseconds=100)
"""By this much a genTime may be later than the clock for the sake of the order, if the accuracy leaves room."""
_COUNT_BITS, _RANDOM = 24, 4
Rows = tuple[Sequence[TokenRecord], Sequence[Event]]


class Serials:
    """
    Draws serial numbers of 17 octets, never one twice.

    01, the instance, genTime in microseconds since 1970 (7 octets), the unit's lane in the process, how many of
    the same genTime came before (3 octets), 4 random octets. The store refuses a number that does not hold its
    token's genTime, and its key is both: what is in a number twice would be in the key twice. Those of before had
    at most 127 bits.
    """

    def __init__(self, instance: int, lane: int, entropy: Entropy) -> None:
        self._head = 0x01 << 8 | instance
        self._lane = lane
        self._entropy = entropy
        self._tick, self._count = -1, 0
        self._drawn = b""

    def draw(self, gen_time: datetime.datetime) -> int:
        """Return the next one; they grow while genTime does not go back."""
        tick = (gen_time - _EPOCH) // _MICROSECOND
        self._tick, self._count = tick, self._count + 1 if tick == self._tick else 0
        if self._count >> _COUNT_BITS:
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, "too many tokens at one moment")
        if len(self._drawn) < _RANDOM:
            # Many at a time: a system call for each token would cost as much as its signature.
            self._drawn = self._entropy.draw(_RANDOM * 256)
        draw, self._drawn = self._drawn[:_RANDOM], self._drawn[_RANDOM:]
        head = (self._head << 56 | tick) << 8 | self._lane
        return (head << _COUNT_BITS | self._count) << 8 * _RANDOM | int.from_bytes(draw, "big")


class Recorder:
    """Gives batches of accepted requests their times and serials, and records them, before anything is signed."""

    def __init__(
        self,
        settings: AuthoritySettings,
        store: TimestampStore,
        guard: ClockGuard,
        entropy: Entropy,
        actor: str = "tsa",
    ) -> None:
        self._settings = settings
        self._store = store
        self._guard = guard
        self._actor = actor
        self._serials = Serials(settings.instance, settings.lane, entropy)
        self._cut = settings.resolution // _MICROSECOND
        self._last: datetime.datetime | None = None

    async def record(self, batch: Sequence[Accepted]) -> list[Recorded | PKIError]:
        """
        Store one batch in one transaction; durable on return. In its order what was recorded, or why it was not.

        Raises what the store raises, and PKIError(TIME_NOT_AVAILABLE) when the clock is lost; then nothing of the
        batch may be signed.
        """
        found: list[Recorded | PKIError] = []

        def assign(last: datetime.datetime | None, step: datetime.timedelta) -> Rows:
            found[:] = self._assign(batch, last, step)
            tokens = [one.record for one in found if isinstance(one, Recorded)]
            if not tokens:
                return (), ()
            return tokens, (tokens_event(tokens, max(token.gen_time for token in tokens), self._actor),)

        settings = self._settings
        if settings.ordering:
            await self._store.record_in_order(settings.unit, lambda last: assign(last, settings.resolution))
        else:
            tokens, events = assign(self._last, datetime.timedelta(0))
            if tokens:
                await self._store.record(tokens, events)
        return found

    def _assign(
        self, batch: Sequence[Accepted], last: datetime.datetime | None, step: datetime.timedelta
    ) -> list[Recorded | PKIError]:
        """Give each its time, at least `step` after the one before it, and its serial; refuse what has no time."""
        time = self._guard.read()
        limit = time.now + min(time.slack, MAX_AHEAD)
        found: list[Recorded | PKIError] = []
        for accepted in batch:
            # Never earlier than the request came, but for what genTime leaves off.
            gen_time = accepted.at - datetime.timedelta(microseconds=accepted.at.microsecond % self._cut)
            if last is not None:
                gen_time = max(gen_time, last + step)
            if gen_time > limit:
                found.append(PKIError(ErrorType.TIME_NOT_AVAILABLE, "the clock is behind the last token"))
            elif not accepted.credential.may_sign_at(gen_time):
                found.append(accepted.credential.outlived())
            else:
                last = gen_time
                found.append(Recorded(accepted, self._row(accepted, gen_time)))
        self._last = last
        return found

    def _row(self, accepted: Accepted, gen_time: datetime.datetime) -> TokenRecord:
        request, settings = accepted.request, self._settings
        return TokenRecord(
            self._serials.draw(gen_time),
            gen_time,
            request.hash_oid,
            request.hashed_message,
            accepted.policy.oid,
            accepted.client,
            settings.unit,
            settings.ordering,
        )
