"""A service's manner of speaking: error bodies, envelopes, status codes, paging words.

The services of the field differ in these and in little else; each declares one `Dialect`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from altostack.kit.errors import ApiError, NotFound

if TYPE_CHECKING:
    from altostack.kit.call import Call
    from altostack.kit.resource import Column, Resource


def iso(moment: datetime) -> str:
    """``2026-01-31T12:00:00Z`` (compute, network, image)."""
    return moment.isoformat(timespec="seconds")[:19] + "Z"  # strftime takes ten times as long


def iso_micro(moment: datetime) -> str:
    """``2026-01-31T12:00:00.000000`` (block storage; identity adds a Z)."""
    return moment.isoformat(timespec="microseconds")[:26]


def dashed_uuid() -> str:
    """A uuid4 with its dashes."""
    return str(uuid.uuid4())


def hex_uuid() -> str:
    """A uuid4 as 32 hexadecimal digits (identity's ids)."""
    return uuid.uuid4().hex


def no_links(call: Call, resource: Resource, rows: list[Any], more: bool) -> dict[str, Any]:
    """No paging links."""
    return {}


def not_found(resource: Resource, key: str) -> ApiError:
    """The plain 404."""
    return NotFound(f"{resource.name} {key} could not be found.", field=f"{resource.name}_id")


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How one service speaks.

    error: ``(error, request_id) -> JSON body``. policy_name: ``(resource, operation) -> the policy's name``.
    detail: lists are brief and ``<plural>/detail`` is long. lax: "1" may stand for 1 in bodies.
    target: ``(call, row or None) -> what policy rules see`` of a row, or of the caller's own scope for None, where a
    service's rules name it otherwise than by column. refuse_first: policy is asked even about a row that is not
    there (about the path's parameters), so that whom a 403 awaits does not learn from a 404 which ids exist; or
    ``(resource, operation) -> bool``.
    open_bodies: keys that the schema does not know are let through (identity's historic habit); see `Resource.extra`.
    all_projects: the query word by which an admin asks for every project's rows; None = an admin always sees all.
    all_projects_strict: others who use the word get a 403, not just their own rows.
    strict_query: an unknown query parameter is a 400 instead of being ignored; or ``(call) -> bool``.
    sort: ``(call) -> [(wire name, descending)]`` from the query; None = ``sort_key``/``sort_dir``/``sort``.
    filter: ``(call, column, values) -> SQL condition`` or None for plain equality.
    page_links: ``(call, resource, rows, more) -> keys added to the list's body``.
    max_limit: rows a page at most. default_limit: how many when the caller names no limit (None: max_limit).
    zero_limit: what ``limit=0`` means: "empty", "max" or "bad".
    head: HEAD is answered wherever GET is. options: OPTIONS is answered (with Allow) instead of refused (405).
    media: other JSON media types that bodies may carry. media_required: a body must say its type.
    accept: what cannot take JSON is refused (406), and errors are HTML for callers that take only that.
    quotes: errors carry what stood where a body was wrong (`ApiError.values`); not where bodies hold secrets.
    """

    error: Callable[[ApiError, str], Any]
    policy_name: Callable[[Resource, str], str]
    target: Callable[[Call, Any], Mapping[str, Any]] | None = None
    refuse_first: bool | Callable[[Resource, str], bool] = False
    time: Callable[[datetime], str] = iso
    new_id: Callable[[], str] = dashed_uuid
    envelope: bool = True
    detail: bool = False
    update_method: str = "PUT"
    create_status: int = 201
    update_status: int = 200
    delete_status: int = 204
    action_status: int = 202
    lax: bool = False
    open_bodies: bool = False
    all_projects: str | None = None
    all_projects_strict: bool = False
    strict_query: bool | Callable[[Call], bool] = False
    sort: Callable[[Call], list[tuple[str, bool]]] | None = None
    filter: Callable[[Call, Column, list[str]], Any] | None = None
    page_links: Callable[[Call, Resource, list[Any], bool], dict[str, Any]] = no_links
    select: str | None = None  # the query word that picks fields of the answer
    max_limit: int = 1000
    default_limit: int | None = None
    zero_limit: str = "empty"
    head: bool = False
    options: bool = True
    not_found: Callable[[Resource, str], ApiError] = not_found
    over_quota: int = 403
    media_error: int = 415
    max_body: int = 114_688
    media: tuple[str, ...] = ("application/json",)
    media_required: bool = False
    accept: bool = False
    quotes: bool = False
    www_authenticate: bool = True
