"""Which CRLs are due, by their times, what changed and what was asked for (R14, R15); what is not published."""

from __future__ import annotations

import dataclasses
import datetime

import pytest

from chancery.ca.crl import CRLSettings, MemoryDraft, Timing, _nothing_lost
from chancery.ca.crl_schedule import due
from chancery.errors import PKIError
from chancery.ports import CRLScope, CRLStanding, CRLState
from fakes import START

HOUR = datetime.timedelta(hours=1)
DAY = 24 * HOUR
FULL = CRLStanding(5, START, START + 7 * DAY, None, b"", usable=True)
DELTA = CRLStanding(6, START + HOUR, START + 25 * HOUR, 5, b"", usable=True)
STATE = CRLState(1, 0, None, FULL, None, changed=False, wanted=False, wanted_delta=False)
PLAIN, DELTAS = CRLSettings(), CRLSettings(delta=Timing(DAY))


def scopes(settings, after, *states, idps=None) -> list[str]:
    found = due(states, settings, START + after, idps or {state.shard: b"" for state in states})
    return [str(one.scope) for one in found]


def change(**changes) -> CRLState:
    return dataclasses.replace(STATE, **changes)


def test_r14_a_crl_is_due_a_day_before_its_end_and_urgent_half_a_day_before():
    assert [] == scopes(PLAIN, 6 * DAY - HOUR, STATE)
    assert ["complete"] == scopes(PLAIN, 6 * DAY, STATE)
    urgent = [due([STATE], PLAIN, START + after, {0: b""})[0].urgent for after in (6 * DAY, 6.5 * DAY, 8 * DAY)]
    assert [False, True, True] == urgent


@pytest.mark.parametrize("changes", [{"full": None}, {"changed": True}, {"wanted": True}, {"wanted_delta": True}])
def test_without_deltas_whatever_happens_makes_the_crl_itself(changes):
    assert ["complete"] == scopes(PLAIN, HOUR, change(**changes))


def test_with_deltas_a_change_makes_a_delta_and_a_wish_what_was_wished():
    state = change(delta=DELTA)
    assert [] == scopes(DELTAS, 2 * HOUR, state)
    for changes in ({"changed": True}, {"wanted_delta": True}, {"delta": None}):
        assert ["complete delta"] == scopes(DELTAS, 2 * HOUR, dataclasses.replace(state, **changes))
    # Of another base.
    other = dataclasses.replace(DELTA, base=4)
    assert ["complete delta"] == scopes(DELTAS, 2 * HOUR, change(delta=other))
    assert ["complete"] == scopes(DELTAS, 2 * HOUR, dataclasses.replace(state, wanted=True))
    # RFC 5280 5.2.4: not of the same moment as its base.
    assert [] == scopes(DELTAS, 0 * HOUR, change(changed=True))
    # What the database cannot tell the changes since is no base.
    unusable = dataclasses.replace(FULL, usable=False)
    assert ["complete"] == scopes(DELTAS, 2 * HOUR, change(full=unusable))


def test_r14_with_deltas_or_beside_shards_the_complete_crl_is_a_day_old_at_most():
    fresh = dataclasses.replace(DELTA, next_update=START + 9 * DAY)
    assert ["complete"] == scopes(DELTAS, DAY, change(delta=fresh))
    shard = change(shard=1, url="http://pki.example.org/1.crl")
    assert [] == scopes(PLAIN, DAY - HOUR, STATE, shard)
    assert ["complete"] == scopes(PLAIN, DAY, STATE, shard)
    assert ["shard 1"] == scopes(PLAIN, HOUR, STATE, dataclasses.replace(shard, changed=True))


def test_r15_a_crl_from_the_future_or_of_another_distribution_point_is_due():
    assert ["complete"] == scopes(PLAIN, -HOUR, STATE)
    assert ["complete"] == scopes(PLAIN, HOUR, STATE, idps={0: b"\x30\x00"})


def test_without_deltas_any_more_the_crl_catches_up_with_the_last_one():
    assert ["complete"] == scopes(PLAIN, 2 * HOUR, change(delta=DELTA))


def test_what_ends_first_comes_first():
    ending = dataclasses.replace(FULL, next_update=START + 2 * HOUR, this_update=START - DAY)
    shard = change(shard=1, url="u", full=ending)
    found = due([change(changed=True), shard], PLAIN, START + HOUR, {0: b"", 1: b""})
    assert [CRLScope(1), CRLScope(0)] == [one.scope for one in found]


def test_r16_entries_that_are_gone_without_a_reason_are_not_published():
    draft = MemoryDraft((b"a", b"b"), gone=1)
    _nothing_lost(3, draft)
    with pytest.raises(PKIError, match="1 entries of the one before it are gone"):
        _nothing_lost(4, draft)


@pytest.mark.parametrize(
    ("lifetime", "overlap", "period"),
    [(datetime.timedelta(seconds=30), None, None), (DAY, DAY, None), (DAY, None, DAY), (DAY, 0 * HOUR, None)],
)
def test_impossible_timings_are_refused(lifetime, overlap, period):
    with pytest.raises(ValueError, match="CRL"):
        Timing(lifetime, overlap, period)
