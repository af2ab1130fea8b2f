"""How the identity service speaks: error bodies, links, filters, and what its policy rules see.

Source: Identity API v3 reference; times are UTC with microseconds (``2026-01-31T12:00:00.000000``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import sqlalchemy as sa

from altostack.kit.call import Call
from altostack.kit.dialect import Dialect, hex_uuid, iso_micro
from altostack.kit.errors import ApiError, NotFound
from altostack.kit.listing import equals
from altostack.kit.resource import Column, Resource


def render(error: ApiError, request_id: str) -> dict[str, Any]:
    """``{"error": {"code", "message", "title"}}``."""
    message = error.message
    if rule := error.detail.get("rule"):
        message = f"You are not authorized to perform the requested action: {rule}."
    return {"error": {"code": error.code, "message": message, "title": error.title}}


def policy_name(resource: Resource, op: str) -> str:
    """``identity:list_users``, ``identity:get_user``, ``identity:create_user``."""
    if op == "list":
        return f"identity:list_{resource.collection}"
    return f"identity:{'get' if op == 'show' else op}_{resource.name}"


def missing(resource: Resource, key: str) -> ApiError:
    """The 404 of this service."""
    return NotFound(f"Could not find {resource.name.replace('_', ' ')}: {key}.", field=f"{resource.name}_id")


def target(call: Call, row: Any) -> Mapping[str, Any]:
    """What rules see: ``target.<noun>.<column>`` of a row; of a domain's token, that domain in every place."""
    if row is None:
        own = call.context.domain_id
        mine = ("user_id", "target.user.id", "target.credential.user_id", "target.trust.trustor_user_id")
        found: dict[str, Any] = dict.fromkeys(mine, call.context.user_id)
        if own is not None:
            found["target.domain_id"] = found["target.domain.id"] = own
            found |= {f"target.{noun}.domain_id": own for noun in ("user", "group", "project")}
        return found
    return seen(row)


def seen(*rows: Any) -> dict[str, Any]:
    """The policy target of several rows together; None stands for one that is not there."""
    found: dict[str, Any] = {}
    for row in rows:
        if row is None:
            continue
        for attribute in sa.inspect(type(row)).column_attrs:
            found[f"target.{row.noun}.{attribute.key}"] = getattr(row, attribute.key)
        if row.noun == "user":
            found["user_id"] = row.id
        elif hasattr(row, "user_id"):
            found["user_id"] = found["target.user.id"] = row.user_id
    return found


def links(call: Call, resource: Resource, rows: list[Any], more: bool) -> dict[str, Any]:
    """The collection's ``links``; ``truncated`` when a page is not the last."""
    following = None
    if more and rows:
        query = {name: values for name, values in call.query.items() if name != "marker"}
        query["marker"] = [rows[-1].id]
        following = f"{call.runtime.url}{call.request.path}?{urlencode(query, doseq=True)}"
    found: dict[str, Any] = {"links": {"next": following, "self": own_url(call), "previous": None}}
    return found | {"truncated": True} if more else found


def own_url(call: Call) -> str:
    """The URL of the request as clients see it."""
    query = call.request.query_string
    return f"{call.runtime.url}{call.request.path}" + (f"?{query}" if query else "")


def collection(call: Call, name: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """A list that is not paged."""
    return {name: found, "links": {"next": None, "self": own_url(call), "previous": None}}


_NO = {"false", "f", "no", "n", "off", "0"}


def condition(call: Call, column: Column, values: list[str]) -> Any:
    """Equality; a boolean filter is true by every word that does not say no, and by its mere presence."""
    if column.type is bool:
        return column.sql.is_(values[-1].strip().lower() not in _NO)
    return equals(column, values)


def flag(call: Call, name: str) -> bool:
    """A query parameter that is true by being there, and false as ``0``."""
    return name in call.query and call.arg(name) != "0"


_HOW: dict[str, Callable[[Any, str], Any]] = {
    # Comparisons that mean the same on every database: LIKE minds case on some and not on others.
    "contains": lambda column, text: sa.func.replace(column, text, "") != column,
    "startswith": lambda column, text: sa.func.substr(column, 1, len(text)) == text,
    "endswith": lambda column, text: sa.and_(
        sa.func.char_length(column) >= len(text),
        sa.func.substr(column, sa.func.char_length(column) - len(text) + 1, len(text)) == text,
    ),
}


def inexact(**texts: Any) -> dict[str, Callable[[Call, list[str]], Any]]:
    """Filters such as ``name__contains`` and ``name__icontains`` for text columns, by wire name."""
    found: dict[str, Callable[[Call, list[str]], Any]] = {}
    for wire, column in texts.items():
        for how in _HOW:
            found[f"{wire}__{how}"] = _comparison(column, how, fold=False)
            found[f"{wire}__i{how}"] = _comparison(column, how, fold=True)
    return found


def _comparison(column: Any, how: str, *, fold: bool) -> Callable[[Call, list[str]], Any]:
    def compare(call: Call, values: list[str]) -> Any:
        text = values[-1]
        if not text:
            return None
        return _HOW[how](sa.func.lower(column), text.lower()) if fold else _HOW[how](column, text)

    return compare


_TELL = {("domain", "update"), ("domain", "delete"), ("group", "delete")}


def refuse_first(resource: Resource, op: str) -> bool:
    """Upstream asks policy about ids that are not there, except here, where everybody gets the 404."""
    return resource.name not in ("role", "trust") and (resource.name, op) not in _TELL


DIALECT = Dialect(
    error=render, policy_name=policy_name, target=target, refuse_first=refuse_first, time=iso_micro, new_id=hex_uuid,
    update_method="PATCH", open_bodies=True, filter=condition, page_links=links, not_found=missing, head=True,
    zero_limit="max",
)  # fmt: skip
