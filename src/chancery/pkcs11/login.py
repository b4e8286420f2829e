"""Choosing a token by its label and logging in to it, so that no PIN is ever tried twice or left in a buffer."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

from chancery.errors import HarmfulToRepeatError, OperatorError
from chancery.pkcs11 import api
from chancery.pkcs11.api import CryptokiError, Functions, Return, TokenFlag
from chancery.pkcs11.module import TokenDescription

_UNLOCK = "let the security officer set a new PIN (C_InitPIN; SoftHSM: softhsm2-util, others: the vendor's tool)"
_PIN_REFUSALS: dict[int, tuple[str, str]] = {
    Return.PIN_INCORRECT: (
        "is wrong",
        "put the right PIN where the configuration says; it was tried once, not again",
    ),
    Return.PIN_INVALID: (
        "has characters the token does not accept",
        "put the token's PIN where the configuration says",
    ),
    Return.PIN_LEN_RANGE: ("is too short or too long", "put the token's PIN, without a line break, in its place"),
    Return.PIN_EXPIRED: ("has expired", "set a new PIN with the vendor's tool"),
    Return.PIN_LOCKED: ("is locked", _UNLOCK),
    Return.USER_PIN_NOT_INITIALIZED: ("was never set", _UNLOCK),
}


class NoSuchTokenError(OperatorError):
    """No slot, or more than one, holds a token with the wanted label."""


class PINRefusedError(HarmfulToRepeatError):
    """The token refused the PIN; it is not to be tried again."""


def choose(tokens: Sequence[TokenDescription], label: str) -> TokenDescription:
    """Return the token with this label; NoSuchTokenError names those that were seen."""
    found = [token for token in tokens if token.label == label]
    if len(found) == 1:
        return found[0]
    seen = ", ".join(f"`{token.label}` (slot {token.slot})" for token in tokens) or "none"
    if found:
        raise NoSuchTokenError(
            f"{len(found)} tokens are labelled `{label}`: {seen}", "give each a label of its own"
        )
    raise NoSuchTokenError(
        f"no token is labelled `{label}`; tokens seen: {seen}",
        "correct the label, check that the HSM is connected and (SoftHSM) that softhsm_conf is this role's",
    )


def refuse_last_try(token: TokenDescription) -> None:
    """Raise OperatorError when the PIN is locked, or when one more wrong PIN would lock it."""
    where = f"token `{token.label}` (slot {token.slot})"
    if token.pin_flags & TokenFlag.USER_PIN_LOCKED:
        raise HarmfulToRepeatError(f"the PIN of {where} is locked", _UNLOCK)
    if token.pin_flags & TokenFlag.USER_PIN_FINAL_TRY:
        raise HarmfulToRepeatError(
            f"one wrong PIN more locks {where}; nothing was tried",
            "log in once by hand with the right PIN (pkcs11-tool --login --list-objects), then start again",
        )


def log_in(
    functions: Functions, session: int, pin: Callable[[], bytes], token: TokenDescription, user: int = api.CKU_USER
) -> None:
    """
    C_Login; a user who is logged in already is no error.

    The copy of the PIN that is handed to the library is wiped, and so is what `pin` returned if it is a
    bytearray. Raises PINRefusedError for a PIN the token refuses and CryptokiError for other failures.
    """
    value = pin()
    buffer = ctypes.create_string_buffer(bytes(value), len(value) + 1)
    try:
        functions.call("Login", session, user, buffer, len(value))
    except CryptokiError as error:
        if error.code == Return.USER_ALREADY_LOGGED_IN:
            return
        if error.code not in _PIN_REFUSALS:
            raise
        what, next_step = _PIN_REFUSALS[error.code]
        raise PINRefusedError(f"the PIN of token `{token.label}` (slot {token.slot}) {what}", next_step) from error
    finally:
        ctypes.memset(buffer, 0, len(buffer))
        if isinstance(value, bytearray):
            value[:] = bytes(len(value))
