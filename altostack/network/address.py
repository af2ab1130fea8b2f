"""Addresses, prefixes and MACs as the API takes them: checked, and brought to their one canonical form.

Nothing here touches a database. Every complaint is a BadRequest that names the attribute and the value.
Sources: https://docs.openstack.org/api-ref/network/v2/, RFC 4291 (IPv6), RFC 5952 (its text form).
"""

from __future__ import annotations

import ipaddress
import itertools
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from altostack.kit.errors import BadRequest

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Prefix = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAC = re.compile(r"^[0-9a-f]{2}([:-][0-9a-f]{2}){5}$", re.IGNORECASE)
_MAC_PREFIX = "fa:16:3e"
_UUID = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")


def bad(attribute: str, reason: str, kind: str = "BadRequest") -> BadRequest:
    """The refusal of one attribute's value."""
    return BadRequest(f"Invalid input for {attribute}. Reason: {reason}.", field=attribute, kind=kind)


def ip(value: Any, attribute: str, version: int | None = None) -> str:
    """An IP address in canonical text; ``version`` 4 or 6 if only that one will do."""
    try:
        found = _address(value)
    except ValueError as error:
        raise bad(attribute, f"'{value}' is not a valid IP address") from error
    if version is not None and found.version != version:
        raise bad(attribute, f"'{value}' is not an IPv{version} address")
    return str(found)


def _address(value: Any) -> Address:
    if not isinstance(value, str) or "%" in value:
        raise ValueError("not an address")
    return ipaddress.ip_address(value)


def subnet(value: Any, version: int) -> Prefix:
    """A subnet's CIDR: ``address/length`` without host bits, of the given IP version."""
    try:
        if not isinstance(value, str) or "/" not in value or "%" in value:
            raise ValueError("it has no prefix length")
        loose = ipaddress.ip_network(value, strict=False)
    except ValueError as error:
        raise bad("cidr", f"'{value}' is not a valid IP subnet") from error
    if value.split("/")[1] != str(loose.prefixlen) or _address(value.split("/")[0]) != loose.network_address:
        raise bad("cidr", f"'{value}' isn't a recognized IP subnet cidr, '{loose}' is recommended")
    if loose.version != version:
        raise bad("cidr", f"cidr '{value}' does not match the ip_version '{version}'")
    if loose.prefixlen == 0:
        raise bad("cidr", "0 is not allowed as CIDR prefix length")
    if loose.network_address == ipaddress.IPv6Address(0):
        raise bad("cidr", "the IPv6 subnet '::' is not supported")
    return loose


def prefix(value: Any, attribute: str) -> str:
    """A prefix with or without its length (then the one address), canonical, host bits kept out."""
    try:
        if not isinstance(value, str) or "%" in value:
            raise ValueError("not a prefix")
        return str(ipaddress.ip_network(value, strict=False))
    except ValueError as error:
        raise bad(attribute, f"'{value}' is not a valid CIDR", "InvalidCIDR") from error


def mac(value: Any, attribute: str = "mac_address") -> str:
    """A unicast MAC address in lower case with colons."""
    if not isinstance(value, str) or not _MAC.match(value):
        raise bad(attribute, f"'{value}' is not a valid MAC address")
    found = value.lower().replace("-", ":")
    if int(found[:2], 16) & 1 or found == "00:00:00:00:00:00":
        raise bad(attribute, f"'{value}' is not the address of one interface")
    return found


def new_mac() -> str:
    """A random MAC address under the prefix that the field's clouds use."""
    tail = secrets.token_bytes(3)
    return f"{_MAC_PREFIX}:{tail[0]:02x}:{tail[1]:02x}:{tail[2]:02x}"


def eui64(net: Prefix, hardware: str) -> str:
    """The address that a host gives itself in ``net`` by its MAC (RFC 4291, appendix A)."""
    octets = bytes.fromhex(hardware.replace(":", ""))
    tail = bytes((octets[0] ^ 2,)) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return str(ipaddress.IPv6Address(int(net.network_address) | int.from_bytes(tail, "big")))


def uuid(value: Any, attribute: str) -> str:
    """An id as the API writes it."""
    if not isinstance(value, str) or not _UUID.match(value):
        raise bad(attribute, f"'{value}' is not a valid UUID")
    return value


def first(net: Prefix) -> str:
    """The address that is a subnet's gateway unless the client says otherwise."""
    only = net.prefixlen == net.max_prefixlen
    return str(net.network_address if only else net.network_address + 1)


def usable(net: Prefix, address: Address) -> bool:
    """Whether a host may have ``address`` in ``net``: inside, and neither the network's own nor its broadcast."""
    if address not in net:
        return False
    if net.max_prefixlen - net.prefixlen <= 1:
        return True
    if address == net.network_address:
        return False
    return net.version == 6 or address != net.broadcast_address


def span(net: Prefix) -> tuple[int, int]:
    """The lowest and highest address that a host may have."""
    low, high = int(net.network_address), int(net.broadcast_address)
    if net.max_prefixlen - net.prefixlen <= 1:
        return low, high
    return low + 1, high - 1 if net.version == 4 else high


def default_pools(net: Prefix, gateway: str | None) -> list[dict[str, Any]]:
    """Everything that a host may have, but for the gateway."""
    low, high = span(net)
    kind = type(net.network_address)
    around = [(low, high)]
    if gateway is not None and low <= (hole := int(ipaddress.ip_address(gateway))) <= high:
        around = [(low, hole - 1), (hole + 1, high)]
    return [{"start": str(kind(a)), "end": str(kind(b))} for a, b in around if a <= b]


def pools(value: list[Any], net: Prefix) -> list[dict[str, Any]]:
    """Allocation pools: inside the subnet, the right way round, and apart from each other; sorted."""
    found: list[tuple[int, int]] = []
    kind = type(net.network_address)
    for pool in value:
        if not isinstance(pool, Mapping) or set(pool) != {"start", "end"}:
            raise bad("allocation_pools", f"'{pool}' is not a pair of start and end", "InvalidAllocationPool")
        start, end = (
            ip(pool["start"], "allocation_pools", net.version),
            ip(pool["end"], "allocation_pools", net.version),
        )
        low, high = int(ipaddress.ip_address(start)), int(ipaddress.ip_address(end))
        if low > high:
            raise BadRequest(
                f"The allocation pool {start}-{end} is not valid.", kind="InvalidAllocationPool",
                field="allocation_pools",
            )  # fmt: skip
        least, most = span(net)
        if low < least or high > most:
            raise BadRequest(
                f"The allocation pool {start}-{end} spans beyond the subnet cidr {net}.",
                kind="OutOfBoundsAllocationPool", field="allocation_pools",
            )  # fmt: skip
        found.append((low, high))
    found.sort()
    for (a, b), (c, d) in itertools.pairwise(found):
        if c <= b:
            raise BadRequest(
                f"Found overlapping allocation pools: {kind(a)}-{kind(b)} {kind(c)}-{kind(d)} for subnet {net}.",
                kind="OverlappingAllocationPools", field="allocation_pools", code=409,
            )  # fmt: skip
    return [{"start": str(kind(a)), "end": str(kind(b))} for a, b in found]


def ranges(value: Iterable[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Stored pools as pairs of integers."""
    return [(int(ipaddress.ip_address(p["start"])), int(ipaddress.ip_address(p["end"]))) for p in value]


def nameservers(value: list[Any] | None, version: int, most: int) -> list[str]:
    """A subnet's DNS servers."""
    found = [ip(one, "dns_nameservers", version) for one in value or []]
    if len(found) > most:
        raise BadRequest(
            f"The number of DNS nameservers exceeds the limit {most}.", kind="DNSNameServersExhausted",
            field="dns_nameservers",
        )  # fmt: skip
    return _distinct(found, "dns_nameservers")


def routes(value: list[Any] | None, attribute: str, version: int | None, most: int) -> list[dict[str, Any]]:
    """Static routes: ``[{"destination": prefix, "nexthop": address}]``."""
    found = []
    for one in value or []:
        if not isinstance(one, Mapping) or set(one) != {"destination", "nexthop"}:
            raise bad(attribute, f"'{one}' is not a pair of destination and nexthop")
        to = prefix(one["destination"], attribute)
        via = ip(one["nexthop"], attribute, version)
        if (":" in to) != (":" in via):
            raise bad(attribute, f"'{to}' and '{via}' are of different IP versions")
        found.append({"destination": to, "nexthop": via})
    if len(found) > most:
        raise BadRequest(
            f"The number of routes exceeds the limit {most}.", field=attribute,
            kind="HostRoutesExhausted" if attribute == "host_routes" else "RoutesExhausted",
        )  # fmt: skip
    if len({(r["destination"], r["nexthop"]) for r in found}) != len(found):
        raise bad(attribute, "a route is given twice")
    return found


def _distinct(values: list[str], attribute: str) -> list[str]:
    for value in values:
        if values.count(value) > 1:
            raise bad(attribute, f"'{value}' is given twice")
    return values
