"""Rules as text, and the judge of established flows: no kernel needed, but for the last test."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from altostack.network.drivers import names, rules
from altostack.network.drivers.base import (
    AddressPair,
    BadSpec,
    DriverError,
    FixedIP,
    PortSpec,
    RuleSpec,
    SecurityGroupSpec,
)
from altostack.network.drivers.conntrack import Flow
from altostack.network.drivers.judge import Judge
from altostack.network.drivers.kernel import Kernel
from tests.network.drivers.lab import EGRESS, allow, new_prefix, port

GROUP = "80000001-0000"
SAFE = re.compile(r"[a-zA-Z0-9 .:/_@{}=!,&-]*")


def flow(source: str, destination: str, protocol: int = 6, **other: object) -> Flow:
    return Flow(
        **{  # type: ignore[arg-type]  # several fields
            "zone": 1,
            "family": 10 if ":" in source else 2,
            "source": source,
            "destination": destination,
            "reply_source": destination,
            "reply_destination": source,
            "protocol": protocol,
            **other,
        }
    )


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        (allow(), "meta protocol ip"),
        (allow("tcp", 22), "meta protocol ip meta l4proto 6 th dport 22"),
        (allow("udp", 1, 9), "meta protocol ip meta l4proto 17 th dport 1-9"),
        (allow("6", 22), "meta protocol ip meta l4proto 6 th dport 22"),
        (allow("icmp"), "meta protocol ip meta l4proto 1"),
        (
            allow("icmp", port_range_min=8, port_range_max=0),
            "meta protocol ip meta l4proto 1 icmp type 8 icmp code 0",
        ),
        (
            allow("icmp", port_range_min=128, port_range_max=None, ethertype="IPv6"),
            "meta protocol ip6 meta l4proto 58 icmpv6 type 128",
        ),
        (allow("vrrp"), "meta protocol ip meta l4proto 112"),
        (allow(remote_ip_prefix="10.0.0.7/8"), "meta protocol ip ip saddr 10.0.0.0/8"),
        (allow(remote_ip_prefix="0.0.0.0/0"), "meta protocol ip"),
    ],
)
def test_a_rule_says(rule: RuleSpec, line: str) -> None:
    assert rules.rule_lines(rule, ()) == [line]


@pytest.mark.parametrize(
    "rule",
    [
        allow("no-such"),
        allow("256"),
        allow("tcp", 70000),
        allow("tcp", 30, 20),
        allow("icmp", port_range_min=300, port_range_max=None),
        allow(remote_ip_prefix="10.0.0.0/33"),
        allow(remote_ip_prefix="2001:db8::/32"),
        allow(remote_ip_prefix="10.0.0.1 accept"),
    ],
)
def test_a_bad_rule_is_refused(rule: RuleSpec) -> None:
    with pytest.raises(BadSpec):
        rules.rule_lines(rule, ())


@given(
    st.text(max_size=40),
    st.sampled_from(["mac", "tap", "ip", "pair", "pair mac", "group", "prefix", "remote"]),
)
def test_no_text_becomes_a_command(text: str, place: str) -> None:
    """Whatever stands in a description, what is written is free of everything that could end a line or a word."""
    base = port(1, "10.0.0.11")
    described: PortSpec = {
        "mac": replace(base, mac=text),
        "tap": replace(base, tap=text),
        "ip": replace(base, fixed_ips=(FixedIP(subnet_id="s", ip=text),)),
        "pair": replace(base, address_pairs=(AddressPair(ip=text),)),
        "pair mac": replace(base, address_pairs=(AddressPair(ip="10.0.0.0/8", mac=text or None),)),
        "group": replace(base, security_groups=(text,)),
    }.get(place, base)
    rule = (
        allow(text) if place == "prefix" else allow(remote_ip_prefix=text) if place == "remote" else allow()
    )
    group = SecurityGroupSpec(id=text if place == "group" else GROUP, rules=(rule,), members=())
    try:
        lines = rules.port_rules(described, {group.id: group}) + rules.group_rules(group, {group.id})
        names.short(group.id)
    except BadSpec:
        return
    assert all(SAFE.fullmatch(line) for line in lines)


def test_the_judge() -> None:
    one = port(1, "10.0.0.11", groups=(GROUP,), address_pairs=(AddressPair(ip="10.9.0.0/16"),))
    open_port = port(2, "10.0.0.12", port_security=False)
    group = SecurityGroupSpec(
        id=GROUP,
        rules=(
            replace(EGRESS[0], protocol="tcp"),
            allow("tcp", 20, 25),
            allow("icmp", port_range_min=8, port_range_max=None),
            allow("udp", 53, remote_group_id=GROUP),
            allow("tcp", 80, remote_ip_prefix="192.0.2.0/24"),
            allow("tcp", 80, ethertype="IPv6"),
        ),
        members=("10.0.0.50", "10.3.0.0/24"),
    )
    judge = Judge([(1, one), (1, open_port)], {GROUP: group})
    outside = "198.51.100.1"
    assert judge.allows(flow(outside, "10.0.0.11", port=22))
    assert not judge.allows(flow(outside, "10.0.0.11", port=26))
    assert not judge.allows(flow(outside, "10.0.0.11", 17, port=22))
    assert judge.allows(flow(outside, "10.0.0.11", 1, icmp=(8, 0)))
    assert not judge.allows(flow(outside, "10.0.0.11", 1, icmp=(13, 0)))
    assert judge.allows(flow("10.0.0.50", "10.0.0.11", 17, port=53))
    assert judge.allows(flow("10.3.0.9", "10.0.0.11", 17, port=53))
    assert not judge.allows(flow("10.0.0.51", "10.0.0.11", 17, port=53))
    assert judge.allows(flow("192.0.2.7", "10.0.0.11", port=80))
    assert not judge.allows(flow(outside, "10.0.0.11", port=80))
    assert judge.allows(flow("10.0.0.11", outside, port=1))
    assert not judge.allows(flow("10.0.0.11", outside, 17, port=53))
    assert judge.allows(flow("10.0.0.11", "169.254.169.254", port=80))
    assert judge.allows(flow("10.9.1.1", outside, port=1))
    assert not judge.allows(flow("10.9.1.1", outside, 17, port=1))
    assert judge.allows(flow("10.0.0.12", outside, 17, port=1)), "no security, no verdict"
    assert not judge.allows(flow("10.0.0.12", "10.0.0.11", 17, port=1)), "the other end has"
    assert judge.allows(flow("fe80::1", names.link_local(one.mac), port=80))
    assert not judge.allows(flow(outside, "10.0.0.99", port=22)), "nobody is there any more"
    assert not judge.allows(flow(outside, "10.0.0.11", port=22, zone=2)), "nobody is there"
    assert judge.allows(flow(outside, "10.0.0.99", zone=0)), "none of its business"


@pytest.mark.real
@pytest.mark.parametrize("native", [False, True])
def test_nft_understands_both_ways_to_track(native: bool) -> None:
    """Where the kernel cannot track in the bridge family it says so; nft itself has nothing to say."""
    kernel, space = Kernel(), new_prefix() + "x"
    kernel.create(space)
    try:
        with kernel.nft(space) as nft:
            if not native:
                nft.run(rules.base(native=False))
                return
            try:
                nft.run(rules.base(native=True))
            except DriverError as error:
                assert "Could not process rule" in str(error)
    finally:
        kernel.delete(space)
        kernel.close()
