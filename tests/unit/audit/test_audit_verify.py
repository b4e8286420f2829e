"""R30: `audit verify` finds what was edited, deleted, reordered, truncated, forged or rolled back."""

from __future__ import annotations

import datetime
import json

import pytest

from chancery.audit.listing import newest
from chancery.audit.merkle import leaf_hash
from chancery.audit.note import TreeHead, open_checkpoint, sign_checkpoint
from chancery.audit.verify import MAX_FINDINGS, Finding, Kind, verify
from chancery.ports import Checkpoint, Event, EventKind
from fakes import START
from unit.audit import journals
from unit.audit.journals import ED25519, ORIGIN, SOON, event


def audit(store, **options):
    return verify(store, ORIGIN, ED25519.public_key, options.pop("at", SOON), **options)


def kinds(found):
    return [finding.kind for finding in found.findings]


def edit(store, event_id, **changes):
    value = json.loads(store.events[event_id])
    store.events[event_id] = json.dumps(value | changes, sort_keys=True, separators=(",", ":"))


@pytest.mark.parametrize("signer", [journals.ED25519, journals.P256], ids=["ed25519", "p256"])
def test_an_honest_journal_is_found_whole(signer):
    store = journals.journal((3, 1, 4), signer)
    found = verify(store, ORIGIN, signer.public_key, SOON)
    assert ((), 0, 3, 0) == (found.findings, found.omitted, found.checkpoints, found.waiting)
    assert open_checkpoint(found.note, ORIGIN, signer.public_key) == found.head
    assert 8 == found.head.size


def test_an_empty_journal_is_whole():
    found = audit(journals.MemoryJournal())
    assert (None, (), 0) == (found.head, found.findings, found.checkpoints)


@pytest.mark.parametrize("event_id", range(1, 9))
def test_an_edited_event_is_named(event_id):
    store = journals.journal()
    edit(store, event_id, subject="1:somebody else")
    found = audit(store)
    assert [Kind.EDITED] == kinds(found)
    assert f"event {event_id} (leaf {event_id - 1})" in found.findings[0].what
    assert "certificate.issued of 1:somebody else" in found.findings[0].what
    assert (None, None) == (found.head, found.note)


def test_an_event_made_into_something_else_is_named():
    store = journals.journal()
    for event_id, body in ((1, ""), (2, "[]"), (3, "{"), (4, "\u0000")):
        store.events[event_id] = body
    assert [Kind.EDITED] * 4 == kinds(audit(store))


@pytest.mark.parametrize("event_id", range(1, 9))
def test_a_deleted_event_is_named(event_id):
    store = journals.journal()
    del store.events[event_id]
    found = audit(store)
    assert [Kind.DELETED] == kinds(found)
    assert f"event {event_id} (leaf {event_id - 1}) is gone" == found.findings[0].what


def test_an_event_edited_together_with_its_leaf_breaks_the_signed_root():
    store = journals.journal()
    edit(store, 6, subject="1:somebody else")
    store.leaf_rows[5] = (6, leaf_hash(store.events[6].encode()))
    found = audit(store)
    assert [Kind.REPLACED] == kinds(found)
    assert "leaves from 4 to 7" in found.findings[0].what


def test_reordered_events_are_found():
    store = journals.journal()
    store.leaf_rows[1], store.leaf_rows[6] = store.leaf_rows[6], store.leaf_rows[1]
    found = audit(store)
    assert [Kind.REPLACED] == kinds(found)
    assert "checkpoint 3: the leaves from 0 to 2" in found.findings[0].what


def test_bodies_that_changed_places_are_found():
    store = journals.journal()
    store.events[1], store.events[2] = store.events[2], store.events[1]
    assert [Kind.EDITED, Kind.EDITED] == kinds(audit(store))


def test_an_event_deleted_with_its_leaf_leaves_a_gap():
    store = journals.journal()
    del store.events[4], store.events[5], store.leaf_rows[3], store.leaf_rows[4]
    found = audit(store)
    assert [Kind.GAP] == kinds(found)
    assert "leaves 3 to 4 of the tree: gone" == found.findings[0].what


def test_a_deleted_leaf_is_found_twice():
    store = journals.journal()
    del store.leaf_rows[0]
    assert [Kind.GAP, Kind.NOT_SEQUENCED] == kinds(audit(store, at=START + datetime.timedelta(days=1)))


def test_rows_cut_off_at_the_end_are_found():
    store = journals.journal()
    for event_id in (7, 8):
        del store.events[event_id], store.leaf_rows[event_id - 1]
    found = audit(store)
    assert [Kind.TRUNCATED] == kinds(found)
    assert "covers 8 events, and 6 leaves are there" in found.findings[0].what


def cut_to_checkpoint(store, size):
    """What the database's owner can do: leave nothing that contradicts itself."""
    for index in [index for index in store.leaf_rows if index >= size]:
        del store.events[store.leaf_rows.pop(index)[0]]
    for other in [other for other in store.checkpoint_rows if other > size]:
        del store.checkpoint_rows[other]


def test_everything_after_an_older_checkpoint_cut_off_is_found_by_the_remembered_one():
    store = journals.journal()
    remembered = audit(store).head
    cut_to_checkpoint(store, 4)
    assert () == audit(store).findings
    found = audit(store, remembered=[remembered])
    assert [Kind.ROLLED_BACK] == kinds(found)
    assert "8 events was remembered, and the newest one covers 4" in found.findings[0].what
    cut_to_checkpoint(store, 0)
    assert [Kind.ROLLED_BACK] == kinds(audit(store, remembered=[remembered]))


def test_a_history_rewritten_after_the_remembered_checkpoint_is_found():
    store, other = journals.journal((3, 1, 4)), journals.journal((2, 3))
    edit(other, 2, subject="other")
    remembered = audit(store).head
    rewritten = journals.MemoryJournal()
    rewritten.write(*(event(100 + number) for number in range(9)))
    journals.Sequencer(rewritten, ED25519, ORIGIN, journals.FakeClock()).run_once()
    assert () == audit(rewritten).findings
    assert [Kind.ROLLED_BACK] == kinds(audit(rewritten, remembered=[remembered]))


def test_a_journal_that_grew_continues_the_remembered_checkpoint():
    store = journals.journal((3,))
    remembered = audit(store).head
    store.write(event(4))
    journals.Sequencer(store, ED25519, ORIGIN, journals.FakeClock()).run_once()
    found = audit(store, remembered=[remembered])
    assert ((), 4) == (found.findings, found.head.size)


def forged(size, root, signer=ED25519, said=None, origin=ORIGIN):
    return Checkpoint(size, root, sign_checkpoint(TreeHead(origin, said or size, root), signer), START)


@pytest.mark.parametrize(
    "checkpoint",
    [
        forged(4, bytes(32), journals.OTHER),
        forged(4, bytes(32), said=5),
        forged(4, bytes(32), origin="other.example"),
        Checkpoint(4, bytes(32), "nothing", START),
    ],
)
def test_a_forged_checkpoint_is_found(checkpoint):
    store = journals.journal()
    store.checkpoint_rows[4] = checkpoint
    found = audit(store)
    assert [Kind.BAD_CHECKPOINT] == kinds(found)
    assert "checkpoint 4: " in found.findings[0].what


def test_a_checkpoint_row_that_says_more_than_its_text_is_found():
    store = journals.journal()
    latest = store.latest_checkpoint()
    store.checkpoint_rows[4] = Checkpoint(4, latest.root, store.checkpoint_rows[4].note, START)
    assert [Kind.BAD_CHECKPOINT] == kinds(audit(store))


def test_a_checkpoint_signed_over_another_tree_by_the_right_key_is_found():
    store = journals.journal()
    store.checkpoint_rows[5] = forged(5, bytes(32))
    assert [Kind.REPLACED] == kinds(audit(store))


def test_another_key_or_origin_finds_every_checkpoint():
    store = journals.journal()
    found = verify(store, ORIGIN, journals.OTHER.public_key, SOON)
    assert [Kind.BAD_CHECKPOINT] * 3 == kinds(found)
    found = verify(store, "other.example", ED25519.public_key, SOON)
    assert [Kind.BAD_CHECKPOINT] * 3 == kinds(found)


def test_leaves_without_a_checkpoint_are_found():
    store = journals.journal()
    del store.checkpoint_rows[8]
    found = audit(store)
    assert [Kind.NOT_SIGNED] == kinds(found)
    assert "leaves 4 to 7" in found.findings[0].what


def test_an_event_waits_for_its_leaf_for_a_while_and_is_then_reported():
    store = journals.journal()
    store.write(event(9))
    found = audit(store)
    assert ((), 1, 8) == (found.findings, found.waiting, found.head.size)
    found = audit(store, at=START + datetime.timedelta(minutes=2))
    assert [Kind.NOT_SEQUENCED] == kinds(found)
    assert "event 9, written 2026-11-24T12:00:00+00:00, has no leaf" in found.findings[0].what


@pytest.mark.parametrize("body", ["", "{}", '{"at":"today"}', '{"at":"2026-11-24T12:00:00"}', '{"at":1}', "[]"])
def test_an_event_without_a_time_does_not_hide(body):
    store = journals.journal()
    store.events[9] = body
    found = audit(store)
    assert [Kind.NOT_SEQUENCED] == kinds(found)
    assert "written at no time" in found.findings[0].what


def test_a_journal_full_of_findings_is_told_briefly():
    store = journals.journal((MAX_FINDINGS + 20,))
    store.events.clear()
    found = audit(store)
    assert (MAX_FINDINGS, 20) == (len(found.findings), found.omitted)


def test_every_finding_says_what_comes_next():
    store = journals.journal()
    del store.events[1]
    [finding] = audit(store).findings
    assert "deleted: event 1 (leaf 0) is gone" == str(finding)
    assert "backup" in finding.next_step
    assert all(Finding(kind, "").next_step for kind in Kind)


def test_the_newest_events_are_listed_by_subject_and_kind(monkeypatch):
    monkeypatch.setattr("chancery.audit.listing.PAGE", 3)
    store = journals.journal()
    store.write(Event(EventKind.LOGIN, START, "eve", "console", {"from": "::1"}))
    del store.events[3]
    store.events[4] = "{"
    listed = newest(store, subject=None, kind=None, limit=100)
    assert [None, 7, 6, 5, 4, 1, 0] == [entry.index for entry in listed]
    [login] = newest(store, subject=None, kind="login", limit=5)
    assert ("console", "eve", '{"from": "::1"}') == (login.subject, login.actor, login.detail)
    assert [8, 7] == [entry.event_id for entry in newest(store, subject="1:", kind="certificate.issued", limit=2)]
    assert [] == newest(store, subject="nobody", kind=None, limit=5)
    assert [6] == [entry.event_id for entry in newest(store, subject="1:0005", kind=None, limit=5)]
