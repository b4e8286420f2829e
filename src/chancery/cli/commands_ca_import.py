"""`chancery ca import` and `import-pkcs12`: a CA that issued elsewhere until now goes on here."""

from __future__ import annotations

import dataclasses
import getpass
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs12

from chancery.asn1.signature import PrivateKey
from chancery.ca.installing import Held, install, judge, refuse_findings, take_over
from chancery.cli import build
from chancery.cli.commands_ca import (
    Accept,
    Chain,
    Label,
    Machine,
    Name,
    Reason,
    TokenLabel,
    Worker,
    Yes,
    certificates,
    chained,
    confirm,
    machine,
    tell,
)
from chancery.cli.show import show_pairs
from chancery.config import WorkerConfig
from chancery.errors import OperatorError
from chancery.offline.media import read_file
from chancery.pkix.key import spki_der
from chancery.ports import Event, EventDetail, EventKind

MAX_CRL = 64 * 1024 * 1024
MAX_PKCS12 = 1024 * 1024
CRLs = Annotated[
    list[Path] | None,
    typer.Option("--crl", help="Its last CRL (DER or PEM); all of them, if it has partitions."),
]
NoCRL = Annotated[bool, typer.Option("--without-crl", help="It never revoked anything and never published a CRL.")]


def register(ca: typer.Typer) -> None:
    """Add the commands to the group `chancery ca`."""
    ca.command("import")(import_command)
    ca.command("import-pkcs12")(import_pkcs12)


def import_command(
    name: Name,
    certificate: Annotated[Path, typer.Argument(help="The CA's certificate (PEM or DER).")],
    *,
    config: Worker,
    chain: Chain = None,
    key_label: Label = None,
    token: TokenLabel = None,
    crl: CRLs = None,
    without_crl: NoCRL = False,
    reason: Reason = "",
    accept_findings: Accept = False,
    yes: Yes = False,
) -> None:
    """
    Take over an existing CA whose key is in the token already.

    Its CRL numbers go on after its last CRL, and whatever that lists stays revoked, here and in OCSP.
    """
    with machine(config) as here:
        [der] = certificates(certificate, one=True)
        taken = Taken(name, der, chained(chain), _read_crls(crl, without_crl=without_crl), reason)
        held = here.held(token, key_label or name)
        _take(here, taken, lambda: held, accept=accept_findings, yes=yes)


def import_pkcs12(
    name: Name,
    file: Annotated[Path, typer.Argument(help="The PKCS#12 file: key, certificate, perhaps those above.")],
    *,
    config: Worker,
    password_file: Annotated[
        Path | None, typer.Option(help="A file with its password on one line. Default: asked for.")
    ] = None,
    chain: Chain = None,
    key_label: Label = None,
    token: TokenLabel = None,
    crl: CRLs = None,
    without_crl: NoCRL = False,
    reason: Reason = "",
    accept_findings: Accept = False,
    yes: Yes = False,
) -> None:
    """
    Take over an existing CA from a PKCS#12 file: its key is written into the token, if the token takes keys.

    Nobody can prove that no copy of such a key is left elsewhere: with `deployment = "production"` it is refused
    unless the worker's configuration has `allow_imported_keys = true` (R7).
    """
    with machine(config) as here:
        check_allowed(here.config)
        key, own, others = _open(file, _password(password_file))
        crls = _read_crls(crl, without_crl=without_crl)
        taken = Taken(name, own, [*others, *chained(chain)], crls, reason)
        _take(
            here, taken, lambda: _import_key(here, token, key_label or name, key), accept=accept_findings, yes=yes
        )


def check_allowed(config: WorkerConfig) -> None:
    """R7: OperatorError where production does not allow keys that were outside a token."""
    if config.deployment == "production" and not config.allow_imported_keys:
        raise OperatorError(
            "production takes no CA key that was outside a token (R7)",
            "make a new key with `chancery ca request`, or set `allow_imported_keys = true` if that is meant",
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Taken:
    """What is taken over: the issuer's name, certificate, those above it, CRLs (DER), and why."""

    name: str
    certificate: bytes
    chain: list[bytes]
    crls: list[bytes]
    reason: str


def _take(here: Machine, taken: Taken, hold: Callable[[], Held], *, accept: bool, yes: bool) -> None:
    """Judge everything, ask, then touch token (`hold`) and database."""
    now = here.clock.now()
    judged = judge(taken.certificate, taken.chain, here.store.issuers(), now)
    takeover, found = take_over(taken.crls, judged.certificate, now)
    judged = dataclasses.replace(judged, findings=(*judged.findings, *found))
    refuse_findings(judged.findings, accept=accept)
    if here.find(taken.name) is not None:
        raise OperatorError(f"there is an issuer {taken.name} already", "choose another name")
    show_pairs([("last CRL", takeover.crl_number or "none"), ("revoked", len(takeover.revoked))])
    confirm(judged, taken.name, None, yes=yes)
    done = install(taken.name, judged, hold(), here.store, here.who(taken.reason), takeover=takeover)
    tell(taken.name, done, external=False)


def _read_crls(files: Sequence[Path] | None, *, without_crl: bool) -> list[bytes]:
    """Return the CRLs (DER); OperatorError when it was not said that there is none."""
    if bool(files) == without_crl:
        raise OperatorError(
            "what the CA has revoked must not be forgotten",
            "give its last CRL with --crl, or say --without-crl if it never made one",
        )
    found = []
    for file in files or ():
        data = read_file(file, MAX_CRL)
        try:
            if b"-----BEGIN" in data:
                data = x509.load_pem_x509_crl(data).public_bytes(Encoding.DER)
        except ValueError:
            raise OperatorError(f"{file} is no CRL", "give the CA's last CRL, in DER or PEM") from None
        found.append(data)
    return found


def _password(file: Path | None) -> bytes:
    if file is not None:
        return build.read_secret(file, "password", "check --password-file")
    return getpass.getpass("Password of the PKCS#12 file: ").encode()


def _open(file: Path, password: bytes) -> tuple[PrivateKey, bytes, list[bytes]]:
    """Return key, certificate and further certificates (DER) of a PKCS#12 file."""
    try:
        found = pkcs12.load_pkcs12(read_file(file, MAX_PKCS12), password)
    except ValueError:
        raise OperatorError(
            f"{file} cannot be opened", "give a PKCS#12 file and its password; is the password right?"
        ) from None
    if found.key is None or found.cert is None or not isinstance(found.key, PrivateKey):
        raise OperatorError(f"{file} does not hold a CA's key and certificate", "export both into one file")
    der = found.cert.certificate.public_bytes(Encoding.DER)
    return found.key, der, [one.certificate.public_bytes(Encoding.DER) for one in found.additional_certs]


def _import_key(here: Machine, token: str | None, label: str, key: PrivateKey) -> Held:
    """Write the key into the token, its event first; a key that an earlier run wrote is taken as it is."""
    opened = here.token(token)
    if label in {info.label for info in opened.keys()}:  # noqa: SIM118 - a token is no mapping
        held = here.held(token, label, imported=True)
        if held.spki != spki_der(key.public_key()):
            raise OperatorError(f"the token has another key labelled `{label}`", "choose another --key-label")
        return held
    production = here.config.deployment == "production"
    detail: EventDetail = {
        "token": opened.label,
        "spki_sha256": hashlib.sha256(spki_der(key.public_key())).hexdigest(),
        "override": production and here.config.allow_imported_keys,
    }
    here.store.act([], [Event(EventKind.KEY_IMPORTED, here.clock.now(), here.actor, f"key:{label}", detail)])
    opened.import_key(label, key)
    return here.held(token, label, imported=True)
