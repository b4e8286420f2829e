"""Truncated, oversized, deeply nested and random bytes to every port: typed answers, no traceback, still alive."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import ssl

import pytest
from cryptography import x509
from cryptography.x509 import ocsp

from suite import run

pytestmark = [pytest.mark.suite]

NESTED = b"\x30\x80" * 2000
DEEP = b"".join(b"\x30\x82" + (4 * (500 - n)).to_bytes(2, "big") for n in range(500))
RANDOM = random.Random(20261124).randbytes(3000)
BODIES = {
    "empty": b"",
    "random": RANDOM,
    "indefinite": NESTED,
    "deep": DEEP,
    "text": b"hello",
    "oversized": b"\x30" * 2_000_000,
}


def exchange(host: str, port: int, data: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """Send bytes, half-close, and read to the end."""
    received = b""
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(socket.create_connection((host, port), timeout=30))
        if context is not None:
            one = stack.enter_context(context.wrap_socket(one, server_hostname="localhost"))
        with contextlib.suppress(OSError):
            one.sendall(data)
            if context is None:
                one.shutdown(socket.SHUT_WR)
            while chunk := one.recv(65536):
                received += chunk
    return received


def post(running, server: str, body: bytes, content_type: str) -> tuple[int, bytes]:
    url = {"ocsp": f"{running.suite.ocsp_url}/ocsp", "tsa": running.suite.tsa_url}[server]
    sent = running.work / "bad-body"
    sent.write_bytes(body)
    done = run("curl", "-sS", "-w", "\n%{http_code}", "-H", f"Content-Type: {content_type}", "-H", "Expect:",
               "--data-binary", f"@{sent}", url, check=False)  # fmt: skip
    answer, _, code = done.stdout.rpartition(b"\n")
    return int(code), answer


def no_leak(answer: bytes) -> None:
    for word in (b"Traceback", b".py", b"psycopg", b"site-packages", b"PKIError"):
        assert word not in answer


@pytest.mark.parametrize("name", BODIES)
def test_ocsp_answers_malformed_request(running, name):
    code, answer = post(running, "ocsp", BODIES[name], "application/ocsp-request")
    no_leak(answer)
    if name == "oversized":
        assert 413 == code
        return
    assert 200 == code
    assert ocsp.OCSPResponseStatus.MALFORMED_REQUEST is ocsp.load_der_ocsp_response(answer).response_status


@pytest.mark.parametrize("name", BODIES)
def test_the_tsa_rejects_with_bad_data_format(running, name):
    code, answer = post(running, "tsa", BODIES[name], "application/timestamp-query")
    no_leak(answer)
    if name == "oversized":
        assert 413 == code
        return
    assert 200 == code
    reply = running.work / "bad.tsr"
    reply.write_bytes(answer)
    text = run("openssl", "ts", "-reply", "-in", reply, "-text").stdout.decode()
    assert "Status: Rejected." in text
    assert "unsupported or incorrectly formatted" in text or "data submitted has the wrong format" in text


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("content_type", ["application/json", "application/pkcs10"])
def test_the_ca_answers_with_a_problem(running, name, content_type):
    sent = running.work / "bad-body"
    sent.write_bytes(BODIES[name])
    done = run(
        "curl", "-sS", "-w", "\n%{http_code} %{content_type}", "--cacert", running.pki / "root.pem",
        "--cert", running.place.admin / "admin.pem", "--key", running.place.admin / "admin.key", "-H", "Expect:",
        "-H", f"Content-Type: {content_type}", "--data-binary", f"@{sent}",
        f"{running.suite.ca_url}/api/v1/certificates?profile=tls-server", check=False,
    )  # fmt: skip
    answer, _, last = done.stdout.rpartition(b"\n")
    no_leak(answer)
    code, kind = last.decode().split(" ")
    assert code in {"400", "413", "422"}
    assert "application/problem+json" == kind
    assert json.loads(answer)["status"] == int(code)


def test_a_csr_whose_signature_is_wrong_is_bad_pop(running):
    csr = x509.load_pem_x509_csr(running.csr("pop.example.org").read_bytes())
    from cryptography.hazmat.primitives.serialization import Encoding

    der = bytearray(csr.public_bytes(Encoding.DER))
    der[-1] ^= 1
    bad = running.work / "pop.csr"
    bad.write_bytes(der)
    done = running.chancery("request", "--profile", "tls-server", "--csr", bad, check=False)
    assert 1 == done.returncode
    assert b"badPOP" in done.stderr


RAW = [
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x16\x03\x01\x00\x05hello",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
    b"POST /ocsp HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    b"POST /ocsp HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST /tsa HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
    RANDOM,
    b"",
]


@pytest.mark.parametrize("number", range(len(RAW)))
@pytest.mark.parametrize("server", ["ca", "ocsp", "tsa"])
def test_what_is_not_http_ends_the_connection_only(running, server, number):
    suite = running.suite
    port = {"ca": suite.ca_port, "ocsp": suite.ocsp_port, "tsa": suite.tsa_port}[server]
    context = None
    if server == "ca":
        context = ssl.create_default_context(cafile=str(running.pki / "root.pem"))
    answer = exchange("127.0.0.1", port, RAW[number], context)
    no_leak(answer)
    assert answer == b"" or answer.startswith(b"HTTP/1.")
    if answer:
        assert answer[9:10] == b"4"


def test_every_process_is_alive_afterwards_and_none_was_restarted(running):
    state = json.loads((running.place.run / "supervisor.json").read_bytes())
    assert {0} == {one["restarts"] for one in state["processes"].values()}
    running.chancery("status", "--state", running.state)
    pem = running.issue("still-alive.example.org")
    assert "still-alive.example.org.pem: good" in running.ocsp(pem)
