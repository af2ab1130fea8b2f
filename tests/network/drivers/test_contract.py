"""What every network driver promises, the simulated one and the real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from altostack.network.drivers.base import (
    MetadataResponse,
    NetworkDriver,
    NodeNetworks,
    SecurityGroupSpec,
    Status,
)
from altostack.network.drivers.linux import LinuxDriver
from altostack.network.drivers.simulated import SimulatedDriver
from tests.network.drivers.lab import EGRESS, OUTSIDE, PUBLIC, allow, network, new_prefix, port, router, uid

GROUP = SecurityGroupSpec(id=uid("8", 1), rules=(*EGRESS, allow("tcp", 22)))


@pytest.fixture(params=[pytest.param("linux", marks=pytest.mark.real), "simulated"])
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NetworkDriver]:
    made: NetworkDriver
    if request.param == "linux":
        made = LinuxDriver(prefix=new_prefix(), state=tmp_path, resolver=lambda _: MetadataResponse())
    else:
        made = SimulatedDriver()
    yield made
    made.teardown()
    assert made.inventory() == {}
    made.close()


def desired(**changes: object) -> NodeNetworks:
    one, two = (port(n, f"10.0.0.1{n}", groups=(GROUP.id,)) for n in (1, 2))
    net = network(1, one, two, dhcp=True)
    whole = NodeNetworks(
        generation=7,
        networks=(net, PUBLIC),
        routers=(router(1, (net, "10.0.0.1/24"), address="172.24.4.10"),),
        security_groups=(GROUP,),
        external_networks=(OUTSIDE,),
    )
    return replace(whole, **changes)  # type: ignore[arg-type]  # several fields


def test_is_a_driver(driver: NetworkDriver) -> None:
    assert isinstance(driver, NetworkDriver)


def test_everything_becomes_active(driver: NetworkDriver) -> None:
    observed = driver.converge(desired())
    assert observed.generation == 7
    assert observed.failures() == {}
    assert observed.retry_after is None
    assert {*observed.ports} == {uid("a", 1), uid("a", 2)}
    everything = (
        observed.ports,
        observed.networks,
        observed.routers,
        observed.security_groups,
        observed.external_networks,
    )
    assert {status.status for kind in everything for status in kind.values()} == {Status.ACTIVE}


def test_again_changes_nothing(driver: NetworkDriver) -> None:
    driver.converge(desired())
    before = driver.inventory()
    assert before
    assert driver.converge(desired()).failures() == {}
    assert driver.inventory() == before
    driver.forget()
    assert driver.converge(desired()).failures() == {}
    assert driver.inventory() == before


def test_there_and_back_leaves_the_same(driver: NetworkDriver) -> None:
    small = desired(networks=(PUBLIC,), routers=())
    driver.converge(small)
    before = driver.inventory()
    driver.converge(desired())
    assert driver.inventory() != before
    driver.converge(small)
    assert driver.inventory() == before


def test_nothing_wanted_leaves_no_items(driver: NetworkDriver) -> None:
    driver.converge(desired())
    observed = driver.converge(NodeNetworks(generation=8))
    assert observed.generation == 8
    assert not observed.ports
    assert not observed.networks
    driver.teardown()
    driver.teardown()
    assert driver.inventory() == {}
    assert driver.converge(desired()).failures() == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"mac": "52:54:00"},
        {"mac": "ff:ff:ff:ff:ff:ff"},
        {"tap": "tap;drop"},
        {"tap": "tap-name-that-is-too-long"},
        {"tap": "tap" + uid("a", 2)[:11]},
        {"security_groups": (uid("8", 9),)},
        {"fixed_ips": (replace(port(1, "10.0.0.11").fixed_ips[0], ip="10.0.0.11 accept"),)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_bad_port_fails_alone(driver: NetworkDriver, changes: dict[str, object]) -> None:
    whole = desired()
    net = whole.networks[0]
    bad = replace(net.ports[0], **changes)  # type: ignore[arg-type]  # several fields
    observed = driver.converge(desired(networks=(replace(net, ports=(net.ports[1], bad)), PUBLIC)))
    assert observed.ports[bad.id].status is Status.ERROR
    assert observed.ports[bad.id].reason
    assert observed.retry_after
    assert observed.ports[net.ports[1].id].status is Status.ACTIVE
    # It is well again with a good description.
    observed = driver.converge(whole)
    assert observed.failures() == {}


def test_a_bad_network_takes_only_its_ports_along(driver: NetworkDriver) -> None:
    bad = replace(network(2, port(3, "10.0.0.13", groups=(GROUP.id,))), id="../../etc")
    whole = desired()
    observed = driver.converge(desired(networks=(*whole.networks, bad)))
    assert {*observed.failures()} == {bad.id, bad.ports[0].id}


def test_what_is_off_is_down(driver: NetworkDriver) -> None:
    whole = desired()
    net = whole.networks[0]
    off = replace(net.ports[0], admin_up=False)
    observed = driver.converge(
        desired(
            networks=(replace(net, ports=(off, net.ports[1])), PUBLIC),
            routers=(replace(whole.routers[0], admin_up=False),),
        )
    )
    assert observed.ports[off.id].status is Status.DOWN
    assert observed.ports[net.ports[1].id].status is Status.ACTIVE
    assert observed.routers[whole.routers[0].id].status is Status.DOWN
    observed = driver.converge(desired(networks=(replace(net, admin_up=False), PUBLIC)))
    assert observed.networks[net.id].status is Status.DOWN
    assert {status.status for status in observed.ports.values()} == {Status.DOWN}
    assert driver.converge(whole).ports[off.id].status is Status.ACTIVE


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def simulated() -> Callable[..., tuple[SimulatedDriver, Clock]]:
    def make(**settings: object) -> tuple[SimulatedDriver, Clock]:
        clock = Clock()
        return SimulatedDriver(clock=clock, **settings), clock  # type: ignore[arg-type]  # several types

    return make


def test_simulated_delay(simulated: Callable[..., tuple[SimulatedDriver, Clock]]) -> None:
    driver, clock = simulated(delay=3.0)
    observed = driver.converge(desired())
    assert {status.status for status in observed.ports.values()} == {Status.DOWN}
    assert observed.retry_after == 3.0
    clock.now = 3.0
    observed = driver.converge(desired())
    assert {status.status for status in observed.ports.values()} == {Status.ACTIVE}
    assert observed.retry_after is None


def test_simulated_faults(simulated: Callable[..., tuple[SimulatedDriver, Clock]]) -> None:
    driver, _ = simulated(faults={uid("a", 1): "cable eaten"})
    observed = driver.converge(desired())
    assert observed.failures() == {uid("a", 1): "cable eaten"}
    driver.faults.clear()
    assert driver.converge(desired()).failures() == {}
    driver.faults[uid("b", 1)] = "no bridge"
    assert set(driver.converge(desired()).failures()) == {uid("b", 1), uid("a", 1), uid("a", 2)}
