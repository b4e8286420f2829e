"""`chancery auditor`: re-derive the right to exist of every certificate that is stored."""

from __future__ import annotations

import datetime
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from chancery.audit.auditor import Report, audit
from chancery.cli import build
from chancery.cli.clock import SystemClock
from chancery.cli.show import JSONOption, show_json, show_pairs
from chancery.config import AuditorConfig, load_checked
from chancery.errors import OperatorError
from chancery.linters import CommandLinter
from chancery.ports import SecondOpinion
from chancery.ports.auditing import AuditReader, Scope
from chancery.postgres.auditing import PgAuditReader

FOUND = 3
"""Exit code when anything is wrong; 1 is for an audit that could not be made."""

app = typer.Typer(no_args_is_help=True)
# A group of one command would swallow its name.
app.callback()(lambda: None)


@app.command(name="run")
def run_command(
    config: Annotated[Path, typer.Option(help="The auditor's configuration.")],
    since: Annotated[
        datetime.datetime | None,
        typer.Option(help="Only what was recorded since then (UTC).", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
    ] = None,
    issuer: Annotated[str | None, typer.Option(help="Only certificates and CRLs of this issuer.")] = None,
    second_opinion: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="Another linter, run for each certificate with its file (DER) as last word; it has nothing"
            " against one when it exits with 0 and prints nothing.",
        ),
    ] = None,
    *,
    as_json: JSONOption = False,
) -> None:
    """
    Re-derive the right to exist of what is stored from request, profile, serial, lints, chain and journal.

    CRLs, statuses, issuers, profiles and operators are compared with the journal, too. Reads one snapshot of the
    database and changes nothing. Exit code 3 when anything is wrong. Run `chancery audit verify` beside it: that
    one tells whether the journal itself is the one that was signed.
    """
    settings = load_checked(config, AuditorConfig)
    opinion, opinions = _opinion(second_opinion), build.linters(settings.linters)
    with PgAuditReader(build.connection(settings.database, "auditor")) as reader:
        scope = Scope(since and since.replace(tzinfo=datetime.UTC), _issuer_id(reader, issuer))
        with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
            task = progress.add_task("certificates", total=reader.count(scope))
            report = audit(
                reader,
                SystemClock().now(),
                scope,
                opinions=opinions,
                second_opinion=opinion,
                progress=lambda done: progress.advance(task, done),
            )
    _show(report, as_json=as_json)
    if report.findings:
        raise typer.Exit(FOUND)


def _issuer_id(reader: AuditReader, name: str | None) -> int | None:
    if name is None:
        return None
    known = {one.record.name: one.record.issuer_id for one in reader.issuers()}
    if name not in known:
        raise OperatorError(f"there is no issuer {name}", f"give one of {', '.join(sorted(known)) or 'none'}")
    return known[name]


def _opinion(command: str | None) -> SecondOpinion | None:
    if command is None:
        return None
    try:
        return CommandLinter(shlex.split(command))
    except ValueError as error:
        raise OperatorError(f"--second-opinion: {error}", "quote it as a shell would want it") from None


def _show(report: Report, *, as_json: bool) -> None:
    findings = [
        {"kind": one.kind.value, "subject": one.subject, "what": one.what, "next_step": one.next_step}
        for one in report.findings
    ]
    counts = {kind.value: count for kind, count in sorted(report.counts.items(), key=lambda item: item[0].value)}
    looked_at = {
        "certificates": report.certificates,
        "unfinished": report.unfinished,
        "crls": report.crls,
        "issuers": report.issuers,
        "profiles": report.profiles,
        "operators": report.operators,
    }
    if as_json:
        show_json(
            {"good": not findings, **looked_at, "counts": counts, "findings": findings, "omitted": report.omitted}
        )
        return
    show_pairs(
        [
            ("audit", "not all has a right to exist" if findings else "all has a right to exist"),
            *looked_at.items(),
            ("found", ", ".join(f"{count} {kind}" for kind, count in counts.items()) or None),
        ]
    )
    for one in findings:
        show_pairs([("finding", f"{one['kind']}: {one['subject']}: {one['what']}"), ("  next", one["next_step"])])
    if report.omitted:
        show_pairs([("and", f"{report.omitted} more findings")])
