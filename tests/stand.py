"""A cloud of real processes to measure or to torment: started, watched and taken down by whoever asks for it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import msgspec
import urllib3

from altostack.deploy import progress
from altostack.deploy.state import State
from altostack.deploy.supervisor import recorded

ROOT = Path(__file__).parents[1]


def free_ports() -> int:
    """A TCP port that was free a moment ago with the next two: the API's, the consoles' and the object store's."""
    while True:
        with socket.socket() as one, socket.socket() as two, socket.socket() as three:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            try:
                two.bind(("127.0.0.1", port + 1))
                three.bind(("127.0.0.1", port + 2))
            except (OSError, OverflowError):
                continue
            return port


class Stand:
    """A running cloud. ``seconds``: from the command until every API answered."""

    def __init__(self, state: Path, port: int, seconds: float) -> None:
        self.state, self.port, self.seconds = state, port, seconds
        self.url = f"http://127.0.0.1:{port}"
        self.pool = urllib3.PoolManager(maxsize=64, retries=False, timeout=60)
        self.secrets = tomllib.loads((state / "secrets.toml").read_text())

    def processes(self) -> dict[str, int]:
        """Process name -> pid, the supervisor included."""
        state = State(root=self.state)
        return {one["name"]: int(one["pid"]) for one in recorded(state)} | {
            "supervisor": progress.supervisor(state)
        }

    def pss(self) -> dict[str, float]:
        """Process name -> proportional set size in MiB (proc(5), smaps_rollup)."""
        sizes = {}
        for name, pid in self.processes().items():
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            sizes[name] = (
                next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024
            )
        return sizes

    def cpu_seconds(self) -> float:
        """Processor time used by all processes so far."""
        ticks = os.sysconf("SC_CLK_TCK")
        total = 0
        for pid in self.processes().values():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / ticks

    def token(self, user: str) -> str:
        """A project-scoped token."""
        body = {
            "auth": {
                "identity": {
                    "methods": ["password"],
                    "password": {
                        "user": {
                            "name": user,
                            "domain": {"id": "default"},
                            "password": self.secrets[f"{user}_password"],
                        }
                    },
                },
                "scope": {"project": {"name": user, "domain": {"id": "default"}}},
            }
        }
        answer = self.pool.request("POST", f"{self.url}/identity/v3/auth/tokens", json=body)
        return str(answer.headers["X-Subject-Token"])

    def call(self, method: str, path: str, token: str, json: Any = None, **headers: str) -> tuple[int, Any]:
        """(status, decoded body)."""
        sent = {"X-Auth-Token": token, **{k.replace("_", "-"): v for k, v in headers.items()}}
        answer = self.pool.request(method, self.url + path, json=json, headers=sent)
        return answer.status, msgspec.json.decode(answer.data) if answer.data.strip() else None


def answers(url: str) -> bool:
    """Whether every API answers."""
    pool = urllib3.PoolManager(retries=False, timeout=2)
    try:
        return all(
            pool.request("GET", f"{url}/{name}/healthcheck").status == 200
            for name in ("identity", "image", "placement", "network", "volume", "compute")
        )
    except urllib3.exceptions.HTTPError:
        return False


@contextmanager
def _folder(keep: bool) -> Iterator[str]:
    if keep:
        yield mkdtemp(prefix="altostack-kept-")
    else:
        with TemporaryDirectory(prefix="altostack-bench-") as folder:
            yield folder


@contextmanager
def running(
    *options: str,
    environ: dict[str, str] | None = None,
    settings: str = "",
    keep: bool = False,
    furnish: Callable[[Path, int], None] = lambda state, port: None,
) -> Iterator[Stand]:
    """A cloud started with ``altostack up`` and these options; taken down and purged at the end, unless kept.

    settings: the text of its altostack.toml. furnish: called with the cloud's folder and port before it starts.
    """
    with _folder(keep) as folder:
        port = free_ports()
        state = Path(folder) / "cloud"
        state.mkdir()
        if settings:
            (state / "altostack.toml").write_text(settings)
        furnish(state, port)
        command = [sys.executable, "-m", "altostack", "--state", str(state)]
        surroundings = {**os.environ, **(environ or {})}
        began = time.monotonic()
        started = subprocess.Popen(
            [*command, "up", "--port", str(port), *options],
            cwd=ROOT,
            env=surroundings,
            stdout=subprocess.DEVNULL,
        )
        try:
            while not answers(f"http://127.0.0.1:{port}"):
                if started.poll() not in (None, 0):
                    raise RuntimeError(f"altostack up failed with {started.returncode}")
                if time.monotonic() - began > 120:
                    raise RuntimeError("the cloud does not answer")
                time.sleep(0.01)
            seconds = time.monotonic() - began
            if started.wait(120):
                raise RuntimeError(f"altostack up failed with {started.returncode}")
            yield Stand(state, port, seconds)
        finally:
            if not keep:
                subprocess.run(
                    [*command, "down", "--purge"],
                    cwd=ROOT,
                    env=surroundings,
                    stdout=subprocess.DEVNULL,
                    check=False,
                )


def percentile(values: list[float], part: float) -> float:
    """The value below which ``part`` of them lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
