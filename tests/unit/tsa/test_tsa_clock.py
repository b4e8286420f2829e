"""R23, R26: a clock that cannot be vouched for makes no token, and what happened to it is told."""

from __future__ import annotations

import ctypes
import datetime
import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chancery.cli import clock as machine
from chancery.errors import ErrorType, InsecureWarning, OperatorError, PKIError
from chancery.ports import EventKind
from chancery.tsa.timekeeping import ClockGuard, Leap, Measurement, TimeState
from fakes import START, FakeClock
from unit.tsa.kit import FakeSource

SECOND = datetime.timedelta(seconds=1)


class Guarded:
    """A guard over a fake clock and source, measured once."""

    def __init__(self, *, independent=True, now=START, **options) -> None:
        self.clock, self.source = FakeClock(now), FakeSource(independent=independent)
        self.guard = ClockGuard(self.clock, self.source, **({"accuracy": SECOND} | options))
        self.measure()

    def measure(self):
        return self.guard.observe(*self.guard.measure())

    def fit(self) -> bool:
        try:
            assert self.clock.time == self.guard.now()
        except PKIError as error:
            if error.type is not ErrorType.TIME_NOT_AVAILABLE:
                raise
            return False
        return True

    def kinds(self):
        return [event.kind for event in self.guard.pending_events()]


def test_never_measured_is_not_fit():
    guard = ClockGuard(FakeClock(), FakeSource(), accuracy=SECOND)
    with pytest.raises(PKIError):
        guard.now()
    assert TimeState.UNMEASURED is guard.status.state


def test_a_measurement_holds_for_its_lifetime_and_no_longer():
    guarded = Guarded(lifetime_s=60)
    guarded.clock.advance(59.9)
    assert guarded.fit()
    guarded.clock.advance(0.1)
    assert not guarded.fit()
    assert "expired" in guarded.guard.status.reason
    guarded.measure()
    assert guarded.fit()
    assert [EventKind.CLOCK_REGAINED, EventKind.CLOCK_LOST, EventKind.CLOCK_REGAINED] == guarded.kinds()


@pytest.mark.parametrize("jump", [-3600, -1.0, 1.0, 3600, 86400 * 365])
def test_a_jump_is_seen_at_the_next_token_and_only_a_new_measurement_excuses_it(jump):
    guarded = Guarded()
    guarded.clock.time += datetime.timedelta(seconds=jump)
    assert not guarded.fit()
    assert "moved" in guarded.guard.status.reason
    guarded.clock.advance(1)
    assert not guarded.fit()
    guarded.measure()
    assert guarded.fit()


def test_a_jump_back_to_where_it_was_is_no_excuse_without_a_measurement():
    guarded = Guarded()
    guarded.clock.time += 10 * SECOND
    assert not guarded.fit()
    guarded.clock.time -= 10 * SECOND
    assert not guarded.fit()


def test_a_jump_seen_by_the_monitor_alone_is_told():
    guarded = Guarded(independent=False)
    guarded.clock.time -= 5 * SECOND
    guarded.measure()
    assert TimeState.LOST is guarded.guard.status.state
    assert [EventKind.CLOCK_REGAINED, EventKind.CLOCK_LOST] == guarded.kinds()
    assert "moved" in guarded.guard.pending_events()[1].detail["reason"]


def test_r23_a_step_within_the_accuracy_is_told_and_nothing_more():
    guarded = Guarded()
    for step, told in ((0.3, 1), (-0.3, 2), (0.05, 2)):
        guarded.clock.time += datetime.timedelta(seconds=step)
        assert guarded.fit()
        guarded.measure()
        assert told == guarded.kinds().count(EventKind.CLOCK_MOVED)


def test_a_source_that_only_believes_the_wall_clock_cannot_excuse_a_jump():
    guarded = Guarded(independent=False)
    guarded.clock.time += 10 * SECOND
    for _ in range(3):
        assert not guarded.fit()
        guarded.clock.advance(1)
        guarded.measure()
    assert not guarded.fit()


def test_a_measurement_begun_before_the_jump_was_seen_does_not_excuse_it():
    guarded = Guarded()
    begun = guarded.guard.measure()
    guarded.clock.advance(0.1)
    guarded.clock.time += 10 * SECOND
    assert not guarded.fit()
    guarded.guard.observe(*begun)
    assert not guarded.fit()


@pytest.mark.parametrize(
    ("offset", "uncertainty", "fit"),
    [(0.0, 0.998, True), (0.5, 0.498, True), (-0.5, 0.6, False), (1.1, 0.0, False), (0.0, 1.0, False)],
)
def test_error_and_resolution_together_stay_within_the_declared_accuracy(offset, uncertainty, fit):
    guarded = Guarded(resolution=datetime.timedelta(milliseconds=1))
    guarded.source.offset_s, guarded.source.uncertainty_s = offset, uncertainty
    guarded.measure()
    assert fit == guarded.fit()


def test_drift_is_counted_against_the_accuracy():
    guarded = Guarded()
    guarded.source.uncertainty_s = 0.9
    guarded.measure()
    guarded.clock.time += datetime.timedelta(milliseconds=90)
    assert guarded.fit()
    guarded.clock.time += datetime.timedelta(milliseconds=20)
    assert not guarded.fit()


@pytest.mark.parametrize("how", ["unsynchronised", "fails"])
def test_a_source_that_cannot_tell_loses_the_clock(how):
    guarded = Guarded()
    guarded.source.synchronised = how != "unsynchronised"
    guarded.source.fails = how == "fails"
    guarded.measure()
    assert not guarded.fit()
    guarded.source.synchronised, guarded.source.fails = True, False
    guarded.measure()
    assert guarded.fit()


MIDNIGHT = START.replace(hour=0) + datetime.timedelta(days=1)


@pytest.mark.parametrize("leap", [Leap.INSERT, Leap.DELETE, Leap.NOW])
@pytest.mark.parametrize(
    ("from_midnight", "fit"), [(-2.1, True), (-2, False), (-0.5, False), (0, False), (1.9, False), (2, True)]
)
def test_around_an_announced_leap_second_there_are_no_tokens(leap, from_midnight, fit):
    guarded = Guarded(now=MIDNIGHT - datetime.timedelta(minutes=1))
    guarded.source.measure = lambda: Measurement(
        synchronised=True, offset_s=0.0, uncertainty_s=0.001, source="fake", independent=True, leap=leap
    )
    guarded.clock.advance(1)
    guarded.measure()
    guarded.clock.advance((MIDNIGHT - guarded.clock.time).total_seconds() + from_midnight)
    guarded.guard.observe(*guarded.guard.measure())
    assert fit == guarded.fit()
    assert EventKind.LEAP_SECOND in guarded.kinds()


def test_midnight_without_a_leap_second_is_like_any_time():
    guarded = Guarded(now=MIDNIGHT - SECOND)
    for _ in range(4):
        assert guarded.fit()
        guarded.clock.advance(0.5)


def test_a_stepped_leap_second_is_a_jump_until_measured_again():
    guarded = Guarded(now=MIDNIGHT - 3 * SECOND)
    guarded.clock.advance(4)
    guarded.clock.time -= SECOND
    assert not guarded.fit()
    guarded.clock.advance(0.01)
    guarded.measure()
    assert guarded.fit()


def test_events_are_kept_until_they_are_journalled_and_bounded():
    guarded = Guarded()
    for _ in range(ClockGuard.MAX_PENDING_EVENTS):
        guarded.source.synchronised = not guarded.source.synchronised
        guarded.measure()
    pending = guarded.guard.pending_events()
    assert ClockGuard.MAX_PENDING_EVENTS == len(pending)
    guarded.guard.forget(pending[:10])
    assert pending[10:] == guarded.guard.pending_events()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["advance", "jump", "measure", "fail"]), st.floats(-50, 50)), max_size=15)
)
def test_no_history_gives_a_time_further_from_utc_than_declared(history):
    """Utc is what the monotonic clock would have made of the start; an honest source knows the offset."""
    guarded = Guarded()
    base = guarded.clock.monotonic()
    for act, amount in history:
        if act == "advance":
            guarded.clock.advance(abs(amount))
        elif act == "jump":
            guarded.clock.time += datetime.timedelta(seconds=amount)
        else:
            utc = START + datetime.timedelta(seconds=guarded.clock.monotonic() - base)
            guarded.source.offset_s = (utc - guarded.clock.time).total_seconds()
            guarded.source.fails = act == "fail"
            guarded.clock.advance(0.001)
            guarded.measure()
        if guarded.fit():
            utc = START + datetime.timedelta(seconds=guarded.clock.monotonic() - base)
            assert abs(guarded.clock.time - utc) <= SECOND + datetime.timedelta(microseconds=10)


# -- the machine's own clock


@pytest.mark.parametrize(
    ("state", "status", "synchronised", "leap"),
    [
        (0, 0x2001, True, Leap.NONE),
        (0, 0x2041, False, Leap.NONE),
        (0, 0x3001, False, Leap.NONE),
        (5, 0x2041, False, Leap.NONE),
        (1, 0x2011, True, Leap.INSERT),
        (2, 0x2021, True, Leap.DELETE),
        (3, 0x2011, True, Leap.NOW),
        (4, 0x2001, True, Leap.NONE),
    ],
)
def test_what_the_kernel_says_is_understood(state, status, synchronised, leap):
    timex = machine.Timex(status=status, offset=1_500_000, maxerror=2500)
    found = machine.interpret(state, timex)
    assert (synchronised, leap) == (found.synchronised, found.leap)
    assert (0.0015, 0.0025) == pytest.approx((found.offset_s, found.uncertainty_s))
    assert pytest.approx(1.5) == machine.interpret(0, machine.Timex(status=0, offset=1_500_000)).offset_s


def test_the_kernel_is_asked_and_its_clock_is_left_alone():
    found = machine.KernelTimeSource().measure()
    assert "kernel" == found.source
    assert found.independent


def test_a_kernel_that_refuses_is_an_os_error():
    source = machine.KernelTimeSource()

    class Refusing:
        @staticmethod
        def adjtimex(_):
            ctypes.set_errno(errno.EPERM)
            return -1

    source._library = Refusing()
    with pytest.raises(OSError, match="permitted"):
        source.measure()


def test_struct_timex_has_the_size_of_the_kernel_s():
    assert 208 == ctypes.sizeof(machine.Timex)  # x86-64 and aarch64


def test_a_trusted_clock_warns_and_production_refuses_it():
    with pytest.warns(InsecureWarning, match="nobody checks"):
        source = machine.time_source("trust-system-clock", production=False)
    assert not source.measure().independent
    with pytest.raises(OperatorError, match="refused in production"):
        machine.time_source("trust-system-clock", production=True)
    assert isinstance(machine.time_source("kernel", production=True), machine.KernelTimeSource)


def test_clock_and_entropy_keep_their_ports_contracts():
    clock, entropy = machine.SystemClock(), machine.SystemEntropy()
    assert datetime.UTC == clock.now().tzinfo
    assert clock.monotonic() <= clock.monotonic()
    assert 32 == len(entropy.draw(32))
    assert entropy.draw(16) != entropy.draw(16)
