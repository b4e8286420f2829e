"""Profiles on a real server: a version says one thing, a switch has its event, a wish comes through unchanged."""

from __future__ import annotations

import json

import psycopg
import pytest
from pgdata import SECOND, WORKER, Office, certificate, event, intent, new_request

from chancery.errors import OperatorError
from chancery.ports import EventKind, ProfileRecord, RequestState, Role
from chancery.postgres.requests import request_fingerprint
from chancery.postgres.session import connect
from pg import AT

WISH = '{"duration":"12h"}'


@pytest.fixture
def office(database):
    return Office(database)


def _taken(office):
    [found] = office.store.take(WORKER, 10, AT)
    return found


def test_a_request_of_an_operator_that_was_removed_says_so_when_it_is_taken(office):
    office.operator(2, "rita", Role.REQUESTOR)
    office.submit("t1", requestor="rita")
    assert not _taken(office).requestor_removed
    office.submit("t2", requestor="rita")
    office.directory(lambda d: d.remove_operator("rita", AT, []))
    assert _taken(office).requestor_removed
    # The installation asks under a name that is no operator's.
    office.submit("t3", requestor="bootstrap")
    assert not _taken(office).requestor_removed


def test_a_profile_is_switched_off_and_on_for_the_worker_with_an_event_each(office):
    assert {} == office.directory(lambda d: d.profile_switches())
    assert office.switch("tls-server")
    assert not office.switch("tls-server", at=AT + SECOND)
    office.submit("t1")
    assert not _taken(office).profile_active
    office.submit("t2", profile="smime")
    assert _taken(office).profile_active
    assert office.switch("tls-server", active=True)
    office.submit("t3")
    assert _taken(office).profile_active
    kinds = [json.loads(row[0])["kind"] for row in office.sql("SELECT body FROM chancery.journal_event")]
    assert ["profile.deactivated", "profile.activated"] == [kind for kind in kinds if kind.startswith("profile")]
    latest = office.directory(lambda d: d.profile_switches())
    assert {"tls-server": True} == {name: one.active for name, one in latest.items()}


@pytest.mark.parametrize(
    "told",
    [
        event("profile:smime", EventKind.PROFILE_DEACTIVATED),
        event("profile:tls-server", EventKind.PROFILE_ACTIVATED),
        event("profile:tls-server", EventKind.PROFILE_DEACTIVATED),
    ],
    ids=["of another profile", "of another act", "by somebody else"],
)
def test_r27_there_is_no_switch_without_its_event(office, told):
    with connect(office.database.role("ra")) as ra:
        with pytest.raises(psycopg.errors.CheckViolation):
            ra.execute(
                "SELECT chancery.switch_profile('tls-server', false, 'why', 'olga', %s, %s)", (AT, told.body())
            )
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            ra.execute(
                "INSERT INTO chancery.profile_switch (name, active, reason, operator, at)"
                " VALUES (%s, true, %s, %s, %s)",
                ("tls-server", "why", "olga", AT),
            )


def test_a_version_of_a_profile_has_one_text(office):
    office.issuers.add_profile("p", 1, bytes(32), "one", AT)
    office.issuers.add_profile("p", 1, bytes(32), "one", AT + SECOND)
    with pytest.raises(OperatorError, match="version 1 of the profile p is recorded with another text"):
        office.issuers.add_profile("p", 1, b"\x01" * 32, "two", AT)
    office.issuers.add_profile("p", 2, b"\x01" * 32, "two", AT + SECOND)
    first, second = (
        ProfileRecord("p", 1, bytes(32), "one", AT),
        ProfileRecord("p", 2, b"\x01" * 32, "two", AT + SECOND),
    )
    assert [second, first] == office.directory(lambda d: d.profile_records())
    with connect(office.database.role("worker")) as worker, pytest.raises(psycopg.errors.UniqueViolation):
        worker.execute("INSERT INTO chancery.profile VALUES ('p', 2, %s, 'three', %s)", (b"\x02" * 32, AT))


def test_a_wish_comes_through_and_is_part_of_what_was_asked(office):
    [number] = office.submit("t1", wish=WISH)
    assert WISH == _taken(office).wish
    assert [number] == office.submit("t1", wish=WISH)
    plain, wishing = new_request("t1"), new_request("t1", wish=WISH)
    assert request_fingerprint(plain) != request_fingerprint(wishing)
    assert request_fingerprint(wishing) != request_fingerprint(new_request("t1", issuer=WISH))


def test_what_was_not_granted_is_told_with_the_certificate(office):
    [number] = office.submit("t1")
    assert number == _taken(office).request_id
    office.store.record_intents(WORKER, [intent(number, 1)], [], [])
    office.store.record_certificates([certificate(number, 1, dropped="not granted: a thing")], [], [])
    outcome = office.queue(lambda q: q.outcome(number))
    assert (RequestState.DONE, "not granted: a thing") == (outcome.state, outcome.detail)
    assert outcome.error is None
