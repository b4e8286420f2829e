"""Timestamps per second over HTTP: a P-256 key in SoftHSM2, each recorded durably, then signed (`bench.tsa`)."""

from __future__ import annotations

from bench import common, tsa


def summary(found: tsa.Figures) -> str:
    """The last line."""
    return common.result(
        "tsa-p256",
        found.rate,
        "tokens/s",
        found.limit,
        "P-256 signatures/s of the same token on the same core",
        durable=True,
        **found.more,
    )


if __name__ == "__main__":
    with tsa.running("ec-p256") as bench:
        line = summary(tsa.measure(bench))
    print(line)
