"""What other services tell about a server: a port is wired, addresses changed, a volume grew.
/os-server-external-events"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import sqlalchemy as sa

from altostack.compute.server_row import Disk, Interface, Server
from altostack.compute.values import Uuid
from altostack.kit import flow
from altostack.kit.api import wake
from altostack.kit.call import Call, Reply
from altostack.kit.policy import SERVICE
from altostack.kit.resource import struct
from altostack.kit.route import Route
from altostack.kit.versions import Version

_NAMES = ("network-changed", "network-vif-plugged", "network-vif-unplugged", "network-vif-deleted")
_NEED_TAG = ("volume-extended", "power-update", "accelerator-request-bound", "volume-reimaged")
_MOST = 500


def create_body(version: Version | None) -> Any:
    """The names that a version knows."""
    names = list(_NAMES)
    for name, since in (
        ("volume-extended", (2, 51)), ("power-update", (2, 76)), ("accelerator-request-bound", (2, 82)),
        ("volume-reimaged", (2, 93)),
    ):  # fmt: skip
        if version is None or version >= since:
            names.append(name)
    event: Any = struct(
        "ExternalEvent",
        [
            ("name", Literal[tuple(names)], True),
            ("server_uuid", Uuid, True),
            ("status", Literal["failed", "completed", "in-progress"], False),
            ("tag", Annotated[str, msgspec.Meta(max_length=255)], False),
        ],
    )
    events = Annotated[list[event], msgspec.Meta(min_length=1, max_length=_MOST)]
    return struct("ExternalEvents", [("events", events, True)])


def create(call: Call) -> Any:
    """Wake whoever waits for these; each event's own answer stands beside it."""
    ids = {event.server_uuid for event in call.body.events}
    query = sa.select(Server.id, Server.host).where(Server.id.in_(ids))
    hosts = {row.id: row.host for row in call.session.execute(query)}
    answers = []
    for event in call.body.events:
        answer = {"name": event.name, "server_uuid": event.server_uuid}
        tag = None if event.tag is msgspec.UNSET else event.tag
        if tag is not None:
            answer["tag"] = tag
        code = _code(hosts, event.server_uuid, event.name, tag)
        answer["status"] = "completed" if code == 200 else "failed"
        answer["code"] = code
        answers.append(answer)
        if code == 200:
            failed = event.status == "failed"
            _take(call, event.server_uuid, event.name, tag, failed=failed)
    wake(call)
    good = all(answer["code"] == 200 for answer in answers)
    return Reply(body={"events": answers}, status=200 if good else 207)


def _code(hosts: dict[str, str | None], server_id: str, name: str, tag: str | None) -> int:
    if server_id not in hosts:
        return 404
    if name in _NEED_TAG and tag is None:
        return 400
    return 200 if hosts[server_id] else 422


def _take(call: Call, server_id: str, name: str, tag: str | None, *, failed: bool) -> None:
    session = call.session
    if name == "network-vif-plugged":
        if tag and not failed:
            waiting = (
                (Interface.server_id == server_id)
                & (Interface.port_id == tag)
                & (Interface.state == "wanted")
            )
            session.execute(sa.update(Interface).where(waiting).values(state="plugged"))
        flow.poke(session, server_id)
    elif name == "network-changed":
        flow.signal(session, server_id, "refresh")
    elif name == "network-vif-deleted":
        card = session.execute(
            sa.select(Interface).where(Interface.server_id == server_id, Interface.port_id == tag)
        ).scalars().first()  # fmt: skip
        if card is not None:
            flow.signal(session, server_id, "unplug", {"interface": card.id})
    elif name == "volume-extended":
        disk = session.execute(
            sa.select(Disk).where(Disk.server_id == server_id, Disk.volume_id == tag)
        ).scalars().first()  # fmt: skip
        if disk is not None:
            flow.signal(session, server_id, "extend", {"volume_id": tag})
    else:
        flow.poke(session, server_id)


ROUTES = (
    Route(
        method="POST", path="/os-server-external-events", handler=create, body=create_body,
        policy="os_compute_api:os-server-external-events:create", check=SERVICE,
    ),
)  # fmt: skip
