"""Giving out addresses: none twice, in the transaction that makes the port, fast however full the subnet is.

A free address is guessed (a few random ones, one query which of them are taken) and only searched for when guessing
fails. The primary key of `Allocation` decides between transactions that guessed alike; the loser guesses again.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from altostack.kit.errors import ApiError, BadRequest, Conflict, Unavailable
from altostack.network import address
from altostack.network.dialect import in_use
from altostack.network.rows import Allocation, Network, Port, Subnet

_GUESSES = 12
_SEARCHED = 65_536  # addresses looked at, at most, when guessing failed
_ATTEMPTS = 24
_ADDRESSES: Any = Allocation.__table__
_WHICH = sa.select(_ADDRESSES.c.ip).where(
    _ADDRESSES.c.subnet_id == sa.bindparam("subnet"), _ADDRESSES.c.ip.in_(sa.bindparam("ips", expanding=True))
)
_TAKE = sa.insert(_ADDRESSES)
_SAME_MAC = sa.select(Port.id).where(
    Port.network_id == sa.bindparam("network"), Port.mac_address == sa.bindparam("mac"),
    Port.id != sa.bindparam("own"),
)  # fmt: skip
_AUTOMATIC = ("slaac", "dhcpv6-stateless")


@dataclass(frozen=True, kw_only=True)
class Want:
    """One address that a port is to have: ``ip``, or any of the first subnet that has one left."""

    subnets: tuple[Subnet, ...]
    ip: str | None = None


def automatic(subnet: Subnet) -> bool:
    """Whether guests make their own address in this subnet from their MAC (RFC 4862)."""
    return subnet.ipv6_address_mode in _AUTOMATIC


def anything(network: Network) -> list[Want]:
    """What a port gets that asks for nothing: an IPv4 address, an IPv6 address, and all automatic ones."""
    plain = [subnet for subnet in network.subnets if not automatic(subnet)]
    wants = [
        Want(subnets=found)
        for version in (4, 6)
        if (found := tuple(s for s in plain if s.ip_version == version))
    ]
    return wants + [Want(subnets=(subnet,)) for subnet in network.subnets if automatic(subnet)]


def asked(network: Network, fixed: Sequence[Any], *, most: int, router: bool = False) -> list[Want]:
    """The API's ``fixed_ips`` as wants. Raises BadRequest for what can never be."""
    if len(fixed) > most:
        raise BadRequest(
            "Invalid input for operation: Exceeded maximum amount of fixed ips per port.",
            kind="InvalidInput", field="fixed_ips",
        )  # fmt: skip
    wants = [_want(network, one, router) for one in fixed]
    given = [want.ip for want in wants if want.ip is not None]
    if len(set(given)) != len(given):
        raise address.bad("fixed_ips", "an address is given twice")
    return wants


def _want(network: Network, one: Any, router: bool) -> Want:
    if not isinstance(one, Mapping) or not one or set(one) - {"ip_address", "subnet_id"}:
        raise address.bad("fixed_ips", f"'{one}' needs an ip_address or a subnet_id and nothing else")
    subnets = tuple(network.subnets)
    if "subnet_id" in one:
        wanted = address.uuid(one["subnet_id"], "fixed_ips.subnet_id")
        subnets = tuple(subnet for subnet in subnets if subnet.id == wanted)
        if not subnets:
            raise BadRequest(
                f"Invalid input for operation: Failed to create port on network {network.id}, because fixed_ips "
                f"included invalid subnet {wanted}.", kind="InvalidInput", field="fixed_ips",
            )  # fmt: skip
    if one.get("ip_address") is None:
        return Want(subnets=subnets)
    text = address.ip(one["ip_address"], "fixed_ips.ip_address")
    number = ipaddress.ip_address(text)
    inside = tuple(s for s in subnets if number in ipaddress.ip_network(s.cidr))
    if not inside:
        kind = "InvalidIpForSubnet" if "subnet_id" in one else "InvalidIpForNetwork"
        where = (
            "the specified subnet" if "subnet_id" in one else "any of the subnets on the specified network"
        )
        raise BadRequest(
            f"IP address {text} is not a valid IP for {where}.", kind=kind, field="fixed_ips.ip_address"
        )
    if not address.usable(ipaddress.ip_network(inside[0].cidr), number):
        raise BadRequest(
            f"IP address {text} is not a valid IP for the specified subnet.", kind="InvalidIpForSubnet",
            field="fixed_ips.ip_address",
        )  # fmt: skip
    if automatic(inside[0]) and not router:
        raise address.bad(
            "fixed_ips", f"IPv6 address {text} can not be directly assigned to a port on subnet {inside[0].id} "
            "since the subnet is configured for automatic addresses", "InvalidInput",
        )  # fmt: skip
    return Want(subnets=inside[:1], ip=text)


def place(session: Session, port: Port, network: Network, wants: Sequence[Want]) -> None:
    """Insert ``port`` with its addresses, and a MAC address unless it has one.

    Raises Conflict (MacAddressInUse, IpAddressInUse, IpAddressGenerationFailure); LookupError when another port is
    there for the same ``part``.
    """
    own_mac = bool(port.mac_address)
    if own_mac and _mac_taken(session, port):
        raise _mac_in_use(port)
    for _ in range(_ATTEMPTS):
        if not own_mac:
            port.mac_address = address.new_mac()
        chosen = _choose(session, network, wants, port.mac_address, [])
        port.fixed_ips = chosen
        try:
            with session.begin_nested():
                session.add(port)
                session.flush()
                _insert(session, port.id, chosen)
        except IntegrityError:
            _explain(session, port, network, wants, own_mac)
            continue
        return
    raise Unavailable(f"No address could be given on network {network.id}: too many ask at once.")


def rearrange(session: Session, port: Port, network: Network, wants: Sequence[Want]) -> bool:
    """Give the port these addresses instead, keeping those that it has already; whether anything changed."""
    current = list(port.fixed_ips)
    kept: list[dict[str, Any]] = []
    missing: list[Want] = []
    for want in sorted(wants, key=lambda want: want.ip is None):
        same = next((held for held in current if held not in kept and _fits(want, held)), None)
        if same is None:
            missing.append(want)
        else:
            kept.append(same)
    dropped = [held for held in current if held not in kept]
    if not missing and not dropped:
        return False
    for held in dropped:
        release(session, port.id, held["ip_address"])
    for _ in range(_ATTEMPTS):
        chosen = _choose(session, network, missing, port.mac_address, kept)
        try:
            with session.begin_nested():
                _insert(session, port.id, chosen)
        except IntegrityError:
            _explain(session, port, network, missing, False)
            continue
        port.fixed_ips = kept + chosen
        return True
    raise Unavailable(f"No address could be given on network {network.id}: too many ask at once.")


def release(session: Session, port_id: str, ip: str | None = None) -> None:
    """Give back one address of a port, or all."""
    here = [Allocation.port_id == port_id] + ([Allocation.ip == ip] if ip is not None else [])
    session.execute(sa.delete(Allocation).where(*here))


def free(session: Session, subnet: Subnet, avoid: Sequence[str] = ()) -> str | None:
    """An address of the subnet's pools that nobody has, or None."""
    pools = address.ranges(subnet.allocation_pools)
    sizes = [high - low + 1 for low, high in pools]
    total = sum(sizes)
    if not total:
        return None
    kind = ipaddress.IPv4Address if subnet.ip_version == 4 else ipaddress.IPv6Address
    guesses = {str(kind(_nth(pools, random.randrange(total)))) for _ in range(_GUESSES)} - set(avoid)
    taken = set(session.connection().execute(_WHICH, {"subnet": subnet.id, "ips": list(guesses)}).scalars())
    if guesses - taken:
        return random.choice(sorted(guesses - taken))
    taken = set(
        session.execute(sa.select(Allocation.ip).where(Allocation.subnet_id == subnet.id)).scalars()
    ) | set(avoid)
    start = random.randrange(total)
    left = []
    for step in range(min(total, _SEARCHED)):
        text = str(kind(_nth(pools, (start + step) % total)))
        if text not in taken:
            left.append(text)
            if len(left) == _GUESSES:  # enough that rivals seldom choose alike
                break
    return random.choice(left) if left else None


def _nth(pools: list[tuple[int, int]], n: int) -> int:
    for low, high in pools:
        if n <= high - low:
            return low + n
        n -= high - low + 1
    raise IndexError(n)


def _choose(
    session: Session, network: Network, wants: Sequence[Want], hardware: str, held: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    chosen: list[dict[str, Any]] = []
    for want in wants:
        avoid = [one["ip_address"] for one in (*held, *chosen)]
        subnet, text = _one(session, network, want, hardware, avoid)
        chosen.append({"subnet_id": subnet.id, "ip_address": text})
    return chosen


def _one(
    session: Session, network: Network, want: Want, hardware: str, avoid: list[str]
) -> tuple[Subnet, str]:
    if want.ip is not None or automatic(want.subnets[0]):
        subnet = want.subnets[0]
        text = want.ip or address.eui64(ipaddress.ip_network(subnet.cidr), hardware)
        if _ip_taken(session, subnet, text):
            raise _ip_in_use(network, text)
        return subnet, text
    for subnet in want.subnets:
        found = free(session, subnet, avoid)
        if found is not None:
            return subnet, found
    raise exhausted(network)


def _insert(session: Session, port_id: str, chosen: list[dict[str, Any]]) -> None:
    if chosen:
        session.connection().execute(
            _TAKE,
            [{"subnet_id": one["subnet_id"], "ip": one["ip_address"], "port_id": port_id} for one in chosen],
        )


def _fits(want: Want, held: Mapping[str, Any]) -> bool:
    if want.ip is not None:
        return bool(want.ip == held["ip_address"])
    return any(subnet.id == held["subnet_id"] for subnet in want.subnets)


def _explain(session: Session, port: Port, network: Network, wants: Sequence[Want], own_mac: bool) -> None:
    """After a collision: raise what another attempt cannot mend."""
    if port.part and session.execute(sa.select(Port.id).where(Port.part == port.part)).first():
        raise LookupError(port.part)
    if own_mac and _mac_taken(session, port):
        raise _mac_in_use(port)
    for want in wants:
        if want.ip is not None and _ip_taken(session, want.subnets[0], want.ip):
            raise _ip_in_use(network, want.ip)


def _ip_taken(session: Session, subnet: Subnet, ip: str) -> bool:
    here = sa.select(Allocation.port_id).where(Allocation.subnet_id == subnet.id, Allocation.ip == ip)
    return session.execute(here).first() is not None


def _mac_taken(session: Session, port: Port) -> bool:
    asked = {"network": port.network_id, "mac": port.mac_address, "own": port.id}
    return session.connection().execute(_SAME_MAC, asked).first() is not None


def _ip_in_use(network: Network, ip: str) -> ApiError:
    return in_use(
        "IpAddressInUse",
        f"Unable to complete operation for network {network.id}. The IP address {ip} is in use.",
    )


def _mac_in_use(port: Port) -> ApiError:
    return in_use(
        "MacAddressInUse",
        f"Unable to complete operation for network {port.network_id}. The mac address {port.mac_address} is in use.",
    )


def exhausted(network: Network) -> Conflict:
    """No address is left."""
    return in_use("IpAddressGenerationFailure", f"No more IP addresses available on network {network.id}.")
