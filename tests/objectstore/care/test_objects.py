"""The replicator: copies that are missing, old, in the wrong place, or of what was deleted."""

from __future__ import annotations

import random
import shutil
import time
import zlib
from pathlib import Path

import pytest

from altostack.objectstore import compose
from altostack.objectstore.care.audit import Auditor
from altostack.objectstore.care.daemon import Care
from altostack.objectstore.care.objects import replicate
from altostack.objectstore.ring.builder import Builder
from tests.objectstore.care.cluster import Cluster
from tests.objectstore.world import run_together


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    made = Cluster(tmp_path)
    assert made.w.put("/v1/a/c").status == 201
    return made


def test_an_emptied_device_is_filled_again(cluster: Cluster) -> None:
    for number in range(30):
        body = b"%d" % number * (1 + number * 3000)
        assert cluster.w.put(f"/v1/a/c/o{number}", body, x_object_meta_n=str(number)).status == 201
    before = cluster.every()
    cluster.empty("d2")
    assert cluster.every() != before
    cluster.replicate()
    assert cluster.every() == before
    assert cluster.w.get("/v1/a/c/o7").read() == b"7" * 21001


def test_a_pass_with_nothing_to_do_does_nothing(cluster: Cluster) -> None:
    cluster.w.put("/v1/a/c/o", b"x")
    cluster.replicate()
    did = replicate(cluster.care, cluster.home("/v1/a/c/o")[0]).did
    assert did == {"partitions": 1}


def test_metadata_and_content_types_are_pushed(cluster: Cluster) -> None:
    cluster.w.put("/v1/a/c/o", b"x", x_object_meta_color="red", content_type="text/plain")
    away = cluster.home("/v1/a/c/o")[1]
    cluster.take_away(away)
    assert cluster.w.post("/v1/a/c/o", x_object_meta_color="blue", content_type="text/html").status == 202
    cluster.bring_back(away)
    cluster.replicate()
    files = [[name for name in found if ".meta" in name] for found in cluster.every().values()]
    assert len([one for one in files if one]) == 3
    for home in cluster.care.homes("a", "c", "o"):
        held = home.node.read(home.spot)
        assert (held.metadata["x-object-meta-color"], held.metadata["content-type"]) == ("blue", "text/html")
        held.close()


def test_what_a_handoff_took_goes_to_its_device(cluster: Cluster) -> None:
    away = cluster.home("/v1/a/c/o")[0]
    cluster.take_away(away)
    assert cluster.w.put("/v1/a/c/o", b"content").status == 201
    spare = (set(cluster.names) - set(cluster.home("/v1/a/c/o"))).pop()
    assert cluster.files(spare)
    cluster.replicate()
    assert cluster.files(spare), "it was given up while a device was away"
    cluster.bring_back(away)
    cluster.replicate()
    assert cluster.holds(away, "/v1/a/c/o")
    assert not cluster.files(spare)
    assert not list((cluster.path(spare) / "objects").iterdir())


def test_a_device_that_is_out_is_stood_in_for(cluster: Cluster) -> None:
    cluster.w.put("/v1/a/c/o", b"content")
    homes = cluster.home("/v1/a/c/o")
    spare = (set(cluster.names) - set(homes)).pop()
    cluster.take_away(homes[0])
    cluster.replicate()
    assert cluster.files(spare)


def test_what_was_deleted_stays_deleted_when_an_old_copy_comes_back(cluster: Cluster) -> None:
    cluster.w.put("/v1/a/c/o", b"old")
    away = cluster.home("/v1/a/c/o")[2]
    cluster.take_away(away)
    assert cluster.w.delete("/v1/a/c/o").status == 204
    cluster.bring_back(away)
    assert cluster.holds(away, "/v1/a/c/o")
    cluster.replicate()
    assert cluster.w.get("/v1/a/c/o").status == 404
    for device in cluster.home("/v1/a/c/o"):
        assert [name[-3:] for name in cluster.files(device)] == [".ts"]


def test_a_newer_version_wins_wherever_it_lies(cluster: Cluster) -> None:
    cluster.w.put("/v1/a/c/o", b"old")
    away = cluster.home("/v1/a/c/o")[0]
    cluster.take_away(away)
    cluster.w.put("/v1/a/c/o", b"new")
    cluster.bring_back(away)
    cluster.replicate()
    for home in cluster.care.homes("a", "c", "o"):
        assert b"".join(home.node.read(home.spot).content()) == b"new"
    assert sum(len(found) for found in cluster.every().values()) == 3


def test_damage_is_not_passed_on(cluster: Cluster) -> None:
    cluster.w.put("/v1/a/c/o", bytes(100_000))
    homes = cluster.home("/v1/a/c/o")
    data = next(cluster.folder_of(homes[0], "/v1/a/c/o").iterdir())
    with data.open("r+b") as file:
        file.seek(500)
        file.write(b"\1")
    cluster.empty(homes[1])
    cluster.empty(homes[2])
    did = replicate(cluster.care, homes[0]).did
    assert did["damaged"] == 1
    assert not cluster.files(homes[1])
    assert list((cluster.path(homes[0]) / "quarantined").rglob("*.data"))


def test_sums_that_are_damaged_are_made_anew(cluster: Cluster) -> None:
    for number in range(20):
        cluster.w.put(f"/v1/a/c/o{number}", b"x")
    cluster.replicate()
    chance = random.Random(5)
    kept = [path for name in cluster.names for path in cluster.path(name).glob("hashes/*") if path.is_file()]
    assert kept
    before = {path: path.read_bytes() for path in kept}
    for path, content in before.items():
        at = chance.randrange(len(content))
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x80]) + content[at + 1 :])
    cluster.care = Care(store=cluster.w.store, settings=cluster.care.settings)  # it remembers nothing
    lost = cluster.folder_of(cluster.home("/v1/a/c/o3")[0], "/v1/a/c/o3")
    shutil.rmtree(lost)
    cluster.replicate()
    assert lost.exists()
    cluster.replicate()
    assert {path: path.read_bytes() for path in kept}.keys() == before.keys()
    for path in kept:
        assert zlib.crc32(path.read_bytes()[4:]).to_bytes(4) == path.read_bytes()[:4]


def test_what_a_rebalance_moved_follows(cluster: Cluster) -> None:
    bodies = {f"/v1/a/c/o{n}": b"%d" % n * 100 for n in range(40)}
    for path, body in bodies.items():
        cluster.w.put(path, body)
    path = compose.rings_folder(cluster.folder) / "object.builder"
    builder = Builder.load(path)
    builder.add(region=1, zone=1, host="127.0.0.1", port=6200, device="d5", weight=300.0)
    cluster.path("d5").mkdir()
    for seed in range(4):  # a rebalance moves one copy of a partition
        builder.rebalance(seed=seed)
        builder.save()
        cluster.renew_rings()
        for one, body in bodies.items():
            assert cluster.w.get(one).read() == body
        cluster.replicate(3)
    assert len(cluster.files("d5")) > 20
    for one in bodies:
        holders = [
            name for name, files in cluster.every().items() if any(cluster.digest(one) in f for f in files)
        ]
        assert sorted(holders) == sorted(cluster.home(one))


def test_deletions_that_were_forgotten_are_not_told_again(tmp_path: Path) -> None:
    now = [time.time_ns()]
    cluster = Cluster(tmp_path, nanoseconds=lambda: now[0])
    cluster.w.put("/v1/a/c")
    cluster.w.put("/v1/a/c/o", b"x")
    cluster.w.delete("/v1/a/c/o")
    now[0] += int((cluster.w.store.settings.reclaim_age + 10) * 1e9)
    first = cluster.home("/v1/a/c/o")[0]
    assert Auditor(cluster.care, first, "quick").run().did["reclaimed"] == 1
    assert "pushed" not in cluster.replicate()
    assert not cluster.files(first)


def test_passes_at_the_same_time_do_no_harm(cluster: Cluster) -> None:
    bodies = {f"/v1/a/c/o{n}": b"%d" % n * 50_000 for n in range(12)}
    for path, body in bodies.items():
        cluster.w.put(path, body)
    before = cluster.every()
    cluster.empty("d3")

    def work(number: int) -> None:
        for name in sorted(cluster.names, key=lambda name: hash((number, name))):
            replicate(Care(store=cluster.w.store), name)

    run_together(4, work)
    assert cluster.every() == before
    for path, body in bodies.items():
        assert cluster.w.get(path).read() == body
