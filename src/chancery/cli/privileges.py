"""Giving up root: each process of an installation runs under a user id of its own."""

from __future__ import annotations

import ctypes
import encodings.aliases
import importlib
import os
import pkgutil
import signal

from chancery.errors import OperatorError

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
# Imported by name at the moment of need; the interpreter may lie where the new user may not look.
LAZY = (
    "concurrent.futures.thread",
    "encodings.idna",
    "json.decoder",
    "linecache",
    "stringprep",
    "traceback",
    "unicodedata",
    "uvicorn.lifespan.off",
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
)


def become(uid: int | None) -> None:
    """
    Change to this user and group id for good, without any supplementary group; nothing for None.

    Must be called before any thread is started and before the token or the database is opened.
    OperatorError when the process may not, or already is somebody else.
    """
    if uid is not None and os.geteuid() != uid:
        if os.geteuid() != 0:
            raise OperatorError(
                f"run_as = {uid}, but the process runs as user {os.geteuid()}",
                "start it as root or as that user, or take run_as out of its configuration",
            )
        _import_ahead()
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # no core file, no ptrace by the same user: PINs are in memory
    os.umask(0o077)


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the supervisor dies, so that nothing is left without one."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _import_ahead() -> None:
    for name in LAZY:
        importlib.import_module(name)
    for codec in ("ascii", "latin_1", "utf_8", "utf_8_sig", "utf_16", "cp437", "charmap", "unicode_escape"):
        importlib.import_module(f"encodings.{encodings.aliases.aliases.get(codec, codec)}")
    import chancery  # noqa: PLC0415 - every module of the product, so that none is looked for afterwards

    for module in pkgutil.walk_packages(chancery.__path__, "chancery."):
        if not module.name.startswith("chancery.cli."):
            importlib.import_module(module.name)
