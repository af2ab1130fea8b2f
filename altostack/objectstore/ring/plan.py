"""How many replicas of a partition each region, zone, host and device should hold.

Shares are real numbers, "replicas of a partition on average": a zone with a share of 1.25 has one replica of three
quarters of the partitions and two of the others. Two plans are drawn up: by weight alone, and as unlike as possible
(each tier's replicas are spread evenly over its children, by weight only within the rounding). `overload` says how
much more than its weight a device may hold to come from the first to the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from altostack.objectstore.storage import Device

Ints = npt.NDArray[np.signedinteger[Any]]
Reals = npt.NDArray[np.float64]

LEVELS: Final = ("region", "zone", "host", "device")
_FUZZ: Final = 1e-9  # shares are sums of many fractions


@dataclass(frozen=True, slots=True)
class Tree:
    """Devices in their hosts, zones and regions; nodes are numbered from 0 on each level.

    keys: a row for each level: device's position -> node. up: for each level: node -> node of the level above (all 0
    for regions). names: for each level: node -> ids from the region down, as in (1, 2, "10.0.0.1", 7).
    """

    devices: Sequence[Device]
    keys: Ints
    up: tuple[Ints, ...]
    names: tuple[tuple[tuple[object, ...], ...], ...]
    weights: Reals

    @classmethod
    def of(cls, devices: Sequence[Device]) -> Tree:
        """Device number i of ``devices`` is node i of the last level."""
        paths: list[tuple[int, int, str, int]] = [(d.region, d.zone, d.host, d.id) for d in devices]
        keys = np.zeros((len(LEVELS), len(devices)), dtype=np.int64)
        up: list[Ints] = []
        names: list[tuple[tuple[object, ...], ...]] = []
        above: dict[tuple[object, ...], int] = {(): 0}
        for level in range(len(LEVELS)):
            cut = [path[: level + 1] for path in paths]
            known: dict[tuple[object, ...], int] = {}
            for name in cut:
                known.setdefault(name, len(known))
            keys[level] = [known[name] for name in cut]
            up.append(np.array([above[name[:-1]] for name in known], dtype=np.int64))
            names.append(tuple(known))
            above = known
        weights = np.array([d.weight for d in devices], dtype=np.float64)
        return cls(devices, keys, tuple(up), tuple(names), weights)

    def sums(self, level: int, of_devices: Ints | Reals) -> Reals:
        """A number of each device, summed for each node of a level."""
        weights = np.asarray(of_devices, dtype=np.float64)
        found: Reals = np.bincount(self.keys[level], weights=weights, minlength=len(self.up[level])).astype(
            np.float64
        )
        return found


@dataclass(frozen=True, slots=True)
class Plan:
    """What is wanted.

    shares: of each node of each level. low, high: the fewest and most replicas of one partition that a node should
    hold. quota: partitions that each device should hold. required: the overload at which the replicas are as unlike as
    possible.
    """

    tree: Tree
    shares: tuple[Reals, ...]
    low: tuple[Ints, ...]
    high: tuple[Ints, ...]
    quota: Ints
    required: float


def draw(tree: Tree, replicas: float, overload: float, parts: int, held: Ints) -> Plan:
    """The plan for ``replicas`` (a multiple of 1 / ``parts``); ``held``: partitions that devices hold now."""
    weighted = by_weight(tree, replicas)
    spread = as_unlike_as_possible(tree, replicas, weighted)
    has = weighted > 0
    required = max(0.0, float(np.max(spread[has] / weighted[has], initial=1.0)) - 1.0)
    if required < _FUZZ:
        target, required = spread, 0.0
    else:
        target = weighted + (spread - weighted) * (min(overload, required) / required)
    shares = tuple(tree.sums(level, target) for level in range(len(LEVELS)))
    return Plan(
        tree,
        shares,
        low=tuple(np.floor(share + _FUZZ).astype(np.int64) for share in shares),
        high=tuple(np.ceil(share - _FUZZ).astype(np.int64) for share in shares),
        quota=_quotas(tree, shares, parts, round(replicas * parts), held),
        required=required,
    )


def by_weight(tree: Tree, replicas: float) -> Reals:
    """Each device's share by weight alone, at most 1: what one cannot take goes to the others."""
    count = len(tree.devices)
    return fit(
        tree.weights,
        np.zeros(count, dtype=np.int64),
        np.array([replicas]),
        np.zeros(count),
        (tree.weights > 0).astype(np.float64),
    )


def as_unlike_as_possible(tree: Tree, replicas: float, weighted: Reals) -> Reals:
    """Each device's share when every node's replicas are spread evenly over its children.

    Where children cannot take an even part since they have too few devices, the others get more.
    """
    usable = (tree.weights > 0).astype(np.float64)
    above = np.array([replicas])
    for level in range(len(LEVELS)):
        up = tree.up[level]
        room = tree.sums(level, usable)
        siblings = np.bincount(up, weights=room > 0, minlength=len(above))
        even = above / np.maximum(siblings, 1)
        low = np.minimum(np.floor(even + _FUZZ)[up], room)
        high = np.minimum(np.ceil(even - _FUZZ)[up], room)
        narrow = np.bincount(up, weights=high, minlength=len(above)) < above - _FUZZ
        high = np.where(narrow[up], room, high)
        above = fit(tree.sums(level, weighted), up, above, low, high)
    return above


def fit(weights: Reals, groups: Ints, totals: Reals, low: Reals, high: Reals) -> Reals:
    """Shares in proportion to the weights, each within its bounds, that sum up to each group's total.

    Solved for all groups at once: the common factor of a group is found by bisection, as the sum rises with it.
    """
    count = len(totals)
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = np.where(weights > 0, np.maximum(high, low) / weights, 0.0)
    bottom, top = np.zeros(count), np.zeros(count)
    np.maximum.at(top, groups, needed)
    for _ in range(64):
        middle = (bottom + top) / 2
        shares = np.clip(weights * middle[groups], low, high)
        enough = np.bincount(groups, weights=shares, minlength=count) >= totals
        top, bottom = np.where(enough, middle, top), np.where(enough, bottom, middle)
    shares = np.clip(weights * top[groups], low, high)
    free = (shares > low) & (shares < high)
    loose = np.bincount(groups, weights=np.where(free, shares, 0), minlength=count)
    error = totals - np.bincount(groups, weights=shares, minlength=count)
    scale = 1 + np.divide(error, loose, out=np.zeros(count), where=loose > 0)
    result: Reals = np.where(free, shares * scale[groups], shares)
    return result


def _quotas(tree: Tree, shares: Sequence[Reals], parts: int, total: int, held: Ints) -> Ints:
    """Whole partitions for every device, such that every node above gets its share rounded up or down.

    Leftovers go where the relative error gets smallest, and by a little rather to those that hold more.
    """
    above: Ints = np.array([total], dtype=np.int64)
    for level, share in enumerate(shares):
        up = tree.up[level]
        exact = share * parts
        whole = np.floor(exact + 1e-6).astype(np.int64)
        rest = np.clip(exact - whole, 0.0, 1.0)
        kept = tree.sums(level, held) > exact
        gain = np.where(rest > 1e-6, (2 * rest - 1 + 0.25 * kept) / np.maximum(exact, 1), -np.inf)
        left = above - np.bincount(up, weights=whole, minlength=len(above)).astype(np.int64)
        order = np.lexsort((-gain, up))  # within each parent the most deserving first
        starts = np.searchsorted(up[order], np.arange(len(above)))
        rank = np.empty(len(up), dtype=np.int64)
        rank[order] = np.arange(len(up)) - starts[up[order]]
        above = whole + (rank < left[up])
    return above
