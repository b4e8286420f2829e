"""The processes of one machine, in the order in which they start, and what each needs before the next."""

from __future__ import annotations

import signal
from collections.abc import Callable

import structlog

from chancery.cli import bootstrap, build, enrol, health, layout
from chancery.cli.layout import PROCESSES, Account, Layout
from chancery.cli.suite import ExternalDatabase, Suite
from chancery.cli.supervisor import Program
from chancery.errors import OperatorError, PKIError
from chancery.postgres.session import Connection, password_file

log = structlog.get_logger()
WORKER_SECONDS = 60.0


def programs(place: Layout, suite: Suite) -> list[Program]:
    """
    PostgreSQL first (when embedded), with roles, schema and issuers; the worker, with whose help the
    installation's own certificates are made; then the three servers.
    """
    accounts = layout.accounts()
    found: list[Program] = []
    if suite.database is None:
        server = build.embedded_server(place)
        server.prepare()

        def database_ready(alive: Callable[[], bool]) -> None:
            server.wait_ready(alive=alive)
            _prepare_database(place, server.superuser, accounts)

        account = Account(server.account.name, server.account.uid, server.account.gid) if server.account else None
        found.append(
            Program(
                name="postgres",
                command=tuple(server.command()),
                account=account,
                # Fast shutdown: SIGTERM would wait for clients to leave.
                stop_signal=signal.SIGINT,
                ready=database_ready,
            )
        )
    else:
        _prepare_external(place, suite.database, accounts)

    def certificates(alive: Callable[[], bool]) -> None:
        health.wait_worker(place, WORKER_SECONDS, alive)
        for purpose in enrol.ensure(place, suite):
            log.info("certificate-issued", purpose=purpose)

    for process in PROCESSES:
        command = (*layout.program(), "serve", process, "--config", str(place.config(process)))
        found.append(
            Program(
                name=process,
                command=command,
                account=accounts.get(process),
                ready=certificates if process == "worker" and is_first(place) else None,
            )
        )
    return found


def is_first(place: Layout) -> bool:
    """Tell whether the servers' certificates are still to be made; later they are renewed as a chore."""
    return not (place.tls / "server.pem").exists()


def _prepare_external(place: Layout, external: ExternalDatabase, accounts: dict[str, Account]) -> None:
    secret = external.admin_password_file
    superuser = Connection(
        host=external.host,
        port=external.port,
        database=external.admin_database,
        user=external.admin,
        password=None if secret is None else password_file(secret),
        sslmode=None if external.host.startswith("/") else external.sslmode,
        sslrootcert=None if external.sslrootcert is None else str(external.sslrootcert),
    )
    try:
        _prepare_database(place, superuser, accounts)
    except PKIError as error:
        # What the driver said, which no relying party may hear.
        why = str(error.__cause__ or error.detail).partition("\n")[0]
        raise OperatorError(
            f"PostgreSQL on {external.host} is of no use to `{external.admin}`: {why}",
            f"correct `database` in {place.suite}",
        ) from error


def _prepare_database(place: Layout, superuser: Connection, accounts: dict[str, Account]) -> None:
    build.create_roles(superuser, place)
    for name in build.migrate(place.config("owner")):
        log.info("migrated", migration=name)
    bootstrap.take_in(place, accounts)
