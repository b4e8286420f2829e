"""The journal's rows: whatever order events commit in, none is left without a leaf (R29, R30)."""

from __future__ import annotations

import concurrent.futures
import hashlib
import threading

import psycopg
import pytest
from pgdata import error_of, event

from chancery.errors import ErrorType, PKIError
from chancery.ports import Checkpoint, Leaf
from chancery.postgres.journal import PgJournalStore, event_body, insert_events
from chancery.postgres.session import Session, connect, sequencer_lock
from pg import AT


@pytest.fixture
def journal(database):
    return PgJournalStore(database.role("worker"))


def write(database, *subjects: str) -> None:
    with connect(database.role("ra")) as connection, connection.transaction():
        insert_events(connection, [event(subject) for subject in subjects])


def digest(body: str) -> bytes:
    return hashlib.sha256(b"\x00" + body.encode()).digest()


def checkpoint(size: int) -> Checkpoint:
    return Checkpoint(size, hashlib.sha256(b"%d" % size).digest(), f"note {size}", AT)


def sequence(journal, limit: int = 100) -> list[int]:
    """Give every event that is found a leaf; return their ids."""
    found = journal.unsequenced(limit)
    if found:
        start = journal.tree_size()
        leaves = [(start + n, event_id, digest(body)) for n, (event_id, body) in enumerate(found)]
        journal.append(leaves, checkpoint(start + len(leaves)))
    return [event_id for event_id, _ in found]


def test_events_become_leaves_and_checkpoints(database, journal):
    write(database, "a", "b")
    write(database, "c")
    bodies = [event_body(event(subject)) for subject in "abc"]
    assert list(enumerate(bodies, 1)) == journal.unsequenced(10)
    assert (0, None, []) == (journal.tree_size(), journal.latest_checkpoint(), journal.checkpoints())
    assert list(enumerate(bodies, 1)) == journal.events_without_leaf()
    assert [1, 2] == sequence(journal, 2)
    assert [3] == sequence(journal, 2)
    assert [] == sequence(journal)
    assert 3 == journal.tree_size()
    assert [digest(body) for body in bodies] == journal.leaf_hashes(0, 10)
    assert [digest(bodies[1])] == journal.leaf_hashes(1, 1)
    assert [checkpoint(2), checkpoint(3)] == journal.checkpoints()
    assert checkpoint(3) == journal.latest_checkpoint()
    assert [Leaf(n, n + 1, body, digest(body)) for n, body in enumerate(bodies)] == journal.leaves(0, 10)
    assert [] == journal.events_without_leaf()


def test_a_page_of_long_events_ends_early_and_none_is_missed(database, journal, monkeypatch):
    # The role of the web process decides how long its events are; the worker has to hold a page in memory.
    monkeypatch.setattr("chancery.postgres.journal.MAX_PAGE", 2500)
    write(database, *("x" * 1000 for _ in range(5)))
    write(database, "y" * 10_000, "z")
    pages = []
    while found := sequence(journal, 6):
        pages.append(found)
    assert [[1, 2, 3], [4, 5, 6], [7]] == pages
    assert [] == journal.events_without_leaf()


def test_an_event_that_commits_late_with_a_lower_id_is_not_missed(database, journal):
    write(database, "first")
    assert [1] == sequence(journal)
    with connect(database.role("tsa")) as late, connect(database.role("ra")) as early:
        with late.transaction():
            insert_events(late, [event("late")])
            for n in range(3):
                with early.transaction():
                    insert_events(early, [event(f"early {n}")])
            assert [3, 4, 5] == sequence(journal)
            assert [] == sequence(journal)
            assert [] == sequence(journal)
        assert [2] == sequence(journal)
    assert [] == sequence(journal)
    assert [] == journal.events_without_leaf()


def test_what_is_rolled_back_leaves_a_hole_in_the_ids_and_none_in_the_tree(database, journal):
    with connect(database.role("ra")) as connection:
        with connection.transaction() as transaction:
            insert_events(connection, [event("never")])
            raise psycopg.Rollback(transaction)
        insert_events(connection, [event("kept")])
    assert [2] == sequence(journal)
    assert [0] == [leaf.index for leaf in journal.leaves(0, 10)]


def test_a_sequencer_among_concurrent_writers_misses_nothing(database, journal):
    def writer(name: str) -> None:
        with connect(database.role(name)) as connection:
            for n in range(60):
                with connection.transaction():
                    insert_events(connection, [event(f"{name} {n}"), event(f"{name} {n} too")])

    done = threading.Event()
    seen: list[int] = []

    def sequencer() -> None:
        while not done.is_set():
            seen.extend(sequence(journal, 7))
        while found := sequence(journal, 7):
            seen.extend(found)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        running = pool.submit(sequencer)
        for one in [pool.submit(writer, name) for name in ("ra", "tsa", "worker")]:
            one.result()
        done.set()
        running.result()
    assert list(range(1, 361)) == sorted(seen)
    assert [] == journal.events_without_leaf()
    assert list(range(360)) == [leaf.index for leaf in journal.leaves(0, 1000)]


def test_the_search_does_not_begin_at_the_beginning_again(database, journal):
    write(database, *"abcdefgh")
    write(database, "last")
    for _ in range(4):
        sequence(journal, 3)
    (last,) = connect_and_fetch(database, "SELECT max(xid)::text::bigint FROM chancery.journal_event")
    assert journal._settled > last
    # One that was found and not appended is found again.
    write(database, "again")
    assert [10] == [event_id for event_id, _ in journal.unsequenced(10)]
    assert [10] == [event_id for event_id, _ in journal.unsequenced(10)]


def connect_and_fetch(database, query: str):
    with connect(database.superuser) as superuser:
        return superuser.execute(query).fetchone()


def test_one_sequencer_at_a_time(database):
    first = Session(database.role("worker"), [sequencer_lock])
    first.open()
    second = Session(database.role("worker"), [sequencer_lock])
    assert ErrorType.SYSTEM_UNAVAIL == error_of(second.open)
    first.close()
    second.open()
    second.close()


def test_one_that_was_overtaken_stores_nothing(database, journal):
    write(database, "a", "b")
    other = PgJournalStore(database.role("worker"))
    found = other.unsequenced(1)
    sequence(journal)
    leaves = [(0, event_id, digest(body)) for event_id, body in found]
    with pytest.raises(PKIError, match="another process"):
        other.append(leaves, checkpoint(1))
    assert [checkpoint(2)] == journal.checkpoints()
    # An event never gets a second leaf, wherever in the tree.
    assert ErrorType.SYSTEM_FAILURE == error_of(lambda: other.append([(2, 1, bytes(32))], checkpoint(3)))
    assert 2 == journal.tree_size()


def test_an_event_whose_row_is_gone_or_changed_shows(database, journal):
    write(database, "a", "b", "c")
    sequence(journal)
    with connect(database.superuser) as thief:
        # What only the server's own superuser can do.
        thief.execute("SET session_replication_role = replica")
        thief.execute("DELETE FROM chancery.journal_event WHERE event_id = 2")
        thief.execute(
            "UPDATE chancery.journal_event SET body = replace(body, '\"a\"', '\"z\"') WHERE event_id = 1"
        )
        thief.execute("DELETE FROM chancery.journal_leaf WHERE leaf_index = 2")
    bodies = [leaf.body for leaf in journal.leaves(0, 10)]
    assert [event_body(event("z")), None] == bodies
    assert 2 == len(journal.leaf_hashes(0, 10))
    assert [3] == [event_id for event_id, _ in journal.events_without_leaf()]


def test_leaf_hashes_end_before_a_gap(database, journal):
    write(database, "a", "b", "c")
    sequence(journal)
    with connect(database.superuser) as thief:
        thief.execute("SET session_replication_role = replica")
        thief.execute("DELETE FROM chancery.journal_leaf WHERE leaf_index = 1")
    assert 1 == len(journal.leaf_hashes(0, 10))
    assert 3 == journal.tree_size()


def test_the_writer_and_the_kind_are_the_databases_own_words(database, journal):
    write(database, "a")
    row = connect_and_fetch(database, "SELECT writer, kind, subject FROM chancery.journal_event")
    assert ("chancery_ra", "login.accepted", "a") == row


def test_texts_that_postgresql_cannot_hold_are_hashed_as_they_are_stored(database, journal):
    write(database, 'nul \x00 \ud800 \\u0000 "quoted"')
    ((_, body),) = journal.unsequenced(1)
    assert event_body(event('nul � � \\u0000 "quoted"')) == body
