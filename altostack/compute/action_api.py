"""/servers/{id}/os-instance-actions: what was done to a server, also after it is gone."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import sqlalchemy as sa

from altostack.compute import instance_action
from altostack.compute.dialect import micro, only
from altostack.compute.host import host_id
from altostack.compute.instance_action import InstanceAction
from altostack.compute.reach import below
from altostack.compute.server import SERVERS
from altostack.compute.server_row import Server, Tombstone
from altostack.kit.api import load
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, NotFound
from altostack.kit.listing import read_time
from altostack.kit.policy import ADMIN, READER

_RULE = "os_compute_api:os-instance-actions:"
RULES = {_RULE + "events": ADMIN, _RULE + "events:details": ADMIN}


def _server(call: Call) -> Server | Tombstone:
    """The server, or from 2.21 on what remains of it."""
    key = call.params["server_id"]
    try:
        row: Server | Tombstone = load(call, SERVERS, key)
    except NotFound:
        stone = call.session.get(Tombstone, key) if len(key) <= 64 else None
        mine = stone is not None and (call.context.is_admin or stone.project_id == call.context.project_id)
        if stone is None or not mine or not call.at_least("2.21"):
            raise
        row = stone
    call.require(call.route.policy, row)
    return row


def _view(call: Call, one: InstanceAction) -> dict[str, Any]:
    found = {
        "action": one.action,
        "instance_uuid": one.server_id,
        "message": one.message,
        "project_id": one.project_id,
        "request_id": one.request_id,
        "start_time": micro(one.started_at),
        "user_id": one.user_id,
    }
    if call.at_least("2.58"):
        found["updated_at"] = micro(one.updated_at or one.started_at)
    return found


def index(call: Call) -> Any:
    only(call, "limit", "marker", "changes-since", "changes-before", since="2.58")
    row = _server(call)
    query = sa.select(InstanceAction).where(InstanceAction.server_id == row.id)
    query = query.order_by(InstanceAction.started_at.desc(), InstanceAction.number.desc())
    if not call.at_least("2.58"):
        return {"instanceActions": [_view(call, one) for one in call.session.execute(query).scalars()]}
    changed = sa.func.coalesce(InstanceAction.updated_at, InstanceAction.started_at)
    since, before = _moment(call, "changes-since"), _moment(call, "changes-before")
    if since is not None:
        query = query.where(changed >= since)
    if before is not None and call.at_least("2.66"):
        if since is not None and before < since:
            raise BadRequest(
                "The value of changes-since must be less than or equal to changes-before.",
                field="changes-since",
            )
        query = query.where(changed <= before)
    marker = call.arg("marker")
    if marker:
        at = call.session.execute(
            sa.select(InstanceAction.number).where(
                InstanceAction.server_id == row.id, InstanceAction.request_id == marker
            )
        ).scalar()
        if at is None:
            raise BadRequest(f"Marker {marker} could not be found.", field="marker")
        query = query.where(InstanceAction.number < at)
    limit = min(call.number("limit", 1000) or 1000, 1000)
    rows = list(call.session.execute(query.limit(limit + 1)).scalars())
    found: dict[str, Any] = {"instanceActions": [_view(call, one) for one in rows[:limit]]}
    if len(rows) > limit:
        kept = [(k, v) for k, values in call.query.items() if k != "marker" for v in values]
        more = urlencode([*kept, ("marker", rows[limit - 1].request_id)])
        href = call.link(f"/servers/{row.id}/os-instance-actions?{more}")
        found["links"] = [{"rel": "next", "href": href}]
    return found


def _moment(call: Call, name: str) -> Any:
    text = call.arg(name)
    if text is None:
        return None
    try:
        return read_time(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise BadRequest(
            f"Invalid input for query parameters {name}. Value: {text}. {text!r} is not a 'date-time'",
            field=name,
        ) from error


def show(call: Call) -> Any:
    only(call)
    row, request_id = _server(call), call.params["request_id"]
    query = sa.select(InstanceAction).where(
        InstanceAction.server_id == row.id, InstanceAction.request_id == request_id
    )
    one = call.session.execute(query.order_by(InstanceAction.number)).scalars().first()
    if one is None:
        raise NotFound(f"Action {request_id} not found", field="request_id")
    found = _view(call, one)
    everything = call.allows(_RULE + "events", row)
    if everything or call.at_least("2.51"):
        found["events"] = [
            _event(call, row, event, everything=everything)
            for event in instance_action.events(call.session, one)
        ]
    return {"instanceAction": found}


def _event(call: Call, row: Server | Tombstone, event: dict[str, Any], *, everything: bool) -> dict[str, Any]:
    found = {name: event[name] for name in ("event", "start_time", "finish_time", "result")}
    if everything:
        found["traceback"] = event["traceback"]
    if call.at_least("2.62"):
        found["hostId"] = host_id(row.host, row.project_id)
        if everything:
            found["host"] = row.host
    if call.at_least("2.84") and call.allows(_RULE + "events:details", row):
        found["details"] = event["message"]
    return found


ROUTES = (
    below("/os-instance-actions", index, "os-instance-actions:list", READER),
    below("/os-instance-actions/{request_id}", show, "os-instance-actions:show", READER),
)
