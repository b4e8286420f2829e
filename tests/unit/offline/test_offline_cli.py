"""`chancery offline` and `chancery bundle` as people run them: software tokens, files, and the real database."""

from __future__ import annotations

import re

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from typer.testing import CliRunner

import pg
from chancery.cli import offline as commands
from chancery.errors import OperatorError, PKIError
from chancery.offline.bundle import decode_request, decode_response, fingerprint
from chancery.pkcs11.softtoken import SoftToken
from chancery.postgres.issuers import PgIssuerStore
from chancery.postgres.session import Session, connect
from unit.offline import ceremonies

pytestmark = [pytest.mark.filterwarnings("ignore::chancery.errors.InsecureWarning"), pytest.mark.postgres]


class Place:
    """A directory with the configurations of the offline CA and of an installation's worker."""

    def __init__(self, path):
        self.path = path
        for role in ("offline", "issuing"):
            (path / f"{role}-token").mkdir()
            (path / f"{role}.pin").write_text("1234-5678\n")
            (path / f"{role}.pin").chmod(0o600)
        (path / "offline.toml").write_text(
            f"""
process = "offline"
deployment = "laptop"
directory = "{path}/offline"
name = "root"
subject = "CN=Example Root CA,O=Example"
instance = 112
key_kind = "ec-p256"
[token]
label = "offline"
soft_directory = "{path}/offline-token"
pin_file = "{path}/offline.pin"
[urls]
ocsp = "http://localhost:8080/ocsp"
crl = "http://localhost:8080/crl/{{issuer}}.crl"
ca_issuers = "http://localhost:8080/ca/{{issuer}}.cer"
"""
        )
        (path / "issuing.csr").write_bytes(x509.load_der_x509_csr(ceremonies.csr()).public_bytes(Encoding.PEM))
        token = SoftToken(path / "issuing-token", "issuing", lambda: b"1234-5678")
        token.generate_key("journal", "ed25519")
        token.close()
        self.worker(pg_role=None)

    def worker(self, pg_role):
        (self.path / "password").write_bytes(pg.password("chancery_worker"))
        (self.path / "password").chmod(0o600)
        host, port, name = (
            ("/nowhere", 5432, "x") if pg_role is None else (pg_role.host, pg_role.port, pg_role.database)
        )
        (self.path / "worker.toml").write_text(
            f"""
process = "worker"
deployment = "laptop"
instance = 1
issuers = ["issuing"]
default_issuer = "issuing"
[database]
host = "{host}"
port = {port}
dbname = "{name}"
user = "chancery_worker"
password_file = "{self.path}/password"
[token]
label = "issuing"
soft_directory = "{self.path}/issuing-token"
pin_file = "{self.path}/issuing.pin"
[urls]
ocsp = "http://localhost:8080/ocsp"
crl = "http://localhost:8080/crl/{{issuer}}.crl"
ca_issuers = "http://localhost:8080/ca/{{issuer}}.cer"
[journal]
origin = "localhost/journal"
"""
        )

    def offline(self, command, *words, answer=""):
        return run(commands.app, command, "--config", self.path / "offline.toml", *words, answer=answer)

    def request(self, *words):
        return run(
            commands.bundles,
            "request",
            *("--config", self.path / "worker.toml", "--key-label", "journal", "--csr", self.path / "issuing.csr"),
            *(
                "--transaction-id",
                "issuing-1",
                "--crl",
                "--reason",
                "the issuing CA",
                "--out",
                self.path / "request",
            ),
            *words,
        )

    def take_in(self, *words):
        return run(
            commands.bundles,
            "import",
            *("--config", self.path / "worker.toml", "--request", self.path / "request"),
            *("--response", self.path / "response", "--bundle-key", self.path / "out" / "root-bundles.pem"),
            *("--name", "issuing", "--key-label", "issuing", "--out", self.path / "out"),
            *words,
        )


def run(app, *words, answer=""):
    result = CliRunner().invoke(app, [str(word) for word in words], input=answer)
    assert isinstance(result.exception, SystemExit | OperatorError | PKIError | None), result.exception
    return result


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_from_nothing_to_an_issuing_ca_in_the_database(place, database):
    assert 0 == place.offline("init").exit_code
    assert "1, until" in place.offline("init").stdout
    shown = place.request().stdout
    data = (place.path / "request").read_bytes()
    assert fingerprint(data) in shown
    assert "CN=Example Issuing CA,O=Example" in shown
    result = place.offline("sign", place.path / "request", "--out", place.path / "response", answer="y\n")
    assert 0 == result.exit_code
    assert fingerprint(data) in result.stdout
    assert 0 == place.offline("export", "--out", place.path / "out").exit_code
    place.worker(database.role("worker"))
    for _ in range(2):
        result = place.take_in()
        assert (0, "root     1\nissuing  2\n") == (
            result.exit_code,
            re.sub(r"^root +", "root     ", result.stdout),
        )
    session = Session(database.role("worker"))
    root, issuing = PgIssuerStore(session).issuers()
    session.close()
    assert ("root", None, "issuing", 1, "issuing") == (
        root.name,
        root.token_label,
        issuing.name,
        issuing.parent_id,
        issuing.key_label,
    )
    out = place.path / "out"
    assert out.joinpath("chain.pem").read_bytes() == (
        out.joinpath("issuing.pem").read_bytes() + out.joinpath("root.pem").read_bytes()
    )
    found = x509.load_pem_x509_certificate(out.joinpath("issuing.pem").read_bytes())
    points = found.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert "http://localhost:8080/crl/root.crl" == points[0].full_name[0].value
    with connect(database.superuser) as superuser:
        kinds = [row[0] for row in superuser.execute("SELECT kind FROM chancery.journal_event ORDER BY event_id")]
    assert ["ca.imported", "crl.published", "ca.imported", "bundle.imported"] == kinds


def test_a_ca_is_renewed_and_then_re_keyed_by_bundles(place, database):
    place.offline("init")
    place.request()
    request, response = place.path / "request", place.path / "response"
    assert 0 == place.offline("sign", request, "--out", response, answer="y\n").exit_code
    place.offline("export", "--out", place.path / "out")
    place.worker(database.role("worker"))
    assert 0 == place.take_in().exit_code

    def ceremony(number: int) -> None:
        before = [file.rename(file.with_name(f"{file.name}-{number}")) for file in (request, response)]
        words = ("--after-request", before[0], "--after-response", before[1])
        assert 0 == place.request("--transaction-id", f"issuing-{number}", *words).exit_code
        result = place.offline("sign", request, "--out", response, answer="y\n")
        assert 0 == result.exit_code, result.output

    def issuers():
        session = Session(database.role("worker"))
        try:
            return {one.name: one for one in PgIssuerStore(session).issuers()}
        finally:
            session.close()

    first = issuers()["issuing"]
    ceremony(2)
    assert 0 == place.take_in().exit_code
    renewed = issuers()["issuing"]
    assert first.certificate != renewed.certificate
    assert [first.certificate] == [one.certificate for one in renewed.further]
    new = ec.generate_private_key(ec.SECP256R1())
    (place.path / "issuing.csr").write_bytes(
        x509.load_der_x509_csr(ceremonies.csr(new)).public_bytes(Encoding.PEM)
    )
    ceremony(3)
    again = ("--name", "issuing-2", "--key-label", "issuing-2", "--replaces", "issuing")
    assert 0 == place.take_in(*again).exit_code
    old, successor = issuers()["issuing"], issuers()["issuing-2"]
    # The old one issues no more, and has its key for CRLs and OCSP delegates.
    assert (False, "issuing", False) == (old.active, old.key_label, old.default)
    assert (True, "issuing-2", True) == (successor.active, successor.key_label, successor.default)
    with connect(database.superuser) as superuser:
        kinds = [row[0] for row in superuser.execute("SELECT kind FROM chancery.journal_event ORDER BY event_id")]
    assert {"ca.certificate", "ca.deactivated", "ca.default"} <= set(kinds)


def test_sign_asks_first_and_takes_no_for_an_answer(place):
    place.offline("init")
    place.request()
    words = ("sign", place.path / "request", "--out", place.path / "response")
    assert 1 == place.offline(*words, answer="n\n").exit_code
    assert 1 == place.offline(*words, answer="").exit_code
    result = place.offline(*words, "--confirm", "00000 " * 8)
    assert "fingerprint" in str(result.exception)
    assert not (place.path / "response").exists()
    data = (place.path / "request").read_bytes()
    assert 0 == place.offline(*words, "--confirm", fingerprint(data)).exit_code
    first = (place.path / "response").read_bytes()
    assert 0 == place.offline(*words, "--yes").exit_code
    assert first == (place.path / "response").read_bytes()


def test_what_was_exported_is_what_was_answered_and_needs_no_token(place):
    place.offline("init")
    place.request()
    place.offline("sign", place.path / "request", "--out", place.path / "response", "--yes")
    (place.path / "offline.pin").unlink()
    (place.path / "offline-token").rename(place.path / "locked-away")
    assert 0 == place.offline("export", "--out", place.path / "out").exit_code
    out = place.path / "out"
    [response] = out.glob("*.response")
    assert (place.path / "response").read_bytes() == response.read_bytes()
    root = x509.load_pem_x509_certificate((out / "root.pem").read_bytes())
    assert root.public_bytes(Encoding.DER) == (out / "root.cer").read_bytes()
    assert x509.load_der_x509_crl((out / "root.crl").read_bytes()).is_signature_valid(root.public_key())
    key = load_pem_public_key((out / "root-bundles.pem").read_bytes())
    assert key == decode_response(response.read_bytes(), pinned_key=key).signer_key
    shown = place.offline("show").stdout
    assert "good" in shown
    assert "CN=Example Issuing CA,O=Example" in shown
    assert fingerprint((out / "root.cer").read_bytes()) in shown


def test_a_second_request_names_the_first_exchange(place):
    place.offline("init")
    place.request()
    place.offline("sign", place.path / "request", "--out", place.path / "response", "--yes")
    first = (place.path / "request").rename(place.path / "first")
    words = ("--transaction-id", "issuing-2", "--after-request", first)
    assert "only one" in str(place.request(*words).exception)
    assert 0 == place.request(*words, "--after-response", place.path / "response").exit_code
    assert 2 == decode_request((place.path / "request").read_bytes()).header.number
    result = place.offline("sign", place.path / "request", "--out", place.path / "response", "--yes")
    assert 0 == result.exit_code


def test_bundles_are_shown_before_they_are_believed(place):
    place.offline("init")
    place.request()
    place.offline("sign", place.path / "request", "--out", place.path / "response", "--yes")
    for name, word in (("request", "installation"), ("response", "offline CA")):
        result = run(commands.bundles, "show", place.path / name)
        assert (0, True) == (result.exit_code, word in result.stdout)
        assert fingerprint((place.path / name).read_bytes()) in result.stdout
    (place.path / "request").write_bytes(b"{}")
    assert isinstance(run(commands.bundles, "show", place.path / "request").exception, PKIError)


def test_a_revoked_issuing_ca_is_on_the_exported_crl(place):
    place.offline("init")
    place.request()
    place.offline("sign", place.path / "request", "--out", place.path / "response", "--yes")
    [answer] = decode_response((place.path / "response").read_bytes()).payload.answers
    serial = f"{x509.load_der_x509_certificate(answer.certificate).serial_number:x}"
    assert "no reason" in str(place.offline("revoke", serial, "--reason", "boredom").exception)
    assert "hexadecimal" in str(place.offline("revoke", "xyz", "--reason", "superseded").exception)
    assert 0 == place.offline("revoke", serial, "--reason", "cessationOfOperation").exit_code
    place.offline("export", "--out", place.path / "out")
    crl = x509.load_der_x509_crl((place.path / "out" / "root.crl").read_bytes())
    assert [int(serial, 16)] == [one.serial_number for one in crl]


def test_what_is_missing_or_wrong_is_said_in_words(place):
    for command in ("show", "export"):
        words = ("--out", place.path / "out") if command == "export" else ()
        assert "offline init" in str(place.offline(command, *words).exception)
    (place.path / "issuing.csr").write_bytes(b"-----BEGIN NOTHING-----")
    assert "certification request" in str(place.request().exception)
    place.offline("init")
    (place.path / "big").write_bytes(b"x" * (1 << 21))
    result = place.offline("sign", place.path / "big", "--out", place.path / "response", "--yes")
    assert "larger than" in str(result.exception)


def test_an_import_under_another_key_is_refused(place):
    place.offline("init")
    place.request()
    place.offline("sign", place.path / "request", "--out", place.path / "response", "--yes")
    place.offline("export", "--out", place.path / "out")
    other = ceremonies.OTHER_REQUESTER.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (place.path / "out" / "root-bundles.pem").write_bytes(other)
    assert "pinned" in str(place.take_in().exception)
    (place.path / "out" / "root-bundles.pem").write_bytes(b"nothing")
    assert "public key" in str(place.take_in().exception)
