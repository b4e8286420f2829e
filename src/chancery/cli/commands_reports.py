"""`chancery report add|list|show|decide`: problem reports and their clocks, from a client's side (R13)."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Annotated, Any

import typer

from chancery.cli.api_client import SERVER_WAIT, Client, with_client
from chancery.cli.commands_blocked import hexadecimal, key_of
from chancery.cli.show import IssuerOption, JSONOption, read, serial_of, show_json, show_pairs, show_rows
from chancery.pkix.key import public_key_of, spki_der
from chancery.pkix.proof import statement
from chancery.ports.reports import Ground
from chancery.web.reports import Decision

ReportArgument = Annotated[int, typer.Argument(min=1, help="The number of the report.")]
_GROUNDS = ", ".join(ground.label for ground in Ground)


def register(app: typer.Typer) -> None:
    """Add `chancery report …` to the command line."""
    reports = typer.Typer(no_args_is_help=True, help="Problem reports: what is reported, and until when to act.")
    reports.command("add")(with_client(add))
    reports.command("list")(with_client(list_reports))
    reports.command("show")(with_client(show_report))
    reports.command("decide")(with_client(decide))
    reports.command("statement")(proof_statement)
    app.add_typer(reports, name="report")


def add(
    client: Client,
    *,
    ground: Annotated[str, typer.Option(help=f"What is reported: {_GROUNDS}.")],
    evidence: Annotated[Path, typer.Option(help="A file with what the reporter says and shows (text).")],
    reporter: Annotated[str, typer.Option(help="How to reach whoever reported it.")],
    serial: Annotated[str | None, typer.Option(help="The certificate's serial number, with --issuer.")] = None,
    issuer: IssuerOption = None,
    key_file: Annotated[Path | None, typer.Option("--key-of", help="Or a file with the key.")] = None,
    spki: Annotated[str | None, typer.Option(help="Or SHA-256 of the key (SPKI), hexadecimal.")] = None,
    proof: Annotated[
        Path | None, typer.Option(help="The key's own signature over `chancery report statement`, with --key-of.")
    ] = None,
    received: Annotated[str | None, typer.Option(help="When it came in (2026-11-24T12:00:00Z).")] = None,
    json: JSONOption = False,
) -> None:
    """Record a problem report; its clocks run from when it came in. A key that proves it is blocked at once."""
    body: dict[str, Any] = {
        "ground": ground,
        "evidence": read(evidence).decode("utf-8", "replace"),
        "reporter": reporter,
        "serial": None if serial is None else serial_of(serial),
        "issuer": issuer,
        "received_at": received,
        "spki_sha256": key_of(key_file) if key_file is not None else spki and hexadecimal(spki),
    }
    if proof is not None:
        if key_file is None:
            raise typer.BadParameter("--proof goes with --key-of")
        body["public_key"] = _public_pem(key_file)
        body["proof"] = base64.b64encode(read(proof)).decode()
    given = {name: value for name, value in body.items() if value is not None}
    _show(client.ask("POST", "/reports", json=given).json(), json=json)


def _public_pem(file: Path) -> str:
    text = base64.encodebytes(spki_der(public_key_of(read(file)))).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{text}-----END PUBLIC KEY-----\n"


def proof_statement(
    file: Annotated[Path, typer.Argument(help="A certificate, request or public key that has the key.")],
) -> None:
    """Print what a compromised key signs to prove it (`openssl dgst -sha256 -sign KEY`), without a newline."""
    key = hashlib.sha256(spki_der(public_key_of(read(file)))).digest()
    typer.echo(statement(key).decode(), nl=False)


def list_reports(
    client: Client,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Closed ones, too.")] = False,
    json: JSONOption = False,
) -> None:
    """List open problem reports, the most urgent first."""
    found = client.get("/reports", all="true" if everything else None)["reports"]
    if json:
        show_json(found)
        return
    columns = ("report_id", "ground", "revoke_by", "answer_by", "reporter")
    show_rows(
        [*(column.replace("_", " ") for column in columns), "about", "state"],
        [[*(str(one[column]) for column in columns), _about(one), _state(one)] for one in found],
    )


def _about(one: dict[str, Any]) -> str:
    return f"key {one['spki_sha256'][:16]}…" if one.get("spki_sha256") else f"{one['issuer']} {one['serial']}"


def _state(one: dict[str, Any]) -> str:
    return "closed" if one["closed"] else "OVERDUE" if one["overdue"] else "open"


def show_report(client: Client, report: ReportArgument, *, json: JSONOption = False) -> None:
    """Show a problem report, its deadlines, and what was done about it."""
    _show(client.get(f"/reports/{report}"), json=json)


def decide(
    client: Client,
    report: ReportArgument,
    decision: Annotated[
        Decision, typer.Argument(help="answer: the preliminary report went out; revoke or reject close it.")
    ],
    *,
    words: Annotated[str | None, typer.Option(help="What was answered, or why it is rejected.")] = None,
    reason: Annotated[str | None, typer.Option(help="The CRLReason, if not that of the ground.")] = None,
    json: JSONOption = False,
) -> None:
    """Answer a problem report, revoke what it is about, or reject it in words."""
    body = {"decision": decision.value, "words": words, "reason": reason}
    given = {name: value for name, value in body.items() if value is not None}
    answer = client.ask("POST", f"/reports/{report}/decision", params={"wait": SERVER_WAIT}, json=given)
    _show(answer.json(), json=json)


def _show(report: dict[str, Any], *, json: bool) -> None:
    if json:
        show_json(report)
        return
    pairs = [(name.replace("_", " "), value) for name, value in report.items() if name not in {"acts", "overdue"}]
    show_pairs([*pairs, ("state", _state(report))])
    show_rows(
        ("at", "what", "who", "words"),
        [[one["at"], one["kind"], one["operator"], one["words"]] for one in report["acts"]],
    )
