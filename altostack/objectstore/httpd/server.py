"""The object store's HTTP server: a `Handler` on a listening socket, in threads of this process.

What a general server does not give us is what an object store lives on: files go out by sendfile(2), header values
and paths arrive as they were sent, a handler may refuse an upload before the client sends it (``Expect:
100-continue``), and a body that was cut off is known from a complete one. Parsing of request heads is left to llhttp
(httptools).

Idle connections wait in one epoll set; each thread takes whichever becomes ready. A request occupies its thread until
it is answered, so ``threads`` is how many requests run at a time; more wait their turn. HTTP/1.1 (RFC 9112).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Final

from altostack.kit import context as contexts
from altostack.objectstore.http import ClientGone, Extent, Handler, Refusal, Request, Response
from altostack.objectstore.httpd.answer import NO_BODY, head_of, send_chunks, send_extent
from altostack.objectstore.httpd.connection import Connection
from altostack.objectstore.seats import Seats

log = logging.getLogger(__name__)
_LINGER: Final = 30.0  # seconds for which what a client goes on sending is thrown away at most, and
_LINGER_IDLE: Final = 5.0  # seconds without anything after which nobody waits any longer
_READY: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLONESHOT


class Server:
    """Serves until `stop`.

    threads: requests that run at a time; of those that get on without waiting, only ``seats`` (`seats`). patience:
    seconds that a client may be silent inside a request; idle: and between requests. A client that goes on sending
    what nobody reads is listened to for some seconds after the answer: a connection that is closed at once would
    take the answer with it (RFC 9112, 9.6). done: called after each answer with (request, response, bytes sent,
    seconds) for the access log.
    """

    def __init__(
        self,
        handler: Handler,
        listener: socket.socket,
        *,
        threads: int = 64,
        seats: int = 2,
        patience: float = 60.0,
        idle: float = 120.0,
        done: Callable[[Request, Response, int, float], None] | None = None,
    ) -> None:
        self._handler, self._listener, self._done = handler, listener, done
        self._patience, self._idle = patience, idle
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self._connections: dict[int, Connection] = {}
        self._stopping = threading.Event()
        self._seats = Seats(seats)
        self._threads = [
            threading.Thread(target=self._work, daemon=True, name=f"object-{number}")
            for number in range(threads)
        ]
        self._lock, self._inside = threading.Lock(), threads
        self._sweeper = threading.Thread(target=self._sweep, daemon=True, name="object-idle")
        self._watcher = threading.Thread(target=self._seats.watch, daemon=True, name="object-seats")

    def start(self) -> Server:
        """Accept connections."""
        self._listener.setblocking(False)
        self._epoll.register(self._listener.fileno(), select.EPOLLIN | select.EPOLLEXCLUSIVE)
        self._epoll.register(self._wake, select.EPOLLIN)
        for thread in (*self._threads, self._sweeper, self._watcher):
            thread.start()
        return self

    def stop(self, grace: float = 5.0) -> None:
        """Take no more requests, let those under way end for at most ``grace`` seconds, close everything.

        May be called again.
        """
        if self._stopping.is_set():
            return
        self._stopping.set()
        os.eventfd_write(self._wake, 1)
        self._seats.close()
        until = time.monotonic() + grace
        for thread in (*self._threads, self._sweeper, self._watcher):
            thread.join(max(0.0, until - time.monotonic()))
        for connection in list(self._connections.values()):
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)  # wakes whoever waits for it
            if not connection.busy:
                self._drop(connection)
        until = time.monotonic() + 0.5
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    # ---- threads

    def _work(self) -> None:
        try:
            self._take()
        finally:
            with self._lock:
                self._inside -= 1
                last = self._inside == 0
            if last:  # nobody waits there any more
                self._epoll.close()
                os.close(self._wake)

    def _take(self) -> None:
        """Serve whichever connection becomes ready, until it is over."""
        door, sitter = self._listener.fileno(), self._seats.sitter()
        while not self._stopping.is_set():
            sitter.sit()
            try:
                ready = self._epoll.poll(None, 1)
            except InterruptedError:
                continue
            for number, _ in ready:
                if number == door:
                    self._accept()
                elif number != self._wake and (connection := self._connections.get(number)) is not None:
                    sitter.begin()
                    try:
                        self._serve(connection)
                    except Exception:
                        log.exception("a connection failed")
                        self._drop(connection)
                    finally:
                        sitter.end()

    def _accept(self) -> None:
        for _ in range(16):
            try:
                sock, address = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    log.error("no file descriptor left for another connection")
                    time.sleep(0.05)
                return
            patience = struct.pack("ll", int(self._patience), int(self._patience % 1 * 1_000_000))
            with contextlib.suppress(OSError):  # gone already
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
                if sock.family in (socket.AF_INET, socket.AF_INET6):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(True)
            connection = Connection(sock, str(address[0]) if address else "")
            self._connections[connection.number] = connection
            self._epoll.register(connection.number, _READY)

    def _sweep(self) -> None:
        """Close what has been idle for too long; a head that trickles in counts as idle from its first byte."""
        while not self._stopping.wait(min(5.0, self._patience / 4, self._idle / 4)):
            now = time.monotonic()
            for connection in list(self._connections.values()):
                limit = self._patience if connection.buffer or connection.skip else self._idle
                if connection.closing:
                    limit = min(_LINGER_IDLE, connection.closing - connection.since)
                if not connection.busy and now - connection.since > limit:
                    with contextlib.suppress(OSError):
                        connection.sock.shutdown(socket.SHUT_RDWR)  # its thread will see and close it

    def _drop(self, connection: Connection) -> None:
        self._connections.pop(connection.number, None)
        connection.close()

    def _await(self, connection: Connection) -> None:
        """Give the connection back to the epoll set."""
        connection.busy = False
        with contextlib.suppress(OSError):  # closed by the sweeper
            self._epoll.modify(connection.number, _READY)

    def _end(self, connection: Connection) -> None:
        """Close the connection; if its client may still be sending, as soon as it has had time to see the answer."""
        body = connection.body
        sending = bool(connection.buffer) or connection.broken or (body is not None and not body.over)
        if self._stopping.is_set() or not (sending or connection.waiting()):
            self._drop(connection)
            return
        try:
            connection.sock.shutdown(socket.SHUT_WR)
        except OSError:  # it has gone
            self._drop(connection)
            return
        connection.buffer, connection.body = b"", None
        connection.since = time.monotonic()
        connection.closing = connection.since + _LINGER
        self._await(connection)

    # ---- requests

    def _serve(self, connection: Connection) -> None:
        """Answer what has come in on a connection that is ready to be read."""
        connection.busy = True
        fresh = not connection.buffer
        if not connection.fill():
            self._drop(connection)
            return
        if connection.closing:
            connection.buffer = b""
            if time.monotonic() > connection.closing:
                self._drop(connection)
                return
        if fresh:
            connection.since = time.monotonic()
        while connection.wanted():
            bare = connection.buffer[:5] == b"HEAD "
            try:
                request = connection.request()
            except Refusal as refusal:
                connection.broken = True
                self._send(connection, bare, refusal.response(), keep=False)
                self._end(connection)
                return
            if request is None:
                break  # the head is not complete
            if not self._answer(connection, request) or self._stopping.is_set():
                self._end(connection)
                return
            connection.since = time.monotonic()
        self._await(connection)

    def _answer(self, connection: Connection, request: Request) -> bool:
        """Run the handler and send what it says. Whether the connection can be used again."""
        began = time.perf_counter()
        token = contexts.set_request_id(request.trans_id)
        try:
            try:
                response = self._handler(request)
            except Refusal as refusal:
                response = refusal.response()
            except ClientGone:
                response = Refusal(499).response()
            except Exception:
                log.exception("unexpected at %s %s", request.method, request.path)
                response = Refusal(500).response()
            contexts.set_request_id(
                request.trans_id
            )  # what is logged while the answer is sent is of this request
            body = connection.body
            # An answer that is made while it is sent may still read the request's body.
            done = isinstance(response.body, bytes | Extent)
            keep = connection.keep and (body is None or (body.finish() if done else body.over))
            keep, sent = self._send(connection, request.method == "HEAD", response, keep=keep)
            if self._done is not None:
                self._done(request, response, sent, time.perf_counter() - began)
            return keep
        finally:
            contexts.reset_request_id(token)

    def _send(
        self, connection: Connection, bare: bool, response: Response, *, keep: bool
    ) -> tuple[bool, int]:
        """(whether the connection can be used again, bytes of the body that were sent). bare: HEAD was asked for."""
        sock, content, sent = connection.sock, response.body, 0
        try:
            head, length, keep, in_chunks = head_of(response, bare=bare, keep=keep, old=connection.old)
            if bare or response.status in NO_BODY:
                sock.sendall(head)
            elif isinstance(content, bytes):
                sock.sendall(head + content)
                sent = len(content)
            elif isinstance(content, Extent):
                sent = send_extent(sock, head, content)
                keep = keep and sent == content.length
            else:
                sent = send_chunks(sock, head, content, length, in_chunks)
                keep = keep and (length is None or sent == length)
        except OSError:  # the client has gone or was silent for too long
            keep = False
        except Exception:
            # The head is out: all that can be said now is that the body is not complete.
            log.exception("a response broke off")
            keep = False
        finally:
            response.close()
        return keep, sent


def listen(host: str, port: int, *, backlog: int = 1024) -> socket.socket:
    """A listening TCP socket; port 0 takes a free one. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    return listener
