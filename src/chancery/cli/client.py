"""The client side of the command line: everything that talks to the management interface."""

from __future__ import annotations

import typer

from chancery.cli import (
    commands_certificates,
    commands_management,
    commands_mass,
    commands_profile,
    commands_reports,
    commands_revocation,
    commands_timestamp_client,
)
from chancery.cli.commands_management import remote_pairs, remote_status

__all__ = ["register", "remote_pairs", "remote_status"]


def register(app: typer.Typer) -> None:
    """Add the client's commands to the command line."""
    commands_certificates.register(app)
    commands_revocation.register(app)
    commands_mass.register(app)
    commands_reports.register(app)
    commands_management.register(app)
    commands_profile.register(app)
    commands_timestamp_client.register(app)
