"""What several time servers say together: the majority's interval, and who is outside of it (RFC 5905 11.2.1)."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from chancery.tsa.timekeeping import Leap, Measurement


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One server's answer: UTC is within `uncertainty_s` of the wall clock plus `offset_s`, if it is right."""

    server: str
    offset_s: float
    uncertainty_s: float
    leap: Leap = Leap.NONE

    @property
    def low(self) -> float:
        """The least offset this server allows."""
        return self.offset_s - self.uncertainty_s

    @property
    def high(self) -> float:
        """The greatest."""
        return self.offset_s + self.uncertainty_s


def agree(samples: Sequence[Sample], silent: Sequence[str]) -> Measurement:
    """
    Combine the samples into one measurement; `silent` are the servers that were asked and gave none.

    The interval returned spans every offset that more than half of all asked servers allow. While more than half
    tell the truth it holds the truth, whatever the others say. Without such a majority nothing is known
    (`synchronised` is false). A leap second is believed when more than half of those that agree announce it.
    """
    asked = len(samples) + len(silent)
    quorum = asked // 2 + 1
    # Coverage only begins to suffice at the start of an interval and ends to at the end of one.
    found = [edge for one in samples for edge in (one.low, one.high) if _covering(samples, edge) >= quorum]
    low, high = (min(found), max(found)) if found else (0.0, 0.0)
    good = [one for one in samples if found and one.low <= high and one.high >= low]
    leaps = Counter(one.leap for one in good).most_common(1)
    return Measurement(
        synchronised=bool(found),
        offset_s=(low + high) / 2,
        uncertainty_s=(high - low) / 2,
        source=_words(samples, good, silent),
        independent=True,
        leap=leaps[0][0] if leaps and leaps[0][1] * 2 > len(good) else Leap.NONE,
    )


def _covering(samples: Sequence[Sample], offset: float) -> int:
    return sum(one.low <= offset <= one.high for one in samples)


def _words(samples: Sequence[Sample], good: Sequence[Sample], silent: Sequence[str]) -> str:
    """Say who agrees and who does not, the same for the same answers in any order."""
    parts = [f"ntp: {len(good)} of {len(samples) + len(silent)} agree"]
    parts += sorted(f"{one.server} disagrees" for one in samples if one not in good)
    parts += sorted(f"{server} gives no time" for server in silent)
    return "; ".join(parts)
