"""
The same with ten million certificates stored: issue, look up, revoke, against the empty database of the same run.

    python -m bench issuance-10m            ten million, or as many as the disk holds
    python -m bench.issuance_10m 100000     fewer

The rows are written by COPY (bench/filling.py): requests, intents, certificates, statuses, events, leaves and
signed checkpoints, over several yearly partitions; what nobody reads here is random. Issuing goes through REST,
the worker and its token; look-ups and revocations through the web process' own stores; the worker settles them.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence

import uvloop

from bench import common
from bench.common import Running, bring_up, take_down
from bench.filling import Filler, Known, fitting, sizes, superuser
from bench.issuance import ask, start_load
from chancery.cli import build
from chancery.cli.clock import SystemClock
from chancery.config import CAConfig, WorkerConfig, load_checked
from chancery.ports import CertificateQuery, NewRevocation, RequestState, RevocationReason
from chancery.postgres.directory import PgDirectory
from chancery.postgres.requests import PgRequestQueue
from chancery.postgres.session import AsyncPool, connect

ROWS = 10_000_000
SECONDS, WARM_SECONDS = 10.0, 3.0
LOOK_UPS, REVOCATIONS = 400, 100
CLIENTS = (1, 16)
LIMIT = 1.5
"""The p99 of everything, against the empty database."""

Times = dict[str, tuple[float, float]]
"""Median and 99th percentile in ms, by what was done."""


def _cuts(took: Sequence[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(took, n=100)
    return cuts[49] * 1000, cuts[98] * 1000


async def _timed(acts: Sequence[Callable[[], Awaitable[object]]]) -> tuple[float, float]:
    took = []
    for act in acts:
        began = time.perf_counter()
        await act()
        took.append(time.perf_counter() - began)
    return _cuts(took)


async def _stores(running: Running, known: Sequence[Known]) -> Times:
    """Look up and revoke as the web process does, one at a time."""
    settings = build.connection(load_checked(running.place.config("ca"), CAConfig).database, "bench")
    chosen = [random.choice(known) for _ in range(LOOK_UPS)]  # noqa: S311 - which rows are looked up is no secret
    async with AsyncPool(settings) as pool:
        directory, queue = PgDirectory(pool, SystemClock()), PgRequestQueue(pool)
        operator = (await directory.operators())[0].name
        (issuer,) = [one for one in await directory.issuers() if one.name == "issuing"]

        def search(**query: object) -> Callable[[], Awaitable[object]]:
            async def act() -> None:
                if not await directory.search(CertificateQuery(**query)):  # type: ignore[arg-type]  # one of its fields
                    raise SystemExit(f"{query} is not found")

            return act

        def revoke(one: Known) -> Callable[[], Awaitable[object]]:
            async def act() -> None:
                now = SystemClock().now()
                reason = RevocationReason.SUPERSEDED
                request = NewRevocation(issuer.name, one.serial, reason, None, operator, now)
                stored = await queue.submit_revocation(request, [])
                settled = await queue.wait_revocation(stored.revocation_id, 30)
                if settled.state is not RequestState.DONE:
                    raise SystemExit(f"a revocation came to {settled.state.value}: {settled.detail}")

            return act

        try:
            found = {}
            for name in ("serial", "subject", "name", "spki_sha256"):
                acts = [search(**{name: getattr(one, name)}) for one in chosen]
                await _timed(acts[: LOOK_UPS // 4])  # the plans are made, as in a process that has run for a while
                found[name] = await _timed(acts)
            found["revoke"] = await _timed([revoke(one) for one in random.sample(list(known), REVOCATIONS)])
        finally:
            await queue.close()
    return found


def _measure(running: Running, known: Sequence[Known] | None) -> Times:
    """Issue with each number of clients, then use the stores on what is `known`; None: on what was issued now."""
    found: Times = {}
    with start_load(running) as clients:
        ask(clients, 4, WARM_SECONDS)
        for number in CLIENTS:
            one = ask(clients, number, SECONDS)
            found[f"issue, {number} client{'s' * (number > 1)}"] = one["p50_ms"], one["p99_ms"]
        assert clients.stdin is not None
        clients.stdin.close()
    found |= uvloop.run(_stores(running, _issued(running) if known is None else known))
    return found


def _issued(running: Running) -> list[Known]:
    with connect(superuser(running)) as connection:
        rows = connection.execute(
            "SELECT serial, subject, names[1], spki_sha256 FROM chancery.certificate WHERE profile = 'tls-server'"
            " AND names[1] LIKE 'dns:host-%' ORDER BY certificate_id DESC LIMIT 2000"
        ).fetchall()
    return [Known(*row) for row in rows]


def _fill(running: Running, rows: int) -> tuple[list[Known], dict[str, tuple[int, int]]]:
    """Fill the tables as the suite runs, let the planner know, and wait until the sequencer knows the tree."""
    config = load_checked(running.place.config("worker"), WorkerConfig)
    token = build.token(config.token)
    try:
        with connect(superuser(running)) as connection:
            filler = Filler(connection, build.signer(token, config.journal.key_label), config.journal.origin)
            filler.fill(rows)
        with connect(superuser(running)) as connection:
            print("analysing", flush=True)
            connection.execute("VACUUM (ANALYZE)")
            connection.execute("CHECKPOINT")
            filled = sizes(connection)
            common.issue(running, 1)
            _wait_sequenced(connection)
    finally:
        token.close()
    return filler.sample, filled


def _wait_sequenced(connection: object, seconds: float = 1800.0) -> None:
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        rows = connection.execute(  # type: ignore[attr-defined]  # a connection of psycopg
            "SELECT (SELECT max(event_id) FROM chancery.journal_event)"
            " = (SELECT event_id FROM chancery.journal_leaf ORDER BY leaf_index DESC LIMIT 1)"
        ).fetchall()
        if rows[0][0]:
            print(f"the sequencer has read the tree: {time.monotonic() - began:.0f} s", flush=True)
            return
        time.sleep(1)
    raise SystemExit("the sequencer did not come to the end of the journal")


def measure(running: Running, rows: int) -> str:
    """Measure empty, fill, measure again; return the last line."""
    rows = fitting(running, rows)
    empty = _measure(running, None)
    print("empty:", _text(empty), flush=True)
    known, filled = _fill(running, rows)
    for table, (heap, index) in filled.items():
        print(f"    {table:<20} {heap / rows:7.0f} octets of rows, {index / rows:7.0f} of indexes a certificate")
    full = _measure(running, known)
    ratios = {name: full[name][1] / empty[name][1] for name in empty}
    for name, (p50, p99) in full.items():
        was = empty[name]
        change = f"p50 {was[0]:6.2f} -> {p50:6.2f} ms, p99 {was[1]:6.2f} -> {p99:6.2f} ms"
        print(f"    {name:<18} {change}: x {ratios[name]:.2f}")
    return common.result(
        "issuance-10m",
        max(ratios.values()),
        "p99 of the slowest, against the empty database",
        LIMIT,
        "the ratio that is allowed",
        durable=True,
        certificates=rows,
        row_octets=round(sum(heap for heap, _ in filled.values()) / rows),
        index_octets=round(sum(index for _, index in filled.values()) / rows),
        p99_ratio={name: round(value, 2) for name, value in ratios.items()},
        p50_ratio={name: round(full[name][0] / empty[name][0], 2) for name in empty},
        p99_ms={name: round(value[1], 2) for name, value in full.items()},
    )


def _text(times: Times) -> str:
    return "; ".join(f"{name} {p50:.2f}/{p99:.2f} ms" for name, (p50, p99) in times.items())


def main(rows: int) -> None:
    """Bring a suite up, measure it, take it down, and print one JSON object as the last line."""
    running = bring_up()
    try:
        found = measure(running, rows)
    finally:
        take_down(running)
    print(found)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else int(os.environ.get("BENCH_ROWS", ROWS)))
