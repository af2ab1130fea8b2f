"""Every bus behaves the same: each test here runs on all of them."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from altostack.kit.bus import Bus, BusRefused, BusTimeout, MemoryBus, open_bus
from altostack.kit.bus.hub import LocalHub

Open = Callable[[], Bus]


@pytest.fixture(params=["memory", "unix", pytest.param("amqp", marks=pytest.mark.databases)])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """A function that gives one more process's view of the same bus."""
    opened: list[Bus] = []
    if request.param == "memory":
        bus = MemoryBus()
        opened.append(bus)
        yield lambda: bus
    if request.param == "unix":
        hub = LocalHub(tmp_path / "bus")
        hub.start()

        def opened_one() -> Bus:
            opened.append(open_bus(f"unix:{tmp_path / 'bus'}"))
            return opened[-1]

        yield opened_one
        hub.close()
    if request.param == "amqp":
        url, namespace = request.getfixturevalue("rabbitmq_url"), f"alto-{uuid.uuid4().hex[:8]}"

        def opened_amqp() -> Bus:
            opened.append(open_bus(url, namespace=namespace))
            return opened[-1]

        yield opened_amqp
    for each in opened:
        each.close()


class Ear:
    """A listener that remembers what it heard."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, ...]] = []
        self.change = threading.Condition()

    def __call__(self, ids: tuple[str, ...]) -> None:
        with self.change:
            self.heard.append(ids)
            self.change.notify_all()

    def wait(self, wanted: str, timeout: float = 5.0) -> None:
        with self.change:
            assert self.change.wait_for(lambda: any(wanted in ids for ids in self.heard), timeout), self.heard


def attach(bus: Bus, topic: str, handler: Callable[[tuple[str, ...]], None], ear: Ear) -> None:
    """Listen, and let pass the call "look at everything" by which a networked bus begins."""
    bus.listen(topic, handler)
    if not isinstance(bus, MemoryBus):
        settle(lambda: bool(ear.heard))
        assert not any(ear.heard)
        ear.heard.clear()


def ask(bus: Bus, topic: str, method: str, args: Mapping[str, object]) -> object:
    """Call, again and again until the topic's server has become known."""
    end = time.monotonic() + 5
    while True:
        try:
            return bus.call(topic, method, args)
        except BusTimeout as error:
            if "nobody serves" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.02)


def settle(check: Callable[[], bool], timeout: float = 5.0) -> None:
    end = time.monotonic() + timeout
    while not check():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_bell_reaches_every_listener_of_its_topic_only(opener: Open) -> None:
    sender, one, two = opener(), opener(), opener()
    a, b, other = Ear(), Ear(), Ear()
    attach(one, "work", a, a)
    attach(two, "work", b, b)
    attach(two, "else", other, other)
    sender.ring("work", "x")
    a.wait("x")
    b.wait("x")
    assert not any(other.heard)


def test_a_bell_without_ids_means_everything(opener: Open) -> None:
    bus = opener()
    ear = Ear()
    attach(bus, "work", ear, ear)
    bus.ring("work")
    settle(lambda: () in ear.heard)


def test_bells_merge_while_the_listener_is_busy(opener: Open) -> None:
    bus = opener()
    gate = threading.Event()
    ear = Ear()

    def slow(ids: tuple[str, ...]) -> None:
        ear(ids)
        if ids:
            gate.wait(5)

    attach(bus, "work", slow, ear)
    for _ in range(500):
        bus.ring("work", "same", "other")
    time.sleep(0.05)
    gate.set()
    ear.wait("same")
    ear.wait("other")
    time.sleep(0.05)
    assert len(ear.heard) <= 4


def test_too_many_ids_become_everything(opener: Open) -> None:
    bus = opener()
    gate = threading.Event()
    ear = Ear()

    def slow(ids: tuple[str, ...]) -> None:
        ear(ids)
        if ids:
            gate.wait(5)

    attach(bus, "work", slow, ear)
    for number in range(3000):
        bus.ring("work", f"id-{number}")
    time.sleep(0.1)
    gate.set()
    settle(lambda: () in ear.heard)


def test_a_failing_listener_lives_on(opener: Open, caplog: pytest.LogCaptureFixture) -> None:
    bus = opener()
    ear = Ear()

    def handler(ids: tuple[str, ...]) -> None:
        ear(ids)
        if "bad" in ids:
            raise RuntimeError("broken")

    attach(bus, "work", handler, ear)
    bus.ring("work", "bad")
    ear.wait("bad")
    bus.ring("work", "good")
    ear.wait("good")
    assert "broken" in caplog.text


def test_a_call_is_answered(opener: Open) -> None:
    server, client = opener(), opener()
    server.serve("node.a", {"add": lambda args: {"sum": int(str(args["a"])) + int(str(args["b"]))}})
    assert ask(client, "node.a", "add", {"a": 1, "b": 2}) == {"sum": 3}


def test_a_call_to_nobody_times_out(opener: Open) -> None:
    with pytest.raises(BusTimeout, match=r"node\.b"):
        opener().call("node.b", "add", {}, timeout=0.5)


def test_a_slow_call_times_out_and_the_next_works(opener: Open) -> None:
    bus = opener()
    gate = threading.Event()
    bus.serve("node.a", {"slow": lambda _: gate.wait(5), "fast": lambda _: "yes"})
    assert ask(bus, "node.a", "fast", {}) == "yes"
    with pytest.raises(BusTimeout, match="slow"):
        bus.call("node.a", "slow", {}, timeout=0.2)
    assert bus.call("node.a", "fast", {}) == "yes"
    gate.set()


def test_refusals_carry_their_message(opener: Open) -> None:
    bus = opener()

    def refuse(_: Mapping[str, object]) -> object:
        raise BusRefused("the guest has no console")

    def broken(_: Mapping[str, object]) -> object:
        raise KeyError("what")

    bus.serve("node.a", {"refuse": refuse, "broken": broken})
    with pytest.raises(BusRefused) as caught:
        ask(bus, "node.a", "refuse", {})
    assert caught.value.message == "the guest has no console"
    with pytest.raises(BusRefused, match="KeyError"):
        bus.call("node.a", "broken", {})
    with pytest.raises(BusRefused, match="no method 'missing'"):
        bus.call("node.a", "missing", {})


def test_events_reach_every_subscriber(opener: Open) -> None:
    sender, one, two = opener(), opener(), opener()
    seen: list[list[Mapping[str, object]]] = [[], []]
    one.subscribe(seen[0].append)
    two.subscribe(seen[1].append)
    deadline = time.monotonic() + 5
    while not (seen[0] and seen[1]) and time.monotonic() < deadline:
        sender.emit({"type": "hello"})
        time.sleep(0.01)
    for number in range(100):
        sender.emit({"type": "server.create", "number": number})
    settle(lambda: all(len([e for e in s if e["type"] == "server.create"]) == 100 for s in seen))
    assert [e["number"] for e in seen[1] if e["type"] == "server.create"] == list(range(100))


def test_what_cannot_be_encoded(opener: Open, caplog: pytest.LogCaptureFixture) -> None:
    bus = opener()
    bus.serve("node.a", {"bad": lambda _: threading.Lock()})
    with pytest.raises(BusRefused, match="TypeError"):
        ask(bus, "node.a", "bad", {})
    with pytest.raises(TypeError):
        bus.call("node.a", "bad", {"lock": threading.Lock()})
    bus.emit({"type": threading.Lock()})
    assert "event was lost" in caplog.text


def test_close_ends_the_threads(opener: Open) -> None:
    before = set(threading.enumerate())  # other tests' clouds may live as long as the session
    bus = opener()
    bus.listen("work", Ear())
    bus.subscribe(lambda _: None)
    bus.close()
    bus.close()
    bus.ring("work", "x")
    settle(lambda: not [t for t in threading.enumerate() if t not in before])


def test_open_bus_names_an_unknown_scheme() -> None:
    with pytest.raises(ValueError, match="'zeromq'"):
        open_bus("zeromq://x")
    bus = open_bus("memory:")
    bus.close()
