"""Uploads over real connections that break, and memory that does not grow."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from altostack.deploy.serve import serve
from tests.image.stand import Glance

BITS = os.urandom(300_000)
MIB = 1 << 20


@pytest.fixture
def glance(tmp_path: Path) -> Iterator[Glance]:
    lone = Glance(tmp_path)
    yield lone
    lone.close()


@pytest.fixture
def port(glance: Glance) -> Iterator[int]:
    """The service over HTTP."""
    stop, ready = threading.Event(), threading.Event()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    number = listener.getsockname()[1]
    thread = threading.Thread(
        target=serve, args=(glance.app, listener), kwargs={"stop": stop, "ready": ready.set}
    )
    thread.start()
    assert ready.wait(10)
    yield number
    stop.set()
    thread.join(15)
    listener.detach()  # the server has closed it


def request(key: str, to: str, *, chunked: bool) -> bytes:
    """A whole PUT request."""
    head = (
        f"PUT /v2/images/{key}/{to} HTTP/1.1\r\nHost: cloud\r\nX-Auth-Token: member\r\n"
        "Content-Type: application/octet-stream\r\n"
    )
    if not chunked:
        return f"{head}Content-Length: {len(BITS)}\r\n\r\n".encode() + BITS
    pieces = b"".join(
        f"{len(BITS[at : at + 70_000]):x}\r\n".encode() + BITS[at : at + 70_000] + b"\r\n"
        for at in range(0, len(BITS), 70_000)
    )
    return f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + pieces + b"0\r\n\r\n"


def send(port: int, raw: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(raw)
        return sock.recv(1000)


@pytest.mark.parametrize("to", ["file", "stage"])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("hard", [False, True])
def test_an_upload_that_is_cut_anywhere_leaves_nothing(
    glance: Glance, port: int, to: str, chunked: bool, hard: bool
) -> None:
    key = glance.make()["id"]
    whole = request(key, to, chunked=chunked)
    head = whole.index(b"\r\n\r\n") + 4
    places = {head, head + 1, head + 65_536, head + 65_537, len(whole) - 1, len(whole) - 5, head // 2}
    places |= set(random.Random(5).sample(range(head, len(whole)), 5))
    answered: list[int] = []
    glance.runtime.observe = lambda route, method, status, seconds: (
        answered.append(status) if method == "PUT" else None
    )
    for place in sorted(places):
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            sock.sendall(whole[:place])
            if hard:  # a reset instead of an end
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        until = time.monotonic() + 10
        while place >= head and not answered:
            assert time.monotonic() < until, f"the request that was cut at {place - head} does not end"
            time.sleep(0.005)
        answered.clear()
        assert (glance.show(key)["status"], glance.left()) == ("queued", []), place - head
    assert send(port, whole).startswith(b"HTTP/1.1 204")
    if to == "stage":
        glance.bring(key, "glance-direct")
    assert glance.bits(key) == BITS


def test_connections_of_our_own_that_were_ended_elsewhere_cut_no_upload(glance: Glance, port: int) -> None:
    key = glance.make()["id"]
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.create_connection(other.getsockname()) as pooled,
    ):
        other.accept()[0].close()
        assert pooled.recv(1) == b""  # from now on it waits to be closed here
        assert send(port, request(key, "file", chunked=True)).startswith(b"HTTP/1.1 204")
    assert glance.bits(key) == BITS


def test_an_image_that_is_deleted_while_it_is_uploaded(glance: Glance, port: int) -> None:
    for to in ("file", "stage"):
        key = glance.make()["id"]
        whole = request(key, to, chunked=False)
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            sock.sendall(whole[: len(whole) // 2])
            until = time.monotonic() + 10
            while glance.show(key)["status"] == "queued" and time.monotonic() < until:
                time.sleep(0.01)
            glance.call("DELETE", f"/v2/images/{key}")
            sock.sendall(whole[len(whole) // 2 :])
            assert sock.recv(1000).startswith(b"HTTP/1.1 404")
        assert glance.left() == []


def test_a_download_that_is_left_ends(glance: Glance, port: int) -> None:
    key = glance.make()["id"]
    glance.put(key, (bytes(MIB) for _ in range(32))).read()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            sock.sendall(
                f"GET /v2/images/{key}/file HTTP/1.1\r\nHost: c\r\nX-Auth-Token: member\r\n\r\n".encode()
            )
            assert sock.recv(100).startswith(b"HTTP/1.1 200")
    until = time.monotonic() + 10
    while len(os.listdir("/proc/self/fd")) > before + 2:
        assert time.monotonic() < until, "files stay open"
        time.sleep(0.05)


def test_memory_does_not_grow_with_the_image(glance: Glance) -> None:
    """Upload, staging, import into a store, download: a fraction of the image's size."""
    key, other = glance.make()["id"], glance.make()["id"]
    tracemalloc.start()
    glance.put(key, (bytes(65_536) for _ in range(1024))).read()
    glance.put(other, (bytes(65_536) for _ in range(1024)), to="stage").read()
    glance.bring(other, "glance-direct")
    size = 0
    for chunk in glance.client.send("GET", f"/v2/images/{key}/file", token="member").chunks:
        size += len(chunk)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 64 * MIB
    assert glance.show(other)["size"] == 64 * MIB
    assert peak < 10 * MIB
