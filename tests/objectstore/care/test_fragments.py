"""The reconstructor: fragments that are missing, damaged, not committed or in the wrong place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from altostack.objectstore.care.audit import Auditor
from altostack.objectstore.care.fragments import reconstruct
from tests.objectstore.care.cluster import Cluster

POLICIES = {
    "standard": {"index": 0, "default": True},
    "ec": {"index": 1, "type": "erasure_coding", "data": 2, "parity": 2, "segment_size": 4096},
}
PATH = "/v1/a/e/o"


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    made = Cluster(tmp_path, devices=6, settings={"policies": POLICIES})
    assert made.w.put("/v1/a/e", x_storage_policy="ec").status == 201
    return made


def passes(cluster: Cluster, rounds: int = 2) -> dict[str, int]:
    did: dict[str, int] = {}
    for _ in range(rounds):
        for name in cluster.names:
            for what, number in reconstruct(cluster.care, name, {}).did.items():
                did[what] = did.get(what, 0) + number
    return did


def test_an_emptied_device_gets_its_fragments_back(cluster: Cluster) -> None:
    bodies = {f"/v1/a/e/o{n}": os.urandom(1 + n * 3000) for n in range(12)}
    for path, body in bodies.items():
        assert cluster.w.put(path, body).status == 201
    before = cluster.every(1)
    cluster.empty("d2")
    passes(cluster)
    assert cluster.every(1) == before
    cluster.empty("d1")  # what was rebuilt has to do for the rest
    cluster.empty("d3")
    for path, body in bodies.items():
        assert cluster.w.get(path).read() == body


def test_nothing_to_do_is_nothing(cluster: Cluster) -> None:
    cluster.w.put(PATH, b"x" * 10_000)
    assert passes(cluster, 1) == {"partitions": 4}


def test_an_empty_object_is_rebuilt(cluster: Cluster) -> None:
    cluster.w.put(PATH, b"")
    before = cluster.every(1)
    cluster.empty(cluster.home(PATH, 1)[0])
    passes(cluster)
    assert cluster.every(1) == before


def test_a_flipped_bit_is_found_and_the_fragment_made_anew(cluster: Cluster) -> None:
    body = os.urandom(200_000)
    cluster.w.put(PATH, body)
    before = cluster.every(1)
    device = cluster.home(PATH, 1)[0]
    data = next(cluster.folder_of(device, PATH, 1).iterdir())
    content = bytearray(data.read_bytes())
    with data.open("r+b") as file:
        file.seek(70_000)
        file.write(bytes([content[70_000] ^ 4]))
    tally = Auditor(cluster.care, device, "full").run()
    assert tally.did["quarantined"] == 1
    passes(cluster)
    assert cluster.every(1) == before
    assert data.read_bytes() == bytes(content)
    assert cluster.w.get(PATH).read() == body


def test_damage_is_not_built_in(cluster: Cluster) -> None:
    cluster.w.put(PATH, os.urandom(200_000))
    homes = cluster.home(PATH, 1)
    data = next(cluster.folder_of(homes[0], PATH, 1).iterdir())
    with data.open("r+b") as file:
        file.seek(70_000)
        byte = file.read(1)
        file.seek(70_000)
        file.write(bytes([byte[0] ^ 1]))
    cluster.empty(homes[1])
    cluster.empty(homes[2])
    did = passes(cluster, 1)
    assert "rebuilt" not in did
    assert did["failed"] >= 1
    assert not cluster.files(homes[1], 1)


def test_a_fragment_on_a_handoff_goes_home(cluster: Cluster) -> None:
    away = cluster.home(PATH, 1)[1]
    cluster.take_away(away)
    body = os.urandom(50_000)
    assert cluster.w.put(PATH, body).status == 201
    cluster.bring_back(away)
    passes(cluster)
    assert len(cluster.files(away, 1)) == 1
    for spare in set(cluster.names) - set(cluster.home(PATH, 1)):
        assert not cluster.files(spare, 1)
    assert cluster.w.get(PATH).read() == body


def test_a_device_that_is_out_is_stood_in_for(cluster: Cluster) -> None:
    cluster.w.put(PATH, os.urandom(50_000))
    homes = cluster.home(PATH, 1)
    cluster.take_away(homes[2])
    passes(cluster)
    assert any(cluster.files(spare, 1) for spare in set(cluster.names) - set(homes))


def test_a_fragment_that_was_not_told_of_the_commit_is(cluster: Cluster) -> None:
    cluster.w.put(PATH, os.urandom(50_000))
    before = cluster.every(1)
    device = cluster.home(PATH, 1)[0]
    data = next(cluster.folder_of(device, PATH, 1).iterdir())
    data.rename(data.with_name(data.name.replace("#d", "")))
    os.utime(data.parent.parent)
    os.utime(data.parent.parent.parent)
    passes(cluster)
    assert cluster.every(1) == before


def test_deletions_and_metadata_reach_every_fragment(cluster: Cluster) -> None:
    cluster.w.put(PATH, os.urandom(50_000), x_object_meta_color="red")
    cluster.w.put("/v1/a/e/p", b"p")
    away = cluster.home(PATH, 1)[0]
    aside = cluster.take_away(away)
    assert aside.exists()
    assert cluster.w.post(PATH, x_object_meta_color="blue").status == 202
    assert cluster.w.delete("/v1/a/e/p").status == 204
    cluster.bring_back(away)
    passes(cluster)
    for home in cluster.care.homes("a", "e", "o", 1):
        held = home.node.read(home.spot)
        assert held.metadata["x-object-meta-color"] == "blue"
        held.close()
    assert cluster.w.get("/v1/a/e/p").status == 404
    assert not any(".data" in name for name in cluster.every(1)[away] if "p" in name)
