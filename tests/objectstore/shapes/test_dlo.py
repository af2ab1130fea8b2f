"""Dynamic large objects."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from altostack.objectstore.middleware.joined import Cut
from tests.objectstore.shapes.clients import LENIENT, limited
from tests.objectstore.shapes.conftest import PIPELINE
from tests.objectstore.world import World, world


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def fill(store: World, *contents: bytes) -> str:
    """Segments and a manifest; the ETag of the whole."""
    for number, content in enumerate(contents):
        assert store.put(f"/v1/a/segments/big/{number:04}", content).status == 201
    assert (
        store.put("/v1/a/c/big", b"", x_object_manifest="segments/big/", content_type="text/x").status == 201
    )
    return md5("".join(map(md5, contents)).encode())


def test_it_is_what_its_prefix_names(container: World) -> None:
    etag = fill(container, b"one,", b"two,", b"three")
    got = container.get("/v1/a/c/big")
    assert (got.status, got.headers["content-length"], got.headers["etag"]) == (200, "13", f'"{etag}"')
    assert got.read() == b"one,two,three"
    assert got.headers["x-object-manifest"] == "segments/big/"
    assert got.headers["content-type"] == "text/x"
    head = container.head("/v1/a/c/big")
    assert (head.headers["content-length"], head.headers["etag"]) == ("13", f'"{etag}"')
    container.put("/v1/a/segments/big/0003", b"!")
    container.delete("/v1/a/segments/big/0001")
    assert container.get("/v1/a/c/big").read() == b"one,three!"


def test_the_manifest_itself(container: World) -> None:
    fill(container, b"one")
    got = container.get("/v1/a/c/big", query={"multipart-manifest": "get"})
    assert (got.read(), got.headers["x-object-manifest"]) == (b"", "segments/big/")
    assert got.headers["etag"] == md5(b"")


@pytest.mark.parametrize("said", ["segments", "/prefix", "segments/", "segments//x", "a/b?c", "a/b&c"])
def test_what_is_no_manifest(container: World, said: str) -> None:
    assert container.put("/v1/a/c/big", b"", x_object_manifest=said).status == 400


def test_a_post_makes_one(container: World) -> None:
    container.put("/v1/a/segments/x/1", b"one")
    container.put("/v1/a/c/o", b"own")
    assert container.post("/v1/a/c/o", x_object_manifest="segments").status == 400
    assert container.post("/v1/a/c/o", x_object_manifest="segments/x/").status == 202
    got = container.get("/v1/a/c/o")
    assert (got.read(), got.headers["x-object-manifest"]) == (b"one", "segments/x/")
    assert container.post("/v1/a/c/o").status == 202
    assert container.get("/v1/a/c/o").read() == b"own"


def test_names_are_quoted(container: World) -> None:
    container.put("/v1/a/segments/ü ?/1", b"x")
    container.put("/v1/a/c/big", b"", x_object_manifest="segments/%C3%BC%20%3F/")
    assert container.get("/v1/a/c/big").read() == b"x"


def test_conditions_are_about_the_whole(container: World) -> None:
    etag = fill(container, b"one", b"two")
    for method in ("GET", "HEAD"):
        assert container.ask(method, "/v1/a/c/big", if_none_match=etag).status == 304
        assert container.ask(method, "/v1/a/c/big", if_match=f'"{etag}"').status == 200
        assert container.ask(method, "/v1/a/c/big", if_match=md5(b"")).status == 412
        assert container.ask(method, "/v1/a/c/big", if_none_match=md5(b"")).status == 200


def test_a_container_that_is_not_there(container: World) -> None:
    container.put("/v1/a/c/big", b"", x_object_manifest="none/x")
    assert container.get("/v1/a/c/big").status == 404


def test_no_segments_no_bytes(container: World) -> None:
    container.put("/v1/a/c/big", b"own", x_object_manifest="segments/x")
    got = container.get("/v1/a/c/big")
    assert (got.status, got.read(), got.headers["content-length"]) == (200, b"", "0")


def test_segments_that_vanish_end_it(container: World) -> None:
    fill(container, b"one", b"two")
    answer = container.get("/v1/a/c/big")
    container.delete("/v1/a/segments/big/0001")
    with pytest.raises(Cut):
        answer.read()


def test_nobody_reads_segments_through_a_manifest(container: World) -> None:
    fill(container, b"secret")
    assert limited(container, read=("c",))("GET", "/v1/a/c/big").status == 403
    assert limited(container, read=("c", "segments"))("GET", "/v1/a/c/big").read() == b"secret"


def test_more_segments_than_one_list_has(tmp_path: Path) -> None:
    store = world(tmp_path, pipeline=PIPELINE, settings={"listing_limit": 3})
    store.put("/v1/a/c")
    store.put("/v1/a/segments")
    contents = [f"{number:02}".encode() for number in range(10)]
    fill(store, *contents)
    got = store.get("/v1/a/c/big")
    assert "content-length" not in got.headers
    assert got.read() == b"".join(contents)
    part = store.get("/v1/a/c/big", range="bytes=1-4")
    assert (part.status, part.read()) == (206, b"".join(contents)[1:5])
    assert store.get("/v1/a/c/big", range="bytes=-2").status == 200


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=LENIENT,
)
@given(data=st.data())
def test_ranges_are_slices(container: World, data: st.DataObject) -> None:
    for entry in container.get("/v1/a/segments").read().decode().split():
        container.delete(f"/v1/a/segments/{entry}")
    contents = data.draw(st.lists(st.binary(max_size=12), min_size=1, max_size=6).filter(any))
    fill(container, *contents)
    whole = b"".join(contents)
    first = data.draw(st.integers(0, len(whole) - 1))
    last = data.draw(st.integers(first, len(whole) + 3))
    got = container.get("/v1/a/c/big", range=f"bytes={first}-{last}")
    assert (got.status, got.read()) == (206, whole[first : last + 1])
    count = data.draw(st.integers(1, len(whole) + 2))
    assert container.get("/v1/a/c/big", range=f"bytes=-{count}").read() == whole[-count:]
    assert container.get("/v1/a/c/big", range=f"bytes={len(whole)}-").status == 416
