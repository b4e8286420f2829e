"""
Lives of a worker for the crash tests: real processes over the real stores and the real token, that can be killed.

Run as a program it imports everything once, listens on a socket, and forks one process for each order that
arrives; that process composes the worker as `chancery.cli.serve_worker` does, works until there is nothing left
to do, and says how it ended. A life whose trip is `kill` ends by SIGKILL, so its connection just breaks.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import socket
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import pg
from chancery.asn1.signature import KeySigner
from chancery.audit.log import Sequencer
from chancery.audit.memory import CheckpointFile
from chancery.ca.crl import CRLSettings, Timing
from chancery.ca.hierarchy import Hierarchy, look
from chancery.ca.issuance import Issuing
from chancery.ca.issuer import Issuer, IssuerURLs, shard_url
from chancery.ca.mass import MassSettings
from chancery.ca.worker import Worker, WorkerSettings
from chancery.cli.clock import SystemClock, SystemEntropy
from chancery.errors import PKIError
from chancery.pkcs11 import TokenSettings, open_token
from chancery.pkix.name import parse_name
from chancery.pkix.profile import shipped_profiles
from chancery.ports import IssuerRecord
from chancery.postgres.embedded import PORT
from chancery.postgres.issuance import PgIssuanceStore
from chancery.postgres.issuers import PgIssuerStore
from chancery.postgres.journal import PgJournalStore
from chancery.postgres.mass import PgJobStore
from chancery.postgres.revocation import PgRevocationStore
from chancery.postgres.session import Connection, Session, sequencer_lock, worker_lock
from softhsm.softhsmkit import LIBRARY, PIN

ORIGIN = "chancery.example/crash"
ISSUERS = ("issuing", "second")
KEYS = {**dict.fromkeys(ISSUERS, "ec-p256"), "journal": "ed25519"}
PROFILES = shipped_profiles()
IDLE = 3600.0
"""Seconds; told from a pause by its length."""
HASTE = 100
DELTAS = Timing(datetime.timedelta(hours=36))


class Trip(msgspec.Struct, frozen=True):
    """Where something happens: `before` or `after` the `at`th call of a port (of those named `call`, if given)."""

    at: int
    when: str = "before"
    act: str = "kill"
    call: str | None = None


class Order(msgspec.Struct, frozen=True):
    """
    Which life: over what, as whom, and what happens to it. Without `database` it makes the token's keys.

    After `alarm` seconds the kernel ends the process, wherever it is.
    """

    token: str
    conf: str
    database: str = ""
    host: str = ""
    signed: str = ""
    checkpoint: str = ""
    instance: int = 1
    batch: int = 8
    shards: int = 0
    deltas: bool = False
    two_persons_above: int = 100
    threads: int = 0
    lock_timeout: float = 5.0
    alarm: float = 0.0
    trip: Trip | None = None


class Word(msgspec.Struct, frozen=True):
    """What a life says: `report`, `tripped` (at which call), `ended` (`error` when not well) or `keys`."""

    what: str
    text: str = ""
    error: str = ""
    keys: dict[str, str] = {}


class Channel:
    """The connection on which a life came to be."""

    def __init__(self, connection: socket.socket) -> None:
        self._file = connection.makefile("rwb")

    def say(self, word: Word) -> None:
        self._file.write(msgspec.json.encode(word) + b"\n")
        self._file.flush()

    def hear(self) -> bytes:
        return self._file.readline()


class Wire:
    """Goes around every port call, counts them, and does what the trip says; `calls` are their names."""

    def __init__(self, trip: Trip | None, channel: Channel) -> None:
        self._trip = trip
        self._channel = channel
        self._passed = 0
        self.calls: list[str] = []

    def around(self, name, call, *arguments):
        # How often it looks depends on how long a CRL took; a look changes nothing.
        if name in {"crl_states", "due"}:
            return call(*arguments)
        self.calls.append(name)
        trip = self._trip
        hit = False
        if trip is not None and trip.call in (None, name):
            self._passed += 1
            hit = self._passed == trip.at
        if hit and trip.when == "before":
            self._act(trip, name)
        result = call(*arguments)
        if hit and trip.when == "after":
            self._act(trip, name)
        return result

    def _act(self, trip: Trip, name: str) -> None:
        self._channel.say(Word("tripped", name))
        if trip.act == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        self._channel.hear()


class Wired:
    """A port's implementation with the wire around each of its methods."""

    def __init__(self, inner, wire: Wire) -> None:
        self._inner, self._wire = inner, wire

    def __getattr__(self, name):
        method = getattr(self._inner, name)
        return lambda *arguments: self._wire.around(name, method, *arguments)


class CountingSigner:
    """
    Counts the token's use in a file outside the database, durably.

    A line `asked` before the token is asked and a line `signed` when it has signed: the first are a superset of
    its signatures wherever the process dies.
    """

    def __init__(self, signer: KeySigner, issuer: str, path: str, wire: Wire) -> None:
        self._signer = signer
        self._issuer = issuer
        self._wire = wire
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    @property
    def algorithm(self):
        return self._signer.algorithm

    @property
    def public_key(self):
        return self._signer.public_key

    def sign(self, data: bytes) -> bytes:
        return self._wire.around("sign", self._sign, data)

    def _sign(self, data: bytes) -> bytes:
        self._count("asked", data)
        signature = self._signer.sign(data)
        self._count("signed", data)
        return signature

    def _count(self, what: str, data: bytes) -> None:
        # One write to a file opened for appending: lines of several threads and processes do not mix.
        os.write(self._file, f"{what} {self._issuer} {data.hex()}\n".encode())
        os.fsync(self._file)


class HastyClock(SystemClock):
    """Pauses and periods go by faster; what time it is stays."""

    def monotonic(self) -> float:
        return HASTE * super().monotonic()


class Life:
    """One life of a worker, until there is nothing left to do."""

    def __init__(self, order: Order, channel: Channel, stack: contextlib.ExitStack) -> None:
        self.channel = channel
        self.wire = Wire(order.trip, channel)
        self.clock = HastyClock()
        self.stopping = False
        self.order = order
        self.token = token = stack.enter_context(open_token(token_settings(order)))
        settings = Connection(
            order.host,
            PORT,
            order.database,
            "chancery_worker",
            password=lambda: pg.password("chancery_worker"),
            lock_timeout=order.lock_timeout,
        )
        session = Session(settings, [worker_lock(order.instance)])
        stack.callback(session.close)
        session.open()
        journal = Session(settings, [sequencer_lock])
        stack.callback(journal.close)
        self.revocations = PgRevocationStore(session)
        self.jobs = PgJobStore(session)
        self.store = PgIssuerStore(session)
        self.made: dict[str, Issuer] = {}
        self.seen: list[IssuerRecord] = []
        self.crl = CRLSettings(delta=DELTAS if order.deltas else None)
        hierarchy = self._look()
        self.worker = Worker(
            Issuing(
                store=Wired(PgIssuanceStore(session), self.wire),
                issuers=hierarchy.issuers,
                default_issuer=hierarchy.default,
                inactive=hierarchy.inactive,
                profiles=PROFILES,
                clock=self.clock,
                entropy=SystemEntropy(),
                instance=order.instance,
                worker=f"worker-{order.instance}",
                signers=stack.enter_context(ThreadPoolExecutor(order.threads)) if order.threads else None,
            ),
            Wired(self.revocations, self.wire),
            WorkerSettings(batch=order.batch, idle=IDLE, crl=self.crl, mass=MassSettings(order.two_persons_above)),
            lambda event, values: channel.say(Word("report", f"{event} {dict(values)}")),
            look=self._look,
            jobs=Wired(self.jobs, self.wire),
        )
        self.sequencer = Sequencer(
            Wired(PgJournalStore(journal), self.wire),
            KeySigner(token.find_key("journal")),
            ORIGIN,
            self.clock,
            remember=Wired(CheckpointFile(Path(order.checkpoint)), self.wire),
        )

    def _look(self) -> Hierarchy | None:
        """As `cli.issuers.Issuers` does."""
        records = self.store.issuers()
        if records == self.seen:
            return None
        found, problems = look(records, lambda one: one.key_label is not None, "issuing", self._make)
        assert {} == problems
        self.seen = records
        return found

    def _make(self, record: IssuerRecord, above: tuple[x509.Certificate, ...]) -> Issuer:
        if record.name not in self.made:
            order, base = self.order, f"http://pki.example.org/crl/{record.name}.crl"
            shards = self.store.open_shards(
                record, lambda number: shard_url(base, number), order.shards, self.clock.now()
            )
            urls = IssuerURLs("http://ocsp.example.org/ocsp", base, None, order.deltas, tuple(shards))
            key = KeySigner(self.token.find_key(record.key_label))
            signer = CountingSigner(key, record.name, order.signed, self.wire)
            self.made[record.name] = Issuer(record, signer, urls, above)
        return self.made[record.name]

    def live(self) -> None:
        self.worker.run(self._wait, lambda: self.stopping)
        self._sequence()

    def _wait(self, seconds: float) -> None:
        if seconds < IDLE:
            time.sleep(min(seconds, 0.05))
            return
        # A CRL may be due and held back for the sake of certificates, and a job until it is looked for again.
        with contextlib.suppress(PKIError):
            ours = {issuer.record.issuer_id for issuer in self.made.values()}
            crls = ours & set(pg.crls_due(self.revocations, self.clock.now(), self.crl))
            self.stopping = not crls and not self.jobs.due()
        time.sleep(0 if self.stopping else 0.01)

    def _sequence(self) -> None:
        """Append everything. Another life may hold the lock, or one that was killed a moment ago."""
        for _ in range(1000):
            try:
                if not self.sequencer.run_once():
                    return
            except PKIError as error:
                self.channel.say(Word("report", f"journal {error.detail}"))
                time.sleep(0.02)
        raise AssertionError("the journal was never sequenced")


def token_settings(order: Order) -> TokenSettings:
    return TokenSettings(module=LIBRARY, label=order.token, pin=lambda: PIN, softhsm_conf=order.conf)


def make_keys(order: Order) -> Word:
    """Generate the worker's keys; say the CSRs of the issuers' and the journal's public key."""
    with open_token(token_settings(order)) as token:
        keys = {label: token.generate_key(label, kind) for label, kind in KEYS.items()}
        said = {}
        for name in ISSUERS:
            subject = parse_name(f"CN={name.capitalize()},O=Example,C=XX")
            builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
            said[name] = builder.sign(keys[name], hashes.SHA256()).public_bytes(Encoding.DER).hex()
        journal = keys["journal"].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Word("keys", keys={**said, "journal": journal.hex()})


def serve(connection: socket.socket) -> None:
    channel = Channel(connection)
    order = msgspec.json.decode(channel.hear(), type=Order)
    if not order.database:
        channel.say(make_keys(order))
        return
    # The default action of SIGALRM: nothing of the process runs any more, as with SIGKILL.
    signal.setitimer(signal.ITIMER_REAL, order.alarm)
    calls: list[str] = []
    try:
        with contextlib.ExitStack() as stack:
            life = Life(order, channel, stack)
            calls = life.wire.calls
            channel.say(Word("report", "working"))
            life.live()
        channel.say(Word("ended", " ".join(calls)))
    except BaseException as error:  # noqa: BLE001 - whatever ended this life, the test hears of it
        last = traceback.format_exception_only(error)[-1].strip()
        channel.say(Word("ended", " ".join(calls), error=f"{last}\n{traceback.format_exc()}"))


def main() -> None:
    listener = socket.socket(fileno=int(sys.argv[1]))
    # Nobody waits for a life's exit code: the end of its connection says it all.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listener.accept()
        with connection:
            if os.fork():
                continue
            listener.close()
            # A life may start programs and wait for them.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            try:
                serve(connection)
            finally:
                os._exit(0)


if __name__ == "__main__":
    main()
