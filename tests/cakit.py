"""A small CA over fakes: a root and an issuing CA in software keys, requests, and workers that can be killed."""

from __future__ import annotations

import functools
import itertools

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from chancery.asn1.signature import ML_DSA_SETS, KeySigner
from chancery.ca.crl import CRLSettings
from chancery.ca.issuance import Issuing, make_serial
from chancery.ca.issuer import Issuer, IssuerURLs, SelfIssuer
from chancery.ca.worker import Worker, WorkerSettings
from chancery.pkix.name import general_names, parse_name
from chancery.pkix.profile import grant, requested, shipped_profiles
from chancery.ports import EnrolmentRequest, IssuerRecord, RevocationReason, RevocationRequest
from fakes import START, CountingSigner, FakeClock, FakeEntropy, Faults, MemoryStore

PROFILES = shipped_profiles()
URLS = IssuerURLs(
    "http://ocsp.example.org/ocsp",
    "http://pki.example.org/crl/issuing.crl",
    "http://pki.example.org/ca/issuing.cer",
)
WORKER = "worker-1"


def key(label: str = "leaf", kind: str = "ec-p256"):
    """A software key for this label and kind; the same one for the whole test run."""
    return _key(label, kind)


@functools.cache
def _key(label: str, kind: str):
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65537, int(kind[4:]))
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind in ML_DSA_SETS:
        return ML_DSA_SETS[kind].private.generate()
    return ec.generate_private_key({"256": ec.SECP256R1, "384": ec.SECP384R1, "521": ec.SECP521R1}[kind[-3:]]())


def make_csr(subject: str = "CN=www.example.org", names: tuple[str, ...] = (), signer=None, *extensions) -> bytes:
    signer = signer or key()
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        parse_name(subject) if subject else x509.Name([])
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(general_names(names)), critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    digest = hashes.SHA256() if isinstance(signer, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) else None
    return builder.sign(signer, digest).public_bytes(Encoding.DER)


@functools.cache
def root_certificate(kind: str = "ec-p256") -> bytes:
    issuer = SelfIssuer(KeySigner(key("root", kind)), parse_name("CN=Root,O=Example,C=XX"))
    return issuer.issue(issuer.prepare(PROFILES["root-ca"], make_serial(1, FakeEntropy(1)), START))


def root_issuer(kind: str = "ec-p256", signer=None) -> Issuer:
    urls = IssuerURLs(None, "http://pki.example.org/crl/root.crl", "http://pki.example.org/ca/root.cer")
    record = IssuerRecord(1, "root", root_certificate(kind), None, None, None)
    return Issuer(record, signer or KeySigner(key("root", kind)), urls)


@functools.cache
def issuing_certificate(kind: str = "ec-p256") -> bytes:
    root = root_issuer()
    csr = make_csr("CN=Issuing,O=Example,C=XX", (), key("issuing", kind))
    granted = grant(PROFILES["sub-ca"], requested(csr), root.limits, START)
    return root.issue(root.prepare(granted, make_serial(1, FakeEntropy(2))))


def issuing_record(kind: str = "ec-p256") -> IssuerRecord:
    return IssuerRecord(2, "issuing", issuing_certificate(kind), 1, "ca", "issuing")


def issuing_issuer(kind: str = "ec-p256", signer=None, urls: IssuerURLs = URLS) -> Issuer:
    return Issuer(issuing_record(kind), signer or KeySigner(key("issuing", kind)), urls)


def enrolment(
    number: int, csr: bytes, profile: str = "tls-server", names: tuple[str, ...] = (), issuer: str | None = None
) -> EnrolmentRequest:
    return EnrolmentRequest(number, f"t-{number}", "rest", "alice", profile, issuer, csr, names, START)


class CA:
    """A store, a clock, a counting signer, and the worker's lives over them."""

    def __init__(
        self, faults: Faults | None = None, *, kind: str = "ec-p256", signer=None, seed: int = 0, **issuing
    ):
        self.faults = faults or Faults()
        self.store = MemoryStore(self.faults)
        self.clock = FakeClock()
        self.signer = signer or CountingSigner(KeySigner(key("issuing", kind)), self.faults)
        self.issuer = issuing_issuer(kind, self.signer)
        self.store.issuers[self.issuer.record.issuer_id] = self.issuer.record.name
        self.reports: list[tuple[str, dict]] = []
        self._requests = itertools.count(1)
        self._revocations = itertools.count(1)
        self.issuing = Issuing(
            **{
                "store": self.store,
                "issuers": {"issuing": self.issuer},
                "default_issuer": "issuing",
                "profiles": PROFILES,
                "clock": self.clock,
                "entropy": FakeEntropy(seed),
                "instance": 1,
                "worker": WORKER,
                **issuing,
            }
        )

    def ask(self, csr: bytes | None = None, profile: str = "tls-server", names=(), issuer=None) -> int:
        number = next(self._requests)
        self.store.add(enrolment(number, csr or make_csr(names=("dns:www.example.org",)), profile, names, issuer))
        return number

    def ask_revocation(
        self, serial: bytes, reason: RevocationReason = RevocationReason.SUPERSEDED, invalidity=None
    ) -> int:
        number = next(self._revocations)
        self.store.revocations.append(
            RevocationRequest(number, 2, serial, reason, invalidity, "alice", self.clock.now())
        )
        return number

    def worker(self, batch: int = 128, crl: CRLSettings | None = None) -> Worker:
        settings = WorkerSettings(batch=batch, crl=crl or CRLSettings())
        return Worker(
            self.issuing, self.store, settings, lambda event, values: self.reports.append((event, values))
        )

    def work(self) -> None:
        """One life of a worker, until nothing is left to do."""
        worker = self.worker()
        while worker.run_once():
            pass

    def certificate(self, request: int) -> x509.Certificate:
        [found] = [one.der for one in self.store.certificates.values() if one.request_id == request]
        return x509.load_der_x509_certificate(found)
