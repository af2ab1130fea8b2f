"""Several ranges of an object in one answer (RFC 9110, 14.6)."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence

from altostack.objectstore.http import Content, Response
from altostack.objectstore.proxy.keep import Found


def many(headers: dict[str, str], found: Found, size: int, runs: Sequence[tuple[int, int]]) -> Response:
    """206 with the runs (start, stop) in the order given. Takes over ``found``."""
    boundary = secrets.token_hex(16)
    kind = headers["content-type"]
    heads = [
        f"--{boundary}\r\nContent-Type: {kind}\r\nContent-Range: bytes {start}-{stop - 1}/{size}\r\n\r\n".encode()
        for start, stop in runs
    ]
    end = f"--{boundary}--".encode()
    length = sum(len(head) + stop - start + 2 for head, (start, stop) in zip(heads, runs, strict=True))
    headers["content-length"] = str(length + len(end))
    headers["content-type"] = f"multipart/byteranges;boundary={boundary}"
    return Response(206, headers, _Parts(found, list(zip(heads, runs, strict=True)), end))


class _Parts:
    """The body. Each run opens the object anew, except the first."""

    def __init__(self, found: Found, parts: list[tuple[bytes, tuple[int, int]]], end: bytes) -> None:
        self._found, self._parts, self._end = found, parts, end
        self._open: Content | None = None

    def __iter__(self) -> Iterator[bytes]:
        for number, (head, (start, stop)) in enumerate(self._parts):
            yield head
            self._open = self._found.content(start, stop) if number == 0 else self._found.again(start, stop)
            if isinstance(self._open, bytes):
                yield self._open
            else:
                yield from self._open
            yield b"\r\n"
        yield self._end

    def close(self) -> None:
        """Let go of what is open."""
        close = getattr(self._open, "close", None)
        if close is not None:
            close()
        self._found.close()
