"""`chancery`: the command line."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from chancery.cli import (
    audit,
    client,
    commands_key,
    commands_serve,
    commands_suite,
    db,
    hsm,
    offline,
    timestamp,
)
from chancery.errors import OperatorError, PKIError

app = typer.Typer(
    name="chancery",
    help="A PKI suite that an organisation can run itself: CA, OCSP, timestamping and offline CA.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for commands in (commands_suite, commands_serve, client, commands_key, timestamp):
    commands.register(app)
app.add_typer(hsm.app, name="hsm", help="Tokens and their keys.")
app.add_typer(db.app, name="db", help="The database's schema.")
app.add_typer(offline.app, name="offline", help="The offline CA, on a machine without network.")
app.add_typer(offline.bundles, name="bundle", help="Bundles to and from the offline CA, at the installation.")
app.add_typer(audit.app, name="audit", help="The journal: verify it, read it.")


def main() -> None:
    """Run the command line; what an operator has to put right is one line on standard error and exit code 1."""
    try:
        app()
    except OperatorError as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"chancery: {error.what}", markup=False)
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"next: {error.next_step}", markup=False)
        sys.exit(1)
    except PKIError as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"chancery: {error.detail}", markup=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
