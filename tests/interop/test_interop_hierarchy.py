"""A running suite gets an issuer below openssl's root, then a new key for it; openssl verifies both."""

from __future__ import annotations

import pytest

from chancery.cli import bootstrap, layout
from hierarchykit import OpenSSLCA
from suite import bring_up, run, take_down, wait_until

pytestmark = [pytest.mark.suite]


class Installation:
    """A suite of its own, as these tests change its set-up."""

    def __init__(self, running) -> None:
        self.running = running
        self.root = OpenSSLCA(running.work / "external", "External Root")
        self.url = running.suite.ocsp_url

    def ca(self, *words: object) -> bytes:
        """`chancery ca …` as the worker's account."""
        config = str(self.running.place.config("worker"))
        account = layout.accounts().get("worker")
        return bootstrap.command(["ca", *map(str, words), "--config", config], account)

    def add(self, name: str, *words: object, install: tuple[object, ...] = ()):
        csr = self.running.work / f"{name}.csr"
        csr.write_bytes(self.ca("request", name, *words))
        made = self.root.sign(csr, f"{name}.pem", length=0)
        self.ca("install", name, made, "--chain", self.root.certificate, "--yes", *install)
        self.running.chancery("renew", "--state", self.running.state)
        return made

    def issue(self, name: str, *words: object, check: bool = True):
        out = self.running.work / f"{name}.pem"
        csr = self.running.csr(name)
        done = self.running.chancery(
            "request", "--profile", "tls-server", "--csr", csr, "--out", out, *words, check=check
        )
        return out if check else (done.stdout + done.stderr).decode()

    def status(self, issuer, certificate) -> str:
        done = run(
            "openssl", "ocsp", "-issuer", issuer, "-cert", certificate, "-url", f"{self.url}/ocsp",
            "-CAfile", self.root.certificate, "-verify_other", issuer, "-no_nonce", check=False,
        )  # fmt: skip
        return (done.stdout + done.stderr).decode()

    def answers(self, issuer, certificate, word: str) -> bool:
        said = self.status(issuer, certificate)
        return "Response verify OK" in said and f": {word}" in said

    def crl(self, name: str, issuer) -> str:
        """The issuer's CRL, verified under its certificate by openssl, as text."""
        file = self.running.work / f"{name}.crl"
        run("curl", "-sSf", f"{self.url}/crl/{name}.crl", "-o", file)
        done = run("openssl", "crl", "-inform", "DER", "-in", file, "-CAfile", issuer, "-noout", "-text")
        assert "verify OK" in (done.stdout + done.stderr).decode()
        return done.stdout.decode()


@pytest.fixture(scope="module")
def installation():
    running = bring_up()
    yield Installation(running)
    take_down(running)


def verified(installation, issuer, certificate) -> str:
    done = run(
        "openssl",
        "verify",
        "-CAfile",
        installation.root.certificate,
        "-untrusted",
        issuer,
        certificate,
        check=False,
    )
    return (done.stdout + done.stderr).decode()


def test_a_new_key_below_an_external_root_while_everything_runs(installation):
    before = installation.running.processes()
    first = installation.add("branch", "--subject", "CN=Branch CA,O=Example")
    installation.ca("default", "branch", "--yes")
    old = installation.issue("old.example.org", "--issuer", "branch")
    assert ": OK" in verified(installation, first, old)
    assert wait_until(lambda: installation.answers(first, old, "good"), 30)

    second = installation.add("branch-2", "--like", "branch", install=("--replaces", "branch"))
    wait_until(lambda: "branch-2" in installation.running.chancery("ca", "tree").stdout.decode(), 30)
    new = wait_until(lambda: generation(installation, second), 30)
    assert ": OK" not in verified(installation, first, new)
    # The old generation issues no more, and goes on answering for what it issued.
    assert "deactivated" in installation.issue("late.example.org", "--issuer", "branch", check=False)
    installation.running.chancery("revoke", installation.running.serial(old), "--reason", "superseded", "--yes")
    assert wait_until(lambda: installation.answers(first, old, "revoked"), 30)
    assert wait_until(lambda: installation.answers(second, new, "good"), 30)
    serial = installation.running.serial(old)
    assert wait_until(lambda: serial in installation.crl("branch", first), 30)
    assert serial not in installation.crl("branch-2", second)
    # Nothing was started anew.
    assert before == installation.running.processes()
    tree = installation.running.chancery("ca", "tree").stdout.decode()
    rows = {line.split("\t")[0].strip(): line.split("\t") for line in tree.splitlines()}
    assert ("deactivated", "default", "elsewhere") == tuple(
        rows[name][1] for name in ("branch", "branch-2", "external-root")
    )
    assert "software, SoftHSM" in rows["branch-2"][2]
    done = installation.running.chancery(
        "auditor", "run", "--config", installation.running.place.config("auditor"), check=False
    )
    assert 0 == done.returncode, done.stdout + done.stderr


def generation(installation, issuer):
    """A certificate that names no issuer, once the new generation issues."""
    made = installation.issue("new.example.org")
    return made if ": OK" in verified(installation, issuer, made) else None
