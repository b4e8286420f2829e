"""R23, R26: an authority while its clock is moved, its monitor dies, a leap second passes, a century goes by."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime

import pytest

from chancery.asn1 import cms, tsp
from chancery.ports import EventKind
from chancery.tsa.timekeeping import Leap
from chancery.web.hot import Request
from fakes import START, FakeClock
from unit.tsa.kit import YEAR, FakeSource, as_der, certificate, plan, request, service

SECOND = datetime.timedelta(seconds=1)
MIDNIGHT = datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC)
NO_TIME = {tsp.FailInfo.TIME_NOT_AVAILABLE}


class Source(FakeSource):
    leap = Leap.NONE

    def measure(self):
        return dataclasses.replace(super().measure(), leap=self.leap)


def play(scenario, at=START):
    """Let `scenario(clock, source, ask, measure)` act on an ordered authority; return what came and the events."""
    clock, source = FakeClock(at), Source()
    long = as_der(certificate("p256", start=at - YEAR, end=at + YEAR))
    unit = plan(certificates=[long], ordering=True, gen_time_digits=6)
    made = service(units=[unit], clock=clock, source=source)

    async def ask():
        answer = await made.handler(Request(b"POST", b"/tsa", request(), "c", b"application/timestamp-query"))
        response = tsp.decode_response(answer.partition(b"\r\n\r\n")[2])
        if response.time_stamp_token is None:
            return response.fail_info
        return tsp.decode_tst_info(cms.decode(response.time_stamp_token).content).gen_time

    async def act():
        await made.start()
        try:
            return await scenario(clock, source, ask, made.measure)
        finally:
            await made.close()

    found = asyncio.run(act())
    return found, [event for event in made._store.events if event.kind.value.startswith("tsa.")]


@pytest.mark.parametrize("at", [START, START + 100 * YEAR])
def test_r23_a_clock_set_back_gives_no_token_before_the_last_one(at):
    async def scenario(clock, _, ask, measure):
        found = [await ask()]
        clock.time -= 3 * SECOND
        found.append(await ask())
        # Measured again and found right as it is now; the order still says no.
        clock.advance(1)
        await measure()
        found.append(await ask())
        clock.advance(1.95)
        await measure()
        return [*found, await ask()]

    (first, jumped, behind, last), events = play(scenario, at)
    assert NO_TIME == jumped == behind
    assert at == first < last <= at + 0.1 * SECOND
    kinds = [event.kind for event in events]
    assert kinds.index(EventKind.CLOCK_LOST) < kinds.index(
        EventKind.CLOCK_REGAINED, kinds.index(EventKind.CLOCK_LOST)
    )
    [lost] = [event for event in events if event.kind is EventKind.CLOCK_LOST]
    assert "moved 3.000000 s" in lost.detail["reason"]


def test_r23_a_monitor_that_died_ends_all_tokens_by_itself():
    async def scenario(clock, source, ask, measure):
        source.fails = True
        clock.advance(29)
        found = [await ask()]
        clock.advance(2)
        found.append(await ask())
        await measure()
        found.append(await ask())
        source.fails = False
        await measure()
        return [*found, await ask()]

    (alive, *dead, back), events = play(scenario)
    assert START + 29 * SECOND == alive
    assert [NO_TIME, NO_TIME] == dead
    assert START + 31 * SECOND == back
    assert ["the last measurement has expired"] == [
        event.detail["reason"] for event in events if event.kind is EventKind.CLOCK_LOST
    ]


@pytest.mark.parametrize("leap", [Leap.INSERT, Leap.DELETE])
def test_r23_a_leap_second_passes_without_a_token_and_without_disorder(leap):
    async def scenario(clock, source, ask, measure):
        source.leap = leap
        await measure()
        found = [await ask()]
        clock.advance(7)
        found.append(await ask())
        # At midnight the kernel steps the wall clock by the second that UTC has more, or less.
        clock.advance(2)
        clock.time += SECOND if leap is Leap.DELETE else -SECOND
        found.append(await ask())
        source.leap = Leap.NOW
        await measure()
        found.append(await ask())
        clock.advance(10)
        source.leap = Leap.NONE
        await measure()
        return [*found, await ask()]

    (before, *around, after), events = play(scenario, MIDNIGHT - 8 * SECOND)
    assert MIDNIGHT - 8 * SECOND == before
    assert [NO_TIME] * 3 == around
    assert before < after
    leaps = [event.detail["leap"] for event in events if event.kind is EventKind.LEAP_SECOND]
    assert [leap.value, "now", "none"] == leaps
