"""`chancery up`, `down` and `status`: the whole suite on one machine."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import structlog
import typer
from rich.console import Console

from chancery.cli import bootstrap, enrol, guide, health, layout, listening, log, programs, supervisor
from chancery.cli.api_client import Client, read_config
from chancery.cli.commands_management import remote_pairs, remote_status
from chancery.cli.layout import Layout
from chancery.cli.show import JSONOption, show_json, show_pairs, working
from chancery.cli.suite import Suite, read_suite
from chancery.config import decode_hook, encode
from chancery.errors import OperatorError
from chancery.pkcs11 import find_softhsm_module

State = Annotated[Path, typer.Option(help="The directory that holds everything of this installation.")]
SOFTWARE_KEYS = "WARNING: no `module` is configured: keys are in software tokens that no hardware guards"
START_SECONDS, STOP_SECONDS = 60.0, 60.0
RENEW_SECONDS = 6 * 3600.0


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command()(renew)
    app.command(hidden=True)(supervise)


def up(
    state: State = Path("var"),
    *,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay, and log to standard output.")] = False,
    organization: Annotated[
        str | None, typer.Option(help="Name in the CA certificates (first start only).")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Host name in URLs (first start only).")] = None,
    ca_port: Annotated[int | None, typer.Option(help="Port of the CA (first start only).")] = None,
    ocsp_port: Annotated[int | None, typer.Option(help="Port of OCSP and repository (first start only).")] = None,
    tsa_port: Annotated[
        int | None, typer.Option(help="Port of the timestamping authority (first start only).")
    ] = None,
) -> None:
    """Bring up the whole suite: database, tokens, CAs, first certificates, processes. Idempotent."""
    console = Console(soft_wrap=True, highlight=False)
    place = Layout(state.resolve())
    began = time.monotonic()
    chosen = {
        "organization": organization,
        "host": host,
        "ca_port": ca_port,
        "ocsp_port": ocsp_port,
        "tsa_port": tsa_port,
    }
    suite = _suite(place, {key: value for key, value in chosen.items() if value is not None})

    def alive() -> bool:
        return supervisor.running(place)

    bootstrap.check_owner(place)
    with supervisor.starting(place):
        if not alive():
            # What a supervisor that was killed has left ends a moment later.
            listening.check(suite, f"change {{setting}} in {place.suite}", supervisor.STOP_SECONDS)
            bootstrap.run(place, suite, console)
            if not foreground:
                with working(console, "database"):
                    alive = _start_supervisor(place)
        elif foreground:
            raise OperatorError(f"the suite in {place.state} already runs", "stop it first with `chancery down`")
    if foreground:
        console.print(guide.text(place, suite), markup=False)
        supervise(state)
        return
    with working(console, "waiting until every process is healthy"):
        health.wait(place, suite, START_SECONDS, alive)
    console.print(f"every process is healthy after {time.monotonic() - began:.1f} s", markup=False)
    if suite.module is None:
        console.print(SOFTWARE_KEYS, markup=False)
    console.print(guide.text(place, suite), markup=False)


def _suite(place: Layout, chosen: dict[str, object]) -> Suite:
    """Read the installation's settings, or make them on the first start. Later changes go into the file."""
    if place.suite.exists():
        suite = read_suite(place)
        changed = sorted(key for key, value in chosen.items() if getattr(suite, key) != value)
        if changed:
            options = " and ".join(listening.option(key) for key in changed)
            raise OperatorError(
                f"what {options} says cannot change after the first start: certificates carry it",
                f"start without it, or with another --state than {place.state}"
                f" (a port is changed in {place.suite}: what is issued later carries the new one)",
            )
        return suite
    module = find_softhsm_module()
    if module is None:
        raise OperatorError("no SoftHSM2 module is installed", "run `apt-get install softhsm2` and start again")
    try:
        suite = msgspec.convert({"module": str(module), **chosen}, Suite, dec_hook=decode_hook)
    except msgspec.ValidationError as error:
        raise OperatorError(f"the settings are wrong: {error}", "correct the option and start again") from None
    listening.check(suite, "choose another with {option}")
    place.state.mkdir(mode=0o755, parents=True, exist_ok=True)
    layout.write_public(place.suite, encode(suite))
    return suite


def _start_supervisor(place: Layout) -> Callable[[], bool]:
    """Start it in the background; return a function that tells whether it still runs."""
    place.log.parent.mkdir(exist_ok=True)
    with place.log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - this same program
            [*layout.program(), "supervise", "--state", str(place.state)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
        )
    # Whoever asks next finds it running.
    while process.poll() is None and not supervisor.running(place):
        time.sleep(0.02)
    return lambda: process.poll() is None


def supervise(state: State = Path("var")) -> None:
    """Run the processes of a bootstrapped installation, in the foreground."""
    place = Layout(state.resolve())
    log.configure("supervisor")
    suite = read_suite(place)
    words = (*layout.program(), "renew", "--state", str(place.state))
    renewal = supervisor.Chore("renew", words, RENEW_SECONDS, at_once=not programs.is_first(place))
    supervisor.Supervisor(place, programs.programs(place, suite), None, [renewal]).run()


def renew(state: State = Path("var")) -> None:
    """Renew what has less than a third of its life left of the installation's own certificates."""
    place = Layout(state.resolve())
    log.configure("renew")
    renewed = enrol.ensure(place, read_suite(place))
    structlog.get_logger().info("renewed", purposes=renewed)


def down(state: State = Path("var")) -> None:
    """Stop everything that `chancery up` started; the state is kept."""
    console = Console(soft_wrap=True, highlight=False)
    place = Layout(state.resolve())
    if not supervisor.running(place):
        console.print(f"nothing runs in {place.state}", markup=False)
        return
    # The lock is held before the state is written, so wait for the pid.
    pid = _wait_for_pid(place)
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError:
        raise OperatorError(
            f"the suite in {place.state} was started by another account", "run `chancery down` as that, or as root"
        ) from None
    deadline = time.monotonic() + STOP_SECONDS
    with working(console, "stopping"):
        while supervisor.running(place):
            if time.monotonic() > deadline:
                raise OperatorError(f"the supervisor {pid} does not stop", f"look at {place.log}, then kill {pid}")
            time.sleep(0.05)
    console.print("stopped; the state is kept", markup=False)


def _wait_for_pid(place: Layout) -> int:
    for _ in range(50):
        if isinstance(pid := supervisor.state(place).get("pid"), int):
            return pid
        time.sleep(0.1)
    raise OperatorError("the supervisor does not say which process it is", f"look at {place.log}")


def status(state: State = Path("var"), *, as_json: JSONOption = False) -> None:
    """Say how every process of this machine is, what waits, what was issued, and how fresh the CRLs are."""
    place = Layout(state.resolve())
    if not supervisor.running(place):
        raise OperatorError(f"nothing runs in {place.state}", f"start it with: chancery up --state {state}")
    suite = read_suite(place)
    answers, warnings = health.look(place, suite), health.warnings(suite)
    remote: dict[str, Any] = {}
    if answers["ca"] is None and os.access(place.client, os.R_OK):
        client = Client(read_config(place.client))
        try:
            remote = remote_status(client)
        finally:
            client.close()
    if as_json:
        processes = {name: answer or "healthy" for name, answer in answers.items()}
        show_json({"processes": processes, "warnings": warnings, "ca": remote})
    else:
        pairs = [(name, answer or "healthy") for name, answer in answers.items()]
        told = [("warning", one) for one in warnings]
        show_pairs([*pairs, *(remote_pairs(remote) if remote else ()), *told])
    if any(answers.values()):
        raise typer.Exit(1)
