"""The bus of one machine's processes: a client of `LocalHub`."""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

from altostack.kit.bus.desk import BusRefused, BusTimeout, Desk, Listener
from altostack.kit.bus.outbox import Outbox
from altostack.kit.bus.wire import Answer, Bell, Call, Event, Frame, Interest, Pipe, WireError, address, pack

LOG = logging.getLogger(__name__)

RETRY_SECONDS: Final = (0.02, 0.05, 0.1, 0.2, 0.5)
"""Waits between attempts to connect; the last one repeats."""


class LocalBus:
    """Connects to the hub at `path` by itself, again and again; nothing here waits for it except `call`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._desk = Desk()
        self._outbox: Outbox[bytes] = Outbox(self._wake)
        self._answers: dict[int, Future[Any]] = {}
        self._numbers = itertools.count(1)
        self._interest_due = False
        self._newcomers: list[Listener] = []  # listeners the hub has not confirmed yet
        self._lock = threading.Lock()
        self._closed = False
        self._awake_read, self._awake_write = socket.socketpair()
        self._awake_read.setblocking(False)
        self._awake_write.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="bus-local", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Events and answers that found no room."""
        return self._outbox.dropped + self._desk.dropped_events

    def ring(self, topic: str, *ids: str) -> None:
        self._outbox.bell(topic, ids)

    def listen(self, topic: str, handler: Callable[[tuple[str, ...]], None]) -> None:
        with self._lock:
            self._newcomers.append(self._desk.listen(topic, handler))
            self._interest_due = True
        self._wake()

    def call(self, topic: str, method: str, args: Mapping[str, object], *, timeout: float = 5.0) -> object:
        number = next(self._numbers)
        future: Future[Any] = Future()
        packed = pack(Call(number, topic, method, args))
        with self._lock:
            if self._closed:
                raise RuntimeError("the bus is closed")
            self._answers[number] = future
        try:
            if not self._outbox.frame(packed, deadline=time.monotonic() + timeout):
                raise BusTimeout(f"{topic}.{method} was not sent: too much waits for the bus")
            return future.result(timeout)
        except concurrent.futures.TimeoutError:
            raise BusTimeout(f"{topic}.{method} gave no answer within {timeout:g} s") from None
        finally:
            with self._lock:
                self._answers.pop(number, None)

    def serve(self, topic: str, methods: Mapping[str, Callable[[Mapping[str, object]], object]]) -> None:
        self._desk.serve(topic, methods)
        self._declare()

    def emit(self, event: Mapping[str, object]) -> None:
        try:
            self._outbox.frame(pack(Event(dict(event))))
        except Exception:  # best effort: an event nobody can encode must not fail what it reports on
            LOG.exception("an event was lost")

    def subscribe(self, handler: Callable[[Mapping[str, object]], None]) -> None:
        self._desk.subscribe(handler)
        self._declare()

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            waiting = list(self._answers.values())
        self._wake()
        self._thread.join(2.0)
        for future in waiting:
            with contextlib.suppress(concurrent.futures.InvalidStateError):
                future.set_exception(BusTimeout("the bus was closed"))
        self._desk.close()
        if not self._thread.is_alive():
            self._awake_read.close()
            self._awake_write.close()

    def _declare(self) -> None:
        with self._lock:
            self._interest_due = True
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it wakes anyhow; closed: there is nobody to wake
            self._awake_write.send(b"!")

    # everything below runs in the bus's own thread

    def _run(self) -> None:
        attempt = 0
        while not self._closed:
            sock = socket.socket(socket.AF_UNIX)
            try:
                with address(self._path) as name:
                    sock.connect(name)
            except OSError as error:
                sock.close()
                if attempt == len(RETRY_SECONDS):
                    LOG.warning("no bus at %s (%s); trying on", self._path, error)
                self._pause(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)])
                attempt += 1
                continue
            attempt = 0
            pipe = Pipe(sock)
            try:
                self._converse(pipe)
            except WireError as error:
                if not self._closed:
                    LOG.info("the bus went away (%s); reconnecting", error)
            except Exception:
                LOG.exception("the bus's thread failed; reconnecting")
            finally:
                pipe.close()

    def _pause(self, seconds: float) -> None:
        """Wait, but end at once when the bus is closed."""
        end = time.monotonic() + seconds
        while not self._closed and (left := end - time.monotonic()) > 0:
            if select.select([self._awake_read], [], [], left)[0]:
                self._drain()

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._awake_read.recv(4096):
                pass

    def _converse(self, pipe: Pipe) -> None:
        """One connection's life. Bells may have been lost before it, so all look at everything once.

        The hub answers each declaration of interest with a receipt: from then on no bell is missed, so that is
        the moment to look.
        """
        unconfirmed: list[list[Listener]] = []
        with self._lock:
            self._newcomers = self._desk.listeners
            self._interest_due = True
        poll = select.poll()
        poll.register(self._awake_read, select.POLLIN)
        while True:
            self._fill(pipe, unconfirmed)
            pipe.flush()
            if self._closed and not pipe.outgoing:
                return
            poll.register(pipe.sock, select.POLLIN | (select.POLLOUT if pipe.outgoing else 0))
            ready = dict(poll.poll(1000 if self._closed else None))
            if self._closed and not ready:
                return
            if self._awake_read.fileno() in ready:
                self._drain()
            if ready.get(pipe.sock.fileno(), 0) & ~select.POLLOUT:
                for frame in pipe.receive():
                    if isinstance(frame, Interest):
                        for listener in unconfirmed.pop(0):
                            listener.wake(())
                    else:
                        self._take(frame)

    def _fill(self, pipe: Pipe, unconfirmed: list[list[Listener]]) -> None:
        with self._lock:
            due, self._interest_due = self._interest_due, False
            if due:
                unconfirmed.append(self._newcomers)
                self._newcomers = []
        if due:
            pipe.outgoing += pack(Interest(self._desk.topics, self._desk.served, self._desk.wants_events))
        bells, frames = self._outbox.take()
        for topic, ids in bells:
            pipe.outgoing += pack(Bell(topic, ids))
        for packed in frames:
            pipe.outgoing += packed

    def _take(self, frame: Frame) -> None:
        match frame:
            case Bell(topic=topic, ids=ids):
                self._desk.bell(topic, ids)
            case Event(event=event):
                self._desk.event(event)
            case Call(id=number, topic=topic, method=method, args=args):
                answer = self._desk.answer(topic, method, args)
                answer.add_done_callback(lambda done: self._reply(number, done))
            case Answer(id=number, state=state, result=result, message=message):
                with self._lock:
                    future = self._answers.get(number)
                if future is None or future.done():
                    return
                if state == "ok":
                    future.set_result(result)
                else:
                    future.set_exception(BusRefused(message) if state == "refused" else BusTimeout(message))

    def _reply(self, number: int, done: Future[Any]) -> None:
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            answer = Answer(number, "ok", done.result())
        else:
            answer = Answer(
                number, "refused" if isinstance(error, BusRefused) else "absent", None, str(error)
            )
        try:
            packed = pack(answer)
        except ValueError as too_large:
            packed = pack(Answer(number, "refused", None, str(too_large)))
        self._outbox.frame(packed)
