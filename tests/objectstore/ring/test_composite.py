"""Composite rings: who may be part of one, and that only one replica of a partition moves at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from altostack.objectstore.ring import composite
from altostack.objectstore.ring.builder import Builder, RingError
from altostack.objectstore.ring.ring import Ring
from tests.objectstore.ring.hand import HOUR, Time, add, builder


def part(folder: Path, region: int, *, replicas: float = 2.0, power: int = 6, hours: float = 0.0) -> Path:
    devices = [(region, zone, 10 * region + zone, 1.0) for zone in (1, 2, 3)]
    made = builder(devices, path=folder / f"r{region}.builder", replicas=replicas, power=power, hours=hours)
    made.rebalance(1)
    made.save()
    return made.path


def test_each_builder_has_its_replicas(tmp_path: Path) -> None:
    parts = [part(tmp_path, 1), part(tmp_path, 2, replicas=1.0)]
    definition = composite.compose(tmp_path / "object.composite", parts)
    ring = Ring.load(tmp_path / "object.ring")
    assert ring.replicas == 3 and len(ring.devices) == 6 and len({one.id for one in ring.devices}) == 6
    one, other = (Builder.load(path).ring() for path in parts)
    for number in range(ring.parts):
        nodes = ring.nodes(number)
        assert [one.region for one in nodes] == [1, 1, 2]
        assert [n.device for n in nodes] == [n.device for n in (*one.nodes(number), *other.nodes(number))]
    assert definition.salt not in {one.facts.salt, other.facts.salt}


def test_names_stay_when_composed_again(tmp_path: Path) -> None:
    path = tmp_path / "object.composite"
    composite.compose(path, [part(tmp_path, 1), part(tmp_path, 2)])
    before = Ring.load(tmp_path / "object.ring")
    made = Builder.load(tmp_path / "r1.builder")
    add(made, 1, 4, 14, 1.0)
    made.rebalance(1)
    made.save()
    composite.compose(path)
    after = Ring.load(tmp_path / "object.ring")
    assert after.locate("a", "c", "o") == before.locate("a", "c", "o")
    assert after.version > before.version and len(after.devices) == 7


@pytest.mark.parametrize("wrong", ["few", "power", "fraction", "region", "place", "unbalanced", "twice"])
def test_parts_that_do_not_fit(tmp_path: Path, wrong: str) -> None:
    parts = [part(tmp_path, 1), part(tmp_path, 2)]
    made = Builder.load(parts[1])
    if wrong == "few":
        parts.pop()
    elif wrong == "power":
        part(tmp_path, 2, power=7)
    elif wrong == "fraction":
        part(tmp_path, 2, replicas=1.5)
    elif wrong == "region":
        made.set_info(0, region=1)
        made.save()
    elif wrong == "place":
        first = Builder.load(parts[0]).devices[0]
        made.set_info(0, host=first.host, port=first.port, device=first.device)
        made.save()
    elif wrong == "unbalanced":
        made.set_replicas(3)
        made.save()
    elif wrong == "twice":
        parts[1] = parts[0]
    with pytest.raises(RingError):
        composite.compose(tmp_path / "object.composite", parts)
    assert not list(tmp_path.glob("object.*"))


@pytest.mark.parametrize("wrong", ["order", "other", "older", "fewer", "replicas"])
def test_changes_that_would_move_everything(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "object.composite"
    parts = [part(tmp_path, 1), part(tmp_path, 2), part(tmp_path, 3)]
    old = parts[0].read_bytes()
    made = Builder.load(parts[0])
    made.set_overload(0.1)
    made.save()
    composite.compose(path, parts)
    before = (tmp_path / "object.ring").read_bytes()
    if wrong == "order":
        parts.reverse()
    elif wrong == "other":
        part(tmp_path, 2)
    elif wrong == "older":
        parts[0].write_bytes(old)
    elif wrong == "fewer":
        parts.pop()
    elif wrong == "replicas":
        made.set_replicas(3)
        made.rebalance(1)
        made.save()
    with pytest.raises(RingError):
        composite.compose(path, parts)
    assert (tmp_path / "object.ring").read_bytes() == before
    composite.compose(path, parts, force=True)
    assert (tmp_path / "object.ring").read_bytes() != before


def test_one_replica_of_a_partition_moves_at_a_time(tmp_path: Path) -> None:
    path, clock = tmp_path / "object.composite", Time()
    parts = [part(tmp_path, 1, hours=1), part(tmp_path, 2, hours=1)]
    composite.compose(path, parts)
    for file in parts:
        made = Builder.load(file)
        region = made.devices[0].region
        add(made, region, 4, 90 + region, 1.0)
        made.save()
    clock.now += HOUR
    tables = [Builder.load(file).table for file in parts]
    _, outcomes = composite.rebalance(path, 1, clock=clock)
    changed = [
        (Builder.load(file).table != before).any(axis=0) for file, before in zip(parts, tables, strict=True)
    ]
    assert not (changed[0] & changed[1]).any()
    assert sum(one.moved for one in outcomes) > 0
    for number in range(4):
        clock.now += HOUR
        _, outcomes = composite.rebalance(path, number, clock=clock)
    assert [one.held_back for one in outcomes] == [0, 0]
    assert {len({one.id for one in Ring.load(tmp_path / "object.ring").nodes(p)}) for p in range(64)} == {4}


def test_without_a_composite(tmp_path: Path) -> None:
    with pytest.raises(RingError, match="no composite"):
        composite.rebalance(tmp_path / "object.composite")
    with pytest.raises(RingError, match="two builders or more"):
        composite.compose(tmp_path / "object.composite")
