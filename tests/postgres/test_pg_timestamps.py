"""Timestamp records: the order of a unit is PostgreSQL's to keep, a key is one unit's, a serial is there once."""

from __future__ import annotations

import asyncio
import datetime

import psycopg
import pytest

from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.ports import Event, EventKind, TokenRecord
from chancery.postgres.session import AsyncPool, connect
from chancery.postgres.timestamps import PgTimestampStore
from chancery.tsa.rows import tokens_event
from pg import AT, tsa_serial

STEP = datetime.timedelta(microseconds=1)


def run(database, act, *, processes=1):
    """Let `act(store)` run with one store, or with several at once, as processes on several hosts have them."""

    async def one():
        async with AsyncPool(database.role("tsa"), size=2) as pool:
            return await act(PgTimestampStore(pool))

    async def every():
        return await asyncio.gather(*(one() for _ in range(processes)))

    found = asyncio.run(every())
    return found if processes > 1 else found[0]


def register(store, unit="tsa", key=b"k", *, ordering=True):
    event = Event(EventKind.TSA_KEY, AT, "tsa", f"tsa-unit:{unit}", {"unit": unit})
    return store.register(unit, key.ljust(32), ordering=ordering, event=event)


def token(gen_time, number=0, *, unit="tsa", ordering=True) -> TokenRecord:
    return TokenRecord(tsa_serial(gen_time, number), gen_time, "1.2", bytes(32), "1.2.3", "c", unit, ordering)


def after(last, count=1):
    first = AT if last is None else last + STEP
    tokens = [token(first + n * STEP) for n in range(count)]
    return tokens, [tokens_event(tokens, AT, "tsa")]


def rows(database, query, *parameters):
    with connect(database.superuser) as superuser:
        return superuser.execute(query, parameters).fetchall()


def test_several_processes_of_a_unit_take_turns_and_no_time_goes_back(database):
    run(database, register)

    async def stamp(store):
        given = []
        for count in (1, 3, 2, 5) * 5:
            await store.record_in_order("tsa", lambda last, n=count: given.append(last) or after(last, n))
        return given

    given = run(database, stamp, processes=3)
    assert all(own == sorted(own, key=lambda last: last or AT - STEP) for own in given)
    found = [row[0] for row in rows(database, "SELECT gen_time FROM chancery.tsa_token ORDER BY serial")]
    # 3 processes, 55 tokens each: one after the other, none twice, none left out.
    assert [AT + n * STEP for n in range(165)] == found
    assert [(found[-1],)] == rows(database, "SELECT last_gen_time FROM chancery.tsa_unit")
    assert [(60,)] == rows(database, "SELECT count(*) FROM chancery.journal_event WHERE kind = 'tsa.tokens'")


def test_a_batch_that_is_not_recorded_moves_nothing(database):
    run(database, register)

    def refuse(_):
        raise PKIError(ErrorType.TIME_NOT_AVAILABLE, "no")

    with pytest.raises(PKIError, match="no"):
        run(database, lambda store: store.record_in_order("tsa", refuse))
    run(database, lambda store: store.record_in_order("tsa", lambda _: ((), ())))
    assert [(None,)] == rows(database, "SELECT last_gen_time FROM chancery.tsa_unit")
    run(database, lambda store: store.record_in_order("tsa", after))
    for wrong in (AT, AT - STEP):
        with pytest.raises(PKIError) as caught:
            run(database, lambda store, at=wrong: store.record_in_order("tsa", lambda _: ([token(at, 1)], [])))
        assert ErrorType.SYSTEM_FAILURE is caught.value.type
    assert [(AT, 1)] == rows(
        database, "SELECT last_gen_time, (SELECT count(*) FROM chancery.tsa_token) FROM chancery.tsa_unit"
    )


def test_two_ordered_tokens_of_one_unit_and_moment_cannot_be_there_whatever_the_caller_does(database):
    for unit, key in (("tsa", b"1"), ("other", b"2")):
        run(database, lambda store, u=unit, k=key: register(store, u, k))
    run(database, lambda store: store.record([token(AT, 1), token(AT, 2, unit="other")], []))
    run(database, lambda store: store.record([token(AT, 3, ordering=False)], []))
    with pytest.raises(PKIError):
        run(database, lambda store: store.record([token(AT, 4)], []))


def test_a_unit_that_is_not_ordered_has_no_order(database):
    run(database, lambda store: register(store, ordering=False))
    for unit in ("tsa", "none"):
        with pytest.raises(PKIError) as caught:
            run(database, lambda store, u=unit: store.record_in_order(u, after))
        assert ErrorType.SYSTEM_FAILURE is caught.value.type


def test_a_unit_and_its_keys_are_registered_once_and_journalled(database):
    run(database, register)
    run(database, register)
    run(database, lambda store: register(store, key=b"renewed"))
    run(database, lambda store: register(store, "second", b"other", ordering=False))
    with pytest.raises(OperatorError, match="key of tsa already"):
        run(database, lambda store: register(store, "second", b"k", ordering=False))
    with pytest.raises(OperatorError, match="first started with ordering = true"):
        run(database, lambda store: register(store, ordering=False))
    with pytest.raises(OperatorError, match="key of tsa already"):
        run(database, lambda store: register(store, "third", b"k"))
    found = rows(database, "SELECT unit, count(*) FROM chancery.tsa_key GROUP BY unit ORDER BY unit")
    assert [("second", 1), ("tsa", 2)] == found
    assert [("second", 1), ("tsa", 2)] == rows(
        database,
        "SELECT body::json -> 'detail' ->> 'unit', count(*) FROM chancery.journal_event GROUP BY 1 ORDER BY 1",
    )
    assert [("second",), ("tsa",)] == rows(database, "SELECT unit FROM chancery.tsa_unit ORDER BY unit")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE chancery.tsa_unit SET last_gen_time = last_gen_time - interval '1 second'",
        "UPDATE chancery.tsa_unit SET last_gen_time = last_gen_time",
        "UPDATE chancery.tsa_unit SET last_gen_time = NULL",
        "UPDATE chancery.tsa_unit SET ordering = false, last_gen_time = last_gen_time + interval '1 second'",
        "DELETE FROM chancery.tsa_unit",
        "TRUNCATE chancery.tsa_unit CASCADE",
        "UPDATE chancery.tsa_key SET unit = 'tsa'",
        "DELETE FROM chancery.tsa_key",
    ],
)
def test_not_even_the_owner_sets_a_unit_back(database, statement):
    run(database, register)
    run(database, lambda store: store.record_in_order("tsa", after))
    with connect(database.superuser) as superuser, pytest.raises(psycopg.errors.RestrictViolation):
        superuser.execute(statement)
