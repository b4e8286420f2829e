"""Between rows and values: what several stores need."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

from chancery.ports import (
    CertificateStatus,
    CRLRecord,
    CRLScope,
    FurtherCertificate,
    IssuerRecord,
    RevocationReason,
    StatusState,
)

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

# Every day from 1900 to 8999, as `Event.body` writes it: what was edited must not end a query. No braces: it is
# put into templates. Migration 0016 says the same of what the registration side writes.
_READABLE = (
    "^((19|[2-8][0-9])[0-9][0-9]-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])"
    "|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
    "|((19|[2-8][0-9])(0[48]|[2468][048]|[13579][26])|([2468][048]|[357][26])00)-02-29)"
    "T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9][.][0-9]+[+]00:00$"
)
EVENT_TIME = f"CASE WHEN body::json ->> 'at' ~ '{_READABLE}' THEN (body::json ->> 'at')::timestamptz END"
"""The time of an event, null when its body has none that can be read."""

# One statement, so that who is active and who is the default are of one moment. The newest renewal is current.
ISSUERS = """
SELECT i.issuer_id, i.name, i.certificate, i.parent_id, i.token_label, i.key_label,
    coalesce((SELECT a.act = 'activate' FROM chancery.issuer_act AS a
        WHERE a.issuer_id = i.issuer_id AND a.act <> 'default' ORDER BY a.act_id DESC LIMIT 1), true),
    coalesce(i.issuer_id = (SELECT a.issuer_id FROM chancery.issuer_act AS a
        WHERE a.act = 'default' ORDER BY a.act_id DESC LIMIT 1), false),
    c.certificates, c.parents, c.renewals
FROM chancery.issuer AS i
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(f.certificate ORDER BY f.certificate_id), '{}') AS certificates,
        coalesce(array_agg(f.parent_id ORDER BY f.certificate_id), '{}') AS parents,
        coalesce(array_agg(f.kind = 'renewal' ORDER BY f.certificate_id), '{}') AS renewals
    FROM chancery.issuer_certificate AS f WHERE f.issuer_id = i.issuer_id) AS c
ORDER BY i.issuer_id"""

CRL_COLUMNS = """issuer_id, number, this_update, next_update, covers, der, shard, base_number, entries,
    expired_since, scope_idp, size, tail"""
_LATEST_CRL = """
SELECT {} FROM chancery.crl WHERE issuer_id = %s AND shard = %s AND base_number IS {} NULL
ORDER BY number DESC LIMIT 1"""
CRL_PARTS = "SELECT data FROM chancery.crl_part WHERE issuer_id = %s AND number = %s ORDER BY part"


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
    issuer_id, name, certificate, parent_id, token_label, key_label, active, default, *further = row
    every = [FurtherCertificate(bytes(certificate), parent_id)]
    current = 0
    for number, (der, parent, renewal) in enumerate(zip(*further, strict=True), 1):
        every.append(FurtherCertificate(bytes(der), parent))
        current = number if renewal else current
    now = every.pop(current)
    return IssuerRecord(
        issuer_id, name, now.certificate, now.parent_id, token_label, key_label, active, default, tuple(every)
    )


def latest_crl(scope: CRLScope) -> str:
    """Return the statement that reads the newest CRL of a scope, given its issuer_id and its shard."""
    return _LATEST_CRL.format(CRL_COLUMNS, "NOT" if scope.delta else "")


def crl_record(row: Sequence[Any]) -> CRLRecord:
    """Make the value of a row of `CRL_COLUMNS`."""
    issuer_id, number, this_update, next_update, covers, der, shard, base, *rest = row
    scope = CRLScope(shard, delta=base is not None)
    return CRLRecord(issuer_id, number, this_update, next_update, covers, der, scope, base, *rest)


def joined(record: CRLRecord, parts: Iterable[bytes]) -> CRLRecord:
    """Return a CRL that lies in pieces as a whole."""
    return dataclasses.replace(record, der=b"".join((record.der, *parts, record.tail or b"")), tail=None)


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
