"""Prometheus metrics of the responder and the timestamping authority, read by Prometheus' own parser."""

from __future__ import annotations

import asyncio
import contextlib
import http.client

from prometheus_client.parser import text_string_to_metric_families

import ocspkit
from chancery.cli.serve_hot import measured
from chancery.config import Listen
from chancery.web import metrics
from chancery.web.hot import Request
from chancery.web.metrics import Metric
from ocspkit import get, post, with_bench
from suite import free_ports
from unit.tsa.kit import request as query
from unit.tsa.kit import service as make_service


def samples(body: bytes) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def read(service) -> dict:
    answer = metrics.handler(service.metrics, service.ready)(get(b"/metrics"))
    assert (200, True) == (answer.status, answer.content_type.startswith("text/plain; version="))
    return samples(answer.body)


@with_bench()
async def test_the_responder_counts_what_it_answers(bench):
    good = ocspkit.request(ocspkit.GOOD)
    for body in (good, good, ocspkit.request(ocspkit.GOOD, nonce=b"n"), b"\x00"):
        await bench.ask(post(body))
    found = read(bench.service)
    assert 1 == found["chancery_ocsp_answers_total", ("kept",)]
    assert 2 == found["chancery_ocsp_answers_total", ("signed",)]
    assert 1 == found["chancery_ocsp_refusals_total", ("malformedRequest",)]
    assert 1 == found["chancery_ocsp_cached_answers", ()]
    assert found["chancery_ocsp_cached_bytes", ()] > 1000
    assert [1, 1] == [found[f"chancery_ocsp_{one}_up", ()] for one in ("database", "notifications")]
    assert 0 == found["chancery_ocsp_delegate_missing", ("issuing",)]
    assert found["chancery_ocsp_delegate_end_seconds", ("issuing",)] > bench.clock.now().timestamp()
    assert ("process_resident_memory_bytes", ()) in found


@with_bench()
async def test_the_responder_says_what_is_away(bench):
    bench.reader.away = True
    await bench.service.refresh()
    bench.service.not_listening()
    found = read(bench.service)
    assert [0, 0] == [found[f"chancery_ocsp_{one}_up", ()] for one in ("database", "notifications")]
    answer = metrics.handler(bench.service.metrics, bench.service.ready)
    assert (503, 200) == (answer(get(b"/readyz")).status, answer(get(b"/healthz")).status)


def test_the_authority_counts_by_what_it_says():
    async def scenario():
        service = make_service()
        before = read(service)
        await service.start()
        for body in (query(), query(), b"\x00"):
            await service.handler(Request(b"POST", b"/tsa", body, "c", b"application/timestamp-query"))
        found = read(service)
        await service.close()
        return before, found

    before, found = asyncio.run(scenario())
    assert ("chancery_tsa_answers_total", ("granted",)) not in before
    assert 2 == found["chancery_tsa_answers_total", ("granted",)]
    assert 1 == found["chancery_tsa_answers_total", ("bad_data_format",)]
    assert 1 == found["chancery_tsa_clock_fit", ()]
    assert found["chancery_tsa_certificate_end_seconds", ("tsa",)] > 0
    assert 1 == found["chancery_tsa_accuracy_seconds", ()]


def test_the_port_is_for_reading():
    answer = metrics.handler(lambda: [Metric("a", "A.", {("x",): 1.0}, ("l",))], lambda: True)
    assert [405, 404] == [answer(Request(b"POST", b"/metrics", b"", "c")).status, answer(get(b"/")).status]
    assert 1 == samples(answer(get(b"/metrics")).body)["a", ("x",)]


@with_bench()
async def test_it_has_a_port_of_its_own_while_the_service_runs(bench):
    (port,) = free_ports(1)

    def ask() -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/metrics")
        with contextlib.closing(connection):
            return connection.getresponse().read()

    async with measured(bench.service, None):
        pass
    async with measured(bench.service, Listen(port=port)):
        assert b"chancery_ocsp_database_up 1.0" in await asyncio.to_thread(ask)
