"""The cost of a batch does not grow with the history: what has a key is looked up by it."""

from __future__ import annotations

import pytest
from pgdata import WORKER, Office, certificate, event, intent
from test_pg_journal import sequence

from chancery.postgres.issuance import PgIssuanceStore
from chancery.postgres.journal import PgJournalStore, insert_events
from chancery.postgres.session import Session, connect
from pg import AT

PAST = 20_000
BATCH = 16
OFTEN = 12
"""The server keeps one plan for a statement after a few times."""


@pytest.fixture
def office(database):
    return Office(database)


def add_past(database) -> None:
    """Many rows that the planner is never told of, after it has settled for its plans."""
    with connect(database.superuser) as superuser:
        superuser.execute("SET session_replication_role = replica")
        superuser.execute(
            "INSERT INTO chancery.request (transaction_id, protocol, requestor, profile, csr, names, fingerprint,"
            " received_at, state, worker) SELECT n::text, 'rest', 'past', 'p', '', '{}', '', %s, 'taken', %s"
            " FROM generate_series(1, %s) AS n",
            (AT, WORKER, PAST),
        )
        # The indexes still hold them as taken until they are vacuumed.
        superuser.execute("UPDATE chancery.request SET state = 'done'")
        superuser.execute(
            "INSERT INTO chancery.journal_event (body) SELECT %s FROM generate_series(1, %s)",
            ('{"kind":"k","subject":"s"}', PAST),
        )
        superuser.execute(
            "INSERT INTO chancery.journal_leaf SELECT n - 1, n, sha256('') FROM generate_series(1, %s) AS n",
            (PAST,),
        )


def rows_scanned(office: Office, session: Session) -> dict[str, int]:
    """How many rows were read from each table's beginning and from each index, this session's included."""
    session.fetch("SELECT pg_stat_force_next_flush()")
    # What a session counted is told at the end of its next transaction.
    session.fetch("SELECT 1")
    return dict(
        office.sql(
            "SELECT relname, seq_tup_read FROM pg_stat_user_tables WHERE schemaname = 'chancery'"
            " UNION ALL SELECT indexrelname, idx_tup_read FROM pg_stat_user_indexes WHERE schemaname = 'chancery'"
        )
    )


def scanned_since(office: Office, session: Session, before: dict[str, int]) -> dict[str, int]:
    """Tables and indexes of which as much was read since then as the past is long."""
    after = rows_scanned(office, session)
    return {name: read - before[name] for name, read in after.items() if read - before[name] >= PAST}


def issue(office: Office, store: PgIssuanceStore, batch: int) -> None:
    numbers = range(batch * BATCH, (batch + 1) * BATCH)
    requests = office.submit(*(f"new {number}" for number in numbers))
    assert requests == [one.request_id for one in store.take(WORKER, BATCH, AT)]
    pairs = list(zip(requests, numbers, strict=True))
    store.record_intents(WORKER, [intent(*pair) for pair in pairs], [], [event("intent")])
    store.record_certificates([certificate(*pair) for pair in pairs], [], [event("issued")])


def write_and_sequence(office: Office, journal: PgJournalStore) -> None:
    with connect(office.database.role("ra")) as connection, connection.transaction():
        insert_events(connection, [event("e")])
    assert 1 == len(sequence(journal))


def test_a_batch_reads_none_of_the_requests_before_it(office):
    session = Session(office.database.role("worker"))
    store = PgIssuanceStore(session)
    for batch in range(OFTEN):
        issue(office, store, batch)
    add_past(office.database)
    before = rows_scanned(office, session)
    for batch in range(OFTEN, 2 * OFTEN):
        issue(office, store, batch)
    assert {} == scanned_since(office, session, before)
    session.close()


def test_the_sequencer_reads_none_of_the_leaves_before_it(office):
    session = Session(office.database.role("worker"))
    journal = PgJournalStore(session)
    add_past(office.database)
    sequence(journal)
    for _ in range(OFTEN):
        write_and_sequence(office, journal)
    before = rows_scanned(office, session)
    for _ in range(OFTEN):
        write_and_sequence(office, journal)
    assert {} == scanned_since(office, session, before)
    session.close()
