"""`chancery backup`: make one for its recipients, verify it in a scratch cluster, make the keys that open it."""

from __future__ import annotations

import getpass
import importlib.metadata
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from chancery.cli import backup_keys, backup_make, backup_restore, build
from chancery.cli.audit import FOUND, show_audit
from chancery.cli.clock import SystemClock
from chancery.cli.layout import Layout, write_private
from chancery.cli.show import JSONOption, show_json, show_pairs
from chancery.config import AuditorConfig, OwnerConfig, load_checked
from chancery.errors import OperatorError
from chancery.ports import Event, EventKind
from chancery.postgres import dump

app = typer.Typer(no_args_is_help=True)
Identity = Annotated[Path, typer.Option(help="The file with the identity (private key) of one of the recipients.")]
Programs = Annotated[
    Path | None, typer.Option(help="The directory of pg_dump and pg_restore, if not the embedded PostgreSQL's.")
]
MaxGiB = Annotated[int, typer.Option(min=1, max=65536, help="Refuse a back-up that unpacks to more.")]
SHA256 = Annotated[str | None, typer.Option(help="The SHA-256 (hex) that the file must have.")]
DEFAULT_GIB = 64


@app.command()
def make(
    *,
    out: Annotated[Path, typer.Option(help="The file to write; it must not exist.")],
    state: Annotated[
        Path | None, typer.Option(help="A whole installation of `chancery up`: its files and its database.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="The configuration of `chancery_owner`, for its database.")
    ] = None,
    include: Annotated[
        list[Path] | None, typer.Option(help="A file or directory to take along; repeatable.")
    ] = None,
    recipient: Annotated[
        list[str] | None, typer.Option(help="Who can open it (age1…, a public key); repeatable.")
    ] = None,
    recipients_file: Annotated[list[Path] | None, typer.Option(help="A file of recipients, one a line.")] = None,
    programs: Programs = None,
    as_json: JSONOption = False,
) -> None:
    """
    Write one encrypted file with the database, as of one moment, and the files it needs to run again.

    It runs while the suite does. A SoftHSM token is its directory and goes along with `--state`, or `--include`;
    of a hardware token make a back-up with its own means. The file's SHA-256 is journalled as `backup.made`.
    """
    place = None if state is None else Layout(state.resolve())
    owner_config = config or (place.config("owner") if place else None)
    database = None
    if owner_config is not None:
        database = build.connection(load_checked(owner_config, OwnerConfig).database, "backup")
    if database is None and not include:
        raise OperatorError("nothing to back up", "give --state, --config or --include")
    to = backup_keys.recipients(recipient or [], recipients_file or [])
    now = SystemClock().now()
    wanted = backup_make.Wanted(database, place, tuple(path.absolute() for path in include or []), programs)
    made = backup_make.make(wanted, out.absolute(), to, now, importlib.metadata.version("chancery"))
    detail: dict[str, str | int] = {"sha256": made.sha256, "size": made.size, "recipients": len(to)}
    if database is not None:
        at = SystemClock().now()
        dump.record(database, Event(EventKind.BACKUP_MADE, at, getpass.getuser(), f"backup:{out.name}", detail))
    rows = sum(made.manifest.database.tables.values()) if made.manifest.database else None
    files = sum(one.kind == "file" for one in made.manifest.entries)
    if as_json:
        show_json({"file": str(out), **detail, "rows": rows, "files": files, "left_out": made.left_out})
        return
    show_pairs([("back-up", out), *detail.items(), ("rows", rows), ("files", files)])
    show_pairs([("left out", one) for one in made.left_out])


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="The back-up.")],
    *,
    identity: Identity,
    config: Annotated[
        Path,
        typer.Option(help="The auditor's configuration: journal key and origin, kept apart from the back-up."),
    ],
    sha256: SHA256 = None,
    max_gib: MaxGiB = DEFAULT_GIB,
    programs: Programs = None,
    as_json: JSONOption = False,
) -> None:
    """
    Restore a back-up into a scratch PostgreSQL, count its rows and verify its journal; nothing else is touched.

    Exit code 3 when the journal is not as it was signed, 1 when the back-up cannot be restored.
    """
    settings = load_checked(config, AuditorConfig)
    keys = backup_keys.identities(identity)
    with backup_restore.unpacked(file, keys, Path(tempfile.gettempdir()), max_gib << 30, sha256) as found:
        audit = backup_restore.verify_backup(found, settings, programs)
        manifest = found.manifest
    rows = sum(manifest.database.tables.values()) if manifest.database else 0
    if not as_json:
        show_pairs([("back-up of", manifest.made_at), ("rows", rows), ("files", len(manifest.entries))])
    show_audit(audit, 1, as_json=as_json)
    if audit.findings:
        raise typer.Exit(FOUND)


@app.command()
def identity(
    out: Annotated[Path, typer.Option(help="Where the private key goes; keep it away from what is backed up.")],
) -> None:
    """Make a key pair for back-ups (X25519): the identity into a file, the recipient on standard output."""
    if out.exists():
        raise OperatorError(f"{out} exists", "give another name")
    private, recipient = backup_keys.new()
    write_private(out.absolute(), f"# recipient: {recipient}\n{private}\n".encode())
    typer.echo(recipient)
