"""The offline journal file: durable lines, torn ends set aside, anything else refused."""

from __future__ import annotations

import errno
import hashlib
import json
import os

import pytest

from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.offline import records
from chancery.offline.journal import FILE, START, Journal


def opened(name="root"):
    return records.Opened(format=records.FORMAT, name=name, subject="CN=Root", instance=127, events=())


def planned(label, events=()):
    return records.KeyPlanned(label=label, key_kind="ec-p256", events=events)


@pytest.fixture
def directory(tmp_path):
    with Journal(tmp_path / "offline", create=True) as journal:
        journal.append(opened())
        journal.append(planned("root", ("{}",)))
        journal.append(planned("bundle"))
    return tmp_path / "offline"


def lines(directory):
    return (directory / FILE).read_bytes().splitlines(keepends=True)


def test_lines_come_back_in_order_and_name_the_line_before(directory):
    with Journal(directory) as journal:
        assert (opened(), planned("root", ("{}",)), planned("bundle")) == journal.records
        assert 3 == journal.length
        head = journal.head
        assert journal.set_aside is None
    values = [json.loads(line) for line in lines(directory)]
    assert [1, 2, 3] == [value["number"] for value in values]
    assert START == values[0]["previous"]
    assert hashlib.sha256(lines(directory)[-1].rstrip(b"\n")).hexdigest() == head


def test_only_the_owner_may_read(directory):
    assert 0o700 == directory.stat().st_mode & 0o777
    assert 0o600 == (directory / FILE).stat().st_mode & 0o777


def test_a_second_process_is_kept_out(directory):
    with Journal(directory), pytest.raises(OperatorError, match="another process"):
        Journal(directory)
    Journal(directory).close()


def test_a_journal_is_neither_made_twice_nor_made_implicitly(directory, tmp_path):
    with pytest.raises(OperatorError, match="exists already"):
        Journal(directory, create=True)
    with pytest.raises(OperatorError, match="offline init"):
        Journal(tmp_path / "elsewhere")


def test_every_torn_last_line_is_set_aside_and_the_rest_stands(directory):
    whole = (directory / FILE).read_bytes()
    last = len(lines(directory)[-1])
    for missing in range(1, last):
        (directory / FILE).write_bytes(whole[:-missing])
        with Journal(directory) as journal:
            assert 2 == journal.length
            assert journal.set_aside is not None
            assert whole[-last:][:-missing] == journal.set_aside.read_bytes()
            journal.append(planned("bundle"))
            journal.set_aside.unlink()
        assert whole == (directory / FILE).read_bytes()


def test_a_last_line_whose_pages_never_reached_the_disk_is_torn(directory):
    whole = (directory / FILE).read_bytes()
    (directory / FILE).write_bytes(whole[:-40] + bytes(39) + b"\n")
    with Journal(directory) as journal:
        assert 2 == journal.length
        assert journal.set_aside is not None


def test_a_second_torn_line_does_not_overwrite_the_first(directory):
    for number in (1, 2):
        with (directory / FILE).open("ab") as file:
            file.write(b"{%d" % number)
        Journal(directory).close()
    assert [b"{1", b"{2"] == [path.read_bytes() for path in sorted(directory.glob("*.torn-*"))]


def test_a_last_line_that_says_the_same_in_other_bytes_is_refused(directory):
    # Nothing after it holds its hash; that it is canonical is all that tells.
    *before, last = lines(directory)
    respaced = json.dumps(json.loads(last)).encode() + b"\n"
    (directory / FILE).write_bytes(b"".join(before) + respaced)
    with pytest.raises(OperatorError, match="line 3 is not as it was written"):
        Journal(directory)


@pytest.mark.parametrize(
    "change",
    [
        lambda found: [found[1], found[0], found[2]],
        lambda found: found[1:],
        lambda found: [found[0], found[2]],
        lambda found: [found[0], found[0], found[1], found[2]],
        lambda found: [found[0], found[1].replace(b"root", b"boot"), found[2]],
        lambda found: [found[0], found[1].replace(b'"number":2', b'"number": 2'), found[2]],
        lambda found: [found[0], b"\n", found[1], found[2]],
        lambda found: [found[0], b"\xff\n", found[2]],
        lambda found: [found[0], found[1][:-1] + b"\0\n", found[2]],
        lambda found: [found[0], found[1].replace(b'"kind"', b'"extra":1,"kind"'), found[2]],
    ],
)
def test_an_edited_deleted_reordered_or_repeated_line_stops_everything(directory, change):
    (directory / FILE).write_bytes(b"".join(change(lines(directory))))
    with pytest.raises(OperatorError, match="line"):
        Journal(directory)


def test_after_a_failed_write_nothing_more_is_written_until_it_is_opened_again(directory, monkeypatch):
    # R2: whether the line is there is unknown, so nothing may be built on either answer.
    def full(file, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Journal(directory) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(PKIError, match="No space left") as caught:
                journal.append(planned("third"))
        assert ErrorType.SYSTEM_UNAVAIL is caught.value.type
        with pytest.raises(PKIError, match="opened again"):
            journal.append(planned("third"))
    with Journal(directory) as journal:
        journal.append(planned("third"))
        assert 4 == journal.length


def test_each_append_is_synced_before_it_returns(directory, monkeypatch):
    calls = []
    real_write, real_sync = os.write, os.fsync
    monkeypatch.setattr(os, "write", lambda file, data: calls.append("write") or real_write(file, data[:7]))
    monkeypatch.setattr(os, "fsync", lambda file: calls.append("sync") or real_sync(file))
    with Journal(directory) as journal:
        calls.clear()
        journal.append(planned("third"))
    assert "sync" == calls[-1]
    assert 1 == calls.count("sync")
    assert calls.count("write") > 1
