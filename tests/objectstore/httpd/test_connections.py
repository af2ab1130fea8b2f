"""Connections: how long they last, and what a client does to them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from altostack.objectstore.http import CHUNK, ClientGone, Response
from altostack.objectstore.httpd import server
from tests.objectstore.httpd.conftest import NEXT, H, Site, descriptors, site, until

# ---- connections


def test_a_connection_is_used_again(here: Site) -> None:
    with here.open() as wire:
        for number in range(3):
            wire.send(b"PUT /%d HTTP/1.1\r\n" % number + H + b"Content-Length: 2\r\n\r\nab")
            found = wire.answer()
            assert (found.status, found.body, found.closing) == (200, b"b'ab'", False)
    assert [one.path for one in here.asked] == ["/0", "/1", "/2"]


def test_requests_in_a_row_are_answered_in_their_order(here: Site) -> None:
    here.answer = lambda request: Response(200, {}, request.path.encode() + request.body.read())
    one = b"PUT /%d HTTP/1.1\r\n" + H + b"Content-Length: 1\r\n\r\n%d"
    with here.open() as wire:
        wire.send(b"".join(one % (n, n) for n in range(10)) + b"GET /end HTTP/1.1\r\n" + H + b"\r\n")
        assert [wire.answer().body for _ in range(11)] == [b"/%d%d" % (n, n) for n in range(10)] + [b"/end"]


def test_close_is_honoured_and_so_is_the_old_protocol(here: Site) -> None:
    for head, kept in (
        (b"GET / HTTP/1.1\r\nHost: h\r\nConnection: foo, Close\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: h\r\nConnection: not-closed\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", True),
    ):
        with here.open() as wire:
            wire.send(head)
            found = wire.answer()
            assert found.closing is not kept
            if kept:
                wire.send(head)
                assert wire.answer().status == 200
            else:
                assert wire.ended()


def test_a_body_of_unknown_length_goes_to_an_old_client_unframed(here: Site) -> None:
    here.answer = lambda request: Response(200, {}, iter([b"ab", b"", b"cd"]))
    with here.open() as wire:
        wire.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        found = wire.answer()
        assert (found.body, found.closing) == (b"abcd", True)
        assert "transfer-encoding" not in found.headers
    assert here.say(b"GET / HTTP/1.1\r\n" + H + b"\r\n").headers["transfer-encoding"] == "chunked"


def test_head_and_statuses_without_a_body(here: Site) -> None:
    answers = {
        "/bytes": lambda: Response(200, {}, b"abc"),
        "/said": lambda: Response(200, {"content-length": "12345"}, b""),
        "/parts": lambda: Response(200, {}, iter([b"abc"])),
        "/empty": lambda: Response(204, {"content-length": "3"}, b"abc"),
        "/same": lambda: Response(304, {"etag": "e"}, b"abc"),
    }
    here.answer = lambda request: answers[request.path]()
    with here.open() as wire:
        for method in ("HEAD", "GET"):
            for path in answers:
                if (method, path) == ("GET", "/said"):
                    continue
                wire.send(f"{method} {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
                found = wire.answer(method)
                said = found.headers.get("content-length")
                if path == "/bytes":
                    assert said == "3"
                elif path == "/said":
                    assert said == "12345"
                elif method == "GET" and path == "/parts":
                    assert found.body == b"abc"
                elif path != "/same":
                    assert said is None  # nobody knows, or there cannot be one
        wire.send(b"GET /bytes HTTP/1.1\r\n" + H + b"\r\n")
        assert wire.answer().body == b"abc"  # nothing was sent that did not belong there


# ---- clients that go away


@pytest.mark.parametrize("framing", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("how", ["close", "half", "reset"])
def test_a_client_that_goes_away_inside_its_body(here: Site, framing: str, how: str) -> None:
    opened = descriptors()
    with here.open() as wire:
        body = b"abc" if "Length" in framing else b"5\r\nabc"
        wire.send(b"PUT /o HTTP/1.1\r\n" + H + framing.encode() + b"\r\n\r\n" + body)
        until(lambda: len(here.asked) == 1)
        if how == "half":
            wire.sock.shutdown(socket.SHUT_WR)
            assert wire.answer().status == 499
            assert wire.ended()
        elif how == "reset":
            wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    until(lambda: len(here.done) == 1)
    assert isinstance(here.bodies[0], ClientGone)
    until(lambda: descriptors() <= opened)  # what others left may go as well


def test_a_client_that_goes_away_inside_the_answer(here: Site) -> None:
    closed = threading.Event()

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * CHUNK
        finally:
            closed.set()

    here.answer = lambda request: Response(200, {}, endless())
    opened = descriptors()
    with here.open() as wire:
        wire.send(NEXT)
        wire.file.read(1000)
    assert closed.wait(5)
    until(lambda: descriptors() <= opened)


def test_a_client_that_does_not_read_its_answer() -> None:
    closed = threading.Event()

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * CHUNK
        finally:
            closed.set()

    with site(patience=0.3) as made, made.open() as wire:
        made.answer = lambda request: Response(200, {}, endless())
        wire.send(NEXT)
        assert closed.wait(8)


def test_clients_that_only_knock(here: Site) -> None:
    opened = descriptors()
    for number in range(50):
        with here.open() as wire:
            if number % 2:
                wire.send(b"GET / HT")
    until(lambda: descriptors() <= opened)
    assert here.asked == []


def test_a_half_closed_client_gets_its_answer(here: Site) -> None:
    with here.open() as wire:
        wire.send(NEXT + NEXT)
        wire.sock.shutdown(socket.SHUT_WR)
        assert [wire.answer().status for _ in range(2)] == [200, 200]
        assert wire.ended()


# ---- bodies that nobody reads


def test_a_refused_upload_that_is_on_its_way_does_not_lose_the_answer(here: Site) -> None:
    """Closing at once would reset the connection, and the reset would overtake the answer."""
    here.answer = lambda request: Response(401, {}, b"who are you?")
    opened = descriptors()
    block = b"x" * (1 << 20)
    for framing in (b"Content-Length: %d" % (8 << 20), b"Transfer-Encoding: chunked"):
        with here.open() as wire:
            wire.send(b"PUT /o HTTP/1.1\r\n" + H + framing + b"\r\n\r\n")
            for _ in range(8):
                wire.send(block if b"Length" in framing else b"100000\r\n" + block + b"\r\n")
            found = wire.answer()
            assert (found.status, found.body, found.closing) == (401, b"who are you?", True)
            assert wire.ended()
    until(lambda: descriptors() <= opened)


def test_a_client_that_never_stops_sending_is_hung_up_on(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_LINGER", 0.3)
    here.answer = lambda request: Response(401)
    with here.open() as wire:
        wire.send(b"PUT /o HTTP/1.1\r\n" + H + b"Content-Length: 5000000000\r\n\r\n")
        hung_up = False
        for _ in range(5000):
            try:
                wire.send(b"x" * (1 << 16))
            except OSError:
                hung_up = True
                break
            time.sleep(0.002)
        assert hung_up


def test_a_small_body_that_nobody_read_is_skipped_without_waiting_for_it(here: Site) -> None:
    here.answer = lambda request: Response(401)
    with here.open() as wire:
        wire.send(b"PUT /o HTTP/1.1\r\n" + H + b"Content-Length: 10\r\n\r\nabc")
        assert wire.answer().closing is False  # the answer is there before the body is
        wire.send(b"defghij" + NEXT)
        assert wire.answer().status == 401
        assert here.asked[-1].path == "/next"
        wire.send(
            b"PUT /o HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + NEXT
        )
        assert wire.answer().closing is False
        assert wire.answer().status == 401
        assert here.asked[-1].path == "/next"
        wire.send(b"PUT /o HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n3\r\nab")
        assert wire.answer().closing is True
        assert wire.ended()
