"""The settings of a whole installation, and what its own certificates are called."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from cryptography import x509

from cakit import key
from chancery.asn1.signature import KeySigner
from chancery.audit.note import key_id
from chancery.cli.suite import Suite, subject
from chancery.config import KeyKind
from chancery.errors import PKIError
from chancery.pkix.name import parse_name

TITLES = ("Root CA", "Issuing CA", "OCSP Responder", "Timestamping Authority", "Administrator")


@pytest.mark.parametrize(
    "organization",
    ["Example", 'A "B" Ltd', "A; B", "<A>", "#1", "a=b", "a\\b, c + d", "Müller & Söhne", "M" * 41],
)
@pytest.mark.parametrize("title", TITLES)
def test_an_organization_may_be_called_anything(organization, title):
    name = parse_name(subject(msgspec.convert({"organization": organization}, Suite), title))
    assert [organization] == [one.value for one in name.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME)]
    assert [f"{organization} {title}"] == [
        one.value for one in name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    ]


@pytest.mark.parametrize("kind", [*get_args(KeyKind)])
def test_the_journal_has_a_key_that_checkpoints_can_be_signed_with_or_there_is_no_start(kind):
    signer = KeySigner(key("journal", kind))
    try:
        key_id("log", signer.public_key)
    except PKIError:
        with pytest.raises(msgspec.ValidationError, match="journal_key"):
            msgspec.convert({"journal_key": kind}, Suite)
    else:
        assert kind == msgspec.convert({"journal_key": kind}, Suite).journal_key


@pytest.mark.parametrize("organization", ["", " a", "a ", "a\nb", "a\n", "a\u00a0b", "M" * 42])
def test_what_no_certificate_can_carry_is_refused_before_anything_is_made(organization):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"organization": organization}, Suite)


@pytest.mark.parametrize("host", ["", "bad host", "-a", "a/b", "a:1", "a\n", "::1", "https://a"])
def test_a_host_that_no_url_can_carry_is_refused_before_anything_is_made(host):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"host": host}, Suite)


@pytest.mark.parametrize("host", ["localhost", "pki.example.org", "192.0.2.1", "a"])
def test_a_host_is_a_name_or_an_address(host):
    assert host == msgspec.convert({"host": host}, Suite).host
