"""
What the crash tests stand on: one server, one token, lives of workers in processes of their own, and the account.

`crash_account` judges what they leave behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import crash_account
import msgspec
from crash_life import ISSUERS, ORIGIN, PROFILES, Order, Word
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from psycopg import sql

import cakit
import pg
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
    Event,
    EventKind,
    IssuerRecord,
    NewIssuer,
    NewRequest,
    NewRevocation,
    Operator,
    RevocationReason,
    Role,
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
        """A root in software, two issuing CAs whose keys are in the token."""
        keys = Life(self.zygote, Order(TOKEN, str(self.conf))).outcome().keys
        self.journal_key = load_der_public_key(bytes.fromhex(keys["journal"]))
        at = CLOCK.now().replace(microsecond=0)
        key = KeySigner(ec.generate_private_key(ec.SECP256R1()))
        root = SelfIssuer(key, parse_name("CN=Root,O=Example,C=XX"))
        entropy = SystemEntropy()
        self.root = root.issue(root.prepare(PROFILES["root-ca"], make_serial(127, entropy), at))
        issuer = Issuer(IssuerRecord(1, "root", self.root, None, None, None), key, IssuerURLs(None, None, None))
        self.issuing: dict[str, bytes] = {}
        for name in ISSUERS:
            granted = grant(PROFILES["sub-ca"], requested(bytes.fromhex(keys[name])), issuer.limits, at)
            self.issuing[name] = issuer.issue(issuer.prepare(granted, make_serial(127, entropy)))

    @contextlib.contextmanager
    def without_token(self):
        """Nothing of it is left where it was, while the block lasts."""
        tokens, elsewhere = self.token_directory / "tokens", self.token_directory / "elsewhere"
        tokens.rename(elsewhere)
        try:
            yield
        finally:
            elsewhere.rename(tokens)

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


def good(host: str = "www.example.org") -> bytes:
    """A request with a key of its own that gets its certificate."""
    return cakit.make_csr(f"CN={host}", (f"dns:{host}",), ec.generate_private_key(ec.SECP256R1()))


def kill(server) -> None:
    """SIGKILL, and wait until none of its processes can answer any more."""
    os.kill(server.pid(), signal.SIGKILL)
    while any(map(works_in(server.data_dir), Path("/proc").glob("[0-9]*/cwd"))):
        time.sleep(0.002)


def works_in(directory):
    def found(entry: Path) -> bool:
        try:
            return entry.readlink() == directory
        except OSError:
            return False

    return found


def ended_well(life) -> None:
    outcome = life.outcome()
    assert outcome is not None, life.tripped
    assert "" == outcome.error, outcome.error


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
        for name, certificate in self.world.issuing.items():
            store.add_issuer(NewIssuer(name, certificate, "root", TOKEN, name), at, [event])
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

        return self.asked(act)

    def revoke(
        self,
        *serials: bytes,
        reason: RevocationReason = RevocationReason.KEY_COMPROMISE,
        ask_crl: bool = False,
    ) -> None:
        async def act(pool):
            queue = PgRequestQueue(pool)
            at = CLOCK.now()
            for serial in serials:
                [(issuer,)] = self.sql(_ISSUER, serial)
                event = Event(EventKind.REVOCATION_REQUESTED, at, OFFICER, serial.hex())
                await queue.submit_revocation(NewRevocation(issuer, serial, reason, None, OFFICER, at), [event])
            if ask_crl:
                await queue.ask_crl("issuing", OFFICER, at, [Event(EventKind.CRL_REQUESTED, at, OFFICER, "crl")])
            await queue.close()

        self.asked(act)

    def add_officer(self, certificate: bytes, name: str = OFFICER) -> None:
        async def act(pool):
            operator = Operator(hashlib.sha256(certificate).digest(), name, frozenset({Role.OFFICER}))
            event = Event(EventKind.OPERATOR_ENROLLED, CLOCK.now(), "crash", name)
            await PgDirectory(pool, CLOCK).add_operator(operator, CLOCK.now(), [event])

        self.asked(act)

    def asked(self, act):
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

    def counted_by(self, what: str) -> dict[str, list[bytes]]:
        """What the keys of the issuers, by name, were `asked` to sign, or `signed`, in order."""
        found: dict[str, list[bytes]] = {name: [] for name in ISSUERS}
        for line in (self.files / "signed").read_text().splitlines():
            kind, issuer, data = line.split()
            if kind == what:
                found[issuer].append(bytes.fromhex(data))
        return found

    def counted(self, what: str) -> list[bytes]:
        return self.counted_by(what)["issuing"]

    def unconfirmed(self) -> list[bytes]:
        return [row[0] for row in self.sql(_UNCONFIRMED)]

    def problems(self) -> list[str]:
        """Everything that is wrong after the lives have come to rest."""
        return crash_account.problems(self.sql, self.counted_by, self.world.issuing) + self._journal()

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
_ISSUER = "SELECT name FROM chancery.issuer JOIN chancery.intent USING (issuer_id) WHERE serial = %s"
