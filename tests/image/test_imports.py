"""Imports: every method, several stores, what is done to the bits on the way, and tasks."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from altostack.image.config import Imports
from altostack.image.drivers.base import StoreFull
from altostack.image.drivers.file import FileStore
from tests.image.stand import TWO, Glance
from tests.image.web import Web, serving

pytestmark = pytest.mark.everywhere
BITS = os.urandom(200_000)


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as web:
        web.files["/disk"] = BITS
        yield web


@pytest.fixture
def glance(tmp_path: Path, web: Web) -> Iterator[Glance]:
    lone = Glance(tmp_path, allow=web.host, stores=TWO)
    yield lone
    lone.close()


def test_stage_and_import(glance: Glance) -> None:
    key = glance.make()["id"]
    assert glance.put(key, BITS, to="stage").status == 204
    assert glance.show(key)["status"] == "uploading"
    assert glance.put(key, BITS, to="stage").status == 409
    assert glance.put(key, BITS).status == 409
    glance.bring(key, "glance-direct", run=False)
    shown = glance.show(key)
    assert (shown["status"], shown["os_glance_importing_to_stores"]) == ("importing", "files")
    body = {"method": {"name": "glance-direct"}}
    assert glance.refusal("POST", f"/v2/images/{key}/import", body)[0] == 409
    glance.run()
    shown = glance.show(key)
    assert (shown["status"], shown["stores"], shown["size"]) == ("active", "files", len(BITS))
    assert shown["os_hash_value"] == hashlib.sha512(BITS).hexdigest()
    assert shown["os_glance_importing_to_stores"] == shown["os_glance_failed_import"] == ""
    assert "os_glance_import_task" not in shown
    assert glance.bits(key) == BITS
    assert glance.stores.staging.list() == []
    task = glance.task(key)
    assert (task["status"], task["result"], task["type"]) == (
        "success",
        {"image_id": key},
        "api_image_import",
    )
    assert task["input"]["import_req"]["method"] == {
        "name": "glance-direct",
        "glance_service_interface": "public",
    }
    assert task["request_id"].startswith("req-")
    assert glance.call("GET", f"/v2/tasks/{task['id']}", who="admin")["status"] == "success"
    assert glance.refusal("GET", f"/v2/tasks/{task['id']}")[0] == 403


def test_import_into_all_stores_and_delete_from_one(glance: Glance) -> None:
    key = glance.make()["id"]
    glance.put(key, BITS, to="stage").read()
    glance.bring(key, "glance-direct", all_stores=True)
    assert glance.show(key)["stores"] == "second,files"  # by weight
    path = f"/v2/stores/second/{key}"
    assert glance.refusal("DELETE", path)[0] == 403
    assert glance.refusal("DELETE", path, who="other")[0] == 404
    glance.call("DELETE", path, who="admin")
    assert glance.show(key)["stores"] == "files"
    assert glance.stores.kept["second"].list() == []
    assert glance.refusal("DELETE", path, who="admin")[0] == 404
    assert glance.refusal("DELETE", f"/v2/stores/files/{key}", who="admin")[0] == 403
    assert glance.refusal("DELETE", f"/v2/stores/nowhere/{key}", who="admin")[0] == 409
    assert glance.bits(key) == BITS


def test_web_download(glance: Glance, web: Web) -> None:
    key = glance.make()["id"]
    web.moved["/moved"] = "/disk"
    glance.bring(key, "web-download", uri=web.url("/moved"), stores=["second"])
    assert glance.show(key)["stores"] == "second"
    assert glance.bits(key) == BITS
    assert web.asked == ["/moved", "/disk"]


@pytest.mark.parametrize("path", ["/none", "/cut", "/loop"])
def test_a_download_that_fails_says_why_and_can_be_tried_again(glance: Glance, web: Web, path: str) -> None:
    web.files["/cut"], web.cut["/cut"] = BITS, 100
    web.moved["/loop"] = "/loop"
    key = glance.make()["id"]
    glance.bring(key, "web-download", uri=web.url(path))
    shown = glance.show(key)
    assert (shown["status"], shown["os_glance_failed_import"]) == ("queued", "files")
    assert "os_glance_import_task" not in shown
    task = glance.task(key)
    assert task["status"] == "failure"
    assert {"/none": "404", "/cut": "100 of", "/loop": "redirects"}[path] in task["message"]
    assert glance.left() == []
    glance.bring(key, "web-download", uri=web.url("/disk"))
    assert glance.show(key)["status"] == "active"


def test_copy_to_further_stores(glance: Glance) -> None:
    key = glance.make()["id"]
    glance.put(key, BITS).read()
    body = {"method": {"name": "copy-image"}, "stores": ["second"]}
    assert glance.refusal("POST", f"/v2/images/{key}/import", body)[0] == 403
    glance.bring(key, "copy-image", who="admin", all_stores=True, all_stores_must_succeed=False)
    shown = glance.show(key)
    assert (shown["status"], shown["stores"]) == ("active", "second,files")
    assert shown["os_glance_importing_to_stores"] == ""
    assert glance.refusal("POST", f"/v2/images/{key}/import", body, who="admin")[0] == 400
    glance.bring(key, "copy-image", who="admin", all_stores=True)  # nothing is left to do: no error
    bits = list(glance.stores.kept["second"].get(key))
    assert b"".join(bits) == BITS


def test_a_copy_that_is_not_the_same_is_not_kept(glance: Glance, tmp_path: Path) -> None:
    key = glance.make()["id"]
    glance.put(key, BITS).read()
    (tmp_path / "images" / key).write_bytes(b"rotten")
    glance.bring(key, "copy-image", who="admin", all_stores=True)
    shown = glance.show(key)
    assert (shown["status"], shown["stores"]) == ("active", "files")
    assert "hash" in glance.task(key)["message"]
    assert glance.stores.kept["second"].list() == []


@pytest.mark.parametrize("must", [True, False])
def test_a_store_that_fails(glance: Glance, monkeypatch: pytest.MonkeyPatch, must: bool) -> None:
    key = glance.make()["id"]
    glance.put(key, BITS, to="stage").read()
    real = FileStore.put

    def full(self: FileStore, image_id: str, stream: Any) -> int:
        if self is glance.stores.kept["second"]:
            raise StoreFull("no space left after 0 bytes")
        return real(self, image_id, stream)

    monkeypatch.setattr(FileStore, "put", full)
    glance.bring(key, "glance-direct", all_stores=True, all_stores_must_succeed=must)
    shown = glance.show(key)
    if must:
        assert shown["status"] == "queued"
        assert set(shown["os_glance_failed_import"].split(",")) == {"files", "second"}
        assert glance.left() == []
        assert "no space left" in glance.task(key)["message"]
    else:
        assert (shown["status"], shown["stores"]) == ("active", "files")
        assert shown["os_glance_failed_import"] == "second"
        assert glance.bits(key) == BITS


def test_import_from_another_image_service(glance: Glance) -> None:
    source = glance.make(disk_format="ami", container_format="ami", hw_cpu_cores="5", speed="88mph")["id"]
    glance.put(source, BITS).read()
    key = glance.make(disk_format="iso", container_format="ovf", hw_cpu_cores="1", kept="yes")["id"]
    glance.bring(key, "glance-download", glance_image_id=source, glance_region="RegionOne")
    shown = glance.show(key)
    assert (shown["status"], shown["disk_format"], shown["container_format"]) == ("active", "ami", "ami")
    assert (shown["hw_cpu_cores"], shown["kept"], "speed" in shown) == ("5", "yes", False)
    assert glance.bits(key) == BITS


def test_what_another_image_service_does_not_show_is_not_had(glance: Glance) -> None:
    foreign = glance.make(who="other", visibility="private")["id"]
    glance.put(foreign, BITS, who="other").read()
    for about in (
        {"glance_image_id": foreign, "glance_region": "RegionOne"},
        {"glance_image_id": foreign, "glance_region": "nowhere"},
    ):
        key = glance.make(os_distro="mine")["id"]
        glance.bring(key, "glance-download", **about)
        assert glance.task(key)["status"] == "failure"
        shown = glance.show(key)
        assert (shown["status"], shown["os_distro"]) == ("queued", "mine")
    path = f"/v2/images/{key}/import"
    wrong = {"method": {"name": "glance-download", "glance_image_id": "foo", "glance_region": "RegionOne"}}
    assert "image id does not look like a UUID" in glance.refusal("POST", path, wrong)[1]


def test_the_token_of_an_import_is_not_readable_in_the_database(glance: Glance, tmp_path: Path) -> None:
    key = glance.make()["id"]
    glance.bring(
        key, "glance-download", run=False, glance_image_id=key, glance_region="RegionOne", who="member"
    )
    with glance.db.read() as session:
        frame = session.execute(glance.service.metadata.tables["flows"].select()).mappings().one()["frame"]
    assert "sealed" in frame and '"member"' not in str(frame["sealed"]) and frame["sealed"] != "member"
    glance.run()
    with glance.db.read() as session:
        assert session.execute(glance.service.metadata.tables["flows"].select()).first() is None


def test_an_image_that_is_deleted_meanwhile_leaves_nothing(glance: Glance, web: Web) -> None:
    key = glance.make()["id"]
    glance.put(key, BITS, to="stage").read()
    glance.bring(key, "glance-direct", run=False)
    task = glance.task(key)
    glance.call("DELETE", f"/v2/images/{key}")
    glance.run()
    found = glance.call("GET", f"/v2/tasks/{task['id']}", who="admin")
    assert (found["status"], "deleted" in found["message"]) == ("failure", True)
    assert glance.left() == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"method": {}}, 400),
        ({"method": {"name": "by-post"}}, 400),
        ({"method": {"name": "glance-direct"}}, 409),
        ({"method": {"name": "copy-image"}}, 403),
        ({"method": {"name": "web-download"}}, 400),
        ({"method": {"name": "web-download", "uri": "http://example.org/x"}, "stores": ["none"]}, 409),
        ({"method": {"name": "web-download", "uri": "http://example.org/x"}, "stores": ["web"]}, 409),
        ({"method": {"name": "web-download", "uri": "http://example.org/x"}, "all_stores": "yes"}, 400),
        (
            {
                "method": {"name": "web-download", "uri": "http://example.org/x"},
                "all_stores": True,
                "stores": ["files"],
            },
            400,
        ),
    ],
)
def test_bad_imports(glance: Glance, body: dict[str, Any], status: int) -> None:
    key = glance.make()["id"]
    assert glance.refusal("POST", f"/v2/images/{key}/import", body)[0] == status
    assert glance.show(key)["status"] == "queued"
    assert glance.refusal("POST", f"/v2/images/{key}/import", {"method": {"name": "x"}}, who="other")[0] in (
        400,
        404,
    )


def test_a_killed_task_goes_on_where_it_was(tmp_path: Path, web: Web) -> None:
    """The process dies after each step in turn, before the step is committed."""
    from altostack.kit.flow import Engine

    class Killed(BaseException):
        pass

    for victim in ("begin", "bring", "prepare", "keep", "finish"):
        folder = tmp_path / victim
        folder.mkdir()
        glance = Glance(folder, allow=web.host, stores=TWO)
        key = glance.make()["id"]
        glance.bring(key, "web-download", run=False, uri=web.url("/disk"), all_stores=True)

        def probe(point: str, victim: str = victim) -> None:
            if point == f"task.{victim} after":
                raise Killed

        with pytest.raises(Killed):
            Engine(glance.runtime, lease=0.0, probe=probe).drain()
        Engine(glance.runtime).drain()
        shown = glance.show(key)
        assert (shown["status"], shown["stores"]) == ("active", "second,files"), victim
        assert glance.bits(key) == BITS
        assert glance.stores.staging.list() == []
        glance.close()


# ---- what is done to the bits


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
def test_conversion(tmp_path: Path) -> None:
    glance = Glance(tmp_path, imports=Imports(convert_to="qcow2", inject={"brought": "yes"}))
    key = glance.make()["id"]
    raw = BITS.ljust(1 << 20, b"\0")
    glance.put(key, raw, to="stage").read()
    glance.bring(key, "glance-direct")
    shown = glance.show(key)
    assert (shown["status"], shown["disk_format"], shown["virtual_size"]) == ("active", "qcow2", 1 << 20)
    assert shown["brought"] == "yes"
    bits = glance.bits(key)
    assert bits[:4] == b"QFI\xfb" and hashlib.sha512(bits).hexdigest() == shown["os_hash_value"]
    (tmp_path / "x.qcow2").write_bytes(bits)
    subprocess.run(
        ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(tmp_path / "x.qcow2"), str(tmp_path / "x")],
        check=True,
    )
    assert (tmp_path / "x").read_bytes() == raw
    by_admin = glance.make(who="admin")["id"]
    glance.put(by_admin, raw, to="stage", who="admin").read()
    glance.bring(by_admin, "glance-direct", who="admin")
    assert "brought" not in glance.show(by_admin, who="admin")
    disc = glance.make(disk_format="qcow2")["id"]
    glance.put(disc, b"not qcow2".ljust(100_000, b"\0"), to="stage").read()
    glance.bring(disc, "glance-direct")
    assert glance.show(disc)["status"] == "queued"
    assert "qcow2" in glance.task(disc)["message"]
    glance.close()


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_unpacking(tmp_path: Path, pack: Any) -> None:
    glance = Glance(tmp_path, imports=Imports(decompress=True), max_bytes=1 << 20)
    key = glance.make(container_format="compressed")["id"]
    glance.put(key, pack(BITS), to="stage").read()
    glance.bring(key, "glance-direct")
    shown = glance.show(key)
    assert (shown["status"], shown["container_format"], shown["size"]) == ("active", "bare", len(BITS))
    assert glance.bits(key) == BITS
    bomb = glance.make(container_format="compressed")["id"]
    glance.put(bomb, pack(bytes(50 << 20)), to="stage").read()
    glance.bring(bomb, "glance-direct")
    assert glance.show(bomb)["status"] == "queued"
    assert "larger than" in glance.task(bomb)["message"]
    broken = glance.make(container_format="compressed")["id"]
    glance.put(broken, pack(BITS)[:-50], to="stage").read()
    glance.bring(broken, "glance-direct")
    assert glance.task(broken)["status"] == "failure"
    assert glance.stores.staging.list() == []
    glance.close()


# ---- tasks


def test_tasks_of_the_older_kind(glance: Glance, web: Web) -> None:
    about = {
        "import_from": web.url("/disk"),
        "import_from_format": "raw",
        "image_properties": {"name": "n", "visibility": "public", "container_format": "bare"},
    }
    body = {"type": "import", "input": about}
    assert glance.refusal("POST", "/v2/tasks", body)[0] == 403
    made = glance.call("POST", "/v2/tasks", body, who="admin")
    assert (made["status"], made["input"]) == ("pending", about)
    glance.run()
    done = glance.call("GET", f"/v2/tasks/{made['id']}", who="admin")
    assert done["status"] == "success" and done["expires_at"]
    assert glance.show(done["result"]["image_id"])["status"] == "active"
    listed = glance.call("GET", "/v2/tasks?status=success&type=import", who="admin")
    assert [one["id"] for one in listed["tasks"]] == [made["id"]]
    assert "input" not in listed["tasks"][0]
    assert glance.call("GET", "/v2/tasks?status=failure", who="admin")["tasks"] == []
    assert glance.refusal("DELETE", f"/v2/tasks/{made['id']}", who="admin")[0] == 405
    for wrong in (
        {"type": "export", "input": about},
        {"type": "import", "input": {**about, "import_from": "file:///etc/passwd"}},
        {"type": "import", "input": {**about, "import_from": "http://169.254.169.254/x"}},
        {"type": "import"},
    ):
        assert glance.refusal("POST", "/v2/tasks", wrong, who="admin")[0] == 400


def test_finished_tasks_are_forgotten_in_time(glance: Glance, web: Web) -> None:
    from altostack.image.sweep import sweep

    key = glance.make()["id"]
    glance.bring(key, "web-download", uri=web.url("/disk"))
    task = glance.task(key)
    now = glance.runtime.clock
    sweep(glance.runtime)
    assert glance.call("GET", f"/v2/tasks/{task['id']}", who="admin")["id"] == task["id"]
    glance.runtime.clock = lambda: now() + 49 * 3600
    sweep(glance.runtime)
    assert glance.refusal("GET", f"/v2/tasks/{task['id']}", who="admin")[0] == 404
    assert glance.bits(key) == BITS
