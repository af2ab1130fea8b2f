"""Names of namespaces and devices, and the checks of values that become part of a command or a file.

A cloud's node owns every namespace that :func:`pattern` matches and nothing else. Device names have at most
15 characters (IFNAMSIZ), so they carry the first 11 characters of an identifier, as Neutron's do.
"""

from __future__ import annotations

import ipaddress
import re

from altostack.network.drivers.base import BadSpec

_PREFIX = re.compile(r"[a-z0-9]{1,8}")
_IDENTIFIER = re.compile(r"[0-9a-zA-Z][0-9a-zA-Z-]{0,63}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_TAP = re.compile(r"tap[0-9a-zA-Z-]{1,11}")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE)
OURS = re.compile(r"(br|vx|dh|rp|ex|tap)[0-9a-zA-Z-]{1,13}")
"""Devices in the node namespace that the driver made and may remove."""


class Names:
    """The names that belong to one node of one cloud.

    ``prefix``: 1 to 8 characters of a-z and 0-9, unique on the machine; no dash, so that no prefix with a
    suffix can look like another cloud's.
    """

    def __init__(self, prefix: str) -> None:
        if not _PREFIX.fullmatch(prefix):
            raise BadSpec(f"prefix {prefix!r} must be 1 to 8 characters of a-z and 0-9")
        self.prefix = prefix
        self.node = f"{prefix}-node"
        self.outside = f"{prefix}-ext"
        self.pattern = re.compile(rf"{prefix}-(node|ext|[rd]-[0-9a-zA-Z-]{{1,11}})")

    def router(self, router_id: str) -> str:
        """The namespace of a router."""
        return f"{self.prefix}-r-{short(router_id)}"

    def dhcp(self, network_id: str) -> str:
        """The namespace that serves a network with DHCP and metadata."""
        return f"{self.prefix}-d-{short(network_id)}"


def identifier(value: str) -> str:
    """The identifier, if it may be part of a name."""
    if not _IDENTIFIER.fullmatch(value):
        raise BadSpec(f"identifier {value!r} holds characters other than letters, digits and dashes")
    return value


def short(value: str) -> str:
    """The first 11 characters of an identifier."""
    return identifier(value)[:11]


def bridge(network_id: str) -> str:
    """The bridge of a network."""
    return "br" + short(network_id)


def vxlan(network_id: str) -> str:
    """The VXLAN device of a network."""
    return "vx" + short(network_id)


def dhcp_port(network_id: str) -> str:
    """The bridge's end of the pair to the DHCP namespace."""
    return "dh" + short(network_id)


def router_port(port_id: str) -> str:
    """The bridge's end of the pair to a router."""
    return "rp" + short(port_id)


def outside_port(network_id: str) -> str:
    """Both ends of the pair between an external network's bridge and the outside namespace."""
    return "ex" + short(network_id)


def tap(value: str) -> str:
    """The name of a tap device, checked."""
    if not _TAP.fullmatch(value):
        raise BadSpec(f"tap name {value!r} must be 'tap' and up to 11 letters, digits and dashes")
    return value


def mac(value: str) -> str:
    """A unicast MAC address in lower case, checked."""
    value = value.lower()
    if not _MAC.fullmatch(value) or int(value[:2], 16) & 1:
        raise BadSpec(f"{value!r} is not a unicast MAC address")
    return value


def address(value: str) -> str:
    """An IP address in its canonical form."""
    try:
        return str(ipaddress.ip_address(_plain(value)))
    except ValueError as error:
        raise BadSpec(str(error)) from error


def prefix(value: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """An address or ``address/length`` as a network; bits beyond the length are dropped."""
    try:
        return ipaddress.ip_network(_plain(value), strict=False)
    except ValueError as error:
        raise BadSpec(str(error)) from error


def interface(value: str) -> str:
    """``address/length`` in its canonical form."""
    try:
        return str(ipaddress.ip_interface(_plain(value)))
    except ValueError as error:
        raise BadSpec(str(error)) from error


def host(value: str) -> str:
    """A host name of one label (RFC 1123 section 2.1), checked."""
    if not _LABEL.fullmatch(value):
        raise BadSpec(f"{value!r} is not a host name")
    return value.lower()


def link_local(hardware: str) -> str:
    """The IPv6 link-local address that a MAC address gives (RFC 4291 appendix A)."""
    octets = bytes.fromhex(hardware.replace(":", ""))
    tail = bytes((octets[0] ^ 2,)) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + tail))


def _plain(value: str) -> str:
    # ipaddress takes any text after '%' as an IPv6 scope, and would hand it on.
    if "%" in value:
        raise BadSpec(f"{value!r} is not an address: scopes are not allowed here")
    return value
