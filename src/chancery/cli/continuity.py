"""
Continuity on the command line: `chancery offline prepare`, `issue`, `standby-crl`, `hand-back` and `import`.

`prepare` and `import` run at the primary with the worker's configuration, the others on the standby's machine.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from chancery.cli import build
from chancery.cli.clock import SystemClock, SystemEntropy
from chancery.cli.media import csr_der, public_key
from chancery.cli.show import show_pairs
from chancery.config import OfflineConfig, WorkerConfig, load_checked, token_labelled
from chancery.errors import OperatorError
from chancery.offline.bundle import fingerprint
from chancery.offline.epochs import adopted
from chancery.offline.kit import MAX_KIT, SignedKit, decode_kit, peek_epoch
from chancery.offline.media import read_file, write_file
from chancery.offline.standby import Machine, Standby
from chancery.offline.taking_back import Terms, make_kit, verify_hand_back
from chancery.ports import CRLRecord, Event, EventDetail, EventKind, KitRecord, RevocationReason, TakenBack
from chancery.postgres.continuity import PgContinuityStore
from chancery.postgres.session import Session

Worker = Annotated[Path, typer.Option(help="The issuing worker's configuration.")]
Config = Annotated[Path, typer.Option(help="The standby's configuration.")]
KitFile = Annotated[Path, typer.Option(help="The kit that `chancery offline prepare` made.")]
OperatorName = Annotated[str, typer.Option(help="Who asks for it: an operator that the kit names.")]
Out = Annotated[Path, typer.Option(help="The file to write.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask: the fingerprint of this kit was compared before.")]


def prepare(
    *,
    config: Worker,
    issuer: Annotated[str, typer.Option(help="The issuer that the standby has the key of.")],
    standby_key: Annotated[Path, typer.Option(help="The standby's bundle key (PEM), as it was compared.")],
    key_label: Annotated[str, typer.Option(help="The token's key that signs the kit: P-256 or Ed25519.")],
    out: Out,
    instance: Annotated[int, typer.Option(help="The octet in the standby's serials: 113 to 127.")] = 113,
    days: Annotated[int, typer.Option(min=1, max=400, help="How long the kit may be used, from now on.")] = 90,
    token: Annotated[str | None, typer.Option(help="The token's label, where CONFIG has several.")] = None,
) -> None:
    """
    Make the kit of a standby CA, at the primary and in peace; take a back-up of the database afterwards.

    The kit has issuer, profiles, operators, statuses and the last CRL. Make one anew before the last one ends.
    """
    settings = load_checked(config, WorkerConfig)
    now = SystemClock().now()
    terms = Terms(
        instance=instance,
        not_before=now,
        not_after=now + datetime.timedelta(days=days),
        standby_key=public_key(standby_key),
        service_keys=settings.service_keys,
        profiles=build.profiles(settings.profiles),
        urls=settings.urls.of(issuer),
    )
    with _store(settings) as store:
        prepared = store.gather(issuer, now)
        opened = build.token(token_labelled(settings, token))
        try:
            kit = make_kit(build.signer(opened, key_label), prepared, terms, now)
        finally:
            opened.close()
        detail: EventDetail = {"epoch": kit.kit.epoch, "kit": kit.sha256, "instance": instance, "days": days}
        event = Event(EventKind.STANDBY_PREPARED, now, f"uid:{os.geteuid()}", f"issuer:{issuer}", detail)
        store.add_kit(KitRecord(kit.kit.epoch, kit.kit.issuer_id, instance, kit.data, now), [event])
    write_file(out, kit.data)
    _show_kit(kit)


def issue(
    *,
    config: Config,
    kit: KitFile,
    csr: Annotated[Path, typer.Option(help="The PKCS#10 request (PEM or DER).")],
    profile: Annotated[str, typer.Option(help="A profile of the kit.")],
    operator: OperatorName,
    out: Out,
    name: Annotated[list[str] | None, typer.Option(help="A further name: dns:…, ip:…, email:…")] = None,
    yes: Yes = False,
) -> None:
    """Issue a certificate (PEM) on the standby; the same request again has the same answer."""
    with opened(config, kit, yes=yes) as standby:
        der = standby.issue(operator, csr_der(csr), profile, tuple(name or ()))
    certificate = x509.load_der_x509_certificate(der)
    write_file(out, certificate.public_bytes(Encoding.PEM))
    show_pairs([("serial", f"{certificate.serial_number:X}"), ("until", certificate.not_valid_after_utc)])


def standby_crl(*, config: Config, kit: KitFile, out: Out, yes: Yes = False) -> None:
    """Make a fresh CRL (DER) on the standby."""
    with opened(config, kit, yes=yes) as standby:
        crl = standby.publish_crl()
    write_file(out, crl.der)
    show_pairs([("CRL", crl.number), ("until", crl.next_update)])


def standby_revoke(config: Path, kit: Path, operator: str, serial: bytes, reason: RevocationReason) -> CRLRecord:
    """Revoke on the standby; return the CRL that was made."""
    with opened(config, kit, yes=False) as standby:
        return standby.revoke(operator, serial, reason)


def hand_back(*, config: Config, kit: KitFile, out: Out, yes: Yes = False) -> None:
    """
    Write all that the standby did into a signed bundle, and close this epoch: it signs no more by this kit.

    Run again, it writes the same bundle.
    """
    with opened(config, kit, yes=yes) as standby:
        if standby.store.state.handed_back is None and not yes:
            typer.confirm("Shall the standby sign nothing more by this kit?", abort=True)
        data = standby.hand_back()
        length = standby.store.journal.length
    write_file(out, data)
    show_pairs([("journal", f"{length} lines"), ("fingerprint", fingerprint(data))])


def import_command(
    file: Annotated[Path, typer.Argument(help="The bundle that `chancery offline hand-back` wrote.")],
    *,
    config: Worker,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this it is tried, and undone.")] = False,
) -> None:
    """
    Take back at the primary what the standby did: verified as a whole, one transaction, once.

    Restore the database first, from a back-up that is not older than the kit.
    """
    settings = load_checked(config, WorkerConfig)
    data, now = read_file(file, MAX_KIT), SystemClock().now()
    with _store(settings) as store:
        record = store.kit(epoch := peek_epoch(data))
        if record is None:
            raise OperatorError(
                f"the kit of epoch {epoch} is not known here",
                "restore a back-up that was taken after `chancery offline prepare`",
            )
        kit = decode_kit(record.kit)
        taken = verify_hand_back(data, kit, now)
        detail: EventDetail = {
            "epoch": taken.epoch,
            "bundle": taken.sha256.hex(),
            "journal_head": taken.head.hex(),
            "certificates": len(taken.certificates),
            "revocations": len(taken.revocations),
        }
        about = f"issuer:{kit.kit.issuer}"
        event = Event(EventKind.STANDBY_TAKEN_BACK, now, f"uid:{os.geteuid()}", about, detail)
        new = store.take_back(taken, now, [event], dry_run=not yes)
    _show_taken(taken, data)
    what = "taken back" if new and yes else "verified, nothing changed: give --yes" if new else "taken back before"
    show_pairs([("result", what)])


@contextlib.contextmanager
def opened(config: Path, kit_file: Path, *, yes: bool) -> Iterator[Standby]:
    """Open the standby of a kit; a kit that comes for the first time is shown, and its fingerprint asked about."""
    settings = load_checked(config, OfflineConfig)
    kit = decode_kit(read_file(kit_file, MAX_KIT))
    if settings.name != kit.kit.issuer:
        raise OperatorError(
            f"the kit is for {kit.kit.issuer}, and {config} is of {settings.name}",
            "give the kit and the configuration that belong together",
        )
    if not adopted(settings.directory, kit):
        _show_kit(kit)
        if not yes:
            typer.confirm("Is this the fingerprint that the primary showed?", abort=True)
    token = build.token(settings.token)
    machine = Machine(token, SystemClock(), SystemEntropy(), settings.signature)
    try:
        with Standby.open(settings.directory, machine, kit) as standby:
            yield standby
    finally:
        token.close()


@contextlib.contextmanager
def _store(settings: WorkerConfig) -> Iterator[PgContinuityStore]:
    session = Session(build.connection(settings.database, "continuity"))
    try:
        yield PgContinuityStore(session)
    finally:
        session.close()


def _show_kit(kit: SignedKit) -> None:
    said = kit.kit
    show_pairs(
        [
            ("kit", f"epoch {said.epoch} of {said.issuer}"),
            ("from", said.not_before),
            ("until", said.not_after),
            ("serials", f"with the octet {said.instance}"),
            ("CRL numbers", f"above {said.crl_number}"),
            ("profiles", ", ".join(one.name for one in said.profiles)),
            ("operators", _some([one.name for one in said.operators])),
            ("statuses", len(said.statuses)),
            ("fingerprint", fingerprint(kit.data)),
        ]
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _show_taken(taken: TakenBack, data: bytes) -> None:
    show_pairs(
        [
            ("hand-back", f"epoch {taken.epoch}"),
            ("certificates", len(taken.certificates)),
            ("refused", len(taken.refusals)),
            ("unconfirmed", len(taken.unconfirmed)),
            ("revocations", len(taken.revocations)),
            ("CRLs", ", ".join(str(one.number) for one in taken.crls) or None),
            ("journal", f"{taken.length} lines, head {taken.head.hex()}"),
            ("fingerprint", fingerprint(data)),
        ]
    )
