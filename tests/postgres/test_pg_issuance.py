"""The issuing worker's records, on a real server (docs/issuance.md; R2)."""

from __future__ import annotations

import concurrent.futures
import dataclasses

import psycopg
import pytest
from pgdata import SECOND, SHA, WORKER, Office, certificate, error_of, event, intent

from chancery.errors import ErrorType, OperatorError
from chancery.pkix.subject_granting import MAX_SUBJECT
from chancery.ports import EnrolmentRequest, EventKind, Refusal, RequestState, Scope, StatusState
from chancery.postgres.issuance import PgIssuanceStore
from chancery.postgres.session import Session, connect, worker_lock
from pg import AT


@pytest.fixture
def office(database):
    return Office(database)


def states(office) -> dict[str, str]:
    return dict(office.sql("SELECT transaction_id, state FROM chancery.request"))


def test_a_certificate_is_held_good_by_its_octets_its_issuer_and_its_status(office):
    """RFC 9883: whose word counts for a key that cannot sign."""
    office.issue(1)
    stored = certificate(1, 1)
    issuer, number, data = stored.issuer_id, stored.serial, stored.der
    assert office.store.holds_good([issuer, 99], number, data)
    for other in (([99], number, data), ([issuer], number + b"\0", data), ([issuer], number, data + b"\0")):
        assert not office.store.holds_good(*other)
    office.revoke(1)
    assert not office.store.holds_good([issuer], number, data)


def test_take_leaves_what_is_out_of_scope_waiting(office):
    """Requests for an issuer whose token is away go on waiting, whether the issuer was named or the profile's."""
    named, other, usual = (
        office.submit(f"t-{issuer}-{profile}", issuer=issuer, profile=profile)[0]
        for issuer, profile in (("away", "p"), ("here", "p"), (None, "p"))
    )
    (elsewhere,) = office.submit("t-none-q", issuer=None, profile="q")
    scope = Scope(("away",), ("p",), inside=False)
    assert [other, elsewhere] == [one.request_id for one in office.store.take(WORKER, 10, AT, scope)]
    assert [named, usual] == [
        one.request_id for one in office.store.take(WORKER, 10, AT, dataclasses.replace(scope, inside=True))
    ]


def test_take_gives_the_oldest_first_and_each_once(office):
    first, second, third = office.submit("t1", "t2", "t3")
    taken = office.store.take(WORKER, 2, AT)
    assert [first, second] == [request.request_id for request in taken]
    assert (
        EnrolmentRequest(
            first,
            "t1",
            "rest",
            "alice",
            "tls-server",
            None,
            b"\x30\x00csr",
            ("dns:www.example.org", 'uri:https://x/"\\{},'),
            AT,
        )
        == taken[0]
    )
    assert [third] == [request.request_id for request in office.store.take("worker-2", 10, AT)]
    assert [] == office.store.take(WORKER, 10, AT)


def test_only_taking_does_not_wait_for_the_disk(office):
    """What is lost of it leaves requests waiting; the intents that follow are durable before a signature."""
    office.submit("t1")
    session = Session(office.database.role("worker"))
    store = PgIssuanceStore(session)
    assert 1 == len(store.take(WORKER, 10, AT))
    assert [("on",)] == session.fetch("SHOW synchronous_commit")
    session.close()


def test_r15_the_shard_of_the_intent_is_the_statuss_for_good(office):
    ids = office.submit("t1", "t2", "t3")
    office.store.take(WORKER, 10, AT)
    intents = [intent(one, number, shard=number) for number, one in enumerate(ids, 1)]
    office.store.record_intents(WORKER, intents, [], [])
    office.store.record_certificates([certificate(ids[0], 1, shard=1)], [], [])
    office.store.mark_unconfirmed(WORKER, intents[1:2], [])
    assert [1, 2, 3] == [office.status(number).shard for number in (1, 2, 3)]
    office.revoke(3)
    assert [(1,), (2,), (3,)] == office.sql("SELECT shard FROM chancery.certificate_status ORDER BY serial")
    with pytest.raises(psycopg.errors.RestrictViolation), connect(office.database.superuser) as superuser:
        superuser.execute(
            "UPDATE chancery.certificate_status SET shard = 7, state = 'revoked', revoked_at = now(), reason = 0"
        )


def test_two_workers_never_take_the_same_request(office):
    ids = office.submit(*(f"t{n}" for n in range(200)))

    def take_all(worker: str) -> list[int]:
        store, taken = PgIssuanceStore(office.database.role("worker")), []
        while batch := store.take(worker, 7, AT):
            taken += [request.request_id for request in batch]
        return taken

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        taken = [one for batch in pool.map(take_all, "abcd") for one in batch]
    assert ids == sorted(taken)


def test_an_order_from_request_to_certificate(office):
    done, refused = office.submit("t1", "t2")
    office.store.take(WORKER, 10, AT)
    office.store.record_intents(
        WORKER,
        [intent(done, 1)],
        [Refusal(refused, ErrorType.BAD_ALG, "no\x00 such key")],
        [event("one"), event("two")],
    )
    assert [intent(done, 1)] == office.store.unconfirmed(WORKER)
    office.store.record_certificates([certificate(done, 1)], [], [event("three")])
    assert [] == office.store.unconfirmed(WORKER)
    assert {"t1": "done", "t2": "refused"} == states(office)
    assert StatusState.GOOD == office.status(1).state
    outcome = office.queue(lambda q: q.outcome(done))
    assert (RequestState.DONE, b"certificate 1", "issuing") == (outcome.state, outcome.certificate, outcome.issuer)
    outcome = office.queue(lambda q: q.outcome(refused))
    assert (RequestState.REFUSED, ErrorType.BAD_ALG, "no� such key") == (
        outcome.state,
        outcome.error,
        outcome.detail,
    )
    assert ["issuer:issuing", "t1", "t2", "one", "two", "three"] == office.events()
    assert [(list(certificate(1, 1).names),)] == office.sql("SELECT names FROM chancery.certificate")


def test_r2_a_serial_is_used_once_and_the_whole_batch_is_refused_with_it(office):
    first, second = office.submit("t1", "t2")
    office.store.take(WORKER, 10, AT)
    office.store.record_intents(WORKER, [intent(first, 1)], [], [])
    before = office.events()
    batch = [intent(second, 2), intent(second, 1)]
    assert ErrorType.SYSTEM_FAILURE == error_of(
        lambda: office.store.record_intents(WORKER, batch, [], [event("never")])
    )
    assert (1, before) == (office.count("intent"), office.events())
    twice = [intent(second, 3), intent(second, 3)]
    assert ErrorType.SYSTEM_FAILURE == error_of(lambda: office.store.record_intents(WORKER, twice, [], []))
    assert 1 == office.count("intent")
    # The connection is as good as before.
    office.store.record_intents(WORKER, [intent(second, 4)], [], [])
    assert 2 == office.count("intent")


def test_an_intent_for_a_request_that_the_worker_does_not_hold_is_an_outage_to_it(office):
    (request_id,) = office.submit("t1")
    record = lambda: office.store.record_intents(WORKER, [intent(request_id, 1)], [], [event("never")])
    assert ErrorType.SYSTEM_UNAVAIL == error_of(record)  # it waits
    office.store.take("worker-2", 1, AT)
    assert ErrorType.SYSTEM_UNAVAIL == error_of(record)  # another has it
    assert 0 == office.count("intent")
    assert "never" not in office.events()


def test_a_certificate_needs_the_intent_of_its_own_request(office):
    first, second = office.submit("t1", "t2")
    office.store.take(WORKER, 10, AT)
    office.store.record_intents(WORKER, [intent(first, 1)], [], [])
    for wrong in (certificate(first, 2), certificate(second, 1)):
        assert ErrorType.SYSTEM_FAILURE == error_of(
            lambda one=wrong: office.store.record_certificates([one], [], [event("never")])
        )
    assert (0, 0) == (office.count("certificate"), office.count("certificate_status"))
    assert {"t1": "taken", "t2": "taken"} == states(office)
    assert "never" not in office.events()


def test_what_an_index_cannot_hold_is_refused_and_not_an_outage(office):
    (request_id,) = office.submit("t1")
    office.store.take(WORKER, 10, AT)
    office.store.record_intents(WORKER, [intent(request_id, 1)], [], [])
    # Every character once, so that nothing is left to compress.
    one = certificate(request_id, 1, subject="CN=" + "".join(map(chr, range(0x20000, 0x20000 + 1000))))
    assert ErrorType.SYSTEM_FAILURE == error_of(lambda: office.store.record_certificates([one], [], []))
    longest = dataclasses.replace(one, subject="CN=a" + "".join(map(chr, range(0x20000, 0x20000 + 511))))
    assert MAX_SUBJECT == len(longest.subject.encode())
    office.store.record_certificates([longest], [], [])


def test_recovery_marks_the_intents_and_returns_the_requests(office):
    first, second, third = office.submit("t1", "t2", "t3")
    office.store.take(WORKER, 2, AT)
    office.store.take("worker-2", 1, AT)
    office.store.record_intents(WORKER, [intent(first, 1)], [], [])
    office.store.record_intents("worker-2", [intent(third, 3)], [], [])
    found = office.store.unconfirmed(WORKER)
    assert [intent(first, 1)] == found
    office.store.mark_unconfirmed(WORKER, found, [event("lost", EventKind.INTENT_UNCONFIRMED)])
    assert [] == office.store.unconfirmed(WORKER)
    assert StatusState.UNCONFIRMED == office.status(1).state
    assert {"t1": "waiting", "t2": "waiting", "t3": "taken"} == states(office)
    office.store.mark_unconfirmed(WORKER, found, [])  # idempotent
    assert [first, second] == [request.request_id for request in office.store.take(WORKER, 10, AT)]
    # A late certificate of the marked serial is refused; a new serial is not.
    assert ErrorType.SYSTEM_FAILURE == error_of(
        lambda: office.store.record_certificates([certificate(first, 1)], [], [])
    )
    office.store.record_intents(WORKER, [intent(first, 4)], [], [])
    office.store.record_certificates([certificate(first, 4)], [], [])
    assert StatusState.UNCONFIRMED == office.status(1).state


def test_an_intent_behind_a_refused_request_is_still_found(office):
    (request_id,) = office.submit("t1")
    office.store.take(WORKER, 1, AT)
    office.store.record_intents(WORKER, [intent(request_id, 1)], [], [])
    refusal = Refusal(request_id, ErrorType.SYSTEM_FAILURE, "the token answered wrongly")
    office.store.record_certificates([], [refusal], [])
    assert [intent(request_id, 1)] == office.store.unconfirmed(WORKER)


def test_a_serial_revoked_on_its_intent_alone_stays_revoked(office):
    (request_id,) = office.submit("t1")
    office.store.take(WORKER, 1, AT)
    office.store.record_intents(WORKER, [intent(request_id, 1)], [], [])
    assert StatusState.UNCONFIRMED == office.status(1).state
    office.revoke(1, AT + SECOND)
    office.store.record_certificates([certificate(request_id, 1)], [], [])
    assert StatusState.REVOKED == office.status(1).state
    assert {"t1": "done"} == states(office)


def test_a_settled_request_is_settled_for_good(office):
    request_id = office.issue(1)
    refusal = Refusal(request_id, ErrorType.BAD_ALG, "no")
    assert ErrorType.SYSTEM_FAILURE == error_of(
        lambda: office.store.record_certificates([], [refusal], [event("never")])
    )
    with connect(office.database.role("worker")) as worker:
        for state in ("waiting", "taken"):
            with pytest.raises(psycopg.errors.RestrictViolation):
                worker.execute("UPDATE chancery.request SET state = %s", (state,))
    assert "never" not in office.events()


def test_a_waiting_request_is_neither_done_nor_refused_before_it_is_taken(office):
    (request_id,) = office.submit("t1")
    refusal = Refusal(request_id, ErrorType.BAD_ALG, "no")
    assert ErrorType.SYSTEM_FAILURE == error_of(lambda: office.store.record_certificates([], [refusal], []))
    with connect(office.database.role("worker")) as worker, pytest.raises(psycopg.errors.RestrictViolation):
        worker.execute("UPDATE chancery.request SET state = 'done', worker = 'w'")


def test_a_serial_has_nine_to_twenty_octets_and_is_positive(office):
    (request_id,) = office.submit("t1")
    office.store.take(WORKER, 1, AT)
    for wrong in (b"\x01" * 8, b"\x01" * 21, b"\x80" + bytes(16), bytes(17)):
        one = intent(request_id, 1, serial=wrong)
        assert ErrorType.SYSTEM_FAILURE == error_of(lambda i=one: office.store.record_intents(WORKER, [i], [], []))


def test_one_instance_octet_belongs_to_one_worker(database):
    settings = dataclasses.replace(database.role("worker"), lock_timeout=0.1)
    one = Session(settings, [worker_lock(1)])
    one.open()
    other = Session(settings, [worker_lock(2)])
    other.open()
    with pytest.raises(OperatorError, match="another worker with instance 1"):
        Session(settings, [worker_lock(1)]).open()
    one.close()
    Session(settings, [worker_lock(1)]).open()
    other.close()


def test_a_batch_of_many(office):
    ids = office.submit(*(f"t{n}" for n in range(300)))
    assert ids == [request.request_id for request in office.store.take(WORKER, 1000, AT)]
    office.store.record_intents(WORKER, [intent(i, i) for i in ids], [], [event(f"intent {i}") for i in ids])
    office.store.record_certificates([certificate(i, i) for i in ids], [], [])
    assert (300, 300, {"done"}) == (
        office.count("certificate"),
        office.count("certificate_status"),
        set(states(office).values()),
    )
    assert [f"intent {i}" for i in ids] == office.events()[-300:]
    assert [(SHA,)] == office.sql("SELECT DISTINCT profile_sha256 FROM chancery.intent")
