"""The CRL part of `fakes.MemoryStore`: complete, sharded and delta CRLs in memory (RFC 5280 5.2.4, 5.2.5)."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Iterator, Sequence
from typing import Any

from chancery.asn1.crl import entry
from chancery.ca.crl import MemoryDraft
from chancery.ports import (
    COMPLETE,
    CertificateStatus,
    CRLRecord,
    CRLScope,
    CRLSelection,
    CRLStanding,
    CRLState,
    Event,
    RevocationReason,
    StatusState,
)

_REMOVED = RevocationReason.REMOVE_FROM_CRL
_DAY = datetime.timedelta(days=1)


@dataclasses.dataclass(frozen=True)
class Wish:
    """That somebody asked for CRLs of an issuer: of every shard (None), or of one."""

    issuer_id: int
    shard: int | None
    delta: bool
    moment: int


class MemoryCRLs:
    """
    `ports.CRLStore` in memory. Every change of a status and every wish is at a moment of its own; a CRL knows up
    to which moment its entries were read, so what came later is not in it, whatever the times say.
    """

    faults: Any
    statuses: dict[tuple[int, bytes], CertificateStatus]
    history: list[CertificateStatus]
    events: list[Event]

    def __init__(self) -> None:
        self.crl_numbers: dict[int, int] = {}
        self.crls: list[CRLRecord] = []
        self.issuers: dict[int, str] = {}
        self.shards: dict[int, dict[int, str]] = {}
        self.wishes: list[Wish] = []
        self.moment = 0
        self.changed_at: dict[tuple[int, bytes], int] = {}
        # Of each published CRL: up to which moment, and what part of the history, it was read.
        self.read: dict[tuple[int, int], tuple[int, int]] = {}
        self._drafts: dict[int, tuple[int, int]] = {}

    def ask_crl(self, issuer_id: int, shard: int | None = None, *, delta: bool = False) -> None:
        self.moment += 1
        self.wishes.append(Wish(issuer_id, shard, delta, self.moment))

    @contextlib.contextmanager
    def open_crl(self, selection: CRLSelection) -> Iterator[MemoryDraft]:
        def act() -> MemoryDraft:
            self._drafts[selection.issuer_id] = (self.moment, len(self.history))
            if selection.base is not None:
                return MemoryDraft(tuple(self._delta(selection, selection.base)))
            listed = [one for one in self._revoked(selection) if one.listed_until >= selection.expired_since]
            return MemoryDraft(tuple(map(_entry, listed)), self._gone(selection))

        try:
            yield self.faults.around(act)
        finally:
            self._drafts.pop(selection.issuer_id, None)

    def _in_scope(self, selection: CRLSelection) -> list[CertificateStatus]:
        shard = selection.scope.shard
        of_issuer = [one for (issuer, _), one in sorted(self.statuses.items()) if issuer == selection.issuer_id]
        return [one for one in of_issuer if shard in {0, one.shard}]

    def _revoked(self, selection: CRLSelection) -> list[CertificateStatus]:
        return [one for one in self._in_scope(selection) if one.state is StatusState.REVOKED]

    def _gone(self, selection: CRLSelection) -> int:
        previous = selection.previous
        if previous is None or previous.expired_since is None:
            return 0
        since = previous.covers - _DAY
        released = [one for one in self._in_scope(selection) if _released(one) and one.released_at >= since]
        return len(released) + len(self._expired(selection, previous.expired_since))

    def _expired(self, selection: CRLSelection, before: datetime.datetime) -> list[CertificateStatus]:
        return [one for one in self._revoked(selection) if before <= one.listed_until < selection.expired_since]

    def _delta(self, selection: CRLSelection, base: CRLRecord) -> Iterator[bytes]:
        expired = self._expired(selection, base.expired_since or selection.expired_since)
        seen, _ = self.read[base.issuer_id, base.number]
        for one in self._in_scope(selection):
            since = (
                self.changed_at[one.issuer_id, one.serial] > seen and one.listed_until >= selection.expired_since
            )
            if since and one.state is StatusState.REVOKED:
                yield _entry(one)
            elif since and _released(one):
                yield entry(one.serial, one.released_at, _REMOVED)
            elif one in expired:
                yield entry(one.serial, one.revoked_at, _REMOVED)

    def crl_states(self) -> list[CRLState]:
        def act() -> list[CRLState]:
            known = sorted(self.issuers.keys() | {issuer for issuer, _ in self.statuses})
            return [
                self._state(issuer, shard, url)
                for issuer in known
                for shard, url in [(0, None), *sorted(self.shards.get(issuer, {}).items())]
            ]

        return self.faults.around(act)

    def _state(self, issuer: int, shard: int, url: str | None) -> CRLState:
        full, delta = (self._latest(issuer, CRLScope(shard, delta=one)) for one in (False, True))
        newest = delta if full and delta and delta.number > full.number else full
        seen = self._seen(newest)
        changed = newest is None or any(
            moment > seen
            and (_released(self.statuses[key]) or self.statuses[key].state is StatusState.REVOKED)
            and self.statuses[key].shard == shard
            for key, moment in self.changed_at.items()
            if key[0] == issuer
        )
        wishes = [one for one in self.wishes if one.issuer_id == issuer and one.shard in {None, shard}]
        wanted = full is not None and any(not one.delta and one.moment > self._seen(full) for one in wishes)
        wanted_delta = full is not None and any(one.delta and one.moment > seen for one in wishes)
        standings = (_standing(full), _standing(delta))
        return CRLState(issuer, shard, url, *standings, changed=changed, wanted=wanted, wanted_delta=wanted_delta)

    def _seen(self, crl: CRLRecord | None) -> int:
        return self.read[crl.issuer_id, crl.number][0] if crl else 0

    def latest_crl(self, issuer_id: int, scope: CRLScope = COMPLETE) -> CRLRecord | None:
        return self.faults.around(lambda: self._latest(issuer_id, scope))

    def _latest(self, issuer_id: int, scope: CRLScope = COMPLETE) -> CRLRecord | None:
        found = (one for one in self.crls if (one.issuer_id, one.scope) == (issuer_id, scope))
        return max(found, key=lambda one: one.number, default=None)

    def reserve_crl_number(self, issuer_id: int, events: Sequence[Event]) -> int:
        def act() -> int:
            self.crl_numbers[issuer_id] = self.crl_numbers.get(issuer_id, 0) + 1
            self.events += events
            return self.crl_numbers[issuer_id]

        return self.faults.around(act)

    def publish_crl(self, crl: CRLRecord, events: Sequence[Event]) -> None:
        def act() -> None:
            of_shard = [one.number for one in self.crls if _shard(one) == _shard(crl)]
            assert crl.number > max(of_shard, default=0)
            assert crl.number <= self.crl_numbers[crl.issuer_id]
            self.crls.append(crl)
            self.read[crl.issuer_id, crl.number] = self._drafts[crl.issuer_id]
            self.events += events

        self.faults.around(act)


def _shard(crl: CRLRecord) -> tuple[int, int]:
    return crl.issuer_id, crl.scope.shard


def _released(status: CertificateStatus) -> bool:
    return status.state is StatusState.GOOD and status.released_at is not None


def _entry(status: CertificateStatus) -> bytes:
    return entry(status.serial, status.revoked_at, status.reason, status.invalidity_date)


def _standing(crl: CRLRecord | None) -> CRLStanding | None:
    if crl is None:
        return None
    return CRLStanding(crl.number, crl.this_update, crl.next_update, crl.base, crl.idp, usable=True)
