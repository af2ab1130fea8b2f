"""Containers: made with a policy, described, listed, removed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from altostack.objectstore.http import Refusal, Request
from tests.objectstore.proxy.scene import faulty, replicated, single
from tests.objectstore.world import World

POLICIES: dict[str, Any] = {
    "policies": {
        "gold": {"index": 0, "default": True, "aliases": ["yellow"]},
        "silver": {"index": 1},
        "old": {"index": 2, "deprecated": True},
    }
}


@pytest.fixture
def one(tmp_path: Path) -> Iterator[World]:
    made = single(tmp_path, settings=POLICIES)
    yield made
    made.close()


def test_made_again_and_removed(one: World) -> None:
    assert one.put("/v1/a/c", x_container_meta_color="red").status == 201
    assert one.put("/v1/a/c").status == 202
    head = one.head("/v1/a/c")
    assert head.status == 204
    assert head.headers["x-container-object-count"] == "0"
    assert head.headers["x-container-bytes-used"] == "0"
    assert head.headers["x-storage-policy"] == "gold"
    assert head.headers["x-container-meta-color"] == "red"
    assert head.headers["accept-ranges"] == "bytes"
    assert {"x-timestamp", "last-modified", "x-put-timestamp"} <= head.headers.keys()
    assert one.delete("/v1/a/c").status == 204
    assert one.delete("/v1/a/c").status == 404
    assert one.head("/v1/a/c").status == 404
    assert one.get("/v1/a/c").status == 404
    assert one.post("/v1/a/c", x_container_meta_color="red").status == 404
    assert one.put("/v1/a/c").status == 201
    assert "x-container-meta-color" not in one.head("/v1/a/c").headers


def test_removed_only_when_empty(one: World) -> None:
    one.put("/v1/a/c")
    one.put("/v1/a/c/o", b"x")
    assert one.delete("/v1/a/c").status == 409
    one.delete("/v1/a/c/o")
    assert one.delete("/v1/a/c").status == 204


def test_policies(one: World) -> None:
    assert one.put("/v1/a/c1", x_storage_policy="Silver").status == 201
    assert one.head("/v1/a/c1").headers["x-storage-policy"] == "silver"
    assert one.put("/v1/a/c2", x_storage_policy="YELLOW").status == 201
    assert one.head("/v1/a/c2").headers["x-storage-policy"] == "gold"
    assert one.put("/v1/a/c3", x_storage_policy="none").status == 400
    assert one.put("/v1/a/c3", x_storage_policy="old").status == 400
    assert one.head("/v1/a/c3").status == 404
    assert one.put("/v1/a/c1", x_storage_policy="gold").status == 409
    assert one.put("/v1/a/c1", x_storage_policy="silver").status == 202
    assert one.put("/v1/a/c1").status == 202
    one.put("/v1/a/c1/o", b"123")
    assert one.get("/v1/a/c1/o").read() == b"123"
    assert [entry["name"] for entry in one.get("/v1/a/c1").entries or []] == ["o"]
    headers = one.head("/v1/a").headers
    assert headers["x-account-storage-policy-silver-object-count"] == "1"
    assert headers["x-account-storage-policy-gold-object-count"] == "0"


def test_metadata_is_merged_and_taken_away(one: World) -> None:
    one.put("/v1/a/c", x_container_read=".r:*", x_container_meta_color="red")
    assert one.post("/v1/a/c", x_container_write="a:b", x_container_meta_shape="round").status == 204
    headers = one.head("/v1/a/c").headers
    assert headers["x-container-read"] == ".r:*"
    assert headers["x-container-write"] == "a:b"
    assert headers["x-container-meta-color"] == "red"
    assert one.post("/v1/a/c", x_remove_container_read="x", x_remove_container_meta_color="x").status == 204
    headers = one.head("/v1/a/c").headers
    assert not {"x-container-read", "x-container-meta-color"} & headers.keys()
    assert one.post("/v1/a/c", x_container_write="", x_container_meta_shape="").status == 204
    assert not {"x-container-write", "x-container-meta-shape"} & one.head("/v1/a/c").headers.keys()


def test_system_metadata_passes_inside(one: World) -> None:
    one.put("/v1/a/c", x_container_sysmeta_thing="1")
    assert one.head("/v1/a/c").headers["x-container-sysmeta-thing"] == "1"
    info = one.store.known.container("a", "c")
    assert info is not None
    assert info.metadata["x-container-sysmeta-thing"][0] == "1"
    one.post("/v1/a/c", x_container_sysmeta_thing="")
    assert "x-container-sysmeta-thing" not in one.head("/v1/a/c").headers


def test_metadata_limits(one: World) -> None:
    one.put("/v1/a/c")
    assert one.post("/v1/a/c", **{"x-container-meta-n": "v" * 257}).status == 400
    assert one.post("/v1/a/c", **{"x-container-meta-n": "\udce4"}).status == 400
    assert one.put("/v1/a/d", **{f"x-container-meta-{n}": "v" for n in range(91)}).status == 400
    assert one.head("/v1/a/d").status == 404
    assert one.post("/v1/a/c", **{f"x-container-meta-{n}": "v" for n in range(90)}).status == 204
    assert one.post("/v1/a/c", **{"x-container-meta-more": "v"}).status == 400
    assert one.put("/v1/a/c", **{"x-container-meta-more": "v"}).status == 400


def test_listing_parameters(one: World) -> None:
    one.put("/v1/a/c")
    for name in ("a", "b/1", "b/2", "b/c/3", "d", "é"):
        one.put(f"/v1/a/c/{name}", name.encode(), content_type="text/plain")

    def names(**query: str) -> list[str]:
        entries = one.get("/v1/a/c", query=query).entries or []
        return [entry.get("name", entry.get("subdir")) for entry in entries]

    assert names() == ["a", "b/1", "b/2", "b/c/3", "d", "é"]
    assert names(limit="0") == []
    assert names(limit="2", marker="a") == ["b/1", "b/2"]
    assert names(delimiter="/") == ["a", "b/", "d", "é"]
    assert names(prefix="b/", delimiter="/") == ["b/1", "b/2", "b/c/"]
    assert names(path="b") == ["b/1", "b/2"]
    assert names(path="") == ["a", "d", "é"]
    assert names(reverse="1", end_marker="b/2") == ["é", "d", "b/c/3"]
    assert names(marker="d") == ["é"]
    assert one.get("/v1/a/c", query={"limit": "10001"}).status == 412
    assert one.head("/v1/a/c", query={"limit": "10001"}).status == 204
    (entry,) = one.get("/v1/a/c", query={"prefix": "a"}).entries or []
    assert entry.keys() == {"name", "hash", "bytes", "content_type", "last_modified"}
    assert (entry["content_type"], entry["hash"]) == ("text/plain", "0cc175b9c0f1b6a831c399e269772661")


def test_authority_is_asked_with_the_acl(one: World) -> None:
    one.put("/v1/a/c", x_container_read="readers", x_container_write="writers")
    one.put("/v1/a/c/o", b"x")
    asked: list[tuple[str, str | None]] = []

    def authorize(request: Request, acl: str | None) -> None:
        asked.append((request.method, acl))

    def send(method: str, path: str) -> int:
        request = Request(method, path, headers={"content-length": "0"})
        request.authorize = authorize
        assert one.store.app is not None
        try:
            response = one.store.app(request)
        except Refusal as refusal:
            return refusal.status
        assert "x-container-read" not in response.headers  # nobody said that they own it
        response.close()
        return response.status

    for method, path in (
        ("GET", "/v1/a/c"), ("HEAD", "/v1/a/c"), ("PUT", "/v1/a/c"), ("POST", "/v1/a/c"), ("GET", "/v1/a/c/o"),
        ("HEAD", "/v1/a/c/o"), ("PUT", "/v1/a/c/o"), ("POST", "/v1/a/c/o"), ("DELETE", "/v1/a/c/o"),
        ("GET", "/v1/a/none"), ("GET", "/v1/a/none/o"), ("DELETE", "/v1/a/c"),
    ):  # fmt: skip
        send(method, path)
    assert asked == [
        ("GET", "readers"), ("HEAD", "readers"), ("PUT", None), ("POST", None), ("GET", "readers"),
        ("HEAD", "readers"), ("PUT", "writers"), ("POST", "writers"), ("DELETE", "writers"), ("GET", None),
        ("GET", None), ("DELETE", None),
    ]  # fmt: skip


def test_only_owners_set_acls(one: World) -> None:
    def stranger(request: Request, acl: str | None) -> None:
        request.facts["owner"] = False

    request = Request("PUT", "/v1/a/c", headers={"x-container-read": ".r:*", "x-container-meta-color": "red"})
    request.authorize = stranger
    assert one.store.app is not None
    assert one.store.app(request).status == 201
    headers = one.head("/v1/a/c").headers
    assert "x-container-read" not in headers
    assert headers["x-container-meta-color"] == "red"


def test_a_minority_of_failures_does_not_show(tmp_path: Path) -> None:
    made = replicated(tmp_path)
    node = faulty(made, lists=True)
    for lost in ("d1", "d2", "d3", "d4", "d5", "d6"):
        node.gone = {lost}
        assert made.put("/v1/a/c").status in (201, 202)
        assert made.post("/v1/a/c", x_container_meta_lost=lost).status == 204
        assert made.head("/v1/a/c").headers["x-container-meta-lost"] == lost
        assert made.put("/v1/a/c/o", b"x").status == 201
    node.gone = {f"d{number}" for number in range(1, 7)}
    made.store.epoch.bump()
    assert made.head("/v1/a/c").status == 503
    assert made.put("/v1/a/c2").status == 503
    made.close()
