"""Two nodes on one machine: a tenant network between them, and one that is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from altostack.network.drivers.base import NodeNetworks, SecurityGroupSpec, Status
from altostack.network.drivers.kernel import Kernel
from altostack.network.drivers.switch import Underlay
from tests.network.drivers.lab import (
    EGRESS,
    OUTSIDE,
    PUBLIC,
    Lab,
    allow,
    network,
    new_prefix,
    port,
    router,
    uid,
)

pytestmark = pytest.mark.real

OPEN = SecurityGroupSpec(id=uid("8", 1), rules=(*EGRESS, allow()))
SSH = SecurityGroupSpec(id=uid("8", 2), rules=(*EGRESS, allow("tcp", 22)))


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Lab, Lab]]:
    """Two laboratories with an underlay of one cable between two namespaces."""
    kernel, cable = Kernel(), new_prefix()
    spaces = [f"{cable}u-{n}" for n in (1, 2)]
    labs = [Lab(tmp_path / str(n)) for n in (1, 2)]
    try:
        for space in spaces:
            kernel.create(space)
        with (
            kernel.netlink(spaces[0]) as one,
            kernel.netlink(spaces[1]) as two,
            kernel.handle(spaces[1]) as handle,
        ):
            one.add_veth("under", master=0, mtu=1500, peer="under", peer_namespace=handle)
            for number, netlink in ((1, one), (2, two)):
                link = netlink.link("under")
                assert link is not None
                netlink.settle(link, (f"192.0.2.{number}/24",))
        for number, lab in enumerate(labs, 1):
            lab.underlay = Underlay(address=f"192.0.2.{number}", namespace=spaces[number - 1])
        yield labs[0], labs[1]
    finally:
        for lab in labs:
            lab.close()
        for space in spaces:
            kernel.delete(space)
        kernel.close()


def test_a_network_over_two_nodes(nodes: tuple[Lab, Lab]) -> None:
    left, right = nodes
    peers = ("192.0.2.1", "192.0.2.2")
    one, two, other = (
        port(1, "10.0.0.11", groups=(OPEN.id,)),
        port(2, "10.0.0.12", groups=(SSH.id,)),
        port(3, "10.0.0.12", groups=(OPEN.id,)),
    )
    net = network(1, kind="vxlan", vni=1001, peers=peers)
    stranger = network(2, kind="vxlan", vni=1002, peers=peers, project_id="other")
    gate = router(1, (net, "10.0.0.1/24"), address="172.24.4.10")
    left.converge(
        networks=(replace(net, ports=(one,)), PUBLIC),
        routers=(gate,),
        security_groups=(OPEN,),
        external_networks=(OUTSIDE,),
    )
    right.converge(
        networks=(replace(net, ports=(two,)), replace(stranger, ports=(other,))), security_groups=(OPEN, SSH)
    )
    a, b, c = left.guest(one), right.guest(two), right.guest(other)
    b.serve(22)
    c.serve(23)
    assert a.reaches(b.ip, 22)
    assert not a.reaches(b.ip, 23), "the other tenant's guest of that address"
    assert not a.pings(b.ip)
    assert b.pings(a.ip)
    b.route("10.0.0.1")
    assert b.pings("172.24.4.1"), "out through the router of the other node"

    # A peer that goes is not flooded any more; one that comes is.
    alone = replace(net, ports=(one,), peers=())
    left.converge(networks=(alone,), security_groups=(OPEN,))
    assert _floods(left, net.id) == []
    left.converge(networks=(replace(alone, peers=(*peers, "192.0.2.3")),), security_groups=(OPEN,))
    assert _floods(left, net.id) == ["192.0.2.2", "192.0.2.3"]
    # Another identifier is another network.
    left.converge(networks=(replace(alone, peers=peers, vni=1003),), security_groups=(OPEN,))
    assert not a.reaches(b.ip, 22)
    left.converge(networks=(replace(alone, peers=peers, vni=1001),), security_groups=(OPEN,))
    assert a.reaches(b.ip, 22)
    left.converge(networks=(replace(alone, kind="local", vni=None),), security_groups=(OPEN,))
    assert not a.reaches(b.ip, 22)


def test_full_frames_pass(nodes: tuple[Lab, Lab]) -> None:
    left, right = nodes
    one, two = port(1, "10.0.0.11", groups=(OPEN.id,)), port(2, "10.0.0.12", groups=(OPEN.id,))
    net = network(1, kind="vxlan", vni=1001, peers=("192.0.2.1", "192.0.2.2"))
    for lab, each in ((left, one), (right, two)):
        lab.converge(networks=(replace(net, ports=(each,)),), security_groups=(OPEN,))
    a, _ = left.guest(one), right.guest(two)
    assert a.run("ping", "-c1", "-W1", "-M", "do", "-s", str(1450 - 28), "10.0.0.12").returncode == 0


def test_without_an_underlay_the_network_fails_with_the_reason(lab: Lab) -> None:
    one = port(1, "10.0.0.11", groups=(OPEN.id,))
    net = network(1, one, kind="vxlan", vni=7)
    observed = lab.driver.converge(NodeNetworks(networks=(net, network(2)), security_groups=(OPEN,)))
    assert "underlay" in (observed.networks[net.id].reason or "")
    assert observed.ports[one.id].status is Status.ERROR
    assert observed.networks[uid("b", 2)].status is Status.ACTIVE


def _floods(lab: Lab, network_id: str) -> list[str]:
    devices = lab.driver.inventory()["namespaces"][lab.node]["devices"]
    floods: list[str] = devices["vx" + network_id[:11]]["floods"]
    return floods
