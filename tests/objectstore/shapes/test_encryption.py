"""Encryption at rest."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from altostack.objectstore import compose
from altostack.objectstore.http import Stream
from altostack.objectstore.middleware import cipher
from tests.objectstore.shapes.clients import LENIENT
from tests.objectstore.shapes.conftest import PIPELINE
from tests.objectstore.world import World, world

SEALED = PIPELINE.replace(" service", " encryption service")
FIRST, SECOND = base64.b64encode(b"1" * 32).decode(), base64.b64encode(b"2" * 40).decode()
PLAIN = b"a secret that nobody may find on a disk"


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def reopened(folder: Path, **options: str) -> World:
    return world(folder, pipeline=SEALED, options={"encryption": options})


@pytest.fixture
def sealed(tmp_path: Path) -> Iterator[World]:
    made = reopened(tmp_path, encryption_root_secret=FIRST)
    for name in ("c", "segments"):
        made.put(f"/v1/a/{name}")
    yield made
    made.close()


def on_disk(folder: Path) -> bytes:
    """Everything in the files of all devices, with their extended attributes."""

    found = []
    for path in (folder / "objectstore").rglob("*"):
        if path.is_file():
            found.append(path.read_bytes())
            found += [os.getxattr(path, name) for name in os.listxattr(path)]
    return b"".join(found)


def test_clients_see_nothing_of_it(sealed: World) -> None:
    made = sealed.put("/v1/a/c/o", PLAIN, x_object_meta_color="crimson", content_type="text/x")
    assert (made.status, made.headers["etag"]) == (201, md5(PLAIN))
    for answer in (sealed.get("/v1/a/c/o"), sealed.head("/v1/a/c/o")):
        assert (answer.status, answer.headers["etag"], answer.headers["content-length"]) == (
            200,
            md5(PLAIN),
            str(len(PLAIN)),
        )
        assert answer.headers["x-object-meta-color"] == "crimson"
        assert not [name for name in answer.headers if "crypto" in name or "sysmeta" in name]
    assert sealed.get("/v1/a/c/o").read() == PLAIN
    (entry,) = json.loads(sealed.get("/v1/a/c", query={"format": "json"}).read())
    assert (entry["hash"], entry["bytes"], entry["content_type"]) == (md5(PLAIN), len(PLAIN), "text/x")


def test_nothing_plain_is_on_the_disk(sealed: World, tmp_path: Path) -> None:
    sealed.put("/v1/a/c/o", PLAIN, x_object_meta_color="crimson")
    sealed.post("/v1/a/c/o", x_object_meta_color="vermilion")
    raw = on_disk(tmp_path)
    assert b"/a/c/o" in raw
    for secret in (PLAIN, PLAIN[:12], b"crimson", b"vermilion", md5(PLAIN).encode(), base64.b64decode(FIRST)):
        assert secret not in raw
    plain = world(tmp_path / "other", pipeline=PIPELINE)
    plain.put("/v1/a/c")
    plain.put("/v1/a/c/o", PLAIN, x_object_meta_color="crimson")
    raw = on_disk(tmp_path / "other")
    assert all(said in raw for said in (PLAIN, b"crimson", md5(PLAIN).encode()))


def test_nothing_tells_of_what_lies_on_top(sealed: World, tmp_path: Path) -> None:
    sealed.put("/v1/a/segments/1", PLAIN)
    body = b'[{"path": "/segments/1"}]'
    large = sealed.put("/v1/a/c/slo", body, query={"multipart-manifest": "put"}).headers["etag"].strip('"')
    sealed.put("/v1/a/c/l", x_symlink_target="segments/1", x_symlink_target_etag=md5(PLAIN))
    sealed.post("/v1/a/c", x_versions_enabled="true")
    sealed.put("/v1/a/c/v", PLAIN)
    sealed.delete("/v1/a/c/v")
    raw = on_disk(tmp_path)
    assert md5(PLAIN).encode() not in raw
    assert large.encode() not in raw
    assert sealed.get("/v1/a/c/slo", if_match=large).status == 200
    assert sealed.get("/v1/a/c/slo", if_none_match=large).status == 304
    assert sealed.get("/v1/a/c/slo", range="bytes=1-3", if_range=f'"{large}"').read() == PLAIN[1:4]
    assert sealed.get("/v1/a/c/l").headers["etag"] == md5(PLAIN)


def test_changes_under_conditions(sealed: World) -> None:
    sealed.put("/v1/a/c/o", PLAIN)
    assert sealed.put("/v1/a/c/o", b"new", if_match="no").status == 412
    assert sealed.delete("/v1/a/c/o", if_match=md5(b"new")).status == 412
    assert sealed.put("/v1/a/c/o", b"new", if_match=md5(PLAIN)).status == 201
    assert sealed.delete("/v1/a/c/o", if_match=md5(b"new")).status == 204


def test_same_content_looks_different(sealed: World, tmp_path: Path) -> None:
    for name in ("1", "2"):
        sealed.put(f"/v1/a/c/{name}", PLAIN * 100)
    files = [path.read_bytes() for path in compose.rings_folder(tmp_path).parent.rglob("*.data")]
    assert len(files) == 2
    assert files[0] != files[1]
    assert [len(one) for one in files] == [len(PLAIN) * 100] * 2


def test_conditions(sealed: World) -> None:
    sealed.put("/v1/a/c/o", PLAIN)
    etag = md5(PLAIN)
    for method in ("GET", "HEAD"):
        assert sealed.ask(method, "/v1/a/c/o", if_match=f'"{etag}"').status == 200
        assert sealed.ask(method, "/v1/a/c/o", if_match="*").status == 200
        assert sealed.ask(method, "/v1/a/c/o", if_match=f'"x", "{etag}"').status == 200
        assert sealed.ask(method, "/v1/a/c/o", if_match='"x"').status == 412
        unchanged = sealed.ask(method, "/v1/a/c/o", if_none_match=etag)
        assert (unchanged.status, unchanged.headers["etag"]) == (304, etag)
        assert sealed.ask(method, "/v1/a/c/o", if_none_match="x").status == 200
    assert sealed.get("/v1/a/c/o", range="bytes=2-4", if_range=f'"{etag}"').read() == PLAIN[2:5]
    assert sealed.get("/v1/a/c/o", range="bytes=2-4", if_range='"x"').read() == PLAIN
    assert sealed.put("/v1/a/c/o", b"new", if_none_match="*").status == 412


def test_uploads_say_how_long_they_are(sealed: World) -> None:
    store = sealed
    assert store.put("/v1/a/v", x_versions_enabled="true").status == 201
    connection = HTTPConnection(store.serve().removeprefix("http://"), timeout=10)
    for path in ("/v1/a/c/o", "/v1/a/v/o", "/v1/a/v/o?version-id=1.0", "/v1/a/c/o?multipart-manifest=put"):
        for headers, status in (({}, 411), ({"Content-Length": "0"}, None)):
            connection.putrequest("PUT", path)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            answer.read()
            assert (answer.status == 411) == (status == 411), path
    for headers in ({}, {"Content-Length": "0"}):
        connection.request("COPY", "/v1/a/c/o", headers={"Destination": "c/copy", **headers})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 201
    connection.close()


def test_wrong_sums_are_refused(sealed: World) -> None:
    assert sealed.put("/v1/a/c/o", PLAIN, etag=md5(b"other")).status == 422
    assert sealed.head("/v1/a/c/o").status == 404
    assert sealed.put("/v1/a/c/o", PLAIN, etag=f'"{md5(PLAIN).upper()}"').status == 201
    assert sealed.put("/v1/a/c/o", Stream([PLAIN, PLAIN]), etag=md5(PLAIN * 2)).status == 201
    assert sealed.get("/v1/a/c/o").read() == PLAIN * 2


def test_nothing_is_nothing(sealed: World) -> None:
    assert sealed.put("/v1/a/c/o", b"", x_object_meta_a="b").headers["etag"] == md5(b"")
    got = sealed.get("/v1/a/c/o")
    assert (got.read(), got.headers["etag"], got.headers["x-object-meta-a"]) == (b"", md5(b""), "b")
    (entry,) = json.loads(sealed.get("/v1/a/c", query={"format": "json"}).read())
    assert entry["hash"] == md5(b"")
    assert sealed.put("/v1/a/c/o", b"", etag=md5(b"x")).status == 422


def test_metadata(sealed: World) -> None:
    assert sealed.put("/v1/a/c/o", PLAIN, x_object_meta_a="ü", x_object_meta_b="").status == 201
    assert sealed.head("/v1/a/c/o").headers["x-object-meta-a"] == "ü"
    assert sealed.post("/v1/a/c/o", x_object_meta_c="new").status == 202
    head = sealed.head("/v1/a/c/o").headers
    assert (head.get("x-object-meta-a"), head["x-object-meta-c"], head["etag"]) == (None, "new", md5(PLAIN))
    assert sealed.put("/v1/a/c/o", PLAIN, x_object_meta_a="x" * 257).status == 400
    assert sealed.post("/v1/a/c/o", x_object_meta_a="x" * 257).status == 400


def test_secrets_change(tmp_path: Path) -> None:
    old = reopened(tmp_path, encryption_root_secret=FIRST)
    old.put("/v1/a/c")
    old.put("/v1/a/c/1", PLAIN, x_object_meta_a="one")
    new = reopened(
        tmp_path, encryption_root_secret=FIRST, encryption_root_secret_new=SECOND, active_root_secret_id="new"
    )
    new.put("/v1/a/c/2", PLAIN, x_object_meta_a="two")
    for name, said in (("1", "one"), ("2", "two")):
        got = new.get(f"/v1/a/c/{name}")
        assert (got.read(), got.headers["etag"], got.headers["x-object-meta-a"]) == (PLAIN, md5(PLAIN), said)
        assert new.get(f"/v1/a/c/{name}", if_none_match=md5(PLAIN)).status == 304
        assert new.get(f"/v1/a/c/{name}", if_match=md5(PLAIN)).status == 200
    assert {one["hash"] for one in json.loads(new.get("/v1/a/c", query={"format": "json"}).read())} == {
        md5(PLAIN)
    }
    new.post("/v1/a/c/1", x_object_meta_a="posted")
    got = new.get("/v1/a/c/1")
    assert (got.read(), got.headers["x-object-meta-a"]) == (PLAIN, "posted")
    lost = reopened(tmp_path, encryption_root_secret_new=SECOND, active_root_secret_id="new")
    assert lost.get("/v1/a/c/1").status == 500
    assert lost.get("/v1/a/c/2").read() == PLAIN
    found = json.loads(lost.get("/v1/a/c", query={"format": "json"}).read())
    assert [one["hash"] for one in found] == ["<unknown>", md5(PLAIN)]


def test_switched_off(tmp_path: Path) -> None:
    on = reopened(tmp_path, encryption_root_secret=FIRST)
    on.put("/v1/a/c")
    on.put("/v1/a/c/1", PLAIN, x_object_meta_a="one")
    assert on.store.facts["encryption"] == {"enabled": True}
    off = reopened(tmp_path, encryption_root_secret=FIRST, disable_encryption="yes")
    assert off.store.facts["encryption"] == {"enabled": False}
    off.put("/v1/a/c/2", PLAIN, x_object_meta_a="two")
    for name, said in (("1", "one"), ("2", "two")):
        got = off.get(f"/v1/a/c/{name}")
        assert (got.read(), got.headers["etag"], got.headers["x-object-meta-a"]) == (PLAIN, md5(PLAIN), said)
        assert on.get(f"/v1/a/c/{name}", if_match=md5(PLAIN), range="bytes=3-").read() == PLAIN[3:]
    without = reopened(tmp_path)
    assert without.get("/v1/a/c/2").read() == PLAIN
    answer = without.get("/v1/a/c/1")
    assert (answer.status, PLAIN in answer.read()) == (500, False)
    assert without.head("/v1/a/c/1").status == 500
    assert "encryption" not in without.store.facts


def test_what_lies_on_top(sealed: World, tmp_path: Path) -> None:
    """Large objects, links, copies and versions do not know of it."""
    for number in range(3):
        sealed.put(f"/v1/a/segments/p/{number}", PLAIN, x_object_meta_a="b")
    body = json.dumps([{"path": f"/segments/p/{number}", "etag": md5(PLAIN)} for number in range(3)]).encode()
    large = sealed.put("/v1/a/c/slo", body, query={"multipart-manifest": "put"})
    assert large.status == 201
    sealed.put("/v1/a/c/dlo", b"", x_object_manifest="segments/p/")
    for name in ("slo", "dlo"):
        got = sealed.get(f"/v1/a/c/{name}", range="bytes=30-50,60-61")
        assert got.status == 206
        assert (PLAIN * 3)[30:51] in got.read()
        assert sealed.get(f"/v1/a/c/{name}").read() == PLAIN * 3
        assert sealed.get(f"/v1/a/c/{name}", if_match=large.headers["etag"]).status == 200
    entry = json.loads(sealed.get("/v1/a/c", query={"format": "json", "prefix": "slo"}).read())[0]
    assert (entry["slo_etag"], entry["bytes"]) == (large.headers["etag"], 3 * len(PLAIN))
    sealed.put("/v1/a/c/l", x_symlink_target="segments/p/0", x_symlink_target_etag=md5(PLAIN))
    assert sealed.get("/v1/a/c/l", if_match=md5(PLAIN)).read() == PLAIN
    entry = json.loads(sealed.get("/v1/a/c", query={"format": "json", "prefix": "l"}).read())[0]
    assert (entry["hash"], entry["symlink_etag"]) == (md5(b""), md5(PLAIN))
    assert sealed.put("/v1/a/c/copy", x_copy_from="segments/p/0").status == 201
    got = sealed.get("/v1/a/c/copy")
    assert (got.read(), got.headers["x-object-meta-a"], got.headers["etag"]) == (PLAIN, "b", md5(PLAIN))
    sealed.put("/v1/a/v")
    sealed.put("/v1/a/v/o", b"before")
    sealed.post("/v1/a/v", x_versions_enabled="true")
    first = sealed.put("/v1/a/v/o", PLAIN).headers["x-object-version-id"]
    sealed.put("/v1/a/v/o", b"newer")
    assert sealed.get("/v1/a/v/o", query={"version-id": first}).read() == PLAIN
    found = json.loads(sealed.get("/v1/a/v", query={"versions": ""}).read())
    assert [one["hash"] for one in found] == [md5(b"newer"), md5(PLAIN), md5(b"before")]
    assert sealed.get("/v1/a/v/o", query={"version-id": found[2]["version_id"]}).read() == b"before"


def test_several_ranges(sealed: World) -> None:
    sealed.put("/v1/a/c/o", PLAIN, content_type="text/x")
    got = sealed.get("/v1/a/c/o", range="bytes=3-9,20-,1-1")
    text = got.read()
    assert (got.status, len(text)) == (206, int(got.headers["content-length"]))
    boundary = got.headers["content-type"].partition("boundary=")[2]
    parts = text.decode().split(f"--{boundary}")
    assert parts[0] == "" and parts[-1] == "--"
    assert [part.partition("\r\n\r\n")[2].removesuffix("\r\n").encode() for part in parts[1:-1]] == [
        PLAIN[3:10], PLAIN[20:], PLAIN[1:2],
    ]  # fmt: skip
    assert f"Content-Range: bytes 3-9/{len(PLAIN)}" in parts[1]
    assert sealed.get("/v1/a/c/o", range="bytes=3-9,20-", if_none_match=md5(PLAIN)).status == 304
    assert sealed.get("/v1/a/c/o", range="bytes=900-,800-").status == 416
    assert sealed.get("/v1/a/c/none", range="bytes=1-2,3-4").status == 404


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=LENIENT,
)
@given(content=st.binary(min_size=1, max_size=200), data=st.data())
def test_ranges_are_slices(sealed: World, content: bytes, data: st.DataObject) -> None:
    sealed.put("/v1/a/c/o", content)
    first = data.draw(st.integers(0, len(content) - 1))
    last = data.draw(st.integers(first, len(content) + 5))
    assert sealed.get("/v1/a/c/o", range=f"bytes={first}-{last}").read() == content[first : last + 1]
    count = data.draw(st.integers(1, len(content) + 5))
    assert sealed.get("/v1/a/c/o", range=f"bytes=-{count}").read() == content[-count:]
    assert sealed.get("/v1/a/c/o").read() == content


@given(st.binary(max_size=200), st.integers(0, 200), st.binary(min_size=16, max_size=16))
def test_decryption_begins_anywhere(content: bytes, offset: int, iv: bytes) -> None:
    key = bytes(range(32))
    whole = cipher.cipher(key, iv).update(content)
    assert cipher.cipher(key, iv, offset).update(whole[offset:]) == content[offset:]


def test_the_counter_wraps_around() -> None:
    key, iv, content = bytes(32), b"\xff" * 16, bytes(100)
    whole = cipher.cipher(key, iv).update(content)
    assert cipher.cipher(key, iv, 40).update(content[40:]) == whole[40:]


def test_the_cipher_is_the_standard_one() -> None:
    """NIST SP 800-38A, F.5.5."""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    iv = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    plain = bytes.fromhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51")
    assert cipher.cipher(key, iv).update(plain).hex() == (
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
    )


@pytest.mark.parametrize(
    "text",
    [b"x", b"[]", b'{"iv":5}', b'{"iv":"AAAA"}', b'{"iv":"AAAAAAAAAAAAAAAAAAAAAA==","cipher":"ROT13"}'],
)
def test_broken_parameters(text: bytes) -> None:
    with pytest.raises(cipher.Unreadable):
        cipher.load(base64.urlsafe_b64encode(text).decode())
    with pytest.raises(cipher.Unreadable):
        cipher.load("?" + text.decode())
