"""
What a profile file may say: strict TOML into frozen values, each bound beside its clause.

An unknown key, a missing one or a value out of its bounds is refused by name.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Literal

import msgspec

from chancery.asn1.oids import ML_KEM
from chancery.asn1.signature import ALGORITHMS
from chancery.pkix.extension_rules import Extensions
from chancery.pkix.key import KINDS
from chancery.pkix.rule import ShortName, Table, duration
from chancery.pkix.subject_rules import Names, Subject

MAX_BACKDATE = datetime.timedelta(hours=1)
MAX_AHEAD = datetime.timedelta(days=366)
MIN_VALIDITY, MAX_VALIDITY = datetime.timedelta(minutes=1), datetime.timedelta(days=36525)
KeyKind = Literal[
    "rsa-2048", "rsa-3072", "rsa-4096", "ec-p256", "ec-p384", "ec-p521", "ed25519",
    "ml-dsa-44", "ml-dsa-65", "ml-dsa-87", "ml-kem-512", "ml-kem-768", "ml-kem-1024",
]  # fmt: skip


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


class SecondOpinions(Table, frozen=True, kw_only=True):
    """
    Linters of others by the names that the configuration gives them (R9).

    Those of `before_signing` are asked by the worker, and what one has against a certificate refuses the request;
    those of `by_auditor` by `chancery auditor run`, for every stored certificate.
    """

    before_signing: Annotated[tuple[ShortName, ...], msgspec.Meta(max_length=8)] = ()
    by_auditor: Annotated[tuple[ShortName, ...], msgspec.Meta(max_length=8)] = ()


class ProfileFile(Table, frozen=True, kw_only=True):
    """
    A whole profile file. `ceremony` profiles are signed by the offline CA alone (R8). A profile of a CA with
    `policy_ca` may be signed by a connected CA that is no root, for the keys that its worker was told of.

    `signature_algorithms`: those by which the issuer may sign, by name; without any, its own, whatever it is.
    `proof` is how possession of the private key is shown: `signature` by that key, or, for keys that cannot
    sign, a `statement` (RFC 9883) signed by another key of the same subject that is certified already.
    """

    name: ShortName
    version: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    description: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    keys: Annotated[tuple[KeyKind, ...], msgspec.Meta(min_length=1)]
    proof: Literal["signature", "statement"] = "signature"
    ceremony: bool = False
    policy_ca: bool = False
    default_issuer: ShortName | None = None
    signature_algorithms: tuple[str, ...] = ()
    validity: Validity
    subject: Subject = Subject()
    names: Names = Names()
    extensions: Extensions = Extensions()
    second_opinions: SecondOpinions = SecondOpinions()

    def __post_init__(self) -> None:
        assert set(self.keys) <= KINDS
        for one in self.signature_algorithms:
            if one not in ALGORITHMS:
                raise ValueError(f"{one} is not one of {', '.join(ALGORITHMS)}")
        if self.proof == "signature" and (mute := sorted(ML_KEM.keys() & set(self.keys))):
            raise ValueError(f'a key of kind {mute[0]} cannot sign a request: that needs proof = "statement"')
        if self.extensions.ca and not ML_KEM.keys().isdisjoint(self.keys):
            raise ValueError("a CA has a key that signs")
        if self.extensions.ca and not self.ceremony and not self.policy_ca:
            raise ValueError(
                "a profile of a CA needs ceremony = true (R8), or policy_ca = true for a CA below a root"
            )
        if self.policy_ca and (self.ceremony or not self.extensions.ca):
            raise ValueError("policy_ca is for profiles of a CA that no ceremony signs")
        if not self.names.types and self.subject.common_name == "one-of-names":
            raise ValueError("common_name = one-of-names, and no names are granted")
        if "emailAddress" in (*self.subject.required, *self.subject.optional, *self.subject.fixed) and (
            "email" not in self.names.types
        ):
            raise ValueError("an emailAddress in the subject, and no names of type email (RFC 5280 4.1.2.6)")
        if self.subject.common_name == "one-of-names" and "CN" in self.subject.pattern:
            raise ValueError("the CN repeats a name: put its pattern into the rules of names")
