"""What a node is to have: rows as driver specs.

A node asks for everything, or for the few things that a bell named; an answer costs as much as it holds.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from altostack.network import port as ports
from altostack.network.binding import DHCP
from altostack.network.config import NetworkSettings
from altostack.network.drivers.base import (
    AddressPair,
    DhcpOption,
    DhcpPortSpec,
    FixedIP,
    FloatingIPSpec,
    Ipv6Mode,
    NetworkKind,
    NetworkSpec,
    PortSpec,
    Route,
    RouterGatewaySpec,
    RouterInterfaceSpec,
    RouterSpec,
    RuleSpec,
    SubnetSpec,
)
from altostack.network.groups import reach
from altostack.network.model import chunks
from altostack.network.network import HIGHEST_VNI, VXLAN
from altostack.network.rows import (
    FloatingIP,
    GroupChange,
    Membership,
    Network,
    Port,
    Presence,
    Router,
    Rule,
    SecurityGroup,
    Subnet,
)
from altostack.network.security_group_rule import normalized
from altostack.network.wire import Desired, Groups, GroupState, NodeNetwork, NodePort

_MANY = 512  # a group that changed more often than this since is told anew


class Desk:
    """Answers for one node."""

    def __init__(self, session: Session, settings: NetworkSettings, host: str) -> None:
        self._session, self._settings, self._host = session, settings, host

    def everything(self) -> Desired:
        """All that the node is to have."""
        here = self._session.execute(sa.select(Port).where(Port.host == self._host)).scalars().all()
        carried = sa.select(Presence.network_id).where(Presence.host == self._host)
        routers = sa.select(Router).where(Router.host == self._host).order_by(Router.id)
        return Desired(
            ports=tuple(node_port(port) for port in here if _guest(port)),
            networks=self._networks(Network.id.in_(carried)),
            routers=tuple(self._router(one) for one in self._session.execute(routers).scalars().all()),
        )

    def some(self, ids: Iterable[str]) -> Desired:
        """Those of ``ids`` (``port:<id>``, ``network:<id>``, ``router:<id>``) that the node is to have."""
        asked: dict[str, set[str]] = defaultdict(set)
        for one in ids:
            kind, _, name = one.partition(":")
            asked[kind].add(name)
        found_ports: list[NodePort] = []
        for batch in chunks(sorted(asked["port"])):
            query = sa.select(Port).where(Port.id.in_(batch), Port.host == self._host)
            found_ports += [node_port(p) for p in self._session.execute(query).scalars() if _guest(p)]
        networks: tuple[NodeNetwork, ...] = ()
        if asked["network"]:
            carried = sa.select(Presence.network_id).where(
                Presence.host == self._host, Presence.network_id.in_(asked["network"])
            )
            networks = self._networks(Network.id.in_(carried))
        routers: tuple[RouterSpec, ...] = ()
        if asked["router"]:
            run = sa.select(Router).where(Router.id.in_(asked["router"]), Router.host == self._host)
            routers = tuple(self._router(one) for one in self._session.execute(run).scalars().all())
        there = {f"port:{p.spec.id}" for p in found_ports}
        there |= {f"network:{n.spec.id}" for n in networks} | {f"router:{r.id}" for r in routers}
        gone = tuple(f"{kind}:{name}" for kind in asked for name in sorted(asked[kind]))
        return Desired(
            ports=tuple(found_ports), networks=networks, routers=routers,
            gone=tuple(one for one in gone if one not in there),
        )  # fmt: skip

    # ---- networks

    def _networks(self, which: Any) -> tuple[NodeNetwork, ...]:
        rows = self._session.execute(sa.select(Network).where(which).order_by(Network.id)).scalars().all()
        if not rows:
            return ()
        ids = [row.id for row in rows]
        others: dict[str, list[str]] = defaultdict(list)
        dhcp: dict[str, Port] = {}
        for batch in chunks(ids):
            peers = sa.select(Presence).where(Presence.network_id.in_(batch), Presence.host != self._host)
            for one in self._session.execute(peers).scalars():
                others[one.network_id].append(one.host)
            served = sa.select(Port).where(
                Port.network_id.in_(batch), Port.host == self._host, Port.device_owner == DHCP
            )
            dhcp.update({port.network_id: port for port in self._session.execute(served).scalars()})
        return tuple(self._network(row, others[row.id], dhcp.get(row.id)) for row in rows)

    def _network(self, row: Network, others: list[str], dhcp: Port | None) -> NodeNetwork:
        underlay = self._settings.underlay
        reachable = self._host in underlay
        kind: NetworkKind = "external" if row.external else "local"
        if row.network_type == VXLAN and reachable and not row.external:
            kind = "vxlan"
        vni = row.segmentation_id if row.network_type == VXLAN else HIGHEST_VNI + 1 if row.external else None
        spec = NetworkSpec(
            id=row.id, project_id=row.project_id, mtu=row.mtu, kind=kind,
            vni=vni if reachable and kind != "local" else None,
            peers=tuple(sorted(underlay[host] for host in others if reachable and host in underlay)),
            subnets=tuple(subnet_spec(subnet) for subnet in row.subnets),
            dhcp=None if dhcp is None or not dhcp.fixed_ips else DhcpPortSpec(
                port_id=dhcp.id, mac=dhcp.mac_address, fixed_ips=_fixed(dhcp)
            ),
            admin_up=row.admin_state_up,
        )  # fmt: skip
        plays = row.external and row.host == self._host
        gateways = tuple(
            f"{subnet.gateway_ip}/{ipaddress.ip_network(subnet.cidr).prefixlen}"
            for subnet in row.subnets
            if subnet.gateway_ip
        )
        return NodeNetwork(spec, gateways if plays else None)

    # ---- routers

    def _router(self, row: Router) -> RouterSpec:
        query = sa.select(Port).where(
            Port.device_id == row.id, Port.device_owner.in_([ports.ROUTER_INTERFACE, ports.ROUTER_GATEWAY])
        )
        feet = self._session.execute(query.order_by(Port.id)).scalars().all()
        named = {one["subnet_id"] for port in feet for one in port.fixed_ips}
        found = self._session.execute(sa.select(Subnet).where(Subnet.id.in_(named))).scalars()
        subnets = {subnet.id: subnet for subnet in found}
        floating = sa.select(FloatingIP).where(FloatingIP.router_id == row.id).order_by(FloatingIP.id)
        gateway = next((port for port in feet if port.id == row.gateway_port_id), None)
        return RouterSpec(
            id=row.id, project_id=row.project_id, admin_up=row.admin_state_up,
            interfaces=tuple(
                RouterInterfaceSpec(
                    network_id=port.network_id, port_id=port.id, mac=port.mac_address,
                    addresses=_addresses(port, subnets),
                )
                for port in feet
                if port.device_owner == ports.ROUTER_INTERFACE
            ),
            gateway=None if gateway is None else RouterGatewaySpec(
                network_id=gateway.network_id, port_id=gateway.id, mac=gateway.mac_address,
                addresses=_addresses(gateway, subnets),
                gateway_ips=tuple(
                    ip for one in gateway.fixed_ips if (ip := subnets[one["subnet_id"]].gateway_ip)
                ),
                enable_snat=bool((row.external_gateway_info or {}).get("enable_snat", True)),
            ),
            floating_ips=tuple(
                FloatingIPSpec(
                    id=one.id, floating_ip=cast(str, one.floating_ip_address),
                    fixed_ip=cast(str, one.fixed_ip_address),
                )
                for one in self._session.execute(floating).scalars()
            ),
            routes=_routes(row.routes),
        )  # fmt: skip


def _guest(port: Port) -> bool:
    return not port.device_owner.startswith("network:") and port.vnic_type == "normal"


def node_port(port: Port) -> NodePort:
    """A port as its node sees it."""
    return NodePort(
        port.network_id,
        port.stamp,
        PortSpec(
            id=port.id, tap=ports.tap(port.id), mac=port.mac_address, project_id=port.project_id,
            device_id=port.device_id, fixed_ips=_fixed(port),
            dhcp_options=tuple(
                DhcpOption(name=one["opt_name"], value=one["opt_value"], ip_version=one["ip_version"])
                for one in port.extra_dhcp_opts or ()
            ),
            address_pairs=tuple(
                AddressPair(ip=one["ip_address"], mac=one["mac_address"])
                for one in port.allowed_address_pairs or ()
            ),
            security_groups=tuple(port.security_groups or ()), port_security=port.port_security_enabled,
            admin_up=port.admin_state_up,
        ),
    )  # fmt: skip


def subnet_spec(subnet: Subnet) -> SubnetSpec:
    """A subnet as its nodes see it."""
    return SubnetSpec(
        id=subnet.id, cidr=subnet.cidr, gateway=subnet.gateway_ip, enable_dhcp=subnet.enable_dhcp,
        dns_nameservers=tuple(subnet.dns_nameservers or ()), host_routes=_routes(subnet.host_routes or ()),
        ipv6_ra_mode=cast(Ipv6Mode | None, subnet.ipv6_ra_mode),
        ipv6_address_mode=cast(Ipv6Mode | None, subnet.ipv6_address_mode),
    )  # fmt: skip


def _fixed(port: Port) -> tuple[FixedIP, ...]:
    return tuple(FixedIP(subnet_id=one["subnet_id"], ip=one["ip_address"]) for one in port.fixed_ips)


def _addresses(port: Port, subnets: dict[str, Subnet]) -> tuple[str, ...]:
    return tuple(
        f"{one['ip_address']}/{ipaddress.ip_network(subnets[one['subnet_id']].cidr).prefixlen}"
        for one in port.fixed_ips
    )


def _routes(routes: Sequence[dict[str, Any]]) -> tuple[Route, ...]:
    return tuple(Route(destination=one["destination"], nexthop=one["nexthop"]) for one in routes)


# ---- security groups


def groups(session: Session, known: dict[str, int]) -> Groups:
    """What became of groups whose versions the node knows (0: it knows nothing of it)."""
    found: list[GroupState] = []
    there: set[str] = set()
    for batch in chunks(sorted(known)):
        query = sa.select(SecurityGroup.id, SecurityGroup.version, SecurityGroup.stateful)
        for row in session.execute(query.where(SecurityGroup.id.in_(batch))).all():
            there.add(row.id)
            if row.version != known[row.id]:
                found.append(_group(session, row, known[row.id]))
    return Groups(tuple(found), tuple(sorted(set(known) - there)))


def _group(session: Session, row: Any, known: int) -> GroupState:
    changes = _since(session, row, known) if known else None
    if changes is None:
        return GroupState(
            row.id, row.version, row.stateful, _rules(session, row.id), _members(session, row.id), True
        )
    members = {port_id: tuple(addresses) for port_id, addresses in changes if port_id}
    rules = None if all(port_id for port_id, _ in changes) else _rules(session, row.id)
    return GroupState(row.id, row.version, row.stateful, rules, members, False)


def _since(session: Session, row: Any, known: int) -> list[tuple[str, list[str]]] | None:
    """What came after version ``known``; None when that is no longer written down."""
    if not 0 < row.version - known <= _MANY:
        return None
    query = (
        sa.select(GroupChange.port_id, GroupChange.addresses)
        .where(
            GroupChange.group_id == row.id, GroupChange.version > known, GroupChange.version <= row.version
        )
        .order_by(GroupChange.version)
    )
    changes = [(port_id, addresses) for port_id, addresses in session.execute(query)]
    return changes if len(changes) == row.version - known else None


def _rules(session: Session, group_id: str) -> tuple[RuleSpec, ...]:
    query = sa.select(Rule).where(Rule.security_group_id == group_id).order_by(Rule.created_at, Rule.id)
    return tuple(rule_spec(rule) for rule in session.execute(query).scalars())


def _members(session: Session, group_id: str) -> dict[str, tuple[str, ...]]:
    query = (
        sa.select(Port.id, Port.fixed_ips, Port.allowed_address_pairs)
        .join(Membership, Membership.port_id == Port.id)
        .where(Membership.group_id == group_id)
    )
    like = cast(Callable[[Any], list[str]], reach)
    return {row.id: tuple(like(row)) for row in session.execute(query)}


def rule_spec(rule: Rule) -> RuleSpec:
    """A rule as the driver knows it."""
    return RuleSpec(
        direction=cast(Any, rule.direction), ethertype=cast(Any, rule.ethertype), protocol=rule.protocol,
        port_range_min=rule.port_range_min, port_range_max=rule.port_range_max,
        remote_ip_prefix=normalized(rule), remote_group_id=rule.remote_group_id,
    )  # fmt: skip
