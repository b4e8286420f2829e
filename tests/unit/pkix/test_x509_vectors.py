"""The DER templates against OpenSSL and pyca: the same inputs give the same bytes (tests/vectors/x509)."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from chancery.asn1 import crl as crl_template
from chancery.asn1 import der, extensions, oids
from chancery.asn1 import x509 as template
from chancery.errors import PKIError
from chancery.pkix.key import spki_der

VECTORS = Path(__file__).parents[2] / "vectors" / "x509"
START = datetime.datetime(2026, 11, 24, 12, 0, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
SERIAL = b"\x01" + bytes(range(16))
A, EKU = oids.ATTRIBUTES, oids.EXTENDED_KEY_USAGES
ISSUER = template.name(((A["C"], "XX"), (A["O"], "Beispiel AG"), (A["CN"], "Issuing")))
SUBJECT = (
    (A["C"], "XX"),
    (A["L"], "Zürich"),
    (A["DC"], "example"),
    (A["serialNumber"], "17"),
    (A["CN"], "www.example.org"),
    (A["emailAddress"], "a@example.org"),
)
ECDSA = der.sequence(der.oid("1.2.840.10045.4.3.2"))
AKI = template.authority_key_identifier(b"\x11" * 20)
SKI = template.subject_key_identifier(b"\x22" * 20)


def _vector(name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((VECTORS / f"{name}.pem").read_bytes())


def _same(vector: x509.Certificate, **fields) -> None:
    made = template.tbs_certificate(
        **{
            "serial": SERIAL,
            "algorithm": ECDSA,
            "issuer": ISSUER,
            "not_before": START,
            "subject": template.name(SUBJECT),
            "spki": spki_der(vector.public_key()),
            **fields,
        }
    )
    assert vector.tbs_certificate_bytes == made
    whole = vector.public_bytes(Encoding.DER)
    assert whole == template.signed(made, ECDSA, vector.signature)
    assert (made, ECDSA, vector.signature) == template.split_signed(whole)
    assert (
        fields.get("subject", template.name(SUBJECT)),
        spki_der(vector.public_key()),
    ) == template.subject_fields(whole)


def test_a_server_certificate_of_pyca():
    _same(
        _vector("pyca-server"),
        not_after=START + 199 * DAY - datetime.timedelta(seconds=1),
        extensions=[
            template.basic_constraints(ca=False, path_length=None),
            template.key_usage((0,)),
            template.extended_key_usage((EKU["serverAuth"], EKU["clientAuth"]), critical=False),
            template.subject_alt_name(
                (
                    "dns:www.example.org",
                    "ip:10.0.0.1",
                    "ip:2001:db8::1",
                    "email:a@example.org",
                    "uri:https://www.example.org/",
                ),
                critical=False,
            ),
            extensions.certificate_policies([("1.3.6.1.4.1.99999.1", None, None)], critical=False),
            SKI,
            AKI,
            template.authority_info_access("http://ocsp.example.org/", "http://pki.example.org/ca.cer"),
            template.crl_distribution_points("http://pki.example.org/a.crl"),
        ],
    )


def test_a_ca_certificate_of_pyca_that_ends_after_2050():
    _same(
        _vector("pyca-ca"),
        not_after=datetime.datetime(2051, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
        extensions=[
            template.basic_constraints(ca=True, path_length=0),
            template.key_usage((5, 6)),
            SKI,
            AKI,
        ],
    )


def test_a_delegates_certificate_of_pyca():
    _same(
        _vector("pyca-delegate"),
        not_after=START + 30 * DAY,
        subject=b"\x30\x00",
        extensions=[
            template.key_usage((0, 1)),
            template.extended_key_usage((EKU["OCSPSigning"],), critical=True),
            template.private_key_usage_period(START, START + 9 * DAY),
            template.ocsp_nocheck(),
        ],
    )


OPENSSL_NAME = template.name(((A["C"], "XX"), (A["L"], "Zürich"), (A["CN"], "www.example.org")))


def test_a_root_of_openssl():
    root = _vector("openssl-root")
    _same(
        root,
        issuer=OPENSSL_NAME,
        subject=OPENSSL_NAME,
        not_before=root.not_valid_before_utc,
        not_after=root.not_valid_after_utc,
        extensions=[template.basic_constraints(ca=True, path_length=None), template.key_usage((5, 6)), SKI],
    )


def test_a_server_certificate_of_openssl():
    server = _vector("openssl-server")
    _same(
        server,
        issuer=OPENSSL_NAME,
        subject=OPENSSL_NAME,
        not_before=server.not_valid_before_utc,
        not_after=server.not_valid_after_utc,
        extensions=[
            template.basic_constraints(ca=False, path_length=None),
            template.key_usage((0, 2)),
            template.extended_key_usage((EKU["serverAuth"],), critical=False),
            template.subject_alt_name(
                ("dns:www.example.org", "ip:10.0.0.1", "email:a@example.org", "uri:https://www.example.org/"),
                critical=False,
            ),
            SKI,
            template.authority_info_access("http://ocsp.example.org/", "http://pki.example.org/ca.cer"),
            template.crl_distribution_points("http://pki.example.org/a.crl"),
            extensions.certificate_policies([("1.3.6.1.4.1.99999.1", None, None)], critical=False),
            template.authority_key_identifier(b"\x22" * 20),
        ],
    )


def _crl(name: str) -> x509.CertificateRevocationList:
    return x509.load_pem_x509_crl((VECTORS / f"{name}.pem").read_bytes())


def _serial(add: int) -> bytes:
    return (int.from_bytes(SERIAL, "big") + add).to_bytes(17, "big")


HOUR = datetime.timedelta(hours=1)


def _point(*, only_user: bool) -> bytes:
    """As pyca encodes it."""
    name = [x509.UniformResourceIdentifier("http://pki.example.org/a.crl")]
    value = x509.IssuingDistributionPoint(name, None, only_user, False, None, False, False)
    return template.extension(oids.ISSUING_DISTRIBUTION_POINT, value.public_bytes(), critical=True)


@pytest.mark.parametrize(
    ("name", "entries", "extra"),
    [
        ("pyca-empty-crl", (), None),
        (
            "pyca-full-crl",
            (
                crl_template.entry(_serial(1), START - HOUR, 1, START - 30 * DAY),
                crl_template.entry(_serial(2), START - 2 * HOUR, 0),
                crl_template.entry(_serial(3), START - 3 * HOUR, 10),
                crl_template.entry(_serial(4), START - 4 * HOUR, None, START - DAY),
            ),
            _point(only_user=True),
        ),
    ],
)
def test_a_crl_of_pyca(name, entries, extra):
    vector = _crl(name)
    extensions = crl_template.crl_extensions(255, b"\x11" * 20, extra)
    revoked = b"".join(entries)
    head, tail = crl_template.tbs_ends((ECDSA, ISSUER), (START, START + 7 * DAY), len(revoked), extensions)
    made = head + revoked + tail
    assert vector.tbs_certlist_bytes == made
    assert vector.public_bytes(Encoding.DER) == template.signed(made, ECDSA, vector.signature)


def test_the_distribution_point_of_a_shard():
    assert _point(only_user=False) == crl_template.issuing_distribution_point("http://pki.example.org/a.crl")


def test_the_key_identifier_is_rfc_7093_method_1():
    certificate = _vector("pyca-server")
    point = certificate.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    assert hashlib.sha256(point).digest()[:20] == template.key_identifier(spki_der(certificate.public_key()))


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(set(A.values()))), st.text("abcXYZ 0123-.", min_size=1, max_size=20)),
        max_size=6,
    )
)
def test_names_are_read_as_they_were_written(attributes):
    written = template.name(attributes)
    assert tuple(attributes) == template.read_name(written)
    der.check(written)


@given(st.binary(max_size=60))
def test_reading_a_name_fails_in_one_way(data):
    with contextlib.suppress(PKIError):
        template.read_name(data)


@pytest.mark.parametrize("attribute", ["C", "serialNumber"])
def test_text_outside_printable_string_is_refused(attribute):
    with pytest.raises(ValueError, match="PrintableString"):
        template.rdn(A[attribute], "a_b")


def test_a_general_name_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="not a general name"):
        template.general_name("x400:1.2.3")


@pytest.mark.parametrize(
    "data", [b"", b"\x30\x00", b"\x30\x04\x30\x00\x30\x00", b"\x30\x06\x30\x00\x30\x00\x03\x00"]
)
def test_what_is_not_signed_is_not_split(data):
    with pytest.raises(PKIError):
        template.split_signed(data)


@given(st.binary(min_size=1, max_size=200), st.sampled_from([None, 0, 1, 10]), st.booleans())
def test_an_entry_is_the_same_whatever_its_length(serial, reason, invalid):
    date = START - DAY if invalid else None
    tail = crl_template.entry_tail(START, reason, date)
    expected = der.sequence(der.tlv(der.INTEGER, serial), tail)
    assert expected == crl_template.entry(serial, START, reason, date)
