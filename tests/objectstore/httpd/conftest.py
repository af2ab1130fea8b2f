"""A server on a loopback socket, and clients that send what they are told, byte for byte."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from altostack.objectstore.http import ClientGone, Refusal, Request, Response
from altostack.objectstore.httpd.server import Server, listen

H = b"Host: h\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n"


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
