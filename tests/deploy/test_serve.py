"""A served application over real connections, each worker in a forked process of its own."""

from __future__ import annotations

import hashlib
import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from altostack.deploy.serve import UploadCut, serve


def resident() -> int:
    """KiB of memory this process holds."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise AssertionError


class Download:
    """128 MiB in pieces, noting its end in a file."""

    def __init__(self, note: Path) -> None:
        self.note = note
        self.left = 2048
        self.before = resident()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self.left:
            raise StopIteration
        self.left -= 1
        return b"x" * 65536

    def close(self) -> None:
        self.note.write_text(f"{self.left} {resident() - self.before}")


def application(note: Path) -> Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]:
    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"]
        match environ["PATH_INFO"]:
            case "/upload":
                digest, size, before = hashlib.sha256(), 0, resident()
                try:
                    while part := body.read(65536):
                        digest.update(part)
                        size += len(part)
                except UploadCut as error:
                    note.write_text(f"cut after {size}: {error}")
                    raise
                note.write_text(f"complete {size}")
                start("200 OK", [])
                return [f"{size} {digest.hexdigest()} {resident() - before}".encode()]
            case "/lines":
                start("200 OK", [])
                return [repr([body.readline(), body.readline(2), body.read(3), body.readlines()]).encode()]
            case "/download":
                start("200 OK", [("Content-Length", str(128 << 20))])
                return Download(note)
            case "/slow":
                time.sleep(0.5)
                start("200 OK", [])
                return [b"done"]
            case "/stuck":
                time.sleep(30)
            case "/fail":
                raise KeyError("secret detail")
            case "/environ":
                start("200 OK", [])
                return ["\n".join(environ).encode()]
            case "/empty":
                start("204 No Content", [("X-Worker", str(os.getpid()))])
                return []
        start("200 OK", [("X-Worker", str(os.getpid()))])
        return (part for part in (b"he", b"llo"))

    return app


class Server:
    """Forked workers on one listener."""

    def __init__(self, note: Path, **options: Any) -> None:
        self.note = note
        self.options = options
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self.listener.getsockname()[1]
        self.pids: list[int] = []

    def fork(self) -> int:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            stop = threading.Event()
            threading.Thread(target=wait_for_term, args=(stop,), daemon=True).start()
            serve(
                application(self.note),
                self.listener,
                stop=stop,
                ready=lambda: void(os.write(write, b"!")),
                **self.options,
            )
            os._exit(0)
        os.close(write)
        assert os.read(read, 1) == b"!"
        os.close(read)
        self.pids.append(pid)
        return pid

    def end(self, pid: int, timeout: float = 10.0) -> float:
        """SIGTERM; seconds until it was gone."""
        start = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            assert time.monotonic() < start + timeout
            time.sleep(0.01)
        self.pids.remove(pid)
        return time.monotonic() - start

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)

    def get(self, path: str) -> tuple[int, bytes]:
        connection = self.connection()
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def close(self) -> None:
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.listener.close()


def wait_for_term(stop: threading.Event) -> None:
    signal.sigwait({signal.SIGTERM})
    stop.set()


def void(_: object) -> None:
    """Drop a result."""


@pytest.fixture
def blocked() -> Iterator[None]:
    """Workers are forked with SIGTERM blocked, so that their thread can wait for it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.fixture
def server(tmp_path: Path, blocked: None) -> Iterator[Server]:
    server = Server(tmp_path / "note", threads=2, grace=1.0)
    server.fork()
    yield server
    server.close()


def wait_for(path: Path, timeout: float = 5.0) -> str:
    end = time.monotonic() + timeout
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return path.read_text()


def test_answers(server: Server) -> None:
    assert server.get("/") == (200, b"hello")
    assert server.get("/empty") == (204, b"")
    assert b"PATH_INFO" in server.get("/environ")[1]
    assert b"\nHOME" not in server.get("/environ")[1]


def test_a_failing_application_shows_nothing(server: Server) -> None:
    status, body = server.get("/fail")
    assert status == 500
    assert b'"code": 500' in body
    assert b"secret" not in body
    assert server.get("/")[0] == 200


@pytest.mark.parametrize("chunked", [True, False])
def test_uploads_stream(server: Server, chunked: bool) -> None:
    size = 96 << 20
    piece = os.urandom(1 << 20)
    connection = server.connection()
    headers = {} if chunked else {"Content-Length": str(size)}
    connection.request("PUT", "/upload", iter([piece] * 96), headers, encode_chunked=chunked)
    count, digest, grown = connection.getresponse().read().split()
    assert int(count) == size
    assert digest.decode() == hashlib.sha256(piece * 96).hexdigest()
    assert int(grown) < 16 * 1024


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
def test_an_upload_that_is_cut_off_is_never_complete(server: Server, chunked: bool, reset: bool) -> None:
    idle = server.connection()  # another connection of the same client, alive
    idle.request("GET", "/")
    idle.getresponse().read()
    sock = socket.create_connection(("127.0.0.1", server.port))
    head = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 200000"
    body = b"186a0\r\n" + b"x" * 100_000 + b"\r\n" if chunked else b"x" * 100_000
    sock.sendall(b"PUT /upload HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n\r\n" + body)
    time.sleep(0.1)
    if reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()
    assert wait_for(server.note).startswith("cut after ")
    assert server.get("/")[0] == 200


def test_connections_that_others_close_do_not_cut_uploads(server: Server) -> None:
    """Chunked bodies say nothing of their length: an end must not look like a loss because somebody else hung up."""
    raw = b"PUT /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    answers: list[bytes] = []

    def client() -> None:
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", server.port), 10) as sock:
                sock.sendall(raw)
                answers.append(sock.recv(1000)[:12])

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [b"HTTP/1.1 200"] * 200


def test_lines(server: Server) -> None:
    connection = server.connection()
    connection.request("POST", "/lines", b"one\ntwo\nthree\nfour")
    assert connection.getresponse().read() == repr([b"one\n", b"tw", b"o\nt", [b"hree\n", b"four"]]).encode()


def test_downloads_stream_and_end_with_the_client(server: Server) -> None:
    connection = server.connection()
    connection.request("GET", "/download")
    answer = connection.getresponse()
    assert len(answer.read(1 << 20)) == 1 << 20
    connection.close()
    answer.close()
    left, grown = map(int, wait_for(server.note).split())
    assert left > 1000
    assert grown < 32 * 1024
    server.note.unlink()
    assert len(server.get("/download")[1]) == 128 << 20
    assert wait_for(server.note).startswith("0 ")


def test_idle_connections_do_not_hold_up_others_or_the_end(server: Server) -> None:
    idle = []
    for _ in range(50):
        connection = server.connection()
        connection.request("GET", "/empty")
        connection.getresponse().read()
        idle.append(connection)
    assert server.get("/")[0] == 200
    assert server.end(server.pids[0]) < 1.0


def test_requests_under_way_are_finished(server: Server) -> None:
    answers: list[tuple[int, bytes]] = []
    thread = threading.Thread(target=lambda: answers.append(server.get("/slow")))
    thread.start()
    time.sleep(0.2)
    server.end(server.pids[0])
    thread.join()
    assert answers == [(200, b"done")]


def test_a_stuck_request_does_not_hold_up_the_end(server: Server) -> None:
    connection = server.connection()
    connection.request("GET", "/stuck")
    time.sleep(0.1)
    assert 0.9 < server.end(server.pids[0]) < 3.0
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        connection.getresponse()


def test_no_connection_is_refused_while_a_worker_is_replaced(server: Server) -> None:
    """The listener stays open in the parent, so connections wait in its backlog.

    One that the ending worker has just accepted may be closed before its request is read.
    """
    statuses: list[int] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                statuses.append(server.get("/empty")[0])
            except http.client.RemoteDisconnected:
                statuses.append(0)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        time.sleep(0.1)
        server.end(server.pids[0])
        time.sleep(0.1)
        server.fork()
    over.set()
    for thread in threads:
        thread.join()
    assert set(statuses) <= {204, 0}
    assert statuses.count(0) <= 3 * 3
    assert statuses.count(204) > 20
