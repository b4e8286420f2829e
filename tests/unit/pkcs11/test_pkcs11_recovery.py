"""What each return value leads to: tried again before C_Sign, never after it; a PIN is never tried twice."""

from __future__ import annotations

import threading
import time

import pytest
from fakehsm import P256, RSA, FakeHSM, fake_module, fake_token

from chancery.asn1.signature import KeySigner
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.pkcs11 import module as module_file
from chancery.pkcs11 import token as token_file
from chancery.pkcs11.api import CryptokiError, Return, TokenFlag, return_name
from chancery.pkcs11.token import Token

LOST = (
    Return.SESSION_HANDLE_INVALID,
    Return.SESSION_CLOSED,
    Return.DEVICE_REMOVED,
    Return.DEVICE_ERROR,
    Return.DEVICE_MEMORY,
    Return.TOKEN_NOT_PRESENT,
    Return.USER_NOT_LOGGED_IN,
    Return.KEY_HANDLE_INVALID,
    Return.OBJECT_HANDLE_INVALID,
    Return.OPERATION_ACTIVE,
    Return.GENERAL_ERROR,
    Return.FUNCTION_FAILED,
    Return.CRYPTOKI_NOT_INITIALIZED,
    0x80000001,  # of a vendor
)


@pytest.fixture
def hsm():
    fake = FakeHSM()
    fake.add("key", P256)
    return fake


@pytest.fixture
def token(hsm, tmp_path):
    return fake_token(hsm, tmp_path / "library")


@pytest.fixture
def signer(token):
    return KeySigner(token.find_key("key"))


def verify(signer, signature, message=b"m"):
    signer.algorithm.verify(signer.public_key, signature, message)


@pytest.mark.parametrize("code", LOST, ids=return_name)
@pytest.mark.parametrize("times", [1, 2])
def test_a_failed_sign_init_is_tried_again_and_one_signature_made(hsm, signer, code, times):
    hsm.fail("SignInit", *[code] * times)
    verify(signer, signer.sign(b"m"))
    assert 1 == len(hsm.signed)


@pytest.mark.parametrize("code", LOST, ids=return_name)
def test_a_failed_sign_is_never_tried_again(hsm, signer, code):
    hsm.fail("Sign", code)
    with pytest.raises(PKIError) as failed:
        signer.sign(b"m")
    assert ErrorType.SYSTEM_UNAVAIL == failed.value.type
    assert return_name(code) in failed.value.detail
    assert 1 == hsm.calls["Sign"]
    verify(signer, signer.sign(b"m"))


def test_a_sign_init_that_fails_for_good_is_unavailable(hsm, signer):
    hsm.fail("SignInit", *[Return.DEVICE_ERROR] * 50)
    with pytest.raises(PKIError) as failed:
        signer.sign(b"m")
    assert (ErrorType.SYSTEM_UNAVAIL, 3, 0) == (failed.value.type, hsm.calls["SignInit"], hsm.calls["Sign"])


def test_unplugged_it_is_unavailable_at_once_and_plugged_in_it_signs(hsm, token, signer, monkeypatch):
    verify(signer, signer.sign(b"m"))
    hsm.unplug()
    with pytest.raises(PKIError, match="away"):
        signer.sign(b"m")
    logins = hsm.calls["OpenSession"]
    with pytest.raises(PKIError, match="away"):
        signer.sign(b"m")
    assert logins == hsm.calls["OpenSession"], "while a pause lasts, a dead token is left alone"
    hsm.plug_in()
    monkeypatch.setattr(token, "_not_before", 0.0)
    verify(signer, signer.sign(b"m"))


def test_the_pause_grows_and_is_bounded(hsm, token, signer, monkeypatch):
    hsm.unplug()
    pauses = []
    for _ in range(6):
        monkeypatch.setattr(token, "_not_before", 0.0)
        pauses.append(token._pause)
        with pytest.raises(PKIError):
            signer.sign(b"m")
    assert [0.25, 0.5, 1.0, 2.0, 2.0, 2.0] == pauses
    hsm.plug_in()
    monkeypatch.setattr(token, "_not_before", 0.0)
    signer.sign(b"m")
    assert token_file.RECOVERY_PAUSE == token._pause


def test_a_library_that_does_not_start_again_is_unavailable_until_it_does(hsm, token, signer, monkeypatch):
    hsm.unplug()
    hsm.fail("Initialize", Return.GENERAL_ERROR, Return.GENERAL_ERROR)
    for _ in range(2):
        monkeypatch.setattr(token, "_not_before", 0.0)
        with pytest.raises(PKIError, match="away"):
            signer.sign(b"m")
    assert not hsm.initialized
    hsm.plug_in()
    monkeypatch.setattr(token, "_not_before", 0.0)
    verify(signer, signer.sign(b"m"))


def test_another_key_under_the_label_is_not_used_after_recovery(hsm, token, signer):
    hsm.objects.clear()
    hsm.add("key", RSA)
    with pytest.raises(PKIError, match="another key"):
        signer.sign(b"m")
    assert [] == hsm.signed


def test_reading_is_tried_again(hsm, token):
    hsm.fail("FindObjectsInit", Return.SESSION_HANDLE_INVALID, Return.DEVICE_ERROR)
    token.find_key("key")
    hsm.fail("FindObjectsInit", *[Return.DEVICE_ERROR] * 50)
    with pytest.raises(PKIError) as failed:
        token.find_key("key")
    assert ErrorType.SYSTEM_UNAVAIL == failed.value.type


def test_a_token_lost_before_a_change_is_reached_again_first(hsm, token):
    hsm.unplug()
    hsm.plug_in()
    with pytest.raises(OperatorError, match="already has"):
        token.generate_key("key", "ec-p256")


def test_a_lost_login_is_not_taken_for_an_empty_token(hsm, token):
    """A session that nobody is logged in to finds no private key and says nothing."""
    hsm.unplug()
    hsm.plug_in()
    token.find_key("key")
    hsm.logged_in = False
    token.find_key("key")
    hsm.logged_in = False
    listed = token.keys()
    assert ["key"] == [info.label for info in listed]


def test_generating_is_never_tried_again(hsm, token):
    hsm.fail("GenerateKeyPair", Return.DEVICE_ERROR)
    with pytest.raises(OperatorError, match=r"generating `new` .*CKR_DEVICE_ERROR"):
        token.generate_key("new", "ec-p256")
    assert 1 == hsm.calls["GenerateKeyPair"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (Return.PIN_INCORRECT, "is wrong"),
        (Return.PIN_LOCKED, "is locked"),
        (Return.PIN_EXPIRED, "has expired"),
        (Return.PIN_LEN_RANGE, "too short or too long"),
        (Return.PIN_INVALID, "characters"),
        (Return.USER_PIN_NOT_INITIALIZED, "never set"),
    ],
)
def test_a_refused_pin_is_named_and_tried_once(hsm, tmp_path, code, words):
    hsm.fail("Login", code)
    with pytest.raises(OperatorError, match=rf"PIN of token `fake` \(slot 1\) .*{words}") as refused:
        fake_token(hsm, tmp_path / "library")
    assert refused.value.next_step
    assert 1 == hsm.calls["Login"]
    assert {} == hsm.sessions


@pytest.mark.parametrize("flag", [TokenFlag.USER_PIN_FINAL_TRY, TokenFlag.USER_PIN_LOCKED])
def test_the_last_try_is_left_to_a_person(hsm, tmp_path, flag):
    hsm.flags |= flag
    with pytest.raises(OperatorError, match="lock"):
        fake_token(hsm, tmp_path / "library")
    assert 0 == hsm.calls["Login"]


def test_a_pin_refused_in_a_recovery_is_never_tried_again(hsm, token, signer, monkeypatch):
    hsm.unplug()
    hsm.plug_in()
    hsm.pin = b"changed"
    before = hsm.calls["Login"]
    for _ in range(5):
        monkeypatch.setattr(token, "_not_before", 0.0)
        with pytest.raises(PKIError) as failed:
            signer.sign(b"m")
        assert ErrorType.SYSTEM_UNAVAIL == failed.value.type
        assert "PIN" not in failed.value.detail
    assert before + 1 == hsm.calls["Login"]


def test_a_pin_on_its_last_try_is_left_alone_in_a_recovery_and_tried_once_somebody_reset_it(
    hsm, token, signer, monkeypatch
):
    hsm.unplug()
    hsm.plug_in()
    before = hsm.calls["Login"]
    hsm.flags |= TokenFlag.USER_PIN_FINAL_TRY
    with pytest.raises(PKIError, match="away"):
        signer.sign(b"m")
    assert before == hsm.calls["Login"]
    hsm.flags = TokenFlag.USER_PIN_INITIALIZED
    monkeypatch.setattr(token, "_not_before", 0.0)
    verify(signer, signer.sign(b"m"))


def test_the_pool_opens_no_more_sessions_than_it_may(hsm, tmp_path):
    token = fake_token(hsm, tmp_path / "library", max_sessions=3)
    signer = KeySigner(token.find_key("key"))
    threads = [threading.Thread(target=lambda: [signer.sign(b"m") for _ in range(50)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 400 == len(hsm.signed)
    assert hsm.most_sessions <= 3 + 1, "the login keeps one of its own"


def test_the_tokens_own_bound_is_kept(hsm, tmp_path):
    hsm.max_sessions = 2
    token = fake_token(hsm, tmp_path / "library", max_sessions=16)
    signer = KeySigner(token.find_key("key"))
    threads = [threading.Thread(target=signer.sign, args=(b"m",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 4 == len(hsm.signed)


def test_a_token_whose_calls_hang_is_unavailable_to_others(hsm, tmp_path, monkeypatch):
    token = fake_token(hsm, tmp_path / "library", max_sessions=1)
    signer = KeySigner(token.find_key("key"))
    hsm.hold = threading.Event()
    hanging = threading.Thread(target=signer.sign, args=(b"m",))
    hanging.start()
    while token._idle:
        time.sleep(0.001)
    monkeypatch.setattr(token_file, "SESSION_PATIENCE", 0.05)
    monkeypatch.setattr(token_file, "PAUSE_PATIENCE", 0.05)
    with pytest.raises(PKIError, match="all 1 sessions of the token are busy"):
        signer.sign(b"m")
    with pytest.raises(PKIError, match="hangs"):
        token.module.restart()
    hsm.hold.set()
    hanging.join()
    verify(signer, signer.sign(b"m"))


def test_a_closed_token_signs_no_more(hsm, token, signer):
    signer.sign(b"m")
    token.close()
    with pytest.raises(PKIError, match="closed"):
        signer.sign(b"m")
    assert {} == hsm.sessions


def test_the_login_lock_excludes_others_and_gives_up(hsm, tmp_path, monkeypatch):
    monkeypatch.setattr(module_file, "LOCK_PATIENCE", 0.05)
    module = fake_module(hsm, tmp_path / "library")
    with module.exclusive(), pytest.raises(PKIError, match="login lock"):
        Token(module, "fake", lambda: b"1234")
    Token(module, "fake", lambda: b"1234").close()


def test_a_recovery_does_not_wait_long_for_the_login_lock(hsm, token, signer, monkeypatch):
    monkeypatch.setattr(token_file, "RECOVERY_PATIENCE", 0.05)
    hsm.fail("SignInit", Return.SESSION_HANDLE_INVALID)
    with token.module.exclusive(), pytest.raises(PKIError) as failed:
        signer.sign(b"m")
    assert ErrorType.SYSTEM_UNAVAIL == failed.value.type
    verify(signer, signer.sign(b"m"))


def test_a_token_that_does_not_answer_at_the_start_is_an_operators_matter(hsm, tmp_path):
    hsm.fail("OpenSession", Return.DEVICE_ERROR)
    with pytest.raises(OperatorError, match=r"does not answer .*CKR_DEVICE_ERROR"):
        fake_token(hsm, tmp_path / "library")


def test_an_error_names_function_and_value():
    assert "C_Sign: CKR_DEVICE_ERROR" == str(CryptokiError("C_Sign", 0x30))
    assert "return value 0x80000001" == return_name(0x80000001)
