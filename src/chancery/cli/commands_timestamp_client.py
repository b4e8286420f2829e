"""`chancery timestamp-client`: who may have timestamps, from a client's side."""

from __future__ import annotations

import hashlib
import os
import urllib.parse
from pathlib import Path
from typing import Annotated, Any

import typer

from chancery.cli.api_client import USAGE, Client, fail, with_client
from chancery.cli.clock import SystemEntropy
from chancery.cli.show import JSONOption, read, show_json, show_pairs, show_rows

KEY_OCTETS = 32
NameArgument = Annotated[str, typer.Argument(help="The client's name; one that was used is not given again.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    clients = typer.Typer(help="Who may have timestamps, and how many.", no_args_is_help=True)
    clients.command("list")(with_client(list_clients))
    clients.command("add")(with_client(add_client))
    clients.command("revoke")(with_client(revoke_client))
    app.add_typer(clients, name="timestamp-client")


def list_clients(
    client: Client,
    *,
    every: Annotated[bool, typer.Option("--all", help="Revoked ones, too.")] = False,
    json: JSONOption = False,
) -> None:
    """List the clients of the timestamping authority."""
    found = [one for one in client.get("/timestamp-clients")["clients"] if every or "revoked_at" not in one]
    if json:
        show_json(found)
        return
    show_rows(
        ("name", "by", "networks", "policies", "a second", "a day", "a month", "added", "by", "revoked"),
        [
            (
                one["name"],
                one["kind"],
                " ".join(one.get("networks", [])) or "-",
                " ".join(one.get("policies", ["(all)"])),
                one.get("per_second", "-"),
                one.get("per_day", "-"),
                one.get("per_month", "-"),
                one["added_at"],
                one["added_by"],
                one.get("revoked_at", "-"),
            )
            for one in found
        ],
    )


def add_client(
    client: Client,
    name: NameArgument,
    *,
    key_out: Annotated[
        Path | None, typer.Option(help="Make an API key and write it to this new file (mode 0600).")
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="Or: known by this TLS certificate (PEM).")] = None,
    network: Annotated[
        list[str] | None,
        typer.Option(help="CIDR. Alone: known by it; else: may come from it alone. May be given again."),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="A TSA policy OID it may ask for, its default first; may be given again. Default: all."),
    ] = None,
    per_second: Annotated[
        float | None, typer.Option(help="Requests a second, for each authority process.")
    ] = None,
    burst: Annotated[int, typer.Option(help="How many of them at once.")] = 20,
    per_day: Annotated[int | None, typer.Option(help="Timestamps a day (UTC), over all processes.")] = None,
    per_month: Annotated[int | None, typer.Option(help="Timestamps a month (UTC).")] = None,
    json: JSONOption = False,
) -> None:
    """
    Add a client of the timestamping authority.

    An API key is made here; only its SHA-256 leaves this machine. The client sends it as a bearer token:

    chancery timestamp FILE --key-file KEY --url https://tsa.example:8445/tsa
    """
    if key_out is not None and certificate is not None:
        raise typer.BadParameter("give --key-out or --certificate, not both")
    if key_out is None and certificate is None and not network:
        raise typer.BadParameter("say by what it is known: --key-out, --certificate or --network")
    bounds = {"per_second": per_second, "per_day": per_day, "per_month": per_month, "policies": policy or None}
    body: dict[str, Any] = {"name": name, "networks": network or [], "burst": burst}
    body |= {key: value for key, value in bounds.items() if value is not None}
    if certificate is not None:
        body["certificate"] = read(certificate).decode("ascii", "replace")
    if key_out is not None:
        body["key_sha256"] = hashlib.sha256(_make_key(key_out)).hexdigest()
    added = client.ask("POST", "/timestamp-clients", json=body).json()
    if json:
        show_json(added)
        return
    show_pairs(
        [
            ("added", added["name"]),
            ("known by", added["kind"]),
            ("key", None if key_out is None else f"{key_out}; it is nowhere else"),
        ]
    )


def _make_key(file: Path) -> bytes:
    """Write a new API key of 256 bits into a new file and return it; ends the program when it cannot."""
    key = SystemEntropy().draw(KEY_OCTETS).hex().encode()
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(key + b"\n")
    except OSError as error:
        fail(f"{file} cannot be written: {error.strerror}", "name a file that does not exist yet", USAGE)
    return key


def revoke_client(client: Client, name: NameArgument, *, json: JSONOption = False) -> None:
    """Revoke a client for good: within seconds it has no timestamps any more."""
    client.ask("DELETE", f"/timestamp-clients/{urllib.parse.quote(name, safe='')}")
    if json:
        show_json({"revoked": name})
    else:
        show_pairs([("revoked", name)])
