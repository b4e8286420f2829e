"""The real server on loopback, asked by curl and by hand: mutual TLS, limits, reload."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from chancery.errors import OperatorError
from chancery.ports import Role
from chancery.web import protocol, server
from chancery.web.server import CertificateReload, Limits, TLSFiles, serve_api, server_context
from fakes import START
from unit.web.served import Served, serving
from unit.web.world import YEAR, csr_pem, make_certificate


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("served")) as found:
        found.enrol("olga", Role.OFFICER)
        yield found


def _curl(served: Served, path: str, *options: str, who: str | None = "olga") -> subprocess.CompletedProcess[str]:
    identity = (
        []
        if who is None
        else ["--cert", str(served.directory / f"{who}.pem"), "--key", str(served.directory / f"{who}.key")]
    )
    command = ["curl", "-sS", "--max-time", "20", "--cacert", str(served.root), *identity, *options]
    return subprocess.run(
        [*command, "-w", "\n%{http_code}", f"{served.url}{path}"], capture_output=True, text=True, check=False
    )


def _answer(done: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    assert 0 == done.returncode, done.stderr
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


def test_a_certificate_for_a_csr_made_by_openssl(served, tmp_path):
    csr = tmp_path / "www.csr"
    subprocess.run(
        [
            *("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", str(tmp_path / "www.key"), "-out", str(csr), "-subj", "/CN=www.example.org"),
        ],
        check=True,
        capture_output=True,
    )
    options = ["--data-binary", f"@{csr}", "-H", "Content-Type: application/pkcs10"]
    status, body = _answer(_curl(served, "/api/v1/certificates?profile=tls-server&format=pem", *options))
    assert 201 == status
    file = tmp_path / "www.pem"
    file.write_text(body)
    verify = ["openssl", "verify", "-CAfile", str(served.root), "-untrusted", str(served.issuing), str(file)]
    assert 0 == subprocess.run(verify, capture_output=True, check=False).returncode


def test_without_a_certificate_there_is_a_401(served):
    status, body = _answer(_curl(served, "/api/v1/me", who=None))
    assert (401, "Not authenticated") == (status, json.loads(body)["title"])
    assert (200, "ok") == (
        (done := _answer(_curl(served, "/healthz", who=None)))[0],
        json.loads(done[1])["status"],
    )


def test_a_certificate_of_our_ca_that_is_no_operators_is_a_401(served):
    served.pair("nobody", make_certificate("nobody", "issuing", serial=55))
    assert 401 == _answer(_curl(served, "/api/v1/me", who="nobody"))[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_certificate("foreign", "elsewhere", serial=1),
        lambda: make_certificate("foreign", "foreign", serial=2),
        lambda: make_certificate("foreign", "issuing", serial=3, usage=ExtendedKeyUsageOID.SERVER_AUTH),
        lambda: make_certificate("foreign", "issuing", serial=4, start=START - 30 * YEAR),
    ],
    ids=["another CA", "self-signed", "a server's", "expired"],
)
def test_a_certificate_that_does_not_verify_is_refused_and_journalled_r27(served, make):
    served.pair("foreign", make())
    served.world.memory.events.clear()
    served.world.clock.advance(60)
    done = _curl(served, "/api/v1/me", who="foreign")
    assert (0, "000") != (done.returncode, done.stdout.strip())
    assert done.returncode in {35, 52, 55, 56}
    deadline = time.monotonic() + 10
    while "login.refused" not in served.world.memory.kinds() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "login.refused" in served.world.memory.kinds()


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_tls_1_2_and_1_3_are_spoken(served, version):
    done = _curl(served, "/api/v1/me", f"--tlsv{version}", "--tls-max", version)
    assert 200 == _answer(done)[0]


def test_tls_1_1_is_not(served):
    done = _curl(served, "/healthz", "--tlsv1.0", "--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0", who=None)
    assert 0 != done.returncode


def test_one_connection_is_one_login(served):
    served.world.memory.events.clear()
    done = _curl(served, "/api/v1/me", f"{served.url}/api/v1/me", f"{served.url}/api/v1/issuers")
    assert 0 == done.returncode
    assert ["login.accepted"] == served.world.memory.kinds()


def test_an_oversized_body_is_answered(served, tmp_path):
    for size in (300_000, 700_000, 5_000_000):
        file = tmp_path / "big"
        file.write_bytes(b" " * size)
        options = ["--data-binary", f"@{file}", "-H", "Content-Type: application/json"]
        status, body = _answer(_curl(served, "/api/v1/certificates", *options))
        assert (413, "Content Too Large") == (
            status,
            json.loads(body)["title"].replace("Request Entity", "Content"),
        )


def _context(served: Served) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(served.root))
    context.load_cert_chain(served.directory / "olga.pem", served.directory / "olga.key")
    return context


def _raw(served: Served, *parts: bytes) -> bytes:
    """Send these bytes and return all that comes back until the server closes."""
    with (
        socket.create_connection(("127.0.0.1", served.port), 20) as plain,
        _context(served).wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        for part in parts:
            tls.sendall(part)
        found = b""
        while chunk := tls.recv(65536):
            found += chunk
        return found


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"\x00" * 100, 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 404),
        (b"POST /api/v1/certificates HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"y" * 40_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"h%d: v\r\n" % n for n in range(101)) + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\nconnection: close\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\ncontent-length: 2\r\n\r\n{}", 400),
    ],
    ids=[
        "words",
        "zeros",
        "version",
        "url",
        "connect",
        "options",
        "length",
        "header",
        "long url",
        "many headers",
        "no host",
        "two hosts",
        "upgrade",
    ],
)
def test_what_is_no_request_is_a_problem_and_the_end(served, sent, status):
    found = _raw(served, sent)
    head, _, body = found.partition(b"\r\n\r\n")
    assert b"HTTP/1.1 %d " % status == head[:13], found[:200]
    assert status == json.loads(body)["status"]
    assert b"Traceback" not in found
    assert 200 == _answer(_curl(served, "/api/v1/me"))[0]


def test_random_bytes_instead_of_tls(served):
    for noise in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(2000), b"\x16\x03\x01" + os.urandom(500), b""):
        with socket.create_connection(("127.0.0.1", served.port), 20) as plain:
            plain.sendall(noise)
            plain.shutdown(socket.SHUT_WR)
            assert b"HTTP" not in plain.recv(4096)
    assert 200 == _answer(_curl(served, "/api/v1/me"))[0]


def test_a_request_that_breaks_off_does_no_harm(served):
    body = json.dumps({"profile": "tls-server", "csr": csr_pem()}).encode()
    head = (
        b"POST /api/v1/certificates HTTP/1.1\r\nhost: x\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n"
    )
    before = len(served.world.memory.requests)
    for sent in (head % len(body), head % len(body) + body[:-1], head[:40]):
        with (
            socket.create_connection(("127.0.0.1", served.port), 20) as plain,
            _context(served).wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            tls.sendall(sent)
    assert 200 == _answer(_curl(served, "/api/v1/me"))[0]
    assert before == len(served.world.memory.requests)


def test_pipelined_requests_are_answered_in_order(served):
    found = _raw(
        served,
        b"GET /api/v1/me HTTP/1.1\r\nhost: x\r\n\r\nGET /nope HTTP/1.1\r\nhost: x\r\n\r\n"
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    )
    assert [b"200", b"404", b"200"] == [part[:3] for part in found.split(b"HTTP/1.1 ")[1:]]


def test_strangers_leave_half_of_the_connections_to_operators(tmp_path):
    with serving(tmp_path, Limits(connections=8)) as served:
        served.enrol("olga", Role.OFFICER)
        stranger, held = ssl.create_default_context(cafile=str(served.root)), []
        for _ in range(12):
            plain = socket.create_connection(("127.0.0.1", served.port), 20)
            try:
                held.append(stranger.wrap_socket(plain, server_hostname="localhost"))
            except OSError:
                plain.close()
        assert 200 == _answer(_curl(served, "/api/v1/me"))[0]
        answered = 0
        for tls in held:
            try:
                tls.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                answered += tls.recv(100).startswith(b"HTTP/1.1 200")
            except OSError:
                pass
            tls.close()
        assert 4 == answered


def test_no_more_connections_than_the_limit(tmp_path):
    with serving(tmp_path, Limits(connections=2)) as served:
        served.enrol("olga", Role.OFFICER)
        context, held = _context(served), []
        for _ in range(2):
            plain = socket.create_connection(("127.0.0.1", served.port), 20)
            held.append(context.wrap_socket(plain, server_hostname="localhost"))
            held[-1].sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b"200 OK" in held[-1].recv(65536)
        with pytest.raises((ConnectionError, ssl.SSLError, AssertionError)):
            assert b"" != _raw(served, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        for one in held:
            one.close()


def test_slow_heads_and_handshakes_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(server, "HANDSHAKE_SECONDS", 0.2)
    with serving(tmp_path) as served:
        served.enrol("olga", Role.OFFICER)
        assert b"HTTP/1.1 408 " == _raw(served, b"GET / HTTP/1.1\r\n")[:13]
        assert b"HTTP/1.1 408 " == _raw(served)[:13]
        with socket.create_connection(("127.0.0.1", served.port), 20) as plain:
            plain.settimeout(20)
            assert b"" == plain.recv(100)


def _server_serial(served: Served) -> int:
    with (
        socket.create_connection(("127.0.0.1", served.port), 20) as plain,
        _context(served).wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"").serial_number


def test_a_new_server_certificate_is_taken_without_a_restart(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "RELOAD_SECONDS", 0.05)
    with serving(tmp_path) as served:
        served.enrol("olga", Role.OFFICER)
        assert 100 == _server_serial(served)
        served.new_server_certificate(101, "another server key")
        deadline = time.monotonic() + 10
        while (found := _server_serial(served)) != 101 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert 101 == found


def test_a_certificate_and_a_key_that_do_not_fit_leave_the_old_ones(tmp_path):
    with serving(tmp_path) as served:
        served.enrol("olga", Role.OFFICER)
        context = server_context(served.files, lambda _: None)
        reload = CertificateReload(context, served.files)
        assert not reload.look()
        good = served.files.certificate.read_bytes()
        other = make_certificate("other server", "issuing", serial=102)
        served.files.certificate.write_bytes(other.public_bytes(Encoding.PEM))
        assert not reload.look()
        served.files.certificate.unlink()
        assert not reload.look()
        served.files.certificate.write_bytes(good)
        assert reload.look()
        assert not reload.look()


def _serial_after(served, before: int) -> int:
    while (serial := _server_serial(served)) == before:
        pass
    return serial


def test_signals_stop_and_reload(tmp_path):
    served = Served(tmp_path)

    async def go() -> list[int]:
        serials: list[int] = []

        async def act(port: int) -> None:
            served.port = port
            served.enrol("olga", Role.OFFICER)
            serials.append(await asyncio.to_thread(_server_serial, served))
            served.new_server_certificate(103)
            os.kill(os.getpid(), signal.SIGHUP)
            serials.append(await asyncio.to_thread(_serial_after, served, serials[0]))
            os.kill(os.getpid(), signal.SIGTERM)

        acting: list[asyncio.Task[None]] = []
        await serve_api(
            served.world.app,
            "127.0.0.1",
            0,
            served.files,
            listening=lambda port: acting.append(asyncio.create_task(act(port))),
        )
        await acting[0]
        return serials

    assert [100, 103] == asyncio.run(go())


def test_what_an_operator_has_to_put_right_is_named(tmp_path):
    served = Served(tmp_path)
    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"")
    files = served.files
    for wrong, named in (
        (TLSFiles(tmp_path / "gone.pem", files.key, files.client_ca), "gone.pem"),
        (TLSFiles(empty, files.key, files.client_ca), "empty.pem"),
        (TLSFiles(files.certificate, empty, files.client_ca), "empty.pem"),
        (TLSFiles(files.certificate, files.key, tmp_path / "gone-ca.pem"), "gone-ca.pem"),
    ):
        with pytest.raises(OperatorError, match=named):
            server_context(wrong, lambda _: None)


def test_a_port_in_use_is_named(tmp_path):
    served = Served(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OperatorError, match=f"cannot listen on 127.0.0.1 port {port}"):
            asyncio.run(serve_api(served.world.app, "127.0.0.1", port, served.files, stop=asyncio.Event()))


def test_an_encrypted_server_key_is_refused_rather_than_asked_about(tmp_path):
    served = Served(tmp_path)
    key: Path = served.files.key
    subprocess.run(
        ["openssl", "ec", "-aes256", "-in", str(key), "-out", str(key), "-passout", "pass:1234"],
        check=True,
        capture_output=True,
    )
    with pytest.raises(OperatorError, match="unencrypted"):
        server_context(served.files, lambda _: None)
