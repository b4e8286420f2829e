"""
Profiles: what may stand in a certificate, as strict TOML; and what is granted of what is requested.

`parse_profile` refuses a file that says anything it does not know, and a profile whose certificates would
not pass the lints.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import re
import types
from collections.abc import Mapping

import msgspec

from chancery.errors import OperatorError
from chancery.pkix.granting import Granted, IssuerLimits, Profile, Requested, grant, requested
from chancery.pkix.rules import ProfileFile
from chancery.pkix.trial import try_profile

__all__ = [
    "Granted",
    "IssuerLimits",
    "Profile",
    "Requested",
    "grant",
    "parse_profile",
    "requested",
    "shipped_profiles",
]

MAX_SOURCE = 64 * 1024
_NEXT = "correct the profile; the shipped ones are examples, docs/profiles.md explains every key"
_PATH = re.compile(r" - at `\$?\.?([^`]*)`")


@functools.lru_cache(maxsize=64)
def parse_profile(source: str) -> Profile:
    """
    Decode a profile's TOML text, and try it: a certificate for each kind of key has to pass the lints.

    Raises OperatorError naming the key that is wrong and what was expected, or the lints that find fault.
    """
    if len(source) > MAX_SOURCE:
        raise OperatorError(f"a profile of more than {MAX_SOURCE} characters", "give one profile per file")
    try:
        file = msgspec.toml.decode(source, type=ProfileFile)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        found = _PATH.search(str(error))
        where = f"key `{found[1]}`: " if found and found[1] else ""
        raise OperatorError(
            f"the profile is refused: {where}{_PATH.sub('', str(error))}",
            _NEXT,
        ) from None
    try:
        profile = _profile(file, source)
    except ValueError as error:
        raise OperatorError(f"the profile is refused: {error}", _NEXT) from None
    try_profile(profile)
    return profile


def _profile(file: ProfileFile, source: str) -> Profile:
    return Profile(
        name=file.name,
        version=file.version,
        sha256=hashlib.sha256(source.encode()).digest(),
        source=source,
        description=file.description,
        keys=frozenset(file.keys),
        ceremony=file.ceremony,
        default_issuer=file.default_issuer,
        validity=file.validity,
        subject=file.subject,
        names=file.names,
        extensions=file.extensions,
        second_opinions=file.second_opinions,
        signature_algorithms=frozenset(file.signature_algorithms),
    )


@functools.lru_cache(maxsize=1)
def shipped_profiles() -> Mapping[str, Profile]:
    """Return the profiles that come with the suite, by name."""
    folder = importlib.resources.files("chancery.pkix") / "profiles"
    found = {}
    for file in sorted(folder.iterdir(), key=lambda one: one.name):
        if file.name.endswith(".toml"):
            profile = parse_profile(file.read_text(encoding="utf-8"))
            found[profile.name] = profile
    return types.MappingProxyType(found)
