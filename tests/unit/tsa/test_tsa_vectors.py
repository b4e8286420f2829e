"""OpenSSL's requests and responses (tests/vectors/tsp) read, judged and written again."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from asn1crypto import tsp as peer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from chancery.asn1 import cms, der, oids, tsp
from chancery.errors import ErrorType, PKIError
from chancery.tsa import verification
from unit.tsa.kit import TimeStampResp, digests_of

FOLDER = Path(__file__).parents[2] / "vectors" / "tsp"
DOCUMENT = (FOLDER / "document.txt").read_bytes()
KINDS = ["rsa", "p256"]
ALL = [(kind, what) for kind in KINDS for what in ("sha256", "sha384", "sha512", "bare")]


def pem(name: str) -> bytes:
    return x509.load_pem_x509_certificate((FOLDER / f"{name}.pem").read_bytes()).public_bytes(Encoding.DER)


def token(name: str) -> bytes:
    return verification.granted_token((FOLDER / f"{name}.tsr").read_bytes())


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.tsq")), ids=lambda path: path.name)
def test_requests_are_read_as_asn1crypto_reads_them(path):
    data = path.read_bytes()
    mine, theirs = tsp.decode_request(data), peer.TimeStampReq.load(data, strict=True)
    assert theirs["message_imprint"].dump() == mine.message_imprint
    assert theirs["req_policy"].native == mine.req_policy
    assert (theirs["nonce"].dump() or None) == mine.nonce
    assert theirs["cert_req"].native == mine.cert_req
    assert theirs["message_imprint"]["hashed_message"].native == mine.hashed_message


@pytest.mark.parametrize("name", [f"{kind}-{what}" for kind, what in ALL])
def test_our_template_writes_openssl_s_tst_info_byte_for_byte_but_for_ordering(name):
    content = cms.decode(token(name)).content
    info = tsp.decode_tst_info(content)
    assert datetime.timedelta(seconds=1, milliseconds=500, microseconds=100) == info.accuracy
    assert info.ordering
    assert info.tsa is not None
    tsa = der.Reader(info.tsa).take(0xA4)
    ours = tsp.TSTInfoTemplate(info.accuracy, tsa).encode(
        info.policy, info.message_imprint, info.serial, info.gen_time, info.nonce
    )
    # Ours never promises an order.
    assert _without_ordering(content) == ours


def _without_ordering(content: bytes) -> bytes:
    reader, parts = der.Reader(content).enter(), []
    while reader:
        part = reader.raw()
        if part != b"\x01\x01\xff":
            parts.append(part)
    return der.sequence(*parts)


@pytest.mark.parametrize(("kind", "what"), ALL)
def test_openssl_s_tokens_verify_against_their_requests(kind, what):
    name = f"{kind}-{what}"
    found = verification.verify(
        token(name),
        digests=digests_of(DOCUMENT),
        query=(FOLDER / f"{name}.tsq").read_bytes(),
        anchors=[pem(f"{kind}-ca")],
        certificates=[pem(f"{kind}-tsa")] if what == "bare" else [],
    )
    assert (pem(f"{kind}-tsa"), pem(f"{kind}-ca")) == found.path


@pytest.mark.parametrize(("kind", "what"), ALL)
def test_every_octet_of_a_token_matters(kind, what):
    """Nothing that is signed, signs or names the signer changes unseen; embedded certificates are only hints."""
    name = f"{kind}-{what}"
    good, certificate = token(name), pem(f"{kind}-tsa")
    embedded = good.find(certificate)
    hints = range(embedded - 4, embedded + len(certificate)) if embedded >= 0 else range(0)
    arguments = {"digests": digests_of(DOCUMENT), "certificates": [certificate]}
    verification.verify(good, **arguments)
    survived = []
    for at in range(0, len(good), 3):
        if at in hints:
            continue
        bad = good[:at] + bytes((good[at] ^ 0x01,)) + good[at + 1 :]
        try:
            verification.verify(bad, **arguments)
        except PKIError:
            continue
        survived.append(at)
    # SignedData.digestAlgorithms is not signed; nothing is read from it.
    assert all(at < 60 for at in survived), survived


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("refused-policy", ErrorType.UNACCEPTED_POLICY, "unacceptedPolicy"),
        ("refused-digest", ErrorType.BAD_ALG, "badAlg: Message digest algorithm is not supported"),
    ],
)
def test_openssl_s_refusals_become_errors_of_their_kind(name, kind, words):
    with pytest.raises(PKIError, match=words) as caught:
        token(name)
    assert kind is caught.value.type


@pytest.mark.parametrize(("name", "bit"), [("refused-policy", 15), ("refused-digest", 0)])
def test_refusals_are_read_as_asn1crypto_reads_them(name, bit):
    data = (FOLDER / f"{name}.tsr").read_bytes()
    assert frozenset({bit}) == tsp.decode_response(data).fail_info
    theirs = TimeStampResp.load(data, strict=True)
    assert theirs["status"]["status"].native == "rejection"
    assert data == theirs.dump(force=True)


def test_the_content_is_a_timestamp():
    assert oids.TST_INFO == cms.decode(token("rsa-sha256")).content_type
