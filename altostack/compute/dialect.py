"""How the compute service speaks. Source: the Compute API reference, v2.1."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from altostack.compute.server_list import sort_keys
from altostack.kit.call import Call
from altostack.kit.dialect import Dialect, iso_micro
from altostack.kit.errors import ApiError, BadRequest, NotFound
from altostack.kit.resource import Resource

_FAULTS = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    409: "conflictingRequest",
    413: "overLimit",
    415: "badMediaType",
    429: "overLimit",
    501: "notImplemented",
    503: "serviceUnavailable",
}
_PREFIX = "os_compute_api:"
_OPS = {"list": "index"}
_NOUNS = {"server": "servers", "flavor": "flavors", "server_group": "os-server-groups"}


def render(error: ApiError, request_id: str) -> dict[str, Any]:
    """``{"itemNotFound": {"code": 404, "message": "..."}}``."""
    return {_FAULTS.get(error.code, "computeFault"): {"code": error.code, "message": error.message}}


def policy_name(resource: Resource, op: str) -> str:
    """``os_compute_api:servers:index``."""
    return f"{_PREFIX}{_NOUNS.get(resource.name, resource.name)}:{_OPS.get(op, op)}"


def not_found(resource: Resource, key: str) -> ApiError:
    """The 404 in the words that clients know."""
    noun = {"server": "Instance", "flavor": "Flavor", "server_group": "Instance group"}.get(
        resource.name, resource.name
    )
    return NotFound(f"{noun} {key} could not be found.", field=f"{resource.name}_id")


def page_links(call: Call, resource: Resource, rows: list[Any], more: bool) -> dict[str, Any]:
    """``servers_links`` with the next page, when there is one."""
    if not more or not rows:
        return {}
    query = [(name, value) for name, values in call.query.items() if name != "marker" for value in values]
    query.append(("marker", str(getattr(rows[-1], resource.lookup))))
    path = call.route.path
    href = call.link(f"{path}?{urlencode(query)}")
    return {f"{resource.collection}_links": [{"rel": "next", "href": href}]}


def links(call: Call, path: str) -> list[dict[str, str]]:
    """``self`` below the versioned root and ``bookmark`` without the version."""
    return [
        {"rel": "self", "href": call.link(path)},
        {"rel": "bookmark", "href": call.runtime.url + path},
    ]


def bookmark(call: Call, path: str) -> list[dict[str, str]]:
    """The unversioned link alone."""
    return [{"rel": "bookmark", "href": call.runtime.url + path}]


def micro(moment: datetime | None) -> str | None:
    """``2026-01-31T12:00:00.000000``: how this API writes some of its times, without a zone."""
    return None if moment is None else iso_micro(moment)


def strict(call: Call) -> bool:
    """Unknown query parameters are refused from 2.75 on."""
    return call.at_least("2.75")


def only(call: Call, *names: str, since: str = "2.102") -> None:
    """Raises BadRequest for a query parameter that is none of ``names``, from version ``since`` on."""
    if call.at_least(since):
        for name in call.query:
            if name not in names:
                raise BadRequest(
                    f"Additional properties are not allowed ('{name}' was unexpected).", field=name
                )


DIALECT = Dialect(
    error=render,
    policy_name=policy_name,
    detail=True,
    create_status=202,
    update_method="PUT",
    delete_status=204,
    action_status=202,
    lax=True,
    all_projects="all_tenants",
    all_projects_strict=True,
    strict_query=strict,
    sort=sort_keys,
    page_links=page_links,
    not_found=not_found,
    max_limit=1000,
    zero_limit="empty",
    max_body=114_688,
)
