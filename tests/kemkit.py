"""A subject with a certificate for signatures that asks for one for its ML-KEM key (RFC 9883)."""

from __future__ import annotations

import functools

from cakit import PROFILES, issuing_issuer, key, make_csr
from chancery.asn1 import oids
from chancery.asn1.csr import statement_request
from chancery.asn1.signature import KeySigner
from chancery.asn1.x509 import name
from chancery.ca.issuance import make_serial
from chancery.pkix.kem import sample_kem
from chancery.pkix.profile import grant, requested
from fakes import START, FakeEntropy

SUBJECT = ((oids.ATTRIBUTES["O"], "Example"), (oids.ATTRIBUTES["CN"], "Alice"))
NAMES = ("email:alice@example.org",)
PROFILE = """
name = "kem"
version = 1
description = "Key establishment with ML-KEM"
keys = ["ml-kem-512", "ml-kem-768", "ml-kem-1024"]
proof = "statement"

[validity]
duration = "199d"

[subject]
required = ["CN"]
optional = ["O"]

[names]
types = ["email"]
required = true

[extensions]
key_usage = ["keyEncipherment"]
extended_key_usage = ["emailProtection"]
"""


@functools.cache
def signature_certificate(kind: str = "ec-p256") -> bytes:
    """What Alice has already: issued here under the profile tls-client."""
    issuer = issuing_issuer()
    csr = make_csr("CN=Alice,O=Example", NAMES, key("kem signer", kind))
    granted = grant(PROFILES["tls-client"], requested(csr), issuer.limits, START)
    return issuer.issue(issuer.prepare(granted, make_serial(1, FakeEntropy(99))))


def ask(kind="ml-kem-768", by="ec-p256", *, subject=SUBJECT, names=NAMES, certificate=None, sign=None) -> bytes:
    """A request (DER) for a KEM key of Alice's, whose possession her signature key states."""
    signer = KeySigner(key("kem signer", by))
    return statement_request(
        subject=name(subject),
        spki=sample_kem(kind).spki(),
        names=names,
        certificate=certificate or signature_certificate(by),
        algorithm=signer.algorithm.identifier,
        sign=sign or signer.sign,
    )
