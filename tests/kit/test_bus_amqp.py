"""What the AMQP bus does when its broker goes away."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from altostack.kit.bus import BusTimeout
from altostack.kit.bus.amqp import AmqpBus
from tests.servers import RabbitMQ, free_port

pytestmark = pytest.mark.databases


def settle(check: Callable[[], bool], timeout: float = 15.0) -> None:
    end = time.monotonic() + timeout
    while not check():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def namespace() -> str:
    return f"alto-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def bus(rabbitmq_url: str, namespace: str) -> Iterator[AmqpBus]:
    bus = AmqpBus(rabbitmq_url, namespace=namespace)
    yield bus
    bus.close()


def test_a_broker_that_dies_costs_time_only(
    rabbitmq: RabbitMQ, rabbitmq_url: str, namespace: str, bus: AmqpBus
) -> None:
    other = AmqpBus(rabbitmq_url, namespace=namespace)
    heard: list[tuple[str, ...]] = []
    events: list[object] = []
    gate = threading.Event()
    other.listen("work", heard.append)
    other.subscribe(lambda event: events.append(event["number"]))
    other.serve("node.a", {"yes": lambda _: True, "wait": lambda _: gate.wait(20)})
    settle(lambda: heard == [()])

    ended: list[float] = []

    def call_in_flight() -> None:
        with pytest.raises(BusTimeout, match="connection to the broker was lost"):
            bus.call("node.a", "wait", {}, timeout=30)
        ended.append(time.monotonic())

    settle(lambda: _answers(bus))
    thread = threading.Thread(target=call_in_flight)
    thread.start()
    time.sleep(0.2)
    killed = time.monotonic()
    rabbitmq.stop(kill=True)
    thread.join(10)
    gate.set()
    assert ended[0] - killed < 5

    before = time.monotonic()
    for number in range(20_000):
        bus.ring("work", f"id-{number % 50}")
        bus.emit({"type": "x", "number": number})
    assert time.monotonic() - before < 5
    assert bus.dropped >= 10_000
    with pytest.raises(BusTimeout):
        bus.call("node.a", "yes", {}, timeout=0.2)

    heard.clear()
    rabbitmq.start()
    settle(lambda: () in heard)
    settle(lambda: _answers(bus))
    heard.clear()
    bus.ring("work", "after")
    settle(lambda: ("after",) in heard)
    bus.emit({"type": "x", "number": "after"})
    settle(lambda: "after" in events)
    other.close()


def _answers(bus: AmqpBus) -> bool:
    try:
        return bool(bus.call("node.a", "yes", {}, timeout=1))
    except BusTimeout:
        return False


def test_clouds_that_share_a_broker_do_not_meet(rabbitmq_url: str, namespace: str, bus: AmqpBus) -> None:
    stranger = AmqpBus(rabbitmq_url, namespace=f"{namespace}-other")
    heard: list[tuple[str, ...]] = []
    stranger.listen("work", heard.append)
    stranger.serve("node.a", {"yes": lambda _: True})
    settle(lambda: heard == [()])
    bus.ring("work", "x")
    with pytest.raises(BusTimeout, match="nobody serves"):
        bus.call("node.a", "yes", {})
    stranger.ring("work", "own")
    settle(lambda: ("own",) in heard)
    assert not any("x" in ids for ids in heard)
    stranger.close()


def test_calls_go_round_the_servers(rabbitmq_url: str, namespace: str, bus: AmqpBus) -> None:
    one, two = (AmqpBus(rabbitmq_url, namespace=namespace) for _ in range(2))
    one.serve("node.a", {"who": lambda _: 1})
    two.serve("node.a", {"who": lambda _: 2})

    def both() -> bool:
        try:
            return {bus.call("node.a", "who", {}, timeout=1) for _ in range(6)} == {1, 2}
        except BusTimeout:
            return False

    settle(both)
    one.close()
    two.close()


def test_without_a_broker(caplog: pytest.LogCaptureFixture) -> None:
    bus = AmqpBus(f"amqp://guest:guest@127.0.0.1:{free_port()}//")
    bus.ring("work", "x")
    with pytest.raises(BusTimeout):
        bus.call("node.a", "yes", {}, timeout=0.3)
    before = time.monotonic()
    bus.close()
    assert time.monotonic() - before < 2
    assert "the broker is away" in caplog.text


def test_a_wrong_password_is_said(
    rabbitmq: RabbitMQ, rabbitmq_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    bus = AmqpBus(rabbitmq_url.replace("guest:guest", "guest:wrong"))
    settle(lambda: "the broker is away" in caplog.text)
    bus.close()
    assert "ACCESS_REFUSED" in caplog.text or "403" in caplog.text
