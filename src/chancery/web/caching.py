"""HTTP's own words for how long an answer may be kept (RFC 9111, RFC 5019 6), and conditional requests."""

from __future__ import annotations

import datetime
import email.utils
import hashlib

from chancery.web.hot import Answer

NO_STORE = (("Cache-Control", "no-store"),)


def etag(body: bytes) -> str:
    """Return a strong entity tag of these octets."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def fields(
    tag: str, modified: datetime.datetime, expires: datetime.datetime, max_age: int
) -> tuple[tuple[str, str], ...]:
    """
    Return the header fields of an answer that anybody may keep for `max_age` seconds.

    `modified` and `expires` are when it was made and when it ends (thisUpdate and nextUpdate).
    """
    return (
        ("ETag", tag),
        ("Last-Modified", email.utils.format_datetime(modified, usegmt=True)),
        ("Expires", email.utils.format_datetime(expires, usegmt=True)),
        ("Cache-Control", f"max-age={max_age}, public, no-transform, must-revalidate"),
    )


def not_modified(headers: tuple[tuple[str, str], ...]) -> Answer:
    """Return the 304 that goes with a 200 of these header fields (RFC 9110 15.4.5)."""
    return Answer(304, "", b"", headers)


def matches(if_none_match: bytes, tag: str) -> bool:
    """Tell whether an If-None-Match names this tag, by weak comparison (RFC 9110 13.1.2)."""
    if if_none_match.strip() == b"*":
        return True
    wanted = tag.encode()
    return any(one.strip().removeprefix(b"W/") == wanted for one in if_none_match.split(b","))
