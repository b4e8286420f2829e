"""Random requests and broken bytes: every answer is strict DER in two libraries' eyes, nothing escapes."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyasn1.codec.der import decoder, encoder
from pyasn1_modules import rfc3161, rfc5652

from chancery.asn1 import tsp
from chancery.errors import PKIError
from chancery.tsa import verification
from unit.tsa.kit import OTHER_POLICY, POLICY, TSA, TimeStampResp, request

DIGESTS = st.sampled_from(sorted(tsp.IMPRINT_SIZES))
asked = st.builds(
    lambda oid, data, **more: request(hash_oid=oid, digest=data[: tsp.IMPRINT_SIZES[oid]], **more),
    DIGESTS,
    st.binary(min_size=64, max_size=64),
    parameters=st.sampled_from([b"", b"\x05\x00"]),
    policy=st.sampled_from([None, POLICY, OTHER_POLICY]),
    nonce=st.none() | st.integers(0, (1 << 500) - 1),
    cert_req=st.booleans(),
)


@pytest.fixture(scope="module", params=["p256", "rsa"])
def answer(request):
    """A function that answers requests as one authority of this kind of key."""
    tsa = TSA(request.param)
    with ThreadPoolExecutor(1) as executor, asyncio.Runner() as runner:
        service = runner.run(started(tsa, executor))
        yield lambda data: runner.run(service.respond(data, "127.0.0.1")).der
        assert [] == tsa.reports


async def started(tsa, executor):
    return tsa.service(executor)


def encoded_anew(data: bytes, spec) -> object:
    """Decode as this type, check that encoding gives the same octets, and return the value."""
    found, rest = decoder.decode(data, asn1Spec=spec)
    assert (b"", data) == (bytes(rest), encoder.encode(found))
    return found


@given(asked)
@settings(max_examples=40, deadline=None)
def test_an_answer_is_encoded_as_pyasn1_encodes_what_it_reads(answer, query):
    """SET OF in its order, DEFAULT left out, lengths and integers minimal, on every level."""
    response = encoded_anew(answer(query), rfc3161.TimeStampResp())
    signed = encoded_anew(bytes(response["timeStampToken"]["content"]), rfc5652.SignedData())
    encoded_anew(bytes(signed["encapContentInfo"]["eContent"]), rfc3161.TSTInfo())
    [signer] = signed["signerInfos"]
    for attribute in signer["signedAttrs"]:
        encoded_anew(bytes(attribute["attrValues"][0]), None)


def test_an_answer_is_encoded_as_asn1crypto_encodes_what_it_reads(answer):
    der = answer(request())
    # Forced, every value is encoded anew. (It takes half a second: once is enough.)
    assert der == TimeStampResp.load(der, strict=True).dump(force=True)


mutations = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 255), st.integers(0, 2)), min_size=1, max_size=8
)


def mutated(data: bytes, changes) -> bytes:
    made = bytearray(data)
    for place, octet, act in changes:
        at = place % (len(made) + 1)
        if act == 0 and at < len(made):
            made[at] = octet
        elif act == 1:
            made.insert(at, octet)
        elif at < len(made):
            del made[at]
    return bytes(made)


@given(asked, mutations)
@settings(max_examples=60, deadline=None)
def test_a_broken_request_has_a_strict_answer_and_no_other(answer, query, changes):
    der = answer(mutated(query, changes))
    response = tsp.decode_response(der)
    assert (response.status == 0) == (response.time_stamp_token is not None)
    encoded_anew(der, rfc3161.TimeStampResp())


@given(st.binary(max_size=300))
@settings(max_examples=50, deadline=None)
def test_any_bytes_have_an_answer(answer, data):
    assert tsp.decode_response(answer(data)).time_stamp_token is None


@given(asked, mutations, st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_broken_response_is_refused_by_the_reader_and_never_taken_for_another(answer, query, changes, truncate):
    der = answer(query)
    broken = mutated(der, [(at * 7, octet, act) for at, octet, act in changes])
    if truncate:
        broken = broken[: len(broken) * 2 // 3]
    digest = {tsp.decode_request(query).hash_oid: tsp.decode_request(query).hashed_message}
    with contextlib.suppress(PKIError):
        found = verification.verify(verification.granted_token(broken), digests=digest, query=query)
        # What still verifies says the same: the change was where no signature looks, in the status.
        assert found.info == verification.info_of(verification.granted_token(der))
