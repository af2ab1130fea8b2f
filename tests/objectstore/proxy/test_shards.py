"""Containers that are split: lines go to their shards, listings are made of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from altostack.objectstore.ledger import shards
from altostack.objectstore.ledger.lines import MAP
from altostack.objectstore.proxy.known import site_of
from altostack.objectstore.storage import Query, Row
from tests.objectstore.proxy.scene import replicated
from tests.objectstore.world import World

HIDDEN = shards.hidden("a")


@pytest.fixture
def split(tmp_path: Path) -> Iterator[World]:
    """Names up to "m" are in s1, the others in s2."""
    made = replicated(tmp_path)
    made.put("/v1/a/c")
    store = made.store
    for name in ("s1", "s2"):
        stamp = store.clock.now()
        for target in site_of(store, HIDDEN, name).primaries:
            target.node.create(target.spot, HIDDEN, name, stamp, policy=0)
    stamp = store.clock.now()
    lines = [
        Row(name=lower, timestamp=stamp, content_type=name, policy=MAP)
        for lower, name in (("", "s1"), ("m", "s2"))
    ]
    for target in site_of(store, "a", "c").primaries:
        target.node.record(target.spot, "a", "c", lines)
    store.epoch.bump()
    yield made
    made.close()


def names(made: World, **query: str) -> list[object]:
    entries = made.get("/v1/a/c", query=query).entries or []
    return [entry.get("name", entry.get("subdir")) for entry in entries]


def held(made: World, shard: str) -> list[str]:
    target = site_of(made.store, HIDDEN, shard).primaries[1]
    return [row.name for row in target.node.list(target.spot, HIDDEN, shard, Query())]


def test_lines_go_to_their_shards(split: World) -> None:
    for name in ("a", "m", "m1", "z"):
        assert split.put(f"/v1/a/c/{name}", b"x").status == 201
    assert held(split, "s1") == ["a", "m"]
    assert held(split, "s2") == ["m1", "z"]
    assert names(split) == ["a", "m", "m1", "z"]
    assert split.post("/v1/a/c/z", content_type="text/x").status == 202
    assert (split.get("/v1/a/c", query={"marker": "m1"}).entries or [])[0]["content_type"] == "text/x"
    assert split.delete("/v1/a/c/m").status == 204
    assert names(split) == ["a", "m1", "z"]


def test_listings_over_shards(split: World) -> None:
    for name in ("a", "k/1", "k/2", "m/1", "n/1", "z"):
        split.put(f"/v1/a/c/{name}", b"x")
    assert names(split, limit="4") == ["a", "k/1", "k/2", "m/1"]
    assert names(split, reverse="true", limit="3") == ["z", "n/1", "m/1"]
    assert names(split, delimiter="/") == ["a", "k/", "m/", "n/", "z"]
    assert names(split, prefix="m/") == ["m/1"]
    assert names(split, marker="k/2", end_marker="z") == ["m/1", "n/1"]


def test_removed_only_when_its_shards_are_empty(split: World) -> None:
    split.put("/v1/a/c/z", b"x")
    assert split.delete("/v1/a/c").status == 409
    split.delete("/v1/a/c/z")
    assert split.delete("/v1/a/c").status == 204
    assert split.head("/v1/a/c").status == 404
