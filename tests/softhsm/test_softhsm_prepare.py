"""`prepare_softhsm`: idempotent, private, safe to kill, and never a new token in place of a lost one."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import subprocess
import sys
import time

import pytest
from softhsmkit import LIBRARY, PIN, SO_PIN, Prepared

from chancery.errors import OperatorError
from chancery.pkcs11 import open_token, prepare_softhsm
from chancery.pkcs11.softhsm import Preparation, prepare_softhsm_as

pytestmark = pytest.mark.softhsm
PREPARE = """
import sys
from pathlib import Path
from chancery.pkcs11 import prepare_softhsm
so_pin, pin = sys.stdin.buffer.read().split()
prepare_softhsm(Path(sys.argv[1]), "role", so_pin, pin, library=sys.argv[2])
"""


def prepare_role(directory, label="role", so_pin=SO_PIN, pin=PIN, library=LIBRARY):
    return Prepared(directory, prepare_softhsm(directory, label, so_pin, pin, library=library), label)


def test_again_changes_nothing_and_keeps_the_keys(tmp_path):
    prepared = prepare_role(tmp_path / "role")
    with open_token(prepared.settings()) as token:
        token.generate_key("key", "ec-p256")
    before = sorted(path.name for path in (tmp_path / "role").rglob("*"))
    inode = prepared.conf.stat().st_ino
    assert prepared == prepare_role(tmp_path / "role")
    assert before == sorted(path.name for path in (tmp_path / "role").rglob("*"))
    assert inode == prepared.conf.stat().st_ino
    with open_token(prepared.settings()) as token:
        token.find_key("key")


def test_it_is_made_in_a_process_of_its_own_and_an_account_of_its_own(tmp_path):
    directory = tmp_path / "role"
    directory.mkdir(mode=0o700)
    (directory / "pin").write_bytes(PIN + b"\n")
    preparation = Preparation(str(directory), "role", SO_PIN, str(directory / "pin"), LIBRARY)
    prepare_softhsm_as(None, preparation)
    prepare_softhsm_as(None, preparation)
    assert prepare_role(directory).conf == directory / "softhsm2.conf"
    # As somebody else: whoever the tests run as, what is there is not this account's.
    with pytest.raises((OperatorError, PermissionError), match=r"Permission denied|not permitted"):
        prepare_softhsm_as((65534, 65534), preparation)


def test_nobody_else_may_read_it(tmp_path):
    prepared = prepare_role(tmp_path / "role")
    open_modes = {
        str(path): oct(path.stat().st_mode & 0o777)
        for path in [prepared.directory, *prepared.directory.rglob("*")]
        if path.stat().st_mode & 0o077
    }
    assert {} == open_modes
    assert 0o700 == prepared.directory.stat().st_mode & 0o777
    assert 0o600 == prepared.conf.stat().st_mode & 0o777


def test_no_pin_is_in_arguments_environment_or_configuration(tmp_path, monkeypatch):
    """The child is a program that writes down what it was given, in place of the interpreter."""
    spy = tmp_path / "spy"
    spy.write_text(f'#!/bin/sh\n(echo "$@"; env) >> {tmp_path}/seen\nexec {sys.executable} "$@"\n')
    spy.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(spy))
    prepared = prepare_role(tmp_path / "role")
    seen = (tmp_path / "seen").read_text() + prepared.conf.read_text()
    assert "chancery.pkcs11.initialise" in seen
    assert [] == [pin for pin in (PIN.decode(), SO_PIN.decode()) if pin in seen]


def test_another_pin_or_label_is_refused_and_nothing_made(tmp_path):
    prepare_role(tmp_path / "role")
    with pytest.raises(OperatorError, match="PIN of token `role`"):
        prepare_role(tmp_path / "role", pin=b"another-pin")
    with pytest.raises(OperatorError, match="no token is labelled `else`; tokens seen: `role`"):
        prepare_role(tmp_path / "role", label="else")
    with pytest.raises(OperatorError, match="longer than 32"):
        prepare_role(tmp_path / "role", label="x" * 33)


def test_a_lost_token_is_not_replaced_by_an_empty_one(tmp_path):
    prepared = prepare_role(tmp_path / "role")
    (prepared.directory / "tokens").rename(tmp_path / "lost")
    with pytest.raises(OperatorError, match="is gone") as refused:
        prepare_role(tmp_path / "role")
    assert "backup" in refused.value.next_step


def test_a_short_pin_and_a_wrong_library_are_explained(tmp_path):
    with pytest.raises(OperatorError, match="PIN"):
        prepare_role(tmp_path / "short", pin=b"123")
    with pytest.raises(OperatorError, match="no PKCS#11 library at"):
        prepare_role(tmp_path / "missing", library=str(tmp_path / "none.so"))
    prepare_role(tmp_path / "short")


@pytest.mark.parametrize("milliseconds", [60, 120, 180, 240])
def test_killed_at_some_moment_it_is_finished_by_the_next_run(tmp_path, milliseconds):
    """Whatever was left behind, the next run ends with a token that opens."""
    process = subprocess.Popen(
        [sys.executable, "-c", PREPARE, str(tmp_path / "role"), LIBRARY],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    process.stdin.write(SO_PIN + b"\n" + PIN)
    process.stdin.close()
    time.sleep(milliseconds / 1000)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with open_token(prepare_role(tmp_path / "role").settings()) as token:
        token.generate_key("key", "ec-p256")
    assert ["softhsm2.conf", "tokens"] == sorted(path.name for path in (tmp_path / "role").iterdir())


def test_a_token_half_made_is_made_anew(tmp_path):
    """What a kill inside C_InitToken leaves: a token directory with half a token, under its working name."""
    half = tmp_path / "role" / "tokens.new" / "6a6d0a5c-0000-0000-0000-000000000000"
    half.mkdir(parents=True)
    (half / "token.object").write_bytes(b"\0\0\0")
    (tmp_path / "role" / "tokens").mkdir()
    open_token(prepare_role(tmp_path / "role").settings()).close()
    assert not half.parent.exists()


def test_several_at_once_make_one_token(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: prepare_role(tmp_path / "role"), range(4)))
    assert 1 == len(list((tmp_path / "role" / "tokens").iterdir()))
