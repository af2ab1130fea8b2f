"""The network service alone, nodes with the simulated driver, and a compute service that only listens."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from altostack.kit.clients import Client, RemoteError, WsgiTransport
from altostack.kit.service import Node
from altostack.network import SERVICE
from altostack.network.agent import Agent
from altostack.network.config import NetworkSettings
from altostack.network.drivers.base import NodeNetworks, Observed
from altostack.network.drivers.simulated import SimulatedDriver
from altostack.network.metadata import MetadataDoor
from tests.lone import PEOPLE, Lone

MINE = PEOPLE["member"].project_id
OTHERS = PEOPLE["other"].project_id


class Driver(SimulatedDriver):
    """The simulated driver, which remembers what it was told last."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.desired = NodeNetworks()

    def converge(self, desired: NodeNetworks) -> Observed:
        self.desired = desired
        return super().converge(desired)


class Listener:
    """What compute was told and asked."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.asked: list[dict[str, str]] = []
        self.status = "200 OK"
        self.answer = b"meta"

    def __call__(self, environ: dict[str, Any], respond: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith("/metadata"):
            names = {k: v for k, v in environ.items() if k.startswith("HTTP_")}
            self.asked.append({"path": environ["PATH_INFO"], **names})
            respond(self.status, [("Content-Type", "application/json")])
            return [self.answer]
        if self.status.startswith("200"):
            body = msgspec.json.decode(environ["wsgi.input"].read())
            self.events.extend(body["events"])
        respond(self.status, [("Content-Type", "application/json")])
        return [b"{}"]


class Net(Lone):
    """The service; ``node(...)`` adds agents."""

    def __init__(
        self, folder: Path, *, url: str | None = None, settings: NetworkSettings | None = None
    ) -> None:
        secrets = {"secrets": {"metadata_secret": "m"}}
        super().__init__(SERVICE, folder, url=url, settings=settings, cloud=secrets)
        self.folder = folder
        self.compute = Listener()
        self.runtime.clients = {
            "network": self.client,
            "compute": Client("compute", WsgiTransport(self.compute)),
        }
        assert SERVICE.bootstrap is not None
        SERVICE.bootstrap(self.runtime)

    def agent(self, host: str = "node-1", **options: Any) -> tuple[Agent, Driver]:
        """An agent, not started; its first look has been made."""
        driver = Driver(**options)
        node = Node(
            host=host, root=self.folder, drivers={"network": driver, "metadata": MetadataDoor()},
            token=self.node(host),
        )  # fmt: skip
        agent = Agent(self.runtime, node)
        agent.look(())
        return agent, driver

    # ---- short words for what tests do all the time

    def make(self, kind: str, who: str = "member", **fields: Any) -> dict[str, Any]:
        """Create one resource."""
        path = f"/v2.0/{kind.replace('_', '-')}s"
        named = {key.replace("__", ":"): value for key, value in fields.items()}
        found: dict[str, Any] = self.call("POST", path, {kind: named}, who=who)[kind]
        return found

    def show(self, kind: str, key: str, who: str = "member") -> dict[str, Any]:
        """Show one resource."""
        found: dict[str, Any] = self.call("GET", f"/v2.0/{kind.replace('_', '-')}s/{key}", who=who)[kind]
        return found

    def put(self, kind: str, key: str, who: str = "member", **fields: Any) -> dict[str, Any]:
        """Update one resource."""
        path = f"/v2.0/{kind.replace('_', '-')}s/{key}"
        named = {name.replace("__", ":"): value for name, value in fields.items()}
        found: dict[str, Any] = self.call("PUT", path, {kind: named}, who=who)[kind]
        return found

    def drop(self, kind: str, key: str, who: str = "member") -> None:
        """Delete one resource."""
        self.call("DELETE", f"/v2.0/{kind.replace('_', '-')}s/{key}", who=who)

    def ask(self, query: str, who: str = "member") -> list[dict[str, Any]]:
        """A list: ``ports?name=x``."""
        answer = self.call("GET", f"/v2.0/{query}", who=who)
        return list(answer[query.partition("?")[0].replace("-", "_")])

    def no(self, method: str, path: str, json: Any = None, who: str = "member") -> tuple[int, str, str]:
        """(status, NeutronError type, message) of a request that must be refused."""
        with pytest.raises(RemoteError) as caught:
            self.call(method, f"/v2.0/{path}", json, who=who)
        body = caught.value.body
        assert set(body) == {"NeutronError"} and set(body["NeutronError"]) == {"type", "message", "detail"}
        return caught.value.status, body["NeutronError"]["type"], body["NeutronError"]["message"]

    def lan(self, cidr: str = "10.0.0.0/24", who: str = "member", **fields: Any) -> tuple[str, str]:
        """A network with a subnet: their ids."""
        network = self.make("network", who, name="lan")["id"]
        version = 6 if ":" in cidr else 4
        subnet = self.make("subnet", who, network_id=network, cidr=cidr, ip_version=version, **fields)["id"]
        return network, subnet

    def outside(self) -> str:
        """The external network's id."""
        return str(self.ask("networks?router:external=True")[0]["id"])
