"""Bodies made from the types that validate them."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import inspect

# What patterns ask for: ids, names in capitals, names of one's own.
_WORDS = ("00000000-0000-4000-8000-00000000dead", "X", "CUSTOM_X", "1")


def sample(kind: Any) -> Any:
    """The smallest JSON value that ``kind`` accepts, with only what is required."""
    return _of(inspect.type_info(kind), 0)


def _of(info: inspect.Type, depth: int) -> Any:
    if depth > 8:
        return None
    match info:
        case inspect.StructType() | inspect.TypedDictType() | inspect.DataclassType():
            return {f.encode_name: _of(f.type, depth + 1) for f in info.fields if f.required}
        case inspect.StrType():
            plain = "x" * max(1, info.min_length or 1)
            return next((word for word in (plain, *_WORDS) if re.search(info.pattern or "", word)), plain)
        case inspect.IntType():
            return max(1 if info.ge is None else info.ge, 1 if info.gt is None else info.gt + 1)
        case inspect.FloatType():
            return 1.0
        case inspect.BoolType():
            return True
        case inspect.NoneType():
            return None
        case inspect.ListType() | inspect.SetType() | inspect.VarTupleType():
            return [_of(info.item_type, depth + 1)] * (info.min_length or 0)
        case inspect.DictType(min_length=int(least)) if least > 0:
            return {_of(info.key_type, depth + 1): _of(info.value_type, depth + 1)}
        case inspect.DictType() | inspect.AnyType():
            return {}
        case inspect.UnionType():
            kinds = [kind for kind in info.types if not isinstance(kind, inspect.NoneType)]
            return _of(kinds[0], depth + 1) if kinds else None
        case inspect.LiteralType():
            return info.values[0]
        case inspect.EnumType():
            return next(iter(info.cls)).value
        case inspect.DateTimeType():
            return "2030-01-01T00:00:00Z"
        case inspect.UUIDType():
            return "00000000-0000-4000-8000-000000000000"
        case inspect.Metadata():
            return _of(info.type, depth + 1)
        case inspect.RawType():
            return msgspec.Raw(b"{}")
    raise TypeError(f"no sample for {info}")
