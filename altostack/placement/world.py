"""All providers in memory, for as long as nothing changes.

Every request that changes something adds a row to the table of changes, in its own transaction. Their number and the
greatest id tell whether what a process remembers is still so: rows are removed only together with a new greatest one,
and one that is committed late changes the number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from altostack.kit.call import Call
from altostack.placement.model import Change, Inventory, Provider, ProviderAggregate, ProviderTrait
from altostack.placement.trait import SHARES, standing

KEPT = 256  # rows of changes, about


class Stock(NamedTuple):
    """What a provider has of one class. low, high: the least and most that may be given in one piece now."""

    low: int
    high: int
    step: int
    used: int
    capacity: int

    def fits(self, amount: int) -> bool:
        """Whether ``amount`` is free and may be given in one piece."""
        return self.low <= amount <= self.high and not amount % self.step


class World:
    """Every provider with its traits, aggregates and inventories, as they were at one moment."""

    def __init__(self, session: Session) -> None:
        self.parent: dict[str, str | None] = {}
        self.root: dict[str, str] = {}
        found = sa.select(Provider.uuid, Provider.parent, Provider.root)
        for key, parent, root in session.execute(found.order_by(Provider.created_at, Provider.uuid)):
            self.parent[key], self.root[key] = parent, root
        self.traits: dict[str, set[str]] = defaultdict(set)
        for key, trait in session.execute(sa.select(ProviderTrait.provider, ProviderTrait.trait)):
            self.traits[key].add(trait)
        self.aggregates: dict[str, set[str]] = defaultdict(set)
        members: dict[str, set[str]] = defaultdict(set)
        joined = sa.select(ProviderAggregate.provider, ProviderAggregate.aggregate)
        for key, aggregate in session.execute(joined):
            self.aggregates[key].add(aggregate)
            members[aggregate].add(key)
        row = Inventory
        columns = (row.total, row.reserved, row.allocation_ratio, row.min_unit, row.max_unit, row.step_size)
        stock = sa.select(row.resource_class, row.provider, row.used, *columns)
        self.stock: dict[str, dict[str, Stock]] = defaultdict(dict)
        self.classes: dict[str, list[str]] = defaultdict(list)
        for name, key, used, total, reserved, ratio, low, most, step in session.execute(stock):
            capacity = int((total - reserved) * ratio)
            self.stock[name][key] = Stock(low, min(most, capacity - used), step, used, capacity)
            self.classes[key].append(name)
        self.sharing = {key for key, traits in self.traits.items() if SHARES in traits}
        # Sharing provider -> roots of the trees that somebody in one of its aggregates stands in.
        self.anchors = {
            key: {self.root[one] for aggregate in self.aggregates[key] for one in members[aggregate]}
            for key in self.sharing
        }
        self.nested = any(parent is not None for parent in self.parent.values())
        self.trees: dict[str, list[str]] = defaultdict(list)
        for key, root in self.root.items():
            self.trees[root].append(key)
        self._shown: dict[object, dict[str, bytes]] = {}

    @property
    def flat(self) -> bool:
        """Whether each candidate for one group is one provider."""
        return not self.nested and not self.sharing

    def fits(self, key: str, name: str, amount: int) -> bool:
        """Whether the provider has ``amount`` free and may give it in one piece."""
        row = self.stock[name].get(key) if name in self.stock else None
        return row is not None and row.fits(amount)

    def line(self, key: str) -> set[str]:
        """The provider and all above it."""
        found = {key}
        above = self.parent[key]
        while above is not None:
            found.add(above)
            above = self.parent[above]
        return found

    def summaries(
        self, keys: Iterable[str], *, traits: bool, trees: bool, classes: Collection[str] | None
    ) -> bytes:
        """The JSON object provider -> what it has. ``classes``: only these; ``trees``: with parent and root.

        What is said of one provider is encoded once, and kept.
        """
        shape = (traits, trees, None if classes is None else frozenset(classes))
        if shape not in self._shown and len(self._shown) > 8:
            self._shown.clear()
        kept = self._shown.setdefault(shape, {})
        parts = []
        for key in keys:
            part = kept.get(key)
            if part is None:
                part = kept[key] = b'"%b":%b' % (
                    key.encode(),
                    msgspec.json.encode(self._summary(key, traits, trees, classes)),
                )
            parts.append(part)
        return b"{%b}" % b",".join(parts)

    def _summary(
        self, key: str, traits: bool, trees: bool, classes: Collection[str] | None
    ) -> Mapping[str, Any]:
        shown: dict[str, Any] = {
            "resources": {
                name: {"capacity": self.stock[name][key].capacity, "used": self.stock[name][key].used}
                for name in self.classes.get(key, ())
                if classes is None or name in classes
            }
        }
        if traits:
            shown["traits"] = sorted(self.traits.get(key, ()), key=standing)
        if trees:
            shown |= {"parent_provider_uuid": self.parent[key], "root_provider_uuid": self.root[key]}
        return shown


def changed(session: Session) -> None:
    """Tell every process, once this transaction is committed, that what it remembers is out of date."""
    row = Change()
    session.add(row)
    session.flush()
    if row.id % KEPT == 0:
        session.execute(sa.delete(Change).where(Change.id < row.id))


def now(call: Call) -> tuple[int, int]:
    """What tells one state of the database from another."""
    count, last = call.session.execute(sa.select(sa.func.count(), sa.func.max(Change.id))).one()
    return int(count), int(last or 0)


def world(call: Call, *, at: tuple[int, int]) -> World:
    """All providers at ``at`` (from `now`, asked in the same transaction) or later."""
    held = call.runtime.memo.get("world")
    if held is None or held[0] != at:
        held = call.runtime.memo["world"] = (at, World(call.session))
    found: World = held[1]
    return found


def remembered(call: Call, *, at: tuple[int, int]) -> bool:
    """Whether `world` would read nothing."""
    held = call.runtime.memo.get("world")
    return held is not None and held[0] == at
