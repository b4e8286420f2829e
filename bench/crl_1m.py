"""
A CRL of a million entries: built, signed, linted and published; and the delta CRL after one revocation.

The rows are put into the database by COPY. The limit, in the same run: the server reads the same entries in order.
The key is in memory: of a token it would be one signature over a digest. CRL_ENTRIES sets another number.
"""

from __future__ import annotations

import datetime
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from bench import common
from cakit import issuing_issuer
from chancery.ca.crl import CRLMaking, CRLSettings, Timing, make_crl
from chancery.cli.clock import SystemClock, SystemEntropy
from chancery.ports import COMPLETE, CRLScope
from chancery.postgres.session import connect
from pg import temporary_postgres

ENTRIES = int(os.environ.get("CRL_ENTRIES", "1000000"))
_COPY = """
COPY chancery.certificate_status (issuer_id, serial, state, not_after, revoked_at, reason, changed_at)
FROM STDIN (FORMAT BINARY)"""
_READ = """
SELECT count(*), sum(octet_length(entry)) FROM (SELECT entry FROM chancery.certificate_status
WHERE issuer_id = 1 AND state = 'revoked' AND not_after >= now() ORDER BY serial) AS entries"""


def _fill(office: Any, at: datetime.datetime) -> None:
    until = at + datetime.timedelta(days=365)
    day = (until.date() - datetime.date(1970, 1, 1)).days.to_bytes(2, "big")
    with connect(office.database.superuser) as superuser:
        superuser.execute("SET session_replication_role = replica")
        superuser.execute("SET statement_timeout = 0")
        with superuser.transaction(), superuser.cursor().copy(_COPY) as copy:
            copy.set_types(["int4", "bytea", "text", "timestamptz", "timestamptz", "int2", "timestamptz"])
            for index in range(ENTRIES):
                revoked = at - datetime.timedelta(seconds=index % 8_000_000)
                serial = day + b"\x01" + SystemEntropy().draw(16)
                copy.write_row((1, serial, "revoked", until, revoked.replace(microsecond=0), index % 5, revoked))
        superuser.execute("VACUUM ANALYZE chancery.certificate_status")


def measure() -> str:
    """Fill, measure, and return the last line."""
    sys.path.append(str(Path(__file__).parents[1] / "tests" / "postgres"))
    from pgdata import Office  # noqa: PLC0415 - found by the line above

    clock = SystemClock()
    with temporary_postgres(settings={}) as server, server.database() as database:
        office = Office(database)
        office.issue(1)
        _fill(office, clock.now())
        with connect(database.superuser) as superuser:
            began = time.perf_counter()
            superuser.execute(_READ).fetchone()
            limit = time.perf_counter() - began
        issuer = issuing_issuer()
        object.__setattr__(issuer.record, "issuer_id", 1)
        settings = CRLSettings(delta=Timing(datetime.timedelta(hours=24)))

        def made(scope: CRLScope) -> tuple[float, int]:
            began = time.perf_counter()
            record = make_crl(CRLMaking(issuer, office.revocations, clock, "bench", settings, scope))
            return time.perf_counter() - began, record.size or 0

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        full, size = made(COMPLETE)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        office.revoke(1, clock.now())
        delta, _ = made(CRLScope(delta=True))
        print(
            f"{ENTRIES} entries, {size} octets: {full:.2f} s, {peak // 1024} MiB at most ({before // 1024} before)"
        )
        print(f"delta after one revocation: {delta * 1000:.1f} ms")
        return common.result(
            "crl-1m",
            full,
            "s",
            limit,
            "the server reads the entries in order",
            durable=True,
            entries=ENTRIES,
            octets=size,
            peak_mib=peak // 1024,
            delta_ms=round(delta * 1000, 1),
        )


def main() -> None:
    """Print one JSON object as the last line."""
    print(measure())


if __name__ == "__main__":
    main()
