"""Compute with real placement and image services, fake network and volume, and simulated nodes; no threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from altostack import compute, image, placement
from altostack.compute.agent import Agent
from altostack.compute.drivers.simulated import Capacity, SimulatedDriver
from altostack.image.stores import open_stores
from altostack.kit.bus import MemoryBus
from altostack.kit.clients import Client, RemoteError, ServiceToken, WsgiTransport
from altostack.kit.flow import Engine
from altostack.kit.service import Node
from tests.compute.fakes import FakeNetwork, FakeVolume
from tests.lone import PEOPLE, Lone

OWN = "1" * 32  # the member's project
QCOW2 = Path(__file__)


class World:
    """A cloud for compute's tests. ``run`` lets everything that is due happen, in this thread."""

    def __init__(
        self, folder: Path, *, hosts: int = 1, capacity: Capacity | None = None, url: str | None = None
    ) -> None:
        self.folder = folder
        self.placement = Lone(placement.SERVICE, folder)
        self.image = Lone(
            image.SERVICE, folder, drivers={"stores": open_stores(folder, image.SERVICE.settings())}
        )
        self.network, self.volume = FakeNetwork(), FakeVolume()
        self.secret = "metadata secret"
        self.lone = Lone(
            compute.SERVICE, folder, url=url,
            cloud={"simulate": True, "secrets": {"metadata_secret": self.secret}, "console_url": "http://console"},
        )  # fmt: skip
        self.runtime = self.lone.runtime
        for lone in (self.placement, self.image, self.lone):
            if lone.service.bootstrap is not None:
                lone.service.bootstrap(lone.runtime)
        own = ServiceToken(lambda: ("admin", 9e12))
        self.runtime.clients = {
            "placement": Client("placement", WsgiTransport(self.placement.app), own, versions="placement"),
            "image": Client("image", WsgiTransport(self.image.app), own),
            "network": Client("network", self.network, own),
            "volume": Client("volume", self.volume, own, versions="volume"),
            "compute": Client("compute", WsgiTransport(self.lone.app), own, versions="compute"),
        }
        self.drivers: dict[str, SimulatedDriver] = {}
        self.agents: dict[str, Agent] = {}
        self.capacity = capacity or Capacity(vcpus=8, memory_mib=4096, disk_gib=100)
        for number in range(1, hosts + 1):
            self.boot(f"node-{number}")
        self.engine = Engine(self.runtime)
        self.loops = compute.SERVICE.loops(self.runtime) if compute.SERVICE.loops else ()
        self.run()
        self.net = self.network.add(OWN)
        self.image_id = self._image()

    def boot(self, host: str) -> None:
        """Start, or start again, a node's agent."""
        root = self.folder / host
        root.mkdir(exist_ok=True)
        if host not in self.drivers:
            self.drivers[host] = SimulatedDriver(root=root, hostname=host, capacity=self.capacity)
        node = Node(host=host, root=root, drivers={"compute": self.drivers[host]}, token=self.lone.node(host))
        # A process that starts again comes with a bus connection of its own.
        runtime = replace(self.runtime, bus=MemoryBus()) if host in self.agents else self.runtime
        self.agents[host] = Agent(runtime, node)

    def _image(self) -> str:
        made = self.image.call(
            "POST", "/v2/images",
            {"name": "tiny", "disk_format": "raw", "container_format": "bare", "visibility": "private"},
        )  # fmt: skip
        self.upload(made["id"], b"a disk" * 100)
        return str(made["id"])

    def upload(self, image_id: str, bits: bytes) -> None:
        """Give an image its bits."""
        answer = self.image.client.send(
            "PUT", f"/v2/images/{image_id}/file", bits, token="member",
            headers={"Content-Type": "application/octet-stream"},
        )  # fmt: skip
        assert answer.status == 204, answer.read()

    def run(self, rounds: int = 10, *, agents: bool = True) -> None:
        """Flows, agents and loops in turn, until nothing is due, or for some rounds where something always is."""
        for _ in range(rounds):
            ran = self.engine.drain()
            if agents:
                for agent in self.agents.values():
                    agent.looks.once()
                    agent.reports.once()
            for loop in self.loops:
                loop.once()
            if ran + self.engine.drain() == 0:
                return

    def until(self, true: Callable[[], bool], seconds: float = 10.0) -> None:
        """Run until something holds; steps that wait for time need that."""
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, "it did not come to pass"
            self.run()
            time.sleep(0.02)

    # ---- talking to compute

    def call(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        who: str = "member",
        version: str = "2.104",
        **more: Any,
    ) -> Any:
        """A request below /v2.1."""
        return self.lone.call(method, "/v2.1" + path, json, who=who, version=version, **more)

    def refused(
        self, method: str, path: str, json: Any = None, *, who: str = "member", version: str = "2.104"
    ) -> tuple[int, str]:
        """(status, body) of a request that must be refused."""
        return self.lone.refusal(method, "/v2.1" + path, json, who=who, version=version)

    def create(self, **fields: Any) -> str:
        """A server as asked for; its id."""
        return str(self.call("POST", "/servers", {"server": self.body(**fields)})["server"]["id"])

    def body(self, **fields: Any) -> dict[str, Any]:
        """What creates a small server on the project's network."""
        found = {
            "name": "one", "imageRef": self.image_id, "flavorRef": "6", "networks": [{"uuid": self.net}], **fields,
        }  # fmt: skip
        return {name: value for name, value in found.items() if value is not None}

    def active(self, **fields: Any) -> str:
        """A server that runs; its id."""
        key = self.create(**fields)
        self.until(lambda: self.show(key)["status"] != "BUILD")
        assert self.show(key)["status"] == "ACTIVE", self.show(key)
        return key

    def wired(self) -> None:
        """The network service wires the ports that it held back, and tells."""
        self.network.release()
        events = [
            {
                "name": "network-vif-plugged",
                "server_uuid": port["device_id"],
                "tag": port["id"],
                "status": "completed",
            }
            for port in self.network.ports.values()
            if port["device_id"]
        ]
        if events:
            self.call("POST", "/os-server-external-events", {"events": events}, who="service")

    def show(self, key: str, *, who: str = "admin", version: str = "2.104") -> dict[str, Any]:
        """A server's answer."""
        return dict(self.call("GET", f"/servers/{key}", who=who, version=version)["server"])

    def act(self, key: str, word: str, body: Any = None, **more: Any) -> Any:
        """An action on a server."""
        return self.call("POST", f"/servers/{key}/action", {word: body}, **more)

    def gone(self, key: str) -> bool:
        """Whether a server is no more."""
        try:
            self.show(key)
        except RemoteError as error:
            assert error.status == 404
            return True
        return False

    def leftovers(self) -> dict[str, Any]:
        """What servers left behind anywhere: it should be nothing."""
        providers = self.placement.call("GET", "/resource_providers", who="admin", version="1.39")
        used = {}
        for one in providers["resource_providers"]:
            found = self.placement.call(
                "GET", f"/resource_providers/{one['uuid']}/usages", who="admin", version="1.39"
            )
            used.update({name: n for name, n in found["usages"].items() if n})
        return {
            name: value
            for name, value in {
                "guests": [guest for driver in self.drivers.values() for guest in driver.guests()],
                "ports": [port for port in self.network.ports.values() if port["device_id"]],
                "attachments": list(self.volume.held),
                "allocations": used,
            }.items()
            if value
        }

    def close(self) -> None:
        """Close everything."""
        for lone in (self.lone, self.image, self.placement):
            lone.close()


__all__ = ["OWN", "PEOPLE", "World"]
