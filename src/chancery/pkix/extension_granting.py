"""The extensions that do not depend on the issuer: what is fixed is encoded once, the rest at each request."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from collections.abc import Iterable, Sequence

from chancery.asn1 import der, extensions, oids
from chancery.asn1 import x509 as template
from chancery.pkix import general_name
from chancery.pkix.extension_rules import (
    ACCESS_METHODS,
    KEY_USAGES,
    TLS_FEATURES,
    Extensions,
    QCStatements,
    RequestedExtension,
)
from chancery.pkix.rule import duration
from chancery.pkix.subject_granting import refuse

SECOND = datetime.timedelta(seconds=1)
_NAMES = {
    oids.BASIC_CONSTRAINTS: "basicConstraints",
    oids.KEY_USAGE: "keyUsage",
    oids.EXTENDED_KEY_USAGE: "extendedKeyUsage",
    oids.SUBJECT_KEY_IDENTIFIER: "subjectKeyIdentifier",
    oids.AUTHORITY_KEY_IDENTIFIER: "authorityKeyIdentifier",
    oids.CERTIFICATE_POLICIES: "certificatePolicies",
    oids.TLS_FEATURE: "TLS feature",
}
CSRExtension = tuple[str, bool, bytes]
"""OID, critical and value of an extension that a CSR asks for."""


@dataclasses.dataclass(frozen=True, slots=True)
class Subjects:
    """
    What the extensions are for: the key's kind and SPKI (DER), the names granted, and the validity.

    `shortened`: it is less than the profile's own.
    """

    kind: str
    spki: bytes
    names: Sequence[str]
    nameless: bool
    not_before: datetime.datetime
    not_after: datetime.datetime
    shortened: bool


class ExtensionPlan:
    """
    The rules of one profile's extensions for these kinds of key.

    Raises ValueError for what cannot be encoded.
    """

    def __init__(self, rule: Extensions, kinds: Iterable[str]) -> None:
        self._rule = rule
        self._purposes = rule.purposes()
        self._allowed = frozenset(rule.allowed_purposes())
        self._requested = {one.oid: one for one in rule.requested}
        # A key identifier is the issuer's to choose; purposes are gone through one by one where there is a choice.
        self._settled = {oids.SUBJECT_KEY_IDENTIFIER, *((oids.EXTENDED_KEY_USAGE,) if self._allowed else ())}
        self._required = tuple(one for one in rule.requested if one.required)
        # Without a choice the purposes are part of what is fixed.
        fixed = () if self._allowed else self._purpose_extension(self._purposes)
        self._first = {kind: (*_first(rule, kind), *fixed) for kind in kinds}
        self._middle = tuple(_policies(rule))
        self._last = tuple(_last(rule))
        self._san_critical = rule.critical.get("subjectAltName", False)
        self._key_period = None if rule.private_key_usage is None else duration(rule.private_key_usage)

    def grant(self, of: Subjects, asked: Sequence[CSRExtension], dropped: list[str]) -> tuple[bytes, ...]:
        """
        Return the DER of each extension, in the order in which they will stand.

        `dropped` gets what was asked for in vain.

        Raises PKIError(BAD_CERT_TEMPLATE) for what is asked for against the rules, or is missing.
        """
        found = [*self._first[of.kind]]
        if self._allowed:
            found += self._purpose_extension(self._chosen(asked, dropped))
        if of.names:
            found.append(template.subject_alt_name(of.names, critical=of.nameless or self._san_critical))
        found += self._middle
        if self._key_period is not None:
            end = of.not_before + self._key_period - SECOND
            # Where the certificate is valid for less than the profile says, its end is the key's, too (R25).
            end = min(end, of.not_after) if of.shortened else end
            found.append(template.private_key_usage_period(of.not_before, end))
        found += self._last
        if asked or self._required:
            found += self._from_request(asked, found, dropped)
        if self._rule.subject_key_identifier != "none":
            found.append(template.subject_key_identifier(self._identifier(of.spki)))
        return tuple(found)

    def _identifier(self, spki: bytes) -> bytes:
        if self._rule.subject_key_identifier == "sha256":
            return template.key_identifier(spki)
        reader = der.Reader(spki).enter()
        reader.take(der.SEQUENCE)
        # RFC 5280 4.2.1.2 (1): a name for a key, with no security in its hash.
        return hashlib.sha1(reader.take(der.BIT_STRING)[1:], usedforsecurity=False).digest()

    def _purpose_extension(self, purposes: tuple[str, ...]) -> tuple[bytes, ...]:
        critical = self._rule.extended_key_usage_critical
        return (template.extended_key_usage(purposes, critical=critical),) if purposes else ()

    def _chosen(self, asked: Sequence[CSRExtension], dropped: list[str]) -> tuple[str, ...]:
        """The fixed purposes and those of the CSR that are allowed; with none the key would be for everything."""
        found = dict.fromkeys(self._purposes)
        for oid, _, value in asked:
            if oid != oids.EXTENDED_KEY_USAGE:
                continue
            for purpose in extensions.read_purposes(value):
                if purpose in self._allowed:
                    found[purpose] = None
                elif purpose not in found:
                    self._outside(f"the extended key usage {purpose}", dropped)
        if not found:
            allowed = ", ".join(self._rule.extended_key_usage_allowed)
            raise refuse(f"the profile wants an extendedKeyUsage in the CSR: some of {allowed}")
        return tuple(found)

    def _from_request(
        self, asked: Sequence[CSRExtension], granted: Sequence[bytes], dropped: list[str]
    ) -> list[bytes]:
        found, values = [], dict(map(_oid_and_value, granted))
        for oid, _, value in asked:
            if (rule := self._requested.get(oid)) is not None:
                found.append(_requested(rule, value))
            elif values.get(oid) != value and oid not in self._settled:
                self._outside(f"the extension {_NAMES.get(oid, oid)}", dropped)
        present = {oid for oid, _, _ in asked}
        if missing := [one.oid for one in self._required if one.oid not in present]:
            raise refuse(f"the profile wants the extension {', '.join(missing)} in the CSR")
        return found

    def _outside(self, what: str, dropped: list[str]) -> None:
        if self._rule.unlisted == "refuse":
            raise refuse(f"the profile does not grant {what} that the CSR asks for")
        dropped.append(what)


def _oid_and_value(extension: bytes) -> tuple[str, bytes]:
    reader = der.Reader(extension).enter()
    oid = reader.oid()
    if reader.peek() == der.BOOLEAN:
        reader.raw()
    return oid, reader.take(der.OCTET_STRING)


def _requested(rule: RequestedExtension, value: bytes) -> bytes:
    if len(value) > rule.max_size:
        raise refuse(f"the extension {rule.oid} has more than {rule.max_size} octets")
    der.check(value, max_size=rule.max_size)
    if rule.oid == oids.SCT_LIST:
        extensions.check_sct_list(value)
    return template.extension(rule.oid, value, critical=rule.critical)


def _first(rule: Extensions, kind: str) -> tuple[bytes, ...]:
    family = kind.rpartition("-")[0]
    more = {"rsa": rule.key_usage_rsa, "ec": rule.key_usage_ec}.get(family, ())
    # RFC 9935 5: of an ML-KEM key keyEncipherment alone, whatever the other keys of a profile do.
    usages = {*rule.key_usage, *more} if family != "ml-kem" else {"keyEncipherment"}
    bits = tuple(sorted(KEY_USAGES.index(one) for one in usages))
    basic = template.basic_constraints(ca=rule.ca, path_length=rule.path_length)
    return (basic, template.key_usage(bits)) if bits else (basic,)


def _policies(rule: Extensions) -> Iterable[bytes]:
    if rule.policies:
        policies = [(one.oid, one.cps, one.notice) for one in rule.all_policies()]
        critical = rule.critical.get("certificatePolicies", False)
        yield extensions.certificate_policies(policies, critical=critical)
    if rule.policy_mappings:
        pairs = [(one.issuer, one.subject) for one in rule.policy_mappings]
        # RFC 5280 4.2.1.5: should be critical.
        yield extensions.policy_mappings(pairs, critical=rule.critical.get("policyMappings", True))
    if (limits := rule.policy_constraints) is not None:
        yield extensions.policy_constraints(limits.require_explicit, limits.inhibit_mapping)
    if rule.inhibit_any_policy is not None:
        yield extensions.inhibit_any_policy(rule.inhibit_any_policy)
    if (names := rule.name_constraints) is not None:
        permitted, excluded = (list(map(general_name.subtree, some)) for some in (names.permitted, names.excluded))
        yield extensions.name_constraints(permitted, excluded)


def _last(rule: Extensions) -> Iterable[bytes]:
    if rule.ocsp_nocheck:
        yield template.ocsp_nocheck()
    if rule.subject_directory_attributes:
        yield extensions.subject_directory_attributes(
            (one.type, [extensions.text(one.string_type, value) for value in one.values])
            for one in rule.subject_directory_attributes
        )
    if rule.subject_info_access:
        yield extensions.subject_info_access(
            (ACCESS_METHODS.get(one.method, one.method), one.uri) for one in rule.subject_info_access
        )
    if rule.tls_feature:
        yield extensions.tls_feature({TLS_FEATURES[one] for one in rule.tls_feature})
    if rule.qc_statements is not None:
        yield extensions.qc_statements(_statements(rule.qc_statements))
    if (one := rule.microsoft_template) is not None:
        yield extensions.microsoft_template(one.oid, one.major, one.minor)
    if rule.microsoft_template_name is not None:
        yield extensions.microsoft_template_name(rule.microsoft_template_name)
    if rule.application_policies:
        yield extensions.application_policies(rule.application_policies)
    if rule.ct_poison:
        yield extensions.ct_poison()
    for other in rule.fixed:
        yield template.extension(other.oid, bytes.fromhex(other.der), critical=other.critical)


def _statements(rule: QCStatements) -> Iterable[bytes]:
    """EN 319 412-5 4.2 and 4.3."""
    statement, text = extensions.qc_statement, extensions.text
    if rule.semantics is not None:
        yield statement(oids.QC_SYNTAX_V2, der.sequence(der.oid(oids.QC_SEMANTICS[rule.semantics])))
    if rule.compliance:
        yield statement(oids.QC_COMPLIANCE)
    if rule.sscd:
        yield statement(oids.QC_SSCD)
    if rule.types:
        yield statement(oids.QC_TYPE, der.sequence(*(der.oid(oids.QC_TYPES[one]) for one in rule.types)))
    if (limit := rule.limit) is not None:
        money = der.integer(limit.amount), der.integer(limit.exponent)
        yield statement(oids.QC_LIMIT, der.sequence(text("printable", limit.currency), *money))
    if rule.retention_years is not None:
        yield statement(oids.QC_RETENTION, der.integer(rule.retention_years))
    if rule.disclosures:
        places = [der.sequence(text("ia5", one.url), text("printable", one.language)) for one in rule.disclosures]
        yield statement(oids.QC_PDS, der.sequence(*places))
    if rule.legislation:
        countries = [text("printable", one) for one in rule.legislation]
        yield statement(oids.QC_LEGISLATION, der.sequence(*countries))
