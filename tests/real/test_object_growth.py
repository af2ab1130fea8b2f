"""The page "Grow the object store", run as it stands: every machine is a network namespace of this test's."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from altostack.kit.proc import die_with_parent

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "objectstore.md"


class Machines:
    """Four machines on one switch: namespaces with the addresses of the page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = f"alg{secrets.token_hex(2)}"
        self.state = folder / "cloud"
        wrapper = folder / "bin" / "alto"
        wrapper.parent.mkdir()
        wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m altostack --state "{self.state}" "$@"\n')
        wrapper.chmod(0o755)
        self.nodes: list[subprocess.Popen[bytes]] = []

    def build(self) -> None:
        switch = f"{self.mark}s"
        self._ip("netns", "add", switch)
        self._ip("-n", switch, "link", "add", "br0", "type", "bridge")
        self._ip("-n", switch, "link", "set", "br0", "up")
        for number in range(1, 5):
            name = f"{self.mark}{number}"
            self._ip("netns", "add", name)
            self._ip(
                "link", "add", name, "netns", switch, "type", "veth", "peer", "name", "eth0", "netns", name
            )
            self._ip("-n", switch, "link", "set", name, "master", "br0", "up")
            self._ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", "eth0")
            self._ip("-n", name, "link", "set", "eth0", "up")
            self._ip("-n", name, "link", "set", "lo", "up")

    def remove(self) -> None:
        for node in self.nodes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGTERM)
            node.wait(30)
        self.run(1, "alto down --purge", check=False)
        for name in ("s", "1", "2", "3", "4"):
            subprocess.run(["ip", "netns", "del", self.mark + name], check=False, capture_output=True)

    def run(self, number: int, script: str, *, check: bool = True) -> str:
        """A shell script on a machine; what it printed."""
        environ = os.environ | {
            "PATH": f"{self.folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "N": str(number),
            "PYTHONPATH": str(ROOT),
        }
        done = subprocess.run(
            ["ip", "netns", "exec", f"{self.mark}{number}", "sh", "-euc", script],
            cwd=self.folder, env=environ, capture_output=True, text=True, check=False, timeout=240,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"machine {number}:\n{script}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
        return done.stdout

    def keep_running(self, number: int, command: str) -> None:
        """A command that stays in the foreground."""
        environ = os.environ | {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "N": str(number),
            "PYTHONPATH": str(ROOT),
        }
        log = (self.folder / f"node{number}.log").open("wb")
        parent = os.getpid()
        self.nodes.append(
            subprocess.Popen(
                ["ip", "netns", "exec", f"{self.mark}{number}", "sh", "-c", f"exec {command}"],
                cwd=self.folder, env=environ, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=lambda: die_with_parent(parent),
            )
        )  # fmt: skip

    def _ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    made = Machines(tmp_path)
    try:
        made.build()
        yield made
    finally:
        made.remove()


def blocks() -> list[tuple[str, str]]:
    """(where, script) of the page's commands, in their order."""
    section = PAGE.read_text().partition("## Grow the object store")[2].partition("\n## ")[0]
    return re.findall(r"```sh (first|each)\n(.*?)```", section, re.DOTALL)


def test_the_page(machines: Machines) -> None:
    settings = machines.state / "altostack.toml"
    machines.state.mkdir()
    settings.write_text('[cloud]\nhost = "10.77.0.1"\n')
    machines.run(1, "alto up --simulate")
    content = os.urandom(300_000)
    (machines.folder / "holiday").write_bytes(content)
    sign = f". {machines.state}/openrc; unset OS_CLOUD OS_CLIENT_CONFIG_FILE; "
    names = [f"n{number}" for number in range(12)]
    for name in names:
        (machines.folder / name).write_text(name)
    machines.run(1, f"{sign} swift upload photos holiday {' '.join(names)}")

    def readable() -> None:
        assert (
            machines.run(1, f"{sign} swift download photos holiday -o - | cmp - holiday && echo same")
            == "same\n"
        )
        assert sorted(machines.run(1, f"{sign} swift list photos").split()) == sorted(["holiday", *names])

    settings.write_text(
        settings.read_text() + re.search(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    )  # type: ignore[index] # the page has one
    for where, script in blocks():
        if where == "first":
            machines.run(1, script)
        else:
            for number in (2, 3, 4):
                *before, serve = script.strip().splitlines()
                machines.run(number, "\n".join(before))
                machines.keep_running(number, serve.rstrip("& "))
            until = time.monotonic() + 30
            while "not answer" in machines.run(1, "alto object nodes") or time.monotonic() > until:
                time.sleep(0.5)
        readable()
    machines.run(1, "alto object run replicate databases")
    for number in (2, 3, 4):
        machines.run(number, f"alto object run --folder altostack-node{number} replicate databases")
        readable()
    folders = [machines.state, *(machines.folder / f"altostack-node{number}" for number in (2, 3, 4))]
    copies = [
        path for folder in folders for path in (folder / "objectstore/devices/d1/objects").rglob("*.data")
    ]
    assert len(copies) == 3 * (1 + len(names))
    assert all((folder / "objectstore/devices/d1/objects").exists() for folder in folders)
    # One zone is lost: what remains has everything.
    for node in machines.nodes[1:]:
        os.killpg(node.pid, signal.SIGKILL)
    readable()
    assert "10.77.0.3:6200" in machines.run(1, "alto object nodes", check=False)
