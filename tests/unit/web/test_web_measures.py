"""The management interface's metrics."""

from __future__ import annotations

import asyncio

import pytest

from chancery.errors import PKIError
from chancery.ports import Role
from chancery.web.app import create_app
from chancery.web.measures import Measures
from chancery.web.metrics import rendered
from fakes import Faults
from unit.web.world import World


def text(measures: Measures) -> list[str]:
    return rendered(measures.metrics()).decode().splitlines()


def test_requests_are_counted_by_status_and_time(tmp_path):
    world = World()
    world.enrol("anna", Role.ADMINISTRATOR)
    measures = Measures(world.ra, tmp_path / "none.pem")
    world.app = create_app(world.ra, measures.observe)
    world.ask("anna", "GET", "status")
    world.ask(None, "GET", "status")
    measures.observe(200, 0.07)
    measures.observe(200, 99.0)
    lines = text(measures)
    assert 'chancery_ca_answers_total{status="200"} 3.0' in lines
    assert 4.0 == sum(float(one.split()[1]) for one in lines if one.startswith("chancery_ca_answers_total"))
    for bound, many in (("0.05", 2.0), ("0.1", 3.0), ("30.0", 3.0), ("+Inf", 4.0)):
        assert f'chancery_ca_request_seconds_bucket{{le="{bound}"}} {many}' in lines
    assert "chancery_ca_database_up 0.0" in lines
    assert not measures.ready()


def test_queue_crls_issuers_and_reports_come_from_the_database_r13_r14(tmp_path):
    world = World()
    world.memory.publish("issuing")
    [crl] = asyncio.run(world.memory.crls())
    file = tmp_path / "server.pem"
    measures = Measures(world.ra, file)
    asyncio.run(measures.refresh())
    lines = text(measures)
    assert measures.ready()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert "0.0" == values["chancery_requests_waiting"]
    assert "0.0" == values["chancery_reports_overdue"]
    until = float(values['chancery_crl_next_update_seconds{issuer="issuing",scope="complete"}'])
    assert crl.next_update.timestamp() == until
    end = float(values['chancery_issuer_end_seconds{issuer="issuing"}'])
    assert world.memory.issuing.not_valid_after_utc.timestamp() == end
    assert "chancery_ca_tls_end_seconds" not in values
    file.write_bytes(b"no certificate")
    assert not any(line.startswith("chancery_ca_tls_end_seconds") for line in text(measures))


def test_a_database_that_is_away_is_told(tmp_path):
    world = World()
    measures = Measures(world.ra, tmp_path / "none.pem")
    asyncio.run(measures.refresh())
    world.memory.faults = Faults(1, "fail-before")
    with pytest.raises(PKIError):
        asyncio.run(measures.refresh())
