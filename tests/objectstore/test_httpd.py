"""The HTTP server over real loopback sockets: framing, limits, clients that misbehave, what is left behind."""

from __future__ import annotations

import io
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from altostack.objectstore import httpd
from altostack.objectstore.http import CHUNK, ClientGone, Extent, Refusal, Request, Response, chunks
from altostack.objectstore.httpd import MAX_HEAD, MAX_HEADERS, Server, listen

H = b"Host: h\r\n"


@dataclass
class Site:
    """A server with a handler that echoes, and everything that it was asked."""

    port: int = 0
    asked: list[Request] = field(default_factory=list)
    bodies: list[bytes | Exception] = field(default_factory=list)
    done: list[tuple[int, int]] = field(default_factory=list)  # (status, bytes sent)
    answer: Callable[[Request], Response] | None = None

    def __call__(self, request: Request) -> Response:
        self.asked.append(request)
        if self.answer is not None:
            return self.answer(request)
        try:
            self.bodies.append(request.body.read())
        except (ClientGone, Refusal) as trouble:
            self.bodies.append(trouble)
            raise
        return Response(200, {"x-method": request.method}, str(self.bodies[-1])[:99].encode())

    def note(self, request: Request, response: Response, sent: int, seconds: float) -> None:
        self.done.append((response.status, sent))

    def open(self) -> Wire:
        return Wire(socket.create_connection(("127.0.0.1", self.port), timeout=10))

    def say(self, data: bytes) -> Answer:
        """Send it on a connection of its own; the first answer."""
        with self.open() as wire:
            wire.send(data)
            return wire.answer()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    closing: bool


class Wire:
    """A client that sends what it is told, byte for byte."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = sock.makefile("rb")

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self, method: str = "GET") -> Answer:
        line = self.file.readline()
        assert line.startswith(b"HTTP/1.1 "), line
        status, headers = int(line.split()[1]), {}
        while (line := self.file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(":")
            assert name.lower() not in headers
            headers[name.lower()] = value.strip()
        body = b""
        if method == "HEAD" or status in (100, 204, 304):
            pass
        elif headers.get("transfer-encoding") == "chunked":
            while size := int(self.file.readline(), 16):
                body += self.file.read(size)
                assert self.file.read(2) == b"\r\n"
            assert self.file.readline() == b"\r\n"
        elif "content-length" in headers:
            body = self.file.read(int(headers["content-length"]))
        else:
            body = self.file.read()
        return Answer(status, headers, body, headers.get("connection") == "close")

    def ended(self) -> bool:
        """Whether the server says no more; waits for it."""
        try:
            return self.file.read(1) == b""
        except ConnectionResetError:
            return True


@contextmanager
def site(**options: object) -> Iterator[Site]:
    listener = listen("127.0.0.1", 0)
    made = Site(port=listener.getsockname()[1])
    server = Server(made, listener, **{"threads": 4, "done": made.note} | options).start()  # type: ignore[arg-type]
    try:
        yield made
    finally:
        server.stop(2.0)
        listener.close()


@pytest.fixture
def here() -> Iterator[Site]:
    with site() as made:
        yield made


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def peak() -> int:
    """KiB of memory that this process has had at most."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def until(what: Callable[[], bool]) -> None:
    """Wait for it, a few seconds at most."""
    for _ in range(500):
        if what():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


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


# ---- bodies


def test_an_upload_is_refused_before_it_is_sent(here: Site) -> None:
    def refuse(request: Request) -> Response:
        raise Refusal(413)

    here.answer = refuse
    with here.open() as wire:
        wire.send(b"PUT /o HTTP/1.1\r\n" + H + b"Content-Length: 5000000000\r\nExpect: 100-Continue\r\n\r\n")
        found = wire.answer()
        assert (found.status, found.closing) == (413, True)
        assert wire.ended()


def test_an_upload_is_asked_for_when_it_is_wanted(here: Site) -> None:
    for framing, body in (
        (b"Content-Length: 3", b"abc"),
        (b"Transfer-Encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n"),
    ):
        with here.open() as wire:
            wire.send(b"PUT /o HTTP/1.1\r\n" + H + framing + b"\r\nExpect: 100-continue\r\n\r\n")
            assert wire.answer().status == 100
            wire.send(body)
            assert wire.answer().body == b"b'abc'"
    # An old client does not know what 100 means (RFC 9110, 10.1.1), and an empty body needs no asking.
    old = b"PUT /o HTTP/1.0\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc"
    assert here.say(old).status == 200
    empty = b"PUT /o HTTP/1.1\r\n" + H + b"Content-Length: 0\r\nExpect: 100-continue\r\n\r\n"
    assert here.say(empty).status == 200


CHUNKED = (
    b"PUT /o HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;name=value\r\nhello\r\n0A \r\n, chunked!\r\n000;last\r\nX-Sum: 1\r\nx-more:  two \r\n\r\n"
)
NEXT = b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n"


def test_chunks_may_be_split_anywhere(here: Site) -> None:
    with here.open() as wire:
        for at in range(1, len(CHUNKED)):
            wire.send(CHUNKED[:at])
            if at % 7 == 0:  # sometimes the server has surely read the first part alone
                time.sleep(0.002)
            wire.send(CHUNKED[at:])
            assert wire.answer().body == b"b'hello, chunked!'"
    assert here.asked[0].body.length is None
    assert here.asked[0].body.trailers == {"x-sum": "1", "x-more": "two"}  # type: ignore[attr-defined]


def test_chunks_one_byte_at_a_time_and_a_request_behind_them(here: Site) -> None:
    with here.open() as wire:
        for byte in CHUNKED + NEXT:
            wire.send(bytes([byte]))
        assert wire.answer().body == b"b'hello, chunked!'"
        assert wire.answer().headers["x-method"] == "GET"
    assert here.asked[1].path == "/next"


@pytest.mark.parametrize(
    "body",
    [
        b"\r\nab\r\n0\r\n\r\n",
        b"g\r\nab\r\n0\r\n\r\n",
        b"-2\r\nab\r\n0\r\n\r\n",
        b"+2\r\nab\r\n0\r\n\r\n",
        b"0x2\r\nab\r\n0\r\n\r\n",
        b" 2\r\nab\r\n0\r\n\r\n",
        b"2_0\r\nab\r\n0\r\n\r\n",
        b"1000000000000000\r\nab\r\n0\r\n\r\n",
        b"2\nab\r\n0\r\n\r\n",
        b"2;a\nb\r\nab\r\n0\r\n\r\n",
        b"2;a\rb\r\nab\r\n0\r\n\r\n",
        b"2\r\nabc\r\n0\r\n\r\n",
        b"2\r\nab0\r\n\r\n",
        b"2\r\nab\n0\r\n\r\n",
        b"2\r\nab\r\n0\r\nno colon\r\n\r\n",
        b"2\r\nab\r\n0\r\nA: b\nC: d\r\n\r\n",
        b"2;" + b"x" * 5000 + b"\r\nab\r\n0\r\n\r\n",
        b"2;" + b"x" * 50_000,
        b"2\r\nab\r\n0\r\nA: " + b"x" * 5000 + b"\r\n\r\n",
        b"2\r\nab\r\n0\r\n" + b"A: b\r\n" * (MAX_HEADERS + 1) + b"\r\n",
    ],
)
def test_broken_chunks_are_refused_and_nothing_behind_them_is_a_request(here: Site, body: bytes) -> None:
    with here.open() as wire:
        wire.send(b"PUT /o HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n" + body + NEXT)
        found = wire.answer()
        assert (found.status, found.closing) == (400, True)
        assert wire.ended()
    assert [one.path for one in here.asked] == ["/o"]
    assert isinstance(here.bodies[0], Refusal)


def test_a_broken_body_stays_broken(here: Site) -> None:
    def stubborn(request: Request) -> Response:
        found = b""
        for _ in range(3):
            try:
                found += request.body.read()
            except Refusal:
                found += b"!"
        return Response(200, {}, found)

    here.answer = stubborn
    sent = b"PUT /o HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n0\r\n\r\n" + NEXT
    found = here.say(sent)
    assert (found.body, found.closing) == (b"!!!", True)


def test_chunks_are_handed_on_as_they_are_wanted(here: Site) -> None:
    here.answer = lambda request: Response(200, {}, b"|".join(chunks(request.body, 3)))
    body = (
        b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (b"abcd", b"e", b"fghijkl")) + b"0\r\n\r\n"
    )
    found = here.say(b"PUT /o HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n" + body)
    assert found.body == b"abc|def|ghi|jkl"


def test_many_tiny_chunks_do_not_cost_much(here: Site) -> None:
    count = 100_000
    before = time.process_time()
    with here.open() as wire:
        wire.send(
            b"PUT /o HTTP/1.1\r\n"
            + H
            + b"Transfer-Encoding: chunked\r\n\r\n"
            + b"1\r\nx\r\n" * count
            + b"0\r\n\r\n"
        )
        assert wire.answer().status == 200
    assert here.bodies == [b"x" * count]
    assert (
        time.process_time() - before < 20
    )  # seconds of the processor; the cost does not grow with what waits behind


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
    monkeypatch.setattr(httpd, "_LINGER", 0.3)
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


# ---- answers


def test_header_values_are_utf8_both_ways_and_other_bytes_survive(here: Site) -> None:
    here.answer = lambda request: Response(200, {"x-object-meta-name": request.header("x-object-meta-name")})
    for value in ("Grüße 世界 🚀".encode(), b"\xff\xfe latin \xfc"):
        with here.open() as wire:
            wire.send(b"GET / HTTP/1.1\r\n" + H + b"X-Object-Meta-Name:  " + value + b" \r\n\r\n")
            assert b"X-Object-Meta-Name: " + value + b"\r\n" in wire.file.read1(65536)


def test_no_header_brings_another(here: Site, caplog: pytest.LogCaptureFixture) -> None:
    here.answer = lambda request: Response(
        200,
        {
            "x-a": "b\r\nSet-Cookie: c", "x-b": "c\nd", "x-c": "d\re", "x-d": "e\0f", "x\r\ny": "a", "x: y": "a",
            "x y": "a", "": "a", "x\u00fc": "a", "x-surrogate": "\ud800", "x-good": "yes",
        },
    )  # fmt: skip
    with caplog.at_level(logging.CRITICAL), here.open() as wire:
        wire.send(NEXT)
        found = wire.answer()
    assert sorted(found.headers) == ["content-length", "date", "x-good", "x-surrogate"]
    assert found.headers["x-surrogate"] == "?"


def test_repeated_headers_are_joined(here: Site) -> None:
    here.answer = lambda request: Response(200, {"x-seen": request.header("x-a")})
    assert here.say(b"GET / HTTP/1.1\r\n" + H + b"X-A: 1\r\nx-a: 2\r\n\r\n").headers["x-seen"] == "1,2"


@pytest.mark.parametrize("size", [0, 1, 64 << 10, (64 << 10) + 1, 5 << 20])
def test_files_are_sent_as_they_are(here: Site, tmp_path: Path, size: int) -> None:
    content = os.urandom(size + 20)
    (tmp_path / "f").write_bytes(content)

    def answer(request: Request) -> Response:
        return Response(200, {}, Extent(os.open(tmp_path / "f", os.O_RDONLY), 10, size))

    here.answer = answer
    opened = descriptors()
    with here.open() as wire:
        for method in ("GET", "HEAD", "GET"):
            wire.send(f"{method} / HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            found = wire.answer(method)
            assert found.headers["content-length"] == str(size)
            assert method == "HEAD" or found.body == content[10:-10]
    until(lambda: descriptors() <= opened)


def test_a_file_that_shrank_ends_the_connection(here: Site, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 100)
    for length in (200, 1 << 20):
        here.answer = lambda request, n=length: Response(
            200, {}, Extent(os.open(tmp_path / "f", os.O_RDONLY), 0, n)
        )
        with here.open() as wire:
            wire.send(NEXT)
            assert len(wire.answer().body) == 100
            assert wire.ended()


def test_answers_of_another_length_than_they_say(here: Site) -> None:
    here.answer = lambda request: Response(200, {"content-length": "5"}, iter([b"abc", b"defgh", b"ij"]))
    with here.open() as wire:
        for _ in range(2):  # cut to what was said: the next answer is where it belongs
            wire.send(NEXT)
            assert wire.answer().body == b"abcde"
    here.answer = lambda request: Response(200, {"content-length": "5"}, iter([b"abc"]))
    with here.open() as wire:
        wire.send(NEXT)
        assert wire.answer().body == b"abc"
        assert wire.ended()


def test_an_answer_that_breaks_off_is_seen_as_such(here: Site, caplog: pytest.LogCaptureFixture) -> None:
    def breaking() -> Iterator[bytes]:
        yield b"abc"
        raise ValueError("a disk failed")

    here.answer = lambda request: Response(200, {}, breaking())
    with caplog.at_level(logging.CRITICAL), here.open() as wire:
        wire.send(NEXT)
        everything = wire.file.read()
    assert everything.endswith(b"3\r\nabc\r\n")  # no last chunk
    assert b"disk" not in everything


def test_a_handler_that_fails_answers_500_without_saying_why(
    here: Site, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(request: Request) -> Response:
        raise ValueError("secret")

    here.answer = failing
    with caplog.at_level(logging.CRITICAL):
        found = here.say(NEXT)
    assert found.status == 500
    assert b"secret" not in found.body
    until(lambda: here.done[:1] == [(500, len(found.body))])


def test_an_answer_may_read_the_body_while_it_is_sent(here: Site) -> None:
    here.answer = lambda request: Response(200, {}, chunks(request.body, 4))
    with here.open() as wire:
        wire.send(b"PUT / HTTP/1.1\r\n" + H + b"Content-Length: 8\r\n\r\nabcd")
        assert wire.file.readline().startswith(b"HTTP/1.1 200")
        wire.send(b"efgh" + NEXT)
        rest = wire.file.read()
        assert b"abcd" in rest
        assert b"efgh" in rest
    assert len(here.asked) == 1  # nobody knew whether the body would be read


# ---- the whole server


def test_stop_lets_requests_end() -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(request: Request) -> Response:
        begun.set()
        assert go.wait(10)
        return Response(200, {}, b"done")

    listener = listen("127.0.0.1", 0)
    server = Server(slow, listener, threads=2).start()
    with (
        Wire(socket.create_connection(listener.getsockname(), timeout=10)) as wire,
        Wire(socket.create_connection(listener.getsockname(), timeout=10)) as idle,
    ):
        wire.send(NEXT)
        assert begun.wait(5)
        stopping = threading.Thread(target=server.stop, args=(8.0,))
        stopping.start()
        go.set()
        assert wire.answer().body == b"done"
        assert wire.ended()
        assert idle.ended()
        stopping.join(10)
        assert not stopping.is_alive()
    listener.close()


def test_stop_does_not_wait_for_ever() -> None:
    opened = descriptors()
    listener = listen("127.0.0.1", 0)
    server = Server(lambda request: Response(200, {}, request.body.read()), listener, threads=2).start()
    with Wire(socket.create_connection(listener.getsockname(), timeout=10)) as wire:
        wire.send(b"PUT / HTTP/1.1\r\n" + H + b"Content-Length: 5\r\n\r\n")
        time.sleep(0.05)
        server.stop(0.1)
        assert wire.ended()
    listener.close()
    until(lambda: descriptors() <= opened)


def test_a_large_body_does_not_stay_in_memory(here: Site) -> None:
    size, block = 256 << 20, b"x" * (1 << 20)
    counts: list[int] = []

    def count(request: Request) -> Response:
        counts.append(sum(len(part) for part in chunks(request.body)))
        return Response(200, {"content-length": str(size)}, (block for _ in range(size >> 20)))

    here.answer = count
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak()
    with here.open() as wire:
        wire.send(b"PUT / HTTP/1.1\r\n" + H + b"Content-Length: %d\r\n\r\n" % size)
        for _ in range(size >> 20):
            wire.send(block)
        while wire.file.readline() != b"\r\n":
            pass
        got, buffer = 0, memoryview(bytearray(1 << 20))
        raw = wire.file
        assert isinstance(raw, io.BufferedReader)
        while got < size:
            got += raw.readinto(buffer)
    assert counts == [size]
    assert peak() - before < 32 << 10
