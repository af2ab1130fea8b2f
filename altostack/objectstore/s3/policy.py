"""Bucket policies: who may do what with a bucket and its objects, in the JSON language of IAM.

Sources: Amazon S3 user guide, "Bucket policies" and "Actions, resources and condition keys"; IAM user guide, "IAM JSON
policy elements". A project is an account: its id stands for all its users, as does ``arn:aws:iam::<id>:root``; one
user is ``arn:aws:iam::<project id>:user/<user's id or name>``.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Literal

from altostack.objectstore.s3.errors import S3Error

MAX_SIZE: Final = 20 << 10
_ARN: Final = "arn:aws:s3:::"
_OPERATORS: Final = (
    "StringEquals", "StringNotEquals", "StringEqualsIgnoreCase", "StringNotEqualsIgnoreCase", "StringLike",
    "StringNotLike", "NumericEquals", "NumericNotEquals", "NumericLessThan", "NumericLessThanEquals",
    "NumericGreaterThan", "NumericGreaterThanEquals", "DateEquals", "DateNotEquals", "DateLessThan",
    "DateLessThanEquals", "DateGreaterThan", "DateGreaterThanEquals", "Bool", "IpAddress", "NotIpAddress", "ArnEquals",
    "ArnNotEquals", "ArnLike", "ArnNotLike", "Null",
)  # fmt: skip
_STATEMENT: Final = frozenset(
    {
        "Sid",
        "Effect",
        "Principal",
        "NotPrincipal",
        "Action",
        "NotAction",
        "Resource",
        "NotResource",
        "Condition",
    }
)

Verdict = Literal["Allow", "Deny"] | None
Lookup = Callable[[str], Sequence[str] | None]


@dataclass(frozen=True, slots=True)
class Who:
    """A principal. ids: every name under which a policy may mean them; empty for an anonymous one."""

    ids: frozenset[str] = frozenset()

    def alone(self, project: str) -> Who:
        """Without the names that mean all of the project's users."""
        return Who(self.ids - {project, f"arn:aws:iam::{project}:root"})


def who(project: str, user_id: str, user_name: str) -> Who:
    """A user of a project."""
    arn = f"arn:aws:iam::{project}"
    return Who(
        frozenset({project, f"{arn}:root", f"{arn}:user/{user_id}", f"{arn}:user/{user_name}", user_id})
    )


def wrong(message: str) -> S3Error:
    return S3Error("MalformedPolicy", message)


def check(text: bytes, bucket: str) -> dict[str, Any]:
    """A bucket policy as a client sends it. Raises S3Error."""
    if len(text) > MAX_SIZE:
        raise S3Error("MaxMessageLengthExceeded", "A policy may have 20 KiB at most.")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise wrong("Policies must be valid JSON and the first byte must be '{'") from None
    if not isinstance(found, dict) or set(found) - {"Version", "Id", "Statement"}:
        raise wrong("Syntax errors in policy.")
    if found.get("Version") not in ("2012-10-17", "2008-10-17", None):
        raise wrong("The policy must contain a valid version string")
    statements = _list(found.get("Statement"))
    if not statements:
        raise wrong("Missing required field Statement")
    for statement in statements:
        _check_statement(statement, bucket)
    return found


def _check_statement(one: Any, bucket: str) -> None:
    if not isinstance(one, dict) or set(one) - _STATEMENT:
        raise wrong("Syntax errors in policy.")
    if one.get("Effect") not in ("Allow", "Deny"):
        raise wrong("Invalid effect")
    for name in ("Principal", "Action", "Resource"):
        given = [word for word in (name, f"Not{name}") if word in one]
        if len(given) != 1:
            raise wrong(
                f"Missing required field {name}" if not given else f"{name} and Not{name} exclude each other"
            )
    principal = one.get("Principal", one.get("NotPrincipal"))
    if isinstance(principal, dict):
        if not principal or set(principal) - {"AWS", "CanonicalUser", "Service", "Federated"}:
            raise wrong("Invalid principal in policy")
        values = [value for part in principal.values() for value in _list(part)]
    else:
        values = [principal]
        if principal != "*":
            raise wrong("Invalid principal in policy")
    if one.get("NotPrincipal") is not None and one["Effect"] == "Allow":
        raise wrong("Allow with NotPrincipal is not allowed")
    if not values or not all(isinstance(value, str) for value in values):
        raise wrong("Invalid principal in policy")
    for action in _list(one.get("Action", one.get("NotAction"))):
        if not isinstance(action, str) or not (action == "*" or action.lower().startswith("s3:")):
            raise wrong("Policy has invalid action")
    for resource in _list(one.get("Resource", one.get("NotResource"))):
        plain = resource.removeprefix(_ARN) if isinstance(resource, str) else ""
        if not isinstance(resource, str) or not resource.startswith(_ARN) or plain.split("/", 1)[0] != bucket:
            raise wrong("Policy has invalid resource")
    conditions = one.get("Condition", {})
    if not isinstance(conditions, dict):
        raise wrong("Invalid condition")
    for operator, tests in conditions.items():
        if _operator(operator)[1] not in _OPERATORS or not isinstance(tests, dict):
            raise wrong(f"Invalid Condition type : {operator}")
        for values in tests.values():
            for value in _list(values):
                _check_value(_operator(operator)[1], value)


def _check_value(operator: str, value: Any) -> None:
    if not isinstance(value, str | bool | int | float):
        raise wrong("Invalid condition value")
    try:
        if operator.endswith("IpAddress"):
            ipaddress.ip_network(str(value), strict=False)
        elif operator.startswith("Numeric"):
            float(value)
        elif operator.startswith("Date"):
            _date(str(value))
    except ValueError:
        raise wrong("Invalid condition value") from None


def _operator(word: str) -> tuple[str, str, bool]:
    """("ForAnyValue", "ForAllValues" or "", operator, whether a missing key fulfils it)."""
    quantifier, colon, rest = word.rpartition(":")
    if colon and quantifier not in ("ForAnyValue", "ForAllValues"):
        return "", "", False
    plain = rest.removesuffix("IfExists")
    return quantifier, plain, plain != rest


def _list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


# ---- judgement


def judge(policy: Mapping[str, Any], principal: Who, action: str, resource: str, lookup: Lookup) -> Verdict:
    """What a policy says. ``resource``: "bucket" or "bucket/key". ``lookup``: the values of a condition key."""
    verdict: Verdict = None
    for one in _list(policy.get("Statement")):
        if verdict is not None and one["Effect"] == "Allow":
            continue
        if (
            _acts(one, action)
            and _concerns(one, resource)
            and _means(one, principal)
            and all(_holds(word, tests, lookup) for word, tests in one.get("Condition", {}).items())
        ):
            if one["Effect"] == "Deny":
                return "Deny"
            verdict = "Allow"
    return verdict


def public(policy: Mapping[str, Any]) -> bool:
    """Whether it lets in everybody: an Allow for all principals without a condition that names where they come from."""
    narrow = ("aws:sourceip", "aws:principalaccount", "aws:principalarn", "aws:userid", "aws:sourcearn")
    return any(
        one["Effect"] == "Allow"
        and _everybody(one)
        and not any(key.lower() in narrow for tests in one.get("Condition", {}).values() for key in tests)
        for one in _list(policy.get("Statement"))
    )


def _everybody(one: Mapping[str, Any]) -> bool:
    principal = one.get("Principal")
    if isinstance(principal, dict):
        return "*" in _list(principal.get("AWS"))
    return principal == "*"


def _means(one: Mapping[str, Any], principal: Who) -> bool:
    if "NotPrincipal" in one:
        return not _named(one["NotPrincipal"], principal)
    return _named(one["Principal"], principal)


def _named(said: Any, principal: Who) -> bool:
    if said == "*":
        return True
    for kind in ("AWS", "CanonicalUser"):
        for value in _list(said.get(kind)):
            if value == "*" or value in principal.ids:
                return True
    return False


def _acts(one: Mapping[str, Any], action: str) -> bool:
    said, wanted = _list(one.get("Action", one.get("NotAction"))), action.lower()
    hit = any(_like(wanted, value.lower()) for value in said)
    return hit if "Action" in one else not hit


def _concerns(one: Mapping[str, Any], resource: str) -> bool:
    said = _list(one.get("Resource", one.get("NotResource")))
    hit = any(_like(resource, value.removeprefix(_ARN)) for value in said)
    return hit if "Resource" in one else not hit


@lru_cache(maxsize=4096)
def _pattern(glob: str) -> re.Pattern[str]:
    parts = re.split(r"([*?])", re.sub(r"\*+", "*", glob))
    return re.compile(
        "".join(".*" if part == "*" else "." if part == "?" else re.escape(part) for part in parts), re.DOTALL
    )


def _like(text: str, glob: str) -> bool:
    if "*" not in glob and "?" not in glob:
        return text == glob
    if glob.count("*") > 3:  # a regular expression could take for ever
        return _matches(text, glob)
    return _pattern(glob).fullmatch(text) is not None


def _matches(text: str, glob: str) -> bool:
    """As `_pattern`, in time that grows with the product of the lengths at most."""
    at = mark = 0
    star = -1
    here = 0
    while at < len(text):
        if here < len(glob) and glob[here] != "*" and glob[here] in ("?", text[at]):
            at, here = at + 1, here + 1
        elif here < len(glob) and glob[here] == "*":
            star, mark, here = here, at, here + 1
        elif star >= 0:
            mark += 1
            at, here = mark, star + 1
        else:
            return False
    return not glob[here:].strip("*")


def _holds(word: str, tests: Mapping[str, Any], lookup: Lookup) -> bool:
    quantifier, operator, lenient = _operator(word)
    for key, said in tests.items():
        values = [_text(value) for value in _list(said)]
        found = lookup(key)
        if operator == "Null":
            if (found is None) != (values[0].lower() == "true"):
                return False
            continue
        negative = "Not" in operator
        if not found:
            if lenient or quantifier == "ForAllValues" or (negative and not quantifier):
                continue
            return False
        hits = [
            any(_compare(operator.replace("Not", ""), one, value) for value in values) != negative
            for one in found
        ]
        if not (all(hits) if quantifier == "ForAllValues" else any(hits)):
            return False
    return True


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _compare(operator: str, found: str, value: str) -> bool:
    try:
        if operator in ("StringEquals", "ArnEquals"):
            return found == value if operator == "StringEquals" else _like(found, value)
        if operator == "StringEqualsIgnoreCase":
            return found.lower() == value.lower()
        if operator in ("StringLike", "ArnLike"):
            return _like(found, value)
        if operator == "Bool":
            return found.lower() == value.lower()
        if operator == "IpAddress":
            return ipaddress.ip_address(found) in ipaddress.ip_network(value, strict=False)
        if operator.startswith("Numeric"):
            return _ordered(operator.removeprefix("Numeric"), float(found), float(value))
        return _ordered(operator.removeprefix("Date"), _date(found), _date(value))
    except ValueError:
        return False


def _ordered(relation: str, one: float, other: float) -> bool:
    return {
        "Equals": one == other,
        "LessThan": one < other,
        "LessThanEquals": one <= other,
        "GreaterThan": one > other,
        "GreaterThanEquals": one >= other,
    }[relation]


def _date(text: str) -> float:
    if text.isdecimal():
        return float(text)
    found = datetime.fromisoformat(text)
    return (found.replace(tzinfo=UTC) if found.tzinfo is None else found).timestamp()
