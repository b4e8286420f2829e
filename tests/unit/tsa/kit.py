"""A timestamping authority made of fakes, and requests to ask it with."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import functools
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

from asn1crypto import cms, core, tsp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from chancery.asn1 import der
from chancery.asn1 import tsp as our_tsp
from chancery.asn1.signature import ML_DSA_SETS, KeySigner
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.tsa.authority import Authority, Credential
from chancery.tsa.issuance import TokenService
from chancery.tsa.policy import AuthoritySettings, Policy
from chancery.tsa.recording import Recorder
from chancery.tsa.timekeeping import ClockGuard, Measurement
from chancery.tsa.unit import UnitPlan
from chancery.web.hot import serve
from chancery.web.tsp import LIMITS, TSAService
from fakes import START, FakeClock, FakeEntropy

POLICY = "1.3.6.1.4.1.99999.1.1"
OTHER_POLICY = "1.3.6.1.4.1.99999.1.2"
POLICIES = (Policy(POLICY), Policy(OTHER_POLICY))
SHA1 = "1.3.14.3.2.26"
SHA256 = "2.16.840.1.101.3.4.2.1"
YEAR = datetime.timedelta(days=365)
CRITICAL_TIME_STAMPING = (([ExtendedKeyUsageOID.TIME_STAMPING]), True)


class PKIFailureInfo(core.BitString):
    """RFC 3161 2.4.2; asn1crypto spells bit 16 in the plural."""

    _map = {  # noqa: RUF012 - how asn1crypto declares a type
        0: "bad_alg",
        2: "bad_request",
        5: "bad_data_format",
        14: "time_not_available",
        15: "unaccepted_policy",
        16: "unaccepted_extension",
        17: "add_info_not_available",
        25: "system_failure",
    }


class PKIStatusInfo(core.Sequence):
    _fields = [  # noqa: RUF012 - how asn1crypto declares a type
        ("status", tsp.PKIStatus),
        ("status_string", tsp.PKIFreeText, {"optional": True}),
        ("fail_info", PKIFailureInfo, {"optional": True}),
    ]


class TimeStampResp(core.Sequence):
    """RFC 3161 2.4.2; asn1crypto's own asks for a token in a refusal too."""

    _fields = [  # noqa: RUF012 - how asn1crypto declares a type
        ("status", PKIStatusInfo),
        ("time_stamp_token", cms.ContentInfo, {"optional": True}),
    ]


@functools.cache
def key(kind: str):
    """One key of each kind a run; the authority and its CA have different ones."""
    name, _, whose = kind.partition("/")
    if name.startswith("rsa"):
        return rsa.generate_private_key(
            65537, 2048 if whose else int(name.removeprefix("rsa-").replace("rsa", "2048"))
        )
    if name == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if name in ML_DSA_SETS:
        return ML_DSA_SETS[name].private.generate()
    return ec.generate_private_key({"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}[name])


def name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def digests_of(data: bytes) -> dict[str, bytes]:
    """Every digest of `data` that a message imprint may be, by OID."""
    return {oid: hashlib.new(name, data).digest() for name, oid in our_tsp.DIGEST_OIDS.items()}


def certificate(
    kind: str, *, start=START - YEAR, end=START + YEAR, usage=CRITICAL_TIME_STAMPING, period=None, unknown=None
):
    """A timestamping certificate issued by `root(kind)`."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(name("Test TSA"))
        .issuer_name(name("Test Root"))
        .public_key(key(kind).public_key())
        .serial_number(0x1234)
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage("digital_signature"), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key(f"{kind}/root").public_key()), critical=False
        )
    )
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usage[0]), critical=usage[1])
    if period is not None:
        builder = builder.add_extension(x509.PrivateKeyUsagePeriod(*period), critical=False)
    if unknown is not None:
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.9"), b"\x05\x00")
        builder = builder.add_extension(extension, critical=unknown == "critical")
    return builder.sign(key(f"{kind}/root"), _hash(kind))


@functools.cache
def root(kind: str) -> x509.Certificate:
    ca_key = key(f"{kind}/root")
    return (
        x509.CertificateBuilder()
        .subject_name(name("Test Root"))
        .issuer_name(name("Test Root"))
        .public_key(ca_key.public_key())
        .serial_number(1)
        .not_valid_before(START - 2 * YEAR)
        .not_valid_after(START + 200 * YEAR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage("key_cert_sign", "crl_sign"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, _hash(kind))
    )


def _hash(kind: str):
    return None if kind in {"ed25519", *ML_DSA_SETS} else hashes.SHA256()


def _key_usage(*wanted: str) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: name in wanted for name in names})


def as_der(value: x509.Certificate) -> bytes:
    return value.public_bytes(serialization.Encoding.DER)


def request(
    *,
    version: int = 1,
    hash_oid: str = SHA256,
    parameters: bytes = b"\x05\x00",
    digest: bytes = hashlib.sha256(b"document").digest(),
    policy: str | None = None,
    nonce: int | None = 42,
    cert_req: bool = True,
    extensions: bytes = b"",
) -> bytes:
    return der.sequence(
        der.integer(version),
        der.sequence(der.sequence(der.oid(hash_oid), parameters), der.octet_string(digest)),
        der.oid(policy) if policy else b"",
        der.integer(nonce) if nonce is not None else b"",
        der.boolean(value=True) if cert_req else b"",
        extensions,
    )


class FakeSource:
    """A time source that says what the test wants; `independent` like the kernel unless told otherwise."""

    def __init__(self, *, independent: bool = True) -> None:
        self.independent = independent
        self.synchronised = True
        self.offset_s = 0.0
        self.uncertainty_s = 0.001
        self.fails = False

    def measure(self) -> Measurement:
        if self.fails:
            raise OSError("unreachable")
        return Measurement(
            synchronised=self.synchronised,
            offset_s=self.offset_s,
            uncertainty_s=self.uncertainty_s,
            source="fake",
            independent=self.independent,
        )


class FakeTimestampStore:
    """Keeps the port's contract; `fault` is fail-before, fail-after or crash."""

    def __init__(self) -> None:
        self.tokens = {}
        self.events = []
        self.batches = []
        self.fault = None
        self.units = {}
        self.keys = {}
        self.lock = asyncio.Lock()

    async def register(self, unit, spki_sha256, *, ordering, event) -> None:
        known = self.units.setdefault(unit, [ordering, None])
        if known[0] != ordering or self.keys.setdefault(spki_sha256, unit) != unit:
            raise OperatorError("another unit's", "name another")

    async def record_in_order(self, unit, assign) -> None:
        async with self.lock:
            known = self.units.setdefault(unit, [True, None])
            tokens, events = assign(known[1])
            if tokens:
                await self.record(tokens, events)
                assert known[1] is None or known[1] < tokens[0].gen_time
                known[1] = tokens[-1].gen_time

    async def record(self, tokens, events) -> None:
        if self.fault == "fail-before":
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the records cannot be reached")
        if self.fault == "crash":
            raise RuntimeError("a secret detail")
        new = {token.serial: token for token in tokens}
        if len(new) != len(tokens) or new.keys() & self.tokens.keys():
            raise PKIError(ErrorType.SYSTEM_FAILURE, "the token could not be recorded")
        self.tokens.update(new)
        self.events += events
        self.batches.append((list(tokens), list(events)))
        if self.fault == "fail-after":
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the records cannot be reached")


class TSA:
    """A whole authority over fakes. `respond` answers a request as the server would."""

    def __init__(
        self, kind="p256", *, clock=None, signer=None, cert=None, fit=True, chain=True, **settings
    ) -> None:
        self.clock = clock or FakeClock()
        self.source = FakeSource()
        # One for all services: a process that starts again draws other octets.
        self.entropy = FakeEntropy()
        self.store = FakeTimestampStore()
        self.certificate = cert or certificate(kind)
        self.root = root(kind)
        self.signer = signer or KeySigner(key(kind))
        self.settings = AuthoritySettings(**({"instance": 7, "policies": POLICIES} | settings))
        self.guard = ClockGuard(
            self.clock, self.source, accuracy=self.settings.accuracy, resolution=self.settings.resolution
        )
        if fit:
            self.measure()
        certificates = [as_der(self.certificate)] + ([as_der(self.root)] if chain else [])
        self.settings.check()
        credential = Credential(self.settings, self.signer, certificates, self.clock.now())
        self.authority = Authority(self.settings, credential, self.guard)
        self.reports = []

    def measure(self):
        return self.guard.observe(*self.guard.measure())

    def service(self, executor: ThreadPoolExecutor, **options) -> TokenService:
        return TokenService(
            self.authority,
            Recorder(self.settings, self.store, self.guard, self.entropy),
            self.guard,
            executor=executor,
            threads=2,
            report=self.reports.append,
            **options,
        )

    async def respond_all(self, requests, **options):
        with ThreadPoolExecutor(2) as executor:
            service = self.service(executor, **options)
            return await asyncio.gather(*(service.respond(data, "127.0.0.1") for data in requests))

    def respond(self, data: bytes):
        return asyncio.run(self.respond_all([data]))[0]


def plan(kind="p256", *, certificates=None, finder=None, signers=None, **settings) -> UnitPlan:
    chosen = AuthoritySettings(**({"instance": 7, "policies": POLICIES} | settings))
    found = [as_der(certificate(kind))] if certificates is None else certificates
    return UnitPlan(chosen, signers or (lambda: [KeySigner(key(kind))]), found, finder)


def service(kind="p256", *, certificates=None, finder=None, signers=None, **options):
    """A `TSAService` of one unit over fakes, or of `units`; what it reports is in `service.reports`."""
    reports: list[tuple[str, dict]] = []
    defaults = {
        "store": FakeTimestampStore(),
        "units": [plan(kind, certificates=certificates, finder=finder, signers=signers)],
        "clock": FakeClock(),
        "source": FakeSource(),
        "entropy": FakeEntropy(),
        "report": lambda event, detail: reports.append((event, detail)),
        "measure_s": 3600,
        "refresh_s": 3600,
        "threads": 2,
    }
    made = TSAService(**(defaults | options))
    made.reports = reports
    return made


@contextlib.contextmanager
def serving(tsa: TSAService, limits=LIMITS, tls=None):
    """Serve on loopback in a thread, with `tls` (a context) over HTTPS; gives the port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def act(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)

    try:
        act(tsa.start())
        server = act(serve(tsa.handler, "127.0.0.1", 0, limits=limits, on_error=tsa.on_error, tls=tls))
        try:
            yield server.port
        finally:
            act(server.close(1))
            act(tsa.close())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
