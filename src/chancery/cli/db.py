"""`chancery db`: the schema, as the role that owns it."""

from __future__ import annotations

import dataclasses
import getpass
import itertools
from pathlib import Path
from typing import Annotated

import typer

from chancery.cli import build
from chancery.cli.clock import SystemClock
from chancery.cli.show import show_rows
from chancery.config import OwnerConfig, load_checked
from chancery.postgres import migrate as schema
from chancery.postgres import retention as retain
from chancery.postgres import roles

app = typer.Typer(help="The database schema.", no_args_is_help=True)
Config = Annotated[Path, typer.Option("--config", help="The configuration of `chancery_owner` (TOML).")]


@app.command()
def migrate(config: Config) -> None:
    """Bring the schema up to date and set every grant; forward only, again without harm."""
    connection = build.connection(load_checked(config, OwnerConfig).database)
    applied = schema.migrate(connection, at=SystemClock().now())
    typer.echo("\n".join(f"applied {name}" for name in applied) or "the schema is up to date")


@app.command()
def create(config: Config) -> None:
    """
    Make the roles, without passwords, and the database that CONFIG names; again without harm.

    Run it as the system account `postgres` on the database's host: it logs in as that superuser, by peer.
    """
    section = load_checked(config, OwnerConfig).database
    superuser = dataclasses.replace(build.connection(section), user="postgres", database="postgres")
    roles.create_roles(superuser, None, section.dbname)
    typer.echo(f"the roles and the database {section.dbname} are there; next: chancery db migrate")


@app.command()
def status(config: Config) -> None:
    """Name the migrations that `migrate` would apply; exit status 1 when there are any."""
    pending = schema.pending(build.connection(load_checked(config, OwnerConfig).database))
    typer.echo("\n".join(f"pending {name}" for name in pending) or "the schema is up to date")
    if pending:
        raise typer.Exit(1)


@app.command()
def retention(
    config: Config,
    years: Annotated[
        int,
        typer.Option(help="Years after the last end in a partition; at least 2 (R28)."),
    ] = retain.MIN_YEARS,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Drop them. Without it nothing is changed.")] = False,
) -> None:
    """
    Say which partitions may go, with their rows and octets, and why the others stay; with --yes drop them.

    So do the entries of large CRLs that were followed by others; their rows stay.
    """
    connection = build.connection(load_checked(config, OwnerConfig).database)
    at = SystemClock().now()
    found = retain.partitions(connection, at, years)
    gone = {one.name for one in retain.drop(connection, at, getpass.getuser(), years)} if yes else set()
    rows = []
    for one in found:
        becomes = one.stays or ("dropped" if one.name in gone else "may go")
        rows.append((one.name, one.rows, one.size, one.newest, becomes))
    crls = (
        retain.drop_crls(connection, at, getpass.getuser(), years)
        if yes
        else retain.old_crls(connection, at, years)
    )
    for (issuer, shard), each in itertools.groupby(crls, key=lambda one: (one.issuer, one.shard)):
        many = list(each)
        name = f"entries of {len(many)} CRLs of {issuer}" + (f", shard {shard}" if shard else "")
        size, becomes = sum(one.size for one in many), "dropped" if yes else "may go"
        rows.append((name, sum(one.parts for one in many), size, max(one.next_update for one in many), becomes))
    show_rows(("partition", "rows", "octets", "newest", "it"), rows)
    if not yes and (crls or any(one.stays is None for one in found)):
        typer.echo("nothing was changed; --yes drops what may go, for good")
