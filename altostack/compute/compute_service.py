"""Compute services: one a host, up while its agent reports. /os-services"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import sqlalchemy as sa

from altostack.compute.aggregate import Aggregate, zones
from altostack.compute.dialect import micro, only
from altostack.compute.host import Host, alive, by_name
from altostack.compute.neighbours import Placement, RemoteError
from altostack.compute.server_row import Server
from altostack.compute.values import is_uuid
from altostack.kit.call import Call, Reply
from altostack.kit.errors import BadRequest, Conflict, NotFound
from altostack.kit.policy import ADMIN
from altostack.kit.resource import struct
from altostack.kit.route import Route
from altostack.kit.versions import Version

BINARY = "nova-compute"
_Reason = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class Old(msgspec.Struct, forbid_unknown_fields=True):
    host: str
    binary: str
    disabled_reason: _Reason | msgspec.UnsetType = msgspec.UNSET
    forced_down: bool | msgspec.UnsetType = msgspec.UNSET


class New(msgspec.Struct, forbid_unknown_fields=True):
    status: Literal["enabled", "disabled"] | msgspec.UnsetType = msgspec.UNSET
    disabled_reason: _Reason | msgspec.UnsetType = msgspec.UNSET
    forced_down: bool | msgspec.UnsetType = msgspec.UNSET


def update_body(version: Version | None) -> Any:
    """By host and binary until 2.52 (the path names what to do), by uuid since."""
    if version is None or version >= (2, 53):
        return New
    if version >= (2, 11):
        return Old
    return struct(
        "OldService", [("host", str, True), ("binary", str, True), ("disabled_reason", _Reason, False)]
    )


def _view(call: Call, host: Host, zone: str) -> dict[str, Any]:
    found = {
        "id": host.service_id if call.at_least("2.53") else host.number,
        "binary": BINARY,
        "host": host.host,
        "zone": zone,
        "status": "enabled" if host.enabled else "disabled",
        "state": "up" if alive(call.runtime, host) else "down",
        "updated_at": micro(host.heartbeat_at),
        "disabled_reason": host.disabled_reason,
    }
    if call.at_least("2.11"):
        found["forced_down"] = host.forced_down
    return found


def index(call: Call) -> Any:
    only(call, "host", "binary", since="2.75")
    query = sa.select(Host).order_by(Host.number)
    if call.arg("host"):
        query = query.where(Host.host == call.arg("host"))
    binary = call.arg("binary")
    of = zones(call.session)
    rows = [] if binary and binary != BINARY else list(call.session.execute(query).scalars())
    default = call.runtime.settings.zone
    return {"services": [_view(call, host, of.get(host.host, default)) for host in rows]}


def update(call: Call) -> Any:
    key = call.params["service_id"]
    if not call.at_least("2.53"):
        return _old(call, key)
    host, body = _load(call, key), call.body
    if body.status is msgspec.UNSET and body.forced_down is msgspec.UNSET:
        raise BadRequest(
            "No updates were requested. Fields 'status' or 'forced_down' should be specified.", field="status"
        )
    reason = None if body.disabled_reason is msgspec.UNSET else body.disabled_reason
    if body.status == "enabled":
        if reason:
            raise BadRequest(
                "Specifying 'disabled_reason' with status 'enabled' is invalid.", field="disabled_reason"
            )
        host.enabled, host.disabled_reason = True, None
    elif body.status == "disabled":
        host.enabled, host.disabled_reason = False, reason
    if body.forced_down is not msgspec.UNSET:
        host.forced_down = body.forced_down
    zone = zones(call.session).get(host.host, call.runtime.settings.zone)
    return {"service": _view(call, host, zone)}


def _old(call: Call, action: str) -> Any:
    body = call.body
    if body.binary != BINARY:
        raise BadRequest(
            f"Updating a {body.binary} service is not supported. Only {BINARY} services can be updated.",
            field="binary",
        )
    known = ("enable", "disable", "disable-log-reason", *(("force-down",) if call.at_least("2.11") else ()))
    if action not in known:
        raise NotFound("Unknown action", field="service_id")
    host = by_name(call.session, body.host)
    if host is None:
        raise NotFound(f"Could not find binary {BINARY} on host {body.host}.", field="host")
    answer: dict[str, Any] = {"host": body.host, "binary": body.binary}
    reason = getattr(body, "disabled_reason", msgspec.UNSET)
    if action == "force-down":
        if body.forced_down is msgspec.UNSET:
            raise BadRequest("Missing forced_down field", field="forced_down")
        host.forced_down = body.forced_down
        return {"service": {**answer, "forced_down": host.forced_down}}
    if action == "enable":
        host.enabled, host.disabled_reason = True, None
    else:
        if action == "disable-log-reason" and reason is msgspec.UNSET:
            raise BadRequest("Missing disabled reason field", field="disabled_reason")
        host.enabled = False
        host.disabled_reason = str(reason) if action == "disable-log-reason" else None
    answer["status"] = "enabled" if host.enabled else "disabled"
    if host.disabled_reason:
        answer["disabled_reason"] = host.disabled_reason
    return {"service": answer}


def _load(call: Call, key: str) -> Host:
    if call.at_least("2.53"):
        if not is_uuid(key):
            raise BadRequest(f"Invalid uuid {key}", field="service_id")
        condition = Host.service_id == key
    elif key.isascii() and key.isdigit() and len(key) < 10:
        condition = Host.number == int(key)
    else:
        raise BadRequest(f"Invalid input received: {key} must be an integer", field="service_id")
    row = call.session.execute(sa.select(Host).where(condition)).scalars().first()
    if row is None:
        raise NotFound(f"Service {key} not found.", field="service_id")
    return row


def delete(call: Call) -> Any:
    """Forget a host that runs nothing; its agent, should it still run, registers it anew."""
    host = _load(call, call.params["service_id"])
    if call.session.execute(sa.select(Server.id).where(Server.host == host.host).limit(1)).first():
        raise Conflict(
            "Unable to delete compute service that is hosting instances. Migrate or delete the instances first.",
            field="service_id",
        )
    provider, placement = host.id, Placement(call.runtime.clients["placement"])
    call.rollback()
    try:
        placement.remove_provider(provider)
    except RemoteError as error:
        raise Conflict(f"The host still has allocations: {error.message}", field="service_id") from error
    host = _load(call, call.params["service_id"])
    for one in call.session.execute(sa.select(Aggregate)).scalars():
        if host.host in one.hosts:
            one.hosts = [name for name in one.hosts if name != host.host]
    call.session.delete(host)
    return Reply(status=204)


_RULE = "os_compute_api:os-services:"
_ONE = "/os-services/{service_id}"
ROUTES = (
    Route(method="GET", path="/os-services", handler=index, policy=_RULE + "list", check=ADMIN),
    Route(
        method="PUT", path=_ONE, handler=update, policy=_RULE + "update", check=ADMIN, body=update_body
    ),
    Route(method="DELETE", path=_ONE, handler=delete, policy=_RULE + "delete", check=ADMIN, status=204),
)  # fmt: skip
