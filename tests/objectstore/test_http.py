"""Requests and answers as the pipeline hands them on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from altostack.objectstore.http import (
    Bytes,
    Extent,
    Place,
    Refusal,
    Request,
    Response,
    Stream,
    Unsaid,
    ask,
    chunks,
    place_of,
)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/v1/a", Place("a")),
        ("/v1/a/", Place("a")),
        ("/v1/a/c", Place("a", "c")),
        ("/v1/a/c/", Place("a", "c")),
        ("/v1/a/c/o", Place("a", "c", "o")),
        ("/v1/a/c/o/", Place("a", "c", "o/")),
        ("/v1/a/c//o", Place("a", "c", "/o")),
        ("/v1/a/c/o/p//q", Place("a", "c", "o/p//q")),
        ("/v1.0/a/c", Place("a", "c", None, "v1.0")),
        ("/v1/a/../o", Place("a", "..", "o")),
        ("/v1/a//o", None),
        ("/v1/a//", None),
        ("/v1//c/o", None),
        ("/v1", None),
        ("/v1/", None),
        ("/v2/a", None),
        ("//v1/a", None),
        ("v1/a", None),
        ("", None),
        ("/", None),
    ],
)
def test_places(path: str, place: Place | None) -> None:
    assert place_of(path) == place
    assert Request("GET", path).place == place


def test_a_place_is_a_path() -> None:
    for path in ("/v1/a", "/v1/a/c", "/v1/a/c/o/p", "/v1.0/a/c/ü //x"):
        place = place_of(path)
        assert place is not None
        assert place.path == path


def test_paths_are_decoded_once() -> None:
    assert Request("GET", "/v1/a/c/a%20b%252F%C3%BC").path == "/v1/a/c/a b%2Fü"
    assert Request("GET", "/v1/a/c/+").path == "/v1/a/c/+"
    assert Request("GET", "/v1/a/c/%").path == "/v1/a/c/%"
    assert Request("GET", "/v1/a/c%2Fo").place == Place("a", "c", "o")


@pytest.mark.parametrize("target", ["/v1/a/%FF", "/v1/a/%C3", "/v1/a/%ED%A0%80", "/v1/a/%00", "/%E0%80%AF"])
def test_paths_that_are_no_text(target: str) -> None:
    with pytest.raises(Refusal) as refused:
        Request("GET", target)
    assert refused.value.status == 412


def test_queries() -> None:
    asked = Request("GET", "/", query_string="a=1&b&a=2&c=%C3%BC+x&=y&d==&")
    assert asked.query == {"a": "2", "b": "", "c": "ü x", "": "y", "d": "="}
    asked.rewrite(query_string="e=f")
    assert asked.query == {"e": "f"}
    for broken in ("a=%FF", "%FF=a", "a=%ED%A0%80"):
        with pytest.raises(Refusal) as refused:
            Request("GET", "/", query_string=broken).query  # noqa: B018 - reading it is what is tried
        assert refused.value.status == 400


def test_rewriting_moves_everything_that_hangs_on_the_path() -> None:
    asked = Request("GET", "/v1/a/c")
    assert asked.place == Place("a", "c")
    asked.rewrite(path="/v1/a/c/ü %/x")
    assert asked.target == "/v1/a/c/%C3%BC%20%25/x"
    assert asked.place == Place("a", "c", "ü %/x")
    asked.rewrite(path="/nowhere")
    assert asked.place is None


def test_requests_of_our_own() -> None:
    def refuse(request: Request, acl: str | None) -> None:
        raise Refusal(403)

    asked = Request("PUT", "/v1/a/c/o", headers={"x-secret": "s"}, remote="1.2.3.4", trans_id="tx1")
    asked.authorize, asked.facts["known"] = refuse, 1
    made = asked.sub("GET", "/v1/a/c/a b%", headers={"x-newest": "true"})
    assert (made.method, made.path, made.target) == ("GET", "/v1/a/c/a b%", "/v1/a/c/a%20b%25")
    assert (made.headers, made.remote, made.trans_id) == ({"x-newest": "true"}, "1.2.3.4", "tx1")
    assert made.authorize is None
    assert made.body.read() == b""
    made.facts["more"] = 2
    assert asked.facts == {"known": 1}
    assert asked.sub("GET", "/v1/a", keep_authority=True).authorize is refuse
    assert asked.sub("PUT", "/v1/a", body=b"abc").body.length == 3
    body = Stream([b"x"])
    assert asked.sub("PUT", "/v1/a", body=body).body is body


# ---- bodies


def test_streams_are_read_in_any_pieces() -> None:
    parts = [b"abc", b"", b"defgh", b"i"]
    for size in range(1, 12):
        body = Stream(iter(parts))
        assert b"".join(chunks(body, size)) == b"abcdefghi"
        assert body.read() == body.read(5) == b""
    body = Stream(parts, 9)
    assert body.length == 9
    assert (body.read(0), body.read(4), body.read(), body.read()) == (b"", b"abcd", b"efghi", b"")


def test_bytes_and_nothing() -> None:
    body = Bytes(b"abcdef")
    assert (body.length, body.read(2), body.read(0), body.read(), body.read(1)) == (
        6,
        b"ab",
        b"",
        b"cdef",
        b"",
    )
    assert Request("GET", "/").body.length == 0
    assert isinstance(Unsaid(), Bytes)


def test_an_extent_is_read_once_and_closed(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(range(256)) * 4000)

    def extent(offset: int, length: int) -> Extent:
        return Extent(os.open(tmp_path / "f", os.O_RDONLY), offset, length)

    one = extent(5, 600_000)
    found = Response(200, {}, one)
    assert found.length == 600_000
    assert found.read() == (bytes(range(256)) * 4000)[5:600_005]
    assert one.descriptor == -1
    two = extent(1_024_000 - 10, 100)  # longer than the file
    assert len(b"".join(two)) == 10
    three = extent(0, 10)
    descriptor = three.descriptor
    Response(200, {}, three).close()
    three.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


# ---- answers


def test_what_is_known_of_an_answers_length() -> None:
    assert Response(200, {}, b"abc").length == 3
    assert Response(200, {"content-length": "7"}, iter([b""])).length == 7
    assert Response(200, {}, iter([b""])).length is None
    assert [Response(status).good for status in (199, 200, 299, 300)] == [False, True, True, False]


def test_reading_an_answer_lets_go_of_what_it_holds() -> None:
    ended: list[str] = []

    def parts() -> Iterator[bytes]:
        try:
            yield b"a"
            yield b"b"
        finally:
            ended.append("closed")

    assert Response(200, {}, parts()).read() == b"ab"
    content = parts()
    next(content)
    Response(200, {}, content).close()
    assert ended == ["closed", "closed"]
    Response(200, {}, b"x").close()
    Response(200, {}, iter([b"x"])).close()


def test_refusals_say_what_the_api_says() -> None:
    usual = Refusal(404).response()
    assert (usual.status, usual.headers["content-type"]) == (404, "text/html; charset=UTF-8")
    assert usual.read() == b"<html><h1>Not Found</h1><p>The resource could not be found.</p></html>"
    own = Refusal(400, "No <b>such</b> limit", headers={"x-more": "1"}).response()
    assert own.headers == {"content-type": "text/plain; charset=UTF-8", "x-more": "1"}
    assert own.read() == b"No <b>such</b> limit"  # as plain text it is no page
    for status in (401, 403, 408, 409, 411, 412, 413, 416, 422, 429, 498, 499, 500, 501, 503, 507):
        answer = Refusal(status).response()
        assert answer.read()
        assert str(status) in str(Refusal(status))


def test_asking_makes_a_refusal_an_answer() -> None:
    def refuse(request: Request) -> Response:
        raise Refusal(403, "no")

    assert ask(refuse, Request("GET", "/")).status == 403
    assert ask(lambda request: Response(204), Request("GET", "/")).status == 204

    def fail(request: Request) -> Response:
        raise ValueError("not a refusal")

    with pytest.raises(ValueError, match="not a refusal"):
        ask(fail, Request("GET", "/"))
