"""A client's connection, and the requests that are read from it (RFC 9112, 2 to 6)."""

from __future__ import annotations

import socket
import time
from typing import Final

import httptools

from altostack.objectstore.http import Bytes, Refusal, Request, Unsaid
from altostack.objectstore.httpd.incoming import MAX_HEADERS, Incoming

MAX_HEAD: Final = 64 << 10  # bytes of a request line with its headers


class Connection:
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
        self.body: Incoming | None = None
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

    def _incoming(self, headers: dict[str, str]) -> Incoming | None:
        coding = headers.get("transfer-encoding")
        said = headers.get("content-length")
        if coding is not None:
            if coding.strip().lower() != "chunked" or self.old:
                raise Refusal(501, "The only transfer coding that is understood is chunked.")
            if said is not None:
                raise Refusal(400, "A request has a Content-Length or a Transfer-Encoding, not both.")
            return Incoming(self, None, headers)
        if said is None:
            return None
        if not (said.isascii() and said.isdecimal()) or len(said) > 18:
            raise Refusal(400, "Invalid Content-Length.")
        return Incoming(self, int(said), headers) if said != "0" else None


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
