"""Block storage with simulated nodes, and images and servers that are only pretended."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from altostack.kit.clients import Client, Response
from altostack.kit.flow import Engine
from altostack.kit.service import Node
from altostack.volume import SERVICE
from altostack.volume.agent import Agent
from altostack.volume.config import VolumeSettings
from altostack.volume.drivers.simulated import SimulatedDriver
from tests.lone import Lone

NEWEST = "3.71"


class Images:
    """An image service: images by id, and the bits that were uploaded."""

    def __init__(self) -> None:
        self.images: dict[str, dict[str, Any]] = {}
        self.bits: dict[str, bytes] = {}
        self.uploaders: dict[str, str] = {}
        self.down = False

    def add(self, **fields: Any) -> str:
        """An active image."""
        key = str(uuid.uuid4())
        self.images[key] = {
            "id": key, "name": "cirros", "status": "active", "disk_format": "raw", "container_format": "bare",
            "size": 1 << 20, "min_disk": 0, "os_distro": "alto", **fields,
        }  # fmt: skip
        self.bits[key] = b"bits"
        return key

    def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | Iterable[bytes] | None
    ) -> Response:
        if self.down:
            raise ConnectionError("no image service")
        parts = path.strip("/").split("/")
        if path.startswith("/internal/nodes/"):
            return self._bits(method, parts[2], parts[4], body)
        if path.startswith("/internal/images/"):
            assert isinstance(body, bytes)
            self.uploaders[parts[2]] = msgspec.json.decode(body)["host"]
            return _answer(204)
        if method == "POST":
            assert isinstance(body, bytes)
            key = str(uuid.uuid4())
            self.images[key] = {"id": key, "status": "queued", **msgspec.json.decode(body)}
            return _answer(201, self.images[key])
        found = self.images.get(parts[-1])
        if found is None:
            return _answer(404, {"message": "no such image"})
        if method == "DELETE":
            del self.images[parts[-1]]
            return _answer(204)
        return _answer(200, found)

    def _bits(self, method: str, host: str, key: str, body: Any) -> Response:
        if method == "GET":
            return Response(
                status=200 if key in self.bits else 404, headers={}, chunks=[self.bits.get(key, b"")]
            )
        if self.uploaders.get(key) != host or key not in self.images:
            return _answer(403)
        self.bits[key] = b"".join(body)
        self.images[key]["status"] = "active"
        return _answer(204)


class Servers:
    """A compute service that knows which attachment a server uses, and what it was told."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], str] = {}
        self.events: list[dict[str, Any]] = []

    def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | Iterable[bytes] | None
    ) -> Response:
        parts = path.strip("/").split("/")
        if method == "POST":
            assert isinstance(body, bytes)
            self.events += msgspec.json.decode(body)["events"]
            return _answer(200, {"events": []})
        found = self.held.get((parts[2], parts[4]))
        return _answer(200, {"volumeAttachment": {"attachment_id": found}}) if found else _answer(404, {})


def _answer(status: int, body: Any = None) -> Response:
    return Response(status=status, headers={}, chunks=[b"" if body is None else msgspec.json.encode(body)])


class World:
    """The service, its flows and its nodes, stepped by hand."""

    def __init__(
        self, folder: Path, *, hosts: tuple[str, ...] = ("n1",), url: str | None = None, **chosen: Any
    ) -> None:
        self.passed = 0.0
        self.lone = Lone(
            SERVICE, folder, url=url, settings=VolumeSettings(**chosen), cloud={"simulate": True}
        )
        self.images, self.servers = Images(), Servers()
        runtime = self.lone.runtime
        runtime.clients = {
            "volume": self.lone.client,
            "image": Client("image", self.images),
            "compute": Client("compute", self.servers, versions="compute"),
        }
        assert SERVICE.bootstrap is not None
        SERVICE.bootstrap(runtime)
        self._folder = folder
        self.drivers: dict[str, SimulatedDriver] = {}
        self.agents: dict[str, Agent] = {}
        for host in hosts:
            self.join(host)
            self.agents[host].beat()

    def join(self, host: str) -> None:
        """A further storage node; nobody has heard of it yet."""
        self.drivers[host] = SimulatedDriver(folder=self._folder / host / "volumes", thin=True)
        node = Node(
            host=host,
            root=self._folder / host,
            drivers={"volume": self.drivers[host]},
            token=self.lone.node(host),
        )
        self.agents[host] = Agent(self.lone.runtime, node, workers=0)

    def settle(self, *, probe: Callable[[str], None] | None = None) -> None:
        """Run flows and agents in turn until no flow is due."""
        Engine(self.lone.runtime, lease=0.0, probe=probe).drain()
        for _ in range(10):
            for agent in self.agents.values():
                agent.look(())
            if Engine(self.lone.runtime, lease=0.0, probe=probe).drain() == 0:
                return
        raise AssertionError("the service does not settle")

    def later(self, seconds: float) -> None:
        """Let time pass."""
        self.passed += seconds
        self.lone.runtime.clock = lambda: time.time() + self.passed

    def call(self, method: str, path: str, json: Any = None, **more: Any) -> Any:
        """A request of a member at the newest version."""
        return self.lone.call(method, f"/v3{path}", json, **{"version": NEWEST} | more)

    def refused(self, method: str, path: str, json: Any = None, **more: Any) -> tuple[int, dict[str, Any]]:
        """(status, the fault's content) of a request that must be refused."""
        status, text = self.lone.refusal(method, f"/v3{path}", json, **{"version": NEWEST} | more)
        ((name, fault),) = msgspec.json.decode(text).items()
        assert fault["code"] == status, text
        return status, fault | {"name": name}

    def act(self, volume: str, word: str, body: Any = None, **more: Any) -> Any:
        """An action of a volume."""
        return self.call("POST", f"/volumes/{volume}/action", {word: body}, **more)

    def make(self, size: int | None = 1, **fields: Any) -> str:
        """A volume that is only asked for."""
        body = {"volume": {"size": size, **fields}} if size is not None else {"volume": fields}
        return str(self.call("POST", "/volumes", body)["volume"]["id"])

    def volume(self, size: int | None = 1, **fields: Any) -> str:
        """A volume that is there."""
        key = self.make(size, **fields)
        self.settle()
        assert self.status(key) == "available", self.messages(key)
        return key

    def status(self, volume: str) -> str:
        return str(self.show(volume)["status"])

    def show(self, volume: str, **more: Any) -> dict[str, Any]:
        return dict(self.call("GET", f"/volumes/{volume}", **more)["volume"])

    def messages(self, key: str) -> list[str]:
        """What the owner is told about something."""
        found = self.call("GET", f"/messages?resource_uuid={key}")["messages"]
        return [one["user_message"] for one in found]

    def snapshot(self, volume: str, **fields: Any) -> str:
        """A snapshot that is there."""
        body = {"snapshot": {"volume_id": volume, **fields}}
        key = str(self.call("POST", "/snapshots", body)["snapshot"]["id"])
        self.settle()
        return key

    def close(self) -> None:
        self.lone.close()
