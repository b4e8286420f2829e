"""The machine's clocks and randomness, and what it knows of how right its wall clock is. Read here only."""

from __future__ import annotations

import ctypes
import datetime
import os
import time
import warnings
from collections.abc import Sequence
from typing import ClassVar, Literal

from chancery.cli.chrony import COMMAND_PORT, ChronyTimeSource
from chancery.cli.ntp import NTPTimeSource
from chancery.errors import InsecureWarning, OperatorError
from chancery.tsa.timekeeping import Leap, Measurement, TimeSource

# include/uapi/linux/timex.h
_STA_UNSYNC = 0x0040
_STA_CLOCKERR = 0x1000
_STA_NANO = 0x2000
_TIME_INS, _TIME_DEL, _TIME_OOP, _TIME_WAIT, _TIME_ERROR = 1, 2, 3, 4, 5
_LEAPS = {_TIME_INS: Leap.INSERT, _TIME_DEL: Leap.DELETE, _TIME_OOP: Leap.NOW}


class SystemClock:
    """`ports.Clock`: the wall clock and the monotonic clock of this machine."""

    def now(self) -> datetime.datetime:
        """Return the wall clock's time, aware UTC."""
        return datetime.datetime.now(datetime.UTC)  # noqa: TID251 - this is the Clock

    def monotonic(self) -> float:
        """Return seconds that never go back and do not follow the wall clock's steps."""
        return time.monotonic()


class SystemEntropy:
    """`ports.Entropy`: the kernel's CSPRNG."""

    def draw(self, size: int) -> bytes:
        """Return `size` octets."""
        return os.urandom(size)


class Timex(ctypes.Structure):
    """`struct timex` of adjtimex(2)."""

    _fields_: ClassVar = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("time_sec", ctypes.c_long),
        ("time_usec", ctypes.c_long),
        ("tick", ctypes.c_long),
        ("ppsfreq", ctypes.c_long),
        ("jitter", ctypes.c_long),
        ("shift", ctypes.c_int),
        ("stabil", ctypes.c_long),
        ("jitcnt", ctypes.c_long),
        ("calcnt", ctypes.c_long),
        ("errcnt", ctypes.c_long),
        ("stbcnt", ctypes.c_long),
        ("tai", ctypes.c_int),
        ("reserved", ctypes.c_int * 11),
    ]


def interpret(state: int, timex: Timex) -> Measurement:
    """
    Say what adjtimex(2) returned (`state` and the filled structure) as a measurement.

    maxerror bounds the distance to UTC as the NTP daemon last set it; the kernel lets it grow by 500 ppm until
    the daemon speaks again, and sets STA_UNSYNC when the clock is stepped. offset is what is still to be slewed.
    """
    unit = 1e-9 if timex.status & _STA_NANO else 1e-6
    return Measurement(
        synchronised=state != _TIME_ERROR and not timex.status & (_STA_UNSYNC | _STA_CLOCKERR),
        offset_s=timex.offset * unit,
        uncertainty_s=timex.maxerror * 1e-6,
        source="kernel",
        independent=True,
        leap=_LEAPS.get(state, Leap.NONE),
    )


class KernelTimeSource:
    """
    The kernel's own account of its NTP discipline, through adjtimex(2), read only.

    Synchronisation by chrony, ntpd, systemd-timesyncd or linuxptp shows here alike. OperatorError where there is
    no such call.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        if not hasattr(self._library, "adjtimex"):
            raise OperatorError(
                "this system has no adjtimex(2)", "run the timestamping authority on Linux, or see `time_source`"
            )

    def measure(self) -> Measurement:
        """Ask the kernel. Raises OSError when it refuses."""
        timex = Timex()
        state: int = self._library.adjtimex(ctypes.byref(timex))
        if state < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return interpret(state, timex)


class TrustedSystemClock:
    """
    Believes the wall clock without asking anybody: for a laptop, never for relying parties.

    It cannot excuse a jump, so after one the authority stays silent until it is started again.
    """

    def __init__(self) -> None:
        warnings.warn(
            "timestamps are made from the system clock, and nobody checks that it is right", InsecureWarning, 2
        )

    def measure(self) -> Measurement:
        """Say that all is well."""
        return Measurement(
            synchronised=True,
            offset_s=0.0,
            uncertainty_s=0.0,
            source="trust-system-clock",
            independent=False,
        )


def time_source(
    name: Literal["kernel", "chrony", "ntp", "trust-system-clock"],
    servers: Sequence[str] = (),
    command_port: str = COMMAND_PORT,
    *,
    production: bool,
) -> TimeSource:
    """Return the configured time source. Raises OperatorError for a trusted clock in production (R23)."""
    if name == "kernel":
        return KernelTimeSource()
    if name == "chrony":
        return ChronyTimeSource(SystemClock(), SystemEntropy(), command_port)
    if name == "ntp":
        return NTPTimeSource(servers, SystemClock(), SystemEntropy())
    if production:
        raise OperatorError(
            "time_source `trust-system-clock` is refused in production",
            'synchronise the host with chrony or another NTP daemon and set time_source = "chrony" or "kernel"',
        )
    return TrustedSystemClock()
