"""`chancery audit`: verify the journal, and read it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from chancery.asn1.signature import PublicKey
from chancery.audit.listing import newest
from chancery.audit.memory import CheckpointFile
from chancery.audit.verify import Audit, verify
from chancery.cli import build
from chancery.cli.clock import SystemClock
from chancery.cli.show import JSONOption, show_json, show_pairs, show_rows
from chancery.config import AuditorConfig, load_checked
from chancery.errors import OperatorError
from chancery.postgres.journal import PgJournalStore
from chancery.postgres.session import Session

FOUND = 3
"""Exit code of `verify` when anything is wrong; 1 is for a verification that could not be made."""
MAX_LISTED = 10_000

app = typer.Typer(no_args_is_help=True)
Config = Annotated[Path, typer.Option(help="The auditor's configuration.")]


@app.command(name="verify")
def verify_command(
    config: Config,
    remember: Annotated[
        Path | None,
        typer.Option(help="Compare with the checkpoint in this file, and keep the newest one in it (R30)."),
    ] = None,
    *,
    as_json: JSONOption = False,
) -> None:
    """
    Recompute the journal's Merkle tree and compare it with every signed checkpoint.

    Finds events that were edited, deleted, reordered or cut off, checkpoints that were forged, and with a
    remembered checkpoint a database that was rolled back. Exit code 3 when anything is wrong.
    """
    settings = load_checked(config, AuditorConfig)
    key = public_key(settings.journal_key)
    files = [CheckpointFile(path) for path in (settings.checkpoint_file, remember) if path is not None]
    # Read before the database: what is remembered is never newer than what is then found.
    heads = [head for file in files if (head := file.read(settings.origin, key)) is not None]
    session = Session(build.connection(settings.database, "audit"))
    try:
        store = PgJournalStore(session)
        audit = verify(store, settings.origin, key, SystemClock().now(), remembered=heads)
    finally:
        session.close()
    if audit.note is not None and remember is not None:
        CheckpointFile(remember).write(audit.note)
    show_audit(audit, len(heads), as_json=as_json)
    if audit.findings:
        raise typer.Exit(FOUND)


@app.command(name="list")
def list_command(
    config: Config,
    subject: Annotated[str | None, typer.Option(help="Only subjects that begin so: 1:5a…, request:7 …")] = None,
    kind: Annotated[
        str | None, typer.Option(help="Only kinds that begin so: certificate., login.refused …")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LISTED, help="How many, newest first.")] = 50,
    *,
    as_json: JSONOption = False,
) -> None:
    """Show the newest events of the journal, as they stand; `verify` says whether they may be believed."""
    settings = load_checked(config, AuditorConfig)
    session = Session(build.connection(settings.database, "audit"))
    try:
        entries = newest(PgJournalStore(session), subject=subject, kind=kind, limit=limit)
    finally:
        session.close()
    if as_json:
        show_json(entries)
        return
    rows = [(e.index, e.at, e.kind, e.actor, e.subject, e.detail) for e in entries]
    show_rows(("leaf", "time", "kind", "actor", "subject", "detail"), rows)


def show_audit(audit: Audit, remembered: int, *, as_json: bool = False) -> None:
    """Print what a verification found; `remembered` is how many checkpoints were kept elsewhere."""
    head = audit.head
    findings = [{"kind": one.kind.value, "what": one.what, "next_step": one.next_step} for one in audit.findings]
    if as_json:
        show_json(
            {
                "good": not findings,
                "tree_size": head.size if head else None,
                "root": head.root.hex() if head else None,
                "checkpoints": audit.checkpoints,
                "waiting": audit.waiting,
                "retired": audit.retired,
                "remembered": remembered,
                "findings": findings,
                "omitted": audit.omitted,
            }
        )
        return
    show_pairs(
        [
            ("journal", "not as it was signed" if findings else "as it was signed"),
            ("events", head.size if head else None),
            ("root", head.root.hex() if head else None),
            ("checkpoints", audit.checkpoints),
            ("waiting", f"{audit.waiting} events without a leaf yet" if audit.waiting else None),
            (
                "retired",
                f"{audit.retired} events, by retention; their leaves are kept" if audit.retired else None,
            ),
            ("remembered", f"continues {remembered} kept elsewhere" if remembered and not findings else None),
        ]
    )
    for one in findings:
        show_pairs([("finding", f"{one['kind']}: {one['what']}"), ("  next", one["next_step"])])
    if audit.omitted:
        show_pairs([("and", f"{audit.omitted} more findings")])


def public_key(path: Path) -> PublicKey:
    """Return the journal's public key from its file (PEM); OperatorError when it holds none."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise OperatorError(
            f"{path} is not a public key (PEM): {error}", "give the journal's public key"
        ) from error
    if not isinstance(key, PublicKey):
        raise OperatorError(f"{path} holds a key that signs no checkpoints", "give the journal's public key")
    return key
