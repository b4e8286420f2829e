"""Each rule of a profile: what it grants, what it refuses in words, what it drops and says."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from cakit import issuing_issuer, key, make_csr
from chancery.asn1 import der, oids
from chancery.asn1 import x509 as template
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.pkix.granting import Granted, IssuerLimits, Requested, grant, requested
from chancery.pkix.profile import parse_profile
from chancery.pkix.wish import Wish, read_wish, wish_text
from fakes import START

LIMITS = IssuerLimits(START + datetime.timedelta(days=3650), None)
HOUR, DAY = datetime.timedelta(hours=1), datetime.timedelta(days=1)
SECOND = datetime.timedelta(seconds=1)
BASE = {
    "top": "",
    "validity": 'duration = "10d"',
    "subject": 'required = ["CN"]',
    "names": 'types = ["dns"]',
    "extensions": 'key_usage = ["digitalSignature"]',
}


def _profile(**changes: str):
    parts = {**BASE, **changes}
    text = f'name = "test"\nversion = 1\ndescription = "a test"\nkeys = ["ec-p256"]\n{parts.pop("top")}\n'
    return parse_profile(text + "\n".join(f"[{table}]\n{content}" for table, content in parts.items()))


def _grant(profile, subject=(("CN", "a"),), names=(), limits=LIMITS, custom=(), **more) -> Granted:
    types = {**oids.ATTRIBUTES, **dict(custom)}
    attributes = tuple((types.get(short, short), value) for short, value in subject)
    return grant(profile, Requested(key().public_key(), attributes, names=tuple(names), **more), limits, START)


def _refused(profile, *arguments, type_=ErrorType.BAD_CERT_TEMPLATE, **more) -> str:
    with pytest.raises(PKIError) as caught:
        _grant(profile, *arguments, **more)
    assert type_ is caught.value.type
    return caught.value.detail


def _not_loaded(**changes: str) -> str:
    with pytest.raises(OperatorError) as caught:
        _profile(**changes)
    return caught.value.what


# The issuer's algorithm


def test_a_profile_may_name_what_the_issuer_signs_by():
    profile = _profile(top='signature_algorithms = ["ecdsa-with-SHA384"]')
    good = IssuerLimits(LIMITS.not_after, None, algorithm="ecdsa-with-SHA384")
    assert _grant(profile, limits=good)
    wrong = IssuerLimits(LIMITS.not_after, None, algorithm="Ed25519")
    assert "wants ecdsa-with-SHA384; the issuer signs by Ed25519" in _refused(profile, limits=wrong)
    assert "not known" in _refused(profile)
    assert "ecdsa-with-SHA256" == issuing_issuer().limits.algorithm
    assert "MD5 is not one of" in _not_loaded(top='signature_algorithms = ["MD5"]')


# Validity

ALLOW = 'duration = "10d"\nrequested = "allow"\nmin = "1h"\nmax = "20d"\nahead = "2d"\nbackdate = "5m"'


@pytest.mark.parametrize(
    ("wish", "begin", "length"),
    [
        (Wish(duration="1h"), START - 5 * datetime.timedelta(minutes=1), HOUR),
        (Wish(duration="20d"), START - 5 * datetime.timedelta(minutes=1), 20 * DAY),
        (Wish(not_before=START + 2 * DAY), START + 2 * DAY, 10 * DAY),
        (Wish(not_before=START, not_after=START + DAY - SECOND), START, DAY),
        (Wish(not_before=START, duration="1d"), START, DAY),
    ],
)
def test_r12_a_validity_that_is_asked_for_is_granted_within_its_bounds(wish, begin, length):
    granted = _grant(_profile(validity=ALLOW), wish=wish)
    assert (begin, length) == (granted.not_before, granted.not_after - granted.not_before + SECOND)


@pytest.mark.parametrize(
    "wish",
    [
        Wish(duration="59m"),
        Wish(duration="20d1s"),
        Wish(duration="soon"),
        Wish(not_before=START - 6 * datetime.timedelta(minutes=1)),
        Wish(not_before=START + 2 * DAY + SECOND),
        Wish(not_after=START + 21 * DAY),
        Wish(not_after=START - DAY),
    ],
)
def test_a_validity_outside_its_bounds_is_refused(wish):
    assert _refused(_profile(validity=ALLOW), wish=wish)


def test_a_validity_is_refused_or_dropped_where_the_profile_sets_it():
    wish = Wish(duration="1d")
    assert "sets the validity" in _refused(_profile(), wish=wish)
    granted = _grant(_profile(validity='duration = "10d"\nrequested = "drop"'), wish=wish)
    assert (10 * DAY, ("the validity asked for",)) == (
        granted.not_after - granted.not_before + SECOND,
        granted.dropped,
    )


def test_a_validity_that_is_asked_for_never_outlives_the_issuer():
    soon = IssuerLimits(START + 5 * DAY, None)
    assert "outlive" in _refused(_profile(validity=ALLOW), wish=Wish(duration="6d"), limits=soon)


def test_r25_a_shorter_certificate_ends_the_use_of_the_key():
    extensions = 'key_usage = ["digitalSignature"]\nprivate_key_usage = "9d"'
    profile = _profile(
        validity=ALLOW.replace('max = "20d"', 'max = "10d"').replace("1h", "9d"), extensions=extensions
    )
    granted = _grant(profile, wish=Wish(duration="9d"))
    assert template.private_key_usage_period(granted.not_before, granted.not_after) in granted.extensions


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"duration": "1d"}', '{"duration":1}', '{"duration":"1d","x":1}',
     '{"not_before":"2030-01-01"}',
     '{"not_before":"2030-01-01T00:00:00.5Z"}', '{"not_before":"1900-01-01T00:00:00Z"}', "x" * 2000,
     "\ud800",
     '{"duration":"1d","not_after":"2030-01-01T00:00:00Z"}'],
)  # fmt: skip
def test_a_wish_in_another_form_is_refused(text):
    with pytest.raises(PKIError, match="wish"):
        read_wish(text)


def test_a_wish_has_one_text():
    wish = Wish(not_before=START.astimezone(datetime.timezone(2 * HOUR)), duration="1d")
    assert wish == read_wish(wish_text(wish))
    assert (None, None, None) == (wish_text(None), wish_text(Wish()), read_wish(None))


# The subject


def test_defaults_order_patterns_counts_and_string_types():
    subject = """
optional = ["CN", "O", "OU", "serialNumber"]
fixed = { C = "DE" }
default = { O = "Org" }
pattern = { serialNumber = "[0-9]{3,}" }
max_count = { OU = 2 }
string_type = { CN = "printable" }
order = ["C", "O", "OU"]
"""
    profile = _profile(subject=subject)
    granted = _grant(profile, (("CN", "a"), ("OU", "1"), ("serialNumber", "123"), ("OU", "2")))
    assert "serialNumber=123,CN=a,OU=2,OU=1,O=Org,C=DE" == granted.subject_text
    assert b"\x13\x01a" in granted.subject
    assert "O=Other" in _grant(profile, (("O", "Other"),)).subject_text
    assert "does not match" in _refused(profile, (("serialNumber", "12"),))
    assert "more than 2 OU" in _refused(profile, (("OU", "1"), ("OU", "2"), ("OU", "3")))
    assert "string type" in _refused(profile, (("CN", "a*b"),))


def test_a_profile_that_grants_two_common_names_is_refused_when_it_is_loaded():
    assert "common_name_repeated" in _not_loaded(subject='required = ["CN"]\nmax_count = { CN = 2 }')
    assert _profile(subject='required = ["CN"]\noptional = ["O"]\nmax_count = { O = 2 }')


def test_an_attribute_of_one_s_own_has_a_name_an_oid_and_a_string_type():
    subject = """
required = ["CN", "badge"]
custom = { badge = "1.3.6.1.4.1.99999.7" }
max_length = { badge = 4 }
string_type = { badge = "ia5" }
"""
    profile = _profile(subject=subject)
    badge = "1.3.6.1.4.1.99999.7"
    granted = _grant(profile, (("CN", "a"), (badge, "A@1")))
    assert f"{badge}=A@1,CN=a" == granted.subject_text
    assert b"\x16\x03A@1" in granted.subject
    assert "badge has 1 to 4" in _refused(profile, (("CN", "a"), (badge, "12345")))
    assert "wants badge" in _refused(profile)


def test_what_is_not_listed_is_dropped_and_said_where_the_profile_says_so():
    profile = _profile(subject='required = ["CN"]\nfixed = { O = "Org" }\nunlisted = "drop"')
    granted = _grant(profile, (("CN", "a"), ("O", "Other"), ("L", "x"), ("1.2.3", "y")))
    assert "CN=a,O=Org" == granted.subject_text
    assert ("the subject's O", "the subject's L", "the subject's 1.2.3") == granted.dropped


def test_an_rdn_of_several_attributes_is_refused_or_split():
    name = x509.Name(
        [
            x509.RelativeDistinguishedName(
                [x509.NameAttribute(NameOID.COMMON_NAME, "a"), x509.NameAttribute(NameOID.USER_ID, "1")]
            )
        ]
    )
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key(), hashes.SHA256())
    asked = requested(csr.public_bytes(Encoding.DER))
    split = _profile(subject='required = ["CN"]\noptional = ["UID"]\nmulti_valued = "split"')
    assert {"CN=a", "UID=1"} == set(grant(split, asked, LIMITS, START).subject_text.split(","))
    with pytest.raises(PKIError, match="several attributes"):
        grant(_profile(subject='required = ["CN"]\noptional = ["UID"]'), asked, LIMITS, START)


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        ('required = ["CN"]\npattern = { CN = "(" }', "pattern of CN"),
        ('required = ["CN"]\npattern = { CN = "x{70}" }', "no value of 1 to 64 characters"),
        ('required = ["CN"]\npattern = { O = "x" }', "may not be asked for"),
        (
            'optional = ["O"]\nfixed = { CN = "a" }\ndefault = { O = "b" }\npattern = { O = "c" }',
            "default O does not",
        ),
        ('required = ["CN"]\ndefault = { CN = "a" }', "no default"),
        ('required = ["CN"]\ncustom = { CN = "1.2.3" }', "no name for an attribute"),
        ('required = ["CN"]\ncustom = { x = "2.5.4.3" }', "has a name already"),
        ('required = ["CN"]\nstring_type = { C = "utf8" }', "never utf8"),
        ('required = ["CN"]\nstring_type = { CN = "ia5" }', "never ia5"),
        ('required = ["CN"]\norder = ["CN", "CN"]', "twice"),
        ('required = ["CN"]\nfixed = { serialNumber = "\\u00e4" }', "string type"),
    ],
)
def test_a_subject_s_rules_that_contradict_are_refused_when_loaded(subject, words):
    assert words in _not_loaded(subject=subject)


def test_a_mailbox_in_the_subject_is_one_of_the_names():
    """RFC 5280 4.1.2.6."""
    with_mail = {"subject": 'required = ["CN"]\noptional = ["emailAddress"]', "names": 'types = ["dns", "email"]'}
    profile = _profile(**with_mail)
    subject = (("CN", "a"), ("emailAddress", "olga@EXAMPLE.org"))
    assert ("email:olga@example.org",) == _grant(profile, subject, ["email:olga@example.org"]).names
    assert "not one of the subjectAltNames" in _refused(profile, subject, ["email:erik@example.org"])
    assert () == _grant(profile).names
    assert "no names of type email" in _not_loaded(subject='required = ["emailAddress"]')


@pytest.mark.parametrize(
    "subject",
    [
        'required = ["emailAddress"]',
        'required = ["CN"]\noptional = ["emailAddress"]\ndefault = { emailAddress = "a@example.org" }',
        'required = ["CN"]\nfixed = { emailAddress = "a@example.org" }',
        'required = ["emailAddress"]\npattern = { emailAddress = "[a-z]+@example\\\\.org" }',
    ],
)
def test_a_profile_with_a_mailbox_in_the_subject_can_be_tried(subject):
    names = 'types = ["dns", "email"]\nemail_domains = ["example.org"]\nmax = 1'
    _profile(subject=subject, names=names)


# The names

RULES = """
types = ["dns", "ip", "email", "smtputf8", "uri", "upn", "othername", "rid", "dirname"]
wildcards = true
wildcard_suffixes = ["apps.example.org"]
dns_suffixes = ["example.org", ".example.net"]
dns_forbidden = ["secret.example.org"]
ip_networks = ["9.0.0.0/8", "2620:fe::/48"]
ip_reserved = "refuse"
email_domains = ["example.org"]
uri_schemes = ["https"]
upn_realms = ["corp.example.org"]
other_names = ["1.2.3"]
max_of = { dns = 2 }
"""


@pytest.mark.parametrize(
    "name",
    [
        "dns:example.org",
        "dns:a.example.org",
        "dns:a.example.net",
        "dns:*.apps.example.org",
        "ip:9.9.9.9",
        "ip:2620:fe::fe",
        "email:a@mail.example.org",
        "smtputf8:\u00e4@example.org",
        "uri:https://a.example/",
        "upn:alice@corp.example.org",
        "othername:1.2.3;utf8:x",
        "rid:1.2.3",
        "dirname:CN=x",
    ],
)
def test_a_name_within_its_rules_is_granted_and_stands_in_the_extension(name):
    granted = _grant(_profile(names=RULES), names=[name])
    assert (name,) == granted.names
    assert template.subject_alt_name([name], critical=False) in granted.extensions


@pytest.mark.parametrize(
    ("forbidden", "name", "granted"),
    [
        ("secret.example.org", "dns:*.example.org", False),
        (".example.org", "dns:*.example.org", False),
        (".example.org", "dns:example.org", True),
        ("example.org", "dns:*.example.org", False),
        ("a.secret.example.org", "dns:*.example.org", True),
        ("secret.example.org", "dns:*.example.net", True),
    ],
)
def test_a_wildcard_never_stands_for_what_is_forbidden(forbidden, name, granted):
    profile = _profile(names=f'types = ["dns"]\nwildcards = true\ndns_forbidden = ["{forbidden}"]\n')
    if granted:
        assert (name,) == _grant(profile, names=[name]).names
    else:
        assert "no names under" in _refused(profile, names=[name])


@pytest.mark.parametrize(
    "address",
    ["2002:a00:1::", "::10.0.0.1", "64:ff9b::a00:1", "::ffff:10.0.0.1", "fec0::1", "3fff::1", "192.88.99.1"],
)
def test_an_address_that_holds_a_private_one_or_is_reserved_is_not_public(address):
    profile = _profile(names='types = ["ip"]\nip_reserved = "refuse"\n')
    assert "no reserved address" in _refused(profile, names=[f"ip:{address}"])


OUTSIDE = [
    "dns:example.com",
    "dns:example.net",
    "dns:notexample.org",
    "dns:*.example.org",
    "dns:secret.example.org",
    "dns:very.secret.example.org",
    "dns:*.b.example.org",
    "ip:8.8.8.8",
    "ip:9.9.9.9".replace("9.9.9.9", "192.168.0.1"),
    "email:a@example.com",
    "smtputf8:\u00e4@example.com",
    "uri:ldap://a.example/",
    "upn:alice@example.org",
    "othername:1.2.4;utf8:x",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_outside_its_rules_is_refused_or_dropped(name):
    assert name in _refused(_profile(names=RULES), names=[name])
    dropping = _profile(names=RULES + 'unlisted = "drop"\n')
    granted = _grant(dropping, names=[name, "dns:a.example.org"])
    assert (("dns:a.example.org",), (f"the name {name}",)) == (granted.names, granted.dropped)


def test_types_are_counted():
    profile = _profile(names='types = ["dns", "upn"]\nrequired_types = ["upn"]\nmax_of = { dns = 1 }')
    assert "wants a subjectAltName upn" in _refused(profile, names=["dns:a.example"])
    assert "at most 1 names of type dns" in _refused(profile, names=["dns:a.example", "dns:b.example", "upn:a@b"])
    assert _grant(profile, names=["dns:a.example", "upn:a@b"])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ('types = ["dns"]\nip_networks = ["10.0.0.0/8"]', "ip has a rule"),
        ('types = ["ip"]\nip_networks = ["10.0.0.1/8"]', "has host bits set"),
        ('types = ["dns"]\nwildcard_suffixes = ["a.example"]', "wildcards = true"),
        ('types = ["dns"]\ndns_suffixes = ["A.example"]', "not a domain"),
        ('types = ["dns"]\ndns_suffixes = ["a.example"]\ndns_forbidden = ["a.example"]', "also forbids"),
        ('types = ["othername"]', "needs its OIDs"),
        ('types = ["uri"]\nuri_schemes = ["HTTP"]', "not a scheme"),
        ('types = ["dns"]\nemail_domains = ["a.example"]', "neither email"),
        ('types = ["ip"]\nip_networks = ["10.0.0.0/8"]\nip_reserved = "refuse"', "no reserved address"),
    ],
)
def test_rules_of_names_that_contradict_are_refused_when_loaded(names, words):
    assert words in _not_loaded(names=names)


# The extensions


def _usages(granted: Granted) -> list[str]:
    [value] = [one for one in granted.extensions if der.oid(oids.EXTENDED_KEY_USAGE) in one[:20]]
    return value


def test_purposes_are_chosen_within_the_set():
    extensions = 'key_usage = ["digitalSignature"]\nextended_key_usage_allowed = ["clientAuth", "emailProtection"]'
    profile = _profile(extensions=extensions, names='types = ["dns", "email"]')
    client, mail, server = (oids.EXTENDED_KEY_USAGES[n] for n in ("clientAuth", "emailProtection", "serverAuth"))

    def asking(*purposes: str):
        return ((oids.EXTENDED_KEY_USAGE, False, der.sequence(*map(der.oid, purposes))),)

    granted = _grant(profile, extensions=asking(client, server))
    assert template.extended_key_usage((client,), critical=False) == _usages(granted)
    assert (f"the extended key usage {server}",) == granted.dropped
    assert "wants an extendedKeyUsage" in _refused(profile)
    assert "wants an extendedKeyUsage" in _refused(profile, extensions=asking(server))
    strict = _profile(extensions=extensions + '\nunlisted = "refuse"', names='types = ["dns", "email"]')
    assert f"does not grant the extended key usage {server}" in _refused(strict, extensions=asking(mail, server))
    names = ["email:a@example.org"]
    assert template.extended_key_usage((mail,), critical=False) == _usages(
        _grant(strict, names=names, extensions=asking(mail))
    )


def test_a_choice_of_the_authority_s_own_services_is_one():
    text = 'key_usage = ["digitalSignature"]\nocsp_nocheck = true\nextended_key_usage_allowed = ["OCSPSigning"]'
    assert _profile(extensions=text).service


ASKS = 'key_usage = ["digitalSignature"]\nrequested = [{ oid = "1.2.3", max_size = 8, critical = false }]\n'


def test_an_extension_comes_from_the_request_where_its_oid_is_listed():
    profile = _profile(extensions=ASKS)
    granted = _grant(profile, extensions=(("1.2.3", True, b"\x0c\x01a"), ("1.2.4", False, b"\x05\x00")))
    # Its criticality is the profile's, whatever the CSR says.
    assert template.extension("1.2.3", b"\x0c\x01a") in granted.extensions
    assert ("the extension 1.2.4",) == granted.dropped
    assert "more than 8 octets" in _refused(profile, extensions=(("1.2.3", False, der.octet_string(bytes(7))),))
    assert "bytes follow" in _refused(
        profile, extensions=(("1.2.3", False, b"\x05\x00\x00"),), type_=ErrorType.BAD_DATA_FORMAT
    )
    strict = _profile(extensions=ASKS + 'unlisted = "refuse"')
    assert "does not grant the extension 1.2.4" in _refused(strict, extensions=(("1.2.4", False, b"\x05\x00"),))
    needed = _profile(extensions=ASKS.replace("max_size = 8", "required = true"))
    assert "wants the extension 1.2.3" in _refused(needed)


def test_an_extension_that_says_what_is_granted_anyway_is_no_surplus():
    strict = _profile(extensions='key_usage = ["digitalSignature"]\nunlisted = "refuse"')
    same = (
        (oids.BASIC_CONSTRAINTS, True, der.sequence()),
        (oids.KEY_USAGE, True, der.named_bits([0])),
        (oids.SUBJECT_KEY_IDENTIFIER, False, der.octet_string(bytes(20))),
    )
    assert () == _grant(strict, extensions=same).dropped
    ca = ((oids.BASIC_CONSTRAINTS, True, der.sequence(b"\x01\x01\xff")),)
    assert "basicConstraints" in _refused(strict, extensions=ca)
    assert ("the extension basicConstraints",) == _grant(_profile(), extensions=ca).dropped


def test_the_key_identifier_s_method_is_the_profile_s():
    public = key().public_key()
    sha1 = _grant(_profile(extensions=BASE["extensions"] + '\nsubject_key_identifier = "sha1"'))
    expected = x509.SubjectKeyIdentifier.from_public_key(public).digest
    assert template.subject_key_identifier(expected) == sha1.extensions[-1]
    none = _grant(_profile(extensions=BASE["extensions"] + '\nsubject_key_identifier = "none"'))
    assert len(sha1.extensions) - 1 == len(none.extensions)


@pytest.mark.parametrize(
    ("extensions", "words"),
    [
        ('policies = ["1.2.3", { oid = "1.2.3" }]', "stands twice"),
        ('policies = [{ oid = "1.2.3", cps = "x" }]', "absolute URI"),
        ('policies = ["0.40"]', "not an object identifier"),
        ("inhibit_any_policy = 0", "belongs to a CA"),
        ('name_constraints = { permitted = ["dns:a"] }', "belongs to a CA"),
        ('requested = [{ oid = "2.5.29.19" }]', "has rules of its own"),
        ('fixed = [{ oid = "2.5.29.37", der = "3000" }]', "has rules of its own"),
        ('fixed = [{ oid = "1.2.3", der = "05" }]', "octets of 1.2.3"),
        ('fixed = [{ oid = "1.2.3", der = "0500", critical = true }]', "critical_extension_unknown"),
        ('tls_feature = ["status_request"]\nrequested = [{ oid = "1.3.6.1.5.5.7.1.24" }]', "stands twice"),
        ("qc_statements = {}", "no statement"),
        ('qc_statements = { disclosures = [{ url = "http://a.example/", language = "en" }] }', "https"),
        ('extended_key_usage = ["clientAuth"]\nextended_key_usage_allowed = ["clientAuth"]', "stands twice"),
    ],
)
def test_rules_of_extensions_that_contradict_are_refused_when_loaded(extensions, words):
    assert words in _not_loaded(extensions=f"{BASE['extensions']}\n{extensions}")


def test_what_a_csr_asks_for_in_vain_is_told_of_a_real_request():
    csr = make_csr("CN=a", (), key(), x509.BasicConstraints(ca=True, path_length=None))
    assert ("the extension basicConstraints",) == grant(_profile(), requested(csr), LIMITS, START).dropped
