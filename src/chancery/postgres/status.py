"""What the OCSP responder and the repository read. Nothing here writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chancery.ports import COMPLETE, CertificateStatus, Clock, CRLRecord, CRLScope, ForeignIssuer, IssuerRecord
from chancery.postgres import foreign, rows
from chancery.postgres.session import AsyncPool

# A serial of which only the intent is known has no status row yet; its intent is looked at for it alone.
_STATUSES = """
SELECT issuer_id, serial, s.state, coalesce(s.not_after, (
        SELECT i.not_after FROM chancery.intent AS i WHERE (i.issuer_id, i.serial) = (k.issuer_id, k.serial))),
    s.revoked_at, s.reason, s.invalidity_date, s.released_at
FROM unnest(%b::integer[], %b::bytea[]) AS k (issuer_id, serial)
LEFT JOIN chancery.certificate_status AS s USING (issuer_id, serial)"""

_LIVE = """
SELECT serial FROM chancery.certificate_status
WHERE issuer_id = %(issuer)s AND serial > %(after)s AND coalesce(kept_until, not_after) >= %(at)s
  AND state <> 'unconfirmed'
ORDER BY serial LIMIT %(limit)s"""

_OF_KEY = """
SELECT c.der FROM chancery.certificate AS c JOIN chancery.certificate_status AS s USING (issuer_id, serial)
WHERE c.spki_sha256 = %(spki)s AND s.state = 'good' AND c.not_before <= %(at)s AND c.not_after >= %(at)s
ORDER BY c.certificate_id DESC"""


_SHARDS = "SELECT issuer_id, shard FROM chancery.crl_shard ORDER BY issuer_id, shard"


async def whole_crl(pool: AsyncPool, issuer_id: int, scope: CRLScope) -> CRLRecord | None:
    """Return the newest CRL of a scope, put together where it lies in pieces."""
    found = await pool.fetch(rows.latest_crl(scope), (issuer_id, scope.shard))
    if not found:
        return None
    record = rows.crl_record(found[0])
    if record.tail is None:
        return record
    parts = await pool.fetch(rows.CRL_PARTS, (issuer_id, record.number))
    return rows.joined(record, (row[0] for row in parts))


class PgStatusReader:
    """`ports.StatusReader` as the role `chancery_ocsp` (or `chancery_tsa` for its own certificate)."""

    def __init__(self, pool: AsyncPool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    async def statuses(self, keys: Sequence[tuple[int, bytes]]) -> Mapping[tuple[int, bytes], CertificateStatus]:
        """Return the status of each (issuer_id, serial) that was ever used; foreign ones by another statement."""
        ours = [key for key in keys if key[0] >= 0]
        found = await self._pool.fetch(_STATUSES, rows.columns(ours, 2)) if ours else []
        known = {(row[0], row[1]): rows.status(row) for row in found if row[3] is not None}
        return known if len(ours) == len(keys) else known | await self._foreign(keys)

    async def _foreign(self, keys: Sequence[tuple[int, bytes]]) -> dict[tuple[int, bytes], CertificateStatus]:
        ids, serials = rows.columns([(-issuer_id, serial) for issuer_id, serial in keys if issuer_id < 0], 2)
        asked = {"issuers": sorted(set(ids)), "ids": ids, "serials": serials}
        return foreign.statuses(await self._pool.fetch(foreign.STATUSES, asked), self._clock.now())

    async def foreign(self) -> list[ForeignIssuer]:
        """Return the foreign CAs that are answered for from their CRLs."""
        return [foreign.issuer(row) for row in await self._pool.fetch(foreign.ISSUERS)]

    async def live(self, issuer_id: int, after: bytes, limit: int) -> list[bytes]:
        """Return at most `limit` serials after one, in the order of their octets: good or revoked, and of now."""
        asked = {"issuer": issuer_id, "after": after, "at": self._clock.now(), "limit": limit}
        return [row[0] for row in await self._pool.fetch(_LIVE, asked)]

    async def issuers(self) -> list[IssuerRecord]:
        """Return every issuer, in the order in which they were added."""
        return [rows.issuer_record(row) for row in await self._pool.fetch(rows.ISSUERS)]

    async def latest_crl(self, issuer_id: int, scope: CRLScope = COMPLETE) -> CRLRecord | None:
        """Return the current CRL of this scope, its DER as a whole."""
        return await whole_crl(self._pool, issuer_id, scope)

    async def crl_shards(self) -> list[tuple[int, int]]:
        """Return (issuer_id, shard) of every shard that was ever opened."""
        return [(row[0], row[1]) for row in await self._pool.fetch(_SHARDS)]

    async def certificates_of_key(self, spki_sha256: bytes) -> list[bytes]:
        """Return certificates (DER) issued for this public key that are good now, newest first."""
        found = await self._pool.fetch(_OF_KEY, {"spki": spki_sha256, "at": self._clock.now()})
        return [row[0] for row in found]
