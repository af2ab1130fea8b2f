"""One question to the domain name system: what is the CNAME of this name? (RFC 1035)

Asked over UDP, of the servers in /etc/resolv.conf unless told otherwise. Answers are believed when they come from the
server asked, to the port asked from, with the question's id and the question itself.
"""

from __future__ import annotations

import secrets
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_CNAME: Final = 5
_IN: Final = 1
_HEAD: Final = struct.Struct("!6H")
_MOST: Final = 4096  # bytes of an answer
_JUMPS: Final = 64  # compression pointers in one name


class Unanswered(Exception):
    """No server gave an answer that could be used."""


def name_servers(path: Path = Path("/etc/resolv.conf")) -> list[tuple[str, int]]:
    """(address, port) of this machine's name servers."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    return [
        (parts[1], 53) for line in lines if (parts := line.split())[:1] == ["nameserver"] and len(parts) > 1
    ]


def cname(name: str, servers: Sequence[tuple[str, int]], *, timeout: float = 2.0) -> tuple[str | None, int]:
    """(canonical name or None when it has none, seconds for which that is so). Raises Unanswered, ValueError."""
    number = secrets.randbelow(1 << 16)
    question = _labels(name) + struct.pack("!2H", _CNAME, _IN)
    packet = _HEAD.pack(number, 0x0100, 1, 0, 0, 0) + question
    for server in servers:
        family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.settimeout(timeout)
                sock.connect(server)  # only its answers come in
                sock.send(packet)
                for _ in range(8):  # somebody may be guessing
                    answer = sock.recv(_MOST)
                    if (
                        answer[:2] == packet[:2]
                        and answer[12 : 12 + len(question)].lower() == question.lower()
                    ):
                        return _read(answer, 12 + len(question))
        except (OSError, IndexError, struct.error, UnicodeDecodeError):
            continue
    raise Unanswered(f"no name server answered for {name}")


def _labels(name: str) -> bytes:
    made = b""
    for label in name.rstrip(".").encode("idna").split(b"."):
        if not 0 < len(label) < 64:
            raise ValueError(f"{name!r} is no domain name")
        made += bytes((len(label),)) + label
    if len(made) > 253:
        raise ValueError(f"{name!r} is no domain name")
    return made + b"\0"


def _read(answer: bytes, at: int) -> tuple[str | None, int]:
    _, flags, _, answers, _, _ = _HEAD.unpack_from(answer)
    code = flags & 0xF
    if code not in (0, 3):  # 3: there is no such name
        raise OSError(f"the name server failed with code {code}")
    for _ in range(answers):
        _, at = _name(answer, at)
        kind, group, ttl, size = struct.unpack_from("!2HIH", answer, at)
        at += 10
        if kind == _CNAME and group == _IN:
            return _name(answer, at)[0], ttl
        at += size
    return None, 60


def _name(answer: bytes, at: int) -> tuple[str, int]:
    """A name that may be compressed, and where what follows it begins."""
    parts: list[str] = []
    end = -1
    for _ in range(_JUMPS):
        size = answer[at]
        if size >= 0xC0:
            end = at + 2 if end < 0 else end
            at = (size & 0x3F) << 8 | answer[at + 1]
            continue
        at += 1
        if size == 0:
            return ".".join(parts), at if end < 0 else end
        parts.append(answer[at : at + size].decode("ascii"))
        at += size
    raise OSError("a name in the answer has no end")
