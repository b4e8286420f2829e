"""The values of CRLs that cross the ports: scopes, records, how they stand, what goes into one."""

from __future__ import annotations

import dataclasses
import datetime

from chancery.ports.values import RevocationReason


@dataclasses.dataclass(frozen=True, slots=True)
class CRLShard:
    """
    A partition of an issuer's CRLs (RFC 5280 5.2.5): its number, from 1, and the URL of its CRL.

    The URL stands in the cRLDistributionPoints of its certificates and in its CRL's issuingDistributionPoint.
    """

    number: int
    url: str


@dataclasses.dataclass(frozen=True, slots=True)
class CRLScope:
    """
    Which of an issuer's CRLs (RFC 5280 5.2.4, 5.2.5): shard 0 is the complete one, which lists every shard's.

    `delta`: the changes since the newest CRL of the same shard that is not a delta.
    """

    shard: int = 0
    delta: bool = False

    def __str__(self) -> str:
        return (f"shard {self.shard}" if self.shard else "complete") + (" delta" if self.delta else "")


COMPLETE = CRLScope()

CRL_LEAP = 1 << 20
"""How far CRLNumber is moved on by a restore: further than any CRL that was published since the back-up."""
STANDBY_GAP = CRL_LEAP << 12
"""How far a standby's CRL numbers begin above those of a key that the primary has, too: above many restores."""


@dataclasses.dataclass(frozen=True, slots=True)
class CRLRecord:
    """
    A signed CRL. `this_update` is in whole seconds; `covers` is the exact moment from which its entries
    were read: a status changed later is not in it.

    `der` is the whole, or, with a `tail`, what stands before the entries: they lie in parts of their own. `base`
    is the number of a delta's base; entries whose time ended before `expired_since` are left out (R16);
    `idp` is the issuingDistributionPoint (DER), empty without one. `entries` None: unknown, of an earlier release.
    """

    issuer_id: int
    number: int
    this_update: datetime.datetime
    next_update: datetime.datetime
    covers: datetime.datetime
    der: bytes
    scope: CRLScope = COMPLETE
    base: int | None = None
    entries: int | None = None
    expired_since: datetime.datetime | None = None
    idp: bytes = b""
    size: int | None = None
    tail: bytes | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class CRLStanding:
    """The newest CRL of a scope. `usable`: the database can tell what changed since, so a delta can be made."""

    number: int
    this_update: datetime.datetime
    next_update: datetime.datetime
    base: int | None
    idp: bytes
    usable: bool


@dataclasses.dataclass(frozen=True, slots=True)
class CRLState:
    """
    How one shard's CRLs stand (0: the complete CRL); `url` is the shard's.

    `changed`: a status of this shard changed after what the newest of them covers; `wanted`, `wanted_delta`:
    somebody asked for one since.
    """

    issuer_id: int
    shard: int
    url: str | None
    full: CRLStanding | None
    delta: CRLStanding | None
    changed: bool
    wanted: bool
    wanted_delta: bool


@dataclasses.dataclass(frozen=True, slots=True)
class CRLSelection:
    """
    What goes into a CRL: the entries of a scope whose `listed_until` is not before `expired_since` (R16).

    With `base`, only what changed since that CRL, and as removeFromCRL what was released since, or ended
    between its `expired_since` and this one (RFC 5280 5.2.4). `previous` is the CRL that will be compared with.
    `number` is what was reserved for it; without one it is only to be read, as a whole.
    """

    issuer_id: int
    scope: CRLScope
    expired_since: datetime.datetime
    base: CRLRecord | None = None
    previous: CRLRecord | None = None
    number: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class RevokedEntry:
    """One line of a CRL."""

    serial: bytes
    revoked_at: datetime.datetime
    reason: RevocationReason
    invalidity_date: datetime.datetime | None
