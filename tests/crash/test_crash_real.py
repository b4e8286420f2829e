"""
The crash test with the real database and the real token: the worker's process is killed, and all is accounted for.

Each life is a process that ends by SIGKILL at one port call, before or after its effect; another follows until
there is nothing left to do. Then plain SQL is compared with a file in which the signer counted the token's use.
"""

from __future__ import annotations

import itertools
import random

import pytest
from crash_life import Trip
from crash_world import GOOD, Round

pytestmark = [pytest.mark.postgres, pytest.mark.softhsm, pytest.mark.xdist_group("crash")]
WHEN = ["before", "after"]
ONE_LIFE = (
    # Revocation, issuance, a CRL; a round that finds nothing; the journal.
    "unconfirmed mark_unconfirmed take_revocations status requestor_may_revoke revoke"
    " take record_intents sign sign record_certificates"
    " crl_due latest_crl revoked_entries reserve_crl_number sign publish_crl"
)


@pytest.mark.parametrize("when", WHEN)
def test_killed_at_any_port_call_every_signature_is_accounted_for(case, when):
    killed: list[str] = []
    lost: list[int] = []
    for at in itertools.count(1):
        todo = Round(case)
        life = case.start(trip=Trip(at, when))
        outcome = life.outcome()
        if outcome is not None:
            assert "" == outcome.error
            break
        killed.append(life.tripped)
        lost.append(todo.settle(f"killed {when} call {at}, {life.tripped}"))
    assert outcome.text.split() == killed
    assert outcome.text.startswith(ONE_LIFE)
    # Only between the two commits can a signature be lost, and its intent always says so.
    between = {"before": ["sign", "sign", "record_certificates"], "after": ["record_intents", "sign", "sign"]}
    assert [2, 2, 2] == [number for number in lost if number]
    assert between[when] == [call for call, number in zip(killed, lost, strict=True) if number]


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
        case.submit(*[(f"{number}-{n}", GOOD) for n in range(4)])
        outcome = case.start(alarm=moments.uniform(0.001, 0.06), batch=3, threads=2).outcome()
        assert outcome is None or "" == outcome.error
        killed += outcome is None
    todo.settle()
    assert killed
    assert [("done", 60 * 4 + 4), ("refused", 1)] == case.sql(
        "SELECT state, count(*) FROM chancery.request GROUP BY 1 ORDER BY 1"
    )
