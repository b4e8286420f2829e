"""The archive of a back-up: one spelling, and nothing else is taken."""

from __future__ import annotations

import hashlib
import io
import tarfile

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chancery.cli import backup_archive as archive
from chancery.errors import OperatorError

LIMIT = 1 << 24
NAMES = st.lists(st.from_regex(r"[a-z0-9@+-]{1,20}", fullmatch=True), min_size=1, max_size=4).map("/".join)


def written(members) -> bytes:
    return b"".join(piece for name, data in members for piece in archive.member(name, data)) + archive.END


def read(data: bytes, limit: int = LIMIT, step: int = 700):
    found = []
    unpacker = archive.Unpacker(lambda name, octets: found.append((name, octets)), limit)
    for at in range(0, len(data), step):
        unpacker.write(data[at : at + step])
    unpacker.close()
    return found


@settings(max_examples=40)
@given(st.dictionaries(NAMES, st.binary(max_size=1500), max_size=5), st.integers(1, 3000))
def test_what_is_written_is_read_whatever_the_pieces(members, step):
    members = sorted(members.items())
    assert members == read(written(members), step=step)
    pull = archive.Pull(iter([written(members)]))
    assert written(members) == b"".join(iter(lambda: pull.read(step), b""))


def test_any_tar_reads_it():
    with tarfile.open(fileobj=io.BytesIO(written([("state/conf/ca.toml", b"x" * 600)]))) as tar:
        assert [("state/conf/ca.toml", 600)] == [(one.name, one.size) for one in tar.getmembers()]


def made(change) -> bytes:
    """One member as tarfile writes it, after a change to its head."""
    info = tarfile.TarInfo("state/a")
    info.size, info.mode = 3, 0o600
    change(info)
    data = b"abc"[: info.size] if info.isreg() else b""
    return info.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % 512) + archive.END


def link(info):
    info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/shadow", 0


@pytest.mark.parametrize(
    "change",
    [
        link,
        lambda info: setattr(info, "type", tarfile.CHRTYPE),
        lambda info: setattr(info, "type", tarfile.DIRTYPE),
        lambda info: setattr(info, "mode", 0o4755),
        lambda info: setattr(info, "mtime", 5),
        lambda info: setattr(info, "uname", "root"),
        lambda info: setattr(info, "name", "/etc/passwd"),
        lambda info: setattr(info, "name", "state/../../etc/passwd"),
        lambda info: setattr(info, "name", "state//a"),
        lambda info: setattr(info, "name", "state/" + "a" * 300),
        lambda info: setattr(info, "name", "state/\x01"),
        lambda info: setattr(info, "size", archive.MAX_MEMBER + 1),
    ],
)
def test_a_head_that_is_not_as_it_is_written_here_is_refused(change):
    with pytest.raises(OperatorError):
        read(made(change))


def test_twice_more_than_allowed_cut_off_and_followed_are_refused():
    good = written([("state/a", b"abc")])
    assert [("state/a", b"abc")] == read(good)
    for bad in (
        written([("state/a", b"abc"), ("state/a", b"abc")]),
        good[:-1],
        good[:-600],
        good[:600],
        good + b"\0",
        good + good,
        bytes(512) + good,
        good[:515] + b"x" + good[516:],
        b"",
    ):
        with pytest.raises(OperatorError):
            read(bad)
    with pytest.raises(OperatorError, match="limit"):
        read(good, limit=1000)


def test_a_name_that_could_do_harm_is_not_written_either():
    for name in ("", "/a", "a/", "../a", "a/./b", "a\nb", "ä", "a\\b", "a" * 300):
        with pytest.raises(OperatorError):
            archive.head(name, 1)


def manifest(**changes) -> archive.Manifest:
    entry = archive.Entry("state/a", "file", 0o600, "root", 3, hashlib.sha256(b"abc").hexdigest())
    values = {
        "made_at": "2026-11-24T12:00:00+00:00",
        "version": "1",
        "suite": True,
        "database": None,
        "checkpoint": None,
        "entries": (entry,),
    }
    return archive.Manifest(**(values | changes))


def test_files_and_dump_are_compared_with_the_manifest():
    digest, empty = hashlib.sha256(b"abc").hexdigest(), (0, hashlib.sha256().hexdigest())
    good = manifest()
    archive.check(good, {"state/a": (3, digest)}, empty)
    assert good == archive.decode_manifest(msgspec.json.encode(good))
    elsewhere = archive.Entry("etc", "directory", 0o755, "root")
    upward = archive.Entry("state/../../etc", "directory", 0o755, "root")
    for one, found, dump in (
        (good, {}, empty),
        (good, {"state/a": (3, "00")}, empty),
        (good, {"state/a": (3, digest), "state/b": (3, digest)}, empty),
        (good, {"state/a": (3, digest)}, (1, digest)),
        (manifest(entries=(*good.entries, elsewhere)), {"state/a": (3, digest)}, empty),
        (manifest(entries=(*good.entries, upward)), {"state/a": (3, digest)}, empty),
    ):
        with pytest.raises(OperatorError):
            archive.check(one, found, dump)
    for text in (b"", b"{}", b'{"format": 2}', msgspec.json.encode({**msgspec.to_builtins(good), "more": 1})):
        with pytest.raises(OperatorError):
            archive.decode_manifest(text)
