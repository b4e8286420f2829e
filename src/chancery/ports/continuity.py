"""The values of continuity: the kit of a standby CA as it is kept, and what comes back from it. All frozen."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from typing import Protocol

from chancery.ports.crls import CRLRecord
from chancery.ports.hierarchy import IssuerRecord
from chancery.ports.values import (
    BlockedKey,
    CertificateRecord,
    CertificateStatus,
    EnrolmentRequest,
    Event,
    Intent,
    Operator,
    Refusal,
    RevocationRequest,
)

MAX_STATUSES = 200_000
"""Most statuses, and most blocked keys, of one kit."""


@dataclasses.dataclass(frozen=True, slots=True)
class KitRecord:
    """A kit as it was signed (`kit`, whole), for which issuer, and the octet that is in the standby's serials."""

    epoch: int
    issuer_id: int
    instance: int
    kit: bytes
    made_at: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Prepared:
    """
    What a kit is made of, as of one moment; `statuses` are the issuer's that a CRL may still have to list.

    `crl_number` is the highest that was reserved, `previous` the head of the last hand-back of this issuer.
    """

    issuer: IssuerRecord
    chain: tuple[bytes, ...]
    epoch: int
    crl: CRLRecord | None
    crl_number: int
    statuses: tuple[CertificateStatus, ...]
    operators: tuple[Operator, ...]
    inactive_profiles: frozenset[str]
    blocked: tuple[bytes, ...]
    previous: bytes | None


@dataclasses.dataclass(frozen=True, slots=True)
class Settled:
    """A revocation as the standby settled it, and when: a status, or a refusal in words."""

    request: RevocationRequest
    status: CertificateStatus | None
    refusal: str | None
    at: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class TakenBack:
    """
    What a verified hand-back brings in. Ids of requests and revocations, in `events` too, are the standby's own.

    `head` (SHA-256) and `length` say where its journal ended, `sha256` is the bundle's. `unconfirmed` are intents
    that may have been signed.
    """

    epoch: int
    issuer_id: int
    head: bytes
    length: int
    sha256: bytes
    worker: str
    requests: tuple[EnrolmentRequest, ...]
    refusals: tuple[Refusal, ...]
    intents: tuple[Intent, ...]
    unconfirmed: tuple[Intent, ...]
    certificates: tuple[CertificateRecord, ...]
    revocations: tuple[Settled, ...]
    numbers: tuple[int, ...]
    crls: tuple[CRLRecord, ...]
    blocked: tuple[BlockedKey, ...]
    events: tuple[Event, ...]


class ContinuityStore(Protocol):
    """The primary's side of continuity. Each method is one transaction."""

    def gather(self, issuer: str, at: datetime.datetime) -> Prepared:
        """Read what a kit for this issuer is made of; PKIError(BAD_REQUEST) when it cannot have one."""

    def add_kit(self, kit: KitRecord, events: Sequence[Event]) -> None:
        """Keep a kit; PKIError(BAD_REQUEST) when another one has its epoch."""

    def kit(self, epoch: int) -> KitRecord | None:
        """Return the kit of an epoch."""

    def take_back(
        self, taken: TakenBack, at: datetime.datetime, events: Sequence[Event], *, dry_run: bool
    ) -> bool:
        """
        Store everything in one transaction, or with `dry_run` undo it at its end; False: it was in already.

        PKIError(BAD_REQUEST) for a fork: another hand-back closed the epoch, or a number was passed.
        """
