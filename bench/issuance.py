"""What the benchmarks of issuance share: ready-made requests, lean clients, limits, processor time by process."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from bench.common import Running, bring_up, take_down
from chancery.cli import build
from chancery.cli.suite import ISSUING
from chancery.config import WorkerConfig, load_checked
from chancery.postgres.embedded import EmbeddedPostgres
from chancery.postgres.session import connect

CSRS = 1000
TBS_SIZE = 500
LIMIT_SECONDS = 2.0
VERIFICATIONS = 2000
COMMITS = 300
CLIENTS = (1, 16, 64)
WARM_SECONDS, SECONDS = 2.0, 10.0


def csrs(count: int = CSRS) -> list[bytes]:
    """Requests (DER) for distinct keys and names."""
    made = []
    for number in range(count):
        name = f"host-{number}.example.org"
        builder = x509.CertificateSigningRequestBuilder().subject_name(
            x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        )
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        made.append(
            builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)
        )
    return made


# -- clients, in a process of their own


class Client(asyncio.Protocol):
    """One connection that asks again as soon as it is answered: octets out, octets in, nothing read twice."""

    def __init__(self, load: Load, until: float) -> None:
        self._load = load
        self._until = until
        self._data = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def _ask(self) -> None:
        self._began = time.perf_counter()
        if self._began >= self._until:
            self.done.set_result(None)
            self._transport.close()
        else:
            self._transport.write(self._load.request())

    def data_received(self, data: bytes) -> None:
        self._data = self._data + data if self._data else data
        head = self._data.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self._data.find(b"content-length: ", 0, head) + 16
        if len(self._data) < head + 4 + int(self._data[at : self._data.index(b"\r", at)]):
            return
        if not self._data.startswith(b"HTTP/1.1 201 "):
            self.done.set_exception(RuntimeError(f"an answer that is not 201: {self._data[:600]!r}"))
            self._transport.close()
            return
        self._load.took.append(time.perf_counter() - self._began)
        self._data = b""
        self._ask()

    def connection_lost(self, _: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError("a connection was closed"))


class Load:
    """The clients of one process."""

    def __init__(self, order: dict[str, str]) -> None:
        self._host, self._port = order["host"], int(order["port"])
        self._context = ssl.create_default_context(cafile=order["ca"])
        self._context.load_cert_chain(order["certificate"], order["key"])
        self._sent = 0
        self._head = (
            f"POST /api/v1/certificates?profile={order['profile']}&wait=30&format=der&transaction_id=bench-"
            f"{time.time_ns()}-"
        ).encode()
        tail = f" HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/pkcs10\r\ncontent-length: "
        self._tails = [f"{tail}{len(one)}\r\n\r\n".encode() + one for one in csrs()]
        self.took: list[float] = []

    def request(self) -> bytes:
        """The next request, with a transaction id of its own."""
        self._sent += 1
        return b"%b%d%b" % (self._head, self._sent, self._tails[self._sent % CSRS])

    async def run(self, clients: int, seconds: float) -> dict[str, float]:
        """Return certificates per second, and the median and 99th percentile of an answer's time in ms."""
        loop, self.took = asyncio.get_running_loop(), []
        began = time.perf_counter()
        cpu = time.process_time()
        made = [
            await loop.create_connection(
                lambda: Client(self, began + seconds), self._host, self._port, ssl=self._context
            )
            for _ in range(clients)
        ]
        await asyncio.gather(*(client.done for _, client in made))
        elapsed = time.perf_counter() - began
        cuts = statistics.quantiles(self.took, n=100)
        return {
            "clients": clients,
            "issued": len(self.took),
            "rate": len(self.took) / elapsed,
            "p50_ms": cuts[49] * 1000,
            "p99_ms": cuts[98] * 1000,
            "client_ms": 1000 * (time.process_time() - cpu) / len(self.took),
        }


async def _answer_orders(order: dict[str, str]) -> None:
    """For each "CLIENTS SECONDS" on standard input one line of JSON."""
    load, loop = Load(order), asyncio.get_running_loop()
    print("ready", flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        clients, seconds = line.split()
        print(json.dumps(await load.run(int(clients), float(seconds))), flush=True)


def start_load(running: Running, profile: str = "tls-server") -> subprocess.Popen[str]:
    """Start the clients' process and wait until its requests are made."""
    place = running.place
    host, _, port = running.suite.ca_url.removeprefix("https://").partition(":")
    order = {
        "host": host,
        "port": port,
        "profile": profile,
        "ca": str(place.pki / "root.pem"),
        "certificate": str(place.admin / "admin.pem"),
        "key": str(place.admin / "admin.key"),
    }
    command = [sys.executable, "-m", "bench.issuance", "load", json.dumps(order)]
    clients = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert clients.stdout is not None
    clients.stdout.readline()
    return clients


def ask(clients: subprocess.Popen[str], number: int, seconds: float) -> dict[str, float]:
    """One round of the clients' process."""
    assert clients.stdin is not None
    assert clients.stdout is not None
    print(number, seconds, file=clients.stdin, flush=True)
    found: dict[str, float] = json.loads(clients.stdout.readline())
    return found


# -- limits


def _sign_for(config: str, label: str) -> None:
    """The limit's process: signatures per second of a key in the worker's token, one caller and then four."""
    token = build.token(load_checked(Path(config), WorkerConfig).token)
    signer = build.signer(token, label)
    data = b"x" * TBS_SIZE

    def sign(until: float) -> int:
        count = 0
        while time.perf_counter() < until:
            signer.sign(data)
            count += 1
        return count

    for callers in (1, 4):
        with ThreadPoolExecutor(callers) as pool:
            began, cpu = time.perf_counter(), time.process_time()
            count = sum(pool.map(sign, [began + LIMIT_SECONDS] * callers))
            print(count / (time.perf_counter() - began), (time.process_time() - cpu) / count, flush=True)
    token.close()


def token_limits(running: Running, label: str = ISSUING) -> tuple[tuple[float, float], float]:
    """Signatures per second of this key for one caller and for four, and processor seconds for one signature."""
    command = [sys.executable, "-m", "bench.issuance", "sign", str(running.place.config("worker")), label]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    (one, cpu), (four, _) = (map(float, line.split()) for line in done.stdout.splitlines())
    return (one, four), cpu


def _commit_for(database: str) -> None:
    """The other limit's process: median seconds of one durable commit in the cluster of this directory."""
    with connect(EmbeddedPostgres(Path(database)).superuser) as connection:
        took = []
        for _ in range(COMMITS):
            began = time.perf_counter()
            # A record of the write-ahead log, and nothing in a table: no role of the suite may write one.
            connection.execute("SELECT pg_logical_emit_message(true, 'bench', 'a commit')")
            took.append(time.perf_counter() - began)
    print(statistics.median(took))


def commit_seconds(running: Running) -> float:
    """Median seconds of one durable commit in the suite's PostgreSQL: a statement that only writes to its log."""
    command = [sys.executable, "-m", "bench.issuance", "commit", str(running.place.database)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def verification_seconds() -> float:
    """Processor seconds in which this machine verifies one P-256 signature, as the suite does."""
    key = ec.generate_private_key(ec.SECP256R1())
    data = b"x" * TBS_SIZE
    signature, public = key.sign(data, ec.ECDSA(hashes.SHA256())), key.public_key()
    began = time.process_time()
    for _ in range(VERIFICATIONS):
        public.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    return (time.process_time() - began) / VERIFICATIONS


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


def measured(running: Running, act: Callable[[], dict[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Run a round; return what it found and the processor milliseconds a certificate, by process."""
    before = cpu_seconds(running)
    found = act()
    used = {name: seconds - before[name] for name, seconds in cpu_seconds(running).items()}
    shares = {name: round(1000 * seconds / found["issued"], 3) for name, seconds in used.items() if seconds > 0.1}
    return found, {**shares, "client": round(found["client_ms"], 3)}


def text(shares: dict[str, float]) -> str:
    return ", ".join(f"{name} {ms:.2f}" for name, ms in shares.items())


@dataclasses.dataclass(frozen=True)
class Rounds:
    """
    What was measured at each number of clients, and beside it.

    `callers` are signatures per second of the issuer's key for one caller and for four, `commit_ms` is one durable
    commit, `shares` the processor milliseconds a certificate of each process in the best round.
    """

    rounds: list[dict[str, float]]
    callers: tuple[float, float]
    commit_ms: float
    shares: dict[str, float]

    @property
    def token(self) -> float:
        """What the token signs alone, with as many callers as serve it best."""
        return max(self.callers)

    @property
    def best(self) -> dict[str, float]:
        return max(self.rounds, key=lambda one: one["rate"])

    def more(self) -> dict[str, object]:
        """Return what stands in a result beside value and limit."""
        # How many durable commits the median answer to a lone client takes.
        lone = self.rounds[0]["p50_ms"]
        return {
            "clients": self.best["clients"],
            "p50_ms": {str(one["clients"]): round(one["p50_ms"], 1) for one in self.rounds},
            "p99_ms": {str(one["clients"]): round(one["p99_ms"], 1) for one in self.rounds},
            "token_one_caller": round(self.callers[0]),
            "token_four_callers": round(self.callers[1]),
            "commit_ms": round(self.commit_ms, 2),
            "lone_commits": round(lone / self.commit_ms, 2),
            "cpu_ms": self.shares,
        }


def rounds(running: Running, clients: subprocess.Popen[str]) -> Rounds:
    """Warm up, then measure each number of clients with the limits before it."""
    ask(clients, 8, WARM_SECONDS)
    signed, commits, done = [], [], []
    for number in CLIENTS:
        (one, four), _ = token_limits(running)
        signed.append((one, four))
        commits.append(1000 * commit_seconds(running))
        found, shares = measured(running, lambda number=number: ask(clients, number, SECONDS))
        print(
            f"{number:>3} clients: {found['rate']:,.0f} certificates/s, p50 {found['p50_ms']:.1f} ms,"
            f" p99 {found['p99_ms']:.1f} ms; CPU ms a certificate: {text(shares)}",
            f"    the token alone: {one:,.0f} signatures/s for one caller, {four:,.0f}/s for four;"
            f" a durable commit {commits[-1]:.2f} ms",
            sep="\n",
            flush=True,
        )
        done.append((found, shares))
    one, four = (statistics.median(callers) for callers in zip(*signed, strict=True))
    _, shares = max(done, key=lambda each: each[0]["rate"])
    return Rounds([found for found, _ in done], (one, four), statistics.median(commits), shares)


def run_rounds(**settings: object) -> Rounds:
    """Bring a suite with these settings up in a directory of its own, measure it, and take it down."""
    running = bring_up(**settings)
    try:
        with start_load(running) as clients:
            found = rounds(running, clients)
            assert clients.stdin is not None
            clients.stdin.close()
    finally:
        take_down(running)
    return found


if __name__ == "__main__":
    if sys.argv[1] == "load":
        uvloop.run(_answer_orders(json.loads(sys.argv[2])))
    elif sys.argv[1] == "commit":
        _commit_for(sys.argv[2])
    else:
        _sign_for(*sys.argv[2:])
