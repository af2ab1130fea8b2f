"""The bus of many machines: RabbitMQ, or whatever else speaks AMQP 0-9-1.

One thread owns one connection and does all of it: it publishes what waits in the outbox, takes what comes, sends
heartbeats, and connects again when the broker was away. Nobody who rings, emits or answers ever waits for it.
Exchanges `<namespace>.bells` (direct, by topic), `.events` (fanout) and `.calls` (direct, by topic); each process
has a queue of its own for bells, events and answers, and those that serve a topic share its queue of calls.
Messages are transient: the database is the truth.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import select
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

import kombu
import msgspec

from altostack.kit.bus.desk import BusRefused, BusTimeout, Desk, Listener
from altostack.kit.bus.outbox import Outbox
from altostack.kit.bus.wire import Answer, Bell, Call, Event, Frame, pack

LOG = logging.getLogger(__name__)

RETRY_SECONDS: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Waits between attempts to connect; the last one repeats."""
HEARTBEAT: Final = 20
"""Seconds of silence after which either side takes the other for dead."""
EXPIRES: Final = 60_000
"""Milliseconds that a topic's queue of calls outlives its last server."""
MOST_QUEUED: Final = 100_000
"""Messages the broker keeps for one process; older ones go, which costs latency and nothing else."""

TYPE: Final = "application/x-msgpack"


@dataclass(frozen=True, kw_only=True)
class _Letter:
    """One message to publish."""

    exchange: str
    key: str
    body: bytes
    properties: Mapping[str, Any] = field(default_factory=dict)


class AmqpBus:
    """A process's connection to the broker at `url`; several clouds share a broker by `namespace`."""

    def __init__(self, url: str, *, namespace: str = "altostack") -> None:
        self._url = url
        self._name = namespace
        self._desk = Desk()
        self._outbox: Outbox[_Letter] = Outbox(self._wake)
        self._answers: dict[str, Future[Any]] = {}
        self._lock = threading.Lock()
        self._newcomers: list[Listener] = []
        self._interest_due = False
        self._closed = False
        self._awake_read, self._awake_write = socket.socketpair()
        self._awake_read.setblocking(False)
        self._awake_write.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="bus-amqp", daemon=True)
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
        number = uuid.uuid4().hex
        future: Future[Any] = Future()
        letter = _Letter(
            exchange=f"{self._name}.calls",
            key=topic,
            body=_pack(Call(0, topic, method, args)),
            properties={"correlation_id": number, "expiration": timeout, "mandatory": True},
        )
        with self._lock:
            if self._closed:
                raise RuntimeError("the bus is closed")
            self._answers[number] = future
        try:
            if not self._outbox.frame(letter, deadline=time.monotonic() + timeout):
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
            self._outbox.frame(
                _Letter(exchange=f"{self._name}.events", key="", body=_pack(Event(dict(event))))
            )
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
        self._wake()
        self._thread.join(5.0)
        self._fail_calls("the bus was closed")
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
            session = _Session(self._url, self._name, self._take, self._returned)
            try:
                session.open()
                attempt = 0
                self._converse(session)
            except session.errors as error:
                if attempt in (0, len(RETRY_SECONDS)):
                    LOG.warning("the broker is away (%s); trying on", error)
            except Exception:
                LOG.exception("the bus's thread failed; reconnecting")
            finally:
                session.close()
            self._fail_calls("the connection to the broker was lost")
            self._pause(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)])
            attempt += 1

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._closed and (left := end - time.monotonic()) > 0:
            if select.select([self._awake_read], [], [], left)[0]:
                self._drain()

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._awake_read.recv(4096):
                pass

    def _converse(self, session: _Session) -> None:
        """One connection's life. Bells may have been lost before it, so all look at everything once."""
        with self._lock:
            self._newcomers = self._desk.listeners
            self._interest_due = True
        beat = time.monotonic()
        while True:
            self._subscribe(session)
            if not session.blocked:
                self._publish(session)
            if self._closed:
                return
            ready, _, _ = select.select([session.socket, self._awake_read], [], [], HEARTBEAT / 4)
            if self._awake_read in ready:
                self._drain()
            session.receive()
            if time.monotonic() - beat >= HEARTBEAT / 4:
                beat = time.monotonic()
                session.beat()

    def _subscribe(self, session: _Session) -> None:
        with self._lock:
            due, self._interest_due = self._interest_due, False
            newcomers, self._newcomers = (self._newcomers, []) if due else ([], self._newcomers)
        if due:
            session.subscribe(self._desk.topics, self._desk.served, events=self._desk.wants_events)
            for listener in newcomers:
                listener.wake(())

    def _publish(self, session: _Session) -> None:
        """Send what waits. What a broken connection swallows is lost, except for bells."""
        bells, letters = self._outbox.take()
        try:
            for topic, ids in bells:
                session.publish(
                    _Letter(exchange=f"{self._name}.bells", key=topic, body=_pack(Bell(topic, ids)))
                )
        except session.errors:
            for topic, ids in bells:
                self._outbox.bell(topic, ids)
            raise
        for letter in letters:
            session.publish(letter)

    def _take(self, message: Any) -> None:
        """A message came."""
        try:
            frame = msgspec.msgpack.decode(bytes(message.body), type=Frame)
        except (ValueError, TypeError) as error:
            LOG.warning("a message on the bus makes no sense: %s", error)
            return
        match frame:
            case Bell(topic=topic, ids=ids):
                self._desk.bell(topic, ids)
            case Event(event=event):
                self._desk.event(event)
            case Call(topic=topic, method=method, args=args):
                answer = self._desk.answer(topic, method, args)
                back, number = message.properties.get("reply_to"), message.properties.get("correlation_id")
                answer.add_done_callback(lambda done: self._reply(back, number, done))
            case Answer(state=state, result=result, message=text):
                problem = (
                    None if state == "ok" else BusRefused(text) if state == "refused" else BusTimeout(text)
                )
                self._settle(message.properties.get("correlation_id"), result, problem)

    def _returned(self, number: str | None, topic: str) -> None:
        self._settle(number, None, BusTimeout(f"nobody serves {topic!r}"))

    def _settle(self, number: str | None, result: object, error: Exception | None) -> None:
        with self._lock:
            future = self._answers.get(number or "")
        if future is None or future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def _fail_calls(self, reason: str) -> None:
        """Those that wait for an answer; calls that were not sent yet wait on."""
        with self._lock:
            numbers = list(self._answers)
        for number in numbers:
            self._settle(number, None, BusTimeout(reason))

    def _reply(self, back: str | None, number: str | None, done: Future[Any]) -> None:
        if done.cancelled() or not back:
            return
        error = done.exception()
        if error is None:
            answer = Answer(0, "ok", done.result())
        else:
            answer = Answer(0, "refused" if isinstance(error, BusRefused) else "absent", None, str(error))
        try:
            body = _pack(answer)
        except ValueError as too_large:
            body = _pack(Answer(0, "refused", None, str(too_large)))
        self._outbox.frame(_Letter(exchange="", key=back, body=body, properties={"correlation_id": number}))


class _Session:
    """One connection: what is declared on it, published and consumed. Used by one thread."""

    def __init__(
        self,
        url: str,
        name: str,
        take: Callable[[Any], None],
        returned: Callable[[str | None, str], None],
    ) -> None:
        options = {"read_timeout": HEARTBEAT, "write_timeout": HEARTBEAT}
        self._connection: Any = kombu.Connection(  # type: ignore[attr-defined,no-untyped-call]  # kombu brings no types
            url, heartbeat=HEARTBEAT, connect_timeout=5, transport_options=options
        )
        self.errors: tuple[type[BaseException], ...] = (
            *self._connection.connection_errors,
            *self._connection.channel_errors,
            OSError,
        )
        self.blocked = False
        self._name = name
        self._take = take
        self._returned = returned
        self._bound: set[str] = set()
        self._serving: set[str] = set()
        self._events = False
        self._channel: Any = None
        self._queue = ""

    def open(self) -> None:
        """Connect and declare what every process has."""
        self._connection.connect()
        wire = self._connection.connection
        wire.on_blocked = lambda reason: self._block(True)
        wire.on_unblocked = lambda: self._block(False)
        self._channel = self._connection.channel()
        self._channel.events["basic_return"].add(self._on_return)
        for part, kind in (("bells", "direct"), ("events", "fanout"), ("calls", "direct")):
            self._channel.exchange_declare(f"{self._name}.{part}", kind, durable=True, auto_delete=False)
        limit = {"x-max-length": MOST_QUEUED}
        declared = self._channel.queue_declare("", exclusive=True, auto_delete=True, arguments=limit)
        self._queue = declared.queue
        self._channel.basic_consume(self._queue, no_ack=True, callback=self._take)

    @property
    def socket(self) -> Any:
        return self._connection.connection.sock

    def subscribe(self, topics: list[str], served: list[str], *, events: bool) -> None:
        """Add what is new; when this returns the broker keeps what comes for us."""
        for topic in topics:
            if topic not in self._bound:
                self._bound.add(topic)
                self._channel.queue_bind(self._queue, f"{self._name}.bells", routing_key=topic)
        if events and not self._events:
            self._events = True
            self._channel.queue_bind(self._queue, f"{self._name}.events")
        for topic in served:
            if topic not in self._serving:
                self._serving.add(topic)
                queue = f"{self._name}.calls.{topic}"
                self._channel.queue_declare(
                    queue, durable=True, exclusive=False, auto_delete=False, arguments={"x-expires": EXPIRES}
                )
                self._channel.queue_bind(queue, f"{self._name}.calls", routing_key=topic)
                self._channel.basic_consume(queue, no_ack=True, callback=self._take)

    def publish(self, letter: _Letter) -> None:
        more = dict(letter.properties)
        mandatory = bool(more.pop("mandatory", False))
        if "expiration" in more:
            more["expiration"] = str(max(1, int(more["expiration"] * 1000)))  # milliseconds, as text
            more["reply_to"] = self._queue
        message = self._channel.prepare_message(
            letter.body, content_type=TYPE, content_encoding="binary", properties={**more, "delivery_mode": 1}
        )
        self._channel.basic_publish(message, letter.exchange, letter.key, mandatory=mandatory)

    def receive(self) -> None:
        """Hand on all that has come."""
        while True:
            try:
                self._connection.drain_events(timeout=0)
            except TimeoutError:
                return

    def beat(self) -> None:
        """Send a heartbeat when due; raises one of `errors` when the broker missed too many."""
        self._connection.heartbeat_check(rate=4)

    def close(self) -> None:
        # An answer to the good-bye would be waited for: hang up instead, the broker cleans up either way.
        with contextlib.suppress(Exception):
            self._connection.collect(socket_timeout=1)

    def _block(self, blocked: bool) -> None:
        self.blocked = blocked
        LOG.warning(
            "the broker %s", "is out of room and takes no messages" if blocked else "takes messages again"
        )

    def _on_return(self, exception: Any, exchange: str, key: str, message: Any) -> None:
        self._returned(message.properties.get("correlation_id"), key)


def _pack(frame: Frame) -> bytes:
    """Raises TypeError for what is not plain data, ValueError for what is too large."""
    return pack(frame)[4:]  # a message has a length of its own
