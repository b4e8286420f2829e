"""Real SoftHSM2 tokens. A process has one configuration at a time, so a test closes its token before the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from softhsmkit import KINDS_TRIED, LIBRARY, PIN, SO_PIN, Prepared

from chancery.pkcs11 import Token, open_token, prepare_softhsm


@pytest.fixture(scope="session")
def prepare(tmp_path_factory) -> Callable[[str], Prepared]:
    def make(label: str) -> Prepared:
        directory = tmp_path_factory.mktemp(label)
        return Prepared(directory, prepare_softhsm(directory, label, SO_PIN, PIN, library=LIBRARY), label)

    return make


@pytest.fixture(scope="session")
def shared(prepare) -> Prepared:
    """A token with one key of each kind, labelled by its kind, that tests only read."""
    prepared = prepare("shared")
    with open_token(prepared.settings()) as token:
        for kind in KINDS_TRIED:
            token.generate_key(kind, kind)
    return prepared


@pytest.fixture
def token(shared) -> Iterator[Token]:
    with open_token(shared.settings()) as opened:
        yield opened


@pytest.fixture
def scratch(prepare) -> Prepared:
    """A token of this test alone."""
    return prepare("scratch")
