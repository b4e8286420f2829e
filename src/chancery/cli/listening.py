"""Whether the ports of an installation can be had, asked before anything is made or started."""

from __future__ import annotations

import errno
import os
import socket
import time
from pathlib import Path

from chancery.cli.suite import Suite
from chancery.errors import OperatorError

PORTS = ("ca_port", "ocsp_port", "tsa_port")
_PRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def option(setting: str) -> str:
    """Return the option of `chancery up` that gives a setting."""
    return "--" + setting.replace("_", "-")


def check(suite: Suite, instead: str, seconds: float = 0.0) -> None:
    """
    Raise OperatorError when a port is given twice, is kept for root, or is in use after `seconds`.

    `instead` says where another port is chosen; `{setting}` and `{option}` stand for what chooses it.
    """
    deadline = time.monotonic() + seconds
    taken: dict[int, str] = {}
    for setting in PORTS:
        port = getattr(suite, setting)
        choose = instead.format(setting=setting, option=option(setting))
        if port in taken:
            raise OperatorError(f"{setting} and {taken[port]} are both {port}", choose)
        taken[port] = setting
        if port < _first_free():
            raise OperatorError(
                f"port {port} ({setting}) is kept for root, and no process of the suite runs as root",
                f"allow it with `sysctl net.ipv4.ip_unprivileged_port_start={port}`, or {choose}",
            )
        while (why := _refused(suite.address, port)) is not None:
            if why.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise OperatorError(
                    f"{suite.address} port {port} ({setting}) cannot be had: {_words(why)}",
                    f"stop what uses it (`ss -ltnp` shows that), or {choose}",
                )
            time.sleep(0.1)


def _first_free() -> int:
    """Return the first port that needs no privilege."""
    try:
        return int(_PRIVILEGED.read_text())
    except (OSError, ValueError):
        return 1024


def _words(why: OSError) -> str:
    """Return what the system says of it; a name that does not resolve has no errno of the system."""
    return os.strerror(why.errno) if why.errno is not None and why.errno > 0 else str(why.strerror)


def _refused(address: str, port: int) -> OSError | None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.create_server((address, port), family=family).close()
    except OSError as error:
        return error
    return None
