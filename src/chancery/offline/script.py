"""
Ceremony scripts: one strict TOML file that says what will be signed, by whose consent, and when.

What a script does not say is not signed. Everything that could be swapped on the way is named by what it is: a
request bundle by its fingerprint, a key by the SHA-256 of its SubjectPublicKeyInfo, a profile by its name.
"""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from chancery.errors import OperatorError
from chancery.offline.bundle import MAX_ENTRIES, ProfileName, SHA256Hex, sha256, spki
from chancery.offline.media import read_file
from chancery.offline.words import same_fingerprint, words

FORMAT: Final = "chancery-ceremony/1"
MAX_SCRIPT = 256 * 1024
MAX_PEOPLE = 20

PersonName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}\Z")]
Words = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Subject = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
FileName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")]
"""Beside the script: no path, so that a script reaches nothing else."""


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of a script."""


class Person(_Table, frozen=True, kw_only=True):
    """An operator to be enrolled: a name, and an Ed25519 public key (PEM)."""

    name: PersonName
    key: Annotated[str, msgspec.Meta(max_length=1000)]


class _Act(_Table, frozen=True, kw_only=True, tag_field="kind"):
    """One step of a ceremony."""


class OperatorsAct(_Act, frozen=True, kw_only=True, tag="operators"):
    """From here on `required` of these people confirm each ceremony, and nothing is signed without one."""

    required: Annotated[int, msgspec.Meta(ge=2, le=MAX_PEOPLE)]
    people: Annotated[tuple[Person, ...], msgspec.Meta(min_length=2, max_length=MAX_PEOPLE)]


class RootAct(_Act, frozen=True, kw_only=True, tag="root"):
    """The root is made: its keys, its certificate, its first CRL. The same as the configuration says."""

    subject: Subject
    key_kind: str
    instance: int


class CertificateWish(_Table, frozen=True, kw_only=True):
    """One certificate that a request bundle asks for, as the script expects it."""

    subject: Subject
    spki_sha256: SHA256Hex
    profile: ProfileName


class RequestAct(_Act, frozen=True, kw_only=True, tag="request"):
    """
    A request bundle (a file beside the script) is answered: CAs, cross-certificates or delegates.

    `certificates` are exactly those that it asks for, in its order; `crl` tells whether it asks for a CRL.
    `requester` accepts the key of a further installation.
    """

    bundle: FileName
    fingerprint: Words
    certificates: Annotated[tuple[CertificateWish, ...], msgspec.Meta(max_length=MAX_ENTRIES)] = ()
    crl: bool = False
    requester: SHA256Hex | None = None


class CRLAct(_Act, frozen=True, kw_only=True, tag="crl"):
    """A fresh CRL of the root."""


class RevocationAct(_Act, frozen=True, kw_only=True, tag="revocation"):
    """A certificate of the root is revoked, and a CRL made that lists it."""

    serial: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{2}){1,20}\Z")]
    subject: Subject
    reason: Literal[
        "unspecified",
        "key-compromise",
        "ca-compromise",
        "affiliation-changed",
        "superseded",
        "cessation-of-operation",
        "privilege-withdrawn",
        "aa-compromise",
    ]


class RenewalAct(_Act, frozen=True, kw_only=True, tag="renewal"):
    """A new certificate of the root under the same name and key: what it signed stays good."""

    subject: Subject


Act = OperatorsAct | RootAct | RequestAct | CRLAct | RevocationAct | RenewalAct


class Script(_Table, frozen=True, kw_only=True):
    """
    A whole ceremony. `name` is used once; `ca` is the offline CA's name.

    It runs from `not_before` to `not_after`, confirmed by at least `required` operators (never fewer than the CA
    asks for), those in `operators` among them.
    """

    ceremony: Literal["chancery-ceremony/1"]
    name: PersonName
    ca: PersonName
    not_before: datetime.datetime
    not_after: datetime.datetime
    required: Annotated[int, msgspec.Meta(ge=2, le=MAX_PEOPLE)] = 2
    operators: Annotated[tuple[PersonName, ...], msgspec.Meta(max_length=MAX_PEOPLE)] = ()
    acts: Annotated[tuple[Act, ...], msgspec.Meta(min_length=1, max_length=64)]


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """A script as it was read (`data`), its SHA-256, and the bundles that it names, by file name."""

    script: Script
    data: bytes
    sha256: str
    bundles: dict[str, bytes]

    @property
    def words(self) -> str:
        """The fingerprint that the operators confirm, to be read aloud."""
        return words(self.data)


def parse_script(data: bytes) -> Script:
    """Decode a script strictly. OperatorError names the key and what was expected of it."""
    try:
        script = msgspec.toml.decode(data, type=Script)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _wrong(str(error)) from None
    if script.not_before.tzinfo is None or script.not_after.tzinfo is None:
        raise _wrong("`not_before` and `not_after` need a time zone: end them in Z")
    if script.not_after <= script.not_before:
        raise _wrong("it ends before it begins")
    texts = [value for act in script.acts for value in _texts(act)]
    if not all(text.isprintable() for text in texts):
        raise _wrong("text with characters that cannot be printed")
    enrolments = [act for act in script.acts if isinstance(act, OperatorsAct)]
    if len(enrolments) > 1:
        raise _wrong("operators are enrolled twice")
    for act in enrolments:
        people_keys(act)
    return script


def load_script(path: Path) -> Plan:
    """Read a script and the bundles beside it. OperatorError for what cannot be read or is no script."""
    data = read_file(path, MAX_SCRIPT)
    script = parse_script(data)
    names = {act.bundle for act in script.acts if isinstance(act, RequestAct)}
    return Plan(script, data, sha256(data), {name: read_file(path.with_name(name)) for name in sorted(names)})


def people_keys(act: OperatorsAct) -> dict[str, bytes]:
    """
    Return the SubjectPublicKeyInfo (DER) of each person by name.

    OperatorError for a key that is not Ed25519, a name or key that is there twice, or too many required.
    """
    found: dict[str, bytes] = {}
    for person in act.people:
        try:
            key = load_pem_public_key(person.key.encode())
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, ed25519.Ed25519PublicKey):
            raise _wrong(f"the key of {person.name} is not an Ed25519 public key (PEM)")
        if person.name in found or spki(key) in found.values():
            raise _wrong(f"{person.name} is there twice, or has the key of another person")
        found[person.name] = spki(key)
    if act.required > len(found):
        raise _wrong(f"{act.required} operators are required, and {len(found)} enrolled")
    return found


def names_bundle(act: Act, data: bytes) -> bool:
    """Tell whether an act has this request bundle answered."""
    try:
        return isinstance(act, RequestAct) and same_fingerprint(act.fingerprint, data)
    except ValueError:
        return False


def title(act: Act) -> str:
    """Say in one line what an act does."""
    if isinstance(act, OperatorsAct):
        return f"enrol operators, {act.required} of {', '.join(person.name for person in act.people)}"
    if isinstance(act, RootAct):
        return f"make the root {act.subject} ({act.key_kind})"
    if isinstance(act, RequestAct):
        wanted = [f"{one.subject} ({one.profile})" for one in act.certificates] + ["a CRL"] * act.crl
        return f"answer {act.bundle}: {'; '.join(wanted) or 'nothing'}"
    if isinstance(act, RevocationAct):
        return f"revoke {act.serial.upper()} {act.subject} ({act.reason})"
    if isinstance(act, RenewalAct):
        return f"renew the certificate of the root {act.subject}"
    return "make a CRL"


def _texts(act: Act) -> list[str]:
    wishes = act.certificates if isinstance(act, RequestAct) else ()
    subject = getattr(act, "subject", "")
    return [subject, getattr(act, "fingerprint", ""), *(one.subject for one in wishes)]


def _wrong(what: str) -> OperatorError:
    return OperatorError(
        f"the ceremony script is not right: {what}", "correct it, and compare its fingerprint again"
    )
