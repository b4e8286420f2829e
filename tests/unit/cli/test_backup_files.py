"""Back-ups of files: what went away is said, errors come through as they are, nothing is half restored."""

from __future__ import annotations

import errno
import io

import pytest

from chancery.cli import backup_archive as archive
from chancery.cli import backup_keys
from chancery.cli.backup_make import Wanted, Writing
from chancery.errors import OperatorError
from pg import AT
from suite import CHANCERY, run


class Full:
    """A disk that is full, or broken."""

    def read(self, size: int = -1) -> bytes:
        raise OSError(errno.EIO, "broken")

    def write(self, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "full")

    def flush(self) -> None:
        """Nothing waits here."""


@pytest.fixture
def key(tmp_path):
    """A file with an identity, and its recipient."""
    identity, recipient = backup_keys.new()
    file = tmp_path / "key"
    file.touch(0o600)
    file.write_text(identity)
    return file, recipient


def test_a_file_that_goes_away_meanwhile_costs_no_other(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in "abc":
        (folder / name).write_text(name)
    (folder / "link").symlink_to("a")
    writing = Writing(Wanted(None, None, (folder,)), AT, "1")
    pieces = writing.pieces()
    next(pieces)
    (folder / "b").unlink()
    assert list(pieces)[-1] == archive.END
    assert ["a", "c"] == [one.path[-1] for one in writing.manifest.entries if one.kind == "file"]
    told = [one.removeprefix(f"files{folder}/") for one in writing.left_out]
    assert ["b: it went away meanwhile", "link: no plain file"] == told


def test_what_files_raise_passes_through_and_a_wrong_identity_is_told(key):
    to, keys = backup_keys.recipients([key[1]], []), backup_keys.identities(key[0])
    made = io.BytesIO()
    backup_keys.encrypt(io.BytesIO(b"x" * 200_000), made, to)
    for number, call in (
        (errno.ENOSPC, lambda: backup_keys.encrypt(io.BytesIO(b"x" * 200_000), Full(), to)),
        (errno.EIO, lambda: backup_keys.encrypt(Full(), io.BytesIO(), to)),
        (errno.ENOSPC, lambda: backup_keys.decrypt(io.BytesIO(made.getvalue()), Full(), keys)),
        (errno.EIO, lambda: backup_keys.decrypt(Full(), io.BytesIO(), keys)),
    ):
        with pytest.raises(OSError, match=r"full|broken") as raised:
            call()
        assert number == raised.value.errno
    with pytest.raises(OperatorError, match="cannot be opened"):
        backup_keys.decrypt(io.BytesIO(made.getvalue()[:-5]), io.BytesIO(), keys)


def test_no_more_members_are_written_than_read_and_none_twice():
    packer = archive.Packer(2)
    for name in ("files/a", "files/b"):
        assert list(archive.member(name, b"x")) == list(packer.member(name, b"x"))
    with pytest.raises(OperatorError, match="twice"):
        list(packer.member("files/a", b"x"))
    with pytest.raises(OperatorError, match="more than 2"):
        list(packer.member("files/c", b"x"))


def test_a_bad_include_is_told_and_files_come_back_by_their_paths(tmp_path, key):
    folder, out, to = tmp_path / "folder", tmp_path / "one.age", tmp_path / "recipients"
    folder.mkdir()
    (folder / "a").write_text("a")
    to.write_text(f"# safe\n{key[1]}\n")
    words = (CHANCERY, "backup", "make", "--out", out, "--recipients-file", to, "--include")
    for bad, said in (((tmp_path / "none",), "does not exist"), ((folder, "--include", folder), "twice")):
        done = run(*words, *bad, check=False)
        assert 1 == done.returncode
        lines = done.stderr.decode().splitlines()
        assert ["chancery:", "next:"] == [line.split()[0] for line in lines]
        assert said in lines[0]
        assert not out.exists()
    run(*words, folder)
    back = tmp_path / "back"
    run(CHANCERY, "restore", out, "--identity", key[0], "--files", back)
    assert "a" == (back / str(folder / "a").lstrip("/")).read_text()
