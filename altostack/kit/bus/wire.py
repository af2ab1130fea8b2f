"""Frames on a local socket: four bytes of length, big-endian, then MessagePack."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

MOST_BYTES: Final = 8 * 1024 * 1024
"""The largest frame; whoever announces a larger one is disconnected."""

READ_BYTES: Final = 256 * 1024


class Bell(msgspec.Struct, tag="bell", frozen=True, array_like=True):
    topic: str
    ids: tuple[str, ...]


class Event(msgspec.Struct, tag="event", frozen=True, array_like=True):
    event: dict[str, Any]


class Interest(msgspec.Struct, tag="interest", frozen=True, array_like=True):
    """What a client wants to receive; the hub sends it back as a receipt."""

    topics: list[str]
    served: list[str]
    events: bool


class Call(msgspec.Struct, tag="call", frozen=True, array_like=True):
    """`id` is the asker's towards the hub and the hub's own towards the server."""

    id: int
    topic: str
    method: str
    args: Any


class Answer(msgspec.Struct, tag="answer", frozen=True, array_like=True):
    """`state` is "ok" (with `result`), "refused" or "absent" (with `message`)."""

    id: int
    state: str
    result: Any = None
    message: str = ""


Frame = Bell | Event | Interest | Call | Answer


class WireError(Exception):
    """The other side does not speak this protocol."""


def pack(frame: Frame) -> bytes:
    """A frame's bytes.

    Raises:
        TypeError: it holds something that is not plain data.
        ValueError: it is larger than `MOST_BYTES`.
    """
    body = msgspec.msgpack.encode(frame)
    if len(body) > MOST_BYTES:
        raise ValueError(f"{len(body)} bytes are more than the bus carries ({MOST_BYTES})")
    return len(body).to_bytes(4, "big") + body


@contextlib.contextmanager
def address(path: Path) -> Iterator[str]:
    """A name for a Unix socket at `path` that fits into the 107 bytes there are (unix(7)), however long it is.

    Raises:
        OSError: the folder is not there.
    """
    if len(os.fsencode(path)) <= 107:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class Pipe:
    """A non-blocking socket with the frames that come in and the bytes that wait to go out."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.outgoing = bytearray()
        self._incoming = bytearray()
        self._decoder = msgspec.msgpack.Decoder(Frame)

    def receive(self) -> Iterator[Frame]:
        """The frames that one read completes.

        Raises:
            WireError: the connection ended or made no sense.
        """
        try:
            data = self.sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise WireError(str(error)) from None
        if not data:
            raise WireError("the other side left")
        self._incoming += data
        start = 0
        while len(self._incoming) - start >= 4:
            size = int.from_bytes(self._incoming[start : start + 4], "big")
            if size > MOST_BYTES:
                raise WireError(f"a frame of {size} bytes")
            if len(self._incoming) - start < 4 + size:
                break
            body = memoryview(self._incoming)[start + 4 : start + 4 + size]
            try:
                yield self._decoder.decode(body)
            except ValueError as error:
                raise WireError(str(error)) from None
            finally:
                body.release()
            start += 4 + size
        del self._incoming[:start]

    def flush(self) -> None:
        """Send what the socket takes now.

        Raises:
            WireError: the connection ended.
        """
        while self.outgoing:
            try:
                sent = self.sock.send(self.outgoing)
            except BlockingIOError:
                return
            except OSError as error:
                raise WireError(str(error)) from None
            del self.outgoing[:sent]

    def close(self) -> None:
        """Hang up, also for copies of the socket that a forked child may hold."""
        with contextlib.suppress(OSError):  # not connected any more: that is what was wanted
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
