"""The sequencer: leaves and checkpoints together, never two histories, whatever fails."""

from __future__ import annotations

import pytest

from chancery.audit import log
from chancery.audit.log import BATCH, Sequencer
from chancery.audit.memory import CheckpointFile
from chancery.audit.merkle import leaf_hash, root_of
from chancery.audit.note import TreeHead, open_checkpoint
from chancery.audit.verify import verify
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.ports import Checkpoint
from fakes import START, CountingSigner, FakeClock, Faults, Killed
from unit.audit import journals
from unit.audit.journals import ED25519, ORIGIN, MemoryJournal, event


def sequencer(store, signer=ED25519, **options):
    return Sequencer(store, signer, ORIGIN, FakeClock(), **options)


def audit(store):
    return verify(store, ORIGIN, ED25519.public_key, START)


def refusal(call, *args, **options):
    with pytest.raises(PKIError) as caught:
        call(*args, **options)
    return caught.value


def test_events_become_leaves_in_order_under_one_signed_checkpoint():
    store = MemoryJournal()
    events = [event(number) for number in range(3)]
    store.write(*events)
    assert 3 == sequencer(store).run_once()
    digests = [leaf_hash(one.body().encode()) for one in events]
    assert {0: (1, digests[0]), 1: (2, digests[1]), 2: (3, digests[2])} == store.leaf_rows
    [checkpoint] = store.checkpoints()
    head = open_checkpoint(checkpoint.note, ORIGIN, ED25519.public_key)
    assert TreeHead(ORIGIN, 3, root_of(digests)) == head
    assert (3, head.root, START) == (checkpoint.tree_size, checkpoint.root, checkpoint.at)


def test_without_events_nothing_is_signed():
    signer = CountingSigner(ED25519)
    line = sequencer(MemoryJournal(), signer)
    assert [0, 0] == [line.run_once(), line.run_once()]
    assert [] == signer.signed


def test_many_events_are_taken_in_batches_and_a_new_sequencer_goes_on():
    store = MemoryJournal()
    store.write(*(event(number) for number in range(BATCH + 5)))
    assert BATCH == sequencer(store).run_once()
    again = sequencer(store)
    assert [5, 0] == [again.run_once(), again.run_once()]
    assert [BATCH, BATCH + 5] == [checkpoint.tree_size for checkpoint in store.checkpoints()]
    assert () == audit(store).findings


@pytest.mark.parametrize("mode", ["fail-before", "fail-after", "kill-before", "kill-after"])
@pytest.mark.parametrize("at", range(1, 10))
def test_after_any_failure_every_event_has_one_leaf_and_all_checkpoints_agree(at, mode):
    # R29: each call of the store and of the token fails once, before or after its effect.
    faults = Faults(at, mode)
    store = MemoryJournal(faults)
    signer = CountingSigner(ED25519, faults)
    line, failed = sequencer(store, signer), []
    for number in range(4):
        store.write(event(number))
        try:
            line.run_once()
        except PKIError as error:
            failed.append(error.type)
        except Killed:
            line = sequencer(store, signer)
    line.run_once()
    line.run_once()
    assert {*failed} <= {ErrorType.SYSTEM_UNAVAIL}
    assert 4 == store.tree_size()
    assert [] == store.events_without_leaf()
    found = audit(store)
    assert ((), 4) == (found.findings, found.head.size)


def test_another_sequencer_s_leaves_are_noticed_and_continued():
    store = MemoryJournal()
    one, other = sequencer(store), sequencer(store)
    store.write(event(1))
    one.run_once()
    store.write(event(2))
    other.run_once()
    store.write(event(3))

    # The database refuses what does not continue its tree, as `MemoryJournal` asserts.
    with pytest.raises(AssertionError):
        one.run_once()
    assert 1 == one.run_once()
    assert () == audit(store).findings


@pytest.mark.parametrize(
    "tamper",
    [
        lambda store: store.leaf_rows.pop(2),
        lambda store: store.leaf_rows.pop(7),
        lambda store: store.checkpoint_rows.pop(8),
        lambda store: store.leaf_rows.update({2: (3, bytes(32))}),
        lambda store: store.checkpoint_rows.update({8: Checkpoint(8, bytes(32), "forged", START)}),
        lambda store: store.checkpoint_rows.update(
            {8: Checkpoint(8, bytes(32), journals.journal((8,), journals.OTHER).latest_checkpoint().note, START)}
        ),
    ],
)
def test_a_tree_that_was_changed_is_not_signed_again(tamper):
    # R29: the sequencer never puts its signature under somebody else's history.
    store = journals.journal()
    tamper(store)
    store.write(event(99))
    signer = CountingSigner(ED25519)
    error = refusal(sequencer(store, signer).run_once)
    assert ErrorType.SYSTEM_FAILURE is error.type
    assert "audit verify" in error.detail
    assert [] == signer.signed


def test_a_database_that_was_rolled_back_is_not_signed_again(tmp_path):
    remember = CheckpointFile(tmp_path / "checkpoint")
    store = MemoryJournal()
    line = sequencer(store, remember=remember)
    for number in range(3):
        store.write(event(number))
        line.run_once()
    assert 3 == remember.read(ORIGIN, ED25519.public_key).size
    assert 0 == sequencer(store, remember=remember).run_once()
    # An older backup is put back.
    del store.events[3], store.leaf_rows[2], store.checkpoint_rows[3]
    store.write(event(99))
    error = refusal(sequencer(store, remember=remember).run_once)
    assert "2 events, and 3 are remembered" in error.detail
    # It grows past the remembered size under somebody's copy of the worker.
    assert 1 == sequencer(store).run_once()
    error = refusal(sequencer(store, remember=remember).run_once)
    assert "does not continue" in error.detail


class _Reads(MemoryJournal):
    """Says which leaves were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[int] = []

    def leaf_hashes(self, start, limit):
        found = super().leaf_hashes(start, limit)
        self.read += range(start, start + len(found))
        return found


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A journal of ten events whose tree was kept at four and at eight, and the file."""
    monkeypatch.setattr(log, "KEEP", 4)
    store, remember = _Reads(), CheckpointFile(tmp_path / "checkpoint")
    line = sequencer(store, remember=remember)
    for number in range(10):
        store.write(event(number))
        line.run_once()
    assert [] == store.read
    return store, remember


def test_a_start_reads_the_leaves_since_the_tree_was_kept(kept):
    store, remember = kept
    assert 8 == remember.read_tree(ORIGIN, ED25519.public_key).size
    line = sequencer(store, remember=remember)
    assert (0, [8, 9]) == (line.run_once(), store.read)
    store.write(event(10), event(11))
    assert 2 == line.run_once()
    assert 12 == remember.read_tree(ORIGIN, ED25519.public_key).size
    # Stopped where it was kept.
    store.read.clear()
    assert (0, []) == (sequencer(store, remember=remember).run_once(), store.read)
    assert () == audit(store).findings


def test_a_tree_that_is_none_of_this_log_is_not_begun_with(kept):
    store, remember = kept
    good = remember.tree_path.read_text()
    peak, note = good.split("\n\n", 1)
    other = journals.journal((8,), signer=journals.OTHER).latest_checkpoint().note
    for wrong in ("", "x", f"{peak}\n{peak}\n\n{note}", f"{'00' * 32}\n\n{note}", f"{peak}\n\n{other}"):
        remember.tree_path.write_text(wrong)
        store.read.clear()
        assert (0, list(range(10))) == (sequencer(store, remember=remember).run_once(), store.read)
        # And was kept anew.
        assert 10 == remember.read_tree(ORIGIN, ED25519.public_key).size
    remember.tree_path.unlink()
    store.read.clear()
    assert (0, 10) == (sequencer(store, remember=remember).run_once(), len(store.read))


@pytest.mark.parametrize("index", [8, 9])
def test_what_was_changed_since_the_tree_was_kept_is_refused(kept, index):
    store, remember = kept
    store.leaf_rows[index] = (store.leaf_rows[index][0], bytes(32))
    assert "audit verify" in refusal(sequencer(store, remember=remember).run_once).detail


def test_what_was_changed_before_is_found_by_the_full_check(kept):
    store, remember = kept
    store.leaf_rows[2] = (store.leaf_rows[2][0], bytes(32))
    assert 0 == sequencer(store, remember=remember).run_once()
    assert () != audit(store).findings


def test_a_database_that_lost_what_was_kept_is_refused(kept):
    store, remember = kept
    for size in (8, 9, 10):
        del store.leaf_rows[size - 1], store.checkpoint_rows[size]
    assert "7 events, and 10 are remembered" in refusal(sequencer(store, remember=remember).run_once).detail


def test_the_remembered_checkpoint_is_this_log_s_or_nothing_starts(tmp_path):
    path = tmp_path / "checkpoint"
    for content in (
        b"",
        b"\xff",
        b"x" * 100_000,
        journals.journal(signer=journals.OTHER).latest_checkpoint().note,
    ):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(OperatorError):
            sequencer(journals.journal(), remember=CheckpointFile(path)).run_once()


def test_a_checkpoint_that_cannot_be_remembered_is_said(tmp_path):
    with pytest.raises(OperatorError, match="cannot be written"):
        CheckpointFile(tmp_path / "nowhere" / "checkpoint").write("note")


def test_a_log_that_cannot_have_a_name_or_key_is_refused_at_the_start():
    assert ErrorType.BAD_REQUEST is refusal(Sequencer, MemoryJournal(), ED25519, "a log", FakeClock()).type
