"""Shares and dispersion, against figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from altostack.objectstore.ring import survey
from altostack.objectstore.ring.plan import Tree, as_unlike_as_possible, by_weight, fit
from altostack.objectstore.storage import Device
from tests.objectstore.ring.hand import builder, even


def tree(*devices: tuple[int, int, str, float]) -> Tree:
    return Tree.of([Device(n, r, z, h, 1, f"d{n}", w) for n, (r, z, h, w) in enumerate(devices)])


class TestShares:
    def test_by_weight(self) -> None:
        found = by_weight(tree((1, 1, "a", 1.0), (1, 1, "b", 2.0), (1, 2, "c", 0.0), (1, 2, "d", 1.0)), 1.0)
        assert found == pytest.approx([0.25, 0.5, 0, 0.25])

    def test_no_device_holds_more_than_one(self) -> None:
        found = by_weight(tree((1, 1, "a", 100.0), (1, 1, "b", 1.0), (1, 1, "c", 3.0)), 2.0)
        assert found == pytest.approx([1, 0.25, 0.75])

    def test_spread_over_zones(self) -> None:
        devices = tree((1, 1, "a", 3.0), (1, 2, "b", 4.0), (1, 3, "c", 1.0), (1, 3, "d", 3.0))
        found = as_unlike_as_possible(devices, 3.0, by_weight(devices, 3.0))
        assert found == pytest.approx([1, 1, 0.25, 0.75])

    def test_zones_with_too_few_devices(self) -> None:
        devices = tree((1, 1, "a", 1.0), (1, 2, "b", 1.0), (1, 2, "c", 1.0), (1, 2, "d", 1.0))
        found = as_unlike_as_possible(devices, 4.0, by_weight(devices, 4.0))
        assert found == pytest.approx([1, 1, 1, 1])

    def test_weights_count_within_the_rounding(self) -> None:
        devices = tree(*((1, zone, f"{zone}{disk}", float(zone)) for zone in (1, 2) for disk in (1, 2, 3)))
        found = as_unlike_as_possible(devices, 3.0, by_weight(devices, 3.0))
        assert found[:3].sum() == pytest.approx(1) and found[3:].sum() == pytest.approx(2)

    def test_fit_solves_groups_at_once(self) -> None:
        found = fit(
            np.array([1.0, 3.0, 1.0, 1.0]),
            np.array([0, 0, 1, 1]),
            np.array([2.0, 1.0]),
            np.array([0.0, 0.0, 0.7, 0.0]),
            np.array([2.0, 1.0, 1.0, 1.0]),
        )
        assert found == pytest.approx([1.0, 1.0, 0.7, 0.3])


class TestSurvey:
    def test_balance(self) -> None:
        made = builder([(1, 1, 1, 100.0), (1, 2, 2, 100.0), (1, 3, 3, 0.0)], replicas=1, power=2)
        made.table[0] = [0, 0, 0, 1]
        assert survey.balances(made) == pytest.approx({0: 50.0, 1: -50.0, 2: 0.0})
        assert survey.balance(made) == pytest.approx(50)
        made.table[0, 3] = 2
        assert survey.balance(made) == survey.WORST

    def test_dispersion(self) -> None:
        made = builder([(1, 1, 1, 1.0), (1, 1, 2, 1.0), (1, 2, 3, 1.0), (1, 2, 3, 1.0)], replicas=2, power=2)
        made.table[:] = [[0, 0, 2, 0], [1, 2, 3, 3]]
        found = survey.dispersion(made)
        assert found.percent == pytest.approx(25)  # partitions 0 and 2
        levels = {one.name: one for one in found.levels}
        assert {name: one.shared for name, one in levels.items()} == {
            "region": 4,
            "zone": 2,
            "host": 1,
            "device": 0,
        }
        assert {name: one.close for name, one in levels.items()} == {
            "region": 0,
            "zone": 2,
            "host": 1,
            "device": 0,
        }
        zones = {node.path: (node.most, node.counts, node.close) for node in levels["zone"].nodes}
        assert zones == {(1, 1): (1, (1, 2, 1), 1), (1, 2): (1, (1, 2, 1), 1)}

    def test_ideal(self) -> None:
        made = builder([*even(2, 1, 2), (1, 9, 9, 100.0)], power=10)
        made.rebalance(1)
        zone = next(one for one in survey.dispersion(made).levels if one.name == "zone")
        # Two zones have 1.2 of 3 replicas by weight.
        assert zone.ideal == zone.close == round(0.4 * 1024)

    def test_problems(self) -> None:
        made = builder(even(3, 1, 1), power=2)
        assert len(survey.problems(made)) == 3
        made.rebalance(1)
        assert survey.problems(made) == []
        made.table[1, 0] = made.table[0, 0]
        assert survey.problems(made) == ["1 partitions have replica 1 on a device that has another of them"]
        made.set_weight(0, 0)
        assert any("3 replicas need as many devices" in one for one in survey.problems(made))
