"""A client of NTP servers (RFC 5905 14, SNTP): asks several at once, and believes what their majority says."""

from __future__ import annotations

import dataclasses
import datetime
import selectors
import socket
import struct
from collections.abc import Sequence

from chancery.errors import OperatorError
from chancery.ports import Clock, Entropy
from chancery.tsa.consensus import Sample, agree
from chancery.tsa.timekeeping import Leap, Measurement

PORT = 123
TIMEOUT_S = 2.0
# RFC 5905 7.3: LI VN Mode, stratum, poll, precision, root delay, root dispersion, reference id, then the
# reference, origin, receive and transmit timestamps. Extension fields and a MAC may follow.
_HEADER = struct.Struct("!BBbbII4sQQQQ")
_ASK = _HEADER.pack(4 << 3 | 3, 0, 0, 0, 0, 0, b"", 0, 0, 0, 0)[:40]
_SERVER = 4
_UNSYNCHRONISED = 3
_LEAPS = {0: Leap.NONE, 1: Leap.INSERT, 2: Leap.DELETE}
MAX_STRATUM = 15
MAX_DISTANCE_S = 1.5  # as RFC 5905 11.2.2: a server further from its own source is not to be believed
_EPOCH = datetime.datetime(1900, 1, 1, tzinfo=datetime.UTC)
_ERA = 1 << 32


@dataclasses.dataclass(frozen=True, slots=True)
class Exchange:
    """One question: its origin timestamp, and when it left and its answer came, in seconds since 1900."""

    cookie: int
    sent: float
    received: float


def interpret(server: str, answer: bytes, asked: Exchange) -> Sample:
    """
    Say what a server's answer means for the wall clock. Raises ValueError when it means nothing.

    The uncertainty is half the round trip plus the server's own distance to its reference (RFC 5905 11.1). The era
    of its 32-bit seconds is the one nearest to the wall clock (RFC 5905 6).
    """
    if len(answer) < _HEADER.size:
        raise ValueError("shorter than an NTP header")
    first, stratum, _, precision, root_delay, root_dispersion, _, _, origin, receive, transmit = (
        _HEADER.unpack_from(answer)
    )
    leap = first >> 6
    if first & 7 != _SERVER or first >> 3 & 7 not in {3, 4}:
        raise ValueError("no server's answer")
    if origin != asked.cookie or not receive or not transmit:
        raise ValueError("no answer to this question")
    # Stratum 0 is a kiss-o'-death (RFC 5905 7.4): the server wants to be left alone.
    if leap == _UNSYNCHRONISED or not 1 <= stratum <= MAX_STRATUM:
        raise ValueError("the server is not synchronised")
    arrived, left = _seconds(receive, asked.sent), _seconds(transmit, asked.sent)
    round_trip = (asked.received - asked.sent) - (left - arrived)
    distance = (root_delay / 2 + root_dispersion) / 65536
    if left < arrived or distance > MAX_DISTANCE_S:
        raise ValueError("the server does not know the time well")
    uncertainty = max(round_trip, 0.0) / 2 + distance + 2.0 ** max(min(precision, 0), -30)
    offset = ((arrived - asked.sent) + (left - asked.received)) / 2
    return Sample(server, offset, uncertainty, _LEAPS[leap])


def _seconds(timestamp: int, near: float) -> float:
    seconds = timestamp / _ERA
    return seconds + round((near - seconds) / _ERA) * _ERA


class NTPTimeSource:
    """
    `tsa.timekeeping.TimeSource`: the majority of several NTP servers.

    `servers` are `host`, `host:port` or `[address]:port`, at least three, so that one that lies is outvoted.
    Each is asked once a measurement and has `timeout_s` to answer.
    """

    def __init__(
        self, servers: Sequence[str], clock: Clock, entropy: Entropy, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._servers = {server: address(server) for server in servers}
        self._clock = clock
        self._entropy = entropy
        self._timeout_s = timeout_s

    def measure(self) -> Measurement:
        """Ask all servers and combine their answers. Blocks for at most the time-out, and name resolution."""
        samples: list[Sample] = []
        with selectors.DefaultSelector() as waiting:
            try:
                self._collect(waiting, samples)
            finally:
                for key in list(waiting.get_map().values()):
                    waiting.unregister(key.fileobj)
                    key.data[0].close()
        answered = {one.server for one in samples}
        return agree(samples, [server for server in self._servers if server not in answered])

    def _collect(self, waiting: selectors.BaseSelector, samples: list[Sample]) -> None:
        """Send every question, then take the answers until all are there or the time is over."""
        resolved = {server: _resolve(*place) for server, place in self._servers.items()}
        # The wall clock is read once: what it does in between is the guard's to see.
        base, begun = (self._clock.now() - _EPOCH).total_seconds(), self._clock.monotonic()
        for server, found in resolved.items():
            if found is None:
                continue
            peer = socket.socket(found[0], socket.SOCK_DGRAM)
            peer.settimeout(0)
            # Random, as the time of this machine is nobody's business and nobody's guess either.
            cookie = self._entropy.draw(8)
            sent = base + self._clock.monotonic() - begun
            waiting.register(peer, selectors.EVENT_READ, (peer, server, int.from_bytes(cookie, "big"), sent))
            try:
                # Connected, so that the kernel lets answers from nowhere else in.
                peer.connect(found[1])
                peer.send(_ASK + cookie)
            except OSError:
                _forget(waiting, peer)
        end = self._clock.monotonic() + self._timeout_s
        while waiting.get_map() and (left := end - self._clock.monotonic()) > 0:
            for key, _ in waiting.select(left):
                peer, server, asked, sent = key.data
                try:
                    answer = peer.recv(1024)
                    received = base + self._clock.monotonic() - begun
                    samples.append(interpret(server, answer, Exchange(asked, sent, received)))
                except (OSError, ValueError):
                    # No time from this one; a forged answer before the real one costs a server its voice, no more.
                    pass
                _forget(waiting, peer)


def _forget(waiting: selectors.BaseSelector, peer: socket.socket) -> None:
    waiting.unregister(peer)
    peer.close()


def address(server: str) -> tuple[str, int]:
    """Split `host`, `host:port`, `[address]:port`, or raise OperatorError."""
    host, colon, port = server.rpartition(":")
    if not colon or (server.count(":") > 1 and not host.endswith("]")):
        host, port = server, str(PORT)
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise OperatorError(f"{server} is no NTP server's address", "write host, host:port or [address]:port")
    return host.strip("[]"), int(port)


def _resolve(host: str, port: int) -> tuple[int, tuple[str, int] | tuple[str, int, int, int]] | None:
    """Return address family and address, or None when the name leads nowhere."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    except (OSError, UnicodeError):
        return None
    return family, address  # type: ignore[return-value]  # typeshed also knows Bluetooth's addresses
