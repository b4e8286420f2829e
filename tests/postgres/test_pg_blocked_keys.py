"""R5: the blocklist on a real server: who may write it, what it is asked, and what came before it."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from pgdata import DAY, SECOND, Office, event, new_request, serial, settle

from chancery.errors import ErrorType, PKIError
from chancery.ports import BlockedKey, EventKind, RevocationReason, StatusState, Submission
from chancery.postgres.migrate import migrate, migrations
from chancery.postgres.roles import create_database
from chancery.postgres.session import connect
from pg import AT, Database


def key_of(number: int) -> bytes:
    return hashlib.sha256(b"key %d" % number).digest()


def blocked(number: int, **changes) -> BlockedKey:
    return dataclasses.replace(BlockedKey(key_of(number), "found on a web server", AT, "olga"), **changes)


@pytest.fixture
def office(database):
    return Office(database)


def _block(office, key: BlockedKey) -> bool:
    events = [event(f"key:{key.spki_sha256.hex()}", EventKind.KEY_BLOCKED)]
    return office.directory(lambda d: d.block_key(key, events))


def test_a_key_is_blocked_once_and_for_the_worker_too(office):
    assert set() == office.revocations.blocked([key_of(1), key_of(2)])
    assert _block(office, blocked(1))
    events = office.events()
    assert not _block(office, blocked(1, reason="again", blocked_by="otto"))
    assert events == office.events()
    assert {key_of(1)} == office.revocations.blocked([key_of(1), key_of(2)])
    assert {key_of(1)} == office.revocations.blocked([key_of(1)])
    assert set() == office.revocations.blocked([])
    assert blocked(1) == office.directory(lambda d: d.blocked_key(key_of(1)))
    assert office.directory(lambda d: d.blocked_key(key_of(2))) is None


def test_r5_a_request_for_a_blocked_key_is_refused_and_its_neighbours_stored(office):
    _block(office, blocked(1))
    asked = [Submission(new_request(f"t{n}"), (event(f"t{n}"),), key_of(n)) for n in (0, 1, 2)]
    again = Submission(new_request("t1"), (), key_of(1))
    other = Submission(new_request("t1", profile="other"), (), key_of(3))
    first, second, third, same, different = office.queue(lambda q: q.submit_many([*asked, again, other]))
    assert ["t0", "t2"] == [first.transaction_id, third.transaction_id]
    assert ErrorType.BAD_CERT_TEMPLATE == second.type == same.type
    assert ErrorType.TRANSACTION_ID_IN_USE == different.type
    assert ["t0", "t2"] == office.events()[-2:]
    with pytest.raises(PKIError, match="compromised"):
        office.queue(lambda q: q.submit(new_request("t4"), [], key_of(1)))
    assert 2 == office.count("request")


def test_they_are_listed_in_the_order_of_their_hashes_in_pages(office):
    for number in range(5):
        _block(office, blocked(number, blocked_at=AT + number * SECOND))
    every = sorted(blocked(n, blocked_at=AT + n * SECOND).spki_sha256 for n in range(5))
    first = office.directory(lambda d: d.blocked_keys(b"", 3))
    rest = office.directory(lambda d: d.blocked_keys(first[-1].spki_sha256, 3))
    assert every == [one.spki_sha256 for one in (*first, *rest)]
    assert [3, 2] == [len(first), len(rest)]


def _revoke(office, number: int, block: BlockedKey | None, reason=RevocationReason.KEY_COMPROMISE) -> None:
    request = office.ask_revocation(number, reason=reason)
    status = office.status(number)
    revoked = dataclasses.replace(status, state=StatusState.REVOKED, revoked_at=AT, reason=reason)
    settle(office.revocations, revoked, request, None, [event("revoked")], block=block)


def test_a_revocation_blocks_the_key_in_its_own_transaction(office):
    office.issue(1)
    assert b"tbs 1" == office.standing(1).tbs
    assert office.standing(9).tbs is None
    _revoke(office, 1, blocked(1))
    assert [blocked(1)] == office.directory(lambda d: d.blocked_keys(b"", 9))


def test_a_revocation_that_comes_to_nothing_blocks_nothing(office):
    office.issue(1)
    request = office.ask_revocation(1)
    revoked = dataclasses.replace(
        office.status(1), state=StatusState.REVOKED, revoked_at=AT, reason=request.reason
    )
    settle(office.revocations, None, request, "not so", [event("refused")])
    # Settled meanwhile: nothing is recorded.
    settle(office.revocations, revoked, request, None, [event("late")], block=blocked(1))
    assert 0 == office.count("blocked_key")


@pytest.mark.parametrize("reason", [reason for reason in RevocationReason if reason.final])
def test_r5_a_worker_of_the_previous_release_blocks_the_key_without_knowing(office, reason):
    office.issue(1)
    _revoke(office, 1, None, reason)
    assert ({key_of(1)} if reason.compromised else set()) == office.revocations.blocked([key_of(1)])


def test_r5_what_was_revoked_before_there_was_the_list_is_on_it(server):
    """The migration reads the whole history, and the statements of the previous release still work beside it."""
    found = Database(server.embedded, "chancery_previous")
    with connect(server.superuser) as superuser:
        create_database(superuser, found.name)
    try:
        owner, every = found.role("owner"), migrations()
        migrate(owner, at=AT)
        office = Office(found)
        for number in (1, 2, 3):
            office.issue(number, spki_sha256=key_of(min(number, 2)))
        with connect(found.superuser) as superuser:
            # As it was before: without the table, what hangs on it, and its migration.
            superuser.execute("DROP TRIGGER compromised_key ON chancery.certificate_status")
            superuser.execute("DROP FUNCTION chancery.compromised_key")
            superuser.execute("DROP TABLE chancery.blocked_key")
            superuser.execute("DELETE FROM public.chancery_migration WHERE number = 3")
        _revoke(office, 1, None, RevocationReason.SUPERSEDED)
        for number in (2, 3):
            _revoke(office, number, None)
        assert [str(every[2])] == migrate(owner, at=AT + DAY)
        assert {key_of(2)} == office.revocations.blocked([key_of(1), key_of(2)])
        [one] = office.directory(lambda d: d.blocked_keys(b"", 9))
        assert (AT, "chancery_owner") == (one.blocked_at, one.blocked_by)
        assert serial(2).hex() in one.reason
    finally:
        with connect(server.superuser) as superuser:
            superuser.execute("DROP DATABASE chancery_previous WITH (FORCE)")
