"""What the core asks of the world. A port's docstring is its contract."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from chancery.errors import PKIError
from chancery.ports.crls import COMPLETE, CRLRecord, CRLScope, CRLSelection, CRLShard, CRLState
from chancery.ports.foreign import ForeignIssuer
from chancery.ports.hierarchy import (
    HierarchyNode,
    IssuerAct,
    IssuerRecord,
    KeyPlace,
    NewCertificate,
    NewIssuer,
    Takeover,
)
from chancery.ports.values import (
    BlockedKey,
    CertificateQuery,
    CertificateRecord,
    CertificateStatus,
    Checkpoint,
    EnrolmentRequest,
    Event,
    Intent,
    Leaf,
    NewRequest,
    NewRevocation,
    Operator,
    ProfileRecord,
    ProfileSwitch,
    Refusal,
    RequestOutcome,
    RevocationOutcome,
    RevocationRequest,
    Scope,
    Settlement,
    Standing,
    StoredCertificate,
    Submission,
    TokenRecord,
)

SecondOpinion = Callable[[bytes], str | None]
"""
Another linter's word on a certificate (DER): what it has against it, in words, or None.

Raises PKIError(SYSTEM_UNAVAIL) when it gave no answer.
"""


class Clock(Protocol):
    """Time as the process believes it. `now` is aware UTC; `monotonic` is seconds that never go back."""

    def now(self) -> datetime.datetime: ...

    def monotonic(self) -> float: ...


class Entropy(Protocol):
    """`draw(n)` returns n octets from a CSPRNG."""

    def draw(self, size: int) -> bytes: ...


class KeyBlocklist(Protocol):
    """Which public keys are never certified again (R5)."""

    def blocked(self, spki_sha256s: Sequence[bytes]) -> set[bytes]:
        """
        Return those of these keys that were ever reported compromised, in whatever way and by whomever.

        A key is the SHA-256 of its SubjectPublicKeyInfo (DER).
        """


class IssuanceStore(Protocol):
    """
    What the issuing worker needs to remember. Each method is one transaction: when it returns, all of
    it is durable, events included; when it raises PKIError(SYSTEM_UNAVAIL) the caller does not know
    whether it took effect, stops using the batch, and recovers through `unconfirmed`.
    """

    def take(
        self, worker: str, limit: int, at: datetime.datetime, scope: Scope | None = None
    ) -> list[EnrolmentRequest]:
        """
        Take at most `limit` waiting requests for this worker, oldest first; nobody else gets them.

        Of those in `scope`, where it is given; the others go on waiting.
        """

    def holds_good(self, issuer_ids: Sequence[int], serial: bytes, certificate: bytes) -> bool:
        """Tell whether one of these issuers issued this certificate (DER) under this serial, and it is good."""

    def record_intents(
        self,
        worker: str,
        intents: Sequence[Intent],
        refusals: Sequence[Refusal],
        events: Sequence[Event],
        keys: Sequence[bytes] = (),
    ) -> set[bytes]:
        """
        Reserve the serials and record the intents; refuse the refused.

        Returns those of `keys` (as in `KeyBlocklist`) that are blocked (R5); then nothing was recorded.
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


class RevocationStore(KeyBlocklist, Protocol):
    """What revoking needs. Transactions as in `IssuanceStore`."""

    def take_revocations(self, limit: int) -> list[RevocationRequest]:
        """Return waiting revocation requests, oldest first. They stay waiting until `settle` ends them."""

    def standings(self, requests: Sequence[RevocationRequest]) -> list[Standing]:
        """Return what each request is to be judged by, as of one moment."""

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """
        End these requests, each about another serial, in one transaction with their statuses, keys and events.

        A request that was ended meanwhile is left as it is, and nothing of it is recorded. Raises
        PKIError(SYSTEM_FAILURE) and records nothing when a status cannot go where it is told to go.
        """


class CRLStore(Protocol):
    """What making a CRL needs. Transactions as in `IssuanceStore`."""

    def open_crl(self, selection: CRLSelection) -> AbstractContextManager[CRLDraft]:
        """
        Read the entries of a CRL as of one moment; `publish_crl` inside the block makes them part of it.

        Left without that, or by an exception, nothing is stored.
        """

    def latest_crl(self, issuer_id: int, scope: CRLScope = COMPLETE) -> CRLRecord | None:
        """Return the newest CRL of this scope."""

    def reserve_crl_number(self, issuer_id: int, events: Sequence[Event]) -> int:
        """Return the next CRLNumber, strictly greater than any returned before (R15), and record the intent."""

    def publish_crl(self, crl: CRLRecord, events: Sequence[Event]) -> None:
        """
        Make this the current CRL of its scope, with the entries of the draft that is open.

        Refuses a number not above that of the current one, delta or not.
        """


class PublishingStore(RevocationStore, CRLStore, Protocol):
    """What the worker needs to revoke, and to know which CRLs are due."""

    def crl_states(self) -> list[CRLState]:
        """How every CRL of every issuer stands, by issuer and shard: what the schedule is made from."""


class CRLDraft(Protocol):
    """
    The entries of a CRL in the making, in the order of their serials.

    `chunks` gives them in DER, whole ones, a piece at a time and as often as asked. `large` says that they are
    stored apart: the record's `der` is then what stands before them, its `tail` what follows. `gone` is how many
    entries of `CRLSelection.previous` may be missing: released since, or expired.
    """

    @property
    def entries(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def large(self) -> bool: ...

    @property
    def gone(self) -> int: ...

    def chunks(self) -> Iterable[bytes]: ...


class JournalStore(Protocol):
    """The Merkle log's own storage. One sequencer at a time, held by a lock of the database."""

    def unsequenced(self, limit: int) -> list[tuple[int, str]]:
        """Committed events without a leaf: (event id, body), by id."""

    def tree_size(self) -> int: ...

    def leaf_hashes(self, start: int, limit: int) -> list[bytes]: ...

    def append(self, leaves: Sequence[tuple[int, int, bytes]], checkpoint: Checkpoint) -> None:
        """Store (index, event id, leaf hash) rows and the checkpoint over all leaves, in one transaction."""

    def checkpoints(self, after: int = 0, limit: int | None = None) -> list[Checkpoint]:
        """Checkpoints of trees larger than `after`, by tree size; at most `limit`."""

    def latest_checkpoint(self) -> Checkpoint | None: ...

    def leaves(self, start: int, limit: int) -> list[Leaf]:
        """Leaves from `start` by index, each with its event's body as it now stands (None: the row is gone)."""

    def events_without_leaf(self) -> list[tuple[int, str]]:
        """Events that no leaf names, whenever they were written."""

    def retirements(self) -> list[str]:
        """Bodies of the events by which retention says which events it dropped, their leaves kept."""


class TimestampStore(Protocol):
    """The timestamping authority's records. Coroutines, for one event loop."""

    async def record(self, tokens: Sequence[TokenRecord], events: Sequence[Event]) -> None:
        """
        Store all of them, in one transaction; durable on return.

        A repeated serial fails the whole batch with PKIError(SYSTEM_FAILURE). PKIError(SYSTEM_UNAVAIL) when
        the database is away: then the caller does not know whether it took effect, and must not sign.
        """

    async def record_in_order(
        self,
        unit: str,
        assign: Callable[[datetime.datetime | None], tuple[Sequence[TokenRecord], Sequence[Event]]],
    ) -> None:
        """
        Store as `record` what `assign` makes of the last genTime of an ordered unit (None: there was none).

        From its question to its end nobody else has an answer for this unit, on any host, so that genTimes which
        `assign` makes later than what it is given are later than all of before. It is called once, in the event
        loop; what it raises ends the transaction without effect. PKIError(SYSTEM_FAILURE) when the unit is not
        registered as ordered, or a genTime is not later.
        """

    async def register(self, unit: str, spki_sha256: bytes, *, ordering: bool, event: Event) -> None:
        """
        Note that a unit signs with a key, of which `spki_sha256` is SHA-256 of its SubjectPublicKeyInfo.

        The event is written if that was not known. Raises OperatorError when the unit was registered with the
        other `ordering`, or the key as another unit's: neither ever changes. PKIError(SYSTEM_UNAVAIL) as ever.
        """


class RequestQueue(Protocol):
    """
    The registration side of the table that joins RA and CA. Coroutines, for one event loop.

    A submission is durable when the call returns. Raises PKIError(SYSTEM_UNAVAIL) when the database is
    away; then the caller may retry with the same transaction id without harm.
    """

    async def submit(
        self, request: NewRequest, events: Sequence[Event], spki_sha256: bytes | None = None
    ) -> RequestOutcome:
        """
        Store a request, or return the outcome of the one already stored under (requestor, transaction id).

        Raises PKIError: TRANSACTION_ID_IN_USE when that one asked for something else, BAD_CERT_TEMPLATE when the
        key, of which `spki_sha256` is as in `Submission`, is blocked (R5): then nothing is stored.
        """

    async def submit_many(self, submissions: Sequence[Submission]) -> list[RequestOutcome | PKIError]:
        """
        Do what `submit` does for each of them, in one transaction: in their order what it returns or raises.

        What one of them is refused for concerns no other. Raises PKIError(SYSTEM_UNAVAIL) for all.
        """

    async def outcome(self, request_id: int) -> RequestOutcome | None: ...

    async def wait(self, request_id: int, seconds: float) -> RequestOutcome:
        """Return the outcome as soon as it is final, else as it stands after `seconds`."""

    def settled(self, request_ids: Collection[int], seconds: float) -> AsyncIterator[list[RequestOutcome]]:
        """
        Give the outcomes as they become final, some at a time; after `seconds` the others as they stand.

        An outage in the middle is waited out; PKIError(SYSTEM_UNAVAIL) when it lasts to the end.
        """

    async def submit_revocation(self, request: NewRevocation, events: Sequence[Event]) -> RevocationOutcome:
        """Store a revocation request. Raises PKIError(BAD_CERT_ID) for an issuer that does not exist."""

    async def wait_revocation(self, revocation_id: int, seconds: float) -> RevocationOutcome: ...

    async def ask_crl(
        self,
        issuer: str,
        requestor: str,
        at: datetime.datetime,
        events: Sequence[Event],
        *,
        shard: int | None = None,
        delta: bool = False,
    ) -> None:
        """
        Ask the worker to publish fresh CRLs of this issuer: of every shard, or of one (0: the complete CRL).

        With `delta`, deltas, where there are any. Raises PKIError(BAD_CERT_ID) for no such issuer or shard.
        """


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

    async def hierarchy(self, delegates: Sequence[str]) -> list[HierarchyNode]:
        """
        Return every issuer with its key's place, counts and CRL, this without its DER.

        `delegates` are the profiles of OCSP delegates. What it takes does not grow with the certificates.
        """

    async def search(self, query: CertificateQuery) -> list[StoredCertificate]: ...

    async def latest_crl(self, issuer: str, scope: CRLScope = COMPLETE) -> CRLRecord | None:
        """Return the newest CRL of this scope, its DER as a whole."""

    async def crls(self) -> list[CRLRecord]:
        """Return the newest CRL of each scope of each issuer, without its DER: shard by shard, a delta last."""

    async def block_key(self, key: BlockedKey, events: Sequence[Event]) -> bool:
        """Block a key for good and tell whether that is new; if it is not, nothing is stored."""

    async def blocked_key(self, spki_sha256: bytes) -> BlockedKey | None: ...

    async def blocked_keys(self, after: bytes, limit: int) -> list[BlockedKey]:
        """Blocked keys whose SHA-256 is greater than `after`, in its order; at most `limit`."""

    async def profile_records(self) -> list[ProfileRecord]:
        """Return every profile text that was ever loaded, by name, the latest first."""

    async def profile_switches(self) -> Mapping[str, ProfileSwitch]:
        """Return the latest switch of each profile that has one, by name; at most a second old."""

    async def switch_profile(self, switch: ProfileSwitch, event: Event) -> bool:
        """Switch a profile off or on, with its event, and tell whether that is new; else nothing is stored."""

    async def counts(self) -> Mapping[str, int]:
        """
        Requests waiting, requests taken, certificates, revoked, unconfirmed, for `chancery status`.

        Certificates and revoked are estimates when they are above `COUNTED`.
        """

    async def record(self, events: Sequence[Event]) -> None:
        """Journal events that have no other effect (logins, refusals)."""


class StatusReader(Protocol):
    """What the OCSP responder and the repository read. Coroutines, for one event loop."""

    async def statuses(self, keys: Sequence[tuple[int, bytes]]) -> Mapping[tuple[int, bytes], CertificateStatus]:
        """
        Return the status of each (issuer_id, serial) that was ever used, in one statement; a serial that was
        never used is absent. Raises PKIError(SYSTEM_UNAVAIL) when the database is away.

        Of a foreign CA's serials nobody knows which were used: each has a status with a `window`, and is good
        where no CRL lists it; of one that was never heard of the window is empty.
        """

    async def live(self, issuer_id: int, after: bytes, limit: int) -> list[bytes]:
        """
        Return at most `limit` serials after one, in the order of their octets: good or revoked, and not expired.

        What is kept on CRLs beyond its certificate's end (R16) has not expired here.

        Raises PKIError(SYSTEM_UNAVAIL) when the database is away.
        """

    async def issuers(self) -> list[IssuerRecord]: ...

    async def foreign(self) -> list[ForeignIssuer]:
        """Return the foreign CAs that are answered for from their CRLs."""

    async def latest_crl(self, issuer_id: int, scope: CRLScope = COMPLETE) -> CRLRecord | None:
        """Return the newest CRL of this scope, its DER as a whole."""

    async def crl_shards(self) -> list[tuple[int, int]]:
        """Return (issuer_id, shard) of every shard that was ever opened."""

    async def certificates_of_key(self, spki_sha256: bytes) -> list[bytes]:
        """
        Certificates (DER) issued for this public key that are good now, newest first: how a process finds
        the certificate of its own token key, and its successor without a restart.
        """


class IssuerStore(Protocol):
    """How issuers, profiles and operators come into an installation. Each method is one transaction."""

    def issuers(self) -> list[IssuerRecord]: ...

    def add_issuer(
        self,
        issuer: NewIssuer,
        at: datetime.datetime,
        events: Sequence[Event],
        acts: Sequence[IssuerAct] = (),
        takeover: Takeover | None = None,
    ) -> int:
        """
        Store an issuer and return its id; the same (name, certificate) again returns the id and stores nothing.

        With it, in the same transaction, `acts` upon this issuer and others, and what it has revoked elsewhere:
        its next CRLNumber is above the one taken over (R15). Raises PKIError(BAD_REQUEST) when the name is taken
        by another certificate, the parent is unknown, or an act does not fit.
        """

    def add_certificate(self, certificate: NewCertificate, at: datetime.datetime, events: Sequence[Event]) -> None:
        """
        Store a further certificate of an issuer; the same again stores nothing.

        Raises PKIError(BAD_REQUEST) when issuer or parent are unknown, or the certificate has another name or key
        than the issuer's.
        """

    def keys(self) -> Mapping[int, KeyPlace]:
        """Return where the key of each issuer is, by id, as far as it was told."""

    def tell_key(self, issuer_id: int, key: KeyPlace) -> None:
        """Store where an issuer's key is; what was told before stays."""

    def act(self, acts: Sequence[IssuerAct], events: Sequence[Event]) -> None:
        """
        Activate, deactivate or make the default, all at once.

        Raises PKIError(BAD_REQUEST) for an issuer that is unknown, whose key is elsewhere or that is so already,
        and for a default that is not active.
        """

    def open_shards(
        self, issuer: IssuerRecord, urls: Callable[[int], str], count: int, at: datetime.datetime
    ) -> list[CRLShard]:
        """
        Return the first `count` shards whose URL is `urls(number)`, opened for good where there are too few.

        Another number, or another address, leaves those of before as they are.
        """

    def import_crl(self, crl: CRLRecord, events: Sequence[Event]) -> None:
        """
        Reserve this number and publish a CRL that was signed elsewhere (the offline root's).

        The same CRL again is no change; PKIError(BAD_REQUEST) for a number not above the current one.
        """

    def add_profile(self, name: str, version: int, sha256: bytes, source: str, at: datetime.datetime) -> None:
        """
        Record a profile's text under its hash, once, with a PROFILE_LOADED event when it is new.

        Raises OperatorError when this version of the profile is recorded with another text.
        """
