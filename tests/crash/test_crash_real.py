"""
The crash test with the real database and the real token: the worker's process is killed, and all is accounted for.

Each life is a process that ends by SIGKILL at one port call, before or after its effect; another follows until
there is nothing left to do. Then plain SQL is compared with a file in which the signer counted the token's use.
"""

from __future__ import annotations

import random

import pytest
from crash_life import Trip
from crash_world import Round, good

pytestmark = [pytest.mark.postgres, pytest.mark.softhsm, pytest.mark.xdist_group("crash")]
WHEN = ["before", "after"]
ONE_LIFE = [
    *("unconfirmed", "mark_unconfirmed", "take_revocations", "standings"),
    *("blocked", "settle", "take", "record_intents", "sign", "sign", "record_certificates"),
    *("latest_crl", "reserve_crl_number", "open_crl", "sign", "publish_crl"),
    # A round that finds nothing; then the journal.
    *("take_revocations", "take"),
    *("tree_size", "latest_checkpoint", "read", "read_tree", "leaf_hashes"),
    *("unsequenced", "append", "write", "unsequenced"),
]
EFFECTS = {
    *("mark_unconfirmed", "settle", "take", "record_intents", "sign", "record_certificates"),
    *("reserve_crl_number", "publish_crl", "append", "write"),
}
"""To be killed after any other call is to be killed before the next."""


@pytest.mark.parametrize("when", WHEN)
def test_killed_at_any_port_call_every_signature_is_accounted_for(case, when):
    todo = Round(case)
    calls = case.work().text.split()
    assert ONE_LIFE == calls
    assert 0 == todo.settle()
    lost: dict[int, int] = {}
    for at, call in enumerate(calls, 1):
        if when == "before" or call in EFFECTS:
            todo = Round(case)
            life = case.start(trip=Trip(at, when))
            assert (None, call) == (life.outcome(), life.tripped)
            lost[at] = todo.settle(f"killed {when} call {at}, {call}")
    # Only between the two commits can a signature be lost, and its intent always says so.
    first, last = ("sign", "record_certificates") if when == "before" else ("record_intents", "sign")
    assert {calls[at - 1] for at, number in lost.items() if number} == {first, "sign", last}
    assert {0, 2} == set(lost.values())


@pytest.mark.parametrize("when", WHEN)
def test_killed_again_while_it_recovers_it_recovers_the_next_time(case, when):
    recovery = ("unconfirmed", "mark_unconfirmed", "take_revocations")
    for at, call in enumerate(recovery, 1):
        todo = Round(case)
        assert case.start(trip=Trip(2, "after", call="sign")).outcome() is None
        again = case.start(trip=Trip(at, when))
        assert (None, call) == (again.outcome(), again.tripped)
        assert 2 == todo.settle(f"killed {when} {call}")


def test_killed_at_any_moment_with_signatures_on_several_threads(case):
    """Not at a port call but wherever the clock finds it: in the token, in a commit, while it logs in."""
    moments = random.Random(20261124)
    todo = Round(case)
    killed = 0
    for number in range(60):
        case.submit(*[(f"{number}-{n}", good()) for n in range(4)])
        outcome = case.start(alarm=moments.uniform(0.001, 0.06), batch=3, threads=2).outcome()
        assert outcome is None or "" == outcome.error
        killed += outcome is None
    todo.settle()
    assert killed
    assert [("done", 60 * 4 + 4), ("refused", 1)] == case.sql(
        "SELECT state, count(*) FROM chancery.request GROUP BY 1 ORDER BY 1"
    )


BREACHES = {
    "edited: event 3": "UPDATE chancery.journal_event SET body = body || ' ' WHERE event_id = 3",
    "deleted: event 4": "DELETE FROM chancery.journal_event WHERE event_id = 4",
    # Two events that change places, each with its leaf as it was.
    "edited: event 6": """
        UPDATE chancery.journal_event AS e SET body = o.body FROM chancery.journal_event AS o
        WHERE (e.event_id, o.event_id) IN ((6, 7), (7, 6))""",
    "an event without its leaf": "DELETE FROM chancery.journal_leaf WHERE leaf_index = 9",
    "a request that was never settled": "UPDATE chancery.request"
    " SET state = 'taken', certificate_issuer_id = NULL, certificate_serial = NULL WHERE request_id = 2",
    "a gap in the CRL numbers": "UPDATE chancery.crl_number SET number = 7",
    "an intent without certificate or mark": "DELETE FROM chancery.certificate WHERE certificate_id = 2",
    "an intent without a status": "DELETE FROM chancery.certificate_status",
    "a signature that no intent names": "DELETE FROM chancery.intent WHERE request_id = 2",
}


def test_the_account_shows_what_it_is_there_for(case):
    """One breach after another, by a superuser past every trigger."""
    case.work()
    assert [] == case.problems()
    for expected, statement in BREACHES.items():
        assert expected not in "; ".join(case.problems())
        case.sql("SET session_replication_role = replica")
        case.sql(statement)
        assert expected in "; ".join(case.problems())


def test_the_account_shows_a_journal_cut_off_at_an_earlier_checkpoint(case):
    """What is left is a journal that was signed once: only who remembers a later head sees it (R30)."""
    case.submit(("more", good()))
    case.work()
    assert [] == case.problems()
    case.sql("SET session_replication_role = replica")
    [(size,)] = case.sql("SELECT min(tree_size) FROM chancery.journal_checkpoint")
    case.sql("DELETE FROM chancery.journal_leaf WHERE leaf_index >= %s", size)
    case.sql(
        "DELETE FROM chancery.journal_event WHERE event_id NOT IN (SELECT event_id FROM chancery.journal_leaf)"
    )
    case.sql("DELETE FROM chancery.journal_checkpoint WHERE tree_size > %s", size)
    assert any(found.startswith("rolled-back") for found in case.problems())


def test_the_account_shows_a_signature_of_which_the_database_knows_nothing(case):
    case.work()
    with (case.files / "signed").open("a") as file:
        file.write(f"asked issuing {case.counted('asked')[0][:-1].hex()}00\n")
    assert ["a signature that no intent names", "a signature over nothing that is known"] == [
        found.partition(": ")[2] or found for found in case.problems()
    ]
