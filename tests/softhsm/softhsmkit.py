"""What the tests with a real SoftHSM2 share: PINs, and a token on disk."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from chancery.pkcs11 import TokenSettings, find_softhsm_module

LIBRARY = find_softhsm_module() or "/usr/lib/softhsm/libsofthsm2.so"
SO_PIN, PIN = b"so-pin-4711", b"user-pin-0815"
KINDS_TRIED = ("rsa-2048", "rsa-3072", "rsa-4096", "ec-p256", "ec-p384", "ec-p521", "ed25519")


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A token on disk."""

    directory: Path
    conf: Path
    label: str

    def settings(self, **changed) -> TokenSettings:
        given = {"module": LIBRARY, "label": self.label, "pin": lambda: PIN, "softhsm_conf": str(self.conf)}
        return TokenSettings(**(given | changed))
