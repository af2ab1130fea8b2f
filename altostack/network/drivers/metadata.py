"""Metadata for guests: HTTP on sockets that live in DHCP and router namespaces, served by this process.

One thread watches all sockets; a few threads ask the resolver. A guest is who its address says, on the network
or router whose socket it reached; nothing it writes into a header counts. HTTP is kept to what guests use
(RFC 9112): no chunked bodies, bounded sizes, bounded time, bounded connections for each guest.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Literal

from altostack.network.drivers.base import MetadataRequest, MetadataResponse, Resolver

PORT = 80
HEAD_LIMIT = 16 * 1024
BODY_LIMIT = 64 * 1024
CLIENTS_PER_GUEST = 16
CLIENTS = 2048
SECONDS = 15.0
"""How long a connection may take for a request, for taking its answer, or for staying idle."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "OPTIONS"})
_LOG = logging.getLogger(__name__)

Place = tuple[Literal["network", "router"], str]
"""Where a socket listens: in the namespace of which network or router."""


class _Refused(Exception):
    """The request is answered with this status and the connection closed."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


@dataclass(kw_only=True, eq=False, slots=True)
class _Client:
    connection: socket.socket
    place: Place
    address: str
    deadline: float
    received: bytearray = field(default_factory=bytearray)
    unsent: bytes = b""
    keep: bool = False
    busy: bool = False


class MetadataServer:
    """Serves any number of places with ``workers`` threads and one more.

    ``resolver`` is called from the workers, several at a time; what it raises becomes a 500 and a log record.
    """

    def __init__(self, resolver: Resolver, *, workers: int = 4) -> None:
        self._resolver = resolver
        self._selector = selectors.DefaultSelector()
        self._listeners: dict[Place, socket.socket] = {}
        self._clients: set[_Client] = set()
        self._guests: collections.Counter[tuple[Place, str]] = collections.Counter()
        self._orders: collections.deque[Callable[[], None]] = collections.deque()
        self._bell, self._wake = socket.socketpair()
        self._bell.setblocking(False)
        self._wake.setblocking(False)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="metadata")
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="metadata", daemon=True)
        self._thread.start()

    def places(self) -> set[Place]:
        """Where it listens."""
        return set(self._listeners)

    def open(self, place: Place, listener: socket.socket) -> None:
        """Serve a place through a non-blocking listening socket, which is this server's from now on."""
        self._order(lambda: self._add(place, listener))

    def close_place(self, place: Place) -> None:
        """Close the place's socket and all its connections, so that its namespace can go."""
        self._order(lambda: self._drop_place(place))

    def close(self) -> None:
        """Close everything and end the threads."""
        if self._thread.is_alive():
            self._order(self._end)
            self._thread.join()
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _order(self, run: Callable[[], None]) -> None:
        """Have the watching thread do something, and wait until it did."""
        done = threading.Event()

        def carry_out() -> None:
            try:
                run()
            finally:
                done.set()

        self._orders.append(carry_out)
        self._ring()
        while not done.wait(1.0):
            if not self._thread.is_alive():
                raise RuntimeError("the metadata server has ended")

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # full: it is awake already; closed: it has ended
            self._bell.send(b"!")

    # Everything below runs in the watching thread, except _answer.

    def _run(self) -> None:
        swept = time.monotonic()
        while not self._ended:
            for key, events in self._selector.select(1.0):
                if key.fileobj is self._wake:
                    with contextlib.suppress(BlockingIOError):
                        self._wake.recv(4096)
                elif isinstance(key.data, _Client):
                    self._attend(key.data, events)
                else:
                    self._accept(key.data, self._listeners.get(key.data))
            while self._orders:
                self._orders.popleft()()
            now = time.monotonic()
            if now - swept > 1.0:
                swept = now
                for client in [
                    client for client in self._clients if client.deadline < now and not client.busy
                ]:
                    self._drop(client)

    def _add(self, place: Place, listener: socket.socket) -> None:
        self._drop_place(place)
        self._listeners[place] = listener
        self._selector.register(listener, selectors.EVENT_READ, place)

    def _drop_place(self, place: Place) -> None:
        listener = self._listeners.pop(place, None)
        if listener is not None:
            self._selector.unregister(listener)
            listener.close()
        for client in [client for client in self._clients if client.place == place]:
            self._drop(client)

    def _end(self) -> None:
        for place in list(self._listeners):
            self._drop_place(place)
        self._ended = True
        self._selector.close()
        self._bell.close()
        self._wake.close()

    def _accept(self, place: Place, listener: socket.socket | None) -> None:
        if listener is None:
            return
        try:
            connection, peer = listener.accept()
        except OSError:
            return
        guest = (place, str(peer[0]))
        if self._guests[guest] >= CLIENTS_PER_GUEST or len(self._clients) >= CLIENTS:
            connection.close()
            return
        connection.setblocking(False)
        client = _Client(
            connection=connection, place=place, address=guest[1], deadline=time.monotonic() + SECONDS
        )
        self._guests[guest] += 1
        self._clients.add(client)
        self._selector.register(connection, selectors.EVENT_READ, client)

    def _drop(self, client: _Client) -> None:
        if client not in self._clients:
            return
        self._clients.discard(client)
        guest = (client.place, client.address)
        self._guests[guest] -= 1
        if not self._guests[guest]:
            del self._guests[guest]
        with contextlib.suppress(KeyError):  # while its answer is made it is not watched
            self._selector.unregister(client.connection)
        client.connection.close()

    def _attend(self, client: _Client, events: int) -> None:
        if client not in self._clients:
            return
        try:
            if events & selectors.EVENT_WRITE:
                self._send(client)
                return
            data = client.connection.recv(64 * 1024)
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)
            return
        if not data:
            self._drop(client)
            return
        client.received += data
        self._proceed(client)

    def _proceed(self, client: _Client) -> None:
        """Hand a complete request to a worker, or wait for the rest of it."""
        try:
            request = _parse(client)
        except _Refused as refused:
            client.keep = False
            self._reply(client, _response(MetadataResponse(status=refused.status), keep=False, head=False))
            return
        if request is not None:
            client.busy = True
            self._selector.unregister(client.connection)
            self._workers.submit(self._answer, client, request)

    def _answer(self, client: _Client, request: MetadataRequest) -> None:
        try:
            answer = self._resolver(request)
            data = _response(answer, keep=client.keep, head=request.method == "HEAD")
        except Exception:  # whatever the resolver does, the guest gets an answer and the operator a record
            _LOG.exception("metadata for %s at %s failed", request.client_ip, client.place)
            answer = MetadataResponse(status=HTTPStatus.INTERNAL_SERVER_ERROR)
            data = _response(answer, keep=client.keep, head=request.method == "HEAD")

        def hand_back() -> None:
            if client in self._clients:
                client.busy = False
                self._selector.register(client.connection, selectors.EVENT_READ, client)
                self._reply(client, data)

        self._orders.append(hand_back)
        self._ring()

    def _reply(self, client: _Client, data: bytes) -> None:
        client.unsent = data
        client.deadline = time.monotonic() + SECONDS
        try:
            self._send(client)
        except BlockingIOError:
            self._selector.modify(client.connection, selectors.EVENT_WRITE, client)
        except OSError:
            self._drop(client)

    def _send(self, client: _Client) -> None:
        sent = client.connection.send(client.unsent)
        client.unsent = client.unsent[sent:]
        if client.unsent:
            self._selector.modify(client.connection, selectors.EVENT_WRITE, client)
        elif not client.keep:
            self._drop(client)
        else:
            client.deadline = time.monotonic() + SECONDS
            self._selector.modify(client.connection, selectors.EVENT_READ, client)
            if client.received:
                self._proceed(client)


def _parse(client: _Client) -> MetadataRequest | None:
    """The first request in what was received, which is then taken out; None while it is incomplete."""
    data = client.received
    end = data.find(b"\r\n\r\n")
    if end < 0 and len(data) <= HEAD_LIMIT:
        return None
    if end < 0 or end > HEAD_LIMIT:
        raise _Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    first, *lines = data[:end].decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or words[2] not in ("HTTP/1.0", "HTTP/1.1"):
        raise _Refused(HTTPStatus.BAD_REQUEST)
    method, path, version = words
    if method not in _METHODS:
        raise _Refused(HTTPStatus.METHOD_NOT_ALLOWED)
    if path.startswith("http://"):
        path = "/" + path[7:].partition("/")[2]
    if not path.startswith("/") or not path.isprintable():
        raise _Refused(HTTPStatus.BAD_REQUEST)
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or not name or name != name.strip() or (name == "content-length" and name in headers):
            raise _Refused(HTTPStatus.BAD_REQUEST)
        headers[name] = value.strip()
    if "transfer-encoding" in headers:
        raise _Refused(HTTPStatus.LENGTH_REQUIRED)
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise _Refused(HTTPStatus.BAD_REQUEST)
    if len(length) > 9 or int(length) > BODY_LIMIT:
        raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    if len(data) < end + 4 + int(length):
        return None
    body = bytes(data[end + 4 : end + 4 + int(length)])
    del data[: end + 4 + int(length)]
    wish = headers.get("connection", "").lower()
    client.keep = wish == "keep-alive" if version == "HTTP/1.0" else wish != "close"
    kind, identifier = client.place
    return MetadataRequest(
        network_id=identifier if kind == "network" else None,
        router_id=identifier if kind == "router" else None,
        client_ip=client.address,
        method=method,
        path=path,
        headers=headers,
        body=body,
    )


def _response(answer: MetadataResponse, *, keep: bool, head: bool) -> bytes:
    status = HTTPStatus(answer.status)
    if not answer.content_type.isprintable():
        raise ValueError("a content type with control characters")
    body = answer.body or (b"" if status < 400 else f"{status} {status.phrase}\n".encode())
    lines = (
        f"HTTP/1.1 {status} {status.phrase}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(body)}",
        f"Connection: {'keep-alive' if keep else 'close'}",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if head else body)
