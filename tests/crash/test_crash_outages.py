"""Database and token taken away under a living worker, and several workers: the same account as after a kill."""

from __future__ import annotations

import pytest
from crash_life import Trip
from crash_proxy import Link
from crash_world import Round, ended_well, good, kill

pytestmark = [pytest.mark.postgres, pytest.mark.softhsm, pytest.mark.xdist_group("crash")]
# What is lost when the link breaks at this statement: signatures whose intents are marked.
LOST = {
    ("INSERT INTO chancery.intent (", "statement"): 0,
    ("INSERT INTO chancery.intent (", "reply"): 2,
    ("INSERT INTO chancery.certificate (", "statement"): 2,
    ("INSERT INTO chancery.certificate (", "reply"): 0,
    ("UPDATE chancery.revocation_request", "statement"): 0,
    ("UPDATE chancery.revocation_request", "reply"): 0,
    ("INSERT INTO chancery.crl_number", "reply"): 0,
    ("INSERT INTO chancery.crl (", "statement"): 0,
    ("INSERT INTO chancery.crl (", "reply"): 0,
    ("INSERT INTO chancery.journal_leaf", "statement"): 0,
    ("INSERT INTO chancery.journal_leaf", "reply"): 0,
}


@pytest.mark.parametrize(("statement", "losing"), LOST)
def test_a_commit_of_which_nobody_knows_whether_it_took_effect(long_lived, tmp_path_factory, statement, losing):
    todo = Round(long_lived)
    link = Link(tmp_path_factory.mktemp("link"), long_lived.host, statement.encode(), losing)
    life = long_lived.start(host=link.host)
    ended_well(life)
    link.close()
    assert link.cut
    assert any(report.startswith(("paused", "journal")) for report in life.reports)
    assert LOST[statement, losing] == todo.settle()


HELD = {"record_intents": 0, "sign": 2, "record_certificates": 2, "publish_crl": 0}


@pytest.mark.parametrize(("call", "lost"), HELD.items())
def test_a_server_killed_in_the_middle_of_a_batch(world, long_lived, call, lost):
    todo = Round(long_lived)
    life = long_lived.start(trip=Trip(1, "before", "hold", call))
    life.until("tripped", call)
    kill(world.server.embedded)
    life.go_on()
    life.until("report", "paused")
    world.server.embedded.start()
    ended_well(life)
    assert lost == todo.settle()


def test_a_token_taken_away_in_the_middle_of_a_batch_and_brought_back(world, case):
    todo = Round(case)
    life = case.start(trip=Trip(2, "before", "hold", "sign"))
    life.until("tripped", "sign")
    with world.without_token():
        life.go_on()
        life.until("report", "paused")
    ended_well(life)
    asked, signed = case.counted("asked"), case.counted("signed")
    assert len(asked) > len(signed)
    # One signature was made before it went; that certificate was recorded, what failed was marked each time.
    assert todo.settle() >= 1


def test_a_second_worker_of_the_same_instance_does_not_start(case):
    todo = Round(case)
    first = case.start(trip=Trip(1, "before", "hold", "sign"))
    first.until("tripped", "sign")
    second = case.start(lock_timeout=0.2).outcome()
    assert "another worker with instance 1 is running" in second.error
    assert "" == second.text
    first.go_on()
    ended_well(first)
    assert 0 == todo.settle()


def test_workers_of_different_instances_share_the_queue(case):
    todo = Round(case)
    case.submit(*[(f"more-{n}", good()) for n in range(60)])
    lives = [
        case.start(instance=instance, batch=4, trip=Trip(1, "after", "hold", "take")) for instance in (1, 2, 3)
    ]
    for life in lives:
        life.until("tripped")
    for life in lives:
        life.go_on()
    for life in lives:
        ended_well(life)
    assert 0 == todo.settle()
    assert 62 + 2 == case.count("certificate")
    assert [(1, "worker-1"), (2, "worker-2"), (3, "worker-3")] == case.sql(
        "SELECT DISTINCT get_byte(serial, 2), worker FROM chancery.intent WHERE request_id > 2 ORDER BY 1"
    )


def test_one_worker_is_killed_and_another_leaves_alone_what_it_had_taken(case):
    todo = Round(case)
    assert case.start(trip=Trip(2, "after", call="sign")).outcome() is None
    case.submit(*[(f"more-{n}", good()) for n in range(4)])
    case.work(instance=2)
    assert [("done", 6), ("refused", 1), ("taken", 2)] == case.sql(
        "SELECT state, count(*) FROM chancery.request GROUP BY 1 ORDER BY 1"
    )
    assert 2 == todo.settle()


def cut_off(case) -> None:
    """The server ends every connection of the worker's role to this database."""
    case.sql(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND usename = 'chancery_worker'"
    )


def test_a_worker_that_was_cut_off_and_replaced_cannot_record_its_signatures(case):
    """It signed, lost its connection and its lock; another of its name recovered and issued; then it goes on."""
    todo = Round(case)
    first = case.start(trip=Trip(1, "before", "hold", "record_certificates"))
    first.until("tripped")
    cut_off(case)
    case.work()
    assert 2 == len(case.unconfirmed())
    first.go_on()
    first.until("report", "the database refused the change")
    ended_well(first)
    assert 2 == todo.settle()


def test_a_worker_that_was_cut_off_ends_when_another_of_its_instance_works(case):
    todo = Round(case)
    first = case.start(trip=Trip(1, "before", "hold", "record_certificates"), lock_timeout=0.2)
    first.until("tripped")
    cut_off(case)
    second = case.start(trip=Trip(1, "before", "hold", "record_certificates"))
    second.until("tripped")
    first.go_on()
    outcome = first.outcome()
    assert "another worker with instance 1 is running" in outcome.error
    second.go_on()
    ended_well(second)
    assert 2 == todo.settle()
