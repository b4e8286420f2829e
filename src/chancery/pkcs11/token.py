"""
One token, logged in: a bounded pool of sessions that many threads share, and recovery when the token goes away.

A signature takes two calls (C_SignInit, C_Sign) in a session that no other thread has meanwhile. What fails
before C_Sign is tried again on a fresh session, after a new login or after a restart of the library. What
fails in C_Sign is never tried again here: the token may have made the signature.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Self, TypeVar

from chancery.asn1.signature import PrivateKey
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.pkcs11 import api, importing, objects
from chancery.pkcs11.api import CryptokiError, Return
from chancery.pkcs11.login import NoSuchTokenError, PINRefusedError, choose, log_in, refuse_last_try
from chancery.pkcs11.module import RECOVERY_PATIENCE, Module, TokenDescription
from chancery.pkcs11.objects import KeyInfo, KeyReference
from chancery.pkcs11.signer import Key, token_key

SESSION_PATIENCE = 8.0  # seconds a caller waits for a session before it hears SYSTEM_UNAVAIL
PAUSE_PATIENCE = 4.0  # seconds a restart of the library waits for calls under way
RECOVERY_PAUSE, LONGEST_PAUSE = 0.25, 2.0  # seconds between attempts to reach a token, doubling
_MAX_SIGNATURE = 5120  # octets; ML-DSA-87 has 4,627
# The key cannot do this; another session or login would not help.
_REFUSALS = frozenset(
    {
        Return.MECHANISM_INVALID,
        Return.MECHANISM_PARAM_INVALID,
        Return.KEY_TYPE_INCONSISTENT,
        Return.KEY_FUNCTION_NOT_PERMITTED,
        Return.FUNCTION_NOT_SUPPORTED,
    }
)
T = TypeVar("T")


class _Session:
    """A place in the pool: a session handle of some generation, with the buffers its calls write to."""

    __slots__ = ("buffer", "epoch", "generation", "handle", "length", "length_pointer", "view")

    def __init__(self) -> None:
        self.handle = 0
        self.generation = -1
        self.epoch = -1
        self.buffer = (ctypes.c_ubyte * _MAX_SIGNATURE)()
        self.view = memoryview(self.buffer)
        self.length = ctypes.c_ulong()
        self.length_pointer = ctypes.byref(self.length)


class Token:
    """
    A token with its user logged in. Safe to use from many threads; the GIL is free while the token works.

    `pin` is asked at every login and its buffer wiped afterwards. Raises OperatorError when no token has
    this label or the PIN is refused (a refused PIN is never tried twice, so that nothing gets locked).
    """

    def __init__(self, module: Module, label: str, pin: Callable[[], bytes], *, max_sessions: int = 16) -> None:
        self.module = module
        self.label = label
        self._pin = pin
        self._closed = False
        self._refused: OperatorError | None = None
        self._not_before = 0.0
        self._pause = RECOVERY_PAUSE
        self._generation = 0
        self._anchor, self._anchor_epoch = 0, -1
        self._paused = False
        self._waiting = 0
        self._condition = threading.Condition()
        self.description = self._connect_first()
        self._size = min(max_sessions, (self.description.max_sessions or max_sessions + 1) - 1) or 1
        self._idle = collections.deque(_Session() for _ in range(self._size))
        self._held: list[_Session] = []
        module.attach(self)

    # Keys

    def generate_key(self, label: str, kind: str) -> Key:
        """
        Generate a key pair that never leaves the token and return its private half. Kinds: `objects.KINDS`.

        Raises OperatorError when the label is taken or the token fails to make such a key (it is not tried
        twice), and PKIError(SYSTEM_UNAVAIL) when the token is away.
        """
        objects.check_kind(kind)
        functions = self.module.functions
        if objects.KINDS[kind][0] not in self.mechanisms:
            raise OperatorError(
                f"token `{self.label}` cannot generate {kind} keys",
                "choose another kind; `chancery hsm check` lists",
            )
        with self._writing(f"generating `{label}`") as session:
            if objects.private_keys(functions, session, label):
                raise OperatorError(
                    f"token `{self.label}` already has a key labelled `{label}`",
                    "use that key or choose another label",
                )
            objects.generate(functions, session, label, kind)
        return self.find_key(label)

    def import_key(self, label: str, key: PrivateKey) -> Key:
        """
        Write a key that was made elsewhere into the token, if it takes such a thing, and return it.

        Raises OperatorError when the label is taken, or the token or this suite does not take the key.
        """
        functions = self.module.functions
        with self._writing(f"importing `{label}`") as session:
            if objects.private_keys(functions, session, label):
                raise OperatorError(
                    f"token `{self.label}` already has a key labelled `{label}`", "choose another label"
                )
            importing.create(functions, session, label, key)
        return self.find_key(label)

    def find_key(self, label: str) -> Key:
        """
        Return the private key with this label.

        Raises OperatorError naming the labels that exist when it is absent or not unique, and
        PKIError(SYSTEM_UNAVAIL) when the token does not answer.
        """
        return token_key(self, self._read(lambda session: self._find(session, label)))

    def keys(self) -> list[KeyInfo]:
        """Return every private key of the token, by label."""
        functions = self.module.functions
        infos = self._read(
            lambda session: [
                objects.describe(functions, session, key) for key in objects.private_keys(functions, session)
            ]
        )
        return sorted(infos, key=lambda info: info.label)

    def destroy_key(self, label: str) -> None:
        """Destroy a key pair for ever. Raises OperatorError when no single key has this label."""
        with self._writing(f"destroying `{label}`") as session:
            objects.destroy(self.module.functions, session, self._find(session, label).place[1])

    def close(self) -> None:
        """Log out and close every session, once; a key of this token then raises PKIError(SYSTEM_UNAVAIL)."""
        if self._closed:
            return
        with self.module.world:
            self._closed = self._paused = True
            self.module.detach(self)
            with self._condition:
                self._condition.notify_all()
            while self._idle:
                self._drop(self._idle.pop())
            self._close_session(self._anchor, self._anchor_epoch)

    def pause(self) -> None:
        """Take every session out of use; raises PKIError(SYSTEM_UNAVAIL) when a call in one of them hangs."""
        end = time.monotonic() + PAUSE_PATIENCE
        self._paused = True
        while len(self._held) < self._size:
            with contextlib.suppress(IndexError):
                self._held.append(self._idle.pop())
                continue
            if time.monotonic() > end:
                self.resume(restarted=False)
                raise PKIError(ErrorType.SYSTEM_UNAVAIL, "a call to the token hangs")
            time.sleep(0.001)

    def resume(self, *, restarted: bool) -> None:
        """Let calls begin again; after a restart on new sessions and a new login only."""
        self._generation += restarted
        self._idle.extend(self._held)
        self._held.clear()
        self._paused = self._closed
        with self._condition:
            self._condition.notify_all()

    def abandon(self) -> None:
        """Be closed, in a forked child, without a call to the library and without the parent's locks."""
        self._closed = self._paused = True
        self._condition = threading.Condition()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # Signatures

    def sign(self, reference: KeyReference, mechanism: Any, data: bytes) -> bytes:
        """
        Sign `data` under a CK_MECHANISM (by reference) and return what the token returned.

        Raises PKIError(SYSTEM_UNAVAIL) when the token does not answer, and CryptokiError when it refuses
        the mechanism for this key (then no signature was begun).
        """
        for attempt in range(3):
            generation = self._generation
            session = self._take()
            try:
                code = self._begin(session, reference, mechanism)
                if not code:
                    if attempt:
                        self._pause = RECOVERY_PAUSE
                    return self._finish(session, data)
            finally:
                self._give(session)
            if code in _REFUSALS:
                raise CryptokiError("C_SignInit", code)
            if attempt < 2:
                self._recover(generation, restart=attempt > 0)
        self._back_off()
        raise PKIError(ErrorType.SYSTEM_UNAVAIL, f"the token does not sign ({api.return_name(code)})")

    def _begin(self, session: _Session, reference: KeyReference, mechanism: Any) -> int:
        """C_SignInit, after bringing session and key handle up to date; returns its return value."""
        try:
            if session.generation != self._generation:
                self._open(session)
            generation, handle = reference.place
            if generation != session.generation:
                handle = self._find_again(session, reference)
        except CryptokiError as error:
            return error.code
        code: int = self.module.functions.sign_init(session.handle, mechanism, handle)
        return code

    def _finish(self, session: _Session, data: bytes) -> bytes:
        session.length.value = _MAX_SIGNATURE
        code = self.module.functions.sign(session.handle, data, len(data), session.buffer, session.length_pointer)
        if code:
            session.generation = -1  # whatever state it is in, nobody uses it again
            raise PKIError(
                ErrorType.SYSTEM_UNAVAIL,
                f"the token failed while signing ({api.return_name(code)}); whether it signed is not known",
            )
        return session.view[: session.length.value].tobytes()

    def _find_again(self, session: _Session, reference: KeyReference) -> int:
        """
        Look a key up after a new login; another key under the same label is not taken for it.

        A key that is not found is a token that is away: SoftHSM goes on without its files until restarted.
        """
        try:
            found = self._find(session.handle, reference.label)
        except OperatorError as error:
            raise CryptokiError("C_FindObjects", Return.OBJECT_HANDLE_INVALID) from error
        if found.public_key != reference.public_key:
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the token came back with another key under the same label")
        reference.place = (session.generation, found.place[1])
        return found.place[1]

    def _find(self, session: int, label: str) -> KeyReference:
        functions = self.module.functions
        found = objects.private_keys(functions, session, label)
        if len(found) == 1:
            public_key = objects.public_key(functions, session, found[0])
            return KeyReference(label, public_key, (-1, found[0]))
        if found:
            raise OperatorError(
                f"token `{self.label}` holds {len(found)} keys labelled `{label}`",
                "give each key a label of its own",
            )
        keys = objects.private_keys(functions, session)
        labels = sorted(objects.describe(functions, session, key).label for key in keys)
        raise OperatorError(
            f"token `{self.label}` holds no key labelled `{label}`; it holds {', '.join(labels) or 'none'}",
            "correct the label, or generate the key",
        )

    # Sessions

    def _take(self) -> _Session:
        if not self._paused:
            try:
                return self._idle.pop()
            except IndexError:
                pass
        return self._wait()

    def _wait(self) -> _Session:
        """
        Wait for a session. `_waiting` is counted up before the last look and `_give` reads it after
        its append, so one of the two always sees the other.
        """
        end = time.monotonic() + SESSION_PATIENCE
        with self._condition:
            self._waiting += 1
            try:
                while True:
                    if self._closed:
                        raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the token was closed")
                    if self._idle and not self._paused:
                        with contextlib.suppress(IndexError):
                            return self._idle.pop()
                    if not self._condition.wait(end - time.monotonic()):
                        raise PKIError(
                            ErrorType.SYSTEM_UNAVAIL, f"all {self._size} sessions of the token are busy"
                        )
            finally:
                self._waiting -= 1

    def _give(self, session: _Session) -> None:
        if self._closed:
            self._drop(session)
            return
        self._idle.append(session)
        if self._waiting:
            with self._condition:
                self._condition.notify_all()

    def _open(self, session: _Session) -> None:
        """Open it anew. No restart comes between, because a restart waits until it has every session."""
        self._drop(session)
        generation = self._generation
        if self._anchor_epoch != self.module.epoch:  # nobody has logged in since the restart
            raise CryptokiError("C_OpenSession", Return.USER_NOT_LOGGED_IN)
        session.handle = self._new_session(self.description.slot)
        session.generation, session.epoch = generation, self.module.epoch

    def _new_session(self, slot: int, flags: int = api.CKF_SERIAL_SESSION) -> int:
        handle = ctypes.c_ulong()
        self.module.functions.call("OpenSession", slot, flags, None, None, ctypes.byref(handle))
        return handle.value

    def _drop(self, session: _Session) -> None:
        """Close a session, unless the library restarted since: then its number may be another's."""
        self._close_session(session.handle, session.epoch)
        session.handle, session.generation = 0, -1

    def _close_session(self, handle: int, epoch: int) -> None:
        if handle and epoch == self.module.epoch:
            with contextlib.suppress(CryptokiError):
                self.module.functions.call("CloseSession", handle)

    def _read(self, look: Callable[[int], T]) -> T:
        """Run something that changes nothing in a session, again after a recovery when the token fails."""
        for attempt in range(3):
            generation = self._generation
            session = self._take()
            try:
                if session.generation != self._generation:
                    self._open(session)
                self._check_login(session.handle)
                return look(session.handle)
            except CryptokiError as error:
                session.generation = -1
                if attempt == 2:
                    raise PKIError(ErrorType.SYSTEM_UNAVAIL, f"the token does not answer ({error})") from error
            finally:
                self._give(session)
            self._recover(generation, restart=attempt > 0)
        raise AssertionError("the last attempt returns or raises")

    def _check_login(self, session: int) -> None:
        """Raise CryptokiError unless the user is logged in: otherwise private keys are silently not found."""
        info = api.SessionInfo()
        self.module.functions.call("GetSessionInfo", session, ctypes.byref(info))
        if info.state not in api.CKS_USER_FUNCTIONS:
            raise CryptokiError("C_GetSessionInfo", Return.USER_NOT_LOGGED_IN)

    @contextlib.contextmanager
    def _writing(self, doing: str) -> Iterator[int]:
        """A session for one change to the token, while no other process changes it; a failure is final."""
        self._read(lambda _: None)  # recovers if need be
        with self.module.world, self.module.exclusive():
            session = 0
            try:
                session = self._new_session(self.description.slot, api.CKF_SERIAL_SESSION | api.CKF_RW_SESSION)
                yield session
            except CryptokiError as error:
                raise OperatorError(
                    f"token `{self.label}` failed while {doing} ({error})",
                    "see with `chancery hsm check` what the token holds and offers, then try again",
                ) from error
            finally:
                self._close_session(session, self.module.epoch)

    # Login and recovery

    def _connect_first(self) -> TokenDescription:
        with self.module.world:
            try:
                return self._connect()
            except (CryptokiError, OSError) as error:
                raise OperatorError(
                    f"token `{self.label}` in {self.module.path} does not answer ({error})",
                    "check that the HSM is reachable, then run `chancery hsm check`",
                ) from error

    def _connect(self, patience: float | None = None) -> TokenDescription:
        """
        Find the token, log in on a session that stays open, and begin a new generation.

        Raises CryptokiError while the token is away, OperatorError when it is absent or refuses the PIN.
        """
        with self.module.exclusive(patience):
            description = choose(self.module.tokens(), self.label)
            refuse_last_try(description)
            anchor = self._new_session(description.slot)
            try:
                log_in(self.module.functions, anchor, self._pin, description)
                self.mechanisms = self.module.mechanisms(description.slot)
            except BaseException:
                self._close_session(anchor, self.module.epoch)
                raise
        old, old_epoch = self._anchor, self._anchor_epoch
        self._anchor, self._anchor_epoch, self.description = anchor, self.module.epoch, description
        self._generation += 1
        self._close_session(old, old_epoch)
        return description

    def _recover(self, seen: int, *, restart: bool) -> None:
        """
        Reach the token again, unless another thread did since generation `seen`.

        First by a new login, then by a restart of the library. Raises PKIError(SYSTEM_UNAVAIL) when neither
        helps, and at once while a pause lasts, so that callers do not queue up behind a dead token.
        """
        with self.module.world:
            if self._generation != seen:
                return
            if self._closed:
                raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the token was closed")
            if self._refused is not None or time.monotonic() < self._not_before:
                raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the token is away") from self._refused
            try:
                self._reach(restart=restart)
            except PINRefusedError as error:
                self._refused = error
                raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the token is away") from error
            except (CryptokiError, OperatorError, OSError) as error:
                self._back_off()
                raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the token is away") from error

    def _back_off(self) -> None:
        self._not_before = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _reach(self, *, restart: bool) -> None:
        if not restart:
            with contextlib.suppress(CryptokiError, NoSuchTokenError):
                self._connect(RECOVERY_PATIENCE)
                return
        self.module.restart()
        self._connect(RECOVERY_PATIENCE)
