"""How the network service speaks: NeutronError bodies, links beside lists, sort pairs, policy names.

Sources: https://docs.openstack.org/api-ref/network/v2/ (general information; error bodies, pagination, sorting).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from altostack.kit.call import Call, own_scope, policy_target
from altostack.kit.dialect import Dialect
from altostack.kit.errors import ApiError, BadRequest, Conflict, NotFound, Unauthorized
from altostack.kit.resource import Resource

MAX_PAGE = 100_000
_HTTP = {
    "BadRequest": "HTTPBadRequest",
    "NotFound": "HTTPNotFound",
    "Forbidden": "PolicyNotAuthorized",
    "MethodNotAllowed": "HTTPMethodNotAllowed",
    "NotAcceptable": "HTTPNotAcceptable",
    "TooLarge": "HTTPRequestEntityTooLarge",
    "UnsupportedMediaType": "HTTPUnsupportedMediaType",
    "Unimplemented": "HTTPNotImplemented",
    "Unavailable": "HTTPServiceUnavailable",
    "ApiError": "HTTPInternalServerError",
}
_MISSING = {
    "network": ("NetworkNotFound", "Network {} could not be found."),
    "subnet": ("SubnetNotFound", "Subnet {} could not be found."),
    "port": ("PortNotFound", "Port {} could not be found."),
    "router": ("RouterNotFound", "Router {} could not be found"),
    "floatingip": ("FloatingIPNotFound", "Floating IP {} could not be found"),
    "security_group": ("SecurityGroupNotFound", "Security group {} does not exist"),
    "security_group_rule": ("SecurityGroupRuleNotFound", "Security group rule {} does not exist"),
    "agent": ("AgentNotFound", "Agent {} could not be found."),
}


def render(error: ApiError, request_id: str) -> Any:
    """The error body. A refused token is answered in the words of the token filter that stands before services."""
    if isinstance(error, Unauthorized):
        return {"error": {"code": 401, "title": "Unauthorized", "message": error.message}}
    return {
        "NeutronError": {"type": _HTTP.get(error.kind, error.kind), "message": error.message, "detail": ""}
    }


def missing(name: str, key: str) -> ApiError:
    """The 404 of one resource."""
    kind, text = _MISSING.get(name, ("HTTPNotFound", "The resource {} could not be found."))
    return NotFound(text.format(key), kind=kind, field=f"{name}_id")


def in_use(kind: str, message: str) -> Conflict:
    """A 409 of the given NeutronError type."""
    return Conflict(message, kind=kind)


def policy_name(resource: Resource, op: str) -> str:
    """``create_network``, ``get_network``, ...; the API names showing and listing alike."""
    verb = "get" if op in ("list", "show") else op
    return f"get_{resource.name}:{op}" if op in ("all", "admin_fields") else f"{verb}_{resource.name}"


def target(call: Call, row: Any) -> Mapping[str, Any]:
    """What policy sees: the row, and under ``network:`` and ``security_group:`` what it belongs to.

    Of nothing in particular it is the caller's own: then rules say what the caller may do at home.
    """
    if row is None:
        own = own_scope(call.context)
        return {**own, "network:project_id": call.context.project_id, "network:shared": False,
                "security_group:project_id": call.context.project_id, "device_owner": ""}  # fmt: skip
    if isinstance(row, Mapping):
        return row
    found = dict(policy_target(row))
    found["tenant_id"] = found.get("project_id")
    if "network_project_id" in found:
        found["network:project_id"] = found["network_project_id"]
    return found


def sort(call: Call) -> list[tuple[str, bool]]:
    """``sort_key`` and ``sort_dir`` in pairs. Raises BadRequest when they do not pair."""
    keys = [key for key in call.query.get("sort_key", []) if key]
    directions = [one for one in call.query.get("sort_dir", []) if one]
    if len(keys) != len(directions):
        raise BadRequest("The number of sort_keys and sort_dirs must be same", field="sort_dir")
    for direction in directions:
        if direction not in ("asc", "desc"):
            raise BadRequest(
                f"{direction} is invalid value for sort_dirs, valid value is 'asc' and 'desc'",
                field="sort_dir",
            )
    named = ["project_id" if key == "tenant_id" else key for key in keys]
    return [(key, direction == "desc") for key, direction in zip(named, directions, strict=True)]


def page_links(call: Call, resource: Resource, rows: list[Any], more: bool) -> dict[str, Any]:
    """``<plural>_links`` with next and previous, as long as the caller pages (or must, past `MAX_PAGE`)."""
    limit = min(call.number("limit", 0) or MAX_PAGE, MAX_PAGE)
    if limit == MAX_PAGE and not more:
        return {}
    reverse = call.flag("page_reverse")
    links = []
    if len(rows) >= limit or reverse:
        links.append({"rel": "next", "href": _link(call, resource, rows[-1:], reverse=False)})
    if len(rows) >= limit or not reverse:
        links.append({"rel": "previous", "href": _link(call, resource, rows[:1], reverse=True)})
    return {f"{resource.collection}_links": links}


def _link(call: Call, resource: Resource, at: list[Any], *, reverse: bool) -> str:
    words = [
        (name, value)
        for name, values in call.query.items()
        for value in values
        if name not in ("marker", "page_reverse")
    ]
    words += [("marker", row.id) for row in at]
    if reverse:
        words.append(("page_reverse", "True"))
    return f"{call.link(resource.base)}?{urlencode(words)}"


DIALECT = Dialect(
    error=render,
    policy_name=policy_name,
    target=target,
    lax=True,
    strict_query=True,
    sort=sort,
    page_links=page_links,
    select="fields",
    max_limit=MAX_PAGE,
    zero_limit="max",
    not_found=lambda resource, key: missing(resource.name, key),
    over_quota=409,
)
