"""What the tables of a profile file are made of: strict structures, durations, object identifiers."""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Iterable
from typing import Annotated

import msgspec

from chancery.asn1 import der

_DURATION = re.compile(r"(?:(\d{1,5})d)?(?:(\d{1,4})h)?(?:(\d{1,4})m)?(?:(\d{1,5})s)?")
_OID = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")

ShortName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}\Z")]
OID = Annotated[str, msgspec.Meta(pattern=r"^[0-2](\.(0|[1-9][0-9]*))+\Z", max_length=128)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]


@functools.lru_cache(maxsize=256)
def duration(text: str) -> datetime.timedelta:
    """Return the time that "199d", "12h", "1d12h30m" and the like say; a day is 86,400 s (R12). ValueError."""
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise ValueError(f"{text!r} is not a duration such as 199d, 12h or 1d12h30m")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return datetime.timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def is_oid(text: str) -> bool:
    """Tell whether a text is a dotted object identifier that can be encoded."""
    try:
        return _OID.fullmatch(text) is not None and len(der.oid(text)) <= der.MAX_OID
    except ValueError:
        return False


def check_oids(oids: Iterable[str]) -> None:
    """Raise ValueError for a dotted number that cannot be encoded, or one that stands twice."""
    seen: set[str] = set()
    for oid in oids:
        if not is_oid(oid):
            raise ValueError(f"{oid} is not an object identifier")
        if oid in seen:
            raise ValueError(f"{oid} stands twice")
        seen.add(oid)


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of a profile file."""
