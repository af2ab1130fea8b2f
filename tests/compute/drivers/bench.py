"""A driver with all that its guests are made of, and a way into a guest."""

from __future__ import annotations

import socket
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from altostack.compute.drivers.base import ComputeDriver, GuestSpec, ImageRoot, Nic, VolumeDisk
from altostack.compute.drivers.guest_files import CONSOLE_MAX
from altostack.compute.drivers.simulated import SimulatedDriver

FIRST_LINE = "user space"


@dataclass(kw_only=True)
class Bench:
    """A driver and what its guests are made of."""

    driver: ComputeDriver
    folder: Path
    image: Path
    taps: list[str] = field(default_factory=list)
    simulated: bool
    netns: str = ""

    def reopened(self) -> ComputeDriver:
        """A second driver over the same node, as after a restart of the process."""
        raise NotImplementedError

    def spec(self, **changes: object) -> GuestSpec:
        facts: dict[str, object] = {
            "id": str(uuid.uuid4()),
            "name": "guest",
            "vcpus": 1,
            "memory_mib": 128,
            "root": ImageRoot(base=self.image, format="qcow2", size_gib=1),
        }
        return GuestSpec(**{**facts, **changes})  # type: ignore[arg-type]  # a test's own mix of facts

    def started(self, **changes: object) -> GuestSpec:
        spec = self.spec(**changes)
        self.driver.prepare_disk(spec)
        self.driver.start(spec)
        return spec

    def volume(self, gib: int = 1, **changes: object) -> VolumeDisk:
        volume_id = str(uuid.uuid4())
        path = self.folder / f"volume-{volume_id}.qcow2"
        if not self.simulated:
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, f"{gib}G"], check=True)
        connection = {"driver_volume_type": "local", "data": {"path": str(path), "format": "qcow2"}}
        return VolumeDisk(volume_id=volume_id, connection=connection, **changes)  # type: ignore[arg-type]  # as above

    def nic(self) -> Nic:
        number = len(self.taps)
        tap = f"tapcd{number}"
        self.taps.append(tap)
        if not self.simulated:
            ip = ["ip", "-n", self.netns]
            subprocess.run([*ip, "tuntap", "add", tap, "mode", "tap"], check=True)
            subprocess.run([*ip, "link", "set", tap, "up"], check=True)
        return Nic(port_id=str(uuid.uuid4()), mac=f"52:54:00:0c:d0:{number:02x}", tap=tap, mtu=1450)

    def booted(self, spec: GuestSpec, *, times: int = 1) -> None:
        """Wait until the guest's system runs, for the n-th time."""
        raise NotImplementedError


class SimulatedBench(Bench):
    def reopened(self) -> ComputeDriver:
        return SimulatedDriver(root=self.folder)

    def booted(self, spec: GuestSpec, *, times: int = 1) -> None:
        assert self.driver.console_log(spec.id).count("boot finished") == times


class LibvirtBench(Bench):
    def reopened(self) -> ComputeDriver:
        from altostack.compute.drivers.libvirt import LibvirtDriver

        return LibvirtDriver(root=self.folder, host=self.host, release_timeout_s=40)

    @property
    def host(self):  # type: ignore[no-untyped-def]  # PrivateLibvirtd; imported late, it needs no libvirt elsewhere
        from altostack.compute.drivers.libvirtd import PrivateLibvirtd

        return PrivateLibvirtd(root=self.folder / "libvirt", netns=self.netns, hostname="bench")

    def booted(self, spec: GuestSpec, *, times: int = 1) -> None:
        deadline = time.monotonic() + 90
        while self.driver.console_log(spec.id, max_bytes=CONSOLE_MAX).count(FIRST_LINE) < times:
            assert time.monotonic() < deadline, self.driver.console_log(spec.id, lines=20)
            time.sleep(0.1)
        self.shell(spec).close()

    def shell(self, spec: GuestSpec) -> Shell:
        """A root shell in the guest, which must have reached user space."""
        shell = Shell(self.driver.serial(spec.id).connect())
        shell.wake()
        return shell

    def processes(self, word: str) -> list[int]:
        """Running QEMU processes with this word among their arguments."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                line = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if b"qemu-system" in line.split(b"\0")[0] and word.encode() in line:
                found.append(int(folder.name))
        return found


class Shell:
    """The root shell on a guest's serial port."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._count = 0

    def run(self, command: str, *, timeout_s: float = 30) -> str:
        self._count += 1
        mark = f"{self._count:04d}"
        self._stream.settimeout(timeout_s)
        # The echo of the command line holds the marks in another spelling, so only the output matches.
        self._stream.sendall(f"echo '<'{mark}'>'; {command}; echo '</'{mark}'>'\n".encode())
        heard = b""
        deadline = time.monotonic() + timeout_s
        while f"</{mark}>".encode() not in heard:
            assert time.monotonic() < deadline, heard.decode(errors="replace")
            heard += self._stream.recv(4096)
        text = heard.decode(errors="replace")
        answer = text[text.index(f"<{mark}>") + 6 : text.index(f"</{mark}>")]
        # The system's own progress lines come through the same wire.
        return "\n".join(line for line in answer.split("\r\n") if not line.startswith("altostack:")).strip()

    def wake(self, *, timeout_s: float = 60) -> None:
        """Wait for the shell: what is typed before it runs is lost."""
        deadline = time.monotonic() + timeout_s
        heard = b""
        while b"# " not in heard:
            assert time.monotonic() < deadline, heard.decode(errors="replace")
            self._stream.sendall(b"\n")
            heard += self._hear(1)
        while self._hear(0.5):
            pass  # the prompts of the further lines typed above

    def _hear(self, timeout_s: float) -> bytes:
        self._stream.settimeout(timeout_s)
        try:
            return self._stream.recv(4096)
        except TimeoutError:
            return b""

    def close(self) -> None:
        self._stream.close()
