"""Statements of known types: every value arrives as it is, errors are those of any other statement."""

from __future__ import annotations

import asyncio
import datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chancery.errors import ErrorType, PKIError
from chancery.postgres.session import AsyncPool, Session
from chancery.postgres.statement import Statement

TYPES = {
    "boolean": st.booleans(),
    "bytea": st.binary(max_size=40),
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "smallint": st.integers(-(2**15), 2**15 - 1),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "text": st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40),
    "timestamptz": st.datetimes(
        datetime.datetime(1950, 1, 1), datetime.datetime(9999, 12, 30), timezones=st.just(datetime.UTC)
    ),
}
ECHO = Statement("SELECT " + ", ".join(f"{{{name}}}, {{{name}[]}}" for name in TYPES))
ROWS = st.tuples(
    *(one for each in TYPES.values() for one in (st.none() | each, st.lists(st.none() | each, max_size=4)))
)
SLEEP = Statement("SELECT pg_sleep({integer})::text")
LARGE = Statement("SELECT octet_length({bytea})")
SIZES = (0, 1, 20_000_000, 3_000_000)
DIVIDE = Statement("SELECT 1 / {integer}")
DIVIDE_SEVEN = Statement("SELECT 7 / {integer}")


@pytest.fixture
def session(database):
    session = Session(database.role("worker"))
    yield session
    session.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=ROWS)
def test_every_value_arrives_as_it_is(session, row):
    assert [row] == session.run(ECHO, row)


def test_the_same_for_an_event_loop_and_for_more_than_a_socket_holds(database):
    async def act():
        async with AsyncPool(database.role("ra"), size=2) as pool:
            return await asyncio.gather(*(pool.run(LARGE, [bytes(size)]) for size in SIZES))

    assert [[(size,)] for size in SIZES] == asyncio.run(act())


def test_what_the_server_refuses_leaves_the_session_as_good_as_before(session):
    for _ in range(2):
        with pytest.raises(PKIError) as caught:
            session.run(DIVIDE, [0])
        assert ErrorType.SYSTEM_FAILURE is caught.value.type
        assert [(1,)] == session.run(DIVIDE, [1])


def test_a_lost_connection_is_an_outage_and_the_next_one_prepares_anew(session, database):
    assert [(1,)] == session.run(DIVIDE, [1])
    kill = Statement("SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(PKIError) as caught:
        session.run(kill)
    assert ErrorType.SYSTEM_UNAVAIL is caught.value.type
    assert [(1,)] == session.run(DIVIDE, [1])

    async def act():
        async with AsyncPool(database.role("ra"), size=1) as pool:
            assert [(1,)] == await pool.run(DIVIDE, [1])
            with pytest.raises(PKIError) as caught:
                await pool.run(kill)
            assert ErrorType.SYSTEM_UNAVAIL is caught.value.type
            with pytest.raises(PKIError) as caught:
                await pool.run(DIVIDE, [0])
            assert ErrorType.SYSTEM_FAILURE is caught.value.type
            return await pool.run(DIVIDE, [1])

    assert [(1,)] == asyncio.run(act())


def test_a_caller_who_gives_up_leaves_no_connection_in_the_middle(database):
    async def act():
        async with AsyncPool(database.role("ra"), size=1) as pool:
            await pool.run(DIVIDE, [1])
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pool.run(SLEEP, [5]), 0.1)
            return await pool.run(DIVIDE, [1])

    assert [(1,)] == asyncio.run(act())


def test_what_the_driver_made_the_server_forget_is_prepared_again(session, database):
    """As psycopg does some time after a ROLLBACK, such as that of a rehearsal."""
    assert [(7,)] == session.run(DIVIDE_SEVEN, [1])
    session._connected().execute("DEALLOCATE ALL")
    assert [(7,)] == session.run(DIVIDE_SEVEN, [1])
    assert [(7,)] == session.run(DIVIDE_SEVEN, [1])

    async def act():
        async with AsyncPool(database.role("worker"), size=1) as pool:
            before = await pool.run(DIVIDE_SEVEN, [1])
            async with pool._connection() as connection:
                await connection.execute("DEALLOCATE ALL")
            return before, await pool.run(DIVIDE_SEVEN, [1])

    assert ([(7,)], [(7,)]) == asyncio.run(act())
