"""`chancery`: the command line. A command's module is imported when that command is used."""

from __future__ import annotations

import importlib
import importlib.metadata
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console

from chancery.errors import HarmfulToRepeatError, OperatorError, PKIError

REGISTER = {
    "commands_suite": ("up", "down", "status", "renew", "supervise"),
    "commands_serve": ("serve", "check-config"),
    "commands_ocsp": ("ocsp",),
    "client": (
        "request",
        "revoke",
        "list",
        "show",
        "ca",
        "profile",
        "crl",
        "operator",
        "whoami",
        "timestamp-client",
    ),
    "timestamp": ("timestamp", "verify-timestamp"),
    "commands_key": ("key",),
    "commands_tsa_key": ("tsa-key",),
    "commands_restore": ("restore",),
}
GROUPS = {
    "hsm": ("hsm", "app", "Tokens and their keys."),
    "db": ("db", "app", "The database's schema."),
    "offline": ("offline", "app", "The offline CA, on a machine without network."),
    "bundle": ("offline", "bundles", "Bundles to and from the offline CA, at the installation."),
    "deploy": ("commands_deploy", "app", "Several hosts: made from one inventory, and checked against it."),
    "backup": ("commands_backup", "app", "Back-ups: make one, verify one, and the keys that open them."),
    "audit": ("audit", "app", "The journal: verify it, read it."),
    "timestamp-record": ("timestamp_record", "app", "What was timestamped: look it up, prove it."),
    "auditor": ("auditor", "app", "Everything stored: its right to exist, re-derived."),
}


def _print_version(value: bool) -> None:  # noqa: FBT001 - as the option has it
    if value:
        typer.echo(importlib.metadata.version("chancery"))
        raise typer.Exit


def command_line(word: str | None) -> typer.Typer:
    """Return the program with the commands that `word` needs; with all of them when it is no command."""
    app = typer.Typer(
        name="chancery",
        help="A PKI suite that an organisation can run itself: CA, OCSP, timestamping and offline CA.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    # Besides --version: a group of one command would swallow that command's name.
    app.callback()(_options)
    known = {name for names in REGISTER.values() for name in names} | set(GROUPS)
    every = word not in known
    for module, names in REGISTER.items():
        if every or word in names:
            register: Callable[[typer.Typer], None] = _load(module).register
            register(app)
    for name, (module, attribute, text) in GROUPS.items():
        if every or word == name:
            app.add_typer(getattr(_load(module), attribute), name=name, help=text)
    return app


def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, help="Print the version and stop.", callback=_print_version)
    ] = False,
) -> None:
    """Take what stands before a command."""


def _load(module: str) -> Any:
    return importlib.import_module(f"chancery.cli.{module}")


def _say(line: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(line, markup=False)


def main() -> None:
    """Run the command line; what an operator has to put right is two lines on standard error and exit code 1."""
    try:
        command_line(sys.argv[1] if len(sys.argv) > 1 else None)()
    except OperatorError as error:
        _say(f"chancery: {error.what}")
        _say(f"next: {error.next_step}")
        sys.exit(error.EXIT_CODE if isinstance(error, HarmfulToRepeatError) else 1)
    except KeyboardInterrupt:
        # As a shell counts it; the command line itself does this once it runs.
        sys.exit(128 + signal.SIGINT)
    except OSError as error:
        # A file that is not there, or not for this account, is the operator's; anything else is a defect.
        if error.filename is None:
            raise
        _say(f"chancery: {error.filename}: {error.strerror}")
        _say("next: check that path, and that the account you run this as may use it")
        sys.exit(1)
    except PKIError as error:
        _say(f"chancery: {error.detail}")
        sys.exit(1)


if __name__ == "__main__":
    main()
