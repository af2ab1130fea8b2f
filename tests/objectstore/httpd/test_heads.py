"""Heads: what they say of a body (RFC 9112, 6.3), what is none, their limits."""

from __future__ import annotations

import time

import pytest

from altostack.objectstore.http import ClientGone
from altostack.objectstore.httpd.connection import MAX_HEAD
from altostack.objectstore.httpd.incoming import MAX_HEADERS
from tests.objectstore.httpd.conftest import NEXT, H, Site, site

# ---- what a body's length is: RFC 9112, 6.3


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 5",
        "Content-Length: -1",
        "Content-Length: +5",
        "Content-Length: 0x5",
        "Content-Length: 5 5",
        "Content-Length: ",
        "Content-Length: five",
        "Content-Length: \u0665",
        "Content-Length: 9999999999999999999",
        "Content-Length: 99999999999999999999999999999",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked, gzip",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding : chunked",
        "Content-Length : 5",
        "Transfer-Encoding:\r\n chunked",
        "X: y\rContent-Length: 5",
        "X: y\nContent-Length: 5",
        "X: \0",
        "X: a\0b\r\nContent-Length: 5",
        "\0: a",
        " X: folded",
        ": nameless",
        "no colon",
        "X\xfc: name",
    ],
)
def test_heads_that_two_readers_could_understand_differently_are_refused(here: Site, framing: str) -> None:
    with here.open() as wire:
        wire.send(b"PUT /o HTTP/1.1\r\n" + H + framing.encode() + b"\r\n\r\n0\r\n\r\n" + NEXT)
        found = wire.answer()
        assert (found.status, found.closing) == (400, True)
        assert found.headers["content-type"].startswith("text/plain")
        assert wire.ended()
    assert here.asked == []


def test_codings_that_are_not_understood(here: Site) -> None:
    assert here.say(b"PUT / HTTP/1.1\r\n" + H + b"Transfer-Encoding: gzip, chunked\r\n\r\n").status == 501
    assert here.say(b"PUT / HTTP/1.0\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n").status == 501
    assert here.asked == []


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET / HTTP/2.0", 505),
        (b"GET / HTTP/0.9", 505),
        (b"GET / HTTP/1.2", 400),
        (b"GET / RTSP/1.0", 400),
        (b"GET /", 400),
        (b"GET / http/1.1", 400),
        (b"get / HTTP/1.1", 400),
        (b"NONSENSE / HTTP/1.1", 400),
        (b"GET /a b HTTP/1.1", 400),
        (b"GET /\x01 HTTP/1.1", 400),
        (b"GET nowhere HTTP/1.1", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET /%FF HTTP/1.1", 412),
        (b"GET /a%00b HTTP/1.1", 412),
    ],
)
def test_lines_that_are_no_request(here: Site, line: bytes, status: int) -> None:
    found = here.say(line + b"\r\n" + H + b"\r\n")
    assert (found.status, found.closing) == (status, True)
    assert here.asked == []


def test_a_refused_head_has_no_body_in_its_answer(here: Site) -> None:
    with here.open() as wire:
        wire.send(b"HEAD /%FF HTTP/1.1\r\n" + H + b"\r\n")
        found = wire.answer("HEAD")
        assert found.status == 412
        assert int(found.headers["content-length"]) > 0
        assert wire.ended()


def test_one_host(here: Site) -> None:
    assert here.say(b"GET / HTTP/1.1\r\n\r\n").status == 400
    assert here.say(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").status == 400
    assert here.say(b"GET / HTTP/1.0\r\n\r\n").status == 200
    assert here.say(b"GET / HTTP/1.1\r\nHost:\r\n\r\n").status == 200


def test_forms_of_targets(here: Site) -> None:
    """RFC 9112, 3.2: the host of an absolute form counts, not the header."""
    for target, path, query, host in (
        ("/a%20b?c=d?e", "/a b", "c=d?e", "h"),
        ("/v1//x//", "/v1//x//", "", "h"),
        ("http://other:81/a/b?q", "/a/b", "q", "other:81"),
        ("http://user@other/a", "/a", "", "other"),
        ("http://other", "/", "", "other"),
        ("//double/slash", "//double/slash", "", "h"),
    ):
        assert here.say(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode()).status == 200
        seen = here.asked[-1]
        assert (seen.path, seen.query_string, seen.header("host")) == (path, query, host)
    assert here.say(b"OPTIONS * HTTP/1.1\r\n" + H + b"\r\n").status == 200
    assert (
        here.say(b"CONNECT a:80 HTTP/1.1\r\n" + H + b"\r\n").status == 200
    )  # as a handler likes: no tunnel is made
    upgrade = b"GET / HTTP/1.1\r\n" + H + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert here.say(upgrade).status == 200


def test_an_empty_line_before_a_request(here: Site) -> None:
    with here.open() as wire:
        wire.send(b"\r\n")
        time.sleep(0.02)
        wire.send(NEXT + b"\r\n" + NEXT)
        assert [wire.answer().status for _ in range(2)] == [200, 200]


# ---- limits of heads


def test_heads_that_are_too_large(here: Site) -> None:
    fits = b"GET / HTTP/1.1\r\n" + H + b"X: " + b"x" * (MAX_HEAD - 200) + b"\r\n\r\n"
    assert here.say(fits).status == 200
    long = b"GET / HTTP/1.1\r\n" + H + b"X: " + b"x" * (MAX_HEAD * 2) + b"\r\n\r\n"
    found = here.say(long)
    assert (found.status, found.closing) == (431, True)
    assert here.say(b"GET /" + b"a" * (MAX_HEAD + 10)).status == 431  # it does not wait for the end
    many = b"".join(b"X-%d: y\r\n" % n for n in range(MAX_HEADERS + 1))
    assert here.say(b"GET / HTTP/1.1\r\n" + H + many + b"\r\n").status == 431
    few = b"".join(b"X-%d: y\r\n" % n for n in range(MAX_HEADERS - 1))
    assert here.say(b"GET / HTTP/1.1\r\n" + H + few + b"\r\n").status == 200


def test_a_head_that_trickles_in_is_ended(caplog: pytest.LogCaptureFixture) -> None:
    with site(patience=0.4, idle=30.0) as made, made.open() as slow, made.open() as idle:
        idle.send(NEXT)
        assert idle.answer().status == 200
        ended = 0
        try:
            for byte in (b"GET / HTTP/1.1\r\n" + H + b"X: y\r\n") * 40:
                slow.send(bytes([byte]))
                time.sleep(0.05)
                ended += 1
        except OSError:
            pass  # the server hung up
        assert ended < 200
        assert slow.ended()
        idle.send(NEXT)  # silence between requests is another thing
        assert idle.answer().status == 200


def test_silence_between_requests_is_ended(here: Site) -> None:
    with site(idle=0.2) as made, made.open() as used, made.open() as unused:
        used.send(NEXT)
        assert used.answer().status == 200
        assert used.ended()
        assert unused.ended()


def test_silence_inside_a_body_is_ended() -> None:
    with site(patience=0.3) as made, made.open() as wire:
        wire.send(b"PUT /o HTTP/1.1\r\n" + H + b"Content-Length: 10\r\n\r\nabc")
        assert wire.answer().status == 499
        assert wire.ended()
        assert isinstance(made.bodies[0], ClientGone)


def test_two_hundred_idle_connections_hold_no_thread(here: Site) -> None:
    wires = [here.open() for _ in range(200)]
    try:
        for wire in wires[::3]:
            wire.send(b"GET /half")  # a head that is not complete holds none either
        for wire in wires[1::3]:
            wire.send(NEXT)
            assert wire.answer().status == 200
        for wire in wires[::3]:
            wire.send(b" HTTP/1.1\r\n" + H + b"\r\n")
        assert {wire.answer().status for wire in wires[::3]} == {200}
        for wire in reversed(wires):
            wire.send(NEXT)
        assert {wire.answer().status for wire in wires} == {200}
    finally:
        for wire in wires:
            wire.__exit__()
