"""Fills a suite's tables by COPY with all that certificates leave behind, the journal and its tree included."""

from __future__ import annotations

import dataclasses
import datetime
import os
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from bench.common import Running
from chancery.asn1.signature import Signer
from chancery.audit.merkle import CompactRange, leaf_hash
from chancery.audit.note import TreeHead, sign_checkpoint
from chancery.ca.issuance import serial_prefix
from chancery.cli.clock import SystemClock
from chancery.postgres.embedded import EmbeddedPostgres
from chancery.postgres.session import Connection, PgConnection

CHUNK = 20_000
ROW_OCTETS = 6_500
"""What one certificate takes on disk in all tables and indexes, and some for the write-ahead log."""
SPARE_OCTETS = 6 * 1024**3
SAMPLE = 100
"""Rows of a chunk that are remembered, to be looked up later."""
_SEQUENCER_LOCK = 0x43485703
_TABLES = {
    "request": "request_id, transaction_id, protocol, requestor, profile, csr, names, fingerprint, received_at,"
    " state, worker, certificate_issuer_id, certificate_serial",
    "intent": "issuer_id, serial, request_id, worker, tbs, not_after, profile, profile_version, profile_sha256,"
    " recorded_at",
    "certificate": "certificate_id, issuer_id, serial, request_id, der, subject, names, spki_sha256, not_before,"
    " not_after, profile, issued_at",
    "certificate_status": "issuer_id, serial, state, not_after, changed_at",
    "journal_event": "event_id, body, writer",
    "journal_leaf": "leaf_index, event_id, hash",
}


@dataclasses.dataclass(frozen=True)
class Known:
    """One stored certificate, by all that it is looked up by."""

    serial: bytes
    subject: str
    name: str
    spki_sha256: bytes


@dataclasses.dataclass(frozen=True)
class Template:
    """What every row is made after: a certificate of the suite, its intent and its request."""

    issuer_id: int
    csr: bytes
    tbs: bytes
    der: bytes
    requestor: str
    profile: str
    version: int
    sha256: bytes


def superuser(running: Running) -> Connection:
    """How to reach the PostgreSQL of the suite as its superuser."""
    server = EmbeddedPostgres(running.place.database).superuser
    return dataclasses.replace(server, database="chancery", statement_timeout=0)


def fitting(running: Running, rows: int) -> int:
    """Return how many of so many rows fit on the disk, and say so when it is fewer."""
    free = shutil.disk_usage(running.state).free
    room = max(0, free - SPARE_OCTETS) // ROW_OCTETS
    if room < rows:
        print(f"the disk has {free / 1e9:.0f} GB free: {room:,} certificates fit, not {rows:,}", flush=True)
    return min(rows, room)


def template(connection: PgConnection) -> Template:
    """Read the newest certificate that was asked for over REST."""
    found = connection.execute(
        "SELECT i.issuer_id, r.csr, i.tbs, c.der, r.requestor, i.profile, i.profile_version, i.profile_sha256"
        " FROM chancery.certificate AS c JOIN chancery.intent AS i USING (issuer_id, serial)"
        " JOIN chancery.request AS r ON r.request_id = i.request_id WHERE r.protocol = 'rest'"
        " ORDER BY c.certificate_id DESC LIMIT 1"
    ).fetchall()
    return Template(*found[0])


class Filler:
    """Writes chunks of rows, each with its leaves and a signed checkpoint in one transaction."""

    def __init__(self, connection: PgConnection, signer: Signer, origin: str) -> None:
        self._connection, self._signer, self._origin = connection, signer, origin
        self._template = template(connection)
        self._random = random.Random(1)  # noqa: S311 - it chooses rows, nothing secret
        self._made = 0
        self._clock = SystemClock()
        self._kept: CompactRange | None = None
        self.sample: list[Known] = []

    def fill(self, rows: int) -> None:
        """Write so many certificates, and print how it goes."""
        self._connection.execute("SET session_replication_role = replica")
        self._connection.execute("SET synchronous_commit = off")
        began = time.monotonic()
        sizes = [min(CHUNK, rows - start) for start in range(0, rows, CHUNK)]
        # The server writes one chunk while the next one is made.
        with ThreadPoolExecutor(1) as pool:
            writing = None
            for number, size in enumerate(sizes):
                made = self._chunk(size)
                if writing is not None:
                    writing.result()
                writing = pool.submit(self._write, made)
                if number % 10 == 9 or number + 1 == len(sizes):
                    done, seconds = self._made, time.monotonic() - began
                    left = seconds / done * (rows - done)
                    print(f"{done:>12,} rows in {seconds:,.0f} s, {left:,.0f} s left", flush=True)
            if writing is not None:
                writing.result()

    def _chunk(self, size: int) -> list[_Row]:
        rows = [self._row(self._made + n) for n in range(size)]
        self.sample += [one.known for one in self._random.sample(rows, min(size, SAMPLE))]
        self._made += size
        return rows

    def _row(self, number: int) -> _Row:
        now = self._clock.now()
        not_after = now + datetime.timedelta(days=1 + self._random.randrange(1400))
        serial = serial_prefix(not_after, 1) + os.urandom(16)
        return _Row(number, serial, os.urandom(32), now, not_after)

    def _write(self, rows: Sequence[_Row]) -> None:
        connection, one = self._connection, self._template
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_SEQUENCER_LOCK,))
            requests = _advance(connection, "request", "request_id", len(rows))
            certificates = _advance(connection, "certificate", "certificate_id", len(rows))
            events = _advance(connection, "journal_event", "event_id", 3 * len(rows))
            bodies = [body for n, row in enumerate(rows) for body in row.bodies(one, requests + n)]
            hashes = [leaf_hash(body.encode()) for body in bodies]
            tree = self._tree()
            start = tree.size
            for digest in hashes:
                tree.append(digest)
            lines: dict[str, Iterator[str]] = {
                "request": (row.request(one, requests + n) for n, row in enumerate(rows)),
                "intent": (row.intent(one, requests + n) for n, row in enumerate(rows)),
                "certificate": (
                    row.certificate(one, requests + n, certificates + n) for n, row in enumerate(rows)
                ),
                "certificate_status": (row.status(one) for row in rows),
                "journal_event": (f"{events + n}\t{_escaped(b)}\tchancery_worker\n" for n, b in enumerate(bodies)),
                "journal_leaf": (f"{start + n}\t{events + n}\t\\\\x{h.hex()}\n" for n, h in enumerate(hashes)),
            }
            for table, columns in _TABLES.items():
                with connection.cursor().copy(f"COPY chancery.{table} ({columns}) FROM STDIN".encode()) as copy:
                    copy.write("".join(lines[table]))
            note = sign_checkpoint(TreeHead(self._origin, tree.size, tree.root()), self._signer)
            connection.execute(
                "INSERT INTO chancery.journal_checkpoint (tree_size, root, note, at) VALUES (%s, %s, %s, now())",
                (tree.size, tree.root(), note),
            )
        self._kept = tree

    def _tree(self) -> CompactRange:
        """The tree as it is stored, read once and grown since; the sequencer may have grown it meanwhile."""
        tree = self._kept or CompactRange()
        rows = self._connection.execute(
            "SELECT hash FROM chancery.journal_leaf WHERE leaf_index >= %s ORDER BY leaf_index", (tree.size,)
        ).fetchall()
        for (digest,) in rows:
            tree.append(bytes(digest))
        return tree


@dataclasses.dataclass(frozen=True, slots=True)
class _Row:
    number: int
    serial: bytes
    spki: bytes
    at: datetime.datetime
    not_after: datetime.datetime

    @property
    def _host(self) -> str:
        return f"stored-{self.number}.example.org"

    @property
    def known(self) -> Known:
        return Known(self.serial, f"CN={self._host}", f"dns:{self._host}", self.spki)

    def request(self, one: Template, request: int) -> str:
        csr = one.csr[:-32] + self.spki
        return (
            f"{request}\tstored-{self.number}\trest\t{one.requestor}\t{one.profile}\t\\\\x{csr.hex()}\t{{}}\t"
            f"\\\\x{self.spki.hex()}\t{self.at}\tdone\tworker-1\t{one.issuer_id}\t\\\\x{self.serial.hex()}\n"
        )

    def intent(self, one: Template, request: int) -> str:
        tbs = one.tbs[:-32] + self.spki
        return (
            f"{one.issuer_id}\t\\\\x{self.serial.hex()}\t{request}\tworker-1\t\\\\x{tbs.hex()}\t{self.not_after}\t"
            f"{one.profile}\t{one.version}\t\\\\x{one.sha256.hex()}\t{self.at}\n"
        )

    def certificate(self, one: Template, request: int, certificate: int) -> str:
        der = one.der[:-32] + self.spki
        return (
            f"{certificate}\t{one.issuer_id}\t\\\\x{self.serial.hex()}\t{request}\t\\\\x{der.hex()}\tCN={self._host}\t"
            f"{{dns:{self._host}}}\t\\\\x{self.spki.hex()}\t{self.at}\t{self.not_after}\t{one.profile}\t{self.at}\n"
        )

    def status(self, one: Template) -> str:
        return f"{one.issuer_id}\t\\\\x{self.serial.hex()}\tgood\t{self.not_after}\t{self.at}\n"

    def bodies(self, one: Template, request: int) -> tuple[str, str, str]:
        """The three events of a certificate, as long as those of the suite."""
        about = f"{one.issuer_id}:{self.serial.hex()}"
        asked = {
            "issuer": "issuing",
            "protocol": "rest",
            "request": request,
            "requestor": one.requestor,
            "transaction": f"stored-{self.number}",
        }
        digest = self.spki.hex()
        intended = {**asked, "profile": one.profile, "profile_sha256": one.sha256.hex(), "tbs_sha256": digest}
        issued = {
            **asked,
            "certificate_sha256": digest,
            "names": [f"dns:{self._host}"],
            "subject": f"CN={self._host}",
        }
        received = {"csr_sha256": digest, "issuer": None, "names": [], "profile": one.profile, "protocol": "rest"}
        return (
            self._body("request.received", one.requestor, f"transaction:stored-{self.number}", received),
            self._body("certificate.intent", "worker-1", about, intended),
            self._body("certificate.issued", "worker-1", about, issued),
        )

    def _body(self, kind: str, actor: str, subject: str, detail: dict[str, object]) -> str:
        value = {"actor": actor, "at": self.at.isoformat(), "detail": detail, "kind": kind, "subject": subject}
        return msgspec.json.encode(value).decode()


def _escaped(body: str) -> str:
    return body.replace("\\", "\\\\")


def _advance(connection: PgConnection, table: str, key: str, count: int) -> int:
    """Take so many numbers of a table's sequence at once; return the first."""
    found = connection.execute(
        "SELECT setval(s, coalesce(pg_sequence_last_value(s), 0) + %s) FROM"
        " (SELECT pg_get_serial_sequence(%s, %s)::regclass AS s) AS one",
        (count, f"chancery.{table}", key),
    ).fetchall()
    return int(found[0][0]) - count + 1


def sizes(connection: PgConnection) -> dict[str, tuple[int, int]]:
    """Octets of rows and of indexes, by table, of those that grow with certificates."""
    found = {}
    for table in _TABLES:
        rows = connection.execute(
            "SELECT sum(pg_table_size(relid)), sum(pg_indexes_size(relid)) FROM pg_partition_tree(%s::regclass)",
            (f"chancery.{table}",),
        ).fetchall()
        if rows[0][0] is None:
            rows = connection.execute(
                "SELECT pg_table_size(%(t)s::regclass), pg_indexes_size(%(t)s::regclass)",
                {"t": f"chancery.{table}"},
            ).fetchall()
        found[table] = (int(rows[0][0]), int(rows[0][1]))
    return found
