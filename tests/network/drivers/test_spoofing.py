"""What a hostile guest sends under another's name never arrives."""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import replace

import pytest

from altostack.network.drivers.base import AddressPair, PortSpec, SecurityGroupSpec
from altostack.network.drivers.names import link_local
from tests.network.drivers.lab import EGRESS, Guest, Lab, allow, network, port, uid

pytestmark = pytest.mark.real

OPEN = SecurityGroupSpec(
    id=uid("8", 1), rules=(*EGRESS, allow(), allow(ethertype="IPv6")), members=("10.0.0.11", "10.0.0.12")
)
MARK = b"altostack-spoof-test"
EVERYONE = "ff:ff:ff:ff:ff:ff"
STRANGER = "52:54:00:00:66:66"


def mac(value: str) -> bytes:
    return bytes.fromhex(value.replace(":", ""))


def ether(source: str, target: str, kind: int, payload: bytes) -> bytes:
    return mac(target) + mac(source) + struct.pack("!H", kind) + payload


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data + b'0') // 2}H", data + b"\0" * (len(data) % 2)))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def ipv4(
    source: str, target: str, protocol: int, payload: bytes, *, number: int = 1, offset: int = 0
) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), number, offset, 64, protocol, 0)
    head += socket.inet_aton(source) + socket.inet_aton(target)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def udp(source: int, target: int, payload: bytes = MARK) -> bytes:
    return struct.pack("!HHHH", source, target, 8 + len(payload), 0) + payload


def arp(sender_mac: str, sender_ip: str, operation: int = 2) -> bytes:
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    return (
        head
        + mac(sender_mac)
        + socket.inet_aton(sender_ip)
        + mac(EVERYONE)
        + socket.inet_aton("10.0.0.12")
        + MARK
    )


def ipv6(source: str, target: str, following: int, payload: bytes) -> bytes:
    addresses = ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(target).packed
    return struct.pack("!IHBB", 0x60000000, len(payload), following, 255) + addresses + payload


def icmpv6(source: str, target: str, kind: int, rest: bytes) -> bytes:
    body = struct.pack("!BBH", kind, 0, 0) + rest
    pseudo = ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(target).packed
    pseudo += struct.pack("!IxxxB", len(body), 58)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    return ipv6(source, target, 58, body)


@pytest.fixture
def pair(lab: Lab) -> tuple[Guest, Guest]:
    one = port(1, "10.0.0.11", "2001:db8::11", groups=(OPEN.id,))
    two = port(2, "10.0.0.12", "2001:db8::12", groups=(OPEN.id,))
    lab.converge(networks=(network(1, one, two),), security_groups=(OPEN,))
    return lab.guest(one), lab.guest(two)


def arrives(
    sender: Guest, receiver: Guest, frame: bytes, marker: bytes = MARK, seconds: float = 0.25
) -> bool:
    with receiver.hears(marker, seconds) as seen:
        sender.send(frame)
        return seen()


def test_honest_frames_arrive(pair: tuple[Guest, Guest]) -> None:
    a, b = pair
    frame = ipv4(a.ip, b.ip, 17, udp(1000, 2000))
    assert arrives(a, b, ether(a.mac, b.mac, 0x0800, frame))
    assert arrives(a, b, ether(a.mac, EVERYONE, 0x0806, arp(a.mac, a.ip)))
    assert arrives(a, b, ether(a.mac, EVERYONE, 0x0806, arp(a.mac, "0.0.0.0", 1)))
    assert arrives(a, b, ether(a.mac, b.mac, 0x86DD, ipv6("2001:db8::11", "2001:db8::12", 17, udp(1, 2))))
    target = ipaddress.IPv6Address("2001:db8::11").packed
    own = link_local(a.mac)
    said = icmpv6(own, "ff02::1", 136, struct.pack("!I", 0x20000000) + target + b"\x02\x01" + mac(a.mac))
    assert arrives(a, b, ether(a.mac, "33:33:00:00:00:01", 0x86DD, said), target + b"\x02\x01")
    asked = icmpv6("::", "ff02::1:ff00:11", 135, bytes(4) + target)
    assert arrives(a, b, ether(a.mac, "33:33:ff:00:00:11", 0x86DD, asked), target)


def test_forged_sources_are_dropped(pair: tuple[Guest, Guest]) -> None:
    a, b = pair
    packet = udp(1000, 2000)
    frames = {
        "MAC": ether(STRANGER, b.mac, 0x0800, ipv4(a.ip, b.ip, 17, packet)),
        "IPv4": ether(a.mac, b.mac, 0x0800, ipv4("10.0.0.99", b.ip, 17, packet)),
        "IPv4 of nobody": ether(a.mac, b.mac, 0x0800, ipv4("0.0.0.0", b.ip, 17, packet)),
        "IPv6": ether(a.mac, b.mac, 0x86DD, ipv6("2001:db8::99", "2001:db8::12", 17, packet)),
        "IPv6 link-local": ether(a.mac, b.mac, 0x86DD, ipv6("fe80::99", "2001:db8::12", 17, packet)),
        "ARP address": ether(a.mac, EVERYONE, 0x0806, arp(a.mac, "10.0.0.1")),
        "ARP hardware": ether(a.mac, EVERYONE, 0x0806, arp(STRANGER, a.ip)),
        "ARP frame": ether(STRANGER, EVERYONE, 0x0806, arp(a.mac, a.ip)),
        "metadata": ether(a.mac, b.mac, 0x0800, ipv4("169.254.169.254", b.ip, 17, packet)),
        "VLAN": ether(a.mac, b.mac, 0x8100, struct.pack("!HH", 5, 0x0800) + ipv4(a.ip, b.ip, 17, packet)),
        "VLAN with forged source": ether(
            a.mac, b.mac, 0x8100, struct.pack("!HH", 5, 0x0800) + ipv4("10.0.0.99", b.ip, 17, packet)
        ),
        "VLAN 0": ether(
            a.mac, b.mac, 0x8100, struct.pack("!HH", 0, 0x0800) + ipv4("10.0.0.99", b.ip, 17, packet)
        ),
        "double VLAN": ether(
            a.mac,
            b.mac,
            0x88A8,
            struct.pack("!HHHH", 5, 0x8100, 6, 0x0800) + ipv4(a.ip, b.ip, 17, packet),
        ),
        "unknown protocol": ether(a.mac, b.mac, 0x88B5, MARK),
        "spanning tree": ether(a.mac, "01:80:c2:00:00:00", 0x0026, MARK),
    }
    for what, frame in frames.items():
        assert not arrives(a, b, frame, seconds=0.1), what


def test_the_bridge_does_not_learn_from_forged_frames(pair: tuple[Guest, Guest]) -> None:
    a, b = pair
    assert a.pings(b.ip)
    for _ in range(5):
        a.send(ether(b.mac, EVERYONE, 0x0800, ipv4(a.ip, "10.0.0.255", 17, udp(1, 2))))
    assert arrives(a, b, ether(a.mac, b.mac, 0x0800, ipv4(a.ip, b.ip, 17, udp(1000, 2000))))
    assert a.pings(b.ip)


def test_no_guest_is_a_dhcp_server_or_a_router(pair: tuple[Guest, Guest]) -> None:
    a, b = pair
    offer = udp(67, 68)
    assert not arrives(a, b, ether(a.mac, EVERYONE, 0x0800, ipv4(a.ip, "255.255.255.255", 17, offer)))
    v6 = ether(a.mac, b.mac, 0x86DD, ipv6("2001:db8::11", "2001:db8::12", 17, udp(547, 546)))
    assert not arrives(a, b, v6)
    own = link_local(a.mac)
    advert = icmpv6(own, "ff02::1", 134, struct.pack("!BBHII", 64, 0, 1800, 0, 0) + MARK)
    assert not arrives(a, b, ether(a.mac, "33:33:00:00:00:01", 0x86DD, advert))
    redirect = icmpv6(own, "2001:db8::12", 137, bytes(36) + MARK)
    assert not arrives(a, b, ether(a.mac, b.mac, 0x86DD, redirect))
    # Behind an extension header, and in fragments that hide the type until they are put together.
    body = icmpv6(own, "ff02::1", 134, struct.pack("!BBHII", 64, 0, 1800, 0, 0) + MARK)[40:]
    hidden = ipv6(own, "ff02::1", 60, bytes((58, 0, 1, 4, 0, 0, 0, 0)) + body)
    assert not arrives(a, b, ether(a.mac, "33:33:00:00:00:01", 0x86DD, hidden))
    options = bytes((58, 2, 1, 20)) + bytes(20)
    whole = options + body
    for offset, more, part in ((0, 1, whole[:24]), (24, 0, whole[24:])):
        fragment = struct.pack("!BBHI", 60, 0, offset | more, 7) + part
        a.send(ether(a.mac, "33:33:00:00:00:01", 0x86DD, ipv6(own, "ff02::1", 44, fragment)))
    with b.hears(MARK) as seen:
        for offset, more, part in ((0, 1, whole[:24]), (24, 0, whole[24:])):
            fragment = struct.pack("!BBHI", 60, 0, offset | more, 8) + part
            a.send(ether(a.mac, "33:33:00:00:00:01", 0x86DD, ipv6(own, "ff02::1", 44, fragment)))
        assert not seen()


def test_no_guest_advertises_anothers_ipv6_address(pair: tuple[Guest, Guest]) -> None:
    a, b = pair
    target = ipaddress.IPv6Address("2001:db8::1").packed
    said = icmpv6(
        link_local(a.mac), "ff02::1", 136, struct.pack("!I", 0x20000000) + target + b"\x02\x01" + mac(a.mac)
    )
    assert not arrives(a, b, ether(a.mac, "33:33:00:00:00:01", 0x86DD, said), target + b"\x02\x01")


def test_fragments_of_two_tenants_never_meet(lab: Lab) -> None:
    """Equal addresses, equal identification: halves from two networks do not make a whole."""
    mine = [port(n, f"10.0.0.1{n}", groups=(OPEN.id,)) for n in (1, 2)]
    theirs = [port(n + 2, f"10.0.0.1{n}", groups=(OPEN.id,)) for n in (1, 2)]
    lab.converge(networks=(network(1, *mine), network(2, *theirs)), security_groups=(OPEN,))
    a, b, c, d = (lab.guest(each) for each in (*mine, *theirs))
    whole = udp(1000, 2000, b"x" * 24 + MARK)
    first, rest = whole[:24], whole[24:]
    more, offset = 0x2000, 3

    def send(guest: Guest, target: Guest, number: int, *, last: bool) -> None:
        part, where = (rest, offset) if last else (first, more)
        guest.send(
            ether(guest.mac, target.mac, 0x0800, ipv4(a.ip, b.ip, 17, part, number=number, offset=where))
        )

    with b.hears(MARK) as here:
        send(a, b, 1, last=False)
        send(a, b, 1, last=True)
        assert here(), "halves of one sender do"
    with b.hears(MARK) as here, d.hears(MARK) as there:
        send(a, b, 2, last=False)
        send(c, d, 2, last=True)
        assert not here()
        assert not there()


def test_nothing_reaches_the_node_itself(lab: Lab, pair: tuple[Guest, Guest]) -> None:
    """Or a guest could speak to the underlay, where VXLAN believes everybody."""
    a, _ = pair
    with lab.kernel.netlink(lab.node) as netlink:
        bridge = netlink.link("br" + uid("b", 1)[:11])
        lo = netlink.link("lo")
        assert bridge is not None
        assert lo is not None
        netlink.add_address(lo.index, "10.0.0.200/32")
    with lab.kernel.inside(lab.node):
        underlay = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with underlay:
        underlay.bind(("0.0.0.0", 4789))
        underlay.settimeout(0.25)
        for target in (bridge.mac, EVERYONE):
            a.send(ether(a.mac, target, 0x0800, ipv4(a.ip, "10.0.0.200", 17, udp(1000, 4789))))
        with pytest.raises(TimeoutError):
            underlay.recv(4096)


def test_allowed_pairs_open_exactly_what_they_name(lab: Lab) -> None:
    pairs = (AddressPair(ip="10.9.0.0/16"), AddressPair(ip="10.0.0.50", mac=STRANGER))
    one, two = port(1, "10.0.0.11", groups=(OPEN.id,)), port(2, "10.0.0.12", groups=(OPEN.id,))
    allowed = replace(one, address_pairs=pairs)
    lab.converge(networks=(network(1, allowed, two),), security_groups=(OPEN,))
    a, b = lab.guest(one), lab.guest(two)

    def from_address(hardware: str, address: str) -> bool:
        return arrives(
            a, b, ether(hardware, b.mac, 0x0800, ipv4(address, b.ip, 17, udp(1000, 2000))), seconds=0.15
        )

    assert from_address(a.mac, "10.9.7.7")
    assert from_address(STRANGER, "10.0.0.50")
    assert not from_address(a.mac, "10.0.0.50")
    assert not from_address(STRANGER, a.ip)
    everything: PortSpec = replace(one, address_pairs=(AddressPair(ip="0.0.0.0/0"),))
    lab.converge(networks=(network(1, everything, two),), security_groups=(OPEN,))
    assert from_address(a.mac, "192.0.2.1")
    assert not from_address(STRANGER, a.ip)
    lab.converge(networks=(network(1, one, two),), security_groups=(OPEN,))
    assert not from_address(a.mac, "192.0.2.1")
    assert from_address(a.mac, a.ip)


def test_a_tap_that_nobody_described_passes_nothing(lab: Lab) -> None:
    one, two = port(1, "10.0.0.11", port_security=False), port(2, "10.0.0.12", port_security=False)
    lab.converge(networks=(network(1, one),))
    lab.kernel.tap(lab.node, two.tap)
    with lab.kernel.netlink(lab.node) as netlink:
        stray, bridge = netlink.link(two.tap), netlink.link("br" + uid("b", 1)[:11])
        assert stray is not None
        assert bridge is not None
        netlink.set_link(stray.index, name=two.tap, master=bridge.index, up=True)
    a, b = lab.guest(one), lab.guest(two)
    assert not a.pings(b.ip)
    assert not b.pings(a.ip)
