"""The processes of one machine, in the order in which they start."""

from __future__ import annotations

import signal

from chancery.cli import build, layout
from chancery.cli.layout import PROCESSES, Account, Layout
from chancery.cli.suite import Suite
from chancery.cli.supervisor import Program


def programs(place: Layout, suite: Suite) -> list[Program]:
    """PostgreSQL first (when embedded), brought to the current schema; then the four processes."""
    accounts = layout.accounts()
    found: list[Program] = []
    if suite.database is None:
        server = build.embedded_server(place)

        def database_ready() -> None:
            server.wait_ready()
            build.migrate(place.config("owner"))

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
    for process in PROCESSES:
        command = (*layout.program(), "serve", process, "--config", str(place.config(process)))
        found.append(Program(name=process, command=command, account=accounts.get(process)))
    return found
