"""Limits, quota sets and quota classes. Source: the Compute API reference, "Limits" and "Quota sets"."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from altostack.compute.dialect import only
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, NotFound
from altostack.kit.policy import ADMIN, ANY, READER
from altostack.kit.quota import UNLIMITED
from altostack.kit.resource import MAX_INT, given, struct
from altostack.kit.route import Route
from altostack.kit.versions import Version

# What old versions show of quotas that other services have taken over: unlimited here.
_NETWORK = ("fixed_ips", "floating_ips", "security_group_rules", "security_groups")
_INJECTED = ("injected_files", "injected_file_content_bytes", "injected_file_path_bytes")
_PLAIN = (
    "instances", "cores", "ram", "metadata_items", "key_pairs", "server_groups", "server_group_members",
)  # fmt: skip
_Limit = Annotated[int, msgspec.Meta(ge=-1, le=MAX_INT)]


def names(version: Version | None) -> tuple[str, ...]:
    """The quotas that a version speaks of."""
    if version is None or version >= (2, 57):
        return _PLAIN
    return (*_PLAIN, *_INJECTED) if version >= (2, 36) else (*_PLAIN, *_INJECTED, *_NETWORK)


def _limits(call: Call, project_id: str) -> dict[str, int]:
    return call.runtime.quotas.limits(call.session, project_id) | dict.fromkeys(_NETWORK, UNLIMITED)


def _usage(call: Call, project_id: str) -> dict[str, int]:
    return call.runtime.quotas.usage(call.session, project_id)


# ---- limits


def index(call: Call) -> Any:
    only(call, "tenant_id", "reserved", since="2.75")
    project_id = call.context.project_id or ""
    if call.arg("tenant_id"):
        call.require("os_compute_api:limits:other_project")
        project_id = call.arg("tenant_id") or ""
    limits, used = _limits(call, project_id), _usage(call, project_id)
    found = {
        "maxTotalInstances": limits["instances"],
        "maxTotalCores": limits["cores"],
        "maxTotalRAMSize": limits["ram"],
        "maxTotalKeypairs": limits["key_pairs"],
        "maxServerMeta": limits["metadata_items"],
        "maxServerGroups": limits["server_groups"],
        "maxServerGroupMembers": limits["server_group_members"],
        "totalInstancesUsed": used["instances"],
        "totalCoresUsed": used["cores"],
        "totalRAMUsed": used["ram"],
        "totalServerGroupsUsed": used["server_groups"],
    }
    if not call.at_least("2.39"):
        found["maxImageMeta"] = limits["metadata_items"]
    if not call.at_least("2.57"):
        found |= {
            "maxPersonality": limits["injected_files"],
            "maxPersonalitySize": limits["injected_file_content_bytes"],
        }
    if not call.at_least("2.36"):
        found |= {
            "maxTotalFloatingIps": UNLIMITED, "maxSecurityGroups": UNLIMITED, "maxSecurityGroupRules": UNLIMITED,
            "totalFloatingIpsUsed": 0, "totalSecurityGroupsUsed": 0,
        }  # fmt: skip
    return {"limits": {"rate": [], "absolute": found}}


# ---- quota sets


def update_body(version: Version | None) -> Any:
    fields: list[tuple[str, Any, bool]] = [(name, _Limit, False) for name in names(version)]
    inner = struct("QuotaSet", [*fields, ("force", bool, False)])
    return struct("QuotaSetBody", [("quota_set", inner, True)])


def _target(call: Call, op: str) -> str:
    only(call, "user_id", since="2.75")
    project_id = call.params["quota_project_id"]
    call.require(_RULE + op, {"project_id": project_id, "user_id": call.context.user_id})
    return project_id


def _pick(call: Call, values: dict[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in names(call.version)}


def show(call: Call) -> Any:
    project_id = _target(call, "show")
    return {"quota_set": {"id": project_id, **_pick(call, _limits(call, project_id))}}


def detail(call: Call) -> Any:
    project_id = _target(call, "detail")
    used = _usage(call, project_id)
    whole = {
        name: {"limit": limit, "in_use": used.get(name, 0), "reserved": 0}
        for name, limit in _limits(call, project_id).items()
    }
    return {"quota_set": {"id": project_id, **_pick(call, whole)}}


def defaults(call: Call) -> Any:
    project_id = _target(call, "defaults")
    values = dict(call.runtime.quotas.defaults) | dict.fromkeys(_NETWORK, UNLIMITED)
    return {"quota_set": {"id": project_id, **_pick(call, values)}}


def update(call: Call) -> Any:
    project_id = _target(call, "update")
    wanted = given(call.body.quota_set)
    force = wanted.pop("force", False)
    used = _usage(call, project_id)
    for name, limit in wanted.items():
        if not force and limit != UNLIMITED and limit < used.get(name, 0):
            raise BadRequest(
                f"Quota limit {limit} for {name} must be greater than or equal to already used and reserved "
                f"{used[name]}.",
                field=name,
            )
    call.runtime.quotas.set(call.session, project_id, {k: v for k, v in wanted.items() if k not in _NETWORK})
    return {"quota_set": _pick(call, _limits(call, project_id))}


def delete(call: Call) -> None:
    call.runtime.quotas.reset(call.session, _target(call, "delete"))


# ---- quota classes: there is one, the defaults


def show_class(call: Call) -> Any:
    name = call.params["class_name"]
    if name != "default":
        raise NotFound(f"Quota class {name} could not be found.", field="class_name")
    values = dict(call.runtime.quotas.defaults) | dict.fromkeys(_NETWORK, UNLIMITED)
    found = _pick(call, values)
    if not call.at_least("2.50"):
        del found["server_groups"], found["server_group_members"]
    return {"quota_class_set": {"id": name, **found}}


_RULE = "os_compute_api:os-quota-sets:"
_ONE = "/os-quota-sets/{quota_project_id}"
RULES = {"os_compute_api:limits:other_project": ADMIN}
ROUTES = (
    Route(method="GET", path="/limits", handler=index, policy="os_compute_api:limits", check=ANY),
    Route(method="GET", path=_ONE, handler=show, policy=_RULE + "show", check=READER, guard=False),
    Route(method="PUT", path=_ONE, handler=update, policy=_RULE + "update", check=ADMIN, guard=False, body=update_body),
    Route(method="DELETE", path=_ONE, handler=delete, policy=_RULE + "delete", check=ADMIN, guard=False, status=202),
    Route(method="GET", path=_ONE + "/detail", handler=detail, policy=_RULE + "detail", check=READER, guard=False),
    Route(
        method="GET", path=_ONE + "/defaults", handler=defaults, policy=_RULE + "defaults", check=ANY, guard=False
    ),
    Route(
        method="GET", path="/os-quota-class-sets/{class_name}", handler=show_class,
        policy="os_compute_api:os-quota-class-sets:show", check=ADMIN,
    ),
)  # fmt: skip
