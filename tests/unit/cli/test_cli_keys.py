"""R5: `chancery key block` and `blocked` against a real server over fakes, and the worker's lists of weak keys."""

from __future__ import annotations

import hashlib
import json

import pytest
import typer
from cryptography.hazmat.primitives.asymmetric import x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from typer.testing import CliRunner

from chancery.cli import build, commands_key
from chancery.errors import OperatorError
from chancery.pkix.trial import sample_key
from chancery.pkix.weak import modulus_digest
from chancery.ports import Role
from unit.web.served import Served, serving
from unit.web.world import key, make_certificate, make_csr

APP = typer.Typer(pretty_exceptions_enable=False)
APP.callback()(lambda: None)
commands_key.register(APP)


def spki(label: str) -> bytes:
    return key(label).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def hash_of(label: str) -> str:
    return hashlib.sha256(spki(label)).hexdigest()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("served")) as found:
        for label, roles in {"olga": (Role.OFFICER,), "uwe": (Role.AUDITOR,)}.items():
            found.enrol(label, *roles)
            text = f'url = "{found.url}"\ncertificate = "{label}.pem"\nkey = "{label}.key"\nca = "root.pem"\n'
            (found.directory / f"{label}.toml").write_text(text)
        yield found


def _run(served: Served, *words: object, who: str = "olga", answer: str | None = None):
    runner = CliRunner(env={"CHANCERY_CLIENT": str(served.directory / f"{who}.toml"), "COLUMNS": "200"})
    return runner.invoke(APP, ["key", *(str(word) for word in words)], input=answer)


FORMS = {
    "certificate.pem": lambda label: make_certificate(label, "issuing", serial=9).public_bytes(Encoding.PEM),
    "certificate.der": lambda label: make_certificate(label, "issuing", serial=9).public_bytes(Encoding.DER),
    "request.pem": lambda label: make_csr(label, label).public_bytes(Encoding.PEM),
    "request.der": lambda label: make_csr(label, label).public_bytes(Encoding.DER),
    "public.pem": lambda label: (
        key(label).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    ),
    "public.der": spki,
    "private.pem": lambda label: key(label).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
}


@pytest.mark.parametrize("form", FORMS)
def test_r5_whatever_has_the_key_will_do(served, tmp_path, form):
    file = tmp_path / form
    file.write_bytes(FORMS[form](form))
    done = _run(served, "block", file, "--yes", "--reason", "found", "--json")
    assert 0 == done.exit_code, done.output
    shown = json.loads(done.stdout)
    assert (hash_of(form), True, "found", "olga") == (
        shown["spki_sha256"],
        shown["blocked"],
        shown["reason"],
        shown["blocked_by"],
    )
    listed = _run(served, "blocked", "--spki", hash_of(form))
    assert f"{hash_of(form)}\t" in listed.stdout
    assert listed.stdout.endswith("\tolga\tfound\n")


def test_its_certificates_are_listed_and_somebody_is_asked_first(served):
    csr = make_csr("www.lost.example", "lost").public_bytes(Encoding.DER)
    serials = [served.world.memory.issue("rita", csr).serial.hex().upper() for _ in range(2)]
    done = _run(served, "block", "--spki", hash_of("lost"), "--revoke", answer="n\n")
    assert (2, list(reversed(serials))) == (
        done.exit_code,
        [line.split("\t")[0] for line in done.stdout.splitlines() if "\t" in line],
    )
    assert "2 certificates have it" in done.stderr
    assert "revoke every good certificate" in done.stderr
    assert bytes.fromhex(hash_of("lost")) not in served.world.memory.blocked
    assert 2 == _run(served, "block", "--spki", hash_of("lost"), answer="").exit_code
    done = _run(served, "block", "--spki", hash_of("lost"), "--revoke", answer="y\n")
    assert (0, True) == (done.exit_code, "revoking  2\n" in done.stdout)
    assert [2] == [job.size for job in served.world.memory.mass.kept.values()]


def test_a_key_that_nobody_used_is_blocked_all_the_same(served):
    done = _run(served, "block", "--spki", ":".join(["AB"] * 32), "--yes")
    assert (0, f"blocked  {'ab' * 32}") == (done.exit_code, done.stdout.splitlines()[0])


def test_every_page_is_fetched(served, monkeypatch):
    monkeypatch.setattr("chancery.cli.commands_blocked._PAGE", 1)
    for n in range(3):
        _run(served, "block", "--spki", f"0{n}" * 32, "--yes")
    done = json.loads(_run(served, "blocked", "--json", who="uwe").stdout)
    assert 3 <= len(done)
    assert done == sorted(done, key=lambda one: one["spki_sha256"])
    assert 2 == len(_run(served, "blocked", "--limit", "2").stdout.splitlines())


def test_what_is_no_key_is_said_in_words(served, tmp_path):
    other, locked, strange = tmp_path / "x", tmp_path / "locked.pem", tmp_path / "x25519.pem"
    other.write_text("hello")
    locked.write_bytes(
        key("x").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    strange.write_bytes(
        x25519.X25519PrivateKey.generate()
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    for words, said in (
        ((other,), "no certificate, certification request or public key"),
        ((locked,), "a private key that cannot be read"),
        ((strange,), "not supported"),
        ((tmp_path / "none",), "cannot be read"),
        ((), "either a file or --spki"),
        ((other, "--spki", "ab" * 32), "either a file or --spki"),
        (("--spki", "abc"), "64 hexadecimal digits"),
    ):
        done = _run(served, "block", *words, "--yes")
        assert (2, True) == (done.exit_code, said in done.stderr), done.output
    assert (
        "the role administrator or officer is needed"
        in _run(served, "block", "--spki", "ab" * 32, "--yes", who="uwe").stderr
    )


def test_r5_the_lists_of_a_directory_are_read_together(tmp_path):
    modulus = sample_key("rsa-2048").public_numbers().n
    assert build.weak_keys(None) is None
    (tmp_path / "blacklist.RSA-2048").write_text(f"# list\n{modulus_digest(modulus).hex()}\n")
    (tmp_path / "blacklist.RSA-4096").write_text("00005890bc78bcbee3ca\n")
    found = build.weak_keys(tmp_path)
    assert (2, True) == (len(found), modulus in found)
    (tmp_path / "notes").write_text("hello\n")
    with pytest.raises(OperatorError, match="notes: line 1 is not 20"):
        build.weak_keys(tmp_path)
    with pytest.raises(OperatorError, match="cannot be read"):
        build.weak_keys(tmp_path / "none")
