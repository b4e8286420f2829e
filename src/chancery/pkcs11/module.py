"""
A loaded PKCS#11 library: one per process and path, its slots and tokens, and its restart when a token went away.

SoftHSM 2.6 rewrites its token at every login, and a process that starts in that moment fails; so whatever
starts the library or logs in holds a file lock (`Module.exclusive`) that all processes share.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import fcntl
import os
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.pkcs11 import api
from chancery.pkcs11.api import CryptokiError, Functions, Return, TokenFlag
from chancery.pkcs11.keeping import kept_whole

LOCK_PATIENCE = 20.0  # seconds: a login through a network HSM takes a few, and several processes may queue
RECOVERY_PATIENCE = 4.0  # seconds, where requests wait meanwhile (R17 wants every answer within ten)
_LOADED: dict[str, Module] = {}
_LOADING = threading.Lock()
_FORKED = False


@dataclasses.dataclass(frozen=True, slots=True)
class LibraryInfo:
    """What a library says of itself (C_GetInfo)."""

    path: str
    manufacturer: str
    description: str
    version: str


@dataclasses.dataclass(frozen=True, slots=True)
class TokenDescription:
    """A token as its slot shows it (C_GetTokenInfo). `max_sessions` is None where the token sets no bound."""

    slot: int
    label: str
    manufacturer: str
    model: str
    serial: str
    pin_flags: TokenFlag
    max_sessions: int | None


class Attached(Protocol):
    """Something with sessions in the library, that must stand still while the library restarts."""

    def pause(self) -> None:
        """Let no new call begin and wait for those under way; raises PKIError(SYSTEM_UNAVAIL) when one hangs."""

    def resume(self, *, restarted: bool) -> None:
        """Go on; after a restart no handle of before may be used again."""

    def abandon(self) -> None:
        """Be closed without a call to the library: this is a forked child, the handles are the parent's."""


class Module:
    """A PKCS#11 library that this process has loaded and initialised. Make one with `Module.load`."""

    def __init__(self, path: str, functions: Functions, reserved: str | None) -> None:
        self.path = path
        self.functions = functions
        self.epoch = 0
        self.world = threading.RLock()  # held while sessions or logins are made, or the library restarts
        self._reserved = reserved
        self._conf: str | None = None
        self._attached: weakref.WeakSet[Attached] = weakref.WeakSet()

    @classmethod
    def load(cls, path: str, *, reserved: str | None = None, softhsm_conf: str | None = None) -> Module:
        """
        Load and initialise the library at `path`, once per process.

        `reserved` is the string some libraries want in C_Initialize; `softhsm_conf` is what SOFTHSM2_CONF
        shall name, and may change only while no token of the library is open. Raises OperatorError when
        the file is missing, is no PKCS#11 library, or does not start.
        """
        with _LOADING:
            real = os.path.realpath(path)
            module = _LOADED.get(real)
            if module is None:
                module = cls(path, _functions(path), reserved)
            module._use(softhsm_conf, fresh=real not in _LOADED)
            _LOADED[real] = module
            return module

    def _use(self, conf: str | None, *, fresh: bool) -> None:
        with self.world:
            if not fresh and conf == self._conf:
                return
            if not fresh and len(self._attached):
                raise OperatorError(
                    f"{self.path} is in use with the configuration {self._conf}, and one process has one",
                    f"close those tokens first, or use {conf} from another process",
                )
            if conf is not None:
                if not os.access(conf, os.R_OK):
                    raise OperatorError(
                        f"the SoftHSM configuration {conf} is missing or not readable",
                        "give the softhsm2.conf of this role's token, or run `chancery up` to make it",
                    )
                os.environ["SOFTHSM2_CONF"] = conf
            self._conf = conf
            try:
                with self.exclusive():
                    if not fresh:
                        self.functions.finalize()
                    self._initialize()
            except (CryptokiError, OSError) as error:
                raise OperatorError(f"{self.path} does not start ({error})", self._start_advice()) from error

    def _start_advice(self) -> str:
        if (conf := self._conf or os.environ.get("SOFTHSM2_CONF")) is not None:
            return f"check that {conf} names a token directory that exists and that this user may write"
        return "read the library's own log; SoftHSM wants its configuration named (softhsm_conf)"

    def _initialize(self) -> None:
        reserved = self._reserved.encode() if self._reserved is not None else None
        arguments = api.InitializeArgs(flags=api.CKF_OS_LOCKING_OK, reserved=reserved)
        self.epoch += 1
        try:
            self.functions.call("Initialize", ctypes.byref(arguments))
        except CryptokiError as error:
            if error.code != Return.CRYPTOKI_ALREADY_INITIALIZED:
                raise
            if _FORKED:  # the parent's state, copied: of no use here (PKCS#11 2.40, 5.4 on C_Initialize)
                self.functions.finalize()
                self.functions.call("Initialize", ctypes.byref(arguments))

    def restart(self) -> None:
        """
        Finalise and initialise the library, so that it looks at its tokens afresh.

        SoftHSM, and several network HSMs, see a token that came back in no other way. Every attached token
        stands still meanwhile. Raises CryptokiError when the library does not start again, and
        PKIError(SYSTEM_UNAVAIL) when a call hangs.
        """
        with self.world, contextlib.ExitStack() as stack:
            for token in list(self._attached):
                token.pause()
                stack.callback(token.resume, restarted=True)
            with self.exclusive(RECOVERY_PATIENCE):
                self.functions.finalize()
                self._initialize()

    def attach(self, token: Attached) -> None:
        self._attached.add(token)

    def detach(self, token: Attached) -> None:
        self._attached.discard(token)

    @contextlib.contextmanager
    def exclusive(self, patience: float | None = None) -> Iterator[None]:
        """
        Hold the lock that all processes using this library and configuration share.

        Raises PKIError(SYSTEM_UNAVAIL) when somebody else holds it for `patience` seconds (LOCK_PATIENCE). The
        lock is on a file that exists anyway (the configuration, or else the library) and goes with its process.
        SoftHSM's tokens survive a holder that is killed (`kept_whole`); OSError when that cannot be seen to.
        """
        path = self._conf or os.environ.get("SOFTHSM2_CONF", "")
        if os.path.isfile(path):  # noqa: PTH113 - "" is no Path
            with locked(Path(path), patience), kept_whole(Path(path)):
                yield
        else:
            with locked(Path(self.path), patience):
                yield

    def info(self) -> LibraryInfo:
        """Return C_GetInfo; raises CryptokiError."""
        info = api.Info()
        self.functions.call("GetInfo", ctypes.byref(info))
        version = f"{info.library_version.major}.{info.library_version.minor}"
        return LibraryInfo(self.path, api.text(info.manufacturer), api.text(info.description), version)

    def slots(self) -> list[int]:
        """Return the slots with a token in them; raises CryptokiError."""
        return self.functions.ulongs("GetSlotList", 1)

    def tokens(self) -> list[TokenDescription]:
        """Return every initialised token; one that does not answer is left out. Raises CryptokiError."""
        found = []
        for slot in self.slots():
            info = api.TokenInfo()
            try:
                self.functions.call("GetTokenInfo", slot, ctypes.byref(info))
            except CryptokiError:
                continue
            if info.flags & api.CKF_TOKEN_INITIALIZED:
                found.append(_described(slot, info))
        return found

    def uninitialized_slot(self) -> int | None:
        """Return a slot whose token waits for C_InitToken, if there is one; raises CryptokiError."""
        known = {token.slot for token in self.tokens()}
        return next((slot for slot in self.slots() if slot not in known), None)

    def mechanisms(self, slot: int) -> frozenset[int]:
        """Return the mechanisms (CKM_…) the token in this slot offers; raises CryptokiError."""
        return frozenset(self.functions.ulongs("GetMechanismList", slot))

    def abandon(self) -> None:
        """After a fork: close every token without a call to the library."""
        for token in list(self._attached):
            token.abandon()


def _described(slot: int, info: api.TokenInfo) -> TokenDescription:
    bound = info.max_session_count
    return TokenDescription(
        slot=slot,
        label=api.text(info.label),
        manufacturer=api.text(info.manufacturer),
        model=api.text(info.model),
        serial=api.text(info.serial),
        pin_flags=TokenFlag(info.flags & sum(TokenFlag)),
        max_sessions=None if bound in {0, api.CK_UNAVAILABLE_INFORMATION} else bound,
    )


def _functions(path: str) -> Functions:
    if not os.access(path, os.R_OK):
        raise OperatorError(
            f"there is no PKCS#11 library at {path}, or it cannot be read",
            "give the path of the library, e.g. /usr/lib/softhsm/libsofthsm2.so, or install it",
        )
    try:
        return Functions(path)
    except OSError as error:
        raise OperatorError(
            f"{path} cannot be loaded: {error}", "give a shared library of this machine's architecture"
        ) from error
    except AttributeError:
        raise OperatorError(
            f"{path} is a library but not a PKCS#11 one: it exports no C_GetFunctionList",
            "give the PKCS#11 library of the HSM's vendor",
        ) from None
    except CryptokiError as error:
        raise OperatorError(
            f"{path} does not hand out its functions ({error})", "read the library's log"
        ) from error


@contextlib.contextmanager
def locked(path: Path, patience: float | None = None) -> Iterator[None]:
    """
    Hold an exclusive flock on an existing file or directory; excludes threads and processes alike.

    Raises PKIError(SYSTEM_UNAVAIL) when it stays taken for `patience` seconds (LOCK_PATIENCE where not said).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        end = time.monotonic() + (LOCK_PATIENCE if patience is None else patience)
        while not _try_lock(descriptor):
            if time.monotonic() > end:
                raise PKIError(ErrorType.SYSTEM_UNAVAIL, "another process keeps the token's login lock")
            time.sleep(0.005)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _after_fork_in_child() -> None:
    global _LOADING, _FORKED
    # A lock that another thread of the parent held is never freed here.
    _LOADING, _FORKED = threading.Lock(), True
    for module in _LOADED.values():
        module.abandon()
    _LOADED.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
