"""The agent as it runs: threads, bells, a backend with real files."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from altostack.kit.flow import Engine
from altostack.kit.service import Node
from altostack.volume.agent import Agent
from altostack.volume.drivers.local import LocalDriver
from tests.volume.world import World


def until(what: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8)


def test_threads_and_bells(tmp_path: Path) -> None:
    """Slow volumes are worked on at once, and bells alone carry everything along."""
    world = World(tmp_path, hosts=("n1",))
    driver = world.drivers["n1"]
    driver.faults.delays["ensure"] = 0.3
    node = Node(host="n1", root=tmp_path / "n1", drivers={"volume": driver}, token=world.lone.node("n1"))
    agent = Agent(world.lone.runtime, node, workers=4)
    engine = Engine(world.lone.runtime, threads=2, poll=60.0)
    engine.start()
    agent.loop.start(world.lone.bus)
    try:
        keys = [world.make() for _ in range(4)]
        until(lambda: all(world.status(key) == "available" for key in keys))
        for key in keys:
            world.act(key, "os-extend", {"new_size": 2})
        until(lambda: all(world.show(key)["size"] == 2 for key in keys))
        for key in keys:
            world.call("DELETE", f"/volumes/{key}")
        until(lambda: world.call("GET", "/volumes") == {"volumes": []})
        assert not driver.list().volumes
    finally:
        agent.loop.stop()
        engine.stop()
        world.close()


def test_real_files(tmp_path: Path) -> None:
    world = World(tmp_path, hosts=())
    driver = LocalDriver(tmp_path / "volumes")
    node = Node(host="n1", root=tmp_path / "n1", drivers={"volume": driver}, token=world.lone.node("n1"))
    world.agents["n1"] = Agent(world.lone.runtime, node, workers=0)
    image = world.images.add(size=4 << 20)
    world.images.bits[image] = b"bootable" + bytes((4 << 20) - 8)
    key = world.volume(1, imageRef=image)
    path = Path(driver.connection(key)["data"]["path"])
    assert path.stat().st_size == 1 << 30 and start(path) == b"bootable"
    world.act(key, "os-extend", {"new_size": 2})
    world.settle()
    assert path.stat().st_size == 2 << 30
    child = world.volume(None, snapshot_id=world.snapshot(key))
    assert start(Path(driver.connection(child)["data"]["path"])) == b"bootable"
    answer = world.act(child, "os-volume_upload_image", {"image_name": "i", "disk_format": "qcow2"})
    world.settle()
    bits = world.images.bits[answer["os-volume_upload_image"]["image_id"]]
    assert bits[:4] == b"QFI\xfb" and len(bits) < 8 << 20
    bad = world.images.add(disk_format="raw")
    world.images.bits[bad] = bits  # says raw and is not
    lost = world.make(3, imageRef=bad)
    world.settle()
    assert world.status(lost) == "error" and "create volume" in world.messages(lost)[0]
    for volume in (key, child, lost):
        world.call("DELETE", f"/volumes/{volume}?cascade=true")
    world.settle()
    assert not driver.list().volumes and not driver.list().snapshots
    assert not any((tmp_path / "n1").rglob("*.image"))
    world.close()
