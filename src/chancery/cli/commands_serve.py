"""`chancery serve …` and `chancery check-config`: one process, one configuration file."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console

from chancery.cli import build, log
from chancery.cli.suite import Suite
from chancery.config import CAConfig, OCSPConfig, TSAConfig, WorkerConfig, decode, load, load_checked, problems

ConfigOption = Annotated[Path, typer.Option(help="The process's configuration (TOML).")]
serve = typer.Typer(no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(serve, name="serve", help="Run one process of the suite.")
    app.command(name="check-config")(check_config)


@serve.command()
def worker(config: ConfigOption) -> None:
    """Run the issuing worker. It holds the CA keys and listens on no socket."""
    settings = load_checked(config, WorkerConfig)
    _process("worker").run(settings)


@serve.command()
def ca(config: ConfigOption) -> None:
    """Serve enrolment and management over HTTPS."""
    settings = load_checked(config, CAConfig)
    uvloop.run(_process("ca").run(settings))


@serve.command()
def ocsp(config: ConfigOption) -> None:
    """Serve OCSP, CRLs and CA certificates over HTTP."""
    settings = load_checked(config, OCSPConfig)
    uvloop.run(_process("ocsp").run(settings))


@serve.command()
def tsa(config: ConfigOption) -> None:
    """Serve timestamps over HTTP."""
    settings = load_checked(config, TSAConfig)
    uvloop.run(_process("tsa").run(settings))


def _process(name: str) -> Any:
    """Return the module of one process: what the others need is not even loaded."""
    log.configure(name)
    build.harden()
    return importlib.import_module(f"chancery.cli.serve_{name}")


def check_config(
    file: Annotated[Path, typer.Argument(help="A configuration of any process, or a suite.toml.")],
) -> None:
    """Say what is wrong with a configuration, naming key and expected value; start nothing."""
    found = problems(decode(file, Suite) if file.name == "suite.toml" else load(file))
    console = Console(soft_wrap=True, highlight=False)
    for problem in found:
        console.print(f"{file}: {problem}", markup=False)
    if found:
        raise typer.Exit(1)
    console.print(f"{file}: good", markup=False)
