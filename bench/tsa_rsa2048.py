"""Timestamps per second over HTTP: an RSA-2048 key in SoftHSM2, each recorded, then signed (`bench.tsa`)."""

from __future__ import annotations

from bench import common, tsa


def summary(found: tsa.Figures) -> str:
    """The last line."""
    return common.result(
        "tsa-rsa2048",
        found.rate,
        "tokens/s",
        found.limit,
        "RSA-2048 signatures/s of the same token on the same core",
        durable=True,
        **found.more,
    )


if __name__ == "__main__":
    with tsa.running("rsa-2048") as bench:
        line = summary(tsa.measure(bench))
    print(line)
