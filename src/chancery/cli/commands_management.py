"""`chancery ca`, `operator`, `whoami` and a part of `status`: management by a client."""

from __future__ import annotations

import urllib.parse
from pathlib import Path
from typing import Annotated, Any

import typer

from chancery.cli import commands_ca, commands_ca_import, commands_crl
from chancery.cli.api_client import Client, with_client
from chancery.cli.show import (
    IssuerOption,
    JSONOption,
    read,
    serial_of,
    show_json,
    show_pairs,
    show_rows,
    write,
)
from chancery.ports import Role

NameArgument = Annotated[str, typer.Argument(help="The name.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    ca = typer.Typer(help="Issuers.", no_args_is_help=True)
    ca.command("list")(with_client(list_issuers))
    ca.command("show")(with_client(show_issuer))
    ca.command("tree")(with_client(show_tree))
    commands_ca.register(ca)
    commands_ca_import.register(ca)
    operator = typer.Typer(help="Who may use the management interface.", no_args_is_help=True)
    operator.command("list")(with_client(list_operators))
    operator.command("add")(with_client(add_operator))
    operator.command("remove")(with_client(remove_operator))
    for name, commands in (("ca", ca), ("operator", operator)):
        app.add_typer(commands, name=name)
    commands_crl.register(app)
    app.command()(with_client(whoami))


def _segment(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def list_issuers(client: Client, *, json: JSONOption = False) -> None:
    """List issuers and their current CRLs."""
    found = client.get("/issuers")["issuers"]
    if json:
        show_json(found)
        return
    show_rows(
        ("name", "issues", "parent", "not after", "CRL", "next update", "subject"),
        [
            (
                one["name"],
                "yes" if one["issues"] else "no",
                one.get("parent", "-"),
                one["not_after"],
                one.get("crl", {}).get("number", "-"),
                one.get("crl", {}).get("next_update", "-"),
                one["subject"],
            )
            for one in found
        ],
    )


def _about(answer: dict[str, Any], name: str, counts: dict[str, Any]) -> str:
    """Return a count in words, that of an estimate with "about"."""
    return f"about {counts[name]}" if name in answer.get("estimated", ()) else str(counts[name])


def show_tree(client: Client, *, json: JSONOption = False) -> None:
    """Show the hierarchy: where each issuer's key is, how it stands, and what to worry about."""
    found = client.get("/hierarchy")["issuers"]
    if json:
        show_json(found)
        return
    rows = []
    for one in found:
        crl = one.get("crl")
        rows.append(
            (
                "  " * one["depth"] + one["name"],
                one["state"],
                one["key"],
                one["algorithm"],
                one["not_after"],
                f"{_about(one, 'certificates', one)} ({_about(one, 'revoked', one)} revoked)",
                "-" if crl is None else f"{crl['number']}, next {crl['next_update']}",
                "; ".join(one["warnings"]),
            )
        )
    show_rows(("name", "state", "key", "algorithm", "not after", "certificates", "CRL", "warnings"), rows)


def show_issuer(
    client: Client,
    name: NameArgument,
    *,
    pem: Annotated[bool, typer.Option("--pem", help="Print the certificate alone, in PEM.")] = False,
    json: JSONOption = False,
) -> None:
    """Show an issuer."""
    found = client.get(f"/issuers/{_segment(name)}")
    if json:
        show_json(found)
    elif pem:
        write(None, found["certificate"].encode())
    else:
        crl = found.pop("crl", {})
        del found["certificate"]
        found["further"] = len(found.pop("further", [])) or None
        pairs = [*found.items(), *((f"crl {key}", value) for key, value in crl.items())]
        show_pairs([(key.replace("_", " "), value) for key, value in pairs])


def list_operators(client: Client, *, json: JSONOption = False) -> None:
    """List operators."""
    found = client.get("/operators")["operators"]
    if json:
        show_json(found)
        return
    show_rows(
        ("name", "roles", "profiles", "certificate SHA-256"),
        [
            (
                one["name"],
                " ".join(one["roles"]),
                " ".join(one.get("profiles", ["(all)"])),
                one["certificate_sha256"],
            )
            for one in found
        ],
    )


def add_operator(
    client: Client,
    name: NameArgument,
    *,
    role: Annotated[list[Role], typer.Option(help="A role; may be given again.")],
    certificate: Annotated[Path | None, typer.Option(help="The operator's certificate (PEM).")] = None,
    serial: Annotated[str | None, typer.Option(help="Or its serial number.")] = None,
    issuer: IssuerOption = None,
    profile: Annotated[
        list[str] | None, typer.Option(help="A profile that may be requested; may be given again. Default: all.")
    ] = None,
    json: JSONOption = False,
) -> None:
    """
    Enrol an operator: somebody with a certificate of this CA, and roles.

    The operator makes a key and a CSR; you request the certificate:

    chancery request --profile tls-client --csr CSR --out CERTIFICATE

    Then say here which roles go with it:

    chancery operator add NAME --role ROLE --certificate CERTIFICATE

    The operator writes a client.toml with url, certificate, key and ca,
    like that in var/admin, names it with --client or CHANCERY_CLIENT,
    and tries `chancery whoami`.
    """
    if (certificate is None) == (serial is None):
        raise typer.BadParameter("give either --certificate or --serial")
    body: dict[str, Any] = {"name": name, "roles": [one.value for one in role]}
    if certificate is not None:
        body["certificate"] = read(certificate).decode("ascii", "replace")
    if serial is not None:
        body["serial"] = serial_of(serial)
    if issuer is not None:
        body["issuer"] = issuer
    if profile:
        body["profiles"] = profile
    added = client.ask("POST", "/operators", json=body).json()
    if json:
        show_json(added)
    else:
        show_pairs([("enrolled", added["name"]), ("roles", " ".join(added["roles"]))])


def remove_operator(client: Client, name: NameArgument, *, json: JSONOption = False) -> None:
    """Remove an operator: its certificate opens nothing here any more."""
    client.ask("DELETE", f"/operators/{_segment(name)}")
    if json:
        show_json({"removed": name})
    else:
        show_pairs([("removed", name)])


def remote_status(client: Client) -> dict[str, Any]:
    """Return what the CA says of itself: version, time, counts, and each issuer's CRL or None."""
    found: dict[str, Any] = client.get("/status")
    return found


def remote_pairs(found: dict[str, Any]) -> list[tuple[str, object]]:
    """Return `remote_status` for `show_pairs`: what is waiting, what was issued, and how fresh the CRLs are."""
    counts = [(name, _about(found, name, found["counts"])) for name in found["counts"]]
    pairs = [("version", found["version"]), ("time", found["time"]), *counts]
    for issuer, crl in found["crls"].items():
        words = "none" if crl is None else f"{crl['number']}, next update {crl['next_update']}"
        pairs.append((f"CRL of {issuer}", words + (", OVERDUE" if crl and crl.get("overdue") else "")))
    return [*pairs, *(("warning", one) for one in found.get("warnings", []))]


def whoami(client: Client, *, json: JSONOption = False) -> None:
    """Show who the CA takes you for."""
    found = client.get("/me")
    if json:
        show_json(found)
    else:
        show_pairs([("name", found["name"]), ("roles", " ".join(found["roles"]))])
