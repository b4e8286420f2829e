"""
The issuing worker's records: requests taken, serials and intents, certificates (docs/issuance.md).

A batch goes out as columns (unnest over binary arrays) in one statement: one round trip, one commit.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from chancery.ports import CertificateRecord, EnrolmentRequest, Event, Intent, Refusal, Scope, StatusState
from chancery.postgres.journal import event_body, insert_events
from chancery.postgres.rows import columns, storable, text_array
from chancery.postgres.session import Connection, Session, session
from chancery.postgres.statement import Rows, Statement

# Its commit does not wait for the disk: a server that loses it leaves the requests waiting, and the commit of the
# intents that follows, which does wait, is never on disk without it.
_TAKE = """
UPDATE chancery.request SET state = 'taken', worker = {text}, taken_at = {timestamptz}
WHERE (SELECT set_config('synchronous_commit', 'off', true)) = 'off' AND request_id IN (
    SELECT request_id FROM chancery.request WHERE state = 'waiting'
    ORDER BY request_id LIMIT {bigint} FOR UPDATE SKIP LOCKED)
RETURNING request_id, transaction_id, protocol, requestor, profile, issuer, csr, names, received_at, wish,
    coalesce((SELECT s.active FROM chancery.profile_switch AS s WHERE s.name = request.profile
              ORDER BY s.switch_id DESC LIMIT 1), true),
    EXISTS (SELECT FROM chancery.operator AS o WHERE o.name = request.requestor AND o.removed_at IS NOT NULL)"""
_TAKE_ANY = Statement(_TAKE)
_TAKE_IN_SCOPE = Statement(
    _TAKE.replace(
        "state = 'waiting'",
        "state = 'waiting' AND coalesce(issuer = ANY ({text[]}), profile = ANY ({text[]})) = {boolean}",
    )
)

# R5, as of the very moment of the intents: with one blocked key in it, nothing of the batch is recorded.
_INTENTS = """
WITH blocked AS (
    SELECT asked.key FROM <bytea> AS asked (key)
    WHERE EXISTS (SELECT FROM chancery.blocked_key AS b WHERE b.spki_sha256 = asked.key)
), recorded AS (
    INSERT INTO chancery.intent (worker, request_id, issuer_id, serial, tbs, not_after, profile, profile_version,
        profile_sha256, recorded_at, shard)
    SELECT {text}, asked.*
    FROM <bigint, integer, bytea, bytea, timestamptz, text, integer, bytea, timestamptz, smallint> AS asked
    WHERE NOT EXISTS (SELECT FROM blocked)
), journal AS (
    INSERT INTO chancery.journal_event (body)
    SELECT body FROM <integer, text> AS event (n, body)
    WHERE NOT EXISTS (SELECT FROM blocked) ORDER BY n
)
SELECT key FROM blocked"""
_RECORD_INTENTS = Rows(_INTENTS)
_REFUSED = """, refused AS (
    UPDATE chancery.request AS r SET state = 'refused', error = t.error, detail = t.detail
    FROM <bigint, text, text> AS t (request_id, error, detail)
    WHERE r.request_id = t.request_id AND NOT EXISTS (SELECT FROM blocked)
)
SELECT key FROM blocked"""
_RECORD_INTENTS_REFUSE = Rows(_INTENTS.replace("\nSELECT key FROM blocked", _REFUSED))

# Requests with their certificates, or with why there is none; most have no words about what was asked for and not
# granted. A serial that was revoked on its intent alone stays revoked. One marked unconfirmed must not get
# a certificate: updating it to anything but revoked is what the trigger status_forwards refuses. The triggers that
# compare all of it (certificate_intended, status_intended) look when the statement is through.
_SETTLED = """
WITH settled AS (
    UPDATE chancery.request AS r SET state = CASE WHEN t.error IS NULL THEN 'done' ELSE 'refused' END,
        certificate_issuer_id = t.issuer_id, certificate_serial = t.serial, error = t.error, detail = t.detail
    FROM <bigint, integer, bytea, text, text> AS t (request_id, issuer_id, serial, error, detail)
    WHERE r.request_id = t.request_id
), journal AS (
    INSERT INTO chancery.journal_event (body)
    SELECT body FROM <integer, text> AS event (n, body) ORDER BY n
)"""
_REFUSE = Rows(f"{_SETTLED} SELECT WHERE false")
_RECORD_CERTIFICATES = Rows(
    f"""{_SETTLED}, stored AS (
    INSERT INTO chancery.certificate (request_id, issuer_id, serial, der, subject, names, spki_sha256, not_before,
        not_after, profile, issued_at)
    SELECT request_id, issuer_id, serial, der, subject, names::text[], spki_sha256, not_before,
        not_after, profile, issued_at
    FROM <bigint, integer, bytea, bytea, text, text, bytea, timestamptz, timestamptz, text, timestamptz>
        AS t (request_id, issuer_id, serial, der, subject, names, spki_sha256, not_before,
        not_after, profile, issued_at)
)
INSERT INTO chancery.certificate_status AS s (issuer_id, serial, state, not_after, changed_at, shard)
SELECT issuer_id, serial, 'good', not_after, changed_at, shard
FROM <integer, bytea, timestamptz, timestamptz, smallint> AS t (issuer_id, serial, not_after, changed_at, shard)
ON CONFLICT (issuer_id, serial) DO UPDATE SET state = 'good' WHERE s.state <> 'revoked'"""  # noqa: S608 - put together from constants
)

# Any request that this worker held and that is not done may have left an intent behind.
_UNCONFIRMED = """
SELECT i.request_id, i.issuer_id, i.serial, i.tbs, i.not_after, i.profile, i.profile_version, i.profile_sha256,
    i.recorded_at, i.shard
FROM chancery.request AS r JOIN chancery.intent AS i USING (request_id)
WHERE r.worker = %s AND r.state <> 'done' AND i.worker = r.worker
  AND NOT EXISTS (SELECT FROM chancery.certificate AS c WHERE (c.issuer_id, c.serial) = (i.issuer_id, i.serial))
  AND NOT EXISTS (
      SELECT FROM chancery.certificate_status AS s WHERE (s.issuer_id, s.serial) = (i.issuer_id, i.serial))
ORDER BY i.recorded_at, i.request_id"""

# A serial may have been revoked meanwhile, on its intent alone: that says more.
_MARK = """
INSERT INTO chancery.certificate_status (issuer_id, serial, state, not_after, changed_at, shard)
SELECT issuer_id, serial, %s, not_after, %s, shard
FROM unnest(%b::integer[], %b::bytea[], %b::timestamptz[], %b::smallint[])
    AS t (issuer_id, serial, not_after, shard)
ON CONFLICT (issuer_id, serial) DO NOTHING"""

_HOLDS_GOOD = """
SELECT 1 FROM chancery.certificate AS c JOIN chancery.certificate_status AS s USING (issuer_id, serial)
WHERE c.issuer_id = ANY (%b::integer[]) AND c.serial = %b AND c.der = %b AND s.state = 'good'"""

_RETURN = "UPDATE chancery.request SET state = 'waiting' WHERE worker = %s AND state = 'taken'"


class PgIssuanceStore:
    """
    `ports.IssuanceStore` as the role `chancery_worker`.

    Open the session with `session.worker_lock`, so that no two workers share a name and an instance.
    """

    def __init__(self, source: Connection | Session) -> None:
        self._session = session(source)

    def take(
        self, worker: str, limit: int, at: datetime.datetime, scope: Scope | None = None
    ) -> list[EnrolmentRequest]:
        """Take at most `limit` requests in `scope` that wait, oldest first; no other worker gets them."""
        if scope is None:
            rows = self._session.run(_TAKE_ANY, [worker, at, limit])
        else:
            some = (list(scope.issuers), list(scope.profiles), scope.inside)
            rows = self._session.run(_TAKE_IN_SCOPE, [worker, at, *some, limit])
        # RETURNING has no order of its own.
        found = []
        for row in sorted(rows, key=lambda row: row[0]):
            fields = list(row)
            fields[7] = tuple(fields[7])
            found.append(EnrolmentRequest(*fields))
        return found

    def holds_good(self, issuer_ids: Sequence[int], serial: bytes, certificate: bytes) -> bool:
        """Tell whether one of these issuers issued this certificate (DER) under this serial, and it is good."""
        return bool(self._session.fetch(_HOLDS_GOOD, (list(issuer_ids), serial, certificate)))

    def record_intents(
        self,
        worker: str,
        intents: Sequence[Intent],
        refusals: Sequence[Refusal],
        events: Sequence[Event],
        keys: Sequence[bytes] = (),
    ) -> set[bytes]:
        """
        Record the intents, whose key reserves the serials; refuse the refused. One round trip, one commit.

        Returns those of `keys` that are blocked: then nothing was recorded. Raises PKIError(SYSTEM_FAILURE) and
        records nothing if any (issuer, serial) was ever used before; SYSTEM_UNAVAIL when the worker no longer
        holds a request.
        """
        rows = [
            (
                i.request_id,
                i.issuer_id,
                i.serial,
                i.tbs,
                i.not_after,
                i.profile,
                i.profile_version,
                i.profile_sha256,
                i.recorded_at,
                i.shard,
            )
            for i in intents
        ]
        values = ([(key,) for key in keys], worker, rows, _numbered(events))
        if not refusals:
            found = self._session.run(*_RECORD_INTENTS.of(*values))
        elif intents:
            refused = [(r.request_id, r.error.value, storable(r.detail)) for r in refusals]
            found = self._session.run(*_RECORD_INTENTS_REFUSE.of(*values, refused))
        else:
            self._settle([], refusals, events)
            return set()
        return {key for (key,) in found}

    def record_certificates(
        self, certificates: Sequence[CertificateRecord], refusals: Sequence[Refusal], events: Sequence[Event]
    ) -> None:
        """
        Store certificates with status good and mark their requests done; refuse the refused. As `record_intents`.

        Raises PKIError(SYSTEM_FAILURE) and records nothing when one has no intent for its request, or its
        serial was marked unconfirmed.
        """
        self._settle(certificates, refusals, events)

    def _settle(
        self, certificates: Sequence[CertificateRecord], refusals: Sequence[Refusal], events: Sequence[Event]
    ) -> None:
        ends: list[tuple[object, ...]] = [
            (c.request_id, c.issuer_id, c.serial, None, c.dropped and storable(c.dropped)) for c in certificates
        ]
        ends += [(r.request_id, None, None, r.error.value, storable(r.detail)) for r in refusals]
        if not certificates:
            self._session.run(*_REFUSE.of(ends, _numbered(events)))
            return
        rows = [
            (
                c.request_id,
                c.issuer_id,
                c.serial,
                c.der,
                storable(c.subject),
                text_array(c.names),
                c.spki_sha256,
                c.not_before,
                c.not_after,
                c.profile,
                c.issued_at,
            )
            for c in certificates
        ]
        good = [(c.issuer_id, c.serial, c.not_after, c.issued_at, c.shard) for c in certificates]
        self._session.run(*_RECORD_CERTIFICATES.of(ends, _numbered(events), rows, good))

    def unconfirmed(self, worker: str) -> list[Intent]:
        """Return intents of this worker that have neither a certificate nor a status of any kind."""
        return [Intent(*row) for row in self._session.fetch(_UNCONFIRMED, (worker,))]

    def mark_unconfirmed(self, worker: str, intents: Sequence[Intent], events: Sequence[Event]) -> None:
        """
        Give each intent's serial the status UNCONFIRMED, and put every request that this worker had taken
        and not finished back to waiting.
        """
        with self._session.transaction(pipeline=True) as connection:
            if intents:
                at = max((event.at for event in events), default=max(i.recorded_at for i in intents))
                rows = [(i.issuer_id, i.serial, i.not_after, i.shard) for i in intents]
                connection.execute(_MARK, (StatusState.UNCONFIRMED.value, at, *columns(rows, 4)))
            connection.execute(_RETURN, (worker,))
            insert_events(connection, events)


def _numbered(events: Sequence[Event]) -> list[tuple[int, str]]:
    return [(n, event_body(event)) for n, event in enumerate(events)]
