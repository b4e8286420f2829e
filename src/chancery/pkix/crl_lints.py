"""The CRL lints: one function, one clause. Each takes a `CRLView` and yields what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from chancery.asn1 import der, oids
from chancery.asn1.signature import BY_IDENTIFIER
from chancery.pkix.crl_view import CRLView
from chancery.pkix.finding import Finding, Severity
from chancery.pkix.view import EncodedExtension, EncodedTime, der_problem, encoded_time, read_extensions

CRLLint = Callable[[CRLView], Iterator[Finding]]
_CRITICAL = frozenset({oids.ISSUING_DISTRIBUTION_POINT, oids.DELTA_CRL_INDICATOR})
_KNOWN_OF_ENTRIES = frozenset({oids.CRL_REASON, oids.INVALIDITY_DATE, oids.CERTIFICATE_ISSUER})
_SEQUENCES = frozenset({oids.FRESHEST_CRL, oids.ISSUER_ALT_NAME, oids.AUTHORITY_INFO_ACCESS})
_REMOVED = 8
_REASONS = frozenset({1, 2, 3, 4, 5, 6, 8, 9, 10})


def _error(code: str, detail: str, clause: str) -> Finding:
    return Finding(Severity.ERROR, f"crl.{code}", detail, clause)


def version(crl: CRLView) -> Iterator[Finding]:
    """RFC 5280 5.1.2.1: version 2 when extensions are used."""
    if crl.version != 1:
        yield _error("version_not_2", "the version is absent or not 2", "RFC 5280 5.1.2.1")


def signature_algorithms(crl: CRLView) -> Iterator[Finding]:
    """RFC 5280 5.1.1.2: the two algorithm identifiers are the same, and current."""
    if crl.inner_algorithm != crl.outer_algorithm:
        yield _error("signature_algorithm_mismatch", "the two algorithm identifiers differ", "RFC 5280 5.1.1.2")
    if crl.inner_algorithm not in BY_IDENTIFIER:
        yield _error("signature_algorithm_not_accepted", "not a current signature algorithm", "RFC 5280 5.1.2.2")


def issuer_name(crl: CRLView) -> Iterator[Finding]:
    """RFC 5280 5.1.2.3: a non-empty name, encoded as the CA certificate's subject is."""
    if crl.issuer_name == b"\x30\x00":
        yield _error("issuer_empty", "the issuer has no name", "RFC 5280 5.1.2.3")
    if crl.issuer is not None and crl.issuer_name != crl.issuer.subject:
        yield _error("issuer_name_mismatch", "the issuer's name is not the CA's subject", "RFC 5280 5.1.2.3")


def update_encoding(crl: CRLView) -> Iterator[Finding]:
    """RFC 5280 5.1.2.4 and .5: times through 2049 as UTCTime, from 2050 as GeneralizedTime, whole seconds."""
    for field, time in (("thisUpdate", crl.this_update), ("nextUpdate", crl.next_update)):
        if time is not None and time.at is None:
            yield _error("update_encoding", f"{field} is {time.text!r}, tag {time.tag}", "RFC 5280 5.1.2.4")


def next_update(crl: CRLView) -> Iterator[Finding]:
    """RFC 5280 5.1.2.5, R15: nextUpdate is there, after thisUpdate, and not too far away."""
    if crl.next_update is None:
        yield _error("next_update_missing", "no nextUpdate", "RFC 5280 5.1.2.5")
        return
    if crl.this_update.at is None or crl.next_update.at is None:
        return
    if crl.next_update.at <= crl.this_update.at:
        yield _error("update_order", "nextUpdate is not after thisUpdate", "RFC 5280 5.1.2.5")
    if crl.next_update.at - crl.this_update.at > crl.longest:
        yield _error("next_update_too_late", f"nextUpdate is more than {crl.longest} after thisUpdate", "R15")


def number(crl: CRLView) -> Iterator[Finding]:
    """RFC 5280 5.2.3: a CRLNumber, not critical, not negative, of at most 20 octets (R15)."""
    found = crl.raw(oids.CRL_NUMBER)
    if found is None:
        yield _error("number_missing", "no CRLNumber", "RFC 5280 5.2.3")
        return
    octets = der.Reader(found.value).take(der.INTEGER)
    if found.critical:
        yield _error("number_critical", "CRLNumber is critical", "RFC 5280 5.2.3")
    if len(octets) > 20 or octets[0] & 0x80:
        yield _error("number_form", "CRLNumber is negative or longer than 20 octets", "RFC 5280 5.2.3")


def authority_key_identifier(crl: CRLView) -> Iterator[Finding]:
    """RFC 5280 5.2.1: an authorityKeyIdentifier with the key identifier of the CA's certificate."""
    found = crl.raw(oids.AUTHORITY_KEY_IDENTIFIER)
    if found is None:
        yield _error("aki_missing", "no authorityKeyIdentifier", "RFC 5280 5.2.1")
        return
    inner = der.Reader(found.value).enter()
    if inner.peek() != 0x80:
        yield _error("aki_without_key", "no keyIdentifier", "RFC 5280 5.2.1")
        return
    if crl.issuer is not None and inner.take(0x80) != crl.issuer.key_identifier:
        yield _error("aki_mismatch", "the keyIdentifier is not the issuer's", "RFC 5280 5.2.1")


def extensions(crl: CRLView) -> Iterator[Finding]:
    """RFC 5280 5.2: none stands twice; IDP and delta indicator are critical; no unknown one is."""
    found = [one.oid for one in crl.raw_extensions]
    for oid in dict.fromkeys(one for one in found if found.count(one) > 1):
        yield _error("duplicate_extension", f"the extension {oid} stands twice", "RFC 5280 5.2")
    for one in crl.raw_extensions:
        if one.critical != (one.oid in _CRITICAL) and one.oid != oids.CRL_NUMBER:
            word = "is" if one.critical else "is not"
            yield _error("extension_criticality", f"{one.oid} {word} critical", "RFC 5280 5.2")


def extension_values(crl: CRLView) -> Iterator[Finding]:
    """RFC 5280 5.2: each extension's value is DER; a sequence of at least one has one."""
    for one in crl.raw_extensions:
        if (problem := der_problem(one.value)) is not None:
            yield _error("extension_not_der", f"{one.oid}: {problem}", "RFC 5280 5.2")
        elif one.oid in _SEQUENCES and not der.content(one.value):
            yield _error("extension_empty", f"{one.oid} is an empty sequence", "RFC 5280 5.2")


def distribution_point(crl: CRLView) -> Iterator[Finding]:
    """RFC 5280 5.2.5: an issuingDistributionPoint says something, FALSE is absent, and one kind alone is TRUE."""
    found = crl.raw(oids.ISSUING_DISTRIBUTION_POINT)
    if found is None:
        return
    fields = dict(der.elements(found.value))
    flags = {tag: der.content(fields[tag]) for tag in (0x81, 0x82, 0x84, 0x85) if tag in fields}
    if not fields:
        yield _error("idp_empty", "an issuingDistributionPoint that says nothing", "RFC 5280 5.2.5")
    if set(flags.values()) - {b"\xff"}:
        yield _error("idp_default", "an issuingDistributionPoint that writes FALSE out", "X.690 11.5")
    if len(flags.keys() - {0x84}) > 1:
        yield _error("idp_kinds", "a CRL of two kinds of certificates alone", "RFC 5280 5.2.5")
    if 0xA0 in fields and der.content(fields[0xA0])[:1] == b"\xa1":
        detail = "a distribution point's name is relative to the issuer"
        yield Finding(Severity.WARNING, "crl.idp_relative", detail, "RFC 5280 4.2.1.13")


def information_access(crl: CRLView) -> Iterator[Finding]:
    """RFC 5280 5.2.7: a CRL's authorityInfoAccess says where its issuer's certificates are, and nothing else."""
    found = crl.raw(oids.AUTHORITY_INFO_ACCESS)
    descriptions = der.elements(found.value) if found is not None else []
    if any(der.Reader(one).enter().oid() != oids.AD_CA_ISSUERS for _, one in descriptions):
        yield _error("aia_method", "an access method other than caIssuers", "RFC 5280 5.2.7")


def delta(crl: CRLView) -> Iterator[Finding]:
    """RFC 5280 5.2.4, 5.2.6: a delta's number is above its base's, a CRL number; it names no delta of its own."""
    base, number_ = crl.raw(oids.DELTA_CRL_INDICATOR), crl.raw(oids.CRL_NUMBER)
    if base is None or number_ is None:
        return
    if der.Reader(base.value).integer() >= der.Reader(number_.value).integer():
        yield _error("delta_number", "the number of a delta is not above that of its base", "RFC 5280 5.2.4")
    if der.content(base.value)[0] & 0x80:
        yield _error("delta_base", "the number of a delta's base is negative", "RFC 5280 5.2.4")
    if crl.raw(oids.FRESHEST_CRL) is not None:
        yield _error("delta_freshest", "a delta names a freshestCRL", "RFC 5280 5.2.6")


def revoked_list(crl: CRLView) -> Iterator[Finding]:
    """RFC 5280 5.1.2.6: without revoked certificates the list is absent; no serial stands twice; each is one."""
    if crl.empty_list:
        yield _error("empty_list", "revokedCertificates is present and empty", "RFC 5280 5.1.2.6")
    if crl.odd_serials:
        # Not an error: what a CA that was taken over issued can be revoked.
        detail = "a serial number that is not positive, or of more than 20 octets"
        yield Finding(Severity.WARNING, "crl.serial_form", detail, "RFC 5280 4.1.2.2")
    if crl.repeated:
        yield _error("serial_repeated", "a serial number stands twice", "RFC 5280 5.1.2.6")


def _entries(crl: CRLView) -> Iterator[tuple[EncodedTime, tuple[EncodedExtension, ...]]]:
    for tail in sorted(crl.tails):
        reader = der.Reader(tail)
        time = encoded_time(reader)
        found = read_extensions(reader.enter()) if reader else ()
        reader.done()
        yield time, found


def entry_dates(crl: CRLView) -> Iterator[Finding]:
    """RFC 5280 5.1.2.6: revocationDate in the form of Time; nothing is revoked after thisUpdate."""
    for time, _ in _entries(crl):
        if time.at is None:
            yield _error("revocation_date", f"revocationDate is {time.text!r}", "RFC 5280 5.1.2.6")
        elif crl.this_update.at is not None and time.at > crl.this_update.at:
            # Not an error: a clock that was put back must not keep a revocation from being published.
            detail = f"revoked at {time.text}, after thisUpdate"
            yield Finding(Severity.WARNING, "crl.revoked_later", detail, "RFC 5280 5.1.2.6")


def entry_reasons(crl: CRLView) -> Iterator[Finding]:
    """RFC 5280 5.3.1, R15: reasonCode 0 is absent; another is one of the enumeration; not critical."""
    for _, found in _entries(crl):
        for one in found:
            if one.oid != oids.CRL_REASON:
                continue
            value = int.from_bytes(der.Reader(one.value).take(der.ENUMERATED), "big", signed=True)
            if value == 0:
                yield _error("reason_unspecified", "reasonCode 0 is written out", "RFC 5280 5.3.1")
            elif value == _REMOVED and crl.raw(oids.DELTA_CRL_INDICATOR) is None:
                yield _error("reason_removed", "removeFromCRL on a CRL that is no delta", "RFC 5280 5.3.1")
            elif value not in _REASONS:
                yield _error("reason_unknown", f"reasonCode {value}", "RFC 5280 5.3.1")
            if one.critical:
                yield _error("reason_critical", "reasonCode is critical", "RFC 5280 5.3")


def entry_extensions(crl: CRLView) -> Iterator[Finding]:
    """RFC 5280 5.1.2.6, 5.3: no empty extensions, none twice; none critical but certificateIssuer."""
    if any(tail.endswith(b"Z\x30\x00") for tail in crl.tails):
        yield _error("entry_extensions_empty", "crlEntryExtensions without an extension", "RFC 5280 5.1.2.6")
    for _, found in _entries(crl):
        types = [one.oid for one in found]
        if len(set(types)) != len(types):
            yield _error("entry_extension_repeated", "an extension of an entry stands twice", "RFC 5280 5.3")
        for one in found:
            if one.critical and one.oid not in _KNOWN_OF_ENTRIES:
                yield _error("entry_extension_critical", f"{one.oid} is critical", "RFC 5280 5.3")


def entry_issuer(crl: CRLView) -> Iterator[Finding]:
    """RFC 5280 5.3.3: certificateIssuer is critical, in indirect CRLs alone."""
    point = crl.raw(oids.ISSUING_DISTRIBUTION_POINT)
    indirect = point is not None and 0x84 in dict(der.elements(point.value))
    for _, found in _entries(crl):
        for one in found:
            if one.oid == oids.CERTIFICATE_ISSUER and not (one.critical and indirect):
                detail = "certificateIssuer that is not critical, or in what is no indirect CRL"
                yield _error("certificate_issuer", detail, "RFC 5280 5.3.3")


def entry_invalidity(crl: CRLView) -> Iterator[Finding]:
    """RFC 5280 5.3.2: invalidityDate is GeneralizedTime in whole seconds, Zulu, not critical."""
    for _, found in _entries(crl):
        for one in found:
            if one.oid != oids.INVALIDITY_DATE:
                continue
            if one.critical:
                yield _error("invalidity_critical", "invalidityDate is critical", "RFC 5280 5.3.2")
            text = der.Reader(one.value).take(der.GENERALIZED_TIME)
            if len(text) != 15 or not text.endswith(b"Z") or not text[:-1].isdigit():
                yield _error("invalidity_date", "invalidityDate is not YYYYMMDDHHMMSSZ", "RFC 5280 5.3.2")


LINTS: tuple[CRLLint, ...] = (
    version,
    signature_algorithms,
    issuer_name,
    update_encoding,
    next_update,
    number,
    authority_key_identifier,
    extensions,
    extension_values,
    distribution_point,
    information_access,
    delta,
    revoked_list,
    entry_dates,
    entry_extensions,
    entry_issuer,
    entry_reasons,
    entry_invalidity,
)
