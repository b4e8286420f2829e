"""`chancery crl`: how the CRLs stand, one of them, having one published."""

from __future__ import annotations

import hashlib
import ssl
import urllib.parse
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography import x509

from chancery.cli.api_client import Client, fail, with_client
from chancery.cli.show import JSONOption, show_json, show_pairs, show_rows, write

OptionalIssuer = Annotated[str | None, typer.Argument(help="The issuer's name; not needed where only one issues.")]
ShardOption = Annotated[int, typer.Option(min=0, help="Of this shard; 0: the complete CRL.")]
DeltaOption = Annotated[bool, typer.Option("--delta", help="The delta CRL.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    crl = typer.Typer(help="Certificate revocation lists.", no_args_is_help=True)
    for name, command in (("list", list_crls), ("show", show_crl), ("publish", publish_crl), ("fetch", fetch_crl)):
        crl.command(name)(with_client(command))
    app.add_typer(crl, name="crl")


def _issuer(client: Client, name: str | None) -> str:
    """Return the name given, or that of the one issuer whose key this CA holds."""
    if name is not None:
        return name
    found = [one["name"] for one in client.get("/issuers")["issuers"] if one["issues"]]
    if len(found) != 1:
        fail(f"{len(found)} issuers issue here: {', '.join(found) or 'none'}", "name one of them")
    return str(found[0])


def _place(issuer: str) -> str:
    return f"/issuers/{urllib.parse.quote(issuer, safe='')}/crl"


def _query(shard: int | None, *, delta: bool) -> str:
    words = ([] if shard is None else [f"shard={shard}"]) + (["delta=true"] if delta else [])
    return "?" + "&".join(words) if words else ""


def list_crls(client: Client, issuer: OptionalIssuer = None, *, json: JSONOption = False) -> None:
    """List the current CRL of every issuer and scope, or of one issuer's scopes."""
    found = [one for one in client.get("/crls")["crls"] if issuer in (None, one["issuer"])]
    if json:
        show_json(found)
        return
    show_rows(
        ("issuer", "shard", "kind", "number", "base", "this update", "next update", "entries", "size", "state"),
        [
            (
                one["issuer"],
                one["shard"] or "complete",
                "delta" if one["delta"] else "full",
                one["number"],
                one.get("base", "-"),
                one["this_update"],
                one["next_update"],
                one.get("entries", "-"),
                one.get("size", "-"),
                "OVERDUE" if one.get("overdue") else "late" if one.get("warning") else "ok",
            )
            for one in found
        ],
    )


def show_crl(
    client: Client,
    issuer: OptionalIssuer = None,
    *,
    shard: ShardOption = 0,
    delta: DeltaOption = False,
    json: JSONOption = False,
) -> None:
    """Show a current CRL as it says itself."""
    name = _issuer(client, issuer)
    content = client.ask("GET", _place(name) + _query(shard, delta=delta)).content
    crl = x509.load_der_x509_crl(content)
    said = {
        "issuer": crl.issuer.rfc4514_string(),
        "this update": crl.last_update_utc.isoformat(),
        "next update": None if crl.next_update_utc is None else crl.next_update_utc.isoformat(),
        "entries": len(crl),
        "octets": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        **{title: value for one in crl.extensions for title, value in _said(one.value)},
    }
    if json:
        show_json(said)
    else:
        show_pairs(list(said.items()))


def _said(value: x509.ExtensionType) -> list[tuple[str, object]]:
    if isinstance(value, x509.CRLNumber):
        return [("number", value.crl_number)]
    if isinstance(value, x509.DeltaCRLIndicator):
        return [("delta of", value.crl_number)]
    if isinstance(value, x509.FreshestCRL):
        return [("freshest", " ".join(str(name.value) for one in value for name in one.full_name or ()))]
    if isinstance(value, x509.IssuingDistributionPoint):
        kinds = (
            ("user certificates only", value.only_contains_user_certs),
            ("CA certificates only", value.only_contains_ca_certs),
            ("indirect", value.indirect_crl),
        )
        words = [str(name.value) for name in value.full_name or ()] + [word for word, said in kinds if said]
        return [("distribution point", ", ".join(words))]
    return []


def publish_crl(
    client: Client,
    issuer: OptionalIssuer = None,
    *,
    shard: Annotated[
        int | None, typer.Option(min=0, help="Of this shard alone; 0: the complete CRL. Default: all.")
    ] = None,
    delta: DeltaOption = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait until it is published.")] = 60.0,
    json: JSONOption = False,
) -> None:
    """Have fresh CRLs published, and wait for the one that is named, or the complete one."""
    name = _issuer(client, issuer)

    def current() -> dict[str, Any] | None:
        # Where an issuer has no deltas, what is made is the CRL itself.
        found = [one for one in client.get("/crls")["crls"] if (one["issuer"], one["shard"]) == (name, shard or 0)]
        return max(
            (one for one in found if delta or not one["delta"]), key=lambda one: one["number"], default=None
        )

    before = current()
    client.ask("POST", _place(name) + _query(shard, delta=delta))

    def look() -> dict[str, Any] | None:
        crl = current()
        return crl if crl is not None and (before is None or crl["number"] > before["number"]) else None

    crl = client.wait(look, wait)
    if crl is None:
        fail(f"the CRL of {name} is asked for but not published yet", "see whether the worker runs")
    if json:
        show_json(crl)
    else:
        show_pairs([("issuer", name), ("number", crl["number"]), ("next update", crl["next_update"])])


def fetch_crl(
    client: Client,
    issuer: OptionalIssuer = None,
    *,
    shard: ShardOption = 0,
    delta: DeltaOption = False,
    out: Annotated[Path | None, typer.Option(help="Write the CRL here.")] = None,
    pem: Annotated[bool, typer.Option("--pem", help="PEM instead of DER.")] = False,
) -> None:
    """Fetch an issuer's current CRL."""
    content = client.ask("GET", _place(_issuer(client, issuer)) + _query(shard, delta=delta)).content
    if pem:
        text = ssl.DER_cert_to_PEM_cert(content).replace("CERTIFICATE-----", "X509 CRL-----")
        content = text.encode()
    write(out, content, text=pem)
