"""The registration side of the queue: durable submissions, retries, waiting through NOTIFY and outages."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from pathlib import Path

import pgdata
import psycopg
import pytest
from pgdata import SECOND, WORKER, Office, certificate, event, intent, new_request, new_revocation, serial

from chancery.errors import ErrorType, PKIError
from chancery.ports import Refusal, RequestState, RevocationOutcome, Submission
from chancery.postgres import requests
from chancery.postgres.listen import OUTCOMES, REQUESTS, Listener
from chancery.postgres.requests import PgRequestQueue, request_fingerprint
from chancery.postgres.session import AsyncPool, connect
from pg import AT

LONG = 60.0
"""Seconds; a test that waits this long has failed to be woken."""


@pytest.fixture
def office(database):
    return Office(database)


def raised(office, act) -> ErrorType:
    with pytest.raises(PKIError) as caught:
        office.queue(act)
    return caught.value.type


def test_a_submission_is_stored_with_its_events(office):
    outcome = office.queue(lambda q: q.submit(new_request(), [event("a"), event("b\x00")]))
    assert (1, "t1", "alice", RequestState.WAITING) == (
        outcome.request_id,
        outcome.transaction_id,
        outcome.requestor,
        outcome.state,
    )
    assert request_fingerprint(new_request()) == outcome.fingerprint
    assert outcome == office.queue(lambda q: q.outcome(1))
    assert ["issuer:issuing", "a", "b�"] == office.events()
    assert office.queue(lambda q: q.outcome(2)) is None


def test_a_retry_is_the_same_request_whenever_it_comes(office):
    first = office.queue(lambda q: q.submit(new_request(), [event("once")]))
    again = new_request(received_at=AT + SECOND)
    assert first == office.queue(lambda q: q.submit(again, [event("twice")]))
    request_id = office.store.take(WORKER, 1, AT)[0].request_id
    office.store.record_intents(WORKER, [intent(request_id, 1)], [], [])
    office.store.record_certificates([certificate(request_id, 1)], [], [])
    done = office.queue(lambda q: q.submit(again, [event("thrice")]))
    assert (RequestState.DONE, b"certificate 1", "issuing") == (done.state, done.certificate, done.issuer)
    assert ["issuer:issuing", "once"] == office.events()


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": "est"},
        {"profile": "tls-client"},
        {"issuer": "issuing"},
        {"csr": b"\x30\x00other"},
        {"names": ()},
        {"names": ("dns:www.example.orguri:https://x/",)},
    ],
)
def test_a_transaction_id_asks_for_one_thing(office, change):
    office.submit("t1")
    other = dataclasses.replace(new_request(), **change)
    assert ErrorType.TRANSACTION_ID_IN_USE == raised(office, lambda q: q.submit(other, [event("never")]))
    assert ["issuer:issuing", "t1"] == office.events()


def test_another_requestor_may_use_the_same_transaction_id(office):
    office.submit("t1")
    office.submit("t1", requestor="bob")
    assert 2 == office.count("request")


def test_the_same_twice_in_one_batch_is_stored_once(office):
    async def act(queue):
        ask = lambda n, **changes: queue.submit(new_request("t1", **changes), [event(f"e{n}")])
        # The first makes a batch of its own; the others share the next one.
        outcomes = [queue.submit(new_request("t0"), []), ask(1), ask(2), ask(3, profile="other")]
        return await asyncio.gather(*outcomes, return_exceptions=True)

    _, one, two, three = office.queue(act)
    assert one == two
    assert ErrorType.TRANSACTION_ID_IN_USE == three.type
    assert ["issuer:issuing", "e1"] == office.events()


def test_many_submissions_share_a_few_commits(office):
    async def act(queue):
        return await asyncio.gather(*(queue.submit(new_request(f"t{n}"), [event(f"t{n}")]) for n in range(500)))

    outcomes = office.queue(act)
    assert list(range(1, 501)) == [outcome.request_id for outcome in outcomes]
    assert [f"t{n}" for n in range(500)] == office.events()[1:]
    (transactions,) = office.sql("SELECT count(DISTINCT xid) FROM chancery.journal_event")[0]
    assert transactions < 10


def test_one_that_the_database_refuses_does_not_take_its_neighbours_along(fresh_database):
    office = Office(fresh_database)
    office.sql("ALTER TABLE chancery.request ADD CHECK (profile <> 'impossible')")

    async def act(queue):
        profiles = ["tls-server", "tls-server", "impossible", "tls-server"]
        asked = (queue.submit(new_request(f"t{n}", profile=p), []) for n, p in enumerate(profiles))
        return await asyncio.gather(*asked, return_exceptions=True)

    outcomes = office.queue(act)
    assert ErrorType.SYSTEM_FAILURE == outcomes[2].type
    assert ["t0", "t1", "t3"] == [outcomes[n].transaction_id for n in (0, 1, 3)]
    assert 3 == office.count("request")


@pytest.mark.parametrize(
    "change",
    [
        {"transaction_id": ""},
        {"transaction_id": "x" * 201},
        {"transaction_id": "nul\x00"},
        {"names": ("dns:\ud800",)},
        {"requestor": "\x00"},
        {"csr": bytes(65537)},
    ],
)
def test_what_cannot_be_stored_is_refused_before_it_reaches_the_database(office, change):
    other = dataclasses.replace(new_request(), **change)
    assert ErrorType.BAD_DATA_FORMAT == raised(office, lambda q: q.submit(other, []))


def test_too_much_at_once_is_refused(database):
    async def act():
        async with AsyncPool(database.role("ra")) as pool:
            queue = PgRequestQueue(pool, max_batch=1, max_pending=3)
            asked = (queue.submit(new_request(f"t{n}"), []) for n in range(5))
            found = await asyncio.gather(*asked, return_exceptions=True)
            await queue.close()
            return [one.type if isinstance(one, PKIError) else one.request_id for one in found]

    assert [1, 2, 3, ErrorType.SYSTEM_UNAVAIL, ErrorType.SYSTEM_UNAVAIL] == asyncio.run(act())


def test_a_waiter_is_woken_by_the_worker(office):
    ids = office.submit("t1", "t2", "t3")

    def work():
        taken = office.store.take(WORKER, 2, AT)
        office.store.record_intents(WORKER, [intent(r.request_id, r.request_id) for r in taken], [], [])
        office.store.record_certificates([certificate(r.request_id, r.request_id) for r in taken], [], [])

    async def act(queue):
        waiting = [asyncio.create_task(queue.wait(one, LONG)) for one in (*ids[:2], ids[0])]
        await queue._listener.ready()
        await asyncio.to_thread(work)
        done = await asyncio.gather(*waiting)
        return [one.certificate for one in done], await queue.wait(ids[2], 0.05), dict(queue._waiting)

    certificates, third, left = office.queue(act)
    assert [b"certificate 1", b"certificate 2", b"certificate 1"] == certificates
    assert RequestState.WAITING == third.state
    assert {} == left


def settle(office, ident: int) -> None:
    office.store.take(WORKER, 1, AT)
    office.store.record_intents(WORKER, [intent(ident, ident)], [], [])
    office.store.record_certificates([certificate(ident, ident)], [], [])


def test_what_was_settled_before_anybody_waited_is_answered_at_once(office, monkeypatch):
    monkeypatch.setattr(requests, "_FIRST_LOOK", 2 * LONG)
    (ident,) = office.submit("t1")

    async def act(queue):
        told = asyncio.Event()

        def on_notify(channel, payload):
            queue._settled(channel, payload)
            told.set()

        queue._listener._on_notify = on_notify
        queue._listener.start()
        await queue._listener.ready()
        await asyncio.to_thread(settle, office, ident)
        await told.wait()
        async with asyncio.timeout(LONG):
            return await queue.wait(ident, 2 * LONG)

    assert f"certificate {ident}".encode() == office.queue(act).certificate


def test_a_lost_notification_is_made_up_for_by_a_look(office):
    (ident,) = office.submit("t1")

    async def act(queue):
        queue._listener.start()
        await queue._listener.ready()
        waiting = asyncio.create_task(queue.wait(ident, LONG))
        queue._listener._on_notify = lambda *_: None
        await asyncio.to_thread(settle, office, ident)
        async with asyncio.timeout(LONG / 2):
            return await waiting

    assert RequestState.DONE == office.queue(act).state


def test_no_more_is_remembered_of_what_nobody_waits_for_than_there_is_room(office, monkeypatch):
    monkeypatch.setattr(requests, "_MAX_HEARD", 3)

    async def act(queue):
        queue._settled(OUTCOMES, "1,2,3")
        queue._settled(OUTCOMES, "4")
        return list(queue._heard)

    assert ["2", "3", "4"] == office.queue(act)


def test_waiting_for_nothing_is_refused(office):
    assert ErrorType.BAD_REQUEST == raised(office, lambda q: q.wait(7, LONG))
    assert ErrorType.BAD_REQUEST == raised(office, lambda q: q.wait_revocation(7, LONG))


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "1949-12-31 23:59:59Z", "0044-03-15 12:00:00Z BC"])
@pytest.mark.parametrize("column", ["received_at", "invalidity_date"])
def test_a_time_that_the_worker_could_not_read_is_not_stored(office, column, moment):
    """Written by a registration authority that has been taken over: it may not stop the worker."""
    times = {"received_at": "2026-11-24", "invalidity_date": "2026-11-23"} | {column: moment}
    with connect(office.database.role("ra")) as connection, pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(
            "INSERT INTO chancery.revocation_request "
            "(issuer_id, serial, reason, invalidity_date, requestor, received_at) "
            "VALUES (1, %s, 1, %s, 'olga', %s)",
            (serial(1), times["invalidity_date"], times["received_at"]),
        )
    if column == "received_at":
        with connect(office.database.role("ra")) as connection, pytest.raises(psycopg.errors.CheckViolation):
            connection.execute(
                "INSERT INTO chancery.request "
                "(transaction_id, protocol, requestor, profile, csr, names, fingerprint, received_at) "
                "VALUES ('t', 'rest', 'olga', 'tls-server', '', '{}', '', %s)",
                (moment,),
            )
    assert [] == office.revocations.take_revocations(10)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("protocol", "p" * 65),
        ("requestor", "r" * 201),
        ("profile", "q" * 201),
        ("issuer", "i" * 201),
        ("fingerprint", b"f" * 65),
        ("names", ["n"] * 1001),
        ("names", ["n" * 524288]),
        ("names", [None]),
        ("names", [["a"], ["b"]]),
    ],
)
def test_what_would_take_the_workers_memory_is_not_stored(office, column, value):
    """Written by a registration authority that has been taken over."""
    row = {
        "transaction_id": "t",
        "protocol": "rest",
        "requestor": "olga",
        "profile": "tls-server",
        "issuer": "issuing",
        "csr": b"",
        "names": ["n" * 2000] * 250,
        "fingerprint": bytes(32),
        "received_at": AT,
    }
    insert = f"INSERT INTO chancery.request ({', '.join(row)}) VALUES ({', '.join(f'%({name})s' for name in row)})"
    with connect(office.database.role("ra")) as connection:
        connection.execute(insert, row)
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute(insert, row | {"transaction_id": "u", column: value})


def test_an_event_or_a_wish_without_bound_is_not_stored(office):
    body = event().body().replace('{"n":1}', '{"n":"%s"}')
    with connect(office.database.role("ra")) as connection:
        for statement, value in (
            ("INSERT INTO chancery.journal_event (body) VALUES (%s)", body % ("x" * 1048576)),
            ("INSERT INTO chancery.crl_wish (issuer_id, requestor, asked_at) VALUES (1, 'olga', %s)", "infinity"),
            ("INSERT INTO chancery.crl_wish (issuer_id, requestor, asked_at) VALUES (1, %s, now())", "r" * 201),
        ):
            with pytest.raises(psycopg.errors.CheckViolation):
                connection.execute(statement, (value,))
        connection.execute("INSERT INTO chancery.journal_event (body) VALUES (%s)", (body % ("x" * 1048000),))


def test_a_revocation_is_stored_and_its_settling_heard(office):
    office.issue(1)

    async def act(queue):
        outcome = await queue.submit_revocation(new_revocation(1), [event("wish")])
        waiting = asyncio.create_task(queue.wait_revocation(outcome.revocation_id, LONG))
        await queue._listener.ready()
        (request,) = office.revocations.take_revocations(10)
        await asyncio.to_thread(pgdata.settle, office.revocations, None, request, "not yours", [event("refused")])
        return outcome, await waiting

    stored, settled = office.queue(act)
    assert RevocationOutcome(1, RequestState.WAITING, None) == stored
    assert RevocationOutcome(1, RequestState.REFUSED, "not yours") == settled
    assert ["wish", "refused"] == office.events()[-2:]


def test_an_unknown_issuer_is_refused_and_nothing_recorded(office):
    before = office.events()
    wrong = new_revocation(1, issuer="nobody")
    assert ErrorType.BAD_CERT_ID == raised(office, lambda q: q.submit_revocation(wrong, [event("never")]))
    assert ErrorType.BAD_CERT_ID == raised(office, lambda q: q.ask_crl("nobody", "olga", AT, [event("never")]))
    for impossible in (b"", bytes(21)):
        wrong = new_revocation(1, serial=impossible)
        assert ErrorType.BAD_CERT_ID == raised(office, lambda q, w=wrong: q.submit_revocation(w, []))
    assert before == office.events()


def test_a_crl_of_one_scope_is_asked_for_and_a_shard_that_is_not_there_refused(office):
    office.queue(lambda q: q.ask_crl("issuing", "olga", AT, [event("delta")], shard=0, delta=True))
    assert [(0, True)] == office.sql("SELECT shard, delta FROM chancery.crl_wish ORDER BY delta")
    no_shard = raised(office, lambda q: q.ask_crl("issuing", "olga", AT, [event("never")], shard=3))
    assert (ErrorType.BAD_CERT_ID, False) == (no_shard, "never" in office.events())


def test_each_kind_of_work_wakes_the_worker(office):
    listener = Listener(office.database.role("worker"))
    assert listener.wait(LONG)  # at once, for it has just connected
    assert not listener.wait(0.05)
    office.submit("t1", "t2")
    assert listener.wait(LONG)
    office.queue(lambda q: q.submit_revocation(new_revocation(1), []))
    assert listener.wait(LONG)
    office.queue(lambda q: q.ask_crl("issuing", "olga", AT, [event("crl")]))
    assert listener.wait(LONG)
    assert "crl" in office.events()
    office.store.take(WORKER, 1, AT)
    assert not listener.wait(0.05)
    office.store.mark_unconfirmed(WORKER, [], [])  # back to waiting
    assert listener.wait(LONG)
    listener.close()


def test_notifications_come_in_the_order_of_the_commits_and_fit_their_payload(office):
    ids = office.submit(*(f"t{n}" for n in range(1000)))
    office.sql("SELECT setval('chancery.request_request_id_seq', 9000000000000000000)")
    ids += office.submit(*(f"u{n}" for n in range(400)))
    listener = Listener(office.database.role("ra"), (OUTCOMES,))
    listener.wait(LONG)
    for _ in range(2):
        batch = office.store.take(WORKER, 700, AT)
        numbers = {request.request_id: n for n, request in enumerate(batch, office.count("intent") + 1)}
        office.store.record_intents(WORKER, [intent(i, n) for i, n in numbers.items()], [], [])
        office.store.record_certificates([certificate(i, n) for i, n in numbers.items()], [], [])
    heard = [n.payload for n in listener._connection.notifies(timeout=0.2)]
    listener.close()
    assert max(map(len, heard)) < 8000
    assert ids == sorted(int(one) for payload in heard for one in payload.split(","))
    first = {int(one) for payload in heard[: len(heard) // 2] for one in payload.split(",")}
    assert set(ids[:700]) == first


async def _all(groups) -> list:
    return [one async for group in groups for one in group]


def test_an_outage_is_a_refusal_and_then_over(own_server, own_database):
    office = Office(own_database)

    async def act(queue):
        stored = await queue.submit(new_request("t1"), [])
        waiting = asyncio.create_task(queue.wait(stored.request_id, LONG))
        many = asyncio.create_task(_all(queue.settled([stored.request_id], LONG)))
        await queue._listener.ready()
        await asyncio.to_thread(own_server.embedded.stop)
        with pytest.raises(PKIError) as caught:
            await queue.submit(new_request("t2"), [])
        assert ErrorType.SYSTEM_UNAVAIL == caught.value.type
        with pytest.raises(PKIError) as caught:
            await queue.wait(stored.request_id, 0.1)
        assert ErrorType.SYSTEM_UNAVAIL == caught.value.type
        with pytest.raises(PKIError) as caught:
            await _all(queue.settled([stored.request_id], 0.1))
        assert ErrorType.SYSTEM_UNAVAIL == caught.value.type
        assert not waiting.done()
        assert not many.done()
        await asyncio.to_thread(own_server.embedded.start)
        # The retry with the same transaction id, and the one who waited all along.
        await queue.submit(new_request("t2"), [])
        (request, _) = office.store.take(WORKER, 2, AT)
        office.store.record_intents(WORKER, [intent(request.request_id, 1)], [], [])
        office.store.record_certificates([certificate(request.request_id, 1)], [], [])
        assert [await waiting] == await many
        return await waiting

    assert RequestState.DONE == office.queue(act).state
    assert 2 == office.count("request")


def test_a_listener_lives_through_a_restart_and_wakes_at_once(own_server, own_database):
    listener = Listener(own_database.role("worker"), (REQUESTS,))
    assert listener.wait(LONG)
    own_server.embedded.stop()
    assert not listener.wait(0.3)
    own_server.embedded.start()
    assert listener.wait(LONG)  # something may have come meanwhile
    Office(own_database).submit("t1")
    assert listener.wait(LONG)
    listener.close()


class CountedPoll:
    """A poll that says how often it was asked."""

    def __init__(self, poll) -> None:
        self.poll_, self.polls = poll, 0

    def poll(self, milliseconds: float):
        self.polls += 1
        return self.poll_.poll(milliseconds)


def test_a_listener_after_a_loss_waits_and_does_not_spin(own_server, own_database):
    """The new socket has another number than the lost one, whose number stands for nothing any more."""
    listener = Listener(own_database.role("worker"), (REQUESTS,))
    assert listener.wait(LONG)
    own_server.embedded.stop()
    assert not listener.wait(0.3)
    own_server.embedded.start()
    with Path(os.devnull).open():  # takes the lost one's number
        assert listener.wait(LONG)
    listener._poll = counted = CountedPoll(listener._poll)
    assert not listener.wait(0.5)
    assert 1 == counted.polls
    listener.close()


def test_a_serial_is_as_the_caller_gave_it(office):
    office.queue(lambda q: q.submit_revocation(new_revocation(1), []))
    assert [serial(1)] == [request.serial for request in office.revocations.take_revocations(5)]


def test_many_at_once_are_one_transaction_and_each_has_its_own_answer(office):
    office.submit("t1", "t2")

    def of(transaction_id: str, **changes) -> Submission:
        return Submission(new_request(transaction_id, **changes), (event(f"many {transaction_id}"),))

    asked = [of("t1"), of("t2", profile="other"), of("t3"), of("nul\x00"), of("t4"), of("t4")]
    one, two, three, four, five, six = office.queue(lambda q: q.submit_many(asked))
    assert ["t1", "t3", "t4"] == [found.transaction_id for found in (one, three, five)]
    assert (ErrorType.TRANSACTION_ID_IN_USE, ErrorType.BAD_DATA_FORMAT) == (two.type, four.type)
    assert five == six
    assert ["t1", "t2", "many t3", "many t4"] == office.events()[1:]
    ((transactions,),) = office.sql("SELECT count(DISTINCT xid) FROM chancery.journal_event WHERE body ~ 'many'")
    assert 1 == transactions
    assert [] == office.queue(lambda q: q.submit_many([]))


def test_calls_of_many_share_the_next_commit(office):
    async def act(queue):
        calls = [[Submission(new_request(f"t{n}-{m}"), (event("x"),)) for m in range(20)] for n in range(10)]
        return await asyncio.gather(*map(queue.submit_many, calls))

    found = office.queue(act)
    assert [[f"t{n}-{m}" for m in range(20)] for n in range(10)] == [
        [one.transaction_id for one in call] for call in found
    ]
    (transactions,) = office.sql("SELECT count(DISTINCT xid) FROM chancery.journal_event")[0]
    assert transactions <= 4


def _settle(office, request_ids, refused: int | None = None) -> None:
    taken = [one.request_id for one in office.store.take(WORKER, 100, AT)]
    done = [one for one in taken if one in request_ids and one != refused]
    office.store.record_intents(WORKER, [intent(one, one) for one in done], [], [])
    refusals = [Refusal(refused, ErrorType.BAD_ALG, "no")] if refused is not None else []
    office.store.record_certificates([certificate(one, one) for one in done], refusals, [])


def test_many_are_given_as_they_become_final_and_the_rest_as_they_stand(office):
    ids = office.submit(*(f"t{n}" for n in range(4)))

    async def act(queue):
        found = []
        async for outcomes in queue.settled(ids, 1.5):
            found.append({one.request_id: one.state for one in outcomes})
            if len(found) == 1:
                await asyncio.to_thread(_settle, office, ids[1:3], ids[2])
        return found

    _settle(office, ids[:1])
    office.sql(
        "UPDATE chancery.request SET state = 'waiting', worker = NULL, taken_at = NULL WHERE state = 'taken'"
    )
    first, second, last = office.queue(act)
    assert {ids[0]: RequestState.DONE} == first
    assert {ids[1]: RequestState.DONE, ids[2]: RequestState.REFUSED} == second
    assert {ids[3]} == set(last)


def test_many_that_settle_before_anybody_waits_are_known_at_once(office):
    async def act(queue):
        queue._listener.start()
        await queue._listener.ready()
        outcomes = await queue.submit_many([Submission(new_request(f"t{n}")) for n in range(3)])
        ids = [one.request_id for one in outcomes]
        await asyncio.to_thread(_settle, office, ids)
        return [len(found) async for found in queue.settled(ids, LONG)]

    assert 3 == sum(office.queue(act))
