"""The two steps of signing, which cannot be swapped or repeated (R1, R9)."""

from __future__ import annotations

import dataclasses
import datetime
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from cakit import (
    PROFILES,
    URLS,
    issuing_certificate,
    issuing_issuer,
    issuing_record,
    key,
    make_csr,
    root_certificate,
    root_issuer,
)
from chancery.asn1 import x509 as template
from chancery.asn1.signature import ALGORITHMS, ML_DSA_SETS, KeySigner
from chancery.ca.issuance import make_serial
from chancery.ca.issuer import Issuer, IssuerURLs, SelfIssuer, shard_url
from chancery.errors import ErrorType, PKIError
from chancery.pkix.name import name_text, parse_name
from chancery.pkix.profile import grant, requested
from chancery.ports import CRLShard
from fakes import START, CountingSigner, FakeEntropy

SERIAL = b"\x01" + bytes(range(16))


def _granted(issuer: Issuer, names=("dns:www.example.org",)):
    return grant(PROFILES["tls-server"], requested(make_csr(names=names)), issuer.limits, START)


def _failure(call) -> PKIError:
    with pytest.raises(PKIError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize("kind", ["ec-p256", "ec-p384", "ec-p521", "ed25519", "rsa-2048", *ML_DSA_SETS])
def test_a_certificate_is_what_was_linted_under_every_kind_of_issuer_key(kind):
    issuer = issuing_issuer(kind)
    linted = issuer.prepare(_granted(issuer), SERIAL)
    certificate = x509.load_der_x509_certificate(issuer.issue(linted))
    assert linted.der == certificate.tbs_certificate_bytes
    assert linted.not_after == certificate.not_valid_after_utc
    certificate.verify_directly_issued_by(issuer.certificate)
    assert int.from_bytes(SERIAL, "big") == certificate.serial_number


def test_pss_is_an_algorithm_like_the_others():
    signer = KeySigner(key("issuing", "rsa-2048"), ALGORITHMS["rsassaPss-sha256"])
    issuer = issuing_issuer("rsa-2048", signer)
    certificate = x509.load_der_x509_certificate(issuer.issue(issuer.prepare(_granted(issuer), SERIAL)))
    certificate.verify_directly_issued_by(issuer.certificate)


def test_nothing_is_signed_by_the_token_while_preparing():
    signer = CountingSigner(KeySigner(key("issuing")))
    issuer = issuing_issuer(signer=signer)
    linted = issuer.prepare(_granted(issuer), SERIAL)
    assert [] == signer.signed
    issuer.issue(linted)
    assert [linted.der] == signer.signed


def test_a_linted_certificate_is_issued_once():
    signer = CountingSigner(KeySigner(key("issuing")))
    issuer = issuing_issuer(signer=signer)
    linted = issuer.prepare(_granted(issuer), SERIAL)
    issuer.issue(linted)
    assert ErrorType.SYSTEM_FAILURE is _failure(lambda: issuer.issue(linted)).type
    assert 1 == len(signer.signed)


def test_of_many_threads_one_issues():
    signer = CountingSigner(KeySigner(key("issuing")))
    issuer = issuing_issuer(signer=signer)
    linted = issuer.prepare(_granted(issuer), SERIAL)
    results: list[object] = []

    def issue() -> None:
        try:
            results.append(issuer.issue(linted))
        except PKIError as error:
            results.append(error.type)

    threads = [threading.Thread(target=issue) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 == len(signer.signed)
    assert 7 == results.count(ErrorType.SYSTEM_FAILURE)


def test_an_issuer_takes_only_what_it_linted_itself():
    one, other = issuing_issuer(), issuing_issuer()
    linted = one.prepare(_granted(one), SERIAL)
    assert ErrorType.SYSTEM_FAILURE is _failure(lambda: other.issue(linted)).type
    one.issue(linted)


class _Liar:
    """A token that signs something else, or with another key."""

    def __init__(self, signer: KeySigner, *, other=None, data: bytes | None = None) -> None:
        self.algorithm = signer.algorithm
        self.public_key = signer.public_key
        self._signer = KeySigner(other) if other else signer
        self._data = data

    def sign(self, data: bytes) -> bytes:
        return self._signer.sign(self._data or data)


@pytest.mark.parametrize("lie", [{"other": ec.generate_private_key(ec.SECP256R1())}, {"data": b"something else"}])
def test_a_token_that_answers_wrongly_is_found_out(lie):
    issuer = issuing_issuer(signer=_Liar(KeySigner(key("issuing")), **lie))
    linted = issuer.prepare(_granted(issuer), SERIAL)
    error = _failure(lambda: issuer.issue(linted))
    assert (ErrorType.SYSTEM_FAILURE, "the token returned a bad signature") == (error.type, error.detail)


def test_what_is_signed_is_what_the_caller_could_record():
    # `der` is what went into the intent; were it anything else than what was linted and signed, nothing comes out.
    issuer = issuing_issuer()
    linted, other = (issuer.prepare(_granted(issuer), serial) for serial in (SERIAL, b"\x02" + SERIAL[1:]))
    linted.der = other.der
    error = _failure(lambda: issuer.issue(linted))
    assert (ErrorType.SYSTEM_FAILURE, "signed bytes differ from linted bytes") == (error.type, error.detail)


def test_another_key_than_the_certificates_is_refused_at_once():
    error = _failure(lambda: Issuer(issuing_record(), KeySigner(key("other")), IssuerURLs(None, None, None)))
    assert (ErrorType.SYSTEM_FAILURE, "issuing: issuer key and certificate differ") == (error.type, error.detail)


def test_a_certificate_that_is_no_cas_makes_no_issuer():
    issuer = issuing_issuer()
    csr = make_csr("CN=leaf", (), key("leaf"))
    granted = grant(PROFILES["tls-client"], requested(csr), issuer.limits, START)
    leaf = issuer.issue(issuer.prepare(granted, SERIAL))
    record = dataclasses.replace(issuing_record(), certificate=leaf)
    error = _failure(lambda: Issuer(record, KeySigner(key("leaf")), IssuerURLs(None, None, None)))
    assert "may not sign certificates" in error.detail


def test_r9_a_certificate_with_a_finding_is_not_prepared():
    issuer = issuing_issuer()
    granted = dataclasses.replace(_granted(issuer), not_after=START - datetime.timedelta(days=1))
    error = _failure(lambda: issuer.prepare(granted, SERIAL))
    assert ErrorType.BAD_CERT_TEMPLATE is error.type
    assert "pkix.validity_order" in error.detail
    for serial in (b"\x01" * 21, b"\x01" * 7):
        assert "pkix.serial" in _failure(lambda serial=serial: issuer.prepare(_granted(issuer), serial)).detail


def test_pointers_are_the_issuers_as_far_as_profile_and_issuer_have_them():
    issuer = issuing_issuer(urls=IssuerURLs(None, None, None))
    certificate = x509.load_der_x509_certificate(issuer.issue(issuer.prepare(_granted(issuer), SERIAL)))
    oids = {extension.oid.dotted_string for extension in certificate.extensions}
    assert not {"1.3.6.1.5.5.7.1.1", "2.5.29.31"} & oids
    delegate = grant(PROFILES["ocsp-signing"], requested(make_csr("CN=OCSP")), issuer.limits, START)
    issuer = issuing_issuer()
    certificate = x509.load_der_x509_certificate(issuer.issue(issuer.prepare(delegate, SERIAL)))
    access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    assert [x509.AuthorityInformationAccessOID.CA_ISSUERS] == [one.access_method for one in access]
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints)


def test_r15_a_certificate_names_the_crl_of_its_shard_for_good():
    base = "http://pki.example.org/crl/issuing.crl"
    shards = tuple(CRLShard(number, shard_url(base, number)) for number in (3, 4, 5))
    issuer = issuing_issuer(urls=IssuerURLs(None, base, None, deltas=True, shards=shards))
    seen = set()
    for octet in range(8):
        linted = issuer.prepare(_granted(issuer), SERIAL[:-1] + bytes((octet,)))
        certificate = x509.load_der_x509_certificate(issuer.issue(linted))
        [point] = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        assert [f"http://pki.example.org/crl/issuing/{linted.shard}.crl"] == [one.value for one in point.full_name]
        seen.add(linted.shard)
    assert {3, 4, 5} == seen
    # One that names no CRL is on the complete one alone.
    delegate = grant(PROFILES["ocsp-signing"], requested(make_csr("CN=OCSP")), issuer.limits, START)
    assert 0 == issuer.prepare(delegate, SERIAL).shard
    assert "http://pki.example.org/crl/issuing/3/delta.crl" == issuer.urls.freshest(shards[0].url)
    assert "http://pki.example.org/crl/issuing/delta.crl" == issuer.urls.freshest(base)
    assert None is IssuerURLs(None, base, None).freshest(base)


@pytest.mark.parametrize(
    "subject",
    [
        "CN=Issuing,O=Example,C=XX",
        "CN=issuing,O=EXAMPLE,C=XX",
        "CN=\uff29ssuing,O=Example,C=XX",
        "CN=Root,O=Example,C=XX",
    ],
)
def test_nobody_gets_the_name_of_the_issuer_or_of_a_ca_above_however_it_is_written(subject):
    root = x509.load_der_x509_certificate(root_certificate())
    issuer = Issuer(issuing_record(), KeySigner(key("issuing")), URLS, (root,))
    granted = grant(PROFILES["tls-client"], requested(make_csr(subject)), issuer.limits, START)
    assert "the issuer's own name" in _failure(lambda: issuer.prepare(granted, SERIAL)).detail


# Roots


def test_a_root_signs_itself():
    root = x509.load_der_x509_certificate(root_certificate())
    root.verify_directly_issued_by(root)
    assert "CN=Root,O=Example,C=XX" == name_text(root.subject) == name_text(root.issuer)
    basic = root.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (True, True, None) == (basic.critical, basic.value.ca, basic.value.path_length)


def test_r8_a_root_is_made_under_a_ceremony_profile_of_a_ca_alone():
    issuer = SelfIssuer(KeySigner(key("root")), parse_name("CN=Root"))
    assert "R8" in _failure(lambda: issuer.prepare(PROFILES["tls-client"], SERIAL, START)).detail


def test_a_subordinate_is_clamped_to_its_root_and_signs_no_ca():
    root = root_issuer()
    certificate = x509.load_der_x509_certificate(issuing_certificate())
    certificate.verify_directly_issued_by(root.certificate)
    assert certificate.not_valid_after_utc <= root.certificate.not_valid_after_utc
    csr = make_csr("CN=Below", (), key("below"))
    issuer = issuing_issuer()
    assert "allows 0" in _failure(lambda: grant(PROFILES["sub-ca"], requested(csr), issuer.limits, START)).detail


# Serials


@given(st.integers(1, 127), st.integers(0, 2**32))
def test_r1_serials_are_positive_17_octets_and_minimal(instance, seed):
    serial = make_serial(instance, FakeEntropy(seed))
    assert 17 == len(serial)
    assert instance == serial[0]
    assert 0 < int.from_bytes(serial, "big", signed=True)


def test_r1_128_bits_come_from_the_entropy():
    class Fixed:
        def draw(self, size: int) -> bytes:
            assert size == 16
            return bytes(range(16))

    assert b"\x7f" + bytes(range(16)) == make_serial(127, Fixed())


@given(st.integers(1, 127), st.datetimes(datetime.datetime(2026, 1, 1), datetime.datetime(9999, 12, 30)))
def test_r1_a_serial_that_a_database_keeps_begins_with_the_day_of_expiry_and_stays_positive(instance, not_after):
    not_after = not_after.replace(tzinfo=datetime.UTC)
    serial = make_serial(instance, FakeEntropy(), not_after)
    assert 19 == len(serial)
    assert (instance, FakeEntropy().draw(16)) == (serial[2], serial[3:])
    assert 1 <= serial[0] <= 127
    day = datetime.date(1970, 1, 1) + datetime.timedelta(days=int.from_bytes(serial[:2], "big"))
    assert min(not_after.date(), datetime.date(2059, 9, 18)) == day


@pytest.mark.parametrize("instance", [0, 128, -1])
def test_r1_an_instance_that_would_make_a_serial_negative_or_short_is_refused(instance):
    with pytest.raises(ValueError, match=r"1\.\.127"):
        make_serial(instance, FakeEntropy())


def test_the_lint_copy_has_the_same_bytes_as_the_certificate():
    # The throw-away key's type gives the same AlgorithmIdentifier, so nothing of the TBSCertificate differs.
    issuer = issuing_issuer("rsa-2048")
    linted = issuer.prepare(_granted(issuer), SERIAL)
    tbs, algorithm, _ = template.split_signed(issuer.issue(linted))
    assert (linted.der, issuer.algorithm.identifier) == (tbs, algorithm)
