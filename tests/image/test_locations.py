"""Locations: images whose bits lie elsewhere, the cache that makes them near, and what may be said of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from altostack.image.dialect import PATCH_MEDIA_OLD
from tests.image.stand import TWO, Glance
from tests.image.web import Web, serving

pytestmark = pytest.mark.everywhere
BITS = os.urandom(3_000_000)
SHA256, SHA512 = hashlib.sha256(BITS).hexdigest(), hashlib.sha512(BITS).hexdigest()
MD5 = hashlib.md5(BITS, usedforsecurity=False).hexdigest()


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as web:
        web.files["/disk"] = web.files["/disk#2"] = BITS
        yield web


@pytest.fixture
def glance(tmp_path: Path, web: Web) -> Iterator[Glance]:
    lone = Glance(tmp_path, allow=web.host, stores=TWO, show_locations=True, show_direct_url=True)
    yield lone
    lone.close()


def point(glance: Glance, key: str, url: str, status: int = 202, **validation: str) -> None:
    body: dict[str, Any] = {"url": url}
    if validation:
        body["validation_data"] = validation
    if status == 202:
        glance.call("POST", f"/v2/images/{key}/locations", body)
    else:
        assert glance.refusal("POST", f"/v2/images/{key}/locations", body)[0] == status


# ---- the newer way: a task reads and judges


def test_a_location_is_read_and_judged(glance: Glance, web: Web) -> None:
    key = glance.make()["id"]
    point(glance, key, web.url("/disk"))
    assert glance.task(key)["status"] == "pending"
    point(glance, key, web.url("/disk"), 409)
    glance.run()
    shown = glance.show(key)
    assert (shown["status"], shown["stores"], shown["size"]) == ("active", "web", len(BITS))
    assert (shown["checksum"], shown["os_hash_algo"], shown["os_hash_value"]) == (MD5, "sha512", SHA512)
    assert shown["locations"] == [{"url": web.url("/disk"), "metadata": {"store": "web"}}]
    assert shown["direct_url"] == web.url("/disk")
    assert glance.bits(key) == BITS
    part = glance.client.send("GET", shown["file"], token="member", headers={"Range": "bytes=10-19"})
    assert (part.status, part.read()) == (206, BITS[10:20])
    path = f"/v2/images/{key}/locations"
    assert glance.refusal("GET", path)[0] == 403
    assert glance.call("GET", path, who="service")[0]["url"] == web.url("/disk")
    node = glance.client.send("GET", f"/internal/nodes/n/images/{key}/file", node=glance.node("n"))
    assert node.read() == BITS


def test_a_promised_hash_is_held_to(glance: Glance, web: Web) -> None:
    key = glance.make()["id"]
    point(glance, key, web.url("/disk"), os_hash_algo="sha256", os_hash_value=SHA256)
    glance.run()
    shown = glance.show(key)
    assert (shown["status"], shown["os_hash_algo"], shown["os_hash_value"]) == ("active", "sha256", SHA256)
    assert glance.bits(key) == BITS
    key = glance.make()["id"]
    point(glance, key, web.url("/disk"), os_hash_algo="sha512", os_hash_value="beefdead" * 16)
    glance.run()
    shown = glance.show(key)
    assert (shown["status"], shown["os_hash_algo"], shown["checksum"]) == ("queued", None, None)
    assert glance.task(key)["status"] == "failure" and "promised" in glance.task(key)["message"]
    assert glance.put(key, b"other bits").status == 204
    assert glance.show(key)["stores"] == "files"


@pytest.mark.parametrize(
    "validation",
    [
        {"os_hash_algo": "sha512", "os_hash_value": "dbc9e0"},
        {"os_hash_value": SHA512},
        {"os_hash_algo": "sha512"},
        {"os_hash_algo": "sha123", "os_hash_value": SHA512},
        {"os_hash_algo": "sha512", "os_hash_value": SHA256},
        {"os_hash_algo": "sha256", "os_hash_value": "x" * 64},
    ],
)
def test_bad_promises(glance: Glance, web: Web, validation: dict[str, str]) -> None:
    key = glance.make()["id"]
    point(glance, key, web.url("/disk"), 400, **validation)
    assert glance.show(key)["status"] == "queued"


def test_unsafe_content_elsewhere_is_refused(glance: Glance, web: Web) -> None:
    from tests.image.test_images import qcow2

    web.files["/evil"] = qcow2(backing="/etc/passwd")
    key = glance.make(disk_format="qcow2")["id"]
    point(glance, key, web.url("/evil"))
    glance.run()
    assert glance.show(key)["status"] == "queued"
    assert "backing" in glance.task(key)["message"]


def test_bits_that_were_changed_elsewhere_are_not_delivered_whole(glance: Glance, web: Web) -> None:
    from altostack.image.inspect import UnsafeImage

    key = glance.make()["id"]
    point(glance, key, web.url("/disk"))
    glance.run()
    web.files["/disk"] = BITS[:-1] + bytes([BITS[-1] ^ 1])
    answer = glance.client.send("GET", f"/v2/images/{key}/file", token="member")
    got = bytearray()
    chunks = iter(answer.chunks)

    def drain() -> None:
        for chunk in chunks:
            got.extend(chunk)

    with pytest.raises(UnsafeImage, match="hash"):
        drain()
    assert len(got) < len(BITS)
    del web.files["/disk"]
    answer = glance.client.send("GET", f"/v2/images/{key}/file", token="member")
    assert answer.status == 502


def test_deleting_ends_the_reading(glance: Glance, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    from altostack.image import life

    monkeypatch.setattr(life, "_LOOK", 0.05)
    web.slow.add("/slow")
    key = glance.make()["id"]
    point(glance, key, web.url("/slow"))
    task = glance.task(key)["id"]
    real, seen = life.TaskLife._judge, []

    def judge(self: Any, image: Any, stream: Any, algorithm: Any = None) -> Any:
        assert glance.show(key)["status"] == "active"
        glance.call("DELETE", f"/v2/images/{key}")
        seen.append(key)
        return real(self, image, stream, algorithm)

    monkeypatch.setattr(life.TaskLife, "_judge", judge)
    glance.run()
    assert seen == [key]
    assert glance.call("GET", f"/v2/tasks/{task}", who="admin")["status"] == "failure"


# ---- the older way: patches


def test_patches_of_locations(glance: Glance, web: Web) -> None:
    made = glance.make()
    key = made["id"]
    assert made["locations"] == []
    one = {"url": web.url("/disk"), "metadata": {"foo": "bar"}}
    status, shown = glance.patch(key, {"add": "/locations/-", "value": one}, media=PATCH_MEDIA_OLD)
    assert (status, shown["status"], shown["os_hash_value"]) == (200, "active", None)
    assert shown["locations"] == [{"url": web.url("/disk"), "metadata": {"foo": "bar", "store": "web"}}]
    assert glance.bits(key) == BITS
    two = {"url": web.url("/disk#2"), "metadata": {}}
    status, shown = glance.patch(key, {"op": "add", "path": "/locations/-", "value": two})
    assert [spot["url"] for spot in shown["locations"]] == [web.url("/disk"), web.url("/disk#2")]
    assert glance.patch(key, {"op": "add", "path": "/locations/-", "value": two})[0] == 400
    known = shown["locations"]
    known[0]["metadata"]["date"] = "today"
    status, shown = glance.patch(key, {"op": "replace", "path": "/locations", "value": known})
    assert (status, shown["locations"]) == (200, known)
    for value in (known[:1], [known[0], {"url": web.url("/x"), "metadata": {}}], "text", [{"url": 5}]):
        assert glance.patch(key, {"op": "replace", "path": "/locations", "value": value})[0] == 400
    assert glance.patch(key, {"op": "replace", "path": "/locations", "value": []})[0] == 403
    assert glance.patch(key, {"op": "remove", "path": "/locations/0"})[0] == 403
    assert glance.patch(key, {"op": "remove", "path": "/locations/7"}, who="admin")[0] == 400
    status, shown = glance.patch(key, {"op": "remove", "path": "/locations/0"}, who="admin")
    assert [spot["url"] for spot in shown["locations"]] == [web.url("/disk#2")]
    assert glance.patch(key, {"op": "remove", "path": "/locations/0"}, who="admin")[0] == 403


def test_hashes_given_with_locations(glance: Glance, web: Web) -> None:
    key = glance.make()["id"]
    given = {"checksum": "1" * 32, "os_hash_algo": "sha512", "os_hash_value": "deadbeef" * 16}

    def add(path: str, validation: dict[str, str]) -> int:
        value = {"url": web.url(path), "metadata": {}, "validation_data": validation}
        return glance.patch(key, {"op": "add", "path": "/locations/-", "value": value})[0]

    assert add("/disk", {**given, "os_hash_value": "xyz"}) == 409
    assert add("/disk", {**given, "os_hash_algo": "sha256"}) == 409
    assert add("/disk", given) == 200
    shown = glance.show(key)
    assert given.items() <= shown.items()
    assert "validation_data" not in shown["locations"][0]
    for name, value in (
        ("checksum", "2" * 32),
        ("os_hash_value", "beefdead" * 16),
        ("os_hash_algo", "sha256"),
    ):
        assert add("/disk#2", {**given, name: value}) == 409
    assert add("/disk#2", given) == 200


def test_uploaded_images_show_a_name_not_a_path(glance: Glance, tmp_path: Path) -> None:
    key = glance.make()["id"]
    glance.put(key, BITS).read()
    (one,) = glance.show(key)["locations"]
    assert one == {"url": f"file://files/{key}", "metadata": {"store": "files"}}
    assert str(tmp_path) not in str(glance.show(key))
    assert "locations" not in glance.show(key, who="member") or glance.show(key)["locations"]


def test_others_see_no_locations(glance: Glance, web: Web) -> None:
    made = glance.make(who="admin", visibility="public")
    glance.put(made["id"], BITS, who="admin").read()
    seen = glance.show(made["id"], who="other")
    assert seen["locations"] == [] and "direct_url" not in seen and seen["stores"] == "files"


def test_by_default_locations_are_not_shown_and_not_changed(tmp_path: Path) -> None:
    glance = Glance(tmp_path)
    key = glance.make()["id"]
    assert "locations" not in glance.show(key) and "direct_url" not in glance.show(key)
    value = {"url": "http://example.org/x", "metadata": {}}
    for who in ("member", "admin"):
        assert glance.patch(key, {"op": "add", "path": "/locations/-", "value": value}, who=who)[0] == 403
    glance.close()


# ---- the cache


def test_the_cache_serves_what_lies_elsewhere(glance: Glance, web: Web) -> None:
    key = glance.make()["id"]
    queued = glance.make()["id"]
    assert glance.refusal("GET", "/v2/cache")[0] == 403
    assert glance.refusal("PUT", "/v2/cache/nowhere", who="admin")[0] == 404
    assert glance.refusal("PUT", f"/v2/cache/{queued}", who="admin")[0] == 400
    point(glance, key, web.url("/disk"))
    glance.run()
    state = lambda: glance.call("GET", "/v2/cache", who="admin")  # noqa: E731 - short and local
    assert state() == {"cached_images": [], "queued_images": []}
    for _ in range(2):
        glance.call("PUT", f"/v2/cache/{key}", who="admin")
    assert state() == {"cached_images": [], "queued_images": [key]}
    fill(glance)
    (cached,) = state()["cached_images"]
    assert (cached["image_id"], cached["size"], cached["hits"]) == (key, len(BITS), 0)
    assert glance.call("GET", f"/v2/cache/nodes/{key}", who="admin") == [glance.runtime.url]
    before = len(web.asked)
    assert glance.bits(key) == BITS
    assert len(web.asked) == before
    assert state()["cached_images"][0]["hits"] == 1
    glance.call("DELETE", f"/v2/cache/{key}", who="admin")
    assert glance.stores.cache.list() == []
    assert glance.bits(key) == BITS
    assert len(web.asked) == before + 1
    assert glance.refusal("DELETE", "/v2/cache/nowhere", who="admin")[0] == 404


def fill(glance: Glance) -> None:
    from altostack.image import cache

    cache.fill(glance.runtime, ())


def test_clearing_pruning_and_cleaning_the_cache(tmp_path: Path, web: Web) -> None:
    from altostack.image.config import Cache

    glance = Glance(tmp_path, allow=web.host, cache=Cache(max_bytes=4_000_000))
    keys = [glance.make()["id"] for _ in range(3)]
    for key in keys:
        point(glance, key, web.url("/disk"))
    glance.run()
    for key in keys[:2]:
        glance.call("PUT", f"/v2/cache/{key}", who="admin")
    fill(glance)
    glance.call("PUT", f"/v2/cache/{keys[2]}", who="admin")
    glance.bits(keys[0])
    pruned = glance.call("POST", "/v2/cache/prune", who="admin")
    assert pruned == {"total_files_pruned": 1, "total_bytes_pruned": len(BITS)}
    assert glance.stores.cache.list() == [keys[0]]  # the one used last
    wrong = {"X-Image-Cache-Clear-Target": "invalid"}
    assert glance.refusal("DELETE", "/v2/cache", who="admin", headers=wrong)[0] == 400
    glance.call("DELETE", "/v2/cache", who="admin", headers={"X-Image-Cache-Clear-Target": "queue"})
    state = glance.call("GET", "/v2/cache", who="admin")
    assert state["queued_images"] == [] and len(state["cached_images"]) == 1
    (tmp_path / "image-cache" / keys[0]).unlink()
    (tmp_path / "image-cache" / keys[1]).write_bytes(b"nobody's")
    assert glance.bits(keys[0]) == BITS  # what the cache lost is fetched again
    glance.client.send("POST", "/v2/cache/clean", token="admin").read()
    assert glance.call("GET", "/v2/cache", who="admin")["cached_images"] == []
    assert glance.stores.cache.list() == []
    glance.call("DELETE", "/v2/cache", who="admin")
    glance.close()


def test_a_deleted_image_leaves_the_cache(glance: Glance, web: Web) -> None:
    key = glance.make()["id"]
    point(glance, key, web.url("/disk"))
    glance.run()
    glance.call("PUT", f"/v2/cache/{key}", who="admin")
    fill(glance)
    glance.call("DELETE", f"/v2/images/{key}")
    assert glance.call("GET", "/v2/cache", who="admin") == {"cached_images": [], "queued_images": []}
    assert glance.left() == []


# ---- several stores


def test_upload_into_a_store_by_name(glance: Glance) -> None:
    key = glance.make()["id"]
    assert glance.put(key, BITS, X_Image_Meta_Store="web").status == 400
    assert glance.put(key, BITS, X_Image_Meta_Store="none").status == 400
    assert glance.put(key, BITS, X_Image_Meta_Store="second").status == 204
    assert glance.show(key)["stores"] == "second"
    assert glance.bits(key) == BITS
    stores = glance.call("GET", "/v2/info/stores")["stores"]
    assert {one["id"]: one.get("read-only") for one in stores} == {
        "files": None,
        "second": None,
        "web": "true",
    }
    assert [one["id"] for one in stores if one.get("default")] == ["files"]
    made = glance.client.send(
        "POST", "/v2/images", b"{}", token="member", headers={"Content-Type": "application/json"}
    )
    assert made.headers["openstack-image-store-ids"] == "files,second,web"
    assert "web-download" in made.headers["openstack-image-import-methods"]


def test_wrong_store_settings_are_said() -> None:
    from altostack.image.config import Settings, Store
    from altostack.image.stores import open_stores

    for settings in (
        Settings(default_store="none"),
        Settings(stores={"web": Store(type="http")}, default_store="web"),
    ):
        with pytest.raises(ValueError, match="default_store"):
            open_stores(Path("/nonexistent"), settings)
