"""Which CRLs are due, from how they stand and how often they are wanted (R14, R15)."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Mapping

from chancery.ca.crl import DAY, CRLMaking, CRLSettings, Timing, distribution_point, make_crl
from chancery.ca.issuer import Issuer
from chancery.ports import Clock, CRLRecord, CRLScope, CRLStanding, CRLState, PublishingStore


@dataclasses.dataclass(frozen=True, slots=True)
class Due:
    """A CRL that is to be made. `urgent`: the one before it ends soon, or has ended; `until` is when."""

    issuer_id: int
    scope: CRLScope
    url: str | None
    urgent: bool
    until: datetime.datetime


def due(
    states: Iterable[CRLState], settings: CRLSettings, at: datetime.datetime, idps: Mapping[int, bytes]
) -> list[Due]:
    """
    Return what one issuer's states call for, what ends first before the rest.

    `idps` is the issuingDistributionPoint of each shard's CRLs as it is to be: a CRL that says another is due.
    """
    known = list(states)
    sharded = any(state.shard for state in known)
    found = [one for state in known if (one := _of(state, settings, at, idps[state.shard], sharded=sharded))]
    return sorted(found, key=lambda one: (not one.urgent, one.until, one.scope.shard))


def _of(state: CRLState, settings: CRLSettings, at: datetime.datetime, idp: bytes, *, sharded: bool) -> Due | None:
    timing = settings.complete
    if settings.delta is not None or (sharded and not state.shard):
        # R14: what only its period brings onto a CRL is there within a day.
        timing = dataclasses.replace(timing, period=min(timing.period or DAY, DAY, timing.lifetime * 0.99))
    full = state.full
    if (
        full is None
        or _is_over(full, timing, at)
        or full.idp != idp
        or state.wanted
        or (settings.delta is None and (state.changed or state.wanted_delta or _is_newer(state.delta, full)))
        or (settings.delta is not None and not full.usable)
    ):
        return _due(state, full, timing, at, delta=False)
    # RFC 5280 5.2.4: a delta of the same moment as its base would have to have its number.
    if settings.delta is None or at.replace(microsecond=0) <= full.this_update:
        return None
    delta = state.delta
    over = delta is None or delta.base != full.number or _is_over(delta, settings.delta, at)
    if over or state.changed or state.wanted_delta:
        return _due(state, delta, settings.delta, at, delta=True)
    return None


def _is_newer(delta: CRLStanding | None, full: CRLStanding) -> bool:
    """Whether a delta covers more: the issuer does without them now."""
    return delta is not None and delta.number > full.number


def _is_over(crl: CRLStanding, timing: Timing, at: datetime.datetime) -> bool:
    """Whether its time has come: near its end, a period old, or from the future (nobody accepts that one yet)."""
    margin = min(timing.margin, (crl.next_update - crl.this_update) / 2)
    if crl.this_update > at or at >= crl.next_update - margin:
        return True
    return timing.period is not None and at >= crl.this_update + timing.period


def _due(state: CRLState, crl: CRLStanding | None, timing: Timing, at: datetime.datetime, *, delta: bool) -> Due:
    until = crl.next_update if crl else at
    urgent = crl is not None and at >= until - timing.margin / 2
    return Due(state.issuer_id, CRLScope(state.shard, delta=delta), state.url, urgent, until)


@dataclasses.dataclass(frozen=True, slots=True)
class CRLPublishing:
    """The CRLs of these issuers, by issuer_id: those in `by_issuer` (by name) have settings of their own."""

    issuers: Mapping[int, Issuer]
    store: PublishingStore
    clock: Clock
    actor: str
    settings: CRLSettings
    by_issuer: Mapping[str, CRLSettings] = dataclasses.field(default_factory=dict)

    def of(self, issuer: Issuer) -> CRLSettings:
        """Return the settings of one issuer."""
        return self.by_issuer.get(issuer.record.name, self.settings)

    def due(self) -> list[Due]:
        """Return every CRL that is due now, the most urgent first."""
        at, states = self.clock.now(), self.store.crl_states()
        found: list[Due] = []
        for issuer_id, issuer in self.issuers.items():
            own = [state for state in states if state.issuer_id == issuer_id]
            settings = self.of(issuer)
            idps = {one.shard: distribution_point(one.url) for one in own}
            found += due(own, settings, at, idps)
        return sorted(found, key=lambda one: (not one.urgent, one.until, one.issuer_id, one.scope.shard))

    def make(self, one: Due) -> CRLRecord:
        """Make a CRL that is due; see `make_crl`."""
        issuer = self.issuers[one.issuer_id]
        settings = self.of(issuer)
        return make_crl(CRLMaking(issuer, self.store, self.clock, self.actor, settings, one.scope, one.url))
