"""Security groups and anti-spoofing as text for nft(8).

Pure functions. Table ``bridge guard`` holds for each port a chain of allowed sources, one for what it sends
and one for what it gets, and for each security group a chain for either direction, so that a port costs the
same whatever its groups hold and a changed rule costs the same however many ports use it.

Where the kernel cannot track connections in the bridge family (no NF_CONNTRACK_BRIDGE), br_netfilter lets
table ``inet track`` do it and the packet mark carries the verdict over.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from altostack.network.drivers import names
from altostack.network.drivers.base import (
    METADATA_ADDRESS,
    BadSpec,
    Direction,
    PortSpec,
    RuleSpec,
    SecurityGroupSpec,
)

PROTOCOLS = {
    "ah": 51,
    "dccp": 33,
    "egp": 8,
    "esp": 50,
    "gre": 47,
    "icmp": 1,
    "icmpv6": 58,
    "igmp": 2,
    "ipip": 4,
    "ipv6-encap": 41,
    "ipv6-frag": 44,
    "ipv6-icmp": 58,
    "ipv6-nonxt": 59,
    "ipv6-opts": 60,
    "ipv6-route": 43,
    "ospf": 89,
    "pgm": 113,
    "rsvp": 46,
    "sctp": 132,
    "tcp": 6,
    "udp": 17,
    "udplite": 136,
    "vrrp": 112,
}
"""The API's names of protocols and their numbers (IANA protocol numbers)."""

WITH_PORTS = (6, 17, 33, 132, 136)
ICMP, ICMPV6 = 1, 58

BASE = """
table inet track {
  map zones { typeof iifname : ct zone; }
  chain c_zone { type filter hook prerouting priority -450; ct zone set iifname map @zones; }
  chain c_mark {
    type filter hook prerouting priority -150;
    ct state established,related meta mark set 0x1
    ct state invalid meta mark set 0x2
  }
}
"""
"""Connection tracking per network through br_netfilter. The zone is set before fragments are put together
(priority -400), so that those of two tenants with equal addresses never meet."""

BASE_NATIVE = """
table bridge track {
  map zones { typeof meta ibrname : ct zone; }
  chain c_zone { type filter hook prerouting priority -250; ct zone set meta ibrname map @zones; }
}
"""
"""The same where the bridge family tracks connections itself."""

GUARD = """
table bridge guard {{
  map sources {{ type ifname : verdict; }}
  map senders {{ type ifname : verdict; }}
  map receivers {{ type ifname : verdict; }}
  chain c_source {{
    type filter hook prerouting priority -300;
    meta mark set 0
    iifname vmap @sources
    iifname "tap*" drop
  }}
  chain c_unnumbered {{
    ether type ip ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept
    ether type ip6 ip6 saddr :: icmpv6 type {{ 133, 135, 143 }} accept
    drop
  }}
  chain c_forward {{
    type filter hook forward priority -200;
    ether type arp accept
    iifname vmap @senders
    iifname "tap*" drop
    goto c_deliver
  }}
  chain c_deliver {{
    oifname vmap @receivers
    oifname "tap*" drop
    accept
  }}
  chain c_local {{
    type filter hook input priority -200;
    drop
  }}
  chain c_never {{
    meta protocol ip udp sport 67 drop
    meta protocol ip6 udp sport 547 drop
    icmpv6 type {{ nd-router-advert, nd-redirect }} drop
  }}
  chain c_send {{
    jump c_never
    {invalid} drop
    {known} goto c_deliver
    jump c_send_always
  }}
  chain c_send_stateless {{
    jump c_never
    jump c_send_always
  }}
  chain c_send_always {{
    meta protocol ip udp sport 68 udp dport 67 goto c_deliver
    meta protocol ip6 udp sport 546 udp dport 547 goto c_deliver
    icmpv6 type {{ 131, 132, 133, 135, 143 }} goto c_deliver
    ip daddr {metadata} tcp dport 80 goto c_deliver
  }}
  chain c_get {{
    ether type != {{ ip, ip6 }} drop
    {known} accept
    {invalid} drop
    jump c_get_always
  }}
  chain c_get_stateless {{
    ether type != {{ ip, ip6 }} drop
    ip saddr {metadata} tcp sport 80 accept
    jump c_get_always
  }}
  chain c_get_always {{
    meta protocol ip udp sport 67 udp dport 68 accept
    meta protocol ip6 udp sport 547 udp dport 546 accept
    icmpv6 type {{ 130, 131, 132, 134, 135, 136, 143 }} accept
  }}
}}
"""
"""What all ports share. A tap that no map knows passes nothing, and nothing reaches the node itself: a guest
that could would speak to the underlay. ``c_never`` stands before everything else and after fragments were put
together, so that neither an established flow nor a fragment hides a DHCP server or a router. Who has no address
yet may ask for one, for routers and for duplicates, and join multicast groups (RFC 2131, 4861, 4862, 3810)."""


def base(*, native: bool) -> str:
    """The tables without ports; ``native``: the bridge family tracks connections itself."""
    known, invalid = (
        ("ct state established,related", "ct state invalid") if native else ("mark 0x1", "mark 0x2")
    )
    meta = "" if native else "meta "
    guard = GUARD.format(known=meta + known, invalid=meta + invalid, metadata=METADATA_ADDRESS)
    return (BASE_NATIVE if native else BASE) + guard


def protocol_number(rule: RuleSpec) -> int | None:
    """The rule's IP protocol, None for any. ``icmp`` in an IPv6 rule means ICMPv6, as in the API."""
    if rule.protocol is None or rule.protocol.lower() in ("any", ""):
        return None
    name = rule.protocol.lower()
    number = int(name) if name.isascii() and name.isdigit() else PROTOCOLS.get(name)
    if number is None or number > 255:
        raise BadSpec(f"protocol {rule.protocol!r} is not known")
    return ICMPV6 if number == ICMP and rule.ethertype == "IPv6" else number


def rule_lines(rule: RuleSpec, groups: Iterable[str]) -> list[str]:
    """A rule as matches of nft, one for each way to match; none if its remote group is not in ``groups``."""
    family = version(rule)
    match = "meta protocol ip" if family == 4 else "meta protocol ip6"
    number = protocol_number(rule)
    if number is not None:
        match += f" meta l4proto {number}"
    low, high = rule.port_range_min, rule.port_range_max
    if number in (ICMP, ICMPV6):
        icmp = "icmp" if number == ICMP else "icmpv6"
        match += f" {icmp} type {_bounded(low, 255)}" if low is not None else ""
        match += f" {icmp} code {_bounded(high, 255)}" if low is not None and high is not None else ""
    elif number in WITH_PORTS and (low is not None or high is not None):
        first, last = port_range(low, high)
        match += f" th dport {first}-{last}" if first != last else f" th dport {first}"
    word, side = ("ip" if family == 4 else "ip6"), ("saddr" if rule.direction == "ingress" else "daddr")
    if rule.remote_group_id is not None:
        if rule.remote_group_id not in groups:
            return []
        sets = group_sets(rule.remote_group_id)[:2] if family == 4 else group_sets(rule.remote_group_id)[2:]
        return [f"{match} {word} {side} @{name}" for name in sets]
    if rule.remote_ip_prefix is not None:
        remote = names.prefix(rule.remote_ip_prefix)
        if remote.version != family:
            raise BadSpec(f"remote prefix {remote} is not {rule.ethertype}")
        if remote.prefixlen:
            match += f" {word} {side} {remote}"
    return [match]


def group_chain(group_id: str, direction: Direction) -> str:
    """The chain of a group's rules of one direction."""
    return ("sgi_" if direction == "ingress" else "sge_") + names.identifier(group_id)


def group_sets(group_id: str) -> tuple[str, str, str, str]:
    """The sets of a group's members: IPv4 addresses and prefixes, IPv6 addresses and prefixes."""
    tail = names.identifier(group_id)
    return (f"a4_{tail}", f"n4_{tail}", f"a6_{tail}", f"n6_{tail}")


def group_rules(group: SecurityGroupSpec, groups: Iterable[str]) -> list[str]:
    """The commands that fill a group's chains."""
    script = []
    for rule in group.rules:
        chain = group_chain(group.id, rule.direction)
        verdict = "accept" if rule.direction == "ingress" else "goto c_deliver"
        script += [f"add rule bridge guard {chain} {line} {verdict}" for line in rule_lines(rule, groups)]
    return script


def member_elements(members: Iterable[str]) -> tuple[set[str], set[str], set[str], set[str]]:
    """Members sorted into the four sets of :func:`group_sets`, prefixes merged."""
    found: tuple[set[str], set[str], set[str], set[str]] = (set(), set(), set(), set())
    wide4: list[ipaddress.IPv4Network] = []
    wide6: list[ipaddress.IPv6Network] = []
    for member in members:
        value = names.prefix(member)
        if isinstance(value, ipaddress.IPv4Network):
            if value.prefixlen == 32:
                found[0].add(str(value.network_address))
            else:
                wide4.append(value)
        elif value.prefixlen == 128:
            found[2].add(str(value.network_address))
        else:
            wide6.append(value)
    found[1].update(map(str, ipaddress.collapse_addresses(wide4)))
    found[3].update(map(str, ipaddress.collapse_addresses(wide6)))
    return found


def port_chains(tap: str) -> tuple[str, str, str]:
    """The chains of a tap: allowed sources, what it sends, what it gets."""
    tail = names.tap(tap)
    return (f"src_{tail}", f"snd_{tail}", f"get_{tail}")


def port_verdicts(port: PortSpec) -> tuple[str, str, str]:
    """What the three maps say about a port."""
    if not port.port_security:
        return ("accept", "goto c_deliver", "accept")
    source, send, get = port_chains(port.tap)
    return (f"goto {source}", f"goto {send}", f"goto {get}")


def port_rules(port: PortSpec, groups: Mapping[str, SecurityGroupSpec]) -> list[str]:
    """The commands that fill a port's chains.

    :raises BadSpec: for values that are no addresses, or a group that is not described.
    """
    source, send, get = port_chains(port.tap)
    unknown = [group for group in port.security_groups if group not in groups]
    if unknown:
        raise BadSpec(f"security group {unknown[0]} is not described")
    stateful = all(groups[group].stateful for group in port.security_groups)
    suffix = "" if stateful else "_stateless"
    allowed = allowed_sources(port)
    lines = [
        f"{source} {line}" for hardware, hosts in allowed.items() for line in _source_lines(hardware, hosts)
    ]
    lines.append(f"{source} drop")
    for hosts in allowed.values():
        lines += [f"{send} {line} goto c_deliver" for line in _advertisement_lines(hosts)]
    lines.append(f"{send} icmpv6 type nd-neighbor-advert drop")
    lines.append(f"{send} jump c_send{suffix}")
    lines += [f"{send} jump {group_chain(group, 'egress')}" for group in port.security_groups]
    lines.append(f"{send} drop")
    lines.append(f"{get} jump c_get{suffix}")
    lines += [f"{get} jump {group_chain(group, 'ingress')}" for group in port.security_groups]
    lines.append(f"{get} drop")
    return [f"add rule bridge guard {line}" for line in lines]


Hosts = list[ipaddress.IPv4Network | ipaddress.IPv6Network]


def allowed_sources(port: PortSpec) -> dict[str, Hosts]:
    """MAC address -> the addresses and prefixes that the port may use with it, in the order given."""
    own = names.mac(port.mac)
    allowed: dict[str, Hosts] = {own: [names.prefix(names.link_local(own))]}
    allowed[own] += [names.prefix(names.address(fixed.ip)) for fixed in port.fixed_ips]
    for pair in port.address_pairs:
        hardware = names.mac(pair.mac) if pair.mac else own
        hosts = allowed.setdefault(hardware, [names.prefix(names.link_local(hardware))])
        hosts.append(names.prefix(pair.ip))
    return allowed


def _source_lines(hardware: str, hosts: Hosts) -> list[str]:
    """What a port may send from one MAC address, checked at its edge, before the bridge learns from it.

    A line for each address and no set: nft reads back all sets of a node to add one element to any of them.
    """
    four = [host for host in hosts if isinstance(host, ipaddress.IPv4Network)]
    six = [host for host in hosts if isinstance(host, ipaddress.IPv6Network)]
    sender = f"ether saddr {hardware}"
    lines = []
    for host in ipaddress.collapse_addresses(four):
        narrow = bool(host.prefixlen)
        spoken = f" arp saddr ip {host}" if narrow else ""
        lines.append(f"ether type arp {sender} arp saddr ether {hardware}{spoken} accept")
        lines.append(f"ether type ip {sender}" + (f" ip saddr {host}" if narrow else "") + " accept")
    if four:
        # 0.0.0.0 probes for an address before using it (RFC 5227 section 2.1.1).
        lines.append(f"ether type arp {sender} arp saddr ether {hardware} arp saddr ip 0.0.0.0 accept")
    for wide in ipaddress.collapse_addresses(six):
        lines.append(
            f"ether type ip6 {sender}" + (f" ip6 saddr {wide}" if wide.prefixlen else "") + " accept"
        )
    lines.append(f"{sender} goto c_unnumbered")
    return lines


def _advertisement_lines(hosts: Hosts) -> list[str]:
    """The neighbour advertisements that these addresses may be announced by: only about themselves."""
    lines = []
    for host in hosts:
        if isinstance(host, ipaddress.IPv6Network):
            value, mask = int(host.network_address), int(host.netmask)
            match = f"@th,64,128 & 0x{mask:032x} == 0x{value:032x}" if host.prefixlen else ""
            match = f"@th,64,128 0x{value:032x}" if host.prefixlen == 128 else match
            lines.append(f"icmpv6 type nd-neighbor-advert {match}".rstrip())
    return lines


def version(rule: RuleSpec) -> int:
    """4 or 6."""
    return 4 if rule.ethertype == "IPv4" else 6


def _bounded(value: int, highest: int) -> int:
    if not 0 <= value <= highest:
        raise BadSpec(f"{value} is not between 0 and {highest}")
    return int(value)


def port_range(low: int | None, high: int | None) -> tuple[int, int]:
    first = _bounded(low if low is not None else 0, 65535)
    last = _bounded(high if high is not None else 65535, 65535)
    if first > last:
        raise BadSpec(f"port range {first} to {last} is empty")
    return first, last
