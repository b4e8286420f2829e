"""
Processes of one ordered unit, killed while they work: no serial repeats, no time goes back, all is recorded.

CHANCERY_SOAK_ROUNDS makes it longer than a moment. The processes have one instance number, as after a copied
configuration, and clocks that are apart.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from test_pg_timestamps import register

from chancery.postgres.session import AsyncPool, connect
from chancery.postgres.timestamps import PgTimestampStore

TESTS = Path(__file__).parents[1]
ROUNDS = int(os.environ.get("CHANCERY_SOAK_ROUNDS", "3"))
EACH = 40
PROGRAM = """
import asyncio, datetime, json, os, sys, time
from concurrent.futures import ThreadPoolExecutor
from chancery.asn1 import cms, tsp
from chancery.cli.clock import SystemClock, SystemEntropy
from chancery.postgres.session import AsyncPool, Connection
from chancery.postgres.timestamps import PgTimestampStore
from unit.tsa.kit import TSA, YEAR, certificate, request
from pg import password

host, port, database, behind_ms = sys.argv[1:]

class Clock(SystemClock):
    def now(self):
        return super().now() - datetime.timedelta(milliseconds=int(behind_ms))

def say(submitted, answer):
    token = tsp.decode_response(answer.der).time_stamp_token
    info = tsp.decode_tst_info(cms.decode(token).content)
    assert info.ordering
    done = time.monotonic_ns()
    os.write(1, json.dumps([submitted, done, info.serial, info.gen_time.isoformat()]).encode() + b"\\n")

async def main():
    clock = Clock()
    now = clock.now()
    tsa = TSA(
        clock=clock, cert=certificate("p256", start=now - YEAR, end=now + YEAR), ordering=True, gen_time_digits=6
    )
    tsa.entropy = SystemEntropy()
    role = Connection(host, int(port), database, "chancery_tsa", password=lambda: password("chancery_tsa"))
    async with AsyncPool(role) as pool:
        tsa.store = PgTimestampStore(pool)
        with ThreadPoolExecutor(2) as executor:
            service = tsa.service(executor, max_batch=4)

            async def one():
                while True:
                    submitted = time.monotonic_ns()
                    answer = await service.respond(request(), "soak")
                    if answer.error is None:
                        say(submitted, answer)

            await asyncio.gather(*(one() for _ in range(6)))

asyncio.run(main())
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Given:
    """A token that left a process: when its request came and it went (monotonic), its serial and genTime."""

    submitted: int
    done: int
    serial: int
    gen_time: datetime.datetime


class Process:
    """One timestamping process; what it gives out is in `given`, as far as it came to be written."""

    def __init__(self, database, behind_ms: int) -> None:
        role = database.role("tsa")
        words = [sys.executable, "-c", PROGRAM, role.host, str(role.port), role.database, str(behind_ms)]
        path = os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])
        self.given: list[Given] = []
        self.enough = threading.Event()
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path})
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            if line.endswith(b"\n"):
                submitted, done, serial, at = json.loads(line)
                self.given.append(Given(submitted, done, serial, datetime.datetime.fromisoformat(at)))
            if len(self.given) >= EACH:
                self.enough.set()
        self.enough.set()

    def kill(self) -> list[Given]:
        """Kill it in the middle of its work; return what it gave out."""
        self.enough.wait()
        assert self.process.poll() is None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.thread.join()
        self.process.stdout.close()
        return self.given


def test_kills_in_the_middle_of_ordered_work(database):
    async def begin():
        async with AsyncPool(database.role("tsa")) as pool:
            await register(PgTimestampStore(pool))

    asyncio.run(begin())
    running = [Process(database, 0), Process(database, 30)]
    given: list[Given] = []
    for number in range(ROUNDS):
        given += running[number % 2].kill()
        running[number % 2] = Process(database, 30 * (number % 2))
    for process in running:
        given += process.kill()
    with connect(database.superuser) as superuser:
        rows = superuser.execute("SELECT serial, gen_time FROM chancery.tsa_token ORDER BY gen_time").fetchall()
        [(last,)] = superuser.execute("SELECT last_gen_time FROM chancery.tsa_unit").fetchall()
    recorded = {int(serial): at for serial, at in rows}
    # No serial repeats, and no moment.
    assert len(rows) == len(recorded) == len(set(recorded.values()))
    assert len(given) == len({one.serial for one in given}) >= EACH * (ROUNDS + 2)
    # Every token that was given out is in the database, as it says.
    assert {} == {one.serial: one for one in given if recorded.get(one.serial) != one.gen_time}
    # Whoever asked after a token was there has a later one, from whichever process.
    latest = datetime.datetime.min.replace(tzinfo=datetime.UTC)
    done = sorted(given, key=lambda one: one.done)
    position = 0
    for one in sorted(given, key=lambda one: one.submitted):
        while done[position].done < one.submitted:
            latest = max(latest, done[position].gen_time)
            position += 1
        assert latest < one.gen_time
    assert last == rows[-1][1] >= latest
    assert all(earlier < later for (_, earlier), (_, later) in itertools.pairwise(rows))
