"""What makes requests cheap must not make them different: held heads, short ways, questions asked once."""

from __future__ import annotations

import asyncio
import json
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chancery.cli import log
from chancery.ports import Role
from chancery.web.bodies import _pairs
from chancery.web.protocol import Cork
from chancery.web.service import Issuers
from unit.web.world import World, csr_pem

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Wire:
    """A transport that remembers what was written, and how often."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> str:
        return name


def test_head_and_body_are_one_write():
    wire = Wire()
    cork = Cork(wire)
    cork.write(HEAD)
    assert [] == wire.written
    cork.write(b"ok")
    assert [HEAD + b"ok"] == wire.written
    cork.flush()
    assert 1 == len(wire.written)


@pytest.mark.parametrize("end", [Cork.flush, Cork.close])
def test_a_head_without_a_body_is_written_at_the_end(end):
    wire = Wire()
    cork = Cork(wire)
    cork.write(HEAD)
    end(cork)
    assert ([HEAD], end is Cork.close) == (wire.written, cork.is_closing())


@pytest.mark.parametrize("data", [b"HTTP/1.1 100 Continue\r\n\r\n", HEAD + b"{}", b"more"])
def test_what_is_no_final_head_is_written_at_once(data):
    wire = Wire()
    Cork(wire).write(data)
    assert [data] == wire.written


@given(st.lists(st.sampled_from([HEAD, b"HTTP/1.1 100 Continue\r\n\r\n", b"body", b""]), max_size=12))
def test_nothing_is_lost_or_reordered(pieces):
    wire = Wire()
    cork = Cork(wire)
    for piece in pieces:
        cork.write(piece)
    cork.close()
    assert b"".join(pieces) == b"".join(wire.written)


@given(st.text(alphabet="ab=&+%2~;\u00e9", max_size=20))
def test_a_query_is_read_as_the_library_reads_it(text):
    assert urllib.parse.parse_qsl(text, keep_blank_values=True) == _pairs(text)


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        max_size=4,
    )
)
def test_a_log_line_says_what_was_logged(event):
    assert event == json.loads(log.render(None, "info", dict(event)))


def test_what_is_not_json_is_logged_as_its_repr():
    assert {"error": repr(Role.AUDITOR), "who": repr(1j)} == json.loads(
        log.render(None, "info", {"error": repr(Role.AUDITOR), "who": 1j})
    )


def test_however_many_need_the_issuers_one_asks():
    world, asked = World(), []
    issuers = world.memory.issuers

    async def slow():
        asked.append(1)
        await asyncio.sleep(0)
        return await issuers()

    world.memory.issuers = slow

    async def act():
        known = Issuers(world.ra)
        return await asyncio.gather(*(known.chain("issuing") for _ in range(20)))

    found = asyncio.run(act())
    assert ([1], 20, 1) == (asked, len(found), len(found[0]))


def test_a_certificate_alone_needs_no_issuers():
    world = World()
    world.enrol("rita", Role.REQUESTOR)

    async def never():
        raise AssertionError

    world.memory.issuers = never
    asked = {"profile": "tls-server", "csr": csr_pem()}
    for form in ("der", "pem"):
        assert 201 == world.ask("rita", "POST", f"certificates?format={form}", json=asked).status_code


@pytest.mark.parametrize(("method", "status"), [("PUT", 405), ("HEAD", 200), ("OPTIONS", 405)])
def test_other_methods_of_a_short_way_are_answered_as_ever(method, status):
    world = World()
    world.enrol("rita", Role.REQUESTOR)
    answer = world.ask("rita", method, "certificates")
    assert (status, b"") == (answer.status_code, answer.content if method == "HEAD" else b"")
