"""
`chancery ca request`, `install`, `deactivate`, `activate`, `default`: the life of issuers, by who has their token.

They run with the worker's configuration on the machine that has the token, never through the web process; a
running worker and a running OCSP server notice what they did within a second or two.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from chancery.asn1.signature import PrivateKey
from chancery.ca.foreign import foreign
from chancery.ca.installing import Held, Judged, Who, act_event, describe, install, judge, refuse_findings
from chancery.cli import build
from chancery.cli.clock import SystemClock
from chancery.cli.commands_key import request as certification_request
from chancery.cli.issuers import key_place
from chancery.cli.show import show_pairs, write
from chancery.config import WorkerConfig, load_checked, token_labelled
from chancery.errors import OperatorError
from chancery.offline.media import read_file
from chancery.pkcs11 import Token
from chancery.pkcs11.softtoken import SoftToken
from chancery.pkix.key import spki_der
from chancery.pkix.name import name_text, parse_name
from chancery.ports import Act, Event, EventDetail, EventKind, IssuerAct, IssuerRecord, RevocationReason
from chancery.postgres.issuers import PgIssuerStore
from chancery.postgres.session import Session

MAX_FILE = 1024 * 1024
Worker = Annotated[Path, typer.Option(help="The issuing worker's configuration.")]
Name = Annotated[str, typer.Argument(help="The issuer's name here.")]
Chain = Annotated[
    list[Path] | None,
    typer.Option(help="CA certificates above it (PEM, DER), up to the trust anchor; may be given again."),
]
Label = Annotated[str | None, typer.Option(help="The key's label in the token. Default: the issuer's name.")]
TokenLabel = Annotated[str | None, typer.Option("--token", help="The token's label, where there are several.")]
Reason = Annotated[str, typer.Option(help="Why, in words for the journal.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Accept = Annotated[
    bool, typer.Option("--accept-findings", help="Take it in although lints forbid it (journalled).")
]


def register(ca: typer.Typer) -> None:
    """Add the commands to the group `chancery ca`."""
    ca.command("request")(request)
    ca.command("install")(install_command)
    ca.command("deactivate")(deactivate)
    ca.command("activate")(activate)
    ca.command("default")(default)
    ca.command("revoke-foreign")(revoke_foreign)


@dataclasses.dataclass(frozen=True, slots=True)
class Machine:
    """The worker's configuration and tokens, and the store of issuers, open."""

    config: WorkerConfig
    store: PgIssuerStore
    clock: SystemClock
    _tokens: dict[str, Token | SoftToken]

    def token(self, label: str | None) -> Token | SoftToken:
        """Return the token of this label (None: the usual one), opened when it is first needed."""
        section = token_labelled(self.config, label)
        if section.label not in self._tokens:
            self._tokens[section.label] = build.token(section)
        return self._tokens[section.label]

    @property
    def actor(self) -> str:
        """Who the journal says it was: an account of this machine."""
        return f"uid:{os.geteuid()}"

    def who(self, reason: str = "") -> Who:
        return Who(self.actor, self.clock.now(), reason)

    def find(self, name: str) -> IssuerRecord | None:
        return next((one for one in self.store.issuers() if one.name == name), None)

    def held(self, token: str | None, label: str, *, imported: bool = False) -> Held:
        """Return a token's key with this label; OperatorError when there is none."""
        opened = self.token(token)
        key = opened.find_key(label)
        return Held(spki_der(key.public_key()), opened.label, label, key_place(opened, imported=imported))


@contextlib.contextmanager
def machine(config: Path) -> Iterator[Machine]:
    """Open what the worker's configuration names; close it again."""
    settings = load_checked(config, WorkerConfig)
    session = Session(build.connection(settings.database, "ca"))
    opened: dict[str, Token | SoftToken] = {}
    try:
        yield Machine(settings, PgIssuerStore(session), SystemClock(), opened)
    finally:
        session.close()
        for token in opened.values():
            token.close()


def request(
    name: Name,
    *,
    config: Worker,
    out: Annotated[Path | None, typer.Option(help="The file to write (PEM). Default: standard output.")] = None,
    subject: Annotated[str | None, typer.Option(help="Subject of a new issuer (RFC 4514).")] = None,
    like: Annotated[str | None, typer.Option(help="Or that of this issuer, which gets a new key so.")] = None,
    key_label: Label = None,
    token: TokenLabel = None,
    kind: Annotated[str, typer.Option(help="What key to make if there is none: ec-p256, rsa-3072 …")] = "ec-p256",
) -> None:
    """
    Print a PKCS#10 request for a CA certificate, signed in the token.

    For an issuer that is here it is for the key and the name it has: to renew its certificate, or to have it
    cross-certified. For a new one the key is made if there is none; `--like OLD` re-keys the issuer OLD, under
    another name here. What the other CA answers goes in with `chancery ca install`.
    """
    with machine(config) as here:
        records = {one.name: one for one in here.store.issuers()}
        text = _subject(name, records.get(name), subject, like, records.get(like or ""))
        known = records.get(name)
        label = (known.key_label if known else None) or key_label or name
        opened = here.token(known.token_label if known else token)
        key = _key(here, opened, label, None if known else kind)
        csr = certification_request(key, text, [], None if known is None else known.certificate)
        detail: EventDetail = {
            "subject": text,
            "token": opened.label,
            "key_label": label,
            "spki_sha256": hashlib.sha256(spki_der(key.public_key())).hexdigest(),
            "csr_sha256": hashlib.sha256(csr.public_bytes(Encoding.DER)).hexdigest(),
        }
        here.store.act([], [Event(EventKind.CA_REQUESTED, here.clock.now(), here.actor, f"issuer:{name}", detail)])
    write(out, csr.public_bytes(Encoding.PEM))


def _subject(
    name: str, known: IssuerRecord | None, subject: str | None, like: str | None, old: IssuerRecord | None
) -> str:
    if known is not None:
        if subject is not None or like is not None:
            raise OperatorError(f"the issuer {name} has a name already", "leave --subject and --like out")
        if known.key_label is None:
            raise OperatorError(f"the key of {name} is elsewhere", "make the request where its key is")
        return name_text(x509.load_der_x509_certificate(known.certificate).subject)
    if like is not None:
        if old is None:
            raise OperatorError(f"there is no issuer {like}", "see `chancery ca list`")
        return name_text(x509.load_der_x509_certificate(old.certificate).subject)
    if subject is None:
        raise OperatorError(f"{name} is no issuer here yet", "give its --subject, or --like an issuer that is")
    return name_text(parse_name(subject))


def _key(here: Machine, token: Token | SoftToken, label: str, kind: str | None) -> PrivateKey:
    """Find a key, or make one (`kind`), which is journalled."""
    if kind is None or label in {info.label for info in token.keys()}:  # noqa: SIM118 - a token is no mapping
        return token.find_key(label)
    made = token.generate_key(label, kind)
    detail: EventDetail = {"kind": kind, "token": token.label}
    here.store.act([], [Event(EventKind.KEY_GENERATED, here.clock.now(), here.actor, f"key:{label}", detail)])
    return made


def install_command(
    name: Name,
    file: Annotated[Path, typer.Argument(help="Its certificate (PEM or DER), as the other CA made it.")],
    *,
    config: Worker,
    chain: Chain = None,
    key_label: Label = None,
    token: TokenLabel = None,
    replaces: Annotated[
        str | None, typer.Option(help="The issuer of the same name and another key whose place it takes.")
    ] = None,
    external: Annotated[
        bool, typer.Option("--external", help="Its key is elsewhere: keep the certificate for chains.")
    ] = False,
    reason: Reason = "",
    accept_findings: Accept = False,
    yes: Yes = False,
) -> None:
    """
    Verify a CA certificate that another CA signed, and take it in.

    For a name that is not here yet: a new issuer. For one that is: its renewed certificate when the same CA issued
    it, else a cross-certificate; name and key are the same then. With `--replaces OLD` the new issuer takes the
    place of OLD in one moment: OLD issues no more, and goes on answering for its certificates (CRL, OCSP).
    """
    with machine(config) as here:
        [der] = certificates(file, one=True)
        judged = judge(der, chained(chain), here.store.issuers(), here.clock.now())
        refuse_findings(judged.findings, accept=accept_findings)
        known = here.find(name)
        label = (known.key_label if known else None) or key_label or name
        held = None if external else here.held(known.token_label if known else token, label)
        confirm(judged, name, replaces, yes=yes)
        done = install(
            name,
            judged,
            held,
            here.store,
            here.who(reason),
            replaces=replaces,
            default=here.config.default_issuer,
        )
    tell(name, done, external=external)


def tell(name: str, done: str, *, external: bool) -> None:
    """Say what an installed certificate became, and what to do next."""
    what = {
        "issuer": "a CA elsewhere" if external else "a new issuer",
        "renewal": "its certificate from now on; the one of before stays valid",
        "cross": "a cross-certificate, in the repository beside its own",
        "known": "nothing new: it was there already",
    }
    show_pairs([(name, what[done])])
    if done == "issuer" and not external:
        show_pairs([("next", f"have {name} make an OCSP delegate (`chancery renew` on one machine)")])


def confirm(judged: Judged, name: str, replaces: str | None, *, yes: bool) -> None:
    """Show what is about to be taken in, and ask; ends the program at a no."""
    pairs = [("issuer", name), *describe(judged)]
    show_pairs([*pairs, ("takes the place of", replaces)])
    if not yes:
        typer.confirm("Are these the fingerprints that the other side shows?", abort=True)


def chained(files: Sequence[Path] | None) -> list[bytes]:
    """Return the certificates (DER) of these files."""
    return [der for file in files or () for der in certificates(file)]


def certificates(file: Path, *, one: bool = False) -> list[bytes]:
    """Return the certificates (DER) of a PEM or DER file; OperatorError for another file."""
    data = read_file(file, MAX_FILE)
    pem = b"-----BEGIN" in data
    try:
        found = x509.load_pem_x509_certificates(data) if pem else [x509.load_der_x509_certificate(data)]
    except ValueError:
        raise OperatorError(f"{file} is no certificate (PEM or DER)", "give the file that the CA sent") from None
    if one and len(found) > 1:
        raise OperatorError(f"{file} holds {len(found)} certificates", "give the others with --chain")
    return [certificate.public_bytes(Encoding.DER) for certificate in found]


def deactivate(name: Name, *, config: Worker, reason: Reason = "", yes: Yes = False) -> None:
    """Stop an issuer: it refuses every request from now on; its CRLs, OCSP and OCSP delegates go on."""
    _act(config, name, Act.DEACTIVATE, reason, f"Shall {name} issue no more certificates?", yes=yes)


def activate(name: Name, *, config: Worker, reason: Reason = "", yes: Yes = False) -> None:
    """Let an issuer that was deactivated issue again."""
    _act(config, name, Act.ACTIVATE, reason, f"Shall {name} issue certificates again?", yes=yes)


def default(name: Name, *, config: Worker, reason: Reason = "", yes: Yes = False) -> None:
    """Make an issuer the default: what names no issuer is issued by it from now on."""
    _act(config, name, Act.DEFAULT, reason, f"Shall {name} issue what names no issuer?", yes=yes)


def revoke_foreign(
    name: Name,
    file: Annotated[Path, typer.Argument(help="The certificate that it signed before (PEM or DER).")],
    *,
    config: Worker,
    crl_reason: Annotated[str, typer.Option(help="CRLReason, as `chancery revoke --reason`.")] = "unspecified",
    reason: Reason = "",
    yes: Yes = False,
) -> None:
    """Revoke a certificate that this issuer signed elsewhere before it was taken over: on CRLs and in OCSP."""
    try:
        code = RevocationReason[crl_reason.replace("-", "_").upper()]
    except KeyError:
        raise OperatorError(f"there is no CRLReason {crl_reason}", "see `chancery revoke --help`") from None
    with machine(config) as here:
        if (record := here.find(name)) is None:
            raise OperatorError(f"there is no issuer {name}", "see `chancery ca list`")
        [der] = certificates(file, one=True)
        who = here.who(reason)
        one, events = foreign(record, der, code, who)
        serial = one.entry.serial.hex().upper()
        if not yes:
            typer.confirm(f"Shall {serial} of {name} be revoked for good ({code.name.lower()})?", abort=True)
        here.store.revoke_foreign(one, who.at, events)
    show_pairs([(name, f"revoked {serial}")])


def _act(config: Path, name: str, act: Act, reason: str, question: str, *, yes: bool) -> None:
    with machine(config) as here:
        if here.find(name) is None:
            raise OperatorError(f"there is no issuer {name}", "see `chancery ca list`")
        if not yes:
            typer.confirm(question, abort=True)
        done = IssuerAct(name, act, here.clock.now(), here.actor, reason)
        here.store.act([done], [act_event(done)])
    show_pairs([(name, {"default": "is the default"}.get(act.value, f"{act.value}d"))])
