"""Connections to another node that are kept for further requests, and what is known of the node's health.

A node that cannot be reached, or does not answer in time, counts as down for a second, and for twice as long each time
that it still is, up to sixteen. Then one request is let through to try; the others are refused until it succeeds.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from altostack.objectstore.storage import DeviceGone

_CONNECT: Final = 0.7  # seconds
_IDLE: Final = 60.0  # seconds after which an unused connection is given up
_KEPT: Final = 64  # idle connections
_LARGEST_HEAD: Final = 1 << 20
_LONGEST_PAUSE: Final = 16.0  # seconds
_TRIAL: Final = 12.0  # seconds after which a trial without a result is given up


class Broken(Exception):
    """A connection broke off. ``fresh``: it was new, or the node had begun to answer; else another try is due."""

    def __init__(self, why: str, *, fresh: bool) -> None:
        self.fresh = fresh
        super().__init__(why)


class Late(Broken):
    """The node did not answer in time."""

    def __init__(self) -> None:
        super().__init__("it did not answer in time", fresh=True)


class Head:
    """Of an answer."""

    __slots__ = ("headers", "length", "status")

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        self.status, self.headers = status, headers
        self.length = int(headers.get("content-length", "0"))


class Link:
    """One connection. Every method raises Broken."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""
        self._answered = False
        self.used = False  # for a request before this one
        self.since = time.monotonic()

    def patience(self, seconds: float) -> None:
        """How long the node may be silent."""
        self._sock.settimeout(seconds)

    def send(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except TimeoutError:
            raise Late from None
        except OSError as error:
            raise Broken(str(error), fresh=not self.used) from error

    def head(self) -> Head:
        """Wait for the head of the answer, or for ``100 Continue``."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > _LARGEST_HEAD:
                raise Broken("its answer has no end", fresh=True)
            self._receive()
        lines = self._buffer[:end].decode("utf-8", "surrogateescape").split("\r\n")
        self._buffer = self._buffer[end + 4 :]
        version, _, rest = lines[0].partition(" ")
        if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
            raise Broken("it does not speak HTTP", fresh=True)
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        try:
            return Head(int(rest[:3]), headers)
        except ValueError:
            raise Broken("its answer is not understood", fresh=True) from None

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes of the answer's body, at least one."""
        if not self._buffer:
            self._receive(size)
        part, self._buffer = self._buffer[:size], self._buffer[size:]
        return part

    def read_all(self, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        parts = []
        while size:
            part = self.read(size)
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _receive(self, size: int = 1 << 16) -> None:
        try:
            part = self._sock.recv(max(size, 1 << 16))
        except TimeoutError:
            raise Late from None
        except OSError as error:
            raise Broken(str(error), fresh=self._answered or not self.used) from error
        if not part:
            raise Broken("it closed the connection", fresh=self._answered or not self.used)
        self._answered = True
        self._buffer += part

    def idle(self) -> bool:
        """Whether it can be used for another request."""
        if self._buffer or time.monotonic() - self.since > _IDLE:
            return False
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return not poll.poll(0)  # readable: closed by the other side

    def rest(self) -> None:
        """A request is answered."""
        self.used, self._answered = True, False
        self.since = time.monotonic()

    def close(self) -> None:
        self._sock.close()


class Links:
    """The connections to one node."""

    def __init__(self, host: str, port: int, *, now: Callable[[], float] = time.monotonic) -> None:
        self.host, self.port, self._now = host, port, now
        self._idle: list[Link] = []
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._down_until = 0.0
        self._pause = 0.0  # seconds, of the last time that it was down; 0: it is up

    def take(self, *, fresh: bool = False) -> Link:
        """A connection that nobody else uses. ``fresh``: a new one. Raises DeviceGone."""
        with self._lock:
            if self._process != os.getpid():  # the connections are those of the process that forked this one
                self._idle, self._process = [], os.getpid()
            if self._pause:
                if self._now() < self._down_until:
                    raise DeviceGone(f"the node {self.host}:{self.port} is down")
                self._down_until = self._now() + _TRIAL  # whoever comes while this request tries
            link = self._idle.pop() if self._idle and not fresh else None
        while link is not None:
            if link.idle():
                return link
            link.close()
            with self._lock:
                link = self._idle.pop() if self._idle else None
        try:
            sock = socket.create_connection((self.host, self.port), _CONNECT)
        except OSError as error:
            self.down()
            raise DeviceGone(f"the node {self.host}:{self.port} cannot be reached: {error}") from error
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Link(sock)

    def give(self, link: Link) -> None:
        """The connection's request is answered, and the answer is read."""
        self.up()
        link.rest()
        with self._lock:
            if len(self._idle) < _KEPT and self._process == os.getpid():
                self._idle.append(link)
                return
        link.close()

    def up(self) -> None:
        """The node answered."""
        self._pause = 0.0

    def down(self) -> None:
        """The node cannot be reached or does not answer."""
        with self._lock:
            self._pause = min(max(1.0, self._pause * 2), _LONGEST_PAUSE)
            self._down_until = self._now() + self._pause
            idle, self._idle = self._idle, []
        for link in idle:
            with contextlib.suppress(OSError):
                link.close()

    @property
    def doubtful(self) -> bool:
        """Whether it was down when somebody asked last."""
        return self._pause > 0

    def close(self) -> None:
        """Close what is idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for link in idle:
            link.close()
