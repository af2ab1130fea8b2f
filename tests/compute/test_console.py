"""The console proxy, with a pretended RFB server as the guest."""

from __future__ import annotations

import contextlib
import http.client
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from altostack.compute.console import NOVNC, serve_console
from altostack.compute.drivers.base import Console

TOKEN = "a-token-that-nobody-may-log"
GREETING = b"RFB 003.008\n"
OTHER_END = "websockets.client"  # the test's own log, which may tell what it likes


def told(record: logging.LogRecord) -> str:
    """All that a log record says."""
    return record.getMessage() + str(record.exc_info)


class Guest:
    """Greets as RFB does, then sends back what it gets, until told otherwise."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.streams: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                stream, _ = self.listener.accept()
                self.streams.append(stream)
                threading.Thread(target=self._echo, args=(stream,), daemon=True).start()

    def _echo(self, stream: socket.socket) -> None:
        with contextlib.suppress(OSError):
            stream.sendall(GREETING)
            while content := stream.recv(65536):
                stream.sendall(content)

    def close(self) -> None:
        # Only shutdown ends a thread that waits in accept or recv.
        for stream in (*self.streams, self.listener):
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
            stream.close()


class Proxy:
    """A running console proxy. ``consoles``: token -> console; ``seen``: the tokens it asked about."""

    def __init__(self, static: Path | None) -> None:
        self.consoles: dict[str, Console] = {}
        self.seen: list[str] = []
        self.trouble: Exception | None = None
        self.stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        ready = threading.Event()
        self.thread = threading.Thread(
            target=lambda: serve_console(
                self._listener,
                validate=self._validate,
                allowed_hosts=["Cloud.example", "127.0.0.1"],
                stop=self.stop,
                static=static,
                ready=ready.set,
            )
        )
        self.thread.start()
        assert ready.wait(10)

    def _validate(self, token: str) -> Console | None:
        self.seen.append(token)
        if self.trouble is not None:
            raise self.trouble
        return self.consoles.pop(token, None)  # good once

    def open(
        self, path: str = f"/websockify?token={TOKEN}", *, origin: str | None = None, binary: bool = False
    ) -> ClientConnection:
        return connect(
            f"ws://127.0.0.1:{self.port}{path}",
            origin=None if origin is None else Origin(origin),
            subprotocols=[Subprotocol("binary")] if binary else None,
            open_timeout=10,
            max_size=None,
        )

    def get(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            client.request("GET", path)
            answer = client.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())
        finally:
            client.close()

    def close(self) -> None:
        self.stop.set()
        self.thread.join(15)
        assert not self.thread.is_alive(), "the proxy did not stop"
        self._listener.close()


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    made = Guest(tmp_path / "vnc.sock")
    yield made
    made.close()


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    folder = tmp_path / "pages"
    (folder / "core").mkdir(parents=True)
    (folder / "vnc_lite.html").write_text("<html>page</html>")
    (folder / "core/rfb.js").write_text("export default 1;")
    (tmp_path / "secret").write_text("secret")
    return folder


@pytest.fixture
def proxy(guest: Guest, pages: Path) -> Iterator[Proxy]:
    made = Proxy(pages)
    made.consoles[TOKEN] = Console(path=guest.path)
    yield made
    made.close()


def refused(open: Callable[[], ClientConnection]) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as caught:
        open()
    return caught.value.response.status_code, (caught.value.response.body or b"").decode()


def received(client: ClientConnection, length: int) -> bytes:
    content = bytearray()
    while len(content) < length:
        message = client.recv(timeout=10)
        assert isinstance(message, bytes)
        content += message
    return bytes(content)


def test_bytes_pass_both_ways(proxy: Proxy) -> None:
    with proxy.open(binary=True, origin="https://cloud.example:8443") as client:
        assert client.subprotocol == "binary"
        assert received(client, len(GREETING)) == GREETING
        content = bytes(range(256)) * 4096  # 1 MiB, and again in one message

        def send() -> None:
            for at in range(0, len(content), 999):
                client.send(content[at : at + 999])

        sender = threading.Thread(target=send)
        sender.start()
        assert received(client, len(content)) == content
        sender.join()
        client.send(content)
        assert received(client, len(content)) == content


@pytest.mark.parametrize("path", [f"/websockify?token={TOKEN}", f"/?token={TOKEN}"])
def test_no_subprotocol_is_fine_and_both_addresses(proxy: Proxy, path: str) -> None:
    with proxy.open(path) as client:
        assert client.subprotocol is None
        assert received(client, len(GREETING)) == GREETING


def test_a_token_is_good_as_often_as_its_issuer_says(proxy: Proxy) -> None:
    with proxy.open() as client:
        received(client, len(GREETING))
    assert refused(proxy.open) == (403, "The token is unknown or has expired.")


@pytest.mark.parametrize("query", ["", "?token=", "?token=a&token=b", "?other=1"])
def test_a_console_needs_one_token(proxy: Proxy, query: str) -> None:
    assert refused(lambda: proxy.open(f"/websockify{query}"))[0] == 403
    assert proxy.seen == []


def test_an_unknown_token_and_an_unknown_address(proxy: Proxy) -> None:
    assert refused(lambda: proxy.open("/websockify?token=guessed"))[0] == 403
    assert refused(lambda: proxy.open(f"/elsewhere?token={TOKEN}"))[0] == 404
    assert proxy.seen == ["guessed"]


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "https://cloud.example.evil.example",
        "https://evil.example/cloud.example",
        "https://cloud.example@evil.example",
        "file://cloud.example",
        "null",
        "https://[bad",
    ],
)
def test_pages_of_other_hosts_may_not(proxy: Proxy, origin: str) -> None:
    assert refused(lambda: proxy.open(origin=origin))[0] == 403
    assert proxy.seen == [], "the token was used up for a page that may not"
    with proxy.open() as client:
        received(client, len(GREETING))


def test_the_host_header_opens_no_door(proxy: Proxy) -> None:
    """A page of evil.example whose name was made to point here: Host and Origin agree."""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as stream:
        stream.sendall(
            f"GET /websockify?token={TOKEN} HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil.example\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        assert stream.recv(1024).startswith(b"HTTP/1.1 403 ")


def test_a_validator_in_trouble(proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    proxy.trouble = RuntimeError(f"no database for {TOKEN}")
    assert refused(proxy.open) == (503, "The token cannot be validated now.")
    assert "RuntimeError" in caplog.text
    assert not [record for record in caplog.records if TOKEN in told(record) and record.name != OTHER_END]


def test_tokens_are_in_no_log(proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with proxy.open() as client:
        received(client, len(GREETING))
    refused(proxy.open)
    refused(lambda: proxy.open(origin="https://evil.example"))
    proxy.get(f"/vnc_lite.html?path=websockify%3Ftoken%3D{TOKEN}")
    with socket.create_connection(("127.0.0.1", proxy.port)) as stream:
        stream.sendall(f"GET /websockify?token={TOKEN} and more HTTP/1.1\r\n\r\n".encode())
        stream.settimeout(10)
        while stream.recv(1024):
            pass
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("altostack")]
    assert any("opened" in line for line in ours)
    server = [record for record in caplog.records if record.name != OTHER_END]
    assert not [record for record in server if TOKEN in told(record)]


def test_a_console_that_does_not_answer(proxy: Proxy, tmp_path: Path) -> None:
    proxy.consoles["gone"] = Console(path=tmp_path / "gone.sock")
    with proxy.open("/websockify?token=gone") as client, pytest.raises(ConnectionClosed) as caught:
        client.recv(timeout=10)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1011
    assert "does not answer" in caught.value.rcvd.reason


def test_the_guest_ends(proxy: Proxy, guest: Guest) -> None:
    with proxy.open() as client:
        received(client, len(GREETING))
        guest.streams[0].shutdown(socket.SHUT_RDWR)
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(timeout=10)
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1000, "the guest's console ended")


@pytest.mark.parametrize("politely", [True, False])
def test_the_client_leaves_and_the_guest_is_told(proxy: Proxy, guest: Guest, politely: bool) -> None:
    with proxy.open() as client:
        received(client, len(GREETING))
        if politely:
            client.close()
        else:
            client.socket.shutdown(socket.SHUT_RDWR)
        with pytest.raises(BrokenPipeError):  # what a guest sees once its peer has closed
            send_for(guest.streams[0], seconds=10)


def send_for(stream: socket.socket, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        stream.send(b"x")
        time.sleep(0.02)


def test_text_is_refused(proxy: Proxy) -> None:
    with proxy.open() as client:
        received(client, len(GREETING))
        client.send("text")
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(timeout=10)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1003


def test_stopping_says_so_to_those_inside(proxy: Proxy) -> None:
    with proxy.open() as client:
        received(client, len(GREETING))
        proxy.stop.set()
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(timeout=10)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1001


def test_pages(proxy: Proxy) -> None:
    status, body, headers = proxy.get(f"/vnc_lite.html?path=websockify%3Ftoken%3D{TOKEN}")
    assert (status, body) == (200, b"<html>page</html>")
    assert headers["Content-Type"] == "text/html"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "frame-ancestors 'self' 127.0.0.1:* cloud.example:*" in headers["Content-Security-Policy"]
    status, body, headers = proxy.get("/core/rfb.js")
    assert (status, headers["Content-Type"]) == (200, "text/javascript")


@pytest.mark.parametrize(
    "path",
    ["/", "/core", "/nothing.html", "/../secret", "/%2e%2e/secret", "/core/..%2f..%2fsecret", "//evil.example/",
     "/..\\secret", "/a%00b", "/" + "x" * 300],
)  # fmt: skip
def test_no_other_file(proxy: Proxy, path: str) -> None:
    status, body, headers = proxy.get(path)
    assert (status, body) == (404, b"There is no such page.")
    assert "Location" not in headers


def test_without_pages_the_answer_names_the_package() -> None:
    proxy = Proxy(None)
    try:
        status, body, _ = proxy.get("/vnc_lite.html")
        assert status == 404
        assert b"novnc" in body
    finally:
        proxy.close()


@pytest.mark.skipif(not NOVNC.is_dir(), reason="needs Debian's novnc")
def test_novnc_is_served_whole() -> None:
    proxy = Proxy(NOVNC)
    try:
        status, page, _ = proxy.get("/vnc_lite.html")
        assert status == 200
        assert b"core/rfb.js" in page
        for path in ("/core/rfb.js", "/vendor/pako/lib/zlib/inflate.js", "/vnc.html"):
            assert proxy.get(path)[0] == 200, path
    finally:
        proxy.close()
