"""Between rows and values: what several stores need."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from chancery.ports import CertificateStatus, CRLRecord, IssuerRecord, RevocationReason, StatusState

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

ISSUERS = """
SELECT issuer_id, name, certificate, parent_id, token_label, key_label FROM chancery.issuer ORDER BY issuer_id"""

LATEST_CRL = """
SELECT issuer_id, number, this_update, next_update, covers, der FROM chancery.crl
WHERE issuer_id = %s ORDER BY number DESC LIMIT 1"""


def storable(text: str) -> str:
    """Replace what PostgreSQL text cannot hold (NUL, lone surrogates) by U+FFFD."""
    return _UNSTORABLE.sub("�", text)


def is_storable(text: str) -> bool:
    """Tell whether PostgreSQL text can hold this."""
    return _UNSTORABLE.search(text) is None


def text_array(values: Iterable[str]) -> str:
    """Return one array literal: unnest cannot take arrays of different lengths, so each row casts its own."""
    return "{" + ",".join('"' + storable(v).replace("\\", "\\\\").replace('"', '\\"') + '"' for v in values) + "}"


def columns(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    """Turn rows into `width` columns, for unnest."""
    return [[row[index] for row in rows] for index in range(width)]


def issuer_record(row: Sequence[Any]) -> IssuerRecord:
    """Make the value of one row of `ISSUERS`."""
    return IssuerRecord(*row)


def crl_record(row: Sequence[Any]) -> CRLRecord:
    """Make the value of one row of `LATEST_CRL`."""
    return CRLRecord(*row)


def status(row: Sequence[Any]) -> CertificateStatus:
    """
    Make the value of issuer_id, serial, state, not_after, revoked_at, reason, invalidity_date, released_at and, if
    it is asked for, shard.

    A state of None is a serial of which only the intent is known.
    """
    issuer_id, serial, state, not_after, revoked_at, reason, invalidity_date, released_at, *shard = row
    return CertificateStatus(
        issuer_id,
        bytes(serial),
        StatusState.UNCONFIRMED if state is None else StatusState(state),
        not_after,
        revoked_at,
        None if reason is None else RevocationReason(reason),
        invalidity_date,
        released_at,
        *shard,
    )
