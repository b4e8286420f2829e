"""
The crash test of the whole life, with the real database and the real token.

Suspensions, mass revocations, issuers and profiles that are deactivated, CRLs in shards with deltas: killed at
each step of it, and the server and the token taken away.
"""

from __future__ import annotations

import time

import crash_account
import pytest
from crash_life import Trip
from crash_proxy import Link
from crash_wide import OTTO, WIDE, Wide
from crash_world import OFFICER, ended_well, good, kill

from chancery.ports import CRLScope
from crlchecks import REMOVED, late, lines_of

pytestmark = [pytest.mark.postgres, pytest.mark.softhsm, pytest.mark.xdist_group("crash")]
CERTIFICATE = """
SELECT der FROM chancery.certificate JOIN chancery.request USING (request_id) WHERE transaction_id = %s"""


@pytest.fixture(scope="session")
def wide(world, quiet):
    """An installation with two officers and two rounds behind it; for tests that do not mind what came before."""
    with world.case(quiet) as case:
        # Two certificates of one subject would be one person.
        csr = good("otto.example.org")
        case.submit(("otto", csr))
        case.work(**WIDE)
        [otto] = case.submit(("otto", csr))
        case.add_officer(otto.certificate, OTTO)
        [(officer,)] = case.sql(CERTIFICATE, "officer")
        found = Wide(case, {OFFICER: officer, OTTO: otto.certificate})
        for _ in range(3):
            found.ask()
            assert 0 == found.settle()
        yield found


# Each life goes a step further and is killed there; the next one has the rest. To be killed after an effect is to
# be killed before the call that follows it.
CHAINS = [
    [
        *(("settle", 1), ("take", 1), ("record_intents", 1), ("sign", 1), ("record_certificates", 1)),
        *(("reserve_crl_number", 1), ("sign", 1), ("publish_crl", 1), ("move", 1), ("settle", 1)),
        *(("publish_crl", 1), ("move", 1), ("append", 1)),
    ],
    [
        *(("take_revocations", 1), ("mark_unconfirmed", 1), ("sign", 2), ("mark_unconfirmed", 1), ("sign", 3)),
        *(("record_certificates", 1), ("publish_crl", 1), ("reserve_crl_number", 1), ("sign", 1), ("move", 1)),
        *(("settle", 1), ("sign", 1), ("publish_crl", 1), ("move", 1), ("write", 1)),
    ],
]
SIGNED = 3
"""Certificates of a round."""


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("deactivated", ["issuer", "profile"])
def test_killed_after_every_effect_in_turn_everything_is_accounted_for(wide, chain, deactivated):
    wide.ask(deactivated)
    for call, at in chain:
        life = wide.case.start(trip=Trip(at, "after", call=call), **WIDE)
        assert (None, call) == (life.outcome(), life.tripped)
    # Twice it was killed between the two commits.
    assert 2 * SIGNED == wide.settle()


HELD = {"settle": 0, "move": 0, "publish_crl": 0}


@pytest.mark.parametrize(("call", "lost"), HELD.items())
def test_a_server_killed_under_a_suspension_a_mass_revocation_and_a_delta(world, wide, call, lost):
    wide.ask()
    life = wide.case.start(trip=Trip(1, "before", "hold", call), **WIDE)
    life.until("tripped", call)
    kill(world.server.embedded)
    life.go_on()
    life.until("report", "paused")
    world.server.embedded.start()
    ended_well(life)
    assert lost == wide.settle()


# What is signed after the certificates are CRLs.
@pytest.mark.parametrize("at", [2, SIGNED + 2])
def test_a_token_taken_away_and_brought_back(world, wide, at):
    wide.ask()
    life = wide.case.start(trip=Trip(at, "before", "hold", "sign"), **WIDE)
    life.until("tripped", "sign")
    with world.without_token():
        life.go_on()
        life.until("report", "paused")
    ended_well(life)
    # What failed was marked, each time that it did; a CRL that failed is only made again.
    lost = wide.settle()
    assert lost >= 1 if at == 2 else lost == 0


LOST = {
    ("UPDATE chancery.revocation_job", "statement"): 0,
    ("UPDATE chancery.revocation_job", "reply"): 0,
    ("INSERT INTO chancery.certificate_status AS s", "reply"): 0,
    ("INSERT INTO chancery.crl (", "reply"): 0,
}


@pytest.mark.parametrize(("statement", "losing"), LOST)
def test_a_commit_of_which_nobody_knows_whether_it_took_effect(wide, tmp_path_factory, statement, losing):
    wide.ask()
    link = Link(tmp_path_factory.mktemp("link"), wide.case.host, statement.encode(), losing)
    life = wide.case.start(host=link.host, **WIDE)
    ended_well(life)
    link.close()
    assert link.cut
    assert LOST[statement, losing] == wide.settle()


def test_a_profile_deactivated_before_the_worker_takes_its_requests(wide):
    """It is looked up with the requests: what was asked for before is refused, whoever is killed meanwhile."""
    wide.ask()
    life = wide.case.start(trip=Trip(1, "before", "hold", "take"), **WIDE)
    life.until("tripped")
    wide.deactivate("tls-server")
    life.go_on()
    ended_well(life)
    assert 0 == wide.settle()
    wide.activate("tls-server")


def test_what_was_revoked_is_on_a_crl_when_all_is_at_rest(wide):
    """R14; and all CRLs at once: the shards together are the complete one (R15)."""
    for _ in range(2):
        wide.ask()
        assert 0 == wide.settle()
    time.sleep(1)  # no delta is of the same second as its base
    wide.want_all()
    assert 0 == wide.settle()
    time.sleep(1)
    assert 0 == wide.settle()
    account = crash_account.account(wide.case.sql)
    assert [] == list(late(account))
    assert {CRLScope(shard, delta=delta) for shard in range(3) for delta in (True, False)} == {
        one.scope for one in account.crls
    }
    assert any(
        line.reason == REMOVED for one in account.crls if one.scope.delta for line in lines_of(one).values()
    )
