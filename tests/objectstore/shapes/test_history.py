"""Versions of objects: X-Versions-Location and X-History-Location."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from altostack.objectstore.middleware.versions import HISTORY, STACK
from tests.objectstore.shapes.clients import LENIENT, limited
from tests.objectstore.shapes.conftest import PIPELINE
from tests.objectstore.world import World, world

MARKER = "application/x-deleted;swift_versions_deleted=1"


def kept(store: World) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(store.get("/v1/a/old", query={"format": "json"}).read())
    return found


@pytest.fixture
def both(container: World) -> World:
    container.put("/v1/a/old")
    assert container.put("/v1/a/stack", x_versions_location="old").status == 201
    assert container.put("/v1/a/history", x_history_location="old").status == 201
    return container


def test_settings(both: World) -> None:
    assert both.head("/v1/a/stack").headers[STACK] == "old"
    assert both.head("/v1/a/history").headers[HISTORY] == "old"
    assert STACK not in both.head("/v1/a/history").headers
    assert both.post("/v1/a/stack", x_history_location="old").status == 204
    head = both.head("/v1/a/stack").headers
    assert (head.get(HISTORY), head.get(STACK)) == ("old", None)
    assert both.post("/v1/a/stack", x_remove_history_location="x").status == 204
    assert HISTORY not in both.head("/v1/a/stack").headers
    assert both.post("/v1/a/stack", x_versions_location="old", x_history_location="old").status == 400
    assert both.post("/v1/a/stack", x_versions_location="old/x").status == 412
    assert both.post("/v1/a/history", x_history_location="").status == 204
    assert HISTORY not in both.head("/v1/a/history").headers
    assert both.store.facts["versioned_writes"] == {"allowed_flags": [STACK, HISTORY]}


def test_stack(both: World) -> None:
    for content in (b"1", b"22", b"333"):
        assert both.put("/v1/a/stack/o", content, x_object_meta_n=content.decode()).status == 201
    assert [(one["name"].rpartition("/")[0], one["bytes"]) for one in kept(both)] == [
        ("001o", 1),
        ("001o", 2),
    ]
    for content in (b"22", b"1"):
        assert both.delete("/v1/a/stack/o").status == 204
        got = both.get("/v1/a/stack/o")
        assert (got.read(), got.headers["x-object-meta-n"]) == (content, content.decode())
    assert kept(both) == []
    assert both.delete("/v1/a/stack/o").status == 204
    assert both.get("/v1/a/stack/o").status == 404
    assert both.delete("/v1/a/stack/o").status == 404


def test_history(both: World) -> None:
    both.put("/v1/a/history/o", b"1")
    both.put("/v1/a/history/o", b"22")
    assert both.delete("/v1/a/history/o").status == 204
    assert both.get("/v1/a/history/o").status == 404
    assert [(one["bytes"], one["content_type"] == MARKER) for one in kept(both)] == [
        (1, False),
        (2, False),
        (0, True),
    ]
    assert all(";" not in one["hash"] for one in kept(both))
    both.post("/v1/a/history", x_versions_location="old")  # a stack over what the history left
    assert both.delete("/v1/a/history/o").status == 204
    assert both.get("/v1/a/history/o").read() == b"22"
    assert [one["bytes"] for one in kept(both)] == [1]


def test_without_the_other_container(container: World) -> None:
    container.put("/v1/a/stack", x_versions_location="none")
    assert container.put("/v1/a/stack/o", b"1").status == 201
    assert container.put("/v1/a/stack/o", b"2").status == 412
    assert container.get("/v1/a/stack/o").read() == b"1"
    assert container.delete("/v1/a/stack/o").status == 204


def test_links_and_large_objects(both: World) -> None:
    both.put("/v1/a/segments/1", b"one")
    both.put("/v1/a/stack/o", b'[{"path": "/segments/1"}]', query={"multipart-manifest": "put"})
    both.put("/v1/a/stack/o", x_symlink_target="segments/1")
    both.put("/v1/a/stack/o", b"", x_object_manifest="segments/1")
    both.put("/v1/a/stack/o", b"plain")
    assert len(kept(both)) == 3
    both.delete("/v1/a/stack/o")
    assert both.head("/v1/a/stack/o").headers["x-object-manifest"] == "segments/1"
    both.delete("/v1/a/stack/o")
    assert both.head("/v1/a/stack/o", query={"symlink": "get"}).headers["x-symlink-target"] == "segments/1"
    assert both.get("/v1/a/stack/o").read() == b"one"
    both.delete("/v1/a/stack/o")
    assert both.get("/v1/a/stack/o").headers["x-static-large-object"] == "True"
    assert both.get("/v1/a/stack/o").read() == b"one"
    (entry,) = json.loads(both.get("/v1/a/stack", query={"format": "json"}).read())
    assert (entry["bytes"], "slo_etag" in entry) == (3, True)


def test_rights(both: World) -> None:
    for name in ("stack", "history"):
        both.put(f"/v1/a/{name}/o", b"1")
        both.put(f"/v1/a/{name}/o", b"2")
        before = kept(both)
        reader = limited(both, read=(name, "old"))
        assert reader("DELETE", f"/v1/a/{name}/o").status == 403
        assert reader("PUT", f"/v1/a/{name}/o").status == 403
        assert kept(both) == before
        assert both.get(f"/v1/a/{name}/o").read() == b"2"
        writer = limited(both, write=(name,))
        assert writer("PUT", f"/v1/a/{name}/o", b"3").status == 201
        assert writer("DELETE", f"/v1/a/{name}/o").status == 204


@settings(max_examples=10, deadline=None, suppress_health_check=LENIENT)
@given(st.lists(st.integers(-3, 9), max_size=12))
def test_a_stack_is_a_stack(steps: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = world(Path(folder), pipeline=PIPELINE)
        store.put("/v1/a/old")
        store.put("/v1/a/stack", x_versions_location="old")
        model: list[bytes] = []
        for step in steps:
            if step < 0:
                assert store.delete("/v1/a/stack/o").status == (204 if model else 404)
                model = model[:-1]
            else:
                model.append(b"x" * step)
                assert store.put("/v1/a/stack/o", model[-1]).status == 201
            seen = store.get("/v1/a/stack/o")
            assert (seen.status, seen.read() if model else None) == (
                (200, model[-1]) if model else (404, None)
            )
            assert len(kept(store)) == max(0, len(model) - 1)
        store.close()
