"""An object store of real processes to torment: four nodes in two zones, two devices each, and two proxies."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import urllib3

from altostack.objectstore import compose
from altostack.objectstore.care import key, lone
from altostack.objectstore.care.daemon import Care
from altostack.objectstore.care.loops import Pass, passes
from altostack.objectstore.care.report import Tally
from altostack.objectstore.config import Settings
from altostack.objectstore.ring.builder import Builder
from tests.probe.objectstore_faults import FILE

ROOT = Path(__file__).parents[2]
DEVICES = ("d1", "d2")
SIZE = 48 << 20  # bytes of a device, where devices are file systems of their own
SKEW = {"p1": 0.0, "p2": 2.5}  # seconds that the proxies' clocks are ahead
IDLE = {
    "partitions",
    "objects",
    "accounts",
    "containers",
    "devices",
    "bytes",
    "waiting",
}  # counted without work
REPAIRS = ("audit-quick", "replicate", "reconstruct", "databases", "deliver")

SETTINGS = """
[objectstore]
node_host = "127.0.0.1"
node_port = {port}
[objectstore.care]
replicate = 3.0
reconstruct = 3.0
databases = 3.0
deliver = 1.0
audit = 20.0
audit_files = 200.0
[objectstore.policies.standard]
index = 0
default = true
[objectstore.policies.coded]
index = 1
type = "erasure_coding"
data = 4
parity = 2
segment_size = 16384
"""


class Stand:
    """The processes and their folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.zones = {"n1": 1, "n2": 1, "n3": 2, "n4": 2}
        self.ports = {name: free_port() for name in (*self.zones, *SKEW)}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.mounts: list[Path] = []
        self.http = urllib3.PoolManager(
            maxsize=32, retries=False, timeout=urllib3.Timeout(connect=2.0, read=12.0)
        )
        self._cares: dict[str, Care] = {}

    # ---- making it

    def build(self) -> None:
        """Folders, devices, rings."""
        first = self.folder / "n1"
        for name in self.ports:
            port = self.ports[name] if name in self.zones else free_port()
            place = self.folder / name
            place.mkdir(parents=True)
            (place / lone.SETTINGS).write_text(SETTINGS.format(port=port))
        settings = self.settings("n1")
        rings = compose.rings_folder(first)
        rings.mkdir(parents=True)
        for ring, copies in {"account": 3.0, "container": 3.0, "object": 3.0, "object-1": 6.0}.items():
            builder = Builder.create(
                rings / f"{ring}.builder", part_power=5, replicas=copies, min_part_hours=0.0
            )
            for name, zone in self.zones.items():
                for device in DEVICES:
                    builder.add(
                        region=1,
                        zone=zone,
                        host="127.0.0.1",
                        port=self.ports[name],
                        device=device,
                        weight=100.0,
                    )
            builder.rebalance()
            builder.save()
        shared = key.cluster_key(first)
        paste = compose.PASTE.read_text()
        head, _, rest = paste.partition("[pipeline:objectstore]\npipeline = ")
        for name in self.ports:
            place = self.folder / name
            key.keep_key(key.path_of(place), shared)
            if name != "n1":
                shutil.copytree(rings, compose.rings_folder(place))
            (place / "paste.ini").write_text(
                f"{head}[pipeline:objectstore]\npipeline = listing service\n{rest.partition(chr(10))[2]}\n"
            )
        for name in self.zones:
            for device in DEVICES:
                self._make_device(name, device)
        assert settings.node_host

    def settings(self, name: str) -> Settings:
        return lone.load_settings(self.folder / name)

    def device(self, name: str, device: str) -> Path:
        return compose.devices_folder(self.folder / name, self.settings(name)) / device

    def _make_device(self, name: str, device: str) -> None:
        """A file system of its own where that is possible, seen by a link that a fault can take away."""
        disk = self.folder / "disks" / f"{name}-{device}"
        disk.mkdir(parents=True, exist_ok=True)
        if (
            os.geteuid() == 0
            and not subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(disk)],
                capture_output=True,
                check=False,
            ).returncode
        ):
            self.mounts.append(disk)
        link = self.device(name, device)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(disk)

    @property
    def mounted(self) -> bool:
        """Whether devices are file systems of their own."""
        return bool(self.mounts)

    def close(self) -> None:
        """End the processes, give back the devices."""
        for process in self.running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(10)
        for disk in self.mounts:
            subprocess.run(["mount", "-o", "remount,rw", str(disk)], capture_output=True, check=False)
            subprocess.run(["umount", "-l", str(disk)], capture_output=True, check=False)

    # ---- processes

    def start(self, name: str) -> None:
        """Start a process and wait until it listens."""
        log = (self.folder / f"{name}.log").open("ab")
        if name in self.zones:
            command = [sys.executable, "-m", "tests.probe.objectstore_node", str(self.folder / name)]
        else:
            command = [
                sys.executable, "-m", "tests.probe.objectstore_proxy", str(self.folder / name), str(self.ports[name]),
                str(SKEW[name]),
            ]  # fmt: skip
        with log:
            self.running[name] = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        self.wait(name)

    def wait(self, name: str) -> None:
        end = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.ports[name]), 1):
                return
            assert self.running[name].poll() is None, (self.folder / f"{name}.log").read_text()[-2000:]
            assert time.monotonic() < end, f"{name} does not listen"
            time.sleep(0.05)

    def kill(self, name: str) -> None:
        """kill -9."""
        self.running[name].kill()
        self.running[name].wait(10)

    def signal(self, name: str, number: int) -> None:
        self.running[name].send_signal(number)

    def cut(self, name: str, others: list[str]) -> None:
        """The process reaches none of the others; [] heals it."""
        scratch = self.folder / name / f".{FILE}"
        scratch.write_text(json.dumps({"refuse": [f"127.0.0.1:{self.ports[one]}" for one in others]}))
        scratch.replace(self.folder / name / FILE)

    # ---- what is at rest

    def care(self, name: str) -> Care:
        """The daemons of a node, in this process."""
        if name not in self._cares:
            store = lone.open_node(self.folder / name)
            self._cares[name] = Care(store=store, settings=store.settings.care)
        return self._cares[name]

    def rest(self, *, full: bool = False, rounds: int = 12) -> int:
        """Run the daemons of all nodes until a round has nothing to do; how many rounds that took.

        full: read all contents and databases first.
        """
        every = {name: passes(self.care(name)) for name in self.zones}
        if full:
            self.round(every, ("audit-full", "audit-databases"))
        work: list[str] = []
        for number in range(1, rounds + 1):
            work = self.round(every, REPAIRS)
            if not work:
                return number
        raise AssertionError(f"the daemons do not come to rest: {work}")

    def rest_while_writing(self) -> None:
        """Mend what a fault may have lost, before the next one: clients keep the daemons busy, so not until nothing
        is to do."""
        every = {name: passes(self.care(name)) for name in self.zones}
        self.round(every, ("audit-full", "audit-databases"))
        for _ in range(2):
            self.round(every, ("replicate", "reconstruct", "databases"))

    def round(self, every: dict[str, dict[str, Pass]], wanted: tuple[str, ...]) -> list[str]:
        """A pass of each daemon of each device; what was work in it."""
        work = []
        for daemon in wanted:
            for name in self.zones:
                for device in self.care(name).devices():
                    found = every[name][daemon](device)
                    for tally in found if isinstance(found, tuple) else (found,):
                        if isinstance(tally, Tally) and {what for what, n in tally.did.items() if n} - IDLE:
                            work.append(f"{name}/{device} {tally.daemon}: {tally.did} {tally.trouble}")
        return work


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def standing(folder: Path) -> Iterator[Stand]:
    """A store that runs."""
    stand = Stand(folder)
    try:
        stand.build()
        for name in stand.ports:
            stand.start(name)
        yield stand
    finally:
        stand.close()


def flip(path: Path, chance: Random) -> None:
    """Change one bit of a file."""
    size = path.stat().st_size
    if not size:
        return
    at = chance.randrange(size)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ (1 << chance.randrange(8))]))
