"""The bell: wake-ups, live facts and events between processes.

The database is the truth. A bus carries three things and may lose any of them:

* a **bell** (`ring`, `listen`): "something about these ids changed, look at the database";
* a **call** (`call`, `serve`): a question about live facts to whoever serves a topic;
* an **event** (`emit`, `subscribe`): a notice for everybody who wants to know.

Losing a bell costs latency and nothing else, because every listener is told to look at everything
(`handler(())`) whenever its connection was, or may have been, away.

Three implementations stand behind one interface: `memory:` (one process), `unix:/path` (the processes of
one machine around a `LocalHub`) and `amqp://...` (RabbitMQ). A bus has threads and sockets of its own, so
it is opened after a fork, never before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from altostack.kit.bus.desk import BusError, BusRefused, BusTimeout
from altostack.kit.bus.memory import MemoryBus

__all__ = ["Bus", "BusError", "BusRefused", "BusTimeout", "MemoryBus", "open_bus"]

Method = Callable[[Mapping[str, object]], object]


class Bus(Protocol):
    """What every bus does. Arguments, results and events are plain data: what MessagePack can carry."""

    def ring(self, topic: str, *ids: str) -> None:
        """Wake the listeners of `topic`; no ids means "look at everything".

        Best effort: never raises, never waits for the network. Bells for one topic that are still on
        their way are merged, so a thousand rings of the same id reach a busy listener once.
        """

    def listen(self, topic: str, handler: Callable[[tuple[str, ...]], None]) -> None:
        """Have `handler(ids)` called, in a thread of its own and one call at a time, when `topic` rings.

        `handler(())` means "look at everything": it comes after each (re)connection, when a bell without
        ids was rung, and when too many ids had gathered to name them. An exception is logged and the
        listener lives on.
        """

    def call(self, topic: str, method: str, args: Mapping[str, object], *, timeout: float = 5.0) -> object:
        """Ask one of the processes that serve `topic` and return its answer.

        Raises:
            BusTimeout: nobody serves the topic, or no answer came within `timeout` seconds.
            BusRefused: the server answered with an error; the message says which.
        """

    def serve(self, topic: str, methods: Mapping[str, Method]) -> None:
        """Answer calls to `topic`. A method may raise `BusRefused(message)` to refuse with a reason."""

    def emit(self, event: Mapping[str, object]) -> None:
        """Send `event` to every subscriber of every process; best effort like `ring`, but not merged."""

    def subscribe(self, handler: Callable[[Mapping[str, object]], None]) -> None:
        """Have `handler(event)` called, in a thread of its own, for every event from now on."""

    def close(self) -> None:
        """Disconnect and end the bus's threads; a second call does nothing."""


def open_bus(url: str, *, namespace: str = "altostack") -> Bus:
    """Open the bus that `url` names: `memory:`, `unix:/path/to/socket` or `amqp://user:password@host/vhost`.

    `namespace` keeps two clouds apart that share one broker; the other buses have no use for it.

    Raises:
        ValueError: the scheme is not one of these.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "memory":
        return MemoryBus()
    if scheme == "unix":
        from altostack.kit.bus.local import LocalBus

        return LocalBus(Path(rest))
    if scheme in ("amqp", "amqps"):
        from altostack.kit.bus.amqp import AmqpBus  # late: its library is large and most clouds need none

        return AmqpBus(url, namespace=namespace)
    raise ValueError(f"unknown bus {scheme!r} in {rest!r}: expected memory:, unix:/path or amqp://...")
