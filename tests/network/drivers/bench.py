"""What converging costs: ``python -m tests.network.drivers.bench`` (as root), figures in milliseconds."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from altostack.network.drivers.base import (
    MetadataResponse,
    NetworkDriver,
    NetworkSpec,
    NodeNetworks,
    PortSpec,
    SecurityGroupSpec,
)
from altostack.network.drivers.linux import LinuxDriver
from altostack.network.drivers.simulated import SimulatedDriver
from tests.network.drivers.lab import EGRESS, PUBLIC, allow, network, new_prefix, port, router, uid

GROUP = uid("8", 1)


def timed(work: Callable[[], object]) -> float:
    """Milliseconds that it takes."""
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1000


def show(what: str, times: Sequence[float]) -> None:
    """One line of figures."""
    print(f"{what:<58} median {statistics.median(times):7.1f}  worst {max(times):7.1f}", flush=True)


def node(networks: list[NetworkSpec], **other: object) -> NodeNetworks:
    """A node with these networks and the default group of their ports, in which each is a member."""
    members = tuple(fixed.ip for net in networks for each in net.ports for fixed in each.fixed_ips)
    group = SecurityGroupSpec(
        id=GROUP,
        rules=(*EGRESS, allow(remote_group_id=GROUP), allow("tcp", 22), allow("icmp")),
        members=members,
    )
    return NodeNetworks(networks=tuple(networks), security_groups=(group,), **other)  # type: ignore[arg-type]  # routers


def wide(ports: list[PortSpec]) -> NetworkSpec:
    """A /16 with DHCP and these ports."""
    net = network(1, *ports, dhcp=True)
    return replace(net, subnets=(replace(net.subnets[0], cidr="10.0.0.0/16"),))


def numbered(number: int) -> PortSpec:
    """A port of that network."""
    return port(number, f"10.0.{number // 250 + 1}.{number % 250 + 1}", groups=(GROUP,))


def crowd(driver: NetworkDriver, size: int) -> None:
    """One network filled up to ``size`` ports, then a port more, a port changed, a port less, nothing."""
    ports = [numbered(n) for n in range(size)]
    first = timed(lambda: driver.converge(node([wide(ports)])))
    print(f"{f'{size} ports at once':<58} {first:14.1f}  = {first / size:.2f} a port")
    adds, changes, removes, idles = [], [], [], []
    for turn in range(7):
        extra = numbered(size + turn)
        wanted = node([wide([*ports, extra])])
        adds.append(timed(lambda wanted=wanted: driver.converge(wanted)))  # type: ignore[misc]  # lambda default
        idles.append(timed(lambda wanted=wanted: driver.converge(wanted)))  # type: ignore[misc]
        wanted = node([wide([*ports, replace(extra, dns_name="renamed", mac="52:54:00:00:99:99")])])
        changes.append(timed(lambda wanted=wanted: driver.converge(wanted)))  # type: ignore[misc]
        wanted = node([wide(ports)])
        removes.append(timed(lambda wanted=wanted: driver.converge(wanted)))  # type: ignore[misc]
    show(f"  one port more on {size}", adds)
    show("  one port changed (MAC)", changes)
    show("  one port less", removes)
    show("  nothing changed", idles)
    driver.forget()
    print(
        f"{'  looking at everything again':<58} {timed(lambda: driver.converge(node([wide(ports)]))):14.1f}"
    )


def newcomers(driver: NetworkDriver) -> None:
    """What a user waits for on a quiet node."""
    nets = [PUBLIC]
    fresh, more, routed = [], [], []
    for turn in range(1, 8):
        base = turn * 10
        new = network(turn, port(base, "10.0.0.10", groups=(GROUP,), subnet=uid("5", turn)), dhcp=True)
        fresh.append(timed(lambda new=new: driver.converge(node([*nets, new]))))  # type: ignore[misc]
        second = port(base + 1, "10.0.0.11", groups=(GROUP,), subnet=uid("5", turn))
        new = replace(new, ports=(*new.ports, second))
        more.append(timed(lambda new=new: driver.converge(node([*nets, new]))))  # type: ignore[misc]
        nets.append(new)
    routers = []
    for turn in range(1, 8):
        routers.append(router(turn, (nets[turn], "10.0.0.1/24"), address=f"172.24.4.{turn + 9}"))
        routed.append(timed(lambda: driver.converge(node(nets, routers=tuple(routers)))))
    show("a port on a new network (bridge, DHCP, metadata, tap)", fresh)
    show("a port on a network that is there", more)
    show("a router between a network and the outside", routed)


def main() -> None:
    """Measure both drivers."""
    print("load average", *os.getloadavg())
    with tempfile.TemporaryDirectory() as folder:
        for size in (0, 200, 1000):
            driver = LinuxDriver(
                prefix=new_prefix(), state=Path(folder, str(size)), resolver=lambda _: MetadataResponse()
            )
            try:
                crowd(driver, size) if size else newcomers(driver)
                print(f"{'teardown':<58} {timed(driver.teardown):14.1f}\n")
            finally:
                driver.teardown()
                driver.close()
    print("simulated")
    crowd(SimulatedDriver(), 100)


if __name__ == "__main__":
    main()
