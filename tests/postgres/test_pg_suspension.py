"""Suspension on a real server: what the database itself lets happen, CRLs that follow, and two who race."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime

import psycopg
import pytest
from pgdata import DAY, SECOND, Office, event, serial, serials, settle

from chancery.ca.revocation import settle_revocations
from chancery.ports import COMPLETE, CRLRecord, CRLSelection, RevocationReason, Role, StatusState
from chancery.postgres.revocation import PgRevocationStore
from chancery.postgres.session import connect
from fakes import FakeClock
from pg import AT, crls_due

HOLD, RELEASE = RevocationReason.CERTIFICATE_HOLD, RevocationReason.REMOVE_FROM_CRL


@pytest.fixture
def office(database):
    return Office(database)


def change(office, number: int, **changes) -> None:
    """Settle a request of this reason so."""
    reason = changes.get("reason")
    request = office.ask_revocation(number, reason=RELEASE if reason is None else reason)
    status = dataclasses.replace(office.status(number), **changes)
    at = changes.get("revoked_at") or changes["released_at"]
    settle(office.revocations, status, request, None, [event("change", at=at)])


def held(office, number: int = 1) -> None:
    change(office, number, state=StatusState.REVOKED, reason=HOLD, revoked_at=AT)


def released(office, number: int = 1, at: datetime.datetime = AT + SECOND) -> None:
    change(
        office, number, state=StatusState.GOOD, reason=None, revoked_at=None, invalidity_date=None, released_at=at
    )


def publish(office, at: datetime.datetime) -> list[bytes]:
    number = office.revocations.reserve_crl_number(1, [])
    with office.revocations.open_crl(CRLSelection(1, COMPLETE, AT - DAY, number=number)) as draft:
        office.revocations.publish_crl(CRLRecord(1, number, at, at + 7 * DAY, at, b"crl %d" % number), [])
        return serials(draft)


def test_a_hold_and_its_release_each_make_a_crl_due(office):
    office.issue(1)
    assert [] == publish(office, AT)
    held(office)
    assert [1] == crls_due(office.revocations, AT)
    assert [serial(1)] == publish(office, AT + SECOND)
    assert [] == crls_due(office.revocations, AT + SECOND)
    released(office)
    assert [1] == crls_due(office.revocations, AT + SECOND)
    assert [] == publish(office, AT + 2 * SECOND)
    assert [] == crls_due(office.revocations, AT + 2 * SECOND)
    status = office.status(1)
    assert (StatusState.GOOD, None, AT + SECOND) == (status.state, status.revoked_at, status.released_at)
    # Read from elsewhere, a CRL has no snapshot: then the times decide.
    office.sql("ALTER TABLE chancery.crl DISABLE TRIGGER kept")
    office.sql("UPDATE chancery.crl SET snapshot = NULL")
    assert [] == crls_due(office.revocations, AT + 2 * SECOND)
    held(office)
    released(office, at=AT + 3 * SECOND)
    assert [1] == crls_due(office.revocations, AT + 3 * SECOND)


@pytest.mark.parametrize(
    ("before", "statement"),
    [
        ("good", "state = 'good', released_at = now()"),
        ("good", "state = 'revoked', reason = 6, revoked_at = now(), released_at = now()"),
        ("held", "state = 'good', revoked_at = NULL, reason = NULL, invalidity_date = NULL"),
        ("held", "state = 'good', revoked_at = NULL, reason = NULL, released_at = '2001-01-01'"),
        ("held", "reason = 6, revoked_at = now()"),
        ("held", "reason = 1, revoked_at = now()"),
        ("held", "reason = 1, released_at = now()"),
        ("held", "state = 'unconfirmed', revoked_at = NULL, reason = NULL"),
        ("revoked", "state = 'good', revoked_at = NULL, reason = NULL, released_at = now()"),
        ("revoked", "reason = 6"),
        ("unconfirmed", "state = 'revoked', reason = 6, revoked_at = now()"),
        ("unconfirmed", "state = 'good', released_at = now()"),
    ],
)
def test_the_database_lets_nothing_back_but_a_hold(office, before, statement):
    office.issue(1)
    if before == "held":
        held(office)
    elif before == "revoked":
        office.revoke(1)
    elif before == "unconfirmed":
        office.sql("ALTER TABLE chancery.certificate_status DISABLE TRIGGER status_forwards")
        office.sql("UPDATE chancery.certificate_status SET state = 'unconfirmed'")
        office.sql("ALTER TABLE chancery.certificate_status ENABLE TRIGGER status_forwards")
    with connect(office.database.role("worker")) as worker, pytest.raises(psycopg.errors.IntegrityError):
        worker.execute(f"UPDATE chancery.certificate_status SET {statement}")


def test_held_it_may_still_be_revoked_for_good(office):
    office.issue(1)
    held(office)
    released(office)
    held(office)
    change(office, 1, reason=RevocationReason.SUPERSEDED, revoked_at=AT)
    status = office.status(1)
    assert (RevocationReason.SUPERSEDED, AT, AT + SECOND) == (status.reason, status.revoked_at, status.released_at)


@pytest.mark.parametrize("attempt", range(4))
def test_a_release_that_races_with_a_revocation_never_wins_over_it(office, attempt):
    """Two workers, one serial: what was revoked for good is so at the end, and each request is ended once."""
    office.operator(9, "olga", Role.OFFICER)
    office.issue(1)
    held(office)
    reasons = [RELEASE, RevocationReason.KEY_COMPROMISE]
    for reason in reasons if attempt % 2 else reasons[::-1]:
        office.ask_revocation(1, reason=reason, invalidity_date=None)

    def work(name: str) -> None:
        store, clock = PgRevocationStore(office.database.role("worker")), FakeClock(AT + SECOND)
        while settle_revocations(store, clock, name):
            pass

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(work, ["worker-1", "worker-2"]))
    assert RevocationReason.KEY_COMPROMISE == office.status(1).reason
    states = [row[0] for row in office.sql("SELECT state FROM chancery.revocation_request ORDER BY 1")]
    assert "waiting" not in states
    events = office.sql("SELECT kind FROM chancery.journal_event WHERE subject = %s", f"1:{serial(1).hex()}")
    settled = [kind for (kind,) in events if kind.startswith("certificate.") or kind == "revocation.refused"]
    assert 2 == len(settled)
    assert 1 == settled.count("certificate.revoked")
