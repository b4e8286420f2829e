"""SoftHSM2 where there is no hardware: one directory per role, with its own configuration and its own token."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec

from chancery.errors import OperatorError
from chancery.pkcs11.module import locked

_USUAL_PLACES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)


class Order(msgspec.Struct, frozen=True):
    """What to do: make the token, or (without `so_pin`) see whether the user PIN opens it."""

    library: str
    conf: str
    label: str
    so_pin: bytes | None
    user_pin: bytes


class Preparation(msgspec.Struct, frozen=True):
    """What `prepare_softhsm` is to be called with; whoever carries it out reads the user PIN from its file."""

    directory: str
    label: str
    so_pin: bytes
    pin_file: str
    library: str


class Outcome(msgspec.Struct, frozen=True):
    """What became of it; both None when all is well."""

    what: str | None = None
    next_step: str | None = None


def find_softhsm_module() -> str | None:
    """Return the path of SoftHSM's library where a distribution puts it, or None."""
    return next((path for path in _USUAL_PLACES if Path(path).is_file()), None)


def prepare_softhsm(directory: Path, label: str, so_pin: bytes, user_pin: bytes, *, library: str) -> Path:
    """
    Make sure that `directory` holds a SoftHSM token with this label and user PIN; return its softhsm2.conf.

    Idempotent, and safe to kill at any point: the token is made in `tokens.new` and appears as `tokens` by
    one rename, complete and with its PIN. A token that is there is never made anew; its label and PIN are
    checked. Raises OperatorError when they differ, or the library does not do it. Directories are 0700.
    """
    if not 0 < len(label.encode()) <= 32:
        raise OperatorError(f"the token label `{label}` is empty or longer than 32 octets", "choose a shorter one")
    directory = directory.absolute()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    conf, tokens = directory / "softhsm2.conf", directory / "tokens"
    with locked(directory):
        if not tokens.is_dir() or not any(tokens.iterdir()):
            if conf.exists():  # it is written last: there was a token, and another would not hold its keys
                raise OperatorError(
                    f"{conf} is there but its token in {tokens} is gone",
                    "restore the token from the backup; only to begin without its keys, delete the configuration",
                )
            _make(directory, tokens, Order(library, "", label, so_pin, user_pin))
        _write_conf(conf, tokens)
        _run(Order(library, str(conf), label, None, user_pin))
    return conf


def _make(directory: Path, tokens: Path, order: Order) -> None:
    fresh, conf = directory / "tokens.new", directory / "softhsm2.new.conf"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    _write_conf(conf, fresh)
    _run(msgspec.structs.replace(order, conf=str(conf)))
    for path in [*fresh.rglob("*"), fresh]:
        _sync(path)
    fresh.rename(tokens)
    _sync(directory)
    conf.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_conf(conf: Path, tokens: Path) -> None:
    """Write the configuration unless it stands already: its inode is what logins lock."""
    text = (
        "# The SoftHSM2 token of one Chancery process; see softhsm2.conf(5).\n"
        f"directories.tokendir = {tokens}\nobjectstore.backend = file\n"
        "slots.removable = false\nlog.level = ERROR\n"
    )
    if conf.is_file() and conf.read_text() == text:
        return
    fresh = conf.with_suffix(".tmp")
    fresh.write_text(text)
    fresh.chmod(0o600)
    fresh.rename(conf)


def prepare_softhsm_as(account: tuple[int, int] | None, preparation: Preparation) -> None:
    """
    `prepare_softhsm` in a process of its own, as an account (uid, gid) that owns the directory; None is ours.

    Raises as it does. The account gets no more of the environment than what finds the programs.
    """
    environment = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
    _carry_out("prepare", preparation, environment, account)


def _run(order: Order) -> None:
    """Start `chancery.pkcs11.initialise` for this order, with the PINs on its standard input."""
    _carry_out("initialise", order, {**os.environ, "SOFTHSM2_CONF": order.conf})


def _carry_out(
    word: str,
    order: Order | Preparation,
    environment: dict[str, str],
    account: tuple[int, int] | None = None,
) -> None:
    done = subprocess.run(  # noqa: S603 - this same program
        [sys.executable, "-P", "-m", "chancery.pkcs11.initialise", word],
        input=msgspec.json.encode(order),
        capture_output=True,
        check=False,
        cwd="/",
        env={**environment, "PYTHONPATH": str(Path(__file__).parents[2])},
        umask=0o077,
        user=account[0] if account else None,
        group=account[1] if account else None,
        extra_groups=[] if account else None,
    )
    try:
        outcome = msgspec.json.decode(done.stdout, type=Outcome)
    except msgspec.DecodeError:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise OperatorError(
            f"SoftHSM's token could not be prepared (exit {done.returncode}: {said})",
            f"check that {order.library} is SoftHSM2 and loads (ldd)",
        ) from None
    if outcome.what is not None:
        raise OperatorError(outcome.what, outcome.next_step or "")
