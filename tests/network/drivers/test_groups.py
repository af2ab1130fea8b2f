"""Security groups: what is allowed passes, what is not does not, and a rule that goes takes its flows along."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from altostack.network.drivers.base import RuleSpec, SecurityGroupSpec
from tests.network.drivers.lab import EGRESS, Lab, allow, network, port, talks, uid

pytestmark = pytest.mark.real

WEB, DB = uid("8", 1), uid("8", 2)


def group(group_id: str, *rules: RuleSpec, **other: Any) -> SecurityGroupSpec:
    return dataclasses.replace(SecurityGroupSpec(id=group_id, rules=rules), **other)


def test_default_is_deny_in_and_allow_out(lab: Lab) -> None:
    one, two = port(1, "10.0.0.11", groups=(WEB,)), port(2, "10.0.0.12", groups=(DB,))
    nets = (network(1, one, two),)
    lab.converge(networks=nets, security_groups=(group(WEB, *EGRESS), group(DB, *EGRESS)))
    a, b = lab.guest(one), lab.guest(two)
    b.serve(22)
    b.serve(80)
    a.serve(22)
    assert not a.pings(b.ip)
    assert not a.reaches(b.ip, 22)

    # A range, and one direction: the answers come back, but nobody may begin from the other side.
    lab.converge(
        networks=nets, security_groups=(group(WEB, *EGRESS), group(DB, *EGRESS, allow("tcp", 20, 30)))
    )
    assert a.reaches(b.ip, 22)
    assert not a.reaches(b.ip, 80)
    assert not b.reaches(a.ip, 22)
    assert not a.pings(b.ip)

    # ICMP by type and code.
    echo = allow("icmp", port_range_min=8, port_range_max=0)
    lab.converge(networks=nets, security_groups=(group(WEB, *EGRESS), group(DB, *EGRESS, echo)))
    assert a.pings(b.ip)
    assert not b.pings(a.ip)
    unreachable = allow("icmp", port_range_min=3, port_range_max=None)
    lab.converge(networks=nets, security_groups=(group(WEB, *EGRESS), group(DB, *EGRESS, unreachable)))
    assert not a.pings(b.ip)


def test_egress_rules(lab: Lab) -> None:
    one, two = port(1, "10.0.0.11", groups=(WEB,)), port(2, "10.0.0.12", groups=(DB,))
    nets = (network(1, one, two),)
    everything = group(DB, *EGRESS, allow())
    tcp = RuleSpec(
        direction="egress",
        ethertype="IPv4",
        protocol="tcp",
        port_range_min=80,
        port_range_max=80,
        remote_ip_prefix="10.0.0.12/32",
    )
    lab.converge(networks=nets, security_groups=(group(WEB, tcp), everything))
    a, b = lab.guest(one), lab.guest(two)
    b.serve(80)
    b.serve(81)
    assert a.reaches(b.ip, 80)
    assert not a.reaches(b.ip, 81)
    assert not a.pings(b.ip)
    lab.converge(networks=nets, security_groups=(group(WEB), everything))
    assert not a.reaches(b.ip, 80)


def test_remote_groups_follow_their_members(lab: Lab) -> None:
    one, two, three = (
        port(1, "10.0.0.11", groups=(WEB,)),
        port(2, "10.0.0.12", groups=(WEB,)),
        port(3, "10.0.0.13", groups=(DB,)),
    )
    nets = (network(1, one, two, three),)
    db = group(DB, *EGRESS, allow("tcp", 5432, remote_group_id=WEB))
    lab.converge(networks=nets, security_groups=(group(WEB, *EGRESS, members=("10.0.0.11",)), db))
    a, b, c = lab.guest(one), lab.guest(two), lab.guest(three)
    c.serve(5432)
    assert a.reaches(c.ip, 5432)
    assert not b.reaches(c.ip, 5432)
    lab.converge(networks=nets, security_groups=(group(WEB, *EGRESS, members=("10.0.0.0/24",)), db))
    assert b.reaches(c.ip, 5432)
    connection = b.connect(c.ip, 5432)
    assert talks(connection)
    lab.converge(networks=nets, security_groups=(group(WEB, *EGRESS, members=("10.0.0.11",)), db))
    assert not talks(connection)
    assert a.reaches(c.ip, 5432)


def test_a_rule_that_goes_cuts_its_flows_and_no_others(lab: Lab) -> None:
    one, two = port(1, "10.0.0.11", groups=(WEB,)), port(2, "10.0.0.12", groups=(DB,))
    nets = (network(1, one, two),)
    both = group(DB, *EGRESS, allow("tcp", 22), allow("tcp", 80))
    lab.converge(networks=nets, security_groups=(group(WEB, *EGRESS), both))
    a, b = lab.guest(one), lab.guest(two)
    b.serve(22)
    b.serve(80)
    ssh, web = a.connect(b.ip, 22), a.connect(b.ip, 80)
    assert talks(ssh)
    assert talks(web)
    lab.converge(networks=nets, security_groups=(group(WEB, *EGRESS), group(DB, *EGRESS, allow("tcp", 80))))
    assert not talks(ssh)
    assert talks(web)

    # The same when the rule went while nobody was there to see it.
    lab.restart()
    lab.converge(networks=nets, security_groups=(group(WEB, *EGRESS), group(DB, *EGRESS)))
    assert not talks(web)


def test_flows_survive_a_restart_of_the_driver(lab: Lab) -> None:
    one, two = port(1, "10.0.0.11", groups=(WEB,)), port(2, "10.0.0.12", groups=(DB,))
    nets = (network(1, one, two),)
    groups = (group(WEB, *EGRESS), group(DB, allow("tcp", 22)))
    lab.converge(networks=nets, security_groups=groups)
    a, b = lab.guest(one), lab.guest(two)
    b.serve(22)
    ssh = a.connect(b.ip, 22)
    assert talks(ssh)
    lab.restart()
    assert talks(ssh)
    lab.converge(networks=nets, security_groups=groups)
    assert talks(ssh)


def test_stateless_groups_track_nothing(lab: Lab) -> None:
    one, two = port(1, "10.0.0.11", groups=(WEB,)), port(2, "10.0.0.12", groups=(DB,))
    nets = (network(1, one, two),)
    open_group = group(WEB, *EGRESS, allow())
    lab.converge(networks=nets, security_groups=(open_group, group(DB, allow("tcp", 80), stateful=False)))
    a, b = lab.guest(one), lab.guest(two)
    b.serve(80)
    assert not a.reaches(b.ip, 80)  # the answers have no rule
    answers = RuleSpec(direction="egress", ethertype="IPv4", protocol="tcp")
    lab.converge(
        networks=nets, security_groups=(open_group, group(DB, allow("tcp", 80), answers, stateful=False))
    )
    assert a.reaches(b.ip, 80)


def test_a_port_without_security_is_open_and_closes_when_it_gets_some(lab: Lab) -> None:
    one, two = port(1, "10.0.0.11", port_security=False), port(2, "10.0.0.12", port_security=False)
    lab.converge(networks=(network(1, one, two),))
    a, b = lab.guest(one), lab.guest(two)
    b.serve(80)
    assert a.pings(b.ip)
    assert a.reaches(b.ip, 80)
    connection = a.connect(b.ip, 80)
    closed = dataclasses.replace(two, port_security=True)
    lab.converge(networks=(network(1, one, closed),))
    assert not a.reaches(b.ip, 80)
    assert not talks(connection)
    lab.converge(networks=(network(1, one, two),))
    assert a.reaches(b.ip, 80)


def test_ipv6_rules(lab: Lab) -> None:
    one = port(1, "10.0.0.11", "2001:db8::11", groups=(WEB,))
    two = port(2, "10.0.0.12", "2001:db8::12", groups=(DB,))
    nets = (network(1, one, two),)
    lab.converge(networks=nets, security_groups=(group(WEB, *EGRESS), group(DB, *EGRESS)))
    a, b = lab.guest(one), lab.guest(two)
    b.serve(80, "::")
    assert not a.reaches("2001:db8::12", 80)
    web = allow("tcp", 80, ethertype="IPv6", remote_ip_prefix="2001:db8::/64")
    lab.converge(networks=nets, security_groups=(group(WEB, *EGRESS), group(DB, *EGRESS, web)))
    assert a.reaches("2001:db8::12", 80)
    assert not a.reaches("10.0.0.12", 80)
    assert not a.pings("2001:db8::12")
    echo = allow("icmp", port_range_min=128, port_range_max=None, ethertype="IPv6")
    lab.converge(networks=nets, security_groups=(group(WEB, *EGRESS), group(DB, *EGRESS, echo)))
    assert a.pings("2001:db8::12")


def test_fragments_are_judged_as_a_whole(lab: Lab) -> None:
    one, two = port(1, "10.0.0.11", groups=(WEB,)), port(2, "10.0.0.12", groups=(DB,))
    nets = (network(1, one, two),)
    lab.converge(networks=nets, security_groups=(group(WEB, *EGRESS), group(DB, allow("icmp"))))
    a, b = lab.guest(one), lab.guest(two)
    big = ("ping", "-n", "-c", "1", "-W", "1", "-s", "4000", b.ip)
    assert a.run(*big).returncode == 0
    lab.converge(networks=nets, security_groups=(group(WEB, *EGRESS), group(DB)))
    assert a.run(*big).returncode != 0


def test_equal_addresses_of_two_tenants_stay_apart(lab: Lab) -> None:
    one, two = port(1, "10.0.0.11", groups=(WEB,)), port(2, "10.0.0.12", groups=(WEB,))
    other, same = port(3, "10.0.0.11", groups=(DB,)), port(4, "10.0.0.12", groups=(DB,))
    nets = (network(1, one, two), network(2, other, same))
    ssh = group(WEB, *EGRESS, allow("tcp", 22))
    lab.converge(networks=nets, security_groups=(ssh, group(DB, *EGRESS)))
    a, b, c, d = (lab.guest(each) for each in (one, two, other, same))
    b.serve(22)
    d.serve(22)
    connection = a.connect(b.ip, 22)
    assert talks(connection)
    # An established flow of one tenant opens nothing for the other's equal addresses.
    source = connection.getsockname()[1]
    assert not c.reaches(d.ip, 22)
    assert not c.reaches(d.ip, 22, source=source)
    # Nothing of one network is even seen in the other.
    with c.hears(b"\x0a\x00\x00\x0b") as seen:
        a.pings(b.ip)
        assert not seen()
