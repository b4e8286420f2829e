"""CRLs of shards and deltas as others read them, and over histories (RFC 5280 5.2.4, 5.2.5, 6.3; R15)."""

from __future__ import annotations

import datetime
import subprocess

import pytest
from asn1crypto import crl as asn1_crl
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from pgdata import SECOND, WORKER, Office, intent, serial
from test_pg_crl_scopes import BASE, DELTAS, made
from test_pg_suspension import held, released

import pkilintkit
from cakit import PROFILES, issuing_issuer, make_csr
from chancery.asn1 import der
from chancery.audit import crls
from chancery.audit.certificates import Ground
from chancery.ca.crl import CRLMaking, make_crl
from chancery.ca.issuer import IssuerURLs, shard_url
from chancery.pkix.profile import grant, parse_profile, requested
from chancery.ports import COMPLETE, CRLScope, CRLShard
from chancery.ports.auditing import AuditedCRL, AuditedIssuer
from chancery.postgres.auditing import PgAuditReader
from fakes import FakeClock
from pg import AT

DELTA = CRLScope(delta=True)
SHARDS = (CRLShard(1, shard_url(BASE, 1)), CRLShard(2, shard_url(BASE, 2)))


@pytest.fixture
def office(database):
    return Office(database)


def issuer(*shards):
    found = issuing_issuer(urls=IssuerURLs(None, BASE, None, deltas=True, shards=shards))
    object.__setattr__(found.record, "issuer_id", 1)
    return found


def crl(office, by, at, scope=COMPLETE, url=None) -> bytes:
    return make_crl(CRLMaking(by, office.revocations, FakeClock(at), WORKER, DELTAS, scope, url)).der


def leaf(by, number: int):
    text = PROFILES["tls-server"].source + 'pointers = ["ocsp", "crl", "ca-issuers", "freshest"]\n'
    csr = make_csr(names=("dns:www.example.org",))
    linted = by.prepare(grant(parse_profile(text), requested(csr), by.limits, AT), serial(number))
    return x509.load_der_x509_certificate(by.issue(linted)), linted.shard


def verified(tmp_path, by, certificate, *lists) -> str:
    """What openssl says of a certificate, with these CRLs."""
    (tmp_path / "ca.pem").write_bytes(by.certificate.public_bytes(Encoding.PEM))
    (tmp_path / "leaf.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    pem = b"".join(x509.load_der_x509_crl(one).public_bytes(Encoding.PEM) for one in lists)
    (tmp_path / "crls.pem").write_bytes(pem)
    at = str(int((AT + datetime.timedelta(minutes=1)).timestamp()))
    words = ["openssl", "verify", "-partial_chain", "-crl_check", "-extended_crl", "-use_deltas", "-attime"]
    files = ["-CAfile", "ca.pem", "-CRLfile", "crls.pem", "leaf.pem"]
    done = subprocess.run([*words, at, *files], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (0 == done.returncode) == ("OK" in done.stdout), done
    return done.stdout + done.stderr


def test_openssl_reads_a_revocation_a_hold_and_its_end_through_base_and_delta(office, tmp_path):
    by = issuer()
    for number in range(1, 5):
        office.issue(number)
    held(office, 3)
    base = crl(office, by, AT)
    office.revoke(1, AT + SECOND)
    held(office, 2)
    released(office, 3)
    delta = crl(office, by, AT + 2 * SECOND, DELTA)
    said = {number: verified(tmp_path, by, leaf(by, number)[0], base, delta) for number in range(1, 5)}
    assert {1: True, 2: True, 3: False, 4: False} == {
        number: "certificate revoked" in words for number, words in said.items()
    }
    assert said[3].strip().endswith("leaf.pem: OK")
    # Without the delta the base still says what was.
    assert "OK" in verified(tmp_path, by, leaf(by, 1)[0], base, base).splitlines()[-1]


def test_r15_the_distribution_point_of_a_certificate_and_of_its_crl_are_the_same_bytes(office, tmp_path):
    by = issuer(*SHARDS)
    office.issue(1)
    office.issue(2)
    for number in (1, 2):
        certificate, shard = leaf(by, number)
        url = SHARDS[shard - 1].url
        for scope in (CRLScope(shard), CRLScope(shard, delta=True)):
            made_ = crl(office, by, AT + (2 * number + scope.delta) * SECOND, scope, url)
            parsed = x509.load_der_x509_crl(made_)
            name = der.tlv(0x86, url.encode())
            point = der.tlv(0xA0, der.tlv(0xA0, name))
            [cdp] = [one.value for one in certificate.extensions if one.oid.dotted_string == "2.5.29.31"]
            [idp] = [one for one in parsed.extensions if one.oid.dotted_string == "2.5.29.28"]
            assert der.tlv(0x30, der.tlv(0x30, point)) == cdp.public_bytes()
            assert (True, der.tlv(0x30, point)) == (idp.critical, idp.value.public_bytes())
            assert set() == pkilintkit.findings("crl", made_)
            # And another implementation encodes what it reads to the same bytes.
            assert made_ == asn1_crl.CertificateList.load(made_).copy().dump(force=True)


@pytest.mark.parametrize("scope", [CRLScope(1), CRLScope(1, delta=True), COMPLETE])
def test_the_auditor_finds_an_entry_dropped_from_a_shard_a_delta_or_the_complete_crl(office, scope):
    by, url = issuer(*SHARDS), SHARDS[0].url
    for number in (1, 2):
        (request_id,) = office.submit(f"issue {number}")
        office.store.take(WORKER, 1, AT)
        office.store.record_intents(WORKER, [intent(request_id, number, shard=number)], [], [])
    crl(office, by, AT, CRLScope(scope.shard), url)
    without = crl(office, by, AT + SECOND, scope, url)
    office.revoke(1, AT + SECOND)
    office.revoke(2, AT + SECOND)
    whole = crl(office, by, AT + 2 * SECOND, scope, url)
    row = AuditedIssuer(by.record, "", b"", AT, AT, AT)
    issuing = crls.Issuing(row, Ground("issuing", by.certificate, None, by.limits), (), AT + 3 * SECOND)
    record = office.revocations.latest_crl(1, scope)
    with PgAuditReader(office.database.role("auditor")) as reader:

        def found(encoded: bytes) -> list[str]:
            parsed = x509.load_der_x509_crl(encoded)
            return [one.what for one in crls._newest(reader, issuing, AuditedCRL(record, AT, newest=True), parsed)]

        assert [] == found(whole)
        lost = [1] if scope.shard else [1, 2]
        assert [f"it does not list {serial(number).hex()}, which is revoked" for number in lost] == found(without)


steps = st.lists(
    st.tuples(st.sampled_from(["issue", "hold", "release", "revoke", "look", "base"]), st.integers(0, 5)),
    min_size=6,
    max_size=18,
)


class _History:
    """What was done, and so what a complete CRL has to say."""

    def __init__(self, office) -> None:
        self.office, self.at, self.shard_of, self.held, self.revoked = office, AT, {}, set(), set()
        self.full: dict[int, str] = self.make(COMPLETE)
        self.changed: list[int] = []

    def make(self, scope: CRLScope, url: str | None = None) -> dict[int, str]:
        self.at += SECOND
        return made(self.office, self.at, scope, url)

    def do(self, act: str, choice: int) -> None:
        self.at += SECOND
        good = sorted(self.shard_of.keys() - self.held - self.revoked)
        if act == "issue":
            number = len(self.shard_of) + 1
            (request_id,) = self.office.submit(f"issue {number}")
            self.office.store.take(WORKER, 1, AT)
            self.office.store.record_intents(WORKER, [intent(request_id, number, shard=1 + choice % 2)], [], [])
            self.shard_of[number] = 1 + choice % 2
        elif act == "release" and self.held:
            number = sorted(self.held)[choice % len(self.held)]
            released(self.office, number, at=self.at)
            self.held.remove(number)
        elif act in ("hold", "revoke") and good:
            number = good[choice % len(good)]
            (held(self.office, number) if act == "hold" else self.office.revoke(number, self.at))
            (self.held if act == "hold" else self.revoked).add(number)
        elif act == "base":
            self.full = self.make(COMPLETE)
        elif act == "look":
            self.look()

    def look(self) -> None:
        delta = self.make(CRLScope(delta=True))
        gone = {number for number, reason in delta.items() if reason == "remove_from_crl"}
        both = {number: reason for number, reason in (self.full | delta).items() if number not in gone}
        self.full = self.make(COMPLETE)
        shards = [self.make(CRLScope(one.number), one.url) for one in SHARDS]
        expected = {int.from_bytes(serial(number)) for number in self.held | self.revoked}
        assert expected == self.full.keys()
        assert both == self.full == shards[0] | shards[1]
        assert not shards[0].keys() & shards[1].keys()


def test_over_a_history_base_and_delta_are_the_complete_crl_and_so_are_the_shards(office):
    history = _History(office)

    @settings(max_examples=6, deadline=None, database=None)
    @given(steps)
    def check(acts):
        for act, choice in acts:
            history.do(act, choice)
        history.look()

    check()
    numbers = [number for (number,) in office.sql("SELECT number FROM chancery.crl ORDER BY this_update, number")]
    assert sorted(set(numbers)) == numbers
