"""A running authority asked by other people's programs, and by people who mean it ill, over real sockets."""

from __future__ import annotations

import random
import socket
import subprocess
import urllib.error
import urllib.request

import pytest
import rfc3161ng
from cryptography.hazmat.primitives import serialization

from chancery.asn1 import der, tsp
from chancery.web.hot import Limits
from fakes import START
from unit.tsa.kit import OTHER_POLICY, POLICY, as_der, certificate, request, root, service, serving

HEAD = b"POST /tsa HTTP/1.1\r\nHost: x\r\nContent-Type: application/timestamp-query\r\nContent-Length: %d\r\n\r\n"


def openssl(*arguments, ok=True) -> str:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert ok == (done.returncode == 0), done.stdout + done.stderr
    return done.stdout + done.stderr


def post(port: int, body: bytes, content_type="application/timestamp-query"):
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/tsa", data=body, headers={"Content-Type": content_type}
    )
    try:
        with urllib.request.urlopen(asked, timeout=20) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


@pytest.fixture(scope="module", params=["rsa", "p256", "p384", "ed25519"])
def authority(request, tmp_path_factory):
    """(port, kind, folder with root.pem, tsa.pem and a document)"""
    kind, folder = request.param, tmp_path_factory.mktemp("openssl")
    (folder / "root.pem").write_bytes(root(kind).public_bytes(serialization.Encoding.PEM))
    own = certificate(kind)
    (folder / "tsa.pem").write_bytes(own.public_bytes(serialization.Encoding.PEM))
    (folder / "document").write_bytes(b"a document")
    with serving(service(kind, certificates=[as_der(own)])) as port:
        yield port, kind, folder


@pytest.mark.parametrize(
    ("query", "verify"),
    [
        (["-sha256", "-cert"], []),
        (["-sha384", "-cert", "-no_nonce"], []),
        (["-sha512"], ["-untrusted", "tsa.pem"]),
        (["-sha256", "-cert", "-tspolicy", OTHER_POLICY], []),
    ],
)
def test_openssl_asks_reads_and_verifies(authority, query, verify, tmp_path):
    port, kind, folder = authority
    document, tsq, tsr = folder / "document", tmp_path / "tsq", tmp_path / "tsr"
    openssl("ts", "-query", "-data", document, *query, "-out", tsq)
    status, headers, body = post(port, tsq.read_bytes())
    assert (200, "application/timestamp-reply") == (status, headers["Content-Type"])
    tsr.write_bytes(body)
    words = openssl("ts", "-reply", "-in", tsr, "-text")
    assert "Status: Granted." in words
    assert f"Policy OID: {OTHER_POLICY if OTHER_POLICY in query else POLICY}" in words
    assert "Accuracy: 0x01 seconds" in words
    if kind == "ed25519":
        # OpenSSL 3.0's PKCS#7 reader knows no Ed25519; rather than half a check, this ends at reading.
        return
    verify = [folder / word if word == "tsa.pem" else word for word in verify]
    common = ("-in", tsr, "-CAfile", folder / "root.pem", "-attime", int(START.timestamp()), *verify)
    assert "Verification: OK" in openssl("ts", "-verify", "-queryfile", tsq, *common)
    assert "Verification: OK" in openssl("ts", "-verify", "-data", document, *common)
    document.with_name("other").write_bytes(b"another document")
    openssl("ts", "-verify", "-data", document.with_name("other"), *common, ok=False)


def test_openssl_reads_a_refusal(authority, tmp_path):
    port, _, folder = authority
    openssl("ts", "-query", "-data", folder / "document", "-sha1", "-out", tmp_path / "tsq")
    (tmp_path / "tsr").write_bytes(post(port, (tmp_path / "tsq").read_bytes())[2])
    words = openssl("ts", "-reply", "-in", tmp_path / "tsr", "-text")
    assert "Status: Rejected." in words
    assert "unrecognized or unsupported algorithm identifier" in words  # R24


def test_rfc3161ng_asks_and_verifies():
    with serving(service("rsa")) as port:
        stamper = rfc3161ng.RemoteTimestamper(
            f"http://127.0.0.1:{port}/tsa",
            certificate=certificate("rsa").public_bytes(serialization.Encoding.PEM),
            hashname="sha256",
            include_tsa_certificate=True,
        )
        token = stamper(data=b"a document", nonce=2**63 + 7)
        assert START.replace(tzinfo=None) == rfc3161ng.get_timestamp(token)
        assert stamper.check(token, data=b"a document", nonce=2**63 + 7)


# -- hostile peers


@pytest.fixture(scope="module")
def lone_port():
    tsa = service()
    with serving(tsa, Limits(max_body=tsp.MAX_REQUEST, header_timeout=2, body_timeout=2)) as port:
        yield port
    assert [] == [report for report in tsa.reports if report[0] != "tsa.clock"]


def raw(port: int, data: bytes, *, close: bool = True) -> bytes:
    """Send bytes, half-close, and read to the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(data)
        if close:
            connection.shutdown(socket.SHUT_WR)
        found = b""
        while piece := connection.recv(65536):
            found += piece
        return found


def hostile() -> list[bytes]:
    rng, good = random.Random(3161), request()
    found = [good[:size] for size in range(0, len(good), 5)]
    found += [good[:at] + bytes((good[at] ^ 1 << rng.randrange(8),)) + good[at + 1 :] for at in range(len(good))]
    found += [rng.randbytes(rng.randrange(200)) for _ in range(60)]
    found += [
        b"\x30" * 8192,
        b"\x30\x80" * 4000,
        b"\xa0\x82\xff\xff" * 2000,
        b"\x30\x84\xff\xff\xff\xff",
        bytes(8192),
    ]
    nested = b""
    for _ in range(60):
        nested = der.sequence(nested)
    found.append(nested)
    found.append(request(extensions=der.explicit(0, nested)))
    found.append(request(policy="1.2." + ".".join(["9999999999"] * 60)))
    found.append(request(nonce=1 << 512))
    return found


def test_malformed_requests_each_get_a_well_formed_answer(lone_port):
    with socket.create_connection(("127.0.0.1", lone_port), timeout=20) as connection:
        reader = connection.makefile("rb")
        for body in hostile():
            connection.sendall(HEAD % len(body) + body)
            assert b"HTTP/1.1 200 OK\r\n" == reader.readline()
            size = 0
            while (line := reader.readline()) != b"\r\n":
                name, _, value = line.partition(b":")
                size = int(value) if name.lower() == b"content-length" else size
            answer = tsp.decode_response(reader.read(size))
            assert (answer.status == 0) == (answer.time_stamp_token is not None)
    assert 200 == post(lone_port, request())[0]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (HEAD % 8193 + bytes(8193), b"413"),
        (HEAD % (1 << 40), b"413"),
        (b"POST /tsa HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4000\r\n" + bytes(0x4000), b"413"),
        (HEAD % 100 + b"\x30", b"400"),
        (b"PUT /tsa HTTP/1.1\r\nHost: x\r\n\r\n", b"405"),
        (b"GET /tsa HTTP/1.1\r\nHost: x\r\n\r\n", b"405"),
        (b"POST /tsa HTTP/1.1\r\nHost: x\r\nContent-Type: text/html\r\nContent-Length: 1\r\n\r\n0", b"415"),
        (b"POST /tsa HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", b"431"),
        (b"POST /" + b"y" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"414"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300), b"400"),
    ],
)
def test_hostile_http_is_refused_and_the_next_is_served(lone_port, data, status):
    assert status == raw(lone_port, data).split(b" ", 2)[1]
    assert 200 == post(lone_port, request())[0]


def test_a_peer_that_never_finishes_is_let_go(lone_port):
    assert b"408" in raw(lone_port, HEAD % 100 + b"\x30", close=False)


def test_garbage_on_many_connections_leaves_the_authority_well(lone_port):
    rng = random.Random(1)
    for _ in range(50):
        raw(lone_port, rng.randbytes(rng.randrange(1, 400)))
    assert 200 == post(lone_port, request())[0]


def test_a_century_later_openssl_agrees(tmp_path):
    from fakes import FakeClock
    from unit.tsa.kit import YEAR

    later = START + 100 * YEAR
    late = certificate("p256", start=START, end=START + 150 * YEAR)
    tsa = service(clock=FakeClock(later), certificates=[as_der(late)])
    (tmp_path / "root.pem").write_bytes(root("p256").public_bytes(serialization.Encoding.PEM))
    (tmp_path / "document").write_bytes(b"a document")
    openssl("ts", "-query", "-data", tmp_path / "document", "-sha256", "-cert", "-out", tmp_path / "tsq")
    with serving(tsa) as port:
        (tmp_path / "tsr").write_bytes(post(port, (tmp_path / "tsq").read_bytes())[2])
    common = ("-in", tmp_path / "tsr", "-CAfile", tmp_path / "root.pem", "-attime", int(later.timestamp()))
    assert "Verification: OK" in openssl("ts", "-verify", "-queryfile", tmp_path / "tsq", *common)
