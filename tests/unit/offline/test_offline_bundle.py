"""The signed, hash-linked medium between an installation and its offline CA."""

from __future__ import annotations

import base64
import datetime
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from chancery.asn1.signature import KeySigner
from chancery.errors import ErrorType, PKIError
from chancery.offline.bundle import (
    MAX_SIZE,
    Link,
    canonical,
    decode_request,
    decode_response,
    fingerprint,
    sha256,
)
from unit.offline import bundles


def refusal(call, *args, **kwargs):
    with pytest.raises(PKIError) as caught:
        call(*args, **kwargs)
    return caught.value


@pytest.mark.parametrize("signer", [bundles.ED25519, bundles.P256], ids=["ed25519", "p256"])
def test_what_was_put_in_comes_out(signer):
    data = bundles.request(signer)
    bundle = decode_request(data)
    assert bundles.request_payload() == bundle.payload
    assert bundle.header.number == 1
    assert bundles.AT == bundle.header.created_at
    assert signer.public_key == bundle.signer_key
    assert sha256(data) == bundle.sha256


def test_the_same_content_is_the_same_bytes():
    # Ed25519 signs deterministically, so the whole file repeats; with P-256 the signed part does.
    assert bundles.request() == bundles.request()
    parts = [json.loads(bundles.request(bundles.P256))["signed"] for _ in range(2)]
    assert parts[0] == parts[1]


def test_the_encoding_is_canonical_json_and_the_signature_covers_the_signed_part_as_it_stands():
    data = bundles.response()
    assert data.startswith(b'{"signature":"')
    part = data[data.index(b'"signed":') + len(b'"signed":') : -1]
    text = json.dumps(json.loads(data), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert text.encode() == data
    bundles.ED25519.public_key.verify(base64.b64decode(json.loads(data)["signature"]), part)


def test_the_known_bytes_of_a_bundle_stay():
    # A medium written today is read by tomorrow's release: these bytes never change.
    assert sha256(bundles.request()) == "6f7dbc92cd357d344080300027cb7198eb5234ae13acd7d584249a668deef697"
    assert fingerprint(bundles.request()) == "84496 03185 48600 84225 72813 79787 84293 16759"


def test_the_known_bytes_of_a_response_stay():
    assert sha256(bundles.response()) == "9c3c5da09eadc5134c704b9fd8ec1c84a4ad8a7e5a542f3b69685e9147f00c81"


def test_the_fingerprint_reads_as_eight_groups_of_five_digits():
    groups = fingerprint(b"anything").split(" ")
    assert [5] * 8 == [len(group) for group in groups]
    assert all(group.isdecimal() for group in groups)
    assert fingerprint(b"anything") != fingerprint(b"anything else")


def test_a_response_by_another_key_than_the_pinned_one_is_refused():
    data = bundles.response(bundles.P256)
    decode_response(data, pinned_key=bundles.P256.public_key)
    assert ErrorType.NOT_AUTHORIZED is refusal(decode_response, data, pinned_key=bundles.ED25519.public_key).type


def test_a_signature_that_was_moved_to_another_bundle_is_refused():
    one, other = json.loads(bundles.request()), json.loads(bundles.request(at=bundles.AT + datetime.timedelta(1)))
    moved = canonical({"signature": one["signature"], "signed": other["signed"]})
    assert ErrorType.NOT_AUTHORIZED is refusal(decode_request, moved).type


def altered(change):
    """The bytes of a request whose decoded JSON went through `change`, signature untouched."""
    value = json.loads(bundles.request())
    change(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(extra=1),
        lambda v: v["signed"].update(extra=1),
        lambda v: v["signed"]["header"].update(extra=1),
        lambda v: v["signed"]["payload"].update(extra=1),
        lambda v: v["signed"]["payload"]["certificates"][0].update(extra=1),
        lambda v: v["signed"]["header"].pop("previous"),
        lambda v: v["signed"]["header"].update(format="chancery-bundle/2"),
        lambda v: v["signed"]["header"].update(kind="response"),
        lambda v: v["signed"]["header"].update(number=0),
        lambda v: v["signed"]["header"].update(number=True),
        lambda v: v["signed"]["header"].update(previous="AB" * 32),
        lambda v: v["signed"]["header"].update(answers="ab" * 32),
        lambda v: v["signed"]["header"].update(signer="ab" * 32),
        lambda v: v["signed"]["header"].update(created_at="2026-11-24T12:00:00"),
        lambda v: v["signed"]["header"].update(created_at="2026-11-24T13:00:00+01:00"),
        lambda v: v["signed"]["header"].update(created_at="2026-11-24T12:00:00.5Z"),
        lambda v: v["signed"]["header"].update(created_at="2026-11-24T12:00:00+00:00"),
        lambda v: v["signed"]["payload"]["certificates"].append(v["signed"]["payload"]["certificates"][0]),
        lambda v: v["signed"]["payload"]["certificates"][0].update(csr="MA"),
        lambda v: v["signed"]["payload"]["certificates"][0].update(reason="up\x1b[A"),
        lambda v: v["signed"]["payload"]["certificates"][0].update(reason="\u202eesrever"),
    ],
)
def test_anything_but_the_exact_form_is_refused(change):
    assert ErrorType.BAD_DATA_FORMAT is refusal(decode_request, altered(change)).type


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"[" * 100_000,
        b'{"signature":' * 20_000,
        b"\xff\xfe",
        bundles.request() + b"\n",
        b" " + bundles.request(),
        bundles.request()[:-1],
        bundles.request().replace(b'"crl":true', b'"crl":true,"crl":true'),
        bundles.request().replace(b"dns:ca", b"dns:c\\u0061"),
        bundles.response(),
    ],
    ids=lambda data: data[:12].decode("latin-1"),
)
def test_other_bytes_are_refused(data):
    assert ErrorType.BAD_DATA_FORMAT is refusal(decode_request, data).type


def test_a_request_is_not_a_response():
    assert ErrorType.BAD_DATA_FORMAT is refusal(decode_response, bundles.request()).type


def test_a_bundle_over_the_limit_is_refused_unread_and_never_written():
    assert "octets" in refusal(decode_request, b"x" * (MAX_SIZE + 1)).detail
    assert "octets" in refusal(decode_request, bundles.request(), max_size=100).detail
    large = [bundles.entry(csr=bytes(60_000), transaction_id=str(n)) for n in range(20)]
    assert ErrorType.BAD_REQUEST is refusal(bundles.request, payload=bundles.request_payload(*large)).type


class NeverSigner(KeySigner):
    def sign(self, data):
        raise AssertionError("signed what the other side would refuse")


@pytest.mark.parametrize(
    ("link", "payload"),
    [
        (Link(2, None, bundles.SHA), None),
        (Link(1, bundles.SHA, None), None),
        (Link(1, None, bundles.SHA), None),
        (bundles.FIRST, bundles.request_payload(bundles.entry(), bundles.entry())),
        (bundles.FIRST, bundles.request_payload(bundles.entry(reason="\x07"))),
        (bundles.FIRST, bundles.request_payload(bundles.entry(profile="Sub CA"))),
    ],
)
def test_nothing_is_signed_that_would_be_refused(link, payload):
    signer = NeverSigner(bundles.ED25519.key)
    assert ErrorType.BAD_REQUEST is refusal(bundles.request, signer, link, payload).type


def test_an_answer_is_a_certificate_or_a_refusal_in_words():
    refused = bundles.answer(certificate=None, error="badPOP", detail="no")
    assert (
        refused == decode_response(bundles.response(payload=bundles.response_payload(refused))).payload.answers[0]
    )
    for changes in ({"error": "badPOP"}, {"detail": "no"}, {"certificate": None}, {"error": "x", "detail": "y"}):
        payload = bundles.response_payload(bundles.answer(**changes))
        assert ErrorType.BAD_REQUEST is refusal(bundles.response, payload=payload).type


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)])
def test_bundles_are_signed_with_p256_or_ed25519_only(key):
    assert ErrorType.BAD_ALG is refusal(bundles.request, KeySigner(key)).type
