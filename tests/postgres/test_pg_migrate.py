"""Migrations: forward only, once, never edited; roles without a password in the clear."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import itertools

import pytest

from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.pkix.usage import CODE_SIGNING, KEPT
from chancery.postgres.migrate import _UNUSED, Migration, migrate, migrations, pending
from chancery.postgres.roles import ROLES, create_database, create_roles
from chancery.postgres.session import connect, password_file
from pg import AT, Database, password

NAMES = [str(one) for one in migrations()]


@pytest.fixture
def empty(server):
    """A database that nothing has been done to."""
    found = Database(server.embedded, "chancery_empty")
    with connect(server.superuser) as superuser:
        create_database(superuser, found.name)
        yield found
        superuser.execute("DROP DATABASE chancery_empty WITH (FORCE)")


def test_migrating_is_idempotent(empty):
    owner = empty.role("owner")
    assert NAMES == pending(owner)
    assert NAMES == migrate(owner, at=AT)
    assert [] == migrate(owner, at=AT)
    assert [] == pending(owner)
    with connect(empty.role("auditor")) as auditor:
        rows = auditor.execute("SELECT number, name, sha256, applied_at FROM public.chancery_migration").fetchall()
    assert [(one.number, one.name, one.sha256, AT) for one in migrations()] == rows


def test_a_right_that_is_not_given_any_more_is_taken_back(empty):
    owner = empty.role("owner")
    migrate(owner, at=AT)
    ask = "SELECT has_table_privilege('chancery_ocsp', 'chancery.intent', 'UPDATE'),"
    ask += " has_column_privilege('chancery_ocsp', 'chancery.intent', 'tbs', 'SELECT')"
    with connect(owner) as connection:
        connection.execute("GRANT UPDATE, SELECT (tbs) ON chancery.intent TO chancery_ocsp")
        assert (True, True) == connection.execute(ask).fetchone()
        migrate(owner, at=AT)
        assert (False, False) == connection.execute(ask).fetchone()


def test_several_at_once_apply_it_once(empty):
    owner = dataclasses.replace(empty.role("owner"), lock_timeout=60)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        applied = list(pool.map(lambda _: migrate(owner, at=AT), range(4)))
    assert [[], [], [], NAMES] == sorted(applied)


def test_an_edited_migration_is_refused_and_so_is_an_unknown_one(empty):
    owner, known = empty.role("owner"), migrations()
    more = Migration(9005, "more", b"CREATE TABLE chancery.more (x integer)")
    assert [*NAMES, "9005_more"] == migrate(owner, at=AT, found=[*known, more])
    edited = dataclasses.replace(more, text=more.text + b" ")
    with pytest.raises(OperatorError, match="9005_more is not the one"):
        migrate(owner, at=AT, found=[*known, edited])
    with pytest.raises(OperatorError, match="9005, which this release does not know"):
        migrate(owner, at=AT, found=known)
    with pytest.raises(OperatorError, match="9005"):
        pending(owner)


def test_a_migration_that_fails_leaves_nothing_behind(empty):
    owner, known = empty.role("owner"), migrations()
    migrate(owner, at=AT)
    broken = Migration(9005, "broken", b"CREATE TABLE chancery.more (x integer); SELECT 1 / 0")
    with pytest.raises(PKIError) as caught:
        migrate(owner, at=AT, found=[*known, broken])
    assert ErrorType.SYSTEM_FAILURE == caught.value.type
    assert [] == migrate(owner, at=AT)
    with connect(owner) as connection:
        assert (None,) == connection.execute("SELECT to_regclass('chancery.more')").fetchone()


def test_a_migration_does_not_wait_for_a_lock_without_end(empty):
    owner, known = empty.role("owner"), migrations()
    migrate(owner, at=AT)
    blocked = Migration(9005, "blocked", b"ALTER TABLE chancery.tsa_token ADD y integer")
    with connect(owner) as other, other.transaction():
        other.execute("LOCK TABLE chancery.tsa_token")
        with pytest.raises(PKIError) as caught:
            migrate(dataclasses.replace(owner, lock_timeout=0.1), at=AT, found=[*known, blocked])
    assert ErrorType.SYSTEM_UNAVAIL == caught.value.type


def test_names_and_numbers_of_files_are_checked(tmp_path):
    (tmp_path / "0002_second.sql").touch()
    with pytest.raises(OperatorError, match="is not the next migration"):
        migrations(tmp_path)
    for number in range(1, 10):
        (tmp_path / f"{number:04d}_{'second' if number == 2 else 'another'}.sql").touch()
    # Some from 0010 on were never given.
    later = next(number for number in itertools.count(10) if number not in _UNUSED)
    (tmp_path / f"{later:04d}_later.sql").touch()
    assert [*range(1, 10), later] == [one.number for one in migrations(tmp_path)]
    (tmp_path / "0007_another.sql").unlink()
    with pytest.raises(OperatorError, match=r"0008_another\.sql is not the next migration"):
        migrations(tmp_path)


def test_only_the_owner_migrates(empty):
    with pytest.raises(PKIError):
        migrate(empty.role("worker"), at=AT)


def test_roles_are_made_once_and_their_passwords_never_in_the_clear(server):
    passwords = {role: password(role) for role in ROLES}
    with connect(server.superuser) as superuser:
        superuser.execute("ALTER SYSTEM SET log_statement = 'all'")
        superuser.execute("SELECT pg_reload_conf()")
        create_roles(server.superuser, passwords, "chancery_template")
        superuser.execute("ALTER SYSTEM RESET log_statement")
        superuser.execute("SELECT pg_reload_conf()")
        stored = superuser.execute(
            "SELECT rolpassword, rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls"
            " FROM pg_authid WHERE rolname LIKE 'chancery%'"
        ).fetchall()
    assert len(ROLES) == len(stored)
    assert all(verifier.startswith("SCRAM-SHA-256$") and not powerful for verifier, powerful in stored)
    log = server.embedded.log_file.read_bytes()
    assert b"ALTER ROLE" in log
    assert not any(secret in log for secret in passwords.values())


def test_a_role_without_a_password_is_refused(server):
    with pytest.raises(OperatorError, match="chancery_tsa"):
        create_roles(server.superuser, {role: b"x" for role in ROLES if role != "chancery_tsa"})


def test_a_password_file_is_its_owners_alone(tmp_path):
    file = tmp_path / "password"
    read = password_file(file)
    with pytest.raises(OperatorError, match="cannot be read"):
        read()
    file.write_bytes(b"  secret\n")
    file.chmod(0o640)
    with pytest.raises(OperatorError, match="chmod 600"):
        read()
    file.chmod(0o600)
    assert b"secret" == read()
    file.write_bytes(b"\n")
    with pytest.raises(OperatorError, match="empty"):
        read()


def _revoked_before(superuser) -> None:
    superuser.execute("SET session_replication_role = replica")
    for number, (tbs, state, ends) in enumerate(
        (
            (b"tbs " + CODE_SIGNING, "revoked", AT),
            (b"tbs " + CODE_SIGNING, "revoked", datetime.datetime(9999, 12, 31, tzinfo=datetime.UTC)),
            (b"tbs " + CODE_SIGNING, "good", AT),
            (b"tbs", "revoked", AT),
        )
    ):
        serial, revoked = b"\x01" + number.to_bytes(16, "big"), (AT, 1) if state == "revoked" else (None, None)
        superuser.execute(
            "INSERT INTO chancery.intent (worker, request_id, issuer_id, serial, tbs, not_after, profile,"
            " profile_version, profile_sha256, recorded_at) VALUES ('w', 1, 1, %s, %s, %s, 'p', 1, '', %s)",
            (serial, tbs, ends, AT),
        )
        superuser.execute(
            "INSERT INTO chancery.certificate_status (issuer_id, serial, state, not_after, changed_at,"
            " revoked_at, reason, changed_xid) VALUES (1, %s, %s, %s, %s, %s, %s, '1')",
            (serial, state, ends, AT, *revoked),
        )


def test_r16_what_was_revoked_before_there_were_ten_years_is_kept_for_them(empty):
    with connect(empty.role("owner")) as owner, connect(empty.superuser) as superuser:
        for one in migrations():
            if one.name == "kept_entries":
                _revoked_before(superuser)
            owner.execute(one.text)
        rows = superuser.execute(
            "SELECT kept_until, changed_xid > '1' FROM chancery.certificate_status ORDER BY serial"
        ).fetchall()
    last = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
    assert [(AT + KEPT, True), (last, True), (None, False), (None, False)] == rows
