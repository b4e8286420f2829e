"""The machine's clock and randomness, as ports. The only place that reads either."""

from __future__ import annotations

import datetime
import os
import time


class SystemClock:
    """The wall clock and the monotonic clock of this machine."""

    def now(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC)  # noqa: TID251 - this is the Clock

    def monotonic(self) -> float:
        return time.monotonic()


class SystemEntropy:
    """The kernel's CSPRNG."""

    def draw(self, size: int) -> bytes:
        return os.urandom(size)
