"""The whole server: its end, its memory."""

from __future__ import annotations

import io
import socket
import threading
import time
from pathlib import Path

from altostack.objectstore.http import Request, Response, chunks
from altostack.objectstore.httpd.server import Server, listen
from tests.objectstore.httpd.conftest import NEXT, H, Site, Wire, descriptors, peak, until


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
