"""The kernel's connection table: what flows exist, and cutting those that are no longer allowed.

The messages are those of linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import errno
import ipaddress
import struct
from collections.abc import Callable
from dataclasses import dataclass

from altostack.network.drivers.netlink import NETLINK_NETFILTER, Netlink, attr, attrs

_GET, _DELETE = (1 << 8) | 1, (1 << 8) | 2
_NFGENMSG = struct.Struct("=BBH")
_ICMP = (1, 58)


@dataclass(frozen=True, kw_only=True, slots=True)
class Flow:
    """One tracked connection: the packet that opened it, and between whom the answers travel (NAT shows there).

    ``port`` is the destination port (TCP, UDP, SCTP, ...), ``icmp`` type and code, where they apply.
    """

    zone: int
    family: int
    source: str
    destination: str
    reply_source: str
    reply_destination: str
    protocol: int
    port: int | None = None
    icmp: tuple[int, int] | None = None
    key: bytes = b""


class Conntrack:
    """The connection table of the namespace that the calling thread is in when this is opened."""

    def __init__(self, step: Callable[[str], None]) -> None:
        self._netlink = Netlink(step, protocol=NETLINK_NETFILTER)

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def __enter__(self) -> Conntrack:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def flows(self) -> list[Flow]:
        """All tracked connections, IPv4 and IPv6."""
        return [_flow(body) for body in self._netlink.dump(_GET, _NFGENMSG.pack(0, 0, 0))]

    def cut(self, flow: Flow) -> None:
        """Forget a connection: its next packet is judged as a new one. No error if it has ended."""
        body = _NFGENMSG.pack(flow.family, 0, 0) + flow.key
        if flow.zone:
            body += attr(18, struct.pack("!H", flow.zone))
        try:
            self._netlink.change(f"cut flow {flow.source} {flow.destination}", _DELETE, body)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise


def _flow(body: bytes) -> Flow:
    family = body[0]
    values = attrs(body, _NFGENMSG.size)
    original, reply = attrs(values[1]), attrs(values[2])
    addresses, protocol = attrs(original[1]), attrs(original[2])
    number = protocol[1][0]
    source, destination = _pair(addresses)
    reply_source, reply_destination = _pair(attrs(reply[1]))
    icmp = None
    if number in _ICMP:
        first = 5 if number == 1 else 8
        if first in protocol and first + 1 in protocol:
            icmp = (protocol[first][0], protocol[first + 1][0])
    port = struct.unpack("!H", protocol[3])[0] if number not in _ICMP and 3 in protocol else None
    return Flow(
        zone=struct.unpack("!H", values[18])[0] if 18 in values else 0,
        family=family,
        source=source,
        destination=destination,
        reply_source=reply_source,
        reply_destination=reply_destination,
        protocol=number,
        port=port,
        icmp=icmp,
        key=attr(1 | 0x8000, values[1]),
    )


def _pair(values: dict[int, bytes]) -> tuple[str, str]:
    source, destination = (values[1], values[2]) if 1 in values else (values[3], values[4])
    return str(ipaddress.ip_address(source)), str(ipaddress.ip_address(destination))
