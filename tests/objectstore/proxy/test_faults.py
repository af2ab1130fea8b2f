"""Whole copies on devices that are gone, full, slow or break in the middle."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from altostack.objectstore.http import Stream
from altostack.objectstore.storage import DeviceGone, Missing, Spot
from tests.objectstore.proxy.scene import Faulty, faulty, holders, replicated
from tests.objectstore.world import World

LARGE = random.Random(5).randbytes(600_000)
EVERY = {f"d{number}" for number in range(1, 7)}


@pytest.fixture
def three(tmp_path: Path) -> Iterator[World]:
    made = replicated(tmp_path)
    made.put("/v1/a/c")
    yield made
    made.close()


def copies(made: World, name: str) -> set[str]:
    """The devices that hold a copy now."""
    ring = made.store.rings.object(0)
    part, digest = ring.locate("a", "c", name)
    found = set()
    node = made.store.local.node if isinstance(made.store.local, Faulty) else made.store.local
    for device in EVERY:
        try:
            node.read(Spot(device, part, digest)).close()
            found.add(device)
        except Missing:
            pass
    return found


def list_of(made: World) -> list[dict[str, Any]]:
    return made.get("/v1/a/c").entries or []


@pytest.mark.parametrize("body", [b"small", LARGE])
def test_every_primary_gets_a_copy(three: World, body: bytes) -> None:
    assert three.put("/v1/a/c/o", body).status == 201
    assert copies(three, "o") == set(holders(three, "a", "c", "o"))
    assert [entry["name"] for entry in list_of(three)] == ["o"]


@pytest.mark.parametrize("body", [b"small", LARGE])
def test_handoffs_stand_in(three: World, body: bytes) -> None:
    node = faulty(three)
    own = holders(three, "a", "c", "o")
    node.gone = {own[0]}
    node.full = {own[1]}
    assert three.put("/v1/a/c/o", body).status == 201
    held = copies(three, "o")
    assert len(held) == 3
    assert not held & {own[0], own[1]}
    node.gone, node.full = set(), set()
    for lost in held:
        node.gone = {lost}
        assert three.get("/v1/a/c/o").read() == body
    assert three.delete("/v1/a/c/o").status in (204, 404)
    node.gone = set()
    assert three.get("/v1/a/c/o").status == 404  # the copies on handoffs are older than the tombstones


@pytest.mark.parametrize("body", [b"small", LARGE])
def test_a_majority_is_enough_and_less_is_not(three: World, body: bytes) -> None:
    node = faulty(three)
    own = holders(three, "a", "c", "o")
    others = EVERY - set(own)
    node.gone = {own[2]} | others
    assert three.put("/v1/a/c/o", body).status == 201
    node.gone = {own[1], own[2]} | others
    assert three.put("/v1/a/c/o", body[::-1]).status == 503
    node.gone, node.full = set(), EVERY
    assert three.put("/v1/a/c/q", body).status == 507
    node.full = set()
    assert three.get("/v1/a/c/q").status == 404


def test_a_node_that_fails_while_it_is_written_is_left_out(three: World) -> None:
    node = faulty(three)
    own = holders(three, "a", "c", "o")
    node.breaks_writing = {own[0]: 300_000}
    assert three.put("/v1/a/c/o", LARGE).status == 201
    assert copies(three, "o") == set(own[1:])
    node.breaks_writing = {own[0]: 300_000, own[1]: 300_000}
    assert three.put("/v1/a/c/o", LARGE[::-1]).status in (503, 507)
    node.breaks_writing = {}
    assert three.get("/v1/a/c/o").read() == LARGE


def test_a_read_that_breaks_off_goes_on_elsewhere(three: World) -> None:
    three.put("/v1/a/c/o", LARGE)
    node = faulty(three)
    node.streams = True
    own = holders(three, "a", "c", "o")
    for first, second in itertools.permutations(own, 2):
        node.breaks = {first: 1000, second: 200_000}
        assert three.get("/v1/a/c/o").read() == LARGE
        assert three.get("/v1/a/c/o", range="bytes=50-599000").read() == LARGE[50:599001]
        got = three.get("/v1/a/c/o", range="bytes=0-99999,300000-500000").read()
        assert LARGE[:100000] in got
        assert LARGE[300000:500001] in got
    node.breaks = dict.fromkeys(EVERY, 1000)
    with pytest.raises(DeviceGone):
        three.get("/v1/a/c/o").read()


def test_a_copy_that_missed_a_change(three: World) -> None:
    node = faulty(three)
    own = holders(three, "a", "c", "o")
    three.put("/v1/a/c/o", b"old")
    node.gone = {own[0]} | (EVERY - set(own))
    three.put("/v1/a/c/o", b"new")
    three.post("/v1/a/c/o", x_object_meta_a="b")
    node.gone = set()
    for _ in range(5):
        newest = three.get("/v1/a/c/o", x_newest="true")
        assert newest.read() == b"new"
        assert newest.headers["x-object-meta-a"] == "b"
    node.gone = {own[0]} | (EVERY - set(own))
    assert three.delete("/v1/a/c/o").status == 204
    node.gone = set()
    assert three.get("/v1/a/c/o", x_newest="true").status == 404


def test_one_copy_is_enough_to_be_there(three: World, monkeypatch: pytest.MonkeyPatch) -> None:
    node = faulty(three)
    own = holders(three, "a", "c", "o")
    node.gone = {own[0]} | (EVERY - set(own))
    three.put("/v1/a/c/o", b"first")
    node.gone = {own[1]} | (EVERY - set(own))
    assert three.put("/v1/a/c/o", b"second", if_none_match="*").status == 412
    node.gone = set()
    assert three.get("/v1/a/c/o", x_newest="true").read() == b"first"
    elsewhere(three, monkeypatch)
    assert three.put("/v1/a/c/o", b"second", if_none_match="*").status == 412
    assert three.put("/v1/a/c/p", b"second", if_none_match="*").status == 201
    assert three.get("/v1/a/c/o", x_newest="true").read() == b"first"


def test_nobody_answers(three: World) -> None:
    three.put("/v1/a/c/o", b"x")
    three.head("/v1/a/c/o")
    node = faulty(three)
    node.gone = EVERY
    assert three.get("/v1/a/c/o").status == 503
    assert three.head("/v1/a/c/o").status == 503
    assert three.put("/v1/a/c/o", b"x").status == 503
    assert three.put("/v1/a/c/o", Stream([b"x"])).status == 503
    assert three.post("/v1/a/c/o", x_object_meta_a="b").status == 503
    assert three.delete("/v1/a/c/o").status == 503


def test_a_post_finds_copies_on_handoffs(three: World) -> None:
    node = faulty(three)
    own = holders(three, "a", "c", "o")
    node.gone = set(own[:2])
    assert three.put("/v1/a/c/o", b"x").status == 201
    node.gone = set()
    assert three.post("/v1/a/c/o", x_object_meta_a="b").status == 202
    assert three.get("/v1/a/c/o", x_newest="true").headers["x-object-meta-a"] == "b"


def test_lists_hear_of_objects_though_a_copy_of_the_list_is_gone(three: World) -> None:
    node = faulty(three, lists=True)
    ring = three.store.rings.container
    part, _ = ring.locate("a", "c")
    lists = [device.device for device in ring.nodes(part)]
    node.gone = {lists[0]}
    assert three.put("/v1/a/c/o", b"x").status == 201
    for lost in lists[1:]:
        node.gone = {lists[0], lost}
        assert [entry["name"] for entry in list_of(three)] == ["o"]


class Elsewhere:
    """The same devices, reached as those of another machine."""

    def __init__(self, node: Any) -> None:
        self.node = node
        self.held_up: dict[str, threading.Event] = {}
        self.threads: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.node, name)

        def call(spot: Spot, *args: Any, **more: Any) -> Any:
            self.threads.add(threading.current_thread().name)
            if spot.device in self.held_up and name in ("read", "write"):
                self.held_up[spot.device].wait(20)
            return method(spot, *args, **more)

        return call


def elsewhere(made: World, monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    node = Elsewhere(made.store.local)
    monkeypatch.setattr(made.store, "is_local", lambda host, port: False)
    monkeypatch.setattr(made.store, "node_at", lambda host, port: node)
    return node


def test_nodes_elsewhere_are_asked_side_by_side(three: World, monkeypatch: pytest.MonkeyPatch) -> None:
    node = elsewhere(three, monkeypatch)
    for body in (b"small", LARGE):
        assert three.put("/v1/a/c/o", body).status == 201
        assert three.get("/v1/a/c/o").read() == body
        assert copies(three, "o") == set(holders(three, "a", "c", "o"))
    assert three.delete("/v1/a/c/o").status == 204
    assert len(node.threads) > 1


def test_a_slow_node_does_not_hold_up_a_write(three: World, monkeypatch: pytest.MonkeyPatch) -> None:
    node = elsewhere(three, monkeypatch)
    own = holders(three, "a", "c", "o")
    node.held_up = {own[0]: threading.Event()}
    assert three.put("/v1/a/c/o", b"x").status == 201
    assert own[0] not in copies(three, "o")
    node.held_up[own[0]].set()
    deadline = time.monotonic() + 20
    while own[0] not in copies(three, "o") and time.monotonic() < deadline:
        time.sleep(0.05)  # it comes in late
    assert own[0] in copies(three, "o")


def test_nothing_is_left_of_a_node_that_was_too_slow(three: World, monkeypatch: pytest.MonkeyPatch) -> None:
    node = elsewhere(three, monkeypatch)
    own = holders(three, "a", "c", "o")
    node.held_up = {own[0]: threading.Event()}
    assert three.put("/v1/a/c/o", LARGE).status == 201
    assert copies(three, "o") == set(own[1:])
    node.held_up[own[0]].set()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        left = [thread for thread in threading.enumerate() if thread.name == "lane"]
        temporary = list((three.store.folder / "objectstore/devices").rglob("tmp/*"))
        if not left and not temporary:
            return
        time.sleep(0.05)
    raise AssertionError(f"{left} {temporary}")


def test_a_second_copy_is_asked_for_when_the_first_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = replicated(tmp_path, settings={"concurrent_get_delay": 0.01})
    made.put("/v1/a/c")
    made.put("/v1/a/c/o", b"x")
    node = elsewhere(made, monkeypatch)
    own = holders(made, "a", "c", "o")
    held_up = threading.Event()
    node.held_up = dict.fromkeys(own[:2], held_up)
    assert made.get("/v1/a/c/o").read() == b"x"
    held_up.set()
    assert made.get("/v1/a/c/none").status == 404
    made.close()


def test_preferred_zones(tmp_path: Path) -> None:
    made = replicated(tmp_path, settings={"write_affinity": "r1z1", "read_affinity": "r1z1=1"})
    made.put("/v1/a/c")
    near = {device.device for device in made.store.rings.object(0).devices if device.zone == 1}
    assert len(near) == 2
    node = faulty(made)
    for body in (b"small", LARGE):
        assert made.put("/v1/a/c/o", body).status == 201
        held = copies(made, "o")
        assert near <= held
        assert len(held) == 3
        node.asked.clear()
        assert made.get("/v1/a/c/o").read() == body
        assert next(device for call, device in node.asked if call == "read") in near
    assert made.post("/v1/a/c/o", x_object_meta_a="b").status == 202
    assert made.delete("/v1/a/c/o").status == 204
    assert made.get("/v1/a/c/o").status == 404
    made.close()


@pytest.mark.parametrize("wrong", [{"read_affinity": "r1"}, {"write_affinity": "zone 1"}])
def test_preferences_that_cannot_be_read(tmp_path: Path, wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="affinity"):
        replicated(tmp_path, settings=wrong)
