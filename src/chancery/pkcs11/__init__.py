"""Tokens: PKCS#11 libraries, SoftHSM2 and the software token; keys in them that look like pyca's."""

from chancery.pkcs11.module import Module
from chancery.pkcs11.objects import KINDS, KeyInfo
from chancery.pkcs11.open import TokenSettings, open_token
from chancery.pkcs11.signer import Key
from chancery.pkcs11.softhsm import find_softhsm_module, prepare_softhsm
from chancery.pkcs11.softtoken import SoftToken
from chancery.pkcs11.token import Token

__all__ = [
    "KINDS",
    "Key",
    "KeyInfo",
    "Module",
    "SoftToken",
    "Token",
    "TokenSettings",
    "find_softhsm_module",
    "open_token",
    "prepare_softhsm",
]
