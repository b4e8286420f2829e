"""What a first start meets on somebody's machine: taken ports, foreign paths, two starts at once."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import socket
import sys

import msgspec
import pytest
from rich.console import Console

from chancery.cli import bootstrap, layout, listening, main, programs, supervisor
from chancery.cli.layout import DATABASE_ROLES, Layout
from chancery.cli.show import working
from chancery.cli.suite import Suite
from chancery.errors import OperatorError
from suite import free_ports

INSTEAD = "choose another with {option} or {setting}"


def suite_on(*ports: int) -> Suite:
    return msgspec.convert(dict(zip(listening.PORTS, ports, strict=True)), Suite)


def test_free_ports_are_good():
    listening.check(suite_on(*free_ports(3)), INSTEAD)


def test_a_port_in_use_is_named_with_what_chooses_another():
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        ca, tsa = free_ports(2)
        with pytest.raises(OperatorError) as caught:
            listening.check(suite_on(ca, taken, tsa), INSTEAD)
    assert f"127.0.0.1 port {taken} (ocsp_port) cannot be had: Address already in use" == caught.value.what
    assert "choose another with --ocsp-port or ocsp_port" in caught.value.next_step


def test_one_port_cannot_be_two_things():
    one, other = free_ports(2)
    with pytest.raises(OperatorError, match=f"tsa_port and ca_port are both {one}"):
        listening.check(suite_on(one, other, one), INSTEAD)


def test_a_taken_port_stops_the_first_start_before_anything_is_made(tmp_path, monkeypatch, capsys):
    state = tmp_path / "var"
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert 1 == said(monkeypatch, "up", "--state", str(state), "--ca-port", port)
    assert f"port {port} (ca_port) cannot be had" in capsys.readouterr().err
    assert not state.exists()


def said(monkeypatch, *words: str) -> int | str | None:
    """The exit code of the command line."""
    monkeypatch.setattr(sys, "argv", ["chancery", *words])
    with pytest.raises(SystemExit) as ended:
        main.main()
    return ended.value.code


def test_a_state_that_is_a_file_is_two_lines_and_no_traceback(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    ports = [str(port) for port in free_ports(3)]
    options = ["--ca-port", ports[0], "--ocsp-port", ports[1], "--tsa-port", ports[2]]
    assert 1 == said(monkeypatch, "up", "--state", str(tmp_path / "file"), *options)
    first, second = capsys.readouterr().err.splitlines()
    assert f"chancery: {tmp_path / 'file'}: File exists" == first
    assert second.startswith("next: ")


def test_an_interrupt_before_any_command_runs_ends_as_a_shell_counts_it(monkeypatch):
    def interrupted(_word: str | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "command_line", interrupted)
    assert 128 + signal.SIGINT == said(monkeypatch, "status")


def _start(state, log, name: str) -> None:
    with supervisor.starting(Layout(state)):
        for _ in range(20):
            with log.open("a") as file:
                file.write(f"{name}\n")
            os.sched_yield()


def test_two_starts_of_one_state_wait_for_each_other(tmp_path):
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    starts = [context.Process(target=_start, args=(tmp_path / "var", log, name)) for name in "ab"]
    for one in starts:
        one.start()
    for one in starts:
        one.join()
    names = "".join(log.read_text().split())
    assert names in {"a" * 20 + "b" * 20, "b" * 20 + "a" * 20}


def test_who_looks_whether_it_runs_does_not_keep_it_from_running(tmp_path):
    place = Layout(tmp_path)
    place.run.mkdir()
    context = multiprocessing.get_context("fork")
    looking = context.Process(target=_look_forever, args=(place,))
    looking.start()
    try:
        for _ in range(300):
            with supervisor.single(place):
                assert supervisor.running(place)
    finally:
        looking.kill()
        looking.join()


def _look_forever(place: Layout) -> None:
    while True:
        supervisor.running(place)


def test_without_a_terminal_every_step_is_a_line():
    output = io.StringIO()
    with working(Console(file=output), "one") as step:
        step("two")
    assert "one …\ntwo …\n" == output.getvalue()


def test_an_installation_of_another_account_is_left_as_it_is(tmp_path):
    place = Layout(tmp_path)
    bootstrap.check_owner(place)
    place.admin.mkdir()
    bootstrap.check_owner(place)
    (tmp_path / "other").mkdir()
    # A directory that this account did not make: one of root, or, for root, one that it gave away.
    if os.geteuid() == 0:
        (tmp_path / "other" / "admin").mkdir()
        os.chown(tmp_path / "other" / "admin", 65534, 65534)
    else:
        (tmp_path / "other" / "admin").symlink_to("/")
    with pytest.raises(OperatorError, match="made the installation"):
        bootstrap.check_owner(Layout(tmp_path / "other"))


def test_the_settings_of_the_suite_are_checked_like_any_configuration(tmp_path, monkeypatch, capsys):
    file = tmp_path / "suite.toml"
    file.write_text('root_key = "ec"\n')
    assert 1 == said(monkeypatch, "check-config", str(file))
    assert "key `root_key`: Invalid enum value 'ec': expected one of ec-p256," in capsys.readouterr().err
    file.write_text('root_key = "ec-p384"\n')
    assert 0 == said(monkeypatch, "check-config", str(file))


def test_a_database_server_that_is_not_there_is_named_with_what_the_driver_said(tmp_path):
    place = Layout(tmp_path)
    for role in DATABASE_ROLES.values():
        place.database_password(role).parent.mkdir(exist_ok=True)
        layout.write_private(place.database_password(role), b"secret\n")
    port = free_ports(1)[0]
    settings = {"database": {"host": "127.0.0.1", "port": port, "admin": "boss"}}
    with pytest.raises(OperatorError) as caught:
        programs.programs(place, msgspec.convert(settings, Suite))
    assert "PostgreSQL on 127.0.0.1 is of no use to `boss`: " in caught.value.what
    assert "Connection refused" in caught.value.what


def test_an_address_that_this_machine_does_not_have_is_said():
    ports = dict(zip(listening.PORTS, free_ports(3), strict=True))
    suite = msgspec.convert({"address": "192.0.2.1", **ports}, Suite)
    with pytest.raises(OperatorError, match="Cannot assign requested address"):
        listening.check(suite, INSTEAD, seconds=60.0)
