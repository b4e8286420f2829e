"""A profile in words: what its certificates hold, what a requestor may say, and how two of them differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from chancery.pkix.granting import Profile
from chancery.pkix.subject_rules import Subject

Pairs = list[tuple[str, str]]


def describe(profile: Profile) -> Pairs:
    """Return what a profile says as (what, in words), in the order of its file."""
    pairs = [
        ("name", profile.name),
        ("version", str(profile.version)),
        ("SHA-256", profile.sha256.hex()),
        ("description", profile.description),
        ("where", "in a ceremony of the offline CA (R8)" if profile.ceremony else "online"),
        ("keys", ", ".join(sorted(profile.keys))),
        ("signed by", " or ".join(sorted(profile.signature_algorithms)) or "whatever the issuer signs by"),
        ("validity", _validity(profile)),
    ]
    pairs += [(f"subject {short}", words) for short, words in _subject(profile.subject)]
    pairs += [(f"name {kind}:", words) for kind, words in _names(profile)]
    pairs += [(key, words) for key, words in _extensions(profile)]
    return pairs


def requestable(profile: Profile) -> Pairs:
    """Return what a requestor may say under this profile, and what becomes of the rest."""
    subject, names, rule = profile.subject, profile.names, profile.extensions
    return [
        ("subject", _listed([*subject.required, *(f"[{one}]" for one in subject.optional)])),
        ("names", _listed([f"{one}:…" for one in names.types])),
        ("extended key usage", _listed(rule.extended_key_usage_allowed)),
        ("extensions", _listed([f"{one.oid}{' (needed)' if one.required else ''}" for one in rule.requested])),
        ("validity", "yes" if profile.validity.requested == "allow" else "-"),
        (
            "anything else",
            ", ".join(
                f"{what} {_fate(fate)}"
                for what, fate in (
                    ("in the subject", subject.unlisted),
                    ("a name", names.unlisted),
                    ("an extension", rule.unlisted),
                    ("a validity", profile.validity.requested),
                )
            ),
        ),
    ]


def differences(old: Profile, new: Profile) -> list[tuple[str, str, str]]:
    """Return (key, before, after) of every key that the two profiles set differently, left out or not."""
    before, after = dict(_flat(_whole(old))), dict(_flat(_whole(new)))
    keys = [*before, *(key for key in after if key not in before)]
    return [(key, before.get(key, "-"), after.get(key, "-")) for key in keys if before.get(key) != after.get(key)]


def _whole(profile: Profile) -> Mapping[str, Any]:
    tables = ("validity", "subject", "names", "extensions", "second_opinions")
    plain = ("name", "version", "description", "ceremony", "default_issuer")
    return {
        **{key: getattr(profile, key) for key in plain},
        "keys": sorted(profile.keys),
        "signature_algorithms": sorted(profile.signature_algorithms),
        **{key: msgspec.to_builtins(getattr(profile, key)) for key in tables},
    }


def _flat(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of a tree of tables, as dotted key and text; an empty list or table is none."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{place}.{key}" if place else key)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        if value and all(isinstance(one, str) for one in value):
            yield place, ", ".join(value)
        else:
            for number, inner in enumerate(value, 1):
                yield from _flat(inner, f"{place}[{number}]")
    elif value is not None:
        yield place, str(value).lower() if isinstance(value, bool) else str(value)


def _listed(values: Sequence[str]) -> str:
    return " ".join(values) or "-"


_FATES = {"refuse": "is refused", "drop": "is dropped and said", "allow": "is granted within its bounds"}


def _fate(unlisted: str) -> str:
    return _FATES[unlisted]


def _validity(profile: Profile) -> str:
    rule = profile.validity
    words = [f"{rule.length()}", f"from {rule.backdate} before issuance"]
    words.append("never past the issuer's end" if rule.past_issuer == "refuse" else "cut at the issuer's end")
    if rule.requested == "allow":
        words.append(f"or as asked for: {rule.shortest()} to {rule.longest()}, from up to {rule.ahead} ahead")
    return ", ".join(words)


def _subject(rule: Subject) -> Iterator[tuple[str, str]]:
    for short in (*rule.fixed, *rule.required, *rule.optional):
        if short in rule.fixed:
            yield short, f"always {rule.fixed[short]!r}"
            continue
        words = ["required" if short in rule.required else "optional", f"at most {rule.bound(short)} characters"]
        words += [f"{rule.default[short]!r} where nothing is said"] if short in rule.default else []
        words += [f"matches {rule.pattern[short]}"] if short in rule.pattern else []
        words += [f"at most {rule.count(short)} times"] if rule.count(short) > 1 else []
        words += [f"as {rule.string_type[short]}"] if short in rule.string_type else []
        words += [f"({rule.custom[short]})"] if short in rule.custom else []
        yield short, ", ".join(words)
    if rule.order:
        yield "order", ", ".join(rule.order)
    if rule.common_name != "any":
        yield "CN", "repeats one of the names"


def _names(profile: Profile) -> Iterator[tuple[str, str]]:
    rule = profile.names
    bounds = {
        "dns": [
            ("under", rule.dns_suffixes),
            ("not under", rule.dns_forbidden),
            ("wildcards", rule.wildcard_suffixes or (("anywhere",) if rule.wildcards else ())),
        ],
        "ip": [("in", rule.ip_networks), ("not", ("reserved",) if rule.ip_reserved == "refuse" else ())],
        "email": [("at", rule.email_domains)],
        "smtputf8": [("at", rule.email_domains)],
        "uri": [("of the schemes", rule.uri_schemes)],
        "upn": [("at", rule.upn_realms)],
        "othername": [("of the types", rule.other_names)],
    }
    for kind in rule.types:
        words = ["required"] if kind in rule.required_types else []
        words += [f"{what} {', '.join(which)}" for what, which in bounds.get(kind, []) if which]
        words.append(f"at most {rule.max_of.get(kind, rule.max)}")
        yield kind, "; ".join(words)
    if rule.required:
        yield "any", "one at least"


def _extensions(profile: Profile) -> Iterator[tuple[str, str]]:
    """What is set and is not the default; basicConstraints and key identifiers are always there."""
    rule = profile.extensions
    default = dict(_flat(msgspec.to_builtins(type(rule)())))
    for key, value in _flat(msgspec.to_builtins(rule)):
        if default.get(key) != value or key == "pointers":
            yield key.replace("_", " "), value
