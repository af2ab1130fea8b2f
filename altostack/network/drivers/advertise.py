"""IPv6 router advertisements (RFC 4861 section 6.2), from the router's namespace: one dnsmasq a router.

What a subnet's modes mean: ``slaac`` lets guests form addresses; ``dhcpv6-stateless`` too, and sends them to
DHCPv6 for the rest; ``dhcpv6-stateful`` sends them there for everything. DHCPv6 itself answers from the
network's DHCP namespace; the router's packet filter keeps it from this server.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from altostack.network.drivers import names
from altostack.network.drivers.base import Ipv6Mode, NetworkSpec, RouterSpec
from altostack.network.drivers.dnsmasq import Servers
from altostack.network.drivers.kernel import Kernel
from altostack.network.drivers.router import inner

_MODES: dict[Ipv6Mode, str] = {
    "slaac": "ra-only",
    "dhcpv6-stateless": "ra-stateless",
    "dhcpv6-stateful": "static",
}
_INTERVAL, _LIFETIME = 30, 1800  # seconds, between advertisements and until a silent router is given up


class Advertisers:
    """The advertising servers of a node, by the short identifier of their routers."""

    def __init__(self, kernel: Kernel, cloud: names.Names, folder: Path) -> None:
        self._names = cloud
        self.servers = Servers(kernel, folder)

    def converge(self, router: RouterSpec, networks: Mapping[str, NetworkSpec]) -> None:
        """Advertise on the router's interfaces, which are ready, what their subnets ask for.

        :raises DriverError: if the server does not start.
        """
        short = names.short(router.id)
        lines = [line for foot in router.interfaces for line in _interface(router, foot.port_id, networks)]
        if lines:
            self.servers.converge(short, self._names.router(router.id), ["port=0", "enable-ra", *lines], {})
        else:
            self.servers.remove(short)


def _interface(router: RouterSpec, port_id: str, networks: Mapping[str, NetworkSpec]) -> list[str]:
    foot = next(foot for foot in router.interfaces if foot.port_id == port_id)
    network = networks[foot.network_id]
    own = [names.prefix(address) for address in foot.addresses if ":" in address]
    device = inner(foot.port_id, gateway=False)
    lines = []
    for subnet in network.subnets:
        cidr = names.prefix(subnet.cidr)
        if subnet.ipv6_ra_mode is None or cidr not in own:
            continue
        mode = _MODES[subnet.ipv6_ra_mode]
        tag = "s-" + names.identifier(subnet.id)
        lines.append(f"dhcp-range=set:{tag},{cidr.network_address},{mode},{cidr.prefixlen},86400s")
        if subnet.dns_nameservers:
            servers = ",".join(f"[{names.address(server)}]" for server in subnet.dns_nameservers)
            lines.append(f"dhcp-option=tag:{tag},option6:dns-server,{servers}")
    if lines:
        lines += [f"interface={device}", f"ra-param={device},mtu:{int(network.mtu)},{_INTERVAL},{_LIFETIME}"]
    return lines
