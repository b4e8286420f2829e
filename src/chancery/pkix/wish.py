"""
What a requestor may wish beside key, names and what the CSR says: another validity (RFC 5280 4.1.2.5).

A wish travels as one canonical JSON text through the table that joins RA and CA; the worker decodes it
strictly and trusts none of it, and the profile says what becomes of it (`validity.requested`).
"""

from __future__ import annotations

import datetime
from typing import Annotated

import msgspec

from chancery.asn1 import der
from chancery.errors import ErrorType, PKIError

MAX_TEXT = 1024
"""Octets; as the column of the request table."""
_FIRST, _LAST = (datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) for year in (1950, 9999))
Moment = Annotated[datetime.datetime, msgspec.Meta(tz=True)]


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """
    From when, and either until when or for how long ("12h"); both moments are inside the validity.

    Moments are whole seconds in UTC from 1950 to 9998; other zones are converted, fractions refused.
    """

    not_before: Moment | None = None
    not_after: Moment | None = None
    duration: Annotated[str, msgspec.Meta(min_length=2, max_length=24)] | None = None

    def __post_init__(self) -> None:
        if self.not_after is not None and self.duration is not None:
            raise ValueError("either not_after or duration, not both")
        for moment in (self.not_before, self.not_after):
            if moment is not None and (moment.microsecond or not _FIRST <= moment < _LAST):
                raise ValueError("a moment is a whole second from 1950 to 9998")


def wish_text(wish: Wish | None) -> str | None:
    """Return the one text of a wish, for the request table; None when nothing is wished."""
    if wish is None or wish == Wish():
        return None
    said = {name: value for name in wish.__struct_fields__ if (value := getattr(wish, name)) is not None}
    said = {key: _utc(one) if isinstance(one, datetime.datetime) else one for key, one in said.items()}
    return msgspec.json.encode(said, order="sorted").decode()


def _utc(moment: datetime.datetime) -> str:
    return f"{der.utc(moment):%Y-%m-%dT%H:%M:%SZ}"


def read_wish(text: str | None) -> Wish | None:
    """Return what a text wishes; PKIError(BAD_DATA_FORMAT) unless it is exactly what `wish_text` writes."""
    if text is None:
        return None
    try:
        wish = msgspec.json.decode(text.encode(), type=Wish) if len(text) <= MAX_TEXT else None
    except (msgspec.MsgspecError, UnicodeError, ValueError):
        wish = None
    if wish is None or wish_text(wish) != text:
        raise PKIError(ErrorType.BAD_DATA_FORMAT, "the wish beside the request cannot be read")
    return wish
