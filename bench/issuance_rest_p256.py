"""
Certificates per second through the whole suite: CSR in over REST with mutual TLS, certificate out.

The processes are those of `chancery up`: PostgreSQL with its commits on disk, the worker with its key in SoftHSM2,
the web process. The CSRs are ready-made, each request has a transaction id of its own, and an answer counts only
when it is 201, which is after the final commit. The limit is what the same key in the same token signs by itself,
measured between the rounds with the suite idle.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from bench import common
from bench.common import Running, bring_up, take_down
from chancery.cli import build
from chancery.cli.suite import ISSUING
from chancery.config import WorkerConfig, load_checked

CLIENTS = (1, 16, 64)
WARM_SECONDS, SECONDS, LIMIT_SECONDS = 2.0, 10.0, 2.0
CSRS = 1000
TBS_SIZE = 500


def csrs() -> list[bytes]:
    """Requests (DER) for distinct keys and names."""
    made = []
    for number in range(CSRS):
        name = f"host-{number}.example.org"
        builder = x509.CertificateSigningRequestBuilder().subject_name(
            x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        )
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        made.append(
            builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)
        )
    return made


class Load:
    """Clients of one process: each has one connection and asks again as soon as it is answered."""

    def __init__(self, order: dict[str, str]) -> None:
        self._host, self._port = order["host"], int(order["port"])
        self._context = ssl.create_default_context(cafile=order["ca"])
        self._context.load_cert_chain(order["certificate"], order["key"])
        self._csrs = csrs()
        self._sent = 0

    def _request(self) -> bytes:
        body = self._csrs[self._sent % CSRS]
        self._sent += 1
        transaction = f"bench-{time.time_ns()}-{self._sent}"
        path = f"/api/v1/certificates?profile=tls-server&wait=30&format=der&transaction_id={transaction}"
        head = f"POST {path} HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/pkcs10\r\n"
        return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body

    async def _client(self, until: float, took: list[float]) -> None:
        reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._context)
        while (began := time.perf_counter()) < until:
            writer.write(self._request())
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            body = await reader.readexactly(size)
            if not head.startswith(b"HTTP/1.1 201 "):
                raise SystemExit(f"an answer that is not 201: {head[:200]!r} {body[:300]!r}")
            took.append(time.perf_counter() - began)
        writer.close()

    async def run(self, clients: int, seconds: float) -> dict[str, float]:
        """Return certificates per second, and the median and 99th percentile of an answer's time in ms."""
        took: list[float] = []
        began = time.perf_counter()
        await asyncio.gather(*(self._client(began + seconds, took) for _ in range(clients)))
        elapsed = time.perf_counter() - began
        cuts = statistics.quantiles(took, n=100)
        return {
            "clients": clients,
            "issued": len(took),
            "rate": len(took) / elapsed,
            "p50_ms": cuts[49] * 1000,
            "p99_ms": cuts[98] * 1000,
        }


async def answer_orders(order: dict[str, str]) -> None:
    """The clients' process: for each "CLIENTS SECONDS" on standard input one line of JSON."""
    load, loop = Load(order), asyncio.get_running_loop()
    print("ready", flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        clients, seconds = line.split()
        print(json.dumps(await load.run(int(clients), float(seconds))), flush=True)


def sign_for(config: str) -> None:
    """The limit's process: signatures per second of the issuing key, one caller and then four."""
    token = build.token(load_checked(Path(config), WorkerConfig).token)
    signer = build.signer(token, ISSUING)
    data = b"x" * TBS_SIZE

    def sign(until: float) -> int:
        count = 0
        while time.perf_counter() < until:
            signer.sign(data)
            count += 1
        return count

    for callers in (1, 4):
        with ThreadPoolExecutor(callers) as pool:
            began = time.perf_counter()
            count = sum(pool.map(sign, [began + LIMIT_SECONDS] * callers))
            print(count / (time.perf_counter() - began), flush=True)
    token.close()


def limits(running: Running) -> list[float]:
    command = [sys.executable, "-m", "bench.issuance_rest_p256", "sign", str(running.place.config("worker"))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(line) for line in done.stdout.split()]


def cpu_seconds(running: Running) -> dict[str, float]:
    """CPU time that each process of the suite has used, with its children."""
    tick = os.sysconf("SC_CLK_TCK")
    used: dict[int, tuple[int, float]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            used[int(stat.parent.name)] = (int(fields[1]), sum(map(int, fields[11:15])) / tick)

    def whole(pid: int) -> float:
        return used.get(pid, (0, 0.0))[1] + sum(whole(one) for one, (parent, _) in used.items() if parent == pid)

    return {name: whole(pid) for name, pid in running.processes().items()}


def ask(clients: subprocess.Popen[str], number: int, seconds: float) -> dict[str, float]:
    """One round of the clients' process."""
    assert clients.stdin is not None
    assert clients.stdout is not None
    print(number, seconds, file=clients.stdin, flush=True)
    found: dict[str, float] = json.loads(clients.stdout.readline())
    return found


def measure(running: Running, clients: subprocess.Popen[str]) -> str:
    """Warm up, measure each number of clients with the limit before it, and put the result together."""
    ask(clients, 8, WARM_SECONDS)
    signed, rounds = [], []
    for number in CLIENTS:
        one, four = limits(running)
        signed.append((one, four))
        before = cpu_seconds(running)
        found = ask(clients, number, SECONDS)
        used = {name: seconds - before[name] for name, seconds in cpu_seconds(running).items()}
        shares = ", ".join(
            f"{name} {1000 * seconds / found['issued']:.2f}" for name, seconds in used.items() if seconds > 0.1
        )
        print(
            f"{number:>3} clients: {found['rate']:,.0f} certificates/s, p50 {found['p50_ms']:.1f} ms,"
            f" p99 {found['p99_ms']:.1f} ms; CPU ms a certificate: {shares}",
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


def load(running: Running) -> subprocess.Popen[str]:
    """Start the clients' process and wait until its requests are made."""
    place = running.place
    host, _, port = running.suite.ca_url.removeprefix("https://").partition(":")
    order = {
        "host": host,
        "port": port,
        "ca": str(place.pki / "root.pem"),
        "certificate": str(place.admin / "admin.pem"),
        "key": str(place.admin / "admin.key"),
    }
    command = [sys.executable, "-m", "bench.issuance_rest_p256", "load", json.dumps(order)]
    clients = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert clients.stdout is not None
    clients.stdout.readline()
    return clients


def main() -> None:
    """Bring a suite up in a directory of its own, measure it, and print one JSON object as the last line."""
    running = bring_up()
    try:
        with load(running) as clients:
            found = measure(running, clients)
            assert clients.stdin is not None
            clients.stdin.close()
    finally:
        take_down(running)
    print(found)


if __name__ == "__main__":
    if sys.argv[1:2] == ["load"]:
        uvloop.run(answer_orders(json.loads(sys.argv[2])))
    elif sys.argv[1:2] == ["sign"]:
        sign_for(sys.argv[2])
    else:
        main()
