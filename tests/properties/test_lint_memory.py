"""What the lints remember is what they would find again: for every certificate, and for lints nobody foresaw."""

from __future__ import annotations

import base64
import datetime
import re
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from cakit import issuing_certificate, root_certificate
from chancery.asn1 import der, oids
from chancery.asn1 import x509 as template
from chancery.asn1.signature import ALGORITHMS
from chancery.pkix.finding import Finding, Severity
from chancery.pkix.key import spki_der
from chancery.pkix.linting import IN_FRAME, MAX_PLANS, Linting, run
from chancery.pkix.lints import LINTS
from chancery.pkix.trial import sample_key
from chancery.pkix.view import VARYING, view, view_issuer
from fakes import START

pytestmark = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
ECDSA, ED = ALGORITHMS["ecdsa-with-SHA256"].identifier, ALGORITHMS["Ed25519"].identifier
CAS = [x509.load_der_x509_certificate(one()) for one in (issuing_certificate, root_certificate)]
ISSUERS = [None, *map(view_issuer, CAS)]
CASES = [
    base64.b64decode("".join(path.read_text().split("-----")[2].split()))
    for path in sorted((Path(__file__).parents[1] / "lint_cases").glob("*.case"))
    if path.read_text().startswith("-----BEGIN CERTIFICATE")
]
CN = oids.ATTRIBUTES["CN"]
NAMES = [der.implicit(2, b"www.example.org"), der.implicit(2, b"W_W."), der.implicit(1, b"a@example.org")]
ODD_NAMES = [
    der.implicit(2, "ä.example".encode()),
    der.implicit(6, b"relative"),
    *(der.implicit(7, bytes(size)) for size in (4, 5, 8, 16, 32)),
    der.tlv(0xA4, template.name(((CN, "x"),))),
    der.tlv(0xA0, der.oid("1.2.3"), der.explicit(0, der.utf8_string("x"))),
    der.implicit(8, der.oid("1.2.3")[2:]),
]


def _san(names: list[bytes]) -> bytes:
    return der.sequence(*names)


SANS = st.one_of(
    st.lists(st.sampled_from(NAMES), max_size=3).map(_san),
    st.lists(st.sampled_from([*NAMES, *ODD_NAMES]), max_size=3).map(_san),
    st.sampled_from([b"", b"\x04\x00", b"\x30\x01", _san(NAMES) + b"\x00"]),
)
SKIS = st.sampled_from([der.octet_string(bytes(20)), der.octet_string(b"\x01"), b"\x04\x01", b"", b"\x30\x00"])
MOMENTS = st.sampled_from([START, *(START + datetime.timedelta(days=days) for days in (1, 199, 300, 900, 12000))])
SUBJECTS = st.sampled_from(
    [(), ((CN, "www.example.org"),), ((CN, "Other"), (CN, "Two")), ((oids.ATTRIBUTES["C"], "XX"),)]
)
# What the certificates of one profile have in common; few of each, so that the same come again.
FRAMES = st.sampled_from(
    [
        [template.basic_constraints(ca=False, path_length=None), template.key_usage((0,)), "ski", "san"],
        [template.extended_key_usage((oids.EXTENDED_KEY_USAGES["serverAuth"],), critical=False), "san", "ski"],
        [template.extended_key_usage((oids.EXTENDED_KEY_USAGES["emailProtection"],), critical=False), "san!"],
        [template.basic_constraints(ca=True, path_length=0), template.key_usage((0, 5)), "ski", "ski"],
        [template.basic_constraints(ca=True, path_length=0)] * 2,
        [template.extension(oids.KEY_USAGE, b"\x04\x00", critical=True), "san"],
        [template.extension("1.2.3.4", b"anything", critical=True), "ski!"],
        [template.private_key_usage_period(START, START + datetime.timedelta(days=10)), "ski"],
        [],
    ]
)


@st.composite
def certificates(draw) -> bytes:
    values = {"san": oids.SUBJECT_ALT_NAME, "ski": oids.SUBJECT_KEY_IDENTIFIER}
    extensions = []
    for one in draw(FRAMES):
        if isinstance(one, bytes):
            extensions.append(one)
        else:
            value = draw(SANS if one.startswith("san") else SKIS)
            extensions.append(template.extension(values[one[:3]], value, critical=one.endswith("!")))
    tbs = template.tbs_certificate(
        serial=draw(st.sampled_from([b"\x01" * 17, b"\x01" * 9, b"\xff", b"\x00", b"\x01" * 21])),
        algorithm=draw(st.sampled_from([ECDSA, ED])),
        issuer=draw(st.sampled_from([template.name(((CN, "Other"), (CN, "Two"))), ISSUERS[1].subject])),
        not_before=draw(MOMENTS),
        not_after=draw(MOMENTS),
        subject=template.name(draw(SUBJECTS)),
        spki=spki_der(sample_key(draw(st.sampled_from(["ec-p256", "ec-p384", "ed25519"])))),
        extensions=extensions,
    )
    return template.signed(tbs, ECDSA, bytes(70))


# One for the whole run, so that frames meet again.
REMEMBERING = Linting(LINTS)


@settings(max_examples=500, deadline=None)
@given(certificates(), st.sampled_from(ISSUERS))
def test_what_is_remembered_is_what_is_found(data, issuer):
    expected = run(LINTS, view(data, issuer))
    assert [expected] * 3 == [REMEMBERING(view(data, issuer)) for _ in range(3)]


@pytest.mark.parametrize("issuer", ISSUERS, ids=["alone", "under issuing", "under root"])
def test_the_cases_are_found_again(issuer):
    for data in CASES:
        expected = run(LINTS, view(data, issuer))
        assert [expected] * 3 == [REMEMBERING(view(data, issuer)) for _ in range(3)], data.hex()


@settings(max_examples=500, deadline=None)
@given(certificates())
def test_the_frame_decides_all_that_counts_as_of_it(data):
    """Whether a certificate is looked at alone, or through the eyes of the first one with its frame."""
    alone, shared = view(data), view(data)
    if shared.frame is None:
        return
    shared.share(FIRST.setdefault(shared.frame, view(data)))
    for name in IN_FRAME - {"critical"}:
        assert getattr(alone, name) == getattr(shared, name), name
    assert alone.readable == (alone.value(x509.BasicConstraints) is not None or alone.readable)
    for type_ in (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage, *VARYING):
        assert alone.value(type_) == shared.value(type_)
    for oid, _ in alone.heads:
        assert alone.critical(oid) == shared.critical(oid)
        if oid not in VARYING.values():
            assert FIRST[shared.frame].raw(oid) == shared.raw(oid)


FIRST: dict = {}


def _say(text: object):
    yield Finding(Severity.NOTICE, "test", repr(text), "R9")


def fickle(cert):
    """A lint that looks at more only in some certificates."""
    if cert.not_after.at is not None and cert.not_after.at > START + datetime.timedelta(days=250):
        yield from _say(cert.serial)
    if cert.version == 2 and cert.is_ca:
        yield from _say(cert.raw(oids.SUBJECT_KEY_IDENTIFIER))


def broken(cert):
    raise KeyError(cert.serial)


PECULIAR = [
    fickle,
    broken,
    *(
        lambda cert, name=name: _say(getattr(cert, name))
        for name in ("der", "serial", "validity", "not_after", "subject", "subject_name", "spki", "names", "heads",
                     "raw_extensions", "self_issued", "certificate", "usages", "_certificate")
    ),
    lambda cert: _say(cert.public_key() and cert.key_algorithm),
    lambda cert: _say(cert.value(x509.SubjectAlternativeName)),
    lambda cert: _say(cert.value(x509.SubjectKeyIdentifier) and cert.value(x509.BasicConstraints)),
    lambda cert: _say(cert.raw(oids.SUBJECT_ALT_NAME)),
    lambda cert: _say((cert.raw(oids.KEY_USAGE), cert.critical(oids.SUBJECT_ALT_NAME), cert.readable)),
    lambda cert: _say(cert.nothing_of_the_kind),
]  # fmt: skip
PECULIAR_REMEMBERED = Linting(PECULIAR)


@settings(max_examples=500, deadline=None)
@given(certificates(), st.sampled_from(ISSUERS))
def test_a_lint_is_remembered_rightly_whatever_it_looks_at(data, issuer):
    def plain(found):
        # An address in a repr is an object's, not a finding's.
        return [re.sub(r" at 0x[0-9a-f]+", "", one.detail) for one in found if "_certificate" not in one.detail]

    expected = plain(run(PECULIAR, view(data, issuer)))
    assert [expected] * 3 == [plain(PECULIAR_REMEMBERED(view(data, issuer))) for _ in range(3)]


def test_what_is_remembered_has_bounds():
    linting = Linting(LINTS)
    certificate = CASES[0]
    for number in range(3 * MAX_PLANS):
        seen = view(certificate)
        seen.frame = number
        linting(seen)
        again = view(certificate)
        again.frame = number
        linting(again)
    assert MAX_PLANS == len(linting._plans) == len(linting._seen_once)
