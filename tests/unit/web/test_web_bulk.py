"""Many requests in one call: every line answered by itself, whatever the others are; bounds; hang-ups; rights."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import ssl

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from chancery.errors import ErrorType, PKIError
from chancery.ports import BlockedKey, Role
from chancery.web import bulk
from chancery.web.bulk import Lines
from fakes import START
from unit.web.served import serving
from unit.web.test_web_keys import SPKI
from unit.web.world import World, make_csr

CSR = make_csr().public_bytes(Encoding.DER)
NDJSON = {"content-type": "application/x-ndjson"}


def line(transaction_id: str | None = "t1", csr: bytes | str = CSR, **more: object) -> bytes:
    text = csr if isinstance(csr, str) else base64.b64encode(csr).decode()
    asked = {"profile": "tls-server", "csr": text, **more}
    if transaction_id is not None:
        asked["transaction_id"] = transaction_id
    return json.dumps(asked).encode() + b"\n"


def ask(world: World, *lines: bytes, who: str = "rita", query: str = "", **more):
    options = {"content": b"".join(lines), "headers": NDJSON} | more
    return world.ask(who, "POST", f"certificates/bulk{query}", **options)


def answers(world: World, *lines: bytes, **more) -> tuple[dict[int, dict], dict]:
    answer = ask(world, *lines, **more)
    assert (200, "application/x-ndjson") == (answer.status_code, answer.headers["content-type"])
    *found, end = map(json.loads, answer.text.splitlines())
    assert ["answer"] * len(found) + ["end"] == [one.pop("kind") for one in (*found, end)]
    return {one.pop("line"): one for one in found}, end


@pytest.fixture
def world():
    made = World()
    made.enrol("rita", Role.REQUESTOR)
    made.enrol("otto", Role.OFFICER)
    made.enrol("ada", Role.AUDITOR)
    return made


def test_each_line_is_answered_with_its_certificate(world):
    pem = make_csr("b.example.org").public_bytes(Encoding.PEM).decode()
    found, end = answers(world, line(), line("t2", pem, names=["dns:c.example.org"]).rstrip(b"\n"))
    assert {"lines": 2, "done": 2, "refused": 0, "waiting": 0, "error": None, "detail": None} == end
    assert ["t1", "t2"] == [found[n]["transaction_id"] for n in (1, 2)]
    stored = world.memory.stored[-2:]
    assert [one.serial.hex().upper() for one in stored] == [found[n]["serial"] for n in (1, 2)]
    assert {"issuing"} == {one["issuer"] for one in found.values()}
    asked = json.loads(line("t1", make_csr().public_bytes(Encoding.PEM).decode()))
    single = world.ask("rita", "POST", "certificates", json=asked | {"transaction_id": "t3"}).json()
    assert {*single} - {"chain"} == {*found[1]}
    assert ["request.received"] * 3 == [one for one in world.memory.kinds() if one.startswith("request")]


def test_a_broken_line_is_refused_in_words_and_the_rest_go_on(world):
    deep = b'{"profile": "tls-server", "csr": ' + b"[" * 2000 + b"]" * 2000 + b"}\n"
    found, end = answers(
        world,
        b"{\n",
        line(),
        b'{"profile": "tls-server"}\n',
        b"\xff\xfe\n",
        b"\n",
        line(None),
        line("t3", "not base64!"),
        line("t4", "MAA="),
        line("t5", profile="no-such"),
        line("t6", names=["dns:bad name"]),
        line("bad id!"),
        line("t7", surplus=1),
        deep,
        line("t8"),
    )
    assert {1, 2, 3, 4, *range(6, 15)} == set(found)
    assert [2, 14] == [number for number, one in sorted(found.items()) if one["state"] == "done"]
    assert (13, 2, 11) == (end["lines"], end["done"], end["refused"])
    errors = {number: one["error"] for number, one in found.items() if "error" in one}
    assert {
        7: "badDataFormat",
        8: "badDataFormat",
        9: "badCertTemplate",
        11: "badRequest",
    }.items() <= errors.items()
    assert all(one["detail"] for one in found.values() if one["state"] == "refused")
    assert "t4" == found[8]["transaction_id"]


def test_a_line_that_is_too_long_is_skipped(world):
    long = line("long", names=["dns:" + "a" * 1000] * 300)
    found, end = answers(world, line("t1"), long, line("t2"), b"x" * (2 * bulk.MAX_LINE))
    assert (["done", "refused", "done", "refused"], 4) == ([found[n]["state"] for n in range(1, 5)], end["lines"])
    assert "a line of more than" in found[2]["detail"]


def test_every_check_of_a_single_request_is_made(world):
    """Proof of possession, profile rights and blocked keys (R5); each refusal is journalled."""
    forged = CSR[:-1] + bytes((CSR[-1] ^ 1,))
    service = line("t2", profile="ocsp-signing")
    key = bytes.fromhex(SPKI)
    world.memory.blocked[key] = BlockedKey(key, "found", START, "otto")
    found, _ = answers(world, line("t1", forged), service, line("t3"))
    assert ["badPOP", "notAuthorized", "badCertTemplate"] == [found[n]["error"] for n in (1, 2, 3)]
    assert "compromised" in found[3]["detail"]
    assert ["request.refused"] * 3 == [one for one in world.memory.kinds() if one.startswith("request")]
    assert {} == world.memory.requests


def test_what_the_ca_refuses_is_that_lines_alone(world):
    world.memory.refusal = PKIError(ErrorType.BAD_CERT_TEMPLATE, "no")
    found, end = answers(world, line("t1"))
    assert ("refused", "badCertTemplate", "no") == tuple(found[1][name] for name in ("state", "error", "detail"))
    assert 1 == end["refused"]


def test_the_same_again_is_answered_the_same_and_another_requestor_has_ids_of_its_own(world):
    first, _ = answers(world, line("t1"), line("t2"))
    again, _ = answers(world, line("t2"), line("t1"))
    assert [first[1]["serial"], first[2]["serial"]] == [again[2]["serial"], again[1]["serial"]]
    other, _ = answers(world, line("t1"), who="otto")
    assert first[1]["serial"] != other[1]["serial"]


def test_twice_in_one_upload_is_one_request_unless_it_asks_for_something_else(world):
    found, _ = answers(world, line("t1"), line("t1"), line("t1", names=["dns:other.example.org"]))
    assert found[1]["serial"] == found[2]["serial"]
    assert ("refused", "transactionIdInUse") == (found[3]["state"], found[3]["error"])
    assert 1 == len(world.memory.requests)


def test_what_is_not_settled_in_time_is_waiting(world):
    world.memory.asleep = True
    found, end = answers(world, line("t1"), query="?wait=0.01")
    assert ("waiting", 1) == (found[1]["state"], end["waiting"])
    world.memory.work()
    assert "done" == answers(world, line("t1"))[0][1]["state"]


def test_a_database_that_goes_away_leaves_lines_waiting_and_says_so(world):
    async def away(_):
        raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the database is away")

    world.memory.submit_many = away
    found, end = answers(world, line("t1"))
    assert ("waiting", "systemUnavail", 1) == (found[1]["state"], found[1]["error"], end["waiting"])


def test_what_nobody_expected_is_a_failure_without_words(world):
    async def broken(_):
        raise ZeroDivisionError("secret")

    world.memory.submit_many = broken
    found, _ = answers(world, line("t1"))
    assert ("waiting", "systemFailure") == (found[1]["state"], found[1]["error"])
    assert "secret" not in json.dumps(found)


def test_more_lines_than_a_call_takes_are_not_looked_at(world, monkeypatch):
    monkeypatch.setattr(bulk, "MAX_LINES", 3)
    found, end = answers(world, *(line(f"t{n}") for n in range(5)))
    assert ({1, 2, 3}, 3, "badRequest") == (set(found), end["done"], end["error"])
    monkeypatch.setattr(bulk, "MAX_OCTETS", 100)
    assert "badRequest" == answers(world, line("t1"))[1]["error"]


def test_what_is_no_bulk_request_is_refused_as_a_whole(world):
    assert 415 == ask(world, line(), headers={"content-type": "application/json"}).status_code
    assert 400 == ask(world, line(), query="?wait=61").status_code
    assert 403 == ask(world, line(), who="ada").status_code
    assert 401 == ask(world, line(), who=None).status_code


def test_too_many_calls_at_once_are_refused(world, monkeypatch):
    monkeypatch.setattr(bulk, "CALLS_AT_ONCE", 0)
    assert 503 == ask(world, line()).status_code


def test_one_operator_leaves_calls_to_the_others(world, monkeypatch):
    monkeypatch.setattr(bulk, "CALLS_OF_ONE", 1)
    # One after the other is not at once.
    assert [200, 200] == [ask(world, line()).status_code for _ in range(2)]
    monkeypatch.setattr(bulk, "CALLS_OF_ONE", 0)
    assert 503 == ask(world, line()).status_code


def test_no_more_is_read_than_there_is_room_for(world, monkeypatch):
    """With room for two lines at a time everything is answered all the same, and never more are under way."""
    monkeypatch.setattr(bulk, "LINES_IN_FLIGHT", 2)
    monkeypatch.setattr(bulk, "LINES_AT_ONCE", 2)
    submit_many, sizes = world.memory.submit_many, []

    async def counted(submissions):
        sizes.append(len(submissions))
        await asyncio.sleep(0)
        return await submit_many(submissions)

    world.memory.submit_many = counted
    _, end = answers(world, *(line(f"t{n}") for n in range(20)))
    assert (20, [2] * 10) == (end["done"], sizes)


def test_somebody_removed_in_the_middle_asks_for_nothing_more(world, monkeypatch):
    monkeypatch.setattr(bulk, "LINES_IN_FLIGHT", 1)
    monkeypatch.setattr(bulk, "LINES_AT_ONCE", 1)
    submit_many = world.memory.submit_many

    async def removes(submissions):
        found = await submit_many(submissions)
        world.memory.people = {key: one for key, one in world.memory.people.items() if one.name != "rita"}
        world.clock.advance(2)
        return found

    world.memory.submit_many = removes
    found, end = answers(world, *(line(f"t{n}") for n in range(3)))
    assert ({1}, "notAuthorized") == (set(found), end["error"])


def test_a_client_that_hangs_up_leaves_what_was_stored_and_the_server_at_work(tmp_path):
    with serving(tmp_path) as served:
        certificate, key = served.enrol("rita", Role.REQUESTOR)
        context = ssl.create_default_context(cafile=served.root)
        context.load_cert_chain(certificate, key)
        head = f"POST /api/v1/certificates/bulk HTTP/1.1\r\nhost: localhost:{served.port}\r\n"
        head += "content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"

        async def talk(lines: bytes, *, whole: bool) -> bytes:
            reader, writer = await asyncio.open_connection("localhost", served.port, ssl=context)
            writer.write(head.encode() + b"%x\r\n%b\r\n" % (len(lines), lines))
            if whole:
                writer.write(b"0\r\n\r\n")
            found = await reader.readuntil(b'"kind":"end"' if whole else b'"kind":"answer"')
            writer.transport.abort()
            writer.close()
            return found

        asyncio.run(talk(line("t1") + line("t2")[:50], whole=False))
        assert b'"state":"done"' in asyncio.run(talk(line("t1") + line("t2"), whole=True))
        assert ["t1", "t2"] == [asked.transaction_id for asked, _ in served.world.memory.requests.values()]


@settings(max_examples=60)
@given(
    st.lists(st.binary(max_size=12).map(lambda data: data.replace(b"\n", b"")), max_size=8),
    st.lists(st.integers(0, 120), max_size=8),
    st.booleans(),
)
def test_however_it_arrives_the_lines_are_the_same(lines, cuts, ended):
    data = b"\n".join(lines) + (b"\n" if ended else b"")
    splitter, found = Lines(limit=8), []
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for begin, end in itertools.pairwise(edges):
        found += splitter.feed(data[begin:end])
    found += splitter.end()
    expected = data.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert [one if len(one) <= 8 else None for one in expected] == found
