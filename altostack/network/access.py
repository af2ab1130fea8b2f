"""Who may do what: the default rules under the names operators know, and their use on single attributes.

Names and meanings follow Neutron's policies; where one of them speaks of a network's or a group's owner, the target
(`dialect.target`) carries ``network:project_id`` and ``security_group:project_id``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import InvalidRequestError

from altostack.kit.call import Call, own_scope
from altostack.kit.errors import BadRequest
from altostack.kit.listing import read_time
from altostack.kit.policy import ADMIN, MANAGER, MEMBER, READER, SERVICE
from altostack.kit.resource import Resource, columns

NET_MEMBER = "role:member and rule:network_owner"
NET_READER = "role:reader and rule:network_owner"
ADMIN_OR_NET_MEMBER = f"{ADMIN} or ({NET_MEMBER})"
SG_MEMBER = f"{ADMIN} or (role:member and rule:sg_owner)"
SG_READER = f"{READER} or (role:reader and rule:sg_owner)"
OWN_MEMBER = "role:member and rule:owner"

BASE: Mapping[str, str] = {
    "context_is_admin": ADMIN,
    "owner": "project_id:%(project_id)s",
    "admin_or_owner": "rule:context_is_admin or rule:owner",
    "network_owner": "project_id:%(network:project_id)s",
    "sg_owner": "project_id:%(security_group:project_id)s",
    "shared": "True:%(shared)s",
    "external": "True:%(external)s",
    "on_shared_network": "True:%(network:shared)s",
    "admin_only": "rule:context_is_admin",
    "act_for_other_projects": SERVICE,
    "network_device": "True:%(network_device)s",
}

_PORT = {
    "device_id": f"{SERVICE} or ({OWN_MEMBER})",
    "device_owner": f"not rule:network_device or {SERVICE} or ({NET_MEMBER})",
    "mac_address": f"{SERVICE} or ({NET_MEMBER})",
    "fixed_ips": f"{SERVICE} or ({NET_MEMBER}) or rule:on_shared_network",
    "fixed_ips:ip_address": f"{SERVICE} or ({NET_MEMBER})",
    "fixed_ips:subnet_id": f"{SERVICE} or ({NET_MEMBER}) or rule:on_shared_network",
    "port_security_enabled": f"{SERVICE} or ({NET_MEMBER})",
    "binding:host_id": SERVICE,
    "binding:profile": SERVICE,
    "binding:vnic_type": f"{SERVICE} or ({OWN_MEMBER})",
    "allowed_address_pairs": f"{SERVICE} or ({NET_MEMBER})",
}
_NETWORK = {
    "shared": ADMIN,
    "router:external": ADMIN,
    "is_default": ADMIN,
    "port_security_enabled": MEMBER,
    "provider:network_type": ADMIN,
    "provider:physical_network": ADMIN,
    "provider:segmentation_id": ADMIN,
}
_ROUTER = {
    "external_gateway_info": MEMBER,
    "external_gateway_info:network_id": MEMBER,
    "external_gateway_info:enable_snat": ADMIN,
    "external_gateway_info:external_fixed_ips": ADMIN,
}
_FLOATING = {"floating_ip_address": MANAGER}

RULES: Mapping[str, str] = {
    **BASE,
    **{f"{op}_network:{name}": check for op in ("create", "update") for name, check in _NETWORK.items()},
    **{f"{op}_port:{name}": check for op in ("create", "update") for name, check in _PORT.items()},
    **{f"{op}_router:{name}": check for op in ("create", "update") for name, check in _ROUTER.items()},
    **{f"create_floatingip:{name}": check for name, check in _FLOATING.items()},
    "update_port:mac_address": f"{SERVICE} or (role:manager and rule:network_owner)",
    "update_port:fixed_ips": f"{SERVICE} or ({NET_MEMBER})",
}


def project(call: Call, fields: dict[str, Any]) -> str:
    """The project that a new row is for, taken out of ``fields``.

    Raises BadRequest when two are named, none is known, or it is another's and the caller may not act for others.
    """
    named = fields.pop("project_id", None)
    older = fields.pop("tenant_id", None)
    if named is not None and older is not None and named != older:
        raise BadRequest("'project_id' and 'tenant_id' do not match", field="project_id")
    chosen = named or older or call.context.project_id
    if not chosen:
        raise BadRequest("project_id is needed: the token is for no project.", field="project_id")
    if chosen != call.context.project_id and not call.allows("act_for_other_projects"):
        raise BadRequest(
            "Specifying 'project_id' or 'tenant_id' other than the authenticated project in request requires "
            "admin privileges", field="project_id",
        )  # fmt: skip
    return str(chosen)


def scope(call: Call, project_id: str, **more: Any) -> dict[str, Any]:
    """The policy target of a row that is still to be made."""
    return own_scope(call.context) | {"project_id": project_id, "tenant_id": project_id} | more


def filters(row: type[Any]) -> Mapping[str, Callable[[Call, list[str]], Any]]:
    """The query words that most lists have beside their columns: the older name of the project, and "newer than"."""
    return {
        "tenant_id": lambda call, values: row.project_id.in_(values),
        "changed_since": lambda call, values: sa.and_(*(row.updated_at >= _moment(one) for one in values)),
    }


def _moment(text: str) -> datetime:
    try:
        return read_time(text)
    except ValueError as error:
        raise BadRequest(
            f"Invalid input for operation: The input changed_since must be in the form YYYY-MM-DDTHH:MM:SS, not "
            f"{text!r}.", kind="InvalidInput", field="changed_since",
        ) from error  # fmt: skip


def lock(call: Call, resource: Resource, row: Any) -> None:
    """Make this transaction the only one that changes ``row`` until it ends. Raises the 404 if it is gone meanwhile."""
    if call.runtime.db.dialect == "sqlite":
        return  # a SQLite writer is alone already
    try:
        call.session.refresh(row, with_for_update=True)
    except InvalidRequestError as error:
        raise call.runtime.service.dialect.not_found(resource, row.id) from error


def attributes(
    call: Call, resource: Resource, op: str, fields: Mapping[str, Any], target: Mapping[str, Any]
) -> None:
    """Ask policy about each attribute that has a rule of its own. Raises Forbidden.

    A new row's attribute that says what it would be anyway needs nobody's leave.
    """
    rules = call.runtime.policy.rules
    for column in columns(resource.row):
        if column.attr not in fields:
            continue
        rule = f"{op}_{resource.name}:{column.wire}"
        if rule not in rules:
            continue
        if op == "create" and fields[column.attr] in _defaults(column.sql):
            continue
        call.require(rule, target)


def _defaults(sql: Any) -> tuple[Any, ...]:
    default = sql.property.columns[0].default
    return (None, default.arg) if isinstance(default, sa.ColumnDefault) and default.is_scalar else (None,)
