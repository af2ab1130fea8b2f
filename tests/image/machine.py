"""A guest in plain QEMU with user-mode networking, driven over QMP; for tests of the starter image alone."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any


@contextlib.contextmanager
def metadata_service(documents: dict[str, bytes]) -> Iterator[int]:
    """Serve ``documents`` (name -> bytes) under /openstack/latest/ on a loopback port, which is yielded."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = documents.get(self.path.removeprefix("/openstack/latest/"))
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Machine:
    """One QEMU process; ends with the ``with`` block."""

    def __init__(self, folder: Path, disk: Path, *options: str, metadata_port: int | None = None) -> None:
        folder.mkdir()
        self.console_file = folder / "console"
        qmp = folder / "qmp"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.ssh_port: int = probe.getsockname()[1]
        network = (
            f"user,id=n0,net=169.254.169.0/24,host=169.254.169.2,hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22"
        )
        if metadata_port is not None:
            network += f",guestfwd=tcp:169.254.169.254:80-cmd:busybox nc 127.0.0.1 {metadata_port}"
        self.process = subprocess.Popen(
            [
                *(
                    "qemu-system-x86_64",
                    "-machine",
                    "q35,accel=tcg",
                    "-m",
                    "128",
                    "-nodefaults",
                    "-display",
                    "none",
                ),
                *("-serial", f"file:{self.console_file}", "-qmp", f"unix:{qmp},server=on,wait=off"),
                *("-drive", f"file={disk},format=qcow2,if=none,id=d0,cache=unsafe"),
                *("-device", "virtio-blk-pci,drive=d0,bootindex=1", "-device", "virtio-rng-pci"),
                *("-netdev", network, "-device", "virtio-net-pci,netdev=n0,romfile="),
                *("-device", "pcie-root-port,id=p1,chassis=1", "-device", "pcie-root-port,id=p2,chassis=2"),
                *options,
            ],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        deadline = time.monotonic() + 10
        self._qmp = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self._qmp.connect(str(qmp))
                break
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.process.kill()
                    _, said = self.process.communicate()
                    raise AssertionError(f"QEMU did not start: {said.decode()}") from None
                time.sleep(0.02)
        self._answers = self._qmp.makefile("r")
        self._answers.readline()  # the greeting
        self.qmp("qmp_capabilities")

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if kind is not None:
            print(self.console())
        self._answers.close()
        self._qmp.close()
        self.process.kill()
        self.process.communicate()

    def qmp(self, command: str, **arguments: Any) -> Any:
        """Run one QMP command; its answer. Fails the test on an error."""
        self._qmp.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        for line in self._answers:
            answer = json.loads(line)
            assert "error" not in answer, answer
            if "return" in answer:
                return answer["return"]
        raise AssertionError("QEMU closed its monitor")

    def console(self) -> str:
        return self.console_file.read_text(errors="replace") if self.console_file.exists() else ""

    def wait_console(self, text: str, seconds: float = 60) -> str:
        """Wait until the console shows ``text``; all it showed."""
        deadline = time.monotonic() + seconds
        while text not in self.console():
            assert time.monotonic() < deadline, f"no {text!r} within {seconds} s:\n{self.console()}"
            assert self.process.poll() is None, f"QEMU ended:\n{self.console()}"
            time.sleep(0.05)
        return self.console()

    def wait_end(self, seconds: float) -> None:
        """Wait until the guest has powered itself off."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still on after {seconds} s:\n{self.console()}") from None

    def ssh(self, key: Path, command: str, seconds: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a command as root over SSH, by dropbear's client; any host key is taken."""
        return subprocess.run(
            ["dbclient", "-y", "-y", "-i", str(key), "-p", str(self.ssh_port), "root@127.0.0.1", command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            env={"HOME": str(key.parent), "PATH": "/usr/bin:/bin"},
        )
