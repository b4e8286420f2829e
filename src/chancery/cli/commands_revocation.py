"""`chancery revoke`, `suspend` and `reinstate`: the end of certificates, from a client's side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from chancery.cli.api_client import SERVER_WAIT, USAGE, Client, fail, with_client
from chancery.cli.commands_blocked import hexadecimal, key_of
from chancery.cli.commands_mass import revoke_many
from chancery.cli.show import IssuerOption, JSONOption, SerialArgument, serial_of, show_json, show_pairs
from chancery.web.views import Reason

_REASONS = {reason.value.lower(): reason.value for reason in Reason}
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask first.")]
WaitOption = Annotated[float, typer.Option(min=0, help="Seconds to wait until it is settled.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(with_client(revoke))
    app.command()(with_client(suspend))
    app.command()(with_client(reinstate))


def _reason(text: str) -> str:
    found = _REASONS.get(text.replace("-", "").replace("_", "").lower())
    if found is None:
        raise typer.BadParameter(f"{text!r} is none of {', '.join(reason.value for reason in Reason)}")
    return found


ReasonOption = Annotated[str, typer.Option(help="Why: a CRLReason such as keyCompromise.", callback=_reason)]
InvalidityOption = Annotated[
    str | None, typer.Option(help="Since when the key is not to be trusted (2026-11-24T12:00:00Z).")
]


def revoke(
    client: Client,
    serial: Annotated[
        str | None, typer.Argument(help="Serial number in hexadecimal; or choose by key or query.")
    ] = None,
    *,
    reason: ReasonOption,
    issuer: IssuerOption = None,
    invalidity_date: InvalidityOption = None,
    of_key: Annotated[
        Path | None,
        typer.Option("--key-of", help="Every certificate with the key of this certificate, request or key."),
    ] = None,
    spki: Annotated[str | None, typer.Option(help="Or with this SHA-256 of the key (SPKI), hexadecimal.")] = None,
    profile: Annotated[str | None, typer.Option(help="Every certificate of this profile.")] = None,
    subject: Annotated[str | None, typer.Option(help="Whose subject begins so (RFC 4514 text).")] = None,
    name: Annotated[str | None, typer.Option(help="With this subjectAltName: dns:…, ip:…, email:….")] = None,
    requestor: Annotated[str | None, typer.Option(help="That this operator asked for.")] = None,
    issued_since: Annotated[str | None, typer.Option(help="Issued since then (2026-11-24T12:00:00Z).")] = None,
    issued_before: Annotated[str | None, typer.Option(help="Issued before then.")] = None,
    confirm_list: Annotated[
        str | None, typer.Option("--confirm", help="Revoke exactly what was shown with this.")
    ] = None,
    simulate: Annotated[bool, typer.Option("--simulate", help="Say what it would cost; revoke nothing.")] = False,
    yes: YesOption = False,
    wait: WaitOption = 60.0,
    json: JSONOption = False,
) -> None:
    """
    Revoke a certificate, and wait until it is revoked; or choose many by key or query. There is no way back.

    What is chosen by key or query is shown first, and revoked by the same command with --confirm.
    """
    if reason == Reason.CERTIFICATE_HOLD.value:
        raise typer.BadParameter("certificateHold is no end: say `chancery suspend`")
    query = {
        "spki_sha256": key_of(of_key) if of_key is not None else spki and hexadecimal(spki),
        "profile": profile,
        "subject": subject,
        "name": name,
        "requestor": requestor,
        "issued_since": issued_since,
        "issued_before": issued_before,
        "confirmation": confirm_list,
    }
    given = {word: value for word, value in query.items() if value is not None}
    body: dict[str, Any] = {"reason": reason}
    if invalidity_date is not None:
        body["invalidity_date"] = invalidity_date
    if serial is None:
        if issuer is not None:
            body["issuer"] = issuer
        revoke_many(client, {**given, **body}, simulate=simulate, wait=wait, json=json)
        return
    if given or simulate:
        raise typer.BadParameter("a serial number is one certificate: leave the choice by key or query away")
    number = serial_of(serial)
    if not yes:
        confirm(f"Revoke the certificate {number} with the reason {reason}? It cannot be undone.", "revoked")
    _settle(client, "revoked", (number, issuer), body, wait=wait, json=json)


def suspend(
    client: Client,
    serial: SerialArgument,
    *,
    issuer: IssuerOption = None,
    yes: YesOption = False,
    wait: WaitOption = 60.0,
    json: JSONOption = False,
) -> None:
    """Suspend a certificate (certificateHold): revoked until it is reinstated. Not one that may serve TLS."""
    if not yes:
        confirm(f"Suspend the certificate {serial}?", "suspended")
    _settle(client, "suspended", (serial, issuer), {"reason": Reason.CERTIFICATE_HOLD.value}, wait=wait, json=json)


def reinstate(
    client: Client,
    serial: SerialArgument,
    *,
    issuer: IssuerOption = None,
    yes: YesOption = False,
    wait: WaitOption = 60.0,
    json: JSONOption = False,
) -> None:
    """End a suspension: the certificate is good again at once. For officers and administrators."""
    if not yes:
        confirm(f"Reinstate the certificate {serial}?", "reinstated")
    _settle(client, "reinstated", (serial, issuer), None, wait=wait, json=json)


def confirm(question: str, done: str) -> None:
    """Ask; end the program when the answer is no, or when there is nobody to ask."""
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:
        fail("there is nobody to ask", "say --yes", USAGE)
    if not agreed:
        fail(f"nothing was {done}", "look at it with `chancery show`", USAGE)


def _settle(
    client: Client,
    done: str,
    certificate: tuple[str, str | None],
    body: dict[str, Any] | None,
    *,
    wait: float,
    json: bool,
) -> None:
    """Ask for it (without a body a reinstatement), wait, and show what became of it."""
    serial, issuer = certificate
    query: dict[str, Any] = {"wait": min(wait, SERVER_WAIT)}
    if issuer is not None:
        query["issuer"] = issuer
    what = "reinstatement" if body is None else "revocation"
    answer = client.ask("POST", f"/certificates/{serial}/{what}", params=query, json=body).json()
    if answer["state"] != "done":
        answer = _wait_for(client, answer, wait)
    if json:
        show_json(answer)
        return
    pairs = [(done, answer["serial"]), ("issuer", answer["issuer"]), ("reason", answer.get("reason"))]
    show_pairs([(name, value) for name, value in pairs if value is not None])


def _wait_for(client: Client, answer: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Wait until the certificate is what was asked for: revoked for this reason, or (without one) good again."""

    def look() -> dict[str, Any] | None:
        found = client.get(f"/certificates/{answer['serial']}", issuer=answer["issuer"])
        return {**answer, "state": "done"} if found.get("reason") == answer.get("reason") else None

    settled: dict[str, Any] | None = client.wait(look, seconds)
    if settled is None:
        fail(
            f"revocation {answer['revocation_id']} is stored but not settled yet",
            f"see whether the worker runs, then `chancery show {answer['serial']}`",
        )
    return settled
