"""A whole simulated cloud inside one process: for tests, ours and other people's.

`InProcessCloud` composes the same services that `altostack up` runs, with the in-memory bus, SQLite files in a
folder and the simulated drivers. Nothing listens unless `serve` is called.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import msgspec

from altostack.app import Cloud, load_services, settings_class
from altostack.kit.bus import Bus, open_bus
from altostack.kit.clients import Client
from altostack.kit.flow import LEASE, Engine
from altostack.kit.reconcile import Loop
from altostack.kit.service import Node
from altostack.objectstore.httpd.server import Server, listen
from altostack.objectstore.store import Store


class InProcessCloud:
    """The cloud. ``settings`` maps section -> key -> value over the defaults; ``hosts`` names the simulated nodes.

    services: which of them, "objectstore" among them; all by default. ``bus``: used instead of the one that [cloud] bus
    names, which is an in-memory one by default.
    """

    def __init__(
        self,
        state: Path,
        *,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        hosts: tuple[str, ...] = ("node-1",),
        services: tuple[str, ...] | None = None,
        clock: Callable[[], float] = time.time,
        port: int = 0,
        bus: Bus | None = None,
    ) -> None:
        self.state = state
        self._server: WSGIServer | None = None
        if port == 0:
            self._server = _listen()
            port = self._server.server_port
        self._with_objects = services is None or "objectstore" in services
        loaded = (
            load_services(one for one in services if one != "objectstore") if services else load_services()
        )
        table = {name: dict(values) for name, values in (settings or {}).items()}
        # Passwords of a cloud that lives as long as a test need no slow hash.
        table["identity"] = {"password_rounds": 4, **table.get("identity", {})}
        table["cloud"] = {"simulate": True, "hosts": hosts, "port": port, **table.get("cloud", {})}
        self._object_door = listen("127.0.0.1", 0)
        table["objectstore"] = {"port": self._object_door.getsockname()[1], **table.get("objectstore", {})}
        chosen = msgspec.convert(table, settings_class(loaded))
        # No dash in front: a command line would take it for an option.
        self.passwords = {"admin": secrets.token_hex(12), "demo": secrets.token_hex(12)}
        keys = {
            "node_key": secrets.token_hex(32),
            "metadata_secret": secrets.token_hex(32),
            "admin_password": self.passwords["admin"],
            "demo_password": self.passwords["demo"],
        }
        self.cloud = Cloud(state, chosen, keys, services=loaded, objects=self._with_objects, clock=clock)
        self.cloud.open(bus or open_bus(chosen.cloud.bus or "memory:", namespace=chosen.cloud.bus_namespace))
        self.cloud.prepare()
        self.nodes: list[Node] = [self.cloud.node(host) for host in hosts]
        self.engines: list[Engine] = []
        self.loops: list[Loop] = []
        self.agents: list[Loop] = []
        self.revive()
        self._tokens: dict[tuple[str, str], str] = {}
        self._objects: Server | None = None
        self._store: Store | None = None
        self._running = False

    def revive(self, *, lease: float = LEASE, probe: Callable[[str], None] | None = None) -> None:
        """New engines, loops and agents over the same databases and drivers, as after a kill of what ran them.

        Not for a started cloud. ``lease`` and ``probe`` are as in `Engine`.
        """
        self.engines = self.cloud.engines(lease=lease, probe=probe)
        self.loops = self.cloud.loops()
        self.agents = [loop for node in self.nodes for loop in self.cloud.agents(node)]

    def start(self) -> InProcessCloud:
        """Start flows, loops and agents in threads of their own."""
        self._running = True
        for engine in self.engines:
            engine.start()
        for loop in (*self.loops, *self.agents):
            loop.start(self.cloud.runtimes["identity"].bus)
        return self

    def serve(self) -> str:
        """Listen on a loopback port; returns the identity endpoint's URL."""
        if self._server is None:
            raise RuntimeError("this cloud was made with a port of somebody else's")
        self._server.set_app(self.cloud)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True, name="http").start()
        if self._with_objects and self._objects is None:
            store = self.object_store()
            assert store.app is not None
            self._objects = Server(store.app, self._object_door, threads=8).start()
        return f"{self.cloud.url}/identity/v3"

    def stop(self) -> None:
        """End everything that `start` and `serve` began, and close the databases."""
        if self._running:
            parts: list[Engine | Loop] = [*self.engines, *self.loops, *self.agents]
            for part in parts:
                part.stop(5.0)
        if self._server is not None:
            if self._server.get_app() is not None:
                self._server.shutdown()
            self._server.server_close()
        if self._objects is not None:
            self._objects.stop(1.0)
        self._object_door.close()
        self.cloud.close()

    def settle(self, *, rounds: int = 200) -> None:
        """Without threads: run flows, loops and agents in turn until nothing is due."""
        for _ in range(rounds):
            ran = sum(engine.drain() for engine in self.engines)
            for loop in (*self.agents, *self.loops):
                loop.once()
            if ran + sum(engine.drain() for engine in self.engines) == 0:
                return
        raise RuntimeError(f"the cloud did not settle in {rounds} rounds")

    def object_store(self) -> Store:
        """The object store, the same for as long as the cloud lives; nothing looks after its devices by itself."""
        if self._store is None:
            self._store = self.cloud.object_store()
        return self._store

    # ---- talking to it

    def client(self, name: str) -> Client:
        """A client of a service, without a token of its own."""
        return self.cloud.client(name)

    def token(self, user: str = "demo", project: str | None = None, password: str | None = None) -> str:
        """A project-scoped token, kept for the life of the cloud. Raises RemoteError when refused."""
        project = project or user
        known = self._tokens.get((user, project))
        if known is not None:
            return known
        token, _ = self.cloud.log_in(user, password or self.passwords[user], project)
        self._tokens[(user, project)] = token
        return token

    def person(self, name: str, *, project: str, roles: tuple[str, ...] = ("member",)) -> str:
        """Make a user with roles in a project (made too when missing); a token of theirs."""
        identity, admin = self.client("identity"), self.token("admin")
        found = identity.call("GET", "/v3/projects", query={"name": project}, token=admin)["projects"]
        if not found:
            body = {"project": {"name": project, "domain_id": "default"}}
            found = [identity.call("POST", "/v3/projects", body, token=admin)["project"]]
        user = {"name": name, "domain_id": "default", "password": f"password of {name}"}
        made = identity.call("POST", "/v3/users", {"user": user}, token=admin)["user"]
        known = {r["name"]: r["id"] for r in identity.call("GET", "/v3/roles", token=admin)["roles"]}
        for role in roles:
            identity.call(
                "PUT", f"/v3/projects/{found[0]['id']}/users/{made['id']}/roles/{known[role]}", token=admin
            )
        return self.token(name, project, f"password of {name}")


@contextmanager
def running(state: Path, **options: Any) -> Iterator[InProcessCloud]:
    """A started cloud for a with-block."""
    cloud = InProcessCloud(state, **options).start()
    try:
        yield cloud
    finally:
        cloud.stop()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Requests are logged by the services."""


def _listen() -> _Server:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.server_name = "localhost"
    return server
