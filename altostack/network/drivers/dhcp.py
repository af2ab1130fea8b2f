"""DHCP and DNS for a network: one dnsmasq in the network's own namespace.

Hosts and options stand in files that the server reads again at a signal; it is restarted only when subnets
change. Every value that goes into a file is checked, because a line that a tenant could add would be a command
to dnsmasq.

Sources: dnsmasq(8), RFC 2131, 2132, 3442.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from altostack.network.drivers import names
from altostack.network.drivers.base import (
    METADATA_ADDRESS,
    BadSpec,
    DhcpOption,
    FixedIP,
    HostSpec,
    NetworkSpec,
    PortSpec,
    SubnetSpec,
)
from altostack.network.drivers.dnsmasq import Servers
from altostack.network.drivers.kernel import Kernel

_NUMBERS_4 = """netmask=1 time-offset=2 router=3 dns-server=6 log-server=7 lpr-server=9 boot-file-size=13
domain-name=15 swap-server=16 root-path=17 extension-path=18 ip-forward-enable=19
non-local-source-routing=20 policy-filter=21 max-datagram-reassembly=22 default-ttl=23 mtu=26
all-subnets-local=27 router-discovery=31 router-solicitation=32 static-route=33
trailer-encapsulation=34 arp-timeout=35 ethernet-encap=36 tcp-ttl=37 tcp-keepalive=38 nis-domain=40
nis-server=41 ntp-server=42 netbios-ns=44 netbios-dd=45 netbios-nodetype=46 netbios-scope=47
x-windows-fs=48 x-windows-dm=49 T1=58 T2=59 vendor-class=60 nis+-domain=64 nis+-server=65
tftp-server=66 bootfile-name=67 mobile-ip-home=68 smtp-server=69 pop3-server=70 nntp-server=71
irc-server=74 user-class=77 rapid-commit=80 client-arch=93 client-interface-id=94
client-machine-id=97 posix-timezone=100 tzdb-timezone=101 ipv6-only=108 domain-search=119
sip-server=120 classless-static-route=121 vendor-id-encap=125 tftp-server-address=150
server-ip-address=255"""
_NUMBERS_6 = """sip-server-domain=21 sip-server=22 dns-server=23 domain-search=24 nis-server=27 nis+-server=28
nis-domain=29 nis+-domain=30 sntp-server=31 information-refresh-time=32 posix-timezone=41
tzdb-timezone=42 ntp-server=56 bootfile-url=59 bootfile-param=60"""

DEVICE = "ns0"
"""The device of the DHCP namespace in the network."""

LEASE_SECONDS = 86400
_OPTION_NAME = re.compile(r"(tag:!?[a-z0-9]{1,20},)?([A-Za-z0-9+-]{1,40})")
_OPTION_VALUE = re.compile(r"[!$-\[\]-~]( ?[!$-\[\]-~])*")
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,200}[a-z0-9])?\.?", re.IGNORECASE)


def _numbers(text: str) -> dict[str, int]:
    return {name: int(number) for name, _, number in (word.rpartition("=") for word in text.split())}


OPTIONS = {4: _numbers(_NUMBERS_4), 6: _numbers(_NUMBERS_6)}
"""The options that dnsmasq 2.90 knows by name, by IP version (``dnsmasq --help dhcp``)."""


@dataclass(kw_only=True, slots=True)
class _Host:
    """What the files say about one port, kept so that a changed port costs one port's work."""

    key: object
    hosts: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    problem: str | None = None


class DhcpServers:
    """The servers in a node's DHCP namespaces, by the short identifier of their networks."""

    def __init__(self, kernel: Kernel, cloud: names.Names, folder: Path) -> None:
        self._kernel = kernel
        self._names = cloud
        self.servers = Servers(kernel, folder)
        self._hosts: dict[str, dict[str, _Host]] = {}

    def close(self) -> None:
        """Let go of the servers; they run on."""
        self.servers.close()
        self._hosts = {}

    def remove(self, short: str) -> None:
        """End a network's server and remove its files; fine if there are none."""
        self.servers.remove(short)
        self._hosts.pop(short, None)

    def problems(self, network: NetworkSpec) -> dict[str, str]:
        """Port identifier -> why DHCP cannot answer it, as of the last :meth:`converge`."""
        hosts = self._hosts.get(names.short(network.id), {})
        return {port: host.problem for port, host in hosts.items() if host.problem}

    def converge(self, network: NetworkSpec) -> None:
        """Serve a network whose namespace and addresses are ready.

        :raises DriverError: if the server does not start.
        """
        short = names.short(network.id)
        if not _ranges(network):
            self.remove(short)
            return
        hosts = self._render(network, short)
        files = {
            "hosts": [line for host in hosts.values() for line in host.hosts],
            "names": [line for host in hosts.values() for line in host.names],
            "options": [*_subnet_options(network), *(line for h in hosts.values() for line in h.options)],
        }
        if self.servers.running(short):
            self._release(network, self.servers.folder(short) / "hosts", set(files["hosts"]))
        configuration = _configuration(network, self.servers.folder(short))
        self.servers.converge(short, self._names.dhcp(network.id), configuration, files)

    def _render(self, network: NetworkSpec, short: str) -> dict[str, _Host]:
        served = {subnet.id: subnet for subnet in network.subnets if subnet.enable_dhcp}
        old = self._hosts.get(short, {})
        new: dict[str, _Host] = {}
        everyone: list[tuple[str, PortSpec | HostSpec]] = [(port.id, port) for port in network.ports]
        everyone += [(host.port_id, host) for host in network.hosts]
        for port_id, port in everyone:
            key = (
                port.mac,
                port.fixed_ips,
                port.dns_name,
                port.dhcp_options,
                network.subnets,
                network.dns_domain,
            )
            known = old.get(port_id)
            new[port_id] = known if known and known.key == key else _host(port_id, port, served, network, key)
        self._hosts[short] = new
        return new

    def _release(self, network: NetworkSpec, path: Path, keep: set[str]) -> None:
        """Give back the leases of hosts that are gone, or dnsmasq refuses their addresses to the next ports.

        Done before the files change, so that a run that is cut short does it again.
        """
        with contextlib.suppress(FileNotFoundError):
            gone = [line for line in path.read_text().splitlines() if line not in keep]
            wanted = _server_addresses(network)
            for line in gone:
                mac, *_, address = line.split(",")
                server = next(
                    (ip for net, ip in wanted if ":" not in address and _inside(address, net)), None
                )
                if server:
                    self._kernel.step(f"release {address}")
                    with self._kernel.inside(self._names.dhcp(network.id)):
                        _send_release(mac, address, server)


def _configuration(network: NetworkSpec, folder: Path) -> list[str]:
    lines = [
        f"interface={DEVICE}", "no-ping", "dhcp-authoritative", "dhcp-lease-max=65536", "quiet-dhcp",
        "quiet-dhcp6", "dhcp-match=set:ipxe,175", f"dhcp-option-force=option:mtu,{int(network.mtu)}",
        f"dhcp-hostsfile={folder}/hosts", f"dhcp-optsfile={folder}/options", f"addn-hosts={folder}/names",
    ]  # fmt: skip
    domain = [f"domain={_domain(network.dns_domain)}"] if network.dns_domain else []
    return [*lines, *domain, *_ranges(network)]


def addresses(network: NetworkSpec) -> set[str]:
    """The addresses (``address/length``) that the DHCP namespace holds in the network, metadata's included."""
    if network.dhcp is None:
        return set()
    lengths = {subnet.id: names.prefix(subnet.cidr).prefixlen for subnet in network.subnets}
    own = {
        names.interface(f"{fixed.ip}/{lengths[fixed.subnet_id]}")
        for fixed in network.dhcp.fixed_ips
        if fixed.subnet_id in lengths
    }
    return own | {f"{METADATA_ADDRESS}/32"}


def _server_addresses(network: NetworkSpec) -> list[tuple[str, str]]:
    fixed_ips: Iterable[FixedIP] = network.dhcp.fixed_ips if network.dhcp else ()
    cidrs = {subnet.id: subnet.cidr for subnet in network.subnets}
    return [(cidrs[fixed.subnet_id], fixed.ip) for fixed in fixed_ips if fixed.subnet_id in cidrs]


def _inside(address: str, cidr: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(cidr, strict=False)


def _tag(subnet: SubnetSpec) -> str:
    return "s-" + names.identifier(subnet.id)


def _ranges(network: NetworkSpec) -> list[str]:
    """The subnets that are served: where this node has an address, and not those that guests form addresses in."""
    here = {fixed.subnet_id for fixed in network.dhcp.fixed_ips} if network.dhcp else set()
    lines = []
    for subnet in network.subnets:
        if not subnet.enable_dhcp or subnet.id not in here or subnet.ipv6_address_mode == "slaac":
            continue
        net = names.prefix(subnet.cidr)
        if net.version == 6 and subnet.ipv6_address_mode is None:
            continue
        size = str(net.netmask) if net.version == 4 else str(net.prefixlen)
        lines.append(f"dhcp-range=set:{_tag(subnet)},{net.network_address},static,{size},{LEASE_SECONDS}s")
    return lines


def _subnet_options(network: NetworkSpec) -> list[str]:
    """What every guest of a subnet is told: DNS, router, routes (RFC 3442: with 121, 3 is ignored)."""
    here = (
        {fixed.subnet_id: names.address(fixed.ip) for fixed in network.dhcp.fixed_ips} if network.dhcp else {}
    )
    lines = []
    for subnet in network.subnets:
        tag = f"tag:{_tag(subnet)},"
        servers = [names.address(server) for server in subnet.dns_nameservers]
        if subnet.ip_version == 6:
            if servers:
                lines.append(f"{tag}option6:dns-server,{','.join(f'[{server}]' for server in servers)}")
            continue
        gateway = names.address(subnet.gateway) if subnet.gateway else None
        own = here.get(subnet.id)
        servers = servers or ([own] if own else [])
        if servers:
            lines.append(f"{tag}option:dns-server,{','.join(servers)}")
        routes = [
            (str(names.prefix(route.destination)), names.address(route.nexthop))
            for route in subnet.host_routes
        ]
        if own:
            routes.append((f"{METADATA_ADDRESS}/32", own))
        if gateway:
            routes.append(("0.0.0.0/0", gateway))
        lines.append(f"{tag}option:router" + (f",{gateway}" if gateway else ""))
        if routes:
            flat = ",".join(f"{destination},{nexthop}" for destination, nexthop in routes)
            lines += [f"{tag}option:classless-static-route,{flat}", f"{tag}249,{flat}"]
    return lines


def _host(
    port_id: str,
    port: PortSpec | HostSpec,
    served: Mapping[str, SubnetSpec],
    network: NetworkSpec,
    key: object,
) -> _Host:
    host = _Host(key=key)
    try:
        mac, tag = names.mac(port.mac), "p-" + names.identifier(port_id)
        domain = _domain(network.dns_domain) if network.dns_domain else None
        for fixed in port.fixed_ips:
            if fixed.subnet_id not in served:
                continue
            address = names.address(fixed.ip)
            name = (
                names.host(port.dns_name)
                if port.dns_name
                else "host-" + re.sub("[.:]+", "-", address).strip("-")
            )
            shown = f"[{address}]" if ":" in address else address
            tags = f"set:{tag}," if port.dhcp_options else ""
            host.hosts.append(f"{mac},{tags}{name},{shown}")
            host.names.append(f"{address} {name}.{domain} {name}" if domain else f"{address} {name}")
        host.options += [f"tag:{tag},{_option(option)}" for option in port.dhcp_options]
    except BadSpec as error:
        return _Host(key=key, problem=f"DHCP: {error}")
    return host


def _option(option: DhcpOption) -> str:
    """An extra option as dnsmasq writes it. Values are printable ASCII without quotes, backslashes and comments."""
    match, known = _OPTION_NAME.fullmatch(option.name), OPTIONS.get(option.ip_version, {})
    name = match[2] if match else ""
    if name.isdigit() and 0 < int(name) < 255:
        # By its name, because then dnsmasq knows its type: a TFTP server is text though it looks like an address.
        name = next((word for word, number in known.items() if number == int(name)), name)
    elif name not in known:
        raise BadSpec(f"DHCP option {option.name!r} is not known")
    if not _OPTION_VALUE.fullmatch(option.value) or len(option.value) > 255 or "#" in option.value:
        raise BadSpec(f"the value of DHCP option {option.name} holds characters that are not allowed")
    word = "option" if option.ip_version == 4 else "option6"
    return f"{(match and match[1]) or ''}{word}:{name},{option.value}"


def _domain(value: str) -> str:
    if not _DOMAIN.fullmatch(value):
        raise BadSpec(f"{value!r} is not a domain name")
    return value.rstrip(".").lower()


def _send_release(mac: str, address: str, server: str) -> None:
    """DHCPRELEASE (RFC 2131 section 4.4.6) in the name of a guest that is gone, from the server's own machine."""
    packet = struct.pack(
        "!4BIHH4s12x6s202xI", 1, 1, 6, 0, int.from_bytes(os.urandom(4)), 0, 0, socket.inet_aton(address),
        bytes.fromhex(mac.replace(":", "")), 0x63825363,
    )  # fmt: skip
    packet += b"\x35\x01\x07" + b"\x36\x04" + socket.inet_aton(server) + b"\xff"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, DEVICE.encode())
        sender.sendto(packet, (server, 67))
