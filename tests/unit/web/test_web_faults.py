"""Every port call of every operation failed, before and after its effect: 503, and a retry comes right."""

from __future__ import annotations

import pytest

from chancery.ports import Role
from fakes import Faults
from unit.web.world import World, csr_pem

CSR = csr_pem()
OPERATIONS = {
    "submit": ("POST", "certificates", {"profile": "tls-server", "csr": CSR, "transaction_id": "t"}, {201}),
    "refused at the gate": (
        "POST",
        "certificates",
        {"profile": "root-ca", "csr": CSR, "transaction_id": "t"},
        {403},
    ),
    "search": ("GET", "certificates", None, {200}),
    "chain": ("GET", "certificates/09.chain.pem", None, {200}),
    # Done already, when the first try took effect.
    "revoke": ("POST", "certificates/09/revocation", {"reason": "superseded"}, {200, 409}),
    "issuers": ("GET", "issuers", None, {200}),
    "hierarchy": ("GET", "hierarchy", None, {200}),
    "crl": ("POST", "issuers/issuing/crl", None, {202}),
    "status": ("GET", "status", None, {200}),
    "add": ("POST", "operators", {"name": "bob", "roles": ["requestor"], "serial": "09"}, {201, 400}),
    "remove": ("DELETE", "operators/other", None, {204, 404}),
    "forbidden": ("GET", "requests/1", None, {404}),
}


def _world() -> World:
    world = World()
    world.enrol("somebody", Role.OFFICER, Role.ADMINISTRATOR)
    world.enrol("other", Role.REQUESTOR)
    world.memory.issue("somebody", _der(), serial=9)
    return world


def _der() -> bytes:
    from chancery.ra.enrolment import csr_der

    return csr_der(CSR.encode())


@pytest.mark.parametrize("mode", ["fail-before", "fail-after"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_failing_port_is_503_and_the_retry_comes_right(name, mode):
    method, path, body, expected = OPERATIONS[name]
    options = {} if body is None else {"json": body}
    number = 0
    while True:
        number += 1
        world = _world()
        world.memory.faults = Faults(number, mode)
        answer = world.ask("somebody", method, path, **options)
        if world.memory.faults.calls < number:
            break
        assert 503 == answer.status_code, (number, answer.text)
        assert "5" == answer.headers["retry-after"]
        retry = world.ask("somebody", method, path, **options)
        assert retry.status_code in expected, (number, retry.text)
        assert len(world.memory.requests) <= 1
        assert world.memory.kinds().count("request.received") <= 1
    assert answer.status_code in expected
    assert number > 2


def test_the_database_away_is_503_and_the_process_lives():
    world = _world()
    world.memory.away = True
    for method, path, body, _ in OPERATIONS.values():
        answer = world.ask("somebody", method, path, **({} if body is None else {"json": body}))
        assert 503 == answer.status_code
    world.memory.away = False
    assert 200 == world.ask("somebody", "GET", "me").status_code
