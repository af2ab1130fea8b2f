"""How much a project used its servers over a time. /os-simple-tenant-usage"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from altostack.compute.dialect import micro, only
from altostack.compute.server_row import Server, Tombstone
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest
from altostack.kit.policy import ADMIN, READER
from altostack.kit.route import Route

_FORMATS = ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f", "%Y-%m-%d %H:%M:%S.%f")


def _moment(call: Call, name: str, default: datetime) -> datetime:
    text = call.arg(name)
    if not text:
        return default
    for form in _FORMATS:
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
    raise BadRequest(f"Invalid value for {name}: {text!r}. Datetime is in invalid format", field=name)


def _period(call: Call) -> tuple[datetime, datetime]:
    now = datetime.fromtimestamp(call.runtime.clock(), UTC)
    start, end = _moment(call, "start", now), _moment(call, "end", now)
    if start >= end:
        raise BadRequest("Invalid start time. The start time cannot occur after the end time.", field="start")
    return start, min(end, now)


def _rows(call: Call, start: datetime, end: datetime, project_id: str | None) -> list[Any]:
    """Servers that ran at any time between the two: those that are, and what remains of those that were."""
    alive = sa.select(Server).where(Server.launched_at.is_not(None), Server.launched_at < end)
    dead = sa.select(Tombstone).where(
        Tombstone.launched_at.is_not(None), Tombstone.launched_at < end, Tombstone.terminated_at > start
    )
    if project_id is not None:
        alive = alive.where(Server.project_id == project_id)
        dead = dead.where(Tombstone.project_id == project_id)
    rows = [*call.session.execute(alive).scalars(), *call.session.execute(dead).scalars()]
    return sorted(rows, key=lambda row: (row.launched_at, row.id))


def _usage(row: Any, start: datetime, end: datetime, now: datetime) -> dict[str, Any]:
    ended = row.terminated_at
    began, stopped = max(row.launched_at, start), min(ended or end, end)
    return {
        "instance_id": row.id,
        "name": row.name,
        "tenant_id": row.project_id,
        "flavor": row.flavor.get("name", ""),
        "hours": max((stopped - began).total_seconds(), 0.0) / 3600.0,
        "vcpus": row.flavor.get("vcpus", 0),
        "memory_mb": row.flavor.get("ram", 0),
        "local_gb": row.flavor.get("disk", 0) + row.flavor.get("ephemeral", 0),
        "started_at": micro(row.launched_at),
        "ended_at": micro(ended),
        "state": "terminated" if ended else row.vm_state,
        "uptime": int(((ended or now) - row.launched_at).total_seconds()),
    }


def _summaries(
    call: Call, project_id: str | None, *, detailed: bool
) -> tuple[list[dict[str, Any]], str | None]:
    """The usage of each project, and where the next page begins."""
    start, end = _period(call)
    now = datetime.fromtimestamp(call.runtime.clock(), UTC)
    rows = _rows(call, start, end, project_id)
    limit, marker = 1000, None
    if call.at_least("2.40"):
        limit, marker = min(call.number("limit", 1000) or 1000, 1000), call.arg("marker")
    if marker:
        at = next((n for n, row in enumerate(rows) if row.id == marker), None)
        if at is None:
            raise BadRequest(f"Marker {marker} could not be found.", field="marker")
        rows = rows[at + 1 :]
    following = rows[limit - 1].id if len(rows) > limit else None
    found: dict[str, dict[str, Any]] = {}
    for row in rows[:limit]:
        one = _usage(row, start, end, now)
        summary = found.setdefault(
            row.project_id,
            {
                "tenant_id": row.project_id, "total_local_gb_usage": 0.0, "total_vcpus_usage": 0.0,
                "total_memory_mb_usage": 0.0, "total_hours": 0.0, "start": micro(start), "stop": micro(end),
                **({"server_usages": []} if detailed else {}),
            },
        )  # fmt: skip
        for name, what in (("local_gb", "local_gb"), ("vcpus", "vcpus"), ("memory_mb", "memory_mb")):
            summary[f"total_{name}_usage"] += one[what] * one["hours"]
        summary["total_hours"] += one["hours"]
        if detailed:
            summary["server_usages"].append(one)
    return list(found.values()), following


def _links(call: Call, name: str, following: str | None) -> dict[str, Any]:
    if following is None or not call.at_least("2.40"):
        return {}
    kept = "".join(
        f"&{key}={value}" for key, values in call.query.items() if key != "marker" for value in values
    )
    path = call.route.path.replace("{usage_project_id}", call.params.get("usage_project_id", ""))
    return {name: [{"rel": "next", "href": call.link(f"{path}?marker={following}{kept}")}]}


def index(call: Call) -> Any:
    only(call, "start", "end", "detailed", "limit", "marker", since="2.75")
    found, following = _summaries(call, None, detailed=call.arg("detailed") == "1")
    return {"tenant_usages": found, **_links(call, "tenant_usages_links", following)}


def show(call: Call) -> Any:
    only(call, "start", "end", "limit", "marker", since="2.75")
    project_id = call.params["usage_project_id"]
    call.require(_RULE + "show", {"project_id": project_id})
    found, following = _summaries(call, project_id, detailed=True)
    return {"tenant_usage": found[0] if found else {}, **_links(call, "tenant_usage_links", following)}


_RULE = "os_compute_api:os-simple-tenant-usage:"
ROUTES = (
    Route(method="GET", path="/os-simple-tenant-usage", handler=index, policy=_RULE + "list", check=ADMIN),
    Route(
        method="GET", path="/os-simple-tenant-usage/{usage_project_id}", handler=show, policy=_RULE + "show",
        check=READER, guard=False,
    ),
)  # fmt: skip
