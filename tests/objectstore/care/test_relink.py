"""Partitions are doubled while the store is in use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from altostack.objectstore import compose
from altostack.objectstore.care.relink import relink
from altostack.objectstore.disk import layout
from altostack.objectstore.ring.builder import Builder
from tests.objectstore.care.cluster import Cluster


class Doubling:
    """A cluster whose object ring changes."""

    def __init__(self, folder: Path) -> None:
        self.cluster = Cluster(folder)
        self.w = self.cluster.w
        self.path = compose.rings_folder(folder) / "object.builder"
        assert self.w.put("/v1/a/c").status == 201
        self.bodies: dict[str, bytes] = {}

    def step(self, change: Callable[[Builder], None]) -> None:
        builder = Builder.load(self.path)
        change(builder)
        builder.save()
        watched = self.w.store.rings.object(0)
        self.cluster.renew_rings()
        assert self.w.store.rings.object(0).version > watched.version

    def put(self, *names: str) -> None:
        for name in names:
            self.bodies[name] = name.encode() * 100
            assert self.w.put(f"/v1/a/c/{name}", self.bodies[name]).status == 201

    def relink(self) -> dict[str, int]:
        did: dict[str, int] = {}
        for name in self.cluster.names:
            for what, number in relink(self.cluster.care, name).did.items():
                did[what] = did.get(what, 0) + number
        return did

    def check(self) -> None:
        for name, body in self.bodies.items():
            assert self.w.get(f"/v1/a/c/{name}").read() == body, name

    def misplaced(self) -> list[Path]:
        power = self.w.store.rings.object(0).parts.bit_length() - 1
        found = []
        for device in self.cluster.names:
            for path in (self.cluster.path(device) / "objects").glob("*/*/*/*"):
                if layout.part_of(path.parent.name, power) != int(path.parents[2].name):
                    found.append(path)
        return found


@pytest.fixture
def doubling(tmp_path: Path) -> Doubling:
    return Doubling(tmp_path)


def test_every_object_can_be_read_at_every_step(doubling: Doubling) -> None:
    doubling.put(*(f"before-{n}" for n in range(20)))
    doubling.step(Builder.prepare_increase)
    doubling.put("while-prepared", "before-3")
    assert doubling.relink()["linked"] >= 50
    doubling.put("after-linking")
    doubling.check()
    assert doubling.w.delete("/v1/a/c/before-5").status == 204
    del doubling.bodies["before-5"]
    doubling.step(Builder.increase)
    doubling.check()
    assert doubling.w.get("/v1/a/c/before-5").status == 404
    doubling.put("new", "before-7")
    assert doubling.misplaced()
    doubling.relink()
    assert not doubling.misplaced()
    doubling.check()
    assert doubling.relink() == {}
    doubling.step(Builder.finish_increase)
    doubling.cluster.replicate()
    doubling.check()
    files = doubling.cluster.every()
    assert sum(len(found) for found in files.values()) == 3 * (len(doubling.bodies) + 1)


def test_an_increase_that_is_called_off_leaves_nothing(doubling: Doubling) -> None:
    doubling.put(*(f"o{n}" for n in range(10)))
    before = doubling.cluster.every()
    doubling.step(Builder.prepare_increase)
    doubling.relink()
    assert doubling.misplaced()
    doubling.step(Builder.cancel_increase)
    doubling.relink()
    assert not doubling.misplaced()
    assert doubling.cluster.every() == before
    doubling.check()


def test_what_was_not_linked_in_time_is_brought_home(doubling: Doubling) -> None:
    doubling.put(*(f"o{n}" for n in range(10)))
    doubling.step(Builder.prepare_increase)
    doubling.step(Builder.increase)
    doubling.relink()
    assert not doubling.misplaced()
    doubling.check()
