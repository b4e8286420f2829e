"""
What `chancery hsm check` finds out: library, slot, token, PIN state, mechanisms, keys, and whether each key signs.

Every failure names its cause and the next step. A check never logs in when one wrong PIN more would lock
the token, and tries the PIN once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from cryptography.exceptions import InvalidSignature

from chancery.asn1.signature import ALGORITHMS, KeySigner, PrivateKey, Scheme, SignatureAlgorithm, algorithm_for
from chancery.errors import OperatorError, PKIError
from chancery.pkcs11.api import CryptokiError, Mechanism, TokenFlag
from chancery.pkcs11.login import choose
from chancery.pkcs11.module import LibraryInfo, Module
from chancery.pkcs11.objects import KINDS, KeyInfo
from chancery.pkcs11.open import TokenSettings, open_token
from chancery.pkcs11.softtoken import SoftToken
from chancery.pkcs11.token import Token

_MESSAGE = b"chancery hsm check"
_SIGNING = {
    "RSA PKCS#1": {Mechanism.RSA_PKCS, Mechanism.SHA256_RSA_PKCS},
    "RSA PSS": {Mechanism.RSA_PKCS_PSS, Mechanism.SHA256_RSA_PKCS_PSS},
    "ECDSA": {Mechanism.ECDSA, Mechanism.ECDSA_SHA256},
    "Ed25519": {Mechanism.EDDSA},
    "ML-DSA": {Mechanism.ML_DSA},
}


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong, and what to do about it."""

    what: str
    next_step: str


@dataclasses.dataclass(frozen=True, slots=True)
class KeyReport:
    """A key of the token, and the algorithms under which it signed and the signature verified."""

    label: str
    kind: str
    extractable: bool
    signs: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class HSMReport:
    """What was found, as far as the check came, and what is wrong. No problem: the token can be used."""

    library: LibraryInfo | None = None
    slot: int | None = None
    label: str = ""
    model: str = ""
    serial: str = ""
    pin_state: str = "not known"
    logged_in: bool = False
    mechanisms: tuple[str, ...] = ()
    generates: tuple[str, ...] = ()
    signs: tuple[str, ...] = ()
    keys: tuple[KeyReport, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems


def check_token(settings: TokenSettings, expected: Sequence[str] = (), *, numbered: bool = False) -> HSMReport:
    """
    Check the token of these settings and the round trip of every key; `expected` labels must be there.

    `numbered`: or a key that has followed it, `LABEL-2`, `LABEL-3` ….
    Returns what was found and never raises for what an operator can put right. Opens and closes the token.
    """
    check = _Check(settings)
    try:
        check.look()
        check.enter(expected, numbered=numbered)
    except OperatorError as error:
        check.problem(error.what, error.next_step)
    except PKIError as error:
        check.problem(error.detail, "check that the token is reachable, then check again")
    return check.report


class _Check:
    """A check under way: `report` holds what has been found so far."""

    def __init__(self, settings: TokenSettings) -> None:
        self.settings = settings
        self.report = HSMReport(label=settings.label)

    def note(self, **found: Any) -> None:
        self.report = dataclasses.replace(self.report, **found)

    def problem(self, what: str, next_step: str) -> None:
        self.note(problems=(*self.report.problems, Problem(what, next_step)))

    def look(self) -> None:
        """See what can be seen without a login."""
        if self.settings.module is None or self.settings.soft_directory is not None:
            return
        module = Module.load(
            self.settings.module, reserved=self.settings.reserved, softhsm_conf=self.settings.softhsm_conf
        )
        try:
            self.note(library=module.info())
            token = choose(module.tokens(), self.settings.label)
            offered = module.mechanisms(token.slot)
        except CryptokiError as error:
            raise OperatorError(f"{module.path} does not answer ({error})", "read the library's log") from error
        self.note(
            slot=token.slot,
            model=token.model,
            serial=token.serial,
            pin_state=pin_state(token.pin_flags),
            mechanisms=tuple(f"CKM_{mechanism.name}" for mechanism in Mechanism if mechanism in offered),
            generates=tuple(kind for kind, (mechanism, _) in KINDS.items() if mechanism in offered),
            signs=tuple(name for name, any_of in _SIGNING.items() if any_of & offered),
        )

    def enter(self, expected: Sequence[str], *, numbered: bool) -> None:
        """Log in and try every key."""
        with contextlib.closing(open_token(self.settings)) as token:
            self.note(logged_in=True)
            infos = token.keys()
            for info in infos:
                self._try_key(token, info)
        labels = sorted(info.label for info in infos)
        held = {*labels, *(re.sub(r"-[1-9][0-9]*\Z", "", label) for label in labels if numbered)}
        for label in expected:
            if label not in held:
                self.problem(
                    f"token `{self.report.label}` holds no key labelled `{label}`, which the configuration names; "
                    f"it holds {', '.join(labels) or 'none'}",
                    "correct the label in the configuration, or generate the key",
                )

    def _try_key(self, token: Token | SoftToken, info: KeyInfo) -> None:
        signs: list[str] = []
        try:
            key = token.find_key(info.label)
            for algorithm in _algorithms(key):
                if (trouble := _round_trip(key, algorithm)) is None:
                    signs.append(algorithm.name)
                else:
                    self.problem(
                        f"key `{info.label}` does not sign {algorithm.name}: {trouble}",
                        "see the token's mechanisms; use another algorithm, or a key that this token signs with",
                    )
        except OperatorError as error:
            self.problem(error.what, error.next_step)
        if info.extractable and isinstance(token, Token):
            self.problem(
                f"key `{info.label}` can be extracted from the token",
                "replace it by one that `chancery` generates, which cannot",
            )
        self.note(keys=(*self.report.keys, KeyReport(info.label, info.kind, info.extractable, tuple(signs))))


def _algorithms(key: PrivateKey) -> list[SignatureAlgorithm]:
    """The algorithm this suite signs with by default, and PSS for RSA."""
    public_key = key.public_key()
    usual = algorithm_for(public_key)
    return [usual, ALGORITHMS["rsassaPss-sha256"]] if usual.scheme is Scheme.RSA_PKCS1 else [usual]


def _round_trip(key: PrivateKey, algorithm: SignatureAlgorithm) -> str | None:
    """Sign and verify; returns what went wrong."""
    try:
        signer = KeySigner(key, algorithm)
        algorithm.verify(signer.public_key, signer.sign(_MESSAGE), _MESSAGE)
    except PKIError as error:
        return error.detail
    except InvalidSignature:
        return "the signature does not verify under the token's public key"
    return None


def pin_state(flags: TokenFlag) -> str:
    """Put the PIN flags of CK_TOKEN_INFO into words."""
    if flags & TokenFlag.USER_PIN_LOCKED:
        return "locked"
    if flags & TokenFlag.USER_PIN_FINAL_TRY:
        return "one try left before it is locked"
    if flags & TokenFlag.USER_PIN_COUNT_LOW:
        return "set; a wrong PIN was tried since the last login"
    if flags & TokenFlag.USER_PIN_TO_BE_CHANGED:
        return "has to be changed before use"
    return "set" if flags & TokenFlag.USER_PIN_INITIALIZED else "never set"
