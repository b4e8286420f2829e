"""`chancery db`: the schema, as the role that owns it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chancery.cli import build
from chancery.cli.clock import SystemClock
from chancery.config import OwnerConfig, load_checked
from chancery.postgres import migrate as schema

app = typer.Typer(help="The database schema.", no_args_is_help=True)
Config = Annotated[Path, typer.Option("--config", help="The configuration of `chancery_owner` (TOML).")]


@app.command()
def migrate(config: Config) -> None:
    """Bring the schema up to date and set every grant; forward only, again without harm."""
    connection = build.connection(load_checked(config, OwnerConfig).database)
    applied = schema.migrate(connection, at=SystemClock().now())
    typer.echo("\n".join(f"applied {name}" for name in applied) or "the schema is up to date")


@app.command()
def status(config: Config) -> None:
    """Name the migrations that `migrate` would apply; exit status 1 when there are any."""
    pending = schema.pending(build.connection(load_checked(config, OwnerConfig).database))
    typer.echo("\n".join(f"pending {name}" for name in pending) or "the schema is up to date")
    if pending:
        raise typer.Exit(1)
