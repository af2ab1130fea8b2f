"""Serve a WSGI application with Granian in this very process, on a socket somebody else has bound.

Granian's own server forks its workers from a parent; ours are forked and watched by the supervisor, so the
worker is used without that parent. Measured with Granian 2.8: request bodies and response iterators stream with
back-pressure (1 GiB up and down at a constant 33 MiB of memory), a client that goes away ends the response
iterator with `close()`. What it lacks is added here: a body that was cut off raises `UploadCut` instead of
looking complete, and lines are read correctly.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import socket
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NoReturn

LOG = logging.getLogger(__name__)

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

CHUNK: Final = 64 * 1024
_MOMENT: Final = 0.1  # seconds
_LOST_STATES: Final = frozenset({7, 8})  # TCP_CLOSE, TCP_CLOSE_WAIT in linux/tcp_states.h

_BROKEN: Final = (
    b'{"error": {"code": 500, "title": "Internal Server Error", "message": "The server failed."}}'
)


class ServeError(Exception):
    """The installed Granian cannot be used in this way."""


class UploadCut(ConnectionError):
    """The client went away before its request body was complete."""


def serve(
    app: App,
    listener: socket.socket,
    *,
    stop: threading.Event,
    threads: int = 4,
    connections: int = 2048,
    grace: float = 5.0,
    ready: Callable[[], None] | None = None,
) -> None:
    """Serve until `stop` is set, then end the requests under way, at most `grace` seconds long.

    Args:
        listener: a listening TCP socket; several processes may serve the same one.
        threads: requests that run at a time; more wait their turn.
        connections: connections open at a time, idle ones included; more wait in the listener's backlog.
        ready: called when connections are accepted.

    Raises:
        ServeError: Granian's inner interface is not the one this was written for.
    """
    done = threading.Event()
    try:
        # By name, since its type stubs describe another signature than the module has.
        futures: Any = importlib.import_module("granian._futures")
        inner: Any = importlib.import_module("granian._granian")
        http: Any = importlib.import_module("granian.http")
        listener.setblocking(False)
        signal = inner.WorkerSignal()
        signal.add_cb(done.set)
        worker = inner.WSGIWorker(
            1,  # worker id
            (None, inner.SocketHolder(listener.fileno(), False, 1024)),
            None,  # pipe for its metrics
            1,  # threads of the network runtime
            1,  # and its helpers for blocking work
            threads,
            30,  # seconds after which an idle thread ends
            connections,
            "1",  # HTTP/1.1
            http.HTTP1Settings(),
            None,  # HTTP/2
            None,  # static files
            *(False, None, None, None, "tls1.3", None, [], False),  # TLS
            (None, None),  # metrics
        )
        scheduler = futures._new_cbscheduler(
            _NoLoop(), _runner(app, listener.getsockname()[1]), impl_asyncio=True
        )
        worker.serve_str(scheduler, _NoLoop(), signal)
    except (ImportError, TypeError, AttributeError) as error:
        raise ServeError(
            f"this version of Granian cannot serve here ({error}); install the one in requirements.lock"
        ) from error
    if ready is not None:
        ready()
    stop.wait()
    signal.set()
    if not done.wait(grace):
        LOG.warning("requests still ran %g s after the order to stop; they were cut off", grace)


class _NoLoop:
    """Stands where asyncio applications have their event loop; WSGI never calls it."""

    def _never(self, *_: object, **__: object) -> NoReturn:
        raise RuntimeError("a WSGI worker has no event loop")

    call_soon = call_soon_threadsafe = create_task = _never


class _Start:
    """WSGI's start_response."""

    __slots__ = ("headers", "status")

    def __init__(self) -> None:
        self.status = 500
        self.headers: list[tuple[str, str]] = []

    def __call__(self, status: str, headers: list[tuple[str, str]], exc_info: object = None) -> None:
        self.status = int(status[:3])
        self.headers = headers


class _Stream:
    """A response iterator in the shape that Granian calls."""

    __slots__ = ("__next__", "_inner")

    def __init__(self, inner: Iterable[bytes]) -> None:
        self._inner = inner
        self.__next__ = iter(inner).__next__

    def close(self) -> None:
        close = getattr(self._inner, "close", None)
        if close is not None:
            close()


def _runner(app: App, port: int) -> Callable[[Any, dict[str, Any]], int]:
    """What Granian calls in one of its Python threads: (protocol, environ) -> status. ``port``: where it listens."""
    fixed: dict[str, Any] = {
        "SCRIPT_NAME": "",
        "SERVER_SOFTWARE": "Altostack",
        "wsgi.errors": sys.stderr,
        "wsgi.input_terminated": True,
        "wsgi.multiprocess": True,
        "wsgi.multithread": True,
        "wsgi.run_once": False,
        "wsgi.version": (1, 0),
    }

    def run(protocol: Any, scope: dict[str, Any]) -> int:
        environ = fixed | scope
        start = _Start()
        try:
            if "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ:
                environ["wsgi.input"] = Body(environ["wsgi.input"].read, environ, port)
            result = app(environ, start)
        except UploadCut:
            start.status, start.headers, result = 400, [("Connection", "close")], [b""]
        except Exception:
            LOG.exception("the application failed for %s %s", environ["REQUEST_METHOD"], environ["PATH_INFO"])
            start.status, start.headers, result = 500, [("Content-Type", "application/json")], [_BROKEN]
        if isinstance(result, list):
            protocol.response_bytes(start.status, start.headers, b"".join(result))
        else:
            protocol.response_iter(start.status, start.headers, _Stream(result))
        return start.status

    return run


class Body:
    """`wsgi.input`: reads what the client sends as it comes, and knows whether that was all.

    Every method may raise `UploadCut`.
    """

    def __init__(self, read: Callable[[int], bytes], environ: dict[str, Any], port: int) -> None:
        self._read, self._port = read, port
        length = environ.get("CONTENT_LENGTH")
        self._left = int(length) if length is not None and length.isdecimal() else None
        self._peer: str = environ.get("REMOTE_ADDR", "")
        self._buffer = b""
        self._over = False

    def read(self, size: int | None = -1) -> bytes:
        """At most `size` bytes, fewer only at the end; all that is left without a size."""
        if size is None or size < 0:
            return b"".join(iter(lambda: self._some(CHUNK), b""))
        parts: list[bytes] = []
        while size > 0 and (part := self._some(size)):
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readline(self, size: int | None = -1) -> bytes:
        """One line with its end, or `size` bytes of it."""
        limit = sys.maxsize if size is None or size < 0 else size
        line = bytearray()
        while len(line) < limit and (part := self._some(min(CHUNK, limit - len(line)))):
            end = part.find(b"\n") + 1
            if end:
                line += part[:end]
                self._buffer = part[end:] + self._buffer
                break
            line += part
        return bytes(line)

    def readlines(self, hint: int | None = None) -> list[bytes]:
        lines: list[bytes] = []
        total = 0
        while line := self.readline():
            lines.append(line)
            total += len(line)
            if hint and total >= hint:
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def _some(self, size: int) -> bytes:
        """At least one and at most `size` bytes; none at the end."""
        if self._buffer:
            part, self._buffer = self._buffer[:size], self._buffer[size:]
            return part
        if self._over:
            return b""
        part = self._read(size)
        if part:
            if self._left is not None:
                self._left -= len(part)
            return part
        self._over = True
        if self._left:
            raise UploadCut(f"the request body ended {self._left} bytes early")
        if self._left is None and _peer_is_gone(self._peer, self._port):
            raise UploadCut("the connection was lost before the request body's last chunk")
        return b""


def _peer_is_gone(address: str, port: int) -> bool:
    """Whether this process keeps a connection at its `port` with `address` whose other end has closed or reset it.

    Granian reports a chunked body's end and its loss alike and does not say which socket it came by, so we look at
    all. It closes at once what was hung up while nothing was under way, but keeps the connection of a request that
    is being answered: so only what is still there after a moment counts. A client that loses another request's
    connection at this very moment makes this wrong, on the safe side: its complete upload is refused and has to be
    repeated.
    """
    lost = _gone(address, port)
    if lost:
        time.sleep(_MOMENT)
        lost &= _gone(address, port)
    return bool(lost)


def _gone(address: str, port: int) -> set[int]:
    """The inodes of the sockets at `port` whose peer at `address` is gone."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile
            about = os.fstat(int(name))
            if stat.S_ISSOCK(about.st_mode) and _is_gone(
                address, port, socket.socket(fileno=os.dup(int(name)))
            ):
                found.add(about.st_ino)
    return found


def _is_gone(address: str, port: int, sock: socket.socket) -> bool:
    with sock:
        if sock.type != socket.SOCK_STREAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
            return False
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return False
        if (
            sock.getsockname()[1] != port
        ):  # one of our own to somebody else, such as a pooled one that was ended there
            return False
        (state,) = struct.unpack("B", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1))
        if state not in _LOST_STATES:
            return False
        try:
            return bool(sock.getpeername()[0] in (address, f"::ffff:{address}"))
        except OSError:  # reset: it has no peer any more
            return True
