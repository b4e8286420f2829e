"""The drill of continuity: the primary's database is lost, a standby goes on, and hands back its work."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess

import pytest
import typer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from typer.testing import CliRunner

import cakit
from cakit import PROFILES, make_csr
from chancery.asn1.der import integer_octets
from chancery.asn1.signature import KeySigner
from chancery.audit.auditor import audit
from chancery.audit.log import Sequencer
from chancery.audit.verify import verify
from chancery.ca.crl import CRLMaking, CRLSettings, make_crl
from chancery.ca.issuance import Issuing, issue_batch
from chancery.ca.issuer import Issuer, IssuerURLs
from chancery.ca.revocation import settle_revocations
from chancery.cli import commands_key
from chancery.cli import offline as commands
from chancery.cli.clock import SystemClock, SystemEntropy
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.offline.bundle import fingerprint
from chancery.offline.kit import BACK_FORMAT, HandBack, decode_kit, encode_hand_back
from chancery.offline.standby import received_event
from chancery.pkcs11.softtoken import SoftToken
from chancery.ports import (
    Event,
    EventKind,
    NewRequest,
    NewRevocation,
    Operator,
    RevocationReason,
    Role,
    StatusState,
)
from chancery.postgres.auditing import PgAuditReader
from chancery.postgres.continuity import PgContinuityStore
from chancery.postgres.directory import PgDirectory
from chancery.postgres.dump import go_on
from chancery.postgres.embedded import binaries
from chancery.postgres.issuance import PgIssuanceStore
from chancery.postgres.journal import PgJournalStore
from chancery.postgres.requests import PgRequestQueue
from chancery.postgres.revocation import PgRevocationStore
from chancery.postgres.roles import create_database
from chancery.postgres.session import AsyncPool, Session, connect
from chancery.postgres.status import PgStatusReader
from hierarchykit import PIN, Office, OpenSSLCA, openssl

pytestmark = [pytest.mark.filterwarnings("ignore::chancery.errors.InsecureWarning")]
CLOCK = SystemClock()
JOURNAL = KeySigner(ec.generate_private_key(ec.SECP256R1()))
ORIGIN = "localhost/journal"


def run(app, *words, answer="", ok=True):
    result = CliRunner().invoke(app, [str(word) for word in words], input=answer)
    assert isinstance(result.exception, SystemExit | OperatorError | PKIError | None), result.exception
    assert not ok or result.exit_code == 0, (result.exception, result.output)
    return result


class Site:
    """A primary with an issuing CA of its own and a standby's, under one root; and the standby's machine."""

    def __init__(self, path, database):
        self.path, self.database = path, database
        (path / "primary").mkdir()
        self.office = Office(path / "primary", database.role("worker"))
        self.root = OpenSSLCA(path / "root", "Root")
        issuing = self.root.sign(self.office.request("issuing", "--subject", "O=Others,CN=Issuing"), "issuing.pem")
        assert 0 == self.office.install("issuing", issuing, "--chain", self.root.certificate).exit_code
        token = self.office.token()
        token.generate_key("kits", "ec-p256")
        self.signer = KeySigner(token.find_key("issuing"))
        self.token = token
        self._standby()
        for profile in PROFILES.values():
            self.office.store.add_profile(
                profile.name, profile.version, profile.sha256, profile.source, CLOCK.now()
            )
        self.certificates = {}

    def _configure(self, name):
        """The configuration of the standby with this name, whose token is `NAME-token`."""
        (self.path / f"{name}.toml").write_text(
            f"""
process = "offline"
deployment = "laptop"
directory = "{self.path}/{name}"
name = "{name}"
subject = "O=Others,CN={name.title()}"
instance = 113
key_kind = "ec-p256"
[token]
label = "{name}"
soft_directory = "{self.path}/{name}-token"
pin_file = "{self.path}/primary/pin"
"""
        )

    def _standby(self):
        (self.path / "standby-token").mkdir()
        self._configure("standby")
        app = typer.Typer()
        commands_key.register(app)
        make = ("key", "make", "--config", self.path / "standby.toml", "--label")
        csr = self.path / "standby.csr"
        csr.write_text(run(app, *make, "standby", "--subject", "O=Others,CN=Standby").stdout)
        (self.path / "standby-key.pem").write_text(run(app, *make, "standby-bundles").stdout)
        made = self.root.sign(csr, "standby.pem")
        assert 0 == self.office.install("standby", made, "--external").exit_code

    def queue(self, act):
        async def go():
            async with AsyncPool(self.database.role("ra")) as pool:
                queue = PgRequestQueue(pool)
                try:
                    return await act(queue, pool)
                finally:
                    await queue.close()

        return asyncio.run(go())

    def issuer(self):
        urls = IssuerURLs("http://localhost:8080/ocsp", "http://localhost:8080/crl/issuing.crl", None)
        return Issuer(self.office.records()["issuing"], self.signer, urls)

    def issue(self, name, csr, profile, requestor="olga"):
        """Issue at the primary, as RA and worker do it."""
        new = NewRequest(name, "rest", requestor, profile, None, csr, (), CLOCK.now())
        asked = self.queue(lambda queue, _: queue.submit(new, [received_event(new)]))
        store = PgIssuanceStore(self.office.session)
        issuing = Issuing(
            store, {"issuing": self.issuer()}, "issuing", PROFILES, CLOCK, SystemEntropy(), 1, "worker-1"
        )
        assert 1 == issue_batch(issuing, store.take("worker-1", 10, CLOCK.now())).issued
        outcome = self.queue(lambda queue, _: queue.outcome(asked.request_id))
        self.certificates[name] = x509.load_der_x509_certificate(outcome.certificate)
        return self.certificates[name]

    def enrol(self, name, *roles):
        certificate = self.issue(f"operator-{name}", make_csr(f"CN={name},O=Example,C=XX"), "tls-client")
        found = certificate.fingerprint(certificate.signature_hash_algorithm)
        detail = {"certificate_sha256": found.hex(), "roles": sorted(r.value for r in roles), "profiles": None}
        event = Event(EventKind.OPERATOR_ENROLLED, CLOCK.now(), "test", f"operator:{name}", detail)
        operator = Operator(found, name, frozenset(roles))
        self.queue(lambda _, pool: PgDirectory(pool, CLOCK).add_operator(operator, CLOCK.now(), [event]))

    def revoke(self, name, reason=RevocationReason.SUPERSEDED):
        """Revoke, suspend or reinstate at the primary, and make its CRL."""
        serial = integer_octets(self.certificates[name].serial_number)
        wish = NewRevocation("issuing", serial, reason, None, "olga", CLOCK.now())
        about = f"{self.office.records()['issuing'].issuer_id}:{serial.hex()}"
        event = Event(
            EventKind.REVOCATION_REQUESTED, wish.received_at, "olga", about, {"reason": reason.name.lower()}
        )
        self.queue(lambda queue, _: queue.submit_revocation(wish, [event]))
        assert 1 == settle_revocations(PgRevocationStore(self.office.session), CLOCK, "worker-1")
        return self.publish()

    def row(self, name):
        """State, reason and day of revocation in the database."""
        octets = integer_octets(self.certificates[name].serial_number).hex()
        what = "SELECT state, reason, revoked_at FROM chancery.certificate_status WHERE serial = "
        return self.sql(f"{what} '\\x{octets}'")[0]

    def serial(self, name):
        return f"{self.certificates[name].serial_number:x}"

    def publish(self):
        store = PgRevocationStore(self.office.session)
        return make_crl(CRLMaking(self.issuer(), store, CLOCK, "worker-1", CRLSettings()))

    def prepare(self, out="kit", *words):
        given = ("--issuer", "standby", "--standby-key", self.path / "standby-key.pem", "--key-label", "kits")
        run(commands.app, "prepare", "--config", self.office.config, *given, "--out", self.path / out, *words)
        return self.path / out

    def copy_token(self):
        """A standby whose token holds a copy of the issuing CA's own key, by a kit for that CA."""
        shutil.copytree(self.path / "primary" / "tokens", self.path / "issuing-token")
        self._configure("issuing")
        config, key = self.path / "issuing.toml", self.path / "issuing-key.pem"
        app = typer.Typer()
        commands_key.register(app)
        key.write_text(run(app, "key", "make", "--config", config, "--label", "issuing-bundles").stdout)
        given = ("--issuer", "issuing", "--standby-key", key, "--key-label", "kits", "--out", self.path / "kit")
        run(commands.app, "prepare", "--config", self.office.config, *given)

    def standby(self, command, *words, kit="kit", config="standby.toml", **how):
        given = ("--config", self.path / config, "--kit", self.path / kit)
        return run(commands.app, command, *words, *given, **how)

    def standby_issue(self, name, *words, **how):
        csr = self.path / f"{name}.csr"
        if not csr.exists():
            csr.write_bytes(make_csr("", (f"dns:{name}.example.org",)))
        out = self.path / f"{name}.pem"
        given = ("--csr", csr, "--profile", "tls-server", "--operator", "olga", "--out", out)
        result = self.standby("issue", *given, *words, **how)
        if result.exit_code == 0:
            self.certificates[name] = x509.load_pem_x509_certificate(out.read_bytes())
        return result

    def take_back(self, *words, file="back", ok=True):
        return run(commands.app, "import", self.path / file, "--config", self.office.config, *words, ok=ok)

    def sql(self, query):
        with connect(self.database.superuser) as superuser:
            return superuser.execute(query).fetchall()

    def findings(self):
        """What the auditor has against anything, and the journal's verifier."""
        with PgAuditReader(self.database.role("auditor")) as reader:
            found = [str(one) for one in audit(reader, CLOCK.now()).findings]
        with contextlib.closing(Session(self.database.role("worker"))) as session:
            sequencer = Sequencer(PgJournalStore(session), JOURNAL, ORIGIN, CLOCK)
            while sequencer.run_once():
                pass
            journal = verify(PgJournalStore(session), ORIGIN, JOURNAL.public_key, CLOCK.now())
        return found + [str(one) for one in journal.findings]

    def status(self, name):
        """What OCSP is answered from."""
        certificate = self.certificates[name]
        records = self.office.records().values()
        issuer = next(one.issuer_id for one in records if _signed_by(certificate, one.certificate))
        key = (issuer, integer_octets(certificate.serial_number))

        async def go():
            async with AsyncPool(self.database.role("ocsp")) as pool:
                return (await PgStatusReader(pool, CLOCK).statuses([key]))[key].state

        return asyncio.run(go())

    def openssl_says(self, name):
        """Whether openssl takes a certificate, with the newest CRL of its issuer from the database."""
        certificate = self.certificates[name]
        records = self.office.records().values()
        issuer = next(one for one in records if _signed_by(certificate, one.certificate))
        crl = PgRevocationStore(self.office.session).latest_crl(issuer.issuer_id)
        assert crl is not None
        leaf, above, listed = (self.path / f"openssl.{n}" for n in ("pem", "ca", "crl"))
        leaf.write_bytes(certificate.public_bytes(Encoding.PEM))
        parsed = x509.load_der_x509_certificate(issuer.certificate)
        above.write_bytes(parsed.public_bytes(Encoding.PEM))
        listed.write_bytes(x509.load_der_x509_crl(crl.der).public_bytes(Encoding.PEM))
        words = ("-CAfile", self.root.certificate, "-untrusted", above, "-crl_check", "-CRLfile", listed, leaf)
        said = openssl("verify", *words, check=False)
        return "good" if f"{leaf}: OK" in said else "revoked" if "certificate revoked" in said else said


def _signed_by(certificate, issuer):
    try:
        certificate.verify_directly_issued_by(x509.load_der_x509_certificate(issuer))
    except (ValueError, TypeError, Exception):  # noqa: BLE001 - InvalidSignature, or another name
        return False
    return True


@pytest.fixture
def site(tmp_path, fresh_database):
    found = Site(tmp_path, fresh_database)
    found.issue("bootstrap", make_csr("CN=x,O=Example,C=XX"), "tls-client")
    found.enrol("olga", Role.OFFICER, Role.REQUESTOR)
    yield found
    found.office.session.close()
    found.token.close()


def postgres(server, program, *words, **how):
    connection = server.superuser
    reach = ("-h", connection.host, "-p", str(connection.port), "-U", connection.user)
    environment = {**os.environ, "PGPASSWORD": connection.password().decode()}
    command = [binaries() / program, *reach, *words]
    done = subprocess.run(command, capture_output=True, check=False, env=environment, **how)
    assert done.returncode == 0, done.stderr
    return done.stdout


def lose_and_restore(site, server):
    """Dump, lose the database with its disk, and return a function that brings back what was dumped."""
    dump = postgres(server, "pg_dump", "-Fc", site.database.name)
    site.office.session.close()
    with connect(server.superuser) as superuser:
        superuser.execute(f'DROP DATABASE "{site.database.name}" WITH (FORCE)')

    def restore():
        with connect(server.superuser) as superuser:
            create_database(superuser, site.database.name)
        postgres(
            server, "pg_restore", "-d", site.database.name, "--exit-on-error", "--clean", "--if-exists", input=dump
        )

    return restore


def test_drill(site, server):
    for name in ("first", "second"):
        site.issue(name, make_csr("", (f"dns:{name}.example.org",)), "tls-server")
    site.revoke("second")
    kit = site.prepare()
    assert [] == site.findings()
    restore = lose_and_restore(site, server)

    # The outage: no database, no network.
    shown = site.standby_issue("third", answer="y\n").stdout
    assert fingerprint(kit.read_bytes()) in shown
    site.standby_issue("fourth")
    third = site.certificates["third"]
    site.standby_issue("third")
    assert third == site.certificates["third"], "the same request has the same answer"
    serial = f"{site.certificates['fourth'].serial_number:x}"
    site.standby("revoke", serial, "--reason", "superseded", "--operator", "olga")
    site.standby("standby-crl", "--out", site.path / "standby.crl")
    listed = x509.load_der_x509_crl((site.path / "standby.crl").read_bytes())
    assert [site.certificates["fourth"].serial_number] == [one.serial_number for one in listed]
    assert 113 == integer_octets(third.serial_number)[2]
    shown = site.standby("hand-back", "--out", site.path / "back", answer="y\n").stdout
    bundle = (site.path / "back").read_bytes()
    assert fingerprint(bundle) in shown

    # Fenced: it signs no more, and hands back the same.
    refused = site.standby_issue("fifth", ok=False)
    assert ErrorType.NOT_AUTHORIZED is refused.exception.type
    assert not refused.exception.detail.startswith("offline journal")
    site.standby("hand-back", "--out", site.path / "again")
    assert bundle == (site.path / "again").read_bytes()

    restore()
    assert "verified, nothing changed" in site.take_back().stdout
    assert [] == site.sql("SELECT FROM chancery.standby_hand_back")
    assert fingerprint(bundle) in site.take_back("--yes").stdout
    before = site.sql("SELECT count(*) FROM chancery.journal_event")
    assert "taken back before" in site.take_back("--yes").stdout
    assert before == site.sql("SELECT count(*) FROM chancery.journal_event")

    assert [] == site.findings()
    expected = {"first": "good", "second": "revoked", "third": "good", "fourth": "revoked"}
    assert expected == {name: site.openssl_says(name) for name in expected}
    assert expected == {name: site.status(name).value for name in expected}

    # The next epoch: a new kit knows what the last one did, and its CRLs go on above.
    site.prepare("kit2")
    site.standby_issue("sixth", "--yes", kit="kit2")
    site.standby("standby-crl", "--out", site.path / "standby2.crl", kit="kit2")
    again = x509.load_der_x509_crl((site.path / "standby2.crl").read_bytes())
    assert [site.certificates["fourth"].serial_number] == [one.serial_number for one in again]
    serial = f"{third.serial_number:x}"
    site.standby("revoke", serial, "--reason", "keyCompromise", "--operator", "olga", kit="kit2")
    site.standby("hand-back", "--out", site.path / "back2", "--yes", kit="kit2")
    site.take_back("--yes", file="back2")
    assert [] == site.findings()
    assert ("revoked", "good") == (site.openssl_says("third"), site.openssl_says("sixth"))


def test_a_root_has_no_kit(site):
    store = PgContinuityStore(site.office.session)
    roots = [one.name for one in site.office.records().values() if one.parent_id is None]
    assert 1 == len(roots)
    with pytest.raises(PKIError, match="a root"):
        store.gather(roots[0], CLOCK.now())


COPY = {"config": "issuing.toml"}


def test_a_copied_key_goes_on_above_the_numbers_of_a_restored_primary(site):
    for name in ("first", "second"):
        site.issue(name, make_csr("", (f"dns:{name}.example.org",)), "tls-server")
    site.copy_token()
    site.revoke("second")
    site.standby_issue("third", "--yes", **COPY)
    site.standby("revoke", site.serial("third"), "--reason", "superseded", "--operator", "olga", **COPY)
    site.standby("hand-back", "--out", site.path / "back", "--yes", **COPY)
    # The back-up is as old as the primary is now; numbers go on far above those that it may have published since.
    restored = Event(EventKind.BACKUP_RESTORED, CLOCK.now(), "test", "backup:x", {})
    assert ["issuing"] == go_on(site.database.role("owner"), restored)
    site.take_back("--yes")
    site.publish()
    expected = {"first": "good", "second": "revoked", "third": "revoked"}
    assert expected == {name: site.openssl_says(name) for name in expected}
    assert [] == site.findings()


def test_what_was_revoked_on_both_sides_stays_as_it_is_here(site):
    for name in ("both", "held", "held since", "released since", "released before"):
        site.issue(name, make_csr(f"CN={name},O=Example,C=XX", (), cakit.key(name)), "tls-client")
    for name in ("held", "released since", "released before"):
        site.revoke(name, RevocationReason.CERTIFICATE_HOLD)
    site.revoke("released before", RevocationReason.REMOVE_FROM_CRL)
    site.copy_token()
    site.revoke("held since", RevocationReason.CERTIFICATE_HOLD)
    site.revoke("released since", RevocationReason.REMOVE_FROM_CRL)
    site.revoke("both", RevocationReason.SUPERSEDED)
    here, held = site.row("both"), {name: site.row(name) for name in ("held", "held since")}
    site.standby_issue("third", "--yes", **COPY)
    names = ("both", "held", "held since", "released since", "released before", "third")
    for name in names:
        site.standby("revoke", site.serial(name), "--reason", "keyCompromise", "--operator", "olga", **COPY)
    site.standby("hand-back", "--out", site.path / "back", "--yes", **COPY)
    site.take_back("--yes")
    assert here == site.row("both")
    assert "taken back before" in site.take_back("--yes").stdout
    [refused] = site.sql("SELECT detail FROM chancery.revocation_request WHERE state = 'refused'")
    assert "already revoked here" in refused[0]
    assert {("revoked", 1)} == {site.row(name)[:2] for name in names[1:]}
    # The day of a suspension stays (X.509 9.5.3.2).
    assert {name: one[2] for name, one in held.items()} == {name: site.row(name)[2] for name in held}
    site.publish()
    assert [] == site.findings()
    assert {"revoked"} == {site.openssl_says(name) for name in names}


def test_a_fork_is_refused(site):
    kit = decode_kit(site.prepare().read_bytes())
    site.standby_issue("a", "--yes")
    # A copy of the machine, made in the outage, goes its own way.
    copy = site.path / "copy"
    subprocess.run(["cp", "-r", site.path / "standby", copy], check=True)
    site.standby("hand-back", "--out", site.path / "back", "--yes")
    site.take_back("--yes")
    subprocess.run(["rm", "-r", site.path / "standby"], check=True)
    copy.rename(site.path / "standby")
    site.standby_issue("b")
    site.standby("hand-back", "--out", site.path / "fork", "--yes")
    refused = site.take_back("--yes", file="fork", ok=False)
    assert ErrorType.BAD_REQUEST is refused.exception.type
    assert "a fork" in refused.exception.detail
    assert [(1,)] == site.sql("SELECT count(*) FROM chancery.standby_hand_back")
    assert kit.kit.epoch == 1


def test_a_kit_is_asked_about_until_it_is_adopted(site):
    kit = site.prepare()
    # What an attempt with another token leaves.
    shutil.move(site.path / "standby-token", site.path / "away")
    shutil.copytree(site.path / "primary" / "tokens", site.path / "standby-token")
    assert 0 != site.standby_issue("a", answer="y\n", ok=False).exit_code
    shutil.rmtree(site.path / "standby-token")
    shutil.move(site.path / "away", site.path / "standby-token")
    refused = site.standby_issue("a", answer="n\n", ok=False)
    assert 1 == refused.exit_code
    assert "a" not in site.certificates
    assert fingerprint(kit.read_bytes()) in refused.output
    site.standby_issue("a", answer="y\n")
    assert fingerprint(kit.read_bytes()) not in site.standby_issue("b").output


def test_what_a_kit_does_not_allow_is_refused_on_the_standby(site):
    site.prepare()
    site.standby_issue("a", "--yes")
    csr = site.path / "a.csr"
    for profile, operator, kind in (
        ("tls-server", "mallory", ErrorType.NOT_AUTHORIZED),
        ("sub-ca", "olga", ErrorType.BAD_CERT_TEMPLATE),
        ("ocsp-signing", "olga", ErrorType.NOT_AUTHORIZED),
    ):
        given = ("--csr", csr, "--profile", profile, "--operator", operator, "--out", site.path / "x.pem")
        refused = site.standby("issue", *given, ok=False)
        assert kind is refused.exception.type, (profile, refused.exception)
    refused = site.standby("revoke", "0123", "--reason", "superseded", "--operator", "olga", ok=False)
    assert ErrorType.BAD_CERT_ID is refused.exception.type


@pytest.mark.parametrize("what", ["line gone", "signed by another", "other kit", "event"])
def test_a_changed_hand_back_is_refused(site, what):
    kit = decode_kit(site.prepare().read_bytes())
    site.standby_issue("a", "--yes")
    site.standby("hand-back", "--out", site.path / "back", "--yes")
    journal = (site.path / "standby" / "epoch-1" / "journal.jsonl").read_text().splitlines()[:-1]
    token = SoftToken(site.path / "standby-token", "standby", lambda: PIN)
    signer = KeySigner(token.find_key("standby-bundles"))
    lines, sha = tuple(journal), kit.sha256
    if what == "line gone":
        lines = (*lines[:3], *lines[4:])
    elif what == "other kit":
        sha = "0" * 64
    elif what == "event":
        lines = (*lines[:-1], re.sub("certificate.issued", "operator.removed", lines[-1]))
    if what == "signed by another":
        signer = KeySigner(token.generate_key("other", "ec-p256"))
    back = HandBack(created_at=kit.kit.created_at, epoch=1, format=BACK_FORMAT, kit=sha, lines=lines)
    (site.path / "back").write_bytes(encode_hand_back(signer, back))
    token.close()
    refused = site.take_back("--yes", ok=False)
    expected = {
        "line gone": ErrorType.BAD_DATA_FORMAT,
        "signed by another": ErrorType.NOT_AUTHORIZED,
        "other kit": ErrorType.BAD_REQUEST,
        "event": ErrorType.BAD_REQUEST,
    }
    assert expected[what] is refused.exception.type, refused.exception
    assert [(0,)] == site.sql("SELECT count(*) FROM chancery.standby_hand_back")
    assert StatusState.GOOD is site.status("bootstrap")
