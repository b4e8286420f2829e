"""Requests, TSTInfo and responses: decode after encode is the identity, and nothing else is let in."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib

import pytest
from cryptography.exceptions import InvalidSignature
from hypothesis import given, settings
from hypothesis import strategies as st

from chancery.asn1 import cms, der, oids, tsp
from chancery.errors import ErrorType, PKIError
from fakes import START
from unit.tsa.kit import TSA, as_der, key, request

OIDS = st.sampled_from(["1.2.3", "2.999.4294967296", "1.3.6.1.4.1.99999.1.1", "0.0", "2.16.840.1.101.3.4.2.1"])
NONCES = st.none() | st.integers(-(2**511), 2**511 - 1)
TIMES = st.datetimes(datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31), timezones=st.just(datetime.UTC))
ACCURACIES = st.timedeltas(datetime.timedelta(microseconds=1), datetime.timedelta(days=20_000))


@settings(max_examples=100, deadline=None)
@given(OIDS, st.binary(max_size=64), st.none() | OIDS, NONCES, st.booleans())
def test_a_request_is_read_as_it_was_written(oid, digest, policy, nonce, cert_req):
    data = tsp.encode_request(oid, digest, req_policy=policy, nonce=nonce, cert_req=cert_req)
    found = tsp.decode_request(data)
    assert (1, oid, b"", digest, policy, cert_req, ()) == (
        found.version,
        found.hash_oid,
        found.hash_parameters,
        found.hashed_message,
        found.req_policy,
        found.cert_req,
        found.extensions,
    )
    assert (None if nonce is None else der.integer(nonce)) == found.nonce


@settings(max_examples=100, deadline=None)
@given(
    policy=OIDS,
    oid=OIDS,
    digest=st.binary(max_size=64),
    serial=st.integers(1, 2**160),
    gen_time=TIMES,
    accuracy=ACCURACIES,
    nonce=NONCES,
)
def test_a_tst_info_is_read_as_it_was_written(*, policy, oid, digest, serial, gen_time, accuracy, nonce):
    imprint = der.sequence(der.sequence(der.oid(oid)), der.octet_string(digest))
    nonce_tlv = None if nonce is None else der.integer(nonce)
    content = tsp.TSTInfoTemplate(accuracy).encode(policy, imprint, serial, gen_time, nonce_tlv)
    expected = tsp.TSTInfo(
        policy, imprint, oid, digest, serial, gen_time, accuracy, ordering=False, nonce=nonce_tlv, tsa=None
    )
    assert expected == tsp.decode_tst_info(content)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(tsp.FailInfo)), st.text(max_size=40))
def test_a_refusal_is_read_as_it_was_written(bit, words):
    found = tsp.decode_response(tsp.rejection(bit, words))
    assert (2, (words,), {bit}, None) == (
        found.status,
        found.status_string,
        found.fail_info,
        found.time_stamp_token,
    )
    assert found.words().isprintable()
    assert found.words().endswith("".join(one if one.isprintable() else "\ufffd" for one in words))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_random_octets_are_bad_data_format_or_a_request(data):
    for decode in (tsp.decode_request, tsp.decode_response, tsp.decode_tst_info, cms.decode):
        try:
            decode(data)
        except PKIError as error:
            if error.type not in {ErrorType.BAD_DATA_FORMAT, ErrorType.BAD_ALG}:
                raise


GRANTED = TSA().respond(request()).der
TOKEN = tsp.decode_response(GRANTED).time_stamp_token
CONTENT = cms.decode(TOKEN).content


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([request(), GRANTED, TOKEN, CONTENT]), st.data())
def test_a_changed_octet_is_refused_or_read_but_never_breaks(data, draw):
    at = draw.draw(st.integers(0, len(data) - 1))
    bad = data[:at] + bytes((draw.draw(st.integers(0, 255)),)) + data[at + 1 :]
    test_random_octets_are_bad_data_format_or_a_request.hypothesis.inner_test(bad)


@pytest.mark.parametrize(
    "data",
    [
        request()[:-3] + b"\x01\x01\x00",  # certReq FALSE written out
        der.sequence(der.integer(1), der.sequence(der.sequence(der.oid("1.2.3"))), der.integer(1)),
        der.sequence(
            der.integer(1), der.sequence(der.sequence(der.oid("1.2.3")), der.octet_string(b""), der.null())
        ),
        request() + request(),
        request(nonce=1 << 512),
        request(policy="1.2." + "9" * 300),
        tsp.encode_request("1.2.3", bytes(9000)),
    ],
)
def test_what_is_no_request(data):
    with pytest.raises(PKIError) as caught:
        tsp.decode_request(data)
    assert ErrorType.BAD_DATA_FORMAT is caught.value.type


def test_a_nonce_of_64_octets_is_the_longest():
    assert tsp.decode_request(request(nonce=(1 << 511) - 1)).nonce is not None


def tst_info(**changed) -> bytes:
    parts = {
        "version": b"\x02\x01\x01",
        "policy": der.oid("1.2.3"),
        "imprint": der.sequence(der.sequence(der.oid("1.2.3")), der.octet_string(b"x")),
        "serial": der.integer(5),
        "time": der.generalized_time(START),
        "rest": b"",
    }
    return der.sequence(*(parts | changed).values())


@pytest.mark.parametrize(
    "changed",
    [
        {"version": b"\x02\x01\x02"},
        {"time": der.tlv(der.GENERALIZED_TIME, b"20261124120000.10Z")},
        {"time": der.tlv(der.GENERALIZED_TIME, b"20261124120000.Z")},
        {"time": der.tlv(der.GENERALIZED_TIME, b"20261324120000Z")},
        {"time": der.tlv(der.GENERALIZED_TIME, b"202611241200Z")},
        {"time": der.tlv(der.GENERALIZED_TIME, b"20261124120000+0100")},
        {"time": der.tlv(der.UTC_TIME, b"261124120000Z")},
        {"rest": b"\x01\x01\x00"},
        {"rest": der.sequence(der.tlv(0x80, b"\x03\xe8"))},
        {"rest": der.sequence(der.tlv(0x80, b"\x00\x01"))},
        {"rest": der.sequence(der.tlv(0x80, b""))},
        {"rest": der.sequence(der.integer(-1))},
        {"rest": der.sequence(der.integer(1 << 80))},
        {"rest": der.tlv(0xA1, der.sequence())},
        {"rest": der.null()},
    ],
)
def test_what_is_no_tst_info(changed):
    tsp.decode_tst_info(tst_info())
    with pytest.raises(PKIError) as caught:
        tsp.decode_tst_info(tst_info(**changed))
    assert ErrorType.BAD_DATA_FORMAT is caught.value.type


@pytest.mark.parametrize(
    "data",
    [
        der.sequence(der.sequence(der.integer(0))),  # granted, and no token
        der.sequence(der.sequence(der.integer(2)), TOKEN),  # refused, and a token
        der.sequence(der.sequence(der.integer(2), der.sequence(der.tlv(der.UTF8_STRING, b"\xff")))),
        der.sequence(der.sequence(der.integer(2)), der.null()),
        der.sequence(),
    ],
)
def test_what_is_no_response(data):
    with pytest.raises(PKIError) as caught:
        tsp.decode_response(data)
    assert ErrorType.BAD_DATA_FORMAT is caught.value.type


# -- SignedData


def test_our_own_token_verifies_as_anybodys():
    tsa = TSA()
    token = tsp.decode_response(tsa.respond(request()).der).time_stamp_token
    cms.verify_signer(cms.decode(token), as_der(tsa.certificate), key("p256").public_key())


@pytest.mark.parametrize("kind", ["rsa", "p384", "p521", "ed25519"])
def test_every_kind_of_key_verifies(kind):
    tsa = TSA(kind)
    token = tsp.decode_response(tsa.respond(request()).der).time_stamp_token
    cms.verify_signer(cms.decode(token), as_der(tsa.certificate), key(kind).public_key())


def test_another_certificate_of_the_same_key_is_not_the_signer():
    """RFC 5816: the certificate itself is named, not only its key."""
    tsa = TSA()
    signed = cms.decode(tsp.decode_response(tsa.respond(request()).der).time_stamp_token)
    another = TSA().certificate
    assert tsa.certificate.serial_number == another.serial_number
    with pytest.raises(InvalidSignature, match="names another certificate"):
        cms.verify_signer(signed, as_der(another), key("p256").public_key())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda signed: {"serial": der.integer(1)}, "another signer"),
        (lambda signed: {"content_type": "1.2.840.113549.1.7.1"}, "another contentType"),
        (lambda signed: {"content": signed.content + b"x"}, "another messageDigest"),
        (lambda signed: {"attributes": _without(signed, oids.SIGNING_CERTIFICATE_V2)}, "no signingCertificateV2"),
        (lambda signed: {"digest": "sha512", "attributes": _digested(signed, "sha512")}, "another digest"),
    ],
    ids=["signer", "contentType", "messageDigest", "signingCertificateV2", "digest"],
)
def test_each_part_that_a_signature_is_about_is_looked_at_by_itself(change, words):
    """RFC 5652 5.4 and 5.6, RFC 5816 2.2: not left to the signature, nor to another of these checks."""
    tsa = TSA()
    signed = cms.decode(tsp.decode_response(tsa.respond(request()).der).time_stamp_token)
    with pytest.raises(InvalidSignature, match=words):
        cms.verify_signer(
            dataclasses.replace(signed, **change(signed)), as_der(tsa.certificate), key("p256").public_key()
        )


def _without(signed, attribute):
    return {oid: value for oid, value in signed.attributes.items() if oid != attribute}


def _digested(signed, digest):
    value = der.octet_string(hashlib.new(digest, signed.content).digest())
    return {**signed.attributes, oids.MESSAGE_DIGEST: value}


def test_a_signed_data_of_two_signers_is_not_a_token():
    signed = der.Reader(TOKEN).enter()
    oid, body = signed.raw(), signed.enter(0xA0).enter()
    parts = []
    while body:
        parts.append(body.raw())
    signer = der.Reader(parts[-1]).enter(der.SET).raw()
    parts[-1] = der.tlv(der.SET, signer, signer)
    with pytest.raises(PKIError):
        cms.decode(der.sequence(oid, der.explicit(0, der.sequence(*parts))))


def test_the_serial_of_the_token_is_in_no_other_form():
    assert "1.2.840.113549.1.9.16.1.4" == cms.decode(TOKEN).content_type
    assert 0x0107 == tsp.decode_tst_info(CONTENT).serial >> 120
