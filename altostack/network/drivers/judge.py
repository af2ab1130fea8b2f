"""What :mod:`~altostack.network.drivers.rules` says to packets, said to flows that are established already."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from altostack.network.drivers import names
from altostack.network.drivers.base import (
    METADATA_ADDRESS,
    Direction,
    PortSpec,
    RuleSpec,
    SecurityGroupSpec,
)
from altostack.network.drivers.conntrack import Flow
from altostack.network.drivers.rules import (
    ICMP,
    ICMPV6,
    WITH_PORTS,
    allowed_sources,
    member_elements,
    port_range,
    protocol_number,
    version,
)


class Judge:
    """Says of a tracked flow whether the rules of today would let it begin.

    ``ports`` are (zone, port) of this node; flows outside of all zones are none of its business.
    """

    def __init__(
        self, ports: Iterable[tuple[int, PortSpec]], groups: Mapping[str, SecurityGroupSpec]
    ) -> None:
        self._ports = list(ports)
        self._groups = groups
        self._members: dict[str, tuple[set[str], set[str], set[str], set[str]]] = {}
        self._places = {(zone, fixed.ip): port for zone, port in self._ports for fixed in port.fixed_ips}
        self._paired = [(zone, port) for zone, port in self._ports if port.address_pairs]

    def allows(self, flow: Flow) -> bool:
        """False if the flow must end: a port's rules forbid it, or neither of its ends is a port any more."""
        if flow.zone == 0:
            return True
        sender, receiver = self._find(flow.zone, flow.source), self._find(flow.zone, flow.destination)
        if sender is None and receiver is None:
            return False
        if sender is not None and not self._may(sender, flow, "egress", flow.destination):
            return False
        return receiver is None or self._may(receiver, flow, "ingress", flow.source)

    def _find(self, zone: int, address: str) -> PortSpec | None:
        port = self._places.get((zone, address))
        if port is None and (self._paired or address.startswith("fe80:")):
            # The few that are not looked up by a fixed address: link-local ones, and pairs.
            value = ipaddress.ip_address(address)
            some = self._ports if address.startswith("fe80:") else self._paired
            for place, other in some:
                if place == zone and any(
                    value in net for nets in allowed_sources(other).values() for net in nets
                ):
                    return other
        return port

    def _may(self, port: PortSpec, flow: Flow, direction: Direction, remote: str) -> bool:
        if not port.port_security:
            return True
        if direction == "egress" and (flow.destination, flow.protocol, flow.port) == (
            METADATA_ADDRESS,
            6,
            80,
        ):
            return True
        return any(
            self._matches(rule, flow, remote)
            for group in port.security_groups
            if group in self._groups
            for rule in self._groups[group].rules
            if rule.direction == direction
        )

    def _matches(self, rule: RuleSpec, flow: Flow, remote: str) -> bool:
        address = ipaddress.ip_address(remote)
        number = protocol_number(rule)
        if address.version != version(rule) or number not in (None, flow.protocol):
            return False
        low, high = rule.port_range_min, rule.port_range_max
        if number in (ICMP, ICMPV6) and low is not None:
            if flow.icmp is None or flow.icmp[0] != low or (high is not None and flow.icmp[1] != high):
                return False
        elif number in WITH_PORTS and (low is not None or high is not None):
            first, last = port_range(low, high)
            if flow.port is None or not first <= flow.port <= last:
                return False
        if rule.remote_group_id is not None:
            return self._is_member(rule.remote_group_id, address)
        return rule.remote_ip_prefix is None or address in names.prefix(rule.remote_ip_prefix)

    def _is_member(self, group_id: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        if group_id not in self._members:
            group = self._groups.get(group_id)
            self._members[group_id] = member_elements(group.members if group else ())
        hosts4, wide4, hosts6, wide6 = self._members[group_id]
        hosts, wide = (hosts4, wide4) if address.version == 4 else (hosts6, wide6)
        return str(address) in hosts or any(address in ipaddress.ip_network(prefix) for prefix in wide)
