"""
The values that cross the ports. All frozen.

Serial numbers travel as `bytes`: the content octets of the DER INTEGER.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
from collections.abc import Mapping, Sequence

import msgspec

from chancery.errors import ErrorType

_encode = msgspec.json.Encoder(order="sorted").encode
EventDetail = Mapping[str, str | int | bool | Sequence[str] | None]


class EventKind(enum.Enum):
    """Every kind of act that is journalled (R27)."""

    CA_CREATED = "ca.created"
    CA_IMPORTED = "ca.imported"
    CA_FOREIGN_REVOKED = "ca.foreign-revoked"
    CA_REQUESTED = "ca.requested"
    CA_CERTIFICATE = "ca.certificate"
    CA_ACTIVATED = "ca.activated"
    CA_DEACTIVATED = "ca.deactivated"
    CA_DEFAULT = "ca.default"
    KEY_GENERATED = "key.generated"
    KEY_IMPORTED = "key.imported"
    REQUEST_RECEIVED = "request.received"
    REQUEST_REFUSED = "request.refused"
    INTENT_RECORDED = "certificate.intent"
    INTENT_UNCONFIRMED = "certificate.unconfirmed"
    CERTIFICATE_ISSUED = "certificate.issued"
    REVOCATION_REQUESTED = "revocation.requested"
    CERTIFICATE_REVOKED = "certificate.revoked"
    CERTIFICATE_SUSPENDED = "certificate.suspended"
    CERTIFICATE_REINSTATED = "certificate.reinstated"
    REVOCATION_REFUSED = "revocation.refused"
    JOB_REQUESTED = "revocation-job.requested"
    JOB_APPROVED = "revocation-job.approved"
    JOB_UNAPPROVED = "revocation-job.unapproved"
    JOB_STARTED = "revocation-job.started"
    JOB_REFUSED = "revocation-job.refused"
    JOB_FINISHED = "revocation-job.finished"
    JOB_REHEARSED = "revocation-job.rehearsed"
    REPORT_RECEIVED = "report.received"
    REPORT_ANSWERED = "report.answered"
    REPORT_DECIDED = "report.decided"
    CRL_REQUESTED = "crl.requested"
    CRL_INTENT = "crl.intent"
    CRL_PUBLISHED = "crl.published"
    CRL_SHARD_OPENED = "crl.shard-opened"
    KEY_BLOCKED = "key.blocked"
    OPERATOR_ENROLLED = "operator.enrolled"
    OPERATOR_REMOVED = "operator.removed"
    LOGIN = "login.accepted"
    LOGIN_REFUSED = "login.refused"
    PROFILE_LOADED = "profile.loaded"
    PROFILE_DEACTIVATED = "profile.deactivated"
    PROFILE_ACTIVATED = "profile.activated"
    PROCESS_STARTED = "process.started"
    PROCESS_STOPPED = "process.stopped"
    TOKENS_RECORDED = "tsa.tokens"
    TSA_CERTIFICATE = "tsa.certificate"
    TSA_CLIENT_ADDED = "tsa.client-added"
    TSA_CLIENT_REVOKED = "tsa.client-revoked"
    TSA_KEY = "tsa.key"
    CLOCK_LOST = "tsa.clock-lost"
    CLOCK_REGAINED = "tsa.clock-regained"
    CLOCK_MOVED = "tsa.clock-moved"
    CLOCK_SOURCE = "tsa.clock-source"
    LEAP_SECOND = "tsa.leap-second"
    BUNDLE_ANSWERED = "bundle.answered"
    BUNDLE_IMPORTED = "bundle.imported"
    CEREMONY_CONFIRMED = "ceremony.confirmed"
    CEREMONY_ENDED = "ceremony.ended"
    STANDBY_PREPARED = "standby.prepared"
    STANDBY_TAKEN_BACK = "standby.taken-back"
    RETENTION_DROPPED = "retention.dropped"
    FOREIGN_ADDED = "foreign.added"
    FOREIGN_ENDED = "foreign.ended"
    FOREIGN_DELEGATE = "foreign.delegate"
    FOREIGN_CRL = "foreign.crl-imported"
    FOREIGN_REFUSED = "foreign.crl-refused"
    BACKUP_MADE = "backup.made"
    BACKUP_RESTORED = "backup.restored"


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """One journalled act: who did what to which subject, when."""

    kind: EventKind
    at: datetime.datetime
    actor: str
    subject: str
    detail: EventDetail = dataclasses.field(default_factory=dict)

    def body(self) -> str:
        """Return the canonical JSON text (sorted keys, no spaces, UTC microseconds); its UTF-8 is the leaf."""
        value = {
            "actor": self.actor,
            "at": self.at.astimezone(datetime.UTC).isoformat(timespec="microseconds"),
            "detail": dict(self.detail),
            "kind": self.kind.value,
            "subject": self.subject,
        }
        try:
            return _encode(value).decode()
        except (UnicodeEncodeError, OverflowError, TypeError):
            # The same text, ten times slower: for half a surrogate pair, or a number of more than 64 bits.
            return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class RequestState(enum.Enum):
    WAITING = "waiting"
    TAKEN = "taken"
    DONE = "done"
    REFUSED = "refused"


@dataclasses.dataclass(frozen=True, slots=True)
class EnrolmentRequest:
    """
    A request for a certificate, whatever protocol brought it.

    `csr` is a PKCS#10 CertificationRequest (DER) whose signature is the proof of possession; `names` are
    subjectAltName entries asked for beside it, as `dns:…`, `ip:…`, `email:…` or `uri:…`. `issuer` is the
    name of the issuer asked for, or None for the profile's default. `wish` is the text of a `pkix.wish.Wish`.
    `profile_active` tells whether the profile was switched off when the request was taken, `requestor_removed`
    whether who asked for it was an operator and is none any more.
    """

    request_id: int
    transaction_id: str
    protocol: str
    requestor: str
    profile: str
    issuer: str | None
    csr: bytes
    names: tuple[str, ...]
    received_at: datetime.datetime
    wish: str | None = None
    profile_active: bool = True
    requestor_removed: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Scope:
    """
    Some of the requests that wait: those for one of `issuers`, or for no issuer by name under one of `profiles`.

    With `inside` false, all the others.
    """

    issuers: tuple[str, ...]
    profiles: tuple[str, ...]
    inside: bool

    def holds(self, request: EnrolmentRequest) -> bool:
        """Tell whether a request is one of them."""
        among = request.profile in self.profiles if request.issuer is None else request.issuer in self.issuers
        return among is self.inside


@dataclasses.dataclass(frozen=True, slots=True)
class NewRequest:
    """An `EnrolmentRequest` that is not yet stored."""

    transaction_id: str
    protocol: str
    requestor: str
    profile: str
    issuer: str | None
    csr: bytes
    names: tuple[str, ...]
    received_at: datetime.datetime
    wish: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Submission:
    """
    A request with the events of its receipt, which are stored with it if it is new.

    `spki_sha256` is the SHA-256 of its key's SubjectPublicKeyInfo: a blocked key is refused (R5). None: not asked.
    """

    request: NewRequest
    events: tuple[Event, ...] = ()
    spki_sha256: bytes | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class RequestOutcome:
    """
    Where a request stands.

    `fingerprint` is SHA-256 over what was asked (`NewRequest` without its time), so that a repeated
    transaction id with other contents is told from a retry.
    """

    request_id: int
    transaction_id: str
    requestor: str
    state: RequestState
    fingerprint: bytes
    certificate: bytes | None
    issuer: str | None
    error: ErrorType | None
    detail: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Intent:
    """
    The record, made before the signature, that this TBSCertificate will be signed.

    `shard` is the partition of the issuer's CRLs that will list it, as its cRLDistributionPoints says; 0: none.
    """

    request_id: int
    issuer_id: int
    serial: bytes
    tbs: bytes
    not_after: datetime.datetime
    profile: str
    profile_version: int
    profile_sha256: bytes
    recorded_at: datetime.datetime
    shard: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class CertificateRecord:
    """
    A signed certificate with what is searched for. `names` are its subjectAltNames as in `EnrolmentRequest`.

    `dropped` says in words what was asked for and is not in it; None: nothing.
    """

    request_id: int
    issuer_id: int
    serial: bytes
    der: bytes
    subject: str
    names: tuple[str, ...]
    spki_sha256: bytes
    not_before: datetime.datetime
    not_after: datetime.datetime
    profile: str
    issued_at: datetime.datetime
    shard: int = 0
    dropped: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """A request that will not become a certificate, and why, in words for the requestor."""

    request_id: int
    error: ErrorType
    detail: str


class RevocationReason(enum.IntEnum):
    """
    CRLReason (RFC 5280 5.3.1).

    CERTIFICATE_HOLD suspends: the one reason from which a certificate comes back. REMOVE_FROM_CRL asks for that,
    and stands in delta CRLs; no status has it.
    """

    UNSPECIFIED = 0
    KEY_COMPROMISE = 1
    CA_COMPROMISE = 2
    AFFILIATION_CHANGED = 3
    SUPERSEDED = 4
    CESSATION_OF_OPERATION = 5
    CERTIFICATE_HOLD = 6
    REMOVE_FROM_CRL = 8
    PRIVILEGE_WITHDRAWN = 9
    AA_COMPROMISE = 10

    @property
    def compromised(self) -> bool:
        """Whether it says that somebody else may have the subject's private key."""
        reasons = (RevocationReason.KEY_COMPROMISE, RevocationReason.CA_COMPROMISE, RevocationReason.AA_COMPROMISE)
        return self in reasons

    @property
    def final(self) -> bool:
        """Whether there is no way back: neither a suspension nor its end."""
        return self not in {RevocationReason.CERTIFICATE_HOLD, RevocationReason.REMOVE_FROM_CRL}


@dataclasses.dataclass(frozen=True, slots=True)
class BlockedKey:
    """
    A public key that is never certified again (R5): SHA-256 of its SubjectPublicKeyInfo (DER), and why.

    `reason` has 1 to 1000 characters.
    """

    spki_sha256: bytes
    reason: str
    blocked_at: datetime.datetime
    blocked_by: str


class StatusState(enum.Enum):
    """
    State of one serial number.

    UNCONFIRMED: an intent without a stored certificate; a signature may exist. It is never answered
    `good`, and can be revoked.
    """

    GOOD = "good"
    REVOKED = "revoked"
    UNCONFIRMED = "unconfirmed"


@dataclasses.dataclass(frozen=True, slots=True)
class CertificateStatus:
    """
    What a serial's status is, and since when. `released_at` is when its last suspension ended, None without one.

    Revoked for good while suspended, it is revoked since the suspension (X.509 9.5.3.2). `kept_until`: its entry
    stays on CRLs until then instead of its certificate's end (R16), None: it does not. `window` is from when to
    when it is known to be so, of what a foreign CA's CRL says.
    """

    issuer_id: int
    serial: bytes
    state: StatusState
    not_after: datetime.datetime
    revoked_at: datetime.datetime | None = None
    reason: RevocationReason | None = None
    invalidity_date: datetime.datetime | None = None
    released_at: datetime.datetime | None = None
    shard: int = 0
    kept_until: datetime.datetime | None = None
    window: tuple[datetime.datetime, datetime.datetime] | None = None

    @property
    def listed_until(self) -> datetime.datetime:
        """The end that its entry outlives: one CRL after it still carries it (R16)."""
        return self.kept_until or self.not_after

    @property
    def held(self) -> bool:
        """Whether it is suspended: revoked, and may come back."""
        return self.reason is RevocationReason.CERTIFICATE_HOLD


@dataclasses.dataclass(frozen=True, slots=True)
class RevocationRequest:
    """A stored wish to revoke, as the worker takes it."""

    revocation_id: int
    issuer_id: int
    serial: bytes
    reason: RevocationReason
    invalidity_date: datetime.datetime | None
    requestor: str
    received_at: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """
    What a revocation request is judged by. `certificate` (DER) and `tbs` are None where they are not stored.

    `may_revoke`: the requestor is an operator now, and an officer, an administrator, or the one who asked for that
    very certificate. `may_reinstate`: an officer or an administrator.
    """

    may_revoke: bool
    may_reinstate: bool
    status: CertificateStatus | None
    tbs: bytes | None
    certificate: bytes | None


@dataclasses.dataclass(frozen=True, slots=True)
class Settlement:
    """
    The end of a revocation request: the status it makes, or (`status` None) its refusal in words.

    `block` is a key that is from now on among the blocked ones.
    """

    request: RevocationRequest
    status: CertificateStatus | None
    refusal: str | None
    events: tuple[Event, ...]
    block: BlockedKey | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Leaf:
    """One journal event as sequenced: its place in the Merkle tree, its stored body and its recorded hash."""

    index: int
    event_id: int
    body: str | None
    hash: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoint:
    """A signed tree head: `note` is the C2SP tlog-checkpoint text with its signature lines."""

    tree_size: int
    root: bytes
    note: str
    at: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class TokenRecord:
    """What is recorded of a timestamp before it is signed, by the timestamping unit `unit`."""

    serial: int
    gen_time: datetime.datetime
    hash_oid: str
    imprint: bytes
    policy: str
    client: str
    unit: str = "tsa"
    ordering: bool = False


class Role(enum.Enum):
    """What an operator may do; checked per operation. An auditor is nothing else."""

    ADMINISTRATOR = "administrator"
    OFFICER = "officer"
    REQUESTOR = "requestor"
    AUDITOR = "auditor"


@dataclasses.dataclass(frozen=True, slots=True)
class Operator:
    """
    Somebody who may use the management interface: the SHA-256 of their certificate's DER, and their roles.

    `profiles` limits what they may request (None: every profile).
    """

    fingerprint: bytes
    name: str
    roles: frozenset[Role]
    profiles: frozenset[str] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ProfileRecord:
    """A profile's text as the worker recorded it when it first loaded it; `sha256` is over its UTF-8."""

    name: str
    version: int
    sha256: bytes
    source: str
    added_at: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class ProfileSwitch:
    """
    That a profile, in all its versions, may not be used from now on, or may again.

    `reason` has 1 to 1000 characters.
    """

    name: str
    active: bool
    reason: str
    operator: str
    at: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class StoredCertificate:
    """A certificate as stored, with its status as it is now."""

    certificate_id: int
    issuer: str
    serial: bytes
    der: bytes
    subject: str
    names: tuple[str, ...]
    not_before: datetime.datetime
    not_after: datetime.datetime
    profile: str
    requestor: str
    issued_at: datetime.datetime
    status: CertificateStatus


@dataclasses.dataclass(frozen=True, slots=True)
class CertificateQuery:
    """
    What to search for; every given field must match.

    `subject` and `name` match a case-sensitive prefix of the subject (RFC 4514 text) and one whole
    subjectAltName. Results come newest first, `limit` at most, with certificate_id below `before`.
    """

    subject: str | None = None
    name: str | None = None
    serial: bytes | None = None
    spki_sha256: bytes | None = None
    profile: str | None = None
    issuer: str | None = None
    state: StatusState | None = None
    requestor: str | None = None
    before: int | None = None
    limit: int = 50


@dataclasses.dataclass(frozen=True, slots=True)
class NewRevocation:
    issuer: str
    serial: bytes
    reason: RevocationReason
    invalidity_date: datetime.datetime | None
    requestor: str
    received_at: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class RevocationOutcome:
    """Where a revocation request stands; `detail` says why it was refused."""

    revocation_id: int
    state: RequestState
    detail: str | None
