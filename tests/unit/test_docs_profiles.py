"""The page about profiles explains every key of the file format, and its examples are good."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from chancery.pkix import rules
from chancery.pkix.name import KINDS as NAME_KINDS
from chancery.pkix.profile import parse_profile, shipped_profiles

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "profiles.md").read_text()
EXAMPLES = sorted((ROOT / "docs" / "profiles").glob("*.toml"))


def _keys(type_, place: str = "") -> set[str]:
    found = set()
    for field in msgspec.inspect.type_info(type_).fields:
        name = f"{place}{field.encode_name}"
        found.add(name)
        for inner in _structs(field.type):
            found |= _keys(inner, f"{name}.")
    return found


def _structs(type_) -> list[type]:
    if isinstance(type_, msgspec.inspect.StructType):
        return [type_.cls]
    inner = [getattr(type_, "item_type", None), *getattr(type_, "types", ())]
    return [one for part in inner if part is not None for one in _structs(part)]


KEYS = _keys(rules.ProfileFile)


@pytest.mark.parametrize("key", sorted(KEYS))
def test_every_key_of_a_profile_is_explained(key):
    assert f"`{key.rsplit('.', 1)[-1]}`" in PAGE


def test_the_keys_of_inner_tables_are_among_them():
    assert {"extensions.qc_statements.limit.currency", "extensions.policies.cps", "validity.ahead"} <= KEYS


@pytest.mark.parametrize(
    "kind", [*NAME_KINDS, *sorted({key for p in shipped_profiles().values() for key in p.keys})]
)
def test_every_type_of_name_and_key_is_mentioned(kind):
    assert f"`{kind}`" in PAGE


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_r9_an_example_is_good_and_linked(path):
    assert path.stem == parse_profile(path.read_text()).name
    assert f"(profiles/{path.name})" in PAGE
