"""Foreign CAs, whose keys are elsewhere: OCSP answers for them from their CRLs."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Iterable
from typing import Protocol

from chancery.ports.crls import RevokedEntry
from chancery.ports.hierarchy import IssuerRecord
from chancery.ports.values import Event


@dataclasses.dataclass(frozen=True, slots=True)
class ForeignIssuer:
    """
    A foreign CA as the responder sees it: `record.issuer_id` is negative, so that it is never one of ours.

    `delegates` are the certificates (DER) that it made for the responder's keys, newest first.
    """

    record: IssuerRecord
    delegates: tuple[bytes, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class ForeignPoint:
    """
    A distribution point of a foreign CA and the CRLs from there that count; times None: there is none yet.

    `freshest` is where the complete CRL says its deltas are (RFC 5280 5.2.6).
    """

    foreign_id: int
    issuer: str
    point_id: int
    url: str
    number: int | None = None
    this_update: datetime.datetime | None = None
    next_update: datetime.datetime | None = None
    freshest: str | None = None
    entries: int | None = None
    sha256: bytes | None = None
    delta_number: int | None = None
    delta_this_update: datetime.datetime | None = None
    delta_next_update: datetime.datetime | None = None
    delta_sha256: bytes | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ForeignCRL:
    """A verified CRL of a foreign CA without its entries; `base` is the number of a delta's base."""

    number: int
    base: int | None
    this_update: datetime.datetime
    next_update: datetime.datetime
    sha256: bytes
    freshest: str | None


class ForeignStore(Protocol):
    """What the program needs that brings foreign CRLs in. Each method is one transaction, its events included."""

    def add(self, name: str, certificate: bytes, urls: Iterable[str], at: datetime.datetime, event: Event) -> None:
        """Pin a CA's certificate (DER). PKIError(BAD_REQUEST) when its name or key is here already."""

    def end(self, name: str, at: datetime.datetime, event: Event) -> None:
        """Answer for it no more. PKIError(BAD_CERT_ID) when there is none of this name."""

    def add_delegate(self, name: str, certificate: bytes, at: datetime.datetime, event: Event) -> None:
        """Keep a delegate certificate (DER) that it made. PKIError(BAD_CERT_ID) for no such name."""

    def issuers(self) -> list[ForeignIssuer]: ...

    def points(self) -> list[ForeignPoint]:
        """Return every distribution point with how it stands, by issuer."""

    def add_crl(
        self,
        point_id: int,
        crl: ForeignCRL,
        entries: Iterable[RevokedEntry],
        at: datetime.datetime,
        event: Callable[[int], Event],
    ) -> int:
        """
        Make this CRL the one that counts, and forget the entries of those before; return how many it has.

        `event` is asked for the event once that number is known.

        Raises PKIError(BAD_REQUEST), and nothing is stored, when there is a newer one, when a serial stands twice,
        or when the complete CRL that a delta continues is not here; and what `entries` raises.
        """

    def refused(self, event: Event) -> None:
        """Record that a CRL was not taken."""
