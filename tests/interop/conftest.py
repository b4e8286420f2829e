"""One running suite for all of these tests; they change certificates, never its set-up."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

import pkilintkit
from chancery.cli import build
from chancery.config import load
from suite import bring_up, take_down

EXPLAINED = pkilintkit.explained(Path(__file__).with_name("explained_findings.csv"))
PRODUCED = {
    "certificate": "SELECT der FROM chancery.certificate UNION SELECT certificate FROM chancery.issuer",
    "crl": "SELECT der FROM chancery.crl",
}


class Produced:
    """What a suite has signed until now, and what pkilint says of it that nobody has explained."""

    def __init__(self, running):
        self._running = running

    def of(self, kind: str) -> list[bytes]:
        connection = build.connection(load(self._running.place.config("auditor")).database)
        with psycopg.connect(**connection.arguments()) as database:
            return [bytes(row[0]) for row in database.execute(PRODUCED[kind])]

    @staticmethod
    def unexplained(kind: str, found: list[bytes]) -> list[str]:
        return [one for der in found for one in pkilintkit.findings(kind, der) - EXPLAINED[kind]]


@pytest.fixture(scope="session")
def running():
    suite = bring_up()
    try:
        yield suite
        produced = Produced(suite)
        # Whatever order the tests ran in: everything that all of them had signed.
        assert {"certificate": [], "crl": []} == {
            kind: produced.unexplained(kind, produced.of(kind)) for kind in PRODUCED
        }
    finally:
        take_down(suite)


@pytest.fixture(scope="session")
def produced(running):
    return Produced(running)
