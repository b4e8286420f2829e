"""`chancery deploy service|server|administrator`: a site's own certificates, asked for on the CA's host."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Literal

import typer

from chancery.cli import enrol, layout
from chancery.cli.enrol import Wanted
from chancery.config import CAConfig, load
from chancery.errors import OperatorError
from chancery.offline.media import read_file

ConfigOption = Annotated[Path, typer.Option(help="The CA's configuration; run it as that process's account.")]
CSROption = Annotated[Path, typer.Option(help="The PKCS#10 request (PEM).", dir_okay=False)]
OutOption = Annotated[Path, typer.Option(help="The certificate and the CA's above it (PEM).", dir_okay=False)]
HostOption = Annotated[
    list[str], typer.Option(help="A name or address that clients use; the first is the subject.")
]
PROFILES = {"ocsp": "ocsp-signing", "tsa": "timestamping"}


def register(app: typer.Typer) -> None:
    """Add the commands to `chancery deploy`."""
    for command in (service, server, administrator):
        app.command()(command)


def _settings(config: Path) -> CAConfig:
    """Decode the configuration; its TLS files need not be there yet, they are what is asked for."""
    settings = load(config)
    if not isinstance(settings, CAConfig):
        raise OperatorError(f"{config} is not the CA's configuration", 'give the one with process = "ca"')
    return settings


def service(
    kind: Annotated[Literal["ocsp", "tsa"], typer.Argument(help="Whose certificate it is.")],
    *,
    config: ConfigOption,
    csr: CSROption,
    issuer: Annotated[str | None, typer.Option(help="For OCSP: the issuer to answer for.")] = None,
) -> None:
    """
    Have a service's certificate issued, or renewed when less than a third of its life is left.

    The service finds it in the database. The worker's `service_keys` must have its key.
    """

    async def act() -> bool:
        async with enrol.registration(_settings(config)) as issuing:
            wanted = Wanted(kind, PROFILES[kind], read_file(csr), issuer or await issuing.default())
            return (await issuing.have(wanted))[1]

    typer.echo(f"{kind}: {'issued' if asyncio.run(act()) else 'has life left'}")


def server(*, config: ConfigOption, host: HostOption) -> None:
    """Have the CA web server's certificate, and make its key if there is none; run again, it renews."""
    settings = _settings(config)

    async def act() -> bool:
        async with enrol.registration(settings) as issuing:
            return (await enrol.server(issuing, host, (settings.tls.key, settings.tls.certificate)))[1]

    typer.echo(f"{settings.tls.certificate}: {'issued' if asyncio.run(act()) else 'has life left'}")


def administrator(*, config: ConfigOption, csr: CSROption, out: OutOption) -> None:
    """Have an administrator's certificate issued from a request made on that person's machine, and enrol them."""

    async def act() -> tuple[str, bytes]:
        async with enrol.registration(_settings(config)) as issuing:
            _, _, der = await issuing.have(Wanted("admin", "tls-client", read_file(csr)))
            return await enrol.appoint(issuing, der), enrol.pem(der) + await issuing.issuer_of(der)

    name, chain = asyncio.run(act())
    layout.write_public(out, chain)
    typer.echo(f"operator {name}: {out}")
