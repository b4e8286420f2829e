"""
Certificates per second by `chancery request --bulk`: lines of JSON in, the file of results out, all included.

The processes are those of `chancery up`, as in `issuance_rest_p256`; the client is the command line itself. A
certificate counts when its line is in the file of results, which is after the final commit. Two limits from the
same run, the suite idle: what the key in the token signs, and what the processors could do if the suite did
nothing but verify three times (the proof of possession by the web process and by the worker, the worker's own
signature) and sign once.
"""

from __future__ import annotations

import base64
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import common
from bench.common import Running, bring_up, take_down
from bench.issuance import CSRS, csrs, measured, text, token_limits, verification_seconds

ROUNDS, WARM, REQUESTS = 3, 2_000, 20_000
FILES = 1  # runs of the command line at the same time


def write_lines(place: Path, made: list[bytes], count: int) -> Path:
    """A file of requests, each with a transaction id of its own."""
    path = place / f"{time.time_ns()}.jsonl"
    texts = [base64.b64encode(one).decode() for one in made]
    with path.open("w") as file:
        for number in range(count):
            asked = {"csr": texts[number % CSRS], "transaction_id": f"{path.stem}-{number}"}
            file.write(json.dumps(asked) + "\n")
    return path


def issue(running: Running, files: list[Path], count: int) -> dict[str, float]:
    """Run the command line over each file at once."""
    client = ["--client", str(running.place.admin / "client.toml")]
    base = [sys.executable, "-m", "chancery.cli.main", "request", *client, "--profile", "tls-server", "--bulk"]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    started = [subprocess.Popen([*base, str(one), "--json"], stdout=subprocess.PIPE, text=True) for one in files]
    told = [json.loads(one.communicate()[0]) for one in started]
    elapsed = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    issued = sum(one["done"] for one in told)
    if issued != count * len(files) or any(one.returncode for one in started):
        raise SystemExit(f"not everything was issued: {told}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # The program's own start is not what many certificates cost, but it is in `elapsed`.
    rate = issued / max(one["seconds"] for one in told)
    return {"issued": issued, "rate": rate, "elapsed": elapsed, "client_ms": 1000 * cpu / issued}


def measure(running: Running, place: Path) -> str:
    """Warm up, measure, with the limits before each round."""
    made = csrs()
    issue(running, [write_lines(place, made, WARM)], WARM)
    rounds, tokens, floors = [], [], []
    for _ in range(ROUNDS):
        (one, four), sign = token_limits(running)
        verify = verification_seconds()
        floor = len(os.sched_getaffinity(0)) / (3 * verify + sign)
        files = [write_lines(place, made, REQUESTS // FILES) for _ in range(FILES)]
        found, shares = measured(running, lambda files=files: issue(running, files, REQUESTS // FILES))
        print(
            f"{found['rate']:,.0f} certificates/s; CPU ms a certificate: {text(shares)}",
            f"    the token alone: {one:,.0f} signatures/s for one caller, {four:,.0f}/s for four;"
            f" verify {1e6 * verify:.0f} us, sign {1e6 * sign:.0f} us of a processor: {floor:,.0f}/s at most",
            sep="\n",
            flush=True,
        )
        rounds.append((found["rate"], shares))
        tokens.append(max(one, four))
        floors.append(floor)
    rate, shares = max(rounds, key=lambda one: one[0])
    return common.result(
        "issuance-bulk-p256",
        rate,
        "certificates/s",
        statistics.median(floors),
        "three P-256 verifications and a signature a certificate on the same processors, nothing else",
        durable=True,
        token_signatures=round(statistics.median(tokens)),
        requests=REQUESTS,
        cpu_ms=shares,
    )


def main() -> None:
    """Bring a suite up in a directory of its own, measure it, and print one JSON object as the last line."""
    running = bring_up()
    try:
        with tempfile.TemporaryDirectory() as place:
            found = measure(running, Path(place))
    finally:
        take_down(running)
    print(found)


if __name__ == "__main__":
    main()
