"""Floating IPs: addresses of an external network that stand for a port's own."""

from __future__ import annotations

import ipaddress
import uuid
from typing import Any

import sqlalchemy as sa

from altostack.kit.api import claim, load
from altostack.kit.call import Call
from altostack.kit.errors import ApiError, BadRequest, NotFound
from altostack.kit.policy import MEMBER, READER
from altostack.kit.resource import Computed, Resource
from altostack.network import access, address, binding, ipam, tag
from altostack.network.bells import bells
from altostack.network.dialect import in_use
from altostack.network.model import DOWN, NOT_APPLICABLE, assign, changed
from altostack.network.network import visible_network
from altostack.network.port import FLOATING_IP, PORTS, ROUTER_INTERFACE
from altostack.network.router import ROUTERS
from altostack.network.rows import Allocation, FloatingIP, Network, Port, Router


def _create(call: Call, fields: dict[str, Any]) -> FloatingIP:
    session, ring = call.session, bells(call)
    project = access.project(call, fields)
    access.attributes(call, FLOATING_IPS, "create", fields, access.scope(call, project))
    network = visible_network(call, fields["floating_network_id"])
    if not network.external:
        raise _refused(f"Network {network.id} is not a valid external network.", "floating_network_id")
    wants = _outer(network, fields.pop("floating_ip_address", None), fields.pop("subnet_id", None))
    port_id, fixed = fields.pop("port_id", None), fields.pop("fixed_ip_address", None)
    if fixed is not None and port_id is None:
        raise _refused("fixed_ip_address cannot be specified without a port_id.", "fixed_ip_address")
    floating = FloatingIP(id=str(uuid.uuid4()), project_id=project, **fields)
    claim(call, FLOATING_IPS, [floating])
    try:
        outer = binding.own(
            session,
            ring,
            network,
            part=f"floating:{floating.id}",
            owner=FLOATING_IP,
            device=floating.id,
            wants=wants,
            status=NOT_APPLICABLE,
        )
    except ApiError as error:
        if error.kind != "IpAddressGenerationFailure":
            raise
        raise BadRequest(
            f"Unable to find any IP address on external network {network.id}.", kind="ExternalIpAddressExhausted",
            field="floating_network_id",
        ) from error  # fmt: skip
    floating.outer_port_id = outer.id
    floating.floating_ip_address = outer.fixed_ips[0]["ip_address"]
    session.add(floating)
    session.flush()
    if port_id is not None:
        _associate(call, floating, port_id, fixed)
    return floating


def _outer(network: Network, text: str | None, subnet_id: str | None) -> list[ipam.Want]:
    """The address in the external network. Raises BadRequest when there can be none."""
    if text is not None or subnet_id is not None:
        one = {"ip_address": text} if text is not None else {}
        one |= {"subnet_id": subnet_id} if subnet_id is not None else {}
        wants = ipam.asked(network, [one], most=1, router=True)
        if wants[0].subnets[0].ip_version != 4:
            raise _refused(f"Network {network.id}: a floating IP is an IPv4 address.", "floating_ip_address")
        return wants
    subnets = tuple(subnet for subnet in network.subnets if subnet.ip_version == 4)
    if not subnets:
        raise _refused(f"Network {network.id} does not contain any IPv4 subnet.", "floating_network_id")
    return [ipam.Want(subnets=subnets)]


def _refused(message: str, field: str) -> BadRequest:
    return BadRequest(f"Bad floatingip request: {message}", field=field)


def _update(call: Call, floating: FloatingIP, fields: dict[str, Any]) -> None:
    session = call.session
    access.lock(call, FLOATING_IPS, floating)
    if "description" in fields:
        assign(floating, {"description": fields["description"]})
    if not {"port_id", "fixed_ip_address"} & set(fields):
        return
    port_id = fields.get("port_id", floating.port_id if fields.get("fixed_ip_address") else None)
    fixed = fields.get("fixed_ip_address")
    if port_id is None:
        if fixed is not None:
            raise _refused("fixed_ip_address cannot be specified without a port_id.", "fixed_ip_address")
        if floating.port_id is not None:
            binding.let_go(session, bells(call), floating)
        return
    if floating.port_id is not None:
        binding.let_go(session, bells(call), floating)
        session.flush()
    _associate(call, floating, port_id, fixed)


def _associate(call: Call, floating: FloatingIP, port_id: str, fixed: str | None) -> None:
    """Let the address stand for one of a port's. Raises what the API says of ports that cannot be reached."""
    session = call.session
    port: Port = load(call, PORTS, address.uuid(port_id, "port_id"))
    if port.project_id != floating.project_id and not call.allows("act_for_other_projects"):
        raise _refused(
            f"Cannot process floating IP association with Port {port.id}, since that port is owned by a different "
            "project.", "port_id",
        )  # fmt: skip
    subnet_id, inner = _inner(port, fixed)
    router = _router(call, port, subnet_id, floating.floating_network_id)
    taken = session.execute(
        sa.select(FloatingIP).where(
            FloatingIP.port_id == port.id, FloatingIP.fixed_ip_address == inner, FloatingIP.id != floating.id,
            FloatingIP.floating_network_id == floating.floating_network_id,
        )
    ).scalars().first()  # fmt: skip
    if taken is not None:
        raise in_use(
            "FloatingIPPortAlreadyAssociated",
            f"Cannot associate floating IP {floating.floating_ip_address} ({floating.id}) with port {port.id} using "
            f"fixed IP {inner}, as that fixed IP already has a floating IP on external network "
            f"{floating.floating_network_id}.",
        )
    floating.port_id, floating.fixed_ip_address, floating.router_id = port.id, inner, router.id
    floating.status = DOWN  # until the router's node says otherwise
    changed(floating)
    session.flush()
    bells(call).node(router.host, f"router:{router.id}")


def _inner(port: Port, fixed: str | None) -> tuple[str, str]:
    """Subnet and address of the port that the floating IP stands for."""
    if port.device_owner.startswith("network:"):
        raise _refused(f"Port {port.id} is unable to be assigned a floating IP.", "port_id")
    if fixed is not None:
        text = address.ip(fixed, "fixed_ip_address", 4)
        for one in port.fixed_ips:
            if one["ip_address"] == text:
                return one["subnet_id"], text
        raise _refused(f"Port {port.id} does not have fixed ip {text}.", "fixed_ip_address")
    own = [one for one in port.fixed_ips if ipaddress.ip_address(one["ip_address"]).version == 4]
    if not own:
        raise _refused(
            f"Cannot add floating IP to port {port.id} that has no fixed IPv4 addresses.", "port_id"
        )
    if len(own) > 1:
        raise _refused(
            f"Port {port.id} has multiple fixed IPv4 addresses. Must provide a specific IPv4 address when "
            "assigning a floating IP.", "fixed_ip_address",
        )  # fmt: skip
    return own[0]["subnet_id"], own[0]["ip_address"]


def _router(call: Call, port: Port, subnet_id: str, external_id: str) -> Router:
    """The router between the port's subnet and the external network. Raises NotFound when there is none."""
    query = (
        sa.select(Router)
        .join(Port, Port.device_id == Router.id)
        .join(Allocation, Allocation.port_id == Port.id)
        .where(
            Router.gateway_network_id == external_id, Port.device_owner == ROUTER_INTERFACE,
            Allocation.subnet_id == subnet_id,
        )
        .order_by(Router.created_at)
    )  # fmt: skip
    router = call.session.execute(query).scalars().first()
    if router is None:
        raise NotFound(
            f"External network {external_id} is not reachable from subnet {subnet_id}. Therefore, cannot associate "
            f"Port {port.id} with a Floating IP.", kind="ExternalGatewayForFloatingIPNotFound", field="port_id",
        )  # fmt: skip
    access.lock(call, ROUTERS, router)
    if router.gateway_network_id != external_id:
        raise in_use(
            "RouterExternalGatewayInUseByFloatingIp",
            f"Router {router.id} is just losing its gateway; try again.",
        )
    return router


def _delete(call: Call, floating: FloatingIP) -> None:
    session, ring = call.session, bells(call)
    if floating.router_id is not None:
        router = session.get(Router, floating.router_id)
        ring.node(router.host if router else None, f"router:{floating.router_id}")
    outer = session.get(Port, floating.outer_port_id)
    tag.forget(session, floating.id)
    session.execute(sa.delete(FloatingIP).where(FloatingIP.id == floating.id))
    session.expunge(floating)
    if outer is not None:
        binding.erase(session, ring, outer)


def _port_details(call: Call, floating: FloatingIP) -> dict[str, Any] | None:
    """What the port behind the address is (extension fip-port-details)."""
    if floating.port_id is None:
        return None
    port = call.session.get(Port, floating.port_id)
    if port is None:
        return None
    return {
        "name": port.name, "network_id": port.network_id, "mac_address": port.mac_address,
        "admin_state_up": port.admin_state_up, "status": port.status, "device_id": port.device_id,
        "device_owner": port.device_owner,
    }  # fmt: skip


FLOATING_IPS = Resource(
    row=FloatingIP,
    name="floatingip",
    owner=FloatingIP.project_id,
    policy={"list": READER, "show": READER, "create": MEMBER, "update": MEMBER, "delete": MEMBER},
    create=_create,
    update=_update,
    delete=_delete,
    inputs={"tenant_id": str, "subnet_id": str | None},
    computed={
        "tenant_id": Computed(get=lambda call, row: row.project_id),
        "port_details": Computed(get=_port_details),
    },
    filters={**access.filters(FloatingIP), **tag.filters(FloatingIP)},
    quota={"floatingip": 1},
    bulk=True,
    default_sort=(("created_at", False),),
)
