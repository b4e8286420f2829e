"""R23: what chronyd says of the clock: a real one, killed; packets as it sends them; all that it may not say."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chancery.cli.chrony import ChronyTimeSource, interpret
from chancery.cli.clock import SystemClock, SystemEntropy, time_source
from chancery.errors import OperatorError, PKIError
from chancery.tsa.timekeeping import ClockGuard, Leap, TimeState
from fakes import FakeClock, FakeEntropy
from unit.tsa.test_tsa_ntp import SECOND, Server

# What chronyd 4.3 answered soon after its start. chronyc said in the same second: stratum 3, leap status normal,
# system time 0.000029367 seconds slow of NTP time, root delay 0.000214142 s, root dispersion 0.861774504 s.
GOLDEN = bytes.fromhex(
    "060200000021000500000000000000000102030400000000000000007f0000017f0000010000000000000000000000000001"
    "000000030000000000006b05da2133642642e4f65888df1bab59dee454a70000000015665ef72af42400eae08b4e02d826d6"
    "f8a3d8b6"
)
SEQUENCE = int.from_bytes(GOLDEN[16:20], "big")


def changed(**fields) -> bytes:
    """The golden packet with octets at an offset (`at_52=…`) in their place."""
    found = bytearray(GOLDEN)
    for name, value in fields.items():
        place = int(name.removeprefix("at_"))
        found[place : place + len(value)] = value
    return bytes(found)


def test_a_golden_answer_of_chronyd_is_understood():
    found = interpret(GOLDEN, SEQUENCE)
    assert found.synchronised
    assert (Leap.NONE, "7F000001, stratum 3") == (found.leap, found.reference)
    assert "0.000029367" == f"{found.correction_s:.9f}"
    assert 0.84 < found.uncertainty_s < 0.861774504 + 0.000214142 / 2
    assert 104 == len(GOLDEN)


@pytest.mark.parametrize(
    ("packet", "synchronised", "leap"),
    [
        (changed(at_54=b"\x00\x01"), True, Leap.INSERT),
        (changed(at_54=b"\x00\x02"), True, Leap.DELETE),
        (changed(at_54=b"\x00\x03"), False, Leap.NONE),
        (changed(at_52=b"\x00\x00"), False, Leap.NONE),
        (changed(at_52=b"\x00\x10"), False, Leap.NONE),
        (changed(at_28=b"\x7f\x7f\x01\x01"), False, Leap.NONE),  # the `local` directive
    ],
)
def test_r23_chronyd_without_a_source_is_not_synchronised(packet, synchronised, leap):
    found = interpret(packet, SEQUENCE)
    assert (synchronised, leap) == (found.synchronised, found.leap)


@pytest.mark.parametrize(
    "packet",
    [
        GOLDEN[:-1],
        changed(at_0=b"\x05"),
        changed(at_1=b"\x01"),
        changed(at_4=b"\x00\x22"),
        changed(at_6=b"\x00\x01"),
        changed(at_8=b"\x00\x02"),
        changed(at_16=b"\x00\x00\x00\x00"),
    ],
)
def test_what_is_no_answer_to_the_question_is_refused(packet):
    with pytest.raises(ValueError, match=r"tracking|question|refuses"):
        interpret(packet, SEQUENCE)


@given(st.binary(max_size=128))
def test_any_datagram_is_a_report_or_a_value_error(data):
    try:
        interpret(GOLDEN[:28] + data, SEQUENCE)
    except ValueError:
        assert len(data) < 76


@pytest.mark.parametrize("where", ["192.0.2.1:323", "localhost:323", "0.0.0.0:323", "here"])
def test_r23_only_this_machine_is_asked(where):
    with pytest.raises(OperatorError, match="machine"):
        ChronyTimeSource(SystemClock(), SystemEntropy(), where)


class Daemon:
    """Something that answers as chronyd does, with what the test gives it."""

    def __init__(self) -> None:
        self.answer = GOLDEN
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.name = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.asked: list[bytes] = []
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while (got := self.socket.recvfrom(512))[0] != b"stop":
            self.asked.append(got[0])
            if self.answer is not None:
                sequence = got[0][8:12]
                self.socket.sendto(self.answer[:16] + sequence + self.answer[20:], got[1])

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.sendto(b"stop", self.socket.getsockname())
        self.thread.join()
        self.socket.close()


@pytest.fixture
def daemon():
    made = Daemon()
    yield made
    made.close()


def test_r23_after_a_jump_chronyd_must_have_heard_of_its_servers_since(daemon):
    clock = FakeClock()
    guard = ClockGuard(clock, ChronyTimeSource(clock, FakeEntropy(), daemon.name), accuracy=SECOND)

    def measure(update: bytes) -> TimeState:
        clock.advance(1)
        daemon.answer = changed(at_64=update)
        return guard.observe(*guard.measure()).state

    assert TimeState.FIT is measure(b"\0\0\0\1")
    clock.time += 3 * SECOND
    with pytest.raises(PKIError):
        guard.now()
    # The update that it tells of first may have been before the jump; so may the one after the question before.
    assert [TimeState.LOST] * 3 == [measure(b"\0\0\0\1"), measure(b"\0\0\0\1"), measure(b"\0\0\0\1")]
    assert TimeState.FIT is measure(b"\0\0\0\2")
    clock.time += 3 * SECOND
    with pytest.raises(PKIError):
        guard.now()
    assert TimeState.LOST is measure(b"\0\0\0\3")
    assert TimeState.FIT is measure(b"\0\0\0\4")
    assert {104} == {len(question) for question in daemon.asked}


@pytest.mark.parametrize("answer", [None, GOLDEN[:50], changed(at_8=b"\x00\x02")])
def test_r23_a_daemon_that_says_nothing_or_nonsense_loses_the_clock(daemon, answer):
    clock = SystemClock()
    guard = ClockGuard(
        clock, ChronyTimeSource(clock, SystemEntropy(), daemon.name, timeout_s=0.1), accuracy=SECOND
    )
    assert TimeState.FIT is guard.observe(*guard.measure()).state
    daemon.answer = answer
    status = guard.observe(*guard.measure())
    assert TimeState.LOST is status.state
    assert "failed" in status.source


@pytest.fixture
def chronyd(tmp_path):
    """A chronyd that follows a server of the test's own and leaves the clock alone: its port and process."""
    server = Server(SystemClock())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    host, _, ntp = server.name.partition(":")
    configuration = tmp_path / "chrony.conf"
    configuration.write_text(
        f"server {host} port {ntp} minpoll -4 maxpoll -4 iburst\ncmdport {port}\nbindcmdaddress 127.0.0.1\n"
        f"bindcmdaddress /\nport 0\npidfile {tmp_path}/pid\n"
    )
    program = shutil.which("chronyd", path=f"{os.environ['PATH']}:/usr/sbin")
    user = pwd.getpwuid(os.getuid()).pw_name
    with subprocess.Popen(
        [program, "-x", "-U", "-u", user, "-n", "-f", configuration],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield port, process
        finally:
            process.kill()
            server.close()
            server.socket.close()


def test_r23_a_real_chronyd_makes_the_clock_fit_and_its_death_loses_it(chronyd):
    port, process = chronyd
    clock = SystemClock()
    source = time_source("chrony", command_port=f"127.0.0.1:{port}", production=True)
    guard = ClockGuard(clock, source, accuracy=SECOND)
    for _ in range(400):
        status = guard.observe(*guard.measure())
        if status.state is TimeState.FIT:
            break
        time.sleep(0.05)
    assert TimeState.FIT is status.state
    assert status.source.startswith("chrony: 7F000001, stratum 3")
    assert abs(status.offset_s) + status.uncertainty_s < 1
    assert abs(guard.now() - clock.now()) < SECOND
    process.kill()
    process.wait()
    status = guard.observe(*guard.measure())
    assert TimeState.LOST is status.state
    with pytest.raises(PKIError, match="not known"):
        guard.now()
