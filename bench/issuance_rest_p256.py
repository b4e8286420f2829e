"""
Certificates per second through the whole suite: CSR in over REST with mutual TLS, certificate out.

The processes are those of `chancery up`: PostgreSQL with its commits on disk, the worker with its key in SoftHSM2,
the web process. The CSRs are ready-made, each request has a transaction id of its own, and an answer counts only
when it is 201, which is after the final commit. The limit is what the same key in the same token signs by itself,
measured between the rounds with the suite idle.
"""

from __future__ import annotations

import statistics
import subprocess

from bench import common
from bench.common import Running, bring_up, take_down
from bench.issuance import ask, measured, start_load, text, token_limits

CLIENTS = (1, 16, 64)
WARM_SECONDS, SECONDS = 2.0, 10.0


def measure(running: Running, clients: subprocess.Popen[str]) -> str:
    """Warm up, measure each number of clients with the limit before it, and put the result together."""
    ask(clients, 8, WARM_SECONDS)
    signed, rounds = [], []
    for number in CLIENTS:
        (one, four), _ = token_limits(running)
        signed.append((one, four))
        found, shares = measured(running, lambda number=number: ask(clients, number, SECONDS))
        print(
            f"{number:>3} clients: {found['rate']:,.0f} certificates/s, p50 {found['p50_ms']:.1f} ms,"
            f" p99 {found['p99_ms']:.1f} ms; CPU ms a certificate: {text(shares)}",
            f"    the token alone: {one:,.0f} signatures/s for one caller, {four:,.0f}/s for four",
            sep="\n",
            flush=True,
        )
        rounds.append(found)
    best = max(rounds, key=lambda one: one["rate"])
    limit = max(statistics.median(callers) for callers in zip(*signed, strict=True))
    return common.result(
        "issuance-rest-p256",
        best["rate"],
        "certificates/s",
        limit,
        "P-256 signatures/s of the same key in the same token, the suite idle",
        durable=True,
        clients=best["clients"],
        p50_ms={str(one["clients"]): round(one["p50_ms"], 1) for one in rounds},
        p99_ms={str(one["clients"]): round(one["p99_ms"], 1) for one in rounds},
    )


def main() -> None:
    """Bring a suite up in a directory of its own, measure it, and print one JSON object as the last line."""
    running = bring_up()
    try:
        with start_load(running) as clients:
            found = measure(running, clients)
            assert clients.stdin is not None
            clients.stdin.close()
    finally:
        take_down(running)
    print(found)


if __name__ == "__main__":
    main()
