"""The whole suite, brought up by its own command in a directory of its own, for tests that use it from outside."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from chancery.cli.layout import Layout, write_public
from chancery.cli.suite import Suite, read_suite
from chancery.config import encode
from chancery.pkcs11 import find_softhsm_module

ROOT = Path(__file__).parents[1]
CHANCERY = str(Path(sys.executable).with_name("chancery"))


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def run(*words: object, check: bool = True, cwd: Path | None = None, stdin: bytes | None = None, env=None):
    """Run a program; its output is in the failure when it fails."""
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, check=False, cwd=cwd, input=stdin, timeout=240, env=env
    )
    if check and done.returncode:
        raise AssertionError(
            f"{' '.join(map(str, words))}\nexit {done.returncode}\n{done.stdout.decode(errors='replace')}"
            f"\n{done.stderr.decode(errors='replace')}"
        )
    return done


@dataclasses.dataclass
class Running:
    """A suite in `state`; `work` is a directory for the test's own files."""

    state: Path
    work: Path

    @property
    def place(self) -> Layout:
        return Layout(self.state)

    @property
    def suite(self) -> Suite:
        return read_suite(self.place)

    @property
    def pki(self) -> Path:
        return self.place.pki

    def chancery(self, *words: object, check: bool = True, cwd: Path | None = None):
        env = {**os.environ, "CHANCERY_CLIENT": str(self.place.client)}
        return run(CHANCERY, *words, check=check, cwd=cwd or self.work, env=env)

    def up(self, *words: object):
        return self.chancery("up", "--state", self.state, *words)

    def down(self):
        return self.chancery("down", "--state", self.state)

    def processes(self) -> dict[str, int]:
        """The pid of each running process, by name."""
        state = json.loads((self.place.run / "supervisor.json").read_bytes())
        return {name: one["pid"] for name, one in state["processes"].items() if one["pid"]}

    def supervisor_pid(self) -> int:
        return int(json.loads((self.place.run / "supervisor.json").read_bytes())["pid"])

    def csr(self, name: str, *extra: str, key: str = "ec", names: str | None = None) -> Path:
        """A request made by openssl; its key is beside it."""
        csr, key_file = self.work / f"{name}.csr", self.work / f"{name}.key"
        options = {
            "ec": ("ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            "p384": ("ec", "-pkeyopt", "ec_paramgen_curve:P-384"),
            "rsa": ("rsa:2048",),
            "rsa3072": ("rsa:3072",),
            "ed25519": ("ed25519",),
        }[key]
        san = names if names is not None else f"DNS:{name}"
        addext = ("-addext", f"subjectAltName={san}") if san else ()
        subject = extra or ("-subj", f"/CN={name}")
        run(
            "openssl",
            "req",
            "-new",
            "-newkey",
            *options,
            "-nodes",
            "-keyout",
            key_file,
            "-out",
            csr,
            *subject,
            *addext,
        )
        return csr

    def issue(self, name: str, profile: str = "tls-server", **options) -> Path:
        """A certificate through the command line; returns its PEM file."""
        out = self.work / f"{name}.pem"
        self.chancery("request", "--profile", profile, "--csr", self.csr(name, **options), "--out", out)
        return out

    def serial(self, pem: Path) -> str:
        return run("openssl", "x509", "-in", pem, "-noout", "-serial").stdout.decode().strip().split("=")[1]

    def ocsp(self, pem: Path, *words: str, check: bool = True) -> str:
        done = run(
            "openssl", "ocsp", "-issuer", self.pki / "issuing.pem", "-cert", pem,
            "-url", f"{self.suite.ocsp_url}/ocsp", "-CAfile", self.pki / "chain.pem", "-text", *words, check=check,
        )  # fmt: skip
        return (done.stdout + done.stderr).decode()


def bring_up(*words: object, **settings: object) -> Running:
    """A new suite on free ports below /tmp, where other accounts can pass; `settings` are those of suite.toml."""
    base = Path(tempfile.mkdtemp(prefix="chancery-"))
    base.chmod(0o755)
    work = base / "work"
    work.mkdir()
    running = Running(base / "var", work)
    ca, ocsp, tsa = free_ports(3)
    try:
        if settings:
            running.state.mkdir(mode=0o755)
            module = Path(find_softhsm_module() or "")
            ports = {"ca_port": ca, "ocsp_port": ocsp, "tsa_port": tsa}
            write_public(running.place.suite, encode(Suite(**ports, module=module, **settings)))
        running.up("--ca-port", ca, "--ocsp-port", ocsp, "--tsa-port", tsa, *words)
    except BaseException:
        log = running.place.log
        print(log.read_text(errors="replace")[-8000:] if log.exists() else "no log")
        running.chancery("down", "--state", running.state, check=False)
        raise
    return running


def take_down(running: Running) -> None:
    """Stop it and remove everything."""
    running.chancery("down", "--state", running.state, check=False)
    shutil.rmtree(running.state.parent, ignore_errors=True)


def wait_until(look, seconds: float = 60.0):
    """Return what `look` returns once it is true; fail when it never is."""
    deadline = time.monotonic() + seconds
    while True:
        if found := look():
            return found
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)
