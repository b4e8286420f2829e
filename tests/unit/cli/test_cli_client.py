"""The client commands against a real server over fakes: what they print, write and end with."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from typer.testing import CliRunner

from chancery.cli import client
from chancery.cli.api_client import Client, read_config
from chancery.errors import ErrorType, PKIError
from chancery.ports import Role
from unit.web.served import Served, serving
from unit.web.world import make_certificate, make_csr

APP = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
client.register(APP)
CSR = make_csr()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("served")) as found:
        for label, roles in {"boss": (Role.ADMINISTRATOR, Role.OFFICER), "rita": (Role.REQUESTOR,)}.items():
            found.enrol(label, *roles)
            text = f'url = "{found.url}"\ncertificate = "{label}.pem"\nkey = "{label}.key"\nca = "root.pem"\n'
            (found.directory / f"{label}.toml").write_text(text)
        yield found


@pytest.fixture
def csr(tmp_path) -> Path:
    path = tmp_path / "x.csr"
    path.write_bytes(CSR.public_bytes(Encoding.PEM))
    return path


def _run(served: Served, *words: object, who: str = "boss", answer: str | None = None):
    runner = CliRunner(env={"CHANCERY_CLIENT": str(served.directory / f"{who}.toml"), "COLUMNS": "200"})
    return runner.invoke(APP, [str(word) for word in words], input=answer)


def _json(served: Served, *words: object, who: str = "boss"):
    done = _run(served, *words, "--json", who=who)
    assert 0 == done.exit_code, done.output
    return json.loads(done.stdout)


def _request(served: Served, csr: Path, *more: object, who: str = "boss"):
    return _run(served, "request", "--profile", "tls-server", "--csr", csr, *more, who=who)


def _serial(served: Served) -> str:
    return served.world.memory.stored[-1].serial.hex().upper()


def test_a_certificate_is_printed_or_written_in_every_format(served, csr, tmp_path):
    leaf = x509.load_pem_x509_certificate(_request(served, csr).stdout_bytes)
    assert CSR.public_key() == leaf.public_key()
    out = tmp_path / "out"
    for more, load in (
        (("--format", "pem"), x509.load_pem_x509_certificates),
        (("--chain",), x509.load_pem_x509_certificates),
        (("--format", "der"), lambda data: [x509.load_der_x509_certificate(data)]),
        (("--format", "p7b"), pkcs7.load_der_pkcs7_certificates),
    ):
        done = _request(
            served, csr, "--out", out, *more, "--name", "dns:a.example.org", "--name", "dns:b.example.org"
        )
        assert (0, True) == (done.exit_code, f"serial      {_serial(served)}" in done.stdout), done.output
        found = load(out.read_bytes())
        assert served.world.memory.stored[-1].der in {one.public_bytes(Encoding.DER) for one in found}
        assert (2 if more[0] == "--chain" or "p7b" in more else 1) == len(found)
        assert ("dns:a.example.org", "dns:b.example.org") == served.world.memory.stored[-1].names
    assert 2 == _request(served, csr, "--chain", "--format", "der").exit_code


def test_a_der_csr_is_taken_and_json_printed(served, tmp_path):
    path = tmp_path / "x.der"
    path.write_bytes(CSR.public_bytes(Encoding.DER))
    found = _json(served, "request", "--profile", "tls-server", "--csr", path, "--issuer", "issuing")
    assert ("done", _serial(served)) == (found["state"], found["serial"])


def test_the_same_transaction_id_gives_the_same_certificate(served, csr):
    first, again = (_request(served, csr, "--transaction-id", "same").stdout for _ in range(2))
    assert first == again
    other = _request(served, csr, "--transaction-id", "same", "--name", "dns:c.example.org")
    assert (1, True) == (other.exit_code, "transactionIdInUse" in other.stderr)


def test_a_503_is_tried_again_with_the_same_transaction_id(served, csr):
    """The first submission takes effect and its answer is lost; the retry finds it."""
    memory = served.world.memory
    before = len(memory.requests)
    submit, failed = memory.submit, []

    async def fails_once_afterwards(request, *more):
        found = await submit(request, *more)
        if not failed:
            failed.append(request.transaction_id)
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the connection broke")
        return found

    memory.submit = fails_once_afterwards
    try:
        done = _request(served, csr)
    finally:
        memory.submit = submit
    assert 0 == done.exit_code, done.output
    assert before + 1 == len(memory.requests)


def test_a_slow_ca_is_waited_for_and_at_last_the_next_step_is_said(served, csr):
    memory = served.world.memory
    memory.asleep = True
    try:
        done = _request(served, csr, "--wait", "0.3", "--transaction-id", "slow")
        assert (1, True) == (done.exit_code, "ask again with --transaction-id slow" in done.stderr)
    finally:
        memory.asleep = False
    memory.work()
    assert 0 == _request(served, csr, "--transaction-id", "slow").exit_code


def test_refusals_are_said_in_words_with_code_1(served, csr, tmp_path):
    bad = tmp_path / "bad.csr"
    bad.write_text("hello")
    for done, words in (
        (_request(served, bad), "badDataFormat"),
        (_run(served, "request", "--profile", "root-ca", "--csr", csr), "ceremony"),
        (_run(served, "request", "--profile", "none", "--csr", csr), "no profile named"),
        (_run(served, "show", "0123"), "badCertId"),
        (_run(served, "ca", "show", "nobody"), "no issuer named"),
        (_run(served, "operator", "list", who="rita"), "the role administrator or auditor is needed"),
        (_run(served, "operator", "remove", "boss"), "the last administrator stays"),
    ):
        assert 1 == done.exit_code, done.output
        assert words in done.stderr
        assert "next: " in done.stderr
        assert "" == done.stdout


def test_wrong_use_is_code_2(served, csr, tmp_path):
    serial = "07"
    for words in (
        ("request",),
        ("request", "--profile", "x", "--csr", tmp_path / "gone"),
        ("revoke", serial, "--reason", "certificateHold", "--yes"),
        ("revoke", "xyz", "--reason", "superseded", "--yes"),
        ("show", "f" * 43),
        ("list", "--state", "bad"),
        ("operator", "add", "x", "--role", "king", "--serial", "1"),
        ("operator", "add", "x", "--role", "officer"),
        ("me", "--client", tmp_path / "gone.toml"),
        ("whoami", "--client", tmp_path / "gone.toml"),
        ("whoami", "--url", "http://localhost:1"),
        ("whoami", "--cert", tmp_path / "gone.pem"),
        ("whoami", "--ca", csr),
    ):
        done = _run(served, *words)
        assert 2 == done.exit_code, (words, done.output)


def test_a_ca_that_is_away_is_code_3(served, monkeypatch):
    monkeypatch.setattr("chancery.cli.api_client.PAUSES", (0.01,))
    gone = _run(served, "whoami", "--url", "https://localhost:1")
    assert (3, True) == (gone.exit_code, "cannot be reached" in gone.stderr)
    served.world.memory.away = True
    try:
        done = _run(served, "list")
    finally:
        served.world.memory.away = False
    assert (3, True) == (done.exit_code, "systemUnavail" in done.stderr)


def test_what_is_wrong_with_tls_is_told_apart(served, monkeypatch):
    monkeypatch.setattr("chancery.cli.api_client.PAUSES", (0.01,))
    done = _run(
        served, "whoami", "--ca", served.pair("foreign", make_certificate("x", "foreign", serial=1, ca=True))[0]
    )
    assert (3, True) == (done.exit_code, "check the CA file" in done.stderr)
    certificate, key = served.pair("foreign", make_certificate("foreign", "foreign", serial=2))
    done = _run(served, "whoami", "--cert", certificate, "--key", key)
    assert (3, True) == (done.exit_code, "check your certificate" in done.stderr), done.stderr
    certificate, key = served.pair("nobody", make_certificate("nobody", "issuing", serial=55))
    done = _run(served, "whoami", "--cert", certificate, "--key", key)
    assert (1, True) == (done.exit_code, "chancery operator add" in done.stderr)


def test_options_stand_in_for_a_file(served):
    files = served.directory
    place = (
        "--url",
        served.url,
        "--cert",
        files / "rita.pem",
        "--key",
        files / "rita.key",
        "--ca",
        files / "root.pem",
    )
    done = CliRunner(env={"CHANCERY_CLIENT": None}).invoke(APP, [str(one) for one in ("whoami", *place)])
    assert (0, True) == (done.exit_code, "rita" in done.stdout)


def test_a_certificate_is_revoked_after_a_question(served, csr):
    _request(served, csr)
    serial = _serial(served)
    pasted = ":".join(serial[at : at + 2] for at in range(0, len(serial), 2)).lower()
    declined = _run(served, "revoke", pasted, "--reason", "superseded", answer="n\n")
    assert (2, True) == (declined.exit_code, f"Revoke the certificate {serial}" in declined.stderr)
    nobody = _run(served, "revoke", pasted, "--reason", "superseded", answer="")
    assert (2, True) == (nobody.exit_code, "--yes" in nobody.stderr)
    assert "good" == _json(served, "show", serial)["state"]
    done = _run(served, "revoke", f"0x{serial}", "--reason", "key-compromise", answer="y\n")
    assert (0, True) == (done.exit_code, "keyCompromise" in done.stdout)
    assert ("revoked", "keyCompromise") == tuple(_json(served, "show", serial)[one] for one in ("state", "reason"))
    again = _run(served, "revoke", serial, "--reason", "superseded", "--yes")
    assert (1, True) == (again.exit_code, "already revoked" in again.stderr)


def test_a_revocation_is_waited_for(served, csr):
    _request(served, csr)
    serial = _serial(served)
    served.world.memory.asleep = True
    try:
        done = _run(served, "revoke", serial, "--reason", "superseded", "--yes", "--wait", "0.3")
    finally:
        served.world.memory.asleep = False
    assert (1, True) == (done.exit_code, "stored but not settled" in done.stderr)


def test_certificates_are_listed_and_shown(served, csr):
    _request(served, csr, "--name", "dns:listed.example.org", who="rita")
    serial = _serial(served)
    line = _run(served, "list", "--name", "dns:listed.example.org").stdout
    assert [serial, "good"] == line.split("\t")[:2]
    assert 1 == len(line.splitlines())
    assert [serial] == [one["serial"] for one in _json(served, "list", "--requestor", "rita", "--limit", "1")]
    assert [] == _json(served, "list", "--subject", "CN=nobody", "--state", "revoked", "--profile", "smime")
    shown = _run(served, "show", serial)
    assert "listed.example.org" in shown.stdout
    assert "BEGIN" not in shown.stdout
    assert x509.load_pem_x509_certificate(_run(served, "show", serial, "--format", "pem").stdout_bytes)
    assert 2 == len(x509.load_pem_x509_certificates(_run(served, "show", serial, "--chain").stdout_bytes))
    assert x509.load_der_x509_certificate(_run(served, "show", serial, "--format", "der").stdout_bytes)
    assert 1 == _run(served, "show", serial, "--issuer", "root").exit_code


def test_a_list_runs_over_pages(served, csr, monkeypatch):
    monkeypatch.setattr("chancery.cli.commands_certificates._PAGE", 2)
    for _ in range(5):
        _request(served, csr)
    found = _json(served, "list", "--limit", "5")
    assert 5 == len({one["serial"] for one in found})


def test_what_a_requestor_wrote_does_not_command_a_terminal(served):
    evil = make_csr("evil\x1b[2J\x07", "evil").public_bytes(Encoding.DER)
    served.world.memory.issue("boss", evil)
    done = _run(served, "list", "--limit", "1")
    assert "\x1b" not in done.stdout
    assert "\x07" not in done.stdout
    assert "evil" in done.stdout


def test_issuers_crls_and_profiles(served, tmp_path):
    assert ["root", "issuing"] == [one["name"] for one in _json(served, "ca", "list")]
    assert "issuing\tyes\troot" in _run(served, "ca", "list").stdout
    assert "CN=issuing" in _run(served, "ca", "show", "issuing").stdout
    pem = _run(served, "ca", "show", "issuing", "--pem").stdout_bytes
    assert served.world.memory.issuing == x509.load_pem_x509_certificate(pem)
    number = _json(served, "crl", "publish")["number"]
    assert number + 1 == _json(served, "crl", "publish", "issuing")["number"]
    out = tmp_path / "x.crl"
    assert 0 == _run(served, "crl", "fetch", "--out", out).exit_code
    crl = x509.load_der_x509_crl(out.read_bytes())
    assert number + 1 == crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    shown = _run(served, "crl", "list", "issuing").stdout
    assert f"issuing\tcomplete\tfull\t{number + 1}\t-" in shown
    assert number + 1 == _json(served, "crl", "show")["number"]
    assert 0 != _run(served, "crl", "publish", "issuing", "--shard", "3").exit_code
    assert crl == x509.load_pem_x509_crl(_run(served, "crl", "fetch", "issuing", "--pem").stdout_bytes)
    assert "root-ca\t2\tceremony" in _run(served, "profile", "list").stdout
    assert 'name = "tls-server"' in _run(served, "profile", "show", "tls-server", "--source").stdout


def test_operators_come_and_go(served, tmp_path):
    bob = make_csr("bob", "bob").public_bytes(Encoding.DER)
    stored = served.world.memory.issue("boss", bob, "tls-client")
    file = tmp_path / "bob.pem"
    file.write_bytes(x509.load_der_x509_certificate(stored.der).public_bytes(Encoding.PEM))
    more = ("--role", "requestor", "--certificate", file, "--profile", "tls-client")
    added = _run(served, "operator", "add", "bob jr", *more)
    assert 0 == added.exit_code, added.output
    assert "bob jr\trequestor\ttls-client" in _run(served, "operator", "list").stdout
    assert {"removed": "bob jr"} == _json(served, "operator", "remove", "bob jr")
    again = _json(served, "operator", "add", "bob", "--role", "auditor", "--serial", stored.serial.hex())
    assert ["auditor"] == again["roles"]
    assert 0 == _run(served, "operator", "remove", "bob").exit_code


def test_the_remote_status_is_for_others_to_show(served):
    connection = Client(read_config(served.directory / "boss.toml"))
    try:
        found = client.remote_status(connection)
    finally:
        connection.close()
    assert {"version", "time", "counts", "crls"} == set(found)
    pairs = dict(client.remote_pairs(found))
    assert str(found["counts"]["certificates"]) == pairs["certificates"]
    many = found | {"counts": found["counts"] | {"certificates": 5000}, "estimated": ["certificates"]}
    assert "about 5000" == dict(client.remote_pairs(many))["certificates"]


def _encrypt(served: Served) -> Path:
    path = served.directory / "encrypted.key"
    source = served.directory / "boss.key"
    command = ["openssl", "ec", "-aes256", "-in", str(source), "-out", str(path), "-passout", "pass:open sesame"]
    subprocess.run(command, check=True, capture_output=True)
    return path


WHOAMI = "import typer; from chancery.cli import client; app = typer.Typer(); client.register(app); app()"


def test_the_password_of_a_key_is_asked_for_on_the_terminal(served):
    command = [
        *(sys.executable, "-c", WHOAMI, "whoami"),
        *("--client", str(served.directory / "boss.toml"), "--key", str(_encrypt(served))),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    ) as process:
        os.close(theirs)
        seen = b""
        while b"password of" not in seen:
            seen += os.read(ours, 1024)
        os.write(ours, b"open sesame\n")
        # EIO: the other end is closed.
        with contextlib.suppress(OSError):
            while chunk := os.read(ours, 1024):
                seen += chunk
        assert 0 == process.wait(20), seen
    os.close(ours)
    assert b"boss" in seen
    assert b"sesame" not in seen


def test_without_a_terminal_an_encrypted_key_is_said_to_be_one(served):
    done = _run(served, "whoami", "--key", _encrypt(served))
    assert (2, True) == (done.exit_code, "encrypted" in done.stderr), done.output
