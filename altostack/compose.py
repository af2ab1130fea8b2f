"""A cloud as processes: the roles that the supervisor runs, and what happens around them.

api    the APIs, several processes on one shared socket; in-process calls between services
work   flows, in as many processes as are asked for; periodic work in the first
node   the agents of this machine's nodes and their drivers; reaches the services only over HTTP
web    consoles
object the object store, on a port of its own
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from altostack import drivers
from altostack.app import Cloud, load_services, object_address, settings_class
from altostack.deploy.role import Progress, Role, RoleContext
from altostack.deploy.serve import serve
from altostack.deploy.state import State
from altostack.kit import config
from altostack.kit.bus import Bus, open_bus
from altostack.kit.clients import Client, segment
from altostack.kit.metrics import Metrics
from altostack.kit.service import Runtime

log = logging.getLogger(__name__)
_NODES_SECONDS = 60.0  # a node's hypervisor starts in a few


def load_settings(state: State, **over: Any) -> Any:
    """The cloud's settings: its altostack.toml, the environment, and ``over`` for [cloud]. Raises ConfigError."""
    settings = config.load(settings_class(load_services()), state.settings)
    known = {name: value for name, value in over.items() if value is not None}
    return (
        msgspec.structs.replace(settings, cloud=msgspec.structs.replace(settings.cloud, **known))
        if known
        else settings
    )


class CloudComposition:
    """`altostack.deploy.role.Composition` of a whole cloud. Making one touches nothing but the state folder."""

    def __init__(self, state: State, settings: Any) -> None:
        self._state = state
        self._settings = settings
        self._secrets = {
            name: getattr(secrets, name).reveal()
            for secrets in (state.read_secrets(),)
            for name in secrets.__struct_fields__
        }
        cloud, objects = settings.cloud, settings.objectstore
        listen = {"clients": object_address(settings)}
        if objects.node_host:
            listen["nodes"] = (objects.node_host, objects.node_port)
        self._bus_url = cloud.bus or state.bus_url
        self._roles = {
            role.name: role
            for role in (
                Role(
                    name="api", run=self._api, count=cloud.workers, listen={"api": (cloud.host, cloud.port)}
                ),
                Role(name="work", run=self._work, count=cloud.flow_workers),
                Role(name="node", run=self._node),
                Role(name="object", run=self._object, count=objects.processes, listen=listen),
                Role(name="web", run=self._web, listen={"console": (cloud.host, cloud.console_port)}),
            )
        }

    @cached_property
    def _cloud(self) -> Cloud:
        """All services, made when first needed: taking a cloud down needs none."""
        return Cloud(self._state.root, self._settings, self._secrets)

    @property
    def roles(self) -> Mapping[str, Role]:
        """The processes. They share the memory of what is made here, before they part."""
        assert self._cloud is not None
        return self._roles

    @property
    def endpoints(self) -> Mapping[str, str]:
        """Service -> public URL."""
        found = {
            name: (self._cloud.url + service.endpoint).replace("/%(project_id)s", "")
            for name, service in self._cloud.services.items()
        }
        return found | {"objectstore": f"{self._cloud.object_url}/v1", "s3": self._cloud.object_url}

    def prepare(self, progress: Progress) -> None:
        """Schemas and first contents."""
        self._cloud.prepare(progress)

    def after_start(self, progress: Progress) -> None:
        """The starter image, registered once; and the nodes, which servers need."""
        from altostack.starter import register

        register(self._cloud, progress)
        self._await_nodes(progress)

    def _await_nodes(self, progress: Progress) -> None:
        """Until every node of this machine offers room for servers. One that fails to is told of, no more: the rest of
        the cloud works."""
        compute, placement = (self._cloud.client(name, "compute") for name in ("compute", "placement"))
        missing = set(self._settings.cloud.hosts)
        until = time.monotonic() + _NODES_SECONDS
        while True:
            found = compute.call("GET", "/v2.1/os-hypervisors/detail", version="2.53")["hypervisors"]
            for one in found:
                host, room = one["service"]["host"], f"/resource_providers/{one['id']}/inventories"
                if host in missing and (placement.call("GET", room, missing_ok=True) or {}).get(
                    "inventories"
                ):
                    missing.discard(host)
            if not missing:
                return
            if time.monotonic() > until:
                for host in sorted(missing):
                    progress(
                        f"{host} does not report: no server will start there; see {self._state.log}/node.log"
                    )
                return
            time.sleep(0.05)

    def teardown(self) -> None:
        """Take down the data plane of every node: guests, daemons, namespaces."""
        for host in self._settings.cloud.hosts:
            root = self._state.node(host)
            if root.exists():
                drivers.teardown(self._state.root, root, host, self._settings)

    def runtime(self, service: str) -> Runtime:
        """One service as it runs here, for work on it from within."""
        return self._cloud.runtimes[service]

    def neighbours(self, caller: str) -> Mapping[str, Client]:
        """Clients of every service with the authority of service ``caller``."""
        return self._cloud.runtimes[caller].clients

    def over_http(self) -> dict[str, Client]:
        """Clients that reach the running cloud as anybody else does, without a token of their own."""
        cloud = Cloud(self._state.root, self._settings, self._secrets, remote=self._cloud.url)
        return {name: cloud.client(name) for name in cloud.services}

    def user_token(self, user: str) -> str:
        """A token of one of the cloud's own people ("admin", "demo"), scoped to the project of that name."""
        return self._cloud.log_in(user, self._secrets[f"{user}_password"], user)[0]

    def _open_bus(self) -> Bus:
        return open_bus(self._bus_url, namespace=self._settings.cloud.bus_namespace)

    @contextmanager
    def _measured(self, cloud: Cloud, context: RoleContext) -> Iterator[None]:
        """Count what this process does, for /metrics."""
        metrics = Metrics(context.process, self._state.metrics)
        cloud.measure(metrics)
        metrics.start()
        try:
            yield
        finally:
            metrics.close()

    # ---- the processes

    def _api(self, context: RoleContext) -> None:
        self._cloud.open(self._open_bus())
        try:
            with self._measured(self._cloud, context):
                serve(
                    self._cloud,
                    context.listeners["api"],
                    stop=context.stop,
                    threads=self._settings.cloud.threads,
                    ready=context.ready,
                )
        finally:
            self._cloud.close()

    def _work(self, context: RoleContext) -> None:
        cloud = self._cloud
        bus = self._open_bus()
        cloud.open(bus)
        parts = [*cloud.engines()]
        loops = (
            cloud.loops() if context.index == 1 else ()
        )  # any process may run a flow, periodic work needs one
        for engine in parts:
            engine.start()
        for loop in loops:
            loop.start(bus)
        context.ready()
        context.stop.wait()
        _stop_all([*parts, *loops])
        cloud.close()

    def _node(self, context: RoleContext) -> None:
        bus = self._open_bus()
        cloud = Cloud(self._state.root, self._settings, self._secrets, remote=self._cloud.url)
        cloud.open(bus)
        nodes = [cloud.node(host) for host in self._settings.cloud.hosts]
        loops = [loop for node in nodes for loop in cloud.agents(node)]
        for loop in loops:
            loop.start(bus)
        context.ready()
        context.stop.wait()
        _stop_all(loops)
        for node in nodes:
            for driver in node.drivers.values():
                close = getattr(driver, "close", None)
                if close is not None:
                    close()
        cloud.close()

    def _object(self, context: RoleContext) -> None:
        from altostack.objectstore.compose import serve_store

        self._cloud.open(self._open_bus())
        try:
            serve_store(
                self._cloud.object_store(), context.listeners, stop=context.stop, ready=context.ready,
                care=context.index == 1,
            )  # fmt: skip
        finally:
            self._cloud.close()

    def _web(self, context: RoleContext) -> None:
        from altostack.compute.console import serve_console
        from altostack.compute.drivers.base import Console

        compute: Client = self._cloud.client("compute", "compute")

        def validate(token: str) -> Console | None:
            found = compute.call("GET", f"/internal/console-tokens/{segment(token)}", missing_ok=True)
            return Console(path=Path(found["path"])) if found else None

        serve_console(
            context.listeners["console"],
            validate=validate,
            allowed_hosts=self._console_hosts(),
            stop=context.stop,
            ready=context.ready,
        )

    def _console_hosts(self) -> set[str]:
        """The names under which people reach the consoles: their own and the API's."""
        urls = (self._settings.cloud.console_url, self._cloud.url)
        names = {urlsplit(url).hostname or "" for url in urls if url}
        return {*names, self._settings.cloud.host, "localhost", "127.0.0.1"}


def _stop_all(parts: list[Any]) -> None:
    """Stop everything at once, so that the slowest and not the sum decides."""
    threads = [threading.Thread(target=part.stop, daemon=True) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
