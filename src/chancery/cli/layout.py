"""Where everything of one machine's installation lives below its state directory, and as whom it runs."""

from __future__ import annotations

import dataclasses
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

from chancery.errors import OperatorError

TOKENS = ("offline", "issuing", "ocsp", "tsa")
PROCESSES = ("worker", "ca", "ocsp", "tsa")
DATABASE_ROLES = {
    "ca": "ra",
    "worker": "worker",
    "ocsp": "ocsp",
    "tsa": "tsa",
    "foreign": "foreign",
    "auditor": "auditor",
    "owner": "owner",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Account:
    """A system account that a process runs as."""

    name: str
    uid: int
    gid: int


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """Paths below the state directory. Nothing here touches the disk."""

    state: Path

    def __post_init__(self) -> None:
        if not self.state.is_absolute():
            raise ValueError("the state directory is given as an absolute path")

    def config(self, process: str) -> Path:
        return self.state / "conf" / f"{process}.toml"

    def token(self, role: str) -> Path:
        return self.state / "tokens" / role

    def database_password(self, role: str) -> Path:
        return self.state / "secrets" / f"db-{role}.password"

    @property
    def suite(self) -> Path:
        return self.state / "suite.toml"

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def admin(self) -> Path:
        return self.state / "admin"

    @property
    def tls(self) -> Path:
        return self.state / "tls"

    @property
    def offline(self) -> Path:
        return self.state / "offline"

    @property
    def run(self) -> Path:
        return self.state / "run"

    @property
    def log(self) -> Path:
        return self.state / "log" / "chancery.log"

    @property
    def database(self) -> Path:
        return self.state / "db"

    @property
    def client(self) -> Path:
        return self.admin / "client.toml"

    @property
    def tsa_label(self) -> Path:
        """The label of the timestamping key in use, once it is not the first."""
        return self.pki / "tsa.label"

    def service_request(self, label: str) -> Path:
        """The PKCS#10 request of a service's key; kept, as making it again needs that service's account."""
        return self.pki / f"{label}.csr"

    @property
    def request(self) -> Path:
        """The request bundle of the issuing CA."""
        return self.pki / "issuing.request"

    @property
    def response(self) -> Path:
        """The root's answer to it."""
        return self.pki / "issuing.response"

    @property
    def imported(self) -> Path:
        """Exists once that answer is in the database."""
        return self.run / "imported"


def accounts() -> dict[str, Account]:
    """
    Return one system account per process, made where missing, when running as root.

    Without root everything runs as the one account that called, and the dictionary is empty: keys are
    then kept apart by token, PIN and database role, not by account.
    """
    if os.geteuid() != 0:
        return {}
    return {process: _account(f"chancery-{process}") for process in PROCESSES}


def _account(name: str) -> Account:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        command = ["useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent"]
        shell = shutil.which("nologin", path="/usr/sbin:/sbin:/usr/bin") or "/bin/false"
        try:
            subprocess.run([*command, "--shell", shell, name], check=True, capture_output=True)  # noqa: S603 - fixed words
        except (OSError, subprocess.CalledProcessError) as error:
            raise OperatorError(
                f"the system account {name} cannot be made", f"run `useradd --system {name}` and start again"
            ) from error
        entry = pwd.getpwnam(name)
    return Account(name, entry.pw_uid, entry.pw_gid)


def private_directory(path: Path, account: Account | None = None) -> Path:
    """
    Make a directory that only its account can enter.

    The account may hold what is above it, so a link is never followed. OperatorError when it is no directory.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise OperatorError(
            f"{path} is no directory of its own: {error.strerror}", "see who put it there"
        ) from error
    try:
        os.fchmod(descriptor, 0o700)
        if account is not None:
            os.fchown(descriptor, account.uid, account.gid)
    finally:
        os.close(descriptor)
    return path


def write_private(path: Path, content: bytes, account: Account | None = None) -> None:
    """Write a file that only its account can read, whole or not at all, durable on return."""
    _write(path, content, 0o600, account)


def write_public(path: Path, content: bytes, account: Account | None = None) -> None:
    """Write a file that all may read, whole or not at all, durable on return."""
    _write(path, content, 0o644, account)


def _write(path: Path, content: bytes, mode: int, account: Account | None) -> None:
    # Whoever holds the directory may be somebody else, and have put links where root is about to write: the name
    # is not to be guessed, and is never one that is there.
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        os.fchmod(descriptor, mode)
        if account is not None:
            os.fchown(descriptor, account.uid, account.gid)
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(content)
        os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def environment() -> dict[str, str]:
    """What every process of the suite inherits: where programs are and how text is encoded, nothing else."""
    return {key: os.environ[key] for key in ("PATH", "LANG", "TZ", "PYTHONPATH") if key in os.environ}


def program() -> list[str]:
    """Return the words that start this same program again."""
    return [sys.executable, "-m", "chancery.cli.main"]
