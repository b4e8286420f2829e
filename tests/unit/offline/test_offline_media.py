"""Files on carried media: plain, of limited size, whole; nothing else is opened, nothing else is written over."""

from __future__ import annotations

import os
import stat

import pytest

from chancery.errors import OperatorError
from chancery.offline.media import read_file, write_file


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "bundle"
    write_file(path, b"one")
    write_file(path, b"two")
    assert b"two" == read_file(path)
    assert 0o644 == stat.S_IMODE(path.stat().st_mode)
    assert [path] == list(tmp_path.iterdir())


def test_a_file_over_the_limit_is_not_read(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(b"x" * 11)
    assert 10 == len(read_file(path.parent / write(path.parent, b"y" * 10), 10))
    with pytest.raises(OperatorError, match="larger than 10"):
        read_file(path, 10)


def write(directory, data):
    (directory / "small").write_bytes(data)
    return "small"


def odd(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    return ["link", "broken", "zero", "directory", "pipe"]


def test_only_plain_files_are_read(tmp_path):
    for name in [*odd(tmp_path), "missing"]:
        with pytest.raises(OperatorError):
            read_file(tmp_path / name)
    with pytest.raises(OperatorError, match="not a plain file"):
        read_file(tmp_path / "pipe")


def test_only_plain_files_are_written_over(tmp_path):
    for name in odd(tmp_path):
        with pytest.raises(OperatorError):
            write_file(tmp_path / name, b"y")
    assert b"x" == (tmp_path / "file").read_bytes()
    with pytest.raises(OperatorError, match="cannot be written"):
        write_file(tmp_path / "missing" / "file", b"y")
