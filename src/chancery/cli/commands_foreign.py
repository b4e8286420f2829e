"""`chancery ocsp foreign …`: CAs whose keys are elsewhere, answered for by OCSP from their CRLs."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import getpass
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import structlog
import typer
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID

from chancery.cli import build
from chancery.cli.clock import SystemClock
from chancery.cli.commands_ca import certificates
from chancery.cli.foreign_crls import Importer
from chancery.cli.show import show_pairs, show_rows
from chancery.config import ForeignConfig, load_checked
from chancery.errors import OperatorError, PKIError
from chancery.ocsp.foreign import Pinned
from chancery.pkix.name import name_text
from chancery.ports import Event, EventKind, ForeignPoint
from chancery.postgres.foreign import PgForeignStore
from chancery.postgres.session import Session

log = structlog.get_logger()
foreign = typer.Typer(help="CAs whose keys are elsewhere, answered for from their CRLs.", no_args_is_help=True)
Config = Annotated[Path, typer.Option("--config", help="The configuration of `foreign` (TOML).")]
Name = Annotated[str, typer.Argument(help="The name that this installation calls the CA.")]
IMPORT_SECONDS = 900.0
"""How long the database may take for one statement: a CRL of millions of entries is one."""


@contextlib.contextmanager
def _opened(config: Path) -> Iterator[tuple[ForeignConfig, PgForeignStore]]:
    settings = load_checked(config, ForeignConfig)
    database = build.connection(settings.database, "foreign")
    session = Session(
        dataclasses.replace(database, statement_timeout=IMPORT_SECONDS, idle_in_transaction_timeout=IMPORT_SECONDS)
    )
    try:
        yield settings, PgForeignStore(session)
    finally:
        session.close()


@foreign.command()
def add(
    name: Name,
    certificate: Annotated[
        Path, typer.Argument(help="The CA's certificate (PEM or DER): what its CRLs are held to.")
    ],
    crl: Annotated[
        list[str],
        typer.Option(help="URL of its CRL, as its certificates have it; of all parts, if there are several."),
    ],
    *,
    config: Config,
) -> None:
    """Pin a foreign CA's certificate; from then on its CRLs can be imported."""
    with _opened(config) as (_, store):
        [der] = certificates(certificate, one=True)
        pinned = Pinned(x509.load_der_x509_certificate(der), tuple(dict.fromkeys(crl)))
        pinned.check()
        if strange := [one for one in pinned.urls if not one.startswith(("http://", "https://"))]:
            raise OperatorError(f"{strange[0]} is no http URL", "give the URL of its CRL, http:// or https://")
        subject = name_text(pinned.certificate.subject)
        event = _event(EventKind.FOREIGN_ADDED, name, subject=subject, points=list(pinned.urls))
        store.add(name, der, pinned.urls, event.at, event)
        show_pairs(
            [("added", name), ("subject", subject), ("next", f"chancery ocsp foreign fetch --config {config}")]
        )


@foreign.command()
def end(name: Name, *, config: Config) -> None:
    """Answer for a foreign CA no more; its name and key can be added again."""
    with _opened(config) as (_, store):
        event = _event(EventKind.FOREIGN_ENDED, name)
        store.end(name, event.at, event)
        typer.echo(f"{name} is not answered for any more")


@foreign.command()
def delegate(
    name: Name,
    certificate: Annotated[Path, typer.Argument(help="The delegate certificate that the CA made (PEM or DER).")],
    *,
    config: Config,
) -> None:
    """Bring in a delegate certificate that the CA made for a key of the OCSP server (see `chancery key make`)."""
    with _opened(config) as (_, store):
        [der] = certificates(certificate, one=True)
        found = x509.load_der_x509_certificate(der)
        issuer = next((one for one in store.issuers() if one.record.name == name), None)
        if issuer is None:
            raise OperatorError(f"there is no foreign CA {name}", "`chancery ocsp foreign list` names them")
        try:
            found.verify_directly_issued_by(x509.load_der_x509_certificate(issuer.record.certificate))
        except (InvalidSignature, ValueError, TypeError) as error:
            raise OperatorError(f"{certificate} was not issued by {name}", "give the one that it made") from error
        if found.not_valid_after_utc <= SystemClock().now() or not _signs_ocsp(found):
            raise OperatorError(
                f"{certificate} is over, or not for signing OCSP responses (RFC 6960 4.2.2.2)",
                "have the CA make one with the extended key usage OCSPSigning",
            )
        until = found.not_valid_after_utc.isoformat()
        event = _event(EventKind.FOREIGN_DELEGATE, name, serial=f"{found.serial_number:X}", not_after=until)
        store.add_delegate(name, der, event.at, event)
        show_pairs([("delegate of", name), ("until", until)])


def _signs_ocsp(found: x509.Certificate) -> bool:
    try:
        usages = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    return ExtendedKeyUsageOID.OCSP_SIGNING in usages


@foreign.command("list")
def list_command(*, config: Config) -> None:
    """List foreign CAs, where their CRLs come from, and how these stand."""
    with _opened(config) as (_, store):
        at = SystemClock().now()
        columns = ("name", "CRL", "number", "entries", "this update", "next update", "delta", "state")
        show_rows(columns, [_row(one, at) for one in store.points()])


def _row(point: ForeignPoint, at: datetime.datetime) -> Sequence[object]:
    until = point.next_update
    if until is None:
        state = "missing"
    else:
        state = "current" if max(until, point.delta_next_update or until) > at else "out of date"
    return (
        point.issuer,
        point.url,
        point.number,
        point.entries,
        point.this_update,
        until,
        point.delta_number,
        state,
    )


@foreign.command("import")
def import_command(
    name: Name,
    file: Annotated[list[Path], typer.Argument(help="CRLs of this CA (DER); a complete one before its delta.")],
    *,
    config: Config,
    crl: Annotated[
        str | None, typer.Option(help="Of which of its CRL URLs it is, where the CRL says nothing.")
    ] = None,
) -> None:
    """Import CRLs from files; nothing of one is believed before its signature was verified."""
    build.harden()
    with _opened(config) as (settings, store):
        importer = Importer(store, SystemClock(), settings)
        for one in file:
            done = importer.take(name, one, crl)
            show_pairs([("CRL", done.url), ("number", done.number), ("entries", done.entries)])


@foreign.command()
def fetch(
    *,
    config: Config,
    every: Annotated[int | None, typer.Option(min=10, help="Go on, so many seconds apart, until stopped.")] = None,
) -> None:
    """Fetch the CRLs of all foreign CAs, and their deltas, and import what is new; exit code 3 when one failed."""
    build.harden()
    with _opened(config) as (settings, store):
        importer = Importer(store, SystemClock(), settings)
        stop = threading.Event()
        if every is not None:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: stop.set())
        while True:
            try:
                failed = importer.fetch_all()
            except PKIError as error:
                if every is None:
                    raise
                log.error("foreign.round-failed", problem=error.detail)  # noqa: TRY400 - one line says it
                failed = 1
            if every is None:
                raise typer.Exit(3 if failed else 0)
            if stop.wait(every):
                return


def _event(kind: EventKind, name: str, **detail: str | list[str]) -> Event:
    return Event(kind, SystemClock().now(), f"os:{getpass.getuser()}", f"foreign:{name}", dict(detail))
