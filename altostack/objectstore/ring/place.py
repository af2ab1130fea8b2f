"""Puts replicas on devices so that a plan is met: exactly as to how many, as far as possible as to where.

An empty ring is laid out by systematic sampling (Madow, 1949): all devices in the order of the tree, each as long as
its quota; replica k of partition p is what lies at p + k * parts. Every node of the tree is an interval, so every
partition has its share in it, rounded up or down. That is done anew, in another order of the tree, for each few
partitions, so that a device shares partitions with many others.

A ring in use is changed by moves from devices that hold too much to those that hold too little, drawn at random and
taken when the partition is then spread no worse. What remains is taken off and put anywhere. Then replicas that moved
and lie badly change places with others that moved, which costs nothing; at last with some that did not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from altostack.objectstore.ring.plan import LEVELS, Ints, Plan

Table = npt.NDArray[np.int32]  # [replica, partition] -> position of the device; -1: none
Bits = npt.NDArray[np.bool_]

_WEIGHTS: Final = (
    64,
    16,
    4,
    4096,
)  # how bad it is to share a region, zone, host; a device is out of the question
_BATCH: Final = 1 << 17  # proposals looked at together, of three replicas: they fit into the caches
_SPREAD: Final = 4096  # orders of the tree an empty ring is laid out in, at most
_FURTHER: Final = 200  # beside so many moves for the sake of weights one may be made for the sake of distance
_MUCH: Final = 100  # one in so many replicas moves: much
_PATIENCE: Final = 6  # rounds with next to no success before giving up
_WORTH: Final = 100  # success: more than one in so many of what there is to do


class Placer:
    """One table being changed.

    table: changed in place. ends: how many partitions have replica k. free: partitions of which a replica may be moved,
    where it need not be. moved: replicas that do not lie where they did.
    """

    def __init__(self, plan: Plan, table: Table, ends: Ints, free: Bits, rng: np.random.Generator) -> None:
        self.plan = plan
        self.table = table
        self.free = free
        self.rng = rng
        self.before = table.copy()
        self.batch = max(1 << 12, _BATCH * 3 // len(table))
        self.rules = _Rules.of(plan, len(table))
        self._present = np.arange(table.shape[1])[None, :] < ends[:, None]
        self._held = np.bincount(table[table >= 0], minlength=len(plan.quota))

    def run(self) -> None:
        """Place everything that has no place, and move what should be moved and may."""
        if not len(self.plan.quota):
            return
        if not (self.table >= 0).any():
            self._lay_out()
        else:
            self._place_loose()
            self._level()
            self._drop_rest()
        if self._badness().any():
            self._settle()
            self._spread()
            self._no_twins()

    def excess(self) -> int:
        """Replicas that devices hold beyond their quotas."""
        return int(np.maximum(-self._need(), 0).sum())

    # ---- an empty ring

    def _lay_out(self) -> None:
        tree, rng = self.plan.tree, self.rng
        rows, parts = self.table.shape
        blocks = min(_SPREAD, max(1, parts // 8))
        size = parts // blocks
        filled = self._present.reshape(rows, blocks, size).sum(axis=(0, 2))
        quota = self.plan.quota.copy()
        left = int(filled.sum())
        widths = [len(up) for up in tree.up]
        for block in range(blocks):
            order = np.zeros(len(quota), dtype=np.int64)
            for level, width in enumerate(widths):
                order = order * width + rng.permutation(width)[tree.keys[level]]
            order = np.argsort(order)
            slots = int(filled[block])
            edges = np.concatenate(([0], np.cumsum(quota[order]))) * slots
            counts = np.diff((edges + rng.integers(left)) // left)
            devices = np.repeat(order, counts).astype(np.int32)
            quota[order] -= counts
            left -= slots
            here = slice(block * size, (block + 1) * size)
            target = np.full(rows * size, -1, dtype=np.int32)
            target[self._present[:, here].ravel()] = devices
            self.table[:, here] = target.reshape(rows, size)
        self._held = np.bincount(self.table[self._present], minlength=len(quota))

    # ---- moves

    def _need(self) -> Ints:
        return self.plan.quota - self._held

    def _place_loose(self) -> None:
        """Replicas without a device go to those that want more, where they lie well."""
        rows, cols = np.nonzero((self.table < 0) & self._present)
        self._propose(rows, cols, loose=True)

    def _level(self) -> None:
        """From devices that hold too much to those that hold too little; first what lies badly."""
        for _ in range(_PATIENCE):
            bad = (self._badness() > 0) & self._may_move()
            full = np.append(self._need() < 0, False)
            rows, cols = np.nonzero(bad & full[self.table])
            self._propose(rows, cols, loose=False, better=True)
            if not self._take_turns(bad):
                break
        full = np.append(self._need() < 0, False)
        rows, cols = np.nonzero(full[self.table] & self._may_move())
        self._propose(rows, cols, loose=False)

    def _take_turns(self, bad: Bits) -> bool:
        """Where a device has given enough, but not the partition that lies badly: another that it gave goes back.

        That one lies badly then, but may have a replica on a device that has something left to give.
        """
        if not (self._need() < 0).any():
            return False
        rows, cols = np.nonzero(bad & self._may_move())
        moved = np.nonzero((self.table != self.before) & (self.before >= 0))
        if not len(cols) or not len(moved[0]):
            return False
        pick = self.rng.permutation(len(cols))
        rows, cols = rows[pick], cols[pick]
        here = self.table[rows, cols]
        other_rows, other_cols = self._of_same_origin(*moved).draw(here)
        there = self.table[other_rows, other_cols]
        around, yonder = self._others(rows, cols), self._others(other_rows, other_cols)
        cost = self.rules.cost
        ok = np.flatnonzero(
            (self.before[other_rows, other_cols] == here)
            & (cost(there, around) <= np.minimum(cost(here, around) - 1, 0))
            & (cost(here, yonder) <= cost(here, around))
        )
        ok = ok[_apart(cols[ok], other_cols[ok], self.table.shape[1])]
        self.table[rows[ok], cols[ok]], self.table[other_rows[ok], other_cols[ok]] = there[ok], here[ok]
        return bool(len(ok))

    def _may_move(self) -> Bits:
        """Partitions that may be touched and have not been."""
        touched = (self.table != self.before).any(axis=0) | ((self.table < 0) & self._present).any(axis=0)
        return np.asarray(self.free & ~touched)

    def _propose(self, rows: Ints, cols: Ints, *, loose: bool, better: bool = False) -> None:
        """Draw slots of the list and devices that want more; move where nothing gets worse, or all gets better."""
        rng, table = self.rng, self.table
        idle = 0
        while len(cols) and idle < _PATIENCE:
            need = self._need()
            wanting = np.repeat(np.arange(len(need)), np.maximum(need, 0))
            if not len(wanting):
                return
            count = min(self.batch, max(4 * min(len(wanting), len(cols)), 1 << 12))
            pick = rng.integers(len(cols), size=count) if count < len(cols) or not loose else None
            if pick is None:  # few are left: each gets its turn
                pick = np.resize(rng.permutation(len(cols)), count)
            row, col = rows[pick], cols[pick]
            to = wanting[rng.integers(len(wanting), size=count)]
            now = table[row, col]
            others = self._others(row, col)
            cost = self.rules.cost(to, others)
            good = cost <= 0
            if not loose:
                good &= cost <= self.rules.cost(now, others) - better
            taken = np.flatnonzero(good)
            taken = taken[_first_of_each(col[taken], table.shape[1])]
            taken = taken[_rank(to[taken]) < need[to[taken]]]
            if not loose:
                taken = taken[_rank(now[taken]) < -need[now[taken]]]
            self._move(row[taken], col[taken], to[taken])
            idle = 0 if _WORTH * len(taken) > len(cols) else idle + 1
            if loose:
                left = table[rows, cols] < 0
            else:
                left = np.append(self._need() < 0, False)[table[rows, cols]]
                done = np.zeros(table.shape[1], dtype=bool)
                done[col[taken]] = True
                left &= ~done[cols]
            rows, cols = rows[left], cols[left]

    def _move(self, row: Ints, col: Ints, to: Ints) -> None:
        now = self.table[row, col]
        count = len(self._held)
        self._held = (
            self._held - np.bincount(now[now >= 0], minlength=count) + np.bincount(to, minlength=count)
        )
        self.table[row, col] = to

    def _drop_rest(self) -> None:
        """Take off what still is too much, the worst placed first, and put all that has no place anywhere."""
        rng, table = self.rng, self.table
        excess = np.maximum(-self._need(), 0)
        if excess.any():
            full = np.append(excess > 0, False)
            badness = self._badness()
            rows, cols = np.nonzero(full[table] & self._may_move())
            order = np.lexsort((rng.random(len(rows)), -badness[rows, cols]))
            rows, cols = rows[order], cols[order]
            while len(rows):
                keep = _first_of_each(cols, table.shape[1])
                one, at = rows[keep], cols[keep]
                devices = table[one, at]
                fits = _rank(devices) < excess[devices]
                one, at, devices = one[fits], at[fits], devices[fits]
                if not len(at):
                    break
                table[one, at] = -1
                gone = np.bincount(devices, minlength=len(excess))
                excess, self._held = excess - gone, self._held - gone
                used = np.zeros(table.shape[1], dtype=bool)
                used[at] = True
                left = ~used[cols] & np.append(excess > 0, False)[table[rows, cols]]
                rows, cols = rows[left], cols[left]
        rows, cols = np.nonzero((table < 0) & self._present)
        if not len(cols):
            return
        need = np.maximum(self._need(), 0)
        edges = np.concatenate(([0], np.cumsum(need))) * len(cols)
        total = int(need.sum())  # more than there is to place, when others may not give theirs away
        counts = np.diff((edges + rng.integers(total)) // total)
        self._move(rows, cols, rng.permutation(np.repeat(np.arange(len(need)), counts)))

    # ---- exchanges

    def _settle(self) -> None:
        """Replicas that moved and lie badly change places with others that moved: that costs nothing."""
        rows, cols = np.nonzero(self.table != self.before)
        nobody = np.zeros(self.table.shape[1], dtype=bool)
        self._exchange(rows, cols, self._any_of(rows, cols), nobody)

    def _spread(self) -> None:
        """Replicas that did not move and lie badly change places, as cheaply as can be; then those that moved.

        Where much moves for the sake of weights, the former wait for the next rebalance, but for a few.
        """
        may = self._may_move()
        rows, cols = np.nonzero((self._badness() > 0) & may[None, :])
        moved = np.nonzero(self.table != self.before)
        left = len(moved[0]) // _FURTHER
        if len(cols):
            limit = left if len(moved[0]) * _MUCH > self._present.sum() else len(cols)
            self._exchange(rows, cols, self._of_same_origin(*moved), may)
            done = self._exchange(rows, cols, self._any_of(*moved), may, allowed=limit)
            others = self._any_of(*np.nonzero(may[None, :] & self._present))
            done += 2 * self._exchange(rows, cols, others, may, allowed=(limit - done) // 2)
            left = max(0, left - done)
        rows, cols = np.nonzero(self.table != self.before)
        others = self._any_of(*np.nonzero(may[None, :] & self._present))
        self._exchange(rows, cols, others, may, beyond=_WEIGHTS[-1] - 1)
        self._exchange(rows, cols, others, may, allowed=left)

    def _any_of(self, rows: Ints, cols: Ints) -> _Partners:
        """Partners drawn from a list."""

        def draw(here: Ints) -> tuple[Ints, Ints]:
            pick = self.rng.integers(len(cols), size=len(here))
            return rows[pick], cols[pick]

        return _Partners(len(cols), draw)

    def _of_same_origin(self, rows: Ints, cols: Ints) -> _Partners:
        """Partners that were moved away from where one lies: they go back, and one moves in their stead."""
        origin = self.before[rows, cols]
        order = np.argsort(origin, kind="stable")
        rows, cols, origin = rows[order], cols[order], origin[order]

        def draw(here: Ints) -> tuple[Ints, Ints]:
            start, stop = np.searchsorted(origin, here), np.searchsorted(origin, here, side="right")
            pick = np.minimum(start + self.rng.integers(np.maximum(stop - start, 1)), len(cols) - 1)
            return rows[pick], cols[pick]  # those of another origin, if there is none, are good too

        return _Partners(len(cols), draw)

    def _exchange(
        self,
        rows: Ints,
        cols: Ints,
        partners: _Partners,
        may: Bits,
        *,
        beyond: int = 0,
        allowed: int | None = None,
    ) -> int:
        """What lies badly of a list changes places with partners, as long as that makes things better.

        may: partitions of which something may be moved that has not been yet; kept up to date. beyond: how badly
        something has to lie. allowed: so many times. How often it was done.
        """
        rng, table = self.rng, self.table
        idle = done = 0
        bad = np.flatnonzero(self._bad_at(rows, cols, beyond))
        while len(bad) and partners.count and idle < _PATIENCE and done != allowed:
            first = np.resize(rng.permutation(bad), min(self.batch, 2 * len(bad) * partners.count))
            row, col = rows[first], cols[first]
            here = table[row, col]
            other_row, other_col = partners.draw(here)
            there = table[other_row, other_col]
            around, yonder = self._others(row, col), self._others(other_row, other_col)
            cost = self.rules.cost
            gain = cost(here, around) + cost(there, yonder) - cost(there, around) - cost(here, yonder)
            ok = np.flatnonzero(
                (gain > 0)
                & (col != other_col)
                & (may[col] | (here != self.before[row, col]))
                & (may[other_col] | (there != self.before[other_row, other_col]))
            )
            ok = ok[np.argsort(-gain[ok], kind="stable")]
            ok = ok[_apart(col[ok], other_col[ok], table.shape[1])]
            if allowed is not None:
                ok = ok[: allowed - done]
            table[row[ok], col[ok]], table[other_row[ok], other_col[ok]] = there[ok], here[ok]
            may[col[ok]] = may[other_col[ok]] = False
            done += len(ok)
            idle = 0 if _WORTH * len(ok) > len(bad) else idle + 1
            again = bad[self._bad_at(rows[bad], cols[bad], beyond)]
            bad = again if len(again) else np.flatnonzero(self._bad_at(rows, cols, beyond))
        return done

    def _no_twins(self) -> None:
        """No partition may lie twice on a device, whatever the quotas say: what moved there goes on."""
        weights = self.plan.tree.weights
        usable = np.flatnonzero(weights > 0)
        for last in range(1, len(self.table)):
            for first in range(last):
                same = (self.table[first] == self.table[last]) & (self.table[last] >= 0)
                for col in np.flatnonzero(same):
                    row = last if self.table[last, col] != self.before[last, col] else first
                    there = usable[~np.isin(usable, self.table[:, col])]
                    others = self._others(np.array([row]), np.array([col]))
                    cost = self.rules.cost(there, np.repeat(others, len(there), axis=1))
                    best = there[np.lexsort((self._held[there] / weights[there], cost))[:1]]
                    self._move(np.array([row]), np.array([col]), best)

    # ---- how well replicas lie

    def _others(self, row: Ints, col: Ints) -> Table:
        """The devices of the partition's other replicas, [replica, n]; -1 in place of its own."""
        column = self.table[:, col]
        column[row, np.arange(len(col))] = -1
        return column

    def _bad_at(self, rows: Ints, cols: Ints, beyond: int) -> Bits:
        """Which of some replicas lie more badly than that."""
        found = np.zeros(len(cols), dtype=bool)
        for start in range(0, len(cols), _BATCH):
            here = slice(start, start + _BATCH)
            bad = self.rules.badness(self.table[:, cols[here]])
            found[here] = bad[rows[here], np.arange(bad.shape[1])] > beyond
        return found

    def _badness(self) -> Ints:
        """How badly each replica of the table lies."""
        batches = range(0, self.table.shape[1], _BATCH)
        return np.hstack([self.rules.badness(self.table[:, start : start + _BATCH]) for start in batches])


@dataclass(frozen=True, slots=True)
class _Partners:
    """With what replicas may change places. draw: devices of some -> rows and partitions of as many of ``count``."""

    count: int
    draw: Callable[[Ints], tuple[Ints, Ints]]


@dataclass(frozen=True, slots=True)
class _Level:
    """One level of the tree as it looks from devices: position -> node, fewest, most; the last place is for none."""

    key: npt.NDArray[np.int32]
    low: npt.NDArray[np.int32]
    high: npt.NDArray[np.int32]
    needed: int  # sum of the fewest of all nodes
    weight: int


@dataclass(frozen=True, slots=True)
class _Rules:
    """What it costs to have a replica of a partition on a device."""

    levels: tuple[_Level, ...]

    @classmethod
    def of(cls, plan: Plan, rows: int) -> _Rules:
        """Levels that say nothing, or the same as the one below, are left out."""
        found = []
        sizes = [len(up) for up in plan.tree.up]
        for level in range(len(LEVELS)):
            last = level == len(LEVELS) - 1
            if not last and (sizes[level] == 1 or sizes[level] == sizes[level + 1]):
                continue
            key = np.append(plan.tree.keys[level], -1).astype(np.int32)
            low = np.append(plan.low[level], 0).astype(np.int32)[key]
            high = np.append(plan.high[level], rows).astype(np.int32)[key]
            found.append(_Level(key, low, high, int(plan.low[level].sum()), _WEIGHTS[level]))
        return cls(tuple(found))

    def cost(self, device: Ints, others: Table) -> Ints:
        """Of adding the device to the others: positive where there are too many, negative where one is needed."""
        total = np.zeros(len(device), dtype=np.int32)
        for level in self.levels:
            count = _count(level.key[device], level.key[others])
            total += np.int32(level.weight) * (count >= level.high[device])
            if level.needed:
                total -= np.int32(level.weight) * (count < level.low[device])
        return total

    def badness(self, devices: Table) -> Ints:
        """How badly each replica lies, 0 for well; ``devices``: [replica, n].

        It is bad to be one too many in a node, and, a little, to be in a partition that lacks one somewhere.
        """
        found = np.zeros(devices.shape, dtype=np.int32)
        lacking = np.zeros(devices.shape[1], dtype=bool)
        for level in self.levels:
            keys, have = level.key[devices], np.zeros(devices.shape[1], dtype=np.int16)
            for row, own in enumerate(keys):
                before = _count(own, keys[:row])
                found[row] += np.int32(level.weight) * (
                    before + _count(own, keys[row + 1 :]) >= level.high[devices[row]]
                )
                if level.needed:
                    have += before < level.low[devices[row]]
            lacking |= have < level.needed
        found += lacking
        found[devices < 0] = 0
        return found


def _count(own: Ints, others: Ints) -> Ints:
    """How many of ``others``, [k, n], are equal to ``own``, [n]."""
    count = np.zeros(len(own), dtype=np.int16)
    for other in others:
        count += other == own
    return count


def _first_of_each(numbers: Ints, size: int) -> Bits:
    """Marks one occurrence of each number: the first."""
    place = np.full(size, -1, dtype=np.int64)
    places = np.arange(len(numbers))
    place[numbers[::-1]] = places[::-1]
    return np.asarray(place[numbers] == places)


def _apart(one: Ints, other: Ints, size: int) -> Bits:
    """Marks pairs of which no number is in an earlier pair."""
    both = np.stack((one, other), axis=1).ravel()
    return np.asarray(_first_of_each(both, size).reshape(-1, 2).all(axis=1))


def _rank(numbers: Ints) -> Ints:
    """How many equal numbers come before each."""
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    starts = np.searchsorted(ordered, ordered)
    rank = np.empty(len(numbers), dtype=np.int64)
    rank[order] = np.arange(len(numbers)) - starts
    return rank
