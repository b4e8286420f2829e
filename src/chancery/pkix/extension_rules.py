"""What a profile says of extensions, each with its clause; subjectAltName is among the names."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec

from chancery.asn1 import der, oids
from chancery.asn1.oids import EXTENDED_KEY_USAGES
from chancery.errors import PKIError
from chancery.pkix.name import absolute_uri
from chancery.pkix.rule import OID, Table, Text, check_oids, duration, is_oid

# KeyUsage bits by name (RFC 5280 4.2.1.3).
KEY_USAGES = (
    "digitalSignature",
    "nonRepudiation",
    "keyEncipherment",
    "dataEncipherment",
    "keyAgreement",
    "keyCertSign",
    "cRLSign",
    "encipherOnly",
    "decipherOnly",
)
TLS_FEATURES = {"status_request": 5, "status_request_v2": 17}
"""RFC 7633 4.1, by the names of the TLS extensions (RFC 6066, RFC 6961)."""
ACCESS_METHODS = {"caRepository": oids.AD_CA_REPOSITORY, "timeStamping": oids.AD_TIME_STAMPING}
"""RFC 5280 4.2.2.2."""
MAX_EXTENSION = 8192
"""Octets of an extension's value that comes from a request or stands in a profile."""
_OWN = frozenset(
    {
        oids.BASIC_CONSTRAINTS,
        oids.KEY_USAGE,
        oids.EXTENDED_KEY_USAGE,
        oids.SUBJECT_ALT_NAME,
        oids.SUBJECT_KEY_IDENTIFIER,
        oids.AUTHORITY_KEY_IDENTIFIER,
        oids.AUTHORITY_INFO_ACCESS,
        oids.CRL_DISTRIBUTION_POINTS,
        oids.FRESHEST_CRL,
        oids.CERTIFICATE_POLICIES,
        oids.POLICY_MAPPINGS,
        oids.POLICY_CONSTRAINTS,
        oids.INHIBIT_ANY_POLICY,
        oids.NAME_CONSTRAINTS,
        oids.PRIVATE_KEY_USAGE_PERIOD,
        oids.OCSP_NOCHECK,
        oids.PRECERT_POISON,
    }
)
"""Extensions that a rule of their own decides about, never a request or octets alone."""

Pointer = Literal["ocsp", "crl", "ca-issuers", "freshest"]
Skip = Annotated[int, msgspec.Meta(ge=0, le=255)]
TwoLetters = Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{2}\Z")]


class Policy(Table, frozen=True, kw_only=True):
    """A certificate policy with its qualifiers (RFC 5280 4.2.1.4): `cps` a URI, `notice` an explicit text."""

    oid: OID
    cps: Text | None = None
    notice: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None


class PolicyMapping(Table, frozen=True, kw_only=True):
    """That a policy of the issuer's domain is as good as one of the subject's (RFC 5280 4.2.1.5)."""

    issuer: OID
    subject: OID


class PolicyConstraints(Table, frozen=True, kw_only=True):
    """After how many certificates policies are required, or no longer mapped (RFC 5280 4.2.1.11)."""

    require_explicit: Skip | None = None
    inhibit_mapping: Skip | None = None

    def __post_init__(self) -> None:
        if self.require_explicit is None and self.inhibit_mapping is None:
            raise ValueError("one of require_explicit and inhibit_mapping is needed")


class NameConstraints(Table, frozen=True, kw_only=True):
    """
    What names may stand below a CA (RFC 5280 4.2.1.10).

    As `dns:example.org`, `email:example.org`, `uri:.example.org`, `ip:10.0.0.0/8`, `dirname:O=Org,C=DE`.
    """

    permitted: Annotated[tuple[Text, ...], msgspec.Meta(max_length=100)] = ()
    excluded: Annotated[tuple[Text, ...], msgspec.Meta(max_length=100)] = ()

    def __post_init__(self) -> None:
        if not self.permitted and not self.excluded:
            raise ValueError("neither permitted nor excluded names")


class Access(Table, frozen=True, kw_only=True):
    """Where the subject offers something (RFC 5280 4.2.2.2): `method` caRepository, timeStamping or an OID."""

    method: str
    uri: Text

    def __post_init__(self) -> None:
        if self.method not in ACCESS_METHODS and not is_oid(self.method):
            raise ValueError(f"{self.method} is not one of {', '.join(ACCESS_METHODS)}, nor an OID")
        _check_uri(self.uri)


class Disclosure(Table, frozen=True, kw_only=True):
    """Where a PKI disclosure statement is, in which language (EN 319 412-5 4.3.4)."""

    url: Text
    language: Annotated[str, msgspec.Meta(pattern=r"^[a-z]{2}\Z")]

    def __post_init__(self) -> None:
        if not self.url.startswith("https://"):
            raise ValueError("a disclosure statement is fetched by https (EN 319 412-5 4.3.4)")
        _check_uri(self.url)


class Limit(Table, frozen=True, kw_only=True):
    """The limit of transactions: `amount` times ten to the `exponent` (EN 319 412-5 4.3.2)."""

    currency: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}\Z")]
    amount: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    exponent: Annotated[int, msgspec.Meta(ge=0, le=20)] = 0


class QCStatements(Table, frozen=True, kw_only=True):
    """
    Statements of qualified certificates (EN 319 412-5 4; RFC 3739 3.2.6), never critical.

    `compliance`: EU qualified (4.2.1). `sscd`: the key is in a qualified device (4.2.2). `types`: what for
    (4.2.3). `legislation`: countries other than those of the EU (4.2.4). `semantics`: how the subject's
    serialNumber or organizationIdentifier is to be read (EN 319 412-1 5.1).
    """

    compliance: bool = False
    sscd: bool = False
    types: tuple[Literal["esign", "eseal", "web"], ...] = ()
    limit: Limit | None = None
    retention_years: Annotated[int, msgspec.Meta(ge=0, le=1000)] | None = None
    disclosures: Annotated[tuple[Disclosure, ...], msgspec.Meta(max_length=32)] = ()
    legislation: Annotated[tuple[TwoLetters, ...], msgspec.Meta(max_length=32)] = ()
    semantics: Literal["natural", "legal"] | None = None

    def __post_init__(self) -> None:
        if not any(getattr(self, one) not in {False, None, ()} for one in self.__struct_fields__):
            raise ValueError("no statement")


class MicrosoftTemplate(Table, frozen=True, kw_only=True):
    """A certificate template of version 2 ([MS-WCCE] 2.2.2.7.7.2)."""

    oid: OID
    major: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 1
    minor: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0


class DirectoryAttribute(Table, frozen=True, kw_only=True):
    """
    An attribute of the subject beside its name (RFC 5280 4.2.1.8), such as countryOfCitizenship (RFC 3739
    3.2.2).
    """

    type: OID
    values: Annotated[
        tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=256)], ...], msgspec.Meta(min_length=1)
    ]
    string_type: Literal["utf8", "printable", "ia5"] = "utf8"


class RequestedExtension(Table, frozen=True, kw_only=True):
    """
    An extension whose value a CSR may bring, of at most `max_size` octets of DER.

    Its criticality is the profile's, whatever the CSR says. `required`: no certificate without it.
    """

    oid: OID
    critical: bool = False
    required: bool = False
    max_size: Annotated[int, msgspec.Meta(ge=2, le=MAX_EXTENSION)] = 1024


class FixedExtension(Table, frozen=True, kw_only=True):
    """An extension with the same value in every certificate: `der` in hexadecimal."""

    oid: OID
    der: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{2})+\Z", max_length=2 * MAX_EXTENSION)]
    critical: bool = False


class Extensions(Table, frozen=True, kw_only=True):
    """
    The other extensions. Key usages by the kind of key: `key_usage` for all, more for RSA or EC alone.

    `extended_key_usage` are in every certificate, those of `extended_key_usage_allowed` in one whose CSR asks.
    `pointers` are what authorityInfoAccess, cRLDistributionPoints and freshestCRL may hold, as far as the issuer
    has them. `critical` changes the criticality of certificatePolicies, policyMappings or subjectAltName, whose
    clauses leave it free. `unlisted`: an extension of the CSR that is not granted is dropped and said, or
    refused.
    """

    key_usage: tuple[str, ...] = ()
    key_usage_rsa: tuple[str, ...] = ()
    key_usage_ec: tuple[str, ...] = ()
    extended_key_usage: tuple[str, ...] = ()
    extended_key_usage_allowed: tuple[str, ...] = ()
    extended_key_usage_critical: bool = False
    ca: bool = False
    path_length: Annotated[int, msgspec.Meta(ge=0, le=10)] | None = None
    name_constraints: NameConstraints | None = None
    policies: tuple[OID | Policy, ...] = ()
    policy_mappings: tuple[PolicyMapping, ...] = ()
    policy_constraints: PolicyConstraints | None = None
    inhibit_any_policy: Skip | None = None
    critical: dict[Literal["certificatePolicies", "policyMappings", "subjectAltName"], bool] = msgspec.field(
        default_factory=dict
    )
    subject_key_identifier: Literal["sha256", "sha1", "none"] = "sha256"
    subject_directory_attributes: tuple[DirectoryAttribute, ...] = ()
    subject_info_access: tuple[Access, ...] = ()
    ocsp_nocheck: bool = False
    private_key_usage: str | None = None
    tls_feature: tuple[Literal["status_request", "status_request_v2"], ...] = ()
    qc_statements: QCStatements | None = None
    microsoft_template: MicrosoftTemplate | None = None
    microsoft_template_name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] | None = None
    application_policies: tuple[OID, ...] = ()
    ct_poison: bool = False
    pointers: tuple[Pointer, ...] = ("ocsp", "crl", "ca-issuers")
    requested: Annotated[tuple[RequestedExtension, ...], msgspec.Meta(max_length=32)] = ()
    fixed: Annotated[tuple[FixedExtension, ...], msgspec.Meta(max_length=32)] = ()
    unlisted: Literal["refuse", "drop"] = "drop"

    def __post_init__(self) -> None:
        for usage in (*self.key_usage, *self.key_usage_rsa, *self.key_usage_ec):
            if usage not in KEY_USAGES:
                raise ValueError(f"{usage} is not one of {', '.join(KEY_USAGES)}")
        for usage in (*self.extended_key_usage, *self.extended_key_usage_allowed):
            if usage not in EXTENDED_KEY_USAGES and not is_oid(usage):
                raise ValueError(f"{usage} is not one of {', '.join(EXTENDED_KEY_USAGES)}, nor an OID")
        check_oids([*self.purposes(), *self.allowed_purposes()])
        if self.path_length is not None and not self.ca:
            raise ValueError("path_length belongs to a CA (RFC 5280 4.2.1.9)")
        if self.private_key_usage is not None and duration(self.private_key_usage) < datetime.timedelta(minutes=1):
            raise ValueError("a private key is used for a minute at least")
        self._check_of_cas()
        check_oids(one.oid for one in self.all_policies())
        for one in self.all_policies():
            if one.cps is not None:
                _check_uri(one.cps)
        check_oids(self.application_policies)
        self._check_octets()

    def _check_of_cas(self) -> None:
        of_ca = ("name_constraints", "policy_mappings", "policy_constraints", "inhibit_any_policy")
        for key in of_ca:
            if getattr(self, key) not in {None, ()} and not self.ca:
                raise ValueError(f"{key} belongs to a CA (RFC 5280 4.2.1)")
        for one in self.policy_mappings:
            if oids.ANY_POLICY in {one.issuer, one.subject}:
                raise ValueError("anyPolicy is not mapped (RFC 5280 4.2.1.5)")

    def _check_octets(self) -> None:
        others = [*(one.oid for one in self.fixed), *(one.oid for one in self.requested)]
        check_oids([*self._named(), *others])
        for oid in others:
            if oid in _OWN:
                raise ValueError(f"{oid} has rules of its own")
        for one in self.fixed:
            try:
                der.check(bytes.fromhex(one.der))
            except PKIError as error:
                raise ValueError(f"the octets of {one.oid}: {error.detail}") from None

    def _named(self) -> Iterator[str]:
        """Extensions outside `_OWN` that a key of this table writes."""
        for oid, key in _NAMED.items():
            if getattr(self, key) not in {None, ()}:
                yield oid

    def purposes(self) -> tuple[str, ...]:
        """Dotted KeyPurposeIds that are in every certificate."""
        return tuple(EXTENDED_KEY_USAGES.get(one, one) for one in self.extended_key_usage)

    def allowed_purposes(self) -> tuple[str, ...]:
        """Dotted KeyPurposeIds that a request may ask for."""
        return tuple(EXTENDED_KEY_USAGES.get(one, one) for one in self.extended_key_usage_allowed)

    def all_policies(self) -> tuple[Policy, ...]:
        return tuple(one if isinstance(one, Policy) else Policy(oid=one) for one in self.policies)


_NAMED = {
    oids.SUBJECT_DIRECTORY_ATTRIBUTES: "subject_directory_attributes",
    oids.SUBJECT_INFO_ACCESS: "subject_info_access",
    oids.TLS_FEATURE: "tls_feature",
    oids.QC_STATEMENTS: "qc_statements",
    oids.MS_TEMPLATE: "microsoft_template",
    oids.MS_TEMPLATE_NAME: "microsoft_template_name",
    oids.MS_APPLICATION_POLICIES: "application_policies",
}


def _check_uri(text: str) -> None:
    try:
        absolute_uri(text)
    except PKIError as error:
        raise ValueError(error.detail) from None
