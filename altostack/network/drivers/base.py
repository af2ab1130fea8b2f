"""What a network driver is told and what it answers.

A node receives its whole desired state as one :class:`NodeNetworks` and converges to it. Every class here is
a frozen value, so a driver finds what changed by comparing what it applied with what it is told now. Nothing
in this module touches the machine.

Addresses are text in their canonical form (``10.0.0.5``, ``2001:db8::5``), prefixes are ``address/length``,
MAC addresses are six lower-case hexadecimal pairs joined by colons, identifiers are the API's identifiers.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

Ethertype = Literal["IPv4", "IPv6"]
Direction = Literal["ingress", "egress"]
NetworkKind = Literal["local", "vxlan", "external"]
Ipv6Mode = Literal["slaac", "dhcpv6-stateful", "dhcpv6-stateless"]

METADATA_ADDRESS = "169.254.169.254"
"""Where guests ask for metadata, by the convention of EC2 that every cloud image knows."""


class DriverError(Exception):
    """One item could not be brought to its desired state; the text says why, for an operator to read."""


class BadSpec(DriverError):
    """A description holds a value that must not reach a command or a configuration file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedIP:
    """One address of a port, and the subnet it belongs to."""

    subnet_id: str
    ip: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """A static route: packets for ``destination`` (a prefix) go to ``nexthop`` (an address)."""

    destination: str
    nexthop: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DhcpOption:
    """An ``extra_dhcp_opts`` entry: a DHCP option by name or number, for IP version 4 or 6."""

    name: str
    value: str
    ip_version: int = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class AddressPair:
    """Further addresses (an address or a prefix) that a port may send from; ``mac`` None is the port's own."""

    ip: str
    mac: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SubnetSpec:
    """A subnet of a network.

    ``gateway`` None means that guests get no default route. The IPv6 modes are those of the API
    (https://docs.openstack.org/api-ref/network/v2/#subnets) and None for IPv4.
    """

    id: str
    cidr: str
    gateway: str | None = None
    enable_dhcp: bool = True
    dns_nameservers: tuple[str, ...] = ()
    host_routes: tuple[Route, ...] = ()
    ipv6_ra_mode: Ipv6Mode | None = None
    ipv6_address_mode: Ipv6Mode | None = None

    @property
    def ip_version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.cidr else 4


@dataclass(frozen=True, kw_only=True, slots=True)
class DhcpPortSpec:
    """The port from which a network's DHCP, DNS and metadata are served on this node."""

    port_id: str
    mac: str
    fixed_ips: tuple[FixedIP, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PortSpec:
    """A port that is bound to this node: one tap device.

    ``hosts`` of :class:`NetworkSpec` lists the others, so that DHCP knows every port of the network.
    """

    id: str
    tap: str
    mac: str
    project_id: str
    device_id: str = ""
    fixed_ips: tuple[FixedIP, ...] = ()
    dns_name: str = ""
    dhcp_options: tuple[DhcpOption, ...] = ()
    address_pairs: tuple[AddressPair, ...] = ()
    security_groups: tuple[str, ...] = ()
    port_security: bool = True
    admin_up: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class HostSpec:
    """A port of the network that lives on another node: DHCP answers it, nothing else is done for it."""

    port_id: str
    mac: str
    fixed_ips: tuple[FixedIP, ...]
    dns_name: str = ""
    dhcp_options: tuple[DhcpOption, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkSpec:
    """A network as this node sees it.

    ``vxlan`` networks need ``vni``; ``peers`` are the underlay addresses of the other nodes that carry the
    network. An ``external`` network may have both too, to reach several nodes. ``dhcp`` is None where
    another node serves the network, or nobody does.
    """

    id: str
    project_id: str
    mtu: int = 1500
    kind: NetworkKind = "local"
    vni: int | None = None
    peers: tuple[str, ...] = ()
    subnets: tuple[SubnetSpec, ...] = ()
    dhcp: DhcpPortSpec | None = None
    dns_domain: str = ""
    ports: tuple[PortSpec, ...] = ()
    hosts: tuple[HostSpec, ...] = ()
    admin_up: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleSpec:
    """One security group rule, with the meaning of the API.

    ``protocol`` is a name of the API, a number 0..255 as text, or None for any. For ICMP, ``port_range_min``
    and ``port_range_max`` hold type and code as they do in the API. At most one remote is set.
    """

    direction: Direction
    ethertype: Ethertype
    protocol: str | None = None
    port_range_min: int | None = None
    port_range_max: int | None = None
    remote_ip_prefix: str | None = None
    remote_group_id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SecurityGroupSpec:
    """A security group. ``members`` are the addresses and prefixes of its ports in the whole cloud.

    Groups that are only named as another group's remote are listed too; their rules may be left empty.
    """

    id: str
    stateful: bool = True
    rules: tuple[RuleSpec, ...] = ()
    members: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterInterfaceSpec:
    """A router's foot in a network of this node; ``addresses`` are ``address/length``."""

    network_id: str
    port_id: str
    mac: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterGatewaySpec:
    """A router's foot in the external network. The first IPv4 address is the one that SNAT uses."""

    network_id: str
    port_id: str
    mac: str
    addresses: tuple[str, ...]
    gateway_ips: tuple[str, ...] = ()
    enable_snat: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class FloatingIPSpec:
    """An address of the external network that stands for ``fixed_ip`` behind the router."""

    id: str
    floating_ip: str
    fixed_ip: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterSpec:
    """A router on this node. The networks it touches must be among this node's networks."""

    id: str
    project_id: str
    interfaces: tuple[RouterInterfaceSpec, ...] = ()
    gateway: RouterGatewaySpec | None = None
    floating_ips: tuple[FloatingIPSpec, ...] = ()
    routes: tuple[Route, ...] = ()
    admin_up: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class ExternalNetworkSpec:
    """The world beyond an external network, on the node that plays it.

    ``gateways`` (``address/length``) are held by the namespace ``<prefix>-ext``, from which a person can
    reach floating IPs.
    """

    network_id: str
    gateways: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeNetworks:
    """Everything the network service wants from one node; ``generation`` is handed back in the answer."""

    generation: int = 0
    networks: tuple[NetworkSpec, ...] = ()
    routers: tuple[RouterSpec, ...] = ()
    security_groups: tuple[SecurityGroupSpec, ...] = ()
    external_networks: tuple[ExternalNetworkSpec, ...] = ()


class Status(enum.StrEnum):
    """What the API shows for a port, a network or a router."""

    ACTIVE = "ACTIVE"
    DOWN = "DOWN"
    ERROR = "ERROR"


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemStatus:
    """The state of one item; ``reason`` tells why it is not ACTIVE."""

    status: Status
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """What converging came to, item by item, for the generation that was asked for.

    ``retry_after`` (seconds) is set when the driver wants to be asked again although nothing changed:
    something failed or is still on its way.
    """

    generation: int
    ports: Mapping[str, ItemStatus] = field(default_factory=dict)
    networks: Mapping[str, ItemStatus] = field(default_factory=dict)
    routers: Mapping[str, ItemStatus] = field(default_factory=dict)
    floating_ips: Mapping[str, ItemStatus] = field(default_factory=dict)
    security_groups: Mapping[str, ItemStatus] = field(default_factory=dict)
    external_networks: Mapping[str, ItemStatus] = field(default_factory=dict)
    retry_after: float | None = None

    def failures(self) -> dict[str, str]:
        """Identifier -> reason of every item in ERROR."""
        kinds = (
            self.ports,
            self.networks,
            self.routers,
            self.floating_ips,
            self.security_groups,
            self.external_networks,
        )
        return {
            item: status.reason or "no reason given"
            for kind in kinds
            for item, status in kind.items()
            if status.status is Status.ERROR
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class MetadataRequest:
    """What a guest asked, and who it is.

    Exactly one of ``network_id`` and ``router_id`` is set: the way the request came. Together with
    ``client_ip`` it names the port; anti-spoofing makes that address trustworthy. ``headers`` (names in
    lower case) come from the guest and prove nothing.
    """

    network_id: str | None
    router_id: str | None
    client_ip: str
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class MetadataResponse:
    """What the guest gets."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"


Resolver = Callable[[MetadataRequest], MetadataResponse]
Inventory = dict[str, Any]


@runtime_checkable
class NetworkDriver(Protocol):
    """The data plane of one node."""

    def converge(self, desired: NodeNetworks) -> Observed:
        """Bring this node to ``desired`` and tell how far that went.

        Idempotent, incremental, and safe to be killed at any moment: the next call, in this process or a new
        one, goes on from whatever is there. The failure of one item is reported for it and does not stop
        the others; it is tried again by the next call.

        :raises DriverError: if nothing at all can be done here (no privilege, a missing program).
        """

    def forget(self) -> None:
        """Trust nothing that is remembered: the next :meth:`converge` looks at the machine first."""

    def inventory(self) -> Inventory:
        """Everything of this cloud's node that exists now, as plain comparable data; empty when nothing does."""

    def teardown(self) -> None:
        """Remove everything that :meth:`inventory` lists. Idempotent."""

    def close(self) -> None:
        """Stop this process's own threads and sockets and leave the data plane as it is."""
