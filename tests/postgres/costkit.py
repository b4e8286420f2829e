"""What one revocation costs on a real server: pages and rows that it touches, its triggers included."""

from __future__ import annotations

import dataclasses
import statistics
import time

from pgdata import NOT_AFTER, Office, serial

from chancery.ca.revocation import settle_revocations
from chancery.ports import Role
from chancery.postgres.revocation import PgRevocationStore
from chancery.postgres.session import Session, connect
from fakes import FakeClock
from pg import AT

_OPERATOR = 10**12
_FILL = """
INSERT INTO chancery.intent (issuer_id, serial, request_id, worker, tbs, not_after, profile, profile_version,
    profile_sha256, recorded_at)
SELECT issuer_id, serial, 1, 'worker-1', serial, not_after, 'tls-server', 1, '', changed_at FROM filled;
INSERT INTO chancery.certificate (issuer_id, serial, request_id, der, subject, names, spki_sha256, not_before,
    not_after, profile, issued_at)
SELECT issuer_id, serial, 1, serial, 'CN=' || encode(serial, 'hex'), '{}', sha256(serial), changed_at, not_after,
    'tls-server', changed_at FROM filled;
INSERT INTO chancery.certificate_status (issuer_id, serial, state, not_after, revoked_at, reason, changed_at)
SELECT * FROM filled"""
_NO_HOUSEKEEPING = """
DO $$ DECLARE t regclass; BEGIN
    FOR t IN SELECT oid::regclass FROM pg_class
        WHERE relkind = 'r' AND relnamespace = 'chancery'::regnamespace LOOP
        EXECUTE 'ALTER TABLE ' || t || ' SET (autovacuum_enabled = false)';
    END LOOP;
END $$"""
_TOUCHED = """
SELECT (SELECT sum(heap_blks_hit + heap_blks_read + coalesce(idx_blks_hit + idx_blks_read, 0))
        FROM pg_statio_all_tables WHERE schemaname = 'chancery')::bigint,
    (SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_all_tables
        WHERE schemaname = 'chancery')::bigint"""


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one revocation: pages and rows touched, and milliseconds at the median, alone and as one of a group."""

    pages: float
    rows: float
    alone: float
    grouped: float


class Town:
    """An issuer with an officer and however many certificates, revoked or good."""

    def __init__(self, database) -> None:
        self.office = Office(database)
        self.office.operator(_OPERATOR, "olga", Role.OFFICER)
        # The server counts what its own housekeeping reads, too: `fill` does that, when nothing is counted.
        self.office.sql(_NO_HOUSEKEEPING)
        self._next = 1

    def fill(self, count: int, *, revoked: bool) -> range:
        """Put certificates there by COPY, past the triggers; return their numbers."""
        numbers = range(self._next, self._next + count)
        self._next += count
        how = ("revoked", NOT_AFTER, AT, 4, AT) if revoked else ("good", NOT_AFTER, None, None, AT)
        with connect(self.office.database.superuser) as superuser, superuser.transaction():
            superuser.execute("SET LOCAL session_replication_role = replica")
            superuser.execute("SET LOCAL statement_timeout = 0")
            superuser.execute(
                "CREATE TEMPORARY TABLE filled (issuer_id integer, serial bytea, state text,"
                " not_after timestamptz, revoked_at timestamptz, reason smallint, changed_at timestamptz)"
                " ON COMMIT DROP"
            )
            with superuser.cursor().copy("COPY filled FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(["int4", "bytea", "text", "timestamptz", "timestamptz", "int2", "timestamptz"])
                for number in numbers:
                    copy.write_row((1, serial(number), *how))
            for statement in _FILL.split(";"):
                superuser.execute(statement.encode())
        with connect(dataclasses.replace(self.office.database.superuser, statement_timeout=0)) as superuser:
            superuser.execute("VACUUM ANALYZE chancery.certificate_status")
            superuser.execute("ANALYZE chancery.intent, chancery.certificate")
        return numbers

    def ask(self, numbers: range) -> None:
        """Ask for the revocation of these, as the registration side does."""
        with connect(self.office.database.role("ra")) as ra, ra.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO chancery.revocation_request (issuer_id, serial, reason, requestor, received_at)"
                " VALUES (1, %s, 4, 'olga', %s)",
                [(serial(number), AT) for number in numbers],
            )

    def touched(self, session: Session) -> tuple[int, int]:
        session.fetch("SELECT pg_stat_force_next_flush()")
        [found] = self.office.sql(_TOUCHED)
        return found

    def cost(self, count: int) -> Cost:
        """Revoke `count` good certificates one by one, and as many in a group, and return the cost of one."""
        session = Session(self.office.database.role("worker"))
        store, clock = PgRevocationStore(session), FakeClock(AT)
        good = self.fill(2 * count + 10, revoked=False)
        # Its plans are made and its pages read: what is measured is the ordinary case.
        self.ask(good[:10])
        settle_revocations(store, clock, "worker-1")
        self.ask(good[10 : 10 + count])
        pages, rows = self.touched(session)
        seconds = []
        for _ in range(count):
            began = time.perf_counter()
            assert 1 == settle_revocations(store, clock, "worker-1", 1)
            seconds.append(time.perf_counter() - began)
        after_pages, after_rows = self.touched(session)
        self.ask(good[10 + count :])
        began = time.perf_counter()
        assert count == settle_revocations(store, clock, "worker-1", count)
        grouped = (time.perf_counter() - began) / count
        session.close()
        alone = statistics.median(seconds)
        return Cost((after_pages - pages) / count, (after_rows - rows) / count, 1000 * alone, 1000 * grouped)
