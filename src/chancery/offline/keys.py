"""The offline CA's keys: planned in the journal, then made in the token, then recorded, each exactly once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from chancery.asn1.signature import KeySigner, PrivateKey, algorithm_for
from chancery.errors import OperatorError
from chancery.offline.bundle import sha256, spki
from chancery.offline.store import LocalStore
from chancery.ports import Clock, Event, EventKind


class KeyLabel(Protocol):
    """What a token says about a key."""

    @property
    def label(self) -> str: ...


class Token(Protocol):
    """
    A PKCS#11 token, logged in.

    `generate_key` and `find_key` return the private key and raise OperatorError when the label is taken, or
    absent; the key never leaves the token.
    """

    def generate_key(self, label: str, kind: str) -> PrivateKey: ...

    def find_key(self, label: str) -> PrivateKey: ...

    def keys(self) -> Sequence[KeyLabel]: ...


def ensure_key(store: LocalStore, token: Token, label: str, kind: str, *, clock: Clock, actor: str) -> None:
    """
    Make this key unless the journal has it. A key found in the token counts only if it was planned here.

    Raises OperatorError when the token holds a key of that label that this CA did not plan.
    """
    if label in store.state.keys:
        return
    held = token.keys()
    there = any(key.label == label for key in held)
    if label not in store.state.planned_keys:
        if there:
            raise OperatorError(
                f"the token holds a key labelled {label} that this offline CA did not make",
                "give the offline CA a token of its own",
            )
        store.plan_key(label, kind, [])
    # Planned, and in the token already: an earlier start stopped between making and recording it.
    key = token.find_key(label) if there else token.generate_key(label, kind)
    public = spki(key.public_key())
    detail = {"kind": kind, "spki_sha256": sha256(public), "token": "offline"}
    store.record_key(label, public, [Event(EventKind.KEY_GENERATED, clock.now(), actor, f"key:{label}", detail)])


def signer(store: LocalStore, token: Token, label: str, signature: str | None = None) -> KeySigner:
    """
    Return the signer of a key that the journal has recorded; `signature` as in `algorithm_for`.

    Raises OperatorError when the token holds another key, or none, under this label, and PKIError(BAD_ALG) when
    it does not sign so.
    """
    key = token.find_key(label)
    found = KeySigner(key, algorithm_for(key.public_key(), signature))
    if spki(found.public_key) != store.state.keys.get(label):
        raise OperatorError(
            f"the token's key {label} is not the one that the journal {store.journal.path} recorded",
            "give the token and the directory that belong together",
        )
    return found
