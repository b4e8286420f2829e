"""The subject and the subjectAltNames: a profile's rules, made ready once, over what a request asks for."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Callable, Mapping, Sequence

from chancery.asn1 import der
from chancery.asn1 import x509 as template
from chancery.asn1.oids import ATTRIBUTES
from chancery.errors import ErrorType, PKIError
from chancery.pkix import name as names_
from chancery.pkix.pattern import Pattern, compiled
from chancery.pkix.subject_rules import MAX_ATTRIBUTES, Names, Subject, under

_SHORT = {oid: short for short, oid in ATTRIBUTES.items()}
_TAGS = {"utf8": der.UTF8_STRING, "printable": der.PRINTABLE_STRING, "ia5": der.IA5_STRING}
MAX_SUBJECT = 2048
"""Octets of the subject as text (UTF-8): it is searched for, and an index holds no more than 2704."""
Attributes = tuple[tuple[str, str], ...]
"""(Dotted attribute type, value), most significant first."""


def refuse(detail: str) -> PKIError:
    """Build the refusal of what a profile does not grant."""
    return PKIError(ErrorType.BAD_CERT_TEMPLATE, detail)


@dataclasses.dataclass(frozen=True, slots=True)
class GrantedSubject:
    """The subject: its attributes, their Name (DER) and their RFC 4514 text."""

    attributes: Attributes
    der: bytes
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Attribute:
    short: str
    bound: int
    count: int
    tag: int
    pattern: Pattern | None
    fixed: str | None
    rank: int


class SubjectPlan:
    """The rules of one profile's subject, looked up by attribute type."""

    def __init__(self, rule: Subject) -> None:
        self._rule = rule
        self._attributes: Mapping[str, _Attribute] = {
            rule.oid(short): _attribute(rule, short) for short in (*rule.required, *rule.optional, *rule.fixed)
        }
        self._fixed = tuple((rule.oid(short), value) for short, value in rule.fixed.items())
        self._defaults = tuple((rule.oid(short), value) for short, value in rule.default.items())
        self._required = tuple((rule.oid(short), short) for short in rule.required)
        for oid, value in (*self._fixed, *self._defaults):
            try:
                _check(self._attributes[oid], oid, value)
            except PKIError as error:
                raise ValueError(error.detail) from None

    def grant(self, asked: Attributes, dropped: list[str], *, multi_valued: bool = False) -> GrantedSubject:
        """
        Return the subject; `dropped` gets what was asked for in vain.

        Raises PKIError(BAD_CERT_TEMPLATE) with the first attribute that is not granted.
        """
        if len(asked) > MAX_ATTRIBUTES:
            raise refuse(f"a subject of more than {MAX_ATTRIBUTES} attributes")
        if multi_valued and self._rule.multi_valued == "refuse":
            raise refuse("the subject has a relative distinguished name of several attributes")
        counts: dict[str, int] = {}
        granted = [*self._fixed]
        for oid, value in asked:
            if self._is_outside(oid, value, dropped):
                continue
            attribute = self._attributes[oid]
            counts[oid] = number = counts.get(oid, 0) + 1
            if number > attribute.count:
                most = "one" if attribute.count == 1 else attribute.count
                raise refuse(f"the subject has more than {most} {attribute.short}")
            _check(attribute, oid, value)
            granted.append((oid, value))
        granted += [(oid, value) for oid, value in self._defaults if oid not in counts]
        if missing := [short for oid, short in self._required if oid not in counts]:
            raise refuse(f"the profile wants {', '.join(missing)} in the subject")
        if self._rule.order:
            granted.sort(key=lambda one: self._attributes[one[0]].rank)
        text = names_.text_of(granted)
        if len(text) * 4 > MAX_SUBJECT and len(text.encode()) > MAX_SUBJECT:
            raise refuse(f"a subject of more than {MAX_SUBJECT} octets")
        rdns = [template.rdn(oid, value, self._attributes[oid].tag) for oid, value in granted]
        return GrantedSubject(tuple(granted), der.sequence(*rdns), text)

    def _is_outside(self, oid: str, value: str, dropped: list[str]) -> bool:
        """Tell whether to leave this one: because it is fixed anyway, or because it is dropped."""
        attribute = self._attributes.get(oid)
        if attribute is None:
            why = f"the profile grants no {_SHORT.get(oid, oid)} in the subject"
        elif attribute.fixed is None:
            return False
        elif value == attribute.fixed:
            return True
        else:
            why = f"the profile fixes the subject's {attribute.short} to {attribute.fixed!r}"
        if self._rule.unlisted == "refuse":
            raise refuse(why)
        dropped.append(f"the subject's {_SHORT.get(oid, oid)}")
        return True


def _attribute(rule: Subject, short: str) -> _Attribute:
    oid = rule.oid(short)
    type_ = rule.string_type.get(short)
    return _Attribute(
        short=short,
        bound=rule.bound(short),
        count=rule.count(short),
        tag=template.string_tag(oid) if type_ is None else _TAGS[type_],
        pattern=compiled(rule.pattern[short]) if short in rule.pattern else None,
        fixed=rule.fixed.get(short),
        rank=rule.order.index(short) if short in rule.order else len(rule.order),
    )


def _check(attribute: _Attribute, oid: str, value: str) -> None:
    short = attribute.short
    if not 1 <= len(value) <= attribute.bound:
        raise refuse(f"the subject's {short} has 1 to {attribute.bound} characters (RFC 5280 appendix A)")
    if value != value.strip() or not value.isprintable():
        raise refuse(f"the subject's {short} has white space at an end, or a control character in it")
    names_.check_form(short, value)
    if attribute.pattern is not None and not attribute.pattern.matches(value):
        raise refuse(f"the subject's {short} does not match {attribute.pattern.text}")
    try:
        template.rdn(oid, value, attribute.tag)
    except ValueError:
        raise refuse(f"the subject's {short} has characters that its string type does not hold") from None


class NamePlan:
    """The rules of one profile's subjectAltName, by type."""

    def __init__(self, rule: Names) -> None:
        self._rule = rule
        self._types = frozenset(rule.types)
        self._networks = tuple(map(ipaddress.ip_network, rule.ip_networks))
        checks: dict[str, Callable[[str], str | None]] = {"dns": self._dns}
        if self._networks or rule.ip_reserved == "refuse":
            checks["ip"] = self._ip
        if rule.email_domains:
            checks["email"] = checks["smtputf8"] = lambda value: _domain(value, rule.email_domains)
        if rule.upn_realms:
            checks["upn"] = lambda value: _domain(value, rule.upn_realms)
        if rule.uri_schemes:
            checks["uri"] = self._uri
        checks["othername"] = self._other_name
        self._checks = checks

    def grant(self, csr_names: Sequence[str], names: Sequence[str], dropped: list[str]) -> tuple[str, ...]:
        """
        Return the names; `dropped` gets what was asked for in vain.

        Raises PKIError(BAD_CERT_TEMPLATE) with the first name that is not granted, or what is missing.
        """
        rule = self._rule
        found = tuple(dict.fromkeys((*(csr_names if rule.from_csr else ()), *names)))
        if csr_names and not rule.from_csr:
            dropped.append("the subjectAltNames of the CSR")
        if len(found) > rule.max:
            raise refuse(f"the profile grants at most {rule.max} names; {len(found)} were asked for")
        problems = [(one, problem) for one in found if (problem := self._problem(one)) is not None]
        if problems:
            if rule.unlisted == "refuse":
                raise refuse(f"{problems[0][1]} ({problems[0][0]!r})")
            outside = {one for one, _ in problems}
            dropped += [f"the name {one}" for one, _ in problems]
            found = tuple(one for one in found if one not in outside)
        if rule.required and not found:
            kinds = " or ".join(f"{kind}:…" for kind in rule.types)
            raise refuse(f"the profile wants a subjectAltName: put {kinds} into the CSR or beside it")
        if rule.required_types or rule.max_of:
            self._check_counts(found)
        return found

    def _check_counts(self, names: Sequence[str]) -> None:
        kinds = [one.partition(":")[0] for one in names]
        for kind in self._rule.required_types:
            if kind not in kinds:
                raise refuse(f"the profile wants a subjectAltName {kind}:…")
        for kind, most in self._rule.max_of.items():
            if kinds.count(kind) > most:
                raise refuse(f"the profile grants at most {most} names of type {kind}")

    def _problem(self, name: str) -> str | None:
        kind, _, value = name.partition(":")
        if kind not in self._types:
            return f"the profile grants no subjectAltName of type {kind}"
        check = self._checks.get(kind)
        return None if check is None else check(value)

    def _dns(self, value: str) -> str | None:
        rule = self._rule
        if value[0] == "*" and (
            not rule.wildcards or (rule.wildcard_suffixes and not under(value[2:], rule.wildcard_suffixes))
        ):
            return "the profile grants no wildcard" + (" there" if rule.wildcards else "")
        if rule.dns_suffixes and not under(value, rule.dns_suffixes):
            return f"the profile grants names under {', '.join(rule.dns_suffixes)}"
        # A wildcard stands for one label more, whatever it is: so for what is forbidden just below, too.
        if under(value, rule.dns_forbidden) or (
            value[0] == "*" and any(one.partition(".")[2] == value[2:] for one in rule.dns_forbidden)
        ):
            return f"the profile grants no names under {', '.join(rule.dns_forbidden)}"
        return None

    def _ip(self, value: str) -> str | None:
        address = ipaddress.ip_address(value)
        if self._networks and not any(address in network for network in self._networks):
            return f"the profile grants addresses in {', '.join(self._rule.ip_networks)}"
        if self._rule.ip_reserved == "refuse" and not names_.is_public(value):
            return "the profile grants no reserved address (IANA special-purpose registries)"
        return None

    def _uri(self, value: str) -> str | None:
        schemes = self._rule.uri_schemes
        if value.partition(":")[0].lower() not in schemes:
            return f"the profile grants URIs of the schemes {', '.join(schemes)}"
        return None

    def _other_name(self, value: str) -> str | None:
        if value.partition(";")[0] not in self._rule.other_names:
            return f"the profile grants other names of the types {', '.join(self._rule.other_names)}"
        return None


def _domain(value: str, domains: tuple[str, ...]) -> str | None:
    if under(value.rpartition("@")[2], domains):
        return None
    return f"the profile grants names at {', '.join(domains)}"


def check_mail_attribute(subject: Attributes, names: Sequence[str]) -> None:
    """Refuse an emailAddress that is in the subject alone: RFC 5280 4.1.2.6 wants it in subjectAltName."""
    for oid, value in subject:
        if oid == ATTRIBUTES["emailAddress"] and f"email:{names_.email_address(value)}" not in names:
            raise refuse(f"the emailAddress {value!r} is not one of the subjectAltNames (RFC 5280 4.1.2.6)")


def check_common_name(rule: Subject, subject: Attributes, names: Sequence[str]) -> None:
    """Refuse a CN that repeats no subjectAltName, where the profile wants that (BR 7.1.4.3)."""
    if rule.common_name == "any":
        return
    values = {one.partition(":")[2] for one in names}
    for oid, value in subject:
        # The names are ASCII; beyond it, other characters have the same small letter (KELVIN SIGN, k).
        plain = value.lower() if value.isascii() else value
        if oid == ATTRIBUTES["CN"] and plain not in values and value not in values:
            raise refuse(f"the CN {value!r} is not one of the subjectAltNames")
