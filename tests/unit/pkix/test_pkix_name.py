"""Names as text, and which subjectAltNames are well formed (RFC 5280 4.2.1.6)."""

from __future__ import annotations

import ipaddress

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from chancery.asn1 import der
from chancery.asn1.general_name import general_name
from chancery.errors import ErrorType, PKIError
from chancery.pkix.general_name import read, subtree
from chancery.pkix.name import (
    KINDS,
    attributes_of,
    canonical,
    canonical_names,
    general_names,
    name_text,
    names_of,
    parse_name,
    text_of,
)


def test_the_most_significant_part_of_a_text_name_is_last():
    name = parse_name("CN=Root,O=Org,C=XX")
    assert (("2.5.4.6", "XX"), ("2.5.4.10", "Org"), ("2.5.4.3", "Root")) == attributes_of(name)
    assert "CN=Root,O=Org,C=XX" == name_text(name) == text_of(attributes_of(name))


def test_names_that_openssl_knows_are_known():
    text = "CN=a,emailAddress=a@example.org,serialNumber=7,organizationIdentifier=NTRXX-1"
    assert text == name_text(parse_name(text))


@pytest.mark.parametrize("text", ["", "CN", "FOO=1", "C=USA", "CN=" + "x" * 65, "CN=a,,", "CN=a\x00\\"])
def test_a_text_that_is_no_name_is_refused(text):
    with pytest.raises(PKIError) as caught:
        parse_name(text)
    assert ErrorType.BAD_DATA_FORMAT is caught.value.type


def test_a_multi_valued_rdn_is_refused():
    with pytest.raises(PKIError, match="several attributes"):
        attributes_of(parse_name("CN=a+OU=b"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dns:WWW.Example.ORG", "dns:www.example.org"),
        ("dns:localhost", "dns:localhost"),
        ("dns:*.example.org", "dns:*.example.org"),
        ("dns:xn--bcher-kva.example", "dns:xn--bcher-kva.example"),
        ("dns:b\u00fccher.example", "dns:xn--bcher-kva.example"),
        ("dns:B\u00dcCHER.Example", "dns:xn--bcher-kva.example"),
        ("dns:fa\u00df.example", "dns:xn--fa-hia.example"),
        ("email:a@b\u00fccher.example", "email:a@xn--bcher-kva.example"),
        ("email:j\u00f6rg@b\u00fccher.example", "smtputf8:j\u00f6rg@xn--bcher-kva.example"),
        ("smtputf8:j\u00f6rg@Example.org", "smtputf8:j\u00f6rg@example.org"),
        ("upn:Alice@EXAMPLE.org", "upn:Alice@example.org"),
        ("rid:1.3.6.1.4.1.99999.1", "rid:1.3.6.1.4.1.99999.1"),
        ("dirname:CN=a,O=b", "dirname:CN=a,O=b"),
        ("dirname:CN=\\61", "dirname:CN=a"),
        ("othername:1.2.3;utf8:text", "othername:1.2.3;utf8:text"),
        ("othername:1.2.3;der:0c0461626364", "othername:1.2.3;utf8:abcd"),
        ("othername:1.2.3;der:0500", "othername:1.2.3;der:0500"),
        ("dns:1and1.example", "dns:1and1.example"),
        ("dns:" + ".".join(["a" * 63] * 3 + ["b" * 61]), "dns:" + ".".join(["a" * 63] * 3 + ["b" * 61])),
        ("ip:10.0.0.1", "ip:10.0.0.1"),
        ("ip:2001:DB8:0:0::1", "ip:2001:db8::1"),
        ("email:First.Last+tag@Example.ORG", "email:First.Last+tag@example.org"),
        ("uri:https://www.example.org:8443/a?b#c", "uri:https://www.example.org:8443/a?b#c"),
        ("uri:https://[2001:db8::1]/", "uri:https://[2001:db8::1]/"),
        ("uri:urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "uri:urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"),
        ("uri:spiffe://example.org/ns/a", "uri:spiffe://example.org/ns/a"),
    ],
)
def test_a_good_name_becomes_canonical(text, expected):
    assert expected == canonical(text)


@pytest.mark.parametrize(
    "text",
    [
        "www.example.org",
        "x400:1.2.3",
        "dns:",
        "dns:www.example.org.",
        "dns:.example.org",
        "dns:a..b",
        "dns:a_b.example",
        "dns:-a.example",
        "dns:a-.example",
        "dns:a b.example",
        "dns:b\u00fccher..example",
        "dns:a\u00b7b.example",
        "dns:\u2603.example",
        "dns:xn--.example",
        "dns:xn--a.example",
        "dns:xn--BCHER-kva.example".replace("BCHER", "b\u0000cher"),
        "dns:ab--cd.example",
        "dns:*",
        "dns:*.org",
        "dns:w*.example.org",
        "dns:www.*.example.org",
        "dns:*.*.example.org",
        "dns:10.0.0.1",
        "dns:example.123",
        "dns:" + "a" * 64 + ".example",
        "dns:" + ".".join(["a" * 63] * 4),
        "dns:www.example.org\n",
        "ip:10.0.0",
        "ip:10.0.0.0/8",
        "ip:010.0.0.1",
        "ip:0.0.0.0",
        "ip:224.0.0.1",
        "ip:fe80::1%eth0",
        "ip:::",
        "email:a",
        "email:@example.org",
        "email:a@",
        "email:a@*.example.org",
        'email:"a b"@example.org',
        "email:a..b@example.org",
        "email:a@b@example.org ",
        "email:\u00e4..b@example.org",
        "email:\u00e4\u202e@example.org",
        "smtputf8:a@example.org",
        "smtputf8:a\u0308@example.org",
        "smtputf8:" + "\u00e4" * 33 + "@example.org",
        "upn:alice",
        "upn:a b@example.org",
        "upn:@example.org",
        "upn:alice@*.example.org",
        "rid:1",
        "rid:3.1",
        "rid:1.02",
        "dirname:",
        "dirname:CN",
        "dirname:CN=a+OU=b",
        "dirname:1.2.3.4=a",
        "dirname:CN=" + "a" * 1024,
        "dirname:O=" + "a" * 65,
        "dirname:C=de",
        "dirname:C=D1",
        "dirname:DC=\u00e4",
        "dirname:serialNumber=a@b",
        "dirname:emailAddress=alice",
        "dirname:emailAddress=\u00e4@example.org",
        "othername:1.2.3",
        "othername:1.2.3;utf8",
        "othername:1.2.3;der:05",
        "othername:1.2.3;der:050000",
        "othername:1.2.3;hex:0500",
        "othername:1.3.6.1.4.1.311.20.2.3;utf8:alice@example.org",
        "othername:1.3.6.1.5.5.7.8.9;utf8:\u00e4@example.org",
        "othername:1.2.3;utf8:" + "a" * 1024,
        "email:" + "a" * 65 + "@example.org",
        "email:Alice <a@example.org>",
        "uri:/relative",
        "uri:www.example.org",
        "uri:http:///path",
        "uri:http://a_b/",
        "uri:http://*.example.org/",
        "uri:http://999.1.1.1/",
        "uri:http://example.org/ä",
        "uri:http://example.org/a b",
        "uri:http://example.org:x/",
        "uri:http://[::1/",
        "uri:http://example.org/%zz",
        "uri:http://example.org/" + "a" * 2048,
    ],
)
def test_a_malformed_name_is_refused_in_words(text):
    with pytest.raises(PKIError) as caught:
        canonical(text)
    assert ErrorType.BAD_CERT_TEMPLATE is caught.value.type
    assert len(caught.value.detail) < 300


def test_names_keep_their_order_and_stand_once():
    assert ("dns:b.example", "dns:a.example") == canonical_names(
        ["dns:b.example", "dns:a.example", "dns:B.example"]
    )


def test_general_names_are_pycas_values_and_back():
    texts = ("dns:a.example", "ip:10.0.0.1", "ip:2001:db8::1", "email:a@example.org", "uri:urn:a:b")
    names = general_names(texts)
    assert x509.DNSName("a.example") == names[0]
    assert x509.IPAddress(ipaddress.ip_address("10.0.0.1")) == names[1]
    assert texts == names_of(x509.SubjectAlternativeName(names))


def test_a_type_without_a_text_is_refused():
    # x400Address [3] and ediPartyName [5], which nobody has.
    for tag in (b"\xa3", b"\xa5"):
        with pytest.raises(PKIError, match="is not granted"):
            read(b"\x30\x04" + tag + b"\x02\x05\x00")


@given(st.text(max_size=40))
def test_whatever_is_accepted_as_a_name_is_stable_and_encodable(text):
    for kind in KINDS:
        try:
            name = canonical(f"{kind}:{text}")
        except PKIError:
            continue
        assert name == canonical(name)
        [value] = general_names([name])
        assert (name,) == names_of(x509.SubjectAlternativeName([value]))
        # The same bytes as pyca's, and read back from them.
        encoded = x509.SubjectAlternativeName([value]).public_bytes()
        assert encoded == der.sequence(general_name(name))
        assert (name,) == read(encoded)


@pytest.mark.parametrize(
    "name",
    [
        "upn:alice@example.org",
        "smtputf8:j\u00f6rg@example.org",
        "rid:1.3.6.1.4.1.99999.1",
        "dirname:CN=a,O=b,C=XX",
        "dirname:emailAddress=a@example.org,DC=example",
        "dirname:CN=a\\,b\\+c",
        "othername:1.2.3;utf8:text",
        "othername:1.2.3;der:0500",
        "ip:2001:db8::1",
    ],
)
def test_every_kind_of_name_has_pyca_s_encoding_and_is_read_back(name):
    assert name == canonical(name)
    encoded = x509.SubjectAlternativeName(general_names([name])).public_bytes()
    assert encoded == der.sequence(general_name(name))
    assert (name,) == read(encoded)
    assert (name,) == names_of(x509.SubjectAlternativeName(general_names([name])))


@pytest.mark.parametrize(
    ("text", "general"),
    [
        ("dns:example.org", x509.DNSName("example.org")),
        ("email:example.org", x509.RFC822Name("example.org")),
        ("email:.example.org", x509.RFC822Name(".example.org")),
        ("email:a@example.org", x509.RFC822Name("a@example.org")),
        ("uri:.example.org", x509.UniformResourceIdentifier(".example.org")),
        ("ip:10.0.0.0/8", x509.IPAddress(ipaddress.ip_network("10.0.0.0/8"))),
        ("ip:2001:db8::/32", x509.IPAddress(ipaddress.ip_network("2001:db8::/32"))),
        ("dirname:O=b,C=XX", x509.DirectoryName(parse_name("O=b,C=XX"))),
    ],
)
def test_a_subtree_has_pyca_s_encoding(text, general):
    constraints = x509.NameConstraints([general], None).public_bytes()
    assert constraints == der.sequence(der.implicit(0, der.sequence(subtree(text)), constructed=True))


@pytest.mark.parametrize(
    "text", ["", "dns:", "dns:.example.org", "dns:*.example.org", "ip:10.0.0.1/8", "rid:1.2.3"]
)
def test_what_is_no_subtree_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        subtree(text)
