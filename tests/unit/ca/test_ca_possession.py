"""Keys that cannot sign are certified on the word of their subject, by a good certificate of ours (RFC 9883)."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cakit import CA, PROFILES, WORKER, issuing_issuer, key, make_csr
from chancery.asn1.signature import KeySigner
from chancery.ca.issuance import issue_batch
from chancery.errors import ErrorType, PKIError
from chancery.pkix.kem import load_kem, sample_kem
from chancery.pkix.key import key_of
from chancery.pkix.profile import parse_profile
from chancery.ports import EventKind, RequestState, RevocationReason
from kemkit import NAMES, PROFILE, SUBJECT, ask

KEM = {**PROFILES, "kem": parse_profile(PROFILE)}


class World:
    """A CA that has certified Alice's signature key by request 1."""

    def __init__(self, kind: str = "ec-p256", names=NAMES, subject="CN=Alice,O=Example") -> None:
        self.ca = CA(profiles=KEM)
        self.kind = kind
        self.ca.ask(make_csr(subject, names, key("kem signer", kind)), "tls-client")
        self.ca.work()
        [stored] = self.ca.store.certificates.values()
        self.certificate, self.serial = stored.der, stored.serial

    def ask(self, **asked) -> int:
        beside = asked.pop("beside", ())
        certificate = asked.pop("certificate", self.certificate)
        request = self.ca.ask(ask(by=self.kind, certificate=certificate, **asked), "kem", names=beside)
        self.ca.work()
        return request

    def refused(self, **asked) -> str:
        request = self.ask(**asked)
        assert RequestState.REFUSED is self.ca.store.states[request]
        refusal = next(one for one in self.ca.store.events if one.subject == f"request:{request}")
        assert ErrorType.BAD_POP.value == refusal.detail["error"]
        return refusal.detail["detail"]


@pytest.mark.parametrize("kind", ["ml-kem-512", "ml-kem-768", "ml-kem-1024"])
@pytest.mark.parametrize("by", ["ec-p256", "ml-dsa-65"])
def test_a_kem_key_is_certified_for_key_encipherment_alone(kind, by):
    world = World(by)
    request = world.ask(kind=kind)
    certificate = world.ca.certificate(request)
    assert sample_kem(kind) == key_of(certificate)
    assert load_kem(sample_kem(kind).spki()) == sample_kem(kind)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_encipherment
    assert not any((usage.digital_signature, usage.data_encipherment, usage.key_agreement, usage.key_cert_sign))
    certificate.verify_directly_issued_by(issuing_issuer().certificate)
    [intent] = [
        one
        for one in world.ca.store.events
        if one.kind is EventKind.INTENT_RECORDED and one.detail["request"] == request
    ]
    assert 64 == len(intent.detail["possession_stated_by_sha256"]), "the journal says that it was not proven"


def test_a_certificate_that_was_revoked_states_nothing():
    world = World()
    world.ca.ask_revocation(world.serial, RevocationReason.KEY_COMPROMISE)
    world.ca.work()
    assert "is not one that was issued here and is good" in world.refused()


def test_a_certificate_of_another_ca_states_nothing():
    world = World()
    ours = x509.load_der_x509_certificate(world.certificate)
    forged = (
        x509.CertificateBuilder(issuer_name=ours.issuer, subject_name=ours.subject)
        .public_key(ours.public_key())
        .serial_number(ours.serial_number)
        .not_valid_before(ours.not_valid_before_utc)
        .not_valid_after(ours.not_valid_after_utc)
        .sign(key("stranger"), KeySigner(key("stranger")).algorithm.hash)
        .public_bytes(Encoding.DER)
    )
    assert "is not one that was issued here" in world.refused(certificate=forged)


def test_an_expired_certificate_states_nothing():
    world = World()
    world.ca.clock.advance(datetime.timedelta(days=800).total_seconds())
    assert "is not valid now" in world.refused()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"subject": SUBJECT[1:]}, "another subject"),
        ({"subject": (SUBJECT[0], (SUBJECT[1][0], "Bob"))}, "another subject"),
        ({"names": ("email:bob@example.org",)}, "bob@example.org"),
        ({"beside": ("email:bob@example.org",)}, "bob@example.org"),
    ],
)
def test_nobody_states_possession_for_another(asked, words):
    assert words in World().refused(**asked)


def test_names_beside_the_request_may_be_the_signer_s():
    world = World()
    assert RequestState.DONE is world.ca.store.states[world.ask(names=(), beside=NAMES)]


def test_a_profile_for_signatures_takes_no_kem_key():
    world = World()
    request = world.ca.ask(ask(certificate=world.certificate), "smime")
    world.ca.work()
    assert RequestState.REFUSED is world.ca.store.states[request]


def test_a_store_that_is_away_refuses_nobody():
    world = World()
    request = world.ca.ask(ask(certificate=world.certificate), "kem")
    taken = world.ca.store.take(WORKER, 10, world.ca.clock.now())

    def away(*_):
        raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the database is not available")

    world.ca.store.holds_good = away
    with pytest.raises(PKIError):
        issue_batch(world.ca.issuing, taken)
    assert RequestState.TAKEN is world.ca.store.states[request]
