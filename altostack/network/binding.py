"""Which network is on which node, and the ports that the service keeps for itself.

A network is on a node as long as a port of it is bound there. Each node serves its own guests with DHCP and metadata,
from a port of its own in the network, so nothing has to be scheduled and no other node's end takes them away.
"""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from altostack.network import groups, ipam, tag
from altostack.network.bells import Bells
from altostack.network.model import DOWN, changed
from altostack.network.rows import FloatingIP, Network, Port, Presence, Router

DHCP = "network:dhcp"
_DHCP_PART = "dhcp:"
_PRESENCES = Presence.__table__
_THERE = sa.select(_PRESENCES.c.host).where(
    _PRESENCES.c.network_id == sa.bindparam("network"), _PRESENCES.c.host == sa.bindparam("node")
)


def carriers(session: Session, network_id: str) -> list[str]:
    """The nodes that have the network."""
    query = sa.select(Presence.host).where(Presence.network_id == network_id).order_by(Presence.host)
    return list(session.execute(query).scalars())


def carry(session: Session, bells: Bells, network: Network, host: str) -> None:
    """Have the network on the node, with DHCP; the nodes that have it already learn of their new peer."""
    there = session.connection().execute(_THERE, {"network": network.id, "node": host}).first()
    if there is not None:
        return
    others = carriers(session, network.id)
    try:
        with session.begin_nested():
            session.add(Presence(network_id=network.id, host=host))
            session.flush()
    except IntegrityError:  # another transaction was quicker
        return
    serve(session, bells, network, host)
    bells.nodes((*others, host), f"network:{network.id}")


def leave(session: Session, bells: Bells, network_id: str, host: str) -> None:
    """Take the network off the node if nothing there needs it any longer."""
    if not host or _needed(session, network_id, host):
        return
    dhcp = session.execute(sa.select(Port).where(Port.part == _dhcp_part(network_id, host))).scalars().first()
    if dhcp is not None:
        erase(session, bells, dhcp)
    session.execute(sa.delete(Presence).where(Presence.network_id == network_id, Presence.host == host))
    bells.nodes((*carriers(session, network_id), host), f"network:{network_id}")


def _needed(session: Session, network_id: str, host: str) -> bool:
    bound = sa.select(Port.id).where(
        Port.network_id == network_id,
        Port.host == host,
        sa.or_(Port.part.is_(None), Port.part.not_like(f"{_DHCP_PART}%")),
    )
    if session.execute(bound.limit(1)).first() is not None:
        return True
    played = sa.select(Network.id).where(Network.id == network_id, Network.host == host)
    return session.execute(played).first() is not None


def serve(session: Session, bells: Bells, network: Network, host: str) -> None:
    """Have the node's DHCP port hold an address in each subnet that wants DHCP, and no other."""
    part = _dhcp_part(network.id, host)
    port = session.execute(sa.select(Port).where(Port.part == part)).scalars().first()
    held = {one["subnet_id"] for one in port.fixed_ips} if port is not None else set()
    # Guests come first: a subnet without an address to spare goes without DHCP.
    wanted = [
        subnet
        for subnet in network.subnets
        if subnet.enable_dhcp and (subnet.id in held or ipam.free(session, subnet) is not None)
    ]
    if port is None:
        if wanted:
            device = f"dhcp{uuid.uuid5(uuid.NAMESPACE_DNS, host)}-{network.id}"
            wants = [ipam.Want(subnets=(subnet,)) for subnet in wanted]
            try:
                own(session, bells, network, part=part, owner=DHCP, device=device, host=host,
                    project=network.project_id, wants=wants)  # fmt: skip
            except LookupError:
                return  # another transaction was quicker
        return
    if not wanted:
        erase(session, bells, port)
    elif ipam.rearrange(session, port, network, [ipam.Want(subnets=(subnet,)) for subnet in wanted]):
        changed(port)
        session.flush()
    bells.node(host, f"network:{network.id}")


def _dhcp_part(network_id: str, host: str) -> str:
    return f"{_DHCP_PART}{network_id}:{host}"


def own(
    session: Session,
    bells: Bells,
    network: Network,
    *,
    part: str,
    owner: str,
    device: str,
    wants: list[ipam.Want],
    project: str = "",
    host: str = "",
    status: str = DOWN,
) -> Port:
    """A port for the service's own ends: no security, no groups. Raises LookupError when ``part`` has one."""
    port = Port(
        id=str(uuid.uuid4()), network_id=network.id, network_project_id=network.project_id, project_id=project,
        device_owner=owner, device_id=device, part=part, status=status, port_security_enabled=False, fixed_ips=[],
        security_groups=[], allowed_address_pairs=[], extra_dhcp_opts=[], profile={}, mac_address="", host=host,
    )  # fmt: skip
    ipam.place(session, port, network, wants)
    arrive(session, bells, port, network)
    return port


def arrive(session: Session, bells: Bells, port: Port, network: Network) -> None:
    """The port is bound to a node (or to none): have its network there."""
    if port.host:
        if port.device_owner != DHCP:
            carry(session, bells, network, port.host)
        bells.node(port.host, f"port:{port.id}")


def bind(session: Session, bells: Bells, port: Port, network: Network, host: str) -> None:
    """Bind the port to another node, or (empty) to none. It is down until that node says otherwise."""
    before = port.host or ""
    if before == host:
        return
    port.host = host
    port.stamp += 1
    port.status = DOWN
    port.error = None
    session.flush()
    if before:
        bells.node(before, f"port:{port.id}")
        leave(session, bells, port.network_id, before)
    arrive(session, bells, port, network)


def erase(session: Session, bells: Bells, port: Port) -> None:
    """The port goes, with its addresses, memberships and tags, and floating IPs let go of it."""
    for floating in session.execute(sa.select(FloatingIP).where(FloatingIP.port_id == port.id)).scalars():
        let_go(session, bells, floating)
    session.flush()
    session.expunge(port)
    if port.security_groups:
        groups.enroll(session, bells, port, ())
    ipam.release(session, port.id)
    if port.tags:
        tag.forget(session, port.id)
    session.execute(sa.delete(Port).where(Port.id == port.id))
    if port.host:
        bells.node(port.host, f"port:{port.id}")
        if port.device_owner != DHCP:
            leave(session, bells, port.network_id, port.host)


def let_go(session: Session, bells: Bells, floating: FloatingIP) -> None:
    """Take a floating IP off its port."""
    if floating.router_id:
        router = session.get(Router, floating.router_id)
        if router is not None:
            bells.node(router.host, f"router:{router.id}")
    floating.port_id = floating.fixed_ip_address = floating.router_id = None
    floating.status = DOWN
    changed(floating)
