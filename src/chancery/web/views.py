"""The JSON of the REST interface: what comes in and what goes out, as strict structures."""

from __future__ import annotations

import base64
import datetime
import enum
from collections.abc import Mapping, Sequence
from typing import Annotated

from msgspec import Meta, Struct, structs

from chancery.pkix.profile import Profile
from chancery.ports import (
    COUNTED,
    BlockedKey,
    CRLRecord,
    Operator,
    ProfileRecord,
    ProfileSwitch,
    RequestState,
    RevocationReason,
    Role,
    StatusState,
    StoredCertificate,
)
from chancery.ra.enrolment import serial_text
from chancery.ra.keys import KeyAccount

MAX_WAIT_SECONDS = 60.0
ShortName = Annotated[str, Meta(min_length=1, max_length=64)]
LongName = Annotated[str, Meta(min_length=1, max_length=1000)]
KeyText = Annotated[
    str, Meta(pattern="^[0-9A-Fa-f]{64}$", description="SHA-256 of the public key (SPKI), in hexadecimal.")
]
SerialText = Annotated[str, Meta(pattern="^[0-9A-Fa-f]{1,42}$", description="Serial number in hexadecimal.")]
TransactionID = Annotated[
    str,
    Meta(min_length=1, max_length=200, description="Asked again with the same one, is answered the same."),
]
Moment = Annotated[datetime.datetime, Meta(tz=True)]
Duration = Annotated[
    str,
    Meta(
        min_length=2, max_length=24, description="How long it is to be valid, such as 12h; not beside not_after."
    ),
]
Wait = Annotated[
    float,
    Meta(ge=0, le=MAX_WAIT_SECONDS, description="How long to wait for the end before answering 202, in seconds."),
]


class Reason(enum.Enum):
    """CRLReason (RFC 5280 5.3.1): certificateHold suspends: it can be taken back."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "keyCompromise"
    CA_COMPROMISE = "cACompromise"
    AFFILIATION_CHANGED = "affiliationChanged"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessationOfOperation"
    CERTIFICATE_HOLD = "certificateHold"
    PRIVILEGE_WITHDRAWN = "privilegeWithdrawn"
    AA_COMPROMISE = "aACompromise"

    def code(self) -> RevocationReason:
        return RevocationReason[self.name]


class Form(enum.Enum):
    """How a certificate is given: JSON, PEM, PEM with the CAs above it, DER, or PKCS#7 with those CAs."""

    JSON = "json"
    PEM = "pem"
    CHAIN = "chain"
    DER = "der"
    PKCS7 = "p7b"


class Asked(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that came in: an unknown field is refused."""


class View(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that goes out: what is unknown is left out."""


class CertificateRequest(Asked, frozen=True, kw_only=True):
    """`csr`: PKCS#10 in PEM. `names`: subjectAltNames beside the CSR's own, as dns:…, ip:…, email:… or uri:…."""

    profile: ShortName
    csr: Annotated[str, Meta(max_length=131072)]
    names: Annotated[list[LongName], Meta(max_length=100)] = []
    issuer: ShortName | None = None
    transaction_id: TransactionID | None = None
    not_before: Moment | None = None
    not_after: Moment | None = None
    duration: Duration | None = None


class BulkLine(CertificateRequest, frozen=True, kw_only=True):
    """One request of many, a line of its own; `csr` is PKCS#10 in PEM, or its DER in base64."""

    transaction_id: TransactionID


class BulkChoice(Asked, frozen=True, kw_only=True):
    """How long to wait for each certificate before its line is answered `waiting`."""

    wait: Wait = 30.0


class AnswerChoice(Asked, frozen=True, kw_only=True):
    """How long to wait for the certificate, and its form; without `format` the Accept header decides."""

    wait: Wait = 10.0
    format: Form | None = None


class RawRequest(AnswerChoice, frozen=True, kw_only=True):
    """What stands beside a body of application/pkcs10; in a JSON body these are fields."""

    profile: ShortName | None = None
    name: Annotated[list[LongName], Meta(max_length=100)] = []
    issuer: ShortName | None = None
    transaction_id: TransactionID | None = None
    not_before: Moment | None = None
    not_after: Moment | None = None
    duration: Duration | None = None


class RevocationAsked(Asked, frozen=True, kw_only=True):
    """Why a certificate is to be revoked, and since when its key is not to be trusted."""

    reason: Reason
    invalidity_date: Moment | None = None


class KeyAsked(Asked, frozen=True, kw_only=True):
    """
    A key to block: one of `spki_sha256`, or the key of a `certificate`, a `csr` or a `public_key` (PEM).

    `revoke`: have every good certificate with it revoked as keyCompromise. `dry_run`: only say what there is.
    """

    spki_sha256: KeyText | None = None
    certificate: Annotated[str, Meta(max_length=131072)] | None = None
    csr: Annotated[str, Meta(max_length=131072)] | None = None
    public_key: Annotated[str, Meta(max_length=131072)] | None = None
    reason: LongName
    revoke: bool = False
    dry_run: bool = False


class BlockedKeySearch(Asked, frozen=True, kw_only=True):
    """`key`: whether this one is blocked. Otherwise a page of all, above the hash `after`."""

    key: KeyText | None = None
    after: KeyText | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 50


class OperatorAsked(Asked, frozen=True, kw_only=True):
    """An operator to enrol: by its `certificate` (PEM), or by `serial` (and `issuer` where that is ambiguous)."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    roles: Annotated[list[Role], Meta(min_length=1, max_length=4)]
    profiles: Annotated[list[ShortName], Meta(max_length=100)] | None = None
    certificate: Annotated[str, Meta(max_length=131072)] | None = None
    serial: SerialText | None = None
    issuer: ShortName | None = None


class CertificateSearch(Asked, frozen=True, kw_only=True):
    """
    `subject` matches a prefix, `name` one whole subjectAltName, `key` the SHA-256 of its public key (SPKI, hex).

    Newest first, below certificate_id `before`.
    """

    subject: Annotated[str, Meta(max_length=1000)] | None = None
    name: Annotated[str, Meta(max_length=1000)] | None = None
    serial: SerialText | None = None
    state: StatusState | None = None
    profile: ShortName | None = None
    issuer: ShortName | None = None
    requestor: Annotated[str, Meta(max_length=200)] | None = None
    key: Annotated[str, Meta(pattern="^[0-9A-Fa-f]{64}$")] | None = None
    before: Annotated[int, Meta(ge=1, le=2**63 - 1)] | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 50


class IssuerChoice(Asked, frozen=True, kw_only=True):
    """Which issuer's serial is meant, where several used it."""

    issuer: ShortName | None = None


class CertificateChoice(IssuerChoice, frozen=True, kw_only=True):
    """Which issuer's serial is meant, and how the certificate is to be given."""

    format: Form | None = None


class IssuerFormat(Asked, frozen=True, kw_only=True):
    """How the issuer's certificate is to be given: pem (the default), der or p7b."""

    format: Form | None = None


class RevocationChoice(IssuerChoice, frozen=True, kw_only=True):
    """Which issuer's serial is meant, and how long to wait until the revocation is settled."""

    wait: Wait = 10.0


class ProfileChoice(Asked, frozen=True, kw_only=True):
    """Which version is meant; without it the one in use."""

    version: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None


class SwitchAsked(Asked, frozen=True, kw_only=True):
    """Why a profile is to be deactivated, or activated again; kept in the journal."""

    reason: LongName


class NoQuery(Asked, frozen=True, kw_only=True):
    """No parameters."""


class RequestView(View, frozen=True, kw_only=True):
    """
    A request: with its certificate and chain (PEM) when done, with its error when refused.

    `detail` of one that is done says what was asked for and not granted.
    """

    request_id: int
    transaction_id: str
    state: RequestState
    issuer: str | None = None
    serial: str | None = None
    certificate: str | None = None
    chain: list[str] = []
    error: str | None = None
    detail: str | None = None


class BulkAnswer(View, frozen=True, kw_only=True, tag_field="kind", tag="answer"):
    """
    The answer to line `line` (from 1): `done` with the certificate (PEM), `refused`, or `waiting`: ask again.

    `transaction_id` is missing where the line could not be read.
    """

    line: int
    state: RequestState
    transaction_id: str | None = None
    request_id: int | None = None
    issuer: str | None = None
    serial: str | None = None
    certificate: str | None = None
    error: str | None = None
    detail: str | None = None


class BulkEnd(View, frozen=True, kw_only=True, omit_defaults=False, tag_field="kind", tag="end"):
    """The last line: how many lines were answered, and how. An `error` says why later ones were not looked at."""

    lines: int
    done: int
    refused: int
    waiting: int
    error: str | None = None
    detail: str | None = None


class CertificateView(View, frozen=True, kw_only=True):
    """
    A stored certificate; `certificate` (PEM) only where one is shown by itself.

    One that is suspended is revoked as certificateHold; `released_at` is when its last suspension ended.
    """

    certificate_id: int
    serial: str
    issuer: str
    subject: str
    names: list[str]
    not_before: datetime.datetime
    not_after: datetime.datetime
    profile: str
    requestor: str
    issued_at: datetime.datetime
    state: StatusState
    revoked_at: datetime.datetime | None = None
    reason: Reason | None = None
    invalidity_date: datetime.datetime | None = None
    released_at: datetime.datetime | None = None
    certificate: str | None = None


class CertificateList(View, frozen=True, kw_only=True):
    """One page; `next` is the `before` of the following one."""

    certificates: list[CertificateView]
    next: int | None = None


class BlockedKeyView(View, frozen=True, kw_only=True):
    """
    A key: whether it is blocked, why, since when and by whom; and its certificates, newest first.

    Certificates are shown where one key is asked about, at most 1000; `more`: there are others, found by `key` in
    the search for certificates. `revoking`: so many revocations have been asked for.
    """

    spki_sha256: str
    blocked: bool
    reason: str | None = None
    blocked_at: datetime.datetime | None = None
    blocked_by: str | None = None
    certificates: list[CertificateView] = []
    more: bool = False
    revoking: int = 0


class BlockedKeyList(View, frozen=True, kw_only=True):
    """One page; `next` is the `after` of the following one."""

    keys: list[BlockedKeyView]
    next: str | None = None


class RevocationView(View, frozen=True, kw_only=True):
    """A revocation: `done`, or still `waiting` for the worker; without `reason` it is a reinstatement."""

    revocation_id: int
    issuer: str
    serial: str
    reason: Reason | None = None
    state: RequestState


class CRLView(View, frozen=True, kw_only=True):
    """An issuer's current CRL; `overdue` when its nextUpdate has passed."""

    number: int
    this_update: datetime.datetime
    next_update: datetime.datetime
    overdue: bool = False


class CRLAsked(View, frozen=True, kw_only=True):
    """A fresh CRL has been asked for; it shows as a higher `number` of the issuer's `crl`."""

    issuer: str
    asked_at: datetime.datetime


class IssuerView(View, frozen=True, kw_only=True):
    """
    An issuer; `issues` tells whether a token of this installation holds its key and it is not deactivated,
    `default` whether it was made the one for what names none. `further` are its other certificates (PEM).
    """

    name: str
    subject: str
    serial: str
    not_before: datetime.datetime
    not_after: datetime.datetime
    parent: str | None = None
    issues: bool
    default: bool = False
    crl: CRLView | None = None
    certificate: str | None = None
    further: list[str] = []


class IssuerList(View, frozen=True, kw_only=True):
    """Every issuer, CAs elsewhere included."""

    issuers: list[IssuerView]


class SwitchView(View, frozen=True, kw_only=True):
    """Who deactivated a profile or activated it again, when and why."""

    active: bool
    reason: str
    operator: str
    at: datetime.datetime


class ProfileVersion(View, frozen=True, kw_only=True):
    """A text of a profile that the worker has loaded."""

    version: int
    sha256: str
    added_at: datetime.datetime


class ProfileView(View, frozen=True, kw_only=True):
    """
    A profile; `source` (TOML) and the recorded `versions` only where one is shown by itself.

    `online` tells whether it can be requested here:
    CA certificates are made in a ceremony on the offline CA.
    """

    name: str
    version: int
    sha256: str
    description: str
    online: bool
    active: bool = True
    switched: SwitchView | None = None
    versions: list[ProfileVersion] = []
    source: str | None = None


class ProfileList(View, frozen=True, kw_only=True):
    """The profiles that the caller may request."""

    profiles: list[ProfileView]


class OperatorView(View, frozen=True, kw_only=True):
    """An operator; `profiles` left out means every profile."""

    name: str
    roles: list[Role]
    certificate_sha256: str
    profiles: list[str] | None = None


class OperatorList(View, frozen=True, kw_only=True):
    """Every operator that has not been removed."""

    operators: list[OperatorView]


class StatusView(View, frozen=True, kw_only=True):
    """
    Counts, each issuer's complete CRL, and `warnings` of the age of any CRL (R14).

    `estimated` names the counts that are estimates: of certificates and revoked when there are many.
    """

    version: str
    time: datetime.datetime
    counts: dict[str, int]
    estimated: list[str] = []
    crls: dict[str, CRLView | None]
    warnings: list[str] = []


def estimated(counts: Mapping[str, int]) -> list[str]:
    """Return the names of those counts that are estimates."""
    return [name for name, many in counts.items() if name in {"certificates", "revoked"} and many > COUNTED]


class HealthView(View, frozen=True, kw_only=True):
    """`ok`: the process answers and its database does."""

    status: str


def pem(certificate: bytes) -> str:
    """PEM of a certificate (DER), 64 characters a line (RFC 7468 2)."""
    text = base64.b64encode(certificate).decode("ascii")
    lines = "\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    return f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n"


def certificate_view(stored: StoredCertificate, *, whole: bool) -> CertificateView:
    """Return what is shown of a certificate, its PEM included when `whole`."""
    status = stored.status
    return CertificateView(
        certificate_id=stored.certificate_id,
        serial=serial_text(stored.serial),
        issuer=stored.issuer,
        subject=stored.subject,
        names=list(stored.names),
        not_before=stored.not_before,
        not_after=stored.not_after,
        profile=stored.profile,
        requestor=stored.requestor,
        issued_at=stored.issued_at,
        state=status.state,
        revoked_at=status.revoked_at,
        reason=None if status.reason is None else Reason[status.reason.name],
        invalidity_date=status.invalidity_date,
        released_at=status.released_at,
        certificate=pem(stored.der) if whole else None,
    )


def blocked_key_view(key: BlockedKey) -> BlockedKeyView:
    """Return what is shown of a blocked key by itself."""
    return BlockedKeyView(
        spki_sha256=key.spki_sha256.hex(),
        blocked=True,
        reason=key.reason,
        blocked_at=key.blocked_at,
        blocked_by=key.blocked_by,
    )


def account_view(account: KeyAccount) -> BlockedKeyView:
    """Return what is shown of a key with its certificates."""
    known = account.blocked
    shown = BlockedKeyView(spki_sha256=account.spki_sha256.hex(), blocked=False)
    return structs.replace(
        shown if known is None else blocked_key_view(known),
        certificates=[certificate_view(one, whole=False) for one in account.certificates],
        more=account.more,
        revoking=account.revoking,
    )


def crl_view(crl: CRLRecord | None, now: datetime.datetime) -> CRLView | None:
    """Return what is shown of a CRL beside its bytes."""
    if crl is None:
        return None
    return CRLView(
        number=crl.number,
        this_update=crl.this_update,
        next_update=crl.next_update,
        overdue=crl.next_update < now,
    )


def profile_view(
    profile: Profile | ProfileRecord,
    switch: ProfileSwitch | None,
    *,
    whole: bool,
    records: Sequence[ProfileRecord] = (),
) -> ProfileView:
    """Return what is shown of a profile in use, or of a recorded text; its source included when `whole`."""
    return ProfileView(
        name=profile.name,
        version=profile.version,
        sha256=profile.sha256.hex(),
        description=profile.description if isinstance(profile, Profile) else "recorded, and not in use here",
        online=isinstance(profile, Profile) and not profile.ceremony,
        active=switch is None or switch.active,
        switched=None
        if switch is None
        else SwitchView(active=switch.active, reason=switch.reason, operator=switch.operator, at=switch.at),
        versions=[
            ProfileVersion(version=one.version, sha256=one.sha256.hex(), added_at=one.added_at) for one in records
        ],
        source=profile.source if whole else None,
    )


def operator_view(operator: Operator) -> OperatorView:
    """Return what is shown of an operator."""
    return OperatorView(
        name=operator.name,
        roles=sorted(operator.roles, key=lambda role: role.value),
        certificate_sha256=operator.fingerprint.hex(),
        profiles=None if operator.profiles is None else sorted(operator.profiles),
    )
