"""RFC 3161 4 and RFC 5280 6.3: what a CRL says about a timestamp."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from chancery.errors import ErrorType, PKIError
from chancery.tsa.revocation import check_revocation
from fakes import START
from unit.tsa.kit import as_der, certificate, key, name, root

DAY = datetime.timedelta(days=1)
PATH = [as_der(certificate("p256")), as_der(root("p256"))]
URL = x509.UniformResourceIdentifier("http://crl.example/1.crl")


def entry(reason=None, at=START - DAY, invalid=None):
    builder = x509.RevokedCertificateBuilder().serial_number(0x1234).revocation_date(at)
    if reason is not None:
        builder = builder.add_extension(x509.CRLReason(reason), critical=False)
    if invalid is not None:
        builder = builder.add_extension(x509.InvalidityDate(invalid), critical=False)
    return builder.build()


def crl(
    *entries,
    start=START - DAY,
    end=START + DAY,
    signer="p256/root",
    issuer="Test Root",
    idp=None,
    delta=False,
    more=(),
):
    builder = x509.CertificateRevocationListBuilder().issuer_name(name(issuer)).last_update(start).next_update(end)
    for one in entries:
        builder = builder.add_revoked_certificate(one)
    if idp is not None:
        values = dict.fromkeys(("relative_name", "only_some_reasons", "full_name"))
        flags = dict.fromkeys(
            (
                "only_contains_user_certs",
                "only_contains_ca_certs",
                "indirect_crl",
                "only_contains_attribute_certs",
            ),
            False,
        )
        builder = builder.add_extension(x509.IssuingDistributionPoint(**(values | flags | idp)), critical=True)
    if delta:
        builder = builder.add_extension(x509.DeltaCRLIndicator(1), critical=True)
    for oid, value, critical in more:
        strange = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
        builder = builder.add_extension(strange, critical=critical)
    return builder.sign(key(signer), hashes.SHA256()).public_bytes(Encoding.DER)


def judged(*crls, at=START):
    """`good`, or the kind of error."""
    try:
        check_revocation(PATH, crls, at)
    except PKIError as error:
        return error.type
    return "good"


def test_a_certificate_on_no_list_is_good_and_the_newest_list_is_named():
    later = crl(start=START + DAY, end=START + 3 * DAY)
    [found] = check_revocation(PATH, [crl(), later], START)
    assert ("CN=Test TSA", START + DAY) == (found.subject, found.this_update)


@pytest.mark.parametrize(
    "wrong",
    [
        crl(signer="p384/root"),
        crl(issuer="Another Root"),
        crl(start=START - 3 * DAY, end=START - DAY),
        crl(delta=True),
        crl(idp={"only_contains_ca_certs": True}),
        crl(idp={"only_contains_attribute_certs": True}),
        crl(idp={"indirect_crl": True}),
        crl(idp={"only_some_reasons": frozenset({x509.ReasonFlags.superseded})}),
        crl(idp={"full_name": [URL]}),
        crl(idp={"relative_name": name("One part").rdns[0]}),
        crl(more=[("1.2.3.4", b"\x05\x00", True)]),
    ],
)
def test_a_list_that_does_not_speak_for_the_certificate_is_none(wrong):
    assert ErrorType.ADD_INFO_NOT_AVAILABLE == judged(wrong) == judged()
    assert "good" == judged(wrong, crl())


def test_a_list_for_end_entities_speaks_for_one():
    assert "good" == judged(crl(idp={"only_contains_user_certs": True}))


def test_what_is_no_list_is_said():
    assert ErrorType.BAD_DATA_FORMAT == judged(b"nonsense")


def late(*entries, more=()):
    """A CRL from after the certificate's end."""
    end = x509.load_der_x509_certificate(PATH[0]).not_valid_after_utc
    return crl(*entries, start=end + DAY, end=end + 2 * DAY, more=more)


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        (b"20200101000000Z", "good"),
        (b"29990101000000Z", ErrorType.ADD_INFO_NOT_AVAILABLE),
        (b"nonsense", ErrorType.ADD_INFO_NOT_AVAILABLE),
        (None, ErrorType.ADD_INFO_NOT_AVAILABLE),
    ],
)
def test_a_list_from_after_the_certificate_s_end_counts_only_where_it_says_that_it_keeps_them(since, expected):
    """RFC 5280 3.3: an entry may go after its certificate's end, unless expiredCertsOnCRL (X.509) says no."""
    more = () if since is None else [("2.5.29.60", bytes((24, len(since))) + since, False)]
    assert expected == judged(late(more=more))
    assert "good" == judged(late(more=more), crl())


def test_a_list_from_after_the_certificate_s_end_counts_for_what_it_lists():
    assert ErrorType.CERT_REVOKED == judged(late(entry(x509.ReasonFlags.key_compromise)), crl())


def test_an_entry_that_cannot_be_understood_makes_a_list_unreadable():
    strange = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    builder = x509.RevokedCertificateBuilder().serial_number(0x1234).revocation_date(START + DAY)
    assert ErrorType.BAD_DATA_FORMAT == judged(crl(builder.add_extension(strange, critical=True).build()))


BEFORE = ("unspecified", "affiliation_changed", "superseded", "cessation_of_operation")


@pytest.mark.parametrize("reason", [None, *x509.ReasonFlags])
def test_after_a_revocation_the_tokens_of_before_stand_only_for_these_reasons(reason):
    if reason is x509.ReasonFlags.remove_from_crl:
        return
    later = START + 2 * DAY
    after = crl(entry(reason, at=START + DAY), start=later, end=later + DAY)
    stands = reason is not None and reason.name in BEFORE
    assert ("good" if stands else ErrorType.CERT_REVOKED) == judged(after)
    assert ErrorType.CERT_REVOKED == judged(after, at=START + DAY)


def test_a_key_that_was_invalid_before_takes_the_tokens_since_then_along():
    later = START + 2 * DAY
    superseded = entry(x509.ReasonFlags.superseded, at=START + DAY, invalid=START - DAY)
    assert ErrorType.CERT_REVOKED == judged(crl(superseded, start=later, end=later + DAY))


def test_one_list_that_revokes_is_enough():
    revoked = crl(entry(x509.ReasonFlags.key_compromise), start=START + DAY, end=START + 2 * DAY)
    with pytest.raises(PKIError, match=r"keyCompromise.*takes the timestamp down"):
        check_revocation(PATH, [crl(), revoked], START)


def test_every_certificate_below_the_anchor_needs_one_and_the_anchor_none():
    assert [] == check_revocation(PATH[1:], [], START)
