"""A timestamping unit's keys in its token: the first has the configured label, each later one a number (R25)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from chancery.asn1.signature import KeySigner
from chancery.cli import build
from chancery.config import UnitSection
from chancery.errors import OperatorError
from chancery.pkcs11 import SoftToken, Token


def number_of(label: str, base: str) -> int | None:
    """Return the place of a key in the row BASE, BASE-2, BASE-3 …, None when it is not in it."""
    found = re.fullmatch(re.escape(base) + r"(?:-([1-9][0-9]{0,5}))?", label)
    number = int(found[1] or 1) if found else None
    return None if number == 1 and label != base else number


def family(labels: Iterable[str], base: str) -> list[str]:
    """Return the labels of this row, the newest first."""
    numbered = [(number, label) for label in labels if (number := number_of(label, base)) is not None]
    return [label for _, label in sorted(numbered, reverse=True)]


def following(label: str, base: str) -> str:
    """Return the label of the key after this one."""
    return f"{base}-{(number_of(label, base) or 1) + 1}"


def signers(token: Token | SoftToken, unit: UnitSection) -> list[KeySigner]:
    """Return signers of the unit's keys, the newest first; OperatorError when there is none."""
    kinds = {info.label: info.kind for info in token.keys()}  # noqa: SIM118 - a token is no mapping
    labels = family(kinds, unit.key_label)
    if not labels:
        raise OperatorError(
            f"the token holds no key labelled {unit.key_label} for the timestamping unit {unit.name}",
            "correct `key_label`, or make the key with `chancery tsa-key new`",
        )
    # A fresh key may be of another kind than the one before; `signature` says how RSA signs.
    return [
        build.signer(token, label, unit.signature if kinds[label].startswith("rsa") else None) for label in labels
    ]
