"""What a builder promises: weights, distances, few moves, and its word to leave partitions alone for a while."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from altostack.objectstore.ring import survey
from altostack.objectstore.ring.builder import Builder, RingError
from tests.bench.rings import furnish
from tests.objectstore.ring.hand import HOUR, Time, add, builder, counts, even

DEVICES = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.integers(1, 3),
        st.integers(1, 4),
        st.sampled_from([10.0, 50.0, 100.0, 100.0, 400.0]),
    ),
    min_size=4,
    max_size=24,
)

BRIEF = settings(
    deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate)
)  # no hunt for smaller ones


def quotas_met(made: Builder) -> None:
    """Every device holds its share, rounded up or down."""
    plan, holding = made.plan(), made.holding()
    for one, share in zip(plan.tree.devices, plan.shares[-1], strict=True):
        assert abs(holding[one.id] - share * made.parts) < 1 + 1e-6, one


class TestBuild:
    @settings(BRIEF, max_examples=15)
    @given(DEVICES, st.sampled_from([1.0, 2.0, 3.0, 4.0]), st.integers(4, 8), st.integers(0, 9))
    def test_whole_replicas_are_where_the_plan_wants_them(
        self, devices: Any, replicas: float, power: int, seed: int
    ) -> None:
        made = builder(devices, replicas=replicas, power=power)
        made.rebalance(seed)
        assert survey.problems(made) == []
        quotas_met(made)
        plan = made.plan()
        paths: dict[int, list[Any]] = {
            level: sorted({(d.region, d.zone, d.host, d.id)[: level + 1] for d in made.devices})
            for level in range(4)
        }
        for level in range(4):
            found = counts(made, level)
            for node, name in enumerate(plan.tree.names[level]):
                here = found[paths[level].index(name)]
                assert plan.low[level][node] <= here.min() and here.max() <= plan.high[level][node]

    @settings(BRIEF, max_examples=15)
    @given(DEVICES, st.floats(1, 4), st.floats(0, 0.5))
    def test_fractions_of_replicas(self, devices: Any, replicas: float, overload: float) -> None:
        made = builder(devices, replicas=replicas, power=7)
        made.set_overload(overload)
        made.rebalance(1)
        assert survey.problems(made) == []
        quotas_met(made)
        assert made.ring().replicas == len(made.ends)
        nodes = [len(made.ring().nodes(part)) for part in range(made.parts)]
        assert sum(nodes) == made.ends.sum()

    def test_replicas_are_in_different_zones(self) -> None:
        made = builder(even(zones=4, hosts=2, disks=2))
        made.rebalance(1)
        assert counts(made, 1).max() == 1

    def test_replicas_are_in_different_regions_then_zones_then_hosts(self) -> None:
        made = builder([(region, zone, 10 * region + zone, 1.0) for region in (1, 2) for zone in (1, 2, 3)])
        made.rebalance(1)
        assert counts(made, 0).max() == 2 and counts(made, 0).min() == 1
        assert counts(made, 1).max() == 1

    def test_a_device_has_many_partners(self) -> None:
        made = builder(even(zones=3, hosts=4, disks=5), power=10)
        made.rebalance(1)
        partners = {
            other for column in made.table.T.tolist() if 0 in column for other in column if other != 0
        }
        assert len(partners) > 25  # of 40 in other zones

    def test_a_seed_gives_the_same_ring(self) -> None:
        one, other = builder(even(3, 2, 2)), builder(even(3, 2, 2))
        one.rebalance(7)
        other.rebalance(7)
        assert (one.table == other.table).all()
        other = builder(even(3, 2, 2))
        other.rebalance(8)
        assert (one.table != other.table).any()

    def test_too_few_devices(self) -> None:
        made = builder(even(1, 1, 2))
        with pytest.raises(RingError, match="3 replicas need at least 3 devices with a weight; there are 2"):
            made.rebalance()
        assert (made.table < 0).all() and not made.balanced


class TestOverload:
    """Three zones, of which one has half the weight of the others, and three replicas."""

    UNEVEN = (*even(2, 1, 2), (1, 9, 9, 100.0))

    def test_without_it_weights_count(self) -> None:
        made = builder(self.UNEVEN)
        made.rebalance(1)
        assert survey.balance(made) < 1
        assert counts(made, 1).max() == 2

    def test_with_enough_replicas_are_apart(self) -> None:
        made = builder(self.UNEVEN)
        required = made.plan().required
        assert required == pytest.approx(2 / 3)
        made.set_overload(required)
        made.rebalance(1)
        assert counts(made, 1).max() == 1
        assert survey.dispersion(made).percent == 0

    def test_in_between(self) -> None:
        made = builder(self.UNEVEN)
        made.set_overload(0.1)
        made.rebalance(1)
        assert survey.balances(made)[4] == pytest.approx(10, abs=1)
        without = builder(self.UNEVEN)
        without.rebalance(1)
        assert survey.dispersion(made).percent < survey.dispersion(without).percent

    def test_a_change_of_it_moves_replicas_apart(self) -> None:
        made = builder(self.UNEVEN)
        made.rebalance(1)
        made.set_overload(1.0)
        for seed in range(3):
            made.rebalance(seed)
        assert counts(made, 1).max() == 1


class TestChange:
    def test_nothing_to_do_moves_nothing(self) -> None:
        made = builder(even(3, 2, 3))
        made.rebalance(1)
        outcome = made.rebalance(2)
        assert (outcome.moved, outcome.placed, outcome.held_back) == (0, 0, 0)

    @settings(BRIEF, max_examples=15)
    @given(
        st.integers(3, 5),
        st.integers(1, 3),
        st.integers(2, 4),
        st.integers(1, 3),
        st.sampled_from([50.0, 100.0]),
    )
    def test_added_devices_take_no_more_than_they_need(
        self, zones: int, hosts: int, disks: int, more: int, weight: float
    ) -> None:
        made = builder(even(zones, hosts, disks), power=8)
        made.rebalance(1)
        for number in range(more):
            add(made, 1, number % zones, (number % zones) * hosts, weight)
        fewest = self._fewest(made)
        moved = made.rebalance(2).moved
        assert survey.problems(made) == []
        moved += made.rebalance(
            3
        ).moved  # when nearly every partition has to move, one in its turn may be left
        quotas_met(made)
        assert moved <= fewest * 1.01 + len(made.devices)

    @settings(BRIEF, max_examples=15)
    @given(st.integers(4, 6), st.integers(1, 3), st.integers(1, 4), st.data())
    def test_a_removed_device_alone_moves(self, zones: int, hosts: int, disks: int, data: Any) -> None:
        made = builder(even(zones, hosts, disks), power=8, hours=1)
        made.rebalance(1)
        gone = data.draw(st.integers(0, len(made.devices) - 1))
        held = made.holding()[gone]
        before = made.table.copy()
        made.remove(gone)
        outcome = made.rebalance(2)  # within the hour
        assert outcome.moved == held
        assert ((made.table != before) == (before == gone)).all()
        assert gone not in made.state.devices and gone not in made.table
        assert survey.problems(made) == []

    @settings(BRIEF, max_examples=15)
    @given(DEVICES, st.data())
    def test_any_changes_leave_a_sound_ring(self, devices: Any, data: Any) -> None:
        made = builder(devices, power=6)
        made.rebalance(1)
        for _ in range(3):
            kind = data.draw(st.sampled_from(["add", "remove", "weight", "replicas", "overload", "zone"]))
            one = data.draw(st.sampled_from([device.id for device in made.devices]))
            if kind == "add":
                add(made, *data.draw(DEVICES)[0])
            elif kind == "remove" and len(made.devices) > 4:
                made.remove(one)
            elif kind == "weight":
                made.set_weight(one, data.draw(st.sampled_from([1.0, 30.0, 900.0])))
            elif kind == "replicas":
                made.set_replicas(data.draw(st.sampled_from([1.0, 2.0, 2.5, 3.0, 3.3])))
            elif kind == "overload":
                made.set_overload(data.draw(st.sampled_from([0.0, 0.1, 1.0])))
            elif kind == "zone":
                made.set_info(one, zone=data.draw(st.integers(1, 3)))
            before = made.table.copy()
            gone = set(made.state.removed)
            made.rebalance(data.draw(st.integers(0, 9)))
            assert survey.problems(made) == []
            if before.shape == made.table.shape:  # of a partition one moves, but for what has to
                forced = np.isin(before, list(gone)) | ((before < 0) & (made.table >= 0))
                free = (made.table != before) & ~forced
                assert free.sum(axis=0).max() <= 1
                assert not (free.any(axis=0) & forced.any(axis=0)).any()
        for seed in range(12):  # then one replica after the other
            if not made.rebalance(seed).held_back:
                break
        quotas_met(made)

    def test_many_uneven_devices(self) -> None:
        """The list of the benchmark, smaller: a tenth is added, a tenth removed."""
        made = builder(power=15)
        for step in furnish(200, random.Random(1)):
            for one in step["add"]:
                made.add(**{name: value for name, value in one.items() if name != "id"})
            for one in step["remove"]:
                made.remove(one)
            held = made.holding()
            fewest = self._fewest(made) + sum(held[one] for one in made.state.removed)
            outcome = made.rebalance(1)
            assert outcome.moved <= fewest * 1.01
            assert survey.problems(made) == []
            quotas_met(made)
        zones = survey.dispersion(made).levels[1]
        assert zones.close <= zones.ideal + 0.01 * 3 * made.parts

    def test_weight_zero_drains(self) -> None:
        made = builder(even(4, 1, 2))
        made.rebalance(1)
        made.set_weight(0, 0)
        made.rebalance(2)
        assert made.holding()[0] == 0
        assert 0 not in [one.id for one in made.ring().devices]
        assert survey.problems(made) == []

    def test_more_and_fewer_replicas(self) -> None:
        made = builder(even(4, 1, 2), replicas=2)
        made.rebalance(1)
        before = made.table.copy()
        made.set_replicas(3)
        assert not made.balanced
        with pytest.raises(RingError, match="rebalanced"):
            made.ring()
        outcome = made.rebalance(1)
        assert outcome.placed == made.parts and outcome.moved == 0
        assert (made.table[:2] == before).all()
        assert counts(made, 1).max() == 1
        made.set_replicas(1.5)
        made.rebalance(1)
        assert made.ends.tolist() == [256, 128]
        assert (made.table[1, 128:] == -1).all()
        quotas_met(made)

    def _fewest(self, made: Builder) -> float:
        plan, holding = made.plan(), made.holding()
        return sum(
            max(0.0, holding[one.id] - float(share) * made.parts)
            for one, share in zip(plan.tree.devices, plan.shares[-1], strict=True)
        )


class TestTime:
    def test_a_partition_stays_for_min_part_hours(self) -> None:
        clock = Time()
        made = builder(even(3, 1, 3), hours=2, clock=clock)
        made.rebalance(1)
        for zone in range(3):
            add(made, 1, zone, zone, 100.0)
        assert made.rebalance(2).moved == 0
        assert made.seconds_left() == 2 * HOUR
        clock.now += HOUR
        outcome = made.rebalance(3)
        assert outcome.moved == 0 and outcome.held_back > 0
        clock.now += HOUR
        outcome = made.rebalance(4)
        assert outcome.moved == 192 and outcome.held_back == 0  # a quarter of 3 * 256
        assert (made.moved == clock.now).sum() == 192  # one of each partition at most
        quotas_met(made)

    def test_one_may_pretend(self) -> None:
        made = builder(even(3, 1, 2), hours=9)
        made.rebalance(1)
        add(made, 1, 0, 0, 100.0)
        made.pretend_min_part_hours_passed()
        assert made.seconds_left() == 0
        assert made.rebalance(2).moved > 0

    def test_held_partitions_stay(self) -> None:
        made = builder(even(3, 1, 2))
        made.rebalance(1)
        before = made.table.copy()
        add(made, 1, 0, 0, 100.0)
        held = np.zeros(made.parts, dtype=bool)
        held[: made.parts // 2] = True
        made.rebalance(2, held=held)
        changed = (made.table != before).any(axis=0)
        assert changed.any() and not (changed & held).any()


class TestDoubling:
    def test_partitions_are_split(self) -> None:
        made = builder(even(3, 1, 2), power=5)
        made.rebalance(1)
        old = made.ring()
        made.prepare_increase()
        assert (made.ring().part_power, made.ring().next_part_power) == (5, 6)
        with pytest.raises(RingError, match="doubled"):
            made.rebalance()
        made.increase()
        new = made.ring()
        assert (new.part_power, new.next_part_power, new.parts) == (6, 6, 64)
        for number in range(50):
            part, digest = old.locate("a", "c", str(number))
            assert new.locate("a", "c", str(number)) in [(2 * part, digest), (2 * part + 1, digest)]
            assert old.part_of(digest, 6) == new.part_of(digest)
        assert new.nodes(7) == new.nodes(6) == old.nodes(3)
        made.finish_increase()
        assert made.ring().next_part_power is None
        assert made.rebalance(1).moved == 0
        assert survey.problems(made) == []

    def test_it_can_be_cancelled(self) -> None:
        made = builder(even(3, 1, 2), power=5)
        made.rebalance(1)
        made.prepare_increase()
        made.cancel_increase()
        assert (made.ring().part_power, made.ring().next_part_power) == (5, 5)
        made.finish_increase()
        assert made.ring().next_part_power is None

    @pytest.mark.parametrize("step", ["increase", "cancel_increase", "finish_increase"])
    def test_steps_out_of_turn(self, step: str) -> None:
        made = builder(even(3, 1, 2))
        made.rebalance(1)
        with pytest.raises(RingError):
            getattr(made, step)()
        made.prepare_increase()
        with pytest.raises(RingError, match="under way"):
            made.prepare_increase()
        if step == "finish_increase":
            with pytest.raises(RingError):
                made.finish_increase()


GOOD: dict[str, Any] = {"region": 1, "zone": 1, "host": "h1", "port": 6200, "device": "sdb", "weight": 1.0}


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"weight": -1.0}, "weight"),
            ({"weight": float("nan")}, "weight"),
            ({"port": 0}, "port"),
            ({"replication_port": 70000}, "70000"),
            ({"device": "a/b"}, "a/b"),
            ({"device": ".."}, "name of a device"),
            ({"host": ""}, "host"),
            ({"host": "a b"}, "a b"),
            ({"zone": -1}, "zone"),
        ],
    )
    def test_devices(self, change: dict[str, Any], why: str) -> None:
        made = builder()
        with pytest.raises(RingError, match=why):
            made.add(**(GOOD | change))
        assert made.devices == []
        made.add(**GOOD)
        set = made.set_weight if "weight" in change else made.set_info
        with pytest.raises(RingError, match=why):
            set(0, **change)
        assert made.devices[0].weight == 1.0 and made.devices[0].host == "h1"

    def test_twice_the_same_place(self) -> None:
        made = builder()
        made.add(**GOOD)
        with pytest.raises(RingError, match="sdb on h1:6200 already"):
            made.add(**(GOOD | {"zone": 2}))
        made.remove(0)
        assert made.add(**GOOD) == 1  # another disk at the place of one that goes

    def test_ids_are_used_again_once_free(self) -> None:
        made = builder(even(4, 1, 1))
        made.rebalance(1)
        made.remove(1)
        assert add(made, 1, 1, 1, 1.0) == 4
        made.rebalance(1)
        assert add(made, 1, 1, 1, 1.0) == 1

    def test_unknown_and_leaving_devices(self) -> None:
        made = builder(even(4, 1, 1))
        for change in (
            made.remove,
            lambda id: made.set_weight(id, 1.0),
            lambda id: made.set_info(id, zone=2),
        ):
            with pytest.raises(RingError, match="no device 9"):
                change(9)
        made.remove(0)
        with pytest.raises(RingError, match="being removed"):
            made.set_weight(0, 3.0)
        with pytest.raises(RingError, match="has no colour"):
            made.set_info(1, colour="red")

    @pytest.mark.parametrize(
        "options",
        [
            {"part_power": 33},
            {"part_power": -1},
            {"replicas": 0.5},
            {"replicas": 1000.0},
            {"min_part_hours": -1.0},
        ],
    )
    def test_rings(self, options: dict[str, Any]) -> None:
        with pytest.raises(RingError):
            Builder.create(Path("x"), **({"part_power": 4, "replicas": 3.0, "min_part_hours": 1.0} | options))

    def test_values(self) -> None:
        made = builder()
        for bad in (made.set_overload, made.set_replicas, made.set_min_part_hours):
            with pytest.raises(RingError):
                bad(-0.1)
        assert made.state.version == 0
