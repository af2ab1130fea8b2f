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
import re
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
from altostack.objectstore.seats import Seats

log = logging.getLogger(__name__)

MAX_HEAD: Final = 64 << 10  # bytes of a request line with its headers
MAX_HEADERS: Final = 512
_LINE: Final = 4096  # bytes of a line in a body's framing
_DRAIN: Final = 64 << 10  # an unread body up to this size is thrown away, so that the connection can be kept
_LINGER: Final = 30.0  # seconds for which what a client goes on sending is thrown away at most, and
_LINGER_IDLE: Final = 5.0  # seconds without anything after which nobody waits any longer
_EMPTY: Final = Bytes()
_SMALL: Final = 64 << 10  # a file this small is read and sent together with the head
_NO_BODY: Final = frozenset({204, 304})
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
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
        self._connections: dict[int, _Connection] = {}
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
            connection = _Connection(sock, str(address[0]) if address else "")
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

    def _drop(self, connection: _Connection) -> None:
        self._connections.pop(connection.number, None)
        connection.close()

    def _await(self, connection: _Connection) -> None:
        """Give the connection back to the epoll set."""
        connection.busy = False
        with contextlib.suppress(OSError):  # closed by the sweeper
            self._epoll.modify(connection.number, _READY)

    def _end(self, connection: _Connection) -> None:
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

    def _serve(self, connection: _Connection) -> None:
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
            keep, sent = self._send(connection, request.method == "HEAD", response, keep=keep)
            if self._done is not None:
                self._done(request, response, sent, time.perf_counter() - began)
            return keep
        finally:
            contexts.reset_request_id(token)

    def _send(
        self, connection: _Connection, bare: bool, response: Response, *, keep: bool
    ) -> tuple[bool, int]:
        """(whether the connection can be used again, bytes of the body that were sent). bare: HEAD was asked for."""
        sock, content, sent = connection.sock, response.body, 0
        try:
            head, length, keep, in_chunks = _head(response, bare=bare, keep=keep, old=connection.old)
            if bare or response.status in _NO_BODY:
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


def _head(response: Response, *, bare: bool, keep: bool, old: bool) -> tuple[bytes, int | None, bool, bool]:
    """(the head, the length that it says, whether the connection can be used again, whether chunks follow)."""
    headers, length = response.headers, response.length
    lines = [f"HTTP/1.1 {response.status} {REASONS.get(response.status, 'Unknown')}\r\n"]
    for name, value in headers.items():
        title = _title(name)
        if not title or "\r" in value or "\n" in value or "\0" in value:
            log.error("the header %r was left out: it holds what no header may hold", name)
            continue
        if name not in ("content-length", "connection", "transfer-encoding"):
            lines.append(f"{title}: {value}\r\n")
    in_chunks = False
    if bare and "content-length" in headers:
        length = int(headers["content-length"])
    if response.status in _NO_BODY and not (bare and response.status != 204):
        length = None
    elif length is not None:
        lines.append(f"Content-Length: {length}\r\n")
    elif not bare:
        in_chunks = not old
        keep = keep and in_chunks
        if in_chunks:
            lines.append("Transfer-Encoding: chunked\r\n")
    lines.append(f"Date: {_date(int(time.time()))}\r\n")
    if not keep:
        lines.append("Connection: close\r\n")
    elif old:
        lines.append("Connection: keep-alive\r\n")
    lines.append("\r\n")
    text = "".join(lines)
    try:
        return text.encode("utf-8", "surrogateescape"), length, keep, in_chunks
    except UnicodeEncodeError:
        log.error("a header holds what is no Unicode text")
        return text.encode("utf-8", "replace"), length, keep, in_chunks


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
            sock.sendall(head + part[: length - sent])
            return length
        data = b"%x\r\n%b\r\n" % (len(part), part) if framed else part
        sock.sendall(head + data if head else data)
        head = b""
        sent += len(part)
    if head or framed:
        sock.sendall(head + (b"0\r\n\r\n" if framed else b""))
    return sent


@lru_cache(maxsize=4096)
def _title(name: str) -> str:
    """A header's name as people are used to see it, empty if there cannot be a header of that name (RFC 9110, 5.1)."""
    if not _TOKEN.fullmatch(name):
        return ""
    if name.startswith("x-amz-"):  # S3's clients take the names of a user's metadata as they are written
        return name
    return "-".join(part.capitalize() for part in name.split("-"))


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


class _Connection:
    """One client's connection.

    buffer: what came in and is not used yet. skip: bytes of a body to come that nobody wants. old: the request is
    HTTP/1.0. broken: what comes in cannot be understood. closing: the answer is out and what comes in is thrown away,
    until that time at the latest (0: no). since: when it was last heard of, in seconds as of `time.monotonic`.
    """

    __slots__ = (
        "body", "broken", "buffer", "busy", "closing", "keep", "number", "old", "remote", "since", "skip", "sock",
    )  # fmt: skip

    def __init__(self, sock: socket.socket, remote: str) -> None:
        self.sock, self.remote = sock, remote
        self.number = sock.fileno()
        self.buffer = b""
        self.body: _Incoming | None = None
        self.keep = True
        self.old = False
        self.busy = False
        self.broken = False
        self.skip = 0
        self.closing = 0.0
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

    def waiting(self) -> bool:
        """Whether more has come in already."""
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False

    def wanted(self) -> bool:
        """Throw away what is to be skipped; whether anything is left."""
        if self.skip and self.buffer:
            gone = min(self.skip, len(self.buffer))
            self.skip -= gone
            self.buffer = self.buffer[gone:]
        return bool(self.buffer)

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
        line = self.buffer[: self.buffer.index(b"\r\n", 2)]
        self.buffer = self.buffer[end + 4 :]
        if head.count > MAX_HEADERS:
            raise Refusal(431, "The request has too many headers.")
        if not head.complete or not line.endswith((b" HTTP/1.1", b" HTTP/1.0")):
            raise Refusal(505 if b" HTTP/" in line else 400, "HTTP/1.1 and HTTP/1.0 are spoken here.")
        self.old = line.endswith(b"0")
        headers = head.headers
        said = {option.strip() for option in headers.get("connection", "").lower().split(",")}
        self.keep = "close" not in said and (not self.old or "keep-alive" in said)
        self.body = self._incoming(headers)
        target, _, query = head.url.partition(b"?")
        try:
            path, query_string = target.decode(), query.decode()
        except UnicodeDecodeError:
            raise Refusal(412, "Invalid UTF8 or contains NULL") from None
        if not path.startswith("/"):  # absolute form: RFC 9112, 3.2.2
            host, _, rest = path.partition("://")[2].partition("/")
            path = f"/{rest}"
            if host:
                headers["host"] = host.rpartition("@")[2]
        if head.hosts > 1 or (not head.hosts and not self.old):  # RFC 9112, 3.2
            raise Refusal(400, "A request has one Host.")
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

    __slots__ = ("complete", "count", "headers", "hosts", "url")

    def __init__(self) -> None:
        self.url = b""
        self.headers: dict[str, str] = {}
        self.count = self.hosts = 0
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.count += 1
        if self.count > MAX_HEADERS:
            return  # an exception would not get through the parser
        key = name.decode("latin-1").lower()
        text = value.rstrip(b" \t").decode("utf-8", "surrogateescape")
        self.hosts += key == "host"
        held = self.headers.get(key)
        self.headers[key] = text if held is None else f"{held},{text}"

    def on_headers_complete(self) -> None:
        self.complete = True


class _Incoming:
    """A request's body as it comes in. ``trailers``: the fields after the last chunk, lower-case names."""

    __slots__ = ("_connection", "_expected", "_flags", "_left", "_over", "_trouble", "length", "trailers")

    def __init__(self, connection: _Connection, length: int | None, headers: dict[str, str]) -> None:
        self._connection = connection
        self.length = length
        self._left = length if length is not None else 0  # of the whole body, or of the current chunk
        self._over = False
        self._expected = headers.get("expect", "").lower() == "100-continue" and not connection.old
        self._flags = 0
        self._trouble: Exception | None = (
            None  # what came in is not the whole body, and nobody may take it for it
        )
        self.trailers: dict[str, str] = {}

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        if self._trouble is not None:
            raise self._trouble
        if self._over or size == 0:
            return b""
        if self._expected:
            self._expected = False
            try:
                self._connection.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            except OSError as error:
                raise self._lost("the client has gone") from error
        if self.length is not None:
            return self._counted(size)
        parts: list[bytes] = []
        while size > 0 and not self._over:
            if self._left == 0:
                self._next_chunk()
                continue
            part = self._some(min(size, self._left))
            self._left -= len(part)
            if self._left == 0 and self._line() != b"":
                raise self._broken("A chunk of the body is longer than it says.")
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
            part = self._receive(want, socket.MSG_WAITALL)
        self._left -= len(part)
        if len(part) < want:  # fill up: whoever reads in large pieces is spared the small ones
            parts = [part]
            missing = want - len(part)
            while missing:
                part = self._receive(missing, socket.MSG_WAITALL)
                missing -= len(part)
                self._left -= len(part)
                parts.append(part)
            part = b"".join(parts)
        self._over = self._left == 0
        return part

    def _receive(self, size: int, flags: int = 0) -> bytes:
        try:
            part = self._connection.sock.recv(size, self._flags | flags)
        except OSError as error:
            raise self._lost("the client has gone or was silent for too long") from error
        if not part:
            raise self._lost("the request body ended early")
        return part

    def _lost(self, why: str) -> ClientGone:
        self._connection.keep, self._over = False, True
        self._trouble = gone = ClientGone(why)
        return gone

    def _some(self, size: int) -> bytes:
        connection = self._connection
        if connection.buffer:
            part, connection.buffer = connection.buffer[:size], connection.buffer[size:]
            return part
        return self._receive(size)

    def _broken(self, why: str) -> Refusal:
        """Nothing that follows on the connection can be understood."""
        self._connection.keep, self._connection.broken = False, True
        self._trouble = refusal = Refusal(400, why)
        return refusal

    def _line(self) -> bytes:
        """The next line without its end."""
        connection = self._connection
        while (end := connection.buffer.find(b"\r\n", 0, _LINE + 2)) < 0:
            if len(connection.buffer) > _LINE + 1:
                raise self._broken("A line in the body's framing is too long.")
            connection.buffer += self._receive(_LINE)  # little: what is left over is moved at every line
        line, connection.buffer = connection.buffer[:end], connection.buffer[end + 2 :]
        if b"\n" in line or b"\r" in line or b"\0" in line:
            raise self._broken("A line in the body's framing has a broken end.")
        return line

    def _next_chunk(self) -> None:
        size = self._line().partition(b";")[0].rstrip(b" \t")
        if not size or len(size) > 15 or size.strip(b"0123456789abcdefABCDEF"):
            raise self._broken("A chunk's size is not a hexadecimal number.")
        self._left = int(size, 16)
        if self._left:
            return
        count = 0
        while line := self._line():
            name, colon, value = line.partition(b":")
            count += 1
            if not colon or count > MAX_HEADERS:
                raise self._broken("A trailer of the body is broken.")
            self.trailers[name.decode("latin-1").lower()] = value.strip().decode("utf-8", "surrogateescape")
        self._over = True

    def finish(self) -> bool:
        """Have what the handler left unread thrown away, if that is little; whether the connection can be used again.

        Nobody waits for it here: the answer does not depend on it.
        """
        if self._over:
            return True
        if self._expected:
            return False  # the client may send the body or not: nobody can know
        connection = self._connection
        if self.length is not None:
            if self._left > _DRAIN:
                return False
            connection.skip, self._over = self._left, True
            connection.wanted()
            return True
        self._flags = socket.MSG_DONTWAIT  # chunks are skipped only if they are all here
        try:
            left = _DRAIN
            while left > 0 and not self._over:
                left -= len(self.read(min(left, CHUNK)))
        except Refusal:
            return False
        except ClientGone:
            connection.broken = True
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
