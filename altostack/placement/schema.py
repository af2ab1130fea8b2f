"""What is said of a body that breaks its schema.

The reference validates by JSON Schema, and people and programs look for its words: the value, what is wrong with it,
and the keyword that it broke. Source: JSON Schema, draft 4, "Validation keywords".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_TYPES = {"int": "integer", "float": "number", "str": "string", "bool": "boolean"}
_NAMES: dict[type, str] = {
    int: "int", float: "float", str: "str", bool: "bool", list: "array", dict: "object", type(None): "null",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Fault:
    """``sign`` finds msgspec's complaint; ``breaks`` tells whether a value is the cause of it (given what was found).

    words: what is said of the value; {limit} is the sign's first group.
    """

    sign: re.Pattern[str]
    words: str
    keyword: str
    breaks: Callable[[Any, re.Match[str]], bool] = lambda value, found: True


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sized(kind: type) -> Callable[[Any, re.Match[str]], bool]:
    def breaks(value: Any, found: re.Match[str]) -> bool:
        if not isinstance(value, kind):
            return False
        least = ">=" in found.group(0)
        return (
            len(value) < int(found.group("limit")) if least else len(value) > int(found.group("limit"))  # type: ignore[arg-type]  # all three have a length
        )

    return breaks


def _fault(sign: str, words: str, keyword: str, breaks: Any = None) -> Fault:
    more = {} if breaks is None else {"breaks": breaks}
    return Fault(sign=re.compile(sign), words=words, keyword=keyword, **more)


_FAULTS = (
    _fault(r"`key` in", "does not match any of the regexes", "additionalProperties"),
    _fault(
        r"matching regex '\^\[0-9a-fA-F\].*'", "is not a 'uuid'", "format", lambda v, found: isinstance(v, str)
    ),
    _fault(
        r"matching regex '(?P<limit>.*)'", "does not match '{limit}'", "pattern",
        lambda v, found: isinstance(v, str) and not re.search(found.group("limit"), v),
    ),
    _fault(r"`str` of length <= (?P<limit>\d+)", "is too long", "maxLength", _sized(str)),
    _fault(r"`str` of length >= (?P<limit>\d+)", "is too short, should be non-empty", "minLength", _sized(str)),
    _fault(r"`array` of length >= (?P<limit>\d+)", "is too short, should be non-empty", "minItems", _sized(list)),
    _fault(
        r"`object` of length >= (?P<limit>\d+)", "does not have enough properties, should be non-empty",
        "minProperties", _sized(dict),
    ),
    _fault(
        r"`(?:int|float)` >= (?P<limit>\S*\d)", "is less than the minimum of {limit}", "minimum",
        lambda v, found: _number(v) and v < float(found.group("limit")),
    ),
    _fault(
        r"`(?:int|float)` <= (?P<limit>\S*\d)", "is greater than the maximum of {limit}", "maximum",
        lambda v, found: _number(v) and v > float(found.group("limit")),
    ),
    _fault(r"is a required property", "", "required"),
    _fault(r"Additional properties are not allowed", "", "additionalProperties"),
    _fault(
        r"Expected `(?P<limit>[^`]*)`, got `(?P<got>\w+)`", "is not of type {limit}", "type",
        lambda v, found: _NAMES.get(type(v)) == found.group("got"),
    ),
    _fault(r"Expected `(?P<limit>[^`]*)`", "is not of type {limit}", "type"),
)  # fmt: skip


def schema_error(detail: str, field: str = "", values: Sequence[object] = ()) -> str:
    """A complaint about ``field`` of a body in those words; one of ``values`` is to blame, if it is known."""
    for fault in _FAULTS:
        found = fault.sign.search(detail)
        if found is None:
            continue
        names = [name for name in re.findall(r"[^.\[\]]+", field) if name != "body" and not name.isdigit()]
        spot = "".join(f"['properties']['{name}']" for name in names)
        said = detail
        if fault.words:
            limit = found.groupdict().get("limit", "")
            if fault.keyword == "type":
                limit = ", ".join(f"'{_TYPES.get(kind, kind)}'" for kind in limit.split(" | "))
            words = fault.words.replace("{limit}", limit)
            blamed = [value for value in values if fault.breaks(value, found)]
            said = f"{blamed[0]!r:.200} {words}." if blamed else f"{detail} The value {words}."
        return f"JSON does not validate: {said} Failed validating {fault.keyword!r} in schema{spot}"
    return f"JSON does not validate: {detail}"
