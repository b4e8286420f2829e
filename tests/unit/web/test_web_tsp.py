from __future__ import annotations

import asyncio
import hashlib
import json

import pytest
from cryptography.hazmat.primitives import serialization

from chancery.asn1 import tsp
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.ports import EventKind, IssuerRecord
from chancery.tsa.renewal import CertificateFinder
from chancery.tsa.timekeeping import TimeState
from chancery.web.hot import Request
from chancery.web.tsp import TSAService
from fakes import START, FakeClock
from unit.tsa.kit import (
    OTHER_POLICY,
    POLICY,
    YEAR,
    FakeSource,
    FakeTimestampStore,
    as_der,
    certificate,
    key,
    request,
    root,
)
from unit.tsa.kit import (
    service as make,
)

TYPE = b"application/timestamp-query"


def post(
    body: bytes, content_type: bytes | None = TYPE, target: bytes = b"/tsa", method: bytes = b"POST"
) -> Request:
    return Request(method, target, body, "192.0.2.1", content_type)


async def ask(service: TSAService, what: Request):
    """Return (status, headers, body) of one answer."""
    answer = service.handler(what)
    if asyncio.iscoroutine(answer):
        answer = await answer
    if isinstance(answer, bytes):
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), dict(line.split(b": ") for line in head.split(b"\r\n")[1:]), body
    return answer.status, dict(answer.headers) | {"Content-Type": answer.content_type}, answer.body


def run(scenario, **options):
    """Start a service, let `scenario(service)` act, close it."""

    async def all_of_it():
        service = make(**options)
        await service.start()
        try:
            return await scenario(service)
        finally:
            await service.close()

    return asyncio.run(all_of_it())


def fail_info(body: bytes) -> set[int]:
    return set(tsp.decode_response(body).fail_info)


def test_a_token_is_granted_with_200():
    status, fields, body = run(lambda service: ask(service, post(request())))
    assert 200 == status
    assert b"application/timestamp-reply" == fields[b"Content-Type"]
    assert len(body) == int(fields[b"Content-Length"])
    assert 0 == tsp.decode_response(body).status


@pytest.mark.parametrize(
    ("what", "status"),
    [
        (post(b"", method=b"GET"), 405),
        (post(b"", method=b"HEAD"), 405),
        (post(request(), b"text/plain"), 415),
        (post(request(), None), 415),
        (post(request(), b" Application/Timestamp-Query ; charset=binary"), 200),
        (post(b""), 200),
        (post(request(), target=b"/other"), 404),
        (post(b"", method=b"GET", target=b"/other"), 404),
        (post(b"", method=b"GET", target=b"/tsa?x"), 404),
        (post(b"", method=b"GET", target=b"/healthz"), 200),
        (post(b"", method=b"GET", target=b"/readyz"), 200),
    ],
)
def test_each_http_case_has_its_status(what, status):
    assert status == run(lambda service: ask(service, what))[0]


def test_a_refusal_is_a_timestamp_response_with_200():
    status, _, body = run(lambda service: ask(service, post(request(policy="1.2.3"))))
    assert (200, {tsp.FailInfo.UNACCEPTED_POLICY}) == (status, fail_info(body))


def test_records_out_of_reach_are_503_with_a_response_inside():
    store = FakeTimestampStore()

    async def scenario(service):
        store.fault = "fail-before"
        return await ask(service, post(request()))

    status, fields, body = run(scenario, store=store)
    assert (503, "1") == (status, fields["Retry-After"])
    assert {tsp.FailInfo.SYSTEM_FAILURE} == fail_info(body)


def test_overload_is_refused_and_bounded():
    async def scenario(service):
        return await asyncio.gather(*(ask(service, post(request())) for _ in range(12)))

    statuses = [status for status, _, _ in run(scenario, max_batch=2, max_pending=4)]
    assert 8 == statuses.count(503)
    assert 4 == statuses.count(200)


def test_before_the_start_it_says_so():
    status, _, body = asyncio.run(ask(make(), post(request())))
    assert (503, {tsp.FailInfo.SYSTEM_FAILURE}) == (status, fail_info(body))


def test_an_internal_error_says_nothing():
    assert {tsp.FailInfo.SYSTEM_FAILURE} == fail_info(TSAService.on_error(post(b"")).body)
    assert 500 == TSAService.on_error(post(b"", target=b"/x")).status


def test_readiness_follows_the_clock():
    clock, source = FakeClock(), FakeSource()

    async def scenario(service):
        found = [await ask(service, post(b"", method=b"GET", target=b"/readyz"))]
        source.synchronised = False
        await service.measure()
        found.append(await ask(service, post(b"", method=b"GET", target=b"/readyz")))
        found.append(await ask(service, post(request())))
        return found

    fit, lost, refused = run(scenario, clock=clock, source=source)
    assert 200 == fit[0]
    assert "fit" == json.loads(fit[2])["clock"]["state"]
    assert 503 == lost[0]
    assert "not synchronised" == json.loads(lost[2])["clock"]["reason"]
    assert {tsp.FailInfo.TIME_NOT_AVAILABLE} == fail_info(refused[2])  # R23


def test_r26_start_clock_and_stop_are_journalled_and_kept_while_the_records_are_away():
    store, source = FakeTimestampStore(), FakeSource()

    async def scenario(service):
        store.fault = "fail-before"
        source.synchronised = False
        await service.measure()
        store.fault = None
        source.synchronised = True
        await service.measure()
        assert () == service.guard.pending_events()

    run(scenario, store=store, source=source)
    assert [
        EventKind.PROCESS_STARTED,
        EventKind.CLOCK_REGAINED,
        EventKind.CLOCK_LOST,
        EventKind.CLOCK_REGAINED,
        EventKind.PROCESS_STOPPED,
    ] == [event.kind for event in store.events]
    assert [POLICY, OTHER_POLICY] == store.events[0].detail["policies"]


def test_a_dead_monitor_ends_in_time_not_available():
    clock = FakeClock()

    async def scenario(service):
        for task in service._tasks:
            task.cancel()
        clock.advance(31)
        return await ask(service, post(request()))

    assert {tsp.FailInfo.TIME_NOT_AVAILABLE} == fail_info(run(scenario, clock=clock)[2])  # R23


def test_the_watchers_go_on_after_a_failure():
    source = FakeSource()

    async def scenario(service):
        source.measure = lambda: 1 / 0
        failed = asyncio.Event()
        service._report = lambda *_: failed.set()
        await failed.wait()
        del source.measure
        source.synchronised = False
        measured = asyncio.Event()
        service._report = lambda event, _: measured.set() if event == "tsa.clock" else None
        await measured.wait()
        return service.guard.status.state

    assert TimeState.LOST is run(scenario, source=source, measure_s=0.001)


# -- the certificate


class Issued:
    """What the database would say of the key's certificates."""

    def __init__(self, *certificates) -> None:
        self.certificates = [as_der(one) for one in certificates]
        self.away = False
        self.asked = []

    async def certificates_of_key(self, spki_sha256: bytes):
        self.asked.append(spki_sha256)
        if self.away:
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, "away")
        return self.certificates

    async def issuers(self):
        return [IssuerRecord(1, "root", as_der(root("p256")), None, None, None)]

    def finder(self) -> CertificateFinder:
        return CertificateFinder(self.certificates_of_key, self.issuers)


def test_the_certificate_is_found_by_its_key():
    issued = Issued(certificate("p256"))
    assert 200 == run(lambda service: ask(service, post(request())), certificates=(), finder=issued.finder())[0]
    spki = (
        key("p256")
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    assert {hashlib.sha256(spki).digest()} == set(issued.asked)


@pytest.mark.parametrize("finder", [None, Issued().finder()])
def test_without_a_certificate_it_does_not_start(finder):
    with pytest.raises(OperatorError, match="no certificate"):
        asyncio.run(make(certificates=(), finder=finder).start())


def test_it_starts_under_the_newest_certificate_that_may_sign():
    unfit, fit = certificate("p256", usage=None), certificate("p256")
    _, _, body = run(
        lambda service: ask(service, post(request())), certificates=(), finder=Issued(unfit, fit).finder()
    )
    assert as_der(fit) in body


def test_the_chain_is_sent_up_to_below_the_root():
    """The issuer of the leaf here is stored as a subordinate of another."""
    issued = Issued(certificate("p256"))

    async def issuers():
        return [
            IssuerRecord(1, "root", as_der(root("p384")), None, None, None),
            IssuerRecord(2, "tsa-ca", as_der(root("p256")), 1, None, None),
        ]

    chains = asyncio.run(CertificateFinder(issued.certificates_of_key, issuers).chains(key("p256").public_key()))
    leaf = issued.certificates[0]
    assert [(leaf, as_der(root("p256")))] == chains
    assert [(leaf,)] == asyncio.run(issued.finder().chains(key("p256").public_key()))


def test_a_newer_certificate_takes_over_without_a_restart():
    old, new = certificate("p256"), certificate("p256", end=START + 2 * YEAR)
    issued, store = Issued(new, old), FakeTimestampStore()

    async def scenario(service):
        await service.refresh()
        return await ask(service, post(request()))

    _, _, body = run(scenario, certificates=[as_der(old)], finder=issued.finder(), store=store)
    assert as_der(new) in body
    assert as_der(old) not in body
    assert EventKind.TSA_CERTIFICATE in [event.kind for event in store.events]


def test_an_unfit_newer_certificate_is_reported_and_not_used():
    old, unfit = certificate("p256"), certificate("p256", usage=None)
    issued = Issued(unfit, old)

    async def scenario(service):
        await service.refresh()
        return (await ask(service, post(request())))[2], service.reports

    body, reports = run(scenario, certificates=[as_der(old)], finder=issued.finder())
    assert as_der(old) in body
    assert "tsa.certificate_refused" in [event for event, _ in reports]


def test_a_certificate_that_is_no_longer_good_is_not_signed_under_until_another_is():
    issued = Issued(certificate("p256"))

    async def scenario(service):
        issued.certificates, before = [], issued.certificates
        await service.refresh()
        await service.refresh()
        refused = await ask(service, post(request()))
        ready = await ask(service, post(b"", method=b"GET", target=b"/readyz"))
        issued.certificates = before
        await service.refresh()
        return refused, ready, await ask(service, post(request()))

    refused, ready, again = run(scenario, certificates=(), finder=issued.finder())
    assert {tsp.FailInfo.SYSTEM_FAILURE} == fail_info(refused[2])
    assert 503 == ready[0]
    assert set() == fail_info(again[2])


def test_a_database_away_changes_no_certificate():
    issued = Issued(certificate("p256"))

    async def scenario(service):
        issued.away = True
        await service.refresh()
        return await ask(service, post(request()))

    assert set() == fail_info(run(scenario, certificates=(), finder=issued.finder())[2])
