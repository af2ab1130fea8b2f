"""Rings at hand for tests: short ways to make and change them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from altostack.objectstore.ring.builder import Builder

HOUR = 3600.0


class Time:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000_000_000.0

    def __call__(self) -> float:
        return self.now


def builder(
    devices: Sequence[tuple[int, int, int, float]] = (),
    *,
    path: Path = Path("x.builder"),
    power: int = 8,
    replicas: float = 3.0,
    hours: float = 0.0,
    clock: Time | None = None,
) -> Builder:
    """``devices``: (region, zone, host, weight) of each; hosts are numbered."""
    made = Builder.create(
        path, part_power=power, replicas=replicas, min_part_hours=hours, clock=clock or Time()
    )
    for one in devices:
        add(made, *one)
    return made


def add(made: Builder, region: int, zone: int, host: int, weight: float) -> int:
    """Add a device whose name no other has."""
    number = made.state.version
    return made.add(
        region=region, zone=zone, host=f"10.0.0.{host}", port=6200, device=f"d{number}", weight=weight
    )


def even(zones: int, hosts: int, disks: int, weight: float = 100.0) -> list[tuple[int, int, int, float]]:
    """Zones of one region with as many hosts and disks each."""
    return [
        (1, zone, zone * hosts + host, weight)
        for zone in range(zones)
        for host in range(hosts)
        for _ in range(disks)
    ]


def counts(made: Builder, level: int) -> np.ndarray:
    """[node, partition] -> replicas there; ``level``: 0 region, 1 zone, 2 host, 3 device."""
    paths = {one.id: (one.region, one.zone, one.host, one.id)[: level + 1] for one in made.devices}
    names = sorted(set(paths.values()))
    found = np.zeros((len(names), made.parts), dtype=int)
    for row in made.table:
        for part, id in enumerate(row.tolist()):
            if id >= 0:
                found[names.index(paths[id]), part] += 1
    return found
