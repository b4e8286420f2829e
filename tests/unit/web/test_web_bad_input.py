"""Bad input of every shape: a typed problem, no traceback, nothing stored, the application still there."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chancery.ports import Role
from chancery.web.bodies import MAX_BODY
from chancery.web.guard import Guard
from unit.web.world import World, csr_pem

JSON = {"content-type": "application/json"}
PKCS10 = {"content-type": "application/pkcs10"}


def _world() -> World:
    world = World()
    world.enrol("olga", Role.OFFICER, Role.ADMINISTRATOR)
    return world


def _problem(answer, *statuses: int) -> None:
    assert answer.status_code in statuses, answer.text
    assert "application/problem+json" == answer.headers["content-type"]
    assert {"type", "title", "status"} <= set(answer.json()) <= {"type", "title", "status", "detail"}
    assert answer.status_code == answer.json()["status"]
    assert "Traceback" not in answer.text
    assert len(answer.content) < 2000


def _post(world: World, content: bytes, headers: dict[str, str] = JSON, query: str = ""):
    return world.ask("olga", "POST", f"certificates{query}", content=content, headers=headers)


DEEP = b'{"names":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
BODIES = {
    "empty": b"",
    "null": b"null",
    "list": b"[]",
    "number": b"1e999",
    "not JSON": b"{",
    "not UTF-8": b'{"profile":"\xff"}',
    "surrogate": rb'{"profile":"\ud800","csr":"x"}',
    "nothing": b"{}",
    "unknown field": json.dumps({"profile": "tls-server", "csr": csr_pem(), "x": 1}).encode(),
    "deep known": DEEP,
    "deep unknown": DEEP.replace(b"names", b"other"),
    "wrong type": json.dumps({"profile": 1, "csr": csr_pem()}).encode(),
    "many names": json.dumps({"profile": "tls-server", "csr": csr_pem(), "names": ["dns:a"] * 101}).encode(),
    "long name": json.dumps({"profile": "tls-server", "csr": csr_pem(), "names": ["dns:" + "a" * 999]}).encode(),
    "not a CSR": json.dumps({"profile": "tls-server", "csr": "hello"}).encode(),
    "a NUL": json.dumps({"profile": "tls-server\x00", "csr": csr_pem()}).encode(),
    "cut": json.dumps({"profile": "tls-server", "csr": csr_pem()[:200]}).encode(),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_bad_body_is_a_problem_and_stores_nothing(name):
    world = _world()
    _problem(_post(world, BODIES[name]), 400, 422)
    assert {} == world.memory.requests
    assert 201 == _post(world, json.dumps({"profile": "tls-server", "csr": csr_pem()}).encode()).status_code


@pytest.mark.parametrize("headers", [JSON, PKCS10], ids=["json", "pkcs10"])
def test_an_oversized_body_is_413(headers):
    world = _world()
    _problem(_post(world, b" " * (MAX_BODY + 1), headers, "?profile=tls-server" if headers is PKCS10 else ""), 413)

    async def stream():
        for _ in range(1000):
            yield b" " * 65536

    async def go():
        async with world.client("olga") as client:
            return await client.post("/api/v1/certificates", content=stream(), headers=JSON)

    _problem(asyncio.run(go()), 413)


@pytest.mark.parametrize("media", ["", "text/plain", "application/xml", "application/x-www-form-urlencoded"])
def test_another_media_type_is_415(media):
    _problem(_post(_world(), b"{}", {"content-type": media}), 415)


def test_an_encoded_body_is_415():
    world = _world()
    _problem(_post(world, b"{}", {**JSON, "content-encoding": "gzip"}), 415)
    _problem(_post(world, b"{}", {**PKCS10, "content-encoding": "gzip"}), 415)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("POST", "/", 405),
        ("GET", "/api/v1", 404),
        ("GET", "/api/v1/", 404),
        ("GET", "/api/v2/certificates", 404),
        ("PUT", "/api/v1/certificates", 405),
        ("TRACE", "/api/v1/certificates", 405),
        ("DELETE", "/api/v1/certificates/07", 405),
        ("GET", "/api/v1/certificates/", 404),
        ("GET", "/api/v1/certificates/../../etc/passwd", 404),
        ("GET", "/api/v1/certificates/%2e%2e%2fetc", 404),
        ("GET", "/api/v1/certificates/" + "f" * 5000, 404),
        ("GET", "/api/v1/issuers/" + "x" * 5000, 404),
        ("GET", "/api/v1/issuers/%00", 404),
        ("GET", "/api/v1/profiles/%0d%0aSet-Cookie:x", 404),
        ("DELETE", "/api/v1/operators/%ff%fe", 404),
        ("GET", "/api/v1/certificates?subject=" + "x" * 2000, 400),
        ("GET", "/api/v1/me?x=1", 400),
    ],
)
def test_a_wrong_path_or_method_is_a_problem(method, path, status):
    answer = _world().ask("olga", method, path)
    if status == 200:
        assert status == answer.status_code
    else:
        _problem(answer, status)
    if status == 405:
        assert "allow" in answer.headers


WORLD = _world()


@given(st.binary(max_size=400), st.sampled_from([JSON, PKCS10]))
def test_random_bytes_are_a_problem(data, headers):
    query = "?profile=tls-server" if headers is PKCS10 else ""
    _problem(_post(WORLD, data, headers, query), 400)


@given(st.binary(max_size=60).map(lambda raw: "".join(f"%{octet:02x}" for octet in raw)))
def test_random_paths_are_a_problem(segment):
    for place in ("certificates", "issuers", "requests", "profiles", "operators"):
        answer = WORLD.ask("olga", "GET", f"{place}/x{segment}")
        _problem(answer, 404, 405)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
        max_leaves=12,
    )
)
def test_random_json_is_a_problem_everywhere(value):
    for path in ("certificates", "operators", "certificates/07/revocation"):
        _problem(WORLD.ask("olga", "POST", path, content=json.dumps(value).encode(), headers=JSON), 400)


def test_an_unexpected_exception_is_a_500_without_words():
    world = _world()

    async def broken(*_):
        raise RuntimeError("the PIN is 1234")

    world.memory.issuers = broken
    answer = world.ask("olga", "GET", "issuers")
    _problem(answer, 500)
    assert "1234" not in answer.text
    assert "detail" not in answer.json()
    assert 200 == world.ask("olga", "GET", "me").status_code


def _run_guard(app, **given) -> list[dict]:
    sent: list[dict] = []

    async def go():
        async def send(message):
            sent.append(message)

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        guard = Guard(app, World().clock, **given)
        await guard({"type": "http", "method": "GET", "path": "/", "headers": []}, receive, send)

    asyncio.run(go())
    return sent


def test_a_request_that_takes_too_long_is_503():
    async def slow(_scope, _receive, _send):
        await asyncio.sleep(60)

    assert 503 == _run_guard(slow, seconds=0.01)[0]["status"]


def test_too_many_requests_at_once_are_503():
    async def never(_scope, _receive, _send):
        raise AssertionError

    assert 503 == _run_guard(never, max_requests=0)[0]["status"]


def test_a_timeout_of_the_applications_own_is_a_500():
    async def own(_scope, _receive, _send):
        raise TimeoutError

    assert 500 == _run_guard(own)[0]["status"]
