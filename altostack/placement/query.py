"""Query strings: amounts, traits, aggregates, groups."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from altostack.kit.call import Call
from altostack.placement.dialect import bad_query

NUMBERED = re.compile(r"^(resources|required|member_of|in_tree)([1-9][0-9]*)?$")
PATTERNS = tuple(
    f"^{name}([a-zA-Z0-9_-]{{1,64}})?$" for name in ("in_tree", "member_of", "required", "resources")
)
NAMED = re.compile(r"^(resources|required|member_of|in_tree)([a-zA-Z0-9_-]{1,64})?$")


@dataclass(kw_only=True)
class Wish:
    """What a provider (or, without a suffix, a set of them) must have.

    required: sets of traits, one of each set must be there. member_of: sets of aggregates, likewise.
    """

    suffix: str = ""
    resources: dict[str, int] = field(default_factory=dict)
    required: list[set[str]] = field(default_factory=list)
    forbidden: set[str] = field(default_factory=set)
    member_of: list[set[str]] = field(default_factory=list)
    outside: set[str] = field(default_factory=set)
    in_tree: str | None = None

    @property
    def traits(self) -> set[str]:
        """Every trait that the wish names."""
        return self.forbidden.union(*self.required)


def check_names(call: Call, known: Mapping[str, str]) -> None:
    """Raises BadRequest for a query parameter that is not in ``known`` (name -> its first version)."""
    for name in call.query:
        if name not in known or not call.at_least(known[name]):
            said = f"Additional properties are not allowed ('{name[:80]}' was unexpected)."
            if "limit" in known:  # groups with suffixes
                said = f"'{name[:80]}' does not match any of the regexes: {', '.join(PATTERNS)}. {said}"
            raise bad_query(f"Invalid query string parameters: {said}")


def is_uuid(text: str) -> bool:
    """Whether ``text`` is a uuid in any of its usual spellings."""
    try:
        return str(uuid.UUID(text)).replace("-", "") == _plain(text)
    except ValueError:
        return False


def _plain(text: str) -> str:
    return text.replace("urn:", "").replace("uuid:", "").strip("{}").replace("-", "").lower()


_FORM = (
    "Badly formed resources parameter. Expected resources query string parameter in form: "
    "?resources=VCPU:2,MEMORY_MB:1024."
)


def amounts(text: str) -> dict[str, int]:
    """``VCPU:2,MEMORY_MB:1024``. Raises BadRequest."""
    if not text.strip():
        raise bad_query(f"{_FORM} Got: empty string.")
    found: dict[str, int] = {}
    for part in text.split(","):
        name, colon, number = part.partition(":")
        if not colon or ":" in number:
            raise bad_query(f"{_FORM} Got: {part[:200]}.")
        if not re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", number, re.ASCII):
            raise bad_query(
                f"Requested resource {name} expected positive integer amount. Got: {number[:40]}."
            )
        if int(number) < 1:
            raise bad_query(f"Requested resource {name} requires amount >= 1. Got: {int(number)}.")
        found[name] = int(number)
    return found


def traits(call: Call, values: Iterable[str], key: str = "required") -> tuple[list[set[str]], set[str]]:
    """``T1,!T2`` and ``in:T3,T4``, as far as the version knows them: (sets of which one each is needed, forbidden)."""
    found = list(values)
    if not call.at_least("1.39"):
        found = found[-1:]
    required: list[set[str]] = []
    forbidden: set[str] = set()
    for text in found:
        if text.startswith("in:"):
            required.append(_any_of(call, text, key))
            continue
        parts = [part.strip() for part in text.split(",")]
        banned = {part.lstrip("!") for part in parts if part.startswith("!")}
        form = "HW_CPU_X86_VMX,!CUSTOM_MAGIC" if call.at_least("1.22") else "HW_CPU_X86_VMX,CUSTOM_MAGIC"
        expected = f"Invalid query string parameters: Expected '{key}' parameter value of the form: {form}."
        if not all(parts) or not all(banned):
            raise bad_query(f"{expected} Got an empty trait in: {text}")
        if banned and not call.at_least("1.22"):
            raise bad_query(f"{expected} Got: {text}")
        required += [{part} for part in parts if not part.startswith("!")]
        forbidden |= banned
    return required, forbidden


def _any_of(call: Call, text: str, key: str) -> set[str]:
    form = "in:HW_CPU_X86_VMX,CUSTOM_MAGIC"
    if not call.at_least("1.39") or key == "root_required":
        raise bad_query(
            f"Invalid query string parameters: The format '{form}' only supported since microversion 1.39. "
            f"Got: {text}"
        )
    found = {part.strip() for part in text[3:].split(",")}
    if not all(found):
        raise bad_query(
            f"Invalid query string parameters: Expected '{key}' parameter value of the form: {form}. "
            f"Got an empty trait in: {text}"
        )
    if any(part.startswith("!") for part in found):
        raise bad_query(
            f"Invalid query string parameters: The format '{form}' does not support forbidden traits. "
            f"Got: {text}"
        )
    return found


def aggregates(call: Call, values: list[str], key: str = "member_of") -> tuple[list[set[str]], set[str]]:
    """``A``, ``in:A,B``, ``!A``, ``!in:A,B``: (sets of which one each is needed, forbidden). Raises BadRequest."""
    if len(values) > 1 and not call.at_least("1.24"):
        raise bad_query(f"Multiple {key} parameters are not supported")
    required: list[set[str]] = []
    forbidden: set[str] = set()
    for text in values:
        ban = text.startswith("!")
        rest = text[1:] if ban else text
        several = rest.startswith("in:")
        if "," in rest and not several:
            raise bad_query(
                "Multiple values for 'member_of' must be prefixed with the 'in:' or '!in:' keyword using the "
                f"valid microversion. Got: {text}"
            )
        found = set(rest[3:].split(",")) if several else {rest}
        for one in found:
            if not is_uuid(one):
                raise bad_query(
                    f"Invalid query string parameters: Expected 'member_of' parameter to contain valid UUID(s). "
                    f"Got: {one}"
                )
        if ban and not call.at_least("1.32"):
            raise bad_query(f"Forbidden {key} parameters are not supported in the specified microversion")
        if ban:
            forbidden |= found
        else:
            required.append(found)
    return required, forbidden


def wish(call: Call, suffix: str = "") -> Wish:
    """The parameters with this suffix. Raises BadRequest."""
    query = call.query
    found = Wish(suffix=suffix)
    if f"resources{suffix}" in query:
        found.resources = amounts(query[f"resources{suffix}"][-1])
    if f"required{suffix}" in query:
        found.required, found.forbidden = traits(call, query[f"required{suffix}"])
    if f"member_of{suffix}" in query:
        found.member_of, found.outside = aggregates(call, query[f"member_of{suffix}"], f"member_of{suffix}")
    if f"in_tree{suffix}" in query:
        tree = query[f"in_tree{suffix}"][-1].strip()
        if not is_uuid(tree):
            raise bad_query(
                f"Invalid query string parameters: Expected 'in_tree' parameter to be a format of uuid. Got: {tree}"
            )
        found.in_tree = tree
    return found
