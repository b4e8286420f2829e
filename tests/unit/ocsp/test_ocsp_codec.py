"""OCSP bytes: other implementations' requests and answers, and everything that is not a request."""

from __future__ import annotations

import datetime
from pathlib import Path

import hypothesis
import pytest
from cryptography import x509
from cryptography.x509 import ocsp as pyca
from hypothesis import strategies as st

import ocspkit
from chancery.asn1 import der, ocsp, oids
from chancery.asn1.signature import ALGORITHMS
from chancery.errors import ErrorType, PKIError
from chancery.ocsp.responder import key_bits

VECTORS = Path(__file__).parents[2] / "vectors" / "ocsp"
REQUESTS = sorted(path.name.removesuffix(".req.der") for path in VECTORS.glob("*.req.der"))
RESPONSES = sorted(path.name.removesuffix(".resp.der") for path in VECTORS.glob("*.resp.der"))
SERIALS = {name: bytes.fromhex(f"{digit}A0B0C0D0E0F101112") for name, digit in zip("grsu", "0123", strict=True)}


def vector(name: str) -> bytes:
    return (VECTORS / name).read_bytes()


def vector_ids(hash_oid: str, *serials: bytes) -> list[ocsp.CertID]:
    ca = x509.load_der_x509_certificate(vector("ca.der"))
    return [ocspkit.cert_id(serial, hash_oid, ca) for serial in serials]


# -- requests


@pytest.mark.parametrize(
    ("name", "hash_oid", "serials", "nonce_size"),
    [
        ("sha1", oids.SHA1, "g", None),
        ("sha256-nonce", oids.SHA256, "r", 16),
        ("sha384", oids.SHA384, "s", None),
        ("signed", oids.SHA1, "g", 16),
    ],
)
def test_requests_of_openssl(name, hash_oid, serials, nonce_size):
    request = ocsp.decode_request(vector(f"{name}.req.der"))
    (expected,) = vector_ids(hash_oid, *(SERIALS[letter] for letter in serials))
    (found,) = request.cert_ids
    assert (expected.hash_oid, expected.issuer_name_hash, expected.issuer_key_hash, expected.serial) == (
        found.hash_oid,
        found.issuer_name_hash,
        found.issuer_key_hash,
        found.serial,
    )
    assert nonce_size == (len(request.nonce) if request.nonce else None)


def test_a_request_for_several_certificates_keeps_their_order():
    request = ocsp.decode_request(vector("several.req.der"))
    assert [SERIALS[letter] for letter in "grus"] == [one.serial for one in request.cert_ids]
    assert [oids.SHA1] * 3 + [oids.SHA256] == [one.hash_oid for one in request.cert_ids]


def test_requests_of_pyca():
    ca = x509.load_der_x509_certificate(vector("ca.der"))
    plain = ocsp.decode_request(vector("pyca-sha1.req.der"))
    assert (ocspkit.cert_id(b"\x02", oids.SHA1, ca).raw, None) == (plain.cert_ids[0].raw, plain.nonce)
    nonced = ocsp.decode_request(vector("pyca-sha512-nonce.req.der"))
    assert (oids.SHA512, bytes(range(32))) == (nonced.cert_ids[0].hash_oid, nonced.nonce)


@pytest.mark.parametrize("name", [name for name in REQUESTS if name != "signed"])
def test_unsigned_requests_encode_to_what_they_were(name):
    data = vector(f"{name}.req.der")
    assert data == ocsp.encode_request(ocsp.decode_request(data))


@pytest.mark.parametrize("name", REQUESTS)
def test_the_quick_way_reads_what_the_thorough_way_reads(name):
    data = vector(f"{name}.req.der")
    quick = ocsp._common(data)
    assert quick is None or quick == ocsp._any(data)
    assert (quick is not None) == (name in {"sha1", "sha256-nonce", "pyca-sha1"})


hash_oids = st.sampled_from(sorted(ocsp.HASHES))
serials = st.binary(min_size=0, max_size=19).map(lambda tail: b"\x01" + tail)
cert_ids = st.builds(ocsp.cert_id, hash_oids, st.binary(max_size=64), st.binary(max_size=64), serials)
requests = st.builds(
    ocsp.OCSPRequest,
    st.lists(cert_ids, min_size=1, max_size=5, unique_by=lambda one: one.raw).map(tuple),
    st.none() | st.binary(min_size=1, max_size=128),
)


@hypothesis.given(requests)
@hypothesis.settings(max_examples=200, deadline=None)
def test_decoding_undoes_encoding(request):
    assert request == ocsp.decode_request(ocsp.encode_request(request))


@hypothesis.given(st.sampled_from(REQUESTS), st.data())
@hypothesis.settings(max_examples=300, deadline=None)
def test_a_changed_octet_is_refused_or_means_the_same_to_both_ways(name, data):
    octets = bytearray(vector(f"{name}.req.der"))
    octets[data.draw(st.integers(0, len(octets) - 1))] ^= data.draw(st.integers(1, 255))
    quick = ocsp._common(bytes(octets))
    try:
        thorough = ocsp._any(bytes(octets))
    except PKIError:
        thorough = None
    assert quick is None or quick == thorough


@hypothesis.given(st.binary(max_size=300))
@hypothesis.settings(max_examples=300, deadline=None)
def test_random_octets_are_refused_in_words(data):
    with pytest.raises(PKIError):
        ocsp.decode_request(data)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_cut_short_or_continued_is_refused(name):
    data = vector(f"{name}.req.der")
    for end in range(len(data)):
        with pytest.raises(PKIError) as caught:
            ocsp.decode_request(data[:end])
        assert ErrorType.BAD_DATA_FORMAT is caught.value.type
    with pytest.raises(PKIError):
        ocsp.decode_request(data + b"\x00")


def build(
    *, head: bytes = b"", ids: bytes | None = None, single: bytes = b"", extensions: bytes | None = None
) -> bytes:
    listed = der.sequence(der.sequence(ocspkit.cert_id(ocspkit.GOOD).raw, single)) if ids is None else ids
    tail = b"" if extensions is None else der.explicit(2, extensions)
    return der.sequence(der.sequence(head, listed, tail))


def extension(oid: str, value: bytes, critical: bytes = b"") -> bytes:
    return der.sequence(der.oid(oid), critical, der.octet_string(value))


def nonce_of(size: int) -> bytes:
    return der.sequence(extension(oids.OCSP_NONCE, der.octet_string(bytes(size))))


@pytest.mark.parametrize("size", [1, 16, 32, 125, 126, 128])
def test_nonces_of_1_to_128_octets_are_taken(size):
    assert size == len(ocsp.decode_request(build(extensions=nonce_of(size))).nonce)


OTHER = "1.3.6.1.5.5.7.48.1.7"
TRUE, FALSE = der.boolean(True), der.boolean(False)
NONCE = extension(oids.OCSP_NONCE, der.octet_string(b"n"))


# Hash parameters that no digest has: an answer would repeat, and sign, whatever stands there.
PARAMETERS = der.sequence(
    der.sequence(der.oid(oids.SHA1), der.octet_string(b"words of the client")),
    der.octet_string(bytes(20)),
    der.octet_string(bytes(20)),
    der.integer(1),
)


@pytest.mark.parametrize(
    ("data", "type_"),
    [
        pytest.param(build(extensions=nonce_of(0)), ErrorType.BAD_DATA_FORMAT, id="empty nonce"),
        pytest.param(build(extensions=nonce_of(129)), ErrorType.BAD_DATA_FORMAT, id="long nonce"),
        pytest.param(
            build(extensions=der.sequence(extension(oids.OCSP_NONCE, b"raw"))),
            ErrorType.BAD_DATA_FORMAT,
            id="bare",
        ),
        pytest.param(build(extensions=der.sequence(NONCE, NONCE)), ErrorType.BAD_DATA_FORMAT, id="nonce twice"),
        pytest.param(build(extensions=der.sequence()), ErrorType.BAD_DATA_FORMAT, id="no extension in the list"),
        pytest.param(
            build(extensions=der.sequence(extension(OTHER, b"x", TRUE))),
            ErrorType.UNACCEPTED_EXTENSION,
            id="unknown critical extension",
        ),
        pytest.param(
            build(single=der.explicit(0, der.sequence(extension(OTHER, b"x", TRUE)))),
            ErrorType.UNACCEPTED_EXTENSION,
            id="unknown critical single extension",
        ),
        pytest.param(
            build(extensions=der.sequence(extension(OTHER, b"x", FALSE))),
            ErrorType.BAD_DATA_FORMAT,
            id="FALSE written",
        ),
        pytest.param(build(ids=der.sequence()), ErrorType.BAD_DATA_FORMAT, id="no CertID"),
        pytest.param(build(head=der.explicit(0, der.integer(0))), ErrorType.BAD_DATA_FORMAT, id="v1 written"),
        pytest.param(build(head=der.explicit(0, der.integer(1))), ErrorType.BAD_DATA_FORMAT, id="v2"),
        pytest.param(b"", ErrorType.BAD_DATA_FORMAT, id="nothing"),
        pytest.param(b"\x30\x80\x00\x00", ErrorType.BAD_DATA_FORMAT, id="indefinite length"),
        pytest.param(b"\x30" * 3000, ErrorType.BAD_DATA_FORMAT, id="0x30 only"),
        pytest.param(
            build(ids=der.sequence(der.sequence(der.tlv(0x30, *(b"\x30\x00",) * 4)))),
            ErrorType.BAD_DATA_FORMAT,
            id="a CertID of other things",
        ),
        pytest.param(
            build(ids=der.sequence(der.sequence(PARAMETERS))), ErrorType.BAD_DATA_FORMAT, id="parameters"
        ),
    ],
)
def test_what_is_refused_and_how(data, type_):
    with pytest.raises(PKIError) as caught:
        ocsp.decode_request(data)
    assert type_ is caught.value.type


def test_deep_nesting_is_refused():
    data = b""
    for _ in range(2000):
        data = der.sequence(data)
    with pytest.raises(PKIError, match="nested too deeply"):
        ocsp.decode_request(data)


def test_the_size_is_bounded():
    data = build(extensions=der.sequence(extension(OTHER, bytes(ocsp.MAX_REQUEST))))
    with pytest.raises(PKIError, match="at most 16384"):
        ocsp.decode_request(data)


def test_the_number_of_certids_is_bounded_and_repetitions_are_one():
    ids = [ocspkit.cert_id(bytes([1, n])) for n in range(ocsp.MAX_CERT_IDS + 1)]
    inside = ocsp.OCSPRequest(tuple(ids[:-1]), None)
    assert inside == ocsp.decode_request(ocsp.encode_request(inside))
    with pytest.raises(PKIError) as caught:
        ocsp.decode_request(ocsp.encode_request(ocsp.OCSPRequest(tuple(ids), None)))
    assert ErrorType.BAD_REQUEST is caught.value.type
    twice = ocsp.OCSPRequest((ids[0], ids[1], ids[0]), None)
    assert (ids[0], ids[1]) == ocsp.decode_request(ocsp.encode_request(twice)).cert_ids


def test_extensions_that_need_not_be_understood_are_passed_over():
    data = build(
        single=der.explicit(0, der.sequence(extension(OTHER, b"locator"))),
        extensions=der.sequence(extension(OTHER, b"\x30\x00"), extension(oids.OCSP_NONCE, b"\x04\x02ab", TRUE)),
    )
    assert b"ab" == ocsp.decode_request(data).nonce


# -- answers


def single(one: pyca.OCSPSingleResponse, cert_id: ocsp.CertID) -> ocsp.SingleResponse:
    if one.certificate_status is pyca.OCSPCertStatus.REVOKED:
        reason = {None: None, x509.ReasonFlags.key_compromise: 1}[one.revocation_reason]
        encoded = ocsp.CertStatus.revoked(one.revocation_time_utc, reason)
    else:
        good = one.certificate_status is pyca.OCSPCertStatus.GOOD
        encoded = ocsp.CertStatus.GOOD if good else ocsp.CertStatus.UNKNOWN
    return ocsp.SingleResponse(cert_id, encoded, one.this_update_utc, one.next_update_utc)


@pytest.mark.parametrize("name", RESPONSES)
def test_answers_are_byte_for_byte_what_openssl_writes(name):
    data = vector(f"{name}.resp.der")
    request = ocsp.decode_request(vector(f"{name}.req.der"))
    theirs = pyca.load_der_ocsp_response(data)
    delegate = x509.load_der_x509_certificate(vector("ocsp.der"))
    if theirs.responder_key_hash:
        responder = ocsp.ResponderID.by_key(
            x509.SubjectKeyIdentifier.from_public_key(delegate.public_key()).digest
        )
    else:
        responder = ocsp.ResponderID.by_name(delegate.subject.public_bytes())
    responses = [single(one, cid) for one, cid in zip(theirs.responses, request.cert_ids, strict=True)]
    ours = ocsp.encode_response_data(responder, theirs.produced_at_utc, responses, nonce=request.nonce)
    assert theirs.tbs_response_bytes == ours
    template = ocsp.ResponseTemplate(ALGORITHMS["ecdsa-with-SHA256"], [vector("ocsp.der")])
    assert data == template.encode(ours, theirs.signature)


moments = st.datetimes(datetime.datetime(1970, 1, 1), timezones=st.just(datetime.UTC))
status_values = st.sampled_from([ocsp.CertStatus.GOOD, ocsp.CertStatus.UNKNOWN]) | st.builds(
    ocsp.CertStatus.revoked, moments, st.none() | st.sampled_from([1, 4, 10])
)
singles = st.builds(ocsp.SingleResponse, cert_ids, status_values, moments, moments)


@hypothesis.given(
    st.binary(min_size=1, max_size=300),
    moments,
    singles,
    st.none() | st.binary(min_size=1, max_size=128),
    st.booleans(),
)
@hypothesis.settings(max_examples=200, deadline=None)
def test_an_answer_about_one_certificate_is_written_as_one_of_a_list(key, at, one, nonce, extended):
    """The short way for one SingleResponse against the general way, which the vectors show to be OpenSSL's."""
    responder = ocsp.ResponderID.by_key(key)
    whole = der.Reader(
        ocsp.encode_response_data(responder, at, [one, one], nonce=nonce, extended_revoke=extended)
    ).enter()
    head, produced_at, listed = whole.raw(), whole.raw(), whole.enter()
    again = der.sequence(head, produced_at, der.sequence(listed.raw()), whole.raw() if whole else b"")
    assert again == ocsp.encode_response_data(responder, at, [one], nonce=nonce, extended_revoke=extended)
    der.check(again)


@hypothesis.given(
    st.binary(min_size=1, max_size=70000), st.binary(min_size=1, max_size=600), st.binary(max_size=70000)
)
@hypothesis.settings(max_examples=50, deadline=None)
def test_a_response_is_written_as_its_type_says_whatever_the_lengths(data, signature, certificate):
    algorithm = ALGORITHMS["ecdsa-with-SHA256"]
    parts = [der.octet_string(data), der.octet_string(certificate)]
    basic = der.sequence(
        parts[0], algorithm.identifier, der.bit_string(signature), der.explicit(0, der.sequence(parts[1]))
    )
    expected = der.sequence(
        der.enumerated(0), der.explicit(0, der.sequence(der.oid(oids.OCSP_BASIC), der.octet_string(basic)))
    )
    assert expected == ocsp.ResponseTemplate(algorithm, [parts[1]]).encode(parts[0], signature)


def test_the_key_hash_of_a_responder_is_over_the_bits_of_its_key():
    delegate = x509.load_der_x509_certificate(vector("ocsp.der"))
    digest = x509.SubjectKeyIdentifier.from_public_key(delegate.public_key()).digest
    assert ocsp.ResponderID.by_key(digest) == ocsp.ResponderID(der.explicit(2, der.octet_string(digest)))
    assert 65 == len(key_bits(delegate))


def test_an_unspecified_reason_is_not_written_and_no_other_place_holds_a_reason():
    at = ocspkit.START
    assert ocsp.CertStatus.revoked(at, None) == ocsp.CertStatus.revoked(at, 0)
    encoded = ocsp.CertStatus.revoked(at, 4)
    assert der.tlv(0xA1, der.generalized_time(at), der.explicit(0, der.enumerated(4))) == encoded


@pytest.mark.parametrize("status", [one for one in ocsp.ResponseStatus if one])
def test_error_responses_hold_a_status_and_nothing_else(status):
    theirs = pyca.load_der_ocsp_response(ocsp.error_response(status))
    assert status.name == theirs.response_status.name
    assert 5 == len(ocsp.error_response(status))


def test_success_is_no_error():
    with pytest.raises(ValueError, match="successful"):
        ocsp.error_response(ocsp.ResponseStatus.SUCCESSFUL)
