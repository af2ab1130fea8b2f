"""The image API, alone."""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from altostack.image import SERVICE, data, sweep
from altostack.image.dialect import PATCH_MEDIA
from altostack.image.stores import open_stores
from altostack.kit.clients import Response
from altostack.kit.context import Context
from tests.lone import PEOPLE, Lone

pytestmark = pytest.mark.everywhere


@pytest.fixture
def glance(tmp_path: Path) -> Iterator[Lone]:
    lone = Lone(SERVICE, tmp_path, drivers={"stores": open_stores(tmp_path, SERVICE.settings())})
    yield lone
    lone.close()


def make(glance: Lone, who: str = "member", **fields: Any) -> dict[str, Any]:
    body = {"name": "one", "disk_format": "raw", "container_format": "bare", **fields}
    return glance.call("POST", "/v2/images", body, who=who)  # type: ignore[no-any-return]  # JSON


def put(
    glance: Lone,
    key: str,
    bits: bytes | Iterable[bytes],
    who: str = "member",
    headers: dict[str, str] | None = None,
) -> Response:
    sent = {"Content-Type": "application/octet-stream", **(headers or {})}
    return glance.client.send("PUT", f"/v2/images/{key}/file", bits, token=who, headers=sent)


def patch(glance: Lone, key: str, *operations: dict[str, Any], who: str = "member") -> tuple[int, Any]:
    answer = glance.client.send(
        "PATCH",
        f"/v2/images/{key}",
        msgspec.json.encode(operations),
        token=who,
        headers={"Content-Type": PATCH_MEDIA},
    )
    return answer.status, msgspec.json.decode(answer.read())


def test_create_upload_download_delete(glance: Lone, tmp_path: Path) -> None:
    made = make(glance, os_distro="debian", tags=["a", "a", "b"])
    assert made["status"] == "queued"
    assert made["os_distro"] == "debian"
    assert made["tags"] == ["a", "b"]
    assert made["self"] == f"/v2/images/{made['id']}"
    assert made["owner"] == "1" * 32
    bits = os.urandom(3_000_000)
    assert put(glance, made["id"], bits).status == 204
    shown = glance.call("GET", f"/v2/images/{made['id']}")
    assert shown["status"] == "active"
    assert shown["size"] == len(bits)
    assert shown["checksum"] == hashlib.md5(bits).hexdigest()
    assert shown["os_hash_value"] == hashlib.sha512(bits).hexdigest()
    answer = glance.client.send("GET", made["file"], token="member")
    assert answer.read() == bits
    assert answer.headers["content-md5"] == shown["checksum"]
    part = glance.client.send("GET", made["file"], token="member", headers={"Range": "bytes=10-19"})
    assert (part.status, part.read()) == (206, bits[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(bits)}"
    tail = glance.client.send("GET", made["file"], token="member", headers={"Range": "bytes=-5"})
    assert tail.read() == bits[-5:]
    for wrong in ("bytes=9999999-", "lines=1-2", "bytes=-"):
        assert glance.client.send("GET", made["file"], token="member", headers={"Range": wrong}).status == 416
    assert put(glance, made["id"], bits).status == 409
    glance.call("DELETE", f"/v2/images/{made['id']}")
    assert glance.refusal("GET", f"/v2/images/{made['id']}")[0] == 404
    assert [one for one in (tmp_path / "images").rglob("*") if one.is_file()] == []


def test_an_upload_that_ends_early_leaves_nothing(glance: Lone, tmp_path: Path) -> None:
    made = make(glance)

    def cut() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise ConnectionError("the client went away")

    with pytest.raises(ConnectionError):
        data.receive(glance.runtime, made["id"], cut(), None)
    with pytest.raises(data.BadRequest, match="100 of 200"):
        data.receive(glance.runtime, made["id"], iter([b"x" * 100]), 200)
    assert glance.call("GET", f"/v2/images/{made['id']}")["status"] == "queued"
    assert [one for one in (tmp_path / "images").rglob("*") if one.is_file()] == []
    assert put(glance, made["id"], b"y" * 1000).status == 204


def test_a_full_store_says_so(glance: Lone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(glance)
    real, wrote = os.write, []

    def full(descriptor: int, chunk: Any) -> int:
        wrote.append(len(chunk))
        if len(wrote) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, chunk)

    monkeypatch.setattr(os, "write", full)
    answer = put(glance, made["id"], [b"x" * (2 << 20)] * 5)
    monkeypatch.undo()
    assert answer.status == 413
    assert b"space" in answer.read()
    assert glance.call("GET", f"/v2/images/{made['id']}")["status"] == "queued"
    assert [one for one in (tmp_path / "images").rglob("*") if one.is_file()] == []


def test_uploads_of_dead_processes_are_given_up(glance: Lone) -> None:
    made = make(glance)
    claim = data._claim(glance.runtime, made["id"], data.Status.SAVING)
    assert sweep.sweep(glance.runtime) == 0
    assert claim.disk_format == "raw"
    dead = claim.owner.replace(str(os.getpid()), "999999999")
    with glance.db.begin() as session:
        session.get(data.Image, made["id"]).uploader = dead  # type: ignore[union-attr]  # it is there
    assert sweep.sweep(glance.runtime) == 1
    assert put(glance, made["id"], b"z").status == 204


def qcow2(*, backing: str = "", version: int = 3, incompatible: int = 0, size: int = 1 << 20) -> bytes:
    """A qcow2 header (QEMU docs/interop/qcow2)."""
    offset = 512 if backing else 0
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", version, offset, len(backing), 16, size, 0, 1, 196_608, 65_536, 1, 0, 0,
        incompatible, 0, 0, 4, 104,
    )  # fmt: skip
    return (header.ljust(512, b"\0") + backing.encode()).ljust(1 << 20, b"\0")


VMDK = b'# Disk DescriptorFile\nversion=1\nCID=1\ncreateType="monolithicFlat"\nRW 2048 FLAT "/etc/passwd" 0\n'


@pytest.mark.parametrize(
    ("declared", "bits", "why"),
    [
        ("qcow2", qcow2(backing="/etc/passwd"), "backing"),
        ("qcow2", qcow2(incompatible=4), "data"),
        ("qcow2", qcow2(incompatible=1 << 9), "feature"),
        ("qcow2", b"\0" * 100_000, "qcow2"),
        ("qcow2", b"", "empty"),
        ("raw", qcow2(), "qcow2"),
        ("raw", qcow2(backing="/etc/passwd"), "qcow2"),
        ("iso", qcow2(), "qcow2"),
        ("vmdk", VMDK.ljust(70_000, b"\0"), "vmdk"),
        ("qcow2", qcow2(size=1 << 62), "beyond"),
    ],
)
def test_content_that_is_not_what_it_says_is_refused(
    glance: Lone, declared: str, bits: bytes, why: str
) -> None:
    made = make(glance, disk_format=declared)
    answer = put(glance, made["id"], bits)
    text = answer.read().decode()
    assert answer.status == 400, text
    assert why in text
    assert glance.call("GET", f"/v2/images/{made['id']}")["status"] == "queued"
    assert glance.client.send("GET", made["file"], token="member").status == 204


def test_a_good_qcow2_is_taken(glance: Lone) -> None:
    made = make(glance, disk_format="qcow2")
    assert put(glance, made["id"], qcow2(size=1 << 30)).status == 204
    assert glance.call("GET", f"/v2/images/{made['id']}")["virtual_size"] == 1 << 30


def test_patch(glance: Lone) -> None:
    made = make(glance, a="1")
    status, found = patch(
        glance, made["id"],
        {"op": "replace", "path": "/name", "value": "two"}, {"op": "add", "path": "/b~1c", "value": "2"},
        {"op": "remove", "path": "/a"}, {"op": "add", "path": "/min_ram", "value": 64},
    )  # fmt: skip
    assert status == 200
    assert (found["name"], found["b/c"], found["min_ram"], "a" in found) == ("two", "2", 64, False)
    for expected, operation in (
        (409, {"op": "replace", "path": "/none", "value": "x"}),
        (403, {"op": "replace", "path": "/status", "value": "active"}),
        (403, {"op": "replace", "path": "/size", "value": 5}),
        (403, {"op": "replace", "path": "/checksum", "value": "x"}),
        (403, {"op": "replace", "path": "/id", "value": "x"}),
        (403, {"op": "remove", "path": "/name"}),
        (403, {"op": "replace", "path": "/visibility", "value": "public"}),
        (400, {"op": "replace", "path": "/visibility", "value": "loud"}),
        (400, {"op": "replace", "path": "/min_ram", "value": -1}),
        (400, {"op": "move", "path": "/name"}),
        (400, {"op": "add", "path": "name", "value": "x"}),
        (400, {"op": "add", "path": "/new", "value": 5}),
        (403, {"op": "add", "path": "/locations/-", "value": {"url": "file:///etc/passwd", "metadata": {}}}),
        (400, {"op": "add", "path": "/locations", "value": "file:///etc/passwd"}),
        (403, {"op": "replace", "path": "/owner", "value": "2" * 32}),
    ):
        status, found = patch(glance, made["id"], operation)
        assert status == expected, (operation, found)
    assert glance.call("GET", f"/v2/images/{made['id']}")["name"] == "two"
    put(glance, made["id"], b"bits")
    assert patch(glance, made["id"], {"op": "replace", "path": "/disk_format", "value": "qcow2"})[0] == 403


def test_who_sees_what(glance: Lone) -> None:
    made = make(glance)
    path = f"/v2/images/{made['id']}"
    assert glance.refusal("GET", path, who="other")[0] == 404
    assert glance.refusal("DELETE", path, who="other")[0] == 404
    assert glance.refusal("DELETE", path, who="reader")[0] == 403
    assert glance.refusal("POST", f"{path}/members", {"member": "2" * 32}, who="other")[0] == 404
    glance.call("POST", f"{path}/members", {"member": "2" * 32})
    assert glance.refusal("POST", f"{path}/members", {"member": "2" * 32})[0] == 409
    assert glance.call("GET", path, who="other")["id"] == made["id"]
    assert glance.call("GET", "/v2/images", who="other")["images"] == []
    assert len(glance.call("GET", "/v2/images?member_status=all", who="other")["images"]) == 1
    assert glance.refusal("PUT", f"{path}/members/{'2' * 32}", {"status": "accepted"})[0] == 403
    answer = {"status": "accepted", "member": "3" * 32}  # another's name is no way to answer for them
    assert glance.refusal("PUT", f"{path}/members/{'2' * 32}", answer, who="other")[0] == 400
    answer["member"] = "2" * 32
    glance.call("PUT", f"{path}/members/{'2' * 32}", answer, who="other")
    assert len(glance.call("GET", "/v2/images", who="other")["images"]) == 1
    assert glance.refusal("DELETE", path, who="other")[0] == 403
    public = make(glance, who="admin", visibility="public")
    assert glance.call("GET", f"/v2/images/{public['id']}", who="reader")["visibility"] == "public"
    assert glance.refusal("POST", "/v2/images", {"visibility": "public"})[0] == 403
    assert glance.refusal("DELETE", f"/v2/images/{public['id']}")[0] == 403


def test_lists(glance: Lone) -> None:
    ids = [make(glance, name=f"i{n}", tags=[f"t{n % 2}"], os_distro=f"d{n % 3}")["id"] for n in range(7)]
    seen: list[str] = []
    page = glance.call("GET", "/v2/images?limit=3&sort=name:asc")
    while True:
        seen += [one["id"] for one in page["images"]]
        if "next" not in page:
            break
        page = glance.call("GET", page["next"])
    assert seen == ids
    count = lambda query: len(glance.call("GET", f"/v2/images?{query}")["images"])  # noqa: E731 - short and local
    assert count("tag=t0") == 4
    assert count("tag=t0&tag=t1") == 0
    assert count("os_distro=d0") == 3
    assert count("name=in:i1,i2") == 2
    assert count("created_at=gt:2020-01-01T00:00:00Z") == 7
    assert count("status=in:queued,saving") == 7
    assert count("size_min=5") == 0
    assert count("visibility=private") == 0
    assert count("unheard_of=1") == 0
    for wrong in (
        "created_at=gt:never",
        "visibility=loud",
        "limit=-1",
        "marker=none",
        "sort=nope:asc",
        "size_min=x",
    ):
        assert glance.refusal("GET", f"/v2/images?{wrong}")[0] == 400, wrong


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"disk_format": "floppy"}, 400),
        ({"min_disk": "x"}, 400),
        ({"size": 5}, 403),
        ({"status": "active"}, 403),
        ({"locations": []}, 403),
        ({"free": 5}, 400),
        ({"id": "../../etc"}, 400),
        ({"id": "a" * 36}, 400),
        ({"name": "n" * 300}, 400),
        ({"owner": "2" * 32}, 403),
        ({"tags": ["t" * 300]}, 400),
        ([], 400),
    ],
)
def test_bad_creates(glance: Lone, body: Any, status: int) -> None:
    assert glance.refusal("POST", "/v2/images", body)[0] == status


def test_tags_protection_deactivation(glance: Lone) -> None:
    made = make(glance, protected=True)
    path = f"/v2/images/{made['id']}"
    glance.call("PUT", f"{path}/tags/x")
    assert glance.call("GET", path)["tags"] == ["x"]
    glance.call("DELETE", f"{path}/tags/x")
    assert glance.refusal("DELETE", f"{path}/tags/x")[0] == 404
    assert glance.refusal("DELETE", path)[0] == 403
    put(glance, made["id"], b"bits")
    assert glance.refusal("POST", f"{path}/actions/deactivate", who="reader")[0] == 403
    assert glance.refusal("POST", f"{path}/actions/deactivate", who="other")[0] == 404
    glance.call("POST", f"{path}/actions/deactivate")
    assert glance.client.send("GET", f"{path}/file", token="member").status == 403
    glance.call("POST", f"{path}/actions/reactivate")
    assert glance.client.send("GET", f"{path}/file", token="member").read() == b"bits"


def test_nodes_read_active_images_and_fill_only_their_own(glance: Lone) -> None:
    made = make(glance)
    path = f"/internal/nodes/n1/images/{made['id']}/file"
    n1, n2 = glance.node("n1"), glance.node("n2")
    assert glance.client.send("GET", path, node=n1).status == 404
    assert glance.client.send("PUT", path, b"snap", node=n1).status == 404
    glance.call("PUT", f"/internal/images/{made['id']}/upload-host", {"host": "n1"}, who="service")
    assert glance.client.send("PUT", path.replace("n1", "n2"), b"snap", node=n2).status == 404
    assert glance.client.send("PUT", path, b"snap", node=n2).status == 404
    assert glance.client.send("PUT", path, [b"sn", b"ap"], node=n1).status == 204
    assert glance.client.send("GET", path.replace("n1", "n2"), node=n2).read() == b"snap"
    assert glance.client.send("GET", path, token="admin").status == 404
    assert (
        glance.refusal("PUT", f"/internal/images/{made['id']}/upload-host", {"host": "x"}, who="member")[0]
        == 403
    )


def test_discovery(glance: Lone) -> None:
    answer = glance.client.send("GET", "/")
    assert answer.status == 300
    assert msgspec.json.decode(answer.read())["versions"][0]["id"] == "v2.18"
    assert "name" in glance.call("GET", "/v2/schemas/image")["properties"]
    assert glance.refusal("GET", "/v2/schemas/nope")[0] == 404
    methods = glance.call("GET", "/v2/info/import")["import-methods"]["value"]
    assert methods == ["glance-direct", "web-download", "copy-image", "glance-download"]
    stores = glance.call("GET", "/v2/info/stores")["stores"]
    assert stores == [
        {"id": "files", "default": "true", "weight": 0},
        {"id": "web", "read-only": "true", "weight": -1},
    ]
    assert glance.refusal("GET", "/v2/info/stores/detail")[0] == 403
    assert glance.call("GET", "/v2/info/stores/detail", who="admin")["stores"][0]["type"] == "file"


def test_no_id_is_no_image(glance: Lone) -> None:
    make(glance)
    assert glance.refusal("GET", "/v2/images/")[0] == 404
    assert glance.refusal("DELETE", "/v2/images/")[0] == 404
    assert glance.refusal("DELETE", "/v2/images")[0] == 405
    assert len(glance.call("GET", "/v2/images")["images"]) == 1


def test_a_disk_of_no_size_is_taken_and_given(glance: Lone) -> None:
    made = make(glance)
    assert put(glance, made["id"], b"").status == 204
    assert glance.call("GET", f"/v2/images/{made['id']}")["size"] == 0
    answer = glance.client.send("GET", made["file"], token="member")
    assert (answer.status, answer.read()) == (200, b"")


def test_only_tokens_of_projects_are_let_in(glance: Lone, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(glance)
    for name, scope in (("whole", {"system": True}), ("domain", {"domain_id": "default"})):
        person = Context(
            user_id="u", roles=frozenset({"admin", "member", "reader"}), token=name, expires_at=9e12, **scope
        )
        monkeypatch.setitem(PEOPLE, name, person)
        assert glance.refusal("GET", "/v2/images", who=name)[0] == 403
        assert glance.refusal("POST", "/v2/images", {"visibility": "public"}, who=name)[0] == 403
        assert glance.refusal("GET", f"/v2/images/{made['id']}", who=name)[0] == 404
        assert glance.refusal("DELETE", f"/v2/images/{made['id']}", who=name)[0] == 404
        assert glance.refusal("GET", f"/v2/images/{made['id']}/members", who=name)[0] in (403, 404)
        assert glance.refusal("POST", "/v2/metadefs/namespaces", {"namespace": "x"}, who=name)[0] == 403
        assert glance.refusal("GET", "/v2/tasks", who=name)[0] == 403
