"""A request's body as it comes in: as long as it was said to be, or in chunks (RFC 9112, 6 and 7)."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

from altostack.objectstore.http import CHUNK, ClientGone, Refusal

if TYPE_CHECKING:
    from altostack.objectstore.httpd.connection import Connection

MAX_HEADERS: Final = 512  # and as many trailers
_LINE: Final = 4096  # bytes of a line in a body's framing
_DRAIN: Final = 64 << 10  # an unread body up to this size is thrown away, so that the connection can be kept


class Incoming:
    """A request's body as it comes in. ``trailers``: the fields after the last chunk, lower-case names."""

    __slots__ = ("_connection", "_expected", "_flags", "_left", "_over", "_trouble", "length", "trailers")

    def __init__(self, connection: Connection, length: int | None, headers: dict[str, str]) -> None:
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
