"""R30: over random histories, no single change to any stored bit, row or order goes unnoticed."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chancery.audit.merkle import consistency_holds, consistency_proof, leaf_hash
from chancery.audit.note import open_checkpoint
from chancery.audit.verify import verify
from chancery.errors import PKIError
from unit.audit import journals
from unit.audit.journals import ED25519, ORIGIN, SOON

histories = st.lists(st.integers(1, 5), min_size=1, max_size=6)


def audit(store, *remembered):
    return verify(store, ORIGIN, ED25519.public_key, SOON, remembered=remembered)


def flip_text(text, at):
    data = text.encode()
    at %= len(data) * 8
    changed = data[: at // 8] + bytes((data[at // 8] ^ 1 << at % 8,)) + data[at // 8 + 1 :]
    # The database keeps text, so only text can be put in place of it.
    return changed.decode("latin-1") if not _is_text(changed) else changed.decode()


def _is_text(data):
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def flip(data, at):
    at %= len(data) * 8
    return data[: at // 8] + bytes((data[at // 8] ^ 1 << at % 8,)) + data[at // 8 + 1 :]


def edit_event(store, pick, bit):
    event_id = sorted(store.events)[pick % len(store.events)]
    store.events[event_id] = flip_text(store.events[event_id], bit)


def edit_event_and_leaf(store, pick, bit):
    edit_event(store, pick, bit)
    event_id = sorted(store.events)[pick % len(store.events)]
    store.leaf_rows[event_id - 1] = (event_id, leaf_hash(store.events[event_id].encode()))


def edit_leaf(store, pick, bit):
    index = pick % len(store.leaf_rows)
    event_id, digest = store.leaf_rows[index]
    store.leaf_rows[index] = (event_id, flip(digest, bit))


def edit_root(store, pick, bit):
    size = sorted(store.checkpoint_rows)[pick % len(store.checkpoint_rows)]
    row = store.checkpoint_rows[size]
    store.checkpoint_rows[size] = dataclasses.replace(row, root=flip(row.root, bit))


def edit_note(store, pick, bit):
    size = sorted(store.checkpoint_rows)[pick % len(store.checkpoint_rows)]
    row = store.checkpoint_rows[size]
    store.checkpoint_rows[size] = dataclasses.replace(row, note=flip_text(row.note, bit))


def delete_event(store, pick, bit):
    del store.events[sorted(store.events)[pick % len(store.events)]]


def delete_leaf(store, pick, bit):
    del store.leaf_rows[pick % len(store.leaf_rows)]


def delete_both(store, pick, bit):
    index = pick % len(store.leaf_rows)
    del store.events[store.leaf_rows.pop(index)[0]]


def swap_leaves(store, pick, bit):
    one, other = pick % len(store.leaf_rows), (pick + 1 + bit % 5) % len(store.leaf_rows)
    store.leaf_rows[one], store.leaf_rows[other] = store.leaf_rows[other], store.leaf_rows[one]
    return one != other


def delete_last_checkpoint(store, pick, bit):
    del store.checkpoint_rows[max(store.checkpoint_rows)]


TAMPERINGS = [
    edit_event,
    edit_event_and_leaf,
    edit_leaf,
    edit_root,
    edit_note,
    delete_event,
    delete_leaf,
    delete_both,
    swap_leaves,
    delete_last_checkpoint,
]


@pytest.mark.parametrize("tamper", TAMPERINGS)
@given(history=histories, pick=st.integers(0, 40), bit=st.integers(0, 4000))
@settings(max_examples=40, deadline=None)
def test_any_single_change_is_found(tamper, history, pick, bit):
    store = journals.journal(history)
    assert () == audit(store).findings
    changed = tamper(store, pick, bit)
    assert changed is False or audit(store).findings


@given(histories, st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_any_roll_back_is_found_by_the_remembered_checkpoint(history, pick):
    store = journals.journal(history)
    remembered = audit(store).head
    sizes = sorted(store.checkpoint_rows)
    keep = [0, *sizes][pick % len(sizes)]
    store.leaf_rows = {index: row for index, row in store.leaf_rows.items() if index < keep}
    store.events = {event_id: body for event_id, body in store.events.items() if event_id <= keep}
    store.checkpoint_rows = {size: row for size, row in store.checkpoint_rows.items() if size <= keep}
    assert () == audit(store).findings
    assert audit(store, remembered).findings


@given(histories)
@settings(max_examples=40, deadline=None)
def test_all_checkpoints_of_a_history_are_consistent(history):
    store = journals.journal(history)
    hashes = store.leaf_hashes(0, 1000)
    heads = [open_checkpoint(row.note, ORIGIN, ED25519.public_key) for row in store.checkpoints()]
    for older, newer in itertools.pairwise(heads):
        proof = consistency_proof(hashes, older.size, newer.size)
        assert consistency_holds(older.size, older.root, newer.size, newer.root, proof)


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_random_text_is_no_checkpoint_and_no_other_error(text):
    with pytest.raises(PKIError):
        open_checkpoint(text, ORIGIN, ED25519.public_key)
