"""How the rows of a batch of tokens are bound to the one event of the journal that covers them."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable, Sequence

from chancery.ports import Event, EventDetail, EventKind, TokenRecord

TOKENS = "tokens:"


def row_line(token: TokenRecord) -> str:
    """
    Return a row as it is hashed: `serial|genTime|hash OID|imprint in hex|policy|client` and a line feed.

    genTime is in UTC to the microsecond.
    """
    moment = token.gen_time.astimezone(datetime.UTC).isoformat(timespec="microseconds")
    fields = (str(token.serial), moment, token.hash_oid, token.imprint.hex(), token.policy, token.client)
    return "|".join(fields) + "\n"


def row_hash(token: TokenRecord) -> bytes:
    """Return SHA-256 of its line: it can be shown to anybody and says nothing of imprint or client."""
    return hashlib.sha256(row_line(token).encode()).digest()


def rows_digest(hashes: Iterable[bytes]) -> str:
    """Return SHA-256 (hex) over the hashes of a batch's rows in serial order, as the journal holds it."""
    return hashlib.sha256(b"".join(hashes)).hexdigest()


def batch_subject(unit: str, serial: int) -> str:
    """Return the subject of the event of the batch whose first serial this is: they sort by unit and serial."""
    return f"{TOKENS}{unit}:{serial:040x}"


def tokens_event(tokens: Sequence[TokenRecord], at: datetime.datetime, actor: str) -> Event:
    """
    Return the event that covers a batch of one unit: how many, from which to which serial, and the rows' digest.

    The tokens of other units may have serials in between.
    """
    ordered = sorted(tokens, key=lambda token: token.serial)
    first, last = ordered[0], ordered[-1]
    detail: EventDetail = {
        "count": len(ordered),
        "first": str(first.serial),
        "last": str(last.serial),
        "sha256": rows_digest(map(row_hash, ordered)),
        "unit": first.unit,
    }
    return Event(EventKind.TOKENS_RECORDED, at, actor, batch_subject(first.unit, first.serial), detail)
