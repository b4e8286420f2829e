"""A responder without database, token or sockets: a small PKI of software keys, a reader with faults to order."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import datetime
import functools
import hashlib
import os
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from chancery.asn1 import ocsp, oids
from chancery.asn1.signature import KeySigner
from chancery.errors import ErrorType, PKIError
from chancery.ocsp.responder import IssuerTable, key_bits
from chancery.ports import (
    COMPLETE,
    CertificateStatus,
    CRLRecord,
    CRLScope,
    ForeignIssuer,
    IssuerRecord,
    RevocationReason,
    StatusState,
)
from chancery.web.hot import Request, to_wire
from chancery.web.ocsp import OCSPService, OCSPSettings
from fakes import START, CountingSigner, FakeClock, Faults

DAY = datetime.timedelta(days=1)
GOOD, REVOKED, SILENT, UNCONFIRMED, NEVER = (
    bytes([n]) + bytes(range(1, 17)) for n in (0x11, 0x21, 0x31, 0x41, 0x51)
)
ISSUING = 2


@functools.cache
def key(label: str) -> ec.EllipticCurvePrivateKey:
    """One key per label and test run."""
    return ec.generate_private_key(ec.SECP256R1())


def name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def certificate(
    subject: str,
    issuer: str,
    serial: int,
    *,
    ca: bool = False,
    usage: x509.ObjectIdentifier | None = None,
    nocheck: bool = False,
    start: datetime.datetime = START - DAY,
    days: int = 3650,
    subject_key: str | None = None,
) -> bytes:
    public = key(subject_key or subject).public_key()
    bits = (True, False, False, False, False, ca, ca, False, False)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(key(issuer).public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(start)
        .not_valid_after(start + days * DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(authority, critical=False)
        .add_extension(x509.KeyUsage(*bits), critical=True)
    )
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if nocheck:
        builder = builder.add_extension(x509.OCSPNoCheck(), critical=False)
    return builder.sign(key(issuer), hashes.SHA256()).public_bytes(Encoding.DER)


def delegate_certificate(serial: int = 1 << 130, **changes: object) -> bytes:
    wanted = {"usage": ExtendedKeyUsageOID.OCSP_SIGNING, "nocheck": True, **changes}
    return certificate("Responder", "Issuing", serial, **wanted)


def spki_sha256(label: str) -> bytes:
    spki = key(label).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()


@functools.cache
def records() -> tuple[IssuerRecord, ...]:
    return (
        IssuerRecord(1, "root", certificate("Root", "Root", 1, ca=True), None, None, None),
        IssuerRecord(ISSUING, "issuing", certificate("Issuing", "Root", 2, ca=True), 1, "ca", "issuing"),
    )


def issuer(issuer_id: int = ISSUING) -> x509.Certificate:
    return x509.load_der_x509_certificate(records()[issuer_id - 1].certificate)


def status(serial: bytes, state: StatusState = StatusState.GOOD, **more: object) -> CertificateStatus:
    return CertificateStatus(ISSUING, serial, state, START + 365 * DAY, **more)


class FakeReader:
    """
    `StatusReader` in memory. `away` fails every call; `faults` fails the Nth.

    With `gate` set, `statuses` reads first and answers when the gate opens: time for a revocation in between.
    """

    def __init__(self, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.away = False
        self.gate: asyncio.Event | None = None
        self.batches: list[list[tuple[int, bytes]]] = []
        self.known = {
            (one.issuer_id, one.serial): one
            for one in (
                status(GOOD),
                status(
                    REVOKED,
                    StatusState.REVOKED,
                    revoked_at=START - 2 * DAY,
                    reason=RevocationReason.KEY_COMPROMISE,
                ),
                status(
                    SILENT, StatusState.REVOKED, revoked_at=START - 3 * DAY, reason=RevocationReason.UNSPECIFIED
                ),
                status(UNCONFIRMED, StatusState.UNCONFIRMED),
            )
        }
        self.records = list(records())
        self.certificates = {spki_sha256("Responder"): [delegate_certificate()]}
        self.foreigners: list[ForeignIssuer] = []
        self.crls: dict[int | tuple[int, CRLScope], CRLRecord] = {}
        self.crl_reads = 0

    def revoke(
        self, serial: bytes, reason: RevocationReason = RevocationReason.SUPERSEDED, **more: object
    ) -> None:
        self.known[ISSUING, serial] = status(serial, StatusState.REVOKED, revoked_at=START, reason=reason, **more)

    def _around(self, call):
        if self.away:
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the database is away")
        return self.faults.around(call)

    async def statuses(self, keys: Sequence[tuple[int, bytes]]):
        self.batches.append(list(keys))
        found = self._around(lambda: {one: self.known[one] for one in keys if one in self.known})
        if self.gate is not None:
            await self.gate.wait()
        return found

    async def live(self, issuer_id: int, after: bytes, limit: int) -> list[bytes]:
        found = [
            serial
            for (of, serial), one in self.known.items()
            if of == issuer_id and serial > after and one.state is not StatusState.UNCONFIRMED
        ]
        return self._around(lambda: sorted(found)[:limit])

    async def issuers(self) -> list[IssuerRecord]:
        return self._around(lambda: list(self.records))

    async def foreign(self) -> list[ForeignIssuer]:
        return self._around(lambda: list(self.foreigners))

    async def latest_crl(self, issuer_id: int, scope: CRLScope = COMPLETE) -> CRLRecord | None:
        self.crl_reads += 1
        found = self._around(lambda: self.crls.get(issuer_id if scope == COMPLETE else (issuer_id, scope)))
        if self.gate is not None:
            await self.gate.wait()
        return found

    async def certificates_of_key(self, spki: bytes) -> list[bytes]:
        return self._around(lambda: list(self.certificates.get(spki, [])))


def cert_id(serial: bytes, hash_oid: str = oids.SHA1, of: x509.Certificate | None = None) -> ocsp.CertID:
    of = of or issuer()
    algorithm = ocsp.HASHES[hash_oid]
    name_hash = hashlib.new(algorithm, of.subject.public_bytes()).digest()
    return ocsp.cert_id(hash_oid, name_hash, hashlib.new(algorithm, key_bits(of)).digest(), serial)


def request(*serials: bytes, nonce: bytes | None = None, hash_oid: str = oids.SHA1) -> bytes:
    """OCSPRequest (DER) about certificates of the issuing CA."""
    return ocsp.encode_request(ocsp.OCSPRequest(tuple(cert_id(one, hash_oid) for one in serials), nonce))


def post(
    body: bytes, target: bytes = b"/ocsp", content_type: bytes | None = b"application/ocsp-request"
) -> Request:
    return Request(b"POST", target, body, "192.0.2.1", content_type)


def get(target: bytes, if_none_match: bytes | None = None, method: bytes = b"GET") -> Request:
    return Request(method, target, b"", "192.0.2.1", None, if_none_match)


def path(body: bytes) -> bytes:
    return b"/ocsp/" + base64.b64encode(body).replace(b"+", b"%2B").replace(b"=", b"%3D")


@dataclasses.dataclass
class Bench:
    """A started service with everything around it."""

    reader: FakeReader
    clock: FakeClock
    signer: CountingSigner
    service: OCSPService
    reports: list[tuple[str, dict]]

    async def ask(self, what: Request | bytes) -> tuple[int, dict[str, str], bytes]:
        """Return status, header fields and body of one answer."""
        answer = self.service.handler(post(what) if isinstance(what, bytes) else what)
        if asyncio.iscoroutine(answer) or asyncio.isfuture(answer):
            answer = await answer
        return parts(answer)


def parts(answer) -> tuple[int, dict[str, str], bytes]:
    wire = answer if isinstance(answer, bytes) else to_wire(answer)
    head, _, body = wire.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    return int(lines[0].split()[1]), dict(line.split(": ", 1) for line in lines[1:]), body


async def start(settings: OCSPSettings | None = None, **signers: object) -> Bench:
    reader, clock, reports = FakeReader(), FakeClock(), []
    signer = CountingSigner(KeySigner(key("Responder")))
    service = OCSPService(
        reader,
        signers or {"issuing": (signer,)},
        clock,
        settings or OCSPSettings(),
        lambda event, detail: reports.append((event, dict(detail))),
    )
    await service.start()
    return Bench(reader, clock, signer, service, reports)


def with_bench(settings: OCSPSettings | None = None):
    """Make a coroutine that takes a `Bench` into a test."""

    def decorate(test):
        @functools.wraps(test)
        def run() -> None:
            async def main() -> None:
                bench = await start(settings)
                try:
                    await test(bench)
                finally:
                    await bench.service.close()

            asyncio.run(main())

        # pytest would look for a fixture called `bench`.
        del run.__wrapped__
        return run

    return decorate


def table() -> IssuerTable:
    return IssuerTable(records())


def random_nonce() -> bytes:
    return os.urandom(32)
