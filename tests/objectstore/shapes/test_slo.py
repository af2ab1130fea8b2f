"""Static large objects."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from http.client import HTTPConnection, IncompleteRead
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from altostack.objectstore.http import Bytes, Request, Response
from altostack.objectstore.middleware.joined import Cut
from altostack.objectstore.middleware.slo import StaticLargeObjects
from tests.objectstore.shapes.clients import LENIENT, limited
from tests.objectstore.world import World

PUT = {"multipart-manifest": "put"}
GET = {"multipart-manifest": "get"}


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def make(store: World, path: str, segments: list[Any], **more: Any) -> Response:
    return store.put(path, json.dumps(segments).encode(), query=PUT, **more)


def fill(store: World, *contents: bytes) -> list[dict[str, Any]]:
    for number, content in enumerate(contents):
        assert store.put(f"/v1/a/segments/{number}", content).status == 201
    return [
        {"path": f"/segments/{number}", "etag": md5(content), "size_bytes": len(content)}
        for number, content in enumerate(contents)
    ]


def listed(store: World, path: str = "/v1/a/c", **query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(store.get(path, query={"format": "json", **query}).read())
    return found


def test_it_is_the_sum_of_its_segments(container: World) -> None:
    segments = fill(container, b"one,", b"two,", b"three")
    made = make(container, "/v1/a/c/big", segments, content_type="text/x", x_object_meta_color="red")
    etag = md5("".join(one["etag"] for one in segments).encode())
    assert (made.status, made.headers["etag"]) == (201, f'"{etag}"')
    got = container.get("/v1/a/c/big")
    assert got.status == 200
    assert got.read() == b"one,two,three"
    assert got.headers["etag"] == f'"{etag}"'
    assert got.headers["content-length"] == "13"
    assert got.headers["content-type"] == "text/x"
    assert got.headers["x-static-large-object"] == "True"
    assert got.headers["x-object-meta-color"] == "red"
    assert not [name for name in got.headers if "sysmeta" in name]
    head = container.head("/v1/a/c/big")
    assert (head.status, head.headers["content-length"], head.headers["etag"]) == (200, "13", f'"{etag}"')
    assert head.headers["x-manifest-etag"] == got.headers["x-manifest-etag"]


def test_lists_show_the_whole_and_count_the_manifest(container: World) -> None:
    made = make(container, "/v1/a/c/big", fill(container, b"a" * 3000, b"b" * 2000))
    (entry,) = listed(container)
    assert entry["bytes"] == 5000
    assert entry["slo_etag"] == made.headers["etag"]
    assert entry["hash"] == container.head("/v1/a/c/big").headers["x-manifest-etag"]
    assert int(container.head("/v1/a/c").headers["x-container-bytes-used"]) < 1000
    assert container.post("/v1/a/c/big", content_type="text/y", x_object_meta_a="b").status == 202
    (entry,) = listed(container)
    assert (entry["bytes"], entry["content_type"]) == (5000, "text/y")


def test_the_manifest_can_be_read(container: World) -> None:
    fill(container, b"12345", b"678")
    assert make(
        container, "/v1/a/c/big", [{"path": "segments/0", "range": "1-2"}, {"path": "/segments/1"}]
    ).good
    got = container.get("/v1/a/c/big", query=GET)
    assert got.headers["content-type"] == "application/json; charset=utf-8"
    first, second = json.loads(got.read())
    assert first["name"] == "/segments/0"
    assert (first["bytes"], first["hash"], first["range"]) == (5, md5(b"12345"), "1-2")
    assert second["bytes"] == 3
    assert second["content_type"] == "application/octet-stream"
    assert second["last_modified"].startswith("20")
    raw = container.get("/v1/a/c/big", query=GET | {"format": "raw"})
    sent = json.loads(text := raw.read())
    assert raw.headers["etag"] == md5(text)
    assert sent[0] == {"path": "/segments/0", "range": "1-2", "size_bytes": 5, "etag": md5(b"12345")}
    again = container.put("/v1/a/c/same", text, query=PUT)
    assert again.headers["etag"] == container.head("/v1/a/c/big").headers["etag"]


def test_ranges_inline_data_and_nesting(container: World) -> None:
    fill(container, b"abcdefgh")
    inner = make(container, "/v1/a/c/inner", [{"path": "segments/0", "range": "-4"}, {"data": "LS0="}])
    assert container.get("/v1/a/c/inner").read() == b"efgh--"
    outer = make(
        container,
        "/v1/a/c/outer",
        [
            {"data": "Pj4="},
            {"path": "/c/inner", "etag": inner.headers["etag"].strip('"')},
            {"path": "c/inner", "range": "2-4"},
        ],
    )
    assert outer.status == 201
    assert container.get("/v1/a/c/outer").read() == b">>efgh--gh-"
    assert container.get("/v1/a/c/outer", range="bytes=4-8").read() == b"gh--g"
    told = json.loads(container.get("/v1/a/c/outer", query=GET).read())
    assert told[0] == {"data": "Pj4="}
    assert told[1]["sub_slo"] is True
    assert told[1]["bytes"] == 6


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (b"no", "Manifest must be valid JSON."),
        (b"{}", "Manifest must be a list."),
        (b"[1]", "Index 0: not a JSON object"),
        (b'[{"etag": "x"}]', "Index 0: expected keys to include one of"),
        (b'[{"path": "/c/o", "x": 1}]', 'Index 0: extraneous keys "x"'),
        (b'[{"path": 5}]', 'Index 0: "path" must be a string'),
        (b'[{"path": "/c/o", "etag": 5}]', 'Index 0: "etag" must be a string or null'),
        (b'[{"path": "/c"}]', "Index 0: path does not refer to an object."),
        (b'[{"path": "/c/"}]', "Index 0: path does not refer to an object."),
        (b'[{"path": "/c/o\\u0000"}]', "Index 0: path must be UTF-8 without NULL"),
        (b'[{"path": "/c/o", "size_bytes": "x"}]', "Index 0: invalid size_bytes"),
        (b'[{"path": "/c/o", "size_bytes": 0}, {"path": "/c/o"}]', "Index 0: too small"),
        (b'[{"path": "/c/big"}]', "Index 0: manifest must not include itself as a segment"),
        (b'[{"path": "/c/o", "range": "x"}]', "Index 0: invalid range"),
        (b'[{"path": "/c/o", "range": "1-2,4-5"}]', "Index 0: multiple ranges (only one allowed)"),
        (b'[{"path": "/c/o", "size_bytes": 5, "range": "5-"}]', "Index 0: unsatisfiable range"),
        (b'[{"data": "?"}]', "Index 0: data must be valid base64"),
        (b'[{"data": ""}]', "Index 0: too small"),
        (b'[{"data": "YQ=="}]', "Inline data segments require at least one object-backed segment."),
        (b'[1, {"path": 1}]', 'Index 1: "path" must be a string'),
    ],
)
def test_what_is_no_manifest(container: World, manifest: bytes, said: str) -> None:
    answer = container.put("/v1/a/c/big", manifest, query=PUT)
    assert answer.status == 400
    assert said in answer.read().decode()
    assert container.head("/v1/a/c/big").status == 404


def test_segments_are_looked_at(container: World) -> None:
    fill(container, b"12345", b"")
    answer = make(
        container,
        "/v1/a/c/big",
        [
            {"path": "/segments/none"},
            {"path": "/segments/0", "etag": "0" * 32},
            {"path": "/segments/0", "size_bytes": 4},
            {"path": "/segments/0", "range": "7-"},
            {"path": "/segments/1"},
            {"path": "/segments/0"},
        ],
        accept="application/json",
    )
    assert answer.status == 400
    assert json.loads(answer.read())["Errors"] == [
        ["/segments/none", "404 Not Found"],
        ["/segments/0", "Etag Mismatch"],
        ["/segments/0", "Size Mismatch"],
        ["/segments/0", "Unsatisfiable Range"],
        ["/segments/1", "Too small; each segment must be at least 1 byte."],
    ]
    text = make(container, "/v1/a/c/big", [{"path": "/segments/none"}])
    assert text.read() == b"Errors:\n/segments/none, 404 Not Found\n"
    assert make(container, "/v1/a/c/big", [{"path": "/segments/0"}, {"path": "/segments/1"}]).status == 201


def test_limits(container: World) -> None:
    most = container.store.facts["slo"]["max_manifest_segments"]
    assert isinstance(most, int)
    many = [{"path": f"/segments/{number}"} for number in range(most + 1)]
    assert make(container, "/v1/a/c/big", many).status == 413
    assert container.put("/v1/a/c/big", b" " * ((8 << 20) + 1), query=PUT).status == 413


def test_a_wrong_sum_of_sums(container: World) -> None:
    segments = fill(container, b"a", b"b")
    assert make(container, "/v1/a/c/big", segments, etag="0" * 32).status == 422
    good = md5((md5(b"a") + md5(b"b")).encode())
    assert make(container, "/v1/a/c/big", segments, etag=f'"{good}"').status == 201


def test_the_header_is_reserved(container: World) -> None:
    assert container.put("/v1/a/c/o", b"[]", x_static_large_object="true").status == 400


def test_conditions_are_about_the_whole(container: World) -> None:
    etag = make(container, "/v1/a/c/big", fill(container, b"one", b"two")).headers["etag"]
    own = container.head("/v1/a/c/big").headers["x-manifest-etag"]
    for method in ("GET", "HEAD"):
        assert container.ask(method, "/v1/a/c/big", if_none_match=etag).status == 304
        assert container.ask(method, "/v1/a/c/big", if_match=etag).status == 200
        assert container.ask(method, "/v1/a/c/big", if_match=own).status == 412
        assert container.ask(method, "/v1/a/c/big", if_none_match=own).status == 200
    assert container.get("/v1/a/c/big", if_none_match=etag).headers["etag"] == etag
    assert container.get("/v1/a/c/big", range="bytes=1-3", if_range=etag).status == 206
    assert container.get("/v1/a/c/big", range="bytes=1-3", if_range='"other"').status == 200


def test_parts_by_number(container: World) -> None:
    make(container, "/v1/a/c/big", fill(container, b"one,", b"two,", b"three"))
    got = container.get("/v1/a/c/big", query={"part-number": "2"})
    assert (got.status, got.read(), got.headers["content-range"]) == (206, b"two,", "bytes 4-7/13")
    assert got.headers["x-parts-count"] == "3"
    head = container.head("/v1/a/c/big", query={"part-number": "3"})
    assert (head.status, head.headers["content-length"], head.headers["content-range"]) == (
        206,
        "5",
        "bytes 8-12/13",
    )
    assert container.get("/v1/a/c/big", query={"part-number": "4"}).status == 416
    assert container.get("/v1/a/c/big", query={"part-number": "x"}).status == 400


def test_a_changed_segment_ends_it(container: World) -> None:
    make(container, "/v1/a/c/big", fill(container, b"one", b"two"))
    container.put("/v1/a/segments/1", b"TWO")
    answer = container.get("/v1/a/c/big")
    assert answer.status == 200  # its head is out before the second segment is looked at
    with pytest.raises(Cut):
        answer.read()
    assert container.get("/v1/a/c/big", range="bytes=0-2").read() == b"one"
    assert container.get("/v1/a/c/big", range="bytes=3-").status == 409
    container.delete("/v1/a/segments/0")
    assert container.get("/v1/a/c/big").status == 409


def test_a_connection_is_cut_when_a_segment_changed(container: World) -> None:
    make(container, "/v1/a/c/big", fill(container, b"x" * 100_000, b"y" * 100_000))
    url = urlsplit(container.serve())
    connection = HTTPConnection(str(url.hostname), url.port, timeout=10)
    for changed in (False, True):
        if changed:
            container.delete("/v1/a/segments/1")
        connection.request("GET", "/v1/a/c/big")
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Content-Length"]) == (200, "200000")
        if not changed:
            assert answer.read() == b"x" * 100_000 + b"y" * 100_000
            continue
        with pytest.raises(IncompleteRead) as caught:
            answer.read()
        assert caught.value.partial == b"x" * 100_000
    connection.close()


def test_manifests_that_nest_too_deep_are_refused(container: World) -> None:
    fill(container, b"x")
    assert make(container, "/v1/a/c/1", [{"path": "/segments/0"}]).status == 201
    for depth in range(2, 11):
        assert make(container, f"/v1/a/c/{depth}", [{"path": f"/c/{depth - 1}"}]).status == 201
    assert container.get("/v1/a/c/10").read() == b"x"
    assert make(container, "/v1/a/c/11", [{"path": "/c/10"}]).status == 201
    assert container.get("/v1/a/c/11").status == 409


def test_manifests_that_lead_in_a_circle_end(container: World) -> None:
    fill(container, b"x")
    make(container, "/v1/a/c/1", [{"path": "/segments/0"}])
    make(container, "/v1/a/c/2", [{"path": "/c/1"}])
    make(container, "/v1/a/c/1", [{"path": "/c/2"}])
    assert container.get("/v1/a/c/1").status == 409
    assert container.get("/v1/a/c/2").status == 409


def test_it_goes_with_all_its_segments(container: World) -> None:
    fill(container, b"one", b"two")
    make(container, "/v1/a/c/inner", [{"path": "/segments/0"}])
    make(container, "/v1/a/c/big", [{"path": "/c/inner"}, {"data": "YQ=="}, {"path": "/segments/1"}])
    answer = container.delete(
        "/v1/a/c/big", query={"multipart-manifest": "delete"}, accept="application/json"
    )
    assert (answer.status, answer.length) == (200, None)  # in chunks
    told = json.loads(answer.read())
    assert told == {
        "Response Status": "200 OK", "Response Body": "", "Number Deleted": 4, "Number Not Found": 0, "Errors": [],
    }  # fmt: skip
    assert listed(container) == listed(container, "/v1/a/segments") == []


def test_deleting_what_is_none(container: World) -> None:
    query = {"multipart-manifest": "delete"}
    container.put("/v1/a/c/plain", b"x")
    answer = container.delete("/v1/a/c/plain", query=query, accept="application/json")
    told = json.loads(answer.read())
    assert (answer.status, told["Response Status"], told["Number Deleted"]) == (200, "400 Bad Request", 0)
    assert told["Errors"] == [["/c/plain", "400 Bad Request"]]
    assert container.head("/v1/a/c/plain").status == 200
    text = container.delete("/v1/a/c/none", query=query).read().decode()
    assert "Number Not Found: 1\n" in text
    assert "Response Status: 200 OK\n" in text
    xml = container.delete("/v1/a/c/none", query=query, accept="text/xml").read().decode()
    assert "<number_not_found>1</number_not_found>" in xml


def test_heartbeats(container: World) -> None:
    query = PUT | {"heartbeat": "on"}
    body = json.dumps(fill(container, b"one", b"two")).encode()
    answer = container.put("/v1/a/c/big", body, query=query, accept="application/json")
    assert answer.status == 202
    told = json.loads(answer.read())
    assert told["Response Status"] == "201 Created"
    assert told["Etag"] == container.head("/v1/a/c/big").headers["etag"]
    answer = container.put("/v1/a/c/big", b'[{"path": "/c/x"}]', query=query, accept="application/json")
    told = json.loads(answer.read())
    assert (answer.status, told["Response Status"]) == (202, "400 Bad Request")
    assert told["Errors"] == [["/c/x", "404 Not Found"]]


def test_nobody_reads_segments_through_a_manifest(container: World) -> None:
    make(container, "/v1/a/c/big", fill(container, b"secret"))
    reader = limited(container, read=("c",))
    assert reader("GET", "/v1/a/c/big").status == 409
    assert limited(container, read=("c", "segments"))("GET", "/v1/a/c/big").read() == b"secret"


def test_nobody_makes_a_manifest_without_the_right_to_write(container: World) -> None:
    body = json.dumps(fill(container, b"x")).encode()
    assert limited(container, read=("segments",))("PUT", "/v1/a/c/big", body, PUT).status == 403
    answer = limited(container, write=("c",))("PUT", "/v1/a/c/big", body, PUT)
    assert answer.status == 400
    assert b"403 Forbidden" in answer.read()


def test_nobody_deletes_segments_without_the_right_to_write(container: World) -> None:
    make(container, "/v1/a/c/big", fill(container, b"x"))
    query = {"multipart-manifest": "delete"}
    answer = limited(container, read=("c", "segments"), write=("c",))("DELETE", "/v1/a/c/big", b"", query)
    assert b"/segments/0, 403 Forbidden" in answer.read()
    assert container.head("/v1/a/segments/0").status == 200


def test_memory_does_not_grow_with_the_object(container: World) -> None:
    """64 MiB of segments go through in pieces; the files' cache is not this process's memory."""
    container.put("/v1/a/segments/1", bytes(1 << 20))
    body = json.dumps([{"path": "/segments/1"}, {"path": "/segments/1", "range": "1-"}] * 32).encode()
    assert container.put("/v1/a/c/big", body, query=PUT).status == 201
    answer = container.get("/v1/a/c/big")
    assert not isinstance(answer.body, bytes)
    tracemalloc.start()
    total = sum(len(part) for part in answer.body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == int(answer.headers["content-length"]) == (64 << 20) - 32
    assert peak < 4 << 20


def test_segments_that_are_looked_at_in_parallel(container: World) -> None:
    segments = fill(container, *(str(number).encode() for number in range(40)))
    inner = container.store.app
    assert inner is not None
    slo = StaticLargeObjects(inner, container.store, concurrency=8)
    slo._near = lambda: False  # type: ignore[method-assign] # as if the devices were elsewhere
    request = Request(
        "PUT", "/v1/a/c/big", query_string="multipart-manifest=put", body=Bytes(json.dumps(segments).encode())
    )
    request.headers["content-length"] = str(request.body.length)
    wishes = slo._wishes(request)
    heads: dict[str, Response] = {}
    assert len(list(slo._look(request, [wish.path for wish in wishes], heads))) == 40
    assert [heads[wish.path].headers["etag"] for wish in wishes] == [one["etag"] for one in segments]


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=LENIENT,
)
@given(data=st.data())
def test_ranges_are_slices(container: World, data: st.DataObject) -> None:
    contents = data.draw(st.lists(st.binary(min_size=1, max_size=12), min_size=1, max_size=5))
    segments: list[dict[str, Any]] = []
    whole = b""
    for number, content in enumerate(contents):
        container.put(f"/v1/a/segments/{number}", content)
        first = data.draw(st.integers(0, len(content) - 1))
        last = data.draw(st.integers(first, len(content) - 1))
        segments.append({"path": f"/segments/{number}", "range": f"{first}-{last}"})
        whole += content[first : last + 1]
    assert make(container, "/v1/a/c/inner", segments).status == 201
    assert make(container, "/v1/a/c/big", [{"path": "/c/inner"}, *segments]).status == 201
    whole += whole
    assert container.get("/v1/a/c/big").read() == whole
    first = data.draw(st.integers(0, len(whole) - 1))
    last = data.draw(st.integers(first, len(whole) + 3))
    got = container.get("/v1/a/c/big", range=f"bytes={first}-{last}")
    assert (got.status, got.read()) == (206, whole[first : last + 1])
    count = data.draw(st.integers(1, len(whole) + 2))
    assert container.get("/v1/a/c/big", range=f"bytes=-{count}").read() == whole[-count:]
    both = container.get("/v1/a/c/big", range=f"bytes={first}-{first},{first}-{last}")
    text = both.read()
    assert len(text) == int(both.headers["content-length"])
    boundary = both.headers["content-type"].partition("boundary=")[2].encode()
    parts = [
        part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in text.split(b"--" + boundary)[1:-1]
    ]
    assert parts == [whole[first : first + 1], whole[first : last + 1]]
    assert container.get("/v1/a/c/big", range=f"bytes={len(whole)}-").status == 416
