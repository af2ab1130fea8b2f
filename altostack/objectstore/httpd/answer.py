"""How an answer goes out: its head, a part of a file by sendfile(2), chunks (RFC 9112, 6 and 7)."""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache
from typing import Final

from altostack.objectstore.http import REASONS, Extent, Response

log = logging.getLogger(__name__)
NO_BODY: Final = frozenset({204, 304})
_SMALL: Final = 64 << 10  # a file this small is read and sent together with the head
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def head_of(response: Response, *, bare: bool, keep: bool, old: bool) -> tuple[bytes, int | None, bool, bool]:
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
    if response.status in NO_BODY and not (bare and response.status != 204):
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


def send_extent(sock: socket.socket, head: bytes, extent: Extent) -> int:
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


def send_chunks(
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
