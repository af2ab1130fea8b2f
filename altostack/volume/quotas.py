"""Quota sets, quota classes and limits."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa

from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, Unimplemented
from altostack.kit.policy import ADMIN, READER
from altostack.kit.resource import MAX_INT
from altostack.kit.route import Route
from altostack.volume.types import VolumeType

DEFAULTS = {
    "volumes": 10, "snapshots": 10, "gigabytes": 1000, "backups": 10, "backup_gigabytes": 1000,
    "per_volume_gigabytes": -1, "groups": 10,
}  # fmt: skip
_COUNTED = ("volumes", "snapshots", "gigabytes")
_RULE = "volume_extension:quotas"


def _per_type(call: Call) -> list[str]:
    """Names of the quotas that exist for each type; none of them is limited."""
    names = call.session.scalars(sa.select(VolumeType.name).order_by(VolumeType.name))
    return [f"{what}_{name}" for name in names for what in _COUNTED]


def _limits(call: Call, project: str) -> dict[str, int]:
    found = call.runtime.quotas.limits(call.session, project)
    return dict.fromkeys(_per_type(call), -1) | {name: found[name] for name in DEFAULTS}


def _target(call: Call) -> dict[str, Any]:
    return {"project_id": call.params["target"]}


def show(call: Call) -> Any:
    """GET /os-quota-sets/{project}, with usage="""
    call.require(f"{_RULE}:show", _target(call))
    project = call.params["target"]
    limits = _limits(call, project)
    if not call.flag("usage"):
        return {"quota_set": {"id": project, **limits}}
    used = call.runtime.quotas.usage(call.session, project)
    return {
        "quota_set": {"id": project}
        | {
            name: {"limit": limit, "in_use": used.get(name, 0), "reserved": 0}
            for name, limit in limits.items()
        }
    }


def defaults(call: Call) -> Any:
    """GET /os-quota-sets/{project}/defaults"""
    call.require(f"{_RULE}:show", _target(call))
    found = dict.fromkeys(_per_type(call), -1) | call.runtime.quotas.defaults
    return {"quota_set": {"id": call.params["target"], **found}}


Limit = Annotated[int, msgspec.Meta(ge=-1, le=MAX_INT)]


class Update(msgspec.Struct, forbid_unknown_fields=True):
    quota_set: Annotated[dict[str, Limit | str], msgspec.Meta(min_length=1)]


def update(call: Call) -> Any:
    """PUT /os-quota-sets/{project}"""
    call.require(f"{_RULE}:update", _target(call))
    project, known = call.params["target"], _per_type(call)
    if not 1 <= len(project) <= 64:
        raise BadRequest("quota_set_name has 1 to 64 characters.", field="project_id")
    wanted: dict[str, int] = {}
    for name, value in call.body.quota_set.items():
        if name in ("tenant_id", "id", "force", "skip_validation"):
            continue
        if name in known:
            if value not in (-1, "-1"):
                raise Unimplemented(f"Quota {name!r}: quotas of single volume types are not available here.")
            continue
        if name not in DEFAULTS:
            raise BadRequest(f"Bad key(s) in quota set: {name[:80]}", field=f"quota_set.{name[:80]}")
        if isinstance(value, str) and re.fullmatch(r"-1|[0-9]{1,9}", value):
            value = int(value)
        if not isinstance(value, int):
            raise BadRequest(
                f"Quota {name!r} must be a whole number of at least -1, not {value[:40]!r}.",
                field=f"quota_set.{name}",
            )
        wanted[name] = value
    used = call.runtime.quotas.usage(call.session, project)
    for name, value in wanted.items():
        if 0 <= value < used.get(name, 0):
            raise BadRequest(
                f"Quota {name} limit must be equal or greater than existing resources. Current usage is "
                f"{used[name]} and the requested limit is {value}.",
                field=f"quota_set.{name}",
            )
    call.runtime.quotas.set(call.session, project, wanted)
    return {"quota_set": _limits(call, project)}


def reset(call: Call) -> None:
    """DELETE /os-quota-sets/{project}"""
    call.require(f"{_RULE}:delete", _target(call))
    call.runtime.quotas.reset(call.session, call.params["target"])


def show_class(call: Call) -> Any:
    """GET /os-quota-class-sets/{class}: only the class of the defaults is in use."""
    name = call.params["quota_class"]
    return {
        "quota_class_set": {"id": name, **dict.fromkeys(_per_type(call), -1), **call.runtime.quotas.defaults}
    }


def update_class(call: Call) -> None:
    """PUT /os-quota-class-sets/{class}"""
    raise Unimplemented("Quota classes cannot be changed here; the defaults stand in the configuration.")


def limits(call: Call) -> Any:
    """GET /limits; of any project for administrators since 3.39."""
    project = call.context.project_id or ""
    if call.context.is_admin and call.at_least("3.39"):
        project = call.arg("project_id") or call.arg("tenant_id") or project
    found = call.runtime.quotas.limits(call.session, project)
    absolute = {
        "maxTotalVolumes": found["volumes"], "maxTotalSnapshots": found["snapshots"],
        "maxTotalVolumeGigabytes": found["gigabytes"], "maxTotalBackups": found["backups"],
        "maxTotalBackupGigabytes": found["backup_gigabytes"],
    }  # fmt: skip
    if call.allows("limits_extension:used_limits"):
        used = call.runtime.quotas.usage(call.session, project)
        absolute |= {
            "totalVolumesUsed": used["volumes"], "totalSnapshotsUsed": used["snapshots"],
            "totalGigabytesUsed": used["gigabytes"], "totalBackupsUsed": 0, "totalBackupGigabytesUsed": 0,
        }  # fmt: skip
    return {"limits": {"rate": [], "absolute": absolute}}


def _set(method: str, tail: str, handler: Any, rule: str, check: str, body: Any = None) -> Route:
    return Route(
        method=method, path=f"/os-quota-sets/{{target}}{tail}", handler=handler, policy=f"{_RULE}:{rule}", check=check,
        guard=False, body=body,
    )  # fmt: skip


_CLASS = "/os-quota-class-sets/{quota_class}"
ROUTES = (
    _set("GET", "", show, "show", READER),
    _set("GET", "/defaults", defaults, "show", READER),
    _set("PUT", "", update, "update", ADMIN, Update),
    _set("DELETE", "", reset, "delete", ADMIN),
    Route(
        method="GET", path=_CLASS, handler=show_class, policy="volume_extension:quota_classes:get", check=ADMIN
    ),
    Route(
        method="PUT", path=_CLASS, handler=update_class, policy="volume_extension:quota_classes:update",
        check=ADMIN, body=dict[str, Any],
    ),
    Route(method="GET", path="/limits", handler=limits, policy="volume:limits", check="@"),
)  # fmt: skip
RULES = {"limits_extension:used_limits": READER}
