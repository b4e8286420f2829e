"""
The first start of a whole installation on one machine: everything that can be made before the database runs.

Each step looks at what is there and makes only what is missing, so a start that was killed goes on where it
stopped. What needs the database is in `chancery.cli.enrol`.
"""

from __future__ import annotations

import os
import secrets  # noqa: TID251 - PINs and passwords are made here, in the composition root
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from chancery.cli import build, layout, tsakeys
from chancery.cli.layout import DATABASE_ROLES, TOKENS, Account, Layout
from chancery.cli.show import working
from chancery.cli.suite import ISSUING, ROOT, SERVICE_LABELS, Suite, process_configs, subject, tsa_label
from chancery.config import encode
from chancery.errors import OperatorError
from chancery.offline.media import read_file
from chancery.pkcs11.softhsm import Preparation, prepare_softhsm_as
from chancery.postgres.embedded import ensure_traversable

TOKEN_OWNER = {"issuing": "worker", "ocsp": "ocsp", "tsa": "tsa"}
"""Which process may use which token; the offline one belongs to nobody who serves."""
COMMAND_SECONDS = 120.0
PASSABLE = "other accounts may now pass through {} (o+x, not o+r)"


def check_owner(place: Layout) -> None:
    """OperatorError when another account made this installation: half of it would change hands."""
    try:
        owner = place.admin.stat().st_uid
    except FileNotFoundError:
        return
    if owner != os.geteuid():
        raise OperatorError(
            f"uid {owner} made the installation in {place.state}, and this is uid {os.geteuid()}",
            "start it as that account, or choose another --state",
        )


def run(place: Layout, suite: Suite, console: Console) -> None:
    """Make directories, secrets, tokens, keys, database cluster, configurations, the root and the issuing CA."""
    accounts = layout.accounts()
    with working(console, "directories and secrets") as step:
        for directory in _directories(place, accounts):
            console.print(PASSABLE.format(directory), markup=False)
        _secrets(place, accounts)
        step("PKCS#11 tokens, one per role")
        _tokens(place, suite, accounts)
        step("database cluster")
        socket, opened = _cluster(place, suite)
        for directory in opened:
            console.print(PASSABLE.format(directory), markup=False)
        step("configurations")
        _configurations(place, suite, socket)
        step("keys of the services")
        _services(place, suite, accounts)
        _configurations(place, suite, socket)
        step("root and issuing CA")
        _authorities(place, suite, accounts)


def _directories(place: Layout, accounts: dict[str, Account]) -> list[Path]:
    for path in (place.state, place.pki, place.run, place.log.parent, place.config("x").parent):
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.chmod(0o755)
    for path in (place.state / "secrets", place.state / "tokens", place.tls):
        path.mkdir(exist_ok=True)
        path.chmod(0o711)
    layout.private_directory(place.admin)
    layout.private_directory(place.run / "worker", accounts.get("worker"))
    for role in TOKENS:
        layout.private_directory(place.token(role), accounts.get(TOKEN_OWNER.get(role, "")))
    if not accounts:
        return []
    # Each process runs as an account of its own, and has to reach the interpreter and its files.
    paths = [place.state, Path(sys.prefix), Path(sys.base_prefix), Path(layout.__file__).parent]
    return [changed for path in paths for changed in ensure_traversable(path)]


def _secrets(place: Layout, accounts: dict[str, Account]) -> None:
    for role in TOKENS:
        owner = accounts.get(TOKEN_OWNER.get(role, ""))
        _secret(place.token(role) / "pin", owner)
        _secret(place.state / "secrets" / f"so-{role}.pin", None)
    for process, role in DATABASE_ROLES.items():
        _secret(place.database_password(role), accounts.get(process))


def _secret(path: Path, owner: Account | None) -> None:
    if not path.exists():
        layout.write_private(path, secrets.token_hex(24).encode() + b"\n", owner)


def _tokens(place: Layout, suite: Suite, accounts: dict[str, Account]) -> None:
    for role in TOKENS:
        directory = place.token(role)
        if suite.module is None:
            layout.private_directory(directory / "keys", accounts.get(TOKEN_OWNER.get(role, "")))
            continue
        so_pin = (place.state / "secrets" / f"so-{role}.pin").read_bytes().strip()
        owner = accounts.get(TOKEN_OWNER.get(role, ""))
        # As its owner: root must not walk, write and load in a directory that somebody else may fill with links.
        prepare_softhsm_as(
            None if owner is None else (owner.uid, owner.gid),
            Preparation(str(directory), f"chancery-{role}", so_pin, str(directory / "pin"), str(suite.module)),
        )


def _cluster(place: Layout, suite: Suite) -> tuple[Path, list[Path]]:
    """Make the embedded cluster; return its socket's directory, and what was opened to its account."""
    if suite.database is not None:
        return Path(suite.database.host), []
    server = build.embedded_server(place)
    server.prepare()
    return server.socket_dir, server.opened


def _configurations(place: Layout, suite: Suite, socket: Path) -> None:
    for process, config in process_configs(place, suite, socket).items():
        layout.write_public(place.config(process), encode(config))


def _services(place: Layout, suite: Suite, accounts: dict[str, Account]) -> None:
    """Make the services' keys and requests, each under its own account: the worker is told which keys they are."""
    # R25: the spare that follows the timestamping key in use is made ahead, as the worker reads which
    # keys may be certified when it starts.
    spare = ("tsa", tsakeys.following(tsa_label(place), SERVICE_LABELS["tsa"]))
    for process, label in (*SERVICE_LABELS.items(), spare):
        if not (path := place.service_request(label)).exists():
            kind, title = {
                "ocsp": (suite.ocsp_key, "OCSP Responder"),
                "tsa": (suite.tsa_key, "Timestamping Authority"),
            }[process]
            account = accounts.get(process)
            csr = make_key(place, process, label, kind, account=account, subject=subject(suite, title))
            layout.write_public(path, csr)


def _authorities(place: Layout, suite: Suite, accounts: dict[str, Account]) -> None:
    """
    Make the root in the offline token, and the issuing CA through a request and a response bundle.

    The response is taken in once the database runs (`take_in`); here it is only written down.
    """
    worker = accounts.get("worker")
    layout.write_public(
        place.pki / "journal.pem", make_key(place, "worker", "journal", suite.journal_key, account=worker)
    )
    if place.response.exists():
        return
    csr = make_key(
        place, "worker", ISSUING, suite.issuing_key, account=worker, subject=subject(suite, "Issuing CA")
    )
    layout.write_public(place.pki / "issuing.csr", csr)
    offline = ["--config", str(place.config("offline"))]
    command(["offline", "init", *offline])
    if not place.request.exists():
        # The bundle is signed by the installation's key, in its own token, and handed over on a medium.
        handed = place.run / "worker" / "issuing.request"
        words = ["--csr", str(place.pki / "issuing.csr"), "--transaction-id", "issuing-1", "--crl"]
        words += ["--reason", "the issuing CA of this installation", "--out", str(handed)]
        config = str(place.config("worker"))
        handed.unlink(missing_ok=True)
        command(["bundle", "request", "--config", config, "--key-label", "journal", *words], worker)
        layout.write_public(place.request, read_file(handed))
    command(["offline", "export", *offline, "--out", str(place.pki)])
    command(["offline", "sign", *offline, str(place.request), "--out", str(place.response), "--yes"])


def take_in(place: Layout, accounts: dict[str, Account]) -> None:
    """Verify the root's answer and import it into the database, as the worker; run again, it changes nothing."""
    if (place.pki / "chain.pem").exists() and place.imported.exists():
        return
    out = place.run / "worker" / "import"
    words = ["--config", str(place.config("worker")), "--request", str(place.request)]
    words += ["--response", str(place.response), "--bundle-key", str(place.pki / f"{ROOT}-bundles.pem")]
    words += ["--name", ISSUING, "--key-label", ISSUING, "--root-name", ROOT, "--out", str(out)]
    layout.private_directory(out, accounts.get("worker"))
    command(["bundle", "import", *words], accounts.get("worker"))
    for name in (f"{ROOT}.pem", f"{ISSUING}.pem", "chain.pem"):
        layout.write_public(place.pki / name, read_file(out / name))
    layout.write_public(place.imported, b"")


def make_key(
    place: Layout, process: str, label: str, kind: str, *, account: Account | None, subject: str | None = None
) -> bytes:
    """Find or make a key in a process's token, as its account; return its public key, or a request (PEM)."""
    words = ["key", "make", "--config", str(place.config(process)), "--label", label, "--kind", kind]
    return command([*words, "--subject", subject] if subject else words, account)


def command(words: Sequence[str], account: Account | None = None) -> bytes:
    """
    Run this program with other words, as an account; return what it printed.

    A process of its own, because one process can have one SoftHSM2 configuration only. OperatorError with
    its last words when it fails.
    """
    done = subprocess.run(  # noqa: S603 - this same program
        [*layout.program(), *words],
        capture_output=True,
        check=False,
        timeout=COMMAND_SECONDS,
        stdin=subprocess.DEVNULL,
        cwd="/",
        env=layout.environment(),
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-1000:]
        raise OperatorError(f"`chancery {' '.join(words[:2])}` failed: {said}", "put that right and start again")
    return done.stdout
