"""The values about issuers: who they are, where their keys live, what becomes of them. All frozen."""

from __future__ import annotations

import dataclasses
import datetime
import enum

from chancery.ports.crls import CRLRecord, RevokedEntry
from chancery.ports.values import BlockedKey

COUNTED = 1000
"""Certificates up to so many are counted for people; more are estimated."""


class CertificateKind(enum.Enum):
    """
    What a further certificate of an issuer is for.

    RENEWAL: made anew for the same name and key; the newest one is the issuer's certificate from then on.
    CROSS: issued by another CA, so that its relying parties find a path, too.
    """

    RENEWAL = "renewal"
    CROSS = "cross"


@dataclasses.dataclass(frozen=True, slots=True)
class FurtherCertificate:
    """A certificate (DER) of an issuer beside its current one, and the issuer above it; None: self-signed."""

    certificate: bytes
    parent_id: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class IssuerRecord:
    """
    An issuer as stored: its current certificate (DER) and the token and label that hold its key.

    `further` are its other certificates, oldest first: same name, same key. An issuer that is not `active` issues
    no certificates but its OCSP delegates'; its CRLs and OCSP go on. At most one is the `default`.
    """

    issuer_id: int
    name: str
    certificate: bytes
    parent_id: int | None
    token_label: str | None
    key_label: str | None
    active: bool = True
    default: bool = False
    further: tuple[FurtherCertificate, ...] = ()


class Place(enum.Enum):
    """Where an issuer's key is: in a token here, in an offline CA's token, or with somebody else."""

    TOKEN = "token"  # noqa: S105 - a place, not a secret
    OFFLINE = "offline"
    EXTERNAL = "external"


@dataclasses.dataclass(frozen=True, slots=True)
class KeyPlace:
    """
    Where an issuer's key lives. Of a token here: the PKCS#11 module's path and what the token calls itself.

    `software` tells that no hardware guards it, `imported` that it was outside a token once (R7).
    """

    place: Place
    module: str | None = None
    device: str | None = None
    software: bool | None = None
    imported: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class NewIssuer:
    """
    An issuer that is not yet stored; `parent` is the name of the issuer above it, None for a root.

    `key` None: nothing is known of where the key is.
    """

    name: str
    certificate: bytes
    parent: str | None
    token_label: str | None
    key_label: str | None
    key: KeyPlace | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class NewCertificate:
    """A further certificate (DER) of the issuer `issuer`; `parent` as in `NewIssuer`."""

    issuer: str
    kind: CertificateKind
    certificate: bytes
    parent: str | None


class Act(enum.Enum):
    """What can become of an issuer."""

    ACTIVATE = "activate"
    DEACTIVATE = "deactivate"
    DEFAULT = "default"


@dataclasses.dataclass(frozen=True, slots=True)
class IssuerAct:
    """An act upon an issuer (by name), by whom and why (at most 1000 characters)."""

    issuer: str
    act: Act
    at: datetime.datetime
    actor: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Takeover:
    """
    What an issuer that comes from elsewhere has said before: its last CRL's number and entries.

    `crl_sha256` is over the CRLs (DER), one after the other.
    """

    crl_number: int
    crl_sha256: bytes
    revoked: tuple[RevokedEntry, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class ForeignRevocation:
    """
    The revocation of a certificate (DER) that an issuer signed before it was taken over.

    `kept_until` as in `CertificateStatus`; `block` is its key, when the reason says that it is compromised.
    """

    issuer_id: int
    certificate: bytes
    entry: RevokedEntry
    not_after: datetime.datetime
    kept_until: datetime.datetime | None
    block: BlockedKey | None


@dataclasses.dataclass(frozen=True, slots=True)
class HierarchyNode:
    """
    One issuer as the hierarchy view shows it. Counts above `COUNTED` are estimates.

    `last_expiry` is of its certificates that end last, exact to the day. `delegate`: whether one of an OCSP
    delegate is valid now; None: it has many certificates, and none of those looked at is.
    """

    record: IssuerRecord
    key: KeyPlace | None
    certificates: int
    revoked: int
    last_expiry: datetime.datetime | None
    delegate: bool | None
    crl: CRLRecord | None
