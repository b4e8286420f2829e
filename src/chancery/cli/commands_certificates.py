"""`chancery request`, `revoke`, `list` and `show`: certificates from a client's side."""

from __future__ import annotations

import base64
import sys
import uuid
from pathlib import Path
from typing import Annotated, Any

import typer

from chancery.cli.client import (
    Client,
    ClientConfigOption,
    IssuerOption,
    JSONOption,
    SerialArgument,
    connected,
    fail,
    read,
    serial_of,
    show_json,
    show_pairs,
    show_rows,
    write,
)
from chancery.web.views import Reason

_REASONS = {reason.value.lower(): reason.value for reason in Reason}
_SERVER_WAIT = 20.0
_PAGE = 500


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(request)
    app.command()(revoke)
    app.command("list")(list_certificates)
    app.command()(show)


def request(
    *,
    profile: Annotated[str, typer.Option(help="The profile to request under.")],
    csr: Annotated[Path, typer.Option(help="The certification request (PKCS#10, PEM or DER).")],
    name: Annotated[
        list[str] | None, typer.Option(help="A name beside the CSR's own: dns:…, ip:…, email:… or uri:….")
    ] = None,
    issuer: IssuerOption = None,
    out: Annotated[Path | None, typer.Option(help="Write the certificate here.")] = None,
    transaction_id: Annotated[
        str | None, typer.Option(help="Asked again with the same one, the same certificate is given.")
    ] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the certificate.")] = 60.0,
    client_config: ClientConfigOption = None,
    chain: Annotated[bool, typer.Option("--chain", help="Append the CA certificates.")] = False,
    json: JSONOption = False,
) -> None:
    """Request a certificate."""
    transaction = transaction_id or uuid.uuid4().hex
    body: dict[str, Any] = {
        "profile": profile,
        "csr": _pem(read(csr)),
        "names": name or [],
        "transaction_id": transaction,
        "wait_seconds": min(wait, _SERVER_WAIT),
    }
    if issuer is not None:
        body["issuer"] = issuer
    with connected(client_config) as client:
        answer = client.ask("POST", "/certificates", json=body).json()
        if answer["state"] != "done":
            answer = _wait_for(client, answer, wait)
    if answer["state"] == "refused":
        fail(f"{answer.get('detail')} ({answer.get('error')})", "compare the request with `chancery profile show`")
    if answer["state"] != "done":
        fail(
            f"request {answer['request_id']} is still waiting",
            f"ask again with --transaction-id {transaction}",
        )
    _deliver(answer, out, chain=chain, json=json)


def _wait_for(client: Client, answer: dict[str, Any], seconds: float) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = client.get(f"/requests/{answer['request_id']}")
        return found if found["state"] in {"done", "refused"} else None

    return client.wait(look, seconds) or answer


def _deliver(answer: dict[str, Any], out: Path | None, *, chain: bool, json: bool) -> None:
    text = answer["certificate"] + ("".join(answer.get("chain", [])) if chain else "")
    if out is not None:
        write(out, text.encode())
    if json:
        show_json(answer)
    elif out is not None:
        show_pairs([("serial", answer["serial"]), ("issuer", answer["issuer"]), ("written to", out)])
    else:
        sys.stdout.write(text)


def _pem(data: bytes) -> str:
    """Text of a CSR as the interface takes it; DER is wrapped here, what it says is the CA's to judge."""
    if data[:1] == b"\x30":
        text = base64.encodebytes(data).decode("ascii")
        return f"-----BEGIN CERTIFICATE REQUEST-----\n{text}-----END CERTIFICATE REQUEST-----\n"
    return data.decode("ascii", "replace")


def _reason(text: str) -> str:
    found = _REASONS.get(text.replace("-", "").replace("_", "").lower())
    if found is None:
        raise typer.BadParameter(f"{text!r} is none of {', '.join(reason.value for reason in Reason)}")
    return found


def revoke(
    serial: SerialArgument,
    *,
    reason: Annotated[str, typer.Option(help="Why: a CRLReason such as keyCompromise.", callback=_reason)],
    issuer: IssuerOption = None,
    invalidity_date: Annotated[
        str | None, typer.Option(help="Since when the key is not to be trusted (2026-11-24T12:00:00Z).")
    ] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait until it is settled.")] = 60.0,
    client_config: ClientConfigOption = None,
    json: JSONOption = False,
) -> None:
    """Revoke a certificate, and wait until it is revoked."""
    body: dict[str, Any] = {"reason": reason, "wait_seconds": min(wait, _SERVER_WAIT)}
    if issuer is not None:
        body["issuer"] = issuer
    if invalidity_date is not None:
        body["invalidity_date"] = invalidity_date
    with connected(client_config) as client:
        answer = client.ask("POST", f"/certificates/{serial}/revocation", json=body).json()
        if answer["state"] != "done":
            answer = _wait_for_revocation(client, answer, wait)
    if json:
        show_json(answer)
    else:
        show_pairs([("revoked", answer["serial"]), ("issuer", answer["issuer"]), ("reason", answer["reason"])])


def _wait_for_revocation(client: Client, answer: dict[str, Any], seconds: float) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found = client.get(f"/certificates/{answer['serial']}", issuer=answer["issuer"])
        return {**answer, "state": "done"} if found["state"] == "revoked" else None

    settled: dict[str, Any] | None = client.wait(look, seconds)
    if settled is None:
        fail(
            f"revocation {answer['revocation_id']} is stored but not settled yet",
            f"see whether the worker runs, then `chancery show {answer['serial']}`",
        )
    return settled


def list_certificates(
    *,
    subject: Annotated[str | None, typer.Option(help="What the subject begins with (RFC 4514 text).")] = None,
    name: Annotated[str | None, typer.Option(help="A subjectAltName: dns:…, ip:…, email:… or uri:….")] = None,
    serial: Annotated[str | None, typer.Option(help="Serial number in hexadecimal.")] = None,
    state: Annotated[str | None, typer.Option(help="good or revoked.")] = None,
    profile: Annotated[str | None, typer.Option(help="The profile.")] = None,
    issuer: IssuerOption = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    client_config: ClientConfigOption = None,
    json: JSONOption = False,
) -> None:
    """List certificates, newest first."""
    query: dict[str, Any] = {
        "subject": subject,
        "name": name,
        "serial": None if serial is None else serial_of(serial),
        "state": state,
        "profile": profile,
        "issuer": issuer,
    }
    found: list[dict[str, Any]] = []
    with connected(client_config) as client:
        before = None
        while len(found) < limit:
            page = client.get("/certificates", **query, before=before, limit=min(_PAGE, limit - len(found)))
            found += page["certificates"]
            if (before := page.get("next")) is None:
                break
    if json:
        show_json(found)
        return
    show_rows(
        ("serial", "state", "not after", "profile", "issuer", "subject", "names"),
        [
            (
                one["serial"],
                one["state"],
                one["not_after"],
                one["profile"],
                one["issuer"],
                one["subject"],
                " ".join(one["names"]),
            )
            for one in found
        ],
    )


def show(
    serial: SerialArgument,
    issuer: IssuerOption = None,
    client_config: ClientConfigOption = None,
    *,
    pem: Annotated[bool, typer.Option("--pem", help="Print the certificate alone, in PEM.")] = False,
    json: JSONOption = False,
) -> None:
    """Show a certificate and its status."""
    with connected(client_config) as client:
        found = client.get(f"/certificates/{serial}", issuer=issuer)
    if json:
        show_json(found)
    elif pem:
        sys.stdout.write(found["certificate"])
    else:
        shown = {**found, "names": " ".join(found["names"])}
        del shown["certificate"]
        show_pairs([(name.replace("_", " "), value) for name, value in shown.items()])
