"""The life of issuers as people run it: an openssl root, a software token, the real database."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from chancery.audit.auditor import audit
from chancery.cli.clock import SystemClock
from chancery.cli.commands_ca_import import check_allowed
from chancery.config import WorkerConfig, load
from chancery.errors import OperatorError
from chancery.postgres.auditing import PgAuditReader
from chancery.postgres.revocation import PgRevocationStore
from chancery.postgres.session import connect
from hierarchykit import Office, OpenSSLCA, openssl

pytestmark = [pytest.mark.filterwarnings("ignore::chancery.errors.InsecureWarning"), pytest.mark.postgres]
DER = Encoding.DER
SUBJECT = "CN=Example Issuing CA,O=Example"


@pytest.fixture
def root(tmp_path):
    return OpenSSLCA(tmp_path / "root", "External Root")


@pytest.fixture
def office(tmp_path, database):
    (tmp_path / "office").mkdir()
    made = Office(tmp_path / "office", database.role("worker"))
    yield made
    made.session.close()


def events(database) -> list[tuple[str, str]]:
    with connect(database.superuser) as connection:
        return connection.execute("SELECT kind, subject FROM chancery.journal_event ORDER BY event_id").fetchall()


def begin(office, root, **signed):
    """An issuer under an external root."""
    csr = office.request("issuing", "--subject", SUBJECT)
    return office.install("issuing", root.sign(csr, "issuing.pem", **signed), "--chain", root.certificate)


def test_a_subordinate_under_an_external_root(office, root, database):
    result = begin(office, root)
    assert (0, None) == (result.exit_code, result.exception)
    records = office.records()
    assert {"external-root", "issuing"} == set(records)
    issuing, above = records["issuing"], records["external-root"]
    assert (above.issuer_id, "issuing", "issuing") == (issuing.parent_id, issuing.token_label, issuing.key_label)
    assert (None, None) == (above.token_label, above.key_label)
    assert "a new issuer" in result.stdout
    assert [
        ("key.generated", "key:issuing"),
        ("ca.requested", "issuer:issuing"),
        ("ca.imported", "issuer:external-root"),
        ("ca.imported", "issuer:issuing"),
    ] == events(database)
    again = office.install("issuing", root.path / "issuing.pem")
    assert "nothing new" in again.stdout
    assert 4 == len(events(database))


def test_renewal_with_the_same_key_and_cross_certification(office, root, database, tmp_path):
    begin(office, root)
    old = office.records()["issuing"]
    other = OpenSSLCA(tmp_path / "other", "Other Root")
    csr = office.request("issuing")
    renewed = root.sign(csr, "renewed.pem", days=2000)
    assert "stays valid" in office.install("issuing", renewed).stdout
    crossed = other.sign(csr, "crossed.pem")
    assert "cross-certificate" in office.install("issuing", crossed, "--chain", other.certificate).stdout
    now = office.records()["issuing"]
    assert x509.load_pem_x509_certificate(renewed.read_bytes()) == x509.load_der_x509_certificate(now.certificate)
    assert [old.certificate, x509.load_pem_x509_certificate(crossed.read_bytes()).public_bytes(DER)] == [
        one.certificate for one in now.further
    ]
    assert [old.parent_id, office.records()["other-root"].issuer_id] == [one.parent_id for one in now.further]
    assert old.key_label == now.key_label
    for anchor, certificate in ((root, renewed), (other, crossed)):
        assert ": OK" in openssl("verify", "-CAfile", anchor.certificate, certificate)
    assert 2 == [kind for kind, _ in events(database)].count("ca.certificate")


def test_a_new_key_takes_the_place_of_the_old_one_in_one_moment(office, root, database):
    begin(office, root)
    csr = office.request("issuing-2", "--like", "issuing", "--key-label", "second")
    words = ("--replaces", "issuing", "--key-label", "second")
    result = office.install("issuing-2", root.sign(csr, "second.pem"), *words)
    assert (0, None) == (result.exit_code, result.exception)
    first, second = office.records()["issuing"], office.records()["issuing-2"]
    assert (False, False, True, True) == (first.active, first.default, second.active, second.default)
    one, two = (x509.load_der_x509_certificate(record.certificate) for record in (first, second))
    assert one.subject == two.subject
    assert one.public_key() != two.public_key()
    assert [("ca.imported", "issuer:issuing-2"), ("ca.default", "issuer:issuing-2")] == events(database)[-3:-1]
    assert ("ca.deactivated", "issuer:issuing") == events(database)[-1]


def test_deactivation_and_back(office, root):
    begin(office, root)
    assert "deactivated" in office.ca("deactivate", "issuing", "--reason", "audit", answer="y\n").stdout
    assert not office.records()["issuing"].active
    assert 1 == office.ca("deactivate", "issuing", answer="n\n").exit_code
    for command, said in (("deactivate", "so already"), ("default", "is deactivated")):
        assert said in str(office.ca(command, "issuing", "--yes").exception)
    assert "activated" in office.ca("activate", "issuing", "--yes").stdout
    assert "is the default" in office.ca("default", "issuing", "--yes").stdout
    assert office.records()["issuing"].default
    assert "the key of issuer" in str(office.ca("deactivate", "external-root", "--yes").exception)
    assert isinstance(office.ca("deactivate", "nobody", "--yes").exception, OperatorError)


def test_refusals_say_what_is_wrong(office, root, tmp_path):
    begin(office, root)
    other = OpenSSLCA(tmp_path / "other", "Other Root")
    csr = office.request("sub-2", "--subject", "CN=Second,O=Example")
    made = root.sign(csr, "sub-2.pem")
    for name, file, words, said in (
        ("sub-2", made, ("--key-label", "issuing"), "is not for the key"),
        ("sub-2", other.sign(csr, "no-chain.pem"), (), "no certificate of"),
        ("issuing", made, (), "is not for the key"),
        ("sub-2", made, ("--replaces", "issuing"), "another subject"),
        ("sub-2", made, ("--replaces", "nobody"), "there is no issuer nobody"),
        ("sub-2", root.sign(csr, "expired.pem", days=-1), (), "not now"),
        ("sub-2", csr, (), "is no certificate"),
    ):
        result = office.install(name, file, *words)
        assert said in str(result.exception), (said, result.exception)
    assert {"external-root", "issuing"} == set(office.records())


def ca_elsewhere(root, tmp_path, *revoked: int):
    """A CA of somebody, by openssl, with a last CRL; `revoked` are serials on it."""
    elsewhere = OpenSSLCA(tmp_path / "elsewhere", "Old CA")
    openssl("req", "-new", "-key", elsewhere.key, "-subj", elsewhere.subject, "-out", tmp_path / "old.csr")
    elsewhere.certificate = root.sign(tmp_path / "old.csr", "old.pem", length=0)
    index = "".join(
        f"R\t300101000000Z\t250101000000Z,keyCompromise\t{one:02X}\tunknown\t/CN=x\n" for one in revoked
    )
    (elsewhere.path / "index").write_text(index)
    (elsewhere.path / "number").write_text("2A\n")
    (elsewhere.path / "ca.cnf").write_text(
        f"[ca]\ndefault_ca = it\n[it]\ndatabase = {elsewhere.path}/index\ncrlnumber = {elsewhere.path}/number\n"
        "default_md = sha256\ncrl_extensions = e\n[e]\nauthorityKeyIdentifier = keyid\n"
    )
    words = ("-config", elsewhere.path / "ca.cnf", "-cert", elsewhere.certificate, "-keyfile", elsewhere.key)
    openssl("ca", "-gencrl", *words, "-crldays", 5, "-out", elsewhere.path / "last.crl")
    return elsewhere


def pkcs12_of(elsewhere, root):
    file = elsewhere.path / "old.p12"
    (elsewhere.path / "password").write_text("secret")
    words = ("-inkey", elsewhere.key, "-in", elsewhere.certificate, "-certfile", root.certificate)
    openssl("pkcs12", "-export", *words, "-passout", f"file:{elsewhere.path}/password", "-out", file)
    return file


def test_an_existing_ca_is_taken_over_with_what_it_revoked(office, root, database, tmp_path):
    """R15: its numbers go on; nothing that it revoked is forgotten."""
    elsewhere = ca_elsewhere(root, tmp_path, 0x1234, 0x7F)
    file = pkcs12_of(elsewhere, root)
    words = ("--password-file", elsewhere.path / "password", "--chain", root.certificate, "--yes")
    result = office.ca("import-pkcs12", "old", file, *words)
    assert "must not be forgotten" in str(result.exception)
    result = office.ca("import-pkcs12", "old", file, *words, "--crl", elsewhere.path / "last.crl")
    assert (0, None) == (result.exit_code, result.exception)
    record = office.records()["old"]
    place = office.store.keys()[record.issuer_id]
    assert (True, True) == (place.imported, place.software)
    key = office.token().find_key("old")
    assert x509.load_der_x509_certificate(record.certificate).public_key() == key.public_key()
    revocations = PgRevocationStore(office.session)
    with office.session.transaction() as connection:
        listed = connection.execute(
            "SELECT serial, reason FROM chancery.certificate_status WHERE issuer_id = %s", [record.issuer_id]
        ).fetchall()
    assert [(b"\x12\x34", 1), (b"\x7f", 1)] == sorted(map(tuple, listed))
    assert 0x2B == revocations.reserve_crl_number(record.issuer_id, [])
    assert [("key.imported", "key:old"), ("ca.imported", "issuer:external-root")] == events(database)[:2]
    again = office.ca("import-pkcs12", "old", file, *words, "--crl", elsewhere.path / "last.crl")
    assert "already" in str(again.exception)


def test_a_ca_whose_key_is_in_the_token_is_taken_over(office, root, tmp_path):
    elsewhere = ca_elsewhere(root, tmp_path)
    office.token().import_key("there", load_pem_private_key(elsewhere.key.read_bytes(), None))
    words = ("--key-label", "there", "--chain", root.certificate, "--yes")
    result = office.ca("import", "old", elsewhere.certificate, *words, "--without-crl")
    assert (0, None) == (result.exit_code, result.exception)
    assert not office.store.keys()[office.records()["old"].issuer_id].imported


def test_r7_production_takes_no_key_that_was_outside_a_token(office):
    def config(deployment: str, *, override: bool) -> WorkerConfig:
        office.deployment, office.extra = deployment, f"allow_imported_keys = {str(override).lower()}"
        office.write()
        found = load(office.config)
        assert isinstance(found, WorkerConfig)
        return found

    check_allowed(config("laptop", override=False))
    check_allowed(config("production", override=True))
    with pytest.raises(OperatorError, match="R7"):
        check_allowed(config("production", override=False))


def test_a_crl_of_another_ca_is_refused(office, root, tmp_path):
    elsewhere = ca_elsewhere(root, tmp_path)
    file = pkcs12_of(elsewhere, root)
    words = ("--password-file", elsewhere.path / "password", "--chain", root.certificate, "--yes")
    (tmp_path / "another").mkdir()
    another = ca_elsewhere(root, tmp_path / "another")
    result = office.ca("import-pkcs12", "old", file, *words, "--crl", another.path / "last.crl")
    assert "is not signed by" in str(result.exception)
    assert {} == office.records()


def test_the_auditor_finds_the_acts_as_journalled_and_edits_as_edits(office, root, database, tmp_path):
    """R27, R29."""
    begin(office, root)
    csr = office.request("issuing")
    other = OpenSSLCA(tmp_path / "other", "Other Root")
    assert 0 == office.install("issuing", root.sign(csr, "renewed.pem", days=2000)).exit_code
    assert 0 == office.install("issuing", other.sign(csr, "x.pem"), "--chain", other.certificate).exit_code
    assert 0 == office.ca("deactivate", "issuing", "--yes").exit_code
    elsewhere = ca_elsewhere(root, tmp_path, 0x99)
    words = ("--password-file", elsewhere.path / "password", "--chain", root.certificate, "--yes")
    file = pkcs12_of(elsewhere, root)
    taken = office.ca("import-pkcs12", "old", file, *words, "--crl", elsewhere.path / "last.crl")
    assert (0, None) == (taken.exit_code, taken.exception)

    def findings():
        with PgAuditReader(database.role("auditor")) as reader:
            report = audit(reader, SystemClock().now())
        return sorted({one.kind.value for one in report.findings if "no CRL" not in one.what})

    assert [] == findings()
    with connect(database.superuser) as connection:
        connection.execute("ALTER TABLE chancery.issuer_act DISABLE TRIGGER ALL")
        connection.execute("DELETE FROM chancery.issuer_act")
        connection.execute("ALTER TABLE chancery.imported_revocation DISABLE TRIGGER ALL")
        connection.execute("DELETE FROM chancery.imported_revocation")
    assert ["journal-differs", "not-journalled", "stray"] == findings()
