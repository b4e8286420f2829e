"""Who may have timestamps, for which policy, and how many."""

from __future__ import annotations

import asyncio
import base64
import datetime
import hashlib

import pytest

from chancery.asn1 import tsp
from chancery.errors import ErrorType, PKIError
from chancery.ports.timestamps import ClientKind, Span
from chancery.web.hot import Request
from chancery.web.tspaccess import Access, AccessSettings, RefusedError, presented_key
from fakes import FakeClock
from unit.tsa.kit import OTHER_POLICY, POLICY, FakeTimestampStore, request
from unit.tsa.kit import service as make
from unit.web.tsaclientmemory import MemoryUsage, tsa_client

KEY = b"0123456789abcdef"
CERTIFICATE = b"a certificate"
CLOSED = AccessSettings(open=False)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def robot(**changes):
    return tsa_client("robot", ClientKind.API_KEY, sha256(KEY), **changes)


def office(*networks: str, name="office", **changes):
    return tsa_client(name, ClientKind.NETWORK, None, networks=networks, **changes)


def device(**changes):
    return tsa_client("device", ClientKind.CERTIFICATE, sha256(CERTIFICATE), **changes)


def post(*, client="192.0.2.1", key=None, authorization=None, certificate=None, body=None) -> Request:
    if key is not None:
        authorization = b"Bearer " + key
    return Request(
        b"POST", b"/tsa", body or request(), client, b"application/timestamp-query",
        authorization=authorization, certificate=certificate,
    )  # fmt: skip


def entered(settings, *asked: Request, clients=(), clock=None, usage=None):
    """What became of each: recorded as whom, or (status, why)."""
    access = Access(settings, usage or MemoryUsage(*clients), clock or FakeClock())
    asyncio.run(access.refresh())
    found = []
    for one in asked:
        try:
            entry = access.enter(one)
        except RefusedError as error:
            found.append((error.status, error.why))
        else:
            found.append(entry.recorded_as)
            entry.leave(granted=True)
    return found


def test_without_clients_everybody_may_and_when_closed_nobody():
    assert ["192.0.2.1"] == entered(AccessSettings(), post())
    assert [(401, "unauthorized"), (403, "forbidden")] == entered(CLOSED, post(), post(certificate=b"x"))


def test_a_client_that_cannot_be_read_keeps_nobody_else_out():
    clients = (office("somewhere", name="broken"), office("10/8", name="short"), robot())
    assert ["robot@192.0.2.1", (401, "unauthorized")] == entered(CLOSED, post(key=KEY), post(), clients=clients)


def test_a_key_is_its_client_s_and_a_wrong_one_nobody_s_even_where_all_may():
    asked = [post(key=KEY), post(key=KEY[:-1]), post(authorization=b""), post(authorization=b"Digest x")]
    for settings in (CLOSED, AccessSettings()):
        assert ["robot@192.0.2.1", *[(401, "unauthorized")] * 3] == entered(settings, *asked, clients=[robot()])


def test_a_key_travels_as_a_bearer_token_or_as_a_password():
    assert KEY == presented_key(b"bearer  " + KEY)
    assert KEY == presented_key(b"Basic " + base64.b64encode(b"whoever:" + KEY))
    wrong = (
        b"Basic ???",
        b"Basic " + base64.b64encode(KEY),
        b"Bearer",
        b"Bearer ",
        b"Basic " + base64.b64encode(b"a:"),
    )
    assert [None] * 5 == [presented_key(one) for one in wrong]


def test_a_certificate_is_its_client_s():
    asked = [post(certificate=CERTIFICATE), post(certificate=b"another")]
    assert ["device@192.0.2.1", (403, "forbidden")] == entered(CLOSED, *asked, clients=[device()])


def test_the_smallest_network_counts_and_a_mapped_address_is_the_address():
    clients = [office("10.0.0.0/8", "2001:db8::/32"), office("10.1.0.0/16", name="branch")]
    asked = [
        post(client=one)
        for one in ("10.1.2.3", "10.2.0.1", "::ffff:10.1.0.1", "2001:db8::1%eth0", "192.0.2.1", "")
    ]
    expected = ["branch@10.1.2.3", "office@10.2.0.1", "branch@::ffff:10.1.0.1", "office@2001:db8::1%eth0"]
    assert [*expected, (401, "unauthorized"), (401, "unauthorized")] == entered(CLOSED, *asked, clients=clients)


def test_a_key_is_taken_from_its_networks_alone():
    clients = [robot(networks=("10.0.0.0/8",))]
    asked = [post(key=KEY, client="10.0.0.1"), post(key=KEY)]
    assert ["robot@10.0.0.1", (403, "forbidden")] == entered(AccessSettings(), *asked, clients=clients)


def test_a_revoked_client_is_refused_once_the_clients_were_read_again():
    usage = MemoryUsage(robot())
    access = Access(CLOSED, usage, FakeClock())
    asyncio.run(access.refresh())
    access.enter(post(key=KEY))
    usage.current = []
    access.enter(post(key=KEY))
    asyncio.run(access.refresh())
    with pytest.raises(RefusedError, match="not, or no longer, valid"):
        access.enter(post(key=KEY))
    assert ({"unauthorized": 1}, {"robot": 2}) == (access.refused, access.entered)


def test_clients_stay_as_they_were_while_the_database_is_away():
    usage = MemoryUsage(robot())
    access = Access(CLOSED, usage, FakeClock())
    asyncio.run(access.refresh())
    usage.away = True
    with pytest.raises(PKIError):
        asyncio.run(access.refresh())
    assert "robot@192.0.2.1" == access.enter(post(key=KEY)).recorded_as


def test_a_rate_is_each_client_s_own():
    clock = FakeClock()
    usage = MemoryUsage(robot(per_second=2.0, burst=3), office("10.0.0.0/8"))
    access = Access(CLOSED, usage, clock)
    asyncio.run(access.refresh())
    for _ in range(3):
        access.enter(post(key=KEY))
    with pytest.raises(RefusedError) as refused:
        access.enter(post(key=KEY))
    assert (429, "rate", 1) == (refused.value.status, refused.value.why, refused.value.after)
    access.enter(post(client="10.0.0.1"))
    # Reading the clients again does not begin anew.
    asyncio.run(access.refresh())
    with pytest.raises(RefusedError):
        access.enter(post(key=KEY))
    clock.advance(0.5)
    access.enter(post(key=KEY))


def test_strangers_have_a_rate_for_each_address_and_each_network_of_a_subscriber():
    settings = AccessSettings(per_second=1.0, burst=1)
    asked = [
        post(client=one) for one in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "?")
    ]
    expected = ["192.0.2.1", (429, "rate"), "192.0.2.2", "2001:db8::1", (429, "rate"), "?"]
    assert expected == entered(settings, *asked)


def test_addresses_are_forgotten_before_they_fill_the_memory(monkeypatch):
    monkeypatch.setattr("chancery.web.tspaccess.MAX_STRANGERS", 2)
    monkeypatch.setattr("chancery.web.tspaccess.MAX_PLACES", 2)
    access = Access(AccessSettings(per_second=1.0, burst=1), None, FakeClock())
    for number in range(9):
        access.enter(post(client=f"192.0.2.{number}"))
    assert 2 == len(access._rates)
    assert 2 >= len(access._places)


def test_the_requests_of_one_client_that_wait_are_bounded():
    access = Access(AccessSettings(waiting=2), MemoryUsage(robot()), FakeClock())
    asyncio.run(access.refresh())
    first = access.enter(post(key=KEY))
    access.enter(post(key=KEY))
    with pytest.raises(RefusedError, match="waiting"):
        access.enter(post(key=KEY))
    access.enter(post())
    first.leave(granted=True)
    access.enter(post(key=KEY))


# -- quotas


async def take(access, **options):
    """Have one granted."""
    entry = access.enter(post(key=KEY, **options))
    try:
        await entry.take()
    except BaseException:
        entry.leave(granted=False)
        raise
    entry.leave(granted=True)


def spend(access, most: int) -> int:
    """How many of `most` were granted before the quota was used up."""

    async def go() -> int:
        for number in range(most):
            try:
                await take(access)
            except RefusedError:
                return number
        return most

    return asyncio.run(go())


def made(usage, clock) -> Access:
    access = Access(CLOSED, usage, clock)
    asyncio.run(access.refresh())
    return access


@pytest.mark.parametrize("limit", [1, 5, 250, 1000])
def test_a_quota_holds_over_processes_and_restarts(limit):
    clock, usage = FakeClock(), MemoryUsage(robot(per_day=limit))
    first, second = made(usage, clock), made(usage, clock)
    used = spend(first, limit // 2)
    used += spend(second, limit // 3)
    # A restart: what was reserved and not used is given back.
    asyncio.run(first.close())
    assert limit - used == spend(second, limit) + spend(made(usage, clock), limit)
    assert limit == sum(usage.used.values())


def test_a_process_that_dies_takes_at_most_a_hundredth_along():
    clock, usage = FakeClock(), MemoryUsage(robot(per_day=1000))
    spend(made(usage, clock), 1)
    assert 990 == spend(made(usage, clock), 2000)


def test_a_day_and_a_month_begin_anew():
    clock, usage = FakeClock(), MemoryUsage(robot(per_day=2, per_month=3))
    access = made(usage, clock)
    assert 2 == spend(access, 9)
    clock.advance(86400)
    assert 1 == spend(access, 9)
    clock.advance(31 * 86400)
    assert 2 == spend(access, 9)
    days = {(span, began.isoformat()) for _, span, began in usage.used}
    assert {(Span.MONTH, "2026-11-01"), (Span.MONTH, "2026-12-01")} <= days


def test_a_quota_that_is_used_up_says_until_when_and_is_not_asked_about_each_time():
    clock, usage = FakeClock(), MemoryUsage(robot(per_day=1))
    access = made(usage, clock)
    assert 1 == spend(access, 1)
    with pytest.raises(RefusedError) as refused:
        asyncio.run(take(access))
    assert (429, "quota", 12 * 3600) == (refused.value.status, refused.value.why, refused.value.after)
    asked = usage.reservations
    assert 0 == spend(access, 5)
    assert asked == usage.reservations
    usage.used.clear()
    clock.advance(11)
    assert 1 == spend(access, 5)


def test_what_comes_to_nothing_does_not_count():
    clock, usage = FakeClock(), MemoryUsage(robot(per_day=1, per_month=1))
    access = made(usage, clock)

    async def go():
        for _ in range(3):
            entry = access.enter(post(key=KEY))
            await entry.take()
            entry.leave(granted=False)

    asyncio.run(go())
    assert 1 == spend(access, 2)


def test_a_day_that_ends_meanwhile_gives_nothing_to_the_next():
    clock, usage = FakeClock(), MemoryUsage(robot(per_day=1))
    access = made(usage, clock)

    async def go():
        entry = access.enter(post(key=KEY))
        await entry.take()
        clock.advance(86400)
        await take(access)
        entry.leave(granted=False)

    asyncio.run(go())
    assert 0 == spend(access, 1)


def test_many_at_once_reserve_once():
    usage = MemoryUsage(robot(per_day=100_000))
    access = made(usage, FakeClock())

    async def go():
        await asyncio.gather(*(take(access) for _ in range(200)))

    asyncio.run(go())
    assert 1 == usage.reservations


def test_the_span_of_a_moment_is_in_utc():
    late = datetime.datetime(2026, 12, 31, 23, 30, tzinfo=datetime.timezone(datetime.timedelta(hours=-5)))
    assert datetime.date(2027, 1, 1) == Span.DAY.began(late) == Span.MONTH.began(late)
    assert datetime.datetime(2027, 2, 1, tzinfo=datetime.UTC) == Span.MONTH.ends(datetime.date(2027, 1, 1))
    assert datetime.datetime(2028, 2, 29, tzinfo=datetime.UTC) == Span.DAY.ends(datetime.date(2028, 2, 28))


# -- through the service


def served(scenario, *clients, settings=CLOSED, **options):
    clock, usage, store = FakeClock(), MemoryUsage(*clients), FakeTimestampStore()

    async def go():
        access = Access(settings, usage, clock)
        service = make(clock=clock, store=store, access=access, **options)
        await service.start()
        try:
            return await scenario(service, usage)
        finally:
            await service.close()

    return asyncio.run(go()), store


async def ask(service, what):
    answer = await service.handler(what)
    if isinstance(answer, bytes):
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), {}, tsp.decode_response(body)
    return answer.status, dict(answer.headers), tsp.decode_response(answer.body)


def test_a_token_is_recorded_under_its_client():
    (status, _, response), store = served(lambda service, _: ask(service, post(key=KEY)), robot())
    assert (200, 0) == (status, response.status)
    assert ["robot@192.0.2.1"] == [one.client for one in store.tokens.values()]


def test_who_is_kept_out_is_told_in_http_s_words_and_in_the_protocol_s():
    status, fields, response = served(lambda service, _: ask(service, post()), robot())[0]
    assert (401, {tsp.FailInfo.BAD_REQUEST}) == (status, response.fail_info)
    assert "Bearer" in fields["WWW-Authenticate"]

    async def twice(service, _):
        await ask(service, post(key=KEY))
        return await ask(service, post(key=KEY)), {one.name: one.values for one in service.metrics()}

    ((status, fields, response), metrics), store = served(twice, robot(per_day=1))
    assert (429, {tsp.FailInfo.BAD_REQUEST}) == (status, response.fail_info)
    assert 43200 == int(fields["Retry-After"])
    assert 1 == len(store.tokens)
    assert {("quota",): 1.0} == metrics["chancery_tsa_kept_out"]
    assert {("robot",): 2.0} == metrics["chancery_tsa_client_requests"]


def test_a_client_has_its_own_policies_and_default():
    async def both(service, _):
        return [await ask(service, post(key=KEY, body=request(policy=one))) for one in (None, POLICY)]

    (own, refused), store = served(both, robot(policies=(OTHER_POLICY,)))
    assert [OTHER_POLICY] == [one.policy for one in store.tokens.values()]
    assert (200, 200) == (own[0], refused[0])
    assert {tsp.FailInfo.UNACCEPTED_POLICY} == refused[2].fail_info
    refused = served(lambda service, _: ask(service, post(key=KEY)), robot(policies=("1.2.3",)))[0]
    assert {tsp.FailInfo.UNACCEPTED_POLICY} == refused[2].fail_info


def test_a_refusal_does_not_count_and_a_quota_that_cannot_be_asked_for_is_503():
    async def scenario(service, usage):
        for _ in range(3):
            await ask(service, post(key=KEY, body=b"nonsense"))
        granted = await ask(service, post(key=KEY))
        usage.away = True
        return granted, usage

    (granted, usage), _ = served(scenario, robot(per_day=1))
    assert (200, 0) == (granted[0], granted[2].status)
    assert 1 == sum(usage.used.values())

    async def away(service, usage):
        usage.away = True
        return await ask(service, post(key=KEY))

    status, fields, _ = served(away, robot(per_day=5))[0]
    assert (503, "1") == (status, fields["Retry-After"])


def test_without_its_clients_it_does_not_start():
    usage = MemoryUsage()
    usage.away = True
    with pytest.raises(PKIError) as error:
        asyncio.run(make(access=Access(CLOSED, usage, FakeClock())).start())
    assert ErrorType.SYSTEM_UNAVAIL == error.value.type
