"""Who did what to whom: audit events in CADF form (DMTF DSP0262), on the bus and in the log.

An event leaves when what it tells of is committed. Event types and target types are the identity service's own:
``identity.user.created``, ``identity.authenticate``. Nothing of a body is in an event.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from altostack.kit.call import Call, Reply
from altostack.kit.errors import Unauthorized
from altostack.kit.route import Route

_KINDS = {"trust": "OS-TRUST:trust", "consumer": "OS-OAUTH1:consumer"}  # where a noun is not the event's word
Row = TypeVar("Row", bound=Any)
log = logging.getLogger("altostack.audit")
_EVENT = "http://schemas.dmtf.org/cloud/audit/1.0/event"
_TARGETS = {
    "group": "data/security/group", "project": "data/security/project", "role": "data/security/role",
    "user": "data/security/account/user", "domain": "data/security/domain", "region": "data/security/region",
    "endpoint": "data/security/endpoint", "service": "data/security/service", "policy": "data/security/policy",
    "OS-TRUST:trust": "data/security/trust", "OS-OAUTH1:consumer": "data/security/account",
    "application_credential": "data/security/credential", "role_assignment": "data/security/account/user",
}  # fmt: skip


def note(call: Call, done: str, kind: str, key: str, **more: Any) -> None:
    """Tell, once the request is committed, that the ``kind`` with the id ``key`` was created, updated or deleted."""
    kind = _KINDS.get(kind, kind)
    target = {"typeURI": _TARGETS.get(kind, "unknown"), "id": key}
    _later(call, f"identity.{kind}.{done}", f"{done}.{kind}", target, {"resource_info": key, **more})


def _later(call: Call, event_type: str, action: str, target: dict[str, Any], more: dict[str, Any]) -> None:
    event = _event(call, event_type, action, target, _initiator(call, call.context.user_id), more)
    call.after(lambda: _send(call, event))


def _initiator(call: Call, user_id: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "typeURI": "service/security/account/user",
        "id": user_id,
        "user_id": user_id,
        "host": {"address": call.request.remote_addr, "agent": call.request.user_agent or ""},
        "request_id": call.request_id,
    }
    for name in ("project_id", "domain_id"):
        if (value := getattr(call.context, name)) is not None:
            found[name] = value
    return found


def _event(
    call: Call,
    event_type: str,
    action: str,
    target: dict[str, Any],
    initiator: dict[str, Any],
    more: dict[str, Any],
    *,
    outcome: str = "success",
) -> dict[str, Any]:
    moment = datetime.fromtimestamp(call.runtime.clock(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%f+0000")
    return {
        "event_type": event_type,
        "publisher_id": f"identity.{call.runtime.cloud['region']}",
        "priority": "INFO",
        "message_id": str(uuid.uuid4()),
        "timestamp": moment,
        "payload": {
            "typeURI": _EVENT,
            "eventType": "activity",
            "id": str(uuid.uuid4()),
            "eventTime": moment,
            "action": action,
            "outcome": outcome,
            "initiator": initiator,
            "target": target,
            "observer": {"typeURI": "service/security", "id": call.runtime.service.name},
            **more,
        },
    }


def _send(call: Call, event: dict[str, Any]) -> None:
    payload = event["payload"]
    log.info("%s %s", event["event_type"], payload["outcome"], extra={"cadf": payload})
    call.runtime.bus.emit(event)


# ---- what is audited


def created(make: Callable[[Call, dict[str, Any]], Row]) -> Callable[[Call, dict[str, Any]], Row]:
    """A resource's ``create``, with an event for every row that it makes. Rows are called by their ``noun``."""

    def create(call: Call, fields: dict[str, Any]) -> Row:
        row = make(call, fields)
        note(call, "created", row.noun, row.id)
        return row

    return create


def updated(
    change: Callable[[Call, Row, dict[str, Any]], None],
) -> Callable[[Call, Row, dict[str, Any]], None]:
    """A resource's ``update``, with an event."""

    def update(call: Call, row: Row, fields: dict[str, Any]) -> None:
        key = row.id
        change(call, row, fields)
        note(call, "updated", row.noun, key)

    return update


def deleted(drop: Callable[[Call, Row], None]) -> Callable[[Call, Row], None]:
    """A resource's ``delete``, with an event."""

    def delete(call: Call, row: Row) -> None:
        key = row.id
        drop(call, row)
        note(call, "deleted", row.noun, key)

    return delete


def audited_login(route: Route) -> Route:
    """The route on which people log in, with an event for every attempt; other routes as they are."""
    if (route.method, route.path) != ("POST", "/auth/tokens"):
        return route
    handler: Callable[[Call], Any] = route.handler

    def attempt(call: Call) -> Any:
        try:
            reply = handler(call)
        except Unauthorized:
            _login(call, _named(call), "failure", {"reason": {"reasonCode": "401", "reasonType": "HTTP"}})
            raise
        if isinstance(reply, Reply) and isinstance(reply.body, dict) and "token" in reply.body:
            token = reply.body["token"]
            call.after(lambda: _login(call, token["user"]["id"], "success", {}))
        return reply

    return replace(route, handler=attempt)


def _login(call: Call, user_id: str, outcome: str, more: dict[str, Any]) -> None:
    target = {"typeURI": "service/security/account/user", "id": user_id}
    event = _event(
        call,
        "identity.authenticate",
        "authenticate",
        target,
        _initiator(call, user_id),
        more,
        outcome=outcome,
    )
    _send(call, event)


def _named(call: Call) -> str:
    """The user id that a failed login's body names, if it names one by id; names are not repeated."""
    identity = getattr(getattr(call.body, "auth", None), "identity", None)
    for method in ("password", "application_credential", "totp"):
        user = getattr(getattr(identity, method, None), "user", None)
        if key := getattr(user, "id", None):
            return str(key)
    return ""
