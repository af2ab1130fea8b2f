"""How block storage speaks (Block Storage API reference v3)."""

from __future__ import annotations

import ast
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import sqlalchemy as sa

from altostack.kit import listing
from altostack.kit.call import Call
from altostack.kit.dialect import Dialect, iso_micro
from altostack.kit.errors import ApiError, BadRequest, NotFound, OverQuota, TooLarge
from altostack.kit.listing import read_time
from altostack.kit.policy import ADMIN, SERVICE
from altostack.kit.resource import Resource

_FAULTS = {
    400: "badRequest", 401: "unauthorized", 403: "forbidden", 404: "itemNotFound", 405: "badMethod",
    409: "conflictingRequest", 413: "overLimit", 415: "badMediaType", 501: "notImplemented",
    503: "serviceUnavailable",
}  # fmt: skip
_COMPARE = {
    "gt": operator.gt, "gte": operator.ge, "eq": operator.eq, "neq": operator.ne, "lt": operator.lt, "lte": operator.le,
}  # fmt: skip
_RETRY = {"Retry-After": "0"}


def render(error: ApiError, request_id: str) -> dict[str, Any]:
    """``{"itemNotFound": {"code": 404, "message": "..."}}``"""
    code = 413 if isinstance(error, OverQuota) else error.code
    found: dict[str, Any] = {"code": code, "message": error.message}
    if code == 413:
        found["retryAfter"] = error.headers.get("Retry-After", "0")
    return {_FAULTS.get(code, "computeFault"): found}


def not_found(resource: Resource, key: str) -> ApiError:
    """The 404 in the service's words."""
    texts = {
        "volume": f"Volume {key} could not be found.",
        "snapshot": f"Snapshot {key} could not be found.",
        "attachment": f"Volume attachment could not be found with filter: attachment_id = {key}.",
        "volume_type": f"Volume type {key} could not be found.",
        "message": f"Message {key} could not be found.",
    }
    return NotFound(texts.get(resource.name, f"{resource.name} {key} could not be found."))


def invalid_volume(reason: str) -> BadRequest:
    """The 400 for a volume whose state does not allow what was asked."""
    return BadRequest(f"Invalid volume: {reason}", kind="InvalidVolume", field="status")


def invalid_snapshot(reason: str) -> BadRequest:
    """The same for a snapshot."""
    return BadRequest(f"Invalid snapshot: {reason}", kind="InvalidSnapshot", field="status")


def invalid_input(reason: str, field: str | None = None) -> BadRequest:
    """The 400 for input that no schema can judge."""
    return BadRequest(f"Invalid input received: {reason}", kind="InvalidInput", field=field)


_OVER = {
    "volumes": "Maximum number of volumes allowed ({limit}) exceeded for quota 'volumes'.",
    "snapshots": "Maximum number of snapshots allowed ({limit}) exceeded.",
    "gigabytes": "Requested volume or snapshot exceeds allowed gigabytes quota. Requested {requested}G, quota is "
    "{limit}G and {used}G has been consumed.",
}


@contextmanager
def over_limit() -> Iterator[None]:
    """A quota's refusal in the service's words: 413 with Retry-After."""
    try:
        yield
    except OverQuota as error:
        text = _OVER[str(error.detail["quota"])].format(**error.detail)
        raise OverQuota(
            f"{text} (quota {error.detail['quota']}: {error.detail['used']} of {error.detail['limit']} used)",
            field=error.field, detail=error.detail, headers=_RETRY,
        ) from error  # fmt: skip


def too_large(size: int, limit: int) -> TooLarge:
    """The 413 for one volume that is larger than any may be."""
    return TooLarge(
        f"Requested volume size {size}G is larger than maximum allowed limit {limit}G.",
        headers=_RETRY,
        field="per_volume_gigabytes",
    )


# ---- lists


def by_time(column: Any) -> Any:
    """The filter ``created_at=gt:2026-01-01T00:00:00`` and its kin, several with commas (3.60)."""

    def clause(call: Call, values: list[str]) -> Any:
        if not call.at_least("3.60"):
            return None
        found = []
        for part in values[-1].split(","):
            word, colon, text = part.partition(":")
            if not colon or word not in _COMPARE:
                raise BadRequest(f"Invalid {word[:20] or 'empty'} operator", field=column.key)
            try:
                moment = read_time(text)
            except ValueError as error:
                raise BadRequest(f"Invalid {text[:40]} value", field=column.key) from error
            found.append(_COMPARE[word](column, moment))
        return sa.and_(*found)

    return clause


def strict(call: Call) -> bool:
    """Since 3.31 a filter that does not exist is refused, but administrators may send what they like."""
    return call.at_least("3.31") and not call.context.is_admin and call.route.op == "list"


def like(column: Any) -> Any:
    """The filter ``name~=part`` (3.34)."""

    def clause(call: Call, values: list[str]) -> Any:
        return column.contains(values[-1], autoescape=True) if call.at_least("3.34") else None

    return clause


def by_metadata(column: Any, since: str) -> Any:
    """The filter ``metadata={'key': 'value'}``, written as Python or JSON writes it."""

    def clause(call: Call, values: list[str]) -> Any:
        if not call.at_least(since):
            return None
        try:
            found = ast.literal_eval(values[-1]) if len(values[-1]) < 10_000 else None
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found = None
        if not isinstance(found, dict) or not all(
            isinstance(part, str) and '"' not in part for pair in found.items() for part in pair
        ):
            raise invalid_input(f"metadata={values[-1][:80]} is not a dictionary of strings.", "metadata")
        return sa.and_(*(column[key].as_string() == value for key, value in found.items()))

    return clause


def page_links(call: Call, resource: Resource, rows: list[Any], more: bool) -> dict[str, Any]:
    """``volumes_links`` when a page is full, and ``count`` where it was asked for (3.45)."""
    found: dict[str, Any] = {}
    limit = call.number("limit")
    if rows and (more or limit == len(rows)):
        kept = [(name, value) for name, values in call.query.items() for value in values if name != "marker"]
        href = call.link(f"{_scope(call)}{call.route.path}?{urlencode([*kept, ('marker', rows[-1].id)])}")
        word = "volume_type" if resource.name == "volume_type" else resource.collection
        found[f"{word}_links"] = [{"rel": "next", "href": href}]
    if call.at_least("3.45") and resource.name in ("volume", "snapshot") and call.flag("with_count"):
        found["count"] = listing.count(call, resource)
    return found


def _scope(call: Call) -> str:
    return f"/{call.context.project_id}" if call.context.project_id else ""


def links(call: Call, path: str) -> list[dict[str, str]]:
    """``self`` and ``bookmark``."""
    inner = f"{_scope(call)}{path}"
    return [
        {"rel": "self", "href": call.link(inner)},
        {"rel": "bookmark", "href": call.runtime.url + inner},
    ]


# The policy names are the upstream ones; each resource says its own in `Resource.rules`.
ALL = {"all": "context_is_admin"}
RULES = {"context_is_admin": SERVICE, "admin_api": ADMIN}

DIALECT = Dialect(
    error=render,
    policy_name=lambda resource, op: f"volume:{op}_{resource.name}",
    time=iso_micro,
    detail=True,
    create_status=202,
    delete_status=202,
    lax=True,
    all_projects="all_tenants",
    strict_query=strict,
    page_links=page_links,
    not_found=not_found,
    over_quota=413,
)
