"""The timestamping authority's clients and their quotas on a real server."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import hashlib

import psycopg
import pytest
from pgdata import DAY, Office, event

from chancery.errors import ErrorType, PKIError
from chancery.ports import EventKind
from chancery.ports.timestamps import ClientKind, Span
from chancery.postgres.session import AsyncPool
from chancery.postgres.timestampclients import PgTimestampClients, PgTimestampUsage
from pg import AT
from unit.web.tsaclientmemory import tsa_client

TODAY = AT.date()
ADDED = event("tsa-client:robot", EventKind.TSA_CLIENT_ADDED)
REVOKED = event("tsa-client:robot", EventKind.TSA_CLIENT_REVOKED)


@pytest.fixture
def office(database):
    return Office(database)


def as_role(office, role: str, make, act):
    async def run():
        async with AsyncPool(office.database.role(role)) as pool:
            return await act(make(pool))

    return asyncio.run(run())


def registration(office, act):
    return as_role(office, "ra", PgTimestampClients, act)


def authority(office, act):
    return as_role(office, "tsa", PgTimestampUsage, act)


def test_a_client_is_there_with_its_event_and_gone_with_another(office):
    full = tsa_client(
        networks=("10.0.0.0/8", "2001:db8::/32"), policies=("1.2.3", "1.2.4"), per_second=2.5, per_day=7,
        per_month=9, added_at=AT,
    )  # fmt: skip
    bare = tsa_client("office", ClientKind.NETWORK, None, networks=("192.0.2.0/24",), added_at=AT)
    for one in (full, bare):
        registration(office, lambda r, c=one: r.add(c, [ADDED]))
    assert [bare, full] == authority(office, lambda a: a.clients())
    registration(office, lambda r: r.revoke("robot", AT + DAY, [REVOKED]))
    assert [bare] == authority(office, lambda a: a.clients())
    assert [bare, dataclasses.replace(full, revoked_at=AT + DAY)] == registration(office, lambda r: r.clients())
    assert ["tsa-client:robot"] * 3 == office.events()[1:]


def test_a_name_and_a_credential_are_given_once(office):
    registration(office, lambda r: r.add(tsa_client(), [ADDED]))
    registration(office, lambda r: r.revoke("robot", AT, [REVOKED]))
    for again in (tsa_client(credential=bytes([1]) * 32), tsa_client("other")):
        with pytest.raises(PKIError, match="already") as error:
            registration(office, lambda r, c=again: r.add(c, [ADDED]))
        assert ErrorType.BAD_REQUEST == error.value.type
    for name in ("robot", "nobody"):
        with pytest.raises(PKIError, match="no timestamp client"):
            registration(office, lambda r, n=name: r.revoke(n, AT, [REVOKED]))
    assert 2 == len(office.events()[1:])


def test_a_certificate_that_is_revoked_here_opens_nothing(office):
    office.issue(1)
    [(der,)] = office.sql("SELECT der FROM chancery.certificate")
    known = tsa_client("device", ClientKind.CERTIFICATE, hashlib.sha256(der).digest(), added_at=AT)
    foreign = tsa_client("foreign", ClientKind.CERTIFICATE, bytes(32), added_at=AT)
    for one in (known, foreign):
        registration(office, lambda r, c=one: r.add(c, []))
    assert [known, foreign] == authority(office, lambda a: a.clients())
    office.revoke(1)
    assert [foreign] == authority(office, lambda a: a.clients())


def test_a_quota_holds_however_many_reserve_at_once(office):
    registration(office, lambda r: r.add(tsa_client(), []))

    async def many(usage):
        return await asyncio.gather(*(usage.reserve("robot", Span.DAY, TODAY, 7, 100) for _ in range(20)))

    got = authority(office, many)
    assert (100, 7, 0) == (sum(got), max(got), min(got))
    authority(office, lambda a: a.give_back("robot", Span.DAY, TODAY, 5))
    assert 5 == authority(office, lambda a: a.reserve("robot", Span.DAY, TODAY, 9, 100))
    tomorrow = TODAY + datetime.timedelta(days=1)
    assert 9 == authority(office, lambda a: a.reserve("robot", Span.DAY, tomorrow, 9, 100))
    assert 3 == authority(office, lambda a: a.reserve("robot", Span.MONTH, TODAY.replace(day=1), 9, 3))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE chancery.tsa_client SET revoked_at = NULL",
        "UPDATE chancery.tsa_client SET per_day = 9, revoked_at = now()",
        "UPDATE chancery.tsa_client SET credential = NULL, kind = 'network', networks = '{10.0.0.0/8}'",
        "DELETE FROM chancery.tsa_client",
        "TRUNCATE chancery.tsa_client CASCADE",
    ],
)
def test_r29_a_client_is_revoked_and_otherwise_stays_as_it_was(office, statement):
    registration(office, lambda r: r.add(tsa_client(), []))
    with pytest.raises(psycopg.errors.RestrictViolation):
        office.sql(statement)
    office.sql("UPDATE chancery.tsa_client SET revoked_at = now()")
    with pytest.raises(psycopg.errors.RestrictViolation):
        office.sql("UPDATE chancery.tsa_client SET revoked_at = now()")


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "UPPER"},
        {"networks": ("10.0.0.0/8",) * 65},
        {"policies": ()},
        {"per_day": 0},
        {"credential": None},
    ],
)
def test_what_cannot_be_a_client_is_none(office, changes):
    with pytest.raises(PKIError) as error:
        registration(office, lambda r: r.add(tsa_client(**changes), []))
    assert isinstance(error.value.__cause__, psycopg.errors.CheckViolation)
