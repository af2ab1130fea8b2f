"""The data plane of a node in plain Linux: bridges, namespaces, nftables, dnsmasq and VXLAN.

Everything lives in namespaces named after the cloud's prefix; the namespace of the host is not touched::

    <prefix>-node        one bridge a network, its taps and VXLAN device, the security groups
    <prefix>-d-<network> DHCP, DNS and metadata of a network
    <prefix>-r-<router>  a router: NAT, floating IPs, metadata
    <prefix>-ext         the outside: the gateway addresses of external networks
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from altostack.network.drivers import dhcp, names, router
from altostack.network.drivers.advertise import Advertisers
from altostack.network.drivers.base import (
    METADATA_ADDRESS,
    DhcpPortSpec,
    DriverError,
    ExternalNetworkSpec,
    Inventory,
    NetworkSpec,
    NodeNetworks,
    Observed,
    PortSpec,
    Resolver,
    RouterSpec,
)
from altostack.network.drivers.dhcp import DhcpServers
from altostack.network.drivers.firewall import Firewall
from altostack.network.drivers.judge import Judge
from altostack.network.drivers.kernel import Kernel, nothing
from altostack.network.drivers.metadata import PORT, MetadataServer, Place
from altostack.network.drivers.router import Routers
from altostack.network.drivers.switch import Switch, Underlay
from altostack.network.drivers.turn import Failures, Turn, networks_of

_LOG = logging.getLogger(__name__)
_SERVER_SYSCTL = {
    "ipv4/ip_forward": "0",
    "ipv4/conf/all/arp_ignore": "1",
    "ipv6/conf/all/forwarding": "0",
    "ipv6/conf/all/accept_ra": "0",
    "ipv6/conf/default/accept_ra": "0",
    "ipv6/conf/default/accept_dad": "0",
}
_T = TypeVar("_T")


class LinuxDriver:
    """:class:`~altostack.network.drivers.base.NetworkDriver` for this machine's kernel; needs root.

    :param prefix: names everything; unique on the machine, 1 to 8 characters of a-z and 0-9.
    :param state: a folder for DHCP's files, of this driver alone. If its parents can be searched by others,
        dnsmasq runs without privilege.
    :param resolver: answers guests' metadata requests; called from several threads.
    :param underlay: where VXLAN travels; without it, such networks fail.
    :param step: called before each single operation on the machine with a description of it.
    """

    def __init__(
        self,
        *,
        prefix: str,
        state: Path,
        resolver: Resolver,
        underlay: Underlay | None = None,
        step: Callable[[str], None] = nothing,
    ) -> None:
        self._names = names.Names(prefix)
        # One thread of our own changes namespaces; the caller's threads never leave theirs.
        self._hands = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._kernel = self._hands.submit(Kernel, step=step).result()
        self._switch = Switch(self._kernel, self._names, underlay)
        self._firewall = Firewall(self._kernel, self._names.node)
        self._dhcp = DhcpServers(self._kernel, self._names, state.absolute() / "dhcp")
        self._advertisers = Advertisers(self._kernel, self._names, state.absolute() / "ra")
        self._routers = Routers(self._kernel, self._names, self._switch)
        self._metadata = MetadataServer(resolver)
        self._listening: dict[Place, int] = {}
        self._open = False
        self._spaces: set[str] = set()
        self._done: dict[tuple[str, str], object] = {}
        self._judge_again = False

    def converge(self, desired: NodeNetworks) -> Observed:
        """See :meth:`NetworkDriver.converge <altostack.network.drivers.base.NetworkDriver.converge>`."""
        return self._run(lambda: self._converge(desired))

    def open(self) -> None:
        """See that the node's namespace is there, for whoever else lives in it; nothing in it is changed.

        :raises DriverError: the kernel refuses.
        """
        self._run(self._create_node)

    def forget(self) -> None:
        """Trust nothing that is remembered: the next :meth:`converge` looks at the machine first."""
        self._run(self._forget)

    def inventory(self) -> Inventory:
        """Namespaces with their devices, addresses, routes and rules; processes; files. Empty if nothing exists."""
        return self._run(self._inventory)

    def teardown(self) -> None:
        """Remove everything of this prefix, and leave no flow, process or file behind."""
        self._run(self._teardown)

    def close(self) -> None:
        """Stop this process's own threads and sockets and leave the data plane as it is."""
        self._metadata.close()
        self._run(self._forget)
        self._run(self._kernel.close)
        self._hands.shutdown()

    def _run(self, work: Callable[[], _T]) -> _T:
        return self._hands.submit(work).result()

    def _create_node(self) -> None:
        try:
            self._kernel.create(self._names.node)
        except PermissionError as error:
            raise DriverError(f"the Linux network driver needs root: {error}") from error

    def _start(self) -> None:
        """Look at what is there. Whoever was killed here before, this finds it and goes on."""
        self._create_node()
        self._firewall.open()
        self._switch.open(native=self._firewall.native)
        self._dhcp.servers.open()
        self._advertisers.servers.open()
        self._spaces = set(self._kernel.namespaces(self._names.pattern)) - {self._names.node}
        self._open = True

    def _forget(self) -> None:
        self._switch.close()
        self._firewall.close()
        self._dhcp.close()
        self._advertisers.servers.close()
        for kind, item in self._done:
            if kind == "router":
                self._routers.forget(item)
        self._done.clear()
        self._open = False

    def _converge(self, desired: NodeNetworks) -> Observed:
        if not self._open:
            try:
                self._start()
            except BaseException:
                self._forget()
                raise
        turn = Turn(desired)
        self._remove_others(turn)
        for network in turn.networks.values():
            self._each("network", network.id, _layer2(network), turn.failed, self._switch.network, network)
        self._protect(turn)
        for network in turn.networks.values():
            for port in turn.ports[network.id]:
                self._port(port, network, turn)
        for network in turn.networks.values():
            self._serve(network, turn)
        for outside in turn.outside.values():
            self._each(
                "outside", outside.network_id, outside, turn.failed_outside, self._outside, outside, turn
            )
        for item in turn.routers.values():
            if not self._advertisers.servers.alive(names.short(item.id)):
                self._done.pop(("router", item.id), None)
            known = (turn.networks[n] for n in networks_of(item) if n in turn.networks)
            feet = tuple((_layer2(network), network.subnets) for network in known)
            self._each("router", item.id, (item, feet), turn.failed, self._router, item, turn)
        return turn.observed()

    def _each(
        self, kind: str, item: str, key: object, failures: Failures, work: Callable[..., None], *args: object
    ) -> None:
        """Do the work for an item unless it was done for the same key; its failure is its own."""
        if item in failures or self._done.get((kind, item)) == key:
            return
        self._done.pop((kind, item), None)
        try:
            work(*args)
        except (DriverError, OSError) as error:
            failures[item] = str(error)
            _LOG.warning("%s %s: %s", kind, item, error)
        else:
            self._done[kind, item] = key

    def _remove_others(self, turn: Turn) -> None:
        """What nobody wants goes first, so that an address may move from one item to another."""
        spaces: set[str] = {self._names.outside} if turn.outside else set()
        places: set[Place] = set()
        done = {("port", port.id) for ports in turn.ports.values() for port in ports}
        done |= {("outside", network_id) for network_id in turn.outside}
        shorts = set()
        for network in turn.networks.values():
            done.add(("network", network.id))
            if network.dhcp is not None:
                spaces.add(self._names.dhcp(network.id))
                places.add(("network", network.id))
                done |= {("place", network.id), ("served", network.id)}
                shorts.add(names.short(network.id))
        for item in turn.routers.values():
            spaces.add(self._names.router(item.id))
            places.add(("router", item.id))
            done.add(("router", item.id))
        for place in self._metadata.places() - places:
            self._metadata.close_place(place)
        for kind, gone in self._done.keys() - done:
            del self._done[kind, gone]
            if kind == "router":
                self._routers.forget(gone)
        for short in self._dhcp.servers.known() - shorts:
            turn.attempt(f"removing DHCP of {short}", self._dhcp.remove, short)
        for short in self._advertisers.servers.known() - {names.short(item) for item in turn.routers}:
            turn.attempt(f"removing advertisements of {short}", self._advertisers.servers.remove, short)
        turn.attempt("removing devices", self._switch.keep_only, turn.devices)
        for space in sorted(self._spaces - spaces):
            if turn.attempt(f"removing {space}", self._kernel.delete, space):
                self._spaces.discard(space)

    def _protect(self, turn: Turn) -> None:
        """Load the rules of all ports before any tap is brought up, and end the flows they now forbid."""
        zones = self._switch.zones
        wanted = {bridge: zones[bridge] for n in turn.networks if (bridge := names.bridge(n)) in zones}
        everyone = [(names.bridge(n), port) for n, ports in turn.ports.items() for port in ports]
        outcome = self._firewall.apply(wanted, [port for _, port in everyone], turn.groups)
        by_tap = {port.tap: port.id for _, port in everyone}
        turn.failed.update({by_tap[tap]: why for tap, why in outcome.ports.items() if tap in by_tap})
        turn.failed.update(outcome.groups)
        if outcome.narrowed or self._judge_again:
            sound = [(bridge, port) for bridge, port in everyone if port.id not in turn.failed]
            judge = Judge([(zones[bridge], port) for bridge, port in sound if bridge in zones], turn.groups)
            self._judge_again = True
            if turn.attempt("ending forbidden flows", self._firewall.cut, judge):
                self._judge_again = False

    def _port(self, port: PortSpec, network: NetworkSpec, turn: Turn) -> None:
        if network.id in turn.failed:
            turn.failed.setdefault(port.id, f"network {network.id}: {turn.failed[network.id]}")
        key = (port.tap, port.admin_up, _layer2(network))
        self._each("port", port.id, key, turn.failed, self._switch.port, port, network)

    def _serve(self, network: NetworkSpec, turn: Turn) -> None:
        """DHCP and metadata. A port that waits for an address that nobody gives is not ACTIVE."""
        if network.dhcp is None or network.id in turn.failed:
            return
        if not self._dhcp.servers.alive(names.short(network.id)):
            self._done.pop(("served", network.id), None)
        failures: Failures = {}
        place = (_layer2(network), network.subnets, network.dhcp)
        self._each("place", network.id, place, failures, self._serving_place, network, network.dhcp)
        self._each("served", network.id, network, failures, self._dhcp.converge, network)
        if network.id in failures:
            turn.failed[network.id] = f"DHCP: {failures[network.id]}"
            served = {subnet.id for subnet in network.subnets if subnet.enable_dhcp}
            for port in network.ports:
                if any(fixed.subnet_id in served for fixed in port.fixed_ips):
                    turn.failed.setdefault(port.id, f"DHCP: {failures[network.id]}")
        for port_id, why in self._dhcp.problems(network).items():
            turn.failed.setdefault(port_id, why)

    def _serving_place(self, network: NetworkSpec, port: DhcpPortSpec) -> None:
        """The namespace from which a network is served, and metadata in it."""
        space = self._space(self._names.dhcp(network.id), _SERVER_SYSCTL)
        link = self._switch.cable(
            names.dhcp_port(network.id),
            network,
            namespace=space,
            inner=dhcp.DEVICE,
            mac=names.mac(port.mac),
        )
        with self._kernel.netlink(space) as netlink:
            self._kernel.loopback(netlink)
            netlink.settle(link, dhcp.addresses(network))
        self._listen(("network", network.id), space)

    def _router(self, item: RouterSpec, turn: Turn) -> None:
        space = self._space(self._names.router(item.id), router.SYSCTL)
        self._routers.converge(item, turn.networks)
        self._advertisers.converge(item, turn.networks)
        self._listen(("router", item.id), space)

    def _outside(self, outside: ExternalNetworkSpec, turn: Turn) -> None:
        if outside.network_id not in turn.networks:
            raise DriverError(f"network {outside.network_id} is not on this node")
        space = self._space(self._names.outside, _SERVER_SYSCTL)
        name = names.outside_port(outside.network_id)
        link = self._switch.cable(name, turn.networks[outside.network_id], namespace=space, inner=name)
        with self._kernel.netlink(space) as netlink:
            self._kernel.loopback(netlink)
            netlink.settle(link, map(names.interface, outside.gateways))

    def _space(self, name: str, sysctl: Mapping[str, str]) -> str:
        """A namespace with its settings."""
        self._spaces.add(name)
        self._kernel.create(name)
        self._kernel.sysctl(name, sysctl)
        return name

    def _listen(self, place: Place, space: str) -> None:
        """Serve metadata in a namespace, and in a new one if it was made anew."""
        identity = self._kernel.identity(space)
        if place not in self._metadata.places() or self._listening.get(place) != identity:
            self._metadata.open(place, self._kernel.listen(space, METADATA_ADDRESS, PORT))
            self._listening[place] = identity

    def _inventory(self) -> Inventory:
        spaces = {
            name: self._look_inside(name) if self._kernel.exists(name) else {"broken": True}
            for name in self._kernel.namespaces(self._names.pattern)
        }
        servers = (self._dhcp.servers, self._advertisers.servers)
        found = {
            "namespaces": spaces,
            "processes": {key: len(pids) for some in servers for key, pids in some.processes().items()},
            "files": {name: text for some in servers for name, text in some.files().items()},
        }
        return {kind: items for kind, items in found.items() if items}

    def _look_inside(self, name: str) -> Inventory:
        with self._kernel.netlink(name) as netlink, self._kernel.nft(name) as nft:
            links = netlink.links()
            by_index = {link.index: link.name for link in links.values()}
            addresses = netlink.addresses()
            devices = {
                link.name: {
                    "kind": link.kind,
                    "mtu": link.mtu,
                    "up": link.up,
                    "master": by_index.get(link.master, ""),
                    "alias": link.alias,
                    # Others are chosen by the kernel, at random.
                    "mac": link.mac if link.name == dhcp.DEVICE or link.name[:2] in ("qr", "qg") else "",
                    "addresses": sorted(a for i, a in addresses if i == link.index and a[:5] != "fe80:"),
                    "floods": sorted(netlink.flood_targets(link.index)) if link.kind == "vxlan" else [],
                }
                for link in links.values()
            }
            routes = [
                f"{route.destination} via {route.via} dev {by_index.get(route.index)}"
                for route in netlink.routes()
            ]
            return {"devices": devices, "routes": sorted(routes), "rules": nft.ruleset()}

    def _teardown(self) -> None:
        self._forget()
        for place in self._metadata.places():
            self._metadata.close_place(place)
        self._dhcp.servers.remove_all()
        self._advertisers.servers.remove_all()
        for name in self._kernel.namespaces(self._names.pattern):
            if self._kernel.exists(name):
                # At once, while the kernel takes a namespace apart in its own time.
                with self._kernel.netlink(name) as netlink:
                    ours = [link for link in netlink.links() if names.OURS.fullmatch(link)]
                    netlink.delete_links(ours if name == self._names.node else [])
            self._kernel.delete(name)
        self._spaces = set()


def _layer2(network: NetworkSpec) -> tuple[object, ...]:
    """What a network's bridge depends on."""
    return (network.mtu, network.vni, network.peers)
