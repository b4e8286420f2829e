"""The worker's tokens: one that is away at the start is opened later, and never with a PIN that was refused."""

from __future__ import annotations

import threading

import pytest

from cakit import key
from chancery.asn1.signature import ALGORITHMS
from chancery.cli.tokens import WorkerTokens
from chancery.config import TokenSection
from chancery.errors import ErrorType, HarmfulToRepeatError, OperatorError, PKIError

SECTIONS = {
    label: TokenSection(label=label, module="/m.so", pin_prompt=True, softhsm_conf=None)  # type: ignore[arg-type]  # - no file is touched
    for label in ("first", "second")
}


class FakeToken:
    """A token whose only key is `key`."""

    def __init__(self, kind: str = "rsa-2048", name: str = "subject") -> None:
        self.key = key(name, kind)
        self.closed = False
        self.away = False

    def find_key(self, label: str):
        if self.away:
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the token is away")
        if label != "key":
            raise OperatorError(f"no key {label}", "correct it")
        return self.key

    def close(self) -> None:
        self.closed = True


class Shelf:
    """Opens what stands on it; an error stands for itself."""

    def __init__(self, **tokens) -> None:
        self.tokens = tokens
        self.opened: list[str] = []

    def __call__(self, section: TokenSection):
        self.opened.append(section.label)
        found = self.tokens[section.label]
        if isinstance(found, Exception):
            raise found
        return found


def reached(tokens: WorkerTokens, label: str) -> bool:
    """Ask once, wait for the thread that finds out, and return what it found."""
    assert not tokens.reach(label), "the answer is never waited for"
    for thread in threading.enumerate():
        if thread.name == f"reach {label}":
            thread.join()
    return label in tokens._answers and tokens.reach(label)


AWAY = OperatorError("no token is labelled `second`", "connect it")
PUBLIC = key("subject", "rsa-2048").public_key()


def test_a_token_that_comes_later_signs_then():
    shelf = Shelf(first=FakeToken(), second=AWAY)
    tokens = WorkerTokens(SECTIONS, shelf)
    signer = tokens.signer("second", "key", PUBLIC, "rsassaPss-sha384")
    assert ALGORITHMS["rsassaPss-sha384"] == signer.algorithm
    assert PUBLIC == signer.public_key
    with pytest.raises(PKIError) as failed:
        signer.sign(b"m")
    assert ErrorType.SYSTEM_UNAVAIL is failed.value.type
    assert not reached(tokens, "second")
    shelf.tokens["second"] = FakeToken()
    assert reached(tokens, "second")
    signer.algorithm.verify(PUBLIC, signer.sign(b"m"), b"m")
    with pytest.raises(OperatorError, match="no key other"):
        tokens.signer("first", "other", PUBLIC)
    tokens.close()
    assert [True, True] == [token.closed for token in shelf.tokens.values()]


def test_an_open_token_that_went_away_is_asked_for_its_keys():
    shelf = Shelf(first=FakeToken(), second=FakeToken())
    tokens = WorkerTokens(SECTIONS, shelf)
    tokens.signer("second", "key", PUBLIC)
    shelf.tokens["second"].away = True
    assert not reached(tokens, "second")
    shelf.tokens["second"].away = False
    assert reached(tokens, "second")
    assert ["first", "second"] == shelf.opened


def test_another_key_under_the_label_is_not_taken_for_the_issuer_s():
    shelf = Shelf(first=FakeToken(), second=AWAY)
    tokens = WorkerTokens(SECTIONS, shelf)
    signer = tokens.signer("second", "key", PUBLIC)
    shelf.tokens["second"] = FakeToken(name="stranger")
    assert not reached(tokens, "second")
    with pytest.raises(PKIError):
        signer.sign(b"m")


def test_the_only_token_has_to_be_there_at_the_start():
    with pytest.raises(OperatorError, match="no token is labelled"):
        WorkerTokens({"second": SECTIONS["second"]}, Shelf(second=AWAY))


def test_a_token_that_the_journal_needs_has_to_be_there_too():
    with pytest.raises(OperatorError, match="`second` is away"):
        WorkerTokens(SECTIONS, Shelf(first=FakeToken(), second=AWAY)).opened("second")


def test_a_refused_pin_stops_the_start_and_is_never_tried_again():
    refused = HarmfulToRepeatError("the PIN is wrong", "put the right one")
    shelf = Shelf(first=FakeToken(), second=refused)
    with pytest.raises(HarmfulToRepeatError):
        WorkerTokens(SECTIONS, shelf)
    assert shelf.tokens["first"].closed
    shelf.tokens["second"] = AWAY
    tokens = WorkerTokens(SECTIONS, shelf)
    shelf.tokens["second"] = refused
    before = len(shelf.opened)
    for _ in range(3):
        assert not reached(tokens, "second")
    assert before + 1 == len(shelf.opened)


def test_a_signature_that_does_not_fit_the_key_is_said_at_the_start():
    tokens = WorkerTokens(SECTIONS, Shelf(first=FakeToken("ec-p256"), second=FakeToken()))
    with pytest.raises(OperatorError, match="does not fit the key"):
        tokens.signer("first", "key", PUBLIC, "rsassaPss-sha256")
