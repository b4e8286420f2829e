"""The CRLs among the lint cases, each made from one clean base by changing one thing."""

from __future__ import annotations

from lint_case_parts import DAY, ECDSA, ED25519, ISSUER, START, ext

from chancery.asn1 import crl as crl_template
from chancery.asn1 import der, oids
from chancery.asn1 import x509 as t

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


def idp(*fields):
    return ext(oids.ISSUING_DISTRIBUTION_POINT, der.sequence(*fields), critical=True)


OTHER_ISSUER = ext(oids.CERTIFICATE_ISSUER, der.sequence(der.tlv(0xA4, ISSUER)), critical=True)
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
    "crl_idp_empty": lambda: crl(extensions=(AKI, NUMBER, idp())),
    "crl_idp_of_users_and_cas": lambda: crl(extensions=(AKI, NUMBER, idp(b"\x81\x01\xff", b"\x82\x01\xff"))),
    "crl_idp_false": lambda: crl(extensions=(AKI, NUMBER, idp(b"\x81\x01\x00"))),
    "crl_idp_relative": lambda: crl(
        extensions=(
            AKI,
            NUMBER,
            idp(der.tlv(0xA0, der.tlv(0xA1, der.sequence(der.oid("2.5.4.3"), der.utf8_string("x"))))),
        )
    ),
    "crl_number_trailing": lambda: crl(extensions=(AKI, ext(oids.CRL_NUMBER, der.integer(7) + b"\x00"))),
    "crl_freshest_empty": lambda: crl(extensions=(AKI, NUMBER, ext(oids.FRESHEST_CRL, der.sequence()))),
    "crl_aia_ocsp": lambda: crl(extensions=(AKI, NUMBER, t.authority_info_access("http://a.example/ocsp", None))),
    "crl_clean_aia": lambda: crl(
        extensions=(AKI, NUMBER, t.authority_info_access(None, "http://a.example/a.cer"))
    ),
    "crl_delta_base_negative": lambda: crl(extensions=(AKI, NUMBER, crl_template.delta_crl_indicator(-1))),
    "crl_entry_unknown_critical": lambda: crl(entries=(entry(ext("1.2.3.4", der.null(), critical=True)),)),
    "crl_entry_extension_twice": lambda: crl(entries=(entry(*[ext(oids.CRL_REASON, der.enumerated(1))] * 2),)),
    "crl_entry_extensions_empty": lambda: crl(entries=(entry(),)),
    "crl_entry_of_another_issuer": lambda: crl(entries=(entry(OTHER_ISSUER),)),
    "crl_clean_indirect": lambda: crl(
        entries=(entry(OTHER_ISSUER),), extensions=(AKI, NUMBER, idp(b"\x84\x01\xff"))
    ),
    "crl_invalidity_date_critical": lambda: crl(
        entries=(
            entry(ext(oids.INVALIDITY_DATE, der.tlv(der.GENERALIZED_TIME, b"20261101000000Z"), critical=True)),
        )
    ),
    "crl_serial_zero": lambda: crl(entries=(crl_template.entry(b"\x00", START, 4),)),
    "crl_serial_negative": lambda: crl(entries=(crl_template.entry(b"\x81" + bytes(16), START, 4),)),
    "crl_serial_21_octets": lambda: crl(entries=(crl_template.entry(b"\x01" * 21, START, 4),)),
    "crl_serial_of_one_octet": lambda: crl(entries=(crl_template.entry(b"\x05", START, 4),)),
    "crl_serial_not_minimal": lambda: crl(entries=(crl_template.entry(b"\x00\x05", START, 4),)),
    "crl_truncated": lambda: crl()[:-1],
    "crl_trailing": lambda: crl() + b"\x00",
}
