"""The words of `chancery hsm check` for what a real token cannot be brought to say."""

from __future__ import annotations

import pytest
from fakehsm import LABEL, P256, PIN, RSA, FakeHSM, fake_module

from chancery.pkcs11 import TokenSettings
from chancery.pkcs11 import module as module_file
from chancery.pkcs11.api import Mechanism, Return, TokenFlag
from chancery.pkcs11.check import check_token, pin_state


@pytest.fixture
def hsm():
    return FakeHSM()


@pytest.fixture
def check(hsm, tmp_path, monkeypatch):
    path = tmp_path / "library"
    module = fake_module(hsm, path)
    monkeypatch.setitem(module_file._LOADED, str(path.resolve()), module)
    settings = TokenSettings(module=str(path), label=LABEL, pin=lambda: PIN)
    return lambda *expected: check_token(settings, expected)


def test_a_locked_pin_is_said_and_not_tried(hsm, check):
    hsm.flags |= TokenFlag.USER_PIN_LOCKED
    report = check()
    assert ("locked", False, 0) == (report.pin_state, report.logged_in, hsm.calls["Login"])
    assert "is locked" in report.problems[0].what


def test_a_last_try_is_said_and_not_used(hsm, check):
    hsm.flags |= TokenFlag.USER_PIN_FINAL_TRY
    report = check()
    assert ("one try left before it is locked", 0) == (report.pin_state, hsm.calls["Login"])
    assert "nothing was tried" in report.problems[0].what
    assert "pkcs11-tool" in report.problems[0].next_step


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (TokenFlag(0), "never set"),
        (TokenFlag.USER_PIN_INITIALIZED, "set"),
        (TokenFlag.USER_PIN_INITIALIZED | TokenFlag.USER_PIN_TO_BE_CHANGED, "has to be changed before use"),
        (
            TokenFlag.USER_PIN_INITIALIZED | TokenFlag.USER_PIN_COUNT_LOW,
            "set; a wrong PIN was tried since the last login",
        ),
    ],
)
def test_the_pin_state_in_words(flags, words):
    assert words == pin_state(flags)


def test_an_extractable_key_is_a_problem(hsm, check):
    """R7."""
    hsm.add("loose", P256, EXTRACTABLE=b"\1")
    report = check()
    assert [True] == [key.extractable for key in report.keys]
    assert ["key `loose` can be extracted from the token"] == [problem.what for problem in report.problems]


def test_a_missing_mechanism_is_named_with_the_key(hsm, check):
    hsm.add("key", RSA)
    hsm.mechanisms = {Mechanism.RSA_PKCS}
    report = check()
    assert (("RSA PKCS#1",), ()) == (report.signs, report.generates)
    assert [("sha256WithRSAEncryption",)] == [key.signs for key in report.keys]
    assert "key `key` does not sign rsassaPss-sha256" in report.problems[0].what
    assert 1 == len(report.problems)


def test_a_token_that_signs_wrongly_is_found_out(hsm, check, monkeypatch):
    """The public half belongs to another key."""
    handle = hsm.add("key", RSA)
    other = FakeHSM()
    from cryptography.hazmat.primitives.asymmetric import rsa

    foreign = other.add("key", rsa.generate_private_key(public_exponent=65537, key_size=2048))
    hsm.objects[handle] = (RSA, other.objects[foreign][1])
    report = check()
    assert 2 == len(report.problems)
    assert "does not verify" in report.problems[0].what


def test_a_token_that_dies_during_the_check_is_reported(hsm, check):
    hsm.add("key", P256)
    hsm.fail("Sign", Return.DEVICE_ERROR)
    report = check()
    assert "the token failed while signing (CKR_DEVICE_ERROR)" in report.problems[0].what
    assert report.logged_in


def test_a_library_that_does_not_answer_is_reported(hsm, check):
    hsm.fail("GetInfo", Return.DEVICE_ERROR)
    report = check()
    assert "does not answer" in report.problems[0].what
    assert report.library is None


def test_an_empty_token_without_expectations_is_in_order(check):
    report = check()
    assert (True, ()) == (report.ok, report.keys)
