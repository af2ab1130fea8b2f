"""A load of HTTP requests: many clients, each with one connection, in one thread.

A client is a script: a generator that yields requests and is sent the answers, for as long as it likes::

    def script(port):
        while True:
            answer = yield request("GET", "/v3/projects", token=token)
            assert answer.status == 200
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

import msgspec

Script = Generator[bytes, "Answer", None]


@dataclass(kw_only=True)
class Answer:
    """What came back; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(kw_only=True)
class Figures:
    """clients, requests a second, and latencies in ms."""

    clients: int
    rate: float
    p50: float
    p95: float


def request(method: str, path: str, *, token: str = "", body: object = None, **headers: str) -> bytes:
    """The bytes of a request; ``body``: bytes as they are, anything else as JSON."""
    content = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
    kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
    lines = [f"{method} {path} HTTP/1.1", "Host: bench", "Accept: application/json"]
    if token:
        lines.append(f"X-Auth-Token: {token}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if content or method in ("POST", "PUT", "PATCH"):
        lines += [f"Content-Type: {kind}", f"Content-Length: {len(content)}"]
    return "\r\n".join([*lines, "", ""]).encode() + content


def run(
    port: int,
    script: Callable[[int], Script],
    *,
    clients: int,
    seconds: float,
    count: Callable[[Answer], bool] = lambda answer: True,
) -> Figures:
    """Run ``clients`` scripts (called with their number) side by side; what ``count`` accepts is counted."""
    selector = selectors.DefaultSelector()
    runners = [_Runner(port, script(number)) for number in range(clients)]
    for runner in runners:
        selector.register(runner.stream, selectors.EVENT_READ, runner)
    began = time.perf_counter()
    until = began + seconds
    times: list[float] = []
    for runner in runners:
        runner.ask()
    while (now := time.perf_counter()) < until:
        for key, _ in selector.select(until - now):
            runner = key.data
            answer = runner.read()
            if answer is not None:
                if count(answer):
                    times.append(time.perf_counter() - runner.asked)
                runner.ask(answer)
    took = time.perf_counter() - began
    for runner in runners:
        runner.stream.close()
    selector.close()
    times.sort()
    middle, high = (times[int(len(times) * part)] * 1e3 if times else 0.0 for part in (0.5, 0.95))
    return Figures(clients=clients, rate=len(times) / took, p50=middle, p95=high)


class _Runner:
    """One client: its connection, and how far its answer has come."""

    def __init__(self, port: int, script: Script) -> None:
        self._port = port
        self._script = script
        self._have = b""
        self.stream = socket.create_connection(("127.0.0.1", port))
        self.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.asked = 0.0

    def ask(self, answer: Answer | None = None) -> None:
        sent = next(self._script) if answer is None else self._script.send(answer)
        self.asked = time.perf_counter()
        self.stream.sendall(sent)

    def read(self) -> Answer | None:
        """The answer, once it is whole. Raises ConnectionError when the server hangs up."""
        got = self.stream.recv(1 << 18)
        if not got:
            raise ConnectionError(f"the server hung up after {self._have[:200]!r}")
        self._have += got
        head, end, rest = self._have.partition(b"\r\n\r\n")
        if not end:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(first.split()[1])
        if "chunked" in headers.get("transfer-encoding", ""):
            if not rest.endswith(b"0\r\n\r\n"):
                return None
            length = len(rest)
        else:
            length = 0 if status in (204, 304) else int(headers.get("content-length", 0))
        if len(rest) < length:
            return None
        self._have = rest[length:]
        return Answer(status=status, headers=headers, body=rest[:length])
