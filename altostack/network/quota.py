"""Quotas: how much of each resource a project may have."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import sqlalchemy as sa

from altostack.kit.call import Call
from altostack.kit.errors import BadRequest
from altostack.kit.policy import ADMIN, ANY, MANAGER
from altostack.kit.quota import UNLIMITED
from altostack.kit.resource import MAX_INT, given, struct
from altostack.kit.route import Route
from altostack.network.model import NetworkRow

# What a project may have unless told otherwise: the API's usual defaults.
DEFAULTS = {
    "network": 100, "subnet": 100, "port": 500, "router": 10, "floatingip": 50, "security_group": 10,
    "security_group_rule": 100,
}  # fmt: skip

_Limit = Annotated[int, msgspec.Meta(ge=UNLIMITED, le=MAX_INT)]
_CONTROLS = ("force", "check_limit")
_Limits = struct(
    "QuotaUpdate",
    [(name, _Limit, False) for name in DEFAULTS] + [(name, bool, False) for name in _CONTROLS],
)
_Body = struct("QuotaUpdateBody", [("quota", _Limits, True)])


def _project(call: Call) -> str:
    """The project in the path; another than the caller's is for whoever may see it."""
    project = call.params["project_id"]
    if project != call.context.project_id:
        call.require("get_quota")
    return project


def _show(call: Call) -> Any:
    return {"quota": call.runtime.quotas.limits(call.session, _project(call))}


def _default(call: Call) -> Any:
    _project(call)
    return {"quota": dict(call.runtime.quotas.defaults)}


def _details(call: Call) -> Any:
    project, quotas = _project(call), call.runtime.quotas
    limits, used = quotas.limits(call.session, project), quotas.usage(call.session, project)
    return {
        "quota": {
            name: {"limit": limit, "used": used.get(name, 0), "reserved": 0} for name, limit in limits.items()
        }
    }


def _list(call: Call) -> Any:
    table = NetworkRow.metadata.tables["quota_limits"]
    named = call.session.execute(sa.select(table.c.project_id).distinct().order_by(table.c.project_id))
    return {
        "quotas": [
            call.runtime.quotas.limits(call.session, one) | {"project_id": one, "tenant_id": one}
            for one in named.scalars()
        ]
    }


def _own(call: Call) -> Any:
    if not call.context.project_id:
        raise BadRequest("Project-id was missing from quota request.", kind="QuotaMissingTenant")
    word = call.route.path.rpartition("/")[2]
    return {word: {f"{word}_id": call.context.project_id}}


def _update(call: Call) -> Any:
    project, quotas = call.params["project_id"], call.runtime.quotas
    fields = given(call.document.quota)
    forced = fields.pop("force", False)
    fields.pop("check_limit", None)
    used = {} if forced else quotas.usage(call.session, project, list(fields))
    for name, limit in fields.items():
        if limit != UNLIMITED and used.get(name, 0) > limit:
            raise BadRequest(
                f"Quota limit {limit} for {name} must be greater than or equal to already used {used[name]}",
                field=f"quota.{name}",
            )
    quotas.set(call.session, project, fields)
    return {"quota": quotas.limits(call.session, project)}


def _reset(call: Call) -> None:
    call.runtime.quotas.reset(call.session, call.params["project_id"])


_ONE = "/quotas/{project_id}"
ROUTES = (
    Route(method="GET", path="/quotas", handler=_list, policy="list_quotas", check=ADMIN),
    Route(method="GET", path="/quotas/tenant", handler=_own, policy=ANY),
    Route(method="GET", path="/quotas/project", handler=_own, policy=ANY),
    Route(method="GET", path=_ONE, handler=_show, policy="get_quota", check=MANAGER, guard=False),
    Route(method="GET", path=f"{_ONE}/default", handler=_default, policy="get_quota", guard=False),
    Route(method="GET", path=f"{_ONE}/details", handler=_details, policy="get_quota", guard=False),
    Route(method="PUT", path=_ONE, handler=_update, policy="update_quota", check=ADMIN, body=_Body),
    Route(method="DELETE", path=_ONE, handler=_reset, policy="delete_quota", check=ADMIN, status=204),
)
