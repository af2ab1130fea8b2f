"""How the image API speaks (Image Service API v2): no envelopes, JSON patches, paging by ``next``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from altostack.kit.call import Call, own_scope, policy_target
from altostack.kit.dialect import Dialect
from altostack.kit.errors import ApiError, BadRequest, NotFound
from altostack.kit.listing import equals, read_time
from altostack.kit.resource import Column, Resource

PATCH_MEDIA = "application/openstack-images-v2.1-json-patch"
PATCH_MEDIA_OLD = "application/openstack-images-v2.0-json-patch"
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
        return equals(column, _words(column, rest))
    return equals(column, [value])


def _words(column: Column, text: str) -> list[str]:
    """``a,"b,c",d``: values, of which those in quotes may hold commas."""
    if '"' not in text:
        return [part.strip() for part in text.split(",")]
    if not re.fullmatch(r'(\s*("[^"]*"|[^",]*)\s*)(,\s*("[^"]*"|[^",]*)\s*)*', text):
        raise BadRequest(f"Invalid filter value {text!r}: the quotes do not match.", field=column.wire)
    return [part.strip().strip('"') for part in re.findall(r'"[^"]*"|[^",]+', text) if part.strip()]


def target(call: Call, row: Any) -> Mapping[str, Any]:
    """What policy rules see: columns, and the owner as ``project_id`` too, as operators' policy files name it."""
    if row is None:
        return {**own_scope(call.context), "owner": call.context.project_id}
    found = dict(policy_target(row))
    found.setdefault("project_id", found.get("owner"))
    if found.get("visibility") == "shared" and found["owner"] != call.context.project_id:
        found.setdefault("member_id", call.context.project_id)  # else the row had not been loaded
    return found


def page_links(call: Call, resource: Resource, rows: list[Any], more: bool) -> dict[str, Any]:
    """``first``, ``next`` and ``schema``."""
    base = "/v2" + resource.base.format_map(call.params)
    section = "metadefs/" if base.startswith("/v2/metadefs") else ""
    kept = [(name, value) for name, values in call.query.items() if name != "marker" for value in values]
    found: dict[str, Any] = {
        "first": base + (f"?{urlencode(kept)}" if kept else ""),
        "schema": f"/v2/schemas/{section}{resource.collection}",
    }
    if more:
        found["next"] = f"{base}?{urlencode([*kept, ('marker', getattr(rows[-1], resource.lookup))])}"
    return found


DIALECT = Dialect(
    error=error,
    policy_name=policy_name,
    target=target,
    envelope=False,
    filter=filter_column,
    page_links=page_links,
    default_limit=25,
    not_found=not_found,
    media=("application/json", PATCH_MEDIA, PATCH_MEDIA_OLD),
    over_quota=413,
    max_body=262_144,
)
