"""R23: the clock against several NTP servers, on loopback, of which some lie, are silent or talk nonsense."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import socket
import struct
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chancery.cli.clock import SystemEntropy, time_source
from chancery.cli.ntp import Exchange, NTPTimeSource, interpret
from chancery.errors import OperatorError, PKIError
from chancery.ports import EventKind
from chancery.tsa.consensus import Sample, agree
from chancery.tsa.timekeeping import ClockGuard, Leap, TimeState
from fakes import START, FakeClock

SECOND = datetime.timedelta(seconds=1)
ERA = datetime.datetime(1900, 1, 1, tzinfo=datetime.UTC)
HEADER = struct.Struct("!BBbbII4sQQQQ")


def stamp(moment: datetime.datetime, offset: float = 0.0) -> int:
    return int(((moment - ERA).total_seconds() + offset) * 2**32) % 2**64


def answer(question: bytes, moment, *, offset=0.0, leap=0, stratum=2, mode=4, cookie=None, dispersion=0.001):
    origin = int.from_bytes(question[40:48], "big") if cookie is None else cookie
    at = stamp(moment, offset)
    fields = (leap << 6 | 4 << 3 | mode, stratum, 6, -20, 0, int(dispersion * 65536), b"TEST", at, origin, at, at)
    return HEADER.pack(*fields)


class Server:
    """An NTP server of the test's own; `how` are the arguments of `answer`, or None to keep silent."""

    def __init__(self, clock) -> None:
        self.clock, self.how, self.asked = clock, {}, 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.name = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while (got := self.socket.recvfrom(512))[0] != b"stop":
            self.asked += 1
            if self.how is not None:
                self.socket.sendto(answer(got[0], self.clock.now(), **self.how), got[1])

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.sendto(b"stop", self.socket.getsockname())
        self.thread.join()
        self.socket.close()


class Wall(FakeClock):
    """Its wall clock moves as told; its monotonic clock a little at every look, so that time-outs end."""

    def monotonic(self) -> float:
        self.seconds += 0.0005
        self.time += datetime.timedelta(seconds=0.0005)
        return self.seconds


class Place:
    """Three servers that know UTC, a clock, and a guard that asks them."""

    def __init__(self, stack) -> None:
        self.utc = FakeClock()
        self.clock = Wall()
        self.servers = [Server(self.utc) for _ in range(3)]
        for server in self.servers:
            stack.callback(server.close)
        names = [server.name for server in self.servers]
        self.source = NTPTimeSource(names, self.clock, SystemEntropy(), timeout_s=0.05)
        self.guard = ClockGuard(self.clock, self.source, accuracy=SECOND, lifetime_s=200)

    def measure(self):
        return self.guard.observe(*self.guard.measure())

    def advance(self, seconds: float) -> None:
        self.utc.advance(seconds)
        self.clock.advance(seconds)

    def kinds(self):
        return [event.kind for event in self.guard.pending_events()]


@pytest.fixture
def place():
    with contextlib.ExitStack() as stack:
        yield Place(stack)


def test_r23_three_servers_that_agree_make_the_clock_fit(place):
    status = place.measure()
    assert (TimeState.FIT, "ntp: 3 of 3 agree") == (status.state, status.source)
    assert abs(status.offset_s) < 0.2
    assert [1, 1, 1] == [server.asked for server in place.servers]
    assert place.guard.now()


@pytest.mark.parametrize("lie", [-3600.0, -2.0, 2.0, 86400.0 * 400])
def test_r23_one_of_three_that_lies_is_outvoted_and_named_in_the_journal(place, lie):
    place.measure()
    liar = place.servers[1]
    liar.how = {"offset": lie}
    status = place.measure()
    assert TimeState.FIT is status.state
    assert f"ntp: 2 of 3 agree; {liar.name} disagrees" == status.source
    assert [EventKind.CLOCK_REGAINED, EventKind.CLOCK_SOURCE] == place.kinds()
    assert {"source": status.source} == place.guard.pending_events()[-1].detail


@pytest.mark.parametrize(
    "how",
    [
        None,
        {"leap": 3},
        {"stratum": 0},
        {"stratum": 16},
        {"mode": 3},
        {"cookie": 1},
        {"dispersion": 2.0},
    ],
)
def test_r23_all_silent_or_not_to_be_believed_is_no_time_and_a_journalled_loss(place, how):
    place.measure()
    for server in place.servers:
        server.how = how
    status = place.measure()
    assert TimeState.LOST is status.state
    assert "0 of 3 agree" in status.source
    with pytest.raises(PKIError):
        place.guard.now()
    for server in place.servers:
        server.how = {}
    assert TimeState.FIT is place.measure().state
    assert [EventKind.CLOCK_REGAINED, EventKind.CLOCK_LOST, EventKind.CLOCK_REGAINED] == place.kinds()


def test_r23_two_that_lie_apart_leave_no_majority(place):
    place.servers[0].how, place.servers[2].how = {"offset": 5.0}, {"offset": -5.0}
    assert TimeState.LOST is place.measure().state


def test_r23_a_jump_of_the_clock_stops_tokens_and_an_honest_majority_measures_it(place):
    place.measure()
    place.clock.time += 30 * SECOND
    with pytest.raises(PKIError):
        place.guard.now()
    status = place.measure()
    assert TimeState.LOST is status.state
    assert pytest.approx(-30, abs=0.5) == status.offset_s
    place.clock.time -= 30 * SECOND
    assert TimeState.FIT is place.measure().state
    moved = [event for event in place.guard.pending_events() if event.kind is EventKind.CLOCK_MOVED]
    assert 1 == len(moved)  # the adjustment back, while the clock was lost already
    assert moved[0].detail["drift_us"] == pytest.approx(30e6, abs=1e6)


def test_r23_a_monitor_that_died_stops_tokens_by_itself(place):
    place.measure()
    place.advance(199)
    assert place.guard.now()
    place.advance(2)
    with pytest.raises(PKIError):
        place.guard.now()
    assert "expired" in place.guard.status.reason


def test_a_leap_second_that_the_majority_announces_closes_the_seconds_around_midnight(place):
    midnight = START.replace(hour=0) + datetime.timedelta(days=1)
    ahead = (midnight - START).total_seconds() - 10
    place.advance(ahead)
    for server in place.servers[:2]:
        server.how = {"leap": 1}
    place.measure()
    assert EventKind.LEAP_SECOND in place.kinds()
    assert place.guard.now()
    place.advance(9)
    with pytest.raises(PKIError, match="leap second"):
        place.guard.now()


def test_a_measurement_grows_old_against_a_tight_accuracy(place):
    place.measure()
    guard = ClockGuard(place.clock, place.source, accuracy=SECOND / 20, lifetime_s=10_000)
    place.utc.time = place.clock.time
    assert TimeState.FIT is guard.observe(*guard.measure()).state
    place.advance(1000)
    with pytest.raises(PKIError):
        guard.now()
    assert "too old" in guard.status.reason


def test_addresses_are_read_or_refused():
    for bad in ("", ":123", "host:0", "host:65536", "host:x"):
        with pytest.raises(OperatorError, match="address"):
            NTPTimeSource([bad, "a", "b"], FakeClock(), SystemEntropy())
    found = NTPTimeSource(["a", "b:124", "[::1]:125", "::1"], FakeClock(), SystemEntropy())
    assert [("a", 123), ("b", 124), ("::1", 125), ("::1", 123)] == list(found._servers.values())
    assert isinstance(time_source("ntp", ["a", "b", "c"], production=True), NTPTimeSource)


def test_names_that_lead_nowhere_and_closed_ports_are_silent_servers():
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as free:
        free.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{free.getsockname()[1]}"
    source = NTPTimeSource([closed, "name..wrong", "x" * 70], Wall(), SystemEntropy(), timeout_s=0.05)
    found = source.measure()
    assert not found.synchronised
    assert 3 == found.source.count("gives no time")


def test_the_seconds_of_an_ntp_era_that_ended_are_understood():
    """2036-02-07 the 32 bits begin again (RFC 5905 6); a hundred years on as well."""
    for moment in (START, datetime.datetime(2036, 2, 8, tzinfo=datetime.UTC), START + datetime.timedelta(36525)):
        at = (moment - ERA).total_seconds()
        found = interpret("s", answer(bytes(48), moment, offset=0.25, cookie=7), Exchange(7, at, at))
        assert pytest.approx(0.25, abs=1e-5) == found.offset_s


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 2**64 - 1))
def test_any_datagram_is_a_sample_or_a_value_error(data, cookie):
    with contextlib.suppress(ValueError):
        assert interpret("s", data, Exchange(cookie, 4e9, 4e9 + 0.1)).uncertainty_s >= 0


@settings(max_examples=200, deadline=None)
@given(
    st.floats(-10, 10),
    st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 1)), min_size=2, max_size=6),
    st.lists(st.tuples(st.floats(-50, 50), st.floats(0, 5)), max_size=5),
)
def test_while_the_majority_is_honest_the_interval_holds_the_truth(truth, honest, liars):
    liars = liars[: len(honest) - 1]
    samples = [Sample(f"h{n}", truth + e * u, u, Leap.NONE) for n, (e, u) in enumerate(honest)]
    samples += [Sample(f"l{n}", offset, u, Leap.INSERT) for n, (offset, u) in enumerate(liars)]
    for order in itertools.islice(itertools.permutations(samples), 3):
        found = agree(order, [])
        assert found.synchronised
        assert abs(found.offset_s - truth) <= found.uncertainty_s + 1e-9
