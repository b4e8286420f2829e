"""A registration side without database or CA: ports in memory, a software key that signs, faults to order."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import functools
import hashlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from chancery.asn1 import der
from chancery.errors import ErrorType, PKIError
from chancery.pkix.profile import shipped_profiles
from chancery.pkix.weak import KEY_COMPROMISED
from chancery.ports import (
    COMPLETE,
    BlockedKey,
    CertificateQuery,
    CertificateStatus,
    CRLRecord,
    CRLScope,
    Event,
    HierarchyNode,
    IssuerRecord,
    KeyPlace,
    NewRequest,
    NewRevocation,
    Operator,
    Place,
    ProfileRecord,
    ProfileSwitch,
    RequestOutcome,
    RequestState,
    RevocationOutcome,
    RevocationReason,
    Role,
    StatusState,
    StoredCertificate,
    Submission,
)
from chancery.ra.enrolment import FINAL, RegistrationAuthority
from chancery.web.access import Peer
from chancery.web.app import create_app
from fakes import START, FakeClock, FakeEntropy, Faults
from unit.web.massmemory import MemoryMass
from unit.web.reportmemory import MemoryReports
from unit.web.tsaclientmemory import MemoryTimestampClients

YEAR = datetime.timedelta(days=365)


def name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


@functools.cache
def key(label: str) -> ec.EllipticCurvePrivateKey:
    """One key per label and test run."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(label: str) -> bytes:
    return key(label).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def make_certificate(
    subject: str,
    issuer: str,
    *,
    serial: int,
    ca: bool = False,
    names: Sequence[x509.GeneralName] = (),
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
    start: datetime.datetime | None = None,
    public_key: ec.EllipticCurvePublicKey | None = None,
) -> x509.Certificate:
    start = start or START - YEAR
    public = public_key or key(subject).public_key()
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(key(issuer).public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(start)
        .not_valid_after(start + 20 * YEAR)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(issuer_id, critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if ca:
        # digitalSignature, keyCertSign, cRLSign
        usage_bits = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage_bits, critical=True)
    else:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return builder.sign(key(issuer), hashes.SHA256())


def make_csr(common_name: str = "www.example.org", label: str = "leaf") -> x509.CertificateSigningRequest:
    return (
        x509.CertificateSigningRequestBuilder().subject_name(name(common_name)).sign(key(label), hashes.SHA256())
    )


def csr_pem(common_name: str = "www.example.org", label: str = "leaf") -> str:
    return make_csr(common_name, label).public_bytes(Encoding.PEM).decode()


def to_der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def fingerprint_of(request: NewRequest) -> bytes:
    asked = dataclasses.replace(request, received_at=START)
    return hashlib.sha256(repr(asked).encode()).digest()


class MemoryRegistration:
    """
    Both `RequestQueue` and `Directory`, with a worker that is prompt, asleep, or refuses.

    Times are the clock's. `faults` fails the Nth call, before or after its effect; `away` fails all.
    """

    def __init__(self, clock: FakeClock, faults: Faults | None = None) -> None:
        self.clock = clock
        self.faults = faults or Faults()
        self.away = False
        self.asleep = False
        self.refusal: PKIError | None = None
        self.revocation_refusal: str | None = None
        self.root = make_certificate("root", "root", serial=1 << 130, ca=True)
        self.issuing = make_certificate("issuing", "root", serial=(1 << 130) + 1, ca=True)
        self.issuer_records = [
            IssuerRecord(1, "root", to_der(self.root), None, None, None),
            IssuerRecord(2, "issuing", to_der(self.issuing), 1, "ca", "issuing"),
        ]
        self.requests: dict[int, tuple[NewRequest, RequestOutcome]] = {}
        self.stored: list[StoredCertificate] = []
        self.revocations: dict[int, tuple[NewRevocation, RevocationOutcome]] = {}
        self.people: dict[bytes, Operator] = {}
        self.published: dict[str, CRLRecord] = {}
        self.crl_wishes: list[tuple[str, str]] = []
        self.mass = MemoryMass(self, self._around)
        self.reports = MemoryReports(self, self._around)
        self.timestamp_clients = MemoryTimestampClients(self, self._around)
        self.events: list[Event] = []
        self.blocked: dict[bytes, BlockedKey] = {}
        self.profiles: list[ProfileRecord] = []
        self.switches: dict[str, ProfileSwitch] = {}

    def kinds(self) -> list[str]:
        return [event.kind.value for event in self.events]

    def _around(self, call):
        if self.away:
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the database is away")
        return self.faults.around(call)

    def key_of(self, one: StoredCertificate) -> bytes:
        return spki_sha256(one.der)

    # RequestQueue

    async def submit(
        self, request: NewRequest, events: Sequence[Event], spki_sha256: bytes | None = None
    ) -> RequestOutcome:
        return self._around(lambda: self._submit(request, events, spki_sha256))

    async def submit_many(self, submissions: Sequence[Submission]) -> list[RequestOutcome | PKIError]:
        return self._around(lambda: [self._one_of_many(one) for one in submissions])

    def _one_of_many(self, submission: Submission) -> RequestOutcome | PKIError:
        try:
            return self._submit(submission.request, submission.events, submission.spki_sha256)
        except PKIError as error:
            return error

    def _submit(self, request: NewRequest, events: Sequence[Event], spki_sha256: bytes | None) -> RequestOutcome:
        if spki_sha256 in self.blocked:
            raise PKIError(ErrorType.BAD_CERT_TEMPLATE, KEY_COMPROMISED)
        fingerprint = fingerprint_of(request)
        for known, outcome in self.requests.values():
            if (known.requestor, known.transaction_id) == (request.requestor, request.transaction_id):
                if outcome.fingerprint != fingerprint:
                    raise PKIError(ErrorType.TRANSACTION_ID_IN_USE, "that transaction id asked for something else")
                return outcome
        self.events += events
        request_id = len(self.requests) + 1
        outcome = RequestOutcome(
            request_id,
            request.transaction_id,
            request.requestor,
            RequestState.WAITING,
            fingerprint,
            None,
            None,
            None,
            None,
        )
        self.requests[request_id] = (request, outcome)
        if not self.asleep:
            self.work()
        return outcome

    def work(self) -> None:
        """Be the worker, once."""
        for request_id, (request, outcome) in self.requests.items():
            if outcome.state in FINAL:
                continue
            if self.refusal is not None:
                done = dataclasses.replace(
                    outcome,
                    state=RequestState.REFUSED,
                    error=self.refusal.type,
                    detail=self.refusal.detail,
                )
            else:
                stored = self.issue(request.requestor, request.csr, request.profile, request.names)
                done = dataclasses.replace(
                    outcome, state=RequestState.DONE, certificate=stored.der, issuer=stored.issuer
                )
            self.requests[request_id] = (request, done)

    def issue(
        self,
        requestor: str,
        csr: bytes,
        profile: str = "tls-server",
        names: Sequence[str] = (),
        *,
        issuer: str = "issuing",
        serial: int | None = None,
    ) -> StoredCertificate:
        asked = x509.load_der_x509_csr(csr)
        common_name = str(asked.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
        number = serial if serial is not None else (1 << 128) + len(self.stored) + 1
        certificate = make_certificate(common_name, issuer, serial=number, public_key=asked.public_key())
        status = CertificateStatus(
            {"root": 1, "issuing": 2}[issuer],
            der.integer_octets(number),
            StatusState.GOOD,
            certificate.not_valid_after_utc,
        )
        stored = StoredCertificate(
            certificate_id=len(self.stored) + 1,
            issuer=issuer,
            serial=status.serial,
            der=to_der(certificate),
            subject=certificate.subject.rfc4514_string(),
            names=tuple(names),
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            profile=profile,
            requestor=requestor,
            issued_at=self.clock.now(),
            status=status,
        )
        self.stored.append(stored)
        return stored

    async def outcome(self, request_id: int) -> RequestOutcome | None:
        found = self._around(lambda: self.requests.get(request_id))
        return None if found is None else found[1]

    async def wait(self, request_id: int, seconds: float) -> RequestOutcome:
        await asyncio.sleep(0)
        return self._around(lambda: self.requests[request_id][1])

    async def settled(self, request_ids: Collection[int], seconds: float) -> AsyncIterator[list[RequestOutcome]]:
        await asyncio.sleep(0)
        for request_id in request_ids:
            yield [self._around(lambda one=request_id: self.requests[one][1])]

    async def submit_revocation(self, request: NewRevocation, events: Sequence[Event]) -> RevocationOutcome:
        def act() -> RevocationOutcome:
            if request.issuer not in {record.name for record in self.issuer_records}:
                raise PKIError(ErrorType.BAD_CERT_ID, "no such issuer")
            self.events += events
            outcome = RevocationOutcome(len(self.revocations) + 1, RequestState.WAITING, None)
            self.revocations[outcome.revocation_id] = (request, outcome)
            return outcome

        return self._around(act)

    async def wait_revocation(self, revocation_id: int, seconds: float) -> RevocationOutcome:
        return self._around(lambda: self._settle(revocation_id))

    def _settle(self, revocation_id: int) -> RevocationOutcome:
        request, outcome = self.revocations[revocation_id]
        if self.asleep:
            return outcome
        found = [one for one in self.stored if one.serial == request.serial and one.issuer == request.issuer]
        refusal = self.revocation_refusal or (None if found else "this issuer never used that serial number")
        if refusal:
            return dataclasses.replace(outcome, state=RequestState.REFUSED, detail=refusal)
        self.set_revoked(found[0], request)
        return dataclasses.replace(outcome, state=RequestState.DONE)

    def set_revoked(self, stored: StoredCertificate, request: NewRevocation) -> None:
        back = request.reason is RevocationReason.REMOVE_FROM_CRL
        status = dataclasses.replace(
            stored.status,
            state=StatusState.GOOD if back else StatusState.REVOKED,
            revoked_at=None if back else self.clock.now(),
            reason=None if back else request.reason,
            invalidity_date=request.invalidity_date,
            released_at=self.clock.now() if back else stored.status.released_at,
        )
        self.stored[self.stored.index(stored)] = dataclasses.replace(stored, status=status)

    async def ask_crl(
        self, issuer: str, requestor: str, at, events: Sequence[Event], *, shard=None, delta=False
    ) -> None:
        def act() -> None:
            if shard:
                raise PKIError(ErrorType.BAD_CERT_ID, "no such shard")
            self.crl_wishes.append((issuer, requestor))
            self.events.extend(events)
            if not self.asleep:
                self.publish(issuer)

        self._around(act)

    def publish(self, issuer: str) -> None:
        number = self.published[issuer].number + 1 if issuer in self.published else 1
        now = self.clock.now()
        crl = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(name(issuer))
            .last_update(now)
            .next_update(now + datetime.timedelta(days=7))
            .add_extension(x509.CRLNumber(number), critical=False)
            .sign(key(issuer), hashes.SHA256())
        )
        encoded = crl.public_bytes(Encoding.DER)
        issuer_id = {"root": 1, "issuing": 2}[issuer]
        self.published[issuer] = CRLRecord(issuer_id, number, now, now + datetime.timedelta(days=7), now, encoded)

    # Directory

    async def operator(self, fingerprint: bytes) -> Operator | None:
        def act() -> Operator | None:
            for one in self.stored:
                revoked = one.status.state is StatusState.REVOKED
                if revoked and hashlib.sha256(one.der).digest() == fingerprint:
                    return None
            return self.people.get(fingerprint)

        return self._around(act)

    async def operators(self) -> list[Operator]:
        return self._around(lambda: sorted(self.people.values(), key=lambda one: one.name))

    async def add_operator(self, operator: Operator, at, events: Sequence[Event]) -> None:
        def act() -> None:
            if operator.fingerprint in self.people or operator.name in {o.name for o in self.people.values()}:
                raise PKIError(ErrorType.BAD_REQUEST, "the name or the certificate is taken")
            self.people[operator.fingerprint] = operator
            self.events.extend(events)

        self._around(act)

    async def remove_operator(self, name: str, at, events: Sequence[Event]) -> None:
        def act() -> None:
            found = [one for one in self.people.values() if one.name == name]
            if not found:
                raise PKIError(ErrorType.BAD_CERT_ID, "no such operator")
            others = [one for one in self.people.values() if one.name != name and Role.ADMINISTRATOR in one.roles]
            if Role.ADMINISTRATOR in found[0].roles and not others:
                raise PKIError(ErrorType.BAD_REQUEST, "the last administrator stays")
            del self.people[found[0].fingerprint]
            self.events.extend(events)

        self._around(act)

    async def issuers(self) -> list[IssuerRecord]:
        return self._around(lambda: list(self.issuer_records))

    async def hierarchy(self, delegates: Sequence[str]) -> list[HierarchyNode]:
        return self._around(lambda: [self._node(record, delegates) for record in self.issuer_records])

    def _node(self, record: IssuerRecord, delegates: Sequence[str]) -> HierarchyNode:
        issued = [one for one in self.stored if one.issuer == record.name]
        token = KeyPlace(Place.TOKEN, "/lib.so", "SoftHSM v2", software=True)
        return HierarchyNode(
            record=record,
            key=token if record.token_label else None,
            certificates=len(issued),
            revoked=sum(one.status.state is StatusState.REVOKED for one in issued),
            last_expiry=max((one.not_after for one in issued), default=None),
            delegate=any(one.profile in delegates for one in issued),
            crl=self.published.get(record.name),
        )

    async def search(self, query: CertificateQuery) -> list[StoredCertificate]:
        return self._around(lambda: [one for one in reversed(self.stored) if _fits(one, query)][: query.limit])

    async def latest_crl(self, issuer: str, scope: CRLScope = COMPLETE) -> CRLRecord | None:
        return self._around(lambda: self.published.get(issuer) if scope == COMPLETE else None)

    async def crls(self) -> list[CRLRecord]:
        return self._around(lambda: list(self.published.values()))

    async def block_key(self, key: BlockedKey, events: Sequence[Event]) -> bool:
        def act() -> bool:
            if key.spki_sha256 in self.blocked:
                return False
            self.blocked[key.spki_sha256] = key
            self.events.extend(events)
            return True

        return self._around(act)

    async def blocked_key(self, spki_sha256: bytes) -> BlockedKey | None:
        return self._around(lambda: self.blocked.get(spki_sha256))

    async def blocked_keys(self, after: bytes, limit: int) -> list[BlockedKey]:
        return self._around(lambda: [self.blocked[one] for one in sorted(self.blocked) if one > after][:limit])

    async def profile_records(self) -> list[ProfileRecord]:
        return self._around(lambda: list(self.profiles))

    async def profile_switches(self) -> Mapping[str, ProfileSwitch]:
        return self._around(lambda: dict(self.switches))

    async def switch_profile(self, switch: ProfileSwitch, event: Event) -> bool:
        def act() -> bool:
            before = self.switches.get(switch.name)
            if switch.active == (before is None or before.active):
                return False
            self.switches[switch.name] = switch
            self.events.append(event)
            return True

        return self._around(act)

    async def counts(self) -> Mapping[str, int]:
        waiting = sum(outcome.state not in FINAL for _, outcome in self.requests.values())
        return self._around(lambda: {"waiting": waiting, "certificates": len(self.stored)})

    async def record(self, events: Sequence[Event]) -> None:
        self._around(lambda: self.events.extend(events))


def spki_sha256(certificate: bytes) -> bytes:
    public = x509.load_der_x509_certificate(certificate).public_key()
    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _fits(one: StoredCertificate, query: CertificateQuery) -> bool:
    return all(
        (
            query.subject is None or one.subject.startswith(query.subject),
            query.name is None or query.name in one.names,
            query.serial is None or one.serial == query.serial,
            query.spki_sha256 is None or spki_sha256(one.der) == query.spki_sha256,
            query.profile is None or one.profile == query.profile,
            query.issuer is None or one.issuer == query.issuer,
            query.state is None or one.status.state is query.state,
            query.requestor is None or one.requestor == query.requestor,
            query.before is None or one.certificate_id < query.before,
        )
    )


class World:
    """An application over fakes; `client(label)` speaks as the holder of that label's certificate."""

    def __init__(self, faults: Faults | None = None) -> None:
        self.clock = FakeClock()
        self.memory = MemoryRegistration(self.clock, faults)
        self.ra = RegistrationAuthority(
            self.memory,
            self.memory,
            self.clock,
            FakeEntropy(),
            dict(shipped_profiles()),
            self.memory.mass,
            self.memory.reports,
            self.memory.timestamp_clients,
        )
        self.app = create_app(self.ra)

    def enrol(self, label: str, *roles: Role, profiles: frozenset[str] | None = None) -> Operator:
        """Make an operator whose certificate was issued and stored like any other."""
        csr = make_csr(label, label).public_bytes(Encoding.DER)
        stored = self.memory.issue("bootstrap", csr, "tls-client")
        operator = Operator(hashlib.sha256(stored.der).digest(), label, frozenset(roles), profiles)
        self.memory.people[operator.fingerprint] = operator
        return operator

    def certificate(self, label: str) -> bytes:
        [found] = [one.der for one in self.memory.stored if one.subject == f"CN={label}"]
        return found

    def ask(self, label: str | None, method: str, path: str, **options) -> httpx.Response:
        """One request on a connection of its own; a path without a leading slash lies below /api/v1."""

        async def go() -> httpx.Response:
            async with self.client(label) as client:
                return await client.request(method, path if path.startswith("/") else f"/api/v1/{path}", **options)

        return asyncio.run(go())

    def client(self, label: str | None) -> httpx.AsyncClient:
        """One connection: the same `Peer` for every request of this client."""
        return self.client_with(None if label is None else self.certificate(label))

    def client_with(self, certificate: bytes | None) -> httpx.AsyncClient:
        peer = Peer(certificate)

        async def with_peer(scope, receive, send):
            await self.app({**scope, "state": {"peer": peer}}, receive, send)

        transport = httpx.ASGITransport(with_peer, raise_app_exceptions=True, client=("192.0.2.1", 1234))
        return httpx.AsyncClient(transport=transport, base_url="https://ca.example")
