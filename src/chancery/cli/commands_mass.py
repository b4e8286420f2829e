"""Revoking many: `chancery revoke` by key or query, and `chancery revocation list|show|approve`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from chancery.cli.api_client import USAGE, Client, fail, with_client
from chancery.cli.show import JSONOption, show_json, show_pairs, show_rows

_FINAL = {"done", "refused", "unapproved"}
JobArgument = Annotated[int, typer.Argument(min=1, help="The number of the mass revocation.")]


def register(app: typer.Typer) -> None:
    """Add `chancery revocation …` to the command line."""
    jobs = typer.Typer(no_args_is_help=True, help="Mass revocations: list, show and approve them.")
    jobs.command("list")(with_client(list_jobs))
    jobs.command("show")(with_client(show_job))
    jobs.command("approve")(with_client(approve))
    app.add_typer(jobs, name="revocation")


def revoke_many(client: Client, asked: dict[str, Any], *, simulate: bool, wait: float, json: bool) -> None:
    """
    Show what would be revoked; with `confirmation` in what is asked, revoke it; or rehearse it.

    Waits for the end of a job at most `wait` seconds, and shows it.
    """
    body = {**asked, **({"simulate": True} if simulate else {})}
    answer = client.ask("POST", "/revocations", json=body).json()
    if "job_id" not in answer:
        if json:
            show_json(answer)
        else:
            _show_chosen(answer)
        return

    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = client.get(f"/revocations/{answer['job_id']}")
        return found if found["state"] in _FINAL else None

    _show(client.wait(look, wait) or client.get(f"/revocations/{answer['job_id']}"), json=json)


def _show_chosen(chosen: dict[str, Any]) -> None:
    left_out = f"{expired} have expired and are left out" if (expired := chosen.get("expired")) else None
    if not chosen["count"]:
        fail(f"nothing is chosen{f': {left_out}' if left_out else ''}", "look with `chancery list`", USAGE)
    show_rows(
        ("issuer", "profile", "certificates"),
        [[one["issuer"], one["profile"], str(one["count"])] for one in chosen["parts"]],
    )
    columns = ("serial", "state", "not_after", "profile", "issuer", "subject")
    show_rows(
        [column.replace("_", " ") for column in columns],
        [[one[column] for column in columns] for one in chosen["sample"]],
    )
    if chosen["count"] > len(chosen["sample"]):
        show_pairs([("and more", chosen["count"] - len(chosen["sample"]))])
    show_pairs(
        [
            ("nothing was revoked", f"these would be: {chosen['count']}"),
            ("of those that match", left_out),
            ("to revoke them", f"the same command with --confirm {chosen['confirmation']}"),
            ("to rehearse it", "the same command with --simulate"),
        ]
    )


def _show(job: dict[str, Any], *, json: bool) -> None:
    if json:
        show_json(job)
        return
    fields = ("job_id", "state", "requestor", "reason", "size", "done", "refused", "waiting", "detail")
    show_pairs([(name.replace("_", " "), job[name]) for name in fields if job.get(name) is not None])
    show_pairs([(name, value) for name, value in job["selection"].items()])
    if job.get("rehearsal"):
        _show_result(job.get("result") or {})
    elif job["state"] == "unapproved":
        words = f"chancery revocation approve {job['job_id']} --digest {job['digest']}"
        show_pairs([("a second person", words)])


def _show_result(result: dict[str, Any]) -> None:
    show_pairs([(name.replace("_", " "), value) for name, value in result.items() if not isinstance(value, list)])
    for crl in result.get("crls", []):
        show_pairs([(f"CRL {name.replace('_', ' ')}", value) for name, value in crl.items()])


def list_jobs(client: Client, *, json: JSONOption = False) -> None:
    """List mass revocations and rehearsals, newest first."""
    found = client.get("/revocations")["jobs"]
    if json:
        show_json(found)
        return
    columns = ("job_id", "state", "reason", "requestor", "size", "asked_at")
    show_rows(
        [column.replace("_", " ") for column in columns],
        [[str(one[column]) for column in columns] for one in found],
    )


def show_job(client: Client, job: JobArgument, *, json: JSONOption = False) -> None:
    """Show a mass revocation: what was chosen, how far it is, and what a rehearsal measured."""
    _show(client.get(f"/revocations/{job}"), json=json)


def approve(
    client: Client,
    job: JobArgument,
    *,
    digest: Annotated[str, typer.Option(help="The digest of the list, as it was shown to you.")],
    json: JSONOption = False,
) -> None:
    """Approve a mass revocation as the second person: its list with this digest is revoked."""
    _show(client.ask("POST", f"/revocations/{job}/approval", json={"digest": digest}).json(), json=json)
