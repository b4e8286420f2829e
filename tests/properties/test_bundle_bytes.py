"""Bundles: decoding undoes encoding, and no other bytes are a bundle."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chancery.errors import PKIError
from chancery.offline.bundle import (
    Answer,
    RequestEntry,
    RequestPayload,
    ResponsePayload,
    decode_request,
    decode_response,
)
from unit.offline import bundles

words = st.text(max_size=40).filter(str.isprintable)
filled = st.text(min_size=1, max_size=40).filter(str.isprintable)
octets = st.binary(min_size=2, max_size=200)
sha = st.binary(min_size=32, max_size=32).map(bytes.hex)
entries = st.builds(
    RequestEntry,
    csr=octets,
    names=st.lists(filled, max_size=3).map(tuple),
    profile=st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True),
    reason=words,
    transaction_id=filled,
)
answers = st.one_of(
    st.builds(Answer, certificate=octets, detail=st.none(), error=st.none(), transaction_id=filled),
    st.builds(Answer, certificate=st.none(), detail=words, error=words, transaction_id=filled),
)
requests = st.builds(
    RequestPayload,
    certificates=st.lists(entries, max_size=3, unique_by=lambda entry: entry.transaction_id).map(tuple),
    crl=st.booleans(),
)
responses = st.builds(
    ResponsePayload,
    answers=st.lists(answers, max_size=3, unique_by=lambda answer: answer.transaction_id).map(tuple),
    chain=st.lists(octets, min_size=1, max_size=2).map(tuple),
    crls=st.lists(octets, max_size=2).map(tuple),
    journal_head=sha,
    journal_length=st.integers(min_value=1, max_value=2**40),
)
times = st.datetimes(timezones=st.just(bundles.AT.tzinfo)).map(lambda at: at.replace(microsecond=0))
REQUEST = bundles.request()
RESPONSE = bundles.response(bundles.P256)


@given(requests, times)
@settings(max_examples=60, deadline=None)
def test_decoding_a_request_gives_back_what_was_encoded(payload, at):
    data = bundles.request(payload=payload, at=at)
    bundle = decode_request(data)
    assert (payload, at, data) == (bundle.payload, bundle.header.created_at, bundle.data)
    assert data == bundles.request(payload=bundle.payload, at=bundle.header.created_at)


@given(responses, times)
@settings(max_examples=60, deadline=None)
def test_decoding_a_response_gives_back_what_was_encoded(payload, at):
    bundle = decode_response(bundles.response(payload=payload, at=at), pinned_key=bundles.ED25519.public_key)
    assert (payload, at) == (bundle.payload, bundle.header.created_at)


@given(st.integers(0, len(REQUEST) - 1), st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_a_request_with_any_octet_changed_is_refused(at, difference):
    changed = REQUEST[:at] + bytes((REQUEST[at] ^ difference,)) + REQUEST[at + 1 :]
    with pytest.raises(PKIError):
        decode_request(changed)


@given(st.integers(0, len(RESPONSE) - 1), st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_a_response_with_any_octet_changed_is_refused(at, difference):
    changed = RESPONSE[:at] + bytes((RESPONSE[at] ^ difference,)) + RESPONSE[at + 1 :]
    with pytest.raises(PKIError):
        decode_response(changed, pinned_key=bundles.P256.public_key)


@given(st.integers(0, len(REQUEST) - 1), st.integers(0, 40), st.binary(max_size=40))
@settings(max_examples=300, deadline=None)
def test_a_request_with_any_stretch_replaced_is_refused(at, size, stretch):
    changed = REQUEST[:at] + stretch + REQUEST[at + size :]
    if changed != REQUEST:
        with pytest.raises(PKIError):
            decode_request(changed)


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_refused_with_a_typed_error(data):
    for decode in (decode_request, decode_response):
        with pytest.raises(PKIError):
            decode(data)
