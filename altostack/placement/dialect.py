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
from altostack.placement.schema import schema_error

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


def render(error: ApiError, request_id: str) -> dict[str, Any]:
    """The list of errors; ``code`` is one of the words above."""
    detail = error.message
    if isinstance(error, BadRequest) and detail.startswith(("Invalid input for", "Additional properties")):
        detail = schema_error(detail, error.field or "", error.values)
    elif isinstance(error, BadRequest) and detail.startswith("Malformed request body:"):
        detail = detail.replace("request body", "JSON", 1)
    elif isinstance(error, BadRequest) and error.field == "body":
        detail = f"Malformed JSON: {detail}"
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
    options=False,
    accept=True,
    media_required=True,
    quotes=True,
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
