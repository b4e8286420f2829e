"""The application over fakes behind a real TLS server on loopback, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import threading
from collections.abc import Iterator
from pathlib import Path

import structlog
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from chancery.ports import Role
from chancery.web.server import Limits, TLSFiles, serve_api
from unit.web.world import World, key_pem, make_certificate

DAY = datetime.timedelta(days=1)
LOOPBACK = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]


class Served:
    """A running server: its world, its address, and PEM files for both ends."""

    def __init__(self, directory: Path) -> None:
        self.world = World()
        self.directory = directory
        self.root = self._write("root.pem", self.world.memory.root.public_bytes(Encoding.PEM))
        self.issuing = self._write("issuing.pem", self.world.memory.issuing.public_bytes(Encoding.PEM))
        self.files = TLSFiles(directory / "server.pem", directory / "server.key", self.issuing)
        self.new_server_certificate(100)
        self.port = 0

    def _write(self, name: str, content: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(content)
        return path

    def new_server_certificate(self, serial: int, label: str = "server") -> None:
        usage = ExtendedKeyUsageOID.SERVER_AUTH
        certificate = make_certificate(label, "issuing", serial=serial, names=LOOPBACK, usage=usage)
        chain = [certificate, self.world.memory.issuing]
        self.files.key.write_bytes(key_pem(label))
        self.files.certificate.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in chain))

    def enrol(self, label: str, *roles: Role) -> tuple[Path, Path]:
        """Make an operator; return the files of the certificate and key."""
        self.world.enrol(label, *roles)
        certificate = x509.load_der_x509_certificate(self.world.certificate(label))
        return self.pair(label, certificate)

    def pair(self, label: str, certificate: x509.Certificate) -> tuple[Path, Path]:
        pem = certificate.public_bytes(Encoding.PEM)
        return self._write(f"{label}.pem", pem), self._write(f"{label}.key", key_pem(label))

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"


@contextlib.contextmanager
def serving(directory: Path, limits: Limits | None = None) -> Iterator[Served]:
    """Serve until the block ends; then the server has to stop by itself within seconds."""
    served = Served(directory)
    listening, ended = threading.Event(), []
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def told(port: int) -> None:
        served.port = port
        listening.set()

    async def serve() -> None:
        stop = asyncio.Event()
        loops.append((asyncio.get_running_loop(), stop))
        app, files = served.world.app, served.files
        await serve_api(app, "127.0.0.1", 0, files, limits=limits, stop=stop, listening=told)

    def run() -> None:
        try:
            uvloop.run(serve())
        except BaseException as error:  # noqa: BLE001 - shown by the test's own thread
            ended.append(error)
        finally:
            listening.set()

    # What the server logs must not stand in what a command under test prints.
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert listening.wait(20)
        assert [] == ended
        yield served
    finally:
        for loop, stop in loops:
            if not loop.is_closed():
                loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        structlog.reset_defaults()
    assert not thread.is_alive()
    assert [] == ended
