"""Certificates that a CA signed before it was taken over are revoked here (R14), by the certificate itself."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pgdata import DAY, SECOND, Office, event, intent, listed

import cakit
from chancery.ca.foreign import foreign
from chancery.ca.installing import Who
from chancery.errors import ErrorType, PKIError
from chancery.pkix.usage import KEPT
from chancery.ports import EventKind, NewIssuer, RevocationReason
from chancery.ports.auditing import Scope
from chancery.postgres.auditing import PgAuditReader
from pg import AT, crls_due

END = AT.replace(microsecond=0) + 300 * DAY
NUMBER = 0x51AB


@pytest.fixture
def office(database):
    return Office(database)


def signed(*, number: int = NUMBER, by: str = "issuing", code_signing: bool = False) -> bytes:
    """A certificate that the CA made elsewhere."""
    issuer = x509.load_der_x509_certificate(cakit.issuing_certificate()).subject
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "of before")])
    builder = x509.CertificateBuilder(issuer, subject, cakit.key("leaf").public_key(), number, AT - DAY, END)
    if code_signing:
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
        builder = builder.add_extension(usage, critical=False)
    return builder.sign(cakit.key(by), hashes.SHA256()).public_bytes(Encoding.DER)


def taken_over(office, *, here: bool = True):
    new = NewIssuer("old", cakit.issuing_certificate(), None, *(("ca", "old") if here else (None, None)))
    issuer_id = office.issuers.add_issuer(new, AT, [event("issuer:old")])
    return next(one for one in office.issuers.issuers() if one.issuer_id == issuer_id)


def revoke(office, record, certificate: bytes, reason=RevocationReason.SUPERSEDED) -> None:
    who = Who("uid:0", AT, "told by phone")
    one, events = foreign(record, certificate, reason, who)
    office.issuers.revoke_foreign(one, who.at, events)


def refusal(act, *args, **options) -> str:
    with pytest.raises(PKIError) as caught:
        act(*args, **options)
    assert ErrorType.BAD_REQUEST is caught.value.type
    return caught.value.detail


def test_it_is_on_the_next_crl_and_in_the_journal(office):
    record = taken_over(office)
    revoke(office, record, signed())
    assert [bytes.fromhex("51ab")] == listed(office.revocations, END, record.issuer_id)
    assert [] == listed(office.revocations, END + SECOND, record.issuer_id)
    assert record.issuer_id in crls_due(office.revocations, AT)
    [(body,)] = office.sql("SELECT body FROM chancery.journal_event WHERE kind = 'ca.foreign-revoked'")
    assert all(word in body for word in ('"51ab"', '"superseded"', '"issuer:old"', '"told by phone"'))
    with PgAuditReader(office.database.role("auditor")) as reader:
        assert [] == list(reader.strays(Scope()))
        assert [1] == [one.taken_over for one in reader.issuers() if one.record.name == "old"]
    assert "revoked already" in refusal(revoke, office, record, signed())
    assert 1 == office.count("imported_revocation")


def test_a_compromised_key_is_blocked_and_a_code_signing_entry_stays(office):
    record = taken_over(office)
    revoke(office, record, signed(code_signing=True), RevocationReason.KEY_COMPROMISE)
    assert [bytes.fromhex("51ab")] == listed(office.revocations, END + KEPT, record.issuer_id)
    assert 1 == office.count("blocked_key")
    kinds = office.sql("SELECT kind FROM chancery.journal_event ORDER BY event_id DESC LIMIT 2")
    assert {EventKind.KEY_BLOCKED.value, EventKind.CA_FOREIGN_REVOKED.value} == {kind for (kind,) in kinds}


def test_what_the_issuer_did_not_sign_or_issued_here_is_refused(office):
    record = taken_over(office)
    assert "not signed by" in refusal(foreign, record, signed(by="other"), RevocationReason.SUPERSEDED, None)
    hold = RevocationReason.CERTIFICATE_HOLD
    assert "issued here" in refusal(foreign, record, signed(), hold, None)
    [other] = [one for one in office.issuers.issuers() if one.name == "issuing"]
    assert "another issuer" in refusal(foreign, other, signed(), RevocationReason.SUPERSEDED, None)
    (request_id,) = office.submit("t")
    office.store.take("worker-1", 1, AT)
    number = int.from_bytes(b"\x01" + (7).to_bytes(16))
    office.store.record_intents("worker-1", [intent(request_id, 7, record.issuer_id)], [], [])
    assert "chancery revoke" in refusal(revoke, office, record, signed(number=number))
    assert 0 == office.count("imported_revocation")


def test_a_ca_that_signs_elsewhere_makes_its_own_crls(office):
    record = taken_over(office, here=False)
    assert "elsewhere" in refusal(foreign, record, signed(), RevocationReason.SUPERSEDED, None)
