"""
Certificates per second through the whole suite: CSR in over REST with mutual TLS, certificate out.

The processes are those of `chancery up`: PostgreSQL with its commits on disk, the worker with its key in SoftHSM2,
the web process. The CSRs are ready-made, each request has a transaction id of its own, and an answer counts only
when it is 201, which is after the final commit. The limit is what the same key in the same token signs by itself,
measured between the rounds with the suite idle, as is one durable commit.
"""

from __future__ import annotations

from bench import common
from bench.issuance import Rounds, run_rounds


def result(found: Rounds) -> str:
    """Return the last line."""
    return common.result(
        "issuance-rest-p256",
        found.best["rate"],
        "certificates/s",
        found.token,
        "P-256 signatures/s of the same key in the same token, the suite idle",
        durable=True,
        **found.more(),
    )


if __name__ == "__main__":
    print(result(run_rounds()))
