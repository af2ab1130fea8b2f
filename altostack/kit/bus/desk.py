"""The receiving half that all buses share: threads that hand bells, calls and events to their handlers."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import msgspec

LOG = logging.getLogger(__name__)

MOST_IDS: Final = 1000
"""A topic that gathered more pending ids than this is told to look at everything instead."""
MOST_EVENTS: Final = 10_000
"""Events that one subscriber may have waiting; later ones are dropped and counted."""
CALL_THREADS: Final = 4
"""Calls that one process answers at a time."""


class BusError(Exception):
    """A call failed."""


class BusTimeout(BusError):
    """No answer came: nobody serves the topic, or it took too long."""


class BusRefused(BusError):
    """The server of the topic answered with an error; `message` is for people."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def plain(value: object) -> Any:
    """A deep copy of `value` as the wire would carry it, so that all buses behave alike.

    Raises:
        TypeError: `value` holds something that is not plain data.
    """
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value))


class Pending:
    """Ids that wait for one topic: merged, in order of first arrival, and never more than `MOST_IDS`."""

    def __init__(self) -> None:
        self.ids: dict[str, None] = {}
        self.everything = False

    def add(self, ids: tuple[str, ...]) -> None:
        if self.everything:
            return
        self.ids.update(dict.fromkeys(ids))
        if not ids or len(self.ids) > MOST_IDS:
            self.everything = True
            self.ids.clear()

    def take(self) -> tuple[str, ...]:
        ids = tuple(self.ids)
        self.ids.clear()
        self.everything = False
        return ids

    def __bool__(self) -> bool:
        return self.everything or bool(self.ids)


class Listener:
    """One handler of one topic and the thread it runs in."""

    def __init__(self, topic: str, handler: Callable[[tuple[str, ...]], None]) -> None:
        self._handler = handler
        self._topic = topic
        self._pending = Pending()
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"bell-{topic}", daemon=True)
        self._thread.start()

    def wake(self, ids: tuple[str, ...]) -> None:
        with self._change:
            self._pending.add(ids)
            self._change.notify()

    def close(self) -> None:
        with self._change:
            self._closed = True
            self._change.notify()

    def join(self, timeout: float) -> None:
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._pending and not self._closed:
                    self._change.wait()
                if self._closed:
                    return
                ids = self._pending.take()
            try:
                self._handler(ids)
            except Exception:
                LOG.exception("the listener of %r failed for %s", self._topic, ids or "everything")


class Subscriber:
    """One handler of events and the thread it runs in."""

    def __init__(self, handler: Callable[[Mapping[str, object]], None]) -> None:
        self._handler = handler
        self._events: queue.Queue[Mapping[str, object] | None] = queue.Queue(MOST_EVENTS)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="bus-events", daemon=True)
        self._thread.start()

    def take(self, event: Mapping[str, object]) -> bool:
        """Queue the event; False when it had to be dropped."""
        try:
            self._events.put_nowait(event)
        except queue.Full:
            return False
        return True

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(queue.Full):  # a full queue wakes the thread as well as the sentinel does
            self._events.put_nowait(None)

    def join(self, timeout: float) -> None:
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        while (event := self._events.get()) is not None and not self._closed:
            try:
                self._handler(event)
            except Exception:
                LOG.exception("a subscriber failed for event %r", event.get("type"))


class Desk:
    """Everything one bus receives for: its listeners, its served topics and its subscribers."""

    def __init__(self) -> None:
        self.dropped_events = 0
        self._lock = threading.Lock()
        self._listeners: dict[str, list[Listener]] = {}
        self._subscribers: list[Subscriber] = []
        self._served: dict[str, dict[str, Callable[[Mapping[str, object]], object]]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False

    # what the process asks for

    def listen(self, topic: str, handler: Callable[[tuple[str, ...]], None]) -> Listener:
        with self._lock:
            self._check_open()
            listener = Listener(topic, handler)
            self._listeners.setdefault(topic, []).append(listener)
            return listener

    def subscribe(self, handler: Callable[[Mapping[str, object]], None]) -> None:
        with self._lock:
            self._check_open()
            self._subscribers.append(Subscriber(handler))

    def serve(self, topic: str, methods: Mapping[str, Callable[[Mapping[str, object]], object]]) -> None:
        """Add methods to a topic.

        Raises:
            ValueError: a method of that name is served here already.
        """
        with self._lock:
            self._check_open()
            served = self._served.setdefault(topic, {})
            if twice := served.keys() & methods.keys():
                raise ValueError(f"{topic!r} already serves {sorted(twice)}")
            served.update(methods)

    # what it is interested in, for the transport's subscriptions

    @property
    def listeners(self) -> list[Listener]:
        with self._lock:
            return [listener for group in self._listeners.values() for listener in group]

    @property
    def topics(self) -> list[str]:
        with self._lock:
            return list(self._listeners)

    @property
    def served(self) -> list[str]:
        with self._lock:
            return list(self._served)

    @property
    def wants_events(self) -> bool:
        with self._lock:
            return bool(self._subscribers)

    # what arrives

    def bell(self, topic: str, ids: tuple[str, ...]) -> None:
        with self._lock:
            listeners = tuple(self._listeners.get(topic, ()))
        for listener in listeners:
            listener.wake(ids)

    def bell_everything(self) -> None:
        """Tell every listener to look at everything: bells may have been lost."""
        for listener in self.listeners:
            listener.wake(())

    def event(self, event: Mapping[str, object]) -> None:
        with self._lock:
            subscribers = tuple(self._subscribers)
        for subscriber in subscribers:
            if not subscriber.take(event):
                self.dropped_events += 1

    def answer(self, topic: str, method: str, args: Mapping[str, object]) -> Future[Any]:
        """Run a served method in the pool; the future ends with its plain result or with BusError."""
        with self._lock:
            self._check_open()
            if self._pool is None:
                self._pool = ThreadPoolExecutor(CALL_THREADS, thread_name_prefix="bus-call")
            return self._pool.submit(self._answer, topic, method, args)

    def _answer(self, topic: str, method: str, args: Mapping[str, object]) -> Any:
        with self._lock:
            methods = self._served.get(topic)
            function = None if methods is None else methods.get(method)
        if methods is None:
            raise BusTimeout(f"nobody serves {topic!r}")
        if function is None:
            raise BusRefused(f"{topic!r} has no method {method!r}")
        try:
            return plain(function(args))
        except BusError:
            raise
        except Exception as error:
            LOG.exception("%s.%s failed", topic, method)
            raise BusRefused(f"{topic}.{method} failed: {type(error).__name__}: {error}") from error

    def close(self, timeout: float = 1.0) -> None:
        """End the threads; those busy in a handler are given `timeout` seconds each, then left behind."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            workers = [each for group in self._listeners.values() for each in group] + list(self._subscribers)
            pool = self._pool
        for worker in workers:
            worker.close()
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.join(timeout)

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the bus is closed")
