"""
What the timestamping benchmarks share: a server in a process of its own, its key in SoftHSM2, its records durable.

The server runs on core 0; the clients (wrk) and PostgreSQL share core 1. The limit is what the same key in the
same token signs on core 0 with nothing around it, measured between the rounds by the same process.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from bench import common
from chancery.asn1 import tsp
from chancery.asn1.signature import KeySigner
from chancery.cli.clock import SystemClock, SystemEntropy
from chancery.pkcs11.open import TokenSettings, open_token
from chancery.pkcs11.softhsm import find_softhsm_module, prepare_softhsm
from chancery.postgres.session import AsyncPool, Connection, connect
from chancery.postgres.timestamps import PgTimestampStore
from chancery.tsa import verification
from chancery.tsa.policy import AuthoritySettings, Policy
from chancery.tsa.timekeeping import Measurement
from chancery.tsa.unit import UnitPlan
from chancery.web.hot import SWITCH_SECONDS, serve
from chancery.web.tsp import LIMITS, TSAService

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from pg import password, temporary_postgres  # the tests' server

ROUNDS, SECONDS, LIMIT_SECONDS, CONNECTIONS = 4, 5, 1.5, 192
CLIENTS, LATENCY_SECONDS = (1, 16, 64), 2
PIN = b"bench-pin"
POLICY = "1.3.6.1.4.1.99999.1.1"


class Vouched:
    """A benchmark's machine need not be synchronised; everything else of the clock guard runs as always."""

    def measure(self) -> Measurement:
        return Measurement(synchronised=True, offset_s=0.0, uncertainty_s=0.001, source="bench", independent=True)


def timestamping_certificate(key) -> bytes:
    """A certificate as a timestamping profile would make it, issued by a key made up on the spot."""
    now = datetime.datetime.now(datetime.UTC)  # noqa: TID251 - a benchmark
    issuer_key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Bench TSA")])
    builder = x509.CertificateBuilder(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Bench CA")]),
        name,
        key.public_key(),
        x509.random_serial_number(),
        now - datetime.timedelta(days=1),
        now + datetime.timedelta(days=1),
    )
    usage = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.TIME_STAMPING])
    return builder.add_extension(usage, critical=True).sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.DER)


def sign_rate(signer: KeySigner, seconds: float) -> tuple[float, float]:
    """Signatures per second of one caller, and the seconds of processor that one took."""
    count, began, processor = 0, time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - began) < seconds:
        for _ in range(200):
            signer.sign(b"x" * 200)
        count += 200
    return count / elapsed, (time.process_time() - processor) / count


async def run_server(order: dict) -> None:
    """Serve until standard input ends; `limit` there is answered with the token's rate, `cpu` with time used."""
    settings = TokenSettings(
        module=order["module"], label="bench", pin=lambda: PIN, softhsm_conf=order["conf"], max_sessions=8
    )
    signer = KeySigner(open_token(settings).find_key("tsa"))
    pool = AsyncPool(
        Connection(**order["database"], user="chancery_tsa", password=lambda: password("chancery_tsa")), size=2
    )
    await pool.open()
    service = TSAService(
        store=PgTimestampStore(pool),
        units=[
            UnitPlan(
                AuthoritySettings(1, (Policy(POLICY),)), lambda: [signer], [bytes.fromhex(order["certificate"])]
            )
        ],
        clock=SystemClock(),
        source=Vouched(),
        entropy=SystemEntropy(),
        report=lambda event, detail: print(event, detail, file=sys.stderr),
        threads=1,
        max_pending=order["max_pending"],
    )
    await service.start()
    server = await serve(service.handler, "127.0.0.1", 0, limits=LIMITS, on_error=service.on_error)
    print(server.port, flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        if line.strip() == "limit":
            print(*await loop.run_in_executor(None, sign_rate, signer, LIMIT_SECONDS), flush=True)
        else:
            print(time.process_time(), flush=True)
    await server.close()
    await service.close()
    await pool.close()


def check(port: int, digest: bytes) -> None:
    """One answer of this server is a token over what was asked, signed by the certificate inside."""
    query = tsp.encode_request(tsp.DIGEST_OIDS["sha256"], digest, nonce=7)
    done = subprocess.run(
        ["curl", "-sSf", "-H", "Content-Type: application/timestamp-query", "--data-binary", "@-",
         f"http://127.0.0.1:{port}/tsa"],
        input=query, check=True, capture_output=True,
    )  # fmt: skip
    token = verification.granted_token(done.stdout)
    verification.verify(token, digests={tsp.DIGEST_OIDS["sha256"]: digest}, query=query)


@dataclasses.dataclass(frozen=True)
class Bench:
    """A server under measurement: `script` for wrk, and how many tokens are recorded."""

    server: subprocess.Popen
    port: int
    script: Path
    database: Connection

    def ask(self, what: str) -> list[float]:
        """Give the server an order and return its answer."""
        print(what, file=self.server.stdin, flush=True)
        return [float(word) for word in self.server.stdout.readline().split()]

    def tokens(self) -> int:
        with connect(self.database) as connection:
            return connection.execute("SELECT count(*) FROM chancery.tsa_token").fetchone()[0]

    def flood(self, connections: int, seconds: float) -> tuple[float, float, float]:
        """Offer more than can be done; return granted and refused requests a second, and p99 of all in ms."""
        return common.flood(self.port, self.script, seconds, connections)


@contextlib.contextmanager
def running(kind: str, *, max_pending: int = 2048) -> Iterator[Bench]:
    """Set token (with a key of this kind), database and server up; one answer has been checked."""
    common.pin(common.LOAD_CORE)
    common.need("wrk", "curl")
    module = find_softhsm_module()
    if module is None:
        raise SystemExit("this needs softhsm2; scripts/prepare test installs it")
    digest = hashlib.sha256(b"document").digest()
    query = tsp.encode_request(tsp.DIGEST_OIDS["sha256"], digest, nonce=2**62, cert_req=False)
    with (
        tempfile.TemporaryDirectory() as name,
        temporary_postgres(settings={}) as postgres,
        postgres.database() as db,
    ):
        folder = Path(name)
        conf = prepare_softhsm(folder / "token", "bench", b"bench-so-pin", PIN, library=module)
        settings = TokenSettings(module=module, label="bench", pin=lambda: PIN, softhsm_conf=str(conf))
        with open_token(settings) as token:
            certificate = timestamping_certificate(token.generate_key("tsa", kind))
        head = "POST /tsa HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/timestamp-query\r\n"
        lua = common.script(folder, f"{head}Content-Length: {len(query)}\r\n\r\n", [query])
        role = db.role("tsa")
        order = {
            "module": module,
            "conf": str(conf),
            "certificate": certificate.hex(),
            "database": {"host": role.host, "port": role.port, "database": role.database},
            "max_pending": max_pending,
        }
        server = subprocess.Popen(
            [sys.executable, "-m", "bench.tsa", json.dumps(order)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            port = int(server.stdout.readline())
            check(port, digest)
            yield Bench(server, port, lua, db.superuser)
        finally:
            server.stdin.close()
            server.wait(30)


@dataclasses.dataclass(frozen=True)
class Figures:
    """Medians of the rounds: tokens a second, what the token alone signs, and what stands beside them."""

    rate: float
    limit: float
    more: dict[str, object]


def measure(bench: Bench) -> Figures:
    """Interleave the limit and the server, and put the medians together, those in processor time beside."""
    common.load(bench.port, bench.script, 1, CONNECTIONS)
    limits, rounds, processors = [], [], []
    for number in range(ROUNDS):
        limits.append(bench.ask("limit"))
        before, [used] = bench.tokens(), bench.ask("cpu")
        rounds.append(common.load(bench.port, bench.script, SECONDS, CONNECTIONS))
        used, recorded = bench.ask("cpu")[0] - used, bench.tokens() - before
        if recorded < rounds[-1].requests:
            raise SystemExit(f"{rounds[-1].requests} answers, {recorded} records")
        processors.append(used / recorded)
        words = f"{rounds[-1].rate:,.0f} tokens/s, the token alone {limits[-1][0]:,.0f}/s"
        print(f"round {number + 1}: {words}", flush=True)
    processor, of_token = statistics.median(processors), statistics.median(one[1] for one in limits)
    few = {clients: common.load(bench.port, bench.script, LATENCY_SECONDS, clients) for clients in CLIENTS}
    more = {
        "processor_us": round(processor * 1e6, 1),
        "limit_processor_us": round(of_token * 1e6, 1),
        "processor_ratio": round(of_token / processor, 3),
        "p50_ms": round(common.median(rounds, "p50_ms"), 1),
        "p99_ms": round(common.median(rounds, "p99_ms"), 1),
        **{f"p50_ms_{clients}": round(one.p50_ms, 1) for clients, one in few.items()},
        **{f"p99_ms_{clients}": round(one.p99_ms, 1) for clients, one in few.items()},
    }
    return Figures(common.median(rounds, "rate"), statistics.median(one[0] for one in limits), more)


if __name__ == "__main__":
    common.pin(common.SERVER_CORE)
    sys.setswitchinterval(SWITCH_SECONDS)
    uvloop.run(run_server(json.loads(sys.argv[1])))
