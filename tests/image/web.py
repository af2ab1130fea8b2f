"""A web server on loopback that serves what a test gives it, and misbehaves on request."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Web:
    """``files``: path -> bytes. ``moved``: path -> where to. ``asked`` counts requests by path."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.moved: dict[str, str] = {}
        self.cut: dict[str, int] = {}  # path -> after how many bytes the connection ends
        self.slow: set[str] = set()  # paths whose bytes come for ever, a few at a time
        self.asked: list[str] = []
        self.port = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @property
    def host(self) -> str:
        """As the setting allowed_hosts has it."""
        return f"127.0.0.1:{self.port}"


@contextlib.contextmanager
def serving() -> Iterator[Web]:
    """A running `Web`."""
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.asked.append(self.path)
            if self.path in web.moved:
                self.send_response(302)
                self.send_header("Location", web.moved[self.path])
                self.end_headers()
                return
            if self.path in web.slow:
                self.send_response(200)
                self.end_headers()
                with contextlib.suppress(OSError):
                    while True:
                        self.wfile.write(bytes(1000))
                        time.sleep(0.02)
                return
            body = web.files.get(self.path)
            if body is None:
                self.send_error(404)
                return
            first, last = 0, len(body)
            if wanted := self.headers.get("Range"):
                low, _, high = wanted.removeprefix("bytes=").partition("-")
                first, last = int(low), int(high) + 1 if high else last
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(last - first))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body[first:last][: web.cut.get(self.path, last)])

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    web.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
