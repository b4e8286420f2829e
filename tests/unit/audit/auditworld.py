"""A small installation in memory, honestly made by the CA: a test edits its rows, the auditor reads them."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import cakit
from chancery.asn1 import x509 as template
from chancery.asn1.signature import KeySigner
from chancery.ca.crl import CRLMaking, CRLSettings, make_crl
from chancery.ca.issuance import issue_batch
from chancery.errors import ErrorType, PKIError
from chancery.pkix.profile import grant, requested
from chancery.ports import Event, EventKind, ProfileRecord, ProfileSwitch, RevocationReason
from chancery.ports.auditing import (
    AuditedCRL,
    AuditedIssuer,
    AuditedJob,
    AuditedOperator,
    AuditedReport,
    AuditedRequest,
    AuditedRevocation,
    AuditedRevoked,
    AuditedSerial,
    AuditedStatus,
    JournalEntry,
)
from fakes import FakeClock, MemoryStore

YEAR = datetime.timedelta(days=366)
USED = ("tls-server", "tls-client", "smime")


class Token(KeySigner):
    """The issuing key, away while `away` says so."""

    def __init__(self) -> None:
        super().__init__(cakit.key("issuing"))
        self.away = False

    def sign(self, data: bytes) -> bytes:
        if self.away:
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the token is away")
        return super().sign(data)


def honest(profiles=cakit.PROFILES, then: Sequence[RevocationReason] = ()) -> World:
    """
    Requests 1 to 5, one of each kind. 1 is a server's and revoked, 2 the operator's, 3 an RSA server's with
    names beside the CSR, 4 a mailbox's, 5 got no signature at first. 4 is revoked for each reason of `then`.
    """
    token = Token()
    ca = cakit.CA(signer=token, profiles=profiles)
    world = World(ca)
    world.ask(cakit.make_csr(names=("dns:www.example.org",)))
    world.ask(cakit.make_csr("CN=olga,O=Example"), "tls-client")
    world.ask(cakit.make_csr("", (), cakit.key("leaf", "rsa-2048")), names=("dns:a.example.org", "ip:192.0.2.1"))
    world.ask(cakit.make_csr("CN=Olga", ("email:olga@example.org",)), "smime")
    ca.work()
    world.ask(cakit.make_csr("", ("dns:late.example.org",)))
    token.away = True
    issue_batch(ca.issuing, ca.store.take(cakit.WORKER, 10, ca.clock.now()))
    token.away = False
    ca.clock.advance(60)
    ca.work()
    world.revoke(1)
    for reason in then:
        world.revoke(4, reason)
    ca.clock.advance(1)
    ca.work()
    world.take_rows()
    return world


class World:
    """The rows; `number` in its methods is a request's."""

    def __init__(self, ca: cakit.CA) -> None:
        self.ca = ca
        self.wishes: dict[int, AuditedRevocation] = {}
        self.issuer_rows: list[AuditedIssuer] = []
        self.profile_rows: list[ProfileRecord] = []
        self.switch_rows: list[ProfileSwitch] = []
        self.operator_rows: list[AuditedOperator] = []
        self.job_rows: list[AuditedJob] = []
        self.report_rows: list[AuditedReport] = []
        self.serials: dict[tuple[int, bytes], AuditedSerial] = {}
        self.crl_rows: list[AuditedCRL] = []
        self.numbers: dict[int, int] = {}
        self.stray_rows: list[object] = []
        self.events: dict[int, dict] = {}
        for record in (cakit.root_issuer().record, cakit.issuing_record()):
            self.write(
                EventKind.CA_IMPORTED,
                f"issuer:{record.name}",
                certificate_sha256=hashlib.sha256(record.certificate).hexdigest(),
            )
        for name in USED:
            profile = ca.issuing.profiles[name]
            self.write(
                EventKind.PROFILE_LOADED,
                f"profile:{name}",
                version=profile.version,
                sha256=profile.sha256.hex(),
            )

    @property
    def at(self) -> datetime.datetime:
        return self.ca.clock.now() + datetime.timedelta(hours=1)

    def write(self, kind: EventKind, subject: str, actor: str = "alice", **detail) -> None:
        self.ca.store.events.append(Event(kind, self.ca.clock.now(), actor, subject, detail))

    def ask(self, csr: bytes, profile: str = "tls-server", names=()) -> None:
        number = self.ca.ask(csr, profile, names)
        request = self.ca.store.requests[number]
        self.write(
            EventKind.REQUEST_RECEIVED,
            f"transaction:{request.transaction_id}",
            protocol="rest",
            profile=profile,
            issuer=None,
            names=list(names),
            csr_sha256=hashlib.sha256(csr).hexdigest(),
        )

    def revoke(self, number: int, reason: RevocationReason = RevocationReason.SUPERSEDED) -> None:
        [serial] = [one.serial for one in self.ca.store.certificates.values() if one.request_id == number]
        self.write(
            EventKind.REVOCATION_REQUESTED, f"2:{serial.hex()}", reason=reason.name.lower(), issuer="issuing"
        )
        wish = self.ca.ask_revocation(serial, reason)
        self.wishes[wish] = AuditedRevocation(wish, 2, serial, reason.value, None, "alice", "done")
        self.ca.clock.advance(2.5)
        self.ca.work()

    def take_rows(self) -> None:
        """Copy everything out of the CA's store, an operator and the root's CRL put in."""
        store = self.ca.store
        certificates = {one.request_id: one for one in store.certificates.values()}
        fingerprint = hashlib.sha256(certificates[2].der).digest()
        detail = {"roles": ["officer"], "profiles": None, "certificate_sha256": fingerprint.hex()}
        self.write(EventKind.OPERATOR_ENROLLED, "operator:olga", **detail)
        self.operator_rows = [
            AuditedOperator(fingerprint, "olga", ("officer",), None, self.ca.clock.now(), None, certificate=True)
        ]
        root_crl = self._root_crl()
        self.events = {number: json.loads(one.body()) for number, one in enumerate(store.events, 1)}
        self.issuer_rows = [issuer_row(one) for one in (cakit.root_issuer().record, cakit.issuing_record())]
        loaded = {one.subject: one.at for one in store.events if one.kind is EventKind.PROFILE_LOADED}
        self.profile_rows = [
            ProfileRecord(p.name, p.version, p.sha256, p.source, loaded[f"profile:{p.name}"])
            for p in (self.ca.issuing.profiles[name] for name in USED)
        ]
        for key, (worker, intent) in store.intents.items():
            request = store.requests[intent.request_id]
            self.serials[key] = AuditedSerial(
                issuer_id=key[0],
                serial=key[1],
                certificate_id=intent.request_id if key in store.certificates else None,
                certificate=store.certificates.get(key),
                request=AuditedRequest(request, store.states[intent.request_id].value),
                intent=intent,
                worker=worker,
                status=self._status(key),
                entries=(),
                revocations=tuple(one for one in self.wishes.values() if (one.issuer_id, one.serial) == key),
                blocked_at=None,
            )
        times = [None, *(one.this_update for one in store.crls)]
        self.crl_rows = [root_crl] + [
            AuditedCRL(one, times[at], newest=one is store.crls[-1]) for at, one in enumerate(store.crls)
        ]
        self.numbers = {1: 1, **store.crl_numbers}

    def _root_crl(self) -> AuditedCRL:
        clock = FakeClock(self.ca.clock.now())
        settings = CRLSettings(datetime.timedelta(days=200), longest=YEAR)
        made = make_crl(CRLMaking(cakit.root_issuer(), MemoryStore(), clock, "ceremony", settings))
        self.write(EventKind.CRL_PUBLISHED, "crl:root", number=1, sha256=hashlib.sha256(made.der).hexdigest())
        return AuditedCRL(made, None, newest=True)

    def _status(self, key) -> AuditedStatus | None:
        status = self.ca.store.statuses.get(key)
        if status is None:
            return None
        about = f"{key[0]}:{key[1].hex()}"
        changed = [one.at for one in self.ca.store.events if one.subject == about][-1]
        reason = None if status.reason is None else int(status.reason)
        return AuditedStatus(
            status.state.value,
            status.not_after,
            status.revoked_at,
            reason,
            status.invalidity_date,
            changed,
            status.released_at,
        )

    # What a test edits.

    def serial(self, number: int) -> AuditedSerial:
        """The serial with a certificate of this request."""
        [found] = [one for one in self.serials.values() if one.certificate and one.certificate_id == number]
        return found

    def unfinished_serial(self) -> AuditedSerial:
        [found] = [one for one in self.serials.values() if one.certificate is None]
        return found

    def put(self, row: AuditedSerial, **changes) -> None:
        self.serials[row.issuer_id, row.serial] = dataclasses.replace(row, **changes)

    def edit(self, number: int, part: str, **changes) -> None:
        """Change columns of `certificate`, `intent`, `status` or `request` of a serial."""
        row = self.serial(number)
        value = getattr(row, part)
        if part == "request":
            state = changes.pop("state", value.state)
            self.put(row, request=AuditedRequest(dataclasses.replace(value.request, **changes), state))
        else:
            self.put(row, **{part: dataclasses.replace(value, **changes)})

    def find(self, kind: str, about: str | None = None) -> list[int]:
        return [
            number
            for number, one in self.events.items()
            if one["kind"] == kind and about in {None, one["subject"]}
        ]

    def event_of(self, kind: str, number: int) -> dict:
        """The event of this kind about a request's certificate."""
        row = self.serial(number)
        about = f"{row.issuer_id}:{row.serial.hex()}"
        if kind == "request.received":
            about = f"transaction:t-{number}"
        [found] = self.find(kind, about)
        return self.events[found]

    def drop(self, event: dict) -> None:
        self.events = {number: one for number, one in self.events.items() if one is not event}

    def twice(self, event: dict) -> None:
        self.events[max(self.events) + 1] = json.loads(json.dumps(event))

    def swap(self, first: dict, second: dict) -> None:
        a, b = (next(n for n, one in self.events.items() if one is event) for event in (first, second))
        self.events[a], self.events[b] = second, first
        self.events = dict(sorted(self.events.items()))

    def store_certificate(self, number: int, der: bytes, tbs: bytes | None = None) -> None:
        """Put another certificate (and intent) in its place, the events in accord."""
        self.edit(number, "certificate", der=der)
        self.event_of("certificate.issued", number)["detail"]["certificate_sha256"] = _sha256(der)
        if tbs is not None:
            self.edit(number, "intent", tbs=tbs)
            self.event_of("certificate.intent", number)["detail"]["tbs_sha256"] = _sha256(tbs)

    def reissue(self, number: int, change=lambda granted: granted, *, serial=None, aki=None, more=()) -> None:
        """Sign another certificate for the request with the CA's own key, and make every row and event agree."""
        row = self.serial(number)
        issuer, asked = self.ca.issuer, row.request.request
        at = row.intent.recorded_at
        granted = grant(cakit.PROFILES[asked.profile], requested(asked.csr, asked.names), issuer.limits, at)
        granted = change(granted)
        aki = template.authority_key_identifier(issuer.key_identifier) if aki is None else aki
        tbs = template.tbs_certificate(
            serial=serial or row.serial,
            algorithm=issuer.algorithm.identifier,
            issuer=issuer.subject,
            not_before=granted.not_before,
            not_after=granted.not_after,
            subject=granted.subject,
            spki=granted.spki,
            extensions=[*granted.extensions, aki, *more],
        )
        if serial is not None:
            self._rename(row, serial)
        self.store_certificate(number, issuer.sign(tbs), tbs)
        self.edit(number, "certificate", not_before=granted.not_before, not_after=granted.not_after)
        self.edit(number, "intent", not_after=granted.not_after)
        self.edit(number, "status", not_after=granted.not_after)

    def _rename(self, row: AuditedSerial, serial: bytes) -> None:
        del self.serials[row.issuer_id, row.serial]
        certificate, intent = (dataclasses.replace(one, serial=serial) for one in (row.certificate, row.intent))
        self.serials[row.issuer_id, serial] = dataclasses.replace(
            row, serial=serial, certificate=certificate, intent=intent
        )
        for event in self.events.values():
            if event["subject"] == f"{row.issuer_id}:{row.serial.hex()}":
                event["subject"] = f"{row.issuer_id}:{serial.hex()}"

    def set_status(self, row: AuditedSerial, **changes) -> None:
        self.put(row, status=dataclasses.replace(row.status, **changes))

    def edit_crl(self, place: int, **changes) -> None:
        """Change columns of one of the CRLs of `issuing`, counted from 0; -1 is the newest."""
        issuing = [at for at, one in enumerate(self.crl_rows) if one.record.issuer_id == 2]
        row = self.crl_rows[issuing[place]]
        self.crl_rows[issuing[place]] = dataclasses.replace(row, record=dataclasses.replace(row.record, **changes))

    # ports.auditing.AuditReader

    def issuers(self):
        return self.issuer_rows

    def profiles(self):
        return self.profile_rows

    def profile_switches(self):
        return self.switch_rows

    def operators(self):
        return self.operator_rows

    def jobs(self):
        return self.job_rows

    def reports(self):
        return self.report_rows

    def _entries(self, *subjects: str) -> tuple[JournalEntry, ...]:
        return tuple(
            JournalEntry(number, json.dumps(one))
            for number, one in sorted(self.events.items())
            if one["subject"] in subjects
        )

    def _batches(self, rows):
        found = [
            dataclasses.replace(
                row,
                entries=self._entries(
                    f"{row.issuer_id}:{row.serial.hex()}",
                    *([f"transaction:{row.request.request.transaction_id}"] if row.request else []),
                ),
            )
            for row in rows
        ]
        for start in range(0, len(found), 2):
            yield found[start : start + 2]

    def _in(self, scope, at, issuer_id) -> bool:
        return (scope.since is None or at >= scope.since) and scope.issuer_id in {None, issuer_id}

    def _certificates(self, scope):
        rows = [one for one in self.serials.values() if one.certificate is not None]
        rows = [one for one in rows if self._in(scope, one.certificate.issued_at, one.issuer_id)]
        return sorted(rows, key=lambda one: one.certificate_id)

    def count(self, scope):
        return len(self._certificates(scope))

    def certificates(self, scope):
        return self._batches(self._certificates(scope))

    def unfinished(self, scope):
        rows = [one for one in self.serials.values() if one.certificate is None and one.intent is not None]
        rows = [one for one in rows if self._in(scope, one.intent.recorded_at, one.issuer_id)]
        return self._batches(rows)

    def strays(self, scope):
        return iter(self.stray_rows)

    def entries(self, kinds):
        words = {one.value for one in kinds}
        return [JournalEntry(n, json.dumps(one)) for n, one in sorted(self.events.items()) if one["kind"] in words]

    def crls(self, issuer_id, since):
        for one in self.crl_rows:
            if one.record.issuer_id == issuer_id and (since is None or one.record.this_update >= since):
                yield one

    def crl_numbers(self):
        return self.numbers

    def crl_shards(self, issuer_id):
        return {}

    def revoked(self, crl):
        issuer_id, covers = crl.issuer_id, self.crl_rows[-1].record.covers
        for (issuer, serial), row in sorted(self.serials.items()):
            if issuer == issuer_id and row.status is not None and row.status.state == "revoked":
                yield AuditedRevoked(serial, row.status, row.status.changed_at <= covers)


def issuer_row(record) -> AuditedIssuer:
    certificate = x509.load_der_x509_certificate(record.certificate)
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return AuditedIssuer(
        record,
        certificate.subject.rfc4514_string(),
        hashlib.sha256(spki).digest(),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        certificate.not_valid_before_utc,
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
