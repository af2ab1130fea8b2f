"""RabbitMQ is killed while clients work: nothing that was accepted is lost, and nothing is done twice.

Real processes with RabbitMQ as their bus; and, shorter and without a kill, the same operations in one process over
PostgreSQL and over MariaDB. ALTOSTACK_OUTAGE says for how many seconds the broker is away (default 60),
ALTOSTACK_OPERATIONS how many operations are asked for (default 500), ALTOSTACK_SEED repeats a run's choices.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from altostack.inprocess import InProcessCloud
from altostack.inprocess import running as in_process
from tests import stand as stands
from tests.servers import RabbitMQ
from tests.stand import Stand, percentile

OUTAGE = float(os.environ.get("ALTOSTACK_OUTAGE", "60"))
OPERATIONS = int(os.environ.get("ALTOSTACK_OPERATIONS", "500"))
SEED = int(os.environ.get("ALTOSTACK_SEED", str(time.time_ns() % 2**32)))
CLIENTS = 8
SHARE = 0.6  # of the operations are asked for while the broker is away, the others before and after
AROUND = 10.0  # seconds of work before the outage, and after it
PATIENCE = 180.0

pytestmark = [pytest.mark.databases, pytest.mark.timeout(900)]


class InHere:
    """A cloud of this process, spoken to as one of many processes is."""

    def __init__(self, cloud: InProcessCloud) -> None:
        self.cloud, self.state = cloud, cloud.state

    def token(self, user: str) -> str:
        """A project-scoped token."""
        return self.cloud.token(user)

    def call(self, method: str, path: str, token: str, json: Any = None, **headers: str) -> tuple[int, Any]:
        """(status, decoded body)."""
        _, service, rest = path.split("/", 2)
        sent = {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        body = None if json is None else msgspec.json.encode(json)
        answer = self.cloud.client(service).send(method, f"/{rest}", body, token=token, headers=sent)
        raw = answer.read()
        return answer.status, msgspec.json.decode(raw) if raw.strip() else None


@dataclass
class Desk:
    """What all clients share: the cloud, how many operations there are, and the pace."""

    stand: Stand | InHere
    token: str
    net: str
    image: str
    flavor: str
    allowed: int  # how many operations may be asked for by now
    total: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    asked: int = 0
    pause: float = 0.0
    done: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)  # that each accepted request took
    odd: list[str] = field(default_factory=list)

    def call(self, method: str, path: str, json: Any = None) -> tuple[int, Any]:
        """A request. The API needs no broker: whatever it answers with 5xx, or not at all, is odd."""
        began = time.monotonic()
        status, body = self.stand.call(method, path, self.token, json, OpenStack_API_Version="compute 2.95")
        if method != "GET":
            self.seconds.append(time.monotonic() - began)
        if status >= 500:
            self.odd.append(f"{method} {path}: {status} {body}")
        return status, body

    def rows(self, path: str, kind: str) -> dict[str, dict[str, Any]]:
        """A list by id."""
        status, body = self.call("GET", path)
        assert status == 200, body
        return {row["id"]: row for row in body[kind]}

    def take(self) -> bool:
        """Whether there is another operation to ask for, once it may be."""
        while True:
            with self.lock:
                if self.asked < min(self.allowed, self.total):
                    self.asked += 1
                    return True
                if self.asked == self.total:
                    return False
            time.sleep(0.05)

    def wait_until_accepted(self) -> None:
        """Wait until the operations that may be asked for were asked for. Raises AssertionError."""
        end = time.monotonic() + PATIENCE
        while sum(self.done.values()) < min(self.allowed, self.total):
            assert time.monotonic() < end, f"accepted {dict(self.done)} of {self.allowed}; {self.odd}"
            time.sleep(0.05)

    def phase(self, operations: int, seconds: float) -> None:
        """Let so many more operations be asked for, about evenly in this time."""
        self.pause = CLIENTS * seconds / operations
        self.allowed += operations


class Client:
    """Asks for operations on things of its own, and keeps in mind what has to come of those that were accepted."""

    def __init__(self, desk: Desk, number: int) -> None:
        self.desk, self.number = desk, number
        self.random = random.Random(SEED + number)
        self.servers: dict[str, str] = {}  # id -> name, of those that have to be there in the end
        self.volumes: dict[str, str | None] = {}  # id -> the server that has to have it
        self.ports: set[str] = set()
        self.gone: set[str] = set()
        self.made = 0
        self.trouble: BaseException | None = None

    def run(self) -> None:
        """Work until all operations are asked for."""
        try:
            while self.desk.take():
                while not self.operate():
                    time.sleep(0.2)  # nothing could be asked for now: what is there is being changed
                time.sleep(self.desk.pause * self.random.uniform(0.5, 1.5))
        except BaseException as error:
            self.trouble = error
            self.desk.odd.append(f"client {self.number} ended: {error!r}")

    def operate(self) -> bool:
        """Ask for one thing; whether it was accepted."""
        what = self.random.choices(
            [
                self.create_server, self.delete_server, self.create_volume, self.delete_volume, self.attach,
                self.detach, self.create_port, self.delete_port,
            ],
            [4, 2, 3, 1, 8, 4, 2, 1],
        )[0]  # fmt: skip
        accepted = what()
        if accepted:
            with self.desk.lock:
                self.desk.done[what.__name__] += 1
        return accepted

    def name(self) -> str:
        self.made += 1
        return f"client-{self.number}-{self.made}"

    def create_server(self) -> bool:
        if len(self.servers) >= 6:
            return False
        name, desk = self.name(), self.desk
        server = {
            "name": name,
            "imageRef": desk.image,
            "flavorRef": desk.flavor,
            "networks": [{"uuid": desk.net}],
        }
        status, body = desk.call("POST", "/compute/v2.1/servers", {"server": server})
        if status == 202:
            self.servers[body["server"]["id"]] = name
        return status == 202

    def delete_server(self) -> bool:
        if not self.servers:
            return False
        server = self.random.choice(list(self.servers)[-3:])
        status, _ = self.desk.call("DELETE", f"/compute/v2.1/servers/{server}")
        if status == 204:
            del self.servers[server]
            self.gone.add(server)
            self.volumes = {one: None if at == server else at for one, at in self.volumes.items()}
        return status == 204

    def create_volume(self) -> bool:
        if len(self.volumes) >= 6:
            return False
        status, body = self.desk.call(
            "POST", "/volume/v3/volumes", {"volume": {"size": 1, "name": self.name()}}
        )
        if status == 202:
            self.volumes[body["volume"]["id"]] = None
        return status == 202

    def delete_volume(self) -> bool:
        free = [one for one, at in self.volumes.items() if at is None]
        if not free:
            return False
        volume = self.random.choice(free)
        status, _ = self.desk.call("DELETE", f"/volume/v3/volumes/{volume}")
        if status == 202:
            del self.volumes[volume]
            self.gone.add(volume)
        return status == 202

    def attach(self) -> bool:
        free = [one for one, at in self.volumes.items() if at is None]
        if not free or not self.servers:
            return False
        volume, server = self.random.choice(free), self.random.choice(list(self.servers)[:3])
        path = f"/compute/v2.1/servers/{server}/os-volume_attachments"
        status, _ = self.desk.call("POST", path, {"volumeAttachment": {"volumeId": volume}})
        if status == 200:
            self.volumes[volume] = server
        return status == 200

    def detach(self) -> bool:
        held = [(one, at) for one, at in self.volumes.items() if at is not None]
        if not held:
            return False
        volume, server = self.random.choice(held)
        path = f"/compute/v2.1/servers/{server}/os-volume_attachments/{volume}"
        status, _ = self.desk.call("DELETE", path)
        if status == 202:
            self.volumes[volume] = None
        return status == 202

    def create_port(self) -> bool:
        port = {"network_id": self.desk.net, "name": self.name()}
        status, body = self.desk.call("POST", "/network/v2.0/ports", {"port": port})
        if status == 201:
            self.ports.add(body["port"]["id"])
        return status == 201

    def delete_port(self) -> bool:
        if not self.ports:
            return False
        port = self.random.choice(sorted(self.ports))
        status, _ = self.desk.call("DELETE", f"/network/v2.0/ports/{port}")
        if status == 204:
            self.ports.remove(port)
            self.gone.add(port)
        return status == 204

    # ---- what came of it

    def unmet(
        self,
        servers: dict[str, dict[str, Any]],
        volumes: dict[str, dict[str, Any]],
        ports: dict[str, dict[str, Any]],
    ) -> list[str]:
        """Promises that are not kept yet."""
        found = [
            f"{one} is still there" for one in self.gone & (servers.keys() | volumes.keys() | ports.keys())
        ]
        found += [f"port {one} is missing" for one in self.ports - ports.keys()]
        for server in self.servers:
            row = servers.get(server, {})
            now = (row.get("status"), row.get("OS-EXT-STS:task_state"))
            if now != ("ACTIVE", None):
                found.append(f"server {server} is {now}, {row.get('fault')}")
        for volume, at in self.volumes.items():
            row = volumes.get(volume, {})
            holders = [one["server_id"] for one in row.get("attachments", ())]
            wanted = ("available", []) if at is None else ("in-use", [at])
            if (row.get("status"), holders) != wanted:
                found.append(f"volume {volume} is {row.get('status')} at {holders}, not {wanted}")
        return found


def raise_quotas(stand: Stand | InHere, token: str) -> None:
    """As much as there is."""
    _, body = stand.call("GET", "/identity/v3/auth/projects", token)
    project = next(one["id"] for one in body["projects"] if one["name"] == "admin")
    for path, wanted in (
        ("/compute/v2.1/os-quota-sets", {"quota_set": {"instances": -1, "cores": -1, "ram": -1}}),
        ("/volume/v3/os-quota-sets", {"quota_set": {"volumes": -1, "gigabytes": -1}}),
        ("/network/v2.0/quotas", {"quota": {"port": -1}}),
    ):
        status, answer = stand.call("PUT", f"{path}/{project}", token, wanted)
        assert status == 200, answer


def open_desk(stand: Stand | InHere, operations: int) -> Desk:
    token = stand.token("admin")
    raise_quotas(stand, token)
    _, network = stand.call("POST", "/network/v2.0/networks", token, {"network": {"name": "probe"}})
    net = network["network"]["id"]
    subnet = {"subnet": {"network_id": net, "cidr": "10.81.0.0/16", "ip_version": 4}}
    stand.call("POST", "/network/v2.0/subnets", token, subnet)
    _, images = stand.call("GET", "/image/v2/images?name=starter", token)
    _, flavors = stand.call("GET", "/compute/v2.1/flavors", token)
    flavor = next(one["id"] for one in flavors["flavors"] if one["name"] == "m1.starter")
    return Desk(
        stand=stand,
        token=token,
        net=net,
        image=images["images"][0]["id"],
        flavor=flavor,
        allowed=0,
        total=operations,
    )


def wait_until_kept(desk: Desk, clients: list[Client]) -> None:
    """Wait for every promise. Raises AssertionError with those that are not kept in time."""
    end = time.monotonic() + PATIENCE
    while True:
        servers = desk.rows("/compute/v2.1/servers/detail", "servers")
        volumes = desk.rows("/volume/v3/volumes/detail", "volumes")
        ports = desk.rows("/network/v2.0/ports", "ports")
        unmet = [one for client in clients for one in client.unmet(servers, volumes, ports)]
        if not unmet:
            return
        assert time.monotonic() < end, f"{len(unmet)} not kept after {PATIENCE} s: " + "; ".join(unmet[:20])
        time.sleep(0.3)


def check_nothing_twice(desk: Desk, clients: list[Client]) -> None:
    """One server, port, allocation, guest and boot for each accepted creation, one volume and one attachment."""
    servers = {one: name for client in clients for one, name in client.servers.items()}
    volumes = {one: at for client in clients for one, at in client.volumes.items()}
    shown = desk.rows("/compute/v2.1/servers/detail", "servers")
    assert {one: row["name"] for one, row in shown.items()} == servers
    assert desk.rows("/volume/v3/volumes/detail", "volumes").keys() == volumes.keys()
    ports = desk.rows(f"/network/v2.0/ports?network_id={desk.net}", "ports").values()
    held = Counter(one["device_id"] for one in ports if one["device_owner"].startswith("compute:"))
    assert held == dict.fromkeys(servers, 1)
    loose = {one["id"] for one in ports if not one["device_owner"]}
    assert loose == {one for client in clients for one in client.ports}
    claimed: Counter[str] = Counter()
    for provider in desk.call("GET", "/placement/resource_providers")[1]["resource_providers"]:
        path = f"/placement/resource_providers/{provider['uuid']}/allocations"
        claimed.update(desk.call("GET", path)[1]["allocations"].keys())
    assert claimed == dict.fromkeys(servers, 1)
    nodes = desk.stand.state / "nodes"
    guests = {path.stem: msgspec.json.decode(path.read_bytes()) for path in nodes.glob("*/guests/*.json")}
    assert {one: guest["boots"] for one, guest in guests.items()} == dict.fromkeys(servers, 1)
    plugged = {volume: one for one, guest in guests.items() for volume in guest["volumes"]}
    assert plugged == {one: at for one, at in volumes.items() if at is not None}
    assert {path.name for path in nodes.glob("*/volumes/volumes/*")} == volumes.keys()


def test_a_killed_broker_loses_nothing_and_repeats_nothing(rabbitmq: RabbitMQ, rabbitmq_url: str) -> None:
    print(f"seed {SEED}, {OPERATIONS} operations, broker away for {OUTAGE:g} s")
    bus = {"ALTOSTACK__CLOUD__BUS": rabbitmq_url, "ALTOSTACK__CLOUD__BUS_NAMESPACE": f"outage-{SEED}"}
    with stands.running("--simulate", environ=bus) as stand:
        desk = open_desk(stand, OPERATIONS)
        clients = [Client(desk, number) for number in range(CLIENTS)]
        threads = [threading.Thread(target=client.run, daemon=True) for client in clients]
        around = int(OPERATIONS * (1 - SHARE) / 2)
        for thread in threads:
            thread.start()
        desk.phase(around, AROUND)
        time.sleep(AROUND)
        rabbitmq.stop(kill=True)
        asked = desk.asked
        desk.phase(OPERATIONS - 2 * around, OUTAGE)
        time.sleep(OUTAGE)
        during = desk.asked - asked
        rabbitmq.start()
        returned = time.monotonic()
        desk.wait_until_accepted()
        wait_until_kept(desk, clients)
        recovered = time.monotonic() - returned
        desk.phase(around, AROUND)
        for thread in threads:
            thread.join(PATIENCE)
        assert [client.trouble for client in clients] == [None] * CLIENTS
        wait_until_kept(desk, clients)
        print(f"accepted: {dict(desk.done)}; {during} of them while the broker was away")
        print(
            f"answer to a request that changes something: p95 {percentile(desk.seconds, 0.95) * 1000:.0f} ms"
        )
        print(f"{recovered:.1f} s after the broker's return each accepted operation had reached its end")
        assert desk.odd == [], desk.odd[:5]
        assert sum(desk.done.values()) == OPERATIONS
        assert during > OPERATIONS * SHARE / 2
        check_nothing_twice(desk, clients)


@pytest.mark.parametrize("kind", ["postgres", "mariadb"])
def test_the_same_operations_over_a_database_server_and_rabbitmq(
    kind: str, request: pytest.FixtureRequest, rabbitmq_url: str, tmp_path: Path
) -> None:
    url, _, options = str(request.getfixturevalue(f"{kind}_url")).partition("?")
    template = f"{url.rpartition('/')[0]}/broker_{{service}}?{options}"
    settings = {"cloud": {"database": template, "bus": rabbitmq_url, "bus_namespace": f"{kind}-{SEED}"}}
    with in_process(tmp_path, settings=settings) as cloud:
        token = cloud.token("admin")
        image = {"name": "starter", "disk_format": "raw", "container_format": "bare"}
        made = cloud.client("image").call("POST", "/v2/images", image, token=token)["id"]
        cloud.client("image").send(
            "PUT", f"/v2/images/{made}/file", b"\0" * 4096, token=token,
            headers={"Content-Type": "application/octet-stream"},
        ).read()  # fmt: skip
        desk = open_desk(InHere(cloud), 60)
        desk.phase(60, 10.0)
        clients = [Client(desk, number) for number in range(3)]
        threads = [threading.Thread(target=client.run, daemon=True) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert [client.trouble for client in clients] == [None] * 3
        wait_until_kept(desk, clients)
        print(f"{kind}: accepted {dict(desk.done)}")
        assert desk.odd == [], desk.odd[:5]
        assert sum(desk.done.values()) == 60
        check_nothing_twice(desk, clients)
