"""The host that this runs on, looked at: files, systemd, sockets, nftables. And files put in their places."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from chancery.deploy.drift import Seen
from chancery.deploy.files import MANIFEST, Expected, File
from chancery.deploy.nftables import TABLE
from chancery.errors import OperatorError

_SECONDS = 30.0


class ThisHost:
    """The machine that this runs on; its files, or those of another that is mounted at `root`."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def file(self, path: str) -> Seen | None:
        """Return a file without following a link in its place."""
        try:
            descriptor = os.open(self._at(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError:
            return self._unread(path)
        with os.fdopen(descriptor, "rb") as opened:
            status = os.fstat(descriptor)
            content = opened.read() if stat.S_ISREG(status.st_mode) else None
        return Seen(content, stat.S_IMODE(status.st_mode), _user(status.st_uid), _group(status.st_gid))

    def _unread(self, path: str) -> Seen | None:
        try:
            status = self._at(path).lstat()
        except OSError:
            return None
        return Seen(None, stat.S_IMODE(status.st_mode), _user(status.st_uid), _group(status.st_gid))

    def _at(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def names(self, directory: str) -> list[str]:
        """Return every file below a directory by its path on the host."""
        place = self._at(directory)
        return sorted(
            "/" + str((Path(folder) / name).relative_to(self._root))
            for folder, _, names in os.walk(place)
            for name in names
        )

    def unit(self, name: str) -> str:
        """Ask systemd."""
        words = [_said(["systemctl", verb, name]).strip() or "unknown" for verb in ("is-enabled", "is-active")]
        return "/".join(words)

    def listening(self) -> list[str]:
        """Ask `ss`."""
        found = set()
        for line in _said(["ss", "-H", "-l", "-n", "-t", "-u"]).splitlines():
            protocol, _, _, _, local, *_ = line.split()
            address, _, port = local.rpartition(":")
            address = address.strip("[]").partition("%")[0]
            if not address.startswith("127.") and address not in {"::1", "::ffff:127.0.0.1"}:
                found.add(f"{protocol}/{'*' if address in {'0.0.0.0', '::', '*'} else address}/{port}")  # noqa: S104 - compared, not bound
        return sorted(found)

    def rules(self) -> str | None:
        """Ask nft; counters are left out."""
        return _said(["nft", "-s", "list", "table", "inet", TABLE]) or None

    def rules_of(self, path: str) -> str:
        """Load the file in a network namespace of its own, and ask there."""
        script = 'nft -f "$0" && nft -s list table inet "$1"'
        return _said(["unshare", "--net", "sh", "-c", script, str(self._at(path)), TABLE])


def _said(words: list[str]) -> str:
    """Run a program of the system; return what it printed, also when it says no."""
    if (program := shutil.which(words[0], path="/usr/sbin:/usr/bin:/sbin:/bin")) is None:
        raise OperatorError(f"there is no `{words[0]}` on this host", f"install the package that has `{words[0]}`")
    done = subprocess.run(  # noqa: S603 - a program of the system by its path
        [program, *words[1:]], capture_output=True, check=False, timeout=_SECONDS, stdin=subprocess.DEVNULL
    )
    return done.stdout.decode(errors="replace")


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def write_tree(files: Iterable[File], out: Path) -> None:
    """Write files below a directory as they will lie below `/`; owners are set where they are installed."""
    for one in files:
        if one.content is not None:
            path = out / one.path.lstrip("/")
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as opened:
                os.fchmod(descriptor, one.mode)
                opened.write(one.content)


def install(trees: Sequence[Path], files: Iterable[Expected], root: Path = Path("/")) -> list[str]:
    """
    Put the files found in these trees in their places with mode, owner and group; return the paths that changed.

    Each replaces the one before whole or not at all. OperatorError when an account is missing: the accounts come
    first, by `systemd-sysusers`.
    """
    changed = []
    for one in files:
        source = next((path for tree in trees if (path := tree / one.path.lstrip("/")).exists()), None)
        if source is None:
            continue
        content, target = source.read_bytes(), root / one.path.lstrip("/")
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        before = ThisHost(root).file(one.path)
        if before == Seen(content, int(one.mode, 8), one.owner, one.group):
            continue
        temporary = target.with_name(f".{target.name}.new")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fchown(descriptor, *_ids(one))
            os.fchmod(descriptor, int(one.mode, 8))
            os.fsync(descriptor)
        temporary.replace(target)
        changed.append(one.path)
    return changed


def _ids(one: Expected) -> tuple[int, int]:
    try:
        return pwd.getpwnam(one.owner).pw_uid, grp.getgrnam(one.group).gr_gid
    except KeyError:
        raise OperatorError(
            f"{one.path} belongs to {one.owner}:{one.group}, and this host has no such account",
            "run `systemd-sysusers` with the tree's etc/sysusers.d/chancery.conf, then install again",
        ) from None


def manifest_of(tree: Path) -> bytes:
    """Return the manifest in a rendered tree, or on a host (`/`). OperatorError when there is none."""
    path = tree / MANIFEST.lstrip("/")
    try:
        return path.read_bytes()
    except OSError as error:
        raise OperatorError(
            f"{path} cannot be read: {error.strerror}", "install a tree that `chancery deploy render` wrote"
        ) from None
