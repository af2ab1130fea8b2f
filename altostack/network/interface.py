"""Router interfaces: a router's feet in the networks behind it."""

from __future__ import annotations

import ipaddress
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from altostack.kit.api import load
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, NotFound
from altostack.network import address, binding, ipam
from altostack.network.bells import bells
from altostack.network.dialect import in_use
from altostack.network.groups import enroll
from altostack.network.model import assign, changed
from altostack.network.network import visible_network
from altostack.network.port import PORTS, ROUTER_GATEWAY, ROUTER_INTERFACE
from altostack.network.rows import FloatingIP, Port, Router, Subnet
from altostack.network.subnet import SUBNETS

INTERFACE = ROUTER_INTERFACE
OWNERS = (ROUTER_INTERFACE, ROUTER_GATEWAY)


class Interface(msgspec.Struct, forbid_unknown_fields=True):
    """Which subnet, or which port."""

    subnet_id: str | None = None
    port_id: str | None = None


def feet(session: Session, router_id: str) -> list[Port]:
    """The router's interfaces and its gateway."""
    query = sa.select(Port).where(Port.device_id == router_id, Port.device_owner.in_(OWNERS))
    return list(session.execute(query.order_by(Port.created_at, Port.id)).scalars())


def add(call: Call, router: Router) -> dict[str, Any]:
    """Join a subnet, by its gateway address, or through a port that was made for it."""
    body: Interface = call.body
    if (body.subnet_id is None) == (body.port_id is None):
        both = body.subnet_id is not None
        raise BadRequest(
            "Bad router request: Cannot specify both subnet-id and port-id." if both
            else "Bad router request: Either subnet_id or port_id must be specified.", field="subnet_id",
        )  # fmt: skip
    if body.subnet_id is not None:
        port = _by_subnet(call, router, body.subnet_id)
    else:
        port = _by_port(call, router, body.port_id or "")
    changed(router)
    call.session.flush()
    return _answer(router, port)


def _by_subnet(call: Call, router: Router, subnet_id: str) -> Port:
    subnet: Subnet = load(call, SUBNETS, address.uuid(subnet_id, "subnet_id"))
    if subnet.gateway_ip is None:
        raise BadRequest(
            "Bad router request: Subnet for router interface must have a gateway IP.", field="subnet_id"
        )
    mine = subnet.network_project_id == call.context.project_id or call.allows("get_network:all")
    if not mine:
        raise BadRequest(
            f"Bad router request: Cannot add interface to router because subnet {subnet.id} is not owned by project "
            "making the request.", field="subnet_id",
        )  # fmt: skip
    _apart(call.session, router, [subnet])
    network = visible_network(call, subnet.network_id, everywhere=True)
    return binding.own(
        call.session, bells(call), network, part=f"interface:{router.id}:{subnet.id}", owner=INTERFACE,
        device=router.id, project=router.project_id,
        wants=[ipam.Want(subnets=(subnet,), ip=subnet.gateway_ip)],
    )  # fmt: skip


def _by_port(call: Call, router: Router, port_id: str) -> Port:
    port: Port = load(call, PORTS, address.uuid(port_id, "port_id"))
    call.require("update_port", port)
    if port.device_id or port.part:
        raise in_use(
            "PortInUse",
            f"Unable to complete operation on port {port.id} for network {port.network_id}. Port already has an "
            f"attached device {port.device_id}.",
        )
    if not port.fixed_ips:
        raise BadRequest("Bad router request: Router port must have at least one fixed IP.", field="port_id")
    query = sa.select(Subnet).where(Subnet.id.in_([one["subnet_id"] for one in port.fixed_ips]))
    subnets = list(call.session.execute(query).scalars())
    if sum(1 for subnet in subnets if subnet.ip_version == 4) > 1:
        raise BadRequest(
            "Bad router request: Cannot have multiple IPv4 subnets on router port.", field="port_id"
        )
    _apart(call.session, router, subnets)
    session, ring = call.session, bells(call)
    enroll(session, ring, port, ())
    assign(
        port,
        {"device_id": router.id, "device_owner": INTERFACE, "port_security_enabled": False,
         "allowed_address_pairs": []},
    )  # fmt: skip
    session.flush()
    return port


def _apart(session: Session, router: Router, subnets: list[Subnet]) -> None:
    """A router's networks must not overlap. Raises BadRequest."""
    held = {one["subnet_id"] for port in feet(session, router.id) for one in port.fixed_ips}
    others = session.execute(sa.select(Subnet).where(Subnet.id.in_(held))).scalars().all()
    for subnet in subnets:
        if subnet.id in held:
            raise BadRequest(
                f"Bad router request: Router already has a port on subnet {subnet.id}.", field="subnet_id"
            )
        net = ipaddress.ip_network(subnet.cidr)
        for other in others:
            known = ipaddress.ip_network(other.cidr)
            if known.version == net.version and known.overlaps(net):
                raise BadRequest(
                    f"Bad router request: Cidr {net} of subnet {subnet.id} overlaps with cidr {known} of subnet "
                    f"{other.id}.", field="subnet_id",
                )  # fmt: skip


def remove(call: Call, router: Router) -> dict[str, Any]:
    """Leave a subnet; the port goes with it."""
    body: Interface = call.body
    if body.subnet_id is None and body.port_id is None:
        raise BadRequest(
            "Bad router request: Either subnet_id or port_id must be specified.", field="subnet_id"
        )
    session, ring = call.session, bells(call)
    port = _find(session, router, body)
    subnets = {one["subnet_id"] for one in port.fixed_ips}
    if body.subnet_id is not None and body.subnet_id not in subnets:
        raise BadRequest(
            f"Subnet on port {port.id} does not match the requested subnet {body.subnet_id}.",
            kind="SubnetMismatchForPort", field="subnet_id",
        )  # fmt: skip
    _unused(session, router, subnets)
    found = _answer(router, port)
    binding.erase(session, ring, port)
    changed(router)
    ring.node(router.host, f"router:{router.id}")
    return found


def _find(session: Session, router: Router, body: Interface) -> Port:
    ports = [port for port in feet(session, router.id) if port.device_owner == INTERFACE]
    for port in ports:
        if body.port_id is not None:
            if port.id == body.port_id:
                return port
        elif any(one["subnet_id"] == body.subnet_id for one in port.fixed_ips):
            return port
    if body.port_id is not None:
        raise NotFound(
            f"Router {router.id} does not have an interface with id {body.port_id}",
            kind="RouterInterfaceNotFound", field="port_id",
        )  # fmt: skip
    raise NotFound(
        f"Router {router.id} has no interface on subnet {body.subnet_id}",
        kind="RouterInterfaceNotFoundForSubnet", field="subnet_id",
    )  # fmt: skip


def _unused(session: Session, router: Router, subnet_ids: set[str]) -> None:
    """Neither floating IPs nor routes go through the interface. Raises Conflict."""
    for subnet in session.execute(sa.select(Subnet).where(Subnet.id.in_(subnet_ids))).scalars():
        net = ipaddress.ip_network(subnet.cidr)
        fixed = sa.select(FloatingIP.fixed_ip_address).where(FloatingIP.router_id == router.id)
        if any(ip and ipaddress.ip_address(ip) in net for ip in session.execute(fixed).scalars()):
            raise in_use(
                "RouterInterfaceInUseByFloatingIP",
                f"Router interface for subnet {subnet.id} on router {router.id} cannot be deleted, as it is "
                "required by one or more floating IPs.",
            )
        if any(ipaddress.ip_address(route["nexthop"]) in net for route in router.routes):
            raise in_use(
                "RouterInterfaceInUseByRoute",
                f"Router interface for subnet {subnet.id} on router {router.id} cannot be deleted, as it is "
                "required by one or more routes.",
            )


def _answer(router: Router, port: Port) -> dict[str, Any]:
    subnets = [one["subnet_id"] for one in port.fixed_ips]
    return {
        "id": router.id, "tenant_id": router.project_id, "project_id": router.project_id, "port_id": port.id,
        "network_id": port.network_id, "subnet_id": subnets[0], "subnet_ids": subnets, "tags": router.tags,
    }  # fmt: skip
