"""Copies inside the store."""

from __future__ import annotations

import hashlib
import json

import pytest

from tests.objectstore.shapes.clients import limited
from tests.objectstore.world import World


@pytest.fixture
def source(container: World) -> World:
    container.put(
        "/v1/a/segments/o", b"content", content_type="text/x", x_object_meta_a="1", x_object_meta_b="2",
        content_disposition="attachment",
    )  # fmt: skip
    return container


def test_both_ways(source: World) -> None:
    put = source.put("/v1/a/c/1", x_copy_from="/segments/o", x_object_meta_b="3")
    copy = source.ask("COPY", "/v1/a/segments/o", destination="c/2", x_object_meta_b="3")
    for answer, path in ((put, "/v1/a/c/1"), (copy, "/v1/a/c/2")):
        assert answer.status == 201
        assert answer.headers["etag"] == hashlib.md5(b"content", usedforsecurity=False).hexdigest()
        assert answer.headers["x-copied-from"] == "segments/o"
        assert answer.headers["x-copied-from-account"] == "a"
        assert (
            answer.headers["x-copied-from-last-modified"]
            == source.head("/v1/a/segments/o").headers["last-modified"]
        )
        assert answer.headers["x-object-meta-a"] == "1"
        got = source.get(path)
        assert got.read() == b"content"
        assert (got.headers["content-type"], got.headers["content-disposition"]) == ("text/x", "attachment")
        assert (got.headers["x-object-meta-a"], got.headers["x-object-meta-b"]) == ("1", "3")


def test_fresh_metadata(source: World) -> None:
    source.put("/v1/a/c/o", x_copy_from="segments/o", x_fresh_metadata="true", x_object_meta_c="3")
    head = source.head("/v1/a/c/o").headers
    assert "x-object-meta-a" not in head
    assert (head["x-object-meta-c"], head["content-type"]) == ("3", "text/x")
    source.put("/v1/a/c/o", x_copy_from="segments/o", content_type="text/y")
    assert source.head("/v1/a/c/o").headers["content-type"] == "text/y"


def test_on_itself(source: World) -> None:
    source.ask("COPY", "/v1/a/segments/o", destination="segments/o", x_object_meta_new="n")
    head = source.head("/v1/a/segments/o").headers
    assert (head["x-object-meta-new"], head["x-object-meta-a"], head["content-length"]) == ("n", "1", "7")


def test_other_accounts(source: World) -> None:
    source.put("/v1/b/d")
    answer = source.put("/v1/b/d/1", x_copy_from="segments/o", x_copy_from_account="a")
    assert (answer.status, answer.headers["x-copied-from-account"]) == (201, "a")
    assert source.ask("COPY", "/v1/a/segments/o", destination="d/2", destination_account="b").status == 201
    assert source.get("/v1/b/d/1").read() == source.get("/v1/b/d/2").read() == b"content"
    assert source.put("/v1/b/d/3", x_copy_from="segments/o").status == 404


def test_parts(source: World) -> None:
    assert source.put("/v1/a/c/o", x_copy_from="segments/o", range="bytes=1-3").status == 201
    assert source.get("/v1/a/c/o").read() == b"ont"
    assert source.put("/v1/a/c/o", x_copy_from="segments/o", range="bytes=9-").status == 416


def test_conditions_are_about_the_source(source: World) -> None:
    assert source.put("/v1/a/c/o", x_copy_from="segments/o", if_match="no").status == 412
    assert source.put(
        "/v1/a/c/o", x_copy_from="segments/o", if_match=hashlib.md5(b"content").hexdigest()
    ).good


@pytest.mark.parametrize("said", ["segments", "/segments", "segments/", "/", "a%00/b"])
def test_what_is_no_source(source: World, said: str) -> None:
    assert source.put("/v1/a/c/o", x_copy_from=said).status == 412
    assert source.ask("COPY", "/v1/a/segments/o", destination=said).status == 412


def test_what_is_refused(source: World) -> None:
    assert source.ask("COPY", "/v1/a/segments/o").status == 412
    assert source.put("/v1/a/c/o", b"x", x_copy_from="segments/o").status == 400
    assert source.put("/v1/a/c/o", x_copy_from="segments/none").status == 404
    assert source.put("/v1/a/none/o", x_copy_from="segments/o").status == 404
    assert source.put("/v1/a/c/o", x_copy_from="segments/o", x_copy_from_account="a/b").status == 412


def test_names_are_quoted(source: World) -> None:
    source.put("/v1/a/segments/ü %?", b"x")
    assert (
        source.put("/v1/a/c/o", x_copy_from="segments/%C3%BC%20%25%3F").headers["x-copied-from"]
        == "segments/%C3%BC%20%25%3F"
    )
    assert source.ask("COPY", "/v1/a/segments/o", destination="c/%C3%BC").status == 201
    assert source.head("/v1/a/c/ü").status == 200


def test_large_objects(source: World) -> None:
    for number in range(2):
        source.put(f"/v1/a/segments/p/{number}", str(number).encode() * 3)
    body = json.dumps([{"path": f"/segments/p/{number}"} for number in range(2)]).encode()
    large = source.put("/v1/a/segments/slo", body, query={"multipart-manifest": "put"})
    source.put("/v1/a/segments/dlo", b"", x_object_manifest="segments/p/")
    for name in ("slo", "dlo"):
        assert source.put(f"/v1/a/c/{name}", x_copy_from=f"segments/{name}").status == 201
        got = source.get(f"/v1/a/c/{name}")
        assert got.read() == b"000111"
        assert got.headers["etag"] == hashlib.md5(b"000111").hexdigest()
        assert not {"x-static-large-object", "x-object-manifest"} & got.headers.keys()
        entry = json.loads(source.get("/v1/a/c", query={"format": "json", "prefix": name}).read())[0]
        assert (entry["hash"], entry["bytes"], "slo_etag" in entry) == (got.headers["etag"], 6, False)
        assert source.get(f"/v1/a/c/{name}", if_match=got.headers["etag"]).status == 200
        copied = source.put(
            f"/v1/a/c/m-{name}", x_copy_from=f"segments/{name}", query={"multipart-manifest": "get"}
        )
        assert copied.status == 201
        assert source.get(f"/v1/a/c/m-{name}").read() == b"000111"
    assert source.head("/v1/a/c/m-slo").headers["etag"] == large.headers["etag"]
    assert source.head("/v1/a/c/m-dlo").headers["x-object-manifest"] == "segments/p/"


def test_links(source: World) -> None:
    source.put("/v1/a/c/link", x_symlink_target="segments/o")
    source.put("/v1/a/c/followed", x_copy_from="c/link")
    source.put("/v1/a/c/kept", x_copy_from="c/link", query={"symlink": "get"})
    assert source.head("/v1/a/c/followed", query={"symlink": "get"}).headers["content-length"] == "7"
    assert source.head("/v1/a/c/kept", query={"symlink": "get"}).headers["x-symlink-target"] == "segments/o"


def test_what_is_too_large(container: World) -> None:
    container.put("/v1/a/segments/1", b"x" * 10_000)
    inner = json.dumps([{"path": "/segments/1"}] * 900).encode()
    assert container.put("/v1/a/c/1", inner, query={"multipart-manifest": "put"}).status == 201
    outer = json.dumps([{"path": "/c/1"}] * 900).encode()
    assert container.put("/v1/a/c/2", outer, query={"multipart-manifest": "put"}).status == 201
    assert container.head("/v1/a/c/2").headers["content-length"] == str(10_000 * 900 * 900)
    assert container.put("/v1/a/c/copy", x_copy_from="c/2").status == 413
    assert container.head("/v1/a/c/copy").status == 404


def test_heartbeats(source: World) -> None:
    answer = source.put(
        "/v1/a/c/o", x_copy_from="segments/o", query={"heartbeat": "on"}, accept="application/json"
    )
    assert answer.status == 202
    told = json.loads(answer.read())
    assert (told["Response Status"], told["X-Copied-From"], told["Errors"]) == (
        "201 Created",
        "segments/o",
        [],
    )
    assert source.get("/v1/a/c/o").read() == b"content"


def test_rights_on_both_ends(source: World) -> None:
    header = {"x_copy_from": "segments/o"}
    assert limited(source, read=("segments",), write=("c",))("PUT", "/v1/a/c/o", **header).status == 201
    assert limited(source, read=("segments",))("PUT", "/v1/a/c/1", **header).status == 403
    assert limited(source, write=("c", "segments"))("PUT", "/v1/a/c/1", **header).status == 403
    assert limited(source, read=("segments",))("COPY", "/v1/a/segments/o", destination="c/1").status == 403
    assert limited(source, write=("c",))("COPY", "/v1/a/segments/o", destination="c/1").status == 403
    source.put("/v1/b/d")
    other = limited(source, read=("segments", "c"), write=("d",), account="b")
    assert other("PUT", "/v1/b/d/1", x_copy_from_account="a", **header).status == 403
    assert source.head("/v1/a/c/1").status == source.head("/v1/b/d/1").status == 404
