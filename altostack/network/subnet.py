"""Subnets: the IP prefixes of a network, and what guests in them are told."""

from __future__ import annotations

import ipaddress
import uuid
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from altostack.kit.api import claim
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest
from altostack.kit.policy import READER
from altostack.kit.resource import Computed, Resource
from altostack.network import access, address, binding, tag
from altostack.network.address import Prefix, bad
from altostack.network.bells import Bells, bells
from altostack.network.config import NetworkSettings
from altostack.network.dialect import in_use
from altostack.network.model import assign
from altostack.network.network import owner_scope, visible_network
from altostack.network.rows import Allocation, Network, Port, Subnet

IPV6_MODES = ("slaac", "dhcpv6-stateful", "dhcpv6-stateless")


# ---- lifecycle


def complete(settings: NetworkSettings, network: Network, fields: dict[str, Any]) -> dict[str, Any]:
    """A new subnet's attributes, checked and with their defaults. Raises BadRequest, Conflict."""
    version = fields["ip_version"]
    if version not in (4, 6):
        raise bad("ip_version", f"'{version}' is not in [4, 6]")
    net = address.subnet(fields.get("cidr"), version)
    _apart(network, net)
    _modes(fields, version, net)
    _dhcp(fields.get("enable_dhcp", True), net)
    fields["cidr"] = str(net)
    given = fields.pop("allocation_pools", None)
    gateway = fields.get("gateway_ip", "")
    if gateway == "":
        gateway = address.first(net)
    fields["gateway_ip"] = _gateway(gateway, net)
    fields["allocation_pools"] = (
        address.default_pools(net, fields["gateway_ip"]) if given is None else address.pools(given, net)
    )
    _gateway_apart(fields["gateway_ip"], fields["allocation_pools"])
    return fields | _told(settings, fields, version)


def _told(settings: NetworkSettings, fields: dict[str, Any], version: int) -> dict[str, Any]:
    """What guests are told, as far as the client said anything of it."""
    found: dict[str, Any] = {}
    if "dns_nameservers" in fields:
        found["dns_nameservers"] = address.nameservers(
            fields["dns_nameservers"], version, settings.max_dns_nameservers
        )
    if "host_routes" in fields:
        found["host_routes"] = address.routes(
            fields["host_routes"], "host_routes", version, settings.max_host_routes
        )
    return found


def _apart(network: Network, net: Prefix) -> None:
    for other in network.subnets:
        known = ipaddress.ip_network(other.cidr)
        if known.version == net.version and known.overlaps(net):
            raise BadRequest(
                f"Invalid input for operation: Requested subnet with cidr: {net} for network: {network.id} "
                f"overlaps with another subnet.", kind="InvalidInput", field="cidr",
            )  # fmt: skip


def _modes(fields: dict[str, Any], version: int, net: Prefix) -> None:
    modes = {name: fields.get(name) for name in ("ipv6_ra_mode", "ipv6_address_mode")}
    for name, mode in modes.items():
        if mode is None:
            continue
        if mode not in IPV6_MODES:
            raise bad(name, f"'{mode}' is not in {list(IPV6_MODES)}")
        if version == 4:
            raise bad(name, f"{name} is not valid when ip_version is 4", "InvalidInput")
        if not fields.get("enable_dhcp", True):
            raise bad(name, f"{name} cannot be set when enable_dhcp is set to False", "InvalidInput")
    ra, own = modes["ipv6_ra_mode"], modes["ipv6_address_mode"]
    if ra and own and ra != own:
        raise bad(
            "ipv6_address_mode", f"ipv6_ra_mode set to '{ra}' with ipv6_address_mode set to '{own}' is not valid. "
            "If both attributes are set, they must be the same value", "InvalidInput",
        )  # fmt: skip
    if (ra in ("slaac", "dhcpv6-stateless") or own in ("slaac", "dhcpv6-stateless")) and net.prefixlen != 64:
        raise bad(
            "cidr",
            f"invalid CIDR {net} for IPv6 address mode: automatic addresses need a /64",
            "InvalidInput",
        )


def _dhcp(enabled: bool, net: Prefix) -> None:
    if not enabled:
        return
    if net.max_prefixlen - net.prefixlen < 2:
        raise bad("cidr", "the subnet has a prefix length that is incompatible with DHCP", "InvalidInput")
    for wrong in ("is_multicast", "is_loopback"):
        if getattr(net, wrong):
            raise bad("cidr", f"a {wrong[3:]} subnet is not supported if enable_dhcp is True", "InvalidInput")
    if net.network_address == ipaddress.IPv4Address(0):
        raise bad("cidr", "0.0.0.0 is not supported if enable_dhcp is True", "InvalidInput")


def _gateway(value: str | None, net: Prefix) -> str | None:
    if value is None:
        return None
    text = address.ip(value, "gateway_ip", net.version)
    number = ipaddress.ip_address(text)
    if number in net and not address.usable(net, number):
        raise bad("gateway_ip", f"gateway {text} is not valid on subnet {net}", "InvalidInput")
    return text


def _gateway_apart(gateway: str | None, pools: list[dict[str, Any]]) -> None:
    if gateway is None:
        return
    number = ipaddress.ip_address(gateway)
    for pool in pools:
        low, high = ipaddress.ip_address(pool["start"]), ipaddress.ip_address(pool["end"])
        if low.version == number.version and int(low) <= int(number) <= int(high):
            raise in_use(
                "GatewayConflictWithAllocationPools",
                f"Gateway ip {gateway} conflicts with allocation pool {low}-{high}.",
            )


def changed_for_nodes(session: Session, bells: Bells, network: Network) -> None:
    """The network's nodes serve its subnets as they are now."""
    for host in binding.carriers(session, network.id):
        binding.serve(session, bells, network, host)
        bells.node(host, f"network:{network.id}")


# ---- actions


def _create(call: Call, fields: dict[str, Any]) -> Subnet:
    project = access.project(call, fields)
    fields.pop("prefixlen", None)
    if fields.pop("subnetpool_id", None) is not None or fields.pop("use_default_subnetpool", False):
        raise bad("subnetpool_id", "there are no subnet pools here")
    if not fields.get("cidr"):
        raise BadRequest(
            "Bad subnets request: a subnetpool must be specified in the absence of a cidr.", field="cidr"
        )
    network = visible_network(call, fields["network_id"], lock=True)
    call.require("create_subnet", owner_scope(call, network, project))
    fields = complete(call.runtime.settings, network, fields)
    subnet = Subnet(
        id=str(uuid.uuid4()), project_id=project, shared=network.shared, external=network.external,
        network_project_id=network.project_id, **fields,
    )  # fmt: skip
    claim(call, SUBNETS, [subnet])
    call.session.add(subnet)
    call.session.flush()
    call.session.refresh(network, ["subnets"])
    changed_for_nodes(call.session, bells(call), network)
    return subnet


def _update(call: Call, subnet: Subnet, fields: dict[str, Any]) -> None:
    session = call.session
    network = visible_network(call, subnet.network_id, lock=True, everywhere=True)
    net = ipaddress.ip_network(subnet.cidr)
    if "gateway_ip" in fields:
        fields["gateway_ip"] = _gateway(fields["gateway_ip"], net)
        if fields["gateway_ip"] != subnet.gateway_ip:
            _gateway_unused(session, subnet)
    if "allocation_pools" in fields:
        fields["allocation_pools"] = address.pools(fields["allocation_pools"], net)
    if {"gateway_ip", "allocation_pools"} & set(fields):
        _gateway_apart(
            fields.get("gateway_ip", subnet.gateway_ip),
            fields.get("allocation_pools", subnet.allocation_pools),
        )
    if fields.get("enable_dhcp") and not subnet.enable_dhcp:
        _dhcp(True, net)
    if fields.get("enable_dhcp") is False and (subnet.ipv6_ra_mode or subnet.ipv6_address_mode):
        raise bad(
            "enable_dhcp", "it cannot be False while ipv6_ra_mode or ipv6_address_mode is set", "InvalidInput"
        )
    if assign(subnet, fields | _told(call.runtime.settings, fields, subnet.ip_version)):
        session.flush()
        changed_for_nodes(session, bells(call), network)


def _gateway_unused(session: Session, subnet: Subnet) -> None:
    if subnet.gateway_ip is None:
        return
    query = (
        sa.select(Port.id)
        .join(Allocation, Allocation.port_id == Port.id)
        .where(
            Allocation.subnet_id == subnet.id, Allocation.ip == subnet.gateway_ip,
            Port.device_owner == "network:router_interface",
        )
    )  # fmt: skip
    port = session.execute(query).scalar()
    if port is not None:
        raise in_use(
            "GatewayIpInUse",
            f"Current gateway ip {subnet.gateway_ip} already in use by port {port}. Unable to update.",
        )


def _delete(call: Call, subnet: Subnet) -> None:
    session, ring = call.session, bells(call)
    network = visible_network(call, subnet.network_id, lock=True, everywhere=True)
    held = (
        sa.select(Port)
        .join(Allocation, Allocation.port_id == Port.id)
        .where(Allocation.subnet_id == subnet.id)
    )
    ports = session.execute(held).scalars().unique().all()
    if any(port.device_owner != binding.DHCP for port in ports):
        raise in_use(
            "SubnetInUse",
            f"Unable to complete operation on subnet {subnet.id}: One or more ports have an IP allocation from "
            "this subnet.",
        )
    session.execute(sa.delete(Allocation).where(Allocation.subnet_id == subnet.id))
    for port in ports:
        assign(port, {"fixed_ips": [ip for ip in port.fixed_ips if ip["subnet_id"] != subnet.id]})
    session.flush()
    tag.forget(session, subnet.id)
    session.execute(sa.delete(Subnet).where(Subnet.id == subnet.id))
    session.expunge(subnet)
    session.refresh(network, ["subnets"])
    changed_for_nodes(session, ring, network)


SUBNETS = Resource(
    row=Subnet,
    name="subnet",
    owner=Subnet.project_id,
    visible=lambda call: sa.or_(
        Subnet.shared.is_(True), Subnet.external.is_(True),
        Subnet.network_project_id == call.context.project_id,
    ),
    policy={
        "list": READER,
        "show": f"{READER} or rule:shared or rule:external or ({access.NET_READER})",
        "create": access.ADMIN_OR_NET_MEMBER,
        "update": f"({access.OWN_MEMBER}) or {access.ADMIN_OR_NET_MEMBER}",
        "delete": f"({access.OWN_MEMBER}) or {access.ADMIN_OR_NET_MEMBER}",
    },
    create=_create,
    update=_update,
    delete=_delete,
    inputs={"tenant_id": str, "subnetpool_id": str | None, "prefixlen": int, "use_default_subnetpool": bool},
    computed={
        "tenant_id": Computed(get=lambda call, row: row.project_id),
        "subnetpool_id": Computed(get=lambda call, row: None),
    },
    filters={
        **access.filters(Subnet),
        "subnetpool_id": lambda call, values: sa.false() if any(values) else None,
        **tag.filters(Subnet),
    },
    quota={"subnet": 1},
    bulk=True,
    default_sort=(("created_at", False),),
)  # fmt: skip
