"""Hosts of a site on one machine: a network namespace each, with files and accounts of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pwd
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OWN = ("/etc", "/run", "/var/lib")
"""What each host has for itself; everything else is the machine's."""
READY_SECONDS = 60.0


class LabError(AssertionError):
    """A command of the lab failed."""


def sh(*words: object, **more: object) -> str:
    """Run a command; its output, or LabError with all that it said."""
    done = subprocess.run([str(word) for word in words], capture_output=True, check=False, **more)
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace")
        raise LabError(f"{' '.join(map(str, words))}: exit {done.returncode}\n{said}")
    return done.stdout.decode()


def wait_for(what: str, test, seconds: float = READY_SECONDS) -> None:
    """Wait until a function says yes."""
    until = time.monotonic() + seconds
    while not test():
        if time.monotonic() > until:
            raise LabError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.05)


@dataclasses.dataclass(frozen=True)
class Unit:
    """What a unit file says that matters here: the lab has no systemd, but runs what systemd would."""

    name: str
    user: str
    command: list[str]
    before: list[list[str]]
    environment: dict[str, str]
    state: list[tuple[str, int]]
    runtime: list[tuple[str, int]]
    credentials: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Unit:
        """Read a rendered unit."""
        pairs = [line.split("=", 1) for line in path.read_text().splitlines() if "=" in line]

        def all_of(key: str) -> list[str]:
            return [value for name, value in pairs if name == key]

        def places(kind: str) -> list[tuple[str, int]]:
            modes = all_of(f"{kind}DirectoryMode") or ["0755"]
            return [(name, int(modes[0], 8)) for name in all_of(f"{kind}Directory")]

        return cls(
            name=path.stem,
            user=all_of("User")[0],
            command=all_of("ExecStart")[0].split(),
            before=[one.lstrip("-").split() for one in all_of("ExecStartPre")],
            environment=dict(one.split("=", 1) for one in all_of("Environment")),
            state=places("State"),
            runtime=places("Runtime"),
            credentials=dict(one.split(":", 1) for one in all_of("LoadCredential")),
        )


class Machine:
    """One host: a network namespace and a mount namespace, held by a process that does nothing else."""

    def __init__(self, name: str, namespace: str, files: Path) -> None:
        self.name = name
        self.namespace = namespace
        self.files = files
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._holder: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Make the namespaces."""
        sh("ip", "netns", "add", self.namespace)
        for place in OWN:
            own = self.files / place.lstrip("/")
            own.parent.mkdir(parents=True, exist_ok=True)
            if place == "/etc":
                sh("cp", "-a", "/etc", own)
            else:
                own.mkdir(parents=True, exist_ok=True)
        binds = "".join(f"mount --bind {self.files}{place} {place} && " for place in OWN)
        script = f"{binds} echo ready && exec sleep infinity"
        words = ["ip", "netns", "exec", self.namespace, "unshare", "--mount", "--propagation", "private"]
        self._holder = subprocess.Popen(
            [*words, "sh", "-c", script], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        assert self._holder.stdout is not None
        said = self._holder.stdout.readline()
        self._holder.stdout.close()
        if said != b"ready\n":
            raise LabError(f"{self.name}: no mount namespace of its own")
        self.run("ip", "link", "set", "lo", "up")

    def words(self, command: Sequence[object], user: str = "root", environment: Mapping[str, str] | None = None):
        """Return the words that run a command on this host as an account, with no rights but that account's."""
        assert self._holder is not None
        inside = [
            "nsenter",
            f"--net=/run/netns/{self.namespace}",
            f"--mount=/proc/{self._holder.pid}/ns/mnt",
            "--wd=/",
        ]
        if user != "root":
            entry = pwd.getpwnam(user)
            inside += ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
            inside += ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        given = {"PATH": PATH, "LANG": "C.UTF-8", **(environment or {})}
        return [*inside, "env", "-i", *(f"{key}={value}" for key, value in given.items()), *map(str, command)]

    def run(self, *command: object, user: str = "root", data: bytes | None = None, **environment: str) -> str:
        """Run a command on this host."""
        return sh(*self.words(command, user, environment), input=data)

    def tries(
        self, *command: object, user: str = "root", **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command on this host that may fail."""
        words = self.words(command, user, environment)
        return subprocess.run(words, capture_output=True, check=False, stdin=subprocess.DEVNULL)

    def at(self, path: str) -> Path:
        """Return where the lab keeps a path of this host."""
        assert path.startswith(OWN)
        return self.files / path.lstrip("/")

    def start(self, unit: Unit) -> None:
        """Start what a unit file says, with the account, directories and credentials that systemd would give."""
        entry = pwd.getpwnam(unit.user)
        for base, places in (("/var/lib", unit.state), ("/run", unit.runtime)):
            for name, mode in places:
                self.own(f"{base}/{name}", mode, entry)
        environment = dict(unit.environment)
        for name, source in unit.credentials.items():
            folder = self.own(f"/run/credentials/{unit.name}", 0o500, entry)
            copy = folder / name
            copy.unlink(missing_ok=True)
            shutil.copy(self.at(source), copy)
            copy.chmod(0o400)
            os.chown(copy, entry.pw_uid, entry.pw_gid)
            environment["CREDENTIALS_DIRECTORY"] = f"/run/credentials/{unit.name}"
        for words in unit.before:
            self.tries(*words, user=unit.user)
        self.spawn(unit.name, unit.command, unit.user, environment)

    def own(self, path: str, mode: int, entry: pwd.struct_passwd) -> Path:
        """Make a directory of an account."""
        folder = self.at(path)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        return folder

    def spawn(self, name: str, command: Sequence[object], user: str, environment: Mapping[str, str]) -> None:
        """Start a process of this host; its output is in the lab's files."""
        with (self.files / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self.words(command, user, environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                umask=0o077,
                start_new_session=True,
            )

    def said(self, name: str) -> str:
        """Return what a process of this host has written."""
        return (self.files / f"{name}.log").read_text(errors="replace")

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End a process of this host."""
        process = self.processes.pop(name)
        process.send_signal(how)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def end(self) -> None:
        """End every process of this host, and the namespaces."""
        for process in self.processes.values():
            process.kill()
            process.wait()
        for pid in sh("ip", "netns", "pids", self.namespace).split():  # children of theirs
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        if self._holder is not None:
            self._holder.kill()
            self._holder.wait()
        subprocess.run(["ip", "netns", "del", self.namespace], check=False, capture_output=True)

    def listens(self, port: int) -> bool:
        """Tell whether something listens on a TCP port of this host."""
        return bool(re.search(rf":{port}\b", self.run("ss", "-H", "-l", "-n", "-t", f"sport = :{port}")))
