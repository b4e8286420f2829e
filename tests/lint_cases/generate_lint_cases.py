"""
Write the lint cases: python tests/lint_cases/generate_lint_cases.py

Each case is a certificate or CRL made from one clean base by changing one thing, and the exact findings that
the lints give. The keys are of nobody (`chancery.pkix.trial.sample_key`) and signatures zeros: no lint verifies
one. What is written has to be read before it is committed: the generator writes what the lints say, and a
person says whether that is right.
"""

from __future__ import annotations

import base64
import datetime
import sys
import warnings
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "src"), str(HERE.parent)]

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chancery.asn1 import crl as crl_template
from chancery.asn1 import der, extensions, oids
from chancery.asn1 import x509 as t
from chancery.asn1.signature import ALGORITHMS
from chancery.pkix.key import spki_der
from chancery.pkix.lint import lint, lint_crl
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

CERTIFICATES = {
    "clean_tls_server": cert,
    "clean_ca": lambda: cert(**CA),
    "clean_root": lambda: cert(**{**CA, "aki": None}, issuer=CA_NAME),
    "clean_rsa": lambda: cert(spki=RSA),
    "version_1": lambda: cert(version=b"", **no_extensions()),
    "serial_negative": lambda: cert(serial=b"\x81" + b"\x22" * 16),
    "serial_zero": lambda: cert(serial=b"\x00"),
    "serial_21_octets": lambda: cert(serial=b"\x01" * 21),
    "serial_small": lambda: cert(serial=b"\x05"),
    "algorithms_differ": lambda: cert(inner=ECDSA),
    "algorithm_sha1": lambda: both(der.sequence(der.oid("1.2.840.113549.1.1.5"), der.null())),
    "algorithm_without_null": lambda: both(der.sequence(der.oid("1.2.840.113549.1.1.11"))),
    "time_generalized_before_2050": lambda: cert(
        validity=der.sequence(der.time(START), der.generalized_time(END))
    ),
    "validity_reversed": lambda: cert(validity=der.sequence(der.time(END), der.time(START))),
    "validity_of_server_201_days": lambda: cert(
        validity=der.sequence(der.time(START), der.time(START + 201 * DAY))
    ),
    "validity_of_server_825_days_and_a_second": lambda: cert(
        validity=der.sequence(der.time(START), der.time(START + 825 * DAY))
    ),
    "validity_of_server_825_days": lambda: cert(
        validity=der.sequence(der.time(START), der.time(START + 825 * DAY - datetime.timedelta(seconds=1)))
    ),
    "issuer_empty": lambda: cert(issuer=b"\x30\x00"),
    "subject_empty_san_not_critical": lambda: cert(subject=b"\x30\x00"),
    "subject_empty_san_critical": lambda: cert(
        subject=b"\x30\x00", san=t.subject_alt_name(("dns:www.example.org",), critical=True)
    ),
    "self_issued": lambda: cert(issuer=SUBJECT),
    "nameless": lambda: cert(subject=b"\x30\x00", san=None, eku=None),
    "ca_nameless": lambda: cert(**{**CA, "san": SAN, "subject": b"\x30\x00"}),
    "unique_identifier": lambda: cert(unique=b"\x81\x02\x00\x01"),
    "duplicate_extension": lambda: cert(extra=[SAN]),
    "extension_malformed": lambda: cert(san=ext(oids.SUBJECT_ALT_NAME, b"\x04\x01\x00")),
    "extension_not_der": lambda: cert(extra=[ext("1.2.3.4", b"\x02\x02\x00\x01")]),
    "unknown_critical": lambda: cert(extra=[ext("1.2.3.4", der.null(), critical=True)]),
    "unknown_not_critical": lambda: cert(extra=[ext("1.2.3.4", der.null())]),
    "ski_critical": lambda: cert(ski=ext(oids.SUBJECT_KEY_IDENTIFIER, der.octet_string(bytes(20)), critical=True)),
    "name_constraints_not_critical": lambda: cert(
        **CA, extra=[ext(oids.NAME_CONSTRAINTS, der.sequence(der.tlv(0xA0, der.sequence(b"\x82\x03a.b"))))]
    ),
    "ca_basic_constraints_not_critical": lambda: cert(
        **{**CA, "bc": ext(oids.BASIC_CONSTRAINTS, der.sequence(der.boolean(True)))}
    ),
    "path_length_without_ca": lambda: cert(
        bc=ext(oids.BASIC_CONSTRAINTS, der.sequence(der.integer(0)), critical=True)
    ),
    "ca_without_key_cert_sign": lambda: cert(**{**CA, "ku": t.key_usage((6,))}),
    "ca_without_key_usage": lambda: cert(**{**CA, "ku": None}),
    "key_cert_sign_without_ca": lambda: cert(ku=t.key_usage((0, 5))),
    "key_usage_not_critical": lambda: cert(ku=ext(oids.KEY_USAGE, der.named_bits((0,)))),
    "key_usage_empty": lambda: cert(ku=ext(oids.KEY_USAGE, b"\x03\x01\x00", critical=True)),
    "key_usage_of_ec": lambda: cert(ku=t.key_usage((0, 2))),
    "key_usage_of_ed25519": lambda: cert(spki=ED, ku=t.key_usage((0, 4))),
    "key_usage_of_ml_dsa": lambda: cert(spki=ML_DSA, ku=t.key_usage((0, 2))),
    "key_usage_of_ml_kem": lambda: cert(spki=ML_KEM, ku=t.key_usage((0, 2))),
    "key_usage_of_ml_kem_agreement": lambda: cert(spki=ML_KEM, ku=t.key_usage((4,))),
    "ml_kem": lambda: cert(spki=ML_KEM, ku=t.key_usage((2,))),
    "ml_kem_coefficient_too_large": lambda: cert(spki=ML_KEM[:-800] + b"\xff" * 800, ku=t.key_usage((2,))),
    "ml_dsa": lambda: cert(spki=ML_DSA),
    "key_usage_of_rsa": lambda: cert(spki=RSA, ku=t.key_usage((0, 4))),
    "ca_without_ski": lambda: cert(**CA, ski=None),
    "end_entity_without_ski": lambda: cert(ski=None),
    "without_aki": lambda: cert(aki=None),
    "aki_without_key": lambda: cert(aki=ext(oids.AUTHORITY_KEY_IDENTIFIER, b"\x30\x00")),
    "rsa_1024": lambda: cert(spki=rsa_spki((1 << 1023) | 1)),
    "rsa_even_exponent_r4": lambda: cert(spki=rsa_spki(MODULUS, 65537 << 240 | 1 << 260)),
    "rsa_small_factor_r4": lambda: cert(
        spki=rsa_spki(((1 << 2047) // 751) * 751 + 751 * (1 - (1 << 2047) // 751 % 2))
    ),
    "curve_secp256k1_r3": lambda: cert(spki=SECP256K1),
    "policy_twice": lambda: cert(policies=policies("1.2.3", "1.2.3")),
    "policy_once": lambda: cert(policies=policies("1.2.3")),
    "key_period_empty": lambda: cert(extra=[ext(oids.PRIVATE_KEY_USAGE_PERIOD, b"\x30\x00")]),
    "key_period_reversed": lambda: cert(extra=[t.private_key_usage_period(START + 2 * DAY, START + DAY)]),
    "key_period_outside": lambda: cert(extra=[t.private_key_usage_period(START, END + DAY)]),
    "country_as_utf8": lambda: cert(subject=attr(A["C"], der.UTF8_STRING, b"XX"), san=SAN, eku=None),
    "country_lower_case": lambda: cert(subject=attr(A["C"], der.PRINTABLE_STRING, b"xx"), eku=None),
    "country_of_three": lambda: cert(subject=attr(A["C"], der.PRINTABLE_STRING, b"XXX"), eku=None),
    "organisation_as_teletex": lambda: cert(subject=attr(A["O"], 0x14, b"a"), eku=None),
    "organisation_as_printable": lambda: cert(subject=attr(A["O"], der.PRINTABLE_STRING, b"a"), eku=None),
    "mail_attribute_as_utf8": lambda: cert(
        subject=attr(A["emailAddress"], der.UTF8_STRING, b"a@example.org"), eku=None
    ),
    "organisation_not_utf8": lambda: cert(subject=attr(A["O"], der.UTF8_STRING, b"\xff"), eku=None),
    "organisation_empty": lambda: cert(subject=attr(A["O"], der.UTF8_STRING, b""), eku=None),
    "organisation_65": lambda: cert(subject=attr(A["O"], der.UTF8_STRING, b"x" * 65), eku=None),
    "organisation_64_characters": lambda: cert(subject=attr(A["O"], der.UTF8_STRING, "ä".encode() * 64), eku=None),
    "common_name_twice": lambda: cert(
        subject=t.name(((A["CN"], "www.example.org"), (A["CN"], "www.example.org")))
    ),
    "rdn_of_two": lambda: cert(
        subject=der.sequence(
            der.set_of(
                [
                    der.sequence(der.oid(A["O"]), der.utf8_string("a")),
                    der.sequence(der.oid(A["OU"]), der.utf8_string("b")),
                ]
            )
        ),
        eku=None,
    ),
    "san_empty": lambda: cert(san=ext(oids.SUBJECT_ALT_NAME, b"\x30\x00"), eku=None),
    "san_underscore": lambda: cert(
        san=t.subject_alt_name(("dns:www.example.org", "dns:a_b.example"), critical=False)
    ),
    "san_trailing_dot": lambda: cert(
        san=t.subject_alt_name(("dns:www.example.org", "dns:www.example.org."), critical=False)
    ),
    "san_address_as_dns": lambda: cert(
        san=t.subject_alt_name(("dns:www.example.org", "dns:10.0.0.1"), critical=False)
    ),
    "san_relative_uri": lambda: cert(san=t.subject_alt_name(("dns:www.example.org", "uri:/a"), critical=False)),
    "san_bad_mailbox": lambda: cert(san=t.subject_alt_name(("dns:www.example.org", "email:a"), critical=False)),
    "san_network": lambda: cert(
        san=ext(oids.SUBJECT_ALT_NAME, der.sequence(t.general_name("dns:www.example.org"), b"\x87\x08" + bytes(8)))
    ),
    "san_twice": lambda: cert(
        san=t.subject_alt_name(("dns:www.example.org", "dns:www.example.org"), critical=False)
    ),
    "aia_https": lambda: cert(aia=t.authority_info_access("https://pki.example.org/ocsp", None)),
    "aia_directory_name": lambda: cert(
        aia=ext(
            oids.AUTHORITY_INFO_ACCESS,
            der.sequence(der.sequence(der.oid(oids.AD_OCSP), der.tlv(0xA4, SUBJECT))),
        )
    ),
    "cdp_ftp": lambda: cert(cdp=t.crl_distribution_points("ftp://pki.example.org/a.crl")),
    "cdp_reasons_only": lambda: cert(
        cdp=ext(oids.CRL_DISTRIBUTION_POINTS, der.sequence(der.sequence(b"\x81\x02\x06\x40")))
    ),
    "usages_inconsistent": lambda: cert(ku=t.key_usage((1,))),
    "any_usage_critical": lambda: cert(eku=t.extended_key_usage(("2.5.29.37.0",), critical=True)),
    "any_usage": lambda: cert(eku=t.extended_key_usage(("2.5.29.37.0",), critical=False)),
    "time_stamping_r25": lambda: cert(eku=t.extended_key_usage((EKU["timeStamping"],), critical=True), san=None),
    "time_stamping_not_critical_r25": lambda: cert(
        eku=t.extended_key_usage((EKU["timeStamping"],), critical=False), san=None
    ),
    "time_stamping_not_alone_r25": lambda: cert(
        eku=t.extended_key_usage((EKU["timeStamping"], EKU["clientAuth"]), critical=True), san=None
    ),
    "ocsp_signing_r20": lambda: cert(
        eku=t.extended_key_usage((EKU["OCSPSigning"],), critical=False), san=None, extra=[t.ocsp_nocheck()]
    ),
    "ocsp_signing_without_nocheck_r20": lambda: cert(
        eku=t.extended_key_usage((EKU["OCSPSigning"],), critical=False), san=None
    ),
    "ocsp_nocheck_misplaced": lambda: cert(extra=[t.ocsp_nocheck()]),
    "ocsp_signing_not_alone": lambda: cert(
        eku=t.extended_key_usage((EKU["OCSPSigning"], EKU["clientAuth"]), critical=False), extra=[t.ocsp_nocheck()]
    ),
    "server_without_san": lambda: cert(san=None),
    "common_name_not_in_san": lambda: cert(san=t.subject_alt_name(("dns:other.example",), critical=False)),
    "mail": lambda: cert(
        eku=t.extended_key_usage((EKU["emailProtection"],), critical=False),
        san=t.subject_alt_name(("email:a@example.org",), critical=False),
    ),
    "mail_without_address": lambda: cert(eku=t.extended_key_usage((EKU["emailProtection"],), critical=False)),
    "constraints_without_ca": lambda: cert(
        extra=[
            ext(oids.NAME_CONSTRAINTS, der.sequence(der.tlv(0xA0, der.sequence(b"\x82\x03a.b"))), critical=True),
            ext(oids.POLICY_CONSTRAINTS, der.sequence(b"\x80\x01\x00"), critical=True),
            mappings(("2.23.140.1.2.1", "1.2.3")),
            ext(oids.INHIBIT_ANY_POLICY, der.integer(0), critical=True),
        ]
    ),
    "name_constraints_empty": lambda: cert(**CA, extra=[ext(oids.NAME_CONSTRAINTS, b"\x30\x00", critical=True)]),
    "policy_constraints_empty": lambda: cert(
        **CA, extra=[ext(oids.POLICY_CONSTRAINTS, b"\x30\x00", critical=True)]
    ),
    "clean_cross_ca": lambda: cert(
        **{**CA, "policies": policies("1.2.3")},
        extra=[
            ext(oids.NAME_CONSTRAINTS, der.sequence(der.tlv(0xA0, der.sequence(b"\x82\x03a.b"))), critical=True),
            mappings(("1.2.3", "1.2.4")),
            ext(oids.POLICY_CONSTRAINTS, der.sequence(b"\x80\x01\x00"), critical=True),
            ext(oids.INHIBIT_ANY_POLICY, der.integer(0), critical=True),
        ],
    ),
    "policy_mapping_any": lambda: cert(**CA, extra=[mappings(("1.2.3", oids.ANY_POLICY), critical=False)]),
    "policy_mappings_malformed": lambda: cert(**CA, extra=[ext(oids.POLICY_MAPPINGS, b"\x30\x00", critical=True)]),
    "policy_notice_too_long": lambda: cert(
        policies=policy("1.3.6.1.5.5.7.2.2", der.sequence(der.utf8_string("x" * 201)))
    ),
    "policy_notice": lambda: cert(policies=policy("1.3.6.1.5.5.7.2.2", der.sequence(der.utf8_string("x" * 200)))),
    "policy_cps_not_uri": lambda: cert(policies=policy("1.3.6.1.5.5.7.2.1", der.tlv(der.IA5_STRING, b"cps"))),
    "freshest_crl": lambda: cert(extra=[ext(oids.FRESHEST_CRL, FRESHEST)]),
    "freshest_crl_critical_alone": lambda: cert(cdp=ext(oids.FRESHEST_CRL, FRESHEST, critical=True)),
    "usage_twice": lambda: cert(eku=t.extended_key_usage((EKU["serverAuth"],) * 2, critical=False)),
    "ski_65_octets": lambda: cert(ski=t.subject_key_identifier(bytes(65))),
    "must_staple": lambda: cert(extra=[ext(oids.TLS_FEATURE, MUST_STAPLE)]),
    "must_staple_critical_without_ocsp": lambda: cert(
        aia=t.authority_info_access(None, "http://pki.example.org/ca.cer"),
        extra=[ext(oids.TLS_FEATURE, MUST_STAPLE, critical=True)],
    ),
    "precertificate": lambda: cert(extra=[ext(oids.PRECERT_POISON, der.null(), critical=True)]),
    "precertificate_not_critical_with_scts": lambda: cert(
        extra=[ext(oids.PRECERT_POISON, der.null()), ext(oids.SCT_LIST, der.octet_string(b"\x00\x00"))]
    ),
    "qc_statements": lambda: cert(extra=[statements(oids.QC_COMPLIANCE, oids.QC_PDS)]),
    "qc_statements_critical_twice": lambda: cert(
        extra=[statements(oids.QC_COMPLIANCE, oids.QC_COMPLIANCE, critical=True)]
    ),
    "qc_type_unqualified": lambda: cert(extra=[statements(oids.QC_TYPE)]),
    "qc_statements_malformed": lambda: cert(extra=[ext(oids.QC_STATEMENTS, b"\x30\x00")]),
    "san_upn": lambda: cert(san=san_of(other_name(oids.UPN, der.utf8_string("olga@example.org")))),
    "san_upn_not_utf8": lambda: cert(san=san_of(other_name(oids.UPN, der.tlv(der.IA5_STRING, b"olga@example")))),
    "san_utf8_mailbox": lambda: cert(
        san=san_of(other_name(oids.SMTP_UTF8_MAILBOX, der.utf8_string("öl@example.org")))
    ),
    "san_utf8_mailbox_ascii": lambda: cert(
        san=san_of(other_name(oids.SMTP_UTF8_MAILBOX, der.utf8_string("olga@example.org")))
    ),
    "br_internal_name": lambda: cert(
        san=t.subject_alt_name(("dns:www.example.org", "dns:intranet", "ip:10.0.0.1"), critical=False)
    ),
    "br_no_policy": lambda: cert(policies=None),
    "br_status_nowhere": lambda: cert(aia=None, cdp=None),
    "br_short_lived": lambda: cert(
        aia=None, cdp=None, validity=der.sequence(der.time(START), der.time(START + 6 * DAY))
    ),
    "br_other_purpose": lambda: cert(
        eku=t.extended_key_usage((EKU["serverAuth"], EKU["codeSigning"]), critical=False)
    ),
    "br_key_type": lambda: cert(spki=ED),
    "br_ca_subject": lambda: cert(**{**CA, "subject": SUBJECT}),
}

AKI = t.authority_key_identifier(b"\x11" * 20)
NUMBER = crl_template.crl_number(7)
ENTRIES = (crl_template.entry(b"\x01" * 17, START - DAY, 4),)


def crl(
    *,
    version=b"\x02\x01\x01",
    inner=ED25519,
    outer=ED25519,
    issuer=ISSUER,
    times=None,
    entries=ENTRIES,
    revoked=None,
    extensions=(AKI, NUMBER),
):
    times = times if times is not None else der.time(START) + der.time(START + 7 * DAY)
    if revoked is None:
        revoked = der.sequence(*entries) if entries else b""
    tail = der.explicit(0, der.sequence(*extensions)) if extensions else b""
    return t.signed(der.sequence(version, inner, issuer, times, revoked, tail), outer, bytes(64))


def entry(*extensions):
    return der.sequence(der.tlv(2, b"\x02" * 17), der.time(START - DAY), der.sequence(*extensions))


CRLS = {
    "crl_clean": crl,
    "crl_clean_empty": lambda: crl(entries=()),
    "crl_clean_invalidity_date": lambda: crl(
        entries=(crl_template.entry(b"\x01" * 17, START, 1, START - 9 * DAY),)
    ),
    "crl_clean_partitioned_r15": lambda: crl(
        extensions=(AKI, NUMBER, crl_template.issuing_distribution_point("http://pki.example.org/a.crl"))
    ),
    "crl_version_1": lambda: crl(version=b"", extensions=()),
    "crl_algorithms_differ": lambda: crl(inner=ECDSA),
    "crl_issuer_empty": lambda: crl(issuer=b"\x30\x00"),
    "crl_generalized_before_2050": lambda: crl(times=der.generalized_time(START) + der.time(START + DAY)),
    "crl_without_next_update": lambda: crl(times=der.time(START)),
    "crl_next_update_reversed": lambda: crl(times=der.time(START) + der.time(START - DAY)),
    "crl_next_update_11_days_r15": lambda: crl(times=der.time(START) + der.time(START + 11 * DAY)),
    "crl_next_update_10_days_r15": lambda: crl(times=der.time(START) + der.time(START + 10 * DAY)),
    "crl_without_number": lambda: crl(extensions=(AKI,)),
    "crl_number_critical": lambda: crl(extensions=(AKI, ext(oids.CRL_NUMBER, der.integer(7), critical=True))),
    "crl_number_negative": lambda: crl(extensions=(AKI, ext(oids.CRL_NUMBER, der.integer(-7)))),
    "crl_number_21_octets": lambda: crl(extensions=(AKI, ext(oids.CRL_NUMBER, der.integer(1 << 161)))),
    "crl_without_aki": lambda: crl(extensions=(NUMBER,)),
    "crl_aki_without_key": lambda: crl(extensions=(ext(oids.AUTHORITY_KEY_IDENTIFIER, b"\x30\x00"), NUMBER)),
    "crl_duplicate_extension": lambda: crl(extensions=(AKI, NUMBER, NUMBER)),
    "crl_unknown_critical": lambda: crl(extensions=(AKI, NUMBER, ext("1.2.3.4", der.null(), critical=True))),
    "crl_idp_not_critical": lambda: crl(
        extensions=(AKI, NUMBER, ext(oids.ISSUING_DISTRIBUTION_POINT, der.sequence(b"\x81\x01\xff")))
    ),
    "crl_empty_list": lambda: crl(revoked=b"\x30\x00"),
    "crl_serial_twice": lambda: crl(entries=(crl_template.entry(b"\x01" * 17, START, 4),) * 2),
    "crl_revoked_later": lambda: crl(entries=(crl_template.entry(b"\x01" * 17, START + DAY, 4),)),
    "crl_revocation_date_generalized": lambda: crl(
        entries=(der.sequence(der.tlv(2, b"\x01" * 17), der.generalized_time(START)),)
    ),
    "crl_reason_unspecified_r15": lambda: crl(entries=(entry(ext(oids.CRL_REASON, der.enumerated(0))),)),
    "crl_reason_unknown": lambda: crl(entries=(entry(ext(oids.CRL_REASON, der.enumerated(7))),)),
    "crl_reason_removed": lambda: crl(entries=(entry(ext(oids.CRL_REASON, der.enumerated(8))),)),
    "crl_clean_delta": lambda: crl(
        entries=(entry(ext(oids.CRL_REASON, der.enumerated(8))),),
        extensions=(AKI, crl_template.crl_number(1000), crl_template.delta_crl_indicator(999)),
    ),
    "crl_delta_number": lambda: crl(
        extensions=(AKI, crl_template.crl_number(1000), crl_template.delta_crl_indicator(1000))
    ),
    "crl_delta_freshest": lambda: crl(
        extensions=(
            AKI,
            crl_template.crl_number(1000),
            crl_template.delta_crl_indicator(999),
            crl_template.freshest_crl("http://pki.example.org/delta.crl"),
        )
    ),
    "crl_reason_critical": lambda: crl(entries=(entry(ext(oids.CRL_REASON, der.enumerated(1), critical=True)),)),
    "crl_invalidity_date_fraction": lambda: crl(
        entries=(entry(ext(oids.INVALIDITY_DATE, der.tlv(der.GENERALIZED_TIME, b"20261101000000.5Z"))),)
    ),
    "crl_truncated": lambda: crl()[:-1],
    "crl_trailing": lambda: crl() + b"\x00",
}


def findings_of(data: bytes, *, is_crl: bool) -> list[str]:
    """One line for each finding: severity, code, detail, clause."""
    if is_crl:
        found = lint_crl(data)
    else:
        with warnings.catch_warnings():
            # pyca warns of serials that a case is about.
            warnings.simplefilter("ignore")
            found = lint(x509.load_der_x509_certificate(data))
    return [f"{one.severity.name} {one.code}: {one.detail} ({one.clause})" for one in found]


def pem(label: str, data: bytes) -> str:
    text = base64.b64encode(data).decode()
    lines = "\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    return f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n"


def generate() -> dict[str, str]:
    """Return the contents of every case file by its name."""
    made = {}
    for cases, label in ((CERTIFICATES, "CERTIFICATE"), (CRLS, "X509 CRL")):
        for name, make in cases.items():
            data = make()
            found = findings_of(data, is_crl=label != "CERTIFICATE")
            made[f"{name}.case"] = pem(label, data) + "\n" + "".join(f"{one}\n" for one in found)
    return made


if __name__ == "__main__":
    for file, text in generate().items():
        (HERE / file).write_text(text)
