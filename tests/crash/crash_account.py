"""
The account of a database: read with plain SQL by a superuser, after the fact.

`checks.problems` judges what it holds, and `NOTHING` and the file in which the signers counted what is beside it.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import json
from collections.abc import Callable, Iterator, Mapping, Sequence

from cryptography import x509

import checks
from chancery.asn1 import x509 as template
from chancery.ports import (
    CertificateRecord,
    CertificateStatus,
    CRLRecord,
    CRLScope,
    Event,
    EventKind,
    Intent,
    RequestState,
    RevocationReason,
    StatusState,
)

ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")

# Each must return no rows.
NOTHING = {
    "an intent without certificate or mark": """
        SELECT i.serial FROM chancery.intent i
        LEFT JOIN chancery.certificate c USING (issuer_id, serial)
        LEFT JOIN chancery.certificate_status s USING (issuer_id, serial)
        WHERE c.serial IS NULL AND coalesce(s.state, 'good') NOT IN ('unconfirmed', 'revoked')""",
    "a request with two certificates": """
        SELECT request_id FROM chancery.certificate GROUP BY request_id HAVING count(*) > 1""",
    "a request that was never settled": """
        SELECT request_id FROM chancery.request WHERE state NOT IN ('done', 'refused')""",
    "a revocation that was never settled": """
        SELECT revocation_id FROM chancery.revocation_request WHERE state = 'waiting'""",
    "a mass revocation that was never decided": """
        SELECT job_id FROM chancery.revocation_job WHERE state NOT IN ('done', 'refused')""",
    "a mass revocation whose events are not one for its start and one for its end": """
        SELECT job_id FROM chancery.revocation_job AS j WHERE state = 'done' AND NOT (
            SELECT count(*) FILTER (WHERE kind = 'revocation-job.started') = 1
               AND count(*) FILTER (WHERE kind = 'revocation-job.finished') = 1
            FROM chancery.journal_event WHERE subject = 'revocation-job:' || j.job_id)""",
    "an intent under a profile whose text is not kept": """
        SELECT i.serial FROM chancery.intent i LEFT JOIN chancery.profile p
        ON (p.name, p.version, p.sha256) = (i.profile, i.profile_version, i.profile_sha256)
        WHERE p.name IS NULL""",
    "a gap in the CRL numbers": """
        SELECT issuer_id FROM chancery.crl_number GROUP BY issuer_id HAVING count(*) <> max(number)""",
    "an event without its leaf": """
        SELECT e.event_id FROM chancery.journal_event e LEFT JOIN chancery.journal_leaf l USING (event_id)
        WHERE l.event_id IS NULL""",
    "an event written as somebody else": """
        SELECT event_id FROM chancery.journal_event
        WHERE writer NOT IN ('chancery_ra', 'chancery_worker', 'chancery_owner')""",
}
_ISSUERS = "SELECT issuer_id, name FROM chancery.issuer WHERE key_label IS NOT NULL"
_INTENTS = """
SELECT request_id, issuer_id, serial, tbs, not_after, profile, profile_version, profile_sha256, recorded_at, shard
FROM chancery.intent ORDER BY recorded_at"""
_CERTIFICATES = """
SELECT request_id, issuer_id, serial, der, subject, names, spki_sha256, not_before, not_after, profile, issued_at
FROM chancery.certificate ORDER BY certificate_id"""
_STATUSES = """
SELECT issuer_id, serial, state, not_after, revoked_at, reason, invalidity_date, released_at, shard,
    kept_until
FROM chancery.certificate_status"""
_CRLS = """
SELECT issuer_id, number, this_update, next_update, covers, der, shard, base_number, snapshot::text
FROM chancery.crl ORDER BY number"""
_NUMBERS = "SELECT issuer_id, max(number) FROM chancery.crl_number GROUP BY issuer_id"
# Of the events of transactions that its snapshot saw, a CRL tells.
_EVENTS = "SELECT body, xid::text::bigint FROM chancery.journal_event ORDER BY event_id"
_CHANGES = {
    EventKind.CERTIFICATE_ISSUED: StatusState.GOOD,
    EventKind.INTENT_UNCONFIRMED: StatusState.UNCONFIRMED,
    EventKind.CERTIFICATE_REVOKED: StatusState.REVOKED,
    EventKind.CERTIFICATE_SUSPENDED: StatusState.REVOKED,
    EventKind.CERTIFICATE_REINSTATED: StatusState.GOOD,
}
Rows = Callable[[str], Sequence[tuple]]


def account(rows: Rows) -> checks.Account:
    """Everything stored; the history of statuses is what the journal says of them."""
    statuses = [
        CertificateStatus(
            *(*r[:2], StatusState(r[2]), *r[3:5], None if r[5] is None else RevocationReason(r[5]), *r[6:])
        )
        for r in rows(_STATUSES)
    ]
    events = [(_event(body), written) for body, written in rows(_EVENTS)]
    history = list(_history(events, {f"{one.issuer_id}:{one.serial.hex()}": one for one in statuses}))
    crls = rows(_CRLS)
    return checks.Account(
        intents=[Intent(*row) for row in rows(_INTENTS)],
        certificates=[CertificateRecord(*row) for row in rows(_CERTIFICATES)],
        statuses=statuses,
        history=[status for status, _ in history],
        requests={row[0]: RequestState(row[1]) for row in rows("SELECT request_id, state FROM chancery.request")},
        crls=[CRLRecord(*r[:6], CRLScope(r[6], delta=r[7] is not None), r[7]) for r in crls],
        crl_numbers=dict(rows(_NUMBERS)),
        events=[event for event, _ in events],
        names=dict(rows(_ISSUERS)),
        read={(r[0], r[1]): _seen([written for _, written in history], r[8]) for r in crls},
        blocked={row[0] for row in rows("SELECT spki_sha256 FROM chancery.blocked_key")},
    )


def _event(body: str) -> Event:
    value = json.loads(body)
    at = datetime.datetime.fromisoformat(value["at"])
    return Event(EventKind(value["kind"]), at, value["actor"], value["subject"], value["detail"])


def _history(
    events: Sequence[tuple[Event, int]], statuses: Mapping[str, CertificateStatus]
) -> Iterator[tuple[CertificateStatus, int]]:
    """Every status that the events tell of, with the transaction that wrote it; only the bounds are its row's."""
    now: dict[str, CertificateStatus] = {}
    for event, written in events:
        row = statuses.get(event.subject)
        if event.kind in _CHANGES and row is not None:
            now[event.subject] = _after(row, now.get(event.subject), event)
            yield now[event.subject], written


def _after(row: CertificateStatus, before: CertificateStatus | None, event: Event) -> CertificateStatus:
    state = _CHANGES[event.kind]
    bare = CertificateStatus(row.issuer_id, row.serial, state, row.not_after, shard=row.shard)
    if event.kind is EventKind.CERTIFICATE_REINSTATED:
        return dataclasses.replace(bare, released_at=event.at, kept_until=row.kept_until)
    if state is not StatusState.REVOKED:
        return bare
    held = before is not None and before.held
    return dataclasses.replace(
        bare,
        revoked_at=before.revoked_at if held else event.at.replace(microsecond=0),
        reason=RevocationReason[event.detail["reason"].upper()],
        invalidity_date=row.invalidity_date,
        released_at=before.released_at if before else None,
        kept_until=row.kept_until,
    )


def _seen(written: Sequence[int], snapshot: str) -> frozenset[int]:
    """Return which of these transactions a pg_snapshot (xmin:xmax:those in progress) sees, by their place."""
    lowest, highest, *running = (part for part in snapshot.split(":"))
    open_then = {int(one) for one in running[0].split(",") if one}
    return frozenset(
        n for n, xid in enumerate(written) if xid < int(lowest) or (xid < int(highest) and xid not in open_then)
    )


def problems(
    rows: Rows, counted: Callable[[str], Mapping[str, list[bytes]]], certificates: Mapping[str, bytes]
) -> list[str]:
    """Everything that is wrong. `counted` as `Case.counted_by`, `certificates` are the issuers' by name."""
    found = account(rows)
    wrong = [what for what, query in NOTHING.items() if rows(query)]
    asked, signed = counted("asked"), counted("signed")
    issuers = {number: x509.load_der_x509_certificate(certificates[name]) for number, name in found.names.items()}
    wrong += checks.problems(found, {number: asked[name] for number, name in found.names.items()}, issuers)
    for number, name in found.names.items():
        wrong += _counting(found, number, asked[name], signed[name])
    return wrong


def _counting(found: checks.Account, issuer_id: int, asked: list[bytes], signed: list[bytes]) -> Iterator[str]:
    """The other way round: nothing is stored that was not counted; each CRL was signed under its own number."""
    mine = [one for one in found.certificates if one.issuer_id == issuer_id]
    if {x509.load_der_x509_certificate(one.der).tbs_certificate_bytes for one in mine} - set(signed):
        yield "a certificate whose signature was not counted"
    by_tbs = {intent.tbs for intent in found.intents}
    crls = {one.number: one.der for one in found.crls if one.issuer_id == issuer_id}
    published = {number: x509.load_der_x509_crl(der).tbs_certlist_bytes for number, der in crls.items()}
    numbers: collections.Counter[int] = collections.Counter()
    for tbs in asked:
        if tbs in by_tbs:
            continue
        try:
            numbers[number := _crl_number(tbs)] += 1
        except ValueError:
            yield "a signature over nothing that is known"
            continue
        if published.get(number, tbs) != tbs:
            yield f"CRL {number} is not the one that was signed"
    yield from (f"CRL number {number} was signed {n} times" for number, n in numbers.items() if n > 1)
    if not set(published) <= set(numbers) <= set(range(1, found.crl_numbers.get(issuer_id, 0) + 1)):
        yield f"CRLs {sorted(published)} published, {sorted(numbers)} signed, {found.crl_numbers} reserved"


def _crl_number(tbs: bytes) -> int:
    # Only its form matters here: any signature makes a CRL of it that can be read.
    crl = x509.load_der_x509_crl(template.signed(tbs, ECDSA_SHA256, b"\x30\x06\x02\x01\x01\x02\x01\x01"))
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
