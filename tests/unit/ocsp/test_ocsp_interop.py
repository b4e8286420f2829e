"""The responder as others see it: openssl and pkilint, over real sockets, and every kind of bad input."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import random
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import ocsp as pyca

import ocspkit
from chancery.asn1 import der
from chancery.asn1.signature import KeySigner
from chancery.ocsp.responder import NeverIssued, Policies, ResponderSettings
from chancery.ocsp.signed import RequestSigners
from chancery.ports import RevocationReason
from chancery.web import ocsp as web
from chancery.web.hot import serve
from ocspkit import GOOD, ISSUING, NEVER, REVOKED, SILENT

SIGNING = b"\x71" + bytes(16)
HELD = b"\x61" + bytes(16)
BIN = Path(sys.executable).parent


class Now:
    """The machine's time: openssl and pkilint judge answers by it."""

    def now(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC)  # noqa: TID251 - see above

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class Server(threading.Thread):
    """A responder on a loopback port, in a thread with its own event loop."""

    def __init__(self, settings: web.OCSPSettings) -> None:
        super().__init__(daemon=True)
        self.settings = settings
        self.reader = ocspkit.FakeReader()
        start = Now().now() - ocspkit.DAY
        issuing = ocspkit.certificate("Issuing", "Root", 2, ca=True, start=start)
        self.reader.records[1] = ocspkit.IssuerRecord(ISSUING, "issuing", issuing, 1, "ca", "issuing")
        self.reader.certificates = {ocspkit.spki_sha256("Responder"): [ocspkit.delegate_certificate(start=start)]}
        self.port = 0
        self.ready = threading.Event()

    def run(self) -> None:
        uvloop.run(self.main())

    async def main(self) -> None:
        signers = {"issuing": (KeySigner(ocspkit.key("Responder")),)}
        self.reader.revoke(HELD, RevocationReason.CERTIFICATE_HOLD, invalidity_date=ocspkit.START)
        service = web.OCSPService(self.reader, signers, Now(), self.settings, lambda _, __: None)
        await service.start()
        server = await serve(
            service.handler, "127.0.0.1", 0, limits=web.LIMITS, on_error=web.on_error, clock=Now()
        )
        self.loop, self.port, self.stopping, self.service = (
            asyncio.get_running_loop(),
            server.port,
            asyncio.Event(),
            service,
        )
        self.ready.set()
        await self.stopping.wait()
        await server.close(1)
        await service.close()

    def call(self, function, *arguments) -> None:
        done = threading.Event()
        self.loop.call_soon_threadsafe(lambda: (function(*arguments), done.set()))
        assert done.wait(10)


@contextlib.contextmanager
def running(settings: web.OCSPSettings | None = None):
    server = Server(settings or web.OCSPSettings())
    server.start()
    assert server.ready.wait(10)
    try:
        yield server
    finally:
        server.loop.call_soon_threadsafe(server.stopping.set)
        server.join(10)


@pytest.fixture(scope="module")
def responder():
    with running() as server:
        yield server


@pytest.fixture
def ca(responder, tmp_path):
    """Return the CA certificate that openssl asks about, and trusts."""
    issuing = x509.load_der_x509_certificate(responder.reader.records[1].certificate)
    root = x509.load_der_x509_certificate(responder.reader.records[0].certificate)
    (tmp_path / "issuing.pem").write_bytes(issuing.public_bytes(Encoding.PEM))
    (tmp_path / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
    return tmp_path


def openssl(responder, ca: Path, *arguments: str, path: str = "/ocsp") -> str:
    command = [
        "openssl",
        "ocsp",
        "-issuer",
        str(ca / "issuing.pem"),
        *arguments,
        "-url",
        f"http://127.0.0.1:{responder.port}{path}",
        "-CAfile",
        str(ca / "issuing.pem"),
        "-partial_chain",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    assert "Response verify OK" in done.stderr
    return done.stdout + done.stderr


def hexed(serial: bytes) -> str:
    return "0x" + serial.hex()


def test_openssl_reads_good_revoked_and_unknown(responder, ca):
    for serial, word in ((GOOD, "good"), (REVOKED, "revoked"), (NEVER, "unknown")):
        output = openssl(responder, ca, "-serial", hexed(serial), "-no_nonce")
        assert f"{hexed(serial)}: {word}" in output
    assert "Reason: keyCompromise" in openssl(responder, ca, "-serial", hexed(REVOKED))
    assert "Reason" not in openssl(responder, ca, "-serial", hexed(SILENT))


def test_openssl_gets_its_nonce_back(responder, ca):
    output = openssl(responder, ca, "-serial", hexed(GOOD), "-nonce")
    assert "WARNING: no nonce" not in output


@pytest.mark.parametrize("digest", ["-sha1", "-sha256", "-sha384", "-sha512"])
def test_openssl_asks_with_every_digest(responder, ca, digest):
    # openssl takes the digest only before the certificate it is for.
    url = f"http://127.0.0.1:{responder.port}/ocsp"
    asked = ["openssl", "ocsp", digest, "-issuer", ca / "issuing.pem", "-serial", hexed(GOOD), "-url", url]
    trusted = ["-CAfile", ca / "issuing.pem", "-partial_chain"]
    done = subprocess.run([*asked, *trusted], capture_output=True, text=True, check=False)
    assert f"{hexed(GOOD)}: good" in done.stdout + done.stderr, done.stderr


def test_openssl_asks_for_several_at_once(responder, ca):
    serials = [argument for serial in (REVOKED, GOOD, NEVER) for argument in ("-serial", hexed(serial))]
    output = openssl(responder, ca, *serials, path="/")
    for serial, word in ((GOOD, "good"), (REVOKED, "revoked"), (NEVER, "unknown")):
        assert f"{hexed(serial)}: {word}" in output


def test_openssl_signs_its_request(responder, ca):
    key = ocspkit.key("Somebody")
    (ca / "key.pem").write_bytes(
        key.private_bytes(
            Encoding.PEM,
            PrivateFormat.PKCS8,
            NoEncryption(),
        )
    )
    certificate = x509.load_der_x509_certificate(ocspkit.certificate("Somebody", "Issuing", 99))
    (ca / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    signed = ["-signer", str(ca / "cert.pem"), "-signkey", str(ca / "key.pem")]
    assert f"{hexed(GOOD)}: good" in openssl(responder, ca, "-serial", hexed(GOOD), *signed)


def test_openssl_must_sign_where_the_policy_says_so(ca):
    with running() as known:
        issuing = x509.load_der_x509_certificate(known.reader.records[1].certificate)
    key, start = ocspkit.key("Somebody"), Now().now() - ocspkit.DAY
    encoded = ocspkit.certificate("Somebody", "Issuing", int.from_bytes(SIGNING), start=start)
    certificate = x509.load_der_x509_certificate(encoded)
    (ca / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (ca / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    signed = ["-signer", str(ca / "cert.pem"), "-signkey", str(ca / "key.pem")]
    policy = Policies(ResponderSettings(signers=RequestSigners((issuing,))))
    with running(web.OCSPSettings(policies=policy)) as server:
        (ca / "issuing.pem").write_bytes(
            x509.load_der_x509_certificate(server.reader.records[1].certificate).public_bytes(Encoding.PEM)
        )
        asked = ["openssl", "ocsp", "-issuer", ca / "issuing.pem", "-serial", hexed(GOOD)]
        url = ["-url", f"http://127.0.0.1:{server.port}/ocsp", "-CAfile", ca / "issuing.pem", "-partial_chain"]

        def said(*more: str) -> str:
            done = subprocess.run([*asked, *more, *url], capture_output=True, text=True, check=False)
            return done.stdout + done.stderr

        server.reader.known[ISSUING, SIGNING] = ocspkit.status(SIGNING)
        assert f"{hexed(GOOD)}: good" in said(*signed)
        assert "sigrequired" in said("-no_nonce")
        server.reader.revoke(SIGNING)
        server.call(server.service.invalidate, ISSUING, SIGNING)
        assert "unauthorized" in said(*signed)


def test_openssl_shows_what_stands_beside_a_status(ca):
    settings = ResponderSettings(archive=3650 * ocspkit.DAY, crl_url="http://crl.example/{issuer}.crl")
    with running(web.OCSPSettings(policies=Policies(settings))) as server:
        (ca / "issuing.pem").write_bytes(
            x509.load_der_x509_certificate(server.reader.records[1].certificate).public_bytes(Encoding.PEM)
        )
        shown = openssl(server, ca, "-serial", hexed(HELD), "-resp_text")
    for words in ("OCSP Archive Cutoff", "http://crl.example/issuing.crl", "Invalidity Date", "certificateHold"):
        assert words in shown


def test_openssl_sees_a_revocation_at_once(ca):
    with running() as responder:
        (ca / "issuing.pem").write_bytes(
            x509.load_der_x509_certificate(responder.reader.records[1].certificate).public_bytes(Encoding.PEM)
        )
        for arguments in (["-no_nonce"], ["-nonce"]):
            assert ": good" in openssl(responder, ca, "-serial", hexed(GOOD), *arguments)
        responder.reader.revoke(GOOD)
        responder.call(responder.service.invalidate, ISSUING, GOOD)
        for arguments in (["-no_nonce"], ["-nonce"]):
            assert ": revoked" in openssl(responder, ca, "-serial", hexed(GOOD), *arguments)


# -- pkilint


def findings(responder, tmp_path: Path, response: bytes) -> list[tuple[str, str]]:
    """Every finding of pkilint above INFO."""
    file = tmp_path / "response.der"
    file.write_bytes(response)
    done = subprocess.run(
        [BIN / "lint_ocsp_response", "lint", "-s", "NOTICE", "-f", "JSON", file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "" == done.stderr
    report = json.loads(done.stdout)
    return [
        (one["severity"], one["code"]) for result in report["results"] for one in result["finding_descriptions"]
    ]


def test_pkilint_finds_nothing_in_any_kind_of_answer(tmp_path):
    by_policy = web.OCSPSettings(
        policies=Policies(
            ResponderSettings(
                never_issued=NeverIssued.EXTENDED_REVOKED,
                by_name=True,
                archive=3650 * ocspkit.DAY,
                crl_url="http://crl.example/{issuer}.crl",
            )
        )
    )
    requests = [
        ocspkit.request(GOOD),
        ocspkit.request(REVOKED),
        ocspkit.request(SILENT),
        ocspkit.request(HELD),
        ocspkit.request(NEVER),
        ocspkit.request(GOOD, nonce=b"n" * 32),
        ocspkit.request(GOOD, REVOKED, NEVER, hash_oid="2.16.840.1.101.3.4.2.1"),
    ]
    found = {}
    for settings in (None, by_policy):
        with running(settings) as responder:
            for number, request in enumerate(requests):
                response = post(responder, request)[1]
                assert pyca.OCSPResponseStatus.SUCCESSFUL is pyca.load_der_ocsp_response(response).response_status
                if listed := findings(responder, tmp_path, response):
                    found[settings is not None, number] = listed
    assert {} == found


# -- bad input over real sockets


async def _exchange(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return b"reset"
    finally:
        writer.close()


def exchange(responder, data: bytes) -> tuple[int, bytes]:
    """Return HTTP status and body of the one answer to these octets."""
    answer = asyncio.run(_exchange(responder.port, data))
    assert b"Traceback" not in answer
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def post(responder, body: bytes) -> tuple[int, bytes]:
    head = b"POST /ocsp HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: application/ocsp-request\r\n"
    return exchange(responder, head + b"Content-Length: %d\r\n\r\n" % len(body) + body)


def get(responder, target: bytes) -> tuple[int, bytes]:
    return exchange(responder, b"GET %b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % target)


def word(answer: tuple[int, bytes]) -> tuple[int, str]:
    return answer[0], pyca.load_der_ocsp_response(answer[1]).response_status.name


def test_bad_input_to_a_running_server_is_answered_and_it_lives_on(responder):
    request = ocspkit.request(GOOD, nonce=b"n" * 32)
    nested = b""
    for _ in range(500):
        nested = b"\x30" + der.length(len(nested)) + nested
    draw = random.Random(1)
    bad = [
        b"",
        *(request[:end] for end in range(1, len(request), 7)),
        request + b"\x00",
        nested[:16000],
        bytes(16000),
        *(draw.randbytes(draw.randrange(1, 400)) for _ in range(20)),
    ]
    for body in bad:
        assert (200, "MALFORMED_REQUEST") == word(post(responder, body))
    assert 413 == post(responder, bytes(web.LIMITS.max_body + 1))[0]
    assert 414 == get(responder, b"/ocsp/" + b"A" * 9000)[0]
    for path in (b"/ocsp/%00", b"/ocsp/%", b"/ocsp/" + b"A" * 5000):
        assert (200, "MALFORMED_REQUEST") == word(get(responder, path))
    assert 400 == exchange(responder, draw.randbytes(3000))[0]
    assert (200, "SUCCESSFUL") == word(post(responder, request))


def test_changed_octets_are_answered_in_words(responder):
    draw = random.Random(2)
    allowed = {"SUCCESSFUL", "MALFORMED_REQUEST", "UNAUTHORIZED"}
    for _ in range(100):
        body = bytearray(ocspkit.request(GOOD, nonce=b"n" * 16))
        for _ in range(draw.randrange(1, 4)):
            body[draw.randrange(len(body))] = draw.randrange(256)
        status, heard = word(post(responder, bytes(body)))
        assert 200 == status
        assert heard in allowed


def test_a_broken_reader_is_internal_error_without_a_word_more():
    with running() as responder:

        async def broken(keys):
            raise RuntimeError("secret detail")

        responder.reader.statuses = broken
        assert (200, b"\x30\x03\x0a\x01\x02") == post(responder, ocspkit.request(GOOD))


def test_tls_to_the_plain_port_is_refused(responder):
    context = ssl.create_default_context()

    async def main() -> None:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", responder.port, ssl=context)

    asyncio.run(main())
