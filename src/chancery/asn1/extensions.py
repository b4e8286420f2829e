"""
The less common certificate extensions: each function returns the DER of one Extension or of its value's parts.

And what a CSR asks for (RFC 2985 5.4.2): its extensionRequest attribute, as it stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from chancery.asn1 import der, oids
from chancery.asn1.x509 import PRINTABLE_TEXT, extension

MAX_REQUESTED = 64
"""Extensions that a CSR may ask for."""
_STRINGS = {"utf8": (der.UTF8_STRING, "utf-8"), "printable": (der.PRINTABLE_STRING, "ascii")}
_STRINGS |= {"ia5": (der.IA5_STRING, "ascii")}


def text(type_: str, value: str) -> bytes:
    """A `utf8`, `printable` or `ia5` string; ValueError for characters that the type does not hold."""
    tag, encoding = _STRINGS[type_]
    if tag == der.PRINTABLE_STRING and not PRINTABLE_TEXT.fullmatch(value):
        raise ValueError(f"{value!r} is not a PrintableString")
    return der.tlv(tag, value.encode(encoding))


def certificate_policies(policies: Iterable[tuple[str, str | None, str | None]], *, critical: bool) -> bytes:
    """
    CertificatePolicies of (OID, CPS URI, explicit text) (RFC 5280 4.2.1.4).

        PolicyInformation ::= SEQUENCE { policyIdentifier OID,
                                         policyQualifiers SEQUENCE OF PolicyQualifierInfo OPTIONAL }
    """
    found = []
    for oid, cps, notice in policies:
        qualifiers = []
        if cps is not None:
            qualifiers.append(der.sequence(der.oid(oids.QT_CPS), text("ia5", cps)))
        if notice is not None:
            user_notice = der.sequence(text("utf8", notice))
            qualifiers.append(der.sequence(der.oid(oids.QT_NOTICE), user_notice))
        found.append(der.sequence(der.oid(oid), *((der.sequence(*qualifiers),) if qualifiers else ())))
    return extension(oids.CERTIFICATE_POLICIES, der.sequence(*found), critical=critical)


def policy_mappings(pairs: Iterable[tuple[str, str]], *, critical: bool) -> bytes:
    """PolicyMappings of (issuerDomainPolicy, subjectDomainPolicy) (RFC 5280 4.2.1.5)."""
    found = [der.sequence(der.oid(issuer), der.oid(subject)) for issuer, subject in pairs]
    return extension(oids.POLICY_MAPPINGS, der.sequence(*found), critical=critical)


def policy_constraints(require_explicit: int | None, inhibit_mapping: int | None) -> bytes:
    """PolicyConstraints, critical (RFC 5280 4.2.1.11)."""
    both = enumerate((require_explicit, inhibit_mapping))
    found = [der.implicit(number, der.integer_octets(skip)) for number, skip in both if skip is not None]
    return extension(oids.POLICY_CONSTRAINTS, der.sequence(*found), critical=True)


def inhibit_any_policy(skip: int) -> bytes:
    """InhibitAnyPolicy, critical (RFC 5280 4.2.1.14)."""
    return extension(oids.INHIBIT_ANY_POLICY, der.integer(skip), critical=True)


def name_constraints(permitted: Sequence[bytes], excluded: Sequence[bytes]) -> bytes:
    """NameConstraints of GeneralNames (DER), critical; minimum is 0 and absent (RFC 5280 4.2.1.10)."""
    found = [
        der.implicit(number, b"".join(map(der.sequence, names)), constructed=True)
        for number, names in ((0, permitted), (1, excluded))
        if names
    ]
    return extension(oids.NAME_CONSTRAINTS, der.sequence(*found), critical=True)


def subject_directory_attributes(attributes: Iterable[tuple[str, Sequence[bytes]]]) -> bytes:
    """SubjectDirectoryAttributes of (type, values in DER), never critical (RFC 5280 4.2.1.8)."""
    found = [der.sequence(der.oid(type_), der.set_of(values)) for type_, values in attributes]
    return extension(oids.SUBJECT_DIRECTORY_ATTRIBUTES, der.sequence(*found))


def subject_info_access(descriptions: Iterable[tuple[str, str]]) -> bytes:
    """SubjectInfoAccessSyntax of (method OID, URI), never critical (RFC 5280 4.2.2.2)."""
    found = [der.sequence(der.oid(method), der.implicit(6, uri.encode("ascii"))) for method, uri in descriptions]
    return extension(oids.SUBJECT_INFO_ACCESS, der.sequence(*found))


def tls_feature(numbers: Iterable[int]) -> bytes:
    """Features: SEQUENCE OF INTEGER, the numbers of TLS extensions, not critical (RFC 7633 4.1)."""
    return extension(oids.TLS_FEATURE, der.sequence(*map(der.integer, sorted(numbers))))


def qc_statement(oid: str, *information: bytes) -> bytes:
    """QCStatement: SEQUENCE { statementId, statementInfo OPTIONAL } (RFC 3739 3.2.6)."""
    return der.sequence(der.oid(oid), *information)


def qc_statements(statements: Iterable[bytes]) -> bytes:
    """QCStatements, not critical (EN 319 412-5 4.1)."""
    return extension(oids.QC_STATEMENTS, der.sequence(*statements))


def microsoft_template_name(name: str) -> bytes:
    """Name of a template of version 1, a BMPString ([MS-WCCE] 2.2.2.7.7.1)."""
    return extension(oids.MS_TEMPLATE_NAME, der.tlv(der.BMP_STRING, name.encode("utf-16-be")))


def microsoft_template(oid: str, major: int, minor: int) -> bytes:
    """CertificateTemplateOID: SEQUENCE { templateID, major, minor } ([MS-WCCE] 2.2.2.7.7.2)."""
    value = der.sequence(der.oid(oid), der.integer(major), der.integer(minor))
    return extension(oids.MS_TEMPLATE, value)


def application_policies(policies: Iterable[str]) -> bytes:
    """Application policies: the syntax of CertificatePolicies ([MS-WCCE] 2.2.2.7.7.3)."""
    return extension(oids.MS_APPLICATION_POLICIES, der.sequence(*(der.sequence(der.oid(one)) for one in policies)))


def ct_poison() -> bytes:
    """The poison of a precertificate: NULL, critical, so that nobody takes it for a certificate (RFC 6962 3.1)."""
    return extension(oids.PRECERT_POISON, der.null(), critical=True)


def check_sct_list(value: bytes) -> None:
    """
    Pass an SCT list (RFC 6962 3.3): an OCTET STRING around a TLS vector of vectors, none of them empty.

    Raises PKIError(BAD_DATA_FORMAT) for anything else.
    """
    reader = der.Reader(value)
    content = reader.take(der.OCTET_STRING)
    reader.done()
    if len(content) < 2 or int.from_bytes(content[:2]) != len(content) - 2 or len(content) == 2:
        raise der.malformed("an SCT list whose length is not its own (RFC 6962 3.3)")
    at = 2
    while at < len(content):
        size = int.from_bytes(content[at : at + 2])
        at += 2 + size
        if not size or at > len(content):
            raise der.malformed("an SCT list that ends in the middle (RFC 6962 3.3)")


def extension_request(attributes: bytes) -> tuple[tuple[str, bool, bytes], ...]:
    """
    Return (OID, critical, value) of each extension that CSR attributes ([0] IMPLICIT SET, DER) ask for.

        Attribute ::= SEQUENCE { type OID, values SET OF ANY }    extensionRequest: one value, Extensions

    Raises PKIError(BAD_DATA_FORMAT) for two of that attribute, an extension asked for twice, or more than
    `MAX_REQUESTED`.
    """
    found: dict[str, tuple[str, bool, bytes]] = {}
    seen = False
    reader = der.Reader(attributes).enter(0xA0)
    while reader:
        attribute = reader.enter()
        if attribute.oid() != oids.EXTENSION_REQUEST:
            continue
        values = attribute.enter(der.SET)
        extensions = values.enter()
        values.done()
        if seen:
            raise der.malformed("the CSR's extensionRequest stands twice (RFC 2985 5.4.2)")
        seen = True
        while extensions:
            one = extensions.enter()
            oid = one.oid()
            critical = one.peek() == der.BOOLEAN and one.take(der.BOOLEAN) == b"\xff"
            if oid in found or len(found) == MAX_REQUESTED:
                raise der.malformed("the CSR's extensionRequest asks twice for one extension, or for too many")
            found[oid] = oid, critical, one.take(der.OCTET_STRING)
            one.done()
    return tuple(found.values())


def read_purposes(value: bytes) -> tuple[str, ...]:
    """Return the dotted KeyPurposeIds of an ExtKeyUsageSyntax; PKIError(BAD_DATA_FORMAT) for anything else."""
    der.check(value)
    reader = der.Reader(value).enter()
    found = []
    while reader:
        found.append(reader.oid())
    return tuple(dict.fromkeys(found))
