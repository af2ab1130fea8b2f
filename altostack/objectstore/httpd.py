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
from collections.abc import Callable, Iterable
from email.utils import formatdate
from functools import lru_cache
from typing import Any, Final

import httptools

from altostack.kit import context as contexts
from altostack.objectstore.http import (
    CHUNK,
    REASONS,
    Bytes,
    ClientGone,
    Extent,
    Handler,
    Refusal,
    Request,
    Response,
    Unsaid,
)

log = logging.getLogger(__name__)

MAX_HEAD: Final = 64 << 10  # bytes of a request line with its headers
MAX_HEADERS: Final = 512
_DRAIN: Final = (
    64 << 10
)  # an unread body up to this size is read and thrown away, so that the connection can be kept
_EMPTY: Final = Bytes()
_SMALL: Final = 64 << 10  # a file this small is read and sent together with the head
_NO_BODY: Final = frozenset({204, 304})


class Server:
    """Serves until `stop`.

    threads: requests that run at a time. patience: seconds that a client may be silent inside a request; idle: and
    between requests. done: called after each answer with (request, response, bytes sent, seconds) for the access log.
    """

    def __init__(
        self,
        handler: Handler,
        listener: socket.socket,
        *,
        threads: int = 32,
        patience: float = 60.0,
        idle: float = 120.0,
        done: Callable[[Request, Response, int, float], None] | None = None,
    ) -> None:
        self._handler, self._listener, self._done = handler, listener, done
        self._patience, self._idle = patience, idle
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self._connections: dict[int, _Connection] = {}
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, daemon=True, name=f"object-{number}")
            for number in range(threads)
        ]
        self._sweeper = threading.Thread(target=self._sweep, daemon=True, name="object-idle")

    def start(self) -> Server:
        """Accept connections."""
        self._listener.setblocking(False)
        self._epoll.register(self._listener.fileno(), select.EPOLLIN | select.EPOLLEXCLUSIVE)
        self._epoll.register(self._wake, select.EPOLLIN)
        for thread in (*self._threads, self._sweeper):
            thread.start()
        return self

    def stop(self, grace: float = 5.0) -> None:
        """Take no more requests, let those under way end for at most ``grace`` seconds, close everything."""
        self._stopping.set()
        os.eventfd_write(self._wake, 1)
        until = time.monotonic() + grace
        for thread in (*self._threads, self._sweeper):
            thread.join(max(0.0, until - time.monotonic()))
        for connection in list(self._connections.values()):
            connection.close()
        if not any(thread.is_alive() for thread in self._threads):
            self._epoll.close()
            os.close(self._wake)

    # ---- threads

    def _work(self) -> None:
        door = self._listener.fileno()
        while not self._stopping.is_set():
            try:
                ready = self._epoll.poll(None, 1)
            except InterruptedError:
                continue
            for number, _ in ready:
                if number == door:
                    self._accept()
                elif number != self._wake and (connection := self._connections.get(number)) is not None:
                    try:
                        self._serve(connection)
                    except Exception:
                        log.exception("a connection failed")
                        self._drop(connection)

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
            patience = struct.pack("ll", int(self._patience), 0)
            with contextlib.suppress(OSError):  # gone already
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
                if sock.family in (socket.AF_INET, socket.AF_INET6):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(True)
            connection = _Connection(sock, str(address[0]) if address else "")
            self._connections[connection.number] = connection
            self._epoll.register(connection.number, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLONESHOT)

    def _sweep(self) -> None:
        """Close what has been idle for too long; a head that trickles in counts as idle from its first byte."""
        while not self._stopping.wait(5.0):
            now = time.monotonic()
            for connection in list(self._connections.values()):
                limit = self._patience if connection.buffer else self._idle
                if not connection.busy and now - connection.since > limit:
                    with contextlib.suppress(OSError):
                        connection.sock.shutdown(socket.SHUT_RDWR)  # its thread will see and close it

    def _drop(self, connection: _Connection) -> None:
        self._connections.pop(connection.number, None)
        connection.close()

    # ---- requests

    def _serve(self, connection: _Connection) -> None:
        """Answer what has come in on a connection that is ready to be read."""
        connection.busy = True
        fresh = not connection.buffer
        if not connection.fill():
            self._drop(connection)
            return
        if fresh:
            connection.since = time.monotonic()
        while True:
            try:
                request = connection.request()
            except Refusal as refusal:
                self._send(connection, None, refusal.response(), keep=False)
                self._drop(connection)
                return
            if request is None:
                break  # the head is not complete
            if not self._answer(connection, request) or self._stopping.is_set():
                self._drop(connection)
                return
            connection.since = time.monotonic()
            if not connection.buffer:
                break
        connection.busy = False
        with contextlib.suppress(OSError):  # closed by the sweeper
            self._epoll.modify(connection.number, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLONESHOT)

    def _answer(self, connection: _Connection, request: Request) -> bool:
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
            keep, sent = self._send(connection, request, response, keep=keep)
            if self._done is not None:
                self._done(request, response, sent, time.perf_counter() - began)
            return keep
        finally:
            contexts.reset_request_id(token)

    def _send(
        self, connection: _Connection, request: Request | None, response: Response, *, keep: bool
    ) -> tuple[bool, int]:
        """(whether the connection can be used again, bytes of the body that were sent)."""
        content, headers = response.body, response.headers
        length = response.length
        bare = request is not None and request.method == "HEAD"
        silent = bare or response.status in _NO_BODY
        lines = [f"HTTP/1.1 {response.status} {REASONS.get(response.status, 'Unknown')}\r\n"]
        for name, value in headers.items():
            if "\r" in value or "\n" in value or "\0" in value or "\r" in name or "\n" in name:
                log.error("the header %r was left out: it holds a line end", name)
                continue
            if name not in ("content-length", "connection", "transfer-encoding"):
                lines.append(f"{_title(name)}: {value}\r\n")
        in_chunks = False
        if response.status == 204:
            length = None
        elif bare:
            length = int(headers["content-length"]) if "content-length" in headers else length
            lines.append(f"Content-Length: {length or 0}\r\n")
        elif response.status == 304:
            length = None
        elif length is None:
            in_chunks = not connection.old
            keep = keep and in_chunks
            if in_chunks:
                lines.append("Transfer-Encoding: chunked\r\n")
        else:
            lines.append(f"Content-Length: {length}\r\n")
        lines.append(f"Date: {_date(int(time.time()))}\r\n")
        if not keep:
            lines.append("Connection: close\r\n")
        elif connection.old:
            lines.append("Connection: keep-alive\r\n")
        lines.append("\r\n")
        head = "".join(lines).encode("utf-8", "surrogateescape")
        sock, sent = connection.sock, 0
        try:
            if silent:
                sock.sendall(head)
            elif isinstance(content, bytes):
                sock.sendall(head + content)
                sent = len(content)
            elif isinstance(content, Extent):
                sent = _send_extent(sock, head, content)
                keep = keep and sent == content.length
            else:
                sent = _send_chunks(sock, head, content, length, in_chunks)
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


def _send_extent(sock: socket.socket, head: bytes, extent: Extent) -> int:
    if extent.length <= _SMALL:
        content = os.pread(extent.descriptor, extent.length, extent.offset)
        sock.sendall(head + content)
        return len(content)
    sock.sendall(head, socket.MSG_MORE)
    at, left = extent.offset, extent.length
    out, into = sock.fileno(), extent.descriptor
    while left:
        sent = os.sendfile(out, into, at, min(left, 1 << 30))
        if sent == 0:
            break  # the file is shorter than it was
        at += sent
        left -= sent
    return extent.length - left


def _send_chunks(
    sock: socket.socket, head: bytes, content: Iterable[bytes], length: int | None, framed: bool
) -> int:
    sent = 0
    for part in content:
        if not part:
            continue
        if length is not None and sent + len(part) > length:
            log.error("a response's body is longer than its Content-Length; the rest is left out")
            part = part[: length - sent]
        data = b"%x\r\n%b\r\n" % (len(part), part) if framed else part
        sock.sendall(head + data if head else data)
        head = b""
        sent += len(part)
    if head or framed:
        sock.sendall(head + (b"0\r\n\r\n" if framed else b""))
    return sent


@lru_cache(maxsize=4096)
def _title(name: str) -> str:
    if name.startswith("x-amz-"):  # S3's clients take the names of a user's metadata as they are written
        return name
    return "-".join(part.capitalize() for part in name.split("-"))


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


class _Connection:
    """One client's connection. ``buffer``: what came in and is not used yet. ``old``: the request is HTTP/1.0."""

    __slots__ = ("body", "buffer", "busy", "keep", "number", "old", "remote", "since", "sock")

    def __init__(self, sock: socket.socket, remote: str) -> None:
        self.sock, self.remote = sock, remote
        self.number = sock.fileno()
        self.buffer = b""
        self.body: _Incoming | None = None
        self.keep = True
        self.old = False
        self.busy = False
        self.since = time.monotonic()

    def close(self) -> None:
        self.sock.close()

    def fill(self, size: int = 64 << 10) -> bool:
        """Read what is there; False at the end of the stream."""
        try:
            part = self.sock.recv(size)
        except OSError:  # reset, or silent for too long
            return False
        self.buffer += part
        return bool(part)

    def request(self) -> Request | None:
        """The request whose head is in the buffer, None while it is not complete. Raises Refusal for a broken one."""
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self.buffer) > MAX_HEAD:
                raise Refusal(431, "The request's headers are too large.")
            if self.buffer in (
                b"\r\n",
                b"\n",
            ):  # RFC 9112, 2.2: an empty line before a request is to be ignored
                self.buffer = b""
            return None
        if end > MAX_HEAD:
            raise Refusal(431, "The request's headers are too large.")
        head = _Head()
        parser = httptools.HttpRequestParser(head)
        try:
            parser.feed_data(self.buffer[: end + 4])
        except httptools.HttpParserUpgrade:
            pass  # nobody is obliged to change the protocol
        except httptools.HttpParserError:
            raise Refusal(400, "This is not an HTTP request.") from None
        self.buffer = self.buffer[end + 4 :]
        if not head.complete:
            raise Refusal(400, "This is not an HTTP request.")
        version = parser.get_http_version()
        self.old = version == "1.0"
        headers = head.headers
        said = headers.get("connection", "").lower()
        self.keep = "close" not in said and (not self.old or "keep-alive" in said)
        self.body = self._incoming(headers)
        target, _, query = head.url.partition(b"?")
        try:
            path, query_string = target.decode(), query.decode()
        except UnicodeDecodeError:
            raise Refusal(412, "Invalid UTF8 or contains NULL") from None
        if not path.startswith("/"):  # absolute form: RFC 9112, 3.2.2
            path = "/" + path.partition("://")[2].partition("/")[2]
        return Request(
            parser.get_method().decode("ascii"), path, query_string=query_string, headers=headers,
            body=self.body or (Bytes() if "content-length" in headers else Unsaid()), remote=self.remote,
        )  # fmt: skip

    def _incoming(self, headers: dict[str, str]) -> _Incoming | None:
        coding = headers.get("transfer-encoding")
        said = headers.get("content-length")
        if coding is not None:
            if coding.strip().lower() != "chunked" or self.old:
                raise Refusal(501, "The only transfer coding that is understood is chunked.")
            if said is not None:
                raise Refusal(400, "A request has a Content-Length or a Transfer-Encoding, not both.")
            return _Incoming(self, None, headers)
        if said is None:
            return None
        if not (said.isascii() and said.isdecimal()) or len(said) > 18:
            raise Refusal(400, "Invalid Content-Length.")
        return _Incoming(self, int(said), headers) if said != "0" else None


class _Head:
    """Collects what llhttp finds in a request's head."""

    __slots__ = ("complete", "count", "headers", "url")

    def __init__(self) -> None:
        self.url = b""
        self.headers: dict[str, str] = {}
        self.count = 0
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.count += 1
        if self.count > MAX_HEADERS:
            raise Refusal(431, "The request has too many headers.")
        key = name.decode("latin-1").lower()
        text = value.decode("utf-8", "surrogateescape")
        held = self.headers.get(key)
        self.headers[key] = text if held is None else f"{held},{text}"

    def on_headers_complete(self) -> None:
        self.complete = True


class _Incoming:
    """A request's body as it comes in. ``trailers``: the fields after the last chunk, lower-case names."""

    __slots__ = ("_connection", "_expected", "_left", "_over", "length", "trailers")

    def __init__(self, connection: _Connection, length: int | None, headers: dict[str, str]) -> None:
        self._connection = connection
        self.length = length
        self._left = length if length is not None else 0  # of the whole body, or of the current chunk
        self._over = False
        self._expected = headers.get("expect", "").lower() == "100-continue"
        self.trailers: dict[str, str] = {}

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        if self._over or size == 0:
            return b""
        if self._expected:
            self._expected = False
            try:
                self._connection.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            except OSError as error:
                raise ClientGone("the client has gone") from error
        if self.length is not None:
            return self._counted(size)
        parts: list[bytes] = []
        while size > 0 and not self._over:
            if self._left == 0:
                self._next_chunk()
                continue
            part = self._some(min(size, self._left))
            self._left -= len(part)
            if self._left == 0 and self._line(2) != b"":
                raise Refusal(400, "A chunk of the body is longer than it says.")
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @property
    def over(self) -> bool:
        """Whether it was read to its end."""
        return self._over

    def _counted(self, size: int) -> bytes:
        want = min(size, self._left)
        connection = self._connection
        if connection.buffer:
            part = connection.buffer[:want]
            connection.buffer = connection.buffer[len(part) :]
        else:
            part = self._receive(want)
        self._left -= len(part)
        if len(part) < want:  # fill up: whoever reads in large pieces is spared the small ones
            parts = [part]
            missing = want - len(part)
            while missing:
                part = self._receive(missing)
                missing -= len(part)
                self._left -= len(part)
                parts.append(part)
            part = b"".join(parts)
        self._over = self._left == 0
        return part

    def _receive(self, size: int) -> bytes:
        try:
            part = self._connection.sock.recv(size)
        except OSError as error:
            self._lost()
            raise ClientGone("the client has gone or was silent for too long") from error
        if not part:
            self._lost()
            raise ClientGone("the request body ended early")
        return part

    def _lost(self) -> None:
        self._over = True
        self._connection.keep = False

    def _some(self, size: int) -> bytes:
        connection = self._connection
        if connection.buffer:
            part, connection.buffer = connection.buffer[:size], connection.buffer[size:]
            return part
        return self._receive(size)

    def _line(self, limit: int = 4096) -> bytes:
        """The next line without its end."""
        connection = self._connection
        while (end := connection.buffer.find(b"\r\n")) < 0:
            if len(connection.buffer) > limit:
                self._lost()
                raise Refusal(400, "A line in the body's framing is too long.")
            connection.buffer += self._receive(CHUNK)
        line, connection.buffer = connection.buffer[:end], connection.buffer[end + 2 :]
        if len(line) > limit:
            self._lost()
            raise Refusal(400, "A line in the body's framing is too long.")
        return line

    def _next_chunk(self) -> None:
        size = self._line().partition(b";")[0].strip()
        if not size or len(size) > 15 or size.strip(b"0123456789abcdefABCDEF"):
            self._lost()
            raise Refusal(400, "A chunk's size is not a hexadecimal number.")
        self._left = int(size, 16)
        if self._left:
            return
        self._over = True
        while line := self._line():
            name, colon, value = line.partition(b":")
            if not colon or len(self.trailers) > MAX_HEADERS:
                self._lost()
                raise Refusal(400, "A trailer of the body is broken.")
            self.trailers[name.decode("latin-1").lower()] = value.strip().decode("utf-8", "surrogateescape")

    def finish(self) -> bool:
        """Read what the handler left unread, if that is little; whether the connection can be used again."""
        if self._over:
            return True
        if self._expected:
            return False  # the client may send the body or not: nobody can know
        try:
            left = _DRAIN
            while left > 0 and not self._over:
                left -= len(self.read(min(left, CHUNK)))
        except (ClientGone, Refusal):
            return False
        return self._over


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


def serve(
    handler: Handler,
    listener: socket.socket,
    *,
    stop: threading.Event,
    ready: Callable[[], None] | None = None,
    **options: Any,
) -> None:
    """Serve until ``stop`` is set; ``options`` as for `Server`."""
    server = Server(handler, listener, **options).start()
    if ready is not None:
        ready()
    stop.wait()
    server.stop()
