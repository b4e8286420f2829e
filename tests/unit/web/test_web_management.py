"""Issuers, CRLs, profiles, operators, status; and what needs no certificate."""

from __future__ import annotations

import dataclasses
import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from chancery.errors import ErrorType, PKIError
from chancery.pkix.profile import shipped_profiles
from chancery.ports import Role
from unit.web.world import World, make_csr


@pytest.fixture
def world() -> World:
    made = World()
    made.enrol("anna", Role.ADMINISTRATOR)
    made.enrol("olga", Role.OFFICER)
    return made


def test_issuers_are_shown_with_their_crl(world):
    world.memory.publish("issuing")
    root, issuing = world.ask("olga", "GET", "issuers").json()["issuers"]
    assert ("root", False, "CN=root") == (root["name"], root["issues"], root["subject"])
    assert ("issuing", True, "root", 1) == (
        issuing["name"],
        issuing["issues"],
        issuing["parent"],
        issuing["crl"]["number"],
    )
    shown = world.ask("olga", "GET", "issuers/issuing").json()
    assert world.memory.issuing == x509.load_pem_x509_certificate(shown["certificate"].encode())
    assert 404 == world.ask("olga", "GET", "issuers/nobody").status_code


def test_the_hierarchy_tells_where_keys_are_and_what_to_worry_about(world):
    root, issuing = world.ask("olga", "GET", "hierarchy").json()["issuers"]
    assert ("root", 0, "elsewhere", "elsewhere", []) == tuple(
        root[key] for key in ("name", "depth", "state", "key", "warnings")
    )
    assert ("issuing", 1, "root", "issuing", "ca/issuing (software, SoftHSM v2, /lib.so)", "ec-p256") == tuple(
        issuing[key] for key in ("name", "depth", "parent", "state", "key", "algorithm")
    )
    assert ["it has published no CRL", "it has no valid OCSP delegate"] == issuing["warnings"]
    world.memory.publish("issuing")
    world.memory.issuer_records[1] = dataclasses.replace(world.memory.issuer_records[1], active=False)
    issuing = world.ask("olga", "GET", "hierarchy").json()["issuers"][1]
    assert ("deactivated", 1) == (issuing["state"], issuing["crl"]["number"])
    assert not world.ask("olga", "GET", "issuers/issuing").json()["issues"]
    world.clock.advance(datetime.timedelta(days=3650).total_seconds())
    warnings = world.ask("olga", "GET", "hierarchy").json()["issuers"][1]["warnings"]
    assert any(one.startswith("its CRL is out of date") for one in warnings)


def test_an_overdue_crl_is_marked_r14(world):
    world.memory.publish("issuing")
    assert "overdue" not in world.ask("anna", "GET", "status").json()["crls"]["issuing"]
    world.clock.advance(datetime.timedelta(days=8).total_seconds())
    found = world.ask("anna", "GET", "status").json()
    assert found["crls"]["issuing"]["overdue"]
    assert ["CRL 1 of issuing (complete) is out of date since 2026-12-01 12:00 UTC"] == found["warnings"]


def test_a_crl_whose_successor_is_late_is_warned_of_r14(world):
    world.memory.publish("issuing")
    world.clock.advance(datetime.timedelta(days=6, hours=17).total_seconds())
    assert "warnings" not in world.ask("anna", "GET", "status").json()
    world.clock.advance(datetime.timedelta(hours=2).total_seconds())
    [warning] = world.ask("anna", "GET", "status").json()["warnings"]
    assert warning.endswith("ends at 2026-12-01 12:00 UTC, and the next one is late")


def test_crls_are_listed_by_scope_and_a_shard_that_is_not_there_is_refused(world):
    world.memory.publish("issuing")
    [one] = world.ask("olga", "GET", "crls").json()["crls"]
    assert ("issuing", 0, False, 1) == (one["issuer"], one["shard"], one["delta"], one["number"])
    assert 404 == world.ask("olga", "GET", "issuers/issuing/crl?delta=true").status_code
    assert 404 == world.ask("anna", "POST", "issuers/issuing/crl?shard=7").status_code
    assert 400 == world.ask("anna", "POST", "issuers/issuing/crl?shard=x").status_code
    assert 202 == world.ask("anna", "POST", "issuers/issuing/crl?shard=0").status_code
    assert {"scope": "complete"} == world.memory.events[-1].detail


def test_a_crl_is_fetched_and_asked_for_r15(world):
    assert 404 == world.ask("olga", "GET", "issuers/issuing/crl").status_code
    for number in (1, 2):
        answer = world.ask("anna", "POST", "issuers/issuing/crl")
        assert (202, "issuing") == (answer.status_code, answer.json()["issuer"])
        fetched = world.ask("olga", "GET", "issuers/issuing/crl")
        assert "application/pkix-crl" == fetched.headers["content-type"]
        crl = x509.load_der_x509_crl(fetched.content)
        assert number == crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    assert [("issuing", "anna")] * 2 == world.memory.crl_wishes
    assert 404 == world.ask("anna", "POST", "issuers/nobody/crl").status_code


def test_profiles_say_whether_they_are_for_online_requests_r8(world):
    found = {one["name"]: one for one in world.ask("anna", "GET", "profiles").json()["profiles"]}
    assert set(shipped_profiles()) == set(found)
    others = {one["name"] for one in world.ask("olga", "GET", "profiles").json()["profiles"]}
    assert {"ocsp-signing", "timestamping", "root-ca", "sub-ca"} == set(found) - others
    assert {"root-ca", "sub-ca"} == {name for name, one in found.items() if not one["online"]}
    shown = world.ask("olga", "GET", "profiles/tls-server").json()
    profile = shipped_profiles()["tls-server"]
    assert (profile.source, profile.sha256.hex()) == (shown["source"], shown["sha256"])
    assert 404 == world.ask("olga", "GET", "profiles/none").status_code


def test_an_operator_is_enrolled_and_removed(world):
    der = make_csr("bob", "bob").public_bytes(Encoding.DER)
    world.memory.issue("olga", der, "tls-client", serial=9)
    assert 401 == world.ask("bob", "GET", "me").status_code
    body = {"name": "bob", "roles": ["requestor"], "profiles": ["tls-client"], "serial": "09"}
    answer = world.ask("anna", "POST", "operators", json=body)
    assert 201 == answer.status_code
    me = world.ask("bob", "GET", "me").json()
    assert answer.json() == me
    assert ("bob", ["requestor"], ["tls-client"]) == (me["name"], me["roles"], me["profiles"])
    assert ["anna", "bob", "olga"] == [
        one["name"] for one in world.ask("anna", "GET", "operators").json()["operators"]
    ]
    assert 400 == world.ask("anna", "POST", "operators", json=body).status_code
    assert 204 == world.ask("anna", "DELETE", "operators/bob").status_code
    assert 401 == world.ask("bob", "GET", "me").status_code
    assert 404 == world.ask("anna", "DELETE", "operators/bob").status_code


def test_an_operator_with_a_space_in_the_name_is_removed_too(world):
    world.enrol("Ann O'Nym & son", Role.REQUESTOR)
    assert 204 == world.ask("anna", "DELETE", "operators/Ann%20O'Nym%20%26%20son").status_code


def test_the_last_administrator_stays(world):
    answer = world.ask("anna", "DELETE", "operators/anna")
    assert (400, "the last administrator stays") == (answer.status_code, answer.json()["detail"])


@pytest.mark.parametrize(
    "change",
    [
        {"roles": []},
        {"roles": ["king"]},
        {"roles": ["auditor", "officer"]},
        {"name": ""},
        {"name": "x" * 201},
        {"name": "OLGA"},
        {"name": "\uff4flga"},
        {"name": "ole\u0301"},
        {"name": "ol\u200bga"},
        {"serial": "zz"},
        {"serial": None},
        {"certificate": "-----BEGIN"},
        {"more": 1},
    ],
)
def test_a_wrong_operator_is_a_problem(world, change):
    before = dict(world.memory.people)
    body = {"name": "bob", "roles": ["requestor"], "serial": "09", **change}
    answer = world.ask("anna", "POST", "operators", json=body)
    assert (400, "application/problem+json") == (answer.status_code, answer.headers["content-type"])
    assert before == world.memory.people


def test_status_counts(world):
    found = world.ask("anna", "GET", "status").json()
    assert {"waiting": 0, "certificates": 2, "reports_open": 0, "reports_overdue": 0} == found["counts"]
    assert {"root": None, "issuing": None} == found["crls"]
    assert "2026-11-24T12:00:00Z" == found["time"]


def test_a_page_for_people_and_a_health_check_need_no_certificate(world):
    page = world.ask(None, "GET", "/")
    assert (200, "text/html; charset=utf-8") == (page.status_code, page.headers["content-type"])
    assert "/openapi.json" in page.text
    assert {"status": "ok"} == world.ask(None, "GET", "/healthz").json()
    assert [] == world.memory.events


def test_health_asks_the_database_but_not_each_time(world):
    calls = world.memory.faults.calls
    for _ in range(20):
        world.ask(None, "GET", "/healthz")
    assert calls + 1 == world.memory.faults.calls
    asked = []

    async def away():
        asked.append(1)
        raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the database is away")

    issuers, world.memory.issuers = world.memory.issuers, away
    world.clock.advance(2)
    assert {503} == {world.ask(None, "GET", "/healthz").status_code for _ in range(20)}
    assert [1] == asked
    world.memory.issuers = issuers
    world.clock.advance(2)
    assert 200 == world.ask(None, "GET", "/healthz").status_code


def test_every_answer_carries_the_security_headers(world):
    for path in ("/", "/api/v1/me", "/nope", "/api/v1/issuers/nobody"):
        headers = world.ask("anna", "GET", path).headers
        assert "max-age=31536000" == headers["strict-transport-security"]
        assert "nosniff" == headers["x-content-type-options"]
        assert "no-store" == headers["cache-control"]
        assert "default-src 'none'; frame-ancestors 'none'" == headers["content-security-policy"]
        assert [] == [name for name in headers if name.startswith("access-control")]


@pytest.mark.parametrize("host", ["localhost:8443", "localhost", "127.0.0.1:8443", "[::1]:8443", "[::1]"])
def test_localhost_is_not_bound_to_https(world, host):
    headers = world.ask(None, "GET", "/", headers={"host": host}).headers
    assert "strict-transport-security" not in headers
    assert "nosniff" == headers["x-content-type-options"]
