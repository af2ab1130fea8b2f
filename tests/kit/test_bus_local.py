"""What the local bus does when its hub or its clients go away."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from altostack.kit.bus import BusRefused, BusTimeout
from altostack.kit.bus import hub as hub_module
from altostack.kit.bus.hub import LocalHub
from altostack.kit.bus.local import LocalBus
from altostack.kit.bus.wire import Interest, Pipe, WireError, pack


def settle(check: Callable[[], bool], timeout: float = 5.0) -> None:
    end = time.monotonic() + timeout
    while not check():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bus"


@pytest.fixture
def hub(path: Path) -> Iterator[LocalHub]:
    hub = LocalHub(path)
    hub.start()
    yield hub
    hub.close()


@pytest.fixture
def bus(path: Path) -> Iterator[LocalBus]:
    bus = LocalBus(path)
    yield bus
    bus.close()


def test_the_socket_is_private_and_goes_with_the_hub(path: Path) -> None:
    hub = LocalHub(path)
    assert path.stat().st_mode & 0o777 == 0o600
    hub.close()
    assert not path.exists()


def test_one_hub_a_path_and_a_dead_one_is_replaced(path: Path) -> None:
    hub = LocalHub(path)
    with pytest.raises(OSError, match="another hub answers"):
        LocalHub(path)
    hub.forget()  # the socket file stays behind, as after kill -9
    assert path.exists()
    LocalHub(path).close()
    assert not path.exists()


def test_after_a_hub_s_death_everybody_looks_at_everything(path: Path, bus: LocalBus) -> None:
    heard: list[tuple[str, ...]] = []
    bus.listen("work", heard.append)
    for life in range(1, 4):
        hub = LocalHub(path)
        hub.start()
        settle(partial(lambda count: heard.count(()) == count, life))
        hub.close()


def test_bells_rung_without_a_hub_are_merged_and_arrive(path: Path, bus: LocalBus) -> None:
    heard: list[tuple[str, ...]] = []
    other = LocalBus(path)
    other.listen("work", heard.append)
    start = time.monotonic()
    for _ in range(1000):
        bus.ring("work", "a", "b")
    assert time.monotonic() - start < 1
    hub = LocalHub(path)
    hub.start()
    settle(lambda: bool(heard))
    other.close()
    hub.close()


def test_a_call_without_a_hub_times_out(bus: LocalBus) -> None:
    start = time.monotonic()
    with pytest.raises(BusTimeout, match=r"node\.a\.look gave no answer"):
        bus.call("node.a", "look", {}, timeout=0.3)
    assert time.monotonic() - start < 2


def test_a_call_whose_server_dies_ends_at_once(hub: LocalHub, path: Path, bus: LocalBus) -> None:
    ready, leave = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        hub.forget()
        server = LocalBus(path)
        server.serve("node.a", {"die": lambda _: os._exit(3), "pid": lambda _: os.getpid()})
        os.write(ready[1], b"!")
        os.read(leave[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    answered: list[object] = []

    def served() -> bool:
        try:
            answered.append(bus.call("node.a", "pid", {}, timeout=2))
        except BusTimeout:
            return False
        return True

    settle(served)
    assert answered == [pid]
    start = time.monotonic()
    with pytest.raises(BusTimeout, match="left before it answered"):
        bus.call("node.a", "die", {}, timeout=5)
    assert time.monotonic() - start < 2
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3


def test_calls_go_round_the_servers(hub: LocalHub, path: Path, bus: LocalBus) -> None:
    servers = [LocalBus(path), LocalBus(path)]
    for number, server in enumerate(servers):
        server.serve("node.a", {"who": partial(lambda own, _: own, number)})

    def both() -> bool:
        try:
            return {bus.call("node.a", "who", {}, timeout=1) for _ in range(4)} == {0, 1}
        except BusTimeout:
            return False

    settle(both)
    for server in servers:
        server.close()


def test_who_reads_too_slowly_is_dropped_and_the_rest_goes_on(
    hub: LocalHub, path: Path, bus: LocalBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "MOST_BEHIND", 1_000_000)
    slow = socket.socket(socket.AF_UNIX)
    slow.connect(str(path))
    slow.sendall(pack(Interest([], [], True)))
    seen: list[object] = []
    bus.subscribe(lambda event: seen.append(event["number"]))
    settle(lambda: bus._desk.wants_events)
    time.sleep(0.1)
    for batch in range(20):
        for number in range(20):
            bus.emit({"number": number, "pad": "x" * 10_000})
        settle(partial(lambda count: len(seen) == count, (batch + 1) * 20))
    slow.settimeout(5)
    received = 0
    with contextlib.suppress(ConnectionError):
        while data := slow.recv(1 << 20):  # a hub that keeps the connection makes this time out
            received += len(data)
    assert received < 400 * 10_000
    slow.close()


def test_nonsense_ends_the_connection_only(hub: LocalHub, path: Path, bus: LocalBus) -> None:
    for nonsense in (b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\xc1", b"\x00\x00\x00\x02\x91\x01"):
        stranger = socket.socket(socket.AF_UNIX)
        stranger.settimeout(5)
        stranger.connect(str(path))
        stranger.sendall(nonsense)
        assert stranger.recv(10) == b""
        stranger.close()
    bus.serve("node.a", {"yes": lambda _: True})
    assert bus.call("node.a", "yes", {}) is True


def test_a_large_answer(hub: LocalHub, bus: LocalBus) -> None:
    bus.serve("node.a", {"log": lambda args: "x" * int(str(args["size"]))})
    assert len(str(bus.call("node.a", "log", {"size": 5_000_000}))) == 5_000_000
    with pytest.raises(BusRefused, match="more than the bus carries"):
        bus.call("node.a", "log", {"size": 9_000_000})


def test_a_long_path(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 120) / "bus"
    path.parent.mkdir()
    hub, bus = LocalHub(path), LocalBus(path)
    hub.start()
    bus.serve("node.a", {"yes": lambda _: True})
    assert bus.call("node.a", "yes", {}) is True
    bus.close()
    hub.close()


def test_latency_and_threads(hub: LocalHub, path: Path, bus: LocalBus) -> None:
    before = threading.active_count()
    heard = threading.Event()
    other = LocalBus(path)
    first = threading.Event()
    other.listen("work", lambda ids: heard.set() if ids else first.set())
    assert first.wait(5)
    bus.ring("work", "x")
    assert heard.wait(5)
    other.close()
    assert threading.active_count() <= before


@pytest.mark.parametrize("letter", [b"interest", b"letters"])
def test_a_frame_whose_text_is_none_ends_its_connection_alone(letter: bytes) -> None:
    one, other = socket.socketpair()
    with one, other:
        frame = pack(Interest(topics=["letters"], served=[], events=False))
        one.sendall(frame.replace(letter, b"\xe5\x01" + letter[2:]))
        with pytest.raises(WireError):
            list(Pipe(other).receive())
