"""Limits: how many images a project may have, of how many MiB, staged and uploading; counted, never cached.

The limits themselves are identity's unified limits (registered limits of this service, overridden by project), else
what the setting ``limits`` says, else none. Source: Image Service API v2, usage; unified limits, identity API v3.
"""

from __future__ import annotations

import logging
from typing import Any

import sqlalchemy as sa

from altostack.image.image import Image, Status
from altostack.kit.call import Call
from altostack.kit.clients import RemoteError, segment
from altostack.kit.errors import OverQuota, Unavailable
from altostack.kit.policy import READER
from altostack.kit.quota import UNLIMITED
from altostack.kit.route import Route
from altostack.kit.service import Runtime

log = logging.getLogger(__name__)
COUNT, SIZE, STAGE, UPLOADING = (
    "image_count_total",
    "image_size_total",
    "image_stage_total",
    "image_count_uploading",
)
NAMES = (SIZE, STAGE, COUNT, UPLOADING)
_MIB = 1 << 20
_FRESH = 5.0  # seconds for which identity's answer about a project is good


def of_project(runtime: Runtime, project: str | None) -> dict[str, int]:
    """Name -> limit of a project (-1: none). Asks identity, so call it before the database is touched."""
    found = dict.fromkeys(NAMES, UNLIMITED) | {
        name: value for name, value in runtime.settings.limits.items() if name in NAMES
    }
    if "identity" not in runtime.clients or not project:
        return found
    memo = runtime.memo.setdefault("limits", {})
    until, unified = memo.get(project, (0.0, {}))
    if runtime.clock() > until:
        try:
            unified = _unified(runtime, project)
        except RemoteError as trouble:
            log.warning("limits of project %s: %s", project, trouble)
            raise Unavailable(
                "The identity service, which knows the limits, did not answer; try again.",
                headers={"Retry-After": "1"},
            ) from trouble
        if len(memo) > 10_000:
            memo.clear()
        memo[project] = (runtime.clock() + _FRESH, unified)
    return {**found, **unified}


def _unified(runtime: Runtime, project: str) -> dict[str, int]:
    """What identity says: nothing, where it keeps no limits (404) or none of ours."""
    identity = runtime.clients["identity"]
    found: dict[str, int] = {}
    services = identity.call("GET", "/v3/services", query={"type": "image"})["services"]
    ours = {one["id"] for one in services}
    for path, kind, value in (
        ("/v3/registered_limits", "registered_limits", "default_limit"),
        (f"/v3/limits?project_id={segment(project)}", "limits", "resource_limit"),
    ):
        answer = identity.call("GET", path, missing_ok=True)
        for one in (answer or {}).get(kind, ()):
            theirs = one.get("project_id", project) == project
            if one["service_id"] in ours and one["resource_name"] in NAMES and theirs:
                found[one["resource_name"]] = int(one[value])
    return found


def usage(session: Any, project: str | None) -> dict[str, int]:
    """Name -> how much of it the project uses, counted now; sizes in MiB, begun ones whole."""
    busy = (Status.SAVING, Status.UPLOADING, Status.IMPORTING)
    count, size, staged, uploading = session.execute(
        sa.select(
            sa.func.count(),
            sa.func.coalesce(sa.func.sum(Image.stored_bytes), 0),
            sa.func.coalesce(sa.func.sum(Image.staged_bytes), 0),
            sa.func.coalesce(sa.func.sum(sa.case((Image.status.in_(busy), 1), else_=0)), 0),
        ).where(Image.owner == project)
    ).one()
    return {
        SIZE: -(-int(size) // _MIB),
        STAGE: -(-int(staged) // _MIB),
        COUNT: int(count),
        UPLOADING: int(uploading),
    }


def claim(
    runtime: Runtime, session: Any, project: str | None, limits: dict[str, int], *names: str
) -> dict[str, int]:
    """Check that one more fits each of ``names``, alone in the project; what is used. Raises OverQuota."""
    if not project or all(limits[name] == UNLIMITED for name in NAMES):
        return {}
    runtime.quotas.guard(session, project)
    used = usage(session, project)
    for name in names:
        if limits[name] != UNLIMITED and used[name] + 1 > limits[name]:
            raise OverQuota(
                f"Quota exceeded for {name}: {used[name]} of {limits[name]} are used.",
                field=name,
                detail={"quota": name, "limit": limits[name], "used": used[name], "requested": 1},
            )
    return used


def room(limits: dict[str, int], used: dict[str, int], name: str) -> int | None:
    """How many bytes still fit under a limit of MiB, as things stood at the claim; None: any number."""
    if limits[name] == UNLIMITED:
        return None
    return max(0, (limits[name] - used.get(name, 0)) * _MIB)


def show(call: Call) -> dict[str, Any]:
    """GET /v2/info/usage: limit and use of each, for the caller's project."""
    limits = of_project(call.runtime, call.context.project_id)
    used = usage(call.session, call.context.project_id)
    return {"usage": {name: {"usage": used[name], "limit": limits[name]} for name in NAMES}}


ROUTES = (Route(method="GET", path="/info/usage", handler=show, policy="get_usage", check=READER),)
