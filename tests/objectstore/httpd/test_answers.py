"""Answers: framing, files, what breaks off."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from altostack.objectstore.http import Extent, Request, Response, chunks
from tests.objectstore.httpd.conftest import NEXT, H, Site, descriptors, until


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
