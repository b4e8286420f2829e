"""Starts the processes of one machine, starts them again when they end, and stops them in order."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import fcntl
import functools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

import structlog

from chancery.cli.layout import Account, Layout, environment, write_public
from chancery.errors import HarmfulToRepeatError, OperatorError

BACK_OFF = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
SETTLED_SECONDS = 20.0
STOP_SECONDS = 15.0
HOPELESS = 4
"""Ends in a row after which a start is given up; the supervisor itself goes on trying."""
LOCK_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

log = structlog.get_logger()


@dataclasses.dataclass(frozen=True, slots=True)
class Program:
    """
    A process to keep running.

    `stop_signal` asks it to end in good order. `ready` blocks until what depends on it may start; it is given a
    function that keeps the process running meanwhile, and tells whether there is hope that it will.
    """

    name: str
    command: tuple[str, ...]
    account: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    ready: Callable[[Callable[[], bool]], None] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Chore:
    """A command to run now and then beside the programs; its failure is reported and nothing more."""

    name: str
    command: tuple[str, ...]
    every_seconds: float
    at_once: bool = False


class Child:
    """One program as it runs now."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.process: subprocess.Popen[bytes] | None = None
        self.restarts = 0
        self.failures = 0
        self.given_up = False
        self._started = 0.0
        self._not_before = 0.0

    def start(self, output: int | None) -> None:
        """Start it; it is told to stop if this process dies, however it dies."""
        program = self.program

        def die_with_parent() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, int(program.stop_signal))

        account = program.account
        self.process = subprocess.Popen(  # noqa: S603 - commands come from the composition root
            program.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            cwd="/",
            env=_environment(),
            umask=0o077,
            # One thread runs here, so nothing can be held across the fork.
            preexec_fn=die_with_parent,  # noqa: PLW1509 - see above
        )
        self._started = time.monotonic()

    def look(self) -> bool:
        """
        Note an exit, with a growing pause for repeated ones; tell whether the state changed.

        A process that says so by its exit code (a token refused its PIN) is left alone until the next `up`: each
        further start would be one wrong PIN more.
        """
        if self.process is None or self.process.poll() is None:
            return False
        if time.monotonic() - self._started > SETTLED_SECONDS:
            self.failures = 0
        code = self.process.returncode
        self.given_up = code == HarmfulToRepeatError.EXIT_CODE
        pause = None if self.given_up else BACK_OFF[min(self.failures, len(BACK_OFF) - 1)]
        self.failures += 1
        self.restarts += 1
        self._not_before = time.monotonic() + (pause or 0.0)
        log.error("process-ended", name=self.program.name, code=code, again_in_seconds=pause)
        self.process = None
        return True

    @property
    def hopeless(self) -> bool:
        """Whether it was given up, or ended so often in a row that nobody should wait for it."""
        return self.given_up or self.failures >= HOPELESS

    def due(self) -> bool:
        return self.process is None and not self.given_up and time.monotonic() >= self._not_before

    def stop(self) -> None:
        """Ask it to end; after `STOP_SECONDS` insist."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(self.program.stop_signal)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("process-killed", name=self.program.name, after_seconds=STOP_SECONDS)
            self.process.kill()
            self.process.wait()


def _environment() -> dict[str, str]:
    return {**environment(), "PYTHONUNBUFFERED": "1"}


class Supervisor:
    """Keeps the programs running, first to last; stops them last to first."""

    def __init__(
        self, layout: Layout, programs: Sequence[Program], output: int | None, chores: Sequence[Chore] = ()
    ) -> None:
        self._layout = layout
        now = time.monotonic()
        self._chores = {chore: now + (0.0 if chore.at_once else chore.every_seconds) for chore in chores}
        self._at_work: dict[Chore, subprocess.Popen[bytes]] = {}
        self._children = [Child(program) for program in programs]
        self._output = output
        self._stopping = False

    def run(self) -> None:
        """Run until SIGTERM or SIGINT. Raises OperatorError when another supervisor has this state directory."""
        with single(self._layout):
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._stop)
            try:
                self._start_all()
                while not self._stopping:
                    self._look()
                    self._do_chores()
                    time.sleep(0.1)
            finally:
                for process in self._at_work.values():
                    process.terminate()
                    process.wait()
                for child in reversed(self._children):
                    child.stop()
                log.info("stopped")
                self._layout.run.joinpath("supervisor.json").unlink(missing_ok=True)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        log.info("stopping", signal=signal.Signals(number).name)
        self._stopping = True

    def _start_all(self) -> None:
        for child in self._children:
            if self._stopping:
                return
            self._start(child)
            if child.program.ready is not None:
                child.program.ready(functools.partial(self._tend, child))

    def _tend(self, child: Child) -> bool:
        """Start a process again that ended while the others wait for it; tell whether there is hope left."""
        child.look()
        if child.due():
            self._start(child)
        return not self._stopping and not child.hopeless

    def _start(self, child: Child) -> None:
        child.start(self._output)
        assert child.process is not None
        log.info("process-started", name=child.program.name, pid=child.process.pid, restarts=child.restarts)
        self._write_state()

    def _look(self) -> None:
        for child in self._children:
            changed = child.look()
            if child.due():
                self._start(child)
            elif changed:
                self._write_state()

    def _do_chores(self) -> None:
        for chore, process in list(self._at_work.items()):
            if (code := process.poll()) is not None:
                del self._at_work[chore]
                (log.error if code else log.info)("chore-done", name=chore.name, code=code)
        for chore, due in self._chores.items():
            if time.monotonic() >= due and chore not in self._at_work:
                self._chores[chore] = time.monotonic() + chore.every_seconds
                self._at_work[chore] = subprocess.Popen(  # noqa: S603 - commands come from the composition root
                    chore.command,
                    stdin=subprocess.DEVNULL,
                    stdout=self._output,
                    stderr=self._output,
                    cwd="/",
                    env=_environment(),
                )

    def _write_state(self) -> None:
        state = {
            "pid": os.getpid(),
            "processes": {
                child.program.name: {
                    "pid": child.process.pid if child.process else None,
                    "restarts": child.restarts,
                    "failures": child.failures,
                    "hopeless": child.hopeless,
                }
                for child in self._children
            },
        }
        write_public(self._layout.run / "supervisor.json", json.dumps(state, sort_keys=True).encode())


@contextlib.contextmanager
def single(layout: Layout) -> Iterator[None]:
    """Hold the state directory's lock; OperatorError when somebody else does."""
    layout.run.mkdir(parents=True, exist_ok=True)
    with (layout.run / "supervisor.lock").open("w") as lock:
        deadline = time.monotonic() + LOCK_SECONDS
        while not _locked(lock, fcntl.LOCK_EX):
            # Who looks whether it runs holds the lock for a moment.
            if time.monotonic() > deadline:
                raise OperatorError(
                    f"the suite in {layout.state} is already running", "use `chancery down` to stop it"
                )
            time.sleep(0.01)
        yield


@contextlib.contextmanager
def starting(layout: Layout) -> Iterator[None]:
    """Hold the right to make and start what is in this state directory; waits while somebody else does it."""
    layout.run.mkdir(parents=True, exist_ok=True)
    with (layout.run / "start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _locked(lock: IO[str], how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def running(layout: Layout) -> bool:
    """Tell whether a supervisor holds this state directory."""
    path: Path = layout.run / "supervisor.lock"
    if not path.exists():
        return False
    with path.open("r") as lock:
        return not _locked(lock, fcntl.LOCK_SH)


def state(layout: Layout) -> dict[str, object]:
    """Return what the running supervisor last wrote, or an empty dictionary."""
    try:
        return dict(json.loads((layout.run / "supervisor.json").read_bytes()))
    except (OSError, ValueError):
        return {}
