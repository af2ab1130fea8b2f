"""Versions of objects: X-Versions-Enabled."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from altostack.objectstore.http import Bytes, Request, ask
from altostack.objectstore.middleware import hidden
from altostack.objectstore.middleware.versioned import CHANGE_VERSION
from tests.objectstore.shapes.clients import LENIENT, limited
from tests.objectstore.world import World, run_together

MARKER = "application/x-deleted;swift_versions_deleted=1"


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def versions(store: World, path: str = "/v1/a/v", **query: str) -> list[dict[str, Any]]:
    answer = store.get(path, query={"versions": "", **query})
    assert answer.status == 200, answer.read()
    assert answer.headers["content-type"].startswith("application/json")
    found: list[dict[str, Any]] = json.loads(answer.read())
    return found


def put(store: World, content: bytes, name: str = "o", **more: Any) -> str:
    answer = store.put(f"/v1/a/v/{name}", content, **more)
    assert answer.status == 201
    return answer.headers.get("x-object-version-id", "null")


@pytest.fixture
def kept(container: World) -> World:
    assert container.put("/v1/a/v", x_versions_enabled="true").status == 201
    return container


def test_versions_stay(kept: World) -> None:
    first, second = put(kept, b"one", x_object_meta_n="1"), put(kept, b"second", x_object_meta_n="2")
    assert first < second
    got = kept.get("/v1/a/v/o")
    assert (got.read(), got.headers["x-object-version-id"], got.headers["x-object-meta-n"]) == (
        b"second",
        second,
        "2",
    )
    assert got.headers["content-location"] == f"/v1/a/v/o?version-id={second}"
    assert got.headers["etag"] == md5(b"second")
    old = kept.get("/v1/a/v/o", query={"version-id": first})
    assert (old.read(), old.headers["x-object-version-id"], old.headers["x-object-meta-n"]) == (
        b"one",
        first,
        "1",
    )
    assert kept.head("/v1/a/v/o", query={"version-id": first}).headers["content-length"] == "3"
    assert kept.get("/v1/a/v/o", query={"version-id": first}, range="bytes=1-").read() == b"ne"
    assert [(one["version_id"], one["is_latest"], one["bytes"], one["hash"]) for one in versions(kept)] == [
        (second, True, 6, md5(b"second")),
        (first, False, 3, md5(b"one")),
    ]
    (entry,) = json.loads(kept.get("/v1/a/v", query={"format": "json"}).read())
    assert (entry["name"], entry["bytes"], entry["hash"]) == ("o", 6, md5(b"second"))
    assert entry["symlink_path"] == f"/v1/a/v/o?version-id={second}"
    head = kept.head("/v1/a/v").headers
    assert (head["x-versions-enabled"], head["x-container-object-count"]) == ("True", "1")
    assert head["x-container-bytes-used"] == "9"


def test_deletes_leave_markers(kept: World) -> None:
    first = put(kept, b"one")
    gone = kept.delete("/v1/a/v/o")
    marker = gone.headers["x-object-version-id"]
    assert gone.status == 204
    assert kept.get("/v1/a/v/o").status == 404
    assert kept.get("/v1/a/v").status == 204
    assert [
        (one["version_id"], one["is_latest"], one["content_type"] == MARKER) for one in versions(kept)
    ] == [
        (marker, True, True),
        (first, False, False),
    ]
    read = kept.get("/v1/a/v/o", query={"version-id": marker})
    assert (read.status, read.headers["x-object-version-id"]) == (404, marker)
    assert kept.put("/v1/a/v/o", query={"version-id": marker}).status == 404
    again = kept.delete("/v1/a/v/o", query={"version-id": marker})
    assert (again.status, again.headers["x-object-current-version-id"]) == (204, "null")
    assert kept.get("/v1/a/v/o").status == 404  # a marker that is deleted brings nothing back (as in Swift)
    assert kept.put("/v1/a/v/o", query={"version-id": first}).status == 201
    assert kept.get("/v1/a/v/o").read() == b"one"


def test_versions_are_restored_and_deleted(kept: World) -> None:
    first, second = put(kept, b"one"), put(kept, b"second")
    restored = kept.put("/v1/a/v/o", query={"version-id": first})
    assert (restored.status, restored.headers["x-object-version-id"]) == (201, first)
    assert kept.get("/v1/a/v/o").read() == b"one"
    assert [(one["version_id"], one["is_latest"]) for one in versions(kept)] == [
        (second, False),
        (first, True),
    ]
    gone = kept.delete("/v1/a/v/o", query={"version-id": second})
    assert (gone.status, gone.headers["x-object-current-version-id"]) == (204, first)
    gone = kept.delete("/v1/a/v/o", query={"version-id": first})
    assert (gone.status, gone.headers["x-object-current-version-id"]) == (204, "null")
    assert versions(kept) == []
    assert kept.get("/v1/a/v/o").status == 404
    assert kept.delete("/v1/a/v/o", query={"version-id": first}).status == 404
    assert kept.put("/v1/a/v/o", query={"version-id": first}).status == 404


def test_what_was_there_before(container: World) -> None:
    container.put("/v1/a/v")
    put(container, b"old", x_object_meta_n="0")
    assert container.post("/v1/a/v", x_versions_enabled="yes").status == 204
    got = container.get("/v1/a/v/o")
    assert (got.read(), got.headers["x-object-version-id"]) == (b"old", "null")
    assert [(one["version_id"], one["is_latest"]) for one in versions(container)] == [("null", True)]
    assert container.get("/v1/a/v/o", query={"version-id": "null"}).read() == b"old"
    new = put(container, b"new")
    (latest, before) = versions(container)
    assert (latest["version_id"], before["is_latest"], before["bytes"]) == (new, False, 3)
    old = container.get("/v1/a/v/o", query={"version-id": before["version_id"]})
    assert (old.read(), old.headers["x-object-meta-n"]) == (b"old", "0")
    assert container.get("/v1/a/v/o", query={"version-id": "null"}).status == 404
    assert container.delete("/v1/a/v/o", query={"version-id": "null"}).status == 404


def test_suspended(kept: World) -> None:
    first = put(kept, b"one")
    assert kept.post("/v1/a/v", x_versions_enabled="false").status == 204
    assert kept.head("/v1/a/v").headers["x-versions-enabled"] == "False"
    assert put(kept, b"two") == "null"
    assert put(kept, b"three") == "null"
    assert [(one["version_id"], one["is_latest"]) for one in versions(kept)] == [
        ("null", True),
        (first, False),
    ]
    assert kept.get("/v1/a/v/o", query={"version-id": first}).read() == b"one"
    assert kept.delete("/v1/a/v/o").status == 204
    assert [one["version_id"] for one in versions(kept)] == [first]
    assert kept.delete("/v1/a/v/o", query={"version-id": first}).status == 204


def test_posts_go_to_the_version(kept: World) -> None:
    first = put(kept, b"one", x_object_meta_a="1")
    second = put(kept, b"two", x_object_meta_a="2")
    assert kept.post("/v1/a/v/o", x_object_meta_a="3").status == 202
    assert kept.head("/v1/a/v/o").headers["x-object-meta-a"] == "3"
    assert kept.head("/v1/a/v/o", query={"version-id": second}).headers["x-object-meta-a"] == "3"
    assert kept.head("/v1/a/v/o", query={"version-id": first}).headers["x-object-meta-a"] == "1"
    assert kept.post("/v1/a/v/o", query={"version-id": first}).status == 400


def test_conditions(kept: World) -> None:
    assert kept.put("/v1/a/v/o", b"one", if_none_match="*").status == 201
    assert kept.put("/v1/a/v/o", b"two", if_none_match="*").status == 412
    assert kept.put("/v1/a/v/o", b"two", if_match="no").status == 412
    assert len(versions(kept)) == 1
    assert kept.put("/v1/a/v/o", b"two", if_match=md5(b"one")).status == 201
    assert kept.put("/v1/a/v/o", b"x", etag=md5(b"y")).status == 422
    assert len(versions(kept)) == 2
    assert kept.get("/v1/a/v/o", if_none_match=md5(b"two")).status == 304
    assert kept.get("/v1/a/v/o", if_match=md5(b"two")).status == 200
    assert kept.get("/v1/a/v/o", if_match=md5(b"")).status == 412


def test_what_makes_no_sense(kept: World) -> None:
    put(kept, b"one")
    assert kept.get("/v1/a/v/o", query={"version-id": "x"}).status == 400
    assert kept.get("/v1/a/c/o", query={"version-id": "1.0"}).status == 400
    assert kept.put("/v1/a/v/o", b"x", query={"version-id": "1.0"}).status == 400
    assert kept.put("/v1/a/v/o", query={"version-id": "null"}).status == 400
    assert kept.put("/v1/a/v/o", query={"version-id": "1.0"}).status == 404
    assert kept.get("/v1/a/v", query={"versions": "", "version_marker": "1.0"}).status == 400
    assert kept.get("/v1/a/v", query={"versions": "", "marker": "o", "version_marker": "x"}).status == 400
    assert kept.get("/v1/a/v", query={"versions": "", "delimiter": "1"}).status == 400
    assert kept.get("/v1/a/v", query={"versions": ""}, accept="application/xml").status == 406
    assert kept.post("/v1/a/c", x_versions_location="v").status == 204
    assert kept.post("/v1/a/c", x_versions_enabled="true").status == 400


def test_containers_go_when_all_versions_are_gone(kept: World) -> None:
    first = put(kept, b"one")
    assert kept.delete("/v1/a/v").status == 409
    marker = kept.delete("/v1/a/v/o").headers["x-object-version-id"]
    assert kept.delete("/v1/a/v").status == 409
    for version in (first, marker):
        assert kept.delete("/v1/a/v/o", query={"version-id": version}).status == 204
    assert kept.delete("/v1/a/v").status == 204
    assert kept.store.known.container("a", hidden.container_of("v")) is None
    assert kept.get("/v1/a/v").status == 404


def test_nothing_hidden_is_seen(kept: World) -> None:
    put(kept, b"one")
    put(kept, b"second")
    secret = hidden.container_of("v")
    for query in ({}, {"reverse": "on"}, {"prefix": secret}, {"marker": "v"}, {"end_marker": secret + "z"}):
        assert secret not in kept.get("/v1/a", query=query).read().decode()
    assert kept.get("/v1/a", query={"reverse": "on"}).read() == b"v\nsegments\nc\n"
    entry = {one["name"]: one for one in json.loads(kept.get("/v1/a", query={"format": "json"}).read())}
    assert (entry["v"]["bytes"], entry["v"]["count"], entry["c"]["bytes"]) == (9, 1, 0)
    version = versions(kept)[0]["version_id"]
    name = hidden.name_of("o", version)
    for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
        assert kept.ask(method, f"/v1/a/{secret}").status == 412
        assert kept.ask(method, f"/v1/a/{secret}/{name}").status == 412
    assert kept.put("/v1/a/c/l", x_symlink_target=f"{secret}/{name}").status == 412
    assert kept.put("/v1/a/c/l", x_copy_from=f"{secret}/{name}").status == 412
    body = json.dumps([{"path": f"/{secret}/{name}"}]).encode()
    assert kept.put("/v1/a/c/l", body, query={"multipart-manifest": "put"}).status == 400
    kept.put("/v1/a/c/dlo", b"", x_object_manifest=f"{secret}/o")
    assert kept.get("/v1/a/c/dlo").status == 412
    assert kept.post("/v1/a/c", x_history_location=secret).status == 412


def test_rights(kept: World) -> None:
    first = put(kept, b"one")
    put(kept, b"two")
    reader, writer = limited(kept, read=("v",)), limited(kept, write=("v",))
    assert reader("GET", "/v1/a/v/o").read() == b"two"
    assert reader("GET", "/v1/a/v/o", query={"version-id": first}).read() == b"one"
    assert writer("GET", "/v1/a/v/o").status == 403
    assert writer("GET", "/v1/a/v/o", query={"version-id": first}).status == 403
    before = versions(kept)
    for query in ({}, {"version-id": first}):
        assert reader("DELETE", "/v1/a/v/o", query=query).status == 403
        assert reader("PUT", "/v1/a/v/o", query=query).status == 403
    assert reader("POST", "/v1/a/v/o").status == 403
    assert versions(kept) == before
    assert writer("PUT", "/v1/a/v/o", b"three").status == 201
    assert writer("DELETE", "/v1/a/v/o", query={"version-id": first}).status == 204
    assert writer("DELETE", "/v1/a/v/o").status == 204


def test_no_link_carries_rights_away(kept: World) -> None:
    """A copy of the link to a version, pointed elsewhere, gives access to nothing that the client may not read."""
    put(kept, b"one")
    kept.put("/v1/a/segments/secret", b"secret")
    client = limited(kept, read=("v", "c"), write=("c", "v"))
    moved = {"x_copy_from": "v/o", "x_symlink_target": "segments/secret", "x_symlink_target_etag": ""}
    assert client("PUT", "/v1/a/c/l", query={"symlink": "get"}, **moved).status == 201
    assert client("GET", "/v1/a/c/l").status == 403
    assert client("PUT", "/v1/a/v/l", x_symlink_target="segments/secret").status == 201
    assert client("GET", "/v1/a/v/l").status == 403
    (version,) = (one["version_id"] for one in versions(kept, prefix="l"))
    assert client("GET", "/v1/a/v/l", query={"version-id": version}).status == 403
    assert kept.get("/v1/a/v/l").read() == b"secret"


def test_large_objects_and_links_have_versions(kept: World) -> None:
    kept.put("/v1/a/segments/1", b"segment")
    body, query = b'[{"path": "/segments/1"}]', {"multipart-manifest": "put"}
    large = kept.put("/v1/a/v/o", body, query=query)
    first = large.headers["x-object-version-id"]
    assert kept.put("/v1/a/v/o", b"plain").status == 201
    old = kept.get("/v1/a/v/o", query={"version-id": first}, range="bytes=1-3")
    assert (old.status, old.read(), old.headers["etag"]) == (206, b"egm", large.headers["etag"])
    (_, entry) = versions(kept)
    assert (entry["bytes"], entry["slo_etag"]) == (7, large.headers["etag"])
    kept.put("/v1/a/v/o", query={"version-id": first})
    assert kept.get("/v1/a/v/o").read() == b"segment"
    assert kept.get("/v1/a/v/o", if_none_match=large.headers["etag"]).status == 304
    (entry,) = json.loads(kept.get("/v1/a/v", query={"format": "json"}).read())
    assert (entry["bytes"], entry["slo_etag"]) == (7, large.headers["etag"])
    assert kept.put("/v1/a/v/o", x_symlink_target="segments/1").status == 201
    assert kept.get("/v1/a/v/o").read() == b"segment"
    copied = kept.put("/v1/a/c/copy", x_copy_from="v/o", query={"version-id": first})
    assert (copied.status, copied.headers["x-copied-from-version-id"]) == (201, first)
    assert kept.get("/v1/a/c/copy").read() == b"segment"


def test_large_objects_of_a_version_go_with_their_segments(kept: World) -> None:
    kept.put("/v1/a/segments/1", b"segment")
    made = kept.put("/v1/a/v/o", b'[{"path": "/segments/1"}]', query={"multipart-manifest": "put"})
    put(kept, b"newer")
    query = {"multipart-manifest": "delete", "version-id": made.headers["x-object-version-id"]}
    assert b"Number Deleted: 2" in kept.delete("/v1/a/v/o", query=query).read()
    assert kept.head("/v1/a/segments/1").status == 404
    assert kept.get("/v1/a/v/o").read() == b"newer"
    assert len(versions(kept)) == 1


def test_links_to_objects_that_have_versions(kept: World) -> None:
    kept.put("/v1/a/w", x_versions_enabled="true")
    kept.put("/v1/a/w/target", b"old")
    target = kept.put("/v1/a/w/target", b"new").headers["x-object-version-id"]
    kept.put("/v1/a/c/link", x_symlink_target="w/target")
    own = kept.put("/v1/a/v/link", x_symlink_target="w/target").headers["x-object-version-id"]
    location = f"/v1/a/w/target?version-id={target}"
    got = kept.get("/v1/a/c/link")
    assert (got.read(), got.headers["content-location"]) == (b"new", location)
    assert "x-object-version-id" not in got.headers
    for query in ({}, {"version-id": own}):
        got = kept.get("/v1/a/v/link", query=query)
        assert (got.read(), got.headers["content-location"]) == (b"new", location)
        assert got.headers["x-object-version-id"] == own
    static = kept.put("/v1/a/c/s", x_symlink_target="w/target", x_symlink_target_etag=md5(b"new"))
    assert static.status == 201
    assert kept.get("/v1/a/c/s").read() == b"new"
    wrong = kept.put("/v1/a/c/s", x_symlink_target="w/target", x_symlink_target_etag=md5(b"old"))
    assert (wrong.status, wrong.headers["content-location"]) == (409, location)
    kept.put("/v1/a/w/target", b"newest")
    assert kept.get("/v1/a/c/s").status == 409
    assert kept.get("/v1/a/v/link").read() == b"newest"
    head = kept.head("/v1/a/v/link", query={"symlink": "get"})
    assert (head.headers["x-object-version-id"], head.headers["x-symlink-target"]) == (
        own, f"v/link?version-id={own}",
    )  # fmt: skip


def test_lists_in_pieces(kept: World) -> None:
    for name in ("a", "a\x01", "a\x02b", "aa", "b/1", "b/2", "ü"):
        for content in (b"1", b"22"):
            put(kept, content, name)
    kept.delete("/v1/a/v/aa")
    kept.delete("/v1/a/v/b/1")
    whole = versions(kept)
    assert [one["name"] for one in whole] == sorted([one["name"] for one in whole], key=str.encode)
    assert len(whole) == 16
    for reverse in ({}, {"reverse": "on"}):
        full = whole[::-1] if reverse else whole
        assert versions(kept, **reverse) == full
        for limit in (1, 2, 3, 5):
            found: list[dict[str, Any]] = []
            query: dict[str, str] = {}
            while page := versions(kept, limit=str(limit), **reverse, **query):
                found += page
                query = {"marker": page[-1]["name"], "version_marker": page[-1]["version_id"]}
            assert found == full
    assert versions(kept, marker="aa") == [one for one in whole if one["name"] > "aa"]
    assert versions(kept, end_marker="aa") == [one for one in whole if one["name"] < "aa"]
    assert versions(kept, prefix="a") == [one for one in whole if one["name"].startswith("a")]
    assert versions(kept, delimiter="/", prefix="b") == [{"subdir": "b/"}]
    assert versions(kept, delimiter="/", prefix="b/") == [one for one in whole if one["name"][0] == "b"]


def test_our_own_requests_may_change_a_version(kept: World) -> None:
    first, second = put(kept, b"one", x_object_meta_a="1"), put(kept, b"two", x_object_meta_a="2")
    request = Request(
        "POST", "/v1/a/v/o", query_string=f"version-id={first}", headers={"x-object-meta-a": "3"}
    )
    request.facts[CHANGE_VERSION] = True
    assert kept.store.app is not None
    assert ask(kept.store.app, request).status == 202
    assert kept.head("/v1/a/v/o", query={"version-id": first}).headers["x-object-meta-a"] == "3"
    assert kept.head("/v1/a/v/o", query={"version-id": second}).headers["x-object-meta-a"] == "2"


def test_writers_at_the_same_time(kept: World) -> None:
    run_together(8, lambda number: put(kept, bytes([number]) * number))
    found = versions(kept)
    assert sorted(one["bytes"] for one in found) == list(range(8))
    assert [one["is_latest"] for one in found] == [True] + [False] * 7
    assert kept.get("/v1/a/v/o").headers["x-object-version-id"] == found[0]["version_id"]


def test_footers_belong_to_what_the_client_sends(container: World) -> None:
    container.put("/v1/a/v")
    put(container, b"old")
    container.post("/v1/a/v", x_versions_enabled="true")
    seen = []

    def footers(metadata: dict[str, str]) -> None:
        seen.append(metadata["etag"])
        metadata["x-object-meta-sum"] = metadata["etag"]

    request = Request("PUT", "/v1/a/v/o", headers={"content-length": "3"}, body=Bytes(b"new"))
    request.facts["footers"] = footers
    assert container.store.app is not None
    assert ask(container.store.app, request).status == 201
    assert seen == [md5(b"new")]
    assert container.head("/v1/a/v/o").headers["x-object-meta-sum"] == md5(b"new")
    (_, before) = versions(container)
    old = container.head("/v1/a/v/o", query={"version-id": before["version_id"]})
    assert "x-object-meta-sum" not in old.headers


@dataclass
class Model:
    """What is to be seen of one object."""

    versions: list[tuple[str, bytes | None]] = field(default_factory=list)  # the oldest first; None: a marker
    current: str | None = None

    def listing(self) -> list[tuple[str, bool, int]]:
        found = []
        newest = True
        for version, content in sorted(self.versions, reverse=True):
            marker_is_seen = content is None and newest and self.current is None
            found.append((version, version == self.current or marker_is_seen, len(content or b"")))
            newest = False
        return found


STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "delete", "restore", "drop", "post"]), st.integers(0, 9)), max_size=12
)


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=LENIENT,
)
@given(steps=STEPS)
def test_as_the_model_says(kept: World, steps: list[tuple[str, int]]) -> None:
    store, model = kept, Model()
    for entry in versions(store):
        store.delete("/v1/a/v/o", query={"version-id": entry["version_id"]})
    for step, number in steps:
        chosen, content = model.versions[number % len(model.versions)] if model.versions else ("1.0", None)
        if step == "put":
            version = put(store, b"x" * number)
            model.versions.append((version, b"x" * number))
            model.current = version
        elif step == "delete":
            answer = store.delete("/v1/a/v/o")
            assert answer.status == (204 if model.current else 404)
            model.versions.append((answer.headers["x-object-version-id"], None))
            model.current = None
        elif step == "restore":
            answer = store.put("/v1/a/v/o", query={"version-id": chosen})
            assert answer.status == (404 if content is None else 201)
            if content is not None:
                model.current = chosen
        elif step == "drop":
            answer = store.delete("/v1/a/v/o", query={"version-id": chosen})
            assert answer.status == (204 if model.versions else 404)
            model.versions = [one for one in model.versions if one[0] != chosen]
            if model.current == chosen:
                model.current = None
        else:
            assert store.post("/v1/a/v/o").status == (202 if model.current else 404)
        assert [
            (one["version_id"], one["is_latest"], one["bytes"]) for one in versions(store)
        ] == model.listing()
        seen = store.get("/v1/a/v/o")
        assert seen.status == (200 if model.current else 404)
        if model.current:
            assert seen.read() == dict(model.versions)[model.current]
        for version, content in model.versions:
            got = store.get("/v1/a/v/o", query={"version-id": version})
            assert (got.status, got.read() if content is not None else None) == (
                200 if content is not None else 404,
                content,
            )


@given(
    st.lists(st.text(alphabet="\x01\x02\x03ab", max_size=4), min_size=2, max_size=2), st.integers(0, 10**18)
)
def test_names_of_versions_keep_the_order(names: list[str], time: int) -> None:
    one, other = names
    version = f"{time // 10**9:010d}.{time % 10**9:09d}"
    assert hidden.parse(hidden.name_of(one, version)) == (one, version)
    if one < other:
        assert hidden.name_of(one, "9999999998.0") < hidden.behind(one) < hidden.before(other)
        assert hidden.behind(one) < hidden.name_of(other, version)
    assert hidden.escaped(one + other).startswith(hidden.escaped(one))
    assert hidden.name_of(one, "2.0") < hidden.name_of(one, "1.0")
