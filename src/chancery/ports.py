"""
What the core asks of the world. A port's docstring is its contract.

Values here are frozen. Serial numbers travel as `bytes`: the content octets of the DER INTEGER.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
from collections.abc import Mapping, Sequence
from typing import Protocol

from chancery.asn1.signature import Signer as Signer  # noqa: PLC0414 - Signer is one of the ports
from chancery.errors import ErrorType

EventDetail = Mapping[str, str | int | bool | Sequence[str] | None]


class Clock(Protocol):
    """Time as the process believes it. `now` is aware UTC; `monotonic` is seconds that never go back."""

    def now(self) -> datetime.datetime: ...

    def monotonic(self) -> float: ...


class Entropy(Protocol):
    """`draw(n)` returns n octets from a CSPRNG."""

    def draw(self, size: int) -> bytes: ...


class EventKind(enum.Enum):
    """Every kind of act that is journalled (R27)."""

    CA_CREATED = "ca.created"
    CA_IMPORTED = "ca.imported"
    KEY_GENERATED = "key.generated"
    KEY_DESTROYED = "key.destroyed"
    REQUEST_RECEIVED = "request.received"
    REQUEST_REFUSED = "request.refused"
    INTENT_RECORDED = "certificate.intent"
    INTENT_UNCONFIRMED = "certificate.unconfirmed"
    CERTIFICATE_ISSUED = "certificate.issued"
    REVOCATION_REQUESTED = "revocation.requested"
    CERTIFICATE_REVOKED = "certificate.revoked"
    REVOCATION_REFUSED = "revocation.refused"
    CRL_REQUESTED = "crl.requested"
    CRL_INTENT = "crl.intent"
    CRL_PUBLISHED = "crl.published"
    OPERATOR_ENROLLED = "operator.enrolled"
    OPERATOR_REMOVED = "operator.removed"
    LOGIN = "login.accepted"
    LOGIN_REFUSED = "login.refused"
    PROFILE_LOADED = "profile.loaded"
    PROCESS_STARTED = "process.started"
    PROCESS_STOPPED = "process.stopped"
    TOKENS_RECORDED = "tsa.tokens"
    CLOCK_LOST = "tsa.clock-lost"
    CLOCK_REGAINED = "tsa.clock-regained"
    LEAP_SECOND = "tsa.leap-second"
    BUNDLE_IMPORTED = "bundle.imported"


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
        return json.dumps(
            {
                "actor": self.actor,
                "at": self.at.astimezone(datetime.UTC).isoformat(timespec="microseconds"),
                "detail": dict(self.detail),
                "kind": self.kind.value,
                "subject": self.subject,
            },
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
        )


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
    name of the issuer asked for, or None for the profile's default.
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
    """The record, made before the signature, that this TBSCertificate will be signed."""

    request_id: int
    issuer_id: int
    serial: bytes
    tbs: bytes
    not_after: datetime.datetime
    profile: str
    profile_version: int
    profile_sha256: bytes
    recorded_at: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class CertificateRecord:
    """A signed certificate with what is searched for. `names` are its subjectAltNames as in `EnrolmentRequest`."""

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


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """A request that will not become a certificate, and why, in words for the requestor."""

    request_id: int
    error: ErrorType
    detail: str


@dataclasses.dataclass(frozen=True, slots=True)
class IssuerRecord:
    """An issuer as stored: its certificate (DER) and the token and label that hold its key."""

    issuer_id: int
    name: str
    certificate: bytes
    parent_id: int | None
    token_label: str | None
    key_label: str | None


class RevocationReason(enum.IntEnum):
    """CRLReason (RFC 5280 5.3.1) as far as an end is meant; removeFromCRL belongs to delta CRLs."""

    UNSPECIFIED = 0
    KEY_COMPROMISE = 1
    CA_COMPROMISE = 2
    AFFILIATION_CHANGED = 3
    SUPERSEDED = 4
    CESSATION_OF_OPERATION = 5
    PRIVILEGE_WITHDRAWN = 9
    AA_COMPROMISE = 10


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
    issuer_id: int
    serial: bytes
    state: StatusState
    not_after: datetime.datetime
    revoked_at: datetime.datetime | None = None
    reason: RevocationReason | None = None
    invalidity_date: datetime.datetime | None = None


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
class RevokedEntry:
    """One line of a CRL."""

    serial: bytes
    revoked_at: datetime.datetime
    reason: RevocationReason
    invalidity_date: datetime.datetime | None


@dataclasses.dataclass(frozen=True, slots=True)
class CRLRecord:
    """
    A signed CRL. `this_update` is in whole seconds; `covers` is the exact moment from which its entries
    were read: a status changed later is not in it.
    """

    issuer_id: int
    number: int
    this_update: datetime.datetime
    next_update: datetime.datetime
    covers: datetime.datetime
    der: bytes


class IssuanceStore(Protocol):
    """
    What the issuing worker needs to remember. Each method is one transaction: when it returns, all of
    it is durable, events included; when it raises PKIError(SYSTEM_UNAVAIL) the caller does not know
    whether it took effect, stops using the batch, and recovers through `unconfirmed`.
    """

    def take(self, worker: str, limit: int, at: datetime.datetime) -> list[EnrolmentRequest]:
        """Take at most `limit` waiting requests for this worker, oldest first; nobody else gets them."""

    def record_intents(
        self, worker: str, intents: Sequence[Intent], refusals: Sequence[Refusal], events: Sequence[Event]
    ) -> None:
        """
        Reserve the serials and record the intents; refuse the refused.

        Raises PKIError(SYSTEM_FAILURE) and records nothing if any (issuer, serial) was ever used before.
        """

    def record_certificates(
        self, certificates: Sequence[CertificateRecord], refusals: Sequence[Refusal], events: Sequence[Event]
    ) -> None:
        """Store certificates with status good and mark their requests done; refuse the refused."""

    def unconfirmed(self, worker: str) -> list[Intent]:
        """Return intents of this worker that have neither a certificate nor an unconfirmed mark."""

    def mark_unconfirmed(self, worker: str, intents: Sequence[Intent], events: Sequence[Event]) -> None:
        """
        Give each intent's serial the status UNCONFIRMED, and put every request that this worker had taken
        and not finished back to waiting.
        """


class RevocationStore(Protocol):
    """What revoking and CRL making need. Transactions as in `IssuanceStore`."""

    def take_revocations(self, limit: int) -> list[RevocationRequest]:
        """Return waiting revocation requests, oldest first. They stay waiting until `revoke` settles them."""

    def requestor_may_revoke(self, requestor: str, issuer_id: int, serial: bytes) -> bool:
        """Tell whether this operator has a role to revoke, or asked for that certificate itself."""

    def status(self, issuer_id: int, serial: bytes) -> CertificateStatus | None:
        """Return the status of a serial, or None when it was never used."""

    def revoke(
        self,
        status: CertificateStatus | None,
        request: RevocationRequest,
        refusal: str | None,
        events: Sequence[Event],
    ) -> None:
        """Settle a request: set the status to revoked, or (`status` None) mark it refused with these words."""

    def revoked_entries(self, issuer_id: int, expired_since: datetime.datetime) -> list[RevokedEntry]:
        """
        Every revoked serial of the issuer whose certificate had not expired at `expired_since`, in serial
        order. R16: the caller passes the previous CRL's thisUpdate, so that an entry appears once more
        after its certificate expired.
        """

    def crl_due(self, at: datetime.datetime) -> list[int]:
        """
        Issuers that need a CRL: none yet, one asked for or a status revoked after what the latest covers,
        or the latest near its end.
        """

    def latest_crl(self, issuer_id: int) -> CRLRecord | None: ...

    def reserve_crl_number(self, issuer_id: int, events: Sequence[Event]) -> int:
        """Return the next CRLNumber, strictly greater than any returned before (R15), and record the intent."""

    def publish_crl(self, crl: CRLRecord, events: Sequence[Event]) -> None:
        """Make this the issuer's current CRL. Refuses a number not above the current one."""


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


class JournalStore(Protocol):
    """The Merkle log's own storage. One sequencer at a time, held by a lock of the database."""

    def unsequenced(self, limit: int) -> list[tuple[int, str]]:
        """Committed events without a leaf: (event id, body), by id."""

    def tree_size(self) -> int: ...

    def leaf_hashes(self, start: int, limit: int) -> list[bytes]: ...

    def append(self, leaves: Sequence[tuple[int, int, bytes]], checkpoint: Checkpoint) -> None:
        """Store (index, event id, leaf hash) rows and the checkpoint over all leaves, in one transaction."""

    def checkpoints(self) -> list[Checkpoint]:
        """Every checkpoint, by tree size."""

    def latest_checkpoint(self) -> Checkpoint | None: ...

    def leaves(self, start: int, limit: int) -> list[Leaf]:
        """Leaves from `start` by index, each with its event's body as it now stands (None: the row is gone)."""

    def events_without_leaf(self) -> list[tuple[int, str]]:
        """Events that no leaf names, whenever they were written."""


@dataclasses.dataclass(frozen=True, slots=True)
class TokenRecord:
    """What is recorded of a timestamp before it is signed."""

    serial: int
    gen_time: datetime.datetime
    hash_oid: str
    imprint: bytes
    policy: str
    client: str


class TimestampStore(Protocol):
    """The timestamping authority's records. Coroutines, for one event loop."""

    async def record(self, tokens: Sequence[TokenRecord], events: Sequence[Event]) -> None:
        """
        Store all of them, in one transaction; durable on return.

        A repeated serial fails the whole batch with PKIError(SYSTEM_FAILURE). PKIError(SYSTEM_UNAVAIL) when
        the database is away: then the caller does not know whether it took effect, and must not sign.
        """


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


class RequestQueue(Protocol):
    """
    The registration side of the table that joins RA and CA. Coroutines, for one event loop.

    A submission is durable when the call returns. Raises PKIError(SYSTEM_UNAVAIL) when the database is
    away; then the caller may retry with the same transaction id without harm.
    """

    async def submit(self, request: NewRequest, events: Sequence[Event]) -> RequestOutcome:
        """
        Store a request, or return the outcome of the one already stored under (requestor, transaction id).

        Raises PKIError(TRANSACTION_ID_IN_USE) when that one asked for something else.
        """

    async def outcome(self, request_id: int) -> RequestOutcome | None: ...

    async def wait(self, request_id: int, seconds: float) -> RequestOutcome:
        """Return the outcome as soon as it is final, else as it stands after `seconds`."""

    async def submit_revocation(self, request: NewRevocation, events: Sequence[Event]) -> RevocationOutcome:
        """Store a revocation request. Raises PKIError(BAD_CERT_ID) for an issuer that does not exist."""

    async def wait_revocation(self, revocation_id: int, seconds: float) -> RevocationOutcome: ...

    async def ask_crl(self, issuer: str, requestor: str, at: datetime.datetime, events: Sequence[Event]) -> None:
        """Ask the worker to publish a fresh CRL of this issuer."""


class Directory(Protocol):
    """What the management interface reads and keeps about operators. Coroutines, for one event loop."""

    async def operator(self, fingerprint: bytes) -> Operator | None:
        """Return the operator with this certificate, unless removed, revoked, unconfirmed or expired."""

    async def operators(self) -> list[Operator]: ...

    async def add_operator(self, operator: Operator, at: datetime.datetime, events: Sequence[Event]) -> None:
        """Raises PKIError(BAD_REQUEST) when the name or the certificate is taken."""

    async def remove_operator(self, name: str, at: datetime.datetime, events: Sequence[Event]) -> None:
        """Raises PKIError(BAD_CERT_ID) when there is none, BAD_REQUEST for the last administrator."""

    async def issuers(self) -> list[IssuerRecord]: ...

    async def search(self, query: CertificateQuery) -> list[StoredCertificate]: ...

    async def latest_crl(self, issuer: str) -> CRLRecord | None: ...

    async def counts(self) -> Mapping[str, int]:
        """Requests waiting, requests taken, certificates, revoked, unconfirmed, for `chancery status`."""

    async def record(self, events: Sequence[Event]) -> None:
        """Journal events that have no other effect (logins, refusals)."""
