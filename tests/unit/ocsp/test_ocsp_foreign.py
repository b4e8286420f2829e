"""CRLs of foreign CAs: what is believed of one, what it lists, and what OCSP says by it."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as pyca_ocsp
from hypothesis import given, settings
from hypothesis import strategies as st

import foreignkit as kit
import ocspkit
from chancery.asn1 import der, ocsp
from chancery.asn1.der import integer_octets
from chancery.asn1.signature import KeySigner
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.ocsp.cache import Cache, Changes
from chancery.ocsp.foreign import Pinned, entries, verify
from chancery.ocsp.responder import NeverIssued, Policies, ResponderSettings, Stale
from chancery.pkix.crl_view import Layout
from chancery.ports import CertificateStatus, ForeignIssuer, IssuerRecord, RevocationReason, StatusState
from chancery.web.ocsp import OCSPSettings
from fakes import START

HOUR = kit.HOUR
PINNED = Pinned(kit.ca(), (kit.URL,))
WHOLE = kit.crl(kit.revoked(kit.LISTED), kit.revoked(kit.HELD), point=kit.idp())
SEVERAL = Pinned(kit.ca(), (kit.URL, kit.OTHER))


def read(data: bytes, pinned: Pinned = PINNED, url: str | None = None):
    where, crl, layout = verify(memoryview(data), pinned, START, url=url)
    return where, crl, list(entries(memoryview(data), layout, delta=crl.base is not None))


def test_a_crl_of_another_implementation_is_read_as_it_was_meant():
    listed = [
        kit.revoked(kit.LISTED, x509.ReasonFlags.key_compromise),
        kit.revoked(kit.HELD, x509.ReasonFlags.certificate_hold),
        kit.revoked(1 << 150),
        x509.RevokedCertificateBuilder()
        .serial_number(5)
        .revocation_date(START - HOUR)
        .add_extension(x509.InvalidityDate(START - 2 * HOUR), critical=False)
        .build(),
    ]
    data = kit.crl(*listed, number=9, freshest="http://partner.example.org/delta.crl")
    where, crl, found = read(data)
    assert (kit.URL, 9, None) == (where, crl.number, crl.base)
    assert (START - HOUR, START + 23 * HOUR) == (crl.this_update, crl.next_update)
    assert "http://partner.example.org/delta.crl" == crl.freshest
    assert [integer_octets(one.serial_number) for one in listed] == [one.serial for one in found]
    assert [1, 6, 0, 0] == [int(one.reason) for one in found]
    assert {START - HOUR} == {one.revoked_at for one in found}
    assert [None, None, None, START - 2 * HOUR] == [one.invalidity_date for one in found]


def test_a_crl_of_many_entries_is_read_a_window_at_a_time(monkeypatch):
    monkeypatch.setattr("chancery.ocsp.foreign.WINDOW", 256)
    serials = [1 + 257 * n for n in range(200)]
    _, _, found = read(kit.crl(*map(kit.revoked, serials)))
    assert [integer_octets(one) for one in serials] == [one.serial for one in found]


def test_an_empty_crl_lists_nobody():
    assert [] == read(kit.crl())[2]


@pytest.mark.parametrize("key", [rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()])
def test_the_signature_may_be_of_any_kind_that_the_suite_knows(key):
    hash_ = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    subject = ocspkit.name("Other kind")
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(START).not_valid_after(START + HOUR)
    ca = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, hash_)
    lists = (
        x509.CertificateRevocationListBuilder().issuer_name(subject).last_update(START).next_update(START + HOUR)
    )
    data = lists.add_extension(x509.CRLNumber(1), critical=False).sign(key, hash_).public_bytes(Encoding.DER)
    pinned = Pinned(ca, (kit.URL,))
    pinned.check()
    assert 1 == read(data, pinned)[1].number
    with pytest.raises(PKIError, match="not signed by the pinned key"):
        read(data[:-1] + bytes([data[-1] ^ 1]), pinned)


REFUSED = {
    "names another issuer": {"issuer": "Stranger"},
    "not signed by the pinned key": {"signer": "Stranger"},
    "no number": {"number": None},
    "of the future": {"this_update": START + HOUR},
    "ended at": {"this_update": START - 25 * HOUR},
    "indirect": {"point": kit.idp(indirect=True)},
    "another distribution point": {"point": kit.idp(kit.OTHER)},
    "a part of the certificates": {"point": kit.idp(users=True)},
    "critical extension": {"more": x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")},
}


@pytest.mark.parametrize(("words", "change"), REFUSED.items())
def test_a_crl_that_is_not_to_be_believed_is_refused(words, change):
    with pytest.raises(PKIError, match=words) as refused:
        read(kit.crl(kit.revoked(kit.LISTED), **change))
    assert ErrorType.BAD_REQUEST is refused.value.type


def test_removed_is_nobody_but_by_a_delta():
    """RFC 5280 5.3.1: listed with removeFromCRL in a complete CRL, a certificate would come out as good."""
    removed = kit.revoked(kit.LISTED, x509.ReasonFlags.remove_from_crl)
    assert [8] == [int(one.reason) for one in read(kit.crl(removed, number=2, base=1))[2]]
    with pytest.raises(PKIError, match="removeFromCRL"):
        read(kit.crl(removed, number=2))


def test_a_partition_is_told_by_its_name_or_by_where_it_was_fetched():
    assert kit.OTHER == read(kit.crl(point=kit.idp(kit.OTHER, authorities=True)), SEVERAL)[0]
    assert kit.URL == read(kit.crl(), SEVERAL, kit.URL)[0]
    for data, url in ((kit.crl(), None), (kit.crl(point=kit.idp(kit.OTHER)), kit.URL), (kit.crl(), "http://x")):
        with pytest.raises(PKIError, match="point"):
            read(data, SEVERAL, url)


def test_a_ca_that_issues_no_cas_needs_no_crl_of_them():
    subject = ocspkit.name("Partner")
    key = ocspkit.key("Partner")
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(START).not_valid_after(START + HOUR)
    ca = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    pinned = Pinned(ca.sign(key, hashes.SHA256()), (kit.URL,))
    assert kit.URL == read(kit.crl(point=kit.idp(users=True)), pinned)[0]


def test_only_a_ca_that_signs_crls_is_pinned():
    PINNED.check()
    with pytest.raises(OperatorError, match="signs CRLs"):
        Pinned(x509.load_der_x509_certificate(kit.delegate_of()), (kit.URL,)).check()


@given(st.data())
@settings(max_examples=150)
def test_no_octet_of_a_signed_crl_can_be_changed(data):
    whole = WHOLE
    at = data.draw(st.integers(0, len(whole) - 1))
    change = data.draw(st.integers(1, 255))
    forged = whole[:at] + bytes([whole[at] ^ change]) + whole[at + 1 :]
    with pytest.raises(PKIError):
        read(forged)


@given(st.binary(max_size=300))
@settings(max_examples=150)
def test_noise_is_refused_and_never_breaks_anything(noise):
    with pytest.raises(PKIError):
        read(noise)


# -- what OCSP says by it


def known(serial: int, state=StatusState.GOOD, window=(START - HOUR, START + HOUR), **more):
    key = (-1, integer_octets(serial))
    return key, CertificateStatus(*key, state, START + 365 * ocspkit.DAY, window=window, **more)


def partner(delegates=None) -> ForeignIssuer:
    certificate = kit.ca().public_bytes(Encoding.DER)
    record = IssuerRecord(-1, "partner", certificate, None, None, None)
    return ForeignIssuer(record, (kit.delegate_of(),) if delegates is None else delegates)


def ask(*serials: int, nonce: bytes | None = None) -> bytes:
    ids = tuple(ocspkit.cert_id(integer_octets(one), of=kit.ca()) for one in serials)
    return ocsp.encode_request(ocsp.OCSPRequest(ids, nonce))


async def _bench(settings_: ResponderSettings | None = None) -> ocspkit.Bench:
    settings_ = settings_ or ResponderSettings()
    signer = KeySigner(ocspkit.key("Responder"))
    bench = await ocspkit.start(OCSPSettings(Policies(settings_)), issuing=(signer,), partner=(signer,))
    bench.reader.foreigners = [partner()]
    revoked = {"revoked_at": START - HOUR}
    for key, status in (
        known(kit.UNLISTED),
        known(kit.LISTED, StatusState.REVOKED, reason=RevocationReason.KEY_COMPROMISE, **revoked),
        known(kit.HELD, StatusState.REVOKED, reason=RevocationReason.CERTIFICATE_HOLD, **revoked),
    ):
        bench.reader.known[key] = status
    await bench.service.refresh()
    return bench


def with_partner(settings_: ResponderSettings | None = None):
    """Like `ocspkit.with_bench`, with a foreign CA beside ours."""

    def decorate(test):
        def run():
            async def main():
                bench = await _bench(settings_)
                try:
                    await test(bench)
                finally:
                    await bench.service.close()

            asyncio.run(main())

        run.__name__ = test.__name__
        return run

    return decorate


async def answered(bench, body: bytes) -> pyca_ocsp.OCSPResponse:
    return pyca_ocsp.load_der_ocsp_response((await bench.ask(body))[2])


@with_partner()
async def test_what_a_foreign_crl_says_is_answered_under_its_own_delegate_within_its_times(bench):
    response = await answered(bench, ask(kit.UNLISTED))
    assert pyca_ocsp.OCSPCertStatus.GOOD is response.certificate_status
    assert (START - HOUR, START + HOUR) == (response.this_update_utc, response.next_update_utc)
    [certificate] = response.certificates
    certificate.verify_directly_issued_by(kit.ca())
    listed = await answered(bench, ask(kit.LISTED))
    assert x509.ReasonFlags.key_compromise is listed.revocation_reason
    assert START - HOUR == listed.revocation_time_utc
    ours = await answered(bench, ocspkit.request(ocspkit.GOOD))
    assert START == ours.this_update_utc


@with_partner()
async def test_an_answer_about_a_foreign_certificate_is_kept_until_there_is_another_crl(bench):
    for _ in range(3):
        await bench.ask(ask(kit.UNLISTED))
    assert 1 == len(bench.reader.batches)
    key, status = known(kit.UNLISTED, StatusState.REVOKED, reason=RevocationReason.SUPERSEDED, revoked_at=START)
    bench.reader.known[key] = status
    bench.service.foreign_changed(1)
    assert pyca_ocsp.OCSPCertStatus.REVOKED is (await answered(bench, ask(kit.UNLISTED))).certificate_status


@with_partner()
async def test_an_out_of_date_crl_is_not_answered_from_but_for_what_is_revoked_for_good(bench):
    bench.clock.advance(2 * 3600)
    for serial in (kit.UNLISTED, kit.HELD):
        response = await answered(bench, ask(serial))
        assert pyca_ocsp.OCSPResponseStatus.TRY_LATER is response.response_status
    listed = await answered(bench, ask(kit.LISTED))
    assert pyca_ocsp.OCSPCertStatus.REVOKED is listed.certificate_status
    assert bench.clock.now() == listed.this_update_utc


@with_partner(ResponderSettings(stale=Stale.UNKNOWN, never_issued=NeverIssued.EXTENDED_REVOKED))
async def test_by_policy_an_out_of_date_crl_makes_unknown_and_never_revoked(bench):
    bench.clock.advance(2 * 3600)
    response = await answered(bench, ask(kit.UNLISTED))
    assert pyca_ocsp.OCSPCertStatus.UNKNOWN is response.certificate_status
    assert "no-store" in (await bench.ask(ask(kit.UNLISTED)))[1]["Cache-Control"]


@with_partner()
async def test_several_foreign_certificates_in_one_request_share_the_narrower_life(bench):
    key, status = known(0x1104, window=(START - 3 * HOUR, START + HOUR / 2))
    bench.reader.known[key] = status
    response = await answered(bench, ask(kit.UNLISTED, 0x1104))
    times = [(one.this_update_utc, one.next_update_utc) for one in response.responses]
    assert [(START - HOUR, START + HOUR), (START - 3 * HOUR, START + HOUR / 2)] == times


@with_partner()
async def test_an_answer_to_last_is_asked_for_again_before_its_crl_ends(bench):
    _, headers, _ = await bench.ask(ask(kit.UNLISTED))
    assert "max-age=1800" in headers["Cache-Control"]
    bench.clock.advance(45 * 60)
    _, headers, _ = await bench.ask(ask(kit.UNLISTED))
    assert "max-age=450" in headers["Cache-Control"]


@with_partner()
async def test_a_delegate_of_somebody_else_answers_for_no_foreign_ca(bench):
    bench.reader.foreigners = [partner((kit.delegate_of("Stranger"),))]
    await bench.service.refresh()
    assert "not signed by the issuer" in bench.service.health()["delegates"]["partner"]
    response = await answered(bench, ask(kit.UNLISTED))
    assert pyca_ocsp.OCSPResponseStatus.TRY_LATER is response.response_status
    assert ocspkit.START == (await answered(bench, ocspkit.request(ocspkit.GOOD))).this_update_utc


@with_partner()
async def test_a_foreign_ca_that_no_key_is_named_for_is_not_answered_for(bench):
    other = dataclasses.replace(partner().record, issuer_id=-2, name="nobody")
    bench.reader.foreigners = [ForeignIssuer(other, (kit.delegate_of(),))]
    await bench.service.refresh()
    response = await answered(bench, ask(kit.UNLISTED))
    assert pyca_ocsp.OCSPResponseStatus.UNAUTHORIZED is response.response_status


def test_a_change_of_an_issuer_is_a_change_of_its_statuses_alone():
    changes = Changes()
    cache: Cache[bytes, str] = Cache(changes, max_entries=9, max_bytes=9999)
    before = changes.now
    for name, issuer_id in ((b"theirs", -1), (b"ours", 2)):
        assert cache.put(name, "x", size=1, until=9.0, subjects=((issuer_id, b"1"),), read_at=before)
    changes.note_issuer(-1)
    cache.drop_issuer(-1)
    assert (None, "x") == (cache.get(b"theirs", 0.0), cache.get(b"ours", 0.0))
    assert not cache.put(b"late", "x", size=1, until=9.0, subjects=((-1, b"2"),), read_at=before)
    assert cache.put(b"ours too", "x", size=1, until=9.0, subjects=((2, b"2"),), read_at=before)


def test_time_is_taken_in_the_form_that_some_cas_write():
    from chancery.ocsp.foreign import moment
    from chancery.pkix.view import EncodedTime

    at = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    assert at == moment(EncodedTime(0x18, "20260102030405Z", None))
    for wrong in ((0x18, "20261302030405Z"), (0x18, "2026010203Z"), (0x17, "261302030405Z")):
        with pytest.raises(PKIError):
            moment(EncodedTime(*wrong, None))


TIME = b"\x17\x0d261120120000Z"
REASON = b"\x30\x0a\x06\x03\x55\x1d\x15\x04\x03\x0a\x01\x01"
CODES = b"\x30\x0b\x06\x03\x55\x1d\x15\x04\x04\x0a\x02\x00\x01"


@pytest.mark.parametrize(
    ("words", "serial", "extensions"),
    [
        ("not minimal", b"\x00\x12", ()),
        ("not minimal", b"\xff\x92", ()),
        ("twice", b"\x12", (REASON, REASON)),
        ("reasonCode that is none", b"\x12", (CODES,)),
    ],
)
def test_an_entry_that_no_der_has_is_refused(words, serial, extensions):
    """A serial with an octet too many would match no request, and be answered good."""
    listed = der.sequence(*extensions) if extensions else b""
    data = der.sequence(der.tlv(der.INTEGER, serial), TIME, listed)
    with pytest.raises(PKIError, match=words):
        list(entries(memoryview(data), Layout(0, 0, 0, 0, len(data), len(data)), delta=False))
