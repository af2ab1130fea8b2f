"""How placement speaks (placement API reference, "Errors"; API working group, "Errors")."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import urlsplit

from altostack.kit import policy
from altostack.kit.call import Call
from altostack.kit.dialect import Dialect
from altostack.kit.errors import ApiError, BadRequest, Conflict

UNDEFINED = "placement.undefined_code"
CONCURRENT_UPDATE = "placement.concurrent_update"
INVENTORY_INUSE = "placement.inventory.inuse"
DUPLICATE_NAME = "placement.duplicate_name"
PROVIDER_INUSE = "placement.resource_provider.inuse"
PROVIDER_IS_PARENT = "placement.resource_provider.cannot_delete_parent"
PROVIDER_NOT_FOUND = "placement.resource_provider.not_found"
DUPLICATE_KEY = "placement.query.duplicate_key"
BAD_VALUE = "placement.query.bad_value"
MISSING_VALUE = "placement.query.missing_value"


# What the reference's validator says of a value that is not as it must be, and the JSON Schema keyword that it broke;
# people and programs look for these words.
_FAILED = (
    ("`key` in", "does not match any of the regexes", "additionalProperties"),
    ("matching regex '^[0-9a-fA-F]", "is not a 'uuid'", "format"),
    ("matching regex", "does not match", "pattern"),
    ("`str` of length <=", "is too long", "maxLength"),
    ("`str` of length >=", "is too short, should be non-empty", "minLength"),
    ("`array` of length >=", "is too short, should be non-empty", "minItems"),
    ("`object` of length >=", "does not have enough properties, should be non-empty", "minProperties"),
    ("`int` >=", "is less than the minimum", "minimum"),
    ("`int` <=", "is greater than the maximum", "maximum"),
    ("`float` <=", "is greater than the maximum", "maximum"),
    ("is a required property", "", "required"),
    ("Additional properties are not allowed", "", "additionalProperties"),
    ("Expected `", "is not of the type", "type"),
)


def schema_error(detail: str, field: str = "") -> str:
    """A complaint about ``field`` of a body in the reference's words."""
    for sign, words, keyword in _FAILED:
        if sign in detail:
            spot = "".join(
                f"['properties']['{part}']" for part in field.split(".") if part not in ("", "body")
            )
            said = f"{detail} The value {words}." if words else detail
            return f"JSON does not validate: {said} Failed validating {keyword!r} in schema{spot}"
    return f"JSON does not validate: {detail}"


def render(error: ApiError, request_id: str) -> dict[str, Any]:
    """The list of errors; ``code`` is one of the words above."""
    detail = error.message
    if isinstance(error, BadRequest) and detail.startswith(("Invalid input for", "Additional properties")):
        detail = schema_error(detail, error.field or "")
    elif isinstance(error, BadRequest) and detail.startswith("Malformed request body:"):
        detail = detail.replace("request body", "JSON", 1)
    found = {
        "status": error.code,
        "title": error.title,
        "detail": detail,
        "code": error.kind if error.kind.startswith("placement.") else UNDEFINED,
        "request_id": request_id,
    }
    for name in ("min_version", "max_version"):
        if name in error.detail:
            found[name] = error.detail[name]
    return {"errors": [found]}


# Placement is asked by services and by a project's administrators; whoever is scoped to the system has no business here
# (scope_types "project" in the reference's policies).
SERVICE = f"({policy.SERVICE}) and not system_scope:all"
READER = f"({policy.READER}) and not system_scope:all"
RESHAPE = "role:service and not system_scope:all"

DIALECT = Dialect(
    error=render,
    policy_name=lambda resource, op: f"placement:{resource.name}:{op}",
    envelope=False,
    # Placement names things by the thousand in one body (all inventories, all traits of a provider).
    max_body=1 << 20,
)


def moved(message: str) -> Conflict:
    """The 409 for a generation that is not the current one: read again, then try again."""
    return Conflict(message, kind=CONCURRENT_UPDATE)


def bad_query(message: str, code: str = UNDEFINED) -> BadRequest:
    """The 400 for a query string."""
    return BadRequest(message, kind=code)


def fresh(call: Call, *modified: datetime) -> None:
    """The caching headers that answers with a body carry since 1.15; the time is now when no row tells one."""
    if call.at_least("1.15"):
        moment = max(modified, default=datetime.now(UTC))
        call.headers["Last-Modified"] = format_datetime(moment, usegmt=True)
        call.headers["Cache-Control"] = "no-cache"


def path(call: Call, *parts: str) -> str:
    """A link: the path of a resource below the host, as placement writes links."""
    return "/".join((urlsplit(call.runtime.url).path.rstrip("/"), *parts))


def located(call: Call, *parts: str) -> None:
    """The Location header."""
    call.headers["Location"] = "/".join((call.runtime.url, *parts))
