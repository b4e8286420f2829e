"""
The installation's own certificates: OCSP delegate, timestamping, server TLS, the first administrator.

They are asked for like anybody's: a request row, the worker, a certificate. Run again, it renews what has
less than a third of its life left; the processes pick their new certificates up by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import hashlib
import secrets  # noqa: TID251 - the PKCS#12 file's password is made here, in the composition root
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    pkcs12,
)

from chancery.cli import build, layout, tsakeys
from chancery.cli.api_client import ClientConfig
from chancery.cli.clock import SystemClock
from chancery.cli.commands_key import host_name, request
from chancery.cli.layout import Account, Layout
from chancery.cli.suite import ISSUING, SERVICE_LABELS, Suite, subject, tsa_label
from chancery.config import CAConfig, encode, load
from chancery.errors import OperatorError, PKIError
from chancery.pkix.path import check_signed
from chancery.ports import (
    CertificateQuery,
    Clock,
    Directory,
    Event,
    EventKind,
    NewRequest,
    Operator,
    RequestQueue,
    RequestState,
    Role,
    StatusState,
)
from chancery.postgres.directory import PgDirectory
from chancery.postgres.requests import PgRequestQueue
from chancery.postgres.session import AsyncPool
from chancery.tsa.authority import validity

REQUESTOR = "installation"
ISSUE_SECONDS = 60.0
ADMINISTRATOR = "administrator"


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """A certificate that the installation needs: its request (PEM), profile and, where that matters, issuer."""

    purpose: str
    profile: str
    csr: bytes
    issuer: str | None = None


def ensure(place: Layout, suite: Suite) -> list[str]:
    """Issue or renew what is missing or due; return its purposes. OperatorError says what could not be had."""
    return asyncio.run(_ensure(place, suite))


async def _ensure(place: Layout, suite: Suite) -> list[str]:
    accounts = layout.accounts()
    config = load(place.config("ca"))
    assert isinstance(config, CAConfig)
    ocsp = place.service_request(SERVICE_LABELS["ocsp"]).read_bytes()
    async with registration(config) as issuing:
        done = [
            await issuing.have(Wanted("ocsp", "ocsp-signing", ocsp, ISSUING)),
            await _server(place, suite, issuing, accounts.get("ca")),
            await _administrator(place, suite, issuing),
            await timestamping(place, issuing),
            # Last: an issuer that cannot make its delegate now must not keep the others from theirs.
            *[await issuing.have(one) for one in await issuing.delegates(ocsp)],
        ]
    return [purpose for purpose, new, _ in done if new]


@contextlib.asynccontextmanager
async def registration(config: CAConfig) -> AsyncIterator[Issuing]:
    """Yield the registration side as the CA's web process has it, in its database role."""
    async with AsyncPool(build.connection(config.database, "enrol"), size=2) as pool:
        clock = SystemClock()
        queue = PgRequestQueue(pool)
        try:
            yield Issuing(queue, PgDirectory(pool, clock), clock)
        finally:
            await queue.close()


class Issuing:
    """The registration side, as the installation itself uses it."""

    def __init__(self, queue: RequestQueue, directory: Directory, clock: Clock) -> None:
        self.queue = queue
        self.directory = directory
        self._clock = clock

    async def delegates(self, csr: bytes) -> list[Wanted]:
        """Return the delegates that further issuers with their key here make (R20), deactivated ones too."""
        now, found = self._clock.now(), []
        for record in await self.directory.issuers():
            ends = x509.load_der_x509_certificate(record.certificate).not_valid_after_utc
            if record.key_label is not None and record.name != ISSUING and ends > now:
                found.append(Wanted(f"ocsp-{record.name}", "ocsp-signing", csr, record.name))
        return found

    async def default(self) -> str:
        """Return the issuer of what names none."""
        records = await self.directory.issuers()
        return next((record.name for record in records if record.default), ISSUING)

    async def issuer_of(self, der: bytes) -> bytes:
        """Return the CA certificate (PEM) above a certificate (DER) of this installation."""
        for record in await self.directory.issuers():
            certificate = x509.load_der_x509_certificate(record.certificate)
            with contextlib.suppress(PKIError):
                check_signed(der, certificate, "")
                return certificate.public_bytes(Encoding.PEM)
        raise OperatorError(
            "a certificate of this installation is of no issuer here", "run `chancery auditor run`"
        )

    async def had(self, wanted: Wanted) -> tuple[bytes | None, int]:
        """
        Return a certificate (DER) of this key with a third of its life left, and the id of the newest (0: none).

        The life of a certificate ends with its private key usage period (R25), where it has one.
        """
        spki = x509.load_pem_x509_csr(wanted.csr).public_key()
        query = CertificateQuery(
            spki_sha256=hashlib.sha256(
                spki.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            ).digest(),
            profile=wanted.profile,
            issuer=wanted.issuer,
        )
        found = await self.directory.search(query)
        now = self._clock.now()
        for one in found:
            start, end = validity(x509.load_der_x509_certificate(one.der))
            if one.status.state is StatusState.GOOD and end - now > (end - start) / 3:
                return one.der, found[0].certificate_id
        return None, found[0].certificate_id if found else 0

    async def have(self, wanted: Wanted) -> tuple[str, bool, bytes]:
        """Return (purpose, whether it is new, certificate DER) of a certificate with life left in it."""
        good, newest = await self.had(wanted)
        if good is not None:
            return wanted.purpose, False, good
        csr, now = x509.load_pem_x509_csr(wanted.csr), self._clock.now()
        spki = csr.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        # The same for whoever tries again within the hour; another one after a refusal that was put right.
        transaction = f"{wanted.purpose}-{hashlib.sha256(spki).hexdigest()[:16]}-{newest}-{now:%Y%m%dT%H}"
        return wanted.purpose, True, await self._issue(wanted, transaction, csr, now)

    async def _issue(
        self, wanted: Wanted, transaction: str, csr: x509.CertificateSigningRequest, now: datetime.datetime
    ) -> bytes:
        asked = NewRequest(
            transaction_id=transaction,
            protocol="installation",
            requestor=REQUESTOR,
            profile=wanted.profile,
            issuer=wanted.issuer or await self.default(),
            csr=csr.public_bytes(Encoding.DER),
            names=(),
            received_at=now,
        )
        # The same words as for anybody's request.
        received = {
            "protocol": asked.protocol,
            "profile": asked.profile,
            "issuer": asked.issuer,
            "names": list(asked.names),
            "csr_sha256": hashlib.sha256(asked.csr).hexdigest(),
        }
        event = Event(EventKind.REQUEST_RECEIVED, now, REQUESTOR, f"transaction:{transaction}", received)
        try:
            outcome = await self.queue.submit(asked, [event])
            if outcome.certificate is None:
                outcome = await self.queue.wait(outcome.request_id, ISSUE_SECONDS)
        except PKIError as error:
            raise OperatorError(
                f"no certificate for {wanted.purpose}: {error.detail}", "look at the log"
            ) from error
        if outcome.state is not RequestState.DONE or outcome.certificate is None:
            why = outcome.detail or f"the worker has not answered within {ISSUE_SECONDS:.0f} s"
            raise OperatorError(f"no certificate for {wanted.purpose}: {why}", "look at the log of the worker")
        return outcome.certificate


async def timestamping(place: Layout, issuing: Issuing) -> tuple[str, bool, bytes]:
    """
    Certify the timestamping key, or the spare when its use is near its end.

    R25: it is not certified again. The unit takes the spare over once it has its certificate.
    """
    label = tsa_label(place)
    wanted = Wanted("tsa", "timestamping", place.service_request(label).read_bytes())
    good, newest = await issuing.had(wanted)
    if good is not None or not newest:
        return await issuing.have(wanted)
    label = tsakeys.following(label, SERVICE_LABELS["tsa"])
    if not (path := place.service_request(label)).exists():
        raise OperatorError(
            "the use of the timestamping key is near its end, and there is no spare key",
            "run `chancery down` and `chancery up`, which makes one",
        )
    fresh = await issuing.have(dataclasses.replace(wanted, csr=path.read_bytes()))
    layout.write_public(place.tsa_label, label.encode() + b"\n")
    return fresh


async def _server(
    place: Layout, suite: Suite, issuing: Issuing, account: Account | None
) -> tuple[str, bool, bytes]:
    files = place.tls / "server.key", place.tls / "server.pem"
    return await server(issuing, (suite.host, "localhost", "127.0.0.1", "::1"), files, account)


async def server(
    issuing: Issuing, hosts: Sequence[str], files: tuple[Path, Path], account: Account | None = None
) -> tuple[str, bool, bytes]:
    """Have the web server's certificate for these hosts, and its key and chain (PEM) in these files."""
    key_file, chain_file = files
    key = _software_key(key_file, account)
    names = dict.fromkeys(map(host_name, hosts))
    csr = request(key, f"CN={hosts[0]}", list(names)).public_bytes(Encoding.PEM)
    purpose, new, der = await issuing.have(Wanted("server", "tls-server", csr))
    chain = pem(der) + await issuing.issuer_of(der)
    if not chain_file.exists() or chain_file.read_bytes() != chain:
        layout.write_public(chain_file, chain)
    return purpose, new, der


async def _administrator(place: Layout, suite: Suite, issuing: Issuing) -> tuple[str, bool, bytes]:
    key = _software_key(place.admin / "admin.key", None)
    csr = request(key, subject(suite, "Administrator"), []).public_bytes(Encoding.PEM)
    purpose, new, der = await issuing.have(Wanted("admin", "tls-client", csr))
    await appoint(issuing, der)
    _write_administrator(place, suite, key, (der, await issuing.issuer_of(der)))
    return purpose, new, der


async def appoint(issuing: Issuing, der: bytes) -> str:
    """Make the holder of this certificate (DER) an administrator, if nobody has; return the operator's name."""
    fingerprint = hashlib.sha256(der).digest()
    operators = await issuing.directory.operators()
    if (known := next((one.name for one in operators if one.fingerprint == fingerprint), None)) is not None:
        return known
    taken = {one.name for one in operators}
    names = (ADMINISTRATOR, *(f"{ADMINISTRATOR}-{number}" for number in range(2, len(taken) + 3)))
    name = next(one for one in names if one not in taken)
    roles = frozenset({Role.ADMINISTRATOR, Role.OFFICER, Role.REQUESTOR})
    now = SystemClock().now()
    detail = {
        "roles": sorted(role.value for role in roles),
        "profiles": None,
        "certificate_sha256": fingerprint.hex(),
    }
    event = Event(EventKind.OPERATOR_ENROLLED, now, REQUESTOR, f"operator:{name}", detail)
    await issuing.directory.add_operator(Operator(fingerprint, name, roles), now, [event])
    return name


def _write_administrator(
    place: Layout, suite: Suite, key: ec.EllipticCurvePrivateKey, certificates: tuple[bytes, bytes]
) -> None:
    """Write key, certificate (DER) and the CA's above it (PEM), and the client's configuration."""
    der, issuing = certificates
    chain = pem(der) + issuing
    path = place.admin / "admin.pem"
    if not path.exists() or path.read_bytes() != chain:
        layout.write_private(path, chain)
        (place.admin / "admin.p12").unlink(missing_ok=True)
    if not (place.admin / "admin.p12").exists():
        password = secrets.token_urlsafe(18).encode()
        above = [x509.load_pem_x509_certificate(issuing)]
        bundle = pkcs12.serialize_key_and_certificates(
            b"chancery administrator",
            key,
            x509.load_der_x509_certificate(der),
            above,
            BestAvailableEncryption(password),
        )
        layout.write_private(place.admin / "admin.p12.password", password + b"\n")
        layout.write_private(place.admin / "admin.p12", bundle)
    client = ClientConfig(url=suite.ca_url, ca="../pki/root.pem", certificate="admin.pem", key="admin.key")
    layout.write_private(place.client, encode(client))


def _software_key(path: Path, account: Account | None) -> ec.EllipticCurvePrivateKey:
    if path.exists():
        key = load_pem_private_key(path.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key
    key = ec.generate_private_key(ec.SECP256R1())
    layout.write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), account)
    return key


def pem(der: bytes) -> bytes:
    """Return a certificate (DER) as PEM."""
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
