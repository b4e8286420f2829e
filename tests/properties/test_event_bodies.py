"""An event's body is the canonical JSON of the standard library, whatever stands in it: its hash is for ever."""

from __future__ import annotations

import datetime
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from chancery.ports import Event, EventKind

TEXT = st.text(st.characters(exclude_categories=[]), max_size=12)
VALUES = st.one_of(
    TEXT, st.integers(), st.integers(-(2**70), 2**70), st.booleans(), st.none(), st.lists(TEXT, max_size=3)
)
DETAILS = st.dictionaries(TEXT, st.one_of(VALUES, st.lists(TEXT, max_size=3).map(tuple)), max_size=6)
MOMENTS = st.datetimes(timezones=st.timezones(), min_value=datetime.datetime(1971, 1, 1))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(EventKind), MOMENTS, TEXT, TEXT, DETAILS)
def test_a_body_is_what_the_standard_library_writes(kind, at, actor, subject, detail):
    expected = json.dumps(
        {
            "actor": actor,
            "at": at.astimezone(datetime.UTC).isoformat(timespec="microseconds"),
            "detail": detail,
            "kind": kind.value,
            "subject": subject,
        },
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
    )
    assert expected == Event(kind, at, actor, subject, detail).body()


def test_every_character_is_written_alike():
    for start in range(0, 0x3000, 64):
        text = "".join(map(chr, range(start, start + 64)))
        event = Event(EventKind.LOGIN, datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), text, "", {text: text})
        assert json.dumps(text, ensure_ascii=False) in event.body()
