"""A process killed while it logs in must not cost the token: SoftHSM truncates its file, then writes it anew."""

from __future__ import annotations

import os
import pathlib
import stat
import subprocess
import sys

import pytest

from chancery.pkcs11 import open_token, prepare_softhsm
from chancery.pkcs11.keeping import kept_whole
from softhsm.softhsmkit import LIBRARY, PIN, SO_PIN, Prepared

pytestmark = [pytest.mark.softhsm, pytest.mark.xdist_group("crash")]
ROOT = pathlib.Path(__file__).parents[2]
# Dies as SoftHSM does in the middle of a login: the file is empty, the lock is still held.
DIES = """
import os, pathlib, signal, sys
from chancery.pkcs11.module import Module
module, conf, content = sys.argv[1:]
with Module.load(module, softhsm_conf=conf).exclusive():
    [token] = pathlib.Path(conf).parent.glob("tokens/*/token.object")
    os.truncate(token, 0)
    token.write_bytes(bytes.fromhex(content))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def prepared(tmp_path):
    conf = prepare_softhsm(tmp_path, "token", SO_PIN, PIN, library=LIBRARY)
    found = Prepared(tmp_path, conf, "token")
    with open_token(found.settings()) as token:
        token.generate_key("key", "ec-p256")
    return found


def files(prepared) -> dict[str, pathlib.Path]:
    [token] = prepared.directory.glob("tokens/*/token.object")
    return {path.name: path for path in token.parent.glob("token.*") if path.name != "token.lock"}


def labels(prepared) -> list[str]:
    with open_token(prepared.settings()) as token:
        found = token.keys()
    return [info.label for info in found]


def die(prepared, content: bytes) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DIES, LIBRARY, str(prepared.conf), content.hex()],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        check=False,
    )
    assert -9 == done.returncode


@pytest.mark.parametrize("content", [b"", bytes(320), b"\0\0\0\0\0\0\0\x0d\0\0"])
def test_a_token_whose_login_was_killed_opens_again_with_its_keys(prepared, content):
    whole = files(prepared)["token.object"].read_bytes()
    die(prepared, content)
    assert content == files(prepared)["token.object"].read_bytes()
    assert ["key"] == labels(prepared)
    assert len(whole) == files(prepared)["token.object"].stat().st_size
    assert ["token.object"] == list(files(prepared))


def test_what_a_login_wrote_completely_is_not_taken_back(prepared):
    """A PIN that was changed with another program between two starts stays changed."""
    changed = files(prepared)["token.object"].read_bytes()[:-1] + b"x"
    die(prepared, changed)
    with kept_whole(prepared.conf):
        assert changed == files(prepared)["token.object"].read_bytes()
    assert ["token.object"] == list(files(prepared))


def test_a_copy_is_as_closed_as_the_token_and_lasts_as_long_as_the_lock(prepared):
    with kept_whole(prepared.conf):
        now = files(prepared)
        assert ["token.object", "token.object.kept"] == sorted(now)
        assert 0o600 == stat.S_IMODE(now["token.object.kept"].stat().st_mode)
        assert now["token.object"].read_bytes() == now["token.object.kept"].read_bytes()
        # A full disk leaves an empty file without anybody dying.
        os.truncate(now["token.object"], 0)
    assert ["token.object"] == list(files(prepared))
    assert ["key"] == labels(prepared)


def test_a_copy_that_cannot_be_made_stops_the_login(prepared):
    before = files(prepared)["token.object"].read_bytes()
    files(prepared)["token.object"].with_name("token.object.kept.new").mkdir()
    with pytest.raises(OSError, match="Is a directory"), kept_whole(prepared.conf):
        raise AssertionError("the block must not run")
    assert before == files(prepared)["token.object"].read_bytes()


def test_a_token_that_is_taken_away_meanwhile_is_let_go(prepared, tmp_path):
    with kept_whole(prepared.conf):
        (tmp_path / "tokens").rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").rename(tmp_path / "tokens")
    assert ["key"] == labels(prepared)
    assert ["token.object"] == list(files(prepared))
