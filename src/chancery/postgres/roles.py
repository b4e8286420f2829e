"""The suite's database roles and the one database that they may enter."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping

import psycopg
from psycopg import sql

from chancery.errors import OperatorError
from chancery.postgres.session import Connection, PgConnection, connect, translated

ROLES = (
    "chancery_owner", "chancery_ra", "chancery_worker", "chancery_ocsp", "chancery_tsa", "chancery_foreign",
    "chancery_auditor",
)  # fmt: skip
READERS = ("chancery_ocsp", "chancery_auditor")
"""Roles whose sessions are read-only from the start; their grants hold without it."""
DATABASE = "chancery"
_SHARES = {
    "chancery_ra": 30,
    "chancery_ocsp": 30,
    "chancery_tsa": 20,
    "chancery_foreign": 5,
    "chancery_auditor": 5,
}
"""Percent of the server's connections that a role may have: none keeps the worker and the superuser out."""
_TEMPORARY = "4GB"
"""Most octets of temporary files of one session of these roles: a query must not fill the disk of the journal."""


def create_roles(connection: Connection, passwords: Mapping[str, bytes] | None, database: str = DATABASE) -> None:
    """
    Make the login roles and their database, over the connection of a superuser.

    `passwords` holds one per name of `ROLES`; None: they have none, and log in by certificate or as `peer`. The
    SCRAM verifiers (RFC 5803) are computed here, so that no password goes to the server or its log.
    Idempotent: run again, it sets passwords and grants again.
    Raises OperatorError when a password is missing, and PKIError as `session.translated`.
    """
    if passwords is not None and (missing := [role for role in ROLES if not passwords.get(role)]):
        raise OperatorError(f"no password for {', '.join(missing)}", "give each role one")
    with translated(), connect(dataclasses.replace(connection, application_name="chancery roles")) as superuser:
        # Two starts at once take turns.
        superuser.execute("SELECT pg_advisory_lock(%s)", (0x43485704,))
        for role in ROLES:
            _create_role(superuser, role, None if passwords is None else passwords[role])
        _limit(superuser)
        create_database(superuser, database)
    with translated(), connect(dataclasses.replace(connection, database=database)) as inside:
        withhold_functions(inside)


def withhold_functions(superuser: PgConnection) -> None:
    """
    Leave advisory locks to the worker and to migrations, large objects and messages in the WAL to nobody; in this
    database.

    PostgreSQL lets everybody take any advisory lock. Whoever held the suite's would stop CRLs, the journal or a
    worker's start. An administrator who is no superuser cannot change that: then it stays as it is.
    """
    found = superuser.execute(
        "SELECT oid::regprocedure::text, proname LIKE '%advisory%' FROM pg_catalog.pg_proc"
        " WHERE pronamespace = 'pg_catalog'::regnamespace"
        " AND (proname LIKE 'pg\\_advisory%' OR proname LIKE 'pg\\_try\\_advisory%' OR proname LIKE 'lo\\_%'"
        " OR proname = 'pg_logical_emit_message')"
    ).fetchall()
    try:
        with superuser.transaction():
            for signature, is_lock in found:
                function = sql.SQL(signature)
                superuser.execute(sql.SQL("REVOKE EXECUTE ON FUNCTION {} FROM PUBLIC").format(function))
                if is_lock:
                    grant = "GRANT EXECUTE ON FUNCTION {} TO chancery_owner, chancery_worker"
                    superuser.execute(sql.SQL(grant).format(function))
    except psycopg.errors.InsufficientPrivilege:
        return


def _create_role(superuser: PgConnection, role: str, password: bytes | None) -> None:
    verifier: sql.Composable = sql.NULL
    if password is not None:
        encrypted = superuser.pgconn.encrypt_password(password, role.encode(), b"scram-sha-256")
        verifier = sql.Literal(encrypted.decode())
    exists = superuser.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
    superuser.execute(
        sql.SQL(
            "{verb} ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
            " PASSWORD {verifier}"
        ).format(
            verb=sql.SQL("CREATE" if exists is None else "ALTER"),
            role=sql.Identifier(role),
            verifier=verifier,
        )
    )
    # Whoever had its password may have given it settings that every session begins with.
    superuser.execute(sql.SQL("ALTER ROLE {} RESET ALL").format(sql.Identifier(role)))
    if role in READERS:
        superuser.execute(
            sql.SQL("ALTER ROLE {} SET default_transaction_read_only = on").format(sql.Identifier(role))
        )


def _limit(superuser: PgConnection) -> None:
    """Bound what a role that was taken over uses up; an administrator who is no superuser bounds connections."""
    [(most,)] = superuser.execute("SELECT setting::integer FROM pg_settings WHERE name = 'max_connections'")
    for role, share in _SHARES.items():
        name = sql.Identifier(role)
        limit = sql.Literal(max(2, most * share // 100))
        superuser.execute(sql.SQL("ALTER ROLE {} CONNECTION LIMIT {}").format(name, limit))
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege), superuser.transaction():
            setting = sql.SQL("ALTER ROLE {} SET temp_file_limit = {}").format(name, sql.Literal(_TEMPORARY))
            superuser.execute(setting)


def create_database(superuser: PgConnection, database: str, template: str = "template0") -> None:
    """Make a database of `chancery_owner` that only this suite's roles may enter; idempotent."""
    name, owner = sql.Identifier(database), sql.Identifier("chancery_owner")
    if superuser.execute("SELECT FROM pg_database WHERE datname = %s", (database,)).fetchone() is None:
        encoding = sql.SQL("" if template != "template0" else " ENCODING 'UTF8' LOCALE 'C'")
        try:
            superuser.execute(
                sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}{}").format(
                    name, owner, sql.Identifier(template), encoding
                )
            )
        except psycopg.errors.InsufficientPrivilege as error:
            raise OperatorError(
                f"this role may not create the database {database}",
                f"let a superuser run: CREATE DATABASE {database} OWNER chancery_owner",
            ) from error
    roles = sql.SQL(", ").join(map(sql.Identifier, ROLES))
    superuser.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))
    superuser.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(name, roles))
