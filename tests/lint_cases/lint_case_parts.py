"""What the lint cases are made of: one clean certificate, and whatever stands in it."""

from __future__ import annotations

import datetime

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chancery.asn1 import der, extensions, oids
from chancery.asn1 import x509 as t
from chancery.asn1.signature import ALGORITHMS
from chancery.pkix.key import spki_der
from chancery.pkix.trial import sample_key

START = datetime.datetime(2026, 11, 24, 12, 0, tzinfo=datetime.UTC)
END = START + datetime.timedelta(days=199, seconds=-1)
DAY = datetime.timedelta(days=1)
ED25519 = ALGORITHMS["Ed25519"].identifier
ECDSA = ALGORITHMS["ecdsa-with-SHA256"].identifier
A = oids.ATTRIBUTES
EKU = oids.EXTENDED_KEY_USAGES
ISSUER = t.name(((A["C"], "XX"), (A["CN"], "Issuing")))
SUBJECT = t.name(((A["CN"], "www.example.org"),))
SPKI = spki_der(sample_key("ec-p256"))


def policies(*oids_: str) -> bytes:
    return extensions.certificate_policies([(one, None, None) for one in oids_], critical=False)


SAN = t.subject_alt_name(("dns:www.example.org",), critical=False)
BASE = {
    "bc": t.basic_constraints(ca=False, path_length=None),
    "ku": t.key_usage((0,)),
    "eku": t.extended_key_usage((EKU["serverAuth"],), critical=False),
    "san": SAN,
    "ski": t.subject_key_identifier(t.key_identifier(SPKI)),
    "aki": t.authority_key_identifier(b"\x11" * 20),
    "aia": t.authority_info_access("http://pki.example.org/ocsp", "http://pki.example.org/ca.cer"),
    "cdp": t.crl_distribution_points("http://pki.example.org/a.crl"),
    "policies": policies("2.23.140.1.2.1"),
}
CA_NAME = t.name(((A["C"], "XX"), (A["O"], "Example"), (A["CN"], "Sub")))
CA = {
    "subject": CA_NAME,
    "bc": t.basic_constraints(ca=True, path_length=0),
    "ku": t.key_usage((5, 6)),
    "eku": None,
    "san": None,
    "policies": None,
}


def tbs(
    *,
    version=b"\xa0\x03\x02\x01\x02",
    serial=b"\x01" + b"\x22" * 16,
    inner=ED25519,
    issuer=ISSUER,
    validity=None,
    subject=SUBJECT,
    spki=SPKI,
    unique=b"",
    extra=(),
    **extensions,
):
    found = [one for one in {**BASE, **extensions}.values() if one is not None] + list(extra)
    validity = validity or der.sequence(der.time(START), der.time(END))
    tail = der.explicit(3, der.sequence(*found)) if found else b""
    return der.sequence(version, der.tlv(2, serial), inner, issuer, validity, subject, spki, unique, tail)


def cert(outer=ED25519, **rest):
    return t.signed(tbs(**rest), outer, bytes(64))


def both(algorithm):
    return cert(inner=algorithm, outer=algorithm)


def ext(oid, value, critical=False):
    return t.extension(oid, value, critical=critical)


def no_extensions():
    return dict.fromkeys(BASE)


def attr(oid, tag, value):
    return der.sequence(der.tlv(der.SET, der.sequence(der.oid(oid), der.tlv(tag, value))))


def utctime(text):
    return der.tlv(der.UTC_TIME, text)


def rsa_spki(n, e=65537):
    key = der.sequence(der.integer(n), der.integer(e))
    algorithm = der.sequence(der.oid("1.2.840.113549.1.1.1"), der.null())
    return der.sequence(algorithm, der.bit_string(key))


def policy(qualifier_oid, value):
    information = der.sequence(der.oid("1.2.3"), der.sequence(der.sequence(der.oid(qualifier_oid), value)))
    return ext(oids.CERTIFICATE_POLICIES, der.sequence(information))


def mappings(*pairs, critical=True):
    encoded = [der.sequence(der.oid(issuers), der.oid(subjects)) for issuers, subjects in pairs]
    return ext(oids.POLICY_MAPPINGS, der.sequence(*encoded), critical=critical)


def statements(*found, critical=False):
    return ext(oids.QC_STATEMENTS, der.sequence(*(der.sequence(der.oid(one)) for one in found)), critical=critical)


def san_of(*names):
    return ext(oids.SUBJECT_ALT_NAME, der.sequence(t.general_name("dns:www.example.org"), *names))


def other_name(oid, value):
    return der.tlv(0xA0, der.oid(oid) + der.tlv(0xA0, value))


def constraints(*bases):
    """NameConstraints that permit these subtrees (the contents of each in DER)."""
    return ext(oids.NAME_CONSTRAINTS, der.sequence(der.tlv(0xA0, *map(der.sequence, bases))), critical=True)


POINT = der.tlv(0xA0, der.tlv(0xA0, t.general_name("uri:http://pki.example.org/a.crl")))
MUST_STAPLE = der.sequence(der.integer(5))
FRESHEST = der.sequence(der.sequence(der.tlv(0xA0, der.tlv(0xA0, t.general_name("uri:http://a.example/d.crl")))))
MODULUS = sample_key("rsa-2048").public_numbers().n
RSA = spki_der(sample_key("rsa-2048"))
SECP256K1 = (
    ec.derive_private_key(3, ec.SECP256K1())
    .public_key()
    .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
)
ED = spki_der(sample_key("ed25519"))
ML_DSA = spki_der(sample_key("ml-dsa-44"))
ML_KEM = spki_der(sample_key("ml-kem-512"))
