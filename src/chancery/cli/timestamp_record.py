"""`chancery timestamp-record`: the authority's records for its auditor, and evidence for everybody."""

from __future__ import annotations

import contextlib
import datetime
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from chancery.asn1 import tsp
from chancery.audit import evidence
from chancery.cli import build
from chancery.cli.audit import FOUND, public_key
from chancery.cli.show import JSONOption, read, serial_of, show_json, show_pairs, show_rows
from chancery.cli.stamping import digests_of, read_certificates, serial_text
from chancery.config import AuditorConfig, load_checked
from chancery.errors import OperatorError, PKIError
from chancery.ports import TokenRecord
from chancery.ports.timestamps import TokenQuery
from chancery.postgres.journal import PgJournalStore
from chancery.postgres.session import Session
from chancery.postgres.tokenrecords import PgTokenReader

MAX_LISTED = 10_000
MAX_FILES, MAX_UNPACKED = 256, 512 * 1024 * 1024
_EPOCH = (1980, 1, 1, 0, 0, 0)

app = typer.Typer(no_args_is_help=True)
Config = Annotated[Path, typer.Option(help="The auditor's configuration.")]
Times = Annotated[datetime.datetime | None, typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="UTC.")]


@app.command()
def find(
    config: Config,
    file: Annotated[Path | None, typer.Argument(help="A file: its hashes are looked for.")] = None,
    *,
    imprint: Annotated[str | None, typer.Option(help="A hash, in hexadecimal.")] = None,
    client: Annotated[str | None, typer.Option(help="Who asked: a client's name or an address.")] = None,
    since: Times = None,
    before: Times = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LISTED, help="How many, newest first.")] = 100,
    as_json: JSONOption = False,
) -> None:
    """List recorded timestamps: of a file, of a hash, of a client, of a time."""
    if file is not None and imprint is not None:
        raise typer.BadParameter("give a file or --imprint, not both")
    imprints = [None if imprint is None else _hexadecimal(imprint)]
    if file is not None:
        imprints = [*digests_of(file, list(tsp.DIGEST_OIDS)).values()]
    found: list[TokenRecord] = []
    with _records(config) as (reader, _, _):
        for one in imprints:
            found += reader.find(
                TokenQuery(imprint=one, client=client, since=_utc(since), before=_utc(before), limit=limit)
            )
    found = sorted(found, key=lambda one: one.gen_time, reverse=True)[:limit]
    if as_json:
        show_json([_as_json(one) for one in found])
        return
    columns = ("serial", "time", "hash", "imprint", "policy", "client")
    show_rows(columns, [tuple(_as_json(one)[column] for column in columns) for one in found])


@app.command()
def show(
    config: Config,
    serial: Annotated[str, typer.Argument(help="Serial number of the timestamp, in hexadecimal.")],
    *,
    as_json: JSONOption = False,
) -> None:
    """Show one recorded timestamp."""
    with _records(config) as (reader, _, _):
        found = reader.find(TokenQuery(serial=int(serial_of(serial), 16), limit=1))
    if not found:
        raise OperatorError("no timestamp with this serial is recorded", "check the serial, or ask with `find`")
    if as_json:
        show_json(_as_json(found[0]))
    else:
        show_pairs(list(_as_json(found[0]).items()))


@app.command()
def export(
    config: Config,
    tsr: Annotated[Path, typer.Argument(metavar="TSR", help="A response that was given out here.")],
    *,
    out: Annotated[Path, typer.Option(help="The archive (zip) to write.")],
) -> None:
    """
    Write the evidence of a timestamp: token, certificates, CRLs, record, and its proof under the signed journal.

    One archive that `chancery timestamp-record verify` checks, and, with the script inside, openssl alone. Of what
    others had stamped at the same moment it holds hashes only.
    """
    response = read(tsr)
    with _records(config) as (reader, session, settings):
        key = public_key(settings.journal_key)
        files = evidence.collect(response, reader, PgJournalStore(session), settings.origin, key)
    try:
        out.write_bytes(pack(files))
    except OSError as error:
        raise OperatorError(f"{out} cannot be written: {error.strerror}", "choose another --out") from error
    show_pairs([("written", out), ("files", len(files))])


@app.command()
def verify(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="An evidence that `export` wrote.")],
    *,
    file: Annotated[Path, typer.Option(help="The file that was stamped.")],
    ca: Annotated[Path, typer.Option(help="CA certificates (PEM) that are trusted.")],
    journal_key: Annotated[
        Path, typer.Option(help="The journal's public key (PEM), as the authority publishes it.")
    ],
    as_json: JSONOption = False,
) -> None:
    """Check an evidence, with no network and no configuration. Exit code 3 when it proves nothing."""
    key, anchors = public_key(journal_key), read_certificates(ca)
    try:
        found = evidence.prove(
            unpack(read(archive)), digests=digests_of(file, list(tsp.DIGEST_OIDS)), anchors=anchors, key=key
        )
    except PKIError as error:
        if as_json:
            show_json({"good": False, "what": error.detail})
        else:
            show_pairs([("evidence", "proves nothing"), ("because", error.detail)])
        raise typer.Exit(FOUND) from None
    info = found.stamp.info
    told = {
        "existed at": info.gen_time.isoformat(),
        "accuracy": None if info.accuracy is None else f"± {info.accuracy.total_seconds():g} s",
        "serial": serial_text(info.serial),
        "not revoked": "; ".join(
            f"{one.subject} (CRL of {one.this_update.isoformat()})" for one in found.revocation
        ),
        "asked by": found.row.rstrip("\n").split("|", 5)[-1],
        "journal": f"entry {found.leaf_index} of {found.head.size} in {found.head.origin}",
    }
    if as_json:
        show_json({"good": True, **told})
    else:
        show_pairs([("evidence", f"{file} is proved"), *told.items()])


def pack(files: dict[str, bytes]) -> bytes:
    """Return a zip archive of these files; the same files give the same octets."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), files[name], zipfile.ZIP_DEFLATED)
    return made.getvalue()


def unpack(data: bytes) -> dict[str, bytes]:
    """Return the files of an archive. OperatorError for one that is none, or too large to be an evidence."""
    wrong = OperatorError("this is no evidence of a timestamp", "give the archive that `export` wrote")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            names = {one.filename for one in entries}
            too_much = len(entries) > MAX_FILES or sum(one.file_size for one in entries) > MAX_UNPACKED
            if too_much or len(names) != len(entries):
                raise wrong
            return {one.filename: archive.read(one) for one in entries}
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        NotImplementedError,
        RuntimeError,
        OSError,
        EOFError,
        ValueError,
    ):
        raise wrong from None


@contextlib.contextmanager
def _records(config: Path) -> Iterator[tuple[PgTokenReader, Session, AuditorConfig]]:
    settings = load_checked(config, AuditorConfig)
    session = Session(build.connection(settings.database, "audit"))
    try:
        yield PgTokenReader(session), session, settings
    finally:
        session.close()


def _utc(time: datetime.datetime | None) -> datetime.datetime | None:
    return None if time is None else time.replace(tzinfo=datetime.UTC)


def _hexadecimal(text: str) -> bytes:
    try:
        return bytes.fromhex(text.replace(":", ""))
    except ValueError:
        raise typer.BadParameter("--imprint is in hexadecimal") from None


_HASHES = {oid: name for name, oid in tsp.DIGEST_OIDS.items()}


def _as_json(token: TokenRecord) -> dict[str, str]:
    return {
        "serial": serial_text(token.serial),
        "time": token.gen_time.isoformat(),
        "hash": _HASHES.get(token.hash_oid, token.hash_oid),
        "imprint": token.imprint.hex(),
        "policy": token.policy,
        "client": token.client,
    }
