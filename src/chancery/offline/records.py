"""
The kinds of line in the offline journal. One record is one transaction, its events (`Event.body`) included.

The values inside are those of `chancery.ports`; a change of their fields is a change of this file format.
"""

from __future__ import annotations

import datetime
from typing import Final, Literal

import msgspec

from chancery.offline.bundle import SHA256Hex
from chancery.offline.operators import Confirmation, Operators
from chancery.ports import (
    CertificateRecord,
    CertificateStatus,
    CRLRecord,
    EnrolmentRequest,
    Intent,
    IssuerRecord,
    Refusal,
    RevocationRequest,
)

FORMAT: Final = "chancery-offline/1"


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    events: tuple[str, ...]


class Opened(_Record, frozen=True, kw_only=True, tag="opened"):
    """The first line: which format this is, the CA's name, and the first octet of its serials."""

    format: Literal["chancery-offline/1"]
    name: str
    subject: str
    instance: int


class KeyPlanned(_Record, frozen=True, kw_only=True, tag="key-planned"):
    """A key with this label is about to be generated; after a crash the token may hold it or not."""

    label: str
    key_kind: str


class KeyGenerated(_Record, frozen=True, kw_only=True, tag="key"):
    """The token holds the key with this label; `spki` is its SubjectPublicKeyInfo (DER)."""

    label: str
    spki: bytes


class IssuerAdded(_Record, frozen=True, kw_only=True, tag="issuer"):
    issuer: IssuerRecord


class RequestsReceived(_Record, frozen=True, kw_only=True, tag="requests"):
    """Requests wait; `bundle` is the request bundle that brought them, None for the root's own."""

    bundle: bytes | None
    requests: tuple[EnrolmentRequest, ...]


class RequestsTaken(_Record, frozen=True, kw_only=True, tag="taken"):
    at: datetime.datetime
    worker: str
    request_ids: tuple[int, ...]


class IntentsRecorded(_Record, frozen=True, kw_only=True, tag="intents"):
    worker: str
    intents: tuple[Intent, ...]
    refusals: tuple[Refusal, ...]


class CertificatesRecorded(_Record, frozen=True, kw_only=True, tag="certificates"):
    certificates: tuple[CertificateRecord, ...]
    refusals: tuple[Refusal, ...]


class IntentsUnconfirmed(_Record, frozen=True, kw_only=True, tag="unconfirmed"):
    """These (issuer, serial) may have been signed; the worker's unfinished requests wait again."""

    worker: str
    serials: tuple[tuple[int, bytes], ...]


class RevocationReceived(_Record, frozen=True, kw_only=True, tag="revocation"):
    request: RevocationRequest


class RevocationSettled(_Record, frozen=True, kw_only=True, tag="revocation-settled"):
    revocation_id: int
    status: CertificateStatus | None
    refusal: str | None


class CRLNumbered(_Record, frozen=True, kw_only=True, tag="crl-number"):
    issuer_id: int
    number: int


class CRLPublished(_Record, frozen=True, kw_only=True, tag="crl"):
    crl: CRLRecord


class BundleAnswered(_Record, frozen=True, kw_only=True, tag="answered"):
    """The request bundle with this SHA-256 has this response bundle, for ever."""

    request: SHA256Hex
    response: bytes


class CeremonyConfirmed(_Record, frozen=True, kw_only=True, tag="ceremony"):
    """Enough operators confirmed this script (its octets): what it says may be signed until the ceremony ends."""

    script: bytes
    confirmations: tuple[Confirmation, ...]


class OperatorsEnrolled(_Record, frozen=True, kw_only=True, tag="operators"):
    """From here on these operators confirm; `ceremony` is the SHA-256 of the confirmed script that says so."""

    ceremony: SHA256Hex
    operators: Operators


class RootRenewed(_Record, frozen=True, kw_only=True, tag="renewed"):
    """The issuer has a new certificate, of the same name and key."""

    issuer: IssuerRecord


class CeremonyEnded(_Record, frozen=True, kw_only=True, tag="ceremony-ended"):
    """All that the confirmed script (SHA-256) says was done."""

    at: datetime.datetime
    ceremony: SHA256Hex


class KitAdopted(_Record, frozen=True, kw_only=True, tag="kit"):
    """The second line of a standby: it works by the kit with this SHA-256, which a person compared."""

    kit: SHA256Hex
    epoch: int
    at: datetime.datetime


class HandedBack(_Record, frozen=True, kw_only=True, tag="handed-back"):
    """The last line of a standby: the bundle with this SHA-256 left the machine. Nothing follows it."""

    bundle: SHA256Hex
    at: datetime.datetime


Record = (
    Opened
    | KitAdopted
    | HandedBack
    | KeyPlanned
    | KeyGenerated
    | IssuerAdded
    | RequestsReceived
    | RequestsTaken
    | IntentsRecorded
    | CertificatesRecorded
    | IntentsUnconfirmed
    | RevocationReceived
    | RevocationSettled
    | CRLNumbered
    | CRLPublished
    | BundleAnswered
    | CeremonyConfirmed
    | OperatorsEnrolled
    | RootRenewed
    | CeremonyEnded
)
