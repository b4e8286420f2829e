"""
Each role tries everything: what it may do stands here once more, apart from roles.sql, and the rest is refused.

R29, R30: history is insert-only by grant and, for the owner of the tables, by trigger.
"""

from __future__ import annotations

import psycopg
import pytest
from pgdata import Office, event, new_revocation

from chancery.ports import RevocationReason, Role
from chancery.postgres.session import connect
from pg import AT, tsa_serial

TABLES = (
    "issuer",
    "profile",
    "operator",
    "request",
    "intent",
    "certificate",
    "certificate_status",
    "revocation_request",
    "revocation_job",
    "revocation_approval",
    "problem_report",
    "problem_report_act",
    "crl_number",
    "crl",
    "crl_part",
    "crl_shard",
    "crl_wish",
    "journal_event",
    "journal_leaf",
    "journal_checkpoint",
    "tsa_token",
    "tsa_client",
    "tsa_usage",
    "tsa_unit",
    "tsa_key",
    "blocked_key",
    "profile_switch",
    "issuer_certificate",
    "issuer_key",
    "issuer_act",
    "imported_revocation",
    "retired",
    "foreign_issuer",
    "foreign_point",
    "foreign_delegate",
    "foreign_crl",
    "foreign_revoked",
    "standby_kit",
    "standby_hand_back",
)
FOREIGN = {table for table in TABLES if table.startswith("foreign_")}
CHANGING = {
    "foreign_issuer", "operator", "request", "certificate_status", "revocation_request", "revocation_job",
    "tsa_client", "tsa_usage", "tsa_unit",
}  # fmt: skip
HISTORY = tuple(sorted(set(TABLES) - CHANGING))
ALL = "*"
NOT_THE_WORKERS = {
    "tsa_token",
    "tsa_unit",
    "tsa_key",
    "tsa_client",
    "tsa_usage",
    "retired",
    "problem_report",
    "problem_report_act",
}
NOT_THE_WORKERS |= FOREIGN

READ = {
    "ra": "issuer profile profile_switch operator request certificate certificate_status revocation_request"
    " revocation_job revocation_approval problem_report problem_report_act crl crl_part crl_shard"
    " crl_wish blocked_key issuer_certificate issuer_key issuer_act tsa_client",
    "worker": " ".join(sorted(set(TABLES) - NOT_THE_WORKERS)),
    "ocsp": " ".join(
        ["issuer certificate certificate_status crl crl_part crl_shard issuer_certificate", *sorted(FOREIGN)]
    ),
    "foreign": " ".join(sorted(FOREIGN)),
    "tsa": "issuer certificate certificate_status issuer_certificate tsa_client tsa_usage tsa_unit tsa_key",
    "auditor": " ".join(TABLES),
}
"""Tables of which a role reads every column."""
SOME = {
    ("ocsp", "intent"): {"issuer_id", "serial", "not_after"},
    ("ocsp", "issuer_act"): {"act_id", "issuer_id", "act"},
    ("tsa", "issuer_act"): {"act_id", "issuer_id", "act"},
}
"""Columns that a role reads where it does not read all."""
INSERT: dict[tuple[str, str], str | set[str]] = {
    ("ra", "request"): {
        "transaction_id",
        "protocol",
        "requestor",
        "profile",
        "issuer",
        "csr",
        "names",
        "fingerprint",
        "received_at",
        "wish",
    },
    ("ra", "revocation_request"): {
        "issuer_id",
        "serial",
        "reason",
        "invalidity_date",
        "requestor",
        "received_at",
        "job_id",
    },
    ("ra", "revocation_job"): {
        "requestor",
        "reason",
        "selection",
        "size",
        "digest",
        "received_at",
        "sample_issuers",
        "sample_serials",
    },
    ("ra", "revocation_approval"): {"job_id", "operator", "digest", "approved_at"},
    ("ra", "problem_report"): {
        "ground",
        "issuer",
        "serial",
        "spki_sha256",
        "evidence",
        "reporter",
        "proven",
        "recorded_by",
        "received_at",
        "answer_by",
        "revoke_by",
    },
    ("ra", "problem_report_act"): {"report_id", "kind", "words", "operator", "at"},
    ("ra", "crl_wish"): {"issuer_id", "requestor", "asked_at", "shard", "delta"},
    ("ra", "operator"): {"fingerprint", "name", "roles", "profiles", "added_at"},
    ("ra", "journal_event"): {"body"},
    ("ra", "blocked_key"): ALL,
    ("foreign", "journal_event"): {"body"},
    ("foreign", "foreign_issuer"): {"name", "certificate", "spki_sha256", "added_at"},
    ("foreign", "foreign_point"): {"foreign_id", "url"},
    ("foreign", "foreign_delegate"): {"foreign_id", "certificate", "spki_sha256", "added_at"},
    ("foreign", "foreign_crl"): {
        "point_id",
        "number",
        "base_number",
        "this_update",
        "next_update",
        "sha256",
        "freshest",
        "imported_at",
    },
    ("foreign", "foreign_revoked"): ALL,
    ("tsa", "journal_event"): {"body"},
    ("tsa", "tsa_token"): ALL,
    ("tsa", "tsa_usage"): ALL,
    ("ra", "tsa_client"): {
        "name",
        "kind",
        "credential",
        "networks",
        "policies",
        "per_second",
        "burst",
        "per_day",
        "per_month",
        "added_at",
        "added_by",
    },
    ("tsa", "tsa_unit"): {"unit", "ordering", "added_at"},
    ("tsa", "tsa_key"): ALL,
    ("worker", "journal_event"): {"body"},
    ("worker", "blocked_key"): ALL,
    ("worker", "issuer"): {
        "name",
        "subject",
        "certificate",
        "spki_sha256",
        "not_before",
        "not_after",
        "parent_id",
        "token_label",
        "key_label",
        "added_at",
    },
    ("worker", "issuer_certificate"): {
        "issuer_id",
        "kind",
        "subject",
        "certificate",
        "spki_sha256",
        "not_before",
        "not_after",
        "parent_id",
        "added_at",
    },
    ("worker", "issuer_act"): {"issuer_id", "act", "at", "actor", "reason"},
    ("worker", "issuer_key"): ALL,
    ("worker", "imported_revocation"): ALL,
    ("worker", "certificate"): {
        "issuer_id",
        "serial",
        "request_id",
        "der",
        "subject",
        "names",
        "spki_sha256",
        "not_before",
        "not_after",
        "profile",
        "issued_at",
    },
    ("worker", "certificate_status"): {
        "issuer_id",
        "serial",
        "state",
        "not_after",
        "revoked_at",
        "reason",
        "invalidity_date",
        "released_at",
        "changed_at",
        "shard",
        "kept_until",
    },
    # What a standby CA hands back comes with its requests.
    ("worker", "request"): {
        "transaction_id",
        "protocol",
        "requestor",
        "profile",
        "issuer",
        "csr",
        "names",
        "fingerprint",
        "received_at",
    },
    ("worker", "revocation_request"): {
        "issuer_id",
        "serial",
        "reason",
        "invalidity_date",
        "requestor",
        "received_at",
    },
    **{
        ("worker", table): ALL
        for table in [
            "profile",
            "intent",
            "crl_number",
            "crl",
            "crl_part",
            "crl_shard",
            "journal_leaf",
            "journal_checkpoint",
            "blocked_key",
            "standby_kit",
            "standby_hand_back",
        ]
    },
}
UPDATE: dict[tuple[str, str], set[str]] = {
    ("tsa", "tsa_unit"): {"last_gen_time"},
    ("foreign", "foreign_issuer"): {"ended_at"},
    ("ra", "operator"): {"removed_at"},
    ("ra", "tsa_client"): {"revoked_at"},
    ("tsa", "tsa_usage"): {"used"},
    ("worker", "request"): {
        "state",
        "worker",
        "taken_at",
        "error",
        "detail",
        "certificate_issuer_id",
        "certificate_serial",
    },
    ("worker", "revocation_request"): {"state", "detail"},
    ("worker", "revocation_job"): {"state", "detail", "seen"},
    ("worker", "certificate_status"): {
        "state",
        "revoked_at",
        "reason",
        "invalidity_date",
        "released_at",
        "changed_at",
        "kept_until",
    },
}
ROLES = tuple(READ)


@pytest.fixture(scope="module")
def full(server):
    """A database with at least one row in every table."""
    with server.database() as database:
        office = Office(database)
        office.operator(1, "olga", Role.OFFICER)
        office.issue(2)
        office.revoke(2)
        office.queue(lambda q: q.submit_revocation(new_revocation(1), []))
        office.sql(
            "INSERT INTO chancery.revocation_job (requestor, reason, selection, size, digest, received_at)"
            " VALUES ('olga', 1, '{}', 1, %s, %s)",
            bytes(32),
            AT,
        )
        office.sql("INSERT INTO chancery.revocation_approval VALUES (DEFAULT, 1, 'adam', %s, %s)", bytes(32), AT)
        office.sql(
            "INSERT INTO chancery.problem_report VALUES"
            " (DEFAULT, 'misuse', NULL, NULL, %s, 'x', 'y', false, 'olga', %s, %s, %s)",
            bytes(32),
            AT,
            AT,
            AT,
        )
        office.sql("INSERT INTO chancery.problem_report_act VALUES (DEFAULT, 1, 'answered', 'z', 'olga', %s)", AT)
        office.queue(lambda q: q.ask_crl("issuing", "olga", AT, [event()]))
        number = office.revocations.reserve_crl_number(1, [])
        office.sql("INSERT INTO chancery.crl VALUES (1, %s, %s, 'infinity', %s, NULL, 'crl')", number, AT, AT)
        office.issuers.add_profile("p", 1, bytes(32), "source", AT)
        office.switch("p")
        office.submit("waiting")
        office.sql("INSERT INTO chancery.journal_leaf VALUES (0, 1, %s)", bytes(32))
        office.sql("INSERT INTO chancery.journal_checkpoint VALUES (1, %s, 'note', %s)", bytes(32), AT)
        office.sql(
            f"INSERT INTO chancery.tsa_token VALUES ({tsa_serial()}, %s, 'oid', 'imprint', 'policy', 'client')",
            AT,
        )
        office.sql("INSERT INTO chancery.tsa_unit VALUES ('tsa', true, NULL, %s)", AT)
        office.sql("INSERT INTO chancery.tsa_key VALUES (%s, 'tsa', %s)", bytes(32), AT)
        office.sql(
            "INSERT INTO chancery.tsa_client VALUES"
            " ('c', 'network', NULL, '{10.0.0.0/8}', NULL, NULL, 1, NULL, NULL, %s, 'x')",
            AT,
        )
        office.sql("INSERT INTO chancery.tsa_usage VALUES ('c', 'day', '2026-11-24', 1)")
        office.sql("INSERT INTO chancery.standby_kit VALUES (1, 1, 113, 'kit', %s)", AT)
        office.sql("INSERT INTO chancery.standby_hand_back VALUES (1, %s, %s, 1, %s)", bytes(32), bytes(32), AT)
        office.sql("INSERT INTO chancery.issuer_key VALUES (1, 'token', 'module', 'device', true)")
        office.sql(
            "INSERT INTO chancery.issuer_act (issuer_id, act, at, actor, reason)"
            " VALUES (1, 'default', %s, 'x', '')",
            AT,
        )
        office.sql(
            "INSERT INTO chancery.issuer_certificate"
            " (issuer_id, kind, subject, certificate, spki_sha256, not_before, not_after, added_at)"
            " SELECT issuer_id, 'cross', subject, 'x', spki_sha256, not_before, not_after, added_at"
            " FROM chancery.issuer WHERE issuer_id = 1"
        )
        office.sql("INSERT INTO chancery.imported_revocation VALUES (1, '1', %s, 0, NULL, %s)", AT, bytes(32))
        office.sql(
            "INSERT INTO chancery.crl_part SELECT issuer_id, number, 0, 1, '0' FROM chancery.crl_number LIMIT 1"
        )
        office.sql("INSERT INTO chancery.crl_shard VALUES (1, 1, 'http://pki.example.org/1.crl', %s)", AT)
        office.sql("INSERT INTO chancery.retired VALUES ('p', 'tsa_token', NULL, '1', 0, NULL, %s)", AT)
        office.sql("INSERT INTO chancery.foreign_issuer VALUES (DEFAULT, 'partner', 'x', %s, %s)", bytes(32), AT)
        office.sql("INSERT INTO chancery.foreign_point VALUES (DEFAULT, 1, 'http://partner.example.org/')")
        office.sql("INSERT INTO chancery.foreign_delegate VALUES (DEFAULT, 1, 'x', %s, %s)", bytes(32), AT)
        office.sql(
            "INSERT INTO chancery.foreign_crl VALUES (DEFAULT, 1, 1, NULL, %s, 'infinity', %s, NULL, %s)",
            AT,
            bytes(32),
            AT,
        )
        office.sql("INSERT INTO chancery.foreign_revoked VALUES (1, '1', %s, 0, NULL)", AT)
        assert {} == {table: 0 for table in TABLES if office.count(table) == 0}
        yield office


def columns(office, table: str) -> list[str]:
    return [
        row[0]
        for row in office.sql(
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0", f"chancery.{table}"
        )
    ]


def attempt(connection, statement: str) -> str:
    """`refused` for want of a right, `done`, or `failed` for another reason; nothing stays."""
    connection.execute("BEGIN")
    try:
        connection.execute(statement)
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction):
        return "refused"
    except psycopg.Error:
        return "failed"
    else:
        return "done"
    finally:
        connection.execute("ROLLBACK")


@pytest.fixture(scope="module", params=ROLES)
def role(request, full):
    with connect(full.database.role(request.param)) as connection:
        # What a reader's session begins with is its own to change; its rights are not.
        connection.execute("SET default_transaction_read_only = off")
        yield request.param, connection


@pytest.mark.parametrize("table", TABLES)
def test_r29_a_role_reads_writes_and_changes_what_it_must_and_nothing_else(full, role, table):
    name, connection = role
    every = columns(full, table)
    readable = {one for one in every if attempt(connection, f"SELECT {one} FROM chancery.{table}") != "refused"}
    insertable = {
        one
        for one in every
        if attempt(connection, f"INSERT INTO chancery.{table} ({one}) VALUES (DEFAULT)") != "refused"
    }
    changeable = {
        one for one in every if attempt(connection, f"UPDATE chancery.{table} SET {one} = DEFAULT") != "refused"
    }
    insert = INSERT.get((name, table), set())
    assert (set(every) if table in READ[name].split() else SOME.get((name, table), set())) == readable
    assert (set(every) if insert == ALL else insert) == insertable
    assert UPDATE.get((name, table), set()) == changeable
    assert "refused" == attempt(connection, f"DELETE FROM chancery.{table}")
    assert "refused" == attempt(connection, f"TRUNCATE chancery.{table} CASCADE")


def test_a_role_changes_nothing_about_the_database(full, role):
    _, connection = role
    for statement in (
        "CREATE TABLE public.mine (x integer)",
        "CREATE TABLE chancery.mine (x integer)",
        "CREATE SCHEMA mine",
        "CREATE TEMPORARY TABLE mine (x integer)",
        "ALTER TABLE chancery.certificate DISABLE TRIGGER ALL",
        "DROP TABLE chancery.tsa_token",
        "SET session_replication_role = replica",
        "SET ROLE chancery_owner",
        "ALTER ROLE chancery_owner PASSWORD 'x'",
        "CREATE ROLE mine",
        "SELECT * FROM pg_authid",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT chancery.refuse_change()",
        "SELECT chancery.profile_version()",
        "DELETE FROM public.chancery_migration",
    ):
        assert ("refused", statement) == (attempt(connection, statement), statement)


@pytest.mark.parametrize("table", TABLES)
def test_r29_r30_the_owner_itself_cannot_change_history_in_passing(full, table):
    with connect(full.database.role("owner")) as owner:
        tried = [f"DELETE FROM chancery.{table}", f"TRUNCATE chancery.{table} CASCADE"]
        if table in HISTORY:
            column = columns(full, table)[-1]
            tried.append(f"UPDATE chancery.{table} SET {column} = {column}")
        for statement in tried:
            with pytest.raises(psycopg.errors.RestrictViolation):
                owner.execute(statement)


def test_an_operator_is_removed_once_and_changed_never(full):
    with connect(full.database.role("owner")) as owner:
        for change in ("name = 'other'", "roles = '{administrator}'", "profiles = '{}'", "removed_at = NULL"):
            with pytest.raises(psycopg.errors.RestrictViolation):
                owner.execute(f"UPDATE chancery.operator SET {change}")


@pytest.mark.parametrize("name", ["ra", "ocsp", "tsa", "foreign", "auditor"])
def test_who_is_not_the_worker_is_bounded_in_what_it_uses_up(full, name):
    [(most,)] = full.sql("SELECT setting::integer FROM pg_settings WHERE name = 'max_connections'")
    [(limit,)] = full.sql("SELECT rolconnlimit FROM pg_roles WHERE rolname = %s", f"chancery_{name}")
    assert 0 < limit <= most // 3
    with connect(full.database.role(name)) as connection:
        assert ("4GB",) == connection.execute("SHOW temp_file_limit").fetchone()
        assert "refused" == attempt(connection, "SET temp_file_limit = -1")
        for unseen in ("(true, 'x', 'y')", "(false, 'x', 'y'::bytea)"):
            assert "refused" == attempt(connection, f"SELECT pg_logical_emit_message{unseen}")


def test_all_bounds_together_leave_connections_to_the_worker(full):
    [(most, bounded)] = full.sql(
        "SELECT (SELECT setting::integer FROM pg_settings WHERE name = 'max_connections'),"
        " sum(rolconnlimit) FROM pg_roles WHERE starts_with(rolname, 'chancery') AND rolconnlimit > 0"
    )
    assert bounded <= most * 9 // 10


def test_a_stranger_does_not_get_in(full):
    full.sql("DROP ROLE IF EXISTS stranger")
    full.sql("CREATE ROLE stranger LOGIN PASSWORD 'x'")
    stranger = full.database.role("ra")
    for settings in (
        {"user": "stranger", "password": lambda: b"x"},
        {"password": lambda: b"wrong"},
        {"password": None},
        {"database": "template1"},
        {"database": "postgres"},
        {"user": "postgres", "password": None},
    ):
        changed = {name: settings.get(name, getattr(stranger, name)) for name in ("user", "password", "database")}
        with pytest.raises(psycopg.OperationalError):
            connect(type(stranger)(stranger.host, stranger.port, **changed))
    full.sql("DROP ROLE stranger")


def test_readers_are_read_only_from_the_start(full):
    for role in ("ocsp", "auditor"):
        with connect(full.database.role(role)) as connection:
            assert ("on",) == connection.execute("SHOW transaction_read_only").fetchone()
            connection.execute("LISTEN chancery_status")


def test_reasons_are_those_that_end_a_certificate(full):
    values = {int(reason) for reason in RevocationReason}
    for reason in range(-1, 12):
        refused = reason not in values
        with connect(full.database.role("ra")) as ra:
            statement = (
                "INSERT INTO chancery.revocation_request (issuer_id, serial, reason, requestor, received_at)"
                f" VALUES (1, '1', {reason}, 'x', 'now')"
            )
            assert ("failed" if refused else "done") == attempt(ra, statement)


@pytest.mark.parametrize("role", ["ra", "ocsp", "tsa", "foreign", "auditor"])
@pytest.mark.parametrize(
    "call",
    [
        "pg_advisory_lock(1128814337, 1)",
        "pg_try_advisory_lock(1128814338, 0)",
        "pg_advisory_xact_lock(1128814339, 1)",
        "pg_advisory_lock_shared(1)",
        "lo_create(0)",
        "lo_from_bytea(0, 'x')",
    ],
)
def test_who_is_not_the_worker_cannot_hold_its_locks_nor_fill_the_disk_unseen(full, role, call):
    with connect(full.database.role(role)) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(f"SELECT pg_catalog.{call}")
