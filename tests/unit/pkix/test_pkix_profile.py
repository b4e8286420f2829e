"""Profiles are strict; what is granted is what they say (R8, R12, R25)."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from cakit import PROFILES, issuing_issuer, key, make_csr
from chancery.asn1 import x509 as template
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.pkix.key import spki_der
from chancery.pkix.profile import IssuerLimits, Requested, grant, parse_profile, requested, shipped_profiles
from chancery.pkix.rules import duration
from chancery.pkix.trial import sample_key
from fakes import START

LIMITS = IssuerLimits(START + datetime.timedelta(days=3650), None)
SAN = x509.ObjectIdentifier("2.5.29.17")
SECOND = datetime.timedelta(seconds=1)
DAY = datetime.timedelta(days=1)

MINIMAL = """
name = "test"
version = 3
description = "a test"
keys = ["ec-p256"]
[validity]
duration = "10d"
[subject]
required = ["CN"]
[extensions]
key_usage = ["digitalSignature"]
"""


SERVERS = """
[names]
types = ["dns"]
required = true
[extensions]
extended_key_usage = ["serverAuth"]
"""


def _profile(*changes: tuple[str, str], source: str = MINIMAL):
    for old, new in changes:
        assert old in source
        source = source.replace(old, new)
    return parse_profile(source)


def _asked(subject=(("CN", "a"),), names=(), csr_names=(), public_key=None) -> Requested:
    attributes = tuple((template.oids.ATTRIBUTES.get(short, short), value) for short, value in subject)
    return Requested(public_key or key().public_key(), attributes, tuple(csr_names), tuple(names))


def _refused(profile, asked=None, limits=LIMITS, type_=ErrorType.BAD_CERT_TEMPLATE) -> str:
    with pytest.raises(PKIError) as caught:
        grant(profile, asked or _asked(), limits, START)
    assert type_ is caught.value.type
    return caught.value.detail


# The files


def test_the_shipped_profiles_are_the_eight():
    assert [
        "code-signing",
        "ocsp-signing",
        "root-ca",
        "smime",
        "sub-ca",
        "timestamping",
        "tls-client",
        "tls-server",
    ] == sorted(shipped_profiles())
    for name, profile in PROFILES.items():
        assert (name, 2) == (profile.name, profile.version)
        assert hashlib.sha256(profile.source.encode()).digest() == profile.sha256
        assert profile.description


def test_r8_only_the_profiles_of_cas_are_for_ceremonies():
    assert {"root-ca", "sub-ca"} == {name for name, profile in PROFILES.items() if profile.ceremony}


def test_r12_a_server_certificate_is_valid_for_199_days():
    assert 199 * DAY == PROFILES["tls-server"].validity.length()


def test_r25_timestamping_is_critical_and_alone():
    rule = PROFILES["timestamping"].extensions
    assert (("timeStamping",), True) == (rule.extended_key_usage, rule.extended_key_usage_critical)


def test_a_profile_is_frozen():
    profile = _profile()
    assert ("test", 3, MINIMAL) == (profile.name, profile.version, profile.source)
    with pytest.raises(dataclasses.FrozenInstanceError):
        profile.version = 4  # type: ignore[misc]  # - that it is refused is the test


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('name = "test"', 'name = "Test"'), "key `name`"),
        (('name = "test"', 'name = "test"\nkind = 1'), "unknown field `kind`"),
        (("version = 3", "version = 0"), "key `version`"),
        (("version = 3\n", ""), "missing required field `version`"),
        (("version = 3", 'version = "3"'), "Expected `int`, got `str`"),
        (('keys = ["ec-p256"]', "keys = []"), "key `keys`"),
        (('keys = ["ec-p256"]', 'keys = ["rsa-1024"]'), "rsa-1024"),
        (('"10d"', '"10"'), "not a duration"),
        (('"10d"', '""'), "not a duration"),
        (('"10d"', '"10s"'), "a minute"),
        (('"10d"', '"99999d"'), "36525"),
        (('"10d"', '"10d"\nvalidity_days = 10'), "exactly one"),
        (('duration = "10d"', ""), "exactly one"),
        (('"10d"', '"10d"\nbackdate = "2h"'), "at most 1h"),
        (('"10d"', '"10d"\npast_issuer = "ignore"'), "past_issuer"),
        (('required = ["CN"]', 'required = ["FOO"]'), "FOO"),
        (('required = ["CN"]', 'required = ["CN"]\noptional = ["CN"]'), "twice"),
        (('required = ["CN"]', 'required = ["CN"]\nmax_length = { CN = 65 }'), "at most 64"),
        (('required = ["CN"]', 'required = ["CN"]\nfixed = { O = "" }'), "fixed O"),
        (('required = ["CN"]', 'required = ["CN"]\ncommon_name = "one-of-names"'), "no names are granted"),
        (("[extensions]", "[names]\nrequired = true\n[extensions]"), "of no type"),
        (("[extensions]", '[names]\ntypes = ["x400"]\n[extensions]'), "names.types"),
        (("[extensions]", "[extensions]\npath_length = 0"), "belongs to a CA"),
        (("[extensions]", "[extensions]\nca = true"), "(R8)"),
        (('["digitalSignature"]', '["signing"]'), "signing is not one of"),
        (("[extensions]", '[extensions]\nextended_key_usage = ["magic"]'), "magic"),
        (("[extensions]", '[extensions]\npolicies = ["x"]'), "policies"),
        (("[extensions]", '[extensions]\nprivate_key_usage = "1s"'), "a minute"),
        (("[validity]", "[validity"), "the profile is refused"),
    ],
)
def test_a_profile_that_says_something_else_is_refused_by_name(change, message):
    with pytest.raises(OperatorError, match="the profile") as caught:
        _profile(change)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ((("[extensions]", '[extensions]\nextended_key_usage = ["OCSPSigning"]'),), "pkix.ocsp_nocheck_missing"),
        ((("[extensions]", "[extensions]\nocsp_nocheck = true"),), "pkix.ocsp_nocheck_misplaced"),
        (
            (("[extensions]", '[extensions]\nextended_key_usage = ["timeStamping"]'),),
            "pkix.time_stamping_not_critical",
        ),
        ((('["digitalSignature"]', '["keyEncipherment"]'),), "pkix.key_usage_of_ec_key"),
        ((('["digitalSignature"]', '["keyCertSign"]'),), "pkix.key_cert_sign_without_ca"),
        ((("[extensions]", '[extensions]\nextended_key_usage = ["serverAuth"]'),), "pkix.server_nameless"),
        ((('"10d"', '"826d"'), ("[extensions]", SERVERS)), "pkix.server_validity_too_long"),
        ((("[extensions]", '[extensions]\nprivate_key_usage = "11d"'),), "pkix.key_usage_period_outside"),
        ((('required = ["CN"]', ""),), "pkix.nameless"),
    ],
)
def test_r9_a_profile_that_cannot_yield_a_clean_certificate_is_refused_when_loaded(changes, code):
    with pytest.raises(OperatorError, match=r"trial certificate.*" + code.replace(".", r"\.")):
        _profile(*changes)


@pytest.mark.parametrize(
    ("text", "seconds"), [("1d", 86400), ("36h", 129600), ("90m", 5400), ("61s", 61), ("1d1h1m1s", 90061)]
)
def test_a_day_is_86400_seconds(text, seconds):
    assert datetime.timedelta(seconds=seconds) == duration(text)


# Validity


def test_r12_both_ends_of_the_validity_are_inside_it():
    at = START + datetime.timedelta(microseconds=999_999)
    granted = grant(_profile(), _asked(), LIMITS, at)
    assert (START, START + 10 * DAY - SECOND) == (granted.not_before, granted.not_after)


def test_validity_days_and_backdating():
    profile = _profile(('duration = "10d"', 'validity_days = 10\nbackdate = "5m"'))
    granted = grant(profile, _asked(), LIMITS, START)
    assert START - datetime.timedelta(minutes=5) == granted.not_before
    assert 10 * DAY - SECOND == granted.not_after - granted.not_before


def test_a_certificate_never_outlives_its_issuer():
    end = START + 3 * DAY
    assert "outlive" in _refused(_profile(), limits=IssuerLimits(end, None))
    clamping = _profile(('"10d"', '"10d"\npast_issuer = "clamp"'))
    assert end == grant(clamping, _asked(), IssuerLimits(end, None), START).not_after
    assert "outlive" in _refused(clamping, limits=IssuerLimits(START, None))
    exact = IssuerLimits(START + 10 * DAY - SECOND, None)
    assert exact.not_after == grant(_profile(), _asked(), exact, START).not_after


def test_a_certificate_is_never_older_than_its_issuers():
    profile = _profile(('"10d"', '"10d"\nbackdate = "1h"'))
    begun = START - datetime.timedelta(minutes=5)
    granted = grant(profile, _asked(), IssuerLimits(LIMITS.not_after, None, not_before=begun), START)
    assert (begun, begun + 10 * DAY - SECOND) == (granted.not_before, granted.not_after)
    assert "begins at" in _refused(profile, limits=IssuerLimits(LIMITS.not_after, None, not_before=START + SECOND))


# Subjects


def test_the_subject_keeps_its_order_and_fixed_values_stand_first():
    profile = _profile(('required = ["CN"]', 'required = ["CN"]\noptional = ["OU", "L"]\nfixed = { O = "Org" }'))
    granted = grant(profile, _asked((("L", "x"), ("OU", "1"), ("OU", "2"), ("CN", "a"))), LIMITS, START)
    assert "CN=a,OU=2,OU=1,L=x,O=Org" == granted.subject_text
    assert "CN=a,O=Org" == grant(profile, _asked((("O", "Org"), ("CN", "a"))), LIMITS, START).subject_text
    assert "fixes" in _refused(profile, _asked((("O", "Other"), ("CN", "a"))))


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        ((), "wants CN"),
        ((("CN", "a"), ("CN", "b")), "more than one CN"),
        ((("CN", "a"), ("O", "b")), "no O"),
        ((("CN", "a"), ("1.2.3.4", "b")), "no 1.2.3.4"),
        ((("CN", ""),), "1 to 64"),
        ((("CN", "x" * 65),), "1 to 64"),
        ((("CN", " a"),), "white space"),
        ((("CN", "a\x00b"),), "control"),
        ((("CN", "a\u202eb"),), "control"),
        ((("CN", "a"), ("C", "xx")), "capital"),
        ((("CN", "a"), ("C", "X")), "capital"),
        ((("CN", "a"), ("serialNumber", "ä")), "string type"),
        ((("CN", "a"), ("DC", "ä")), "one label"),
        ((("CN", "a"), ("emailAddress", "x")), "mailbox"),
        ((("CN", "a"),) * 33, "more than 32"),
    ],
)
def test_a_subject_outside_the_profile_is_refused(subject, message):
    profile = _profile(
        ('required = ["CN"]', 'required = ["CN"]\noptional = ["C", "DC", "emailAddress", "serialNumber"]'),
        ("[extensions]", '[names]\ntypes = ["email"]\n[extensions]'),
    )
    assert message in _refused(profile, _asked(subject))


def test_a_shorter_bound_than_the_rfcs_holds():
    profile = _profile(('required = ["CN"]', 'required = ["CN"]\nmax_length = { CN = 5 }'))
    grant(profile, _asked((("CN", "12345"),)), LIMITS, START)
    assert "1 to 5" in _refused(profile, _asked((("CN", "123456"),)))


def test_string_types_are_the_rfcs():
    profile = _profile(
        ('required = ["CN"]', 'required = ["CN"]\noptional = ["C", "DC", "emailAddress", "serialNumber"]'),
        ("[extensions]", '[names]\ntypes = ["email"]\n[extensions]'),
    )
    subject = (("C", "XX"), ("DC", "example"), ("serialNumber", "1"), ("CN", "ä"), ("emailAddress", "a@b.example"))
    granted = grant(profile, _asked(subject, ("email:a@b.example",)), LIMITS, START)
    for part in (b"\x13\x02XX", b"\x16\x07example", b"\x13\x011", b"\x0c\x02\xc3\xa4", b"\x16\x0ba@b.example"):
        assert part in granted.subject


# Names

SERVER = PROFILES["tls-server"]


def test_names_of_the_csr_and_beside_it_are_joined():
    asked = _asked((), names=("dns:b.example", "dns:a.example"), csr_names=("dns:a.example",))
    assert ("dns:a.example", "dns:b.example") == grant(SERVER, asked, LIMITS, START).names


def test_a_common_name_repeats_a_name():
    asked = _asked((("CN", "A.example"),), names=("dns:a.example",))
    assert "CN=A.example" == grant(SERVER, asked, LIMITS, START).subject_text
    assert "not one of" in _refused(SERVER, _asked((("CN", "b.example"),), names=("dns:a.example",)))
    address = _asked((("CN", "10.0.0.1"),), names=("ip:10.0.0.1",))
    assert "CN=10.0.0.1" == grant(SERVER, address, LIMITS, START).subject_text


@pytest.mark.parametrize(
    ("profile", "names", "message"),
    [
        ("tls-server", (), "wants a subjectAltName"),
        ("tls-server", ("email:a@b.example",), "no subjectAltName of type email"),
        ("tls-server", ("uri:urn:a:b",), "no subjectAltName of type uri"),
        ("tls-server", tuple(f"dns:{n}.example" for n in range(101)), "at most 100"),
        ("tls-client", ("dns:*.example.org",), "no wildcard"),
        ("smime", ("dns:a.example",), "type dns"),
        ("timestamping", ("dns:a.example",), "type dns"),
    ],
)
def test_names_outside_the_profile_are_refused(profile, names, message):
    subject = (("CN", "a"),) if profile in {"tls-client", "timestamping"} else ()
    assert message in _refused(PROFILES[profile], _asked(subject, names=names))


def test_without_a_subject_the_names_are_critical():
    granted = grant(SERVER, _asked((), names=("dns:a.example",)), LIMITS, START)
    assert b"\x30\x00" == granted.subject
    assert template.subject_alt_name(("dns:a.example",), critical=True) in granted.extensions
    granted = grant(SERVER, _asked((("CN", "a.example"),), names=("dns:a.example",)), LIMITS, START)
    assert template.subject_alt_name(("dns:a.example",), critical=False) in granted.extensions


# What the CSR asks for


def test_only_the_names_of_a_csr_are_read_from_its_extensions():
    csr = make_csr(
        "CN=a",
        ("dns:a.example",),
        key(),
        x509.BasicConstraints(ca=True, path_length=None),
        x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.3.6.1.5.5.7.3.9")]),
    )
    asked = requested(csr, ("dns:B.example",))
    assert (("2.5.4.3", "a"),) == asked.subject
    assert (("dns:a.example",), ("dns:b.example",)) == (asked.csr_names, asked.names)
    granted = grant(PROFILES["tls-client"], asked, LIMITS, START)
    assert template.basic_constraints(ca=False, path_length=None) in granted.extensions
    clients = template.extended_key_usage(("1.3.6.1.5.5.7.3.2",), critical=False)
    assert clients in granted.extensions


def test_a_profile_may_ignore_the_names_of_a_csr():
    csr = make_csr("CN=Sub", ("dns:a.example",), key("sub"))
    granted = grant(PROFILES["sub-ca"], requested(csr), LIMITS, START)
    assert () == granted.names


def test_a_name_of_an_unsupported_type_in_a_csr_is_refused():
    csr = make_csr(
        "CN=a",
        (),
        key(),
        x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\x30\x04\xa5\x02\x05\x00"),
    )
    with pytest.raises(PKIError, match="EdiPartyName") as caught:
        requested(csr)
    assert ErrorType.BAD_CERT_TEMPLATE is caught.value.type


# Keys and usages


def test_a_key_of_another_kind_is_refused():
    assert "the key is ed25519" in _refused(_profile(), _asked(public_key=sample_key("ed25519")))


@pytest.mark.parametrize(("kind", "bits"), [("rsa-2048", (0, 2)), ("ec-p256", (0, 4)), ("ec-p384", (0, 4))])
def test_mail_keys_encipher_or_agree_as_their_algorithm_can(kind, bits):
    asked = _asked((), names=("email:a@b.example",), public_key=sample_key(kind))
    granted = grant(PROFILES["smime"], asked, LIMITS, START)
    assert template.key_usage(bits) in granted.extensions


def test_a_ca_below_a_path_length_is_refused():
    csr = make_csr("CN=Sub", (), key("sub"))
    asked, below = requested(csr), issuing_issuer().limits
    assert "allows 0" in _refused(PROFILES["sub-ca"], asked, below)
    one = IssuerLimits(LIMITS.not_after, 1)
    assert grant(PROFILES["sub-ca"], asked, one, START)
    unlimited = _profile(("path_length = 0\n", ""), source=PROFILES["sub-ca"].source)
    assert "wants more" in _refused(unlimited, asked, one)


@given(
    st.lists(st.tuples(st.sampled_from(["CN", "O", "OU", "C", "L", "1.2.3"]), st.text(max_size=70)), max_size=6),
    st.lists(
        st.sampled_from(["dns:a.example", "dns:*.b.example", "ip:10.0.0.1", "email:a@b.example"]), max_size=4
    ),
)
def test_whatever_is_granted_was_asked_for_and_is_in_the_profile(subject, names):
    asked = _asked(subject, names=names)
    try:
        granted = grant(SERVER, asked, LIMITS, START)
    except PKIError:
        return
    assert tuple(dict.fromkeys(names)) == granted.names
    assert asked.subject == template.read_name(granted.subject)
    assert spki_der(asked.public_key) == granted.spki


def test_a_subject_that_no_index_can_hold_is_refused():
    profile = PROFILES["tls-server"]
    names = ("dns:www.example.org",)
    many = [("OU", "\U00020000" * 64)] * 7
    assert 2048 > len(grant(profile, _asked(many, names), LIMITS, START).subject_text.encode())
    with pytest.raises(PKIError, match="a subject of more than 2048 octets"):
        grant(profile, _asked([*many, many[0]], names), LIMITS, START)


def test_a_common_name_repeats_a_name_in_ascii():
    with pytest.raises(PKIError, match="is not one of the subjectAltNames"):
        grant(
            PROFILES["tls-server"], _asked([("CN", "\u212aelvin.example")], ["dns:kelvin.example"]), LIMITS, START
        )
