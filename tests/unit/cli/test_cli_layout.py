"""What root writes where a lesser account may have been first: never through a link, never over what is there."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from chancery.cli import layout
from chancery.cli.bootstrap import command
from chancery.errors import OperatorError


def _mode(path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_file_is_not_written_through_a_link_that_waits_for_it(tmp_path):
    precious = tmp_path / "precious"
    precious.write_bytes(b"as it was")
    held = tmp_path / "held"
    held.mkdir()
    for name in ("pin", f".pin.{os.getpid()}"):
        (held / name).symlink_to(precious)
    layout.write_private(held / "pin", b"1234")
    assert (b"as it was", b"1234") == (precious.read_bytes(), (held / "pin").read_bytes())
    assert not (held / "pin").is_symlink()
    assert 0o600 == _mode(held / "pin")


def test_a_write_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(OSError, match="there"):
        layout.write_public(tmp_path / "there", b"x")
    assert [tmp_path / "there"] == list(tmp_path.iterdir())


def test_a_directory_that_is_a_link_is_not_taken_for_a_private_one(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    elsewhere.chmod(0o755)
    (tmp_path / "import").symlink_to(elsewhere)
    with pytest.raises(OperatorError, match="no directory of its own"):
        layout.private_directory(tmp_path / "import")
    assert 0o755 == _mode(elsewhere)
    assert 0o700 == _mode(layout.private_directory(tmp_path / "new"))


def test_a_command_inherits_no_more_than_it_needs(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of whoever started it")
    say = [sys.executable, "-c", "import os; print(sorted(os.environ.keys() - {'LC_CTYPE'}))"]
    monkeypatch.setattr(layout, "program", lambda: say)
    expected = subprocess.run(say, env=layout.environment(), capture_output=True, check=True).stdout
    assert expected == command([])
    assert b"AWS" not in expected
