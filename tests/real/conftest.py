"""A real cloud on QEMU, driven by the unmodified `openstack` client. Needs root and the Debian packages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stand import free_ports

ROOT = Path(__file__).parents[2]


class Refused(Exception):
    """A command of the client ended with an error."""


class RealCloud:
    """The cloud and the client's command line."""

    def __init__(self, state: Path, port: int) -> None:
        self.state, self.port = state, port
        self.url = f"http://127.0.0.1:{port}"
        self.key = state.parent / "id_ed25519"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)

    def alto(self, *words: str, check: bool = True, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run the project's own command."""
        command = [sys.executable, "-m", "altostack", "--state", str(self.state), *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=check, timeout=timeout)

    def openstack(self, *words: str, user: str = "demo", timeout: float = 240) -> str:
        """Run the client; its standard output. Raises Refused with what it said."""
        client = Path(sys.executable).with_name("openstack")
        surroundings = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
        surroundings |= {"OS_CLIENT_CONFIG_FILE": str(self.state / "clouds.yaml"), "OS_CLOUD": user}
        done = subprocess.run(
            [str(client), *words],
            env=surroundings,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        if done.returncode:
            raise Refused(f"openstack {' '.join(words)}: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def ask(self, *words: str, user: str = "demo", timeout: float = 240) -> Any:
        """Run the client and read its JSON."""
        return json.loads(self.openstack(*words, "-f", "json", user=user, timeout=timeout))

    def outside(self, *words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command where floating IPs are reached."""
        return self.alto("outside", "--", *words, check=False, timeout=timeout)

    def pings(self, address: str) -> bool:
        """Whether the address answers a ping from outside."""
        return self.outside("ping", "-c", "1", "-W", "2", address).returncode == 0

    def ssh(self, address: str, command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command in a guest."""
        options = (
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "ConnectTimeout=5",
            "BatchMode=yes",
        )
        words = [word for option in options for word in ("-o", option)]
        return self.outside("ssh", *words, "-i", str(self.key), f"root@{address}", command, timeout=timeout)

    def says(self, address: str, command: str) -> str:
        """What a command in a guest printed, once SSH answers."""
        done = until(lambda: found if (found := self.ssh(address, command)).returncode == 0 else None, 60)
        return str(done.stdout).strip()

    def console(self, server: str) -> str:
        """The server's console log."""
        return self.openstack("console", "log", "show", server)


def until(look: Callable[[], Any], seconds: float) -> Any:
    """What ``look`` gives as soon as it is true; fails when that takes too long."""
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, f"it did not come true within {seconds} s"
        time.sleep(0.5)


def leftovers(prefix: str) -> list[str]:
    """Namespaces, interfaces, mounts and processes of a cloud that should be gone."""
    found = (
        [name for name in os.listdir("/run/netns") if name.startswith(prefix)]
        if os.path.isdir("/run/netns")
        else []
    )
    found += [name for name in os.listdir("/sys/class/net") if name.startswith((prefix, "tap"))]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if re.search(rf"\b{prefix}", line):
                found.append(f"process {entry.name}: {line[:100]}")
    return found


@pytest.fixture(scope="session")
def cloud() -> Iterator[RealCloud]:
    assert os.geteuid() == 0, "the data plane needs root"
    with tempfile.TemporaryDirectory(prefix="altostack-real-") as folder:
        state = Path(folder) / "cloud"
        port = free_ports()
        cloud = RealCloud(state, port)
        try:
            up = cloud.alto("up", "--port", str(port), check=False, timeout=600)
            assert up.returncode == 0, f"{up.stdout}\n{up.stderr}"
            print(up.stdout)
            yield cloud
        finally:
            down = cloud.alto("down", "--purge", check=False, timeout=120)
            print(down.stdout, down.stderr)
