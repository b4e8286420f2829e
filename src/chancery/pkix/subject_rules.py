"""What a profile says of names: the subject attribute by attribute, subjectAltName type by type."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal

import msgspec

from chancery.asn1.oids import ATTRIBUTES
from chancery.errors import PKIError
from chancery.pkix.name import UPPER_BOUNDS, dns_name
from chancery.pkix.pattern import compiled
from chancery.pkix.rule import OID, Table, check_oids

MAX_CUSTOM = 1024
"""Characters of an attribute that only this profile knows."""
DEFAULT_CUSTOM = 256
REPEATABLE = frozenset({"DC", "OU"})
"""Attributes that may stand more than once where the profile does not say; a name has every other one once."""
MAX_ATTRIBUTES = 32
MAX_NAMES = 1000
ONE_TYPE = {"C": "printable", "serialNumber": "printable", "DC": "ia5", "emailAddress": "ia5"}
"""Attributes with one string type (X.520; RFC 4519; PKCS #9)."""

StringType = Literal["utf8", "printable", "ia5"]
NameKind = Literal["dns", "ip", "email", "smtputf8", "uri", "upn", "rid", "dirname", "othername"]
Count = Annotated[int, msgspec.Meta(ge=1, le=MAX_NAMES)]


class Subject(Table, frozen=True, kw_only=True):
    """
    The subject's attributes by short name, or by a name that `custom` gives to an OID.

    `fixed` values stand in every certificate, and a request may not say otherwise; `default` ones where it says
    nothing. `pattern` is for the whole value (`pkix.pattern`). `max_length` may be below the upper bound of RFC
    5280, never above. `order`: the attributes from the most significant on; what is not in it follows as it was
    asked for, without it fixed values stand first. `common_name`: `any`, or `one-of-names` when a CN must repeat
    a subjectAltName. `multi_valued`: an RDN of several attributes is refused, or `split` into one RDN each.
    `unlisted`: what is not listed, or differs from a fixed value, is refused, or dropped and said.
    """

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    fixed: dict[str, str] = msgspec.field(default_factory=dict)
    default: dict[str, str] = msgspec.field(default_factory=dict)
    pattern: dict[str, str] = msgspec.field(default_factory=dict)
    max_length: dict[str, Annotated[int, msgspec.Meta(ge=1)]] = msgspec.field(default_factory=dict)
    max_count: dict[str, Annotated[int, msgspec.Meta(ge=1, le=MAX_ATTRIBUTES)]] = msgspec.field(
        default_factory=dict
    )
    string_type: dict[str, StringType] = msgspec.field(default_factory=dict)
    custom: dict[str, OID] = msgspec.field(default_factory=dict)
    order: tuple[str, ...] = ()
    common_name: Literal["any", "one-of-names"] = "any"
    multi_valued: Literal["refuse", "split"] = "refuse"
    unlisted: Literal["refuse", "drop"] = "refuse"

    def __post_init__(self) -> None:
        self._check_custom()
        listed = [*self.required, *self.optional, *self.fixed]
        told = (self.default, self.pattern, self.max_length, self.max_count, self.string_type, self.order)
        for short in [*listed, *(one for table in told for one in table)]:
            if short not in ATTRIBUTES and short not in self.custom:
                raise ValueError(f"{short} is not one of {', '.join([*ATTRIBUTES, *self.custom])}")
        if len(set(listed)) != len(listed) or len(set(self.order)) != len(self.order):
            raise ValueError("an attribute is listed twice")
        for short, bound in self.max_length.items():
            if bound > (most := UPPER_BOUNDS.get(short, MAX_CUSTOM)):
                raise ValueError(f"{short} has at most {most} characters (RFC 5280 appendix A)")
        if stray := (set(self.default) | set(self.pattern) | set(self.max_count)) - {
            *self.required,
            *self.optional,
        }:
            raise ValueError(f"{', '.join(sorted(stray))} has a rule and may not be asked for")
        if set(self.default) & set(self.required):
            raise ValueError("a required attribute has no default")
        for short, type_ in self.string_type.items():
            if type_ != ONE_TYPE.get(short, type_) or (type_ == "ia5" and short in UPPER_BOUNDS.keys() - ONE_TYPE):
                raise ValueError(f"{short} is never {type_} (RFC 5280 4.1.2.4)")
        self._check_values()

    def _check_custom(self) -> None:
        check_oids(self.custom.values())
        for short, oid in self.custom.items():
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,31}", short) or short in ATTRIBUTES:
                raise ValueError(f"{short} is no name for an attribute of one's own")
            if oid in ATTRIBUTES.values():
                raise ValueError(f"{oid} has a name already")

    def _check_values(self) -> None:
        for short, text in self.pattern.items():
            try:
                compiled(text)
            except ValueError as error:
                raise ValueError(f"the pattern of {short}: {error}") from None
        for kind, values in (("fixed", self.fixed), ("default", self.default)):
            for short, value in values.items():
                if not 1 <= len(value) <= self.bound(short):
                    raise ValueError(f"the {kind} {short} has 1 to {self.bound(short)} characters")
                if short in self.pattern and not compiled(self.pattern[short]).matches(value):
                    raise ValueError(f"the {kind} {short} does not match its pattern")

    def bound(self, short: str) -> int:
        """Longest value of this attribute, in characters."""
        return self.max_length.get(short, UPPER_BOUNDS.get(short, DEFAULT_CUSTOM))

    def count(self, short: str) -> int:
        """How often this attribute may stand."""
        return self.max_count.get(short, MAX_ATTRIBUTES if short in REPEATABLE else 1)

    def oid(self, short: str) -> str:
        return ATTRIBUTES.get(short) or self.custom[short]


class Names(Table, frozen=True, kw_only=True):
    """
    subjectAltName: the types that may stand in it, and how many. No types: no such extension.

    `from_csr` takes the names that the CSR's extensionRequest asks for; others come beside the CSR.
    `wildcards`: `*` for the first label of a DNS name, below `wildcard_suffixes` alone where there are any. A
    suffix or domain stands for itself and everything below; `.example.org` for what is below alone.
    `unlisted`: a name outside the rules is refused, or dropped and said.
    """

    types: tuple[NameKind, ...] = ()
    required: bool = False
    required_types: tuple[NameKind, ...] = ()
    wildcards: bool = False
    wildcard_suffixes: tuple[str, ...] = ()
    dns_suffixes: tuple[str, ...] = ()
    dns_forbidden: tuple[str, ...] = ()
    ip_networks: tuple[str, ...] = ()
    ip_reserved: Literal["grant", "refuse"] = "grant"
    email_domains: tuple[str, ...] = ()
    uri_schemes: tuple[str, ...] = ()
    upn_realms: tuple[str, ...] = ()
    other_names: tuple[OID, ...] = ()
    max: Count = 100
    max_of: dict[NameKind, Count] = msgspec.field(default_factory=dict)
    from_csr: bool = True
    unlisted: Literal["refuse", "drop"] = "refuse"

    def __post_init__(self) -> None:
        if self.required and not self.types:
            raise ValueError("names are required, of no type")
        rules: dict[str, bool] = {
            "dns": bool(self.wildcards or self.wildcard_suffixes or self.dns_suffixes or self.dns_forbidden),
            "ip": bool(self.ip_networks) or self.ip_reserved != "grant",
            "uri": bool(self.uri_schemes),
            "upn": bool(self.upn_realms),
            "othername": bool(self.other_names),
            **dict.fromkeys((*self.required_types, *self.max_of), True),
        }
        if stray := sorted(kind for kind, said in rules.items() if said and kind not in self.types):
            raise ValueError(f"{', '.join(stray)} has a rule and is not among the types")
        if self.email_domains and not {"email", "smtputf8"} & set(self.types):
            raise ValueError("email_domains, and neither email nor smtputf8 among the types")
        if self.wildcard_suffixes and not self.wildcards:
            raise ValueError("wildcard_suffixes belong to wildcards = true")
        if ("othername" in self.types) != bool(self.other_names):
            raise ValueError("the type othername needs its OIDs in other_names, and they the type")
        check_oids(self.other_names)
        for domain in (*self.wildcard_suffixes, *self.dns_suffixes, *self.dns_forbidden, *self.email_domains):
            _check_domain(domain)
        for realm in self.upn_realms:
            _check_domain(realm)
        for network in self.ip_networks:
            ipaddress.ip_network(network)
        for scheme in self.uri_schemes:
            if not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
                raise ValueError(f"{scheme!r} is not a scheme in small letters (RFC 3986 3.1)")


def _check_domain(text: str) -> None:
    bare = text.removeprefix(".")
    try:
        same = dns_name(bare) == bare and not bare.startswith("*")
    except PKIError:
        same = False
    if not same:
        raise ValueError(f"{text!r} is not a domain in small letters and A-labels")


def under(name: str, suffixes: tuple[str, ...]) -> bool:
    """Tell whether a DNS name is one of these, or below one; of `.example.org` only what is below."""
    return any(
        name.endswith(one) if one[0] == "." else name == one or name.endswith(f".{one}") for one in suffixes
    )
