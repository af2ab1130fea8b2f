"""Accounts: made by use, described, counted, listed, deleted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from altostack.objectstore.http import Refusal, Request
from tests.objectstore.proxy.scene import replicated, single
from tests.objectstore.world import World


@pytest.fixture
def one(tmp_path: Path) -> Iterator[World]:
    made = single(tmp_path)
    yield made
    made.close()


def test_an_account_nobody_used_looks_empty(one: World) -> None:
    head = one.head("/v1/AUTH_new")
    assert head.status == 204
    assert head.headers["x-account-container-count"] == "0"
    assert head.headers["x-account-object-count"] == "0"
    assert head.headers["x-account-bytes-used"] == "0"
    assert head.headers["x-backend-fake-account-listing"] == "yes"
    assert one.get("/v1/AUTH_new").entries == []
    assert one.head("/v1/AUTH_new/c").status == 404


def test_counts_are_seen_at_once(one: World) -> None:
    for name in ("c1", "c2"):
        assert one.put(f"/v1/AUTH_a/{name}").status == 201
    one.put("/v1/AUTH_a/c1/o", b"12345")
    one.put("/v1/AUTH_a/c1/p", b"123")
    head = one.head("/v1/AUTH_a")
    assert head.headers["x-account-container-count"] == "2"
    assert head.headers["x-account-object-count"] == "2"
    assert head.headers["x-account-bytes-used"] == "8"
    assert head.headers["x-account-storage-policy-standard-container-count"] == "2"
    assert head.headers["x-account-storage-policy-standard-object-count"] == "2"
    assert head.headers["x-account-storage-policy-standard-bytes-used"] == "8"
    one.delete("/v1/AUTH_a/c1/o")
    entries = one.get("/v1/AUTH_a").entries or []
    assert [(entry["name"], entry["count"], entry["bytes"]) for entry in entries] == [
        ("c1", 1, 3), ("c2", 0, 0),
    ]  # fmt: skip
    assert entries[0]["storage_policy"] == "standard"
    one.delete("/v1/AUTH_a/c1/p")
    one.delete("/v1/AUTH_a/c1")
    one.delete("/v1/AUTH_a/c2")
    assert one.head("/v1/AUTH_a").headers["x-account-container-count"] == "0"


def test_counts_reach_the_account_without_being_asked(one: World) -> None:
    one.put("/v1/AUTH_a/c")
    one.put("/v1/AUTH_a/c/o", b"12345")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        info = one.store.known.account("AUTH_a")
        one.store.epoch.bump()
        if info is not None and info.count == 1:
            return
        time.sleep(0.05)
    raise AssertionError("the account was never told")


def test_metadata_is_set_kept_and_taken_away(one: World) -> None:
    assert one.post("/v1/AUTH_a", x_account_meta_color="red", x_account_meta_shape="round").status == 204
    assert one.post("/v1/AUTH_a", x_account_meta_size="big").status == 204
    headers = one.head("/v1/AUTH_a").headers
    assert [headers[f"x-account-meta-{name}"] for name in ("color", "shape", "size")] == [
        "red",
        "round",
        "big",
    ]
    assert one.post("/v1/AUTH_a", x_remove_account_meta_color="x", x_account_meta_shape="").status == 204
    headers = one.head("/v1/AUTH_a").headers
    assert "x-account-meta-color" not in headers
    assert "x-account-meta-shape" not in headers
    assert headers["x-account-meta-size"] == "big"


def test_metadata_limits(one: World) -> None:
    assert one.post("/v1/AUTH_a", **{"x-account-meta-" + "n" * 128: "v" * 256}).status == 204
    assert one.post("/v1/AUTH_a", **{"x-account-meta-" + "n" * 129: "v"}).status == 400
    assert one.post("/v1/AUTH_a", **{"x-account-meta-n": "v" * 257}).status == 400
    assert one.post("/v1/AUTH_a", **{"x-account-meta-": "v"}).status == 400
    assert one.post("/v1/AUTH_b", **{f"x-account-meta-{n}": "v" for n in range(90)}).status == 204
    assert one.post("/v1/AUTH_b", **{f"x-account-meta-{n}": "v" for n in range(91)}).status == 400
    assert one.post("/v1/AUTH_b", **{"x-account-meta-one-more": "v"}).status == 400
    assert (
        one.post("/v1/AUTH_b", **{"x-remove-account-meta-0": "", "x-account-meta-one-more": "v"}).status
        == 204
    )
    assert one.post("/v1/AUTH_c", **{f"x-account-meta-{n:02}": "v" * 254 for n in range(16)}).status == 204
    assert one.post("/v1/AUTH_c", **{"x-account-meta-x": "v"}).status == 400


def test_put_and_delete(one: World) -> None:
    assert one.put("/v1/AUTH_a", x_account_meta_color="red").status == 201
    assert one.put("/v1/AUTH_a").status == 202
    assert one.head("/v1/AUTH_a").headers["x-account-meta-color"] == "red"
    assert one.delete("/v1/AUTH_none").status == 404
    one.put("/v1/AUTH_a/c")
    one.put("/v1/AUTH_a/c/o", b"x")
    assert one.delete("/v1/AUTH_a", query={"oops": "1"}).status == 400
    assert one.delete("/v1/AUTH_a").status == 204
    assert one.head("/v1/AUTH_a").status == 410
    assert one.get("/v1/AUTH_a").status == 410
    assert one.head("/v1/AUTH_a/c").status == 404
    assert one.get("/v1/AUTH_a/c/o").status == 404
    assert one.put("/v1/AUTH_a/c/o", b"x").status == 404
    assert one.put("/v1/AUTH_a").status == 403
    assert one.put("/v1/AUTH_a/d").status == 403
    assert one.post("/v1/AUTH_a", x_account_meta_color="red").status == 404


def test_listing_parameters(one: World) -> None:
    for name in ("a-1", "a-2", "b-1", "c"):
        one.put(f"/v1/AUTH_a/{name}")

    def names(**query: str) -> list[str]:
        entries = one.get("/v1/AUTH_a", query=query).entries or []
        return [entry.get("name", entry.get("subdir")) for entry in entries]

    assert names() == ["a-1", "a-2", "b-1", "c"]
    assert names(limit="2") == ["a-1", "a-2"]
    assert names(marker="a-2") == ["b-1", "c"]
    assert names(end_marker="b-1") == ["a-1", "a-2"]
    assert names(prefix="a") == ["a-1", "a-2"]
    assert names(delimiter="-") == ["a-", "b-", "c"]
    assert names(reverse="true") == ["c", "b-1", "a-2", "a-1"]
    assert names(reverse="on", marker="b-1") == ["a-2", "a-1"]
    assert one.get("/v1/AUTH_a", query={"limit": "10001"}).status == 412
    assert one.get("/v1/AUTH_a", query={"limit": "10000"}).status == 200
    assert one.get("/v1/AUTH_a", query={"limit": "x"}).status == 200


def test_long_names(one: World) -> None:
    assert one.get(f"/v1/{'a' * 257}").status == 400
    assert one.put(f"/v1/AUTH_a/{'c' * 257}").status == 400
    assert one.put(f"/v1/AUTH_a/{'c' * 256}").status == 201


def test_three_copies_agree(tmp_path: Path) -> None:
    made = replicated(tmp_path)
    made.post("/v1/AUTH_a", x_account_meta_color="red")
    made.put("/v1/AUTH_a/c")
    made.put("/v1/AUTH_a/c/o", b"123")
    made.head("/v1/AUTH_a")
    ring = made.store.rings.account
    part, digest = ring.locate("AUTH_a")
    from altostack.objectstore.storage import Spot

    for device in ring.nodes(part):
        info = made.store.local.info(Spot(device.device, part, digest), "AUTH_a", None)
        assert (info.containers, info.count, info.bytes) == (1, 1, 3)
        assert info.metadata["x-account-meta-color"][0] == "red"
    made.close()


def test_owners_headers_are_for_owners(one: World) -> None:
    one.post("/v1/AUTH_a", **{"x-account-meta-temp-url-key": "secret"})

    def stranger(request: Request, acl: str | None) -> None:
        request.facts["owner"] = False

    def nobody(request: Request, acl: str | None) -> None:
        raise Refusal(403)

    request = Request("HEAD", "/v1/AUTH_a")
    request.authorize = stranger
    assert one.store.app is not None
    assert "x-account-meta-temp-url-key" not in one.store.app(request).headers
    assert one.head("/v1/AUTH_a").headers["x-account-meta-temp-url-key"] == "secret"
    for method in ("HEAD", "GET", "PUT", "POST", "DELETE"):
        request = Request(method, "/v1/AUTH_a")
        request.authorize = nobody
        with pytest.raises(Refusal) as refused:
            one.store.app(request)
        assert refused.value.status == 403


def test_paths_and_methods(one: World) -> None:
    for path, status in (
        ("/", 404), ("/v1", 412), ("/v1/", 412), ("/v2/AUTH_a", 400), ("/v1//c", 404), ("/v1/AUTH_a//o", 404),
        ("/v1/AUTH_a//", 404), ("/v1/AUTH_a/", 204), ("/v1.0/AUTH_a", 204),
    ):  # fmt: skip
        assert one.head(path).status == status, path
    assert one.ask("PATCH", "/v1/AUTH_a").status == 405
    options = one.ask("OPTIONS", "/v1/AUTH_a/c")
    assert (options.status, options.headers["allow"]) == (200, "HEAD, GET, PUT, POST, OPTIONS, DELETE")


def test_facts(one: World) -> None:
    facts = one.store.facts["swift"]
    assert facts["policies"] == [{"name": "standard", "aliases": "standard", "default": True}]
    assert facts["account_autocreate"] is True
    assert facts["max_file_size"] == 5368709122
