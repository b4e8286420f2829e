"""Two workers, one sequencer: the other stands by, is well, and goes on when the first one dies (R29)."""

from __future__ import annotations

import multiprocessing
import threading
import time

import pytest
from pgdata import event
from structlog.testing import capture_logs

from chancery.audit.log import Sequencer
from chancery.audit.verify import verify
from chancery.cli import serve_worker
from chancery.cli.serve_worker import Health
from chancery.cli.worker_metrics import WorkerMetrics
from chancery.errors import ErrorType, StandbyError
from chancery.postgres.journal import PgJournalStore, insert_events
from chancery.postgres.session import Connection, Session, connect, sequencer_lock
from fakes import FakeClock
from pg import AT, password
from unit.audit.journals import ED25519, ORIGIN

PATIENCE = 60.0


def sequence(connection, health, stop) -> None:
    """What a worker's journal thread does, over a session of its own."""
    session = Session(connection, [sequencer_lock])
    store = PgJournalStore(session)
    try:
        sequencer, metrics = Sequencer(store, ED25519, ORIGIN, FakeClock()), WorkerMetrics(None, FakeClock())
        serve_worker._sequence(sequencer, store, stop, Health(health), metrics)
    finally:
        session.close()


def _process(host, port, database, health) -> None:
    user = "chancery_worker"
    sequence(Connection(host, port, database, user, lambda: password(user)), health, threading.Event())


def write(database, subject: str) -> None:
    with connect(database.role("ra")) as connection, connection.transaction():
        insert_events(connection, [event(subject)])


def until(what) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.01)


def leaves(database) -> int:
    return PgJournalStore(database.role("auditor")).tree_size()


def test_a_standby_is_well_and_takes_over_from_one_that_was_killed(database, tmp_path, monkeypatch):
    monkeypatch.setattr(serve_worker, "RETRY_SECONDS", 0.05)
    connection, stop = database.role("worker"), threading.Event()
    where = (connection.host, connection.port, connection.database, tmp_path / "first")
    first = multiprocessing.get_context("spawn").Process(target=_process, args=where)
    first.start()
    second = threading.Thread(target=sequence, args=(connection, tmp_path / "second", stop))
    try:
        write(database, "a")
        until(lambda: leaves(database) == 1)
        with capture_logs() as logs:
            second.start()
            until(lambda: logs)
            write(database, "b")
            until(lambda: leaves(database) == 2)
            health = (tmp_path / "second").read_text()
            first.kill()
            first.join()
            write(database, "c")
            until(lambda: leaves(database) == 3)
            until(lambda: len(logs) > 1)
    finally:
        stop.set()
        if second.ident is not None:
            second.join()
        first.kill()
        first.join()
    assert health.endswith(" well\n")
    assert ["journal standby", "journal taken over"] == [one["event"] for one in logs]
    store = PgJournalStore(database.role("auditor"))
    assert () == verify(store, ORIGIN, ED25519.public_key, AT).findings
    assert [1, 2, 3] == [one.tree_size for one in store.checkpoints()]


def test_a_standby_says_so_and_is_an_outage_to_those_who_do_not_know(database):
    waiting = Session(database.role("worker"), [sequencer_lock])
    with connect(database.role("worker")) as holder:
        sequencer_lock(holder)
        with pytest.raises(StandbyError) as caught:
            waiting.open()
    assert ErrorType.SYSTEM_UNAVAIL is caught.value.type
