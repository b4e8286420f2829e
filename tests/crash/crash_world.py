"""
What the crash tests stand on: one server, one token, lives of workers in processes of their own, and the account.

The account is read with plain SQL by a superuser, after the fact; `checks.problems` and `NOTHING` judge it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
from crash_life import ORIGIN, PROFILES, Order, Word
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from psycopg import sql

import cakit
import checks
import pg
from chancery.asn1 import x509 as template
from chancery.asn1.signature import KeySigner
from chancery.audit.memory import CheckpointFile
from chancery.audit.verify import verify
from chancery.ca.issuance import make_serial
from chancery.ca.issuer import Issuer, IssuerURLs, SelfIssuer
from chancery.cli.clock import SystemClock, SystemEntropy
from chancery.pkcs11 import prepare_softhsm
from chancery.pkix.name import parse_name
from chancery.pkix.profile import grant, requested
from chancery.ports import (
    CertificateRecord,
    CertificateStatus,
    CRLRecord,
    Event,
    EventKind,
    Intent,
    IssuerRecord,
    NewIssuer,
    NewRequest,
    NewRevocation,
    Operator,
    RequestState,
    RevocationReason,
    Role,
    StatusState,
)
from chancery.postgres.directory import PgDirectory
from chancery.postgres.issuers import PgIssuerStore
from chancery.postgres.journal import PgJournalStore
from chancery.postgres.requests import PgRequestQueue
from chancery.postgres.roles import create_database
from chancery.postgres.session import AsyncPool, Session, connect, has_ended
from softhsm.softhsmkit import LIBRARY, PIN, SO_PIN

TOKEN = "crash"
CLOCK = SystemClock()
HERE = Path(__file__).parent
OFFICER = "olga"
BAD = cakit.make_csr("CN=no names")

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
        SELECT event_id FROM chancery.journal_event WHERE writer NOT IN ('chancery_ra', 'chancery_worker')""",
}


class Life:
    """The test's end of a life's connection."""

    def __init__(self, zygote: Path, order: Order) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(60)
        self._socket.connect(str(zygote))
        self._file = self._socket.makefile("rwb")
        self._file.write(msgspec.json.encode(order) + b"\n")
        self._file.flush()
        self.tripped = ""
        self.reports: list[str] = []

    def hear(self) -> Word | None:
        """The next word, or None when the process was killed."""
        try:
            line = self._file.readline()
        except ConnectionResetError:
            line = b""
        if not line:
            self.close()
            return None
        word = msgspec.json.decode(line, type=Word)
        if word.what == "tripped":
            self.tripped = word.text
        elif word.what == "report":
            self.reports.append(word.text)
        return word

    def until(self, what: str, text: str = "") -> Word:
        """Hear on until this word, which must come before the end."""
        while (word := self.hear()) is not None:
            if word.what == what and text in word.text:
                return word
            assert word.what != "ended", word
        raise AssertionError(f"killed before {what} {text}; {self.tripped}, {self.reports}")

    def go_on(self) -> None:
        self._file.write(b"\n")
        self._file.flush()

    def outcome(self) -> Word | None:
        """How it ended; None: killed."""
        while (word := self.hear()) is not None:
            if word.what in {"ended", "keys"}:
                self.close()
                return word
        return None

    def close(self) -> None:
        self._file.close()
        self._socket.close()


class World:
    """A server, a token with its keys, and a database that every case begins with a copy of."""

    def __init__(self, server: pg.Server, directory: Path) -> None:
        self.server = server
        self.directory = directory
        self.token_directory = directory / "token"
        self.zygote = directory / "zygote"
        self.conf = prepare_softhsm(self.token_directory, TOKEN, SO_PIN, PIN, library=LIBRARY)
        self._numbers = itertools.count(1)

    @contextlib.contextmanager
    def started(self):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.zygote))
            listener.listen(16)
            process = subprocess.Popen(
                [sys.executable, str(HERE / "crash_life.py"), str(listener.fileno())],
                pass_fds=[listener.fileno()],
                env={**os.environ, "PYTHONPATH": f"{HERE.parents[1] / 'src'}:{HERE.parent}"},
            )
        try:
            self._make_issuer()
            yield self
        finally:
            process.kill()
            process.wait()

    def _make_issuer(self) -> None:
        """A root in software, an issuing CA whose key is in the token."""
        keys = Life(self.zygote, Order(TOKEN, str(self.conf))).outcome().keys
        self.journal_key = load_der_public_key(bytes.fromhex(keys["journal"]))
        at = CLOCK.now().replace(microsecond=0)
        key = KeySigner(ec.generate_private_key(ec.SECP256R1()))
        root = SelfIssuer(key, parse_name("CN=Root,O=Example,C=XX"))
        entropy = SystemEntropy()
        self.root = root.issue(root.prepare(PROFILES["root-ca"], make_serial(127, entropy), at))
        issuer = Issuer(IssuerRecord(1, "root", self.root, None, None, None), key, IssuerURLs(None, None, None))
        granted = grant(PROFILES["sub-ca"], requested(bytes.fromhex(keys["csr"])), issuer.limits, at)
        self.issuing = issuer.issue(issuer.prepare(granted, make_serial(127, entropy)))

    @contextlib.contextmanager
    def case(self, before: Case | None = None):
        """A case on an empty database, or on a copy of another one's as it stands."""
        number = next(self._numbers)
        name = f"chancery_crash_{number}"
        files = self.directory / f"case-{number}"
        if before:
            before.close()  # a database with visitors is not copied
        with connect(self.server.superuser) as superuser:
            create_database(superuser, name, before.database.name if before else pg.TEMPLATE)
            # A sequence that was copied in the middle of its stride (SEQ_LOG_VALS) is not logged until the next
            # checkpoint: without one, a killed server would draw the same ids again.
            superuser.execute("CHECKPOINT")
        files.mkdir()
        if before:
            shutil.copytree(before.files, files, dirs_exist_ok=True)
        made = Case(self, pg.Database(self.server.embedded, name), files)
        try:
            yield made
        finally:
            made.close()
            with connect(self.server.superuser) as superuser:
                superuser.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def good() -> bytes:
    """A request with a key of its own that gets its certificate."""
    return cakit.make_csr(names=("dns:www.example.org",), signer=ec.generate_private_key(ec.SECP256R1()))


class Case:
    """One database, one counting file, and the lives over them."""

    def __init__(self, world: World, database: pg.Database, files: Path) -> None:
        self.world = world
        self.database = database
        self.files = files
        self.host = database.server.host
        self.rounds = itertools.count(1)
        self._superuser = None

    # The requestors' side

    def found(self) -> None:
        """Issuers and profiles, as an installation begins."""
        session = Session(self.database.role("worker"))
        store = PgIssuerStore(session)
        at = CLOCK.now()
        event = Event(EventKind.CA_IMPORTED, at, "crash", "issuer")
        store.add_issuer(NewIssuer("root", self.world.root, None, None, None), at, [event])
        store.add_issuer(NewIssuer("issuing", self.world.issuing, "root", TOKEN, "issuing"), at, [event])
        for profile in PROFILES.values():
            store.add_profile(profile.name, profile.version, profile.sha256, profile.source, at)
        session.close()

    def submit(self, *transactions: tuple[str, bytes], requestor: str = OFFICER):
        """Submit requests, or submit them again; their outcomes as they stand."""

        async def act(pool):
            queue = PgRequestQueue(pool)
            at = CLOCK.now()
            try:
                return [
                    await queue.submit(
                        NewRequest(transaction, "rest", requestor, "tls-server", None, csr, (), at),
                        [Event(EventKind.REQUEST_RECEIVED, at, requestor, transaction)],
                    )
                    for transaction, csr in transactions
                ]
            finally:
                await queue.close()

        return self._asked(act)

    def revoke(self, *serials: bytes, ask_crl: bool = False) -> None:
        async def act(pool):
            queue = PgRequestQueue(pool)
            at = CLOCK.now()
            reason = RevocationReason.KEY_COMPROMISE
            for serial in serials:
                event = Event(EventKind.REVOCATION_REQUESTED, at, OFFICER, serial.hex())
                await queue.submit_revocation(NewRevocation("issuing", serial, reason, None, OFFICER, at), [event])
            if ask_crl:
                await queue.ask_crl("issuing", OFFICER, at, [Event(EventKind.CRL_REQUESTED, at, OFFICER, "crl")])
            await queue.close()

        self._asked(act)

    def add_officer(self, certificate: bytes) -> None:
        async def act(pool):
            operator = Operator(hashlib.sha256(certificate).digest(), OFFICER, frozenset({Role.OFFICER}))
            event = Event(EventKind.OPERATOR_ENROLLED, CLOCK.now(), "crash", OFFICER)
            await PgDirectory(pool, CLOCK).add_operator(operator, CLOCK.now(), [event])

        self._asked(act)

    def _asked(self, act):
        async def run():
            async with AsyncPool(self.database.role("ra")) as pool:
                return await act(pool)

        return asyncio.run(run())

    # Lives

    def start(self, **order) -> Life:
        values = {
            "token": TOKEN,
            "conf": str(self.world.conf),
            "database": self.database.name,
            "host": self.host,
            "signed": str(self.files / "signed"),
            "checkpoint": str(self.files / "checkpoint"),
        }
        return Life(self.world.zygote, Order(**(values | order)))

    def work(self, **order) -> Word:
        """A life that nothing kills; it must end well."""
        life = self.start(**order)
        outcome = life.outcome()
        assert outcome is not None, (life.tripped, life.reports)
        assert "" == outcome.error, outcome.error
        return outcome

    # The account

    def sql(self, query: str, *parameters):
        cursor = self.superuser().execute(query, parameters)
        return cursor.fetchall() if cursor.description else []

    def superuser(self):
        """A connection that is kept, unless the server was killed meanwhile."""
        if self._superuser is None or has_ended(self._superuser):
            self.close()
            self._superuser = connect(self.database.superuser)
        return self._superuser

    def close(self) -> None:
        if self._superuser is not None:
            self._superuser.close()
            self._superuser = None

    def count(self, rows: str) -> int:
        return self.sql(f"SELECT count(*) FROM chancery.{rows}")[0][0]

    def counted(self, what: str) -> list[bytes]:
        """What the token was `asked` to sign, or `signed`, in order."""
        lines = (self.files / "signed").read_text().splitlines()
        return [bytes.fromhex(data) for kind, data in map(str.split, lines) if kind == what]

    def unconfirmed(self) -> list[bytes]:
        return [row[0] for row in self.sql(_UNCONFIRMED)]

    def problems(self) -> list[str]:
        """Everything that is wrong after the lives have come to rest."""
        issuer_id, account = _account(self.sql)
        found = [what for what, query in NOTHING.items() if self.sql(query)]
        asked, signed = self.counted("asked"), self.counted("signed")
        issuer = x509.load_der_x509_certificate(self.world.issuing)
        found += checks.problems(account, {issuer_id: asked}, {issuer_id: issuer})
        found += _counting(account, asked, signed)
        found += _blocked(account, [row[0] for row in self.sql("SELECT spki_sha256 FROM chancery.blocked_key")])
        return found + self._journal()

    def _journal(self) -> list[str]:
        session = Session(self.database.role("auditor"))
        try:
            head = CheckpointFile(self.files / "checkpoint").read(ORIGIN, self.world.journal_key)
            audit = verify(
                PgJournalStore(session),
                ORIGIN,
                self.world.journal_key,
                CLOCK.now(),
                remembered=[] if head is None else [head],
            )
        finally:
            session.close()
        found = [str(one) for one in audit.findings]
        if audit.waiting or audit.head is None:
            found.append(f"{audit.waiting} events wait for their leaves")
        return found


class Round:
    """Something of everything to do (certificates, a refusal, a revocation, a CRL) and what must become of it."""

    def __init__(self, case: Case) -> None:
        self.case = case
        number = next(case.rounds)
        # What is revoked is revoked as compromised, and blocks the key of its round.
        csr = good()
        self.asked = [(f"{number}-{name}", one) for name, one in (("a", csr), ("b", BAD), ("c", csr))]
        case.submit(*self.asked)
        # The newest certificate but the officer's.
        [(serial,)] = case.sql(
            "SELECT serial FROM chancery.certificate JOIN chancery.certificate_status USING (issuer_id, serial)"
            " WHERE state = 'good' AND certificate_id > 1 ORDER BY certificate_id DESC LIMIT 1"
        )
        case.revoke(serial, ask_crl=True)
        self.revoked = case.count("certificate_status WHERE state = 'revoked'") + 1

    def settle(self, where: str = "", **order) -> int:
        """
        Work until nothing is left; then every request has its one answer, and all is accounted for.

        Revoke what is unconfirmed, and account again. Returns how many serials that were.
        """
        case = self.case
        case.work(**order)
        assert [] == case.problems(), where
        # A requestor who lost the answer asks again, and gets the same certificate.
        outcomes = case.submit(*self.asked)
        assert ["done", "refused", "done"] == [outcome.state.value for outcome in outcomes], where
        assert self.revoked == case.count("certificate_status WHERE state = 'revoked'"), where
        if lost := case.unconfirmed():
            case.revoke(*lost)
            case.work()
            assert [] == case.problems(), where
            assert [] == case.unconfirmed(), where
            assert self.revoked + len(lost) == case.count("certificate_status WHERE state = 'revoked'"), where
            assert outcomes == case.submit(*self.asked), where
        return len(lost)


_UNCONFIRMED = "SELECT serial FROM chancery.certificate_status WHERE state = 'unconfirmed' ORDER BY serial"
_INTENTS = """
SELECT request_id, issuer_id, serial, tbs, not_after, profile, profile_version, profile_sha256, recorded_at
FROM chancery.intent ORDER BY recorded_at"""
_CERTIFICATES = """
SELECT request_id, issuer_id, serial, der, subject, names, spki_sha256, not_before, not_after, profile, issued_at
FROM chancery.certificate ORDER BY certificate_id"""
_STATUSES = """
SELECT issuer_id, serial, state, not_after, revoked_at, reason, invalidity_date FROM chancery.certificate_status"""
_CRLS = """
SELECT issuer_id, number, this_update, next_update, covers, der FROM chancery.crl ORDER BY number"""
_CHANGES = {
    EventKind.CERTIFICATE_ISSUED: StatusState.GOOD,
    EventKind.INTENT_UNCONFIRMED: StatusState.UNCONFIRMED,
    EventKind.CERTIFICATE_REVOKED: StatusState.REVOKED,
}


def _account(rows) -> tuple[int, checks.Account]:
    """The issuing CA's id and everything stored; the history of a status is what the journal says of it."""

    [(issuer_id,)] = rows("SELECT issuer_id FROM chancery.issuer WHERE key_label IS NOT NULL")
    statuses = [
        CertificateStatus(
            r[0], r[1], StatusState(r[2]), r[3], r[4], None if r[5] is None else RevocationReason(r[5])
        )
        for r in rows(_STATUSES)
    ]
    events = [_event(body) for (body,) in rows("SELECT body FROM chancery.journal_event ORDER BY event_id")]
    by_subject = {f"{one.issuer_id}:{one.serial.hex()}": one for one in statuses}
    return issuer_id, checks.Account(
        intents=[Intent(*row) for row in rows(_INTENTS)],
        certificates=[CertificateRecord(*row) for row in rows(_CERTIFICATES)],
        statuses=statuses,
        history=[
            dataclasses.replace(by_subject[one.subject], state=_CHANGES[one.kind])
            for one in events
            if one.kind in _CHANGES and one.subject in by_subject
        ],
        requests={row[0]: RequestState(row[1]) for row in rows("SELECT request_id, state FROM chancery.request")},
        crls=[CRLRecord(*row) for row in rows(_CRLS)],
        crl_numbers=dict(rows("SELECT issuer_id, max(number) FROM chancery.crl_number GROUP BY issuer_id")),
        events=events,
    )


def _event(body: str) -> Event:
    value = json.loads(body)
    return Event(EventKind(value["kind"]), value["at"], value["actor"], value["subject"], value["detail"])


def _counting(account: checks.Account, asked: list[bytes], signed: list[bytes]):
    """The other way round: nothing is stored that was not counted; each CRL was signed under its own number."""
    stored = [x509.load_der_x509_certificate(one.der).tbs_certificate_bytes for one in account.certificates]
    if set(stored) - set(signed):
        yield "a certificate whose signature was not counted"
    by_tbs = {intent.tbs for intent in account.intents}
    published = {one.number: x509.load_der_x509_crl(one.der).tbs_certlist_bytes for one in account.crls}
    numbers = []
    for tbs in asked:
        if tbs in by_tbs:
            continue
        try:
            numbers.append(number := _crl_number(tbs))
        except ValueError:
            yield "a signature over nothing that is known"
            continue
        if published.get(number, tbs) != tbs:
            yield f"CRL {number} is not the one that was signed"
    if len(numbers) != len(set(numbers)):
        yield f"a CRL number was signed twice: {numbers}"
    if not set(published) <= set(numbers) <= set(range(1, sum(account.crl_numbers.values()) + 1)):
        yield f"CRLs {sorted(published)} published, {numbers} signed, {account.crl_numbers} reserved"


def _blocked(account: checks.Account, blocked: list[bytes]):
    """R5: the key of everything that was revoked as compromised is blocked, no other is, and one event says so."""
    tbs = {(one.issuer_id, one.serial): one.tbs for one in account.intents}
    keys = {
        hashlib.sha256(template.subject_fields_of(tbs[one.issuer_id, one.serial])[1]).digest()
        for one in account.statuses
        if one.state is StatusState.REVOKED
    }
    if keys != set(blocked):
        yield f"{len(keys)} keys were compromised and {len(blocked)} are blocked"
    events = sorted(event.subject for event in account.events if event.kind is EventKind.KEY_BLOCKED)
    if events != sorted(f"key:{key.hex()}" for key in keys):
        yield f"{len(keys)} keys were compromised, {len(events)} events say so"


def _crl_number(tbs: bytes) -> int:
    # Only its form matters here: any signature makes a CRL of it that can be read.
    crl = x509.load_der_x509_crl(template.signed(tbs, ECDSA_SHA256, b"\x30\x06\x02\x01\x01\x02\x01\x01"))
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
