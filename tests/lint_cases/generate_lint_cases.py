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
from lint_case_crls import CRLS
from lint_case_parts import (
    CA,
    CA_NAME,
    DAY,
    ECDSA,
    ED,
    EKU,
    END,
    FRESHEST,
    ML_DSA,
    ML_KEM,
    MODULUS,
    MUST_STAPLE,
    POINT,
    RSA,
    SAN,
    SECP256K1,
    START,
    SUBJECT,
    A,
    attr,
    both,
    cert,
    constraints,
    ext,
    mappings,
    no_extensions,
    other_name,
    policies,
    policy,
    rsa_spki,
    san_of,
    statements,
)

from chancery.asn1 import der, extensions, oids
from chancery.asn1 import x509 as t
from chancery.pkix.lint import lint, lint_crl

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
    "ocsp_nocheck_of_ca": lambda: cert(**CA, extra=[t.ocsp_nocheck()]),
    "ocsp_signing_not_alone": lambda: cert(
        eku=t.extended_key_usage((EKU["OCSPSigning"], EKU["clientAuth"]), critical=False), extra=[t.ocsp_nocheck()]
    ),
    "server_without_san": lambda: cert(san=None),
    "common_name_in_capitals": lambda: cert(subject=t.name(((A["CN"], "WWW.example.org"),))),
    "common_name_with_kelvin_sign": lambda: cert(
        subject=t.name(((A["CN"], "\u212a.example.org"),)),
        san=t.subject_alt_name(("dns:k.example.org",), critical=False),
    ),
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
    "san_utf8_mailbox_domain": lambda: cert(
        san=san_of(other_name(oids.SMTP_UTF8_MAILBOX, der.utf8_string("öl@EXÄMPLE.org")))
    ),
    "san_directory_name": lambda: cert(san=san_of(der.tlv(0xA4, t.name(((A["C"], "XX"), (A["CN"], "x")))))),
    "san_directory_name_empty": lambda: cert(san=san_of(b"\xa4\x02\x30\x00")),
    "san_directory_name_long": lambda: cert(san=san_of(der.tlv(0xA4, attr(A["O"], der.UTF8_STRING, b"x" * 65)))),
    "san_directory_name_not_ascii": lambda: cert(
        san=san_of(der.tlv(0xA4, attr(A["DC"], der.IA5_STRING, "ä".encode())))
    ),
    "san_critical": lambda: cert(san=t.subject_alt_name(("dns:www.example.org",), critical=True)),
    "organisation_with_null": lambda: cert(subject=attr(A["O"], der.UTF8_STRING, b"a\0b"), eku=None),
    "organisation_with_override": lambda: cert(
        subject=attr(A["O"], der.UTF8_STRING, "a\u202eb".encode()), eku=None
    ),
    "organisation_with_spaces": lambda: cert(subject=attr(A["O"], der.UTF8_STRING, b" a "), eku=None),
    "mail_attribute_no_mailbox": lambda: cert(subject=attr(A["emailAddress"], der.IA5_STRING, b"olga"), eku=None),
    "mail_attribute_in_san": lambda: cert(
        subject=attr(A["emailAddress"], der.IA5_STRING, b"Olga@EXAMPLE.org"),
        san=san_of(b"\x81\x10Olga@example.org"),
        eku=None,
    ),
    "mail_attribute_of_ca": lambda: cert(
        **{**CA, "subject": attr(A["emailAddress"], der.IA5_STRING, b"ca@example.org")}
    ),
    "domain_component": lambda: cert(subject=t.name(((A["DC"], "org"), (A["DC"], "ex-1"))), eku=None),
    "domain_component_of_two": lambda: cert(subject=attr(A["DC"], der.IA5_STRING, b"a.b"), eku=None),
    "key_usage_of_nine_bits": lambda: cert(ku=t.key_usage((0, 4, 8))),
    "key_usage_trailing_zeros": lambda: cert(ku=ext(oids.KEY_USAGE, b"\x03\x02\x00\x80", critical=True)),
    "key_usage_tenth_bit": lambda: cert(ku=ext(oids.KEY_USAGE, b"\x03\x03\x06\x80\x40", critical=True)),
    "key_usage_encipher_only_alone": lambda: cert(ku=t.key_usage((0, 7))),
    "crl_sign_without_ca": lambda: cert(ku=t.key_usage((0, 6))),
    "rsa_without_parameters": lambda: cert(
        spki=der.sequence(der.sequence(der.oid("1.2.840.113549.1.1.1")), der.elements(RSA)[1][1])
    ),
    "key_period_critical": lambda: cert(
        extra=[
            ext(oids.PRIVATE_KEY_USAGE_PERIOD, der.sequence(der.implicit(0, b"20261124120000Z")), critical=True)
        ]
    ),
    "empty_extensions": lambda: cert(
        policies=ext(oids.CERTIFICATE_POLICIES, b"\x30\x00"),
        aia=ext(oids.AUTHORITY_INFO_ACCESS, b"\x30\x00"),
        cdp=ext(oids.CRL_DISTRIBUTION_POINTS, b"\x30\x00"),
        extra=[
            ext(oids.ISSUER_ALT_NAME, b"\x30\x00"),
            ext(oids.FRESHEST_CRL, b"\x30\x00"),
            ext(oids.SUBJECT_INFO_ACCESS, b"\x30\x00"),
            ext(oids.SUBJECT_DIRECTORY_ATTRIBUTES, b"\x30\x00"),
        ],
    ),
    "directory_attributes": lambda: cert(
        extra=[extensions.subject_directory_attributes([("1.3.6.1.5.5.7.9.4", [der.printable_string("XX")])])]
    ),
    "directory_attributes_malformed": lambda: cert(extra=[ext(oids.SUBJECT_DIRECTORY_ATTRIBUTES, der.null())]),
    "name_constraints_clean": lambda: cert(
        **CA,
        extra=[
            constraints(
                t.general_name("dns:example.org"),
                b"\x81\x0bexample.org",
                b"\x81\x05.a.bc",
                b"\x81\x05a@b.c",
                b"\x86\x05.a.bc",
                b"\x82\x00",
                b"\x87\x08\x0a\0\0\0\xff\0\0\0",
                der.tlv(0xA4, SUBJECT),
            )
        ],
    ),
    "name_constraints_minimum": lambda: cert(**CA, extra=[constraints(b"\x82\x03a.b" + b"\x80\x01\x01")]),
    "name_constraints_uri_with_scheme": lambda: cert(**CA, extra=[constraints(b"\x86\x0ahttp://a.b")]),
    "name_constraints_wildcard": lambda: cert(**CA, extra=[constraints(b"\x82\x05*.a.b")]),
    "name_constraints_u_label": lambda: cert(**CA, extra=[constraints(der.tlv(0x82, "ä.example".encode()))]),
    "name_constraints_dot": lambda: cert(**CA, extra=[constraints(b"\x82\x04.a.b")]),
    "name_constraints_registered": lambda: cert(**CA, extra=[constraints(b"\x88\x02\x2a\x03")]),
    "name_constraints_mask": lambda: cert(**CA, extra=[constraints(b"\x87\x08\x0a\0\0\0\xff\0\xff\0")]),
    "name_constraints_of_one_host": lambda: cert(**CA, extra=[constraints(b"\x87\x04\x0a\0\0\0")]),
    "cdp_critical": lambda: cert(cdp=ext(oids.CRL_DISTRIBUTION_POINTS, FRESHEST, critical=True)),
    "cdp_some_reasons": lambda: cert(
        cdp=ext(oids.CRL_DISTRIBUTION_POINTS, der.sequence(der.sequence(POINT, b"\x81\x02\x06\x40")))
    ),
    "cdp_indirect": lambda: cert(
        cdp=ext(
            oids.CRL_DISTRIBUTION_POINTS, der.sequence(der.sequence(POINT, der.tlv(0xA2, der.tlv(0xA4, SUBJECT))))
        )
    ),
    "cdp_relative": lambda: cert(
        cdp=ext(
            oids.CRL_DISTRIBUTION_POINTS,
            der.sequence(
                der.sequence(der.tlv(0xA0, der.tlv(0xA1, der.sequence(der.oid(A["CN"]), der.utf8_string("x")))))
            ),
        )
    ),
    "cdp_ldap_without_host": lambda: cert(cdp=t.crl_distribution_points("ldap:///CN=x?crl")),
    "cdp_without_host": lambda: cert(cdp=t.crl_distribution_points("http:///a.crl")),
    "policy_qualifiers_empty": lambda: cert(
        policies=ext(oids.CERTIFICATE_POLICIES, der.sequence(der.sequence(der.oid("1.2.3"), der.sequence())))
    ),
    "policy_notice_ia5": lambda: cert(
        policies=policy(oids.QT_NOTICE, der.sequence(der.tlv(der.IA5_STRING, b"x")))
    ),
    "policy_notice_bmp": lambda: cert(
        policies=policy(oids.QT_NOTICE, der.sequence(der.tlv(der.BMP_STRING, b"\0x")))
    ),
    "policy_notice_not_nfc": lambda: cert(
        policies=policy(oids.QT_NOTICE, der.sequence(der.utf8_string("a\u0308")))
    ),
    "policy_notice_line_feed": lambda: cert(
        policies=policy(oids.QT_NOTICE, der.sequence(der.utf8_string("a\nb")))
    ),
    "policy_notice_reference": lambda: cert(
        policies=policy(
            oids.QT_NOTICE, der.sequence(der.sequence(der.utf8_string("x"), der.sequence(der.integer(1))))
        )
    ),
    "policy_cps_without_host": lambda: cert(policies=policy(oids.QT_CPS, der.tlv(der.IA5_STRING, b"http:///x"))),
    "ocsp_nocheck_critical": lambda: cert(
        eku=t.extended_key_usage((EKU["OCSPSigning"],), critical=False),
        san=None,
        extra=[ext(oids.OCSP_NOCHECK, der.null(), critical=True)],
    ),
    "tls_feature_empty": lambda: cert(extra=[ext(oids.TLS_FEATURE, b"\x30\x00")]),
    "br_organizational_unit_twice": lambda: cert(
        subject=t.name(((A["OU"], "a"), (A["OU"], "a"), (A["CN"], "www.example.org")))
    ),
    "br_ca_key_usage": lambda: cert(**{**CA, "ku": t.key_usage((2, 5))}, spki=RSA),
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
