"""
Whether the clock is fit to sign by.

A `ClockGuard` says yes only while a recent measurement vouches for the wall clock and the wall clock has
kept step with the monotonic clock since. Everything else is no: never measured, out of accuracy, a jump, a
measurement that failed, a monitor that died, the seconds around a leap second.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import enum
from typing import Protocol

from chancery.errors import ErrorType, PKIError
from chancery.ports import Clock, Event, EventDetail, EventKind

# A leap second stands at the end of a UTC day. What a wall clock shows around it depends on who steps or smears
# it, so no token is made from this long before midnight to this long after, when one is announced.
LEAP_WINDOW = datetime.timedelta(seconds=2)
_DAY = datetime.timedelta(days=1)
# A wall clock that left the monotonic clock's side by this much between two measurements did more than follow
# NTP's slewing. It is journalled even while the declared accuracy holds (R23).
NOTED_DRIFT_S = 0.1
# What nobody disciplines may run wrong by this much since it was measured: a plain crystal.
WANDER = 1e-4


class Leap(enum.Enum):
    """A leap second at the end of this UTC day, as the source announces it."""

    NONE = "none"
    INSERT = "insert"
    DELETE = "delete"
    NOW = "now"


@dataclasses.dataclass(frozen=True, slots=True)
class Measurement:
    """
    What a time source says of the wall clock.

    UTC is within `offset_s` + `uncertainty_s` of it, if `synchronised`. `independent` tells whether the
    source would notice a step of the wall clock; one that does not cannot excuse a jump, nor can what it knew
    (`knows_since`, of the monotonic clock; None: by this measurement) before the jump.
    """

    synchronised: bool
    offset_s: float
    uncertainty_s: float
    source: str
    independent: bool
    leap: Leap = Leap.NONE
    knows_since: float | None = None


class TimeSource(Protocol):
    """Where trust in the wall clock comes from."""

    def measure(self) -> Measurement:
        """Compare the wall clock with UTC. May block for a while; raises OSError when it cannot tell."""


class TimeState(enum.Enum):
    UNMEASURED = "unmeasured"
    FIT = "fit"
    LOST = "lost"


@dataclasses.dataclass(frozen=True, slots=True)
class TimeStatus:
    """What the guard last concluded. A FIT status holds until the monotonic clock reads `expires_at_monotonic`."""

    state: TimeState
    offset_s: float
    uncertainty_s: float
    source: str
    expires_at_monotonic: float
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """Both clocks, read together."""

    wall: datetime.datetime
    monotonic: float

    def drift(self, later: Reading) -> float:
        """Seconds by which the wall clock left the monotonic clock's side from here to `later`."""
        return abs((later.wall - self.wall).total_seconds() - (later.monotonic - self.monotonic))


@dataclasses.dataclass(frozen=True, slots=True)
class FitTime:
    """The wall clock, and by how much a genTime may be later than it and still be as accurate as declared."""

    now: datetime.datetime
    slack: datetime.timedelta


class ClockGuard:
    """
    Answers with the time, or refuses.

    `accuracy` is the declared one: |offset| + uncertainty + `resolution` (what genTime cuts off) + the drift of
    the wall clock against the monotonic clock since the measurement + `WANDER` times its age must stay within it
    (R23). A measurement is good for `lifetime_s` seconds of the monotonic clock. For one thread; only `measure`
    may run in another.
    """

    MAX_PENDING_EVENTS = 1000

    def __init__(
        self,
        clock: Clock,
        source: TimeSource,
        *,
        accuracy: datetime.timedelta,
        resolution: datetime.timedelta = datetime.timedelta(0),
        lifetime_s: float = 60.0,
        actor: str = "tsa",
    ) -> None:
        self._clock = clock
        self._source = source
        self._budget_s = (accuracy - resolution).total_seconds()
        self._lifetime_s = lifetime_s
        self._actor = actor
        self._anchor: Reading | None = None
        self._seen: Reading | None = None
        self._jumped_at: float | None = None
        self._leap = Leap.NONE
        self._events: collections.deque[Event] = collections.deque(maxlen=self.MAX_PENDING_EVENTS)
        self.status = TimeStatus(TimeState.UNMEASURED, 0.0, 0.0, "none", 0.0, "never measured")

    def measure(self) -> tuple[Measurement, Reading]:
        """Read the clocks, then ask the source; return its answer and the reading. May block; any thread."""
        before = self._read()
        try:
            return self._source.measure(), before
        except OSError as error:
            failed = Measurement(
                synchronised=False,
                offset_s=0.0,
                uncertainty_s=0.0,
                source=f"failed: {type(error).__name__}",
                independent=True,
            )
            return failed, before

    def observe(self, measurement: Measurement, before: Reading) -> TimeStatus:
        """
        Take a measurement that was begun at the reading `before` into account, and return the status.

        After a jump, only an independent measurement begun after the jump was seen restores the status (or
        the wall clock's return to where it would be without the jump).
        """
        now = self._read()
        self._note_leap(measurement.leap, now)
        self._note_step(before, now)
        known = before.monotonic if measurement.knows_since is None else measurement.knows_since
        if self._jumped_at is not None and measurement.independent and known > self._jumped_at:
            self._anchor, self._jumped_at = None, None
        drift = max(before.drift(now), self._anchor.drift(now) if self._anchor else 0.0)
        error = abs(measurement.offset_s) + measurement.uncertainty_s
        if not measurement.synchronised:
            self._lose(measurement, "not synchronised", now)
        elif error > self._budget_s:
            self._lose(measurement, "the error is larger than the declared accuracy", now)
        elif error + drift > self._budget_s:
            self._jump(measurement, drift, now)
        else:
            if drift > NOTED_DRIFT_S:
                self._note(EventKind.CLOCK_MOVED, {"drift_us": round(drift * 1e6)}, now)
            self._anchor, self._jumped_at = before, None
            if self.status.state is TimeState.FIT and measurement.source != self.status.source:
                self._note(EventKind.CLOCK_SOURCE, {"source": measurement.source}, now)
            self._set(TimeState.FIT, measurement, before.monotonic + self._lifetime_s, "measured", now)
        return self.status

    def now(self) -> datetime.datetime:
        """
        Return the time, fit to sign by.

        Raises PKIError(TIME_NOT_AVAILABLE) while the clock is not.
        """
        return self.read().now

    def read(self) -> FitTime:
        """Return the time, fit to sign by, and how much of the declared accuracy is left. Raises as `now`."""
        now, status = self._read(), self.status
        if status.state is TimeState.FIT and self._anchor is not None:
            drift = self._anchor.drift(now)
            # By this much the wall clock may be wrong.
            error = abs(status.offset_s) + status.uncertainty_s + drift
            wander = (now.monotonic - self._anchor.monotonic) * WANDER
            if now.monotonic >= status.expires_at_monotonic:
                self._lose(status, "the last measurement has expired", now)
            elif error > self._budget_s:
                self._jump(status, drift, now)
            elif error + wander > self._budget_s:
                self._lose(status, "the last measurement is too old for the declared accuracy", now)
            elif self._near_leap(now.wall):
                raise PKIError(ErrorType.TIME_NOT_AVAILABLE, "a leap second is passing; try again in a moment")
            else:
                return FitTime(now.wall, datetime.timedelta(seconds=self._budget_s - error - wander))
        raise PKIError(ErrorType.TIME_NOT_AVAILABLE, "the clock is not known to be within the declared accuracy")

    def _near_leap(self, wall: datetime.datetime) -> bool:
        if self._leap is Leap.NONE:
            return False
        into_day = wall - wall.replace(hour=0, minute=0, second=0, microsecond=0)
        return into_day < LEAP_WINDOW or _DAY - into_day <= LEAP_WINDOW

    def pending_events(self) -> tuple[Event, ...]:
        """Losses, returns and leap seconds not yet journalled (R26); `forget` them once they are."""
        return tuple(self._events)

    def forget(self, events: tuple[Event, ...]) -> None:
        """Drop events that are durably journalled."""
        for event in events:
            if self._events and self._events[0] is event:
                self._events.popleft()

    def _read(self) -> Reading:
        return Reading(self._clock.now(), self._clock.monotonic())

    def _jump(self, seen: Measurement | TimeStatus, drift: float, now: Reading) -> None:
        # Kept from the first sighting: a measurement begun after it has seen the clock as it is now.
        if self._jumped_at is None:
            self._jumped_at = now.monotonic
        self._seen = now
        self._lose(seen, f"the wall clock moved {drift:.6f} s against the monotonic clock", now)

    def _lose(self, seen: Measurement | TimeStatus, reason: str, now: Reading) -> None:
        self._set(TimeState.LOST, seen, 0.0, reason, now)

    def _set(
        self, state: TimeState, seen: Measurement | TimeStatus, expires: float, reason: str, now: Reading
    ) -> None:
        before = self.status.state
        self.status = TimeStatus(state, seen.offset_s, seen.uncertainty_s, seen.source, expires, reason)
        if state is not before:
            detail: EventDetail = {
                "offset_us": round(seen.offset_s * 1e6),
                "uncertainty_us": round(seen.uncertainty_s * 1e6),
                "reason": reason,
                "source": seen.source,
            }
            self._note(EventKind.CLOCK_REGAINED if state is TimeState.FIT else EventKind.CLOCK_LOST, detail, now)

    def _note_step(self, before: Reading, now: Reading) -> None:
        """Note a step that no change of state tells of, because the clock was lost already."""
        step = self._seen.drift(now) if self._seen else before.drift(now)
        if self.status.state is TimeState.LOST and step > NOTED_DRIFT_S:
            self._note(EventKind.CLOCK_MOVED, {"drift_us": round(step * 1e6)}, now)
        self._seen = now

    def _note_leap(self, leap: Leap, now: Reading) -> None:
        if leap is not self._leap:
            self._leap = leap
            self._note(EventKind.LEAP_SECOND, {"leap": leap.value}, now)

    def _note(self, kind: EventKind, detail: EventDetail, now: Reading) -> None:
        self._events.append(Event(kind, now.wall, self._actor, "clock", detail))
