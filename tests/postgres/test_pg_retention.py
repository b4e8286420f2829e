"""Partitions by year, and retention of them: what goes, what stays and why, and who may not take it away."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime

import psycopg
import pytest
from pgdata import DAY, WORKER, Office, certificate, error_of, event, intent, new_request
from typer.testing import CliRunner

from chancery.audit.log import Sequencer
from chancery.audit.verify import Kind, verify
from chancery.ca.issuance import serial_prefix
from chancery.cli.db import app
from chancery.errors import ErrorType, OperatorError
from chancery.pkix.usage import CODE_SIGNING, KEPT
from chancery.ports import CRLRecord, CRLScope, Event, EventKind
from chancery.ports.auditing import Scope
from chancery.postgres.auditing import PgAuditReader
from chancery.postgres.journal import PgJournalStore, insert_events
from chancery.postgres.migrate import migrate, migrations
from chancery.postgres.requests import PgRequestQueue
from chancery.postgres.retention import drop, drop_crls, old_crls, partitions
from chancery.postgres.roles import create_database
from chancery.postgres.session import AsyncPool, Session, connect
from fakes import FakeClock
from pg import AT, Database, password, tsa_serial
from unit.audit.journals import ED25519, ORIGIN

LATER = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture
def office(fresh_database):
    return Office(fresh_database)


def dated(number: int, not_after: datetime.datetime) -> bytes:
    return serial_prefix(not_after, 1) + number.to_bytes(16, "big")


def issue(
    office: Office, number: int, not_after: datetime.datetime, at: datetime.datetime = AT, tbs: bytes = b"tbs"
) -> bytes:
    """Take a request all the way to a certificate that expires then; return its serial."""
    (request_id,) = office.submit(f"t{number}")
    office.store.take(WORKER, 10, at)
    serial = dated(number, not_after)
    values = {"serial": serial, "not_after": not_after}
    recorded = intent(request_id, number, **values, recorded_at=at, tbs=tbs)
    office.store.record_intents(WORKER, [recorded], [], [event(f"1:{serial.hex()}", EventKind.INTENT_RECORDED)])
    issued = certificate(request_id, number, **values, not_before=not_after - DAY)
    office.store.record_certificates([issued], [], [event(f"1:{serial.hex()}", EventKind.CERTIFICATE_ISSUED)])
    return serial


def where(office: Office, table: str) -> list[str]:
    return [row[0] for row in office.sql(f"SELECT tableoid::regclass::text FROM chancery.{table} ORDER BY serial")]


def stays(office: Office, at: datetime.datetime = LATER, years: int = 2) -> dict[str, str | None]:
    return {one.name: one.stays for one in partitions(office.database.role("owner"), at, years)}


def test_a_certificate_lies_in_the_year_in_which_it_expires_and_a_serial_is_used_once_whatever_the_year(office):
    for number, year in enumerate((2026, 2027, 2031, 2040, 2070), 1):
        issue(office, number, datetime.datetime(year, 12, 31, 23, 59, 59, tzinfo=datetime.UTC))
    names = ["2026", "2027", "2031", "2037", "2047"]
    assert [f"chancery.certificate_{name}" for name in names[:-1]] == where(office, "certificate")[:-1]
    assert "chancery.intent_later" == where(office, "intent")[-1]
    # R2: the key is unique over all partitions, because the serial says which one.
    (request_id,) = office.submit("again")
    office.store.take(WORKER, 1, AT)
    again = intent(request_id, 1, serial=dated(1, datetime.datetime(2026, 12, 31, tzinfo=datetime.UTC)))
    assert ErrorType.SYSTEM_FAILURE == error_of(lambda: office.store.record_intents(WORKER, [again], [], []))


def test_a_transaction_id_is_one_request_whenever_it_is_asked_again(office):
    issue(office, 1, datetime.datetime(2026, 12, 30, tzinfo=datetime.UTC))

    async def again():
        async with AsyncPool(office.database.role("ra")) as pool:
            queue = PgRequestQueue(pool)
            try:
                return await queue.submit(new_request("t1"), [])
            finally:
                await queue.close()

    assert b"certificate 1" == asyncio.run(again()).certificate
    assert 1 == office.count("request")


def test_no_partition_is_ever_missing(office):
    for days in (-20_000, 0, 4_000, 12_000, 1_000_000):
        issue(office, days + 30_000, AT + days * DAY)
    assert 5 == office.count("intent")


@pytest.mark.parametrize("role", ["ra", "worker", "ocsp", "tsa", "auditor"])
def test_nobody_but_the_owner_makes_drops_or_empties_a_partition(office, role):
    with connect(office.database.role(role)) as connection:
        connection.execute("SET default_transaction_read_only = off")
        for statement in (
            "DROP TABLE chancery.certificate_2026",
            "TRUNCATE chancery.certificate_2026",
            "DELETE FROM chancery.certificate_2026",
            "INSERT INTO chancery.intent_2026 DEFAULT VALUES",
            "ALTER TABLE chancery.certificate DETACH PARTITION chancery.certificate_2026",
            "INSERT INTO chancery.retired VALUES ('x', 'certificate', NULL, 'ff', 1, now(), now())",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
        if role != "worker":
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("SELECT chancery.begin_year()")


def test_r29_not_even_the_owner_empties_a_partition_in_passing(office):
    issue(office, 1, datetime.datetime(2026, 12, 30, tzinfo=datetime.UTC))
    with connect(office.database.role("owner")) as owner:
        for statement in ("TRUNCATE chancery.certificate_2026", "DELETE FROM chancery.journal_event_before"):
            with pytest.raises(psycopg.errors.RestrictViolation):
                owner.execute(statement)


def test_the_events_of_a_year_are_numbered_from_it_and_never_backwards(office):
    session = Session(office.database.role("worker"))
    journal = PgJournalStore(session)
    with session.transaction() as connection:
        insert_events(connection, [event("before")])
    for _ in range(2):
        journal.begin_year()
        with session.transaction() as connection:
            insert_events(connection, [event("after")])
    session.close()
    year = office.sql("SELECT extract(year FROM now() AT TIME ZONE 'UTC')::bigint")[0][0]
    ids = [row[0] for row in office.sql("SELECT event_id FROM chancery.journal_event WHERE subject = 'after'")]
    assert [year * 10**12 + 1, year * 10**12 + 2] == ids


def test_r28_what_has_expired_long_enough_goes_with_all_that_was_its_own(office):
    issue(office, 1, datetime.datetime(2027, 12, 31, tzinfo=datetime.UTC))
    kept = issue(office, 2, datetime.datetime(2028, 1, 2, tzinfo=datetime.UTC))
    owner = office.database.role("owner")
    assert {"certificate_2027": None, "certificate_2028": "its newest is of 2028-01-02"} == {
        name: why for name, why in stays(office).items() if name.startswith("certificate")
    }
    assert ["certificate_2027"] == [one.name for one in drop(owner, LATER, "olga")]
    assert [(kept,)] == office.sql("SELECT serial FROM chancery.certificate")
    assert [(kept,)] == office.sql("SELECT serial FROM chancery.certificate_status")
    assert [("t2",)] == office.sql("SELECT transaction_id FROM chancery.request")
    assert [] == drop(owner, LATER, "olga")
    # What is kept is as well kept as before, and issuance goes on.
    issue(office, 3, datetime.datetime(2028, 5, 5, tzinfo=datetime.UTC))
    with connect(owner) as connection, pytest.raises(psycopg.errors.RestrictViolation):
        connection.execute("DELETE FROM chancery.certificate_status")
    event_row = office.sql("SELECT writer, body FROM chancery.journal_event WHERE kind = 'retention.dropped'")
    assert [("chancery_owner", True)] == [(writer, '"rows":1' in body) for writer, body in event_row]
    with PgAuditReader(office.database.role("auditor")) as reader:
        assert [] == [one for one in reader.strays(Scope()) if one.kind.value in {"event", "received", "status"}]


@pytest.mark.parametrize("years", [1, 0, -5])
def test_r28_less_than_two_years_is_refused(office, years):
    for act in (
        lambda: partitions(office.database.role("owner"), LATER, years),
        lambda: drop(office.database.role("owner"), LATER, "olga", years),
    ):
        with pytest.raises(OperatorError, match="at least 2 years"):
            act()


def test_r16_a_revoked_entry_stays_until_a_crl_after_its_end_listed_it(office):
    not_after = datetime.datetime(2027, 6, 1, tzinfo=datetime.UTC)
    serial = issue(office, 1, not_after)
    office.sql(
        "UPDATE chancery.certificate_status SET state = 'revoked', reason = 0, revoked_at = %s WHERE serial = %s",
        AT,
        serial,
    )
    assert "a CRL has yet to list one that is revoked (R16)" == stays(office)["certificate_2027"]
    for this_update in (AT, not_after + DAY):
        number = office.revocations.reserve_crl_number(1, [])
        crl = CRLRecord(1, number, this_update, this_update + 7 * DAY, this_update, b"crl %d" % number)
        office.revocations.publish_crl(crl, [])
    assert stays(office)["certificate_2027"] is None


def test_r16_what_may_sign_code_stays_for_ten_years_revoked_or_not(office):
    not_after = datetime.datetime(2027, 6, 1, tzinfo=datetime.UTC)
    issue(office, 1, not_after, tbs=b"tbs " + CODE_SIGNING)
    why = f"code-signing certificates of it stay on CRLs until {not_after + KEPT:%Y-%m-%d} (R16)"
    assert why == stays(office)["certificate_2027"] == stays(office, not_after + KEPT)["certificate_2027"]
    assert stays(office, not_after + KEPT + DAY)["certificate_2027"] is None
    office.sql(
        "UPDATE chancery.certificate_status SET state = 'revoked', reason = 0, revoked_at = %s, kept_until = %s",
        AT,
        not_after + KEPT,
    )
    number = office.revocations.reserve_crl_number(1, [])
    last = not_after + KEPT
    office.revocations.publish_crl(CRLRecord(1, number, last, last + 7 * DAY, last, b"crl"), [])
    reason = "a CRL has yet to list one that is revoked (R16)"
    assert reason == stays(office, not_after + KEPT + DAY)["certificate_2027"]


def _crl(office, this_update, entries: int, der: bytes = b"head", shard: int = 0) -> int:
    """Publish a large CRL in pieces of one entry, and its event."""
    number = office.revocations.reserve_crl_number(1, [])
    for part in range(entries):
        office.sql("INSERT INTO chancery.crl_part VALUES (1, %s, %s, 1, %s)", number, part, b"entry")
    times = (this_update, this_update + 7 * DAY, this_update)
    tail = b"tail" if entries else None
    crl = CRLRecord(1, number, *times, der, CRLScope(shard), entries=entries, size=9, tail=tail)
    office.revocations.publish_crl(crl, [])
    return number


def test_r28_the_entries_of_old_crls_go_and_their_rows_stay(office):
    office.issue(1)
    early = LATER - 3 * 366 * DAY
    for shard in (0, 1):
        _crl(office, early, 3, shard=shard)
        _crl(office, early + DAY, 0, shard=shard)
        _crl(office, early + 2 * DAY, 2, shard=shard)
    lately = _crl(office, LATER - 700 * DAY, 4)
    newest = _crl(office, LATER - 699 * DAY, 1)
    # In shard 1 the last one is the newest, however old it is.
    owner = office.database.role("owner")
    found = old_crls(owner, LATER)
    assert [(0, 1, 3), (0, 3, 2), (1, 4, 3)] == [(one.shard, one.number, one.parts) for one in found]
    assert ("issuing", 15, early + 7 * DAY) == (found[0].issuer, found[0].size, found[0].next_update)
    assert found == drop_crls(owner, LATER, "olga")
    assert [] == old_crls(owner, LATER)
    left = office.sql("SELECT number, count(*) FROM chancery.crl_part GROUP BY number ORDER BY number")
    assert [(6, 2), (lately, 4), (newest, 1)] == left
    assert 8 == office.count("crl")
    events = office.sql("SELECT subject, body FROM chancery.journal_event WHERE kind = 'retention.dropped'")
    assert ["crl:issuing"] * 3 == [subject for subject, _ in events]
    with PgAuditReader(office.database.role("auditor")) as reader:
        assert [True, False, True, True, False, False, False, False] == [
            one.record.tail is not None for one in reader.crls(1, None)
        ]
        assert 3 == len(reader.entries([EventKind.RETENTION_DROPPED]))
    # Nobody else takes a piece away, and what excuses it counts from the owner alone.
    with connect(owner) as connection, pytest.raises(psycopg.errors.RestrictViolation):
        connection.execute("DELETE FROM chancery.crl_part")
    with connect(office.database.role("worker")) as connection:
        insert_events(connection, [Event(EventKind.RETENTION_DROPPED, LATER, "eve", "crl:issuing", {"number": 8})])
    with PgAuditReader(office.database.role("auditor")) as reader:
        assert 3 == len(reader.entries([EventKind.RETENTION_DROPPED]))


class TestJournal:
    """R30 with a year of events gone: the tree is whole, and anything else that is gone is found."""

    @pytest.fixture
    def journal(self, office):
        session = Session(office.database.role("worker"))
        store = PgJournalStore(session)
        sequencer = Sequencer(store, ED25519, ORIGIN, FakeClock())
        with session.transaction() as connection:
            insert_events(connection, [Event(EventKind.LOGIN, AT, "a", f"s{n}", {}) for n in range(5)])
        sequencer.run_once()
        office.sql("SELECT setval(pg_get_serial_sequence('chancery.journal_event', 'event_id'), 2026000000000000)")
        with session.transaction() as connection:
            insert_events(connection, [Event(EventKind.LOGIN, LATER, "a", f"s{n}", {}) for n in range(3)])
        sequencer.run_once()
        yield sequencer
        session.close()

    def audit(self, office):
        session = Session(office.database.role("auditor"))
        try:
            return verify(PgJournalStore(session), ORIGIN, ED25519.public_key, LATER + 3650 * DAY)
        finally:
            session.close()

    def test_a_year_goes_and_the_tree_stays_verifiable(self, office, journal):
        assert {"journal_event_before": None, "journal_event_2026": "its newest is of 2030-01-01"} == stays(office)
        (gone,) = drop(office.database.role("owner"), LATER, "olga")
        journal.run_once()
        found = self.audit(office)
        assert ((), gone.rows, 10) == (found.findings, found.retired, found.head.size)

    def test_what_says_what_was_dropped_outlives_its_own_year(self, office, journal):
        owner = office.database.role("owner")
        drop(owner, LATER, "olga")
        journal.run_once()
        office.sql("SELECT setval(pg_get_serial_sequence('chancery.journal_event', 'event_id'), 2037000000000000)")
        assert ["journal_event_2026"] == [one.name for one in drop(owner, LATER + 3650 * DAY, "olga")]
        journal.run_once()
        told = office.sql(
            "SELECT subject, writer FROM chancery.journal_event WHERE kind = 'retention.dropped' ORDER BY event_id"
        )
        assert [
            ("partition:journal_event_before", "chancery_owner"),
            ("partition:journal_event_2026", "chancery_owner"),
        ] == told
        assert () == self.audit(office).findings

    def test_what_goes_without_retention_is_found_beside_it(self, office, journal):
        drop(office.database.role("owner"), LATER, "olga")
        journal.run_once()
        with connect(office.database.superuser) as superuser:
            superuser.execute("SET session_replication_role = replica")
            superuser.execute("DELETE FROM chancery.journal_event WHERE event_id = 2026000000000002")
        assert [Kind.DELETED] == [one.kind for one in self.audit(office).findings]
        with connect(office.database.superuser) as superuser:
            superuser.execute("SET session_replication_role = replica")
            superuser.execute("DELETE FROM chancery.journal_leaf WHERE leaf_index < 2")
        assert Kind.GAP in [one.kind for one in self.audit(office).findings]

    def test_a_year_on_which_something_rests_stays(self, office, journal):
        issue(office, 1, LATER + DAY)
        assert "certificates of that time are stored" == stays(office)["journal_event_before"]

    def test_a_year_of_the_journal_that_covers_timestamps_stays_while_they_do(self, office, journal):
        assert stays(office)["journal_event_before"] is None
        office.sql(
            "INSERT INTO chancery.tsa_token VALUES (%s, %s, '1.2', '\\x00', '1.2.3', 'c')", tsa_serial(AT), AT
        )
        assert "timestamps of that time are stored" == stays(office)["journal_event_before"]


def test_the_command_changes_nothing_until_it_is_told_to(office, tmp_path):
    issue(office, 1, datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC))
    secret = tmp_path / "password"
    secret.write_bytes(password("chancery_owner"))
    secret.chmod(0o600)
    owner = office.database.role("owner")
    config = tmp_path / "owner.toml"
    config.write_text(
        f'process = "owner"\n[database]\nhost = "{owner.host}"\ndbname = "{owner.database}"\n'
        f'user = "chancery_owner"\npassword_file = "{secret}"\n'
    )
    run = lambda *words: CliRunner().invoke(app, ["retention", "--config", str(config), *words])
    assert "at least 2 years" in str(run("--years", "1").exception)
    assert "its newest is of 2025" in run("--years", "99").output
    assert "certificate_before" in run().output
    assert 1 == office.count("certificate")


def test_a_database_of_the_release_before_is_moved_whole(server):
    found = Database(server.embedded, "chancery_before")
    before = [one for one in migrations() if one.number < 5]
    with connect(server.superuser) as superuser:
        create_database(superuser, found.name)
        try:
            with connect(found.role("owner")) as owner:
                owner.execute(
                    "CREATE TABLE IF NOT EXISTS public.chancery_migration (number integer PRIMARY KEY,"
                    " name text NOT NULL, sha256 bytea NOT NULL, applied_at timestamptz NOT NULL)"
                )
                for one in before:
                    owner.execute(one.text)
                    owner.execute(
                        "INSERT INTO public.chancery_migration VALUES (%s, %s, %s, %s)",
                        (one.number, one.name, one.sha256, AT),
                    )
            _fill(found)
            kept = _rows(found)
            migrate(dataclasses.replace(found.role("owner"), lock_timeout=60), at=AT)
            assert kept == _rows(found)
            office = Office.__new__(Office)
            office.database = found
            assert [(1, b"\x01" + bytes(16))] == office.sql(
                "SELECT certificate_issuer_id, certificate_serial FROM chancery.request WHERE state = 'done'"
            )
            assert {("chancery.intent_before",)} == set(
                office.sql("SELECT tableoid::regclass::text FROM chancery.intent")
            )
            # The next numbers are those that would have come.
            with connect(found.superuser) as one:
                one.execute(
                    "INSERT INTO chancery.journal_event (body) VALUES (%s)", ('{"kind":"k","subject":"s"}',)
                )
            assert [(8,)] == office.sql("SELECT max(event_id) FROM chancery.journal_event")
        finally:
            superuser.execute("DROP DATABASE chancery_before WITH (FORCE)")


_ONE, _TWO = (f"('\\x01' || substring(int8send(0) || int8send({n}) FROM 1))" for n in (0, 1))
_FILL = (
    """INSERT INTO chancery.issuer (name, subject, certificate, spki_sha256, not_before, not_after, added_at)
    VALUES ('issuing', 's', 'c', sha256('x'), now(), now(), now())""",
    """INSERT INTO chancery.request (transaction_id, protocol, requestor, profile, csr, names, fingerprint,
        received_at, state, worker)
    SELECT n::text, 'rest', 'r', 'p', 'c', '{}', '', now(), CASE n WHEN 1 THEN 'done' ELSE 'taken' END, 'w'
    FROM generate_series(1, 2) AS n""",
    f"INSERT INTO chancery.serial VALUES (1, {_ONE}), (1, {_TWO})",
    f"""INSERT INTO chancery.intent SELECT 1, s, n, 'w', 't', now(), 'p', 1, 'h', now()
    FROM (VALUES ({_ONE}, 1), ({_TWO}, 2)) AS v (s, n)""",
    f"""INSERT INTO chancery.certificate (issuer_id, serial, request_id, der, subject, names, spki_sha256,
        not_before, not_after, profile, issued_at)
    VALUES (1, {_ONE}, 1, 'd', 's', '{{a,b}}', 'k', now(), now() + interval '1 day', 'p', now())""",
    f"""INSERT INTO chancery.certificate_status (issuer_id, serial, state, not_after, changed_at)
    VALUES (1, {_ONE}, 'good', now(), now())""",
    """INSERT INTO chancery.journal_event (body) SELECT '{"kind":"k","subject":"s"}' FROM generate_series(1, 7)""",
    "INSERT INTO chancery.tsa_token VALUES (1, now(), 'o', 'i', 'p', 'c')",
)
_ROWS = (
    "SELECT issuer_id, serial, request_id, worker, tbs, not_after, recorded_at FROM chancery.intent ORDER BY 2",
    "SELECT certificate_id, serial, der, subject, names, issued_at FROM chancery.certificate",
    "SELECT event_id, body, kind, subject, writer, xid::text FROM chancery.journal_event ORDER BY 1",
    "SELECT issuer_id, serial, state, changed_xid::text FROM chancery.certificate_status",
    "SELECT serial, gen_time, hash_oid, imprint, policy, client FROM chancery.tsa_token",
    "SELECT request_id, state, worker FROM chancery.request ORDER BY 1",
)


def _fill(found: Database) -> None:
    with connect(found.superuser) as superuser:
        superuser.execute("SET session_replication_role = replica")
        for statement in _FILL:
            superuser.execute(statement)


def _rows(found: Database) -> dict[str, list]:
    with connect(found.superuser) as superuser:
        return {query: superuser.execute(query).fetchall() for query in _ROWS}
