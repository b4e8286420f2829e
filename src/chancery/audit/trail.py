"""The events about one subject, read from their stored bodies, and whether they say what the rows say."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from chancery.audit.findings import Finding, Kind
from chancery.ports import EventKind
from chancery.ports.auditing import JournalEntry

SKEW = datetime.timedelta(minutes=5)
"""How far the clocks of two hosts may differ."""


@dataclasses.dataclass(frozen=True, slots=True)
class Act:
    """An event as its body tells it."""

    event_id: int
    at: datetime.datetime
    kind: str
    actor: str
    subject: str
    detail: Mapping[str, object]


def read(entries: Iterable[JournalEntry]) -> list[Act]:
    """Return the events that can be read; one that cannot was edited, and counts as missing."""
    return [act for entry in entries if (act := _act(entry)) is not None]


def _act(entry: JournalEntry) -> Act | None:
    try:
        value = json.loads(entry.body)
        at = datetime.datetime.fromisoformat(value["at"])
        kind, actor, subject = (str(value[key]) for key in ("kind", "actor", "subject"))
        detail = dict(value["detail"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return Act(entry.event_id, at, kind, actor, subject, detail) if at.tzinfo else None


def of(acts: Iterable[Act], kind: EventKind, subject: str | None = None, actor: str | None = None) -> list[Act]:
    """Return those of one kind, about this subject and by this actor where they are given."""
    return [
        act
        for act in acts
        if act.kind == kind.value
        and (subject is None or act.subject == subject)
        and (actor is None or act.actor == actor)
    ]


def once(acts: Sequence[Act], kind: EventKind, about: str) -> Iterator[Finding]:
    """Say so when there is not exactly one (R27)."""
    if not acts:
        yield Finding(Kind.NOT_JOURNALLED, about, f"no {kind.value} event is in the journal")
    elif len(acts) > 1:
        ids = ", ".join(str(act.event_id) for act in acts)
        yield Finding(Kind.JOURNALLED_TWICE, about, f"{len(acts)} {kind.value} events: {ids}")


def says(act: Act, about: str, expected: Mapping[str, object]) -> Iterator[Finding]:
    """Say what the event tells otherwise than the rows; of `expected`, every value has to be in its detail."""
    if wrong := [key for key, value in expected.items() if key not in act.detail or act.detail[key] != value]:
        what = f"event {act.event_id} ({act.kind}) says something else than the row of {', '.join(wrong)}"
        yield Finding(Kind.JOURNAL_DIFFERS, about, what)


def dated(act: Act, about: str, at: datetime.datetime | None, column: str) -> Iterator[Finding]:
    """Say so when a column that has its time from the event has another."""
    if act.at != at:
        what = f"event {act.event_id} ({act.kind}) is of {act.at.isoformat()}, {column} is {at and at.isoformat()}"
        yield Finding(Kind.JOURNAL_DIFFERS, about, what)


def ordered(about: str, *acts: Act) -> Iterator[Finding]:
    """Say which event was written before one that it follows from, or is more than `SKEW` older."""
    for first, second in itertools.pairwise(acts):
        if first.event_id >= second.event_id or second.at < first.at - SKEW:
            what = f"event {second.event_id} ({second.kind}) stands before event {first.event_id} ({first.kind})"
            yield Finding(Kind.WRONG_ORDER, about, what)
