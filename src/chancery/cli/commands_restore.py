"""`chancery restore`: an installation, or a database and files, from a back-up."""

from __future__ import annotations

import getpass
import shutil
from pathlib import Path
from typing import Annotated

import typer

from chancery.audit.verify import Audit
from chancery.cli import backup_keys, backup_restore, build, layout
from chancery.cli.audit import FOUND, show_audit
from chancery.cli.backup_archive import FILES
from chancery.cli.backup_restore import Unpacked
from chancery.cli.clock import SystemClock
from chancery.cli.commands_backup import DEFAULT_GIB, SHA256, Identity, MaxGiB, Programs
from chancery.cli.layout import Layout
from chancery.cli.show import show_pairs
from chancery.cli.suite import process_configs, read_suite
from chancery.config import AuditorConfig, OwnerConfig, load_checked
from chancery.errors import OperatorError
from chancery.ports import Event, EventKind
from chancery.postgres import dump
from chancery.postgres.session import Connection


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(restore)


def restore(
    file: Annotated[Path, typer.Argument(help="The back-up.")],
    *,
    identity: Identity,
    state: Annotated[
        Path | None, typer.Option(help="Where a whole installation goes: a directory that does not exist.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="The configuration of `chancery_owner` of an empty database to restore into."),
    ] = None,
    files: Annotated[
        Path | None,
        typer.Option(help="Where the files go, by their former paths: a directory that does not exist."),
    ] = None,
    sha256: SHA256 = None,
    max_gib: MaxGiB = DEFAULT_GIB,
    programs: Programs = None,
) -> None:
    """
    Restore from a back-up what is named; nothing that exists is written over, and nothing is started.

    With --state a whole installation, with its own PostgreSQL: then `chancery up` goes on. Else --config its
    database, --files its files, or both. CRL numbers are moved on, so that none that was published comes again.
    """
    if (state is None) == (config is None and files is None):
        raise OperatorError("nothing says what to restore", "give --state, or else --config, --files or both")
    target = state or files
    below = Path.cwd() if target is None else target.absolute().parent
    if target is not None and target.exists():
        raise OperatorError(f"{target} exists", "give a directory that does not: nothing is written over")
    keys = backup_keys.identities(identity)
    with backup_restore.unpacked(file, keys, below, max_gib << 30, sha256) as found:
        said: list[tuple[str, object]] = [("back-up of", found.manifest.made_at)]
        if state is not None:
            audit = _installation(found, Layout(state.absolute()), file.name, programs)
            show_pairs([*said, ("restored", state)])
            show_audit(audit, 1)
            show_pairs([("next", f"chancery up --state {state}")])
            raise typer.Exit(FOUND if audit.findings else 0)
        if files is not None:
            # Before the database is: it cannot be taken back.
            said += [("account not here", one) for one in _files(found)]
        if config is not None:
            owner = build.connection(load_checked(config, OwnerConfig).database, "restore")
            said += [("migration", one) for one in _database(found, owner, file.name, programs)]
        if files is not None:
            (found.folder / "files").rename(files)
    show_pairs([*said, ("restored", file)])
    if config is not None:
        show_pairs([("next", "chancery audit verify --config AUDITOR.toml --remember FILE")])


def _files(found: Unpacked) -> list[str]:
    """Make the files ready to be moved; return whose accounts are not here. OperatorError when there are none."""
    if not any(one.path.startswith(FILES) for one in found.manifest.entries):
        raise OperatorError("this back-up holds no files of --include", "leave out --files, or take another one")
    return backup_restore.settle(found)


def _database(found: Unpacked, owner: Connection, name: str, programs: Path | None) -> list[str]:
    """Restore the database and journal it; return the migrations that were applied."""
    now = SystemClock().now()
    applied = backup_restore.restore_database(found, owner, now, programs)
    detail = {"made_at": found.manifest.made_at}
    dump.go_on(owner, Event(EventKind.BACKUP_RESTORED, now, getpass.getuser(), f"backup:{name}", detail))
    return applied


def _installation(found: Unpacked, place: Layout, name: str, programs: Path | None) -> Audit:
    """Put files and database of an installation in place; return what its journal's verification found."""
    database = found.manifest.database
    if not found.manifest.suite or database is None:
        raise OperatorError(
            "this is no back-up of a whole installation", "give --config and --files in place of --state"
        )
    layout.accounts()
    if missing := backup_restore.settle(found):
        raise OperatorError(f"the account {missing[0]} is not here", f"run `useradd --system {missing[0]}`")
    (found.folder / "state").rename(place.state)
    suite = read_suite(place)
    if suite.database is not None:
        raise OperatorError(
            f"the database of this installation is on {suite.database.host}; its files are in {place.state}",
            f"make roles and an empty database there, then give --config {place.config('owner')}",
        )
    server = build.embedded_server(place)
    dump.move_ahead(server, database.xid)
    try:
        server.start()
        build.create_roles(server.superuser, place)
        configs = process_configs(place, suite, server.socket_dir)
        owner, auditor = configs["owner"], configs["auditor"]
        assert isinstance(owner, OwnerConfig)
        assert isinstance(auditor, AuditorConfig)
        _database(found, build.connection(owner.database, "restore"), name, programs)
        return backup_restore.judge(found, build.connection(auditor.database, "audit"), auditor)
    except BaseException:
        server.stop()
        # What was made a moment ago, and is of no use: half of an installation must not be started.
        shutil.rmtree(place.state)
        raise
    finally:
        server.stop()
