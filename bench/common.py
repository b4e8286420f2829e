"""What the benchmarks share: processors, wrk, nginx, a suite with certificates in it, and the last line."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from suite import Running, bring_up, free_ports, take_down  # the tests' way to a running suite

_cores = os.sched_getaffinity(0)
# In the environment, because a process that was started by a pinned one sees no other core.
SERVER_CORE, LOAD_CORE = map(int, os.environ.setdefault("BENCH_CORES", f"{min(_cores)} {max(_cores)}").split())


def machine() -> str:
    """What this ran on."""
    cpu = next(
        (line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ": unknown"
    )
    return f"{os.cpu_count()} x {cpu.partition(':')[2].strip()}, Python {platform.python_version()}"


def result(
    name: str, value: float, unit: str, limit: float, limit_what: str, *, durable: bool, **more: object
) -> str:
    """Return the last line of a benchmark: one JSON object with the value, its limit and their ratio."""
    found = {
        "name": name,
        "value": round(value, 1),
        "unit": unit,
        "limit": round(limit, 1),
        "limit_what": limit_what,
        "ratio": round(value / limit, 4),
        "durable": durable,
        "machine": machine(),
        **more,
    }
    return json.dumps(found)


def need(*programs: str) -> None:
    """Stop unless these programs are there."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    if missing := [one for one in programs if shutil.which(one, path=path) is None]:
        raise SystemExit(f"this needs {', '.join(missing)}; scripts/prepare test installs what is missing")


def pin(core: int, pid: int = 0) -> None:
    """Keep a process, every thread and every child of it, on one core."""
    os.sched_setaffinity(pid, {core})
    for thread in Path(f"/proc/{pid or os.getpid()}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), {core})
            for child in (thread / "children").read_text().split():
                pin(core, int(child))


def processor_seconds(pid: int) -> float:
    """Processor time that one process has used, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# -- load

_LUA = """
local head = "%s"
local blob = io.open("%s", "rb"):read("*a")
local size, count, turn = %d, %d, 0
request = function()
    local at = (turn %% count) * size
    turn = turn + 1
    return head .. blob:sub(at + 1, at + size)
end
done = function(summary, latency)
    local bad = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout
    io.write(string.format("RESULT %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration, bad,
        latency:percentile(50), latency:percentile(99)))
end
"""


@dataclasses.dataclass(frozen=True)
class Round:
    """What one run of wrk counted."""

    rate: float
    requests: int
    p50_ms: float
    p99_ms: float


def script(folder: Path, head: str, bodies: Sequence[bytes]) -> Path:
    """
    Write a wrk script that sends these requests in turn; `head` is what stands before each body.

    The bodies are of one length, which `head` names in Content-Length. An empty `head` sends bodies alone.
    """
    (size,) = {len(body) for body in bodies}
    blob, file = folder / "requests", folder / "wrk.lua"
    blob.write_bytes(b"".join(bodies))
    quoted = head.replace('"', '\\"').replace("\r\n", "\\r\\n")
    file.write_text(_LUA % (quoted, blob, size, len(bodies)))
    return file


def _wrk(port: int, lua: Path, seconds: float, connections: int) -> tuple[int, ...]:
    """Run wrk with one thread on this process's cores; return what its script counted."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(lua), f"http://127.0.0.1:{port}/"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    return tuple(map(int, line.split()[1:]))


def load(port: int, lua: Path, seconds: float, connections: int) -> Round:
    """Run wrk with one thread on this process's cores. SystemExit when a request failed."""
    requests, micros, bad, p50, p99 = _wrk(port, lua, seconds, connections)
    if bad:
        raise SystemExit(f"{bad} requests failed")
    return Round(requests / (micros / 1e6), requests, p50 / 1000, p99 / 1000)


def flood(port: int, lua: Path, seconds: float, connections: int) -> tuple[float, float, float]:
    """Offer more than can be done; return granted and refused requests a second, and p99 of all in ms."""
    requests, micros, bad, _, p99 = _wrk(port, lua, seconds, connections)
    return (requests - bad) * 1e6 / micros, bad * 1e6 / micros, p99 / 1000


def median(rounds: Sequence[Round], field: str) -> float:
    return statistics.median(getattr(one, field) for one in rounds)


# -- nginx

_NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {cache}
    server {{
        listen 127.0.0.1:{port} reuseport;
        {server}
    }}
}}
"""


@contextlib.contextmanager
def nginx(folder: Path, server: str, cache: str = "") -> Iterator[int]:
    """Run nginx with one worker on the server's core while the block lasts; gives its port."""
    (port,) = free_ports(1)
    folder.mkdir(mode=0o755)
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, port=port, server=server, cache=cache))
    command = [shutil.which("nginx", path="/usr/sbin:/usr/bin"), "-c", folder / "nginx.conf"]
    process = subprocess.Popen([*command, "-e", folder / "error.log"])
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"http://127.0.0.1:{port}/", trust_env=False)
                break
            time.sleep(0.05)
        pin(SERVER_CORE, process.pid)
        yield port
    finally:
        process.terminate()
        process.wait(10)


# -- the suite


@contextlib.contextmanager
def suite() -> Iterator[Running]:
    """Bring a suite up in a directory of its own, and take it down again."""
    running = bring_up()
    try:
        yield running
    finally:
        take_down(running)


def spread(running: Running, server: str) -> int:
    """Put one process of the suite on the server's core and everything else on the other; return its pid."""
    pin(LOAD_CORE, running.supervisor_pid())
    for pid in running.processes().values():
        pin(LOAD_CORE, pid)
    pid = running.processes()[server]
    pin(SERVER_CORE, pid)
    return pid


def issue(running: Running, count: int) -> list[x509.Certificate]:
    """Have certificates issued over REST, as the administrator."""
    place = running.place
    verify = httpx.create_ssl_context(str(place.pki / "root.pem"))
    verify.load_cert_chain(str(place.admin / "admin.pem"), str(place.admin / "admin.key"))
    made = []
    key = ec.generate_private_key(ec.SECP256R1())
    with httpx.Client(base_url=running.suite.ca_url, verify=verify, trust_env=False, timeout=60) as client:
        for number in range(count):
            name = f"host-{number}.example.org"
            builder = x509.CertificateSigningRequestBuilder(
                x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
            ).add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            csr = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
            wanted: Mapping[str, str] = {"profile": "tls-server", "wait": "30", "format": "der"}
            headers = {"content-type": "application/pkcs10"}
            answer = client.post("/api/v1/certificates", params=wanted, content=csr, headers=headers)
            if answer.status_code != 201:
                raise SystemExit(f"a certificate was not issued: {answer.status_code} {answer.text[:300]}")
            made.append(x509.load_der_x509_certificate(answer.content))
    return made
