"""Real processes, killed at random moments while clients work: nothing gets stuck and nothing leaks.

ALTOSTACK_KILLS says how many kills (default 200), ALTOSTACK_SEED repeats a run.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import urllib3

from tests.stand import Stand, running

KILLS = int(os.environ.get("ALTOSTACK_KILLS", "200"))
SEED = int(os.environ.get("ALTOSTACK_SEED", str(time.time_ns() % 2**32)))
VICTIMS = ("api-1", "api-2", "work", "node", "web")
PATIENCE = 120.0

pytestmark = [pytest.mark.probe, pytest.mark.timeout(1500)]


class Work:
    """Clients that create, change and delete servers and volumes, and bear refusals."""

    def __init__(self, stand: Stand, token: str, server: dict[str, Any], seed: int) -> None:
        self.stand, self.token, self.server = stand, token, server
        self.random = random.Random(seed)
        self.stop = threading.Event()
        self.asked = 0
        self.odd: list[str] = []  # answers that no failure earns

    def send(self, method: str, path: str, json: Any = None) -> tuple[int, Any]:
        """A request; (0, None) when nobody answered."""
        try:
            status, body = self.stand.call(method, path, self.token, json)
        except (urllib3.exceptions.HTTPError, OSError, ValueError):
            return 0, None
        if status == 500:
            self.odd.append(f"{method} {path}: {body}")
        return status, body

    def pick(self, path: str, kind: str) -> str | None:
        """The id of some row of the list."""
        status, body = self.send("GET", path)
        rows = body[kind] if status == 200 else []
        return str(self.random.choice(rows)["id"]) if rows else None

    def run(self) -> None:
        """Work until stopped."""
        while not self.stop.is_set():
            self.asked += 1
            with contextlib.suppress(KeyError, TypeError):
                self.random.choices(
                    [
                        self.create,
                        self.create_volume,
                        self.attach,
                        self.detach,
                        self.act,
                        self.delete,
                        self.delete_volume,
                    ],
                    [4, 2, 3, 2, 4, 3, 1],
                )[0]()
            time.sleep(self.random.uniform(0, 0.05))

    def create(self) -> None:
        self.send("POST", "/compute/v2.1/servers", {"server": self.server})

    def create_volume(self) -> None:
        self.send("POST", "/volume/v3/volumes", {"volume": {"size": 1, "name": "probe"}})

    def attach(self) -> None:
        server, volume = (
            self.pick("/compute/v2.1/servers", "servers"),
            self.pick("/volume/v3/volumes", "volumes"),
        )
        if server and volume:
            body = {"volumeAttachment": {"volumeId": volume}}
            self.send("POST", f"/compute/v2.1/servers/{server}/os-volume_attachments", body)

    def detach(self) -> None:
        server = self.pick("/compute/v2.1/servers", "servers")
        status, body = self.send("GET", f"/compute/v2.1/servers/{server}/os-volume_attachments")
        if status == 200 and body["volumeAttachments"]:
            volume = body["volumeAttachments"][0]["volumeId"]
            self.send("DELETE", f"/compute/v2.1/servers/{server}/os-volume_attachments/{volume}")

    def act(self) -> None:
        server = self.pick("/compute/v2.1/servers", "servers")
        action = self.random.choice(
            [
                {"os-stop": None},
                {"os-start": None},
                {"reboot": {"type": "HARD"}},
                {"pause": None},
                {"unpause": None},
            ]
        )
        self.send("POST", f"/compute/v2.1/servers/{server}/action", action)

    def delete(self) -> None:
        server = self.pick("/compute/v2.1/servers", "servers")
        if server:
            self.send("DELETE", f"/compute/v2.1/servers/{server}")

    def delete_volume(self) -> None:
        volume = self.pick("/volume/v3/volumes", "volumes")
        if volume:
            self.send("DELETE", f"/volume/v3/volumes/{volume}")


@contextlib.contextmanager
def working(workers: list[Work]) -> Iterator[None]:
    """The clients at work."""
    threads = [threading.Thread(target=worker.run, daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    yield
    for worker in workers:
        worker.stop.set()
    for thread in threads:
        thread.join(60)


def kill_at_random(stand: Stand, kills: int, chance: random.Random) -> dict[str, int]:
    """Kill -9 ``kills`` times, each some moment after the last victim was replaced; how often each died."""
    died: dict[str, int] = {}
    while sum(died.values()) < kills:
        time.sleep(chance.uniform(0.02, 0.6))
        victim = chance.choice(VICTIMS)
        pid = stand.processes().get(victim)
        if not pid:
            continue
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            died[victim] = died.get(victim, 0) + 1
    return died


def settle(stand: Stand, token: str, path: str, kind: str, quiet: set[str]) -> list[dict[str, Any]]:
    """Wait until every row rests in a state of ``quiet``; the rows."""
    end = time.monotonic() + PATIENCE
    while True:
        status, body = stand.call("GET", path, token)
        rows = body[kind] if status == 200 else None
        if rows is not None:
            stuck = [row for row in rows if row["status"] not in quiet or row.get("OS-EXT-STS:task_state")]
            if not stuck:
                return list(rows)
            assert time.monotonic() < end, f"stuck after {PATIENCE} s: " + str(
                [(row["id"], row["status"], row.get("OS-EXT-STS:task_state")) for row in stuck]
            )
        time.sleep(0.5)


def test_kills_leave_nothing_stuck_and_nothing_behind() -> None:
    print(f"seed {SEED}, {KILLS} kills")
    chance = random.Random(SEED)
    with running("--simulate") as stand:
        token = stand.token("admin")
        _, network = stand.call("POST", "/network/v2.0/networks", token, {"network": {"name": "probe"}})
        net = network["network"]["id"]
        subnet = {"subnet": {"network_id": net, "cidr": "10.80.0.0/16", "ip_version": 4}}
        stand.call("POST", "/network/v2.0/subnets", token, subnet)
        _, images = stand.call("GET", "/image/v2/images?name=starter", token)
        _, flavors = stand.call("GET", "/compute/v2.1/flavors", token)
        flavor = next(one["id"] for one in flavors["flavors"] if one["name"] == "m1.starter")
        server = {
            "name": "probe",
            "imageRef": images["images"][0]["id"],
            "flavorRef": flavor,
            "networks": [{"uuid": net}],
        }
        workers = [Work(stand, token, server, SEED + n) for n in range(6)]
        with working(workers):
            died = kill_at_random(stand, KILLS, chance)
        print(f"killed {died}; {sum(w.asked for w in workers)} operations asked for")
        odd = [line for worker in workers for line in worker.odd]
        assert not odd, odd[:5]
        quiet = {"ACTIVE", "ERROR", "SHUTOFF", "PAUSED"}
        servers = settle(stand, token, "/compute/v2.1/servers/detail", "servers", quiet)
        for one in servers:
            assert one["status"] != "ERROR" or one["fault"]["message"], (
                f"{one['id']} is in error without a reason"
            )
        volumes = settle(
            stand, token, "/volume/v3/volumes/detail", "volumes", {"available", "in-use", "error"}
        )
        print(f"{len(servers)} servers and {len(volumes)} volumes settled")
        for one in servers:
            stand.call("DELETE", f"/compute/v2.1/servers/{one['id']}", token)
        gone(stand, token, "/compute/v2.1/servers", "servers")
        for one in volumes:
            stand.call("DELETE", f"/volume/v3/volumes/{one['id']}", token)
        gone(stand, token, "/volume/v3/volumes", "volumes")
        _, ports = stand.call("GET", f"/network/v2.0/ports?network_id={net}", token)
        assert [p for p in ports["ports"] if not p["device_owner"].startswith("network:")] == []
        _, providers = stand.call("GET", "/placement/resource_providers", token)
        for provider in providers["resource_providers"]:
            path = f"/placement/resource_providers/{provider['uuid']}/allocations"
            _, allocations = stand.call("GET", path, token)
            assert allocations["allocations"] == {}
        _, stats = stand.call("GET", "/compute/v2.1/os-hypervisors/statistics", token)
        assert stats["hypervisor_statistics"]["running_vms"] == 0
        assert simulated_guests(stand) == []


def gone(stand: Stand, token: str, path: str, kind: str) -> None:
    """Wait until the list is empty."""
    end = time.monotonic() + PATIENCE
    while True:
        status, body = stand.call("GET", path, token)
        if status == 200 and not body[kind]:
            return
        assert time.monotonic() < end, f"still there after {PATIENCE} s: {body}"
        time.sleep(0.5)


def simulated_guests(stand: Stand) -> list[str]:
    """Guests that the simulated hypervisor still knows: it keeps a file for each."""
    return [path.stem for path in (stand.state / "nodes").glob("*/guests/*.json")]
