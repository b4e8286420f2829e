"""What chronyd says of the clock it disciplines: a `tracking` report over its command port (candm.h)."""

from __future__ import annotations

import dataclasses
import ipaddress
import socket
import struct

from chancery.cli.ntp import address
from chancery.errors import OperatorError
from chancery.ports import Clock, Entropy
from chancery.tsa.timekeeping import Leap, Measurement

COMMAND_PORT = "127.0.0.1:323"
TIMEOUT_S = 2.0
# version, packet type, reserved, command, attempt, sequence, padding; filled up to the length of the answer, so
# that nobody is sent more than was asked with.
_ASK = struct.Struct("!BBxxHHI8x84x")
# The same head with reply and status in place of attempt, then: reference id, address (16, family, padding),
# stratum, leap status, last update (seconds high and low, nanoseconds), current correction, last offset, RMS
# offset, frequency, residual frequency, skew, root delay, root dispersion, last update interval.
_ANSWER = struct.Struct("!BBxxHHH6xI8x4s20xHHIIIiiiiiiiii")
_VERSION, _REQUEST, _REPLY = 6, 1, 2
_TRACKING, _TRACKING_REPLY, _SUCCESS = 33, 5, 0
_UNSYNCHRONISED = 3
_LEAPS = {0: Leap.NONE, 1: Leap.INSERT, 2: Leap.DELETE}
_MAX_STRATUM = 15
# The `local` directive: chronyd follows its own clock and calls that synchronised.
_LOCAL = bytes((127, 127, 1, 1))


@dataclasses.dataclass(frozen=True, slots=True)
class Tracking:
    """
    chronyd's account: seconds still to be corrected, root delay and dispersion, when (`updated`) it last knew.

    `updated` is seconds and nanoseconds as sent: to be compared, and no more.
    """

    synchronised: bool
    reference: str
    leap: Leap
    updated: tuple[int, int, int]
    correction_s: float
    uncertainty_s: float


def interpret(answer: bytes, sequence: int) -> Tracking:
    """
    Read the answer to the question of that sequence number. Raises ValueError when it is none.

    The clock's error is bounded by what is left to correct + root dispersion + half the root delay (chronyc(1)).
    """
    if len(answer) < _ANSWER.size:
        raise ValueError("shorter than a tracking report")
    version, kind, command, reply, status, echoed, reference, stratum, leap, *rest = _ANSWER.unpack_from(answer)
    if (version, kind, command, echoed) != (_VERSION, _REPLY, _TRACKING, sequence):
        raise ValueError("no answer to this question")
    if (reply, status) != (_TRACKING_REPLY, _SUCCESS):
        raise ValueError("chronyd refuses")
    delay, dispersion = _float(rest[9]), _float(rest[10])
    return Tracking(
        leap != _UNSYNCHRONISED and 0 < stratum <= _MAX_STRATUM and reference != _LOCAL,
        f"{reference.hex().upper()}, stratum {stratum}",
        _LEAPS.get(leap, Leap.NONE),
        (rest[0], rest[1], rest[2]),
        _float(rest[3]),
        abs(dispersion) + abs(delay) / 2,
    )


def _float(value: int) -> float:
    """Read candm.h's Float: 7 bits of exponent, 25 of coefficient, both two's complement."""
    exponent, coefficient = value >> 25, value & 0x1FFFFFF
    return (coefficient - (coefficient >> 24 << 25)) * 2.0 ** (exponent - 25)


class ChronyTimeSource:
    """
    `tsa.timekeeping.TimeSource`: chronyd on this machine, which may speak NTS to its servers.

    `command_port` is its address, host:port on the loopback interface: on any other what is said there could be
    anybody's. OperatorError otherwise.
    """

    def __init__(
        self, clock: Clock, entropy: Entropy, command_port: str = COMMAND_PORT, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        host, self._port = address(command_port)
        try:
            self._host = ipaddress.ip_address(host)
        except ValueError:
            self._host = ipaddress.ip_address(0)
        if not self._host.is_loopback:
            raise OperatorError(
                f"{command_port} is not on this machine", "give chronyd's command port, as 127.0.0.1:323"
            )
        self._clock = clock
        self._entropy = entropy
        self._timeout_s = timeout_s
        self._last: tuple[tuple[int, int, int], float] | None = None
        self._knows_since = float("-inf")

    def measure(self) -> Measurement:
        """Ask chronyd. Blocks for at most the time-out; OSError when it is not there or answers nonsense."""
        begun = self._clock.monotonic()
        sequence = int.from_bytes(self._entropy.draw(4), "big")
        family = socket.AF_INET if self._host.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as peer:
            peer.settimeout(self._timeout_s)
            peer.connect((str(self._host), self._port))
            peer.send(_ASK.pack(_VERSION, _REQUEST, _TRACKING, 0, sequence))
            answer = peer.recv(1024)
        try:
            found = interpret(answer, sequence)
        except ValueError as error:
            raise OSError(str(error)) from error
        if self._last is not None and self._last[0] != found.updated:
            # It heard of a server since the question before this one, and has seen the clock as it was then.
            self._knows_since = self._last[1]
        self._last = found.updated, begun
        return Measurement(
            found.synchronised,
            found.correction_s,
            found.uncertainty_s,
            f"chrony: {found.reference}",
            independent=True,
            leap=found.leap,
            knows_since=self._knows_since,
        )
