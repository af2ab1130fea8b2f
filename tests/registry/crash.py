"""A simulated cloud without threads in which a process can die at any named point, and whose every trace is counted.

The points are found, not listed: before, after and at the commit of every step of every flow (`Engine`'s probe),
before and after every verb of every node's drivers, and before and after every request by which a flow, an agent or
an API changes something in another service.
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from altostack.inprocess import InProcessCloud
from altostack.kit.bus.desk import plain
from altostack.kit.clients import Client, RemoteError, Response, Transport
from altostack.kit.service import Node

PATIENCE = 100.0  # simulated seconds in which a request has to come to its end, crash included
ROUNDS = 500
API = "api "  # what names of points begin with at which an API dies
# Tables that tell what was, and are meant to outlive it.
HISTORY = frozenset(
    {
        ("volume", "story"), ("compute", "story"), ("compute", "tombstones"), ("compute", "instance_actions"),
        ("compute", "migrations"), ("volume", "messages"), ("network", "security_group_changes"),
        ("network", "story"), ("image", "story"), ("identity", "story"), ("placement", "story"),
        ("identity", "revocations"), ("image", "tasks"), ("placement", "changes"),
    }
)  # fmt: skip
_ID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")


class Died(Exception):
    """The process that was doing the work is dead, and the test goes on differently."""


class Killed(BaseException):
    """The end of an API's process: nothing catches it, and open transactions are rolled back, as a kill does."""


class Clock:
    """Epoch seconds that pass as usual, and can be put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead

    def advance_to(self, moment: float) -> None:
        self.ahead += max(0.0, moment - self())


class Bells:
    """A bus without threads: a bell nudges at once, and what it nudged runs when it is asked to catch up."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[Callable[[tuple[str, ...]], None]]] = {}
        self._served: dict[str, dict[str, Callable[[Mapping[str, object]], object]]] = {}

    def ring(self, topic: str, *ids: str) -> None:
        for handler in self._listeners.get(topic, ()):
            handler(ids)

    def listen(self, topic: str, handler: Callable[[tuple[str, ...]], None]) -> None:
        self._listeners.setdefault(topic, []).append(handler)

    def call(self, topic: str, method: str, args: Mapping[str, object], *, timeout: float = 5.0) -> object:
        return plain(self._served[topic][method](plain(args)))

    def serve(self, topic: str, methods: Mapping[str, Callable[[Mapping[str, object]], object]]) -> None:
        self._served.setdefault(topic, {}).update(methods)

    def emit(self, event: Mapping[str, object]) -> None:
        """Nobody listens to events here."""

    def subscribe(self, handler: Callable[[Mapping[str, object]], None]) -> None:
        """Nobody emits events here."""

    def close(self) -> None:
        self._listeners.clear()

    forget = close


@dataclasses.dataclass(frozen=True)
class Point:
    """The ``nth`` time (from 1) that a scenario comes past ``name``."""

    name: str
    nth: int

    def __str__(self) -> str:
        return f"{self.name} ({self.nth})"


class Probe:
    """Called at every point. While armed it records them, and at the chosen one whoever came there is no more.

    A dead worker runs nothing, not even its ``finally`` blocks: its thread sleeps until the tests' process ends. An
    API runs in the client's thread, which has to live on: there `Killed` is raised.
    """

    def __init__(self) -> None:
        self.armed = False
        self.hit = False
        self.target: Point | None = None
        self.seen: list[Point] = []
        self.died = threading.Event()
        self.worker: threading.Thread | None = None
        self._counts: Counter[str] = Counter()

    def arm(self, target: Point | None) -> None:
        self.armed, self.hit, self.target, self.seen = True, False, target, []
        self.died.clear()
        self._counts.clear()

    def disarm(self) -> None:
        self.armed = False

    def __call__(self, name: str) -> None:
        if not self.armed:
            return
        api = threading.current_thread() is not self.worker
        if api:
            if not name.startswith("call "):  # the test itself looks at a driver
                return
            name = f"{API}{name}"
        self._counts[name] += 1
        here = Point(name, self._counts[name])
        self.seen.append(here)
        if here == self.target:
            self.armed, self.hit = False, True
            if api:
                raise Killed
            self.died.set()
            threading.Event().wait()


class Watched:
    """A driver whose verbs come past the probe."""

    def __init__(self, service: str, driver: Any, probe: Probe) -> None:
        self._service, self._driver, self._probe = service, driver, probe

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._driver, name)
        if not callable(found) or name == "events":
            return found

        @functools.wraps(found)
        def verb(*args: Any, **kwargs: Any) -> Any:
            self._probe(f"driver {self._service}.{name} before")
            result = found(*args, **kwargs)
            self._probe(f"driver {self._service}.{name} after")
            return result

        return verb


class WatchedTransport:
    """A neighbour; requests that change something there come past the probe."""

    def __init__(self, caller: str, service: str, transport: Transport, probe: Probe) -> None:
        self._who, self._transport, self._probe = f"{caller}>{service}", transport, probe

    def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | Iterable[bytes] | None
    ) -> Response:
        if method == "GET" or path.startswith("/v3/auth"):
            return self._transport.request(method, path, headers, body)
        what = f"{self._who} {method} {_ID.sub('*', path.partition('?')[0])}"
        self._probe(f"call {what} before")
        answer = self._transport.request(method, path, headers, body)
        self._probe(f"call {what} after")
        return answer


class World:
    """The cloud, driven from one thread at a time; its user is "demo".

    abandon: what `settle` does after a crash; False: a new process carries on; True: it raises `Died`.
    kept: (service, path) of what somebody made for himself, and no server's end may take away.
    """

    def __init__(self, folder: Path) -> None:
        self.clock, self.bells, self.probe = Clock(), Bells(), Probe()
        self.abandon = False
        self.kept: list[tuple[str, str]] = []
        self.cloud = InProcessCloud(folder, clock=self.clock, bus=self.bells)
        for name, runtime in self.cloud.cloud.runtimes.items():
            for neighbour, client in dict(runtime.clients).items():
                self._watch(name, neighbour, client)
        self.cloud.nodes = [self._watched(node) for node in self.cloud.nodes]
        self._due: list[tuple[float, int]] = []
        self._revive()
        self.settle()
        self.network, self.subnet = self._network()
        self.port()  # with a project's first port comes its default security group
        self.api("DELETE", *self.kept.pop())
        self.image = self._image()
        flavors = self.api("GET", "compute", "/v2.1/flavors")["flavors"]
        self.flavors = {one["name"]: one["id"] for one in flavors}
        self.settle()
        self.empty = self.everything()

    def close(self) -> None:
        self.cloud.stop()

    def _watch(self, caller: str, service: str, client: Client) -> None:
        # The one seam through which every request of a service to its neighbours goes.
        client._transport = WatchedTransport(caller, service, client._transport, self.probe)

    def _watched(self, node: Node) -> Node:
        drivers = {name: Watched(name, driver, self.probe) for name, driver in node.drivers.items()}
        return dataclasses.replace(node, drivers=drivers)

    # ---- talking to it

    def api(self, method: str, service: str, path: str, body: Any = None, *, who: str = "demo") -> Any:
        """A request by a user; the decoded answer. Raises RemoteError; Died when the API did."""
        newest = {"compute": "2.95", "volume": "3.70", "placement": "1.39"}.get(service)
        try:
            return self.cloud.client(service).call(
                method, path, body, token=self.cloud.token(who), version=newest
            )
        except Killed as end:
            raise Died(str(self.probe.target)) from end

    def upload(self, image_id: str, bits: bytes, *, to: str = "file") -> None:
        """Give an image its bits, or stage them."""
        answer = self.cloud.client("image").send(
            "PUT", f"/v2/images/{image_id}/{to}", bits, token=self.cloud.token("demo"),
            headers={"Content-Type": "application/octet-stream"},
        )  # fmt: skip
        assert answer.status == 204, answer.read()

    def _network(self) -> tuple[str, str]:
        made = self.api("POST", "network", "/v2.0/networks", {"network": {"name": "n"}})["network"]["id"]
        subnet = {"subnet": {"network_id": made, "cidr": "10.77.0.0/24", "ip_version": 4}}
        return made, self.api("POST", "network", "/v2.0/subnets", subnet)["subnet"]["id"]

    def port(self) -> str:
        """A port that is there before its server."""
        asked = {"port": {"network_id": self.network}}
        made = str(self.api("POST", "network", "/v2.0/ports", asked)["port"]["id"])
        self.kept.append(("network", f"/v2.0/ports/{made}"))
        return made

    def _image(self) -> str:
        wanted = {"name": "tiny", "disk_format": "raw", "container_format": "bare"}
        made = self.api("POST", "image", "/v2/images", wanted)["id"]
        self.upload(made, b"\0" * 4096)
        return str(made)

    # ---- driving it

    def _revive(self) -> None:
        self.bells.forget()
        self.cloud.revive(lease=0.0, probe=self.probe)
        for loop in self.loops:
            for topic in loop.topics:
                self.bells.listen(topic, loop.nudge)
        self._due = [(self.clock() + loop.interval, number) for number, loop in enumerate(self.loops)]
        heapq.heapify(self._due)

    @property
    def compute(self) -> Any:
        """The node's simulated hypervisor."""
        return self.cloud.nodes[0].drivers["compute"]

    @property
    def volume(self) -> Any:
        """The node's simulated volumes."""
        return self.cloud.nodes[0].drivers["volume"]

    @property
    def loops(self) -> list[Any]:
        return [*self.cloud.agents, *self.cloud.loops]

    def settle(self) -> None:
        """Run all that is due, and put the clock forward for what sleeps, until everything rests.

        When the process that does this dies, another one carries on, or `Died` is raised.
        """
        while not self._in_a_process(self._settle):
            self._revive()
            if self.abandon:
                raise Died(str(self.probe.target))

    def _in_a_process(self, work: Callable[[], None]) -> bool:
        """Whether ``work`` came to its end; else whoever did it is dead. Raises what it raised."""
        raised: list[BaseException] = []
        ended = threading.Event()

        def run() -> None:
            try:
                work()
            except BaseException as error:
                raised.append(error)
            ended.set()
            self.probe.died.set()

        self.probe.died.clear()
        self.probe.worker = threading.Thread(target=run, daemon=True, name="worker")
        self.probe.worker.start()
        assert self.probe.died.wait(120), "something hangs"
        if raised:
            raise raised[0]
        return ended.is_set()

    def _settle(self) -> None:
        end = self.clock() + PATIENCE
        for _ in range(ROUNDS):
            moved = [loop.name for loop in self.loops if loop.catch_up()]
            moved += ["a flow" for engine in self.cloud.engines if engine.drain()]
            if moved:
                continue
            wake = self._next_wake()
            if wake is None:
                return
            assert wake <= end, f"not at rest after {PATIENCE} s: {self.flows()}"
            self.clock.advance_to(wake + 0.001)
            while self._due[0][0] <= self.clock():
                number = heapq.heappop(self._due)[1]
                self.loops[number].nudge()
                heapq.heappush(self._due, (self.clock() + self.loops[number].interval, number))
        raise AssertionError(f"still busy after {ROUNDS} rounds: {moved}, {self.flows()}")

    def _next_wake(self) -> float | None:
        """When the next sleeping flow wakes or passes its deadline."""
        times = [
            moment for flow in self.flows() for moment in (flow["wake_at"], flow["deadline_at"]) if moment is not None
        ]  # fmt: skip
        return min(times, default=None)

    def flows(self) -> list[dict[str, Any]]:
        """Every flow of every service."""
        found: list[dict[str, Any]] = []
        for runtime in self.cloud.cloud.runtimes.values():
            if runtime.kinds():
                with runtime.db.read() as session:
                    rows = session.execute(sa.select(runtime.service.metadata.tables["flows"])).mappings()
                    found += [dict(row) for row in rows]
        return found

    # ---- what is left of it

    def everything(self) -> set[str]:
        """Every row of every database, what every driver holds, every file: all that may not be left over."""
        found = set()
        for name, runtime in self.cloud.cloud.runtimes.items():
            with runtime.db.read() as session:
                for table in runtime.service.metadata.sorted_tables:
                    if (name, table.name) in HISTORY:
                        continue
                    columns = [*table.primary_key.columns]
                    if "used" in table.columns:
                        columns.append(table.columns["used"])
                    for row in session.execute(sa.select(*columns)):
                        found.add(f"row {name}.{table.name} {tuple(row)}")
        for node in self.cloud.nodes:
            found |= {f"guest {key}" for key in node.drivers["compute"].guests()}
            held = node.drivers["volume"].list()
            found |= {f"volume {key}" for key in held.volumes} | {f"snapshot {key}" for key in held.snapshots}
            for kind, items in node.drivers["network"].inventory().items():
                found |= {f"{kind} {key}" for key in items}
        for folder in ("nodes", "images", "image-staging", "image-cache"):
            for path, _, names in os.walk(self.cloud.state / folder):
                found |= {f"file {os.path.relpath(Path(path, one), self.cloud.state)}" for one in names}
        return found

    def clean(self) -> None:
        """Delete everything through the API, as its owner; nothing else may be needed. Raises AssertionError."""
        self.probe.disarm()
        self.compute.faults.clear()
        self.delete("compute", "/v2.1/servers", "servers")
        self.settle()
        for service, path in self.kept:
            self.api("GET", service, path)
        self.kept.clear()
        for path in ("snapshots", "volumes"):
            self.delete("volume", f"/v3/{path}", path)
        for one in self.api("GET", "image", "/v2/images")["images"]:
            if one["id"] != self.image:
                self.api("DELETE", "image", f"/v2/images/{one['id']}")
        for one in self.api("GET", "network", "/v2.0/ports")["ports"]:
            if not one["device_owner"]:
                self.api("DELETE", "network", f"/v2.0/ports/{one['id']}")
        self.settle()
        for loop in self.loops:
            loop.nudge()
        self.settle()
        left, lost = self.everything() - self.empty, self.empty - self.everything()
        self.clock.ahead = 0.0
        assert not left, f"left behind: {sorted(left)}"
        assert not lost, f"lost: {sorted(lost)}"

    def delete(self, service: str, path: str, kind: str) -> None:
        """Ask for the deletion of all of a kind; of one that is being deleted already there may be nothing left."""
        for one in self.api("GET", service, path)[kind]:
            try:
                self.api("DELETE", service, f"{path}/{one['id']}")
            except RemoteError as error:
                if error.status != 404:
                    raise
