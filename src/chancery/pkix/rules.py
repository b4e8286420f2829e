"""
What a profile file may say: strict TOML into frozen values, each bound beside its clause.

An unknown key, a missing one or a value out of its bounds is refused by name.
"""

from __future__ import annotations

import datetime
import functools
import re
from typing import Annotated, Literal

import msgspec

from chancery.asn1.oids import ATTRIBUTES, EXTENDED_KEY_USAGES
from chancery.pkix.key import KINDS

# Upper bounds of RFC 5280 appendix A.1 (ub-…), of X.520 where that has none.
UPPER_BOUNDS = {
    "CN": 64,
    "SN": 64,
    "serialNumber": 64,
    "C": 2,
    "L": 128,
    "ST": 128,
    "street": 128,
    "O": 64,
    "OU": 64,
    "title": 64,
    "GN": 64,
    "organizationIdentifier": 256,
    "emailAddress": 255,
    "DC": 63,
    "UID": 256,
}
REPEATABLE = frozenset({"DC", "OU"})
"""Attributes that may stand more than once; a name has every other one once."""

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
MAX_BACKDATE = datetime.timedelta(hours=1)
MAX_AHEAD = datetime.timedelta(days=366)
MIN_VALIDITY, MAX_VALIDITY = datetime.timedelta(minutes=1), datetime.timedelta(days=36525)
MAX_NAMES = 1000
_DURATION = re.compile(r"(?:(\d{1,5})d)?(?:(\d{1,4})h)?(?:(\d{1,4})m)?(?:(\d{1,5})s)?")

ShortName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}\Z")]
OID = Annotated[str, msgspec.Meta(pattern=r"^[0-2](\.(0|[1-9][0-9]*))+\Z", max_length=128)]
KeyKind = Literal[
    "rsa-2048", "rsa-3072", "rsa-4096", "ec-p256", "ec-p384", "ec-p521", "ed25519",
    "ml-dsa-44", "ml-dsa-65", "ml-dsa-87",
]  # fmt: skip
NameKind = Literal["dns", "ip", "email", "uri"]
Pointer = Literal["ocsp", "crl", "ca-issuers"]


@functools.lru_cache(maxsize=256)
def duration(text: str) -> datetime.timedelta:
    """Return the time that "199d", "12h", "1d12h30m" and the like say; a day is 86,400 s (R12). ValueError."""
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise ValueError(f"{text!r} is not a duration such as 199d, 12h or 1d12h30m")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return datetime.timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of a profile file."""


class Validity(Table, frozen=True, kw_only=True):
    """
    How long: `duration` ("199d"), or `validity_days`. notAfter = notBefore + that - 1 s, as both ends are valid.

    `backdate` moves notBefore before the moment of issuance, for clocks that are slow; at most an hour.
    `past_issuer` says what happens when the issuer's certificate ends earlier: `refuse`, or `clamp` to it.
    `requested` says what becomes of another validity that a request asks for: `refuse` it, `drop` the wish, or
    `allow` it from `min` to `max` (not given: `duration`), beginning at most `ahead` of the moment of issuance.
    """

    duration: str | None = None
    validity_days: Annotated[int, msgspec.Meta(ge=1, le=36525)] | None = None
    backdate: str = "0s"
    past_issuer: Literal["refuse", "clamp"] = "refuse"
    requested: Literal["refuse", "drop", "allow"] = "refuse"
    min: str | None = None
    max: str | None = None
    ahead: str = "0s"

    def __post_init__(self) -> None:
        if (self.duration is None) == (self.validity_days is None):
            raise ValueError("exactly one of duration and validity_days is needed")
        if not MIN_VALIDITY <= self.length() <= MAX_VALIDITY:
            raise ValueError("a certificate is valid for a minute to 36525 days")
        if self.backdating() > MAX_BACKDATE:
            raise ValueError("backdate is at most 1h")
        if self.requested != "allow" and (self.min or self.max or self.ahead != "0s"):
            raise ValueError('min, max and ahead belong to requested = "allow"')
        if not MIN_VALIDITY <= self.shortest() <= self.length() <= self.longest() <= MAX_VALIDITY:
            raise ValueError("min is at most the duration, and max at least; from a minute to 36525 days")
        if duration(self.ahead) > MAX_AHEAD:
            raise ValueError("ahead is at most 366d")

    def length(self) -> datetime.timedelta:
        """Seconds in which the certificate is valid, both ends included."""
        if self.duration is not None:
            return duration(self.duration)
        return datetime.timedelta(days=self.validity_days or 0)

    def shortest(self) -> datetime.timedelta:
        """Least that a request may ask for."""
        return min(MIN_VALIDITY, self.length()) if self.min is None else duration(self.min)

    def longest(self) -> datetime.timedelta:
        """Most that a request may ask for."""
        return self.length() if self.max is None else duration(self.max)

    def backdating(self) -> datetime.timedelta:
        return duration(self.backdate)


class Subject(Table, frozen=True, kw_only=True):
    """
    The subject's attributes by short name; one that is not listed is refused.

    `fixed` values stand in every certificate, first, and a request may not say otherwise. `max_length` may be
    below the upper bound of RFC 5280, never above. `common_name`: `any`, or `one-of-names` when a CN must
    repeat a subjectAltName.
    """

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    fixed: dict[str, str] = {}
    max_length: dict[str, Annotated[int, msgspec.Meta(ge=1)]] = {}
    common_name: Literal["any", "one-of-names"] = "any"

    def __post_init__(self) -> None:
        listed = [*self.required, *self.optional, *self.fixed]
        for short in [*listed, *self.max_length]:
            if short not in ATTRIBUTES:
                raise ValueError(f"{short} is not one of {', '.join(ATTRIBUTES)}")
        if len(set(listed)) != len(listed):
            raise ValueError("an attribute is listed twice")
        for short, bound in self.max_length.items():
            if bound > UPPER_BOUNDS[short]:
                raise ValueError(f"{short} has at most {UPPER_BOUNDS[short]} characters (RFC 5280 appendix A)")
        for short, value in self.fixed.items():
            if not 1 <= len(value) <= self.bound(short):
                raise ValueError(f"the fixed {short} has 1 to {self.bound(short)} characters")

    def bound(self, short: str) -> int:
        """Longest value of this attribute, in characters."""
        return self.max_length.get(short, UPPER_BOUNDS[short])


class Names(Table, frozen=True, kw_only=True):
    """
    subjectAltName: the types that may stand in it, and how many. No types: no such extension.

    `from_csr` takes the names that the CSR's extensionRequest asks for; others come beside the CSR.
    """

    types: tuple[NameKind, ...] = ()
    required: bool = False
    wildcards: bool = False
    max: Annotated[int, msgspec.Meta(ge=1, le=MAX_NAMES)] = 100
    from_csr: bool = True

    def __post_init__(self) -> None:
        if self.required and not self.types:
            raise ValueError("names are required, of no type")


class Extensions(Table, frozen=True, kw_only=True):
    """
    The other extensions. Key usages by the kind of key: `key_usage` for all, more for RSA or EC alone.

    `pointers` are what authorityInfoAccess and cRLDistributionPoints may hold, as far as the issuer has them.
    """

    key_usage: tuple[str, ...] = ()
    key_usage_rsa: tuple[str, ...] = ()
    key_usage_ec: tuple[str, ...] = ()
    extended_key_usage: tuple[str, ...] = ()
    extended_key_usage_critical: bool = False
    ca: bool = False
    path_length: Annotated[int, msgspec.Meta(ge=0, le=10)] | None = None
    policies: tuple[OID, ...] = ()
    ocsp_nocheck: bool = False
    private_key_usage: str | None = None
    pointers: tuple[Pointer, ...] = ("ocsp", "crl", "ca-issuers")

    def __post_init__(self) -> None:
        for usage in (*self.key_usage, *self.key_usage_rsa, *self.key_usage_ec):
            if usage not in KEY_USAGES:
                raise ValueError(f"{usage} is not one of {', '.join(KEY_USAGES)}")
        for usage in self.extended_key_usage:
            if usage not in EXTENDED_KEY_USAGES and not re.fullmatch(r"[0-2](\.(0|[1-9]\d*))+", usage):
                raise ValueError(f"{usage} is not one of {', '.join(EXTENDED_KEY_USAGES)}, nor an OID")
        if self.path_length is not None and not self.ca:
            raise ValueError("path_length belongs to a CA (RFC 5280 4.2.1.9)")
        if self.private_key_usage is not None and duration(self.private_key_usage) < datetime.timedelta(minutes=1):
            raise ValueError("a private key is used for a minute at least")


class SecondOpinions(Table, frozen=True, kw_only=True):
    """
    Linters of others by the names that the configuration gives them (R9).

    Those of `before_signing` are asked by the worker, and what one has against a certificate refuses the request;
    those of `by_auditor` by `chancery auditor run`, for every stored certificate.
    """

    before_signing: Annotated[tuple[ShortName, ...], msgspec.Meta(max_length=8)] = ()
    by_auditor: Annotated[tuple[ShortName, ...], msgspec.Meta(max_length=8)] = ()


class ProfileFile(Table, frozen=True, kw_only=True):
    """A whole profile file. `ceremony` profiles are signed by the offline CA alone (R8)."""

    name: ShortName
    version: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    description: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    keys: Annotated[tuple[KeyKind, ...], msgspec.Meta(min_length=1)]
    ceremony: bool = False
    default_issuer: ShortName | None = None
    validity: Validity
    subject: Subject = Subject()
    names: Names = Names()
    extensions: Extensions = Extensions()
    second_opinions: SecondOpinions = SecondOpinions()

    def __post_init__(self) -> None:
        assert set(self.keys) <= KINDS
        if self.extensions.ca and not self.ceremony:
            raise ValueError("a profile of a CA needs ceremony = true (R8)")
        if not self.names.types and self.subject.common_name == "one-of-names":
            raise ValueError("common_name = one-of-names, and no names are granted")
