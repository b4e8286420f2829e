"""The hot HTTP server over real sockets: order, bounds, bad input, endings."""

from __future__ import annotations

import asyncio
import functools
import random
import socket
import struct
from collections.abc import Callable

import hypothesis
import pytest
import uvloop
from hypothesis import strategies as st

from chancery.web.hot import Answer, HotServer, Limits, Request, serve, text, to_wire
from fakes import FakeClock

# Two event loops, because the one that serves is uvloop and the one that everybody has is asyncio's.
LOOPS = {"asyncio": asyncio.run, "uvloop": uvloop.run}
SHORT = Limits(
    max_body=1000,
    max_target=200,
    max_header_bytes=1000,
    max_headers=10,
    header_timeout=0.2,
    body_timeout=0.2,
    idle_timeout=0.3,
    max_connections=5,
    max_pipelined=4,
    max_inflight=3,
)


class Site:
    """A handler with slow, broken and large answers; `gate` holds the slow ones."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.seen: list[Request] = []
        self.large = to_wire(Answer(200, "application/octet-stream", bytes(4_000_000)))

    def __call__(self, request: Request):
        self.seen.append(request)
        if request.target.startswith(b"/slow"):
            return self.slow(request)
        if request.target == b"/large":
            return self.large
        if request.target == b"/boom":
            raise RuntimeError("secret detail")
        if request.target == b"/header":
            return Answer(200, "text/plain", b"", (("X", "a\r\nSet-Cookie: b"),))
        if request.target == b"/wire":
            return to_wire(Answer(200, "text/plain", b"prepared"))
        return Answer(200, "text/plain", request.method + b" " + request.target + b" " + request.body)

    async def slow(self, request: Request):
        await self.gate.wait()
        if request.target == b"/slow-boom":
            raise RuntimeError("secret detail")
        return Answer(200, "text/plain", request.target)


async def exchange(server: HotServer, data: bytes, *, half_close: bool = False) -> bytes:
    """Send octets and read until the server ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(data)
        await writer.drain()
        if half_close:
            writer.write_eof()
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return b"reset"
    finally:
        writer.close()


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for happens inside the server
        await asyncio.sleep(0.005)


def answers(data: bytes) -> list[tuple[int, bytes]]:
    """Take a byte stream apart into (status, body)."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in lines[1:])
        size = int(fields.get(b"content-length", b"0"))
        found.append((int(lines[0].split()[1]), data[:size]))
        data = data[size:]
    return found


def on_server(limits: Limits = SHORT, loops=tuple(LOOPS), **more):
    """Make a coroutine that takes (server, site) into a test, once per event loop."""

    def decorate(test):
        @pytest.mark.parametrize("loop", loops)
        def run(loop: str) -> None:
            async def main() -> None:
                site = Site()
                server = await serve(site, "127.0.0.1", 0, limits=limits, **more)
                try:
                    await test(server, site)
                finally:
                    site.gate.set()
                    await server.close(2)
                assert (0, 0) == (server.connections, server.inflight)

            LOOPS[loop](main())

        functools.update_wrapper(run, test, assigned=("__name__", "__doc__", "__module__"))
        del run.__wrapped__
        return run

    return decorate


HEAD = b"Host: here\r\n"
CLOSE = HEAD + b"Connection: close\r\n"


def ask(target: bytes = b"/", method: bytes = b"GET", fields: bytes = HEAD, version: bytes = b"1.1") -> bytes:
    return b"%b %b HTTP/%b\r\n%b\r\n" % (method, target, version, fields)


# -- plain use


@on_server()
async def test_requests_and_answers(server, site):
    posted = (
        ask(b"/p?q", b"POST", CLOSE + b'Content-Length: 3\r\nContent-Type: x/y\r\nIf-None-Match: "a"\r\n') + b"abc"
    )
    assert [(200, b"POST /p?q abc")] == answers(await exchange(server, posted))
    expected = Request(b"POST", b"/p?q", b"abc", "127.0.0.1", b"x/y", b'"a"')
    assert [expected] == site.seen


@on_server()
async def test_a_connection_stays_and_answers_come_in_order(server, site):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for target in (b"/1", b"/wire", b"/2"):
        writer.write(ask(target))
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Connection" not in head
        await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r")[0]))
    writer.close()


@on_server()
async def test_pipelined_requests_are_answered_in_their_order_however_long_each_takes(server, site):
    data = b"".join(ask(target) for target in (b"/slow1", b"/2", b"/slow3", b"/wire")) + ask(b"/5", fields=CLOSE)
    task = asyncio.create_task(exchange(server, data))
    await until(lambda: len(site.seen) == 4)
    site.gate.set()
    bodies = [body for _, body in answers(await task)]
    assert [b"/slow1", b"GET /2 ", b"/slow3", b"prepared", b"GET /5 "] == bodies


@on_server()
async def test_many_pipelined_requests_wait_outside_and_all_are_answered(server, site):
    data = b"".join(ask(b"/%d" % n) for n in range(500)) + ask(b"/end", fields=CLOSE)
    assert [b"GET /%d " % n for n in range(500)] + [b"GET /end "] == [
        b for _, b in answers(await exchange(server, data))
    ]


@on_server()
async def test_at_most_so_many_requests_of_one_connection_are_worked_on(server, site):
    task = asyncio.create_task(exchange(server, ask(b"/slow") * 3 + ask(b"/x") * 50 + ask(b"/end", fields=CLOSE)))
    await until(lambda: len(site.seen) == 4)
    await asyncio.sleep(0.05)
    assert SHORT.max_pipelined == len(site.seen)
    site.gate.set()
    assert 54 == len(answers(await task))


@on_server()
async def test_too_many_handlers_in_flight_is_503(server, site):
    tasks = [asyncio.create_task(exchange(server, ask(b"/slow", fields=CLOSE))) for _ in range(5)]
    await until(lambda: len(site.seen) == 5)
    site.gate.set()
    heard = [answers(data)[0][0] for data in await asyncio.gather(*tasks)]
    assert [200, 200, 200, 503, 503] == sorted(heard)


@on_server()
async def test_http_1_0_is_answered_once_and_closed(server, site):
    for fields in (b"", HEAD, b"Connection: keep-alive\r\n"):
        assert [(200, b"GET / ")] == answers(await exchange(server, ask(fields=fields, version=b"1.0")))


@on_server()
async def test_head_has_the_fields_of_get_and_no_body(server, site):
    data = await exchange(server, ask(b"/abc", b"HEAD", CLOSE))
    assert data.endswith(b"Content-Length: 10\r\n\r\n")
    data = await exchange(server, ask(b"/large", b"HEAD", CLOSE))
    assert data.endswith(b"Content-Length: 4000000\r\n\r\n")


@on_server()
async def test_a_large_answer_arrives_whole_though_the_connection_closes(server, site):
    ((status, body),) = answers(await exchange(server, ask(b"/large", fields=CLOSE)))
    assert (200, 4_000_000) == (status, len(body))
    ((status, body),) = answers(await exchange(server, ask(b"/large", version=b"1.0", fields=b"")))
    assert (200, 4_000_000) == (status, len(body))


@on_server()
async def test_a_half_closed_peer_gets_its_answers(server, site):
    assert [(200, b"GET / ")] == answers(await exchange(server, ask(), half_close=True))
    task = asyncio.create_task(exchange(server, ask(b"/slow"), half_close=True))
    await asyncio.sleep(0.02)
    site.gate.set()
    assert [(200, b"/slow")] == answers(await task)


@on_server()
async def test_absolute_targets_lose_their_authority(server, site):
    for target, expected in ((b"http://there/x?y", b"GET /x?y "), (b"HTTP://there", b"GET / ")):
        assert [(200, expected)] == answers(await exchange(server, ask(target, fields=CLOSE)))


@on_server()
async def test_chunked_bodies_are_joined(server, site):
    fields = CLOSE + b"Transfer-Encoding: chunked\r\n"
    data = ask(method=b"POST", fields=fields) + b"3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nTrailer: x\r\n\r\n"
    assert [(200, b"POST / abcde")] == answers(await exchange(server, data))


@on_server()
async def test_a_trailer_is_no_header_field(server, site):
    """RFC 9110 6.5.1: a proxy that judges header fields may pass a trailer on, unread."""
    fields = CLOSE + b"Transfer-Encoding: chunked\r\n"
    trailers = b"Authorization: Bearer x\r\nContent-Type: a/b\r\nIf-None-Match: *\r\nHost: there\r\n"
    data = ask(method=b"POST", fields=fields) + b"3\r\nabc\r\n0\r\n" + trailers + b"\r\n"
    assert [(200, b"POST / abc")] == answers(await exchange(server, data))
    [found] = site.seen
    assert (None, None, None) == (found.authorization, found.content_type, found.if_none_match)


@on_server()
async def test_expect_100_continue(server, site):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(ask(method=b"POST", fields=CLOSE + b"Content-Length: 2\r\nExpect: 100-continue\r\n"))
    assert b"HTTP/1.1 100 Continue\r\n\r\n" == await reader.readuntil(b"\r\n\r\n")
    writer.write(b"ok")
    assert [(200, b"POST / ok")] == answers(await reader.read())
    writer.close()


@on_server()
async def test_an_offer_to_upgrade_is_passed_over(server, site):
    fields = HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n"
    data = ask(b"/1", fields=fields) + ask(b"/2", fields=CLOSE)
    assert [(200, b"GET /1 "), (200, b"GET /2 ")] == answers(await exchange(server, data))


@on_server(Limits())
async def test_the_body_of_a_request_that_offers_to_upgrade_is_no_request(server, site):
    """Java's client sends such requests; one hidden in a body would be answered to another (RFC 9112 11.2)."""
    hidden = ask(b"/hidden")
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n"
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(hidden), hidden)
    bodies = (
        (b"/1", HEAD, b"Content-Length: %d\r\n" % len(hidden), hidden),
        (b"/2", HEAD, b"Transfer-Encoding: chunked\r\n", chunk),
        (b"/3", HEAD, b"Content-Length: 0\r\n", b""),
        (b"/4", CLOSE, b"Content-Length: 2\r\n", b"ok"),
    )
    data = b"".join(
        ask(target, b"POST", head + upgrade + framing) + body for target, head, framing, body in bodies
    )
    data += hidden
    expected = [(200, b"POST /1 " + hidden), (200, b"POST /2 " + hidden), (200, b"POST /3 "), (200, b"POST /4 ok")]
    for step in (1, 7, len(data)):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for start in range(0, len(data), step):
            writer.write(data[start : start + step])
            await asyncio.sleep(0)
        assert expected == answers(await reader.read())
        writer.close()


@on_server()
async def test_an_offer_to_upgrade_does_not_loosen_the_framing(server, site):
    upgrade = HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
    for status, framing in (
        (400, b"Transfer-Encoding: gzip\r\n"),
        (400, b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        (413, b"Content-Length: 1001\r\n"),
    ):
        data = ask(b"/1", b"POST", upgrade + framing) + b"0\r\n\r\n" + ask(b"/hidden")
        assert [status] == [status for status, _ in answers(await exchange(server, data))]
    assert not site.seen


@on_server(clock=FakeClock())
async def test_with_a_clock_answers_carry_date(server, site):
    for target in (b"/", b"/wire", b"/large"):
        head = (await exchange(server, ask(target, fields=CLOSE))).partition(b"\r\n\r\n")[0]
        assert b"HTTP/1.1 200 OK\r\nDate: Tue, 24 Nov 2026 12:00:00 GMT\r\nConnection: close" in head


# -- failures of the handler


@on_server(on_error=lambda request: Answer(200, "text/plain", b"failed " + request.target))
async def test_a_handler_that_raises_gets_the_error_answer_and_the_server_goes_on(server, site):
    site.gate.set()
    for target in (b"/boom", b"/slow-boom", b"/header"):
        data = await exchange(server, ask(target, fields=CLOSE))
        assert [(200, b"failed " + target)] == answers(data)
        assert b"secret" not in data
    assert [(200, b"GET / ")] == answers(await exchange(server, ask(fields=CLOSE)))


@on_server()
async def test_without_an_error_answer_it_is_a_plain_500(server, site):
    data = await exchange(server, ask(b"/boom", fields=CLOSE))
    assert [(500, b"internal error\n")] == answers(data)


def test_a_header_field_with_a_line_break_is_refused():
    for field in (("X", "a\r\nY: b"), ("X\n", "a"), ("X", "\r")):
        with pytest.raises(ValueError, match="line break"):
            to_wire(Answer(200, "text/plain", b"", (field,)))


# -- bad input


def statuses(data: bytes) -> list[int]:
    return [status for status, _ in answers(data)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(ask(method=b"PUT"), 405, id="method"),
        pytest.param(ask(method=b"CONNECT", target=b"here:1"), 405, id="CONNECT"),
        pytest.param(ask(method=b"BREW"), 400, id="not a method"),
        pytest.param(ask(fields=b""), 400, id="no Host"),
        pytest.param(ask(fields=HEAD * 2), 400, id="two Hosts"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, id="TLS"),
        pytest.param(b"GET / HTTP/9.9\r\n\r\n", 400, id="version"),
        pytest.param(b"GET / HTTP/1.1\r\nHost here\r\n\r\n", 400, id="no colon"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", 400, id="NUL"),
        pytest.param(ask(b"/" + b"a" * 300), 414, id="target"),
        pytest.param(ask(fields=HEAD + b"X: " + b"a" * 2000 + b"\r\n"), 431, id="header"),
        pytest.param(ask(fields=HEAD + b"X: y\r\n" * 20), 431, id="header fields"),
        pytest.param(ask(method=b"POST", fields=HEAD + b"Content-Length: 1001\r\n"), 413, id="body"),
        pytest.param(ask(method=b"POST", fields=HEAD + b"Content-Length: 999999999999999999\r\n"), 413, id="huge"),
        pytest.param(ask(method=b"POST", fields=HEAD + b"Content-Length: -1\r\n"), 400, id="negative length"),
        pytest.param(
            ask(method=b"POST", fields=HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n"), 400, id="two lengths"
        ),
        pytest.param(
            ask(method=b"POST", fields=HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
            400,
            id="both",
        ),
        pytest.param(
            ask(method=b"POST", fields=HEAD + b"Transfer-Encoding: chunked\r\n") + b"3e9\r\n" + b"a" * 1001,
            413,
            id="chunked body",
        ),
        pytest.param(
            ask(method=b"POST", fields=HEAD + b"Transfer-Encoding: chunked\r\n") + b"xyz\r\n", 400, id="chunk size"
        ),
        pytest.param(ask(method=b"POST", fields=HEAD + b"Transfer-Encoding: gzip\r\n"), 400, id="coding"),
        pytest.param(
            ask(method=b"POST", fields=HEAD + b"Expect: magic\r\nContent-Length: 1\r\n"), 417, id="expectation"
        ),
    ],
)
def test_bad_input_is_answered_and_the_connection_closed(data, expected):
    @on_server(loops=("uvloop",))
    async def run(server, site):
        assert [expected] == statuses(await exchange(server, data))
        # What was asked before is answered before.
        assert [200, expected] == statuses(await exchange(server, ask() + data))
        assert [200] == statuses(await exchange(server, ask(fields=CLOSE)))

    run("uvloop")


@on_server()
async def test_a_header_field_without_end_is_431(server, site):
    assert [431] == statuses(await exchange(server, b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 5000))


@on_server(Limits(max_header_bytes=1000))
async def test_a_trailer_or_chunk_extension_without_end_is_431(server, site):
    """They do not count as body, and would be gathered for as long as a body may take."""
    head = ask(method=b"POST", fields=HEAD + b"Transfer-Encoding: chunked\r\n")
    for start in (b"1\r\na\r\n0\r\nX: ", b"1;a="):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head + start)
        await writer.drain()
        await until(lambda: server.connections == 1)
        for _ in range(3):
            writer.write(b"a" * 600)
            await writer.drain()
            await asyncio.sleep(0.02)
        assert [431] == statuses(await reader.read())
        writer.close()


@on_server()
async def test_a_request_cut_short_is_400(server, site):
    whole = ask(method=b"POST", fields=HEAD + b"Content-Length: 3\r\n") + b"abc"
    for end in (1, 10, len(whole) - 4, len(whole) - 1):
        assert [400] == statuses(await exchange(server, whole[:end], half_close=True))
    assert b"" == await exchange(server, b"", half_close=True)


@hypothesis.given(st.lists(st.binary(max_size=300), max_size=4), st.integers(0, 2**32))
@hypothesis.settings(max_examples=60, deadline=None)
def test_random_octets_leave_the_server_alive(chunks, seed):
    draw = random.Random(seed)

    async def main() -> None:
        server = await serve(Site(), "127.0.0.1", 0, limits=SHORT)
        start = (
            ask(method=b"POST", fields=HEAD + b"Transfer-Encoding: chunked\r\n") if draw.random() < 0.5 else b""
        )
        data = await exchange(server, start + b"".join(chunks), half_close=True)
        assert all(status in {200, 400, 405, 413, 414, 417, 431} for status in statuses(data))
        assert b"Traceback" not in data
        assert [200] == statuses(await exchange(server, ask(fields=CLOSE)))
        await server.close(1)

    uvloop.run(main())


# -- time and room


@pytest.mark.parametrize(
    "data", [b"G", b"GET / HTTP/1.1\r\nHost: ", ask(method=b"POST", fields=HEAD + b"Content-Length: 9\r\n")]
)
def test_who_stops_in_the_middle_hears_408(data):
    @on_server(loops=("uvloop",))
    async def run(server, site):
        assert [408] == statuses(await exchange(server, data))

    run("uvloop")


@on_server()
async def test_slow_loris_is_cut_off_however_steadily_it_drips(server, site):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\n")

    async def drip() -> None:
        while True:
            writer.write(b"X: y\r\n"[:3] + b"\r\n")
            await asyncio.sleep(0.05)

    task = asyncio.create_task(drip())
    assert [408] == statuses(await asyncio.wait_for(reader.read(), 10))
    task.cancel()
    writer.close()


@on_server()
async def test_idle_connections_are_closed_without_a_word(server, site):
    assert b"" == await exchange(server, b"")
    assert [200] == statuses(await exchange(server, ask()))


@on_server()
async def test_who_does_not_read_its_answer_is_cut_off(server, site):
    _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
    writer.write(ask(b"/large") * 4)
    await until(lambda: server.connections)
    await until(lambda: not server.connections)
    writer.close()


@on_server(limits=Limits(body_timeout=0.2, header_timeout=0.2, idle_timeout=0.2))
async def test_who_reads_slowly_but_steadily_gets_everything(server, site):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=64 * 1024)
    writer.write(ask(b"/large", fields=CLOSE))
    total = 0
    while data := await reader.read(256 * 1024):
        total += len(data)
        await asyncio.sleep(0.01)
    assert total > 4_000_000
    writer.close()


@on_server()
async def test_connections_beyond_the_limit_hear_503_and_far_beyond_nothing(server, site):
    held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(SHORT.max_connections)]
    for _, writer in held:
        writer.write(ask(b"/slow"))
    await until(lambda: server.inflight == SHORT.max_inflight)
    data = await exchange(server, b"")
    assert [503] == statuses(data)
    assert b"Retry-After: 1" in data
    more = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(4 * SHORT.max_connections)]
    await asyncio.sleep(0.05)
    assert server.connections <= 2 * SHORT.max_connections
    for _, writer in held + more:
        writer.close()


# -- endings


@on_server()
async def test_closing_lets_answers_in_flight_finish(server, site):
    busy = asyncio.create_task(exchange(server, ask(b"/slow")))
    idle = asyncio.create_task(exchange(server, b""))
    await until(lambda: site.seen)
    closing = asyncio.create_task(server.close(5))
    assert b"" == await idle
    assert not closing.done()
    site.gate.set()
    assert [200] == statuses(await busy)
    await closing
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", server.port)


@on_server()
async def test_closing_does_not_wait_for_ever(server, site):
    busy = asyncio.create_task(exchange(server, ask(b"/slow")))
    await until(lambda: site.seen)
    await server.close(0.1)
    assert [] == [status for status in statuses(await busy) if status == 200]


@on_server()
async def test_a_client_that_leaves_ends_its_handler(server, site):
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(ask(b"/slow"))
    await until(lambda: server.inflight)
    # A reset: an end of file could be a peer that has said all and still listens.
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    await until(lambda: not server.inflight)


@on_server(loops=("uvloop",), reuse_port=True)
async def test_several_servers_may_share_a_port(server, site):
    second = await serve(site, "127.0.0.1", server.port, reuse_port=True)
    assert [200] == statuses(await exchange(server, ask(fields=CLOSE)))
    await second.close()


def test_a_line_of_text():
    assert Answer(404, "text/plain; charset=utf-8", b"no\n", (("A", "b"),)) == text(404, "no", ("A", "b"))
