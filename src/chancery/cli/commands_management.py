"""`chancery ca`, `crl`, `profile`, `operator`, `status` and `whoami`: management from a client's side."""

from __future__ import annotations

import ssl
import sys
import urllib.parse
from pathlib import Path
from typing import Annotated, Any

import typer

from chancery.cli.client import (
    Client,
    ClientConfigOption,
    IssuerOption,
    JSONOption,
    connected,
    fail,
    read,
    serial_of,
    show_json,
    show_pairs,
    show_rows,
    write,
)
from chancery.ports import Role

OptionalIssuer = Annotated[str | None, typer.Argument(help="The issuer's name; not needed where only one issues.")]
NameArgument = Annotated[str, typer.Argument(help="The name.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    ca = typer.Typer(help="Issuers.", no_args_is_help=True)
    ca.command("list")(list_issuers)
    ca.command("show")(show_issuer)
    crl = typer.Typer(help="Certificate revocation lists.", no_args_is_help=True)
    crl.command("publish")(publish_crl)
    crl.command("fetch")(fetch_crl)
    profile = typer.Typer(help="Certificate profiles.", no_args_is_help=True)
    profile.command("list")(list_profiles)
    profile.command("show")(show_profile)
    operator = typer.Typer(help="Who may use the management interface.", no_args_is_help=True)
    operator.command("list")(list_operators)
    operator.command("add")(add_operator)
    operator.command("remove")(remove_operator)
    for name, commands in (("ca", ca), ("crl", crl), ("profile", profile), ("operator", operator)):
        app.add_typer(commands, name=name)
    app.command()(status)
    app.command()(whoami)


def _segment(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def list_issuers(client_config: ClientConfigOption = None, *, json: JSONOption = False) -> None:
    """List issuers and their current CRLs."""
    with connected(client_config) as client:
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


def show_issuer(
    name: NameArgument,
    client_config: ClientConfigOption = None,
    *,
    pem: Annotated[bool, typer.Option("--pem", help="Print the certificate alone, in PEM.")] = False,
    json: JSONOption = False,
) -> None:
    """Show an issuer."""
    with connected(client_config) as client:
        found = client.get(f"/issuers/{_segment(name)}")
    if json:
        show_json(found)
    elif pem:
        sys.stdout.write(found["certificate"])
    else:
        crl = found.pop("crl", {})
        del found["certificate"]
        pairs = [*found.items(), *((f"crl {key}", value) for key, value in crl.items())]
        show_pairs([(key.replace("_", " "), value) for key, value in pairs])


def _issuer(client: Client, name: str | None) -> str:
    """Return the name given, or that of the one issuer whose key this CA holds."""
    if name is not None:
        return name
    found = [one["name"] for one in client.get("/issuers")["issuers"] if one["issues"]]
    if len(found) != 1:
        fail(f"{len(found)} issuers issue here: {', '.join(found) or 'none'}", "name one of them")
    return str(found[0])


def publish_crl(
    issuer: OptionalIssuer = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait until it is published.")] = 60.0,
    client_config: ClientConfigOption = None,
    *,
    json: JSONOption = False,
) -> None:
    """Have a fresh CRL published, and wait for it."""
    with connected(client_config) as client:
        place = f"/issuers/{_segment(_issuer(client, issuer))}"
        before = client.get(place).get("crl", {}).get("number", 0)
        asked = client.ask("POST", f"{place}/crl").json()

        def look() -> dict[str, Any] | None:
            crl: dict[str, Any] | None = client.get(place).get("crl")
            return crl if crl is not None and crl["number"] > before else None

        crl = client.wait(look, wait)
    if crl is None:
        fail(f"the CRL of {asked['issuer']} is asked for but not published yet", "see whether the worker runs")
    if json:
        show_json({"issuer": asked["issuer"], **crl})
    else:
        pairs = [("issuer", asked["issuer"]), ("number", crl["number"]), ("next update", crl["next_update"])]
        show_pairs(pairs)


def fetch_crl(
    issuer: OptionalIssuer = None,
    out: Annotated[Path | None, typer.Option(help="Write the CRL here.")] = None,
    client_config: ClientConfigOption = None,
    *,
    pem: Annotated[bool, typer.Option("--pem", help="PEM instead of DER.")] = False,
) -> None:
    """Fetch an issuer's current CRL."""
    with connected(client_config) as client:
        content = client.ask("GET", f"/issuers/{_segment(_issuer(client, issuer))}/crl").content
    if pem:
        text = ssl.DER_cert_to_PEM_cert(content).replace("CERTIFICATE-----", "X509 CRL-----")
        content = text.encode()
    elif out is None and sys.stdout.isatty():
        fail("DER is not for a terminal", "name a file with --out, or use --pem")
    write(out, content)


def list_profiles(client_config: ClientConfigOption = None, *, json: JSONOption = False) -> None:
    """List the profiles that you may request."""
    with connected(client_config) as client:
        found = client.get("/profiles")["profiles"]
    if json:
        show_json(found)
        return
    columns = ("name", "version", "description")
    show_rows(columns, [[one.get(column) for column in columns] for one in found])


def show_profile(
    name: NameArgument, client_config: ClientConfigOption = None, *, json: JSONOption = False
) -> None:
    """Show a profile."""
    with connected(client_config) as client:
        found = client.get(f"/profiles/{_segment(name)}")
    if json:
        show_json(found)
        return
    source = found.pop("source", "")
    show_pairs([(key.replace("_", " "), value) for key, value in found.items()])
    sys.stdout.write(f"\n{source}" if source else "")


def list_operators(client_config: ClientConfigOption = None, *, json: JSONOption = False) -> None:
    """List operators."""
    with connected(client_config) as client:
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
    name: NameArgument,
    *,
    role: Annotated[list[Role], typer.Option(help="A role; may be given again.")],
    certificate: Annotated[Path | None, typer.Option(help="The operator's certificate (PEM).")] = None,
    serial: Annotated[str | None, typer.Option(help="Or its serial number.")] = None,
    issuer: IssuerOption = None,
    profile: Annotated[
        list[str] | None, typer.Option(help="A profile that may be requested; may be given again. Default: all.")
    ] = None,
    client_config: ClientConfigOption = None,
    json: JSONOption = False,
) -> None:
    """Enrol an operator: somebody with a certificate of this CA, and roles."""
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
    with connected(client_config) as client:
        added = client.ask("POST", "/operators", json=body).json()
    if json:
        show_json(added)
    else:
        show_pairs([("enrolled", added["name"]), ("roles", " ".join(added["roles"]))])


def remove_operator(name: NameArgument, client_config: ClientConfigOption = None) -> None:
    """Remove an operator: its certificate opens nothing here any more."""
    with connected(client_config) as client:
        client.ask("DELETE", f"/operators/{_segment(name)}")
    show_pairs([("removed", name)])


def status(client_config: ClientConfigOption = None, *, json: JSONOption = False) -> None:
    """Show what is waiting, what was issued, and how fresh the CRLs are."""
    with connected(client_config) as client:
        found = client.get("/status")
    if json:
        show_json(found)
        return
    show_pairs([("version", found["version"]), ("time", found["time"]), *found["counts"].items()])
    for issuer, crl in found["crls"].items():
        words = "none" if crl is None else f"{crl['number']}, next update {crl['next_update']}"
        show_pairs([(f"CRL of {issuer}", words + (", OVERDUE" if crl and crl.get("overdue") else ""))])


def whoami(client_config: ClientConfigOption = None, *, json: JSONOption = False) -> None:
    """Show who the CA takes you for."""
    with connected(client_config) as client:
        found = client.get("/whoami")
    if json:
        show_json(found)
    else:
        show_pairs([("name", found["name"]), ("roles", " ".join(found["roles"]))])
