"""Routers: floating IPs, the way out, the way between subnets, and no way between tenants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from altostack.network.drivers.base import (
    FloatingIPSpec,
    NodeNetworks,
    Route,
    SecurityGroupSpec,
    Status,
)
from tests.network.drivers.lab import (
    EGRESS,
    OUTSIDE,
    PUBLIC,
    Lab,
    Listener,
    allow,
    connect,
    network,
    pings,
    port,
    reaches,
    router,
    run,
    talks,
    uid,
)

pytestmark = pytest.mark.real

OPEN, CLOSED = uid("8", 1), uid("8", 2)
OPEN_GROUP = SecurityGroupSpec(id=OPEN, rules=(*EGRESS, allow()))
CLOSED_GROUP = SecurityGroupSpec(id=CLOSED, rules=EGRESS)
GROUPS = (OPEN_GROUP, CLOSED_GROUP)


def floating(number: int, outer: str, fixed: str) -> FloatingIPSpec:
    return FloatingIPSpec(id=uid("7", number), floating_ip=outer, fixed_ip=fixed)


def test_a_floating_ip_answers_only_after_the_rule(lab: Lab) -> None:
    one = port(1, "10.0.0.11", groups=(CLOSED,))
    net = network(1, one)
    gate = router(1, (net, "10.0.0.1/24"), address="172.24.4.10")
    rest = {"networks": (net, PUBLIC), "external_networks": (OUTSIDE,)}
    lab.converge(**rest, routers=(gate,), security_groups=GROUPS)
    a = lab.guest(one)
    a.route("10.0.0.1")
    a.serve(22)
    assert a.pings("10.0.0.1")
    assert a.pings("172.24.4.10")
    assert not pings(lab.outside, "172.24.4.100")

    with Listener(lab.kernel, lab.outside, "ex" + PUBLIC.id[:11], b"\xac\x18\x04\x64", 0.5) as seen:
        gate = replace(gate, floating_ips=(floating(1, "172.24.4.100", "10.0.0.11"),))
        observed = lab.converge(**rest, routers=(gate,), security_groups=GROUPS)
        assert seen(), "a new address is announced to the neighbours"
    assert observed.floating_ips[uid("7", 1)].status is Status.ACTIVE
    assert not pings(lab.outside, "172.24.4.100")
    assert not reaches(lab.kernel, lab.outside, "172.24.4.100", 22)

    ssh = replace(CLOSED_GROUP, rules=(*EGRESS, allow("tcp", 22), allow("icmp")))
    lab.converge(**rest, routers=(gate,), security_groups=(OPEN_GROUP, ssh))
    assert pings(lab.outside, "172.24.4.100")
    assert reaches(lab.kernel, lab.outside, "172.24.4.100", 22)
    assert not reaches(lab.kernel, lab.outside, "172.24.4.100", 80)

    # The guest goes out under its floating IP, and an established flow ends with the floating IP.
    lab.serve(lab.outside, 8080)
    with a.connect("172.24.4.1", 8080) as out:
        assert talks(out)
        assert "172.24.4.100" in run(lab.outside, "ss", "-tn").stdout
    inward = connect(lab.kernel, lab.outside, "172.24.4.100", 22)
    assert talks(inward)
    lab.converge(**rest, routers=(replace(gate, floating_ips=()),), security_groups=(OPEN_GROUP, ssh))
    assert not talks(inward)
    assert not pings(lab.outside, "172.24.4.100")
    with a.connect("172.24.4.1", 8080) as out:
        assert talks(out)
        assert "172.24.4.10:" in run(lab.outside, "ss", "-tn").stdout


def test_a_floating_ip_moves_to_another_guest(lab: Lab) -> None:
    one, two = port(1, "10.0.0.11", groups=(OPEN,)), port(2, "10.0.0.12", groups=(OPEN,))
    net = network(1, one, two)
    gate = router(
        1,
        (net, "10.0.0.1/24"),
        address="172.24.4.10",
        floating_ips=(floating(1, "172.24.4.100", "10.0.0.11"),),
    )
    rest = {"networks": (net, PUBLIC), "external_networks": (OUTSIDE,), "security_groups": GROUPS}
    lab.converge(**rest, routers=(gate,))
    a, b = lab.guest(one), lab.guest(two)
    a.route("10.0.0.1")
    b.route("10.0.0.1")
    a.serve(1000)
    b.serve(2000)
    assert reaches(lab.kernel, lab.outside, "172.24.4.100", 1000)
    moved = replace(gate, floating_ips=(floating(1, "172.24.4.100", "10.0.0.12"),))
    lab.converge(**rest, routers=(moved,))
    assert reaches(lab.kernel, lab.outside, "172.24.4.100", 2000)
    assert not reaches(lab.kernel, lab.outside, "172.24.4.100", 1000)


def test_subnets_of_one_router_and_hairpin_between_floating_ips(lab: Lab) -> None:
    one = port(1, "10.0.0.11", groups=(OPEN,))
    near = port(2, "10.0.0.12", groups=(OPEN,))
    far = port(3, "10.1.0.11", groups=(OPEN,), subnet=uid("5", 2))
    first, second = network(1, one, near), network(2, far, net="10.1.0")
    gate = router(
        1,
        (first, "10.0.0.1/24"),
        (second, "10.1.0.1/24"),
        address="172.24.4.10",
        floating_ips=(
            floating(1, "172.24.4.101", "10.0.0.11"),
            floating(2, "172.24.4.102", "10.0.0.12"),
            floating(3, "172.24.4.103", "10.1.0.11"),
        ),
    )
    lab.converge(
        networks=(first, second, PUBLIC),
        routers=(gate,),
        external_networks=(OUTSIDE,),
        security_groups=GROUPS,
    )
    a, b, c = (lab.guest(each) for each in (one, near, far))
    for guest, gateway in ((a, "10.0.0.1"), (b, "10.0.0.1"), (c, "10.1.0.1")):
        guest.route(gateway)
        guest.serve(80)
    assert a.reaches("10.1.0.11", 80)
    assert a.pings("10.1.0.1")
    assert a.reaches("172.24.4.103", 80), "another subnet's"
    assert a.reaches("172.24.4.102", 80), "a neighbour's"
    assert a.reaches("172.24.4.101", 80), "its own"
    with c.hears(b"\xac\x18\x04\x65") as seen:  # seen under its floating IP
        a.pings("172.24.4.103")
        assert seen()


def test_extra_routes_and_an_unreachable_next_hop(lab: Lab) -> None:
    one, hop = (
        port(1, "10.0.0.11", groups=(OPEN,)),
        port(2, "10.1.0.12", port_security=False, subnet=uid("5", 2)),
    )
    first, second = network(1, one), network(2, hop, net="10.1.0")
    gate = router(
        1,
        (first, "10.0.0.1/24"),
        (second, "10.1.0.1/24"),
        routes=(Route(destination="192.168.7.0/24", nexthop="10.1.0.12"),),
    )
    nets: dict[str, Any] = {"networks": (first, second), "security_groups": GROUPS}
    lab.converge(**nets, routers=(gate,))
    a, b = lab.guest(one), lab.guest(hop)
    a.route("10.0.0.1")
    b.route("10.1.0.1")
    b.run("ip", "addr", "add", "192.168.7.1/32", "dev", "lo")
    assert a.pings("192.168.7.1")
    bad = replace(gate, routes=(*gate.routes, Route(destination="192.168.8.0/24", nexthop="10.77.0.1")))
    observed = lab.driver.converge(NodeNetworks(**nets, routers=(bad,)))
    assert "10.77.0.1" in (observed.routers[gate.id].reason or "")
    assert a.pings("192.168.7.1"), "what can be done is done"
    lab.converge(**nets, routers=(replace(gate, routes=()),))
    assert not a.pings("192.168.7.1")


def test_tenants_with_equal_addresses_never_meet(lab: Lab) -> None:
    """Two tenants, equal addresses, routers on one external network, everything open: still no way across."""
    mine, theirs = port(1, "10.0.0.11", groups=(OPEN,)), port(2, "10.0.0.11", groups=(OPEN,))
    bait = port(3, "10.5.0.11", groups=(OPEN,), subnet=uid("5", 3))
    first, second = network(1, mine), network(2, theirs, project_id="other")
    third = network(3, bait, net="10.5.0", project_id="other")
    intruder = port(4, "172.24.4.66", port_security=False)
    public = replace(PUBLIC, ports=(intruder,))
    one = router(1, (first, "10.0.0.1/24"), address="172.24.4.10")
    two = router(2, (second, "10.0.0.1/24"), (third, "10.5.0.1/24"), address="172.24.4.20")
    lab.converge(
        networks=(first, second, third, public),
        routers=(one, two),
        external_networks=(OUTSIDE,),
        security_groups=GROUPS,
    )
    a, b, c, evil = (lab.guest(each) for each in (mine, theirs, bait, intruder))
    a.route("10.0.0.1")
    b.route("10.0.0.1")
    c.route("10.5.0.1")
    assert b.pings("10.5.0.11"), "what is one tenant's own works"
    assert a.pings("172.24.4.20"), "the other's router is seen as anyone outside sees it"
    assert not a.pings("10.5.0.11")
    # Forced past the first router, and from a machine right on the external network.
    run(f"{lab.prefix}-r-{one.id[:11]}", "ip", "route", "add", "10.5.0.0/24", "via", "172.24.4.20")
    assert not a.pings("10.5.0.11")
    evil.run("ip", "route", "add", "10.5.0.0/24", "via", "172.24.4.20")
    assert not evil.pings("10.5.0.11")
    run(lab.outside, "ip", "route", "add", "10.5.0.0/24", "via", "172.24.4.20")
    assert not pings(lab.outside, "10.5.0.11")
    # A router answers for its own network's addresses only.
    a.run("ip", "route", "add", "10.5.0.1/32", "dev", "eth0")
    a.run("ip", "route", "add", "172.24.4.10/32", "dev", "eth0")
    assert not a.pings("10.5.0.1")
    with a.hears(b"\x00\x02" + bytes.fromhex(one.interfaces[0].mac.replace(":", ""))) as seen:
        a.run("ping", "-c1", "-W0.2", "172.24.4.10")
        assert not seen()


def test_without_snat_the_outside_reaches_fixed_addresses_by_route(lab: Lab) -> None:
    one = port(1, "10.0.0.11", groups=(OPEN,))
    net = network(1, one)
    gate = router(1, (net, "10.0.0.1/24"), address="172.24.4.10")
    assert gate.gateway is not None
    plain = replace(gate, gateway=replace(gate.gateway, enable_snat=False))
    rest = {"networks": (net, PUBLIC), "external_networks": (OUTSIDE,), "security_groups": GROUPS}
    lab.converge(**rest, routers=(plain,))
    a = lab.guest(one)
    a.route("10.0.0.1")
    run(lab.outside, "ip", "route", "add", "10.0.0.0/24", "via", "172.24.4.10")
    assert pings(lab.outside, "10.0.0.11")
    lab.converge(**rest, routers=(gate,))
    assert not pings(lab.outside, "10.0.0.11")


def test_a_router_that_is_off_is_not_there(lab: Lab) -> None:
    one = port(1, "10.0.0.11", groups=(OPEN,))
    net = network(1, one)
    gate = router(1, (net, "10.0.0.1/24"), address="172.24.4.10")
    rest = {"networks": (net, PUBLIC), "external_networks": (OUTSIDE,), "security_groups": GROUPS}
    lab.converge(**rest, routers=(gate,))
    a = lab.guest(one)
    assert a.pings("10.0.0.1")
    observed = lab.converge(**rest, routers=(replace(gate, admin_up=False),))
    assert observed.routers[gate.id].status is Status.DOWN
    assert not a.pings("10.0.0.1")
    lab.converge(**rest, routers=(gate,))
    assert a.pings("10.0.0.1")
    foot = gate.interfaces[0]
    lab.converge(**rest, routers=(replace(gate, interfaces=(replace(foot, addresses=("10.0.0.254/24",)),)),))
    assert not a.pings("10.0.0.1")
    assert a.pings("10.0.0.254")
    lab.converge(**rest, routers=(replace(gate, gateway=None),))
    assert not pings(lab.outside, "172.24.4.10")
