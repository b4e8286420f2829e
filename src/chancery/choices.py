"""What a key of a decoded type may say, where that is a closed list."""

from __future__ import annotations

from typing import Any

import msgspec.inspect


def choices_of(type_: Any, key: str) -> list[str]:
    """Return what a key of this name may say, where that is a closed list; msgspec's message leaves it out."""
    found: dict[str, None] = {}
    waiting: list[msgspec.inspect.Type] = [msgspec.inspect.type_info(type_)]
    while waiting:
        match waiting.pop():
            case msgspec.inspect.UnionType(types=types):
                waiting += types
            case msgspec.inspect.ListType(item_type=item) | msgspec.inspect.VarTupleType(item_type=item):
                waiting.append(item)
            case msgspec.inspect.StructType(fields=fields, tag_field=tag_field, tag=tag):
                waiting += [field.type for field in fields]
                named = [field.type for field in fields if field.encode_name == key]
                values = [one.values for one in named if isinstance(one, msgspec.inspect.LiteralType)]
                found |= dict.fromkeys(str(value) for some in values for value in some)
                if tag_field == key:
                    found[str(tag)] = None
    return sorted(found)
