"""Bundles made with software keys, for the tests of the offline CA."""

from __future__ import annotations

import datetime

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from chancery.asn1.signature import KeySigner
from chancery.offline.bundle import (
    Answer,
    Link,
    RequestEntry,
    RequestPayload,
    ResponsePayload,
    encode_request,
    encode_response,
)

AT = datetime.datetime(2026, 11, 24, 12, tzinfo=datetime.UTC)
ED25519 = KeySigner(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
P256 = KeySigner(ec.derive_private_key(20261124, ec.SECP256R1()))
FIRST = Link(number=1, previous=None, answers=None)
SHA = "ab" * 32
ANSWER = Link(number=1, previous=None, answers=SHA)


def entry(**changes):
    values = {
        "csr": b"\x30\x00",
        "names": ("dns:ca.example",),
        "profile": "sub-ca",
        "reason": "the issuing CA",
        "transaction_id": "issuing-1",
    }
    return RequestEntry(**(values | changes))


def request_payload(*entries, crl=True):
    return RequestPayload(certificates=entries or (entry(),), crl=crl)


def answer(**changes):
    values = {"certificate": b"\x30\x00", "detail": None, "error": None, "transaction_id": "issuing-1"}
    return Answer(**(values | changes))


def response_payload(*answers):
    return ResponsePayload(
        answers=answers or (answer(),), chain=(b"\x30\x00",), crls=(), journal_head=SHA, journal_length=7
    )


def request(signer=ED25519, link=FIRST, payload=None, at=AT):
    return encode_request(signer, link, payload or request_payload(), at)


def response(signer=ED25519, link=ANSWER, payload=None, at=AT):
    return encode_response(signer, link, payload or response_payload(), at)
