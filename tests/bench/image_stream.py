"""How fast an image goes up and down, and what that costs in memory, beside a plain file copied through loopback.

``python -m tests.bench.image_stream [--gib 4] [--folder DIR]``: the folder needs room for three times the image.
"""

from __future__ import annotations

import argparse
import http.client
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.stand import Stand, running

MIB = 1 << 20
GIB = 1 << 30


def source(path: Path, size: int) -> None:
    """A file of ``size`` bytes that no file system can shrink."""
    piece = os.urandom(64 * MIB)
    with path.open("wb") as file:
        left = size
        while left:
            left -= file.write(piece[: min(left, len(piece))])


def copied(path: Path, out: Path) -> float:
    """Seconds to send a file through a loopback connection into another file, synced at the end."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def receive() -> None:
            sock, _ = listener.accept()
            with sock, out.open("wb", buffering=0) as file:
                while chunk := sock.recv(MIB):
                    file.write(chunk)
                os.fsync(file.fileno())

        thread = threading.Thread(target=receive)
        began = time.monotonic()
        thread.start()
        with socket.create_connection(listener.getsockname()) as sock, path.open("rb", buffering=0) as file:
            while chunk := file.read(MIB):
                sock.sendall(chunk)
        thread.join()
        return time.monotonic() - began


class Peak:
    """The most that the cloud's processes held together (PSS, MiB) while this ran, beyond what they held before."""

    def __init__(self, stand: Stand) -> None:
        self._stand = stand
        self._before = self._held()
        self._most = self._before
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _held(self) -> dict[str, float]:
        return {name: size for name, size in self._stand.pss().items() if name.startswith("api")}

    def _watch(self) -> None:
        while not self._stop.wait(0.25):
            now = self._held()
            self._most = {name: max(now[name], self._most[name]) for name in now}

    @contextmanager
    def watching(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()

    @property
    def grown(self) -> float:
        """MiB, of the process that grew most."""
        return max(self._most[name] - self._before[name] for name in self._before)


def timed(stand: Stand, work: Callable[[], None]) -> tuple[float, float]:
    """(seconds, MiB grown)."""
    peak = Peak(stand)
    began = time.monotonic()
    with peak.watching():
        work()
        seconds = time.monotonic() - began
    return seconds, peak.grown


def connect(stand: Stand) -> http.client.HTTPConnection:
    parts = urlsplit(stand.url)
    return http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=600, blocksize=MIB)


def upload(stand: Stand, token: str, key: str, path: Path) -> None:
    connection = connect(stand)
    headers = {
        "X-Auth-Token": token,
        "Content-Type": "application/octet-stream",
        "Content-Length": str(path.stat().st_size),
    }
    with path.open("rb", buffering=0) as file:
        connection.request("PUT", f"/image/v2/images/{key}/file", file, headers)
    answer = connection.getresponse()
    if answer.status != 204:
        raise RuntimeError(f"upload: {answer.status} {answer.read()[:300]!r}")
    connection.close()


def download(stand: Stand, token: str, key: str, out: Path, size: int) -> None:
    connection = connect(stand)
    connection.request("GET", f"/image/v2/images/{key}/file", headers={"X-Auth-Token": token})
    answer = connection.getresponse()
    got = 0
    with out.open("wb", buffering=0) as file:
        while chunk := answer.read(MIB):
            got += len(chunk)
            file.write(chunk)
        os.fsync(file.fileno())
    connection.close()
    if (answer.status, got) != (200, size):
        raise RuntimeError(f"download: {answer.status}, {got} of {size} bytes")


def main() -> None:
    """Print seconds, MiB a second, the ratio to the plain copy, and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=4.0, help="size of the image (default: 4)")
    parser.add_argument("--folder", type=Path, help="where the files go (default: a temporary folder)")
    options = parser.parse_args()
    size = int(options.gib * GIB)
    folder = Path(tempfile.mkdtemp(prefix="altostack-stream-", dir=options.folder))
    os.environ["TMPDIR"] = str(folder)  # the cloud's folder, too
    tempfile.tempdir = None
    try:
        path, out = folder / "source", folder / "out"
        source(path, size)
        with running("--simulate") as stand:
            token = stand.token("demo")
            body = {"name": "stream", "disk_format": "raw", "container_format": "bare"}
            _, image = stand.call("POST", "/image/v2/images", token, body)
            plain = copied(path, out)
            out.unlink()
            up, up_grown = timed(stand, lambda: upload(stand, token, image["id"], path))
            down, down_grown = timed(stand, lambda: download(stand, token, image["id"], out, size))
            out.unlink()
            stand.call("DELETE", f"/image/v2/images/{image['id']}", token)
            again = copied(path, out)
        plain = (plain + again) / 2
        print(f"{options.gib:g} GiB          seconds    MiB/s   of plain   memory grown by")
        print(f"plain copy     {plain:8.1f} {size / MIB / plain:8.0f}")
        for name, seconds, grown in (("upload", up, up_grown), ("download", down, down_grown)):
            print(
                f"{name:<14} {seconds:8.1f} {size / MIB / seconds:8.0f} {plain / seconds:10.2f} {grown:12.1f} MiB"
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
