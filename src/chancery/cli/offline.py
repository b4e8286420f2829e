"""
`chancery offline`: the root on its machine without network. `chancery bundle`: the installation's side.

What travels between the two are files; people compare their fingerprints.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from chancery.cli import build, ceremony
from chancery.cli.clock import SystemClock
from chancery.cli.continuity import hand_back, import_command, issue, prepare, standby_crl, standby_revoke
from chancery.cli.media import csr_der, public_key
from chancery.cli.offline_settings import offline_machine, without_token
from chancery.cli.show import show_pairs, show_rows
from chancery.config import OfflineConfig, WorkerConfig, load_checked, token_labelled
from chancery.errors import OperatorError, PKIError
from chancery.offline import importing
from chancery.offline.bundle import (
    Bundle,
    RequestEntry,
    RequestPayload,
    ResponsePayload,
    decode_request,
    decode_response,
    fingerprint,
)
from chancery.offline.ceremony import OfflineCA, export, root
from chancery.offline.journal import Journal
from chancery.offline.media import read_file, write_file
from chancery.offline.store import LocalStore
from chancery.offline.words import words
from chancery.pkix.name import name_text
from chancery.ports import RevocationReason
from chancery.postgres.issuers import PgIssuerStore
from chancery.postgres.session import Session

app = typer.Typer(no_args_is_help=True)
app.add_typer(ceremony.app, name="ceremony", help="Ceremonies: scripts, operators who confirm, transcripts.")
bundles = typer.Typer(no_args_is_help=True)
app.command()(prepare)
app.command()(issue)
app.command("standby-crl")(standby_crl)
app.command("hand-back")(hand_back)
app.command("import")(import_command)
Config = Annotated[Path, typer.Option(help="The offline CA's configuration.")]
Worker = Annotated[Path, typer.Option(help="The issuing worker's configuration.")]
Out = Annotated[Path, typer.Option(help="The file to write.")]


@app.command()
def init(config: Config) -> None:
    """Make the root: keys in the token, certificate, first CRL. Run again, it goes on, or changes nothing."""
    with _opened(config, make=True) as ca:
        _show_root(ca.store)


@app.command()
def sign(
    config: Config,
    request: Annotated[Path, typer.Argument(help="The request bundle.")],
    out: Out,
    confirm: Annotated[str | None, typer.Option(help="The fingerprint that the other side read out.")] = None,
    requester: Annotated[
        str | None, typer.Option(help="SHA-256 of the key of a further installation, to accept it.")
    ] = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: the bundle never left this machine.")] = False,
) -> None:
    """
    Answer a request bundle; the same request has the same answer for ever.

    Shows what is asked and the bundle's fingerprint, which has to be the one that the other side shows.
    """
    data = read_file(request)
    if confirm is None:
        _show_request(decode_request(data))
        if not yes:
            typer.confirm("Is this the fingerprint that the other side shows?", abort=True)
        confirm = fingerprint(data)
    with _opened(config) as ca:
        response = ca.sign(data, confirm, requester=requester)
    write_file(out, response)
    _show_response(decode_response(response))


@app.command()
def revoke(
    config: Config,
    serial: Annotated[str, typer.Argument(help="The serial number, in hexadecimal.")],
    reason: Annotated[str, typer.Option(help="cessationOfOperation, superseded, cACompromise …")],
    kit: Annotated[Path | None, typer.Option(help="On a standby: its kit.")] = None,
    operator: Annotated[str | None, typer.Option(help="On a standby: who asks for it.")] = None,
) -> None:
    """Revoke a certificate that the root, or with --kit the standby, signed; make a CRL, to be exported."""
    if kit is not None:
        if operator is None:
            raise OperatorError("nobody asked for it", "give --operator, one that the kit names")
        crl = standby_revoke(config, kit, operator, _serial(serial), _reason(reason))
    else:
        with _opened(config) as ca:
            crl = ca.revoke(_serial(serial), _reason(reason))
    show_pairs([("CRL", crl.number), ("until", crl.next_update)])


@app.command(name="export")
def export_command(config: Config, out: Annotated[Path, typer.Option(help="The directory to write to.")]) -> None:
    """Write root certificate, CRL, the key that signs bundles, and every response again. Needs no token."""
    settings = without_token(config)
    with LocalStore(Journal(settings.directory)) as store:
        found, name = export(store), settings.name
    out.mkdir(parents=True, exist_ok=True)
    certificate = x509.load_der_x509_certificate(found.root)
    key = load_der_public_key(found.bundle_key)
    write_file(out / f"{name}.cer", found.root)
    write_file(out / f"{name}.pem", certificate.public_bytes(Encoding.PEM))
    write_file(out / f"{name}.crl", found.crl)
    write_file(out / f"{name}-bundles.pem", key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    for number, requestor, response in found.responses:
        write_file(out / f"{name}-{requestor[:16]}-{number:04}.response", response)
    show_pairs([("written to", out), ("responses", len(found.responses))])


@app.command()
def show(config: Config) -> None:
    """Show the root, what it signed, and what its journal says. Needs no token."""
    settings = without_token(config)
    with LocalStore(Journal(settings.directory)) as store:
        _show_root(store)
        statuses = store.state.statuses
        rows = [
            (serial.hex().upper(), status.state.value, status.not_after, _subject(store, (issuer, serial)))
            for (issuer, serial), status in sorted(statuses.items())
        ]
        show_rows(("serial", "state", "until", "subject"), rows)


@bundles.command(name="request")
def request_command(
    *,
    config: Worker,
    key_label: Annotated[str, typer.Option(help="The token's key that signs the bundle: P-256 or Ed25519.")],
    csr: Annotated[Path, typer.Option(help="The PKCS#10 request (PEM or DER) of the new issuing CA.")],
    transaction_id: Annotated[str, typer.Option(help="A name for this request, never used before.")],
    out: Out,
    profile: Annotated[str, typer.Option(help="The profile asked for.")] = "sub-ca",
    reason: Annotated[str, typer.Option(help="Why, in words for the ceremony.")] = "",
    after_request: Annotated[Path | None, typer.Option(help="The request bundle before this one.")] = None,
    after_response: Annotated[Path | None, typer.Option(help="Its response bundle.")] = None,
    crl: Annotated[bool, typer.Option("--crl", help="Ask for a fresh CRL, too.")] = False,
    token: Annotated[str | None, typer.Option(help="The token's label, where CONFIG has several.")] = None,
) -> None:
    """Make a signed request bundle for the offline CA, and show its fingerprint."""
    settings = load_checked(config, WorkerConfig)
    entry = RequestEntry(csr=csr_der(csr), names=(), profile=profile, reason=reason, transaction_id=transaction_id)
    if (after_request is None) != (after_response is None):
        raise OperatorError(
            "only one of the bundles before was given", "give --after-request and --after-response"
        )
    link = importing.FIRST
    if after_request is not None and after_response is not None:
        link = importing.following(read_file(after_request), read_file(after_response))
    opened = build.token(token_labelled(settings, token))
    try:
        signer = build.signer(opened, key_label)
        data = importing.make_request(signer, [entry], link, SystemClock().now(), crl=crl)
    finally:
        opened.close()
    write_file(out, data)
    _show_request(decode_request(data))


@bundles.command(name="show")
def show_bundle(file: Annotated[Path, typer.Argument(help="A request or response bundle.")]) -> None:
    """Show what a bundle says, and its fingerprint to be compared. Its signature verifies, or it is refused."""
    data = read_file(file)
    try:
        _show_request(decode_request(data))
    except PKIError:
        _show_response(decode_response(data))


@bundles.command(name="import")
def import_response(
    *,
    config: Worker,
    request: Annotated[Path, typer.Option(help="The request bundle that was answered.")],
    response: Annotated[Path, typer.Option(help="The response bundle.")],
    bundle_key: Annotated[Path, typer.Option(help="The offline CA's bundle key (PEM), as it was compared.")],
    name: Annotated[str, typer.Option(help="The new issuer's name here.")],
    key_label: Annotated[
        str | None, typer.Option(help="The token's key of the new issuer. Default: it is elsewhere (a standby).")
    ] = None,
    root_name: Annotated[str, typer.Option(help="The root's name here.")] = "root",
    replaces: Annotated[
        str | None, typer.Option(help="The issuer of the same name and another key whose place it takes.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A directory for NAME.pem, ROOT.pem and chain.pem.")] = None,
    token: Annotated[str | None, typer.Option(help="The token's label, where CONFIG has several.")] = None,
) -> None:
    """
    Verify a response bundle as a whole; take root, CRL and new issuer in. Run again, it changes nothing.

    For the name and key of an issuer that is here, the certificate is that one's renewed one.
    """
    settings = load_checked(config, WorkerConfig)
    now = SystemClock().now()
    asked = read_file(request)
    verified = importing.verify_response(
        asked, read_file(response), public_key(bundle_key), build.profiles(settings.profiles), now
    )
    place = importing.Place(name, token_labelled(settings, token).label if key_label else None, key_label)
    session = Session(build.connection(settings.database, "import"))
    try:
        done = importing.import_response(
            verified,
            root_name,
            {entry.transaction_id: place for entry in decode_request(asked).payload.certificates},
            PgIssuerStore(session),
            at=now,
            actor="import",
            replaces=(replaces, settings.default_issuer),
        )
    finally:
        session.close()
    if out is not None:
        _write_chain(out, verified, root_name, name)
    show_pairs([("root", done.root_id), *done.issuers.items()])
    for refused in done.refused:
        show_pairs([("refused", f"{refused.transaction_id}: {refused.detail}")])
    if done.refused:
        raise typer.Exit(1)


def _write_chain(out: Path, verified: importing.Verified, root_name: str, name: str) -> None:
    root_pem = verified.root.public_bytes(Encoding.PEM)
    write_file(out / f"{root_name}.pem", root_pem)
    for certificate in verified.certificates.values():
        pem = certificate.public_bytes(Encoding.PEM)
        write_file(out / f"{name}.pem", pem)
        write_file(out / "chain.pem", pem + root_pem)


@contextlib.contextmanager
def _opened(config: Path, *, make: bool = False) -> Iterator[OfflineCA]:
    settings = load_checked(config, OfflineConfig)
    token = build.token(settings.token)
    try:
        machine = offline_machine(settings, token)
        with (
            OfflineCA.init(settings.directory, machine)
            if make
            else OfflineCA.open(settings.directory, machine) as ca
        ):
            if (torn := ca.store.journal.set_aside) is not None:
                show_pairs([("set aside", f"a line that a crash left unfinished is in {torn}")])
            yield ca
    finally:
        token.close()


def _show_root(store: LocalStore) -> None:
    certificate = x509.load_der_x509_certificate(root(store).certificate)
    crl = store.latest_crl(root(store).issuer_id)
    show_pairs(
        [
            ("root", name_text(certificate.subject)),
            ("fingerprint", fingerprint(root(store).certificate)),
            ("in words", words(root(store).certificate)),
            ("until", certificate.not_valid_after_utc),
            ("CRL", f"{crl.number}, until {crl.next_update}" if crl else None),
            ("bundles answered", len(store.state.given)),
            ("journal", f"{store.journal.length} lines, head {store.journal.head}"),
            ("set aside", store.journal.set_aside),
        ]
    )


def _show_request(bundle: Bundle[RequestPayload]) -> None:
    show_pairs(
        [
            ("request", bundle.header.number),
            ("made", bundle.header.created_at),
            ("installation", bundle.header.signer),
            ("asks for", ", ".join(["a CRL"] * bundle.payload.crl) or None),
        ]
    )
    for entry in bundle.payload.certificates:
        show_pairs(
            [
                ("asks for", f"a certificate, profile {entry.profile}"),
                ("  subject", _csr_subject(entry.csr)),
                ("  names", ", ".join(entry.names) or None),
                ("  reason", entry.reason or None),
                ("  id", entry.transaction_id),
            ]
        )
    _show_fingerprint(bundle.data)


def _show_response(bundle: Bundle[ResponsePayload]) -> None:
    show_pairs(
        [
            ("response", bundle.header.number),
            ("made", bundle.header.created_at),
            ("offline CA", bundle.header.signer),
            ("CRLs", len(bundle.payload.crls)),
        ]
    )
    for answer in bundle.payload.answers:
        what = "a certificate" if answer.certificate is not None else f"refused: {answer.error}: {answer.detail}"
        show_pairs([(answer.transaction_id, what)])
    _show_fingerprint(bundle.data)


def _show_fingerprint(data: bytes) -> None:
    show_pairs([("fingerprint", fingerprint(data)), ("in words", words(data))])


def _csr_subject(csr: bytes) -> str:
    try:
        return name_text(x509.load_der_x509_csr(csr).subject)
    except ValueError:
        return "(not a certification request)"


def _subject(store: LocalStore, key: tuple[int, bytes]) -> str:
    certificate = store.state.certificates.get(key)
    return certificate.subject if certificate is not None else ""


def _serial(text: str) -> bytes:
    try:
        serial = bytes.fromhex(text.removeprefix("0x").replace(":", ""))
    except ValueError as error:
        raise OperatorError(f"{text} is not a serial number", "give it in hexadecimal") from error
    return serial


def _reason(text: str) -> RevocationReason:
    wanted = re.sub(r"[^a-z]", "", text.lower())
    # A root suspends nothing: its CRLs are weeks apart.
    reasons = [reason for reason in RevocationReason if reason.final]
    for reason in reasons:
        if reason.name.lower().replace("_", "") == wanted:
            return reason
    known = ", ".join(reason.name.lower().replace("_", "-") for reason in reasons)
    raise OperatorError(f"{text} is no reason to revoke", f"give one of {known}")
