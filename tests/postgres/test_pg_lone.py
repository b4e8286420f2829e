"""What a lone certificate costs in round trips and commits: ceilings, counted and not timed."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses

import pytest
from pgdata import WORKER, Office, event, intent, new_request, new_revocation
from test_pg_blocked_keys import key_of

from cakit import CA, URLS, make_csr
from chancery.ca.issuer import Issuer
from chancery.ca.worker import Work, Worker, WorkerSettings
from chancery.errors import ErrorType
from chancery.ports import Refusal, RequestState
from chancery.postgres.issuance import PgIssuanceStore
from chancery.postgres.listen import Listener
from chancery.postgres.requests import PgRequestQueue
from chancery.postgres.revocation import PgRevocationStore
from chancery.postgres.session import AsyncPool, Session

LONG = 20.0


class CountingSession(Session):
    """Writes down what goes to the server: each entry is a transaction, and `run` is one round trip."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.said: list[str] = []

    def run(self, statement, values=()):
        self.said.append("run")
        return super().run(statement, values)

    def fetch(self, query, parameters=()):
        self.said.append("fetch")
        return super().fetch(query, parameters)

    @contextlib.contextmanager
    def transaction(self, *, pipeline=False):
        self.said.append("transaction")
        with super().transaction(pipeline=pipeline) as connection:
            yield connection


class CountingPool(AsyncPool):
    """The same for the web process."""

    said = 0

    @contextlib.asynccontextmanager
    async def _connection(self):
        self.said += 1
        async with super()._connection() as connection:
            yield connection


@pytest.fixture
def office(database):
    return Office(database)


class Life:
    """A worker that runs while `acts` last: each is done where it would wait, and it hears what that notifies."""

    def __init__(self, office: Office) -> None:
        self.office = office
        self.session = CountingSession(office.database.role("worker"))
        ca = CA(store=PgIssuanceStore(self.session))
        record = dataclasses.replace(ca.issuer.record, issuer_id=office.issuer_id)
        issuer = Issuer(record, ca.signer, URLS)
        issuing = dataclasses.replace(ca.issuing, issuers={"issuing": issuer})
        settings = WorkerSettings(idle=LONG)
        self.worker = Worker(issuing, PgRevocationStore(self.session), settings, lambda *_: None)
        self.listener = Listener(office.database.role("worker"))
        self.heard: list[frozenset[str]] = []

    def live(self, *acts) -> list[list[str]]:
        """Return what was said to the server in the rest of the round after each act."""
        self.listener.wait(LONG)
        waiting, said = list(acts), []

        def wait(_: float) -> frozenset[str]:
            said.append(self.session.said)
            self.session.said = []
            if not waiting:
                return frozenset()
            waiting.pop(0)()
            self.heard.append(self.listener.wait(LONG))
            return self.heard[-1]

        self.worker.run(wait, lambda: len(said) > len(acts))
        self.listener.close()
        self.session.close()
        return said[1:]


def test_a_lone_certificate_takes_the_worker_three_statements_and_nothing_else(office):
    life = Life(office)
    csr = make_csr(names=("dns:www.example.org",))
    submit = lambda number: office.submit(f"lone {number}", csr=csr, names=())
    # Taken without waiting for the disk; then the two durable commits, intent and certificate.
    assert [["run"] * 3] * 2 == life.live(lambda: submit(1), lambda: submit(2))
    assert [{Work.REQUESTS}] * 2 == life.heard
    assert [("done",)] * 2 == office.sql("SELECT state FROM chancery.request")


def test_other_work_is_looked_for_when_it_is_told_of(office):
    life = Life(office)
    life.live(lambda: office.queue(lambda q: q.submit_revocation(new_revocation(1), [])))
    assert [{Work.REVOCATIONS}] == life.heard
    assert [("refused",)] == office.sql("SELECT state FROM chancery.revocation_request")


def test_a_lone_request_takes_the_web_process_two_statements(office):
    async def act():
        async with CountingPool(dataclasses.replace(office.database.role("ra"), keyed=True)) as pool:
            queue = PgRequestQueue(pool)
            queue._listener.start()
            await queue._listener.ready()
            pool.said = 0
            stored = await queue.submit(new_request("lone"), [event("lone")])
            waiting = asyncio.create_task(queue.wait(stored.request_id, LONG))
            await asyncio.to_thread(refuse, stored.request_id)
            outcome = await waiting
            await queue.close()
            return outcome, pool.said

    def refuse(request_id: int) -> None:
        office.store.take(WORKER, 1, office.clock.now())
        office.store.record_intents(WORKER, [], [Refusal(request_id, ErrorType.BAD_POP, "no")], [])

    outcome, said = asyncio.run(act())
    # Stored, and read when it is settled.
    assert (RequestState.REFUSED, 2) == (outcome.state, said)


def test_r5_a_key_that_is_blocked_at_the_moment_of_the_intents_leaves_nothing_of_them(office):
    good, bad, refused = office.submit("good", "bad", "refused")
    office.store.take(WORKER, 10, office.clock.now())
    columns = "(spki_sha256, reason, blocked_at, blocked_by)"
    office.sql(f"INSERT INTO chancery.blocked_key {columns} VALUES (%s, 'x', now(), 'x')", key_of(2))
    before = office.events()
    intents, keys = [intent(good, 1), intent(bad, 2)], [key_of(1), key_of(2)]
    refusals = [Refusal(refused, ErrorType.BAD_POP, "no")]
    for some in ([], refusals):
        assert {key_of(2)} == office.store.record_intents(WORKER, intents, some, [event("never")], keys)
    assert (0, before) == (office.count("intent"), office.events())
    assert {("taken",)} == set(office.sql("SELECT state FROM chancery.request"))
    assert set() == office.store.record_intents(WORKER, intents[:1], refusals, [event("one")], keys[:1])
    assert (1, [*before, "one"]) == (office.count("intent"), office.events())
    assert [("refused",)] == office.sql("SELECT state FROM chancery.request WHERE request_id = %s", refused)
