"""What the database tests fill a fresh database with."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import functools
import hashlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from chancery.asn1 import der
from chancery.errors import PKIError
from chancery.ports import (
    COMPLETE,
    CertificateRecord,
    CRLSelection,
    Event,
    EventKind,
    Intent,
    NewIssuer,
    NewRequest,
    NewRevocation,
    Operator,
    ProfileSwitch,
    RevocationReason,
    RevocationRequest,
    Role,
    Settlement,
    StatusState,
)
from chancery.postgres.directory import PgDirectory
from chancery.postgres.issuance import PgIssuanceStore
from chancery.postgres.issuers import PgIssuerStore
from chancery.postgres.requests import PgRequestQueue
from chancery.postgres.revocation import PgRevocationStore
from chancery.postgres.session import AsyncPool, connect
from fakes import FakeClock
from pg import AT, Database

WORKER = "worker-1"
SHA = hashlib.sha256(b"profile").digest()
DAY = datetime.timedelta(days=1)
SECOND = datetime.timedelta(seconds=1)
NOT_AFTER = AT + 90 * DAY


@functools.cache
def issuer_certificate(name: str = "issuing") -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1 << 130, AT, AT + 3650 * DAY)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def serial(number: int) -> bytes:
    return b"\x01" + number.to_bytes(16, "big")


def event(subject: str = "s", kind: EventKind = EventKind.LOGIN, at=AT) -> Event:
    return Event(kind, at, "actor", subject, {"n": 1})


def new_request(transaction_id: str = "t1", **changes) -> NewRequest:
    values = {
        "transaction_id": transaction_id,
        "protocol": "rest",
        "requestor": "alice",
        "profile": "tls-server",
        "issuer": None,
        "csr": b"\x30\x00csr",
        "names": ("dns:www.example.org", 'uri:https://x/"\\{},'),
        "received_at": AT,
    }
    return NewRequest(**(values | changes))


def new_revocation(number: int = 1, **changes) -> NewRevocation:
    values = {
        "issuer": "issuing",
        "serial": serial(number),
        "reason": RevocationReason.KEY_COMPROMISE,
        "invalidity_date": AT - DAY,
        "requestor": "olga",
        "received_at": AT,
    }
    return NewRevocation(**(values | changes))


def intent(request_id: int, number: int, issuer_id: int = 1, **changes) -> Intent:
    values = {
        "request_id": request_id,
        "issuer_id": issuer_id,
        "serial": serial(number),
        "tbs": b"tbs %d" % number,
        "not_after": NOT_AFTER,
        "profile": "tls-server",
        "profile_version": 1,
        "profile_sha256": SHA,
        "recorded_at": AT,
    }
    return Intent(**(values | changes))


def certificate(request_id: int, number: int, issuer_id: int = 1, **changes) -> CertificateRecord:
    values = {
        "request_id": request_id,
        "issuer_id": issuer_id,
        "serial": serial(number),
        "der": b"certificate %d" % number,
        "subject": f"CN=subject {number}",
        "names": (f"dns:n{number}.example.org", 'email:"quoted\\one"@example.org'),
        "spki_sha256": hashlib.sha256(b"key %d" % number).digest(),
        "not_before": AT - DAY,
        "not_after": NOT_AFTER,
        "profile": "tls-server",
        "issued_at": AT,
    }
    return CertificateRecord(**(values | changes))


def fingerprint(number: int) -> bytes:
    return hashlib.sha256(b"certificate %d" % number).digest()


def listed(store, since, issuer_id: int = 1) -> list[bytes]:
    """The serials that a CRL would list, read without making one."""
    with store.open_crl(CRLSelection(issuer_id, COMPLETE, since)) as draft:
        return serials(draft)


def serials(draft) -> list[bytes]:
    entries = der.Reader(b"".join(draft.chunks()))
    found = []
    while entries:
        found.append(entries.enter().take(der.INTEGER))
    assert draft.entries == len(found)
    return found


class Office:
    """The worker's stores over one database that has an issuer, and synchronous ways to the others."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.store = PgIssuanceStore(database.role("worker"))
        self.revocations = PgRevocationStore(database.role("worker"))
        self.issuers = PgIssuerStore(database.role("worker"))
        self.clock = FakeClock(AT)
        self.issuer_id = self.issuers.add_issuer(
            NewIssuer("issuing", issuer_certificate(), None, "ca", "issuing"), AT, [event("issuer:issuing")]
        )

    def switch(self, name: str, *, active: bool = False, at=AT) -> bool:
        kind = EventKind.PROFILE_ACTIVATED if active else EventKind.PROFILE_DEACTIVATED
        told = Event(kind, at, "olga", f"profile:{name}", {"reason": "why"})
        return self.directory(lambda d: d.switch_profile(ProfileSwitch(name, active, "why", "olga", at), told))

    def queue(self, act):
        """Run `await act(queue)` in a loop of its own."""

        async def run():
            async with AsyncPool(self.database.role("ra")) as pool:
                queue = PgRequestQueue(pool)
                try:
                    return await act(queue)
                finally:
                    await queue.close()

        return asyncio.run(run())

    def directory(self, act):
        async def run():
            async with AsyncPool(self.database.role("ra")) as pool:
                return await act(PgDirectory(pool, self.clock))

        return asyncio.run(run())

    def submit(self, *transaction_ids: str, **changes) -> list[int]:
        async def act(queue):
            requests = [new_request(one, **changes) for one in transaction_ids]
            return await asyncio.gather(*(queue.submit(one, [event(one.transaction_id)]) for one in requests))

        return [outcome.request_id for outcome in self.queue(act)]

    def issue(self, number: int, requestor: str = "alice", **changes) -> int:
        """Take one request all the way; return its id."""
        (request_id,) = self.submit(f"issue {number}", requestor=requestor)
        assert [request_id] == [one.request_id for one in self.store.take(WORKER, 10, AT)]
        self.store.record_intents(WORKER, [intent(request_id, number)], [], [event("intent")])
        self.store.record_certificates([certificate(request_id, number, **changes)], [], [event("issued")])
        return request_id

    def operator(self, number: int, name: str, *roles: Role) -> None:
        """Issue certificate `number` and make its holder an operator."""
        self.issue(number, requestor="bootstrap")
        operator = Operator(fingerprint(number), name, frozenset(roles))
        self.directory(lambda d: d.add_operator(operator, AT, [event(name)]))

    def ask_revocation(self, number: int = 1, **changes):
        """Store a revocation request and return it as the worker takes it."""
        request = new_revocation(number, **changes)
        outcome = self.queue(lambda q: q.submit_revocation(request, [event("revocation")]))
        return next(r for r in self.revocations.take_revocations(100) if r.revocation_id == outcome.revocation_id)

    def revoke(self, number: int = 1, at=AT, **changes) -> None:
        request = self.ask_revocation(number, **changes)
        status = self.status(number)
        revoked = dataclasses.replace(
            status, state=StatusState.REVOKED, revoked_at=at.replace(microsecond=0), reason=request.reason
        )
        settle(self.revocations, revoked, request, None, [event("revoked", EventKind.CERTIFICATE_REVOKED, at)])

    def standing(self, number: int = 1, requestor: str = "olga"):
        """What a request of this requestor about this serial would be judged by."""
        request = RevocationRequest(0, 1, serial(number), RevocationReason.SUPERSEDED, None, requestor, AT)
        [found] = self.revocations.standings([request])
        return found

    def status(self, number: int = 1):
        return self.standing(number).status

    def events(self) -> list[str]:
        return [row[0] for row in self.sql("SELECT subject FROM chancery.journal_event ORDER BY event_id")]

    def sql(self, query: str, *parameters):
        """Run a statement as the superuser and return its rows."""
        with connect(self.database.superuser) as superuser:
            cursor = superuser.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

    def count(self, table: str) -> int:
        return self.sql(f"SELECT count(*) FROM chancery.{table}")[0][0]


def settle(store, status, request, refusal, events, *, block=None) -> None:
    """End one request by itself."""
    store.settle([Settlement(request, status, refusal, tuple(events), block)])


def error_of(call):
    """The type of the PKIError that the call raises, or None."""
    try:
        call()
    except PKIError as error:
        return error.type
    return None
