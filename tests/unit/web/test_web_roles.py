"""Who may do what: every operation as every role, as a stranger, and as somebody who no longer may."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from chancery.ports import NewRevocation, ProfileSwitch, RevocationReason, Role
from chancery.ports.mass import NewJob
from chancery.ports.reports import Ground, NewReport, Report
from chancery.web.routes import ENDPOINTS
from chancery.web.service import NDJSON
from unit.web.tsaclientmemory import tsa_client
from unit.web.world import World, csr_pem, make_certificate, make_csr, to_der

A, O, R, U = Role.ADMINISTRATOR, Role.OFFICER, Role.REQUESTOR, Role.AUDITOR  # noqa: E741 - read in a table
SERIAL = "07"
STORED = f"/api/v1/certificates/{SERIAL}"


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One operation, what is sent, what is answered when it is allowed, and to whom it is."""

    method: str
    route: str
    path: str
    status: int
    roles: set[Role]
    body: Callable[[World], dict[str, Any]] | None = None
    lines: bool = False

    def sent(self, world: World) -> dict[str, Any]:
        body = None if self.body is None else self.body(world)
        if body is None or self.method == "GET":
            return {}
        if self.lines:
            return {"content": json.dumps(body), "headers": {"content-type": NDJSON}}
        return {"json": body}


def _request(_: World) -> dict[str, Any]:
    return {"profile": "tls-server", "csr": csr_pem()}


def _operator(_: World) -> dict[str, Any]:
    return {"name": "new", "roles": ["requestor"], "serial": "08"}


def _timestamp_client(_: World) -> dict[str, Any]:
    return {"name": "new", "networks": ["10.0.0.0/8"]}


def _key(_: World) -> dict[str, Any]:
    return {"spki_sha256": "0a" * 32, "reason": "found on a web server"}


MANY = {"profile": "tls-server", "reason": "superseded"}


def _suspended(world: World) -> None:
    one = next(one for one in world.memory.stored if one.serial == b"\x07")
    hold = NewRevocation("issuing", one.serial, RevocationReason.CERTIFICATE_HOLD, None, "x", world.clock.now())
    world.memory.set_revoked(one, hold)


REPORT = {"ground": "misuse", "evidence": "see there", "reporter": "eve@example.org", "spki_sha256": "ab" * 32}


def _reported(world: World) -> dict[str, str]:
    told = (Ground.MISUSE, None, None, bytes(32), "see there", "eve@example.org", False, "adam", world.clock.now())
    world.memory.reports.kept[1] = Report(1, NewReport(*told), ())
    return {"decision": "reject", "words": "there is nothing there"}


def _job(world: World) -> dict[str, str]:
    asked = (RevocationReason.SUPERSEDED, None, "{}", 1, bytes(32), world.clock.now())
    world.memory.mass.keep(NewJob("adam", *asked), rehearsal=False)
    return {"digest": bytes(32).hex()}


def _activation(world: World) -> dict[str, Any]:
    if "smime" not in world.memory.switches:
        world.memory.switches["smime"] = ProfileSwitch("smime", False, "why", "olga", world.clock.now())
    return {"reason": "all is well again"}


CASES = [
    Case("POST", "/api/v1/certificates", "/api/v1/certificates", 201, {O, R}, _request),
    Case("POST", "/api/v1/certificates/bulk", "/api/v1/certificates/bulk", 200, {O, R}, _request, lines=True),
    Case("GET", "/api/v1/certificates", "/api/v1/certificates", 200, {O, R, U}),
    Case("GET", "/api/v1/requests/{request_id}", "/api/v1/requests/1", 200, {O, R, U}),
    Case("GET", "/api/v1/certificates/{serial}.chain.pem", f"{STORED}.chain.pem", 200, {O, R, U}),
    Case("GET", "/api/v1/certificates/{serial}.pem", f"{STORED}.pem", 200, {O, R, U}),
    Case("GET", "/api/v1/certificates/{serial}.cer", f"{STORED}.cer", 200, {O, R, U}),
    Case("GET", "/api/v1/certificates/{serial}.p7b", f"{STORED}.p7b", 200, {O, R, U}),
    Case("GET", "/api/v1/certificates/{serial}", STORED, 200, {O, R, U}),
    Case(
        "POST",
        "/api/v1/certificates/{serial}/revocation",
        f"{STORED}/revocation",
        200,
        {O, R},
        lambda _: {"reason": "superseded"},
    ),
    Case(
        "POST",
        "/api/v1/certificates/{serial}/reinstatement",
        f"{STORED}/reinstatement",
        200,
        {A, O},
        _suspended,
    ),
    Case("POST", "/api/v1/revocations", "/api/v1/revocations", 200, {O}, lambda _: MANY),
    Case("GET", "/api/v1/revocations", "/api/v1/revocations", 200, {A, O, U}),
    Case("GET", "/api/v1/revocations/{job_id}", "/api/v1/revocations/1", 200, {A, O, U}, _job),
    Case(
        "POST",
        "/api/v1/revocations/{job_id}/approval",
        "/api/v1/revocations/1/approval",
        202,
        {A, O},
        _job,
    ),
    Case("POST", "/api/v1/reports", "/api/v1/reports", 201, {A, O, R}, lambda _: REPORT),
    Case("GET", "/api/v1/reports", "/api/v1/reports", 200, {A, O, U}),
    Case("GET", "/api/v1/reports/{report_id}", "/api/v1/reports/1", 200, {A, O, U}, _reported),
    Case(
        "POST",
        "/api/v1/reports/{report_id}/decision",
        "/api/v1/reports/1/decision",
        200,
        {O},
        _reported,
    ),
    Case("POST", "/api/v1/blocked-keys", "/api/v1/blocked-keys", 201, {A, O}, _key),
    Case("GET", "/api/v1/blocked-keys", "/api/v1/blocked-keys", 200, {A, O, U}),
    Case("GET", "/api/v1/issuers", "/api/v1/issuers", 200, {A, O, R, U}),
    Case("GET", "/api/v1/hierarchy", "/api/v1/hierarchy", 200, {A, O, U}),
    Case("GET", "/api/v1/issuers/{name}", "/api/v1/issuers/issuing", 200, {A, O, R, U}),
    Case("GET", "/api/v1/issuers/{name}/certificate", "/api/v1/issuers/issuing/certificate", 200, {A, O, R, U}),
    Case("GET", "/api/v1/issuers/{name}/chain", "/api/v1/issuers/issuing/chain", 200, {A, O, R, U}),
    Case("GET", "/api/v1/crls", "/api/v1/crls", 200, {A, O, R, U}),
    Case("GET", "/api/v1/issuers/{name}/crl", "/api/v1/issuers/issuing/crl", 200, {A, O, R, U}),
    Case("POST", "/api/v1/issuers/{name}/crl", "/api/v1/issuers/issuing/crl", 202, {A}),
    Case("GET", "/api/v1/profiles", "/api/v1/profiles", 200, {A, O, R, U}),
    Case("GET", "/api/v1/profiles/{name}", "/api/v1/profiles/smime", 200, {A, O, R, U}),
    Case(
        "POST",
        "/api/v1/profiles/{name}/deactivation",
        "/api/v1/profiles/smime/deactivation",
        200,
        {A, O},
        lambda _: {"reason": "a mistake in it"},
    ),
    Case(
        "POST",
        "/api/v1/profiles/{name}/activation",
        "/api/v1/profiles/smime/activation",
        200,
        {A},
        _activation,
    ),
    Case("GET", "/api/v1/operators", "/api/v1/operators", 200, {A, U}),
    Case("POST", "/api/v1/operators", "/api/v1/operators", 201, {A}, _operator),
    Case("DELETE", "/api/v1/operators/{name}", "/api/v1/operators/other", 204, {A}),
    Case("GET", "/api/v1/timestamp-clients", "/api/v1/timestamp-clients", 200, {A, O, U}),
    Case("POST", "/api/v1/timestamp-clients", "/api/v1/timestamp-clients", 201, {A}, _timestamp_client),
    Case("DELETE", "/api/v1/timestamp-clients/{name}", "/api/v1/timestamp-clients/known", 204, {A, O}),
    Case("GET", "/api/v1/status", "/api/v1/status", 200, {A, U}),
    Case("GET", "/api/v1/me", "/api/v1/me", 200, {A, O, R, U}),
]


def _world(*roles: Role) -> World:
    world = World()
    world.enrol("somebody", *roles)
    world.enrol("other", Role.REQUESTOR)
    der = make_csr().public_bytes(Encoding.DER)
    world.memory.issue("somebody", der, serial=7)
    world.memory.issue("somebody", der, serial=8)
    world.memory.publish("issuing")
    world.memory.timestamp_clients.kept["known"] = tsa_client("known")
    return world


def _ask(world: World, label: str | None, case: Case):
    return world.ask(label, case.method, case.path, **case.sent(world))


def test_every_route_stands_in_the_table():
    served = {(one.method, one.path) for one in ENDPOINTS if one.public is None}
    assert served == {(case.method, case.route) for case in CASES}
    assert {"/", "/healthz", "/openapi.json"} == {one.path for one in ENDPOINTS if one.public is not None}


@pytest.mark.parametrize("role", Role, ids=lambda role: role.value)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.method} {case.route}")
def test_an_operation_is_for_its_roles_and_for_no_other(case, role):
    world = _world(role)
    if case.route.startswith("/api/v1/requests"):
        # There is a request of somebody's own, whatever the role now is.
        (somebody,) = [one for one in world.memory.people.values() if one.name == "somebody"]
        world.memory.people[somebody.fingerprint] = dataclasses.replace(somebody, roles=frozenset({O}))
        world.ask("somebody", "POST", "certificates", json=_request(world))
        world.memory.people[somebody.fingerprint] = somebody
        world.app.state.gate.forget()
    answer = _ask(world, "somebody", case)
    if role in case.roles:
        assert case.status == answer.status_code, answer.text
        return
    assert 403 == answer.status_code
    assert "urn:chancery:error:notAuthorized" == answer.json()["type"]
    last = world.memory.events[-1]
    assert ("request.refused", "somebody") == (last.kind.value, last.actor)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.method} {case.route}")
def test_a_stranger_is_told_nothing(case):
    world = _world(Role.OFFICER)
    answer = _ask(world, None, case)
    assert 401 == answer.status_code
    assert {"type", "title", "status", "detail"} == set(answer.json())
    assert 'ClientCertificate realm="chancery"' == answer.headers["www-authenticate"]
    assert ["login.refused"] == world.memory.kinds()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.method} {case.route}")
def test_a_certificate_that_is_no_operators_opens_nothing(case):
    world = _world(Role.OFFICER)
    forged = to_der(make_certificate("somebody", "elsewhere", serial=5))

    async def go():
        async with world.client_with(forged) as client:
            return await client.request(case.method, case.path, **case.sent(world))

    assert 401 == asyncio.run(go()).status_code


def test_a_revoked_certificate_opens_nothing_within_a_second():
    world = _world(Role.OFFICER)
    assert 200 == world.ask("somebody", "GET", "me").status_code
    mine = next(one for one in world.memory.stored if one.subject == "CN=somebody")
    wish = NewRevocation("issuing", mine.serial, RevocationReason.KEY_COMPROMISE, None, "x", world.clock.now())
    world.memory.set_revoked(mine, wish)
    world.clock.advance(1.0)
    assert 401 == world.ask("somebody", "GET", "me").status_code


def test_who_revokes_its_own_certificate_is_out_at_once():
    world = World()
    world.enrol("olga", Role.OFFICER)
    serial = next(one.serial.hex() for one in world.memory.stored if one.subject == "CN=olga")
    answer = world.ask("olga", "POST", f"certificates/{serial}/revocation", json={"reason": "keyCompromise"})
    assert 200 == answer.status_code
    assert 401 == world.ask("olga", "GET", "me").status_code


def test_a_removed_operator_is_out_at_once():
    world = _world(Role.ADMINISTRATOR)
    assert 200 == world.ask("other", "GET", "me").status_code
    assert 204 == world.ask("somebody", "DELETE", "operators/other").status_code
    assert 401 == world.ask("other", "GET", "me").status_code
    assert 409 != world.ask("somebody", "DELETE", "operators/somebody").status_code
    assert 200 == world.ask("somebody", "GET", "me").status_code


def test_a_profile_that_an_operator_is_not_allowed_is_refused_and_hidden():
    world = World()
    world.enrol("rita", Role.REQUESTOR, profiles=frozenset({"tls-client"}))
    answer = world.ask("rita", "POST", "certificates", json=_request(world))
    assert (403, {}) == (answer.status_code, world.memory.requests)
    profiles = world.ask("rita", "GET", "profiles").json()["profiles"]
    assert ["tls-client"] == [one["name"] for one in profiles]


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://ca.example"},
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_page_of_another_origin_cannot_use_the_browsers_certificate(headers, method):
    world = _world(Role.ADMINISTRATOR)
    answer = world.ask("somebody", method, "issuers/issuing/crl", headers=headers)
    assert (403, []) == (answer.status_code, world.memory.crl_wishes)
    assert "application/problem+json" == answer.headers["content-type"]


@pytest.mark.parametrize(
    "headers",
    [{"sec-fetch-site": "none"}, {"sec-fetch-site": "same-origin", "origin": "https://ca.example"}],
    ids=str,
)
def test_the_users_own_browser_may(headers):
    assert (
        202
        == _world(Role.ADMINISTRATOR).ask("somebody", "POST", "issuers/issuing/crl", headers=headers).status_code
    )
