"""`chancery deploy`: from one inventory to every file of every host, and what differs on a host."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Annotated

import typer

from chancery.cli import commands_site
from chancery.cli.api_client import fail
from chancery.cli.clock import SystemClock
from chancery.cli.show import JSONOption, show_json, show_rows
from chancery.deploy.drift import drift as differences
from chancery.deploy.files import MANIFEST, File, expected, read_manifest
from chancery.deploy.flows import flows
from chancery.deploy.identities import DAYS, make_identities
from chancery.deploy.machine import ThisHost, manifest_of, write_tree
from chancery.deploy.machine import install as put_in_place
from chancery.deploy.rendering import render as rendered
from chancery.deploy.site import read_site

SiteArgument = Annotated[Path, typer.Argument(help="The inventory, site.toml.", exists=True, dir_okay=False)]
OutOption = Annotated[Path, typer.Option(help="A directory; each host has one below it.", file_okay=False)]
DIFFERS = 1


app = typer.Typer(no_args_is_help=True)


def _version() -> str:
    return importlib.metadata.version("chancery")


@app.command()
def render(site: SiteArgument, out: OutOption) -> None:
    """Write every host's files: configurations, units, firewall, PostgreSQL, time, and the manifest of them."""
    for name, files in rendered(read_site(site), _version()).items():
        write_tree(files, out / name)
        typer.echo(f"{name}: {sum(one.content is not None for one in files)} files in {out / name}")


@app.command()
def rows(site: SiteArgument, *, json: JSONOption = False) -> None:
    """Show what the firewalls let through; everything else is refused."""
    found = flows(read_site(site))
    if json:
        show_json(
            [
                {
                    "from": one.origin,
                    "to": one.target,
                    "sources": one.sources,
                    "destinations": one.destinations,
                    "protocol": one.protocol,
                    "port": one.port,
                    "purpose": one.purpose,
                }
                for one in found
            ]
        )
        return
    show_rows(
        ("from", "to", "port", "for"),
        [(one.origin, one.target, f"{one.protocol} {one.port}", one.purpose) for one in found],
    )


@app.command()
def identities(
    site: SiteArgument,
    out: OutOption,
    *,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long the certificates are valid.")] = DAYS,
) -> None:
    """
    Make keys and certificates of the links between hosts: database, HSM.

    The CA that signs them lives for this one run: made again, all hosts get new ones. Below OUT are secrets; move
    each host's directory there and nowhere else.
    """
    for name, files in make_identities(read_site(site), SystemClock().now(), days).items():
        write_tree(files, out / name)
        typer.echo(f"{name}: {len(files)} files in {out / name}")


@app.command()
def install(
    tree: Annotated[Path, typer.Argument(help="The host's directory, as rendered.", file_okay=False)],
    *,
    links: Annotated[
        Path | None, typer.Option(help="The host's directory of `deploy identities`.", file_okay=False)
    ] = None,
    root: Annotated[Path, typer.Option(help="Where the host's files are.", file_okay=False)] = Path("/"),
) -> None:
    """Put a rendered host's files in their places on this host, as root; nothing is started or loaded."""
    data = manifest_of(tree)
    manifest = read_manifest(data)
    # The manifest is the one file that does not list itself.
    listed = [*manifest.files, *expected([File(MANIFEST, data)])]
    changed = put_in_place([tree, *([links] if links else [])], listed, root)
    for path in changed:
        typer.echo(path)
    typer.echo(f"{manifest.host}: {len(changed)} files changed")


@app.command()
def drift(
    *,
    root: Annotated[
        Path,
        typer.Option(help="Where the files of another host are mounted: only they are compared.", file_okay=False),
    ] = Path("/"),
    json: JSONOption = False,
) -> None:
    """Compare this host with its manifest: files, units, ports, firewall, version; exit status 1 if it differs."""
    found = differences(read_manifest(manifest_of(root)), ThisHost(root), _version(), running=root == Path("/"))
    if json:
        show_json([{"kind": one.kind, "what": one.what, "how": one.how} for one in found])
    else:
        show_rows(("kind", "what", "difference"), [(one.kind, one.what, one.how) for one in found])
    if found:
        fail(f"{len(found)} differences", "render and install again, or find out who changed it", DIFFERS)


commands_site.register(app)
