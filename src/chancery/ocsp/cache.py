"""
Answers kept for as long as they are true: bounded, dropped by NOTIFY, safe against late writers.

Nothing here waits or reads a clock; the caller passes monotonic seconds.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from typing import Generic, TypeVar

from chancery.ocsp.responder import Subject

K = TypeVar("K", bytes, Subject)
V = TypeVar("V")
# What an entry costs beside its key and value: measured with sys.getsizeof over dict, entry and index.
_OVERHEAD = 400


class Changes:
    """
    What changed lately, so that nothing read before a change is kept after it.

    A reader takes `now` before it reads the database, and asks `since` before it keeps or shares what it read.
    At most `remembered` single changes are told apart; anything read before the oldest of them counts as changed.
    """

    def __init__(self, remembered: int = 65536) -> None:
        self.now = 0
        self._remembered = remembered
        self._floor = 0
        self._last: collections.OrderedDict[Subject, int] = collections.OrderedDict()
        self._issuers: dict[int, int] = {}

    def note(self, subject: Subject) -> None:
        """One status changed."""
        self.now += 1
        self._last[subject] = self.now
        self._last.move_to_end(subject)
        if len(self._last) > self._remembered:
            _, self._floor = self._last.popitem(last=False)

    def note_issuer(self, issuer_id: int) -> None:
        """Any status of one issuer may have changed."""
        self.now += 1
        self._issuers[issuer_id] = self.now

    def note_all(self) -> None:
        """Anything may have changed."""
        self.now += 1
        self._floor = self.now
        self._last.clear()

    def since(self, moment: int, subjects: Iterable[Subject]) -> bool:
        """Tell whether one of these may have changed after `moment` (a value of `now`)."""
        if moment < self._floor:
            return True
        last, issuers = self._last, self._issuers
        return any(
            last.get(subject, 0) > moment or (issuers and issuers.get(subject[0], 0) > moment)
            for subject in subjects
        )


@dataclasses.dataclass(slots=True)
class _Entry(Generic[V]):
    value: V
    until: float
    subjects: tuple[Subject, ...]
    size: int


class Cache(Generic[K, V]):
    """
    Values by key, least recently used out first, at most `max_entries` and about `max_bytes` of them.

    Each value names the statuses it says something about; `drop` forgets all values of one status.
    """

    def __init__(self, changes: Changes, *, max_entries: int, max_bytes: int) -> None:
        self._changes = changes
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: collections.OrderedDict[K, _Entry[V]] = collections.OrderedDict()
        self._keys: dict[Subject, set[K]] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K, now: float) -> V | None:
        """Return what is kept under this key, unless its time is over; that alone does not drop it."""
        entry = self._entries.get(key)
        if entry is None or entry.until <= now:
            return None
        self._entries.move_to_end(key)
        return entry.value

    def put(
        self, key: K, value: V, *, size: int, until: float, subjects: tuple[Subject, ...], read_at: int
    ) -> bool:
        """
        Keep a value that was read at `read_at` (a value of `Changes.now`) until `until`.

        False, and nothing kept, when one of its statuses has changed since: the value was overtaken.
        """
        if self._changes.since(read_at, subjects):
            return False
        self._remove(key)
        entry = _Entry(value, until, subjects, size + _OVERHEAD)
        if entry.size > self._max_bytes:
            return False
        self._entries[key] = entry
        self.bytes += entry.size
        for subject in subjects:
            self._keys.setdefault(subject, set()).add(key)
        while len(self._entries) > self._max_entries or self.bytes > self._max_bytes:
            self._remove(next(iter(self._entries)))
        return True

    def drop(self, subject: Subject) -> None:
        """Forget everything that says something about this status."""
        for key in tuple(self._keys.get(subject, ())):
            self._remove(key)

    def drop_issuer(self, issuer_id: int) -> None:
        """Forget everything that says something about one of this issuer's statuses."""
        for subject in [one for one in self._keys if one[0] == issuer_id]:
            self.drop(subject)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._keys.clear()
        self.bytes = 0

    def _remove(self, key: K) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self.bytes -= entry.size
        for subject in entry.subjects:
            keys = self._keys.get(subject)
            if keys is not None:
                keys.discard(key)
                if not keys:
                    del self._keys[subject]
