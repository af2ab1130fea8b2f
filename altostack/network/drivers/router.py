"""Routers: a namespace each, with a foot in every network it joins, NAT for floating IPs and for the rest.

Nothing from the external network is forwarded unless it was addressed to a floating IP or answers a guest, so
that a neighbour on the external network cannot reach fixed addresses by choosing the router as next hop.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from altostack.network.drivers import names
from altostack.network.drivers.base import METADATA_ADDRESS, DriverError, NetworkSpec, RouterSpec
from altostack.network.drivers.conntrack import Flow
from altostack.network.drivers.kernel import Kernel
from altostack.network.drivers.netlink import KernelRoute, Netlink
from altostack.network.drivers.switch import Switch

SYSCTL = {
    "ipv4/ip_forward": "1",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    # An address is announced and answered only where it lives: no tenant learns another network's.
    "ipv4/conf/all/arp_ignore": "1",
    "ipv4/conf/all/arp_announce": "2",
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/send_redirects": "0",
    "ipv4/conf/all/accept_redirects": "0",
    "ipv6/conf/all/forwarding": "1",
    "ipv6/conf/all/accept_ra": "0",
    "ipv6/conf/default/accept_ra": "0",
    "ipv6/conf/default/accept_dad": "0",
}

_RULES = """
table ip nat {{
  map floating {{ type ipv4_addr : ipv4_addr; {floating} }}
  map fixed {{ type ipv4_addr : ipv4_addr; {fixed} }}
  chain c_in {{
    type nat hook prerouting priority -100;
    dnat to ip daddr map @floating
  }}
  chain c_out {{
    type nat hook postrouting priority 100;
    oifname {gateway} snat to ip saddr map @fixed
    {snat}
    {hairpin}
  }}
}}
table inet guard {{
  chain c_mark {{
    type filter hook prerouting priority -150;
    meta mark set 0
    iifname {gateway} meta mark set 1
  }}
  chain c_local {{
    type filter hook input priority 0; policy drop;
    iifname "lo" accept
    ct state established,related accept
    meta l4proto {{ icmp, ipv6-icmp }} accept
    iifname != {gateway} ip daddr {metadata} tcp dport 80 accept
  }}
  chain c_forward {{
    type filter hook forward priority 0;
    iifname {gateway} oifname {gateway} drop
    {closed}
  }}
}}
"""


def inner(port_id: str, *, gateway: bool) -> str:
    """The name of a router's device in its own namespace."""
    return ("qg" if gateway else "qr") + names.short(port_id)


def ruleset(router: RouterSpec) -> str:
    """The router's whole packet filter, replacing what is loaded, as one transaction."""
    pairs = _pairs(router)
    gateway, snat, hairpin, closed = '"none"', "", "", ""
    if router.gateway is not None:
        gateway = f'"{inner(router.gateway.port_id, gateway=True)}"'
        own = _snat_address(router)
        if own is not None:
            snat = f"oifname {gateway} meta mark 0 snat to {own}"
            # A guest that reaches another's floating IP must get its answers through this router too.
            hairpin = "meta mark 0 ct status dnat snat to ip saddr map @fixed\n"
            hairpin += f"    meta mark 0 ct status dnat snat to {own}"
        if router.gateway.enable_snat:
            closed = f"iifname {gateway} meta protocol ip ct status dnat accept\n"
            closed += f"    iifname {gateway} meta protocol ip ct state new drop"
        else:
            snat = ""
    floating = ", ".join(f"{outer} : {fixed}" for outer, fixed in pairs.items())
    backward = {fixed: outer for outer, fixed in reversed(pairs.items())}
    fixed = ", ".join(f"{fixed} : {outer}" for fixed, outer in backward.items())
    wipe = "".join(
        f"{verb} table {table}\n" for table in ("ip nat", "inet guard") for verb in ("add", "delete")
    )
    return wipe + _RULES.format(
        floating=f"elements = {{ {floating} }}" if floating else "",
        fixed=f"elements = {{ {fixed} }}" if fixed else "",
        gateway=gateway,
        snat=snat,
        hairpin=hairpin,
        closed=closed,
        metadata=METADATA_ADDRESS,
    )


def translation_is_current(flow: Flow, router: RouterSpec) -> bool:
    """Whether a tracked flow is translated as the router would translate it now, or not at all."""
    pairs = _pairs(router)
    if flow.reply_source != flow.destination and pairs.get(flow.destination) != flow.reply_source:
        return False
    if flow.reply_destination == flow.source:
        return True
    backward = {fixed: outer for outer, fixed in pairs.items()}
    return flow.reply_destination in (backward.get(flow.source), _snat_address(router))


class Routers:
    """All routers of a node."""

    def __init__(self, kernel: Kernel, cloud: names.Names, switch: Switch) -> None:
        self._kernel = kernel
        self._names = cloud
        self._switch = switch
        self._announced: dict[str, set[tuple[str, str, str]]] = {}

    def forget(self, router_id: str) -> None:
        """The router is gone, or nothing is known about it."""
        self._announced.pop(router_id, None)

    def converge(self, router: RouterSpec, networks: Mapping[str, NetworkSpec]) -> None:
        """Bring a router's namespace, which must exist, to its description, whatever is in it.

        :raises DriverError: if it names a network that is not on this node.
        """
        space = self._names.router(router.id)
        with self._kernel.nft(space) as nft:
            nft.run(ruleset(router))
        feet = {
            inner(foot.port_id, gateway=False): (foot.network_id, foot.port_id, foot.mac, set(foot.addresses))
            for foot in router.interfaces
        }
        if router.gateway is not None:
            floating = {f"{outer}/32" for outer in _pairs(router)}
            foot = router.gateway
            feet[inner(foot.port_id, gateway=True)] = (
                foot.network_id,
                foot.port_id,
                foot.mac,
                {*foot.addresses, *floating},
            )
        with self._kernel.netlink(space) as netlink:
            lo = self._kernel.loopback(netlink)
            netlink.settle(lo, ("127.0.0.1/8", "::1/128", f"{METADATA_ADDRESS}/32"))
            for stray in [name for name in netlink.links() if name[:2] in ("qr", "qg") and name not in feet]:
                netlink.delete_link(stray)
            indexes: dict[str, int] = {}
            for name, (network_id, port_id, mac, addresses) in feet.items():
                if network_id not in networks:
                    raise DriverError(f"network {network_id} of router {router.id} is not on this node")
                link = self._switch.cable(
                    names.router_port(port_id),
                    networks[network_id],
                    namespace=space,
                    inner=name,
                    mac=names.mac(mac),
                )
                indexes[name] = link.index
                # Up only now: with the rules loaded and the addresses in place.
                netlink.settle(link, map(names.interface, addresses))
            _routes(netlink, router, indexes)
        self._announce(space, router, feet)
        with self._kernel.conntrack(space) as table:
            for flow in table.flows():
                if not translation_is_current(flow, router):
                    table.cut(flow)

    def _announce(
        self, space: str, router: RouterSpec, feet: Mapping[str, tuple[str, str, str, set[str]]]
    ) -> None:
        """Tell the neighbours of each address that is new here, once in the life of this process."""
        places = {
            (name, names.mac(mac), names.address(address.partition("/")[0]))
            for name, (_, _, mac, addresses) in feet.items()
            for address in addresses
            if ":" not in address
        }
        told = self._announced.setdefault(router.id, set())
        told &= places
        for place in sorted(places - told):
            self._kernel.announce(space, *place)
            told.add(place)


def _routes(netlink: Netlink, router: RouterSpec, indexes: Mapping[str, int]) -> None:
    nets = [
        (
            ipaddress.ip_interface(names.interface(address)).network,
            indexes[inner(foot.port_id, gateway=False)],
        )
        for foot in router.interfaces
        for address in foot.addresses
    ]
    wanted = set()
    if router.gateway is not None:
        index = indexes[inner(router.gateway.port_id, gateway=True)]
        nets += [
            (ipaddress.ip_interface(names.interface(a)).network, index) for a in router.gateway.addresses
        ]
        for via in map(names.address, router.gateway.gateway_ips):
            everywhere = "::/0" if ":" in via else "0.0.0.0/0"
            wanted.add(KernelRoute(destination=everywhere, via=via, index=index))
    problems = []
    for route in router.routes:
        via = names.address(route.nexthop)
        place = next((index for net, index in nets if ipaddress.ip_address(via) in net), None)
        if place is None:
            problems.append(f"no interface reaches next hop {via}")
        else:
            destination = str(names.prefix(route.destination))
            wanted.add(KernelRoute(destination=destination, via=via, index=place))
    have = netlink.routes()
    for old in have - wanted:
        netlink.delete_route(old)
    for new in sorted(wanted - have, key=lambda route: route.destination):
        netlink.add_route(new)
    if problems:
        raise DriverError("; ".join(problems))


def _pairs(router: RouterSpec) -> dict[str, str]:
    """Floating IP -> fixed IP."""
    if router.gateway is None:
        return {}
    return {names.address(item.floating_ip): names.address(item.fixed_ip) for item in router.floating_ips}


def _snat_address(router: RouterSpec) -> str | None:
    addresses: Iterable[str] = router.gateway.addresses if router.gateway else ()
    return next(
        (names.address(address.partition("/")[0]) for address in addresses if ":" not in address), None
    )
