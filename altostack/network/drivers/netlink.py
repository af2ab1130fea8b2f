"""A small rtnetlink client: links, addresses, routes and forwarding entries of one network namespace.

Why not pyroute2: importing it costs half a second and 24 MB, and it decodes a link in 0.8 ms, where a node
with a thousand ports dumps a thousand links. The dozen messages used here fit on two pages. The layout of the
messages is that of rtnetlink(7) and linux/if_link.h.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

_SOL_NETLINK, _EXT_ACK, _GET_STRICT = 270, 11, 12
_REQUEST, _MULTI, _ACK, _DUMP = 0x1, 0x2, 0x4, 0x300
_REPLACE, _EXCL, _CREATE, _APPEND = 0x100, 0x200, 0x400, 0x800
_ACK_TLVS, _CAPPED = 0x200, 0x100
_ERROR, _DONE = 2, 3
NEWLINK, DELLINK, GETLINK = 16, 17, 18
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWNEIGH, DELNEIGH, GETNEIGH = 28, 29, 30
_AF_BRIDGE = 7
_DOOMED = 0xA170
"""The number of the group of devices that are about to be deleted."""
_IFF_UP = 1
_HEADER = struct.Struct("=IHHII")
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=8BI")
_NDMSG = struct.Struct("=BxxxiHBB")

Step = Callable[[str], None]
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def attr(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return struct.pack("=HH", len(value) + 4, kind) + value + b"\0" * (-len(value) % 4)


def nest(kind: int, *attrs: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attr(kind | 0x8000, b"".join(attrs))


def text(kind: int, value: str) -> bytes:
    """A zero-terminated string."""
    return attr(kind, value.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    """A 32 bit number in host order."""
    return attr(kind, struct.pack("=I", value))


def u8(kind: int, value: int) -> bytes:
    """An 8 bit number."""
    return attr(kind, bytes((value,)))


def attrs(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Attribute number -> raw value, from ``offset`` on."""
    found: dict[int, bytes] = {}
    end = len(data)
    while offset + 4 <= end:
        size, kind = struct.unpack_from("=HH", data, offset)
        if size < 4:
            break
        found[kind & 0x3FFF] = data[offset + 4 : offset + size]
        offset += (size + 3) & ~3
    return found


def mac_bytes(mac: str) -> bytes:
    """``52:54:00:12:34:56`` as six bytes."""
    return bytes.fromhex(mac.replace(":", ""))


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """A network device as the kernel shows it; ``data`` are the raw attributes of its kind."""

    index: int
    name: str
    kind: str
    mtu: int
    master: int
    up: bool
    mac: str
    alias: str
    data: dict[int, bytes] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelRoute:
    """A unicast route of the main table that was added by us; ``via`` None is on-link."""

    destination: str
    via: str | None
    index: int


class Netlink:
    """A netlink socket in the namespace that the calling thread is in when it is opened.

    ``step`` is called with a description before each request that changes something.
    """

    def __init__(self, step: Step, *, protocol: int = NETLINK_ROUTE) -> None:
        self._step = step
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.bind((0, 0))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        if protocol == NETLINK_ROUTE:
            self._socket.setsockopt(_SOL_NETLINK, _GET_STRICT, 1)
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def change(self, what: str, kind: int, body: bytes, *, flags: int = 0) -> None:
        """Send one request and wait for its answer.

        :raises OSError: with the kernel's errno and its explanation.
        """
        self._step(what)
        self._send(kind, _REQUEST | _ACK | flags, body)
        for _ in self._answers(what):
            pass

    def dump(self, kind: int, body: bytes) -> Iterator[bytes]:
        """The bodies of all messages that a dump answers."""
        self._send(kind, _REQUEST | _DUMP, body)
        return self._answers("dump")

    def get(self, kind: int, body: bytes) -> bytes | None:
        """The body of the one object asked for, or None if there is none."""
        self._send(kind, _REQUEST | _ACK, body)
        try:
            return next(iter(list(self._answers("get"))), None)
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.ENOENT):
                return None
            raise

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        self._socket.send(_HEADER.pack(16 + len(body), kind, flags, self._sequence, 0) + body)

    def _answers(self, what: str) -> Iterator[bytes]:
        while True:
            data = self._socket.recv(1 << 18)
            offset = 0
            while offset < len(data):
                size, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
                body = data[offset + 16 : offset + size]
                offset += (size + 3) & ~3
                if sequence != self._sequence:
                    continue
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    number = -struct.unpack_from("=i", body)[0]
                    if number:
                        raise OSError(number, _explain(what, number, flags, body))
                    return
                yield body

    # Links

    def links(self) -> dict[str, Link]:
        """Name -> device, of all devices here."""
        found = (_link(body) for body in self.dump(GETLINK, _IFINFO.pack(0, 0, 0, 0, 0)))
        return {link.name: link for link in found}

    def link(self, name: str) -> Link | None:
        """The device of that name, or None."""
        body = self.get(GETLINK, _IFINFO.pack(0, 0, 0, 0, 0) + text(3, name))
        return _link(body) if body else None

    def add_bridge(self, name: str, *, mtu: int) -> None:
        """A bridge without spanning tree, forwarding delay and multicast snooping; it comes up."""
        options = nest(2, u32(1, 0), u32(5, 0), u8(23, 0))
        body = _IFINFO.pack(0, 0, 0, _IFF_UP, _IFF_UP) + text(3, name) + u32(4, mtu)
        self.change(
            f"add bridge {name}", NEWLINK, body + nest(18, text(1, "bridge"), options), flags=_CREATE | _EXCL
        )

    def add_veth(
        self, name: str, *, master: int, mtu: int, peer: str, peer_namespace: int, peer_mac: str | None = None
    ) -> None:
        """A pair: ``name`` here, up and in bridge ``master``; ``peer``, down, in the namespace of that fd."""
        other = _IFINFO.pack(0, 0, 0, 0, 0) + text(3, peer) + u32(4, mtu) + u32(28, peer_namespace)
        if peer_mac:
            other += attr(1, mac_bytes(peer_mac))
        body = _IFINFO.pack(0, 0, 0, _IFF_UP, _IFF_UP) + text(3, name) + u32(4, mtu) + u32(10, master)
        info = nest(18, text(1, "veth"), nest(2, attr(1 | 0x8000, other)))
        self.change(f"add veth {name} {peer}", NEWLINK, body + info, flags=_CREATE | _EXCL)

    def add_vxlan(self, name: str, *, vni: int, local: str, port: int, namespace: int) -> None:
        """A VXLAN device whose packets travel in this namespace and whose device lives in another (an fd)."""
        address = ipaddress.ip_address(local)
        options = nest(
            2,
            u32(1, vni),
            attr(4 if address.version == 4 else 17, address.packed),
            u8(7, 1),
            attr(15, struct.pack("!H", port)),
        )
        body = _IFINFO.pack(0, 0, 0, 0, 0) + text(3, name) + u32(28, namespace)
        self.change(
            f"add vxlan {name}", NEWLINK, body + nest(18, text(1, "vxlan"), options), flags=_CREATE | _EXCL
        )

    def set_link(
        self,
        index: int,
        *,
        name: str,
        mtu: int | None = None,
        master: int | None = None,
        up: bool | None = None,
        mac: str | None = None,
        alias: str | None = None,
    ) -> None:
        """Change a device; ``name`` only describes it."""
        body = _IFINFO.pack(0, 0, index, _IFF_UP if up else 0, 0 if up is None else _IFF_UP)
        body += u32(4, mtu) if mtu is not None else b""
        body += u32(10, master) if master is not None else b""
        body += attr(1, mac_bytes(mac)) if mac is not None else b""
        body += attr(20, alias.encode()) if alias is not None else b""
        self.change(f"set link {name}", NEWLINK, body)

    def delete_link(self, name: str) -> None:
        """Delete a device; it is no error if it is gone already."""
        body = _IFINFO.pack(0, 0, 0, 0, 0) + text(3, name)
        _absent_is_fine(lambda: self.change(f"delete link {name}", DELLINK, body))

    def delete_links(self, names: Sequence[str]) -> None:
        """Delete devices; no error for those that are gone already.

        Several go as one group, because the kernel waits for all its processors once for each deletion.
        """
        if len(names) < 3:
            for name in names:
                self.delete_link(name)
            return
        for name in names:
            body = _IFINFO.pack(0, 0, 0, 0, 0) + text(3, name) + u32(27, _DOOMED)
            _absent_is_fine(lambda name=name, body=body: self.change(f"doom link {name}", NEWLINK, body))  # type: ignore[misc]  # lambda defaults
        body = _IFINFO.pack(0, 0, 0, 0, 0) + u32(27, _DOOMED)
        _absent_is_fine(lambda: self.change(f"delete {len(names)} links", DELLINK, body))

    # Addresses

    def addresses(self) -> set[tuple[int, str]]:
        """(device index, ``address/length``) of all addresses here, link-local IPv6 ones included."""
        found = set()
        for body in self.dump(GETADDR, _IFADDR.pack(0, 0, 0, 0, 0)):
            _, length, _, _, index = _IFADDR.unpack_from(body)
            values = attrs(body, _IFADDR.size)
            raw = values.get(2, values.get(1))
            if raw:
                found.add((index, f"{ipaddress.ip_address(raw)}/{length}"))
        return found

    def add_address(self, index: int, address: str) -> None:
        """Give a device an address (``address/length``), usable at once: without duplicate detection."""
        self.change(
            f"add address {address}", NEWADDR, _address(index, address, nodad=True), flags=_CREATE | _REPLACE
        )

    def delete_address(self, index: int, address: str) -> None:
        """Take an address away; it is no error if it is gone already."""
        _absent_is_fine(
            lambda: self.change(f"delete address {address}", DELADDR, _address(index, address, nodad=False))
        )

    def settle(self, link: Link, addresses: Iterable[str]) -> None:
        """Give a device exactly these addresses (link-local IPv6 ones stay) and then bring it up."""
        wanted = {str(ipaddress.ip_interface(address)) for address in addresses}
        have = {address for index, address in self.addresses() if index == link.index}
        for address in sorted(have - wanted):
            if not address.startswith("fe80:"):
                self.delete_address(link.index, address)
        for address in sorted(wanted - have):
            self.add_address(link.index, address)
        if not link.up:
            self.set_link(link.index, name=link.name, up=True)

    # Routes

    def routes(self) -> set[KernelRoute]:
        """The routes of the main table with protocol ``static``: those that somebody added."""
        found = set()
        for body in self.dump(GETROUTE, _RTMSG.pack(0, 0, 0, 0, 0, 0, 0, 0, 0)):
            family, length, _, _, table, protocol, _, kind, _ = _RTMSG.unpack_from(body)
            values = attrs(body, _RTMSG.size)
            if (table, protocol, kind) != (254, 4, 1) or 4 not in values:
                continue
            raw = values.get(1) or bytes(4 if family == socket.AF_INET else 16)
            via = str(ipaddress.ip_address(values[5])) if 5 in values else None
            index = struct.unpack("=I", values[4])[0]
            found.add(KernelRoute(destination=f"{ipaddress.ip_address(raw)}/{length}", via=via, index=index))
        return found

    def add_route(self, route: KernelRoute) -> None:
        """Add a static route to the main table."""
        self.change(f"add route {route.destination}", NEWROUTE, _route(route), flags=_CREATE | _REPLACE)

    def delete_route(self, route: KernelRoute) -> None:
        """Remove a static route; it is no error if it is gone already."""
        _absent_is_fine(lambda: self.change(f"delete route {route.destination}", DELROUTE, _route(route)))

    # Where a VXLAN device sends frames whose place it does not know

    def flood_targets(self, index: int) -> set[str]:
        """The addresses to which a VXLAN device floods."""
        found = set()
        for body in self.dump(GETNEIGH, _NDMSG.pack(_AF_BRIDGE, index, 0, 0, 0)):
            values = attrs(body, _NDMSG.size)
            if _NDMSG.unpack_from(body)[1] == index and values.get(2) == bytes(6) and 1 in values:
                found.add(str(ipaddress.ip_address(values[1])))
        return found

    def add_flood_target(self, index: int, address: str) -> None:
        """Flood to one more address."""
        self.change(f"add flood target {address}", NEWNEIGH, _flood(index, address), flags=_CREATE | _APPEND)

    def delete_flood_target(self, index: int, address: str) -> None:
        """Flood to one address less; it is no error if it is gone already."""
        _absent_is_fine(
            lambda: self.change(f"delete flood target {address}", DELNEIGH, _flood(index, address))
        )


def _link(body: bytes) -> Link:
    _, _, index, flags, _ = _IFINFO.unpack_from(body)
    values = attrs(body, _IFINFO.size)
    info = attrs(values.get(18, b""))
    return Link(
        index=index,
        name=values[3].rstrip(b"\0").decode(),
        kind=info.get(1, b"").rstrip(b"\0").decode(),
        mtu=struct.unpack("=I", values[4])[0],
        master=struct.unpack("=I", values[10])[0] if 10 in values else 0,
        up=bool(flags & _IFF_UP),
        mac=values.get(1, b"").hex(":"),
        alias=values.get(20, b"").rstrip(b"\0").decode(errors="replace"),
        data=attrs(info.get(2, b"")),
    )


def _address(index: int, address: str, *, nodad: bool) -> bytes:
    value = ipaddress.ip_interface(address)
    family = socket.AF_INET if value.version == 4 else socket.AF_INET6
    flags = 0x02 if nodad and value.version == 6 else 0
    body = _IFADDR.pack(family, value.network.prefixlen, flags, 0, index)
    body += attr(1, value.ip.packed) + attr(2, value.ip.packed)
    if isinstance(value, ipaddress.IPv4Interface) and value.network.prefixlen < 31:
        body += attr(4, value.network.broadcast_address.packed)
    return body


def _route(route: KernelRoute) -> bytes:
    destination = ipaddress.ip_network(route.destination)
    family = socket.AF_INET if destination.version == 4 else socket.AF_INET6
    scope = 0 if route.via or destination.version == 6 else 253
    body = _RTMSG.pack(family, destination.prefixlen, 0, 0, 254, 4, scope, 1, 0)
    if destination.prefixlen:
        body += attr(1, destination.network_address.packed)
    if route.via:
        body += attr(5, ipaddress.ip_address(route.via).packed)
    return body + u32(4, route.index)


def _flood(index: int, address: str) -> bytes:
    # NTF_SELF: the entry belongs to the VXLAN device, not to the bridge above it.
    body = _NDMSG.pack(_AF_BRIDGE, index, 0x40 | 0x80, 0x02, 0)
    return body + attr(2, bytes(6)) + attr(1, ipaddress.ip_address(address).packed)


def _explain(what: str, number: int, flags: int, body: bytes) -> str:
    reason = os.strerror(number)
    if flags & _ACK_TLVS:
        size = struct.unpack_from("=I", body, 4)[0]
        extra = attrs(body, 4 + (16 if flags & _CAPPED else (size + 3) & ~3))
        if 1 in extra:
            reason = f"{reason}: {extra[1].rstrip(bytes(1)).decode(errors='replace')}"
    return f"{what}: {reason}"


def _absent_is_fine(run: Callable[[], None]) -> None:
    gone = (errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL)
    try:
        run()
    except OSError as error:
        if error.errno not in gone:
            raise
