"""multipart/form-data as it comes in: part after part, never more in memory than one buffer (RFC 7578, RFC 2046)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from altostack.objectstore.http import CHUNK, Body, Refusal

MAX_HEAD: Final = 16 << 10  # bytes of one part's headers
_PARAMETER: Final = re.compile(r';\s*([^\s=;"]+)\s*=\s*("(?:\\.|[^"\\])*"|[^;]*)')


def parameters(value: str) -> tuple[str, dict[str, str]]:
    """``form-data; name="a"`` as ("form-data", {"name": "a"}), names in lower case."""
    first, _, rest = value.partition(";")
    found = {}
    for name, text in _PARAMETER.findall(f";{rest}"):
        said = text.strip()
        if said.startswith('"') and said.endswith('"') and len(said) > 1:
            said = re.sub(r'\\(["\\])', r"\1", said[1:-1])
        found[name.lower()] = said
    return first.strip().lower(), found


class Part:
    """One part; a `Body`. headers: lower-case names."""

    length: int | None = None

    def __init__(self, owner: Multipart, headers: dict[str, str]) -> None:
        self._owner, self.headers = owner, headers

    def read(self, size: int = -1) -> bytes:
        """Bytes of the part, b"" at its end. Raises Refusal(400) when the form breaks off inside."""
        if size < 0:
            return b"".join(iter(lambda: self._owner.take(CHUNK), b""))
        parts: list[bytes] = []
        while size > 0 and (part := self._owner.take(size)):
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class Multipart:
    """Iterate over it for its parts; a part is gone once the next is asked for."""

    def __init__(self, body: Body, boundary: str) -> None:
        self._body = body
        self._line = b"\r\n--" + boundary.encode("utf-8", "surrogateescape")
        self._buffer = b"\r\n"  # the first boundary stands at the beginning, without a line end before it
        self._ended = False  # the body
        self._inside = False  # a part that is not read to its end

    def __iter__(self) -> Iterator[Part]:
        self._fill(len(self._line))
        if not self._buffer.startswith(self._line):
            raise Refusal(400, "invalid starting boundary")
        while True:
            while self._inside and self.take(CHUNK):
                pass
            self._buffer = self._buffer[len(self._line) :]
            self._fill(2)
            if self._buffer.startswith(b"--"):
                return
            headers = self._headers()
            self._inside = True
            yield Part(self, headers)

    def _fill(self, size: int) -> None:
        """Have at least ``size`` bytes in the buffer, fewer only at the end of the body."""
        while len(self._buffer) < size and not self._ended:
            part = self._body.read(CHUNK)
            self._ended = not part
            self._buffer += part

    def _headers(self) -> dict[str, str]:
        end = self._buffer.find(b"\r\n\r\n")
        while end < 0:
            held = len(self._buffer)
            if held > MAX_HEAD or self._ended:
                raise Refusal(400, "a part of the form has no end of its headers")
            self._fill(held + 1)
            end = self._buffer.find(b"\r\n\r\n")
        # What stands on the boundary's own line is padding.
        lines = self._buffer[:end].decode("utf-8", "surrogateescape").split("\r\n")[1:]
        self._buffer = self._buffer[end + 4 :]
        headers = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or "\0" in line or "\n" in line or "\r" in line:
                raise Refusal(400, "a part of the form has a broken header")
            headers[name.strip().lower()] = value.strip()
        return headers

    def take(self, size: int) -> bytes:
        """At most ``size`` bytes of the current part, b"" at its end. Raises Refusal(400)."""
        if not self._inside:
            return b""
        line = self._line
        self._fill(len(line) + 1)
        at = self._buffer.find(line)
        if at == 0:
            self._inside = False
            return b""
        if at < 0:
            if self._ended:
                raise Refusal(400, "the form ended early")
            at = len(self._buffer) - len(line) + 1
        part = self._buffer[: min(at, size)]
        self._buffer = self._buffer[len(part) :]
        return part
