"""Serving the application over HTTPS with mutual TLS: uvicorn, with the peer's certificate and with limits."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
import socket
import ssl
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final

import structlog
import uvicorn
from starlette.applications import Starlette

from chancery.errors import OperatorError
from chancery.web.access import Gate
from chancery.web.protocol import protocol_class

KEEP_ALIVE_SECONDS: Final = 30
HANDSHAKE_SECONDS: Final = 10.0
BACKLOG: Final = 1024
RELOAD_SECONDS: Final = 5.0
_log = structlog.get_logger("chancery.web.server")


@dataclasses.dataclass(frozen=True, slots=True)
class TLSFiles:
    """PEM files: the server's certificate chain and key, and the CAs that client certificates chain to."""

    certificate: Path
    key: Path
    client_ca: Path


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """
    `connections` at once, idle ones included, half of them for peers with a certificate alone; `drain_seconds` for
    requests under way when stopping.
    """

    connections: int = 1024
    drain_seconds: int = 10


def server_context(files: TLSFiles, on_refused: Callable[[str], None]) -> ssl.SSLContext:
    """
    Return a context for TLS 1.2 and 1.3 that asks for a client certificate but does without.

    A certificate that does not verify (unknown CA, expired, not for clientAuth) fails the handshake;
    `on_refused` is then called with the reason. Raises OperatorError naming the file that cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    # The file may hold the issuing CA alone; an operator's certificate never chains to anything else.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    # No resumption by ticket. TLS 1.2 still resumes by session id, for two hours at most, which Python cannot turn
    # off: the certificate that such a session was made with is looked up for every request like any other.
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    _load_certificate(context, files)
    try:
        context.load_verify_locations(files.client_ca)
    except (OSError, ssl.SSLError) as error:
        raise OperatorError(
            f"{files.client_ca} holds no CA certificates: {error}", "name the PEM file of the issuing CA"
        ) from error
    context.sslobject_class = _reporting(on_refused)
    return context


def _load_certificate(context: ssl.SSLContext, files: TLSFiles) -> None:
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise OperatorError(
            f"{files.certificate} and {files.key} are no certificate chain and key: {error}",
            "name the PEM files of the server's certificate and its unencrypted key",
        ) from error


def _no_password() -> str:
    """Stand where OpenSSL would ask on the terminal of a process that has none."""
    raise ValueError("the key is encrypted")


class CertificateReload:
    """Gives a running server the certificate that lies in its files now; a bad pair leaves the old one in use."""

    def __init__(self, context: ssl.SSLContext, files: TLSFiles) -> None:
        self._context = context
        self._files = files
        self._seen = self._stamps()

    def _stamps(self) -> tuple[tuple[int, int] | None, ...]:
        found: list[tuple[int, int] | None] = []
        for path in (self._files.certificate, self._files.key):
            try:
                state = path.stat()
                found.append((state.st_mtime_ns, state.st_ino))
            except OSError:
                found.append(None)
        return tuple(found)

    def look(self) -> bool:
        """Reload when a file has changed since the last look; tell whether it was reloaded."""
        stamps = self._stamps()
        if stamps == self._seen:
            return False
        self._seen = stamps
        return self.reload()

    def reload(self) -> bool:
        """Reload now; tell whether it worked. What is wrong is logged."""
        try:
            # Tried elsewhere first: a context keeps the half that it could read.
            _load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self._files)
            _load_certificate(self._context, self._files)
        except OperatorError as error:
            _log.error("the certificate is not reloaded", what=error.what, next=error.next_step)
            return False
        _log.info("the certificate is reloaded", certificate=str(self._files.certificate))
        return True

    async def watch(self, seconds: float) -> None:
        """Look every `seconds`, until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            self.look()


def _reporting(on_refused: Callable[[str], None]) -> type[ssl.SSLObject]:
    class ReportingSSLObject(ssl.SSLObject):
        """Tells of client certificates that do not verify: the application never sees them."""

        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except ssl.SSLCertVerificationError as error:
                on_refused(error.verify_message)
                raise

    return ReportingSSLObject


class _Server(uvicorn.Server):
    """Leaves signals to the caller, and tells when it listens."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen as uvicorn does, but with a limit on the time of a TLS handshake."""
        await self.lifespan.startup()
        loop, config = asyncio.get_running_loop(), self.config

        def connection() -> asyncio.Protocol:
            make: Callable[..., asyncio.Protocol] = config.http_protocol_class
            return make(config=config, server_state=self.server_state, app_state=self.lifespan.state)

        self.servers = [
            await loop.create_server(
                connection,
                sock=one,
                ssl=config.ssl,
                backlog=BACKLOG,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=HANDSHAKE_SECONDS,
            )
            for one in sockets or []
        ]
        self.started = True
        self._on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


async def serve_api(
    app: Starlette,
    host: str,
    port: int,
    files: TLSFiles,
    *,
    limits: Limits | None = None,
    stop: asyncio.Event | None = None,
    listening: Callable[[int], None] | None = None,
) -> None:
    """
    Serve `app` over HTTPS on TCP `port` (0: any) of `host` until `stop` is set, then finish what is under way.

    Without `stop`, SIGTERM and SIGINT stop it, and SIGHUP reloads the server's certificate; a changed file is
    also noticed within seconds. `listening` is called with the port once connections are
    accepted. Raises OperatorError when the address cannot be bound or a file cannot be used.
    """
    limits = limits or Limits()
    gate: Gate = app.state.gate
    background: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()

    def on_refused(why: str) -> None:
        task = loop.create_task(gate.refused("unknown", f"client certificate: {why}", None))
        background.add(task)
        task.add_done_callback(background.discard)

    context = server_context(files, on_refused)
    reload = CertificateReload(context, files)
    sockets = _bind(host, port)
    bound = sockets[0].getsockname()[1]

    def on_started() -> None:
        if listening is None:
            _log.info("listening", host=host, port=bound)
        else:
            listening(bound)

    server = _Server(_config(app, context, limits), on_started)
    try:
        with _stopping(loop, stop, reload) as asked:
            running = asyncio.create_task(server.serve(sockets))
            watcher = asyncio.create_task(asked.wait())
            reloader = asyncio.create_task(reload.watch(RELOAD_SECONDS))
            await asyncio.wait({running, watcher}, return_when=asyncio.FIRST_COMPLETED)
            server.should_exit = True
            await running
            watcher.cancel()
            reloader.cancel()
    finally:
        for one in sockets:
            one.close()
        await asyncio.gather(*background, return_exceptions=True)


@contextlib.contextmanager
def _stopping(
    loop: asyncio.AbstractEventLoop, stop: asyncio.Event | None, reload: CertificateReload
) -> Generator[asyncio.Event, None, None]:
    if stop is not None:
        yield stop
        return
    asked = asyncio.Event()
    handlers = {signal.SIGTERM: asked.set, signal.SIGINT: asked.set, signal.SIGHUP: reload.reload}
    for number, act in handlers.items():
        loop.add_signal_handler(number, act)
    try:
        yield asked
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


def _config(app: Starlette, context: ssl.SSLContext, limits: Limits) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=protocol_class(limits.connections),
        ws="none",
        lifespan="off",
        log_config=None,
        # Its warnings are about what strangers send; requests are logged by `guard`.
        log_level="error",
        access_log=False,
        server_header=False,
        # X-Forwarded-For is nobody's word about a TLS peer.
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=limits.drain_seconds,
        ssl_context_factory=lambda _config, _default: context,
    )


def _bind(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of `host` (one for each of IPv4 and IPv6)."""
    found: list[socket.socket] = []
    try:
        for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            if family in {socket.AF_INET, socket.AF_INET6}:
                found.append(socket.create_server(address[:2], family=family, backlog=BACKLOG))
    except OSError as error:
        for one in found:
            one.close()
        raise OperatorError(
            f"cannot listen on {host} port {port}: {error.strerror or error}",
            "stop what uses that port, or configure another address",
        ) from error
    return found
