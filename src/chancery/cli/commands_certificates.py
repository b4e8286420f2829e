"""`chancery request`, `list` and `show`: certificates from a client's side."""

from __future__ import annotations

import base64
import enum
import uuid
from pathlib import Path
from typing import Annotated, Any

import typer

from chancery.cli.api_client import SERVER_WAIT, Client, fail, with_client
from chancery.cli.bulk import Wanted, request_all
from chancery.cli.show import (
    IssuerOption,
    JSONOption,
    SerialArgument,
    read,
    serial_of,
    show_json,
    show_pairs,
    show_rows,
    write,
)
from chancery.ports import StatusState

_PAGE = 500


class Format(enum.Enum):
    """How a certificate is written."""

    PEM = "pem"
    DER = "der"
    P7B = "p7b"


FormatOption = Annotated[Format, typer.Option(help="How the certificate is written; p7b holds the CAs too.")]
OutOption = Annotated[Path | None, typer.Option(help="Write it to this file.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(with_client(request))
    app.command("list")(with_client(list_certificates))
    app.command()(with_client(show))


def request(
    client: Client,
    *,
    profile: Annotated[str | None, typer.Option(help="The profile to request under.")] = None,
    csr: Annotated[Path | None, typer.Option(help="The certification request (PKCS#10, PEM or DER).")] = None,
    bulk: Annotated[
        Path | None, typer.Option(help="Many: a directory of *.pem, *.csr and *.der, or a file of JSON lines.")
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="A name beside the CSR's own: dns:…, ip:…, email:… or uri:….")
    ] = None,
    issuer: IssuerOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Write it to this file; with --bulk: everything to this directory.")
    ] = None,
    transaction_id: Annotated[
        str | None, typer.Option(help="Asked again with the same one, the same certificate is given.")
    ] = None,
    not_before: Annotated[
        str | None,
        typer.Option(help="From when it is to be valid (2026-11-24T12:00:00Z), if the profile allows it."),
    ] = None,
    not_after: Annotated[str | None, typer.Option(help="Its last second, if the profile allows it.")] = None,
    duration: Annotated[str | None, typer.Option(help="Or how long, such as 12h or 90d.")] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the certificate.")] = 60.0,
    format: FormatOption = Format.PEM,  # noqa: A002 - the option's name
    chain: Annotated[bool, typer.Option("--chain", help="Append the CA certificates (PEM).")] = False,
    json: JSONOption = False,
) -> None:
    """Request a certificate, or with --bulk many of them: the same again goes on where it was broken off."""
    beside = {"issuer": issuer, "not_before": not_before, "not_after": not_after, "duration": duration}
    if bulk is not None:
        if csr is not None or chain or format is Format.P7B:
            raise typer.BadParameter("--bulk goes without --csr and --chain, and with --format pem or der")
        der, every = format is Format.DER, {"profile": profile, **beside}
        request_all(client, Wanted(bulk, every, tuple(name or ()), out, transaction_id, wait, der, json))
        return
    if profile is None or csr is None:
        raise typer.BadParameter("--profile and --csr are needed, or --bulk")
    if chain and format is not Format.PEM:
        raise typer.BadParameter("--chain goes with --format pem; p7b holds the CAs anyway")
    asked: dict[str, Any] = {"profile": profile, "csr": _pem(read(csr)), "names": name or []}
    asked |= {name: value for name, value in beside.items() if value is not None}
    asked["transaction_id"] = transaction_id or uuid.uuid4().hex
    answer = _request_one(client, asked, wait)
    if out is not None or not json:
        _deliver(client, answer, "chain" if chain else format.value, out)
    if json:
        show_json(answer)
    elif out is not None:
        pairs = [("serial", answer["serial"]), ("issuer", answer["issuer"]), ("written to", out)]
        show_pairs([*pairs, *((("note", answer["detail"]),) if answer.get("detail") else ())])


def _request_one(client: Client, asked: dict[str, Any], wait: float) -> dict[str, Any]:
    """Ask, and return the answer that has the certificate; without one the program ends."""
    query = {"wait": min(wait, SERVER_WAIT), "format": "json"}
    answer: dict[str, Any] = client.ask("POST", "/certificates", again=True, params=query, json=asked).json()
    if answer["state"] not in {"done", "refused"}:
        answer = _wait_for(client, answer, wait)
    if answer["state"] == "refused":
        fail(f"{answer.get('detail')} ({answer.get('error')})", "compare the request with `chancery profile show`")
    if answer["state"] != "done":
        fail(
            f"request {answer['request_id']} is still waiting",
            f"ask again with --transaction-id {asked['transaction_id']}",
        )
    return answer


def _pem(data: bytes) -> str:
    """Text of a CSR as the interface takes it; DER is wrapped here, what it says is the CA's to judge."""
    if data[:1] == b"\x30":
        text = base64.encodebytes(data).decode("ascii")
        return f"-----BEGIN CERTIFICATE REQUEST-----\n{text}-----END CERTIFICATE REQUEST-----\n"
    return data.decode("ascii", "replace")


def _wait_for(client: Client, answer: dict[str, Any], seconds: float) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = client.get(f"/requests/{answer['request_id']}")
        return found if found["state"] in {"done", "refused"} else None

    return client.wait(look, seconds) or answer


def _deliver(client: Client, answer: dict[str, Any], form: str, out: Path | None) -> None:
    """Write a certificate in the form asked for; PEM stands in the answer already."""
    if form == "pem":
        write(out, answer["certificate"].encode())
    elif form == "chain":
        write(out, "".join([answer["certificate"], *answer.get("chain", [])]).encode())
    else:
        parameters = {"issuer": answer["issuer"], "format": form}
        found = client.ask("GET", f"/certificates/{answer['serial']}", params=parameters)
        write(out, found.content, text=False)


def list_certificates(
    client: Client,
    *,
    subject: Annotated[str | None, typer.Option(help="What the subject begins with (RFC 4514 text).")] = None,
    name: Annotated[str | None, typer.Option(help="A subjectAltName: dns:…, ip:…, email:… or uri:….")] = None,
    serial: Annotated[str | None, typer.Option(help="Serial number in hexadecimal.")] = None,
    state: Annotated[StatusState | None, typer.Option(help="The status.")] = None,
    profile: Annotated[str | None, typer.Option(help="The profile.")] = None,
    issuer: IssuerOption = None,
    requestor: Annotated[str | None, typer.Option(help="The operator who asked for it.")] = None,
    spki: Annotated[str | None, typer.Option(help="SHA-256 of the public key (SPKI), in hexadecimal.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    json: JSONOption = False,
) -> None:
    """List certificates, newest first."""
    query: dict[str, Any] = {
        "subject": subject,
        "name": name,
        "serial": None if serial is None else serial_of(serial),
        "state": None if state is None else state.value,
        "profile": profile,
        "issuer": issuer,
        "requestor": requestor,
        "key": spki,
    }
    found: list[dict[str, Any]] = []
    before = None
    while len(found) < limit:
        page = client.get("/certificates", **query, before=before, limit=min(_PAGE, limit - len(found)))
        found += page["certificates"]
        if (before := page.get("next")) is None:
            break
    if json:
        show_json(found)
        return
    columns = ("serial", "state", "not_after", "profile", "issuer", "subject")
    show_rows(
        (*(column.replace("_", " ") for column in columns), "names"),
        [[*(one[column] for column in columns), " ".join(one["names"])] for one in found],
    )


def show(
    client: Client,
    serial: SerialArgument,
    *,
    issuer: IssuerOption = None,
    format: Annotated[  # noqa: A002 - the option's name
        Format | None, typer.Option(help="Print the certificate itself, in this form.")
    ] = None,
    chain: Annotated[bool, typer.Option("--chain", help="Print it with the CA certificates (PEM).")] = False,
    out: OutOption = None,
    json: JSONOption = False,
) -> None:
    """Show a certificate and its status."""
    form = "chain" if chain else None if format is None else format.value
    if out is not None and form is None:
        form = Format.PEM.value
    if form is not None:
        parameters = {"format": form} | ({} if issuer is None else {"issuer": issuer})
        content = client.ask("GET", f"/certificates/{serial}", params=parameters).content
        write(out, content, text=form in {"pem", "chain"})
        return
    found = client.get(f"/certificates/{serial}", issuer=issuer)
    if json:
        show_json(found)
        return
    shown = {**found, "names": " ".join(found["names"])}
    del shown["certificate"]
    show_pairs([(name.replace("_", " "), value) for name, value in shown.items()])
