"""
What one revocation costs with 1,000, 100,000 and 1,000,000 revoked: latency, and pages and rows touched.

The worker's own function over an embedded PostgreSQL with its durable settings; filled by COPY. The limit is the
latency with the fewest revoked in the same run: a ratio of 1 says that it does not depend on their number.
Arguments: the numbers of revoked certificates, ascending.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench import common

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "postgres"))
from costkit import Cost, Town

from pg import temporary_postgres

SIZES = (1_000, 100_000, 1_000_000)
COUNT = 200


def measure(sizes: tuple[int, ...]) -> str:
    """Measure each size in one database that grows, and return the last line."""
    found: dict[int, Cost] = {}
    with temporary_postgres(settings={"shared_buffers": "256MB"}) as server, server.database() as database:
        town, there = Town(database), 0
        for size in sizes:
            town.fill(size - there, revoked=True)
            cost = found[size] = town.cost(COUNT)
            there = size + 2 * COUNT + 10
            print(
                f"{size:>9,} revoked: {cost.alone:.2f} ms alone, {cost.grouped:.3f} ms as one of {COUNT},"
                f" {cost.pages:.1f} pages and {cost.rows:.1f} rows touched",
                flush=True,
            )
    few, many = found[sizes[0]], found[sizes[-1]]
    return common.result(
        "revocation-cost",
        many.alone,
        "ms",
        few.alone,
        f"the same with {sizes[0]} revoked",
        durable=True,
        grouped_ms=round(many.grouped, 3),
        pages={str(size): round(cost.pages, 1) for size, cost in found.items()},
        rows={str(size): round(cost.rows, 1) for size, cost in found.items()},
    )


if __name__ == "__main__":
    print(measure(tuple(map(int, sys.argv[1:])) or SIZES))
