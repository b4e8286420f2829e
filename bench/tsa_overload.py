"""
What a timestamping authority still grants when ten times more wait than it lets in, and how soon it says no.

The limit is what the same server grants to half as many clients as it lets wait.
"""

from __future__ import annotations

import statistics

from bench import common, tsa

PENDING = 128
ROUNDS, SECONDS = 3, 4


def summary(granted: float, refused: float, p99_ms: float, calm: float) -> str:
    """The last line."""
    return common.result(
        "tsa-overload",
        granted,
        "tokens/s",
        calm,
        "tokens/s of the same server when nobody is refused",
        durable=True,
        refused_per_s=round(refused, 1),
        p99_ms=round(p99_ms, 1),
    )


def measure(bench: tsa.Bench) -> str:
    """Interleave calm and flood."""
    common.load(bench.port, bench.script, 1, PENDING // 2)
    calm, floods = [], []
    for number in range(ROUNDS):
        calm.append(common.load(bench.port, bench.script, SECONDS, PENDING // 2).rate)
        floods.append(bench.flood(10 * PENDING, SECONDS))
        words = f"calm {calm[-1]:,.0f} tokens/s, flooded {floods[-1][0]:,.0f} and {floods[-1][1]:,.0f} refused"
        print(f"round {number + 1}: {words}", flush=True)
    granted, refused, p99 = (statistics.median(one) for one in zip(*floods, strict=True))
    return summary(granted, refused, p99, statistics.median(calm))


if __name__ == "__main__":
    with tsa.running("ec-p256", max_pending=PENDING) as running:
        line = measure(running)
    print(line)
