"""What an answer says: the rules of RFC 6960 and R18-R21 as functions."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp as pyca
from cryptography.x509.oid import ExtendedKeyUsageOID

import ocspkit
from cakit import key
from chancery.asn1 import der, ocsp, oids
from chancery.asn1.signature import ALGORITHMS, KeySigner
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.ocsp.responder import NeverIssued, Policies, ResponderSettings, ask, delegate, respond
from chancery.ports import RevocationReason, StatusState
from fakes import START
from ocspkit import GOOD, ISSUING, NEVER, REVOKED, SILENT, UNCONFIRMED

POLICIES = Policies()
HOUR = datetime.timedelta(hours=1)
EXTENDED = ResponderSettings(never_issued=NeverIssued.EXTENDED_REVOKED)


def bound(certificate: bytes | None = None, **more: object):
    signer = KeySigner(ocspkit.key("Responder"))
    return delegate(certificate or ocspkit.delegate_certificate(), ocspkit.issuer(), signer, **more)


def answer(
    *serials: bytes, settings: ResponderSettings | None = None, nonce: bytes | None = None, by=None, **more
):
    """Return what is to be signed, and pyca's reading of the signed response."""
    by = by or bound()
    asked = ask(
        ocsp.decode_request(ocspkit.request(*serials, nonce=nonce)),
        ocspkit.table(),
        Policies(settings or ResponderSettings()),
        START,
    )
    moments = {"known_at": START, "at": START} | more
    known = ocspkit.FakeReader().known
    unsigned = respond(asked, known, by=by, **moments)
    signed = by.template.encode(unsigned.response_data, by.signer.sign(unsigned.response_data))
    theirs = pyca.load_der_ocsp_response(signed)
    by.signer.public_key.verify(
        theirs.signature, theirs.tbs_response_bytes, ec.ECDSA(theirs.signature_hash_algorithm)
    )
    return unsigned, theirs


def only(theirs: pyca.OCSPResponse) -> pyca.OCSPSingleResponse:
    (one,) = theirs.responses
    return one


def test_good():
    by = bound()
    unsigned, theirs = answer(GOOD, by=by)
    assert (pyca.OCSPCertStatus.GOOD, int.from_bytes(GOOD)) == (
        only(theirs).certificate_status,
        only(theirs).serial_number,
    )
    assert unsigned.lasting
    assert [x509.load_der_x509_certificate(by.certificate)] == theirs.certificates


@pytest.mark.parametrize("name", ["rsassaPss-sha256", "ML-DSA-44", "ML-DSA-87"])
def test_a_delegate_may_sign_with_pss_or_ml_dsa(monkeypatch, name):
    """RFC 4055, RFC 9881: the answer names the algorithm as a certificate does, and its signature verifies."""
    mine, others = key("delegate", "rsa-2048" if "Pss" in name else name.lower()), ocspkit.key
    monkeypatch.setattr(ocspkit, "key", lambda label: mine if label == "Responder" else others(label))
    signer = KeySigner(mine, ALGORITHMS[name])
    by = delegate(ocspkit.delegate_certificate(), ocspkit.issuer(), signer)
    asked = ask(ocsp.decode_request(ocspkit.request(GOOD)), ocspkit.table(), POLICIES, START)
    unsigned = respond(asked, ocspkit.FakeReader().known, by=by, known_at=START, at=START)
    theirs = pyca.load_der_ocsp_response(
        by.template.encode(unsigned.response_data, signer.sign(unsigned.response_data))
    )
    assert pyca.OCSPCertStatus.GOOD is only(theirs).certificate_status
    ALGORITHMS[name].verify(mine.public_key(), theirs.signature, theirs.tbs_response_bytes)
    identifier = der.Reader(ALGORITHMS[name].identifier).enter().oid()
    assert identifier == theirs.signature_algorithm_oid.dotted_string


def test_revoked_says_when_and_why_and_an_unspecified_reason_is_not_said():
    _, theirs = answer(REVOKED)
    assert (pyca.OCSPCertStatus.REVOKED, START - 2 * ocspkit.DAY, x509.ReasonFlags.key_compromise) == (
        only(theirs).certificate_status,
        only(theirs).revocation_time_utc,
        only(theirs).revocation_reason,
    )
    assert only(answer(SILENT)[1]).revocation_reason is None


@pytest.mark.parametrize("reason", [one for one in RevocationReason if one])
def test_r21_the_reason_stands_in_the_status_and_there_are_no_single_extensions(reason):
    encoded = ocsp.CertStatus.revoked(START, reason)
    assert encoded.endswith(der.explicit(0, der.enumerated(reason)))
    assert [] == list(answer(REVOKED)[1].single_extensions)


@pytest.mark.parametrize("serial", [NEVER, UNCONFIRMED])
def test_r19_what_was_never_issued_is_never_good_and_does_not_last(serial):
    unsigned, theirs = answer(serial)
    assert pyca.OCSPCertStatus.UNKNOWN is only(theirs).certificate_status
    assert not unsigned.lasting


@pytest.mark.parametrize("serial", [NEVER, UNCONFIRMED])
def test_r19_by_policy_it_is_revoked_since_1970_with_the_extension_that_says_so(serial):
    unsigned, theirs = answer(serial, settings=EXTENDED)
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    assert (pyca.OCSPCertStatus.REVOKED, epoch, x509.ReasonFlags.certificate_hold) == (
        only(theirs).certificate_status,
        only(theirs).revocation_time_utc,
        only(theirs).revocation_reason,
    )
    # RFC 6960 4.4.8: present, with NULL, not critical.
    expected = der.sequence(der.oid(oids.OCSP_EXTENDED_REVOKE), der.octet_string(der.null()))
    assert expected in theirs.tbs_response_bytes
    assert not unsigned.lasting


def test_the_extended_revoke_extension_stands_only_where_it_was_used():
    assert der.oid(oids.OCSP_EXTENDED_REVOKE) not in answer(REVOKED, settings=EXTENDED)[1].tbs_response_bytes


def test_several_certids_are_answered_in_their_order_each_once():
    unsigned, theirs = answer(REVOKED, GOOD, NEVER, GOOD)
    assert [int.from_bytes(one) for one in (REVOKED, GOOD, NEVER)] == [o.serial_number for o in theirs.responses]
    assert not unsigned.lasting


def test_the_nonce_comes_back():
    _, theirs = answer(GOOD, nonce=b"n" * 32)
    assert x509.OCSPNonce(b"n" * 32) == theirs.extensions.get_extension_for_class(x509.OCSPNonce).value
    assert [] == list(answer(GOOD)[1].extensions)


def test_a_certid_comes_back_octet_for_octet():
    ours = ocspkit.cert_id(GOOD)
    bare = der.sequence(
        der.sequence(der.oid(oids.SHA1)),
        der.octet_string(ours.issuer_name_hash),
        der.octet_string(ours.issuer_key_hash),
        der.tlv(der.INTEGER, GOOD),
    )
    data = der.sequence(der.sequence(der.sequence(der.sequence(bare))))
    asked = ask(ocsp.decode_request(data), ocspkit.table(), POLICIES, START)
    unsigned = respond(asked, {}, known_at=START, at=START, by=bound())
    assert der.sequence(bare, ocsp.CertStatus.UNKNOWN)[2:] in unsigned.response_data


def test_times_are_whole_seconds_and_thisupdate_is_when_the_status_was_known():
    fraction = datetime.timedelta(microseconds=999_999)
    unsigned, theirs = answer(GOOD, known_at=START + fraction, at=START + 30 * fraction)
    assert (START, START + 24 * HOUR) == (only(theirs).this_update_utc, only(theirs).next_update_utc)
    assert (START, START + 24 * HOUR) == (unsigned.this_update, unsigned.next_update)
    assert START + datetime.timedelta(seconds=29) == theirs.produced_at_utc


def test_an_answer_is_not_valid_longer_than_the_certificate_that_signed_it():
    by = bound(ocspkit.delegate_certificate(start=START - ocspkit.DAY, days=2))
    assert START + 24 * HOUR == answer(GOOD, by=by)[0].next_update
    by = bound(ocspkit.delegate_certificate(start=START - 2 * ocspkit.DAY + HOUR, days=2))
    assert START + HOUR == answer(GOOD, by=by)[0].next_update


def test_the_responder_is_named_by_key_or_by_name():
    digest = x509.SubjectKeyIdentifier.from_public_key(ocspkit.key("Responder").public_key()).digest
    assert (digest, None) == (answer(GOOD)[1].responder_key_hash, answer(GOOD)[1].responder_name)
    _, theirs = answer(GOOD, by=bound(by_name=True))
    assert (None, ocspkit.name("Responder")) == (theirs.responder_key_hash, theirs.responder_name)


@pytest.mark.parametrize("validity", [HOUR * 7, HOUR * 241, HOUR * 8 + datetime.timedelta(milliseconds=1)])
def test_r18_a_validity_outside_8_hours_to_10_days_stops_the_start(validity):
    with pytest.raises(OperatorError):
        ResponderSettings(validity=validity).check()
    ResponderSettings(validity=HOUR * 8).check()
    ResponderSettings(validity=HOUR * 240).check()


# -- whom a request is about


@pytest.mark.parametrize("hash_oid", sorted(ocsp.HASHES))
def test_issuers_are_found_by_every_digest(hash_oid):
    asked = ask(ocsp.decode_request(ocspkit.request(GOOD, hash_oid=hash_oid)), ocspkit.table(), POLICIES, START)
    assert (ISSUING,) == asked.issuer_ids
    assert [(ISSUING, GOOD)] == asked.subjects()


def test_an_issuer_of_somebody_else_is_unauthorized():
    other = x509.load_der_x509_certificate(ocspkit.certificate("Other", "Other", 9, ca=True))
    request = ocsp.OCSPRequest((ocspkit.cert_id(GOOD, of=other),), None)
    with pytest.raises(PKIError) as caught:
        ask(request, ocspkit.table(), POLICIES, START)
    assert ErrorType.NOT_AUTHORIZED is caught.value.type


def test_name_and_key_must_be_of_the_same_issuer():
    one, other = ocspkit.cert_id(GOOD), ocspkit.cert_id(GOOD, of=ocspkit.issuer(1))
    mixed = ocsp.cert_id(oids.SHA1, one.issuer_name_hash, other.issuer_key_hash, GOOD)
    with pytest.raises(PKIError):
        ask(ocsp.OCSPRequest((mixed,), None), ocspkit.table(), POLICIES, START)


def test_certificates_of_several_issuers_are_not_answered_together():
    ids = (ocspkit.cert_id(GOOD), ocspkit.cert_id(GOOD, of=ocspkit.issuer(1)))
    with pytest.raises(PKIError) as caught:
        ask(ocsp.OCSPRequest(ids, None), ocspkit.table(), POLICIES, START)
    assert ErrorType.NOT_AUTHORIZED is caught.value.type


def test_issuers_with_one_name_and_key_are_answered_for_together():
    again = ocspkit.certificate("Issuing", "Root", 3, ca=True)
    twin = ocspkit.IssuerRecord(7, "issuing-2", again, 1, "ca", "issuing")
    table = ocspkit.IssuerTable([*ocspkit.records(), twin])
    asked = ask(ocsp.decode_request(ocspkit.request(GOOD)), table, POLICIES, START)
    assert [(ISSUING, GOOD), (7, GOOD)] == asked.subjects()
    known = {(7, GOOD): ocspkit.status(GOOD)}
    unsigned = respond(asked, known, known_at=START, at=START, by=bound())
    assert ocsp.CertStatus.GOOD in unsigned.response_data
    assert unsigned.lasting


# -- R20


def test_r20_a_delegate_is_checked():
    certificates = {
        "it is for another key": ocspkit.delegate_certificate(subject_key="Somebody"),
        "not signed by the issuer": ocspkit.certificate(
            "Responder", "Root", 5, usage=ExtendedKeyUsageOID.OCSP_SIGNING, nocheck=True
        ),
        "no extension 1.3.6.1.5.5.7.48.1.5": ocspkit.delegate_certificate(nocheck=False),
        "no extension 2.5.29.37": ocspkit.delegate_certificate(usage=None),
        "is not OCSPSigning": ocspkit.delegate_certificate(usage=ExtendedKeyUsageOID.SERVER_AUTH),
    }
    for problem, certificate in certificates.items():
        with pytest.raises(OperatorError, match=problem):
            bound(certificate)


def test_r20_a_delegate_by_the_name_of_the_issuer_but_another_key_is_refused():
    impostor = x509.load_der_x509_certificate(ocspkit.delegate_certificate())
    other = x509.load_der_x509_certificate(
        ocspkit.certificate("Issuing", "Root", 4, ca=True, subject_key="Impostor")
    )
    with pytest.raises(OperatorError, match="not signed by the issuer"):
        delegate(ocspkit.delegate_certificate(), other, KeySigner(ocspkit.key("Responder")))
    assert impostor.issuer == other.subject


def test_a_delegate_fits_from_its_first_to_before_its_last_moment():
    by = bound()
    edges = [by.not_before, by.not_after - datetime.timedelta(seconds=1)]
    assert all(by.fits(at) for at in edges)
    assert not by.fits(by.not_before - datetime.timedelta(seconds=1))
    assert not by.fits(by.not_after)


def test_an_unconfirmed_certificate_that_was_revoked_is_revoked():
    known = {
        (ISSUING, UNCONFIRMED): ocspkit.status(
            UNCONFIRMED, StatusState.REVOKED, revoked_at=START, reason=RevocationReason.UNSPECIFIED
        )
    }
    asked = ask(ocsp.decode_request(ocspkit.request(UNCONFIRMED)), ocspkit.table(), POLICIES, START)
    unsigned = respond(asked, known, known_at=START, at=START, by=bound())
    assert ocsp.CertStatus.revoked(START, None) in unsigned.response_data
