"""The timestamping authority's records, as the auditor reads them."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from chancery.ports import IssuerRecord, TokenRecord
from chancery.ports.timestamps import BatchEvent, TokenQuery
from chancery.postgres import rows
from chancery.postgres.session import Session

_COLUMNS = "serial::text, gen_time, hash_oid, imprint, policy, client, unit, ordering"
_CONDITIONS = {
    "serial": "serial = %(serial)s::numeric",
    "imprint": "imprint = %(imprint)s",
    "client": "(client = %(client)s OR starts_with(client, %(client)s || '@'))",
    "since": "gen_time >= %(since)s",
    "before": "gen_time < %(before)s",
}
_FIND = (
    f"SELECT {_COLUMNS} FROM chancery.tsa_token WHERE true{{}} ORDER BY gen_time DESC, serial DESC LIMIT %(limit)s"  # noqa: S608 - put together from constants
)
_ROWS = f"""
SELECT {_COLUMNS} FROM chancery.tsa_token
WHERE serial BETWEEN %s::numeric AND %s::numeric AND gen_time BETWEEN %s AND %s ORDER BY serial"""  # noqa: S608 - put together from constants
_BATCHES = """
SELECT e.body, l.leaf_index FROM chancery.journal_event AS e LEFT JOIN chancery.journal_leaf AS l USING (event_id)
WHERE e.subject BETWEEN %s AND %s AND e.kind = 'tsa.tokens' ORDER BY e.subject DESC LIMIT %s"""
_CERTIFICATES = "SELECT der FROM chancery.certificate WHERE serial = %s"
_CRLS = f"""
SELECT DISTINCT ON (shard, at) {rows.CRL_COLUMNS} FROM chancery.crl,
    (VALUES (%(at)s::timestamptz), ('infinity')) AS moment (at)
WHERE issuer_id = %(issuer)s AND base_number IS NULL AND this_update <= at
ORDER BY shard, at, number DESC"""  # noqa: S608 - put together from constants


class PgTokenReader:
    """`ports.timestamps.TokenReader` as the role `chancery_auditor`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, query: TokenQuery) -> list[TokenRecord]:
        """Return recorded tokens, the newest first."""
        values = {name: getattr(query, name) for name in _CONDITIONS}
        values["serial"] = None if query.serial is None else str(query.serial)
        where = "".join(f" AND {text}" for name, text in _CONDITIONS.items() if values[name] is not None)
        return [_token(row) for row in self._session.fetch(_FIND.format(where), {**values, "limit": query.limit})]

    def batches(self, lowest: str, highest: str, limit: int) -> list[BatchEvent]:
        """Return the events of batches with a subject in this range, from the highest down."""
        return [BatchEvent(*row) for row in self._session.fetch(_BATCHES, (lowest, highest, limit))]

    def rows(self, first: int, last: int, since: datetime.datetime, until: datetime.datetime) -> list[TokenRecord]:
        """Return the tokens with serials and genTimes in these ranges, by serial."""
        return [_token(row) for row in self._session.fetch(_ROWS, (str(first), str(last), since, until))]

    def certificates(self, serial: bytes) -> list[bytes]:
        """Return the certificates (DER) of any issuer with this serial number."""
        return [bytes(row[0]) for row in self._session.fetch(_CERTIFICATES, (serial,))]

    def issuers(self) -> list[IssuerRecord]:
        """Return every issuer."""
        return [rows.issuer_record(row) for row in self._session.fetch(rows.ISSUERS)]

    def crls(self, issuer_id: int, at: datetime.datetime) -> list[bytes]:
        """Return the complete CRLs (DER), of each shard, that were the newest at this time, and are now."""
        found: dict[int, bytes] = {}
        for row in self._session.fetch(_CRLS, {"issuer": issuer_id, "at": at}):
            record = rows.crl_record(row)
            if record.tail is not None:
                parts = self._session.fetch(rows.CRL_PARTS, (issuer_id, record.number))
                record = rows.joined(record, (one[0] for one in parts))
            found[record.number] = record.der
        return [found[number] for number in sorted(found)]


def _token(row: Sequence[Any]) -> TokenRecord:
    serial, gen_time, hash_oid, imprint, *rest = row
    return TokenRecord(int(serial), gen_time, hash_oid, bytes(imprint), *rest)
