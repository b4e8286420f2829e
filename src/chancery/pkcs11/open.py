"""`open_token`: from settings to a token that is logged in, whatever kind it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from chancery.errors import OperatorError
from chancery.pkcs11.module import Module
from chancery.pkcs11.softtoken import SoftToken
from chancery.pkcs11.token import Token


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TokenSettings:
    """
    Which token, and how to reach it: a PKCS#11 library at `module`, or a software token in `soft_directory`.

    `pin` is asked at every login and may return a bytearray, which is then wiped. `softhsm_conf` is what
    SOFTHSM2_CONF shall name; `reserved` the string some libraries want in C_Initialize. At most
    `max_sessions` signatures are made at a time.
    """

    module: str | None
    label: str
    pin: Callable[[], bytes]
    softhsm_conf: str | None = None
    soft_directory: str | None = None
    reserved: str | None = None
    max_sessions: int = 16


def open_token(settings: TokenSettings) -> Token | SoftToken:
    """
    Open and log in. Raises OperatorError naming what is wrong and the next step; a wrong PIN is tried once.

    A software token warns InsecureWarning.
    """
    if settings.soft_directory is not None:
        if settings.module is not None:
            raise OperatorError(
                f"token `{settings.label}` has both a PKCS#11 module and a software directory", "keep one of them"
            )
        return SoftToken(Path(settings.soft_directory), settings.label, settings.pin)
    if settings.module is None:
        raise OperatorError(
            f"token `{settings.label}` has no PKCS#11 module", "name one, e.g. /usr/lib/softhsm/libsofthsm2.so"
        )
    module = Module.load(settings.module, reserved=settings.reserved, softhsm_conf=settings.softhsm_conf)
    return Token(module, settings.label, settings.pin, max_sessions=settings.max_sessions)
