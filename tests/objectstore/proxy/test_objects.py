"""Objects on one device: what PUT, GET, HEAD, POST and DELETE say and keep."""

from __future__ import annotations

import hashlib
import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from altostack.objectstore.http import ClientGone, Extent, Refusal, Request, Stream, Unsaid
from altostack.objectstore.proxy import backend
from tests.objectstore.proxy.scene import single
from tests.objectstore.world import World

BODY = random.Random(7).randbytes(700_000)


class Now:
    """A clock that is set by hand, seconds since 1970."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000.0

    def __call__(self) -> int:
        self.seconds += 0.001
        return int(self.seconds * 1e9)


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def one(tmp_path: Path, now: Now) -> Iterator[World]:
    made = single(tmp_path, nanoseconds=now, settings={"max_object_size": 1_000_000})
    assert made.put("/v1/a/c").status == 201
    yield made
    made.close()


def md5(body: bytes) -> str:
    return hashlib.md5(body).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 4096, 262_144, 262_145, 700_000])
def test_round_trip(one: World, size: int) -> None:
    body = BODY[:size]
    made = one.put("/v1/a/c/o", body)
    assert (made.status, made.headers["etag"]) == (201, md5(body))
    assert "last-modified" in made.headers
    got = one.get("/v1/a/c/o")
    assert got.headers["content-length"] == str(size)
    assert got.headers["etag"] == md5(body)
    assert got.headers["content-type"] == "application/octet-stream"
    assert got.headers["accept-ranges"] == "bytes"
    assert re.fullmatch(r"\d{10}\.\d{5}", got.headers["x-timestamp"])
    assert got.read() == body
    assert one.put("/v1/a/c/chunks", Stream([body[:1000], body[1000:]])).headers["etag"] == md5(body)
    assert one.get("/v1/a/c/chunks").read() == body


def test_large_copies_are_sent_from_the_file(one: World) -> None:
    one.put("/v1/a/c/o", BODY)
    got = one.get("/v1/a/c/o")
    assert isinstance(got.body, Extent)
    got.close()


def test_names(one: World) -> None:
    for name in ("a/b//c/", "é ü/%41", "?#&", "x" * 1024):
        assert one.put(f"/v1/a/c/{name}", b"x").status == 201
        assert one.get(f"/v1/a/c/{name}").read() == b"x"
    assert one.put(f"/v1/a/c/{'x' * 1025}", b"x").status == 400
    assert one.put(f"/v1/a/c/{'é' * 513}", b"x").status == 400


def test_what_was_sent_is_what_was_said(one: World) -> None:
    assert one.put("/v1/a/c/o", b"hello", etag=md5(b"other")).status == 422
    assert one.put("/v1/a/c/o", BODY, etag=md5(b"other")).status == 422
    assert one.get("/v1/a/c/o").status == 404
    assert one.get("/v1/a/c").entries == []
    assert one.put("/v1/a/c/o", b"hello", etag=f'"{md5(b"hello").upper()}"').status == 201


def test_lengths(one: World) -> None:
    assert one.put("/v1/a/c/o", Unsaid()).status == 411
    assert one.put("/v1/a/c/o", b"x" * 1_000_001).status == 413
    assert one.put("/v1/a/c/o", Stream([b"x" * 600_000, b"x" * 400_001])).status == 413
    assert one.put("/v1/a/c/o", Stream([b"x" * 600_000, b"x" * 400_000])).status == 201


def test_a_body_that_ends_early_leaves_nothing(one: World) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x" * 300_000
        raise ClientGone("gone")

    one.put("/v1/a/c/o", b"old")
    for length in (None, 600_000, 1000):
        with pytest.raises(ClientGone):
            one.put("/v1/a/c/o", Stream(broken() if length != 1000 else _gone(), length))
        assert one.get("/v1/a/c/o").read() == b"old"
    leftovers = [path for path in (one.store.folder / "objectstore/devices/d1").rglob("*") if path.is_file()]
    assert not [path for path in leftovers if path.stat().st_size >= 300_000]


def test_a_body_of_another_length_than_it_says(one: World) -> None:
    for size, said in ((10, 11), (300_000, 300_001), (300_000, 299_000)):
        with pytest.raises(ClientGone):
            one.put("/v1/a/c/o", Stream([b"x" * size], said))
        assert one.get("/v1/a/c/o").status == 404


def _gone() -> Iterator[bytes]:
    yield b"x"
    raise ClientGone("gone")


def test_no_thread_is_left_of_a_large_upload(one: World) -> None:
    large = bytes(8 << 20)
    other = single(one.store.folder / "other")
    other.put("/v1/a/c")
    assert other.put("/v1/a/c/o", large).headers["etag"] == md5(large)

    def broken() -> Iterator[bytes]:
        for _ in range(6):
            yield bytes(1 << 20)
        raise ClientGone("gone")

    with pytest.raises(ClientGone):
        other.put("/v1/a/c/o", Stream(broken()))
    assert not [thread for thread in threading.enumerate() if thread.name == "object-sum"]
    other.close()


def test_only_where_nothing_is(one: World, now: Now) -> None:
    assert one.put("/v1/a/c/o", b"1", if_none_match="*").status == 201
    assert one.put("/v1/a/c/o", b"2", if_none_match="*").status == 412
    assert one.put("/v1/a/c/o", BODY, if_none_match="*").status == 412
    assert one.get("/v1/a/c/o").read() == b"1"
    assert one.put("/v1/a/c/o", b"2", if_none_match="abc").status == 400
    one.delete("/v1/a/c/o")
    assert one.put("/v1/a/c/o", b"3", if_none_match="*", x_delete_after="10").status == 201
    now.seconds += 20
    assert one.put("/v1/a/c/o", b"4", if_none_match="*").status == 201  # what expired is not there
    assert one.get("/v1/a/c/o").read() == b"4"


def test_only_where_it_is_what_was_seen(one: World) -> None:
    assert one.put("/v1/a/c/o", b"1", if_match="*").status == 412
    one.put("/v1/a/c/o", b"1")
    assert one.put("/v1/a/c/o", b"2", if_match=md5(b"9")).status == 412
    assert one.put("/v1/a/c/o", b"2", if_match=f'"{md5(b"1")}"').status == 201
    assert one.put("/v1/a/c/o", b"3", if_match="*", if_none_match="*").status == 412
    assert one.delete("/v1/a/c/o", if_match=md5(b"1")).status == 412
    assert one.delete("/v1/a/c/o", if_match=md5(b"2")).status == 204


def test_content_types(one: World) -> None:
    for sent, name, kept in (
        ({}, "a.png", "image/png"),
        ({}, "a.unheard", "application/octet-stream"),
        ({"content_type": "text/x; charset=a"}, "a", "text/x; charset=a"),
        ({"content_type": "text/x", "x_detect_content_type": "true"}, "a.gif", "image/gif"),
    ):
        one.put(f"/v1/a/c/{name}", b"x", **sent)
        assert one.head(f"/v1/a/c/{name}").headers["content-type"] == kept
    assert one.put("/v1/a/c/b", b"x", content_type="text/x; swift_bytes=5").status == 400
    assert one.post("/v1/a/c/a", content_type="text/x; swift_bytes=5").status == 400


def test_headers_that_are_kept(one: World) -> None:
    kept = {
        "content-disposition": "attachment", "content-encoding": "gzip", "content-language": "de",
        "cache-control": "no-cache", "expires": "Thu, 01 Dec 1994 16:00:00 GMT", "x-robots-tag": "none",
        "x-object-meta-color": "röt", "x-object-sysmeta-thing": "1", "x-object-transient-sysmeta-thing": "2",
    }  # fmt: skip
    one.put("/v1/a/c/o", b"x", **kept, x_other="no")
    headers = one.get("/v1/a/c/o").headers
    assert {name: headers.get(name) for name in kept} == kept
    assert "x-other" not in headers
    assert one.put("/v1/a/c/o", b"x", **{"content-disposition": "\udcff"}).status == 400


def test_metadata_limits(one: World) -> None:
    assert one.put("/v1/a/c/o", b"", **{"x-object-meta-" + "n" * 129: "v"}).status == 400
    assert one.put("/v1/a/c/o", b"", **{"x-object-meta-n": "v" * 257}).status == 400
    assert one.put("/v1/a/c/o", b"", **{f"x-object-meta-{n}": "v" for n in range(91)}).status == 400
    assert one.put("/v1/a/c/o", b"", **{f"x-object-meta-{n:02}": "v" * 250 for n in range(17)}).status == 400
    assert one.put("/v1/a/c/o", b"", **{"x-object-meta-": "v"}).status == 400
    assert one.head("/v1/a/c/o").status == 404
    assert one.put("/v1/a/c/o", b"", **{f"x-object-meta-{n}": "v" for n in range(90)}).status == 201
    assert one.post("/v1/a/c/o", **{f"x-object-meta-{n}": "v" for n in range(91)}).status == 400


def test_post_replaces_metadata(one: World) -> None:
    one.put(
        "/v1/a/c/o", b"123", content_type="text/a", x_object_meta_color="red", x_object_sysmeta_own="1",
        x_object_transient_sysmeta_passing="1", content_encoding="gzip", x_static_large_object="True",
    )  # fmt: skip
    before = one.head("/v1/a/c/o").headers
    posted = one.post("/v1/a/c/o", x_object_meta_shape="round", x_object_transient_sysmeta_new="2")
    assert posted.status == 202
    headers = one.head("/v1/a/c/o").headers
    assert headers["x-object-meta-shape"] == "round"
    assert headers["x-object-transient-sysmeta-new"] == "2"
    assert headers["x-object-sysmeta-own"] == "1"
    assert headers["x-static-large-object"] == "True"
    assert headers["content-type"] == "text/a"
    assert headers["etag"] == md5(b"123")
    assert (
        not {"x-object-meta-color", "x-object-transient-sysmeta-passing", "content-encoding"} & headers.keys()
    )
    assert headers["x-timestamp"] > before["x-timestamp"]
    assert headers["x-backend-data-timestamp"] == before["x-backend-data-timestamp"]
    one.post("/v1/a/c/o", content_type="text/b")
    one.post("/v1/a/c/o", x_object_meta_shape="flat")
    assert one.head("/v1/a/c/o").headers["content-type"] == "text/b"
    (entry,) = one.get("/v1/a/c").entries or []
    assert (entry["content_type"], entry["bytes"], entry["hash"]) == ("text/b", 3, md5(b"123"))
    assert one.post("/v1/a/c/none", x_object_meta_shape="flat").status == 404
    one.put("/v1/a/c/o", b"1234")
    assert "x-object-meta-shape" not in one.head("/v1/a/c/o").headers


def test_delete(one: World) -> None:
    assert one.delete("/v1/a/c/o").status == 404
    one.put("/v1/a/c/o", b"x")
    assert one.delete("/v1/a/c/o").status == 204
    assert one.get("/v1/a/c/o").status == 404
    assert one.head("/v1/a/c/o").headers["x-backend-timestamp"] > "1700000000"
    assert one.delete("/v1/a/c/o").status == 404
    assert one.get("/v1/a/c").entries == []
    assert one.delete("/v1/a/none/o").status == 404
    assert one.put("/v1/a/none/o", b"x").status == 404


def test_expiry(one: World, now: Now) -> None:
    at = int(now.seconds) + 100
    assert one.put("/v1/a/c/o", b"x", x_delete_at=str(at)).status == 201
    assert one.put("/v1/a/c/p", b"x", x_delete_after="100").status == 201
    assert one.head("/v1/a/c/o").headers["x-delete-at"] == str(at)
    assert one.put("/v1/a/c/q", b"x", x_delete_at="5").status == 400
    assert one.put("/v1/a/c/q", b"x", x_delete_after="-5").status == 400
    assert one.put("/v1/a/c/q", b"x", x_delete_at="soon").status == 400
    assert one.put("/v1/a/c/q", b"x", x_delete_at="").status == 400
    assert one.put("/v1/a/c/q", b"x", x_delete_after="soon").status == 400
    assert one.post("/v1/a/c/o", x_delete_at="5").status == 400
    queued = [
        entry["name"]
        for container in one.get("/v1/.expiring_objects").entries or []
        for entry in one.get(f"/v1/.expiring_objects/{container['name']}").entries or []
    ]
    assert f"{at:010d}-a/c/o" in queued
    assert len(queued) == 2
    now.seconds += 200
    for name in ("o", "p"):
        assert one.get(f"/v1/a/c/{name}").status == 404
        assert one.head(f"/v1/a/c/{name}").status == 404
        assert one.post(f"/v1/a/c/{name}", x_object_meta_a="b").status == 404
    assert one.get("/v1/a/c/o", **{"x-backend-open-expired": "true"}).read() == b"x"
    assert one.delete("/v1/a/c/o", x_if_delete_at=str(at + 1)).status == 412
    assert one.delete("/v1/a/c/o", x_if_delete_at="soon").status == 400
    assert one.delete("/v1/a/c/none", x_if_delete_at=str(at)).status == 404
    assert one.delete("/v1/a/c/o", x_if_delete_at=str(at)).status == 204
    assert one.delete("/v1/a/c/p").status == 404
    assert one.get("/v1/a/c/p", **{"x-backend-open-expired": "true"}).status == 404


def test_a_post_takes_expiry_back(one: World, now: Now) -> None:
    one.put("/v1/a/c/o", b"x", x_delete_after="100")
    one.post("/v1/a/c/o", x_object_meta_a="b")
    assert "x-delete-at" not in one.head("/v1/a/c/o").headers
    queued = [
        entry
        for container in one.get("/v1/.expiring_objects").entries or []
        for entry in one.get(f"/v1/.expiring_objects/{container['name']}").entries or []
    ]
    assert queued == []
    one.post("/v1/a/c/o", x_delete_after="50")
    now.seconds += 60
    assert one.get("/v1/a/c/o").status == 404


def test_timestamps_from_inside(one: World) -> None:
    assert one.put("/v1/a/c/o", b"new", x_timestamp="1700000500.5").status == 201
    assert one.head("/v1/a/c/o").headers["x-timestamp"] == "1700000500.50000"
    old = one.put("/v1/a/c/o", b"old", x_timestamp="1700000400")
    assert (old.status, old.headers["x-backend-timestamp"]) == (202, "1700000500.500000000")
    assert one.get("/v1/a/c/o").read() == b"new"
    assert one.post("/v1/a/c/o", x_object_meta_a="b", x_timestamp="1700000400").status == 409
    assert one.delete("/v1/a/c/o", x_timestamp="1700000400").status == 409
    assert one.put("/v1/a/c/o", b"x", x_timestamp="yesterday").status == 400


def test_conditions(one: World, now: Now) -> None:
    one.put("/v1/a/c/o", b"hello")
    etag = md5(b"hello")
    early, late = "Tue, 14 Nov 2023 00:00:00 GMT", "Thu, 14 Nov 2024 00:00:00 GMT"
    for method in ("GET", "HEAD"):
        for headers, status in (
            ({"if_match": etag}, 200),
            ({"if_match": f'"x", "{etag}"'}, 200),
            ({"if_match": "*"}, 200),
            ({"if_match": '"x"'}, 412),
            ({"if_none_match": etag}, 304),
            ({"if_none_match": f'W/"{etag}"'}, 304),
            ({"if_none_match": "*"}, 304),
            ({"if_none_match": "x"}, 200),
            ({"if_modified_since": late}, 304),
            ({"if_modified_since": early}, 200),
            ({"if_modified_since": "never"}, 200),
            ({"if_unmodified_since": early}, 412),
            ({"if_unmodified_since": late}, 200),
            ({"if_match": etag, "if_unmodified_since": early}, 200),
            ({"if_none_match": "x", "if_modified_since": late}, 200),
        ):
            answer = one.ask(method, "/v1/a/c/o", **headers)
            assert answer.status == status, (method, headers)
            assert answer.headers["etag"] == etag
            assert answer.read() == (b"hello" if status == 200 and method == "GET" else b"")
    modified = one.head("/v1/a/c/o").headers["last-modified"]
    assert one.get("/v1/a/c/o", if_modified_since=modified).status == 304
    assert one.get("/v1/a/c/o", if_unmodified_since=modified).status == 200
    assert one.get("/v1/a/c/none", if_match="*").status == 412
    assert one.get("/v1/a/c/none", if_none_match="*").status == 404


def test_middleware_says_what_the_etag_is(one: World) -> None:
    one.put("/v1/a/c/o", b"hello", **{"x-object-sysmeta-slo-etag": "abc"})
    for wanted, status in (("abc", 200), (md5(b"hello"), 412)):
        got = one.get(
            "/v1/a/c/o", if_match=wanted, **{backend.ETAG_IS_AT: "X-None, X-Object-Sysmeta-Slo-Etag"}
        )
        assert got.status == status
        got.close()
    got = one.get("/v1/a/c/o", if_match=md5(b"hello"), **{backend.ETAG_IS_AT: "x-none"})
    assert got.read() == b"hello"


def test_ranges_equal_slices(one: World) -> None:
    body = BODY[:5000]
    one.put("/v1/a/c/o", body)
    one.put("/v1/a/c/large", BODY)
    chance = random.Random(3)
    for path, whole in (("/v1/a/c/o", body), ("/v1/a/c/large", BODY)):
        for _ in range(50):
            size = len(whole)
            first, last = sorted(chance.randrange(size + 50) for _ in range(2))
            suffix = chance.randrange(1, size + 50)
            for header, expected in (
                (f"bytes={first}-{last}", whole[first : last + 1]),
                (f"bytes={first}-", whole[first:]),
                (f"bytes=-{suffix}", whole[-suffix:]),
            ):
                got = one.get(path, range=header)
                if not expected:
                    assert got.status == 416
                    assert got.headers["content-range"] == f"bytes */{size}"
                    continue
                assert got.status == 206
                data = got.read()
                assert data == expected
                assert got.headers["content-length"] == str(len(data))
                start = size - len(data) if header.startswith("bytes=-") else first
                assert got.headers["content-range"] == f"bytes {start}-{start + len(data) - 1}/{size}"


def test_several_ranges_equal_slices(one: World) -> None:
    one.put("/v1/a/c/o", BODY, content_type="text/x")
    chance = random.Random(4)
    for _ in range(20):
        runs = []
        at = 0
        for _ in range(chance.randrange(2, 6)):
            start = at + chance.randrange(1, 50_000)
            at = start + chance.randrange(1, 50_000)
            runs.append((start, at))
        got = one.get("/v1/a/c/o", range="bytes=" + ",".join(f"{a}-{b - 1}" for a, b in runs))
        assert got.status == 206
        boundary = got.headers["content-type"].removeprefix("multipart/byteranges;boundary=")
        data = got.read()
        assert got.headers["content-length"] == str(len(data))
        for start, stop in runs:
            told = f"Content-Range: bytes {start}-{stop - 1}/{len(BODY)}"
            head = f"--{boundary}\r\nContent-Type: text/x\r\n{told}\r\n\r\n"
            assert data.startswith(head.encode())
            data = data[len(head) :]
            assert data[: stop - start] == BODY[start:stop]
            data = data[stop - start + 2 :]
        assert data == f"--{boundary}--".encode()


def test_ranges_that_are_ignored_or_refused(one: World) -> None:
    one.put("/v1/a/c/o", b"0123456789")
    for header in ("lines=1-2", "bytes", "bytes=", "bytes=a-b", "bytes=5-2", "bytes=-", "bytes=1-2,x"):
        got = one.get("/v1/a/c/o", range=header)
        assert (got.status, got.read()) == (200, b"0123456789"), header
    for header in (
        "bytes=10-", "bytes=-0", "bytes=20-30,40-50", "bytes=" + ",".join(["0-0"] * 51),
        "bytes=" + ",".join(["0-9"] * 4), "bytes=" + ",".join(f"{n}-{n}" for n in range(9, -1, -1)),
    ):  # fmt: skip
        assert one.get("/v1/a/c/o", range=header).status == 416, header
    got = one.get("/v1/a/c/o", range="bytes=2-3,40-50")  # one is left
    assert (got.status, got.headers["content-range"], got.read()) == (206, "bytes 2-3/10", b"23")
    assert one.head("/v1/a/c/o", range="bytes=0-1").status == 200
    one.put("/v1/a/c/empty", b"")
    assert one.get("/v1/a/c/empty", range="bytes=0-0").status == 416
    assert one.get("/v1/a/c/empty", range="bytes=-1").status == 200


def test_if_range(one: World) -> None:
    one.put("/v1/a/c/o", b"0123456789")
    modified = one.head("/v1/a/c/o").headers["last-modified"]
    for said, status in (
        (f'"{md5(b"0123456789")}"', 206),
        ('"other"', 200),
        (modified, 206),
        ("Thu, 14 Nov 2002 00:00:00 GMT", 200),
    ):
        got = one.get("/v1/a/c/o", range="bytes=0-1", if_range=said)
        assert got.status == status
        got.close()


def test_ranges_of_manifests_may_be_ignored(one: World) -> None:
    one.put("/v1/a/c/o", b"0123456789", x_static_large_object="True")
    ignoring = {backend.IGNORE_RANGE: "X-Other, X-Static-Large-Object"}
    assert one.get("/v1/a/c/o", range="bytes=0-1", **ignoring).read() == b"0123456789"
    assert one.get("/v1/a/c/o", range="bytes=0-1", **{backend.IGNORE_RANGE: "x-other"}).read() == b"01"


def test_what_the_list_says_may_be_overridden(one: World) -> None:
    one.put(
        "/v1/a/c/o", b"manifest",
        **{f"{backend.KEPT_OVERRIDE}etag": "abc; slo_etag=x", f"{backend.KEPT_OVERRIDE}size": "999"},
    )  # fmt: skip
    one.put(
        "/v1/a/c/p", b"x", **{f"{backend.OVERRIDE}content-type": "text/x", f"{backend.OVERRIDE}size": "7"}
    )
    o, p = one.get("/v1/a/c").entries or []
    assert (o["hash"], o["bytes"]) == ("abc; slo_etag=x", 999)
    assert (p["content_type"], p["bytes"]) == ("text/x", 7)
    one.post("/v1/a/c/o", x_object_meta_a="b")
    assert (one.get("/v1/a/c").entries or [])[0]["bytes"] == 999
    assert one.get("/v1/a/c/o").headers["etag"] == md5(b"manifest")


def test_footers(one: World) -> None:
    assert one.store.app is not None

    def footers(metadata: dict[str, str]) -> None:
        assert metadata["etag"] == md5(b"hello")
        assert metadata["content-length"] == "5"
        metadata["x-object-sysmeta-sum"] = "1"
        metadata["etag"] = "0" * 32

    from altostack.objectstore.http import Bytes

    request = Request("PUT", "/v1/a/c/o", headers={"content-length": "5"}, body=Bytes(b"hello"))
    request.facts[backend.FOOTERS] = footers
    made = one.store.app(request)
    assert (made.status, made.headers["etag"]) == (201, "0" * 32)
    headers = one.head("/v1/a/c/o").headers
    assert (headers["etag"], headers["x-object-sysmeta-sum"]) == ("0" * 32, "1")
    assert (one.get("/v1/a/c").entries or [])[0]["hash"] == "0" * 32

    def refuse(metadata: dict[str, str]) -> None:
        raise Refusal(422)

    request = Request("PUT", "/v1/a/c/p", headers={"content-length": "5"}, body=Bytes(b"hello"))
    request.facts[backend.FOOTERS] = refuse
    with pytest.raises(Refusal):
        one.store.app(request)
    assert one.head("/v1/a/c/p").status == 404


def test_authority_is_asked_before_the_body_is_read(one: World) -> None:
    class Untouched(Stream):
        def read(self, size: int = -1) -> bytes:
            raise AssertionError("the body was read")

    def nobody(request: Request, acl: str | None) -> None:
        raise Refusal(403)

    request = Request("PUT", "/v1/a/c/o", body=Untouched([b"x"], 1))
    request.authorize = nobody
    assert one.store.app is not None
    with pytest.raises(Refusal) as refused:
        one.store.app(request)
    assert refused.value.status == 403
    assert one.put("/v1/a/none/o", Untouched([b"x"], 1)).status == 404
    assert one.put("/v1/a/c/o", Untouched([b"x"], 1), x_delete_at="1").status == 400


def test_the_whole_way_by_http(one: World) -> None:
    import urllib.request

    url = one.serve()
    sent = urllib.request.Request(f"{url}/v1/a/c/o", data=BODY, method="PUT")
    with urllib.request.urlopen(sent) as made:
        assert (made.status, made.headers["Etag"]) == (201, md5(BODY))
    with urllib.request.urlopen(f"{url}/v1/a/c/o") as got:
        assert got.read() == BODY
    asked = urllib.request.Request(f"{url}/v1/a/c/o", headers={"Range": "bytes=100000-600000"})
    with urllib.request.urlopen(asked) as got:
        assert got.read() == BODY[100000:600001]
