"""How the image API speaks (Image Service API v2): no envelopes, JSON patches, paging by ``next``."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from altostack.kit.call import Call
from altostack.kit.dialect import Dialect
from altostack.kit.errors import ApiError, BadRequest, NotFound
from altostack.kit.listing import equals, read_time
from altostack.kit.resource import Column, Resource

PATCH_MEDIA = "application/openstack-images-v2.1-json-patch"
_COMPARE = ("gt", "gte", "lt", "lte", "eq", "neq")


def error(error: ApiError, request_id: str) -> Any:
    """The JSON form of the service's errors."""
    return {"message": error.message, "code": f"{error.code} {error.title}", "title": error.title}


def not_found(resource: Resource, key: str) -> ApiError:
    return NotFound(f"No {resource.name} found with ID {key}", field=f"{resource.name}_id")


def policy_name(resource: Resource, op: str) -> str:
    names = {
        "list": f"get_{resource.collection}",
        "show": f"get_{resource.name}",
        "create": f"add_{resource.name}",
    }
    return names.get(op) or f"{ {'update': 'modify'}.get(op, op) }_{resource.name}"


def filter_column(call: Call, column: Column, values: list[str]) -> Any:
    """``in:a,b`` for lists, ``gt:TIME`` and its kin for times, else equality."""
    value = values[-1]
    word, colon, rest = value.partition(":")
    if column.attr in ("created_at", "updated_at"):
        if not colon or word not in _COMPARE:
            word, rest = "eq", value
        try:
            moment = read_time(rest)
        except ValueError as problem:
            raise BadRequest(f"Invalid time value: {rest!r}.", field=column.wire) from problem
        sql = column.sql
        return {
            "gt": sql > moment, "gte": sql >= moment, "lt": sql < moment, "lte": sql <= moment, "eq": sql == moment,
            "neq": sql != moment,
        }[word]  # fmt: skip
    if colon and word == "in":
        return equals(column, [part.strip().strip('"') for part in rest.split(",")])
    return equals(column, [value])


def page_links(call: Call, resource: Resource, rows: list[Any], more: bool) -> dict[str, Any]:
    """``first``, ``next`` and ``schema``."""
    base = f"/v2{resource.base}"
    kept = [(name, value) for name, values in call.query.items() if name != "marker" for value in values]
    found: dict[str, Any] = {
        "first": base + (f"?{urlencode(kept)}" if kept else ""),
        "schema": f"/v2/schemas/{resource.collection}",
    }
    if more:
        found["next"] = f"{base}?{urlencode([*kept, ('marker', rows[-1].id)])}"
    return found


DIALECT = Dialect(
    error=error,
    policy_name=policy_name,
    envelope=False,
    update_method="PATCH",
    filter=filter_column,
    page_links=page_links,
    default_limit=25,
    not_found=not_found,
    media=("application/json", PATCH_MEDIA, "application/openstack-images-v2.0-json-patch"),
    max_body=262_144,
)
