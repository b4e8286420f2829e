"""Operators, searches and statuses, as the serving processes see them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import datetime

import pytest
from pgdata import (
    DAY,
    NOT_AFTER,
    SECOND,
    WORKER,
    Office,
    certificate,
    error_of,
    event,
    fingerprint,
    intent,
    serial,
)
from test_pg_revocation import publish

from chancery.errors import ErrorType, PKIError
from chancery.ports import (
    COMPLETE,
    COUNTED,
    CertificateQuery,
    CertificateStatus,
    EventKind,
    Operator,
    RevocationReason,
    Role,
    StatusState,
    TokenRecord,
)
from chancery.postgres.directory import PgDirectory
from chancery.postgres.listen import CRLS, STATUSES, AsyncListener
from chancery.postgres.session import AsyncPool, connect
from chancery.postgres.status import PgStatusReader
from chancery.postgres.timestamps import PgTimestampStore
from pg import AT, tsa_serial


@pytest.fixture
def office(database):
    return Office(database)


def read(office, act, role: str = "ocsp"):
    async def run():
        async with AsyncPool(office.database.role(role)) as pool:
            return await act(PgStatusReader(pool, office.clock))

    return asyncio.run(run())


def stamp(database, act):
    async def run():
        async with AsyncPool(database.role("tsa")) as pool:
            return await act(PgTimestampStore(pool))

    return asyncio.run(run())


def test_an_operator_is_known_while_the_certificate_is_good(office):
    office.operator(1, "adam", Role.ADMINISTRATOR)
    office.operator(2, "rita", Role.REQUESTOR, Role.OFFICER)
    office.operator(3, "gone", Role.AUDITOR)
    office.directory(lambda d: d.remove_operator("gone", AT, [event("removed", EventKind.OPERATOR_REMOVED)]))
    known = lambda number: office.directory(lambda d: d.operator(fingerprint(number)))
    assert Operator(fingerprint(2), "rita", frozenset({Role.REQUESTOR, Role.OFFICER})) == known(2)
    assert [None, None] == [known(3), known(4)]
    assert ["adam", "rita"] == [operator.name for operator in office.directory(lambda d: d.operators())]
    office.revoke(2)
    assert known(2) is None
    office.clock.time = NOT_AFTER + SECOND
    assert known(1) is None
    office.clock.time = AT - 2 * DAY
    assert known(1) is None


def test_a_profile_limit_is_kept(office):
    office.issue(1)
    operator = Operator(fingerprint(1), "rita", frozenset({Role.REQUESTOR}), frozenset({"tls-server", "smime"}))
    office.directory(lambda d: d.add_operator(operator, AT, []))
    assert operator == office.directory(lambda d: d.operator(fingerprint(1)))


def test_a_name_and_a_certificate_are_one_operators_for_good(office):
    office.operator(1, "adam", Role.ADMINISTRATOR)
    office.operator(2, "olga", Role.OFFICER)
    office.directory(lambda d: d.remove_operator("olga", AT, []))
    officer = frozenset({Role.OFFICER})
    before = office.events()
    for wrong in (
        Operator(fingerprint(1), "new", officer),
        Operator(fingerprint(9), "adam", officer),
        Operator(fingerprint(9), "olga", officer),
        Operator(fingerprint(9), "", officer),
        Operator(fingerprint(9), "nul\x00", officer),
        Operator(fingerprint(9), "none", frozenset()),
        Operator(fingerprint(9), "both", frozenset({Role.AUDITOR, Role.OFFICER})),
    ):
        assert ErrorType.BAD_REQUEST == error_of(
            lambda o=wrong: office.directory(lambda d: d.add_operator(o, AT, [event("never")]))
        )
    assert before == office.events()


def test_the_last_administrator_stays(office):
    office.operator(1, "adam", Role.ADMINISTRATOR)
    office.operator(2, "ada", Role.ADMINISTRATOR)
    office.operator(3, "olga", Role.OFFICER)
    remove = lambda name: error_of(lambda: office.directory(lambda d: d.remove_operator(name, AT, [])))
    assert ErrorType.BAD_CERT_ID == remove("nobody")
    # Both at the same moment: one of them stays.
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(remove, ["adam", "ada"]))
    assert {None, ErrorType.BAD_REQUEST} == set(outcomes)
    assert remove("olga") is None
    assert ErrorType.BAD_CERT_ID == remove("olga")


def test_an_administrator_who_cannot_log_in_does_not_count(office):
    office.operator(1, "adam", Role.ADMINISTRATOR)
    office.operator(2, "ada", Role.ADMINISTRATOR)
    office.revoke(2)
    assert ErrorType.BAD_REQUEST == error_of(lambda: office.directory(lambda d: d.remove_operator("adam", AT, [])))
    assert ["ada", "adam"] == [operator.name for operator in office.directory(lambda d: d.operators())]


def test_search_by_every_field(office):
    for number in range(1, 6):
        office.issue(
            number,
            requestor="alice" if number % 2 else "bob",
            subject=f"CN=50%_{number}\\,x" if number < 3 else f"CN=other {number}",
        )
    office.revoke(4)

    def found(**query) -> list[int]:
        return [int.from_bytes(one.serial[1:], "big") for one in search(office, **query)]

    assert [5, 4, 3, 2, 1] == found()
    assert [2, 1] == found(subject="CN=50%_")
    assert [1] == found(subject="CN=50%_1\\")
    assert [] == found(subject="CN=50__")
    assert [] == found(subject="cn=other")
    assert [] == found(subject="\x00")
    assert [3] == found(name="dns:n3.example.org")
    assert [] == found(name="dns:n3")
    assert [2] == found(serial=serial(2))
    assert [5] == found(spki_sha256=certificate(1, 5).spki_sha256)
    assert [] == found(profile="smime")
    assert [] == found(issuer="root")
    assert [4] == found(state=StatusState.REVOKED)
    assert [5, 3, 1] == found(requestor="alice", issuer="issuing", profile="tls-server", state=StatusState.GOOD)
    assert [5, 4] == found(limit=2)
    last = search(office, limit=2)[-1]
    assert [3, 2] == found(limit=2, before=last.certificate_id)
    assert [] == found(limit=-1)
    one = search(office, serial=serial(4))[0]
    assert (b"certificate 4", "issuing", "bob", certificate(1, 4).names, AT) == (
        one.der,
        one.issuer,
        one.requestor,
        one.names,
        one.issued_at,
    )
    assert CertificateStatus(
        1, serial(4), StatusState.REVOKED, NOT_AFTER, AT, RevocationReason.KEY_COMPROMISE
    ) == dataclasses.replace(one.status, invalidity_date=None)


def search(office, **query):
    return office.directory(lambda d: d.search(CertificateQuery(**query)))


def _many(office, first: int, last: int) -> None:
    """Certificates of issuer 1, every other one revoked and the last one a delegate, in no time."""
    with connect(office.database.superuser) as superuser:
        superuser.execute("SET session_replication_role = replica")
        number = "('\\x2000'::bytea || substring(sha256(n::text::bytea) FROM 1 FOR 15))"
        superuser.execute(
            "INSERT INTO chancery.certificate (issuer_id, serial, request_id, der, subject, names, spki_sha256,"
            f" not_before, not_after, profile, issued_at) SELECT 1, {number}, n, '', '', '{{}}', '', %(at)s,"
            " %(at)s + interval '1 day', CASE n WHEN %(last)s THEN 'ocsp-delegate' ELSE 'p' END, %(at)s"
            " FROM generate_series(%(first)s::integer, %(last)s::integer) AS n",
            {"at": AT, "first": first, "last": last},
        )
        superuser.execute(
            "INSERT INTO chancery.certificate_status (issuer_id, serial, state, not_after, changed_at, revoked_at,"
            f" reason) SELECT 1, {number}, CASE n %% 2 WHEN 0 THEN 'revoked' ELSE 'good' END,"
            " %(at)s + interval '1 day', %(at)s, CASE n %% 2 WHEN 0 THEN %(at)s::timestamptz END,"
            " CASE n %% 2 WHEN 0 THEN 1 END FROM generate_series(%(first)s::integer, %(last)s::integer) AS n",
            {"at": AT, "first": first, "last": last},
        )


def test_what_is_many_is_estimated_and_costs_no_more(office):
    _many(office, 1, COUNTED)
    exact = {"waiting": 0, "taken": 0, "certificates": COUNTED, "revoked": COUNTED // 2, "unconfirmed": 0}
    assert exact == office.directory(lambda d: d.counts())
    [node] = office.directory(lambda d: d.hierarchy(["ocsp-delegate"]))
    assert (COUNTED, COUNTED // 2, True, AT + DAY) == (
        node.certificates,
        node.revoked,
        node.delegate,
        node.last_expiry,
    )
    assert [False] == [one.delegate for one in office.directory(lambda d: d.hierarchy(["another"]))]
    _many(office, COUNTED + 1, 4 * COUNTED)
    # The server knows nothing of the tables yet.
    assert COUNTED < office.directory(lambda d: d.counts())["certificates"]
    [node] = office.directory(lambda d: d.hierarchy(["another"]))
    assert (True, True, None) == (node.certificates > COUNTED, node.revoked > COUNTED, node.delegate)
    office.sql("ANALYZE chancery.certificate_status")
    office.sql("ANALYZE chancery.certificate")
    counts = office.directory(lambda d: d.counts())
    assert (4 * COUNTED, 2 * COUNTED) == (counts["certificates"], counts["revoked"])
    [node] = office.directory(lambda d: d.hierarchy(["ocsp-delegate"]))
    assert (4 * COUNTED, True) == (node.certificates, node.delegate)


def test_counts_issuers_and_crls(office):
    office.issue(1)
    office.issue(2)
    office.revoke(2)
    office.submit("t1", "t2")
    office.store.take(WORKER, 1, AT)
    publish(office)
    publish(office, AT + SECOND)
    assert {"waiting": 1, "taken": 1, "certificates": 2, "revoked": 1, "unconfirmed": 0} == dict(
        office.directory(lambda d: d.counts())
    )
    assert office.issuers.issuers() == office.directory(lambda d: d.issuers())
    assert office.issuers.issuers() == read(office, lambda r: r.issuers())
    assert 2 == office.directory(lambda d: d.latest_crl("issuing")).number
    assert office.directory(lambda d: d.latest_crl("nobody\x00")) is None
    assert [(1, COMPLETE, 2)] == [
        (one.issuer_id, one.scope, one.number) for one in office.directory(lambda d: d.crls())
    ]
    assert 2 == read(office, lambda r: r.latest_crl(1)).number
    assert read(office, lambda r: r.latest_crl(7)) is None


def test_events_of_many_logins_share_a_few_commits(office):
    async def act(directory):
        await asyncio.gather(*(directory.record([event(f"a{n}"), event(f"b{n}")]) for n in range(200)))
        await directory.record([])

    office.directory(act)
    assert {f"{x}{n}" for x in "ab" for n in range(200)} == set(office.events()[1:])
    assert 20 > office.sql("SELECT count(DISTINCT xid) FROM chancery.journal_event")[0][0]


def test_r19_statuses_of_many_serials(office):
    office.issue(1)
    office.issue(2)
    office.revoke(2)
    (marked, held) = office.submit("t1", "t2")
    office.store.take(WORKER, 2, AT)
    office.store.record_intents(WORKER, [intent(marked, 3), intent(held, 4)], [], [])
    office.store.mark_unconfirmed("nobody", [intent(marked, 3)], [event()])
    keys = [(1, serial(n)) for n in range(1, 6)] + [(2, serial(1)), (1, b"")]
    found = read(office, lambda r: r.statuses(keys))
    states = {key[1]: status.state for key, status in found.items()}
    assert {
        serial(1): StatusState.GOOD,
        serial(2): StatusState.REVOKED,
        serial(3): StatusState.UNCONFIRMED,
        serial(4): StatusState.UNCONFIRMED,
    } == states
    assert CertificateStatus(1, serial(1), StatusState.GOOD, NOT_AFTER) == found[1, serial(1)]
    assert RevocationReason.KEY_COMPROMISE == found[1, serial(2)].reason
    assert {} == read(office, lambda r: r.statuses([]))


def test_the_certificates_of_a_key_that_are_good_now_newest_first(office):
    spki = bytes(32)
    office.issue(1, spki_sha256=spki)
    office.issue(2, spki_sha256=spki)
    office.issue(3, spki_sha256=spki, not_after=AT - SECOND)
    office.issue(4, spki_sha256=spki, not_before=AT + SECOND)
    office.issue(5, spki_sha256=spki)
    office.issue(6)
    office.revoke(2)
    for role in ("ocsp", "tsa"):
        assert [b"certificate 5", b"certificate 1"] == read(office, lambda r: r.certificates_of_key(spki), role)
    alive = [serial(number) for number in (1, 2, 4, 5, 6)]
    assert alive == read(office, lambda r: r.live(1, b"", 100), "ocsp")
    assert alive[1:3] == read(office, lambda r: r.live(1, alive[0], 2), "ocsp")


def test_responders_hear_of_every_change_and_of_every_gap(own_server, own_database):
    office = Office(own_database)
    office.issue(1)
    office.issue(2)

    async def act():
        heard, gaps, lost, mistakes = asyncio.Queue(), asyncio.Queue(), asyncio.Queue(), []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: mistakes.append(context["exception"]))

        def on_notify(channel: str, payload: str) -> None:
            heard.put_nowait((channel, payload))
            raise ZeroDivisionError  # which does not end the listening

        listener = AsyncListener(
            own_database.role("ocsp"),
            (STATUSES, CRLS),
            on_notify,
            lambda: gaps.put_nowait(listener.connected),
            lambda: lost.put_nowait(listener.connected),
        )
        listener.start()
        assert await gaps.get()
        await asyncio.to_thread(office.revoke, 1)
        await asyncio.to_thread(publish, office)
        assert ("chancery_status", f"1:{serial(1).hex()}") == await heard.get()
        assert ("chancery_crl", "1:0") == await heard.get()
        assert 0 == lost.qsize()
        await asyncio.to_thread(own_server.embedded.stop)
        assert not await lost.get()
        await asyncio.to_thread(own_server.embedded.start)
        assert await gaps.get()
        await asyncio.to_thread(office.revoke, 2)
        assert ("chancery_status", f"1:{serial(2).hex()}") == await heard.get()
        await listener.close()
        assert (0, 0, False) == (heard.qsize(), gaps.qsize(), listener.connected)
        assert [ZeroDivisionError] * 3 == [type(mistake) for mistake in mistakes]

    asyncio.run(act())


def test_readers_are_refused_during_an_outage_and_served_after_it(own_server, own_database):
    office = Office(own_database)
    office.issue(1)

    async def act():
        async with AsyncPool(own_database.role("ocsp"), size=2) as pool:
            reader = PgStatusReader(pool, office.clock)
            ask = lambda: reader.statuses([(1, serial(1))])
            await asyncio.gather(*(ask() for _ in range(20)))
            await asyncio.to_thread(own_server.embedded.stop)
            failed = await asyncio.gather(*(ask() for _ in range(5)), return_exceptions=True)
            await asyncio.to_thread(own_server.embedded.start)
            found = await asyncio.gather(*(ask() for _ in range(5)))
        with pytest.raises(PKIError):
            await ask()
        return [one.type for one in failed], [len(one) for one in found]

    assert ([ErrorType.SYSTEM_UNAVAIL] * 5, [1] * 5) == asyncio.run(act())


def test_a_pool_that_is_too_busy_says_so_and_a_cancelled_caller_leaves_it_whole(office):
    async def act():
        async with AsyncPool(office.database.role("ra"), size=1, timeout=0.05) as pool:
            holding = asyncio.create_task(pool.fetch("SELECT pg_sleep(60)"))
            await asyncio.sleep(0.05)
            with pytest.raises(PKIError) as caught:
                await pool.fetch("SELECT 1")
            holding.cancel()
            with pytest.raises(asyncio.CancelledError):
                await holding
            return caught.value.type, await pool.fetch("SELECT 1")

    assert (ErrorType.SYSTEM_UNAVAIL, [(1,)]) == asyncio.run(act())


def test_a_statement_that_takes_too_long_is_an_outage(office):
    async def act():
        settings = dataclasses.replace(office.database.role("ra"), statement_timeout=0.05)
        async with AsyncPool(settings) as pool:
            await PgDirectory(pool, office.clock).counts()
            await pool.fetch("SELECT pg_sleep(60)")

    assert ErrorType.SYSTEM_UNAVAIL == error_of(lambda: asyncio.run(act()))


def token(number: int, **changes) -> TokenRecord:
    values = {
        "serial": tsa_serial(AT, number),
        "gen_time": AT,
        "hash_oid": "2.16.840.1.101.3.4.2.1",
        "imprint": bytes(32),
        "policy": "1.2.3",
        "client": "127.0.0.1",
    }
    return TokenRecord(**(values | changes))


def test_timestamps_are_recorded_in_one_transaction(database):
    many = [token(n) for n in range(200)]
    stamp(database, lambda s: s.record(many, [event("tokens", EventKind.TOKENS_RECORDED)]))
    with connect(database.role("auditor")) as auditor:
        rows = auditor.execute("SELECT serial, imprint FROM chancery.tsa_token ORDER BY serial").fetchall()
    assert [(one.serial, one.imprint) for one in many] == [(int(number), imprint) for number, imprint in rows]


def test_a_repeated_timestamp_serial_fails_its_whole_batch(database):
    stamp(database, lambda s: s.record([token(1)], []))
    later = AT + datetime.timedelta(microseconds=1)
    for wrong in (
        [token(2), token(1)],
        [token(3), token(3)],
        [token(0, serial=0)],
        [token(4, imprint=bytes(65))],
        # The serial holds the time, so the same serial at another time is no serial of that time.
        [token(1, gen_time=later)],
        [token(5, serial=tsa_serial(AT, 5) - (1 << 128))],
        [token(5, serial=tsa_serial(AT, 5) + (1 << 128))],
        [token(5, serial=tsa_serial(AT, 5) + (1 << 64))],
    ):
        assert ErrorType.SYSTEM_FAILURE == error_of(
            lambda w=wrong: stamp(database, lambda s: s.record(w, [event("never")]))
        )
    with connect(database.superuser) as superuser:
        assert (1, 0) == superuser.execute(
            "SELECT (SELECT count(*) FROM chancery.tsa_token), (SELECT count(*) FROM chancery.journal_event)"
        ).fetchone()
