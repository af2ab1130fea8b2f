"""A crash before and after every step: the server ends ACTIVE or in ERROR with a reason, and deleted leaves nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from altostack.kit.flow import Engine
from tests.compute.stand import World


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


class Crash:
    """A probe that kills once, at a point of the server's flow."""

    def __init__(self, world: World, point: str) -> None:
        self._world, self._point = world, f"server.{point}"
        self.happened = False
        world.engine = self._engine()

    def _engine(self) -> Engine:
        return Engine(self._world.runtime, lease=0.0, probe=self._probe)

    def _probe(self, here: str) -> None:
        if here == self._point and not self.happened:
            self.happened = True
            raise Killed

    def until(self, true: Callable[[], bool]) -> None:
        """As `World.until`, with a new engine after the kill."""
        while True:
            try:
                self._world.until(true)
                return
            except Killed:
                self._world.engine = self._engine()


WHEN = ("before", "after", "committed")
BUILD = ("schedule", "network", "block_devices", "plug", "spawn", "destroy")


def points(*steps: str) -> list[str]:
    return [f"{step} {when}" for step in steps for when in WHEN]


def boot(world: World) -> str:
    """A server that meets every step of a build: a volume made of an image, and a port that takes its time."""
    disk = {
        "source_type": "image", "uuid": world.image_id, "destination_type": "volume", "volume_size": 1,
        "boot_index": 0, "delete_on_termination": True,
    }  # fmt: skip
    extra = {"source_type": "volume", "uuid": world.volume.add(), "destination_type": "volume"}
    world.network.hold = True
    return world.create(imageRef=None, block_device_mapping_v2=[disk, extra])


@pytest.mark.parametrize("point", points(*BUILD))
def test_build_and_delete(tmp_path: Path, point: str) -> None:
    world = World(tmp_path)
    crash = Crash(world, point)
    key = boot(world)
    crash.until(
        lambda: world.show(key)["OS-EXT-STS:task_state"] in ("block_device_mapping", "spawning", None)
    )
    world.wired()
    crash.until(lambda: world.show(key)["status"] != "BUILD")
    assert world.show(key)["status"] == "ACTIVE", world.show(key)
    assert len([port for port in world.network.ports.values() if port["device_id"]]) == 1
    assert len(world.volume.held) == 2 and len(world.volume.volumes) == 2
    assert world.drivers["node-1"]._guests[key].boots == 1
    world.call("DELETE", f"/servers/{key}")
    crash.until(lambda: world.gone(key))
    assert crash.happened
    assert world.leftovers() == {} and world.network.ports == {}
    assert len(world.volume.volumes) == 1
    world.close()


@pytest.mark.parametrize("point", points("schedule", "network", "plug", "spawn", "abandon", "destroy"))
def test_a_build_that_fails(tmp_path: Path, point: str) -> None:
    """The guest cannot start: ERROR with the step's name, nothing kept; the delete then has little to do."""
    world = World(tmp_path)
    crash = Crash(world, point)
    world.network.hold = True
    world.drivers["node-1"].faults.fail_next("start", times=100)
    key = world.create()
    crash.until(
        lambda: world.show(key)["OS-EXT-STS:task_state"] in ("spawning", None) or bool(world.network.ports)
    )
    world.wired()
    crash.until(lambda: world.show(key)["status"] == "ERROR" and not world.show(key)["hostId"])
    fault = world.show(key)["fault"]
    assert "step spawn" in fault["message"] and "simulated fault of start" in fault["message"]
    assert world.leftovers() == {} and world.network.ports == {}
    world.call("DELETE", f"/servers/{key}")
    crash.until(lambda: world.gone(key))
    assert crash.happened and world.leftovers() == {}
    world.close()


@pytest.mark.parametrize("point", points("schedule", "network", "block_devices", "plug", "spawn"))
def test_a_delete_wins_over_a_build(tmp_path: Path, point: str) -> None:
    world = World(tmp_path)
    crash = Crash(world, point)
    key = boot(world)
    try:
        world.run(agents=False)
    except Killed:
        world.engine = crash._engine()
    world.call("DELETE", f"/servers/{key}")
    crash.until(lambda: world.gone(key))
    assert world.leftovers() == {} and world.network.ports == {}
    assert len(world.volume.volumes) == 1
    world.close()


ACTIONS: dict[str, tuple[Callable[[World, str], object], Callable[[World, str], bool], tuple[str, ...]]] = {
    "reboot": (
        lambda world, key: world.act(key, "reboot", {"type": "HARD"}),
        lambda world, key: world.show(key)["status"] == "ACTIVE",
        ("rest", "power"),
    ),
    "resize": (
        lambda world, key: world.act(key, "resize", {"flavorRef": "7"}),
        lambda world, key: world.show(key)["status"] == "VERIFY_RESIZE",
        ("resize_claim", "resize_disk"),
    ),
    "snapshot": (
        lambda world, key: world.act(key, "createImage", {"name": "snap"}),
        lambda world, key: world.show(key)["OS-EXT-STS:task_state"] is None,
        ("snapshot_begin", "snapshot"),
    ),
    "attach": (
        lambda world, key: world.call(
            "POST",
            f"/servers/{key}/os-volume_attachments",
            {"volumeAttachment": {"volumeId": world.volume.add()}},
        ),
        lambda world, key: bool(world.show(key)["os-extended-volumes:volumes_attached"]),
        ("attach", "attaching"),
    ),
    "plug": (
        lambda world, key: world.call(
            "POST", f"/servers/{key}/os-interface", {"interfaceAttachment": {"net_id": world.net}}
        ),
        lambda world, key: len(world.drivers["node-1"].guest(key).ports) == 2,
        ("plug_in", "plugging"),
    ),
}


@pytest.mark.parametrize(
    ("action", "point"),
    [(name, point) for name, (_, _, steps) in ACTIONS.items() for point in points(*steps)],
)
def test_what_is_done_to_a_server(tmp_path: Path, action: str, point: str) -> None:
    world = World(tmp_path)
    key = world.active()
    crash = Crash(world, point)
    begin, ended, _ = ACTIONS[action]
    begin(world, key)
    crash.until(lambda: ended(world, key))
    assert crash.happened
    found = world.call("GET", f"/servers/{key}/os-instance-actions")["instanceActions"][0]
    assert found["message"] is None
    for image in world.image.call("GET", "/v2/images")["images"]:
        assert image["status"] == "active"
    world.call("DELETE", f"/servers/{key}")
    crash.until(lambda: world.gone(key))
    assert world.leftovers() == {} and world.network.ports == {}
    world.close()


@pytest.mark.parametrize("away", ["network", "volume", "agent"])
def test_a_delete_completes_once_its_neighbours_are_back(world: World, away: str) -> None:
    volume = world.volume.add()
    key = world.active(
        block_device_mapping_v2=[{"source_type": "volume", "uuid": volume, "destination_type": "volume"}]
    )
    if away != "agent":
        getattr(world, away).down = True
    world.call("DELETE", f"/servers/{key}")
    world.run(5, agents=away != "agent")
    assert not world.gone(key) and world.show(key)["OS-EXT-STS:task_state"] == "deleting"
    world.network.down = world.volume.down = False
    world.until(lambda: world.gone(key))
    assert world.leftovers() == {}
    assert world.volume.volumes[volume]["status"] == "available"
