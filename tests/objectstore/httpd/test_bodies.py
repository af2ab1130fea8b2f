"""Bodies: when they are sent, and chunks (RFC 9112, 7)."""

from __future__ import annotations

import time

import pytest

from altostack.objectstore.http import Refusal, Request, Response, chunks
from altostack.objectstore.httpd.incoming import MAX_HEADERS
from tests.objectstore.httpd.conftest import NEXT, H, Site


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
