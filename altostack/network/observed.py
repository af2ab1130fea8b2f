"""The routes between the service and its nodes: what is wanted there, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, NotFound
from altostack.kit.flow import narrate
from altostack.kit.policy import NODE
from altostack.kit.route import Route
from altostack.network import desired, node
from altostack.network.bells import bells
from altostack.network.binding import DHCP
from altostack.network.config import NetworkSettings
from altostack.network.model import ACTIVE, DOWN, ERROR, chunks
from altostack.network.port import ROUTER_GATEWAY, ROUTER_INTERFACE
from altostack.network.rows import Allocation, FloatingIP, Notice, Port, Presence, Router
from altostack.network.wire import Owner, Report, Seen

_STATES = {ACTIVE, DOWN, ERROR}
_COMPUTE = "compute:"
PLUGGED, UNPLUGGED = "network-vif-plugged", "network-vif-unplugged"


def _desired(call: Call) -> Any:
    desk = desired.Desk(call.session, call.runtime.settings, call.params["host"])
    ids = call.query.get("id", [])
    return desk.some(ids) if ids else desk.everything()


def _groups(call: Call) -> Any:
    known: dict[str, int] = {}
    for one in call.query.get("group", []):
        group_id, _, version = one.partition(":")
        if not (version.isascii() and version.isdigit()):
            raise BadRequest(f"{one!r} is not of the form id:version", field="group")
        known[group_id] = int(version)
    return desired.groups(call.session, known)


def _observed(call: Call) -> None:
    report: Report = call.body
    settings: NetworkSettings = call.runtime.settings
    host, session, ring = call.params["host"], call.session, bells(call)
    node.heard(session, ring, host, settings.zone, report.started, report.facts)
    if _ports(session, host, _sound(report.ports)):
        ring.notices()
    _networks(session, host, _sound(report.networks))
    _routers(session, host, _sound(report.routers))
    _floating(session, host, _sound(report.floating_ips))


def _sound(items: Mapping[str, Seen]) -> dict[str, Seen]:
    for one in items.values():
        if one.status not in _STATES:
            raise BadRequest(f"{one.status!r} is not a status", field="status")
    return dict(items)


def _ports(session: Session, host: str, seen: dict[str, Seen]) -> bool:
    """Write what became of guests' ports; whether compute has to hear of any.

    Only for bindings as they are now: a word about an earlier one, or from another node, changes nothing.
    """
    notices = 0
    for batch in chunks(sorted(seen)):
        query = sa.select(
            Port.id, Port.status, Port.stamp, Port.device_id, Port.device_owner, Port.error
        ).where(Port.id.in_(batch), Port.host == host)
        for row in session.execute(query).all():
            now = seen[row.id]
            if now.stamp != row.stamp or (now.status == row.status and now.reason == row.error):
                continue
            session.execute(
                sa.update(Port)
                .where(Port.id == row.id, Port.stamp == row.stamp, Port.host == host)
                .values(status=now.status, error=now.reason, revision_number=Port.revision_number + 1),
                execution_options={"synchronize_session": False},
            )
            if now.status == ERROR:
                _tell(session, "port", row.id, host, now)
            if row.status != now.status and row.device_id and row.device_owner.startswith(_COMPUTE):
                name = PLUGGED if now.status == ACTIVE else UNPLUGGED
                session.add(Notice(server_id=row.device_id, port_id=row.id, name=name))
                notices += 1
    return notices > 0


def _networks(session: Session, host: str, seen: dict[str, Seen]) -> None:
    """The node's own ports in these networks are as well as the networks are."""
    for network_id, now in seen.items():
        _set_ports(session, now, Port.network_id == network_id, Port.host == host, Port.device_owner == DHCP)
        if now.status == ERROR:
            _tell(session, "network", network_id, host, now)


def _routers(session: Session, host: str, seen: dict[str, Seen]) -> None:
    for router_id, now in seen.items():
        here = sa.select(Router).where(Router.id == router_id, Router.host == host)
        router = session.execute(here).scalars().first()
        if router is None:
            continue
        _set_ports(
            session, now, Port.device_id == router_id, Port.host == host,
            Port.device_owner.in_([ROUTER_INTERFACE, ROUTER_GATEWAY]),
        )  # fmt: skip
        status = ERROR if now.status == ERROR else ACTIVE  # the API knows no router that is down
        if router.status != status or router.error != now.reason:
            router.status, router.error = status, now.reason
            if status == ERROR:
                _tell(session, "router", router_id, host, now)


def _set_ports(session: Session, now: Seen, *where: Any) -> None:
    session.execute(
        sa.update(Port)
        .where(*where, Port.status != now.status)
        .values(status=now.status, error=now.reason, revision_number=Port.revision_number + 1),
        execution_options={"synchronize_session": False},
    )


def _floating(session: Session, host: str, seen: dict[str, Seen]) -> None:
    for batch in chunks(sorted(seen)):
        query = (
            sa.select(FloatingIP)
            .join(Router, Router.id == FloatingIP.router_id)
            .where(FloatingIP.id.in_(batch), Router.host == host)
        )
        for row in session.execute(query).scalars():
            now = seen[row.id]
            if row.status != now.status:
                row.status = now.status
                row.revision_number = FloatingIP.revision_number + 1
                if now.status == ERROR:
                    _tell(session, "floatingip", row.id, host, now)


def _tell(session: Session, kind: str, resource_id: str, host: str, now: Seen) -> None:
    narrate(
        session, kind=kind, resource_id=resource_id, step="converge", level="error",
        message=f"{host}: {now.reason or 'no reason given'}",
    )  # fmt: skip


def _owner(call: Call) -> Any:
    """Whose is an address that a guest asked for metadata from: in one network, or behind one router, of the node."""
    host, ip = call.params["host"], call.arg("ip") or ""
    network_id, router_id = call.arg("network_id"), call.arg("router_id")
    query = (
        sa.select(Port.id, Port.device_id, Port.project_id)
        .join(Allocation, Allocation.port_id == Port.id)
        .where(Allocation.ip == ip)
    )
    if network_id is not None:
        carried = sa.select(Presence.network_id).where(Presence.host == host)
        query = query.where(Port.network_id == network_id, Port.network_id.in_(carried))
    elif router_id is not None:
        foot = sa.orm.aliased(Port)
        behind = (
            sa.select(Allocation.subnet_id)
            .join(foot, foot.id == Allocation.port_id)
            .join(Router, Router.id == foot.device_id)
            .where(Router.id == router_id, Router.host == host, foot.device_owner == ROUTER_INTERFACE)
        )
        query = query.where(Allocation.subnet_id.in_(behind))
    else:
        raise BadRequest("network_id or router_id is needed", field="network_id")
    row = call.session.execute(query).first()
    if row is None:
        raise NotFound(f"No port has the address {ip} there.", field="ip")
    return Owner(row.id, row.device_id, row.project_id)


ROUTES = (
    Route(method="GET", path="//internal/nodes/{host}/desired", handler=_desired, policy=NODE),
    Route(method="GET", path="//internal/nodes/{host}/groups", handler=_groups, policy=NODE),
    Route(method="GET", path="//internal/nodes/{host}/owner", handler=_owner, policy=NODE),
    Route(
        method="POST", path="//internal/nodes/{host}/observed", handler=_observed, policy=NODE, body=Report,
        status=204,
    ),
)  # fmt: skip
