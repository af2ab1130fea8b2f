"""Symbolic links."""

from __future__ import annotations

import hashlib
import json

import pytest

from tests.objectstore.shapes.clients import limited
from tests.objectstore.world import World


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def linked(container: World) -> World:
    container.put("/v1/a/segments/target", b"content", x_object_meta_a="b", content_type="text/x")
    assert container.put("/v1/a/c/link", x_symlink_target="segments/target").status == 201
    return container


def test_links_are_followed(linked: World) -> None:
    got = linked.get("/v1/a/c/link")
    assert (got.status, got.read()) == (200, b"content")
    assert got.headers["content-location"] == "/v1/a/segments/target"
    assert (got.headers["etag"], got.headers["content-type"]) == (md5(b"content"), "text/x")
    assert got.headers["x-object-meta-a"] == "b"
    assert linked.head("/v1/a/c/link").headers["content-length"] == "7"
    assert linked.get("/v1/a/c/link", range="bytes=1-2").read() == b"on"
    assert linked.get("/v1/a/c/link", if_none_match=md5(b"content")).status == 304
    assert linked.get("/v1/a/c/link", if_match=md5(b"")).status == 412


def test_the_link_itself(linked: World) -> None:
    got = linked.get("/v1/a/c/link", query={"symlink": "get"})
    assert (got.read(), got.headers["x-symlink-target"]) == (b"", "segments/target")
    assert got.headers["content-type"] == "application/symlink"
    assert "content-location" not in got.headers
    (entry,) = json.loads(linked.get("/v1/a/c", query={"format": "json"}).read())
    assert (entry["hash"], entry["bytes"]) == (md5(b""), 0)
    assert entry["symlink_path"] == "/v1/a/segments/target"


def test_deleting_a_link(linked: World) -> None:
    assert linked.delete("/v1/a/c/link").status == 204
    assert linked.get("/v1/a/segments/target").status == 200
    linked.put("/v1/a/c/link", x_symlink_target="segments/target")
    linked.delete("/v1/a/segments/target")
    got = linked.get("/v1/a/c/link")
    assert (got.status, got.headers["content-location"]) == (404, "/v1/a/segments/target")


def test_other_accounts(linked: World) -> None:
    linked.put("/v1/b/d")
    assert linked.put("/v1/b/d/link", x_symlink_target="segments/target", x_symlink_target_account="a").good
    assert linked.get("/v1/b/d/link").read() == b"content"
    head = linked.head("/v1/b/d/link", query={"symlink": "get"})
    assert head.headers["x-symlink-target-account"] == "a"
    (entry,) = json.loads(linked.get("/v1/b/d", query={"format": "json"}).read())
    assert entry["symlink_path"] == "/v1/a/segments/target"


def test_static_links(linked: World) -> None:
    etag = md5(b"content")
    made = linked.put("/v1/a/c/s", x_symlink_target="segments/target", x_symlink_target_etag=f'"{etag}"')
    assert made.status == 201
    head = linked.head("/v1/a/c/s", query={"symlink": "get"})
    assert head.headers["x-symlink-target-etag"] == etag
    assert (head.headers["x-symlink-target-bytes"], head.headers["content-type"]) == ("7", "text/x")
    entry = json.loads(linked.get("/v1/a/c", query={"format": "json", "prefix": "s"}).read())[0]
    assert (entry["symlink_etag"], entry["symlink_bytes"]) == (etag, 7)
    assert linked.get("/v1/a/c/s").read() == b"content"
    linked.put("/v1/a/segments/target", b"other")
    assert linked.get("/v1/a/c/s").status == 409
    assert linked.get("/v1/a/c/link").read() == b"other"
    wrong = linked.put("/v1/a/c/s2", x_symlink_target="segments/target", x_symlink_target_etag=etag)
    assert (wrong.status, wrong.headers["content-location"]) == (409, "/v1/a/segments/target")
    assert (
        linked.put("/v1/a/c/s2", x_symlink_target="segments/none", x_symlink_target_etag=etag).status == 409
    )
    assert (
        linked.put("/v1/a/c/s2", x_symlink_target="segments/target", x_symlink_target_etag="a;b").status
        == 400
    )


def test_loops_end(container: World) -> None:
    for name, target in (("1", "2"), ("2", "3"), ("3", "4"), ("x", "y"), ("y", "x")):
        assert container.put(f"/v1/a/c/{name}", x_symlink_target=f"c/{target}").status == 201
    container.put("/v1/a/c/4", b"end")
    assert container.get("/v1/a/c/2").read() == b"end"
    assert container.get("/v1/a/c/1").status == 409
    assert container.get("/v1/a/c/x").status == 409
    assert container.put("/v1/a/c/z", x_symlink_target="c/z").status == 400


@pytest.mark.parametrize("target", ["x", "/c/o", "c/", "", "c%00/o"])
def test_what_is_no_target(container: World, target: str) -> None:
    assert container.put("/v1/a/c/l", x_symlink_target=target).status == 412


def test_links_have_no_content(container: World) -> None:
    assert container.put("/v1/a/c/l", b"x", x_symlink_target="c/o").status == 400


def test_a_post_says_where_the_target_is(linked: World) -> None:
    answer = linked.post("/v1/a/c/link", x_object_meta_color="red")
    assert (answer.status, answer.headers["location"]) == (307, "/v1/a/segments/target")
    assert not [name for name in answer.headers if "sysmeta" in name]
    assert linked.head("/v1/a/c/link", query={"symlink": "get"}).headers["x-object-meta-color"] == "red"
    assert "x-object-meta-color" not in linked.head("/v1/a/segments/target").headers
    assert linked.post("/v1/a/c/link", x_symlink_target="c/x").status == 400


def test_nobody_reads_through_a_link(linked: World) -> None:
    assert limited(linked, read=("c",))("GET", "/v1/a/c/link").status == 403
    assert limited(linked, read=("c", "segments"))("GET", "/v1/a/c/link").read() == b"content"


def test_nobody_learns_an_etag_by_a_static_link(linked: World) -> None:
    client = limited(linked, write=("c",))
    headers = {"x_symlink_target": "segments/target"}
    assert client("PUT", "/v1/a/c/s", x_symlink_target_etag=md5(b"content"), **headers).status == 403


def test_large_objects_behind_links(linked: World) -> None:
    linked.put("/v1/a/segments/1", b"one")
    made = linked.put("/v1/a/segments/big", b'[{"path": "/segments/1"}]', query={"multipart-manifest": "put"})
    linked.put("/v1/a/c/big", x_symlink_target="segments/big")
    got = linked.get("/v1/a/c/big", range="bytes=1-")
    assert (got.status, got.read(), got.headers["etag"]) == (206, b"ne", made.headers["etag"])
    own = linked.head("/v1/a/segments/big").headers["x-manifest-etag"]
    assert linked.put("/v1/a/c/s", x_symlink_target="segments/big", x_symlink_target_etag=own).status == 201
    assert linked.get("/v1/a/c/s").read() == b"one"
    entry = json.loads(linked.get("/v1/a/c", query={"format": "json", "prefix": "s"}).read())[0]
    assert (entry["symlink_bytes"], entry["slo_etag"]) == (3, made.headers["etag"])
