"""What nodes say to each other: signatures, calls, errors, and nodes that are down."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from altostack.objectstore.disk import links, pending, server, wire
from altostack.objectstore.disk.remote import RemoteNode
from altostack.objectstore.httpd.server import Server, listen
from altostack.objectstore.storage import (
    DeviceFull,
    DeviceGone,
    Exists,
    Missing,
    NotEmpty,
    Query,
    Row,
    Spot,
    StorageError,
    Superseded,
    Update,
)
from tests.objectstore.disk.conftest import KEY, Rig, Serve, facts
from tests.objectstore.disk.test_faults import failing
from tests.objectstore.world import run_together

C = Spot("d2", 5, "ef" * 16)


def test_the_wrong_key_is_refused(local: Rig, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    local.put()
    stranger = serve(local.local, key=b"another key")
    with caplog.at_level(logging.WARNING):
        for attempt in (
            lambda: stranger.read(local.spot),
            lambda: stranger.delete(local.spot, local.clock.now()),
            lambda: stranger.write(local.spot, local.clock.now()),
            lambda: stranger.info(C, "a", "c"),
        ):
            with pytest.raises(DeviceGone, match="401"):
                attempt()
    assert "signature is wrong" in caplog.text
    assert local.get() == b"content"


def status(request: urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_signatures(local: Rig, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(local.local)
    url = f"http://127.0.0.1:{client.port}"
    body = wire.call_body([C, "a", None], {})
    good = wire.signature(KEY, "POST", "/call/info", "", body)

    def post(path: str, body: bytes, signature: str | None) -> int:
        headers = {} if signature is None else {"Authorization": signature}
        return status(urllib.request.Request(url + path, body, headers, method="POST"))

    assert post("/call/info", body, good) == wire.FAILED  # understood: there is no such account
    assert post("/call/info", body, None) == 401
    assert post("/call/info", body, "Basic YTpi") == 401
    assert post("/call/info", body, good[:-1] + ("0" if good[-1] != "0" else "1")) == 401
    assert post("/call/info", wire.call_body([C, "b", None], {}), good) == 401
    assert post("/call/list", body, good) == 401
    assert post("/call/info", body, good.replace(good.split(" ")[1], "1700000000")) == 401
    now = time.time()
    for shift in (-400, 400):
        monkeypatch.setattr(wire.time, "time", lambda shift=shift: now + shift)
        old = wire.signature(KEY, "POST", "/call/info", "", body)
        monkeypatch.undo()
        assert post("/call/info", body, old) == 401
    assert (
        status(
            urllib.request.Request(
                url + "/", headers={"Authorization": wire.signature(KEY, "GET", "/", "", b"")}
            )
        )
        == 404
    )


def test_errors_come_across() -> None:
    for error in (
        Missing(), Missing("1700000000.000000000"), Superseded("1700000000.000000000"), Exists("x"), NotEmpty("x"),
        DeviceGone("x"), DeviceFull("x"), StorageError("x"), ValueError("x"),
    ):  # fmt: skip
        back = wire.error(wire.decode(wire.encode(wire.problem(error)), type=wire.Problem))
        assert (type(back), str(back)) == (type(error), str(error))
        assert getattr(back, "timestamp", 0) == getattr(error, "timestamp", 0)

    class Special(DeviceFull):
        pass

    assert type(wire.error(wire.problem(Special("x")))) is DeviceFull


class Pair(msgspec.Struct, frozen=True):
    left: int
    right: str


def test_more_calls(local: Rig, serve: Serve) -> None:
    def swap(pairs: Mapping[int, Pair], *, add: int = 0) -> dict[int, Pair]:
        return {one.left + add: Pair(number, one.right) for number, one in pairs.items()}

    def total(numbers: Iterable[int]) -> int:
        return sum(numbers)

    def fail(kind: str) -> None:
        raise {
            "gone": DeviceGone("as told"),
            "value": ValueError("as told"),
            "other": RuntimeError("secret"),
        }[kind]

    client = serve(local.local, more={"care.swap": swap, "total": total, "fail": fail})
    kind = dict[int, Pair]
    assert client.call("care.swap", {1: Pair(2, "x")}, result=kind) == {2: Pair(1, "x")}
    assert client.call("care.swap", pairs={1: Pair(2, "x")}, add=5, result=kind) == {7: Pair(1, "x")}
    assert client.call("care.swap", {1: Pair(2, "x")}) == {2: {"left": 1, "right": "x"}}
    assert client.call("total", (1, 2, 3)) == 6
    with pytest.raises(DeviceGone, match="as told"):
        client.call("fail", "gone")
    with pytest.raises(ValueError, match="as told"):
        client.call("fail", "value")
    with pytest.raises(DeviceGone, match="500"):
        client.call("fail", "other")
    for attempt in (
        lambda: client.call("nothing"),
        lambda: client.call("total"),
        lambda: client.call("total", [1], [2]),
        lambda: client.call("total", ["x"]),
        lambda: client.call("total", numbers=[1], more=1),
        lambda: client.call("__init__"),
    ):
        with pytest.raises(ValueError, match=r"knows no call|arguments are|Expected"):
            attempt()
    with pytest.raises(DeviceGone, match="understood"):
        client.call("total", [1], result=str)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_a_node_that_is_down(local: Rig) -> None:
    port = free_port()
    client = RemoteNode("127.0.0.1", port, key=KEY)
    began = time.monotonic()
    for _ in range(50):
        with pytest.raises(DeviceGone):
            client.read(local.spot)
    assert time.monotonic() - began < 5  # it is not tried each time
    with pytest.raises(DeviceGone, match="is down"):
        client.read(local.spot)


def test_who_is_let_through(local: Rig) -> None:
    now = [100.0]
    port = free_port()
    pool = links.Links("127.0.0.1", port, now=lambda: now[0])
    for pause in (1, 2, 4, 8, 16, 16):
        with pytest.raises(DeviceGone, match="cannot be reached"):
            pool.take()
        now[0] += pause - 0.1
        with pytest.raises(DeviceGone, match="is down"):
            pool.take()
        now[0] += 0.2
    listener = listen("127.0.0.1", port)
    try:
        trial = pool.take()
        with pytest.raises(DeviceGone, match="is down"):
            pool.take()  # one is enough to try
        now[0] += 13
        second = pool.take()  # nobody heard of the first
        pool.give(trial)
        pool.take().close()
        second.close()
    finally:
        pool.close()
        listener.close()


def test_a_node_that_comes_back(local: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    local.put()
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    client = RemoteNode("127.0.0.1", port, key=KEY)
    for _ in range(3):
        running = Server(server.handler(local.local, key=KEY), listener, threads=4).start()
        run_together(4, lambda number: client.read(local.spot).close())
        for writer in (
            client.write(local.spot, local.clock.now(), size=1),
            client.write(local.spot, local.clock.now()),
        ):
            writer.write(b"x")
            writer.put(facts(b"x"))
        running.stop(1.0)
        listener.close()
        listener = listen("127.0.0.1", port)
    running = Server(server.handler(local.local, key=KEY), listener, threads=4).start()
    assert b"".join(client.read(local.spot).content()) == b"x"
    client.close()
    running.stop(1.0)
    listener.close()


def test_a_node_that_says_nothing(local: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = listen("127.0.0.1", 0)
    try:
        client = RemoteNode("127.0.0.1", listener.getsockname()[1], key=KEY)
        for _ in range(2):
            with pytest.raises(DeviceGone, match="in time"):
                client.call("info", C, "a", "c", patience=0.05)
        client.close()
    finally:
        listener.close()


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200 OK\r\n", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\xc1",
     b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 422 No\r\nContent-Length: 1\r\n\r\n\xc1"],
)  # fmt: skip
def test_what_is_no_node(local: Rig, answer: bytes) -> None:
    listener = listen("127.0.0.1", 0)

    def once() -> None:
        sock, _ = listener.accept()
        with sock:
            sock.recv(1 << 16)
            sock.sendall(answer)

    asks: list[Callable[[RemoteNode], object]] = [
        lambda client: client.info(C, "a", "c"),
        lambda client: client.read(local.spot),
        lambda client: client.write(local.spot, local.clock.now()),
    ]
    for ask in asks:
        client = RemoteNode("127.0.0.1", listener.getsockname()[1], key=KEY)
        thread = threading.Thread(target=once)
        thread.start()
        with pytest.raises(DeviceGone):
            ask(client)
        thread.join()
    listener.close()


def test_a_device_that_fills_up_on_the_way(local: Rig, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(local.local)
    with monkeypatch.context() as patch:
        failing(patch, "write", errno.ENOSPC, after=3)
        writer = client.write(local.spot, local.clock.now())

        def send() -> None:
            for _ in range(500):
                writer.write(os.urandom(1 << 18))
            writer.put(facts(b""))

        with pytest.raises(DeviceFull):
            send()
        with pytest.raises(DeviceGone):
            writer.put(facts(b""))
        writer.abort()
    assert (local.files(), local.everything()) == ([], [])
    writer = client.write(local.spot, local.clock.now())
    writer.write(b"x")
    writer.put(facts(b"x"))
    assert local.get() == b"x"


def test_content_that_breaks_off(local: Rig, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    local.put(os.urandom(8_000_000))
    client = serve(local.local)
    stored = client.read(local.spot)
    os.truncate(next(local.folder.iterdir()), 4_000_000)
    with pytest.raises(DeviceGone):
        b"".join(stored.content())


def test_what_is_held_open_for_too_long(local: Rig, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(local.local)
    monkeypatch.setattr(server, "_HELD", 2)
    local.put(data := os.urandom(200_000))
    held = [client.read(local.spot) for _ in range(4)]
    assert b"".join(held[0].content(5, 100_000)) == data[5:100_000]  # not held any longer, but still there
    local.put(b"new")
    with pytest.raises(DeviceGone, match="replaced"):
        held[1].content()
    assert b"".join(held[2].content()) == b"".join(held[3].content()) == data
    with pytest.raises(ValueError, match="taken"):
        held[3].content()


def test_an_update_goes_to_another_node(tmp_path: Path, local: Rig, serve: Serve) -> None:
    other = serve(local.local)
    other.create(C, "a", "c", local.clock.now(), policy=0)
    asked: list[tuple[str, int]] = []

    def neighbours(host: str, port: int) -> Any:
        asked.append((host, port))
        return other if host == "other" else RemoteNode("127.0.0.1", free_port(), key=KEY)

    local.local.neighbours = neighbours
    row = Row(name="o", timestamp=local.clock.now(), size=1, content_type="t", etag="e")
    updates = [Update(host, 6200, C, "container", "a", "c", row) for host in ("other", "dead")]
    local.put(updates=updates)
    assert asked == [("other", 6200), ("dead", 6200)]
    assert [one.name for one in other.list(C, "a", "c", Query())] == ["o"]
    (waiting,) = pending.waiting(str(local.device))
    assert waiting.updates == updates[1:]


def test_many_threads_share_connections(local: Rig, serve: Serve) -> None:
    client = serve(local.local)

    def work(number: int) -> None:
        spot = Spot("d1", number, f"{number:032x}")
        for turn in range(20):
            data = bytes([number]) * (100 if turn % 2 else 100_000)
            writer = client.write(spot, local.clock.now(), size=len(data) if turn % 4 else None)
            writer.write(data)
            writer.put(facts(data))
            assert b"".join(client.read(spot).content()) == data

    run_together(8, work)


def test_several_processes_serve_one_port(local: Rig) -> None:
    """What a process holds open for a client is asked for on the same connection, so of the same process."""
    listener = listen("127.0.0.1", 0)
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            Server(server.handler(local.local, key=KEY), listener, threads=2).start()
            time.sleep(60)
            os._exit(0)
        children.append(child)
    client = RemoteNode("127.0.0.1", listener.getsockname()[1], key=KEY)
    try:

        def work(number: int) -> None:
            spot = Spot("d1", number, f"{number:032x}")
            for turn in range(10):
                data = bytes([turn]) * 200_000
                writer = client.write(spot, local.clock.now(), size=len(data))
                writer.write(data)
                writer.put(facts(data))
                stored = client.read(spot)
                client.delete(spot, local.clock.now())
                assert b"".join(stored.content()) == data

        run_together(6, work)
    finally:
        client.close()
        listener.close()
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
