"""The console proxy: a guest's console (VNC, or a serial line) in the browser, over a WebSocket.

A client opens ``/websockify?token=...``; whoever issued the token says which console it stands for, and how long and
how often it is good. From then on bytes pass both ways, unread (RFC 6455, binary frames; subprotocol "binary" where
asked for, as websockify's clients do). The same port serves noVNC's files, when they are installed, so that
``/vnc_lite.html?path=websockify%3Ftoken%3D...`` is a whole console.

A browser always names the page that opens a WebSocket (header Origin); only pages of the allowed hosts may. The
request's own Host header proves nothing and is not asked. Tokens are never logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mimetypes
import socket
import threading
from collections.abc import Callable, Collection, Sequence
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit
from weakref import WeakKeyDictionary

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from altostack.compute.drivers.base import Console

LOG = logging.getLogger(__name__)

NOVNC: Final = Path("/usr/share/novnc")  # Debian's package novnc
_SOCKET_PATHS: Final = frozenset({"/", "/websockify"})
_CHUNK: Final = 64 * 1024
_MAX_MESSAGE: Final = 16 * 1024 * 1024  # a clipboard may be large, but not without limit

# noVNC's small page has its script in the page, hence 'unsafe-inline'; nothing comes from elsewhere.
_POLICY: Final = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self' ws: wss:; frame-ancestors {ancestors}"
)

Validate = Callable[[str], Console | None]
"""Token -> the console it stands for, or None. May block; is called in a thread."""


def serve_console(
    listener: socket.socket,
    *,
    validate: Validate,
    allowed_hosts: Collection[str],
    stop: threading.Event,
    static: Path | None = NOVNC,
    ready: Callable[[], None] | None = None,
) -> None:
    """Serve consoles on a listening TCP socket until ``stop`` is set; blocks.

    allowed_hosts: host names or addresses, without port, whose pages may open consoles. static: folder of noVNC's
    files; None, or one that does not exist, for consoles without pages. ready: called when connections are accepted.
    """
    mimetypes.init()
    asyncio.run(_Proxy(validate, frozenset(map(str.lower, allowed_hosts)), static).run(listener, stop, ready))


class _Proxy:
    def __init__(self, validate: Validate, allowed: frozenset[str], static: Path | None) -> None:
        self._validate = validate
        self._allowed = allowed
        self._static = static
        # The console that each connection may open, between its handshake's request and its end.
        self._granted: WeakKeyDictionary[ServerConnection, Console] = WeakKeyDictionary()

    async def run(
        self, listener: socket.socket, stop: threading.Event, ready: Callable[[], None] | None
    ) -> None:
        # The library's own log would tell whole requests, with their tokens.
        silent = logging.Logger("silent", level=logging.CRITICAL + 1)
        async with serve(
            self._pipe,
            sock=listener,
            process_request=self._request,
            select_subprotocol=_subprotocol,
            compression=None,  # consoles send pictures that are compressed already
            max_size=_MAX_MESSAGE,
            server_header=None,
            logger=silent,
        ) as server:
            if ready is not None:
                ready()
            await asyncio.to_thread(stop.wait)
            server.close(code=CloseCode.GOING_AWAY, reason="the console proxy is shutting down")

    async def _request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a plain request, refuse a WebSocket, or let it through (None)."""
        url = urlsplit(request.path)
        if "websocket" not in request.headers.get("Upgrade", "").lower():
            return await asyncio.to_thread(self._file, url.path)
        if url.path not in _SOCKET_PATHS:
            return _answer(HTTPStatus.NOT_FOUND, "Consoles are at /websockify.")
        origins = request.headers.get_all("Origin")
        if any(not self._is_allowed(origin) for origin in origins):
            LOG.warning("a page of %s asked for a console and is not allowed to", origins)
            return _answer(HTTPStatus.FORBIDDEN, "Pages of this origin may not open consoles.")
        tokens = parse_qs(url.query).get("token", [])
        if len(tokens) != 1:
            return _answer(HTTPStatus.FORBIDDEN, "A console needs one token.")
        try:
            console = await asyncio.to_thread(self._validate, tokens[0])
        except Exception as trouble:
            # The message might tell the token; its kind cannot.
            LOG.error("a console's token could not be validated: %s", type(trouble).__name__)
            return _answer(HTTPStatus.SERVICE_UNAVAILABLE, "The token cannot be validated now.")
        if console is None:
            return _answer(HTTPStatus.FORBIDDEN, "The token is unknown or has expired.")
        self._granted[connection] = console
        return None

    def _is_allowed(self, origin: str) -> bool:
        try:
            url = urlsplit(origin)
            host = url.hostname or ""
        except ValueError:
            return False
        return url.scheme in ("http", "https") and host.lower() in self._allowed

    def _file(self, path: str) -> Response:
        """One of noVNC's files."""
        if self._static is None or not self._static.is_dir():
            return _answer(
                HTTPStatus.NOT_FOUND,
                "Pages for consoles are not installed here (Debian: novnc); consoles are at /websockify.",
            )
        parts = PurePosixPath(unquote(path)).parts[1:]
        if not parts or any(part in ("..", ".") or "\0" in part or "\\" in part for part in parts):
            return _answer(HTTPStatus.NOT_FOUND, "There is no such page.")
        try:
            content = self._static.joinpath(*parts).read_bytes()
        except OSError:  # missing, a folder, a name too long
            return _answer(HTTPStatus.NOT_FOUND, "There is no such page.")
        kind = mimetypes.guess_type(parts[-1])[0] or "application/octet-stream"
        ancestors = " ".join(["'self'", *(f"{host}:*" for host in sorted(self._allowed))])
        return _answer(HTTPStatus.OK, content, kind=kind, policy=_POLICY.format(ancestors=ancestors))

    async def _pipe(self, client: ServerConnection) -> None:
        """Pass bytes both ways until either side ends."""
        console = self._granted.pop(client)
        try:
            stream = await asyncio.to_thread(console.connect)
            stream.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=stream, limit=_CHUNK)
        except OSError as trouble:
            LOG.warning("the console at %s does not answer: %s", console, trouble)
            await client.close(CloseCode.INTERNAL_ERROR, "the guest's console does not answer")
            return
        LOG.info("console at %s opened", console)
        try:
            async with asyncio.TaskGroup() as both:
                up = both.create_task(_to_guest(client, writer))
                down = both.create_task(_to_client(reader, client))
                await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
                # The guest's end is told to the client, whose answer ends the other task, and the reverse.
                await client.close(reason="the guest's console ended" if down.done() else "")
                up.cancel()
                down.cancel()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            LOG.info("console at %s closed", console)


async def _to_guest(client: ServerConnection, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionClosed, OSError):
        async for message in client:
            if isinstance(message, str):
                await client.close(CloseCode.UNSUPPORTED_DATA, "consoles speak binary frames")
                return
            writer.write(message)
            await writer.drain()


async def _to_client(reader: asyncio.StreamReader, client: ServerConnection) -> None:
    with contextlib.suppress(ConnectionClosed, OSError):
        while content := await reader.read(_CHUNK):
            await client.send(content)


def _subprotocol(connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """ "binary" where the client offers it; none otherwise, as newer clients offer none."""
    binary = Subprotocol("binary")
    return binary if binary in offered else None


def _answer(
    status: HTTPStatus, body: bytes | str, *, kind: str = "text/plain; charset=utf-8", policy: str = ""
) -> Response:
    content = body.encode() if isinstance(body, str) else body
    headers = Headers(
        {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Connection": "close",
            "Cache-Control": "no-cache" if status is HTTPStatus.OK else "no-store",
            "Referrer-Policy": "no-referrer",  # the page's address holds the token
            "X-Content-Type-Options": "nosniff",
        }
    )
    if policy:
        headers["Content-Security-Policy"] = policy
    return Response(status.value, status.phrase, headers, content)
