"""Revocations as the worker settles them."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from chancery.ports import (
    CertificateStatus,
    RevocationReason,
    RevocationRequest,
    Settlement,
    Standing,
)
from chancery.postgres import blocklist, rows
from chancery.postgres.crl import PgCRLStore
from chancery.postgres.journal import insert_events
from chancery.postgres.session import PgConnection

_REQUEST = "revocation_id, issuer_id, serial, reason, invalidity_date, requestor, received_at"
# Single requests first, then those of the jobs that run.
_TAKE = f"""
(SELECT {_REQUEST} FROM chancery.revocation_request
WHERE state = 'waiting' AND job_id IS NULL ORDER BY revocation_id LIMIT %(limit)s)
UNION ALL
(SELECT q.* FROM chancery.revocation_job AS j, LATERAL (
    SELECT {_REQUEST} FROM chancery.revocation_request
    WHERE state = 'waiting' AND job_id = j.job_id ORDER BY revocation_id LIMIT %(limit)s) AS q
WHERE j.state = 'running' ORDER BY j.job_id, q.revocation_id LIMIT %(limit)s)
LIMIT %(limit)s"""  # noqa: S608 - put together from constants

# An operator is one now: not removed, and with a certificate that is good. Officers and administrators revoke
# anything, requestors what they asked for; an intent without a certificate counts.
_STANDINGS = """
WITH who AS (
    SELECT o.name, o.roles && ARRAY['officer', 'administrator'] AS anything, 'requestor' = ANY (o.roles) AS own
    FROM chancery.operator AS o
    JOIN chancery.certificate AS c ON sha256(c.der) = o.fingerprint
    JOIN chancery.certificate_status AS s USING (issuer_id, serial)
    WHERE o.name = ANY (%b::text[]) AND o.removed_at IS NULL AND s.state = 'good')
SELECT coalesce(w.anything, false), coalesce(w.own AND r.requestor = w.name, false), issuer_id, serial, s.state,
    i.not_after, s.revoked_at, s.reason, s.invalidity_date, s.released_at,
    i.shard, i.tbs, c.der
FROM unnest(%b::integer[], %b::integer[], %b::bytea[], %b::text[]) AS k (n, issuer_id, serial, requestor)
LEFT JOIN who AS w ON w.name = k.requestor
LEFT JOIN chancery.intent AS i USING (issuer_id, serial)
LEFT JOIN chancery.request AS r USING (request_id)
LEFT JOIN chancery.certificate_status AS s USING (issuer_id, serial)
LEFT JOIN chancery.certificate AS c USING (issuer_id, serial)
ORDER BY n"""

# In the order of their ids, so that two workers wait for each other and not in a circle.
_SETTLE = """
WITH held AS (
    SELECT revocation_id FROM chancery.revocation_request
    WHERE revocation_id = ANY (%b::bigint[]) AND state = 'waiting' ORDER BY revocation_id FOR NO KEY UPDATE)
UPDATE chancery.revocation_request AS q SET state = a.state, detail = a.detail
FROM unnest(%b::bigint[], %b::text[], %b::text[]) AS a (revocation_id, state, detail)
    JOIN held USING (revocation_id)
WHERE q.revocation_id = a.revocation_id RETURNING q.revocation_id"""

# Inserted when only the intent is known. What is not forwards is refused by status_forwards.
_SET = """
INSERT INTO chancery.certificate_status AS s
    (issuer_id, serial, state, not_after, revoked_at, reason, invalidity_date, released_at, changed_at, shard,
    kept_until)
SELECT * FROM unnest(%b::integer[], %b::bytea[], %b::text[], %b::timestamptz[], %b::timestamptz[], %b::smallint[],
    %b::timestamptz[], %b::timestamptz[], %b::timestamptz[], %b::smallint[], %b::timestamptz[])
    AS a (issuer_id, serial)
ORDER BY issuer_id, serial
ON CONFLICT (issuer_id, serial) DO UPDATE SET state = excluded.state, revoked_at = excluded.revoked_at,
    reason = excluded.reason, invalidity_date = excluded.invalidity_date, released_at = excluded.released_at,
    changed_at = excluded.changed_at, kept_until = excluded.kept_until"""


class PgRevocationStore(PgCRLStore):
    """`ports.RevocationStore` as the role `chancery_worker`."""

    def take_revocations(self, limit: int) -> list[RevocationRequest]:
        """Return waiting revocation requests, oldest first. They stay waiting until `settle` ends them."""
        return [
            RevocationRequest(row[0], row[1], bytes(row[2]), RevocationReason(row[3]), *row[4:])
            for row in self._session.fetch(_TAKE, {"limit": limit})
        ]

    def standings(self, requests: Sequence[RevocationRequest]) -> list[Standing]:
        """Return what each request is to be judged by; an intent alone is UNCONFIRMED."""
        asked = [(n, one.issuer_id, one.serial, one.requestor) for n, one in enumerate(requests)]
        names = sorted({one.requestor for one in requests})
        return [_standing(row) for row in self._session.fetch(_STANDINGS, (names, *rows.columns(asked, 4)))]

    def blocked(self, spki_sha256s: Sequence[bytes]) -> set[bytes]:
        """Return which of these keys were reported compromised (R5)."""
        return blocklist.blocked(self._session, spki_sha256s)

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """
        End these requests, each about another serial: statuses, blocked keys and events in one transaction.

        A request that another worker settled meanwhile is left as it is, and nothing of it is recorded.
        """
        ends = [
            (one.request.revocation_id, "refused" if one.status is None else "done", _detail(one))
            for one in settlements
        ]
        with self._session.transaction() as connection:
            # First, for its locks: whoever comes second sees that they are settled.
            ids = [row[0] for row in ends]
            found = {row[0] for row in connection.execute(_SETTLE, (ids, *rows.columns(ends, 3)))}
            mine = [one for one in settlements if one.request.revocation_id in found]
            for one in mine:
                if one.block is not None:
                    # Before the status, whose trigger would block it in other words.
                    blocklist.insert(connection, one.block)
            # The event has the exact moment; revoked_at is in whole seconds and may lie before what a CRL covers.
            set_statuses(
                connection,
                [(one.status, max(event.at for event in one.events)) for one in mine if one.status is not None],
            )
            insert_events(connection, [event for one in mine for event in one.events])


def _standing(row: Sequence[Any]) -> Standing:
    anything, own, *status, tbs, certificate = row
    # Without an intent there is no end of validity either: the serial was never used.
    known = None if status[3] is None else rows.status(status)
    return Standing(anything or own, anything, known, tbs, certificate)


def _detail(settlement: Settlement) -> str | None:
    return None if settlement.status is not None else rows.storable(settlement.refusal or "")


def set_statuses(
    connection: PgConnection, statuses: Sequence[tuple[CertificateStatus, datetime.datetime]]
) -> None:
    """Set statuses, each with the moment of its change, in the caller's transaction."""
    if statuses:
        connection.execute(_SET, rows.columns([_change(*one) for one in statuses], 11))


def _change(status: CertificateStatus, changed_at: datetime.datetime) -> tuple[object, ...]:
    reason = None if status.reason is None else int(status.reason)
    whose, times = (status.issuer_id, status.serial), (status.invalidity_date, status.released_at)
    what = (status.state.value, status.not_after, status.revoked_at, reason)
    return (*whose, *what, *times, changed_at, status.shard, status.kept_until)
