"""Allocation candidates against a model that tries every combination, on random trees."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from altostack.placement import SERVICE
from altostack.placement.config import PlacementSettings
from altostack.placement.trait import SHARES
from tests.lone import Lone
from tests.placement.world import call, provider

CLASSES = ("VCPU", "MEMORY_MB", "DISK_GB")
TRAITS = ("CUSTOM_A", "CUSTOM_B")
AGGREGATES = (str(uuid.UUID(int=1)), str(uuid.UUID(int=2)))


@st.composite
def clouds(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Providers: parent (an earlier one's number or None), stock, traits, aggregates. Only a root shares."""
    found: list[dict[str, Any]] = []
    for number in range(draw(st.integers(2, 6))):
        place = draw(st.integers(0, number))
        parent = place if place < number else None
        traits = draw(st.sets(st.sampled_from(TRAITS)))
        if parent is None and draw(st.integers(0, 2)) == 0:
            traits = traits | {SHARES}
        stock = {}
        for name in draw(st.sets(st.sampled_from(CLASSES), min_size=1)):
            total = draw(st.integers(2, 4))
            stock[name] = {
                "total": total,
                "max_unit": draw(st.integers(1, total)) if draw(st.booleans()) else total,
                "step_size": draw(st.sampled_from((1, 1, 2))),
                "used": draw(st.sampled_from((0, 0, 1))),
            }
        found.append(
            {
                "parent": parent,
                "traits": traits,
                "stock": stock,
                "aggregates": draw(st.sets(st.sampled_from(AGGREGATES))),
            }
        )
    return found


@st.composite
def queries(draw: st.DrawFn) -> dict[str, Any]:
    """Groups by suffix, and what they are to each other."""
    groups = {}
    for suffix in draw(st.sampled_from((("",), ("", "_a"), ("_a", "_b"), ("_a", "_b"), ("", "_a", "_b")))):
        groups[suffix] = {
            "resources": {
                name: draw(st.integers(1, 2))
                for name in sorted(
                    draw(st.sets(st.sampled_from(CLASSES[: 2 if suffix else 3]), min_size=1, max_size=2))
                )
            },
            "required": draw(st.sampled_from(((), (), (), ({"CUSTOM_A"},), ({"CUSTOM_A", "CUSTOM_B"},)))),
            "forbidden": draw(
                st.sampled_from((frozenset(), frozenset(), frozenset(), frozenset({"CUSTOM_B"})))
            ),
            "member_of": draw(st.sampled_from((None, None, None, AGGREGATES[0]))),
        }
        if groups[suffix]["required"] and groups[suffix]["required"][0] <= groups[suffix]["forbidden"]:
            groups[suffix]["forbidden"] = frozenset()
    named = [suffix for suffix in groups if suffix]
    return {
        "groups": groups,
        "isolate": draw(st.booleans()),
        "same_subtree": named if len(named) > 1 and draw(st.booleans()) else None,
        "root": draw(st.sampled_from((None, None, None, "CUSTOM_A"))),
    }


class Model:
    """What the API reference says, by trying everything. Slow and plain."""

    def __init__(self, cloud: list[dict[str, Any]], query: dict[str, Any]) -> None:
        self.cloud, self.query = cloud, query
        self.every = range(len(cloud))

    def root(self, one: int) -> int:
        above = self.cloud[one]["parent"]
        return one if above is None else self.root(above)

    def line(self, one: int) -> set[int]:
        above = self.cloud[one]["parent"]
        return {one} if above is None else {one, *self.line(above)}

    def near(self, root: int) -> set[int]:
        """The tree, and who shares with somebody in it."""
        tree = {one for one in self.every if self.root(one) == root}
        reach = set().union(*(self.cloud[one]["aggregates"] for one in tree))
        return tree | {
            one for one in self.every
            if SHARES in self.cloud[one]["traits"] and self.cloud[one]["aggregates"] & reach
        }  # fmt: skip

    def gives(self, one: int, name: str, amount: int) -> bool:
        stock = self.cloud[one]["stock"].get(name)
        return (
            stock is not None
            and stock["used"] + amount <= stock["total"]
            and amount <= stock["max_unit"]
            and amount % stock["step_size"] == 0
        )

    def ways(self, suffix: str, root: int) -> Iterator[dict[str, int]]:
        """Class -> provider, for one group below one root."""
        group = self.query["groups"][suffix]
        names = list(group["resources"])
        for chosen in itertools.product(sorted(self.near(root)), repeat=len(names)):
            way = dict(zip(names, chosen, strict=True))
            if suffix and len(set(chosen)) > 1:
                continue
            if not all(self.gives(one, name, group["resources"][name]) for name, one in way.items()):
                continue
            traits = set().union(*(self.cloud[one]["traits"] for one in chosen))
            if not all(some & traits for some in group["required"]) or group["forbidden"] & traits:
                continue
            wanted = group["member_of"]
            if wanted and not all(self.inside(one, wanted, suffix, root) for one in chosen):
                continue
            yield way

    def inside(self, one: int, wanted: str, suffix: str, root: int) -> bool:
        """An aggregate of the root spans its tree for the group without a suffix; other groups ask the provider."""
        if wanted in self.cloud[one]["aggregates"]:
            return True
        return not suffix and self.root(one) == root and wanted in self.cloud[root]["aggregates"]

    def answers(self) -> set[Any]:
        found = set()
        for root in self.every:
            if self.cloud[root]["parent"] is not None:
                continue
            if self.query["root"] and self.query["root"] not in self.cloud[root]["traits"]:
                continue
            suffixes = list(self.query["groups"])
            for chosen in itertools.product(*(list(self.ways(suffix, root)) for suffix in suffixes)):
                way = dict(zip(suffixes, chosen, strict=True))
                if self.together(way):
                    found.add(self.spell(way))
        return found

    def together(self, way: dict[str, dict[str, int]]) -> bool:
        named = [set(one.values()) for suffix, one in way.items() if suffix]
        if self.query["isolate"] and len(set().union(*named)) < len(named):
            return False
        if self.query["same_subtree"]:
            keys = set().union(*(way[suffix].values() for suffix in self.query["same_subtree"]))
            if not any(all(top in self.line(one) for one in keys) for top in keys):
                return False
        sums: dict[tuple[int, str], int] = {}
        for suffix, one in way.items():
            for name, key in one.items():
                sums[key, name] = sums.get((key, name), 0) + self.query["groups"][suffix]["resources"][name]
        # A sum needs to be there and to be allowed in one piece; only the parts keep to the step.
        return all(
            self.cloud[key]["stock"][name]["used"] + amount <= self.cloud[key]["stock"][name]["total"]
            and amount <= self.cloud[key]["stock"][name]["max_unit"]
            for (key, name), amount in sums.items()
        )

    def spell(self, way: dict[str, dict[str, int]]) -> Any:
        sums: dict[tuple[int, str], int] = {}
        for suffix, one in way.items():
            for name, key in one.items():
                sums[key, name] = sums.get((key, name), 0) + self.query["groups"][suffix]["resources"][name]
        return (
            frozenset(sums.items()),
            frozenset((suffix, frozenset(one.values())) for suffix, one in way.items()),
        )


def build(lone: Lone, cloud: list[dict[str, Any]]) -> dict[str, int]:
    """Make it through the API; uuid -> number."""
    keys: list[str] = []
    for one in cloud:
        stock = {
            name: {field: value for field, value in what.items() if field != "used"}
            for name, what in one["stock"].items()
        }
        parent = None if one["parent"] is None else keys[one["parent"]]
        key = provider(
            lone, parent=parent, traits=tuple(one["traits"]), aggregates=tuple(one["aggregates"]), **stock
        )
        keys.append(key)

        def use(session: Any, one: dict[str, Any] = one, key: str = key) -> None:
            from altostack.placement.model import Inventory

            for name, what in one["stock"].items():
                session.get_one(Inventory, (key, name)).used = what["used"]

        lone.db.write(use)
    return {key: number for number, key in enumerate(keys)}


def ask(lone: Lone, query: dict[str, Any], numbers: dict[str, int]) -> set[Any]:
    words = []
    for suffix, group in query["groups"].items():
        amounts = ",".join(f"{name}:{amount}" for name, amount in group["resources"].items())
        words.append(f"resources{suffix}={amounts}")
        for some in group["required"]:
            words.append(f"required{suffix}=in:{','.join(sorted(some))}")
        if group["forbidden"]:
            words.append(f"required{suffix}=" + ",".join(f"!{name}" for name in sorted(group["forbidden"])))
        if group["member_of"]:
            words.append(f"member_of{suffix}={group['member_of']}")
    words.append(f"group_policy={'isolate' if query['isolate'] else 'none'}")
    if query["same_subtree"]:
        words.append("same_subtree=" + ",".join(query["same_subtree"]))
    if query["root"]:
        words.append(f"root_required={query['root']}")
    answer = call(lone, "GET", "/allocation_candidates?" + "&".join(words))
    found = [
        (
            frozenset(
                ((numbers[key], name), amount)
                for key, share in one["allocations"].items()
                for name, amount in share["resources"].items()
            ),
            frozenset(
                (suffix, frozenset(numbers[key] for key in keys)) for suffix, keys in one["mappings"].items()
            ),
        )
        for one in answer["allocation_requests"]
    ]
    assert len(set(found)) == len(found), "one answer twice"
    for one in answer["allocation_requests"]:
        assert set(one["allocations"]) <= set(answer["provider_summaries"])
    return set(found)


@pytest.mark.timeout(300)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(cloud=clouds(), asked=st.lists(queries(), min_size=3, max_size=6))
def test_candidates_are_those_of_the_model(cloud: list[dict[str, Any]], asked: list[dict[str, Any]]) -> None:
    with TemporaryDirectory() as folder:
        lone = Lone(SERVICE, Path(folder), settings=PlacementSettings(randomize_candidates=False))
        try:
            SERVICE.bootstrap(lone.runtime)  # type: ignore[misc]  # it has one
            for trait in TRAITS:
                call(lone, "PUT", f"/traits/{trait}")
            numbers = build(lone, cloud)
            for query in asked:
                assert ask(lone, query, numbers) == Model(cloud, query).answers()
        finally:
            lone.close()
