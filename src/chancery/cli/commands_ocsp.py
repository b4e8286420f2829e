"""`chancery ocsp …`: what is done with OCSP answers beside serving them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from chancery.cli import build
from chancery.cli.commands_foreign import foreign
from chancery.config import OCSPConfig, load_checked

ocsp = typer.Typer(no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    ocsp.add_typer(foreign, name="foreign")
    app.add_typer(ocsp, name="ocsp", help="OCSP answers as files; CAs that are answered for from their CRLs.")


@ocsp.command()
def export(
    directory: Annotated[Path, typer.Argument(help="Where ISSUER/SERIAL.ocsp are written.")],
    config: Annotated[Path, typer.Option(help="The OCSP server's configuration (TOML).")],
    per_second: Annotated[int, typer.Option(min=1, help="Most answers signed in a second.")] = 500,
) -> None:
    """Sign an answer for every certificate alive, into files; stopped and started again, go on where it was."""
    settings = load_checked(config, OCSPConfig)
    build.harden()
    count = uvloop.run(importlib.import_module("chancery.cli.export_ocsp").run(settings, directory, per_second))
    typer.echo(f"{count} answers in {directory}")
