"""A storage node to try things on, in this process and over HTTP."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from altostack.objectstore.config import Settings
from altostack.objectstore.disk import layout, server
from altostack.objectstore.disk.local import LocalNode
from altostack.objectstore.disk.remote import RemoteNode
from altostack.objectstore.httpd.server import Server, listen
from altostack.objectstore.stamp import Clock
from altostack.objectstore.storage import Node, Spot, Stored, Update

KEY = b"key of the tests"


@dataclass
class Rig:
    """A node with the devices d1, d2 and d3; ``node`` is how it is asked."""

    root: Path
    local: LocalNode
    node: Node
    clock: Clock = field(default_factory=Clock)
    spot: Spot = field(default_factory=lambda: Spot("d1", 0xAB >> 2, "ab" * 16))

    @property
    def device(self) -> Path:
        return self.root / self.spot.device

    @property
    def folder(self) -> Path:
        """Of the object."""
        return Path(layout.object_folder(str(self.root / self.spot.device), self.spot))

    def files(self) -> list[str]:
        return sorted(os.listdir(self.folder)) if self.folder.exists() else []

    def everything(self) -> list[str]:
        """Every file of the device but those of the object's own folder and the journal."""
        away = (self.folder, self.device / "journal")
        found = (path for path in self.device.rglob("*") if path.is_file() and path.parent not in away)
        return sorted(str(path.relative_to(self.device)) for path in found)

    def put(
        self,
        content: bytes = b"content",
        timestamp: str | None = None,
        *,
        frag: int | None = None,
        commit: bool = True,
        updates: Sequence[Update] = (),
        spot: Spot | None = None,
        size: int | None = -1,
        absent: bool = False,
        **metadata: str,
    ) -> str:
        """Write an object, ``x_object_meta_color="red"``; its timestamp."""
        timestamp = timestamp or self.clock.now()
        announced = len(content) if size == -1 else size
        writer = self.node.write(spot or self.spot, timestamp, size=announced, frag=frag, absent=absent)
        for at in range(0, len(content), 50_000):
            writer.write(content[at : at + 50_000])
        writer.put(
            facts(content) | {key.replace("_", "-"): value for key, value in metadata.items()}, updates
        )
        if commit:
            writer.commit()
        return timestamp

    def get(self, spot: Spot | None = None, **which: Any) -> bytes:
        return content(self.node.read(spot or self.spot, **which))

    def metadata(self, **which: Any) -> dict[str, str]:
        stored = self.node.read(self.spot, **which)
        stored.close()
        return dict(stored.metadata)


def facts(content: bytes) -> dict[str, str]:
    return {
        "name": "/a/c/o",
        "content-length": str(len(content)),
        "content-type": "text/plain",
        "etag": hashlib.md5(content, usedforsecurity=False).hexdigest(),
    }


def content(stored: Stored, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join(stored.content(start, stop))


def make_local(root: Path, **settings: Any) -> LocalNode:
    for name in ("d1", "d2", "d3"):
        (root / name).mkdir(parents=True, exist_ok=True)
    chosen = Settings(**settings)
    return LocalNode(root, chosen, chosen.storage_policies(), clock=Clock())


@pytest.fixture
def local(tmp_path: Path) -> Rig:
    """A node in this process."""
    node = make_local(tmp_path / "devices")
    return Rig(tmp_path / "devices", node, node)


Serve = Callable[..., RemoteNode]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """``serve(node)`` listens for it on a loopback port and returns a client."""
    servers: list[tuple[Server, RemoteNode]] = []

    def start(node: LocalNode, *, key: bytes = KEY, **more: Any) -> RemoteNode:
        listener = listen("127.0.0.1", 0)
        running = Server(server.handler(node, key=KEY, **more), listener, threads=8).start()
        client = RemoteNode("127.0.0.1", listener.getsockname()[1], key=key)
        servers.append((running, client))
        return client

    yield start
    for running, client in servers:
        client.close()
        running.stop(1.0)


@pytest.fixture(params=["local", "remote"])
def rig(request: pytest.FixtureRequest, tmp_path: Path, serve: Serve) -> Rig:
    """A node in this process, and the same over HTTP."""
    node = make_local(tmp_path / "devices")
    asked: Node = node if request.param == "local" else serve(node)
    return Rig(tmp_path / "devices", node, asked)
