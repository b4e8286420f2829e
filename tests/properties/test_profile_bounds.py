"""Whatever is requested, what is granted stays inside the profile: a checker of its own says so."""

from __future__ import annotations

import datetime
import ipaddress
import re

from asn1crypto import core
from asn1crypto import x509 as other
from hypothesis import given, settings
from hypothesis import strategies as st

from cakit import key
from chancery.errors import PKIError
from chancery.pkix.granting import IssuerLimits, Requested, grant
from chancery.pkix.name import canonical_names
from chancery.pkix.profile import parse_profile
from chancery.pkix.wish import Wish
from fakes import START

HOUR = datetime.timedelta(hours=1)
END = START + 40 * 24 * HOUR
TEXT = """
name = "bounds"
version = 1
description = "many rules at once"
keys = ["ec-p256"]

[validity]
duration = "10d"
backdate = "5m"
past_issuer = "clamp"
requested = "allow"
min = "1h"
max = "60d"
ahead = "2d"

[subject]
required = ["CN"]
optional = ["O", "OU", "serialNumber", "badge"]
fixed = { C = "DE" }
default = { O = "Org" }
pattern = { serialNumber = "[0-9]{3,6}" }
max_length = { CN = 20 }
max_count = { OU = 2 }
custom = { badge = "1.3.6.1.4.1.99999.7" }
string_type = { badge = "ia5" }
unlisted = "drop"

[names]
types = ["dns", "ip", "email", "uri", "upn"]
wildcards = true
wildcard_suffixes = ["apps.example.org"]
dns_suffixes = ["example.org"]
dns_forbidden = ["secret.example.org"]
ip_networks = ["9.0.0.0/8"]
email_domains = ["example.org"]
uri_schemes = ["https"]
upn_realms = ["corp.example.org"]
max = 4
max_of = { upn = 1 }
unlisted = "drop"

[extensions]
key_usage = ["digitalSignature"]
extended_key_usage = ["clientAuth"]
extended_key_usage_allowed = ["emailProtection"]
requested = [{ oid = "1.2.3", max_size = 16 }]
"""
PROFILE = parse_profile(TEXT)
TYPES = {
    "2.5.4.3": (1, 20, 1, "utf8_string"),
    "2.5.4.6": (2, 2, 1, "printable_string"),
    "2.5.4.10": (1, 64, 1, "utf8_string"),
    "2.5.4.11": (1, 64, 2, "utf8_string"),
    "2.5.4.5": (3, 6, 1, "printable_string"),
    "1.3.6.1.4.1.99999.7": (1, 256, 1, None),
}
EXTENSIONS = {
    "2.5.29.19": True,
    "2.5.29.15": True,
    "2.5.29.37": False,
    "2.5.29.17": False,
    "2.5.29.14": False,
    "1.2.3": False,
}
PURPOSES = {"1.3.6.1.5.5.7.3.2", "1.3.6.1.5.5.7.3.4"}

attributes = st.tuples(
    st.sampled_from([*TYPES, "2.5.4.7", "1.2.3.4"]),
    st.one_of(st.sampled_from(["DE", "Org", "123", "a", "1234567"]), st.text(max_size=25)),
)
hosts = st.sampled_from(
    ["example.org", "a.example.org", "b.secret.example.org", "apps.example.org", "example.com"]
)
texts = st.one_of(
    hosts.map(lambda h: f"dns:{h}"),
    hosts.map(lambda h: f"dns:*.{h}"),
    st.sampled_from(["corp.example.org", "x.corp.example.org", "example.org"]).map(lambda h: f"upn:a@{h}"),
    hosts.map(lambda h: f"email:a@{h}"),
    st.sampled_from(["https", "ldap"]).map(lambda s: f"uri:{s}://a.example/"),
    st.ip_addresses(v=4).map(lambda a: f"ip:{a}"),
    st.just("rid:1.2.3"),
)
moments = st.integers(-100, 100 * 24).map(lambda hours: START + hours * HOUR)
wishes = st.one_of(
    st.none(),
    st.builds(Wish, not_before=st.none() | moments, not_after=st.none() | moments),
    st.builds(Wish, not_before=st.none() | moments, duration=st.integers(1, 90 * 24).map(lambda n: f"{n}h")),
)
values = st.sampled_from([b"\x05\x00", b"\x04\x20" + bytes(32), b"\x05", core.ObjectIdentifier("1.2.3").dump()])
purposes = st.lists(st.sampled_from([*PURPOSES, "1.3.6.1.5.5.7.3.9", "2.5.29.37.0"]), min_size=1, unique=True).map(
    lambda some: core.SequenceOf([core.ObjectIdentifier(one) for one in some], spec=core.ObjectIdentifier).dump()
)
asked_extensions = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["1.2.3", "1.2.4", "2.5.29.19", "2.5.29.36"]), st.booleans(), values),
        st.tuples(st.just("2.5.29.37"), st.booleans(), purposes),
    ),
    max_size=3,
    unique_by=lambda one: one[0],
)


@settings(max_examples=200, deadline=None)
@given(st.lists(attributes, max_size=5), st.lists(texts, max_size=5), wishes, asked_extensions)
def test_whatever_is_requested_what_is_granted_is_in_the_profile(subject, names, wish, extensions):
    try:
        known = canonical_names([one for one in names if not one.startswith("ip:") or _usual(one[3:])])
        asked = Requested(key().public_key(), tuple(subject), names=known, wish=wish, extensions=tuple(extensions))
        granted = grant(PROFILE, asked, IssuerLimits(END, None), START)
    except PKIError:
        return
    _check_subject(granted.subject)
    assert len(granted.names) <= 4
    assert sum(one.startswith("upn:") for one in granted.names) <= 1
    assert set(granted.names) <= set(known)
    assert all(map(_allowed, granted.names))
    length = granted.not_after - granted.not_before + datetime.timedelta(seconds=1)
    assert granted.not_after <= END
    assert length <= 60 * 24 * HOUR
    # Less than asked for is only what the issuer's end takes.
    assert HOUR <= length or granted.not_after == END
    assert START - 5 * datetime.timedelta(minutes=1) <= granted.not_before <= START + 48 * HOUR
    _check_extensions(granted.extensions)
    # What was asked for is granted or told.
    for one in known:
        assert one in granted.names or f"the name {one}" in granted.dropped
    assert wish is None or wish.not_after is None or granted.not_after in {wish.not_after, END}


def _usual(text: str) -> bool:
    address = ipaddress.ip_address(text)
    return not (address.is_multicast or address.is_unspecified)


def _check_subject(name: bytes) -> None:
    counts: dict[str, int] = {}
    for rdn in other.Name.load(name).chosen:
        assert 1 == len(rdn)
        type_, value = rdn[0]["type"].dotted, rdn[0]["value"]
        low, high, most, form = TYPES[type_]
        counts[type_] = counts.get(type_, 0) + 1
        assert counts[type_] <= most
        text = value.native
        assert low <= len(text) <= high
        if form is None:
            assert 0x16 == value.dump()[0]
        else:
            assert form == value.name
        assert type_ != "2.5.4.5" or re.fullmatch("[0-9]{3,6}", text)
        assert type_ != "2.5.4.6" or text == "DE"
    assert {"2.5.4.3", "2.5.4.6", "2.5.4.10"} <= set(counts)


def _allowed(name: str) -> bool:
    kind, value = name.split(":", 1)
    if kind == "ip":
        return value.startswith("9.")
    if kind == "uri":
        return value.startswith("https:")
    if kind in {"upn", "email"}:
        host = value.split("@")[1]
        domain = {"upn": "corp.example.org", "email": "example.org"}[kind]
        return host == domain or host.endswith("." + domain)
    if kind != "dns" or "secret.example.org" in value:
        return False
    if "*" in value:
        return value == "*.apps.example.org" or value.endswith(".apps.example.org")
    return value == "example.org" or value.endswith(".example.org")


def _check_extensions(found: tuple[bytes, ...]) -> None:
    seen = []
    for one in found:
        extension = other.Extension.load(one)
        oid = extension["extn_id"].dotted
        seen.append(oid)
        assert EXTENSIONS[oid] == extension["critical"].native
        value = bytes(extension["extn_value"].native) if oid == "1.2.3" else None
        assert value is None or len(value) <= 16
        if oid == "2.5.29.37":
            purposes = {part.dotted for part in extension["extn_value"].parsed}
            assert {"1.3.6.1.5.5.7.3.2"} <= purposes <= PURPOSES
        if oid == "2.5.29.19":
            assert not extension["extn_value"].parsed["ca"].native
    assert len(seen) == len(set(seen))
