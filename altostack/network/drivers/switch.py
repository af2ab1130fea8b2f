"""The node namespace: one bridge a network, its taps, its VXLAN device and its cables to other namespaces."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from altostack.network.drivers import names
from altostack.network.drivers.base import BadSpec, DriverError, NetworkSpec, PortSpec
from altostack.network.drivers.kernel import Kernel
from altostack.network.drivers.netlink import Link, Netlink

_SYSCTL = {
    "ipv4/ip_forward": "0",
    "ipv6/conf/default/disable_ipv6": "1",
    "ipv6/conf/all/forwarding": "0",
}
_ZONES = range(1, 65536)


@dataclass(frozen=True, kw_only=True, slots=True)
class Underlay:
    """Where VXLAN packets travel: this node's ``address`` and UDP ``port``.

    ``namespace`` None is the namespace of this process. There the kernel only opens a UDP socket; the
    devices themselves live in the node's namespace.
    """

    address: str
    namespace: str | None = None
    port: int = 4789


class Switch:
    """Layer 2 of a node. It owns the devices of the node namespace whose names :data:`names.OURS` matches."""

    def __init__(self, kernel: Kernel, cloud: names.Names, underlay: Underlay | None) -> None:
        self._kernel = kernel
        self._names = cloud
        self._underlay = underlay
        self._netlink: Netlink | None = None
        self._known: set[str] = set()
        self._bridges: dict[str, int] = {}
        self.zones: dict[str, int] = {}

    @property
    def netlink(self) -> Netlink:
        """Devices of the node namespace."""
        if self._netlink is None:
            raise DriverError("the node namespace is not open")
        return self._netlink

    def open(self, *, native: bool) -> None:
        """Prepare the node namespace, which must exist, and look at what is in it.

        ``native``: the bridge family tracks connections itself, br_netfilter is not needed.
        """
        filtering = "0" if native else "1"
        bridge_calls = {f"bridge/bridge-nf-call-{family}": filtering for family in ("iptables", "ip6tables")}
        self._kernel.sysctl(
            self._names.node, {**_SYSCTL, **bridge_calls, "bridge/bridge-nf-call-arptables": "0"}
        )
        self._netlink = self._kernel.netlink(self._names.node)
        self._kernel.loopback(self._netlink)
        links = self._netlink.links()
        self._known = {name for name in links if names.OURS.fullmatch(name)}
        self.zones = {
            name: zone
            for name, link in links.items()
            if name in self._known and link.kind == "bridge" and (zone := _zone_of(link))
        }

    def close(self) -> None:
        """Let go of the namespace; everything in it stays."""
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None
        self._known, self.zones, self._bridges = set(), {}, {}

    def keep_only(self, wanted: set[str]) -> None:
        """Delete the devices of ours that are not wanted."""
        gone = sorted(self._known - wanted)
        self.netlink.delete_links(gone)
        for name in gone:
            self._forget(name)

    def remove(self, name: str) -> None:
        """Delete one device; fine if it is gone."""
        self.netlink.delete_link(name)
        self._forget(name)

    def network(self, network: NetworkSpec) -> None:
        """A network's bridge, with a tracking zone of its own, and its VXLAN device.

        The zone is written on the bridge itself, so that tracked connections outlive a restart of the driver.
        """
        name = names.bridge(network.id)
        link = self.netlink.link(name)
        if link is None:
            self.netlink.add_bridge(name, mtu=network.mtu)
            link = self._need(name)
        self._known.add(name)
        if link.mtu != network.mtu or not link.up:
            self.netlink.set_link(link.index, name=name, mtu=network.mtu, up=True)
        zone = _zone_of(link)
        if zone is None:
            used = set(self.zones.values())
            zone = next(number for number in _ZONES if number not in used)
            # With an address of its own, the bridge does not change it with every port that comes and goes.
            self.netlink.set_link(link.index, name=name, mac=link.mac, alias=f"{network.id} zone {zone}")
        self.zones[name] = zone
        self._bridges[name] = link.index
        if network.vni is not None:
            self._vxlan(network, link.index)
        elif (extra := names.vxlan(network.id)) in self._known:
            self.remove(extra)

    def port(self, port: PortSpec, network: NetworkSpec) -> None:
        """A port's tap, in its network's bridge. Its rules must be loaded already."""
        name = names.tap(port.tap)
        master = self._bridge(network)
        link = self.netlink.link(name)
        if link is None:
            self._kernel.tap(self._names.node, name)
            link = self._need(name)
        self._known.add(name)
        if (link.master, link.mtu, link.up) != (master, network.mtu, port.admin_up):
            self.netlink.set_link(link.index, name=name, mtu=network.mtu, master=master, up=port.admin_up)

    def cable(
        self, name: str, network: NetworkSpec, *, namespace: str, inner: str, mac: str | None = None
    ) -> Link:
        """A pair of devices between a network's bridge (``name``) and another namespace (``inner``).

        :returns: the device in the other namespace, down if it is new.
        """
        master = self._bridge(network)
        with self._kernel.netlink(namespace) as there:
            outer, link = self.netlink.link(name), there.link(inner)
            self._known.add(name)
            if outer is not None and link is None:
                # Its other end went with a namespace that is gone, or is another's.
                self.remove(name)
                outer = None
                self._known.add(name)
            if outer is None:
                if link is not None:
                    there.delete_link(inner)
                with self._kernel.handle(namespace) as handle:
                    self.netlink.add_veth(
                        name,
                        master=master,
                        mtu=network.mtu,
                        peer=inner,
                        peer_namespace=handle,
                        peer_mac=mac,
                    )
                link = there.link(inner)
            elif (outer.master, outer.mtu, outer.up) != (master, network.mtu, True):
                self.netlink.set_link(outer.index, name=name, mtu=network.mtu, master=master, up=True)
            if link is None:
                raise DriverError(f"device {inner} did not appear in {namespace}")
            if link.mtu != network.mtu or (mac and link.mac != mac):
                there.set_link(link.index, name=inner, mtu=network.mtu, mac=mac)
            return link

    def _vxlan(self, network: NetworkSpec, master: int) -> None:
        if self._underlay is None:
            raise DriverError("this node has no underlay address, so it cannot carry VXLAN networks")
        if network.vni is None or not 0 < network.vni < 1 << 24:
            raise BadSpec(f"VXLAN identifier {network.vni} is not between 1 and 16777215")
        name, local = names.vxlan(network.id), names.address(self._underlay.address)
        link = self.netlink.link(name)
        if link is not None and _tunnel(link) != (network.vni, self._underlay.port, local):
            self.remove(name)
            link = None
        if link is None:
            under = self._kernel.netlink(self._underlay.namespace)
            with under, self._kernel.handle(self._names.node) as handle:
                under.add_vxlan(
                    name, vni=network.vni, local=local, port=self._underlay.port, namespace=handle
                )
            link = self._need(name)
        self._known.add(name)
        if (link.master, link.mtu, link.up) != (master, network.mtu, True):
            self.netlink.set_link(link.index, name=name, mtu=network.mtu, master=master, up=True)
        wanted = {names.address(peer) for peer in network.peers} - {local}
        have = self.netlink.flood_targets(link.index)
        for peer in sorted(have - wanted):
            self.netlink.delete_flood_target(link.index, peer)
        for peer in sorted(wanted - have):
            self.netlink.add_flood_target(link.index, peer)

    def _forget(self, name: str) -> None:
        self._known.discard(name)
        self._bridges.pop(name, None)
        self.zones.pop(name, None)

    def _bridge(self, network: NetworkSpec) -> int:
        index = self._bridges.get(names.bridge(network.id))
        if index is None:
            raise DriverError(f"network {network.id} is not ready")
        return index

    def _need(self, name: str) -> Link:
        link = self.netlink.link(name)
        if link is None:
            raise DriverError(f"device {name} did not appear")
        return link


def _zone_of(link: Link) -> int | None:
    _, _, number = link.alias.rpartition(" zone ")
    return int(number) if number.isdigit() else None


def _tunnel(link: Link) -> tuple[int, int, str]:
    """VXLAN identifier, UDP port and local address of a device."""
    number, port = link.data.get(1, bytes(4)), link.data.get(15, bytes(2))
    local = link.data.get(4) or link.data.get(17) or bytes(4)
    return (
        struct.unpack("=I", number)[0],
        struct.unpack("!H", port)[0],
        str(ipaddress.ip_address(local)),
    )
