"""
Freshly signed OCSP answers per second over HTTP: a nonce in every request, a P-256 delegate key in SoftHSM2.

The responder is the one that `chancery up` runs, with PostgreSQL behind it, and has core 0 to itself; wrk and the
rest of the suite share core 1. The limit is what the same key in the same token signs on core 0 for one caller,
measured between the rounds with the suite idle.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from bench import common
from chancery.cli import build
from chancery.config import OCSPConfig, load_checked

CERTIFICATES, NONCES, ROUNDS, SECONDS, LIMIT_SECONDS, CONNECTIONS = 40, 20_000, 4, 5, 2.0, 128
TBS_SIZE = 230


def requests(issuer: x509.Certificate, certificates: list[x509.Certificate]) -> list[bytes]:
    """OCSPRequests (DER), each with a nonce of its own, about all certificates in turn."""
    sha1 = SHA1()  # noqa: S303 - what clients send
    builders = [ocsp.OCSPRequestBuilder().add_certificate(one, issuer, sha1) for one in certificates]
    return [
        builders[number % len(builders)]
        .add_extension(x509.OCSPNonce(os.urandom(32)), critical=False)
        .build()
        .public_bytes(Encoding.DER)
        for number in range(NONCES)
    ]


def head(bodies: list[bytes]) -> str:
    """What stands before each of these bodies, which are of one length."""
    fields = "Host: localhost\r\nContent-Type: application/ocsp-request\r\n"
    return f"POST /ocsp HTTP/1.1\r\n{fields}Content-Length: {len(bodies[0])}\r\n\r\n"


def check(url: str, request: bytes) -> None:
    """One answer is good and carries the nonce."""
    headers = {"Content-Type": "application/ocsp-request"}
    answer = httpx.post(f"{url}/ocsp", content=request, headers=headers, trust_env=False)
    found = ocsp.load_der_ocsp_response(answer.content)
    asked = ocsp.load_der_ocsp_request(request)
    nonces = [one.extensions.get_extension_for_class(x509.OCSPNonce).value for one in (asked, found)]
    if nonces[0] != nonces[1] or found.certificate_status is not ocsp.OCSPCertStatus.GOOD:
        raise SystemExit("the answer is not what was asked for")


def sign_for(config: str) -> None:
    """The limit's process: signatures per second of the delegate key, and the processor seconds of one."""
    common.pin(common.SERVER_CORE)
    found = load_checked(Path(config), OCSPConfig)
    token = build.token(found.token)
    signer = build.signer(token, found.delegates[0].key_label)
    data, count = b"x" * TBS_SIZE, 0
    began, used = time.perf_counter(), time.process_time()
    while time.perf_counter() < began + LIMIT_SECONDS:
        signer.sign(data)
        count += 1
    print(count / (time.perf_counter() - began), (time.process_time() - used) / count)
    token.close()


def limit(config: Path) -> tuple[float, float]:
    """Return signatures per second of the token, and the processor seconds of one."""
    command = [sys.executable, "-m", "bench.ocsp_fresh_p256", str(config)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    rate, processor = done.stdout.split()
    return float(rate), float(processor)


def measure(port: int, pid: int, config: Path, lua: Path) -> str:
    """Interleave the limit and the responder, and return the last line."""
    common.load(port, lua, 1, CONNECTIONS)
    limits, rounds, processor = [], [], []
    for number in range(ROUNDS):
        limits.append(limit(config))
        used = common.processor_seconds(pid)
        rounds.append(common.load(port, lua, SECONDS, CONNECTIONS))
        processor.append((common.processor_seconds(pid) - used) / rounds[-1].requests)
        words = f"{rounds[-1].rate:,.0f} answers/s, the token alone {limits[-1][0]:,.0f} signatures/s"
        print(f"round {number + 1}: {words}", flush=True)
    return common.result(
        "ocsp-fresh-p256",
        common.median(rounds, "rate"),
        "answers/s",
        statistics.median(rate for rate, _ in limits),
        "P-256 signatures/s of the same key in the same token on the same core, one caller, the suite idle",
        durable=True,
        processor_us=round(statistics.median(processor) * 1e6, 1),
        limit_processor_us=round(statistics.median(one for _, one in limits) * 1e6, 1),
        p50_ms=round(common.median(rounds, "p50_ms"), 1),
        p99_ms=round(common.median(rounds, "p99_ms"), 1),
    )


def main() -> None:
    """Bring everything up, measure, and print one JSON object as the last line."""
    common.need("wrk")
    common.pin(common.LOAD_CORE)
    with common.suite() as running, tempfile.TemporaryDirectory() as name:
        issuer = x509.load_pem_x509_certificate((running.pki / "issuing.pem").read_bytes())
        bodies = requests(issuer, common.issue(running, CERTIFICATES))
        check(running.suite.ocsp_url, bodies[0])
        lua = common.script(Path(name), head(bodies), bodies)
        pid = common.spread(running, "ocsp")
        last = measure(running.suite.ocsp_port, pid, running.place.config("ocsp"), lua)
    print(last)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sign_for(sys.argv[1])
    else:
        main()
