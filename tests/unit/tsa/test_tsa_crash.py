"""A process that dies between record and signature leaves records without tokens, never the reverse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from chancery.asn1 import cms, tsp

TESTS = Path(__file__).parents[2]
PROGRAM = """
import asyncio, os, sys
sys.path[:0] = [{tests!r}, {source!r}]
from concurrent.futures import ThreadPoolExecutor
from chancery.asn1.signature import KeySigner
from unit.tsa.kit import TSA, key, request

where, at = sys.argv[2], int(sys.argv[3])
records = os.open(sys.argv[1], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
calls = 0

def die(step):
    global calls
    calls += step == where
    if step == where and calls == at:
        os._exit(9)

class Signer:
    inner = KeySigner(key("p256"))
    algorithm, public_key = inner.algorithm, inner.public_key
    def sign(self, data):
        die("before-sign")
        signature = self.inner.sign(data)
        die("after-sign")
        return signature

class Store:
    async def record(self, tokens, events):
        die("before-record")
        os.write(records, b"".join(b"%d\\n" % token.serial for token in tokens))
        os.fsync(records)
        die("after-record")

async def main():
    tsa = TSA(signer=Signer())
    tsa.store = Store()
    with ThreadPoolExecutor(1) as executor:
        service = tsa.service(executor, max_batch=3)
        async def one():
            answer = await service.respond(request(), "c")
            os.write(1, answer.der.hex().encode() + b"\\n")
        await asyncio.gather(*(one() for _ in range(12)))

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("where", "at"),
    [("before-record", 1), ("before-record", 3), ("after-record", 1), ("after-record", 4)]
    + [(where, at) for where in ("before-sign", "after-sign") for at in (1, 5, 12)],
)
def test_no_token_without_a_record(where, at, tmp_path):
    program = PROGRAM.format(tests=str(TESTS), source=str(TESTS.parent / "src"))
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "records", where, str(at)], capture_output=True, check=False
    )
    assert 9 == done.returncode, done.stderr.decode()
    recorded = {int(line) for line in (tmp_path / "records").read_text().split()}
    given = {serial(bytes.fromhex(line)) for line in done.stdout.decode().split()}
    assert given <= recorded
    assert len(given) < 12
    if where != "before-record":
        assert len(given) < len(recorded)


def serial(response: bytes) -> int:
    token = tsp.decode_response(response).time_stamp_token
    assert token is not None
    return tsp.decode_tst_info(cms.decode(token).content).serial
