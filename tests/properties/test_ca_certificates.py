"""What is asked for and granted stands in the certificate; what is damaged is found, never thrown."""

from __future__ import annotations

import warnings

from cryptography import x509
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cakit import CA, PROFILES, issuing_issuer, make_csr
from chancery.asn1 import x509 as template
from chancery.ca.issuance import make_serial
from chancery.errors import PKIError
from chancery.pkix.lint import blocking, lint, lint_crl
from chancery.pkix.name import name_text, names_of
from chancery.pkix.profile import Requested, grant
from chancery.pkix.trial import sample_key
from fakes import START, FakeEntropy

LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True).filter(lambda one: one[2:4] != "--")
DNS = (
    st.lists(LABEL, min_size=1, max_size=4).map(".".join).filter(lambda one: not one.rsplit(".", 1)[-1].isdigit())
)
NAMES = st.lists(
    st.one_of(
        DNS.map("dns:{}".format),
        st.ip_addresses().map("ip:{}".format).filter(lambda one: "%" not in one),
    ),
    min_size=1,
    max_size=5,
    unique=True,
)
TEXT = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=30)
ISSUER = issuing_issuer()


@settings(max_examples=60, deadline=None)
@given(NAMES, st.lists(st.tuples(st.sampled_from(["L", "O", "OU"]), TEXT), max_size=3), st.integers(0, 2**20))
def test_what_is_granted_stands_in_the_certificate(names, subject, seed):
    attributes = tuple((template.oids.ATTRIBUTES[short], value) for short, value in subject)
    asked = Requested(sample_key("ec-p384"), attributes, names=tuple(names))
    try:
        granted = grant(PROFILES["tls-server"], asked, ISSUER.limits, START)
    except PKIError:
        assume(False)
    serial = make_serial(5, FakeEntropy(seed))
    certificate = x509.load_der_x509_certificate(ISSUER.issue(ISSUER.prepare(granted, serial)))
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert tuple(names) == names_of(san.value)
    assert san.critical == (not subject)
    assert granted.subject_text == name_text(certificate.subject)
    assert asked.public_key == certificate.public_key()
    assert (START, granted.not_after) == (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    assert int.from_bytes(serial, "big") == certificate.serial_number
    assert [] == blocking(lint(certificate, issuer=ISSUER.certificate))


def _issued() -> tuple[bytes, bytes]:
    ca = CA()
    ca.ask(make_csr("CN=www.example.org,O=Example,C=XX", ("dns:www.example.org", "ip:10.0.0.1")))
    ca.work()
    [(_, serial)] = ca.store.certificates
    ca.ask_revocation(serial)
    ca.work()
    [record] = ca.store.certificates.values()
    return record.der, ca.store.crls[-1].der


CERTIFICATE, CRL = _issued()
DAMAGE = st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), min_size=1, max_size=3)


def _damaged(data: bytes, damage: list[tuple[int, int]]) -> bytes:
    changed = bytearray(data)
    for at, flip in damage:
        changed[at % len(changed)] ^= flip
    return bytes(changed)


@settings(max_examples=300, deadline=None)
@given(DAMAGE)
def test_linting_a_damaged_certificate_never_throws(damage):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            certificate = x509.load_der_x509_certificate(_damaged(CERTIFICATE, damage))
        except (ValueError, x509.InvalidVersion):
            return
        lint(certificate, issuer=ISSUER.certificate)


@settings(max_examples=300, deadline=None)
@given(DAMAGE)
def test_linting_a_damaged_crl_never_throws(damage):
    lint_crl(_damaged(CRL, damage), issuer=ISSUER.certificate)


@given(st.binary(max_size=100))
def test_linting_what_is_no_crl_never_throws(data):
    assert lint_crl(data)
