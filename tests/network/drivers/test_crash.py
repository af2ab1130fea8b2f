"""Killed between any two operations, and begun again: the same node in the end, and nothing beside it."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from altostack.network.drivers.base import (
    FloatingIPSpec,
    Inventory,
    MetadataResponse,
    NodeNetworks,
    SecurityGroupSpec,
)
from altostack.network.drivers.kernel import Kernel, nothing
from altostack.network.drivers.linux import LinuxDriver
from tests.network.drivers.lab import EGRESS, OUTSIDE, PUBLIC, allow, network, new_prefix, port, router, uid

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

GROUP = SecurityGroupSpec(
    id=uid("8", 1), rules=(*EGRESS, allow(remote_group_id=uid("8", 1))), members=("10.0.0.11",)
)
OTHER = SecurityGroupSpec(id=uid("8", 2), rules=(*EGRESS, allow("tcp", 22)))


class Killed(BaseException):
    """Not an Exception: nothing in the driver may catch it."""


class Executioner:
    """Lets ``after`` operations happen and kills at the next one."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.last = ""

    def __call__(self, what: str) -> None:
        self.last = what
        if self.left == 0:
            raise Killed(what)
        self.left -= 1


def small() -> NodeNetworks:
    """What is there before: one network, one port."""
    net = network(1, port(1, "10.0.0.11", groups=(GROUP.id,)), dhcp=True)
    gone = network(3, port(9, "10.3.0.11", groups=(GROUP.id,), subnet=uid("5", 3)), net="10.3.0", dhcp=True)
    return NodeNetworks(
        networks=(net, gone, PUBLIC),
        routers=(router(2, (gone, "10.3.0.1/24"), address="172.24.4.20"),),
        security_groups=(GROUP,),
    )


def large() -> NodeNetworks:
    """What is wanted: changed, new and gone items of every kind."""
    one = port(1, "10.0.0.11", groups=(GROUP.id, OTHER.id), dns_name="web")
    two = port(2, "10.0.0.12", groups=(OTHER.id,))
    net = network(1, one, two, dhcp=True)
    net = replace(net, mtu=1400)
    fresh = network(2, port(3, "10.1.0.11", port_security=False, subnet=uid("5", 2)), net="10.1.0", dhcp=True)
    gate = router(
        1,
        (net, "10.0.0.1/24"),
        address="172.24.4.10",
        floating_ips=(FloatingIPSpec(id=uid("7", 1), floating_ip="172.24.4.100", fixed_ip="10.0.0.11"),),
    )
    return NodeNetworks(
        networks=(net, fresh, PUBLIC),
        routers=(gate,),
        security_groups=(replace(GROUP, members=("10.0.0.11", "10.0.0.0/25")), OTHER),
        external_networks=(OUTSIDE,),
    )


class Rig:
    """Drivers that come and go on one prefix."""

    def __init__(self, state: Path) -> None:
        self.prefix, self.state = new_prefix(), state

    def driver(self, step: object = nothing) -> LinuxDriver:
        return LinuxDriver(
            prefix=self.prefix,
            state=self.state,
            resolver=lambda _: MetadataResponse(),
            step=step,  # type: ignore[arg-type]  # an executioner is one too
        )

    def converge(self, *wanted: NodeNetworks) -> Inventory:
        driver = self.driver()
        try:
            for each in wanted:
                assert driver.converge(each).failures() == {}
            return driver.inventory()
        finally:
            driver.close()

    def kill(self, after: int, *wanted: NodeNetworks, teardown: bool = False) -> str | None:
        """Converge to each of ``wanted``, or tear down, and be killed; None if it came to its end before."""
        executioner = Executioner(-1)
        driver = self.driver(executioner)
        try:
            if teardown:
                executioner.left = after
                driver.teardown()
                return None
            for number, each in enumerate(wanted):
                if number == len(wanted) - 1:
                    executioner.left = after
                driver.converge(each)
            return None
        except Killed:
            return executioner.last
        finally:
            executioner.left = -1
            # Sockets and threads go with a process. Nothing else is put right.
            driver._metadata.close()
            driver._hands.shutdown()

    def stale_servers(self) -> list[str]:
        """DHCP servers that are older than their configuration."""
        boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        found = []
        for pid, argument in Kernel().processes(re.compile(rf"--conf-file={self.state}/.*")).items():
            ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
            started = boot + ticks / os.sysconf("SC_CLK_TCK")
            if started + 0.05 < Path(argument.partition("=")[2]).stat().st_mtime:
                found.append(argument)
        return found

    def teardown(self) -> None:
        driver = self.driver()
        driver.teardown()
        assert driver.inventory() == {}
        driver.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "state")
    yield made
    made.teardown()


def host_view() -> list[str]:
    """What of this machine's own network a careless driver would change."""
    commands = ("ip -o link", "ip route show table all", "nft list ruleset", "sysctl net.ipv4.ip_forward")
    return [subprocess.run(c.split(), capture_output=True, text=True, check=True).stdout for c in commands]


def test_killed_between_any_two_operations(rig: Rig) -> None:
    """From a node that holds something else already: first as a fresh process, then as one that remembers."""
    before = host_view()
    expected = rig.converge(large())
    places = []
    for after in range(1000):
        rig.converge(small())
        place = rig.kill(after, large()) if after % 2 else rig.kill(after, small(), large())
        assert rig.converge(large()) == expected, f"killed at operation {after}: {place}"
        assert rig.stale_servers() == [], f"killed at operation {after}: {place}"
        if place is None:
            break
        places.append(place)
    assert len(places) > 60
    assert host_view() == before
    print(f"\nkilled at {len(places)} places")


def test_killed_while_tearing_down(rig: Rig) -> None:
    for after in range(1000):
        rig.converge(large())
        place = rig.kill(after, teardown=True)
        driver = rig.driver()
        driver.teardown()
        left = driver.inventory()
        driver.close()
        assert left == {}, f"killed at operation {after}: {place}"
        if place is None:
            break
    assert after > 10


def test_orphans_go_and_neighbours_stay(rig: Rig, tmp_path: Path) -> None:
    neighbour = Rig(tmp_path / "other")
    try:
        theirs = neighbour.converge(small())
        rig.converge(small())
        kernel = Kernel()
        kernel.create(f"{rig.prefix}-r-deadbeef-00")
        kernel.create(f"{rig.prefix}-d-deadbeef-00")
        kernel.tap(f"{rig.prefix}-node", "tapstray")
        with kernel.netlink(f"{rig.prefix}-node") as netlink:
            netlink.add_bridge("brstray", mtu=1500)
        (rig.state / "dhcp" / "stray").mkdir()
        (rig.state / "dhcp" / "stray" / "hosts").touch()
        kernel.close()
        expected = rig.converge(large())
        text = str(expected)
        assert "stray" not in text
        assert "deadbeef" not in text
        rig.teardown()
        assert rig.converge(large()) == expected
        rig.teardown()
        driver = neighbour.driver()
        assert driver.inventory() == theirs
        driver.close()
    finally:
        neighbour.teardown()


def test_the_host_is_untouched(rig: Rig) -> None:
    before = host_view()
    rig.converge(small(), large())
    assert host_view() == before
    rig.teardown()
    assert host_view() == before
