"""
`python -m chancery.pkcs11.initialise`: one SoftHSM token made or looked at, in a process of its own.

A process has one SOFTHSM2_CONF per loaded library, so `prepare_softhsm` starts this program for each token.
It reads one JSON `Order` from standard input, because PINs do not belong into arguments or environment, and
writes one JSON `Outcome` to standard output.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from chancery.errors import OperatorError
from chancery.pkcs11 import api
from chancery.pkcs11.api import CryptokiError, TokenFlag
from chancery.pkcs11.login import choose, log_in, refuse_last_try
from chancery.pkcs11.module import Module
from chancery.pkcs11.softhsm import Order, Outcome, Preparation, prepare_softhsm


def initialise(order: Order) -> None:
    """Carry the order out; raises OperatorError."""
    module = Module.load(order.library, softhsm_conf=order.conf)
    try:
        with module.exclusive():
            if order.so_pin is not None:
                _make(module, order.label, order.so_pin, order.user_pin)
            _verify(module, order.label, order.user_pin)
    except CryptokiError as error:
        raise OperatorError(
            f"SoftHSM did not make or open token `{order.label}` ({error})",
            "PINs have 4 to 255 characters; check that the token directory can be written",
        ) from error
    finally:
        module.functions.finalize()


def _make(module: Module, label: str, so_pin: bytes, user_pin: bytes) -> None:
    slot = module.uninitialized_slot()
    if slot is None:
        raise OperatorError("the library shows no free slot to make a token in", "check that this is SoftHSM")
    module.functions.call("InitToken", slot, so_pin, len(so_pin), label.encode().ljust(32))
    token = choose(module.tokens(), label)
    with _session(module, token.slot) as session:
        log_in(module.functions, session, lambda: so_pin, token, api.CKU_SO)
        module.functions.call("InitPIN", session, user_pin, len(user_pin))


def _verify(module: Module, label: str, user_pin: bytes) -> None:
    token = choose(module.tokens(), label)
    refuse_last_try(token)
    if not token.pin_flags & TokenFlag.USER_PIN_INITIALIZED:
        raise OperatorError(f"token `{label}` has no user PIN", "set one with softhsm2-util --init-pin")
    with _session(module, token.slot) as session:
        log_in(module.functions, session, lambda: user_pin, token)


@contextlib.contextmanager
def _session(module: Module, slot: int) -> Iterator[int]:
    handle = ctypes.c_ulong()
    flags = api.CKF_SERIAL_SESSION | api.CKF_RW_SESSION
    module.functions.call("OpenSession", slot, flags, None, None, ctypes.byref(handle))
    try:
        yield handle.value
    finally:
        module.functions.call("CloseSession", handle.value)


def prepare(preparation: Preparation) -> None:
    """Make sure that the token is there; raises OperatorError."""
    try:
        pin = Path(preparation.pin_file).read_bytes().strip()
        directory = Path(preparation.directory)
        prepare_softhsm(directory, preparation.label, preparation.so_pin, pin, library=preparation.library)
    except OSError as error:
        raise OperatorError(
            f"{error.filename}: {error.strerror}", f"see who owns what is in {preparation.directory}"
        ) from error


def main() -> None:
    """Read the order or the preparation, as the first argument says, carry it out, tell the outcome."""
    said = sys.stdin.buffer.read()
    try:
        if sys.argv[1:] == ["prepare"]:
            prepare(msgspec.json.decode(said, type=Preparation))
        else:
            initialise(msgspec.json.decode(said, type=Order))
        outcome = Outcome()
    except OperatorError as error:
        outcome = Outcome(error.what, error.next_step)
    sys.stdout.buffer.write(msgspec.json.encode(outcome))


if __name__ == "__main__":
    main()
