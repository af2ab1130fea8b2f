"""IPv6: guests form or get their addresses, find their router, and reach each other through it."""

from __future__ import annotations

import ipaddress
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from altostack.network.drivers.base import (
    FixedIP,
    Ipv6Mode,
    NetworkSpec,
    PortSpec,
    SecurityGroupSpec,
    SubnetSpec,
)
from altostack.network.drivers.names import link_local
from tests.network.drivers.lab import EGRESS, Guest, Lab, allow, network, port, router, uid

pytestmark = pytest.mark.real

OPEN = SecurityGroupSpec(id=uid("8", 1), rules=(*EGRESS, allow(ethertype="IPv6")))


def formed(each: PortSpec, prefix: str) -> str:
    """The address that a guest forms in a /64 (RFC 4862 section 5.5.3)."""
    tail = int(ipaddress.IPv6Address(link_local(each.mac))) & ((1 << 64) - 1)
    return str(ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) | tail))


def six(number: int, each: PortSpec, prefix: str, mode: Ipv6Mode, address: str) -> NetworkSpec:
    """A network of one IPv6 subnet with one port at ``address``; DHCP at ::2."""
    subnet = SubnetSpec(
        id=uid("5", number) + "-6",
        cidr=f"{prefix}/64",
        gateway=f"{prefix}1",
        ipv6_ra_mode=mode,
        ipv6_address_mode=mode,
        dns_nameservers=("2001:db8:ffff::53",),
    )
    made = network(number, dhcp=True)
    assert made.dhcp is not None
    server = replace(made.dhcp, fixed_ips=(FixedIP(subnet_id=subnet.id, ip=f"{prefix}2"),))
    placed = replace(each, fixed_ips=(FixedIP(subnet_id=subnet.id, ip=address),))
    return replace(made, subnets=(subnet,), dhcp=server, ports=(placed,))


def eventually(check: Callable[[], bool], seconds: float = 8.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if check():
            return True
        time.sleep(0.1)
    return False


def listen_to_routers(guest: Guest) -> None:
    guest.lab.kernel.sysctl(
        guest.space, {"ipv6/conf/eth0/accept_ra": "2", "ipv6/conf/eth0/router_solicitations": "5"}
    )
    guest.run("ip", "link", "set", "eth0", "down")
    guest.run("ip", "link", "set", "eth0", "up")


def test_guests_form_addresses_and_find_the_router(lab: Lab) -> None:
    one, two = port(1, groups=(OPEN.id,)), port(2, groups=(OPEN.id,))
    first = six(1, one, "2001:db8:1::", "slaac", formed(one, "2001:db8:1::"))
    second = six(2, two, "2001:db8:2::", "slaac", formed(two, "2001:db8:2::"))
    gate = router(1, (first, "2001:db8:1::1/64"), (second, "2001:db8:2::1/64"))
    lab.converge(networks=(first, second), routers=(gate,), security_groups=(OPEN,))
    a, b = lab.guest(first.ports[0], configure=False), lab.guest(second.ports[0], configure=False)
    for guest in (a, b):
        listen_to_routers(guest)
        shown = guest.port.fixed_ips[0].ip
        assert eventually(lambda guest=guest, shown=shown: shown in guest.run("ip", "-6", "addr").stdout)  # type: ignore[misc]  # lambda defaults
        assert "default via fe80::" in guest.run("ip", "-6", "route").stdout
    assert eventually(lambda: a.pings(b.ip), 3)
    assert a.pings("2001:db8:2::1")
    b.serve(80, "::")
    assert a.reaches(b.ip, 80)
    # The router that goes takes its server along, and what it served is not advertised any more.
    lab.converge(networks=(first, second), security_groups=(OPEN,))
    assert not any(name.startswith(gate.id[:11]) for name in lab.driver.inventory().get("files", {}))


def solicit(guest: Guest) -> bytes:
    """What a DHCPv6 server advertises to a guest that asks (RFC 8415 section 18.2.1)."""
    mac = bytes.fromhex(guest.mac.replace(":", ""))
    options = struct.pack("!HHHH", 1, 10, 3, 1) + mac  # client identifier: DUID-LL
    options += struct.pack("!HHIII", 3, 12, 7, 0, 0) + struct.pack(
        "!HHH", 8, 2, 0
    )  # an address; elapsed time
    options += struct.pack("!HHH", 6, 2, 23)  # and DNS servers
    with guest.lab.kernel.inside(guest.space):
        client = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        index = socket.if_nametoindex("eth0")
    with client:
        client.settimeout(3)
        client.bind(("::", 546))
        client.sendto(b"\x01abc" + options, ("ff02::1:2", 547, 0, index))
        return client.recv(4096)


def test_a_client_gets_its_address_by_dhcpv6(lab: Lab) -> None:
    one = port(1, groups=(OPEN.id,))
    net = six(1, one, "2001:db8:1::", "dhcpv6-stateful", "2001:db8:1::77")
    gate = router(1, (net, "2001:db8:1::1/64"))
    lab.converge(networks=(net,), routers=(gate,), security_groups=(OPEN,))
    a = lab.guest(net.ports[0], configure=False)
    listen_to_routers(a)
    assert eventually(lambda: "default via fe80::" in a.run("ip", "-6", "route").stdout)
    assert "2001:db8:1:" not in a.run("ip", "-6", "addr").stdout, "no address is formed in a managed subnet"
    told = solicit(a)
    assert told[0] == 2
    assert ipaddress.IPv6Address("2001:db8:1::77").packed in told
    assert ipaddress.IPv6Address("2001:db8:ffff::53").packed in told
