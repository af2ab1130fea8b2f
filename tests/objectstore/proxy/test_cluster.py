"""A proxy and storage nodes that it reaches over HTTP."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from altostack.objectstore import compose
from altostack.objectstore.config import Settings
from altostack.objectstore.disk import server
from altostack.objectstore.disk.local import LocalNode
from altostack.objectstore.http import Stream
from altostack.objectstore.httpd.server import Server, listen
from altostack.objectstore.ring.builder import Builder
from altostack.objectstore.stamp import Clock
from tests.objectstore.proxy.scene import ERASURE
from tests.objectstore.world import World, world

KEY = b"key of the tests"
LARGE = random.Random(6).randbytes(3_000_000)


@dataclass
class Cluster:
    world: World
    servers: list[tuple[Server, socket.socket]]

    def stop(self, number: int = 0) -> None:
        """Take a node away."""
        running, listener = self.servers.pop(number)
        listener.close()
        running.stop(0.5)


def cluster(folder: Path, nodes: int, replicas: float, settings: dict[str, Any]) -> Cluster:
    """Nodes with two devices each; the proxy has no devices of its own."""
    servers: list[tuple[Server, socket.socket]] = []
    chosen = msgspec.convert(settings, Settings)
    rings = compose.rings_folder(folder)
    rings.mkdir(parents=True)
    builders = []
    for name in ("account", "container", "object"):
        erasure = chosen.storage_policies()[0].erasure
        copies = float(erasure.data + erasure.parity) if erasure and name == "object" else replicas
        builders.append(
            Builder.create(rings / f"{name}.builder", part_power=4, replicas=copies, min_part_hours=0.0)
        )
    locals_: list[LocalNode] = []
    for number in range(nodes):
        devices = folder / f"node{number}"
        for name in ("d1", "d2"):
            (devices / name).mkdir(parents=True)
        node = LocalNode(devices, chosen, chosen.storage_policies(), clock=Clock())
        listener = listen("127.0.0.1", 0)
        running = Server(server.handler(node, key=KEY), listener, threads=16).start()
        servers.append((running, listener))
        locals_.append(node)
        for builder in builders:
            for name in ("d1", "d2"):
                builder.add(
                    region=1, zone=number + 1, host="127.0.0.1", port=listener.getsockname()[1], device=name,
                    weight=100.0,
                )  # fmt: skip
    for builder in builders:
        builder.rebalance()
        builder.save()
    made = world(folder, settings=settings)
    for node in locals_:
        node.neighbours = made.store.node_at
    return Cluster(made, servers)


@pytest.fixture(params=["copies", "fragments"])
def three(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    settings = dict(ERASURE) if request.param == "fragments" else {}
    if settings:
        settings["policies"]["ec"]["segment_size"] = 100_000
    made = cluster(tmp_path, 3, 3.0, settings)
    yield made
    made.world.close()
    while made.servers:
        made.stop()


@pytest.mark.parametrize("size", [0, 10, 200_000, 3_000_000])
def test_round_trips(three: Cluster, size: int) -> None:
    one, body = three.world, LARGE[:size]
    assert one.put("/v1/a/c").status == 201
    assert one.put("/v1/a/c/o", body, x_object_meta_color="red").status == 201
    got = one.get("/v1/a/c/o")
    assert got.headers["x-object-meta-color"] == "red"
    assert got.read() == body
    pieces = [body[at : at + 50_000] for at in range(0, size, 50_000)]
    assert one.put("/v1/a/c/p", Stream(pieces)).status == 201
    assert one.get("/v1/a/c/p").read() == body
    if size > 100:
        assert one.get("/v1/a/c/o", range="bytes=50-100").read() == body[50:101]
        assert one.get("/v1/a/c/o", range=f"bytes={size - 60}-").read() == body[-60:]
    assert one.post("/v1/a/c/o", x_object_meta_color="blue").status == 202
    assert one.head("/v1/a/c/o").headers["x-object-meta-color"] == "blue"
    assert one.head("/v1/a").headers["x-account-bytes-used"] == str(2 * size)
    assert [entry["bytes"] for entry in one.get("/v1/a/c").entries or []] == [size, size]
    assert one.put("/v1/a/c/o", body, if_none_match="*").status == 412
    assert one.delete("/v1/a/c/o").status == 204
    assert one.get("/v1/a/c/o").status == 404
    assert one.delete("/v1/a/c").status == 409


def test_a_node_that_stops(three: Cluster) -> None:
    one = three.world
    one.put("/v1/a/c")
    for number in range(4):
        assert one.put(f"/v1/a/c/o{number}", LARGE).status == 201
    got = one.get("/v1/a/c/o0")
    three.stop(1)
    assert got.read() == LARGE  # also what was under way
    for number in range(4):
        assert one.get(f"/v1/a/c/o{number}").read() == LARGE
    assert one.head("/v1/a/c").status == 204
