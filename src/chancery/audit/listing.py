"""Reading the journal: the newest events of a kind or about a subject."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator

from chancery.ports import JournalStore

PAGE = 4096


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """An event as stored; `index` is its leaf, None while it waits for one. `detail` is JSON text."""

    index: int | None
    event_id: int
    at: str
    kind: str
    actor: str
    subject: str
    detail: str


def newest(store: JournalStore, *, subject: str | None, kind: str | None, limit: int) -> list[Entry]:
    """
    Return at most `limit` events, newest first, whose subject and kind begin with what is given.

    Reads backwards in pages until enough are found. An event that was deleted or is no JSON is left out:
    `verify` reports it.
    """
    entries = (_entry(*row) for row in _backwards(store))
    matching = (
        entry
        for entry in entries
        if entry is not None and entry.subject.startswith(subject or "") and entry.kind.startswith(kind or "")
    )
    return list(itertools.islice(matching, limit))


def _backwards(store: JournalStore) -> Iterator[tuple[int | None, int, str | None]]:
    yield from ((None, event_id, body) for event_id, body in reversed(store.events_without_leaf()))
    end = store.tree_size()
    while end > 0:
        start = max(0, end - PAGE)
        for leaf in reversed(store.leaves(start, end - start)):
            if leaf.index < end:
                yield leaf.index, leaf.event_id, leaf.body
        end = start


def _entry(index: int | None, event_id: int, body: str | None) -> Entry | None:
    try:
        value = json.loads(body or "")
        detail = json.dumps(value["detail"], sort_keys=True, ensure_ascii=False)
        at, kind, actor, subject = (str(value[key]) for key in ("at", "kind", "actor", "subject"))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return Entry(index, event_id, at, kind, actor, subject, detail)
