"""What a ring is like: how evenly devices are filled, and how far apart the replicas of a partition lie."""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from altostack.objectstore.ring.builder import Builder
from altostack.objectstore.ring.place import Table
from altostack.objectstore.ring.plan import LEVELS, Ints, Tree

WORST: Final = 999.99  # per cent: balance of a device that should be empty and is not


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A region, zone, host or device. path: ids from the region down. most: replicas of one partition that it should
    hold at most. counts: how many partitions have 0, 1, 2, ... replicas here. close: replicas beyond ``most``.
    """

    path: tuple[object, ...]
    most: int
    counts: tuple[int, ...]
    close: int


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """One level. shared: partitions with two or more replicas in one node. close: replicas beyond what their nodes
    should hold; ideal: the fewest that weights and overload allow.
    """

    name: str
    nodes: tuple[Node, ...]
    shared: int
    close: int
    ideal: int


class Dispersion(msgspec.Struct, frozen=True, kw_only=True):
    """percent: of all replicas, those that lie too close to others at the level where it is worst for them."""

    percent: float
    levels: tuple[Level, ...]


def balances(builder: Builder) -> dict[int, float]:
    """By device id: per cent more (or, negative, less) than its weight says; `WORST` where it should be empty."""
    holding = builder.holding()
    weight = sum(one.weight for one in builder.devices)
    slots = int(builder.ends.sum())
    found = {}
    for one in builder.devices:
        if one.weight > 0:
            found[one.id] = 100.0 * holding[one.id] * weight / (one.weight * slots) - 100.0
        else:
            found[one.id] = WORST if holding[one.id] else 0.0
    return found


def balance(builder: Builder) -> float:
    """The worst device's, without its sign: per cent."""
    return max((abs(one) for one in balances(builder).values()), default=0.0)


def dispersion(builder: Builder) -> Dispersion:
    """How far apart replicas lie. The ring may be half built; what has no device counts nowhere."""
    devices = builder.devices
    tree = Tree.of(devices)
    position = np.full(2 + max((one.id for one in devices), default=0), -1, dtype=np.int32)
    position[[one.id for one in devices]] = np.arange(len(devices))
    table: Table = position[builder.table]
    slots = max(1, int(builder.ends.sum()))
    shares = _shares(builder)
    levels = []
    worst = np.zeros(builder.parts, dtype=np.int64)
    for level, most in enumerate(_most(tree, len(builder.table))):
        keys = np.append(tree.keys[level], -1)[table]
        close = np.zeros(keys.shape, dtype=bool)
        first = np.zeros(keys.shape, dtype=bool)
        counts = np.zeros((len(most), len(table) + 1), dtype=np.int64)
        shared = np.zeros(builder.parts, dtype=bool)
        for row, own in enumerate(keys):
            there = own >= 0
            before = (keys[:row] == own).sum(axis=0)
            close[row] = there & (before >= np.append(most, 0)[own])
            shared |= there & (before > 0)
            first[row] = there & (before == 0)
            total = before + (keys[row:] == own).sum(axis=0)
            np.add.at(counts, (own[first[row]], total[first[row]]), 1)
        counts[:, 0] = builder.parts - counts.sum(axis=1)
        worst = np.maximum(worst, close.sum(axis=0))
        by_node = np.bincount(keys[close], minlength=len(most))
        ideal = np.maximum(shares[level] - most, 0).sum() * builder.parts if shares else 0.0
        levels.append(
            Level(
                name=LEVELS[level],
                nodes=tuple(
                    Node(
                        path=name, most=int(most[i]), counts=tuple(counts[i].tolist()), close=int(by_node[i])
                    )
                    for i, name in enumerate(tree.names[level])
                ),
                shared=int(shared.sum()),
                close=int(close.sum()),
                ideal=round(float(ideal)),
            )
        )
    return Dispersion(percent=100.0 * float(worst.sum()) / slots, levels=tuple(levels))


def problems(builder: Builder) -> list[str]:
    """What is wrong with a ring such that it must not be used; empty when it is sound."""
    found = []
    for row, (devices, end) in enumerate(zip(builder.table, builder.ends, strict=True)):
        missing = int((devices[:end] < 0).sum())
        if missing:
            found.append(f"{missing} partitions have no device for replica {row}: rebalance")
        twins = int(((builder.table[:row] == devices) & (devices >= 0)).any(axis=0).sum())
        if twins:
            found.append(f"{twins} partitions have replica {row} on a device that has another of them")
    usable = sum(one.weight > 0 for one in builder.staying)
    if usable < len(builder.table):
        found.append(f"{len(builder.table)} replicas need as many devices with a weight; there are {usable}")
    return found


def _most(tree: Tree, replicas: int) -> list[Ints]:
    """For each level, the replicas of a partition in a node when each node's are spread evenly over its children."""
    found = []
    above: Ints = np.array([replicas], dtype=np.int64)
    usable = (tree.weights > 0).astype(np.int64)
    for level, up in enumerate(tree.up):
        there = tree.sums(level, usable) > 0
        siblings = np.maximum(np.bincount(up, weights=there, minlength=len(above)), 1).astype(np.int64)
        above = np.where(there, -(-above // siblings)[up], 0)
        found.append(np.minimum(above, 1) if level == len(LEVELS) - 1 else above)
    return found


def _shares(builder: Builder) -> tuple[npt.NDArray[np.float64], ...]:
    """The plan's shares for nodes as `Tree.of(builder.devices)` numbers them; empty while there are too few devices."""
    usable = sum(one.weight > 0 for one in builder.staying)
    if usable < len(builder.table):
        return ()
    plan = builder.plan()
    share = {one.id: float(value) for one, value in zip(plan.tree.devices, plan.shares[-1], strict=True)}
    tree = Tree.of(builder.devices)
    of_devices = np.array([share.get(one.id, 0.0) for one in builder.devices])
    return tuple(tree.sums(level, of_devices) for level in range(len(LEVELS)))
