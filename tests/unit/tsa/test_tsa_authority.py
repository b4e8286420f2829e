from __future__ import annotations

import asyncio
import datetime
import hashlib

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from chancery.asn1 import cms, der, tsp
from chancery.asn1.signature import ALGORITHMS, KeySigner
from chancery.errors import ErrorType, OperatorError
from chancery.ports import EventKind
from chancery.tsa.rows import row_hash, rows_digest
from fakes import START, CountingSigner, FakeClock, Faults
from unit.tsa.kit import (
    CRITICAL_TIME_STAMPING,
    OTHER_POLICY,
    POLICY,
    SHA1,
    TSA,
    YEAR,
    PKIFailureInfo,
    TimeStampResp,
    as_der,
    certificate,
    key,
    request,
)

EXTENSION = der.explicit(0, der.sequence(der.oid("1.2.3.4"), der.octet_string(b"\x05\x00")))
CRITICAL = der.explicit(
    0, der.sequence(der.oid("1.2.3.4"), der.boolean(value=True), der.octet_string(b"\x05\x00"))
)


def parse(data: bytes) -> TimeStampResp:
    """Parsed by another implementation."""
    return TimeStampResp.load(data, strict=True)


def parse_again(data: bytes) -> TimeStampResp:
    """Parsed by another implementation, which must write the same bytes again (slow)."""
    response = parse(data)
    assert response.native
    assert data == response.dump(force=True)
    return response


def tst_info(response: TimeStampResp):
    return response["time_stamp_token"]["content"]["encap_content_info"]["content"].parsed


def fail_info(data: bytes) -> set[str]:
    status = parse(data)["status"]
    assert status["status"].native == "rejection"
    assert len(status["status_string"].native) == 1
    return status["fail_info"].native


@pytest.mark.parametrize("kind", ["rsa", "p256", "p384", "p521", "ed25519"])
@pytest.mark.parametrize("cert_req", [True, False])
def test_a_token_says_what_was_asked(kind, cert_req):
    tsa = TSA(kind)
    answer = tsa.respond(request(cert_req=cert_req, nonce=2**255 + 1))
    assert answer.error is None
    response = parse_again(answer.der)
    assert response["status"]["status"].native == "granted"
    info = tst_info(response)
    assert info.dump() == info.copy().dump(force=True)
    assert info["version"].native == "v1"
    assert info["policy"].native == POLICY
    assert info["message_imprint"]["hashed_message"].native == hashlib.sha256(b"document").digest()
    assert info["nonce"].native == 2**255 + 1
    assert info["gen_time"].native == START
    assert info["accuracy"].native == {"seconds": 1, "millis": None, "micros": None}  # R23
    assert [token.serial for token in tsa.store.tokens.values()] == [info["serial_number"].native]
    signed_data = response["time_stamp_token"]["content"]
    assert signed_data["version"].native == "v3"
    certificates = [c.chosen.dump() for c in signed_data["certificates"]] if cert_req else []
    assert certificates == (sorted([as_der(tsa.certificate), as_der(tsa.root)]) if cert_req else [])
    attributes = {a["type"].native: a["values"] for a in signed_data["signer_infos"][0]["signed_attrs"]}
    assert attributes.keys() == {"content_type", "message_digest", "signing_certificate_v2"}
    cert_id = attributes["signing_certificate_v2"][0]["certs"][0]
    assert cert_id["cert_hash"].native == hashlib.sha256(as_der(tsa.certificate)).digest()
    assert cert_id["issuer_serial"]["serial_number"].native == tsa.certificate.serial_number


@pytest.mark.parametrize(
    ("kind", "digest", "signature"),
    [
        ("rsa", "sha256", "rsassa_pkcs1v15"),
        ("p256", "sha256", "sha256_ecdsa"),
        ("p384", "sha384", "sha384_ecdsa"),
        ("ed25519", "sha512", "ed25519"),
        ("ml-dsa-44", "sha512", "2.16.840.1.101.3.4.3.17"),  # RFC 9882 3.3
    ],
)
def test_r24_the_digest_of_the_token_matches_the_key(kind, digest, signature):
    signer_info = parse(TSA(kind).respond(request()).der)["time_stamp_token"]["content"]["signer_infos"][0]
    assert digest == signer_info["digest_algorithm"]["algorithm"].native
    algorithm = signer_info["signature_algorithm"]["algorithm"]
    # A library that another test imports may have given the object identifier a name.
    assert signature in {algorithm.native, algorithm.dotted}


def test_pss_keeps_its_parameters():
    tsa = TSA("rsa", signer=KeySigner(key("rsa"), ALGORITHMS["rsassaPss-sha256"]))
    response = parse_again(tsa.respond(request()).der)
    signer_info = response["time_stamp_token"]["content"]["signer_infos"][0]
    assert signer_info["signature_algorithm"]["algorithm"].native == "rsassa_pss"


def test_optional_parts_are_written_when_set():
    tsa = TSA(
        include_tsa_name=True,
        include_signing_time=True,
        accuracy=datetime.timedelta(microseconds=500_250),
        gen_time_digits=6,
        clock=FakeClock(START + datetime.timedelta(microseconds=120_030)),
    )
    answer = tsa.respond(request(policy=OTHER_POLICY, nonce=None))
    response = parse_again(answer.der)
    info = tst_info(response)
    assert info["tsa"].chosen.native == {"common_name": "Test TSA"}
    assert info["nonce"].native is None
    assert info["policy"].native == OTHER_POLICY
    assert info["accuracy"].native == {"seconds": None, "millis": 500, "micros": 250}
    assert b"20261124120000.12003Z" in answer.der
    attributes = response["time_stamp_token"]["content"]["signer_infos"][0]["signed_attrs"]
    assert "signing_time" in {a["type"].native for a in attributes}


def test_gen_time_is_cut_to_its_digits_and_recorded_as_signed():
    tsa = TSA(gen_time_digits=2, clock=FakeClock(START + datetime.timedelta(microseconds=129_999)))
    answer = tsa.respond(request())
    assert b"20261124120000.12Z" in answer.der
    assert [START + datetime.timedelta(milliseconds=120)] == [t.gen_time for t in tsa.store.tokens.values()]


REFUSALS = [
    (b"", "bad_data_format"),
    (b"\x30\x80\x00\x00", "bad_data_format"),
    (request() + b"\x00", "bad_data_format"),
    (request()[:-1], "bad_data_format"),
    (request(nonce=1 << 8 * 65), "bad_data_format"),
    (request(digest=b"short"), "bad_data_format"),
    (request(cert_req=False) + b"", None),
    (request(version=2), "bad_request"),
    (request(version=0), "bad_request"),
    (request(hash_oid=SHA1, digest=bytes(20)), "bad_alg"),
    (request(hash_oid="1.2.840.113549.2.5", digest=bytes(16)), "bad_alg"),
    (request(parameters=der.integer(1)), "bad_alg"),
    (request(parameters=b""), None),
    (request(hash_oid="2.16.840.1.101.3.4.2.10", digest=bytes(64)), None),
    (request(hash_oid="2.16.840.1.101.3.4.2.8", digest=bytes(32)), None),
    (request(hash_oid="2.16.840.1.101.3.4.2.3", digest=bytes(32)), "bad_data_format"),
    (request(policy="1.2.3"), "unaccepted_policy"),
    (request(policy=OTHER_POLICY), None),
    (request(extensions=EXTENSION), "unaccepted_extension"),
    (request(extensions=CRITICAL), "unaccepted_extension"),
    (request(extensions=b"\xa0\x00"), "bad_data_format"),
    (request(nonce=-5), None),
    (request(nonce=0), None),
    (der.sequence(b"\x02\x01\x01" * 3), "bad_data_format"),
    (b"\x30\x82\x01\x0c" + b"\x06\x82\x01\x08" + b"\x81" * 263 + b"\x01", "bad_data_format"),
    (b"\xa0\x02" * 4000, "bad_data_format"),
    (bytes(9000), "bad_data_format"),
]


@pytest.mark.parametrize(("data", "expected"), REFUSALS)
def test_each_request_gets_its_own_word(data, expected):
    tsa = TSA()
    answer = tsa.respond(data)
    if expected is None:
        assert answer.error is None
        assert parse(answer.der)["status"]["status"].native == "granted"
    else:
        assert {expected} == fail_info(answer.der)  # R24 among them
        assert {} == tsa.store.tokens
    assert [] == tsa.reports


def test_every_error_type_has_a_fail_info():
    assert set(ErrorType) == set(tsp.FAIL_INFO)


@pytest.mark.parametrize("bit", list(tsp.FailInfo))
def test_a_rejection_carries_one_bit(bit):
    assert len(fail_info(tsp.rejection(bit, "no"))) == 1
    assert PKIFailureInfo({bit.name.lower()}).native == fail_info(tsp.rejection(bit, "no"))
    assert parse_again(tsp.rejection(bit, "no"))


def test_no_time_no_token():
    tsa = TSA(fit=False)
    assert {"time_not_available"} == fail_info(tsa.respond(request()).der)  # R23
    assert {} == tsa.store.tokens
    tsa.measure()
    assert tsa.respond(request()).error is None


def test_a_clock_lost_between_record_and_signature_stops_the_signature():
    signer = CountingSigner(KeySigner(key("p256")))
    tsa = TSA(signer=signer)
    record = tsa.store.record

    async def slow(tokens, events):
        await record(tokens, events)
        tsa.clock.time += datetime.timedelta(hours=1)

    tsa.store.record = slow
    assert {"time_not_available"} == fail_info(tsa.respond(request()).der)
    assert [] == signer.signed


@pytest.mark.parametrize("fault", ["fail-before", "fail-after", "crash"])
def test_nothing_is_signed_that_is_not_recorded(fault):
    signer = CountingSigner(KeySigner(key("p256")))
    tsa = TSA(signer=signer)
    tsa.store.fault = fault
    answer = tsa.respond(request())
    assert {"system_failure"} == fail_info(answer.der)
    assert b"secret" not in answer.der
    assert [] == signer.signed
    assert (1 if fault == "crash" else 0) == len(tsa.reports)
    tsa.store.fault = None
    assert tsa.respond(request()).error is None


def test_every_token_given_out_is_recorded_and_journalled():
    tsa = TSA()
    answers = asyncio.run(tsa.respond_all([request(cert_req=False)] * 12, max_batch=5))
    serials = [tst_info(parse(answer.der))["serial_number"].native for answer in answers]
    assert 12 == len(set(serials))  # the same nonce and imprint, yet never the same serial
    assert set(tsa.store.tokens) == set(serials)
    assert 12 == sum(len(tokens) for tokens, _ in tsa.store.batches)
    for tokens, events in tsa.store.batches:
        assert [EventKind.TOKENS_RECORDED] == [event.kind for event in events]
        assert events[0].detail == {
            "count": len(tokens),
            "first": str(tokens[0].serial),
            "last": str(tokens[-1].serial),
            "sha256": rows_digest(map(row_hash, tokens)),
            "unit": "tsa",
        }
    for serial in serials:
        assert serial >> 120 == 0x0107
        assert serial.bit_length() <= 160


def test_a_token_device_that_fails_fails_its_request_only():
    signer = CountingSigner(KeySigner(key("p256")), Faults(at=2))
    tsa = TSA(signer=signer)
    answers = asyncio.run(tsa.respond_all([request()] * 4))
    assert 1 == sum(answer.error is ErrorType.SYSTEM_UNAVAIL for answer in answers)
    assert 3 == sum(answer.error is None for answer in answers)


class WrongSigner:
    """A token device that signs with another key than it says."""

    algorithm = ALGORITHMS["ecdsa-with-SHA256"]

    def __init__(self, public_key, answer) -> None:
        self.public_key = public_key
        self._answer = answer

    def sign(self, data):
        return self._answer(data)


@pytest.mark.parametrize("answer", [KeySigner(key("p256/root")).sign, lambda _: b"", lambda _: b"\x30\x00"])
def test_a_signature_that_does_not_verify_is_not_given_out(answer):
    tsa = TSA(signer=WrongSigner(key("p256").public_key(), answer))
    assert {"system_failure"} == fail_info(tsa.respond(request()).der)


def test_a_bug_in_the_signer_is_reported_and_hidden():
    tsa = TSA(signer=WrongSigner(key("p256").public_key(), lambda _: 1 / 0))
    assert {"system_failure"} == fail_info(tsa.respond(request()).der)
    assert [ZeroDivisionError] == [type(error) for error in tsa.reports]


def test_too_many_waiting_requests_are_refused():
    answers = asyncio.run(TSA().respond_all([request()] * 10, max_batch=2, max_pending=4))
    refused = [answer for answer in answers if answer.error is ErrorType.SYSTEM_UNAVAIL]
    assert 6 == len(refused)
    assert {"system_failure"} == fail_info(refused[0].der)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        (CRITICAL_TIME_STAMPING[0], False),
        ([ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.CODE_SIGNING], True),
        ([ExtendedKeyUsageOID.OCSP_SIGNING], True),
    ],
)
def test_r25_extended_key_usage_is_time_stamping_alone_and_critical(usage):
    with pytest.raises(OperatorError, match="timeStamping alone"):
        TSA(cert=certificate("p256", usage=usage))


@pytest.mark.parametrize(
    "dates", [{"start": START - 2 * YEAR, "end": START - YEAR}, {"start": START + YEAR, "end": START + 2 * YEAR}]
)
def test_r25_a_certificate_out_of_validity_does_not_start(dates):
    with pytest.raises(OperatorError, match="may be used from"):
        TSA(cert=certificate("p256", **dates))


def test_r25_a_certificate_that_runs_out_stops_issuing():
    tsa = TSA(cert=certificate("p256", end=START + datetime.timedelta(seconds=10)))
    assert tsa.respond(request()).error is None
    tsa.clock.advance(11)
    tsa.measure()
    assert {"system_failure"} == fail_info(tsa.respond(request()).der)


def test_r25_the_private_key_usage_period_is_kept():
    naive = START.replace(tzinfo=None)
    day = datetime.timedelta(days=1)
    tsa = TSA(cert=certificate("p256", period=(naive - day, naive + day)))
    assert tsa.respond(request()).error is None
    tsa.clock.advance(2 * 86400)
    tsa.measure()
    assert {"system_failure"} == fail_info(tsa.respond(request()).der)
    with pytest.raises(OperatorError, match="may be used from"):
        TSA(cert=certificate("p256", period=(naive - 2 * day, naive - day)))


def test_another_key_does_not_start():
    with pytest.raises(OperatorError, match="another key"):
        TSA(signer=KeySigner(key("p256/root")))


def test_r24_a_digest_weaker_than_the_key_does_not_start():
    with pytest.raises(OperatorError, match="R24"):
        TSA("p384", signer=KeySigner(key("p384"), ALGORITHMS["ecdsa-with-SHA256"]))


@pytest.mark.parametrize(
    "settings",
    [
        {"instance": 0},
        {"instance": 128},
        {"policies": ()},
        {"gen_time_digits": 0},
        {"gen_time_digits": 7},
        {"accuracy": datetime.timedelta(seconds=2)},
        {"accuracy": datetime.timedelta(milliseconds=1)},
    ],
)
def test_promises_that_cannot_be_kept_do_not_start(settings):
    with pytest.raises(OperatorError):
        TSA(**settings)


def test_a_century_later_it_still_stamps():
    later = START + 100 * YEAR
    tsa = TSA(clock=FakeClock(later), cert=certificate("p256", start=START, end=START + 150 * YEAR))
    info = tst_info(parse(tsa.respond(request()).der))
    assert later == info["gen_time"].native


def test_the_token_is_checked_as_read_back():
    tsa = TSA(chain=False)
    answer = tsa.respond(request())
    token = parse(answer.der)["time_stamp_token"].dump()
    content = tst_info(parse(answer.der)).dump()
    cms.verify(token, content, key("p256").public_key(), tsa.signer.algorithm)
    assert isinstance(tsa.certificate, x509.Certificate)
